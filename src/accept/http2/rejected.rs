//! Requests that the `h2` library rejects by itself: it resets their streams, or answers a bare 431, and reports them to nobody. What it
//! sends on a stream that it has not handed over tells of them, so they are counted and logged like those that are refused here.
//!
//! Their methods and paths are not known. One is missed if its client did not read for so long that a later stream was handed over
//! before the reset went out.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::Poll,
};

use crate::{accept::lock, error::Reason};

#[derive(Clone, Default)]
pub(super) struct Rejected(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// The last stream that was handed over. Later ones have higher numbers.
    handed_over: AtomicU32,
    /// Streams after it on which something was sent, and what that means unless they are handed over yet.
    reasons: Mutex<BTreeMap<u32, Reason>>,
}

impl Rejected {
    /// The library has sent something that means this, if it does not hand the stream over.
    pub(super) fn sent(&self, stream: u32, reason: Reason) {
        if stream > self.0.handed_over.load(Relaxed) {
            // A reset may follow a 431.
            lock(&self.0.reasons).entry(stream).or_insert(reason);
        }
    }

    pub(super) fn hand_over(&self, stream: u32) {
        self.0.handed_over.store(stream, Relaxed);
        lock(&self.0.reasons).remove(&stream);
    }

    /// Why the next ones were rejected. To be polled after `accept`, by the same task: streams that it has not handed over by then were
    /// rejected.
    pub(super) async fn next(&self) -> Vec<Reason> {
        poll_fn(|_| {
            let reasons = self.take();
            if reasons.is_empty() { Poll::Pending } else { Poll::Ready(reasons) }
        })
        .await
    }

    pub(super) fn take(&self) -> Vec<Reason> {
        std::mem::take(&mut *lock(&self.0.reasons)).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_over_was_not_rejected() {
        let rejected = Rejected::default();
        rejected.sent(1, Reason::BadRequest);
        rejected.sent(3, Reason::BadRequest);
        rejected.hand_over(3);
        // Its answer, and the reset of a body that was not read.
        rejected.sent(3, Reason::HeaderTooLarge);
        rejected.sent(3, Reason::BadRequest);
        assert_eq!(rejected.take(), [Reason::BadRequest]);
        assert!(rejected.take().is_empty());
    }

    #[test]
    fn a_header_that_is_too_large_is_not_malformed_for_the_reset_behind_it() {
        let rejected = Rejected::default();
        rejected.sent(1, Reason::HeaderTooLarge);
        rejected.sent(1, Reason::BadRequest);
        assert_eq!(rejected.take(), [Reason::HeaderTooLarge]);
    }
}
