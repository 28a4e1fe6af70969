//! `Vary` (RFC 9110, section 12.5.5): what a response depends on, so that caches do not give it to others.

use http::{HeaderValue, header::VARY};
use pingora_http::ResponseHeader;

use crate::filter::Reason;

/// Adds `name`, in lower case, unless it stands there already, or `*` does.
pub(crate) fn add(response: &mut ResponseHeader, name: &'static str) -> Result<(), Reason> {
    let listed = response.headers.get_all(VARY).iter().any(|field| {
        let mut names = field.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|listed| listed == b"*" || listed.eq_ignore_ascii_case(name.as_bytes()))
    });
    if listed {
        return Ok(());
    }
    response.append_header(VARY, HeaderValue::from_static(name)).map_err(|_| Reason::Internal)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_a_name_once() {
        for (before, after) in [
            (&[][..], &["origin"][..]),
            (&["accept"], &["accept", "origin"]),
            (&["accept, Origin"], &["accept, Origin"]),
            (&["*"], &["*"]),
            (&["x-origin"], &["x-origin", "origin"]),
        ] {
            let mut response = ResponseHeader::build(200, None).unwrap();
            for value in before {
                response.append_header(VARY, *value).unwrap();
            }
            add(&mut response, "origin").unwrap();
            let found: Vec<_> = response.headers.get_all(VARY).iter().collect();
            assert_eq!(found, after);
        }
    }
}
