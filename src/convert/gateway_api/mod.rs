//! The Gateway API of Kubernetes, read as data: GatewayClass, Gateway, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, BackendTLSPolicy,
//! ReferenceGrant, and where they are given Service and Namespace (<https://gateway-api.sigs.k8s.io/reference/spec/>).
//!
//! A listener of ours is a port of a Gateway. Which of its listeners a request belongs to is decided by the hosts of the routes: each route
//! is written for the hosts that it has in common with the listeners it is attached to (`attach`), and where a listener lies inside
//! another, what none of its routes takes is answered with 404 rather than falling through. The order of precedence is ours already; equals
//! stand in the file as the specification ranks them, oldest first and then by name.

mod allowed;
mod attach;
mod backend_tls;
mod backends;
mod certificates;
mod client_auth;
mod filters;
mod gateways;
mod grants;
mod matches;
mod objects;
mod redirects;
mod routes;
mod rules;
mod streams;

use backends::Backends;
use gateways::{Gateways, Speaks};
use objects::Objects;

use crate::{
    config::{self, Foreign, Problems},
    convert::{
        Converted,
        draft::{List, Map, Node},
        fields::Report,
    },
};

/// Where to listen if the files say nothing that can be served: a configuration has a listener.
const NOWHERE: &str = "127.0.0.1:8080";

/// Converts the texts of these files, each with its name.
///
/// # Errors
///
/// Where one is no YAML.
pub fn convert(files: &[(String, String)]) -> Result<Converted, Problems> {
    let mut documents: Vec<Foreign> = Vec::new();
    for (name, text) in files {
        documents.extend(config::foreign(text, name)?);
    }
    let mut report = Report::default();
    let objects = Objects::read(&documents, &mut report);
    let mut backends = Backends::read(&objects, &mut report);
    let gateways = Gateways::read(&objects, backends.grants(), &mut report);
    let tables = routes::tables(&objects, &gateways, &mut backends, &mut report);
    let streams = streams::read(&objects, &gateways, &mut backends, &mut report);

    let mut listeners = List::new();
    for (index, port) in gateways.ports.iter().enumerate() {
        let mut listener = Map::new().with("name", port.name()).with("address", port.address.as_str());
        let speaks = |speaks: Speaks| gateways.on(index).any(|listener| listener.speaks == speaks);
        let sni = streams.sni.get(&index);
        if speaks(Speaks::Http) || speaks(Speaks::Https) {
            if speaks(Speaks::Https) {
                listener.set("tls", port.tls(gateways.apart(index)));
            }
            if let Some(sni) = sni {
                listener.set("sni", sni.clone());
            }
            listener.set(
                "routes",
                tables.served.get(&index).into_iter().flatten().map(String::as_str).collect::<List>(),
            );
        } else if speaks(Speaks::Passthrough)
            && let Some(sni) = sni
        {
            listener.set("protocol", "tls_passthrough");
            listener.set("sni", sni.clone());
        } else if sni.is_some() || streams.upstreams.contains_key(&index) {
            listener.set("protocol", "tcp");
            if speaks(Speaks::Tls) {
                listener.set("tls", port.tls(List::new()));
            }
            if let Some(sni) = sni {
                listener.set("sni", sni.clone());
            }
            if let Some(upstream) = streams.upstreams.get(&index) {
                listener.set("upstream", upstream.as_str());
            }
        } else {
            report.entry("listeners", port.at, "no route is attached, so nothing listens there");
            continue;
        }
        listeners.push(listener);
    }

    let mut routes = tables.routes.written();
    let mut file = Map::new();
    let is_http = |listener: &Node| matches!(listener, Node::Map(map) if map.find("routes").is_some());
    let needs_route = listeners.is_empty() || listeners.items().any(is_http);
    if listeners.is_empty() {
        listeners.comment("The files hold no listener that can be served.");
        listeners.push(Map::new().with("address", NOWHERE));
    }
    if routes.is_empty() && needs_route {
        routes.push(Map::new().with("name", "nothing").with("respond", Map::new().with("status", 404)));
    }
    report.left.sort();
    for left in &report.left {
        file.comment(left.to_string());
    }
    file.set("listeners", listeners);
    if !routes.is_empty() {
        file.set("routes", routes);
    }
    let upstreams = backends.written();
    if !upstreams.is_empty() {
        file.set("upstreams", upstreams);
    }
    Ok(Converted { file, left: report.left })
}

/// The file that `text` becomes.
#[cfg(test)]
fn written(text: &str) -> String {
    convert(&[("a.yaml".to_owned(), text.to_owned())]).unwrap().file.to_string()
}
