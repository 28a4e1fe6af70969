//! A YAML file as it is written: keys in the order in which they were set, and comments between them.

use std::fmt;

/// Width of one level.
const INDENT: usize = 2;

#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Text(String),
    Number(i64),
    Flag(bool),
    List(List),
    Map(Map),
}

/// Entries, and the comments that stand above them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    lines: Vec<Line<(String, Node)>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    lines: Vec<Line<Node>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Line<T> {
    Comment(String),
    Entry(T),
}

impl Map {
    pub fn new() -> Map {
        Map::default()
    }

    /// The same map with this entry: maps read as a sentence.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Node>) -> Map {
        self.set(key, value);
        self
    }

    /// An entry that is there already gets the new value at its old place.
    pub fn set(&mut self, key: &str, value: impl Into<Node>) {
        match self.find_mut(key) {
            Some(old) => *old = value.into(),
            None => self.lines.push(Line::Entry((key.to_owned(), value.into()))),
        }
    }

    /// A comment between the last entry and the next.
    pub fn comment(&mut self, text: impl Into<String>) {
        self.lines.push(Line::Comment(text.into()));
    }

    pub fn find(&self, key: &str) -> Option<&Node> {
        self.entries().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub fn entries(&self) -> impl Iterator<Item = &(String, Node)> {
        self.lines.iter().filter_map(Line::entry)
    }

    /// The map under this key, made if it is not there.
    ///
    /// # Panics
    ///
    /// Where something else than a map stands under the key.
    pub fn map(&mut self, key: &str) -> &mut Map {
        match self.find_or_add(key, || Node::Map(Map::new())) {
            Node::Map(map) => map,
            other => panic!("{key} is no map: {other:?}"),
        }
    }

    /// The list under this key, made if it is not there.
    ///
    /// # Panics
    ///
    /// Where something else than a list stands under the key.
    pub fn list(&mut self, key: &str) -> &mut List {
        match self.find_or_add(key, || Node::List(List::new())) {
            Node::List(list) => list,
            other => panic!("{key} is no list: {other:?}"),
        }
    }

    /// Nothing but comments, or not even these.
    pub fn is_empty(&self) -> bool {
        self.entries().next().is_none()
    }

    fn find_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.lines.iter_mut().find_map(|line| match line {
            Line::Entry((name, value)) if name == key => Some(value),
            _ => None,
        })
    }

    fn find_or_add(&mut self, key: &str, make: impl FnOnce() -> Node) -> &mut Node {
        if self.find(key).is_none() {
            self.lines.push(Line::Entry((key.to_owned(), make())));
        }
        self.find_mut(key).expect("it has just been added")
    }
}

impl List {
    pub fn new() -> List {
        List::default()
    }

    pub fn push(&mut self, item: impl Into<Node>) {
        self.lines.push(Line::Entry(item.into()));
    }

    /// A comment between the last item and the next.
    pub fn comment(&mut self, text: impl Into<String>) {
        self.lines.push(Line::Comment(text.into()));
    }

    pub fn items(&self) -> impl Iterator<Item = &Node> {
        self.lines.iter().filter_map(Line::entry)
    }

    pub fn len(&self) -> usize {
        self.items().count()
    }

    /// Nothing but comments, or not even these.
    pub fn is_empty(&self) -> bool {
        self.items().next().is_none()
    }
}

impl<T> Line<T> {
    fn entry(&self) -> Option<&T> {
        match self {
            Line::Entry(entry) => Some(entry),
            Line::Comment(_) => None,
        }
    }
}

impl<N: Into<Node>> FromIterator<N> for List {
    fn from_iter<I: IntoIterator<Item = N>>(items: I) -> List {
        List { lines: items.into_iter().map(|item| Line::Entry(item.into())).collect() }
    }
}

/// Of keys that are all different.
impl<N: Into<Node>> FromIterator<(String, N)> for Map {
    fn from_iter<I: IntoIterator<Item = (String, N)>>(entries: I) -> Map {
        Map { lines: entries.into_iter().map(|(key, value)| Line::Entry((key, value.into()))).collect() }
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Node {
        Node::Text(text.to_owned())
    }
}

impl From<String> for Node {
    fn from(text: String) -> Node {
        Node::Text(text)
    }
}

impl From<i64> for Node {
    fn from(number: i64) -> Node {
        Node::Number(number)
    }
}

impl From<bool> for Node {
    fn from(flag: bool) -> Node {
        Node::Flag(flag)
    }
}

impl From<List> for Node {
    fn from(list: List) -> Node {
        Node::List(list)
    }
}

impl From<Map> for Node {
    fn from(map: Map) -> Node {
        Node::Map(map)
    }
}

/// The whole file.
impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_map(f, self, 0, Start::OfLine)
    }
}

/// Where the first line of a value goes: on a line of its own, or behind the `- ` that is written already.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    OfLine,
    BehindDash,
}

