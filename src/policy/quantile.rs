//! A running quantile of response times, such as the 95th percentile that a hedge waits for. Recording is one relaxed
//! add, reading is one load but for once every `REFRESH`: both are done for every request.
//!
//! It forgets by generations: two histograms, of which the older is emptied and becomes the newer in turn. A
//! generation lasts until it is old enough and has enough records to stand alone, so a route with little traffic
//! keeps what it knows, however old.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::histogram::Histogram;

pub struct RunningQuantile {
    settings: Settings,
    origin: Instant,
    generations: [Histogram; 2],
    current: AtomicUsize,
    /// In nanoseconds, 0 for not known.
    value: AtomicU64,
    /// When `value` is to be computed again, in nanoseconds since `origin`.
    due: AtomicU64,
    /// When the current generation began; who holds it computes.
    turn: Mutex<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// From 0 to 1.
    pub quantile: f64,
    /// Fewer records than these say nothing.
    pub min_samples: u64,
    /// Least age of a generation. The value speaks of the last one to two of them.
    pub generation: Duration,
}

impl RunningQuantile {
    /// For how long a value is used before it is computed again.
    pub const REFRESH: Duration = Duration::from_millis(100);

    pub fn new(settings: Settings, origin: Instant) -> RunningQuantile {
        RunningQuantile {
            settings,
            origin,
            generations: [const { Histogram::new() }; 2],
            current: AtomicUsize::new(0),
            value: AtomicU64::new(0),
            due: AtomicU64::new(0),
            turn: Mutex::new(origin),
        }
    }

    pub fn record(&self, response_time: Duration) {
        self.generations[self.current.load(Relaxed)].record(response_time);
    }

    /// Never less than the true quantile, and 1/32 more at most (see [`super::histogram::Distribution::quantile`]).
    /// `None` while too few have been recorded.
    pub fn value(&self, now: Instant) -> Option<Duration> {
        let elapsed = nanos(now.saturating_duration_since(self.origin));
        if elapsed >= self.due.load(Relaxed) {
            // Nobody waits for whoever is computing: the value from before is good enough.
            if let Ok(mut began) = self.turn.try_lock() {
                self.refresh(&mut began, now);
                self.due.store(elapsed.saturating_add(nanos(Self::REFRESH)), Relaxed);
            }
        }
        Some(self.value.load(Relaxed)).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }

    fn refresh(&self, began: &mut Instant, now: Instant) {
        let newer = self.current.load(Relaxed);
        let older = 1 - newer;
        let mut recorded = self.generations[newer].distribution();
        let stands_alone = recorded.count() >= self.settings.min_samples;
        if stands_alone && now.saturating_duration_since(*began) >= self.settings.generation {
            // Emptied first: what is recorded into it from then on must stay.
            self.generations[older].reset();
            self.current.store(older, Relaxed);
            *began = now;
        } else {
            recorded.merge(&self.generations[older].distribution());
        }
        let enough = recorded.count() >= self.settings.min_samples;
        let value = recorded.quantile(self.settings.quantile).filter(|_| enough);
        self.value.store(value.map_or(0, nanos), Relaxed);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P95: Settings = Settings { quantile: 0.95, min_samples: 100, generation: Duration::from_secs(30) };

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn record(latencies: &RunningQuantile, count: u64, response_time: Duration) {
        (0..count).for_each(|_| latencies.record(response_time));
    }

    fn assert_near(value: Option<Duration>, exact: Duration) {
        let value = value.unwrap();
        assert!(value >= exact && value <= exact.mul_f64(1.04), "{value:?} is not near {exact:?}");
    }

    #[test]
    fn knows_nothing_below_the_least_number_of_samples() {
        let origin = Instant::now();
        let latencies = RunningQuantile::new(P95, origin);
        record(&latencies, 99, millis(10));
        assert_eq!(latencies.value(origin), None);
        record(&latencies, 1, millis(10));
        assert_near(latencies.value(origin + RunningQuantile::REFRESH), millis(10));
    }

    #[test]
    fn is_the_quantile_of_what_was_recorded() {
        let origin = Instant::now();
        let latencies = RunningQuantile::new(P95, origin);
        (1..=1000).for_each(|n| latencies.record(millis(n)));
        assert_near(latencies.value(origin), millis(950));
    }

    #[test]
    fn a_value_is_kept_for_a_while() {
        let origin = Instant::now();
        let latencies = RunningQuantile::new(P95, origin);
        record(&latencies, 100, millis(10));
        assert_near(latencies.value(origin), millis(10));
        record(&latencies, 10_000, millis(500));
        assert_near(latencies.value(origin + millis(99)), millis(10));
        assert_near(latencies.value(origin + millis(100)), millis(500));
    }

    #[test]
    fn the_past_is_forgotten_after_two_generations() {
        let origin = Instant::now();
        let latencies = RunningQuantile::new(P95, origin);
        record(&latencies, 10_000, millis(900));
        for second in 0..=90_u64 {
            let now = origin + Duration::from_secs(second);
            let value = latencies.value(now);
            match second {
                0..60 => assert_near(value, millis(900)),
                60 => {}
                _ => assert_near(value, millis(20)),
            }
            record(&latencies, 10, millis(20));
        }
    }

    #[test]
    fn little_traffic_keeps_what_is_known() {
        let origin = Instant::now();
        let latencies = RunningQuantile::new(P95, origin);
        record(&latencies, 100, millis(10));
        for hour in 0..24 {
            assert_near(latencies.value(origin + Duration::from_secs(hour * 3600)), millis(10));
            record(&latencies, 2, millis(10));
        }
    }

    #[test]
    fn a_time_before_the_origin_is_harmless() {
        let origin = Instant::now() + millis(1000);
        let latencies = RunningQuantile::new(P95, origin);
        record(&latencies, 100, millis(10));
        assert_near(latencies.value(origin - millis(1000)), millis(10));
    }

    #[test]
    fn threads_may_record_and_read_together() {
        let origin = Instant::now();
        let latencies = RunningQuantile::new(P95, origin);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let latencies = &latencies;
                scope.spawn(move || {
                    for n in 0..20_000 {
                        latencies.record(millis(10));
                        if let Some(value) = latencies.value(origin + millis(n * 10 + thread)) {
                            assert_near(Some(value), millis(10));
                        }
                    }
                });
            }
        });
        assert_near(latencies.value(origin + Duration::from_secs(300)), millis(10));
    }
}
