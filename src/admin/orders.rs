//! What an operator may order by hand: canaries, circuit breakers, a reload, a drain. An order may say what its giver has seen
//! (`If-Match`); where that has moved meanwhile, it is not carried out. Each is written down with who has given it.

use std::{collections::BTreeSet, time::Instant};

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Command, Outcome, State, Upgraded,
    api::{canaries::Canary, endpoints, maintenance::Maintenance},
    journal,
    parts::Condition,
    refused::{Reason, Refused},
    router::Asked,
    serve::RELOAD_TIMEOUT,
};
use crate::{
    acme::Renew,
    api::reply::{self, Reply},
    config::suggest,
    observe::log::event,
    policy::{breaker::Forced, switch::Ordered},
    snapshot::{Command as CanaryCommand, NotOrdered, Rollout, phase_word},
};

#[derive(Serialize, JsonSchema)]
pub(super) struct CanaryOrdered {
    route: String,
    /// The candidate's share, 0 to 1.
    weight: f64,
    result: String,
    /// As it is now.
    canary: Canary,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct BreakerOrdered {
    upstream: String,
    endpoint: String,
    result: &'static str,
    breaker: endpoints::BreakerView,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct RenewalOrdered {
    name: String,
    result: &'static str,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Reloaded {
    /// `reloaded` or `unchanged`.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct ReloadRejected {
    /// `rejected`
    result: &'static str,
    title: &'static str,
    status: u16,
    detail: &'static str,
    reason: &'static str,
    problems: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct DrainOrdered {
    /// `draining`
    result: &'static str,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct UpgradeOrdered {
    /// `upgraded` or `failed`.
    result: &'static str,
    /// Who serves from now on.
    process: Option<i32>,
    /// Why this process serves on.
    why: Option<String>,
}

/// ROUTE, ORDER
pub(super) fn canary(state: &State, asked: &Asked, by: &str) -> Result<Reply, Refused> {
    let [route, order] = asked.names.as_slice() else { return Err(unknown("order", "", [].into_iter())) };
    check_draining(state)?;
    let snapshot = state.current.pin();
    let rollouts = || snapshot.routes.iter().filter_map(|route| route.rollout());
    let Some(rollout) = rollouts().find(|rollout| *rollout.route == **route) else {
        return Err(unknown("canary", route, rollouts().map(|rollout| &*rollout.route)));
    };
    let Some((word, command)) = CanaryCommand::ALL.into_iter().find(|(word, _)| word == order) else {
        return Err(unknown("order", order, CanaryCommand::ALL.into_iter().map(|(word, _)| word)));
    };
    let now = Instant::now();
    let ordered = match seen(asked)? {
        None => rollout.order(command, now).map_err(NotOrdered::Refused),
        Some(etags) => rollout.order_if(&etags, command, now),
    };
    let order = format!("canary {word}");
    match ordered {
        Ok(done) => {
            state.recorder.metrics.states().count_canary_decision(route, word);
            let (weight, what) = (rollout.weight(), done.to_string());
            event!(Warn, "canary", route = route, ordered = word, weight = weight, what = what, by = by);
            state.journal.ordered(by, &order, route, Ok(&what));
            tell(state, rollout, &what, by);
            let canary = Canary::of(rollout, &state.journal);
            let (route, result) = (route.clone(), what);
            Ok(reply::json(StatusCode::OK, &CanaryOrdered { route, weight, result, canary }))
        }
        Err(why) => {
            let refused = match why {
                NotOrdered::Moved => {
                    let stands = rollout.status(now).etag();
                    Reason::Moved.because(format!(
                        "the canary has moved: it stands at {stands} now (look again, and order with that in `If-Match`)"
                    ))
                }
                NotOrdered::Refused(refusal) => Reason::Conflict.because(refusal.to_string()),
            };
            state.journal.ordered(by, &order, route, Err(&refused.why));
            let about = serde_json::to_value(Canary::of(rollout, &state.journal)).unwrap_or_default();
            Err(Refused { about: Some(Box::new(("canary", about))), ..refused })
        }
    }
}

fn tell(state: &State, rollout: &Rollout, what: &str, by: &str) {
    let status = rollout.status(Instant::now());
    let stands = (phase_word(status.phase), status.weight, &*status.etag());
    state.journal.canary(&rollout.route, what, stands, Some(by));
}

/// UPSTREAM, ENDPOINT, ORDER
pub(super) fn breaker(state: &State, asked: &Asked, by: &str) -> Result<Reply, Refused> {
    let [upstream, endpoint, order] = asked.names.as_slice() else {
        return Err(unknown("order", "", [].into_iter()));
    };
    check_draining(state)?;
    let snapshot = state.current.pin();
    let Some(found) = snapshot.upstreams.get(upstream) else {
        return Err(unknown("upstream", upstream, snapshot.upstreams.keys().map(String::as_str)));
    };
    let endpoints = found.endpoints();
    let Some(found) = endpoints.iter().find(|known| *known.name == **endpoint) else {
        return Err(unknown("endpoint", endpoint, endpoints.iter().map(|endpoint| &*endpoint.name)));
    };
    let Some(circuit) = found.circuit() else {
        let why = format!("upstream {upstream} has no circuit breaker (configure `circuit_breaker`)");
        return Err(Reason::Conflict.because(why));
    };
    const ORDERS: [(&str, Forced); 3] =
        [("open", Forced::Open), ("close", Forced::Closed), ("reset", Forced::Reset)];
    let Some((word, forced)) = ORDERS.into_iter().find(|(word, _)| word == order) else {
        return Err(unknown("order", order, ORDERS.into_iter().map(|(word, _)| word)));
    };
    let view = || endpoints::BreakerView::of(circuit, Instant::now());
    let (on, order) = (format!("{upstream}/{endpoint}"), format!("breaker {word}"));
    if let Some(etags) = seen(asked)?
        && !etags.contains(&view().etag)
    {
        let why =
            format!("the breaker has moved: it is {} now (look again, and order with that)", view().etag);
        state.journal.ordered(by, &order, &on, Err(&why));
        let about = serde_json::to_value(view()).unwrap_or_default();
        return Err(Refused { about: Some(Box::new(("breaker", about))), ..Reason::Moved.because(why) });
    }
    circuit.breaker.force(forced);
    let (state_now, result) = match forced {
        Forced::Open => ("open", "open until it is closed or reset"),
        Forced::Closed => ("closed", "closed until it is opened or reset"),
        Forced::Reset => ("closed", "reset: it decides by itself again"),
    };
    state.recorder.metrics.states().count_circuit_change(upstream, endpoint, word);
    event!(Warn, "circuit breaker ordered", upstream = upstream, endpoint = endpoint, order = word, by = by);
    state.journal.ordered(by, &order, &on, Ok(result));
    state.journal.breaker(upstream, endpoint, state_now, Some(by));
    let (upstream, endpoint) = (upstream.clone(), endpoint.clone());
    Ok(reply::json(StatusCode::OK, &BreakerOrdered { upstream, endpoint, result, breaker: view() }))
}

/// SWITCH, ORDER
pub(super) fn maintenance(state: &State, asked: &Asked, by: &str) -> Result<Reply, Refused> {
    let [switch, order] = asked.names.as_slice() else { return Err(unknown("order", "", [].into_iter())) };
    check_draining(state)?;
    let Some(ordered) = Ordered::ALL.into_iter().find(|ordered| ordered.word() == order) else {
        return Err(unknown("order", order, Ordered::ALL.into_iter().map(Ordered::word)));
    };
    let snapshot = state.current.pin();
    let switches = snapshot.filters.switches();
    if switches.order(switch, ordered).is_empty() {
        let known: BTreeSet<String> = switches.all().iter().map(|switch| switch.name.clone()).collect();
        return Err(unknown("maintenance switch", switch, known.iter().map(String::as_str)));
    }
    event!(Warn, "maintenance ordered", switch = switch, order = order, by = by);
    state.journal.ordered(by, &format!("maintenance {order}"), switch, Ok("ordered"));
    Ok(reply::json(StatusCode::OK, &Maintenance::of(state, Some(switch))))
}

/// NAME
pub(super) fn renew(state: &State, asked: &Asked, by: &str) -> Result<Reply, Refused> {
    let [name] = asked.names.as_slice() else { return Err(unknown("certificate", "", [].into_iter())) };
    check_draining(state)?;
    let snapshot = state.current.pin();
    let renewed = snapshot.acme.as_ref().is_some_and(|acme| matches!(acme.renew(name), Renew::Begun));
    if !renewed {
        let reports = snapshot.acme.as_ref().map(|acme| acme.reports()).unwrap_or_default();
        let known: Vec<&str> = reports.iter().map(|report| &*report.name).collect();
        return Err(unknown("certificate from a CA for", name, known.iter().copied()));
    }
    event!(Warn, "certificate renewal ordered", name = name, by = by);
    state.journal.ordered(by, "renew", name, Ok("ordered"));
    let result = "ordered: the log and `tidegate certs` say what becomes of it";
    Ok(reply::json(StatusCode::ACCEPTED, &RenewalOrdered { name: name.clone(), result }))
}

pub(super) async fn reload(state: &State, asked: &Asked, by: String) -> Result<Reply, Refused> {
    if state.phase.is_draining() {
        let why = "the gateway is draining and reads nothing any more";
        return Ok(rejected(StatusCode::CONFLICT, Reason::Draining, why, vec![why.to_owned()]));
    }
    let hash = journal::hash(state.current.pin().hash);
    if let Some(etags) = seen(asked)?
        && !etags.contains(&hash)
    {
        let why = format!("another configuration is in force by now, {hash} (look again)");
        state.journal.ordered(&by, "reload", "configuration", Err(&why));
        return Err(Reason::Moved.because(why));
    }
    let (sender, outcome) = oneshot::channel();
    if state.commands.try_send(Command::Reload(by.clone(), sender)).is_err() {
        return Err(busy());
    }
    let tell = |result: Result<&str, &str>| state.journal.ordered(&by, "reload", "configuration", result);
    match timeout(RELOAD_TIMEOUT, outcome).await {
        Ok(Ok(Outcome::Reloaded(changes))) => {
            tell(Ok(&changes));
            Ok(reply::json(StatusCode::OK, &Reloaded { result: "reloaded", changes: Some(changes) }))
        }
        Ok(Ok(Outcome::Unchanged)) => {
            tell(Ok("unchanged"));
            Ok(reply::json(StatusCode::OK, &Reloaded { result: "unchanged", changes: None }))
        }
        Ok(Ok(Outcome::Rejected(problems))) => {
            tell(Err("rejected"));
            let problems = problems.lines().map(str::to_owned).collect();
            let why = "the configuration is invalid, and nothing was changed (see `problems`)";
            Ok(rejected(StatusCode::UNPROCESSABLE_ENTITY, Reason::ConfigRejected, why, problems))
        }
        Ok(Err(_)) | Err(_) => Ok(reply::text(
            StatusCode::GATEWAY_TIMEOUT,
            "the reload has not ended yet, or the gateway began to drain (the log has its outcome)",
        )),
    }
}

fn rejected(status: StatusCode, reason: Reason, detail: &'static str, problems: Vec<String>) -> Reply {
    let rejected = ReloadRejected {
        result: "rejected",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        detail,
        reason: reason.code(),
        problems,
    };
    reply::json(status, &rejected)
}

pub(super) fn drain(state: &State, asked: &Asked, by: &str) -> Result<Reply, Refused> {
    let word = state.phase.word();
    if let Some(etags) = seen(asked)?
        && !etags.iter().any(|etag| etag == word)
    {
        let why = format!("the gateway is {word} by now (look again)");
        state.journal.ordered(by, "drain", "gateway", Err(&why));
        return Err(Reason::Moved.because(why));
    }
    if !state.phase.is_draining() {
        if state.commands.try_send(Command::Drain).is_err() {
            return Err(busy());
        }
        event!(Warn, "drain ordered", by = by);
        state.journal.ordered(by, "drain", "gateway", Ok("draining"));
    }
    Ok(reply::json(StatusCode::ACCEPTED, &DrainOrdered { result: "draining" }))
}

/// The program and its arguments are those that this process was started with: nothing of the request comes in.
pub(super) async fn upgrade(state: &State, by: &str) -> Result<Reply, Refused> {
    let failed = |status, why: &str| {
        state.journal.ordered(by, "upgrade", "gateway", Err(why));
        let why = Some(why.to_owned());
        Ok(reply::json(status, &UpgradeOrdered { result: "failed", process: None, why }))
    };
    if state.phase.is_draining() {
        return failed(StatusCode::CONFLICT, "the gateway is draining");
    }
    if !state.phase.begin_upgrade() {
        return failed(StatusCode::CONFLICT, "an upgrade is under way; the second one is not begun");
    }
    let (sender, outcome) = oneshot::channel();
    if state.commands.try_send(Command::Upgrade(sender)).is_err() {
        state.phase.end_upgrade();
        return Err(busy());
    }
    event!(Warn, "upgrade ordered", by = by);
    match timeout(RELOAD_TIMEOUT, outcome).await {
        Ok(Ok(Upgraded::Done(process))) => {
            let done = UpgradeOrdered { result: "upgraded", process: Some(process), why: None };
            Ok(reply::json(StatusCode::OK, &done))
        }
        Ok(Ok(Upgraded::Failed(why))) => failed(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Ok(Err(_)) | Err(_) => Ok(reply::text(
            StatusCode::GATEWAY_TIMEOUT,
            "the upgrade has not ended yet, or the gateway began to drain (the log has its outcome)",
        )),
    }
}

/// What whoever orders has seen; `None` where they do not say.
fn seen(asked: &Asked) -> Result<Option<Vec<String>>, Refused> {
    match Condition::of(&asked.headers)? {
        Condition::None | Condition::Exists => Ok(None),
        Condition::Is(etags) => Ok(Some(etags)),
        Condition::IsNew => {
            Err(Reason::BadRequest.because("`If-None-Match` makes no sense here (leave it out)"))
        }
    }
}

fn check_draining(state: &State) -> Result<(), Refused> {
    match state.phase.is_draining() {
        true => Err(Reason::Draining.because("the gateway is draining and changes nothing any more")),
        false => Ok(()),
    }
}

fn busy() -> Refused {
    Reason::Busy.because("the gateway is busy with earlier commands (try again in a moment)")
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Refused {
    Reason::NotFound.because(no_such(what, name, known))
}

/// There is no `what` of that name, and which there are.
pub(super) fn no_such<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let hint = match suggest(name, known.clone()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there are: {}", known.take(20).collect::<Vec<_>>().join(", ")),
    };
    format!("there is no {what} {name} ({hint})")
}
