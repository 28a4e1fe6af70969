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
use serde::Serialize;
use tokio::runtime::Handle;

use super::text::{count, safe};
use crate::{
    app::{Failure, Source, descriptor_warning},
    config::{Config, Loaded, Path, Problem, Problems},
    filter::Registry,
    identity::{Identity, Material},
    names::SystemResolver,
    resources::Descriptors,
    snapshot::{Plan, PlannedIdentity, compile},
    upstream::{Live, probe_once, resolve_once},
};

/// Probes at the same time: enough to be quick, too few to be a burst.
const CONCURRENT: usize = 16;
/// For the agent that has our own SVID.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "conf/gateway.yaml")]
    config: PathBuf,
    /// Also ask the Workload API for our identity, resolve every endpoint's name and connect to it, as its health check does
    /// where it has one
    #[arg(long)]
    online: bool,
    /// Fail with exit code 3 where there is a warning
    #[arg(long)]
    strict: bool,
    /// How problems and warnings are told: lines for people on the standard error, or one JSON object for programs on the standard output
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// All that was found, for programs.
#[derive(Serialize)]
struct Findings<'a> {
    /// It would run.
    valid: bool,
    problems: Vec<Finding<'a>>,
    warnings: Vec<Finding<'a>>,
}

#[derive(Serialize)]
struct Finding<'a> {
    /// Of warnings, by which docs/warnings.md has them.
    name: Option<&'static str>,
    file: Option<&'a str>,
    /// From 1; null where it has none.
    line: Option<u32>,
    column: Option<u32>,
    path: String,
    message: &'a str,
    hint: Option<&'a str>,
}

impl<'a> Finding<'a> {
    fn of(problem: &'a Problem) -> Finding<'a> {
        let at = problem.location();
        let line = at.map(|at| at.line).filter(|line| *line > 0);
        Finding {
            name: problem.name(),
            file: at.map(|at| &*at.file),
            line,
            column: at.map(|at| at.column).filter(|_| line.is_some()),
            path: problem.whereabouts().to_string(),
            message: problem.message(),
            hint: problem.told_hint(),
        }
    }
}

/// With `--strict`: it would run, and there is something to look at.
const WARNED: u8 = 3;

/// # Errors
///
/// Everything that is wrong with the configuration. What cannot be had or reached is an exit code.
pub(crate) fn run(args: &CheckArgs, registry: &Arc<Registry>) -> Result<ExitCode, Failure> {
    let plan = match (planned(args, registry), args.format) {
        (Ok(plan), _) => plan,
        (Err(Failure::Config(problems)), Format::Json) => {
            print_json(false, problems.iter(), std::iter::empty())?;
            return Ok(ExitCode::from(WARNED));
        }
        (Err(failure), _) => return Err(failure),
    };
    let descriptors = descriptor_warning(&plan.config, Descriptors::possible());
    let descriptors = descriptors.map(|warning| Problem::new(warning).named("descriptors"));
    let warnings: Problems = plan.warnings.iter().cloned().chain(descriptors).collect();
    let fine = match args.strict && !plan.warnings.is_empty() {
        true => ExitCode::from(WARNED),
        false => ExitCode::SUCCESS,
    };
    if args.format == Format::Json {
        print_json(true, std::iter::empty(), warnings.iter())?;
        return Ok(fine);
    }
    warnings.iter().for_each(|warning| eprintln!("warning: {}", safe(&warning.to_string())));
    super::print(&format!(
        "{}: fine ({}, {}, {})\n",
        safe(&args.config.display().to_string()),
        count(plan.listeners.len(), "listener"),
        count(plan.routes.len(), "route"),
        count(plan.config.upstreams.len(), "upstream"),
    ))?;
    if !args.online {
        return Ok(fine);
    }
    let (who, looked) = super::asynchronous(look(plan.config, plan.identity))?;
    super::print(&who.iter().chain(&looked).map(Looked::line).collect::<String>())?;
    let has_nobody = who.is_some_and(|who| who.outcome.is_err());
    if has_nobody {
        eprintln!("there is no identity now (the gateway starts all the same, and refuses mTLS)");
    }
    let failed = looked.iter().filter(|endpoint| endpoint.outcome.is_err()).count();
    if failed > 0 {
        eprintln!(
            "{failed} of {} cannot be used now (the gateway starts all the same)",
            count(looked.len(), "endpoint")
        );
    }
    Ok(if has_nobody || failed > 0 { ExitCode::FAILURE } else { fine })
}

fn planned(args: &CheckArgs, registry: &Arc<Registry>) -> Result<Plan, Failure> {
    let loaded = Source::File(args.config.clone()).load()?;
    let log = access_log(&loaded);
    match (compile(loaded, &registry.trial()), log) {
        (Ok(plan), None) => Ok(plan),
        (compiled, log) => Err(Failure::Config(compiled.err().into_iter().flatten().chain(log).collect())),
    }
}

fn print_json<'a>(
    valid: bool,
    problems: impl Iterator<Item = &'a Problem>,
    warnings: impl Iterator<Item = &'a Problem>,
) -> io::Result<()> {
    let (problems, warnings) = (problems.map(Finding::of).collect(), warnings.map(Finding::of).collect());
    let text =
        serde_json::to_string_pretty(&Findings { valid, problems, warnings }).map_err(io::Error::other)?;
    super::print(&(text + "\n"))
}

