//! Who the client is, and how the upstream learns it: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//!
//! Anyone can write these headers, so they are believed only from `trusted_proxies`; what others sent is replaced. Of
//! a trusted proxy, too, only the header it is said to write is believed: it hands on the other as the client wrote it.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use ipnet::IpNet;

use super::client_cert;
use crate::{
    config::{self, ForwardedHeader},
    error::Reason,
    filter::Facts,
};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

pub(crate) fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|net| net.contains(&peer))
}

/// Whom a request is said to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub client: IpAddr,
    /// What the client spoke with a proxy in front of this one, where that proxy has said so.
    pub scheme: Option<&'static str>,
}

/// The client is `peer`, or, where proxies are trusted, the nearest address that is not one of theirs. Only the header
/// that they are said to write is read: the other may be the client's own.
pub(crate) fn claim(
    peer: IpAddr,
    headers: &HeaderMap,
    trusted: &[IpNet],
    believed: ForwardedHeader,
) -> Claim {
    let peer = peer.to_canonical();
    let mut claim = Claim { client: peer, scheme: None };
    if trusted.is_empty() || !is_trusted(peer, trusted) {
        return claim;
    }
    match believed {
        ForwardedHeader::XForwardedFor => {
            claim.scheme = headers.get(&X_FORWARDED_PROTO).and_then(|proto| scheme(proto.to_str().ok()?));
            claim.follow(x_forwarded_for(headers), trusted, |_, _| {});
        }
        ForwardedHeader::Forwarded => {
            claim.follow(forwarded(headers), trusted, |claim, hop| claim.scheme = hop.scheme);
        }
    }
    claim
}

/// So many proxies of ours may stand behind each other. A list may have thousands of entries, and its reader pays for each.
const MOST_HOPS: usize = 32;

impl Claim {
    /// Believe the nearest of `hops` that is not one of the trusted.
    fn follow(
        &mut self,
        hops: impl Iterator<Item = Option<Hop>>,
        trusted: &[IpNet],
        mut passes: impl FnMut(&mut Claim, &Hop),
    ) {
        // What stands left of an unreadable entry was written by nobody we know.
        for hop in hops.take(MOST_HOPS).map_while(|hop| hop) {
            self.client = hop.address.to_canonical();
            passes(self, &hop);
            if !is_trusted(self.client, trusted) {
                break;
            }
        }
    }
}

/// One entry of a list of those a request passed.
struct Hop {
    address: IpAddr,
    scheme: Option<&'static str>,
}

fn scheme(proto: &str) -> Option<&'static str> {
    ["http", "https"].into_iter().find(|scheme| proto.eq_ignore_ascii_case(scheme))
}

/// The nearest first, read only as far as it is asked for. An unreadable entry stays an entry: what a client wrote to its left
/// must not move up to its place.
fn x_forwarded_for(headers: &HeaderMap) -> impl Iterator<Item = Option<Hop>> {
    let values = headers.get_all(&X_FORWARDED_FOR).iter().rev();
    let entries = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    entries.map(|entry| {
        let entry = std::str::from_utf8(entry).ok()?;
        Some(Hop { address: address(entry.trim())?, scheme: None })
    })
}

/// The same of `Forwarded`. A client chooses the host that a proxy writes there in quotes, so what stands in quotes must
/// not be read as more of the list.
fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Option<Hop>> {
    let values = headers.get_all(FORWARDED).iter().rev();
    let elements = values.flat_map(|value| FromEnd::of(value.as_bytes(), b','));
    elements.map(|element| forwarded_element(element?))
}

fn forwarded_element(element: &[u8]) -> Option<Hop> {
    let pairs = FromEnd::of(element, b';').take(MOST_HOPS).flatten();
    let pairs: Vec<&str> = pairs.filter_map(|pair| std::str::from_utf8(pair).ok()).collect();
    let value = |wanted: &str| {
        pairs.iter().rev().find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().trim_matches('"'))
        })
    };
    Some(Hop { address: address(value("for")?)?, scheme: value("proto").and_then(scheme) })
}

