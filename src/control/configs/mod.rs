//! Configurations that gateways take: whoever may puts a new version, it is checked, kept, and then spreads from gateway to gateway.
//!
//! `document` is what one is made of, `versions` where it is kept (`kept`: here), `fleet` who takes it, `rollout` which of its versions
//! each gateway is to have, `check` whether a new one may be kept at all, and `stream` what one gateway is told.
//!
//! Where replicas share the store, one of them drives the rollouts (`versions::Others`), on what all of them tell of their gateways. What it
//! decides is kept first, and each replica tells its own gateways once it hears of that.
//!
//! At most two versions of a configuration are with its gateways: the newest, as far as its rollout has come, and the last that all of
//! them had. So whoever puts another one in the middle of a rollout ends that: those that have the version go back to the last that all
//! had, but for those that the new rollout begins with, which go on to the newer.

mod apply;
mod check;
mod document;
mod fleet;
mod kept;
mod remove;
mod report;
mod rollout;
mod shown;
mod stream;
mod versions;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, broadcast, watch};

#[cfg(test)]
pub(crate) use self::document::Documents;
pub(crate) use self::{
    apply::{Applied, Change, Terms},
    document::{LARGEST, check_config_name, part, path_of, read_part},
    fleet::Arrival,
    kept::{Memory, text},
    remove::Removal,
    report::Report,
    shown::{Progress, Shown, timestamp},
    stream::{Follow, Following},
    versions::{Asked, Course, Elsewhere, Name, News, Others, Told, Version, Versions, stale, superfluous},
};
use self::{
    rollout::{Drive, Group},
    shown::State,
};
use super::refused::{Reason, Refused};
use crate::{
    config::ConfigsSettings,
    observe::metrics::RegistryMetrics,
    policy::waves::{self, Fleet, Rollout},
};

/// How often it is looked at what time alone has changed.
const LOOK: Duration = Duration::from_secs(1);
/// What happens within this is looked at together.
const PACE: Duration = Duration::from_millis(20);
/// How long a call waits for what is kept to be read.
const READ: Duration = Duration::from_secs(5);
const TOLD: Duration = Duration::from_secs(60);
/// How often a change is made anew after somebody else was quicker.
const ATTEMPTS: usize = 5;

pub(crate) struct Configs {
    store: Arc<dyn Versions>,
    settings: ConfigsSettings,
    groups: Mutex<BTreeMap<Name, Group>>,
    /// What was read first is taken first.
    reading: tokio::sync::Mutex<()>,
    /// When it was said last that a rollout waits for the store.
    told: Mutex<Option<Instant>>,
    /// A gateway has said something.
    heard: Notify,
    is_read: watch::Sender<bool>,
    metrics: RegistryMetrics,
}

/// What an operator does about a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    Pause,
    Resume,
    Abort,
}

impl Configs {
    pub(crate) fn new(
        store: Arc<dyn Versions>,
        settings: ConfigsSettings,
        metrics: RegistryMetrics,
    ) -> Configs {
        let is_read = watch::Sender::new(false);
        Configs {
            store,
            settings,
            groups: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            told: Mutex::default(),
            heard: Notify::new(),
            is_read,
            metrics,
        }
    }

