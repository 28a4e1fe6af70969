//! `when` and `unless`: for which requests a filter runs. They are written as a route's `match` is, and are route rules
//! too, so that the two can never mean different things; a route's own rule is therefore made here as well.

use std::sync::Arc;

use http::Method;

use super::Invalid;
use crate::{
    config::{Entry, FilterUse, Path, PathMatch, Problem, RouteMatch, Sources, ValueMatch},
    route::{
        HeaderPredicate, HostPattern, PathPattern, PatternError, QueryPredicate, Request, Rule,
        ValuePredicate,
    },
};

#[derive(Debug)]
pub struct Condition {
    when: Option<Rule>,
    unless: Option<Rule>,
}

impl Condition {
    pub fn holds(&self, request: &Request<'_>) -> bool {
        self.when.as_ref().is_none_or(|rule| rule.matches(request))
            && !self.unless.as_ref().is_some_and(|rule| rule.matches(request))
    }

    /// What an inline entry of a chain says; `None` where it says nothing.
    pub fn read(
        entry: &Entry,
        at: &Path,
        sources: &Sources,
        problems: &mut Vec<Problem>,
    ) -> Option<Arc<Condition>> {
        let [when, unless] = FilterUse::CONDITIONS.map(|key| {
            entry.keys().any(|has| has == key).then(|| read_rule(&at.key(key), sources, problems)).flatten()
        });
        (when.is_some() || unless.is_some()).then(|| Arc::new(Condition { when, unless }))
    }
}

fn read_rule(at: &Path, sources: &Sources, problems: &mut Vec<Problem>) -> Option<Rule> {
    let matching: RouteMatch = match sources.read(at) {
        Ok(matching) => matching,
        Err(wrong) => {
            problems.extend(wrong);
            return None;
        }
    };
    if matching == RouteMatch::default() {
        let problem = sources.problem(at, "an empty condition matches every request");
        problems.push(problem.hint("give hosts, path, methods, headers or query, or leave it out"));
        return None;
    }
    rule(0, &matching, at, sources, problems)
}

/// A route's `match`, or a condition, in the form in which requests are compared with it. `None` when something is wrong
/// with it.
pub fn rule(
    id: usize,
    matching: &RouteMatch,
    at: &Path,
    sources: &Sources,
    problems: &mut Vec<Problem>,
) -> Option<Rule> {
    let told = |invalid: Invalid| sources.problem(&invalid.path, invalid.message);
    translate(id, matching, at).map_err(|invalid| problems.extend(invalid.into_iter().map(told))).ok()
}

/// The same for what no problem can be told of here.
///
/// # Errors
///
/// All that is wrong with it.
pub(crate) fn translate(id: usize, matching: &RouteMatch, at: &Path) -> Result<Rule, Vec<Invalid>> {
    let mut translation = Translation { invalid: Vec::new() };
    let rules = translation.rules(id, matching, at);
    match translation.invalid.is_empty() {
        true => Ok(one_of(id, rules)),
        false => Err(translation.invalid),
    }
}

struct Translation {
    invalid: Vec<Invalid>,
}

impl Translation {
    fn keep<T>(&mut self, at: &Path, parsed: Result<T, impl ToString>) -> Option<T> {
        parsed.map_err(|error| self.invalid.push(Invalid::new(at.clone(), error))).ok()
    }

    /// One for each alternative; there are several only with `any`.
    fn rules(&mut self, id: usize, matching: &RouteMatch, at: &Path) -> Vec<Rule> {
        let Some(mut base) = self.rule(id, matching, at) else { return Vec::new() };
        if let Some(not) = &matching.not {
            let at = at.key("not");
            if **not == RouteMatch::default() {
                self.invalid
                    .push(Invalid::new(at.clone(), "it leaves out everything (name what is to be left out)"));
            }
            base.not = self.rules(id, not, &at);
        }
        if matching.any.is_empty() {
            return vec![base];
        }
        let mut rules = Vec::new();
        for (index, alternative) in matching.any.iter().enumerate() {
            let at = at.key("any").index(index);
            if *alternative == RouteMatch::default() {
                self.invalid.push(Invalid::new(
                    at.clone(),
                    "it takes everything, whatever the others say (remove it)",
                ));
            }
            for (key, is_twice) in [
                ("hosts", !matching.hosts.is_empty() && !alternative.hosts.is_empty()),
                ("path", matching.path.is_some() && alternative.path.is_some()),
                ("methods", !matching.methods.is_empty() && !alternative.methods.is_empty()),
            ] {
                if is_twice {
                    let why = format!("`{key}` is said beside `any` already (say it in one of the two)");
                    self.invalid.push(Invalid::new(at.key(key), why));
                }
            }
            let alternatives = self.rules(id, alternative, &at);
            rules.extend(alternatives.into_iter().map(|one| both(&base, one)));
        }
        if rules.len() > MOST_ALTERNATIVES {
            let why = format!(
                "these are {} alternatives, of at most {MOST_ALTERNATIVES} (write several routes)",
                rules.len()
            );
            self.invalid.push(Invalid::new(at.key("any"), why));
            rules.truncate(MOST_ALTERNATIVES);
        }
        rules
    }

