//! Services of Traefik: load balancers become upstreams, failover one that has another to stand in; weights and mirrors what a route says of
//! several.

use std::collections::BTreeMap;

use super::{
    servers::{Server, affinity, health_check, host_of, read_server, split_cookie},
    units,
};
use crate::{
    config::Foreign,
    convert::{
        draft::{List, Map, Node},
        fields::{Fields, Report, literal},
        upstreams::{Upstreams, one_or_several, scale},
    },
};

const HEALTH: &str = "since an upstream knows which of its endpoints are healthy, wherever it is named";

/// Services inside of services.
pub(crate) const DEEPEST: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Services<'f> {
    pub all: BTreeMap<&'f str, &'f Foreign>,
    /// Those of TCP.
    pub tcp: BTreeMap<&'f str, &'f Foreign>,
    pub transports: BTreeMap<&'f str, &'f Foreign>,
    pub upstreams: Upstreams,
}

/// Where a route leads: entries of it, and filters that come last.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Target {
    pub route: Map,
    pub filters: Vec<Map>,
}

impl Target {
    /// The upstream, where it leads there and does nothing more.
    fn upstream_alone(&self) -> Option<&str> {
        let is_alone = self.filters.is_empty() && self.route.entries().count() == 1;
        self.route.find("upstream").and_then(text_of).filter(|_| is_alone)
    }
}

impl<'f> Services<'f> {
    pub(crate) fn written(self) -> Map {
        self.upstreams.written()
    }

    /// Where the service `name` leads. `breaker` is the circuit breaker that its upstreams have for this route.
    ///
    /// # Errors
    ///
    /// Why it leads nowhere.
    pub(crate) fn target(
        &mut self,
        name: &str,
        breaker: Option<&Map>,
        report: &mut Report,
    ) -> Result<Target, String> {
        self.target_at(name, breaker, 0, report)
    }

    fn target_at(
        &mut self,
        name: &str,
        breaker: Option<&Map>,
        depth: usize,
        report: &mut Report,
    ) -> Result<Target, String> {
        // What stands behind a redirect: nobody sees its answer.
        if name == "noop@internal" {
            let route = Map::new().with("respond", Map::new().with("status", 418_i64));
            return Ok(Target { route, filters: Vec::new() });
        }
        let own = local(name).ok_or_else(|| format!("the service {name:?} is of another provider"))?;
        let service = *self.all.get(own).ok_or_else(|| format!("there is no service {own:?}"))?;
        if depth > DEEPEST {
            return Err(format!("the service {own:?} leads to services too deep, or to itself"));
        }
        let mut fields = Fields::of(own, service, report);
        let kinds =
            ["loadBalancer", "weighted", "mirroring", "failover"].map(|kind| (kind, fields.take(kind)));
        fields.finish("it has no equal here", report);
        match kinds {
            [(_, Some(balancer)), ..] => self.balanced(own, balancer, breaker, report),
            [_, (_, Some(weighted)), ..] => self.weighted(own, weighted, breaker, depth, report),
            [_, _, (_, Some(mirroring)), _] => self.mirrored(mirroring, breaker, depth, report),
            [.., (_, Some(failover))] => self.falling_back(own, failover, breaker, depth, report),
            _ => Err(format!("the service {own:?} has no servers")),
        }
    }

