//! From what was written to what will run: every name resolved, every pattern compiled, every mistake found. Touches
//! nothing: `tidegate check` is this function.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use http::Method;

use super::Limits;
use crate::{
    config::{self, Config, Loaded, Path, Problem, Problems, Sources, suggest},
    filter::{self, Chain, Options},
    route::{
        HeaderPredicate, HostPattern, PathPattern, PatternError, QueryPredicate, Rule, Table, ValuePredicate,
    },
    upstream::{self, SystemResolver, Upstream},
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

/// Filters keep what they know in `live`; what only checks gives one that it throws away.
///
/// # Errors
///
/// Everything that is wrong, in file order.
pub fn compile(loaded: &Loaded, live: &filter::Live) -> Result<Plan, Problems> {
    let mut compiler = Compiler {
        config: &loaded.config,
        sources: &loaded.sources,
        live,
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
    live: &'a filter::Live,
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

    fn keep<T>(&mut self, at: &Path, parsed: Result<T, PatternError>) -> Option<T> {
        parsed.map_err(|error| self.refuse(at, error.to_string())).ok()
    }

    fn admin(&mut self) {
        let config::Admin::On(admin) = &self.config.admin else { return };
        let at = Path::root().key("admin");
        match listen_address(&admin.address) {
            Err(message) => self.refuse(&at.key("address"), message),
            Ok(address) if !address.ip().is_loopback() && admin.token.is_none() => self.refuse_with_hint(
                &at.key("address"),
                format!(
                    "{} is not a loopback address, and anyone who reaches it could drain this gateway",
                    admin.address
                ),
                "set `admin.token`, or listen on 127.0.0.1",
            ),
            Ok(_) => {}
        }
        if admin.token.as_ref().is_some_and(|token| token.expose().is_empty()) {
            self.refuse(&at.key("token"), "the token is empty");
        }
    }

    fn upstreams(&mut self) {
        // Builds each upstream without its background tasks: what cannot work is refused by the code that runs it.
        let offline = upstream::Live::offline(Arc::new(SystemResolver::new()), Arc::new(()));
        for (name, upstream) in &self.config.upstreams {
            let at = Path::root().key("upstreams").key(name);
            if upstream.endpoints.is_empty() {
                self.refuse_with_hint(&at, "no endpoints", "add `endpoints: [127.0.0.1:3000]`");
            }
            if let Err(refusals) = Upstream::new(name, upstream, &offline, None) {
                for refusal in refusals {
                    self.refuse(&below(&at, &refusal.path), refusal.why);
                }
            }
            for (key, timeout) in [
                ("connect_timeout", upstream.connect_timeout),
                ("read_timeout", upstream.read_timeout),
                ("write_timeout", upstream.write_timeout),
            ] {
                self.refuse_zero(&at.key(key), timeout);
            }
            if let Some(check) = &upstream.health_check {
                self.refuse_zero(&at.key("health_check").key("interval"), check.interval);
                self.refuse_zero(&at.key("health_check").key("timeout"), check.timeout);
            }
        }
    }

    fn refuse_zero(&mut self, at: &Path, timeout: config::HumanDuration) {
        if std::time::Duration::from(timeout).is_zero() {
            self.refuse(at, "a duration of 0 makes no sense here");
        }
    }

    fn chains(&mut self) {
        for (name, uses) in &self.config.filters {
            let at = Path::root().key("filters").key(name);
            let live = self.live.within(&format!("filters {name}"));
            let chain =
                filter::build_chain(uses, &at, &live, self.sources, &BTreeMap::new(), &mut self.problems);
            self.chains.insert(name.clone(), chain);
        }
    }

    /// `owner` is what the filters belong to whatever stands before it in the file.
    fn chain(&mut self, uses: &[config::FilterUse], at: &Path, owner: &str) -> Chain {
        let live = self.live.within(owner);
        filter::build_chain(uses, at, &live, self.sources, &self.chains, &mut self.problems)
    }

    fn routes(&mut self) -> (Vec<PlannedRoute>, Vec<Rule>) {
        let mut planned = Vec::new();
        let mut rules = Vec::new();
        let mut names: HashMap<Arc<str>, usize> = HashMap::new();
        for (index, route) in self.config.routes.iter().enumerate() {
            let at = Path::root().key("routes").index(index);
            let name = self.route_name(route, &at, &names);
            names.entry(name.clone()).or_insert(index);
            let mut chain = self.chain(&route.filters, &at.key("filters"), &format!("routes {name}"));
            self.target(route, &at, &mut chain);
            planned.push(PlannedRoute { name, chain, upstream: route.upstream.clone() });
            rules.extend(self.rule(index, &route.matching, &at.key("match")));
        }
        if self.config.routes.is_empty() {
            self.refuse_with_hint(
                &Path::root(),
                "no routes, so every request would be answered with 404",
                "add `routes: [{upstream: NAME}]`",
            );
        }
        (planned, rules)
    }

    fn route_name(&mut self, route: &config::Route, at: &Path, names: &HashMap<Arc<str>, usize>) -> Arc<str> {
        let Some(name) = &route.name else {
            let derived = derived_name(&route.matching);
            // Goes on counting where the last of the same name stopped, so that thousands of them cost no search.
            let number = self.derived.entry(derived.clone()).or_insert(0);
            loop {
                *number += 1;
                let name = if *number == 1 { derived.clone() } else { format!("{derived}#{number}") };
                if !names.contains_key(name.as_str()) {
                    return name.into();
                }
            }
        };
        if let Some(first) = names.get(name.as_str()) {
            let first = self.sources.problem(&Path::root().key("routes").index(*first), "");
            let first = first.location().map(ToString::to_string).unwrap_or_default();
            self.refuse_with_hint(
                &at.key("name"),
                format!("a route named `{name}` exists already"),
                format!("the first is at {first}; names are unique"),
            );
        }
        name.as_str().into()
    }

    /// Exactly one of the things a route can do with a request.
    fn target(&mut self, route: &config::Route, at: &Path, chain: &mut Chain) {
        let targets = [route.upstream.is_some(), route.respond.is_some(), route.redirect.is_some()];
        if targets.iter().filter(|given| **given).count() != 1 {
            self.refuse(at, "a route has exactly one of `upstream`, `respond` and `redirect`");
        }
        if let Some(name) = &route.upstream
            && !self.config.upstreams.contains_key(name)
        {
            let route =
                route.name.as_ref().map_or("this route".to_owned(), |route| format!("route `{route}`"));
            let message = format!("{route} names upstream `{name}`, which does not exist");
            let hint = match suggest(name, self.config.upstreams.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "define it under `upstreams`".to_owned(),
            };
            self.refuse_with_hint(&at.key("upstream"), message, hint);
        }
        let own = match (&route.respond, &route.redirect) {
            (Some(respond), _) => Some(("respond", respond.clone().build(&at.key("respond"), self.live))),
            (_, Some(redirect)) => Some(("redirect", redirect.clone().build(&at.key("redirect"), self.live))),
            _ => None,
        };
        match own {
            Some((name, Ok(filter))) => chain.push(name, filter),
            Some((_, Err(invalid))) => {
                invalid.into_iter().for_each(|invalid| self.refuse(&invalid.path, invalid.message));
            }
            None => {}
        }
    }

    fn rule(&mut self, id: usize, matching: &config::RouteMatch, at: &Path) -> Option<Rule> {
        let before = self.problems.len();
        let mut hosts = Vec::new();
        for (index, host) in matching.hosts.iter().enumerate() {
            hosts.extend(self.keep(&at.key("hosts").index(index), HostPattern::parse(host)));
        }
        let path = match &matching.path {
            None => Ok(PathPattern::any()),
            Some(config::PathMatch::Exact(path)) => PathPattern::exact(path),
            Some(config::PathMatch::Prefix(path)) => PathPattern::prefix(path),
            Some(config::PathMatch::Regex(path)) => PathPattern::regex(path),
            Some(config::PathMatch::Template(path)) => PathPattern::template(path),
        };
        let path = self.keep(&at.key("path"), path);
        let mut methods = Vec::new();
        for (index, method) in matching.methods.iter().enumerate() {
            match Method::from_bytes(method.as_bytes()) {
                Ok(method) if method.as_str().bytes().all(|byte| !byte.is_ascii_lowercase()) => {
                    methods.push(method)
                }
                Ok(_) => {
                    let hint = format!("did you mean `{}`?", method.to_ascii_uppercase());
                    self.refuse_with_hint(&at.key("methods").index(index), "methods are upper case", hint);
                }
                Err(_) => self.refuse(&at.key("methods").index(index), format!("{method:?} is not a method")),
            }
        }
        let mut headers = Vec::new();
        for (name, value) in &matching.headers {
            let at = at.key("headers").key(name);
            let predicate = predicate(value).and_then(|value| HeaderPredicate::new(name, value));
            headers.extend(self.keep(&at, predicate));
        }
        let mut query = Vec::new();
        for (name, value) in &matching.query {
            let predicate = predicate(value).map(|value| QueryPredicate::new(name, value));
            query.extend(self.keep(&at.key("query").key(name), predicate));
        }
        let path = path.filter(|_| self.problems.len() == before)?;
        Some(Rule { id, hosts, path, methods, headers, query })
    }

    fn listeners(&mut self, routes: &[PlannedRoute], rules: &[Rule]) -> Vec<PlannedListener> {
        let whole = self.table(rules.to_vec());
        let mut planned: Vec<PlannedListener> = Vec::new();
        let mut taken: HashMap<String, String> = HashMap::new();
        if let config::Admin::On(admin) = &self.config.admin {
            taken.insert(admin.address.clone(), "admin".to_owned());
        }
        for (index, listener) in self.config.listeners.iter().enumerate() {
            let at = Path::root().key("listeners").index(index);
            let name = listener.name.clone().unwrap_or_else(|| listener.address.clone());
            if let Some(first) = planned.iter().position(|other| *other.name == *name) {
                let first = self.sources.problem(&Path::root().key("listeners").index(first), "");
                let first = first.location().map(ToString::to_string).unwrap_or_default();
                self.refuse_with_hint(
                    &at,
                    format!("a listener named `{name}` exists already"),
                    format!("the first is at {first}; names are unique"),
                );
            }
            let key = self.listener_key(listener, &name, &at.key("address"), &mut taken);
            self.limits(&listener.limits, &at.key("limits"));
            let chain = self.chain(&listener.filters, &at.key("filters"), &format!("listeners {name}"));
            let table = match &listener.routes {
                None => whole.clone(),
                Some(names) => self.part(names, routes, rules, &at.key("routes")),
            };
            let limits = Limits::from(&listener.limits);
            planned.push(PlannedListener {
                key,
                name: name.into(),
                address: listener.address.clone(),
                limits,
                chain,
                table,
            });
        }
        if planned.is_empty() {
            let hint = "add `listeners: [{address: 127.0.0.1:8000}]`";
            self.refuse_with_hint(&Path::root(), "no listeners, so nothing would be served", hint);
        }
        planned
    }

    fn listener_key(
        &mut self,
        listener: &config::Listener,
        name: &str,
        at: &Path,
        taken: &mut HashMap<String, String>,
    ) -> String {
        match listen_address(&listener.address) {
            Err(message) => self.refuse(at, message),
            // The kernel picks a free port for each: they are told apart by their names.
            Ok(address) if address.port() == 0 => return format!("name:{name}"),
            Ok(_) => {
                if let Some(other) = taken.insert(listener.address.clone(), name.to_owned()) {
                    self.refuse_with_hint(
                        at,
                        format!("{} is bound twice", listener.address),
                        format!("`{other}` listens there already"),
                    );
                }
            }
        }
        listener.address.clone()
    }

    fn limits(&mut self, limits: &config::Limits, at: &Path) {
        /// Pingora's parser takes no more.
        const MOST: u64 = 1024 * 1024 - 1;
        if limits.header_size.bytes() > MOST || limits.header_size.bytes() < 1024 {
            self.refuse(&at.key("header_size"), "header_size is from 1KiB to just under 1MiB");
        }
        for (key, timeout) in [
            ("header_timeout", limits.header_timeout),
            ("body_timeout", limits.body_timeout),
            ("write_timeout", limits.write_timeout),
            ("idle_timeout", limits.idle_timeout),
        ] {
            self.refuse_zero(&at.key(key), timeout);
        }
    }

    /// The table of a listener that serves only some routes.
    fn part(&mut self, names: &[String], routes: &[PlannedRoute], rules: &[Rule], at: &Path) -> Arc<Table> {
        let mut wanted = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            match routes.iter().position(|route| *route.name == **name) {
                Some(id) => {
                    wanted.insert(id);
                }
                None => {
                    let near = suggest(name, routes.iter().map(|route| &*route.name));
                    let hint = near.map_or("routes are named by `name`".to_owned(), |near| {
                        format!("did you mean `{near}`?")
                    });
                    self.refuse_with_hint(&at.index(index), format!("route `{name}` does not exist"), hint);
                }
            }
        }
        self.table(rules.iter().filter(|rule| wanted.contains(&rule.id)).cloned().collect())
    }

    fn table(&mut self, rules: Vec<Rule>) -> Arc<Table> {
        match Table::compile(rules) {
            Ok(table) => Arc::new(table),
            Err(shadowed) => {
                for shadow in shadowed {
                    let route = |id: usize| Path::root().key("routes").index(id);
                    let by = self.sources.problem(&route(shadow.by), "");
                    let by = by.location().map_or_else(|| route(shadow.by).to_string(), ToString::to_string);
                    self.refuse_with_hint(
                        &route(shadow.rule),
                        "this route can never match",
                        format!("the one at {by} always matches first"),
                    );
                }
                Arc::default()
            }
        }
    }
}

fn predicate(value: &config::ValueMatch) -> Result<ValuePredicate, PatternError> {
    match value {
        config::ValueMatch::Exact(value) => Ok(ValuePredicate::Exact(value.clone())),
        config::ValueMatch::Regex(value) => ValuePredicate::regex(value),
        config::ValueMatch::Present(present) => Ok(ValuePredicate::Present(*present)),
    }
}

/// What a route without a name is called: its first host, its path, its methods.
fn derived_name(matching: &config::RouteMatch) -> String {
    let path = match &matching.path {
        None => "/",
        Some(
            config::PathMatch::Exact(path)
            | config::PathMatch::Prefix(path)
            | config::PathMatch::Regex(path)
            | config::PathMatch::Template(path),
        ) => path,
    };
    let host = matching.hosts.first().map(String::as_str).unwrap_or_default();
    match matching.methods.as_slice() {
        [] => format!("{host}{path}"),
        methods => format!("{} {host}{path}", methods.join(",")),
    }
}

/// `ip:port`, or `:port` for every address.
fn listen_address(address: &str) -> Result<SocketAddr, String> {
    let full = if address.starts_with(':') { format!("[::]{address}") } else { address.to_owned() };
    full.parse().map_err(|_| {
        format!("{address:?} is not an address to listen on (an IP address and a port, such as \"127.0.0.1:8000\" or \":8000\")")
    })
}

/// `at` extended by a relative path such as `endpoints[2].address`.
fn below(at: &Path, relative: &str) -> Path {
    let mut path = at.clone();
    for part in relative.split('.').filter(|part| !part.is_empty()) {
        let mut pieces = part.split('[');
        path = path.key(pieces.next().unwrap_or_default());
        for index in pieces {
            path = path.index(index.trim_end_matches(']').parse().unwrap_or(0));
        }
    }
    path
}
