//! The store of one process: all of it is in memory. What must outlive the process is written to a file beside it
//! (`saved`).

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use super::{
    Change, Count, Event, Gone, Kind, Position, Service, Store,
    log::{LONGEST, Log},
};
use crate::control::instance::{Instance, State};

/// Names of services that nobody is registered for any more. They say why the last one left.
const MOST_EMPTIED: usize = 10_000;

pub(crate) struct Memory(RwLock<Table>);

struct Table {
    position: Position,
    instances: BTreeMap<Arc<str>, Arc<Instance>>,
    services: BTreeMap<Arc<str>, Members>,
    /// Services that nobody is registered for any more.
    emptied: BTreeMap<Arc<str>, Emptied>,
    log: Log,
}

#[derive(Default)]
struct Members {
    instances: BTreeMap<Arc<str>, Arc<Instance>>,
    changed: u64,
    picture: OnceLock<Arc<Service>>,
}

struct Emptied {
    gone: Gone,
    revision: u64,
    at: Instant,
}

impl Memory {
    /// With `instances`, whose ids are all different, as of `position`.
    pub(crate) fn new(position: Position, instances: Vec<Arc<Instance>>) -> Memory {
        let mut table = Table {
            position,
            instances: BTreeMap::new(),
            services: BTreeMap::new(),
            emptied: BTreeMap::new(),
            log: Log::new(position.revision),
        };
        instances.into_iter().for_each(|instance| table.insert(instance, position.revision));
        Memory(RwLock::new(table))
    }

    /// Whole after every statement that changes it.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn position(&self) -> Position {
        self.read().position
    }

    fn get(&self, id: &str) -> Option<Arc<Instance>> {
        self.read().instances.get(id).cloned()
    }

    fn list(&self, name: Option<&str>, after: Option<&str>, limit: usize) -> Vec<Arc<Instance>> {
        let table = self.read();
        let instances = match name {
            None => Some(&table.instances),
            Some(name) => table.services.get(name).map(|service| &service.instances),
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = instances.into_iter().flat_map(|all| all.range::<str, _>((from, Bound::Unbounded)));
        found.map(|(_, instance)| instance.clone()).take(limit).collect()
    }

    fn service(&self, name: &str) -> Arc<Service> {
        let table = self.read();
        match table.services.get(name) {
            Some(members) => members.picture.get_or_init(|| Arc::new(table.picture(name, members))).clone(),
            None => Arc::new(table.empty(name)),
        }
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.read().services.keys().cloned().collect()
    }

    fn count(&self) -> Count {
        let table = self.read();
        Count { instances: table.instances.len(), services: table.services.len() }
    }

    fn states(&self, name: Option<&str>) -> BTreeMap<State, usize> {
        let table = self.read();
        let instances = match name {
            None => Some(&table.instances),
            Some(name) => table.services.get(name).map(|members| &members.instances),
        };
        let mut states = BTreeMap::new();
        for instance in instances.into_iter().flat_map(BTreeMap::values) {
            *states.entry(instance.state()).or_default() += 1;
        }
        states
    }

    fn apply(&self, change: Change, now: Instant) -> Arc<Event> {
        let mut table = self.write();
        table.position.revision += 1;
        table.apply(change, now)
    }

    fn learn(&self, revision: u64, changes: Vec<Change>, now: Instant) -> Vec<Arc<Event>> {
        let mut table = self.write();
        // Whoever reads a position may rely on all up to it, so all of a revision come at once.
        table.position.revision = table.position.revision.max(revision);
        changes.into_iter().map(|change| table.apply(change, now)).collect()
    }

    fn begin(&self, position: Position) {
        let mut table = self.write();
        table.position = position;
        table.log = Log::new(position.revision);
        table.emptied.clear();
        for members in table.services.values_mut() {
            members.changed = position.revision;
            members.picture.take();
        }
    }

    fn since(&self, from: Position, name: Option<&str>) -> Option<Vec<Arc<Event>>> {
        let table = self.read();
        let is_known = from.epoch == table.position.epoch && from.revision <= table.position.revision;
        if is_known { table.log.since(from.revision, name) } else { None }
    }

    fn changed(&self, name: Option<&str>) -> u64 {
        let table = self.read();
        let Some(name) = name else { return table.position.revision };
        let present = table.services.get(name).map(|service| service.changed);
        let changed = present.or_else(|| table.emptied.get(name).map(|emptied| emptied.revision));
        changed.unwrap_or(0).max(table.log.floor())
    }

    fn tidy(&self, now: Instant) {
        let mut table = self.write();
        table.log.tidy(now);
        table.emptied.retain(|_, emptied| now.saturating_duration_since(emptied.at) <= LONGEST);
        let surplus = table.emptied.len().saturating_sub(MOST_EMPTIED);
        if surplus > 0 {
            let mut revisions: Vec<u64> = table.emptied.values().map(|emptied| emptied.revision).collect();
            revisions.sort_unstable();
            table.emptied.retain(|_, emptied| emptied.revision >= revisions[surplus]);
        }
    }
}

impl Table {
    /// At the revision that the table has.
    fn apply(&mut self, change: Change, now: Instant) -> Arc<Event> {
        let revision = self.position.revision;
        let (instance, kind) = match change {
            Change::Put(mut instance, kind) => {
                instance.revision = revision;
                let instance = Arc::new(instance);
                self.insert(instance.clone(), revision);
                (instance, kind)
            }
            Change::Remove(instance, gone) => {
                self.remove(&instance, gone, now);
                (instance, Kind::Gone(gone))
            }
        };
        let event = Arc::new(Event { revision, at: now, kind, instance });
        self.log.push(event.clone());
        event
    }

