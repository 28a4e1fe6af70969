//! Routes as they are drafted, before they are written. A table that we would refuse is not written: what can never match is taken out here,
//! by the compiler of the table itself, and reported.

use std::collections::{BTreeMap, HashSet};

use http::Method;

use super::{
    draft::{List, Map, Node},
    fields::{Report, literal},
};
use crate::{
    config::{Foreign, PathMatch, ValueMatch},
    route::{HeaderPredicate, HostPattern, PathPattern, QueryPredicate, Rule, Table, ValuePredicate},
};

#[derive(Clone, Debug)]
pub(crate) struct RouteDraft<'f> {
    pub name: String,
    /// Lower case; none means any host.
    pub hosts: Vec<String>,
    pub path: PathMatch,
    pub methods: Vec<String>,
    pub headers: Vec<(String, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    /// What stands beside `match`.
    pub rest: Map,
    /// Where the other file says so, and in which words; without words it is ours alone, and no loss.
    pub at: &'f Foreign,
    pub what: String,
}

impl RouteDraft<'_> {
    /// # Errors
    ///
    /// Why no request could be compared with it.
    pub(crate) fn rule(&self, id: usize) -> Result<Rule, String> {
        let path = match &self.path {
            PathMatch::Exact(text) => PathPattern::exact(text),
            PathMatch::Prefix(text) => PathPattern::prefix(text),
            PathMatch::Regex(text) => PathPattern::regex(text),
            PathMatch::Template(text) => PathPattern::template(text),
        };
        let header = |(name, value): &(String, ValueMatch)| {
            HeaderPredicate::new(name, predicate(value)?).map_err(|error| error.to_string())
        };
        let query = |(name, value): &(String, ValueMatch)| match name.contains("${") {
            true => Err(format!("`{name}` would stand for a variable")),
            false => Ok(QueryPredicate::new(name, predicate(value)?)),
        };
        let method = |method: &String| match method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            true => Err(format!("{method:?} is no method: they are written in upper case")),
            false => Method::try_from(method.as_str()).map_err(|_| format!("{method:?} is no method")),
        };
        Ok(Rule {
            id,
            hosts: self
                .hosts
                .iter()
                .map(|host| HostPattern::parse(host))
                .collect::<Result<_, _>>()
                .map_err(|error| error.to_string())?,
            path: path.map_err(|error| error.to_string())?,
            methods: self.methods.iter().map(method).collect::<Result<_, _>>()?,
            headers: self.headers.iter().map(header).collect::<Result<_, _>>()?,
            query: self.query.iter().map(query).collect::<Result<_, _>>()?,
            not: Vec::new(),
            any: Vec::new(),
        })
    }

    /// The route as it stands in the file.
    pub(crate) fn written(&self) -> Map {
        let mut matching = Map::new();
        if !self.hosts.is_empty() {
            matching.set("hosts", self.hosts.iter().cloned().collect::<List>());
        }
        match &self.path {
            PathMatch::Prefix(path) if path == "/" => {}
            PathMatch::Prefix(path) => matching.set("path", literal(path)),
            PathMatch::Exact(path) => matching.set("path", Map::new().with("exact", literal(path))),
            PathMatch::Regex(path) => matching.set("path", Map::new().with("regex", literal(path))),
            PathMatch::Template(path) => matching.set("path", Map::new().with("template", literal(path))),
        }
        if !self.methods.is_empty() {
            matching.set("methods", self.methods.iter().cloned().collect::<List>());
        }
        for (key, values) in [("headers", &self.headers), ("query", &self.query)] {
            for (name, value) in values {
                matching.map(key).set(name, value_node(value));
            }
        }
        let mut route = Map::new().with("name", literal(&self.name));
        if !matching.is_empty() {
            route.set("match", matching);
        }
        for (key, value) in self.rest.entries() {
            route.set(key, value.clone());
        }
        route
    }
}

fn value_node(value: &ValueMatch) -> Node {
    match value {
        ValueMatch::Exact(text) => literal(text).into(),
        ValueMatch::Regex(text) => Map::new().with("regex", literal(text)).into(),
        ValueMatch::Present(flag) => Map::new().with("present", *flag).into(),
    }
}

fn predicate(value: &ValueMatch) -> Result<ValuePredicate, String> {
    match value {
        ValueMatch::Exact(text) => Ok(ValuePredicate::Exact(text.clone())),
        ValueMatch::Regex(text) => ValuePredicate::regex(text).map_err(|error| error.to_string()),
        ValueMatch::Present(flag) => Ok(ValuePredicate::Present(*flag)),
    }
}

