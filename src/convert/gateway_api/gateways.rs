//! Gateways and their listeners: which ports are opened, with which certificates, and which routes may be attached where.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    allowed::{From, allowed_routes, selects},
    certificates::{self, ConfigMaps},
    client_auth::{client_auth, validation},
    grants::Grants,
    objects::{Name, Object, Objects},
};
use crate::{
    config::Foreign,
    convert::{
        draft::{List, Map},
        fields::{Fields, Report},
        hostnames,
    },
    route::HostPattern,
};

/// What gateways say, by port.
#[derive(Debug, Default)]
pub(crate) struct Gateways<'f> {
    /// All listeners that can be served.
    pub listeners: Vec<Listener<'f>>,
    pub ports: Vec<Port<'f>>,
    /// All gateways there are, also those of which no listener is served.
    pub known: BTreeSet<Name<'f>>,
}

/// A listener of a gateway: of several, one of ours is made where they share a port.
#[derive(Debug)]
pub(crate) struct Listener<'f> {
    pub gateway: Name<'f>,
    pub name: &'f str,
    pub number: i64,
    /// Lower case; of none, any.
    pub hostname: Option<String>,
    pub speaks: Speaks,
    kinds: Vec<&'f str>,
    from: From<'f>,
    /// Which of `ports`.
    pub port: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http,
    Https,
    /// TLS that ends here, and TCP in it.
    Tls,
    Passthrough,
    Tcp,
}

/// An address that is listened on.
#[derive(Debug)]
pub(crate) struct Port<'f> {
    pub gateway: Name<'f>,
    pub number: i64,
    pub address: String,
    pub certificates: Vec<Map>,
    pub client_auth: Option<Map>,
    /// What is shown to backends.
    pub client_cert: Option<Map>,
    /// Whether a listener that ends TLS has said who clients must be, or that they may be anybody.
    is_asked: bool,
    /// Where what its listeners say of clients could not be carried over.
    is_closed: bool,
    pub at: &'f Foreign,
}

