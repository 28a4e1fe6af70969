//! What the process has of what it can run out of, and who gave way when it did.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::{distinct, register};

/// Cheap to clone.
#[derive(Clone)]
pub struct ResourceMetrics {
    memory_used: IntGauge,
    memory_limit: IntGauge,
    descriptors: IntGauge,
    shed: IntCounterVec,
    encoders: IntGauge,
    unencoded: IntCounter,
}

impl ResourceMetrics {
    pub(super) fn new(registry: &Registry) -> ResourceMetrics {
        let gauge = |name, help| register(registry, distinct(IntGauge::new(name, help)));
        let shed = Opts::new("tidegate_shed_total", "Who gave way when the process ran short, and of what.");
        ResourceMetrics {
            memory_used: gauge("tidegate_memory_used_bytes", "Resident memory of the process."),
            memory_limit: gauge("tidegate_memory_limit_bytes", "`limits.memory`; 0 without a limit."),
            descriptors: gauge("tidegate_descriptors_limit", "Descriptors that the process may have."),
            shed: register(registry, distinct(IntCounterVec::new(shed, &["what", "resource"]))),
            encoders: gauge("tidegate_encoders_active", "Responses that are being encoded."),
            unencoded: register(
                registry,
                distinct(IntCounter::new(
                    "tidegate_encoders_refused_total",
                    "Responses left as they are, as `limits.encoders` were at work.",
                )),
            ),
        }
    }

    pub fn memory(&self, used: u64, limit: u64) {
        self.memory_used.set(used as i64);
        self.memory_limit.set(limit as i64);
    }

    pub fn descriptors(&self, most: u64) {
        self.descriptors.set(most as i64);
    }

    /// `what` is `request` or `connection`, `resource` is `memory` or `descriptors`.
    pub fn shed(&self, what: &'static str, resource: &'static str) {
        self.shed.with_label_values(&[what, resource]).inc();
    }

    pub fn encoders(&self, active: usize) {
        self.encoders.set(active as i64);
    }

    pub fn unencoded(&self) {
        self.unencoded.inc();
    }
}
