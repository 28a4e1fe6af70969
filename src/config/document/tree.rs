//! YAML text to tree: the parser's events with what YAML leaves to the application decided for configuration.
//! One document, text keys, no key twice. Aliases and `<<` are copied out here, so nobody else knows of them;
//! the copies are counted, since a few lines of nested aliases can name more values than memory holds.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use crate::config::document::{
    node::{At, Entry, Map, Node, Scalar, Value},
    problem::{Location, MOST_PROBLEMS, Path, Problem},
    slips::{Slip, slip},
};

pub(in crate::config) const DEEPEST: usize = 64;
/// Values copied by aliases in one file; what is written out is bounded by the size of the file.
const MOST_COPIES: usize = 1_000_000;

/// The files read so far, and what was found wrong in them.
#[derive(Debug, Default)]
pub(in crate::config) struct Findings {
    pub names: Vec<Arc<str>>,
    pub problems: Vec<Problem>,
    /// What is being read may not be meant for us, so that nothing of it is shown.
    pub is_foreign: bool,
}

impl Findings {
    pub(crate) fn add(&mut self, at: At, path: Path, message: impl Into<String>) {
        self.push(Problem::new(message).at(locate(&self.names, at)).path(path));
    }

    pub(crate) fn add_with_hint(&mut self, at: At, path: Path, message: impl Into<String>, hint: &str) {
        self.push(Problem::new(message).at(locate(&self.names, at)).path(path).hint(hint));
    }

    pub(crate) fn push(&mut self, problem: Problem) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

pub(in crate::config) fn locate(names: &[Arc<str>], at: At) -> Location {
    Location { file: names[at.file as usize].clone(), order: at.file, line: at.line, column: at.column }
}

/// Reads the text of file number `file`. `None` means that it could not be read to its end or holds nothing;
/// an empty document is no problem here.
pub(in crate::config) fn parse(text: &str, file: u32, findings: &mut Findings) -> Option<Node> {
    documents(text, file, 1, findings)?.pop()
}

/// The same of a file that may hold so many documents; those that are empty are left out.
pub(in crate::config) fn documents(
    text: &str,
    file: u32,
    most: usize,
    findings: &mut Findings,
) -> Option<Vec<Node>> {
    if let Some(index) = memchr::memchr(0, text.as_bytes()) {
        // The parser would take it for the end of the file and drop the rest.
        findings.add(place(file, text, index), Path::root(), "contains a NUL byte");
        return None;
    }
    let mut spaced = Cow::Borrowed(text);
    let mut tabs = 0;
    loop {
        let known = findings.problems.len();
        match build(&spaced, file, most, findings) {
            Ok(root) => return root,
            Err(tab) if tabs < MOST_TABS && text.len() <= LARGEST_WITH_TABS => {
                tabs += 1;
                findings.problems.truncate(known);
                spaced = without_tab(&spaced, &tab).into();
            }
            Err(tab) => {
                let message = "malformed YAML: a tab follows the colon";
                findings.add_with_hint(at(file, &tab), Path::root(), message, "write a space in its place");
                return None;
            }
        }
    }
}

/// YAML 1.2 lets a tab stand after a colon, and the parser does not.
const TAB_AFTER_COLON: &str = "must be followed by a valid YAML whitespace";
/// Each costs another reading.
const MOST_TABS: usize = 100;
const LARGEST_WITH_TABS: usize = 256 * 1024;

/// `text` with spaces for the tabs before the place.
fn without_tab(text: &str, tab: &Marker) -> String {
    let line = text.split_inclusive('\n').take(tab.line() - 1).map(str::len).sum::<usize>();
    let end = text[line..].char_indices().nth(tab.col()).map_or(text.len(), |(index, _)| line + index);
    let start = text[..end].trim_end_matches(['\t', ' ']).len();
    format!("{}{}{}", &text[..start], " ".repeat(end - start), &text[end..])
}

/// # Errors
///
/// The value after a colon and a tab.
fn build(text: &str, file: u32, most: usize, findings: &mut Findings) -> Result<Option<Vec<Node>>, Marker> {
    let mut builder = Builder {
        file,
        findings,
        frames: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        nodes: 0,
        copies: 0,
    };
    let mut started = 0;
    let mut whole = Vec::new();
    for event in Parser::new_from_str(text) {
        let stop = match event {
            Ok((Event::DocumentStart(_), span)) => {
                started += 1;
                if started > most {
                    let message = "a second document starts here; a configuration file holds one";
                    builder.findings.add_with_hint(
                        builder.at(span.start),
                        Path::root(),
                        message,
                        "remove the `---`",
                    );
                }
                whole.extend(builder.root.take());
                builder.anchors.clear();
                started > most
            }
            Ok((event, span)) => builder.take(event, span.start).is_none(),
            Err(error) if error.info().contains(TAB_AFTER_COLON) && follows_tab(text, error.marker()) => {
                return Err(*error.marker());
            }
            Err(error) => {
                builder.malformed(text, *error.marker(), error.info());
                true
            }
        };
        if stop {
            return Ok(None);
        }
    }
    whole.extend(builder.root);
    Ok(Some(whole))
}

fn follows_tab(text: &str, marker: &Marker) -> bool {
    let line = text.lines().nth(marker.line() - 1).unwrap_or_default();
    let before: String = line.chars().take(marker.col()).collect();
    before.trim_end_matches(' ').ends_with('\t')
}

/// The place of the byte at `index`.
pub(in crate::config) fn place(file: u32, text: &str, index: usize) -> At {
    let before = &text[..index];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.bytes().filter(|b| *b == b'\n').count();
    At { file, line: line as u32, column: 1 + before[line_start..].chars().count() as u32 }
}

fn at(file: u32, marker: &Marker) -> At {
    At { file, line: marker.line() as u32, column: marker.col() as u32 + 1 }
}

struct Builder<'f> {
    file: u32,
    findings: &'f mut Findings,
    frames: Vec<Frame>,
    root: Option<Node>,
    /// Each anchored node with the number of nodes at and below it.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    copies: usize,
}

