//! A bucket for each key, in bounded memory. A key is a 64-bit hash that the caller makes with a seed of its own, so
//! a key costs the same however long what it stands for is, and nobody can choose two that collide.
//!
//! A full bucket says nothing that a missing one would not, so those go first when there is no room. Then go those
//! that are full soonest: their keys were seen longest ago, and gain least from starting anew.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::bucket::{Bucket, Decision, Limit};

pub struct Buckets {
    limit: Limit,
    /// A power of two of them, so that threads seldom wait for each other: only for as long as a key is added.
    /// Made with the first key: most of ten thousand limits never see one.
    shards: OnceLock<Box<[RwLock<Shard>]>>,
    /// A power of two.
    shard_count: usize,
    keys_per_shard: usize,
    evicted: AtomicU64,
}

type Shard = HashMap<u64, Bucket, BuildHasherDefault<Hashed>>;

/// Keys per shard below which more shards only make the bound coarser.
const FEW: usize = 64;
const MOST_SHARDS: usize = 64;

impl Buckets {
    /// For about `max_keys` keys: they fall into shards at random, and a shard is full by itself.
    pub fn new(limit: Limit, max_keys: usize) -> Buckets {
        let shards = (max_keys / FEW).clamp(1, MOST_SHARDS);
        let shards = if shards.is_power_of_two() { shards } else { shards.next_power_of_two() / 2 };
        Buckets {
            limit,
            shards: OnceLock::new(),
            shard_count: shards,
            keys_per_shard: (max_keys / shards).max(1),
            evicted: AtomicU64::new(0),
        }
    }

    pub fn limit(&self) -> &Limit {
        &self.limit
    }

    /// As [`Bucket::decide`] on the key's bucket.
    pub fn decide(&self, key: u64, now: u64, cost: u64) -> Decision {
        self.with(key, now, |bucket| bucket.decide(&self.limit, now, cost))
    }

    /// As [`Bucket::look`] on the key's bucket.
    pub fn look(&self, key: u64, now: u64, cost: u64) -> Decision {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        match shard.get(&key) {
            Some(bucket) => bucket.look(&self.limit, now, cost),
            None => Bucket::default().look(&self.limit, now, cost),
        }
    }

    /// As [`Bucket::not_full_before`] on the key's bucket.
    pub fn not_full_before(&self, key: u64, full_at: u64, now: u64) {
        self.with(key, now, |bucket| bucket.not_full_before(full_at));
    }

    /// How many keys were forgotten before their buckets were full, since this was last asked.
    pub fn take_evicted(&self) -> u64 {
        // Hardly ever anything, and a write would be seen by every thread.
        if self.evicted.load(Relaxed) == 0 { 0 } else { self.evicted.swap(0, Relaxed) }
    }

    fn with<T>(&self, key: u64, now: u64, run: impl Fn(&Bucket) -> T) -> T {
        let shard = self.shard(key);
        if let Some(bucket) = shard.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return run(bucket);
        }
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= self.keys_per_shard && !shard.contains_key(&key) {
            self.make_room(&mut shard, now);
        }
        run(shard.entry(key).or_default())
    }

    /// Room for a good part of the shard at once, so that a flood of new keys pays for the search only now and then.
    fn make_room(&self, shard: &mut Shard, now: u64) {
        shard.retain(|_, bucket| bucket.full_at() > now);
        let keep = self.keys_per_shard - (self.keys_per_shard / 8).max(1);
        let excess = shard.len().saturating_sub(keep);
        if excess == 0 {
            return;
        }
        let mut times: Vec<u64> = shard.values().map(Bucket::full_at).collect();
        let (_, last, _) = times.select_nth_unstable(excess - 1);
        let (last, mut left) = (*last, excess);
        shard.retain(|_, bucket| {
            let goes = left > 0 && bucket.full_at() <= last;
            left -= usize::from(goes);
            !goes
        });
        self.evicted.fetch_add((excess - left) as u64, Relaxed);
    }

    /// By other bits than those by which the map chooses a place.
    fn shard(&self, key: u64) -> &RwLock<Shard> {
        let make = || (0..self.shard_count).map(|_| RwLock::default()).collect();
        &self.shards.get_or_init(make)[(key >> 32) as usize & (self.shard_count - 1)]
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.get().into_iter().flatten().map(|shard| shard.read().unwrap().len()).sum()
    }

    /// Bytes, as the map is known to be laid out: entries and a byte for each.
    #[cfg(test)]
    fn memory(&self) -> usize {
        let entry = size_of::<(u64, Bucket)>() + 1;
        let shards = self.shards.get().into_iter().flatten();
        shards.map(|shard| shard.read().unwrap().capacity() * 8 / 7 * entry).sum()
    }
}

