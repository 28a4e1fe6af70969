//! `tidegate gateways`: who takes a configuration from a control plane, and which version each has.

use std::time::SystemTime;

use clap::Args;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    plane::ServerArgs,
    services::since,
    text::{safe, table},
};
use crate::app::Failure;

#[derive(Debug, Args)]
pub(crate) struct GatewaysArgs {
    /// Only those that take this configuration
    name: Option<String>,
    /// Print the answer as JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &GatewaysArgs) -> Result<(), Failure> {
    let target = args.server.target()?;
    let query = args
        .name
        .as_ref()
        .map_or_else(String::new, |name| format!("?config={}", utf8_percent_encode(name, NON_ALPHANUMERIC)));
    let path = format!("/v1/gateways{query}");
    let list =
        super::asynchronous(async { target.ask(Method::GET, &path, "").await })?.expect(StatusCode::OK)?;
    if args.json {
        return Ok(super::print_json(&list["gateways"])?);
    }
    let gateways = list["gateways"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(super::print(&safe(&shown(gateways, SystemTime::now())))?)
}

fn shown(gateways: &[Value], now: SystemTime) -> String {
    if gateways.is_empty() {
        return "no gateway has joined\n".to_owned();
    }
    let rows = gateways.iter().map(|gateway| {
        let text = |key: &str| gateway[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| gateway[key].as_u64().filter(|number| *number > 0);
        let version = |key: &str| number(key).map_or("-".to_owned(), |version| version.to_string());
        let lag = number("lag_ms").map_or("-".to_owned(), |lag| format!("{lag}ms"));
        let why = gateway["problems"][0]["message"].as_str().unwrap_or_default().to_owned();
        [
            text("node"),
            text("config"),
            text("state").replace('_', " "),
            version("wanted"),
            version("in_force"),
            lag,
            since(&text("since"), now),
            why,
        ]
    });
    table(["GATEWAY", "CONFIG", "STATE", "WANTED", "IN FORCE", "LAG", "SINCE", "PROBLEM"], rows)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_shows_what_each_has_and_is_to_have() {
        let gateways = [json!({
            "node": "edge-7", "config": "edge", "state": "in_force", "wanted": 3, "in_force": 3, "lag_ms": 12,
            "since": "1970-01-01T00:00:10.500Z", "problems": [],
        })];
        let expected = "GATEWAY  CONFIG  STATE     WANTED  IN FORCE  LAG   SINCE  PROBLEM\n\
                        edge-7   edge    in force  3       3         12ms  1m5s\n";
        assert_eq!(shown(&gateways, UNIX_EPOCH + Duration::from_secs(76)), expected);
        assert_eq!(shown(&[], UNIX_EPOCH), "no gateway has joined\n");
    }
}
