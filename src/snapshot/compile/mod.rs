//! From what was written to what will run: every name resolved, every pattern compiled, every mistake found. Touches
//! nothing: `tidegate check` is this function.

mod access_log;
mod acme;
mod admin;
mod affinity;
mod carrying;
mod collector;
mod control;
mod control_serve;
mod control_store;
mod identity;
mod listeners;
mod metrics;
mod otel;
mod passthrough;
mod paths;
mod placement;
mod plugins;
mod proven;
mod routes;
mod serving;
mod shared_storage;
mod sidecar;
mod tls;
mod tracing;
mod traffic;
mod tunnels;
mod upstream_tls;
mod upstreams;
mod warnings;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

pub use collector::{PlannedExport, PlannedExports};
pub use control_serve::PlannedControl;
pub use identity::PlannedIdentity;
pub(super) use placement::stand_ins;
pub(crate) use tls::{KeptTerminator, PlannedTls};
pub use traffic::PlannedRetry;

use ipnet::IpNet;

use self::serving::Serving;
use super::{Captured, Limits, OwnLines, Passthrough, Places, tracing::PlannedTracing, tunnels::Tunnels};
use crate::{
    acme::Settings as AcmeSettings,
    config::{self, Config, Loaded, MOST_PROBLEMS, PartKind, Path, Problem, Problems, Sources, suggest},
    filter::{self, Chain, ErrorPages},
    observe::metrics::Settings,
    route::Table,
    upkeep::Settings as UpkeepSettings,
};

/// What was received from a control plane, by kind and name, with the document that it stands in.
pub type Origins = HashMap<(PartKind, Arc<str>), Arc<str>>;

/// A compiled configuration that is not alive yet.
pub struct Plan {
    pub config: Arc<Config>,
    pub effective: config::Effective,
    pub hash: u64,
    pub listeners: Vec<PlannedListener>,
    pub routes: Vec<PlannedRoute>,
    pub identity: Option<PlannedIdentity>,
    pub(super) acme: AcmeSettings,
    pub(super) upkeep: UpkeepSettings,
    /// A template asks how clients begin TLS.
    pub(super) fingerprints: bool,
    pub control: Option<PlannedControl>,
    pub(super) metrics: Settings,
    pub(super) tracing: Option<PlannedTracing>,
    pub exports: PlannedExports,
    pub access: Option<Arc<OwnLines>>,
    pub error_pages: Option<Arc<ErrorPages>>,
    /// What of it stands beside the files.
    pub additions: config::Additions,
    pub received: Origins,
    /// Where in the files each object stands.
    pub places: Places,
    /// What the filters were built with.
    pub(super) filters: filter::Live,
    /// What works and should not be so.
    pub warnings: Vec<Problem>,
}

pub struct PlannedListener {
    pub key: String,
    pub name: Arc<str>,
    pub protocol: config::Protocol,
    /// Where it carries its connections, if they are not HTTP.
    pub upstream: Option<String>,
    pub address: String,
    /// Of a Unix socket's file.
    pub mode: u32,
    /// Whose PROXY headers are believed; `None` where there are none.
    pub introduced_by: Option<Arc<[IpNet]>>,
    pub passthrough: Option<Passthrough<String>>,
    pub limits: Limits,
    pub encoded_slashes: config::EncodedSlashes,
    pub half_close: bool,
    pub error_pages: Option<Arc<ErrorPages>>,
    pub tls: Option<PlannedTls>,
    pub chain: Chain,
    pub table: Arc<Table>,
    /// How connections that iptables has redirected here are served.
    pub original_destination: Option<Captured>,
    /// What it carries between sidecars.
    pub tunnels: Option<Tunnels<String>>,
}

pub struct PlannedRoute {
    pub name: Arc<str>,
    pub chain: Chain,
    pub error_pages: Option<Arc<ErrorPages>>,
    /// Of a split: the filters of each variant.
    pub variants: Vec<Chain>,
    pub retry: PlannedRetry,
}

