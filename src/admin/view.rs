//! What the older paths show. Made from one pinned snapshot, so each answer is about one configuration. What comes from the
//! operator's file is taken from its redacted form.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::{StatusCode, header::ACCEPT};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    State,
    api::{
        endpoints::{EndpointState, health_word},
        upstreams::{FailoverView, GroupView},
    },
    journal::time,
    notes::Note,
    refused::{Reason, Refused},
    router::Asked,
};
use crate::{
    acme::State as Shown,
    api::reply::{self, Reply},
    config::{
        Additions, Balancer, ExpectedIds, OrderedEndpoint, ReceivedConfig, TlsVersion, UpstreamProtocol,
        UpstreamTls,
    },
    observe::metrics::Format,
    policy::breaker,
    snapshot::Target,
    upstream::{Endpoint, Upstream},
};

/// In the format that the `Accept` header asks for.
pub(super) fn metrics(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    let accepted = asked.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let metrics = &state.recorder.metrics;
    let rare = state.current.pin().gather(metrics);
    let format = Format::asked_for(&accepted.collect::<Vec<_>>().join(","));
    Ok(reply::with_type(StatusCode::OK, format.content_type(), metrics.render(format, &rare)))
}

pub(super) fn readiness(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    let status = if state.phase.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if asked.query.text("verbose").is_some() {
        return Ok(reply::text(status, format!("{}{}", state.phase.word(), certificates(state))));
    }
    Ok(match state.phase.is_waiting() {
        true => reply::text(
            status,
            "waiting for a configuration: the control plane has given none, and none is held",
        ),
        false => reply::text(status, state.phase.word()),
    })
}

/// What is wrong with those from CAs. A gateway without one is ready all the same: it serves the others, and taking it out of
/// service would not bring one.
fn certificates(state: &State) -> String {
    let snapshot = state.current.pin();
    let acme = snapshot.acme.clone();
    let mut text = String::new();
    for (listener, tls) in snapshot.terminators().filter(|(_, tls)| tls.fetches_lists()) {
        let now = SystemTime::now();
        if tls.lacks_lists() {
            text += &format!("\nerror: listener {listener} has no revocation lists yet");
        }
        for list in tls.revocations() {
            let (level, is) = match list.next_update {
                Some(end) if end <= now => ("error", "has run out"),
                _ => ("ok", "is valid"),
            };
            let until = list.next_update.map(|end| format!(" until {}", time(end))).unwrap_or_default();
            text += &format!("\n{level}: revocation list of {} {is}{until}", list.issuer);
        }
    }
    for report in acme.iter().flat_map(|acme| acme.reports()) {
        let level = match report.state {
            Shown::Expired | Shown::Missing => "error",
            Shown::Due => "warning",
            Shown::Valid => "ok",
        };
        let until = report.until.map(|until| format!(" until {}", time(until))).unwrap_or_default();
        // Why an order has failed is for those who may look.
        let failed = report.failed.map(|(.., reason, _)| format!(", the last order failed: {reason}"));
        let state = report.state.word();
        text += &format!(
            "\n{level}: certificate {} is {state}{until}{}",
            report.name,
            failed.unwrap_or_default()
        );
    }
    text
}

pub(super) fn config(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    let snapshot = state.current.pin();
    match asked.query.text("format") {
        None | Some("json") => {
            let config = with_additions(snapshot.effective.value(), &snapshot.additions);
            Ok(reply::json(StatusCode::OK, &config))
        }
        Some("yaml") => match serde_yaml::to_string(&snapshot.effective.value()) {
            Ok(yaml) => {
                let Additions { parts, received } = &snapshot.additions;
                let received = received.iter().flat_map(|config| origins(config));
                let origins = received.chain(parts.iter().map(|(part, _)| part.to_string()));
                let beside = origins.map(|origin| format!("# beside the file: {origin}\n"));
                let yaml = beside.collect::<String>() + &super::yaml::for_everybody(&yaml);
                Ok(reply::with_type(StatusCode::OK, "application/yaml", yaml))
            }
            Err(error) => {
                log::error!("cannot write the configuration as YAML: {error}");
                Err(Reason::Internal.because("it cannot be written as YAML (ask for JSON)"))
            }
        },
        Some(_) => Err(Reason::BadRequest.because("format is json or yaml (try /config?format=yaml)")),
    }
}