/// The parts between separators that stand outside of quotes, the last one first: there stands what the nearest proxy has
/// written, whole, and a quote that a client has left open to its left does not swallow it. `None` for a first part in which
/// a quote is open.
struct FromEnd<'t> {
    rest: Option<&'t [u8]>,
    separator: u8,
}

impl<'t> FromEnd<'t> {
    fn of(list: &'t [u8], separator: u8) -> FromEnd<'t> {
        FromEnd { rest: Some(list), separator }
    }
}

impl<'t> Iterator for FromEnd<'t> {
    type Item = Option<&'t [u8]>;

    fn next(&mut self) -> Option<Option<&'t [u8]>> {
        let rest = self.rest.take()?;
        let mut is_quoted = false;
        for (at, byte) in rest.iter().enumerate().rev() {
            match byte {
                b'"' if is_quoted && is_escaped(&rest[..at]) => {}
                b'"' => is_quoted = !is_quoted,
                byte if *byte == self.separator && !is_quoted => {
                    self.rest = Some(&rest[..at]);
                    return Some(Some(&rest[at + 1..]));
                }
                _ => {}
            }
        }
        Some((!is_quoted).then_some(rest))
    }
}

/// Whether what follows in a quoted text stands for itself.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// An address with or without a port; IPv6 also in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_matches(['[', ']']);
    bare.parse().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

/// Write what the configuration asks for, and extend what a trusted proxy is believed to have said. What anyone else claimed
/// is gone since the request arrived.
///
/// # Errors
///
/// The request has too many header fields to take another, or a value cannot be written.
pub(crate) fn write(
    headers: &mut HeaderMap,
    facts: &Facts,
    peer: &HeaderValue,
    settings: &config::Forwarded,
) -> Result<(), Reason> {
    client_cert::write(headers, facts, settings)?;
    if settings.x_forwarded {
        write_x_forwarded(headers, facts, peer)?;
    }
    if settings.x_real_ip.unwrap_or(settings.x_forwarded) {
        write_x_real_ip(headers, facts, peer)?;
    }
    if settings.forwarded { write_forwarded(headers, facts, peer) } else { Ok(()) }
}

/// # Errors
///
/// There are too many fields to take another.
pub(super) fn set(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) -> Result<(), Reason> {
    headers.try_insert(name, value).map(drop).map_err(|_| Reason::HeaderTooLarge)
}

fn write_x_forwarded(headers: &mut HeaderMap, facts: &Facts, peer: &HeaderValue) -> Result<(), Reason> {
    let before = joined(headers, &X_FORWARDED_FOR).or_else(|| named(facts, peer));
    let chain = match before {
        Some(before) => extended(before, text(peer))?,
        None => peer.clone(),
    };
    set(headers, &X_FORWARDED_FOR, chain)?;
    if !headers.contains_key(&X_FORWARDED_PROTO) {
        set(headers, &X_FORWARDED_PROTO, HeaderValue::from_static(facts.scheme))?;
    }
    match &facts.authority {
        Some(authority) if !headers.contains_key(&X_FORWARDED_HOST) => {
            set(headers, &X_FORWARDED_HOST, authority.clone())
        }
        _ => Ok(()),
    }
}

/// The client's address alone: the one that rate limits and logs go by.
fn write_x_real_ip(headers: &mut HeaderMap, facts: &Facts, peer: &HeaderValue) -> Result<(), Reason> {
    let client = match named(facts, peer) {
        Some(client) => HeaderValue::try_from(client).map_err(|_| Reason::Internal)?,
        None if facts.client.is_unspecified() => {
            headers.remove(&X_REAL_IP);
            return Ok(());
        }
        None => peer.clone(),
    };
    set(headers, &X_REAL_IP, client)
}

