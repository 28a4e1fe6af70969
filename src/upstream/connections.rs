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
pub struct IdleSlot {
    connections: Arc<Connections>,
    generation: Generation,
}

/// Which of an endpoint's connections may be used again: those that are older than its last failure are held to be dead.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    present: Arc<AtomicUsize>,
    number: usize,
}

/// How many connections may be idle, and for how long.
#[derive(Clone, Debug, Default)]
pub struct IdleLimit {
    connections: Arc<Connections>,
    most: usize,
    pub idle_timeout: Duration,
    generation: Generation,
}

impl IdleLimit {
    pub fn new(connections: &Arc<Connections>, most: usize, idle_timeout: Duration) -> IdleLimit {
        let generation = Generation::default();
        IdleLimit { connections: connections.clone(), most, idle_timeout, generation }
    }

    /// The same for connections of this generation.
    pub fn of(self, generation: Generation) -> IdleLimit {
        IdleLimit { generation, ..self }
    }

    /// Whether one more would be one too many.
    pub fn is_reached(&self) -> bool {
        self.connections.idle.load(Relaxed) >= self.most
    }

    /// A place for one more; `None` where that is one too many.
    pub fn take(&self) -> Option<IdleSlot> {
        let room = |idle| (idle < self.most).then_some(idle + 1);
        self.connections.idle.fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(IdleSlot { connections: self.connections.clone(), generation: self.generation.clone() })
    }
}

impl IdleSlot {
    /// Whether its endpoint has failed since the connection was opened.
    pub fn is_void(&self) -> bool {
        self.generation.is_over()
    }
}

impl Generation {
    /// Of all connections that are opened from now on.
    pub(super) fn of(present: &Arc<AtomicUsize>) -> Generation {
        Generation { present: present.clone(), number: present.load(Relaxed) }
    }

    pub fn number(&self) -> usize {
        self.number
    }

    fn is_over(&self) -> bool {
        self.present.load(Relaxed) != self.number
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
        self.connections.idle.fetch_sub(1, Relaxed);
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

    #[test]
    fn what_rests_is_void_once_its_endpoint_has_failed() {
        let present = Arc::default();
        let rest = |most| {
            let of = Generation::of(&present);
            IdleLimit::new(&Arc::default(), most, Duration::ZERO).of(of).take().unwrap()
        };
        let before = rest(1);
        assert!(!before.is_void());
        present.fetch_add(1, Relaxed);
        assert!(before.is_void() && !rest(1).is_void());
    }
}
