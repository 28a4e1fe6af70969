//! Weighted rendezvous hashing: where a key belongs. Each place draws a number from an exponential distribution whose
//! rate is its weight, and the lowest wins.
//!
//! A draw follows from the key, the place's name and its weight, and from no other place. So a place that goes moves only its
//! own keys, one that comes or gets more weight only takes, and shares are those of the weights, whatever these are. A ring of
//! points (Ketama) was rejected: its shares are as good as its points are many, and a weight of 65,535 beside 1 needs more
//! points than there is memory for.

/// FNV-1a, 64 bits: public, fixed for good and four lines long. The standard library's hashers promise none of that.
/// <http://www.isthe.com/chongo/tech/comp/fnv/>
#[derive(Clone, Copy)]
pub struct Fnv1a(pub u64);

impl Fnv1a {
    pub fn new() -> Fnv1a {
        Fnv1a(0xcbf2_9ce4_8422_2325)
    }

    #[must_use]
    pub fn write(self, bytes: &[u8]) -> Fnv1a {
        Fnv1a(bytes.iter().fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
    }
}

impl Default for Fnv1a {
    fn default() -> Self {
        Fnv1a::new()
    }
}

/// What a place of `weight` draws for the `hash` of key and place: the place with the lowest has the key. Weight 0 is
/// infinitely high.
pub fn draw(hash: u64, weight: u32) -> f64 {
    -unit(avalanche(hash)).ln() / f64::from(weight)
}

/// FNV hardly carries the last bytes into the high bits, and the last bytes are the place's name. This is the
/// finalizer of SplitMix64 (Stafford's variant 13).
fn avalanche(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Strictly between 0 and 1: the half keeps `ln` finite, and 52 bits leave room for it.
fn unit(hash: u64) -> f64 {
    ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

/// Places that keys belong to, in a row. Names are hashed once, when the row is made.
#[derive(Debug)]
pub struct Places(Box<[u64]>);

impl Places {
    /// `names` are unique.
    pub fn new<'n>(names: impl Iterator<Item = &'n str>) -> Places {
        Places(names.map(|name| avalanche(Fnv1a::new().write(name.as_bytes()).0)).collect())
    }

    /// The one that has `key` among those whose `weight` is not 0 and that `may` have it. Asks `may` only of those that would.
    pub fn pick(
        &self,
        key: &[u8],
        weight: impl Fn(usize) -> u32,
        may: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let key = avalanche(Fnv1a::new().write(key).0);
        let mut best: Option<(f64, usize)> = None;
        for (index, place) in self.0.iter().enumerate() {
            let weight = weight(index);
            if weight == 0 {
                continue;
            }
            // Turned, so that a key that is a place's name does not leave nothing.
            let draw = draw(key ^ place.rotate_left(32), weight);
            if best.is_none_or(|(lowest, _)| draw < lowest) && may(index) {
                best = Some((draw, index));
            }
        }
        best.map(|(_, index)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: usize = 100_000;

    fn names(count: usize) -> Vec<String> {
        (1..=count).map(|index| format!("10.0.{}.{}:8080", index / 256, index % 256)).collect()
    }

    /// Who has each of the keys.
    fn assign(names: &[String], weights: &[u32], keys: usize) -> Vec<usize> {
        let places = Places::new(names.iter().map(String::as_str));
        let pick = |key| places.pick(format!("user-{key}").as_bytes(), |index| weights[index], |_| true);
        (0..keys).map(|key| pick(key).unwrap()).collect()
    }

    fn counts(assigned: &[usize], places: usize) -> Vec<usize> {
        let mut counts = vec![0; places];
        assigned.iter().for_each(|index| counts[*index] += 1);
        counts
    }

    #[test]
    fn a_place_that_goes_moves_its_own_keys_and_no_others() {
        for count in 2..=20 {
            let names = names(count);
            let weights = vec![1; count];
            let before = assign(&names, &weights, 10_000);
            for gone in [0, count / 2, count - 1] {
                let mut left = names.clone();
                left.remove(gone);
                let after = assign(&left, &weights[1..], 10_000);
                let moved =
                    before.iter().zip(&after).filter(|(before, after)| names[**before] != left[**after]);
                assert!(moved.clone().all(|(before, _)| *before == gone), "{count} without {gone}");
                let bound = 10_000.0 * (1.0 / count as f64 + 0.05);
                assert!((moved.count() as f64) < bound, "{count} without {gone}");
            }
        }
    }

    #[test]
    fn more_weight_takes_keys_and_less_gives_them_and_no_others_move() {
        let mut rng = fastrand::Rng::with_seed(7);
        let names = names(6);
        for _ in 0..30 {
            let weights: Vec<u32> = names.iter().map(|_| rng.u32(0..1000)).collect();
            let (one, mut more) = (rng.usize(0..6), weights.clone());
            more[one] += rng.u32(1..65_535);
            for (before, after) in assign(&names, &weights, 5000).iter().zip(assign(&names, &more, 5000)) {
                assert!(*before == after || after == one, "{weights:?}: {one} becomes {}", more[one]);
            }
        }
    }

    #[test]
    fn shares_are_within_five_percent_of_the_weights() {
        for weights in [vec![1; 2], vec![1; 3], vec![1; 12], vec![5, 3, 2], vec![100, 1], vec![65_535, 655]] {
            let counts = counts(&assign(&names(weights.len()), &weights, 2 * KEYS), weights.len());
            let total: u32 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let fair = 2.0 * KEYS as f64 * f64::from(*weight) / f64::from(total);
                // Chance alone is a few times the root of what is counted.
                let tolerance = (0.05 * fair).max(4.0 * fair.sqrt());
                assert!((*count as f64 - fair).abs() < tolerance, "{weights:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn the_least_weight_beside_the_greatest_has_what_it_should_and_not_three_percent() {
        let counts = counts(&assign(&names(2), &[65_535, 1], KEYS), 2);
        assert!(counts[1] < 10, "{counts:?}");
    }

    #[test]
    fn who_may_not_have_a_key_leaves_it_to_the_same_one_each_time_and_gets_it_back() {
        let names = names(5);
        let places = Places::new(names.iter().map(String::as_str));
        for key in 0..1000_u32 {
            let key = key.to_le_bytes();
            let first = places.pick(&key, |_| 1, |_| true).unwrap();
            let second = places.pick(&key, |_| 1, |index| index != first);
            assert_ne!(second, Some(first));
            let without = places.pick(&key, |index| u32::from(index != first), |_| true);
            assert_eq!(second, without, "out or without weight, the next is the same");
        }
        assert_eq!(places.pick(b"a", |_| 1, |_| false), None);
        assert_eq!(places.pick(b"a", |_| 0, |_| true), None);
        assert_eq!(Places::new([].into_iter()).pick(b"a", |_| 1, |_| true), None);
    }

    #[test]
    fn a_key_that_is_a_place_s_name_belongs_to_any() {
        let names = names(4);
        let places = Places::new(names.iter().map(String::as_str));
        let own = |name: &String| places.pick(name.as_bytes(), |_| 1, |_| true).unwrap();
        let picked: std::collections::BTreeSet<usize> = names.iter().map(own).collect();
        assert!(picked.len() > 1);
    }

    /// A change here moves the keys of every upstream, and gateways of two releases beside each other disagree.
    #[test]
    fn no_release_moves_keys() {
        let assigned: String = assign(&names(3), &[5, 3, 2], 32).iter().map(usize::to_string).collect();
        assert_eq!(assigned, "01221010000200020000101022101101");
    }

    #[test]
    fn the_hash_is_fnv_1a_as_published() {
        for (text, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(Fnv1a::new().write(text.as_bytes()).0, hash, "{text}");
        }
    }

    #[test]
    fn the_ends_of_the_hash_are_finite() {
        for hash in [0, u64::MAX] {
            let unit = unit(hash);
            assert!(unit > 0.0 && unit < 1.0 && unit.ln().is_finite());
        }
    }
}