/// Filters keep what they know in `live`; what only checks gives one that it throws away. What was written goes here: it is large where
/// there are thousands of routes, and what it means is in the plan.
///
/// # Errors
///
/// Everything that is wrong, in form and in meaning, in file order. What follows only from a problem with the form is
/// not told: fixing that fixes it.
pub fn compile(loaded: Loaded, live: &filter::Live) -> Result<Plan, Problems> {
    let additions = loaded.additions.clone();
    let (sources, written, of_form) = loaded.into_parts();
    let sidecar::Expanded { config, generated } = sidecar::expand(&written);
    let mut compiler = Compiler {
        config: &config,
        generated,
        sources: &sources,
        is_waiting: additions.received.is_none() && written.takes_config().is_some(),
        live,
        live_with_plugins: live.clone(),
        problems: Vec::new(),
        warnings: Vec::new(),
        chains: BTreeMap::new(),
        derived: HashMap::new(),
        route_names: RouteNames::default(),
        acme: acme::Wanted::default(),
        upkeep: UpkeepSettings::default(),
    };
    compiler.admin();
    compiler.refuse_zero(&Path::root().key("upgrade").key("timeout"), compiler.config.upgrade.timeout);
    let identity = compiler.identity();
    let control = compiler.control_serve();
    let metrics = compiler.metrics();
    let environment = |name: &str| std::env::var(name).ok();
    let mut variables = otel::Otel::new(&environment);
    let (tracing, traces) = compiler.tracing(&mut variables);
    let (logs, pushed) = (compiler.log_export(&mut variables), compiler.metric_export(&mut variables));
    let exports = PlannedExports { traces, logs, metrics: pushed };
    compiler.tell(variables);
    let access = compiler.access_log();
    compiler.sidecar(&written);
    compiler.upstreams();
    compiler.control();
    compiler.live_with_plugins = compiler.plugins();
    compiler.chains();
    let error_pages = compiler.error_pages(&compiler.config.error_pages, &Path::root());
    let (routes, rules) = compiler.routes();
    let listeners = compiler.listeners(&rules);
    let acme = compiler.acme();
    let upkeep = std::mem::take(&mut compiler.upkeep);
    compiler.plugins_without_filters();
    let serving = Serving::of(&config, &compiler.route_names);
    compiler.encoded_slashes_beside_guards(&serving);
    compiler.methods_beside_guards(&routes, &rules, &listeners);
    compiler.open_beside_guards(&routes, &listeners);
    compiler.unproven(&serving);
    compiler.hardly_meant(&routes, &rules, &listeners, &serving);
    let received = if additions.received.is_some() { compiler.origins(&routes) } else { Origins::default() };
    let places = compiler.places();
    let filters = compiler.live_with_plugins.clone();
    let (problems, mut warnings) = (compiler.problems, compiler.warnings);
    // What is said once for many, by an anchor or in the defaults, is told once.
    let mut known = HashSet::new();
    warnings.retain(|warning| known.insert(warning.to_string()));
    if !of_form.is_empty() || !problems.is_empty() {
        return Err(of_form.iter().cloned().chain(problems).collect());
    }
    let effective = sources.effective(&written);
    let expanded = match config {
        Cow::Owned(config) => Some(config),
        Cow::Borrowed(_) => None,
    };
    let config = with_full_paths(expanded.unwrap_or(written), &sources);
    Ok(Plan {
        effective,
        hash: sources.hash(),
        fingerprints: asks_for_fingerprints(&config),
        config: Arc::new(config),
        listeners,
        routes,
        identity,
        acme,
        upkeep,
        control,
        metrics,
        tracing,
        exports,
        access,
        error_pages,
        additions,
        received,
        places,
        filters,
        warnings,
    })
}

/// Relative paths are relative to the file they stand in.
fn with_full_paths(mut config: Config, sources: &Sources) -> Config {
    let at = Path::root().key("log").key("access").key("to");
    for file in config.log.access.to.files_mut() {
        *file = sources.full_path(&at, &*file);
    }
    for tls in config.log.access.to.syslogs_mut().filter_map(|syslog| syslog.tls.as_mut()) {
        let config::SyslogTls { ca, cert, key, name: _ } = tls;
        for file in [ca, cert, key].into_iter().flatten() {
            *file = sources.full_path(&at, &*file);
        }
    }
    if let config::Admin::On(config::AdminListener { tls: Some(tls), .. }) = &mut config.admin {
        *tls = tls::admin_with_full_paths(tls, sources);
    }
    for (name, upstream) in &mut config.upstreams {
        let at = Path::root().key("upstreams").key(name);
        *upstream = upstreams::with_full_paths(upstream, sources, &at);
    }
    if let Some(join) = config.control.as_mut().and_then(|control| control.join.as_mut()) {
        let at = Path::root().key("control").key("join");
        if let Some(ca) = join.tls.as_mut().and_then(|tls| tls.verify.ca.as_mut()) {
            *ca = sources.full_path(&at.key("tls").key("verify").key("ca"), &*ca);
        }
        for folder in &mut join.secrets {
            *folder = sources.full_path(&at.key("secrets"), &*folder);
        }
    }
    let serve = config.control.as_mut().and_then(|control| control.serve.as_mut());
    if let Some(config::Store::Etcd(etcd)) = serve.map(|serve| &mut serve.store) {
        let at = ["control", "serve", "store", "etcd", "tls"]
            .into_iter()
            .fold(Path::root(), |at, key| at.key(key));
        control_store::with_full_paths(etcd.tls.as_mut(), &at, |at, file| sources.full_path(at, file));
    }
    if let Some(directory) = &mut config.state_dir {
        *directory = sources.directory_of(&Path::root().key("state_dir")).join(&*directory);
    }
    if let Some(socket) = &mut config.upgrade.socket {
        *socket = sources.full_path(&Path::root().key("upgrade").key("socket"), &*socket);
    }
    config
}

