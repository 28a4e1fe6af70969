//! Where the tree holds less than was written: what was wrong and left out, and what was lost before it came this far.
//! Whoever looks for more problems asks here what must not be concluded from an absence.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Bound,
};

use crate::config::document::{
    node::{Node, Value},
    problem::{Path, Segment},
};

/// Maps with an unknown key, each with the known key that was likely meant.
pub(in crate::config) type Misspelt = HashSet<(Path, Option<&'static str>)>;

/// All paths are as written: they count what was left out, too.
#[derive(Debug, Default)]
pub(in crate::config) struct Gaps {
    left_out: BTreeSet<Path>,
    /// Lists and maps of which entries were lost.
    partial: BTreeSet<Path>,
    /// For lists without some of their items, the indexes of those that are left.
    kept: HashMap<Path, Vec<usize>>,
    misspelt: Misspelt,
}

impl Gaps {
    /// `pruned` are the nodes left out, by `Node::id`; `lost` are top-level keys that may have been set in a file that
    /// could not be read, if any.
    pub(crate) fn new(root: &Node, pruned: &HashSet<usize>, misspelt: Misspelt, lost: &[&str]) -> Self {
        let mut gaps = Gaps { misspelt, ..Gaps::default() };
        gaps.walk(root, Path::root(), pruned);
        if !lost.is_empty() {
            gaps.partial.insert(Path::root());
            gaps.partial.extend(lost.iter().map(|key| Path::root().key(*key)));
        }
        gaps
    }

    fn walk(&mut self, node: &Node, path: Path, pruned: &HashSet<usize>) {
        if node.is_partial {
            self.partial.insert(path.clone());
        }
        match &node.value {
            _ if pruned.contains(&node.id()) => drop(self.left_out.insert(path)),
            Value::Scalar(_) => {}
            Value::Map(map) => {
                map.iter().for_each(|entry| self.walk(&entry.value, path.key(entry.key.as_str()), pruned));
            }
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.walk(item, path.index(index), pruned);
                }
                let is_kept = |index: &usize| !pruned.contains(&items[*index].id());
                let kept: Vec<usize> = (0..items.len()).filter(is_kept).collect();
                if kept.len() < items.len() {
                    self.kept.insert(path, kept);
                }
            }
        }
    }

    /// The path in the files of what stands at `path` in the configuration.
    pub(crate) fn as_written(&self, path: &Path) -> Path {
        if self.kept.is_empty() {
            return path.clone();
        }
        path.segments().iter().fold(Path::root(), |written, segment| match segment {
            Segment::Key(key) => written.key(key.as_str()),
            Segment::Index(index) => {
                let kept = self.kept.get(&written);
                written.index(kept.map_or(*index, |kept| kept.get(*index).copied().unwrap_or(*index)))
            }
        })
    }

    /// Whether something at, above or below `path` is not in the tree, or would be there if it had been read.
    pub(crate) fn is_doubtful(&self, root: &Node, path: &Path) -> bool {
        !self.is_empty()
            && (self.is_within_gap(root, path)
                || self.below(&self.left_out, path)
                || self.below(&self.partial, path))
    }

    /// Whether the list or map at `path` may have had entries of which not even the names are known.
    pub(crate) fn may_lack_entries(&self, root: &Node, path: &Path) -> bool {
        let is_list = matches!(root.find(path).1, Some(Node { value: Value::List(_), .. }));
        let items = || is_list && self.kept.contains_key(path);
        self.is_within_gap(root, path) || self.partial.contains(path) || items()
    }

    /// The keys of the map at `path` whose values were left out.
    pub(crate) fn names(&self, path: &Path) -> Vec<&str> {
        let all = self.left_out.range((Bound::Excluded(path.clone()), Bound::Unbounded));
        let below = all.map_while(|other| other.segments().strip_prefix(path.segments()));
        let names = below.filter_map(|rest| match rest {
            [Segment::Key(key)] => Some(key.as_str()),
            _ => None,
        });
        names.collect()
    }

    fn is_empty(&self) -> bool {
        self.left_out.is_empty() && self.partial.is_empty() && self.misspelt.is_empty()
    }

    fn below(&self, paths: &BTreeSet<Path>, path: &Path) -> bool {
        // What begins with `path` follows it directly in the order of paths.
        paths.range(path.clone()..).next().is_some_and(|next| next.segments().starts_with(path.segments()))
    }

    fn is_within_gap(&self, root: &Node, path: &Path) -> bool {
        let (mut at, mut node) = (Path::root(), root);
        for segment in path.segments() {
            if self.left_out.contains(&at) {
                return true;
            }
            let next = match segment {
                Segment::Key(key) => at.key(key.as_str()),
                Segment::Index(index) => at.index(*index),
            };
            match node.child(segment) {
                Some((_, child)) => (at, node) = (next, child),
                None => return self.partial.contains(&at) || self.may_be_misspelt(&at, segment),
            }
        }
        self.left_out.contains(&at)
    }

    /// An unknown key that resembles none may have been meant for any of its map, but at the top, where that would put
    /// everything in doubt.
    fn may_be_misspelt(&self, map: &Path, segment: &Segment) -> bool {
        let Segment::Key(key) = segment else { return false };
        self.misspelt.iter().any(|(at, meant)| at == map && meant.map_or(!at.is_root(), |meant| meant == key))
    }
}
