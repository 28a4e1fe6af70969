//! A word where a map is due, a map where a list is due, and the like: the shape, with what was written put in.

use super::{ITEM, Place, flow, hidden::shape, keys::FILTERS, names, place, routing};
use crate::config::document::{
    node::shortened,
    problem::{Path, Segment},
    secrets::is_secret,
    slips::glued,
};

/// What stands where something else is expected.
pub(in crate::config) struct Misfit<'a> {
    pub path: &'a Path,
    /// In our words, such as "a list".
    pub expected: &'a str,
    /// Of a scalar, as it may be shown.
    pub text: Option<&'a str>,
    /// Of a map.
    pub first_key: Option<&'a str>,
    /// Of the map that is due.
    pub keys: &'a [&'a str],
    pub is_list: bool,
    /// All of a list, as it may be shown.
    pub list: Option<&'a str>,
}

pub(in crate::config) fn misfit(found: &Misfit<'_>) -> Option<String> {
    turned_off(found)
        .or_else(|| at_its_place(found))
        .or_else(|| whole_filter(found))
        .or_else(|| with_keys(found))
}

fn turned_off(found: &Misfit<'_>) -> Option<String> {
    filter_at(found.path).filter(|_| matches!(found.text, Some("false" | "off" | "no")))?;
    Some("leave the filter out to turn it off".to_owned())
}

/// The filter whose options are due there.
fn filter_at(path: &Path) -> Option<&str> {
    match names(path).as_slice() {
        [.., "filters", ITEM, name] | ["filters", _, ITEM, name] => Some(*name),
        _ => None,
    }
}

/// A filter with its most frequent options: what is written in their place seldom says more than that it be on.
fn whole_filter(found: &Misfit<'_>) -> Option<String> {
    let name = filter_at(found.path)?;
    let text = found.text.map(|text| flow(&shortened(text.trim())));
    let shape = match (name, text, found.list) {
        ("ip_rules", Some(network), _) if network.contains(['.', ':']) => format!("{{allow: [{network}]}}"),
        ("ip_rules", _, Some(networks)) if networks.contains(['.', ':']) => format!("{{allow: {networks}}}"),
        ("cors", Some(origin), _) if origin.contains("://") => format!("{{origins: [{origin}]}}"),
        ("cors", _, Some(origins)) if origins.contains("://") => format!("{{origins: {origins}}}"),
        ("compression", _, Some(algorithms))
            if ["gzip", "br", "zstd"].iter().any(|one| algorithms.contains(one)) =>
        {
            format!("{{algorithms: {algorithms}}}")
        }
        ("ext_auth", Some(url), _) if url.contains("://") => format!("{{url: {url}}}"),
        ("respond", Some(status), _)
            if status.parse::<u16>().is_ok_and(|status| (200..=599).contains(&status)) =>
        {
            format!("{{status: {status}}}")
        }
        ("rewrite", Some(path), _) if path.starts_with('/') => format!("{{strip_prefix: {path}}}"),
        ("redirect", Some(to), _) if to.contains('/') => format!("{{to: {to}}}"),
        (name, ..) => whole(name)?.to_owned(),
    };
    // Where the filter is right and something else is in it, such as a condition.
    let beside = match found.first_key {
        Some(_) => "; `when` and `unless` stand beside the name, as far to the left as it",
        None => "",
    };
    Some(format!("write `{name}: {shape}`{beside}"))
}

fn whole(name: &str) -> Option<&'static str> {
    Some(match name {
        "authz" => "{allow: [{ip: [10.0.0.0/8]}]}",
        "body_limit" => "1MiB",
        "compression" | "grpc_web" | "https_redirect" | "request_id" => "{}",
        "concurrency_limit" => "{max: 100}",
        "cors" => "{origins: [\"https://app.example.com\"]}",
        "ext_auth" => "{url: \"http://127.0.0.1:9000/check\"}",
        "fault" => "{abort: {ratio: 1%, status: 503}}",
        "headers" => "{request: {set: {x-name: value}}}",
        "ip_rules" => "{allow: [10.0.0.0/8]}",
        "maintenance" => "{file: /run/tidegate/closed}",
        "redirect" => "{to: /new}",
        "respond" => "{status: 404}",
        "rewrite" => "{strip_prefix: /v1}",
        "wasm" => "NAME",
        _ => return None,
    })
}