struct Compiler<'a> {
    /// With all that it stands for.
    config: &'a Config,
    generated: sidecar::Generated,
    sources: &'a Sources,
    /// More is to come, from a control plane.
    is_waiting: bool,
    live: &'a filter::Live,
    /// The same with what `plugins` has.
    live_with_plugins: filter::Live,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// The named chains of the top-level `filters`.
    chains: BTreeMap<String, Chain>,
    /// How often each derived route name was given.
    derived: HashMap<String, usize>,
    route_names: RouteNames,
    /// What listeners want of CAs.
    acme: acme::Wanted,
    /// Files that come from elsewhere.
    upkeep: UpkeepSettings,
}

#[derive(Default)]
struct RouteNames {
    /// The index of the route of each name.
    ids: BTreeMap<Arc<str>, usize>,
    /// There may be others, in what could not be read.
    may_lack: bool,
}

/// Wherever a template may stand: one that only looks like it costs little.
fn asks_for_fingerprints(config: &Config) -> bool {
    serde_json::to_string(config).is_ok_and(|text| text.contains("tls.ja4"))
}

impl Compiler<'_> {
    fn refuse(&mut self, at: &Path, message: impl Into<String>) {
        let problem = self.sources.problem(at, message);
        self.problems.push(problem);
    }

    fn refuse_with_hint(&mut self, at: &Path, message: impl Into<String>, hint: impl Into<String>) {
        let problem = self.sources.problem_with_hint(at, message, hint);
        self.problems.push(problem);
    }

    /// Which of `candidates` was likely meant. Not asked once more is wrong than is shown: with ten thousand names that
    /// do not exist, each compared to ten thousand that do, nobody would wait for the answer.
    fn near<'a>(&self, name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        if self.problems.len() < MOST_PROBLEMS { suggest(name, candidates) } else { None }
    }

    /// Refuses what may be right, had all of it been readable.
    fn refuse_unless_doubtful(&mut self, at: &Path, message: impl Into<String>) {
        if !self.sources.is_doubtful(at) {
            self.refuse(at, message);
        }
    }

    fn refuse_zero(&mut self, at: &Path, timeout: config::HumanDuration) {
        if std::time::Duration::from(timeout).is_zero() {
            self.refuse(at, "a duration of 0 makes no sense here");
        }
    }

    fn warn(&mut self, name: &'static str, at: &Path, message: impl Into<String>, hint: impl Into<String>) {
        let problem = self.sources.problem_with_hint(at, message, hint);
        self.warnings.push(problem.named(name));
    }

    /// Which upstreams and routes a control plane has given.
    fn origins(&self, routes: &[PlannedRoute]) -> Origins {
        let origin = |at: &Path| {
            let place = self.sources.problem(at, "").location().map(|at| at.file.clone());
            place.filter(|file| file.starts_with(config::ReceivedConfig::ORIGIN))
        };
        let upstreams = self.config.upstreams.keys().filter_map(|name| {
            let origin = origin(&Path::root().key("upstreams").key(name))?;
            Some(((PartKind::Upstream, name.as_str().into()), origin))
        });
        let routes = routes.iter().enumerate().filter_map(|(index, route)| {
            let origin = origin(&self.generated.route_place(index))?;
            Some(((PartKind::Route, route.name.clone()), origin))
        });
        upstreams.chain(routes).collect()
    }

    fn places(&self) -> Places {
        let (mut places, root) = (Places::default(), Path::root());
        for index in 0..self.config.routes.len() {
            places.add_route(self.sources, &self.generated.route_place(index));
        }
        for (index, listener) in self.config.listeners.iter().enumerate() {
            let name = listener.name.as_deref().unwrap_or(&listener.address);
            places.add(self.sources, "listeners", name, &self.generated.listener_place(index));
        }
        for name in self.config.upstreams.keys() {
            let written = || root.key("upstreams").key(name);
            let at = self.generated.upstream_place(name).unwrap_or_else(written);
            places.add(self.sources, "upstreams", name, &at);
        }
        for name in self.config.filters.keys() {
            places.add(self.sources, "filters", name, &root.key("filters").key(name));
        }
        for name in self.config.plugins.keys() {
            places.add(self.sources, "plugins", name, &root.key("plugins").key(name));
        }
        places
    }

    fn chains(&mut self) {
        for (name, uses) in &self.config.filters {
            let at = Path::root().key("filters").key(name);
            let live = self.live_with_plugins.within(&format!("filters {name}"));
            let chain =
                filter::build_chain(uses, &at, &live, self.sources, &BTreeMap::new(), &mut self.problems);
            self.chains.insert(name.clone(), chain);
        }
        // They exist, whatever is wrong with them.
        for name in self.sources.left_out(&Path::root().key("filters")) {
            self.chains.entry(name.to_owned()).or_default();
        }
    }

    fn error_pages(&mut self, written: &config::ErrorPages, at: &Path) -> Option<Arc<ErrorPages>> {
        ErrorPages::build(written, &at.key("error_pages"), self.sources, &mut self.problems)
    }

    /// `owner` is what the filters belong to whatever stands before it in the file.
    fn chain(&mut self, uses: &[config::FilterUse], at: &Path, owner: &str) -> Chain {
        let live = self.live_with_plugins.within(owner);
        filter::build_chain(uses, at, &live, self.sources, &self.chains, &mut self.problems)
    }
}

#[cfg(test)]
mod tests;
