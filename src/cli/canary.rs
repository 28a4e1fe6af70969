//! `tidegate canary`: how a running gateway's canaries stand, and orders for them.

use std::fmt::Write;

use clap::{Args, ValueEnum};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{
    ask::{AskArgs, ask},
    failure,
    text::safe,
};
use crate::app::Failure;

#[derive(Debug, Args)]
pub(crate) struct CanaryArgs {
    /// What to do
    #[arg(value_enum)]
    order: Order,
    /// The name of the route; only `status` does without
    #[arg(required_if_eq_any([("order", "promote"), ("order", "rollback"), ("order", "pause"), ("order", "resume"), ("order", "step")]))]
    route: Option<String>,
    #[command(flatten)]
    control: AskArgs,
    /// Print what the gateway answers, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    /// Show how far it is, and on what numbers
    Status,
    /// Go to `max` at once
    Promote,
    /// Send everything to the stable upstream
    Rollback,
    /// Stay at the present share; a failing candidate is still rolled back
    Pause,
    /// Go on after a pause; after a rollback, begin anew
    Resume,
    /// Take the next step now
    Step,
}

pub(crate) fn run(args: &CanaryArgs) -> Result<(), Failure> {
    let order = args.order.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let (Order::Status, route) = (args.order, &args.route) else {
        let route = args.route.as_deref().unwrap_or_default();
        let path = format!("/canaries/{}/{order}", utf8_percent_encode(route, NON_ALPHANUMERIC));
        let answer = ask(&args.control, Method::POST, &path)?;
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::CONFLICT) {
            return Err(failure(safe(answer.json()?["refused"].as_str().unwrap_or(&answer.text))));
        }
        let done = answer.expect(StatusCode::OK)?;
        if args.json {
            return Ok(super::print(&format!("{done}\n"))?);
        }
        let result = done["result"].as_str().unwrap_or_default();
        return Ok(super::print(&format!("{}\n", safe(&format!("{route}: {result}"))))?);
    };
    let canaries = ask(&args.control, Method::GET, "/canaries")?.expect(StatusCode::OK)?;
    let canaries = canaries.as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = |canary: &&Value| route.as_ref().is_none_or(|route| canary["route"] == **route);
    let shown: Vec<&Value> = canaries.iter().filter(wanted).collect();
    if let (true, Some(route)) = (shown.is_empty(), route) {
        return Err(failure(safe(&format!(
            "route {route} has no canary (`tidegate canary status` lists them)"
        ))));
    }
    if args.json {
        return Ok(super::print(&format!("{}\n", json!(shown)))?);
    }
    let text: String = shown.into_iter().map(describe).collect();
    Ok(super::print(&safe(if text.is_empty() { "no canaries\n" } else { &text }))?)
}

fn describe(canary: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // A hundredth of a per cent is what shares are counted in.
    let percent = |share: &Value| (share.as_f64().unwrap_or_default() * 10_000.0).round() / 100.0;
    let phase = word(&canary["phase"]).replace('_', " ");
    let mut text = format!(
        "{}: {phase} at {}%, {} ({} -> {})\n",
        word(&canary["route"]),
        percent(&canary["weight"]),
        match (canary["phase"] == "progressing", canary["last_decision"]["at"].as_str()) {
            (true, _) | (_, None) => format!("{} s into the step", canary["elapsed_seconds"]),
            // Steps are of no interest to one that takes none.
            (false, Some(at)) => format!("since {at}"),
        },
        word(&canary["stable"]),
        word(&canary["candidate"]),
    );
    for side in ["stable", "candidate"] {
        let seen = &canary["observed"][side];
        let p99 = seen["p99_ms"].as_f64().map(|p99| format!(", p99 {p99} ms")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {side:<9} {} requests, {} failed{p99}", seen["requests"], seen["failures"]);
    }
    let next = &canary["next"];
    if canary["outlook"].is_object() {
        let _ = writeln!(text, "  {}", expect(&canary["outlook"]));
    } else if let Some(not_yet) = next["not_yet"].as_str() {
        let (action, to) = (word(&next["action"]), percent(&next["to"]));
        let _ = writeln!(text, "  next: {action} to {to}%, not yet: {not_yet}");
    }
    if let Some(why) = canary["why"].as_str() {
        let _ = writeln!(text, "  {why}");
    }
    text
}

/// How sure it is, what is missing, and when it will decide.
fn expect(outlook: &Value) -> String {
    let word = |key: &str| outlook[key].as_str().unwrap_or_default();
    let percent = |key: &str| (outlook[key].as_f64().unwrap_or_default() * 10_000.0).floor() / 100.0;
    let (sure, needed, requirement) = (percent("sure"), percent("needed"), word("requirement"));
    let mut text = format!("{sure}% sure that {requirement} is kept, the next step needs {needed}%: ");
    let missing = outlook["missing_requests"].as_u64();
    let soon = outlook["decides_in_seconds"].as_u64().map(|seconds| format!("in {seconds} s at this rate"));
    // Writing to a string cannot fail.
    let _ = match (missing, soon) {
        (Some(0), soon) => write!(text, "decides {}", soon.as_deref().unwrap_or("soon")),
        (Some(missing), Some(soon)) => write!(text, "about {missing} more {} requests, {soon}", word("side")),
        (Some(missing), None) => write!(text, "about {missing} more {} requests", word("side")),
        (None, _) => write!(text, "more requests like these will not do"),
    };
    text
}
