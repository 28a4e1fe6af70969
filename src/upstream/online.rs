//! Looking once, for `tidegate check --online`: does each name resolve, does each endpoint answer?

use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_load_balancing::health_check::HealthCheck;

use crate::config;

use super::{
    Live, Refusal,
    probe::{Probe, backend_of},
    source::{Address, unix_address},
    tls::Tls,
};

/// Each configured address with what it stands for, or why it stands for nothing.
pub async fn resolve_once(
    config: &config::Upstream,
    live: &Live,
) -> Vec<(String, Result<Vec<PeerAddress>, String>)> {
    let mut outcomes = Vec::new();
    for endpoint in &config.endpoints {
        let outcome = match endpoint.address.parse() {
            Ok(Address::Ip(address)) => Ok(vec![PeerAddress::Inet(address)]),
            Ok(Address::Unix(path)) => Ok(unix_address(&path).into_iter().collect()),
            Ok(Address::Host { host, port }) => match live.resolver.resolve(&host).await {
                Ok(answer) => {
                    let addresses = answer.addresses.into_iter();
                    Ok(addresses.map(|ip| PeerAddress::Inet((ip, port).into())).collect())
                }
                Err(error) => Err(error.to_string()),
            },
            Err(bad) => Err(bad.to_string()),
        };
        outcomes.push((endpoint.address.clone(), outcome));
    }
    outcomes
}

/// Probes `address`, which stands for the configured `origin`, as the upstream's health check does; without one it
/// opens a connection within `connect_timeout`.
pub async fn probe_once(
    config: &config::Upstream,
    live: &Live,
    origin: &str,
    address: PeerAddress,
) -> Result<(), String> {
    let first = |refusals: Vec<Refusal>| {
        refusals.into_iter().map(|refusal| refusal.why).collect::<Vec<_>>().join("; ")
    };
    let tls = Tls::of(config, live.identity.as_ref()).map_err(first)?;
    let probe = match &config.health_check {
        Some(check) => {
            let (protocol, announced) = (config.protocol, config.proxy_protocol);
            Probe::new(check, protocol, announced, tls, live.connectors.clone())?
        }
        None => Probe::connect_only(config, tls, live.connectors.clone()),
    };
    probe.check(&backend_of(address, &origin.into())).await.map_err(|error| Probe::explain(&error))
}
