//! `compression`: encode responses for the clients that ask for it. Here it is decided, and the header is brought in
//! line; the body passes the encoder part by part.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora_http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{ByteSize, Path},
    filter::{
        BodyFlow, Encoder, Exchange, Filter, Invalid, Live, Options, Phases, Reason,
        shared::{
            accept_encoding::choose,
            encoder::Algorithm,
            encoders::{Encoders, Place},
            vary,
        },
    },
};

/// Encodes responses with what `Accept-Encoding` asks for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Compression {
    /// What is offered; of those a client likes equally, the first is taken.
    algorithms: Vec<Algorithm>,
    /// `type/subtype`, or `type/*`. `text/event-stream` must be named itself.
    types: Vec<String>,
    /// Responses that say they are smaller are left as they are.
    min_size: ByteSize,
    /// 1 (fast) to 9 (small), on each algorithm's own scale. Default: 3 for zstd, 5 for gzip. For Brotli all above 1 are one.
    level: Option<u8>,
}

impl Default for Compression {
    fn default() -> Self {
        Compression {
            algorithms: vec![Algorithm::Br, Algorithm::Zstd, Algorithm::Gzip],
            types: TYPES.map(str::to_owned).to_vec(),
            min_size: ByteSize::kib(1),
            level: None,
        }
    }
}

const TYPES: [&str; 12] = [
    "text/*",
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/problem+json",
    "application/wasm",
    "application/xhtml+xml",
    "application/xml",
    "application/atom+xml",
    "application/rss+xml",
    "image/svg+xml",
];

/// gRPC compresses its messages by itself.
const GRPC: &str = "application/grpc";

impl Options for Compression {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Vec::new();
        if self.algorithms.is_empty() {
            invalid
                .push(Invalid::new(at.key("algorithms"), "nothing to compress with (try [br, zstd, gzip])"));
        }
        if self.types.is_empty() {
            invalid.push(Invalid::new(at.key("types"), "no types, so nothing would be compressed"));
        }
        if self.level.is_some_and(|level| !(1..=9).contains(&level)) {
            invalid.push(Invalid::new(at.key("level"), "a level is from 1 (fast) to 9 (small)"));
        }
        let mut types = Types::default();
        for (index, text) in self.types.iter().enumerate() {
            if !types.add(text) {
                let why = format!(
                    "{text:?} is not a media type to compress (try \"application/json\" or \"text/*\")"
                );
                invalid.push(Invalid::new(at.key("types").index(index), why));
            }
        }
        if !invalid.is_empty() {
            return Err(invalid);
        }
        let (algorithms, min_size, level) = (self.algorithms, self.min_size.bytes(), self.level);
        Ok(Arc::new(Compress { algorithms, types, min_size, level, encoders: live.encoders().clone() }))
    }
}

/// In lower case.
#[derive(Default)]
struct Types {
    exact: Vec<String>,
    /// `text/` for `text/*`.
    families: Vec<String>,
}

impl Types {
    fn add(&mut self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        if text.starts_with(GRPC) {
            return false;
        }
        let is_token = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
        };
        match text.split_once('/') {
            Some((family, "*")) if is_token(family) => self.families.push(format!("{family}/")),
            Some((family, subtype)) if is_token(family) && is_token(subtype) => self.exact.push(text),
            _ => return false,
        }
        true
    }

    /// Parameters such as `charset` do not count.
    fn contain(&self, content_type: &HeaderValue) -> bool {
        let Ok(text) = content_type.to_str() else { return false };
        let essence = text.split(';').next().unwrap_or_default().trim();
        if essence.get(..GRPC.len()).is_some_and(|front| front.eq_ignore_ascii_case(GRPC)) {
            return false;
        }
        if self.exact.iter().any(|exact| exact.eq_ignore_ascii_case(essence)) {
            return true;
        }
        let in_family = |family: &String| {
            essence.get(..family.len()).is_some_and(|front| front.eq_ignore_ascii_case(family))
        };
        !essence.eq_ignore_ascii_case("text/event-stream") && self.families.iter().any(in_family)
    }
}

struct Compress {
    algorithms: Vec<Algorithm>,
    types: Types,
    min_size: u64,
    level: Option<u8>,
    encoders: Arc<Encoders>,
}

/// A body that is being encoded.
struct Encoding {
    encoder: Encoder,
    _place: Place,
}

/// Fields that say something about the very bytes, which would no longer be true (RFC 9530, RFC 9110 section 14.4).
const ABOUT_THE_BYTES: [HeaderName; 5] = [
    header::CONTENT_RANGE,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

impl Compress {
    /// Whether the response would be compressed for a client that asks for it.
    fn is_worth_it(&self, response: &ResponseHeader) -> bool {
        let headers = &response.headers;
        let status = response.status;
        let has_body = !status.is_informational()
            && !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT);
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        has_body
            && !matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED)
            && headers.get(header::CONTENT_TYPE).is_some_and(|found| self.types.contain(found))
            && length.is_none_or(|length: u64| length > 0 && length >= self.min_size)
            && may_be_changed(headers)
    }
}

