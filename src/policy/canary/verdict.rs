//! What a canary decided and why, with the numbers behind it and in words for a log line or a status page.

use std::fmt;
use std::time::Duration;

use super::evidence::Trials;

/// What one judgement came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// Nothing to do yet, or ever again.
    Wait,
    /// The time is up, but too little is known: the step goes on.
    Hold {
        why: Unknown,
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

/// What has to be known before a step ends well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unknown {
    Requests(TooFewRequests),
    Doubt(Doubt),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::Requests(few) => few.fmt(f),
            Unknown::Doubt(doubt) => doubt.fmt(f),
        }
    }
}

/// A requirement that the candidate may not keep to: there is too little evidence either way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Doubt {
    /// Its key in the configuration.
    pub requirement: &'static str,
    /// That it is kept, 0 to 1.
    pub sure: f64,
    pub needed: f64,
    /// By what was measured, it is.
    pub kept: bool,
    /// Requests of the candidate, if it goes on like this. `None` where they would not help.
    pub missing: Option<u64>,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requirement, sure) = (self.requirement, Sure(self.sure));
        if self.kept {
            write!(f, "{sure} that `{requirement}` is kept, and {} is needed", Percent(self.needed))?;
        } else {
            write!(f, "`{requirement}` is not kept by what was measured, which may be chance")?;
        }
        match self.missing {
            Some(missing) => write!(f, " (about {missing} more requests)"),
            None => write!(f, " (roll it back, or promote it)"),
        }
    }
}

/// How sure a canary is of its candidate, and when it will decide on the next step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// The one of which least is known.
    pub requirement: &'static str,
    /// That it is kept, 0 to 1.
    pub sure: f64,
    /// For the next step.
    pub needed: f64,
    /// Whose requests are missing.
    pub side: Side,
    /// How many more, if it goes on like this. `None` where that cannot be told.
    pub missing: Option<u64>,
    /// At the rate of traffic of the present step.
    pub decides_in: Option<Duration>,
}

/// What happens next, if nothing new comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Next {
    pub step: NextStep,
    /// `None` where it happens at the next look, or never.
    pub not_yet: Option<NotYet>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NextStep {
    Advance {
        to: f64,
    },
    Promote,
    /// An operator has to say.
    Nothing,
}

/// What a step still waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NotYet {
    Time(Duration),
    Unknown(Unknown),
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotYet::Time(left) => write!(f, "the step takes {} s more", left.as_secs_f64().ceil()),
            NotYet::Unknown(unknown) => unknown.fmt(f),
        }
    }
}

/// A requirement the candidate was shown not to keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breach {
    pub fault: Fault,
    /// The candidate's counts that show it: failures, or slow requests.
    pub seen: Trials,
    /// 0 to 1.
    pub sure: f64,
}

/// Rates run from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    SuccessRate {
        measured: f64,
        required: f64,
    },
    /// The share `slow` took longer than `allowed`.
    P99 {
        slow: f64,
        allowed: Duration,
    },
    ErrorIncrease {
        candidate: f64,
        stable: f64,
        allowed: f64,
    },
    /// The share `slow` took longer than stable's p99 and the ratio `allowed` more.
    P99Increase {
        slow: f64,
        stable: Duration,
        allowed: f64,
    },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trials { requests, hits } = self.seen;
        write!(f, "{} ({hits} of {requests} requests, {})", self.fault, Sure(self.sure))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fault::SuccessRate { measured, required } => {
                write!(f, "success rate {} is below {}", Percent(measured), Percent(required))
            }
            Fault::P99 { slow, allowed } => {
                write!(f, "p99 is above {allowed:?}: {} took longer", Percent(slow))
            }
            Fault::ErrorIncrease { candidate, stable, allowed } => write!(
                f,
                "failure rate {} is more than {} above stable's {}",
                Percent(candidate),
                Percent(allowed),
                Percent(stable)
            ),
            Fault::P99Increase { slow, stable, allowed } => write!(
                f,
                "p99 is more than {} above stable's {stable:.1?}: {} took longer",
                Percent(allowed),
                Percent(slow)
            ),
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

/// For programs and the log: to the thousandth of a per cent, and never surer than it is.
pub fn cut(share: f64) -> f64 {
    (share * 1e5).floor() / 1e5
}

/// Never surer than it is: cut off, not rounded.
pub(super) struct Sure(pub(super) f64);

impl fmt::Display for Sure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 0.9999 {
            return write!(f, "more than 99.99% sure");
        }
        write!(f, "{}% sure", (self.0 * 10_000.0).floor() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_read_as_sentences() {
        let ms = Duration::from_millis;
        let breach = |fault, requests, hits, sure| Breach { fault, seen: Trials { requests, hits }, sure };
        let slow = breach(Fault::P99 { slow: 0.05, allowed: ms(300) }, 400, 20, 0.999_99);
        let failing = Fault::ErrorIncrease { candidate: 0.041_666_7, stable: 0.0, allowed: 0.01 };
        let failing = breach(failing, 120, 5, 0.996_78);
        let slower = Fault::P99Increase { slow: 0.05, stable: ms(20), allowed: 0.2 };
        let slower = breach(slower, 400, 20, 0.993);
        let few = Unknown::Requests(TooFewRequests { side: Side::Candidate, have: 7, need: 100 });
        let doubt = |kept, missing| {
            Unknown::Doubt(Doubt { requirement: "success_rate", sure: 0.456_78, needed: 0.6, kept, missing })
        };
        for (decision, words) in [
            (Decision::Hold { why: few }, "holding the step: candidate has 7 of the 100 requests needed"),
            (
                Decision::Hold { why: doubt(true, Some(120)) },
                "holding the step: 45.67% sure that `success_rate` is kept, and 60% is needed \
                 (about 120 more requests)",
            ),
            (
                Decision::Hold { why: doubt(false, None) },
                "holding the step: `success_rate` is not kept by what was measured, which may be chance \
                 (roll it back, or promote it)",
            ),
            (Decision::Advance { from: 0.1, to: 0.225 }, "advanced from 10% to 22.5%"),
            (
                Decision::Rollback { from: 0.3, why: slow },
                "rolled back from 30%: p99 is above 300ms: 5% took longer \
                 (20 of 400 requests, more than 99.99% sure)",
            ),
            (
                Decision::Pause { weight: 0.3, why: failing },
                "paused at 30%: failure rate 4.167% is more than 1% above stable's 0% \
                 (5 of 120 requests, 99.67% sure)",
            ),
            (
                Decision::Rollback { from: 0.29, why: slower },
                "rolled back from 29%: p99 is more than 20% above stable's 20.0ms: 5% took longer \
                 (20 of 400 requests, 99.3% sure)",
            ),
        ] {
            assert_eq!(decision.to_string(), words);
        }
        let failing = Fault::SuccessRate { measured: 0.98, required: 0.999 };
        assert_eq!(failing.to_string(), "success rate 98% is below 99.9%");
    }
}