    /// Reads what is kept, and drives rollouts, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut changes = self.store.watch();
        let mut others = self.store.others().map(Others::heard);
        self.read_all().await;
        loop {
            tokio::select! {
                changed = changes.recv() => match changed {
                    Ok(name) => self.refresh(&name).await,
                    Err(broadcast::error::RecvError::Lagged(_)) => self.read_all().await,
                    // The store is gone, and with it this process.
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = self.heard.notified() => {}
                () = heard(&mut others) => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            self.look().await;
            tokio::time::sleep(PACE).await;
        }
    }

    async fn read_all(&self) {
        let mut has_failed = false;
        let names = loop {
            match self.store.names().await {
                Ok(names) => break names,
                Err(refused) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        log::error!("cannot read the configurations, and tries again: {}", refused.why);
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        for name in names {
            self.refresh(&name).await;
        }
        self.is_read.send_replace(true);
    }

    /// What the store has of one, if that is news.
    async fn refresh(&self, name: &Name) {
        let _turn = self.reading.lock().await;
        let read = async {
            let course = self.store.current(name).await?;
            Ok::<_, Refused>((self.store.versions(name).await?, course))
        };
        match read.await {
            Ok((versions, Some(course))) => {
                self.with(name, |group| group.take(versions, course, Instant::now()));
            }
            Ok((_, None)) => {
                if self.with(name, Group::removed) {
                    self.metrics.no_configuration(name, State::ALL.map(State::word));
                }
            }
            Err(refused) => log::error!("cannot read the configuration {name}: {}", refused.why),
        }
    }

    /// Every rollout goes on as far as it can, and what has changed is kept.
    async fn look(&self) {
        let now = Instant::now();
        let drive = self.drive();
        let others = self.store.others();
        let (mut changed, mut told) = (Vec::new(), Vec::new());
        {
            let mut groups = self.groups();
            for News { config, node, there } in others.map(Others::news).unwrap_or_default() {
                let group = groups.entry(config.clone()).or_insert_with(|| Group::new(config));
                group.elsewhere(&node, there, now);
            }
            groups.retain(|_, group| !group.is_idle());
            for (name, group) in groups.iter_mut() {
                changed.extend(group.look(drive, now).map(|course| (name.clone(), course)));
                if others.is_some() {
                    told.extend(group.untold(now));
                }
                self.show(group);
            }
        }
        if let Some(others) = others {
            others.tell(told);
        }
        for (name, course) in changed {
            self.keep(&name, course).await;
        }
    }

    /// Soon, by whoever drives it: a call may be given up in the middle of it.
    async fn look_soon(&self) {
        match self.store.others() {
            None => self.look().await,
            Some(_) => self.heard.notify_one(),
        }
    }

    fn drive(&self) -> Drive {
        match self.store.others() {
            None => Drive::Alone,
            Some(others) => others.term().map_or(Drive::Follows, Drive::Leads),
        }
    }

    async fn keep(&self, name: &Name, course: Course) {
        match self.store.others() {
            None => self.keep_here(name, course).await,
            Some(_) => self.keep_for_all(name, course).await,
        }
    }

    /// How far a rollout is. One that cannot be kept goes on, and is told of.
    async fn keep_here(&self, name: &Name, course: Course) {
        tell(name, &course);
        match self.store.go_on(name, course.clone()).await {
            Ok(()) => {}
            // Another version came meanwhile.
            Err(Refused { reason: Reason::Stale, .. }) => return,
            Err(refused) => {
                self.metrics.save_failed();
                log::error!("how far {name} has spread is lost with this process: {}", refused.why);
            }
        }
        if let Some(group) = self.groups().get_mut(name) {
            group.kept(course);
        }
    }

    /// How far a rollout is to be. One that cannot be kept waits, as others could not go on with it.
    async fn keep_for_all(&self, name: &Name, course: Course) {
        let kept = self.store.go_on(name, course.clone()).await;
        match &kept {
            Ok(()) => tell(name, &course),
            Err(Refused { reason: Reason::Stale, .. }) => {}
            Err(refused) => {
                self.metrics.save_failed();
                self.tell_of_waiting(name, refused);
            }
        }
        if kept.is_err()
            && let Some(group) = self.groups().get_mut(name)
        {
            group.withdraw();
        }
        self.refresh(name).await;
    }

    /// Once a minute at most: it is tried again each second.
    fn tell_of_waiting(&self, name: &Name, refused: &Refused) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TOLD) {
            *told = Some(Instant::now());
            log::warn!("the rollout of {name} waits until it can be kept how far it is: {}", refused.why);
        }
    }

    fn show(&self, group: &Group) {
        let Some(progress) = group.progress() else { return };
        let states = group.states();
        let of = |state: State| states.get(&state).copied().unwrap_or_default();
        let states = State::ALL.map(|state| (state.word(), of(state)));
        self.metrics.configuration(&group.name, states.into_iter(), progress.phase.wire() as i64);
    }

    /// # Errors
    ///
    /// `warming`: what is kept was not read yet.
    async fn ready(&self) -> Result<(), Refused> {
        let mut is_read = self.is_read.subscribe();
        let read = tokio::time::timeout(READ, is_read.wait_for(|is_read| *is_read)).await;
        read.is_ok_and(|read| read.is_ok())
            .then_some(())
            .ok_or_else(|| Reason::Warming.because("the configurations are being read (ask again)"))
    }

    /// Pauses a rollout, goes on with it or ends it.
    ///
    /// # Errors
    ///
    /// `not_found`, `conflict`: it is over, or does not pause.
    pub(crate) async fn lead(&self, name: &str, lead: Lead, by: &str) -> Result<Progress, Refused> {
        self.ready().await?;
        for attempt in 1.. {
            match self.lead_once(name, lead, by).await {
                Err(Refused { reason: Reason::Stale, .. }) if attempt < ATTEMPTS => {
                    self.refresh(&name.into()).await;
                }
                led => {
                    led?;
                    break;
                }
            }
        }
        crate::observe::log::event!(Warn, "rollout ordered", config = name, order = lead.word(), by = by);
        self.look_soon().await;
        self.progress(name)
    }

    async fn lead_once(&self, name: &str, lead: Lead, by: &str) -> Result<(), Refused> {
        let now = Instant::now();
        let order = |rollout: &mut Rollout, fleet: &Fleet| match lead {
            Lead::Pause => rollout.pause(format!("by {by}")),
            Lead::Resume => rollout.resume(fleet, now),
            Lead::Abort => rollout.abort(format!("by {by}")),
        };
        let course = {
            let mut groups = self.groups();
            let group = groups.get_mut(name).filter(|group| group.configuration.is_some());
            let group = group.ok_or_else(|| not_found(name))?;
            let Some(phase) = group.configuration.as_ref().map(|known| known.rollout.phase()) else {
                return Err(not_found(name));
            };
            let conflict = match (lead, phase) {
                (_, waves::Phase::Done) => Some("it is done"),
                (_, waves::Phase::Aborted) => Some("it was aborted (put it again, or roll back)"),
                (Lead::Resume, waves::Phase::Rolling | waves::Phase::Holding) => Some("it does not pause"),
                (Lead::Pause, waves::Phase::Paused) => Some("it pauses already"),
                _ => None,
            };
            if let Some(why) = conflict {
                return Err(Reason::Conflict.because(format!("the rollout of {name:?}: {why}")));
            }
            if self.store.others().is_none() {
                group.lead(now, order);
                return Ok(());
            }
            group.course_after(now, order).ok_or_else(|| not_found(name))?
        };
        let name = name.into();
        self.store.go_on(&name, course).await?;
        self.refresh(&name).await;
        Ok(())
    }

    /// # Errors
    ///
    /// `not_found`.
    pub(crate) fn progress(&self, name: &str) -> Result<Progress, Refused> {
        self.groups().get(name).and_then(Group::progress).ok_or_else(|| not_found(name))
    }

    /// The names of all configurations.
    pub(crate) async fn names(&self) -> Result<Vec<Name>, Refused> {
        self.ready().await?;
        let groups = self.groups();
        Ok(groups
            .values()
            .filter(|group| group.configuration.is_some())
            .map(|group| group.name.clone())
            .collect())
    }

    /// One version, the newest where none is named.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub(crate) async fn version(&self, name: &str, number: Option<u64>) -> Result<Arc<Version>, Refused> {
        self.ready().await?;
        let groups = self.groups();
        let known = groups.get(name).and_then(|group| group.configuration.as_ref());
        let known = known.ok_or_else(|| not_found(name))?;
        let number = number.unwrap_or(known.course.version);
        known.versions.get(&number).cloned().ok_or_else(|| {
            let first = known.versions.keys().next().copied().unwrap_or_default();
            let newest = known.course.version;
            Reason::NotFound
                .because(format!("there is no version {number} of {name:?} (there are {first} to {newest})"))
        })
    }

