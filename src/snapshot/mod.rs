//! The immutable compiled view of a configuration, and the one place it is published.
//!
//! A configuration becomes runtime in exactly one way: it is compiled into a [`Plan`], which is where every mistake is
//! found and nothing is touched; the plan becomes a [`Snapshot`] on top of the live state of the one before; and one
//! `ArcSwap` store publishes it. A request pins the snapshot once and sees one whole configuration.

mod access_log;
mod compile;
mod connection_rate;
pub(crate) mod control;
mod diff;
pub mod explain;
mod failover;
mod places;
mod rollout;
mod route;
mod sni;
mod states;
mod tracing;
mod tunnels;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use self::route::Building;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::runtime::Handle;

pub use access_log::OwnLines;
pub(crate) use compile::KeptTerminator;
pub use compile::{
    Origins, Plan, PlannedControl, PlannedExport, PlannedExports, PlannedIdentity, PlannedListener,
    PlannedRetry, compile,
};
pub use connection_rate::{ConnectionRate, KeptConnectionRate};
pub use diff::{Changes, diff, diff_plan};
pub use places::Places;
pub use rollout::{Command, NotOrdered, Rollout, Side, Status, word as phase_word};
pub use route::{Destination, Hedge, Mirror, Retry, Route, Split, Target};
pub use sni::{Passthrough, Unmatched};
pub use tracing::{RouteTrace, Tracing};
pub use tunnels::{Entry, Inward, Outward, Tunnels, Turned};

use crate::{
    acme::{Keeper, Settings as AcmeSettings},
    config::{self, Config, Problem},
    filter::{self, Chain, ErrorPages},
    identity::{self, Identity, Issuer},
    kept::Kept,
    observe::metrics::{ListenerMetrics, Metrics, RouteMetrics},
    policy::{address_block::Ipv6Prefix, pace::LeastRate},
    route::Table,
    upkeep::{Settings as UpkeepSettings, Upkeep},
    upstream::{self, Upstream},
};

pub struct Snapshot {
    /// Equal for configurations that mean the same.
    pub hash: u64,
    pub config: Arc<Config>,
    pub effective: config::Effective,
    /// By key.
    pub listeners: HashMap<String, Arc<Listener>>,
    pub routes: Arc<[Arc<Route>]>,
    pub upstreams: BTreeMap<String, Arc<Upstream>>,
    /// Who this gateway is; none without `identity`.
    pub identity: Option<Kept<identity::Settings, Identity>>,
    /// Orders certificates; none where none are wanted.
    pub(crate) acme: Option<Arc<Keeper>>,
    /// What it is to order once this is in force.
    wants: (Arc<Keeper>, Arc<AcmeSettings>),
    /// Which files are kept fresh once this is in force.
    keeps: (Arc<Upkeep>, UpkeepSettings),
    /// The control plane that is served here, if one is.
    pub control: Option<control::Control>,
    pub trusted_proxies: Vec<IpNet>,
    /// Without it contexts of traces pass untouched.
    pub tracing: Option<Tracing>,
    /// What goes to collectors.
    pub exports: PlannedExports,
    /// None where the access log says what it always does.
    pub access: Option<Arc<OwnLines>>,
    /// Of all listeners and routes that have none themselves.
    pub error_pages: Option<Arc<ErrorPages>>,
    /// What of the configuration stands beside the files.
    pub additions: config::Additions,
    /// What of that a control plane has given.
    pub received: Origins,
    /// Where in the files each object stands.
    pub places: Places,
    /// What its filters were built with, plugins above all.
    pub(crate) filters: filter::Live,
}

