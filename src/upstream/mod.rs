//! Named pools of endpoints: who can be sent a request, and who is next. Live state (health, requests in flight,
//! response times) survives a reload; endpoints come and go without one.
//!
//! An [`Upstream`] is one name in one snapshot: immutable settings on a live pool. A pick reads the pool's table
//! through one `ArcSwap` and asks the balancer in `policy`; it allocates nothing. Background tasks, one for each host
//! name and one for health checks, replace the table or flip an endpoint's atomic state.
//!
//! What comes from pingora-load-balancing: probes implement its `HealthCheck` (TCP is its own). Its Ketama ring is not used:
//! see `policy::rendezvous`. Sources have a trait of our own, and a table of kinds (`source`): its `ServiceDiscovery` answers health as a map by the hash of each backend, and what else a registry
//! knows only in an `ext` that nothing compares. Its `Backends` and `LoadBalancer`, which tie these together, are not
//! used either, because what we promise would have to be kept a second time beside them:
//!
//! - A new backend is healthy until probed (`Health::default`, not public); ours is not picked before its first probe,
//!   which would mean a second state machine behind `set_enable`.
//! - A registry takes one health check for life (`OnceLock`), so a changed check loses all state at a reload; and
//!   health belongs to address *and* weight, so a changed weight does as well.
//! - `run_health_check` probes one by one or all at the same moment: no bound, no jitter, no time of its own for
//!   an endpoint that has just come.
//! - A change of a backend's `ext` alone is not published, and that is where requests in flight would have to live.
//! - `select` clones the backend, hashes it twice and fills a `HashSet` for each request.

mod admission;
mod affinity;
mod concurrency;
mod connections;
mod dial;
mod endpoint;
mod failover;
mod grpc;
mod health;
mod online;
mod parts;
mod placement;
mod pool;
mod probe;
mod protection;
mod proxy_protocol;
mod registry;
mod source;
mod subset;
mod table;
mod tls;

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use tokio::runtime::Handle;

use crate::{
    config,
    identity::Identity,
    kept::{Kept, Same},
    names::Resolve,
    policy::{
        breaker,
        failover::{self as rule, Failover},
        failure::Outcome,
        outlier,
    },
};

use self::{
    affinity::OwnKey,
    endpoint::{Load, Patience, lock},
    parts::Parts,
    pool::Pool,
};
pub(crate) use crate::upstream::probe::words as error_in_words;
pub use crate::upstream::{
    admission::{Admitted, Full, Room},
    affinity::{Affinity, Away, Opened, Remembered, cookie_name},
    concurrency::{Concurrency, Level},
    connections::{Connections, Generation, IdleLimit, IdleSlot},
    dial::Dialer,
    endpoint::{Endpoint, Health, InFlight},
    failover::{FailoverView, failover_word},
    online::{probe_once, resolve_once},
    placement::{GroupShare, Place},
    protection::Circuit,
    proxy_protocol::{Announcing, ClientAddresses, group as client_group, header as proxy_header},
    registry::{Directory, Instance, Listed, Owners, Selector, check_name as check_service},
    source::{Address, BadAddress, EndpointSource, Found},
    tls::{Distrust, Handshake, NotReady, Tls, TlsFile, Trouble},
};

/// One upstream of one snapshot.
pub struct Upstream {
    name: Arc<str>,
    settings: config::Upstream,
    pool: Kept<pool::Settings, Pool>,
    connections: Arc<Connections>,
    room: Kept<admission::Settings, Room>,
    /// Where another one may stand in.
    failover: Option<Kept<rule::Settings, Failover>>,
    tls: Option<Kept<tls::Settings, Tls>>,
    affinity: Option<Affinity>,
    group: u64,
    /// Of all the places that connections were meant to go to, where requests go there.
    passing: Option<Arc<Load>>,
    /// Where it is only a part of the upstream.
    subset: Option<subset::Subset>,
}

/// Why there is nobody to send a request to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// No host name has resolved yet.
    Unresolved,
    /// There are endpoints, but none is healthy, or none has been probed yet.
    Unhealthy,
    /// None is configured, or all have weight 0.
    Empty,
    /// There are endpoints, but none with the tags that are wanted.
    EmptySubset,
    /// The circuit breakers of all that are healthy are open; the first to try again does so after this time.
    CircuitOpen { retry_after: Duration },
}