fn write_forwarded(headers: &mut HeaderMap, facts: &Facts, peer: &HeaderValue) -> Result<(), Reason> {
    let own = element(facts, text(peer));
    let told = || {
        let client = named(facts, peer)?;
        let client = String::from_utf8_lossy(&client);
        Some(format!("for={};proto={}", node(&client), facts.scheme).into_bytes())
    };
    let before = closed(headers).or_else(told);
    let list = match before {
        Some(before) => extended(before, &own)?,
        None => HeaderValue::try_from(own).map_err(|_| Reason::Internal)?,
    };
    set(headers, &FORWARDED, list)
}

/// All that was written before as one list. A quote that one field leaves open would reach into the next: what it begins
/// is said to be unknown.
fn closed(headers: &HeaderMap) -> Option<Vec<u8>> {
    let values = headers.get_all(FORWARDED).iter().map(HeaderValue::as_bytes);
    let closed = values.map(|value| match FromEnd::of(value, b',').all(|part| part.is_some()) {
        true => value.to_vec(),
        false => {
            let parts = FromEnd::of(value, b',').map(|part| part.unwrap_or(b"for=unknown"));
            let mut parts: Vec<&[u8]> = parts.collect();
            parts.reverse();
            parts.join(&b","[..])
        }
    });
    let closed: Vec<Vec<u8>> = closed.collect();
    (!closed.is_empty()).then(|| closed.join(&b", "[..]))
}

/// The client that a trusted proxy named in the other header.
fn named(facts: &Facts, peer: &HeaderValue) -> Option<Vec<u8>> {
    // Asked first: who comes without a proxy, and that is most, costs no text of an address.
    // Who came over a Unix socket has none.
    let client = (facts.from_trusted && !facts.client.is_unspecified()).then(|| facts.client.to_string())?;
    (client != text(peer)).then(|| client.into_bytes())
}

/// An address of our own writing is always text.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

/// All fields of a name as one list, byte for byte.
pub(super) fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
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
    let peer = node(peer);
    let host = facts.authority().replace(['"', '\\'], "");
    format!("for={peer};host=\"{host}\";proto={}", facts.spoken)
}

