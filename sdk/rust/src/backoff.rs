//! How long to wait before the next try: full jitter, so that those who lost the control plane at the same moment do not
//! come back at the same moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
pub(crate) const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// After another failure: anything up to a bound that doubles, and is never more than `most`.
    pub(crate) fn next(&mut self, most: Duration, rng: &mut fastrand::Rng) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST).min(most);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(rng.f64())
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// 10 % sooner or later, so that heartbeats spread.
pub(crate) fn about(every: Duration, rng: &mut fastrand::Rng) -> Duration {
    every.mul_f64(0.9 + 0.2 * rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound_and_begins_anew() {
        let mut rng = fastrand::Rng::with_seed(7);
        let most = Duration::from_secs(10);
        let mut longest = |failures: u32| {
            let tries = (0..200).map(|_| Backoff { failures }.next(most, &mut rng));
            tries.max().unwrap()
        };
        for (failures, bound) in [(0, 0.25), (1, 0.5), (3, 2.0), (5, 8.0), (6, 10.0), (u32::MAX, 10.0)] {
            let longest = longest(failures).as_secs_f64();
            assert!(longest <= bound && longest > bound * 0.9, "{failures}: {longest} of {bound}");
        }
        let mut backoff = Backoff { failures: 9 };
        backoff.reset();
        assert!(backoff.next(most, &mut rng) <= FIRST);
        assert_eq!(backoff.failures, 1);
    }

    #[test]
    fn heartbeats_are_a_tenth_sooner_or_later() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let wait = about(Duration::from_secs(10), &mut rng).as_secs_f64();
            assert!((9.0..=11.0).contains(&wait), "{wait}");
        }
    }
}
