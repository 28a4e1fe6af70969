//! Endpoints: how each is, and why.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    admin::{
        State,
        journal::time,
        notes::Note,
        parts_view::find,
        refused::Refused,
        router::Asked,
        sampler::{Flow, Sample, rate},
    },
    api::reply::{self, Reply},
    config::{EndpointOrder, OrderedEndpoint, Stamp},
    policy::breaker,
    upstream::{Circuit, Endpoint, Health, Upstream},
};

/// `GET /v1/endpoints`.
#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Endpoints(Vec<EndpointRow>);

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Endpoint")]
pub(in crate::admin) struct EndpointRow {
    upstream: String,
    pub(super) name: String,
    /// As configured.
    origin: Option<String>,
    /// False for one that is ordered and not there now.
    present: bool,
    /// The worst that holds.
    pub(super) state: EndpointState,
    /// Null where all is well.
    why: Option<String>,
    /// When that began; null where it is not known.
    since: Option<String>,
    health: HealthView,
    ejected: bool,
    ejected_for_seconds: Option<u64>,
    /// Chosen last: it could not be reached, or is silent.
    avoided: bool,
    avoided_why: Option<String>,
    /// Null without one.
    breaker: Option<BreakerView>,
    /// That counts; null where it is not there.
    weight: Option<u32>,
    /// 0 comes first; null where it is not there.
    priority: Option<u16>,
    zone: Option<String>,
    /// Its tags, or what a registry knows of it.
    metadata: BTreeMap<String, String>,
    /// Null where nothing is ordered.
    #[schemars(with = "Option<serde_json::Value>")]
    order: Option<EndpointOrder>,
    #[serde(flatten)]
    stamp: Option<Stamp>,
    active_requests: usize,
    /// Response time, as of the last answer: the slowest of late, which falls as faster ones follow. A try that failed counts as at
    /// least 1 s. Null before the first.
    latency_ms: Option<f64>,
    /// Of attempts; null where nothing is sampled.
    pub(super) traffic: Option<FlowView>,
    /// The SPIFFE IDs that it may show, where that is its own and not its upstream's.
    tls_identity: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::admin) enum EndpointState {
    Gone,
    Drained,
    Unhealthy,
    Ejected,
    Open,
    HalfOpen,
    Avoided,
    Unknown,
    Healthy,
    Unchecked,
}

#[derive(Serialize, JsonSchema)]
struct HealthView {
    /// `unchecked`, `unknown`, `healthy` or `unhealthy`.
    state: &'static str,
    /// Null before the first, and without checks.
    last_probe: Option<ProbeView>,
    changed_at: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct ProbeView {
    ok: bool,
    why: Option<String>,
    at: String,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct BreakerView {
    /// `closed`, `open` or `half_open`.
    state: &'static str,
    /// How an operator holds it: `open` or `closed`.
    forced: Option<&'static str>,
    /// For `If-Match` of an order.
    pub(in crate::admin) etag: String,
    /// In its window.
    results: u32,
    failures: u32,
    consecutive_failures: u32,
    retry_in_seconds: Option<u64>,
}

/// Attempts that ended, and those that failed.
#[derive(Clone, Copy, Serialize, JsonSchema)]
pub(in crate::admin) struct FlowView {
    requests_per_second: f64,
    errors_per_second: f64,
}

impl FlowView {
    pub(in crate::admin) fn of(flow: Flow) -> FlowView {
        FlowView { requests_per_second: rate(flow.requests), errors_per_second: rate(flow.errors) }
    }
}

impl BreakerView {
    pub(in crate::admin) fn of(circuit: &Circuit, now: Instant) -> BreakerView {
        let counted = circuit.breaker.counted(now);
        let state = word(circuit.breaker.state(now));
        let forced = counted.forced.map(word);
        BreakerView {
            state,
            forced,
            etag: match forced {
                Some(forced) => format!("held_{forced}"),
                None => state.to_owned(),
            },
            results: counted.results,
            failures: counted.failures,
            consecutive_failures: counted.consecutive_failures,
            retry_in_seconds: counted.retry_in.map(|left| left.as_secs_f64().ceil() as u64),
        }
    }
}

fn word(state: breaker::State) -> &'static str {
    match state {
        breaker::State::Closed => "closed",
        breaker::State::Open => "open",
        breaker::State::HalfOpen => "half_open",
    }
}

impl EndpointState {
    pub(in crate::admin) fn of(endpoint: &Endpoint, now: Instant) -> EndpointState {
        let breaker = endpoint.circuit().map(|circuit| circuit.breaker.state(now));
        match (endpoint.health(), breaker) {
            _ if endpoint.weight == 0 => EndpointState::Drained,
            (Health::Unhealthy, _) => EndpointState::Unhealthy,
            _ if endpoint.is_ejected(now) => EndpointState::Ejected,
            (_, Some(breaker::State::Open)) => EndpointState::Open,
            (_, Some(breaker::State::HalfOpen)) => EndpointState::HalfOpen,
            _ if endpoint.is_on_probation() => EndpointState::Avoided,
            (Health::Unknown, _) => EndpointState::Unknown,
            (Health::Healthy, _) => EndpointState::Healthy,
            (Health::Unchecked, _) => EndpointState::Unchecked,
        }
    }

