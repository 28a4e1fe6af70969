//! Levels: endpoints of which the first have all requests, and each next one only what those before it cannot bear. A level is held
//! to bear all as long as 1/1.4 of it (71 %) can be used, and less in proportion below. Envoy's rule for priorities, with its
//! overprovisioning factor.
//!
//! It holds no random source: callers pass what they draw.

/// A level that has lost a part is given so much more than what is left of it says.
pub const OVERPROVISIONED: f64 = 1.4;

/// The weights of one level's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Of those that can be used.
    pub usable: u64,
    pub all: u64,
}

impl Level {
    /// Of all requests, what it can bear.
    fn bears(self) -> f64 {
        match self.all {
            0 => 0.0,
            all => (OVERPROVISIONED * self.usable as f64 / all as f64).min(1.0),
        }
    }
}

/// The part of the requests that each level gets, first to last. They add up to 1, or are all 0 where nobody can be used. Where all
/// levels together cannot bear everything, each gets more in proportion.
pub fn shares(levels: impl Iterator<Item = Level> + Clone) -> impl Iterator<Item = f64> {
    let all: f64 = levels.clone().map(Level::bears).sum();
    let scale = if all > 0.0 && all < 1.0 { 1.0 / all } else { 1.0 };
    levels.scan(1.0_f64, move |left, level| {
        let share = (level.bears() * scale).min(*left);
        *left -= share;
        Some(share)
    })
}

/// The level of one request. `draw` is from 0 to 1. `None` where nobody can be used.
pub fn choose(levels: impl Iterator<Item = Level> + Clone, draw: f64) -> Option<usize> {
    let mut before = 0.0;
    let mut last = None;
    for (index, share) in shares(levels).enumerate() {
        if share > 0.0 {
            before += share;
            if draw < before {
                return Some(index);
            }
            // Sums of parts may end a little below 1.
            last = Some(index);
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(levels: &[(u64, u64)]) -> impl Iterator<Item = Level> + Clone {
        levels.iter().map(|&(usable, all)| Level { usable, all })
    }

    /// The tables of Envoy's documentation, "Priority levels": two levels, then three.
    #[test]
    fn shares_are_those_of_envoy() {
        let all = |levels: &[(u64, u64)]| -> Vec<u64> {
            shares(of(levels)).map(|share| (share * 100.0).round() as u64).collect()
        };
        for (first, expected) in
            [(100, [100, 0]), (72, [100, 0]), (71, [99, 1]), (50, [70, 30]), (25, [35, 65]), (0, [0, 100])]
        {
            assert_eq!(all(&[(first, 100), (100, 100)]), expected, "{first}");
        }
        assert_eq!(all(&[(25, 100), (25, 100)]), [50, 50], "together they cannot bear all");
        for (levels, expected) in [
            ([100, 100, 100], [100, 0, 0]),
            ([72, 72, 100], [100, 0, 0]),
            ([71, 71, 100], [99, 1, 0]),
            ([50, 50, 100], [70, 30, 0]),
            ([25, 100, 100], [35, 65, 0]),
            ([25, 25, 100], [35, 35, 30]),
            ([0, 0, 100], [0, 0, 100]),
        ] {
            let levels = levels.map(|usable| (usable, 100));
            assert_eq!(all(&levels), expected, "{levels:?}");
        }
    }

    #[test]
    fn where_nobody_can_be_used_there_is_no_level() {
        for levels in [&[][..], &[(0, 0)], &[(0, 3), (0, 1)]] {
            assert_eq!(choose(of(levels), 0.0), None, "{levels:?}");
        }
    }

    fn levels() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0_u64..200_000, 0_u64..200_000), 1..6)
            .prop_map(|all| all.into_iter().map(|(one, other)| (one.min(other), one.max(other))).collect())
    }

    proptest! {
        #[test]
        fn shares_add_up_and_a_draw_finds_each_in_its_proportion(levels in levels()) {
            let shares: Vec<f64> = shares(of(&levels)).collect();
            let sum: f64 = shares.iter().sum();
            let is_anybody = levels.iter().any(|(usable, _)| *usable > 0);
            prop_assert!((sum - f64::from(u8::from(is_anybody))).abs() < 1e-9, "{shares:?}");
            prop_assert_eq!(choose(of(&levels), 0.5).is_some(), is_anybody);
            const DRAWS: u32 = 1000;
            let mut counts = vec![0_u32; levels.len()];
            for draw in 0..DRAWS {
                if let Some(level) = choose(of(&levels), f64::from(draw) / f64::from(DRAWS)) {
                    counts[level] += 1;
                }
            }
            for (share, count) in shares.iter().zip(&counts) {
                prop_assert!((share - f64::from(*count) / f64::from(DRAWS)).abs() < 0.005);
            }
            prop_assert!(levels.iter().zip(&counts).all(|((usable, _), count)| *usable > 0 || *count == 0));
        }

        /// An endpoint that comes back takes nothing from a level above its own.
        #[test]
        fn more_that_can_be_used_never_means_less(levels in levels(), at in 0_usize..6, more in 1_u64..100_000) {
            let at = at % levels.len();
            let mut better = levels.clone();
            better[at].0 = (better[at].0 + more).min(better[at].1);
            let (before, after): (Vec<f64>, Vec<f64>) = (shares(of(&levels)).collect(), shares(of(&better)).collect());
            prop_assert!(after[at] >= before[at] - 1e-9, "{before:?} {after:?}");
            let up_to = |shares: &[f64]| shares[..=at].iter().sum::<f64>();
            prop_assert!(up_to(&after) >= up_to(&before) - 1e-9, "{before:?} {after:?}");
        }
    }
}
