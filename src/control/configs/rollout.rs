//! One configuration with its gateways: which of its versions each is to have. That is decided by `policy/waves`; here it is told how
//! the gateways are, and what it decides is kept.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use super::{
    fleet::{Gateway, MOST_AWAY, REMEMBERED, Verdict},
    versions::{Course, Name, Version},
};
use crate::{
    config::{RolloutSettings, WaveSize},
    control::refused::Located,
    policy::waves::{Fleet, Phase, Rollout, Settings, Size},
    wire::v1,
};

/// After a start gateways are waited for so much longer: they look for a server again with growing pauses.
const RETURN: Duration = Duration::from_secs(45);

pub(super) struct Group {
    pub(super) name: Name,
    /// Whoever changes the configuration has it.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// None until one was put.
    pub(super) configuration: Option<Configuration>,
    pub(super) gateways: BTreeMap<Name, Gateway>,
    /// The version that is being checked.
    pub(super) checking: Option<u64>,
    /// Counts up when gateways may be to have something else.
    changed: watch::Sender<u64>,
}

pub(super) struct Configuration {
    pub(super) versions: BTreeMap<u64, Arc<Version>>,
    /// As it is kept.
    pub(super) course: Course,
    pub(super) rollout: Rollout,
}

/// What a gateway is to be told.
pub(super) enum Next {
    Nothing,
    Send(Arc<Version>),
    /// It has come by another connection.
    Replaced,
}

/// How far a rollout is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Progress {
    pub(crate) version: u64,
    /// What whoever is not to have it has; 0 for nothing.
    pub(crate) previous: u64,
    pub(crate) phase: PhaseWord,
    /// From 1.
    pub(crate) wave: usize,
    pub(crate) waves: usize,
    /// How many are to have it, and how many of them do.
    pub(crate) gateways: usize,
    pub(crate) in_force: usize,
    /// Why it paused or was aborted.
    pub(crate) why: Option<String>,
    /// The gateway that has checked it, or `control` where none had joined.
    pub(crate) checked_by: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PhaseWord {
    Checking,
    Rolling,
    Holding,
    Paused,
    Done,
    Aborted,
}

/// A gateway as operators see it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Shown {
    node: String,
    config: String,
    state: State,
    /// The version it is to have, and the one it has in force; 0 for none.
    wanted: u64,
    in_force: u64,
    /// The version of which it said last what has become of it.
    acknowledged: u64,
    /// Why it has refused that; empty where it has not.
    problems: Vec<Located>,
    /// From when a version was told to when it was in force.
    lag_ms: Option<u64>,
    connected: bool,
    /// Since when it is there, or away.
    since: String,
    labels: BTreeMap<String, String>,
    release: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It is to have another version, or any.
    Wanted,
    InForce,
    Refused,
    Away,
}

impl Shown {
    pub(crate) fn node(&self) -> &str {
        &self.node
    }
}

impl State {
    pub(crate) const ALL: [State; 4] = [State::Wanted, State::InForce, State::Refused, State::Away];

    pub(crate) fn word(self) -> &'static str {
        match self {
            State::Wanted => "wanted",
            State::InForce => "in_force",
            State::Refused => "refused",
            State::Away => "away",
        }
    }
}

impl Group {
    pub(super) fn new(name: Name) -> Group {
        Group {
            name,
            turn: Arc::default(),
            configuration: None,
            gateways: BTreeMap::new(),
            checking: None,
            changed: watch::Sender::new(0),
        }
    }

    /// Nobody has a use for it.
    pub(super) fn is_idle(&self) -> bool {
        self.configuration.is_none() && self.gateways.is_empty() && Arc::strong_count(&self.turn) == 1
    }

