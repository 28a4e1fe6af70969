//! `tidegate tail`: a running gateway's access log, live and filtered there.

use std::{fmt::Write, io};

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    ask::{AskArgs, target},
    events::{Event, follow},
    text::{Colours, safe},
};
use crate::app::Failure;

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Of this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Sent to this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// With this status: 404, 5xx or 400-499; several with commas
    #[arg(long)]
    status: Option<String>,
    /// That the gateway answered itself for this reason; several with commas
    #[arg(long)]
    reason: Option<String>,
    /// That took at least so long, such as 100ms
    #[arg(long, value_name = "TIME")]
    min: Option<String>,
    /// From this address or network
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// Whose path begins with this
    #[arg(long)]
    path: Option<String>,
    /// With this method
    #[arg(long)]
    method: Option<String>,
    /// End after so many lines
    #[arg(short = 'n', long, value_name = "LINES")]
    lines: Option<u64>,
    /// Print lines as they come, in JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    control: AskArgs,
}

pub(crate) fn run(args: &TailArgs) -> Result<(), Failure> {
    let target = target(&args.control)?;
    let colours = Colours::of_stdout();
    let mut left = args.lines;
    super::following(follow(&target, &path(args), move |event| {
        if !take(&event, args.json, colours)? {
            return Ok(true);
        }
        if event.kind == "line" {
            left = left.map(|left| left.saturating_sub(1));
        }
        Ok(left == Some(0))
    }))
}

fn path(args: &TailArgs) -> String {
    let mut path = "/v1/access".to_owned();
    let asked = [
        ("route", &args.route),
        ("upstream", &args.upstream),
        ("status", &args.status),
        ("reason", &args.reason),
        ("min", &args.min),
        ("client", &args.client),
        ("path", &args.path),
        ("method", &args.method),
    ];
    let asked = asked.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    for (place, (key, value)) in asked.enumerate() {
        let separator = if place == 0 { '?' } else { '&' };
        // Writing to a string cannot fail.
        let _ = write!(path, "{separator}{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    path
}

/// False once nobody reads any more.
fn take(event: &Event, json: bool, colours: Colours) -> io::Result<bool> {
    let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
    match event.kind.as_str() {
        "line" if json => super::print_more(&format!("{}\n", event.data)),
        "line" => super::print_more(&line(&data, colours)),
        "lost" => {
            eprintln!("{} lines were too many to be shown", data["lines"]);
            Ok(true)
        }
        _ => Ok(true),
    }
}

/// `17:20:00.123 GET a.example/users 200 1.2ms users -> v1 10.0.0.1:80 192.0.2.1`
fn line(entry: &Value, colours: Colours) -> String {
    let text = |key: &str| entry[key].as_str().unwrap_or_default();
    let at = text("ts").split('T').nth(1).unwrap_or_default().trim_end_matches('Z');
    let status = entry["status"].as_u64().unwrap_or_default();
    let shown = match status {
        500.. => colours.red(&status.to_string()),
        400.. => colours.yellow(&status.to_string()),
        _ => colours.green(&status.to_string()),
    };
    let took = entry["duration_ms"].as_f64().unwrap_or_default();
    let mut line = format!("{at} {} {}{} ", text("method"), text("host"), text("path"));
    line = safe(&line).replace('\n', "\\n");
    line.push_str(&shown);
    let mut rest = format!(" {took}ms");
    for (before, key) in [
        (" ", "route"),
        (" -> ", "upstream"),
        (" ", "endpoint"),
        (" client=", "client"),
        (" reason=", "reason"),
        (" trace=", "trace_id"),
    ] {
        if !text(key).is_empty() {
            rest.push_str(before);
            rest.push_str(text(key));
        }
    }
    if let Some(attempts) = entry["attempts"].as_u64().filter(|attempts| *attempts > 1) {
        let _ = write!(rest, " attempts={attempts}");
    }
    line + &safe(&rest).replace('\n', "\\n") + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_a_client_sends() {
        let entry = json!({
            "ts": "2026-01-01T10:20:30.123Z", "method": "GET", "host": "a.example", "path": "/\u{1b}[2J\nx",
            "status": 503, "duration_ms": 1.5, "route": "users", "reason": "overloaded", "attempts": 2,
        });
        let shown = line(&entry, Colours::none());
        assert!(shown.lines().count() == 1 && !shown.contains('\u{1b}'), "{shown:?}");
        let entry = json!({"ts": "2026-01-01T10:20:30.123Z", "method": "GET", "host": "a.example", "path": "/x",
            "status": 503, "duration_ms": 1.5, "route": "users", "reason": "overloaded", "attempts": 2});
        assert_eq!(
            line(&entry, Colours::none()),
            "10:20:30.123 GET a.example/x 503 1.5ms users reason=overloaded attempts=2\n"
        );
    }
}
