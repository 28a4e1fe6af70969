//! What one reader has subscribed to, and up to where it has been told. Kept small: there are thousands of readers, and each
//! follows hundreds of services.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{control::store::Position, upstream::Selector};

/// One subscription: which instances, and up to where they are told.
pub(super) struct Told {
    /// As all readers share it.
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

    /// Those of these services, service by service. All are looked at: an index would cost each reader for as long as it lives.
    pub(super) fn of(&self, names: &BTreeSet<Arc<str>>) -> Vec<u64> {
        let mut of_names: Vec<(&Arc<str>, u64)> = (self.told.iter())
            .filter_map(|(number, told)| names.contains(&told.name).then_some((&told.name, *number)))
            .collect();
        of_names.sort_unstable();
        of_names.into_iter().map(|(_, number)| number).collect()
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Told> {
        self.told.get_mut(&number)
    }

    pub(super) fn insert(&mut self, number: u64, told: Told) {
        self.told.insert(number, told);
    }

    /// The name of its service, where nothing of that is followed any more.
    pub(super) fn remove(&mut self, number: u64) -> Option<Arc<str>> {
        let name = self.told.remove(&number)?.name;
        let is_followed = self.told.values().any(|told| Arc::ptr_eq(&told.name, &name));
        (!is_followed).then_some(name)
    }
}
