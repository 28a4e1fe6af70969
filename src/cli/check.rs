//! `tidegate check`: the real compile, without running anything; with `--online` also a look at what it names.

use std::{
    fs::OpenOptions,
    io,
    path::{Path as FilePath, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use futures::{StreamExt, stream};
use tokio::runtime::Handle;

use super::text::{count, safe};
use crate::{
    app::{Failure, Source, VERSION},
    config::{Config, Loaded, Path, Problem},
    filter,
    identity::Identity,
    observe::{lines::Target, metrics::Metrics, recorder},
    snapshot::{PlannedIdentity, compile},
    upstream::{Live, SystemResolver, probe_once, resolve_once},
};

/// Probes at the same time: enough to be quick, too few to be a burst.
const CONCURRENT: usize = 16;
/// For the source of our own SVID.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "conf/gateway.yaml")]
    config: PathBuf,
    /// Also resolve every endpoint's name and connect to it, as its health check does where it has one
    #[arg(long)]
    online: bool,
}

/// # Errors
///
/// Everything that is wrong with the configuration. Endpoints that cannot be reached are an exit code.
pub fn run(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let loaded = Source::File(args.config.clone()).load()?;
    let plan = match (compile(&loaded, &filter::Live::offline()), access_log(&loaded)) {
        (Ok(plan), None) => plan,
        (compiled, log) => {
            return Err(Failure::Config(compiled.err().into_iter().flatten().chain(log).collect()));
        }
    };
    plan.warnings.iter().for_each(|warning| eprintln!("warning: {}", safe(&warning.to_string())));
    super::print(&format!(
        "{}: fine ({}, {}, {})\n",
        safe(&args.config.display().to_string()),
        count(plan.listeners.len(), "listener"),
        count(plan.routes.len(), "route"),
        count(plan.config.upstreams.len(), "upstream"),
    ))?;
    if !args.online {
        return Ok(ExitCode::SUCCESS);
    }
    let looked = super::asynchronous(look(plan.config, plan.identity))?;
    let failed = looked.iter().filter(|endpoint| endpoint.outcome.is_err()).count();
    super::print(&looked.iter().map(Looked::line).collect::<String>())?;
    if failed == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "{failed} of {} cannot be used now (the gateway starts all the same)",
        count(looked.len(), "endpoint")
    );
    Ok(ExitCode::FAILURE)
}

/// Whether the access log's file can be opened, as far as can be told without making one. Who runs the gateway may
/// not be who checks, so a directory's permissions are not looked at.
fn access_log(loaded: &Loaded) -> Option<Problem> {
    let Some(Target::File(file)) = recorder::target(&loaded.readable().log.access.to) else { return None };
    let at = Path::root().key("log").key("access").key("to");
    let file = loaded.sources.full_path(&at, file);
    let (error, hint) = can_be_opened(&file).err()?;
    let message = format!("cannot open the access log {}: {error}", file.display());
    Some(loaded.sources.problem(&at, message).hint(hint))
}

fn can_be_opened(file: &FilePath) -> Result<(), (io::Error, &'static str)> {
    match OpenOptions::new().append(true).open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other.map(drop).map_err(|error| (error, "name a file that the gateway may write")),
    }
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    match directory.unwrap_or(FilePath::new(".")).metadata() {
        Ok(directory) if directory.is_dir() => Ok(()),
        Ok(_) => Err((io::ErrorKind::NotADirectory.into(), "name a file in a directory")),
        Err(error) => Err((error, "create its directory first")),
    }
}

/// One address of an endpoint, or the endpoint itself where it stands for none.
struct Looked {
    upstream: String,
    endpoint: String,
    outcome: Result<(), String>,
}

impl Looked {
    fn line(&self) -> String {
        let outcome = match &self.outcome {
            Ok(()) => "ok".to_owned(),
            Err(why) => format!("failed: {why}"),
        };
        safe(&format!("{}  {}  {outcome}", self.upstream, self.endpoint)) + "\n"
    }
}

async fn look(config: Arc<Config>, planned: Option<PlannedIdentity>) -> io::Result<Vec<Looked>> {
    let identity = planned.map(|PlannedIdentity { settings, reading }| {
        let metrics = Arc::new(Metrics::new(VERSION));
        Arc::new(Identity::start(settings, reading, &Handle::current(), &metrics))
    });
    if let Some(identity) = &identity {
        // Without it, each endpoint that needs it says so.
        let _ = tokio::time::timeout(PATIENCE, identity.settled()).await;
    }
    let live = Live::new(Handle::current(), Arc::new(SystemResolver::new()), Arc::new(()));
    let live = live.with_identity(identity);
    let mut looks = Vec::new();
    for (name, upstream) in &config.upstreams {
        for (origin, resolved) in resolve_once(upstream, &live).await {
            match resolved {
                Ok(addresses) => looks.extend(addresses.into_iter().map(|at| (name, origin.clone(), Ok(at)))),
                Err(why) => looks.push((name, origin, Err(why))),
            }
        }
    }
    let probes = looks.into_iter().map(|(name, origin, address)| {
        let (live, upstream) = (&live, &config.upstreams[name]);
        async move {
            let (endpoint, outcome) = match address {
                Ok(address) => {
                    let shown = if origin == address.to_string() {
                        origin.clone()
                    } else {
                        format!("{origin} ({address})")
                    };
                    (shown, probe_once(upstream, live, &origin, address).await)
                }
                Err(why) => (origin, Err(why)),
            };
            Looked { upstream: name.clone(), endpoint, outcome }
        }
    });
    Ok(stream::iter(probes).buffered(CONCURRENT).collect().await)
}
