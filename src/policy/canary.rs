//! The automatic canary: the share of a candidate rises step by step while it does well, and falls to nothing as
//! soon as it is known not to.
//!
//! The caller counts requests ([`Observed`], one for each side), and hands both counts to [`State::judge`] about once a second, and
//! when the candidate fails. A count covers one step: after a [`Decision`] or [`Event`] that begins a step, the caller takes
//! both counts back to zero.
//!
//! Each requirement is a bet in two directions ([`evidence`]), over the whole canary. A candidate that keeps to a requirement is
//! rolled back for it with a probability of `1 - confidence` at most, however often it is looked at. One that breaks it is promoted with
//! that probability at most; the rise before asks for less, in proportion to the share it leads to, as less is at stake.

pub mod evidence;
mod ledger;
mod observed;
mod saved;
mod verdict;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use observed::{Observed, Sample};
pub use saved::{Saved, Stale};
pub use verdict::{
    Breach, Decision, Doubt, Event, Fault, Next, NextStep, NotYet, Outlook, Refusal, Side, TooFewRequests,
    Unknown, cut,
};

use evidence::Pair;
use ledger::{Baseline, Demand, Ledger, Reference, sureness};

/// How a candidate proceeds. Shares run from 0 to 1. The configuration answers for `0 < start <= max <= 1` and
/// `step > 0`; without them a canary stands still, and still never exceeds `max`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub start: f64,
    pub step: f64,
    /// The least a step takes.
    pub every: Duration,
    pub max: f64,
    pub require: Require,
    pub on_failure: OnFailure,
}

impl Settings {
    /// `weight` as far as it may go: exactly `max` at the end, and without the dust of adding 0.1 to 0.2.
    fn share(&self, weight: f64) -> f64 {
        if weight > self.max - EPSILON { self.max } else { (weight * 1e9).round() / 1e9 }
    }
}

/// What the candidate must keep to. `None` requires nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Require {
    /// 0 to 1.
    pub success_rate: Option<f64>,
    pub p99: Option<Duration>,
    /// A step needs so many. 0 counts as 1: no data is never good news.
    pub min_requests: u64,
    /// A step with so many does not wait for more evidence.
    pub max_requests: u64,
    /// 0 to 1, without 1.
    pub confidence: f64,
    /// By how much the failure rate may exceed that of stable: 0.01 is one request more in a hundred. A difference
    /// and not a ratio, since stable often fails none at all.
    pub max_error_increase: Option<f64>,
    /// By how much the p99 may exceed that of stable, as a ratio: 0.2 is 20 % slower.
    pub max_p99_increase: Option<f64>,
}

impl Require {
    fn requests(&self) -> u64 {
        self.min_requests.max(1)
    }

