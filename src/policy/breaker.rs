//! A circuit breaker: where too much fails, nothing is sent for a while, and then a few probes decide.
//! It spares callers the wait for an answer that will not come, and what is failing the load it cannot carry.
//!
//! It holds no clock: callers pass `now`. A request enters with a `Permit` and settles it with its outcome. Each
//! change of state starts a new generation, and a permit of an earlier one counts for nothing: an answer to a
//! request sent before the breaker opened says nothing about how things are now.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The results that are judged together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last so many; judged once there are as many.
    Requests(u32),
    /// Those of this last time, forgotten a tenth of it at a time: it looks back between 0.9 and 1.0 of it.
    Time(Duration),
}

/// When a breaker opens and how it closes. Where a count must be at least one, zero is taken as one.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub window: Window,
    /// Opens when this share of the window or more has failed, judged after every result; above 0, up to 1.
    pub failure_ratio: f64,
    /// Results that must be in a window of time before its ratio is judged. Not used by a window of requests.
    pub min_requests: u32,
    /// Opens after so many failures without a success between them, whatever the window holds.
    pub consecutive_failures: Option<u32>,
    /// How long nothing is let through before probes are.
    pub open_for: Duration,
    /// Probes that may be under way at once while half-open.
    pub half_open_requests: u32,
    /// Probes that must succeed for it to close; a single failure opens it again.
    pub success_threshold: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
    /// The client left before there was a result: counts neither way.
    Abandoned,
}

/// What an operator may order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// Lets nothing through until `Closed` or `Reset`.
    Open,
    /// Lets everything through, whatever fails, until `Open` or `Reset`.
    Closed,
    /// Back to deciding by itself: closed, with an empty window.
    Reset,
}

/// What a breaker goes by at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// In its window; while half-open, probes that are under way or have succeeded.
    pub results: u32,
    pub failures: u32,
    /// Without a success between them.
    pub consecutive_failures: u32,
    /// How an operator holds it.
    pub forced: Option<State>,
    /// While it is open: until it tries again.
    pub retry_in: Option<Duration>,
}

/// Leave to send one request. It must be settled, with the breaker that gave it, on every path, which the caller
/// ensures with a guard that settles in `Drop`: a probe never settled keeps its slot for as long as the breaker is
/// half-open. Settle when the result is known, not when the body ends; a long stream would hold its slot as long.
#[derive(Debug)]
#[must_use = "a permit never settled keeps its slot"]
pub struct Permit {
    generation: u64,
    /// The first to be let through after `open_for`: the breaker is half-open from here on.
    pub half_opens: bool,
}

/// Shared by all threads that send to the same place.
pub struct Breaker {
    settings: Settings,
    /// The generation while requests pass freely, else 0, so that a closed breaker costs a request one load.
    /// Written only with `inner` locked. A thread that reads it late is no worse than a request sent earlier.
    closed: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    /// From 1.
    generation: u64,
    phase: Phase,
}

enum Phase {
    Closed(Tally),
    HeldClosed,
    Open { since: Instant },
    HeldOpen,
    HalfOpen { probes: u32, successes: u32 },
}

impl Breaker {
    /// Closed, with an empty window.
    pub fn new(settings: Settings) -> Breaker {
        let settings = Settings {
            consecutive_failures: settings.consecutive_failures.map(|count| count.max(1)),
            half_open_requests: settings.half_open_requests.max(1),
            success_threshold: settings.success_threshold.max(1),
            ..settings
        };
        let phase = Phase::Closed(Tally::new(settings.window));
        Breaker { settings, closed: AtomicU64::new(1), inner: Mutex::new(Inner { generation: 1, phase }) }
    }

    /// Whether a request would be let through now. Reserves nothing: by the time it enters, another may have taken
    /// the last slot.
    pub fn admits(&self, now: Instant) -> bool {
        if self.closed.load(Ordering::Relaxed) != 0 {
            return true;
        }
        match self.lock().phase {
            Phase::Closed(_) | Phase::HeldClosed => true,
            Phase::Open { since } => self.wait_left(since, now).is_zero(),
            Phase::HeldOpen => false,
            Phase::HalfOpen { probes, .. } => probes < self.settings.half_open_requests,
        }
    }

