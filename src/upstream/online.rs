//! Looking once, for `tidegate check --online`: does each name resolve, does each endpoint answer?

use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_load_balancing::health_check::HealthCheck;

use crate::config;

use super::{
    Live, Refusal,
    probe::{Probe, backend_of},
    registry::Owners,
    source::{self, Found, Supply},
    tls::Tls,
};

/// Each configured address with what it stands for, or why it stands for nothing. A registry is asked by gateways that run.
pub async fn resolve_once(
    config: &config::Upstream,
    live: &Live,
) -> Vec<(String, Result<Vec<PeerAddress>, String>)> {
    let mut outcomes = Vec::new();
    for endpoint in &config.endpoints {
        let written = match &endpoint.origin {
            config::EndpointOrigin::Address { address } => address,
            config::EndpointOrigin::Srv(endpoint) => &endpoint.srv,
            config::EndpointOrigin::Registry(_) => continue,
        };
        let found = match source::of(endpoint, live) {
            Ok(Supply::Fixed(found)) => Ok(found),
            Ok(Supply::Followed(source)) => source.discover().await,
            Err(refusal) => Err(refusal.why),
        };
        match found {
            // Hosts of a service are known by their own names.
            Ok(found) if found.iter().any(|found| found.origin.is_some()) => {
                let of_host = |found: Found| Some((found.origin?.to_string(), Ok(vec![found.address])));
                outcomes.extend(found.into_iter().filter_map(of_host));
            }
            found => {
                let addresses = found.map(|found| found.into_iter().map(|found| found.address).collect());
                outcomes.push((written.clone(), addresses));
            }
        }
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
    // What is registered is not asked for here.
    let backend = backend_of(address, &origin.into(), &Owners::default());
    probe.check(&backend).await.map_err(|error| Probe::explain(&error))
}
