//! The composition root: configuration to snapshot to running services. Nothing else builds long-lived objects, and
//! what is built here is handed down and dropped in order.

mod access_log;
mod allocator;
mod background_thread;
mod beside;
mod canaries;
mod exporter;
mod launch;
mod lifecycle;
mod limits;
mod meeting;
mod membership;
mod memory;
mod notify;
mod observer;
mod parts;
mod pid_file;
#[cfg(feature = "wasm")]
mod plugin_calls;
mod process;
mod received;
mod reload;
mod signals;
mod successor;
mod threads;
mod upgrade;
mod watch;
mod watchdog;

use std::{
    fmt, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};

pub(crate) use launch::Launch;
pub(crate) use limits::warning as descriptor_warning;
pub(crate) use pid_file::read as read_pid_file;
pub(crate) use reload::Reloader;

use self::{
    allocator::{Allocator, collect},
    beside::Beginning,
    canaries::Canaries,
    exporter::Exporting,
    membership::Membership,
    notify::Notify,
    parts::Kept,
    pid_file::PidFile,
    received::Start,
    signals::{Signals, reap_orphans},
    threads::Threads,
};
use crate::{
    accept::{self, Activated, BindError, HandoverError, Inherited, Listeners, Workers},
    acme,
    admin::{self, Phase, journal::Journal},
    api,
    config::{self, Additions, Config, Loaded, Problems},
    control::{self, Plane, Reach, join::HeldConfig},
    filter::{self, Registry},
    forward::Client,
    names::{Resolve, SystemResolver},
    observe::{
        Format, Recorder,
        log::{self as log_output, Logger, event},
        log_writer::{LineSink, Target},
        metrics::Metrics,
    },
    proxy::Gateway,
    resources::{Descriptors, Resources},
    snapshot::{Current, Live, Snapshot},
    tunnel::Tcp,
    upkeep::Upkeep,
    upstream,
};

/// The version this binary was built as.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    File(PathBuf),
    /// Made from the command line.
    Text(String),
}

impl Source {
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub(crate) fn load(&self) -> Result<Loaded, Problems> {
        self.load_beside(&Additions::default())
    }

    /// The same, with `additions` beside it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    fn load_beside(&self, additions: &Additions) -> Result<Loaded, Problems> {
        match self {
            Source::File(path) => config::load_beside(path, additions),
            Source::Text(text) => config::parse_beside(text, "command line", additions),
        }
    }
}

/// Why the gateway ended, each with its exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    Config(Problems),
    Bind(BindError),
    Handover(HandoverError),
    /// The gateway that runs serves on; why.
    Upgrade(String),
    Runtime(io::Error),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Runtime(_) => 1,
            Failure::Config(_) => 3,
            Failure::Bind(_) => 4,
            Failure::Handover(_) | Failure::Upgrade(_) => 5,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Config(problems) => problems.fmt(f),
            Failure::Bind(error) => error.fmt(f),
            Failure::Handover(error) => error.fmt(f),
            Failure::Upgrade(why) => write!(f, "the upgrade failed: {why}; the gateway serves on"),
            Failure::Runtime(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Runtime(error)
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Failure {
        Failure::Config(problems)
    }
}

/// What the process is, beside its configuration.
#[derive(Default)]
pub(crate) struct Terms {
    /// It takes over from the gateway that runs.
    pub upgrade: bool,
    /// It may be upgraded in place, by starting it like this.
    pub launch: Option<Launch>,
    /// Says which process it is.
    pub pid_file: Option<PathBuf>,
    /// Where the secrets of TLS sessions are written.
    pub keylog: Option<PathBuf>,
}

