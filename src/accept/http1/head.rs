//! The strict reading of an HTTP/1 request header.
//!
//! What RFC 9112 forbids is refused and not mended: a bare LF, a missing or repeated Host, a doubtful Transfer-Encoding,
//! spaces in the target. Where two parsers could read one message differently a request can be smuggled. What it has every
//! server read in the same way is read so: a target's authority goes before the Host. Pure: bytes in, header or verdict out.
//! The header's values are slices of the bytes it came in.

use bytes::Bytes;
use http::{HeaderName, Method, Uri, Version, uri::PathAndQuery};
use memchr::memchr;
use pingora_http::{RequestHeader, header_value_from_raw};

use crate::{
    accept::{authority::is_authority, target},
    error::Reason,
    http::{Chunked, has_control, is_token},
};

/// More fields than this are refused.
const MAX_FIELDS: usize = 256;
/// Room for what most filters add.
const MOST_ADDED: usize = 4;

/// Where the body behind a header ends.
#[derive(Clone, Copy, Debug)]
pub(in crate::accept) enum Body {
    /// After exactly this many bytes.
    Length(u64),
    Chunked(Chunked),
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::accept) struct Refusal {
    pub reason: Reason,
    /// For the log; the client learns only the reason.
    pub detail: &'static str,
}

pub(in crate::accept) const fn bad(detail: &'static str) -> Refusal {
    Refusal { reason: Reason::BadRequest, detail }
}

/// The request line's parts, as far as they can be told, for the access log of a refused request.
pub(super) fn summary(bytes: &[u8]) -> (String, String) {
    let line = bytes.split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    let mut parts = line.splitn(3, |&b| b == b' ').map(|part| String::from_utf8_lossy(part).into_owned());
    let method = parts.next().unwrap_or_default();
    let target = parts.next().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    (method, path)
}

/// What a refused request says that it accepts, as far as that can be told.
pub(super) fn accept(bytes: &[u8]) -> Option<&[u8]> {
    let mut lines = bytes.split(|&byte| byte == b'\n').skip(1);
    lines.find_map(|line| {
        let (name, value) = line.split_at_checked(7)?;
        name.eq_ignore_ascii_case(b"accept:").then(|| value.trim_ascii())
    })
}

/// Read a header, and refuse what may be read in two ways. `head` ends with its empty line.
pub(super) fn parse(head: &Bytes) -> Result<(RequestHeader, Body), Refusal> {
    let mut lines = Lines { rest: head };
    let line = lines.next().ok_or(bad("empty request"))??;
    let (method, target, version) = request_line(line)?;
    let mut parts = http::Request::new(()).into_parts().0;
    parts.method = Method::from_bytes(method).map_err(|_| bad("method is not a token"))?;
    let uri = match target::encoded(target) {
        Some(made) => Uri::from_maybe_shared(Bytes::from(made)),
        None => Uri::from_maybe_shared(head.slice_ref(target)),
    };
    parts.uri = uri.map_err(|_| bad("request target is not a URI"))?;
    if method == b"OPTIONS" && authority(target).is_some_and(|(_, rest)| rest.is_empty()) {
        parts.uri = of_server(parts.uri);
    }
    parts.version = version;
    // Lines are about as long as fields mostly are.
    parts.headers.reserve(head.len() / 32 + MOST_ADDED);
    let mut seen = Fields::default();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = seen.field(line)?;
        let name = HeaderName::from_bytes(name).map_err(|_| bad("header name is not a token"))?;
        let value = header_value_from_raw(head.slice_ref(value));
        let too_many = Refusal { reason: Reason::HeaderTooLarge, detail: "too many header fields" };
        parts.headers.try_append(name, value).map_err(|_| too_many)?;
    }
    Ok((parts.into(), seen.verdict(version)?))
}

/// Method, target and version.
type RequestLine<'a> = (&'a [u8], &'a [u8], Version);

