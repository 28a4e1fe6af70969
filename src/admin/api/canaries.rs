//! Canaries: how far each is, on what numbers, what happens next and why not yet.

use std::time::{Duration, Instant};

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    admin::{
        State,
        journal::{Decided, Journal},
        orders::no_such,
        parts::tagged,
        refused::{Reason, Refused},
        router::Asked,
    },
    api::reply::{self, Reply},
    policy::canary::{NextStep, OnFailure, Outlook, Require, Sample, Side, cut},
    snapshot::{Rollout, Status, phase_word},
};

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Canary {
    route: String,
    stable: String,
    candidate: String,
    /// `progressing`, `paused`, `paused_by_breach`, `promoted` or `rolled_back`.
    phase: &'static str,
    /// The candidate's share, 0 to 1.
    weight: f64,
    /// For `If-Match` of an order.
    etag: String,
    /// In this step.
    elapsed_seconds: u64,
    /// The least a step takes.
    every_seconds: f64,
    step: f64,
    max: f64,
    /// `rollback` or `pause`.
    on_failure: &'static str,
    /// The breach that paused it or rolled it back.
    why: Option<String>,
    observed: Observed,
    requirements: Vec<Requirement>,
    requests_needed: RequestsNeeded,
    /// Null where there is no next step.
    outlook: Option<OutlookView>,
    next: NextView,
    last_decision: Option<Decided>,
    /// Those that make sense now.
    orders: Vec<&'static str>,
}

/// `GET /v1/canaries`.
#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Canaries(Vec<Canary>);

/// Over the present step.
#[derive(Serialize, JsonSchema)]
struct Observed {
    stable: SideView,
    candidate: SideView,
}

#[derive(Serialize, JsonSchema)]
struct SideView {
    requests: u64,
    failures: u64,
    /// 0 to 1; null without requests.
    success_rate: Option<f64>,
    p99_ms: Option<f64>,
}

