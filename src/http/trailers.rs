//! Fields behind a chunked body (RFC 9112, section 7.1.2), gathered as they come.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{is_in_disguise, speaker};

/// What would be taken for a part of the head: how the message is framed, whom it is for, who asks and on which conditions, how its
/// content is coded, and what is to be done with an answer (RFC 9110, section 6.5.1).
const FORBIDDEN: [HeaderName; 22] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::FORWARDED,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    header::MAX_FORWARDS,
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::WWW_AUTHENTICATE,
];

/// The same, but for calls of gRPC, whose trailers carry what applications call so.
const FORBIDDEN_IN_HTTP: [HeaderName; 13] = [
    header::AGE,
    header::DATE,
    header::EXPIRES,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::LOCATION,
    header::PRAGMA,
    header::RANGE,
    header::RETRY_AFTER,
    header::VARY,
];

/// As many as are read of one message.
const MOST: usize = 128;

#[derive(Debug, Default)]
pub(crate) struct Trailers(BytesMut);

impl Trailers {
    /// The next bytes of the section, its last line end included. How many there may be is for the decoder of the chunks to
    /// say.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        // Mostly there are none, and nothing need be kept.
        if self.0.is_empty() && bytes == b"\r\n" {
            return;
        }
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields, once all are there. What is no field, or may not stand here, is left out.
    pub(crate) fn take(&mut self) -> Option<HeaderMap> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let mut fields = [httparse::EMPTY_HEADER; MOST];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&bytes, &mut fields) else {
            return None;
        };
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value))
            {
                trailers.append(name, value);
            }
        }
        clean(&mut trailers);
        (!trailers.is_empty()).then_some(trailers)
    }
}

/// Take off what may not stand behind a body.
pub(crate) fn clean(trailers: &mut HeaderMap) {
    let in_http = if trailers.contains_key("grpc-status") { &[][..] } else { &FORBIDDEN_IN_HTTP };
    for name in FORBIDDEN.iter().chain(in_http) {
        trailers.remove(name);
    }
    // Who the client is, nobody learns behind its request; nor what the gateway says, behind an upstream's answer.
    let is_told = |name: &&HeaderName| speaker(name.as_str()).is_some() || is_in_disguise(name.as_str());
    let told: Vec<HeaderName> = trailers.keys().filter(is_told).cloned().collect();
    for name in told {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(section: &str, piece: usize) -> Vec<String> {
        let mut trailers = Trailers::default();
        section.as_bytes().chunks(piece).for_each(|part| trailers.add(part));
        let fields = trailers.take().unwrap_or_default();
        fields.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn fields_are_read_however_they_arrive() {
        for piece in [1, 3, 100] {
            assert_eq!(read("X-Sum: 1\r\nx-other:2\r\n\r\n", piece), ["x-sum=1", "x-other=2"]);
        }
        assert!(read("\r\n", 2).is_empty());
    }

    #[test]
    fn what_would_change_the_head_is_left_out() {
        let section = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\
                       Authorization: x\r\nX_Real_Ip: 1.2.3.4\r\nx-tidegate-reason: panic\r\nx-sum: 1\r\n\r\n";
        assert_eq!(read(section, 100), ["x-sum=1"]);
    }

    #[test]
    fn conditions_and_what_is_to_be_done_with_an_answer_are_left_out() {
        let forbidden = [
            "If-Match",
            "If-None-Match",
            "If-Modified-Since",
            "If-Unmodified-Since",
            "If-Range",
            "Range",
            "Age",
            "Expires",
            "Date",
            "Location",
            "Retry-After",
            "Vary",
            "Pragma",
            "Cache-Control",
        ];
        let section: String = forbidden.iter().map(|name| format!("{name}: x\r\n")).collect();
        assert_eq!(
            read(&format!("{section}etag: \"a\"\r\nx-sum: 1\r\n\r\n"), 100),
            ["x-sum=1", "etag=\"a\""]
        );
        // Metadata of an application.
        let of_a_call = read("grpc-status: 0\r\nlocation: here\r\ncontent-length: 5\r\n\r\n", 100);
        assert_eq!(of_a_call, ["grpc-status=0", "location=here"]);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut trailers = Trailers::default();
            trailers.add(&bytes);
            let fields = trailers.take().unwrap_or_default();
            proptest::prop_assert!(FORBIDDEN.iter().all(|name| !fields.contains_key(name)));
        }
    }
}
