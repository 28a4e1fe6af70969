//! Upstreams in one word: where an upstream's name stands, its address may stand too, or a list of addresses. Each becomes an entry of
//! `upstreams` that is called as it was written, before anything is read into its type. So all that holds for upstreams holds for these:
//! what is said of them, what they are by default, and that one of a name is the same everywhere.

use std::collections::HashSet;

use crate::config::document::node::{At, Entry, Kind, Map, Node, Scalar, Value};

const UPSTREAMS: &str = "upstreams";
const ENDPOINTS: &str = "endpoints";

/// Gives each address its entry in the `upstreams` of `root`.
pub(in crate::config) fn name_addresses(root: &mut Node) {
    let Value::Map(top) = &mut root.value else { return };
    let mut found = Found::default();
    if let Some(Entry { value: Node { value: Value::Map(map), .. }, .. }) = top.entry(UPSTREAMS) {
        found.known.extend(map.iter().map(|entry| entry.key.clone()));
    }
    for (key, value) in top.values_mut() {
        let Value::List(items) = &mut value.value else { continue };
        match key {
            "routes" => items.iter_mut().for_each(|route| found.of_route(route)),
            "listeners" => items.iter_mut().for_each(|listener| found.at(listener, &["upstream"])),
            _ => {}
        }
    }
    if found.entries.is_empty() {
        return;
    }
    match top.entry_mut(UPSTREAMS) {
        Some(Entry { value: Node { value: Value::Map(map), .. }, .. }) => map.extend(found.entries),
        Some(Entry { value, .. }) if value.is_null() => {
            value.value = Value::Map(Map::new(found.entries).0);
        }
        // It is no map, which is told.
        Some(_) => {}
        None => {
            let at = found.entries[0].key_at;
            let value = Node::new(at, Value::Map(Map::new(found.entries).0));
            top.extend(vec![Entry { key: UPSTREAMS.to_owned(), key_at: at, value }]);
        }
    }
}

#[derive(Default)]
struct Found {
    /// What has an entry.
    known: HashSet<String>,
    entries: Vec<Entry>,
}

impl Found {
    fn of_route(&mut self, route: &mut Node) {
        self.at(route, &["upstream"]);
        self.at(route, &["mirror", "upstream"]);
        self.at(route, &["canary", "stable"]);
        self.at(route, &["canary", "candidate"]);
        let variants = below(route, &["split", "to"]);
        if let Some(Node { value: Value::List(variants), .. }) = variants {
            variants.iter_mut().for_each(|variant| self.at(variant, &["upstream"]));
        }
    }

    fn at(&mut self, node: &mut Node, keys: &[&str]) {
        let Some(node) = below(node, keys) else { return };
        let Some((name, endpoints)) = self.addresses(node) else { return };
        let at = node.at;
        if let Value::List(items) = &node.value {
            let mut scalar = Scalar::quoted(name.clone());
            // What was expanded is shown as it was written.
            let written = items.iter().filter_map(Node::written).collect::<Vec<_>>().join(",");
            scalar.raw = (written != name).then(|| written.into());
            node.value = Value::Scalar(scalar);
        }
        if self.known.insert(name.clone()) {
            self.entries.push(upstream(name, endpoints, at));
        }
    }

    /// What to call it, and its endpoints; `None` for a name, and for what is neither.
    fn addresses(&self, node: &Node) -> Option<(String, Vec<Node>)> {
        let items = match &node.value {
            Value::Scalar(_) => std::slice::from_ref(node),
            Value::List(items) if !items.is_empty() => items,
            _ => return None,
        };
        let texts: Vec<&str> = items.iter().map(address).collect::<Option<_>>()?;
        let name = texts.join(",");
        let is_name = matches!(node.value, Value::Scalar(_)) && self.known.contains(&name);
        // What is known may be an address that stood elsewhere: then it has its entry.
        (!is_name).then(|| (name, items.to_vec()))
    }
}

fn upstream(name: String, endpoints: Vec<Node>, at: At) -> Entry {
    let list = Node::new(at, Value::List(endpoints));
    let map = Map::new(vec![Entry { key: ENDPOINTS.to_owned(), key_at: at, value: list }]).0;
    Entry { key: name, key_at: at, value: Node::new(at, Value::Map(map)) }
}

