//! A request as an upstream is to see it: what Pingora's proxy loop makes of a client's request, for a request that it
//! does not send. The body is at hand as a whole, so its length is known and nothing is chunked.

use http::{
    HeaderValue, Method, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use pingora_core::Result;
use pingora_http::RequestHeader;

use crate::error::Reason;

/// Which version of HTTP the connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2 { tls: bool },
}

/// The head of a request with a body of `length` bytes.
///
/// # Errors
///
/// The request cannot be carried on: a host that is none, several of them, a path that HTTP/2 cannot say.
pub(super) fn head(
    mut request: Box<RequestHeader>,
    length: usize,
    spoken: Spoken,
) -> Result<Box<RequestHeader>> {
    // The client's is off already; beside a length none may stand.
    request.remove_header(&header::TRANSFER_ENCODING);
    // The whole body is sent without waiting to be asked for it.
    request.remove_header(&header::EXPECT);
    // RFC 9110, section 8.6: also an empty one, where the method means to send something.
    if length > 0 || matches!(request.method, Method::POST | Method::PUT | Method::PATCH) {
        request.insert_header(header::CONTENT_LENGTH, length)?;
    } else {
        request.remove_header(&header::CONTENT_LENGTH);
    }
    match spoken {
        Spoken::Http1 => into_http1(&mut request)?,
        Spoken::Http2 { tls } => into_http2(&mut request, tls)?,
    }
    Ok(request)
}

fn into_http1(request: &mut RequestHeader) -> Result<()> {
    request.set_version(Version::HTTP_11);
    request.remove_header(&header::TE);
    if !request.headers.contains_key(header::HOST) {
        let authority = request.uri.authority().map_or("", Authority::as_str);
        let host = HeaderValue::from_str(authority).map_err(|_| Reason::BadRequest.into_error())?;
        request.insert_header(header::HOST, host)?;
    }
    // A filter may have made it what no client could.
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let is_host = |host: &HeaderValue| host.is_empty() || is_authority(host);
    if !hosts.next().is_some_and(is_host) || hosts.next().is_some() {
        return Err(Reason::Internal.into_error());
    }
    // Absolute form is for proxies (RFC 9112, section 3.2.1), and would have to agree with a host that a filter changed.
    if !matches!(request.raw_path(), [b'/', ..] | b"*") {
        let path = request.uri.path_and_query().cloned();
        request.set_uri(path.map_or_else(Uri::default, Uri::from));
    }
    Ok(())
}

/// Without a name and password, which `Authority` lets pass.
fn is_authority(host: &HeaderValue) -> bool {
    !host.as_bytes().contains(&b'@') && Authority::try_from(host.as_bytes()).is_ok()
}

fn into_http2(request: &mut RequestHeader, tls: bool) -> Result<()> {
    // `Uri` holds a lossy copy of such a path.
    if !request.raw_path_is_utf8() {
        return Err(Reason::BadRequest.into_error());
    }
    request.set_version(Version::HTTP_2);
    let mut parts = request.uri.clone().into_parts();
    // A filter may have changed the host; `Host` beside `:authority` would be said twice.
    if let Some(host) = request.remove_header(&header::HOST) {
        let authority = Authority::try_from(host.as_bytes()).ok().filter(|_| is_authority(&host));
        parts.authority = Some(authority.ok_or_else(|| Reason::BadRequest.into_error())?);
    }
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    request.set_uri(Uri::from_parts(parts).map_err(|_| Reason::BadRequest.into_error())?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, fields: &[(&'static str, &str)]) -> Box<RequestHeader> {
        let mut request = Box::new(RequestHeader::build(method, b"/", None).unwrap());
        match target.parse::<Uri>().unwrap() {
            // As a request that came over HTTP/2.
            uri if uri.scheme().is_some() => request.set_uri(uri),
            _ => request.set_raw_path(target.as_bytes()).unwrap(),
        }
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn field(request: &RequestHeader, name: &str) -> Option<String> {
        let mut values = request.headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(values.next(), None, "{name} twice");
        value
    }

    #[test]
    fn the_length_is_that_of_the_body_where_there_is_one() {
        for (method, length, expected) in
            [("GET", 0, None), ("GET", 3, Some("3")), ("POST", 0, Some("0")), ("DELETE", 0, None)]
        {
            let fields = [("host", "a"), ("content-length", "9"), ("transfer-encoding", "chunked")];
            let head = head(request(method, "/", &fields), length, Spoken::Http1).unwrap();
            assert_eq!(field(&head, "content-length").as_deref(), expected, "{method} {length}");
            assert_eq!(field(&head, "transfer-encoding"), None);
        }
    }

    #[test]
    fn the_authority_is_said_once_in_the_way_of_the_version() {
        // (target, Host) -> (Host, target) of HTTP/1, URI of HTTP/2
        for (target, host, http1, http2) in [
            ("/p?q", Some("a:1"), ("a:1", "/p?q"), "http://a:1/p?q"),
            ("https://b/p", None, ("b", "/p"), "http://b/p"),
            ("https://b/p", Some("changed"), ("changed", "/p"), "http://changed/p"),
        ] {
            let fields: Vec<_> = host.into_iter().map(|host| ("host", host)).collect();
            let request = request("GET", target, &fields);
            let first = head(request.clone(), 0, Spoken::Http1).unwrap();
            assert_eq!(field(&first, "host").as_deref(), Some(http1.0));
            assert_eq!(first.raw_path(), http1.1.as_bytes());
            let second = head(request, 0, Spoken::Http2 { tls: false }).unwrap();
            assert_eq!((second.uri.to_string().as_str(), field(&second, "host")), (http2, None));
        }
    }

    #[test]
    fn an_absolute_target_becomes_a_path() {
        let mut absolute = request("GET", "/", &[("host", "a")]);
        absolute.set_raw_path(b"http://a/p?q").unwrap();
        assert_eq!(head(absolute, 0, Spoken::Http1).unwrap().raw_path(), b"/p?q");
    }

    #[test]
    fn what_http2_cannot_say_is_refused() {
        let mut lossy = request("GET", "/", &[("host", "a")]);
        lossy.set_raw_path(b"/\xff").unwrap();
        for request in [lossy, request("GET", "/", &[("host", "not a host")]), request("GET", "/", &[])] {
            assert!(head(request.clone(), 0, Spoken::Http2 { tls: false }).is_err(), "{request:?}");
        }
    }
}
