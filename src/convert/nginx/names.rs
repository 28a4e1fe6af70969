//! `listen` and `server_name`: which addresses there are, and whose requests a server takes.

use super::{
    confined::{escaped, widened},
    notes::Notes,
    parser::Directive,
    patterns,
    scope::Scope,
};

/// One address that a server listens on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listen<'f> {
    pub(super) directive: Option<&'f Directive>,
    /// As a listener has it.
    pub(super) address: String,
    pub(super) port: Option<u16>,
    pub(super) is_default: bool,
    pub(super) is_tls: bool,
    pub(super) has_proxy_protocol: bool,
}

/// What a server listens on; port 80 of all addresses where it does not say.
pub(super) fn listens<'f>(scope: &Scope<'f>, notes: &mut Notes) -> Vec<Listen<'f>> {
    let directives: Vec<&Directive> = scope.own().iter().filter(|one| one.name == "listen").collect();
    if directives.is_empty() {
        let all = Listen {
            directive: None,
            address: "0.0.0.0:80".to_owned(),
            port: Some(80),
            is_default: false,
            is_tls: false,
            has_proxy_protocol: false,
        };
        return vec![all];
    }
    let is_tls = scope.own().iter().any(|one| one.name == "ssl" && one.read().first() == "on");
    let listens = directives.into_iter().filter_map(|directive| {
        let (mut address, port) = match address(directive.read().first()) {
            Some(found) => found,
            None => {
                notes.leave(directive, "that is no address to listen on");
                return None;
            }
        };
        let has = |name: &str| directive.texts().skip(1).any(|text| text == name);
        if has("udp") || has("quic") {
            notes.leave(directive, "there is no UDP here");
            return None;
        }
        name_parameters(directive, notes);
        if let (Some(port), true) = (port, has("ipv6only=off") && address.starts_with("[::]:")) {
            address = format!(":{port}");
        }
        let is_default = has("default_server") || has("default");
        let (is_tls, has_proxy_protocol) = (is_tls || has("ssl"), has("proxy_protocol"));
        Some(Listen { directive: Some(directive), address, port, is_default, is_tls, has_proxy_protocol })
    });
    listens.collect()
}

enum Parameter {
    /// What it says is in the listener.
    Read,
    Needless(&'static str),
    Left(&'static str),
}

/// Says what becomes of each parameter that no listener has.
fn name_parameters(listen: &Directive, notes: &mut Notes) {
    for text in listen.texts().skip(1) {
        match parameter(text) {
            Parameter::Read => {}
            Parameter::Needless(why) => notes.needless_part(listen, text, why),
            Parameter::Left(why) => notes.leave_in_part(listen, format!("`{text}`: {why}")),
        }
    }
}

fn parameter(text: &str) -> Parameter {
    const THREADS: &str = "since the gateway's own threads share its connections out";
    match text.split_once('=').unwrap_or((text, "")) {
        ("default_server" | "default" | "ssl" | "proxy_protocol", "") | ("ipv6only", "on" | "off") => {
            Parameter::Read
        }
        ("http2", "") => Parameter::Needless("since HTTP/2 is spoken at each address"),
        ("bind" | "deferred" | "reuseport", "") | ("accept_filter", _) => Parameter::Needless(THREADS),
        ("so_keepalive", "on") => {
            Parameter::Needless("since a silent peer is always asked whether it is there")
        }
        ("so_keepalive", _) => {
            Parameter::Left("a silent peer is asked after a minute, and taken for gone after another")
        }
        ("backlog", _) => {
            Parameter::Left("4,096 connections wait, or as many as `net.core.somaxconn` allows")
        }
        ("rcvbuf" | "sndbuf", _) => Parameter::Left(
            "the system chooses the size of a socket's buffers: see `net.ipv4.tcp_rmem` and `tcp_wmem`",
        ),
        ("fastopen", _) => Parameter::Left("TCP Fast Open is not used"),
        ("setfib", _) => Parameter::Left("there is one routing table"),
        ("multipath", "") => Parameter::Left("Multipath TCP is not used"),
        ("spdy", "") => Parameter::Left("SPDY is not spoken: HTTP/2 is"),
        _ => Parameter::Left("it is not known here"),
    }
}

fn address(text: &str) -> Option<(String, Option<u16>)> {
    if let Some(path) = text.strip_prefix("unix:") {
        return path.starts_with('/').then(|| (text.to_owned(), None));
    }
    if let Ok(port) = text.parse::<u16>() {
        return Some((format!("0.0.0.0:{port}"), Some(port)));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()?),
        _ => (text, 80),
    };
    let host = match host {
        "*" => "0.0.0.0".to_owned(),
        "localhost" => "127.0.0.1".to_owned(),
        host => match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => format!("[{}]", inner.parse::<std::net::Ipv6Addr>().ok()?),
            None => host.parse::<std::net::Ipv4Addr>().ok()?.to_string(),
        },
    };
    Some((format!("{host}:{port}"), Some(port)))
}

