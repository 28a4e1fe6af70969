//! Active health checks: when to probe which endpoint, and what the outcomes mean.
//! The schedule and the verdict are plain state machines that are told the time; `run` alone waits and connects.
//! One task per upstream probes all its endpoints, at most `CONCURRENT` at once.

use std::{
    collections::{BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use pingora_load_balancing::health_check::HealthCheck;

use crate::{config, policy::failure::is_shortage};

use super::{
    endpoint::{Endpoint, Health},
    pool::Shared,
    probe::{Probe, backend_of},
};

/// Enough to get through many endpoints soon, few enough not to be a burst of its own.
const CONCURRENT: usize = 16;

/// How probes become a verdict: the first decides alone, then only a row of opposite outcomes turns it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tracker {
    verdict: Option<bool>,
    opposite: usize,
}

impl Tracker {
    /// `threshold` is how many outcomes like `ok` in a row turn the opposite verdict.
    /// Answers the new verdict where it changed.
    pub(crate) fn record(&mut self, ok: bool, threshold: usize) -> Option<bool> {
        self.opposite = match self.verdict {
            Some(verdict) if verdict != ok => self.opposite + 1,
            _ => 0,
        };
        if self.verdict.is_some() && self.opposite < threshold.max(1) {
            return None;
        }
        *self = Tracker { verdict: Some(ok), opposite: 0 };
        Some(ok)
    }

    pub(crate) fn is_undecided(&self) -> bool {
        self.verdict.is_none()
    }
}

/// When each endpoint is probed next. Endpoints are known by their id.
pub(crate) struct Schedule {
    interval: Duration,
    jitter: f64,
    /// When each endpoint is due; `None` while it is being probed.
    due: HashMap<u64, Option<Instant>>,
    queue: BTreeSet<(Instant, u64)>,
}

/// How soon an endpoint is to be probed for the first time by this schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// Its state is not known: at once.
    Now,
    /// It has a state from before: somewhere in the first interval.
    Spread,
}

impl Schedule {
    /// Each pause is `interval`, up to the share `jitter` (0 to 1) shorter or longer.
    pub(crate) fn new(interval: Duration, jitter: f64) -> Schedule {
        Schedule { interval, jitter: jitter.clamp(0.0, 1.0), due: HashMap::new(), queue: BTreeSet::new() }
    }

    /// Takes up endpoints that are new and forgets those that are gone.
    pub(crate) fn follow(&mut self, endpoints: &[(u64, First)], now: Instant, rng: &mut fastrand::Rng) {
        let present: HashMap<u64, First> = endpoints.iter().copied().collect();
        self.due.retain(|id, _| present.contains_key(id));
        self.queue.retain(|(_, id)| present.contains_key(id));
        for &(id, first) in endpoints {
            if self.due.contains_key(&id) {
                continue;
            }
            let at = match first {
                First::Now => now,
                First::Spread => now + self.interval.mul_f64(rng.f64()),
            };
            self.plan(id, at);
        }
    }

    /// The endpoint that has waited longest among those due. It is not due again before `done`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<u64> {
        let &(at, id) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.queue.pop_first();
        self.due.insert(id, None);
        Some(id)
    }

    /// The probe of `id` has ended; the pause before the next begins.
    pub(crate) fn done(&mut self, id: u64, now: Instant, rng: &mut fastrand::Rng) {
        // An endpoint may leave while it is being probed.
        if self.due.get(&id) == Some(&None) {
            let factor = 1.0 + self.jitter * (2.0 * rng.f64() - 1.0);
            self.plan(id, now + self.interval.mul_f64(factor));
        }
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    fn plan(&mut self, id: u64, at: Instant) {
        self.due.insert(id, Some(at));
        self.queue.insert((at, id));
    }
}

/// Probes the endpoints of `pool` for as long as it is polled.
pub(super) async fn run(pool: Arc<Shared>, probe: Probe, check: config::HealthCheck) {
    let mut rng = fastrand::Rng::new();
    let mut schedule = Schedule::new(check.interval.into(), check.jitter.as_f64());
    let mut running = FuturesUnordered::new();
    let mut table = None;
    loop {
        let current = pool.table();
        let now = Instant::now();
        if table.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &current)) {
            let endpoints: Vec<_> = current.endpoints.iter().map(|e| (e.id(), first_probe(e))).collect();
            schedule.follow(&endpoints, now, &mut rng);
            table = Some(current.clone());
        }
        while running.len() < CONCURRENT
            && let Some(id) = schedule.take_due(now)
        {
            if let Some(endpoint) = current.endpoints.iter().find(|endpoint| endpoint.id() == id) {
                running.push(probe_endpoint(endpoint.clone(), &probe));
            }
        }
        let wake = if running.len() < CONCURRENT { schedule.next_due() } else { None };
        tokio::select! {
            Some((endpoint, outcome)) = running.next() => {
                schedule.done(endpoint.id(), Instant::now(), &mut rng);
                // It says nothing about the endpoint that no probe could be sent.
                let Some(outcome) = outcome else { continue };
                record(&pool, &probe, &endpoint, outcome);
            }
            () = sleep_until(wake) => {}
            () = pool.changed() => {}
        }
    }
}

