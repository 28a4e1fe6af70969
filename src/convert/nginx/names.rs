//! `listen` and `server_name`: which addresses there are, and whose requests a server takes.

use super::{notes::Notes, parser::Directive, scope::Scope};

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
        let (address, port) = match address(directive.read().first()) {
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
        let is_default = has("default_server") || has("default");
        let (is_tls, has_proxy_protocol) = (is_tls || has("ssl"), has("proxy_protocol"));
        Some(Listen { directive: Some(directive), address, port, is_default, is_tls, has_proxy_protocol })
    });
    listens.collect()
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
                            "{name:?} is an expression, and hosts are names here: name those that it means"
                        ),
                    );
                    continue;
                }
                name => match name.strip_prefix('.') {
                    Some(rest) if is_host(rest) => vec![rest.to_owned(), format!("*.{rest}")],
                    None if is_host(name.strip_prefix("*.").unwrap_or(name)) => vec![name.to_owned()],
                    _ => {
                        notes
                            .leave(directive, format!("{name:?} is no name that a route's `hosts` can have"));
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
