//! One address that requests can be sent to, with its live state: requests in flight, response time, health.
//! The state sits behind its own `Arc`s, because an endpoint's settings may change while its load does not: a
//! reload makes a new `Endpoint` on the same load, so that no request in flight is forgotten.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use pingora_core::{protocols::l4::socket::SocketAddr as PeerAddress, upstreams::peer::HttpPeer};

use crate::{
    policy::{
        balance::PeakEwma,
        breaker::{self, Permit},
        failure::Outcome,
    },
    sharded::Padded,
    upstream::{
        Observer,
        health::Tracker,
        protection::{Circuit, Guard, Wanted},
        source::name_of,
    },
};

pub struct Endpoint {
    /// `ip:port`, or `unix:/path`.
    pub name: Arc<str>,
    pub address: PeerAddress,
    /// As configured: for an address that came from DNS its `host:port`, else the same as `name`.
    pub origin: Arc<str>,
    /// 0 to 65,535; 0 drains the endpoint.
    pub weight: u32,
    /// What its source says of it beside, by name.
    pub metadata: BTreeMap<String, String>,
    load: Arc<Load>,
    health: Arc<HealthCell>,
    guard: Guard,
}

/// What may change of an endpoint while it stays the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub weight: u32,
    pub origin: Arc<str>,
    pub metadata: BTreeMap<String, String>,
}

/// What health checks say about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No health check is configured: taken to be healthy.
    Unchecked,
    /// Not probed yet: not picked.
    Unknown,
    Healthy,
    Unhealthy,
}

/// A request on its way to an endpoint, from the moment it is chosen until this is dropped.
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    pass: Option<Pass>,
}

/// Leave of a circuit breaker, which has to hear how it ended.
struct Pass {
    circuit: Arc<Circuit>,
    permit: Permit,
}

impl Endpoint {
    /// An endpoint nobody has seen before, or seen only as `load`.
    pub(super) fn new(
        address: PeerAddress,
        Settings { weight, origin, metadata }: Settings,
        load: Arc<Load>,
        checked: bool,
        guard: Guard,
    ) -> Endpoint {
        let health = if checked { Health::Unknown } else { Health::Unchecked };
        Endpoint {
            name: load.name.clone(),
            address,
            origin,
            weight,
            metadata,
            load,
            health: Arc::new(HealthCell::new(health, Tracker::default())),
            guard,
        }
    }

    /// A passing one: where one connection was meant to go. `load` is that of all these.
    pub(super) fn passing(address: std::net::SocketAddr, load: Arc<Load>) -> Endpoint {
        let name: Arc<str> = address.to_string().into();
        let health = HealthCell::new(Health::Unchecked, Tracker::default());
        Endpoint {
            name: name.clone(),
            address: PeerAddress::Inet(address),
            origin: name,
            weight: 1,
            metadata: BTreeMap::new(),
            load,
            health: Arc::new(health),
            guard: Guard::default(),
        }
    }

    /// The same endpoint with other settings; both share all live state.
    pub(super) fn with_settings(&self, Settings { weight, origin, metadata }: Settings) -> Endpoint {
        Endpoint {
            name: self.name.clone(),
            address: self.address.clone(),
            origin,
            weight,
            metadata,
            load: self.load.clone(),
            health: self.health.clone(),
            guard: self.guard.clone(),
        }
    }

    /// The same endpoint under another configuration: the load is shared, and health goes on from a copy, so that
    /// the old check, which may run as long as a request holds the old configuration, does not disturb the new.
    pub(super) fn under_new(&self, settings: Settings, checked: bool, wanted: &Wanted<'_>) -> Endpoint {
        let (health, tracker) = match (self.health(), checked) {
            (_, false) => (Health::Unchecked, Tracker::default()),
            // It serves already: a check that is new must not take it out before having looked.
            (Health::Unchecked, true) => (Health::Healthy, Tracker::default()),
            (health, true) => (health, *self.health.tracker()),
        };
        let health = Arc::new(HealthCell::new(health, tracker));
        let guard = wanted.guard(Some(&self.guard), Instant::now());
        Endpoint { health, guard, ..self.with_settings(settings) }
    }

    /// Pingora's view of it, without TLS and with no timeouts yet.
    pub fn peer(&self) -> HttpPeer {
        peer_at(&self.address)
    }

