//! Routes: names, targets, filters and matches; and the tables that find them.

use std::sync::Arc;

use super::{Compiler, PlannedRoute, stand_ins};
use crate::{
    config::{self, Path, UpstreamProtocol},
    filter::{self, Chain, Options},
    route::{Rule, Table},
};

impl Compiler<'_> {
    pub(super) fn routes(&mut self) -> (Vec<PlannedRoute>, Vec<Rule>) {
        let mut planned = Vec::new();
        let mut rules = Vec::new();
        let all = Path::root().key("routes");
        self.route_names.may_lack = self.sources.may_lack_entries(&all);
        for (index, route) in self.config.routes.iter().enumerate() {
            let at = self.generated.route_place(index);
            let name = self.route_name(route, &at);
            let is_matching_known = !self.sources.is_doubtful(&at.key("match"));
            if route.name.is_none() && (!is_matching_known || self.sources.is_doubtful(&at.key("name"))) {
                self.route_names.may_lack = true;
            } else {
                self.route_names.ids.entry(name.clone()).or_insert(index);
            }
            let mut chain = self.chain(&route.filters, &at.key("filters"), &format!("routes {name}"));
            let who = route.name.as_ref().map_or("this route".to_owned(), |name| format!("route `{name}`"));
            self.target(route, &who, &at, &mut chain);
            self.grpc_web(route, &chain, &at);
            let variants = self.variants(route, &name, &at);
            let retry = self.traffic(route, &who, &at);
            let error_pages = self.error_pages(&route.error_pages, &at);
            planned.push(PlannedRoute { name, chain, error_pages, variants, retry });
            let at = at.key("match");
            let rule = filter::rule(index, &route.matching, &at, self.sources, &mut self.problems);
            // A match that lost a condition is wider than it was written, and would be said to shadow others.
            rules.extend(rule.filter(|_| is_matching_known));
        }
        let listeners = &self.config.listeners;
        // A control plane alone serves no traffic, and routes may come from one.
        let need_routes = !self.is_waiting
            && (listeners.is_empty() && self.config.serves_control().is_none()
                || listeners.iter().any(|listener| listener.protocol == config::Protocol::Http));
        if need_routes && self.config.routes.is_empty() && !self.sources.is_doubtful(&all) {
            self.refuse_with_hint(
                &Path::root(),
                "no routes, so every request would be answered with 404",
                "add `routes: [{upstream: NAME}]`",
            );
        }
        (planned, rules)
    }

    /// The filters of each variant of a split.
    fn variants(&mut self, route: &config::Route, name: &str, at: &Path) -> Vec<Chain> {
        let mut chains = Vec::new();
        for (index, variant) in route.split.iter().flat_map(|split| split.to.iter().enumerate()) {
            let at = at.key("split").key("to").index(index).key("filters");
            let owner = format!("routes {name} variant {}", variant.called());
            let chain = self.chain(&variant.filters, &at, &owner);
            if chain.names().any(|name| name == "grpc_web") {
                let hint = "put it under the route's own `filters`";
                self.refuse_with_hint(&at, "what a client speaks is the same for all variants", hint);
            }
            chains.push(chain);
        }
        chains
    }

    fn route_name(&mut self, route: &config::Route, at: &Path) -> Arc<str> {
        let Some(name) = &route.name else {
            let derived = derived_name(&route.matching.first());
            // Goes on counting where the last of the same name stopped, so that thousands of them cost no search.
            let number = self.derived.entry(derived.clone()).or_insert(0);
            loop {
                *number += 1;
                let name = if *number == 1 { derived.clone() } else { format!("{derived}#{number}") };
                if !self.route_names.ids.contains_key(name.as_str()) {
                    return name.into();
                }
            }
        };
        if let Some(first) = self.route_names.ids.get(name.as_str()) {
            let first = self.sources.problem(&self.generated.route_place(*first), "").place();
            let problem = self
                .sources
                .problem(&at.key("name"), format!("a route named `{name}` exists already"))
                .hint(format!("the first is at {first}; names are unique"));
            self.problems.push(problem.of_a_name_twice());
        }
        name.as_str().into()
    }

    /// How a call ended is said in trailers, which HTTP/1 does not carry.
    fn grpc_web(&mut self, route: &config::Route, chain: &Chain, at: &Path) {
        if !chain.names().any(|name| name == "grpc_web") {
            return;
        }
        let config = self.config;
        for name in route.upstreams().flat_map(|name| stand_ins(config, name)) {
            let upstream = self.config.upstreams.get(name);
            let all = Path::root().key("upstreams").key(name).key("protocol");
            if upstream.is_some_and(|upstream| upstream.protocol == UpstreamProtocol::Http1)
                && !self.sources.is_doubtful(&all)
            {
                self.refuse_with_hint(
                    &at.key("filters"),
                    format!("`grpc_web` needs an upstream that speaks HTTP/2, and `{name}` does not"),
                    "add `protocol: grpc` to the upstream",
                );
            }
        }
    }

    /// Exactly one of the things a route can do with a request.
    fn target(&mut self, route: &config::Route, who: &str, at: &Path, chain: &mut Chain) {
        let targets = [
            ("upstream", route.upstream.is_some()),
            ("split", route.split.is_some()),
            ("canary", route.canary.is_some()),
            ("respond", route.respond.is_some()),
            ("redirect", route.redirect.is_some()),
        ];
        let given = targets.iter().filter(|(_, given)| *given).count();
        // It may stand in `match`, indented too far.
        let of_match = ("match", false);
        let is_doubtful =
            || targets.iter().chain([&of_match]).any(|(key, _)| self.sources.is_doubtful(&at.key(*key)));
        if given > 1 || given == 0 && !is_doubtful() {
            let given = targets.iter().filter(|(_, given)| *given).map(|(key, _)| format!("`{key}`"));
            let hint = match given.collect::<Vec<_>>().as_slice() {
                [] => "add `upstream: NAME`".to_owned(),
                [first, others @ ..] => format!("remove {} or {first}", others.join(", ")),
            };
            self.refuse_with_hint(
                at,
                "a route has exactly one of `upstream`, `split`, `canary`, `respond` and `redirect`",
                hint,
            );
        }
        if let Some(name) = &route.upstream {
            self.upstream_exists(who, name, &at.key("upstream"));
        }
        self.subset(route.upstream.as_deref(), &route.subset, at);
        let own = match (&route.respond, &route.redirect) {
            (Some(respond), _) => Some(("respond", respond.clone().build(&at.key("respond"), self.live))),
            (_, Some(redirect)) => {
                let prefix = match &route.matching.path {
                    Some(config::PathMatch::Prefix(prefix)) => Some(prefix.as_str()),
                    _ => None,
                };
                let built =
                    filter::redirect(redirect.as_ref().clone(), prefix, &at.key("redirect"), self.live);
                Some(("redirect", built))
            }
            _ => None,
        };
        match own {
            Some((name, Ok(filter))) => chain.push(name, filter),
            Some((_, Err(invalid))) => {
                invalid
                    .into_iter()
                    .for_each(|invalid| self.refuse_unless_doubtful(&invalid.path, invalid.message));
            }
            None => {}
        }
    }

    /// Also true of one that may have been written where it could not be read.
    pub(super) fn has_upstream(&self, name: &str) -> bool {
        let all = || Path::root().key("upstreams");
        self.config.upstreams.contains_key(name)
            || self.sources.may_lack_entries(&all())
            || self.sources.left_out(&all()).contains(&name)
    }

    pub(super) fn table(&mut self, rules: Vec<Rule>) -> Arc<Table> {
        match Table::compile(rules) {
            Ok(table) => Arc::new(table),
            Err(shadowed) => {
                for shadow in shadowed {
                    let route = |id: usize| Path::root().key("routes").index(id);
                    let by = self.sources.problem(&route(shadow.by), "").place();
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
