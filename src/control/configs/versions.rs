//! Where configurations are kept: each with its last versions, and how far the newest has spread.
//!
//! A store may be other machines, so that everything asked of it waits, and may fail. What it has is decided by whoever puts; how a
//! rollout proceeds is not its business.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use futures::future::BoxFuture;
use tokio::sync::broadcast;

use super::document::Documents;
use crate::{
    config::RolloutSettings,
    control::refused::{Reason, Refused},
    policy::waves::{Kept, Phase},
};

pub(crate) type Name = Arc<str>;

/// Versions of one configuration that are kept.
pub(crate) const MOST_VERSIONS: usize = 50;
/// They are fewer where their texts are larger than this together.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// Never changed once it is put.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Version {
    /// From 1.
    pub(crate) number: u64,
    pub(crate) documents: Documents,
    /// Of the documents as gateways get them.
    pub(crate) sha256: String,
    pub(crate) by: String,
    pub(crate) at: SystemTime,
    /// The one it repeats, after a rollback.
    pub(crate) repeats: Option<u64>,
}

/// How far the newest version has spread.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Course {
    pub(crate) version: u64,
    /// What whoever is not to have it has; 0 for nothing.
    pub(crate) stable: u64,
    pub(crate) checked_by: String,
    pub(crate) settings: RolloutSettings,
    pub(crate) rollout: Kept,
}

pub(super) type Asked<'a, T> = BoxFuture<'a, Result<T, Refused>>;

/// Refuses with `store_unavailable` whatever it cannot do now.
pub(crate) trait Versions: Send + Sync {
    fn names(&self) -> Asked<'_, Vec<Name>>;

    /// Those that are kept, the oldest first.
    fn versions<'a>(&'a self, name: &'a str) -> Asked<'a, Vec<Arc<Version>>>;

    /// How far the newest has spread.
    fn current<'a>(&'a self, name: &'a str) -> Asked<'a, Option<Course>>;

    /// Keeps a new version, durably. `stale` where another one has its number.
    fn put<'a>(&'a self, name: &'a Name, version: Arc<Version>, course: Course) -> Asked<'a, ()>;

    /// Keeps how far the newest version has spread, durably; `stale` where `course` is of another one.
    fn go_on<'a>(&'a self, name: &'a Name, course: Course) -> Asked<'a, ()>;

    /// Names of which something changes from now on, by whomever.
    fn watch(&self) -> broadcast::Receiver<Name>;
}

impl Course {
    /// What is to be had before the version after this one is.
    pub(crate) fn proven(&self) -> u64 {
        if self.rollout.phase == Phase::Done { self.version } else { self.stable }
    }

    /// Of a version of which it is not known any more how far it has spread.
    pub(crate) fn lost(version: u64, settings: RolloutSettings) -> Course {
        let why = "how far it had spread is lost (`resume` begins anew, `abort` leaves everything as it is)";
        let rollout =
            Kept { phase: Phase::Paused, wave: 0, members: BTreeSet::new(), why: Some(why.to_owned()) };
        Course { version, stable: 0, checked_by: String::new(), settings, rollout }
    }
}

/// The first of `versions` that are not to be kept.
pub(crate) fn superfluous(versions: &[Arc<Version>], course: &Course) -> Vec<u64> {
    let (mut bytes, mut count) = (0, 0);
    let is_needed = |version: &Version| [course.version, course.stable].contains(&version.number);
    let mut superfluous = Vec::new();
    for version in versions.iter().rev() {
        bytes += version.documents.size();
        count += 1;
        if (count > MOST_VERSIONS || bytes > MOST_BYTES) && !is_needed(version) {
            superfluous.push(version.number);
        }
    }
    superfluous
}

pub(crate) fn stale(name: &str, newest: u64) -> Refused {
    let why = match newest {
        0 => format!("there is no configuration {name:?} yet"),
        _ => format!("{name:?} is at version {newest} (read it, and make the change to that)"),
    };
    Reason::Stale.because(why)
}
