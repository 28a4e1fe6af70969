//! What works and was hardly meant so.

use std::collections::BTreeSet;

use http::{HeaderMap, Method};

use super::{Compiler, PlannedListener, PlannedRoute};
use crate::{
    config::Protocol,
    route::{Outcome, Request, Rule},
};

/// The filters that keep somebody out.
const GUARDS: [&str; 6] = ["jwt", "basic_auth", "api_key", "ext_auth", "authz", "ip_rules"];

impl Compiler<'_> {
    pub(super) fn literal_secrets(&mut self) {
        for at in self.sources.literal_secrets() {
            self.warn(
                &at,
                "a secret is written out here, and whoever may read the file knows it",
                "write `${env:NAME}` or `${file:PATH}`",
            );
        }
    }

    /// A guard on a route for some methods says nothing of the others: they may take a wider route that lacks it.
    pub(super) fn methods_beside_guards(
        &mut self,
        routes: &[PlannedRoute],
        rules: &[Rule],
        listeners: &[PlannedListener],
    ) {
        let guards = |id: usize| -> BTreeSet<&str> {
            routes[id].chain.names().filter(|name| GUARDS.contains(name)).collect()
        };
        let by_methods = |rule: &&Rule| !rule.methods.is_empty() && !guards(rule.id).is_empty();
        for rule in rules.iter().filter(by_methods) {
            let http = listeners.iter().filter(|listener| listener.protocol == Protocol::Http);
            let beside = http.flat_map(|listener| others(rule).map(move |method| (listener, method)));
            let found = beside.filter_map(|(listener, method)| {
                let id = taken(rule, listener, &method)?;
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
                &at,
                message,
                format!("give `{wider}` the filter as well, or leave out `methods` here"),
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

/// The route that a request takes which is as `rule` wants it but for its method; `None` where the listener does not serve
/// the rule itself.
fn taken(rule: &Rule, listener: &PlannedListener, method: &Method) -> Option<usize> {
    let path = rule.path.example()?;
    let host = rule.hosts.first().map(|host| host.example()).unwrap_or_default();
    let ask = |method| {
        let (host, path, headers) = (host.as_str(), path.as_str(), &HeaderMap::new());
        match listener.table.find(&Request { host, path, query: None, method, headers }) {
            Outcome::Found { id, .. } => Some(id),
            Outcome::MethodNotAllowed { .. } | Outcome::NotFound => None,
        }
    };
    let is_plain = rule.headers.is_empty() && rule.query.is_empty();
    let is_served = !is_plain || ask(&rule.methods[0]) == Some(rule.id);
    ask(method).filter(|taken| is_served && *taken != rule.id)
}
