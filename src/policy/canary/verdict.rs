//! What a canary decided and why, with the numbers behind it and in words for a log line or a status page.

use std::fmt;
use std::time::Duration;

/// What one judgement came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// Nothing to do yet, or ever again.
    Wait,
    /// The time is up, but too few requests are in: the step goes on.
    Hold {
        why: TooFewRequests,
    },
    /// Paused or promoted, and all is well: the weight stays and is measured afresh.
    Keep {
        weight: f64,
    },
    Advance {
        from: f64,
        to: f64,
    },
    Promote {
        weight: f64,
    },
    Rollback {
        from: f64,
        why: Breach,
    },
    Pause {
        weight: f64,
        why: Breach,
    },
}

impl Decision {
    /// Whether counting starts again: the caller takes both sides' observations.
    pub fn begins_step(&self) -> bool {
        match self {
            Decision::Wait | Decision::Hold { .. } | Decision::Pause { .. } => false,
            Decision::Keep { .. }
            | Decision::Advance { .. }
            | Decision::Promote { .. }
            | Decision::Rollback { .. } => true,
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Wait => write!(f, "waiting for the step to end"),
            Decision::Hold { why } => write!(f, "holding the step: {why}"),
            Decision::Keep { weight } => write!(f, "staying at {}", Percent(*weight)),
            Decision::Advance { from, to } => {
                write!(f, "advanced from {} to {}", Percent(*from), Percent(*to))
            }
            Decision::Promote { weight } => write!(f, "promoted at {}", Percent(*weight)),
            Decision::Rollback { from, why } => write!(f, "rolled back from {}: {why}", Percent(*from)),
            Decision::Pause { weight, why } => write!(f, "paused at {}: {why}", Percent(*weight)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Candidate,
    Stable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFewRequests {
    pub side: Side,
    pub have: u64,
    pub need: u64,
}

impl fmt::Display for TooFewRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Candidate => "candidate",
            Side::Stable => "stable",
        };
        write!(f, "{side} has {} of the {} requests needed", self.have, self.need)
    }
}

/// A requirement the candidate did not keep to. Rates run from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Breach {
    SuccessRate { measured: f64, required: f64 },
    P99 { measured: Duration, allowed: Duration },
    ErrorIncrease { candidate: f64, stable: f64, allowed: f64 },
    P99Increase { candidate: Duration, stable: Duration, allowed: f64 },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Breach::SuccessRate { measured, required } => {
                write!(f, "success rate {} is below {}", Percent(measured), Percent(required))
            }
            Breach::P99 { measured, allowed } => write!(f, "p99 {measured:.1?} is above {allowed:?}"),
            Breach::ErrorIncrease { candidate, stable, allowed } => write!(
                f,
                "failure rate {} is more than {} above stable's {}",
                Percent(candidate),
                Percent(allowed),
                Percent(stable)
            ),
            Breach::P99Increase { candidate, stable, allowed } => {
                write!(f, "p99 {candidate:.1?} is more than {} above stable's {stable:.1?}", Percent(allowed))
            }
        }
    }
}

/// What an operator's command did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    Advanced { from: f64, to: f64 },
    Promoted { weight: f64 },
    RolledBack { from: f64 },
    Paused { weight: f64 },
    Resumed { weight: f64 },
}

impl Event {
    /// As for [`Decision::begins_step`].
    pub fn begins_step(&self) -> bool {
        !matches!(self, Event::Paused { .. })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Event::Advanced { from, to } => write!(f, "advanced from {} to {}", Percent(from), Percent(to)),
            Event::Promoted { weight } => write!(f, "promoted at {}", Percent(weight)),
            Event::RolledBack { from } => write!(f, "rolled back from {}", Percent(from)),
            Event::Paused { weight } => write!(f, "paused at {}", Percent(weight)),
            Event::Resumed { weight } => write!(f, "resumed at {}", Percent(weight)),
        }
    }
}

/// Why a command did nothing: the canary already is where it should go, or cannot go there from where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Progressing,
    Paused,
    Promoted,
    RolledBack,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Progressing => "the canary is not paused (nothing to resume)",
            Refusal::Paused => "the canary is already paused (resume, step, promote or roll it back)",
            Refusal::Promoted => "the canary is already promoted (roll it back to undo that)",
            Refusal::RolledBack => "the canary is rolled back (resume to begin again, or promote)",
        })
    }
}

impl std::error::Error for Refusal {}

/// A share as people read it: `12.5%`, to a thousandth.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", (self.0 * 100_000.0).round() / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_read_as_sentences() {
        let ms = Duration::from_millis;
        let slow = Breach::P99 { measured: Duration::from_nanos(318_123_456), allowed: ms(300) };
        let failing = Breach::ErrorIncrease { candidate: 0.041_666_7, stable: 0.0, allowed: 0.01 };
        let slower = Breach::P99Increase { candidate: ms(25), stable: ms(20), allowed: 0.2 };
        let few = TooFewRequests { side: Side::Candidate, have: 7, need: 100 };
        for (decision, words) in [
            (Decision::Hold { why: few }, "holding the step: candidate has 7 of the 100 requests needed"),
            (Decision::Advance { from: 0.1, to: 0.225 }, "advanced from 10% to 22.5%"),
            (Decision::Rollback { from: 0.3, why: slow }, "rolled back from 30%: p99 318.1ms is above 300ms"),
            (
                Decision::Pause { weight: 0.3, why: failing },
                "paused at 30%: failure rate 4.167% is more than 1% above stable's 0%",
            ),
            (
                Decision::Rollback { from: 0.29, why: slower },
                "rolled back from 29%: p99 25.0ms is more than 20% above stable's 20.0ms",
            ),
        ] {
            assert_eq!(decision.to_string(), words);
        }
        let failing = Breach::SuccessRate { measured: 0.98, required: 0.999 };
        assert_eq!(failing.to_string(), "success rate 98% is below 99.9%");
    }
}
