//! What is said about the lines that did not become configuration: those that have no equal, those that need none, and where Tidegate
//! differs by itself. Each is said once, however many blocks inherit it.

use std::collections::{BTreeMap, BTreeSet};

use super::parser::{Directive, Seen};
use crate::convert::{Left, Place, draft::Map, fields::listed};

#[derive(Debug, Default)]
pub(super) struct Notes {
    left: Vec<Left>,
    known: BTreeSet<Left>,
    /// How many of `left` have been written into the file.
    written: usize,
    needless: BTreeMap<&'static str, BTreeSet<String>>,
    differences: BTreeMap<&'static str, BTreeSet<Place>>,
    unused: BTreeSet<Place>,
}

impl Notes {
    /// It has no equal here.
    pub(super) fn leave(&mut self, directive: &Directive, why: impl Into<String>) {
        directive.seen.set(Seen::Left);
        self.leave_in_part(directive, why);
    }

    /// It has an equal, but for something.
    pub(super) fn leave_in_part(&mut self, directive: &Directive, why: impl Into<String>) {
        let Place { file, line } = directive.at.place();
        let at = Place { file: on_a_line(&file), line };
        let left = Left { at, what: directive.line(), why: on_a_line(&why.into()) };
        if self.known.insert(left.clone()) {
            self.left.push(left);
        }
    }

    /// Nothing is missing without it.
    pub(super) fn needless(&mut self, directive: &Directive, why: &'static str) {
        directive.mark_read();
        self.needless.entry(why).or_default().insert(directive.name.clone());
    }

    /// Nothing is missing without this part of it.
    pub(super) fn needless_part(&mut self, directive: &Directive, part: &str, why: &'static str) {
        let named = format!("`{}` of `{}` ({})", on_a_line(part), directive.name, directive.at.place());
        self.needless.entry(why).or_default().insert(named);
    }

    /// It is carried over, and not quite the same.
    pub(super) fn differ(&mut self, directive: &Directive, how: &'static str) {
        directive.mark_read();
        self.differences.entry(how).or_default().insert(directive.at.place());
    }

    /// It would be carried over where something used it.
    pub(super) fn unused(&mut self, directive: &Directive) {
        directive.mark_read();
        self.unused.insert(directive.at.place());
    }

    /// The comments for what was left since this was last asked.
    pub(super) fn fresh(&mut self) -> Vec<String> {
        let fresh = self.left[self.written..].iter().map(Left::to_string).collect();
        self.written = self.left.len();
        fresh
    }

    pub(super) fn head(&self, file: &mut Map) {
        for (how, places) in &self.differences {
            file.comment(format!(
                "Not quite the same: {how}: {}",
                listed(places.iter().map(Place::to_string))
            ));
        }
        if !self.unused.is_empty() {
            let places = listed(self.unused.iter().map(Place::to_string));
            file.comment(format!("Nothing that was carried over uses these lines: {places}"));
        }
        for (why, names) in &self.needless {
            file.comment(format!("Needs no equal, {why}: {}", listed(names.iter().cloned())));
        }
    }

    pub(super) fn into_left(mut self) -> Vec<Left> {
        self.left.sort();
        self.left
    }
}

/// Without what would end a line, or is none of YAML's characters.
pub(super) fn on_a_line(text: &str) -> String {
    let is_good = |c: char| {
        !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    text.chars().map(|c| if is_good(c) { c } else { ' ' }).collect()
}
