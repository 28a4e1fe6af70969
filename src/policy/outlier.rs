//! Passive outlier ejection: an endpoint that keeps failing real requests, in a row or too many of the last ones, is left out
//! for a while, longer each time.
//! And the limits that keep this from making things worse: how many of an upstream may be out at once, and when so
//! few are left that it is better to send to all of them again.
//!
//! It holds no clock: callers pass `now`. Ejection ends by itself, no timer has to end it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::breaker::Outcome;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Failures without a success between them that eject; zero is taken as one.
    pub consecutive_failures: u32,
    /// The last so many results, 1 to 63.
    pub window: u32,
    /// The share of failures in a full window that ejects, 0 to 1; 0 never does.
    pub failure_ratio: f64,
    /// How long the first ejection lasts; the n-th lasts n times as long.
    pub eject_for: Duration,
    /// What ejections may grow to; never less than `eject_for`.
    pub max_eject_for: Duration,
    /// Share of an upstream's endpoints that may be out at once, 0 to 1.
    pub max_ejected: f64,
}

impl Settings {
    /// Whether one more endpoint of an upstream of `total` may be ejected. Of two or more, one always may; the last
    /// one never, whatever the share says.
    pub fn may_eject(&self, ejected_now: usize, total: usize) -> bool {
        let ejected = ejected_now.saturating_add(1);
        ejected < total && (ejected == 1 || ejected as f64 / total as f64 <= self.max_ejected)
    }
}

/// Why an ejection is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Due {
    /// Nothing but failures.
    InARow,
    /// This share of the window.
    Share(f64),
}

/// How an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// The share of failures in what of the window there is.
    pub failing: f64,
    /// The last result was a failure.
    pub failed_last: bool,
}

impl Due {
    /// Whether others do any better: an ejection that sends requests from one failing endpoint to another helps nobody.
    /// Where all begin to fail at once, windows still hold what was good before, so failures in a row are held against
    /// those whose last result was none.
    pub fn stands_out(self, mut others: impl Iterator<Item = Standing>) -> bool {
        match self {
            Due::InARow => others.any(|other| !other.failed_last && 2.0 * other.failing <= 1.0),
            Due::Share(share) => {
                let (sum, count) =
                    others.fold((0.0, 0), |(sum, count), other| (sum + other.failing, count + 1));
                share >= 2.0 * sum / f64::from(count.max(1))
            }
        }
    }
}

/// The record of one endpoint, shared by all threads that send to it.
pub struct Outlier {
    settings: Settings,
    /// What `ejected_until` counts from: an `Instant` does not fit an atomic.
    base: Instant,
    /// Nanoseconds since `base`; 0 where it was never ejected, so that most ask no further.
    ejected_until: AtomicU64,
    consecutive_failures: AtomicU32,
    results: Results,
    history: Mutex<History>,
}

#[derive(Default)]
struct History {
    /// How many times `eject_for` the last ejection lasted, before decay.
    multiplier: u32,
    /// When the last ejection was over, or will be.
    ended: Option<Instant>,
}

impl Outlier {
    /// Not ejected. `now` may be any time not later than the first report's.
    pub fn new(settings: Settings, now: Instant) -> Outlier {
        Outlier {
            settings,
            base: now,
            ejected_until: AtomicU64::new(0),
            consecutive_failures: AtomicU32::new(0),
            results: Results::default(),
            history: Mutex::default(),
        }
    }