/// A listener's settings; its socket lives in `accept`.
pub struct Listener {
    /// What makes it the same socket: its address, or its name where the port is 0.
    pub key: String,
    pub name: Arc<str>,
    pub address: String,
    pub limits: Limits,
    /// Of requests to routes that do not say it themselves.
    pub encoded_slashes: config::EncodedSlashes,
    /// Who says that nothing more comes may wait for an answer.
    pub half_close: bool,
    /// A template asks how clients begin TLS.
    pub fingerprints: bool,
    pub error_pages: Option<Arc<ErrorPages>>,
    /// How fast connections may come.
    pub arrivals: Option<KeptConnectionRate>,
    /// How connections begin, where not in plain text.
    pub tls: Option<KeptTerminator>,
    /// Where connections are carried that are not HTTP.
    pub carried_to: Option<Arc<Destination>>,
    pub chain: Chain,
    pub table: Arc<Table>,
    /// What the table's ids stand for: its own snapshot's routes and no other's.
    pub routes: Arc<[Arc<Route>]>,
    pub metrics: Arc<ListenerMetrics>,
    /// Of requests that no route took, of all listeners together.
    pub unrouted: Arc<RouteMetrics>,
    /// How connections that iptables has redirected here are served.
    pub original_destination: Option<Captured>,
    /// The permissions of its file, where it is a Unix socket.
    pub mode: u32,
    /// Whose PROXY headers are believed, and begin every connection; `None` where there are none.
    pub introduced_by: Option<Arc<[IpNet]>>,
    /// Whose TLS goes on as it is.
    pub passthrough: Option<Arc<Passthrough<Arc<Destination>>>>,
    /// What it carries between sidecars.
    pub tunnels: Option<Arc<Tunnels<Arc<Destination>>>>,
}

impl Listener {
    /// Whether a path with `%2F` or `%5C` in it may be asked for here, of that route.
    pub fn keeps_encoded_slashes(&self, route: Option<&Route>) -> bool {
        let of_route = route.and_then(|route| route.encoded_slashes);
        of_route.unwrap_or(self.encoded_slashes) == config::EncodedSlashes::Keep
    }
}

/// How redirected connections are served, ready for use.
#[derive(Clone, Debug, PartialEq)]
pub struct Captured {
    pub detection_timeout: Duration,
    pub opaque_ports: Arc<[u16]>,
    /// What becomes of what is not HTTP, where no sidecar is known to be.
    pub unknown: config::Unknown,
    /// What is passed on as it is may be silent for this long.
    pub idle_timeout: Duration,
    /// Where this gateway listens: what was meant to go there would come back.
    pub ours: Arc<[SocketAddr]>,
}

impl Captured {
    fn new(settings: &config::OriginalDestination, ours: Arc<[SocketAddr]>) -> Captured {
        Captured {
            detection_timeout: settings.detection_timeout.into(),
            opaque_ports: settings.opaque_ports.as_slice().into(),
            unknown: settings.unknown.unwrap_or(config::Unknown::Forward),
            idle_timeout: settings.idle_timeout.into(),
            ours,
        }
    }
}

/// A listener's limits, ready for use.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_ip: Option<usize>,
    pub connection_rate: Option<config::Rate>,
    pub connection_rate_per_ip: Option<config::Rate>,
    pub ipv6_prefix: Ipv6Prefix,
    pub handshake_timeout: Duration,
    pub header_size: usize,
    pub header_timeout: Duration,
    pub body_size: u64,
    /// Bytes of each body.
    pub filter_buffer: usize,
    pub body_timeout: Duration,
    pub write_timeout: Duration,
    /// At which a client sends a body, and at which it reads one.
    pub least_rates: LeastRates,
    pub idle_timeout: Duration,
    /// Of what is carried without being looked into, beside HTTP as well.
    pub carried_idle_timeout: Duration,
    pub upgraded_idle_timeout: Duration,
    pub ping_interval: Option<Duration>,
    pub requests_per_connection: u32,
    pub streams_per_connection: u32,
    /// What an HTTP/2 client may have under way of one body, and of all.
    pub stream_window: u32,
    pub connection_window: u32,
}

/// A client that is slower is given up, in either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LeastRates {
    pub sending: Option<LeastRate>,
    pub reading: Option<LeastRate>,
}

impl LeastRates {
    /// No pause is longer than the timeouts allow, so more credit than that would never be spent on one.
    fn of(limits: &config::Limits) -> LeastRates {
        let rate = |pause: config::HumanDuration| {
            let grace = limits.min_rate_grace.into();
            let bytes_per_second = limits.min_rate.bytes_per_second()?;
            Some(LeastRate { bytes_per_second, grace, most: Duration::from(pause).max(grace) })
        };
        LeastRates { sending: rate(limits.body_timeout), reading: rate(limits.write_timeout) }
    }
}

