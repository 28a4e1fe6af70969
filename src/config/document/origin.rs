//! Configurations that no file holds: what a registry, an xDS server or a plugin says. They become the same tree as
//! text does, so that all that is asked of a file is asked of them, in the same words. What they lack is lines: a
//! problem names its origin and its path instead.

use std::fmt;

use serde_json::Value as Json;

use crate::config::document::{
    node::{At, Entry, Map, Node, Scalar, Value},
    problem::{Path, Trail},
    tree::{DEEPEST, Findings},
};

/// Who says what is configured, where it is no text. Displayed where a problem would name its file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A service registry or control plane.
    Registry,
    /// A management server that speaks xDS.
    Xds,
    /// The plugin of this name.
    Plugin(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Registry => f.write_str("registry"),
            Origin::Xds => f.write_str("xds"),
            Origin::Plugin(name) => write!(f, "plugin {name}"),
        }
    }
}

/// The tree of what source number `file` says. `None` means that it could not be read, which has been reported.
pub(in crate::config) fn tree_of(value: Json, file: u32, findings: &mut Findings) -> Option<Node> {
    Reader { file, values: 0, findings }.node(value, &Trail::Start(&Path::root()), 0)
}

struct Reader<'f> {
    file: u32,
    values: u32,
    findings: &'f mut Findings,
}

impl Reader<'_> {
    fn node(&mut self, value: Json, trail: &Trail<'_>, depth: usize) -> Option<Node> {
        // Problems sort by their places: those of values count on in the order of reading.
        self.values += 1;
        let at = At::without_line(self.file, self.values);
        if depth == DEEPEST && (value.is_array() || value.is_object()) {
            self.findings.add(at, trail.path(), format!("is nested deeper than {DEEPEST} levels"));
            return None;
        }
        match value {
            Json::Null => Some(Node::null(at)),
            Json::Bool(value) => Some(Node::new(at, Value::Scalar(Scalar::plain(value.to_string())))),
            Json::Number(value) => Some(Node::new(at, Value::Scalar(Scalar::plain(value.to_string())))),
            Json::String(text) => Some(Node::new(at, Value::Scalar(Scalar::quoted(text)))),
            Json::Array(values) => {
                let items = values.into_iter().enumerate();
                let items = items
                    .map(|(index, value)| self.node(value, &Trail::Index(trail, index), depth + 1))
                    .collect::<Option<_>>()?;
                Some(Node::new(at, Value::List(items)))
            }
            Json::Object(values) => {
                let mut entries = Vec::with_capacity(values.len());
                let mut is_partial = false;
                for (key, value) in values {
                    if key.contains("${") {
                        let message = format!("`{key}`: names are not expanded, only values are");
                        self.findings.add(at, trail.path(), message);
                        is_partial = true;
                        continue;
                    }
                    let value = self.node(value, &Trail::Key(trail, &key), depth + 1)?;
                    entries.push(Entry { key_at: value.at, key, value });
                }
                Some(Node { is_partial, ..Node::new(at, Value::Map(Map::new(entries).0)) })
            }
        }
    }
}
