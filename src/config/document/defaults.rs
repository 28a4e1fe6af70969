//! `defaults` is written into what it is for, before that is read into its type: nothing after this knows of it. What comes from there keeps the
//! place where it stands, as the copies of an anchor do, and `Sources` knows it again by that.
//!
//! A value in the thing itself wins, `null` too; maps are joined by key, since whoever sets `retry.on` hardly means to lose `retry.attempts`;
//! lists are replaced. Filters are the exception: those of the defaults run first, in every route, or a route with one filter of its own
//! would be without the guard that all have. `defaults: false` is the way out, and can be searched for.

use std::{collections::HashSet, sync::Arc};

use serde::de::DeserializeOwned;

use crate::config::{
    document::{
        collect::{Collected, Start, collect_all},
        node::{Entry, Kind, Map, Node, Scalar, Value},
        omissions::Misspelt,
        problem::{Path, Problem, Segment},
        tree::locate,
    },
    model::{
        defaults::{OF_ONE_LISTENER, OF_ONE_ROUTE, OF_ONE_UPSTREAM},
        listener::{Limits, Listener},
        route::Route,
        upstream::Upstream,
    },
};

pub(in crate::config) const DEFAULTS: &str = "defaults";
const FILTERS: &str = "filters";

/// What is one choice as a whole, with nothing of another joined to it.
const CHOICES: [&str; 2] = ["balancer", "verify"];
/// In the map of this name, one of these goes without the others.
const EITHER: [(&str, &[&str]); 2] =
    [("health_check", &["http", "tcp", "grpc"]), ("tls", &["client_identity", "client_cert"])];
/// What does nothing at a route that answers by itself.
const OF_FORWARDING: [&str; 7] =
    ["timeout", "timeout_header", "grpc_streams", "retry", "hedge", "mirror", "priority"];
/// What does nothing at a listener that is not of HTTP, but for limits.
const OF_HTTP: [&str; 4] = ["filters", "half_close", "paths", "error_pages"];

/// What was found wrong with the defaults themselves.
#[derive(Default)]
pub(in crate::config) struct Spread {
    pub problems: Vec<Problem>,
    /// By `Node::id`.
    pub pruned: HashSet<usize>,
    pub misspelt: Misspelt,
}

/// Writes the `defaults` of `root` into its routes, upstreams and listeners.
pub(in crate::config) fn spread(root: &mut Node, names: &[Arc<str>]) -> Spread {
    let mut spread = Spread::default();
    let Value::Map(top) = &mut root.value else { return spread };
    let Some(entry) = top.entry_mut(DEFAULTS) else { return spread };
    // What it holds is on the heap, and stays where it is.
    let nothing = Node::null(entry.value.at);
    let mut defaults = std::mem::replace(&mut entry.value, nothing);
    if let Value::Map(kinds) = &mut defaults.value {
        refuse(kinds, "route", &OF_ONE_ROUTE, names, &mut spread.problems);
        refuse(kinds, "upstream", &OF_ONE_UPSTREAM, names, &mut spread.problems);
        refuse(kinds, "listener", &OF_ONE_LISTENER, names, &mut spread.problems);
        if let Some(Entry { value: Node { at, value: Value::Map(map), .. }, .. }) =
            kinds.entry_mut("listener")
        {
            // None has one, and none is read without. It is given to nobody.
            let address = Node::new(*at, Value::Scalar(Scalar::quoted(":0".to_owned())));
            map.extend(vec![Entry { key: "address".to_owned(), key_at: *at, value: address }]);
        }
        spread.check::<Route>(kinds, "route", names);
        spread.check::<Upstream>(kinds, "upstream", names);
        spread.check::<Listener>(kinds, "listener", names);
        let filler = Filler { pruned: &spread.pruned };
        for (key, value) in top.values_mut() {
            match (key, &mut value.value) {
                ("routes", Value::List(routes)) => {
                    filler.all(routes.iter_mut(), kinds.entry("route"), of_route)
                }
                ("listeners", Value::List(listeners)) => {
                    filler.all(listeners.iter_mut(), kinds.entry("listener"), of_listener);
                }
                ("upstreams", Value::Map(upstreams)) => {
                    let upstreams = upstreams.values_mut().map(|(_, upstream)| upstream);
                    filler.all(upstreams, kinds.entry("upstream"), |_| OF_ONE_UPSTREAM.to_vec());
                }
                _ => {}
            }
        }
    }
    if let Some(entry) = top.entry_mut(DEFAULTS) {
        entry.value = defaults;
    }
    spread
}

