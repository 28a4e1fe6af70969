//! `tidegate completions`: what a shell has to know to complete our arguments.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::app::Failure;

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "tidegate", &mut script);
    Ok(super::print(&String::from_utf8_lossy(&script))?)
}
