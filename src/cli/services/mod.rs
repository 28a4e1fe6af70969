//! `tidegate services`: what is registered at a control plane, and a way to register what cannot do so itself.

mod list;
mod register;
mod watch;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub(super) use self::list::since;
use super::{plane::ServerArgs, text::safe};
use crate::app::Failure;

/// What an id needs no escape for in a path.
pub(super) const ID: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':');

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ServicesArgs {
    /// Only this service
    name: Option<String>,
    /// Go on with what changes
    #[arg(long)]
    watch: bool,
    /// Print the answer as JSON, for programs
    #[arg(long, conflicts_with = "watch")]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Register an instance, renew it, and deregister it at the end: of a command that it follows, or of itself
    Register(Box<register::RegisterArgs>),
    /// Deregister an instance
    Remove(Box<RemoveArgs>),
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// The id of the instance, as `tidegate services` shows it
    id: String,
    /// Give it nothing new for so long first
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    drain: std::time::Duration,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &ServicesArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        Some(Command::Register(args)) => register::run(args),
        Some(Command::Remove(args)) => remove(args).map(super::done),
        None if args.watch => watch::run(&args.server, args.name.as_deref()).map(super::done),
        None => list::run(&args.server, args.name.as_deref(), args.json).map(super::done),
    }
}

fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    let target = args.server.target()?;
    let drain = match args.drain.as_millis() {
        0 => String::new(),
        drain => format!("?drain={drain}ms"),
    };
    let path = format!("{}{drain}", path_of(&args.id));
    super::asynchronous(async {
        let found = target.ask(Method::GET, &path_of(&args.id), "").await?;
        // Removing what is not there is no failure for a program, and likely a mistake of whoever types it.
        if found.status != StatusCode::OK {
            return Ok(Err(found.failure()));
        }
        let answer = target.ask(Method::DELETE, &path, "").await?;
        Ok(if answer.status == StatusCode::NO_CONTENT { Ok(()) } else { Err(answer.failure()) })
    })??;
    let how = if drain.is_empty() { "removed" } else { "draining" };
    Ok(super::print(&format!("{how}: {}\n", safe(&args.id)))?)
}

fn path_of(id: &str) -> String {
    format!("/v1/services/{}", utf8_percent_encode(id, ID))
}

/// `&name=value`, where there is one.
fn parameter(name: &str, value: Option<&str>) -> String {
    value
        .map_or_else(String::new, |value| format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
}
