//! How a new version of a configuration spreads: to one gateway, then to more, then to all, each wave watched for a while
//! before the next.
//!
//! ```text
//! rolling --all of the wave have it in force--> holding --nothing has gone wrong for `hold`--> the next wave's rolling .. done
//!    one refuses it, restarts, or answers with more errors of its own: aborted;   one is away for `ack_timeout`: paused
//! ```
//!
//! Nothing here is told what happens: whoever drives it hands in how all gateways are, and calls as often as it likes. So
//! what was missed is caught up with.

mod errors;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::errors::Counts;
use self::errors::Watched;

pub type Name = Arc<str>;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How many gateways have it by the end of each wave. After the last one everybody has it.
    pub waves: Vec<Size>,
    pub hold: Duration,
    pub ack_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Size {
    Gateways(usize),
    /// 0 to 1; at least one.
    Share(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Gateways of the wave do not have it in force yet.
    Rolling,
    /// They have it, and are watched.
    Holding,
    /// Until an operator goes on. A refusal aborts it all the same.
    Paused,
    /// Everybody is to have it.
    Done,
    /// Nobody is.
    Aborted,
}

/// How a gateway is.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub connected: bool,
    /// Its process: another number is another process.
    pub started: u64,
    /// It has the new version in force.
    pub in_force: bool,
    /// It has refused it, and says why.
    pub refused: Option<String>,
    /// `None` until it has told any.
    pub counted: Option<Counted>,
}

/// What a gateway has done since its process began, and what it had done a minute ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub now: Counts,
    pub minute_ago: Counts,
}

/// All gateways that are there or were lately.
pub type Fleet = BTreeMap<Name, Seen>;

#[derive(Clone, Debug)]
pub struct Rollout {
    settings: Settings,
    phase: Phase,
    /// From 0.
    wave: usize,
    members: BTreeMap<Name, Member>,
    holding: Instant,
    why: Option<String>,
}

/// A gateway that is to have the new version before all have.
#[derive(Clone, Debug)]
struct Member {
    /// `None`: not seen since this process keeps the rollout.
    started: Option<u64>,
    /// Since when it is waited for, while it does not have it in force or is away.
    waiting: Option<Instant>,
    watched: Option<Watched>,
}

/// What a later process needs to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub phase: Phase,
    pub wave: usize,
    pub members: BTreeSet<Name>,
    pub why: Option<String>,
}

impl Rollout {
    pub fn new(settings: Settings, now: Instant) -> Rollout {
        let members = BTreeMap::new();
        Rollout { settings, phase: Phase::Rolling, wave: 0, members, holding: now, why: None }
    }

    /// To everybody, with no waves.
    pub fn at_once(settings: Settings, now: Instant) -> Rollout {
        Rollout {
            phase: Phase::Done,
            wave: settings.waves.len().saturating_sub(1),
            ..Rollout::new(settings, now)
        }
    }

    /// Goes on with a wave from its beginning: its gateways are waited for until `back` first, when all have had the time to
    /// come back.
    pub fn restore(settings: Settings, kept: Kept, back: Instant) -> Rollout {
        let Kept { phase, wave, members, why } = kept;
        let wave = wave.min(settings.waves.len().saturating_sub(1));
        let phase = if phase == Phase::Holding { Phase::Rolling } else { phase };
        let members = members.into_iter().map(|name| (name, Member::new(None, back))).collect();
        Rollout { settings, phase, wave, members, holding: back, why }
    }

    /// Goes on from what another process has decided. What is known of gateways that stay in it is not forgotten.
    pub fn follow(&mut self, kept: Kept, now: Instant) {
        let Kept { phase, wave, members, why } = kept;
        let has_resumed = self.phase == Phase::Paused && phase != Phase::Paused;
        let mut before = std::mem::take(&mut self.members);
        let mut member = |name: &Name| match before.remove(name) {
            Some(member) if !has_resumed => member,
            Some(member) => Member { waiting: Some(now), ..member },
            None => Member::new(None, now),
        };
        self.members = members.into_iter().map(|name| (name.clone(), member(&name))).collect();
        if phase == Phase::Holding && self.phase != Phase::Holding {
            self.holding = now;
        }
        (self.phase, self.why) = (phase, why);
        self.wave = wave.min(self.waves().saturating_sub(1));
    }