/// How near an endpoint is to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearness {
    Same,
    /// At another port of that host.
    SameHost,
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Within the upstream, as in `endpoints[2].address`.
    pub path: String,
    pub why: String,
}

/// What upstreams need to live. Made once for the process; clones share everything.
#[derive(Clone)]
pub struct Live {
    runtime: Option<Handle>,
    resolver: Arc<dyn Resolve>,
    observer: Arc<dyn Observer>,
    connectors: Arc<probe::Connectors>,
    ids: Arc<AtomicU64>,
    identity: Option<Arc<Identity>>,
    zone: Option<Arc<str>>,
    directory: Option<Arc<dyn Directory>>,
    /// What cookies are signed with that the operator gives no key for.
    own_key: Arc<OwnKey>,
    /// Where that is kept.
    state_dir: Option<Arc<Path>>,
}

impl Live {
    /// Background tasks run on `runtime`.
    pub fn new(runtime: Handle, resolver: Arc<dyn Resolve>, observer: Arc<dyn Observer>) -> Live {
        Live { runtime: Some(runtime), ..Live::offline(resolver, observer) }
    }

    /// No background tasks: names stay unresolved and endpoints unprobed. For compiling without running.
    pub fn offline(resolver: Arc<dyn Resolve>, observer: Arc<dyn Observer>) -> Live {
        Live {
            runtime: None,
            resolver,
            observer,
            connectors: Arc::default(),
            ids: Arc::default(),
            identity: None,
            zone: None,
            directory: None,
            own_key: Arc::default(),
            state_dir: None,
        }
    }

    /// Endpoints of a registry are those that `directory` tells of.
    pub fn with_directory(&self, directory: Arc<dyn Directory>) -> Live {
        Live { directory: Some(directory), ..self.clone() }
    }

    /// What has to outlive the process is kept there.
    pub fn with_state_dir(&self, state_dir: Option<&Path>) -> Live {
        Live { state_dir: state_dir.map(Into::into), ..self.clone() }
    }

    /// For upstreams of a snapshot in which this gateway is `identity`.
    pub fn with_identity(&self, identity: Option<Arc<Identity>>) -> Live {
        Live { identity, ..self.clone() }
    }

    /// For upstreams of a snapshot in which this gateway stands in `zone`.
    pub fn in_zone(&self, zone: Option<&str>) -> Live {
        Live { zone: zone.filter(|zone| !zone.is_empty()).map(Into::into), ..self.clone() }
    }
}

