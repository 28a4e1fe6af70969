//! What is known of one requirement: the evidence of the steps that are over, and where that of the present one begins.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Require, Sample,
    evidence::{Evidence, Pair, Trials},
    saved::MOST,
    verdict::{Breach, Fault},
};

/// A p99 is the time that this share of the requests exceeds.
const SLOW: f64 = 0.01;
/// Fewer convict nobody: failures come together more often than independent ones would, as one client repeats one request or
/// one connection breaks.
const FEWEST_HITS: u64 = 5;
/// Of the stake, so much is bet from the start of the canary on, and the rest from later moments on: a candidate that
/// did well for an hour can fail from one second to the next.
const FROM_START: f64 = 0.9;
/// A candidate is suspected from the moment on since which it fails so many times as often as it may.
const SUSPECT: f64 = 1.5;

/// One requirement. It says what counts as a hit, and how many are too many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Demand {
    /// The least, 0 to 1.
    SuccessRate(f64),
    P99(Duration),
    ErrorIncrease(f64),
    P99Increase(f64),
}

impl Demand {
    pub(super) fn all(require: &Require) -> impl Iterator<Item = Demand> {
        [
            require.success_rate.map(Demand::SuccessRate),
            require.p99.map(Demand::P99),
            require.max_error_increase.map(Demand::ErrorIncrease),
            require.max_p99_increase.map(Demand::P99Increase),
        ]
        .into_iter()
        .flatten()
    }

    /// Its key in the configuration.
    pub(super) fn name(self) -> &'static str {
        match self {
            Demand::SuccessRate(_) => "success_rate",
            Demand::P99(_) => "p99",
            Demand::ErrorIncrease(_) => "max_error_increase",
            Demand::P99Increase(_) => "max_p99_increase",
        }
    }

    pub(super) fn compares(self) -> bool {
        matches!(self, Demand::ErrorIncrease(_) | Demand::P99Increase(_))
    }

    /// The share of hits that is allowed: at all, or beyond stable's.
    fn margin(self) -> f64 {
        match self {
            Demand::SuccessRate(least) => 1.0 - least,
            Demand::P99(_) => SLOW,
            Demand::ErrorIncrease(more) => more,
            Demand::P99Increase(_) => 0.0,
        }
    }

    /// The counts of the present step. `None` while there is nothing to compare with.
    pub(super) fn pair(self, candidate: &Sample, stable: &Reference) -> Option<Pair> {
        let (hits, stable) = match self {
            Demand::SuccessRate(_) => (candidate.failures, None),
            Demand::P99(most) => (candidate.latencies.slower_than(most), None),
            Demand::ErrorIncrease(_) => (candidate.failures, Some(stable.failures?)),
            Demand::P99Increase(more) => {
                let (p99, slow) = stable.slow?;
                (candidate.latencies.slower_than(p99.mul_f64(1.0 + more)), Some(slow))
            }
        };
        // Latencies are counted apart from requests, and one of the two may be ahead.
        let candidate = Trials { requests: candidate.requests, hits: hits.min(candidate.requests) };
        Some(Pair { candidate, stable })
    }

    fn fault(self, pair: &Pair, stable: &Reference) -> Fault {
        let measured = pair.candidate.rate();
        match self {
            Demand::SuccessRate(required) => Fault::SuccessRate { measured: 1.0 - measured, required },
            Demand::P99(allowed) => Fault::P99 { slow: measured, allowed },
            Demand::ErrorIncrease(allowed) => Fault::ErrorIncrease {
                candidate: measured,
                stable: pair.stable.unwrap_or_default().rate(),
                allowed,
            },
            Demand::P99Increase(allowed) => Fault::P99Increase {
                slow: measured,
                stable: stable.slow.map(|(p99, _)| p99).unwrap_or_default(),
                allowed,
            },
        }
    }
}

/// What stable did over the present step, or, where it has too little traffic left, over the earlier ones too.
pub(super) struct Reference {
    failures: Option<Trials>,
    /// Stable's p99, and how many of its requests take longer.
    slow: Option<(Duration, Trials)>,
}

impl Reference {
    pub(super) fn new(stable: &Sample, before: Option<&Baseline>, enough: u64) -> Reference {
        let now = Trials { requests: stable.requests, hits: stable.failures };
        if stable.requests >= enough {
            return Reference { failures: Some(now), slow: slow(stable) };
        }
        let failures = before.map_or(now, |before| now.plus(before.failures));
        Reference {
            failures: Some(failures).filter(|failures| failures.requests > 0),
            slow: before.map(|before| (before.p99, before.slow)),
        }
    }
}

/// One more than the hundredth part that is beyond a p99: the threshold was chosen from the same requests. Of one that leaves
/// `k` of `n` beyond itself, the share that truly lies beyond has the distribution Beta(k + 1, n - k), and with one more the
/// test is exact. Fewer may be beyond where many took equally long, which makes the threshold no less a p99.
fn slow(stable: &Sample) -> Option<(Duration, Trials)> {
    let p99 = stable.p99()?;
    let hits = (stable.requests as f64 * SLOW).ceil() as u64 + 1;
    Some((p99, Trials { requests: stable.requests, hits: hits.min(stable.requests) }))
}

/// Stable over the steps in which it had enough requests. At 100 % it has none, and the last step is judged all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Baseline {
    failures: Trials,
    slow: Trials,
    /// Of the last step.
    p99: Duration,
}

