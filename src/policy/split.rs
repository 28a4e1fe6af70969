//! Which variant of a split takes a request: at random, in turn, or always the same one for the same key.
//!
//! Where a key belongs follows from the route's name, the variants' names and weights and the key, and from nothing
//! else: no restart, no release and no reordering of the file moves anyone. Raising a weight moves keys towards that
//! variant only. `None` is the answer where every weight is 0. What to do with a request that carries no key is the
//! caller's to say.

use super::{
    balance::{self, Candidates, Smooth},
    rendezvous::{Fnv1a, draw},
};

/// At random, each in proportion to its weight.
pub fn random(weights: &[u16], rng: &mut fastrand::Rng) -> Option<usize> {
    balance::weighted_random(&Weights(weights), rng)
}

/// In turn: exact shares over every cycle. `smooth` is for as many variants as there are weights and starts anew
/// when they change.
pub fn round_robin(weights: &[u16], smooth: &mut Smooth) -> Option<usize> {
    smooth.pick(&Weights(weights))
}

/// The variant `key` belongs to. `names` and `weights` run in parallel, and names are unique. `salt` is the route's
/// name: without it, the same people would be first in line for every experiment.
///
/// A key equal to a variant's name picks that variant even at weight 0: it is how a tester or an operator asks for
/// one by hand. A client can therefore choose its variant; a split is no access control.
///
/// By weighted rendezvous hashing, so another weight moves keys to or from its variant only.
pub fn sticky(names: &[impl AsRef<str>], weights: &[u16], salt: &str, key: &[u8]) -> Option<usize> {
    if let Some(index) = names.iter().position(|name| name.as_ref().as_bytes() == key) {
        return Some(index);
    }
    let keyed = Fnv1a::new().write(salt.as_bytes()).write(SEPARATOR).write(key).write(SEPARATOR);
    let mut best: Option<(f64, &str, usize)> = None;
    for (index, (name, &weight)) in names.iter().zip(weights).enumerate() {
        if weight == 0 {
            continue;
        }
        let name = name.as_ref();
        let draw = draw(keyed.write(name.as_bytes()).0, weight.into());
        // Equal draws go by name, never by place.
        if best.is_none_or(|(lowest, first, _)| draw < lowest || (draw == lowest && name < first)) {
            best = Some((draw, name, index));
        }
    }
    best.map(|(.., index)| index)
}

/// Occurs in no UTF-8 text, so that no two pairs of salt, key and name read as the same bytes.
const SEPARATOR: &[u8] = &[0xFF];

struct Weights<'a>(&'a [u16]);