    /// Why it is so, in words.
    pub(in crate::admin) fn why(self, note: &Note, ordered: Option<&OrderedEndpoint>) -> Option<String> {
        let probe = || note.last_probe.as_ref().and_then(|probe| probe.failed.clone());
        match self {
            EndpointState::Gone => Some("its upstream does not have it now".to_owned()),
            EndpointState::Drained => Some(match ordered {
                Some(ordered) => format!("drained by {} at {}", ordered.stamp.by, ordered.stamp.at),
                None => "its weight is 0".to_owned(),
            }),
            EndpointState::Unhealthy => Some(
                probe().map_or_else(|| "its probes fail".to_owned(), |why| format!("probe failed: {why}")),
            ),
            EndpointState::Ejected => Some("its requests failed".to_owned()),
            EndpointState::Open => Some("its circuit breaker is open".to_owned()),
            EndpointState::HalfOpen => Some("its circuit breaker lets a few requests through".to_owned()),
            EndpointState::Avoided => {
                Some(note.avoided_why().unwrap_or("no connection could be made").to_owned())
            }
            EndpointState::Unknown => Some("it has not been probed yet".to_owned()),
            EndpointState::Healthy | EndpointState::Unchecked => None,
        }
    }

    /// Since when it is so, where that was heard of.
    pub(in crate::admin) fn since(self, note: &Note) -> Option<SystemTime> {
        match self {
            EndpointState::Unhealthy | EndpointState::Healthy => note.health_changed,
            EndpointState::Ejected => note.ejected_at,
            EndpointState::Open | EndpointState::HalfOpen => note.circuit_changed,
            EndpointState::Avoided => note.avoided.as_ref().map(|(since, _)| *since),
            EndpointState::Gone
            | EndpointState::Drained
            | EndpointState::Unknown
            | EndpointState::Unchecked => None,
        }
    }
}

impl EndpointRow {
    /// `endpoint` is `None` for one that is only ordered.
    pub(in crate::admin) fn of(
        state: &State,
        sample: Option<&Sample>,
        upstream: &Upstream,
        name: &str,
        endpoint: Option<&Arc<Endpoint>>,
        now: Instant,
    ) -> EndpointRow {
        let note = state.journal.notes.of(upstream.name(), name);
        let orders = upstream.orders();
        let ordered = orders.get(name);
        let is = endpoint.map_or(EndpointState::Gone, |endpoint| EndpointState::of(endpoint, now));
        let ejected = endpoint.is_some_and(|endpoint| endpoint.is_ejected(now));
        let flow = sample.map(|sample| {
            let key = (upstream.shared_name(), Arc::from(name));
            FlowView::of(sample.endpoints.get(&key).copied().unwrap_or_default())
        });
        EndpointRow {
            upstream: upstream.name().to_owned(),
            name: name.to_owned(),
            origin: endpoint.map(|endpoint| endpoint.origin.to_string()),
            present: endpoint.is_some(),
            state: is,
            why: is.why(&note, ordered),
            since: is.since(&note).map(time),
            health: HealthView {
                state: endpoint.map_or("unknown", |endpoint| health_word(endpoint.health())),
                last_probe: note.last_probe.as_ref().map(|probe| ProbeView {
                    ok: probe.failed.is_none(),
                    why: probe.failed.clone(),
                    at: time(probe.at),
                }),
                changed_at: note.health_changed.map(time),
            },
            ejected,
            ejected_for_seconds: note
                .ejected_until
                .filter(|_| ejected)
                .map(|until| until.saturating_duration_since(now).as_secs_f64().ceil() as u64),
            avoided: endpoint.is_some_and(|endpoint| endpoint.is_on_probation()),
            avoided_why: note.avoided_why().map(str::to_owned),
            breaker: endpoint.and_then(|endpoint| Some(BreakerView::of(endpoint.circuit()?, now))),
            weight: endpoint.map(|endpoint| endpoint.weight),
            priority: endpoint.map(|endpoint| endpoint.place.priority),
            zone: endpoint.and_then(|endpoint| endpoint.place.zone.as_deref().map(str::to_owned)),
            metadata: endpoint.map(|endpoint| endpoint.metadata.clone()).unwrap_or_default(),
            order: ordered.map(|ordered| ordered.order),
            stamp: ordered.map(|ordered| ordered.stamp.clone()),
            active_requests: endpoint.map_or(0, |endpoint| endpoint.active()),
            // To the microsecond: more digits would be noise.
            latency_ms: endpoint
                .and_then(|endpoint| endpoint.response_time())
                .map(|seconds| (seconds * 1e6).round() / 1e3),
            traffic: flow,
            tls_identity: endpoint
                .filter(|endpoint| !endpoint.owners.is_empty())
                .map(|endpoint| endpoint.owners.iter().map(ToString::to_string).collect()),
        }
    }

