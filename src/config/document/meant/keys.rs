//! Words of other gateways, and ours where they do not belong.

use super::{Place, place, plain, routing, tables};
use crate::config::document::problem::Path;

/// How a word is led to what is meant.
pub(super) enum Advice {
    /// What to write.
    Write(&'static str),
    /// What to write with the value that stands there in the places of `%`, and what where none can be shown.
    With(&'static str, &'static str),
    /// The same in so many words.
    Say(&'static str),
    /// It stands below this key of the same map.
    Under(&'static str),
    /// The same under our name.
    Is(&'static str),
    /// It is said of the upstream, under this name.
    OfUpstream(&'static str),
    /// The same, or else what to write here.
    OfUpstreamOr(&'static str, &'static str),
    /// It is an option of this filter, under this name.
    OptionOf(&'static str, &'static str),
}

use Advice::{Is, OfUpstream, OfUpstreamOr, OptionOf, Say, Under, With, Write};

/// The names of filters, which stand in a list and not on a route. A test compares them with those that there are.
pub(in crate::config) const FILTERS: [&str; 23] = [
    "api_key",
    "authz",
    "basic_auth",
    "body_limit",
    "compression",
    "concurrency_limit",
    "cors",
    "ext_auth",
    "fault",
    "grpc_web",
    "headers",
    "https_redirect",
    "introspection",
    "ip_rules",
    "jwt",
    "maintenance",
    "oidc",
    "rate_limit",
    "redirect",
    "request_id",
    "respond",
    "rewrite",
    "wasm",
];

/// What to do with `key` at `path`, where it is none of ours. `value` is what stands there, as it may be shown.
pub(in crate::config) fn unknown_key(path: &Path, key: &str, value: Option<&str>) -> Option<String> {
    let (place, last) = place(path);
    let word = plain(key);
    let value = value.unwrap_or("...");
    if key.starts_with('-') && key.len() > 1 {
        return Some(format!("write a space after the dash: `- {}: {value}`", key.trim_start_matches('-')));
    }
    if matches!(key, "true" | "false") && place == Place::Retry {
        return Some(
            "a program wrote `on` as a boolean: write `\"on\"`, in quotes, where that program reads it"
                .into(),
        );
    }
    if matches!(word.as_str(), "rule") && matches!(place, Place::Route | Place::Match) {
        return Some(routing::rule(value).unwrap_or_else(|| MATCH.to_owned()));
    }
    let is_port = value.parse::<u16>().is_ok();
    if place == Place::Listener && is_port && matches!(word.as_str(), "listen" | "port" | "bind" | "ports") {
        return Some(format!("write `address: \":{value}\"`"));
    }
    if word == "return" && place == Place::Route {
        return Some(routing::answer(value));
    }
    if matches!(place, Place::Route | Place::Listener) && FILTERS.contains(&key) {
        return Some(format!("is a filter: `filters: [{{{key}: {value}}}]`"));
    }
    let table: &[Row] = match place {
        Place::Top => tables::TOP,
        Place::Defaults => tables::DEFAULTS,
        Place::Listener => tables::LISTENER,
        Place::ListenerTls => tables::LISTENER_TLS,
        Place::Certificate => tables::CERTIFICATE,
        Place::ListenerLimits => tables::LIMITS,
        Place::Route => tables::ROUTE,
        Place::Match => tables::OF_MATCH,
        Place::PathMatch => tables::PATH_MATCH,
        Place::Retry => tables::RETRY,
        Place::Split => tables::SPLIT,
        Place::Variant => tables::VARIANT,
        Place::Canary => tables::CANARY,
        Place::Mirror => tables::MIRROR,
        Place::Upstream => tables::UPSTREAM,
        Place::Endpoint => tables::ENDPOINT,
        Place::Balancer => tables::BALANCER,
        Place::UpstreamTls => tables::UPSTREAM_TLS,
        Place::Pool => tables::POOL,
        Place::HealthCheck => tables::HEALTH_CHECK,
        Place::Probe => tables::PROBE,
        Place::Breaker => tables::BREAKER,
        Place::Log => tables::LOG,
        Place::AccessLog => tables::ACCESS_LOG,
        Place::Admin => tables::ADMIN,
        Place::AcmeAccount => tables::ACME_ACCOUNT,
        Place::AcmeStorage => tables::ACME_STORAGE,
        Place::ListenerAcme => tables::LISTENER_ACME,
        Place::AffinityCookie => tables::AFFINITY_COOKIE,
        Place::StandIn => tables::STAND_IN,
        Place::Concurrency => tables::CONCURRENCY,
        Place::Filter => tables::of_filter(last),
        Place::Acme | Place::Affinity | Place::Elsewhere => &[],
    };
    let beside = if place == Place::Filter { tables::CONDITIONS } else { &[] };
    let mut rows = table.iter().chain(beside);
    let (_, advice) = rows.find(|(words, _)| words.contains(&word.as_str()))?;
    Some(advice.told(key, value))
}

/// What to add at `path`, where a word of ours is taken for another.
pub(in crate::config) fn missing_key(path: &Path, key: &str) -> Option<&'static str> {
    match (place(path), key) {
        ((Place::Variant, _), "upstream") => {
            Some("add `upstream: NAME`: `name` is only what the variant is called")
        }
        _ => None,
    }
}

/// What to do with a filter of this name, which none of ours has.
pub fn unknown_filter(name: &str) -> Option<String> {
    let word = plain(name);
    if let Some(ours) = FILTERS.iter().find(|ours| **ours != name && plain(ours) == word) {
        return Some(format!("did you mean `{ours}`?"));
    }
    let mut rows = tables::AS_FILTER.iter().chain(tables::ROUTE);
    let (_, advice) = rows.find(|(words, _)| words.contains(&word.as_str()))?;
    Some(advice.told(name, "..."))
}

impl Advice {
    /// For this key and what stands there.
    fn told(&self, key: &str, value: &str) -> String {
        let is_one = value != "..." && !value.starts_with(['{', '[']);
        match self {
            Write(what) => written(what, what),
            With(what, _) if is_one => written(what, &what.replace('%', value)),
            With(_, what) => written(what, what),
            Say(what) => (*what).to_owned(),
            Under(parent) => format!("belongs under `{parent}`: `{parent}: {{{key}: {value}}}`"),
            Is(ours) => format!("write `{ours}: {value}`"),
            OfUpstream(ours) => {
                format!("is said of the upstream: `upstreams: {{NAME: {{{ours}: {value}}}}}`")
            }
            OfUpstreamOr(ours, other) => {
                let of_upstream = OfUpstream(ours).told(key, value);
                format!("{of_upstream}; for the whole request, write `{other}`")
            }
            OptionOf(filter, option) => {
                format!("is an option of a filter: `filters: [{{{filter}: {{{option}: {value}}}}}]`")
            }
        }
    }
}

/// As code, or as code that goes on in plain words where `what` has closed it itself.
fn written(what: &str, filled: &str) -> String {
    match what.matches('`').count() % 2 {
        1 => format!("write `{filled}"),
        _ => format!("write `{filled}`"),
    }
}

pub(super) type Row = (&'static [&'static str], Advice);

const MATCH: &str = "write `match: {hosts: [example.com], path: /api}`";

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &[&str]) -> Path {
        path.iter().fold(Path::root(), |path, name| match name.parse() {
            Ok(index) => path.index(index),
            Err(_) => path.key(*name),
        })
    }

    #[test]
    fn words_of_others_lead_to_ours_with_what_was_written() {
        for (path, key, value, expected) in [
            (&[][..], "http", None, "write `listeners: [{address: \":8000\"}]`"),
            (&["routes", "0"], "proxy_pass", None, "write `upstream: NAME`"),
            (&["routes", "0"], "path", Some("/a"), "belongs under `match`: `match: {path: /a}`"),
            (
                &["routes", "0"],
                "rate_limit",
                Some("{rate: 1/s}"),
                "is a filter: `filters: [{rate_limit: {rate: 1/s}}]`",
            ),
            (&["routes", "0"], "stripPrefix", Some("/v1"), "`filters: [{rewrite: {strip_prefix: /v1}}]`"),
            (&["routes", "0"], "health_check", None, "is said of the upstream"),
            (&["upstreams", "a"], "least_conn", None, "write `balancer: least_requests`"),
            (
                &["routes", "0"],
                "proxy_read_timeout",
                Some("60s"),
                "`upstreams: {NAME: {read_timeout: 60s}}`; for the whole request, write `timeout: 5s`",
            ),
            (&["routes", "0"], "proxy_connect_timeout", Some("5s"), "{connect_timeout: 5s}"),
            (&["routes", "0"], "handle_path", Some("/api"), "write `match: {path: /api}` and `filters: "),
            (&["routes", "0"], "handle_path", Some("[/a]"), "write `match: {path: /api}` and `filters: "),
            (&["upstreams", "a"], "keepalive", Some("32"), "512}`, with 32 in the place of 512"),
            (
                &["upstreams", "a", "endpoints", "0"],
                "max_fails",
                Some("3"),
                "{consecutive_failures: 3}` beside",
            ),
            (&["upstreams", "a", "health_check"], "periodSeconds", Some("7"), "write `interval: 7s`"),
            (&["upstreams", "a", "health_check", "http"], "status", Some("2xx"), "write `expect: 2xx`"),
            (
                &["routes", "0", "match", "path"],
                "value",
                Some("/x"),
                "write `path: /x`, or `path: {exact: /x}`",
            ),
            (&["upstreams", "a"], "loadBalancer", None, "write `balancer: "),
            (&["routes", "0", "filters", "1", "cors"], "when", None, "beside the filter's name"),
            (&["filters", "a", "1", "cors"], "allowOrigins", None, "write `origins: "),
            (&["routes", "0", "retry"], "true", None, "in quotes"),
            (&[], "-address", Some("a"), "write a space after the dash: `- address: a`"),
        ] {
            let hint = unknown_key(&at(path), key, value).unwrap_or_else(|| panic!("{key} at {path:?}"));
            assert!(hint.contains(expected), "{key} at {path:?}: {hint}");
        }
        assert_eq!(unknown_key(&at(&["routes", "0"]), "upstrem", None), None, "what is near is left to it");
    }

    #[test]
    fn names_of_others_filters_lead_to_ours() {
        for (name, expected) in [
            ("stripPrefix", "`filters: [{rewrite: {strip_prefix: ...}}]`"),
            ("forwardAuth", "{ext_auth: {url: "),
            ("redirectScheme", "{https_redirect: {}}"),
            ("ipAllowList", "{ip_rules: "),
            ("compress", "{compression: {}}"),
            ("gzip", "{compression: {}}"),
            ("addPrefix", "{rewrite: {add_prefix: ...}}"),
            ("circuitBreaker", "is said of the upstream: `upstreams: {NAME: {circuit_breaker: ...}}`"),
            ("limit_req", "{rate_limit: {rate: 100/s}}"),
            ("proxy_set_header", "{headers: {request: "),
            ("url_rewrite", "{rewrite: {path: ...}}"),
            ("lua", "write `filters: [{wasm: NAME}]`, and the plugin"),
            ("cache", "are not cached"),
            ("retry", "beside `filters`"),
            ("rateLimit", "did you mean `rate_limit`?"),
        ] {
            let hint = unknown_filter(name).unwrap_or_else(|| panic!("{name}"));
            assert!(hint.contains(expected), "{name}: {hint}");
        }
        assert_eq!(unknown_filter("nonsense"), None);
    }

    /// Words are compared in this form.
    #[test]
    fn each_word_is_in_plain_form_and_stands_once_in_its_table() {
        let filters = FILTERS.map(tables::of_filter);
        let all = [
            tables::TOP,
            tables::LISTENER,
            tables::LISTENER_TLS,
            tables::CERTIFICATE,
            tables::LIMITS,
            tables::ROUTE,
            tables::OF_MATCH,
            tables::PATH_MATCH,
            tables::RETRY,
            tables::SPLIT,
            tables::VARIANT,
            tables::CANARY,
            tables::MIRROR,
            tables::UPSTREAM,
            tables::ENDPOINT,
            tables::BALANCER,
            tables::UPSTREAM_TLS,
            tables::POOL,
            tables::HEALTH_CHECK,
            tables::PROBE,
            tables::AS_FILTER,
            tables::BREAKER,
            tables::LOG,
            tables::ACCESS_LOG,
            tables::ADMIN,
            tables::ACME_ACCOUNT,
            tables::ACME_STORAGE,
            tables::LISTENER_ACME,
            tables::AFFINITY_COOKIE,
            tables::STAND_IN,
            tables::CONCURRENCY,
        ];
        for table in all.iter().chain(&filters) {
            let words: Vec<&str> = table.iter().flat_map(|(words, _)| words.iter().copied()).collect();
            let mut once = std::collections::HashSet::new();
            for word in words {
                assert_eq!(plain(word), word);
                assert!(once.insert(word), "{word}");
            }
        }
    }
}