/// Where `path` would stand in the defaults, if it came from there.
pub(in crate::config) fn origin(path: &Path) -> Option<Path> {
    let [Segment::Key(all), one, rest @ ..] = path.segments() else { return None };
    let kind = match (all.as_str(), one) {
        ("routes", Segment::Index(_)) => "route",
        ("listeners", Segment::Index(_)) => "listener",
        ("upstreams", Segment::Key(_)) => "upstream",
        _ => return None,
    };
    let start = Path::root().key(DEFAULTS).key(kind);
    Some(rest.iter().fold(start, |path, segment| match segment {
        Segment::Key(key) => path.key(key.as_str()),
        Segment::Index(index) => path.index(*index),
    }))
}

/// What cannot be the same for all.
fn refuse(kinds: &Map, kind: &str, of_one: &[&str], names: &[Arc<str>], problems: &mut Vec<Problem>) {
    let Some(Entry { value: Node { value: Value::Map(map), .. }, .. }) = kinds.entry(kind) else { return };
    let path = Path::root().key(DEFAULTS).key(kind);
    for Entry { key, key_at, .. } in map.iter().filter(|entry| of_one.contains(&entry.key.as_str())) {
        let hint = match key.as_str() {
            "defaults" => format!("it is for one {kind} that is to take none of them"),
            _ => format!("remove it here, and write it at the {kind} that it is for"),
        };
        let problem = Problem::new(format!("`{key}` is no default: each {kind} has its own"));
        problems.push(problem.at(locate(names, *key_at)).path(path.key(key.as_str())).hint(hint));
    }
}

/// What is not given to this route.
fn of_route(route: &Map) -> Vec<&'static str> {
    let answers = ["respond", "redirect"].iter().any(|key| route.entry(key).is_some());
    let more: &[&str] = if answers { &OF_FORWARDING } else { &[] };
    [OF_ONE_ROUTE.as_slice(), more].concat()
}

fn of_listener(listener: &Map) -> Vec<&'static str> {
    let protocol = listener.entry("protocol").and_then(|entry| entry.value.written());
    let of_http = Limits::default().of_http().map(|(key, _)| key);
    match protocol {
        Some("tcp") => [OF_ONE_LISTENER.as_slice(), &OF_HTTP, &of_http].concat(),
        Some("tls_passthrough") => [OF_ONE_LISTENER.as_slice(), &OF_HTTP, &of_http, &["tls"]].concat(),
        _ => OF_ONE_LISTENER.to_vec(),
    }
}

impl Spread {
    fn check<T: DeserializeOwned>(&mut self, kinds: &Map, kind: &str, names: &[Arc<str>]) {
        let Some(entry) = kinds.entry(kind).filter(|entry| !entry.value.is_null()) else { return };
        let path = Path::root().key(DEFAULTS).key(kind);
        let start = Start { node: &entry.value, at: entry.at(), path: &path };
        let Collected { value, problems, pruned, misspelt } = collect_all::<T>(&start, names);
        self.problems.extend(problems);
        self.pruned.extend(pruned);
        self.misspelt.extend(misspelt);
        if value.is_none() {
            self.pruned.insert(entry.value.id());
        }
    }
}

struct Filler<'p> {
    /// What was wrong is told once, and given to nobody.
    pruned: &'p HashSet<usize>,
}

