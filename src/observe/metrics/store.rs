//! The series of a store that replicas of a control plane share. They are there only where there is one. Rare, so through the
//! `prometheus` crate.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::{distinct, register};

/// Cheap to clone.
#[derive(Clone)]
pub struct StoreMetrics {
    up: IntGauge,
    operations: IntCounterVec,
    relists: IntCounterVec,
    repairs: IntCounter,
    unreadable: IntCounter,
    renewals: IntCounterVec,
}

impl StoreMetrics {
    pub(super) fn new(registry: &Registry) -> StoreMetrics {
        let counters = |name, help, labels: &[&str]| {
            register(registry, distinct(IntCounterVec::new(Opts::new(name, help), labels)))
        };
        let counter = |name, help| register(registry, distinct(IntCounter::new(name, help)));
        StoreMetrics {
            up: register(
                registry,
                distinct(IntGauge::new(
                    "tidegate_store_up",
                    "1 while there is a session with the store, in which all that changes is heard.",
                )),
            ),
            operations: counters(
                "tidegate_store_operations_total",
                "Calls of the store, by what was done and its result.",
                &["operation", "result"],
            ),
            relists: counters(
                "tidegate_store_relists_total",
                "How often all of the store was read, and why.",
                &["why"],
            ),
            repairs: counter(
                "tidegate_store_repairs_total",
                "Changes that the store never told of, and that a later look at all of it has found.",
            ),
            unreadable: counter(
                "tidegate_store_unreadable_total",
                "Keys that were passed over, as nobody can read what stands there.",
            ),
            renewals: counters(
                "tidegate_control_renewals_total",
                "Heartbeats that reached another replica than the one that keeps the instance's clock, by what became of them.",
                &["result"],
            ),
        }
    }

    pub fn up(&self, is_up: bool) {
        self.up.set(i64::from(is_up));
    }

    /// Words are from closed sets, as are those below.
    pub fn operation(&self, operation: &'static str, result: &'static str) {
        self.operations.with_label_values(&[operation, result]).inc();
    }

    pub fn relisted(&self, why: &'static str) {
        self.relists.with_label_values(&[why]).inc();
    }

    pub fn repaired(&self, changes: usize) {
        self.repairs.inc_by(u64::try_from(changes).unwrap_or(u64::MAX));
    }

    pub fn unreadable(&self) {
        self.unreadable.inc();
    }

    pub fn renewals(&self, result: &'static str, heartbeats: usize) {
        let counter = self.renewals.with_label_values(&[result]);
        counter.inc_by(u64::try_from(heartbeats).unwrap_or(u64::MAX));
    }
}