    fn insert(&mut self, instance: Arc<Instance>, revision: u64) {
        self.emptied.remove(&instance.name);
        let members = self.services.entry(instance.name.clone()).or_default();
        members.instances.insert(instance.id.clone(), instance.clone());
        members.changed = revision;
        members.picture.take();
        self.instances.insert(instance.id.clone(), instance);
    }

    fn remove(&mut self, instance: &Instance, gone: Gone, now: Instant) {
        self.instances.remove(&instance.id);
        let Some(members) = self.services.get_mut(&instance.name) else { return };
        let revision = self.position.revision;
        members.instances.remove(&instance.id);
        members.changed = revision;
        members.picture.take();
        if members.instances.is_empty() {
            self.services.remove(&instance.name);
            self.emptied.insert(instance.name.clone(), Emptied { gone, revision, at: now });
        }
    }

    fn picture(&self, name: &str, members: &Members) -> Service {
        Service {
            instances: members.instances.values().cloned().collect(),
            gone: self.log.gone(name).filter(|(id, _)| !members.instances.contains_key(id)).collect(),
            emptied: None,
            changed: members.changed,
        }
    }

    fn empty(&self, name: &str) -> Service {
        let emptied = self.emptied.get(name);
        Service {
            instances: Vec::new(),
            gone: self.log.gone(name).collect(),
            emptied: emptied.map(|emptied| emptied.gone),
            changed: emptied.map_or(0, |emptied| emptied.revision),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::instance::tests::instance;

    fn store() -> Memory {
        Memory::new(Position { epoch: 7, revision: 100 }, Vec::new())
    }

    fn put(store: &Memory, name: &str, port: u16) -> Arc<Event> {
        store.apply(Change::Put(instance(name, port), Kind::Registered), Instant::now())
    }

    #[test]
    fn revisions_go_up_by_one_and_services_have_their_own() {
        let store = store();
        assert_eq!(put(&store, "a", 1).revision, 101);
        let b = put(&store, "b", 1);
        assert_eq!((b.revision, b.instance.revision), (102, 102));
        assert_eq!(
            (store.changed(None), store.changed(Some("a")), store.changed(Some("b"))),
            (102, 101, 102)
        );
        assert_eq!(
            store.changed(Some("unknown")),
            100,
            "who asks since before that has missed what is forgotten"
        );
        store.apply(Change::Remove(b.instance.clone(), Gone::Expired), Instant::now());
        assert_eq!((store.changed(Some("b")), store.service("b").emptied), (103, Some(Gone::Expired)));
        assert_eq!(store.count(), Count { instances: 1, services: 1 });
        assert_eq!(store.service("b").gone, [(b.instance.id.clone(), Gone::Expired)]);
        store.tidy(Instant::now() + LONGEST + Duration::from_secs(1));
        assert_eq!(store.service("b").emptied, None);
    }

    #[test]
    fn a_picture_is_the_same_until_something_in_it_changes() {
        let store = store();
        let event = put(&store, "a", 1);
        let before = store.service("a");
        put(&store, "b", 1);
        assert!(Arc::ptr_eq(&before, &store.service("a")));
        put(&store, "a", 2);
        store.apply(Change::Remove(event.instance.clone(), Gone::Deregistered), Instant::now());
        let after = store.service("a");
        assert_eq!((after.instances.len(), after.gone.len(), after.changed), (1, 1, 104));
        put(&store, "a", 1);
        assert_eq!(store.service("a").gone, [], "it is back");
    }

    #[test]
    fn another_epoch_or_the_future_is_not_known() {
        let store = store();
        put(&store, "a", 1);
        let since =
            |epoch, revision| store.since(Position { epoch, revision }, None).map(|events| events.len());
        assert_eq!((since(7, 100), since(7, 101)), (Some(1), Some(0)));
        assert_eq!((since(8, 100), since(7, 99), since(7, 102)), (None, None, None));
    }

    #[test]
    fn what_was_made_elsewhere_comes_whole_and_another_epoch_forgets_what_led_to_it() {
        let store = store();
        let all = (1..=3).map(|port| Change::Put(instance("a", port), Kind::Registered)).collect();
        let events = store.learn(140, all, Instant::now());
        assert!(events.iter().all(|event| event.revision == 140 && event.instance.revision == 140));
        assert_eq!(store.position().revision, 140);
        let since =
            |epoch, revision| store.since(Position { epoch, revision }, Some("a")).map(|events| events.len());
        assert_eq!((since(7, 139), since(7, 140)), (Some(3), Some(0)));
        let before = store.service("a");
        store.begin(Position { epoch: 8, revision: 20 });
        assert_eq!((since(7, 140), since(8, 20), since(8, 19)), (None, Some(0), None));
        let after = store.service("a");
        assert_eq!((after.instances.len(), after.changed), (before.instances.len(), 20));
    }

    #[test]
    fn lists_are_by_id_in_pages() {
        let store = store();
        for port in 1..=5 {
            put(&store, "a", port);
            put(&store, "b", port);
        }
        let ids = |name, after, limit| {
            let list = store.list(name, after, limit);
            list.iter().map(|instance| instance.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(ids(Some("a"), None, 2), ["a-127.0.0.1-1", "a-127.0.0.1-2"]);
        assert_eq!(ids(Some("a"), Some("a-127.0.0.1-4"), 9), ["a-127.0.0.1-5"]);
        assert_eq!(ids(None, Some("a-127.0.0.1-5"), 1), ["b-127.0.0.1-1"]);
        assert_eq!(ids(Some("c"), None, 9), [""; 0]);
    }
}
