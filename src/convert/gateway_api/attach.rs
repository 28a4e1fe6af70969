//! Which listeners a route is attached to, and for which hosts.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    gateways::{Gateways, Listener, Speaks},
    objects::{Object, Objects},
};
use crate::{
    config::Foreign,
    convert::{
        fields::{Fields, Report},
        hostnames,
    },
    route::HostPattern,
};

/// By number of the port: the hosts a route is served at there.
pub(crate) type Attached = BTreeMap<usize, Vec<Host>>;

/// Where a route is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Of none, any.
    pub name: Option<String>,
    pub rank: Rank,
}

/// Who goes first of those that are served at the same host: whose own name is the host, and then the more specific name. The listener has
/// made hosts of names that are wider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Own,
    Narrowed(Reverse<usize>),
}

/// Takes `parentRefs` and `hostnames` out of a route's spec, and reports each parent that the route does not come to.
pub(crate) fn attach<'f>(
    kind: &str,
    route: &Object<'f>,
    spec: &mut Fields<'f>,
    objects: &Objects<'f>,
    gateways: &Gateways<'f>,
    report: &mut Report,
) -> Attached {
    let parents = spec.list("parentRefs", report);
    if parents.is_empty() {
        report.add(
            route.at,
            format!("{kind} {}", route.name),
            "it has no parentRefs, so it is served nowhere",
        );
    }
    let names = names(spec, report);
    let mut attached = Attached::new();
    for parent in parents {
        let listeners = match parents_listeners(route, parent, gateways, report) {
            Ok(listeners) => listeners,
            Err(why) => {
                report.entry("parentRefs", parent, why);
                continue;
            }
        };
        let mut refusal = "no listener of the Gateway has a hostname in common with the route, a port or a name as it asks for".to_owned();
        let mut is_attached = false;
        for listener in listeners {
            match listener.admits(kind, route.namespace, &objects.namespaces) {
                Err(why) => refusal = why,
                Ok(()) => {
                    let hosts = hosts(listener, &names, gateways);
                    is_attached |= !hosts.is_empty();
                    let here = if hosts.is_empty() {
                        &mut Vec::new()
                    } else {
                        attached.entry(listener.port).or_default()
                    };
                    for host in hosts {
                        match here.iter_mut().find(|known| known.name == host.name) {
                            Some(known) => known.rank = known.rank.min(host.rank),
                            None => here.push(host),
                        }
                    }
                }
            }
        }
        if !is_attached {
            report.entry("parentRefs", parent, refusal);
        }
    }
    attached
}

fn names(spec: &mut Fields<'_>, report: &mut Report) -> Vec<Option<String>> {
    let Some(all) = spec.take("hostnames").filter(|names| !names.items().is_empty()) else {
        return vec![None];
    };
    let mut names = Vec::new();
    for name in all.items() {
        match name.text().map(|text| (text, HostPattern::parse(text))) {
            Some((text, Ok(_))) => names.push(Some(text.to_ascii_lowercase())),
            Some((_, Err(error))) => report.entry("hostnames", name, error.to_string()),
            None => report.entry("hostnames", name, "text is expected here"),
        }
    }
    names
}

fn parents_listeners<'g, 'f>(
    route: &Object<'f>,
    parent: &'f Foreign,
    gateways: &'g Gateways<'f>,
    report: &mut Report,
) -> Result<Vec<&'g Listener<'f>>, String> {
    let mut fields = Fields::of("parentRefs", parent, report);
    fields.skip(&["group"]);
    let kind = fields.text("kind", report).unwrap_or("Gateway");
    let namespace = fields.text("namespace", report).unwrap_or(route.namespace);
    let name = fields.text("name", report).unwrap_or_default();
    let (section, port) = (fields.text("sectionName", report), fields.number("port", 1, 65_535, report));
    fields.finish("a parent has no such field", report);
    if kind != "Gateway" {
        return Err(format!("{kind} is no parent here, only Gateway is"));
    }
    if !gateways.known.contains(&(namespace, name)) {
        return Err(format!("the files hold no Gateway `{namespace}/{name}`"));
    }
    let own = gateways.listeners.iter().filter(|listener| listener.gateway == (namespace, name));
    Ok(own
        .filter(|listener| {
            section.is_none_or(|section| section == listener.name)
                && port.is_none_or(|port| port == listener.number)
        })
        .collect())
}

/// What the names of a route and of the listener have in common, without what another listener of the port is more specific for.
fn hosts(listener: &Listener<'_>, names: &[Option<String>], gateways: &Gateways<'_>) -> Vec<Host> {
    let common = names.iter().filter_map(|name| {
        let host = hostnames::intersection(listener.hostname.as_deref(), name.as_deref())?;
        let rank = match host == name.as_deref() {
            true => Rank::Own,
            false => Rank::Narrowed(Reverse(hostnames::specificity(name.as_deref()))),
        };
        Some((host, rank))
    });
    let is_own = |(host, _): &(Option<&str>, Rank)| {
        listener.speaks == Speaks::Passthrough
            || gateways.owner(listener.port, *host).is_some_and(|owner| std::ptr::eq(owner, listener))
    };
    common.filter(is_own).map(|(host, rank)| Host { name: host.map(ToOwned::to_owned), rank }).collect()
}