/// Hears what happens to endpoints, for logs and metrics. Outcomes are `Ok` or why not, in words for the operator.
/// Called from background tasks and while upstreams are built; must not block.
pub trait Observer: Send + Sync {
    /// An endpoint's state was decided or turned.
    fn health_changed(&self, _upstream: &str, _endpoint: &str, _outcome: Result<(), &str>) {}
    /// Its requests go to the upstream `to` from now on, or come back.
    fn failover_changed(&self, _upstream: &str, _to: &str, _phase: &'static str) {}
    /// A circuit breaker has opened, half-opened or closed.
    fn circuit_changed(&self, _upstream: &str, _endpoint: &str, _state: breaker::State) {}
    /// An endpoint gets no requests for this long, because they failed.
    fn ejected(&self, _upstream: &str, _endpoint: &str, _lasts: Duration) {}
    /// An endpoint is chosen last from now on, or no longer.
    fn avoidance_changed(&self, _upstream: &str, _endpoint: &str, _outcome: Result<(), &str>) {}
    fn probed(&self, _upstream: &str, _endpoint: &str, _outcome: Result<(), &str>) {}
    fn resolved(&self, _upstream: &str, _host: &str, _outcome: Result<(), &str>) {}
    /// There was no connection to an endpoint, or none that is trusted; `kind` is one of a few words.
    fn tls_failed(&self, _upstream: &str, _endpoint: &str, _kind: &'static str) {}
    /// Why that is so; said once in a while for each endpoint.
    fn tls_explained(&self, _upstream: &str, _endpoint: &str, _why: &str) {}
    /// No connection could be tried: this machine or process lacks what one takes.
    fn is_short(&self, _upstream: &str, _of: &str) {}
    /// A file of an upstream's certificate authorities or client certificate has changed, and whether it was taken in.
    fn tls_file_changed(&self, _upstream: &str, _file: TlsFile, _outcome: Result<(), &str>) {}
    /// An address that has no state yet. Reloads do not add again what stays.
    fn endpoint_added(&self, _upstream: &str, _endpoint: &str) {}
    /// The last request to an address that is no longer configured has ended.
    fn endpoint_removed(&self, _upstream: &str, _endpoint: &str) {}
}

/// Nobody listens.
impl Observer for () {}

impl Upstream {
    /// Builds on `previous`, the upstream of the same name in the snapshot before: endpoints whose address is unchanged
    /// keep their state, and the background tasks go on untouched unless endpoints, protocol, balancer or health
    /// check have changed. Tasks end when the last upstream that uses them is dropped.
    ///
    /// Fails, with all reasons, when an address or the health check cannot work. A host that does not resolve is no
    /// failure: it is asked again.
    pub fn new(
        name: &str,
        config: &config::Upstream,
        live: &Live,
        previous: Option<&Upstream>,
    ) -> Result<Arc<Upstream>, Vec<Refusal>> {
        let name: Arc<str> = name.into();
        let parts = Parts::of(config, live.identity.as_ref(), live.zone.as_ref());
        let tls = parts.tls.map(|settings| {
            Kept::try_keep_or(previous.and_then(|previous| previous.tls.as_ref()), settings, Tls::new)
        });
        let pool = |tls: Option<&Kept<tls::Settings, Tls>>| {
            let tls = tls.map(|tls| Same(tls.shared().clone()));
            let before = previous.map(|previous| &previous.pool);
            Kept::try_keep_or(before, pool::Settings { tls, ..parts.pool }, |settings| {
                Pool::new(&name, settings, live, before.map(|before| &**before))
            })
        };
        let (tls, pool) = match tls.transpose() {
            Ok(tls) => (tls.clone(), pool(tls.as_ref())?),
            // All that is wrong, not only this.
            Err(mut refusals) => {
                refusals.extend(pool(None).err().into_iter().flatten());
                return Err(refusals);
            }
        };
        let connections = previous.map(|previous| previous.connections.clone()).unwrap_or_default();
        let group = BuildHasherDefault::<DefaultHasher>::default().hash_one(&*name);
        let room = Kept::keep_or(previous.map(|previous| &previous.room), parts.room, Room::new);
        let failover = parts.failover.map(|settings| {
            let before = previous.and_then(|previous| previous.failover.as_ref());
            Kept::keep_or(before, settings, |settings| Failover::new(settings.clone()))
        });
        let passing = config.original_destination.then(|| {
            let before = previous.and_then(|previous| previous.passing.clone());
            before.unwrap_or_else(|| {
                let id = live.ids.fetch_add(1, Ordering::Relaxed);
                Load::named(id, &name, "original_destination".into(), &live.observer)
            })
        });
        let affinity = config.affinity.as_ref().map(|affinity| {
            let before = previous.and_then(|previous| previous.affinity.as_ref());
            Affinity::new(&name, affinity, before, &live.own_key, live.state_dir.as_deref())
        });
        let settings = config.clone();
        Ok(Arc::new(Upstream {
            name,
            settings,
            pool,
            connections,
            room,
            failover,
            tls,
            affinity,
            group,
            passing,
            subset: None,
        }))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// What may rest of its connections, here of those with `endpoint`.
    pub fn idle_limit(&self, endpoint: &Endpoint) -> IdleLimit {
        let config::Pool { idle_connections, idle_per_endpoint, .. } = &self.settings.pool;
        let limit = IdleLimit::new(&self.connections, *idle_connections, self.settings.idle_timeout.into());
        limit.of(endpoint.generation(), idle_per_endpoint.get())
    }

    /// Who may send requests here now, and who has to wait.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// The same for all connections of this upstream and another for those of others, so that none is shared between
    /// two. A hash of the name.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// How endpoints are reached; `None` for those that speak no TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    /// A try failed over TLS: it is counted, and once in a while explained.
    pub fn tls_failed(
        &self,
        endpoint: &Endpoint,
        handshake: &Arc<Handshake>,
        trouble: &Trouble,
        now: Instant,
    ) {
        let observer = &self.pool.shared.observer;
        let kind = trouble.label();
        // That a connection was closed counts only where TLS turns out to be the cause.
        let is_known = *trouble != Trouble::Closed;
        if is_known {
            observer.tls_failed(&self.name, &endpoint.name, kind);
        }
        if !endpoint.may_complain(now) {
            return;
        }
        if let Some(why) = trouble.explain() {
            return observer.tls_explained(&self.name, &endpoint.name, &why);
        }
        let PeerAddress::Inet(address) = endpoint.address else { return };
        let (observer, upstream, name) = (observer.clone(), self.name.clone(), endpoint.name.clone());
        let origin = endpoint.origin.to_string();
        let announcement = proxy_header(self.settings.proxy_protocol, None);
        let diagnosis = handshake.clone().diagnose(trouble.clone(), address, origin, announcement);
        tokio::spawn(async move {
            let Some(why) = diagnosis.await else { return };
            if !is_known {
                observer.tls_failed(&upstream, &name, kind);
            }
            observer.tls_explained(&upstream, &name, &why);
        });
    }

    /// A try failed for want of descriptors, ports or memory: the operator is told now and then.
    pub fn is_short(&self, of: &str) {
        self.pool.shared.observer.is_short(&self.name, of);
    }

    pub fn settings(&self) -> &config::Upstream {
        &self.settings
    }

    /// What of the request must be given to `pick` as its key.
    pub fn balancer_key(&self) -> Option<&config::HashKey> {
        match &self.settings.balancer {
            config::Balancer::Hash(key) => Some(key),
            _ => None,
        }
    }

    /// Begin an attempt at the endpoint that [`Upstream::pick`] names and whose circuit breaker lets it through.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn begin(
        &self,
        key: Option<&[u8]>,
        tried: &[u64],
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Result<InFlight, NoEndpoint> {
        /// Others may take the last place at a half-open breaker, or find out whether it can be reached, between the look and
        /// the step. Where all are silent, whoever there is gets it after that.
        const RACES: u32 = 8;
        for race in 0..=RACES {
            let endpoint = self.pick(key, tried, now, rng)?;
            let begun = match race {
                RACES => endpoint.start_anyway(now),
                _ => endpoint.start(&self.pool.shared.patience, now),
            };
            let Some(in_flight) = begun else { continue };
            if in_flight.half_opens() {
                self.circuit_changed(&in_flight, breaker::State::HalfOpen);
            }
            return Ok(in_flight);
        }
        Err(self.none(now))
    }

    /// Whether requests go where their connections were meant to go.
    pub fn is_original_destination(&self) -> bool {
        self.passing.is_some()
    }

    /// Begin an attempt at `address`, where a connection was meant to go. `None` for an upstream with endpoints of its own.
    pub fn begin_at(&self, address: SocketAddr, now: Instant) -> Option<InFlight> {
        Arc::new(Endpoint::passing(address, self.passing.clone()?)).start_anyway(now)
    }

    /// How near the nearest of its endpoints is to `address`; `None` where none is on that host.
    pub fn nearness(&self, address: SocketAddr) -> Option<Nearness> {
        nearest(&self.pool.shared.peek().endpoints, address).map(|(_, nearness)| nearness)
    }

    /// Begin an attempt at the endpoint nearest to `address`: there, or on the same host. Whether it may be picked is not asked, as
    /// there is no other.
    ///
    /// # Errors
    ///
    /// None is there, or its circuit breaker is open.
    pub fn begin_near(&self, address: SocketAddr, now: Instant) -> Result<InFlight, NoEndpoint> {
        if self.is_original_destination() {
            return self.begin_at(address, now).ok_or(NoEndpoint::Empty);
        }
        let table = self.pool.shared.peek();
        let (endpoint, _) = nearest(&table.endpoints, address).ok_or(NoEndpoint::Empty)?;
        let Some(in_flight) = endpoint.start_anyway(now) else {
            let retry_after = endpoint.circuit().and_then(|circuit| circuit.breaker.retry_after(now));
            return Err(NoEndpoint::CircuitOpen { retry_after: retry_after.unwrap_or_default() });
        };
        if in_flight.half_opens() {
            self.circuit_changed(&in_flight, breaker::State::HalfOpen);
        }
        Ok(in_flight)
    }

    /// Take in how an attempt ended: the circuit breaker and the ejection learn from it.
    pub fn report(&self, attempt: &mut InFlight, outcome: Outcome, now: Instant) {
        self.met(attempt.endpoint(), outcome, now);
        if outcome == Outcome::ConnectFailed {
            self.pool.shared.may_have_moved(&attempt.endpoint().origin);
        }
        if !matches!(outcome, Outcome::ConnectFailed | Outcome::Timeout) {
            attempt.heard(now);
        }
        if let Some(state) = attempt.settle(outcome, now) {
            self.circuit_changed(attempt, state);
        }
        let endpoint = attempt.endpoint();
        let Some(ejection) = &endpoint.guard().ejection else { return };
        // A stream may have had nothing to say for so long.
        if outcome == Outcome::Timeout && attempt.has_begun() {
            ejection.outlier.lives();
        }
        let ejected = match outcome {
            Outcome::Success => ejection.outlier.report(breaker::Outcome::Success, now, |_| false),
            _ => {
                // Two that fail at the same moment must not each count on the other.
                let _one_at_a_time = lock(&self.pool.shared.ejecting);
                let may_eject = |due| self.may_eject(endpoint, &ejection.rule, due, now);
                ejection.outlier.report(breaker::Outcome::Failure, now, may_eject)
            }
        };
        if let Some(lasts) = ejected {
            // When it comes back it starts slowly.
            endpoint.guard().begin(now + lasts);
            self.pool.shared.observer.ejected(&self.name, &endpoint.name, lasts);
        }
    }

    /// Whether requests are served better without it, and served at all.
    fn may_eject(
        &self,
        endpoint: &Endpoint,
        rule: &outlier::Settings,
        due: outlier::Due,
        now: Instant,
    ) -> bool {
        let table = self.pool.shared.peek();
        let others = table
            .endpoints
            .iter()
            .filter(|other| other.id() != endpoint.id() && other.is_well(now) && other.guard().admits(now));
        let ejected = table.endpoints.iter().filter(|other| other.is_ejected(now)).count();
        others.clone().next().is_some()
            && rule.may_eject(ejected, table.endpoints.len())
            && due.stands_out(others.filter_map(|other| other.standing()))
    }

    /// An attempt's answer has begun, and how it ends will be told later: a half-open circuit breaker takes that for a success.
    pub fn lives(&self, attempt: &mut InFlight, now: Instant) {
        self.met(attempt.endpoint(), Outcome::Success, now);
        if let Some(state) = attempt.lives(now) {
            self.circuit_changed(attempt, state);
        }
    }

    /// Among places that clients choose, none is avoided.
    fn met(&self, endpoint: &Endpoint, outcome: Outcome, now: Instant) {
        if !self.is_original_destination() {
            endpoint.met(outcome, now);
        }
    }

    fn circuit_changed(&self, attempt: &InFlight, state: breaker::State) {
        self.pool.shared.observer.circuit_changed(&self.name, &attempt.endpoint().name, state);
    }

    /// An attempt that could be answered at once was, after this time.
    pub fn observe(&self, took: Duration, now: Instant) {
        self.pool.shared.patience.pace.observe(took, now);
    }

    /// Whether what waits there for an answer had better ask one of the other endpoints.
    pub fn is_hopeless(&self, endpoint: &Endpoint, now: Instant) -> bool {
        let shared = &self.pool.shared;
        !self.is_original_destination()
            && endpoint.is_hopeless(&self.table().endpoints, &shared.patience, now)
    }

    /// How often that is asked; `None` where it never will be.
    pub fn patience(&self) -> Option<Duration> {
        let is_checked = self.settings.health_check.is_some();
        self.pool.shared.patience.max_silence.or(is_checked.then_some(Patience::UNHEALTHY))
    }

    /// Why [`Upstream::pick`] found nobody.
    fn none(&self, now: Instant) -> NoEndpoint {
        let table = self.table();
        if !table.endpoints.iter().any(|endpoint| endpoint.weight > 0) {
            return match table.endpoints.is_empty() && self.pool.shared.is_configured() {
                true if !self.pool.shared.peek().endpoints.is_empty() => NoEndpoint::EmptySubset,
                true => NoEndpoint::Unresolved,
                false => NoEndpoint::Empty,
            };
        }
        let panics = table.panics(now);
        let stopped =
            table.endpoints.iter().filter(|endpoint| endpoint.weight > 0 && (panics || endpoint.serves(now)));
        // One that lets requests through by now did not a moment ago, or others took its last place.
        let open = stopped.filter_map(|endpoint| {
            let circuit = endpoint.circuit()?;
            Some(circuit.breaker.retry_after(now).unwrap_or_default())
        });
        open.min().map_or(NoEndpoint::Unhealthy, |retry_after| NoEndpoint::CircuitOpen { retry_after })
    }

    /// The endpoint for one attempt: healthy, and none of those in `tried` (their ids), unless all the healthy ones have
    /// been tried; then one of them is picked again. A hash balancer without a key picks at random.
    pub fn pick(
        &self,
        key: Option<&[u8]>,
        tried: &[u64],
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Result<Arc<Endpoint>, NoEndpoint> {
        let table = self.table();
        if let Some(endpoint) = table.pick(key, tried, now, rng) {
            return Ok(endpoint.clone());
        }
        if !tried.is_empty()
            && let Some(endpoint) = table.pick(key, &[], now, rng)
        {
            return Ok(endpoint.clone());
        }
        drop(table);
        Err(self.none(now))
    }

    /// What is ordered of its endpoints.
    pub fn orders(&self) -> Arc<config::EndpointOrders> {
        self.pool.shared.orders()
    }

    /// Have endpoints the weights that are ordered of them, from the next pick on. A reload keeps the orders.
    pub fn order(&self, orders: Arc<config::EndpointOrders>) {
        self.pool.shared.order(orders);
    }

    /// All endpoints, in the order of the file and then of their addresses.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.table().endpoints.to_vec()
    }

    /// What each group of endpoints gets, first to last; none where all stand alike.
    pub fn group_shares(&self, now: Instant) -> Vec<GroupShare> {
        self.table().group_shares(now)
    }

    /// Whether an endpoint may be used that is none of those `tried`, nor the present one (by their ids).
    pub fn has_others(&self, tried: &[u64], present: Option<u64>, now: Instant) -> bool {
        let table = self.table();
        table.endpoints.iter().any(|endpoint| {
            endpoint.serves(now)
                && endpoint.guard().admits(now)
                && present != Some(endpoint.id())
                && !tried.contains(&endpoint.id())
        })
    }

    /// Whether a request could be sent somewhere now.
    pub fn is_ready(&self) -> bool {
        let table = self.table();
        self.is_original_destination()
            || table.endpoints.iter().any(|endpoint| endpoint.weight > 0 && endpoint.is_usable())
    }

    /// Whether an attempt could begin now: an endpoint is healthy and its circuit breaker lets requests through.
    pub fn admits(&self, now: Instant) -> bool {
        self.is_original_destination() || self.table().admits(now)
    }

    /// Waits until every host name has been asked and every endpoint probed once, whatever came of it. Whoever waits
    /// bounds the wait: this takes as long as the slowest of them.
    pub async fn settled(&self) {
        let shared = &self.pool.shared;
        loop {
            let notified = shared.settled.notified();
            tokio::pin!(notified);
            // Listen before looking, or the last event could pass in between.
            notified.as_mut().enable();
            if shared.is_settled() {
                return;
            }
            notified.await;
        }
    }
}

fn nearest(endpoints: &[Arc<Endpoint>], address: SocketAddr) -> Option<(&Arc<Endpoint>, Nearness)> {
    let ip = address.ip().to_canonical();
    let mut near = None;
    for endpoint in endpoints {
        let PeerAddress::Inet(at) = &endpoint.address else { continue };
        if at.ip().to_canonical() != ip {
            continue;
        }
        if at.port() == address.port() {
            return Some((endpoint, Nearness::Same));
        }
        near.get_or_insert((endpoint, Nearness::SameHost));
    }
    near
}

#[cfg(test)]
mod tests;