    /// The same for as long as the upstream knows this address; unique within the process.
    pub fn id(&self) -> u64 {
        self.load.id
    }

    /// What it is counted under: its name, but for one that clients choose.
    pub fn label(&self) -> &str {
        &self.load.name
    }

    /// Counts a request until the answer is dropped. `None` when the breaker lets nobody through any more: others were
    /// faster.
    pub(super) fn start(self: &Arc<Self>, now: Instant) -> Option<InFlight> {
        let pass = match &self.guard.circuit {
            Some(circuit) => {
                Some(Pass { permit: circuit.breaker.enter(now)?, circuit: circuit.shared().clone() })
            }
            None => None,
        };
        self.load.active.fetch_add(1, Ordering::Relaxed);
        Some(InFlight { endpoint: self.clone(), pass })
    }

    /// What the caller keeps with this address for as long as it is known, made when first asked for: a handle found
    /// here costs no lookup by name. There is one place, so all callers must ask for the same type.
    pub fn attached<T: Clone + Send + Sync + 'static>(&self, make: impl Fn() -> T) -> T {
        let attachment = self.load.attachment.get_or_init(|| Box::new(make()));
        attachment.downcast_ref().cloned().unwrap_or_else(make)
    }

    /// Requests in flight.
    pub fn active(&self) -> usize {
        self.load.active.load(Ordering::Relaxed)
    }

    /// Learns from an answer. Not to be told of failed attempts: a quick failure would look like a fast endpoint.
    pub fn observe(&self, response_time: Duration, now: Instant) {
        lock(&self.load.ewma).observe(response_time, now);
    }

    /// Expected response time in seconds; `None` where nothing is known.
    pub fn latency(&self, now: Instant) -> Option<f64> {
        lock(&self.load.ewma).seconds(now)
    }

    pub fn health(&self) -> Health {
        self.health.load()
    }

    /// Whether health checks let requests be sent here, weight aside.
    pub fn is_usable(&self) -> bool {
        matches!(self.health(), Health::Healthy | Health::Unchecked)
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        self.guard.is_ejected(now)
    }

    /// Whether it could not be connected to a moment ago: to be picked only where there is no other.
    pub(super) fn is_refusing(&self, now: Instant) -> bool {
        let until = self.load.refuses_until.load(Ordering::Relaxed);
        until != 0 && now.saturating_duration_since(self.load.made).as_nanos() < u128::from(until)
    }

    /// Whether nobody has reached it since it could not be connected to, or since health checks gave it up.
    pub(super) fn is_lost(&self) -> bool {
        self.load.refuses_until.load(Ordering::Relaxed) != 0 || self.health() == Health::Unhealthy
    }

    /// An attempt ended so.
    pub(super) fn met(&self, outcome: Outcome, now: Instant) {
        let refuses_until = &self.load.refuses_until;
        if outcome == Outcome::ConnectFailed {
            let until = now.saturating_duration_since(self.load.made) + AVOIDED;
            refuses_until.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        } else if refuses_until.load(Ordering::Relaxed) != 0 {
            refuses_until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether what is wrong with it may be told now: not again for each request.
    pub(super) fn may_complain(&self, now: Instant) -> bool {
        let at = now.saturating_duration_since(self.load.made).as_secs();
        let next = self.load.complains_from.load(Ordering::Relaxed);
        let silent_until = at + COMPLAINTS.as_secs();
        let order = Ordering::Relaxed;
        at >= next && self.load.complains_from.compare_exchange(next, silent_until, order, order).is_ok()
    }

    /// The circuit breaker, where there is one.
    pub fn circuit(&self) -> Option<&Circuit> {
        self.guard.circuit.as_deref()
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Takes the outcome of a probe in. `threshold` is the number of equal outcomes in a row that turn an opposite
    /// state. Answers the new state where it changed.
    pub(super) fn probed(&self, ok: bool, threshold: usize) -> Option<Health> {
        let verdict = self.health.tracker().record(ok, threshold)?;
        let health = if verdict { Health::Healthy } else { Health::Unhealthy };
        if health == Health::Healthy {
            self.guard.begin(Instant::now());
        }
        self.health.store(health);
        Some(health)
    }

    /// Whether no probe of the present check has come back yet.
    pub(super) fn is_undecided(&self) -> bool {
        self.health.tracker().is_undecided()
    }

    pub(super) fn load(&self) -> &Arc<Load> {
        &self.load
    }
}

impl InFlight {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether a breaker became half-open to let it through.
    pub(super) fn half_opens(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.permit.half_opens)
    }

    /// Tells the breaker how it ended; the breaker's new state where it changed. The first time counts.
    pub(super) fn settle(&mut self, outcome: Outcome, now: Instant) -> Option<breaker::State> {
        let Pass { circuit, permit } = self.pass.take()?;
        circuit.settle(permit, outcome, now)
    }

    /// The endpoint has begun to answer what may be a long stream. A probe has seen enough: it would hold its place for as
    /// long.
    pub(super) fn lives(&mut self, now: Instant) -> Option<breaker::State> {
        let probes = |pass: &mut Pass| pass.circuit.breaker.state(now) == breaker::State::HalfOpen;
        let Pass { circuit, permit } = self.pass.take_if(|pass| probes(pass))?;
        circuit.settle(permit, Outcome::Success, now)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(Pass { circuit, permit }) = self.pass.take() {
            // Nobody said how it ended: the client left, or a hedge lost.
            circuit.breaker.settle(permit, breaker::Outcome::Abandoned, Instant::now());
        }
        self.endpoint.load.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A peer at an address of either kind, for which Pingora has no constructor.
pub(super) fn peer_at(address: &PeerAddress) -> HttpPeer {
    let mut peer = HttpPeer::new(std::net::SocketAddr::from(([0, 0, 0, 0], 0)), false, String::new());
    peer._address = address.clone();
    peer
}

/// What an address carries, whoever configures it. Its life is the endpoint's life for observers: it lasts until
/// the last request to it has ended, even when the endpoint is gone from the configuration.
pub(super) struct Load {
    id: u64,
    upstream: Arc<str>,
    name: Arc<str>,
    /// By itself: each request writes it, and reads what is beside it.
    active: Padded<AtomicUsize>,
    ewma: Mutex<PeakEwma>,
    observer: Arc<dyn Observer>,
    attachment: OnceLock<Box<dyn Any + Send + Sync>>,
    /// What `refuses_until` counts from: an `Instant` does not fit an atomic.
    made: Instant,
    /// Nanoseconds; 0 where the last connection was made.
    refuses_until: AtomicU64,
    /// Seconds since `made`.
    complains_from: AtomicU64,
}

/// An endpoint that could not be connected to is asked last for this long. Else each request that it is given costs a
/// retry, and the budget is soon spent, although other endpoints serve.
const AVOIDED: Duration = Duration::from_secs(1);
/// The same trouble with an endpoint is explained this often.
const COMPLAINTS: Duration = Duration::from_secs(60);

impl Load {
    pub(super) fn new(
        id: u64,
        upstream: &Arc<str>,
        address: &PeerAddress,
        observer: &Arc<dyn Observer>,
    ) -> Arc<Load> {
        Load::named(id, upstream, name_of(address), observer)
    }

    pub(super) fn named(
        id: u64,
        upstream: &Arc<str>,
        name: Arc<str>,
        observer: &Arc<dyn Observer>,
    ) -> Arc<Load> {
        observer.endpoint_added(upstream, &name);
        Arc::new(Load {
            id,
            upstream: upstream.clone(),
            name,
            active: Padded::default(),
            ewma: Mutex::default(),
            observer: observer.clone(),
            attachment: OnceLock::new(),
            made: Instant::now(),
            refuses_until: AtomicU64::new(0),
            complains_from: AtomicU64::new(0),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.observer.endpoint_removed(&self.upstream, &self.name);
    }
}

/// `state` is what picking reads, `tracker` how it came to be.
struct HealthCell {
    state: AtomicU8,
    tracker: Mutex<Tracker>,
}

impl HealthCell {
    fn new(health: Health, tracker: Tracker) -> HealthCell {
        HealthCell { state: AtomicU8::new(health as u8), tracker: Mutex::new(tracker) }
    }

    fn load(&self) -> Health {
        const ALL: [Health; 4] = [Health::Unchecked, Health::Unknown, Health::Healthy, Health::Unhealthy];
        ALL[usize::from(self.state.load(Ordering::Relaxed)) % ALL.len()]
    }

    fn store(&self, health: Health) {
        self.state.store(health as u8, Ordering::Relaxed);
    }

    fn tracker(&self) -> MutexGuard<'_, Tracker> {
        lock(&self.tracker)
    }
}

/// What these locks guard is valid at every step, so a panic elsewhere while one was held does not matter.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{protection, tests::Recorder};

    fn endpoint(checked: bool, recorder: &Arc<Recorder>) -> Arc<Endpoint> {
        let observer: Arc<dyn Observer> = recorder.clone();
        let address = PeerAddress::Inet("127.0.0.1:80".parse().unwrap());
        let load = Load::new(1, &"users".into(), &address, &observer);
        Arc::new(Endpoint::new(address, settings(1, "a:80"), load, checked, Guard::default()))
    }

    fn settings(weight: u32, origin: &str) -> Settings {
        Settings { weight, origin: origin.into(), metadata: BTreeMap::new() }
    }

    fn start(endpoint: &Arc<Endpoint>) -> InFlight {
        endpoint.start(Instant::now()).unwrap()
    }

    fn under_new(endpoint: &Endpoint, weight: u32, origin: &str) -> Endpoint {
        let guard = protection::Settings { circuit_breaker: None, outlier: None, slow_start: None };
        endpoint.under_new(settings(weight, origin), true, &Wanted::new(&guard, None))
    }

    #[test]
    fn one_that_refused_is_avoided_until_it_is_reached_or_a_second_has_passed() {
        let (endpoint, now) = (endpoint(false, &Arc::default()), Instant::now());
        endpoint.met(Outcome::Success, now);
        assert!(!endpoint.is_refusing(now));
        endpoint.met(Outcome::ConnectFailed, now);
        assert!(endpoint.is_refusing(now));
        assert!(!endpoint.is_refusing(now + AVOIDED));
        endpoint.met(Outcome::ServerError, now);
        assert!(!endpoint.is_refusing(now), "it answered");
    }

    #[test]
    fn counts_requests_while_their_guards_live() {
        let endpoint = endpoint(false, &Arc::default());
        let (one, two) = (start(&endpoint), start(&endpoint));
        assert_eq!(endpoint.active(), 2);
        drop(one);
        assert_eq!(endpoint.active(), 1);
        drop(two);
        assert_eq!(endpoint.active(), 0);
    }

    #[test]
    fn is_removed_for_observers_only_when_its_last_request_ends() {
        let recorder = Arc::new(Recorder::default());
        let endpoint = endpoint(false, &recorder);
        let request = start(&endpoint);
        drop(endpoint);
        assert_eq!(recorder.take(), ["added 127.0.0.1:80"]);
        drop(request);
        assert_eq!(recorder.take(), ["removed 127.0.0.1:80"]);
    }

    #[test]
    fn the_first_probe_alone_decides() {
        let endpoint = endpoint(true, &Arc::default());
        assert_eq!(endpoint.health(), Health::Unknown);
        assert!(!endpoint.is_usable());
        assert_eq!(endpoint.probed(true, 3), Some(Health::Healthy));
        assert!(endpoint.is_usable());
    }

    #[test]
    fn a_new_check_keeps_a_serving_endpoint_in_until_its_first_probe() {
        let old = endpoint(false, &Arc::default());
        let new = under_new(&old, 1, "a:80");
        assert_eq!(new.health(), Health::Healthy);
        assert_eq!(new.probed(false, 3), Some(Health::Unhealthy), "the first probe needs no threshold");
        assert_eq!(old.health(), Health::Unchecked);
    }

    #[test]
    fn state_survives_changed_settings() {
        let old = endpoint(true, &Arc::default());
        old.probed(false, 1);
        let _request = start(&old);
        let now = Instant::now();
        old.observe(Duration::from_secs(1), now);
        for new in [old.with_settings(settings(9, "b:80")), under_new(&old, 9, "b:80")] {
            assert_eq!((new.health(), new.active(), new.id()), (Health::Unhealthy, 1, old.id()));
            assert_eq!(new.latency(now), Some(1.0));
            assert_eq!(new.weight, 9);
        }
    }
}
