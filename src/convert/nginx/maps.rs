//! `map`: a value that goes by another one, as conditions of filters and matches of routes.

use super::{
    parser::Directive,
    patterns,
    values::{Piece, pieces},
    world::list,
};
use crate::convert::draft::{Map, Node};
use crate::convert::fields;

/// So many conditions on one chain are enough; a chain may have 64.
const MOST_ENTRIES: usize = 24;

/// One `map` block.
#[derive(Clone, Debug)]
pub(super) struct Mapping<'f> {
    pub(super) directive: &'f Directive,
    pub(super) default: String,
    /// The strongest first: nginx looks at texts before expressions.
    pub(super) entries: Vec<(Map, String)>,
    /// Why it cannot be used.
    pub(super) trouble: Option<String>,
}

impl<'f> Mapping<'f> {
    pub(super) fn read(directive: &'f Directive) -> Mapping<'f> {
        let mut mapping = Mapping { directive, default: String::new(), entries: Vec::new(), trouble: None };
        let source = match pieces(directive.first()).as_slice() {
            [Piece::Variable(name)] => name.clone(),
            _ => {
                mapping.trouble = Some("a map goes by one variable here".to_owned());
                return mapping;
            }
        };
        let (mut texts, mut expressions) = (Vec::new(), Vec::new());
        for entry in directive.inside() {
            let value = entry.first().to_owned();
            match entry.name.as_str() {
                "default" => mapping.default = value,
                "hostnames" | "volatile" if entry.arguments.is_empty() => {}
                name => match condition(&source, name) {
                    Ok(when) if name.starts_with('~') => expressions.push((when, value)),
                    Ok(when) => texts.push((when, value)),
                    Err(why) => mapping.trouble = Some(why),
                },
            }
        }
        texts.append(&mut expressions);
        if texts.len() > MOST_ENTRIES {
            mapping.trouble =
                Some(format!("a map of more than {MOST_ENTRIES} entries is too long for conditions"));
        }
        mapping.entries = texts;
        mapping
    }

    /// # Errors
    ///
    /// Why its values cannot be told apart.
    pub(super) fn usable(&self) -> Result<&Mapping<'f>, String> {
        self.directive.mark_read();
        match &self.trouble {
            None => Ok(self),
            Some(why) => Err(format!("it uses the map at {}: {why}", self.directive.at.place())),
        }
    }
}

/// Why a value cannot be compared.
type Why = String;

/// A `match` that holds where the variable `source` is what the `key` of a map says.
fn condition(source: &str, key: &str) -> Result<Map, Why> {
    let text = key.strip_prefix('\\').unwrap_or(key);
    let how = match key.strip_prefix('~') {
        Some(rest) => match rest.strip_prefix('*') {
            Some(pattern) => How::Regex { pattern, is_caseless: true },
            None => How::Regex { pattern: rest, is_caseless: false },
        },
        None => How::Text { text, is_caseless: true },
    };
    holds(source, &how)
}

/// How a variable is compared.
pub(super) enum How<'t> {
    Text {
        text: &'t str,
        is_caseless: bool,
    },
    Regex {
        pattern: &'t str,
        is_caseless: bool,
    },
    /// Neither empty nor `0`.
    Truth,
}

/// A `match` that holds where this variable compares so.
pub(super) fn holds(variable: &str, how: &How<'_>) -> Result<Map, Why> {
    let name = |prefix: &str| variable.strip_prefix(prefix).filter(|name| !name.is_empty());
    if let Some(cookie) = name("cookie_") {
        return Ok(of_field("headers", "cookie", Map::new().with("regex", of_cookie(cookie, how)?).into()));
    }
    let header = |header: &str| Ok(of_field("headers", header, value(how)?));
    match (variable, how) {
        ("host" | "http_host" | "server_name", How::Text { text, .. }) if is_host(text) => {
            Ok(Map::new().with("hosts", list([*text])))
        }
        ("host" | "http_host", How::Regex { .. }) => header("host"),
        ("request_method", How::Text { text, .. }) if is_method(text) => Ok(methods(&[text])),
        ("request_method", How::Regex { pattern, is_caseless: _ }) => match alternatives(pattern) {
            Some(found) if found.iter().all(|method| is_method(method)) => Ok(methods(&found)),
            _ => Err("methods are compared with a list of them".to_owned()),
        },
        ("uri" | "document_uri" | "request_uri", How::Text { text, is_caseless })
            if patterns::is_plain(text) =>
        {
            Ok(Map::new().with(
                "path",
                match is_caseless {
                    true => Map::new().with("regex", format!("(?i)^{}$", regex_escaped(text))),
                    false => Map::new().with("exact", *text),
                },
            ))
        }
        ("uri" | "document_uri", How::Regex { pattern, is_caseless }) => Ok(Map::new().with(
            "path",
            Map::new().with("regex", fields::literal(&patterns::regex(pattern, *is_caseless)?)),
        )),
        // A request's target has its query as well, so only what looks at the start is the same.
        ("request_uri", How::Regex { pattern, is_caseless })
            if pattern.starts_with('^') && !pattern.contains(['$', '?']) =>
        {
            Ok(Map::new().with("path", Map::new().with("regex", patterns::regex(pattern, *is_caseless)?)))
        }
        ("content_type", _) => header("content-type"),
        ("args" | "query_string", _) => {
            Err("the query is compared by the names of its parameters".to_owned())
        }
        _ if name("http_").is_some() => header(&variable["http_".len()..].replace('_', "-")),
        _ => match name("arg_") {
            Some(parameter) => Ok(of_field("query", parameter, value(how)?)),
            None => Err(format!("nothing can be compared with `${variable}`")),
        },
    }
}

