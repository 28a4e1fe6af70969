//! The configuration as a tree in which every value knows where it was written.
//! A scalar keeps both what it means and, when `${...}` was expanded in it, what was written; everything that
//! is shown to anyone is made from what was written.

use std::{
    borrow::Cow,
    fmt,
    hash::{Hash, Hasher},
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::Value as Json;

use crate::config::document::problem::{Path, Segment};

pub(in crate::config) const REDACTED: &str = "[redacted]";

/// A place in what was read, by the number of its file or other source; line and column count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct At {
    pub file: u32,
    pub line: u32,
    pub column: u32,
}

#[derive(Clone, Debug)]
pub(in crate::config) struct Node {
    pub at: At,
    pub value: Value,
    /// Entries of it were lost before they came to be nodes, which has been reported.
    pub is_partial: bool,
}

#[derive(Clone, Debug)]
pub(in crate::config) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Map),
}

/// Entries in file order, with an index by name: a map may hold ten thousand upstreams, each looked up by path.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Map {
    entries: Vec<Entry>,
    by_name: Vec<u32>,
}

#[derive(Clone, Debug)]
pub(in crate::config) struct Entry {
    pub key: String,
    pub key_at: At,
    pub value: Node,
}

#[derive(Clone)]
pub(in crate::config) struct Scalar {
    /// With `${...}` expanded.
    pub text: String,
    pub kind: Kind,
    /// Written without quotes: what it means follows from its text.
    pub plain: bool,
    /// As written, where that is not `text`.
    pub raw: Option<Box<str>>,
    /// Could not be expanded, which has been reported.
    pub broken: bool,
    secret: Mark,
}

/// What a scalar means by the core schema of YAML 1.2 (section 10.3.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::config) enum Kind {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text,
}

/// Set while the tree is only borrowed: which values are secrets is learned by reading them into their types.
#[derive(Default)]
struct Mark(AtomicBool);

impl Clone for Mark {
    fn clone(&self) -> Self {
        Mark(AtomicBool::new(self.0.load(Ordering::Relaxed)))
    }
}

impl At {
    /// A place in a source that has no lines, or a file as a whole. Places of one source sort by `number`.
    pub(crate) fn without_line(file: u32, number: u32) -> Self {
        At { file, line: 0, column: number }
    }
}

impl Node {
    pub(crate) fn new(at: At, value: Value) -> Self {
        Node { at, value, is_partial: false }
    }

