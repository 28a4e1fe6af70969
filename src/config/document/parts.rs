//! Parts: upstreams and routes that stand beside the files, each a document of its own that was given to the gateway
//! while it ran. They are read as if the main file included them (`load`), with one difference: `${...}` is refused in
//! them, since whoever gives one must not read this machine's variables and files by it.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::config::document::{
    collect::{Start, collect},
    json::whole_characters,
    node::{At, Entry, Map, Node, Scalar, Value},
    problem::{Path, Problem, Problems},
    tree::{self, Findings},
};

/// All parts, in the order in which they are read after the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts(BTreeMap<PartName, Part>);

/// What a part is known by. Displayed where a problem would name its file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartName {
    pub kind: PartKind,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    Upstream,
    Route,
}

/// One upstream or one route, as it was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// YAML or JSON.
    pub text: String,
    pub stamp: Stamp,
}

/// Which of its versions something is that was ordered while the gateway ran, and who gave the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Stamp {
    /// Another one for each change, without its quotes.
    pub etag: String,
    pub by: String,
    /// RFC 3339.
    pub at: String,
}

/// What an operator has ordered of an endpoint, in the place of the weight that is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "OrderForm", into = "OrderForm")]
pub enum EndpointOrder {
    Weight(u16),
    /// Nothing new is sent there.
    Drain,
}

/// An order, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderedEndpoint {
    pub order: EndpointOrder,
    pub stamp: Stamp,
}

/// The orders for the endpoints of one upstream, by the endpoints' names.
pub type EndpointOrders = BTreeMap<String, OrderedEndpoint>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drain: Option<bool>,
}

impl TryFrom<OrderForm> for EndpointOrder {
    type Error = &'static str;

    fn try_from(form: OrderForm) -> Result<EndpointOrder, Self::Error> {
        match form {
            OrderForm { weight: Some(weight), drain: None } => Ok(EndpointOrder::Weight(weight)),
            OrderForm { weight: None, drain: Some(true) } => Ok(EndpointOrder::Drain),
            _ => Err("expected one of `{weight: NUMBER}` and `{drain: true}`; DELETE undoes either"),
        }
    }
}

impl From<EndpointOrder> for OrderForm {
    fn from(order: EndpointOrder) -> OrderForm {
        match order {
            EndpointOrder::Weight(weight) => OrderForm { weight: Some(weight), drain: None },
            EndpointOrder::Drain => OrderForm { weight: None, drain: Some(true) },
        }
    }
}

impl EndpointOrder {
    /// Reads an order in YAML or JSON, under the name by which problems are to call it.
    ///
    /// # Errors
    /// All problems with it.
    pub fn read(text: &str, name: &str) -> Result<EndpointOrder, Problems> {
        let mut findings = Findings { names: vec![name.into()], ..Default::default() };
        let Some(node) = tree::parse(&whole_characters(text), 0, &mut findings) else {
            if findings.problems.is_empty() {
                findings.add_with_hint(At::without_line(0, 0), Path::root(), "is empty", ORDER);
            }
            return Err(findings.problems.into());
        };
        let read = collect(&Start { node: &node, at: node.at, path: &Path::root() }, &findings.names);
        read.and_then(|order| if findings.problems.is_empty() { Ok(order) } else { Err(Vec::new()) })
            .map_err(|problems| findings.problems.into_iter().chain(problems).collect())
    }

    pub fn weight(self) -> u16 {
        match self {
            EndpointOrder::Weight(weight) => weight,
            EndpointOrder::Drain => 0,
        }
    }
}

const ORDER: &str = "send `{weight: 3}` or `{drain: true}`";

impl PartKind {
    pub const ALL: [PartKind; 2] = [PartKind::Upstream, PartKind::Route];

