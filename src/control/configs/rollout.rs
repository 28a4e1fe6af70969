//! One configuration with its gateways: which of its versions each is to have. That is decided by `policy/waves`; here it is told how
//! the gateways are, and what it decides is kept.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    fleet::{Gateway, MOST_AWAY, Place, REMEMBERED, Verdict},
    versions::{Course, Elsewhere, Name, Told, Version},
};
use crate::{
    config::{RolloutSettings, WaveSize},
    policy::waves::{Fleet, Phase, Rollout, Settings, Size},
};

/// After a start gateways are waited for so much longer: they look for a server again with growing pauses.
const RETURN: Duration = Duration::from_secs(45);

/// How long a gateway that has restarted in the middle of a rollout waits at most for what becomes of that.
const WAITS: Duration = Duration::from_secs(10);

pub(super) struct Group {
    pub(super) name: Name,
    /// Whoever changes the configuration has it.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// None until one was put.
    pub(super) configuration: Option<Configuration>,
    pub(super) gateways: BTreeMap<Name, Gateway>,
    /// The version that is being checked.
    pub(super) checking: Option<u64>,
    /// Those that have left, of which other replicas do not know yet.
    departed: Vec<Name>,
    /// Counts up when gateways may be to have something else.
    changed: watch::Sender<u64>,
}

pub(super) struct Configuration {
    pub(super) versions: BTreeMap<u64, Arc<Version>>,
    /// As it is kept.
    pub(super) course: Course,
    pub(super) rollout: Rollout,
    /// As it is once that is kept, where the store is shared: nothing comes of it before.
    proposed: Option<Rollout>,
    /// In which this process drives it.
    term: Option<u64>,
}

/// Whose turn it is to decide how a rollout goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drive {
    /// Nobody else's, ever.
    Alone,
    /// Ours in this term, as one of several.
    Leads(u64),
    /// Another's: what that decides is heard of.
    Follows,
}

/// What a gateway is to be told.
pub(super) enum Next {
    Nothing,
    Send(Arc<Version>),
    /// It has come by another connection.
    Replaced,
}

impl Group {
    pub(super) fn new(name: Name) -> Group {
        Group {
            name,
            turn: Arc::default(),
            configuration: None,
            gateways: BTreeMap::new(),
            checking: None,
            departed: Vec::new(),
            changed: watch::Sender::new(0),
        }
    }

    /// Nobody has a use for it.
    pub(super) fn is_idle(&self) -> bool {
        self.configuration.is_none()
            && self.gateways.is_empty()
            && self.departed.is_empty()
            && Arc::strong_count(&self.turn) == 1
    }

