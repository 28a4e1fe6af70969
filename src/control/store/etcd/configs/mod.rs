//! Configurations of gateways in etcd, as the keys `configs/NAME/VERSION` and `configs/NAME/current`, and the gateways that take them, as
//! `gateways/CONFIG/NODE`. Each replica has all of it in memory (`mirror`), as it is heard of; what it changes it writes here first (`write`).
//! A version is there for all once `current` names it, and that is written only where nobody else was quicker.
//!
//! Of its gateways each replica tells the others what they need (`publish`), with its lease: when it dies, they are with nobody. The leader of
//! the replicas drives the rollouts.

mod mirror;
mod pieces;
mod publish;
mod tokens;
mod write;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{Notify, broadcast, watch};

pub(crate) use self::mirror::Entry;
use self::mirror::{Mirror, Place, Unreadable, Whole};
use super::{Continuity, Shared, layout::Layout};
use crate::{
    config::RolloutSettings,
    control::{
        configs::{Asked, Course, Name, News, Others, Report, Told, Version, Versions},
        peers::Reach,
        refused::{Located, Reason, Refused},
        registry::Registry,
    },
    wire::v1,
};

/// Names that wait for whoever follows; who is behind reads all anew.
const AHEAD: usize = 256;

/// What a replica has of configurations.
pub(super) struct Configs {
    state: Mutex<State>,
    changed: broadcast::Sender<Name>,
    /// Counts up when gateways have come, changed or gone, or it is another's turn to lead.
    heard: watch::Sender<u64>,
    /// There is something to be told to others.
    untold: Notify,
    /// One at a time writes what a restored store lacks.
    pub(super) restoring: tokio::sync::Mutex<()>,
}

struct State {
    mirror: Mirror,
    /// Gateways that are here, as they are to be known to others.
    reports: HashMap<Place, Report>,
    to_write: BTreeSet<Place>,
    /// Those that have left, with the revision of their keys.
    to_delete: HashMap<Place, u64>,
}

impl Configs {
    pub(super) fn new(me: &Arc<str>, layout: &Layout) -> Configs {
        let mirror = Mirror::new(me.clone(), layout.clone());
        let state =
            State { mirror, reports: HashMap::new(), to_write: BTreeSet::new(), to_delete: HashMap::new() };
        Configs {
            state: Mutex::new(state),
            changed: broadcast::Sender::new(AHEAD),
            heard: watch::Sender::new(0),
            untold: Notify::new(),
            restoring: tokio::sync::Mutex::default(),
        }
    }

    /// What was written at one revision. What nobody can read is passed over.
    pub(super) fn learn(&self, shared: &Shared, entries: Vec<Entry>) {
        if !entries.is_empty() {
            let (changed, unreadable) = self.state().mirror.learn(entries);
            self.tell(shared, changed, unreadable);
        }
    }

    /// All that there is. Of what is the same nobody is told.
    pub(super) fn take_in(&self, shared: &Shared, listed: Vec<Entry>, revision: u64, continuity: Continuity) {
        let (changed, unreadable) = self.state().mirror.take_in(listed, revision, continuity);
        self.tell(shared, changed, unreadable);
    }

    /// All keys that are known, with their revisions.
    pub(super) fn keys(&self) -> HashMap<String, u64> {
        self.state().mirror.keys()
    }

    pub(super) fn has_lost(&self) -> bool {
        let state = self.state();
        !state.mirror.all_lost().is_empty() || !state.mirror.tokens_to_restore().is_empty()
    }

    /// It may be another's turn to lead.
    pub(super) fn heard(&self) {
        self.heard.send_modify(|count| *count += 1);
    }