impl<'f> Gateways<'f> {
    pub(crate) fn read(objects: &Objects<'f>, grants: &Grants<'f>, report: &mut Report) -> Gateways<'f> {
        let mut gateways = Gateways::default();
        let config_maps = ConfigMaps::of(&objects.config_maps);
        for object in &objects.gateways {
            gateways.known.insert(object.id());
            gateways.add(object, grants, &config_maps, report);
        }
        gateways.close(report);
        gateways
    }

    fn add(
        &mut self,
        object: &Object<'f>,
        grants: &Grants<'f>,
        config_maps: &ConfigMaps<'f>,
        report: &mut Report,
    ) {
        let mut spec = Fields::of("spec", object.spec, report);
        spec.skip(&["gatewayClassName"]);
        let host = address(spec.list("addresses", report), report);
        let mut tls = spec.take("tls").map(|tls| Fields::of("tls", tls, report));
        let frontend = tls.as_mut().and_then(|tls| tls.take("frontend"));
        let client_cert = tls
            .as_mut()
            .and_then(|tls| tls.take("backend"))
            .and_then(|backend| certificates::to_backends(object, backend, grants, report));
        if let Some(tls) = tls {
            tls.finish("it has no equal here", report);
        }
        let listeners = spec.list("listeners", report);
        spec.finish("it has no equal here", report);
        let mut seen: BTreeMap<(i64, Option<String>), &Foreign> = BTreeMap::new();
        for listener in listeners {
            let Some((mut read, tls)) = self.listener(object, listener, report) else { continue };
            let key = (read.number, read.hostname.clone());
            if let Some(first) = seen.get(&key).filter(|_| read.speaks != Speaks::Passthrough) {
                report.entry(
                    "listeners",
                    listener,
                    format!("the one at {} has its port and hostname", first.place()),
                );
                continue;
            }
            if let Some(why) = self.conflict(&read) {
                report.entry("listeners", listener, why);
                continue;
            }
            let ends = matches!(read.speaks, Speaks::Https | Speaks::Tls);
            let certificates = tls
                .filter(|_| ends)
                .map(|tls| certificates::shown(object, tls, grants, report))
                .unwrap_or_default();
            if ends && certificates.is_empty() {
                report.entry("listeners", listener, "it has no certificate, so it is not served");
                continue;
            }
            let port = self.port(object, read.number, host.as_deref(), listener, report);
            self.ports[port].client_cert.clone_from(&client_cert);
            for certificate in certificates {
                if !self.ports[port].certificates.contains(&certificate) {
                    self.ports[port].certificates.push(certificate);
                }
            }
            let own = tls.and_then(|tls| tls.find("frontendValidation"));
            let validation = own.or_else(|| frontend.and_then(|frontend| validation(frontend, read.number)));
            if ends {
                let asked = validation
                    .map(|validation| client_auth(object, validation, grants, config_maps, report))
                    .transpose();
                self.ports[port].ask(asked, listener, report);
            }
            seen.insert(key, listener);
            read.port = port;
            self.listeners.push(read);
        }
    }

    /// Takes away the listeners of ports that may not be served: none of their routes is attached to another one there, which may be open.
    fn close(&mut self, report: &mut Report) {
        for port in self.ports.iter().filter(|port| port.is_closed) {
            report.add(
                port.at,
                format!("port {}", port.number),
                "whom its clients must be could not be carried over, so it is not served",
            );
        }
        let ports = &self.ports;
        self.listeners.retain(|listener| !ports[listener.port].is_closed);
    }

    fn listener(
        &self,
        object: &Object<'f>,
        listener: &'f Foreign,
        report: &mut Report,
    ) -> Option<(Listener<'f>, Option<&'f Foreign>)> {
        let mut fields = Fields::of("listeners", listener, report);
        let name = fields.text("name", report).unwrap_or_default();
        let number = fields.number("port", 1, 65_535, report);
        let protocol = fields.text("protocol", report).unwrap_or_default();
        let hostname =
            fields.text("hostname", report).map(str::to_ascii_lowercase).filter(|name| !name.is_empty());
        let tls = fields.take("tls");
        let allowed = fields.take("allowedRoutes");
        fields.finish("it has no equal here", report);
        if let Some(name) = &hostname
            && let Err(error) = HostPattern::parse(name)
        {
            report.entry("listeners", listener, format!("{error}: it is not served"));
            return None;
        }
        let mode = tls.and_then(|tls| tls.find_text("mode")).unwrap_or("Terminate");
        let speaks = match (protocol, mode) {
            ("HTTP", _) => Speaks::Http,
            ("HTTPS", "Terminate") => Speaks::Https,
            ("TLS", "Terminate") => Speaks::Tls,
            ("TLS", "Passthrough") => Speaks::Passthrough,
            ("TCP", _) => Speaks::Tcp,
            _ => {
                report.entry(
                    "listeners",
                    listener,
                    format!("{protocol} with the mode {mode} is not spoken here"),
                );
                return None;
            }
        };
        let Some(number) = number else {
            report.entry("listeners", listener, "it has no port");
            return None;
        };
        let (from, kinds) = allowed_routes(allowed, speaks, report);
        let gateway = object.id();
        Some((Listener { gateway, name, number, hostname, speaks, kinds, from, port: usize::MAX }, tls))
    }

    /// Why a listener cannot stand beside those on its port.
    fn conflict(&self, new: &Listener<'f>) -> Option<String> {
        use Speaks::{Http, Https, Passthrough, Tcp, Tls};
        let beside = self
            .listeners
            .iter()
            .filter(|listener| listener.gateway == new.gateway && listener.number == new.number);
        beside.map(|listener| (listener, (listener.speaks, new.speaks))).find_map(|(listener, pair)| {
            match pair {
                (Http, Http) | (Https | Passthrough, Https | Passthrough) => None,
                (Tls | Tcp, Tls | Tcp) => Some(format!(
                    "`{}` carries all connections of this port: the name that they ask for is not looked at",
                    listener.name
                )),
                _ => Some(format!("`{}` on its port speaks something else", listener.name)),
            }
        })
    }

    /// The port of a gateway. Another gateway has its own addresses in a cluster; here it gets another port.
    fn port(
        &mut self,
        object: &Object<'f>,
        number: i64,
        host: Option<&str>,
        at: &'f Foreign,
        report: &mut Report,
    ) -> usize {
        let own = self.ports.iter().position(|port| port.gateway == object.id() && port.number == number);
        if let Some(port) = own {
            return port;
        }
        let host = host.unwrap_or_default();
        let address = |number: i64| format!("{host}:{number}");
        let is_free = |address: &String| self.ports.iter().all(|port| port.address != *address);
        let mut candidates = std::iter::once(number)
            .chain((1..).map(|step| number + 1000 * step).take_while(|number| *number <= 65_535))
            .chain(1024..=65_535);
        let free = candidates.find(|number| is_free(&address(*number))).unwrap_or(number);
        if free != number {
            report.entry(
                "port",
                at.find("port").unwrap_or(at),
                format!("another Gateway has it, and in a cluster an address of its own: it is {free} here, unless `addresses` names one"),
            );
        }
        self.ports.push(Port {
            gateway: object.id(),
            number,
            address: address(free),
            certificates: Vec::new(),
            client_auth: None,
            client_cert: None,
            is_asked: false,
            is_closed: false,
            at,
        });
        self.ports.len() - 1
    }

    /// The listeners of a port.
    pub(crate) fn on(&self, port: usize) -> impl Iterator<Item = &Listener<'f>> {
        self.listeners.iter().filter(move |listener| listener.port == port)
    }

    /// Hostnames of HTTPS listeners that share a port: a connection that was opened for one is not for the others.
    pub(crate) fn apart(&self, port: usize) -> List {
        let https = || self.on(port).filter(|listener| listener.speaks == Speaks::Https);
        let names: Vec<&str> = https().filter_map(|listener| listener.hostname.as_deref()).collect();
        if https().count() < 2 { List::new() } else { names.into_iter().collect() }
    }

    /// The listener that a request for `host`, which may be a wildcard, comes to: the most specific one.
    pub(crate) fn owner(&self, port: usize, host: Option<&str>) -> Option<&Listener<'f>> {
        let holds = |listener: &&Listener<'f>| {
            listener.speaks != Speaks::Passthrough && hostnames::covers(listener.hostname.as_deref(), host)
        };
        self.on(port)
            .filter(holds)
            .max_by_key(|listener| hostnames::specificity(listener.hostname.as_deref()))
    }
}

