//! The endpoints of an upstream at one moment, with the balancer built for them. Immutable but for the balancer's own
//! position; replaced as a whole when an endpoint comes or goes, and read without a lock.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex},
    time::Instant,
};

use crate::{
    config::Balancer,
    policy::{
        balance::{self, Candidates, Look, Smooth},
        outlier::{Balance, panic_threshold},
        rendezvous::Places,
    },
};

use super::{
    affinity::Away,
    endpoint::{Endpoint, lock},
    placement::Placement,
};

pub(super) struct Table {
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// Where not all of them stand alike.
    pub(super) placement: Option<Placement>,
    selector: Selector,
    /// 0 to 1; 0 is off.
    panic_threshold: f64,
}

enum Selector {
    Smooth(Mutex<Smooth>),
    LeastRequests(Mutex<Smooth>),
    Random,
    TwoChoices(Mutex<Smooth>),
    Hash(Places),
}

thread_local! {
    static LOOK: RefCell<Look> = RefCell::default();
}

impl Table {
    /// For a gateway in `zone`.
    pub(crate) fn new(
        endpoints: Vec<Arc<Endpoint>>,
        balancer: &Balancer,
        panic_threshold: f64,
        zone: Option<&str>,
    ) -> Table {
        let turns = || Mutex::new(Smooth::new(endpoints.len()));
        let selector = match balancer {
            Balancer::RoundRobin => Selector::Smooth(turns()),
            Balancer::LeastRequests => Selector::LeastRequests(turns()),
            Balancer::Random => Selector::Random,
            Balancer::P2cEwma => Selector::TwoChoices(turns()),
            Balancer::Hash(_) => {
                Selector::Hash(Places::new(endpoints.iter().map(|endpoint| &*endpoint.name)))
            }
        };
        let placement = Placement::of(&endpoints, zone);
        Table { endpoints: endpoints.into(), placement, selector, panic_threshold }
    }

    /// Whether so few endpoints are healthy that all are taken for it.
    pub(crate) fn panics(&self, now: Instant) -> bool {
        if self.panic_threshold == 0.0 {
            return false;
        }
        let serving = self.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
        let usable = serving.clone().filter(|endpoint| endpoint.is_usable() && !endpoint.is_ejected(now));
        panic_threshold(usable.count(), serving.count(), self.panic_threshold) == Balance::OverAll
    }

    /// Whether any endpoint may be picked.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        let row = self.row(&[], now);
        (0..row.len()).any(|index| row.usable(index) && row.weight(index) > 0)
    }

    /// A usable endpoint whose id is not in `tried`. Without a key a hash balancer picks at random.
    pub(crate) fn pick(
        &self,
        key: Option<&[u8]>,
        tried: &[u64],
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<&Arc<Endpoint>> {
        let row = self.row(tried, now);
        let found = match &self.placement {
            Some(placement) => self.pick_placed(placement, key, &row, rng),
            None => {
                let found = self.select(key, &Row { spares: true, ..row }, rng);
                found.or_else(|| self.select(key, &row, rng))
            }
        };
        self.endpoints.get(found?)
    }

    /// Why the endpoint at `place` gets nothing now, not even what belongs to it.
    pub(super) fn away(&self, place: usize, now: Instant) -> Option<Away> {
        let row = Row { spares: true, ..self.row(&[], now) };
        let endpoint = self.endpoints.get(place)?;
        if endpoint.weight > 0 && row.usable(place) {
            return None;
        }
        Some(match () {
            () if endpoint.weight == 0 => Away::Draining,
            () if !row.panics && !endpoint.is_usable() => Away::Unhealthy,
            () if !row.panics && endpoint.is_ejected(now) => Away::Ejected,
            () if !endpoint.guard().admits(now) => Away::CircuitOpen,
            () => Away::Unreachable,
        })
    }

    /// All of them, those that are chosen last included.
    pub(super) fn row<'a>(&'a self, tried: &'a [u64], now: Instant) -> Row<'a> {
        let panics = self.panics(now);
        Row { endpoints: &self.endpoints, within: None, tried, now, panics, spares: false }
    }

    pub(super) fn select(&self, key: Option<&[u8]>, row: &Row<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        LOOK.with_borrow_mut(|look| {
            let turns = match (&self.selector, key) {
                (Selector::Smooth(turns), _) => {
                    look.in_turn(row);
                    turns
                }
                (Selector::LeastRequests(turns), _) => {
                    balance::least_requests(row, look);
                    turns
                }
                (Selector::TwoChoices(turns), _) => {
                    balance::two_choices(row, rng, look);
                    turns
                }
                (Selector::Hash(places), Some(key)) => {
                    return places.pick(key, |index| row.endpoints[index].weight, |index| row.usable(index));
                }
                (Selector::Random | Selector::Hash(_), _) => return balance::weighted_random(row, rng),
            };
            // Threads look by themselves, and wait for each other only to choose: a look at a thousand endpoints takes as long as
            // some requests do.
            lock(turns).choose(look)
        })
    }
}

