//! How many connections to an upstream are open, at work, or idle: those of HTTP/1 in our own pool, those of HTTP/2 in
//! Pingora's, which knows only one bound for all upstreams together. The operator's bound holds for both together.

use std::{
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use pingora_core::upstreams::peer::{Tracer, Tracing};

use crate::sharded::{Padded, Sharded};

/// The connections of one upstream, all endpoints together. Kept over reloads.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicUsize,
    /// Written by each request, and read only where HTTP/2 is spoken.
    busy: Sharded<AtomicIsize>,
    /// In our own pool. One for all threads, as the bound is; by itself, for it is written by each request.
    resting: Padded<AtomicUsize>,
    /// HTTP/2 has been spoken: some may rest in Pingora's pool.
    has_http2: AtomicBool,
    keys: RandomState,
}

/// A request at work on one of them, until dropped.
#[derive(Debug)]
pub struct Busy(Arc<Connections>);

/// One of them in our own pool, until dropped.
#[derive(Debug)]
pub struct IdleSlot(Arc<Connections>);

/// How many connections may be idle in our own pool, and for how long.
#[derive(Clone, Debug, Default)]
pub struct IdleLimit {
    connections: Arc<Connections>,
    most: usize,
    pub idle_timeout: Duration,
}

impl IdleLimit {
    pub fn new(connections: &Arc<Connections>, most: usize, idle_timeout: Duration) -> IdleLimit {
        IdleLimit { connections: connections.clone(), most, idle_timeout }
    }

    /// A connection speaks HTTP/2, and will rest in Pingora's pool.
    pub fn speaks_http2(&self) {
        if !self.connections.has_http2.load(Relaxed) {
            self.connections.has_http2.store(true, Relaxed);
        }
    }

    /// Whether one more would be one too many.
    pub fn is_reached(&self) -> bool {
        self.connections.idle() >= self.most
    }

    /// A place for one more; `None` where that is one too many.
    pub fn take(&self) -> Option<IdleSlot> {
        let elsewhere = self.connections.idle_in_pingora();
        let room = |resting| (resting + elsewhere < self.most).then_some(resting + 1);
        self.connections.resting.fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(IdleSlot(self.connections.clone()))
    }
}

impl Connections {
    fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Open and without a request.
    pub fn idle(&self) -> usize {
        self.idle_in_pingora() + self.resting.load(Relaxed)
    }

    /// The same in Pingora's pool. Never too many: an HTTP/2 connection works for several requests at once.
    fn idle_in_pingora(&self) -> usize {
        if !self.has_http2.load(Relaxed) {
            return 0;
        }
        // A request may end on another thread than it began on: only the sum says something.
        let busy: isize = self.busy.all().map(|busy| busy.load(Relaxed)).sum();
        let busy = usize::try_from(busy).unwrap_or_default();
        self.open().saturating_sub(busy + self.resting.load(Relaxed))
    }

    /// For what clients could otherwise find two of that are alike.
    pub fn keys(&self) -> &RandomState {
        &self.keys
    }

    pub fn start(self: &Arc<Self>) -> Busy {
        self.busy.mine().fetch_add(1, Relaxed);
        Busy(self.clone())
    }

    /// Has Pingora count the connections it opens for a peer.
    pub fn tracer(self: &Arc<Self>) -> Tracer {
        Tracer(Box::new(Counted(self.clone())))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.mine().fetch_sub(1, Relaxed);
    }
}

impl Drop for IdleSlot {
    fn drop(&mut self) {
        self.0.resting.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug)]
struct Counted(Arc<Connections>);

impl Tracing for Counted {
    fn on_connected(&self) {
        self.0.open.fetch_add(1, Relaxed);
    }

    fn on_disconnected(&self) {
        self.0.open.fetch_sub(1, Relaxed);
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(Counted(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_what_is_open_and_neither_at_work_nor_in_our_own_pool() {
        let connections = Arc::new(Connections::default());
        IdleLimit::new(&connections, 0, Duration::ZERO).speaks_http2();
        let tracer = connections.tracer();
        tracer.0.on_connected();
        tracer.clone().0.on_connected();
        let busy = connections.start();
        assert_eq!((connections.open(), connections.idle_in_pingora()), (2, 1));
        let more = [connections.start(), connections.start()];
        assert_eq!(connections.idle_in_pingora(), 0);
        drop((busy, more));
        tracer.0.on_disconnected();
        assert_eq!((connections.open(), connections.idle_in_pingora()), (1, 1));
        let limit = IdleLimit::new(&connections, 1, Duration::ZERO);
        // That one may be at rest anywhere.
        assert!(limit.take().is_none());
        let limit = IdleLimit::new(&connections, 2, Duration::ZERO);
        let resting = limit.take();
        assert_eq!((resting.is_some(), connections.idle_in_pingora(), connections.idle()), (true, 0, 1));
        drop(resting);
        assert!(limit.take().is_some());
    }
}