    /// The key of the configuration that holds its like.
    pub fn key(self) -> &'static str {
        match self {
            PartKind::Upstream => "upstreams",
            PartKind::Route => "routes",
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            PartKind::Upstream => "upstream",
            PartKind::Route => "route",
        }
    }

    /// What one may look like.
    pub(in crate::config) fn example(self) -> &'static str {
        match self {
            PartKind::Upstream => "send the upstream itself, such as `{endpoints: [\"127.0.0.1:3000\"]}`",
            PartKind::Route => "send the route itself, such as `{match: {path: /cart}, upstream: cart}`",
        }
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "admin:{}/{}", self.kind.key(), self.name)
    }
}

impl PartName {
    /// Whether `problem` is one with this part.
    pub fn has(&self, problem: &Problem) -> bool {
        problem.location().is_some_and(|at| *at.file == *self.to_string())
    }
}

impl Parts {
    pub fn get(&self, name: &PartName) -> Option<&Part> {
        self.0.get(name)
    }

    /// Of those that stand where a problem names `place`: the part of this kind and name.
    pub fn named(&self, kind: PartKind, name: &str) -> Option<(&PartName, &Part)> {
        self.0.get_key_value(&PartName { kind, name: name.to_owned() })
    }

    pub fn put(&mut self, name: PartName, part: Part) {
        self.0.insert(name, part);
    }