#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub endpoints: &'a [Arc<Endpoint>],
    /// Those of one group alone, by their index.
    pub within: Option<&'a [bool]>,
    tried: &'a [u64],
    now: Instant,
    /// Health and ejection are ignored. A circuit breaker is not: it is there to stop requests.
    panics: bool,
    /// Those that cannot be reached, or have fallen silent, are left out.
    spares: bool,
}

impl<'a> Row<'a> {
    /// Of these the ones that `holds` has, by their index.
    pub(super) fn of(&self, holds: &'a [bool], spares: bool) -> Row<'a> {
        Row { within: Some(holds), spares, ..*self }
    }

    /// Whether it is one of those that requests are shared among, whoever has been tried.
    pub(super) fn can_serve(&self, index: usize) -> bool {
        self.takes(index) && !self.endpoints[index].is_avoided(self.now)
    }

    fn takes(&self, index: usize) -> bool {
        let endpoint = &self.endpoints[index];
        let healthy = self.panics || (endpoint.is_usable() && !endpoint.is_ejected(self.now));
        healthy && endpoint.guard().admits(self.now)
    }
}

impl Candidates for Row<'_> {
    fn len(&self) -> usize {
        self.endpoints.len()
    }

    fn weight(&self, index: usize) -> u32 {
        let endpoint = &self.endpoints[index];
        endpoint.guard().weight(endpoint.weight, self.now)
    }

    fn usable(&self, index: usize) -> bool {
        let endpoint = &self.endpoints[index];
        self.within.is_none_or(|within| within[index])
            && self.takes(index)
            && !(self.spares && endpoint.is_avoided(self.now))
            && (self.tried.is_empty() || !self.tried.contains(&endpoint.id()))
    }

    fn active(&self, index: usize) -> usize {
        let endpoint = &self.endpoints[index];
        endpoint.active() + endpoint.recent_failures(self.now)
    }

    fn latency(&self, index: usize) -> Option<f64> {
        self.endpoints[index].latency(self.now)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        time::Duration,
    };

    use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;

    use super::*;
    use crate::{
        config::HashKey,
        policy::failure::Outcome,
        upstream::{
            Observer,
            endpoint::{Load, Settings},
            protection::Guard,
        },
    };

    fn table(balancer: Balancer, weights: &[u32]) -> Table {
        let observer: Arc<dyn Observer> = Arc::new(());
        let endpoint = |(index, weight): (usize, &u32)| {
            let address =
                PeerAddress::Inet(([10, 0, (index >> 8) as u8, (index as u8).wrapping_add(1)], 80).into());
            let load = Load::new(index as u64, &"users".into(), &address, &observer);
            let settings = Settings {
                weight: *weight,
                origin: "users:80".into(),
                metadata: Default::default(),
                owners: Default::default(),
                place: Default::default(),
            };
            Arc::new(Endpoint::new(address, settings, load, true, Guard::default()))
        };
        let endpoints: Vec<_> = weights.iter().enumerate().map(endpoint).collect();
        endpoints.iter().for_each(|endpoint| assert!(endpoint.probed(true, 1).is_some()));
        Table::new(endpoints, &balancer, 0.0, None)
    }

    fn hashed(weights: &[u32]) -> Table {
        table(Balancer::Hash(HashKey::ClientIp), weights)
    }

    fn pick(table: &Table, key: &str, tried: &[u64]) -> Option<u64> {
        let mut rng = fastrand::Rng::with_seed(1);
        table.pick(Some(key.as_bytes()), tried, Instant::now(), &mut rng).map(|endpoint| endpoint.id())
    }

