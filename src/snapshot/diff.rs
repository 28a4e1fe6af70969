//! What a reload changed, by name: the one line that tells an operator whether the right file was edited.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;

use super::{Plan, Snapshot};
use crate::config::{Config, Listener, Route};

/// Names of listeners, routes and upstreams, each as `kind name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: BTreeSet<String>,
    pub changed: BTreeSet<String>,
    pub removed: BTreeSet<String>,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("added", &self.added), ("changed", &self.changed), ("removed", &self.removed)];
        let mut parts = parts.into_iter().filter(|(_, names)| !names.is_empty()).peekable();
        if parts.peek().is_none() {
            return f.write_str("settings changed");
        }
        let mut separator = "";
        for (what, names) in parts {
            write!(f, "{separator}{what} {}", list(names))?;
            separator = "; ";
        }
        Ok(())
    }
}

/// The first few names, and how many more.
pub(crate) fn list(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = names.len() - shown.len();
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

pub fn diff(before: &Snapshot, after: &Snapshot) -> Changes {
    compare(&View::of(before), &View::of(after))
}

/// What would change if `after` were put in force.
pub fn diff_plan(before: &Snapshot, after: &Plan) -> Changes {
    let names = after.routes.iter().map(|route| route.name.to_string()).collect();
    compare(&View::of(before), &View { config: &after.config, names })
}

/// What is compared of a configuration.
struct View<'a> {
    config: &'a Config,
    /// Of the routes, with those that were derived.
    names: Vec<String>,
}

impl<'a> View<'a> {
    fn of(snapshot: &'a Snapshot) -> View<'a> {
        let names = snapshot.routes.iter().map(|route| route.name.to_string()).collect();
        View { config: &snapshot.config, names }
    }
}

fn compare(before: &View<'_>, after: &View<'_>) -> Changes {
    let mut changes = Changes::default();
    changes.compare("listener", &listeners(before), &listeners(after));
    changes.compare("route", &routes(before), &routes(after));
    changes.compare("upstream", &before.config.upstreams, &after.config.upstreams);
    changes.compare("filters", &before.config.filters, &after.config.filters);
    changes
}

fn listeners<'a>(view: &View<'a>) -> BTreeMap<String, &'a Listener> {
    let listeners = view.config.listeners.iter();
    listeners
        .map(|listener| (listener.name.clone().unwrap_or_else(|| listener.address.clone()), listener))
        .collect()
}

fn routes<'a>(view: &View<'a>) -> BTreeMap<String, &'a Route> {
    // Compiled routes stand in the order of the file.
    view.names.iter().cloned().zip(&view.config.routes).collect()
}

impl Changes {
    fn compare<T: Serialize>(
        &mut self,
        kind: &str,
        before: &BTreeMap<String, T>,
        after: &BTreeMap<String, T>,
    ) {
        let written = |value: &T| serde_json::to_value(value).ok();
        for (name, value) in after {
            match before.get(name) {
                None => self.added.insert(format!("{kind} {name}")),
                Some(old) if written(old) != written(value) => self.changed.insert(format!("{kind} {name}")),
                Some(_) => false,
            };
        }
        let gone = before.keys().filter(|name| !after.contains_key(*name));
        self.removed.extend(gone.map(|name| format!("{kind} {name}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_line() {
        let mut changes = Changes::default();
        assert_eq!(changes.to_string(), "settings changed");
        let before = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]);
        let after = BTreeMap::from([("b".to_owned(), 2), ("c".to_owned(), 1)]);
        changes.compare("route", &before, &after);
        assert_eq!(changes.to_string(), "added route c; changed route b; removed route a");
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: BTreeSet<String> = (10..30).map(|n| n.to_string()).collect();
        assert!(list(&names).ends_with("17 and 12 more"), "{}", list(&names));
    }
}