impl Limits {
    /// Of a request's body, where nothing is said of it.
    pub const BODY_SIZE: u64 = 10 * 1024 * 1024;
    /// A sidecar is no border: how much an application takes is for itself to say.
    pub const ENDLESS: u64 = u64::MAX;

    pub fn of(limits: &config::Limits, protocol: config::Protocol, usual_body_size: u64) -> Limits {
        // Silence is no sign of the end of what is carried: an hour is what other proxies give it.
        let carried_idle_timeout = limits.idle_timeout.map_or(Duration::from_secs(3600), Into::into);
        let usual_idle_timeout = match protocol {
            config::Protocol::Http => Duration::from_secs(60),
            config::Protocol::Tcp | config::Protocol::TlsPassthrough => carried_idle_timeout,
        };
        Limits {
            connections: limits.connections.get(),
            connections_per_ip: limits.connections_per_ip.map(|limit| limit.get()),
            connection_rate: limits.connection_rate,
            connection_rate_per_ip: limits.connection_rate_per_ip,
            ipv6_prefix: Ipv6Prefix::new(limits.ipv6_prefix).unwrap_or_default(),
            handshake_timeout: limits.handshake_timeout.into(),
            header_size: limits.header_size.bytes() as usize,
            header_timeout: limits.header_timeout.into(),
            body_size: limits.body_size.map_or(usual_body_size, config::ByteSize::bytes),
            filter_buffer: usize::try_from(limits.filter_buffer.bytes()).unwrap_or(usize::MAX),
            body_timeout: limits.body_timeout.into(),
            write_timeout: limits.write_timeout.into(),
            least_rates: LeastRates::of(limits),
            idle_timeout: limits.idle_timeout.map_or(usual_idle_timeout, Into::into),
            carried_idle_timeout,
            upgraded_idle_timeout: limits.upgraded_idle_timeout.into(),
            ping_interval: limits.ping_interval.map(Duration::from),
            requests_per_connection: limits.requests_per_connection.get(),
            streams_per_connection: limits.streams_per_connection.get(),
            stream_window: window(limits.stream_window),
            connection_window: window(limits.connection_window),
        }
    }
}

/// A window that is larger than there are is refused elsewhere.
fn window(size: config::ByteSize) -> u32 {
    u32::try_from(size.bytes()).map_or(config::MOST_WINDOW, |size| size.min(config::MOST_WINDOW))
}

/// What snapshots are built on and what outlives them. Cheap to clone.
#[derive(Clone)]
pub struct Live {
    pub upstreams: upstream::Live,
    pub filters: filter::Live,
    pub metrics: Arc<Metrics>,
    /// Where identities are kept current.
    pub runtime: Handle,
    /// Signs for an identity that comes from a control plane.
    pub issuer: Option<Arc<dyn Issuer>>,
    /// Orders certificates.
    pub(crate) acme: Arc<Keeper>,
    /// Keeps files fresh that come from elsewhere.
    pub(crate) upkeep: Arc<Upkeep>,
}