    fn rule(&mut self, id: usize, matching: &RouteMatch, at: &Path) -> Option<Rule> {
        let mut hosts = Vec::new();
        for (index, host) in matching.hosts.iter().enumerate() {
            hosts.extend(self.keep(&at.key("hosts").index(index), HostPattern::parse(host)));
        }
        let path = match &matching.path {
            None => Ok(PathPattern::any()),
            Some(PathMatch::Exact(path)) => PathPattern::exact(path),
            Some(PathMatch::Prefix(path)) => PathPattern::prefix(path),
            Some(PathMatch::Regex(path)) => PathPattern::regex(path),
            Some(PathMatch::Template(path)) => PathPattern::template(path),
        };
        let path = self.keep(&at.key("path"), path);
        let mut methods = Vec::new();
        for (index, name) in matching.methods.iter().enumerate() {
            methods.extend(self.keep(&at.key("methods").index(index), method(name)));
        }
        let mut headers = Vec::new();
        for (name, value) in &matching.headers {
            let predicate = predicate(value).and_then(|value| HeaderPredicate::new(name, value));
            headers.extend(self.keep(&at.key("headers").key(name), predicate));
        }
        let mut query = Vec::new();
        for (name, value) in &matching.query {
            let predicate = predicate(value).map(|value| QueryPredicate::new(name, value));
            query.extend(self.keep(&at.key("query").key(name), predicate));
        }
        Some(Rule { id, hosts, path: path?, methods, headers, query, not: Vec::new(), any: Vec::new() })
    }
}

/// Each is looked up by itself, and written in a match nobody needs more.
const MOST_ALTERNATIVES: usize = 64;

/// What holds where both do. Host, path and methods are the alternative's, where it has them.
fn both(base: &Rule, one: Rule) -> Rule {
    Rule {
        id: base.id,
        hosts: if one.hosts.is_empty() { base.hosts.clone() } else { one.hosts },
        path: if one.path.is_any() { base.path.clone() } else { one.path },
        methods: if one.methods.is_empty() { base.methods.clone() } else { one.methods },
        headers: [base.headers.clone(), one.headers].concat(),
        query: [base.query.clone(), one.query].concat(),
        not: [base.not.clone(), one.not].concat(),
        any: Vec::new(),
    }
}

/// A rule that is one of these.
fn one_of(id: usize, mut rules: Vec<Rule>) -> Rule {
    match rules.len() {
        1 => rules.remove(0),
        _ => Rule {
            id,
            hosts: Vec::new(),
            path: PathPattern::any(),
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            not: Vec::new(),
            any: rules,
        },
    }
}

fn method(method: &str) -> Result<Method, String> {
    // A token by its letters, and meant for any.
    if method == "*" || method.eq_ignore_ascii_case("any") || method.eq_ignore_ascii_case("all") {
        return Err(format!("{method:?} is not a method (leave `methods` out for any)"));
    }
    match Method::from_bytes(method.as_bytes()) {
        Ok(method) if method.as_str().bytes().all(|byte| !byte.is_ascii_lowercase()) => Ok(method),
        Ok(_) => Err(format!("methods are upper case (did you mean `{}`?)", method.to_ascii_uppercase())),
        Err(_) => Err(format!("{method:?} is not a method (try GET)")),
    }
}

fn predicate(value: &ValueMatch) -> Result<ValuePredicate, PatternError> {
    match value {
        ValueMatch::Exact(value) => Ok(ValuePredicate::Exact(value.clone())),
        ValueMatch::Regex(value) => ValuePredicate::regex(value),
        ValueMatch::Present(present) => Ok(ValuePredicate::Present(*present)),
    }
}

