//! What an endpoint's address may look like. All kinds are read here, so that a mistyped one of any kind gets the hint
//! that fits.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc};

use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;

use super::unix;
use crate::{config::unix_path, names::check_host};

/// An endpoint's address as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Ip(SocketAddr),
    Host {
        host: String,
        port: u16,
    },
    /// A socket's full path.
    Unix(PathBuf),
}

/// What an endpoint at `address` is called everywhere.
pub(in crate::upstream) fn name_of(address: &PeerAddress) -> Arc<str> {
    match address {
        PeerAddress::Inet(address) => address.to_string().into(),
        PeerAddress::Unix(_) => format!("unix:{address}").into(),
    }
}

/// Why a text is no address; written for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;

    /// `ip:port`, `[ip6]:port`, `hostname:port` or `unix:/path`; the port is 1 to 65,535.
    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let bad = |why: &str| BadAddress(format!("{text:?} {why}"));
        match unix_path(text) {
            Some(Ok(path)) if unix::address_of(&path).is_some() => return Ok(Address::Unix(path)),
            Some(Ok(_)) => return Err(bad("is too long for the path of a socket")),
            Some(Err(why)) => return Err(BadAddress(why)),
            None => {}
        }
        if text.contains("://") {
            return Err(bad("is a URL, not an address (try \"hostname:8080\")"));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(bad(&format!("has no port (try \"{text}:8080\")")));
        };
        let port: u16 = match port.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(bad("does not end in a port from 1 to 65535")),
        };
        if let Ok(address) = text.parse() {
            return Ok(Address::Ip(address));
        }
        if host.contains(':') {
            return Err(bad("is not an address (IPv6 is written \"[::1]:8080\")"));
        }
        check_host(host)
            .map_err(|why| bad(&format!("is neither \"ip:port\" nor \"hostname:port\": {host:?} {why}")))?;
        Ok(Address::Host { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadAddress {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_and_host_names() {
        let host = |host: &str, port| Ok(Address::Host { host: host.into(), port });
        for (text, expected) in [
            ("127.0.0.1:80", Ok(Address::Ip("127.0.0.1:80".parse().unwrap()))),
            ("[::1]:80", Ok(Address::Ip("[::1]:80".parse().unwrap()))),
            ("Users.Internal:8080", host("users.internal", 8080)),
            ("users.internal.:8080", host("users.internal.", 8080)),
            ("app_web_1:8080", host("app_web_1", 8080)),
            ("_http._tcp.users:1", host("_http._tcp.users", 1)),
            ("unix:/run/app.sock", Ok(Address::Unix("/run/app.sock".into()))),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_address_with_a_hint() {
        for (text, hint) in [
            ("users", "try \"users:8080\""),
            ("http://users:80", "is a URL"),
            ("users:0", "port from 1 to 65535"),
            ("users:99999", "port from 1 to 65535"),
            ("::1:80", "[::1]:8080"),
            ("300.1.1.1:80", "neither"),
            ("us ers:80", "neither"),
            (":80", "neither"),
            ("bücher.example:80", "xn--"),
            ("a..b:80", "neither"),
            ("unix:app.sock", "full path"),
            ("unix:@app", "abstract"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
