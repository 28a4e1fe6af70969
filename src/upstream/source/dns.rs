//! Endpoints from DNS: every address of a name is an endpoint, and the name is asked again as its answer expires.
//! A name that does not resolve is asked again with growing pauses; the last good answer stays in use meanwhile.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hickory_resolver::{TokioResolver, config::LookupIpStrategy};

use super::{Address, EndpointSource, Found, Line, Supply};
use crate::upstream::endpoint::lock;

/// Turns a host name into addresses.
#[async_trait]
pub trait Resolve: Send + Sync {
    async fn resolve(&self, host: &str) -> Result<Resolved, ResolveError>;
}

/// An answer: at least one address, and how long it is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
}

/// Why a name has no addresses; written for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveError(pub String);

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ResolveError {}

/// The system's name servers and hosts file, as they were when this was made.
pub struct SystemResolver {
    resolver: Result<TokioResolver, ResolveError>,
}

impl SystemResolver {
    /// Reads `/etc/resolv.conf` and `/etc/hosts`. Where they cannot be read, each look-up fails and says why:
    /// a gateway that needs no names does not need them.
    pub fn new() -> SystemResolver {
        let build = || {
            let mut builder = TokioResolver::builder_tokio()?;
            let options = builder.options_mut();
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            // Each name is asked when its answer has expired: a cache could only serve stale refusals.
            options.cache_size = 0;
            builder.build()
        };
        let resolver =
            build().map_err(|error| ResolveError(format!("cannot read the system's name servers: {error}")));
        SystemResolver { resolver }
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        SystemResolver::new()
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Resolved, ResolveError> {
        if is_localhost(host) {
            // Only IPv4: most hosts files name ::1 too, and a server that listens on one of the two is the rule.
            return Ok(Resolved { addresses: vec![Ipv4Addr::LOCALHOST.into()], ttl: Refresh::LONGEST });
        }
        let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
        let answer = resolver.lookup_ip(host).await.map_err(|error| ResolveError(error.to_string()))?;
        let ttl = answer.valid_until().saturating_duration_since(Instant::now());
        let addresses = reachable(answer.iter().collect());
        if addresses.is_empty() {
            return Err(ResolveError("the name has no addresses".into()));
        }
        Ok(Resolved { addresses, ttl })
    }
}

/// RFC 6761 section 6.3.
fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost" || host.ends_with(".localhost")
}

/// Leaves out addresses this host has no route to, which are half of them for a dual-stack name on a host without
/// IPv6 (RFC 6724 section 6, rule 1). Connecting a UDP socket looks up the route and sends nothing.
fn reachable(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let has_route = |ip: &IpAddr| {
        let any: IpAddr = if ip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((*ip, 9))).is_ok()
    };
    let reachable: Vec<IpAddr> = addresses.iter().copied().filter(has_route).collect();
    if reachable.is_empty() { addresses } else { reachable }
}

pub(super) fn supply(line: &Line<'_>) -> Option<Supply> {
    let Address::Host { host, port } = &line.address else { return None };
    Some(Supply::Followed(Box::new(Dns {
        host: host.clone(),
        port: *port,
        resolver: line.live.resolver.clone(),
        refresh: Mutex::default(),
    })))
}

/// One configured `host:port` as a source of endpoints; each address has the whole weight.
struct Dns {
    host: String,
    port: u16,
    resolver: Arc<dyn Resolve>,
    refresh: Mutex<Refresh>,
}

#[async_trait]
impl EndpointSource for Dns {
    fn name(&self) -> &str {
        &self.host
    }

    async fn discover(&self) -> Result<Vec<Found>, String> {
        match self.resolver.resolve(&self.host).await {
            Ok(answer) if !answer.addresses.is_empty() => {
                lock(&self.refresh).resolved(answer.ttl);
                let addresses = answer.addresses.into_iter();
                Ok(addresses.map(|ip| Found::at(SocketAddr::new(ip, self.port))).collect())
            }
            outcome => {
                lock(&self.refresh).failed(&mut fastrand::Rng::new());
                Err(outcome.err().map_or_else(|| "the answer is empty".into(), |error| error.to_string()))
            }
        }
    }

    async fn changed(&self) {
        let wait = lock(&self.refresh).wait;
        tokio::time::sleep(wait).await;
    }
}

/// When to ask a name again.
#[derive(Clone, Copy, Debug, Default)]
struct Refresh {
    failures: u32,
    wait: Duration,
}

impl Refresh {
    /// Some names carry a TTL of 0; asking for each request is not what they mean.
    const SHORTEST: Duration = Duration::from_secs(1);
    /// A TTL of a day must not keep an address that has moved for a day.
    const LONGEST: Duration = Duration::from_secs(300);
    const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

    fn resolved(&mut self, ttl: Duration) {
        *self = Refresh { failures: 0, wait: ttl.clamp(Self::SHORTEST, Self::LONGEST) };
    }

    /// 1 s, doubled with each failure up to 30 s, of which a random half is taken off above the first second.
    fn failed(&mut self, rng: &mut fastrand::Rng) {
        let full = Self::SHORTEST.saturating_mul(1 << self.failures.min(5)).min(Self::LONGEST_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        self.wait = full.mul_f64(1.0 - 0.5 * rng.f64()).max(Self::SHORTEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_for_their_ttl_within_a_second_and_five_minutes() {
        let mut refresh = Refresh::default();
        for (ttl, wait) in [(0, 1), (1, 1), (60, 60), (86_400, 300)] {
            refresh.resolved(Duration::from_secs(ttl));
            assert_eq!(refresh.wait, Duration::from_secs(wait));
        }
    }

    #[test]
    fn failures_back_off_from_one_second_to_thirty_and_start_over_after_an_answer() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut refresh = Refresh::default();
        for full in [1, 2, 4, 8, 16, 30, 30, 30] {
            refresh.failed(&mut rng);
            let full = Duration::from_secs(full);
            assert!(refresh.wait <= full && refresh.wait >= (full / 2).max(Refresh::SHORTEST), "{refresh:?}");
        }
        refresh.resolved(Duration::from_secs(60));
        refresh.failed(&mut rng);
        assert_eq!(refresh.wait, Duration::from_secs(1));
    }

    #[test]
    fn an_address_without_a_route_is_left_out_unless_it_is_the_only_one() {
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        // 0.0.0.0/8 apart, the only range no host routes to is one the socket refuses: broadcast.
        let unroutable: IpAddr = "255.255.255.255".parse().unwrap();
        assert_eq!(reachable(vec![unroutable, local]), [local]);
        assert_eq!(reachable(vec![unroutable]), [unroutable]);
    }

    #[tokio::test]
    async fn localhost_asks_no_name_server() {
        let broken = SystemResolver { resolver: Err(ResolveError("no name servers".into())) };
        let answer = broken.resolve("localhost").await.unwrap();
        assert_eq!(answer.addresses, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(broken.resolve("users.internal").await.unwrap_err().to_string(), "no name servers");
    }
}
