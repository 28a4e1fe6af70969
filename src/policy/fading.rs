//! A number that fades with time, in one atomic: every request to an endpoint may change it and every choice reads it, so
//! there is no lock. It holds no clock: callers pass `now`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Zero or more. After `decay` without a change 37 % of it is left.
#[derive(Debug)]
pub struct Fading {
    decay: Duration,
    /// What the time of a change counts from: an `Instant` does not fit an atomic.
    base: Instant,
    /// Milliseconds since `base` in the upper 40 bits, which last 34 years; below them the value, an `f32` without the last 8
    /// bits of its mantissa. 0 before the first change.
    packed: AtomicU64,
}

const VALUE_BITS: u32 = 24;
const DROPPED_BITS: u32 = 8;

impl Fading {
    /// Nothing yet, at `now`.
    pub fn new(decay: Duration, now: Instant) -> Fading {
        Fading { decay, base: now, packed: AtomicU64::new(0) }
    }

    /// What is left at `now`.
    pub fn value(&self, now: Instant) -> f64 {
        match self.packed.load(Relaxed) {
            // Most endpoints never fail, and need no clock.
            0 => 0.0,
            packed => value(packed) * self.kept(packed, self.millis(now)),
        }
    }

    /// What was set last; 0 before the first change.
    pub fn last(&self) -> f64 {
        value(self.packed.load(Relaxed))
    }

    /// It becomes what `change` makes of the value that was set last and the part of it that is left, 0 to 1.
    pub fn change(&self, now: Instant, change: impl Fn(f64, f64) -> f64) {
        let millis = self.millis(now);
        let _ = self.packed.fetch_update(Relaxed, Relaxed, |packed| {
            // Threads come in another order than they looked at the clock.
            let at = millis.max(packed >> VALUE_BITS);
            let changed = change(value(packed), self.kept(packed, at)) as f32;
            Some((at << VALUE_BITS) | u64::from(changed.max(0.0).to_bits() >> DROPPED_BITS))
        });
    }

    fn kept(&self, packed: u64, millis: u64) -> f64 {
        let since = millis.saturating_sub(packed >> VALUE_BITS);
        (-(since as f64) / 1e3 / self.decay.as_secs_f64()).exp()
    }

    fn millis(&self, now: Instant) -> u64 {
        const MOST: u64 = u64::MAX >> VALUE_BITS;
        let millis = now.saturating_duration_since(self.base).as_millis();
        u64::try_from(millis).unwrap_or(MOST).min(MOST)
    }
}

fn value(packed: u64) -> f64 {
    const MASK: u64 = (1 << VALUE_BITS) - 1;
    // The mask leaves 24 bits.
    f64::from(f32::from_bits(((packed & MASK) as u32) << DROPPED_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(1);

    fn add_one(left: f64, kept: f64) -> f64 {
        left * kept + 1.0
    }

    #[test]
    fn is_nothing_at_first_and_fades_from_each_change() {
        let start = Instant::now();
        let fading = Fading::new(DECAY, start);
        assert_eq!(fading.value(start + DECAY), 0.0);
        (0..3).for_each(|_| fading.change(start + DECAY, add_one));
        assert_eq!(fading.value(start + DECAY), 3.0);
        assert!((fading.value(start + 2 * DECAY) - 3.0 * 0.3679).abs() < 1e-3);
        assert!(fading.value(start + 30 * DECAY) < 1e-9);
    }

    #[test]
    fn a_change_that_comes_late_takes_nothing_back() {
        let start = Instant::now();
        let fading = Fading::new(DECAY, start);
        fading.change(start + 5 * DECAY, |_, _| 2.0);
        fading.change(start, add_one);
        assert_eq!(fading.value(start + 5 * DECAY), 3.0);
        assert_eq!(fading.value(start), 3.0);
    }

    #[test]
    fn values_are_kept_to_three_digits_and_none_is_lost_to_the_clock() {
        let start = Instant::now();
        let fading = Fading::new(DECAY, start);
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..10_000 {
            let now = start + Duration::from_millis(rng.u64(0..1_000_000_000_000));
            let set = rng.f64() * 1e6;
            let fading = Fading::new(DECAY, start);
            fading.change(now, |_, _| set);
            assert!((fading.value(now) - set).abs() <= set / 1000.0);
        }
        fading.change(start + Duration::MAX / 4, |_, _| f64::INFINITY);
        assert!(fading.value(start).is_infinite(), "neither panics nor turns into something else");
        fading.change(start, |_, _| -1.0);
        assert_eq!(fading.value(start), 0.0);
    }
}
