//! Routes that take what was meant for another, or nothing.

use http::{HeaderMap, Method};

use super::{View, Warning, route_at, warning};
use crate::{
    config::{PathMatch, Protocol, suggest},
    route::{Outcome, PathPattern, Request, Rule},
};

/// Those of the registry (RFC 9110, section 16.1.1) that anybody sends.
const METHODS: [&str; 17] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
];

/// So many prefixes are compared with the expressions: what is found is a warning, and compiling is not to take long for it.
const MOST_RULES: usize = 1024;

pub(super) fn warnings(view: &View<'_>) -> Vec<Warning> {
    let mut found = regexes_before_prefixes(view);
    for (id, route, at) in view.each_route() {
        for (index, method) in route.matching.methods.iter().enumerate() {
            // Whoever names one that is no word of HTTP's may have made it up on purpose; a near one is a slip.
            if !METHODS.contains(&method.as_str()) {
                let hint = match suggest(method, METHODS.into_iter()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "GET, POST, PUT, PATCH and DELETE are usual".to_owned(),
                };
                let at = at.key("match").key("methods").index(index);
                found.push(warning(
                    "unknown_method",
                    at,
                    format!("`{method}` is no method that HTTP knows"),
                    hint,
                ));
            }
        }
        if let Some(PathMatch::Template(path) | PathMatch::Prefix(path) | PathMatch::Exact(path)) =
            &route.matching.path
            && let Some(named) = with_names(path)
        {
            let message = format!("`{path}` matches a path with a colon in it, as it stands");
            let hint = format!("write `{{template: \"{named}\"}}`");
            found.push(warning("colon_in_path", at.key("match").key("path"), message, hint));
        }
        let has_http = view.config.listeners.iter().any(|listener| listener.protocol == Protocol::Http);
        if has_http && !view.is_waiting && view.serving(id).next().is_none() {
            let name = &view.routes[id].name;
            let message = format!("no listener serves route `{name}`");
            let hint = format!("name it in the `routes` of a listener: `routes: [{name}]`");
            found.push(warning("route_without_listener", at, message, hint));
        }
    }
    found
}

/// `/users/:id` as it would be written.
fn with_names(path: &str) -> Option<String> {
    let is_name = |segment: &str| segment.len() > 1 && segment.starts_with(':');
    path.split('/').any(is_name).then(|| {
        let segments = path.split('/').map(|segment| match is_name(segment) {
            true => format!("{{{}}}", &segment[1..]),
            false => segment.to_owned(),
        });
        segments.collect::<Vec<_>>().join("/")
    })
}

/// Expressions go before prefixes, however long those are.
fn regexes_before_prefixes(view: &View<'_>) -> Vec<Warning> {
    let regexes: Vec<&Rule> = view.rules.iter().filter(|rule| rule.path.is_regex()).collect();
    if regexes.is_empty() {
        return Vec::new();
    }
    let is_prefix = |rule: &&Rule| is_prefix(&rule.path);
    let mut found: Vec<Warning> = Vec::new();
    for rule in view.rules.iter().filter(is_prefix).take(MOST_RULES) {
        let examples = rule.path.examples();
        // All of what it was written for goes elsewhere, not a part that the expression names on purpose.
        let taken = view.serving(rule.id).find_map(|(index, _)| {
            let taken: Vec<usize> =
                examples.iter().filter_map(|path| view.taken_by(index, rule, path)).collect();
            let id = *taken.first()?;
            (taken.len() == examples.len() && id != rule.id).then_some(id)
        });
        let Some(regex) = taken.and_then(|id| regexes.iter().find(|regex| regex.id == id)) else { continue };
        let (prefix, name) = (&view.routes[rule.id].name, &view.routes[regex.id].name);
        let message = format!(
            "this expression takes what route `{prefix}` matches as well: expressions go before prefixes, however long those are"
        );
        let hint = format!(
            "narrow the expression of `{name}`, or make a `template` of the prefix, which goes first"
        );
        found.push(warning(
            "regex_before_prefix",
            route_at(regex.id).key("match").key("path"),
            message,
            hint,
        ));
    }
    found
}

fn is_prefix(path: &PathPattern) -> bool {
    path.to_string().starts_with("prefix /") && path.to_string() != "prefix /"
}

impl View<'_> {
    /// The route that takes a request for `path` which is as `rule` wants it.
    fn taken_by(&self, listener: usize, rule: &Rule, path: &str) -> Option<usize> {
        self.asked(listener, rule, path, rule.methods.first().unwrap_or(&Method::GET))
    }

    /// The same with another method.
    pub(super) fn asked(&self, listener: usize, rule: &Rule, path: &str, method: &Method) -> Option<usize> {
        let host = rule.hosts.first().map(|host| host.example()).unwrap_or_default();
        let request = Request { host: &host, path, query: None, method, headers: &HeaderMap::new() };
        match self.listeners.get(listener)?.table.find(&request) {
            Outcome::Found { id, .. } => Some(id),
            Outcome::MethodNotAllowed { .. } | Outcome::NotFound => None,
        }
    }
}
