//! A rollout and its gateways, as operators see them.

use std::{collections::BTreeMap, time::SystemTime};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    fleet::Gateway,
    rollout::{Configuration, Group},
};
use crate::{control::refused::Located, policy::waves::Phase, wire::v1};

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
    pub(super) fn progress(&self) -> Option<Progress> {
        let Configuration { versions, course, rollout, .. } = self.configuration.as_ref()?;
        let newest = versions.get(&course.version)?;
        let there = self
            .gateways
            .iter()
            .filter(|(name, gateway)| rollout.wants(name) && (gateway.is_there() || !rollout.is_over()));
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
            connected: gateway.is_there(),
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
            _ if !gateway.is_there() => State::Away,
            Some(wanted) if verdict.is_some_and(|verdict| verdict.version == wanted.number) => State::Refused,
            Some(wanted) if !gateway.has(wanted) => State::Wanted,
            None if gateway.version == 0 => State::Wanted,
            _ => State::InForce,
        }
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