impl Filler<'_> {
    fn all<'n>(
        &self,
        things: impl Iterator<Item = &'n mut Node>,
        from: Option<&Entry>,
        kept_out: impl Fn(&Map) -> Vec<&'static str>,
    ) {
        let Some(Entry { value: from, .. }) = from.filter(|from| !self.pruned.contains(&from.value.id()))
        else {
            return;
        };
        for thing in things {
            let Value::Map(map) = &thing.value else { continue };
            let takes_none = map.entry(DEFAULTS).is_some_and(|entry| {
                matches!(&entry.value.value, Value::Scalar(scalar) if scalar.kind == Kind::Bool(false))
            });
            if !takes_none {
                let kept_out = kept_out(map);
                self.fill(thing, from, "", &kept_out);
            }
        }
    }

    /// `holder` is the key that both maps stand under.
    fn fill(&self, own: &mut Node, from: &Node, holder: &str, kept_out: &[&str]) {
        let (Value::Map(own), Value::Map(from)) = (&mut own.value, &from.value) else { return };
        let either = EITHER.iter().find(|(map, _)| *map == holder).map_or(&[][..], |(_, keys)| keys);
        let has_chosen = either.iter().any(|key| own.entry(key).is_some());
        let mut added = Vec::new();
        for Entry { key, key_at, value } in from.iter() {
            let is_out = kept_out.contains(&key.as_str()) && (holder.is_empty() || holder == "limits");
            if is_out || self.pruned.contains(&value.id()) {
                continue;
            }
            match own.entry_mut(key) {
                Some(own) => self.join(&mut own.value, value, key, kept_out),
                None if has_chosen && either.contains(&key.as_str()) => {}
                None => {
                    let mut value = self.copy(value);
                    if key == "limits" {
                        without(&mut value, kept_out);
                    }
                    added.push(Entry { key: key.clone(), key_at: *key_at, value });
                }
            }
        }
        if !added.is_empty() {
            own.extend(added);
        }
    }

    fn join(&self, own: &mut Node, from: &Node, key: &str, kept_out: &[&str]) {
        if key == FILTERS {
            return self.put_first(own, from);
        }
        if CHOICES.contains(&key) {
            return;
        }
        if let (Some(own_map), Some(from_map)) = (long_form(own, key), long_form(&self.copy(from), key)) {
            *own = own_map;
            self.fill(own, &from_map, key, kept_out);
        } else {
            self.fill(own, from, key, kept_out);
        }
    }

    /// A chain that was commented out is empty, and no way around a guard.
    fn put_first(&self, own: &mut Node, from: &Node) {
        let Value::List(first) = &from.value else { return };
        if own.is_null() {
            own.value = Value::List(Vec::new());
        }
        let Value::List(own) = &mut own.value else { return };
        let kept = first.iter().filter(|item| !self.pruned.contains(&item.id()));
        own.splice(..0, kept.map(|item| self.copy(item)));
    }

    fn copy(&self, node: &Node) -> Node {
        if self.pruned.is_empty() {
            return node.clone();
        }
        let is_kept = |node: &Node| !self.pruned.contains(&node.id());
        let value = match &node.value {
            Value::Scalar(scalar) => Value::Scalar(scalar.clone()),
            Value::List(items) => {
                Value::List(items.iter().filter(|item| is_kept(item)).map(|item| self.copy(item)).collect())
            }
            Value::Map(map) => {
                let kept = map.iter().filter(|entry| is_kept(&entry.value));
                let copied = kept.map(|Entry { key, key_at, value }| Entry {
                    key: key.clone(),
                    key_at: *key_at,
                    value: self.copy(value),
                });
                Value::Map(Map::new(copied.collect()).0)
            }
        };
        Node { at: node.at, value, is_partial: node.is_partial }
    }
}

fn without(node: &mut Node, keys: &[&str]) {
    if let Value::Map(map) = &mut node.value {
        let mut entries = std::mem::take(map).into_entries();
        entries.retain(|entry| !keys.contains(&entry.key.as_str()));
        *map = Map::new(entries).0;
    }
}

