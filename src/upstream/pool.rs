//! The live half of an upstream: its endpoints and the tasks that keep them current. A reload that changes nothing
//! here shares the pool; one that does starts a new pool on the old one's state. The old keeps running for the
//! requests that still hold it, and stops when the last of them is done.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    config::{self, EndpointOrders, UpstreamProtocol},
    identity::SpiffeId,
    kept::Same,
    policy::silence::Pace,
    upstream::{
        Live, Observer, Refusal,
        endpoint::{self, Endpoint, Health, Load, Patience, lock},
        health,
        placement::Place,
        probe::Probe,
        protection::{self, KeptCircuit, Wanted},
        source::{self, EndpointSource, Found, Supply, name_of},
        table::Table,
        tls::{Distrust, Tls},
    },
};

/// All that a pool and its tasks are made from.
#[derive(Clone, PartialEq)]
pub(super) struct Settings {
    pub endpoints: Vec<config::Endpoint>,
    pub balancer: config::Balancer,
    /// Requests belong to an endpoint.
    pub has_affinity: bool,
    pub panic_threshold: config::Ratio,
    /// The gateway's own, where it comes first.
    pub zone: Option<Arc<str>>,
    pub health_check: Option<config::HealthCheck>,
    pub guard: protection::Settings,
    // Probes speak as the upstream's other connections do.
    pub protocol: UpstreamProtocol,
    pub proxy_protocol: config::ProxyProtocol,
    pub tls: Option<Same<Tls>>,
}

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
    pub patience: Patience,
    /// Held while it is decided whether an endpoint is ejected.
    pub ejecting: Mutex<()>,
    live: Live,
    checked: bool,
    /// For endpoints that come later.
    settings: Settings,
    /// The one breaker for all endpoints, where that is its scope.
    circuit: Option<KeptCircuit>,
    table: ArcSwap<Table>,
    members: Mutex<Members>,
    changed: Notify,
}

/// Who belongs to the pool, by where they come from.
struct Members {
    slots: Vec<Slot>,
    /// Also those that are gone but still have requests: when they return, so do their counts.
    known: HashMap<PeerAddress, Weak<Load>>,
    /// By the endpoints' names, also of those that are not there now.
    orders: Arc<EndpointOrders>,
}

/// One line of `endpoints`: an address, or a name or a selector and what it stands for.
struct Slot {
    origin: Arc<str>,
    weight: u32,
    place: Place,
    /// What the line says of its addresses beside.
    tags: BTreeMap<String, String>,
    /// In the order of the addresses.
    found: Vec<Found>,
    /// Its source has not answered yet.
    pending: bool,
    /// None of what its source has found can be reached: time to ask again.
    lost: Arc<Notify>,
}

/// Where metadata of a registry's instances have their zone.
const ZONE: &str = "zone";

/// A source whose endpoints are all lost is asked this often.
const LOST: Duration = Duration::from_secs(1);

/// An endpoint of a table to be: what the slots say of one address.
struct Member<'a> {
    address: &'a PeerAddress,
    weight: u32,
    origin: &'a Arc<str>,
    metadata: &'a BTreeMap<String, String>,
    /// In order, each once; none where it does not matter who they are.
    owners: Vec<&'a SpiffeId>,
    place: Place,
}

