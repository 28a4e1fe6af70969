//! `mode: sidecar`: what it stands for is put behind what was written, as if the operator had written listeners, routes
//! and upstreams; from there on it is compiled, explained, shown and run like these. Where it stands in the file is kept
//! beside it, so that what is wrong is told there.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use super::{Compiler, listeners::listen_address};
use crate::{
    config::{
        self, Certificate, ClientAuth, ClientAuthMode, ClientTrust, Config, ListenerTls, Mode, Path,
        Protocol, Unknown, UpstreamProtocol,
    },
    filter::{self, Chain},
    route::{HostPattern, Rule, Table},
};

pub(super) const INBOUND: &str = "inbound";
const OUTBOUND: &str = "outbound";
const INBOUND_HEALTH: &str = "inbound_health";
const OUTBOUND_HEALTH: &str = "outbound_health";
/// The route of what names no upstream, and where it goes.
const UNKNOWN: &str = "unknown";
pub(super) const ORIGINAL_DESTINATION: &str = "original_destination";

/// A configuration with all that it stands for.
pub(super) struct Expanded<'a> {
    pub config: Cow<'a, Config>,
    pub generated: Generated,
}

/// What of a configuration nobody wrote as it stands there.
#[derive(Default)]
pub(super) struct Generated {
    /// Of these listeners and routes so many were written; the others follow.
    listeners: usize,
    routes: usize,
    directions: Vec<Direction>,
    /// Where each route comes from.
    sources: Vec<Path>,
    /// Where each upstream comes from.
    upstreams: BTreeMap<String, Path>,
}

/// Filters that keep somebody out, or let only so much in.
pub(super) const GUARDS: [&str; 10] = [
    "api_key",
    "authz",
    "basic_auth",
    "concurrency_limit",
    "ext_auth",
    "introspection",
    "ip_rules",
    "jwt",
    "oidc",
    "rate_limit",
];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Direction::Inbound => INBOUND,
            Direction::Outbound => OUTBOUND,
        }
    }

    pub(super) fn place(self) -> Path {
        Path::root().key("sidecar").key(self.name())
    }
}

pub(super) fn expand(config: &Config) -> Expanded<'_> {
    let mut generated =
        Generated { listeners: config.listeners.len(), routes: config.routes.len(), ..Generated::default() };
    let Some(sidecar) = config.sidecar.as_ref().filter(|_| config.mode == Mode::Sidecar) else {
        return Expanded { config: Cow::Borrowed(config), generated };
    };
    let mut expanded = config.clone();
    if let Some(inbound) = &sidecar.inbound {
        generated.inbound(inbound, &mut expanded);
    }
    if let Some(outbound) = &sidecar.outbound {
        generated.outbound(outbound, config, &mut expanded);
    }
    Expanded { config: Cow::Owned(expanded), generated }
}

impl Generated {
    fn inbound(&mut self, inbound: &config::SidecarInbound, config: &mut Config) {
        // Without an identity there is nothing to show, which is told once.
        let ours = || config.identity.is_some().then(mesh_tls);
        let tls = inbound.tls.clone().or_else(ours);
        let listener = |name, address: &String| config::Listener {
            name: Some(name),
            address: address.clone(),
            tls: tls.clone(),
            original_destination: inbound.original_destination.clone(),
            limits: inbound.limits.clone(),
            filters: inbound.filters.clone(),
            routes: inbound.routes.clone(),
            ..config::Listener::default()
        };
        config.listeners.extend(named(INBOUND, &inbound.address, listener));
        self.directions.resize(config.listeners.len() - self.listeners, Direction::Inbound);
        if let Some(path) = &inbound.health {
            let name = free_name(INBOUND_HEALTH, config);
            self.route(healthy(name, path, Vec::new()), Direction::Inbound.place(), config);
        }
        let endpoints = inbound.app.iter().map(|app| config::Endpoint::at(app, 1));
        let is_captured = inbound.app.is_none() && inbound.original_destination.is_some();
        if inbound.app.is_none() && !is_captured {
            return;
        }
        let upstream = config::Upstream {
            endpoints: endpoints.collect(),
            original_destination: is_captured,
            protocol: inbound.protocol,
            // What nobody has looked at is not announced.
            health_check: inbound.health_check.clone().or_else(|| inbound.register.then(connects)),
            ..config::Upstream::default()
        };
        self.upstream(INBOUND, upstream, Direction::Inbound.place(), config);
        let route = config::Route {
            name: Some(INBOUND.into()),
            upstream: Some(INBOUND.into()),
            grpc_streams: inbound.grpc_streams,
            ..config::Route::default()
        };
        self.route(route, Direction::Inbound.place(), config);
    }

