//! Services of TCP: the servers of all that are weighed together are the endpoints of one upstream.

use super::{
    servers::is_endpoint,
    services::{DEEPEST, Services, local},
};
use crate::convert::{
    draft::{List, Map},
    fields::{Fields, Report, literal},
};

impl Services<'_> {
    /// The upstream of a service of TCP.
    ///
    /// # Errors
    ///
    /// Why it leads nowhere.
    pub(crate) fn stream(&mut self, name: &str, report: &mut Report) -> Result<String, String> {
        let own = local(name).ok_or_else(|| format!("the service {name:?} is of another provider"))?;
        let mut upstream = Map::new();
        let mut endpoints = List::new();
        self.stream_endpoints(own, 1, 0, &mut endpoints, &mut upstream, report)?;
        if endpoints.is_empty() {
            return Err(format!("the service {own:?} has no servers"));
        }
        let mut whole = Map::new().with("endpoints", endpoints);
        for (key, value) in upstream.entries() {
            whole.set(key, value.clone());
        }
        Ok(self.upstreams.keep(own, whole))
    }

    fn stream_endpoints(
        &self,
        name: &str,
        weight: i64,
        depth: usize,
        endpoints: &mut List,
        upstream: &mut Map,
        report: &mut Report,
    ) -> Result<(), String> {
        let service = *self.tcp.get(name).ok_or_else(|| format!("there is no service {name:?} of TCP"))?;
        if depth > DEEPEST {
            return Err(format!("the service {name:?} leads to services too deep, or to itself"));
        }
        let mut fields = Fields::of(name, service, report);
        let (balancer, weighted) = (fields.take("loadBalancer"), fields.take("weighted"));
        fields.finish("it has no equal here", report);
        if let Some(balancer) = balancer {
            let mut fields = Fields::of("loadBalancer", balancer, report);
            let servers = fields.list("servers", report);
            if let Some(proxy) = fields.take("proxyProtocol") {
                let mut fields = Fields::of("proxyProtocol", proxy, report);
                let version = fields.text("version", report).unwrap_or("2");
                fields.finish("it has no equal here", report);
                upstream.set("proxy_protocol", if version == "1" { "v1" } else { "v2" });
            }
            fields.finish("it has no equal here", report);
            for server in servers {
                let mut fields = Fields::of("servers", server, report);
                let address = fields.text("address", report).filter(|address| is_endpoint(address));
                fields.finish("it has no equal here", report);
                match address {
                    Some(address) => {
                        endpoints.push(Map::new().with("address", literal(address)).with("weight", weight))
                    }
                    None => report.entry("servers", server, "HOST:PORT is expected here"),
                }
            }
            return Ok(());
        }
        let Some(weighted) = weighted else { return Ok(()) };
        let mut fields = Fields::of("weighted", weighted, report);
        let services = fields.list("services", report);
        fields.finish("it has no equal here", report);
        for service in services {
            let mut fields = Fields::of("services", service, report);
            let name = fields.text("name", report).and_then(local).unwrap_or_default();
            let own = fields.number("weight", 0, 65_535, report).unwrap_or(1);
            fields.finish("it has no equal here", report);
            if endpoints.len() > 10_000 {
                return Err("it has too many servers".to_owned());
            }
            self.stream_endpoints(name, own, depth + 1, endpoints, upstream, report)?;
        }
        Ok(())
    }
}
