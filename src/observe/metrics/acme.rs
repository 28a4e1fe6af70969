//! The series of certificates that are ordered from CAs: rare, so through the `prometheus` crate.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{distinct, register};

pub struct AcmeMetrics {
    orders: IntCounterVec,
    taken: IntCounterVec,
    throttled: IntCounterVec,
    challenges: IntCounterVec,
    demands: IntCounterVec,
    certificates: IntGaugeVec,
    /// Whose gauges there are.
    accounts: Mutex<Vec<Arc<str>>>,
}

impl AcmeMetrics {
    pub(super) fn new(registry: &Registry) -> AcmeMetrics {
        let counter = |name, help, labels: &[&str]| {
            register(registry, distinct(IntCounterVec::new(Opts::new(name, help), labels)))
        };
        AcmeMetrics {
            orders: counter(
                "tidegate_acme_orders_total",
                "Orders for certificates, by what came of them: `issued`, or the reason why not.",
                &["account", "ca", "result"],
            ),
            taken: counter(
                "tidegate_acme_taken_total",
                "Certificates that another gateway has ordered and this one has taken from the storage.",
                &["account"],
            ),
            throttled: counter(
                "tidegate_acme_throttled_total",
                "Looks at a certificate that is due while no order was allowed any more.",
                &["account"],
            ),
            challenges: counter(
                "tidegate_acme_challenges_total",
                "Questions for the proof of a challenge, by whether one was under way.",
                &["challenge", "result"],
            ),
            demands: counter(
                "tidegate_acme_demands_total",
                "Clients that asked for a name that nobody has configured, where it was not under way already, by what came of it.",
                &["account", "result"],
            ),
            certificates: register(
                registry,
                distinct(IntGaugeVec::new(
                    Opts::new(
                        "tidegate_acme_certificates",
                        "Names that have a certificate from a CA, by how it is.",
                    ),
                    &["account", "state"],
                )),
            ),
            accounts: Mutex::default(),
        }
    }

    /// `result` is from a closed set.
    pub fn ordered(&self, account: &str, ca: &str, result: &'static str) {
        self.orders.with_label_values(&[account, ca, result]).inc();
    }

    pub fn taken(&self, account: &str) {
        self.taken.with_label_values(&[account]).inc();
    }

    pub fn throttled(&self, account: &str) {
        self.throttled.with_label_values(&[account]).inc();
    }

    pub fn challenge_answered(&self, challenge: &'static str) {
        self.challenges.with_label_values(&[challenge, "answered"]).inc();
    }

    /// Somebody has asked for one that is not under way.
    pub fn challenge_unknown(&self, challenge: &'static str) {
        self.challenges.with_label_values(&[challenge, "unknown"]).inc();
    }

    /// Too many have asked for some that are not under way here: the storage was not asked.
    pub fn challenge_throttled(&self, challenge: &'static str) {
        self.challenges.with_label_values(&[challenge, "throttled"]).inc();
    }

    /// `result` is from a closed set.
    pub fn demanded(&self, account: &str, result: &'static str) {
        self.demands.with_label_values(&[account, result]).inc();
    }

    pub fn certificates(&self, account: &str, state: &'static str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.certificates.with_label_values(&[account, state]).set(count);
    }

    /// Gauges of all others go.
    pub fn accounts<'a>(&self, accounts: impl Iterator<Item = &'a Arc<str>>) {
        let wanted: Vec<Arc<str>> = accounts.cloned().collect();
        let mut known = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in known.iter().filter(|account| !wanted.contains(account)) {
            for state in ["valid", "due", "missing", "expired"] {
                let _ = self.certificates.remove_label_values(&[gone, state]);
            }
        }
        *known = wanted;
    }
}
