//! The threads that serve connections, each with a runtime of its own. A connection is handed to one of them as it comes
//! in and stays there, with all that is done for it: a task that may wander from thread to thread costs each request the
//! wake-up of another thread.
//!
//! Handed out, and not shared by the kernel (`SO_REUSEPORT`), which knows nothing of how busy a thread is.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::runtime::Handle;

pub(crate) struct Workers {
    all: Vec<Worker>,
    /// Who is asked first next time: of those that are alike, each in turn.
    next: AtomicUsize,
}

struct Worker {
    runtime: Handle,
    open: Arc<AtomicUsize>,
}

/// A connection that is counted at its thread, for as long as this lives.
pub(in crate::accept) struct Seat(Arc<AtomicUsize>);

impl Workers {
    /// The runtimes must be driven for as long as connections are accepted.
    pub(crate) fn new(first: Handle, others: impl IntoIterator<Item = Handle>) -> Workers {
        let worker = |runtime| Worker { runtime, open: Arc::default() };
        let all = std::iter::once(first).chain(others).map(worker).collect();
        Workers { all, next: AtomicUsize::new(0) }
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// The thread with the fewest open connections.
    pub(in crate::accept) fn least_busy(&self) -> (&Handle, Seat) {
        let first = self.next.fetch_add(1, Relaxed) % self.all.len();
        let (before, after) = self.all.split_at(first);
        let least = after.iter().chain(before).min_by_key(|worker| worker.open.load(Relaxed));
        let worker = least.unwrap_or(&self.all[0]);
        (&worker.runtime, Seat::at(&worker.open))
    }
}

impl Seat {
    fn at(open: &Arc<AtomicUsize>) -> Seat {
        open.fetch_add(1, Relaxed);
        Seat(open.clone())
    }

    #[cfg(test)]
    pub(in crate::accept) fn for_test() -> Seat {
        Seat::at(&Arc::default())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(workers: &Workers) -> Vec<usize> {
        workers.all.iter().map(|worker| worker.open.load(Relaxed)).collect()
    }

    #[tokio::test]
    async fn a_connection_goes_to_the_thread_with_the_fewest() {
        let workers = Workers::new(Handle::current(), [Handle::current(), Handle::current()]);
        let mut seats: Vec<Seat> = (0..6).map(|_| workers.least_busy().1).collect();
        assert_eq!(open(&workers), [2, 2, 2]);
        // Both of the second thread.
        drop((seats.remove(4), seats.remove(1)));
        assert_eq!(open(&workers), [2, 0, 2]);
        seats.extend((0..2).map(|_| workers.least_busy().1));
        assert_eq!(open(&workers), [2, 2, 2]);
    }
}