/// The map that a short form stands for, and a map itself.
fn long_form(node: &Node, key: &str) -> Option<Node> {
    let of = |key: &str, value: Node| {
        let at = value.at;
        Node::new(at, Value::Map(Map::new(vec![Entry { key: key.to_owned(), key_at: at, value }]).0))
    };
    match (&node.value, key) {
        (Value::Map(_), "retry" | "health_check") => Some(node.clone()),
        (Value::Scalar(Scalar { kind: Kind::Unsigned(_), .. }), "retry") => {
            Some(of("attempts", node.clone()))
        }
        (Value::Scalar(Scalar { kind: Kind::Text, .. }), "health_check") => {
            Some(of("http", of("path", node.clone())))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document::loaded::of_text::{load, problems};

    /// What is shown of the configuration, at a pointer into it.
    fn shown(yaml: &str, pointer: &str) -> String {
        let loaded = load(yaml);
        let config = loaded.config().unwrap_or_else(|problems| panic!("{yaml}\n{problems}"));
        loaded.sources.effective(config).value().pointer(pointer).unwrap().to_string()
    }

    #[test]
    fn what_is_written_in_the_thing_itself_wins() {
        for (route, pointer, expected) in [
            ("", "/routes/0/timeout", "\"5s\""),
            ("timeout: 9s", "/routes/0/timeout", "\"9s\""),
            ("timeout: null", "/routes/0/timeout", "null"),
            ("defaults: false", "/routes/0/timeout", "null"),
            ("defaults: true", "/routes/0/timeout", "\"5s\""),
            ("retry: {on: [reset]}", "/routes/0/retry/attempts", "4"),
            ("retry: {on: [reset]}", "/routes/0/retry/on", "[\"reset\"]"),
            ("retry: {on: [reset]}", "/routes/0/retry/backoff/base", "\"7ms\""),
            ("retry: {backoff: {max: 9s}}", "/routes/0/retry/backoff/base", "\"7ms\""),
            ("retry: 2", "/routes/0/retry/attempts", "2"),
            ("retry: 2", "/routes/0/retry/backoff/base", "\"7ms\""),
            ("filters: [b]", "/routes/0/filters", "[\"a\",\"b\"]"),
            ("filters:", "/routes/0/filters", "[\"a\"]"),
            ("filters: [b], defaults: false", "/routes/0/filters", "[\"b\"]"),
        ] {
            let yaml = format!(
                "defaults: {{route: {{timeout: 5s, filters: [a], retry: {{attempts: 4, backoff: {{base: 7ms}}}}}}}}\n\
                 routes: [{{upstream: u, {route}}}]\n"
            );
            assert_eq!(shown(&yaml, pointer), expected, "{route}");
        }
    }

    #[test]
    fn short_forms_are_the_maps_that_they_stand_for() {
        let of = |upstream: &str, default: &str, pointer: &str| {
            let yaml = format!(
                "defaults: {{upstream: {{health_check: {default}}}}}\nupstreams: {{u: {{endpoints: ['a:1'], {upstream}}}}}\n"
            );
            shown(&yaml, &format!("/upstreams/u/health_check{pointer}"))
        };
        assert_eq!(of("", "/live", "/http/path"), "\"/live\"");
        assert_eq!(of("health_check: {interval: 9s}", "/live", "/http/path"), "\"/live\"");
        assert_eq!(of("health_check: /own", "{http: {path: /live}, interval: 9s}", "/interval"), "\"9s\"");
        assert_eq!(of("health_check: /own", "{http: {path: /live}, interval: 9s}", "/http/path"), "\"/own\"");
        assert_eq!(of("health_check: {tcp: {}}", "{http: {path: /live}, interval: 9s}", "/http"), "null");
        assert_eq!(of("health_check: null", "/live", ""), "null");
    }

    #[test]
    fn one_choice_is_not_joined_to_another() {
        let yaml = "defaults: {upstream: {balancer: {hash: client_ip}, tls: {client_identity: true, min_version: '1.3'}}}\nupstreams: {u: \
                    {endpoints: ['a:1'], balancer: {hash: {header: x-a}}, tls: {client_cert: {cert: c, key: k}}}}\n";
        assert_eq!(shown(yaml, "/upstreams/u/balancer"), r#"{"hash":{"header":"x-a"}}"#);
        assert_eq!(shown(yaml, "/upstreams/u/tls/client_identity"), "false");
        assert_eq!(shown(yaml, "/upstreams/u/tls/min_version"), "\"1.3\"");
    }

    #[test]
    fn what_would_do_nothing_is_not_given() {
        let yaml = "defaults: {route: {timeout: 5s, retry: 3}, listener: {limits: {connections: 7, body_size: 1MiB}, filters: [a], \
                    half_close: true}}\nroutes: [{respond: {status: 204}}]\nlisteners: [{address: ':1', protocol: tcp, upstream: u}, \
                    {address: ':2'}, {address: ':3', limits: {connections: 8}}, {address: ':4', protocol: tcp, upstream: u, limits: \
                    {idle_timeout: 9s}}]\n";
        assert_eq!(shown(yaml, "/routes/0/timeout"), "null");
        assert_eq!(shown(yaml, "/routes/0/retry"), "null");
        assert_eq!(shown(yaml, "/listeners/0/limits/connections"), "7");
        assert_eq!(shown(yaml, "/listeners/0/limits/body_size"), "null");
        assert_eq!(shown(yaml, "/listeners/0/filters"), "[]");
        assert_eq!(shown(yaml, "/listeners/0/half_close"), "false");
        assert_eq!(shown(yaml, "/listeners/1/limits/body_size"), "\"1MiB\"");
        assert_eq!(shown(yaml, "/listeners/1/filters"), "[\"a\"]");
        assert_eq!(shown(yaml, "/listeners/2/limits/connections"), "8");
        assert_eq!(shown(yaml, "/listeners/2/limits/body_size"), "\"1MiB\"");
        assert_eq!(shown(yaml, "/listeners/3/limits/connections"), "7");
        assert_eq!(shown(yaml, "/listeners/3/limits/body_size"), "null");
    }

    #[test]
    fn a_mistake_is_told_once_and_where_it_stands() {
        let yaml = "defaults:\n  route: {timeout: 5, retri: 3, name: x}\n  upstream: {endpoints: ['a:1'], pool: {max_requests: 0}}\n  \
                    listener: {adress: x, address: ':1'}\n  rout: {}\nroutes: [{upstream: u}, {upstream: u}]\nupstreams: {u: {endpoints: \
                    ['a:1']}, v: {endpoints: ['a:1']}}\nlisteners: [{address: ':2'}]\n";
        let found = problems(yaml);
        let expected = [
            "g.yaml:2:20: defaults.route.timeout: 5 is not a duration",
            "g.yaml:2:23: defaults.route: unknown key `retri` (did you mean `retry`?)",
            "g.yaml:2:33: defaults.route.name: `name` is no default: each route has its own (remove it here, and write it at the route \
             that it is for)",
            "g.yaml:3:14: defaults.upstream.endpoints: `endpoints` is no default: each upstream has its own",
            "g.yaml:3:55: defaults.upstream.pool.max_requests: expected a whole number, 1 or more",
            "g.yaml:4:14: defaults.listener: unknown key `adress` (did you mean `address`?)",
            "g.yaml:4:25: defaults.listener.address: `address` is no default",
            "g.yaml:5:3: defaults: unknown key `rout` (did you mean `route`?)",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\nand not\n{expected}");
        }
    }

    #[test]
    fn secrets_of_the_defaults_are_hidden_wherever_they_are_given() {
        let yaml = "defaults: {route: {filters: [{headers: {request: {set: {authorization: s3cret}}}}]}, upstream: {health_check: {http: \
                    {headers: {x-token: s3cret}}}}}\nroutes: [{upstream: u}]\nupstreams: {u: {endpoints: ['a:1']}}\n";
        let loaded = load(yaml);
        let text = loaded.sources.effective(loaded.config().unwrap()).text().to_owned();
        assert!(!text.contains("s3cret"), "{text}");
        assert!(!text.contains("\"defaults\":{"), "{text}");
    }

    #[test]
    fn what_was_inherited_is_known_by_its_place() {
        let yaml = "defaults:\n  route:\n    timeout: 5s\n    retry:\n      attempts: 4\n    filters: [a]\nroutes:\n- upstream: u\n  retry: \
                    {on: [reset]}\n  filters: [b]\n- {upstream: u, defaults: false, timeout: 5s}\n";
        let loaded = load(yaml);
        let route = |index: usize| Path::root().key("routes").index(index);
        assert_eq!(loaded.sources.inherited_keys(&route(0)), ["retry.attempts", "filters", "timeout"]);
        assert!(loaded.sources.inherited_keys(&route(1)).is_empty());
        let problem = loaded.sources.problem(&route(0).key("timeout"), "is odd").to_string();
        assert_eq!(problem, "g.yaml:3:14: defaults.route.timeout: is odd");
        let problem = loaded.sources.problem(&route(0).key("retry").key("on"), "is odd").to_string();
        assert_eq!(problem, "g.yaml:9:15: routes[0].retry.on: is odd");
        let problem = loaded.sources.problem(&route(0).key("filters").index(0), "is odd").to_string();
        assert_eq!(problem, "g.yaml:6:15: defaults.route.filters[0]: is odd");
        let problem = loaded.sources.problem(&route(0).key("filters").index(1), "is odd").to_string();
        assert_eq!(problem, "g.yaml:10:13: routes[0].filters[1]: is odd");
    }

    #[test]
    fn addresses_in_routes_are_upstreams_with_the_defaults_of_all() {
        let yaml = "defaults: {upstream: {connect_timeout: 7s}}\nroutes: [{upstream: 'a:1'}]\n";
        assert_eq!(shown(yaml, "/upstreams/a:1/connect_timeout"), "\"7s\"");
    }
}
