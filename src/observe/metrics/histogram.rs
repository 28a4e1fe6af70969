//! Histograms of durations and sizes, with buckets that the operator may choose.
//! Sharded and without floating point: recording is a short scan and two additions. Reading it is not one
//! moment's truth, but the count is always the sum of the buckets, which is what Prometheus checks.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::exemplar::{Exemplar, Exemplars};
use crate::sharded::Rows;

/// Upper bounds, shared by all histograms that have them.
#[derive(Debug)]
pub(super) struct Buckets {
    /// In microseconds: the sum of the nanoseconds of ten thousand long-lived streams would overflow within weeks. Or bytes.
    bounds: Box<[u64]>,
    /// The same in seconds or bytes, and as they are written.
    reals: Box<[f64]>,
    texts: Box<[String]>,
    /// So many are one second, or one byte.
    in_unit: f64,
}

impl Buckets {
    /// Written in seconds. The bounds ascend.
    pub(super) fn of_durations(bounds: &[Duration]) -> Buckets {
        Buckets::new(bounds.iter().map(|bound| micros(*bound)).collect(), 1e6)
    }

    /// Of bytes. The bounds ascend.
    pub(super) fn of_sizes(bounds: &[u64]) -> Buckets {
        Buckets::new(bounds.into(), 1.0)
    }

    /// Upper bounds in seconds or bytes.
    pub(super) fn bounds(&self) -> &[f64] {
        &self.reals
    }

    fn new(bounds: Box<[u64]>, in_unit: f64) -> Buckets {
        let reals: Box<[f64]> = bounds.iter().map(|bound| *bound as f64 / in_unit).collect();
        let texts = reals.iter().map(f64::to_string).collect();
        Buckets { bounds, reals, texts, in_unit }
    }
}

pub(super) struct Histogram {
    buckets: Arc<Buckets>,
    /// Each value is in one bucket. The one after the last has no bound; the sum follows it.
    counters: Rows,
    exemplars: OnceLock<Exemplars>,
}

/// A histogram added up, as it is told.
pub(super) struct Distribution<'a> {
    /// In seconds or bytes. The last bucket has none.
    pub bounds: Cow<'a, [f64]>,
    /// The same as they are written.
    pub texts: Cow<'a, [String]>,
    /// They accumulate, as Prometheus wants them; one more than there are bounds.
    pub counts: Vec<u64>,
    pub sum: f64,
    /// By bucket, each with what was counted there of it.
    pub exemplars: Vec<(usize, Exemplar, f64)>,
}

impl Histogram {
    pub(super) fn new(buckets: &Arc<Buckets>) -> Histogram {
        Histogram {
            buckets: buckets.clone(),
            counters: Rows::new(buckets.bounds.len() + 2),
            exemplars: OnceLock::new(),
        }
    }

    /// Rounded to microseconds.
    pub(super) fn observe_time(&self, duration: Duration, exemplar: Option<Exemplar>) {
        let micros = micros(duration);
        let bucket = self.observe(micros);
        if let Some(exemplar) = exemplar {
            let exemplars = self.exemplars.get_or_init(|| Exemplars::new(self.buckets.bounds.len() + 1));
            exemplars.keep(bucket, exemplar, micros);
        }
    }

    /// Returns the bucket that it is counted in.
    pub(super) fn observe(&self, value: u64) -> usize {
        let bounds = &self.buckets.bounds;
        let bucket = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
        let mine = self.counters.mine();
        mine.add(bucket, 1);
        mine.add(bounds.len() + 1, value);
        bucket
    }

    /// What is in each bucket, without what is in those below it. The last has no bound.
    pub(super) fn buckets(&self) -> Vec<u64> {
        (0..=self.buckets.bounds.len()).map(|bucket| self.counters.sum(bucket)).collect()
    }

    /// Of all values, in microseconds or bytes.
    pub(super) fn sum(&self) -> u64 {
        self.counters.sum(self.buckets.bounds.len() + 1)
    }

    pub(super) fn read(&self) -> Distribution<'_> {
        let Buckets { bounds, reals, texts, in_unit } = &*self.buckets;
        let mut count = 0;
        let counts = (0..=bounds.len()).map(|bucket| {
            count += self.counters.sum(bucket);
            count
        });
        let counts = counts.collect();
        let exemplars = self.exemplars.get().into_iter().flat_map(|exemplars| {
            let last =
                |bucket| exemplars.last(bucket).map(|(exemplar, of)| (bucket, exemplar, of as f64 / in_unit));
            (0..=bounds.len()).filter_map(last)
        });
        Distribution {
            bounds: Cow::Borrowed(reals),
            texts: Cow::Borrowed(texts),
            counts,
            sum: self.counters.sum(bounds.len() + 1) as f64 / in_unit,
            exemplars: exemplars.collect(),
        }
    }
}

impl Distribution<'_> {
    /// `(le, count)` with `+Inf` last.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (&str, u64)> {
        self.texts.iter().map(String::as_str).chain(["+Inf"]).zip(self.counts.iter().copied())
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.last().copied().unwrap_or_default()
    }
}

fn micros(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1_000_000)
        .saturating_add(u64::from((duration.subsec_nanos() + 500) / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Settings;

    fn of_durations() -> Histogram {
        Histogram::new(&Arc::new(Buckets::of_durations(&Settings::default().durations)))
    }

    fn count(reading: &Distribution<'_>, le: &str) -> u64 {
        reading.buckets().find(|(text, _)| *text == le).unwrap_or_else(|| panic!("no {le}")).1
    }

    #[test]
    fn a_duration_counts_in_every_bucket_that_covers_it() {
        let histogram = of_durations();
        for micros in [0, 500, 501, 2_500_000, 60_000_001] {
            histogram.observe_time(Duration::from_micros(micros), None);
        }
        let reading = histogram.read();
        assert_eq!(
            ["0.0005", "0.001", "1", "2.5", "60", "+Inf"].map(|le| count(&reading, le)),
            [2, 3, 3, 4, 4, 5]
        );
        assert_eq!((reading.count(), reading.sum), (5, 62.501002));
    }

    #[test]
    fn a_size_counts_in_bytes() {
        let histogram = Histogram::new(&Arc::new(Buckets::of_sizes(&[256, 1 << 20])));
        for bytes in [0, 256, 257, 5_000_000_000] {
            histogram.observe(bytes);
        }
        let reading = histogram.read();
        assert_eq!(["256", "1048576", "+Inf"].map(|le| count(&reading, le)), [2, 3, 4]);
        assert_eq!(reading.sum.to_string(), "5000000513");
    }

    #[test]
    fn the_longest_duration_does_not_overflow() {
        let histogram = of_durations();
        histogram.observe_time(Duration::MAX, None);
        assert_eq!(histogram.read().count(), 1);
    }

    #[test]
    fn more_buckets_than_a_cache_line_has_room_for() {
        let bounds: Vec<u64> = (1..=40).collect();
        let histogram = Histogram::new(&Arc::new(Buckets::of_sizes(&bounds)));
        for bytes in 0..=41 {
            histogram.observe(bytes);
        }
        let reading = histogram.read();
        assert_eq!(["1", "40", "+Inf"].map(|le| count(&reading, le)), [2, 41, 42]);
    }
}