fn may_be_changed(headers: &HeaderMap) -> bool {
    let directives = headers.get_all(header::CACHE_CONTROL).iter();
    let mut directives = directives.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    !headers.contains_key(header::CONTENT_ENCODING)
        && !ABOUT_THE_BYTES.iter().any(|name| headers.contains_key(name))
        && !directives.any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

impl Filter for Compress {
    fn phases(&self) -> Phases {
        Phases::RESPONSE | Phases::RESPONSE_BODY
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        // One that was meant for a response that is not sent after all.
        exchange.forget::<Encoding>(self);
        // A call of gRPC compresses its messages itself, and its trailers say how it ended.
        if exchange.facts.grpc.is_some() {
            return Ok(());
        }
        let request = &*exchange.request;
        let Some(response) = exchange.response.as_deref_mut() else { return Ok(()) };
        // HTTP/1.0 has no way to send a body of unknown length but to close the connection.
        let speaks_chunked = !matches!(request.version, Version::HTTP_09 | Version::HTTP_10);
        let choice = choose(&request.headers, &self.algorithms).filter(|_| speaks_chunked);
        if response.status == StatusCode::NOT_MODIFIED {
            return not_modified(response, choice);
        }
        if !self.is_worth_it(response) {
            return Ok(());
        }
        vary::add(response, "accept-encoding")?;
        let Some(algorithm) = choice else { return Ok(()) };
        // The header of a HEAD is that of the GET, and there is no body to encode.
        if request.method == Method::HEAD {
            return announce(response, algorithm);
        }
        // As it is, the response is as good, and larger.
        let Some(place) = self.encoders.enter() else { return Ok(()) };
        announce(response, algorithm)?;
        let encoder = Encoder::new(algorithm, self.level).map_err(|_| Reason::Internal)?;
        exchange.keep(self, Encoding { encoder, _place: place });
        Ok(())
    }

    fn on_response_body(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        if let Some(encoding) = exchange.state::<Encoding>(self) {
            *data = encoding.encoder.encode(data, is_last).map_err(|_| Reason::Internal)?;
        }
        Ok(BodyFlow::Pass)
    }
}

fn announce(response: &mut ResponseHeader, algorithm: Algorithm) -> Result<(), Reason> {
    weaken_etag(response)?;
    response.remove_header(&header::CONTENT_LENGTH);
    // A range of what is made anew for each request means nothing.
    response.remove_header(&header::ACCEPT_RANGES);
    response.insert_header(header::CONTENT_ENCODING, algorithm.coding()).map_err(|_| Reason::Internal)
}

/// What would be said with the whole response (RFC 9110, section 15.4.5), as far as that can be known: the client
/// compares the entity tag with the one it got before.
fn not_modified(response: &mut ResponseHeader, choice: Option<Algorithm>) -> Result<(), Reason> {
    if choice.is_some() && may_be_changed(&response.headers) {
        weaken_etag(response)?;
    }
    vary::add(response, "accept-encoding")
}

/// A strong validator stands for one sequence of bytes (RFC 9110, section 8.8.1).
fn weaken_etag(response: &mut ResponseHeader) -> Result<(), Reason> {
    let Some(etag) = response.headers.get(header::ETAG).filter(|etag| etag.as_bytes().starts_with(b"\""))
    else {
        return Ok(());
    };
    let weak = [b"W/", etag.as_bytes()].concat();
    let weak = HeaderValue::from_bytes(&weak).map_err(|_| Reason::Internal)?;
    response.insert_header(header::ETAG, weak).map_err(|_| Reason::Internal)
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;
    use serde_json::{Value, json};

    use super::*;
    use crate::filter::Facts;

    fn build(options: Value) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        serde_json::from_value::<Compression>(options).unwrap().build(&Path::root(), &Live::offline())
    }

    struct Seen {
        response: ResponseHeader,
        encodes: bool,
    }

    impl Seen {
        fn field(&self, name: &str) -> Option<&str> {
            self.response.headers.get(name).map(|value| value.to_str().unwrap())
        }
    }

    fn run(request: RequestHeader, status: u16, fields: &[(&'static str, &str)]) -> Seen {
        let filter = build(json!({})).map_err(|invalid| panic!("{invalid:?}")).unwrap();
        let mut request = request;
        let mut response = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            response.append_header(*name, *value).unwrap();
        }
        let mut facts = Facts::default();
        let mut exchange =
            Exchange { request: &mut request, response: Some(&mut response), facts: &mut facts };
        filter.on_response(&mut exchange).unwrap();
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        let mut data = Bytes::from_static(b"text");
        filter.on_response_body(&mut exchange, &mut data, true).unwrap();
        Seen { encodes: data != "text", response }
    }

    fn asking(method: &str, accept: &str) -> RequestHeader {
        let mut request = RequestHeader::build(method, b"/", None).unwrap();
        request.insert_header("accept-encoding", accept).unwrap();
        request
    }

    const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

    #[test]
    fn the_header_tells_what_became_of_the_body() {
        let fields = [
            JSON,
            ("content-length", "5000"),
            ("etag", "\"a\""),
            ("accept-ranges", "bytes"),
            ("vary", "origin"),
        ];
        for method in ["GET", "HEAD"] {
            let seen = run(asking(method, "gzip"), 200, &fields);
            assert_eq!(seen.field("content-encoding"), Some("gzip"));
            assert_eq!(seen.field("etag"), Some("W/\"a\""));
            assert_eq!(seen.field("content-length"), None);
            assert_eq!(seen.field("accept-ranges"), None);
            assert_eq!(seen.response.headers.get_all("vary").iter().count(), 2);
            assert_eq!(seen.encodes, method == "GET");
        }
    }

    #[test]
    fn what_is_not_worth_it_or_must_not_change_is_left_alone() {
        for (status, fields) in [
            (200, &[("content-type", "image/png")][..]),
            (200, &[][..]),
            (200, &[("content-type", "text/event-stream")]),
            (200, &[JSON, ("content-length", "1023")]),
            (200, &[JSON, ("content-length", "0")]),
            (200, &[JSON, ("content-encoding", "br")]),
            (200, &[JSON, ("content-encoding", "identity")]),
            (200, &[JSON, ("cache-control", "private, No-Transform")]),
            (200, &[JSON, ("content-range", "bytes 0-9/10")]),
            (200, &[JSON, ("repr-digest", "sha-256=:a:")]),
            (204, &[JSON]),
            (205, &[JSON]),
            (206, &[JSON]),
            (101, &[JSON]),
        ] {
            let seen = run(asking("GET", "gzip"), status, fields);
            assert!(!seen.encodes, "{status} {fields:?}");
            assert_eq!(seen.response.headers.len(), fields.len(), "{status} {fields:?}");
        }
    }

    #[test]
    fn whoever_does_not_ask_still_gets_vary() {
        let mut http10 = asking("GET", "gzip");
        http10.set_version(Version::HTTP_10);
        for request in [asking("GET", "deflate"), RequestHeader::build("GET", b"/", None).unwrap(), http10] {
            let seen = run(request, 200, &[JSON, ("etag", "\"a\"")]);
            assert_eq!((seen.encodes, seen.field("content-encoding")), (false, None));
            assert_eq!(seen.field("vary"), Some("accept-encoding"));
            assert_eq!(seen.field("etag"), Some("\"a\""));
        }
    }

    #[test]
    fn http2_has_no_chunks() {
        let mut request = asking("GET", "br");
        request.set_version(Version::HTTP_2);
        let seen = run(request, 200, &[JSON]);
        assert_eq!((seen.encodes, seen.field("transfer-encoding")), (true, None));
    }

    #[test]
    fn a_304_carries_the_tag_of_what_was_sent_before() {
        let seen = run(asking("GET", "gzip"), 304, &[("etag", "\"a\"")]);
        assert_eq!(seen.field("etag"), Some("W/\"a\""));
        assert_eq!(seen.field("vary"), Some("accept-encoding"));
        assert_eq!((seen.encodes, seen.field("content-encoding")), (false, None));
        assert_eq!(run(asking("GET", "identity"), 304, &[("etag", "\"a\"")]).field("etag"), Some("\"a\""));
    }

    #[test]
    fn types_match_without_regard_to_case_and_parameters() {
        let mut types = Types::default();
        for text in ["Text/*", "application/JSON"] {
            assert!(types.add(text));
        }
        for (found, expected) in [
            ("text/html", true),
            ("TEXT/Plain;charset=utf-8", true),
            ("application/json ; a=b", true),
            ("application/jsonp", false),
            ("textual/html", false),
            ("application/grpc+proto", false),
            ("text/event-stream", false),
            ("", false),
        ] {
            assert_eq!(types.contain(&HeaderValue::from_static(found)), expected, "{found}");
        }
        assert!(types.add("application/*"));
        assert!(!types.contain(&HeaderValue::from_static("Application/gRPC+proto")));
        assert!(types.add("text/event-stream"));
        assert!(types.contain(&HeaderValue::from_static("text/event-stream; charset=utf-8")));
    }

    #[test]
    fn refuses_options_that_make_no_sense() {
        for options in [
            json!({"algorithms": []}),
            json!({"types": []}),
            json!({"types": ["*/*"]}),
            json!({"types": ["json"]}),
            json!({"types": ["application/grpc"]}),
            json!({"level": 0}),
            json!({"level": 10}),
        ] {
            assert!(build(options.clone()).is_err(), "{options}");
        }
    }
}
