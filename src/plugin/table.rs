//! The plugins of a configuration, by name, and what is kept of them from one to the next.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use openssl::sha::sha256;

use super::{
    Outbound, Plugin, Report, Root, cache::Cache, exposed::Exposed, lines::Early, module::Module,
    outbound::Way, payload, runtime::Runtime, settings::Settings, shared::Rooms,
};
use crate::{
    config::{self, PluginPhase},
    observe::metrics::Metrics,
};

/// What is alive of plugins in this process. What a reload leaves as it is goes on.
pub(crate) struct Host {
    runtime: Mutex<Weak<Runtime>>,
    /// By hash, so that nothing is compiled twice.
    modules: Mutex<HashMap<[u8; 32], Weak<Module>>>,
    plugins: Arc<Mutex<Vec<Weak<Plugin>>>>,
    rooms: Arc<Rooms>,
    way: Arc<Way>,
    early: Arc<Early>,
    exposes: Once,
}

impl Default for Host {
    fn default() -> Host {
        Host {
            runtime: Mutex::default(),
            modules: Mutex::default(),
            plugins: Arc::default(),
            rooms: Arc::default(),
            way: Arc::default(),
            early: Arc::default(),
            exposes: Once::new(),
        }
    }
}

/// The plugins that filters of one configuration may name.
#[derive(Default)]
pub(crate) struct Table(BTreeMap<String, Option<Entry>>);

pub(crate) struct Entry {
    plugin: Arc<Plugin>,
    config: Arc<[u8]>,
    file: PathBuf,
    /// Nothing of it is to live on.
    is_trial: bool,
    is_used: AtomicBool,
    /// What filters run with, and what runs although no filter names it.
    roots: Mutex<Vec<Arc<Root>>>,
}

/// Where a plugin is to be found, and what is done with it.
pub(crate) struct Sought<'a> {
    pub file: PathBuf,
    /// What is compiled is kept below it.
    pub state_dir: Option<&'a Path>,
    /// As many instances, where nothing is said.
    pub threads: usize,
    pub is_trial: bool,
}

/// What is wrong, and under which key.
pub(crate) struct Refused {
    pub key: &'static str,
    pub message: String,
    pub hint: Option<String>,
}

impl Refused {
    fn new(key: &'static str, message: impl Into<String>) -> Refused {
        Refused { key, message: message.into(), hint: None }
    }
}

impl Host {
    /// Read the file, compile it unless that is done, and find the plugin with these settings or make one.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, or with what is said of it.
    pub(crate) fn load(
        &self,
        name: &str,
        written: &config::Plugin,
        sought: Sought<'_>,
        metrics: &Metrics,
    ) -> Result<Entry, Refused> {
        let Sought { file, state_dir, threads, is_trial } = sought;
        let bytes = fs::read(&file).map_err(|error| {
            Refused::new("file", format!("cannot read the plugin {}: {error}", file.display()))
        })?;
        let hash = sha256(&bytes);
        check_pin(written.sha256.as_deref(), &hash)?;
        let cache = state_dir.filter(|_| !is_trial).map(|state| Cache::within(state, name, &self.early));
        let module = self
            .module(hash, &bytes, cache.as_ref())
            .map_err(|why| Refused::new("file", format!("{} cannot be a plugin: {why}", file.display())))?;
        check_phases(written, &module)?;
        let settings = Settings::new(name, written, hash, threads);
        let plugin = self.plugin(settings, module, metrics);
        let config = payload(&written.config);
        let (is_used, roots) = (AtomicBool::new(false), Mutex::default());
        Ok(Entry { plugin, config, file, is_trial, is_used, roots })
    }

    /// A configuration is in force: there is a log.
    pub(crate) fn start(&self) {
        self.early.tell();
    }

    /// A configuration with these plugins is in force: what others there are ends with its requests.
    pub(crate) fn keep(&self, table: &Table) {
        let plugins: Vec<Arc<Plugin>> = lock(&self.plugins).iter().filter_map(Weak::upgrade).collect();
        for plugin in plugins {
            let entries = table.entries().map(|(_, entry)| entry);
            let roots: Vec<_> = entries
                .filter(|entry| Arc::ptr_eq(&entry.plugin, &plugin))
                .flat_map(|entry| lock(&entry.roots).clone())
                .collect();
            plugin.set_draining(roots.is_empty());
            plugin.keep_roots(&roots);
        }
    }

    /// How the plugins of a configuration fare, with their files.
    pub(crate) fn reports(&self, table: &Table) -> Vec<(String, PathBuf, Report)> {
        let plugins: Vec<Arc<Plugin>> = lock(&self.plugins).iter().filter_map(Weak::upgrade).collect();
        let report = |(name, entry): (&str, &Entry)| {
            let mut report = entry.plugin.report();
            let of_before =
                plugins.iter().filter(|plugin| plugin.is_draining() && &*plugin.settings().name == name);
            report.draining = of_before.map(|plugin| plugin.report().ready).sum();
            (name.to_owned(), entry.file.clone(), report)
        };
        table.entries().map(report).collect()
    }

