//! Who may use the API: whoever has the token and the certificate that are asked for, or, where neither is, whoever is on
//! this machine. That leaves web pages in a
//! browser on this machine, which must not reach it under a name of their own (DNS rebinding) nor post to it.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE},
    request::Parts,
    uri::Authority,
};
use openssl::{memcmp, sha::sha256};

use super::reply::{Refusal, refuse};
use crate::config::Secret;

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Refuses a request that reached a loopback address under the name of a host: a page can point a name of its own at
/// 127.0.0.1, and the browser would then let it read what we answer.
pub(crate) fn check_host(request: &Parts, is_loopback: bool) -> Result<(), Refusal> {
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
    Err(refuse(
        StatusCode::MISDIRECTED_REQUEST,
        "this address answers only to an IP address or localhost as the host name (try http://127.0.0.1:PORT/)",
    ))
}

/// Refuses a request that a page of another origin sends: browsers say so in `Origin`, and newer ones in
/// `Sec-Fetch-Site` as well (W3C Fetch Metadata).
pub(crate) fn check_origin(request: &Parts) -> Result<(), Refusal> {
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
    Err(refuse(
        StatusCode::FORBIDDEN,
        "web pages of another origin may not change the gateway (send the request without `Origin`, as curl does)",
    ))
}

/// Whether the connection's other end has proved by a certificate that it may use the API.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Caller {
    Known,
    Stranger,
}

/// Refuses a stranger where certificates are asked for.
pub(crate) fn check_caller(caller: Caller, wants_certificate: bool) -> Result<(), Refusal> {
    if caller == Caller::Known || !wants_certificate {
        return Ok(());
    }
    let why = "come with a client certificate by an authority of `admin.tls.client_ca`";
    Err(refuse(StatusCode::FORBIDDEN, why))
}

/// Refuses a request without the token, where there is one.
pub(crate) fn check_token(headers: &HeaderMap, token: Option<&Secret>) -> Result<(), Refusal> {
    let Some(token) = token else { return Ok(()) };
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).and_then(bearer);
    // Digests are of equal length and are compared in constant time, so that neither says how close a guess was.
    if given.is_some_and(|given| memcmp::eq(&sha256(given), &sha256(token.expose().as_bytes()))) {
        return Ok(());
    }
    let why = match given {
        Some(_) => "this is not the token (it is `admin.token` in the configuration)",
        None => "send the token as `Authorization: Bearer TOKEN` (it is `admin.token` in the configuration)",
    };
    let mut refusal = refuse(StatusCode::UNAUTHORIZED, why);
    refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Err(refusal)
}

fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = credentials.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
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
        assert_eq!(check_host(&h2, true).unwrap_err().status(), 421);
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
    fn a_stranger_is_refused_where_a_certificate_is_asked_for() {
        for (caller, wants_certificate, allowed) in
            [(Caller::Known, true, true), (Caller::Stranger, true, false), (Caller::Stranger, false, true)]
        {
            assert_eq!(
                check_caller(caller, wants_certificate).is_ok(),
                allowed,
                "{caller:?} {wants_certificate}"
            );
        }
    }

    #[test]
    fn only_the_whole_token_opens() {
        let token = Secret::new("correct horse");
        for (given, allowed) in [
            (Some("Bearer correct horse"), true),
            (Some("bearer correct horse"), true),
            (Some("Bearer correct hors"), false),
            (Some("Bearer correct horse battery"), false),
            (Some("Bearer "), false),
            (Some("Basic correct horse"), false),
            (Some(""), false),
            (None, false),
        ] {
            let headers = given.map(|given| (AUTHORIZATION, given.parse().unwrap()));
            let headers = HeaderMap::from_iter(headers);
            let checked = check_token(&headers, Some(&token));
            assert_eq!(checked.is_ok(), allowed, "{given:?}");
            if let Err(refusal) = checked {
                assert_eq!(
                    (refusal.status().as_u16(), &refusal.headers()["www-authenticate"]),
                    (401, &"Bearer".parse().unwrap())
                );
            }
            assert!(check_token(&headers, None).is_ok());
        }
    }
}
