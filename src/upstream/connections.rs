//! How many connections to an upstream may be idle: those of both versions of HTTP together.

use std::{
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::sharded::Padded;

/// The connections of one upstream, all endpoints together. Kept over reloads.
#[derive(Debug, Default)]
pub struct Connections {
    /// One for all threads, as the bound is; by itself, for it is written by each request.
    idle: Padded<AtomicUsize>,
    keys: RandomState,
}

/// One of them that is idle, until dropped.
#[derive(Debug)]
pub struct IdleSlot(Arc<Connections>);

/// How many connections may be idle, and for how long.
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

    /// Whether one more would be one too many.
    pub fn is_reached(&self) -> bool {
        self.connections.idle.load(Relaxed) >= self.most
    }

    /// A place for one more; `None` where that is one too many.
    pub fn take(&self) -> Option<IdleSlot> {
        let room = |idle| (idle < self.most).then_some(idle + 1);
        self.connections.idle.fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(IdleSlot(self.connections.clone()))
    }
}

impl Connections {
    /// For what clients could otherwise find two of that are alike.
    pub fn keys(&self) -> &RandomState {
        &self.keys
    }
}

impl Drop for IdleSlot {
    fn drop(&mut self) {
        self.0.idle.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_has_so_many_places_for_all_that_ask() {
        let connections = Arc::new(Connections::default());
        let limit = IdleLimit::new(&connections, 1, Duration::ZERO);
        let place = limit.take();
        assert!(place.is_some() && limit.clone().take().is_none());
        // Its operator has raised it.
        let limit = IdleLimit::new(&connections, 2, Duration::ZERO);
        assert!(limit.take().is_some());
        drop(place);
        assert!(limit.take().is_some());
    }
}
