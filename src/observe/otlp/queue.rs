//! Records that wait to be exported: whole batches of them, in the bytes that are sent, with a bound. What does not fit is
//! dropped and counted; nobody waits.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::Encoding;

/// What becomes of records. All that is recorded is exported, rejected, dropped, or still waits.
#[derive(Debug, Default)]
pub struct QueueStats {
    pub recorded: AtomicU64,
    pub exported: AtomicU64,
    /// By the collector, of batches that it took.
    pub rejected: AtomicU64,
    pub dropped_queue: AtomicU64,
    pub dropped_export: AtomicU64,
    /// Bytes and records that wait.
    pub queued_bytes: AtomicU64,
    pub queued: AtomicU64,
}

impl QueueStats {
    /// A record that found no queue, as one is being exchanged for another.
    pub(in crate::observe) fn lose(&self) {
        self.recorded.fetch_add(1, Relaxed);
        self.dropped_queue.fetch_add(1, Relaxed);
    }
}

/// Records that are sent together.
#[derive(Debug, Default)]
pub struct Batch {
    pub bytes: Vec<u8>,
    pub records: u64,
}

pub struct Queue {
    pub encoding: Encoding,
    limits: Limits,
    waiting: Mutex<Waiting>,
    /// A batch is full, or there are no more to come.
    ready: Notify,
    stats: Arc<QueueStats>,
}

/// Bytes of a batch: what receivers of gRPC take by default is 4 MiB.
pub(in crate::observe) const LARGEST_BATCH: usize = 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that may wait.
    pub bytes: usize,
    /// Records that may wait.
    pub records: u64,
    /// Records of a batch.
    pub batch: u64,
    /// Characters of an attribute's value.
    pub value: usize,
}

#[derive(Default)]
struct Waiting {
    filling: Batch,
    full: VecDeque<Batch>,
    /// The room of a batch that has left, for the next one: nothing has to grow again.
    spare: Vec<u8>,
    bytes: usize,
    records: u64,
    closed: Option<Instant>,
    /// Once it is closed, what comes goes there.
    next: Option<Arc<Queue>>,
}

impl Waiting {
    fn seal(&mut self) {
        if self.filling.records > 0 {
            let next = Batch { bytes: std::mem::take(&mut self.spare), records: 0 };
            self.full.push_back(std::mem::replace(&mut self.filling, next));
        }
    }
}

impl Queue {
    pub fn new(encoding: Encoding, limits: Limits, stats: Arc<QueueStats>) -> Queue {
        Queue { encoding, limits, waiting: Mutex::default(), ready: Notify::new(), stats }
    }

