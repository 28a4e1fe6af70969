//! What any fields must do to those who look for the client in them; see `crate::fuzzing`.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::COOKIE};
use ipnet::IpNet;
use pingora_http::RequestHeader;

pub(crate) use super::client::fuzzing::response_head;
use super::{claim, cookie, forget_forged, is_trusted, write_forwarded};
use crate::{
    config::{self, ForwardedHeader},
    filter::Facts,
};

const OURS: &str = "10.0.0.9";
const PROXY: &str = "10.0.0.1";
const STRANGER: &str = "192.0.2.1";

/// Nobody but a trusted proxy says who the client is, and who comes behind us understands what we understood.
pub(crate) fn forwarded(headers: &HeaderMap) {
    let trusted = ["10.0.0.0/8".parse().expect("a network")];
    for believed in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
        let of = |peer: &str, headers: &HeaderMap| claim(ip(peer), headers, &trusted, believed);
        let stranger = of(STRANGER, headers);
        assert_eq!((stranger.client, stranger.scheme), (ip(STRANGER), None));
        let claimed = of(PROXY, headers);
        // Whoever stands further left cannot push the client out of its place.
        if !is_trusted(claimed.client, &trusted) {
            assert_eq!(of(PROXY, &forged(headers, believed)).client, claimed.client);
        }
        // As many as are followed, and we are one more.
        if headers.values().flat_map(HeaderValue::as_bytes).filter(|byte| **byte == b',').count()
            + headers.len()
            > 30
        {
            continue;
        }
        for peer in [STRANGER, PROXY] {
            let client = of(peer, headers).client;
            let sent = sent(headers, peer, client, &trusted, believed);
            assert_eq!(of(OURS, &sent).client, client, "behind us, of {peer} with {believed:?}: {sent:?}");
        }
    }
}

/// The gateway's own cookie is hidden whole, whatever it stands among, and all others stay as they are.
pub(crate) fn cookies(mut headers: HeaderMap) {
    const OWN: &str = "at";
    let pairs = |headers: &HeaderMap| -> Vec<Vec<u8>> {
        let values = headers.get_all(COOKIE).into_iter();
        let all = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
        all.map(|pair| pair.trim_ascii().to_vec()).filter(|pair| !pair.is_empty()).collect()
    };
    let mut others = pairs(&headers);
    others.retain(|pair| {
        let end = pair.iter().position(|byte| *byte == b'=');
        !end.is_some_and(|end| cookie::is_of(&pair[..end], OWN))
    });
    let mut rest = headers.clone();
    rest.remove(COOKIE);
    cookie::hide(&mut headers, OWN);
    assert_eq!(pairs(&headers), others);
    assert_eq!(cookie::all(&headers, OWN).next(), None);
    headers.remove(COOKIE);
    assert_eq!(headers, rest);
}

/// With what a client has written before all else.
fn forged(headers: &HeaderMap, believed: ForwardedHeader) -> HeaderMap {
    let (name, entry) = match believed {
        ForwardedHeader::XForwardedFor => ("x-forwarded-for", "6.6.6.6"),
        ForwardedHeader::Forwarded => ("forwarded", "for=6.6.6.6;proto=https"),
    };
    let name = HeaderName::from_static(name);
    let mut values = vec![HeaderValue::from_static(entry)];
    values.extend(headers.get_all(&name).iter().cloned());
    let mut forged = headers.clone();
    forged.remove(&name);
    for value in values {
        forged.append(name.clone(), value);
    }
    forged
}

/// What an upstream gets from us.
fn sent(
    headers: &HeaderMap,
    peer: &str,
    client: IpAddr,
    trusted: &[IpNet],
    believed: ForwardedHeader,
) -> HeaderMap {
    let settings = config::Forwarded {
        x_forwarded: true,
        forwarded: true,
        trust: believed,
        ..config::Forwarded::default()
    };
    let from_trusted = is_trusted(ip(peer), trusted);
    let facts =
        Facts { peer: ip(peer), client, from_trusted, scheme: "http", spoken: "http", ..Facts::default() };
    let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
    for (name, value) in headers {
        // More than fits is refused where it comes in.
        let _ = request.append_header(name, value);
    }
    forget_forged(&mut request, &facts, &settings);
    let mut sent = request.headers.clone();
    let peer = HeaderValue::from_str(peer).expect("an address");
    write_forwarded(&mut sent, &facts, &peer, &settings).expect("it can be written");
    sent
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
