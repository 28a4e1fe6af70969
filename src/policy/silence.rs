//! Silence: whether an endpoint that owes answers has stopped to give them, as a host does that hangs or whose packets are lost.
//! Nothing fails there until a timeout, which is far longer than anybody wants to wait.
//!
//! What is long for one application is usual for another. So silence is measured by the slowest answers of late, and an endpoint
//! is not judged by one answer that it owes. It holds no clock: callers pass `now`.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Fewer answers than this are owed by an endpoint that is merely slow.
const ENOUGH: usize = 5;
/// Four times as long as the slowest answer of late is unusual enough to leave.
const SLOWER: u32 = 4;
/// Of `max_silence`: an endpoint is chosen last sooner than requests leave it, as that costs nobody anything.
const SOONER: u32 = 20;
/// How long an answer is of late: this long at least, twice as long at most.
const LATELY: Duration = Duration::from_secs(30);

/// What one endpoint owes, and when it was last heard. All that its threads write for each request is here.
#[derive(Debug)]
pub struct Silence {
    /// What the times count from, in nanoseconds: an `Instant` does not fit an atomic.
    base: Instant,
    owed: AtomicUsize,
    /// When it last came to owe anything, or enough.
    asked: AtomicU64,
    /// The last answer; 0 where there was none.
    answered: AtomicU64,
}

impl Silence {
    pub fn new(now: Instant) -> Silence {
        Silence {
            base: now,
            owed: AtomicUsize::new(0),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    /// A request is sent that is to be answered at once.
    pub fn asked(&self, now: Instant) {
        let before = self.owed.fetch_add(1, Relaxed);
        if before == 0 || before == ENOUGH - 1 {
            self.asked.store(self.nanos(now), Relaxed);
        }
    }

    /// It is owed no longer, answered or not.
    pub fn settled(&self) {
        self.owed.fetch_sub(1, Relaxed);
    }

    /// It has shown that it lives.
    pub fn heard(&self, now: Instant) {
        self.answered.store(self.nanos(now).max(1), Relaxed);
    }

    /// Whether the next request had better go elsewhere: it owes enough, and is [quiet](Silence::is_quiet).
    pub fn is_suspect(&self, pace: &Pace, least: Duration, now: Instant) -> bool {
        self.owed.load(Relaxed) >= ENOUGH && self.is_quiet(pace, least, now)
    }

    /// Whether it was not heard of for longer than is usual, and for `least`.
    pub fn is_quiet(&self, pace: &Pace, least: Duration, now: Instant) -> bool {
        self.lasts(now) >= pace.slowest().max(least)
    }

    /// Whether those that wait for an answer had better ask elsewhere, where the endpoint is suspect.
    pub fn is_hopeless(&self, pace: &Pace, max_silence: Duration, now: Instant) -> bool {
        let usual = pace.slowest().saturating_mul(SLOWER);
        self.owed.load(Relaxed) > 0 && self.lasts(now) >= usual.max(max_silence)
    }

    /// Whether `other` has answered since this one fell silent: what keeps both silent is no fault of this one. Of those that
    /// were asked together, one may give its last answer a little before the other does.
    pub fn is_outlived_by(&self, other: &Silence, max_silence: Duration) -> bool {
        let slack = nanos(sooner(max_silence));
        let since = self.asked.load(Relaxed).max(self.answered.load(Relaxed).saturating_sub(slack));
        let answered = other.answered.load(Relaxed);
        answered != 0
            && other.base + Duration::from_nanos(answered) >= self.base + Duration::from_nanos(since)
    }

    fn lasts(&self, now: Instant) -> Duration {
        let heard = self.asked.load(Relaxed).max(self.answered.load(Relaxed));
        Duration::from_nanos(self.nanos(now).saturating_sub(heard))
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.base))
    }
}

/// After so long an endpoint that is silent is chosen last.
pub fn sooner(max_silence: Duration) -> Duration {
    max_silence / SOONER
}

/// The slowest answers of late, of all endpoints of an upstream: what silence is measured by.
#[derive(Debug)]
pub struct Pace {
    base: Instant,
    /// Nanoseconds since `base`.
    since: AtomicU64,
    /// Nanoseconds: the slowest since then, and the slowest in as long a time before.
    slowest: AtomicU64,
    before: AtomicU64,
}

impl Pace {
    pub fn new(now: Instant) -> Pace {
        let [since, slowest, before] = [0; 3].map(AtomicU64::new);
        Pace { base: now, since, slowest, before }
    }

    /// An answer took so long. Hardly ever writes.
    pub fn observe(&self, took: Duration, now: Instant) {
        let at = nanos(now.saturating_duration_since(self.base));
        let since = self.since.load(Relaxed);
        if at.saturating_sub(since) > nanos(LATELY)
            && self.since.compare_exchange(since, at, Relaxed, Relaxed).is_ok()
        {
            self.before.store(self.slowest.swap(0, Relaxed), Relaxed);
        }
        let took = nanos(took);
        if took > self.slowest.load(Relaxed) {
            self.slowest.fetch_max(took, Relaxed);
        }
    }

