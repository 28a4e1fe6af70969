//! `tidegate upgrade`: the running gateway starts the program that stands in its place by now, and hands over to it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    ask::{self, AskArgs},
    failure,
    text::safe,
};
use crate::app::{Failure, read_pid_file};

#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    gateway: AskArgs,
    /// Signal the gateway that has written this file, in the place of asking its admin API
    #[arg(long, value_name = "FILE", conflicts_with_all = ["admin", "config", "token", "ca", "cert"])]
    pid_file: Option<PathBuf>,
    /// How long to wait for the successor, with --pid-file
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration, requires = "pid_file")]
    timeout: Duration,
}

/// # Errors
///
/// The gateway that runs serves on; why is said.
pub(crate) fn run(args: &UpgradeArgs) -> Result<(), Failure> {
    match &args.pid_file {
        Some(file) => super::asynchronous(async { Ok(by_signal(file, args.timeout).await) })?,
        None => by_request(&args.gateway),
    }
}

fn by_request(gateway: &AskArgs) -> Result<(), Failure> {
    let answer = ask::ask(gateway, Method::POST, "/upgrade")?;
    if matches!(answer.status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY) {
        let result = answer.json()?;
        let why = result["why"].as_str().unwrap_or_default();
        return Err(Failure::Upgrade(safe(why)));
    }
    let result = answer.expect(StatusCode::OK)?;
    Ok(done(&result["process"].to_string())?)
}

/// The file is the successor's as soon as that serves.
async fn by_signal(file: &Path, patience: Duration) -> Result<(), Failure> {
    const LOOK: Duration = Duration::from_millis(50);
    let before = read_pid_file(file).map_err(failure)?;
    kill_process(before, Signal::USR2).map_err(|error| failure(format!("process {before}: {error}")))?;
    let until = Instant::now() + patience;
    while Instant::now() < until {
        match read_pid_file(file) {
            Ok(now) if now != before => return Ok(done(&now.to_string())?),
            Ok(_) => tokio::time::sleep(LOOK).await,
            Err(_) if is_gone(before) => {
                return Err(failure(format!(
                    "process {before} has ended, and nobody follows it (start the gateway)"
                )));
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
    Err(Failure::Upgrade(format!(
        "no successor within {patience:?}, process {before} serves on (its log says why)"
    )))
}

fn is_gone(process: Pid) -> bool {
    rustix::process::test_kill_process(process).is_err()
}

fn done(process: &str) -> std::io::Result<()> {
    super::print(&format!(
        "upgraded: process {process} serves, and the one before ends when it has finished what it has\n"
    ))
}
