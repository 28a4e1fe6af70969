//! What traffic policies did: variants chosen, hedges, mirrors, canaries, breakers. What changes by itself (a breaker that
//! may try again, a queue) is read when somebody scrapes, from whoever knows it: [`States`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{distinct, exposition::Exposition, register};
use crate::{observe::otlp, sharded::Sharded};

/// How often a variant of a split was chosen.
pub struct VariantMetrics {
    route: Arc<str>,
    variant: Arc<str>,
    /// When it began to count.
    began: u64,
    chosen: Sharded<AtomicU64>,
}

impl VariantMetrics {
    pub(super) fn new(route: Arc<str>, variant: Arc<str>) -> VariantMetrics {
        VariantMetrics { route, variant, began: otlp::nanos(SystemTime::now()), chosen: Sharded::default() }
    }

    pub fn chosen(&self) {
        self.chosen.mine().fetch_add(1, Relaxed);
    }
}

pub(super) fn write_variants(out: &mut Exposition, variants: &[Arc<VariantMetrics>]) {
    out.counter("tidegate_split_total", "Requests by the variant that was chosen for them.");
    for variant in variants {
        let chosen: u64 = variant.chosen.all().map(|shard| shard.load(Relaxed)).sum();
        if chosen > 0 {
            out.since(variant.began);
            out.sample(&[("route", &variant.route), ("variant", &variant.variant)], chosen);
        }
    }
}

/// Gauges that are set anew for each scrape, and rare events.
pub struct States {
    /// 0 closed, 1 open, 2 half-open.
    circuit: IntGaugeVec,
    ejected: IntGaugeVec,
    avoided: IntGaugeVec,
    pending: IntGaugeVec,
    failover: GaugeVec,
    groups: GaugeVec,
    failover_changes: IntCounterVec,
    concurrency_limit: IntGaugeVec,
    concurrency: IntGaugeVec,
    baseline: GaugeVec,
    canary_weight: GaugeVec,
    ejections: IntCounterVec,
    circuit_changes: IntCounterVec,
    tls_failures: IntCounterVec,
    insecure: IntGaugeVec,
    canary_decisions: IntCounterVec,
    canary_save_errors: IntCounter,
}

impl States {
    pub(super) fn new(registry: &Registry) -> States {
        let endpoint = ["upstream", "endpoint"];
        let gauges = |name, help, labels: &[&str]| {
            register(registry, distinct(IntGaugeVec::new(Opts::new(name, help), labels)))
        };
        let counters = |name, help, labels: &[&str]| {
            register(registry, distinct(IntCounterVec::new(Opts::new(name, help), labels)))
        };
        let weight = Opts::new("tidegate_canary_weight", "The candidate's share, 0 to 1.");
        let baseline = Opts::new(
            "tidegate_upstream_baseline_seconds",
            "The median time of an answer while the upstream is at ease.",
        );
        States {
            circuit: gauges("tidegate_circuit_breaker_state", "0 closed, 1 open, 2 half-open.", &endpoint),
            ejected: gauges(
                "tidegate_upstream_ejected",
                "1 while the endpoint gets no requests because they failed.",
                &endpoint,
            ),
            avoided: gauges(
                "tidegate_upstream_avoided",
                "1 while the endpoint is chosen last because it could not be reached or is silent.",
                &endpoint,
            ),
            pending: gauges(
                "tidegate_upstream_pending_requests",
                "Requests that wait for room at the upstream.",
                &["upstream"],
            ),
            failover: register(
                registry,
                distinct(GaugeVec::new(
                    Opts::new(
                        "tidegate_upstream_failover_share",
                        "The part of its requests that an upstream serves itself, 0 to 1; the upstream `to` has the rest.",
                    ),
                    &["upstream", "to"],
                )),
            ),
            groups: register(
                registry,
                distinct(GaugeVec::new(
                    Opts::new(
                        "tidegate_upstream_group_share",
                        "The part of an upstream's requests that goes to its endpoints of a priority and zone, 0 to 1.",
                    ),
                    &["upstream", "priority", "zone"],
                )),
            ),
            failover_changes: counters(
                "tidegate_upstream_failover_changes_total",
                "How often requests went over to another upstream (failed_over), began to come back (recovering) or were all back (serving).",
                &["upstream", "to", "state"],
            ),
            concurrency_limit: gauges(
                "tidegate_upstream_concurrency_limit",
                "Requests that the upstream can do at once, as far as is known.",
                &["upstream"],
            ),
            concurrency: gauges(
                "tidegate_upstream_concurrency",
                "Requests in flight at an upstream whose limit is learnt.",
                &["upstream"],
            ),
            baseline: register(registry, distinct(GaugeVec::new(baseline, &["upstream"]))),
            canary_weight: register(registry, distinct(GaugeVec::new(weight, &["route"]))),
            ejections: counters(
                "tidegate_upstream_ejections_total",
                "How often an endpoint was left out because its requests failed.",
                &endpoint,
            ),
            circuit_changes: counters(
                "tidegate_circuit_breaker_changes_total",
                "Changes of a circuit breaker, by its new state.",
                &["upstream", "endpoint", "state"],
            ),
            tls_failures: counters(
                "tidegate_upstream_tls_failures_total",
                "Connections over TLS that did not come about or were not trusted, by kind.",
                &["upstream", "endpoint", "kind"],
            ),
            insecure: gauges(
                "tidegate_upstream_insecure",
                "1 for an upstream whose certificates are not verified.",
                &["upstream"],
            ),
            canary_decisions: counters(
                "tidegate_canary_decisions_total",
                "What canaries decided or were ordered.",
                &["route", "decision"],
            ),
            canary_save_errors: register(
                registry,
                distinct(IntCounter::new(
                    "tidegate_canary_save_errors_total",
                    "Failed writes of canaries' progress to `state_dir`.",
                )),
            ),
        }
    }

