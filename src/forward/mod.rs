//! Stage 4: from a route to an upstream, from the upstream to an endpoint, from the endpoint to Pingora's peer.

mod attempt;
mod direct;
mod forwarded;
mod hop;
mod race;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use http::{HeaderMap, header::COOKIE};
use pingora_core::upstreams::peer::HttpPeer;

pub use attempt::Attempts;
pub use direct::{Answer, Call, Direct};
pub use forwarded::{client, is_trusted, write as write_forwarded};
pub use hop::{clean_request, clean_response, unchunk};
pub use race::{Finish, Rules, race};

use crate::{
    config::{Balancer, HashKey, UpstreamProtocol},
    error::Reason,
    observe::metrics::Metrics,
    upstream::{Endpoint, NoEndpoint, Upstream},
};

/// Choose an endpoint that has not failed this request yet, and begin a try there.
///
/// # Errors
///
/// There is none that may be used.
pub fn attempt(
    upstream: &Upstream,
    attempts: &mut Attempts,
    headers: &HeaderMap,
    client: IpAddr,
    metrics: &Metrics,
) -> Result<Box<HttpPeer>, Reason> {
    let key = upstream.balancer_key().and_then(|key| hash_key(key, headers, client));
    let now = Instant::now();
    let picked = RNG.with_borrow_mut(|rng| upstream.pick(key.as_deref(), attempts.tried(), now, rng));
    let endpoint = picked.map_err(|none| match none {
        NoEndpoint::Unresolved | NoEndpoint::Unhealthy | NoEndpoint::Empty => Reason::UpstreamUnhealthy,
    })?;
    let peer = peer(upstream, &endpoint);
    let counted = endpoint.attached(|| metrics.endpoint(upstream.name(), &endpoint.name));
    let learns = upstream.settings().balancer == Balancer::P2cEwma;
    attempts.start(endpoint, counted, upstream.connections().start(), learns, now);
    Ok(Box::new(peer))
}

thread_local! {
    static RNG: std::cell::RefCell<fastrand::Rng> = std::cell::RefCell::new(fastrand::Rng::new());
}

/// What a consistent hash is taken of; `None` when the request does not have it.
fn hash_key(key: &HashKey, headers: &HeaderMap, client: IpAddr) -> Option<Vec<u8>> {
    match key {
        HashKey::ClientIp => Some(client.to_string().into_bytes()),
        HashKey::Header(name) => headers.get(name).map(|value| value.as_bytes().to_vec()),
        HashKey::Cookie(name) => cookie(headers, name).map(|value| value.as_bytes().to_vec()),
    }
}

/// The value of a cookie (RFC 6265, section 4.2).
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let values = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value))
}

/// Every timeout is set: Pingora's defaults are to wait for ever.
fn peer(upstream: &Upstream, endpoint: &Endpoint) -> HttpPeer {
    let settings = upstream.settings();
    let mut peer = HttpPeer::new(endpoint.address, false, String::new());
    peer.group_key = match settings.pool.idle_connections {
        // Not even the one that has just become idle and is about to be closed.
        0 => fastrand::u64(..),
        _ => upstream.group(),
    };
    let options = &mut peer.options;
    let connect: Duration = settings.connect_timeout.into();
    options.connection_timeout = Some(connect);
    options.total_connection_timeout = Some(connect);
    options.read_timeout = Some(settings.read_timeout.into());
    options.write_timeout = Some(settings.write_timeout.into());
    // Enough are idle: this one is closed when its request is done.
    let enough = upstream.connections().idle() >= settings.pool.idle_connections;
    options.idle_timeout = Some(if enough { Duration::ZERO } else { settings.idle_timeout.into() });
    options.tracer = Some(upstream.connections().tracer());
    options.max_h2_streams = settings.pool.streams_per_connection.get();
    match settings.protocol {
        UpstreamProtocol::Http1 => options.set_http_version(1, 1),
        UpstreamProtocol::Http2 | UpstreamProtocol::Grpc => options.set_http_version(2, 2),
    }
    peer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_cookie_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; session=x=y".parse().unwrap());
        headers.append(COOKIE, "b=2".parse().unwrap());
        assert_eq!(cookie(&headers, "session"), Some("x=y"));
        assert_eq!(cookie(&headers, "b"), Some("2"));
        assert_eq!(cookie(&headers, "sess"), None);
    }

    #[test]
    fn a_request_without_the_key_has_no_hash() {
        let headers = HeaderMap::new();
        let client = "192.0.2.1".parse().unwrap();
        assert_eq!(hash_key(&HashKey::Header("x-user".into()), &headers, client), None);
        assert_eq!(hash_key(&HashKey::ClientIp, &headers, client), Some(b"192.0.2.1".to_vec()));
    }
}
