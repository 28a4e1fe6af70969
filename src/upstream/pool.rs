//! The live half of an upstream: its endpoints and the tasks that keep them current. A reload that changes nothing
//! here shares the pool; one that does starts a new pool on the old one's state. The old keeps running for the
//! requests that still hold it, and stops when the last of them is done.

use std::{
    collections::{BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, Weak, atomic::Ordering},
    time::Instant,
};

use arc_swap::ArcSwap;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_load_balancing::Backend;
use tokio::{sync::Notify, task::JoinHandle};

use crate::config::{self, Upstream};

use super::{
    Live, Observer, Refusal,
    endpoint::{Endpoint, Health, Load, lock},
    guard::{Circuit, Wanted},
    health,
    probe::{Probe, origin_of},
    source::{Address, Dns, EndpointSource, unix_address},
    table::Table,
    tls::Tls,
};

pub(super) struct Pool {
    pub shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// What tasks and requests share. Tasks hold this and not the pool, so that dropping the pool can end them.
pub(super) struct Shared {
    pub upstream: Arc<str>,
    pub observer: Arc<dyn Observer>,
    /// Told each time an endpoint or a source may have been the last one not yet known.
    pub settled: Notify,
    live: Live,
    checked: bool,
    /// For endpoints that come later.
    settings: config::Upstream,
    /// The one breaker for all endpoints, where that is its scope.
    circuit: Option<Arc<Circuit>>,
    table: ArcSwap<Table>,
    members: Mutex<Members>,
    changed: Notify,
}

/// Who belongs to the pool, by where they come from.
struct Members {
    slots: Vec<Slot>,
    /// Also those that are gone but still have requests: when they return, so do their counts.
    known: HashMap<PeerAddress, Weak<Load>>,
}

/// One line of `endpoints`: an address, or a name and what it stands for.
struct Slot {
    origin: Arc<str>,
    members: Vec<Member>,
    /// Its source has not answered yet.
    pending: bool,
}

#[derive(Clone)]
struct Member {
    address: PeerAddress,
    weight: u32,
    origin: Arc<str>,
}

impl Pool {
    /// Whether the live state of `old` serves `new` as it is.
    pub fn serves(old: &config::Upstream, new: &config::Upstream) -> bool {
        old.endpoints == new.endpoints
            && old.balancer == new.balancer
            && old.health_check == new.health_check
            && old.circuit_breaker == new.circuit_breaker
            && old.outlier == new.outlier
            && old.slow_start == new.slow_start
            && old.panic_threshold == new.panic_threshold
            // Probes speak as the upstream's other connections do.
            && old.protocol == new.protocol
            && old.proxy_protocol == new.proxy_protocol
    }