    /// Counts the outcome of a request; for how long it ejected the endpoint, if it did. What comes in while it is
    /// ejected was sent before, and counts for nothing.
    ///
    /// `may_eject` is asked only when an ejection is due, and again at the next failure where it refused. It may look
    /// at `is_ejected` of this and any other endpoint, but not report or restore. Two endpoints that fail in the same
    /// instant can both be told that there is room for one: a caller that needs the share exact reports failures
    /// under a lock of the whole upstream.
    pub fn report(
        &self,
        outcome: Outcome,
        now: Instant,
        may_eject: impl FnOnce(Due) -> bool,
    ) -> Option<Duration> {
        match outcome {
            Outcome::Abandoned => return None,
            Outcome::Success => {
                self.lives();
                self.results.add(false, self.settings.window);
                return None;
            }
            Outcome::Failure if self.is_ejected(now) => return None,
            Outcome::Failure => {}
        }
        let failures = self.consecutive_failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        self.results.add(true, self.settings.window);
        let share = self.results.share(self.settings.window).unwrap_or_default();
        let due = match () {
            () if failures >= self.settings.consecutive_failures => Due::InARow,
            () if share > 0.0
                && self.settings.failure_ratio > 0.0
                && share >= self.settings.failure_ratio =>
            {
                Due::Share(share)
            }
            () => return None,
        };
        let mut history = self.history();
        // Of several threads over the limit at once, the first ejects.
        if self.is_ejected(now) || !may_eject(due) {
            return None;
        }
        let lasts = history.eject(&self.settings, now);
        self.forget();
        self.ejected_until.store(self.nanos(now).saturating_add(nanos(lasts)), Ordering::Relaxed);
        Some(lasts)
    }

    /// Never blocks: one relaxed load unless it was ever ejected.
    pub fn is_ejected(&self, now: Instant) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && self.nanos(now) < until
    }

    /// Ends an ejection and forgets all earlier ones.
    pub fn restore(&self) {
        let mut history = self.history();
        *history = History::default();
        self.forget();
        self.ejected_until.store(0, Ordering::Relaxed);
    }

    pub fn standing(&self) -> Standing {
        Standing {
            failing: self.results.share(0).unwrap_or_default(),
            failed_last: self.consecutive_failures.load(Ordering::Relaxed) > 0,
        }
    }

    /// It has begun to answer, so that it does not fail in a row.
    pub fn lives(&self) {
        // Read first: a healthy endpoint's cache line stays shared between the cores.
        if self.consecutive_failures.load(Ordering::Relaxed) != 0 {
            self.consecutive_failures.store(0, Ordering::Relaxed);
        }
    }

    fn forget(&self) {
        self.consecutive_failures.store(0, Ordering::Relaxed);
        self.results.0.store(Results::NONE, Ordering::Relaxed);
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.base))
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last results, the newest in the lowest bit and failures set. A bit above them all shows how many there are.
struct Results(AtomicU64);

impl Default for Results {
    fn default() -> Self {
        Results(AtomicU64::new(Results::NONE))
    }
}

impl Results {
    const NONE: u64 = 1;

    /// A healthy endpoint's are all the same and need no write, so that its cache line stays shared between the cores.
    fn add(&self, failed: bool, window: u32) {
        let full = 1_u64 << window.clamp(1, 63);
        let add = |results: u64| {
            let next = results << 1 | u64::from(failed);
            let next = if results >= full { full | (next & (full - 1)) } else { next };
            (next != results).then_some(next)
        };
        // Refused where nothing changes.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Of failures; `None` as long as there are fewer than `window` results.
    fn share(&self, window: u32) -> Option<f64> {
        let results = self.0.load(Ordering::Relaxed);
        let count = results.ilog2();
        let failures = results.count_ones() - 1;
        (count >= window.min(63)).then(|| f64::from(failures) / f64::from(count.max(1)))
    }
}

impl History {
    fn eject(&mut self, settings: &Settings, now: Instant) -> Duration {
        let quiet = self.ended.map_or(Duration::ZERO, |ended| now.saturating_duration_since(ended));
        let decayed = quiet.as_nanos() / settings.eject_for.as_nanos().max(1);
        let multiplier = self.multiplier.saturating_sub(u32::try_from(decayed).unwrap_or(u32::MAX));
        let limit = settings.max_eject_for.max(settings.eject_for);
        // Not counted beyond the limit: it would take as long to decay as it went on growing unseen.
        let at_limit = multiplier > 0 && settings.eject_for.saturating_mul(multiplier) >= limit;
        self.multiplier = if at_limit { multiplier } else { multiplier.saturating_add(1) };
        let lasts = settings.eject_for.saturating_mul(self.multiplier).min(limit);
        // A duration too long for an `Instant` ends never, so it never decays either.
        self.ended = now.checked_add(lasts).or(self.ended);
        lasts
    }
}

/// More than 584 years do not fit, and are as good as for ever.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Which endpoints of an upstream are balanced over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    OverHealthy,
    /// So few are usable that sending everything to them would bring them down too.
    OverAll,
}

