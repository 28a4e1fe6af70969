//! What keeps requests away from an endpoint that fails them: its circuit breaker, its ejection, and the slow start with
//! which it comes back. Each part whose settings are unchanged goes over to the next configuration with its state.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{
    config::{self, BreakerFailure, BreakerWindow},
    kept::Kept,
    policy::{
        breaker::{self, Breaker, Permit},
        failure::Outcome,
        outlier::{self, Outlier},
        slow_start,
    },
};

/// The guard of one endpoint. Clones share all state.
#[derive(Clone, Default)]
pub(super) struct Guard {
    pub circuit: Option<KeptCircuit>,
    pub ejection: Option<Kept<config::Outlier, Ejection>>,
    ramp: Option<Kept<Duration, Ramp>>,
}

pub(super) type KeptCircuit = Kept<config::CircuitBreaker, Circuit>;

/// What the operator wants of each endpoint's guard.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub circuit_breaker: Option<config::CircuitBreaker>,
    pub outlier: Option<config::Outlier>,
    pub slow_start: Option<Duration>,
}

impl Settings {
    pub(super) fn max_silence(&self) -> Option<Duration> {
        let most: Duration = self.outlier.as_ref()?.max_silence.into();
        (!most.is_zero()).then_some(most)
    }
}

/// A circuit breaker and what counts as a failure for it.
pub struct Circuit {
    failures: Vec<BreakerFailure>,
    pub breaker: Breaker,
}

pub(super) struct Ejection {
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

/// Makes the guards of an upstream's endpoints.
pub(super) struct Wanted<'a> {
    settings: &'a Settings,
    /// The one breaker for all endpoints, where that is its scope.
    common: Option<KeptCircuit>,
}

impl<'a> Wanted<'a> {
    /// `before` is the common breaker of the configuration before.
    pub(crate) fn new(settings: &'a Settings, before: Option<&KeptCircuit>) -> Wanted<'a> {
        let breaker = settings.circuit_breaker.as_ref();
        let breaker = breaker.filter(|breaker| breaker.scope == config::BreakerScope::Upstream);
        let common = breaker.map(|breaker| Kept::keep_or(before, breaker.clone(), Circuit::new));
        Wanted { settings, common }
    }

    pub(crate) fn common(&self) -> Option<&KeptCircuit> {
        self.common.as_ref()
    }

    /// The guard for an endpoint that was guarded by `before`.
    pub(crate) fn guard(&self, before: Option<&Guard>, now: Instant) -> Guard {
        let Settings { circuit_breaker, outlier, slow_start } = self.settings;
        let circuit = match (&self.common, circuit_breaker) {
            (Some(common), _) => Some(common.clone()),
            (None, Some(breaker)) => {
                let before = before.and_then(|guard| guard.circuit.as_ref());
                Some(Kept::keep_or(before, breaker.clone(), Circuit::new))
            }
            (None, None) => None,
        };
        let ejection = outlier.as_ref().map(|outlier| {
            let before = before.and_then(|guard| guard.ejection.as_ref());
            Kept::keep_or(before, outlier.clone(), |outlier| Ejection::new(outlier, now))
        });
        let ramp = slow_start.map(|duration| {
            // An endpoint that served already does not start again because slow start was turned on.
            let began = if before.is_some() { u64::MAX } else { 0 };
            let before = before.and_then(|guard| guard.ramp.as_ref());
            Kept::keep_or(before, duration, |_| Ramp { duration, base: now, began: AtomicU64::new(began) })
        });
        Guard { circuit, ejection, ramp }
    }
}

impl Guard {
    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        self.ejection.as_ref().is_some_and(|ejection| ejection.outlier.is_ejected(now))
    }

    /// Whether the breaker would let a request through.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        self.circuit.as_ref().is_none_or(|circuit| circuit.breaker.admits(now))
    }

    /// `weight` as of now, in the unit of `policy::ramp` where there is slow start.
    pub(crate) fn weight(&self, weight: u32, now: Instant) -> u32 {
        self.ramp.as_ref().map_or(weight, |ramp| ramp.weight(weight, now))
    }

    /// It comes back, or comes, at `now`.
    pub(crate) fn begin(&self, now: Instant) {
        if let Some(ramp) = &self.ramp {
            ramp.began.store(nanos(now.saturating_duration_since(ramp.base)), Relaxed);
        }
    }
}

impl Circuit {
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
        Circuit { failures: settings.failures.clone(), breaker }
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
        let failed = kind.is_some_and(|kind| self.failures.contains(&kind));
        let outcome = if failed { breaker::Outcome::Failure } else { breaker::Outcome::Success };
        self.breaker.settle(permit, outcome, now)
    }
}

