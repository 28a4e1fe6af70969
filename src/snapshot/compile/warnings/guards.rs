//! Guards that requests get past.

use std::collections::BTreeSet;

use http::{HeaderMap, Method};

use super::super::{Compiler, PlannedListener, PlannedRoute};
use crate::{
    config::{self, Path, Protocol},
    route::{Outcome, Request, Rule},
};

/// The filters that keep somebody out.
pub(super) const GUARDS: [&str; 8] =
    ["jwt", "introspection", "oidc", "basic_auth", "api_key", "ext_auth", "authz", "ip_rules"];

impl Compiler<'_> {
    /// A guard on a route for some methods says nothing of the others: they may take a wider route that lacks it.
    pub(in crate::snapshot::compile) fn methods_beside_guards(
        &mut self,
        routes: &[PlannedRoute],
        rules: &[Rule],
        listeners: &[PlannedListener],
    ) {
        let guards = |id: usize| -> BTreeSet<&str> {
            routes[id].chain.names().filter(|name| GUARDS.contains(name)).collect()
        };
        let by_methods = |rule: &&Rule| !rule.methods.is_empty() && !guards(rule.id).is_empty();
        let of_regexes = paths_of_regexes(rules);
        for rule in rules.iter().filter(by_methods) {
            let http = listeners.iter().filter(|listener| listener.protocol == Protocol::Http);
            let beside = http.flat_map(|listener| others(rule).map(move |method| (listener, method)));
            let paths = paths_of(rule, &of_regexes);
            let found = beside.flat_map(|(listener, method)| {
                let taken: Vec<usize> = taken(rule, &paths, listener, &method).collect();
                taken.into_iter().map(move |id| (method.clone(), id))
            });
            let found = found.filter_map(|(method, id)| {
                // They stand in the order of the file, by which they are numbered.
                let wider = &rules[rules.binary_search_by_key(&id, |rule| rule.id).ok()?];
                let lacks = guards(rule.id).difference(&guards(wider.id)).copied().collect::<Vec<_>>();
                let is_meant = !wider.methods.is_empty() || lacks.is_empty();
                (!is_meant).then(|| (method, wider.id, lacks.join("`, `")))
            });
            let Some((method, wider, lacks)) = { found }.next() else { continue };
            let (name, wider) = (&routes[rule.id].name, &routes[wider].name);
            let message = format!(
                "{method} and other methods pass by route `{name}` and take `{wider}`, which lacks `{lacks}`"
            );
            let at = self.generated.route_place(rule.id).key("match").key("methods");
            self.warn(
                "guard_for_some_methods",
                &at,
                message,
                format!("give `{wider}` the filter as well, or leave out `methods` here"),
            );
        }
    }
}

impl Compiler<'_> {
    /// A plugin that fails open is no guard, and who puts it among guards may take it for one.
    pub(in crate::snapshot::compile) fn open_beside_guards(
        &mut self,
        routes: &[PlannedRoute],
        listeners: &[PlannedListener],
    ) {
        for (name, plugin) in &self.config.plugins {
            if plugin.fail != config::PluginFail::Open {
                continue;
            }
            let of_routes = routes.iter().map(|route| ("route", &route.name, &route.chain));
            let of_listeners = listeners.iter().map(|listener| ("listener", &listener.name, &listener.chain));
            let step = format!("wasm:{name}");
            let beside = of_routes.chain(of_listeners).find_map(|(kind, owner, chain)| {
                chain.names().find(|other| *other == step)?;
                let guard = chain.names().find(|name| GUARDS.contains(name))?;
                Some(format!("{kind} `{owner}` has it beside `{guard}`"))
            });
            let Some(beside) = beside else { continue };
            let at = Path::root().key("plugins").key(name).key("fail");
            self.warn(
                "guard_fails_open",
                &at,
                format!("while plugin `{name}` fails, requests pass without it, and {beside}"),
                "with `fail: closed` such requests are answered with 503",
            );
        }
    }
}

/// The methods of common use that `rule` does not take; HEAD goes with GET.
fn others(rule: &Rule) -> impl Iterator<Item = Method> {
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE]
        .into_iter()
        .filter(|method| !rule.methods.contains(method))
}

/// So many are looked at beside each rule's own: what they find is a warning, and compiling is not to take long for it.
const MOST_PATHS: usize = 256;

/// Where an expression is the wider route, a path of its own leads there, and one of the guarded route's may not.
fn paths_of_regexes(rules: &[Rule]) -> Vec<String> {
    let regexes = rules.iter().filter(|rule| rule.path.is_regex());
    regexes.flat_map(|rule| rule.path.examples()).take(MOST_PATHS).collect()
}

fn paths_of(rule: &Rule, of_regexes: &[String]) -> Vec<String> {
    let theirs = of_regexes.iter().filter(|path| rule.path.matches(path)).cloned();
    rule.path.examples().into_iter().chain(theirs).collect()
}

/// The routes that requests for these `paths` take which are as `rule` wants them but for their method; none where the
/// listener does not serve the rule itself.
fn taken<'a>(
    rule: &'a Rule,
    paths: &'a [String],
    listener: &'a PlannedListener,
    method: &'a Method,
) -> impl Iterator<Item = usize> + 'a {
    let host = rule.hosts.first().map(|host| host.example()).unwrap_or_default();
    let ask = move |path: &str, method: &Method| {
        let (host, headers) = (host.as_str(), &HeaderMap::new());
        match listener.table.find(&Request { host, path, query: None, method, headers }) {
            Outcome::Found { id, .. } => Some(id),
            Outcome::MethodNotAllowed { .. } | Outcome::NotFound => None,
        }
    };
    let is_plain = rule.headers.is_empty() && rule.query.is_empty();
    paths.iter().filter_map(move |path| {
        let is_served = !is_plain || ask(path, &rule.methods[0]) == Some(rule.id);
        ask(path, method).filter(|taken| is_served && *taken != rule.id)
    })
}
