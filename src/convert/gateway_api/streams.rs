//! TLSRoutes and TCPRoutes: connections that go to an upstream as they are.

use std::collections::BTreeMap;

use super::{
    attach::{self, Host},
    backends::{Backend, Backends},
    gateways::{Gateways, Speaks},
    objects::{Object, Objects},
};
use crate::{
    config::Foreign,
    convert::{
        draft::Map,
        fields::{Fields, Report},
    },
};

/// What is said of ports, by their number.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Upstreams by the name that clients ask for.
    pub sni: BTreeMap<usize, Map>,
    /// Whoever asks for no name, or where names are not looked at.
    pub upstreams: BTreeMap<usize, String>,
}

/// What one host of a route leads to.
struct Lead<'f> {
    port: usize,
    host: Host,
    upstream: String,
    what: String,
    at: &'f Foreign,
}

pub(crate) fn read<'f>(
    objects: &Objects<'f>,
    gateways: &Gateways<'f>,
    backends: &mut Backends<'f>,
    report: &mut Report,
) -> Streams {
    let mut leads = Vec::new();
    for (kind, routes) in [("TLSRoute", &objects.tls_routes), ("TCPRoute", &objects.tcp_routes)] {
        for route in routes {
            leads.extend(of_route(kind, route, objects, gateways, backends, report));
        }
    }
    // Of those for one name the first has it.
    leads.sort_by_key(|lead| lead.host.rank);
    let mut streams = Streams::default();
    for lead in leads {
        streams.add(lead, gateways, report);
    }
    streams
}

fn of_route<'f>(
    kind: &str,
    route: &Object<'f>,
    objects: &Objects<'f>,
    gateways: &Gateways<'f>,
    backends: &mut Backends<'f>,
    report: &mut Report,
) -> Vec<Lead<'f>> {
    let mut spec = Fields::of("spec", route.spec, report);
    let attached = attach::attach(kind, route, &mut spec, objects, gateways, report);
    let rules = spec.list("rules", report);
    spec.finish("it has no equal here", report);
    for rule in rules.iter().skip(1) {
        report.entry("rules", rule, "the first rule takes all connections");
    }
    let Some(rule) = rules.first() else {
        report.add(route.at, format!("{kind} {}", route.name), "it has no rules");
        return Vec::new();
    };
    let mut fields = Fields::of("rules", rule, report);
    fields.skip(&["name"]);
    let references = fields.list("backendRefs", report);
    fields.finish("it has no equal here", report);
    let failure = "it gets no connections";
    let targets: Vec<Backend<'f>> = references
        .iter()
        .map(|reference| backends.resolve(kind, route, reference, failure, report))
        .collect();
    let mut leads = Vec::new();
    for (port, hosts) in attached {
        backends.show(gateways.ports[port].client_cert.clone());
        let name = format!("{}/{}", route.namespace, route.name);
        let Some(upstream) = backends.stream(&name, &targets, passes(port, gateways)) else {
            report.entry("rules", rule, "nothing is left that it could lead to");
            continue;
        };
        leads.extend(hosts.into_iter().map(|host| {
            let what = match &host.name {
                Some(host) => format!("{kind} {} for {host}", route.name),
                None => format!("{kind} {} for any name", route.name),
            };
            Lead { port, host, upstream: upstream.clone(), what, at: route.at }
        }));
    }
    leads
}

/// Whether TLS goes through a port as it is.
fn passes(port: usize, gateways: &Gateways<'_>) -> bool {
    gateways.on(port).any(|listener| listener.speaks == Speaks::Passthrough)
}

impl Streams {
    fn add(&mut self, lead: Lead<'_>, gateways: &Gateways<'_>, report: &mut Report) {
        let Lead { port, host, upstream, what, at } = lead;
        let ends_http = gateways.on(port).any(|listener| listener.speaks == Speaks::Https);
        let name = match &host.name {
            Some(name) => name.as_str(),
            None if ends_http => {
                return report.add(at, what, "where others are terminated on its port, names are needed");
            }
            None if passes(port, gateways) => "*",
            None => {
                match self.upstreams.get(&port) {
                    None => _ = self.upstreams.insert(port, upstream),
                    Some(first) => {
                        report.add(at, what, format!("a port leads to one upstream, which is `{first}`"))
                    }
                }
                return;
            }
        };
        let sni = self.sni.entry(port).or_default();
        match sni.find(name) {
            Some(_) => report.add(at, what, "another TLSRoute has that name"),
            None => sni.set(name, upstream),
        }
    }
}
