//! Recent failures: a failed try counts as one that lasts a second. An endpoint that fails at once never has much in flight,
//! so a balancer that goes by that would take it for the fastest of all and send it the most.

use std::time::{Duration, Instant};

use super::fading::Fading;

/// A failed try counts as one that took this long, for balancers that go by requests in flight or by response times.
pub const FAILED: Duration = Duration::from_secs(1);

/// Of one endpoint.
#[derive(Debug)]
pub struct RecentFailures(Fading);

impl RecentFailures {
    pub fn new(now: Instant) -> RecentFailures {
        // One that fades over this time weighs as much, over time, as one that is there for as long and then gone.
        RecentFailures(Fading::new(FAILED, now))
    }

    pub fn failed(&self, now: Instant) {
        self.0.change(now, |value, kept| value * kept + 1.0);
    }

    /// How many count at `now`.
    pub fn count(&self, now: Instant) -> usize {
        // `as` stops at the end of the type.
        self.0.value(now).round() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counts_for_about_a_second() {
        let start = Instant::now();
        let failures = RecentFailures::new(start);
        assert_eq!(failures.count(start), 0);
        failures.failed(start);
        assert_eq!((failures.count(start), failures.count(start + FAILED)), (1, 0));
    }

    #[test]
    fn a_steady_stream_counts_as_many_as_a_second_holds() {
        let start = Instant::now();
        let failures = RecentFailures::new(start);
        let at = |number: u32| start + number * Duration::from_millis(20);
        (0..500).for_each(|number| failures.failed(at(number)));
        assert!(failures.count(at(500)).abs_diff(50) <= 1, "{}", failures.count(at(500)));
        assert_eq!(failures.count(at(500) + 10 * FAILED), 0);
    }
}