    fn balanced(
        &mut self,
        name: &str,
        balancer: &'f Foreign,
        breaker: Option<&Map>,
        report: &mut Report,
    ) -> Result<Target, String> {
        let mut fields = Fields::of("loadBalancer", balancer, report);
        let servers: Vec<Server> =
            fields.list("servers", report).iter().filter_map(|server| read_server(server, report)).collect();
        let passes_host = fields.flag("passHostHeader", report).unwrap_or(true);
        let sticky = fields.take("sticky");
        let check = fields.take("healthCheck");
        let strategy = fields.take("strategy");
        let transport = fields.text("serversTransport", report);
        fields.needless(&["responseForwarding"], "since bodies are passed on as they come", report);
        fields.finish("it has no equal here", report);

        let first = servers.first().ok_or_else(|| format!("the service {name:?} has no servers"))?;
        let mut endpoints = List::new();
        for server in &servers {
            if server.scheme != first.scheme {
                report.add(
                    balancer,
                    format!("{}://{}", server.scheme, server.authority),
                    format!("all endpoints are spoken to by {}", first.scheme),
                );
                continue;
            }
            match server.weight {
                Some(weight) => endpoints
                    .push(Map::new().with("address", server.endpoint.as_str()).with("weight", weight)),
                None => endpoints.push(server.endpoint.as_str()),
            }
        }
        let mut upstream = Map::new().with("endpoints", endpoints);
        if first.scheme == "h2c" {
            upstream.set("protocol", "http2");
        }
        let mut tls = (first.scheme == "https").then(Map::new);
        if let Some(transport) = transport {
            self.transport(transport, tls.as_mut(), &mut upstream, report)?;
        }
        if let Some(tls) = tls {
            let is_address = |server: &Server| {
                host_of(&server.endpoint).parse::<std::net::IpAddr>().is_ok()
                    || server.endpoint.starts_with('[')
            };
            let is_told = ["verify", "insecure_skip_verify"].into_iter().any(|key| tls.find(key).is_some());
            if !is_told && servers.iter().any(is_address) {
                return Err("a certificate is verified by a name, and its servers are addresses (`serverName` in a serversTransport names one)".to_owned());
            }
            // `auto` is what Traefik does over TLS.
            upstream.set("protocol", "auto");
            upstream.set("tls", tls);
        }
        match strategy.map(|strategy| (strategy, strategy.text())) {
            None | Some((_, Some("wrr"))) => {}
            Some((_, Some("p2c"))) => upstream.set("balancer", "p2c_ewma"),
            Some((strategy, _)) => report.entry("strategy", strategy, "round_robin instead"),
        }
        if let Some(cookie) = sticky.and_then(|sticky| affinity(sticky, report)) {
            upstream.set("affinity", Map::new().with("cookie", cookie));
        }
        if let Some(check) = check.and_then(|check| health_check(check, report)) {
            upstream.set("health_check", check);
        }
        if let Some(breaker) = breaker {
            upstream.set("circuit_breaker", breaker.clone());
        }
        let mut filters = Vec::new();
        if !passes_host {
            match &servers[..] {
                [only] => filters
                    .push(Map::new().with("rewrite", Map::new().with("host", literal(&only.authority)))),
                _ => report.add(
                    balancer,
                    "passHostHeader: false",
                    "of several servers each has its own name, and a rewrite one for all",
                ),
            }
        }
        let name = self.upstreams.keep(name, upstream);
        Ok(Target { route: Map::new().with("upstream", name), filters })
    }