/// What of it stands beside the file, under keys of its own, where there is any: which version of what the control plane has
/// given, and the parts by kind and name, with who gave each.
fn with_additions(mut config: Value, additions: &Additions) -> Value {
    if let Some(received) = &additions.received {
        let origins: Vec<String> = origins(received).collect();
        config["received"] =
            json!({ "config": received.name, "version": received.version, "documents": origins });
    }
    for (part, given) in additions.parts.iter() {
        config["parts"][part.kind.key()][&part.name] = json!({
            "origin": part.to_string(), "etag": given.stamp.etag, "by": given.stamp.by, "at": given.stamp.at,
        });
    }
    config
}

/// What problems call its documents.
fn origins(received: &ReceivedConfig) -> impl Iterator<Item = String> {
    received.documents.iter().map(|document| received.origin(document))
}

pub(super) fn routes(state: &State, _: &Asked) -> Result<Reply, Refused> {
    #[derive(Serialize)]
    struct RouteView<'a> {
        name: &'a str,
        #[serde(rename = "match")]
        matching: Value,
        filters: Vec<&'a str>,
        #[serde(flatten)]
        target: serde_json::Map<String, Value>,
    }
    let snapshot = state.current.pin();
    let effective = snapshot.effective.value();
    let written = effective["routes"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Compiled routes stand in the order of the file.
    let routes = snapshot.routes.iter().zip(written).map(|(route, written)| {
        let mut filters: Vec<_> = route.chain.names().collect();
        // A route that answers itself ends in the filter that does; that is its target.
        if matches!(route.target, Target::Chain) {
            filters.pop();
        }
        RouteView { name: &route.name, matching: said(&written["match"]), filters, target: target(written) }
    });
    Ok(reply::json(StatusCode::OK, &routes.collect::<Vec<_>>()))
}

/// What a route does with a request, under the key by which the operator wrote it.
pub(super) fn target(written: &Value) -> serde_json::Map<String, Value> {
    let keys = ["upstream", "split", "canary", "redirect", "respond"];
    let given = keys.into_iter().find(|key| !written[key].is_null());
    let is_given = |subset: &&Value| subset.as_object().is_some_and(|tags| !tags.is_empty());
    let subset = Some(&written["subset"]).filter(is_given).map(|tags| ("subset".to_owned(), tags.clone()));
    given.map(|key| (key.to_owned(), said(&written[key]))).into_iter().chain(subset).collect()
}

/// Without what the operator left out.
pub(super) fn said(value: &Value) -> Value {
    let is_left_out = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !is_left_out(value));
            fields.map(|(key, value)| (key.clone(), value.clone())).collect()
        }
        Value::Null => Value::Object(serde_json::Map::new()),
        other => other.clone(),
    }
}

pub(super) fn upstreams(state: &State, _: &Asked) -> Result<Reply, Refused> {
    #[derive(Serialize)]
    struct UpstreamView<'a> {
        name: &'a str,
        ready: bool,
        protocol: UpstreamProtocol,
        balancer: &'a Balancer,
        tls: Option<TlsView<'a>>,
        failover: Option<FailoverView>,
        groups: Vec<GroupView>,
        endpoints: Vec<EndpointView>,
    }
    let snapshot = state.current.pin();
    let now = Instant::now();
    let upstreams = snapshot.upstreams.values().map(|upstream| UpstreamView {
        name: upstream.name(),
        ready: upstream.is_ready(),
        protocol: upstream.settings().protocol,
        balancer: &upstream.settings().balancer,
        tls: upstream.settings().tls.as_ref().map(TlsView::of),
        failover: FailoverView::of(upstream, now),
        groups: GroupView::all(upstream, now),
        endpoints: endpoints(state, upstream, now),
    });
    Ok(reply::json(StatusCode::OK, &upstreams.collect::<Vec<_>>()))
}

