//! `tidegate run`: the gateway itself.

use std::{io, path::PathBuf, sync::Arc};

use clap::Args;

use crate::{
    app::{self, Failure, Launch, Source, Terms},
    filter::Registry,
    tls::keylog,
};

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The configuration file
    #[arg(short, long, default_value = "conf/gateway.yaml")]
    config: PathBuf,
    /// Take the listeners over from the running gateway, which then drains (send it SIGQUIT)
    #[arg(long)]
    upgrade: bool,
    /// Write the number of the process that serves to this file; it stays locked (fcntl) while that runs
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Append the secrets of TLS sessions to the file named by the environment's SSLKEYLOGFILE: whoever reads it reads the traffic
    #[arg(long)]
    insecure_keylog: bool,
}

pub(crate) fn run(args: RunArgs, registry: &Arc<Registry>) -> Result<(), Failure> {
    let keylog = args.insecure_keylog.then(keylog::begin).transpose();
    let keylog = keylog.map_err(|error| io::Error::other(format!("--insecure-keylog: {error}")))?;
    let launch = Some(Launch::of_this_process()?);
    let terms = Terms { upgrade: args.upgrade, launch, pid_file: args.pid_file, keylog };
    app::run(Source::File(args.config), terms, registry)
}