/// `method SP request-target SP HTTP-version`, one space each (RFC 9112, section 3).
fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Refusal> {
    let misshapen = bad("request line is not method, target and version");
    let space = memchr(b' ', line).ok_or(misshapen)?;
    let (method, rest) = (&line[..space], &line[space + 1..]);
    let space = memchr(b' ', rest).ok_or(misshapen)?;
    let (target, version) = (&rest[..space], &rest[space + 1..]);
    if version.contains(&b' ') {
        return Err(misshapen);
    }
    if !is_token(method) {
        return Err(bad("method is not a token"));
    }
    if target.is_empty() || target.iter().fold(false, |bad, &b| bad | (b <= b' ') | (b == 0x7f)) {
        return Err(bad("request target has a control character or is empty"));
    }
    // It would be dropped without a word.
    if target.contains(&b'#') {
        return Err(bad("request target has a fragment"));
    }
    // Origin, absolute or asterisk form; the authority form belongs to CONNECT, which is not proxied.
    match (method, target) {
        (b"CONNECT", _) => {
            return Err(Refusal { reason: Reason::MethodNotAllowed, detail: "CONNECT is not proxied" });
        }
        (b"OPTIONS", b"*") | (_, [b'/', ..]) => {}
        _ if authority(target).is_some_and(|(named, _)| !named.is_empty() && is_authority(named)) => {}
        _ => return Err(bad("request target is neither a path nor an absolute URL")),
    }
    match version {
        // A later one of the same major version is read as the latest that is known (RFC 9110, section 2.5).
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Ok((method, target, Version::HTTP_11)),
        b"HTTP/1.0" => Ok((method, target, Version::HTTP_10)),
        _ => Err(bad("unsupported HTTP version")),
    }
}

/// What stands between `http://` and the path, and all behind it.
fn authority(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })?;
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// `OPTIONS http://a` asks about the server as a whole, as `OPTIONS *` does (RFC 9112, section 3.2.4).
fn of_server(uri: Uri) -> Uri {
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    Uri::from_parts(parts).expect("it had a scheme and an authority")
}

#[derive(Default)]
struct Fields {
    count: usize,
    hosts: usize,
    transfer_encodings: usize,
    content_length: Option<u64>,
}

