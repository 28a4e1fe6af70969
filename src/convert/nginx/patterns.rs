//! nginx's paths and regular expressions, as matches of routes.

use crate::convert::fields;
use regex::Regex;

use crate::convert::draft::{Map, Node};

/// What a route's `path` says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PathMatch {
    Exact(String),
    /// `/` is every path.
    Prefix(String),
    Regex(String),
    Template(String),
}

impl PathMatch {
    pub(super) fn node(&self) -> Node {
        match self {
            PathMatch::Prefix(path) => fields::literal(path).into(),
            PathMatch::Exact(path) => Map::new().with("exact", fields::literal(path)).into(),
            PathMatch::Regex(pattern) => Map::new().with("regex", fields::literal(pattern)).into(),
            PathMatch::Template(path) => Map::new().with("template", path.as_str()).into(),
        }
    }
}

/// A path as the gateway has it in normal form: encoded where it must be.
pub(super) fn encoded(path: &str) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => text.push(char::from(byte)),
            _ if b"/-._~!$&'()*+,;=:@".contains(&byte) => text.push(char::from(byte)),
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

/// The same of a path with a query, where braces would be placeholders.
pub(super) fn encoded_target(target: &str) -> String {
    match target.split_once('?') {
        Some((path, query)) => {
            format!("{}?{}", encoded(path), query.replace('{', "%7B").replace('}', "%7D").replace(' ', "%20"))
        }
        None => encoded(target),
    }
}

/// Whether it may stand for itself in a match: no wildcards, nothing that normalisation would change.
pub(super) fn is_plain(path: &str) -> bool {
    path.starts_with('/')
        && encoded(path) == path
        && !path.contains(['*', ';'])
        && !path.contains("//")
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// The same expression for paths in normal form, if our engine takes it: it has no look-around and no references back.
pub(super) fn regex(pattern: &str, is_caseless: bool) -> Result<String, String> {
    let pattern = if is_caseless { format!("(?i){pattern}") } else { pattern.to_owned() };
    match Regex::new(&pattern) {
        Ok(_) => Ok(pattern),
        Err(_) => Err(
            "the expression has look-around or a reference back, or is none: there are none of these here"
                .to_owned(),
        ),
    }
}

/// The same expression for the whole text, so that what replaces it replaces all, as nginx does. Groups keep their numbers.
pub(super) fn whole(pattern: &str) -> String {
    if let Some(caseless) = pattern.strip_prefix("(?i)") {
        return format!("(?i){}", whole(caseless));
    }
    let has_alternatives = pattern.contains('|');
    let begins = pattern.strip_prefix('^').filter(|_| !has_alternatives);
    let inner = begins.unwrap_or(pattern);
    let ends = inner.strip_suffix('$').filter(|rest| !has_alternatives && !rest.ends_with('\\'));
    let (inner, ends) = (ends.unwrap_or(inner), ends.is_some() || inner.ends_with("(.*)"));
    match (begins.is_some(), ends && !has_alternatives) {
        (true, true) => format!("^{inner}$"),
        (true, false) => format!("^(?:{inner}).*$"),
        (false, true) => format!("^.*?(?:{inner})$"),
        (false, false) => format!("^.*?(?:{inner}).*$"),
    }
}

/// Whether the expression may find a path that begins so, or is just that.
pub(super) fn may_take(pattern: &str, start: &str, is_whole: bool) -> bool {
    if is_whole {
        return Regex::new(pattern).map_or(true, |regex| regex.is_match(start));
    }
    literal_start(pattern).is_none_or(|found| found.starts_with(start) || start.starts_with(&found))
}

/// The literal text that all paths begin with that the expression matches.
pub(super) fn literal_start(pattern: &str) -> Option<String> {
    let rest = pattern.strip_prefix('^')?;
    if rest.contains('|') {
        return None;
    }
    let mut text = String::new();
    let mut chars = rest.chars().peekable();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                Some(c @ ('.' | '-' | '/' | '_')) => c,
                _ => break,
            },
            c if c.is_ascii_alphanumeric() || "/-_~".contains(c) => c,
            _ => break,
        };
        // What may be absent, or come again, is no part of it.
        if chars.peek().is_some_and(|next| "?*{+".contains(*next)) {
            break;
        }
        text.push(c);
    }
    Some(text)
}

