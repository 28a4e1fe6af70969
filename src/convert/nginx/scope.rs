//! What holds in a block: its own directives, and those of the blocks around it that it does not set anew.

use std::rc::Rc;

use super::parser::Directive;

/// From the outermost block to the innermost.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope<'f> {
    levels: Vec<Level<'f>>,
}

#[derive(Clone, Debug)]
struct Level<'f> {
    all: &'f [Directive],
    /// Those that may be asked for by name: of a file with thousands of servers each would look at all others.
    settings: Rc<[&'f Directive]>,
}

impl<'f> Scope<'f> {
    pub(super) fn new(outermost: &'f [Directive]) -> Scope<'f> {
        Scope::default().inside(outermost)
    }

    #[must_use]
    pub(super) fn inside(&self, block: &'f [Directive]) -> Scope<'f> {
        const BLOCKS: [&str; 4] = ["server", "location", "upstream", "map"];
        let settings = block.iter().filter(|one| !BLOCKS.contains(&one.name.as_str())).collect();
        let mut levels = self.levels.clone();
        levels.push(Level { all: block, settings });
        Scope { levels }
    }

    /// The innermost block's own.
    pub(super) fn own(&self) -> &'f [Directive] {
        self.levels.last().map(|level| level.all).unwrap_or_default()
    }

    /// The innermost that is set.
    pub(super) fn one(&self, name: &str) -> Option<&'f Directive> {
        self.all(name).last().copied()
    }

    /// Those of the innermost block that has any: nginx inherits lists whole or not at all.
    pub(super) fn all(&self, name: &str) -> Vec<&'f Directive> {
        self.any(&[name])
    }

    /// The same of directives that stand in one list, such as `allow` and `deny`.
    pub(super) fn any(&self, names: &[&str]) -> Vec<&'f Directive> {
        let of = |level: &Level<'f>| {
            let found = level.settings.iter().copied().filter(|one| names.contains(&one.name.as_str()));
            found.map(Directive::read).collect::<Vec<_>>()
        };
        self.levels.iter().rev().map(of).find(|found| !found.is_empty()).unwrap_or_default()
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        self.one(name).is_some_and(|directive| directive.first() == "on")
    }
}