impl Fields {
    fn field<'a>(&mut self, line: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Refusal> {
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(Refusal { reason: Reason::HeaderTooLarge, detail: "too many header fields" });
        }
        let colon = memchr(b':', line).ok_or(bad("header line without a colon"))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // Also refuses a folded line, and whitespace before the colon (RFC 9112, section 5.1).
        if !is_token(name) {
            return Err(bad("header name is not a token"));
        }
        if has_control(&line[colon + 1..]) {
            return Err(bad("header value has a control character"));
        }
        self.remember(name, value)?;
        Ok((name, value))
    }

    fn remember(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if !is_authority(value) {
                    return Err(bad("host is not a host"));
                }
                self.hosts += 1;
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = content_length(value).ok_or(bad("content-length is not a number"))?;
                if self.content_length.is_some() {
                    return Err(bad("more than one content-length"));
                }
                self.content_length = Some(length);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.transfer_encodings += 1;
                if self.transfer_encodings > 1 {
                    return Err(bad("more than one transfer-encoding"));
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(bad("transfer-encoding is not chunked"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn verdict(self, version: Version) -> Result<Body, Refusal> {
        let chunked = self.transfer_encodings > 0;
        if self.hosts > 1 {
            return Err(bad("more than one host"));
        }
        if self.hosts == 0 && version == Version::HTTP_11 {
            return Err(bad("no host"));
        }
        if chunked && self.content_length.is_some() {
            return Err(bad("both content-length and transfer-encoding"));
        }
        if chunked && version == Version::HTTP_10 {
            return Err(bad("transfer-encoding in HTTP/1.0"));
        }
        Ok(match chunked {
            true => Body::Chunked(Chunked::default()),
            false => Body::Length(self.content_length.unwrap_or(0)),
        })
    }
}

/// Digits only: no sign, no list, no more than fits (RFC 9112, section 6.3).
pub(in crate::accept) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Lines without their CRLF; a bare LF is refused.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = memchr(b'\n', self.rest)?;
        let (line, rest) = (&self.rest[..end], &self.rest[end + 1..]);
        self.rest = rest;
        Some(line.strip_suffix(b"\r").ok_or(bad("line ends with a bare LF")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &[u8]) -> Result<Option<u64>, Refusal> {
        let (_, body) = parse(&Bytes::copy_from_slice(head))?;
        Ok(if let Body::Length(length) = body { Some(length) } else { None })
    }

    fn refused(head: &str) -> Option<Reason> {
        read(head.as_bytes()).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn what_was_read_is_what_stands_there() {
        let head = b"PUT /a?b HTTP/1.1\r\nHost: a\r\nX-Two:  one \r\nx-two: two\r\n\r\n";
        let (request, _) = parse(&Bytes::from_static(head)).unwrap();
        let values: Vec<_> = request.headers.get_all("x-two").iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!((request.method.as_str(), request.raw_path()), ("PUT", &b"/a?b"[..]));
        assert_eq!(
            (values.as_slice(), &request.headers["host"]),
            (&["one", "two"][..], &"a".parse().unwrap())
        );
    }

    #[test]
    fn a_target_holds_nothing_raw_that_a_uri_may_not_hold() {
        let head = b"GET /<\xff>?\"=` HTTP/1.1\r\nHost: a\r\n\r\n";
        let (request, _) = parse(&Bytes::from_static(head)).unwrap();
        assert_eq!(request.raw_path(), b"/%3C%FF%3E?%22=%60");
    }

    #[test]
    fn options_of_a_url_without_a_path_asks_about_the_server() {
        for (target, path) in [
            ("http://a:8", "*"),
            ("HTTP://a", "*"),
            ("http://a:8/", "/"),
            ("http://a?b", "/"),
            ("http://a/a", "/a"),
        ] {
            let head = |method| Bytes::from(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(parse(&head("OPTIONS")).unwrap().0.uri.path(), path, "{target}");
            assert_ne!(parse(&head("GET")).unwrap().0.uri.path(), "*", "{target}");
        }
    }

    #[test]
    fn accepts_what_clients_send() {
        let cases = [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(0)),
            ("GET / HTTP/1.0\r\n\r\n", Some(0)),
            ("POST /a?b=c HTTP/1.1\r\nhost:a\r\ncontent-length: 12\r\n\r\n", Some(12)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", None),
            ("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", Some(0)),
            ("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", Some(0)),
            ("GET https://a:8?x HTTP/1.1\r\nHost: a:8\r\n\r\n", Some(0)),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Some(0)),
            ("GET HtTp://a/ HTTP/1.1\r\nHost: A:80\r\n\r\n", Some(0)),
            ("GET http://a:/ HTTP/1.1\r\nHost: a:\r\n\r\n", Some(0)),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Some(0)),
            ("GET /<script>?a=\"b\" HTTP/1.9\r\nHost: a\r\n\r\n", Some(0)),
            ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Some(0)),
            ("GET /é{\"a\"}?b=`ü` HTTP/1.1\r\nHost: a\r\n\r\n", Some(0)),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Some(0)),
            ("OPTIONS http://a:8 HTTP/1.1\r\nHost: a:8\r\n\r\n", Some(0)),
            ("BREW /pot HTTP/1.1\r\nHost: a\r\nX: \ttea \r\n\r\n", Some(0)),
        ];
        for (head, body) in cases {
            assert_eq!(read(head.as_bytes()), Ok(body), "{head:?}");
        }
    }

    #[test]
    fn refuses_what_two_parsers_could_read_differently() {
        let cases = [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:b:c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            "GET http://a:x/ HTTP/1.1\r\nHost: a:x\r\n\r\n",
            "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http:///x HTTP/1.1\r\nHost: \r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nNoColon\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "PRI * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
            "GET http://é/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: u@a\r\n\r\n",
            "GET /\r\n\r\n",
            "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\n",
        ];
        for head in cases {
            assert_eq!(refused(head), Some(Reason::BadRequest), "{head:?}");
        }
    }

    #[test]
    fn names_too_many_fields_and_connect() {
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(MAX_FIELDS));
        assert_eq!(refused(&many), Some(Reason::HeaderTooLarge));
        assert_eq!(refused("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), Some(Reason::MethodNotAllowed));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_accepts_only_crlf_lines(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = summary(&bytes);
            proptest::prop_assert!(read(&bytes).is_err() || bytes.windows(2).any(|w| w == b"\r\n"));
        }
    }
}
