//! `tidegate config`: configurations that gateways take from a control plane, and how they spread.

use std::{
    fs, io,
    io::Read as _,
    path::{Path as FilePath, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::SystemTime,
};

use clap::{Args, Subcommand, ValueEnum};
use http::{Method, StatusCode, header::IF_MATCH};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    client::Answer,
    diff::{self, DiffArgs},
    failure,
    plane::ServerArgs,
    services::since,
    text::{safe, table},
};
use crate::{
    app::Failure,
    config::{Location, Problem},
    filter::Registry,
};

/// What a part's path needs no escape for.
const PART: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b':')
    .remove(b'@')
    .remove(b'+');

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put a new version; exit code 3 with the problems where it is invalid
    Put(PutArgs),
    /// Remove a part, as a new version; or, without a part, all of the configuration
    Remove(RemoveArgs),
    /// Print a configuration as it was put
    Get(GetArgs),
    /// List the versions that are kept
    Versions(VersionsArgs),
    /// Put an earlier version once more, as a new one
    Rollback(RollbackArgs),
    /// Show how far the newest version has spread; or pause, resume or abort that
    Rollout(RolloutArgs),
    /// Show what the last reload of a running gateway changed, or what a file would change there
    Diff(Box<DiffArgs>),
}

#[derive(Debug, Args)]
struct PutArgs {
    /// The configuration
    name: String,
    /// The file, in YAML or JSON; `-` reads standard input
    file: PathBuf,
    /// Put one part beside the main document: `upstreams/NAME` or `routes/NAME`
    #[arg(long, value_name = "PART")]
    part: Option<String>,
    /// Check it, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct HowArgs {
    /// To all gateways at once, without waves: for emergencies
    #[arg(long)]
    now: bool,
    /// Only if this is the newest version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// The configuration
    name: String,
    /// `upstreams/NAME` or `routes/NAME`; without it all is forgotten, and gateways keep what they have in force
    part: Option<String>,
    /// Also where gateways follow it
    #[arg(long, conflicts_with_all = ["part", "now"])]
    force: bool,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// The configuration
    name: String,
    /// This version; the newest without it
    #[arg(long)]
    version: Option<u64>,
    /// This part, and not the main document
    #[arg(long, value_name = "PART")]
    part: Option<String>,
    /// Print everything about it as JSON, for programs
    #[arg(long, conflicts_with = "part")]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct VersionsArgs {
    /// The configuration
    name: String,
    /// Print the list as JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct RollbackArgs {
    /// The configuration
    name: String,
    /// The version to put once more
    version: u64,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct RolloutArgs {
    /// The configuration
    name: String,
    /// What to do about it; without it, it is shown
    #[arg(value_enum)]
    order: Option<Order>,
    /// Print it as JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    /// Stay where it is; a gateway that refuses the version still aborts it
    Pause,
    /// Go on after a pause, without gateways that are away
    Resume,
    /// Give those that have it the version before
    Abort,
}

pub(crate) fn run(args: &ConfigArgs, registry: &Arc<Registry>) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::Diff(args) => return diff::run(args, registry),
        Command::Put(args) => put(args),
        Command::Remove(args) => remove(args),
        Command::Get(args) => get(args),
        Command::Versions(args) => versions(args),
        Command::Rollback(args) => {
            let path = format!("{}/rollback?version={}", path_of(&args.name), args.version);
            change(&args.server, Method::POST, &path, "", &args.how, &args.name)
        }
        Command::Rollout(args) => rollout(args),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn put(args: &PutArgs) -> Result<(), Failure> {
    let (text, shown) = read(&args.file)?;
    let mut path = path_of(&args.name);
    let mut document = args.name.clone();
    if let Some(part) = &args.part {
        path = format!("{path}/{}", utf8_percent_encode(part, PART));
        document = format!("{document}/{part}");
    }
    if args.dry_run {
        path.push_str("?dry_run");
    }
    let answer = ask(&args.server, Method::PUT, &path, &text, &args.how)?;
    if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
        return Err(rejected(&answer, &document, &shown)?);
    }
    report(&answer, &args.name)
}

fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    let mut path = path_of(&args.name);
    if let Some(part) = &args.part {
        path = format!("{path}/{}", utf8_percent_encode(part, PART));
        return change(&args.server, Method::DELETE, &path, "", &args.how, &args.name);
    }
    if args.how.now {
        let hint =
            "nothing is rolled out where all of a configuration is removed; leave it out, or name a part";
        return Err(failure(format!("--now: {hint}")));
    }
    if args.force {
        path.push_str("?force");
    }
    let answer = ask(&args.server, Method::DELETE, &path, "", &args.how)?;
    match answer.status {
        StatusCode::NO_CONTENT => {
            let kept = "gateways keep what they have in force";
            Ok(super::print(&safe(&format!("{}: removed with all of its versions; {kept}\n", args.name)))?)
        }
        _ => Err(answer.failure()),
    }
}

fn change(
    server: &ServerArgs,
    method: Method,
    path: &str,
    body: &str,
    how: &HowArgs,
    name: &str,
) -> Result<(), Failure> {
    let answer = ask(server, method, path, body, how)?;
    if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
        return Err(rejected(&answer, "", "")?);
    }
    report(&answer, name)
}

fn ask(
    server: &ServerArgs,
    method: Method,
    path: &str,
    body: &str,
    how: &HowArgs,
) -> Result<Answer, Failure> {
    let target = server.target()?;
    let separator = if path.contains('?') { '&' } else { '?' };
    let path = if how.now { format!("{path}{separator}rollout=now") } else { path.to_owned() };
    let mut request = target.request(method, &path, body.to_owned())?;
    if let Some(version) = how.if_version {
        request.headers_mut().insert(IF_MATCH, version.into());
    }
    super::asynchronous(async { target.send(request).await })
}

fn read(file: &FilePath) -> Result<(String, String), Failure> {
    let failed = |error: io::Error| failure(format!("cannot read {}: {error}", file.display()));
    if file == FilePath::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok((text, "stdin".to_owned()));
    }
    Ok((fs::read_to_string(file).map_err(failed)?, file.display().to_string()))
}

/// The problems with `document`, where they stand in `file`; the others as they are.
fn rejected(answer: &Answer, document: &str, file: &str) -> Result<Failure, Failure> {
    let answer = answer.json()?;
    let problems = answer["problems"].as_array().into_iter().flatten().map(|problem| {
        let message = problem["message"].as_str().unwrap_or_default();
        let number =
            |key: &str| problem[key].as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
        let (line, column) = (number("line"), number("column"));
        if document.is_empty() || problem["document"] != document {
            return Problem::new(safe(message));
        }
        let place = if line > 0 { format!(":{line}:{column}: ") } else { ": ".to_owned() };
        let bare = message.split_once(&place).map_or(message, |(_, bare)| bare);
        Problem::new(safe(bare)).at(Location { file: file.into(), order: 0, line, column })
    });
    let problems: Vec<Problem> = problems.collect();
    match problems.is_empty() {
        true => Err(failure(safe(answer["detail"].as_str().unwrap_or("the configuration is invalid")))),
        false => Ok(Failure::Config(problems.into())),
    }
}

fn report(answer: &Answer, name: &str) -> Result<(), Failure> {
    let applied = match answer.status {
        StatusCode::ACCEPTED | StatusCode::OK => answer.json()?,
        _ => return Err(answer.failure()),
    };
    let checked_by = applied["checked_by"].as_str().unwrap_or_default();
    let text = match applied["version"].as_u64() {
        None => format!("{name}: valid, checked by {checked_by}; nothing was changed\n"),
        Some(version) if answer.status == StatusCode::OK => {
            format!("{name}: unchanged, version {version} says the same\n")
        }
        Some(version) => {
            let progress = describe(&applied["rollout"]);
            format!("{name}: version {version}, checked by {checked_by}\n{name}: {progress}\n")
        }
    };
    Ok(super::print(&safe(&text))?)
}

