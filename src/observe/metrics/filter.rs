//! The series of filters, by their names: how long they take, in a sample, and how often they end a request. Rare, so
//! through the `prometheus` crate.

use std::{sync::Arc, time::Duration};

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use super::{distinct, register};

/// Seconds: from what a look at a header takes to what another machine does.
const BUCKETS: [f64; 10] = [1e-6, 5e-6, 2e-5, 1e-4, 5e-4, 2e-3, 1e-2, 5e-2, 0.25, 1.0];

pub(super) struct FilterSeries {
    duration: HistogramVec,
    refusals: IntCounterVec,
}

/// The handles of one kind of filter.
pub struct FilterMetrics {
    duration: Histogram,
    refusals: IntCounter,
}

impl FilterSeries {
    pub(crate) fn new(registry: &Registry) -> FilterSeries {
        let duration = HistogramOpts::new(
            "tidegate_filter_duration_seconds",
            "Time that a filter took over a request, of one request in 128.",
        );
        let refusals = Opts::new(
            "tidegate_filter_refusals_total",
            "Requests that a filter has ended: answered by itself, or refused.",
        );
        FilterSeries {
            duration: register(
                registry,
                distinct(HistogramVec::new(duration.buckets(BUCKETS.to_vec()), &["filter"])),
            ),
            refusals: register(registry, distinct(IntCounterVec::new(refusals, &["filter"]))),
        }
    }

    pub(crate) fn of(&self, filter: &str) -> Arc<FilterMetrics> {
        Arc::new(FilterMetrics {
            duration: self.duration.with_label_values(&[filter]),
            refusals: self.refusals.with_label_values(&[filter]),
        })
    }
}

impl FilterMetrics {
    pub fn took(&self, time: Duration) {
        self.duration.observe(time.as_secs_f64());
    }

    pub fn refused(&self) {
        self.refusals.inc();
    }
}
