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
use crate::{
    convert::{
        draft::{List, Map, Node},
        fields,
    },
    names::check_host,
};

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

/// Bytes of a path that a socket can have (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// `host:port` or `unix:/path`, as we write it.
pub(super) fn endpoint(authority: &str, default_port: u16) -> Option<String> {
    if let Some(path) = authority.strip_prefix("unix:") {
        let path = path.trim_end_matches(':');
        let is_path = path.starts_with('/') && path.len() <= LONGEST_SOCKET;
        return is_path.then(|| format!("unix:{path}"));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, port.parse::<u16>().ok().filter(|port| *port > 0)?)
        }
        _ => (authority, default_port),
    };
    let is_address = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    let is_good = is_address || host.parse::<std::net::Ipv4Addr>().is_ok() || check_host(host).is_ok();
    is_good.then(|| format!("{host}:{port}"))
}

fn of_block(block: &Directive, notes: &mut Notes) -> Result<Map, String> {
    block.mark_read();
    let mut upstream = Map::new();
    let mut endpoints = List::new();
    let (mut failures, mut slowly) = (None, None);
    let balancer = balancer(block, notes);
    let is_hashed = matches!(balancer, Some(Node::Map(_)));
    for server in block.inside().iter().filter(|one| one.name == "server") {
        let Some(Server { endpoint, outlier, slow_start }) = server_of(server.read(), notes) else {
            continue;
        };
        endpoints.push(endpoint);
        if slow_start.is_some() && (is_hashed || slowly.is_some() && slowly != slow_start) {
            notes.leave_in_part(
                server,
                "`slow_start`: it is one for all endpoints, and needs a balancer that is no hash",
            );
        } else {
            slowly = slowly.or(slow_start);
        }
        if failures.is_some() && outlier.is_some() && failures != outlier {
            notes.leave_in_part(
                server,
                "`max_fails` and `fail_timeout` are one for all endpoints: those of the first server hold",
            );
        }
        failures = failures.or(outlier);
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
    if let Some(time) = slowly {
        upstream.set("slow_start", time);
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
            "zone" => notes.needless(directive, "since all threads share what is known of upstreams"),
            "keepalive_requests" | "keepalive_time" => {
                notes.needless(directive, "since a connection to an upstream is kept as long as it is good")
            }
            "sticky" => match affinity(directive, notes) {
                Ok(affinity) => upstream.set("affinity", affinity),
                Err(why) => notes.leave(directive, why),
            },
            "server" | "least_conn" | "ip_hash" | "hash" | "random" => {}
            _ => notes.leave(directive, "upstreams have no such setting here"),
        }
    }
    Ok(upstream)
}

/// `sticky cookie NAME ...`; the other ways to know a session have no equal.
fn affinity(sticky: &Directive, notes: &mut Notes) -> Result<Map, &'static str> {
    if sticky.first() != "cookie" {
        return Err(
            "a session is known by a cookie of the gateway's own, or by a header in which endpoints name it: see `affinity`",
        );
    }
    let name = sticky.read().argument(1);
    if http::HeaderName::try_from(name).is_err() {
        return Err("no cookie has such a name");
    }
    let mut cookie = Map::new().with("name", name);
    for option in sticky.texts().skip(2) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("expires", time) => match units::duration(time).filter(|time| time != "0s") {
                Some(time) => cookie.set("max_age", time),
                None => notes.leave_in_part(sticky, format!("`{option}`: a cookie lives for a time above 0")),
            },
            ("path", path) if path.starts_with('/') => cookie.set("path", fields::literal(path)),
            ("samesite", site @ ("strict" | "lax" | "none")) => cookie.set("same_site", site),
            ("secure", "") => cookie.set("secure", true),
            // It always is.
            ("httponly", "") => {}
            ("domain", _) => notes.leave_in_part(
                sticky,
                format!("`{option}`: the cookie is for the host that the client has asked for"),
            ),
            _ => notes.leave_in_part(sticky, format!("`{option}`: it is not known here")),
        }
    }
    Ok(Map::new().with("cookie", cookie))
}

struct Server {
    endpoint: Node,
    /// What `max_fails` and `fail_timeout` say where they say something.
    outlier: Option<Node>,
    slow_start: Option<String>,
}

