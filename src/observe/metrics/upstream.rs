//! What is counted for an upstream and for each of its endpoints.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use super::{exemplar::Exemplar, exposition::Exposition, histogram::Histogram, shape::Shape};
use crate::{
    observe::otlp,
    policy::{failure::Outcome, priorities::Priority},
    sharded::Sharded,
};

pub struct UpstreamMetrics {
    shape: Arc<Shape>,
    name: Arc<str>,
    /// When it began to count.
    began: u64,
    duration: OnceLock<Box<Histogram>>,
    queue_wait: OnceLock<Box<Histogram>>,
    connections: OnceLock<Box<Sharded<Connections>>>,
    affinity: OnceLock<Box<Affinity>>,
    lookups: Tally,
    /// Refused because the limit that was learnt was reached, by priority.
    shed: [AtomicU64; Priority::ALL.len()],
}

/// What became of where clients belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffinityResult {
    /// It came without, and belongs to whoever answered.
    New,
    Kept,
    /// Its endpoint cannot be used.
    Moved,
    /// Answered by another try or a hedge, while its endpoint can be used.
    Elsewhere,
    /// A cookie that is none of ours.
    Invalid,
    Expired,
    /// A session of which nothing is known.
    Unknown,
    /// Refused: its endpoint cannot be used.
    Lost,
}

impl AffinityResult {
    const LABELS: [&str; 8] = ["new", "kept", "moved", "elsewhere", "invalid", "expired", "unknown", "lost"];
}

#[derive(Default)]
struct Affinity {
    results: Sharded<[AtomicU64; AffinityResult::LABELS.len()]>,
    /// Sessions that are remembered; `None` before the first.
    sessions: OnceLock<AtomicU64>,
    evicted: AtomicU64,
}

/// What requests were sent over.
#[derive(Default)]
struct Connections {
    kept: AtomicU64,
    new: AtomicU64,
}

impl UpstreamMetrics {
    pub(super) fn new(shape: Arc<Shape>, name: Arc<str>) -> UpstreamMetrics {
        UpstreamMetrics {
            shape,
            name,
            began: otlp::nanos(SystemTime::now()),
            duration: OnceLock::new(),
            queue_wait: OnceLock::new(),
            connections: OnceLock::new(),
            affinity: OnceLock::new(),
            lookups: Tally::default(),
            shed: Default::default(),
        }
    }

    /// Whether it counts as `shape` says.
    pub(super) fn has(&self, shape: &Arc<Shape>) -> bool {
        Arc::ptr_eq(&self.shape, shape)
    }

    /// An upstream's answer ended, `duration` after its first attempt began.
    pub fn record(&self, duration: Duration, exemplar: Option<Exemplar>) {
        self.duration.get_or_init(|| self.of_durations()).observe_time(duration, exemplar);
    }

    /// A request has waited so long for its place at the upstream, whether it got one or not.
    pub fn queued(&self, wait: Duration) {
        self.queue_wait.get_or_init(|| self.of_durations()).observe_time(wait, None);
    }

    /// A request was refused for want of a place that one so important may have.
    pub fn shed(&self, priority: Priority) {
        self.shed[priority as usize].fetch_add(1, Relaxed);
    }

    /// A try has a connection: a kept one, or one that was made for it.
    pub fn connected(&self, is_kept: bool) {
        let connections = self.connections.get_or_init(Box::default).mine();
        if is_kept { &connections.kept } else { &connections.new }.fetch_add(1, Relaxed);
    }

    /// A request with affinity has its answer.
    pub fn affinity(&self, result: AffinityResult) {
        let affinity = self.affinity.get_or_init(Box::default);
        affinity.results.mine()[result as usize].fetch_add(1, Relaxed);
    }

    /// So many sessions are remembered now; so many were forgotten for want of room.
    pub fn sessions(&self, remembered: usize, evicted: usize) {
        let affinity = self.affinity.get_or_init(Box::default);
        affinity.sessions.get_or_init(AtomicU64::default).store(remembered as u64, Relaxed);
        affinity.evicted.fetch_add(evicted as u64, Relaxed);
    }

    /// Answers by how long they took: what is in each bucket of [`UpstreamMetrics::bounds`], and beyond the last. Empty
    /// before the first.
    pub fn durations(&self) -> Vec<u64> {
        self.duration.get().map(|duration| duration.buckets()).unwrap_or_default()
    }

    /// In seconds.
    pub fn bounds(&self) -> &[f64] {
        self.shape.durations.bounds()
    }