    /// What a serversTransport says of TLS and of time.
    fn transport(
        &mut self,
        name: &str,
        tls: Option<&mut Map>,
        upstream: &mut Map,
        report: &mut Report,
    ) -> Result<(), String> {
        let own = local(name)
            .and_then(|name| self.transports.get(name))
            .ok_or_else(|| format!("there is no serversTransport {name:?}"))?;
        let mut fields = Fields::of("serversTransport", own, report);
        let server_name = fields.text("serverName", report);
        let skips = fields.flag("insecureSkipVerify", report).unwrap_or(false);
        let authorities = fields.texts("rootCAs", report);
        let shown = fields.list("certificates", report);
        let timeouts = fields.take("forwardingTimeouts");
        fields.finish("it has no equal here", report);
        if let Some(tls) = tls {
            for (index, certificate) in shown.iter().enumerate() {
                let mut fields = Fields::secret("certificates", certificate, report);
                let pair = (fields.text("certFile", report), fields.text("keyFile", report));
                fields.finish("it has no equal here", report);
                match pair {
                    (Some(cert), Some(key)) if index == 0 => tls
                        .set("client_cert", Map::new().with("cert", literal(cert)).with("key", literal(key))),
                    (Some(cert), Some(_)) => report.add(
                        certificate,
                        format!("certificates: {cert}"),
                        "an upstream is shown one certificate",
                    ),
                    _ => {
                        report.add(certificate, "certificates", "a certificate has a certFile and a keyFile")
                    }
                }
            }
            if skips {
                tls.set("insecure_skip_verify", true);
                if let Some(name) = server_name {
                    tls.set("server_name", literal(name));
                }
            } else {
                if let Some(name) = server_name {
                    tls.map("verify").set("name", literal(name));
                }
                if let Some(ca) = authorities.first() {
                    tls.map("verify").set("ca", literal(ca));
                }
                for second in authorities.iter().skip(1) {
                    report.add(
                        own,
                        format!("rootCAs: {second}"),
                        "one file of authorities can be named: put them together",
                    );
                }
            }
        }
        if let Some(timeouts) = timeouts {
            let mut fields = Fields::of("forwardingTimeouts", timeouts, report);
            for (theirs, ours) in [
                ("dialTimeout", "connect_timeout"),
                ("responseHeaderTimeout", "read_timeout"),
                ("idleConnTimeout", "idle_timeout"),
            ] {
                if let Some(duration) =
                    units::duration(&mut fields, theirs, report).filter(|duration| duration != "0s")
                {
                    upstream.set(ours, duration);
                }
            }
            fields.finish("it has no equal here", report);
        }
        Ok(())
    }

    fn weighted(
        &mut self,
        name: &str,
        weighted: &'f Foreign,
        breaker: Option<&Map>,
        depth: usize,
        report: &mut Report,
    ) -> Result<Target, String> {
        let mut fields = Fields::of("weighted", weighted, report);
        let services = fields.list("services", report);
        let sticky = fields.take("sticky");
        fields.leave(
            "healthCheck",
            "a share stays with its upstream, healthy or not: `then` of that names another",
            report,
        );
        fields.finish("it has no equal here", report);
        let mut variants: Vec<(String, i64)> = Vec::new();
        for service in services {
            let mut fields = Fields::of("services", service, report);
            let (name, weight) = (
                fields.text("name", report).unwrap_or_default(),
                fields.number("weight", 0, i64::from(i32::MAX), report).unwrap_or(1),
            );
            fields.finish("it has no equal here", report);
            let target = self.target_at(name, breaker, depth + 1, report);
            match target.as_ref().map(Target::upstream_alone) {
                Ok(Some(upstream)) => match variants.iter_mut().find(|(known, _)| known == upstream) {
                    Some((_, sum)) => *sum += weight,
                    None => variants.push((upstream.to_owned(), weight)),
                },
                Ok(None) => report.entry("services", service, "a variant is an upstream, and this is more"),
                Err(why) => report.entry("services", service, why.as_str()),
            }
        }
        if variants.iter().all(|(_, weight)| *weight == 0) {
            return Err(format!("the service {name:?} has no services with a weight"));
        }
        let scale = scale(variants.iter().map(|(_, weight)| *weight));
        let mut to = List::new();
        for (upstream, weight) in &variants {
            to.push(Map::new().with("upstream", upstream.as_str()).with("weight", scale(*weight)));
        }
        let mut split = Map::new();
        match sticky.and_then(|sticky| split_cookie(sticky, report)) {
            Some(cookie) => split.set("by", Map::new().with("cookie", cookie)),
            // As Traefik does, one after the other.
            None => split.set("by", "round_robin"),
        }
        split.set("to", to);
        Ok(Target { route: Map::new().with("split", split), filters: Vec::new() })
    }