fn get(args: &GetArgs) -> Result<(), Failure> {
    let query = args.version.map_or_else(String::new, |version| format!("?version={version}"));
    let config = show(&args.server, &format!("{}{query}", path_of(&args.name)))?;
    if args.json {
        return Ok(super::print_json(&config)?);
    }
    let text = match &args.part {
        None => config["main"].as_str().unwrap_or_default().to_owned(),
        Some(part) => match config["parts"][part].as_str() {
            Some(text) => text.to_owned(),
            None => return Err(failure(safe(&format!("{} has no part {part}", args.name)))),
        },
    };
    let end = if text.ends_with('\n') { "" } else { "\n" };
    Ok(super::print(&format!("{}{end}", safe(&text)))?)
}

fn versions(args: &VersionsArgs) -> Result<(), Failure> {
    let list = show(&args.server, &format!("{}/versions", path_of(&args.name)))?;
    if args.json {
        return Ok(super::print_json(&list["versions"])?);
    }
    let now = SystemTime::now();
    let rows = list["versions"].as_array().into_iter().flatten().map(|version| {
        let text = |key: &str| version[key].as_str().unwrap_or_default().to_owned();
        let repeats =
            version["repeats"].as_u64().map_or_else(String::new, |repeats| format!("repeats {repeats}"));
        let sum = text("sha256").get(..12).unwrap_or_default().to_owned();
        [version["version"].to_string(), since(&text("at"), now), text("by"), sum, repeats]
    });
    Ok(super::print(&safe(&table(["VERSION", "AGE", "BY", "SHA256", ""], rows)))?)
}

fn rollout(args: &RolloutArgs) -> Result<(), Failure> {
    let progress = match args.order {
        None => show(&args.server, &path_of(&args.name))?["rollout"].take(),
        Some(order) => {
            let word = order.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            let path = format!("{}/{word}", path_of(&args.name));
            let target = args.server.target()?;
            super::asynchronous(async { target.ask(Method::POST, &path, "").await })?
                .expect(StatusCode::OK)?
        }
    };
    if args.json {
        return Ok(super::print_json(&progress)?);
    }
    Ok(super::print(&safe(&format!("{}: {}\n", args.name, describe(&progress))))?)
}

fn show(server: &ServerArgs, path: &str) -> Result<Value, Failure> {
    let target = server.target()?;
    super::asynchronous(async { target.ask(Method::GET, path, "").await })?.expect(StatusCode::OK)
}

/// `version 7 holding, wave 2 of 3, in force at 3 of 3 gateways (before: version 6)`
fn describe(progress: &Value) -> String {
    let number = |key: &str| progress[key].as_u64().unwrap_or_default();
    let phase = progress["phase"].as_str().unwrap_or_default();
    let mut text = format!("version {} {phase}", number("version"));
    if !matches!(phase, "done" | "aborted") {
        text.push_str(&format!(", wave {} of {}", number("wave"), number("waves")));
    }
    text.push_str(&format!(", in force at {} of {} gateways", number("in_force"), number("gateways")));
    if number("previous") > 0 && phase != "done" {
        text.push_str(&format!(" (before: version {})", number("previous")));
    }
    match progress["why"].as_str() {
        Some(why) => format!("{text}: {why}"),
        None => text,
    }
}

fn path_of(name: &str) -> String {
    format!("/v1/configs/{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rollout_is_one_line() {
        let mut progress = json!({
            "version": 7, "previous": 6, "phase": "holding", "wave": 2, "waves": 3, "gateways": 4, "in_force": 3,
            "why": null,
        });
        let told = "version 7 holding, wave 2 of 3, in force at 3 of 4 gateways (before: version 6)";
        assert_eq!(describe(&progress), told);
        (progress["phase"], progress["why"]) = (json!("aborted"), json!("g1 refuses it: no"));
        let told = "version 7 aborted, in force at 3 of 4 gateways (before: version 6): g1 refuses it: no";
        assert_eq!(describe(&progress), told);
    }
}