    /// From now on plugins may call upstreams.
    pub(crate) fn open(&self, outbound: Arc<dyn Outbound>) {
        self.way.open(outbound);
    }

    fn module(&self, hash: [u8; 32], bytes: &[u8], cache: Option<&Cache>) -> Result<Arc<Module>, String> {
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(&hash).and_then(Weak::upgrade) {
            return Ok(module);
        }
        let runtime = Runtime::share(&self.runtime)?;
        let module = Arc::new(Module::new(&runtime, bytes, cache)?);
        modules.retain(|_, module| module.strong_count() > 0);
        modules.insert(hash, Arc::downgrade(&module));
        Ok(module)
    }

    fn plugin(&self, settings: Settings, module: Arc<Module>, metrics: &Metrics) -> Arc<Plugin> {
        let mut plugins = lock(&self.plugins);
        plugins.retain(|plugin| plugin.strong_count() > 0);
        let known = plugins.iter().filter_map(Weak::upgrade).find(|plugin| *plugin.settings() == settings);
        known.unwrap_or_else(|| {
            self.exposes.call_once(|| {
                if let Ok(exposed) = Exposed::new(self.plugins.clone()) {
                    // It is the first and only.
                    let _ = metrics.registry().register(Box::new(exposed));
                }
            });
            let metrics = metrics.plugin(&settings.name);
            let plugin = Plugin::new(settings, module, metrics, &self.rooms, &self.way, &self.early);
            plugins.push(Arc::downgrade(&plugin));
            plugin
        })
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_pin(pin: Option<&str>, hash: &[u8; 32]) -> Result<(), Refused> {
    let Some(pin) = pin else { return Ok(()) };
    let is = digits(hash);
    if pin.len() != 64 || !pin.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let refused =
            Refused::new("sha256", format!("\"{pin}\" is no SHA-256: that has 64 hexadecimal digits"));
        return Err(Refused { hint: Some(format!("the file's is {is}")), ..refused });
    }
    match pin.eq_ignore_ascii_case(&is) {
        true => Ok(()),
        false => {
            let refused = Refused::new("sha256", format!("the file is another one: its SHA-256 is {is}"));
            Err(Refused {
                hint: Some("look at what has changed it before you change this".into()),
                ..refused
            })
        }
    }
}

/// A hash as it is written.
pub(crate) fn digits(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check_phases(written: &config::Plugin, module: &Module) -> Result<(), Refused> {
    for phase in written.phases.iter().flatten() {
        let (word, callback) = named(*phase);
        if !module.exports(callback) {
            let message = format!("the plugin has nothing for `{word}`: it does not export `{callback}`");
            let has: Vec<&str> = module.callbacks().collect();
            let hint = Some(format!("it exports {}", has.join(", ")));
            return Err(Refused { hint, ..Refused::new("phases", message) });
        }
    }
    Ok(())
}

/// How a phase is written, and its callback.
pub(crate) fn named(phase: PluginPhase) -> (&'static str, &'static str) {
    match phase {
        PluginPhase::RequestHeaders => ("request_headers", "proxy_on_request_headers"),
        PluginPhase::RequestBody => ("request_body", "proxy_on_request_body"),
        PluginPhase::RequestTrailers => ("request_trailers", "proxy_on_request_trailers"),
        PluginPhase::ResponseHeaders => ("response_headers", "proxy_on_response_headers"),
        PluginPhase::ResponseBody => ("response_body", "proxy_on_response_body"),
        PluginPhase::ResponseTrailers => ("response_trailers", "proxy_on_response_trailers"),
        PluginPhase::Log => ("log", "proxy_on_log"),
    }
}

impl Table {
    /// `None` where only the name is known, as nothing is to be run.
    pub(crate) fn add(&mut self, name: &str, entry: Option<Entry>) {
        self.0.insert(name.to_owned(), entry);
    }

    pub(crate) fn find(&self, name: &str) -> Option<Option<&Entry>> {
        self.0.get(name).map(Option::as_ref)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().filter_map(|(name, entry)| Some((name.as_str(), entry.as_ref()?)))
    }

    /// Whether a file is another one than it was.
    pub(crate) fn has_changed(&self) -> bool {
        self.entries().any(|(_, entry)| entry.has_changed())
    }
}

impl Entry {
    /// What a filter that names it runs with; nothing where it was only tried out. `config` in the place of the
    /// plugin's own.
    ///
    /// # Errors
    ///
    /// The plugin does not start, or does not take its configuration.
    pub(crate) fn open(&self, config: Option<Arc<[u8]>>) -> Result<Option<Arc<Root>>, String> {
        self.is_used.store(true, Relaxed);
        let config = config.unwrap_or_else(|| self.config.clone());
        match self.is_trial {
            true => self.plugin.try_out(&config).map(|()| None),
            false => {
                let root = self.plugin.root(config)?;
                lock(&self.roots).push(root.clone());
                Ok(Some(root))
            }
        }
    }

    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Relaxed)
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    fn has_changed(&self) -> bool {
        // One that cannot be read has changed, too: the reload says so.
        fs::read(&self.file).map_or(true, |bytes| sha256(&bytes) != self.plugin.settings().sha256)
    }
}
