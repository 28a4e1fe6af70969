//! When something that ends, and that somebody else issues anew, is fetched again: before it ends, with time left for fetches that fail,
//! and not by all gateways at once.

use std::time::Duration;

use super::backoff::Backoff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// No longer than this from one fetch to the next.
    pub every: Duration,
}

/// However soon it ends.
const LEAST: Duration = Duration::from_secs(1);
const RETRY: Backoff = Backoff { base: Duration::from_secs(2), max: Duration::from_secs(300) };

impl Freshness {
    /// How long to wait after a fetch. `ends_in` is how long what we have still lasts, `failures` how many fetches have failed in a row.
    pub fn wait(&self, ends_in: Option<Duration>, failures: u32, rng: &mut fastrand::Rng) -> Duration {
        let half = ends_in.map_or(self.every, |left| left / 2);
        let regular = self.every.min(half).mul_f64(0.9 + 0.1 * rng.f64()).max(LEAST);
        if failures == 0 { regular } else { RETRY.delay(failures, rng).max(LEAST).min(self.every.max(LEAST)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_fetched_at_half_of_what_is_left_and_at_least_that_often() {
        let (freshness, mut rng) =
            (Freshness { every: Duration::from_secs(3600) }, fastrand::Rng::with_seed(7));
        for (left, longest) in
            [(None, 3600), (Some(86_400), 3600), (Some(600), 300), (Some(1), 1), (Some(0), 1)]
        {
            let wait = freshness.wait(left.map(Duration::from_secs), 0, &mut rng);
            let longest = Duration::from_secs(longest);
            assert!(wait <= longest && wait >= longest.mul_f64(0.9).min(longest), "{left:?}: {wait:?}");
        }
    }

    #[test]
    fn after_failures_it_is_tried_again_soon_and_then_less_often() {
        let (freshness, mut rng) =
            (Freshness { every: Duration::from_secs(3600) }, fastrand::Rng::with_seed(7));
        for failures in 1..40 {
            let wait = freshness.wait(None, failures, &mut rng);
            assert!(wait >= LEAST && wait <= RETRY.ceiling(failures), "{failures}: {wait:?}");
        }
        assert!(
            Freshness { every: Duration::from_secs(5) }.wait(None, 30, &mut rng) <= Duration::from_secs(5)
        );
    }
}
