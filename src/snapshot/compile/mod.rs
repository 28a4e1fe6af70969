//! From what was written to what will run: every name resolved, every pattern compiled, every mistake found. Touches
//! nothing: `tidegate check` is this function.

mod listeners;
mod routes;
mod upstreams;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::Limits;
use crate::{
    config::{self, Config, Loaded, Path, Problem, Problems, Sources},
    filter::{self, Chain},
    route::Table,
};

/// A compiled configuration that is not alive yet.
pub struct Plan {
    pub config: Arc<Config>,
    pub effective: serde_json::Value,
    pub hash: u64,
    pub listeners: Vec<PlannedListener>,
    pub routes: Vec<PlannedRoute>,
}

pub struct PlannedListener {
    pub key: String,
    pub name: Arc<str>,
    pub address: String,
    pub limits: Limits,
    pub chain: Chain,
    pub table: Arc<Table>,
}

pub struct PlannedRoute {
    pub name: Arc<str>,
    pub chain: Chain,
    pub upstream: Option<String>,
}

/// # Errors
///
/// Everything that is wrong, in file order.
pub fn compile(loaded: &Loaded) -> Result<Plan, Problems> {
    let mut compiler = Compiler {
        config: &loaded.config,
        sources: &loaded.sources,
        problems: Vec::new(),
        chains: BTreeMap::new(),
        derived: HashMap::new(),
    };
    compiler.admin();
    compiler.upstreams();
    compiler.chains();
    let (routes, rules) = compiler.routes();
    let listeners = compiler.listeners(&routes, &rules);
    if !compiler.problems.is_empty() {
        return Err(compiler.problems.into());
    }
    Ok(Plan {
        effective: loaded.sources.effective(&loaded.config),
        hash: loaded.sources.hash(),
        config: Arc::new(with_full_paths(&loaded.config, &loaded.sources)),
        listeners,
        routes,
    })
}

/// Relative paths are relative to the file they stand in.
fn with_full_paths(config: &Config, sources: &Sources) -> Config {
    let mut config = config.clone();
    let access = &mut config.log.access.to;
    if !matches!(access.as_str(), "stdout" | "stderr" | "off") {
        let directory = sources.directory_of(&Path::root().key("log").key("access").key("to"));
        *access = directory.join(&*access).to_string_lossy().into_owned();
    }
    if let Some(socket) = &mut config.upgrade.socket {
        *socket = sources.directory_of(&Path::root().key("upgrade").key("socket")).join(&*socket);
    }
    config
}

struct Compiler<'a> {
    config: &'a Config,
    sources: &'a Sources,
    problems: Vec<Problem>,
    /// The named chains of the top-level `filters`.
    chains: BTreeMap<String, Chain>,
    /// How often each derived route name was given.
    derived: HashMap<String, usize>,
}

impl Compiler<'_> {
    fn refuse(&mut self, at: &Path, message: impl Into<String>) {
        let problem = self.sources.problem(at, message);
        self.problems.push(problem);
    }

    fn refuse_with_hint(&mut self, at: &Path, message: impl Into<String>, hint: impl Into<String>) {
        let problem = self.sources.problem(at, message).hint(hint);
        self.problems.push(problem);
    }

    fn refuse_zero(&mut self, at: &Path, timeout: config::HumanDuration) {
        if std::time::Duration::from(timeout).is_zero() {
            self.refuse(at, "a duration of 0 makes no sense here");
        }
    }

    fn chains(&mut self) {
        for (name, uses) in &self.config.filters {
            let at = Path::root().key("filters").key(name);
            let chain = filter::build_chain(uses, &at, self.sources, &BTreeMap::new(), &mut self.problems);
            self.chains.insert(name.clone(), chain);
        }
    }

    fn chain(&mut self, uses: &[config::FilterUse], at: &Path) -> Chain {
        filter::build_chain(uses, at, self.sources, &self.chains, &mut self.problems)
    }
}
