//! For each bucket of a histogram, a request that was counted there and whose trace can be looked up.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// A request that is part of a trace which is exported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    pub trace: [u8; 16],
    /// When, in milliseconds since 1970.
    pub at: u64,
}

/// Exemplars live so long at least, in milliseconds: no scraper sees more of them, and threads that replace them more often
/// would only wait for each other.
const LASTS: u64 = 1000;

pub(super) struct Exemplars(Box<[Slot]>);

#[derive(Default)]
struct Slot {
    since: AtomicU64,
    last: Mutex<Option<(Exemplar, u64)>>,
}

impl Exemplars {
    pub(super) fn new(buckets: usize) -> Exemplars {
        Exemplars((0..buckets).map(|_| Slot::default()).collect())
    }

    /// `value` was counted in this bucket.
    pub(super) fn keep(&self, bucket: usize, exemplar: Exemplar, value: u64) {
        let Some(slot) = self.0.get(bucket) else { return };
        // A clock that was set back does not make the last one stay for ever.
        if exemplar.at.abs_diff(slot.since.load(Relaxed)) < LASTS {
            return;
        }
        if let Ok(mut last) = slot.last.try_lock() {
            *last = Some((exemplar, value));
            slot.since.store(exemplar.at, Relaxed);
        }
    }

    pub(super) fn last(&self, bucket: usize) -> Option<(Exemplar, u64)> {
        *self.0.get(bucket)?.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_kept_for_each_bucket_and_for_a_second() {
        let exemplars = Exemplars::new(2);
        let at = |at| Exemplar { trace: [1; 16], at };
        assert_eq!(exemplars.last(1), None);
        for (time, value) in [(5000, 1), (5999, 2), (6000, 3), (6500, 4), (3000, 5)] {
            exemplars.keep(1, at(time), value);
            let (kept, of) = exemplars.last(1).unwrap();
            let expected = [(5000, 1), (5000, 1), (6000, 3), (6000, 3), (3000, 5)][value as usize - 1];
            assert_eq!((kept.at, of), expected);
        }
        assert_eq!(exemplars.last(0), None);
        exemplars.keep(2, at(1), 1);
    }
}