    /// Starts the tasks as well, where `live` has a runtime.
    pub fn new(
        upstream: &Arc<str>,
        config: &config::Upstream,
        live: &Live,
        tls: Option<Arc<Tls>>,
        previous: Option<&Pool>,
    ) -> Result<Pool, Vec<Refusal>> {
        let slots = slots(upstream, config, live, previous);
        let probe = match &config.health_check {
            Some(check) => probe(check, config, live, tls.clone()).map(|probe| Some((probe, check.clone()))),
            None => Ok(None),
        };
        let ((slots, sources), probe) = match (slots, probe) {
            (Ok(slots), Ok(probe)) => (slots, probe),
            (slots, probe) => {
                let refusals = [slots.err(), probe.err()];
                return Err(refusals.into_iter().flatten().flatten().collect());
            }
        };
        let shared = Arc::new(Shared {
            upstream: upstream.clone(),
            observer: live.observer.clone(),
            settled: Notify::new(),
            live: live.clone(),
            checked: probe.is_some(),
            circuit: Wanted::new(config, previous.and_then(|pool| pool.shared.circuit.as_ref()))
                .common()
                .cloned(),
            table: ArcSwap::from_pointee(Table::new(Vec::new(), &config.balancer, 0.0)),
            settings: config.clone(),
            members: Mutex::new(Members { slots, known: HashMap::new() }),
            changed: Notify::new(),
        });
        shared.take_over(previous);
        let mut tasks = Vec::new();
        if let Some(runtime) = &live.runtime {
            for (slot, source) in sources {
                tasks.push(runtime.spawn(shared.clone().follow(slot, source)));
            }
            if let Some((probe, check)) = probe {
                tasks.push(runtime.spawn(health::run(shared.clone(), probe, check)));
            }
            if let Some(tls) = tls.filter(|tls| tls.has_file()) {
                let (observer, upstream) = (live.observer.clone(), upstream.clone());
                tasks.push(runtime.spawn(async move {
                    tls.follow(|outcome| observer.authorities_changed(&upstream, outcome)).await;
                }));
            }
        }
        Ok(Pool { shared, tasks })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// The present table without the cost of counting a reference: for picking.
    pub fn peek(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// Waits until endpoints have come or gone. For one task: the one that checks health.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether any endpoint is configured, resolved or not.
    pub fn is_configured(&self) -> bool {
        !lock(&self.members).slots.is_empty()
    }

    pub fn is_settled(&self) -> bool {
        lock(&self.members).slots.iter().all(|slot| !slot.pending)
            && self.peek().endpoints.iter().all(|endpoint| endpoint.health() != Health::Unknown)
    }

    /// The first table: endpoints the previous pool knows go on with their state.
    fn take_over(&self, previous: Option<&Pool>) {
        let mut members = lock(&self.members);
        let mut inherited = HashMap::new();
        if let Some(previous) = previous {
            members.known = lock(&previous.shared.members).known.clone();
            inherited = by_address(&previous.shared.table());
        }
        self.rebuild(&mut members, &inherited, |old, member| {
            old.under_new(member.weight, member.origin.clone(), self.checked, &self.wanted())
        });
    }

    /// Takes in what the source of `slot` says; `None` where it could not say.
    fn publish(&self, slot: usize, found: Option<(BTreeSet<Backend>, HashMap<u64, bool>)>) {
        let mut members = lock(&self.members);
        members.slots[slot].pending = false;
        if let Some((backends, enabled)) = found {
            members.slots[slot].members = backends.iter().map(|backend| member(backend, &enabled)).collect();
            let current = by_address(&self.table());
            self.rebuild(&mut members, &current, |old, member| {
                old.with_settings(member.weight, member.origin.clone())
            });
        }
        drop(members);
        self.settled.notify_waiters();
    }

    /// Publishes a table for `members`; those in `existing` whose settings changed are made anew by `adapt`.
    fn rebuild(
        &self,
        members: &mut Members,
        existing: &HashMap<PeerAddress, Arc<Endpoint>>,
        adapt: impl Fn(&Endpoint, &Member) -> Endpoint,
    ) {
        let current = self.table();
        let present = by_address(&current);
        let mut endpoints = Vec::new();
        for member in merged(&members.slots) {
            let unchanged = |old: &&Arc<Endpoint>| old.weight == member.weight && old.origin == member.origin;
            let endpoint = if let Some(same) = present.get(&member.address).filter(unchanged) {
                same.clone()
            } else if let Some(old) = existing.get(&member.address) {
                Arc::new(adapt(old, &member))
            } else {
                let load = members.known.get(&member.address).and_then(Weak::upgrade);
                let load = load.unwrap_or_else(|| self.new_load(&member.address));
                let guard = self.wanted().guard(None, Instant::now());
                Arc::new(Endpoint::new(
                    member.address.clone(),
                    member.weight,
                    member.origin,
                    load,
                    self.checked,
                    guard,
                ))
            };
            members.known.insert(member.address, Arc::downgrade(endpoint.load()));
            endpoints.push(endpoint);
        }
        members.known.retain(|_, load| load.strong_count() > 0);
        let same = current.endpoints.len() == endpoints.len()
            && current.endpoints.iter().zip(&endpoints).all(|(old, new)| Arc::ptr_eq(old, new));
        if !same {
            let Upstream { balancer, panic_threshold, .. } = &self.settings;
            self.table.store(Arc::new(Table::new(endpoints, balancer, panic_threshold.as_f64())));
            self.changed.notify_one();
        }
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted::new(&self.settings, self.circuit.as_ref())
    }

    fn new_load(&self, address: &PeerAddress) -> Arc<Load> {
        let id = self.live.ids.fetch_add(1, Ordering::Relaxed);
        Load::new(id, &self.upstream, address, &self.observer)
    }

    /// Keeps `slot` as `source` says, for as long as it is polled.
    async fn follow(self: Arc<Self>, slot: usize, source: Box<dyn EndpointSource>) {
        loop {
            // What went wrong has been told to the observer by the source.
            self.publish(slot, source.discover().await.ok());
            source.changed().await;
        }
    }
}

type Sources = Vec<(usize, Box<dyn EndpointSource>)>;

fn slots(
    upstream: &Arc<str>,
    config: &config::Upstream,
    live: &Live,
    previous: Option<&Pool>,
) -> Result<(Vec<Slot>, Sources), Vec<Refusal>> {
    let (mut slots, mut sources, mut refusals): (Vec<Slot>, Sources, _) =
        (Vec::new(), Vec::new(), Vec::new());
    for (index, endpoint) in config.endpoints.iter().enumerate() {
        let origin: Arc<str> = endpoint.address.as_str().into();
        let weight = u32::from(endpoint.weight);
        match endpoint.address.parse::<Address>() {
            Ok(Address::Ip(address)) => {
                let members =
                    vec![Member { address: PeerAddress::Inet(address), weight, origin: origin.clone() }];
                slots.push(Slot { origin, members, pending: false });
            }
            Ok(Address::Unix(path)) => {
                let address = unix_address(&path).into_iter();
                let members =
                    address.map(|address| Member { address, weight, origin: origin.clone() }).collect();
                slots.push(Slot { origin, members, pending: false });
            }
            Ok(Address::Host { host, port }) => {
                let members = previous.map(|pool| pool.shared.resolved(&origin, weight)).unwrap_or_default();
                sources.push((
                    slots.len(),
                    Box::new(Dns {
                        upstream: upstream.clone(),
                        host,
                        port,
                        weight,
                        origin: origin.clone(),
                        resolver: live.resolver.clone(),
                        observer: live.observer.clone(),
                        refresh: Mutex::default(),
                    }),
                ));
                slots.push(Slot { origin, pending: members.is_empty(), members });
            }
            Err(bad) => {
                refusals.push(Refusal { path: format!("endpoints[{index}].address"), why: bad.to_string() });
            }
        }
    }
    if refusals.is_empty() { Ok((slots, sources)) } else { Err(refusals) }
}

fn probe(
    check: &config::HealthCheck,
    config: &config::Upstream,
    live: &Live,
    tls: Option<Arc<Tls>>,
) -> Result<Probe, Vec<Refusal>> {
    Probe::new(check, config, tls, live.connectors.clone())
        .map_err(|why| vec![Refusal { path: "health_check".into(), why }])
}

impl Shared {
    /// What the name `origin` stands for here: a pool that takes over starts from that.
    fn resolved(&self, origin: &Arc<str>, weight: u32) -> Vec<Member> {
        let members = lock(&self.members);
        let slot = members.slots.iter().find(|slot| slot.origin == *origin);
        let members = slot.map(|slot| slot.members.clone()).unwrap_or_default();
        members.into_iter().map(|member| Member { weight, ..member }).collect()
    }
}

fn member(backend: &Backend, enabled: &HashMap<u64, bool>) -> Member {
    // The key that Pingora documents for `ServiceDiscovery::discover`.
    let mut hasher = DefaultHasher::new();
    backend.hash(&mut hasher);
    let weight = match enabled.get(&hasher.finish()) {
        Some(false) => 0,
        _ => u32::try_from(backend.weight).unwrap_or(u32::MAX).min(u32::from(u16::MAX)),
    };
    Member { address: backend.addr.clone(), weight, origin: origin_of(backend) }
}

/// In the order of the file; an address that is named twice is one endpoint, and the larger weight counts.
fn merged(slots: &[Slot]) -> Vec<Member> {
    let mut merged: Vec<Member> = Vec::new();
    let mut places = HashMap::new();
    for member in slots.iter().flat_map(|slot| &slot.members) {
        let place = *places.entry(&member.address).or_insert_with(|| {
            merged.push(member.clone());
            merged.len() - 1
        });
        merged[place].weight = merged[place].weight.max(member.weight);
    }
    merged
}

fn by_address(table: &Table) -> HashMap<PeerAddress, Arc<Endpoint>> {
    table.endpoints.iter().map(|endpoint| (endpoint.address.clone(), endpoint.clone())).collect()
}
