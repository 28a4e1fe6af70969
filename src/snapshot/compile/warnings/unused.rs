//! What is written and used by nothing.

use std::collections::BTreeSet;

use super::{View, Warning, upstream_at, warning};
use crate::config::{FilterUse, Path};

pub(super) fn warnings(view: &View<'_>) -> Vec<Warning> {
    // Routes of a control plane may use them.
    if view.is_waiting {
        return Vec::new();
    }
    upstreams(view).chain(chains(view)).collect()
}

fn upstreams<'a>(view: &'a View<'_>) -> impl Iterator<Item = Warning> + 'a {
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for route in &view.config.routes {
        used.extend(route.upstreams().map(String::as_str));
        let mirrors = route.mirror.iter().flat_map(|mirrors| mirrors.all());
        used.extend(mirrors.map(|mirror| mirror.upstream.as_str()));
    }
    let then = view.config.upstreams.values().filter_map(|upstream| upstream.then.as_ref());
    used.extend(then.map(|then| then.upstream.as_str()));
    for listener in &view.config.listeners {
        used.extend(listener.upstream.as_deref());
    }
    // Plugins call upstreams by their names, wherever those stand in their settings; and names of TLS lead to several.
    let sni: Vec<_> = view.config.listeners.iter().filter_map(|listener| listener.sni.as_ref()).collect();
    let others = serde_json::to_string(&(&view.config.plugins, sni)).unwrap_or_default();
    view.config
        .upstreams
        .keys()
        .filter(move |name| !used.contains(name.as_str()) && !others.contains(name.as_str()))
        .map(|name| {
            let message = format!("nothing uses upstream `{name}`");
            warning(
                "unused_upstream",
                upstream_at(name),
                message,
                format!("name it at a route: `upstream: {name}`"),
            )
        })
}

fn chains<'a>(view: &'a View<'_>) -> impl Iterator<Item = Warning> + 'a {
    let config = view.config;
    let of_routes = config.routes.iter().flat_map(|route| &route.filters);
    let splits = config.routes.iter().filter_map(|route| route.split.as_ref());
    let of_variants = splits.flat_map(|split| &split.to).flat_map(|variant| &variant.filters);
    let of_listeners = config.listeners.iter().flat_map(|listener| &listener.filters);
    let of_chains = config.filters.values().flatten();
    let used: BTreeSet<&str> = of_routes
        .chain(of_variants)
        .chain(of_listeners)
        .chain(of_chains)
        .filter_map(|step| match step {
            FilterUse::Named(name) => Some(name.as_str()),
            FilterUse::Inline(_) => None,
        })
        .collect();
    config.filters.keys().filter(move |name| !used.contains(name.as_str())).map(|name| {
        let message = format!("nothing uses the chain `{name}`");
        let at = Path::root().key("filters").key(name);
        warning("unused_chain", at, message, format!("name it at a route or listener: `filters: [{name}]`"))
    })
}
