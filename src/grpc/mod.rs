//! What gRPC makes of HTTP (gRPC over HTTP/2, and gRPC-Web): how a call is recognised, how long its client waits, the
//! sizes of its messages, and the status that ends it. Pure: it reads and writes fields and bytes.

mod messages;
mod status;
mod timeout;
pub mod web;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};

pub use messages::Messages;
pub use status::{code, is_fault, message, name, of_http, of_reset};
pub use timeout::{TIMEOUT, format as format_timeout, parse as parse_timeout};

pub static STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The only code with a rule of its own here: whose deadline it was decides whose fault it is.
pub const DEADLINE_EXCEEDED: u8 = 4;
/// An answer without a status, or with one that is no number.
pub const UNKNOWN: u8 = 2;

/// What is known of one call.
#[derive(Debug)]
pub struct Call {
    pub dialect: Dialect,
    /// It goes to where the operator says that gRPC is spoken, so that it may be a stream without end. Fields alone, which
    /// any client can write, lift no limits.
    pub is_streamed: bool,
    /// How long the client waits for the whole of it.
    pub timeout: Option<Duration>,
    /// The code it ended with, as far as it is known.
    pub status: Option<u8>,
    /// The code that a failure here is to be told with, where that is known better than by the reason.
    pub failure: Option<u8>,
    messages: Messages,
}

/// How the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Http2,
    /// gRPC-Web: trailers are the last frame of the body.
    Web,
    /// The same in Base64.
    WebText,
}

impl Call {
    /// The call that a request is, if it is one. Over HTTP/1 there is none: its trailers, which say how a call ended,
    /// would not reach the client.
    pub fn of(version: Version, method: &Method, headers: &HeaderMap) -> Option<Call> {
        let is_call = version == Version::HTTP_2 && *method == Method::POST && is_grpc(headers);
        is_call.then(|| Call::new(Dialect::Http2, headers))
    }

    pub fn new(dialect: Dialect, headers: &HeaderMap) -> Call {
        Call {
            dialect,
            is_streamed: false,
            timeout: headers.get(&TIMEOUT).and_then(|value| parse_timeout(value.as_bytes())),
            status: None,
            failure: None,
            messages: Messages::default(),
        }
    }

    /// As far as is known, it ended with a code that a healthy server does not say.
    pub fn has_failed(&self) -> bool {
        self.status.is_some_and(is_fault)
    }

    /// Bytes of the longest message that begins in this part of the request's body.
    pub fn longest_message(&mut self, part: &[u8]) -> u64 {
        self.messages.longest(part)
    }
}

/// Whether these fields announce gRPC as it is over HTTP/2.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| suffix_after(value, "application/grpc").is_some())
}

/// What follows the media type `start`, where a subtype, a parameter or nothing does.
fn suffix_after<'v>(value: &'v HeaderValue, start: &str) -> Option<&'v [u8]> {
    let (front, rest) = value.as_bytes().split_at_checked(start.len())?;
    let is_whole = matches!(rest.first(), None | Some(b'+' | b';' | b' '));
    (front.eq_ignore_ascii_case(start.as_bytes()) && is_whole).then_some(rest)
}

/// gRPC asks for `te: trailers`: without it nobody has said that trailers will reach the client.
pub fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"))
}

/// The status that these fields tell, of a header or of trailers.
pub fn status_in(fields: &HeaderMap) -> Option<u8> {
    fields.get(&STATUS)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn a_call_is_a_post_over_http2_with_the_media_type() {
        for (content_type, is_call) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web-text+proto", false),
            ("application/grp", false),
            ("application/json", false),
        ] {
            let fields = headers(&[("content-type", content_type)]);
            let found = Call::of(Version::HTTP_2, &Method::POST, &fields).is_some();
            assert_eq!(found, is_call, "{content_type}");
            assert!(Call::of(Version::HTTP_11, &Method::POST, &fields).is_none());
            assert!(Call::of(Version::HTTP_2, &Method::GET, &fields).is_none());
        }
        assert!(Call::of(Version::HTTP_2, &Method::POST, &HeaderMap::new()).is_none());
    }

    #[test]
    fn a_call_knows_how_long_its_client_waits() {
        let of = |fields: &[_]| Call::new(Dialect::Http2, &headers(fields)).timeout;
        assert_eq!(of(&[("grpc-timeout", "250m")]), Some(Duration::from_millis(250)));
        assert_eq!(of(&[("grpc-timeout", "soon")]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn trailers_are_accepted_by_name_only() {
        assert!(accepts_trailers(&headers(&[("te", "trailers")])));
        assert!(!accepts_trailers(&headers(&[("te", "gzip")])));
        assert!(!accepts_trailers(&headers(&[])));
    }

    #[test]
    fn a_status_is_a_small_number() {
        for (text, status) in [("0", Some(0)), ("16", Some(16)), ("300", None), ("ok", None)] {
            assert_eq!(status_in(&headers(&[("grpc-status", text)])), status);
        }
    }
}
