//! Services, middlewares and the like that nothing in the files asks for. Labels of a container may have asked for them, so each is named.

use std::collections::BTreeSet;

use super::{Parts, services::local};
use crate::{config::Foreign, convert::fields::Report};

/// Names them, and returns the options of TLS that are asked for.
pub(super) fn name<'f>(parts: &Parts<'f>, report: &mut Report) -> BTreeSet<&'f str> {
    let routers = || parts.routers.iter().chain(&parts.tcp_routers).map(|(_, router)| *router);
    let points = || {
        parts.entry_points.into_iter().flat_map(Foreign::entries).filter_map(|(_, point)| point.find("http"))
    };
    let middlewares = || parts.middlewares.0.values().copied();
    let services = || parts.services.all.values().chain(parts.services.tcp.values()).copied();

    let mut of_middlewares = BTreeSet::new();
    for holder in routers().chain(points()).chain(middlewares().filter_map(|one| one.find("chain"))) {
        of_middlewares.extend(named(holder, "middlewares"));
    }
    let mut of_services = BTreeSet::new();
    for holder in routers().chain(middlewares().filter_map(|one| one.find("errors"))) {
        of_services.extend(named(holder, "service"));
    }
    let mut of_transports = BTreeSet::new();
    for service in services() {
        for (kind, value) in service.entries() {
            of_services.extend(named(value, "service").chain(named(value, "fallback")));
            of_transports.extend(named(value, "serversTransport"));
            let key = if kind == "mirroring" { "mirrors" } else { "services" };
            for one in value.find(key).map_or(&[][..], Foreign::items) {
                of_services.extend(named(one, "name"));
            }
        }
    }
    for (all, known, kind, why) in [
        (&parts.services.all, &of_services, "service", "no router of these files leads to it"),
        (&parts.services.tcp, &of_services, "service", "no router of these files leads to it"),
        (&parts.middlewares.0, &of_middlewares, "middleware", "no router of these files has it"),
        (&parts.services.transports, &of_transports, "serversTransport", "no service of these files has it"),
    ] {
        for (name, value) in all.iter().filter(|(name, _)| !known.contains(*name)) {
            report.add(value, format!("{kind} {name}"), why);
        }
    }
    routers()
        .chain(points())
        .filter_map(|holder| holder.find("tls"))
        .flat_map(|tls| named(tls, "options"))
        .collect()
}

/// The names of this file under a key, one or several.
fn named<'f>(holder: &'f Foreign, key: &str) -> impl Iterator<Item = &'f str> {
    let names = holder.find(key).map_or(&[][..], Foreign::one_or_more);
    names.iter().filter_map(|name| name.text().and_then(local))
}
