//! The series of rate limits: rare, so through the `prometheus` crate.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{distinct, register};

/// Cheap to clone.
#[derive(Clone)]
pub struct LimitMetrics {
    evictions: IntCounterVec,
    dry_run: IntCounterVec,
    concurrency_refused: IntCounterVec,
    store_errors: IntCounterVec,
    store_up: IntGaugeVec,
}

impl LimitMetrics {
    pub(super) fn new(registry: &Registry) -> LimitMetrics {
        let counter = |name, help, labels| {
            register(registry, distinct(IntCounterVec::new(Opts::new(name, help), labels)))
        };
        LimitMetrics {
            evictions: counter(
                "tidegate_rate_limit_evictions_total",
                "Keys forgotten too early: there are more of them than max_keys.",
                &["limit"],
            ),
            dry_run: counter(
                "tidegate_rate_limit_dry_run_total",
                "Requests that would have been refused by a limit with dry_run.",
                &["limit"],
            ),
            concurrency_refused: counter(
                "tidegate_concurrency_limit_refused_total",
                "Requests that a concurrency_limit refused.",
                &["limit"],
            ),
            store_errors: counter(
                "tidegate_rate_limit_store_errors_total",
                "Requests for which the store could not be asked, by why.",
                &["store", "error"],
            ),
            store_up: register(
                registry,
                distinct(IntGaugeVec::new(
                    Opts::new("tidegate_rate_limit_store_up", "Whether the store can be asked."),
                    &["store"],
                )),
            ),
        }
    }

    /// Of the limits of that name.
    pub fn evictions(&self, limit: &str) -> IntCounter {
        self.evictions.with_label_values(&[limit])
    }

    /// Those that a limit of that name would have refused.
    pub fn dry_run(&self, limit: &str) -> IntCounter {
        self.dry_run.with_label_values(&[limit])
    }

    /// Those that a limit of that name on concurrent requests has refused.
    pub fn concurrency_refused(&self, limit: &str) -> IntCounter {
        self.concurrency_refused.with_label_values(&[limit])
    }

    /// `store` is an address without credentials, `error` is from a closed set.
    pub fn store_errors(&self, store: &str, error: &'static str) -> IntCounter {
        self.store_errors.with_label_values(&[store, error])
    }

    pub fn store_up(&self, store: &str) -> IntGauge {
        self.store_up.with_label_values(&[store])
    }

    /// Nobody asks it any more.
    pub fn forget_store(&self, store: &str) {
        // There is none where nobody ever asked.
        let _ = self.store_up.remove_label_values(&[store]);
    }
}