impl Candidates for Weights<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn weight(&self, index: usize) -> u32 {
        u32::from(self.0[index])
    }

    fn usable(&self, _: usize) -> bool {
        true
    }

    fn active(&self, _: usize) -> usize {
        0
    }

    fn latency(&self, _: usize) -> Option<f64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: usize = 100_000;

    fn rng() -> fastrand::Rng {
        fastrand::Rng::with_seed(7)
    }

    /// Keys as they come: counted up, with a long prefix in common, and random.
    fn keys() -> [(&'static str, Vec<Vec<u8>>); 3] {
        let mut random = rng();
        [
            ("counted", (0..KEYS).map(|n| n.to_string().into_bytes()).collect()),
            ("prefixed", (0..KEYS).map(|n| format!("account:customer:user-{n:08}").into_bytes()).collect()),
            ("random", (0..KEYS).map(|_| random.u128(..).to_le_bytes().to_vec()).collect()),
        ]
    }

    fn assign(names: &[&str], weights: &[u16], keys: &[Vec<u8>]) -> Vec<usize> {
        keys.iter().map(|key| sticky(names, weights, "checkout", key).unwrap()).collect()
    }

    fn share(assigned: &[usize], index: usize) -> f64 {
        assigned.iter().filter(|&&to| to == index).count() as f64 / assigned.len() as f64
    }

    #[test]
    fn random_shares_follow_weights() {
        let mut random_source = rng();
        let picks: Vec<usize> = (0..KEYS).map(|_| random(&[90, 10], &mut random_source).unwrap()).collect();
        assert!((share(&picks, 1) - 0.1).abs() < 0.005);
    }

    #[test]
    fn round_robin_shares_are_exact() {
        let mut smooth = Smooth::new(2);
        let picks: Vec<usize> = (0..1000).map(|_| round_robin(&[90, 10], &mut smooth).unwrap()).collect();
        assert_eq!(picks.iter().filter(|&&to| to == 1).count(), 100);
        for ten in picks.chunks(10) {
            assert_eq!(ten.iter().filter(|&&to| to == 1).count(), 1, "spread evenly");
        }
    }

    #[test]
    fn every_weight_zero_picks_nothing() {
        assert_eq!(random(&[0, 0], &mut rng()), None);
        assert_eq!(round_robin(&[0, 0], &mut Smooth::new(2)), None);
        assert_eq!(sticky(&["A", "B"], &[0, 0], "checkout", b"user-1"), None);
        assert_eq!(sticky(&[] as &[&str], &[], "checkout", b"user-1"), None);
    }

    #[test]
    fn weight_zero_takes_no_key_but_its_own_name() {
        let [(_, keys), ..] = keys();
        assert_eq!(share(&assign(&["A", "B"], &[1, 0], &keys), 1), 0.0);
        assert_eq!(sticky(&["A", "B"], &[1, 0], "checkout", b"B"), Some(1));
        assert_ne!(sticky(&["A", "B"], &[1, 0], "checkout", b"b"), Some(1), "names are exact");
    }

    #[test]
    fn a_key_stays_where_it_is() {
        for (kind, keys) in keys() {
            let weights = [60, 30, 10];
            let first = assign(&["A", "B", "C"], &weights, &keys);
            assert_eq!(first, assign(&["A", "B", "C"], &weights, &keys), "{kind}");
        }
    }

    #[test]
    fn sticky_shares_follow_weights() {
        for (kind, keys) in keys() {
            for weights in [vec![90, 10], vec![1, 1], vec![65_535, 65_535], vec![5, 3, 2], vec![1; 8]] {
                let names = &["v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8"][..weights.len()];
                let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
                let assigned = assign(names, &weights, &keys);
                for (index, &weight) in weights.iter().enumerate() {
                    let (share, fair) = (share(&assigned, index), f64::from(weight) / total);
                    assert!((share - fair).abs() < 0.006, "{kind} {weights:?}: {share} instead of {fair}");
                }
            }
        }
    }

    #[test]
    fn from_ten_to_twenty_percent_moves_only_what_must_move() {
        for (kind, keys) in keys() {
            let before = assign(&["A", "B"], &[90, 10], &keys);
            let after = assign(&["A", "B"], &[80, 20], &keys);
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            assert!(
                before.iter().zip(&after).all(|(&before, &after)| before == after || after == 1),
                "{kind}"
            );
            assert!((moved as f64 / KEYS as f64 - 0.1).abs() < 0.006, "{kind}: {moved}");
        }
    }

    #[test]
    fn raising_one_weight_moves_keys_only_towards_it() {
        let (mut random, [(_, keys), ..]) = (rng(), keys());
        let names = ["A", "B", "C", "D", "E"];
        for _ in 0..20 {
            let weights: Vec<u16> = names.iter().map(|_| random.u16(0..1000)).collect();
            let (raised, mut after) = (random.usize(0..names.len()), weights.clone());
            after[raised] = random.u16(weights[raised]..=u16::MAX);
            let keys = &keys[..10_000];
            for (before, after) in assign(&names, &weights, keys).iter().zip(assign(&names, &after, keys)) {
                assert!(*before == after || after == raised, "{weights:?}, raised {raised}");
            }
        }
    }

    #[test]
    fn a_variant_removed_moves_only_its_own_keys() {
        let [(_, keys), ..] = keys();
        let before = assign(&["A", "B", "C"], &[5, 3, 2], &keys);
        let after = assign(&["A", "B"], &[5, 3], &keys);
        assert!(before.iter().zip(&after).all(|(before, after)| *before == 2 || before == after));
    }

    #[test]
    fn the_order_in_the_file_does_not_matter() {
        let [(_, keys), ..] = keys();
        let names = ["A", "B", "C"];
        let turned = ["C", "A", "B"];
        let one = assign(&names, &[5, 3, 2], &keys);
        let other = assign(&turned, &[2, 5, 3], &keys);
        assert!(one.iter().zip(&other).all(|(&one, &other)| names[one] == turned[other]));
    }

    #[test]
    fn two_routes_choose_different_people() {
        let [(_, keys), ..] = keys();
        let chosen = |salt: &'static str| {
            keys.iter().map(move |key| sticky(&["A", "B"], &[50, 50], salt, key) == Some(1))
        };
        let both = chosen("checkout").zip(chosen("search")).filter(|(one, other)| *one && *other).count();
        assert!((both as f64 / KEYS as f64 - 0.25).abs() < 0.006, "{both}");
    }

    /// A change here moves every user of every split: it must never be needed.
    #[test]
    fn no_release_moves_anyone() {
        let of = |key: &str| {
            ["A", "B", "C"][sticky(&["A", "B", "C"], &[5, 3, 2], "checkout", key.as_bytes()).unwrap()]
        };
        let assigned: String = (0..32).map(|n| of(&format!("user-{n}"))).collect();
        assert_eq!(assigned, "CBCABACBABAABABAAAABCCAAACAAACAA");
    }
}
