//! What one side of a canary did since the last step began, counted without locks by every request.
//! Latencies fall into buckets 5 % apart, so that a sample costs the same after ten requests and ten million.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One side over the step so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub requests: u64,
    /// Of `requests`, how many failed.
    pub failures: u64,
    /// `None` without requests.
    pub p99: Option<Duration>,
}

impl Sample {
    /// 0 to 1; 0 without requests.
    pub fn failure_rate(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.failures as f64 / self.requests as f64 }
    }
}

/// Counts requests, failures and latencies. A sample taken while requests finish may miss their last few numbers;
/// they are in the next one.
pub struct Observed {
    // Not requests and failures: those two could be caught in between, with more failures than requests.
    successes: AtomicU64,
    failures: AtomicU64,
    latencies: [AtomicU64; BUCKETS],
}

/// Up to here latencies are all alike.
const SHORTEST: Duration = Duration::from_micros(100);
/// And from here on.
const LONGEST: Duration = Duration::from_secs(60);
/// `1.05_f64.ln()`, which is not yet `const`.
const LN_GROWTH: f64 = 0.048_790_164_169_432_05;
/// One for what is at most `SHORTEST`, one for what is at least `LONGEST`, and log1.05(60 s / 0.1 ms) = 272.7 between.
const BUCKETS: usize = 275;

impl Default for Observed {
    fn default() -> Observed {
        Observed {
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            latencies: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl Observed {
    /// A finished request. Failures count with their latency: a timeout is slow as well.
    pub fn record(&self, success: bool, latency: Duration) {
        self.latencies[bucket(latency)].fetch_add(1, Relaxed);
        if success { &self.successes } else { &self.failures }.fetch_add(1, Relaxed);
    }

    /// Everything since the last `take`, which a new step calls.
    pub fn peek(&self) -> Sample {
        self.sample(|count| count.load(Relaxed))
    }

    /// As `peek`, and starts again from nothing.
    pub fn take(&self) -> Sample {
        self.sample(|count| count.swap(0, Relaxed))
    }

    fn sample(&self, read: impl Fn(&AtomicU64) -> u64) -> Sample {
        let failures = read(&self.failures);
        let requests = read(&self.successes) + failures;
        let latencies = self.latencies.each_ref().map(read);
        Sample { requests, failures, p99: p99(&latencies) }
    }
}

/// The latency that 99 % of the requests did not exceed, within 2.5 %.
fn p99(latencies: &[u64; BUCKETS]) -> Option<Duration> {
    let total: u64 = latencies.iter().sum();
    let rank = total - total / 100;
    let mut seen = 0;
    let bucket = latencies.iter().position(|&count| {
        seen += count;
        count > 0 && seen >= rank
    })?;
    Some(middle(bucket))
}

fn bucket(latency: Duration) -> usize {
    if latency <= SHORTEST {
        return 0;
    }
    if latency >= LONGEST {
        return BUCKETS - 1;
    }
    let above = (latency.as_secs_f64() / SHORTEST.as_secs_f64()).ln() / LN_GROWTH;
    (above as usize + 1).min(BUCKETS - 2)
}

fn middle(bucket: usize) -> Duration {
    match bucket {
        0 => SHORTEST,
        bucket if bucket == BUCKETS - 1 => LONGEST,
        bucket => SHORTEST.mul_f64(((bucket as f64 - 0.5) * LN_GROWTH).exp()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn p99_is_within_two_and_a_half_percent() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let scale = 0.000_2 * 150_000_f64.powf(random.f64());
            let observed = Observed::default();
            let mut latencies: Vec<Duration> = (0..random.usize(1..2000))
                .map(|_| Duration::from_secs_f64(scale * (0.5 + random.f64())))
                .collect();
            latencies.iter().for_each(|&latency| observed.record(true, latency));
            latencies.sort();
            let exact = latencies[(latencies.len() * 99).div_ceil(100) - 1].as_secs_f64();
            let measured = observed.peek().p99.unwrap().as_secs_f64();
            assert!((measured / exact - 1.0).abs() <= 0.0251, "{measured} instead of {exact}");
        }
    }

    #[test]
    fn one_slow_request_in_a_hundred_is_not_the_p99_and_two_are() {
        let observed = Observed::default();
        (0..99).for_each(|_| observed.record(true, 10 * MS));
        observed.record(true, 1000 * MS);
        assert!(observed.peek().p99.unwrap() < 11 * MS);
        observed.record(true, 1000 * MS);
        assert!(observed.peek().p99.unwrap() > 900 * MS);
    }

    #[test]
    fn the_ends_of_the_scale_are_kept() {
        for (latency, p99) in
            [(Duration::ZERO, SHORTEST), (SHORTEST, SHORTEST), (LONGEST, LONGEST), (Duration::MAX, LONGEST)]
        {
            let observed = Observed::default();
            observed.record(true, latency);
            assert_eq!(observed.peek().p99, Some(p99), "{latency:?}");
        }
        let just_below = LONGEST - Duration::from_nanos(1);
        assert!(bucket(just_below) < BUCKETS - 1);
    }

    #[test]
    fn taking_a_sample_starts_again_and_peeking_does_not() {
        let observed = Observed::default();
        observed.record(true, MS);
        observed.record(false, MS);
        let sample = observed.peek();
        assert_eq!((sample.requests, sample.failures, sample.failure_rate()), (2, 1, 0.5));
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