    /// The evidence that makes as sure as required, as a logarithm.
    fn threshold(&self) -> f64 {
        -(1.0 - self.confidence).ln()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// All traffic back to stable.
    Rollback,
    /// Stay at the current weight until an operator decides.
    Pause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Progressing,
    /// The weight stays; a breach still counts.
    Paused(PausedBy),
    /// At `max` for good. Below 100 % stable goes on being measured beside it, and a breach still counts.
    Promoted,
    /// The weight is 0 until an operator acts or the settings change.
    RolledBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PausedBy {
    Operator,
    Breach,
}

/// Shares closer than this are equal; a ten-thousandth of what an operator could notice.
const EPSILON: f64 = 1e-9;

/// One canary and how far it has come.
#[derive(Clone, Debug)]
pub struct State {
    settings: Settings,
    stable: String,
    candidate: String,
    phase: Phase,
    weight: f64,
    step_began: Instant,
    /// Time the step had already taken before a restart. Time spent down is not part of it: nobody was watching.
    elapsed_before: Duration,
    baseline: Option<Baseline>,
    /// One for each requirement.
    ledgers: Vec<Ledger>,
    /// How often it was looked at.
    looks: u64,
    /// What ended or paused it, in words.
    why: Option<String>,
}

/// Why a canary was rolled back that had broken no requirement.
const BY_AN_OPERATOR: &str = "an operator has ordered it";

impl State {
    /// Begins at `start`. `stable` and `candidate` are the names of the upstreams.
    pub fn new(settings: &Settings, stable: &str, candidate: &str, now: Instant) -> State {
        State {
            settings: settings.clone(),
            stable: stable.to_owned(),
            candidate: candidate.to_owned(),
            phase: Phase::Progressing,
            weight: settings.share(settings.start),
            step_began: now,
            elapsed_before: Duration::ZERO,
            baseline: None,
            ledgers: ledgers(settings),
            looks: 0,
            why: None,
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Share of the candidate, 0 to 1.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The breach that rolled it back or paused it, or that an operator did.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// How long the current step has taken.
    pub fn elapsed(&self, now: Instant) -> Duration {
        self.elapsed_before.saturating_add(now.saturating_duration_since(self.step_began))
    }

    /// Decides on what both sides did since the current step began.
    pub fn judge(&mut self, candidate: &Sample, stable: &Sample, now: Instant) -> Decision {
        if !self.armed() {
            return Decision::Wait;
        }
        if let Some(decision) = self.convict(candidate, stable, now) {
            return decision;
        }
        if self.elapsed(now) < self.settings.every {
            return Decision::Wait;
        }
        match (self.unknown(candidate, stable), self.phase) {
            (Some(why), Phase::Progressing) => Decision::Hold { why },
            (Some(Unknown::Requests(_)), _) => Decision::Wait,
            _ => self.succeed(candidate, stable, now),
        }
    }

    /// Only whether a requirement is broken: what a failure of the candidate asks between two looks. `None` if not, as far as is known.
    pub fn convict(&mut self, candidate: &Sample, stable: &Sample, now: Instant) -> Option<Decision> {
        if !self.armed() {
            return None;
        }
        self.looks += 1;
        let breach = self.breach(candidate, stable)?;
        Some(self.fail(breach, now))
    }

    /// That every requirement is kept, by the steps that are over: 0 to 1.
    pub fn sure(&self) -> f64 {
        let keeps = self.ledgers.iter().map(|ledger| ledger.keeps(&Pair::default()));
        sureness(keeps.fold(f64::INFINITY, f64::min))
    }

    /// How sure it is, and when it will decide on the next step. `None` where there is no next one.
    pub fn outlook(&self, candidate: &Sample, stable: &Sample, now: Instant) -> Option<Outlook> {
        if self.phase != Phase::Progressing {
            return None;
        }
        let reference = self.reference(stable);
        let known = self.ledgers.iter().map(|ledger| {
            let pair = ledger.demand.pair(candidate, &reference).unwrap_or_default();
            (ledger.demand.name(), ledger.keeps(&pair))
        });
        let (requirement, keeps) = known.min_by(|one, two| one.1.total_cmp(&two.1))?;
        let few = self.too_few(candidate, stable);
        let side = few.map_or(Side::Candidate, |few| few.side);
        let first = few.map_or(0, |few| few.need - few.have);
        let then = match (side, self.doubt(candidate, stable)) {
            (Side::Candidate, Some(doubt)) => doubt.missing,
            _ => Some(0),
        };
        let missing = then.map(|then| then.max(first));
        let elapsed = self.elapsed(now);
        let left = self.settings.every.saturating_sub(elapsed);
        let requests = match side {
            Side::Candidate => candidate.requests,
            Side::Stable => stable.requests,
        };
        let by_second = requests as f64 / elapsed.as_secs_f64();
        let decides_in = missing.and_then(|missing| {
            let wait = if missing == 0 { 0.0 } else { missing as f64 / by_second };
            Duration::try_from_secs_f64(wait).ok().map(|wait| wait.max(left))
        });
        let needed = sureness(self.needed());
        Some(Outlook { requirement, sure: sureness(keeps), needed, side, missing, decides_in })
    }

    /// What would happen next if it goes on like this, and why not yet.
    pub fn next(&self, candidate: &Sample, stable: &Sample, now: Instant) -> Next {
        let to = match self.phase {
            Phase::Progressing if self.at_max() => {
                return self.next_is(NextStep::Promote, candidate, stable, now);
            }
            Phase::Progressing => self.settings.share(self.weight + self.settings.step),
            Phase::Paused(_) | Phase::Promoted | Phase::RolledBack => {
                return Next { step: NextStep::Nothing, not_yet: None };
            }
        };
        self.next_is(NextStep::Advance { to }, candidate, stable, now)
    }

    fn next_is(&self, step: NextStep, candidate: &Sample, stable: &Sample, now: Instant) -> Next {
        let left = self.settings.every.saturating_sub(self.elapsed(now));
        let not_yet = match self.unknown(candidate, stable) {
            Some(unknown) => Some(NotYet::Unknown(unknown)),
            None => (!left.is_zero()).then_some(NotYet::Time(left)),
        };
        Next { step, not_yet }
    }

    /// Straight to `max`, whatever was measured. Also brings back a canary that was rolled back.
    pub fn promote(&mut self, now: Instant) -> Result<Event, Refusal> {
        if self.phase == Phase::Promoted {
            return Err(Refusal::Promoted);
        }
        self.forget();
        self.go(Phase::Promoted, self.settings.max, now);
        Ok(Event::Promoted { weight: self.weight })
    }

    /// All traffic to stable, also after it was promoted.
    pub fn rollback(&mut self, now: Instant) -> Result<Event, Refusal> {
        if self.phase == Phase::RolledBack {
            return Err(Refusal::RolledBack);
        }
        let from = self.weight;
        self.go(Phase::RolledBack, 0.0, now);
        self.why = Some(BY_AN_OPERATOR.to_owned());
        Ok(Event::RolledBack { from })
    }

    /// Stays at the current weight. With `on_failure: rollback` a breach still rolls it back.
    pub fn pause(&mut self) -> Result<Event, Refusal> {
        match self.phase {
            Phase::Progressing => {
                self.phase = Phase::Paused(PausedBy::Operator);
                Ok(Event::Paused { weight: self.weight })
            }
            Phase::Paused(_) => Err(Refusal::Paused),
            Phase::Promoted => Err(Refusal::Promoted),
            Phase::RolledBack => Err(Refusal::RolledBack),
        }
    }

    /// Goes on with a new step at the weight it was paused at, or from `start` when it was rolled back.
    pub fn resume(&mut self, now: Instant) -> Result<Event, Refusal> {
        let weight = match self.phase {
            Phase::Paused(_) => self.weight,
            Phase::RolledBack => self.settings.share(self.settings.start),
            Phase::Progressing => return Err(Refusal::Progressing),
            Phase::Promoted => return Err(Refusal::Promoted),
        };
        // The operator knows better than what was measured.
        self.forget();
        self.go(Phase::Progressing, weight, now);
        Ok(Event::Resumed { weight })
    }

    /// One step up without waiting for it to be over; promotes at `max`. Paused, it stays paused, now by the operator.
    pub fn step(&mut self, now: Instant) -> Result<Event, Refusal> {
        match self.phase {
            Phase::Progressing | Phase::Paused(_) if self.at_max() => self.promote(now),
            Phase::Progressing | Phase::Paused(_) => {
                let from = self.weight;
                let phase = match self.phase {
                    Phase::Paused(PausedBy::Breach) => {
                        self.forget();
                        Phase::Paused(PausedBy::Operator)
                    }
                    phase => phase,
                };
                self.go(phase, self.settings.share(self.weight + self.settings.step), now);
                Ok(Event::Advanced { from, to: self.weight })
            }
            Phase::Promoted => Err(Refusal::Promoted),
            Phase::RolledBack => Err(Refusal::RolledBack),
        }
    }

    /// Whether a breach still has consequences. At 100 % for good there is no stable to speak of any more.
    fn armed(&self) -> bool {
        match self.phase {
            Phase::Progressing | Phase::Paused(_) => true,
            Phase::Promoted => !self.has_everything(),
            Phase::RolledBack => false,
        }
    }

    /// What is not known yet, and has to be before the step ends well.
    fn unknown(&self, candidate: &Sample, stable: &Sample) -> Option<Unknown> {
        let few = self.too_few(candidate, stable).map(Unknown::Requests);
        few.or_else(|| self.doubt(candidate, stable).map(Unknown::Doubt))
    }

    fn too_few(&self, candidate: &Sample, stable: &Sample) -> Option<TooFewRequests> {
        let need = self.settings.require.requests();
        if candidate.requests < need {
            return Some(TooFewRequests { side: Side::Candidate, have: candidate.requests, need });
        }
        let compares = self.ledgers.iter().any(|ledger| ledger.demand.compares());
        let comparable = stable.requests >= need || self.baseline.is_some() || self.has_everything();
        (compares && !comparable).then_some(TooFewRequests {
            side: Side::Stable,
            have: stable.requests,
            need,
        })
    }

    /// The requirement of which most is missing, among those that the candidate may not keep to.
    fn doubt(&self, candidate: &Sample, stable: &Sample) -> Option<Doubt> {
        let reference = self.reference(stable);
        let needed = self.needed();
        let left = self.settings.require.max_requests.saturating_sub(candidate.requests);
        let doubts = self.ledgers.iter().filter_map(|ledger| {
            // A candidate that began with everything has nothing to be compared with.
            let pair = ledger.demand.pair(candidate, &reference)?;
            let (keeps, kept) = (ledger.keeps(&pair), ledger.is_kept(&pair));
            let unsure = keeps < needed && left > 0;
            let missing = ledger.missing(&pair, needed, left);
            (unsure || !kept).then(|| Doubt {
                requirement: ledger.demand.name(),
                sure: sureness(keeps),
                needed: sureness(needed),
                kept,
                missing,
            })
        });
        doubts.max_by_key(|doubt| doubt.missing.unwrap_or(u64::MAX))
    }

    /// The evidence without which the step does not end, as a logarithm. At a small share little is at stake.
    fn needed(&self) -> f64 {
        let next = if self.at_max() { 1.0 } else { self.settings.share(self.weight + self.settings.step) };
        next * self.settings.require.threshold()
    }

    fn reference(&self, stable: &Sample) -> Reference {
        Reference::new(stable, self.baseline.as_ref(), self.settings.require.requests())
    }

    fn fail(&mut self, why: Breach, now: Instant) -> Decision {
        let from = self.weight;
        match (self.settings.on_failure, self.phase) {
            (OnFailure::Rollback, _) => {
                self.go(Phase::RolledBack, 0.0, now);
                self.why = Some(why.to_string());
                Decision::Rollback { from, why }
            }
            (OnFailure::Pause, Phase::Paused(PausedBy::Breach)) => Decision::Wait,
            (OnFailure::Pause, _) => {
                self.phase = Phase::Paused(PausedBy::Breach);
                self.why = Some(why.to_string());
                Decision::Pause { weight: from, why }
            }
        }
    }

    fn succeed(&mut self, candidate: &Sample, stable: &Sample, now: Instant) -> Decision {
        self.settle(candidate, stable);
        let from = self.weight;
        match self.phase {
            Phase::Progressing if self.at_max() => {
                self.go(Phase::Promoted, self.settings.max, now);
                Decision::Promote { weight: self.weight }
            }
            Phase::Progressing => {
                self.go(Phase::Progressing, self.settings.share(self.weight + self.settings.step), now);
                Decision::Advance { from, to: self.weight }
            }
            _ => {
                self.begin_step(now);
                Decision::Keep { weight: from }
            }
        }
    }

    fn breach(&mut self, candidate: &Sample, stable: &Sample) -> Option<Breach> {
        let reference = self.reference(stable);
        let (threshold, look) = (self.settings.require.threshold(), self.looks);
        self.ledgers.iter_mut().find_map(|ledger| {
            let pair = ledger.demand.pair(candidate, &reference)?;
            let breach = ledger.breach(&pair, &reference, threshold);
            ledger.look(&pair, look);
            breach
        })
    }

    /// What the step showed is kept, beyond its end.
    fn settle(&mut self, candidate: &Sample, stable: &Sample) {
        let reference = self.reference(stable);
        for ledger in &mut self.ledgers {
            let pair = ledger.demand.pair(candidate, &reference);
            ledger.settle(pair.as_ref(), self.looks);
        }
        if stable.requests >= self.settings.require.requests() {
            self.baseline = Some(self.baseline.unwrap_or_default().plus(stable));
        }
    }

    fn forget(&mut self) {
        self.ledgers = ledgers(&self.settings);
        self.looks = 0;
    }

    fn has_everything(&self) -> bool {
        self.weight >= 1.0 - EPSILON
    }

    fn at_max(&self) -> bool {
        self.weight > self.settings.max - EPSILON
    }

    fn go(&mut self, phase: Phase, weight: f64, now: Instant) {
        self.phase = phase;
        self.weight = weight;
        self.why = None;
        self.begin_step(now);
    }

    fn begin_step(&mut self, now: Instant) {
        self.step_began = now;
        self.elapsed_before = Duration::ZERO;
    }
}

fn ledgers(settings: &Settings) -> Vec<Ledger> {
    Demand::all(&settings.require).map(|demand| Ledger::new(demand, Default::default(), 0)).collect()
}

#[cfg(test)]
mod rollouts;
#[cfg(test)]
mod tests;
