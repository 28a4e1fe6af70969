//! How long to wait before a retry: exponential, with full jitter. Each wait is drawn from nothing up to a ceiling
//! that doubles, so that those who failed together do not come back together.
//! Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest wait before the first retry; zero retries at once, always.
    pub base: Duration,
    /// Longest wait before any.
    pub max: Duration,
}

impl Backoff {
    /// The wait before the `retry`th retry, the first being 1: uniform from 0 to `ceiling(retry)`, both included.
    pub fn delay(&self, retry: u32, rng: &mut fastrand::Rng) -> Duration {
        let ceiling = u64::try_from(self.ceiling(retry).as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(rng.u64(0..=ceiling))
    }

    /// The longest that `delay` may answer: `base` times 2 for each retry after the first, but at most `max`.
    pub fn ceiling(&self, retry: u32) -> Duration {
        let doublings = retry.saturating_sub(1);
        match 1_u32.checked_shl(doublings).and_then(|factor| self.base.checked_mul(factor)) {
            Some(ceiling) => ceiling.min(self.max),
            // After 32 doublings even a nanosecond is four seconds: only zero is still far from any limit.
            None if self.base.is_zero() => Duration::ZERO,
            None => self.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const BACKOFF: Backoff = Backoff { base: millis(25), max: millis(1000) };

    #[test]
    fn the_ceiling_doubles_up_to_the_limit() {
        let ceilings = [25, 50, 100, 200, 400, 800, 1000, 1000];
        for (retry, ceiling) in (1..).zip(ceilings) {
            assert_eq!(BACKOFF.ceiling(retry), millis(ceiling), "retry {retry}");
        }
        assert_eq!(BACKOFF.ceiling(0), millis(25));
    }

    #[test]
    fn never_overflows() {
        for retry in [32, 33, 64, 65, u32::MAX] {
            assert_eq!(BACKOFF.ceiling(retry), millis(1000));
            assert_eq!(Backoff { base: Duration::ZERO, ..BACKOFF }.ceiling(retry), Duration::ZERO);
        }
        let endless = Backoff { base: Duration::MAX, max: Duration::MAX };
        assert_eq!(endless.ceiling(2), Duration::MAX);
        endless.delay(u32::MAX, &mut fastrand::Rng::with_seed(7));
    }

    #[test]
    fn waits_are_spread_evenly_from_nothing_to_the_ceiling() {
        let mut rng = fastrand::Rng::with_seed(7);
        for retry in 1..=8 {
            let ceiling = BACKOFF.ceiling(retry);
            let mut tenths = [0; 10];
            for _ in 0..10_000 {
                let delay = BACKOFF.delay(retry, &mut rng);
                assert!(delay <= ceiling);
                tenths[((delay.as_nanos() * 10 / ceiling.as_nanos()) as usize).min(9)] += 1;
            }
            assert!(tenths.iter().all(|count| (850..1150).contains(count)), "retry {retry}: {tenths:?}");
        }
    }

    #[test]
    fn a_base_above_the_limit_is_the_limit() {
        assert_eq!(Backoff { base: millis(25), max: millis(10) }.ceiling(1), millis(10));
    }
}
