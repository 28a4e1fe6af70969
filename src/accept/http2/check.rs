//! The look at an HTTP/2 request header that `src/accept/http1/head.rs` is for HTTP/1: what could be read in two ways, here or
//! behind us, is refused before anything is proxied. The `h2` library has reset already what is no HTTP/2 at all: bad
//! pseudo-fields, fields of the connection, names in capitals (RFC 9113, sections 8.2 and 8.3). Pure.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, header,
    uri::{PathAndQuery, Scheme},
};
use pingora_http::RequestHeader;

use crate::accept::{
    authority::{is_authority, is_same},
    http1::{Refusal, bad, content_length},
    target,
};
use crate::error::Reason;

/// What each field counts beside its name and value (RFC 9113, section 10.5.1).
const FIELD_OVERHEAD: usize = 32;

/// Refuse what may be read in two ways, or is larger than `header_size` as RFC 9113 counts it.
pub(super) fn check(request: &RequestHeader, header_size: usize) -> Result<(), Refusal> {
    if size(request) > header_size {
        return Err(Refusal { reason: Reason::HeaderTooLarge, detail: "header size limit passed" });
    }
    if request.method == Method::CONNECT {
        return Err(Refusal { reason: Reason::MethodNotAllowed, detail: "CONNECT is not proxied" });
    }
    // Whatever a gateway to other protocols would make of them, this is none (RFC 9113, section 8.3.1).
    if request.uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(bad("scheme is not one of HTTP"));
    }
    let path = request.raw_path();
    if path.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
        return Err(bad("path has a control character"));
    }
    match (&request.method, path) {
        (&Method::OPTIONS, b"*") | (_, [b'/', ..]) => {}
        _ => return Err(bad("path does not begin with a slash")),
    }
    authority(request)?;
    length(&request.headers)
}

/// What a path may not hold raw, as far as the library has let it pass, is encoded as in HTTP/1.
///
/// # Errors
///
/// It is too long by that.
pub(super) fn encode_target(request: &mut RequestHeader) -> Result<(), Refusal> {
    let Some(made) = target::encoded(request.raw_path()) else { return Ok(()) };
    let refused = || bad("request target is not a URI");
    let mut parts = request.uri.clone().into_parts();
    // It is a path still: nothing but escapes was added.
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(made)).map_err(|_| refused())?);
    request.set_uri(http::Uri::from_parts(parts).map_err(|_| refused())?);
    Ok(())
}

/// One cookie field instead of many: HTTP/2 may split it up, and nobody else puts it together again (RFC 9113, section
/// 8.2.3).
pub(super) fn join_cookies(request: &mut RequestHeader) {
    let mut cookies = request.headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = request.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        // Replacing a field that is there cannot pass the map's limit.
        let _ = request.insert_header(header::COOKIE, joined);
    }
}

fn size(request: &RequestHeader) -> usize {
    let uri = &request.uri;
    let pseudo = [
        (":method", request.method.as_str().len()),
        (":scheme", uri.scheme_str().map_or(0, str::len)),
        (":authority", uri.authority().map_or(0, |authority| authority.as_str().len())),
        (":path", request.raw_path().len()),
    ];
    let pseudo = pseudo.iter().map(|(name, value)| name.len() + value + FIELD_OVERHEAD);
    let fields =
        request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    pseudo.sum::<usize>() + fields.sum::<usize>()
}

/// One authority, in `:authority` or `Host` or the same in both (RFC 9113, section 8.3.1).
fn authority(request: &RequestHeader) -> Result<(), Refusal> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next().map(HeaderValue::as_bytes), hosts.next());
    if another.is_some() {
        return Err(bad("more than one host"));
    }
    let named = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let authority = match (named, host) {
        (Some(named), Some(host)) if !is_same(named, host, usual_port(request)) => {
            return Err(bad("host is not that of :authority"));
        }
        (Some(authority), _) | (None, Some(authority)) => authority,
        (None, None) => return Err(bad("no host")),
    };
    if authority.is_empty() || !is_authority(authority) { Err(bad("host is not a host")) } else { Ok(()) }
}

