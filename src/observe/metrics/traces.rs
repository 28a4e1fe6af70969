//! What is decided of traces.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::{distinct, register};

pub(super) struct TraceSeries(IntCounterVec);

/// Each decision counted by itself.
pub struct TraceMetrics {
    pub new: IntCounter,
    pub followed: IntCounter,
    pub limited: IntCounter,
    pub also: IntCounter,
    pub off: IntCounter,
}

impl TraceSeries {
    pub(super) fn new(registry: &Registry) -> TraceSeries {
        let decisions = Opts::new("tidegate_traces_total", "Requests, by what was decided on their traces.");
        TraceSeries(register(registry, distinct(IntCounterVec::new(decisions, &["decision"]))))
    }

    pub(super) fn metrics(&self) -> TraceMetrics {
        let of = |decision| self.0.with_label_values(&[decision]);
        TraceMetrics {
            new: of("new"),
            followed: of("followed"),
            limited: of("limited"),
            also: of("also"),
            off: of("off"),
        }
    }
}
