//! What is counted for a route. A route that never had a request costs its names and little more, and is
//! not written at all: most of ten thousand routes are idle.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use super::{
    exemplar::Exemplar,
    exposition::Exposition,
    histogram::Histogram,
    listener::ListenerMetrics,
    live::Counts,
    shape::{MethodLabel, Shape},
};
use crate::{observe::otlp, sharded::Sharded};

pub struct RouteMetrics {
    shape: Arc<Shape>,
    route: Arc<str>,
    upstream: Option<Arc<str>>,
    /// When it began to count, in nanoseconds since 1970.
    began: u64,
    requests: OnceLock<Box<Requests>>,
    errors: OnceLock<Box<Counts<&'static str>>>,
    retries: OnceLock<Box<Counts<&'static str>>>,
    extras: OnceLock<Box<Extras>>,
}

/// Of all routes together since the process began, also of those that are gone.
#[derive(Default)]
pub(super) struct Totals {
    requests: Sharded<AtomicU64>,
    errors: Counts<&'static str>,
}

impl Totals {
    pub(super) fn requests(&self) -> u64 {
        self.requests.all().map(|requests| requests.load(Relaxed)).sum()
    }

    /// By reason.
    pub(super) fn errors(&self) -> BTreeMap<&'static str, u64> {
        self.errors.totals()
    }
}

/// Of routes that hedge, mirror, retry beyond their budget, carry gRPC or have pages in the place of an upstream's errors.
#[derive(Default)]
struct Extras {
    budget_exhausted: AtomicU64,
    hedges: Counts<&'static str>,
    mirrored: Counts<&'static str>,
    grpc: Counts<&'static str>,
    replaced: Counts<&'static str>,
}

struct Requests {
    /// By the listener's id, status and method. Listeners that are gone keep their slots and are not written.
    statuses: Counts<(u32, Status, MethodLabel)>,
    duration: Histogram,
    first_byte: Histogram,
    received: Histogram,
    sent: Histogram,
}

/// A request that has ended.
pub struct RequestEnd<'a> {
    pub listener: &'a ListenerMetrics,
    /// Outside 100 to 599 it counts as `other`.
    pub status: u16,
    pub method: &'a str,
    pub duration: Duration,
    /// From its beginning to that of its answer, if there was any.
    pub first_byte: Option<Duration>,
    /// Bytes of its body and of its answer's, if it came so far that it had one.
    pub sizes: Option<(u64, u64)>,
    /// Where its trace can be looked up.
    pub exemplar: Option<Exemplar>,
}

/// A status as a label: an upstream may answer with any number, but may not make any number of series.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Status(u16);

impl Status {
    const OTHER: Status = Status(0);

    fn new(status: u16) -> Status {
        if (100..600).contains(&status) { Status(status) } else { Status::OTHER }
    }

    fn label(self) -> String {
        if self == Status::OTHER { "other".into() } else { self.0.to_string() }
    }
}

impl RouteMetrics {
    pub(super) fn new(shape: Arc<Shape>, route: Arc<str>, upstream: Option<Arc<str>>) -> RouteMetrics {
        RouteMetrics {
            shape,
            route,
            upstream,
            began: otlp::nanos(SystemTime::now()),
            requests: OnceLock::new(),
            errors: OnceLock::new(),
            retries: OnceLock::new(),
            extras: OnceLock::new(),
        }
    }

    /// Whether it counts as `shape` says.
    pub(super) fn has(&self, shape: &Arc<Shape>) -> bool {
        Arc::ptr_eq(&self.shape, shape)
    }

    pub fn record(&self, end: &RequestEnd<'_>) {
        self.shape.totals.requests.mine().fetch_add(1, Relaxed);
        let requests = self.requests.get_or_init(|| Box::new(Requests::new(&self.shape)));
        let method = MethodLabel::new(end.method, &self.shape);
        requests.statuses.add_one((end.listener.id(), Status::new(end.status), method));
        requests.duration.observe_time(end.duration, end.exemplar);
        if let Some(first_byte) = end.first_byte {
            requests.first_byte.observe_time(first_byte, end.exemplar);
        }
        if let Some((received, sent)) = end.sizes {
            requests.received.observe(received);
            requests.sent.observe(sent);
        }
    }

    /// The gateway answered by itself, because of `reason`.
    pub fn error(&self, reason: &'static str) {
        self.shape.totals.errors.add_one(reason);
        self.errors.get_or_init(Box::default).add_one(reason);
    }

    /// One more attempt was made, because of `reason`.
    pub fn retry(&self, reason: &'static str) {
        self.retries.get_or_init(Box::default).add_one(reason);
    }