/// What the candidate has to keep to, beside what was measured in this step.
#[derive(Serialize, JsonSchema)]
struct Requirement {
    /// Its key in the configuration.
    name: &'static str,
    /// Milliseconds for `p99`, else a share.
    limit: f64,
    candidate: Option<f64>,
    /// Where it is compared.
    stable: Option<f64>,
    /// By what was measured; whether that may be chance is in `outlook`. Null where nothing was.
    kept: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
struct RequestsNeeded {
    least: u64,
    /// A step with so many does not wait for more evidence.
    most: u64,
}

/// How sure it is, and when it will decide.
#[derive(Serialize, JsonSchema)]
struct OutlookView {
    /// The one of which least is known.
    requirement: &'static str,
    /// That it is kept, 0 to 1.
    sure: f64,
    /// For the next step.
    needed: f64,
    /// Whose requests are missing.
    side: &'static str,
    /// Null where more would not help.
    missing_requests: Option<u64>,
    /// At this rate of traffic. Null where there is none.
    decides_in_seconds: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct NextView {
    /// `advance`, `promote` or `none`.
    action: &'static str,
    /// The share after it.
    to: Option<f64>,
    /// Null where it happens at the next look.
    not_yet: Option<String>,
}

impl Canary {
    pub(in crate::admin) fn of(rollout: &Rollout, journal: &Journal) -> Canary {
        let status = rollout.status(Instant::now());
        let settings = rollout.settings();
        let etag = status.etag();
        Canary {
            route: rollout.route.to_string(),
            stable: rollout.stable.to_string(),
            candidate: rollout.candidate.to_string(),
            phase: phase_word(status.phase),
            weight: status.weight,
            etag,
            elapsed_seconds: status.elapsed.as_secs(),
            every_seconds: settings.every.as_secs_f64(),
            step: settings.step,
            max: settings.max,
            on_failure: match settings.on_failure {
                OnFailure::Rollback => "rollback",
                OnFailure::Pause => "pause",
            },
            observed: Observed {
                stable: SideView::of(&status.stable),
                candidate: SideView::of(&status.candidate),
            },
            requirements: requirements(&settings.require, &status),
            requests_needed: RequestsNeeded {
                least: settings.require.min_requests,
                most: settings.require.max_requests,
            },
            outlook: status.outlook.as_ref().map(OutlookView::of),
            next: NextView::of(&status, settings.max),
            last_decision: journal.last_decision(&rollout.route),
            orders: status.orders,
            why: status.why,
        }
    }
}

impl OutlookView {
    fn of(outlook: &Outlook) -> OutlookView {
        OutlookView {
            requirement: outlook.requirement,
            sure: cut(outlook.sure),
            needed: cut(outlook.needed),
            side: match outlook.side {
                Side::Stable => "stable",
                Side::Candidate => "candidate",
            },
            missing_requests: outlook.missing,
            decides_in_seconds: outlook.decides_in.map(|time| time.as_secs_f64().ceil() as u64),
        }
    }
}

impl NextView {
    fn of(status: &Status, max: f64) -> NextView {
        let (action, to) = match status.next.step {
            NextStep::Advance { to } => ("advance", Some(to)),
            NextStep::Promote => ("promote", Some(max)),
            NextStep::Nothing => ("none", None),
        };
        NextView { action, to, not_yet: status.next.not_yet.map(|why| why.to_string()) }
    }
}

impl SideView {
    fn of(sample: &Sample) -> SideView {
        SideView {
            requests: sample.requests,
            failures: sample.failures,
            success_rate: failing(sample).map(|share| rounded(1.0 - share)),
            p99_ms: sample.p99().map(ms),
        }
    }
}

fn requirements(require: &Require, status: &Status) -> Vec<Requirement> {
    let (candidate, stable) = (&status.candidate, &status.stable);
    let mut all = Vec::new();
    if let Some(least) = require.success_rate {
        let is = failing(candidate).map(|share| rounded(1.0 - share));
        let kept = is.map(|is| is >= least);
        all.push(Requirement { name: "success_rate", limit: least, candidate: is, stable: None, kept });
    }
    if let Some(most) = require.p99 {
        let is = candidate.p99();
        let kept = is.map(|is| is <= most);
        all.push(Requirement { name: "p99", limit: ms(most), candidate: is.map(ms), stable: None, kept });
    }
    if let Some(more) = require.max_error_increase {
        let (is, other) = (failing(candidate).map(rounded), failing(stable).map(rounded));
        let kept = is.zip(other).map(|(is, other)| is <= other + more);
        let name = "max_error_increase";
        all.push(Requirement { name, limit: more, candidate: is, stable: other, kept });
    }
    if let Some(more) = require.max_p99_increase {
        let (is, other) = (candidate.p99(), stable.p99());
        let kept = is.zip(other).map(|(is, other)| is <= other.mul_f64(1.0 + more));
        let (candidate, stable) = (is.map(ms), other.map(ms));
        all.push(Requirement { name: "max_p99_increase", limit: more, candidate, stable, kept });
    }
    all
}

fn failing(sample: &Sample) -> Option<f64> {
    (sample.requests > 0).then(|| sample.failures as f64 / sample.requests as f64)
}

fn rounded(share: f64) -> f64 {
    (share * 1e6).round() / 1e6
}

/// To the microsecond: more digits would be noise.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

pub(in crate::admin) fn list(state: &State, _: &Asked) -> Result<Reply, Refused> {
    let snapshot = state.current.pin();
    let rollouts = snapshot.routes.iter().filter_map(|route| route.rollout());
    let canaries = rollouts.map(|rollout| Canary::of(rollout, &state.journal)).collect();
    Ok(reply::json(StatusCode::OK, &Canaries(canaries)))
}

pub(in crate::admin) fn one(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    let name = asked.names.first().map(String::as_str).unwrap_or_default();
    let snapshot = state.current.pin();
    let rollouts = || snapshot.routes.iter().filter_map(|route| route.rollout());
    let Some(rollout) = rollouts().find(|rollout| *rollout.route == *name) else {
        let why = no_such("canary", name, rollouts().map(|rollout| &*rollout.route));
        return Err(Reason::NotFound.because(why));
    };
    let canary = Canary::of(rollout, &state.journal);
    Ok(tagged(reply::json(StatusCode::OK, &canary), Some(&canary.etag)))
}