impl Snapshot {
    /// Bring a plan to life. Whatever has the same name in `previous` keeps its live state.
    ///
    /// # Errors
    ///
    /// None that [`compile()`] would not have found; it builds the same upstreams without their background tasks.
    pub fn build(plan: Plan, live: &Live, previous: Option<&Snapshot>) -> Result<Snapshot, Vec<Problem>> {
        live.metrics.configure(plan.metrics);
        let identity = plan.identity.map(|planned| {
            let PlannedIdentity { settings, reading } = planned;
            let before = previous.and_then(|previous| previous.identity.as_ref());
            Kept::keep_or(before, settings, |settings| {
                let issuer = live.issuer.clone();
                Identity::start(settings.clone(), reading, &live.runtime, &live.metrics, issuer)
            })
        });
        let shown = identity.as_ref().map(|identity| identity.shared().clone());
        let of_upstreams = live
            .upstreams
            .with_identity(shown.clone())
            .in_zone(plan.config.zone.as_deref())
            .with_state_dir(plan.config.state_dir.as_deref());
        let mut upstreams = BTreeMap::new();
        for (name, config) in &plan.config.upstreams {
            let before = previous.and_then(|previous| previous.upstreams.get(name));
            let upstream = Upstream::new(name, config, &of_upstreams, before.map(Arc::as_ref))
                .map_err(|refusals| refusals.into_iter().map(|r| Problem::new(r.why)).collect::<Vec<_>>())?;
            upstreams.insert(name.clone(), upstream);
        }
        let before: HashMap<&str, &Route> = match previous {
            Some(previous) => previous.routes.iter().map(|route| (&*route.name, &**route)).collect(),
            None => HashMap::new(),
        };
        let traces = plan.tracing.is_some();
        let mut building =
            Building { upstreams: &upstreams, metrics: &live.metrics, traces, now: Instant::now() };
        let routes = plan.routes.into_iter().zip(&plan.config.routes).map(|(planned, config)| {
            let before = before.get(&*planned.name).copied();
            Arc::new(building.route(planned, config, before))
        });
        let routes: Arc<[Arc<Route>]> = routes.collect();
        let mut listeners = HashMap::new();
        for listener in plan.listeners {
            let metrics = live.metrics.listener(&listener.name);
            metrics.set_limit(listener.limits.connections);
            let before = previous.and_then(|previous| previous.listeners.get(&listener.key));
            let arrivals =
                ConnectionRate::under(&listener.limits, before.and_then(|before| before.arrivals.as_ref()));
            let tls_before = before.and_then(|before| before.tls.as_ref());
            let tls = listener.tls.map(|tls| tls.build(tls_before, shown.clone(), live)).transpose()?;
            let carried_to = listener.upstream.and_then(|to| building.destination(&listener.name, &to));
            let passthrough = listener
                .passthrough
                .map(|planned| planned.lead(|to| building.destination(&listener.name, to).map(Arc::new)));
            let tunnels = listener.tunnels.and_then(|planned| {
                planned.lead(|to| building.destination(&listener.name, to).map(Arc::new)).map(Arc::new)
            });
            let listener = Listener {
                key: listener.key,
                name: listener.name,
                address: listener.address,
                limits: listener.limits,
                encoded_slashes: listener.encoded_slashes,
                half_close: listener.half_close,
                fingerprints: plan.fingerprints,
                error_pages: listener.error_pages,
                arrivals,
                tls,
                carried_to: carried_to.map(Arc::new),
                chain: listener.chain,
                table: listener.table,
                routes: routes.clone(),
                metrics,
                unrouted: live.metrics.route("", None),
                original_destination: listener.original_destination,
                mode: listener.mode,
                introduced_by: listener.introduced_by,
                passthrough: passthrough.map(Arc::new),
                tunnels,
            };
            listeners.insert(listener.key.clone(), Arc::new(listener));
        }
        let control = match plan.control {
            Some(PlannedControl { rules, tls }) => {
                let before = previous.and_then(|previous| previous.control.as_ref()?.tls.as_ref());
                let tls = tls.map(|tls| tls.build(before, shown.clone(), live)).transpose()?;
                Some(control::Control { rules, tls })
            }
            None => None,
        };
        let orders = !plan.acme.names.is_empty();
        Ok(Snapshot {
            hash: plan.hash,
            acme: orders.then(|| live.acme.clone()),
            wants: (live.acme.clone(), Arc::new(plan.acme)),
            keeps: (live.upkeep.clone(), plan.upkeep),
            listeners,
            routes,
            upstreams,
            identity,
            control,
            trusted_proxies: plan.config.trusted_proxies.clone(),
            tracing: plan.tracing.map(|planned| {
                let before = previous.and_then(|previous| previous.tracing.as_ref());
                Tracing::new(planned, &live.metrics, before, Instant::now())
            }),
            exports: plan.exports,
            access: plan.access,
            error_pages: plan.error_pages,
            additions: plan.additions,
            received: plan.received,
            places: plan.places,
            filters: plan.filters,
            config: plan.config,
            effective: plan.effective,
        })
    }
}

impl Snapshot {
    /// Also where it wants none: what was ordered before goes.
    fn want_certificates(&self) {
        let (keeper, settings) = &self.wants;
        keeper.want(settings);
        let (upkeep, settings) = &self.keeps;
        upkeep.want(settings);
    }

