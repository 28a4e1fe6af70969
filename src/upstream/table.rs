//! The endpoints of an upstream at one moment, with the balancer built for them. Immutable but for the balancer's own
//! position; replaced as a whole when an endpoint comes or goes, and read without a lock.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    net::Ipv6Addr,
    sync::{Arc, Mutex},
    time::Instant,
};

use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_load_balancing::{
    Backend,
    selection::{BackendIter, BackendSelection, Consistent},
};

use crate::{
    config::Balancer,
    policy::{
        balance::{self, Candidates, Smooth},
        outlier::{Balance, panic_threshold},
    },
};

use super::{
    endpoint::{Endpoint, lock},
    probe::backend_of,
};

pub(super) struct Table {
    pub endpoints: Box<[Arc<Endpoint>]>,
    selector: Selector,
    /// 0 to 1; 0 is off.
    panic_threshold: f64,
}

enum Selector {
    Smooth(Mutex<Smooth>),
    LeastRequests,
    Random,
    TwoChoices,
    Ring(Arc<Consistent>),
}

impl Table {
    pub(crate) fn new(endpoints: Vec<Arc<Endpoint>>, balancer: &Balancer, panic_threshold: f64) -> Table {
        let selector = match balancer {
            Balancer::RoundRobin => Selector::Smooth(Mutex::new(Smooth::new(endpoints.len()))),
            Balancer::LeastRequests => Selector::LeastRequests,
            Balancer::Random => Selector::Random,
            Balancer::P2cEwma => Selector::TwoChoices,
            Balancer::Hash(_) => Selector::Ring(Arc::new(ring(&endpoints))),
        };
        Table { endpoints: endpoints.into(), selector, panic_threshold }
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
        let row =
            Row { endpoints: &self.endpoints, tried: &[], now, panics: self.panics(now), spares: false };
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
        let row = Row { endpoints: &self.endpoints, tried, now, panics: self.panics(now), spares: true };
        let found = self.select(key, &row, rng);
        let found = found.or_else(|| self.select(key, &Row { spares: false, ..row }, rng));
        self.endpoints.get(found?)
    }

    fn select(&self, key: Option<&[u8]>, row: &Row<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        match (&self.selector, key) {
            (Selector::Smooth(smooth), _) => lock(smooth).pick(row),
            (Selector::LeastRequests, _) => balance::least_requests(row, rng),
            (Selector::TwoChoices, _) => balance::two_choices(row, rng),
            (Selector::Ring(ring), Some(key)) => {
                walk(ring, key, row).or_else(|| balance::weighted_random(row, rng))
            }
            (Selector::Random | Selector::Ring(_), _) => balance::weighted_random(row, rng),
        }
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
            && endpoint.guard().admits(self.now)
            && !(self.spares && endpoint.is_avoided(self.now))
            && (self.tried.is_empty() || !self.tried.contains(&endpoint.id()))
    }

    fn active(&self, index: usize) -> usize {
        self.endpoints[index].active()
    }

    fn latency(&self, index: usize) -> Option<f64> {
        self.endpoints[index].latency(self.now)
    }
}

/// Where an endpoint of the ring stands in the table.
#[derive(Clone)]
struct Place(usize);

/// Pingora's Ketama ring. Weight 0 stays out, which it panics on. It has 160 points of 8 bytes for each unit of weight,
/// so weights are reduced to what they mean relative to each other.
fn ring(endpoints: &[Arc<Endpoint>]) -> Consistent {
    let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
    let mut backends = BTreeSet::new();
    for (index, weight) in reduced(&weights).into_iter().enumerate().filter(|(_, weight)| *weight > 0) {
        let Endpoint { address, origin, owners, .. } = &*endpoints[index];
        let mut backend = backend_of(on_the_ring(address), origin, owners);
        backend.ext.insert(Place(index));
        backends.insert(Backend { weight: weight as usize, ..backend });
    }
    Consistent::build(&backends)
}

/// The ring knows IP addresses alone: a Unix socket stands there under one that is made of its path, the same in each process.
fn on_the_ring(address: &PeerAddress) -> PeerAddress {
    /// Nobody has these (RFC 6666).
    const DISCARD_ONLY: u16 = 0x0100;
    match address {
        PeerAddress::Inet(_) => address.clone(),
        PeerAddress::Unix(_) => {
            let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(address);
            let [a, b, c, d] = [48, 32, 16, 0].map(|shift| (hash >> shift) as u16);
            PeerAddress::Inet((Ipv6Addr::new(DISCARD_ONLY, 0, 0, 0, a, b, c, d), 1).into())
        }
    }
}

/// The same proportions in other numbers: exact where dividing by the common divisor is enough, else rounded so that the
/// sum is about 16 for each endpoint. Few endpoints get more, as their shares would be up to 15 % off with 160 points
/// each; with 64 times as many they are within 5 % of their weights.
fn reduced(weights: &[u32]) -> Vec<u32> {
    const MOST_PER_ENDPOINT: f64 = 16.0;
    const FINEST_PER_ENDPOINT: f64 = 64.0;
    /// 80,000 points, 640 kB.
    const FINEST: f64 = 512.0;
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum = weights.iter().map(|weight| f64::from(weight / divisor)).sum::<f64>().max(1.0);
    let endpoints = weights.len() as f64;
    let most = MOST_PER_ENDPOINT * endpoints;
    let finer = (FINEST_PER_ENDPOINT * endpoints).min(FINEST) / sum;
    let scale = if sum > most { most / sum } else { finer.floor().max(1.0) };
    let reduce = |weight: &u32| match weight / divisor {
        0 => 0,
        weight => (f64::from(weight) * scale).round().max(1.0) as u32,
    };
    weights.iter().map(reduce).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The first endpoint on the ring from `key` on that may be picked. Gives up where the few that may are not met within
/// 32 rounds' worth of steps: then any of them will do.
fn walk(ring: &Arc<Consistent>, key: &[u8], row: &Row<'_>) -> Option<usize> {
    let mut points = ring.iter(key);
    let eligible = |index: usize| index < row.len() && row.usable(index) && row.weight(index) > 0;
    for step in 0..32 * row.len() {
        let Place(index) = points.next()?.ext.get::<Place>()?;
        if eligible(*index) {
            return Some(*index);
        }
        if step == 0 && !(0..row.len()).any(eligible) {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::HashKey,
        upstream::{
            Observer,
            endpoint::{Load, Settings},
            protection::Guard,
        },
    };

    fn table(balancer: Balancer, weights: &[u32]) -> Table {
        let observer: Arc<dyn Observer> = Arc::new(());
        let endpoint = |(index, weight): (usize, &u32)| {
            let address = PeerAddress::Inet(([10, 0, 0, index as u8 + 1], 80).into());
            let load = Load::new(index as u64, &"users".into(), &address, &observer);
            let settings = Settings {
                weight: *weight,
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
    fn weights_are_reduced_without_losing_anyone() {
        assert_eq!(reduced(&[65_535, 65_535]), [64, 64]);
        assert_eq!(reduced(&[50, 0, 100]), [64, 0, 128]);
        assert_eq!(reduced(&[65_535, 1]), [32, 1]);
        assert_eq!(reduced(&[0, 0]), [0, 0]);
        assert_eq!(reduced(&[7; 1000]), [1; 1000]);
        assert_eq!(pick(&hashed(&[0, 0]), "a", &[]), None);
        assert_eq!(pick(&hashed(&[]), "a", &[]), None);
    }
}
