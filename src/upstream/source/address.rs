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
        if let Some((scheme, rest)) = text.split_once("://") {
            return Err(bad(&format!("is a URL, not an address ({})", of_url(scheme, rest))));
        }
        if let Some(why) = foreign(text) {
            return Err(bad(&why));
        }
        if let Some((address, parameters)) = text.split_once(' ')
            && address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        {
            return Err(bad(&format!("is more than an address ({})", of_server(address, parameters))));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(bad(&format!("has no port (try \"{text}:8080\")")));
        };
        if let Some((port, _)) = port.split_once('/') {
            let hint = "paths are changed by a `rewrite` filter at the route";
            return Err(bad(&format!("has a path, which no address has (write \"{host}:{port}\"; {hint})")));
        }
        let port: u16 = match port.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(bad("does not end in a port from 1 to 65535")),
        };
        if let Ok(address) = text.parse() {
            return Ok(Address::Ip(address));
        }
        if host.contains(':') {
            let is_meant = host.parse::<std::net::Ipv6Addr>().is_ok();
            let example = if is_meant { format!("[{host}]:{port}") } else { "[::1]:8080".to_owned() };
            return Err(bad(&format!("is not an address (IPv6 is written {example:?})")));
        }
        check_host(host)
            .map_err(|why| bad(&format!("is neither \"ip:port\" nor \"hostname:port\": {host:?} {why}")))?;
        Ok(Address::Host { host: host.to_ascii_lowercase(), port })
    }
}

/// What to write in the place of a URL.
fn of_url(scheme: &str, rest: &str) -> String {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // A user and a password have no place in an address, and none in a message.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let is_tls = matches!(scheme, "https" | "wss" | "grpcs" | "tls");
    let address = match (port, is_tls) {
        (true, _) => authority.to_owned(),
        (false, true) => format!("{authority}:443"),
        (false, false) => format!("{authority}:80"),
    };
    let tls = if is_tls { " and `tls: {}` beside `endpoints`" } else { "" };
    format!("write {address:?}{tls}")
}

/// What to write in the place of nginx's `server` with the first of its parameters.
fn of_server(address: &str, parameters: &str) -> String {
    let first = parameters.split_whitespace().next().unwrap_or_default();
    let with = match first.split_once('=') {
        Some(("weight", weight)) if weight.parse::<u16>().is_ok() => Some(format!("weight: {weight}")),
        None if first == "backup" => Some("priority: 1".to_owned()),
        None if first == "down" => Some("weight: 0".to_owned()),
        _ => None,
    };
    match with {
        Some(with) => format!("write `{{address: \"{address}\", {with}}}`"),
        None => format!("write \"{address}\""),
    }
}

/// Variables and templates of other programs.
fn foreign(text: &str) -> Option<String> {
    let name = |text: &str| -> String {
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    if let Some((before, after)) = text.split_once("{{") {
        let (inside, _) = after.split_once("}}")?;
        let word = inside.split('"').nth(1).or_else(|| inside.trim().rsplit(['.', ' ']).next())?;
        let after = after.split_once("}}").map_or("", |(_, after)| after);
        return Some(format!(
            "is no address: templates are not filled in (write `{before}${{env:{}}}{after}`)",
            name(word)
        ));
    }
    let (before, after) = text.split_once('$')?;
    let variable = name(after);
    let rest = after.get(variable.len()..)?;
    (!variable.is_empty()).then(|| {
        format!("is no address: variables are written otherwise (write `{before}${{env:{variable}}}{rest}`)")
    })
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
            ("::1:80", "[::1]:80\""),
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