impl Ejection {
    fn new(settings: &config::Outlier, now: Instant) -> Ejection {
        let rule = outlier::Settings {
            consecutive_failures: settings.consecutive_failures.get(),
            window: settings.window.get(),
            failure_ratio: settings.failure_ratio.as_f64(),
            eject_for: settings.eject_for.into(),
            max_eject_for: settings.max_eject_for.into(),
            max_ejected: settings.max_ejected.as_f64(),
        };
        Ejection { outlier: Outlier::new(rule.clone(), now), rule }
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
        slow_start::ramped(weight, since, self.duration)
    }
}

fn nanos(duration: Duration) -> u64 {
    // One less than the mark for "long ago".
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::upstream::parts::Parts;

    fn settings(yaml: &str) -> Settings {
        let config: config::Upstream = serde_yaml::from_str(yaml).unwrap();
        Parts::of(&config, None, None).pool.guard
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
        let before = settings("circuit_breaker: {consecutive_failures: 3}");
        let guard = Wanted::new(&before, None).guard(None, now);
        fail(&guard, 3, now);
        assert!(!guard.admits(now));
        let same = settings("{circuit_breaker: {consecutive_failures: 3}, outlier: {}}");
        assert!(!Wanted::new(&same, None).guard(Some(&guard), now).admits(now));
        let other = settings("circuit_breaker: {consecutive_failures: 4}");
        assert!(Wanted::new(&other, None).guard(Some(&guard), now).admits(now));
    }

    #[test]
    fn each_part_of_a_guard_is_kept_by_its_own_settings_and_all_of_them() {
        let now = Instant::now();
        let all = "{circuit_breaker: {}, outlier: {}, slow_start: 10s}";
        let guard = Wanted::new(&settings(all), None).guard(None, now);
        let kept = |yaml: &str| {
            let new = Wanted::new(&settings(yaml), None).guard(Some(&guard), now);
            let circuit =
                Arc::ptr_eq(new.circuit.unwrap().shared(), guard.circuit.as_ref().unwrap().shared());
            let ejection =
                Arc::ptr_eq(new.ejection.unwrap().shared(), guard.ejection.as_ref().unwrap().shared());
            let ramp = Arc::ptr_eq(new.ramp.unwrap().shared(), guard.ramp.as_ref().unwrap().shared());
            (circuit, ejection, ramp)
        };
        assert_eq!(kept(all), (true, true, true));
        assert_eq!(
            kept("{circuit_breaker: {failures: [5xx]}, outlier: {}, slow_start: 10s}"),
            (false, true, true)
        );
        assert_eq!(
            kept("{circuit_breaker: {}, outlier: {max_ejected: 10%}, slow_start: 10s}"),
            (true, false, true)
        );
        assert_eq!(kept("{circuit_breaker: {}, outlier: {}, slow_start: 11s}"), (true, true, false));
    }

    #[test]
    fn the_breaker_of_all_endpoints_is_kept_over_a_reload() {
        let now = Instant::now();
        let open = settings("circuit_breaker: {consecutive_failures: 3, scope: upstream}");
        let wanted = Wanted::new(&open, None);
        fail(&wanted.guard(None, now), 3, now);
        let admits =
            |settings: &Settings| Wanted::new(settings, wanted.common()).guard(None, now).admits(now);
        assert!(!admits(&open));
        assert!(admits(&settings("circuit_breaker: {consecutive_failures: 4, scope: upstream}")));
    }

    #[test]
    fn one_breaker_for_the_upstream_closes_all_its_endpoints() {
        let now = Instant::now();
        let config = settings("circuit_breaker: {consecutive_failures: 3, scope: upstream}");
        let wanted = Wanted::new(&config, None);
        let (one, two) = (wanted.guard(None, now), wanted.guard(None, now));
        fail(&one, 3, now);
        assert!(!two.admits(now));
    }

    #[test]
    fn only_the_failures_that_are_named_count() {
        let now = Instant::now();
        let config = settings("circuit_breaker: {consecutive_failures: 3, failures: [5xx]}");
        let guard = Wanted::new(&config, None).guard(None, now);
        fail(&guard, 10, now);
        assert!(guard.admits(now));
    }

    #[test]
    fn a_new_endpoint_ramps_and_one_that_served_does_not() {
        let now = Instant::now();
        let config = settings("slow_start: 10s");
        let wanted = Wanted::new(&config, None);
        let full = 2 * slow_start::SCALE;
        let new = wanted.guard(None, now);
        assert_eq!(new.weight(2, now), full / 10);
        assert_eq!(new.weight(2, now + Duration::from_secs(10)), full);
        let served = wanted.guard(Some(&Guard::default()), now);
        assert_eq!(served.weight(2, now), full);
        served.begin(now + Duration::from_secs(5));
        assert_eq!(served.weight(2, now + Duration::from_secs(5)), full / 10);
    }
}
