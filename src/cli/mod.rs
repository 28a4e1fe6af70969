//! The command line: one file for each command.

pub mod backend;
mod check;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A programmable gateway: routes in YAML, reload on SIGHUP.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (SIGHUP reload, SIGTERM drain, SIGQUIT hand over, SIGUSR1 reopen logs)
    Run(run::RunArgs),
    /// Compile a configuration without running it
    Check(check::CheckArgs),
    /// Run a small test backend
    Backend(backend::BackendArgs),
}

/// Run the command that the arguments name.
pub fn main() -> ExitCode {
    // clap ends the process itself with 2 when the arguments are wrong.
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(&args),
        Command::Backend(args) => asynchronous(backend::run(args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

use crate::app::Failure;

/// Run a command that waits.
fn asynchronous(command: impl Future<Output = std::io::Result<()>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(command)?)
}
