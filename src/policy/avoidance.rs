//! Avoidance: an endpoint that cannot be reached, or that has fallen silent, is chosen last. One request at a time finds out
//! whether it is back, after pauses that grow, so that an endpoint that is down costs one request now and then.
//!
//! Unlike an ejection it takes nobody out: where there is no other endpoint, this one serves. It holds no clock: callers pass
//! `now`.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Until the first request finds out.
const FIRST: Duration = Duration::from_secs(1);
/// An endpoint that is back is found within this.
const LONGEST: Duration = Duration::from_secs(10);

/// Of one endpoint, shared by all threads that send to it.
#[derive(Debug)]
pub struct Avoidance {
    /// What `until` counts from: an `Instant` does not fit an atomic.
    base: Instant,
    /// Nanoseconds since `base`; 0 where it is not avoided, so that most ask no further.
    until: AtomicU64,
    /// Requests that have been sent to find out.
    probes: AtomicU32,
    /// It was found to be silent, which says more than that it could not be reached once.
    is_silent: AtomicBool,
}

impl Avoidance {
    pub fn new(now: Instant) -> Avoidance {
        Avoidance {
            base: now,
            until: AtomicU64::new(0),
            probes: AtomicU32::new(0),
            is_silent: AtomicBool::new(false),
        }
    }

    /// Whether anything speaks against it, its next probe being due or not.
    pub fn is_on(&self) -> bool {
        self.until.load(Relaxed) != 0
    }

    /// Whether silence speaks against it.
    pub fn is_for_silence(&self) -> bool {
        self.is_on() && self.is_silent.load(Relaxed)
    }

    /// Whether it is to be chosen only where there is no other.
    pub fn avoids(&self, now: Instant) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && self.nanos(now) < until
    }

    /// A request is about to be sent there. False where another one is finding out just now. While it is avoided, whoever comes
    /// has nowhere else to go.
    pub fn enter(&self, now: Instant) -> bool {
        let until = self.until.load(Relaxed);
        if until == 0 || self.nanos(now) < until {
            return true;
        }
        // Nobody else is to come while this one waits. If nothing is heard of it, the next one finds out.
        let next = self.nanos(now + pause(self.probes.load(Relaxed).saturating_add(1)));
        let won = self.until.compare_exchange(until, next, Relaxed, Relaxed).is_ok();
        if won {
            self.probes.fetch_add(1, Relaxed);
        }
        won
    }

    /// It could not be reached. Whether that is new.
    pub fn failed(&self, now: Instant) -> bool {
        let until = self.nanos(now + pause(self.probes.load(Relaxed)));
        self.until.fetch_max(until, Relaxed) == 0
    }

    /// It does not answer. Whether it is new that anything speaks against it.
    pub fn fell_silent(&self, now: Instant) -> bool {
        self.is_silent.store(true, Relaxed);
        self.failed(now)
    }

    /// There is a connection to it. Whether that was all that had spoken against it: one that was silent may still be so.
    pub fn reached(&self) -> bool {
        self.is_on() && !self.is_silent.load(Relaxed) && self.answered()
    }

    /// It has answered, whatever it said. Whether anything had spoken against it.
    pub fn answered(&self) -> bool {
        // Read first: a healthy endpoint's cache line stays shared between the cores.
        if self.until.load(Relaxed) == 0 {
            return false;
        }
        self.probes.store(0, Relaxed);
        self.is_silent.store(false, Relaxed);
        self.until.swap(0, Relaxed) != 0
    }

    /// Never 0, which means that it is not avoided.
    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }
}

/// 1, 2, 4, 8 and 10 seconds.
fn pause(probes: u32) -> Duration {
    FIRST.saturating_mul(1_u32.checked_shl(probes).unwrap_or(u32::MAX)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn one_that_failed_is_chosen_last_until_it_answers() {
        let now = Instant::now();
        let avoidance = Avoidance::new(now);
        assert!(!avoidance.avoids(now) && avoidance.enter(now) && !avoidance.answered());
        assert!(avoidance.failed(now) && !avoidance.failed(now), "it is new once");
        assert!(avoidance.avoids(now) && avoidance.is_on());
        assert!(avoidance.enter(now), "whoever comes all the same has nowhere else to go");
        assert!(avoidance.answered());
        assert!(!avoidance.avoids(now) && !avoidance.is_on() && !avoidance.answered());
    }

    #[test]
    fn a_connection_is_enough_where_there_was_none_and_says_nothing_of_silence() {
        let now = Instant::now();
        let avoidance = Avoidance::new(now);
        assert!(!avoidance.reached());
        avoidance.failed(now);
        assert!(avoidance.reached() && !avoidance.is_on() && !avoidance.reached());
        avoidance.fell_silent(now);
        assert!(!avoidance.reached() && avoidance.is_on());
        assert!(avoidance.answered() && !avoidance.is_on());
    }

    #[test]
    fn one_that_could_not_be_reached_is_not_silent_for_that() {
        let now = Instant::now();
        let avoidance = Avoidance::new(now);
        avoidance.failed(now);
        assert!(!avoidance.is_for_silence());
        assert!(!avoidance.fell_silent(now), "it was avoided before");
        assert!(avoidance.is_for_silence());
        avoidance.answered();
        assert!(!avoidance.is_for_silence());
        avoidance.failed(now);
        assert!(!avoidance.is_for_silence());
    }

    #[test]
    fn one_request_at_a_time_finds_out_after_pauses_that_grow() {
        let mut now = Instant::now();
        let avoidance = Avoidance::new(now);
        avoidance.failed(now);
        for pause in [1.0, 2.0, 4.0, 8.0, 10.0, 10.0] {
            assert!(avoidance.avoids(now + seconds(pause - 0.01)), "{pause}");
            now += seconds(pause);
            assert!(!avoidance.avoids(now), "{pause}");
            assert!(avoidance.enter(now), "{pause}: the first finds out");
            assert!(avoidance.avoids(now), "{pause}: and the others stay away");
            avoidance.failed(now);
        }
    }

    #[test]
    fn of_several_that_come_at_once_one_finds_out() {
        let now = Instant::now();
        let avoidance = Avoidance::new(now);
        avoidance.failed(now);
        let due = now + FIRST;
        let until = avoidance.until.load(Relaxed);
        assert!(avoidance.enter(due));
        // Another looked before the first had entered.
        assert!(avoidance.until.compare_exchange(until, 1, Relaxed, Relaxed).is_err());
    }

    #[test]
    fn one_that_nothing_is_heard_of_is_followed_by_another() {
        let now = Instant::now();
        let avoidance = Avoidance::new(now);
        avoidance.failed(now);
        assert!(avoidance.enter(now + FIRST));
        let next = now + FIRST + 2 * FIRST;
        assert!(!avoidance.avoids(next) && avoidance.enter(next));
    }

    #[test]
    fn those_that_were_under_way_make_no_pause_longer() {
        let now = Instant::now();
        let avoidance = Avoidance::new(now);
        for _ in 0..100 {
            avoidance.failed(now);
        }
        assert!(!avoidance.avoids(now + FIRST));
    }

    #[test]
    fn it_counts_from_the_beginning_again_after_an_answer() {
        let now = Instant::now();
        let avoidance = Avoidance::new(now);
        avoidance.failed(now);
        assert!(avoidance.enter(now + FIRST));
        avoidance.answered();
        avoidance.failed(now);
        assert!(!avoidance.avoids(now + FIRST));
    }
}
