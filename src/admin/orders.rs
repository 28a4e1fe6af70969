//! What an operator may order by hand: canaries and circuit breakers.

use std::time::Instant;

use http::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::State;
use crate::{
    api::reply::{self, Reply},
    config::suggest,
    observe::log::event,
    policy::{
        breaker::Forced,
        canary::{Outlook, PausedBy, Phase, Sample, Side},
    },
    snapshot::{Command, Rollout},
};

pub(crate) fn canaries(state: &State) -> Reply {
    let snapshot = state.current.pin();
    let canaries = snapshot.routes.iter().filter_map(|route| route.rollout());
    reply::json(StatusCode::OK, &canaries.map(|rollout| CanaryView::of(rollout)).collect::<Vec<_>>())
}

#[derive(Serialize)]
struct CanaryView<'a> {
    route: &'a str,
    stable: &'a str,
    candidate: &'a str,
    phase: &'static str,
    /// The candidate's share, 0 to 1.
    weight: f64,
    /// In this step.
    elapsed_seconds: u64,
    /// The breach that paused it or rolled it back.
    why: Option<String>,
    observed: Observed,
    /// Null where there is no next step.
    outlook: Option<OutlookView>,
}

/// How sure it is, and when it will decide.
#[derive(Serialize)]
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

impl OutlookView {
    fn of(outlook: &Outlook) -> OutlookView {
        // To the thousandth of a per cent, and never surer than it is.
        let cut = |share: f64| (share * 1e5).floor() / 1e5;
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

/// Over the present step.
#[derive(Serialize)]
struct Observed {
    stable: SideView,
    candidate: SideView,
}

#[derive(Serialize)]
struct SideView {
    requests: u64,
    failures: u64,
    p99_ms: Option<f64>,
}

impl CanaryView<'_> {
    fn of(rollout: &Rollout) -> CanaryView<'_> {
        let status = rollout.status(Instant::now());
        CanaryView {
            route: &rollout.route,
            stable: &rollout.stable,
            candidate: &rollout.candidate,
            phase: match status.phase {
                Phase::Progressing => "progressing",
                Phase::Paused(PausedBy::Operator) => "paused",
                Phase::Paused(PausedBy::Breach) => "paused_by_breach",
                Phase::Promoted => "promoted",
                Phase::RolledBack => "rolled_back",
            },
            weight: status.weight,
            elapsed_seconds: status.elapsed.as_secs(),
            why: status.why,
            outlook: status.outlook.as_ref().map(OutlookView::of),
            observed: Observed { stable: side(&status.stable), candidate: side(&status.candidate) },
        }
    }
}

fn side(sample: &Sample) -> SideView {
    SideView {
        requests: sample.requests,
        failures: sample.failures,
        // To the microsecond: more digits would be noise.
        p99_ms: sample.p99().map(|p99| (p99.as_secs_f64() * 1e6).round() / 1e3),
    }
}

/// `ROUTE/ORDER`.
pub(crate) fn canary(state: &State, names: &[String]) -> Reply {
    let [route, order] = names else { return unknown("order", "", [].into_iter()) };
    let snapshot = state.current.pin();
    let rollouts = || snapshot.routes.iter().filter_map(|route| route.rollout());
    let Some(rollout) = rollouts().find(|rollout| *rollout.route == **route) else {
        return unknown("canary", route, rollouts().map(|rollout| &*rollout.route));
    };
    let Some((word, command)) = Command::ALL.into_iter().find(|(word, _)| word == order) else {
        return unknown("order", order, Command::ALL.into_iter().map(|(word, _)| word));
    };
    match rollout.order(command, Instant::now()) {
        Ok(done) => {
            state.recorder.metrics.states().count_canary_decision(route, word);
            let weight = rollout.weight();
            event!(Warn, "canary", route = route, ordered = word, weight = weight, what = done);
            reply::json(
                StatusCode::OK,
                &json!({"route": route, "weight": weight, "result": done.to_string()}),
            )
        }
        Err(refusal) => {
            reply::json(StatusCode::CONFLICT, &json!({"route": route, "refused": refusal.to_string()}))
        }
    }
}

/// `UPSTREAM/ENDPOINT/ORDER`.
pub(crate) fn breaker(state: &State, names: &[String]) -> Reply {
    let [upstream, endpoint, order] = names else { return unknown("order", "", [].into_iter()) };
    let snapshot = state.current.pin();
    let Some(found) = snapshot.upstreams.get(upstream) else {
        return unknown("upstream", upstream, snapshot.upstreams.keys().map(String::as_str));
    };
    let endpoints = found.endpoints();
    let Some(found) = endpoints.iter().find(|known| *known.name == **endpoint) else {
        return unknown("endpoint", endpoint, endpoints.iter().map(|endpoint| &*endpoint.name));
    };
    let Some(circuit) = found.circuit() else {
        let why = format!("upstream {upstream} has no circuit breaker (configure `circuit_breaker`)");
        return reply::json(StatusCode::CONFLICT, &json!({ "refused": why }));
    };
    const ORDERS: [(&str, Forced); 3] =
        [("open", Forced::Open), ("close", Forced::Closed), ("reset", Forced::Reset)];
    let Some((word, forced)) = ORDERS.into_iter().find(|(word, _)| word == order) else {
        return unknown("order", order, ORDERS.into_iter().map(|(word, _)| word));
    };
    circuit.breaker.force(forced);
    state.recorder.metrics.states().count_circuit_change(upstream, endpoint, word);
    event!(Warn, "circuit breaker ordered", upstream = upstream, endpoint = endpoint, order = word);
    reply::json(
        StatusCode::OK,
        &json!({"upstream": upstream, "endpoint": endpoint, "result": match forced {
            Forced::Open => "open until it is closed or reset",
            Forced::Closed => "closed until it is opened or reset",
            Forced::Reset => "reset: it decides by itself again",
        }}),
    )
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Reply {
    reply::json(StatusCode::NOT_FOUND, &json!({"refused": no_such(what, name, known)}))
}

/// There is no `what` of that name, and which there are.
pub(super) fn no_such<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let hint = match suggest(name, known.clone()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there are: {}", known.take(20).collect::<Vec<_>>().join(", ")),
    };
    format!("there is no {what} {name} ({hint})")
}
