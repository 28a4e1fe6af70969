//! Encoded slashes that are kept beside what is bound to a path. An upstream that takes `%2F` for a slash then serves
//! `/admin%2Fx` as `/admin/x`, which neither the route `/admin` nor a filter for it has seen: worth a warning.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Compiler, serving::Serving};
use crate::config::{EncodedSlashes, FilterUse, Listener, Path, PathMatch, Route, RouteMatch};

/// What a filter goes by that is bound to a path, beside `when` and `unless`.
const OF_FILTERS: [(&str, &str); 3] =
    [("jwt", "skip_paths"), ("introspection", "skip_paths"), ("authz", "path")];

/// Chains may not name chains that name them, so this is never met.
const DEEPEST: usize = 8;

impl Compiler<'_> {
    pub(super) fn encoded_slashes(&self, listener: &Listener) -> EncodedSlashes {
        listener.paths.encoded_slashes.unwrap_or(self.config.paths.encoded_slashes)
    }

    /// One warning for each place that says `keep`.
    pub(super) fn encoded_slashes_beside_guards(&mut self, serving: &Serving) {
        let mut told = BTreeSet::new();
        let starts = Starts::of(&self.config.routes);
        for (index, listener) in self.config.listeners.iter().enumerate() {
            let routes = self.config.routes.iter().enumerate();
            for (place, route) in routes.filter(|(place, _)| serving.serves(index, *place)) {
                let own = route.paths.encoded_slashes;
                if own.unwrap_or(self.encoded_slashes(listener)) != EncodedSlashes::Keep {
                    continue;
                }
                let at = match (own, listener.paths.encoded_slashes) {
                    (Some(_), _) => self.generated.route_place(place),
                    (None, Some(_)) => self.generated.listener_place(index),
                    (None, None) => Path::root(),
                };
                let at = at.key("paths").key("encoded_slashes");
                if told.contains(&at.to_string()) {
                    continue;
                }
                let beside = |other: usize| other != place && serving.serves(index, other);
                if let Some(what) = self.bound_beside(listener, route, &starts, beside) {
                    told.insert(at.to_string());
                    let message = format!(
                        "encoded slashes are kept, and {what}: an upstream that takes `%2F` for a slash is reached past it"
                    );
                    let hint = "keep them only on routes whose upstream does not decode them, or refuse them";
                    self.warn("encoded_slashes_kept", &at, message, hint);
                }
            }
        }
    }

    /// What is bound to a path that a request to `route` may have in the eyes of its upstream.
    fn bound_beside(
        &self,
        listener: &Listener,
        route: &Route,
        starts: &Starts<'_>,
        is_beside: impl Fn(usize) -> bool,
    ) -> Option<String> {
        let reach = Reach::of(&route.matching);
        let of_variants = route.split.iter().flat_map(|split| &split.to).flat_map(|variant| &variant.filters);
        let chains = listener.filters.iter().chain(&route.filters).chain(of_variants);
        if let Some(name) = chains.filter_map(|step| self.bound_filter(step, &reach, 0)).next() {
            return Some(format!("the filter `{name}` beside them is bound to a path"));
        }
        let others = starts.within(&reach).filter(|other| is_beside(*other));
        let mut others = others.map(|other| &self.config.routes[other]);
        let other = others.find(|other| share_a_host(route, other))?;
        let path = other.matching.path.as_ref().map(text).unwrap_or_default();
        Some(format!("another route is bound to the path `{path}`"))
    }

    fn bound_filter(&self, step: &FilterUse, reach: &Reach, depth: usize) -> Option<String> {
        match step {
            FilterUse::Named(name) if depth < DEEPEST => {
                let chain = self.config.filters.get(name)?;
                chain.iter().find_map(|step| self.bound_filter(step, reach, depth + 1))
            }
            FilterUse::Named(_) => None,
            FilterUse::Inline(entry) => {
                let is_condition = |key: &str| FilterUse::CONDITIONS.contains(&key);
                let name = entry.keys().find(|key| !is_condition(key))?;
                let mut paths = Vec::new();
                for (key, value) in entry.values() {
                    let option = OF_FILTERS.iter().find(|(filter, _)| *filter == key);
                    match option {
                        _ if is_condition(key) => collect(&value, "path", &mut paths),
                        Some((_, option)) => collect(&value, option, &mut paths),
                        None => {}
                    }
                }
                paths.iter().any(|path| reach.has(path)).then(|| name.to_owned())
            }
        }
    }
}

