//! The endpoints of an upstream at one moment, with the balancer built for them. Immutable but for the balancer's own
//! position; replaced as a whole when an endpoint comes or goes, and read without a lock.

use std::{
    cell::RefCell,
    collections::BTreeSet,
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
};

pub(super) struct Table {
    pub endpoints: Box<[Arc<Endpoint>]>,
    selector: Selector,
    /// In their order; none where all are alike.
    priorities: Box<[u16]>,
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
    pub(crate) fn new(endpoints: Vec<Arc<Endpoint>>, balancer: &Balancer, panic_threshold: f64) -> Table {
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
        let priorities: BTreeSet<u16> = endpoints.iter().map(|endpoint| endpoint.priority).collect();
        let priorities = if priorities.len() > 1 { priorities.into_iter().collect() } else { Box::default() };
        Table { endpoints: endpoints.into(), selector, priorities, panic_threshold }
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
        let row = Row {
            endpoints: &self.endpoints,
            tried: &[],
            now,
            panics: self.panics(now),
            spares: false,
            priority: None,
        };
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
        let panics = self.panics(now);
        let row = Row { endpoints: &self.endpoints, tried, now, panics, spares: true, priority: None };
        let found = self.first(key, &row, rng);
        let found = found.or_else(|| self.first(key, &Row { spares: false, ..row }, rng));
        self.endpoints.get(found?)
    }

    /// Why the endpoint at `place` gets nothing now, not even what belongs to it.
    pub(super) fn away(&self, place: usize, now: Instant) -> Option<Away> {
        let panics = self.panics(now);
        let row = Row { endpoints: &self.endpoints, tried: &[], now, panics, spares: true, priority: None };
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

    /// Those of the lowest priority come first, and others only where none of them may be picked.
    fn first(&self, key: Option<&[u8]>, row: &Row<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        if self.priorities.is_empty() {
            return self.select(key, row, rng);
        }
        self.priorities
            .iter()
            .find_map(|priority| self.select(key, &Row { priority: Some(*priority), ..*row }, rng))
    }

    fn select(&self, key: Option<&[u8]>, row: &Row<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
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

struct Row<'a> {
    endpoints: &'a [Arc<Endpoint>],
    tried: &'a [u64],
    now: Instant,
    /// Health and ejection are ignored. A circuit breaker is not: it is there to stop requests.
    panics: bool,
    /// Those that cannot be reached, or have fallen silent, are left out.
    spares: bool,
    /// Others are left out.
    priority: Option<u16>,
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
        let healthy = self.panics || (endpoint.is_usable() && !endpoint.is_ejected(self.now));
        healthy
            && self.priority.is_none_or(|priority| endpoint.priority == priority)
            && endpoint.guard().admits(self.now)
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
                priority: 0,
                origin: "users:80".into(),
                metadata: Default::default(),
                owners: Default::default(),
            };
            Arc::new(Endpoint::new(address, settings, load, true, Guard::default()))
        };
        let endpoints: Vec<_> = weights.iter().enumerate().map(endpoint).collect();
        endpoints.iter().for_each(|endpoint| assert!(endpoint.probed(true, 1).is_some()));
        Table::new(endpoints, &balancer, 0.0)
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
