//! What one side of a canary did since the last step began, counted without locks by every request.
//! A sample costs the same after ten requests and ten million.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::policy::histogram::{Distribution, Histogram};

/// One side over the step so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub requests: u64,
    /// Of `requests`, how many failed.
    pub failures: u64,
    pub latencies: Distribution,
}

impl Sample {
    /// `None` without requests.
    pub fn p99(&self) -> Option<Duration> {
        self.latencies.quantile(0.99)
    }
}

/// Counts requests, failures and latencies. A sample taken while requests finish may miss their last few numbers;
/// they are in the next one.
#[derive(Default)]
pub struct Observed {
    // Not requests and failures: those two could be caught in between, with more failures than requests.
    successes: AtomicU64,
    failures: AtomicU64,
    latencies: Histogram,
}

impl Observed {
    /// A finished request. Failures count with their latency: a timeout is slow as well.
    pub fn record(&self, success: bool, latency: Duration) {
        self.latencies.record(latency);
        if success { &self.successes } else { &self.failures }.fetch_add(1, Relaxed);
    }

    /// Everything since the last `take`, which a new step calls.
    pub fn peek(&self) -> Sample {
        sample(self.successes.load(Relaxed), self.failures.load(Relaxed), self.latencies.distribution())
    }

    /// As `peek`, and starts again from nothing.
    pub fn take(&self) -> Sample {
        sample(self.successes.swap(0, Relaxed), self.failures.swap(0, Relaxed), self.latencies.take())
    }
}

fn sample(successes: u64, failures: u64, latencies: Distribution) -> Sample {
    Sample { requests: successes + failures, failures, latencies }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_slow_request_in_a_hundred_is_not_the_p99_and_two_are() {
        let observed = Observed::default();
        (0..99).for_each(|_| observed.record(true, 10 * MS));
        observed.record(true, 1000 * MS);
        assert!(observed.peek().p99().unwrap() < 11 * MS);
        observed.record(true, 1000 * MS);
        assert!(observed.peek().p99().unwrap() > 900 * MS);
    }

    #[test]
    fn taking_a_sample_starts_again_and_peeking_does_not() {
        let observed = Observed::default();
        observed.record(true, MS);
        observed.record(false, MS);
        let sample = observed.peek();
        assert_eq!((sample.requests, sample.failures), (2, 1));
        assert_eq!(observed.take(), sample);
        assert_eq!(observed.peek(), Sample::default());
    }

    #[test]
    fn nothing_is_lost_between_threads_and_failures_never_exceed_requests() {
        let observed = Observed::default();
        let (mut requests, mut failures) = (0, 0);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| (0..20_000).for_each(|n| observed.record(n % 4 != 0, MS))))
                .collect();
            while !writers.iter().all(|writer| writer.is_finished()) {
                let sample = observed.take();
                assert!(sample.failures <= sample.requests);
                requests += sample.requests;
                failures += sample.failures;
            }
        });
        let rest = observed.take();
        assert_eq!((requests + rest.requests, failures + rest.failures), (40_000, 10_000));
    }
}
