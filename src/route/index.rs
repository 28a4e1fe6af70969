//! The paths of one host: finds the rules whose path pattern matches, most specific pattern first. It knows nothing
//! of methods, headers and queries; the table asks those of each slot it is shown.

use std::{collections::HashMap, ops::ControlFlow};

use regex::bytes::{Regex, RegexSet, RegexSetBuilder};

use super::{
    PathPattern,
    pattern::Kind,
    tree::{Tree, Visit},
};

/// Below this many, asking each expression is as fast as asking all of them at once, and allocates nothing.
const REGEXES_WORTH_A_SET: usize = 8;
/// Ten times what one expression may take. A larger set is not built, and expressions are asked one by one.
const SET_SIZE_LIMIT: usize = 100 << 20;

#[derive(Debug, Default)]
pub(super) struct PathIndex {
    slots: Vec<Slot>,
    // Keyed by SipHash, since clients choose paths.
    exact: HashMap<Box<str>, u32>,
    templates: Tree,
    /// In file order of their first use.
    regexes: Vec<(Regex, u32)>,
    regex_set: Option<RegexSet>,
    prefixes: Tree,
}

/// The rules of one host that share one path pattern, as indices into the table.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// In order of precedence, once the table has sorted them.
    pub rules: Vec<u32>,
    /// Whether any of them names HEAD, which then goes before those that name only GET.
    pub names_head: bool,
}

impl PathIndex {
    /// The slot of `pattern`, made if need be.
    pub(crate) fn slot(&mut self, pattern: &PathPattern) -> &mut Slot {
        let next = self.slots.len() as u32;
        let place = match &pattern.0 {
            Kind::Exact(text) => *self.exact.entry(text.clone()).or_insert(next),
            Kind::Template(template) => *self.templates.template(template.pieces()).get_or_insert(next),
            Kind::Prefix(text) => {
                let text = if **text == *"/" { "" } else { text };
                *self.prefixes.prefix(text).get_or_insert(next)
            }
            Kind::Regex(regex) => {
                match self.regexes.iter().find(|(other, _)| other.as_str() == regex.as_str()) {
                    Some((_, place)) => *place,
                    None => {
                        self.regexes.push((regex.clone(), next));
                        next
                    }
                }
            }
        };
        if place == next {
            self.slots.push(Slot::default());
        }
        &mut self.slots[place as usize]
    }

    pub(crate) fn slots_mut(&mut self) -> &mut [Slot] {
        &mut self.slots
    }

    /// Call once all slots are made.
    pub(crate) fn seal(&mut self) {
        if self.regexes.len() >= REGEXES_WORTH_A_SET {
            let texts = self.regexes.iter().map(|(regex, _)| regex.as_str());
            let mut set = RegexSetBuilder::new(texts);
            set.size_limit(SET_SIZE_LIMIT);
            // As each of them was: without what is beyond ASCII, where all can be read so.
            self.regex_set = set.unicode(false).build().or_else(|_| set.unicode(true).build()).ok();
        }
    }

    /// Shows every slot whose pattern matches: exact, then templates, then regexes in file order, then prefixes
    /// from longest to shortest.
    pub(crate) fn visit(
        &self,
        path: &str,
        visit: &mut dyn FnMut(&Slot) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let visit: &mut Visit<'_> = &mut |place| visit(&self.slots[place as usize]);
        if let Some(place) = self.exact.get(path) {
            visit(*place)?;
        }
        self.templates.visit_templates(path, visit)?;
        self.visit_regexes(path, visit)?;
        self.prefixes.visit_prefixes(path, visit)
    }

    fn visit_regexes(&self, path: &str, visit: &mut Visit<'_>) -> ControlFlow<()> {
        match &self.regex_set {
            // Asking which of them match allocates; asking whether any does not, and is mostly answered by no.
            Some(set) if set.is_match(path.as_bytes()) => {
                set.matches(path.as_bytes()).iter().try_for_each(|at| visit(self.regexes[at].1))
            }
            Some(_) => ControlFlow::Continue(()),
            None => self
                .regexes
                .iter()
                .filter(|(regex, _)| regex.is_match(path.as_bytes()))
                .try_for_each(|(_, place)| visit(*place)),
        }
    }
}