/// A path template in place of an expression, so that what its groups match can be used: `{c1}` for the first.
#[derive(Debug, PartialEq)]
pub(super) struct Captures {
    pub(super) template: String,
    /// How many groups there are.
    pub(super) count: usize,
}

/// Only what a template says in the same way: whole segments, and the rest of a path, which may be nothing.
pub(super) fn captures(pattern: &str) -> Option<Captures> {
    let inner = pattern.strip_prefix('^')?;
    let (inner, is_closed) = match inner.strip_suffix('$') {
        Some(inner) => (inner, true),
        None => (inner, false),
    };
    let inner = inner.strip_prefix('/')?;
    let mut found = Captures { template: String::new(), count: 0 };
    let mut is_closed = is_closed;
    let segments: Vec<&str> = split_segments(inner);
    for (index, segment) in segments.iter().enumerate() {
        let is_last = index + 1 == segments.len();
        match *segment {
            "([^/]+)" => {
                found.count += 1;
                found.template.push_str(&format!("/{{c{}}}", found.count));
            }
            "(.*)" if is_last => {
                found.count += 1;
                found.template.push_str(&format!("/{{*c{}}}", found.count));
                is_closed = true;
            }
            text => {
                let plain = unescaped(text)?;
                found.template.push('/');
                found.template.push_str(&plain);
            }
        }
    }
    (is_closed && found.count > 0).then_some(found)
}

/// At slashes that stand outside of brackets.
fn split_segments(pattern: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    let (mut start, mut is_in_class) = (0, false);
    for (at, c) in pattern.char_indices() {
        match c {
            '[' => is_in_class = true,
            ']' => is_in_class = false,
            '/' if !is_in_class => {
                segments.push(&pattern[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    segments.push(&pattern[start..]);
    segments
}

fn unescaped(segment: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = segment.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next().filter(|c| ".-_".contains(*c))?),
            c if c.is_ascii_alphanumeric() || "-_~".contains(c) => text.push(c),
            _ => return None,
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_replaces_the_whole_path() {
        for (pattern, path, replacement, expected) in [
            ("^/a/(.*)$", "/a/b/c", "/x/$1", "/x/b/c"),
            ("^/a/(.*)", "/a/b/c", "/x/$1", "/x/b/c"),
            ("^/a/", "/a/b", "/x", "/x"),
            ("b", "/a/b/c", "/x", "/x"),
            ("/(v1|v2)/", "/api/v2/c", "/$1", "/v2"),
            ("^/a|^/b", "/b/c", "/x", "/x"),
        ] {
            let regex = Regex::new(&whole(pattern)).unwrap();
            assert_eq!(regex.replace(path, replacement), expected, "{pattern}");
        }
    }

    #[test]
    fn groups_of_whole_segments_become_a_template() {
        let template = |pattern: &str| captures(pattern).map(|captures| captures.template);
        assert_eq!(template("^/users/([^/]+)/posts$").as_deref(), Some("/users/{c1}/posts"));
        assert_eq!(template(r"^/old\.d/(.*)$").as_deref(), Some("/old.d/{*c1}"));
        assert_eq!(template("^/([^/]+)/(.*)$").as_deref(), Some("/{c1}/{*c2}"));
        for none in [r"^/users/(\d+)$", "^/a/(.*)/b$", "/a/(.*)$", "^/a/([^/]+)", "^/a$", "^/a/(.+)$"] {
            assert_eq!(template(none), None, "{none}");
        }
    }

    #[test]
    fn the_start_of_an_expression_is_what_all_its_paths_begin_with() {
        assert_eq!(literal_start(r"^/v1\.0/users/(\d+)").as_deref(), Some("/v1.0/users/"));
        assert_eq!(literal_start("^/old/?$").as_deref(), Some("/old"));
        assert_eq!(literal_start("^/a|^/b"), None);
        assert_eq!(literal_start(r"\.php$"), None);
    }
}
