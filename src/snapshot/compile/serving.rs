//! Which listeners serve which routes, found once: thousands of names may stand at a listener, and several checks ask of each route.

use std::collections::HashSet;

use super::RouteNames;
use crate::config::{Config, Protocol};

/// By the place of each listener in the configuration.
pub(super) struct Serving(Vec<Served>);

enum Served {
    /// It is none of HTTP.
    Nothing,
    All,
    Only(HashSet<usize>),
}

impl Serving {
    pub(super) fn of(config: &Config, names: &RouteNames) -> Serving {
        let served = config.listeners.iter().map(|listener| match &listener.routes {
            _ if listener.protocol != Protocol::Http => Served::Nothing,
            None => Served::All,
            Some(routes) => {
                Served::Only(routes.iter().filter_map(|name| names.ids.get(name.as_str()).copied()).collect())
            }
        });
        Serving(served.collect())
    }

    /// Whether that listener serves the route of this id.
    pub(super) fn serves(&self, listener: usize, route: usize) -> bool {
        match self.0.get(listener) {
            Some(Served::All) => true,
            Some(Served::Only(routes)) => routes.contains(&route),
            Some(Served::Nothing) | None => false,
        }
    }

    /// The places of the listeners that serve it.
    pub(super) fn listeners(&self, route: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.0.len()).filter(move |listener| self.serves(*listener, route))
    }
}
