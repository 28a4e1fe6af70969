//! The automatic canary: the share of a candidate rises step by step while it does well, and falls to nothing as
//! soon as it does not.
//!
//! The caller counts requests ([`Observed`], one for each side), and about once a second hands both counts to
//! [`State::judge`]. A count covers one step: after a [`Decision`] or [`Event`] that begins a step, the caller takes
//! both counts back to zero. A step is over when its time is up *and* enough requests are in; a breach is acted on as
//! soon as enough requests are in. The longer a step has gone well, the longer a late failure needs to show: with
//! 99 % required, at most 1 % of `every`.

mod observed;
mod saved;
mod verdict;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use observed::{Observed, Sample};
pub use saved::{Saved, Stale};
pub use verdict::{Breach, Decision, Event, Refusal, Side, TooFewRequests};

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

/// What the candidate must keep to, over one step. `None` requires nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Require {
    /// 0 to 1.
    pub success_rate: Option<f64>,
    pub p99: Option<Duration>,
    /// Fewer than this say nothing, for better or worse. 0 counts as 1: no data is never good news.
    pub min_requests: u64,
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

    fn compares(&self) -> bool {
        self.max_error_increase.is_some() || self.max_p99_increase.is_some()
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
    /// Stable when it last had enough requests. At 100 % it has none, and the last step is judged all the same.
    baseline: Option<Sample>,
    /// The breach that ended or paused it, in words.
    why: Option<String>,
}

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

    /// The breach that rolled it back or paused it.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// How long the current step has taken.
    pub fn elapsed(&self, now: Instant) -> Duration {
        self.elapsed_before.saturating_add(now.saturating_duration_since(self.step_began))
    }

    /// Decides on what both sides did since the current step began.
    pub fn judge(&mut self, candidate: Sample, stable: Sample, now: Instant) -> Decision {
        if !self.armed() {
            return Decision::Wait;
        }
        let need = self.settings.require.requests();
        let over = self.elapsed(now) >= self.settings.every;
        if stable.requests >= need {
            self.baseline = Some(stable);
        }
        if candidate.requests < need {
            return self.hold(over, Side::Candidate, candidate.requests);
        }
        if let Some(breach) = self.breach(candidate) {
            return self.fail(breach, now);
        }
        if !over {
            return Decision::Wait;
        }
        let comparable = self.baseline.is_some() || self.weight >= 1.0 - EPSILON;
        if self.settings.require.compares() && !comparable {
            return self.hold(over, Side::Stable, stable.requests);
        }
        self.succeed(now)
    }

    /// Straight to `max`, whatever was measured. Also brings back a canary that was rolled back.
    pub fn promote(&mut self, now: Instant) -> Result<Event, Refusal> {
        if self.phase == Phase::Promoted {
            return Err(Refusal::Promoted);
        }
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
                    Phase::Paused(_) => Phase::Paused(PausedBy::Operator),
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
            Phase::Promoted => self.weight < 1.0 - EPSILON,
            Phase::RolledBack => false,
        }
    }

    fn hold(&self, over: bool, side: Side, have: u64) -> Decision {
        if over && self.phase == Phase::Progressing {
            Decision::Hold { why: TooFewRequests { side, have, need: self.settings.require.requests() } }
        } else {
            Decision::Wait
        }
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

    fn succeed(&mut self, now: Instant) -> Decision {
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
            // Measured afresh: hours of good requests must not hide a failure that begins now.
            _ => {
                self.begin_step(now);
                Decision::Keep { weight: from }
            }
        }
    }

    fn breach(&self, candidate: Sample) -> Option<Breach> {
        let require = &self.settings.require;
        let measured = 1.0 - candidate.failure_rate();
        if let Some(required) = require.success_rate
            && measured < required - EPSILON
        {
            return Some(Breach::SuccessRate { measured, required });
        }
        if let (Some(measured), Some(allowed)) = (candidate.p99, require.p99)
            && measured > allowed
        {
            return Some(Breach::P99 { measured, allowed });
        }
        let stable = self.baseline?;
        if let Some(allowed) = require.max_error_increase
            && candidate.failure_rate() > stable.failure_rate() + allowed + EPSILON
        {
            let (candidate, stable) = (candidate.failure_rate(), stable.failure_rate());
            return Some(Breach::ErrorIncrease { candidate, stable, allowed });
        }
        if let (Some(candidate), Some(stable), Some(allowed)) =
            (candidate.p99, stable.p99, require.max_p99_increase)
            && candidate.as_secs_f64() > stable.as_secs_f64() * (1.0 + allowed + EPSILON)
        {
            return Some(Breach::P99Increase { candidate, stable, allowed });
        }
        None
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

#[cfg(test)]
mod tests;