    /// A record that `write` writes, as the encoding and the longest value say, and that waits from now on.
    pub(in crate::observe) fn write(&self, write: impl FnOnce(&mut Vec<u8>, Encoding, usize)) {
        thread_local! {
            static WRITTEN: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        WRITTEN.with_borrow_mut(|written| {
            written.clear();
            write(written, self.encoding, self.limits.value);
            self.push(written);
        });
    }

    fn push(&self, record: &[u8]) {
        self.stats.recorded.fetch_add(1, Relaxed);
        self.take(record);
    }

    fn take(&self, record: &[u8]) {
        let mut waiting = self.lock();
        if let (Some(_), Some(next)) = (waiting.closed, waiting.next.clone()) {
            drop(waiting);
            return next.take(record);
        }
        let fits = waiting.bytes + record.len() <= self.limits.bytes && waiting.records < self.limits.records;
        if waiting.closed.is_some() || !fits {
            drop(waiting);
            self.stats.dropped_queue.fetch_add(1, Relaxed);
            return;
        }
        let comma: &[u8] = match self.encoding {
            Encoding::Json if waiting.filling.records > 0 => b",",
            _ => b"",
        };
        waiting.filling.bytes.extend_from_slice(comma);
        waiting.filling.bytes.extend_from_slice(record);
        waiting.filling.records += 1;
        let bytes = comma.len() + record.len();
        waiting.bytes += bytes;
        waiting.records += 1;
        self.stats.queued_bytes.fetch_add(bytes as u64, Relaxed);
        self.stats.queued.fetch_add(1, Relaxed);
        if waiting.filling.records >= self.limits.batch || waiting.filling.bytes.len() >= LARGEST_BATCH {
            waiting.seal();
            drop(waiting);
            self.ready.notify_one();
        }
    }

    /// A full batch; or, after `patience`, what there is. `None` when the queue is closed and empty.
    pub async fn next(&self, patience: Duration) -> Option<Batch> {
        loop {
            let _ = tokio::time::timeout(patience, self.full()).await;
            let mut waiting = self.lock();
            if waiting.full.is_empty() {
                waiting.seal();
            }
            match waiting.full.pop_front() {
                Some(batch) => return Some(batch),
                None if waiting.closed.is_some() => return None,
                None => {}
            }
        }
    }

    /// Ready when a batch is full, or the queue closed.
    async fn full(&self) {
        loop {
            let notified = self.ready.notified();
            {
                let waiting = self.lock();
                if waiting.closed.is_some() || !waiting.full.is_empty() {
                    return;
                }
            }
            notified.await;
        }
    }

    /// A batch has left for good.
    pub fn left(&self, batch: Batch) {
        let Batch { mut bytes, records } = batch;
        let length = bytes.len();
        bytes.clear();
        let mut waiting = self.lock();
        waiting.bytes -= length;
        waiting.records -= records;
        waiting.spare = bytes;
        drop(waiting);
        self.stats.queued_bytes.fetch_sub(length as u64, Relaxed);
        self.stats.queued.fetch_sub(records, Relaxed);
    }

    /// No more come. What waits can still be taken.
    pub fn close(&self) {
        self.lock().closed.get_or_insert_with(Instant::now);
        self.ready.notify_one();
    }

    /// Whoever still holds this one when it is closed puts into `next`, if that is written alike.
    pub fn hand_on(&self, next: &Arc<Queue>) {
        if next.encoding == self.encoding {
            self.lock().next = Some(next.clone());
        }
    }

    /// Since when no more come.
    pub fn closed(&self) -> Option<Instant> {
        self.lock().closed
    }

    pub fn stats(&self) -> &Arc<QueueStats> {
        &self.stats
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(limits: Limits) -> Queue {
        Queue::new(Encoding::Protobuf, limits, Arc::default())
    }

    fn record(queue: &Queue) {
        queue.write(|out, _, _| out.extend_from_slice(&[0; 100]));
    }

    const LIMITS: Limits = Limits { bytes: 100_000, records: 100, batch: 3, value: 100 };

    #[tokio::test]
    async fn a_full_batch_leaves_at_once_and_the_rest_when_patience_ends() {
        let queue = queue(LIMITS);
        (0..4).for_each(|_| record(&queue));
        assert_eq!(queue.next(Duration::from_secs(3600)).await.unwrap().records, 3);
        assert_eq!(queue.next(Duration::ZERO).await.unwrap().records, 1);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_all_is_counted() {
        for limits in [Limits { records: 5, ..LIMITS }, Limits { bytes: 600, ..LIMITS }] {
            let queue = queue(limits);
            (0..20).for_each(|_| record(&queue));
            let stats = queue.stats().clone();
            let count = |of: &AtomicU64| of.load(Relaxed);
            assert!(count(&stats.queued) >= 3 && count(&stats.dropped_queue) > 0, "{stats:?}");
            assert_eq!(count(&stats.recorded), count(&stats.queued) + count(&stats.dropped_queue));
            queue.close();
            while let Some(batch) = queue.next(Duration::ZERO).await {
                queue.left(batch);
            }
            assert_eq!((count(&stats.queued), count(&stats.queued_bytes)), (0, 0));
        }
    }

    #[tokio::test]
    async fn a_closed_queue_takes_nothing_and_ends_when_it_is_empty() {
        let queue = queue(LIMITS);
        record(&queue);
        queue.close();
        record(&queue);
        assert_eq!(queue.next(Duration::from_secs(3600)).await.unwrap().records, 1);
        assert!(queue.next(Duration::from_secs(3600)).await.is_none());
        assert_eq!(queue.stats().dropped_queue.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn what_comes_late_to_a_closed_queue_goes_to_its_successor() {
        let stats = Arc::<QueueStats>::default();
        let of = |encoding| Arc::new(Queue::new(encoding, LIMITS, stats.clone()));
        let (first, second, other) = (of(Encoding::Protobuf), of(Encoding::Protobuf), of(Encoding::Json));
        first.hand_on(&second);
        first.close();
        record(&first);
        assert_eq!(second.next(Duration::ZERO).await.unwrap().records, 1);
        second.hand_on(&other);
        second.close();
        record(&first);
        let count = |of: &AtomicU64| of.load(Relaxed);
        assert_eq!((count(&stats.recorded), count(&stats.dropped_queue)), (2, 1), "it writes others");
    }
}
