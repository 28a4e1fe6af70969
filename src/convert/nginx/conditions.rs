//! `if`: what a filter's `when` and `unless` can say of it.

use super::{
    maps::{How, Mapping, holds},
    parser::Directive,
    values::{Piece, pieces},
    world::World,
};
use crate::convert::draft::Map;

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
    let mut words: Vec<String> = directive.texts().map(str::to_owned).collect();
    match (words.first_mut().map(|first| first.strip_prefix('(').map(str::to_owned)), words.len()) {
        (Some(Some(stripped)), _) => words[0] = stripped,
        _ => return Err("its condition is not in brackets".to_owned()),
    }
    let last = words.len() - 1;
    words[last] = words[last].strip_suffix(')').unwrap_or_default().to_owned();
    let words: Vec<&str> =
        words.iter().map(String::as_str).filter(|word| !word.is_empty() || last == 0).collect();
    // An empty text in quotes is a word that the filter above has taken out.
    match words.as_slice() {
        [test, _] if test.starts_with(['-', '!']) && test.len() <= 3 && test.contains('-') => {
            Err("files are not looked at: no files are served here".to_owned())
        }
        [variable] => truth(&name(variable)?, world),
        [variable, sign] if matches!(*sign, "=" | "!=") => compared(&name(variable)?, sign, "", world),
        [variable, sign, text] => compared(&name(variable)?, sign, text, world),
        _ => Err("its condition is not understood".to_owned()),
    }
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
    Ok(vec![if is_meant { When::Holds(matching) } else { When::HoldsNot(matching) }])
}

/// Where a map says one of the values that `is_meant`. Its other entries, and its default, must not stand before these.
fn entries(mapping: &Mapping<'_>, is_meant: impl Fn(&str) -> bool) -> Result<Vec<When>, String> {
    let mapping = mapping.usable()?;
    let stands_in_the_way =
        mapping.entries.iter().skip_while(|(_, value)| is_meant(value)).any(|(_, value)| is_meant(value));
    if is_meant(&mapping.default) || stands_in_the_way {
        return Err("what the map says otherwise cannot be told apart".to_owned());
    }
    let meant = mapping.entries.iter().take_while(|(_, value)| is_meant(value));
    Ok(meant.map(|(matching, _)| When::Holds(matching.clone())).collect())
}