    pub(crate) fn null(at: At) -> Self {
        Node::new(at, Value::Scalar(Scalar::plain(String::new())))
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.kind == Kind::Null)
    }

    /// One value, as it was written.
    pub(crate) fn written(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar.written()),
            _ => None,
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.broken)
    }

    /// Distinguishes this node from every other of the same tree for as long as the tree is borrowed.
    pub(crate) fn id(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// Whether something at or below this node is not shown as it is.
    pub(crate) fn hides(&self) -> bool {
        self.any(&|scalar| scalar.raw.is_some() || scalar.is_secret())
    }

    pub(crate) fn any(&self, test: &dyn Fn(&Scalar) -> bool) -> bool {
        match &self.value {
            Value::Scalar(scalar) => test(scalar),
            Value::List(items) => items.iter().any(|item| item.any(test)),
            Value::Map(map) => map.entries.iter().any(|entry| entry.value.any(test)),
        }
    }

    pub(crate) fn children(&self) -> Box<dyn Iterator<Item = &Node> + '_> {
        match &self.value {
            Value::Scalar(_) => Box::new(std::iter::empty()),
            Value::List(items) => Box::new(items.iter()),
            Value::Map(map) => Box::new(map.entries.iter().map(|entry| &entry.value)),
        }
    }

    /// The node at `path`, or `None` with the place of its nearest existing ancestor.
    pub(crate) fn find(&self, path: &Path) -> (At, Option<&Node>) {
        let (mut at, mut node) = (self.at, self);
        for segment in path.segments() {
            match node.child(segment) {
                Some(next) => (at, node) = next,
                None => return (at, None),
            }
        }
        (at, Some(node))
    }

    /// The node at `path`, or the nearest above it that exists.
    pub(crate) fn nearest(&self, path: &Path) -> &Node {
        let mut node = self;
        for segment in path.segments() {
            let Some((_, next)) = node.child(segment) else { break };
            node = next;
        }
        node
    }

    /// Each scalar at or below it in which `${...}` was expanded.
    pub(crate) fn expanded<'n>(&'n self, found: &mut Vec<&'n Scalar>) {
        match &self.value {
            Value::Scalar(scalar) if scalar.is_expanded() => found.push(scalar),
            _ => self.children().for_each(|child| child.expanded(found)),
        }
    }

    /// The place and the node of one entry.
    pub(crate) fn child(&self, segment: &Segment) -> Option<(At, &Node)> {
        match (&self.value, segment) {
            (Value::Map(map), Segment::Key(key)) => map.entry(key).map(|entry| (entry.at(), &entry.value)),
            (Value::List(items), Segment::Index(index)) => items.get(*index).map(|item| (item.at, item)),
            _ => None,
        }
    }

    /// The noun and the value for "found ...", as written and without secrets.
    pub(crate) fn describe(&self) -> String {
        let scalar = match &self.value {
            Value::List(_) => return "a list".into(),
            Value::Map(_) => return "a map".into(),
            Value::Scalar(scalar) => scalar,
        };
        let noun = match scalar.kind {
            Kind::Null if scalar.raw.is_none() => return "nothing".into(),
            Kind::Null => "nothing in",
            Kind::Bool(_) => "the boolean",
            Kind::Unsigned(_) | Kind::Signed(_) | Kind::Float(_) => "the number",
            Kind::Text => "a string",
        };
        if scalar.is_secret() {
            return noun.replace("the ", "a ");
        }
        match scalar.kind {
            Kind::Text => format!("{noun} {}", quoted(scalar.written())),
            _ => format!("{noun} {}", scalar.written()),
        }
    }

    /// As written, on one line as between `{ }`; `None` where that is long, or would show a secret.
    pub(crate) fn flow(&self) -> Option<String> {
        let mut out = String::new();
        self.write_flow(&mut out)?;
        Some(out)
    }

    fn write_flow(&self, out: &mut String) -> Option<()> {
        match &self.value {
            Value::Scalar(scalar) if scalar.is_secret() => return None,
            Value::Scalar(scalar) => {
                let text = scalar.written();
                let is_plain = |c: char| c.is_ascii_alphanumeric() || "/.-_%".contains(c);
                match scalar.kind != Kind::Text || !text.is_empty() && text.chars().all(is_plain) {
                    true => out.push_str(text),
                    false => out.push_str(&format!("{text:?}")),
                }
            }
            Value::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    item.write_flow(out)?;
                }
                out.push(']');
            }
            Value::Map(map) => {
                out.push('{');
                for (index, entry) in map.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    out.push_str(&format!("{}: ", entry.key));
                    entry.value.write_flow(out)?;
                }
                out.push('}');
            }
        }
        (out.len() <= LONGEST_QUOTE).then_some(())
    }

    /// As written, in JSON, without secrets.
    pub(crate) fn as_written(&self) -> Json {
        match &self.value {
            Value::Scalar(scalar) => scalar.as_written(),
            Value::List(items) => items.iter().map(Node::as_written).collect(),
            Value::Map(map) => {
                map.iter().map(|entry| (entry.key.clone(), entry.value.as_written())).collect()
            }
        }
    }

    /// Feeds what the configuration means, not how it is written.
    pub(crate) fn hash(&self, hasher: &mut impl Hasher) {
        match &self.value {
            Value::Scalar(scalar) => scalar.hash(hasher),
            Value::List(items) => {
                (b'l', items.len()).hash(hasher);
                items.iter().for_each(|item| item.hash(hasher));
            }
            Value::Map(map) => {
                (b'm', map.entries.len()).hash(hasher);
                for index in &map.by_name {
                    let entry = &map.entries[*index as usize];
                    entry.key.hash(hasher);
                    entry.value.hash(hasher);
                }
            }
        }
    }
}

