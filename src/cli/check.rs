//! `tidegate check`: the real compile, without running anything.

use std::path::PathBuf;

use clap::Args;

use crate::{
    app::{Failure, Source},
    snapshot::compile,
};

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(short, long, default_value = "conf/gateway.yaml")]
    config: PathBuf,
}

pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let loaded = Source::File(args.config.clone()).load()?;
    let plan = compile(&loaded)?;
    println!(
        "{}: {} listeners, {} routes, {} upstreams",
        args.config.display(),
        plan.listeners.len(),
        plan.routes.len(),
        plan.config.upstreams.len()
    );
    Ok(())
}
