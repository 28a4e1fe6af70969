//! Reads a node into a type and reports everything that is wrong with it, though serde stops at the first error.
//! After each error the offending key, value or element is left out and the reading starts over; what fails only
//! because of something left out earlier is left out in silence.

use std::{collections::HashSet, marker::PhantomData, sync::Arc};

use serde::de::DeserializeOwned;

use crate::config::document::{
    de::{Attempt, De},
    fault::Fault,
    node::{At, Node},
    omissions::Misspelt,
    problem::{MOST_PROBLEMS, Path, Problem, Trail},
    tree::locate,
};

/// A node to be read, with the path to it and the place to point at for problems with the node itself.
pub(in crate::config) struct Start<'a> {
    pub node: &'a Node,
    pub at: At,
    pub path: &'a Path,
}

/// What could be read, and all that was wrong with the rest.
pub(in crate::config) struct Collected<T> {
    /// Without what is pruned; `None` when nothing is left to read, or when there are too many problems.
    pub value: Option<T>,
    pub problems: Vec<Problem>,
    /// By `Node::id`.
    pub pruned: HashSet<usize>,
    pub misspelt: Misspelt,
}

/// As [`collect_all`], for those who have no use for a part.
pub(in crate::config) fn collect<T: DeserializeOwned>(
    start: &Start<'_>,
    names: &[Arc<str>],
) -> Result<T, Vec<Problem>> {
    let Collected { value, problems, .. } = collect_all(start, names);
    value.filter(|_| problems.is_empty()).ok_or(problems)
}

/// Reads `start` into `T`, with at most [`MOST_PROBLEMS`] problems. Costs one reading per problem.
/// Values that could not be expanded count as reported: no problem does not mean there were none of them.
pub(in crate::config) fn collect_all<T: DeserializeOwned>(
    start: &Start<'_>,
    names: &[Arc<str>],
) -> Collected<T> {
    let mut pruned = HashSet::new();
    prune_broken(start.node, &mut pruned);
    let mut problems = Vec::new();
    // A misspelt key is one problem, not also a missing one.
    let mut misspelt = Misspelt::new();
    loop {
        let fault = match read::<T>(start, &pruned, None) {
            Ok(value) => return Collected { value: Some(value), problems, pruned, misspelt },
            Err(fault) => fault,
        };
        let spot = fault.spot().expect("`De::seed` places every fault");
        misspelt.extend(fault.unknown_key().map(|meant| (spot.path.clone(), meant)));
        // An unknown key that resembles none may have been meant for it.
        let is_meant = |key: &'static str| {
            [Some(key), None].into_iter().any(|meant| misspelt.contains(&(spot.path.clone(), meant)))
        };
        let was_misspelt = fault.missing_key().is_some_and(is_meant);
        if !spot.follows && !was_misspelt {
            let problem = presentable::<T>(start, &pruned, &fault);
            problems.push(problem.at(locate(names, spot.at)).path(spot.path.clone()));
        }
        let is_new = pruned.insert(spot.node);
        if spot.node == start.node.id() || !is_new || problems.len() >= MOST_PROBLEMS {
            return Collected { value: None, problems, pruned, misspelt };
        }
    }
}

fn read<T: DeserializeOwned>(
    start: &Start<'_>,
    pruned: &HashSet<usize>,
    masked: Option<usize>,
) -> Result<T, Fault> {
    let attempt = Attempt { pruned, masked };
    let trail = Trail::Start(start.path);
    De::new(start.node, start.at, &trail, &attempt).seed(PhantomData)
}

/// The words of `fault`. Where they may hold an expanded value, those that come of reading what was written.
fn presentable<T: DeserializeOwned>(start: &Start<'_>, pruned: &HashSet<usize>, fault: &Fault) -> Problem {
    let Some(spot) = fault.spot().filter(|_| fault.may_leak()) else { return fault.problem() };
    match read::<T>(start, pruned, Some(spot.node)) {
        Err(masked) if masked.is_told() && masked.spot().is_some_and(|other| other.node == spot.node) => {
            masked.problem()
        }
        _ => Problem::new(format!("{} is not valid here", spot.found)),
    }
}

fn prune_broken(node: &Node, pruned: &mut HashSet<usize>) {
    if node.is_broken() {
        pruned.insert(node.id());
    }
    node.children().for_each(|child| prune_broken(child, pruned));
}
