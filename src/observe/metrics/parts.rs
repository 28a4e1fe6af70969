//! The series of parts, the upstreams and routes that stand beside the configuration's files: rare, so through the
//! `prometheus` crate.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{distinct, register};

pub struct PartMetrics {
    parts: IntGaugeVec,
    orders: IntCounterVec,
    save_errors: IntCounter,
}

impl PartMetrics {
    pub(super) fn new(registry: &Registry) -> PartMetrics {
        let parts = Opts::new(
            "tidegate_config_parts",
            "Parts beside the configuration's files, and orders for endpoints, in force.",
        );
        let orders = Opts::new(
            "tidegate_config_part_orders_total",
            "Orders to add, change or remove parts, by what became of them.",
        );
        let save_errors = IntCounter::new(
            "tidegate_config_part_save_errors_total",
            "Failures to write parts to the state directory.",
        );
        PartMetrics {
            parts: register(registry, distinct(IntGaugeVec::new(parts, &["kind"]))),
            orders: register(registry, distinct(IntCounterVec::new(orders, &["kind", "result"]))),
            save_errors: register(registry, distinct(save_errors)),
        }
    }

    /// `kind` is from a closed set.
    pub fn set(&self, kind: &'static str, count: usize) {
        self.parts.with_label_values(&[kind]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// `kind` and `result` are from closed sets.
    pub fn count_order(&self, kind: &'static str, result: &'static str) {
        self.orders.with_label_values(&[kind, result]).inc();
    }

    pub fn count_save_error(&self) {
        self.save_errors.inc();
    }
}
