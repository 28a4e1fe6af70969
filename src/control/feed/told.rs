//! What one reader has subscribed to, and up to where it has been told. Kept small: there are thousands of readers, and each
//! follows hundreds of services.

use std::{collections::BTreeSet, sync::Arc};

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

/// By their numbers, which readers choose, and mostly count upwards.
#[derive(Default)]
pub(super) struct Subscriptions {
    told: Vec<(u64, Told)>,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.told.len()
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.find(number).is_ok()
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        self.told.iter().map(|(number, _)| *number).collect()
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
        let index = self.find(number).ok()?;
        Some(&mut self.told[index].1)
    }

    pub(super) fn insert(&mut self, number: u64, told: Told) {
        let Err(index) = self.find(number) else { return };
        if self.told.len() == self.told.capacity() {
            self.told.reserve_exact(self.told.len() / 8 + 4);
        }
        self.told.insert(index, (number, told));
    }

    /// The name of its service, where nothing of that is followed any more.
    pub(super) fn remove(&mut self, number: u64) -> Option<Arc<str>> {
        let name = self.told.remove(self.find(number).ok()?).1.name;
        let is_followed = self.told.iter().any(|(_, told)| Arc::ptr_eq(&told.name, &name));
        (!is_followed).then_some(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.told.iter().map(|(_, told)| &told.name)
    }

    fn find(&self, number: u64) -> Result<usize, usize> {
        self.told.binary_search_by_key(&number, |(number, _)| *number)
    }
}
