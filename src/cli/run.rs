//! `tidegate run`: the gateway itself.

use std::{path::PathBuf, sync::Arc};

use clap::Args;

use crate::{
    app::{self, Failure, Source},
    filter::Registry,
};

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The configuration file
    #[arg(short, long, default_value = "conf/gateway.yaml")]
    config: PathBuf,
    /// Take the listeners over from the running gateway, which then drains (send it SIGQUIT)
    #[arg(long)]
    upgrade: bool,
}

pub(crate) fn run(args: RunArgs, registry: &Arc<Registry>) -> Result<(), Failure> {
    app::run(Source::File(args.config), args.upgrade, registry)
}