fn below<'n>(mut node: &'n mut Node, keys: &[&str]) -> Option<&'n mut Node> {
    for key in keys {
        let Value::Map(map) = &mut node.value else { return None };
        node = &mut map.entry_mut(key)?.value;
    }
    Some(node)
}

/// `host:port`, or the path of a Unix socket. Whether it is a good one is said of it as an endpoint.
fn address(node: &Node) -> Option<&str> {
    let Value::Scalar(scalar) = &node.value else { return None };
    let text = scalar.text.as_str();
    let is_text = scalar.kind == Kind::Text && !scalar.broken && !text.contains([' ', ',']);
    (is_text && is_address(text)).then_some(text)
}

fn is_address(text: &str) -> bool {
    let has_port = || {
        let (host, port) = text.rsplit_once(':')?;
        let is_host = !host.is_empty() && !host.contains('/');
        (is_host && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(())
    };
    text.starts_with("unix:") || has_port().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document::loaded::of_text::{load, problems};

    #[test]
    fn an_address_is_what_has_a_port_or_is_a_socket() {
        for (text, expected) in [
            ("127.0.0.1:3000", true),
            ("users.internal:80", true),
            ("[::1]:80", true),
            ("unix:/run/app.sock", true),
            ("users", false),
            ("users:v2", false),
            (":3000", false),
            ("users:", false),
            ("http://users:80", false),
        ] {
            assert_eq!(is_address(text), expected, "{text}");
        }
    }

    #[test]
    fn each_address_is_one_upstream_called_as_it_is_written() {
        let yaml = "listeners: [{address: ':1', protocol: tcp, upstream: 'db:5432'}]\nroutes:\n- upstream: a:1\n- {match: {path: /b}, \
                    upstream: [a:1, b:1]}\n- {match: {path: /c}, upstream: a:1, mirror: {upstream: c:1}}\n- {match: {path: /d}, canary: \
                    {stable: a:1, candidate: d:1}}\n- {match: {path: /e}, split: {to: [{upstream: e:1}, {upstream: named}]}}\n\
                    upstreams: {named: {endpoints: ['n:1']}}\n";
        let loaded = load(yaml);
        let config = loaded.config().unwrap();
        let names: Vec<&str> = config.upstreams.keys().map(String::as_str).collect();
        assert_eq!(names, ["a:1", "a:1,b:1", "c:1", "d:1", "db:5432", "e:1", "named"]);
        assert_eq!(config.upstreams["a:1,b:1"].endpoints.len(), 2);
        assert_eq!(config.routes[1].upstream.as_deref(), Some("a:1,b:1"));
        let place =
            loaded.sources.problem(&crate::config::Path::root().key("upstreams").key("a:1"), "").place();
        assert_eq!(place, "g.yaml:3:13");
    }

    #[test]
    fn an_upstream_of_that_name_is_meant() {
        let yaml = "routes: [{upstream: 'a:1'}]\nupstreams: {'a:1': {endpoints: ['b:1', 'c:1']}}\n";
        assert_eq!(load(yaml).config().unwrap().upstreams["a:1"].endpoints.len(), 2);
    }

    #[test]
    fn a_list_of_anything_else_is_told_what_to_write() {
        let told = problems("routes: [{upstream: [a, b]}]");
        assert!(told[0].contains("{to: [{upstream: a}, {upstream: b}]}"), "{told:?}");
        let told = problems("routes: [{upstream: ['a:1', {address: 'b:1', weight: 2}]}]");
        assert!(told[0].starts_with("g.yaml:1:21: routes[0].upstream"), "{told:?}");
    }

    #[test]
    fn what_a_variable_holds_is_an_address_too() {
        let environment = |_: &str| Ok("a:1".to_owned());
        let yaml = "routes: [{upstream: '${env:APP}'}]";
        let loaded =
            crate::config::document::load::parse_with(yaml, "g.yaml", &Default::default(), &environment)
                .unwrap();
        let config = loaded.config().unwrap();
        assert!(config.upstreams.contains_key("a:1"));
        let shown = loaded.sources.effective(config).value();
        assert_eq!(shown["routes"][0]["upstream"], "${env:APP}", "it is shown as it is written");
    }
}