    pub fn kept(&self) -> Kept {
        Kept {
            phase: self.phase,
            wave: self.wave,
            members: self.members.keys().cloned().collect(),
            why: self.why.clone(),
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// From 1.
    pub fn wave(&self) -> usize {
        self.wave + 1
    }

    pub fn waves(&self) -> usize {
        self.settings.waves.len()
    }

    /// Why it paused or was aborted.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Those that have it before all have.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Name> {
        self.members.keys()
    }

    /// Whether `gateway` is to have the new version, and not the one before.
    pub fn wants(&self, gateway: &str) -> bool {
        match self.phase {
            Phase::Done => true,
            Phase::Aborted => false,
            Phase::Rolling | Phase::Holding | Phase::Paused => self.members.contains_key(gateway),
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Aborted)
    }

    /// Goes on as far as `fleet` allows. Where a wave takes gateways in, those come first that `order` names first.
    pub fn look(&mut self, fleet: &Fleet, order: &[Name], now: Instant) {
        if self.is_over() {
            return;
        }
        if let Some(why) = self.refusal(fleet) {
            return self.abort(why);
        }
        if self.phase == Phase::Paused {
            // What happens to a process meanwhile may be whoever paused it.
            for (name, member) in &mut self.members {
                member.started = fleet.get(name).map(|seen| seen.started).or(member.started);
            }
            return;
        }
        if let Some(why) = self.note(fleet, now).or_else(|| self.errors(fleet)) {
            return self.abort(why);
        }
        if let Some(why) = self.late(fleet, now) {
            return self.pause(why);
        }
        self.take_in(fleet, order, now);
        self.go_on(fleet, order, now);
    }

    pub fn pause(&mut self, why: impl Into<String>) {
        if !self.is_over() {
            (self.phase, self.why) = (Phase::Paused, Some(why.into()));
        }
    }

    /// Goes on with the wave it was in, without those that are not there.
    pub fn resume(&mut self, fleet: &Fleet, now: Instant) {
        if self.phase == Phase::Paused {
            (self.phase, self.why) = (Phase::Rolling, None);
            self.members.retain(|name, _| fleet.get(name).is_some_and(|seen| seen.connected));
            for member in self.members.values_mut() {
                member.waiting = Some(now);
            }
        }
    }

    /// Those that have it get the version before.
    pub fn abort(&mut self, why: impl Into<String>) {
        if !self.is_over() {
            (self.phase, self.why) = (Phase::Aborted, Some(why.into()));
        }
    }

    fn refusal(&self, fleet: &Fleet) -> Option<String> {
        self.members.keys().find_map(|name| {
            let why = fleet.get(name)?.refused.as_ref()?;
            Some(format!("{name} refuses it: {why}"))
        })
    }

    /// What has become of its gateways; why it cannot go on, where one has restarted.
    fn note(&mut self, fleet: &Fleet, now: Instant) -> Option<String> {
        for (name, member) in &mut self.members {
            let seen = fleet.get(name).filter(|seen| seen.connected);
            let Some(seen) = seen else {
                member.waiting.get_or_insert(now);
                continue;
            };
            if member.started.is_some_and(|started| started != seen.started) {
                return Some(format!("{name} has restarted with it"));
            }
            member.started = Some(seen.started);
            if !seen.in_force {
                member.waiting.get_or_insert(now);
                continue;
            }
            member.waiting = None;
            if let Some(Counted { now, minute_ago }) = seen.counted {
                member.watched.get_or_insert_with(|| Watched::new(now, minute_ago)).now = now;
            }
        }
        None
    }

    fn errors(&self, fleet: &Fleet) -> Option<String> {
        let watched =
            || self.members.iter().filter_map(|(name, member)| Some((name, member.watched.as_ref()?)));
        let one = watched()
            .filter(|(name, _)| fleet.contains_key(*name))
            .find_map(|(name, watched)| Some(format!("{name} answers {}", watched.breach()?)));
        one.or_else(|| {
            let all = Watched::sum(watched().map(|(_, watched)| watched));
            Some(format!("the gateways that have it answer {}", all.breach()?))
        })
    }

    fn late(&self, fleet: &Fleet, now: Instant) -> Option<String> {
        let is_late = |member: &Member| {
            member
                .waiting
                .is_some_and(|since| now.saturating_duration_since(since) >= self.settings.ack_timeout)
        };
        let (name, _) = self.members.iter().find(|(_, member)| is_late(member))?;
        let is_there = fleet.get(name).is_some_and(|seen| seen.connected);
        let what = if is_there { "does not say whether it has it in force" } else { "is away" };
        Some(format!("{name} {what} (`resume` goes on without those that are away)"))
    }

    /// As many as the wave is to have.
    fn take_in(&mut self, fleet: &Fleet, order: &[Name], now: Instant) {
        let missing = self.target(fleet, self.wave).saturating_sub(self.members.len());
        let others = order.iter().filter(|name| {
            !self.members.contains_key(*name) && fleet.get(*name).is_some_and(|seen| seen.connected)
        });
        for name in others.take(missing).cloned().collect::<Vec<_>>() {
            let started = fleet.get(&name).map(|seen| seen.started);
            self.members.insert(name, Member::new(started, now));
        }
    }

    fn go_on(&mut self, fleet: &Fleet, order: &[Name], now: Instant) {
        let is_complete =
            !self.members.is_empty() && self.members.values().all(|member| member.waiting.is_none());
        if !is_complete {
            return;
        }
        if self.phase == Phase::Rolling {
            (self.phase, self.holding) = (Phase::Holding, now);
        }
        if now.saturating_duration_since(self.holding) < self.settings.hold {
            return;
        }
        // Waves that would have nobody new are none.
        let next = (self.wave + 1..self.waves()).find(|wave| self.target(fleet, *wave) > self.members.len());
        match next {
            Some(wave) => {
                (self.phase, self.wave) = (Phase::Rolling, wave);
                self.take_in(fleet, order, now);
            }
            None => (self.phase, self.wave) = (Phase::Done, self.waves().saturating_sub(1)),
        }
    }

    fn target(&self, fleet: &Fleet, wave: usize) -> usize {
        let there = fleet.iter().filter(|(name, seen)| seen.connected && !self.members.contains_key(*name));
        let all = self.members.len() + there.count();
        self.settings.waves.get(wave).map_or(all, |size| size.of(all))
    }
}

impl Member {
    fn new(started: Option<u64>, since: Instant) -> Member {
        Member { started, waiting: Some(since), watched: None }
    }
}

impl Size {
    fn of(self, all: usize) -> usize {
        match self {
            Size::Gateways(gateways) => gateways.min(all),
            Size::Share(share) => {
                // Without the dust of 0.1 * 30.
                let gateways = (share * all as f64 - 1e-9).ceil().max(1.0);
                (gateways as usize).min(all)
            }
        }
    }
}
