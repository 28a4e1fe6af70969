//! The head of a request as an upstream is to see it: framing, authority and target in the way of the version spoken
//! there, whatever the client spoke.

use http::{
    HeaderValue, Method, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use pingora_core::Result;
use pingora_http::RequestHeader;

use crate::error::Reason;

/// Which version of HTTP the connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2 { tls: bool },
}

/// How much body follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// None, and none is spoken of.
    None,
    Known(u64),
    /// It ends where it ends.
    Unknown,
    /// None, and the connection may become another protocol's.
    Upgrade,
}

impl Length {
    /// Of a body that is there as a whole. Also an empty one is told, where the method means to send something (RFC 9110,
    /// section 8.6).
    pub(crate) fn of_whole(method: &Method, length: usize) -> Length {
        match length {
            0 if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) => Length::None,
            length => Length::Known(length as u64),
        }
    }
}

/// The head of a request with a body of `length`. The client's own framing is dropped.
///
/// # Errors
///
/// The request cannot be carried on: a host that is none, several of them, a path that HTTP/2 cannot say.
pub(super) fn head(
    mut request: Box<RequestHeader>,
    length: Length,
    spoken: Spoken,
) -> Result<Box<RequestHeader>> {
    if request.headers.contains_key(header::TRANSFER_ENCODING) {
        request.remove_header(&header::TRANSFER_ENCODING);
    }
    match length {
        Length::Known(length) if is_told(&request, length) => {}
        Length::Known(length) => {
            request.insert_header(header::CONTENT_LENGTH, length)?;
        }
        Length::None | Length::Unknown | Length::Upgrade => {
            if request.headers.contains_key(header::CONTENT_LENGTH) {
                request.remove_header(&header::CONTENT_LENGTH);
            }
        }
    }
    if length == Length::Unknown && spoken == Spoken::Http1 {
        request.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    if length == Length::Upgrade {
        request.insert_header(header::CONNECTION, "Upgrade")?;
    }
    match spoken {
        Spoken::Http1 => into_http1(&mut request)?,
        Spoken::Http2 { tls } => into_http2(&mut request, tls)?,
    }
    Ok(request)
}

/// As it stands, once.
fn is_told(request: &RequestHeader, length: u64) -> bool {
    let mut told = request.headers.get_all(header::CONTENT_LENGTH).iter();
    let is_same = |told: &HeaderValue| told.to_str().ok().and_then(|told| told.parse().ok()) == Some(length);
    told.next().is_some_and(is_same) && told.next().is_none()
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
    if parts.authority.as_ref().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Reason::BadRequest.into_error());
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
            let request = request(method, "/", &fields);
            let length = Length::of_whole(&request.method, length);
            let head = head(request, length, Spoken::Http1).unwrap();
            assert_eq!(field(&head, "content-length").as_deref(), expected, "{method} {length:?}");
            assert_eq!(field(&head, "transfer-encoding"), None);
        }
    }

    #[test]
    fn a_body_without_a_length_is_chunked_over_http1_and_nothing_over_http2() {
        for (spoken, coding) in [(Spoken::Http1, Some("chunked")), (Spoken::Http2 { tls: false }, None)] {
            let fields = [("host", "a"), ("content-length", "9")];
            let head = head(request("GET", "/", &fields), Length::Unknown, spoken).unwrap();
            assert_eq!(field(&head, "transfer-encoding").as_deref(), coding);
            assert_eq!(field(&head, "content-length"), None);
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
            let first = head(request.clone(), Length::None, Spoken::Http1).unwrap();
            assert_eq!(field(&first, "host").as_deref(), Some(http1.0));
            assert_eq!(first.raw_path(), http1.1.as_bytes());
            let second = head(request, Length::None, Spoken::Http2 { tls: false }).unwrap();
            assert_eq!((second.uri.to_string().as_str(), field(&second, "host")), (http2, None));
        }
    }

    #[test]
    fn an_absolute_target_becomes_a_path() {
        let mut absolute = request("GET", "/", &[("host", "a")]);
        absolute.set_raw_path(b"http://a/p?q").unwrap();
        assert_eq!(head(absolute, Length::None, Spoken::Http1).unwrap().raw_path(), b"/p?q");
    }

    #[test]
    fn what_http2_cannot_say_is_refused() {
        let mut lossy = request("GET", "/", &[("host", "a")]);
        lossy.set_raw_path(b"/\xff").unwrap();
        let named = request("GET", "https://user@b/p", &[]);
        for request in
            [lossy, named, request("GET", "/", &[("host", "not a host")]), request("GET", "/", &[])]
        {
            assert!(
                head(request.clone(), Length::None, Spoken::Http2 { tls: false }).is_err(),
                "{request:?}"
            );
        }
    }
}
