//! Progress that survives a restart. It holds no instants, which mean nothing to another process, and only the
//! fingerprint of its settings: under other settings, or between other upstreams, the canary starts over.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ledger::{Baseline, Known, Ledger};
use super::{Demand, EPSILON, OnFailure, Phase, Require, Settings, State};
use crate::policy::rendezvous::Fnv1a;

const VERSION: u32 = 2;
/// Without `measured`, and with a fingerprint that knows neither `max_requests` nor `confidence`.
const WITHOUT_EVIDENCE: u32 = 1;

/// No canary counts as far as this, and what is counted on from here still fits.
pub(super) const MOST: u64 = 1 << 53;

/// What is written to the state directory. What was counted in the step is not part of it: after a restart the step
/// needs `min_requests` again, but not its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    version: u32,
    /// Of the settings, in hexadecimal.
    fingerprint: String,
    stable: String,
    candidate: String,
    phase: Phase,
    weight: f64,
    elapsed_ms: u64,
    #[serde(default)]
    measured: Measured,
    #[serde(default)]
    why: Option<String>,
}

/// In the steps that are over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Measured {
    looks: u64,
    baseline: Option<Baseline>,
    /// By the requirement's key.
    known: BTreeMap<String, Known>,
}

impl Measured {
    /// Whether one can go on counting from here. What was edited, or is of a broken disk, may be more than fits.
    fn is_plausible(&self) -> bool {
        self.looks <= MOST
            && self.baseline.is_none_or(|baseline| baseline.is_plausible())
            && self.known.values().all(Known::is_plausible)
    }
}

impl State {
    /// To be written after every decision and event that changes something, and at the end.
    pub fn save(&self, now: Instant) -> Saved {
        Saved {
            version: VERSION,
            fingerprint: fingerprint(&self.settings, VERSION),
            stable: self.stable.clone(),
            candidate: self.candidate.clone(),
            phase: self.phase,
            weight: self.weight,
            elapsed_ms: u64::try_from(self.elapsed(now).as_millis()).unwrap_or(u64::MAX),
            measured: Measured {
                looks: self.looks,
                baseline: self.baseline,
                known: self
                    .ledgers
                    .iter()
                    .map(|ledger| (ledger.demand.name().to_owned(), ledger.known()))
                    .collect(),
            },
            why: self.why.clone(),
        }
    }

    /// Goes on where `saved` left off, provided it is the same canary. Observations begin at zero.
    pub fn restore(
        saved: Saved,
        settings: &Settings,
        stable: &str,
        candidate: &str,
        now: Instant,
    ) -> Result<State, Stale> {
        if ![WITHOUT_EVIDENCE, VERSION].contains(&saved.version) {
            return Err(Stale::Version { saved: saved.version });
        }
        if saved.stable != stable || saved.candidate != candidate {
            return Err(Stale::Upstreams { stable: saved.stable, candidate: saved.candidate });
        }
        if saved.fingerprint != fingerprint(settings, saved.version) {
            return Err(Stale::Settings);
        }
        // Written by us, edited by someone: the promises about the weight hold all the same.
        let plausible = match saved.phase {
            Phase::RolledBack => saved.weight == 0.0,
            _ => (0.0..=settings.max + EPSILON).contains(&saved.weight),
        };
        if !plausible {
            return Err(Stale::Weight { saved: saved.weight });
        }
        if !saved.measured.is_plausible() {
            return Err(Stale::Measured);
        }
        let Measured { looks, baseline, known } = saved.measured;
        let ledger = |demand: Demand| {
            Ledger::new(demand, known.get(demand.name()).copied().unwrap_or_default(), looks)
        };
        Ok(State {
            ledgers: Demand::all(&settings.require).map(ledger).collect(),
            looks,
            baseline,
            phase: saved.phase,
            weight: settings.share(saved.weight),
            elapsed_before: Duration::from_millis(saved.elapsed_ms),
            why: saved.why,
            ..State::new(settings, stable, candidate, now)
        })
    }
}

/// Why saved progress does not apply. The canary then starts over.
#[derive(Clone, Debug, PartialEq)]
pub enum Stale {
    /// From another release.
    Version {
        saved: u32,
    },
    Upstreams {
        stable: String,
        candidate: String,
    },
    Settings,
    /// Counts or evidence that nothing can have led to.
    Measured,
    /// Not a weight these settings lead to.
    Weight {
        saved: f64,
    },
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stale::Version { saved } => write!(f, "saved progress has version {saved}, not {VERSION}")?,
            Stale::Upstreams { stable, candidate } => {
                write!(f, "saved progress is from `{stable}` to `{candidate}`")?;
            }
            Stale::Settings => write!(f, "saved progress was made under other settings")?,
            Stale::Measured => write!(f, "saved progress has impossible counts")?,
            Stale::Weight { saved } => write!(f, "saved progress has an impossible weight of {saved}")?,
        }
        write!(f, " (the canary starts over)")
    }
}

impl std::error::Error for Stale {}

/// Taken apart by hand: a derived or printed form may change with a release, and every canary would start over.
fn fingerprint(settings: &Settings, version: u32) -> String {
    let Settings { start, step, every, max, require, on_failure } = settings;
    let Require {
        success_rate,
        p99,
        min_requests,
        max_requests,
        confidence,
        max_error_increase,
        max_p99_increase,
    } = require;
    let rate = |rate: &Option<f64>| rate.map_or(u64::MAX, f64::to_bits).to_le_bytes();
    let nanos = |duration: &Duration| duration.as_nanos().to_le_bytes();
    let hash = Fnv1a::new()
        .write(&start.to_bits().to_le_bytes())
        .write(&step.to_bits().to_le_bytes())
        .write(&nanos(every))
        .write(&max.to_bits().to_le_bytes())
        .write(&rate(success_rate))
        .write(&p99.as_ref().map_or([u8::MAX; 16], nanos))
        .write(&min_requests.to_le_bytes())
        .write(&rate(max_error_increase))
        .write(&rate(max_p99_increase))
        .write(&[match on_failure {
            OnFailure::Rollback => 0,
            OnFailure::Pause => 1,
        }]);
    let hash = match version {
        WITHOUT_EVIDENCE => hash,
        _ => hash.write(&max_requests.to_le_bytes()).write(&confidence.to_bits().to_le_bytes()),
    };
    format!("{:016x}", hash.0)
}
