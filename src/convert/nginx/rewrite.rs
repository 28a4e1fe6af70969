//! One `rewrite`: as the target of a redirect, as a filter that changes the path, or as the match of a route of its own.

use crate::convert::fields;
use std::collections::BTreeMap;

use super::{
    maps::{How, holds},
    parser::Directive,
    patterns::{self, PathMatch},
    values::{Piece, Purpose, Values, pieces},
    world::filter,
};
use crate::convert::draft::Map;

/// What the groups of an expression are, by number.
type Groups = BTreeMap<String, String>;

pub(super) struct Rewrite {
    pub(super) pattern: String,
    /// Without the `?` that keeps the query away.
    pub(super) replacement: String,
    pub(super) flag: String,
    drops_query: bool,
}

impl Rewrite {
    pub(super) fn read(directive: &Directive) -> Result<Rewrite, String> {
        let pattern = patterns::regex(directive.first(), false)?;
        let (replacement, drops_query) = match directive.argument(1).strip_suffix('?') {
            Some(replacement) => (replacement, true),
            None => (directive.argument(1), false),
        };
        if replacement.is_empty() {
            return Err("it says nothing to put in place".to_owned());
        }
        Ok(Rewrite {
            pattern,
            replacement: replacement.to_owned(),
            flag: directive.argument(2).to_owned(),
            drops_query,
        })
    }

    pub(super) fn is_redirect(&self) -> bool {
        matches!(self.flag.as_str(), "redirect" | "permanent")
            || ["http://", "https://", "$scheme"].iter().any(|start| self.replacement.starts_with(start))
    }

    pub(super) fn uses_groups(&self) -> bool {
        pieces(&self.replacement)
            .iter()
            .any(|piece| matches!(piece, Piece::Variable(name) if name.parse::<u8>().is_ok()))
    }

    /// The replacement, where the expression takes every path and its group is all of it.
    pub(super) fn of_every_path(&self) -> Option<String> {
        match self.pattern.as_str() {
            "^" | "^/" | ".*" | "^.*" | "^.*$" | "^(.*)$" | "^(.*)" | "(.*)" => {
                Some(self.replacement.clone())
            }
            "^/(.*)$" | "^/(.*)" | "/(.*)" | "^/?(.*)$" => {
                let text = self.replacement.replacen("/$1", "$uri", 1);
                (!text.contains("$1")).then_some(text)
            }
            _ => None,
        }
    }

    pub(super) fn with_query(&self, filled: &str) -> String {
        match filled {
            _ if self.drops_query || filled.ends_with("{query}") => filled.to_owned(),
            _ if filled.contains('?') => format!("{filled}&{{query}}"),
            _ => format!("{filled}?{{query}}"),
        }
    }

    /// The literal text that new paths begin with, and whether that is all of it.
    pub(super) fn start(&self) -> (String, bool) {
        let path = self.replacement.split('?').next().unwrap_or_default();
        match path.split_once('$') {
            Some((start, _)) => (start.to_owned(), false),
            None => (path.to_owned(), true),
        }
    }

    /// A template in place of the expression, and what its groups are in it.
    pub(super) fn template(&self) -> Result<(PathMatch, Groups), String> {
        const WHY: &str = "groups are used as a template's segments here, and this expression is none (write a route with `match.path.template`)";
        let captures = patterns::captures(&self.pattern).ok_or(WHY)?;
        let groups =
            (1..=captures.count).map(|index| (index.to_string(), format!("{{path.c{index}}}"))).collect();
        Ok((PathMatch::Template(captures.template), groups))
    }

    /// The filter that changes all paths of a route to another location.
    pub(super) fn detour(&self, values: &Values) -> Result<Map, String> {
        if self.replacement.contains('?') || self.drops_query {
            return Err("a rewrite to another location keeps the query here".to_owned());
        }
        Ok(filter("rewrite", Map::new().with("regex", self.regex(values)?)))
    }

    /// Whether it may find a path that this one has made.
    pub(super) fn may_follow(&self, other: &Rewrite) -> bool {
        let (start, is_whole) = other.start();
        patterns::may_take(&self.pattern, &start, is_whole)
    }

    /// The filter that changes the paths that the expression finds, and leaves others alone.
    pub(super) fn change(&self, values: &Values) -> Result<Map, String> {
        if !self.replacement.contains('?') && !self.drops_query {
            return Ok(filter("rewrite", Map::new().with("regex", self.regex(values)?)));
        }
        let Some(text) =
            self.of_every_path().or_else(|| (!self.uses_groups()).then(|| self.replacement.clone()))
        else {
            return Err("what groups match cannot be put into a query here (write a route with `match.path.template`)".to_owned());
        };
        let mut values = values.clone();
        values.groups.insert("1".to_owned(), "{path}".to_owned());
        let filled = values.filled(&text, Purpose::Url)?;
        if !filled.starts_with('/') {
            return Err("what it makes is no path".to_owned());
        }
        let path = match self.drops_query {
            true => format!("{filled}?"),
            false => self.with_query(&filled),
        };
        let change = filter("rewrite", Map::new().with("path", path));
        Ok(match self.of_every_path() {
            Some(_) => change,
            None => {
                change.with("when", holds("uri", &How::Regex { pattern: &self.pattern, is_caseless: false })?)
            }
        })
    }

    fn regex(&self, values: &Values) -> Result<Map, String> {
        replaced(&self.pattern, &self.replacement, values)
    }
}

/// What a `regex` of a rewrite filter says: all of a path that the pattern finds becomes the text, with its groups.
///
/// # Errors
///
/// A variable is neither a constant nor a group.
pub(super) fn replaced(pattern: &str, text: &str, values: &Values) -> Result<Map, String> {
    let mut replacement = String::new();
    for piece in pieces(&values.expanded(text)) {
        match piece {
            Piece::Text(text) => replacement.push_str(&patterns::encoded(&text).replace('$', "$$")),
            Piece::Variable(name) if name.parse::<u8>().is_ok() || pattern.contains(&format!("<{name}>")) => {
                replacement.push_str(&format!("${{{name}}}"));
            }
            Piece::Variable(name) => {
                return Err(format!("`${name}` cannot stand in a path that an expression makes"));
            }
        }
    }
    let pattern = fields::literal(&patterns::whole(pattern));
    Ok(Map::new().with("pattern", pattern).with("replacement", fields::literal(&replacement)))
}
