//! The series of tracing: what was decided, what became of the spans, and how the collector does.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

use super::{distinct, exposition::Exposition, register};
use crate::observe::spans::SpanStats;

/// Seconds: from a collector beside us to one that answers at its limit.
const BUCKETS: [f64; 8] = [1e-3, 5e-3, 2e-2, 0.1, 0.5, 2.0, 5.0, 10.0];

pub struct SpanSeries {
    decisions: IntCounterVec,
    exports: IntCounterVec,
    duration: Histogram,
    stats: Arc<SpanStats>,
}

/// What is decided of traces, each counted by itself.
pub struct TraceMetrics {
    pub new: IntCounter,
    pub followed: IntCounter,
    pub limited: IntCounter,
    pub also: IntCounter,
    pub off: IntCounter,
}

/// The handles of an exporter.
#[derive(Clone)]
pub struct ExportMetrics {
    exports: IntCounterVec,
    duration: Histogram,
}

impl SpanSeries {
    pub(super) fn new(registry: &Registry) -> SpanSeries {
        let decisions = Opts::new("tidegate_traces_total", "Requests, by what was decided on their traces.");
        let exports = Opts::new("tidegate_span_exports_total", "Batches sent to the collector, by result.");
        let duration = HistogramOpts::new(
            "tidegate_span_export_duration_seconds",
            "Time that the collector took to answer for a batch.",
        );
        SpanSeries {
            decisions: register(registry, distinct(IntCounterVec::new(decisions, &["decision"]))),
            exports: register(registry, distinct(IntCounterVec::new(exports, &["result"]))),
            duration: register(registry, distinct(Histogram::with_opts(duration.buckets(BUCKETS.to_vec())))),
            stats: Arc::default(),
        }
    }

    pub fn traces(&self) -> TraceMetrics {
        let of = |decision| self.decisions.with_label_values(&[decision]);
        TraceMetrics {
            new: of("new"),
            followed: of("followed"),
            limited: of("limited"),
            also: of("also"),
            off: of("off"),
        }
    }

    pub fn exports(&self) -> ExportMetrics {
        ExportMetrics { exports: self.exports.clone(), duration: self.duration.clone() }
    }

    pub fn stats(&self) -> Arc<SpanStats> {
        self.stats.clone()
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        let stats = &self.stats;
        if stats.recorded.load(Relaxed) == 0 {
            return;
        }
        out.counter("tidegate_spans_recorded_total", "Spans that were recorded.");
        out.sample(&[], stats.recorded.load(Relaxed));
        out.counter("tidegate_spans_total", "What became of recorded spans, but for those that wait.");
        for (result, count) in [
            ("exported", &stats.exported),
            ("rejected", &stats.rejected),
            ("dropped_queue", &stats.dropped_queue),
            ("dropped_export", &stats.dropped_export),
        ] {
            out.sample(&[("result", result)], count.load(Relaxed));
        }
        out.gauge("tidegate_span_queue_bytes", "Bytes of spans that wait to be exported.");
        out.sample(&[], stats.queued_bytes.load(Relaxed));
        out.gauge("tidegate_span_queue_spans", "Spans that wait to be exported.");
        out.sample(&[], stats.queued.load(Relaxed));
    }
}

impl ExportMetrics {
    pub fn export(&self, result: &'static str) {
        self.exports.with_label_values(&[result]).inc();
    }

    pub fn took(&self, time: Duration) {
        self.duration.observe(time.as_secs_f64());
    }
}
