//! Custom resources of Traefik in Kubernetes (<https://doc.traefik.io/traefik/reference/routing-configuration/kubernetes/crd/http/ingressroute/>): what
//! they say is put in the words of the dynamic configuration, each value with the line it stood in, and read as that is. Names become
//! `NAMESPACE/NAME`.

mod made;
mod middlewares;
mod routes;
mod services;
mod tls;

use std::collections::BTreeMap;

use made::{list, map};

use crate::{config::Foreign, convert::fields::Report};

/// How deep a list may stand in a list.
const DEEPEST: usize = 4;

/// A namespace and a name.
type Name<'d> = (&'d str, &'d str);

struct Object<'d> {
    kind: &'d str,
    namespace: &'d str,
    name: &'d str,
    at: &'d Foreign,
    spec: &'d Foreign,
}

/// What resources lead to that are not Traefik's.
#[derive(Default)]
struct Cluster<'d> {
    services: BTreeMap<Name<'d>, &'d Foreign>,
    secrets: BTreeMap<Name<'d>, &'d Foreign>,
}

/// Parts of a dynamic configuration, as they come to be.
#[derive(Default)]
struct Parts {
    routers: Vec<(String, Foreign)>,
    services: Vec<(String, Foreign)>,
    middlewares: Vec<(String, Foreign)>,
    transports: Vec<(String, Foreign)>,
    tcp_routers: Vec<(String, Foreign)>,
    tcp_services: Vec<(String, Foreign)>,
    certificates: Vec<Foreign>,
    stores: Vec<(String, Foreign)>,
    options: Vec<(String, Foreign)>,
}

/// The documents that are no resources, and one more for those that are.
pub(super) fn in_words_of_files(documents: Vec<Foreign>, report: &mut Report) -> Vec<Foreign> {
    let is_object = |document: &Foreign| document.find("apiVersion").and(document.find("kind")).is_some();
    let (resources, mut others): (Vec<Foreign>, Vec<Foreign>) = documents.into_iter().partition(is_object);
    let Some(first) = resources.first() else { return others };
    let (mut objects, mut cluster) = (Vec::new(), Cluster::default());
    for resource in &resources {
        collect(resource, 0, &mut objects, &mut cluster, report);
    }
    // Names of these are taken, and what routes need beside them gets others.
    objects.sort_by_key(|object| object.kind != "TraefikService");
    let mut parts = Parts::default();
    for object in &objects {
        parts.add(object, &cluster, report);
    }
    others.push(parts.document(first));
    others
}

fn collect<'d>(
    document: &'d Foreign,
    depth: usize,
    objects: &mut Vec<Object<'d>>,
    cluster: &mut Cluster<'d>,
    report: &mut Report,
) {
    let kind = document.find_text("kind").unwrap_or_default();
    let version = document.find_text("apiVersion").unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let is_traefiks = matches!(group, "traefik.io" | "traefik.containo.us");
    if kind.ends_with("List") && (is_traefiks || group.is_empty()) && depth < DEEPEST {
        for item in document.find("items").map_or(&[][..], Foreign::items) {
            collect(item, depth + 1, objects, cluster, report);
        }
        return;
    }
    let metadata = document.find("metadata");
    let of_metadata = |key: &str| metadata.and_then(|metadata| metadata.find_text(key));
    let (namespace, name) = (of_metadata("namespace").unwrap_or("default"), of_metadata("name"));
    let described = format!("{kind} {namespace}/{}", name.unwrap_or_default());
    let why = match (group, kind, name) {
        ("", "Service", Some(name)) => {
            cluster.services.insert((namespace, name), document.find("spec").unwrap_or(document));
            return;
        }
        ("", "Secret", Some(name)) => {
            cluster.secrets.insert((namespace, name), document);
            if document.find_text("type").is_some_and(|kind| kind.ends_with("/tls")) {
                "its files are mounted, as `certs/NAMESPACE/NAME`"
            } else {
                return;
            }
        }
        // The DNS of the cluster knows where its Services are.
        ("", "Namespace" | "Endpoints", _) | ("discovery.k8s.io", "EndpointSlice", _) => return,
        (_, _, Some(name)) if is_traefiks => match document.find("spec") {
            Some(spec) => return objects.push(Object { kind, namespace, name, at: document, spec }),
            None => "it has no `spec`",
        },
        (_, _, None) if is_traefiks => "it has no name",
        ("gateway.networking.k8s.io", ..) => "`tidegate convert gateway-api` reads these",
        ("networking.k8s.io", "Ingress", _) => "of Kubernetes, IngressRoutes are read",
        _ => "an unknown kind",
    };
    report.add(document, described, why);
}

impl Parts {
    fn add(&mut self, object: &Object<'_>, cluster: &Cluster<'_>, report: &mut Report) {
        match object.kind {
            "IngressRoute" => self.ingress_route(object, cluster, report),
            "IngressRouteTCP" => self.ingress_route_tcp(object, cluster, report),
            "Middleware" => self.middlewares.push(middlewares::middleware(object, cluster, report)),
            "TraefikService" => self.traefik_service(object, cluster, report),
            "ServersTransport" => self.transports.push((object.id(), tls::transport(object))),
            "TLSOption" => {
                self.options.push((tls::options_id(object.namespace, object.name), tls::options(object)))
            }
            "TLSStore" => self.tls_store(object, report),
            kind => {
                let why = match kind {
                    "MiddlewareTCP" => "connections pass no filters",
                    "IngressRouteUDP" => "UDP is not carried",
                    "ServersTransportTCP" => "it has no equal here",
                    _ => "an unknown kind",
                };
                report.add(object.at, format!("{kind} {}", object.id()), why);
            }
        }
    }

    fn document(self, at: &Foreign) -> Foreign {
        let parts = |parts: Vec<(&str, Vec<(String, Foreign)>)>| {
            let written = parts.into_iter().filter(|(_, entries)| !entries.is_empty());
            written.map(|(name, entries)| (name.to_owned(), map(at, entries))).collect::<Vec<_>>()
        };
        let http = parts(vec![
            ("routers", self.routers),
            ("services", self.services),
            ("middlewares", self.middlewares),
            ("serversTransports", self.transports),
        ]);
        let tcp = parts(vec![("routers", self.tcp_routers), ("services", self.tcp_services)]);
        let mut tls = parts(vec![("stores", self.stores), ("options", self.options)]);
        if !self.certificates.is_empty() {
            tls.push(("certificates".to_owned(), list(at, self.certificates)));
        }
        map(at, parts(vec![("http", http), ("tcp", tcp), ("tls", tls)]))
    }
}

impl Object<'_> {
    fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What a reference leads to, that names another namespace or means this one. One with `@` is of another provider.
    fn reference(&self, reference: &Foreign) -> Option<String> {
        let name = reference.find_text("name")?;
        let namespace = reference.find_text("namespace").unwrap_or(self.namespace);
        Some(if name.contains('@') { name.to_owned() } else { format!("{namespace}/{name}") })
    }
}

#[cfg(test)]
mod tests;
