//! Whether a client keeps up a least rate. A pause may be long and each of many pauses may be allowed, and still a client that
//! sends or takes one byte in each would hold a connection of an upstream for days.
//!
//! A client has credit: so much time for which it may be waited for. Waiting spends it, and each byte earns some. Only the time
//! counts in which nothing but the client is waited for: an upstream that is silent costs it nothing. The credit has a
//! bound, so that a fast beginning does not pay for a slow hour.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastRate {
    pub bytes_per_second: NonZeroU64,
    /// The credit at the beginning.
    pub grace: Duration,
    /// The most there may be.
    pub most: Duration,
}

#[derive(Debug, Default)]
pub struct Pace {
    rate: Option<LeastRate>,
    credit: Duration,
    /// Since when it has been waited for.
    since: Option<Instant>,
}

impl Pace {
    /// Any pace is fast enough with `None`.
    pub fn new(rate: Option<LeastRate>) -> Pace {
        Pace { rate, credit: rate.map_or(Duration::ZERO, |rate| rate.grace), since: None }
    }

    /// The client is waited for. When it will have been too slow, if nothing comes until then.
    ///
    /// `sharing` is how many requests share the client's connection: what that can carry is shared by them, so each is given
    /// so many times longer, up to `MOST_SHARING`.
    pub fn wait(&mut self, sharing: u32, now: Instant) -> Option<Instant> {
        self.rate?;
        self.spend(sharing, now);
        self.since = Some(now);
        now.checked_add(self.credit.saturating_mul(shared(sharing)))
    }

    /// Bytes have come, or gone. `now` is asked for only where there was a wait.
    pub fn progress(&mut self, bytes: u64, sharing: u32, now: impl FnOnce() -> Instant) {
        let Some(rate) = self.rate else { return };
        if self.since.is_some() {
            self.spend(sharing, now());
        }
        if self.credit < rate.most {
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.bytes_per_second.get());
            let earned = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.credit = self.credit.saturating_add(earned).min(rate.most);
        }
    }

    fn spend(&mut self, sharing: u32, now: Instant) {
        if let Some(since) = self.since.take() {
            let waited = now.saturating_duration_since(since) / shared(sharing);
            self.credit = self.credit.saturating_sub(waited);
        }
    }
}

/// Otherwise 100 streams would each hold a connection of an upstream for hours.
const MOST_SHARING: u32 = 16;

fn shared(sharing: u32) -> u32 {
    sharing.clamp(1, MOST_SHARING)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(most: u32) -> Pace {
        Pace::new(Some(LeastRate {
            bytes_per_second: NonZeroU64::new(100).unwrap(),
            grace: 5 * SECOND,
            most: most * SECOND,
        }))
    }

    /// Sends `bytes` each `every`, until it is too slow: after how many.
    fn lasts(pace: &mut Pace, bytes: u64, every: Duration, sharing: u32) -> Option<u32> {
        let start = Instant::now();
        (0..1000_u32).find(|n| {
            let due = pace.wait(sharing, start + every * *n).unwrap();
            let next = start + every * (n + 1);
            let is_late = due < next;
            pace.progress(bytes, sharing, || next);
            is_late
        })
    }

    #[test]
    fn a_client_at_the_least_rate_goes_on_and_one_below_it_does_not() {
        assert_eq!(lasts(&mut pace(60), 100, SECOND, 1), None);
        assert_eq!(lasts(&mut pace(60), 400, 4 * SECOND, 1), None, "in bursts");
        assert_eq!(lasts(&mut pace(60), 50, SECOND, 1), Some(9));
        assert_eq!(lasts(&mut pace(60), 1, 59 * SECOND, 1), Some(0));
        assert_eq!(lasts(&mut pace(60), 0, SECOND, 1), Some(5), "the grace is over");
    }

    #[test]
    fn a_fast_beginning_pays_for_a_pause_but_not_for_a_slow_hour() {
        let mut pace = pace(60);
        pace.progress(1 << 30, 1, Instant::now);
        assert_eq!(lasts(&mut pace, 1, 59 * SECOND, 1), Some(1));
    }

    #[test]
    fn time_in_which_it_is_not_waited_for_does_not_count() {
        let (mut pace, start) = (pace(60), Instant::now());
        assert_eq!(pace.wait(1, start), Some(start + 5 * SECOND));
        pace.progress(0, 1, || start + 3 * SECOND);
        assert_eq!(pace.wait(1, start + 3600 * SECOND), Some(start + 3602 * SECOND));
        // To be asked again is no new wait.
        assert_eq!(pace.wait(1, start + 3601 * SECOND), Some(start + 3602 * SECOND));
    }

    #[test]
    fn those_that_share_a_connection_share_its_rate() {
        assert_eq!(lasts(&mut pace(60), 10, SECOND, 10), None);
        assert_eq!(lasts(&mut pace(60), 1, 10 * SECOND, 10), Some(5));
    }

    #[test]
    fn without_a_rate_nothing_is_too_slow() {
        let mut pace = Pace::default();
        assert_eq!(pace.wait(1, Instant::now()), None);
        pace.progress(1, 1, || unreachable!());
    }
}