    /// A retry was not made, because nothing paid for it.
    pub fn budget_exhausted(&self) {
        self.extras.get_or_init(Box::default).budget_exhausted.fetch_add(1, Relaxed);
    }

    /// A hedge ended: it `won`, it `lost`, or was `not_paid` for.
    pub fn hedge(&self, outcome: &'static str) {
        self.extras.get_or_init(Box::default).hedges.add_one(outcome);
    }

    /// A copy ended: `answered`, `failed`, or was not made: `overloaded`, `too_large`, `incomplete`.
    pub fn mirrored(&self, outcome: &'static str) {
        self.extras.get_or_init(Box::default).mirrored.add_one(outcome);
    }

    /// A call of gRPC ended with the status of this name.
    pub fn grpc(&self, status: &'static str) {
        self.extras.get_or_init(Box::default).grpc.add_one(status);
    }

    /// A page of ours was sent in the place of an upstream's answer of this class.
    pub fn replaced(&self, class: &'static str) {
        self.extras.get_or_init(Box::default).replaced.add_one(class);
    }

    fn upstream(&self) -> &str {
        self.upstream.as_deref().unwrap_or_default()
    }

    /// What it has counted so far; none while it never had a request. The buckets of durations are read only when asked for.
    pub fn read(&self) -> Option<RouteReading> {
        let requests = self.requests.get()?;
        let mut reading = RouteReading::default();
        requests.statuses.each(|(listener, status, _), count| reading.add(listener, status, count));
        Some(reading)
    }

    /// Requests by how long they took: what is in each bucket of [`RouteMetrics::bounds`], and beyond the last.
    pub fn durations(&self) -> Vec<u64> {
        self.requests.get().map(|requests| requests.duration.buckets()).unwrap_or_default()
    }

    /// Of all bodies: what was received of clients, and what was sent to them.
    pub fn bytes(&self) -> (u64, u64) {
        let requests = self.requests.get();
        requests.map(|requests| (requests.received.sum(), requests.sent.sum())).unwrap_or_default()
    }

    /// In seconds.
    pub fn bounds(&self) -> &[f64] {
        self.shape.durations.bounds()
    }

    /// Requests that the gateway answered by itself, by reason.
    pub fn own_answers(&self) -> BTreeMap<&'static str, u64> {
        self.errors.get().map(|errors| errors.totals()).unwrap_or_default()
    }

    /// Attempts beyond a request's first, by the reason for them.
    pub fn retries(&self) -> BTreeMap<&'static str, u64> {
        self.retries.get().map(|retries| retries.totals()).unwrap_or_default()
    }

    /// Copies of slow requests, by what came of them.
    pub fn hedges(&self) -> BTreeMap<&'static str, u64> {
        self.extras.get().map(|extras| extras.hedges.totals()).unwrap_or_default()
    }
}

/// What a route has counted at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteReading {
    pub requests: u64,
    /// Answered with 400 to 499.
    pub client_errors: u64,
    /// Answered with 500 and above.
    pub server_errors: u64,
    /// By the listener's number: requests, and those answered with 500 and above.
    pub by_listener: Vec<(u32, u64, u64)>,
}

impl RouteReading {
    fn add(&mut self, listener: u32, Status(status): Status, count: u64) {
        let failed = if status >= 500 { count } else { 0 };
        self.requests += count;
        self.server_errors += failed;
        self.client_errors += if (400..500).contains(&status) { count } else { 0 };
        match self.by_listener.iter_mut().find(|(known, ..)| *known == listener) {
            Some((_, requests, errors)) => {
                *requests += count;
                *errors += failed;
            }
            None => self.by_listener.push((listener, count, failed)),
        }
    }
}

impl Requests {
    fn new(shape: &Shape) -> Requests {
        Requests {
            statuses: Counts::default(),
            duration: Histogram::new(&shape.durations),
            first_byte: Histogram::new(&shape.durations),
            received: Histogram::new(&shape.sizes),
            sent: Histogram::new(&shape.sizes),
        }
    }
}

