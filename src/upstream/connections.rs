//! How many connections to an upstream may be idle, those of both versions of HTTP together: to one endpoint, so that none takes
//! the places of the others, and in all.

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
    endpoint: Arc<Connected>,
    number: usize,
}

/// The connections of one endpoint. Kept over reloads.
#[derive(Debug, Default)]
pub(super) struct Connected {
    /// The generation of those that are opened now. Counts up.
    generation: AtomicUsize,
    idle: Padded<AtomicUsize>,
}

/// How many connections may be idle, and for how long.
#[derive(Clone, Debug, Default)]
pub struct IdleLimit {
    connections: Arc<Connections>,
    most: usize,
    most_of_endpoint: usize,
    pub idle_timeout: Duration,
    generation: Generation,
}

impl IdleLimit {
    pub fn new(connections: &Arc<Connections>, most: usize, idle_timeout: Duration) -> IdleLimit {
        let (connections, generation) = (connections.clone(), Generation::default());
        IdleLimit { connections, most, most_of_endpoint: most, idle_timeout, generation }
    }

    /// The same for connections of this generation, of whose endpoint no more than `most` may be idle.
    pub fn of(self, generation: Generation, most: usize) -> IdleLimit {
        IdleLimit { generation, most_of_endpoint: most, ..self }
    }

    /// Whether one more would be one too many.
    pub fn is_reached(&self) -> bool {
        self.connections.idle.load(Relaxed) >= self.most
            || self.generation.endpoint.idle.load(Relaxed) >= self.most_of_endpoint
    }

    /// A place for one more; `None` where that is one too many.
    pub fn take(&self) -> Option<IdleSlot> {
        let take = |idle: &AtomicUsize, most: usize| {
            idle.fetch_update(Relaxed, Relaxed, |idle| (idle < most).then_some(idle + 1)).is_ok()
        };
        if !take(&self.generation.endpoint.idle, self.most_of_endpoint) {
            return None;
        }
        if !take(&self.connections.idle, self.most) {
            self.generation.endpoint.idle.fetch_sub(1, Relaxed);
            return None;
        }
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
    pub(super) fn of(endpoint: &Arc<Connected>) -> Generation {
        Generation { endpoint: endpoint.clone(), number: endpoint.generation.load(Relaxed) }
    }

    pub fn number(&self) -> usize {
        self.number
    }

    fn is_over(&self) -> bool {
        self.endpoint.generation.load(Relaxed) != self.number
    }
}

impl Connected {
    /// None of those that are there is used again.
    pub(super) fn forget(&self) {
        self.generation.fetch_add(1, Relaxed);
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
        self.generation.endpoint.idle.fetch_sub(1, Relaxed);
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
    fn no_endpoint_takes_the_places_of_the_others() {
        let connections = Arc::new(Connections::default());
        let [one, other] = [Arc::new(Connected::default()), Arc::default()];
        let limit =
            |endpoint| IdleLimit::new(&connections, 3, Duration::ZERO).of(Generation::of(endpoint), 2);
        let kept = [limit(&one).take(), limit(&one).take(), limit(&one).take()];
        assert!(kept[1].is_some() && kept[2].is_none() && limit(&one).is_reached());
        let last = limit(&other).take();
        assert!(last.is_some() && limit(&other).take().is_none(), "three in all");
        drop(kept);
        assert!(limit(&one).take().is_some());
        drop(last);
        assert_eq!(other.idle.load(Relaxed), 0, "whoever found no place in all holds none of its endpoint's");
    }

    #[test]
    fn what_rests_is_void_once_its_endpoint_has_failed() {
        let endpoint = Arc::new(Connected::default());
        let rest = |most| {
            let of = Generation::of(&endpoint);
            IdleLimit::new(&Arc::default(), most, Duration::ZERO).of(of, most).take().unwrap()
        };
        let before = rest(1);
        assert!(!before.is_void());
        endpoint.forget();
        drop(before);
        assert!(!rest(1).is_void());
        let before = rest(1);
        endpoint.forget();
        assert!(before.is_void());
    }
}
