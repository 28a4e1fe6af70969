//! How long things took, as counts on a logarithmic scale. Recording is one relaxed add and nothing is allocated
//! later, so that it may be done for every request.
//!
//! The scale is that of HDR histograms: each doubling is cut into 32 equal buckets, so a bucket is 1/32 of its
//! lower edge wide at most. It reaches from 64 µs to 67 s; what lies beyond counts in the first or last bucket.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// Doublings, from 2^6 to 2^26 microseconds.
const FIRST_DOUBLING: u32 = 6;
const DOUBLINGS: u32 = 20;

/// Buckets per doubling, as a power of two.
const PRECISION: u32 = 5;

const BUCKETS: usize = (DOUBLINGS << PRECISION) as usize;

/// Counts that many threads add to. A bucket wraps at 2^32: take what was counted before that many requests.
pub struct Histogram {
    counts: [AtomicU32; BUCKETS],
}

/// What a histogram held at one moment. It does not change any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    counts: [u32; BUCKETS],
    count: u64,
}

impl Histogram {
    pub const fn new() -> Histogram {
        Histogram { counts: [const { AtomicU32::new(0) }; BUCKETS] }
    }

    pub fn record(&self, duration: Duration) {
        self.counts[bucket(duration)].fetch_add(1, Relaxed);
    }

    /// How many were recorded. Reads all buckets.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(count.load(Relaxed))).sum()
    }

    /// See [`Distribution::quantile`]. Who needs several quantiles, or how many they are of, takes them from one
    /// [`Histogram::distribution`].
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        self.distribution().quantile(q)
    }

    /// A copy. What is recorded meanwhile is in it or not, each on its own.
    pub fn distribution(&self) -> Distribution {
        Distribution::read(|bucket| self.counts[bucket].load(Relaxed))
    }

    /// As `distribution`, and starts anew. Each record is in exactly one of those taken, even while others record.
    pub fn take(&self) -> Distribution {
        Distribution::read(|bucket| self.counts[bucket].swap(0, Relaxed))
    }

    pub fn reset(&self) {
        self.counts.iter().for_each(|count| count.store(0, Relaxed));
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new()
    }
}

impl Default for Distribution {
    fn default() -> Distribution {
        Distribution { counts: [0; BUCKETS], count: 0 }
    }
}

impl Distribution {
    fn read(count: impl Fn(usize) -> u32) -> Distribution {
        let counts = std::array::from_fn(count);
        Distribution { counts, count: counts.iter().map(|&count| u64::from(count)).sum() }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many took `limit` or longer. A limit within a bucket counts as that bucket's upper edge: at most 1/32 more.
    pub fn slower_than(&self, limit: Duration) -> u64 {
        let first = bucket(limit.saturating_sub(Duration::from_nanos(1))) + 1;
        self.counts[first.min(BUCKETS)..].iter().map(|&count| u64::from(count)).sum()
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Distribution) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        self.count = self.counts.iter().map(|&count| u64::from(count)).sum();
    }

    /// The duration that the share `q`, from 0 to 1, of the records did not reach: more than the true quantile by
    /// nearest rank, by at most 1/32 of it, for what lies within the scale. Rounding up keeps who waits for the
    /// quantile from cutting off those who take exactly that long. `None` when nothing was recorded.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let bucket = self.counts.iter().position(|&count| {
            seen += u64::from(count);
            seen >= rank
        })?;
        Some(upper_edge(bucket))
    }
}

fn bucket(duration: Duration) -> usize {
    const LEAST: u128 = 1 << FIRST_DOUBLING;
    const MOST: u128 = (1 << (FIRST_DOUBLING + DOUBLINGS)) - 1;
    let micros = duration.as_micros().clamp(LEAST, MOST) as u32;
    let doubling = micros.ilog2();
    let within = (micros >> (doubling - PRECISION)) - (1 << PRECISION);
    (((doubling - FIRST_DOUBLING) << PRECISION) + within) as usize
}

