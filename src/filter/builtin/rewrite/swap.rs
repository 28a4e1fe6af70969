//! One thing for another, in what an upstream says of its own place: `{from: http://app:8080/, to: /}`, or by an expression with groups.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::Path,
    filter::{Exchange, Invalid, Reason, Template},
};

/// Exactly one of `from` and `pattern`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SwapOptions {
    /// What is replaced: the beginning of a URL or path; of a domain all of it.
    from: Option<String>,
    /// An expression in its place; what it matches is replaced.
    pattern: Option<String>,
    /// What takes the place, with placeholders such as `{host}`; behind a `pattern` also `$1` and `$name`, its groups, and `$$`, a dollar sign.
    to: String,
}

pub(super) struct Swap {
    by: By,
    /// With [`MARK`] around the names of groups.
    to: Template,
}

enum By {
    Text(String),
    Pattern(Regex),
}

/// How much of the value `from` is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Beginning,
    /// Whatever its case.
    Whole,
}

/// No request can fill this in, as no path, name or field has it.
const MARK: char = '\u{1}';

impl SwapOptions {
    pub(super) fn build(self, at: &Path, invalid: &mut Vec<Invalid>) -> Option<Swap> {
        let mut refuse = |key: &str, why: String| {
            invalid.push(Invalid::new(if key.is_empty() { at.clone() } else { at.key(key) }, why));
            None
        };
        if self.to.contains(MARK) {
            return refuse("to", "it holds a control character".to_owned());
        }
        let (by, to) = match (self.from, self.pattern) {
            (Some(from), None) if from.is_empty() => {
                return refuse(
                    "from",
                    "nothing to look for (`pattern: \"^\"` puts something in front)".to_owned(),
                );
            }
            (Some(from), None) => (By::Text(from), self.to),
            (None, Some(pattern)) => match Regex::new(&pattern) {
                Ok(regex) => match marked(&self.to, &regex) {
                    Ok(to) => (By::Pattern(regex), to),
                    Err(why) => return refuse("to", why),
                },
                Err(error) => return refuse("pattern", error.to_string()),
            },
            _ => return refuse("", "expected exactly one of `from` and `pattern`".to_owned()),
        };
        match Template::parse(&to) {
            Ok(to) => Some(Swap { by, to }),
            Err(why) => refuse("to", why),
        }
    }
}

/// All of a list.
pub(super) fn build(options: Vec<SwapOptions>, at: &Path, invalid: &mut Vec<Invalid>) -> Vec<Swap> {
    options
        .into_iter()
        .enumerate()
        .filter_map(|(index, swap)| swap.build(&at.index(index), invalid))
        .collect()
}

impl Swap {
    /// What `value` becomes; `None` where this is not for it. `fill` makes text of a template.
    ///
    /// # Errors
    ///
    /// Of `fill`.
    pub(super) fn apply(
        &self,
        value: &str,
        reach: Reach,
        exchange: &Exchange<'_>,
        fill: impl Fn(&Template, &Exchange<'_>) -> Result<String, Reason>,
    ) -> Result<Option<String>, Reason> {
        Ok(match (&self.by, reach) {
            (By::Text(from), Reach::Beginning) => match value.strip_prefix(from.as_str()) {
                Some(rest) => Some(fill(&self.to, exchange)? + rest),
                None => None,
            },
            // A dot before a domain means nothing (RFC 6265, section 5.2.3).
            (By::Text(from), Reach::Whole) => {
                let [value, from] = [value, from.as_str()].map(|text| text.trim_start_matches('.'));
                match value.eq_ignore_ascii_case(from) {
                    true => Some(fill(&self.to, exchange)?),
                    false => None,
                }
            }
            (By::Pattern(regex), _) => match regex.captures(value) {
                Some(found) => {
                    let filled = with_groups(&fill(&self.to, exchange)?, &found);
                    let whole = found.get(0).map_or(0..0, |whole| whole.range());
                    Some(format!("{}{filled}{}", &value[..whole.start], &value[whole.end..]))
                }
                None => None,
            },
        })
    }
}

/// `$1` and `$name` as marks, so that what is filled in is never taken for one.
fn marked(to: &str, regex: &Regex) -> Result<String, String> {
    static GROUP: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\$(\$|[0-9]+|[A-Za-z_][A-Za-z0-9_]*)?").expect("it is one"));
    let mut wrong = None;
    let marked = GROUP.replace_all(to, |found: &Captures<'_>| match found.get(1).map(|name| name.as_str()) {
        Some("$") => "$".to_owned(),
        Some(name) => {
            let is_there = match name.parse::<usize>() {
                Ok(number) => number < regex.captures_len(),
                Err(_) => regex.capture_names().flatten().any(|known| known == name),
            };
            if !is_there {
                wrong = Some(format!("the expression has no group `{name}` (`$$` is a dollar sign)"));
            }
            format!("{MARK}{name}{MARK}")
        }
        None => {
            wrong = Some(
                "`$` stands before the number or the name of a group (`$$` is a dollar sign)".to_owned(),
            );
            String::new()
        }
    });
    wrong.map_or_else(|| Ok(marked.into_owned()), Err)
}

fn with_groups(filled: &str, found: &Captures<'_>) -> String {
    // Every other piece is a name.
    let pieces = filled.split(MARK).enumerate().map(|(place, piece)| match place % 2 {
        0 => piece,
        _ => match piece.parse() {
            Ok(number) => found.get(number),
            Err(_) => found.name(piece),
        }
        .map_or("", |group| group.as_str()),
    });
    pieces.collect()
}