    pub fn remove(&mut self, name: &PartName) -> Option<Part> {
        self.0.remove(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&PartName, &Part)> + Clone {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are of one kind.
    pub fn count(&self, kind: PartKind) -> usize {
        self.0.keys().filter(|name| name.kind == kind).count()
    }

    /// Bytes of all texts together.
    pub fn size(&self) -> u64 {
        self.0.values().map(|part| part.text.len() as u64).sum()
    }
}

impl FromIterator<(PartName, Part)> for Parts {
    fn from_iter<I: IntoIterator<Item = (PartName, Part)>>(parts: I) -> Parts {
        Parts(parts.into_iter().collect())
    }
}

/// The configuration that has nothing but `part`, which is what was sent under that name.
pub(in crate::config) fn configuration(name: &PartName, part: Node, findings: &mut Findings) -> Node {
    let at = part.at;
    let map = |key: &str, value: Node| {
        let entry = Entry { key: key.to_owned(), key_at: at, value };
        Node::new(at, Value::Map(Map::new(vec![entry]).0))
    };
    let all = match name.kind {
        PartKind::Upstream => map(&name.name, part),
        PartKind::Route => Node::new(at, Value::List(vec![named(&name.name, part, findings)])),
    };
    map(name.kind.key(), all)
}

/// `route` under its name, which it may say itself.
fn named(name: &str, route: Node, findings: &mut Findings) -> Node {
    let Node { at, value: Value::Map(map), is_partial } = route else { return route };
    let mut entries = map.into_entries();
    match entries.iter().find(|entry| entry.key == "name") {
        Some(said) if !matches!(&said.value.value, Value::Scalar(scalar) if scalar.text == name) => {
            let message = format!("the path of the request names the route `{name}`");
            findings.add_with_hint(said.at(), Path::root().key("name"), message, "leave `name` out");
        }
        Some(_) => {}
        None => {
            let value = Node::new(at, Value::Scalar(Scalar::quoted(name.to_owned())));
            entries.push(Entry { key: "name".to_owned(), key_at: at, value });
        }
    }
    Node { is_partial, ..Node::new(at, Value::Map(Map::new(entries).0)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Loaded, parse_beside};

    const FILE: &str = "listeners: [{address: '127.0.0.1:0'}]\nroutes: [{name: all, upstream: users}]\n\
                        upstreams: {users: {endpoints: ['127.0.0.1:1']}}\n";

    fn part(kind: PartKind, name: &str, text: &str) -> (PartName, Part) {
        let stamp = Stamp { etag: "1".into(), by: "somebody".into(), at: "then".into() };
        (PartName { kind, name: name.into() }, Part { text: text.into(), stamp })
    }

    fn upstream(name: &str, text: &str) -> (PartName, Part) {
        part(PartKind::Upstream, name, text)
    }

    fn route(name: &str, text: &str) -> (PartName, Part) {
        part(PartKind::Route, name, text)
    }

    fn load(parts: impl IntoIterator<Item = (PartName, Part)>) -> Loaded {
        parse_beside(FILE, "g.yaml", &parts.into_iter().collect::<Parts>().into()).unwrap()
    }

    fn problems(parts: impl IntoIterator<Item = (PartName, Part)>) -> Vec<String> {
        load(parts).problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn parts_are_read_as_if_the_file_included_them() {
        let parts = [
            route("cart", "match: {path: /cart}\nupstream: cart\n"),
            upstream("cart", r#"{"endpoints": ["127.0.0.1:2"]}"#),
        ];
        let loaded = load(parts.clone());
        let config = loaded.config().unwrap();
        let names: Vec<_> = config.routes.iter().map(|route| route.name.as_deref()).collect();
        assert_eq!(names, [Some("all"), Some("cart")]);
        assert_eq!(config.upstreams.keys().collect::<Vec<_>>(), ["cart", "users"]);
        assert!(loaded.sources.files().is_empty(), "there is no file of theirs to watch");
        assert_ne!(loaded.sources.hash(), load([]).sources.hash());
        let commented = route("cart", "# the same\nname: cart\nmatch: {path: /cart}\nupstream: cart\n");
        assert_eq!(loaded.sources.hash(), load([commented, parts[1].clone()]).sources.hash());
    }

    #[test]
    fn problems_stand_at_their_places_in_what_was_sent() {
        let found = problems([
            upstream("a", "endpoints: [127.0.0.1:1]\nbalancr: random\n"),
            upstream("b", ""),
            upstream("c", "{endpoints: ["),
            upstream("d", "[]"),
            upstream("e", "endpoints: ['${file:/etc/passwd}']"),
            route("r", "{name: other, upstream: users}"),
            route("s", "upstreams: {}"),
        ]);
        let expected = [
            "admin:upstreams/a:2:1: upstreams.a: unknown key `balancr` (did you mean `balancer`?)",
            "admin:upstreams/b: is empty (send the upstream itself, such as `{endpoints: [\"127.0.0.1:3000\"]}`)",
            "admin:upstreams/c:2:1: malformed YAML",
            "admin:upstreams/d:1:1: upstreams.d: ",
            "admin:upstreams/e:1:13: upstreams.e.endpoints[0]: `${file:/etc/passwd}` is not expanded here",
            "admin:routes/r:1:8: name: the path of the request names the route `r` (leave `name` out)",
            "admin:routes/s:1:1: routes[2]: unknown key `upstreams`",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\nand not\n{expected}");
        }
    }

    #[test]
    fn a_name_in_both_is_a_problem_that_names_both_places() {
        let loaded = load([upstream("users", "endpoints: [127.0.0.1:2]")]);
        let problem = loaded.problems().iter().next().unwrap();
        let told =
            "admin:upstreams/users:1:1: upstreams: `users` already stands at g.yaml:3:13; names are unique";
        assert_eq!(problem.to_string(), told);
        assert!(problem.is_of_a_name_twice());
        assert!(PartName { kind: PartKind::Upstream, name: "users".into() }.has(problem));
    }

    #[test]
    fn an_order_is_one_of_two_things() {
        for (text, order) in [
            ("{weight: 3}", EndpointOrder::Weight(3)),
            ("{\"weight\": 0}", EndpointOrder::Weight(0)),
            ("drain: true", EndpointOrder::Drain),
        ] {
            assert_eq!(EndpointOrder::read(text, "x"), Ok(order), "{text}");
            let written = serde_json::to_string(&order).unwrap();
            assert_eq!(serde_json::from_str::<EndpointOrder>(&written).unwrap(), order);
        }
        for text in [
            "",
            "{}",
            "{drain: false}",
            "{weight: 1, drain: true}",
            "{weight: 65536}",
            "{wait: 1}",
            "[",
            "7",
            "a\0",
        ] {
            let told = EndpointOrder::read(text, "x").unwrap_err().to_string();
            assert!(told.starts_with('x'), "{text}: {told}");
        }
    }
}