    /// Lets a request through, or not. The first to come after `open_for` makes an open breaker half-open. Probes
    /// are counted afresh each time it does: one that hangs cannot keep the breaker from trying again.
    pub fn enter(&self, now: Instant) -> Option<Permit> {
        let generation = self.closed.load(Ordering::Relaxed);
        if generation != 0 {
            return Some(Permit { generation, half_opens: false });
        }
        let mut inner = self.lock();
        let half_opens = matches!(inner.phase, Phase::Open { since } if self.wait_left(since, now).is_zero());
        if half_opens {
            self.change(&mut inner, Phase::HalfOpen { probes: 0, successes: 0 });
        }
        match &mut inner.phase {
            // Another thread closed it since the load above.
            Phase::Closed(_) | Phase::HeldClosed => {}
            Phase::HalfOpen { probes, .. } if *probes < self.settings.half_open_requests => *probes += 1,
            Phase::HalfOpen { .. } | Phase::Open { .. } | Phase::HeldOpen => return None,
        }
        Some(Permit { generation: inner.generation, half_opens })
    }

    /// Counts the outcome of a request and frees its slot. The new state when this result changed it.
    pub fn settle(&self, permit: Permit, outcome: Outcome, now: Instant) -> Option<State> {
        let mut inner = self.lock();
        if permit.generation != inner.generation {
            return None;
        }
        let next = match &mut inner.phase {
            Phase::Closed(tally) => tally.record(outcome, &self.settings, now),
            Phase::HalfOpen { probes, successes } => {
                *probes = probes.saturating_sub(1);
                *successes += u32::from(outcome == Outcome::Success);
                match outcome {
                    Outcome::Failure => Some(State::Open),
                    Outcome::Success if *successes >= self.settings.success_threshold => Some(State::Closed),
                    Outcome::Success | Outcome::Abandoned => None,
                }
            }
            Phase::HeldClosed | Phase::Open { .. } | Phase::HeldOpen => None,
        }?;
        let phase = match next {
            State::Closed => Phase::Closed(Tally::new(self.settings.window)),
            State::Open => Phase::Open { since: now },
            State::HalfOpen => Phase::HalfOpen { probes: 0, successes: 0 },
        };
        self.change(&mut inner, phase);
        Some(next)
    }