impl Map {
    /// Keeps the first of entries with the same name; gives the others back, each after the one that stayed.
    pub(crate) fn new(mut entries: Vec<Entry>) -> (Self, Vec<(At, Entry)>) {
        // As with lists, what is not used is given back.
        entries.shrink_to_fit();
        let mut by_name: Vec<u32> = (0..entries.len() as u32).collect();
        let key = |index: &u32| &entries[*index as usize].key;
        by_name.sort_by(|a, b| key(a).cmp(key(b)));
        if by_name.windows(2).all(|pair| key(&pair[0]) != key(&pair[1])) {
            return (Map { entries, by_name }, Vec::new());
        }
        let mut first = std::collections::HashMap::new();
        let (mut kept, mut repeated) = (Vec::new(), Vec::new());
        for entry in entries {
            match first.get(&entry.key) {
                Some(at) => repeated.push((*at, entry)),
                None => {
                    first.insert(entry.key.clone(), entry.key_at);
                    kept.push(entry);
                }
            }
        }
        (Map::new(kept).0, repeated)
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = (&str, &mut Node)> {
        self.entries.iter_mut().map(|entry| (entry.key.as_str(), &mut entry.value))
    }

    /// Puts `more` behind what is there; what is there stays where both have a name.
    pub(crate) fn extend(&mut self, more: Vec<Entry>) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.extend(more);
        *self = Map::new(entries).0;
    }

    pub(crate) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.position(key).map(|position| &self.entries[position])
    }

    pub(crate) fn entry_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.position(key).map(|position| &mut self.entries[position])
    }

    fn position(&self, key: &str) -> Option<usize> {
        let found =
            self.by_name.binary_search_by(|index| self.entries[*index as usize].key.as_str().cmp(key));
        found.ok().map(|position| self.by_name[position] as usize)
    }
}

impl Entry {
    /// Where to point for a problem with the value: at the name when the value only starts on a later line.
    pub(crate) fn at(&self) -> At {
        match self.value.at.file == self.key_at.file && self.value.at.line != self.key_at.line {
            true => self.key_at,
            false => self.value.at,
        }
    }
}

impl Scalar {
    pub(crate) fn plain(text: String) -> Self {
        let kind = resolve(&text);
        Scalar { text, kind, plain: true, raw: None, broken: false, secret: Mark::default() }
    }

    pub(crate) fn quoted(text: String) -> Self {
        Scalar { text, kind: Kind::Text, plain: false, raw: None, broken: false, secret: Mark::default() }
    }

    /// What the operator wrote, which may be shown unless it is a secret.
    pub(crate) fn written(&self) -> &str {
        self.raw.as_deref().unwrap_or(&self.text)
    }

    /// Whether `${...}` was expanded in it.
    pub(crate) fn is_expanded(&self) -> bool {
        self.raw.as_ref().is_some_and(|raw| raw.contains("${"))
    }

    /// Whether `words` quote something of what it was expanded to. A piece gives it away, too, and stays the same where the rest is
    /// escaped.
    pub(crate) fn is_quoted_in(&self, words: &str) -> bool {
        const PIECE: usize = 8;
        // So little is no secret, and in many a word.
        const LEAST: usize = 4;
        let text = self.text.trim();
        if text.len() <= PIECE {
            return text.len() >= LEAST && words.contains(text);
        }
        let mut pieces = words.char_indices().filter_map(|(at, _)| words.get(at..at + PIECE));
        pieces.any(|piece| text.contains(piece))
    }