    pub(super) fn follow(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// What is kept of it now. A rollout of the version that was known goes on as it is.
    pub(super) fn take(&mut self, versions: Vec<Arc<Version>>, course: Course, now: Instant) {
        let versions = versions.into_iter().map(|version| (version.number, version)).collect();
        match &mut self.configuration {
            Some(known) if known.course.version == course.version => known.versions = versions,
            // It was read before the newer one came.
            Some(known) if known.course.version > course.version => {}
            _ => {
                let settings = settings(&course.settings);
                let rollout = Rollout::restore(settings, course.rollout.clone(), now + RETURN);
                self.configuration = Some(Configuration { versions, course, rollout });
                self.tell();
            }
        }
    }

    /// Goes on as far as the gateways allow; the course where it is to be kept.
    pub(super) fn look(&mut self, now: Instant) -> Option<Course> {
        self.forget(now);
        let order = self.order();
        let Configuration { versions, course, rollout } = self.configuration.as_mut()?;
        let newest = versions.get(&course.version)?;
        let before = rollout.kept();
        if !rollout.is_over() {
            let seen = self.gateways.iter().map(|(name, gateway)| (name.clone(), gateway.seen(newest, now)));
            rollout.look(&seen.collect(), &order, now);
        }
        let kept = rollout.kept();
        let has_changed = kept != before;
        let course = (kept != course.rollout).then(|| Course { rollout: kept, ..course.clone() });
        if has_changed {
            self.tell();
        }
        course
    }

    /// What was kept.
    pub(super) fn kept(&mut self, course: Course) {
        if let Some(known) =
            self.configuration.as_mut().filter(|known| known.course.version == course.version)
        {
            known.course = course;
        }
    }

    /// An order of an operator.
    pub(super) fn lead(&mut self, now: Instant, order: impl FnOnce(&mut Rollout, &Fleet)) {
        if let Some(Configuration { versions, course, rollout }) = &mut self.configuration
            && let Some(newest) = versions.get(&course.version)
        {
            let seen = self.gateways.iter().map(|(name, gateway)| (name.clone(), gateway.seen(newest, now)));
            order(rollout, &seen.collect());
            self.tell();
        }
    }

    /// Those that are there. Those first that had what was rolled out before, as they have the way back to go anyway; then those
    /// that are there for longest.
    pub(super) fn order(&self) -> Vec<Name> {
        let stable = self.configuration.as_ref().map_or(0, |known| known.course.stable);
        let mut there: Vec<_> =
            self.gateways.iter().filter(|(_, gateway)| gateway.stream.is_some()).collect();
        there.sort_by_key(|(name, gateway)| (gateway.version <= stable, gateway.since.0, (*name).clone()));
        there.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// The version that this gateway is to have.
    fn wanted(&self, node: &str) -> Option<&Arc<Version>> {
        let Configuration { versions, course, rollout } = self.configuration.as_ref()?;
        versions.get(if rollout.wants(node) { &course.version } else { &course.stable })
    }

    pub(super) fn wanted_number(&self, node: &str) -> u64 {
        self.wanted(node).map_or(0, |version| version.number)
    }

    /// What is to be said to a gateway, which counts as said.
    pub(super) fn next(&mut self, node: &str, stream: u64, now: Instant) -> Next {
        let wanted = self.wanted(node).cloned();
        let gateway = self.gateways.get_mut(node);
        let Some(gateway) = gateway.filter(|one| one.stream.as_ref().is_some_and(|one| one.id == stream))
        else {
            return Next::Replaced;
        };
        let Some(wanted) = wanted else { return Next::Nothing };
        if gateway.has(&wanted) {
            // It is not sent again. One that was on its way to something else is sent it all the same.
            if !gateway.is_on_its_way() {
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
        let gateway = gateway.filter(|one| one.stream.as_ref().is_some_and(|one| one.id == stream));
        let (Some(version), Some(gateway)) = (version, gateway) else { return false };
        let told = gateway.told.filter(|(told, _)| *told == verdict.version);
        let lag = told.map(|(_, at)| now.saturating_duration_since(at));
        if verdict.is_in_force {
            gateway.version = version.number;
            gateway.sha256 = version.sha256.clone();
        }
        gateway.verdict = Some(Verdict { lag, ..verdict });
        true
    }

    fn forget(&mut self, now: Instant) {
        let is_there = |gateway: &Gateway| gateway.stream.is_some();
        self.gateways.retain(|_, gateway| {
            is_there(gateway) || now.saturating_duration_since(gateway.since.0) < REMEMBERED
        });
        let mut away: Vec<_> = self.gateways.iter().filter(|(_, gateway)| !is_there(gateway)).collect();
        if away.len() > MOST_AWAY {
            away.sort_by_key(|(_, gateway)| std::cmp::Reverse(gateway.since.0));
            let forgotten: Vec<Name> =
                away.split_off(MOST_AWAY).into_iter().map(|(name, _)| name.clone()).collect();
            forgotten.iter().for_each(|name| drop(self.gateways.remove(name)));
        }
    }

    pub(super) fn progress(&self) -> Option<Progress> {
        let Configuration { versions, course, rollout } = self.configuration.as_ref()?;
        let newest = versions.get(&course.version)?;
        let there = self.gateways.iter().filter(|(name, gateway)| {
            rollout.wants(name) && (gateway.stream.is_some() || !rollout.is_over())
        });
        let in_force = there.clone().filter(|(_, gateway)| gateway.has(newest)).count();
        let phase = match (self.checking, rollout.phase()) {
            (Some(_), _) => PhaseWord::Checking,
            (None, phase) => phase.into(),
        };
        Some(Progress {
            version: course.version,
            previous: course.stable,
            phase,
            wave: rollout.wave(),
            waves: rollout.waves(),
            gateways: there.count(),
            in_force,
            why: rollout.why().map(str::to_owned),
            checked_by: course.checked_by.clone(),
        })
    }

    pub(super) fn shown(&self, node: &str) -> Option<Shown> {
        let gateway = self.gateways.get(node)?;
        let verdict = gateway.verdict.as_ref();
        Some(Shown {
            node: node.to_owned(),
            config: self.name.to_string(),
            state: self.state(node, gateway),
            wanted: self.wanted_number(node),
            in_force: gateway.version,
            acknowledged: verdict.map_or(0, |verdict| verdict.version),
            problems: verdict.map(|verdict| verdict.problems.clone()).unwrap_or_default(),
            lag_ms: verdict.and_then(|verdict| verdict.lag).map(|lag| lag.as_millis() as u64),
            connected: gateway.stream.is_some(),
            since: timestamp(gateway.since.1),
            labels: gateway.labels.clone(),
            release: gateway.release.clone(),
        })
    }

    pub(super) fn states(&self) -> BTreeMap<State, usize> {
        let mut states = BTreeMap::new();
        for (node, gateway) in &self.gateways {
            *states.entry(self.state(node, gateway)).or_default() += 1;
        }
        states
    }

    fn state(&self, node: &str, gateway: &Gateway) -> State {
        let wanted = self.wanted(node);
        let verdict = gateway.verdict.as_ref().filter(|verdict| !verdict.is_in_force);
        match wanted {
            _ if gateway.stream.is_none() => State::Away,
            Some(wanted) if verdict.is_some_and(|verdict| verdict.version == wanted.number) => State::Refused,
            Some(wanted) if !gateway.has(wanted) => State::Wanted,
            None if gateway.version == 0 => State::Wanted,
            _ => State::InForce,
        }
    }
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

pub(crate) fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

impl From<Phase> for PhaseWord {
    fn from(phase: Phase) -> PhaseWord {
        match phase {
            Phase::Rolling => PhaseWord::Rolling,
            Phase::Holding => PhaseWord::Holding,
            Phase::Paused => PhaseWord::Paused,
            Phase::Done => PhaseWord::Done,
            Phase::Aborted => PhaseWord::Aborted,
        }
    }
}

impl PhaseWord {
    pub(crate) fn wire(self) -> v1::rollout::Phase {
        use v1::rollout::Phase;
        match self {
            PhaseWord::Checking => Phase::Checking,
            PhaseWord::Rolling => Phase::Rolling,
            PhaseWord::Holding => Phase::Holding,
            PhaseWord::Paused => Phase::Paused,
            PhaseWord::Done => Phase::Done,
            PhaseWord::Aborted => Phase::Aborted,
        }
    }
}

impl Progress {
    pub(crate) fn wire(self) -> v1::Rollout {
        let few = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        v1::Rollout {
            version: self.version,
            previous: self.previous,
            phase: self.phase.wire().into(),
            wave: few(self.wave),
            waves: few(self.waves),
            gateways: few(self.gateways),
            in_force: few(self.in_force),
            why: self.why.unwrap_or_default(),
            checked_by: self.checked_by,
        }
    }
}
