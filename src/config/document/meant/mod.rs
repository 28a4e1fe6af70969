//! What was likely meant by a key, a value or a shape that is none of ours. Most who write their first configuration here know
//! another gateway's, and write its words: nginx, Traefik, Envoy, Caddy and HAProxy call nearly everything otherwise, and a list
//! of what is known leads nobody from `proxy_pass` to `upstream`. Our own words at the wrong place are as frequent.
//! The words are data, a table for each place (`tables`); what is looked up there is pure text.

mod hidden;
mod keys;
mod routing;
mod shapes;
// A row on a line, however long.
#[rustfmt::skip]
mod tables;
mod values;

pub(in crate::config) use hidden::{holds_secrets, is_harmless, is_word, may_hold, names_a_secret};
pub use keys::unknown_filter;
pub(in crate::config) use keys::{missing_key, unknown_key};
pub use routing::VARIABLES;
pub(in crate::config) use routing::placeholder;
pub(in crate::config) use shapes::{Misfit, misfit};
pub(in crate::config) use values::unknown_value;

use crate::config::document::problem::{Path, Segment};

/// A map of the configuration, wherever in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Top,
    Defaults,
    Listener,
    ListenerTls,
    Certificate,
    ListenerLimits,
    Route,
    Match,
    PathMatch,
    Retry,
    Split,
    Variant,
    Canary,
    Mirror,
    Upstream,
    Endpoint,
    Balancer,
    UpstreamTls,
    Pool,
    HealthCheck,
    Probe,
    Breaker,
    Log,
    AccessLog,
    Admin,
    /// Of all accounts.
    Acme,
    AcmeAccount,
    AcmeStorage,
    ListenerAcme,
    Affinity,
    AffinityCookie,
    StandIn,
    Concurrency,
    /// A filter's options.
    Filter,
    Elsewhere,
}

/// Where a path leads, and its last name.
fn place(path: &Path) -> (Place, &str) {
    let mut names = names(path);
    // As it is where the defaults are given.
    match names.as_slice() {
        ["defaults", "route", ..] => drop(names.splice(..2, ["routes", ITEM])),
        ["defaults", "listener", ..] => drop(names.splice(..2, ["listeners", ITEM])),
        ["defaults", "upstream", ..] => drop(names.splice(..2, ["upstreams", ITEM])),
        _ => {}
    }
    let last = names.iter().rev().find(|name| **name != ITEM).copied().unwrap_or_default();
    let place = match names.as_slice() {
        [] => Place::Top,
        ["defaults"] => Place::Defaults,
        [.., "filters", ITEM, "when" | "unless"] | [.., "not"] | [.., "any", ITEM] => Place::Match,
        [.., "filters", ITEM, _] | ["filters", _, ITEM, _] => Place::Filter,
        [.., "filters", ITEM, "headers", _] | ["filters", _, ITEM, "headers", _] => Place::Filter,
        ["listeners", rest @ ..] => match rest {
            [ITEM] => Place::Listener,
            [ITEM, "tls"] => Place::ListenerTls,
            [ITEM, "tls", "acme"] => Place::ListenerAcme,
            [ITEM, "tls", "certificates", ITEM] => Place::Certificate,
            [ITEM, "limits"] => Place::ListenerLimits,
            _ => Place::Elsewhere,
        },
        ["routes", rest @ ..] => match rest {
            [ITEM] => Place::Route,
            [ITEM, "match"] => Place::Match,
            [ITEM, "match", "path"] => Place::PathMatch,
            [ITEM, "retry"] => Place::Retry,
            [ITEM, "split"] => Place::Split,
            [ITEM, "split", "to", ITEM] => Place::Variant,
            [ITEM, "canary"] => Place::Canary,
            [ITEM, "mirror"] | [ITEM, "mirror", ITEM] => Place::Mirror,
            [ITEM, "respond" | "redirect"] => Place::Filter,
            _ => Place::Elsewhere,
        },
        ["upstreams", rest @ ..] => match rest {
            [_] => Place::Upstream,
            [_, "endpoints", ITEM] => Place::Endpoint,
            [_, "balancer"] => Place::Balancer,
            [_, "tls"] => Place::UpstreamTls,
            [_, "pool"] => Place::Pool,
            [_, "health_check"] => Place::HealthCheck,
            [_, "health_check", "http"] => Place::Probe,
            [_, "circuit_breaker"] => Place::Breaker,
            [_, "affinity"] => Place::Affinity,
            [_, "affinity", "cookie"] => Place::AffinityCookie,
            [_, "then"] => Place::StandIn,
            [_, "concurrency"] => Place::Concurrency,
            _ => Place::Elsewhere,
        },
        ["log"] => Place::Log,
        ["log", "access"] => Place::AccessLog,
        ["admin"] => Place::Admin,
        ["acme"] => Place::Acme,
        ["acme", _] => Place::AcmeAccount,
        ["acme", _, "storage"] => Place::AcmeStorage,
        _ => Place::Elsewhere,
    };
    (place, last)
}

/// An element of a list.
const ITEM: &str = "#";

fn names(path: &Path) -> Vec<&str> {
    path.segments().iter().map(name).collect()
}

fn name(segment: &Segment) -> &str {
    match segment {
        Segment::Key(key) => key,
        Segment::Index(_) => ITEM,
    }
}

/// As words are compared: `loadBalancer`, `load-balancer` and `load_balancer` are one.
fn plain(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-' | '.' | ' ')).flat_map(char::to_lowercase).collect()
}

/// As a value is written within `{ }` and `[ ]`.
fn flow(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}
