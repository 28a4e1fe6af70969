//! `host[:port]`, as it stands in `Host`, `:authority` and a target in absolute form.
//!
//! Whatever passes here can be written to an upstream of either version, and is read the same way by everyone: no user,
//! one port, brackets around an IPv6 address and nowhere else. Pure.

use std::net::Ipv6Addr;

/// RFC 3986, section 3.2.2, without what no client sends and parsers disagree on: percent-encoding, zones, future
/// address forms. An empty host is for the caller to judge.
pub(super) fn is_authority(value: &[u8]) -> bool {
    let (is_host, port) = match value {
        [b'[', rest @ ..] => match rest.iter().position(|byte| *byte == b']') {
            Some(end) => (is_ipv6(&rest[..end]), &rest[end + 1..]),
            None => return false,
        },
        _ => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            (value[..end].iter().all(|byte| is_name(*byte)), &value[end..])
        }
    };
    is_host && is_port(port, value.len())
}

/// Whether both name one host and port. Case changes nothing, nor does a port that is empty or that of the scheme (RFC 9110,
/// section 4.2.3).
pub(super) fn is_same(one: &[u8], other: &[u8], usual_port: &[u8]) -> bool {
    without_port(one, usual_port).eq_ignore_ascii_case(without_port(other, usual_port))
}

fn without_port<'a>(authority: &'a [u8], usual: &[u8]) -> &'a [u8] {
    let rest = authority.strip_suffix(usual).filter(|rest| rest.ends_with(b":")).unwrap_or(authority);
    rest.strip_suffix(b":").unwrap_or(rest)
}

/// Nothing, or a colon and a number that fits. The number may be left out (RFC 3986, section 3.2.3).
fn is_port(port: &[u8], length: usize) -> bool {
    match port {
        [] => true,
        b":" => length > 1,
        [b':', digits @ ..] => {
            let number = || std::str::from_utf8(digits).ok()?.parse::<u16>().ok();
            // A sign is no digit, though `parse` takes one; and a port alone names no host.
            length > port.len() && digits.iter().all(u8::is_ascii_digit) && number().is_some()
        }
        _ => false,
    }
}

fn is_ipv6(address: &[u8]) -> bool {
    std::str::from_utf8(address).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// `unreserved` and `sub-delims`.
const fn is_name(byte: u8) -> bool {
    matches!(byte,
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'
        | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_host_with_or_without_a_port() {
        for authority in [
            "a",
            "a.example.",
            "A-1_b.example:80",
            "192.0.2.1:0",
            "a:65535",
            "[::1]",
            "[2001:db8::1]:8080",
            "a:",
            "[::1]:",
            "",
        ] {
            assert!(is_authority(authority.as_bytes()), "{authority}");
        }
    }

    #[test]
    fn refuses_what_is_read_in_two_ways() {
        for authority in [
            "a:b:c",
            "a:80:80",
            "a::",
            ":",
            "a:x",
            "a:+80",
            "a:65536",
            "a:99999999999",
            ":80",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:x",
            "[a]",
            "[]",
            "[::1%25eth0]",
            "a]",
            "a[",
            "a]b",
            "u@a",
            "u:p@a",
            "a%2fb",
            "a/b",
            "a b",
            "a\\b",
            "a#",
            "ä",
        ] {
            assert!(!is_authority(authority.as_bytes()), "{authority}");
        }
    }

    #[test]
    fn one_host_and_port_may_be_spelt_in_several_ways() {
        for (one, other, is_one) in [
            ("shop.test", "shop.test:80", true),
            ("Shop.test:", "shop.TEST", true),
            ("[::1]:80", "[::1]", true),
            ("a:8080", "A:8080", true),
            ("a", "a:443", false),
            ("a:8080", "a:80", false),
            ("a80", "a", false),
            ("a", "a.", false),
            ("a", "b", false),
        ] {
            assert_eq!(is_same(one.as_bytes(), other.as_bytes(), b"80"), is_one, "{one} {other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_passes_is_an_authority_to_the_http_library_too(value in "[a-c0-9:.@%_!\\[\\]]{1,12}") {
            proptest::prop_assert!(
                !is_authority(value.as_bytes()) || http::uri::Authority::try_from(value.as_str()).is_ok()
            );
        }
    }
}