/// The keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limit(count: u64, burst: u64) -> Limit {
        Limit::new(count, Duration::from_secs(1), burst).unwrap()
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own() {
        let buckets = Buckets::new(limit(1, 2), 100);
        let mut rng = fastrand::Rng::with_seed(1);
        let keys: Vec<u64> = (0..50).map(|_| rng.u64(..)).collect();
        for expected in [true, true, false] {
            assert!(keys.iter().all(|key| buckets.decide(*key, SECOND, 1).allowed == expected));
        }
    }

    #[test]
    fn a_million_keys_stay_below_a_hundred_megabytes() {
        for max_keys in [100_000, 1_000_000] {
            let buckets = Buckets::new(limit(1, 10), max_keys);
            let mut rng = fastrand::Rng::with_seed(2);
            for now in 0..1_000_000 {
                buckets.decide(rng.u64(..), now, 1);
            }
            assert!(buckets.len() <= max_keys);
            assert!(buckets.memory() < 100_000_000, "{} bytes", buckets.memory());
            assert!(max_keys == 1_000_000 || buckets.take_evicted() >= 900_000);
        }
    }

    #[test]
    fn a_flood_of_new_keys_does_not_free_those_that_are_being_denied() {
        let buckets = Buckets::new(limit(1, 5), 1000);
        let mut rng = fastrand::Rng::with_seed(3);
        let greedy: Vec<u64> = (0..50).map(|_| rng.u64(..)).collect();
        for key in &greedy {
            while buckets.decide(*key, SECOND, 1).allowed {}
        }
        for _ in 0..100_000 {
            buckets.decide(rng.u64(..), SECOND, 1);
        }
        assert!(greedy.iter().all(|key| !buckets.decide(*key, SECOND, 1).allowed));
    }

    #[test]
    fn keys_that_are_full_again_leave_without_being_counted() {
        let buckets = Buckets::new(limit(1000, 1), 256);
        let mut rng = fastrand::Rng::with_seed(4);
        for second in 0..100 {
            for _ in 0..50 {
                buckets.decide(rng.u64(..), second * SECOND, 1);
            }
        }
        assert!(buckets.len() <= 256);
        assert_eq!(buckets.take_evicted(), 0);
    }

    #[test]
    fn evictions_are_told_once() {
        let buckets = Buckets::new(limit(1, 1), 1);
        (0..3).for_each(|key| assert!(buckets.decide(key, 0, 1).allowed));
        assert_eq!((buckets.take_evicted(), buckets.take_evicted()), (2, 0));
    }

    #[test]
    fn looking_at_a_key_does_not_add_it() {
        let buckets = Buckets::new(limit(1, 1), 10);
        assert!(buckets.look(7, 0, 1).allowed);
        assert_eq!(buckets.len(), 0);
        buckets.not_full_before(7, SECOND, 0);
        assert_eq!(buckets.look(7, 0, 1).retry_after, Duration::from_secs(1));
    }

    #[test]
    fn sixty_four_clients_of_one_key_are_counted_exactly() {
        let buckets = Buckets::new(limit(1, 1000), 10);
        let allowed: usize = thread::scope(|scope| {
            let client = || (0..100).filter(|_| buckets.decide(7, 0, 1).allowed).count();
            let clients: Vec<_> = (0..64).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        assert_eq!(allowed, 1000);
    }
}
