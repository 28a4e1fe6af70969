//! Files that are written for other programs, read by the same rules as ours: YAML and JSON, of any number of documents, in which each value
//! knows its line. Nothing is expanded in them: `${...}` is text.

use std::sync::Arc;

use super::{
    json::whole_characters,
    node::{self, Kind, Node},
    problem::Problems,
    tree::{self, Findings},
};

/// A value, and where it is written; of an entry of a map, where its name is.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreign {
    pub file: Arc<str>,
    pub line: usize,
    pub value: ForeignValue,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ForeignValue {
    Null,
    Flag(bool),
    /// Numbers as well, as they are written.
    Text(String),
    List(Vec<Foreign>),
    /// In the order of the file.
    Map(Vec<(String, Foreign)>),
}

/// The documents of a file that are not empty.
///
/// # Errors
///
/// Where it is no YAML, or a key stands twice, with line and column.
pub fn foreign(text: &str, file_name: &str) -> Result<Vec<Foreign>, Problems> {
    let file: Arc<str> = file_name.into();
    let mut findings = Findings { names: vec![Arc::clone(&file)], ..Findings::default() };
    let documents = tree::documents(&whole_characters(text), 0, usize::MAX, &mut findings);
    if !findings.problems.is_empty() {
        return Err(findings.problems.into());
    }
    let documents = documents.unwrap_or_default();
    Ok(documents.into_iter().filter(|root| !root.is_null()).map(|root| plain(root, &file)).collect())
}

fn plain(node: Node, file: &Arc<str>) -> Foreign {
    let line = node.at.line as usize;
    let value = match node.value {
        node::Value::Scalar(scalar) => match scalar.kind {
            Kind::Null => ForeignValue::Null,
            Kind::Bool(flag) => ForeignValue::Flag(flag),
            _ => ForeignValue::Text(scalar.text),
        },
        node::Value::List(items) => {
            ForeignValue::List(items.into_iter().map(|item| plain(item, file)).collect())
        }
        node::Value::Map(map) => {
            let entry = |entry: node::Entry| {
                let line = entry.key_at.line as usize;
                (entry.key, Foreign { line, ..plain(entry.value, file) })
            };
            ForeignValue::Map(map.into_entries().into_iter().map(entry).collect())
        }
    };
    Foreign { file: Arc::clone(file), line, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_the_lines_of_their_file() {
        let documents =
            foreign("---\na: 1\n---\n\n---\n# none\n---\nb: [x, {c: \"${y}\"}]\n", "x.yaml").unwrap();
        let [first, second] = &documents[..] else { panic!("{documents:?}") };
        let ForeignValue::Map(entries) = &first.value else { panic!("{first:?}") };
        assert_eq!((entries[0].0.as_str(), entries[0].1.line), ("a", 2));
        assert_eq!(entries[0].1.value, ForeignValue::Text("1".into()));
        let ForeignValue::Map(entries) = &second.value else { panic!("{second:?}") };
        assert_eq!(entries[0].1.line, 8);
        assert!(format!("{second:?}").contains("${y}"));
    }

    #[test]
    fn what_is_no_yaml_is_placed() {
        let table = [
            (
                "a: 1\n---\nb: {c: 1, c: 2}\n",
                "x.yaml:3:11: b: duplicate key `c`, which already stands at x.yaml:3:5",
            ),
            ("a: &x 1\n---\nb: *x\n", "x.yaml:3:4"),
            ("a: [\n", "x.yaml:"),
        ];
        for (text, expected) in table {
            let problems = foreign(text, "x.yaml").unwrap_err().to_string();
            assert!(problems.starts_with(expected), "{problems}");
        }
    }
}
