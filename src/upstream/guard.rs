//! What keeps requests away from an endpoint that fails them: its circuit breaker, its ejection, and the slow start with
//! which it comes back. Each part whose settings are unchanged goes over to the next configuration with its state.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    config::{self, BreakerFailure, BreakerWindow},
    policy::{
        breaker::{self, Breaker, Permit},
        failure::Outcome,
        outlier::{self, Outlier},
        ramp,
    },
};

/// The guard of one endpoint. Clones share all state.
#[derive(Clone, Default)]
pub(super) struct Guard {
    pub circuit: Option<Arc<Circuit>>,
    pub ejection: Option<Arc<Ejection>>,
    ramp: Option<Arc<Ramp>>,
}

/// A circuit breaker and what counts as a failure for it.
pub struct Circuit {
    settings: config::CircuitBreaker,
    pub breaker: Breaker,
}

pub(super) struct Ejection {
    settings: config::Outlier,
    pub rule: outlier::Settings,
    pub outlier: Outlier,
}

struct Ramp {
    duration: Duration,
    /// What `began` counts from: an `Instant` does not fit an atomic.
    base: Instant,
    /// Nanoseconds since `base`.
    began: AtomicU64,
}

/// What the operator wants of each endpoint's guard.
pub(super) struct Wanted<'a> {
    config: &'a config::Upstream,
    /// The one breaker for all endpoints, where that is its scope.
    common: Option<Arc<Circuit>>,
}

impl<'a> Wanted<'a> {
    /// `before` is the common breaker of the configuration before.
    pub fn new(config: &'a config::Upstream, before: Option<&Arc<Circuit>>) -> Wanted<'a> {
        let common = match &config.circuit_breaker {
            Some(settings) if settings.scope == config::BreakerScope::Upstream => {
                Some(Circuit::under(settings, before))
            }
            _ => None,
        };
        Wanted { config, common }
    }

    pub fn common(&self) -> Option<&Arc<Circuit>> {
        self.common.as_ref()
    }

    /// The guard for an endpoint that was guarded by `before`.
    pub fn guard(&self, before: Option<&Guard>, now: Instant) -> Guard {
        let circuit = match (&self.common, &self.config.circuit_breaker) {
            (Some(common), _) => Some(common.clone()),
            (None, Some(settings)) => {
                Some(Circuit::under(settings, before.and_then(|guard| guard.circuit.as_ref())))
            }
            (None, None) => None,
        };
        let ejection = self.config.outlier.as_ref().map(|settings| {
            let same = before.and_then(|guard| guard.ejection.as_ref());
            let same = same.filter(|ejection| ejection.settings == *settings);
            same.cloned().unwrap_or_else(|| Arc::new(Ejection::new(settings, now)))
        });
        let ramp = self.config.slow_start.map(Duration::from).map(|duration| {
            let same = before.and_then(|guard| guard.ramp.as_ref());
            // An endpoint that served already does not start again because slow start was turned on.
            let began = if before.is_some() { u64::MAX } else { 0 };
            same.filter(|ramp| ramp.duration == duration)
                .cloned()
                .unwrap_or_else(|| Arc::new(Ramp { duration, base: now, began: AtomicU64::new(began) }))
        });
        Guard { circuit, ejection, ramp }
    }
}

impl Guard {
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejection.as_ref().is_some_and(|ejection| ejection.outlier.is_ejected(now))
    }

    /// Whether the breaker would let a request through.
    pub fn admits(&self, now: Instant) -> bool {
        self.circuit.as_ref().is_none_or(|circuit| circuit.breaker.admits(now))
    }

    /// `weight` as of now, in the unit of `policy::ramp` where there is slow start.
    pub fn weight(&self, weight: u32, now: Instant) -> u32 {
        self.ramp.as_ref().map_or(weight, |ramp| ramp.weight(weight, now))
    }

    /// It comes back, or comes, at `now`.
    pub fn begin(&self, now: Instant) {
        if let Some(ramp) = &self.ramp {
            ramp.began.store(nanos(now.saturating_duration_since(ramp.base)), Relaxed);
        }
    }
}

impl Circuit {
    fn under(settings: &config::CircuitBreaker, before: Option<&Arc<Circuit>>) -> Arc<Circuit> {
        let same = before.filter(|circuit| circuit.settings == *settings);
        same.cloned().unwrap_or_else(|| Arc::new(Circuit::new(settings)))
    }