    fn tell(&self, shared: &Shared, changed: BTreeSet<Name>, unreadable: Vec<Unreadable>) {
        for Unreadable { key, why } in unreadable {
            shared.unreadable(key.as_bytes(), &why);
        }
        for name in changed {
            // Nobody may follow.
            let _ = self.changed.send(name);
        }
        self.heard();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after every statement that changes it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store of configurations where replicas share etcd.
pub(crate) struct Replicated {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    settings: RolloutSettings,
    reach: OnceLock<Arc<Reach>>,
}

impl Replicated {
    pub(crate) fn new(
        shared: Arc<Shared>,
        registry: Arc<Registry>,
        settings: &RolloutSettings,
    ) -> Replicated {
        Replicated { shared, registry, settings: settings.clone(), reach: OnceLock::new() }
    }

    /// How the other replicas are reached.
    pub(crate) fn reached_by(&self, reach: Arc<Reach>) {
        let _ = self.reach.set(reach);
    }

    async fn whole(&self, name: &str) -> Result<Option<Whole>, Refused> {
        self.shared.opened().await;
        let configs = &self.shared.configs;
        let unread = configs.state().mirror.unread(name);
        if !unread.is_empty() {
            let of = name.to_owned();
            // Large ones take a while.
            let read = tokio::task::spawn_blocking(move || {
                let read = unread.into_iter().map(|unread| {
                    let version = unread.read(&of);
                    (unread, version)
                });
                read.collect::<Vec<_>>()
            });
            let read = read.await.map_err(|_| Reason::StoreUnavailable.because("it failed, see the log"))?;
            let unreadable = configs.state().mirror.was_read(name, read);
            self.pass_over(unreadable);
        }
        let lost = |newest| Course::lost(newest, self.settings.clone());
        let (whole, unreadable) = configs.state().mirror.whole(name, lost);
        self.pass_over(unreadable);
        Ok(whole)
    }

    fn pass_over(&self, unreadable: impl IntoIterator<Item = Unreadable>) {
        for Unreadable { key, why } in unreadable {
            self.shared.unreadable(key.as_bytes(), &why);
        }
    }
}

impl Versions for Replicated {
    fn names(&self) -> Asked<'_, Vec<Name>> {
        async {
            self.shared.opened().await;
            Ok(self.shared.configs.state().mirror.names())
        }
        .boxed()
    }

    fn versions<'a>(&'a self, name: &'a str) -> Asked<'a, Vec<Arc<Version>>> {
        async move { Ok(self.whole(name).await?.map(|whole| whole.versions).unwrap_or_default()) }.boxed()
    }

    fn current<'a>(&'a self, name: &'a str) -> Asked<'a, Option<Course>> {
        async move { Ok(self.whole(name).await?.map(|whole| whole.course)) }.boxed()
    }

    fn ready(&self) -> Asked<'_, ()> {
        write::ready(&self.shared).boxed()
    }

    fn put<'a>(&'a self, name: &'a Name, version: Arc<Version>, course: Course) -> Asked<'a, ()> {
        write::put(self, name, version, course).boxed()
    }

    fn go_on<'a>(&'a self, name: &'a Name, course: Course) -> Asked<'a, ()> {
        write::go_on(self, name, course).boxed()
    }

    fn remove<'a>(&'a self, name: &'a Name, course: Course) -> Asked<'a, ()> {
        write::remove(self, name, course).boxed()
    }

    fn watch(&self) -> broadcast::Receiver<Name> {
        self.shared.configs.changed.subscribe()
    }

    fn others(&self) -> Option<&dyn Others> {
        Some(self)
    }
}

impl Others for Replicated {
    fn term(&self) -> Option<u64> {
        let session = self.shared.session.borrow().as_ref().map(|session| session.number)?;
        self.registry.is_leader().then_some(session)
    }

    fn heard(&self) -> watch::Receiver<u64> {
        self.shared.configs.heard.subscribe()
    }

    fn news(&self) -> Vec<News> {
        self.shared.configs.state().mirror.take_news()
    }

    fn tell(&self, told: Vec<Told>) {
        if !told.is_empty() {
            let mut state = self.shared.configs.state();
            told.into_iter().for_each(|told| state.tell(told));
            drop(state);
            self.shared.configs.untold.notify_one();
        }
    }

    fn check<'a>(
        &'a self,
        replica: &'a str,
        request: v1::CheckRequest,
    ) -> BoxFuture<'a, Option<Vec<Located>>> {
        async move {
            let address = self.registry.address_of(replica)?;
            match self.reach.get()?.check(&address, request).await {
                Ok(answer) if answer.answered => Some(answer.problems.into_iter().map(Located::of).collect()),
                Ok(_) => None,
                Err(why) => {
                    log::info!("replica {replica} cannot be asked to have a configuration checked: {why}");
                    None
                }
            }
        }
        .boxed()
    }
}

/// Tells the other replicas of the gateways that are here, for ever.
pub(super) use self::publish::run as publish;
/// Writes what a restored store lacks.
pub(super) use self::write::restore;
