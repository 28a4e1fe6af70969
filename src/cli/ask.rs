//! `tidegate status`, `reload` and `drain`: one request to a running gateway's admin API.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use http::{Method, StatusCode, uri::Authority};
use serde_json::Value;

use super::{
    client::{Answer, Place, Target, TlsArgs, Words, place, reachable, secure, token},
    failure,
    text::{count, safe},
};
use crate::{
    app::{Failure, Source},
    config::{Admin, Path, Problem, Problems, Secret},
};

const DEFAULT: &str = "127.0.0.1:9901";
const WORDS: Words = Words {
    what: "gateway",
    api: "tidegate's admin API",
    setting: "the admin address",
    token: "TIDEGATE_ADMIN_TOKEN",
    hint: "give --admin or -c",
};

#[derive(Clone, Debug, Args)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Take the address and the token from this configuration, and the certificate that the API has to show
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What a command that has a `--config` of its own takes beside it.
#[derive(Clone, Debug, Args)]
pub(crate) struct AdminArgs {
    /// Where its admin API listens; https://HOST:PORT where that speaks TLS [default: 127.0.0.1:9901]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    admin: Option<Place>,
    /// Its token; better in the environment variable TIDEGATE_ADMIN_TOKEN, where other users do not see it
    #[arg(long, value_parser = |token: &str| Ok::<_, std::convert::Infallible>(Secret::new(token)))]
    token: Option<Secret>,
    #[command(flatten)]
    tls: TlsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    control: AskArgs,
    /// Print the answer as it came, for programs
    #[arg(long)]
    json: bool,
}

impl AdminArgs {
    /// With what `config` says, if that is given.
    pub(super) fn of(&self, config: Option<&std::path::Path>) -> AskArgs {
        AskArgs { admin: self.clone(), config: config.map(Into::into) }
    }
}

/// Exit code 1 unless the gateway is ready.
pub(crate) fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let answer = ask(&args.control, Method::GET, "/stats")?;
    let stats = answer.expect(StatusCode::OK)?;
    super::print(&if args.json { answer.text.clone() } else { safe(&summary(&stats)) })?;
    Ok(if stats["phase"] == "ready" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// # Errors
///
/// The problems of a configuration that the gateway rejects are this command's.
pub(crate) fn reload(args: &AskArgs) -> Result<(), Failure> {
    let answer = ask(args, Method::POST, "/reload")?;
    if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
        let result = answer.json()?;
        let problems = result["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
        return Err(problems.map(|problem| Problem::new(safe(problem))).collect::<Problems>().into());
    }
    let result = answer.expect(StatusCode::OK)?;
    let changes = result["changes"].as_str().map(|changes| format!(": {changes}")).unwrap_or_default();
    let word = result["result"].as_str().unwrap_or_default();
    Ok(super::print(&format!("{}\n", safe(&format!("{word}{changes}"))))?)
}

pub(crate) fn drain(args: &AskArgs) -> Result<(), Failure> {
    ask(args, Method::POST, "/drain")?.expect(StatusCode::ACCEPTED)?;
    Ok(super::print("draining: the gateway ends when what is in flight is done\n")?)
}

pub(super) fn ask(args: &AskArgs, method: Method, path: &str) -> Result<Answer, Failure> {
    let target = target(args)?;
    super::asynchronous(target.ask(method, path, ""))
}

/// What was typed goes before the environment, and that before the file.
pub(super) fn target(args: &AskArgs) -> Result<Target, Failure> {
    let mut at = Authority::from_static(DEFAULT);
    let (mut written, mut shown) = (None, None);
    if let Some(file) = &args.config {
        let loaded = Source::File(file.clone()).load()?;
        match &loaded.config().map_err(Problems::clone)?.admin {
            Admin::On(admin) => {
                let cert = Path::root().key("admin").key("tls").key("cert");
                shown = admin.tls.as_ref().map(|tls| loaded.sources.full_path(&cert, &tls.cert));
                at = reachable(&admin.address, &WORDS)
                    .map_err(|why| failure(format!("{}: {why}", file.display())))?;
                // Of several, the first that may all.
                let all = admin.tokens.iter().max_by_key(|token| token.role).map(|token| &token.token);
                written = admin.token.as_ref().or(all).cloned();
            }
            Admin::Off(_) => {
                let hint = "signal the process instead: SIGHUP reloads, SIGTERM drains";
                return Err(failure(format!(
                    "{}: `admin: false` turns the API off ({hint})",
                    file.display()
                )));
            }
        }
    }
    let AdminArgs { admin: place, token: typed, tls } = &args.admin;
    let place = place.as_ref();
    let secure = secure(tls, place, shown.as_deref(), "--admin").map_err(failure)?;
    let token = token(typed.as_ref(), &WORDS).or(written);
    Ok(Target { at: place.map_or(at, |place| place.at.clone()), token, secure, words: &WORDS })
}

fn address(text: &str) -> Result<Place, String> {
    place(text, &WORDS)
}

fn summary(stats: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let uptime = humantime::format_duration(Duration::from_secs(number(&stats["uptime_seconds"])));
    let mut lines = vec![format!(
        "{}  tidegate {}, up {uptime}, {}, configuration {}",
        text(&stats["phase"]),
        text(&stats["version"]),
        count(number(&stats["routes"]) as usize, "route"),
        text(&stats["config_hash"]),
    )];
    lines.extend(list(&stats["listeners"]).iter().map(|listener| {
        let (name, address) = (text(&listener["name"]), text(&listener["address"]));
        let connections = count(number(&listener["connections"]) as usize, "connection");
        let requests = count(number(&listener["requests_in_flight"]) as usize, "request");
        format!("listener {name}  {address}  {connections}, {requests} in flight")
    }));
    lines.extend(list(&stats["upstreams"]).iter().map(|upstream| {
        let ready = if upstream["ready"] == true { "ready" } else { "not ready" };
        let (usable, all) =
            (number(&upstream["usable"]), count(number(&upstream["endpoints"]) as usize, "endpoint"));
        format!("upstream {}  {ready}  {usable} of {all} usable", text(&upstream["name"]))
    }));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_is_not_ready() {
        let stats = serde_json::json!({
            "phase": "ready", "version": "1.0.0", "uptime_seconds": 61, "routes": 1, "config_hash": "abc",
            "listeners": [{"name": "edge", "address": ":80", "connections": 2, "requests_in_flight": 1}],
            "upstreams": [{"name": "users", "ready": false, "usable": 0, "endpoints": 2}],
        });
        let expected = "ready  tidegate 1.0.0, up 1m 1s, 1 route, configuration abc\n\
            listener edge  :80  2 connections, 1 request in flight\n\
            upstream users  not ready  0 of 2 endpoints usable\n";
        assert_eq!(summary(&stats), expected);
    }
}