/// A list or map whose end has not been read yet.
struct Frame {
    at: At,
    anchor: usize,
    /// How many nodes there were before it.
    before: usize,
    /// Something in it was reported and dropped.
    is_partial: bool,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, merged: Vec<Entry>, key: Option<Key> },
}

enum Key {
    Name {
        text: String,
        at: At,
        merges: bool,
    },
    /// Reported; its value is dropped.
    Unusable,
}

impl Builder<'_> {
    /// `None` stops the reading.
    fn take(&mut self, event: Event<'_>, start: Marker) -> Option<()> {
        let at = self.at(start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !self.is_text(at, tag.as_deref());
                let text = text.into_owned();
                let scalar = if plain { Scalar::plain(text) } else { Scalar::quoted(text) };
                self.nodes += 1;
                self.complete(Node::new(at, Value::Scalar(scalar)), anchor, 1)
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(at, anchor, tag.as_deref(), Inside::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => self.open(
                at,
                anchor,
                tag.as_deref(),
                Inside::Map { entries: Vec::new(), merged: Vec::new(), key: None },
            ),
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.copy(at, anchor),
            _ => Some(()),
        }
    }

    /// Whether a tag makes text of what stands at `at`; a tag with no meaning here is reported.
    fn is_text(&mut self, at: At, tag: Option<&Tag>) -> bool {
        let Some(tag) = tag else { return false };
        if tag.is_yaml_core_schema() {
            return tag.suffix == "str";
        }
        if !(tag.handle.is_empty() && tag.suffix == "!") {
            let path = self.path();
            self.findings.add_with_hint(
                at,
                path,
                format!("the tag `{tag}` has no meaning here"),
                "remove it",
            );
        }
        true
    }

    fn open(&mut self, at: At, anchor: usize, tag: Option<&Tag>, inside: Inside) -> Option<()> {
        self.is_text(at, tag);
        if self.frames.len() == DEEPEST {
            let path = self.path();
            self.findings.add(at, path, format!("is nested deeper than {DEEPEST} levels"));
            return None;
        }
        self.frames.push(Frame { at, anchor, before: self.nodes, is_partial: false, inside });
        self.nodes += 1;
        Some(())
    }

    fn close(&mut self) -> Option<()> {
        let frame = self.frames.pop()?;
        let size = self.nodes - frame.before;
        let value = match frame.inside {
            Inside::List(mut items) => {
                // Most have one or two, and room for four would be most of a large file's tree.
                items.shrink_to_fit();
                Value::List(items)
            }
            Inside::Map { entries, merged, .. } => Value::Map(self.map(entries, merged)),
        };
        let node = Node { is_partial: frame.is_partial, ..Node::new(frame.at, value) };
        self.complete(node, frame.anchor, size)
    }

    /// What `<<` brings in (<https://yaml.org/type/merge.html>) gives way to the map's own entries, and among
    /// itself to what is named first.
    fn map(&mut self, entries: Vec<Entry>, merged: Vec<Entry>) -> Map {
        let (mut map, repeated) = Map::new(entries);
        if !merged.is_empty() {
            let mut entries: Vec<Entry> =
                merged.into_iter().filter(|e| map.entry(&e.key).is_none()).collect();
            let mut all = map.into_entries();
            all.append(&mut entries);
            map = Map::new(all).0;
        }
        for (first, entry) in repeated {
            let first = locate(&self.findings.names, first);
            let message = format!("duplicate key `{}`, which already stands at {first}", entry.key);
            let path = self.path();
            self.findings.add(entry.key_at, path, message);
            if let Some(kept) = map.entry_mut(&entry.key) {
                kept.value.is_partial = true;
            }
        }
        map
    }

    /// Puts a finished node where it belongs: under its key, into its list, or as a key itself.
    fn complete(&mut self, node: Node, anchor: usize, size: usize) -> Option<()> {
        if anchor != 0 {
            self.count_copies(node.at, size)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let wants_key = match self.frames.last_mut().map(|frame| &mut frame.inside) {
            None => {
                self.root = Some(node);
                return Some(());
            }
            Some(Inside::List(items)) => {
                items.push(node);
                return Some(());
            }
            Some(Inside::Map { key, .. }) => key.is_none(),
        };
        if wants_key {
            let name = self.key(node);
            if let Some(Frame { inside: Inside::Map { key, .. }, is_partial, .. }) = self.frames.last_mut() {
                *is_partial |= matches!(name, Key::Unusable);
                *key = Some(name);
            }
        } else {
            self.complete_entry(node);
        }
        Some(())
    }

    fn complete_entry(&mut self, node: Node) {
        let merges = |frame: &Frame| match &frame.inside {
            Inside::Map { key: Some(Key::Name { merges: true, at, .. }), .. } => Some(*at),
            _ => None,
        };
        let at = self.frames.last().and_then(merges);
        let (node, sources) = match at {
            Some(at) => (None, self.sources(at, node)),
            None => (Some(node), Vec::new()),
        };
        let Some(Frame { inside: Inside::Map { entries, merged, key }, .. }) = self.frames.last_mut() else {
            return;
        };
        merged.extend(sources);
        if let (Some(value), Some(Key::Name { text, at, .. })) = (node, key.take()) {
            entries.push(Entry { key: text, key_at: at, value });
        }
    }

    fn key(&mut self, node: Node) -> Key {
        let at = node.at;
        match node.value {
            Value::Scalar(scalar) if scalar.text.contains("${") => {
                let message = format!("`{}`: names are not expanded, only values are", scalar.text);
                let path = self.path();
                self.findings.add(at, path, message);
                Key::Unusable
            }
            Value::Scalar(scalar) => {
                Key::Name { merges: scalar.plain && scalar.text == "<<", text: scalar.text, at }
            }
            _ => {
                let message = format!("expected a name before the colon, found {}", node.describe());
                let path = self.path();
                self.findings.add_with_hint(
                    at,
                    path,
                    message,
                    "quote what begins with `{` or `[`; a variable is `${env:NAME}`",
                );
                Key::Unusable
            }
        }
    }

    /// The maps that `<<` names, as one list of entries.
    fn sources(&mut self, at: At, source: Node) -> Vec<Entry> {
        let sources = match source.value {
            Value::List(items) => items,
            _ => vec![source],
        };
        let mut entries = Vec::new();
        for source in sources {
            match source.value {
                Value::Map(map) => entries.extend(map.into_entries()),
                _ => {
                    let message = format!("`<<` takes a map or a list of maps, found {}", source.describe());
                    let path = self.path();
                    self.findings.add(at, path, message);
                    self.frames.last_mut().into_iter().for_each(|frame| frame.is_partial = true);
                }
            }
        }
        entries
    }

    fn copy(&mut self, at: At, anchor: usize) -> Option<()> {
        let Some((node, size)) = self.anchors.get(&anchor) else {
            let path = self.path();
            self.findings.add(at, path, "this alias stands inside of what it names");
            return None;
        };
        let (node, size) = (node.clone(), *size);
        self.count_copies(at, size)?;
        self.nodes += size;
        self.complete(node, 0, size)
    }

    fn count_copies(&mut self, at: At, size: usize) -> Option<()> {
        self.copies += size;
        if self.copies <= MOST_COPIES {
            return Some(());
        }
        let path = self.path();
        self.findings.add(at, path, format!("aliases name more than {MOST_COPIES} values in all"));
        None
    }

    fn malformed(&mut self, text: &str, marker: Marker, info: &str) {
        let at = self.at(marker);
        let text = match self.findings.is_foreign || holds_secret(text, marker.line()) {
            true => masked(text).into(),
            false => Cow::Borrowed(text),
        };
        match slip(&text, marker.line(), marker.col() + 1, info) {
            Some(Slip { message, hint }) => {
                self.findings.add_with_hint(at, Path::root(), format!("malformed YAML: {message}"), &hint);
            }
            None => self.findings.add(at, Path::root(), format!("malformed YAML: {info}")),
        }
    }

    /// The path of the map, list or value being read.
    fn path(&self) -> Path {
        self.frames.iter().fold(Path::root(), |path, frame| match &frame.inside {
            Inside::List(items) => path.index(items.len()),
            Inside::Map { key: Some(Key::Name { text, .. }), .. } => path.key(text.as_str()),
            Inside::Map { .. } => path,
        })
    }

    fn at(&self, marker: Marker) -> At {
        at(self.file, &marker)
    }
}

/// Whether the line is likely to hold one, which no message may show. An item of a list belongs to the line that the list is under.
fn holds_secret(text: &str, line: usize) -> bool {
    const WORDS: [&str; 13] = [
        "token",
        "secret",
        "password",
        "key:",
        "keys:",
        "hash:",
        "authorization",
        "cookie",
        "basic_auth:",
        "jwt:",
        "oidc:",
        "redis:",
        // Not `${env:NAME}`.
        " env:",
    ];
    let holds = |line: &str| {
        let line = line.to_lowercase();
        WORDS.iter().any(|word| line.contains(word))
    };
    let before: Vec<&str> = text.lines().take(line).collect();
    let is_item = |line: &str| line.trim_start().starts_with('-');
    let mut lines = before.iter().rev();
    let Some(own) = lines.next() else { return false };
    let holder = lines.find(|line| !is_item(line) && !line.trim().is_empty());
    holds(own) || is_item(own) && holder.is_some_and(|line| holds(line))
}

/// The same text without what it says.
fn masked(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() { '.' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> (Option<Node>, Vec<String>) {
        let mut findings = Findings { names: vec!["a.yaml".into()], ..Findings::default() };
        let root = parse(text, 0, &mut findings);
        (root, findings.problems.iter().map(ToString::to_string).collect())
    }

    fn json(text: &str) -> serde_json::Value {
        let (root, problems) = read(text);
        assert_eq!(problems, [""; 0], "{text}");
        root.unwrap().as_written()
    }

    #[test]
    fn quotes_blocks_and_tags_make_text() {
        let text = "a: 1\nb: '1'\nc: \"1\\n\"\nd: |\n  1\n  2\ne: !!str 1\nf: ~\ng: [1.5, true]\n";
        let expected =
            json!({"a": 1, "b": "1", "c": "1\n", "d": "1\n2\n", "e": "1", "f": null, "g": [1.5, true]});
        assert_eq!(json(text), expected);
    }

    /// YAML 1.2, section 6.2: a tab separates as a space does. It only must not indent.
    #[test]
    fn a_tab_may_stand_after_a_colon() {
        let text = "a:\tone\nb:\n  c:\t\ttwo\nd:\t-1\n";
        assert_eq!(json(text), json!({"a": "one", "b": {"c": "two"}, "d": -1}));
    }

    #[test]
    fn aliases_and_merge_keys_are_copied_out() {
        let text = "x: &x {a: 1, b: 2}\ny: {b: 3, <<: *x}\nz: {<<: [*x, {b: 4, c: 5}]}\nw: *x\n";
        let expected = json!({
            "x": {"a": 1, "b": 2}, "y": {"b": 3, "a": 1}, "z": {"a": 1, "b": 2, "c": 5}, "w": {"a": 1, "b": 2},
        });
        assert_eq!(json(text), expected);
    }

    #[test]
    fn every_node_knows_its_place() {
        let (root, _) = read("# comment\na:\n  - b: 1\n    'c d': {e: x}\n");
        let root = root.unwrap();
        let at = |path: &Path| {
            let (at, node) = root.find(path);
            (at.line, at.column, node.is_some())
        };
        let item = Path::root().key("a").index(0);
        assert_eq!(at(&Path::root().key("a")), (2, 1, true), "the name, since the value starts below it");
        assert_eq!(at(&item), (3, 5, true));
        assert_eq!(at(&item.key("b")), (3, 8, true));
        assert_eq!(at(&item.key("c d").key("e")), (4, 16, true));
        assert_eq!(at(&item.key("c d").key("f").key("g")), (4, 12, false), "the nearest that exists");
    }

    #[test]
    fn refuses_what_would_not_mean_what_it_seems_to() {
        let deep = format!("a: {}", "[".repeat(100));
        let table = [
            ("a: 1\nb: 2\na: 3\n", "a.yaml:3:1: duplicate key `a`, which already stands at a.yaml:1:1"),
            (
                "a:\n  b: {c: 1, c: 2}\n",
                "a.yaml:2:13: a.b: duplicate key `c`, which already stands at a.yaml:2:7",
            ),
            (
                "a: 1\n---\nb: 2\n",
                "a.yaml:2:1: a second document starts here; a configuration file holds one (remove the `---`)",
            ),
            ("a: !env X\n", "a.yaml:1:4: a: the tag `!env` has no meaning here (remove it)"),
            ("a: 1\n\0b: 2\n", "a.yaml:2:1: contains a NUL byte"),
            ("a: &x [*x]\n", "a.yaml:1:8: a[0]: this alias stands inside of what it names"),
            (
                "? [a]\n: b\n",
                "a.yaml:1:3: expected a name before the colon, found a list (quote what begins with `{` or `[`; a variable is `${env:NAME}`)",
            ),
            ("a: {<<: 1}\n", "a.yaml:1:5: a.\"<<\": `<<` takes a map or a list of maps, found the number 1"),
            ("${env:X}: 1\n", "a.yaml:1:1: `${env:X}`: names are not expanded, only values are"),
        ];
        for (text, expected) in table {
            assert_eq!(read(text).1, [expected], "{text}");
        }
        let problems = read(&deep).1;
        assert!(problems[0].ends_with("is nested deeper than 64 levels"), "{problems:?}");
    }

    #[test]
    fn malformed_text_is_placed_and_explained() {
        let table = [
            ("a:\n\tb: 1\n", ":2:", "(indent with spaces, not with tabs)"),
            ("a: {b: ${env:X}}\n", ":1:", "between { } or [ ], a value with ${...} must be quoted)"),
            ("a: [1, 2\nb: 3\n", ":2:", ""),
            ("a: *nobody\n", ":1:4: ", ""),
        ];
        for (text, place, hint) in table {
            let (root, problems) = read(text);
            assert!(root.is_none() && problems.len() == 1, "{problems:?}");
            assert!(problems[0].contains(place) && problems[0].ends_with(hint), "{problems:?}");
            assert!(problems[0].contains("malformed YAML: "), "{problems:?}");
        }
    }

    #[test]
    fn a_billion_laughs_are_not_laughed() {
        let mut text = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
        for level in 1..10 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        let (root, problems) = read(&text);
        assert!(root.is_none());
        assert_eq!(problems.len(), 1);
        assert!(problems[0].ends_with("aliases name more than 1000000 values in all"), "{problems:?}");
    }
}
