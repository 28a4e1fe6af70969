//! Counters that threads do not fight over: every thread adds to a copy of its own, a scrape adds them up.
//! With one copy, each addition on a busy machine first fetches the cache line from another core, which
//! costs more than everything else that is recorded.

use std::{
    cell::Cell,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// More copies would only spread a scrape over more memory: threads that share one seldom meet.
const MOST_SHARDS: usize = 8;

/// A constant of the machine; a power of two, so that a thread finds its shard by masking.
static SHARDS: LazyLock<usize> = LazyLock::new(|| {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    threads.next_power_of_two().min(MOST_SHARDS)
});

/// One `T` per group of threads, each on cache lines of its own.
pub(super) struct Sharded<T>(Box<[Padded<T>]>);

/// Two lines, because processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Sharded((0..*SHARDS).map(|_| Padded::default()).collect())
    }
}

impl<T> Sharded<T> {
    /// The copy that this thread adds to.
    pub(super) fn mine(&self) -> &T {
        &self.0[thread_number() & (self.0.len() - 1)].0
    }

    /// Every copy, to be added up.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }
}

/// Threads are numbered as they first record something, so workers started together are spread evenly.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    let number = NUMBER.get();
    if number != usize::MAX {
        return number;
    }
    let number = NEXT.fetch_add(1, Relaxed);
    NUMBER.set(number);
    number
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn threads_add_up() {
        let counter = Sharded::<AtomicU64>::default();
        thread::scope(|scope| {
            for _ in 0..9 {
                scope.spawn(|| {
                    (0..1000).for_each(|_| {
                        counter.mine().fetch_add(1, Relaxed);
                    })
                });
            }
        });
        assert_eq!(counter.all().map(|shard| shard.load(Relaxed)).sum::<u64>(), 9000);
    }

    #[test]
    fn shards_do_not_share_cache_lines() {
        assert_eq!(size_of::<Padded<AtomicU64>>(), 128);
        assert!(SHARDS.is_power_of_two());
    }
}