fn of_field(kind: &str, name: &str, value: Node) -> Map {
    Map::new().with(kind, Map::new().with(name, value))
}

/// GET means HEAD as well in a match, and not in nginx: where it is about others than GET, conditions name HEAD besides.
fn methods(found: &[&str]) -> Map {
    Map::new().with("methods", list(found.iter().copied()))
}

/// Whether HEAD is none of these methods, and GET is one.
pub(super) fn means_get_alone(how: &How<'_>) -> bool {
    let found = match how {
        How::Text { text, .. } => vec![*text],
        How::Regex { pattern, .. } => alternatives(pattern).unwrap_or_default(),
        How::Truth => Vec::new(),
    };
    found.contains(&"GET") && !found.contains(&"HEAD")
}

pub(super) fn is_method(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    !name.is_empty()
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

fn value(how: &How<'_>) -> Result<Node, Why> {
    if let How::Text { text, .. } = how
        && (text.chars().any(char::is_control) || text.trim() != *text)
    {
        return Err("no field has such a value".to_owned());
    }
    Ok(match how {
        How::Text { text: "", .. } => Map::new().with("present", false).into(),
        How::Text { text, is_caseless }
            if *is_caseless && text.bytes().any(|byte| byte.is_ascii_alphabetic()) =>
        {
            Map::new().with("regex", fields::literal(&format!("(?i)^{}$", regex_escaped(text)))).into()
        }
        How::Text { text, .. } => Map::new().with("exact", fields::literal(text)).into(),
        How::Regex { pattern, is_caseless } => {
            Map::new().with("regex", fields::literal(&patterns::regex(pattern, *is_caseless)?)).into()
        }
        How::Truth => Map::new().with("regex", "^(?:[^0]|0.)").into(),
    })
}

/// In the field that has all cookies.
fn of_cookie(name: &str, how: &How<'_>) -> Result<String, Why> {
    let name = regex_escaped(name);
    match how {
        How::Text { text: "", .. } => Err("that a cookie is absent cannot be said".to_owned()),
        How::Text { text, is_caseless } => {
            let case = if *is_caseless { "(?i:" } else { "(?:" };
            Ok(fields::literal(&format!("(?:^|; *){name}={case}{})(?:;|$)", regex_escaped(text))))
        }
        How::Truth => Ok(format!("(?:^|; *){name}=(?:[^0;]|0[^;])")),
        How::Regex { pattern, is_caseless } => {
            let start = if pattern.starts_with('^') { "" } else { "[^;]*" };
            let inner = pattern.trim_start_matches('^');
            let (inner, end) = match inner.strip_suffix('$') {
                Some(inner) => (inner, "(?:;|$)"),
                None => (inner, ""),
            };
            let pattern = patterns::regex(&format!("(?:^|; *){name}={start}(?:{inner}){end}"), *is_caseless)?;
            Ok(fields::literal(&pattern))
        }
    }
}

fn regex_escaped(text: &str) -> String {
    regex::escape(text)
}

/// `^(GET|HEAD)$`, with or without what groups and anchors it.
fn alternatives(pattern: &str) -> Option<Vec<&str>> {
    let inner = pattern.strip_prefix('^')?.strip_suffix('$')?;
    let inner = inner
        .strip_prefix("(?:")
        .or_else(|| inner.strip_prefix('('))
        .map_or(Some(inner), |rest| rest.strip_suffix(')'))?;
    Some(inner.split('|').collect())
}
