//! What one reader has subscribed to, and up to where it has been told. Kept small: there are thousands of readers, and each
//! follows hundreds of services.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{control::store::Position, upstream::Selector};

/// One subscription: which instances, and up to where they are told.
pub(super) struct Told {
    pub(super) name: Arc<str>,
    /// Where not all instances are wanted.
    pub(super) narrowed: Option<Box<Selector>>,
    pub(super) position: Position,
    /// Nothing was said of it yet.
    pub(super) is_new: bool,
}

/// By their numbers, which readers choose.
#[derive(Default)]
pub(super) struct Subscriptions {
    told: HashMap<u64, Told>,
    by_name: BTreeSet<(Arc<str>, u64)>,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.told.len()
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.told.contains_key(&number)
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        self.told.keys().copied().collect()
    }

    /// Those of one service.
    pub(super) fn of(&self, name: &Arc<str>) -> Vec<u64> {
        let of_name = self.by_name.range((name.clone(), 0)..=(name.clone(), u64::MAX));
        of_name.map(|(_, number)| *number).collect()
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Told> {
        self.told.get_mut(&number)
    }

    pub(super) fn insert(&mut self, number: u64, told: Told) {
        self.by_name.insert((told.name.clone(), number));
        self.told.insert(number, told);
    }

    /// The name of its service, where nothing of that is followed any more.
    pub(super) fn remove(&mut self, number: u64) -> Option<Arc<str>> {
        let name = self.told.remove(&number)?.name;
        self.by_name.remove(&(name.clone(), number));
        self.of(&name).is_empty().then_some(name)
    }
}