/// Whom an upstream has to be, and whether we say who we are.
#[derive(Serialize)]
struct TlsView<'a> {
    /// `false` where anybody's certificate is accepted.
    verified: bool,
    spiffe: &'a ExpectedIds,
    /// Null where it is the host of each endpoint's address.
    name: Option<&'a str>,
    uri: &'a [String],
    dns: &'a [String],
    client_identity: bool,
    /// The file of the certificate that is shown.
    client_cert: Option<&'a std::path::Path>,
    min_version: TlsVersion,
}

impl<'a> TlsView<'a> {
    fn of(tls: &'a UpstreamTls) -> TlsView<'a> {
        TlsView {
            verified: !tls.insecure_skip_verify,
            spiffe: &tls.verify.spiffe,
            name: tls.verify.name.as_deref(),
            uri: &tls.verify.uri,
            dns: &tls.verify.dns,
            client_identity: tls.client_identity,
            client_cert: tls.client_cert.as_ref().map(|files| files.cert.as_path()),
            min_version: tls.min_version,
        }
    }
}

#[derive(Serialize)]
struct EndpointView {
    name: Arc<str>,
    /// As configured.
    origin: Arc<str>,
    weight: u32,
    priority: u16,
    zone: Option<Arc<str>>,
    /// Its tags, or what a registry knows of it.
    metadata: BTreeMap<String, String>,
    health: &'static str,
    /// Why it gets nothing, or less than its share; null where all is well.
    why: Option<String>,
    /// When that began.
    since: Option<String>,
    ejected: bool,
    /// Chosen last: it could not be reached, or is silent.
    avoided: bool,
    /// `closed`, `open` or `half_open`; null without a breaker.
    circuit_breaker: Option<&'static str>,
    active_requests: usize,
    /// Response time, as of the last answer: the slowest of late, which falls as faster ones follow. A try that failed counts as at
    /// least 1 s. Null before the first.
    latency_ms: Option<f64>,
}

fn endpoints(state: &State, upstream: &Upstream, now: Instant) -> Vec<EndpointView> {
    let orders = upstream.orders();
    let view = |endpoint: &Arc<Endpoint>| {
        let note = state.journal.notes.of(upstream.name(), &endpoint.name);
        EndpointView::of(endpoint, &note, orders.get(&*endpoint.name), now)
    };
    upstream.endpoints().iter().map(view).collect()
}

impl EndpointView {
    fn of(endpoint: &Endpoint, note: &Note, ordered: Option<&OrderedEndpoint>, now: Instant) -> EndpointView {
        let is = EndpointState::of(endpoint, now);
        let why = is.why(note, ordered);
        EndpointView {
            name: endpoint.name.clone(),
            origin: endpoint.origin.clone(),
            weight: endpoint.weight,
            priority: endpoint.place.priority,
            zone: endpoint.place.zone.clone(),
            metadata: endpoint.metadata.clone(),
            health: health_word(endpoint.health()),
            since: why.as_ref().and_then(|_| is.since(note)).map(time),
            why,
            ejected: endpoint.is_ejected(now),
            avoided: endpoint.is_on_probation(),
            circuit_breaker: endpoint.circuit().map(|circuit| state_name(circuit.breaker.state(now))),
            active_requests: endpoint.active(),
            // To the microsecond: more digits would be noise.
            latency_ms: endpoint.response_time().map(|seconds| (seconds * 1e6).round() / 1e3),
        }
    }
}

fn state_name(state: breaker::State) -> &'static str {
    match state {
        breaker::State::Closed => "closed",
        breaker::State::Open => "open",
        breaker::State::HalfOpen => "half_open",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::said;

    #[test]
    fn what_was_left_out_is_not_shown() {
        let whole =
            json!({"hosts": [], "path": {"prefix": "/a"}, "methods": ["GET"], "headers": {}, "query": null});
        assert_eq!(said(&whole), json!({"path": {"prefix": "/a"}, "methods": ["GET"]}));
        assert_eq!(said(&json!(null)), json!({}));
    }
}
