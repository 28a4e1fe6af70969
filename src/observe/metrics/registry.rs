//! The series of a registry and of the control plane that serves it. They are there only where one is served. Rare, so
//! through the `prometheus` crate. No label comes from a client: names of services are none.
//! Those of configurations are the operator's.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::{distinct, register};

/// Cheap to clone.
#[derive(Clone)]
pub struct RegistryMetrics {
    instances: IntGaugeVec,
    services: IntGauge,
    held: IntGauge,
    warming: IntGauge,
    events: IntCounterVec,
    heartbeats: IntCounterVec,
    revision: IntGauge,
    save_errors: IntCounter,
    streams: IntGaugeVec,
    streams_closed: IntCounterVec,
    updates: IntCounterVec,
    lag: Histogram,
    refused: IntCounterVec,
    gateways: IntGaugeVec,
    phases: IntGaugeVec,
    svids: IntCounterVec,
    connections: IntGauge,
    evictions: IntCounter,
}

impl RegistryMetrics {
    pub(super) fn new(registry: &Registry) -> RegistryMetrics {
        let counters = |name, help, labels: &[&str]| {
            register(registry, distinct(IntCounterVec::new(Opts::new(name, help), labels)))
        };
        let counter = |name, help| register(registry, distinct(IntCounter::new(name, help)));
        let gauges = |name, help, label| {
            register(registry, distinct(IntGaugeVec::new(Opts::new(name, help), &[label])))
        };
        let gauge = |name, help| register(registry, distinct(IntGauge::new(name, help)));
        RegistryMetrics {
            instances: gauges("tidegate_registry_instances", "Registered instances, by state.", "state"),
            services: gauge("tidegate_registry_services", "Services with a registered instance."),
            held: gauge("tidegate_registry_held", "Instances that are held, as many fell silent together."),
            warming: gauge(
                "tidegate_registry_warming",
                "1 after a start, while what is missing may come back.",
            ),
            events: counters("tidegate_registry_events_total", "What happened to instances.", &["event"]),
            heartbeats: counters("tidegate_registry_heartbeats_total", "Heartbeats, by result.", &["result"]),
            revision: gauge("tidegate_store_revision", "The revision of the last change."),
            save_errors: counter(
                "tidegate_registry_save_errors_total",
                "Attempts to write the registry's state that failed.",
            ),
            streams: gauges("tidegate_control_streams", "Open watches, by kind.", "kind"),
            streams_closed: counters(
                "tidegate_control_streams_closed_total",
                "Watches that were ended here, by reason.",
                &["reason"],
            ),
            updates: counters(
                "tidegate_control_updates_total",
                "Updates that were sent, by kind.",
                &["kind"],
            ),
            lag: register(registry, distinct(Histogram::with_opts(lag()))),
            refused: counters(
                "tidegate_control_refused_total",
                "Calls of the control plane that were refused, by API and reason.",
                &["api", "reason"],
            ),
            gateways: register(
                registry,
                distinct(IntGaugeVec::new(
                    Opts::new("tidegate_control_gateways", "Gateways, by configuration and state."),
                    &["config", "state"],
                )),
            ),
            phases: gauges(
                "tidegate_control_rollout_phase",
                "How far the newest version of a configuration is: 1 checking, 2 rolling, 3 holding, 4 paused, 5 done, 6 aborted.",
                "config",
            ),
            svids: counters(
                "tidegate_svids_issued_total",
                "SVIDs that were asked for here, by result: issued, or why not.",
                &["result"],
            ),
            connections: gauge(
                "tidegate_control_connections_active",
                "Open connections to the address of the control plane.",
            ),
            evictions: counter(
                "tidegate_control_connections_evicted_total",
                "Connections to the control plane that were closed to make room for others.",
            ),
        }
    }

    /// How many instances are in each state; the words are from a closed set.
    pub fn states(&self, states: impl Iterator<Item = (&'static str, usize)>) {
        for (state, instances) in states {
            self.instances.with_label_values(&[state]).set(signed(instances));
        }
    }

    pub fn show(&self, services: usize, held: usize, revision: u64, is_warming: bool) {
        self.services.set(signed(services));
        self.held.set(signed(held));
        self.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        self.warming.set(i64::from(is_warming));
    }

    /// `event` is from a closed set, as are all words below.
    pub fn event(&self, event: &'static str) {
        self.events.with_label_values(&[event]).inc();
    }

    pub fn heartbeat(&self, result: &'static str) {
        self.heartbeats.with_label_values(&[result]).inc();
    }

    pub fn save_failed(&self) {
        self.save_errors.inc();
    }

    /// A change is in force at a gateway, so long after it was made.
    pub fn applied(&self, lag: Duration) {
        self.lag.observe(lag.as_secs_f64());
    }

    /// Open until it is dropped.
    pub fn stream(&self, kind: &'static str) -> StreamMetrics {
        let open = self.streams.with_label_values(&[kind]);
        open.inc();
        StreamMetrics {
            open,
            closed: self.streams_closed.clone(),
            updates: self.updates.with_label_values(&[kind]),
        }
    }

    pub fn refused(&self, api: &'static str, reason: &'static str) {
        self.refused.with_label_values(&[api, reason]).inc();
    }

    /// How the gateways of a configuration are, and how far its newest version is. Operators name configurations, and there are
    /// only so many.
    pub fn configuration(
        &self,
        config: &str,
        states: impl Iterator<Item = (&'static str, usize)>,
        phase: i64,
    ) {
        for (state, gateways) in states {
            self.gateways.with_label_values(&[config, state]).set(signed(gateways));
        }
        self.phases.with_label_values(&[config]).set(phase);
    }

    /// It is there no more.
    pub fn no_configuration(&self, config: &str, states: impl IntoIterator<Item = &'static str>) {
        // Those that were never shown are no error.
        for state in states {
            let _ = self.gateways.remove_label_values(&[config, state]);
        }
        let _ = self.phases.remove_label_values(&[config]);
    }

    /// Somebody has asked for an SVID.
    pub fn svid(&self, result: &'static str) {
        self.svids.with_label_values(&[result]).inc();
    }

    /// Those that are open, and those that had to go.
    pub fn connections(&self) -> (IntGauge, IntCounter) {
        (self.connections.clone(), self.evictions.clone())
    }
}

/// Of one stream.
pub struct StreamMetrics {
    open: IntGauge,
    closed: IntCounterVec,
    updates: IntCounter,
}

impl StreamMetrics {
    pub fn sent(&self, updates: u64) {
        self.updates.inc_by(updates);
    }

    /// It is ended here.
    pub fn closed(&self, reason: &'static str) {
        self.closed.with_label_values(&[reason]).inc();
    }
}

impl Drop for StreamMetrics {
    fn drop(&mut self) {
        self.open.dec();
    }
}

fn lag() -> HistogramOpts {
    let help = "From a change in the registry to a gateway that has it in force.";
    let bounds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 15.0, 60.0];
    HistogramOpts::new("tidegate_control_change_to_applied_seconds", help).buckets(bounds.to_vec())
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