/// Run the gateway until it is told to stop. `registry` has the filters that configurations may name.
///
/// # Errors
///
/// It could not start, or the runtime failed.
pub(crate) fn run(source: Source, terms: Terms, registry: &Arc<Registry>) -> Result<(), Failure> {
    // Before anything is opened.
    let activated = Activated::from_environment()?;
    background_thread::try_to_give_way();
    let descriptors = Descriptors::raised();
    let mut threads = Threads::start()?;
    let lived = live(source, terms, registry, activated, descriptors, &mut threads);
    // Whatever still runs was given its grace; waiting longer would break the promise of the exit.
    threads.stop();
    if let Ok(Some(recorder)) = &lived {
        recorder.flush(FLUSH);
    }
    log::logger().flush();
    lived.map(drop)
}

/// From the first signal that is heard to the end; `None` where it was told to end before it served.
fn live(
    source: Source,
    terms: Terms,
    registry: &Arc<Registry>,
    mut activated: Activated,
    descriptors: Descriptors,
    threads: &mut Threads,
) -> Result<Option<Arc<Recorder>>, Failure> {
    let Terms { upgrade, launch, pid_file, keylog } = terms;
    let mut signals = threads.within(Signals::new)?;
    threads.first().spawn(reap_orphans());
    let metrics = Arc::new(Metrics::new(VERSION));
    // Also what a configuration that cannot be read says must be sayable.
    let begins = if upgrade { Begins::AsSuccessor } else { Begins::Anew };
    let mut compiled = Compiled::read(&source, registry, &metrics, begins)?;
    let lookup = access_log::lookup(compiled.names.clone(), threads.first().clone());
    // Messages and access lines share one writer: two would tear each other's lines apart.
    let stdout = Arc::new(LineSink::open(
        &Target::Stdout,
        compiled.beginning.plan.config.log.access.buffer.bytes() as usize,
        metrics.lines(),
        &lookup,
    )?);
    let logger = start_logging(&compiled.beginning.plan.config, stdout.clone())?;
    let notify = Notify::from_environment();
    let mut inherited = Inherited::default();
    if upgrade {
        let config = &compiled.beginning.plan.config;
        let waited = threads.run(successor::wait(&source, registry, config, &metrics, &mut signals))?;
        let Some(found) = waited else { return Ok(None) };
        (inherited, compiled) = found;
        logger.configure(
            level(&compiled.beginning.plan.config),
            format(compiled.beginning.plan.config.log.format),
        );
    }
    activated.inherit(&mut inherited);
    reload::warn(&compiled.beginning.plan);
    if let Some(file) = keylog {
        log::warn!("the secrets of all TLS sessions with clients are written to {}", file.display());
    }
    let too_many = limits::warning(&compiled.beginning.plan.config, descriptors);
    let few = limits::few(descriptors);
    few.iter().chain(&too_many).for_each(|warning| log::warn!("{warning}"));
    let resources = Arc::new(Resources::new(descriptors));
    threads.grow(
        compiled.beginning.plan.config.threads.map_or_else(available_threads, |threads| threads.get()),
    )?;
    let recorder = Arc::new(Recorder::new(metrics, stdout, lookup));
    let threads = &*threads;
    let around = Around { notify, launch, pid_file: pid_file.map(PidFile::at), activated };
    threads.run(async {
        let running = tokio::select! {
            running = Running::start(source, compiled, inherited, around, logger, recorder.clone(), threads, resources) => running?,
            why = signals.end() => {
                event!(Info, "stopped", why = why);
                return Ok(None);
            }
        };
        watchdog::watch(&running.notify, threads);
        running.serve(signals).await;
        Ok(Some(recorder))
    })
}

/// The last log lines may take this long to be written at exit.
const FLUSH: Duration = Duration::from_secs(2);
/// New upstreams are looked at this long before they are sent requests.
const SETTLE: Duration = Duration::from_secs(1);

/// Idle connections that may be kept of each version of HTTP, for all upstreams together; each has its own limit within it. No more
/// than half of the descriptors: clients need some, too.
fn pool_size(resources: &Resources) -> usize {
    const POOL: usize = 65_536;
    let half = usize::try_from(resources.descriptors.connections() / 2).unwrap_or(POOL);
    half.clamp(1, POOL)
}

fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

fn start_logging(config: &Config, sink: Arc<LineSink>) -> Result<&'static Logger, Failure> {
    let rust_log = std::env::var("RUST_LOG").ok();
    let settings =
        log_output::Settings { level: level(config), format: format(config.log.format), rust_log, sink };
    let logger = log_output::init(settings).map_err(io::Error::other)?;
    log_output::install_panic_hook();
    Ok(logger)
}

fn level(config: &Config) -> log::LevelFilter {
    match config.log.level {
        config::LogLevel::Off => log::LevelFilter::Off,
        config::LogLevel::Error => log::LevelFilter::Error,
        config::LogLevel::Warn => log::LevelFilter::Warn,
        config::LogLevel::Info => log::LevelFilter::Info,
        config::LogLevel::Debug => log::LevelFilter::Debug,
        config::LogLevel::Trace => log::LevelFilter::Trace,
    }
}

/// Text for people at a terminal, JSON for everything else.
fn format(format: Option<config::LogFormat>) -> Format {
    match format {
        Some(config::LogFormat::Json) => Format::Json,
        Some(config::LogFormat::Text) => Format::Text,
        None if io::IsTerminal::is_terminal(&io::stdout()) => Format::Text,
        None => Format::Json,
    }
}

/// Everything that lives as long as the process.
struct Running {
    reloader: Arc<Reloader>,
    listeners: Arc<Listeners>,
    recorder: Arc<Recorder>,
    current: Current,
    phase: Arc<Phase>,
    journal: Arc<Journal>,
    admin: Option<api::Socket>,
    control: Option<Controlling>,
    commands: mpsc::Receiver<admin::Command>,
    canaries: Arc<Canaries>,
    judging: JoinHandle<()>,
    exporting: Arc<Exporting>,
    membership: Membership,
    /// Where the configuration of a control plane is held.
    held: Option<Arc<HeldConfig>>,
    notify: Notify,
    launch: Option<Launch>,
    pid_file: Option<PidFile>,
}

/// What surrounds the process, and what it has of it.
struct Around {
    notify: Notify,
    launch: Option<Launch>,
    pid_file: Option<PidFile>,
    activated: Activated,
}

/// The control plane that is served here.
struct Controlling {
    plane: Plane,
    socket: api::Socket,
}

/// What the gateway starts with: a plan, and what its filters keep.
struct Compiled {
    beginning: Beginning,
    filters: filter::Live,
    names: Arc<dyn Resolve>,
    begins: Begins,
}

/// Whether anybody serves meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    Anew,
    /// Another gateway does, and goes on to if this one does not come about.
    AsSuccessor,
}

impl Compiled {
    fn read(
        source: &Source,
        registry: &Arc<Registry>,
        metrics: &Arc<Metrics>,
        begins: Begins,
    ) -> Result<Compiled, Problems> {
        let loaded = source.load()?;
        // One for all that has a name in it.
        let names: Arc<dyn Resolve> = Arc::new(SystemResolver::new());
        let filters = filter::Live::new(registry.clone(), metrics.clone(), names.clone());
        let beginning = beside::compile_beside(source, loaded, &filters, begins)?;
        // What is built on it takes the place of what was written.
        collect(true);
        Ok(Compiled { beginning, filters, names, begins })
    }
}