#[cfg(test)]
impl Condition {
    pub fn on_method(method: Method) -> Condition {
        let rule = Rule {
            id: 0,
            hosts: Vec::new(),
            path: PathPattern::any(),
            methods: vec![method],
            headers: Vec::new(),
            query: Vec::new(),
            not: Vec::new(),
            any: Vec::new(),
        };
        Condition { when: Some(rule), unless: None }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn request<'r>(method: &'r Method, path: &'r str, headers: &'r HeaderMap) -> Request<'r> {
        Request { host: "api.example.com", path, query: Some("beta=1"), method, headers }
    }

    fn condition(when: Option<&str>, unless: Option<&str>) -> Condition {
        let rule = |yaml: &str| {
            let loaded = crate::config::parse("routes: []", "test").unwrap();
            let matching: RouteMatch = serde_yaml::from_str(yaml).unwrap();
            rule(0, &matching, &Path::root(), &loaded.sources, &mut Vec::new()).unwrap()
        };
        Condition { when: when.map(rule), unless: unless.map(rule) }
    }

    #[test]
    fn holds_where_when_matches_and_unless_does_not() {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", "1".parse().unwrap());
        for (when, unless, expected) in [
            (Some("path: /api"), None, true),
            (Some("path: /ap"), None, false),
            (Some("{path: {template: '/{a}/{b}'}}"), None, true),
            (Some("{path: {regex: 'users$'}}"), None, true),
            (Some("{hosts: ['*.example.com']}"), None, true),
            (Some("{hosts: [example.com]}"), None, false),
            (Some("methods: [GET]"), None, true),
            (Some("methods: [POST]"), None, false),
            (Some("{headers: {x-a: '1'}}"), None, true),
            (Some("{headers: {x-a: {present: false}}}"), None, false),
            (Some("{query: {beta: '1'}}"), None, true),
            (Some("{path: /api, methods: [POST]}"), None, false),
            (None, Some("path: /api"), false),
            (None, Some("path: /other"), true),
            (Some("path: /api"), Some("methods: [GET]"), false),
            (Some("path: /api"), Some("methods: [POST]"), true),
        ] {
            let holds = condition(when, unless).holds(&request(&Method::GET, "/api/users", &headers));
            assert_eq!(holds, expected, "when {when:?} unless {unless:?}");
        }
    }

    #[test]
    fn what_not_matches_is_left_out_and_one_of_any_is_enough() {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", "1".parse().unwrap());
        for (yaml, expected) in [
            ("{path: /api, not: {path: /api/users}}", false),
            ("{path: /api, not: {path: /api/admin}}", true),
            ("{not: {headers: {x-a: '1'}}}", false),
            ("{not: {headers: {x-a: '1'}, methods: [POST]}}", true),
            ("{not: {any: [{path: /other}, {path: /api}]}}", false),
            ("{not: {not: {path: /api}}}", true),
            ("{any: [{path: /other}, {path: /api}]}", true),
            ("{any: [{path: /other}, {hosts: [example.com]}]}", false),
            ("{methods: [POST], any: [{path: /api}]}", false),
            ("{path: /api, any: [{headers: {x-a: '2'}}, {headers: {x-a: '1'}}]}", true),
            ("{any: [{any: [{path: /api}, {headers: {x-a: '2'}}], methods: [GET]}]}", true),
            ("{any: [{any: [{path: /other}, {headers: {x-a: '1'}}], path: /api}]}", false),
            ("{any: [{path: /api, not: {headers: {x-a: '1'}}}, {path: /other}]}", false),
        ] {
            // One of these says `path` twice, which is refused before anybody asks.
            let matching: RouteMatch = serde_yaml::from_str(yaml).unwrap();
            let holds = translate(0, &matching, &Path::root())
                .is_ok_and(|rule| rule.matches(&request(&Method::GET, "/api/users", &headers)));
            assert_eq!(holds, expected, "{yaml}");
        }
    }

    #[test]
    fn refuses_what_takes_or_leaves_out_everything() {
        let many = format!("any: [{}]", ["{path: /a}"; 65].join(", "));
        for (yaml, at) in [
            ("not: {}", "not"),
            ("any: [{path: /a}, {}]", "any[1]"),
            ("{path: /a, any: [{path: /b}]}", "any[0].path"),
            ("{hosts: [a.example], any: [{hosts: [b.example]}]}", "any[0].hosts"),
            ("any: [{not: {path: a}}]", "any[0].not.path"),
            (&many, "any"),
        ] {
            let matching: RouteMatch = serde_yaml::from_str(yaml).unwrap();
            let invalid = translate(0, &matching, &Path::root()).unwrap_err();
            assert_eq!(invalid[0].path.to_string(), at, "{yaml}");
        }
    }

    #[test]
    fn head_is_meant_where_get_is_named() {
        let headers = HeaderMap::new();
        assert!(condition(Some("methods: [GET]"), None).holds(&request(&Method::HEAD, "/", &headers)));
    }
}