    fn slowest(&self) -> Duration {
        Duration::from_nanos(self.slowest.load(Relaxed).max(self.before.load(Relaxed)))
    }
}

/// More than 584 years do not fit, and are as good as for ever.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(1);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn asked(times: usize, now: Instant) -> Silence {
        let silence = Silence::new(now);
        (0..times).for_each(|_| silence.asked(now));
        silence
    }

    #[test]
    fn one_that_owes_several_answers_and_says_nothing_is_suspect_soon_and_hopeless_later() {
        let now = Instant::now();
        let (silence, pace) = (asked(ENOUGH, now), Pace::new(now));
        assert!(!silence.is_suspect(&pace, sooner(MOST), now + millis(49)));
        assert!(silence.is_suspect(&pace, sooner(MOST), now + millis(50)));
        assert!(!silence.is_hopeless(&pace, MOST, now + millis(999)));
        assert!(silence.is_hopeless(&pace, MOST, now + millis(1000)));
    }

    #[test]
    fn one_that_owes_a_few_answers_may_be_slow() {
        let now = Instant::now();
        let (silence, pace) = (asked(ENOUGH - 1, now), Pace::new(now));
        assert!(!silence.is_suspect(&pace, sooner(MOST), now + millis(60_000)));
        let later = now + millis(5000);
        silence.asked(later);
        assert!(!silence.is_suspect(&pace, sooner(MOST), later + millis(49)), "only now enough is owed");
        assert!(!silence.is_hopeless(&pace, MOST, later + millis(999)));
        assert!(silence.is_suspect(&pace, sooner(MOST), later + millis(50)));
    }

    #[test]
    fn what_is_slow_everywhere_is_no_silence_of_one() {
        let now = Instant::now();
        let (silent, other) = (asked(ENOUGH, now), Silence::new(now - millis(5)));
        assert!(!silent.is_outlived_by(&other, MOST), "it has never answered");
        other.heard(now - millis(1));
        (0..ENOUGH).for_each(|_| other.asked(now));
        assert!(!silent.is_outlived_by(&other, MOST), "it owes as well");
        other.heard(now + millis(1));
        assert!(silent.is_outlived_by(&other, MOST));
        silent.heard(now + millis(52));
        assert!(!silent.is_outlived_by(&other, MOST), "the one that is judged has answered later");
        other.heard(now + millis(2));
        assert!(silent.is_outlived_by(&other, MOST), "about at the same time");
    }

    #[test]
    fn any_answer_breaks_the_silence() {
        let now = Instant::now();
        let (silence, pace) = (asked(100, now), Pace::new(now));
        silence.settled();
        silence.heard(now + millis(950));
        assert!(!silence.is_suspect(&pace, sooner(MOST), now + millis(999)));
        assert!(!silence.is_hopeless(&pace, MOST, now + millis(1900)));
        assert!(silence.is_hopeless(&pace, MOST, now + millis(1950)));
    }

    #[test]
    fn one_that_owes_nothing_is_not_silent_and_begins_anew() {
        let now = Instant::now();
        let (silence, pace) = (asked(ENOUGH, now), Pace::new(now));
        (0..ENOUGH).for_each(|_| silence.settled());
        let later = now + millis(60_000);
        assert!(!silence.is_suspect(&pace, sooner(MOST), later) && !silence.is_hopeless(&pace, MOST, later));
        (0..ENOUGH).for_each(|_| silence.asked(later));
        assert!(!silence.is_suspect(&pace, sooner(MOST), later), "it was not asked anything before");
    }

    #[test]
    fn where_answers_take_long_silence_does_too() {
        let now = Instant::now();
        let (silence, pace) = (asked(ENOUGH, now), Pace::new(now));
        pace.observe(millis(400), now);
        assert!(!silence.is_suspect(&pace, sooner(MOST), now + millis(399)));
        assert!(silence.is_suspect(&pace, sooner(MOST), now + millis(400)));
        pace.observe(millis(2000), now);
        assert!(!silence.is_suspect(&pace, sooner(MOST), now + millis(1999)));
        assert!(silence.is_suspect(&pace, sooner(MOST), now + millis(2000)));
        assert!(!silence.is_hopeless(&pace, MOST, now + millis(7999)));
        assert!(silence.is_hopeless(&pace, MOST, now + millis(8000)));
    }

    #[test]
    fn the_pace_is_that_of_late() {
        let now = Instant::now();
        let pace = Pace::new(now);
        pace.observe(millis(2000), now);
        pace.observe(millis(1), now + LATELY + millis(1));
        assert_eq!(pace.slowest(), millis(2000), "not so long ago");
        pace.observe(millis(1), now + 2 * LATELY + millis(2));
        assert_eq!(pace.slowest(), millis(1));
    }
}
