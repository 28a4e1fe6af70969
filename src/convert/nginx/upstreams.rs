//! `upstream` blocks, and one upstream of ours for each way in which a server is spoken to: what nginx says where it passes requests on
//! (timeouts, TLS, the version of HTTP), the upstream says here.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    manner::Manner,
    notes::Notes,
    parser::Directive,
    units,
    values::{Piece, pieces},
};
use crate::convert::draft::{List, Map, Node};

#[derive(Default)]
pub(super) struct Upstreams<'f> {
    blocks: BTreeMap<String, &'f Directive>,
    /// In the order in which they were first used.
    made: Vec<(String, Map)>,
    /// Where in `made` those stand that were made of one name.
    of_name: BTreeMap<String, Vec<usize>>,
    names: BTreeSet<String>,
}

impl<'f> Upstreams<'f> {
    pub(super) fn define(&mut self, directive: &'f Directive) {
        self.blocks.insert(directive.first().to_owned(), directive);
    }

    pub(super) fn block(&self, name: &str) -> Option<&'f Directive> {
        self.blocks.get(name).copied()
    }

    /// How many servers stand behind a name.
    pub(super) fn servers(&self, name: &str) -> usize {
        self.block(name).map_or(1, |block| block.inside().iter().filter(|one| one.name == "server").count())
    }

    /// The name of the upstream for what nginx calls `authority`.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) fn name(
        &mut self,
        authority: &str,
        manner: &Manner,
        notes: &mut Notes,
    ) -> Result<String, String> {
        let mut upstream = match self.block(authority) {
            Some(block) => of_block(block, notes)?,
            None => {
                let default = if manner.is_tls { 443 } else { 80 };
                let endpoint = endpoint(authority, default)
                    .ok_or_else(|| format!("{authority:?} is no address of a server"))?;
                Map::new().with("endpoints", List::from_iter([endpoint]))
            }
        };
        for (key, value) in manner.options.entries() {
            upstream.set(key, value.clone());
        }
        let plain = plain_name(authority);
        let same = self.of_name.get(&plain).into_iter().flatten().map(|at| &self.made[*at]);
        if let Some((name, _)) = { same }.find(|(_, made)| *made == upstream) {
            return Ok(name.clone());
        }
        let numbered = (2..).map(|number| format!("{plain}-{number}"));
        let mut wanted = std::iter::once(plain.clone()).chain(numbered);
        let name = wanted.find(|name| !self.names.contains(name)).expect("numbers do not end");
        self.names.insert(name.clone());
        self.of_name.entry(plain).or_default().push(self.made.len());
        self.made.push((name.clone(), upstream));
        Ok(name)
    }

    pub(super) fn into_map(self) -> Map {
        self.made.into_iter().collect()
    }
}

fn plain_name(authority: &str) -> String {
    let name: String = authority
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .collect();
    let name = name.trim_matches('-').to_owned();
    if name.is_empty() { "upstream".to_owned() } else { name }
}

/// `host:port` or `unix:/path`, as we write it.
pub(super) fn endpoint(authority: &str, default_port: u16) -> Option<String> {
    if let Some(path) = authority.strip_prefix("unix:") {
        let path = path.trim_end_matches(':');
        return path.starts_with('/').then(|| format!("unix:{path}"));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, port.parse::<u16>().ok().filter(|port| *port > 0)?)
        }
        _ => (authority, default_port),
    };
    let is_name = !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
        && !host.starts_with('.')
        && !host.contains("..");
    let is_address = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    // All digits and dots must be an address.
    let is_numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_good = is_address || (is_name && (!is_numeric || host.parse::<std::net::Ipv4Addr>().is_ok()));
    is_good.then(|| format!("{host}:{port}"))
}

