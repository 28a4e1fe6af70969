//! What counts only once: names that are remembered for as long as somebody could show them again.
//!
//! The memory has a bound. Where it is full, the name goes first that could be shown for the shortest time.

use std::collections::{BTreeSet, HashMap};

/// Times are in seconds, from any beginning. Names are digests: they cost the same however long what they stand for is.
#[derive(Debug)]
pub struct Once {
    most: usize,
    until: HashMap<[u8; 32], u64>,
    order: BTreeSet<(u64, [u8; 32])>,
}

impl Once {
    pub fn new(most: usize) -> Once {
        Once { most, until: HashMap::new(), order: BTreeSet::new() }
    }

    /// Whether it is the first time. The name can be shown until then.
    pub fn take(&mut self, name: [u8; 32], until: u64, now: u64) -> bool {
        while let Some((over, _)) = self.order.first()
            && (*over < now || self.order.len() >= self.most && !self.until.contains_key(&name))
            && let Some((_, gone)) = self.order.pop_first()
        {
            self.until.remove(&gone);
        }
        let is_new = !self.until.contains_key(&name);
        if is_new && self.most > 0 {
            self.until.insert(name, until);
            self.order.insert((until, name));
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_once_for_as_long_as_it_can_be_shown() {
        let mut once = Once::new(10);
        assert!(once.take([1; 32], 200, 100));
        assert!(!once.take([1; 32], 200, 100) && !once.take([1; 32], 300, 200));
        assert!(once.take([2; 32], 300, 201), "another");
        assert_eq!(once.order.len(), 1, "the first could not be shown any more");
    }

    #[test]
    fn has_a_bound_and_forgets_first_what_can_be_shown_for_the_shortest_time() {
        let mut once = Once::new(3);
        for (name, until) in [(1, 500), (2, 300), (3, 400), (4, 600)] {
            assert!(once.take([name; 32], until, 100), "{name}");
        }
        assert_eq!((once.order.len(), once.until.len()), (3, 3));
        assert!([1, 3, 4].iter().all(|name| !once.take([*name; 32], 700, 100)));
        assert!(once.take([2; 32], 300, 100));
    }
}