    fn new(settings: &config::CircuitBreaker) -> Circuit {
        let window = match settings.window {
            BreakerWindow::Requests(requests) => breaker::Window::Requests(requests.get()),
            BreakerWindow::Time(time) => breaker::Window::Time(time.into()),
        };
        let breaker = Breaker::new(breaker::Settings {
            window,
            failure_ratio: settings.failure_ratio.as_f64(),
            min_requests: settings.min_requests.get(),
            consecutive_failures: settings.consecutive_failures.map(Into::into),
            open_for: settings.open_for.into(),
            half_open_requests: settings.half_open_requests.get(),
            success_threshold: settings.success_threshold.get(),
        });
        Circuit { settings: settings.clone(), breaker }
    }

    /// Takes in how an attempt ended; the breaker's new state where it changed.
    pub(super) fn settle(&self, permit: Permit, outcome: Outcome, now: Instant) -> Option<breaker::State> {
        let kind = match outcome {
            Outcome::Success => None,
            Outcome::ConnectFailed => Some(BreakerFailure::ConnectError),
            Outcome::Reset => Some(BreakerFailure::Reset),
            Outcome::Timeout => Some(BreakerFailure::Timeout),
            Outcome::ServerError => Some(BreakerFailure::ServerError),
        };
        let failed = kind.is_some_and(|kind| self.settings.failures.contains(&kind));
        let outcome = if failed { breaker::Outcome::Failure } else { breaker::Outcome::Success };
        self.breaker.settle(permit, outcome, now)
    }
}

impl Ejection {
    fn new(settings: &config::Outlier, now: Instant) -> Ejection {
        let rule = outlier::Settings {
            consecutive_failures: settings.consecutive_failures.get(),
            eject_for: settings.eject_for.into(),
            max_eject_for: settings.max_eject_for.into(),
            max_ejected: settings.max_ejected.as_f64(),
        };
        Ejection { settings: settings.clone(), outlier: Outlier::new(rule.clone(), now), rule }
    }
}

impl Ramp {
    fn weight(&self, weight: u32, now: Instant) -> u32 {
        let since_base = nanos(now.saturating_duration_since(self.base));
        let since = match self.began.load(Relaxed) {
            u64::MAX => self.duration,
            // Not begun yet: an ejection that ends in the future.
            began => Duration::from_nanos(since_base.saturating_sub(began)),
        };
        ramp::ramped(weight, since, self.duration)
    }
}

fn nanos(duration: Duration) -> u64 {
    // One less than the mark for "long ago".
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(yaml: &str) -> config::Upstream {
        serde_yaml::from_str(yaml).unwrap()
    }

    fn fail(guard: &Guard, times: u32, now: Instant) {
        for _ in 0..times {
            let circuit = guard.circuit.as_ref().unwrap();
            let permit = circuit.breaker.enter(now).unwrap();
            circuit.settle(permit, Outcome::Timeout, now);
        }
    }

    #[test]
    fn a_breaker_whose_settings_are_unchanged_stays_open_over_a_reload() {
        let now = Instant::now();
        let before = upstream("circuit_breaker: {consecutive_failures: 3}");
        let guard = Wanted::new(&before, None).guard(None, now);
        fail(&guard, 3, now);
        assert!(!guard.admits(now));
        let same = upstream("{circuit_breaker: {consecutive_failures: 3}, outlier: {}}");
        assert!(!Wanted::new(&same, None).guard(Some(&guard), now).admits(now));
        let other = upstream("circuit_breaker: {consecutive_failures: 4}");
        assert!(Wanted::new(&other, None).guard(Some(&guard), now).admits(now));
    }

    #[test]
    fn one_breaker_for_the_upstream_closes_all_its_endpoints() {
        let now = Instant::now();
        let config = upstream("circuit_breaker: {consecutive_failures: 3, scope: upstream}");
        let wanted = Wanted::new(&config, None);
        let (one, two) = (wanted.guard(None, now), wanted.guard(None, now));
        fail(&one, 3, now);
        assert!(!two.admits(now));
    }

    #[test]
    fn only_the_failures_that_are_named_count() {
        let now = Instant::now();
        let config = upstream("circuit_breaker: {consecutive_failures: 3, failures: [5xx]}");
        let guard = Wanted::new(&config, None).guard(None, now);
        fail(&guard, 10, now);
        assert!(guard.admits(now));
    }

    #[test]
    fn a_new_endpoint_ramps_and_one_that_served_does_not() {
        let now = Instant::now();
        let config = upstream("slow_start: 10s");
        let wanted = Wanted::new(&config, None);
        let full = 2 * ramp::SCALE;
        let new = wanted.guard(None, now);
        assert_eq!(new.weight(2, now), full / 10);
        assert_eq!(new.weight(2, now + Duration::from_secs(10)), full);
        let served = wanted.guard(Some(&Guard::default()), now);
        assert_eq!(served.weight(2, now), full);
        served.begin(now + Duration::from_secs(5));
        assert_eq!(served.weight(2, now + Duration::from_secs(5)), full / 10);
    }
}