    fn mirrored(
        &mut self,
        mirroring: &'f Foreign,
        breaker: Option<&Map>,
        depth: usize,
        report: &mut Report,
    ) -> Result<Target, String> {
        let mut fields = Fields::of("mirroring", mirroring, report);
        let main = fields.text("service", report).unwrap_or_default();
        let mirrors = fields.list("mirrors", report);
        fields.needless(&["healthCheck"], HEALTH, report);
        fields.usual("mirrorBody", true, "copies have their body, up to 64 KiB", report);
        fields.finish("a body of at most 64 KiB is copied", report);
        let mut target = self.target_at(main, breaker, depth + 1, report)?;
        let mut copies: Vec<(String, Map)> = Vec::new();
        for mirror in mirrors {
            let mut fields = Fields::of("mirrors", mirror, report);
            let name = fields.text("name", report).unwrap_or_default();
            let percent = fields.number("percent", 0, 100, report).unwrap_or(0);
            fields.finish("it has no equal here", report);
            if percent == 0 {
                continue;
            }
            match self.target_at(name, None, depth + 1, report) {
                Ok(copy) => match copy.upstream_alone() {
                    Some(upstream) if copies.iter().any(|(known, _)| known == upstream) => {
                        report.entry("mirrors", mirror, "an upstream gets copies once");
                    }
                    Some(upstream) => {
                        let copy = Map::new().with("upstream", upstream).with("ratio", format!("{percent}%"));
                        copies.push((upstream.to_owned(), copy));
                    }
                    None => report.entry("mirrors", mirror, "a mirror is an upstream, and this is more"),
                },
                Err(why) => report.entry("mirrors", mirror, why),
            }
        }
        if target.route.find("mirror").is_some() {
            // Of a service that is mirrored by itself.
            for mirror in mirrors {
                report.entry("mirrors", mirror, "the service that is mirrored has mirrors of its own");
            }
        } else if let Some(mirror) = one_or_several(copies.into_iter().map(|(_, copy)| copy).collect()) {
            target.route.set("mirror", mirror);
        }
        Ok(target)
    }
}

impl<'f> Services<'f> {
    /// An upstream for which another one stands in.
    fn falling_back(
        &mut self,
        name: &str,
        failover: &'f Foreign,
        breaker: Option<&Map>,
        depth: usize,
        report: &mut Report,
    ) -> Result<Target, String> {
        let mut fields = Fields::of("failover", failover, report);
        let main = fields.text("service", report).unwrap_or_default();
        let fallback = fields.take("fallback");
        fields.needless(&["healthCheck"], HEALTH, report);
        fields.finish("another upstream stands in where none of the servers can be used", report);
        let main = self.target_at(main, breaker, depth + 1, report)?;
        let Some(fallback) = fallback else { return Ok(main) };
        let stands_in = self.target_at(fallback.text().unwrap_or_default(), breaker, depth + 1, report);
        let upstream = main.upstream_alone().and_then(|upstream| self.upstreams.find(upstream)).cloned();
        match (upstream, stands_in.as_ref().map(Target::upstream_alone)) {
            (Some(upstream), Ok(Some(_))) if upstream.find("then").is_some() => {
                report.entry("fallback", fallback, "its service has a failover of its own");
                Ok(main)
            }
            (Some(mut upstream), Ok(Some(stands_in))) => {
                upstream.set("then", stands_in);
                let name = self.upstreams.keep(name, upstream);
                Ok(Target { route: Map::new().with("upstream", name), filters: Vec::new() })
            }
            (_, Err(why)) => {
                report.entry("fallback", fallback, why.as_str());
                Ok(main)
            }
            _ => {
                report.entry(
                    "fallback",
                    fallback,
                    "an upstream stands in for an upstream, and these are more",
                );
                Ok(main)
            }
        }
    }
}

/// A name of this file: `web` or `web@file`.
pub(crate) fn local(name: &str) -> Option<&str> {
    match name.split_once('@') {
        None => Some(name),
        Some((name, "file")) => Some(name),
        Some(_) => None,
    }
}

fn text_of(node: &Node) -> Option<&str> {
    match node {
        Node::Text(text) => Some(text),
        _ => None,
    }
}
