//! `if`: what a filter's `when` and `unless` can say of it.

use super::{
    maps::{self, How, Mapping, holds},
    parser::Directive,
    values::{Piece, pieces},
    world::World,
};
use crate::convert::draft::{List, Map};

/// A filter runs where one of these holds.
#[derive(Clone)]
pub(super) enum When {
    /// `when`
    Holds(Map),
    /// `unless`
    HoldsNot(Map),
}

impl When {
    pub(super) fn put(self, filter: &mut Map) {
        match self {
            When::Holds(matching) => filter.set("when", matching),
            When::HoldsNot(matching) => filter.set("unless", matching),
        }
    }
}

/// # Errors
///
/// Why no filter can go by it.
pub(super) fn read(directive: &Directive, world: &World<'_>) -> Result<Vec<When>, String> {
    match words(directive).ok_or("its condition is not in brackets")?.as_slice() {
        [test, _] if test.starts_with(['-', '!']) && test.len() <= 3 && test.contains('-') => {
            Err("files are not looked at: no files are served here".to_owned())
        }
        [variable] => truth(&name(variable)?, world),
        [variable, sign] if matches!(*sign, "=" | "!=") => compared(&name(variable)?, sign, "", world),
        [variable, sign, text] => compared(&name(variable)?, sign, text, world),
        _ => Err("its condition is not understood".to_owned()),
    }
}

/// How its value is compared in another way than nginx does.
pub(super) fn difference(directive: &Directive) -> Option<&'static str> {
    let words = words(directive)?;
    match words.first()?.trim_start_matches('$') {
        name if name.starts_with("arg_") => Some(
            "a guard that asks for the value of a parameter: its name has a case here, its value is decoded, and any will do where it comes twice",
        ),
        "http_host" => Some("a guard that asks for a host: its case and port do not matter here"),
        name if name.starts_with("http_") && words.len() == 2 => {
            Some("a guard that asks for a field that is empty: here it is absent, or has any text")
        }
        _ => None,
    }
}

/// What stands in the brackets. An empty text in quotes is no word.
pub(super) fn words(directive: &Directive) -> Option<Vec<&str>> {
    let mut words: Vec<&str> = directive.texts().collect();
    let first = words.first_mut()?;
    *first = first.strip_prefix('(')?;
    let last = words.last_mut()?;
    *last = last.strip_suffix(')').unwrap_or_default();
    words.retain(|word| !word.is_empty());
    Some(words)
}

fn name(variable: &str) -> Result<String, String> {
    match pieces(variable).as_slice() {
        [Piece::Variable(name)] => Ok(name.clone()),
        _ => Err("it compares more than one variable".to_owned()),
    }
}

fn truth(variable: &str, world: &World<'_>) -> Result<Vec<When>, String> {
    match world.maps.get(variable) {
        None => Ok(vec![When::Holds(holds(variable, &How::Truth)?)]),
        Some(mapping) => entries(mapping, |value| !matches!(value, "" | "0")),
    }
}

fn compared(variable: &str, sign: &str, text: &str, world: &World<'_>) -> Result<Vec<When>, String> {
    if let Some(mapping) = world.maps.get(variable) {
        return match sign {
            "=" => entries(mapping, |value| value == text),
            "!=" => entries(mapping, |value| value != text),
            _ => Err("what a map says is compared with texts only".to_owned()),
        };
    }
    if variable.starts_with("cookie_") && text.is_empty() && matches!(sign, "=" | "!=") {
        // One without a value is as good as absent.
        let has_value = holds(variable, &How::Regex { pattern: "[^;]", is_caseless: false })?;
        return Ok(vec![if sign == "=" { When::HoldsNot(has_value) } else { When::Holds(has_value) }]);
    }
    let (how, is_meant) = match sign {
        "=" => (How::Text { text, is_caseless: false }, true),
        "!=" => (How::Text { text, is_caseless: false }, false),
        "~" => (How::Regex { pattern: text, is_caseless: false }, true),
        "!~" => (How::Regex { pattern: text, is_caseless: false }, false),
        "~*" => (How::Regex { pattern: text, is_caseless: true }, true),
        "!~*" => (How::Regex { pattern: text, is_caseless: true }, false),
        _ => return Err(format!("{sign:?} compares nothing here")),
    };
    let matching = holds(variable, &how)?;
    if variable == "request_method" && !is_meant && maps::means_get_alone(&how) {
        // GET means HEAD as well in a match, and not in nginx.
        let head = holds(variable, &How::Text { text: "HEAD", is_caseless: false })?;
        return Ok(vec![When::HoldsNot(matching), When::Holds(head)]);
    }
    Ok(vec![if is_meant { When::Holds(matching) } else { When::HoldsNot(matching) }])
}

/// Where a map says one of the values that `is_meant`: those of its first entries, or all but those.
fn entries(mapping: &Mapping<'_>, is_meant: impl Fn(&str) -> bool) -> Result<Vec<When>, String> {
    let mapping = mapping.usable()?;
    let is_default_meant = is_meant(&mapping.default);
    let differs = |value: &str| is_meant(value) != is_default_meant;
    let first = mapping.entries.iter().take_while(|(_, value)| differs(value)).count();
    let (first, rest) = mapping.entries.split_at(first);
    // The map says what its first entry that fits says.
    if rest.iter().any(|(_, value)| differs(value)) || (is_default_meant && first.is_empty()) {
        return Err("what the map says otherwise cannot be told apart".to_owned());
    }
    let matching = first.iter().map(|(matching, _)| matching.clone());
    Ok(match (is_default_meant, first) {
        (false, _) => matching.map(When::Holds).collect(),
        (true, [(only, _)]) => vec![When::HoldsNot(only.clone())],
        (true, _) => vec![When::HoldsNot(Map::new().with("any", matching.collect::<List>()))],
    })
}