    /// As a request coming now would find it: half-open as soon as `open_for` is over, even if none has come yet.
    pub fn state(&self, now: Instant) -> State {
        if self.closed.load(Ordering::Relaxed) != 0 {
            return State::Closed;
        }
        match self.lock().phase {
            Phase::Closed(_) | Phase::HeldClosed => State::Closed,
            Phase::Open { since } if self.wait_left(since, now).is_zero() => State::HalfOpen,
            Phase::Open { .. } | Phase::HeldOpen => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// How long one that was refused should wait; `None` while requests are let through. Zero while all probes are
    /// under way, as any of them may decide the next moment. Nobody knows how long an operator will keep it open:
    /// then it is `open_for`.
    pub fn retry_after(&self, now: Instant) -> Option<Duration> {
        if self.closed.load(Ordering::Relaxed) != 0 {
            return None;
        }
        match self.lock().phase {
            Phase::Closed(_) | Phase::HeldClosed => None,
            Phase::Open { since } => Some(self.wait_left(since, now)).filter(|left| !left.is_zero()),
            Phase::HeldOpen => Some(self.settings.open_for),
            Phase::HalfOpen { probes, .. } => {
                (probes >= self.settings.half_open_requests).then_some(Duration::ZERO)
            }
        }
    }

    /// What it goes by, for whoever asks why.
    pub fn counted(&self, now: Instant) -> Counted {
        let inner = self.lock();
        let mut counted = Counted { retry_in: None, ..Counted::default() };
        match &inner.phase {
            Phase::Closed(tally) => {
                let counts = tally.counts(now);
                counted.results = counts.total;
                counted.failures = counts.failures;
                counted.consecutive_failures = tally.consecutive_failures;
            }
            Phase::HeldClosed => counted.forced = Some(State::Closed),
            Phase::HeldOpen => counted.forced = Some(State::Open),
            Phase::Open { since } => {
                counted.retry_in = Some(self.wait_left(*since, now)).filter(|left| !left.is_zero());
            }
            Phase::HalfOpen { probes, successes } => {
                counted.results = *successes + *probes;
            }
        }
        counted
    }

    /// By the operator. Always starts a new generation: what is under way no longer counts.
    pub fn force(&self, forced: Forced) {
        let phase = match forced {
            Forced::Open => Phase::HeldOpen,
            Forced::Closed => Phase::HeldClosed,
            Forced::Reset => Phase::Closed(Tally::new(self.settings.window)),
        };
        self.change(&mut self.lock(), phase);
    }

    fn change(&self, inner: &mut Inner, phase: Phase) {
        inner.generation += 1;
        inner.phase = phase;
        let free = matches!(inner.phase, Phase::Closed(_) | Phase::HeldClosed);
        self.closed.store(if free { inner.generation } else { 0 }, Ordering::Relaxed);
    }

    // Not `since + open_for`, which panics where the operator's duration is too long for an `Instant`.
    fn wait_left(&self, since: Instant, now: Instant) -> Duration {
        self.settings.open_for.saturating_sub(now.saturating_duration_since(since))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a closed breaker remembers.
struct Tally {
    results: Results,
    consecutive_failures: u32,
}

enum Results {
    Last(Ring),
    Recent(Slots),
}

#[derive(Clone, Copy, Default)]
struct Counts {
    total: u32,
    failures: u32,
}

impl Tally {
    fn new(window: Window) -> Tally {
        let results = match window {
            Window::Requests(size) => Results::Last(Ring::new(size.max(1))),
            Window::Time(length) => Results::Recent(Slots::new(length)),
        };
        Tally { results, consecutive_failures: 0 }
    }

    fn counts(&self, now: Instant) -> Counts {
        match &self.results {
            Results::Last(ring) => ring.counts,
            Results::Recent(slots) => slots.counts(now),
        }
    }

    fn record(&mut self, outcome: Outcome, settings: &Settings, now: Instant) -> Option<State> {
        let failed = match outcome {
            Outcome::Success => false,
            Outcome::Failure => true,
            Outcome::Abandoned => return None,
        };
        self.consecutive_failures = if failed { self.consecutive_failures.saturating_add(1) } else { 0 };
        let (counts, needed) = match &mut self.results {
            Results::Last(ring) => (ring.push(failed), ring.size),
            Results::Recent(slots) => (slots.push(failed, now), settings.min_requests),
        };
        let in_a_row = settings.consecutive_failures.is_some_and(|limit| self.consecutive_failures >= limit);
        // Divided, not multiplied: 7 of 100 is 0.07 exactly as parsed, but 0.07 * 100 is more than 7.
        let ratio = f64::from(counts.failures) / f64::from(counts.total);
        let too_many = counts.failures > 0 && counts.total >= needed && ratio >= settings.failure_ratio;
        (in_a_row || too_many).then_some(State::Open)
    }
}

/// The last `size` results, a bit each: set where it failed.
struct Ring {
    bits: Vec<u64>,
    size: u32,
    next: u32,
    counts: Counts,
}

impl Ring {
    fn new(size: u32) -> Ring {
        Ring { bits: vec![0; size.div_ceil(u64::BITS) as usize], size, next: 0, counts: Counts::default() }
    }

    fn push(&mut self, failed: bool) -> Counts {
        let word = &mut self.bits[(self.next / u64::BITS) as usize];
        let bit = 1 << (self.next % u64::BITS);
        // A place not yet used is a clear bit, so it needs no case of its own.
        self.counts.failures -= u32::from(*word & bit != 0);
        self.counts.failures += u32::from(failed);
        self.counts.total = (self.counts.total + 1).min(self.size);
        *word = if failed { *word | bit } else { *word & !bit };
        self.next = (self.next + 1) % self.size;
        self.counts
    }
}

/// The results of the last while, summed over each tenth of it.
struct Slots {
    length: Duration,
    /// When the first result came: ticks are counted from here.
    origin: Option<Instant>,
    /// The slot in use, counted since `origin`.
    tick: u128,
    slots: [Counts; Slots::COUNT],
}

impl Slots {
    const COUNT: usize = 10;

    fn new(window: Duration) -> Slots {
        let length = (window / Self::COUNT as u32).max(Duration::from_nanos(1));
        Slots { length, origin: None, tick: 0, slots: [Counts::default(); Self::COUNT] }
    }

    fn push(&mut self, failed: bool, now: Instant) -> Counts {
        let origin = *self.origin.get_or_insert(now);
        let tick = now.saturating_duration_since(origin).as_nanos() / self.length.as_nanos();
        // A thread that took its `now` before another one moved on counts in the slot in use: time only goes on.
        let passed = tick.saturating_sub(self.tick);
        for ahead in 1..=passed.min(Self::COUNT as u128) {
            self.slots[Self::index(self.tick + ahead)] = Counts::default();
        }
        self.tick += passed;
        let slot = &mut self.slots[Self::index(self.tick)];
        slot.total = slot.total.saturating_add(1);
        slot.failures = slot.failures.saturating_add(u32::from(failed));
        self.slots.iter().fold(Counts::default(), |sum, slot| Counts {
            total: sum.total.saturating_add(slot.total),
            failures: sum.failures.saturating_add(slot.failures),
        })
    }

    /// What is not forgotten yet at `now`.
    fn counts(&self, now: Instant) -> Counts {
        let Some(origin) = self.origin else { return Counts::default() };
        let tick = now.saturating_duration_since(origin).as_nanos() / self.length.as_nanos();
        let passed = tick.saturating_sub(self.tick);
        let left = (passed..Self::COUNT as u128).map(|ahead| {
            // From the newest back: slot `tick - n`, of those that `now` still sees.
            let back = ahead - passed;
            self.slots[Self::index((self.tick + Self::COUNT as u128 - back) % Self::COUNT as u128)]
        });
        left.fold(Counts::default(), |sum, slot| Counts {
            total: sum.total.saturating_add(slot.total),
            failures: sum.failures.saturating_add(slot.failures),
        })
    }

    fn index(tick: u128) -> usize {
        (tick % Self::COUNT as u128) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Barrier, atomic::AtomicUsize},
        thread,
    };

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(10);

    fn settings() -> Settings {
        Settings {
            window: Window::Requests(20),
            failure_ratio: 0.5,
            min_requests: 1,
            consecutive_failures: None,
            open_for: OPEN_FOR,
            half_open_requests: 3,
            success_threshold: 2,
        }
    }

    fn run(breaker: &Breaker, outcome: Outcome, now: Instant) -> Option<State> {
        let permit = breaker.enter(now).expect("let through");
        breaker.settle(permit, outcome, now)
    }

    /// `S`, `F` and `A` are the outcomes, one after the other; how many were taken before the state changed.
    fn opens_after(breaker: &Breaker, outcomes: &str, now: Instant) -> Option<usize> {
        let outcome = |letter| match letter {
            'S' => Outcome::Success,
            'F' => Outcome::Failure,
            _ => Outcome::Abandoned,
        };
        let changed = outcomes.chars().position(|letter| run(breaker, outcome(letter), now).is_some())?;
        assert_eq!(breaker.state(now), State::Open);
        Some(changed + 1)
    }

    /// Opened at `now` by three failures in a row.
    fn opened(settings: Settings, now: Instant) -> Breaker {
        let breaker = Breaker::new(Settings { consecutive_failures: Some(3), ..settings });
        assert_eq!(opens_after(&breaker, "FFF", now), Some(3));
        breaker
    }

    #[test]
    fn tells_what_it_goes_by() {
        let now = Instant::now();
        let breaker = Breaker::new(settings());
        assert_eq!(opens_after(&breaker, "SFFA", now), None);
        let counted = breaker.counted(now);
        assert_eq!((counted.results, counted.failures, counted.consecutive_failures), (3, 2, 2));
        let open = opened(settings(), now).counted(now + Duration::from_secs(4));
        assert_eq!(open.retry_in, Some(Duration::from_secs(6)));
        breaker.force(Forced::Open);
        assert_eq!(breaker.counted(now).forced, Some(State::Open));
        breaker.force(Forced::Closed);
        assert_eq!(breaker.counted(now).forced, Some(State::Closed));
    }

    #[test]
    fn what_a_window_of_time_has_forgotten_is_not_told() {
        let now = Instant::now();
        let time = Duration::from_secs(10);
        let breaker = Breaker::new(Settings { window: Window::Time(time), min_requests: 100, ..settings() });
        for second in 0..4 {
            run(&breaker, Outcome::Failure, now + Duration::from_secs(second));
        }
        for (second, failures) in [(3, 4), (9, 4), (10, 3), (12, 1), (13, 0), (99, 0)] {
            assert_eq!(breaker.counted(now + Duration::from_secs(second)).failures, failures, "{second}");
        }
    }

    #[test]
    fn opens_exactly_when_ten_of_twenty_failed() {
        let now = Instant::now();
        let cases = [
            ("FFFFFFFFFFSSSSSSSSSS", Some(20)),
            ("SSSSSSSSSSFFFFFFFFFF", Some(20)),
            ("FSFSFSFSFSFSFSFSFSFS", Some(20)),
            ("FFFFFFFFFSSSSSSSSSSS", None),
            ("FFFFFFFFFFFFFFFFFFF", None),
            ("FFFFFFFFFFSSSSSSSSSASAAS", Some(21)),
            // Nine of twenty each time the window moves on; then the tenth.
            ("FFFFFFFFFSSSSSSSSSSSFFFFFFFFFF", Some(30)),
            ("SSSSSSSSSSSSSSSSSSSSSSSSSSSSSSFFFFFFFFFSSSSSSSSSSSSSSS", None),
        ];
        for (outcomes, expected) in cases {
            assert_eq!(opens_after(&Breaker::new(settings()), outcomes, now), expected, "{outcomes}");
        }
    }

    #[test]
    fn a_ring_counts_what_the_last_results_hold() {
        let mut rng = fastrand::Rng::with_seed(7);
        for size in [1, 2, 20, 63, 64, 65, 200] {
            let mut ring = Ring::new(size);
            let mut all = Vec::new();
            for _ in 0..1000 {
                all.push(rng.bool());
                let counts = ring.push(all[all.len() - 1]);
                let last = &all[all.len().saturating_sub(size as usize)..];
                assert_eq!(counts.total as usize, last.len());
                assert_eq!(counts.failures as usize, last.iter().filter(|failed| **failed).count());
            }
        }
    }

    #[test]
    fn a_ratio_is_reached_exactly_as_written() {
        let now = Instant::now();
        let settings = Settings { window: Window::Requests(100), failure_ratio: 0.07, ..settings() };
        let outcomes = "F".repeat(7) + &"S".repeat(93);
        assert_eq!(opens_after(&Breaker::new(settings.clone()), &outcomes, now), Some(100));
        let outcomes = "F".repeat(6) + &"S".repeat(94);
        assert_eq!(opens_after(&Breaker::new(settings), &outcomes, now), None);
    }

    #[test]
    fn opens_after_failures_in_a_row_before_the_window_is_full() {
        let now = Instant::now();
        let settings = Settings { consecutive_failures: Some(5), ..settings() };
        for (outcomes, expected) in [("FFFFF", 5), ("FFFFSFFFFF", 10), ("FFFFAF", 6)] {
            let opened = opens_after(&Breaker::new(settings.clone()), outcomes, now);
            assert_eq!(opened, Some(expected), "{outcomes}");
        }
    }

    #[test]
    fn a_time_window_waits_for_enough_results() {
        let now = Instant::now();
        let window = Window::Time(Duration::from_secs(10));
        let breaker = Breaker::new(Settings { window, min_requests: 8, ..settings() });
        assert_eq!(opens_after(&breaker, "FFFFFFFF", now), Some(8));
    }

    #[test]
    fn a_time_window_forgets() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let window = Window::Time(Duration::from_secs(10));
        let build = || Breaker::new(Settings { window, min_requests: 5, ..settings() });

        let breaker = build();
        assert_eq!(opens_after(&breaker, "FFFF", at(0)), None);
        assert_eq!(opens_after(&breaker, "F", at(9_999)), Some(1), "still within the window");

        for later in [10_000, 25_500, 1_000_000] {
            let breaker = build();
            assert_eq!(opens_after(&breaker, "FFFF", at(0)), None);
            assert_eq!(opens_after(&breaker, "FFFF", at(later)), None, "the first four are forgotten");
            assert_eq!(opens_after(&breaker, "F", at(later + 9_000)), Some(1), "the next four are not");
        }
    }

    #[test]
    fn a_time_that_runs_backwards_counts_as_now() {
        let start = Instant::now();
        let window = Window::Time(Duration::from_secs(10));
        let breaker = Breaker::new(Settings { window, min_requests: 3, ..settings() });
        assert_eq!(run(&breaker, Outcome::Failure, start + Duration::from_secs(5)), None);
        assert_eq!(run(&breaker, Outcome::Failure, start + Duration::from_secs(8)), None);
        assert_eq!(run(&breaker, Outcome::Failure, start), Some(State::Open));
        assert_eq!(breaker.retry_after(start), Some(OPEN_FOR));
    }

    #[test]
    fn while_open_nothing_passes_and_the_wait_is_told() {
        let now = Instant::now();
        let breaker = opened(settings(), now);
        let almost = now + OPEN_FOR - Duration::from_millis(1);
        for (at, left) in [(now, OPEN_FOR), (almost, Duration::from_millis(1))] {
            assert!(!breaker.admits(at));
            assert!(breaker.enter(at).is_none());
            assert_eq!(breaker.state(at), State::Open);
            assert_eq!(breaker.retry_after(at), Some(left));
        }
    }

    #[test]
    fn after_a_while_a_few_probes_pass() {
        let now = Instant::now();
        let breaker = opened(settings(), now);
        let later = now + OPEN_FOR;
        assert!(breaker.admits(later));
        assert_eq!((breaker.state(later), breaker.retry_after(later)), (State::HalfOpen, None));
        let _probes: Vec<Permit> = (0..3).map(|_| breaker.enter(later).unwrap()).collect();
        assert!(!breaker.admits(later));
        assert!(breaker.enter(later).is_none());
        assert_eq!(
            (breaker.state(later), breaker.retry_after(later)),
            (State::HalfOpen, Some(Duration::ZERO))
        );
    }

    #[test]
    fn asking_whether_it_admits_reserves_nothing() {
        let now = Instant::now();
        let breaker = opened(Settings { half_open_requests: 1, ..settings() }, now);
        let later = now + OPEN_FOR;
        (0..100).for_each(|_| assert!(breaker.admits(later)));
        assert!(breaker.enter(later).is_some());
    }

    #[test]
    fn enough_successful_probes_close_it_with_an_empty_window() {
        let now = Instant::now();
        let breaker = Breaker::new(settings());
        assert_eq!(opens_after(&breaker, &"F".repeat(20), now), Some(20));
        let later = now + OPEN_FOR;
        assert_eq!(run(&breaker, Outcome::Success, later), None);
        assert_eq!(run(&breaker, Outcome::Success, later), Some(State::Closed));
        assert_eq!(breaker.state(later), State::Closed);
        assert_eq!(opens_after(&breaker, &"F".repeat(20), later), Some(20));
    }

    #[test]
    fn a_failed_probe_opens_it_again_for_the_whole_time() {
        let now = Instant::now();
        let breaker = opened(settings(), now);
        let later = now + OPEN_FOR * 3;
        assert_eq!(run(&breaker, Outcome::Success, later), None);
        assert_eq!(run(&breaker, Outcome::Failure, later), Some(State::Open));
        assert_eq!(breaker.retry_after(later), Some(OPEN_FOR));
        // The success before the failure no longer counts.
        let again = later + OPEN_FOR;
        assert_eq!(run(&breaker, Outcome::Success, again), None);
        assert_eq!(breaker.state(again), State::HalfOpen);
    }

    #[test]
    fn an_abandoned_probe_frees_its_slot_and_counts_nothing() {
        let now = Instant::now();
        let settings = Settings { half_open_requests: 1, success_threshold: 1, ..settings() };
        let breaker = opened(settings, now);
        let later = now + OPEN_FOR;
        for _ in 0..10 {
            let probe = breaker.enter(later).unwrap();
            assert!(breaker.enter(later).is_none());
            assert_eq!(breaker.settle(probe, Outcome::Abandoned, later), None);
            assert_eq!(breaker.state(later), State::HalfOpen);
        }
        assert_eq!(run(&breaker, Outcome::Success, later), Some(State::Closed));
    }

    #[test]
    fn results_from_before_a_change_are_ignored() {
        let now = Instant::now();
        let breaker = Breaker::new(Settings { consecutive_failures: Some(3), ..settings() });
        let sent_closed: Vec<Permit> = (0..10).map(|_| breaker.enter(now).unwrap()).collect();
        assert_eq!(opens_after(&breaker, "FFF", now), Some(3));
        let later = now + OPEN_FOR;
        let _probe = breaker.enter(later).unwrap();
        for (index, permit) in sent_closed.into_iter().enumerate() {
            let outcome = [Outcome::Failure, Outcome::Success][index % 2];
            assert_eq!(breaker.settle(permit, outcome, later), None);
        }
        assert_eq!(breaker.state(later), State::HalfOpen);

        // Nor do they free slots of probes they are not.
        let late = breaker.enter(later).unwrap();
        assert_eq!(run(&breaker, Outcome::Failure, later), Some(State::Open));
        let again = later + OPEN_FOR;
        let _probes: Vec<Permit> = (0..3).map(|_| breaker.enter(again).unwrap()).collect();
        assert_eq!(breaker.settle(late, Outcome::Success, again), None);
        assert!(!breaker.admits(again));
    }

    #[test]
    fn many_threads_never_get_more_probes_than_configured() {
        let now = Instant::now();
        let settings = Settings { success_threshold: u32::MAX, ..settings() };
        let breaker = opened(settings, now);
        let later = now + OPEN_FOR;
        let (under_way, let_through, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let barrier = Barrier::new(64);
        thread::scope(|scope| {
            for seed in 0..64 {
                let (breaker, under_way, let_through, most, barrier) =
                    (&breaker, &under_way, &let_through, &most, &barrier);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    barrier.wait();
                    for _ in 0..500 {
                        let Some(permit) = breaker.enter(later) else { continue };
                        most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let_through.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        under_way.fetch_sub(1, Ordering::SeqCst);
                        let outcome = if rng.bool() { Outcome::Success } else { Outcome::Abandoned };
                        breaker.settle(permit, outcome, later);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 3);
        assert!(let_through.into_inner() >= 3);
        let probes = (0..4).filter_map(|_| breaker.enter(later)).count();
        assert_eq!(probes, 3, "every slot was freed");
    }

    #[test]
    fn of_many_threads_at_the_same_moment_exactly_the_configured_number_pass() {
        let now = Instant::now();
        for _ in 0..20 {
            let breaker = opened(settings(), now);
            let barrier = Barrier::new(64);
            let passed: usize = thread::scope(|scope| {
                let enter = || {
                    barrier.wait();
                    breaker.enter(now + OPEN_FOR)
                };
                let threads: Vec<_> = (0..64).map(|_| scope.spawn(enter)).collect();
                let permits: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
                permits.iter().flatten().count()
            });
            assert_eq!(passed, 3);
        }
    }

    #[test]
    fn forced_open_stays_open_until_told_otherwise() {
        let now = Instant::now();
        let much_later = now + OPEN_FOR * 1000;
        for back in [Forced::Closed, Forced::Reset] {
            let breaker = Breaker::new(settings());
            let before = breaker.enter(now).unwrap();
            breaker.force(Forced::Open);
            assert_eq!(breaker.settle(before, Outcome::Success, now), None);
            assert!(!breaker.admits(much_later));
            assert!(breaker.enter(much_later).is_none());
            assert_eq!(breaker.state(much_later), State::Open);
            assert_eq!(breaker.retry_after(much_later), Some(OPEN_FOR));
            breaker.force(back);
            assert_eq!((breaker.state(now), breaker.retry_after(now)), (State::Closed, None));
            assert!(breaker.enter(now).is_some());
        }
    }

    #[test]
    fn forced_closed_lets_everything_through_until_reset() {
        let now = Instant::now();
        let breaker = opened(settings(), now);
        breaker.force(Forced::Closed);
        assert_eq!(opens_after(&breaker, &"F".repeat(100), now), None);
        breaker.force(Forced::Reset);
        assert_eq!(opens_after(&breaker, "FFF", now), Some(3));
    }

    #[test]
    fn settings_without_sense_neither_panic_nor_lock_up() {
        let now = Instant::now();
        for window in [Window::Requests(0), Window::Time(Duration::ZERO), Window::Time(Duration::MAX)] {
            let breaker = Breaker::new(Settings {
                window,
                failure_ratio: 0.0,
                min_requests: 0,
                consecutive_failures: Some(0),
                open_for: Duration::ZERO,
                half_open_requests: 0,
                success_threshold: 0,
            });
            assert_eq!(run(&breaker, Outcome::Success, now), None);
            assert_eq!(run(&breaker, Outcome::Failure, now), Some(State::Open));
            assert_eq!(run(&breaker, Outcome::Success, now), Some(State::Closed));
        }
        let breaker = opened(Settings { open_for: Duration::MAX, ..settings() }, now);
        assert!(!breaker.admits(now + OPEN_FOR * 1000));
    }
}
