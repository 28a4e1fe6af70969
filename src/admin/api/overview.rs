//! How the gateway is in one look, and what needs attention.

use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::{certificates::Certificate, endpoints::EndpointState};
use crate::{
    admin::{
        State,
        journal::{Reload, hash, time},
        refused::Refused,
        router::Asked,
        sampler::Traffic,
    },
    api::reply::{self, Reply},
    config,
    policy::{
        canary::{PausedBy, Phase},
        failover,
    },
    snapshot::Snapshot,
    upstream,
};

/// More of them would be no overview.
const MOST: usize = 100;
/// Certificates are worth a look when they end within this time.
const SOON: Duration = Duration::from_secs(14 * 86_400);
const FULL: f64 = 0.9;

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Overview {
    /// Another one after each start.
    boot: String,
    version: &'static str,
    phase: &'static str,
    started_at: String,
    uptime_seconds: u64,
    config_hash: String,
    routes: usize,
    upstreams: usize,
    /// Null where nothing is sampled.
    traffic: Option<Traffic>,
    requests_in_flight: i64,
    connections: Connections,
    memory: MemoryView,
    listeners: Vec<ListenerView>,
    /// The last attempt to put a configuration in force.
    last_reload: Option<Reload>,
    /// The worst first.
    attention: Vec<Attention>,
}

#[derive(Clone, Copy, Serialize, JsonSchema)]
pub(in crate::admin) struct Connections {
    open: i64,
    limit: usize,
}