/// The names that `match.hosts` can have.
pub(super) fn hosts(scope: &Scope<'_>, notes: &mut Notes) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for directive in scope.own().iter().filter(|one| one.name == "server_name") {
        for name in directive.read().texts() {
            let lower = name.to_ascii_lowercase();
            let found = match lower.as_str() {
                "_" | "" | "-" | "--" => continue,
                name if name.starts_with('~') => {
                    notes.leave(
                        directive,
                        format!(
                            "{name:?} is an expression, and hosts are names here: name those that it means, since they get the default server"
                        ),
                    );
                    continue;
                }
                name => match name.strip_prefix('.') {
                    Some(rest) if is_host(rest) => vec![rest.to_owned(), format!("*.{rest}")],
                    None if is_host(name.strip_prefix("*.").unwrap_or(name)) => vec![name.to_owned()],
                    _ => {
                        notes
                            .leave(directive, format!("{name:?} is no name that a route's `hosts` can have: name those that it means, since they get the default server"));
                        continue;
                    }
                },
            };
            found.into_iter().for_each(|host| {
                if !hosts.contains(&host) {
                    hosts.push(host)
                }
            });
        }
    }
    hosts
}

/// What a field `host` is where a name that no `hosts` can have may mean it.
pub(super) fn expressions(scope: &Scope<'_>) -> Vec<String> {
    let names = scope.own().iter().filter(|one| one.name == "server_name").flat_map(Directive::texts);
    let of_name = |name: &str| match (name.strip_prefix('~'), name.strip_suffix(".*")) {
        // Without its end, as a port may stand behind it.
        (Some(pattern), _) => patterns::regex(&widened(pattern.trim_end_matches('$')), true).ok(),
        (None, Some(name)) if is_host(name) => patterns::regex(&format!("^{}[.]", escaped(name)), true).ok(),
        _ => None,
    };
    names.filter_map(of_name).filter(|pattern| !pattern.contains('$')).collect()
}

pub(super) fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() < 64
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() < 254 && name.split('.').all(is_label)
}

/// Whether a wildcard among `others` takes one of these names as well.
pub(super) fn is_covered(hosts: &[String], others: &[String]) -> bool {
    let suffixes = others.iter().filter_map(|other| other.strip_prefix('*'));
    suffixes.into_iter().any(|suffix| hosts.iter().any(|host| host.ends_with(suffix)))
}

#[cfg(test)]
mod tests {
    use crate::convert::nginx::converted;

    #[test]
    fn no_parameter_of_listen_is_passed_over() {
        for parameter in [
            "http2",
            "bind",
            "deferred",
            "reuseport",
            "accept_filter=dataready",
            "so_keepalive=on",
            "so_keepalive=30m::10",
            "so_keepalive=off",
            "backlog=100",
            "rcvbuf=1k",
            "sndbuf=1k",
            "fastopen=3",
            "setfib=1",
            "multipath",
            "spdy",
            "bogus",
            "bogus=1",
        ] {
            for text in [
                format!("server {{ listen 80 {parameter}; return 204; }}"),
                format!("stream {{ server {{ listen 5432 {parameter}; proxy_pass 10.0.0.1:5432; }} }}"),
            ] {
                let (file, left) = converted(&text);
                let is_needless = file.lines().any(|line| {
                    line.starts_with("# Needs no equal")
                        && line.contains(&format!("`{parameter}` of `listen` (a.conf:1)"))
                });
                let is_left = left.starts_with("a.conf:1: not carried over: listen ")
                    && left.contains(&format!("(`{parameter}`: "));
                assert!(is_needless != is_left, "{parameter}: {file}{left}");
                assert_eq!(left.contains("it is not known here"), parameter.starts_with("bogus"), "{left}");
            }
        }
        for listen in ["80", "80 default_server", "[::]:80 ipv6only=on"] {
            let (file, left) = converted(&format!("server {{ listen {listen}; return 204; }}"));
            assert!(!file.contains("of `listen`") && left.is_empty(), "{file}{left}");
        }
    }

    #[test]
    fn an_address_of_both_families_is_one_listener() {
        let (file, left) = converted("server { listen [::]:80 ipv6only=off; return 204; }");
        assert!(file.contains("address: \":80\"") && left.is_empty(), "{file}{left}");
        let (file, _) = converted("server { listen [::]:80 ipv6only=on; return 204; }");
        assert!(file.contains("address: \"[::]:80\""), "{file}");
    }
}
