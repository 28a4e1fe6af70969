//! Who has passed a message on (`Via`), and by how many it may still be passed on (`Max-Forwards`): RFC 9110, sections 7.6.2
//! and 7.6.3. The first is for the operator to ask for, as it tells strangers what stands here; the second is the client's.

use http::{HeaderMap, HeaderValue, Method, Version, header};
use pingora_http::RequestHeader;

use crate::error::Reason;

/// What stands in `Via` for a gateway that has received a message so.
pub(crate) fn via(received: Version) -> HeaderValue {
    HeaderValue::from_static(match received {
        Version::HTTP_2 => "2 tidegate",
        Version::HTTP_10 => "1.0 tidegate",
        _ => "1.1 tidegate",
    })
}

/// Whether the request may go no further: whoever has it answers it.
pub(crate) fn ends_here(request: &RequestHeader) -> bool {
    max_forwards(&request.method, &request.headers) == Some(0)
}

/// One has passed it on.
///
/// # Errors
///
/// The request has too many header fields.
pub(crate) fn count(request: &mut RequestHeader) -> Result<(), Reason> {
    let Some(left) = max_forwards(&request.method, &request.headers) else { return Ok(()) };
    let left = left.saturating_sub(1);
    request.insert_header(header::MAX_FORWARDS, left).map_err(|_| Reason::HeaderTooLarge)
}

/// Of other methods it says nothing. Nor does it where it is no number: whom it is for may know.
fn max_forwards(method: &Method, headers: &HeaderMap) -> Option<u32> {
    let field = || headers.get(header::MAX_FORWARDS);
    let digits = matches!(*method, Method::TRACE | Method::OPTIONS).then(field).flatten()?;
    let digits = digits.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    // One that is larger than can be counted is as good as the largest.
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_counted_down_for_the_two_methods_that_have_them() {
        for (method, told, ends, left) in [
            ("TRACE", "0", true, "0"),
            ("OPTIONS", "0", true, "0"),
            ("OPTIONS", "10", false, "9"),
            ("OPTIONS", "99999999999", false, "4294967294"),
            ("OPTIONS", "+1", false, "+1"),
            ("OPTIONS", "", false, ""),
            ("GET", "0", false, "0"),
        ] {
            let mut request = RequestHeader::build(method, b"/", None).unwrap();
            request.insert_header("max-forwards", told).unwrap();
            assert_eq!(ends_here(&request), ends, "{method} {told}");
            count(&mut request).unwrap();
            assert_eq!(request.headers["max-forwards"], left, "{method} {told}");
        }
        let mut without = RequestHeader::build("OPTIONS", b"/", None).unwrap();
        count(&mut without).unwrap();
        assert!(without.headers.is_empty() && !ends_here(&without));
    }
}