    /// The services are the upstreams of `written`.
    fn outbound(&mut self, outbound: &config::SidecarOutbound, written: &Config, config: &mut Config) {
        // Without an identity there is nothing to show to other sidecars.
        let unknown = match config.identity {
            Some(_) => Unknown::Mtls,
            None => Unknown::Forward,
        };
        let captured = outbound.original_destination.clone().map(|captured| {
            let unknown = captured.unknown.or(Some(unknown));
            config::OriginalDestination { unknown, ..captured }
        });
        let listener = |name, address: &String| config::Listener {
            name: Some(name),
            address: address.clone(),
            original_destination: captured.clone(),
            limits: outbound.limits.clone(),
            filters: outbound.filters.clone(),
            ..config::Listener::default()
        };
        config.listeners.extend(named(OUTBOUND, &outbound.address, listener));
        self.directions.resize(config.listeners.len() - self.listeners, Direction::Outbound);
        if let Some(path) = &outbound.health {
            // Other hosts may have the path themselves.
            let route = healthy(free_name(OUTBOUND_HEALTH, config), path, own_hosts(&outbound.address));
            self.route(route, Direction::Outbound.place().key("health"), config);
        }
        for (index, name) in outbound.services.iter().enumerate() {
            let at = Direction::Outbound.place().key("services").index(index);
            self.upstream(name, registered(name, written.identity.as_ref()), at, config);
        }
        let services: BTreeSet<&String> = written.upstreams.keys().chain(&outbound.services).collect();
        for name in services.into_iter().filter(|name| is_service(name)) {
            let source = match self.upstreams.get(name) {
                Some(place) => place.clone(),
                None => Path::root().key("upstreams").key(name),
            };
            let route = config::Route {
                name: Some(free_name(name, written)),
                matching: config::RouteMatch { hosts: vec![name.clone()], ..config::RouteMatch::default() },
                upstream: Some(name.clone()),
                grpc_streams: outbound.grpc_streams,
                ..config::Route::default()
            };
            self.route(route, source, config);
        }
        let unknown = captured.as_ref().and_then(|captured| captured.unknown);
        if matches!(unknown, Some(Unknown::Forward | Unknown::Mtls)) {
            let identity = config.identity.as_ref().filter(|_| unknown == Some(Unknown::Mtls));
            let upstream = config::Upstream {
                original_destination: true,
                protocol: UpstreamProtocol::Auto,
                tls: identity.map(|identity| mesh_peer(format!("spiffe://{}/*", identity.trust_domain))),
                ..config::Upstream::default()
            };
            self.upstream(ORIGINAL_DESTINATION, upstream, Direction::Outbound.place(), config);
            let route = config::Route {
                name: Some(free_name(UNKNOWN, written)),
                upstream: Some(ORIGINAL_DESTINATION.into()),
                grpc_streams: outbound.grpc_streams,
                ..config::Route::default()
            };
            self.route(route, Direction::Outbound.place().key("original_destination"), config);
        }
    }

    fn route(&mut self, route: config::Route, source: Path, config: &mut Config) {
        config.routes.push(route);
        self.sources.push(source);
    }

    /// One that the operator has given the same name stays: that it does is refused.
    fn upstream(&mut self, name: &str, upstream: config::Upstream, place: Path, config: &mut Config) {
        config.upstreams.entry(name.to_owned()).or_insert(upstream);
        self.upstreams.entry(name.to_owned()).or_insert(place);
    }

