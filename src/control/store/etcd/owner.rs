//! Which replica keeps which instance's clock. Pure: what the store says goes in, and who has to do what comes out.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// The keys of the store, as far as they were heard of.
pub(crate) struct Keys {
    me: Arc<str>,
    by_id: HashMap<Arc<str>, Held>,
    /// Where each replica that lives is reached.
    replicas: HashMap<Arc<str>, Arc<str>>,
    leader: Option<Arc<str>>,
    /// Those that left since the store was last looked through, with the revision at which they were there.
    left: HashMap<Arc<str>, u64>,
}

struct Held {
    /// Of the key's last change; 0 where it is not in the store (any more).
    revision: u64,
    replica: Arc<str>,
}

/// Who is to be told that an instance was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    Me,
    Other {
        replica: Arc<str>,
    },
    /// The replica that kept it is gone.
    Nobody,
}

impl Keys {
    pub(crate) fn new(me: Arc<str>) -> Keys {
        Keys { me, by_id: HashMap::new(), replicas: HashMap::new(), leader: None, left: HashMap::new() }
    }

    pub(crate) fn keeper(&self, id: &str) -> Keeper {
        match self.by_id.get(id) {
            Some(held) if held.replica == self.me => Keeper::Me,
            Some(held) if self.replicas.contains_key(&held.replica) => {
                Keeper::Other { replica: held.replica.clone() }
            }
            _ => Keeper::Nobody,
        }
    }

    /// Whose clock runs here: one's own, and with the leader those that are nobody's.
    pub(crate) fn is_timed_here(&self, id: &str) -> bool {
        match self.keeper(id) {
            Keeper::Me => true,
            Keeper::Other { .. } => false,
            Keeper::Nobody => self.is_leader(),
        }
    }

    /// What its key's revision has to be for a write to count.
    pub(crate) fn revision(&self, id: &str) -> u64 {
        self.by_id.get(id).map_or(0, |held| held.revision)
    }

    pub(crate) fn set(&mut self, id: &Arc<str>, revision: u64, replica: &Arc<str>) {
        self.by_id.insert(id.clone(), Held { revision, replica: replica.clone() });
    }

    /// Something else stands at its key now, which whoever has something to write there writes over.
    pub(crate) fn overwritten(&mut self, id: Arc<str>, revision: u64) {
        let unknown = || Held { revision, replica: "".into() };
        self.by_id.entry(id).or_insert_with(unknown).revision = revision;
    }

    /// It has to be written again.
    pub(crate) fn lost(&mut self, id: &str) {
        if let Some(held) = self.by_id.get_mut(id) {
            held.revision = 0;
        }
    }

    pub(crate) fn forget(&mut self, id: &str) {
        if let Some((id, held)) = self.by_id.remove_entry(id) {
            self.left.insert(id, held.revision);
        }
    }

    /// Whether a record as of `revision` says more of it than is known. One that has left is not there for that.
    pub(crate) fn is_news(&self, id: &str, revision: u64) -> bool {
        revision > self.revision(id).max(self.left.get(id).copied().unwrap_or(0))
    }

    /// The store was looked through.
    pub(crate) fn looked_through(&mut self) {
        self.left.clear();
    }

    pub(crate) fn replica_came(&mut self, id: Arc<str>, advertise: Arc<str>) {
        self.replicas.insert(id, advertise);
    }

    pub(crate) fn replica_gone(&mut self, id: &str) {
        self.replicas.remove(id);
    }

    /// All there are.
    pub(crate) fn set_replicas(&mut self, replicas: HashMap<Arc<str>, Arc<str>>) {
        self.replicas = replicas;
    }

    pub(crate) fn address(&self, replica: &str) -> Option<Arc<str>> {
        self.replicas.get(replica).cloned()
    }

    pub(crate) fn set_leader(&mut self, leader: Option<Arc<str>>) {
        self.leader = leader;
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.leader.as_ref() == Some(&self.me)
    }

    pub(crate) fn has_leader(&self) -> bool {
        self.leader.is_some()
    }

    /// Those that no replica keeps.
    pub(crate) fn orphans(&self) -> Vec<Arc<str>> {
        let is_gone = |held: &Held| held.replica != self.me && !self.replicas.contains_key(&held.replica);
        self.by_id.iter().filter(|(_, held)| is_gone(held)).map(|(id, _)| id.clone()).collect()
    }

    /// Those that are in the store as far as is known, and not in `listed`.
    pub(crate) fn missing_in(&self, listed: &HashSet<Arc<str>>) -> Vec<Arc<str>> {
        let is_missing = |(id, held): &(&Arc<str>, &Held)| held.revision > 0 && !listed.contains(*id);
        self.by_id.iter().filter(is_missing).map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_times_what_belongs_to_a_replica_that_is_gone() {
        let mut keys = Keys::new("me".into());
        for (id, replica) in [("a", "me"), ("b", "other"), ("c", "dead")] {
            keys.set(&id.into(), 5, &replica.into());
        }
        keys.replica_came("other".into(), "127.0.0.1:1".into());
        let timed = |keys: &Keys| ["a", "b", "c", "unknown"].map(|id| keys.is_timed_here(id));
        assert_eq!(timed(&keys), [true, false, false, false]);
        assert_eq!(keys.keeper("b"), Keeper::Other { replica: "other".into() });
        keys.set_leader(Some("me".into()));
        assert_eq!(timed(&keys), [true, false, true, true]);
        assert_eq!(keys.orphans(), [Arc::<str>::from("c")]);
        keys.replica_gone("other");
        assert_eq!((timed(&keys), keys.orphans().len()), ([true, true, true, true], 2));
    }

    #[test]
    fn only_what_was_in_the_store_is_missed_there() {
        let mut keys = Keys::new("me".into());
        for id in ["a", "b", "c"] {
            keys.set(&id.into(), 5, &"me".into());
        }
        keys.lost("b");
        assert_eq!(keys.missing_in(&HashSet::from([Arc::<str>::from("c")])), [Arc::<str>::from("a")]);
        assert_eq!((keys.revision("a"), keys.revision("b"), keys.revision("z")), (5, 0, 0));
        keys.forget("a");
        assert_eq!((keys.is_news("a", 5), keys.is_news("a", 6), keys.is_news("z", 1)), (false, true, true));
        keys.looked_through();
        assert!(keys.is_news("a", 5));
    }
}