pub(super) fn write(out: &mut Exposition, routes: &[Arc<RouteMetrics>], listeners: &[Arc<ListenerMetrics>]) {
    let listeners: HashMap<u32, &str> =
        listeners.iter().map(|listener| (listener.id(), listener.name())).collect();
    let busy = || routes.iter().filter_map(|route| Some((route, route.requests.get()?)));

    out.counter("tidegate_requests_total", "Requests answered, by status.");
    for (route, requests) in busy() {
        out.since(route.began);
        for ((listener, status, method), count) in requests.statuses.totals() {
            let Some(listener) = listeners.get(&listener) else { continue };
            let status = status.label();
            let mut labels = vec![
                ("listener", *listener),
                ("route", &*route.route),
                ("upstream", route.upstream()),
                ("status", &*status),
            ];
            labels.extend(method.text().map(|method| ("method", method)));
            out.sample(&labels, count);
        }
    }
    for (name, help, of) in HISTOGRAMS {
        out.histogram(name, help);
        for (route, histogram) in busy().map(|(route, requests)| (route, of(requests))) {
            out.since(route.began);
            out.distribution(&[("route", &*route.route), ("upstream", route.upstream())], &histogram.read());
        }
    }
    out.counter("tidegate_errors_total", "Requests that the gateway answered by itself, by reason.");
    write_by_route(out, routes, "reason", |route| route.errors.get().map(Box::as_ref));
    out.counter("tidegate_retries_total", "Attempts beyond a request's first, by the reason for them.");
    write_by_route(out, routes, "reason", |route| route.retries.get().map(Box::as_ref));
    out.counter("tidegate_retry_budget_exhausted_total", "Retries not made, because nothing paid for them.");
    for route in routes {
        let exhausted = route.extras.get().map(|extras| extras.budget_exhausted.load(Relaxed));
        if let Some(exhausted @ 1..) = exhausted {
            out.since(route.began);
            out.sample(&[("route", &route.route)], exhausted);
        }
    }
    out.counter("tidegate_hedges_total", "Copies of slow requests, by what came of them.");
    write_by_route(out, routes, "outcome", |route| Some(&route.extras.get()?.hedges));
    out.counter("tidegate_mirrored_total", "Copies of requests to a shadow upstream, by what came of them.");
    write_by_route(out, routes, "outcome", |route| Some(&route.extras.get()?.mirrored));
    out.counter("tidegate_grpc_calls_total", "Calls of gRPC, by the status that ended them.");
    write_by_route(out, routes, "grpc_status", |route| Some(&route.extras.get()?.grpc));
    out.counter(
        "tidegate_error_pages_replaced_total",
        "Answers of upstreams in whose place an error page was sent.",
    );
    write_by_route(out, routes, "class", |route| Some(&route.extras.get()?.replaced));
}

/// Name, help, and where a route has it.
type Family = (&'static str, &'static str, fn(&Requests) -> &Histogram);

const HISTOGRAMS: [Family; 4] = [
    ("tidegate_request_duration_seconds", "From a request's first byte to its answer's last.", |requests| {
        &requests.duration
    }),
    (
        "tidegate_time_to_first_byte_seconds",
        "From a request's first byte to its answer's first.",
        |requests| &requests.first_byte,
    ),
    ("tidegate_request_size_bytes", "Bytes of requests' bodies.", |requests| &requests.received),
    ("tidegate_response_size_bytes", "Bytes of answers' bodies.", |requests| &requests.sent),
];

/// One route may have several upstreams, now or while a reload settles; these series do not tell them apart.
fn write_by_route(
    out: &mut Exposition,
    routes: &[Arc<RouteMetrics>],
    label: &'static str,
    counts: impl Fn(&RouteMetrics) -> Option<&Counts<&'static str>>,
) {
    let mut totals = BTreeMap::<(&str, &str), (u64, u64)>::new();
    for (route, counts) in routes.iter().filter_map(|route| Some((route, counts(route)?))) {
        for (reason, count) in counts.totals() {
            // As old as the oldest of them: one that begins later has counted nothing before.
            let total = totals.entry((&route.route, reason)).or_insert((0, route.began));
            *total = (total.0 + count, total.1.min(route.began));
        }
    }
    for ((route, reason), (count, began)) in totals {
        out.since(began);
        out.sample(&[("route", route), (label, reason)], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_route_is_small() {
        assert!(size_of::<RouteMetrics>() <= 112, "{}", size_of::<RouteMetrics>());
    }

    #[test]
    fn a_reading_adds_up_statuses_and_tells_listeners_apart() {
        let mut reading = RouteReading::default();
        for (listener, status, count) in [(0, 200, 5), (0, 404, 2), (1, 503, 3), (1, 204, 1)] {
            reading.add(listener, Status::new(status), count);
        }
        let expected = RouteReading {
            requests: 11,
            client_errors: 2,
            server_errors: 3,
            by_listener: vec![(0, 7, 0), (1, 4, 3)],
        };
        assert_eq!(reading, expected);
    }

    #[test]
    fn odd_statuses_share_one_label() {
        let labels = [0, 99, 100, 204, 599, 600, 999].map(|status| Status::new(status).label());
        assert_eq!(labels, ["other", "other", "100", "204", "599", "other", "other"]);
    }
}
