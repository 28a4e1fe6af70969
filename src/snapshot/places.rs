//! Where in the files each object stands, for whoever looks at what is in force and wants to change it.

use std::{collections::BTreeMap, sync::Arc};

use crate::config::{Path, Sources};

/// Small, as there are thousands of routes.
#[derive(Debug, Default)]
pub struct Places {
    files: Vec<Arc<str>>,
    /// In the order of the routes.
    routes: Vec<Spot>,
    /// By `kind/name`.
    others: BTreeMap<String, Spot>,
    /// By the same, of routes by their index: what of each comes from the defaults. Most have the same.
    inherited: BTreeMap<String, Arc<[String]>>,
}

#[derive(Clone, Copy, Debug)]
struct Spot {
    file: u16,
    line: u32,
    column: u16,
}

impl Places {
    pub(super) fn add_route(&mut self, sources: &Sources, at: &Path) {
        let spot = self.spot(sources, at);
        self.inherit(sources, format!("routes/{}", self.routes.len()), at);
        self.routes.push(spot);
    }

    pub(super) fn add(&mut self, sources: &Sources, kind: &str, name: &str, at: &Path) {
        let spot = self.spot(sources, at);
        let key = format!("{kind}/{name}");
        self.inherit(sources, key.clone(), at);
        self.others.insert(key, spot);
    }

    fn inherit(&mut self, sources: &Sources, key: String, at: &Path) {
        let inherited = sources.inherited_keys(at);
        if inherited.is_empty() {
            return;
        }
        let shared = self.inherited.values().next_back().filter(|last| ***last == *inherited).cloned();
        self.inherited.insert(key, shared.unwrap_or_else(|| inherited.into()));
    }

    /// What of a route comes from the defaults, by its keys: `retry.attempts`.
    pub fn inherited_by_route(&self, index: usize) -> &[String] {
        self.inherited_by(&format!("routes/{index}"))
    }

    /// The same of all others, by `kind/name`.
    pub fn inherited_by(&self, key: &str) -> &[String] {
        self.inherited.get(key).map_or(&[], |inherited| inherited)
    }

    /// `file:line:column`, or where else it comes from.
    pub fn route(&self, index: usize) -> Option<String> {
        self.text(*self.routes.get(index)?)
    }

    pub fn upstream(&self, name: &str) -> Option<String> {
        self.text(*self.others.get(&format!("upstreams/{name}"))?)
    }

    /// All but the routes, by `kind/name`.
    pub fn others(&self) -> impl Iterator<Item = (&str, String)> {
        self.others.iter().filter_map(|(name, spot)| Some((name.as_str(), self.text(*spot)?)))
    }

    fn spot(&mut self, sources: &Sources, at: &Path) -> Spot {
        let problem = sources.problem(at, "");
        let Some(location) = problem.location() else { return Spot { file: u16::MAX, line: 0, column: 0 } };
        let file = match self.files.iter().position(|file| *file == location.file) {
            Some(file) => file,
            None => {
                self.files.push(location.file.clone());
                self.files.len() - 1
            }
        };
        Spot {
            file: u16::try_from(file).unwrap_or(u16::MAX),
            line: location.line,
            column: u16::try_from(location.column).unwrap_or(u16::MAX),
        }
    }

    fn text(&self, spot: Spot) -> Option<String> {
        let file = self.files.get(usize::from(spot.file))?;
        Some(match spot.line {
            0 => file.to_string(),
            line => format!("{file}:{line}:{}", spot.column),
        })
    }
}