/// Over all where strictly less than the share `threshold` (0 to 1) of `total` is usable; 0 never is.
pub fn panic_threshold(usable: usize, total: usize, threshold: f64) -> Balance {
    if total > 0 && (usable as f64 / total as f64) < threshold {
        Balance::OverAll
    } else {
        Balance::OverHealthy
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, thread};

    use super::*;

    const EJECT_FOR: Duration = Duration::from_secs(30);

    fn settings() -> Settings {
        Settings {
            consecutive_failures: 5,
            window: 20,
            failure_ratio: 0.5,
            eject_for: EJECT_FOR,
            max_eject_for: EJECT_FOR * 4,
            max_ejected: 0.5,
        }
    }

    fn fail(outlier: &Outlier, times: usize, now: Instant) -> Option<Duration> {
        (0..times).filter_map(|_| outlier.report(Outcome::Failure, now, |_| true)).last()
    }

    #[test]
    fn failures_in_a_row_eject_for_a_while() {
        let now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        assert_eq!(fail(&outlier, 4, now), None);
        assert!(!outlier.is_ejected(now));
        assert_eq!(fail(&outlier, 1, now), Some(EJECT_FOR));
        assert!(outlier.is_ejected(now));
        assert!(outlier.is_ejected(now + EJECT_FOR - Duration::from_nanos(1)));
        assert!(!outlier.is_ejected(now + EJECT_FOR));
    }

    #[test]
    fn a_success_starts_the_count_again_and_an_abandoned_request_does_not() {
        let now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        assert_eq!(fail(&outlier, 4, now), None);
        assert_eq!(outlier.report(Outcome::Success, now, |_| true), None);
        assert_eq!(fail(&outlier, 4, now), None);
        assert_eq!(outlier.report(Outcome::Abandoned, now, |_| true), None);
        assert_eq!(fail(&outlier, 1, now), Some(EJECT_FOR));
    }

    /// `of` results, of which every `nth` is a failure.
    fn mixed(outlier: &Outlier, of: usize, nth: usize, now: Instant) -> usize {
        let outcome =
            |result: usize| if result.is_multiple_of(nth) { Outcome::Failure } else { Outcome::Success };
        (1..=of).filter(|result| outlier.report(outcome(*result), now, |_| true).is_some()).count()
    }

    #[test]
    fn half_of_the_last_twenty_eject() {
        let now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        assert_eq!(mixed(&outlier, 19, 2, now), 0, "not full");
        assert!(mixed(&outlier, 2, 2, now) > 0);
        assert!(outlier.is_ejected(now));
        assert_eq!(outlier.standing().failing, 0.0, "it begins anew");
    }

    #[test]
    fn less_than_the_share_never_ejects_and_old_results_are_forgotten() {
        let now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        assert_eq!(mixed(&outlier, 2000, 3, now), 0);
        assert!((outlier.standing().failing - 0.33).abs() < 0.05);
        assert_eq!(mixed(&outlier, 20, usize::MAX, now), 0);
        assert_eq!(outlier.standing().failing, 0.0);
        let off = Outlier::new(Settings { failure_ratio: 0.0, ..settings() }, now);
        assert_eq!(mixed(&off, 2000, 2, now), 0);
        let widest = Outlier::new(Settings { window: 63, ..settings() }, now);
        assert_eq!(mixed(&widest, 62, 2, now), 0);
        assert!(mixed(&widest, 10, 2, now) > 0);
    }

    #[test]
    fn a_share_ejects_only_where_the_others_are_better() {
        for (due, others, expected) in [
            (Due::Share(0.5), vec![0.0, 0.0, 0.1], true),
            (Due::Share(0.5), vec![0.3, 0.3], false),
            (Due::Share(1.0), vec![0.5, 0.5], true),
            (Due::Share(0.5), vec![], true),
        ] {
            let others = others.into_iter().map(|failing| Standing { failing, failed_last: false });
            assert_eq!(due.stands_out(others.clone()), expected, "{due:?} {others:?}");
        }
    }

    #[test]
    fn failures_in_a_row_eject_only_where_another_does_not_fail() {
        let now = Instant::now();
        let row = [(); 3].map(|()| Outlier::new(settings(), now));
        let others = |of: usize| {
            let others = row.iter().enumerate().filter(move |(other, _)| *other != of);
            others.map(|(_, other)| other.standing())
        };
        let report =
            |of: usize, outcome| row[of].report(outcome, now, |due| due.stands_out(others(of))).is_some();
        for _ in 0..20 {
            (0..3).for_each(|of| assert!(!report(of, Outcome::Success)));
        }
        for _ in 0..20 {
            (0..3).for_each(|of| assert!(!report(of, Outcome::Failure), "all fail alike"));
        }
        // One of them is well again.
        (0..20).for_each(|_| assert!(!report(2, Outcome::Success)));
        assert!(report(0, Outcome::Failure) && report(1, Outcome::Failure));
    }

    #[test]
    fn one_that_begins_to_answer_does_not_fail_in_a_row() {
        let now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        for _ in 0..4 {
            assert_eq!(fail(&outlier, 4, now), None);
            outlier.lives();
        }
        assert_eq!(outlier.standing(), Standing { failing: 1.0, failed_last: false });
    }

    #[test]
    fn failures_while_ejected_count_for_nothing() {
        let now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        assert_eq!(fail(&outlier, 5, now), Some(EJECT_FOR));
        assert_eq!(fail(&outlier, 100, now + EJECT_FOR / 2), None);
        assert!(!outlier.is_ejected(now + EJECT_FOR));
        assert_eq!(fail(&outlier, 4, now + EJECT_FOR), None);
    }

    #[test]
    fn each_ejection_lasts_longer_up_to_the_limit() {
        let mut now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        for times in [1, 2, 3, 4, 4, 4] {
            assert_eq!(fail(&outlier, 5, now), Some(EJECT_FOR * times));
            now += EJECT_FOR * times;
        }
    }

    #[test]
    fn quiet_time_shortens_the_next_ejection() {
        for (quiet, times) in [(0.0, 4), (0.9, 4), (1.0, 3), (1.9, 3), (2.0, 2), (3.0, 1), (100.0, 1)] {
            let mut now = Instant::now();
            let outlier = Outlier::new(settings(), now);
            for times in 1..=3 {
                assert_eq!(fail(&outlier, 5, now), Some(EJECT_FOR * times));
                now += EJECT_FOR * times;
            }
            now += EJECT_FOR.mul_f64(quiet);
            assert_eq!(fail(&outlier, 5, now), Some(EJECT_FOR * times), "after {quiet} times eject_for");
        }
    }

    #[test]
    fn a_long_series_decays_as_fast_as_one_that_just_reached_the_limit() {
        let mut now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        for _ in 0..100 {
            now += fail(&outlier, 5, now).unwrap();
        }
        assert_eq!(fail(&outlier, 5, now + EJECT_FOR * 4), Some(EJECT_FOR));
    }

    #[test]
    fn a_limit_between_two_steps_is_kept() {
        let mut now = Instant::now();
        let settings = Settings { max_eject_for: EJECT_FOR * 3 / 2, ..settings() };
        let outlier = Outlier::new(settings, now);
        for lasts in [EJECT_FOR, EJECT_FOR * 3 / 2, EJECT_FOR * 3 / 2] {
            assert_eq!(fail(&outlier, 5, now), Some(lasts));
            now += lasts;
        }
    }

    #[test]
    fn without_room_it_stays_and_the_next_failure_asks_again() {
        let now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        for _ in 0..10 {
            assert_eq!(outlier.report(Outcome::Failure, now, |_| false), None);
        }
        assert!(!outlier.is_ejected(now));
        assert_eq!(fail(&outlier, 1, now), Some(EJECT_FOR));
    }

    #[test]
    fn room_is_asked_for_only_when_an_ejection_is_due() {
        let now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        for _ in 0..4 {
            outlier.report(Outcome::Failure, now, |_| panic!("not due"));
        }
        outlier.report(Outcome::Success, now, |_| panic!("never for a success"));
    }

    #[test]
    fn restored_it_is_as_if_never_ejected() {
        let now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        fail(&outlier, 5, now);
        fail(&outlier, 5, now + EJECT_FOR);
        outlier.restore();
        assert!(!outlier.is_ejected(now + EJECT_FOR));
        assert_eq!(fail(&outlier, 5, now + EJECT_FOR), Some(EJECT_FOR));
    }

    #[test]
    fn threads_over_the_limit_at_once_eject_once() {
        let now = Instant::now();
        let outlier = Outlier::new(settings(), now);
        assert_eq!(fail(&outlier, 4, now), None);
        let asked = AtomicUsize::new(0);
        // The first to ask goes on only when the other has counted its failure too.
        let both_counted = |_| {
            if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                while outlier.consecutive_failures.load(Ordering::SeqCst) < 6 {
                    thread::yield_now();
                }
            }
            true
        };
        let ejections = thread::scope(|scope| {
            let threads =
                [(); 2].map(|()| scope.spawn(|| outlier.report(Outcome::Failure, now, both_counted)));
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).count()
        });
        assert_eq!((ejections, asked.into_inner()), (1, 1));
    }

    #[test]
    fn endpoints_that_ask_about_each_other_do_not_wait_for_each_other() {
        let now = Instant::now();
        let row: Vec<Outlier> = (0..4).map(|_| Outlier::new(settings(), now)).collect();
        let pool = Mutex::new(());
        let room =
            |_| settings().may_eject(row.iter().filter(|each| each.is_ejected(now)).count(), row.len());
        thread::scope(|scope| {
            for outlier in &row {
                let (room, pool) = (&room, &pool);
                scope.spawn(move || {
                    for _ in 0..100 {
                        let _one_at_a_time = pool.lock().unwrap();
                        outlier.report(Outcome::Failure, now, room);
                    }
                });
            }
        });
        assert_eq!(row.iter().filter(|each| each.is_ejected(now)).count(), 2);
    }

    #[test]
    fn the_share_is_kept_but_one_may_always_go_and_never_all() {
        let cases = [
            // share, total, how many may be out
            (0.5, 0, 0),
            (0.5, 1, 0),
            (1.0, 1, 0),
            (0.0, 2, 1),
            (0.1, 3, 1),
            (0.5, 4, 2),
            (0.5, 5, 2),
            (0.07, 100, 7),
            (1.0, 4, 3),
            (2.0, 4, 3),
            (f64::NAN, 4, 1),
        ];
        for (max_ejected, total, expected) in cases {
            let settings = Settings { max_ejected, ..settings() };
            let ejected = (0..10 + total).take_while(|out| settings.may_eject(*out, total)).count();
            assert_eq!(ejected, expected, "{max_ejected} of {total}");
        }
    }

    #[test]
    fn settings_without_sense_do_not_panic() {
        let now = Instant::now();
        for (eject_for, max_eject_for) in
            [(Duration::ZERO, Duration::ZERO), (Duration::MAX, Duration::ZERO), (EJECT_FOR, Duration::MAX)]
        {
            let settings = Settings { consecutive_failures: 0, eject_for, max_eject_for, ..settings() };
            let outlier = Outlier::new(settings, now);
            assert_eq!(fail(&outlier, 1, now), Some(eject_for));
            assert_eq!(outlier.is_ejected(now + EJECT_FOR / 2), !eject_for.is_zero());
            fail(&outlier, 10, now + EJECT_FOR);
        }
    }

    #[test]
    fn too_few_healthy_ones_are_not_left_alone_with_the_load() {
        let cases = [
            (5, 10, 0.5, Balance::OverHealthy),
            (4, 10, 0.5, Balance::OverAll),
            (0, 10, 0.5, Balance::OverAll),
            (7, 100, 0.07, Balance::OverHealthy),
            (6, 100, 0.07, Balance::OverAll),
            (9, 10, 1.0, Balance::OverAll),
            (10, 10, 1.0, Balance::OverHealthy),
            (0, 10, 0.0, Balance::OverHealthy),
            (0, 0, 0.5, Balance::OverHealthy),
        ];
        for (usable, total, threshold, expected) in cases {
            assert_eq!(
                panic_threshold(usable, total, threshold),
                expected,
                "{usable} of {total}, {threshold}"
            );
        }
    }
}
