//! A token bucket by the generic cell rate algorithm (GCRA; ITU-T I.371, appendix): instead of tokens and when they
//! were counted last, one number is kept, the theoretical arrival time. It is the moment at which the bucket will be
//! full again. So a bucket is one atomic, deciding is one exchange, and nothing has to refill it.
//!
//! Times are nanoseconds since an origin that the caller chooses. `now` may run a little backwards between threads.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How fast a bucket fills, and how much fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Nanoseconds in which one token drips in.
    interval: u64,
    /// Tokens of a full bucket.
    burst: u64,
}

/// Why there is no such limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// More than [`Limit::FASTEST`] per second.
    TooFast,
    /// None, or more than [`Limit::LARGEST`].
    Burst,
    /// More than [`Limit::LARGEST_QUOTA`].
    Quota,
}

impl Limit {
    /// Per second. Intervals are whole nanoseconds: here they are still exact to 0.05 %.
    pub const FASTEST: u64 = 1_000_000;
    /// A bucket of this size that fills once an hour is full in 114 years, which 64 bits of nanoseconds still hold.
    pub const LARGEST: u64 = 1_000_000;

    /// A thousand million buckets of this size, one after the other, are what 64 bits hold.
    pub const LARGEST_QUOTA: u64 = 10_000_000;

    /// `count` tokens, for a clock that stands still while they last.
    ///
    /// # Errors
    ///
    /// It is out of range.
    pub fn quota(count: u64) -> Result<Limit, Unusable> {
        // Whole microseconds, as Redis is told them.
        let usable = (1..=Limit::LARGEST_QUOTA).contains(&count);
        usable.then_some(Limit { interval: 1000, burst: count }).ok_or(Unusable::Quota)
    }

    /// `count` tokens in each `period`, of which `burst` may be taken at once.
    ///
    /// # Errors
    ///
    /// The numbers are out of range.
    pub fn new(count: u64, period: Duration, burst: u64) -> Result<Limit, Unusable> {
        let period = period.as_nanos();
        let count = u128::from(count.max(1));
        let interval = (period + count / 2) / count;
        if u128::from(Limit::FASTEST) * period < count * 1_000_000_000 {
            return Err(Unusable::TooFast);
        }
        if !(1..=Limit::LARGEST).contains(&burst) {
            return Err(Unusable::Burst);
        }
        // Longer periods than an hour are not written anywhere; what they would be is still a limit.
        Ok(Limit { interval: u64::try_from(interval).unwrap_or(u64::MAX / Limit::LARGEST), burst })
    }

    /// So many a second, all of which may come at once; from 1 to [`Limit::FASTEST`].
    pub const fn per_second(count: u32) -> Limit {
        let count = if count == 0 { 1 } else { count as u64 };
        Limit { interval: 1_000_000_000 / count, burst: count }
    }

    /// Half as much in the same time, and at least one at once.
    pub const fn half(&self) -> Limit {
        let burst = if self.burst < 2 { 1 } else { self.burst / 2 };
        Limit { interval: self.interval.saturating_mul(2), burst }
    }

    pub const fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    /// The time in which an empty bucket fills.
    pub const fn depth(&self) -> Duration {
        Duration::from_nanos(self.depth_ns())
    }

    const fn depth_ns(&self) -> u64 {
        self.interval.saturating_mul(self.burst)
    }

    /// What it means for a request of this cost that the bucket will be full in `full_in`, with the cost taken where
    /// it was `allowed`.
    pub fn decision(&self, allowed: bool, full_in: Duration, cost: u64) -> Decision {
        let full_in_ns = u64::try_from(full_in.as_nanos()).unwrap_or(u64::MAX);
        let missing = full_in_ns.saturating_add(self.interval.saturating_mul(cost));
        let retry_after = if allowed { 0 } else { missing.saturating_sub(self.depth_ns()) };
        Decision {
            allowed,
            remaining: self.depth_ns().saturating_sub(full_in_ns) / self.interval.max(1),
            retry_after: Duration::from_nanos(retry_after),
            reset_after: full_in,
        }
    }
}

/// What a limit says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// How many more of cost 1 would be allowed now.
    pub remaining: u64,
    /// When the same request would be allowed if nothing else came; zero if it is now.
    pub retry_after: Duration,
    /// When the whole burst would be allowed again.
    pub reset_after: Duration,
}

/// Full at first.
#[derive(Debug, Default)]
pub struct Bucket {
    full_at: AtomicU64,
}

impl Bucket {
    /// Take `cost` tokens, or none if there are fewer. Exact for any number of threads: each token is taken once.
    pub fn decide(&self, limit: &Limit, now: u64, cost: u64) -> Decision {
        let mut full_at = self.full_at.load(Relaxed);
        loop {
            let after = full_at.max(now).saturating_add(limit.interval.saturating_mul(cost));
            if after - now > limit.depth_ns() {
                return limit.decision(false, Duration::from_nanos(full_at.saturating_sub(now)), cost);
            }
            match self.full_at.compare_exchange_weak(full_at, after, Relaxed, Relaxed) {
                Ok(_) => return limit.decision(true, Duration::from_nanos(after - now), cost),
                Err(other) => full_at = other,
            }
        }
    }

    /// What `decide` would say, without taking anything.
    pub fn look(&self, limit: &Limit, now: u64, cost: u64) -> Decision {
        let full_in = self.full_at().saturating_sub(now);
        let allowed = full_in.saturating_add(limit.interval.saturating_mul(cost)) <= limit.depth_ns();
        limit.decision(allowed, Duration::from_nanos(full_in), cost)
    }

