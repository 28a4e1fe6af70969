//! Slow start: an endpoint that has just come gets a part of its share first, and all of it over a while.
//! Cold caches, connection pools and compilers make the first requests slow; a full share would make them fail.
//!
//! Weights are small integers, and a tenth of 1 is not one. So where anyone ramps, the balancer must take all weights
//! of the row from `ramped`, in units of 1 / `SCALE`, also of those that are past their ramp or have none. Smooth
//! round robin keeps sums of weights between picks: a row that may ramp stays in this unit for good, or begins a new
//! cycle when it leaves it.

use std::time::Duration;

/// What one unit of weight becomes: one per cent steps. With the configuration's largest weight, 65,535, it stays far
/// from the end of `u32`.
pub const SCALE: u32 = 100;

/// What an endpoint starts with: less would leave it cold, as it warms by being used.
const FIRST: f64 = 0.1;

/// The part of its weight that an endpoint gets, from 0.1 when it starts, in a straight line, to 1.0 when `ramp` is
/// over. A ramp of zero is over at once.
pub fn factor(since_start: Duration, ramp: Duration) -> f64 {
    if since_start >= ramp {
        return 1.0;
    }
    FIRST + (1.0 - FIRST) * since_start.as_secs_f64() / ramp.as_secs_f64()
}

/// `weight` as of now, in units of 1 / `SCALE`; 0 only where `weight` is. Past the ramp, or with a ramp of zero, it is
/// `weight * SCALE`, exact up to 42,949,672; more is cut off at the end of `u32`.
pub fn ramped(weight: u32, since_start: Duration, ramp: Duration) -> u32 {
    let scaled = f64::from(weight) * f64::from(SCALE) * factor(since_start, ramp);
    // `as` stops at the ends of the type.
    (scaled.round() as u32).max(u32::from(weight > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAMP: Duration = Duration::from_secs(30);

    #[test]
    fn grows_in_a_straight_line_from_a_tenth_to_all() {
        let cases = [(0.0, 0.1), (0.25, 0.325), (0.5, 0.55), (0.999, 0.9991), (1.0, 1.0), (100.0, 1.0)];
        for (part, expected) in cases {
            let factor = factor(RAMP.mul_f64(part), RAMP);
            assert!((factor - expected).abs() < 1e-9, "{part}: {factor}");
        }
    }

    #[test]
    fn never_shrinks_and_never_leaves_its_range() {
        let mut last = 0.1;
        for millis in 0..40_000 {
            let factor = factor(Duration::from_millis(millis), RAMP);
            assert!((last..=1.0).contains(&factor), "{millis}: {factor} after {last}");
            last = factor;
        }
        assert_eq!(last, 1.0);
    }

    #[test]
    fn small_weights_ramp_too() {
        for (weight, expected) in [(0, [0, 0, 0]), (1, [10, 55, 100]), (3, [30, 165, 300])] {
            for (part, expected) in [0.0, 0.5, 1.0].into_iter().zip(expected) {
                assert_eq!(ramped(weight, RAMP.mul_f64(part), RAMP), expected, "{weight} at {part}");
            }
        }
    }

    #[test]
    fn without_a_ramp_weights_are_only_scaled() {
        for weight in [0, 1, 7, 65_535, u32::MAX / SCALE] {
            assert_eq!(ramped(weight, Duration::ZERO, Duration::ZERO), weight * SCALE);
            assert_eq!(ramped(weight, Duration::MAX, RAMP), weight * SCALE);
        }
    }

    #[test]
    fn extremes_neither_overflow_nor_vanish() {
        assert_eq!(ramped(u32::MAX, RAMP, RAMP), u32::MAX);
        assert_eq!(ramped(1, Duration::ZERO, Duration::MAX), 10);
        assert!(ramped(u32::MAX, Duration::from_nanos(1), Duration::MAX) > 0);
    }
}