    #[test]
    fn every_balancer_picks_only_what_is_healthy_untried_and_has_weight() {
        for balancer in [
            Balancer::RoundRobin,
            Balancer::LeastRequests,
            Balancer::Random,
            Balancer::P2cEwma,
            Balancer::Hash(HashKey::ClientIp),
        ] {
            let table = table(balancer.clone(), &[0, 1, 1, 1]);
            table.endpoints[1].probed(false, 1);
            for key in 0..50 {
                assert_eq!(pick(&table, &key.to_string(), &[2]), Some(3), "{balancer:?}");
            }
            assert_eq!(pick(&table, "a", &[2, 3]), None, "{balancer:?}");
        }
    }

    #[test]
    fn a_key_keeps_its_endpoint_and_moves_only_when_that_is_out() {
        let table = hashed(&[1; 8]);
        let keys: Vec<String> = (0..500).map(|key| format!("user-{key}")).collect();
        let before: Vec<_> = keys.iter().map(|key| pick(&table, key, &[])).collect();
        table.endpoints[3].probed(false, 1);
        for (key, before) in keys.iter().zip(before) {
            let after = pick(&table, key, &[]);
            if before == Some(3) { assert_ne!(after, Some(3)) } else { assert_eq!(after, before, "{key}") }
        }
    }

    #[test]
    fn keys_spread_by_weight() {
        let table = hashed(&[1, 2, 1]);
        let mut counts = [0; 3];
        (0..10_000).for_each(|key| counts[pick(&table, &format!("user-{key}"), &[]).unwrap() as usize] += 1);
        for (count, fair) in counts.iter().zip([2500, 5000, 2500]) {
            assert!(i32::abs(count - fair) < 500, "{counts:?}");
        }
    }

    #[test]
    fn a_request_without_the_key_is_served_at_random() {
        let table = hashed(&[1, 1]);
        let mut rng = fastrand::Rng::with_seed(1);
        let picked: BTreeSet<u64> =
            (0..50).map(|_| table.pick(None, &[], Instant::now(), &mut rng).unwrap().id()).collect();
        assert_eq!(picked.len(), 2);
    }

    #[test]
    fn a_hash_over_nobody_with_weight_finds_nobody() {
        assert_eq!(pick(&hashed(&[0, 0]), "a", &[]), None);
        assert_eq!(pick(&hashed(&[]), "a", &[]), None);
    }

    /// Many threads at once, none of which sees what the others are about to do.
    #[test]
    fn shares_among_a_thousand_endpoints_hold_while_all_threads_pick() {
        const ENDPOINTS: usize = 1000;
        for balancer in [Balancer::RoundRobin, Balancer::LeastRequests] {
            let table = table(balancer.clone(), &[1; ENDPOINTS]);
            let counts: Vec<AtomicUsize> = (0..ENDPOINTS).map(|_| AtomicUsize::new(0)).collect();
            std::thread::scope(|scope| {
                for seed in 0..4 {
                    let (table, counts) = (&table, &counts);
                    scope.spawn(move || {
                        let mut rng = fastrand::Rng::with_seed(seed);
                        for _ in 0..ENDPOINTS {
                            let picked = table.pick(None, &[], Instant::now(), &mut rng).unwrap();
                            counts[picked.id() as usize].fetch_add(1, Relaxed);
                        }
                    });
                }
            });
            assert!(counts.iter().all(|count| count.load(Relaxed) == 4), "{balancer:?}");
        }
    }

    #[test]
    fn an_endpoint_that_has_just_failed_has_as_much_in_flight_as_failures() {
        let table = table(Balancer::LeastRequests, &[1, 1]);
        let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
        (0..3).for_each(|_| table.endpoints[0].met(Outcome::ServerError, now));
        let mut pick = |now| table.pick(None, &[], now, &mut rng).unwrap().id();
        (0..20).for_each(|_| assert_eq!(pick(now), 1));
        let picked: BTreeSet<u64> = (0..20).map(|_| pick(now + Duration::from_secs(10))).collect();
        assert_eq!(picked.len(), 2, "a while later it is like the other");
    }
}
