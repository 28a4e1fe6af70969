//! What every API refuses: web pages in a browser on this machine, which must not reach it under a name of their own (DNS
//! rebinding) nor change anything. And how a token is compared.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{AUTHORIZATION, HOST, ORIGIN},
    request::Parts,
    uri::Authority,
};
use openssl::{memcmp, sha::sha256};

use crate::config::Secret;

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Why a request goes no further, for whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Denied {
    pub status: StatusCode,
    pub why: &'static str,
}

/// Refuses a request that reached a loopback address under the name of a host: a page can point a name of its own at
/// 127.0.0.1, and the browser would then let it read what we answer.
pub(crate) fn check_host(request: &Parts, is_loopback: bool) -> Result<(), Denied> {
    let Some(authority) = authority(request).filter(|_| is_loopback) else { return Ok(()) };
    let is_ours = authority.parse::<Authority>().is_ok_and(|authority| {
        // The parser takes `[::1].evil.example` and says that the host is `[::1]`.
        let port = authority.as_str().strip_prefix(authority.host());
        let is_port = |port: &str| port.is_empty() || port.starts_with(':');
        port.is_some_and(is_port) && is_local(authority.host())
    });
    if is_ours {
        return Ok(());
    }
    Err(Denied {
        status: StatusCode::MISDIRECTED_REQUEST,
        why: "this address answers only to an IP address or localhost as the host name (try http://127.0.0.1:PORT/)",
    })
}

/// Refuses a request that a page of another origin sends: browsers say so in `Origin`, and newer ones in
/// `Sec-Fetch-Site` as well (W3C Fetch Metadata).
pub(crate) fn check_origin(request: &Parts) -> Result<(), Denied> {
    let is_ours = |origin: &HeaderValue| {
        let host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        host.zip(authority(request)).is_some_and(|(host, authority)| authority.eq_ignore_ascii_case(host))
    };
    let is_same_site = |site: &HeaderValue| site == "same-origin" || site == "none";
    let (mut origins, mut sites) =
        (request.headers.get_all(ORIGIN).iter(), request.headers.get_all(SEC_FETCH_SITE).iter());
    if origins.all(is_ours) && sites.all(is_same_site) {
        return Ok(());
    }
    Err(Denied {
        status: StatusCode::FORBIDDEN,
        why: "web pages of another origin may not change the gateway (send the request without `Origin`, as curl does)",
    })
}

/// The token that the request carries as `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let credentials = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = credentials.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Digests are of equal length and are compared in constant time, so that neither says how close a guess was.
pub(crate) fn is_token(given: &[u8], token: &Secret) -> bool {
    memcmp::eq(&sha256(given), &sha256(token.expose().as_bytes()))
}

/// Empty where it is not text, or where there are several; `None` where the client names no host, which no browser does.
fn authority(request: &Parts) -> Option<&str> {
    let mut hosts = request.headers.get_all(HOST).iter();
    match (request.uri.authority(), hosts.next(), hosts.next()) {
        (Some(authority), ..) => Some(authority.as_str()),
        (None, Some(host), None) => Some(host.to_str().unwrap_or_default()),
        (None, Some(_), Some(_)) => Some(""),
        (None, None, _) => None,
    }
}

fn is_local(host: &str) -> bool {
    let ip = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request = headers
            .iter()
            .fold(http::Request::get(uri), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_loopback_address_answers_to_ips_and_localhost_only() {
        for (host, allowed) in [
            ("127.0.0.1:9901", true),
            ("[::1]:9901", true),
            ("localhost", true),
            ("LOCALHOST:9901", true),
            ("rebound.example", false),
            ("localhost.example:9901", false),
            ("127.0.0.1.example", false),
            ("127.0.0.1@evil.example", false),
            ("localhost@evil.example:9901", false),
            ("localhost.", false),
            ("127.1", false),
            ("2130706433", false),
            ("[::1].evil.example", false),
            ("127.0.0.1, evil.example", false),
            ("", false),
        ] {
            let request = request("/stats", &[("host", host)]);
            assert_eq!(check_host(&request, true).is_ok(), allowed, "{host}");
            assert!(check_host(&request, false).is_ok(), "{host}: elsewhere the token decides");
        }
        let h2 = request("http://rebound.example/stats", &[]);
        assert_eq!(check_host(&h2, true).unwrap_err().status, 421);
        assert!(check_host(&request("/stats", &[]), true).is_ok(), "HTTP/1.0 without a host");
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        for (headers, allowed) in [
            (&[][..], true),
            (&[("origin", "http://127.0.0.1:9901")], true),
            (&[("origin", "http://127.0.0.1:8000")], false),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "null")], false),
            (&[("origin", "")], false),
            (&[("origin", "http://127.0.0.1:9901"), ("origin", "https://evil.example")], false),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("origin", "http://127.0.0.1:9901"), ("sec-fetch-site", "cross-site")], false),
        ] {
            let headers = [&[("host", "127.0.0.1:9901")], headers].concat();
            assert_eq!(check_origin(&request("/reload", &headers)).is_ok(), allowed, "{headers:?}");
        }
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        let token = Secret::new("correct horse");
        for (given, is_it) in [
            ("Bearer correct horse", true),
            ("bearer correct horse", true),
            ("Bearer correct hors", false),
            ("Bearer correct horse battery", false),
            ("Bearer ", false),
            ("Basic correct horse", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, given.parse().unwrap())]);
            assert_eq!(bearer(&headers).is_some_and(|given| is_token(given, &token)), is_it, "{given}");
        }
    }
}