/// Whatever map it is.
fn with_keys(found: &Misfit<'_>) -> Option<String> {
    const MOST: usize = 12;
    let Misfit { path, keys, expected, .. } = *found;
    if keys.is_empty() || !expected.contains("map") {
        return None;
    }
    let known = keys.iter().take(MOST).copied().collect::<Vec<_>>().join(", ");
    let more = if keys.len() > MOST { ", ..." } else { "" };
    Some(match path.segments().last() {
        Some(Segment::Key(name)) => format!("write `{name}: {{KEY: VALUE}}`; its keys: {known}{more}"),
        _ => format!("write `{{KEY: VALUE}}`; its keys: {known}{more}"),
    })
}

fn at_its_place(found: &Misfit<'_>) -> Option<String> {
    let Misfit { path, expected, text, first_key, is_list, list, .. } = *found;
    let (_, last) = place(path);
    let holder = path.parent();
    let (holder, _) = holder.as_ref().map_or((Place::Elsewhere, ""), place);
    let named = |what: &str| Some(format!("write `{last}: {what}`"));
    let text = text.map(|text| shortened(text.trim()));
    let text = text.as_deref();
    // The names that stand for themselves before what is said of any of their kind.
    match (holder, last, text) {
        (Place::Route, "match", Some(text)) => {
            let bare = text.starts_with(['~', '=']) || text.starts_with('/');
            return match routing::rule(text) {
                Some(rule) => Some(rule),
                None if bare => Some(format!("write `match: {{path: {}}}`", path_of(text))),
                None => Some("write `match: {hosts: [example.com], path: /api}`".to_owned()),
            };
        }
        (Place::Route, "match", None) if let Some(list) = list.filter(|list| list.contains("}, {")) => {
            return Some(format!("write `match: {{any: {list}}}`"));
        }
        (Place::Route, "match", None) => {
            return Some("write `match: {hosts: [example.com], path: /api}`".to_owned());
        }
        (Place::Match, "path", None) if is_list => {
            return Some("a route has one path: write a route for each, or one prefix for all".to_owned());
        }
        (Place::Route, "upstream", None) if let Some(list) = list => {
            let names = list.trim_matches(['[', ']']).split(", ").map(|name| format!("{{upstream: {name}}}"));
            let names = names.collect::<Vec<_>>().join(", ");
            return Some(format!(
                "a list is one of addresses; of upstreams, write `split: {{to: [{names}]}}`"
            ));
        }
        (Place::Upstream, "endpoints", Some(port)) if is_number(port) => {
            return named(&format!("[\"127.0.0.1:{port}\"]"));
        }
        (Place::Listener, "address", None) => return named("\":8000\""),
        (Place::ListenerTls, "acme", _) => return named("{}"),
        (Place::Acme, _, Some(text)) => {
            return Some(format!("write `acme: {{default: {{{last}: {}}}}}`", flow(text)));
        }
        (Place::AcmeAccount, "storage", Some(text)) => {
            return named(&format!("{{redis: {}, secret: ...}}", flow(text)));
        }
        (Place::AcmeAccount, "on_demand", _) => return named("{ask: \"http://127.0.0.1:9000/allowed\"}"),
        (Place::AcmeAccount, "dns", _) => return named("{command: [/usr/local/bin/dns-hook]}"),
        (Place::AcmeStorage, "etcd", Some(text)) => {
            return named(&format!("{{endpoints: [{}]}}", flow(text)));
        }
        (Place::Upstream, "affinity", _) => return named("{cookie: NAME}"),
        (Place::Upstream, "then", None) if let Some(list) = list => {
            let first = list.trim_matches(['[', ']']).split(", ").next().unwrap_or("NAME");
            return Some(format!("write `then: {first}`; that one may have a `then` of its own"));
        }
        (Place::Filter, "delay", Some(text)) if names(path).ends_with(&["fault", "delay"]) => {
            return named(&format!("{{duration: {}}}", flow(text)));
        }
        (Place::Filter, "abort", Some(status))
            if is_number(status) && names(path).ends_with(&["fault", "abort"]) =>
        {
            return named(&format!("{{status: {status}}}"));
        }
        (Place::Route, "timeout", None) if !is_list => {
            return Some(
                "write `timeout: 5s` for the whole request; `connect_timeout` and `read_timeout` are said of the upstream"
                    .to_owned(),
            );
        }
        (Place::Filter, "with_body", _) => return named("{max_size: 8KiB}"),
        (Place::Filter, "cache", Some(text)) => return named(&format!("{{ttl: {text}}}")),
        (Place::AffinityCookie, "keys", None) => return named("[\"${env:AFFINITY_KEY}\"]"),
        (Place::Filter, "session", _) => return named("{secret: ...}"),
        (Place::Filter, "require", _) => return named("{scope: [read]}"),
        (Place::Filter, "forward_claims", _) => return named("{sub: x-user-id}"),
        (Place::Listener, "tls", _) => return named("{certificates: [{cert: FILE, key: FILE}]}"),
        (Place::Upstream, "tls", Some("false" | "off" | "no")) => return Some("leave it out".to_owned()),
        (Place::Upstream, "tls", _) => return named("{}"),
        (Place::Upstream, "circuit_breaker", _) => return named("{failure_ratio: 50%, open_for: 10s}"),
        (Place::Upstream, "outlier", _) => return named("{consecutive_failures: 5, eject_for: 10s}"),
        (Place::Route, "priority", Some(number)) if is_number(number) => {
            return Some("leave it out: the more specific match wins, whatever the order".to_owned());
        }
        (Place::Upstream, "concurrency", Some(most)) if is_number(most) => {
            return named(&format!("{{max: {most}}}"));
        }
        (Place::Upstream, "pool", Some(text)) => return named(&format!("{{max_connections: {text}}}")),
        (Place::Upstream, "health_check", _) => return named("/health"),
        (Place::Route, "retry", _) => return named("{attempts: 3}"),
        (Place::Route, "respond", Some(text)) if text.parse::<u16>().is_ok() => {
            return named(&format!("{{status: {text}}}"));
        }
        (Place::Route, "respond", Some(text)) => return named(&format!("{{body: {}}}", flow(text))),
        (Place::Route, "redirect", Some(_)) => return named("\"https://example.com{uri}\""),
        (Place::Route, "mirror", Some(text)) => return named(&format!("{{upstream: {}}}", flow(text))),
        (Place::Route, "hedge", Some(text)) => return named(&format!("{{after: {}}}", flow(text))),
        (Place::Route, "canary", Some(text)) => {
            return named(&format!("{{stable: NAME, candidate: {}}}", flow(text)));
        }
        (Place::Route, "split", _) => {
            return named("{to: [{upstream: A, weight: 90}, {upstream: B, weight: 10}]}");
        }
        (Place::Route, "upstream", None) => {
            return Some("write `upstream: NAME`, and what it is under the top-level `upstreams`".to_owned());
        }
        (Place::Filter, "keys", Some(text)) if names(path).ends_with(&["jwt", "keys"]) => {
            return named(&format!("{{jwks: \"{text}\"}}"));
        }
        (Place::Filter, "request" | "response", _) => return named("{set: {x-name: value}}"),
        (Place::Log, "access", Some(text)) => return named(&format!("{{to: {}}}", flow(text))),
        (Place::Top, "log", Some(text)) => return named(&format!("{{level: {}}}", flow(text))),
        (Place::Top, "admin", Some("off" | "no" | "none" | "disabled"))
        | (Place::Admin, "parts" | "console", Some("off" | "no" | "none" | "disabled")) => {
            return named("false");
        }
        (Place::Top, "admin", Some(text)) if text.contains(':') => {
            return named(&format!("{{address: \"{text}\"}}"));
        }
        (Place::Top, "admin", Some(port)) if is_number(port) => {
            return named(&format!("{{address: \"127.0.0.1:{port}\"}}"));
        }
        (Place::Top, "admin", _) => return named("{address: \"127.0.0.1:9901\"}"),
        (Place::Match, "headers" | "query" | "metadata", _) if !expected.contains("string") => {
            return named(&format!("{{{}}}", field(text)));
        }
        (Place::Top, "upstreams", _) => return named("{NAME: {endpoints: [\"127.0.0.1:3000\"]}}"),
        (Place::Top, "routes", Some(text)) if !is_number(text) => return named("[{upstream: NAME}]"),
        (Place::Top, "listeners", Some(text)) => {
            return named(&format!("[{{address: \"{}\"}}]", address(text)));
        }
        (Place::Top, "filters", _) if expected == "a map" => return named("{NAME: [{cors: {...}}]}"),
        (Place::Top, "shutdown", Some(text)) => return named(&format!("{{grace: {text}}}")),
        (Place::Top, "routes", Some(_)) => return None,
        (Place::Listener | Place::Endpoint, "address", Some(port)) if is_number(port) => {
            return named(&format!("\"{}\"", address(port)));
        }
        (Place::Variant | Place::Endpoint, "weight", Some(text)) if text.ends_with('%') => {
            let number = text.trim_end_matches('%');
            let hint = format!(
                "weights are relative whole numbers: `weight: {}`",
                number.parse::<u16>().unwrap_or(1)
            );
            return Some(hint);
        }
        (Place::ListenerTls | Place::UpstreamTls, "min_version", Some(text)) => {
            return named(&format!("\"{text}\""));
        }
        (Place::Retry, "on", Some(text)) => {
            return named(&format!("[{}]", text.replace(',', ", ").replace("  ", " ")));
        }
        _ => {}
    }
    match (names(path).as_slice(), text) {
        (["routes", ITEM], Some(text)) if glued(text).is_none() && !is_number(text) => {
            return Some(format!("write `{{upstream: {}}}`", flow(text)));
        }
        (["routes", ITEM], text) if text.is_none_or(|text| glued(text).is_none()) => {
            return Some("write `{upstream: NAME}`".to_owned());
        }
        (["listeners", ITEM], Some(text)) if glued(text).is_none() => {
            return Some(format!("write `{{address: \"{}\"}}`", address(text)));
        }
        ([.., "filters", ITEM, "rate_limit"], Some(rate)) if is_number(rate) => {
            return named(&format!("{{rate: {rate}/s}}"));
        }
        ([.., "filters", ITEM, "rate_limit"], Some(rate)) if rate.contains('/') => {
            return named(&format!("{{rate: {rate}}}"));
        }
        ([.., "filters", ITEM, "concurrency_limit"], Some(most)) if is_number(most) => {
            return named(&format!("{{max: {most}}}"));
        }
        ([.., "filters", ITEM, "introspection"], Some(text)) if text.contains("://") => {
            return named(&format!("{{url: {}, client_id: ..., client_secret: ...}}", flow(text)));
        }
        ([.., "filters", ITEM, "oidc"], Some(text)) if text.contains("://") => {
            return named(&format!("{{issuer: {}, client_id: ..., session: {{secret: ...}}}}", flow(text)));
        }
        _ => {}
    }
    if let Some(shape) = shape(path) {
        return named(shape);
    }
    // An upstream in one word.
    if let ([Segment::Key(upstreams), _], Some(text)) = (path.segments(), text)
        && upstreams == "upstreams"
    {
        return Some(format!("write `{last}: {{endpoints: [{}]}}`", flow(text)));
    }
    if let ([Segment::Key(upstreams), _], true) = (path.segments(), is_list)
        && upstreams == "upstreams"
    {
        let hint = match last {
            "endpoints" => {
                "indent `endpoints` deeper than the upstream's name: `NAME: {endpoints: [...]}`".to_owned()
            }
            _ => format!("write `{last}: {{endpoints: [...]}}`"),
        };
        return Some(hint);
    }
    if let Some(key) = first_key.filter(|key| key.starts_with('-') && key.len() > 1) {
        return Some(format!("write a space after the dash: `- {}: ...`", key.trim_start_matches('-')));
    }
    if expected == "a map"
        && let Some((key, value)) = text.and_then(glued)
    {
        return Some(format!("after `{key}:` the space is missing: `{key}: {value}`"));
    }
    if expected.contains("a list") {
        return match (text, first_key) {
            (Some(text), _) => {
                let items: Vec<String> =
                    text.split([',', ' ']).filter(|item| !item.is_empty()).map(flow).collect();
                named(&format!("[{}]", items.join(", ")))
            }
            (None, Some(key)) if last == "filters" || FILTERS.contains(&key) => {
                Some(format!("begin each filter with `- `: `filters: [{{{key}: ...}}]`"))
            }
            (None, Some(_)) => Some("begin each entry with `- `".to_owned()),
            _ => None,
        };
    }
    None
}

/// `x-version: 2` or `version=2`, as the one entry of a map.
fn field(text: Option<&str>) -> String {
    let pair = text.and_then(|text| text.split_once(": ").or_else(|| text.split_once('=')));
    match pair.map(|(name, value)| (name.trim(), value.trim())) {
        Some((name, value)) if !is_secret(name, false) => format!("{}: \"{value}\"", flow(name)),
        Some((name, _)) => format!("{}: ...", flow(name)),
        None => "x-name: value".to_owned(),
    }
}

/// A location of nginx as a path of ours.
fn path_of(text: &str) -> String {
    let regex =
        text.strip_prefix("~*").or_else(|| text.strip_prefix("^~")).or_else(|| text.strip_prefix('~'));
    match (regex, text.strip_prefix('=')) {
        (Some(regex), _) => format!("{{regex: '{}'}}", regex.trim().replace('\'', "''")),
        (None, Some(exact)) => format!("{{exact: {}}}", flow(exact.trim())),
        (None, None) => flow(text),
    }
}

/// A port alone is one of every address.
fn address(text: &str) -> String {
    if is_number(text) { format!(":{text}") } else { text.to_owned() }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}
