//! The immutable compiled view of a configuration, and the one place it is published.
//!
//! A configuration becomes runtime in exactly one way: it is compiled into a [`Plan`], which is where every mistake is
//! found and nothing is touched; the plan becomes a [`Snapshot`] on top of the live state of the one before; and one
//! `ArcSwap` store publishes it. A request pins the snapshot once and sees one whole configuration.

mod arrivals;
mod compile;
mod diff;
mod rollout;
mod route;
mod sni;

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

pub use arrivals::Arrivals;
pub use compile::{Plan, PlannedIdentity, PlannedListener, PlannedRetry, compile};
pub use diff::{Changes, diff};
pub use rollout::{Command, Rollout, Side, Status};
pub use route::{Destination, Hedge, Mirror, Retry, Route, Split, Target};
pub use sni::{Passthrough, Unmatched};

use crate::{
    config::{self, Config, Problem},
    filter::{self, Chain},
    identity::Identity,
    observe::metrics::{ListenerMetrics, Metrics},
    route::{EncodedSlashes, Table},
    tls,
    upstream::{self, Upstream},
};

pub struct Snapshot {
    /// Equal for configurations that mean the same.
    pub hash: u64,
    pub config: Arc<Config>,
    /// The configuration with its defaults, secrets redacted.
    pub effective: serde_json::Value,
    /// By key.
    pub listeners: HashMap<String, Arc<Listener>>,
    pub routes: Arc<[Arc<Route>]>,
    pub upstreams: BTreeMap<String, Arc<Upstream>>,
    /// Who this gateway is; none without `identity`.
    pub identity: Option<Arc<Identity>>,
    pub trusted_proxies: Vec<IpNet>,
    pub encoded_slashes: EncodedSlashes,
}

/// A listener's settings; its socket lives in `accept`.
pub struct Listener {
    /// What makes it the same socket: its address, or its name where the port is 0.
    pub key: String,
    pub name: Arc<str>,
    pub address: String,
    pub limits: Limits,
    /// How fast connections may come.
    pub arrivals: Option<Arc<Arrivals>>,
    /// How connections begin, where not in plain text.
    pub tls: Option<Arc<tls::Terminator>>,
    /// Where connections are carried that are not HTTP.
    pub carried_to: Option<Arc<Destination>>,
    pub chain: Chain,
    pub table: Arc<Table>,
    /// What the table's ids stand for: its own snapshot's routes and no other's.
    pub routes: Arc<[Arc<Route>]>,
    pub metrics: Arc<ListenerMetrics>,
    /// How connections that iptables has redirected here are served.
    pub original_destination: Option<Captured>,
    /// The permissions of its file, where it is a Unix socket.
    pub mode: u32,
    /// Whose PROXY headers are believed, and begin every connection; `None` where there are none.
    pub introduced_by: Option<Arc<[IpNet]>>,
    /// Whose TLS goes on as it is.
    pub passthrough: Option<Arc<Passthrough<Arc<Destination>>>>,
}

/// How redirected connections are served, ready for use.
#[derive(Clone, Debug, PartialEq)]
pub struct Captured {
    pub detection_timeout: Duration,
    pub opaque_ports: Arc<[u16]>,
    /// Whether what is not HTTP goes where it was meant to go.
    pub forwards: bool,
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
            forwards: settings.unknown == config::Unknown::Forward,
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
    pub handshake_timeout: Duration,
    pub header_size: usize,
    pub header_timeout: Duration,
    pub body_size: u64,
    pub body_timeout: Duration,
    pub write_timeout: Duration,
    pub idle_timeout: Duration,
    /// Of what is carried without being looked into, beside HTTP as well.
    pub carried_idle_timeout: Duration,
    pub upgraded_idle_timeout: Duration,
    pub ping_interval: Option<Duration>,
    pub requests_per_connection: u32,
    pub streams_per_connection: u32,
}

impl Limits {
    pub fn of(limits: &config::Limits, protocol: config::Protocol) -> Limits {
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
            handshake_timeout: limits.handshake_timeout.into(),
            header_size: limits.header_size.bytes() as usize,
            header_timeout: limits.header_timeout.into(),
            body_size: limits.body_size.bytes(),
            body_timeout: limits.body_timeout.into(),
            write_timeout: limits.write_timeout.into(),
            idle_timeout: limits.idle_timeout.map_or(usual_idle_timeout, Into::into),
            carried_idle_timeout,
            upgraded_idle_timeout: limits.upgraded_idle_timeout.into(),
            ping_interval: limits.ping_interval.map(Duration::from),
            requests_per_connection: limits.requests_per_connection.get(),
            streams_per_connection: limits.streams_per_connection.get(),
        }
    }
}