    pub(crate) fn is_secret(&self) -> bool {
        self.secret.0.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_secret(&self) {
        self.secret.0.store(true, Ordering::Relaxed);
    }

    fn as_written(&self) -> Json {
        match (self.is_secret(), &self.raw, self.kind) {
            (true, ..) => REDACTED.into(),
            (false, Some(raw), _) => raw.as_ref().into(),
            (false, None, Kind::Null) => Json::Null,
            (false, None, Kind::Bool(value)) => value.into(),
            (false, None, Kind::Unsigned(value)) => value.into(),
            (false, None, Kind::Signed(value)) => value.into(),
            (false, None, Kind::Float(value)) => value.into(),
            (false, None, Kind::Text) => self.text.as_str().into(),
        }
    }

    fn hash(&self, hasher: &mut impl Hasher) {
        match self.kind {
            Kind::Null => b'n'.hash(hasher),
            Kind::Bool(value) => (b'b', value).hash(hasher),
            Kind::Unsigned(value) => (b'u', value).hash(hasher),
            Kind::Signed(value) => (b'i', value).hash(hasher),
            Kind::Float(value) => (b'f', value.to_bits()).hash(hasher),
            Kind::Text => (b't', &self.text).hash(hasher),
        }
        // An expanded number may be read as text, where 007 and 7 differ.
        if self.raw.is_some() {
            self.text.hash(hasher);
        }
    }
}

/// Never the text: a tree may hold secrets nobody has marked yet.
impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scalar")
    }
}

/// So many characters of a value are quoted: more would fill the screen.
const LONGEST_QUOTE: usize = 60;

/// In quotes, cut short.
pub(in crate::config) fn quoted(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Without quotes, cut short.
pub(in crate::config) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => text.into(),
    }
}

/// Resolves a plain scalar by the core schema of YAML 1.2: `yes`, `on` and `1_000` are strings.
pub(in crate::config) fn resolve(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Kind::Float(f64::NAN),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let Some(first) = unsigned.bytes().next() else { return Kind::Text };
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Kind::Float(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if !first.is_ascii_digit() && first != b'.' {
        return Kind::Text;
    }
    for (prefix, radix) in [("0o", 8), ("0x", 16)] {
        if let Some(digits) = text.strip_prefix(prefix).filter(|rest| rest.chars().all(|c| c.is_digit(radix)))
        {
            return u64::from_str_radix(digits, radix).map_or(Kind::Text, Kind::Unsigned);
        }
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit()) {
        if let Ok(value) = text.parse::<u64>() {
            return Kind::Unsigned(value);
        }
        if let Ok(value) = text.parse::<i64>() {
            return Kind::Signed(value);
        }
    }
    // What Rust parses beyond YAML's floats all starts with a letter.
    text.parse::<f64>().map_or(Kind::Text, Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_by_the_core_schema() {
        let table = [
            ("", Kind::Null),
            ("~", Kind::Null),
            ("True", Kind::Bool(true)),
            ("yes", Kind::Text),
            ("off", Kind::Text),
            ("0", Kind::Unsigned(0)),
            ("-0", Kind::Signed(0)),
            ("+12", Kind::Unsigned(12)),
            ("-12", Kind::Signed(-12)),
            ("007", Kind::Unsigned(7)),
            ("0x1F", Kind::Unsigned(31)),
            ("0o17", Kind::Unsigned(15)),
            ("0x", Kind::Text),
            ("1.5", Kind::Float(1.5)),
            (".5", Kind::Float(0.5)),
            ("1e3", Kind::Float(1000.0)),
            ("-.inf", Kind::Float(f64::NEG_INFINITY)),
            ("inf", Kind::Text),
            ("+-1", Kind::Text),
            (".", Kind::Text),
            ("+", Kind::Text),
            ("1_000", Kind::Text),
            ("127.0.0.1:80", Kind::Text),
            ("5s", Kind::Text),
        ];
        for (text, kind) in table {
            assert_eq!(resolve(text), kind, "{text:?}");
        }
    }

    #[test]
    fn finds_entries_and_keeps_the_first_of_two_names() {
        let at = |line| At { file: 0, line, column: 1 };
        let entry =
            |key: &str, line| Entry { key: key.into(), key_at: at(line), value: Node::null(at(line)) };
        let (map, repeated) = Map::new(vec![entry("b", 1), entry("a", 2), entry("b", 3)]);
        assert_eq!(map.entry("b").map(|e| e.key_at.line), Some(1));
        assert_eq!(map.entry("a").map(|e| e.key_at.line), Some(2));
        assert!(map.entry("c").is_none());
        let places: Vec<_> = repeated.iter().map(|(first, entry)| (first.line, entry.key_at.line)).collect();
        assert_eq!(places, [(1, 3)]);
    }
}