impl Baseline {
    pub(super) fn is_plausible(&self) -> bool {
        const LONGEST: Duration = Duration::from_secs(24 * 3600);
        self.failures.requests.max(self.failures.hits) <= MOST
            && self.slow.requests.max(self.slow.hits) <= MOST
            && self.p99 <= LONGEST
    }

    pub(super) fn plus(self, stable: &Sample) -> Baseline {
        let (p99, slow) = slow(stable).unwrap_or_default();
        let failures = Trials { requests: stable.requests, hits: stable.failures };
        Baseline { failures: self.failures.plus(failures), slow: self.slow.plus(slow), p99 }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Ledger {
    pub(super) demand: Demand,
    known: Known,
    since: Since,
}

/// Of the steps that are over; it survives a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Known {
    evidence: Evidence,
    counts: Pair,
}

impl Known {
    pub(super) fn is_plausible(&self) -> bool {
        let trials = [Some(self.counts.candidate), self.counts.stable];
        let counts = trials.into_iter().flatten();
        self.evidence.is_plausible() && counts.map(|it| it.requests.max(it.hits)).all(|count| count <= MOST)
    }
}

/// A moment in the present step, from which on a second bet runs.
#[derive(Clone, Copy, Debug)]
struct Since {
    counts: Pair,
    /// The number of the look at which it was chosen. A later one has a smaller part of the stake.
    look: u64,
}

impl Since {
    fn begin(look: u64) -> Since {
        Since { counts: Pair::default(), look: look.max(1) }
    }
}

impl Ledger {
    pub(super) fn new(demand: Demand, known: Known, look: u64) -> Ledger {
        Ledger { demand, known, since: Since::begin(look) }
    }

    pub(super) fn known(&self) -> Known {
        self.known
    }

    /// Moves the second bet to now, where the candidate did well until now. Chosen before what it bets on is seen.
    pub(super) fn look(&mut self, pair: &Pair, look: u64) {
        // A threshold that moves with stable's p99 counts otherwise at each look.
        if matches!(self.demand, Demand::P99Increase(_)) {
            return;
        }
        let allowed = SUSPECT * pair.allowed(self.demand.margin());
        let excess = |trials: Trials| trials.hits as f64 - allowed * trials.requests as f64;
        if excess(pair.candidate) < excess(self.since.counts.candidate) {
            self.since = Since { counts: *pair, look: look.max(1) };
        }
    }

    /// The breach that has been shown with evidence of at least `threshold`, a logarithm.
    pub(super) fn breach(&self, pair: &Pair, stable: &Reference, threshold: f64) -> Option<Breach> {
        let margin = self.demand.margin();
        let lately = pair.minus(self.since.counts);
        let look = self.since.look as f64;
        let part = (1.0 - FROM_START) / (look * (look + 1.0));
        let all = self.with(pair);
        let bets = [
            (FROM_START.ln() + all.evidence.breach(), all.counts),
            (part.ln() + Evidence::of(&lately, margin).breach(), lately),
        ];
        let (won, counts) = bets.into_iter().max_by(|one, two| one.0.total_cmp(&two.0))?;
        (won >= threshold && counts.candidate.hits >= FEWEST_HITS).then(|| Breach {
            fault: self.demand.fault(&counts, stable),
            seen: counts.candidate,
            sure: sureness(won),
        })
    }

    /// The logarithm of the evidence that it keeps to the requirement.
    pub(super) fn keeps(&self, pair: &Pair) -> f64 {
        self.with(pair).evidence.keeps()
    }

    /// By the present step's numbers alone, however few.
    pub(super) fn is_kept(&self, pair: &Pair) -> bool {
        pair.candidate.rate() <= pair.allowed(self.demand.margin()) + super::EPSILON
    }

    /// How many more requests of the candidate bring the evidence for it to `needed`, if it goes on as in this step: `most`, if
    /// more than that. `None` where the requirement is not met, and none will help.
    pub(super) fn missing(&self, pair: &Pair, needed: f64, most: u64) -> Option<u64> {
        let margin = self.demand.margin();
        if !self.is_kept(pair) {
            let until_kept =
                pair.candidate.hits as f64 / pair.allowed(margin) - pair.candidate.requests as f64;
            return until_kept.is_finite().then_some(until_kept.ceil() as u64);
        }
        let known = self.with(pair).evidence;
        // Nothing seen yet: as if none failed.
        let requests = pair.candidate.requests.max(1);
        let seen = Pair { candidate: Trials { requests, ..pair.candidate }, ..*pair };
        let by_each = Evidence::of(&seen, margin).times(1.0 / requests as f64);
        // What several bets win together first falls, if at all, and then rises.
        let (mut low, mut high) = (0, most);
        while low < high {
            let middle = low + (high - low) / 2;
            if known.plus(&by_each.times(middle as f64)).keeps() >= needed {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Some(low)
    }

    /// The step is over.
    pub(super) fn settle(&mut self, pair: Option<&Pair>, look: u64) {
        if let Some(pair) = pair {
            self.known = self.with(pair);
        }
        self.since = Since::begin(look);
    }

    fn with(&self, pair: &Pair) -> Known {
        let evidence = self.known.evidence.plus(&Evidence::of(pair, self.demand.margin()));
        Known { evidence, counts: self.known.counts.plus(*pair) }
    }
}

/// 0 to 1, from the logarithm of what was won.
pub(super) fn sureness(won: f64) -> f64 {
    (1.0 - (-won).exp()).max(0.0)
}