/// What snapshots are built on and what outlives them.
pub struct Live {
    pub upstreams: upstream::Live,
    pub filters: filter::Live,
    pub metrics: Arc<Metrics>,
    /// Where identities are kept current.
    pub runtime: Handle,
}

impl Snapshot {
    /// Bring a plan to life. Whatever has the same name in `previous` keeps its live state.
    ///
    /// # Errors
    ///
    /// None that [`compile()`] would not have found; it builds the same upstreams without their background tasks.
    pub fn build(plan: Plan, live: &Live, previous: Option<&Snapshot>) -> Result<Snapshot, Vec<Problem>> {
        let identity = plan.identity.map(|planned| {
            let before = previous.and_then(|previous| previous.identity.as_ref());
            match before.filter(|before| before.is_for(&planned.settings)) {
                Some(before) => before.clone(),
                None => {
                    let PlannedIdentity { settings, reading } = planned;
                    Arc::new(Identity::start(settings, reading, &live.runtime, &live.metrics))
                }
            }
        });
        let of_upstreams = live.upstreams.with_identity(identity.clone());
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
        let mut building = Building { upstreams: &upstreams, metrics: &live.metrics, now: Instant::now() };
        let routes = plan.routes.into_iter().zip(&plan.config.routes).map(|(planned, config)| {
            let before = before.get(&*planned.name).copied();
            Arc::new(building.route(planned, config, before))
        });
        let routes: Arc<[Arc<Route>]> = routes.collect();
        let mut listeners = HashMap::new();
        for listener in plan.listeners {
            let metrics = live.metrics.listener(&listener.name);
            let before = previous.and_then(|previous| previous.listeners.get(&listener.key));
            let arrivals =
                Arrivals::under(&listener.limits, before.and_then(|before| before.arrivals.as_ref()));
            let tls_before = before.and_then(|before| before.tls.clone());
            let tls = listener.tls.map(|tls| tls.build(tls_before, identity.clone(), live)).transpose()?;
            let carried_to = listener.upstream.and_then(|to| building.destination(&listener.name, &to));
            let passthrough = listener
                .passthrough
                .map(|planned| planned.lead(|to| building.destination(&listener.name, to).map(Arc::new)));
            let listener = Listener {
                key: listener.key,
                name: listener.name,
                address: listener.address,
                limits: listener.limits,
                arrivals,
                tls,
                carried_to: carried_to.map(Arc::new),
                chain: listener.chain,
                table: listener.table,
                routes: routes.clone(),
                metrics,
                original_destination: listener.original_destination,
                mode: listener.mode,
                introduced_by: listener.introduced_by,
                passthrough: passthrough.map(Arc::new),
            };
            listeners.insert(listener.key.clone(), Arc::new(listener));
        }
        Ok(Snapshot {
            hash: plan.hash,
            listeners,
            routes,
            upstreams,
            identity,
            trusted_proxies: plan.config.trusted_proxies.clone(),
            encoded_slashes: match plan.config.paths.encoded_slashes {
                config::EncodedSlashes::Keep => EncodedSlashes::Keep,
                config::EncodedSlashes::Refuse => EncodedSlashes::Refuse,
            },
            config: plan.config,
            effective: plan.effective,
        })
    }
}

/// Where the snapshot in force is found. Cheap to clone.
#[derive(Clone)]
pub struct Current(Arc<ArcSwap<Snapshot>>);

impl Current {
    pub fn new(first: Snapshot) -> Current {
        Current(Arc::new(ArcSwap::from_pointee(first)))
    }

    /// The snapshot in force, pinned.
    pub fn pin(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Put `next` in force and return what it replaces.
    pub fn publish(&self, next: Arc<Snapshot>) -> Arc<Snapshot> {
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
            limits: Limits::of(&config::Limits::default(), config::Protocol::Http),
            arrivals: None,
            tls: None,
            carried_to: None,
            chain: Chain::default(),
            table: Arc::default(),
            routes: Arc::default(),
            metrics: metrics.listener("test"),
            original_destination: None,
            mode: 0o660,
            introduced_by: None,
            passthrough: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_through_beside_http_may_be_silent_for_longer_unless_it_is_said() {
        let usual = Limits::of(&config::Limits::default(), config::Protocol::Http);
        let minutes = |duration: Duration| duration.as_secs() / 60;
        assert_eq!((minutes(usual.idle_timeout), minutes(usual.carried_idle_timeout)), (1, 60));
        let said = Duration::from_secs(300).into();
        let said = config::Limits { idle_timeout: Some(said), ..config::Limits::default() };
        let said = Limits::of(&said, config::Protocol::Http);
        assert_eq!((minutes(said.idle_timeout), minutes(said.carried_idle_timeout)), (5, 5));
    }
}