    pub(super) fn direction(&self, listener: usize) -> Option<Direction> {
        self.directions.get(listener.checked_sub(self.listeners)?).copied()
    }

    fn is_route(&self, index: usize) -> bool {
        index >= self.routes
    }

    pub(crate) fn listener_place(&self, index: usize) -> Path {
        let written = || Path::root().key("listeners").index(index);
        self.direction(index).map_or_else(written, Direction::place)
    }

    pub(crate) fn route_place(&self, index: usize) -> Path {
        let source = index.checked_sub(self.routes).and_then(|index| self.sources.get(index));
        source.cloned().unwrap_or_else(|| Path::root().key("routes").index(index))
    }

    /// `None` for an upstream that was written.
    pub(crate) fn upstream_place(&self, name: &str) -> Option<Path> {
        self.upstreams.get(name).cloned()
    }
}

impl Compiler<'_> {
    /// What is wrong with the section itself; the listeners, routes and upstreams it stands for are looked at as such.
    pub(super) fn sidecar(&mut self, written: &Config) {
        let at = Path::root().key("sidecar");
        let sidecar = match (written.mode, &written.sidecar) {
            (Mode::Gateway, None) => return,
            (Mode::Gateway, Some(_)) => {
                if !self.sources.is_doubtful(&Path::root().key("mode")) {
                    self.refuse_with_hint(&at, "does nothing in a gateway", "add `mode: sidecar`");
                }
                return;
            }
            (Mode::Sidecar, None) => {
                if !self.sources.is_doubtful(&at) {
                    let hint = "add `sidecar: {outbound: {address: 127.0.0.1:15001}}`, or `inbound`, or both";
                    let mode = Path::root().key("mode");
                    self.refuse_with_hint(&mode, "a sidecar has the section `sidecar`", hint);
                }
                return;
            }
            (Mode::Sidecar, Some(sidecar)) => sidecar,
        };
        if sidecar.inbound.is_none() && sidecar.outbound.is_none() && !self.sources.is_doubtful(&at) {
            self.refuse(&at, "a sidecar has `inbound`, `outbound` or both");
        }
        for name in self.generated.upstreams.clone().into_keys() {
            if written.upstreams.contains_key(&name) {
                let at = Path::root().key("upstreams").key(&name);
                let message = format!("the sidecar makes an upstream named `{name}` itself");
                self.refuse_with_hint(&at, message, "give this one another name");
            }
        }
        if let Some(inbound) = &sidecar.inbound {
            self.inbound(inbound);
        }
        if let Some(outbound) = &sidecar.outbound {
            self.outbound(outbound);
        }
    }

    fn inbound(&mut self, inbound: &config::SidecarInbound) {
        let at = Direction::Inbound.place();
        let leads_nowhere =
            inbound.app.is_none() && inbound.original_destination.is_none() && inbound.routes.is_none();
        if leads_nowhere && !self.sources.is_doubtful(&at) {
            let hint = "add `app: 127.0.0.1:8080`, or `original_destination: true` where iptables redirects";
            self.refuse_with_hint(&at, "where the application listens is not said", hint);
        }
        if let Some(app) = &inbound.app
            && app.parse::<SocketAddr>().is_err()
        {
            let hint = "the application is on this host: `app: 127.0.0.1:8080`";
            self.refuse_with_hint(&at.key("app"), format!("{app:?} is not `ip:port`"), hint);
        }
        self.health_path(inbound.health.as_deref(), &at);
        let is_identity_known = !self.sources.is_doubtful(&Path::root().key("identity"));
        if inbound.tls.is_none() && self.config.identity.is_none() && is_identity_known {
            let hint = "add `identity` at the top level";
            self.refuse_with_hint(
                &at,
                "its certificate is this sidecar's identity, of which there is none",
                hint,
            );
        }
        if let Some(allow) = &inbound.allow
            && allow.is_empty()
            && !self.sources.is_doubtful(&at.key("allow"))
        {
            self.refuse_with_hint(
                &at.key("allow"),
                "nobody would be let in",
                "name who may call, such as \"spiffe://mesh.local/orders\", or all: \"spiffe://mesh.local/*\"",
            );
        }
    }

    fn health_path(&mut self, path: Option<&str>, at: &Path) {
        let is_path = |path: &str| path.starts_with('/') && !path.contains(['?', '#', '{', '*']);
        if let Some(path) = path.filter(|path| !is_path(path)) {
            let message = format!("{path:?} is no path of its own");
            self.refuse_with_hint(&at.key("health"), message, "write one, such as `health: /health`");
        }
    }

    fn outbound(&mut self, outbound: &config::SidecarOutbound) {
        self.health_path(outbound.health.as_deref(), &Direction::Outbound.place());
        let is_open = |address: &&String| {
            listen_address(address).is_ok_and(|address| !address.ip().to_canonical().is_loopback())
        };
        if let Some(address) = outbound.address.0.iter().find(is_open) {
            let message = format!("whoever reaches {address} speaks as this sidecar");
            let hint = "listen on loopback, or see to it that only the application reaches it";
            let problem = self.sources.problem(&Direction::Outbound.place().key("address"), message);
            self.warnings.push(problem.hint(hint).named("sidecar"));
        }
    }

    /// What is said of redirected connections, wherever it stands.
    pub(super) fn original_destination(
        &mut self,
        settings: &config::OriginalDestination,
        listener: &config::Listener,
        at: &Path,
    ) {
        if listener.protocol != Protocol::Http {
            let hint = "remove it: what is not HTTP is passed on there by a listener for HTTP";
            self.refuse_with_hint(at, "only a listener for HTTP tells redirected connections apart", hint);
        }
        const LONGEST: config::HumanDuration = config::HumanDuration::from_secs(10);
        let timeout = at.key("detection_timeout");
        self.refuse_zero(&timeout, settings.detection_timeout);
        self.refuse_zero(&at.key("idle_timeout"), settings.idle_timeout);
        if settings.detection_timeout > LONGEST {
            let hint = "clients that wait for the server to speak first wait this long (try 100ms)";
            self.refuse_with_hint(&timeout, "is longer than 10s", hint);
        }
        if let Some(index) = settings.opaque_ports.iter().position(|port| *port == 0) {
            self.refuse(&at.key("opaque_ports").index(index), "0 is not a port");
        }
    }

    /// Filters see HTTP alone. Where the rest is passed on as it is, who is to be kept out just speaks something else.
    pub(super) fn guarded(
        &mut self,
        settings: &config::OriginalDestination,
        listener: &config::Listener,
        chain: &Chain,
        at: &Path,
    ) {
        let passes_on = settings.unknown != Some(Unknown::Refuse) && listener.tls.is_none();
        if let Some(guard) = chain.names().find(|name| passes_on && GUARDS.contains(name)) {
            let message = format!("what is not HTTP is passed on, and with it whatever gets by `{guard}`");
            self.refuse_with_hint(at, message, "add `unknown: refuse`, or `tls`, behind which all is HTTP");
        }
    }

    /// The filters of a listener; of a sidecar's inbound listener first of all who is let in.
    pub(super) fn listener_chain(
        &mut self,
        index: usize,
        listener: &config::Listener,
        name: &str,
        at: &Path,
    ) -> Chain {
        let owner = format!("listeners {name}");
        let written = self.chain(&listener.filters, &at.key("filters"), &owner);
        let sidecar = self.config.sidecar.as_ref();
        let inbound = sidecar.and_then(|sidecar| sidecar.inbound.as_ref());
        let Some(inbound) = inbound.filter(|_| self.generated.direction(index) == Some(Direction::Inbound))
        else {
            return written;
        };
        let Some(allow) = &inbound.allow else {
            let is_decided = written.names().any(|name| name == "authz");
            let keys = ["allow", "filters"];
            if !is_decided && !keys.iter().any(|key| self.sources.is_doubtful(&at.key(*key))) {
                let hint = "add `allow: [\"spiffe://mesh.local/orders\"]`, or an `authz` filter";
                self.refuse_with_hint(at, "who may call is not said", hint);
            }
            return written;
        };
        let mut chain = Chain::default();
        let live = self.live.within(&owner);
        match filter::let_in(allow, &at.key("allow"), &live) {
            Ok(authz) => chain.push("authz", authz),
            Err(invalid) => {
                invalid
                    .into_iter()
                    .for_each(|invalid| self.refuse_unless_doubtful(&invalid.path, invalid.message));
            }
        }
        chain.extend(&written);
        chain
    }

    /// The table of a listener that the sidecar made; `None` for one that was written.
    ///
    /// Inbound has the routes that it names, and the one to the application; outbound all others.
    pub(super) fn sidecar_table(&mut self, index: usize, rules: &[Rule]) -> Option<Arc<Table>> {
        let direction = self.generated.direction(index)?;
        let inbound = self.config.sidecar.as_ref().and_then(|sidecar| sidecar.inbound.as_ref());
        let names = inbound.and_then(|inbound| inbound.routes.clone()).unwrap_or_default();
        let named: BTreeSet<usize> = match direction {
            Direction::Inbound => self.ids(&names, &Direction::Inbound.place().key("routes")),
            Direction::Outbound => {
                names.iter().filter_map(|name| self.route_names.ids.get(name.as_str()).copied()).collect()
            }
        };
        let is_served = |rule: &&Rule| {
            let is_inbound = named.contains(&rule.id)
                || self.generated.is_route(rule.id)
                    && self.generated.route_place(rule.id) == Direction::Inbound.place();
            is_inbound == (direction == Direction::Inbound)
        };
        let mut served: Vec<Rule> = rules.iter().filter(is_served).cloned().collect();
        // A route that was written takes the place of one made for the same requests.
        loop {
            let shadowed = match Table::compile(served.clone()) {
                Ok(table) => return Some(Arc::new(table)),
                Err(shadowed) => shadowed,
            };
            let before = served.len();
            served.retain(|rule| {
                !self.generated.is_route(rule.id) || shadowed.iter().all(|shadow| shadow.rule != rule.id)
            });
            if served.len() == before {
                // Of those that were written, which is told of the table of them all.
                return Some(Arc::default());
            }
        }
    }

    /// The routes that were written: what a listener serves that names none.
    pub(super) fn written_rules(&self, rules: &[Rule]) -> Vec<Rule> {
        rules.iter().filter(|rule| !self.generated.is_route(rule.id)).cloned().collect()
    }
}