    fn of_durations(&self) -> Box<Histogram> {
        Box::new(Histogram::new(&self.shape.durations))
    }

    pub fn lookup_succeeded(&self) {
        self.lookups.successes.fetch_add(1, Relaxed);
    }

    pub fn lookup_failed(&self) {
        self.lookups.failures.fetch_add(1, Relaxed);
    }
}

pub struct EndpointMetrics {
    upstream: Arc<str>,
    endpoint: Arc<str>,
    /// When it began to count.
    began: u64,
    healthy: AtomicBool,
    probes: Tally,
    traffic: OnceLock<Box<Sharded<Traffic>>>,
}

#[derive(Default)]
struct Traffic {
    attempts: [AtomicU64; Outcome::LABELS.len()],
    /// May be negative in one shard: what one thread starts another may end.
    active: AtomicI64,
}

impl EndpointMetrics {
    pub(super) fn new(upstream: Arc<str>, endpoint: Arc<str>) -> EndpointMetrics {
        EndpointMetrics {
            upstream,
            endpoint,
            began: otlp::nanos(SystemTime::now()),
            healthy: AtomicBool::new(true),
            probes: Tally::default(),
            traffic: OnceLock::new(),
        }
    }

    /// Every start needs its [`EndpointMetrics::attempt_ended`].
    pub fn attempt_started(&self) {
        self.traffic().active.fetch_add(1, Relaxed);
    }

    pub fn attempt_ended(&self, outcome: Outcome) {
        let traffic = self.traffic();
        traffic.active.fetch_sub(1, Relaxed);
        traffic.attempts[outcome as usize].fetch_add(1, Relaxed);
    }

    /// An attempt ended without saying anything about the endpoint: the client left, or a hedge lost.
    pub fn attempt_abandoned(&self) {
        self.traffic().active.fetch_sub(1, Relaxed);
    }

    /// Attempts that have ended, and those of them that failed; none before the first.
    pub fn attempts(&self) -> Option<(u64, u64)> {
        let traffic = self.traffic.get()?;
        let (mut all, mut failed) = (0, 0);
        for shard in traffic.all() {
            for (outcome, attempts) in shard.attempts.iter().enumerate() {
                let attempts = attempts.load(Relaxed);
                all += attempts;
                failed += if outcome == Outcome::Success as usize { 0 } else { attempts };
            }
        }
        Some((all, failed))
    }

    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Relaxed);
    }

    pub fn probe_succeeded(&self) {
        self.probes.successes.fetch_add(1, Relaxed);
    }

    pub fn probe_failed(&self) {
        self.probes.failures.fetch_add(1, Relaxed);
    }

    fn traffic(&self) -> &Traffic {
        self.traffic.get_or_init(Box::default).mine()
    }

    fn labels(&self) -> [(&'static str, &str); 2] {
        [("upstream", &self.upstream), ("endpoint", &self.endpoint)]
    }
}

/// Rare events by result.
#[derive(Default)]
struct Tally {
    successes: AtomicU64,
    failures: AtomicU64,
}

impl Tally {
    /// Nothing for what never happened: an upstream without health checks has no results of them.
    fn by_result(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [("success", self.successes.load(Relaxed)), ("failure", self.failures.load(Relaxed))]
            .into_iter()
            .filter(|(_, count)| *count > 0)
    }
}

pub(super) fn write_upstreams(out: &mut Exposition, upstreams: &[Arc<UpstreamMetrics>]) {
    type Of = fn(&UpstreamMetrics) -> Option<&Box<Histogram>>;
    let histograms: [(_, _, Of); 2] = [
        (
            "tidegate_upstream_duration_seconds",
            "From the first attempt to the end of the answer.",
            |upstream| upstream.duration.get(),
        ),
        (
            "tidegate_upstream_queue_wait_seconds",
            "Time that requests waited for a place at an upstream with a limit.",
            |upstream| upstream.queue_wait.get(),
        ),
    ];
    for (name, help, of) in histograms {
        out.histogram(name, help);
        for (upstream, histogram) in upstreams.iter().filter_map(|upstream| Some((upstream, of(upstream)?))) {
            out.since(upstream.began);
            out.distribution(&[("upstream", &upstream.name)], &histogram.read());
        }
    }
    out.counter(
        "tidegate_upstream_connections_total",
        "Tries that have got a connection, by whether it was kept from before.",
    );
    for (upstream, connections) in
        upstreams.iter().filter_map(|upstream| Some((upstream, upstream.connections.get()?)))
    {
        let sum = |of: fn(&Connections) -> &AtomicU64| -> u64 {
            connections.all().map(|shard| of(shard).load(Relaxed)).sum()
        };
        out.since(upstream.began);
        for (connection, count) in [("reused", sum(|all| &all.kept)), ("new", sum(|all| &all.new))] {
            out.sample(&[("upstream", &upstream.name), ("connection", connection)], count);
        }
    }
    out.counter(
        "tidegate_upstream_shed_total",
        "Requests refused because the upstream had as many as it can do at once, by priority.",
    );
    for upstream in upstreams {
        out.since(upstream.began);
        for priority in Priority::ALL {
            let shed = upstream.shed[priority as usize].load(Relaxed);
            if shed > 0 {
                out.sample(&[("upstream", &upstream.name), ("priority", priority.label())], shed);
            }
        }
    }
    write_affinity(out, upstreams);
    out.counter("tidegate_dns_lookups_total", "Lookups of endpoints' names, by result.");
    for upstream in upstreams {
        out.since(upstream.began);
        for (result, count) in upstream.lookups.by_result() {
            out.sample(&[("upstream", &upstream.name), ("result", result)], count);
        }
    }
}

