//! What was found out with some effort about something that comes again, so that the next time costs a hash and a look: a
//! token that was verified, an answer of a service.
//!
//! It is known by the SHA-256 of all that it depends on: to be taken for another, two would have to collide in it. Nothing
//! of the secret itself is kept. It belongs to one filter, so what that filter demands need not be part of the key.
//!
//! It is a table of small sets, each under a lock of its own that is held for some nanoseconds.

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub(crate) type Digest = [u8; 32];

pub(crate) struct Remembered<T>(Box<[Mutex<Set<T>>]>);

struct Set<T> {
    /// Taken when there is something to keep.
    places: Vec<Place<T>>,
    /// Counts uses.
    clock: u64,
}

struct Place<T> {
    digest: Digest,
    value: T,
    /// In the unit of the caller's `now`.
    valid: Range<u64>,
    used: u64,
}

const PLACES: usize = 8;

impl<T: Clone> Remembered<T> {
    /// For about so many; none with 0.
    pub(crate) fn new(entries: usize) -> Remembered<T> {
        let set = || Mutex::new(Set { places: Vec::new(), clock: 0 });
        Remembered((0..entries.div_ceil(PLACES)).map(|_| set()).collect())
    }

    fn set(&self, digest: &Digest) -> Option<MutexGuard<'_, Set<T>>> {
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        let index = u64::from_le_bytes([a, b, c, d, e, f, g, h]).checked_rem(self.0.len() as u64)?;
        // A set is valid at every step, so one that a panic left behind is too.
        Some(self.0[index as usize].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known, while it is valid, if it still `counts`.
    pub(crate) fn find(&self, digest: &Digest, now: u64, counts: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut set = self.set(digest)?;
        let set = &mut *set;
        let at = set.places.iter().position(|place| place.digest == *digest)?;
        let place = &mut set.places[at];
        if !place.valid.contains(&now) || !counts(&place.value) {
            set.places.swap_remove(at);
            return None;
        }
        set.clock += 1;
        place.used = set.clock;
        Some(place.value.clone())
    }

    /// In place of what is of no use any more, as its time is over or it `is_out`, or else was not used for the longest time.
    pub(crate) fn keep(
        &self,
        digest: Digest,
        value: T,
        valid: Range<u64>,
        now: u64,
        is_out: impl Fn(&T) -> bool,
    ) {
        if !valid.contains(&now) {
            return;
        }
        let Some(mut set) = self.set(&digest) else { return };
        set.clock += 1;
        let place = Place { digest, value, valid, used: set.clock };
        // Two requests may have found it out at the same time.
        let same = set.places.iter().position(|other| other.digest == digest);
        let at =
            same.or_else(|| set.places.iter().position(|old| now >= old.valid.end || is_out(&old.value)));
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

    /// Known by the number of who said it.
    fn keep(known: &Remembered<u64>, digest: Digest, by: u64, valid: Range<u64>, now: u64) {
        known.keep(digest, by, valid, now, |other| *other != by);
    }

    fn find(known: &Remembered<u64>, digest: Digest, by: u64, now: u64) -> bool {
        known.find(&digest, now, |known| *known == by).is_some()
    }

    #[test]
    fn is_never_found_after_its_end_before_its_begin_or_once_it_does_not_count() {
        let known = Remembered::new(8);
        for (by, now, found) in [(1, 10, true), (1, 19, true), (1, 20, false), (1, 9, false), (2, 15, false)]
        {
            keep(&known, [7; 32], 1, 10..20, 15);
            assert_eq!(find(&known, [7; 32], by, now), found, "{by} {now}");
        }
        assert!(!find(&known, [8; 32], 1, 15));
        keep(&known, [7; 32], 1, 10..20, 20);
        assert_eq!(known.len(), 0);
    }

    #[test]
    fn digests_that_differ_in_a_bit_are_different() {
        let known = Remembered::new(8);
        let mut digest = [7; 32];
        keep(&known, digest, 1, 0..20, 15);
        digest[31] ^= 1;
        assert!(!find(&known, digest, 1, 15));
    }

    #[test]
    fn has_a_bound_and_forgets_what_was_not_used_for_longest() {
        let known = Remembered::new(100);
        for n in 0..10_000_u32 {
            keep(&known, sha256(&n.to_le_bytes()), 1, 0..20, 15);
        }
        assert!(known.len() <= 104, "{}", known.len());
        let one_set = Remembered::new(PLACES);
        for n in 0..PLACES as u8 {
            keep(&one_set, [n; 32], 1, 0..20, 15);
        }
        assert!(find(&one_set, [0; 32], 1, 15));
        keep(&one_set, [99; 32], 1, 0..20, 15);
        assert!(find(&one_set, [0; 32], 1, 15), "it was used");
        assert!(!find(&one_set, [1; 32], 1, 15));
        // What is over goes first, used or not.
        keep(&one_set, [2; 32], 1, 0..16, 15);
        keep(&one_set, [100; 32], 1, 0..20, 17);
        assert!(find(&one_set, [3; 32], 1, 17));
        assert!(!find(&one_set, [2; 32], 1, 15));
    }

    #[test]
    fn what_is_out_makes_place() {
        let one_set = Remembered::new(PLACES);
        for n in 0..PLACES as u8 {
            keep(&one_set, [n; 32], 1, 0..20, 15);
        }
        keep(&one_set, [99; 32], 2, 0..20, 15);
        assert!(find(&one_set, [99; 32], 2, 15));
        assert_eq!(one_set.len(), PLACES);
    }

    #[test]
    fn of_no_size_keeps_nothing() {
        let known = Remembered::new(0);
        keep(&known, [7; 32], 1, 0..20, 15);
        assert!(!find(&known, [7; 32], 1, 15));
    }
}
