//! What works and was hardly meant so: each with its place and what to write instead. A warning is told only where
//! it is nearly certain, since one that is wrong teaches to pass over all of them. docs/warnings.md has them by name.
//!
//! Each file looks at one subject and is pure: the configuration as it was compiled in, warnings out.

mod exposure;
mod filters;
mod guards;
mod routing;
mod texts;
mod traffic;
mod unused;

use serde_json::Value;

use super::{Compiler, PlannedListener, PlannedRoute, serving::Serving};
use crate::{
    config::{Config, FilterUse, Listener, Mode, Path, Route, Sources},
    route::Rule,
};

/// One warning, before its place in the file is looked up.
struct Warning {
    name: &'static str,
    at: Path,
    message: String,
    hint: String,
}

fn warning(name: &'static str, at: Path, message: impl Into<String>, hint: impl Into<String>) -> Warning {
    Warning { name, at, message: message.into(), hint: hint.into() }
}

/// What is looked at.
struct View<'a> {
    config: &'a Config,
    sources: &'a Sources,
    /// By id, as are the routes of `config`.
    routes: &'a [PlannedRoute],
    rules: &'a [Rule],
    /// In the order of `config`.
    listeners: &'a [PlannedListener],
    serving: &'a Serving,
    /// More of it may come, from a control plane.
    is_waiting: bool,
}

/// A filter as it is written, wherever its chain stands.
struct Step {
    name: String,
    at: Path,
    options: Value,
    /// It runs for some requests only.
    is_conditional: bool,
}

/// Chains may not name chains that name them, so this is never met.
const DEEPEST: usize = 8;

impl Compiler<'_> {
    pub(super) fn hardly_meant(
        &mut self,
        routes: &[PlannedRoute],
        rules: &[Rule],
        listeners: &[PlannedListener],
        serving: &Serving,
    ) {
        for at in self.sources.literal_secrets() {
            let message = "a secret is written out here, and whoever may read the file knows it";
            self.warn("literal_secret", &at, message, "write `${env:NAME}` or `${file:PATH}`");
        }
        // What a sidecar makes of itself is not the operator's to mend. And whoever has problems has others to read first.
        if self.config.mode == Mode::Sidecar || !self.problems.is_empty() {
            return;
        }
        let view = View {
            config: self.config,
            sources: self.sources,
            routes,
            rules,
            listeners,
            serving,
            is_waiting: self.is_waiting,
        };
        let found = [
            routing::warnings(&view),
            filters::warnings(&view),
            traffic::warnings(&view),
            unused::warnings(&view),
            exposure::warnings(&view),
            texts::warnings(&view),
        ];
        for Warning { name, at, message, hint } in found.into_iter().flatten() {
            self.warn(name, &at, message, hint);
        }
    }
}

impl View<'_> {
    /// The listeners of HTTP that serve the route of this id.
    fn serving(&self, id: usize) -> impl Iterator<Item = (usize, &Listener)> {
        self.serving.listeners(id).map(|index| (index, &self.config.listeners[index]))
    }

    /// The filters that stand at a route: its own, and those of its variants.
    fn chains<'r>(&self, route: &'r Route, at: &Path) -> Vec<(&'r [FilterUse], Path)> {
        let variants = route.split.iter().flat_map(|split| split.to.iter().enumerate());
        let variants = variants.map(|(index, variant)| {
            (variant.filters.as_slice(), at.key("split").key("to").index(index).key("filters"))
        });
        let own = [(route.filters.as_slice(), at.key("filters"))];
        own.into_iter().chain(variants).filter(|(uses, _)| !uses.is_empty()).collect()
    }

    fn each_route(&self) -> impl Iterator<Item = (usize, &Route, Path)> {
        self.config.routes.iter().enumerate().map(|(id, route)| (id, route, route_at(id)))
    }

    /// All filters of a chain, those of chains that it names included.
    fn steps(&self, uses: &[FilterUse], at: &Path) -> Vec<Step> {
        let mut steps = Vec::new();
        self.add_steps(uses, at, 0, &mut steps);
        steps
    }

    fn add_steps(&self, uses: &[FilterUse], at: &Path, depth: usize, steps: &mut Vec<Step>) {
        for (index, each) in uses.iter().enumerate() {
            match each {
                FilterUse::Named(name) if depth < DEEPEST => {
                    let chain = self.config.filters.get(name).map(Vec::as_slice).unwrap_or_default();
                    self.add_steps(chain, &Path::root().key("filters").key(name), depth + 1, steps);
                }
                FilterUse::Named(_) => {}
                FilterUse::Inline(entry) => {
                    let is_condition = |key: &str| FilterUse::CONDITIONS.contains(&key);
                    let is_conditional = entry.keys().any(is_condition);
                    for (name, options) in entry.values().filter(|(name, _)| !is_condition(name)) {
                        let at = at.index(index).key(name);
                        steps.push(Step { name: name.to_owned(), at, options, is_conditional });
                    }
                }
            }
        }
    }
}

fn route_at(id: usize) -> Path {
    Path::root().key("routes").index(id)
}

fn listener_at(index: usize) -> Path {
    Path::root().key("listeners").index(index)
}

fn upstream_at(name: &str) -> Path {
    Path::root().key("upstreams").key(name)
}

/// `` `a`, `b` and 3 more``.
fn listed(names: &[&str]) -> String {
    const MOST: usize = 3;
    let shown = names.iter().take(MOST).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
