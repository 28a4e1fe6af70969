//! The series of what is exported to collectors: what became of it, and how the collectors do. None before it is used.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::{distinct, exposition::Exposition, register};
use crate::observe::otlp::QueueStats;

/// Seconds: from a collector beside us to one that answers at its limit.
const BUCKETS: [f64; 8] = [1e-3, 5e-3, 2e-2, 0.1, 0.5, 2.0, 5.0, 10.0];

/// Each with what it says.
struct Names {
    exports: (&'static str, &'static str),
    duration: (&'static str, &'static str),
    /// What became of records.
    fates: (&'static str, &'static str),
    queue: Option<Waiting>,
}

/// Of what waits to be exported.
struct Waiting {
    recorded: (&'static str, &'static str),
    bytes: (&'static str, &'static str),
    records: (&'static str, &'static str),
}

static SPANS: Names = Names {
    exports: ("tidegate_span_exports_total", "Batches sent to the collector, by result."),
    duration: (
        "tidegate_span_export_duration_seconds",
        "Time that the collector took to answer for a batch.",
    ),
    fates: ("tidegate_spans_total", "What became of recorded spans, but for those that wait."),
    queue: Some(Waiting {
        recorded: ("tidegate_spans_recorded_total", "Spans that were recorded."),
        bytes: ("tidegate_span_queue_bytes", "Bytes of spans that wait to be exported."),
        records: ("tidegate_span_queue_spans", "Spans that wait to be exported."),
    }),
};

static LOGS: Names = Names {
    exports: ("tidegate_log_exports_total", "Batches of log records sent to the collector, by result."),
    duration: (
        "tidegate_log_export_duration_seconds",
        "Time that the collector took to answer for a batch of log records.",
    ),
    fates: (
        "tidegate_log_records_total",
        "What became of the access log's records, but for those that wait.",
    ),
    queue: Some(Waiting {
        recorded: ("tidegate_log_records_recorded_total", "Records of the access log for a collector."),
        bytes: ("tidegate_log_queue_bytes", "Bytes of log records that wait to be exported."),
        records: ("tidegate_log_queue_records", "Log records that wait to be exported."),
    }),
};

static METRICS: Names = Names {
    exports: ("tidegate_metric_exports_total", "Metrics sent to the collector, by result."),
    duration: (
        "tidegate_metric_export_duration_seconds",
        "Time that the collector took to answer for metrics.",
    ),
    fates: ("tidegate_metric_points_total", "What became of points of metrics."),
    queue: None,
};

pub struct ExportSeries {
    names: &'static Names,
    exports: IntCounterVec,
    duration: HistogramVec,
    stats: Arc<QueueStats>,
}

/// The handles of one who exports.
#[derive(Clone)]
pub struct ExportMetrics {
    exports: IntCounterVec,
    duration: HistogramVec,
}

impl ExportSeries {
    pub(super) fn of_spans(registry: &Registry) -> ExportSeries {
        ExportSeries::new(registry, &SPANS)
    }

    pub(super) fn of_logs(registry: &Registry) -> ExportSeries {
        ExportSeries::new(registry, &LOGS)
    }

    pub(super) fn of_metrics(registry: &Registry) -> ExportSeries {
        ExportSeries::new(registry, &METRICS)
    }

    fn new(registry: &Registry, names: &'static Names) -> ExportSeries {
        let exports = Opts::new(names.exports.0, names.exports.1);
        let duration = HistogramOpts::new(names.duration.0, names.duration.1).buckets(BUCKETS.to_vec());
        ExportSeries {
            names,
            exports: register(registry, distinct(IntCounterVec::new(exports, &["result"]))),
            duration: register(registry, distinct(HistogramVec::new(duration, &[]))),
            stats: Arc::default(),
        }
    }

    pub fn metrics(&self) -> ExportMetrics {
        ExportMetrics { exports: self.exports.clone(), duration: self.duration.clone() }
    }

    pub fn stats(&self) -> Arc<QueueStats> {
        self.stats.clone()
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        let QueueStats { recorded, exported, rejected, dropped_queue, dropped_export, queued_bytes, queued } =
            &*self.stats;
        if [recorded, exported, rejected, dropped_export].iter().all(|count| count.load(Relaxed) == 0) {
            return;
        }
        let queue = self.names.queue.as_ref();
        if let Some(Waiting { recorded: (name, help), .. }) = queue {
            out.counter(*name, *help);
            out.sample(&[], recorded.load(Relaxed));
        }
        let (name, help) = self.names.fates;
        out.counter(name, help);
        for (result, count) in [
            ("exported", exported),
            ("rejected", rejected),
            ("dropped_queue", dropped_queue),
            ("dropped_export", dropped_export),
        ] {
            // What does not wait is not dropped from a queue.
            if result != "dropped_queue" || queue.is_some() {
                out.sample(&[("result", result)], count.load(Relaxed));
            }
        }
        if let Some(Waiting { bytes, records, .. }) = queue {
            out.gauge(bytes.0, bytes.1);
            out.sample(&[], queued_bytes.load(Relaxed));
            out.gauge(records.0, records.1);
            out.sample(&[], queued.load(Relaxed));
        }
    }
}

impl ExportMetrics {
    pub fn export(&self, result: &'static str) {
        self.exports.with_label_values(&[result]).inc();
    }

    pub fn took(&self, time: Duration) {
        self.duration.with_label_values::<&str>(&[]).observe(time.as_secs_f64());
    }
}