/// As RFC 7239, section 6 has it.
fn node(address: &str) -> String {
    if address.contains(':') { format!("\"[{address}]\"") } else { address.to_owned() }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::forward::forget_forged;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        fields.iter().map(field).collect::<Vec<(HeaderName, HeaderValue)>>().into_iter().collect()
    }

    fn claimed(peer: &str, fields: &[(&str, &str)], believed: ForwardedHeader) -> Claim {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        claim(peer.parse().unwrap(), &headers(fields), &trusted, believed)
    }

    fn client_of(peer: &str, fields: &[(&str, &str)]) -> String {
        claimed(peer, fields, ForwardedHeader::XForwardedFor).client.to_string()
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
    }

    #[test]
    fn reads_only_the_header_that_is_trusted() {
        let both = [("forwarded", "for=192.0.2.1;proto=https"), ("x-forwarded-for", "192.0.2.2")];
        let client = |address: &str, scheme| Claim { client: address.parse().unwrap(), scheme };
        assert_eq!(
            claimed("10.0.0.1", &both, ForwardedHeader::Forwarded),
            client("192.0.2.1", Some("https"))
        );
        assert_eq!(claimed("10.0.0.1", &both, ForwardedHeader::XForwardedFor), client("192.0.2.2", None));
        let other = [("x-forwarded-for", "192.0.2.2"), ("x-forwarded-proto", "https")];
        assert_eq!(claimed("10.0.0.1", &other, ForwardedHeader::Forwarded), client("10.0.0.1", None));
        assert_eq!(claimed("10.0.0.1", &both[..1], ForwardedHeader::XForwardedFor), client("10.0.0.1", None));
    }

    #[test]
    fn reads_forwarded_as_rfc_7239_writes_it() {
        for (list, client) in [
            ("for=\"[2001:db8::1]:4711\";proto=https", "2001:db8::1"),
            ("For=192.0.2.43, for=10.0.0.2", "192.0.2.43"),
            ("for=6.6.6.6, for=192.0.2.1;host=\"a,for=6.6.6.6\"", "192.0.2.1"),
            ("host=\"a;for=6.6.6.6\";for=192.0.2.1", "192.0.2.1"),
            ("host=\"\\\";for=6.6.6.6\";for=192.0.2.1", "192.0.2.1"),
            ("for=6.6.6.6, for=unknown", "10.0.0.1"),
        ] {
            let claim = claimed("10.0.0.1", &[("forwarded", list)], ForwardedHeader::Forwarded);
            assert_eq!(claim.client.to_string(), client, "{list}");
        }
        let https_in_front = [("forwarded", "for=192.0.2.1;proto=https, for=10.0.0.2;proto=http")];
        assert_eq!(claimed("10.0.0.1", &https_in_front, ForwardedHeader::Forwarded).scheme, Some("https"));
    }

    #[test]
    fn what_a_client_leaves_open_hides_nobody_behind_the_proxy_s_own_address() {
        for (list, client) in [
            ("for=6.6.6.6;x=\", for=192.0.2.1;host=\"a\"", "192.0.2.1"),
            ("\", for=192.0.2.1, for=10.0.0.2", "192.0.2.1"),
            ("x=\"\\, for=192.0.2.1;host=\"a\\\", for=6.6.6.6\"", "192.0.2.1"),
            ("for=6.6.6.6;x=\u{e9}, for=192.0.2.1", "192.0.2.1"),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(FORWARDED, HeaderValue::from_bytes(list.as_bytes()).unwrap());
            let trusted = ["10.0.0.0/8".parse().unwrap()];
            let claim = claim("10.0.0.1".parse().unwrap(), &fields, &trusted, ForwardedHeader::Forwarded);
            assert_eq!(claim.client.to_string(), client, "{list}");
        }
    }

    #[test]
    fn a_quote_that_one_field_leaves_open_does_not_reach_into_the_next() {
        let settings =
            config::Forwarded { forwarded: true, trust: ForwardedHeader::Forwarded, ..Default::default() };
        let facts = Facts { from_trusted: true, ..Facts::default() };
        let mut fields = headers(&[("forwarded", "for=6.6.6.6;x=\", for=10.0.0.2")]);
        fields.append(FORWARDED, HeaderValue::from_static("for=192.0.2.1;host=\"a\""));
        write(&mut fields, &facts, &HeaderValue::from_static("10.0.0.1"), &settings).unwrap();
        assert_eq!(
            fields[FORWARDED],
            "for=unknown, for=10.0.0.2, for=192.0.2.1;host=\"a\", for=10.0.0.1;host=\"\";proto=http"
        );
    }

    #[test]
    fn a_list_that_cannot_be_read_does_not_give_way_to_what_the_client_claims() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let mut fields = headers(&[("forwarded", "for=10.9.9.9")]);
        fields.insert(&X_FORWARDED_FOR, HeaderValue::from_bytes(b"\xe9, 203.0.113.66").unwrap());
        let claim = claim("10.0.0.1".parse().unwrap(), &fields, &trusted, ForwardedHeader::XForwardedFor);
        assert_eq!(claim.client.to_string(), "203.0.113.66");
    }

    #[test]
    fn x_real_ip_goes_with_x_forwarded_unless_it_is_said() {
        let written = |x_forwarded, x_real_ip| {
            let settings = config::Forwarded { x_forwarded, x_real_ip, ..Default::default() };
            let headers = written(false, settings);
            (headers.contains_key(&X_FORWARDED_FOR), headers.contains_key(&X_REAL_IP))
        };
        assert_eq!(written(true, None), (true, true));
        assert_eq!(written(false, None), (false, false));
        assert_eq!(written(true, Some(false)), (true, false));
        assert_eq!(written(false, Some(true)), (false, true));
    }

    #[test]
    fn a_long_list_is_read_from_its_near_end_and_no_further_than_needed() {
        let trusted = "10.0.0.2, ".repeat(6_000);
        for (list, client) in [
            (",".repeat(60_000), "10.0.0.1"),
            (format!("{}192.0.2.1", ",".repeat(60_000)), "192.0.2.1"),
            (format!("192.0.2.1, {trusted}10.0.0.3"), "10.0.0.2"),
        ] {
            assert_eq!(client_of("10.0.0.1", &[("x-forwarded-for", &list)]), client);
        }
        let fields = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1, 10.0.0.2")];
        assert_eq!(client_of("10.0.0.1", &fields), "192.0.2.1", "the last field is the nearest");
        let elements = "for=10.0.0.2, ".repeat(4_000);
        let parameters = format!("for=192.0.2.1{}", ";a=b".repeat(15_000));
        for (list, client) in [
            (format!("for=192.0.2.1, {elements}for=10.0.0.3"), "10.0.0.2"),
            (format!("{}for=192.0.2.1", ",".repeat(60_000)), "192.0.2.1"),
            (parameters, "10.0.0.1"),
        ] {
            let claim = claimed("10.0.0.1", &[("forwarded", &list)], ForwardedHeader::Forwarded);
            assert_eq!(claim.client.to_string(), client);
        }
    }

    fn written(from_trusted: bool, settings: config::Forwarded) -> HeaderMap {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-real-ip"] {
            request.insert_header(name, "claimed").unwrap();
        }
        let client = if from_trusted { "198.51.100.7" } else { "192.0.2.1" }.parse().unwrap();
        let authority = Some("a.example".parse().unwrap());
        let facts = Facts { from_trusted, client, authority, ..Facts::default() };
        forget_forged(&mut request, &facts, &settings);
        let mut headers = request.headers.clone();
        write(&mut headers, &facts, &HeaderValue::from_static("192.0.2.1"), &settings).unwrap();
        headers
    }

    #[test]
    fn replaces_the_claims_of_strangers_and_extends_those_of_the_trusted() {
        let trust = ForwardedHeader::XForwardedFor;
        let client_cert = config::ClientCertHeader::Off;
        let both = config::Forwarded { trust, forwarded: true, client_cert, ..Default::default() };
        let stranger = written(false, both.clone());
        assert_eq!(stranger["x-forwarded-for"], "192.0.2.1");
        assert_eq!(stranger["x-forwarded-proto"], "http");
        assert_eq!(stranger["x-forwarded-host"], "a.example");
        assert_eq!(stranger["x-real-ip"], "192.0.2.1");
        assert_eq!(stranger["forwarded"], "for=192.0.2.1;host=\"a.example\";proto=http");
        let trusted = written(true, both);
        assert_eq!(trusted["x-forwarded-for"], "claimed, 192.0.2.1");
        assert_eq!(trusted["x-forwarded-proto"], "claimed");
        assert_eq!(trusted["x-real-ip"], "198.51.100.7");
        let own = "for=192.0.2.1;host=\"a.example\";proto=http";
        assert_eq!(trusted["forwarded"], format!("for=198.51.100.7;proto=http, {own}"));
        let neither = config::Forwarded { trust, x_forwarded: false, client_cert, ..Default::default() };
        assert!(written(false, neither).is_empty());
    }

    #[test]
    fn what_a_trusted_proxy_does_not_write_is_replaced() {
        let trust = ForwardedHeader::Forwarded;
        let written = |x_forwarded, forwarded| {
            let settings = config::Forwarded { trust, x_forwarded, forwarded, ..Default::default() };
            written(true, settings)
        };
        let both = written(true, true);
        assert_eq!(both["x-forwarded-for"], "198.51.100.7, 192.0.2.1");
        assert_eq!(
            (&both["x-forwarded-proto"], &both["x-forwarded-host"]),
            (&"http".parse().unwrap(), &"a.example".parse().unwrap())
        );
        assert_eq!(both["forwarded"], "claimed, for=192.0.2.1;host=\"a.example\";proto=http");
        assert_eq!(both["x-real-ip"], "198.51.100.7");
        let neither = written(false, false);
        assert_eq!(neither.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["forwarded"]);
    }
}
