//! Rates and quantiles as they were.

use std::time::Duration;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    admin::{
        State,
        history::{Of, ROUTES, Step},
        journal::time,
        parts_view::{find, unknown},
        refused::{Reason, Refused},
        router::Asked,
        sampler::rate,
    },
    api::reply::{self, Reply},
};

const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Series {
    of: String,
    /// A number each.
    step_seconds: u32,
    /// Of the last step.
    ends_at: String,
    /// Quantiles are estimated between the bounds of buckets; of several seconds, the worst.
    estimate: bool,
    /// The oldest first.
    requests_per_second: Vec<f64>,
    /// Answered with 500 and above.
    errors_per_second: Vec<f64>,
    /// Null without requests.
    p50_ms: Vec<Option<f64>>,
    p99_ms: Vec<Option<f64>>,
}

pub(in crate::admin) fn show(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    let Some(sampler) = &state.sampler else {
        let why = "no history is kept here (`admin.console: false` or `history: 0s` in the configuration)";
        return Err(Reason::Unavailable.because(why));
    };
    let window = asked.query.duration("window", LONGEST)?;
    let wanted = asked.query.text("of").unwrap_or("gateway");
    let snapshot = state.current.pin();
    let of = match wanted.split_once(':') {
        None if wanted == "gateway" => Of::Gateway,
        Some(("route", name)) => {
            let known = || snapshot.routes.iter().map(|route| &*route.name);
            let route = snapshot.routes.iter().find(|route| *route.name == *name);
            Of::Route(route.ok_or_else(|| unknown("route", name, known()))?.name.clone())
        }
        Some(("upstream", name)) => Of::Upstream(find(&snapshot, name)?.shared_name()),
        _ => {
            let why = format!("of: {wanted:?} is not `gateway`, `route:NAME` or `upstream:NAME`");
            return Err(Reason::BadRequest.because(why));
        }
    };
    let (every, mut steps) = match sampler.history(&of) {
        Some(known) => known,
        // It had no requests for as long as there is a history, unless it is one of too many.
        None if matches!(of, Of::Route(_)) && sampler.last_used().len() > ROUTES => {
            let why = format!("nothing is kept of {wanted}: it is not among the {ROUTES} busiest routes");
            return Err(Reason::NotFound.because(why));
        }
        None => {
            let (every, known) = sampler.history_of_nothing();
            (every, vec![Step::default(); known])
        }
    };
    if let Some(window) = window {
        let most = usize::try_from(window.as_secs() / u64::from(every)).unwrap_or(usize::MAX);
        steps.drain(..steps.len().saturating_sub(most.max(1)));
    }
    let per_second = |count: u32| rate(f64::from(count) / f64::from(every));
    let ms = |seconds: Option<f64>| seconds.map(|seconds| (seconds * 1e6).round() / 1e3);
    let series = Series {
        of: wanted.to_owned(),
        step_seconds: every,
        ends_at: time(sampler.latest().at),
        estimate: true,
        requests_per_second: steps.iter().map(|step| per_second(step.requests)).collect(),
        errors_per_second: steps.iter().map(|step| per_second(step.errors)).collect(),
        p50_ms: steps.iter().map(|step| ms(step.p50)).collect(),
        p99_ms: steps.iter().map(|step| ms(step.p99)).collect(),
    };
    Ok(reply::json(StatusCode::OK, &series))
}