/// The routes of all listeners. One that means the same at several of them is written once.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    list: List,
    by_name: BTreeMap<String, Map>,
}

impl Routes {
    /// The name under which it is written.
    pub(crate) fn add(&mut self, mut draft: RouteDraft<'_>) -> String {
        let base = draft.name.clone();
        for number in 2.. {
            let own = draft.written();
            match self.by_name.get(&draft.name) {
                Some(known) if *known == own => break,
                Some(_) => draft.name = format!("{base}#{number}"),
                None => {
                    self.by_name.insert(draft.name.clone(), own.clone());
                    self.list.push(own);
                    break;
                }
            }
        }
        draft.name
    }

    pub(crate) fn written(self) -> List {
        self.list
    }
}

/// Takes out, and reports, what no request could be compared with, and what can never match because another route goes first. `routes` are
/// those of one listener, in the order of the file.
pub(crate) fn prune(routes: &mut Vec<RouteDraft<'_>>, report: &mut Report) {
    routes.retain(|route| match route.rule(0) {
        Ok(_) => true,
        Err(why) => {
            report.add(route.at, route.what.as_str(), why);
            false
        }
    });
    // A route that is covered for several of its hosts is named for one of them at a time.
    loop {
        let rules = routes.iter().enumerate().filter_map(|(id, route)| route.rule(id).ok()).collect();
        let Err(shadowed) = Table::compile(rules) else { return };
        let mut gone = HashSet::new();
        for shadow in shadowed {
            let by = routes[shadow.by].name.clone();
            let route = &mut routes[shadow.rule];
            let host = shadow.host.map(|host| host.to_string());
            let why = match &host {
                Some(host) if route.hosts.len() > 1 => format!("for {host}, `{by}` always goes first"),
                _ => format!("`{by}` always goes first"),
            };
            if !route.what.is_empty() {
                report.add(route.at, route.what.as_str(), why);
            }
            let before = route.hosts.len();
            route.hosts.retain(|own| HostPattern::parse(own).map(|own| own.to_string()).ok() != host);
            if route.hosts.is_empty() || route.hosts.len() == before {
                gone.insert(shadow.rule);
            }
        }
        let mut index = 0..;
        routes.retain(|_| !gone.contains(&index.next().expect("it never ends")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft<'f>(at: &'f Foreign, name: &str, hosts: &[&str], path: &str) -> RouteDraft<'f> {
        RouteDraft {
            name: name.into(),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            path: PathMatch::Prefix(path.into()),
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            rest: Map::new().with("upstream", "u"),
            at,
            what: name.into(),
        }
    }

    #[test]
    fn what_can_never_match_is_reported_and_not_written() {
        let at = crate::config::foreign("a: 1", "a.yaml").unwrap().remove(0);
        let mut routes = vec![
            draft(&at, "one", &["a.example", "b.example"], "/x"),
            draft(&at, "two", &["B.example", "c.example"], "/x"),
            draft(&at, "three", &["a.example"], "/x"),
            draft(&at, "four", &[], "no path"),
            draft(&at, "five", &[], "/x"),
        ];
        let mut report = Report::default();
        prune(&mut routes, &mut report);
        let names: Vec<(&str, Vec<String>)> =
            routes.iter().map(|route| (route.name.as_str(), route.hosts.clone())).collect();
        assert_eq!(
            names,
            [
                ("one", vec!["a.example".to_owned(), "b.example".into()]),
                ("two", vec!["c.example".into()]),
                ("five", vec![])
            ]
        );
        let left: Vec<String> =
            report.left.iter().map(|left| format!("{}: {}", left.what, left.why)).collect();
        assert_eq!(
            left,
            [
                "four: path \"no path\" must begin with `/` (write \"/no path\")",
                "two: for b.example, `one` always goes first",
                "three: `one` always goes first",
            ]
        );
    }

    #[test]
    fn a_route_is_written_as_a_person_would() {
        let at = crate::config::foreign("a: 1", "a.yaml").unwrap().remove(0);
        let mut route = draft(&at, "one", &[], "/");
        assert_eq!(route.written().to_string(), "name: one\nupstream: u\n");
        route.headers.push(("x-a".into(), ValueMatch::Regex("^${b}$".into())));
        route.methods.push("GET".into());
        assert_eq!(
            route.written().to_string(),
            "name: one\nmatch:\n  methods:\n    - GET\n  headers:\n    x-a:\n      regex: \"^$${b}$\"\nupstream: u\n"
        );
    }
}