/// Whether the access log's file can be opened, as far as can be told without making one. Who runs the gateway may
/// not be who checks, so a directory's permissions are not looked at.
fn access_log(loaded: &Loaded) -> Option<Problem> {
    let at = Path::root().key("log").key("access").key("to");
    let files = loaded.readable().log.access.to.files();
    let (file, (error, hint)) = files
        .map(|file| loaded.sources.full_path(&at, file))
        .find_map(|file| can_be_opened(&file).err().map(|wrong| (file, wrong)))?;
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

/// One address of an endpoint, or the endpoint itself where it stands for none; or who we are.
struct Looked {
    kind: String,
    name: String,
    outcome: Result<String, String>,
}

impl Looked {
    fn line(&self) -> String {
        let outcome = match &self.outcome {
            Ok(found) => format!("ok{found}"),
            Err(why) => format!("failed: {why}"),
        };
        safe(&format!("{}  {}  {outcome}", self.kind, self.name)) + "\n"
    }
}

/// Who we are, as the source of our identity says now.
async fn identify(PlannedIdentity { settings, reading }: PlannedIdentity) -> (Material, Looked) {
    let (material, failed) = match settings.ask_agent(PATIENCE).await {
        None => (reading.material, None),
        Some(Ok(material)) => (material, None),
        // Each endpoint that needs it will say so, too.
        Some(Err(why)) => (reading.material, Some(why)),
    };
    let kind = "identity".to_owned();
    let Some(svid) = &material.svid else {
        let outcome = Err(failed.unwrap_or_else(|| "there is no SVID".to_owned()));
        return (material, Looked { kind, name: settings.trust_domain.to_string(), outcome });
    };
    let domains: Vec<&str> = material.bundles.iter().map(|bundle| bundle.trust_domain.as_str()).collect();
    let until = humantime::format_rfc3339_seconds(svid.not_after);
    let outcome = Ok(format!(", until {until}, with bundles of {}", domains.join(", ")));
    let name = svid.id.to_string();
    (material, Looked { kind, name, outcome })
}

async fn look(
    config: Arc<Config>,
    planned: Option<PlannedIdentity>,
) -> io::Result<(Option<Looked>, Vec<Looked>)> {
    let (identity, who) = match planned {
        Some(planned) => {
            let (material, who) = identify(planned).await;
            (Some(Arc::new(Identity::new(material))), Some(who))
        }
        None => (None, None),
    };
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
            Looked { kind: name.clone(), name: endpoint, outcome: outcome.map(|()| String::new()) }
        }
    });
    Ok((who, stream::iter(probes).buffered(CONCURRENT).collect().await))
}
