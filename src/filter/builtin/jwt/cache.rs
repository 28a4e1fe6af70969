//! Tokens that were verified, so that a token which comes again costs a hash and a look.
//!
//! A token is known by its SHA-256, all of it, signature included: to be taken for another, two tokens would have to
//! collide in it, and what signatures rest on would be gone with it. Nothing of the token itself is kept. Only tokens whose
//! signature is valid get in, so strangers cannot fill it. It belongs to one filter, so what that filter demands need
//! not be part of the key.
//!
//! It is a table of small sets, each under a lock of its own that is held for some nanoseconds.

use std::sync::{Arc, Mutex, PoisonError};

use crate::filter::builtin::jwt::claims::Verified;

pub(crate) type Digest = [u8; 32];

pub(crate) struct Cache(Box<[Mutex<Set>]>);

#[derive(Default)]
struct Set {
    /// Taken when there is something to keep.
    places: Vec<Place>,
    /// Counts uses.
    clock: u64,
}

struct Place {
    digest: Digest,
    verified: Arc<Verified>,
    /// Which generation of keys verified it.
    generation: u64,
    used: u64,
}

const PLACES: usize = 8;

impl Cache {
    /// For about so many tokens; none with 0.
    pub(crate) fn new(entries: usize) -> Cache {
        Cache((0..entries.div_ceil(PLACES)).map(|_| Mutex::default()).collect())
    }

    fn set(&self, digest: &Digest) -> Option<std::sync::MutexGuard<'_, Set>> {
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        let index = u64::from_le_bytes([a, b, c, d, e, f, g, h]).checked_rem(self.0.len() as u64)?;
        // A set is valid at every step, so one that a panic left behind is too.
        Some(self.0[index as usize].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What keys of this `generation` verified, while it is valid. `now` is in seconds since 1970.
    pub(crate) fn find(&self, digest: &Digest, generation: u64, now: u64) -> Option<Arc<Verified>> {
        let mut set = self.set(digest)?;
        let set = &mut *set;
        let at = set.places.iter().position(|place| place.digest == *digest)?;
        let place = &mut set.places[at];
        if place.generation != generation || !place.verified.valid.contains(&now) {
            set.places.swap_remove(at);
            return None;
        }
        set.clock += 1;
        place.used = set.clock;
        Some(place.verified.clone())
    }

    /// In place of what is of no use any more, or else was not used for the longest time.
    pub(crate) fn keep(&self, digest: Digest, verified: Arc<Verified>, generation: u64, now: u64) {
        if !verified.valid.contains(&now) {
            return;
        }
        let Some(mut set) = self.set(&digest) else { return };
        set.clock += 1;
        let place = Place { digest, verified, generation, used: set.clock };
        // Two requests may have verified the same token at the same time.
        let same = set.places.iter().position(|other| other.digest == digest);
        let at = same.or_else(|| {
            let is_over = |old: &Place| old.generation != place.generation || now >= old.verified.valid.end;
            set.places.iter().position(is_over)
        });
        match at {
            Some(at) => set.places[at] = place,
            None if set.places.len() < PLACES => set.places.push(place),
            None => {
                if let Some(oldest) = set.places.iter_mut().min_by_key(|place| place.used) {
                    *oldest = place;
                }
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.iter().map(|set| set.lock().unwrap().places.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use openssl::sha::sha256;

    use super::*;

    fn verified(from: u64, until: u64) -> Arc<Verified> {
        Arc::new(Verified::for_test(from..until))
    }

    #[test]
    fn is_never_found_after_its_expiry_before_its_begin_or_with_other_keys() {
        let cache = Cache::new(8);
        for (generation, now, found) in
            [(1, 10, true), (1, 19, true), (1, 20, false), (1, 9, false), (2, 15, false)]
        {
            cache.keep([7; 32], verified(10, 20), 1, 15);
            assert_eq!(cache.find(&[7; 32], generation, now).is_some(), found, "{generation} {now}");
        }
        assert!(cache.find(&[8; 32], 1, 15).is_none());
        cache.keep([7; 32], verified(10, 20), 1, 20);
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn digests_that_differ_in_a_bit_are_different_tokens() {
        let cache = Cache::new(8);
        let mut digest = [7; 32];
        cache.keep(digest, verified(0, 20), 1, 15);
        digest[31] ^= 1;
        assert!(cache.find(&digest, 1, 15).is_none());
    }

    #[test]
    fn has_a_bound_and_forgets_what_was_not_used_for_longest() {
        let cache = Cache::new(100);
        for n in 0..10_000_u32 {
            cache.keep(sha256(&n.to_le_bytes()), verified(0, 20), 1, 15);
        }
        assert!(cache.len() <= 104, "{}", cache.len());
        let one_set = Cache::new(PLACES);
        for n in 0..PLACES as u8 {
            one_set.keep([n; 32], verified(0, 20), 1, 15);
        }
        assert!(one_set.find(&[0; 32], 1, 15).is_some());
        one_set.keep([99; 32], verified(0, 20), 1, 15);
        assert!(one_set.find(&[0; 32], 1, 15).is_some(), "it was used");
        assert!(one_set.find(&[1; 32], 1, 15).is_none());
        // What has expired goes first, used or not.
        one_set.keep([2; 32], verified(0, 16), 1, 15);
        one_set.keep([100; 32], verified(0, 20), 1, 17);
        assert!(one_set.find(&[3; 32], 1, 17).is_some());
        assert!(one_set.find(&[2; 32], 1, 15).is_none());
    }

    #[test]
    fn of_no_size_keeps_nothing() {
        let cache = Cache::new(0);
        cache.keep([7; 32], verified(0, 20), 1, 15);
        assert!(cache.find(&[7; 32], 1, 15).is_none());
    }
}