    /// Forget all states, before those that are true now are set.
    pub fn clear(&self) {
        self.circuit.reset();
        self.ejected.reset();
        self.avoided.reset();
        self.pending.reset();
        self.failover.reset();
        self.groups.reset();
        self.concurrency_limit.reset();
        self.concurrency.reset();
        self.baseline.reset();
        self.insecure.reset();
        self.canary_weight.reset();
    }

    pub fn circuit(&self, upstream: &str, endpoint: &str, state: i64) {
        self.circuit.with_label_values(&[upstream, endpoint]).set(state);
    }

    pub fn avoided(&self, upstream: &str, endpoint: &str, avoided: bool) {
        self.avoided.with_label_values(&[upstream, endpoint]).set(avoided.into());
    }

    pub fn ejected(&self, upstream: &str, endpoint: &str, ejected: bool) {
        self.ejected.with_label_values(&[upstream, endpoint]).set(ejected.into());
    }

    pub fn pending(&self, upstream: &str, pending: usize) {
        self.pending.with_label_values(&[upstream]).set(pending as i64);
    }

    pub fn failover(&self, upstream: &str, to: &str, share: f64) {
        self.failover.with_label_values(&[upstream, to]).set(share);
    }

    /// `zone` is `own`, `other`, or nothing where zones do not count.
    pub fn group(&self, upstream: &str, priority: u16, zone: &str, share: f64) {
        self.groups.with_label_values(&[upstream, &priority.to_string(), zone]).set(share);
    }

    pub fn count_failover_change(&self, upstream: &str, to: &str, state: &str) {
        self.failover_changes.with_label_values(&[upstream, to, state]).inc();
    }

    pub fn concurrency(&self, upstream: &str, limit: usize, in_flight: usize, baseline: Option<Duration>) {
        self.concurrency_limit.with_label_values(&[upstream]).set(limit as i64);
        self.concurrency.with_label_values(&[upstream]).set(in_flight as i64);
        if let Some(baseline) = baseline {
            self.baseline.with_label_values(&[upstream]).set(baseline.as_secs_f64());
        }
    }

    pub fn canary_weight(&self, route: &str, weight: f64) {
        self.canary_weight.with_label_values(&[route]).set(weight);
    }

    pub fn count_ejection(&self, upstream: &str, endpoint: &str) {
        self.ejections.with_label_values(&[upstream, endpoint]).inc();
    }

    pub fn insecure(&self, upstream: &str) {
        self.insecure.with_label_values(&[upstream]).set(1);
    }

    pub fn count_tls_failure(&self, upstream: &str, endpoint: &str, kind: &str) {
        self.tls_failures.with_label_values(&[upstream, endpoint, kind]).inc();
    }

    pub fn count_circuit_change(&self, upstream: &str, endpoint: &str, state: &str) {
        self.circuit_changes.with_label_values(&[upstream, endpoint, state]).inc();
    }

    pub fn count_canary_save_error(&self) {
        self.canary_save_errors.inc();
    }

    pub fn count_canary_decision(&self, route: &str, decision: &str) {
        self.canary_decisions.with_label_values(&[route, decision]).inc();
    }
}
