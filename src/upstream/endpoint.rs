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
        avoidance::Avoidance,
        balance::PeakEwma,
        breaker::{self, Permit},
        failure::Outcome,
        outlier::Standing,
        recent_failures::RecentFailures,
        silence::{Pace, Silence, sooner},
    },
    sharded::Padded,
    upstream::{
        Observer,
        connections::{Connected, Generation},
        health::Tracker,
        placement::Place,
        protection::{Circuit, Guard, Wanted},
        registry::Owners,
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
    /// Whose certificate it must show, where that is whoever has registered it.
    pub owners: Owners,
    pub place: Place,
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
    pub owners: Owners,
    pub place: Place,
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
    /// It is to be answered at once.
    is_owed: bool,
    /// The head of the answer was there.
    has_begun: bool,
}

/// What silence is long, for the endpoints of one upstream.
pub(super) struct Patience {
    pub pace: Arc<Pace>,
    /// `None`: any silence is borne.
    pub max_silence: Option<Duration>,
    /// Requests belong to an endpoint, and are sent elsewhere for nothing less than what they would leave it for.
    pub has_affinity: bool,
}

impl Patience {
    /// With health checks that say the same, this is long enough.
    pub(super) const UNHEALTHY: Duration = Duration::from_secs(1);

    fn least(&self) -> Option<Duration> {
        self.max_silence.map(|most| if self.has_affinity { most } else { sooner(most) })
    }
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
        Settings { weight, origin, metadata, owners, place }: Settings,
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
            owners,
            place,
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
            owners: Owners::default(),
            place: Place::default(),
            load,
            health: Arc::new(health),
            guard: Guard::default(),
        }
    }

    /// The same endpoint with other settings; both share all live state.
    pub(super) fn with_settings(&self, settings: Settings) -> Endpoint {
        let Settings { weight, origin, metadata, owners, place } = settings;
        Endpoint {
            name: self.name.clone(),
            address: self.address.clone(),
            origin,
            weight,
            metadata,
            owners,
            place,
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

    /// Counts a request until the answer is dropped. `None` when the breaker lets nobody through any more, or another request
    /// finds out whether it can be reached: others were faster. Or when it has fallen silent.
    pub(super) fn start(self: &Arc<Self>, patience: &Patience, now: Instant) -> Option<InFlight> {
        if !self.load.avoidance.is_on() && self.is_suspect(patience, now) {
            self.fell_silent(now);
            return None;
        }
        if !self.load.avoidance.enter(now) {
            return None;
        }
        self.start_anyway(now)
    }

    pub(super) fn is_suspect(&self, patience: &Patience, now: Instant) -> bool {
        let silence = &self.load.traffic.silence;
        patience.least().is_some_and(|least| silence.is_suspect(&patience.pace, least, now))
    }

    /// Whether those that wait here for an answer had better ask one of the `others`: it has been silent for too long while they
    /// have not, or health checks have given it up and nothing is heard of it. One that drains is unhealthy, too, and finishes
    /// what it has.
    pub(super) fn is_hopeless(&self, others: &[Arc<Endpoint>], patience: &Patience, now: Instant) -> bool {
        let silence = &self.load.traffic.silence;
        let mut others = others.iter().filter(|other| {
            other.id() != self.id() && other.is_well(now) && !other.is_suspect(patience, now)
        });
        if self.health() == Health::Unhealthy {
            let least = patience.max_silence.unwrap_or(Patience::UNHEALTHY);
            return silence.is_quiet(&patience.pace, least, now) && others.next().is_some();
        }
        let Some(most) = patience.max_silence else { return false };
        // Where nobody new has come, nobody has found that out.
        if !self.load.avoidance.is_for_silence() && self.is_suspect(patience, now) {
            self.fell_silent(now);
        }
        self.load.avoidance.is_for_silence()
            && silence.is_hopeless(&patience.pace, most, now)
            && others.any(|other| silence.is_outlived_by(&other.load.traffic.silence, most))
    }

    /// Whether it can be reached or not: there is no other.
    pub(super) fn start_anyway(self: &Arc<Self>, now: Instant) -> Option<InFlight> {
        let pass = match &self.guard.circuit {
            Some(circuit) => {
                Some(Pass { permit: circuit.breaker.enter(now)?, circuit: circuit.shared().clone() })
            }
            None => None,
        };
        self.load.traffic.active.fetch_add(1, Ordering::Relaxed);
        Some(InFlight { endpoint: self.clone(), pass, is_owed: false, has_begun: false })
    }

    /// What the caller keeps with this address for as long as it is known, made when first asked for: a handle found
    /// here costs no lookup by name. There is one place, so all callers must ask for the same type.
    pub fn attached<T: Clone + Send + Sync + 'static>(&self, make: impl Fn() -> T) -> T {
        let attachment = self.load.attachment.get_or_init(|| Box::new(make()));
        attachment.downcast_ref().cloned().unwrap_or_else(make)
    }

    /// Requests in flight.
    pub fn active(&self) -> usize {
        self.load.traffic.active.load(Ordering::Relaxed)
    }

    /// Learns from an answer.
    pub fn observe(&self, response_time: Duration, now: Instant) {
        self.load.traffic.response_time.observe(response_time, now);
    }

    /// Expected response time in seconds; `None` where nothing is known.
    pub fn latency(&self, now: Instant) -> Option<f64> {
        self.load.traffic.response_time.seconds(now)
    }

    /// In seconds, as of the last answer; `None` before the first.
    pub fn response_time(&self) -> Option<f64> {
        self.load.traffic.response_time.last_seconds()
    }

    /// Tries that failed a moment ago, and count as being in flight.
    pub(super) fn recent_failures(&self, now: Instant) -> usize {
        self.load.traffic.failures.count(now)
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

    /// Whether it has a share of the requests, its circuit breaker aside.
    pub(super) fn serves(&self, now: Instant) -> bool {
        self.weight > 0 && self.is_usable() && !self.is_ejected(now)
    }

    /// Whether it serves, and nothing is known against it.
    pub(super) fn is_well(&self, now: Instant) -> bool {
        self.serves(now) && !self.is_lost()
    }

    /// How it does, where ejection keeps count.
    pub(super) fn standing(&self) -> Option<Standing> {
        Some(self.guard.ejection.as_ref()?.outlier.standing())
    }

    /// Whether it is to be picked only where there is no other: it could not be connected to, or has fallen silent.
    pub fn is_avoided(&self, now: Instant) -> bool {
        self.load.avoidance.avoids(now)
    }

    /// Whether it is avoided, or would be but for the request that is due to find out whether it is back.
    pub fn is_on_probation(&self) -> bool {
        self.load.avoidance.is_on()
    }

    /// Whether nobody has reached it since it could not be connected to, or since health checks gave it up.
    pub(super) fn is_lost(&self) -> bool {
        self.is_on_probation() || self.health() == Health::Unhealthy
    }

    /// An attempt ended so.
    pub(super) fn met(&self, outcome: Outcome, now: Instant) {
        if outcome != Outcome::Success {
            self.load.traffic.failures.failed(now);
        }
        match outcome {
            Outcome::ConnectFailed => {
                if self.load.avoidance.failed(now) {
                    self.load.avoidance_changed(Err("no connection could be made"));
                }
            }
            // It may still be as silent as before.
            Outcome::Timeout => {}
            Outcome::Success | Outcome::Reset | Outcome::ServerError => {
                if self.load.avoidance.answered() {
                    self.load.avoidance_changed(Ok(()));
                }
            }
        }
    }

    /// A connection to it was made, and it is who it should be. Others may come, though the request that has found out may wait
    /// long for its answer.
    pub fn reached(&self) {
        if self.load.avoidance.reached() {
            self.load.avoidance_changed(Ok(()));
        }
    }

    fn fell_silent(&self, now: Instant) {
        if self.load.avoidance.fell_silent(now) {
            self.load.avoidance_changed(Err("it owes answers and gives none"));
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
        match verdict {
            true => self.guard.begin(Instant::now()),
            false => self.forget_connections(),
        }
        self.health.store(health);
        Some(health)
    }

    /// Of the connections that are opened from now on.
    pub fn generation(&self) -> Generation {
        Generation::of(&self.load.connected)
    }

    /// None of the connections that are there is used again: they are held to be dead.
    pub fn forget_connections(&self) {
        self.load.connected.forget();
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

    /// Whether the head of its answer was there.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// It is sent whole, so that the endpoint can answer at once.
    pub fn is_asked(&mut self, now: Instant) {
        if !self.is_owed {
            self.is_owed = true;
            self.endpoint.load.traffic.silence.asked(now);
        }
    }

    /// The endpoint has shown that it lives.
    pub(super) fn heard(&mut self, now: Instant) {
        self.no_longer_owed();
        self.endpoint.load.traffic.silence.heard(now);
    }

    pub fn no_longer_owed(&mut self) {
        if std::mem::take(&mut self.is_owed) {
            self.endpoint.load.traffic.silence.settled();
        }
    }

    /// Tells the breaker how it ended; the breaker's new state where it changed. The first time counts.
    pub(super) fn settle(&mut self, outcome: Outcome, now: Instant) -> Option<breaker::State> {
        let Pass { circuit, permit } = self.pass.take()?;
        circuit.settle(permit, outcome, now)
    }

    /// The endpoint has begun to answer what may be a long stream. A probe has seen enough: it would hold its place for as
    /// long.
    pub(super) fn lives(&mut self, now: Instant) -> Option<breaker::State> {
        self.has_begun = true;
        self.heard(now);
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
        self.no_longer_owed();
        self.endpoint.load.traffic.active.fetch_sub(1, Ordering::Relaxed);
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
    traffic: Padded<Traffic>,
    observer: Arc<dyn Observer>,
    attachment: OnceLock<Box<dyn Any + Send + Sync>>,
    avoidance: Avoidance,
    connected: Arc<Connected>,
    /// What `complains_from` counts from: an `Instant` does not fit an atomic.
    made: Instant,
    /// Seconds since `made`.
    complains_from: AtomicU64,
}

/// The same trouble with an endpoint is explained this often.
const COMPLAINTS: Duration = Duration::from_secs(60);

struct Traffic {
    active: AtomicUsize,
    silence: Silence,
    response_time: PeakEwma,
    failures: RecentFailures,
}

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
        let made = Instant::now();
        Arc::new(Load {
            id,
            upstream: upstream.clone(),
            name,
            traffic: Traffic {
                active: AtomicUsize::new(0),
                silence: Silence::new(made),
                response_time: PeakEwma::new(made),
                failures: RecentFailures::new(made),
            }
            .into(),
            observer: observer.clone(),
            attachment: OnceLock::new(),
            avoidance: Avoidance::new(made),
            connected: Arc::default(),
            made,
            complains_from: AtomicU64::new(0),
        })
    }

    fn avoidance_changed(&self, outcome: Result<(), &str>) {
        self.observer.avoidance_changed(&self.upstream, &self.name, outcome);
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
        Settings {
            weight,
            origin: origin.into(),
            metadata: BTreeMap::new(),
            owners: Owners::default(),
            place: Place::default(),
        }
    }

    fn patience() -> Patience {
        let pace = Pace::new(Instant::now()).into();
        Patience { pace, max_silence: Some(Duration::from_secs(1)), has_affinity: false }
    }

    /// Than any endpoint of a test: nothing is told that happened before.
    fn later_than_made() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    /// Owes enough answers.
    fn asked(endpoint: &Arc<Endpoint>, now: Instant) -> Vec<InFlight> {
        let mut asked: Vec<InFlight> = (0..5).map(|_| endpoint.start(&patience(), now).unwrap()).collect();
        asked.iter_mut().for_each(|request| request.is_asked(now));
        asked
    }

    /// Has answered at `now`, and owes nothing.
    fn other(now: Instant) -> Arc<Endpoint> {
        let observer: Arc<dyn Observer> = Arc::new(());
        let address = PeerAddress::Inet("127.0.0.1:81".parse().unwrap());
        let load = Load::new(2, &"users".into(), &address, &observer);
        let other = Arc::new(Endpoint::new(address, settings(1, "b:81"), load, false, Guard::default()));
        start(&other).heard(now);
        other
    }

    fn start(endpoint: &Arc<Endpoint>) -> InFlight {
        endpoint.start(&patience(), Instant::now()).unwrap()
    }

    fn under_new(endpoint: &Endpoint, weight: u32, origin: &str) -> Endpoint {
        let guard = protection::Settings { circuit_breaker: None, outlier: None, slow_start: None };
        endpoint.under_new(settings(weight, origin), true, &Wanted::new(&guard, None))
    }

    #[test]
    fn one_that_could_not_be_reached_is_avoided_until_it_answers() {
        let (endpoint, now) = (endpoint(false, &Arc::default()), Instant::now());
        endpoint.met(Outcome::Success, now);
        assert!(!endpoint.is_avoided(now));
        endpoint.met(Outcome::ConnectFailed, now);
        assert!(endpoint.is_avoided(now));
        endpoint.met(Outcome::ServerError, now);
        assert!(!endpoint.is_avoided(now), "it answered");
    }

    #[test]
    fn one_that_is_reached_again_is_avoided_no_longer_unless_it_was_silent() {
        let (recorder, now) = (Arc::new(Recorder::default()), later_than_made());
        let endpoint = endpoint(false, &recorder);
        recorder.take();
        endpoint.reached();
        endpoint.met(Outcome::ConnectFailed, now);
        endpoint.reached();
        assert!(!endpoint.is_on_probation());
        assert_eq!(recorder.take(), ["avoided 127.0.0.1:80", "no longer avoided 127.0.0.1:80"]);
        endpoint.fell_silent(now);
        endpoint.reached();
        assert!(endpoint.is_on_probation());
    }

    #[test]
    fn one_request_at_a_time_finds_out_whether_it_is_back() {
        let (endpoint, now) = (endpoint(false, &Arc::default()), Instant::now());
        endpoint.met(Outcome::ConnectFailed, now);
        let due = now + Duration::from_secs(1);
        assert!(!endpoint.is_avoided(due) && endpoint.start(&patience(), due).is_some());
        assert!(endpoint.is_avoided(due));
    }

    #[test]
    fn one_that_has_fallen_silent_is_avoided_and_given_up_until_it_answers() {
        let (recorder, now, patience) = (Arc::new(Recorder::default()), later_than_made(), patience());
        let endpoint = endpoint(false, &recorder);
        let mut asked = asked(&endpoint, now);
        let [soon, later] = [100, 1000].map(|millis| now + Duration::from_millis(millis));
        let others = [other(soon)];
        let is_hopeless = |now| endpoint.is_hopeless(&others, &patience, now);
        recorder.take();
        assert!(endpoint.start(&patience, soon).is_none());
        assert!(endpoint.is_avoided(soon) && !is_hopeless(soon), "it is only chosen last");
        assert!(is_hopeless(later));
        asked[0].heard(later);
        endpoint.met(Outcome::Success, later);
        assert!(!endpoint.is_avoided(later) && !is_hopeless(later));
        assert_eq!(recorder.take(), ["avoided 127.0.0.1:80", "no longer avoided 127.0.0.1:80"]);
        drop(asked);
        let much_later = now + Duration::from_secs(60);
        assert!(endpoint.start(&patience, much_later).is_some(), "nothing is owed");
    }

    #[test]
    fn nobody_leaves_for_one_that_is_no_better() {
        let (now, patience) = (later_than_made(), patience());
        let endpoint = endpoint(false, &Arc::default());
        let _asked = asked(&endpoint, now);
        let later = now + Duration::from_secs(2);
        let is_hopeless =
            |other: &Arc<Endpoint>| endpoint.is_hopeless(std::slice::from_ref(other), &patience, later);
        assert!(!is_hopeless(&other(now - Duration::from_millis(1))), "it has answered nothing since");
        assert!(is_hopeless(&other(now + Duration::from_millis(1))));
        let unreachable = other(later);
        unreachable.met(Outcome::ConnectFailed, later);
        assert!(!is_hopeless(&unreachable));
        let silent = other(now);
        let _owed = asked(&silent, now + Duration::from_secs(1));
        assert!(!is_hopeless(&silent));
        assert!(!endpoint.is_hopeless(&[], &patience, later));
    }

    #[test]
    fn a_slow_answer_of_one_that_could_not_be_reached_before_is_waited_for() {
        let (now, patience) = (later_than_made(), patience());
        let endpoint = endpoint(false, &Arc::default());
        endpoint.met(Outcome::ConnectFailed, now);
        let due = now + Duration::from_secs(1);
        let mut probe = endpoint.start(&patience, due).unwrap();
        probe.is_asked(due);
        let later = due + Duration::from_secs(30);
        assert!(!endpoint.is_hopeless(&[other(later)], &patience, later));
    }

    #[test]
    fn requests_that_belong_to_an_endpoint_stay_as_long_as_those_that_wait_there() {
        let (now, patience) = (later_than_made(), Patience { has_affinity: true, ..patience() });
        let endpoint = endpoint(false, &Arc::default());
        let _asked = asked(&endpoint, now);
        assert!(endpoint.start(&patience, now + Duration::from_millis(999)).is_some());
        assert!(endpoint.start(&patience, now + Duration::from_millis(1000)).is_none());
    }

    #[test]
    fn one_that_health_checks_have_given_up_is_left_when_it_is_silent_as_well() {
        let endpoint = endpoint(true, &Arc::default());
        let (now, mut patience) = (later_than_made(), patience());
        let mut request = start(&endpoint);
        request.is_asked(now);
        let others = [other(now)];
        let at = |millis| now + Duration::from_millis(millis);
        endpoint.probed(true, 1);
        assert!(!endpoint.is_hopeless(&others, &patience, at(1000)), "one answer may be slow");
        endpoint.probed(false, 1);
        assert!(!endpoint.is_hopeless(&others, &patience, at(999)), "it may be draining");
        assert!(endpoint.is_hopeless(&others, &patience, at(1000)));
        assert!(!endpoint.is_hopeless(&[], &patience, at(1000)));
        patience.max_silence = None;
        assert!(endpoint.is_hopeless(&others, &patience, at(1000)), "without ejection, too");
        patience.pace.observe(Duration::from_secs(3), now);
        assert!(!endpoint.is_hopeless(&others, &patience, at(2999)), "it finishes what usually takes long");
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
