//! `tidegate plugin`: what a file is, before it stands in a configuration.

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use clap::Args;

use super::text::safe;
use crate::{app::Failure, plugin};

#[derive(Debug, Args)]
pub(crate) struct PluginArgs {
    /// The module
    #[arg(value_name = "FILE")]
    file: PathBuf,
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
    let mut text = format!("{}\nsha256: {sha256}\nbytes: {}\n", safe(&shown), bytes.len());
    if let Some(abi) = abi {
        text += &format!("abi: {abi}\ncallbacks: {}\n", safe(&callbacks.join(", ")));
    }
    let code = match is_sound {
        Ok(()) => {
            text += &format!("compiled in {} ms\nit can be a plugin\n", took.as_millis());
            ExitCode::SUCCESS
        }
        Err(why) => {
            text += &format!("it cannot be a plugin: {}\n", safe(&why));
            ExitCode::FAILURE
        }
    };
    super::print(&text)?;
    Ok(code)
}
