//! The series of a gateway that follows a control plane, and announces itself there: rare, so through the `prometheus` crate.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{distinct, register};

/// Cheap to clone.
#[derive(Clone)]
pub struct MemberMetrics {
    connected: IntGauge,
    last_contact: Gauge,
    revision: IntGauge,
    updates_held: IntCounterVec,
    config_version: IntGaugeVec,
    reconnects: IntCounter,
    registrations: IntGaugeVec,
}

impl MemberMetrics {
    pub(super) fn new(registry: &Registry) -> MemberMetrics {
        let gauge = |name, help| register(registry, distinct(IntGauge::new(name, help)));
        MemberMetrics {
            connected: gauge(
                "tidegate_control_connected",
                "1 while the stream from the control plane is alive.",
            ),
            last_contact: register(
                registry,
                distinct(Gauge::new(
                    "tidegate_control_last_contact_timestamp_seconds",
                    "When the control plane was last heard of.",
                )),
            ),
            revision: gauge("tidegate_control_revision", "The registry's revision that is in force here."),
            updates_held: register(
                registry,
                distinct(IntCounterVec::new(
                    Opts::new(
                        "tidegate_control_updates_held_total",
                        "Removals that were not made: by silence alone, or while the control plane is warming.",
                    ),
                    &["why"],
                )),
            ),
            config_version: register(
                registry,
                distinct(IntGaugeVec::new(
                    Opts::new(
                        "tidegate_control_config_version",
                        "The version of the received configuration that is wanted, in force, or was refused last.",
                    ),
                    &["state"],
                )),
            ),
            reconnects: register(
                registry,
                distinct(IntCounter::new(
                    "tidegate_control_reconnects_total",
                    "Attempts to reach the control plane, but for the first.",
                )),
            ),
            registrations: register(
                registry,
                distinct(IntGaugeVec::new(
                    Opts::new(
                        "tidegate_registration_state",
                        "What this process announces: 0 not registered, 1 healthy, 2 critical.",
                    ),
                    &["service"],
                )),
            ),
        }
    }

    pub fn connected(&self, is_connected: bool) {
        self.connected.set(i64::from(is_connected));
    }

    pub fn contact(&self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_contact.set(since.as_secs_f64());
    }

    pub fn revision(&self, revision: u64) {
        self.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
    }

    /// `why` is `silence` or `warming`.
    pub fn updates_held(&self, why: &'static str, count: usize) {
        if count > 0 {
            self.updates_held.with_label_values(&[why]).inc_by(count as u64);
        }
    }

    /// `state` is `wanted`, `in_force` or `refused`; 0 is none.
    pub fn config_version(&self, state: &'static str, version: u64) {
        self.config_version.with_label_values(&[state]).set(i64::try_from(version).unwrap_or(i64::MAX));
    }

    pub fn reconnects(&self) {
        self.reconnects.inc();
    }

    /// Of a service that this process announces.
    pub fn registration(&self, service: &str) -> IntGauge {
        self.registrations.with_label_values(&[service])
    }
}
