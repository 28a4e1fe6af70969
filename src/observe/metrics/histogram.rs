//! A histogram of durations with fixed buckets.
//! Sharded and without floating point: recording is a short scan and two additions. Reading it is not one
//! moment's truth, but the count is always the sum of the buckets, which is what Prometheus checks.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::sharded::Sharded;

/// Upper bounds in microseconds, and as they are written, in seconds.
const BOUNDS: [(u64, &str); 14] = [
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (10_000_000, "10"),
    (60_000_000, "60"),
];

#[derive(Default)]
pub(super) struct Histogram(Sharded<Cells>);

/// Sixteen words: two cache lines.
#[derive(Default)]
struct Cells {
    /// Each duration is in one bucket; the last has no bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// Microseconds: the nanoseconds of ten thousand long-lived streams would overflow within weeks.
    sum: AtomicU64,
}

/// A histogram added up.
pub(super) struct Reading {
    /// `(le, count)` with counts that accumulate, as Prometheus wants them, `+Inf` last.
    pub(super) buckets: [(&'static str, u64); BOUNDS.len() + 1],
    pub(super) count: u64,
    pub(super) sum_seconds: f64,
}

impl Histogram {
    /// Rounded to microseconds.
    pub(super) fn observe(&self, duration: Duration) {
        let micros = duration
            .as_secs()
            .saturating_mul(1_000_000)
            .saturating_add(u64::from((duration.subsec_nanos() + 500) / 1000));
        let bucket = BOUNDS.iter().position(|(bound, _)| micros <= *bound).unwrap_or(BOUNDS.len());
        let cells = self.0.mine();
        cells.buckets[bucket].fetch_add(1, Relaxed);
        cells.sum.fetch_add(micros, Relaxed);
    }

    pub(super) fn read(&self) -> Reading {
        let mut count = 0;
        let buckets = array::from_fn(|bucket| {
            count += self.0.all().map(|cells| cells.buckets[bucket].load(Relaxed)).sum::<u64>();
            (BOUNDS.get(bucket).map_or("+Inf", |(_, text)| *text), count)
        });
        let micros: u64 = self.0.all().map(|cells| cells.sum.load(Relaxed)).sum();
        Reading { buckets, count, sum_seconds: micros as f64 / 1e6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_ascend_and_are_written_as_they_are() {
        assert!(BOUNDS.is_sorted_by(|a, b| a.0 < b.0));
        for (micros, text) in BOUNDS {
            assert_eq!((micros as f64 / 1e6).to_string(), text);
        }
    }

    #[test]
    fn a_duration_counts_in_every_bucket_that_covers_it() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 2_500_000, 60_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let reading = histogram.read();
        let count = |le| reading.buckets.iter().find(|(text, _)| *text == le).unwrap().1;
        assert_eq!(
            [count("0.0005"), count("0.001"), count("1"), count("2.5"), count("60"), count("+Inf")],
            [2, 3, 3, 4, 4, 5]
        );
        assert_eq!((reading.count, reading.sum_seconds), (5, 62.501002));
    }

    #[test]
    fn the_longest_duration_does_not_overflow() {
        let histogram = Histogram::default();
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.read().count, 1);
    }

    #[test]
    fn a_shard_fills_whole_cache_lines() {
        assert_eq!(size_of::<Cells>(), 128);
    }
}