#[derive(Serialize, JsonSchema)]
struct MemoryView {
    resident_bytes: Option<u64>,
    limit_bytes: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct ListenerView {
    name: String,
    address: String,
    /// `http`, `tcp` or `tls_passthrough`.
    protocol: &'static str,
    tls: bool,
    connections: i64,
    connections_limit: usize,
    requests_in_flight: i64,
}

/// Something that an operator may want to look at.
#[derive(Serialize, JsonSchema)]
struct Attention {
    level: Level,
    /// `upstream`, `endpoint`, `breaker`, `canary`, `certificate`, `reload`, `connections` or `memory`.
    kind: &'static str,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    text: String,
    since: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Level {
    Bad,
    Warn,
    Info,
}

impl Connections {
    pub(in crate::admin) fn of(snapshot: &Snapshot) -> Connections {
        let listeners = snapshot.listeners.values();
        Connections {
            open: listeners.clone().map(|listener| listener.metrics.connections()).sum(),
            limit: listeners.map(|listener| listener.limits.connections).fold(0, usize::saturating_add),
        }
    }
}

/// In the order of the file.
pub(super) fn listeners(snapshot: &Snapshot) -> Vec<ListenerView> {
    let written = snapshot.config.listeners.iter();
    let listeners = written.filter_map(|written| {
        let name = written.name.as_deref().unwrap_or(&written.address);
        let listener = snapshot.listeners.values().find(|listener| *listener.name == *name)?;
        Some(ListenerView {
            name: listener.name.to_string(),
            address: listener.address.clone(),
            protocol: match written.protocol {
                config::Protocol::Http => "http",
                config::Protocol::Tcp => "tcp",
                config::Protocol::TlsPassthrough => "tls_passthrough",
            },
            tls: listener.tls.is_some(),
            connections: listener.metrics.connections(),
            connections_limit: listener.limits.connections,
            requests_in_flight: listener.metrics.requests_in_flight(),
        })
    });
    listeners.collect()
}

pub(in crate::admin) fn show(state: &State, _: &Asked) -> Result<Reply, Refused> {
    let snapshot = state.current.pin();
    let memory = state.process.memory();
    let connections = Connections::of(&snapshot);
    let listeners = listeners(&snapshot);
    let overview = Overview {
        boot: state.journal.events.boot(),
        version: env!("CARGO_PKG_VERSION"),
        phase: state.phase.word(),
        started_at: time(state.started_at),
        uptime_seconds: state.started.elapsed().as_secs(),
        config_hash: hash(snapshot.hash),
        routes: snapshot.routes.len(),
        upstreams: snapshot.upstreams.len(),
        traffic: state.sampler.as_ref().map(|sampler| sampler.latest().gateway),
        requests_in_flight: listeners.iter().map(|listener| listener.requests_in_flight).sum(),
        connections,
        memory: MemoryView { resident_bytes: memory.resident, limit_bytes: memory.limit },
        last_reload: state.journal.reloads().into_iter().next(),
        attention: attention(state, &snapshot, &listeners),
        listeners,
    };
    Ok(reply::json(StatusCode::OK, &overview))
}

fn attention(state: &State, snapshot: &Snapshot, listeners: &[ListenerView]) -> Vec<Attention> {
    let mut found = Vec::new();
    if let Some(rejected) = state.journal.last_rejected() {
        let first = rejected.problems.first().map(|problem| problem.text.as_str()).unwrap_or_default();
        let more = rejected.problems.len().saturating_sub(1);
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        found.push(Attention {
            since: Some(rejected.at),
            ..Attention::of(
                Level::Bad,
                "reload",
                "configuration",
                format!("the last reload was rejected: {first}{more}"),
            )
        });
    }
    upstreams(state, snapshot, &mut found);
    canaries(snapshot, state, &mut found);
    for certificate in Certificate::all(state, snapshot) {
        found.extend(expiry(&certificate));
    }
    for listener in listeners {
        let (open, limit) = (listener.connections as f64, listener.connections_limit as f64);
        if open >= limit * FULL {
            let text = format!("{open} of {limit} connections are open");
            found.push(Attention::of(Level::Warn, "connections", &listener.name, text));
        }
    }
    let memory = state.process.memory();
    if let (Some(resident), Some(limit)) = (memory.resident, memory.limit)
        && resident as f64 >= limit as f64 * FULL
    {
        let text = format!("{resident} of {limit} bytes are in use");
        found.push(Attention::of(Level::Warn, "memory", "process", text));
    }
    found.sort_by_key(|attention| attention.level);
    found.truncate(MOST);
    found
}

impl Attention {
    fn of(level: Level, kind: &'static str, name: &str, text: String) -> Attention {
        Attention { level, kind, name: name.to_owned(), endpoint: None, text, since: None }
    }
}

fn upstreams(state: &State, snapshot: &Snapshot, found: &mut Vec<Attention>) {
    let now = Instant::now();
    for upstream in snapshot.upstreams.values() {
        let endpoints = upstream.endpoints();
        let usable = endpoints
            .iter()
            .any(|endpoint| endpoint.weight > 0 && endpoint.is_usable() && !endpoint.is_ejected(now));
        if !usable && !upstream.is_original_destination() {
            let text = match endpoints.is_empty() {
                true => format!("{} has no endpoint", upstream.name()),
                false => format!("no endpoint of {} is usable", upstream.name()),
            };
            found.push(Attention::of(Level::Bad, "upstream", upstream.name(), text));
        }
        found.extend(upstream.failover(now).and_then(|failover| away(upstream.name(), &failover)));
        let orders = upstream.orders();
        for endpoint in &endpoints {
            let is = EndpointState::of(endpoint, now);
            let (level, kind) = match is {
                EndpointState::Healthy | EndpointState::Unchecked => continue,
                EndpointState::Open | EndpointState::HalfOpen => (Level::Warn, "breaker"),
                EndpointState::Drained if !orders.contains_key(&*endpoint.name) => continue,
                EndpointState::Drained | EndpointState::Unknown => (Level::Info, "endpoint"),
                _ => (Level::Warn, "endpoint"),
            };
            let note = state.journal.notes.of(upstream.name(), &endpoint.name);
            let why = is.why(&note, orders.get(&*endpoint.name)).unwrap_or_default();
            found.push(Attention {
                endpoint: Some(endpoint.name.to_string()),
                since: is.since(&note).map(time),
                ..Attention::of(level, kind, upstream.name(), format!("{}: {why}", endpoint.name))
            });
        }
    }
}

fn away(name: &str, failover: &upstream::FailoverView<'_>) -> Option<Attention> {
    let to = failover.to;
    let (level, text) = match failover.phase {
        failover::Phase::Serving => return None,
        failover::Phase::Away => (Level::Warn, format!("requests of {name} go to {to}")),
        failover::Phase::Recovering => {
            let share = (failover.share * 100.0) as u64;
            (Level::Info, format!("{name} has {share}% of its requests again, and {to} the others"))
        }
    };
    Some(Attention::of(level, "upstream", name, text))
}

fn canaries(snapshot: &Snapshot, state: &State, found: &mut Vec<Attention>) {
    for rollout in snapshot.routes.iter().filter_map(|route| route.rollout()) {
        let status = rollout.status(Instant::now());
        let why = status.why.clone().map(|why| format!(": {why}")).unwrap_or_default();
        let (level, text) = match status.phase {
            Phase::RolledBack => (Level::Warn, format!("{} was rolled back{why}", rollout.candidate)),
            Phase::Paused(PausedBy::Breach) => (Level::Warn, format!("{} is paused{why}", rollout.candidate)),
            Phase::Paused(PausedBy::Operator) => {
                (Level::Info, format!("{} is paused by an operator", rollout.candidate))
            }
            Phase::Progressing | Phase::Promoted => continue,
        };
        found.push(Attention {
            since: state.journal.last_decision(&rollout.route).map(|decided| decided.at),
            ..Attention::of(level, "canary", &rollout.route, text)
        });
    }
}

fn expiry(certificate: &Certificate) -> Option<Attention> {
    let left = certificate.ends.duration_since(SystemTime::now()).unwrap_or_default();
    let (level, text) = if left.is_zero() {
        (Level::Bad, format!("the certificate of {} has ended", certificate.subject))
    } else if certificate.is_renewed() || left > SOON {
        // Our own is renewed by itself, and lives for hours.
        return None;
    } else {
        let days = left.as_secs() / 86_400;
        (Level::Warn, format!("the certificate of {} ends in {days} days", certificate.subject))
    };
    Some(Attention {
        since: Some(certificate.not_after.clone()).filter(|_| level == Level::Bad),
        ..Attention::of(level, "certificate", &certificate.where_used, text)
    })
}