fn write_map(f: &mut fmt::Formatter<'_>, map: &Map, depth: usize, start: Start) -> fmt::Result {
    for (index, line) in map.lines.iter().enumerate() {
        if index > 0 || start == Start::OfLine {
            write_indent(f, depth)?;
        }
        match line {
            Line::Comment(text) => write_comment(f, text, depth)?,
            Line::Entry((key, value)) => {
                write!(f, "{}:", written(key))?;
                write_value(f, value, depth)?;
            }
        }
    }
    Ok(())
}

fn write_list(f: &mut fmt::Formatter<'_>, list: &List, depth: usize) -> fmt::Result {
    for line in &list.lines {
        write_indent(f, depth)?;
        match line {
            Line::Comment(text) => write_comment(f, text, depth)?,
            Line::Entry(Node::Map(map)) if !map.is_empty() => {
                f.write_str("- ")?;
                write_map(f, map, depth + 1, Start::BehindDash)?;
            }
            Line::Entry(value) => {
                f.write_str("-")?;
                write_value(f, value, depth)?;
            }
        }
    }
    Ok(())
}

/// What follows `key:` or `-`, up to the end of its last line.
fn write_value(f: &mut fmt::Formatter<'_>, value: &Node, depth: usize) -> fmt::Result {
    match value {
        Node::Text(text) => writeln!(f, " {}", written(text)),
        Node::Number(number) => writeln!(f, " {number}"),
        Node::Flag(flag) => writeln!(f, " {flag}"),
        Node::List(list) if list.lines.is_empty() => writeln!(f, " []"),
        Node::Map(map) if map.lines.is_empty() => writeln!(f, " {{}}"),
        Node::List(list) => {
            writeln!(f)?;
            write_list(f, list, depth + 1)
        }
        Node::Map(map) => {
            writeln!(f)?;
            write_map(f, map, depth + 1, Start::OfLine)
        }
    }
}

fn write_comment(f: &mut fmt::Formatter<'_>, text: &str, depth: usize) -> fmt::Result {
    for (index, line) in text.lines().enumerate() {
        if index > 0 {
            write_indent(f, depth)?;
        }
        writeln!(f, "# {line}")?;
    }
    Ok(())
}

fn write_indent(f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
    write!(f, "{:width$}", "", width = depth * INDENT)
}

/// As it may stand in a file: in double quotes unless every reader of YAML takes it for the same text without them.
fn written(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let quoted = serde_json::to_string(text).expect("text is JSON");
    // YAML 1.1 ends a line at some of these, and takes none of the others.
    let is_bare = |c: &char| !matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}');
    quoted
        .chars()
        .map(|c| if is_bare(&c) { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) })
        .collect()
}

/// Letters first, or a slash, or a number with a unit behind it; and no word that YAML 1.1 takes for a boolean or for nothing.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan"];
    let begins_well = text
        .starts_with(|first: char| first.is_ascii_alphabetic() || first == '/' || first == '_')
        || is_quantity(text);
    let goes_on_well =
        text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '.' | '+' | '='))
            && !text.is_empty();
    begins_well && goes_on_well && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// `30s`, `16KiB`: no number to any reader.
fn is_quantity(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    unit.len() < text.len() && ["ms", "s", "m", "h", "d", "KiB", "MiB", "GiB"].contains(&unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_as_it_would_be_written_by_hand() {
        let mut file = Map::new();
        file.set("version", "1");
        file.comment("a.conf:3: not carried over");
        let routes = file.list("routes");
        routes.push(Map::new().with("name", "a").with("match", Map::new().with("path", "/")));
        routes.comment("b");
        routes.push("x: y");
        file.map("upstreams").set("none", Map::new());
        file.set("empty", List::new());
        let expected = "version: \"1\"\n\
            # a.conf:3: not carried over\n\
            routes:\n  \
              - name: a\n    \
                match:\n      \
                  path: /\n  \
              # b\n  \
              - \"x: y\"\n\
            upstreams:\n  \
              none: {}\n\
            empty: []\n";
        assert_eq!(file.to_string(), expected);
    }

    #[test]
    fn every_text_is_read_back_as_it_was() {
        let texts = [
            "",
            "on",
            "No",
            "~",
            "1",
            "1.5",
            "30s",
            "1e3",
            ".inf",
            "a: b",
            "a #b",
            "- a",
            "*",
            "&a",
            "!x",
            "%",
            "@",
            "`",
            "a\nb",
            "\t",
            "é\u{1}\u{2028}",
            "/a/{*rest}",
            "[::1]:80",
            "127.0.0.1:80",
            "a,b",
            "'",
            "\"",
            "\\d",
            "0x1f",
            "12:30:45",
            "2026-01-01",
            "=",
            "nan",
            "<<",
        ];
        for text in texts {
            let written = List::from_iter([text, text]);
            let file = Map::new().with("a", written).with("b", Map::new().with(text, text)).to_string();
            let read: serde_json::Value =
                serde_yaml::from_str(&file).unwrap_or_else(|error| panic!("{text:?}: {error}\n{file}"));
            assert_eq!(read, serde_json::json!({"a": [text, text], "b": {text: text}}), "{file}");
        }
    }
}