/// Answered where the listener serves: it does not listen before it is ready, nor while it drains.
fn healthy(name: String, path: &str, hosts: Vec<String>) -> config::Route {
    config::Route {
        name: Some(name),
        matching: config::RouteMatch {
            hosts,
            path: Some(config::PathMatch::Exact(path.to_owned())),
            methods: vec!["GET".to_owned()],
            ..config::RouteMatch::default()
        },
        respond: Some(Box::new(config::Respond {
            status: 200,
            body: "ready\n".to_owned(),
            headers: BTreeMap::from([("content-type".to_owned(), "text/plain".to_owned())]),
        })),
        ..config::Route::default()
    }
}

/// By which whoever is on this host asks for this sidecar, and for no service.
fn own_hosts(addresses: &config::Addresses) -> Vec<String> {
    let ips = addresses.0.iter().filter_map(|address| Some(listen_address(address).ok()?.ip()));
    let ips = ips.flat_map(|ip| match ip {
        ip if ip.is_unspecified() => vec!["127.0.0.1".to_owned(), "[::1]".to_owned()],
        std::net::IpAddr::V6(ip) => vec![format!("[{ip}]")],
        ip => vec![ip.to_string()],
    });
    let hosts: BTreeSet<String> = ips.chain(["localhost".to_owned()]).collect();
    hosts.into_iter().collect()
}