/// The texts under each `key`, however they are written.
fn collect(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                if name == key { texts(value, found) } else { collect(value, key, found) }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, key, found)),
        _ => {}
    }
}

fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        // A regex may match anything.
        Value::Object(form) if form.contains_key("regex") => found.push(String::new()),
        Value::Object(form) => form.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// Wildcards may be anything.
fn share_a_host(one: &Route, other: &Route) -> bool {
    let (one, other) = (&one.matching.hosts, &other.matching.hosts);
    let is_wild = |hosts: &[String]| hosts.is_empty() || hosts.iter().any(|host| host.starts_with('*'));
    is_wild(one)
        || is_wild(other)
        || one.iter().any(|host| other.iter().any(|it| it.eq_ignore_ascii_case(host)))
}

/// Where a path leads that a route matches, once its encoded slashes are taken for slashes. Dot segments lead nowhere: they
/// are refused.
struct Reach(String);

impl Reach {
    fn of(matching: &RouteMatch) -> Reach {
        let start = matching.path.as_ref().map_or("", literal);
        let decoded = start.replace("%2F", "/").replace("%2f", "/").replace("%5C", "/").replace("%5c", "/");
        Reach(decoded.trim_end_matches('/').to_owned())
    }

    /// Whether a path that begins so may be among them. The empty one stands for any.
    fn has(&self, start: &str) -> bool {
        let start = start.split('{').next().unwrap_or_default();
        // The route's own prefix is where it leads with plain slashes, too.
        start != "/"
            && (start.is_empty()
                || start.trim_end_matches('/').len() > self.0.len() && start.starts_with(&self.0))
    }
}

/// How the paths of routes begin, in their order: so those within a reach stand together, and thousands of routes are not compared with
/// thousands of others.
struct Starts<'a>(Vec<(&'a str, usize)>);

impl<'a> Starts<'a> {
    fn of(routes: &'a [Route]) -> Starts<'a> {
        let paths = routes.iter().enumerate();
        let paths = paths.filter_map(|(id, route)| Some((literal(route.matching.path.as_ref()?), id)));
        let mut starts: Vec<_> = paths.collect();
        starts.sort_unstable();
        Starts(starts)
    }

    /// The routes whose paths may be among those, in no order.
    fn within<'s>(&'s self, reach: &'s Reach) -> impl Iterator<Item = usize> + 's {
        // Those of which nothing is certain stand first.
        let open = self.0.iter().take_while(|(start, _)| start.is_empty());
        let from = self.0.partition_point(|(start, _)| *start < reach.0.as_str());
        let below = self.0[from..].iter().take_while(|(start, _)| start.starts_with(&reach.0));
        open.chain(below).filter(|(start, _)| reach.has(start)).map(|(_, id)| *id)
    }
}

/// The part of a pattern that is certain; empty where there is none.
fn literal(path: &PathMatch) -> &str {
    match path {
        PathMatch::Exact(text) | PathMatch::Prefix(text) => text,
        PathMatch::Template(text) => text.split('{').next().unwrap_or_default(),
        PathMatch::Regex(_) => "",
    }
}

fn text(path: &PathMatch) -> &str {
    match path {
        PathMatch::Exact(text)
        | PathMatch::Prefix(text)
        | PathMatch::Template(text)
        | PathMatch::Regex(text) => text,
    }
}