fn server_of(server: &Directive, notes: &mut Notes) -> Option<Server> {
    let Some(address) = endpoint(server.first(), 80) else {
        notes.leave(server, "it is no address of a server");
        return None;
    };
    let (mut weight, mut most, mut wait, mut slow_start, mut is_spare) = (None, None, None, None, false);
    for option in server.texts().skip(1) {
        let mut leave = |why: &str| notes.leave_in_part(server, format!("`{option}`: {why}"));
        match option.split_once('=').unwrap_or((option, "")) {
            ("weight", number) => {
                weight = number.parse::<i64>().ok().filter(|number| (1..=65_535).contains(number));
                if weight.is_none() {
                    leave("a weight is a number from 1 to 65535");
                }
            }
            ("max_fails", number) => most = number.parse::<i64>().ok(),
            ("fail_timeout", time) => wait = units::duration(time).filter(|time| time != "0s"),
            ("slow_start", time) => slow_start = units::duration(time).filter(|time| time != "0s"),
            ("resolve", "") => notes.needless_part(
                server,
                option,
                "since names of endpoints are looked up again by themselves",
            ),
            ("down" | "drain", "") => weight = Some(0),
            ("backup", "") => {
                is_spare = true;
                notes.differ(server, "`backup` (spare endpoints get requests as soon as less than 71% of the others can be used, and not only when none can)");
            }
            ("max_conns", _) => leave(
                "endpoints have no limit of their own: `pool.max_requests` is one for all of an upstream",
            ),
            ("route", _) => leave("a session is known by a cookie or a header: see `affinity`"),
            ("service", _) => leave("SRV records are an endpoint of their own: `{srv: NAME}`"),
            _ => leave("it is not known here"),
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
    let mut endpoint = Map::new().with("address", address.as_str());
    if let Some(weight) = weight {
        endpoint.set("weight", weight);
    }
    if is_spare {
        endpoint.set("priority", 1_i64);
    }
    let endpoint = if endpoint.entries().count() == 1 { Node::from(address) } else { Node::from(endpoint) };
    Some(Server { endpoint, outlier: failures, slow_start })
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

#[cfg(test)]
mod tests {
    use crate::convert::nginx::converted;

    /// An upstream with this inside, and a server that leads there.
    fn with(inside: &str) -> (serde_json::Value, String, String) {
        let (file, left) = converted(&format!(
            "upstream app {{ {inside} }} server {{ listen 80; location / {{ proxy_pass http://app; }} }}"
        ));
        let read: serde_json::Value = serde_yaml::from_str(&file).unwrap();
        (read["upstreams"]["app"].clone(), file, left)
    }

    #[test]
    fn what_is_no_address_here_is_named() {
        let (name, path) = ("t".repeat(64), "t".repeat(108));
        for address in [format!("{name}:80"), format!("unix:/{path}"), "1.2.3:80".to_owned()] {
            let (upstream, file, left) = with(&format!("server 10.0.0.1; server {address};"));
            assert_eq!(upstream["endpoints"], serde_json::json!(["10.0.0.1:80"]), "{file}");
            assert!(left.contains("it is no address of a server"), "{left}");
        }
    }

    #[test]
    fn no_parameter_of_a_server_is_passed_over() {
        for (parameter, expected) in [
            ("weight=3", serde_json::json!({"address": "10.0.0.2:80", "weight": 3})),
            ("down", serde_json::json!({"address": "10.0.0.2:80", "weight": 0})),
            ("drain", serde_json::json!({"address": "10.0.0.2:80", "weight": 0})),
            ("backup", serde_json::json!({"address": "10.0.0.2:80", "priority": 1})),
            ("backup weight=2", serde_json::json!({"address": "10.0.0.2:80", "weight": 2, "priority": 1})),
        ] {
            let (upstream, file, left) = with(&format!("server 10.0.0.1; server 10.0.0.2 {parameter};"));
            assert_eq!(upstream["endpoints"], serde_json::json!(["10.0.0.1:80", expected]), "{file}");
            assert_eq!(
                (left.as_str(), file.contains("Not quite the same: `backup`")),
                ("", parameter.contains("backup")),
                "{file}"
            );
        }
        let (upstream, ..) = with("server 10.0.0.1 slow_start=30s max_fails=2 fail_timeout=5s;");
        assert_eq!(upstream["slow_start"], "30s");
        assert_eq!(upstream["outlier"]["consecutive_failures"], 2);
        let (_, file, left) = with("server a.example resolve;");
        assert!(left.is_empty() && file.contains("`resolve` of `server` (a.conf:1)"), "{file}{left}");
        for parameter in
            ["max_conns=5", "route=a", "service=http", "weight=0", "weight=x", "bogus", "bogus=1", "backup=1"]
        {
            let (upstream, file, left) = with(&format!("server 10.0.0.1 {parameter};"));
            assert_eq!(upstream["endpoints"][0], "10.0.0.1:80");
            assert!(left.contains(&format!("(`{parameter}`: ")) && file.contains(&left), "{file}{left}");
        }
        for inside in [
            "server 10.0.0.1 max_fails=2; server 10.0.0.2 max_fails=3;",
            "server 10.0.0.1 slow_start=1s; server 10.0.0.2 slow_start=2s;",
            "ip_hash; server 10.0.0.1 slow_start=1s;",
        ] {
            assert!(with(inside).2.contains("for all endpoints"), "{inside}");
        }
    }

    #[test]
    fn a_sticky_cookie_is_an_affinity() {
        let (upstream, file, left) = with(
            "server 10.0.0.1; server 10.0.0.2; sticky cookie at expires=1h path=/a samesite=strict secure httponly domain=.example.com;",
        );
        let expected = serde_json::json!({"cookie": {"name": "at", "max_age": "3600s", "path": "/a", "same_site": "strict", "secure": true}});
        assert_eq!(upstream["affinity"], expected, "{file}");
        assert!(left.contains("(`domain=.example.com`: "), "{left}");
        for sticky in
            ["sticky route $cookie_a;", "sticky learn create=$a lookup=$b zone=c:1m;", "sticky cookie;"]
        {
            let (upstream, _, left) = with(&format!("server 10.0.0.1; {sticky}"));
            assert!(upstream["affinity"].is_null() && left.contains("not carried over: sticky"), "{left}");
        }
    }
}