/// Our SVID is shown, and one of the mesh is asked for.
fn mesh_tls() -> ListenerTls {
    ListenerTls {
        certificates: vec![Certificate::Identity],
        acme: None,
        client_auth: ClientAuth {
            mode: ClientAuthMode::Require,
            trust: Some(ClientTrust::Spiffe),
            crl: None,
        },
        ..ListenerTls::default()
    }
}

/// Instances of a service, each of which has to be who the service's name says. Without an identity they cannot prove it, which
/// is told.
fn registered(service: &str, identity: Option<&config::Identity>) -> config::Upstream {
    let tls = identity.map(|identity| mesh_peer(id_of(service, &identity.trust_domain)));
    let origin = config::EndpointOrigin::Registry(config::RegistryEndpoint::of(service));
    config::Upstream { endpoints: vec![config::Endpoint::of(origin, 1)], tls, ..Default::default() }
}

/// Whoever has this SPIFFE ID, to whom ours is shown.
fn mesh_peer(id: String) -> config::UpstreamTls {
    config::UpstreamTls {
        verify: config::Verify { spiffe: config::ExpectedIds::Names(vec![id]), ..Default::default() },
        client_identity: true,
        ..Default::default()
    }
}

/// `cart.shop` is `/shop/cart`.
fn id_of(service: &str, trust_domain: &str) -> String {
    let path: Vec<&str> = service.rsplit('.').collect();
    format!("spiffe://{trust_domain}/{}", path.join("/"))
}

