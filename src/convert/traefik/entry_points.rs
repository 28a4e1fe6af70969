//! Entry points of Traefik's static configuration as listeners. A dynamic file alone names them and does not say where they are: then `web` is
//! port 80 and `websecure` 443, as in Traefik's own examples.

use std::collections::BTreeMap;

use super::{matching::is_network, units};
use crate::{
    config::Foreign,
    convert::{
        draft::{List, Map},
        fields::{Fields, Report},
    },
};

#[derive(Debug)]
pub(crate) struct EntryPoint<'f> {
    pub name: String,
    pub address: String,
    /// Middlewares that go before each router's own.
    pub middlewares: &'f [Foreign],
    /// `http.tls`: what routers have that say nothing of TLS.
    pub tls: Option<&'f Foreign>,
    /// `limits` of the listener.
    pub limits: Map,
    pub filters: List,
    pub accepts_proxy_protocol: bool,
    pub is_default: bool,
    pub at: Option<&'f Foreign>,
}

#[derive(Debug, Default)]
pub(crate) struct EntryPoints<'f> {
    pub all: Vec<EntryPoint<'f>>,
    pub trusted: List,
    pub grace: Option<String>,
}

impl<'f> EntryPoints<'f> {
    pub(crate) fn read(entries: Option<&'f Foreign>, report: &mut Report) -> EntryPoints<'f> {
        let mut points = EntryPoints::default();
        let entries = entries.map_or(&[][..], Foreign::entries);
        let port_of: BTreeMap<&str, u16> = entries
            .iter()
            .filter_map(|(name, entry)| Some((name.as_str(), port(entry.find_text("address")?)?)))
            .collect();
        for (name, entry) in entries {
            points.add(name, entry, &port_of, report);
        }
        points
    }

    fn add(&mut self, name: &str, entry: &'f Foreign, port_of: &BTreeMap<&str, u16>, report: &mut Report) {
        let mut fields = Fields::of(name, entry, report);
        let address = fields.text("address", report).unwrap_or_default();
        let (http, transport) = (fields.take("http"), fields.take("transport"));
        let (forwarded, proxy) = (fields.take("forwardedHeaders"), fields.take("proxyProtocol"));
        let is_default = fields.flag("asDefault", report) == Some(true);
        let http2 = fields.take("http2");
        fields.needless(&["reusePort"], "since the gateway's own threads share its connections out", report);
        fields.finish("it has no equal here", report);
        if address.ends_with("/udp") {
            report.entry(name, entry, "UDP is not carried");
            return;
        }
        let address = address.trim_end_matches("/tcp");
        let Some(address) = listen(address) else {
            report.entry(name, entry, "an address such as :80 or 127.0.0.1:80 is expected here");
            return;
        };
        if self.all.iter().any(|point| point.address == address) {
            report.entry(name, entry, "another entry point has this address");
            return;
        }
        let mut point = EntryPoint {
            name: name.to_owned(),
            address,
            middlewares: &[],
            tls: None,
            limits: Map::new(),
            filters: List::new(),
            accepts_proxy_protocol: false,
            is_default,
            at: Some(entry),
        };
        if let Some(http) = http {
            let mut fields = Fields::of("http", http, report);
            point.middlewares = fields.one_or_more("middlewares");
            point.tls = http.entries().iter().find(|(name, _)| name == "tls").map(|(_, tls)| tls);
            if let Some(tls) = point.tls {
                super::routers::finish_tls(tls, report);
            }
            let redirections = fields.take("redirections");
            fields.skip(&["tls"]);
            if let Some(size) = fields.number("maxHeaderBytes", 1 << 10, (1 << 20) - 1, report) {
                point.limits.set("header_size", format!("{size}B"));
            }
            fields.finish("it has no equal here", report);
            if let Some(redirections) = redirections {
                let mut fields = Fields::of("redirections", redirections, report);
                fields.skip(&["entryPoint"]);
                fields.finish("it has no equal here", report);
            }
            if let Some(to) = redirections.and_then(|redirections| redirections.find("entryPoint")) {
                point.filters.push(redirection(to, port_of, report));
            }
        }
        if let Some(http2) = http2 {
            let mut fields = Fields::of("http2", http2, report);
            if let Some(streams) = fields.number("maxConcurrentStreams", 1, i64::from(u32::MAX), report) {
                point.limits.set("streams_per_connection", streams);
            }
            fields.finish("it has no equal here", report);
        }
        if let Some(transport) = transport {
            self.transport(transport, &mut point.limits, report);
        }
        self.trust("forwardedHeaders", forwarded, report);
        if let Some(proxy) = proxy {
            self.trust("proxyProtocol", Some(proxy), report);
            point.accepts_proxy_protocol = !self.trusted.is_empty();
        }
        self.all.push(point);
    }

    fn trust(&mut self, name: &str, value: Option<&Foreign>, report: &mut Report) {
        let Some(value) = value else { return };
        let mut fields = Fields::of(name, value, report);
        for item in fields.list("trustedIPs", report) {
            match item.text().filter(|network| is_network(network)) {
                Some(network) => self.trusted.push(network),
                None => report.entry("trustedIPs", item, "a network such as 10.0.0.0/8 is expected here"),
            }
        }
        fields.finish("whom to believe is named", report);
    }

    fn transport(&mut self, transport: &Foreign, limits: &mut Map, report: &mut Report) {
        let mut fields = Fields::of("transport", transport, report);
        let (responding, cycle) = (fields.take("respondingTimeouts"), fields.take("lifeCycle"));
        if let Some(requests) =
            fields.number("keepAliveMaxRequests", 0, 1_000_000_000, report).filter(|requests| *requests > 0)
        {
            limits.set("requests_per_connection", requests);
        }
        fields.finish("it has no equal here", report);
        if let Some(responding) = responding {
            let mut fields = Fields::of("respondingTimeouts", responding, report);
            for (theirs, ours) in [
                ("idleTimeout", "idle_timeout"),
                ("writeTimeout", "write_timeout"),
                ("readTimeout", "body_timeout"),
            ] {
                if let Some(duration) =
                    units::duration(&mut fields, theirs, report).filter(|duration| duration != "0s")
                {
                    limits.set(ours, duration);
                }
            }
            fields.finish("it has no equal here", report);
        }
        if let Some(cycle) = cycle {
            let mut fields = Fields::of("lifeCycle", cycle, report);
            let grace = units::duration(&mut fields, "graceTimeOut", report).filter(|grace| grace != "0s");
            self.grace = self.grace.take().or(grace);
            fields.finish("it has no equal here", report);
        }
    }

    /// Makes those that routers name and no file describes.
    pub(crate) fn complete(
        &mut self,
        named: &[(&'f str, &'f Foreign)],
        is_static_there: bool,
        report: &mut Report,
    ) {
        for (name, at) in named {
            if self.all.iter().any(|point| point.name == *name) {
                continue;
            }
            let wanted = match *name {
                "web" | "http" => 80,
                "websecure" | "https" => 443,
                _ => 8000,
            };
            let address = (wanted..=u16::MAX)
                .map(|port| format!(":{port}"))
                .find(|address| self.all.iter().all(|point| point.address != *address));
            let Some(address) = address else { continue };
            if is_static_there || wanted == 8000 {
                report.entry(
                    "entryPoints",
                    at,
                    format!("no file says where `{name}` listens: it is {address} here"),
                );
            }
            self.all.push(EntryPoint {
                name: (*name).to_owned(),
                address,
                middlewares: &[],
                tls: None,
                limits: Map::new(),
                filters: List::new(),
                accepts_proxy_protocol: false,
                is_default: false,
                at: None,
            });
        }
    }

    /// Those of routers that name none.
    pub(crate) fn defaults(&self) -> Vec<usize> {
        let all = || self.all.iter().enumerate().filter(|(_, point)| point.name != "traefik");
        let chosen: Vec<usize> =
            all().filter(|(_, point)| point.is_default).map(|(index, _)| index).collect();
        if chosen.is_empty() { all().map(|(index, _)| index).collect() } else { chosen }
    }
}

fn redirection(to: &Foreign, port_of: &BTreeMap<&str, u16>, report: &mut Report) -> Map {
    let mut fields = Fields::of("entryPoint", to, report);
    let target = fields.text("to", report).unwrap_or("websecure");
    let scheme = fields.text("scheme", report).unwrap_or("https");
    let status = if fields.flag("permanent", report) == Some(false) { 307 } else { 308 };
    fields.leave("priority", "a listener's redirect goes before all routes", report);
    fields.finish("it has no equal here", report);
    if scheme != "https" {
        report.entry("entryPoint", to, "clients are redirected to https alone");
    }
    let mut options = Map::new().with("status", status);
    let port =
        target.strip_prefix(':').map_or_else(|| port_of.get(target).copied(), |port| port.parse().ok());
    if let Some(port) = port.filter(|port| *port != 443 && *port > 0) {
        options.set("port", i64::from(port));
    }
    Map::new().with("https_redirect", options)
}

fn port(address: &str) -> Option<u16> {
    address.split('/').next()?.rsplit_once(':')?.1.parse().ok()
}

/// As an address of ours: an IP address or none, and a port.
fn listen(address: &str) -> Option<String> {
    let (host, port) = address.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Some(format!(":{port}"));
    }
    match host.parse::<std::net::IpAddr>().ok()? {
        std::net::IpAddr::V4(host) => Some(format!("{host}:{port}")),
        std::net::IpAddr::V6(host) => Some(format!("[{host}]:{port}")),
    }
}