    /// Of those that are there, and of those that are only ordered.
    pub(in crate::admin) fn all(
        state: &State,
        sample: Option<&Sample>,
        upstream: &Upstream,
        now: Instant,
    ) -> Vec<EndpointRow> {
        let (present, orders) = (upstream.endpoints(), upstream.orders());
        let gone = orders.keys().filter(|name| !present.iter().any(|endpoint| *endpoint.name == ***name));
        let present = present.iter().map(|endpoint| (&*endpoint.name, Some(endpoint)));
        let all = present.chain(gone.map(|name| (name.as_str(), None)));
        all.map(|(name, endpoint)| EndpointRow::of(state, sample, upstream, name, endpoint, now)).collect()
    }

    pub(in crate::admin) fn etag(&self) -> Option<&str> {
        self.stamp.as_ref().map(|stamp| stamp.etag.as_str())
    }
}

pub(in crate::admin) fn health_word(health: Health) -> &'static str {
    match health {
        Health::Unchecked => "unchecked",
        Health::Unknown => "unknown",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

pub(in crate::admin) fn list(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    let snapshot = state.current.pin();
    let sample = state.sampler.as_ref().map(|sampler| sampler.latest());
    let now = Instant::now();
    let wanted = asked.query.text("q").map(str::to_lowercase);
    let upstreams: Vec<_> = match asked.query.text("upstream") {
        Some(name) => vec![find(&snapshot, name)?],
        None => snapshot.upstreams.values().collect(),
    };
    let rows = upstreams.into_iter().flat_map(|one| EndpointRow::all(state, sample.as_deref(), one, now));
    let rows = rows.filter(|row| {
        let has = |text: &str| wanted.as_ref().is_none_or(|wanted| text.to_lowercase().contains(wanted));
        has(&row.name) || has(&row.upstream) || row.origin.as_deref().is_some_and(has)
    });
    Ok(reply::json(StatusCode::OK, &Endpoints(rows.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::notes::Probe;

    #[test]
    fn an_endpoint_says_why_it_gets_nothing() {
        let failed = Probe { at: SystemTime::now(), failed: Some("connection refused".into()) };
        let note = Note { last_probe: Some(failed), ..Note::default() };
        let why = |state: EndpointState| state.why(&note, None);
        assert_eq!(why(EndpointState::Unhealthy).as_deref(), Some("probe failed: connection refused"));
        assert_eq!(why(EndpointState::Healthy), None);
        assert_eq!(why(EndpointState::Drained).as_deref(), Some("its weight is 0"));
    }
}
