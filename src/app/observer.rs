//! What happens to endpoints, told to the metrics and the log.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    admin::journal::Journal,
    observe::{
        log::event,
        log_throttle::Sparse,
        metrics::{EndpointMetrics, Metrics},
    },
    policy::breaker,
    upstream::{Observer, TlsFile},
};

pub(crate) struct Observed {
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
    /// Held while the endpoint exists, so that its series do.
    endpoints: Mutex<HashMap<(String, String), Arc<Seen>>>,
    shortages: Sparse,
}

/// What belongs to one endpoint.
struct Seen {
    metrics: Arc<EndpointMetrics>,
    avoidances: Sparse,
}

impl Observed {
    pub(crate) fn new(metrics: Arc<Metrics>, journal: Arc<Journal>) -> Observed {
        Observed { metrics, journal, endpoints: Mutex::default(), shortages: Sparse::default() }
    }

    fn endpoint(&self, upstream: &str, endpoint: &str) -> Arc<Seen> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (upstream.to_owned(), endpoint.to_owned());
        let seen = || {
            let metrics = self.metrics.endpoint(upstream, endpoint);
            Seen { metrics, avoidances: Sparse::default() }.into()
        };
        endpoints.entry(key).or_insert_with(seen).clone()
    }
}

impl Observer for Observed {
    fn health_changed(&self, upstream: &str, endpoint: &str, outcome: Result<(), &str>) {
        self.endpoint(upstream, endpoint).metrics.set_healthy(outcome.is_ok());
        self.journal.notes.health_changed(upstream, endpoint);
        let what = if outcome.is_ok() { "healthy" } else { "unhealthy" };
        self.journal.endpoint(upstream, endpoint, what, outcome.err());
        match outcome {
            Ok(()) => event!(Info, "endpoint is healthy", upstream = upstream, endpoint = endpoint),
            Err(why) => {
                event!(Warn, "endpoint is unhealthy", upstream = upstream, endpoint = endpoint, why = why)
            }
        }
    }

    fn failover_changed(&self, upstream: &str, to: &str, phase: &'static str) {
        self.metrics.states().count_failover_change(upstream, to, phase);
        match phase {
            "failed_over" => {
                let message = "upstream has no usable endpoint, its requests go to another";
                event!(Warn, message, upstream = upstream, to = to);
            }
            "recovering" => {
                let message = "upstream is usable again, its requests come back";
                event!(Info, message, upstream = upstream, from = to);
            }
            _ => event!(Info, "upstream has all its requests again", upstream = upstream),
        }
    }

    fn circuit_changed(&self, upstream: &str, endpoint: &str, state: breaker::State) {
        let (state, means) = match state {
            breaker::State::Closed => ("closed", "requests pass"),
            breaker::State::Open => ("open", "no requests pass for a while"),
            breaker::State::HalfOpen => ("half_open", "a few requests pass"),
        };
        self.metrics.states().count_circuit_change(upstream, endpoint, state);
        self.journal.notes.circuit_changed(upstream, endpoint);
        self.journal.breaker(upstream, endpoint, state, None);
        let message = "circuit breaker changed";
        event!(Warn, message, upstream = upstream, endpoint = endpoint, state = state, means = means);
    }

    fn ejected(&self, upstream: &str, endpoint: &str, lasts: Duration) {
        self.metrics.states().count_ejection(upstream, endpoint);
        self.journal.notes.ejected(upstream, endpoint, lasts);
        self.journal.endpoint(upstream, endpoint, "ejected", Some("its requests failed"));
        let seconds = lasts.as_secs_f64();
        event!(Warn, "endpoint is ejected", upstream = upstream, endpoint = endpoint, seconds = seconds);
    }

    fn avoidance_changed(&self, upstream: &str, endpoint: &str, outcome: Result<(), &str>) {
        self.journal.notes.avoided(upstream, endpoint, outcome.err());
        let Some(more) = self.endpoint(upstream, endpoint).avoidances.say(Instant::now()) else { return };
        let what = if outcome.is_ok() { "reached" } else { "avoided" };
        self.journal.endpoint(upstream, endpoint, what, outcome.err());
        match outcome {
            Ok(()) => {
                let message = "endpoint is no longer avoided";
                event!(Info, message, upstream = upstream, endpoint = endpoint, more = more);
            }
            Err(why) => {
                let message = "endpoint is avoided";
                event!(Warn, message, upstream = upstream, endpoint = endpoint, why = why, more = more);
            }
        }
    }

    fn probed(&self, upstream: &str, endpoint: &str, outcome: Result<(), &str>) {
        let metrics = &self.endpoint(upstream, endpoint).metrics;
        self.journal.notes.probed(upstream, endpoint, outcome);
        match outcome {
            Ok(()) => metrics.probe_succeeded(),
            Err(why) => {
                metrics.probe_failed();
                log::debug!("probe of {endpoint} in {upstream} failed: {why}");
            }
        }
    }

    fn resolved(&self, upstream: &str, host: &str, outcome: Result<(), &str>) {
        let metrics = self.metrics.upstream(upstream);
        match outcome {
            Ok(()) => metrics.lookup_succeeded(),
            Err(why) => {
                metrics.lookup_failed();
                event!(
                    Warn,
                    "host does not resolve, trying again",
                    upstream = upstream,
                    host = host,
                    why = why
                );
            }
        }
    }

    fn tls_failed(&self, upstream: &str, endpoint: &str, kind: &'static str) {
        self.metrics.states().count_tls_failure(upstream, endpoint, kind);
    }

    fn is_short(&self, upstream: &str, of: &str) {
        if let Some(more) = self.shortages.say(Instant::now()) {
            event!(Error, "no resources to connect", upstream = upstream, why = of, more = more);
        }
    }

    fn tls_explained(&self, upstream: &str, endpoint: &str, why: &str) {
        self.journal.notes.distrusted(upstream, endpoint, why);
        self.journal.endpoint(upstream, endpoint, "distrusted", Some(why));
        event!(Warn, "endpoint is not trusted", upstream = upstream, endpoint = endpoint, why = why);
    }

    fn tls_file_changed(&self, upstream: &str, file: TlsFile, outcome: Result<(), &str>) {
        let (reloaded, unread) = match file {
            TlsFile::Authorities => (
                "certificate authorities reloaded",
                "certificate authorities cannot be read, the old ones stay",
            ),
            TlsFile::ClientCert => {
                ("client certificate reloaded", "client certificate cannot be read, the old one stays")
            }
        };
        match outcome {
            Ok(()) => event!(Info, reloaded, upstream = upstream),
            Err(why) => event!(Warn, unread, upstream = upstream, why = why),
        }
    }

    fn endpoint_added(&self, upstream: &str, endpoint: &str) {
        self.endpoint(upstream, endpoint);
        self.journal.endpoint(upstream, endpoint, "added", None);
    }

    fn endpoint_removed(&self, upstream: &str, endpoint: &str) {
        self.journal.notes.removed(upstream, endpoint);
        self.journal.endpoint(upstream, endpoint, "removed", None);
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.remove(&(upstream.to_owned(), endpoint.to_owned()));
    }
}