fn write_affinity(out: &mut Exposition, upstreams: &[Arc<UpstreamMetrics>]) {
    let kept = || upstreams.iter().filter_map(|upstream| Some((upstream, upstream.affinity.get()?)));
    out.counter(
        "tidegate_affinity_requests_total",
        "Requests to upstreams with affinity, by what became of it.",
    );
    for (upstream, affinity) in kept() {
        out.since(upstream.began);
        for (result, label) in AffinityResult::LABELS.into_iter().enumerate() {
            let count: u64 = affinity.results.all().map(|shard| shard[result].load(Relaxed)).sum();
            if count > 0 {
                out.sample(&[("upstream", &upstream.name), ("result", label)], count);
            }
        }
    }
    let learned =
        || kept().filter_map(|(upstream, affinity)| Some((upstream, affinity, affinity.sessions.get()?)));
    out.gauge("tidegate_affinity_sessions", "Sessions whose endpoint is remembered.");
    for (upstream, _, sessions) in learned() {
        out.sample(&[("upstream", &upstream.name)], sessions.load(Relaxed));
    }
    out.counter("tidegate_affinity_sessions_evicted_total", "Sessions that were forgotten for want of room.");
    for (upstream, affinity, _) in learned() {
        out.since(upstream.began);
        out.sample(&[("upstream", &upstream.name)], affinity.evicted.load(Relaxed));
    }
}

pub(super) fn write_endpoints(out: &mut Exposition, endpoints: &[Arc<EndpointMetrics>]) {
    let busy = || endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.traffic.get()?)));

    out.gauge("tidegate_upstream_healthy", "1 when the endpoint gets traffic, 0 when it was taken out.");
    for endpoint in endpoints {
        out.sample(&endpoint.labels(), u8::from(endpoint.healthy.load(Relaxed)));
    }
    out.gauge("tidegate_upstream_active_requests", "Attempts that have begun and not ended.");
    for (endpoint, traffic) in busy() {
        let active: i64 = traffic.all().map(|shard| shard.active.load(Relaxed)).sum();
        out.sample(&endpoint.labels(), active);
    }
    out.counter("tidegate_upstream_attempts_total", "Attempts that ended, by outcome.");
    for (endpoint, traffic) in busy() {
        out.since(endpoint.began);
        for (outcome, label) in Outcome::LABELS.into_iter().enumerate() {
            let attempts: u64 = traffic.all().map(|shard| shard.attempts[outcome].load(Relaxed)).sum();
            if attempts > 0 {
                let [upstream, endpoint] = endpoint.labels();
                out.sample(&[upstream, endpoint, ("outcome", label)], attempts);
            }
        }
    }
    out.counter("tidegate_health_checks_total", "Probes of endpoints, by result.");
    for endpoint in endpoints {
        out.since(endpoint.began);
        for (result, count) in endpoint.probes.by_result() {
            let [upstream, endpoint] = endpoint.labels();
            out.sample(&[upstream, endpoint, ("result", result)], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_label() {
        for (outcome, label) in [
            (Outcome::Success, "success"),
            (Outcome::ConnectFailed, "connect_failed"),
            (Outcome::Reset, "reset"),
            (Outcome::Timeout, "timeout"),
            (Outcome::ServerError, "5xx"),
        ] {
            assert_eq!(outcome.label(), label);
        }
    }
}
