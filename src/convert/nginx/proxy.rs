//! `proxy_pass` and `grpc_pass`: which upstream, how it is spoken to, and which path and host it sees.

use super::{
    manner::{self, Manner},
    order::Kind,
    parser::Directive,
    patterns, places, rewrite,
    scope::Scope,
    values::{Piece, Purpose, Values, pieces},
    world::{World, filter},
};
use crate::convert::draft::{List, Map, Node};
use crate::convert::fields;

/// Where requests go, and what is changed on the way.
pub(super) struct Passed {
    pub(super) ways: Vec<Way>,
    pub(super) changes: Vec<Map>,
}

/// One for each kind of requests that goes to an upstream of its own.
pub(super) struct Way {
    /// What only these match.
    pub(super) matching: Map,
    /// The route's own keys.
    pub(super) route: Map,
    /// What nginx calls `$proxy_host`; none where it is not known before the upstream is chosen.
    pub(super) host: Option<String>,
}

/// `scheme://authority/uri`
struct Target {
    is_tls: bool,
    is_grpc: bool,
    authority: String,
    /// With what stands before it; none where the request's own is passed on.
    uri: Option<String>,
}

/// # Errors
///
/// Why requests cannot be passed on so.
pub(super) fn read(
    directive: &Directive,
    scope: &Scope<'_>,
    kind: &Kind,
    values: &Values,
    changed: Option<&str>,
    world: &mut World<'_>,
) -> Result<Passed, String> {
    let target = Target::read(&values.expanded(directive.first()))?;
    let manner = Manner::read(&target.authority, target.is_tls, target.is_grpc, scope, world)?;
    let mut changes = match &target.uri {
        None => Vec::new(),
        Some(uri) => {
            let mut change = path(uri, kind, values)?;
            if let Some(changed) = changed {
                change.set(
                    "unless",
                    Map::new().with("path", Map::new().with("regex", fields::literal(changed))),
                );
            }
            vec![change]
        }
    };
    if !target.is_grpc {
        changes.extend(places::read(scope, values, world));
    }
    let mut ways = ways(&target, &manner, world)?;
    let servers = world.upstreams.servers(&target.authority);
    if let Some(retry) = manner::retry(scope, servers, world) {
        ways.iter_mut().for_each(|way| way.route.set("retry", retry.clone()));
    }
    Ok(Passed { ways, changes })
}

impl Target {
    fn read(text: &str) -> Result<Target, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("grpc", text));
        let (is_tls, is_grpc) = match scheme {
            "http" => (false, false),
            "https" => (true, false),
            "grpc" if !text.contains("://") && !text.contains(':') && text.contains('$') => {
                return Err("where requests go is not known before they come".to_owned());
            }
            "grpc" => (false, true),
            "grpcs" => (true, true),
            _ => return Err(format!("{scheme:?} is not spoken to upstreams")),
        };
        let (authority, uri) = match rest.strip_prefix("unix:") {
            Some(path) => match path.split_once(':') {
                Some((path, uri)) => (format!("unix:{path}"), uri),
                None => (rest.to_owned(), ""),
            },
            // A variable behind the name begins the URI as well as a slash does.
            None => {
                let at = rest
                    .find('/')
                    .or_else(|| rest.find("${request_uri}"))
                    .or_else(|| rest.find("${uri}"))
                    .unwrap_or(rest.len());
                (rest[..at].to_owned(), &rest[at..])
            }
        };
        let uri = match uri {
            "" | "${request_uri}" | "${uri}${is_args}${args}" => None,
            uri => Some(uri.to_owned()),
        };
        Ok(Target { is_tls, is_grpc, authority, uri })
    }
}

impl Way {
    fn to(authority: &str, matching: Map, manner: &Manner, world: &mut World<'_>) -> Result<Way, String> {
        let name = world.upstreams.name(authority, manner, &mut world.notes)?;
        let default_port = if manner.is_tls { ":443" } else { ":80" };
        let host = authority.strip_suffix(default_port).unwrap_or(authority);
        let host = if host.starts_with("unix:") { "localhost" } else { host };
        Ok(Way { matching, route: Map::new().with("upstream", name), host: Some(host.to_owned()) })
    }
}

/// An upstream for all, one for each value of a map, or a split.
fn ways(target: &Target, manner: &Manner, world: &mut World<'_>) -> Result<Vec<Way>, String> {
    let variable = match pieces(&target.authority).as_slice() {
        [Piece::Variable(name)] => name.clone(),
        [Piece::Text(_)] => {
            return Ok(vec![Way::to(&target.authority, Map::new(), manner, world)?]);
        }
        _ => return Err("where requests go is not known before they come".to_owned()),
    };
    if let Some(split) = world.splits.get(&variable).copied() {
        let route = Map::new().with("split", self::split(split.read(), manner, world)?);
        return Ok(vec![Way { matching: Map::new(), route, host: None }]);
    }
    let mapping =
        world.maps.get(&variable).cloned().ok_or("where requests go is not known before they come")?;
    mapping.usable()?;
    let is_of_fields =
        |matching: &Map| matching.entries().all(|(key, _)| matches!(key.as_str(), "headers" | "query"));
    if !mapping.entries.iter().all(|(matching, _)| is_of_fields(matching)) {
        return Err(
            "a map to upstreams goes by a header, a cookie or a parameter of the query here".to_owned()
        );
    }
    let default = (Map::new(), mapping.default.clone());
    let entries = mapping.entries.iter().cloned().chain([default]);
    entries.map(|(matching, value)| Way::to(&value, matching, manner, world)).collect()
}