fn of_block(block: &Directive, notes: &mut Notes) -> Result<Map, String> {
    block.mark_read();
    let mut upstream = Map::new();
    let mut endpoints = List::new();
    let mut failures = None;
    let balancer = balancer(block, notes);
    for server in block.inside().iter().filter(|one| one.name == "server") {
        if let Some((endpoint, outlier)) = server_of(server.read(), notes) {
            endpoints.push(endpoint);
            failures = failures.or(outlier);
        }
    }
    if endpoints.is_empty() {
        return Err(format!("upstream `{}` has no server that can be carried over", block.first()));
    }
    upstream.set("endpoints", endpoints);
    if let Some(balancer) = balancer {
        upstream.set("balancer", balancer);
    }
    if let Some(failures) = failures {
        upstream.set("outlier", failures);
    }
    for directive in block.inside() {
        match directive.name.as_str() {
            "keepalive" => {
                if let Some(number) =
                    directive.read().first().parse::<i64>().ok().filter(|number| *number >= 0)
                {
                    upstream.set("pool", Map::new().with("idle_connections", number));
                }
            }
            "keepalive_timeout" => {
                if let Some(time) = units::duration(directive.read().first()).filter(|time| time != "0s") {
                    upstream.set("idle_timeout", time);
                }
            }
            "zone" | "keepalive_requests" | "keepalive_time" => {
                notes.needless(directive, "since all threads share what is known of upstreams")
            }
            "server" | "least_conn" | "ip_hash" | "hash" | "random" => {}
            _ => notes.leave(directive, "upstreams have no such setting here"),
        }
    }
    Ok(upstream)
}

/// The endpoint, and what `max_fails` and `fail_timeout` say where they say something.
fn server_of(server: &Directive, notes: &mut Notes) -> Option<(Node, Option<Node>)> {
    let Some(address) = endpoint(server.first(), 80) else {
        notes.leave(server, "it is no address of a server");
        return None;
    };
    let (mut weight, mut most, mut wait) = (None, None, None);
    for option in server.texts().skip(1) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("weight", number) => {
                weight = number.parse::<i64>().ok().filter(|number| (1..=65_535).contains(number))
            }
            ("max_fails", number) => most = number.parse::<i64>().ok(),
            ("fail_timeout", time) => wait = units::duration(time).filter(|time| time != "0s"),
            ("slow_start" | "resolve", _) => {}
            ("down", _) => weight = Some(0),
            ("backup", _) => {
                notes.leave(server, "there are no spare servers: give it weight, or a second upstream");
                return None;
            }
            _ => notes.leave(server, format!("an endpoint has no `{option}`")),
        }
    }
    let failures: Option<Node> = match (most, wait) {
        (None, None) => None,
        (Some(0), _) => Some("off".into()),
        (most, wait) => {
            let mut outlier = Map::new();
            outlier.set("consecutive_failures", most.filter(|most| *most > 0).unwrap_or(1));
            outlier.set("eject_for", wait.unwrap_or_else(|| "10s".to_owned()));
            let longest = outlier.find("eject_for").cloned();
            longest.into_iter().for_each(|longest| outlier.set("max_eject_for", longest));
            Some(outlier.into())
        }
    };
    let endpoint = match weight {
        None => address.into(),
        Some(weight) => Map::new().with("address", address).with("weight", weight).into(),
    };
    Some((endpoint, failures))
}

fn balancer(block: &Directive, notes: &mut Notes) -> Option<Node> {
    let hash = |by: Node| Some(Map::new().with("hash", by).into());
    let mut found = None;
    for directive in block.inside() {
        match directive.name.as_str() {
            "least_conn" => found = Some("least_requests".into()),
            "ip_hash" => found = hash("client_ip".into()),
            "random" => {
                found = Some(
                    if directive.argument(1) == "least_conn" || directive.argument(0) == "two" {
                        "p2c_ewma"
                    } else {
                        "random"
                    }
                    .into(),
                )
            }
            "hash" => match pieces(directive.first()).as_slice() {
                [Piece::Variable(name)] if matches!(name.as_str(), "remote_addr" | "binary_remote_addr") => {
                    found = hash("client_ip".into())
                }
                [Piece::Variable(name)] if name.starts_with("cookie_") => {
                    found = hash(Map::new().with("cookie", &name["cookie_".len()..]).into())
                }
                [Piece::Variable(name)] if name.starts_with("http_") => {
                    found = hash(Map::new().with("header", name["http_".len()..].replace('_', "-")).into());
                }
                _ => {
                    notes.leave(
                        directive,
                        "endpoints are chosen by the hash of an address, a header or a cookie",
                    );
                    continue;
                }
            },
            _ => continue,
        }
        directive.read();
    }
    found
}
