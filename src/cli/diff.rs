//! `tidegate config diff`: what the last reload of a running gateway changed; or what a file would change there.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use similar::TextDiff;

use super::{
    ask::{AdminArgs, AskArgs, ask},
    failure,
    text::{Colours, safe},
};
use crate::{
    app::{Failure, Source},
    filter::Registry,
    snapshot::compile,
};

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Compare this file with what is in force [default: what the last reload changed]
    file: Option<PathBuf>,
    /// What this reload changed, by its number (`GET /v1/reloads` lists them)
    #[arg(long, value_name = "NUMBER", conflicts_with = "file")]
    reload: Option<u64>,
    /// Print it as JSON, for programs
    #[arg(long)]
    json: bool,
    /// Take the address and the token from this configuration
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Exit code 1 where there is a difference between a file and what is in force.
pub(crate) fn run(args: &DiffArgs, registry: &Arc<Registry>) -> Result<ExitCode, Failure> {
    let control = args.admin.of(args.config.as_deref());
    let (about, text) = match &args.file {
        Some(file) => of_file(file, &control, registry)?,
        None => of_reload(args.reload, &control)?,
    };
    let differs = !text.is_empty();
    let shown = match args.json {
        true => {
            let mut shown = about;
            shown["diff"] = text.into();
            serde_json::to_string_pretty(&shown).map_err(std::io::Error::other)? + "\n"
        }
        false => painted(&text, Colours::of_stdout()),
    };
    super::print(&shown)?;
    Ok(if differs && args.file.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn of_reload(number: Option<u64>, control: &AskArgs) -> Result<(Value, String), Failure> {
    let reloads = ask(control, Method::GET, "/v1/reloads")?.expect(StatusCode::OK)?;
    let reloads = reloads.as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = |reload: &&Value| match number {
        Some(number) => reload["id"] == number,
        None => reload["has_diff"] == true,
    };
    let Some(reload) = reloads.iter().find(wanted) else {
        return Err(failure(match number {
            Some(number) => format!("there is no reload {number} any more"),
            None => "nothing has been changed since the gateway started".to_owned(),
        }));
    };
    let answer = ask(control, Method::GET, &format!("/v1/reloads/{}/diff", reload["id"]))?;
    if answer.status != StatusCode::OK {
        return Err(answer.failure());
    }
    Ok((reload.clone(), answer.text))
}

fn of_file(file: &Path, control: &AskArgs, registry: &Arc<Registry>) -> Result<(Value, String), Failure> {
    let plan = compile(Source::File(file.to_path_buf()).load()?, &registry.offline())?;
    let wanted = serde_yaml::to_string(&plan.effective.value()).map_err(std::io::Error::other)?;
    let running = ask(control, Method::GET, "/v1/config")?.expect(StatusCode::OK)?;
    let running = serde_yaml::to_string(&without_additions(running)).map_err(std::io::Error::other)?;
    let diff = TextDiff::from_lines(&running, &wanted);
    let name = file.display().to_string();
    let text = match running == wanted {
        true => String::new(),
        false => diff.unified_diff().header("in force", &name).to_string(),
    };
    Ok((json!({ "file": name }), text))
}

/// What stands beside the file is no difference of the file.
fn without_additions(mut config: Value) -> Value {
    if let Some(keys) = config.as_object_mut() {
        keys.remove("parts");
        keys.remove("received");
    }
    config
}

fn painted(text: &str, colours: Colours) -> String {
    let lines = text.lines().map(|line| {
        let line = safe(line);
        match line.as_bytes().first() {
            Some(b'+') => colours.green(&line),
            Some(b'-') => colours.red(&line),
            Some(b'@') => colours.bold(&line),
            _ => line,
        }
    });
    lines.map(|line| line + "\n").collect()
}
