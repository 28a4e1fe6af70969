//! TLSRoutes and TCPRoutes: connections that go to an upstream as they are.

use std::collections::BTreeMap;

use super::{
    attach,
    backends::{Backend, Backends},
    gateways::{Gateways, Speaks},
    objects::{Object, Objects},
};
use crate::convert::{
    draft::Map,
    fields::{Fields, Report},
};

/// What is said of ports, by their number.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Upstreams by the name that clients ask for.
    pub sni: BTreeMap<usize, Map>,
    /// The same where TLS ends.
    pub ended: BTreeMap<usize, Map>,
    /// For all others.
    pub upstreams: BTreeMap<usize, String>,
}

pub(crate) fn read<'f>(
    objects: &Objects<'f>,
    gateways: &Gateways<'f>,
    backends: &mut Backends<'f>,
    report: &mut Report,
) -> Streams {
    let mut streams = Streams::default();
    for (kind, routes) in [("TLSRoute", &objects.tls_routes), ("TCPRoute", &objects.tcp_routes)] {
        for route in routes {
            streams.add(kind, route, objects, gateways, backends, report);
        }
    }
    streams
}

impl Streams {
    fn add<'f>(
        &mut self,
        kind: &str,
        route: &Object<'f>,
        objects: &Objects<'f>,
        gateways: &Gateways<'f>,
        backends: &mut Backends<'f>,
        report: &mut Report,
    ) {
        let mut spec = Fields::of("spec", route.spec, report);
        let attached = attach::attach(kind, route, &mut spec, objects, gateways, report);
        let rules = spec.list("rules", report);
        spec.finish("it has no equal here", report);
        for rule in rules.iter().skip(1) {
            report.entry("rules", rule, "the first rule takes all connections");
        }
        let Some(rule) = rules.first() else {
            return report.add(route.at, format!("{kind} {}", route.name), "it has no rules");
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
        for (port, hosts) in attached {
            let passes = kind == "TLSRoute"
                && gateways.on(port).any(|listener| listener.speaks == Speaks::Passthrough);
            let name = format!("{}/{}", route.namespace, route.name);
            let Some(upstream) = backends.stream(&name, &targets, passes) else {
                report.entry("rules", rule, "nothing is left that it could lead to");
                continue;
            };
            let ends = kind == "TLSRoute" && gateways.on(port).any(|listener| listener.speaks == Speaks::Tls);
            let names: Vec<&str> = hosts.iter().flatten().map(String::as_str).collect();
            if passes {
                self.pass(port, &hosts, &upstream, route, gateways, report);
            } else if ends && !names.is_empty() && names.len() == hosts.len() {
                for name in names {
                    let sni = self.ended.entry(port).or_default();
                    if sni.find(name).is_some() {
                        report.add(
                            route.at,
                            format!("TLSRoute {} for {name}", route.name),
                            "another TLSRoute has that name",
                        );
                    } else {
                        sni.set(name, upstream.as_str());
                    }
                }
            } else if let Some(first) = self.upstreams.get(&port) {
                report.add(
                    route.at,
                    format!("{kind} {}", route.name),
                    format!("a port leads to one upstream, which is `{first}`"),
                );
            } else {
                for name in names {
                    report.add(
                        route.at,
                        format!("{kind} {} for {name}", route.name),
                        "all connections of the port are carried, whatever name is asked for",
                    );
                }
                self.upstreams.insert(port, upstream);
            }
        }
    }

    fn pass(
        &mut self,
        port: usize,
        hosts: &[Option<String>],
        upstream: &str,
        route: &Object<'_>,
        gateways: &Gateways<'_>,
        report: &mut Report,
    ) {
        let ends_too = gateways.on(port).any(|listener| listener.speaks == Speaks::Https);
        for host in hosts {
            let name = match host {
                Some(host) => host.as_str(),
                None if ends_too => {
                    report.add(
                        route.at,
                        format!("TLSRoute {} for any name", route.name),
                        "where others are terminated on its port, names are needed",
                    );
                    continue;
                }
                None => "*",
            };
            let sni = self.sni.entry(port).or_default();
            if sni.find(name).is_some() {
                report.add(
                    route.at,
                    format!("TLSRoute {} for {name}", route.name),
                    "another TLSRoute has that name",
                );
            } else {
                sni.set(name, upstream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::written;

    #[test]
    fn a_name_leads_to_its_upstream_where_tls_ends() {
        let text = written(
            "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: edge}, spec: {listeners: [\
             {name: a, port: 5433, protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: db}]}}]}}\n---\n\
             {apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TLSRoute, metadata: {name: one}, spec: {parentRefs: \
             [{name: edge}], hostnames: [one.example.com], rules: [{backendRefs: [{name: one, port: 1}]}]}}\n---\n\
             {apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TLSRoute, metadata: {name: two}, spec: {parentRefs: \
             [{name: edge}], hostnames: [two.example.com], rules: [{backendRefs: [{name: two, port: 1}]}]}}\n",
        );
        for line in ["protocol: tcp", "sni:", "one.example.com: ", "two.example.com: ", "tls:"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("tls_passthrough"), "{text}");
    }
}