    pub(super) fn follow(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// What is kept of it now. A rollout of the version that was known goes on as it is, or as another process has decided.
    pub(super) fn take(&mut self, versions: Vec<Arc<Version>>, course: Course, now: Instant) {
        let versions = versions.into_iter().map(|version| (version.number, version)).collect();
        match &mut self.configuration {
            Some(known) if known.course.version == course.version => {
                known.versions = versions;
                if course.basis > known.course.basis {
                    known.follow(course, now);
                    self.tell();
                }
            }
            // It was read before the newer one came.
            Some(known) if known.course.version > course.version && known.course.basis >= course.basis => {}
            _ => {
                let mut rollout = restored(&course, now);
                if course.basis > 0 {
                    // Until it is for us to drive it.
                    rollout.follow(course.rollout.clone(), now);
                }
                let (proposed, term) = (None, None);
                self.configuration = Some(Configuration { versions, course, rollout, proposed, term });
                self.tell();
            }
        }
    }

    /// It is kept no more: gateways go on with what they have. Whether it was.
    pub(super) fn removed(&mut self) -> bool {
        let was_there = self.configuration.take().is_some();
        if was_there {
            self.gateways.retain(|_, gateway| gateway.is_there());
            self.gateways.values_mut().for_each(Gateway::forget_versions);
            self.tell();
        }
        was_there
    }

    /// Goes on as far as the gateways allow; the course where it is to be kept.
    pub(super) fn look(&mut self, drive: Drive, now: Instant) -> Option<Course> {
        self.forget(now);
        if drive == Drive::Alone {
            self.departed.clear();
        }
        self.wait_no_longer(now);
        let order = self.order();
        let known = self.configuration.as_mut()?;
        known.turn(drive, now);
        if drive == Drive::Follows || known.proposed.is_some() {
            return None;
        }
        let newest = known.versions.get(&known.course.version)?;
        let mut next = known.rollout.clone();
        if !next.is_over() {
            let seen = self.gateways.iter().map(|(name, gateway)| (name.clone(), gateway.seen(newest, now)));
            next.look(&seen.collect(), &order, now);
        }
        let kept = next.kept();
        let is_new = kept != known.course.rollout;
        let course = is_new.then(|| Course { rollout: kept, ..known.course.clone() });
        if drive != Drive::Alone && is_new {
            known.proposed = Some(next);
            return course;
        }
        let has_changed = next.kept() != known.rollout.kept();
        known.rollout = next;
        if has_changed {
            self.tell();
        }
        course
    }

    /// Whether a gateway that has come has restarted with a version that it had before others. It is not to have it again before whoever
    /// drives the rollout has seen that.
    pub(super) fn has_restarted(&self, before: &Gateway, started: u64) -> bool {
        let known = self.configuration.as_ref().filter(|known| !known.rollout.is_over());
        known.is_some_and(|known| {
            let newest = known.versions.get(&known.course.version);
            before.started != started && newest.is_some_and(|newest| before.has(newest))
        })
    }

    /// One that waits is seen within seconds, or nobody drives the rollout.
    fn wait_no_longer(&mut self, now: Instant) {
        let mut was_waiting = false;
        for gateway in self.gateways.values_mut().filter(|gateway| gateway.waits) {
            gateway.waits = now.saturating_duration_since(gateway.since.0) < WAITS;
            was_waiting |= !gateway.waits;
        }
        if was_waiting {
            self.tell();
        }
    }

    /// What was kept.
    pub(super) fn kept(&mut self, course: Course) {
        if let Some(known) =
            self.configuration.as_mut().filter(|known| known.course.version == course.version)
        {
            known.course = course;
        }
    }

    /// What was to be kept is not.
    pub(super) fn withdraw(&mut self) {
        if let Some(known) = &mut self.configuration {
            known.proposed = None;
        }
    }

    /// How far a version is that is put now: it begins with those that its first wave has.
    pub(super) fn begun(&self, version: &Version, course: Course, now: Instant) -> Course {
        let seen = self.gateways.iter().map(|(name, gateway)| (name.clone(), gateway.seen(version, now)));
        let mut rollout = restored(&course, now);
        rollout.look(&seen.collect(), &self.order_beside(course.stable), now);
        Course { rollout: rollout.kept(), ..course }
    }

    /// An order of an operator.
    pub(super) fn lead(&mut self, now: Instant, order: impl FnOnce(&mut Rollout, &Fleet)) {
        if let Some(rollout) = self.ordered(now, order)
            && let Some(known) = &mut self.configuration
        {
            known.rollout = rollout;
            self.tell();
        }
    }

    /// How far it is after an order of an operator. Nothing comes of it before it is kept.
    pub(super) fn course_after(
        &self,
        now: Instant,
        order: impl FnOnce(&mut Rollout, &Fleet),
    ) -> Option<Course> {
        let rollout = self.ordered(now, order)?;
        Some(Course { rollout: rollout.kept(), ..self.configuration.as_ref()?.course.clone() })
    }

    fn ordered(&self, now: Instant, order: impl FnOnce(&mut Rollout, &Fleet)) -> Option<Rollout> {
        let known = self.configuration.as_ref()?;
        let newest = known.versions.get(&known.course.version)?;
        let seen = self.gateways.iter().map(|(name, gateway)| (name.clone(), gateway.seen(newest, now)));
        let (mut next, fleet) = (known.rollout.clone(), seen.collect());
        order(&mut next, &fleet);
        next.look(&fleet, &self.order(), now);
        Some(next)
    }

    /// A gateway as another replica knows it; `None` where it is gone from there.
    pub(super) fn elsewhere(&mut self, node: &Name, there: Option<Elsewhere>, now: Instant) {
        let known = self.gateways.get_mut(node);
        match (there, known) {
            (Some(there), Some(known)) if known.stream().is_some() && !there.is_later => {}
            (Some(there), known) => {
                let known = known.map(|known| (known.started, known.stream().is_some(), known.since.0));
                let mut gateway = Gateway::elsewhere(there, now);
                if let Some((started, was_here, since)) = known {
                    if started == gateway.started && !was_here {
                        gateway.since.0 = since;
                    }
                    if was_here {
                        // Its stream is to find out.
                        self.tell();
                    }
                }
                self.gateways.insert(node.clone(), gateway);
            }
            (None, Some(known)) if matches!(known.place, Place::Elsewhere(_)) => self.leave(node, now),
            (None, _) => {}
        }
    }

    /// Of its connection there is nothing any more.
    pub(super) fn leave(&mut self, node: &Name, now: Instant) {
        let Some(gateway) = self.gateways.get_mut(node) else { return };
        let was_here = gateway.stream().is_some();
        gateway.leaves(now);
        // Whoever comes may name any configuration: what nobody has put is not remembered.
        if self.configuration.is_none() {
            self.gateways.remove(node);
        }
        if was_here {
            self.departed.push(node.clone());
        }
    }

    /// What other replicas do not know yet of those that are here.
    pub(super) fn untold(&mut self, now: Instant) -> Vec<Told> {
        let phase = self.configuration.as_ref().map(|known| known.rollout.phase());
        let counts = matches!(phase, Some(Phase::Rolling | Phase::Holding));
        let config = self.name.clone();
        let told = |node: &Name, report, has_come| Told {
            config: config.clone(),
            node: node.clone(),
            report,
            has_come,
        };
        let mut all: Vec<Told> =
            std::mem::take(&mut self.departed).iter().map(|node| told(node, None, false)).collect();
        all.extend(self.gateways.iter_mut().filter_map(|(node, gateway)| {
            let (report, has_come) = gateway.report(counts, now)?;
            Some(told(node, Some(report), has_come))
        }));
        all
    }

    /// Those that are there. Those first that had what was rolled out before, as they have the way back to go anyway; then those
    /// that are there for longest.
    pub(super) fn order(&self) -> Vec<Name> {
        self.order_beside(self.configuration.as_ref().map_or(0, |known| known.course.stable))
    }

    /// Where `stable` is what they have the way back to.
    fn order_beside(&self, stable: u64) -> Vec<Name> {
        let mut there: Vec<_> = self.gateways.iter().filter(|(_, gateway)| gateway.is_there()).collect();
        there.sort_by_key(|(name, gateway)| (gateway.version <= stable, gateway.since.0, (*name).clone()));
        there.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// Those that are there, and with which replica, where that is another one.
    pub(super) fn places(&self) -> Vec<(Name, Option<Arc<str>>)> {
        let replica = |name: &Name| match &self.gateways.get(name)?.place {
            Place::Elsewhere(replica) => Some(replica.clone()),
            Place::Here(_) | Place::Away => None,
        };
        self.order().into_iter().map(|name| (name.clone(), replica(&name))).collect()
    }

    /// The version that this gateway is to have.
    pub(super) fn wanted(&self, node: &str) -> Option<&Arc<Version>> {
        let Configuration { versions, course, rollout, .. } = self.configuration.as_ref()?;
        versions.get(if rollout.wants(node) { &course.version } else { &course.stable })
    }

    pub(super) fn wanted_number(&self, node: &str) -> u64 {
        self.wanted(node).map_or(0, |version| version.number)
    }

    /// What is to be said to a gateway, which counts as said.
    pub(super) fn next(&mut self, node: &str, stream: u64, now: Instant) -> Next {
        let wanted = self.wanted(node).cloned();
        let gateway = self.gateways.get_mut(node);
        let Some(gateway) = gateway.filter(|one| one.is_on(stream)) else {
            return Next::Replaced;
        };
        let Some(wanted) = wanted else { return Next::Nothing };
        if gateway.waits
            && self.configuration.as_ref().is_some_and(|known| known.course.version == wanted.number)
        {
            return Next::Nothing;
        }
        if gateway.has(&wanted) {
            // It is not sent again. One that was on its way to something else is sent it all the same.
            if !gateway.is_on_its_way() {
                if gateway.version != wanted.number {
                    gateway.changes();
                }
                gateway.version = wanted.number;
                gateway.told = Some((wanted.number, now));
                return Next::Nothing;
            }
        }
        if gateway.told.is_some_and(|(told, _)| told == wanted.number) {
            return Next::Nothing;
        }
        gateway.told = Some((wanted.number, now));
        Next::Send(wanted)
    }

    /// What a gateway says of a version. Whether it may change what others are to have.
    pub(super) fn verdict(&mut self, node: &str, stream: u64, verdict: Verdict, now: Instant) -> bool {
        let version = self.configuration.as_ref().and_then(|known| known.versions.get(&verdict.version));
        let gateway = self.gateways.get_mut(node);
        let gateway = gateway.filter(|one| one.is_on(stream));
        let (Some(version), Some(gateway)) = (version, gateway) else { return false };
        let told = gateway.told.filter(|(told, _)| *told == verdict.version);
        let lag = told.map(|(_, at)| now.saturating_duration_since(at));
        if verdict.is_in_force {
            gateway.version = version.number;
            gateway.sha256 = version.sha256.clone();
        }
        gateway.verdict = Some(Verdict { lag, ..verdict });
        gateway.changes();
        true
    }

    fn forget(&mut self, now: Instant) {
        self.gateways.retain(|_, gateway| {
            gateway.is_there() || now.saturating_duration_since(gateway.since.0) < REMEMBERED
        });
        let mut away: Vec<_> = self.gateways.iter().filter(|(_, gateway)| !gateway.is_there()).collect();
        if away.len() > MOST_AWAY {
            away.sort_by_key(|(_, gateway)| std::cmp::Reverse(gateway.since.0));
            let forgotten: Vec<Name> =
                away.split_off(MOST_AWAY).into_iter().map(|(name, _)| name.clone()).collect();
            forgotten.iter().for_each(|name| drop(self.gateways.remove(name)));
        }
    }
}

impl Configuration {
    /// Whoever begins to drive it knows nothing of how long gateways have had it: the wave begins anew.
    fn turn(&mut self, drive: Drive, now: Instant) {
        let term = match drive {
            Drive::Alone => return,
            Drive::Leads(term) => Some(term),
            Drive::Follows => None,
        };
        if self.term == term {
            return;
        }
        (self.term, self.proposed) = (term, None);
        match term {
            Some(_) => self.rollout = restored(&self.course, now),
            None => self.rollout.follow(self.course.rollout.clone(), now),
        }
    }

    /// What somebody has decided, which may be ourselves.
    fn follow(&mut self, course: Course, now: Instant) {
        match self.proposed.take().filter(|proposed| proposed.kept() == course.rollout) {
            Some(proposed) => self.rollout = proposed,
            None => self.rollout.follow(course.rollout.clone(), now),
        }
        self.course = course;
    }
}

/// As another process has left it.
fn restored(course: &Course, now: Instant) -> Rollout {
    Rollout::restore(settings(&course.settings), course.rollout.clone(), now + RETURN)
}

fn settings(settings: &RolloutSettings) -> Settings {
    let size = |size: &WaveSize| match size {
        WaveSize::Gateways(gateways) => Size::Gateways(gateways.get()),
        WaveSize::Share(share) => Size::Share(share.as_f64()),
    };
    Settings {
        waves: settings.waves.iter().map(size).collect(),
        hold: settings.hold.into(),
        ack_timeout: settings.ack_timeout.into(),
    }
}
