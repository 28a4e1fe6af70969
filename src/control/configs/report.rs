//! What the replicas of a control plane tell each other of their gateways: as much as whoever drives a rollout needs, and whoever shows them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    fleet::{Gateway, LONGEST_LABEL, LONGEST_WORD, MOST_LABELS, Place, Tally, Verdict},
    versions::Elsewhere,
};
use crate::{
    control::{instance::Owner, refused::Located},
    policy::waves::{Counted, Counts},
};

/// How often others are told what a gateway has counted, while that matters.
const COUNTS_TOLD: Duration = Duration::from_secs(2);
/// Of what it finds wrong, others are told no more.
const PROBLEMS_TOLD: usize = 10;
/// A report is no larger: 32 labels and ten problems as long as they may be.
const LARGEST_REPORT: usize = 128 * 1024;

/// A gateway as other replicas know it. What a later release adds is passed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    owner: String,
    labels: BTreeMap<String, String>,
    release: String,
    started_ms: u64,
    since_ms: u64,
    version: u64,
    sha256: String,
    verdict: Option<ReportedVerdict>,
    /// None while nobody needs it.
    #[serde(default)]
    counted: Option<ReportedCounts>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ReportedVerdict {
    version: u64,
    in_force: bool,
    problems: Vec<Located>,
    lag_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct ReportedCounts {
    requests: u64,
    own_errors: u64,
    requests_minute_ago: u64,
    own_errors_minute_ago: u64,
}

impl Gateway {
    /// One that is with another replica.
    pub(super) fn elsewhere(there: Elsewhere, now: Instant) -> Gateway {
        let Elsewhere { replica, report, is_later: _ } = there;
        let verdict = report.verdict.map(|verdict| Verdict {
            version: verdict.version,
            problems: verdict.problems,
            is_in_force: verdict.in_force,
            lag: verdict.lag_ms.map(Duration::from_millis),
        });
        Gateway {
            // Whoever has another name there is another one.
            owner: Owner::parse(&report.owner).unwrap_or_default(),
            labels: report.labels,
            release: report.release,
            started: report.started_ms,
            place: Place::Elsewhere(replica),
            since: (
                now,
                UNIX_EPOCH.checked_add(Duration::from_millis(report.since_ms)).unwrap_or(UNIX_EPOCH),
            ),
            version: report.version,
            sha256: report.sha256,
            told: None,
            verdict,
            tally: Tally::default(),
            counted_there: report.counted.map(ReportedCounts::read),
            waits: false,
            is_untold: false,
            has_come: false,
            counts_told: None,
        }
    }

    /// What others are to be told, and whether it has just come. What it counts is of interest only where `counts` are.
    pub(super) fn report(&mut self, counts: bool, now: Instant) -> Option<(Report, bool)> {
        self.stream()?;
        let counted = self.tally.counted(now).filter(|_| counts);
        let is_due = match (counted, self.counts_told) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(counted), Some((at, told))) => {
                counted.now != told.now && now.saturating_duration_since(at) >= COUNTS_TOLD
            }
        };
        if !self.is_untold && !is_due {
            return None;
        }
        self.counts_told = counted.map(|counted| (now, counted)).or(self.counts_told.filter(|_| counts));
        let has_come = std::mem::take(&mut self.has_come);
        self.is_untold = false;
        let verdict = self.verdict.as_ref().map(|verdict| ReportedVerdict {
            version: verdict.version,
            in_force: verdict.is_in_force,
            problems: verdict.problems.iter().take(PROBLEMS_TOLD).cloned().collect(),
            lag_ms: verdict.lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
        });
        let since = self.since.1.duration_since(UNIX_EPOCH).unwrap_or_default();
        let report = Report {
            owner: self.owner.to_string(),
            labels: self.labels.clone(),
            release: self.release.clone(),
            started_ms: self.started,
            since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            version: self.version,
            sha256: self.sha256.clone(),
            verdict,
            counted: counted.map(ReportedCounts::of),
        };
        Some((report, has_come))
    }
}

impl Report {
    /// # Errors
    ///
    /// Why it was not written by a replica.
    pub(crate) fn read(text: &[u8]) -> Result<Report, String> {
        if text.len() > LARGEST_REPORT {
            return Err(format!("it is larger than {LARGEST_REPORT} bytes"));
        }
        let report: Report = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let is_long =
            |(key, value): (&String, &String)| key.len() > LONGEST_WORD || value.len() > LONGEST_LABEL;
        if report.labels.len() > MOST_LABELS || report.labels.iter().any(is_long) {
            return Err("it has more labels than a gateway may have".to_owned());
        }
        if report.release.len() > LONGEST_WORD || report.sha256.len() > 64 {
            return Err("a word of it is longer than it may be".to_owned());
        }
        match Owner::parse(&report.owner) {
            Some(_) => Ok(report),
            None => Err(format!("{:?} is nobody's name", report.owner)),
        }
    }
}

impl ReportedCounts {
    fn of(counted: Counted) -> ReportedCounts {
        let Counted { now, minute_ago } = counted;
        ReportedCounts {
            requests: now.requests,
            own_errors: now.own_errors,
            requests_minute_ago: minute_ago.requests,
            own_errors_minute_ago: minute_ago.own_errors,
        }
    }

    fn read(self) -> Counted {
        Counted {
            now: Counts { requests: self.requests, own_errors: self.own_errors },
            minute_ago: Counts { requests: self.requests_minute_ago, own_errors: self.own_errors_minute_ago },
        }
    }
}