fn usual_port(request: &RequestHeader) -> &'static [u8] {
    if request.uri.scheme() == Some(&Scheme::HTTPS) { b"443" } else { b"80" }
}

fn length(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.next().is_some_and(|length| content_length(length.as_bytes()).is_none()) {
        return Err(bad("content-length is not a number"));
    }
    match lengths.next() {
        Some(_) => Err(bad("more than one content-length")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> RequestHeader {
        let mut request = Request::builder().method(method).uri(uri).version(http::Version::HTTP_2);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        RequestHeader::from(request.body(()).unwrap().into_parts().0)
    }

    fn refused(method: &str, uri: &str, fields: &[(&str, &str)]) -> Option<Reason> {
        check(&request(method, uri, fields), 1024).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn accepts_what_clients_send() {
        assert_eq!(refused("GET", "http://a/b?c", &[]), None);
        assert_eq!(refused("GET", "/", &[("host", "a:80")]), None);
        assert_eq!(
            refused("POST", "http://[::1]:80/", &[("host", "[::1]:80"), ("content-length", "5")]),
            None
        );
        assert_eq!(refused("POST", "https://a/p.S/M", &[("te", "trailers")]), None);
        for (uri, host) in [("http://a:80/", "A"), ("https://a/", "a:443"), ("http://a/", "a:")] {
            assert_eq!(refused("GET", uri, &[("host", host)]), None, "{uri} {host}");
        }
    }

    #[test]
    fn a_path_holds_nothing_raw_that_a_uri_may_not_hold() {
        let mut raw = request("GET", "http://a/é?`", &[]);
        assert!(encode_target(&mut raw).is_ok());
        assert_eq!(raw.uri.to_string(), "http://a/%C3%A9?%60");
    }

    #[test]
    fn refuses_what_two_parsers_could_read_differently() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("/", &[]),
            ("/", &[("host", "")]),
            ("/", &[("host", "a"), ("host", "a")]),
            ("/", &[("host", "u@a")]),
            ("/", &[("host", "a:b:c")]),
            ("http://a/", &[("host", "b")]),
            ("http://a/", &[("host", "a:443")]),
            ("https://a/", &[("host", "a:80")]),
            ("http://u@a/", &[]),
            ("http://a:99999/", &[]),
            ("http://a/", &[("content-length", "1"), ("content-length", "1")]),
            ("http://a/", &[("content-length", "+1")]),
            ("http://a/", &[("content-length", "1, 1")]),
        ];
        for (uri, fields) in cases {
            assert_eq!(refused("POST", uri, fields), Some(Reason::BadRequest), "{uri} {fields:?}");
        }
        let target = |target: &str| {
            let mut request = request("GET", "/", &[("host", "a")]);
            request.set_uri(target.parse().unwrap());
            check(&request, 1024).err().map(|refusal| refusal.reason)
        };
        assert_eq!(target("*"), Some(Reason::BadRequest));
        assert_eq!(refused("GET", "ftp://a/", &[]), Some(Reason::BadRequest));
        assert_eq!(refused("CONNECT", "a:443", &[]), Some(Reason::MethodNotAllowed));
    }

    #[test]
    fn counts_a_header_as_the_client_does() {
        // :method GET, :scheme http, :authority a, :path / with 32 for each, and a field of 1 + 32 and its value.
        let rest = (7 + 3) + (7 + 4) + (10 + 1) + (5 + 1) + 4 * 32 + 33;
        let value = "v".repeat(1024 - rest);
        assert_eq!(refused("GET", "http://a/", &[("x", &value)]), None);
        assert_eq!(refused("GET", "http://a/", &[("x", &format!("{value}v"))]), Some(Reason::HeaderTooLarge));
    }

    #[test]
    fn cookies_that_came_apart_are_joined() {
        let mut split = request("GET", "http://a/", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]);
        join_cookies(&mut split);
        let cookies: Vec<_> = split.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
        let mut whole = request("GET", "http://a/", &[("cookie", "a=1")]);
        join_cookies(&mut whole);
        assert_eq!(whole.headers["cookie"], "a=1");
    }
}