    /// When it is full again.
    pub fn full_at(&self) -> u64 {
        self.full_at.load(Relaxed)
    }

    /// Somebody else knows that it is not full before.
    pub fn not_full_before(&self, full_at: u64) {
        self.full_at.fetch_max(full_at, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    fn limit(count: u64, burst: u64) -> Limit {
        Limit::new(count, Duration::from_secs(1), burst).unwrap()
    }

    #[test]
    fn allows_a_burst_and_then_one_for_each_interval() {
        let (limit, bucket) = (limit(100, 3), Bucket::default());
        let remaining: Vec<u64> = (0..3).map(|_| bucket.decide(&limit, SECOND, 1).remaining).collect();
        assert_eq!(remaining, [2, 1, 0]);
        let denied = bucket.decide(&limit, SECOND + 4 * MS, 1);
        assert_eq!((denied.allowed, denied.retry_after), (false, Duration::from_millis(6)));
        assert_eq!(denied.reset_after, Duration::from_millis(26));
        assert!(!bucket.decide(&limit, SECOND + 10 * MS - 1, 1).allowed);
        assert!(bucket.decide(&limit, SECOND + 10 * MS, 1).allowed);
        assert!(!bucket.decide(&limit, SECOND + 10 * MS, 1).allowed);
    }

    #[test]
    fn a_long_silence_fills_it_once_and_no_more() {
        let (limit, bucket) = (limit(10, 5), Bucket::default());
        let allowed = |now| (0..20).filter(|_| bucket.decide(&limit, now, 1).allowed).count();
        assert_eq!(allowed(0), 5);
        assert_eq!(allowed(3600 * SECOND), 5);
    }

    #[test]
    fn what_is_denied_costs_nothing() {
        let (limit, bucket) = (limit(10, 1), Bucket::default());
        bucket.decide(&limit, 0, 1);
        (0..1000).for_each(|_| assert!(!bucket.decide(&limit, 50 * MS, 1).allowed));
        assert!(bucket.decide(&limit, 100 * MS, 1).allowed);
    }

    #[test]
    fn a_cost_is_taken_whole_or_not_at_all() {
        let (limit, bucket) = (limit(10, 5), Bucket::default());
        assert_eq!(bucket.decide(&limit, 0, 3).remaining, 2);
        let denied = bucket.decide(&limit, 0, 3);
        assert_eq!((denied.remaining, denied.retry_after), (2, Duration::from_millis(100)));
        assert!(bucket.decide(&limit, 0, 2).allowed);
        assert!(!bucket.decide(&limit, 3600 * SECOND, 6).allowed, "more than ever fits");
    }

    #[test]
    fn looking_takes_nothing() {
        let (limit, bucket) = (limit(10, 1), Bucket::default());
        assert!(bucket.look(&limit, 0, 1).allowed && bucket.look(&limit, 0, 1).allowed);
        bucket.not_full_before(100 * MS);
        assert_eq!(bucket.look(&limit, 0, 1), bucket.decide(&limit, 0, 1));
        bucket.not_full_before(10 * MS);
        assert_eq!(bucket.full_at(), 100 * MS);
    }

    #[test]
    fn sixty_four_clients_get_what_is_allowed_within_a_percent() {
        const CLIENTS: u64 = 64;
        let (limit, bucket, clock) = (limit(100, 10), Bucket::default(), AtomicU64::new(0));
        let allowed: usize = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        // Ten requests in each millisecond, a hundred times what is allowed.
                        let nows = std::iter::repeat_with(|| clock.fetch_add(MS / 10, Relaxed));
                        let nows = nows.take_while(|now| *now < 10 * SECOND);
                        nows.filter(|now| bucket.decide(&limit, *now, 1).allowed).count()
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        let exact = 10 + 10 * 100;
        assert!(allowed.abs_diff(exact) <= exact / 100, "{allowed} instead of {exact}");
    }

    #[test]
    fn one_instant_gives_no_thread_a_token_of_anothers() {
        let (limit, bucket) = (limit(1, 1000), Bucket::default());
        let allowed: usize = thread::scope(|scope| {
            let client = || (0..100).filter(|_| bucket.decide(&limit, SECOND, 1).allowed).count();
            let clients: Vec<_> = (0..64).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        assert_eq!(allowed, 1000);
    }

    #[test]
    fn refuses_what_it_cannot_count() {
        let limit = |count, burst| Limit::new(count, Duration::from_secs(1), burst);
        assert!(limit(Limit::FASTEST, 1).is_ok());
        assert_eq!(limit(Limit::FASTEST + 1, 1), Err(Unusable::TooFast));
        assert_eq!(limit(u64::MAX, 1), Err(Unusable::TooFast));
        assert_eq!(limit(1, 0), Err(Unusable::Burst));
        assert_eq!(limit(1, Limit::LARGEST + 1), Err(Unusable::Burst));
    }

    #[test]
    fn the_slowest_and_largest_does_not_overflow() {
        let limit = Limit::new(1, Duration::from_secs(3600), Limit::LARGEST).unwrap();
        let bucket = Bucket::default();
        let now = 100 * 365 * 24 * 3600 * SECOND;
        assert!(bucket.decide(&limit, now, Limit::LARGEST).allowed);
        assert!(!bucket.decide(&limit, now, u64::MAX).allowed);
        assert_eq!(bucket.decide(&limit, now, 1).retry_after, Duration::from_secs(3600));
    }
}
