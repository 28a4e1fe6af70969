//! Routes that take what was meant for another, or nothing.

use http::{HeaderMap, Method};

use super::{View, Warning, listener_at, route_at, warning};
use crate::{
    config::{Listener, Path, PathMatch, Protocol, Route, RouteMatch, ValueMatch, suggest},
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
        found.extend(never_matches(route, &at));
        found.extend(to_itself(view, route, &at));
        found.extend(patterns_of_others(route, &at));
        if let Some(respond) = &route.respond
            && matches!(respond.status, 204 | 205 | 304)
            && !respond.body.is_empty()
        {
            let message = format!("a {} has no body, so that this is not sent", respond.status);
            let hint = "write `status: 200`, or leave `body` out";
            found.push(warning("body_not_sent", at.key("respond").key("body"), message, hint));
        }
        let has_http = view.config.listeners.iter().any(|listener| listener.protocol == Protocol::Http);
        if has_http && !view.is_waiting && view.serving(id).next().is_none() {
            let name = &view.routes[id].name;
            let message = format!("no listener serves route `{name}`");
            let hint = format!("name it in the `routes` of a listener: `routes: [{name}]`");
            found.push(warning("route_without_listener", at, message, hint));
        }
    }
    found.extend(listeners_without_route(view));
    found
}

/// Each path begins with a slash.
fn never_matches(route: &Route, at: &Path) -> Option<Warning> {
    let Some(PathMatch::Regex(regex)) = &route.matching.path else { return None };
    let rest = regex.strip_prefix('^').filter(|rest| !rest.contains('|'))?;
    let mut chars = rest.chars();
    let is_word = chars.next().is_some_and(|first| first.is_ascii_alphanumeric());
    let is_optional = chars.next().is_some_and(|next| matches!(next, '*' | '?' | '{'));
    (is_word && !is_optional).then(|| {
        let message = "no path begins so: each begins with `/`";
        warning("regex_without_slash", at.key("match").key("path"), message, format!("write `^/{rest}`"))
    })
}

/// Whoever is sent there sends the same request again. Of another method or with another query it need not be the same.
fn to_itself(view: &View<'_>, route: &Route, at: &Path) -> Option<Warning> {
    let redirect = route.redirect.as_deref()?;
    let RouteMatch { hosts: _, path, methods, headers, query, not, any } = &route.matching;
    let (Some(PathMatch::Exact(path)) | Some(PathMatch::Prefix(path))) = path else { return None };
    let is_any =
        methods.is_empty() && headers.is_empty() && query.is_empty() && not.is_none() && any.is_empty();
    // Another that is for this very path, on some condition or with precedence, may answer there.
    let is_alone = || {
        view.each_route().all(|(_, other, _)| match &other.matching.path {
            Some(PathMatch::Exact(theirs) | PathMatch::Prefix(theirs)) => {
                std::ptr::eq(other, route) || theirs != path
            }
            Some(_) => false,
            None => true,
        })
    };
    (is_any && redirect.to.as_ref() == Some(path) && is_alone()).then(|| {
        let redirect_at = at.key("redirect");
        let at = if view.sources.is_text(&redirect_at) { redirect_at } else { redirect_at.key("to") };
        let message = format!("`{path}` is what this route matches, so that clients are sent in circles");
        warning("redirects_to_itself", at, message, "write another path, or a URL with its host")
    })
}

/// `~^2` of nginx and `*`, which are compared as they stand.
fn patterns_of_others(route: &Route, at: &Path) -> Vec<Warning> {
    let RouteMatch { headers, query, .. } = &route.matching;
    let fields = headers.iter().map(|(name, value)| ("headers", name, value));
    let fields = fields.chain(query.iter().map(|(name, value)| ("query", name, value)));
    let mut found = Vec::new();
    for (kind, name, value) in fields {
        let ValueMatch::Exact(text) = value else { continue };
        // RFC 9110, sections 13.1.1 and 13.1.2.
        let has_star =
            kind == "query" || ["if-match", "if-none-match"].contains(&&*name.to_ascii_lowercase());
        let hint = match text.strip_prefix('~') {
            None if text == "*" && !has_star => "write `{present: true}`".to_owned(),
            Some(regex) if regex.starts_with(['^', '*', ' ']) => {
                let flags = if regex.starts_with('*') { "(?i)" } else { "" };
                let regex = regex.trim_start_matches('*').trim_start().replace('\'', "''");
                format!("write `{{regex: '{flags}{regex}'}}`")
            }
            _ => continue,
        };
        let message = format!("`{text}` is compared as it stands, and is no pattern");
        found.push(warning("literal_pattern", at.key("match").key(kind).key(name), message, hint));
    }
    found
}

/// Challenges of ACME are answered all the same, and filters may answer by themselves.
fn listeners_without_route(view: &View<'_>) -> Vec<Warning> {
    if view.is_waiting || !view.config.acme.is_empty() {
        return Vec::new();
    }
    let serves_none = |listener: &Listener| {
        listener.protocol == Protocol::Http
            && listener.filters.is_empty()
            && listener.routes.as_ref().is_some_and(Vec::is_empty)
    };
    let found = view.config.listeners.iter().enumerate().filter(|(_, listener)| serves_none(listener));
    found
        .map(|(index, _)| {
            let message = "it serves no route, so that every request is answered with 404";
            let hint = "leave `routes` out to serve all, or name some";
            warning("listener_without_route", listener_at(index).key("routes"), message, hint)
        })
        .collect()
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
