//! `baggage`: W3C Baggage. It goes on as it came; here it is only held to its limits, and looked into.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

pub(crate) const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

const MOST_MEMBERS: usize = 64;
const MOST_BYTES: usize = 8192;

/// Takes the baggage off where it is larger than W3C's limits (section 3.3.2): parts of it would say something else.
pub(crate) fn check(headers: &mut HeaderMap) {
    let (mut bytes, mut members) = (0, 0);
    for field in headers.get_all(BAGGAGE) {
        // With a comma between each two fields.
        bytes += field.len() + usize::from(members > 0);
        members += field.as_bytes().split(|byte| *byte == b',').count();
    }
    if bytes > MOST_BYTES || members > MOST_MEMBERS {
        headers.remove(BAGGAGE);
    }
}

/// The value of a member, decoded.
pub(crate) fn find<'a>(headers: &'a HeaderMap, key: &str) -> Option<Cow<'a, str>> {
    let fields = headers.get_all(BAGGAGE).iter().filter_map(|field| field.to_str().ok());
    fields.flat_map(|field| field.split(',')).find_map(|member| {
        // What follows a semicolon are the member's properties.
        let (name, value) = member.split(';').next()?.split_once('=')?;
        (name.trim() == key).then(|| percent_decode_str(value.trim()).decode_utf8_lossy())
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[&str]) -> HeaderMap {
        fields.iter().map(|field| (BAGGAGE, HeaderValue::from_str(field).unwrap())).collect()
    }

    #[test]
    fn baggage_beyond_its_limits_is_taken_off_whole() {
        let members = |count: usize| vec!["k=v"; count].join(",");
        let bytes = |length: usize| format!("k={}", "v".repeat(length - 2));
        for (fields, stays) in [
            (vec![members(64)], true),
            (vec![members(65)], false),
            (vec![bytes(8192)], true),
            (vec![bytes(8193)], false),
            (vec![bytes(4096), bytes(4095)], true),
            (vec![bytes(4096), bytes(4096)], false),
        ] {
            let mut headers = HeaderMap::new();
            for field in &fields {
                headers.append(BAGGAGE, HeaderValue::from_str(field).unwrap());
            }
            check(&mut headers);
            assert_eq!(headers.contains_key(BAGGAGE), stays, "{} of {}", fields.len(), fields[0].len());
        }
    }

    #[test]
    fn members_are_found_by_name_and_decoded() {
        let headers = headers(&["tenant.id = a%20b ; secret=1, plan=pro"]);
        assert_eq!(find(&headers, "tenant.id").as_deref(), Some("a b"));
        assert_eq!(find(&headers, "plan").as_deref(), Some("pro"));
        assert_eq!(find(&headers, "secret"), None);
    }
}
