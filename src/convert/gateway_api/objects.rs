//! The objects in the files, by kind; lists of them, as `kubectl get -o yaml` writes them, are taken apart.

use std::collections::BTreeMap;

use crate::{
    config::Foreign,
    convert::fields::{Fields, Report},
};

/// How deep a list may stand in a list.
const DEEPEST: usize = 4;

/// A namespace and a name.
pub(crate) type Name<'f> = (&'f str, &'f str);

#[derive(Debug)]
pub(crate) struct Object<'f> {
    pub namespace: &'f str,
    pub name: &'f str,
    /// What `created` sorts by: text of RFC 3339, empty where it is not known.
    pub created: &'f str,
    pub at: &'f Foreign,
    pub spec: &'f Foreign,
}

impl<'f> Object<'f> {
    pub(crate) fn id(&self) -> Name<'f> {
        (self.namespace, self.name)
    }

    /// Who goes first where two claim the same: the older one, then the first by name.
    pub(crate) fn age(&self) -> (bool, &'f str, Name<'f>) {
        (self.created.is_empty(), self.created, self.id())
    }
}

/// What the Gateway API knows, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Objects<'f> {
    pub gateways: Vec<Object<'f>>,
    pub http_routes: Vec<Object<'f>>,
    pub grpc_routes: Vec<Object<'f>>,
    pub tls_routes: Vec<Object<'f>>,
    pub tcp_routes: Vec<Object<'f>>,
    pub backend_tls: Vec<Object<'f>>,
    pub grants: Vec<Object<'f>>,
    pub services: Vec<Object<'f>>,
    pub config_maps: Vec<Object<'f>>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<&'f str, &'f Foreign>,
}

impl<'f> Objects<'f> {
    pub(crate) fn read(documents: &'f [Foreign], report: &mut Report) -> Objects<'f> {
        let mut objects = Objects::default();
        for document in documents {
            objects.add(document, 0, report);
        }
        let Objects {
            gateways,
            http_routes,
            grpc_routes,
            tls_routes,
            tcp_routes,
            backend_tls,
            grants,
            services,
            config_maps,
            namespaces: _,
        } = &mut objects;
        for kind in [
            gateways,
            http_routes,
            grpc_routes,
            tls_routes,
            tcp_routes,
            backend_tls,
            grants,
            services,
            config_maps,
        ] {
            kind.sort_by_key(Object::age);
            leave_repeated(kind, report);
        }
        objects
    }

    fn add(&mut self, document: &'f Foreign, depth: usize, report: &mut Report) {
        let Some(kind) = document.find_text("kind") else {
            report.entry("", document, "it has no `kind`, so it is no object of Kubernetes");
            return;
        };
        let group = document
            .find_text("apiVersion")
            .and_then(|version| version.split_once('/'))
            .map_or("", |(group, _)| group);
        match (group, kind) {
            ("", "List") | ("gateway.networking.k8s.io", _) if kind.ends_with("List") && depth < DEEPEST => {
                for item in document.find("items").map_or(&[][..], Foreign::items) {
                    self.add(item, depth + 1, report);
                }
            }
            ("", "Namespace") => {
                let metadata = document.find("metadata");
                if let Some(name) = metadata.and_then(|metadata| metadata.find_text("name")) {
                    self.namespaces.insert(
                        name,
                        metadata.and_then(|metadata| metadata.find("labels")).unwrap_or(document),
                    );
                }
            }
            ("", "Service") => self.services.extend(object(document, kind, report)),
            ("gateway.networking.k8s.io", "GatewayClass") => {
                let class = object(document, kind, report);
                if let Some(parameters) = class.and_then(|class| class.spec.find("parametersRef")) {
                    report.entry("parametersRef", parameters, "parameters of a controller, and this is none");
                }
            }
            ("gateway.networking.k8s.io", _) => {
                let list = match kind {
                    "Gateway" => &mut self.gateways,
                    "HTTPRoute" => &mut self.http_routes,
                    "GRPCRoute" => &mut self.grpc_routes,
                    "TLSRoute" => &mut self.tls_routes,
                    "TCPRoute" => &mut self.tcp_routes,
                    "BackendTLSPolicy" => &mut self.backend_tls,
                    "ReferenceGrant" => &mut self.grants,
                    _ => {
                        let why = match kind {
                            "UDPRoute" => "UDP is not carried",
                            _ => "an unknown kind",
                        };
                        return report.add(document, described(document, kind), why);
                    }
                };
                list.extend(object(document, kind, report));
            }
            ("", "Secret" | "ConfigMap") => {
                if kind == "ConfigMap" {
                    self.config_maps.extend(object(document, kind, report));
                }
                report.add(document, described(document, kind), "its files are mounted, not written here: see `certs/NAMESPACE/NAME` in the documentation");
            }
            // The DNS of the cluster knows where its Services are.
            ("", "Endpoints") | ("discovery.k8s.io", "EndpointSlice") => {}
            _ => report.add(document, described(document, kind), "an unknown kind"),
        }
    }
}

fn object<'f>(document: &'f Foreign, kind: &str, report: &mut Report) -> Option<Object<'f>> {
    let mut metadata = document.find("metadata").map(|metadata| Fields::of("metadata", metadata, report));
    let mut text = |name: &str| metadata.as_mut().and_then(|metadata| metadata.text(name, report));
    let (name, namespace, created) = (text("name"), text("namespace"), text("creationTimestamp"));
    let Some(name) = name else {
        report.add(document, described(document, kind), "it has no name");
        return None;
    };
    Some(Object {
        namespace: namespace.unwrap_or("default"),
        name,
        created: created.unwrap_or_default(),
        at: document,
        spec: document.find("spec").unwrap_or(document),
    })
}

/// One of them per name: a cluster has no two.
fn leave_repeated(objects: &mut Vec<Object<'_>>, report: &mut Report) {
    let mut seen = BTreeMap::new();
    objects.retain(|object| match seen.get(&object.id()) {
        None => {
            seen.insert(object.id(), object.at.place());
            true
        }
        Some(first) => {
            report.add(
                object.at,
                format!("{}/{}", object.namespace, object.name),
                format!("it stands at {first} already"),
            );
            false
        }
    });
}

fn described(document: &Foreign, kind: &str) -> String {
    match document.find("metadata").and_then(|metadata| metadata.find_text("name")) {
        Some(name) => format!("{kind} {name}"),
        None => kind.to_owned(),
    }
}