    /// The newest first.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub(crate) async fn versions(&self, name: &str) -> Result<Vec<Arc<Version>>, Refused> {
        self.ready().await?;
        let groups = self.groups();
        let known = groups.get(name).and_then(|group| group.configuration.as_ref());
        let known = known.ok_or_else(|| not_found(name))?;
        Ok(known.versions.values().rev().cloned().collect())
    }

    /// Those of configurations that `may_see` names, by configuration and name.
    pub(crate) fn gateways(&self, may_see: impl Fn(&str) -> bool) -> Vec<Shown> {
        let groups = self.groups();
        let visible = groups.values().filter(|group| may_see(&group.name));
        visible.flat_map(|group| group.gateways.keys().filter_map(|node| group.shown(node))).collect()
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<Name, Group>> {
        // Whole after every statement that changes it.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group of this name, which is there from now on.
    fn with<T>(&self, name: &Name, act: impl FnOnce(&mut Group) -> T) -> T {
        let mut groups = self.groups();
        act(groups.entry(name.clone()).or_insert_with(|| Group::new(name.clone())))
    }
}

/// Until the other replicas have said something; for ever where there are none.
async fn heard(others: &mut Option<watch::Receiver<u64>>) {
    match others {
        // The store is as old as this process.
        Some(others) => _ = others.changed().await,
        None => std::future::pending().await,
    }
}

impl Lead {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Lead::Pause => "pause",
            Lead::Resume => "resume",
            Lead::Abort => "abort",
        }
    }
}

fn not_found(name: &str) -> Refused {
    let hint = format!("put one with PUT /v1/configs/{name}");
    Reason::NotFound.because(format!("there is no configuration {name:?} ({hint})"))
}

/// What an operator wants to read in the log.
fn tell(name: &str, course: &Course) {
    use crate::observe::log::event;
    let (version, wave, gateways) = (course.version, course.rollout.wave + 1, course.rollout.members.len());
    let why = course.rollout.why.as_deref().unwrap_or_default();
    match course.rollout.phase {
        waves::Phase::Rolling => {
            event!(
                Info,
                "rollout goes on",
                config = name,
                version = version,
                wave = wave,
                gateways = gateways
            );
        }
        waves::Phase::Holding => {
            event!(
                Info,
                "wave is in force",
                config = name,
                version = version,
                wave = wave,
                gateways = gateways
            );
        }
        waves::Phase::Paused => {
            event!(Warn, "rollout pauses", config = name, version = version, wave = wave, why = why);
        }
        waves::Phase::Done => event!(Info, "rollout is done", config = name, version = version),
        waves::Phase::Aborted => {
            let back = course.stable;
            event!(Warn, "rollout aborted", config = name, version = version, back_to = back, why = why);
        }
    }
}