fn split(directive: &Directive, manner: &Manner, world: &mut World<'_>) -> Result<Map, String> {
    let by: Node = match pieces(directive.first()).iter().find_map(|piece| match piece {
        Piece::Variable(name) => Some(name.as_str()),
        Piece::Text(_) => None,
    }) {
        Some("remote_addr" | "binary_remote_addr") => "client_ip".into(),
        Some("request_id" | "msec" | "connection") => "random".into(),
        Some(name) if name.starts_with("cookie_") => {
            Map::new().with("cookie", &name["cookie_".len()..]).into()
        }
        Some(name) if name.starts_with("http_") => {
            Map::new().with("header", name["http_".len()..].replace('_', "-")).into()
        }
        _ => return Err("requests are split by an address, a header, a cookie, or at random".to_owned()),
    };
    world
        .notes
        .differ(directive, "a split takes other clients for each variant than nginx did, in the same shares");
    let (mut to, mut left) = (List::new(), 10_000);
    for share in directive.inside() {
        let weight = match share.read().name.strip_suffix('%').map(str::parse::<f64>) {
            Some(Ok(percent)) if (0.0..=100.0).contains(&percent) => (percent * 100.0).round() as i64,
            _ if share.name == "*" => left,
            _ => return Err(format!("{:?} is no share", share.name)),
        };
        left = (left - weight).max(0);
        let upstream = world.upstreams.name(share.first(), manner, &mut world.notes)?;
        to.push(Map::new().with("name", share.first()).with("upstream", upstream).with("weight", weight));
    }
    Ok(Map::new().with("by", by).with("to", to))
}

/// What an upstream's path is: what `proxy_pass` says takes the place of what the location says.
fn path(uri: &str, kind: &Kind, values: &Values) -> Result<Map, String> {
    let regex = |pattern: String, replacement: &str| {
        let replacement = patterns::encoded(replacement).replace('$', "$$");
        filter(
            "rewrite",
            Map::new().with(
                "regex",
                Map::new()
                    .with("pattern", fields::literal(&pattern))
                    .with("replacement", fields::literal(&replacement)),
            ),
        )
    };
    let is_constant = !uri.contains('$');
    match kind {
        Kind::Prefix(prefix) if is_constant && !uri.contains('?') => {
            let (stripped, added) = (prefix.strip_suffix('/'), uri.strip_suffix('/'));
            match (stripped, added) {
                (Some(stripped), Some(added)) if patterns::is_plain(prefix) && patterns::is_plain(uri) => {
                    let mut rewrite = Map::new();
                    if !stripped.is_empty() {
                        rewrite.set("strip_prefix", stripped);
                    }
                    if !added.is_empty() {
                        rewrite.set("add_prefix", added);
                    }
                    // `/` for `/` changes nothing, and is written so that the path is in normal form for the upstream.
                    if rewrite.is_empty() {
                        Ok(regex("^/".to_owned(), "/"))
                    } else {
                        Ok(filter("rewrite", rewrite))
                    }
                }
                _ => Ok(regex(format!("^{}", regex::escape(&patterns::encoded(prefix))), uri)),
            }
        }
        Kind::Exact(_) if is_constant => {
            Ok(filter("rewrite", Map::new().with("path", patterns::encoded_target(uri))))
        }
        Kind::Regex(pattern) if uri.contains('$') && !uri.contains('?') => of_groups(uri, pattern, values),
        Kind::Prefix(_) if is_constant => {
            Err("a path that is put before the rest, and has a query, cannot be said here".to_owned())
        }
        _ if is_constant => Err("a location with an expression passes the whole path on".to_owned()),
        // With variables it is all of the path, and of the query.
        _ => {
            let filled = values.filled(uri, Purpose::Url)?;
            if !filled.starts_with('/') {
                return Err("what is passed on is no path".to_owned());
            }
            let path = if filled.contains('?') { filled } else { format!("{filled}?") };
            Ok(filter("rewrite", Map::new().with("path", path)))
        }
    }
}

/// `/x/$1`, with the groups of the location's expression; the query is gone, but where `$is_args$args` stands.
fn of_groups(uri: &str, pattern: &str, values: &Values) -> Result<Map, String> {
    let (path, keeps_query) = match uri.strip_suffix("${is_args}${args}") {
        Some(path) => (path, true),
        None => (uri, false),
    };
    if !keeps_query {
        return Err("the query is passed on here: write `$is_args$args` behind the path".to_owned());
    }
    Ok(filter("rewrite", Map::new().with("regex", rewrite::replaced(pattern, path, values)?)))
}
