//! Where configurations are kept: each with its last versions, and how far the newest has spread.
//!
//! A store may be other machines, so that everything asked of it waits, and may fail. What it has is decided by whoever puts; how a
//! rollout proceeds is not its business.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use futures::future::BoxFuture;
use tokio::sync::{broadcast, watch};

use super::{document::Documents, report::Report};
use crate::{
    config::RolloutSettings,
    control::refused::{Located, Reason, Refused},
    policy::waves::{Kept, Phase},
    wire::v1,
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
    /// What a shared store goes by to know whether a change is one of this, or somebody was quicker; a larger one is later. 0 is one
    /// that is not there yet, or whose store nobody else writes.
    pub(crate) basis: u64,
}

pub(crate) type Asked<'a, T> = BoxFuture<'a, Result<T, Refused>>;

/// Refuses with `store_unavailable` whatever it cannot do now.
pub(crate) trait Versions: Send + Sync {
    fn names(&self) -> Asked<'_, Vec<Name>>;

    /// Those that are kept, the oldest first.
    fn versions<'a>(&'a self, name: &'a str) -> Asked<'a, Vec<Arc<Version>>>;

    /// How far the newest has spread.
    fn current<'a>(&'a self, name: &'a str) -> Asked<'a, Option<Course>>;

    /// `store_unavailable` where it is known that nothing can be kept now.
    fn ready(&self) -> Asked<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Keeps a new version, durably. `stale` where another one has its number.
    fn put<'a>(&'a self, name: &'a Name, version: Arc<Version>, course: Course) -> Asked<'a, ()>;

    /// Keeps how far the newest version has spread, durably; `stale` where `course` is of another one.
    fn go_on<'a>(&'a self, name: &'a Name, course: Course) -> Asked<'a, ()>;

    /// Forgets all of it, durably; `stale` where `course` is not how far it has spread.
    fn remove<'a>(&'a self, name: &'a Name, course: Course) -> Asked<'a, ()>;

    /// Names of which something changes from now on, by whomever.
    fn watch(&self) -> broadcast::Receiver<Name>;

    /// Where several processes share it.
    fn others(&self) -> Option<&dyn Others> {
        None
    }
}

/// The replicas that share a store: which of them drives the rollouts, and which gateways are with the others.
pub(crate) trait Others: Send + Sync {
    /// Some where it is for this process to drive rollouts now, and another number each time it begins to.
    fn term(&self) -> Option<u64>;

    /// Counts up when there is news.
    fn heard(&self) -> watch::Receiver<u64>;

    /// The gateways of others that have come, changed or gone since the last time.
    fn news(&self) -> Vec<News>;

    /// What others are to know of the gateways that are here. It is told as soon as that is possible.
    fn tell(&self, told: Vec<Told>);

    /// Has a gateway that is with `replica` check something; `None` where it does not answer.
    fn check<'a>(
        &'a self,
        replica: &'a str,
        request: v1::CheckRequest,
    ) -> BoxFuture<'a, Option<Vec<Located>>>;
}

/// A gateway of another replica; `None` where it has gone.
pub(crate) struct News {
    pub(crate) config: Name,
    pub(crate) node: Name,
    pub(crate) there: Option<Elsewhere>,
}

pub(crate) struct Elsewhere {
    pub(crate) replica: Arc<str>,
    pub(crate) report: Report,
    /// It came there after it had come here.
    pub(crate) is_later: bool,
}

/// A gateway that is here; `None` where it has gone.
pub(crate) struct Told {
    pub(crate) config: Name,
    pub(crate) node: Name,
    pub(crate) report: Option<Report>,
    /// It has just come, and is nowhere else any more.
    pub(crate) has_come: bool,
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
        Course { version, stable: 0, checked_by: String::new(), settings, rollout, basis: 0 }
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