/// Whether a connection can be opened.
fn connects() -> config::HealthCheck {
    config::HealthCheck { tcp: Some(config::TcpProbe {}), ..Default::default() }
}

/// The first has the plain name, the others a number behind it.
fn named<'a>(
    name: &'a str,
    addresses: &'a config::Addresses,
    listener: impl Fn(String, &String) -> config::Listener + 'a,
) -> impl Iterator<Item = config::Listener> + 'a {
    addresses.0.iter().enumerate().map(move |(index, address)| match index {
        0 => listener(name.to_owned(), address),
        _ => listener(format!("{name}-{}", index + 1), address),
    })
}

/// Whether an upstream's name can be that of a host.
fn is_service(name: &str) -> bool {
    !name.starts_with('*') && HostPattern::parse(name).is_ok()
}

/// `name`, or `name#2` and so on where a route is called that already.
fn free_name(name: &str, config: &Config) -> String {
    let is_taken = |name: &str| config.routes.iter().any(|route| route.name.as_deref() == Some(name));
    let mut free = name.to_owned();
    let mut number = 2;
    while is_taken(&free) {
        free = format!("{name}#{number}");
        number += 1;
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::parse,
        filter::Live,
        route::Outcome,
        snapshot::{Plan, compile},
    };

    const OUTBOUND_ALONE: &str = "mode: sidecar\nsidecar: {outbound: {address: '127.0.0.1:15001'}}\n";

    fn plan(yaml: &str) -> Result<Plan, Vec<String>> {
        let loaded = parse(yaml, "g.yaml").unwrap();
        compile(loaded, &Live::offline())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    /// The upstream that a listener sends a request for `host` and `path` to.
    fn upstream<'p>(plan: &'p Plan, listener: &str, host: &str, path: &str) -> Option<&'p str> {
        let listener = plan.listeners.iter().find(|planned| &*planned.name == listener).unwrap();
        let request = crate::route::Request {
            host,
            path,
            query: None,
            method: &http::Method::GET,
            headers: &http::HeaderMap::new(),
        };
        match listener.table.find(&request) {
            Outcome::Found { id, .. } => plan.config.routes[id].upstream.as_deref(),
            _ => None,
        }
    }

    #[test]
    fn an_upstream_is_the_service_of_that_name() {
        let yaml = format!(
            "{OUTBOUND_ALONE}upstreams: {{payments: {{endpoints: ['a:1']}}, users.mesh: {{endpoints: ['a:1']}}, 'no host': \
             {{endpoints: ['a:1']}}}}\n"
        );
        let plan = plan(&yaml).unwrap();
        assert_eq!(upstream(&plan, OUTBOUND, "payments", "/"), Some("payments"));
        assert_eq!(upstream(&plan, OUTBOUND, "PAYMENTS", "/a"), Some("payments"));
        assert_eq!(upstream(&plan, OUTBOUND, "users.mesh", "/"), Some("users.mesh"));
        assert_eq!(upstream(&plan, OUTBOUND, "payments.default", "/"), None);
        let routes: Vec<&str> = plan.routes.iter().map(|route| &*route.name).collect();
        assert_eq!(routes, ["payments", "users.mesh"]);
    }

    #[test]
    fn routes_that_are_written_win_and_the_rest_stays() {
        let yaml = format!(
            "{OUTBOUND_ALONE}routes:\n- {{name: payments, match: {{hosts: [payments], path: /v2}}, upstream: b}}\n- {{match: {{hosts: \
             [users]}}, upstream: b}}\n- {{match: {{path: /any}}, upstream: b}}\nupstreams: {{payments: {{endpoints: ['a:1']}}, users: \
             {{endpoints: ['a:1']}}, b: {{endpoints: ['a:1']}}}}\n"
        );
        let plan = plan(&yaml).unwrap();
        assert_eq!(upstream(&plan, OUTBOUND, "payments", "/v2/a"), Some("b"));
        assert_eq!(upstream(&plan, OUTBOUND, "payments", "/any"), Some("payments"));
        assert_eq!(upstream(&plan, OUTBOUND, "users", "/"), Some("b"));
        assert_eq!(upstream(&plan, OUTBOUND, "elsewhere", "/any"), Some("b"));
        assert!(plan.routes.iter().any(|route| &*route.name == "payments#2"));
    }

    #[test]
    fn what_names_no_service_goes_where_it_was_meant_to_unless_refused() {
        for (told, expected) in [("true", Some(ORIGINAL_DESTINATION)), ("{unknown: refuse}", None)] {
            let yaml = format!(
                "mode: sidecar\nsidecar: {{outbound: {{address: '127.0.0.1:15001', original_destination: {told}}}}}\nupstreams: \
                 {{payments: {{endpoints: ['a:1']}}}}\n"
            );
            let plan = plan(&yaml).unwrap();
            assert_eq!(upstream(&plan, OUTBOUND, "elsewhere", "/"), expected);
            let captured = plan.listeners[0].original_destination.as_ref().unwrap();
            let unknown = if expected.is_some() { Unknown::Forward } else { Unknown::Refuse };
            assert_eq!(captured.unknown, unknown);
            assert_eq!(*captured.ours, ["127.0.0.1:15001".parse().unwrap()]);
        }
    }

    #[test]
    fn each_direction_has_its_own_routes() {
        let yaml = "mode: sidecar\nsidecar:\n  inbound: {address: ['127.0.0.1:1', '127.0.0.1:2'], app: '127.0.0.1:8080', \
                    routes: [old], filters: [{authz: {allow: [{peer: ['127.0.0.1']}]}}]}\n  outbound: {address: \
                    '127.0.0.1:3'}\nlisteners: [{address: '127.0.0.1:4'}]\nroutes: [{name: old, match: {path: /old}, upstream: \
                    legacy}]\nupstreams: {legacy: {endpoints: ['a:1']}}\n";
        let loaded = parse(yaml, "g.yaml").unwrap();
        let expanded = expand(loaded.config().unwrap());
        let names: Vec<_> =
            expanded.config.listeners.iter().map(|listener| listener.name.as_deref()).collect();
        assert_eq!(names, [None, Some("inbound"), Some("inbound-2"), Some("outbound")]);
        let problems = plan(yaml).err().unwrap();
        assert_eq!(
            problems,
            [
                "g.yaml:3:12: sidecar.inbound: its certificate is this sidecar's identity, of which there is none (add `identity` at the top level)"
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_told_where_it_stands() {
        for (yaml, expected) in [
            ("mode: sidecar\n", "g.yaml:1:7: mode: a sidecar has the section `sidecar`"),
            (
                "sidecar: {outbound: {address: ':1'}}\n",
                "g.yaml:1:10: sidecar: does nothing in a gateway (add `mode: sidecar`)",
            ),
            (
                "mode: sidecar\nsidecar: {}\n",
                "g.yaml:2:10: sidecar: a sidecar has `inbound`, `outbound` or both",
            ),
            (
                "mode: sidecar\nsidecar: {outbound: {address: 'here'}}\n",
                "g.yaml:2:31: sidecar.outbound.address: \"here\" is not an address to listen on",
            ),
            (
                "mode: sidecar\nsidecar: {outbound: {address: '127.0.0.1:1', limits: {header_size: 1B}}}\n",
                "g.yaml:2:68: sidecar.outbound.limits.header_size: header_size is from 1KiB",
            ),
            (
                "mode: sidecar\nsidecar: {outbound: {address: '127.0.0.1:1', filters: [{cors: {max_age: 5}}]}}\n",
                "g.yaml:2:63: sidecar.outbound.filters[0].cors",
            ),
            (
                "mode: sidecar\nsidecar: {inbound: {address: '127.0.0.1:1', allow: [x]}}\n",
                "g.yaml:2:20: sidecar.inbound: where the application listens is not said",
            ),
            (
                "mode: sidecar\nsidecar: {inbound: {address: '127.0.0.1:1', app: '127.0.0.1:2', allow: [orders]}}\n",
                "g.yaml:2:73: sidecar.inbound.allow[0]: \"orders\" is not a SPIFFE ID",
            ),
            (
                "mode: sidecar\nsidecar: {inbound: {address: '127.0.0.1:1', app: '127.0.0.1:2'}}\n",
                "g.yaml:2:20: sidecar.inbound: who may call is not said",
            ),
            (
                "mode: sidecar\nsidecar: {inbound: {address: '127.0.0.1:1', app: '127.0.0.1:2', allow: []}}\n",
                "g.yaml:2:72: sidecar.inbound.allow: nobody would be let in",
            ),
            (
                "mode: sidecar\nsidecar: {inbound: {address: '127.0.0.1:1', app: app, allow: ['spiffe://a/b']}}\n",
                "g.yaml:2:50: sidecar.inbound.app: \"app\" is not `ip:port`",
            ),
            (
                "mode: sidecar\nsidecar: {outbound: {address: '127.0.0.1:1', original_destination: {detection_timeout: 11s}}}\n",
                "g.yaml:2:88: sidecar.outbound.original_destination.detection_timeout: is longer than 10s",
            ),
            (
                "mode: sidecar\nsidecar: {outbound: {address: '127.0.0.1:1', original_destination: true}}\nupstreams: \
                 {original_destination: {endpoints: ['a:1']}}\n",
                "g.yaml:3:35: upstreams.original_destination: the sidecar makes an upstream named",
            ),
            (
                "mode: sidecar\nsidecar: {outbound: {address: '127.0.0.1:1', original_destination: true, filters: [{ip_rules: {deny: \
                 [10.0.0.1]}}]}}\n",
                "g.yaml:2:68: sidecar.outbound.original_destination: what is not HTTP is passed on, and with it whatever gets by `ip_rules`",
            ),
            (
                "listeners: [{address: ':1', protocol: tcp, upstream: a}]\nupstreams: {a: {original_destination: true}}\n",
                "g.yaml:1:54: listeners[0].upstream: upstream `a` is where a request's connection was meant to go",
            ),
            (
                "listeners: [{address: ':1'}]\nroutes: [{upstream: a}]\nupstreams: {a: {original_destination: true, endpoints: ['a:1']}}\n",
                "g.yaml:3:56: upstreams.a.endpoints: `endpoints` goes with no `original_destination`",
            ),
        ] {
            let problems = plan(yaml).err().unwrap_or_default();
            assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{yaml}{problems:#?}");
        }
    }
}