impl Pool {
    /// Starts the tasks as well, where `live` has a runtime.
    pub(crate) fn new(
        upstream: &Arc<str>,
        settings: &Settings,
        live: &Live,
        previous: Option<&Pool>,
    ) -> Result<Pool, Vec<Refusal>> {
        let slots = slots(&settings.endpoints, live, previous);
        let probe = match &settings.health_check {
            Some(check) => probe(check, settings, live).map(|probe| Some((probe, check.clone()))),
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
            patience: Patience {
                pace: previous.map_or_else(
                    || Pace::new(Instant::now()).into(),
                    |pool| pool.shared.patience.pace.clone(),
                ),
                max_silence: settings.guard.max_silence(),
                has_affinity: settings.has_affinity,
            },
            ejecting: Mutex::new(()),
            live: live.clone(),
            checked: probe.is_some(),
            circuit: Wanted::new(&settings.guard, previous.and_then(|pool| pool.shared.circuit.as_ref()))
                .common()
                .cloned(),
            table: ArcSwap::from_pointee(Table::new(Vec::new(), &settings.balancer, 0.0, None)),
            settings: settings.clone(),
            members: Mutex::new(Members { slots, known: HashMap::new(), orders: Arc::default() }),
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
            if let Some(Same(tls)) = settings.tls.clone().filter(|tls| tls.0.has_file()) {
                let (observer, upstream) = (live.observer.clone(), upstream.clone());
                tasks.push(runtime.spawn(async move {
                    tls.follow(|file, outcome| observer.tls_file_changed(&upstream, file, outcome)).await;
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
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// The present table without the cost of counting a reference: for picking.
    pub(crate) fn peek(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// One of these endpoints, with the balancer's position at its start.
    pub(crate) fn table_of(&self, endpoints: Vec<Arc<Endpoint>>) -> Arc<Table> {
        let Settings { balancer, panic_threshold, zone, .. } = &self.settings;
        Arc::new(Table::new(endpoints, balancer, panic_threshold.as_f64(), zone.as_deref()))
    }

    /// Waits until endpoints have come or gone. For one task: the one that checks health.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether any endpoint is configured, resolved or not.
    pub(crate) fn is_configured(&self) -> bool {
        !lock(&self.members).slots.is_empty()
    }

    pub(crate) fn is_settled(&self) -> bool {
        lock(&self.members).slots.iter().all(|slot| !slot.pending)
            && self.peek().endpoints.iter().all(|endpoint| endpoint.health() != Health::Unknown)
    }

    /// The first table: endpoints the previous pool knows go on with their state.
    fn take_over(&self, previous: Option<&Pool>) {
        let mut members = lock(&self.members);
        let mut inherited = HashMap::new();
        if let Some(previous) = previous {
            let before = lock(&previous.shared.members);
            members.known = before.known.clone();
            members.orders = before.orders.clone();
            drop(before);
            inherited = by_address(&previous.shared.table());
        }
        self.rebuild(&mut members, &inherited, |old, settings| {
            old.under_new(settings, self.checked, &self.wanted())
        });
    }

    pub(crate) fn orders(&self) -> Arc<EndpointOrders> {
        lock(&self.members).orders.clone()
    }

    /// From now on endpoints have the weights that are ordered of them, in the place of those that are configured.
    pub(crate) fn order(&self, orders: Arc<EndpointOrders>) {
        let mut members = lock(&self.members);
        members.orders = orders;
        let current = by_address(&self.table());
        self.rebuild(&mut members, &current, Endpoint::with_settings);
    }

    /// Takes in what the source of `slot` says; `None` where it could not say.
    fn publish(&self, slot: usize, found: Option<Vec<Found>>) {
        let mut members = lock(&self.members);
        members.slots[slot].pending = false;
        if let Some(mut found) = found {
            // Sources answer in any order, and a table in another order is another table.
            found.sort_by(|one, other| one.address.cmp(&other.address));
            members.slots[slot].found = found;
            let current = by_address(&self.table());
            self.rebuild(&mut members, &current, Endpoint::with_settings);
        }
        drop(members);
        self.settled.notify_waiters();
    }

    /// Publishes a table for `members`; those in `existing` whose settings changed are made anew by `adapt`.
    fn rebuild(
        &self,
        members: &mut Members,
        existing: &HashMap<PeerAddress, Arc<Endpoint>>,
        adapt: impl Fn(&Endpoint, endpoint::Settings) -> Endpoint,
    ) {
        let Members { slots, known, orders } = members;
        let current = self.table();
        let present = by_address(&current);
        let mut endpoints = Vec::new();
        let expects_owners = self.settings.tls.as_ref().is_some_and(|tls| tls.0.expects_owners());
        for member in merged(slots, orders, expects_owners) {
            let same = present.get(member.address).filter(|old| member.is(old));
            if expects_owners && member.owners.is_empty() && same.is_none() {
                self.complain(&name_of(member.address), &Distrust::Unregistered);
            }
            let endpoint = if let Some(same) = same {
                same.clone()
            } else if let Some(old) = existing.get(member.address) {
                Arc::new(adapt(old, member.settings()))
            } else {
                let load = known.get(member.address).and_then(Weak::upgrade);
                let load = load.unwrap_or_else(|| self.new_load(member.address));
                let guard = self.wanted().guard(None, Instant::now());
                let (address, settings) = (member.address.clone(), member.settings());
                Arc::new(Endpoint::new(address, settings, load, self.checked, guard))
            };
            known.insert(member.address.clone(), Arc::downgrade(endpoint.load()));
            endpoints.push(endpoint);
        }
        known.retain(|_, load| load.strong_count() > 0);
        let same = current.endpoints.len() == endpoints.len()
            && current.endpoints.iter().zip(&endpoints).all(|(old, new)| Arc::ptr_eq(old, new));
        if !same {
            self.table.store(self.table_of(endpoints));
            self.changed.notify_one();
        }
    }

    /// Nobody has to try it to know that `endpoint` gets nothing.
    fn complain(&self, endpoint: &str, why: &Distrust) {
        self.observer.tls_failed(&self.upstream, endpoint, why.label());
        self.observer.tls_explained(&self.upstream, endpoint, &why.to_string());
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted::new(&self.settings.guard, self.circuit.as_ref())
    }

    fn new_load(&self, address: &PeerAddress) -> Arc<Load> {
        let id = self.live.ids.fetch_add(1, Ordering::Relaxed);
        Load::new(id, &self.upstream, address, &self.observer)
    }

    /// An endpoint that `origin` stands for could not be reached. If that is so for all of them, they may have moved, and their
    /// source is asked before it would say so by itself.
    pub(crate) fn may_have_moved(&self, origin: &Arc<str>) {
        let table = self.peek();
        let mut same = table.endpoints.iter().filter(|endpoint| endpoint.origin == *origin);
        if same.all(|endpoint| endpoint.is_lost()) {
            let members = lock(&self.members);
            members
                .slots
                .iter()
                .filter(|slot| slot.stands_for(origin))
                .for_each(|slot| slot.lost.notify_one());
        }
    }

    /// Keeps `slot` as `source` says, for as long as it is polled.
    async fn follow(self: Arc<Self>, slot: usize, source: Box<dyn EndpointSource>) {
        let lost = lock(&self.members).slots[slot].lost.clone();
        loop {
            let asked = tokio::time::Instant::now();
            let found = source.discover().await;
            if source.is_lookup() {
                let outcome = found.as_ref().map(drop).map_err(String::as_str);
                self.observer.resolved(&self.upstream, source.name(), outcome);
            }
            self.publish(slot, found.ok());
            let lost = async {
                tokio::time::sleep_until(asked + LOST).await;
                lost.notified().await;
            };
            tokio::select! {
                () = source.changed() => {}
                () = lost => {}
            }
        }
    }
}

type Sources = Vec<(usize, Box<dyn EndpointSource>)>;

fn slots(
    endpoints: &[config::Endpoint],
    live: &Live,
    previous: Option<&Pool>,
) -> Result<(Vec<Slot>, Sources), Vec<Refusal>> {
    let (mut slots, mut sources, mut refusals): (Vec<Slot>, Sources, _) =
        (Vec::new(), Vec::new(), Vec::new());
    for (index, endpoint) in endpoints.iter().enumerate() {
        let origin = source::origin_of(endpoint);
        let (found, pending) = match source::of(endpoint, live) {
            Ok(Supply::Fixed(found)) => (found, false),
            Ok(Supply::Followed(source)) => {
                sources.push((slots.len(), source));
                let found = previous.map(|pool| pool.shared.found(&origin)).unwrap_or_default();
                let pending = found.is_empty();
                (found, pending)
            }
            Err(Refusal { path, why }) => {
                refusals.push(Refusal { path: format!("endpoints[{index}].{path}"), why });
                continue;
            }
        };
        let weight = endpoint.weight.into();
        let place = Place {
            priority: endpoint.priority,
            is_strict: false,
            zone: endpoint.zone.as_deref().map(Into::into),
        };
        let tags = endpoint.tags.clone();
        slots.push(Slot { origin, weight, place, tags, found, pending, lost: Arc::default() });
    }
    if refusals.is_empty() { Ok((slots, sources)) } else { Err(refusals) }
}

fn probe(check: &config::HealthCheck, settings: &Settings, live: &Live) -> Result<Probe, Vec<Refusal>> {
    let Settings { protocol, proxy_protocol, ref tls, .. } = *settings;
    let tls = tls.as_ref().map(|tls| tls.0.clone());
    Probe::new(check, protocol, proxy_protocol, tls, live.connectors.clone())
        .map_err(|why| vec![Refusal { path: "health_check".into(), why }])
}

impl Shared {
    /// What the source of `origin` has found: a pool that takes over starts from that.
    fn found(&self, origin: &Arc<str>) -> Vec<Found> {
        let members = lock(&self.members);
        let slot = members.slots.iter().find(|slot| slot.origin == *origin);
        slot.map(|slot| slot.found.clone()).unwrap_or_default()
    }
}

impl Slot {
    fn members<'a>(&'a self, orders: &'a EndpointOrders) -> impl Iterator<Item = Member<'a>> {
        self.found.iter().map(|found| Member {
            address: &found.address,
            weight: match (found.healthy, ordered(orders, &found.address)) {
                (Some(false), _) => 0,
                (_, Some(weight)) => weight,
                (_, None) => self.weight.saturating_mul(found.weight).min(u32::from(u16::MAX)),
            },
            origin: found.origin.as_ref().unwrap_or(&self.origin),
            // An address has no metadata, and what a registry knows has no tags.
            metadata: if self.tags.is_empty() { &found.metadata } else { &self.tags },
            owners: found.owner.iter().collect(),
            place: self.place_of(found),
        })
    }

    /// An instance says its zone itself, and an SRV record its priority.
    fn place_of(&self, found: &Found) -> Place {
        Place {
            priority: found.priority.unwrap_or(self.place.priority),
            is_strict: found.priority.is_some(),
            zone: found
                .metadata
                .get(ZONE)
                .map(|zone| zone.as_str().into())
                .or_else(|| self.place.zone.clone()),
        }
    }

    /// Whether endpoints that are known by `origin` are its own.
    fn stands_for(&self, origin: &Arc<str>) -> bool {
        self.origin == *origin || self.found.iter().any(|found| found.origin.as_ref() == Some(origin))
    }
}

impl Member<'_> {
    /// Whether `endpoint` needs no change.
    fn is(&self, endpoint: &Endpoint) -> bool {
        endpoint.weight == self.weight
            && endpoint.origin == *self.origin
            && endpoint.metadata == *self.metadata
            && endpoint.place == self.place
            && endpoint.owners.iter().eq(self.owners.iter().copied())
    }

    fn settings(&self) -> endpoint::Settings {
        endpoint::Settings {
            weight: self.weight,
            origin: self.origin.clone(),
            metadata: self.metadata.clone(),
            owners: self.owners.iter().copied().cloned().collect(),
            place: self.place.clone(),
        }
    }
}

/// The weight that is ordered of the endpoint at `address`.
fn ordered(orders: &EndpointOrders, address: &PeerAddress) -> Option<u32> {
    if orders.is_empty() {
        return None;
    }
    orders.get(&*name_of(address)).map(|ordered| ordered.order.weight().into())
}

/// In the order of the file; an address that is named twice is one endpoint, and the larger weight and the lower priority count. Where the endpoint
/// has to be whoever has registered it, it may be any of them, and gets nothing where there is none.
fn merged<'a>(slots: &'a [Slot], orders: &'a EndpointOrders, expects_owners: bool) -> Vec<Member<'a>> {
    let mut merged: Vec<Member<'_>> = Vec::new();
    let mut places = HashMap::new();
    for mut member in slots.iter().flat_map(|slot| slot.members(orders)) {
        let weight = member.weight;
        let owners = std::mem::take(&mut member.owners);
        let priority = member.place.priority;
        let place = *places.entry(member.address).or_insert_with(|| {
            merged.push(member);
            merged.len() - 1
        });
        merged[place].weight = merged[place].weight.max(weight);
        merged[place].place.priority = merged[place].place.priority.min(priority);
        merged[place].owners.extend(owners.into_iter().filter(|_| expects_owners));
    }
    for member in merged.iter_mut().filter(|_| expects_owners) {
        member.owners.sort();
        member.owners.dedup();
        if member.owners.is_empty() {
            member.weight = 0;
        }
    }
    merged
}

fn by_address(table: &Table) -> HashMap<PeerAddress, Arc<Endpoint>> {
    table.endpoints.iter().map(|endpoint| (endpoint.address.clone(), endpoint.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity,
        names::SystemResolver,
        upstream::{parts::Parts, tests::Recorder, tls},
    };

    /// The pool of one name of weight 2, which nobody looks up.
    fn pool(previous: Option<&Pool>) -> Pool {
        let live = Live::offline(Arc::new(SystemResolver::new()), Arc::new(()));
        let endpoint = config::Endpoint::at("users.internal:80", 2);
        let config = config::Upstream { endpoints: vec![endpoint], ..Default::default() };
        Pool::new(&"users".into(), &Parts::of(&config, None, None).pool, &live, previous).unwrap()
    }

    fn found(address: &str, weight: u32, healthy: Option<bool>, zone: &str) -> Found {
        let address: std::net::SocketAddr = address.parse().unwrap();
        let metadata = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        Found { weight, healthy, metadata, ..Found::at(address) }
    }

    fn seen(pool: &Pool) -> Vec<(String, u32, String)> {
        let table = pool.shared.table();
        let endpoints = table.endpoints.iter();
        endpoints.map(|one| (one.name.to_string(), one.weight, one.metadata["zone"].clone())).collect()
    }

    #[test]
    fn what_a_source_says_of_an_endpoint_reaches_the_table_and_the_pool_that_takes_over() {
        let old = pool(None);
        old.shared.publish(
            0,
            Some(vec![found("10.0.0.2:80", 3, Some(true), "b"), found("10.0.0.1:80", 1, Some(false), "a")]),
        );
        let expected = [("10.0.0.1:80".into(), 0, "a".into()), ("10.0.0.2:80".into(), 6, "b".into())];
        assert_eq!(seen(&old), expected);
        let new = pool(Some(&old));
        assert_eq!(seen(&new), expected);
        new.shared.publish(0, Some(vec![found("10.0.0.1:80", 1, None, "c")]));
        assert_eq!(seen(&new), [("10.0.0.1:80".into(), 2, "c".into())]);
        assert_eq!(new.shared.table().endpoints[0].place.zone.as_deref(), Some("c"));
        let endpoints = |pool: &Pool| pool.shared.table().endpoints[0].id();
        assert_eq!(endpoints(&new), endpoints(&old), "its state is kept");
    }

    #[test]
    fn what_is_ordered_of_an_endpoint_counts_in_the_place_of_its_weight_until_it_is_undone() {
        let ordered = |weight: Option<u16>| {
            let stamp = config::Stamp { etag: "1".into(), by: "somebody".into(), at: "then".into() };
            let order = weight.map_or(config::EndpointOrder::Drain, config::EndpointOrder::Weight);
            let ordered = config::OrderedEndpoint { order, stamp };
            Arc::new(EndpointOrders::from([("10.0.0.1:80".to_owned(), ordered)]))
        };
        let both = || Some(vec![found("10.0.0.1:80", 1, None, "a"), found("10.0.0.2:80", 1, None, "b")]);
        let weights = |pool: &Pool| seen(pool).into_iter().map(|(_, weight, _)| weight).collect::<Vec<_>>();
        let old = pool(None);
        // It may be ordered before it is there.
        old.shared.order(ordered(Some(7)));
        old.shared.publish(0, both());
        assert_eq!(weights(&old), [7, 2]);
        let id = |pool: &Pool| pool.shared.table().endpoints[0].id();
        let before = id(&old);
        old.shared.order(ordered(None));
        assert_eq!(weights(&old), [0, 2]);
        let new = pool(Some(&old));
        assert_eq!((weights(&new), id(&new)), (vec![0, 2], before), "a pool that takes over obeys as well");
        new.shared.publish(0, Some(vec![found("10.0.0.1:80", 1, Some(false), "a")]));
        new.shared.order(ordered(Some(7)));
        assert_eq!(weights(&new), [0], "an order makes nobody healthy");
        new.shared.order(Arc::default());
        new.shared.publish(0, both());
        assert_eq!(weights(&new), [2, 2]);
    }

    #[test]
    fn where_an_endpoint_is_whoever_registered_it_one_that_nobody_did_gets_nothing() {
        let recorder = Arc::new(Recorder::default());
        let live = Live::offline(Arc::new(SystemResolver::new()), recorder.clone());
        let tls = serde_yaml::from_str("{verify: {spiffe: registered}}").unwrap();
        let tls = tls::Settings::new(&tls, UpstreamProtocol::Http1, None);
        let tls = Tls::new(&tls).map(|tls| Same(Arc::new(tls))).map_err(|_| "refused").unwrap();
        let endpoints = ["a.internal:80", "b.internal:80"].map(|address| config::Endpoint::at(address, 1));
        let config = config::Upstream { endpoints: endpoints.into(), ..Default::default() };
        let settings = Settings { tls: Some(tls), ..Parts::of(&config, None, None).pool };
        let pool = Pool::new(&"users".into(), &settings, &live, None).map_err(|_| "refused").unwrap();
        let owned = |address: &str, owner: &str| Found {
            owner: identity::parse_id(owner).ok(),
            ..found(address, 1, None, "")
        };
        let seen = || -> Vec<String> {
            let shown = |one: &Arc<Endpoint>| {
                let owners: Vec<String> = one.owners.iter().map(ToString::to_string).collect();
                format!("{} {} {}", one.name, one.weight, owners.join(" "))
            };
            pool.shared.table().endpoints.iter().map(shown).collect()
        };
        let (one, other) = ("spiffe://mesh.local/a", "spiffe://mesh.local/b");
        pool.shared.publish(0, Some(vec![owned("10.0.0.1:80", one), owned("10.0.0.2:80", "")]));
        assert_eq!(seen(), [format!("10.0.0.1:80 1 {one}"), "10.0.0.2:80 0 ".into()]);
        let told: Vec<String> = recorder.take().into_iter().filter(|line| line.contains("TLS")).collect();
        assert_eq!(told, ["TLS 10.0.0.2:80 unregistered"], "once, and only of the one");
        // Registered twice, by two: it may be either, and another registration is another endpoint to its connections.
        pool.shared.publish(1, Some(vec![owned("10.0.0.1:80", other), owned("10.0.0.2:80", other)]));
        assert_eq!(seen(), [format!("10.0.0.1:80 1 {one} {other}"), format!("10.0.0.2:80 1 {other}")]);
        pool.shared.publish(0, Some(Vec::new()));
        assert_eq!(seen(), [format!("10.0.0.1:80 1 {other}"), format!("10.0.0.2:80 1 {other}")]);
    }

    #[test]
    fn what_a_source_calls_unhealthy_is_not_picked() {
        let pool = pool(None);
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(1);
        pool.shared.publish(0, Some(vec![found("10.0.0.1:80", 1, Some(false), "a")]));
        assert!(pool.shared.table().pick(None, &[], now, &mut rng).is_none());
        pool.shared.publish(0, Some(vec![found("10.0.0.1:80", 1, Some(true), "a")]));
        assert!(pool.shared.table().pick(None, &[], now, &mut rng).is_some());
    }
}
