//! The series of tokens and of the keys that verify them: rare, so through the `prometheus` crate.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{distinct, register};

/// Cheap to clone.
#[derive(Clone)]
pub struct TokenMetrics {
    verifications: IntCounterVec,
    fetches: IntCounterVec,
    keys: IntGaugeVec,
    unusable: IntGaugeVec,
    last_success: GaugeVec,
}

impl TokenMetrics {
    pub(super) fn new(registry: &Registry) -> TokenMetrics {
        let counter = |name, help, labels| {
            register(registry, distinct(IntCounterVec::new(Opts::new(name, help), labels)))
        };
        let source = &["source"];
        TokenMetrics {
            verifications: counter(
                "tidegate_jwt_verifications_total",
                "Tokens verified and requests refused, by result; a token known from before is not counted again.",
                &["result"],
            ),
            fetches: counter(
                "tidegate_jwks_fetches_total",
                "Attempts to read the keys of a token issuer, by result.",
                &["source", "result"],
            ),
            keys: register(
                registry,
                distinct(IntGaugeVec::new(
                    Opts::new("tidegate_jwks_keys", "Keys of a token issuer that are in use."),
                    source,
                )),
            ),
            unusable: register(
                registry,
                distinct(IntGaugeVec::new(
                    Opts::new(
                        "tidegate_jwks_unusable_keys",
                        "Keys of a token issuer that are for signatures and cannot be used; the log says why.",
                    ),
                    source,
                )),
            ),
            last_success: register(
                registry,
                distinct(GaugeVec::new(
                    Opts::new(
                        "tidegate_jwks_last_success_timestamp_seconds",
                        "When the keys of a token issuer were last read.",
                    ),
                    source,
                )),
            ),
        }
    }

    /// `result` is from a closed set.
    pub fn verifications(&self, result: &'static str) -> IntCounter {
        self.verifications.with_label_values(&[result])
    }

    /// `source` is a file or a URL without credentials and query.
    pub fn source(&self, source: &str) -> SourceMetrics {
        SourceMetrics {
            all: self.clone(),
            keys: self.keys.with_label_values(&[source]),
            unusable: self.unusable.with_label_values(&[source]),
            last_success: self.last_success.with_label_values(&[source]),
            source: source.to_owned(),
        }
    }
}

/// Of one issuer's keys. Its gauges go with it.
pub struct SourceMetrics {
    all: TokenMetrics,
    source: String,
    keys: IntGauge,
    unusable: IntGauge,
    last_success: Gauge,
}

impl SourceMetrics {
    /// `result` is from a closed set.
    pub fn fetched(&self, result: &'static str) {
        self.all.fetches.with_label_values(&[self.source.as_str(), result]).inc();
    }

    pub fn keys(&self, keys: usize) {
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    pub fn unusable(&self, keys: usize) {
        self.unusable.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    pub fn succeeded(&self, now: SystemTime) {
        self.last_success.set(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }
}

impl Drop for SourceMetrics {
    fn drop(&mut self) {
        // Where two sources have one name, the first to go takes them both.
        let _ = self.all.keys.remove_label_values(&[&self.source]);
        let _ = self.all.unusable.remove_label_values(&[&self.source]);
        let _ = self.all.last_success.remove_label_values(&[&self.source]);
    }
}
