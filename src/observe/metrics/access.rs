//! The series of who was let in: rare, so through the `prometheus` crate.

use std::sync::OnceLock;

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::{distinct, register};

/// Cheap to clone.
#[derive(Clone)]
pub struct AccessMetrics {
    authz: IntCounterVec,
    ext_auth: IntCounterVec,
    introspection: IntCounterVec,
    oidc: IntCounterVec,
    reloads: IntCounterVec,
}

impl AccessMetrics {
    pub(super) fn new(registry: &Registry) -> AccessMetrics {
        let counter = |name, help, labels| {
            register(registry, distinct(IntCounterVec::new(Opts::new(name, help), labels)))
        };
        AccessMetrics {
            authz: counter(
                "tidegate_authz_total",
                "Requests that authz filters decided on, by the filter's place and the result.",
                &["filter", "result"],
            ),
            ext_auth: counter(
                "tidegate_ext_auth_total",
                "Requests that ext_auth filters decided on, by the filter's place and the result.",
                &["filter", "result"],
            ),
            introspection: counter(
                "tidegate_introspections_total",
                "Requests that introspection filters decided on, by the filter's place and the result.",
                &["filter", "result"],
            ),
            oidc: counter(
                "tidegate_oidc_total",
                "What became of logins and sessions of oidc filters, by result.",
                &["result"],
            ),
            reloads: counter(
                "tidegate_credential_file_reloads_total",
                "Changes of files of users or keys that were read again, by result.",
                &["file", "result"],
            ),
        }
    }

    /// Of the filter at that place.
    pub fn authz(&self, place: &str) -> Results<3> {
        Results::new(self.authz.clone(), place, ["allowed", "denied", "would_deny"])
    }

    /// Of the filter at that place.
    pub fn ext_auth(&self, place: &str) -> Results<4> {
        Results::new(self.ext_auth.clone(), place, ["allowed", "denied", "failed", "remembered"])
    }

    /// Of the filter at that place.
    pub fn introspection(&self, place: &str) -> Results<4> {
        Results::new(self.introspection.clone(), place, ["active", "refused", "failed", "remembered"])
    }

    /// `result` is from a closed set.
    pub fn oidc(&self, result: &'static str) {
        self.oidc.with_label_values(&[result]).inc();
    }

    pub fn credential_reloads(&self, file: &str) -> Results<2> {
        Results::new(self.reloads.clone(), file, ["success", "failure"])
    }
}

/// Counters of one name, one for each result. There is none before the first is counted, and none once this is gone.
pub struct Results<const N: usize> {
    series: IntCounterVec,
    name: String,
    words: [&'static str; N],
    counters: [OnceLock<IntCounter>; N],
}

impl<const N: usize> Results<N> {
    fn new(series: IntCounterVec, name: &str, words: [&'static str; N]) -> Results<N> {
        Results { series, name: name.to_owned(), words, counters: [const { OnceLock::new() }; N] }
    }

    /// `result` counts from 0, in the order in which the words were given.
    pub fn count(&self, result: usize) {
        let (Some(counter), Some(word)) = (self.counters.get(result), self.words.get(result)) else { return };
        counter.get_or_init(|| self.series.with_label_values(&[self.name.as_str(), *word])).inc();
    }
}

impl<const N: usize> Drop for Results<N> {
    fn drop(&mut self) {
        for word in self.words {
            // There is none where nothing was counted.
            let _ = self.series.remove_label_values(&[self.name.as_str(), word]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_begins_with_its_first_count_and_ends_with_its_holder() {
        let registry = Registry::new();
        let metrics = AccessMetrics::new(&registry);
        let results = metrics.authz("routes users[0]");
        assert!(registry.gather().is_empty());
        results.count(1);
        results.count(1);
        let families = registry.gather();
        let [only] = families[0].get_metric() else { panic!("{families:?}") };
        assert_eq!(only.get_counter().get_value(), 2.0);
        let labels: Vec<_> = only.get_label().iter().map(|label| label.value().to_owned()).collect();
        assert_eq!(labels, ["routes users[0]", "denied"]);
        drop(results);
        assert!(registry.gather().is_empty());
    }
}
