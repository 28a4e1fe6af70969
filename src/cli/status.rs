//! `tidegate status`: how a running gateway is, and what needs attention, with why and since when; once, or anew every second.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Args;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    ask::{AskArgs, target},
    client::Target,
    terminal,
    text::{Colours, count, safe},
};
use crate::app::Failure;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// What of the overview stands beside the figures.
const WHY: [&str; 2] = ["last_reload", "attention"];

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    control: AskArgs,
    /// Print it as JSON, for programs
    #[arg(long)]
    json: bool,
    /// Show it anew every second, until Ctrl-C; to a file or a pipe, print it whenever it is another
    #[arg(short, long)]
    watch: bool,
}

/// Exit code 1 unless the gateway is ready.
pub(crate) fn run(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let target = target(&args.control)?;
    if args.watch {
        super::following(watch(&target, args.json))?;
        return Ok(ExitCode::SUCCESS);
    }
    let status = super::following(look(&target))?;
    super::print(&match args.json {
        true => serde_json::to_string_pretty(&status).map_err(io::Error::other)? + "\n",
        false => summary(&status, SystemTime::now(), Colours::of_stdout()),
    })?;
    Ok(if status["phase"] == "ready" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look(target: &Target) -> Result<Value, Failure> {
    let mut status = target.ask(Method::GET, "/stats", "").await?.expect(StatusCode::OK)?;
    let overview = target.ask(Method::GET, "/v1/overview", "").await?;
    // A gateway before this version has no overview.
    if let (StatusCode::OK, Some(status)) = (overview.status, status.as_object_mut()) {
        let overview = overview.json()?;
        status.extend(WHY.map(|key| (key.to_owned(), overview[key].clone())));
    }
    Ok(status)
}

/// Until nobody reads it any more. The first look has to succeed; later the gateway may start anew.
async fn watch(target: &Target, json: bool) -> Result<(), Failure> {
    let on_terminal = !json && io::stdout().is_terminal();
    let mut looks = interval(EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = Value::Null;
    loop {
        looks.tick().await;
        let status = match look(target).await {
            Ok(status) => status,
            Err(failure) if shown.is_null() => return Err(failure),
            Err(failure) => json!({ "phase": "unreachable", "why": failure.to_string() }),
        };
        if on_terminal {
            let text = summary(&status, SystemTime::now(), Colours::of_stdout());
            terminal::redraw(text.lines())?;
            shown = Value::Bool(true);
            continue;
        }
        let lasting = lasting(&status);
        if lasting == shown {
            continue;
        }
        let is_first = std::mem::replace(&mut shown, lasting).is_null();
        let text = match json {
            true => format!("{status}\n"),
            false => {
                let text = summary(&status, SystemTime::now(), Colours::of_stdout());
                if is_first { text } else { format!("\n{text}") }
            }
        };
        if !super::print_more(&text)? {
            return Ok(());
        }
    }
}

/// Without what is another one at each look.
fn lasting(status: &Value) -> Value {
    let keys = ["phase", "why", "config_hash", "last_reload", "attention"];
    let mut lasting: Value = keys.map(|key| (key, status[key].clone())).into_iter().collect();
    let upstreams = status["upstreams"].as_array().into_iter().flatten();
    let figures = ["name", "ready", "endpoints", "usable"];
    let upstreams = upstreams.map(|upstream| Value::from(figures.map(|key| upstream[key].clone()).to_vec()));
    lasting["upstreams"] = upstreams.collect();
    lasting
}

fn summary(status: &Value, now: SystemTime, colours: Colours) -> String {
    let text = |value: &Value| plain(value.as_str().unwrap_or("?"));
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    if let Some(why) = status["why"].as_str() {
        return format!("{}  {}\n", colours.red(&text(&status["phase"])), plain(why));
    }
    let uptime = humantime::format_duration(Duration::from_secs(number(&status["uptime_seconds"])));
    let phase = text(&status["phase"]);
    let mut lines = vec![format!(
        "{}  tidegate {}, up {uptime}, {}, configuration {}",
        if phase == "ready" { colours.green(&phase) } else { colours.red(&phase) },
        text(&status["version"]),
        count(number(&status["routes"]) as usize, "route"),
        text(&status["config_hash"]),
    )];
    lines.extend(list(&status["listeners"]).iter().map(|listener| {
        let (name, address) = (text(&listener["name"]), text(&listener["address"]));
        let connections = count(number(&listener["connections"]) as usize, "connection");
        let requests = count(number(&listener["requests_in_flight"]) as usize, "request");
        format!("listener {name}  {address}  {connections}, {requests} in flight")
    }));
    lines.extend(list(&status["upstreams"]).iter().map(|upstream| {
        let ready = if upstream["ready"] == true { "ready".to_owned() } else { colours.red("not ready") };
        let (usable, all) =
            (number(&upstream["usable"]), count(number(&upstream["endpoints"]) as usize, "endpoint"));
        format!("upstream {}  {ready}  {usable} of {all} usable", text(&upstream["name"]))
    }));
    lines.extend(last_reload(&status["last_reload"], now, colours));
    let attention = list(&status["attention"]);
    // What became of the last reload stands above.
    let others = attention.iter().filter(|attention| attention["kind"] != "reload");
    lines.extend(others.map(|attention| {
        let level = text(&attention["level"]);
        let level = match level.as_str() {
            "bad" => colours.red(&level),
            "warn" => colours.yellow(&level),
            _ => level,
        };
        let lasts = ago(&attention["since"], now).map(|lasts| format!(", for {lasts}")).unwrap_or_default();
        let (kind, name) = (text(&attention["kind"]), text(&attention["name"]));
        format!("{level}: {kind} {name}: {}{lasts}", text(&attention["text"]))
    }));
    lines.join("\n") + "\n"
}

/// `None` where there was none since the start.
fn last_reload(reload: &Value, now: SystemTime, colours: Colours) -> Option<String> {
    let text = |value: &Value| value.as_str().map(plain);
    let result = text(&reload["result"]).filter(|result| result != "started")?;
    let result = if result == "rejected" { colours.red(&result) } else { result };
    let when = ago(&reload["at"], now).map(|ago| format!(" {ago} ago")).unwrap_or_default();
    let by = text(&reload["by"]).map(|by| format!(" by {by}")).unwrap_or_default();
    let problems = reload["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    let what = text(&reload["changes"]).or_else(|| {
        let more = problems.len().saturating_sub(1);
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        Some(text(problems.first()?)? + &more)
    });
    let what = what.map(|what| format!(": {what}")).unwrap_or_default();
    Some(format!("last reload  {result}{when}{by}{what}"))
}

/// How long before `now` that was, in whole seconds.
fn ago(at: &Value, now: SystemTime) -> Option<humantime::FormattedDuration> {
    let at = humantime::parse_rfc3339(at.as_str()?).ok()?;
    let ago = now.duration_since(at).unwrap_or_default();
    Some(humantime::format_duration(Duration::from_secs(ago.as_secs())))
}

/// On one line.
fn plain(text: &str) -> String {
    safe(text).replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        humantime::parse_rfc3339("2026-01-01T00:02:05Z").unwrap()
    }

    #[test]
    fn the_summary_says_what_is_not_ready() {
        let stats = json!({
            "phase": "ready", "version": "1.0.0", "uptime_seconds": 61, "routes": 1, "config_hash": "abc",
            "listeners": [{"name": "edge", "address": ":80", "connections": 2, "requests_in_flight": 1}],
            "upstreams": [{"name": "users", "ready": false, "usable": 0, "endpoints": 2}],
            "last_reload": {"result": "started", "by": "start", "at": "2026-01-01T00:00:00Z"},
        });
        let expected = "ready  tidegate 1.0.0, up 1m 1s, 1 route, configuration abc\n\
            listener edge  :80  2 connections, 1 request in flight\n\
            upstream users  not ready  0 of 2 endpoints usable\n";
        assert_eq!(summary(&stats, now(), Colours::none()), expected);
    }

    #[test]
    fn the_summary_says_why_and_since_when() {
        let status = json!({
            "phase": "ready", "version": "1.0.0", "uptime_seconds": 61, "routes": 1, "config_hash": "abc",
            "last_reload": {"result": "rejected", "by": "SIGHUP", "at": "2026-01-01T00:02:00.000Z", "changes": null,
                "problems": ["gateway.yaml:1:1: listeners: wrong", "gateway.yaml:2:1: routes: wrong"]},
            "attention": [
                {"level": "bad", "kind": "reload", "name": "configuration", "text": "the last reload was rejected"},
                {"level": "warn", "kind": "endpoint", "name": "users", "since": "2026-01-01T00:00:00.000Z",
                 "text": "a:1: probe failed: \u{1b}[31mconnection refused\nx"},
                {"level": "warn", "kind": "certificate", "name": "listener edge", "since": null, "text": "ends in 3 days"},
            ],
        });
        let expected = "ready  tidegate 1.0.0, up 1m 1s, 1 route, configuration abc\n\
            last reload  rejected 5s ago by SIGHUP: gateway.yaml:1:1: listeners: wrong (and 1 more)\n\
            warn: endpoint users: a:1: probe failed: \\u{1b}[31mconnection refused\\nx, for 2m 5s\n\
            warn: certificate listener edge: ends in 3 days\n";
        assert_eq!(summary(&status, now(), Colours::none()), expected);
        let away = json!({"phase": "unreachable", "why": "connection refused"});
        assert_eq!(summary(&away, now(), Colours::none()), "unreachable  connection refused\n");
    }
}
