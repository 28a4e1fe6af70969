//! What is new of one service since somebody was told of it: the events that came since, each instance once, or the whole
//! service where they are not remembered.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use crate::control::{
    instance::Instance,
    registry::Registry,
    store::{Event, Gone, Kind, Position},
};

pub(crate) struct Difference {
    /// Up to which it is told.
    pub(crate) position: Position,
    /// `changed` is all there is.
    pub(crate) reset: bool,
    pub(crate) warming: bool,
    pub(crate) changed: Vec<Arc<Instance>>,
    /// By their ids. With `reset`, those that are remembered to have left lately.
    pub(crate) removed: Vec<(Arc<str>, Gone)>,
    /// Why the last one left, where there is none and it is known.
    pub(crate) emptied: Option<Gone>,
    /// When the first of the changes was made, where these are known.
    pub(crate) begun: Option<Instant>,
}

impl Difference {
    /// Of `name`, for who was told up to `from`.
    pub(crate) fn since(registry: &Registry, name: &str, from: Position) -> Difference {
        let warming = registry.is_warming();
        // Before the events: what comes meanwhile is told twice rather than not at all.
        let position = registry.position();
        let Some(events) = registry.store().since(from, Some(name)) else {
            let service = registry.service(name);
            // What is not remembered any more was of others. When one that is empty changed is forgotten in time.
            let is_same = from.epoch == position.epoch
                && (1..=from.revision).contains(&service.changed)
                && from.revision <= position.revision;
            let (changed, removed) = match is_same {
                true => (Vec::new(), Vec::new()),
                false => (service.instances.clone(), service.gone.clone()),
            };
            let emptied = service.emptied;
            return Difference { position, reset: !is_same, warming, changed, removed, emptied, begun: None };
        };
        let (changed, removed) = last_of_each(&events);
        let emptied = if removed.is_empty() { None } else { registry.service(name).emptied };
        let begun = events.first().map(|event| event.at);
        Difference { position, reset: false, warming, changed, removed, emptied, begun }
    }

    /// Whether there is nothing to tell of.
    pub(crate) fn is_empty(&self) -> bool {
        !self.reset && self.changed.is_empty() && self.removed.is_empty()
    }
}

type Removed = Vec<(Arc<str>, Gone)>;

/// In the order of their ids.
fn last_of_each(events: &[Arc<Event>]) -> (Vec<Arc<Instance>>, Removed) {
    let last: BTreeMap<&str, &Arc<Event>> = events.iter().map(|event| (&*event.instance.id, event)).collect();
    let (mut changed, mut removed) = (Vec::new(), Vec::new());
    for event in last.into_values() {
        match event.kind {
            Kind::Gone(why) => removed.push((event.instance.id.clone(), why)),
            Kind::Registered | Kind::Updated | Kind::Held => changed.push(event.instance.clone()),
        }
    }
    (changed, removed)
}
