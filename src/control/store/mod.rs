//! Where instances are kept, and the order in which they change.
//!
//! Each change has a revision, one more than the one before. Revisions are of one epoch: whoever was told of another epoch
//! knows nothing about what is between, and starts over. A store is asked for everything, or for what has come since a
//! revision.

pub(in crate::control) mod etcd;
pub(crate) mod file;
mod log;
mod memory;
pub(in crate::control) mod saved;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Instant};

pub(crate) use self::{memory::Memory, saved::StateFile};
use super::instance::{Instance, State};

pub(crate) trait Store: Send + Sync {
    fn position(&self) -> Position;

    fn get(&self, id: &str) -> Option<Arc<Instance>>;

    /// Instances by id, of one service or of all, after the id `after`. At most `limit`.
    fn list(&self, name: Option<&str>, after: Option<&str>, limit: usize) -> Vec<Arc<Instance>>;

    /// The same picture until something in it changes.
    fn service(&self, name: &str) -> Arc<Service>;

    /// Each service that has an instance, by name.
    fn names(&self) -> Vec<Arc<str>>;

    fn count(&self) -> Count;

    /// How many are in each state, of one service or of all.
    fn states(&self, name: Option<&str>) -> BTreeMap<State, usize>;

    /// Change one instance. The event has its revision.
    fn apply(&self, change: Change, now: Instant) -> Arc<Event>;

    /// Changes that were made elsewhere, all of them at `revision`, which is no smaller than any before.
    fn learn(&self, revision: u64, changes: Vec<Change>, now: Instant) -> Vec<Arc<Event>>;

    /// The same instances from now on, as of another epoch.
    fn begin(&self, position: Position);

    /// What has come after `from`, of one service or of all; `None` where that is no longer known.
    fn since(&self, from: Position, name: Option<&str>) -> Option<Vec<Arc<Event>>>;

    /// The revision of the last change of one service, or of all; no earlier than the last that is known.
    fn changed(&self, name: Option<&str>) -> u64;

    /// Forget what nobody will ask for any more; to be called once a second.
    fn tidy(&self, now: Instant);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) revision: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.revision)
    }
}

impl Position {
    pub(crate) fn parse(text: &str) -> Option<Position> {
        let (epoch, revision) = text.split_once(':')?;
        Some(Position { epoch: epoch.parse().ok()?, revision: revision.parse().ok()? })
    }
}

/// All that a service has, as one consistent picture.
#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    /// By id.
    pub(crate) instances: Vec<Arc<Instance>>,
    /// The ids of those that left lately, with why; the last one at the end.
    pub(crate) gone: Vec<(Arc<str>, Gone)>,
    /// Why the last one left, where there is none; `None` where there has been none lately.
    pub(crate) emptied: Option<Gone>,
    /// The revision of the last change, removals included; 0 where there has been none lately.
    pub(crate) changed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) instances: usize,
    pub(crate) services: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Its revision is the store's to give.
    Put(Instance, Kind),
    Remove(Arc<Instance>, Gone),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Deregistered,
    Expired,
}

/// What has happened to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Registered,
    Updated,
    Held,
    Gone(Gone),
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Registered => "registered",
            Kind::Updated => "updated",
            Kind::Held => "held",
            Kind::Gone(Gone::Deregistered) => "deregistered",
            Kind::Gone(Gone::Expired) => "expired",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) at: Instant,
    pub(crate) kind: Kind,
    /// As it is now, or was at last.
    pub(crate) instance: Arc<Instance>,
}
