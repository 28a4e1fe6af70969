//! `GET /stats`: the gateway in a few lines, with what it has done since it began to count.

use std::{collections::BTreeMap, sync::Arc};

use http::StatusCode;
use serde::Serialize;

use super::{State, history::quantile, journal::hash, refused::Refused, router::Asked};
use crate::{
    api::reply::{self, Reply},
    observe::metrics::{Metrics, RouteMetrics},
    snapshot::{Listener, Snapshot},
    upstream::Upstream,
};

#[derive(Serialize)]
struct Stats<'a> {
    version: &'a str,
    phase: &'a str,
    uptime_seconds: u64,
    config_hash: String,
    listeners: Vec<ListenerView<'a>>,
    routes: usize,
    traffic: Traffic,
    upstreams: Vec<UpstreamView<'a>>,
}

#[derive(Serialize)]
struct ListenerView<'a> {
    name: &'a str,
    address: &'a str,
    connections: i64,
    connections_limit: usize,
    /// Since it began to count.
    connections_total: u64,
    requests_in_flight: i64,
    /// Of connections that are not HTTP: to upstreams and back.
    carried: Bytes,
    filters: Vec<&'a str>,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Bytes {
    received: u64,
    sent: u64,
}

/// Requests of all routes that are there, and of those that none took.
#[derive(Default, Serialize)]
struct Traffic {
    requests: u64,
    errors_4xx: u64,
    errors_5xx: u64,
    /// Answered by the gateway itself, by reason.
    own_answers: BTreeMap<&'static str, u64>,
    latency: Latency,
    /// Of bodies.
    bytes: Bytes,
}

/// From the first byte of a request to the last of its response, in milliseconds; null before the first.
#[derive(Default, Serialize)]
struct Latency {
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
}

#[derive(Serialize)]
struct UpstreamView<'a> {
    name: &'a str,
    ready: bool,
    endpoints: usize,
    usable: usize,
    /// Since the endpoints that are there began to count.
    attempts: u64,
    failed: u64,
}

pub(super) fn show(state: &State, _: &Asked) -> Result<Reply, Refused> {
    let snapshot = state.current.pin();
    let metrics = &state.recorder.metrics;
    let mut listeners: Vec<&Arc<Listener>> = snapshot.listeners.values().collect();
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    let stats = Stats {
        version: env!("CARGO_PKG_VERSION"),
        phase: state.phase.word(),
        uptime_seconds: state.started.elapsed().as_secs(),
        config_hash: hash(snapshot.hash),
        listeners: listeners.into_iter().map(|listener| ListenerView::of(listener)).collect(),
        routes: snapshot.routes.len(),
        traffic: Traffic::of(&snapshot),
        upstreams: snapshot.upstreams.values().map(|upstream| UpstreamView::of(upstream, metrics)).collect(),
    };
    Ok(reply::json(StatusCode::OK, &stats))
}

impl<'a> ListenerView<'a> {
    fn of(listener: &'a Listener) -> ListenerView<'a> {
        let (received, sent) = listener.metrics.carried();
        ListenerView {
            name: &listener.name,
            address: &listener.address,
            connections: listener.metrics.connections(),
            connections_limit: listener.limits.connections,
            connections_total: listener.metrics.connections_total(),
            requests_in_flight: listener.metrics.requests_in_flight(),
            carried: Bytes { received, sent },
            filters: listener.chain.names().collect(),
        }
    }
}

impl<'a> UpstreamView<'a> {
    fn of(upstream: &'a Upstream, metrics: &Metrics) -> UpstreamView<'a> {
        let endpoints = upstream.endpoints();
        let usable = endpoints.iter().filter(|endpoint| endpoint.weight > 0 && endpoint.is_usable()).count();
        let counted = endpoints.iter().filter_map(|endpoint| {
            endpoint.attached(|| metrics.endpoint(upstream.name(), endpoint.label())).attempts()
        });
        let (attempts, failed) = counted.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        UpstreamView {
            name: upstream.name(),
            ready: upstream.is_ready(),
            endpoints: endpoints.len(),
            usable,
            attempts,
            failed,
        }
    }
}

impl Traffic {
    fn of(snapshot: &Snapshot) -> Traffic {
        let mut traffic = Traffic::default();
        let mut buckets: Vec<u64> = Vec::new();
        let mut bounds: &[f64] = &[];
        // All listeners count in one series what no route takes.
        let unrouted = snapshot.listeners.values().next().map(|listener| &listener.unrouted);
        let routes = snapshot.routes.iter().flat_map(|route| route.series().map(|(_, series)| series));
        for series in routes.chain(unrouted) {
            traffic.add(series);
            let more = series.durations();
            buckets.resize(buckets.len().max(more.len()), 0);
            buckets.iter_mut().zip(&more).for_each(|(all, more)| *all += more);
            bounds = series.bounds();
        }
        // To the microsecond: more digits would be noise.
        let ms = |q| quantile(bounds, &buckets, q).map(|seconds| (seconds * 1e6).round() / 1e3);
        traffic.latency = Latency { p50_ms: ms(0.5), p95_ms: ms(0.95), p99_ms: ms(0.99) };
        traffic
    }

    fn add(&mut self, series: &RouteMetrics) {
        if let Some(read) = series.read() {
            self.requests += read.requests;
            self.errors_4xx += read.client_errors;
            self.errors_5xx += read.server_errors;
        }
        for (reason, count) in series.own_answers() {
            *self.own_answers.entry(reason).or_default() += count;
        }
        let (received, sent) = series.bytes();
        self.bytes.received += received;
        self.bytes.sent += sent;
    }
}