fn first_probe(endpoint: &Endpoint) -> First {
    if endpoint.is_undecided() { First::Now } else { First::Spread }
}

/// No outcome where this machine or process lacks what a connection takes.
async fn probe_endpoint(
    endpoint: Arc<Endpoint>,
    probe: &Probe,
) -> (Arc<Endpoint>, Option<Result<(), String>>) {
    let backend = backend_of(endpoint.address.clone(), &endpoint.origin, &endpoint.owners);
    // The one task probes for all: a probe that panics must not end the others.
    let outcome = match AssertUnwindSafe(probe.check(&backend)).catch_unwind().await {
        Ok(Err(error)) if error.root_cause().downcast_ref().is_some_and(is_shortage) => None,
        Ok(outcome) => Some(outcome.map_err(|error| Probe::explain(&error))),
        Err(_) => Some(Err("the probe panicked".to_string())),
    };
    (endpoint, outcome)
}

fn record(pool: &Shared, probe: &Probe, endpoint: &Endpoint, outcome: Result<(), String>) {
    let outcome = outcome.as_ref().map_err(String::as_str).copied();
    pool.observer.probed(&pool.upstream, &endpoint.name, outcome);
    let before = endpoint.health();
    let after = endpoint.probed(outcome.is_ok(), probe.health_threshold(outcome.is_ok()));
    if after.is_some_and(|after| after != before) {
        pool.observer.health_changed(&pool.upstream, &endpoint.name, outcome);
    }
    if outcome.is_err() {
        pool.may_have_moved(&endpoint.origin);
    }
    if before == Health::Unknown {
        pool.settled.notify_waiters();
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn rng() -> fastrand::Rng {
        fastrand::Rng::with_seed(3)
    }

    #[test]
    fn the_first_outcome_decides_and_then_thresholds_do() {
        let mut tracker = Tracker::default();
        assert!(tracker.is_undecided());
        assert_eq!(tracker.record(true, 2), Some(true));
        assert_eq!(tracker.record(false, 3), None);
        assert_eq!(tracker.record(false, 3), None);
        assert_eq!(tracker.record(true, 2), None, "a good one in between starts the count anew");
        assert_eq!(tracker.record(false, 3), None);
        assert_eq!(tracker.record(false, 3), None);
        assert_eq!(tracker.record(false, 3), Some(false));
        assert_eq!(tracker.record(true, 2), None);
        assert_eq!(tracker.record(true, 2), Some(true));
    }

    #[test]
    fn a_first_failure_decides_too() {
        assert_eq!(Tracker::default().record(false, 3), Some(false));
    }

    #[test]
    fn unknown_endpoints_are_due_at_once_and_known_ones_within_an_interval() {
        let now = Instant::now();
        let mut schedule = Schedule::new(INTERVAL, 0.1);
        schedule.follow(&[(1, First::Now), (2, First::Spread)], now, &mut rng());
        assert_eq!(schedule.take_due(now), Some(1));
        assert_eq!(schedule.take_due(now), None);
        let due = schedule.next_due().unwrap();
        assert!(due > now && due <= now + INTERVAL);
        assert_eq!(schedule.take_due(due), Some(2));
        assert_eq!(schedule.next_due(), None, "both are being probed");
    }

    #[test]
    fn pauses_stay_within_the_jitter_and_differ() {
        let now = Instant::now();
        let mut random = rng();
        let mut schedule = Schedule::new(INTERVAL, 0.2);
        schedule.follow(&[(1, First::Now)], now, &mut random);
        let mut pauses = BTreeSet::new();
        for _ in 0..100 {
            let at = schedule.next_due().unwrap();
            assert_eq!(schedule.take_due(at), Some(1));
            schedule.done(1, at, &mut random);
            let pause = schedule.next_due().unwrap() - at;
            assert!(pause >= INTERVAL.mul_f64(0.8) && pause <= INTERVAL.mul_f64(1.2), "{pause:?}");
            pauses.insert(pause);
        }
        assert!(pauses.len() > 90);
    }

    #[test]
    fn an_endpoint_that_left_while_probed_is_not_planned_again() {
        let now = Instant::now();
        let mut random = rng();
        let mut schedule = Schedule::new(INTERVAL, 0.0);
        schedule.follow(&[(1, First::Now)], now, &mut random);
        assert_eq!(schedule.take_due(now), Some(1));
        schedule.follow(&[], now, &mut random);
        schedule.done(1, now, &mut random);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn following_again_does_not_disturb_who_is_known() {
        let now = Instant::now();
        let mut random = rng();
        let mut schedule = Schedule::new(INTERVAL, 0.0);
        schedule.follow(&[(1, First::Now)], now, &mut random);
        schedule.take_due(now);
        schedule.done(1, now, &mut random);
        schedule.follow(&[(1, First::Now), (2, First::Now)], now, &mut random);
        assert_eq!(schedule.take_due(now), Some(2));
        assert_eq!(schedule.next_due(), Some(now + INTERVAL));
    }
}
