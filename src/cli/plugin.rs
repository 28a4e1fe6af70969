//! `tidegate plugin`: what a file is, before it stands in a configuration.

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use clap::Args;
use serde_json::json;

use super::text::safe;
use crate::{app::Failure, plugin};

#[derive(Debug, Args)]
pub(crate) struct PluginArgs {
    /// The module
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print it as JSON, for programs
    #[arg(long)]
    json: bool,
}

/// # Errors
///
/// The file cannot be read. What is wrong with it is an exit code.
pub(crate) fn run(args: &PluginArgs) -> Result<ExitCode, Failure> {
    let shown = args.file.display().to_string();
    let bytes = fs::read(&args.file)
        .map_err(|error| super::failure(format!("cannot read {}: {error}", safe(&shown))))?;
    let began = Instant::now();
    let looked_at = plugin::look_at(&bytes);
    let took = began.elapsed();
    let plugin::Looked { sha256, abi, callbacks, is_sound } = looked_at;
    let code = if is_sound.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.json {
        super::print_json(&json!({
            "file": shown, "sha256": sha256, "bytes": bytes.len(), "abi": abi, "callbacks": callbacks,
            "usable": is_sound.is_ok(), "why": is_sound.err(),
        }))?;
        return Ok(code);
    }
    let mut text = format!("{}\nsha256: {sha256}\nbytes: {}\n", safe(&shown), bytes.len());
    if let Some(abi) = abi {
        text += &format!("abi: {abi}\ncallbacks: {}\n", safe(&callbacks.join(", ")));
    }
    text += &match is_sound {
        Ok(()) => format!("compiled in {} ms\nit can be a plugin\n", took.as_millis()),
        Err(why) => format!("it cannot be a plugin: {}\n", safe(&why)),
    };
    super::print(&text)?;
    Ok(code)
}