impl<'f> Listener<'f> {
    /// # Errors
    ///
    /// Why a route of this kind and namespace may not be attached.
    pub(crate) fn admits(
        &self,
        kind: &str,
        namespace: &str,
        namespaces: &BTreeMap<&str, &Foreign>,
    ) -> Result<(), String> {
        if !self.kinds.contains(&kind) {
            return Err(format!("listener `{}` takes no {kind}", self.name));
        }
        let admits = match self.from {
            From::Same => namespace == self.gateway.0,
            From::All => true,
            From::None => false,
            From::Selector(selector) => selects(selector, namespace, namespaces),
        };
        if admits {
            Ok(())
        } else {
            Err(format!("listener `{}` takes no routes of the namespace `{namespace}`", self.name))
        }
    }
}

fn address(addresses: &[Foreign], report: &mut Report) -> Option<String> {
    let mut found = None;
    for address in addresses {
        let of_type = address.find_text("type").unwrap_or("IPAddress");
        let value = address.find_text("value").and_then(|value| value.parse::<std::net::IpAddr>().ok());
        match value.filter(|_| of_type == "IPAddress" && found.is_none()) {
            Some(std::net::IpAddr::V4(value)) => found = Some(value.to_string()),
            Some(std::net::IpAddr::V6(value)) => found = Some(format!("[{value}]")),
            None => report.entry("addresses", address, "one IP address can be listened on"),
        }
    }
    found
}

impl Port<'_> {
    /// Takes what one more of its listeners says of clients: they are asked once, before it is known which listener they mean.
    fn ask(&mut self, asked: Result<Option<Map>, ()>, listener: &Foreign, report: &mut Report) {
        match asked {
            Ok(asked) if !self.is_asked || asked == self.client_auth => self.client_auth = asked,
            Ok(_) => {
                report.entry(
                    "listeners",
                    listener,
                    "another listener of its port says something else of client certificates, and they are asked for once",
                );
                self.is_closed = true;
            }
            Err(()) => self.is_closed = true,
        }
        self.is_asked = true;
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}:{}", self.gateway.0, self.gateway.1, self.number)
    }

    /// `tls` of a listener that ends it, for these hostnames of its own among others.
    pub(crate) fn tls(&self, apart: List) -> Map {
        let mut tls = Map::new().with("certificates", self.certificates.iter().cloned().collect::<List>());
        if let Some(client_auth) = &self.client_auth {
            tls.set("client_auth", client_auth.clone());
        }
        if !apart.is_empty() {
            tls.set("isolated_hosts", apart);
        }
        tls
    }
}