/// The least duration that is too long for this bucket.
fn upper_edge(bucket: usize) -> Duration {
    let (doubling, within) = (bucket >> PRECISION, bucket & ((1 << PRECISION) - 1));
    let step = 1_u64 << (doubling as u32 + FIRST_DOUBLING - PRECISION);
    Duration::from_micros(step * ((1 << PRECISION) + within as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_micros(64);

    fn histogram(durations: impl IntoIterator<Item = Duration>) -> Histogram {
        let histogram = Histogram::new();
        durations.into_iter().for_each(|duration| histogram.record(duration));
        histogram
    }

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        assert_eq!(bucket(LEAST), 0);
        for index in 0..BUCKETS - 1 {
            let edge = upper_edge(index);
            assert_eq!(bucket(edge), index + 1);
            assert_eq!(bucket(edge - Duration::from_nanos(1)), index);
        }
    }

    #[test]
    fn what_is_beyond_the_scale_counts_at_its_ends() {
        for (duration, index) in [
            (Duration::ZERO, 0),
            (Duration::from_micros(63), 0),
            (Duration::from_secs(60), bucket(Duration::from_secs(60))),
            (Duration::from_secs(68), BUCKETS - 1),
            (Duration::MAX, BUCKETS - 1),
        ] {
            assert_eq!(bucket(duration), index, "{duration:?}");
        }
        assert!(bucket(Duration::from_secs(60)) < BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_above_the_true_ones_by_a_32nd_at_most() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..50 {
            let spread = rng.f64() * 5.0;
            let mut durations: Vec<Duration> = (0..rng.usize(1..3000))
                .map(|_| Duration::from_secs_f64(1e-4 * 10_f64.powf(rng.f64() * spread)))
                .collect();
            let histogram = histogram(durations.iter().copied());
            durations.sort();
            for q in [0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0] {
                let rank = ((q * durations.len() as f64).ceil() as usize).max(1);
                let exact = durations[rank - 1];
                let estimate = histogram.quantile(q).unwrap();
                assert!(estimate > exact && estimate <= exact.mul_f64(33.0 / 32.0) + Duration::from_nanos(1));
            }
        }
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(Histogram::new().quantile(0.5), None);
        assert_eq!(Histogram::new().count(), 0);
    }

    #[test]
    fn shares_out_of_range_are_the_least_and_the_most() {
        let histogram = histogram([1, 2, 3].map(Duration::from_millis));
        assert_eq!(histogram.quantile(-1.0), histogram.quantile(0.0));
        assert_eq!(histogram.quantile(f64::NAN), histogram.quantile(0.0));
        assert_eq!(histogram.quantile(7.0), histogram.quantile(1.0));
    }

    #[test]
    fn merging_is_as_if_recorded_together() {
        let low = histogram((1..100).map(Duration::from_millis));
        let high = histogram((100..200).map(Duration::from_millis));
        let mut both = low.distribution();
        both.merge(&high.distribution());
        assert_eq!(both, histogram((1..200).map(Duration::from_millis)).distribution());
        assert_eq!(both.count(), 199);
    }

    #[test]
    fn each_record_is_taken_once_while_others_record() {
        let histogram = Histogram::new();
        let taken = std::thread::scope(|scope| {
            let recorders: Vec<_> = (0..4_u64)
                .map(|thread| {
                    let histogram = &histogram;
                    scope.spawn(move || {
                        (0..10_000).for_each(|n| histogram.record(Duration::from_micros(n * (thread + 1))));
                    })
                })
                .collect();
            let mut taken = 0;
            while recorders.iter().any(|recorder| !recorder.is_finished()) {
                taken += histogram.take().count();
            }
            taken
        });
        assert_eq!(taken + histogram.take().count(), 40_000);
        assert_eq!(histogram.count(), 0);
    }

    #[test]
    fn reset_forgets() {
        let histogram = histogram([LEAST]);
        histogram.reset();
        assert_eq!(histogram.count(), 0);
    }
}