    /// What begins TLS, each with the name of what listens.
    pub(crate) fn terminators(&self) -> impl Iterator<Item = (&str, &KeptTerminator)> {
        let listeners =
            self.listeners.values().filter_map(|listener| Some((&*listener.name, listener.tls.as_ref()?)));
        let control = self.control.as_ref().and_then(|control| Some(("control", control.tls.as_ref()?)));
        listeners.chain(control)
    }
}

/// Where the snapshot in force is found. Cheap to clone.
#[derive(Clone)]
pub struct Current(Arc<ArcSwap<Snapshot>>);

impl Current {
    pub fn new(first: Snapshot) -> Current {
        first.want_certificates();
        Current(Arc::new(ArcSwap::from_pointee(first)))
    }

    /// The snapshot in force, pinned.
    pub fn pin(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Put `next` in force and return what it replaces.
    pub fn publish(&self, next: Arc<Snapshot>) -> Arc<Snapshot> {
        next.want_certificates();
        self.0.swap(next)
    }
}

#[cfg(test)]
impl Listener {
    pub fn for_test() -> Arc<Listener> {
        let metrics = Metrics::new("test");
        Arc::new(Listener {
            key: "test".into(),
            name: "test".into(),
            address: "127.0.0.1:0".into(),
            limits: Limits::of(&config::Limits::default(), config::Protocol::Http, Limits::BODY_SIZE),
            encoded_slashes: config::EncodedSlashes::default(),
            half_close: false,
            fingerprints: false,
            error_pages: None,
            arrivals: None,
            tls: None,
            carried_to: None,
            chain: Chain::default(),
            table: Arc::default(),
            routes: Arc::default(),
            metrics: metrics.listener("test"),
            unrouted: metrics.route("", None),
            original_destination: None,
            mode: 0o660,
            introduced_by: None,
            passthrough: None,
            tunnels: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::SystemResolver;

    const YAML: &str = "
identity: {trust_domain: mesh.local, workload_api: 'unix:///nonexistent/agent.sock'}
listeners: [{address: '127.0.0.1:0', name: main, tls: {certificates: [identity], min_version: '1.2'}}]
upstreams: {one: {endpoints: ['10.0.0.1:80']}, two: {endpoints: ['10.0.0.2:80']}}
routes:
  - name: all
    split: {by: round_robin, to: [{upstream: one, weight: 1}, {upstream: two, weight: 2}]}
    retry: {attempts: 3, budget: {ratio: 20%, min_per_second: 10}}
    hedge: {after: 1s, max: 1, budget: 5%}
    mirror: {upstream: two, ratio: 50%, max_requests: 10}
";

    fn live() -> Live {
        let metrics = Arc::new(Metrics::new("test"));
        Live {
            upstreams: upstream::Live::offline(Arc::new(SystemResolver::new()), Arc::new(())),
            filters: filter::Live::offline(),
            acme: Keeper::new(Arc::new(SystemResolver::new()), metrics.clone(), Handle::current()),
            upkeep: Upkeep::new(Arc::new(SystemResolver::new()), metrics.clone(), Handle::current()),
            metrics,
            runtime: Handle::current(),
            issuer: None,
        }
    }

    fn snapshot(yaml: &str, live: &Live, previous: Option<&Snapshot>) -> Snapshot {
        let loaded = config::parse(yaml, "g.yaml").unwrap_or_else(|problems| panic!("{yaml}\n{problems}"));
        let plan = compile(loaded, &live.filters).unwrap_or_else(|problems| panic!("{yaml}\n{problems}"));
        Snapshot::build(plan, live, previous).unwrap()
    }

    fn split(snapshot: &Snapshot) -> &Split {
        let Target::Split(split) = &snapshot.routes[0].target else { panic!("no split") };
        split
    }

    fn is_same<S, T>(one: Option<&Kept<S, T>>, other: Option<&Kept<S, T>>) -> bool {
        one.zip(other).is_some_and(|(one, other)| Arc::ptr_eq(one.shared(), other.shared()))
    }

    /// What of `old` does not go on.
    fn made_anew(old: &Snapshot, new: &Snapshot) -> Vec<&'static str> {
        let listener = |of: &Snapshot| of.listeners.values().next().unwrap().clone();
        let (was, is) = (&old.routes[0], &new.routes[0]);
        let rule = |route: &Route| route.hedge.as_ref().map(|hedge| hedge.rule.clone());
        let room = |route: &Route| route.mirrors.first().map(|mirror| mirror.room.clone());
        let parts = [
            ("identity", is_same(old.identity.as_ref(), new.identity.as_ref())),
            ("tls", is_same(listener(old).tls.as_ref(), listener(new).tls.as_ref())),
            ("round robin", is_same(Some(&split(old).smooth), Some(&split(new).smooth))),
            ("budget", is_same(Some(&was.retry.budget), Some(&is.retry.budget))),
            ("hedge", is_same(rule(was).as_ref(), rule(is).as_ref())),
            ("mirror", is_same(room(was).as_ref(), room(is).as_ref())),
        ];
        parts.into_iter().filter(|(_, is_same)| !is_same).map(|(part, _)| part).collect()
    }

    #[tokio::test]
    async fn a_reload_makes_anew_what_a_changed_setting_belongs_to_and_keeps_the_rest() {
        let live = live();
        let old = snapshot(YAML, &live, None);
        assert_eq!(made_anew(&old, &snapshot(YAML, &live, Some(&old))), [""; 0]);
        for (was, is, expected) in [
            ("trust_domain: mesh.local", "trust_domain: other.org", &["identity", "tls"][..]),
            ("min_version: '1.2'", "min_version: '1.3'", &["tls"]),
            ("weight: 2", "weight: 3", &["round robin"]),
            ("by: round_robin", "by: random", &[]),
            ("ratio: 20%", "ratio: 30%", &["budget"]),
            ("min_per_second: 10", "min_per_second: 11", &["budget"]),
            ("attempts: 3", "attempts: 4", &[]),
            ("after: 1s", "after: 2s", &["hedge"]),
            ("max: 1", "max: 2", &["hedge"]),
            ("budget: 5%", "budget: 6%", &["hedge"]),
            ("max_requests: 10", "max_requests: 11", &["mirror"]),
            ("ratio: 50%", "ratio: 60%", &[]),
        ] {
            assert!(YAML.contains(was), "{was}");
            let new = snapshot(&YAML.replace(was, is), &live, Some(&old));
            assert_eq!(made_anew(&old, &new), expected, "{is}");
        }
    }

    #[tokio::test]
    async fn a_canary_that_goes_on_keeps_its_place_in_round_robin() {
        let live = live();
        let yaml = |every: &str| {
            let canary = format!("canary: {{stable: one, candidate: two, every: {every}, by: round_robin}}");
            YAML.lines()
                .map(|line| match line.contains("split:") {
                    true => format!("    {canary}\n"),
                    false => format!("{line}\n"),
                })
                .collect::<String>()
        };
        let old = snapshot(&yaml("5m"), &live, None);
        for (every, goes_on) in [("5m", true), ("6m", false)] {
            let new = snapshot(&yaml(every), &live, Some(&old));
            let same = is_same(split(&old).rollout.as_ref(), split(&new).rollout.as_ref());
            assert_eq!((same, made_anew(&old, &new).is_empty()), (goes_on, goes_on), "{every}");
        }
    }

    #[test]
    fn what_passes_through_beside_http_may_be_silent_for_longer_unless_it_is_said() {
        let usual = Limits::of(&config::Limits::default(), config::Protocol::Http, Limits::BODY_SIZE);
        let minutes = |duration: Duration| duration.as_secs() / 60;
        assert_eq!((minutes(usual.idle_timeout), minutes(usual.carried_idle_timeout)), (1, 60));
        let said = Duration::from_secs(300).into();
        let said = config::Limits { idle_timeout: Some(said), ..config::Limits::default() };
        let said = Limits::of(&said, config::Protocol::Http, Limits::BODY_SIZE);
        assert_eq!((minutes(said.idle_timeout), minutes(said.carried_idle_timeout)), (5, 5));
    }
}
