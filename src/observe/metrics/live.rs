//! Series by name that live exactly as long as somebody holds them, and counters by a small key.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use crate::sharded::Rows;

/// Finds the living series of a name, so that a new snapshot goes on counting where the last one was.
/// Removal needs no call that could be forgotten: nobody holds the handle, so there is nothing to write.
pub(super) struct Live<K, T>(Mutex<BTreeMap<K, Weak<T>>>);

impl<K, T> Default for Live<K, T> {
    fn default() -> Self {
        Live(Mutex::default())
    }
}

impl<K: Ord, T> Live<K, T> {
    pub(super) fn find_or_insert(&self, key: K, make: impl FnOnce() -> T) -> Arc<T> {
        self.find_if_or_insert(key, |_| true, make)
    }

    /// One that is not good any more is left to those who hold it.
    pub(super) fn find_if_or_insert(
        &self,
        key: K,
        is_good: impl FnOnce(&T) -> bool,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut series = self.lock();
        let slot = series.entry(key).or_default();
        slot.upgrade().filter(|series| is_good(series)).unwrap_or_else(|| {
            let made = Arc::new(make());
            *slot = Arc::downgrade(&made);
            made
        })
    }

    /// The living, in the order of their keys; forgets the dead.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        let mut living = Vec::new();
        self.lock().retain(|_, series| match series.upgrade() {
            Some(series) => {
                living.push(series);
                true
            }
            None => false,
        });
        living
    }

    /// Let go of what is left of the dead.
    pub(super) fn forget(&self) {
        self.lock().retain(|_, series| series.strong_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Weak<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SLOTS: usize = 16;

/// Counters by a key from a small set, found without a lock and without hashing: the first sixteen keys seen
/// get a slot each, in the order of their arrival, which is about the order of their frequency.
/// Further keys share a mutex; they are counted correctly, only less cheaply.
pub(super) struct Counts<K> {
    keys: [OnceLock<K>; SLOTS],
    slots: Rows,
    others: Mutex<BTreeMap<K, u64>>,
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Counts { keys: [const { OnceLock::new() }; SLOTS], slots: Rows::new(SLOTS), others: Mutex::default() }
    }
}

impl<K: Copy + Ord> Counts<K> {
    pub(super) fn add_one(&self, key: K) {
        // Whoever initialises a slot first owns it; the others see its key and go on to the next.
        match self.keys.iter().position(|slot| *slot.get_or_init(|| key) == key) {
            Some(slot) => {
                self.slots.mine().add(slot, 1);
            }
            None => *self.others().entry(key).or_insert(0) += 1,
        }
    }

    /// Each key with its count, without a list of them.
    pub(super) fn each(&self, mut tell: impl FnMut(K, u64)) {
        for (slot, key) in self.keys.iter().map_while(OnceLock::get).enumerate() {
            tell(*key, self.slots.sum(slot));
        }
        if self.keys.last().is_some_and(|last| last.get().is_some()) {
            self.others().iter().for_each(|(key, count)| tell(*key, *count));
        }
    }

    pub(super) fn totals(&self) -> BTreeMap<K, u64> {
        let mut totals = self.others().clone();
        for (slot, key) in self.keys.iter().map_while(OnceLock::get).enumerate() {
            totals.insert(*key, self.slots.sum(slot));
        }
        totals
    }

    fn others(&self) -> MutexGuard<'_, BTreeMap<K, u64>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_same_name_finds_the_same_series_while_it_is_held() {
        let live = Live::<&str, u32>::default();
        let first = live.find_or_insert("users", || 1);
        assert_eq!(*live.find_or_insert("users", || 2), 1);
        drop(first);
        assert_eq!(*live.find_or_insert("users", || 3), 3);
    }

    #[test]
    fn what_is_not_good_any_more_is_made_anew() {
        let live = Live::<&str, u32>::default();
        let first = live.find_or_insert("users", || 1);
        let find = || live.find_if_or_insert("users", |found| *found == 2, || 2);
        let second = find();
        assert!(Arc::ptr_eq(&second, &find()));
        assert_eq!((*first, live.all()), (1, vec![second]));
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let live = Live::<&str, u32>::default();
        let (b, a) = (live.find_or_insert("b", || 2), live.find_or_insert("a", || 1));
        assert_eq!(live.all().iter().map(|series| **series).collect::<Vec<_>>(), [1, 2]);
        drop(a);
        live.forget();
        assert_eq!(live.lock().len(), 1);
        assert_eq!(live.all(), [b]);
    }

    #[test]
    fn counts_more_keys_than_slots_from_many_threads() {
        let counts = Counts::<u16>::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..4000).for_each(|n| counts.add_one(n % 40)));
            }
        });
        assert_eq!(counts.totals(), (0..40).map(|key| (key, 400)).collect());
        let mut told = BTreeMap::new();
        counts.each(|key, count| assert_eq!(told.insert(key, count), None));
        assert_eq!(told, counts.totals());
    }
}