impl Running {
    #[expect(clippy::too_many_arguments, reason = "all that a gateway is made of")]
    async fn start(
        source: Source,
        compiled: Compiled,
        mut inherited: Inherited,
        around: Around,
        logger: &'static Logger,
        recorder: Arc<Recorder>,
        threads: &Threads,
        resources: Arc<Resources>,
    ) -> Result<Running, Failure> {
        let workers = Workers::new(threads.first().clone(), threads.others());
        let allocator = Allocator::new(threads.others().chain([threads.first().clone()]));
        let Compiled { beginning, filters, names, begins } = compiled;
        let Beginning { files, plan, parts, held } = beginning;
        let records = plan.exports.logs.is_some();
        let access = access_log::settings(&plan.config, plan.access.as_deref(), records);
        recorder
            .set_access(&access)
            .map_err(|error| Failure::Config(reload::unopened(&plan.config, &error).into()))?;
        if plan.config.listeners.is_empty() {
            allocator::use_small_pages();
        }
        let began = Instant::now();
        let journal = Arc::new(Journal::default());
        logger.watched_by(journal.events.clone());
        let observer = Arc::new(observer::Observed::new(recorder.metrics.clone(), journal.clone()));
        let plane =
            plan.config.serves_control().map(|serve| Plane::open(serve, &plan.config, &recorder.metrics));
        let shown_plane = plane.as_ref().map(Plane::shown);
        let mut membership = Membership::new(&plan.config, plane.as_ref(), &recorder.metrics);
        let upstreams = upstream::Live::new(Handle::current(), names.clone(), observer);
        let upstreams = membership.found_by(upstreams);
        let live = Live {
            issuer: membership.issuer(&upstreams, names.clone()),
            upstreams,
            filters,
            metrics: recorder.metrics.clone(),
            runtime: Handle::current(),
            acme: acme::Keeper::new(names.clone(), recorder.metrics.clone(), Handle::current()),
            upkeep: Upkeep::new(names.clone(), recorder.metrics.clone(), Handle::current()),
        };
        let first =
            Snapshot::build(plan, &live, None).map_err(|problems| Failure::Config(problems.into()))?;
        live.filters.start();
        let config = first.config.clone();
        let current = Current::new(first);
        let exporting = Arc::new(Exporting::new(recorder.clone(), current.clone(), names.clone()));
        let prepared = exporting.prepare(&current.pin().exports).map_err(io::Error::other)?;
        exporting.put_in_force(prepared);
        let client = Client::new(pool_size(&resources), workers.count(), resources.clone());
        #[cfg(feature = "wasm")]
        live.filters.plugin_host().open(Arc::new(plugin_calls::Calls {
            current: current.clone(),
            client: client.clone(),
            metrics: recorder.metrics.clone(),
            runtime: Handle::current(),
        }));
        let limits = limits::Limits { resources: resources.clone(), encoders: live.filters.clone() };
        limits.set(&config);
        recorder.metrics.resources().descriptors(resources.descriptors.most());
        let metrics = recorder.metrics.resources().clone();
        memory::watch(&resources, metrics, allocator.clone(), Handle::current())?;
        let gateway = Arc::new(Gateway {
            current: current.clone(),
            recorder: recorder.clone(),
            client,
            resources: resources.clone(),
        });
        let carrier = Arc::new(Tcp::new(recorder.clone(), resources.clone()));
        let Around { notify, launch, pid_file, activated } = around;
        let listeners = Arc::new(Listeners::new(
            gateway,
            carrier,
            recorder.clone(),
            workers,
            resources.clone(),
            activated,
        ));
        let phase = Arc::new(Phase::default());
        let (sender, commands) = mpsc::channel(8);
        let bound = match config.takes_config() {
            // It may be another one.
            Some(_) => None,
            None => Some(listeners.bind(&current.pin(), &mut inherited).map_err(Failure::Bind)?),
        };
        let (mut admin, mut admin_of_predecessor) = (None, None);
        if let config::Admin::On(on) = &config.admin {
            let process = Arc::new(process::Process {
                current: current.clone(),
                registry: live.filters.registry().clone(),
                resources: resources.clone(),
                plane: shown_plane,
            });
            let state = admin::State::new(&current, &recorder, &phase, sender, &journal, process, on);
            match inherited.take(admin::KEY) {
                // The predecessor answers until this process serves: probes see one that is ready all along.
                Some(socket) => admin_of_predecessor = Some(admin::prepare(socket.into(), on, state)?),
                None => {
                    let socket = accept::bind(&on.address)
                        .map_err(|error| Failure::Bind(error.of("the admin API", "admin.address")))?;
                    admin = Some(admin::prepare(socket, on, state)?.serve());
                }
            }
        }
        let control = match (plane, config.serves_control()) {
            (Some(plane), Some(serve)) => {
                let inherited = inherited.take(control::KEY);
                let was_inherited = inherited.is_some();
                let socket = match inherited {
                    Some(socket) => socket.into(),
                    None => accept::bind(&serve.address).map_err(|error| {
                        Failure::Bind(error.of("the control plane", "control.serve.address"))
                    })?,
                };
                Some((plane.prepare(socket, &current)?, plane, was_inherited))
            }
            _ => None,
        };
        if let Some((_, plane, _)) = &control {
            plane.connect(|| Reach {
                current: current.clone(),
                live: live.upstreams.clone(),
                names: names.clone(),
            });
        }
        let until = membership.follow(&current, &live.upstreams, names.clone());
        // A successor goes on with what its predecessor has, and takes what is new when it serves.
        let goes_on = begins == Begins::AsSuccessor && current.pin().additions.received.is_some();
        if !goes_on {
            membership.receive(&current, &live.upstreams, names.clone(), &recorder.metrics);
        }
        let (bound, given) = match bound {
            Some(bound) => (bound, None),
            None => {
                let (source, current, live) = (&source, &current, &live);
                let start = Start { source, current, live, begins, held: &held, recorder: &recorder };
                start.bind(membership.configurations(), until, &listeners, &mut inherited).await?
            }
        };
        membership.settle(until).await;
        let snapshot = current.pin();
        parts.order(&snapshot);
        reload::settle(&snapshot, SETTLE).await;
        // What it took to read the configuration is more than what it means.
        allocator.give_back().await;
        // Nothing fails from here on, and nothing waits: a predecessor has stopped to serve.
        inherited.take_over(config.upgrade.timeout.into()).await.map_err(Failure::Handover)?;
        // What it has written down last.
        canaries::restore(&snapshot, Instant::now());
        listeners.apply(&snapshot, bound);
        if goes_on {
            membership.receive(&current, &live.upstreams, names, &recorder.metrics);
        }
        if let Some(prepared) = admin_of_predecessor {
            if received::has_something_to_serve(&snapshot) {
                phase.set_ready();
            }
            admin = Some(prepared.serve());
        }
        let control = control.map(|(prepared, plane, was_inherited)| {
            if was_inherited {
                plane.catch_up();
            }
            plane.start();
            Controlling { socket: prepared.serve(), plane }
        });
        recorder.metrics.reload_succeeded(std::time::SystemTime::now());
        let kept = Kept::new(parts);
        parts::count(&snapshot, &recorder.metrics);
        let files = given.as_ref().map_or(files, |given| given.files.clone());
        let reloader = Reloader::new(
            source,
            files,
            current.clone(),
            live,
            listeners.clone(),
            recorder.clone(),
            logger,
            allocator.clone(),
            exporting.clone(),
            limits,
            kept,
            journal.clone(),
        );
        journal.started(&current.pin(), began.elapsed());
        let canaries = Arc::new(Canaries::new(current.clone(), recorder.metrics.clone(), journal.clone()));
        let held = held.file.map(Arc::new);
        if let Some(given) = given {
            given.finish(held.as_ref(), &recorder).await;
        }
        let judging = tokio::spawn(canaries.clone().run());
        if notify.is_asked_for() {
            inherited.is_announced().await;
        }
        Ok(Running {
            reloader: Arc::new(reloader),
            listeners,
            recorder,
            current,
            phase,
            journal,
            admin,
            control,
            commands,
            canaries,
            judging,
            exporting,
            membership,
            held,
            notify,
            launch,
            pid_file,
        })
    }
}
