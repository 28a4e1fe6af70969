//! Services: those of Kubernetes by their name in the DNS of the cluster, and TraefikServices.

use super::{
    Cluster, Object, Parts,
    made::{edited, entry, kept, list, map, text},
};
use crate::{config::Foreign, convert::fields::Report, route::HostPattern};

/// Keys of a reference to a Service that say which one, and what a load balancer of a file does not know.
const OF_THE_REFERENCE: [&str; 13] = [
    "kind",
    "name",
    "namespace",
    "port",
    "scheme",
    "weight",
    "percent",
    "nativeLB",
    "nodePortLB",
    "mirrors",
    "mirrorBody",
    "maxBodySize",
    "serversTransport",
];

/// Where a Service listens.
struct Address {
    host: String,
    port: u16,
    /// By its number or its name.
    is_https: bool,
}

impl Cluster<'_> {
    fn address(&self, object: &Object<'_>, service: &Foreign) -> Result<(String, Address), String> {
        let name = service.find_text("name").ok_or("it has no name")?;
        let namespace = service.find_text("namespace").unwrap_or(object.namespace);
        let port = service.find_text("port").ok_or_else(|| format!("{namespace}/{name} has no port"))?;
        let id = format!("{namespace}/{name}");
        let is_label = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !is_label(name) || !is_label(namespace) {
            return Err(format!("`{id}` is no name of a Service"));
        }
        let number = port.parse::<u16>().ok().filter(|number| *number > 0);
        let mut host = format!("{name}.{namespace}.svc.cluster.local");
        let Some(spec) = self.services.get(&(namespace, name)) else {
            if self.services.keys().any(|(known, _)| *known == namespace) {
                return Err(format!("the files hold Services of `{namespace}`, and none named `{name}`"));
            }
            let number = number.ok_or_else(|| {
                format!(
                    "its port {port:?} is a name, and no file holds the Service {id}, which knows its number"
                )
            })?;
            return Ok((format!("{id}:{port}"), Address { host, port: number, is_https: number == 443 }));
        };
        let is_external = spec.find_text("type") == Some("ExternalName");
        if is_external {
            let external = spec.find_text("externalName").filter(|name| HostPattern::parse(name).is_ok());
            host = external.ok_or_else(|| format!("the Service {id} has no externalName"))?.to_owned();
        }
        let ports = spec.find("ports").map_or(&[][..], Foreign::items);
        let is_it =
            |known: &&Foreign| known.find_text("port") == Some(port) || known.find_text("name") == Some(port);
        let known = ports.iter().find(is_it);
        let own = known.and_then(|known| known.find_text("port")?.parse().ok());
        let mut own = own
            .or(number.filter(|_| is_external))
            .ok_or_else(|| format!("the Service {id} has no port {port}"))?;
        let is_named =
            known.and_then(|known| known.find_text("name")).is_some_and(|name| name.starts_with("https"));
        let is_https = own == 443 || is_named;
        // The names of one without an address of its own are those of its pods.
        if spec.find_text("clusterIP") == Some("None") {
            let target = known.and_then(|known| known.find_text("targetPort"));
            own = match target.map(str::parse) {
                None => own,
                Some(Ok(target)) => target,
                Some(Err(_)) => {
                    return Err(format!("the port {port} of the pods of {id} is known by a name alone"));
                }
            };
        }
        Ok((format!("{id}:{port}"), Address { host, port: own, is_https }))
    }
}

impl Parts {
    /// The service that a reference leads to.
    pub(super) fn route_service(
        &mut self,
        object: &Object<'_>,
        service: &Foreign,
        cluster: &Cluster<'_>,
    ) -> Result<String, String> {
        match service.find_text("kind") {
            Some("TraefikService") => {
                return object.reference(service).ok_or_else(|| "it has no name".to_owned());
            }
            None | Some("Service") => {}
            Some(kind) => return Err(format!("{kind:?} is no kind of service")),
        }
        let (id, address) = cluster.address(object, service)?;
        let scheme = service.find_text("scheme").unwrap_or(if address.is_https { "https" } else { "http" });
        let url = text(service, format!("{scheme}://{}:{}", address.host, address.port));
        let mut balancer = vec![("servers".to_owned(), list(service, vec![entry(service, "url", url)]))];
        if let Some(transport) = service.find("serversTransport") {
            let name = transport.text().unwrap_or_default();
            let name = match name.contains('@') {
                true => name.to_owned(),
                false => format!("{}/{name}", object.namespace),
            };
            balancer.push(("serversTransport".to_owned(), text(transport, name)));
        }
        let others = service.entries().iter().filter(|(name, _)| !OF_THE_REFERENCE.contains(&name.as_str()));
        balancer.extend(others.cloned());
        Ok(Parts::keep_kind(&mut self.services, &id, "loadBalancer", map(service, balancer)))
    }

    pub(super) fn stream_service(
        &mut self,
        object: &Object<'_>,
        service: &Foreign,
        cluster: &Cluster<'_>,
    ) -> Result<String, String> {
        let (id, address) = cluster.address(object, service)?;
        let address = text(service, format!("{}:{}", address.host, address.port));
        let mut server = vec![("address".to_owned(), address)];
        server.extend(service.find("tls").map(|tls| ("tls".to_owned(), tls.clone())));
        let servers = list(service, vec![map(service, server)]);
        let mut balancer = vec![("servers".to_owned(), servers)];
        let others = service.entries().iter();
        balancer.extend(
            others.filter(|(name, _)| name != "tls" && !OF_THE_REFERENCE.contains(&name.as_str())).cloned(),
        );
        Ok(Parts::keep_kind(&mut self.tcp_services, &id, "loadBalancer", map(service, balancer)))
    }

    pub(super) fn traefik_service(
        &mut self,
        object: &Object<'_>,
        cluster: &Cluster<'_>,
        report: &mut Report,
    ) {
        let written = edited(object.spec, |kind, value| match kind {
            "weighted" => {
                let weighted = edited(value, |name, value| match name {
                    "services" => {
                        let services = self.variants(object, "weight", value, cluster, report);
                        Some((name.to_owned(), services))
                    }
                    _ => kept(name, value),
                });
                Some((kind.to_owned(), weighted))
            }
            "mirroring" => {
                let main = self.route_service(object, value, cluster);
                let main = main.unwrap_or_else(|why| {
                    report.entry("mirroring", value, why);
                    String::new()
                });
                let mut entries = vec![("service".to_owned(), text(value, main))];
                for (name, value) in value.entries() {
                    match name.as_str() {
                        "mirrors" => {
                            let mirrors = self.variants(object, "percent", value, cluster, report);
                            entries.push((name.clone(), mirrors));
                        }
                        "mirrorBody" | "maxBodySize" => entries.push((name.clone(), value.clone())),
                        _ => {}
                    }
                }
                Some((kind.to_owned(), map(value, entries)))
            }
            _ => kept(kind, value),
        });
        self.services.push((object.id(), written));
    }

    /// Services with a share each.
    fn variants(
        &mut self,
        object: &Object<'_>,
        share: &str,
        services: &Foreign,
        cluster: &Cluster<'_>,
        report: &mut Report,
    ) -> Foreign {
        let mut all = Vec::new();
        for service in services.items() {
            match self.route_service(object, service, cluster) {
                Ok(name) => {
                    let mut entries = vec![("name".to_owned(), text(service, name))];
                    entries.extend(service.find(share).map(|share_of| (share.to_owned(), share_of.clone())));
                    all.push(map(service, entries));
                }
                Err(why) => report.entry("services", service, why),
            }
        }
        list(services, all)
    }
}
