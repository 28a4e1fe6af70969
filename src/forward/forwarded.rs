//! Who the client is, and how the upstream learns it: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//!
//! Anyone can write these headers, so they are believed only from `trusted_proxies`; what others sent is replaced.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header::FORWARDED};
use ipnet::IpNet;
use pingora_http::RequestHeader;

use crate::{config, error::Reason, filter::Facts};

// As text: Pingora's headers take it without a copy.
const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
const X_FORWARDED_HOST: &str = "x-forwarded-host";

pub fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|net| net.contains(&peer))
}

/// The client's address: `peer`, or, where proxies are trusted, the nearest address that is not one of theirs.
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if trusted.is_empty() || !is_trusted(peer, trusted) {
        return peer;
    }
    let mut nearest = peer;
    for address in chain(headers).into_iter().rev() {
        // What stands left of an unreadable entry was written by nobody we know.
        let Some(address) = address else { break };
        nearest = address.to_canonical();
        if !is_trusted(nearest, trusted) {
            break;
        }
    }
    nearest
}

/// The addresses a request passed, the client's first. `X-Forwarded-For` goes before `Forwarded`.
fn chain(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    // An unreadable part stays a part: what a client wrote to its left must not move up to its place.
    let list = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        values
            .flat_map(|value| value.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>())
            .collect()
    };
    if headers.contains_key(X_FORWARDED_FOR) {
        return list(X_FORWARDED_FOR).iter().map(|entry| address(entry)).collect();
    }
    list(FORWARDED.as_str()).iter().map(|element| forwarded_for(element).and_then(address)).collect()
}

/// The `for=` of one element of `Forwarded`, without its quotes.
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
    })
}

/// An address with or without a port; IPv6 also in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_matches(['[', ']']);
    bare.parse().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

/// Write what the configuration asks for, and drop what an untrusted client claimed.
pub fn write(
    request: &mut RequestHeader,
    facts: &Facts,
    peer: &HeaderValue,
    settings: &config::Forwarded,
) -> Result<(), Reason> {
    let internal = |_| Reason::Internal;
    if settings.x_forwarded {
        let before = if facts.from_trusted { joined(&request.headers, X_FORWARDED_FOR) } else { None };
        let chain = match before {
            Some(before) => extended(before, text(peer))?,
            None => peer.clone(),
        };
        request.insert_header(X_FORWARDED_FOR, chain).map_err(internal)?;
        let kept = |name| facts.from_trusted && request.headers.contains_key(name);
        let (keep_proto, keep_host) = (kept(X_FORWARDED_PROTO), kept(X_FORWARDED_HOST));
        if !keep_proto {
            request
                .insert_header(X_FORWARDED_PROTO, HeaderValue::from_static(facts.scheme))
                .map_err(internal)?;
        }
        if let (false, Some(authority)) = (keep_host, &facts.authority) {
            request.insert_header(X_FORWARDED_HOST, authority.clone()).map_err(internal)?;
        }
    } else if !facts.from_trusted {
        for name in [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST] {
            request.remove_header(name);
        }
    }
    if settings.forwarded {
        let element = element(facts, text(peer));
        if facts.from_trusted
            && let Some(before) = joined(&request.headers, FORWARDED.as_str())
        {
            return request.insert_header(FORWARDED, extended(before, &element)?).map_err(internal);
        }
        request.insert_header(FORWARDED, element).map_err(internal)?;
    } else if !facts.from_trusted {
        request.remove_header(&FORWARDED);
    }
    Ok(())
}

/// An address of our own writing is always text.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

/// All fields of a name as one list, byte for byte.
fn joined(headers: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    (!values.is_empty()).then(|| values.join(&b", "[..]))
}

fn extended(mut list: Vec<u8>, entry: &str) -> Result<HeaderValue, Reason> {
    list.extend_from_slice(b", ");
    list.extend_from_slice(entry.as_bytes());
    HeaderValue::from_bytes(&list).map_err(|_| Reason::Internal)
}

/// `for=192.0.2.1;host="example.com:80";proto=https` (RFC 7239, section 4).
fn element(facts: &Facts, peer: &str) -> String {
    let peer = if peer.contains(':') { format!("\"[{peer}]\"") } else { peer.to_owned() };
    let host = facts.authority().replace(['"', '\\'], "");
    format!("for={peer};host=\"{host}\";proto={}", facts.spoken)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        fields.iter().map(field).collect::<Vec<(HeaderName, HeaderValue)>>().into_iter().collect()
    }

    fn client_of(peer: &str, fields: &[(&str, &str)]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client(peer.parse().unwrap(), &headers(fields), &trusted).to_string()
    }

    #[test]
    fn believes_only_trusted_proxies() {
        let spoofed = [("x-forwarded-for", "1.1.1.1")];
        assert_eq!(client_of("192.0.2.9", &spoofed), "192.0.2.9");
        assert_eq!(client_of("10.0.0.1", &spoofed), "1.1.1.1");
        assert_eq!(client_of("::ffff:10.0.0.1", &spoofed), "1.1.1.1");
        assert_eq!(client_of("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn takes_the_nearest_address_that_is_no_proxy_of_ours() {
        let chain = [("x-forwarded-for", "6.6.6.6, 192.0.2.1, 10.0.0.2")];
        assert_eq!(client_of("10.0.0.1", &chain), "192.0.2.1");
        assert_eq!(client_of("10.0.0.1", &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")]), "10.0.0.3");
        assert_eq!(client_of("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, garbage, 10.0.0.2")]), "10.0.0.2");
        assert_eq!(
            client_of("10.0.0.1", &[("forwarded", "for=\"[2001:db8::1]:4711\";proto=https")]),
            "2001:db8::1"
        );
        assert_eq!(client_of("10.0.0.1", &[("forwarded", "For=192.0.2.43, for=10.0.0.2")]), "192.0.2.43");
    }

    #[test]
    fn a_list_that_cannot_be_read_does_not_give_way_to_what_the_client_claims() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let mut fields = headers(&[("forwarded", "for=10.9.9.9")]);
        fields.insert(X_FORWARDED_FOR, HeaderValue::from_bytes(b"\xe9, 203.0.113.66").unwrap());
        let client = client("10.0.0.1".parse().unwrap(), &fields, &trusted);
        assert_eq!(client.to_string(), "203.0.113.66");
    }

    fn written(from_trusted: bool, settings: config::Forwarded) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"] {
            request.insert_header(name, "claimed").unwrap();
        }
        let facts = Facts { from_trusted, authority: Some("a.example".parse().unwrap()), ..Facts::default() };
        write(&mut request, &facts, &HeaderValue::from_static("192.0.2.1"), &settings).unwrap();
        request
    }

    #[test]
    fn replaces_the_claims_of_strangers_and_extends_those_of_the_trusted() {
        let both = config::Forwarded { x_forwarded: true, forwarded: true };
        let stranger = written(false, both.clone());
        let stranger = &stranger.headers;
        assert_eq!(stranger["x-forwarded-for"], "192.0.2.1");
        assert_eq!(stranger["x-forwarded-proto"], "http");
        assert_eq!(stranger["x-forwarded-host"], "a.example");
        assert_eq!(stranger["forwarded"], "for=192.0.2.1;host=\"a.example\";proto=http");
        let trusted = written(true, both);
        let trusted = &trusted.headers;
        assert_eq!(trusted["x-forwarded-for"], "claimed, 192.0.2.1");
        assert_eq!(trusted["x-forwarded-proto"], "claimed");
        let neither = config::Forwarded { x_forwarded: false, forwarded: false };
        assert!(written(false, neither).headers.is_empty());
    }
}
