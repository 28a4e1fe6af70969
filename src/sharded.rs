//! What threads do not fight over: every thread has a copy of its own, and whoever wants to know adds them up.
//! With one copy of a counter, each addition on a busy machine first fetches the cache line from another core, which
//! costs more than everything else that is recorded.

use std::{
    cell::Cell,
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
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
#[derive(Debug)]
pub(crate) struct Sharded<T>(Box<[Padded<T>]>);

/// On cache lines of its own, so that who writes to it takes nothing else from those who read. Two lines, because processors
/// fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(T);

impl<T> From<T> for Padded<T> {
    fn from(it: T) -> Self {
        Padded(it)
    }
}

impl<T> std::ops::Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Sharded::of(*SHARDS)
    }
}

impl<T: Default> Sharded<T> {
    /// A copy for each of so many threads that have been given [numbers](number_this_thread).
    pub(crate) fn of(threads: usize) -> Sharded<T> {
        Sharded((0..threads.next_power_of_two()).map(|_| Padded::default()).collect())
    }
}

impl<T> Sharded<T> {
    /// The copy that this thread adds to.
    pub(crate) fn mine(&self) -> &T {
        &self.0[thread_number() & (self.0.len() - 1)].0
    }

    /// Every copy, to be added up.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }

    /// Those of other threads, the next one's first.
    pub(crate) fn others(&self) -> impl Iterator<Item = &T> {
        let mine = thread_number();
        (1..self.0.len()).map(move |step| &self.0[(mine + step) & (self.0.len() - 1)].0)
    }
}

/// Counters whose number is not known before it runs: a row of them for each group of threads, made when one of them first counts.
/// Thousands of routes are each served by a thread or two.
///
/// Rows need no room between them: each is made by a thread that adds to it, and the allocator has other pages for each thread.
pub(crate) struct Rows {
    rows: Box<[OnceLock<Box<[AtomicU64]>>]>,
    counters: usize,
}

/// The counters that this thread adds to.
pub(crate) struct Row<'a>(&'a [AtomicU64]);

impl Rows {
    pub(crate) fn new(counters: usize) -> Rows {
        Rows { rows: (0..*SHARDS).map(|_| OnceLock::new()).collect(), counters }
    }

    pub(crate) fn mine(&self) -> Row<'_> {
        let row = &self.rows[thread_number() & (self.rows.len() - 1)];
        Row(row.get_or_init(|| (0..self.counters).map(|_| AtomicU64::new(0)).collect()))
    }

    /// Of this counter in all rows.
    pub(crate) fn sum(&self, counter: usize) -> u64 {
        self.rows.iter().filter_map(OnceLock::get).map(|row| row[counter].load(Relaxed)).sum()
    }
}

impl Row<'_> {
    pub(crate) fn add(&self, counter: usize, more: u64) {
        self.0[counter].fetch_add(more, Relaxed);
    }
}

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Threads that serve are numbered from 0, so that no two of them share a copy.
pub(crate) fn number_this_thread(number: usize) {
    NUMBER.set(number);
}

/// Other threads are numbered as they first ask: those that are started together are spread evenly.
pub(crate) fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
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
    fn rows_add_up_whatever_their_length() {
        for counters in [1, 16, 17, 40] {
            let rows = Rows::new(counters);
            thread::scope(|scope| {
                for _ in 0..9 {
                    scope
                        .spawn(|| (0..counters).for_each(|counter| rows.mine().add(counter, counter as u64)));
                }
            });
            assert!((0..counters).all(|counter| rows.sum(counter) == 9 * counter as u64), "{counters}");
        }
    }

    #[test]
    fn a_row_is_made_by_who_counts() {
        let rows = Rows::new(3);
        assert_eq!(rows.sum(2), 0);
        let made = || rows.rows.iter().filter(|row| row.get().is_some()).count();
        assert_eq!(made(), 0);
        rows.mine().add(2, 5);
        assert_eq!((made(), rows.sum(2)), (1, 5));
    }

    #[test]
    fn threads_with_numbers_have_each_a_copy() {
        let copies = Sharded::<AtomicU64>::of(3);
        thread::scope(|scope| {
            for number in 0..3 {
                let copies = &copies;
                scope.spawn(move || {
                    number_this_thread(number);
                    copies.mine().fetch_add(1 + number as u64, Relaxed);
                    assert_eq!(copies.others().count(), 3);
                    assert!(copies.others().all(|other| !std::ptr::eq(other, copies.mine())));
                });
            }
        });
        let copies: Vec<u64> = copies.all().map(|copy| copy.load(Relaxed)).collect();
        assert_eq!(copies, [1, 2, 3, 0]);
    }

    #[test]
    fn shards_do_not_share_cache_lines() {
        assert_eq!(size_of::<Padded<AtomicU64>>(), 128);
        assert!(SHARDS.is_power_of_two());
    }
}
