//! Names of fields that are two to HTTP and one to an upstream, and those by which somebody in between speaks.
//!
//! CGI and its descendants (WSGI, Rack, PHP) make a variable of each field, and write `_` for whatever a variable's name may
//! not hold (RFC 3875, section 4.1.18). So they read `X_User` as `X-User`. Whoever takes a field off, or writes it, takes it
//! off in every such spelling.

use http::{HeaderMap, HeaderName};

/// Who says what a field says. Upstreams believe it, so it is not for everybody to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    /// A proxy, about its client: `X-Forwarded-For` and all that goes with it.
    Proxy,
    /// The same, in `Forwarded` (RFC 7239).
    ProxyByRfc7239,
    /// The same, about its client's certificate.
    ProxyByCertificate,
    /// This gateway, to either side.
    Gateway,
}

/// What proxies say beside `X-Forwarded-*`.
const OF_PROXIES: [&str; 7] = [
    "client-ip",
    "front-end-https",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-real-ip",
    "x-url-scheme",
];

const CLIENT_CERT: &str = "x-forwarded-client-cert";

/// What a message's connection and framing are said with. Not as they are written here: those are read and made anew.
const OF_CONNECTIONS: [&str; 7] = [
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
];

/// Who speaks by the field of this name, which is in lower case; `None` for all others.
pub(crate) fn speaker(name: &str) -> Option<Speaker> {
    match name.as_bytes().first() {
        Some(b'x' | b'f' | b'c' | b't') => {}
        _ => return None,
    }
    match name {
        "forwarded" => Some(Speaker::ProxyByRfc7239),
        CLIENT_CERT => Some(Speaker::ProxyByCertificate),
        _ if name.starts_with("x-forwarded-") || OF_PROXIES.contains(&name) => Some(Speaker::Proxy),
        _ if name.starts_with("x-tidegate-") => Some(Speaker::Gateway),
        _ => None,
    }
}

/// Whether an upstream may take this field for one by which somebody in between speaks, although it is none of them.
pub(crate) fn is_in_disguise(name: &str) -> bool {
    is_odd(name) && {
        let plain: String = name.bytes().map(|byte| char::from(dashed(byte))).collect();
        speaker(&plain).is_some() || OF_CONNECTIONS.contains(&plain.as_str())
    }
}

/// The names that are read as `name`, itself among them. Mostly there are none, which costs no allocation.
pub(crate) fn spellings(headers: &HeaderMap, name: &HeaderName) -> Vec<HeaderName> {
    headers.keys().filter(|other| read_alike(other, name)).cloned().collect()
}

fn read_alike(one: &HeaderName, other: &HeaderName) -> bool {
    let (one, other) = (one.as_str().as_bytes(), other.as_str().as_bytes());
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| dashed(*one) == dashed(*other))
}

/// Whether it holds what reads as `-` and is none. Asked of every name of every request.
fn is_odd(name: &str) -> bool {
    // To the end: names are short, and a way out costs more than it saves.
    name.bytes().fold(false, |is_odd, byte| is_odd | ODD[usize::from(byte)])
}

static ODD: [bool; 256] = {
    let mut odd = [true; 256];
    let mut byte = 0;
    while byte < 256 {
        odd[byte] = !matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-');
        byte += 1;
    }
    odd
};

fn dashed(byte: u8) -> u8 {
    if ODD[usize::from(byte)] { b'-' } else { byte }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_speaks_by_a_field() {
        for (name, expected) in [
            ("x-forwarded-for", Some(Speaker::Proxy)),
            ("x-forwarded-prefix", Some(Speaker::Proxy)),
            ("x-real-ip", Some(Speaker::Proxy)),
            ("true-client-ip", Some(Speaker::Proxy)),
            ("forwarded", Some(Speaker::ProxyByRfc7239)),
            ("x-forwarded-client-cert", Some(Speaker::ProxyByCertificate)),
            ("x-tidegate-reason", Some(Speaker::Gateway)),
            ("x-forwarded", None),
            ("x-request-id", None),
            ("host", None),
            ("", None),
        ] {
            assert_eq!(speaker(name), expected, "{name}");
        }
    }

    #[test]
    fn a_field_in_disguise_is_known_by_how_it_would_be_read() {
        for name in [
            "x_forwarded_client_cert",
            "x-forwarded_for",
            "x_forwarded-proto",
            "x.real.ip",
            "true_client-ip",
            "x_tidegate_attempts",
            "transfer_encoding",
            "content_length",
        ] {
            assert!(is_in_disguise(name), "{name}");
        }
        for name in ["x-forwarded-for", "content-length", "x_tenant", "grpc_status", "forwarded_"] {
            assert!(!is_in_disguise(name), "{name}");
        }
    }

    #[test]
    fn every_spelling_of_a_name_is_found() {
        let names = ["x-user-id", "x_user_id", "x-user_id", "x~user.id", "x-user-ids", "x-user", "xuserxid"];
        let headers: HeaderMap =
            names.iter().map(|name| (name.parse().unwrap(), "1".parse().unwrap())).collect();
        for name in &names[..4] {
            let mut found = spellings(&headers, &name.parse().unwrap());
            found.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
            assert_eq!(found, ["x-user-id", "x-user_id", "x_user_id", "x~user.id"], "{name}");
        }
        assert!(spellings(&headers, &HeaderName::from_static("x-none")).is_empty());
    }
}
