//! Stage 4: from a route to an upstream, from the upstream to an endpoint, from the endpoint to Pingora's peer.

mod again;
mod attempt;
mod choose;
mod client_cert;
mod direct;
mod forwarded;
mod hedge;
mod hop;
mod mirror;
mod race;
mod tries;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{StatusCode, Version, header};
use pingora_core::{Error, upstreams::peer::HttpPeer};
use pingora_http::{RequestHeader, ResponseHeader};

pub use again::{Request, Trouble};
pub use attempt::{Attempt, Attempts};
pub use choose::choose;
pub use client_cert::forget as forget_client_cert;
pub use direct::{Answer, Call, Direct, Exchange, Rest};
pub use forwarded::{claim, is_trusted, write as write_forwarded};
pub use hedge::{HEARD, Hedged, hedge};
pub use hop::{clean_request, clean_response, keep_te, names_a_host, unchunk};
pub use mirror::Copy;
pub use race::{Rules, race};
pub use tries::write as write_tries;

pub use crate::upstream::Carried;

use self::choose::{Choice, hash_key};
use crate::{
    config::{Balancer, ProxyProtocol, UpstreamProtocol},
    error::Reason,
    grpc,
    observe::metrics::{Metrics, Outcome},
    snapshot::{Destination, Route},
    upstream::{Announcing, Endpoint, NoEndpoint, Tls, Unhurried, Upstream, carried_group, proxy_header},
};

/// A call of gRPC may be silent for this long: it has its own ways to tell whether its peer is there.
pub const STREAM_SILENCE: Duration = Duration::from_secs(3600);

/// What an HTTP/2 upstream may send ahead on one stream. Pingora's default is that of a whole connection (8 MiB), so that one
/// client that does not read would hold up all others, and much memory.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// Why no try could begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: Reason,
    /// When to come back, where that is known.
    pub retry_after: Option<Duration>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Refused {
        Refused { reason, retry_after: None }
    }
}

/// Where a request comes from, and where its connection was meant to go.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub carried: Carried,
    /// `None` where nobody redirected it.
    pub original_destination: Option<SocketAddr>,
}

/// Choose the upstream, once for each request, and wait for room there; then an endpoint that has not failed this request
/// yet, and begin a try there. None of its steps may take longer than `left`.
///
/// # Errors
///
/// There is none that may be used, or no room.
pub async fn attempt(
    route: &Route,
    attempts: &mut Attempts,
    request: &RequestHeader,
    carried: &Carried,
    left: Option<Duration>,
    metrics: &Metrics,
) -> Result<Box<HttpPeer>, Refused> {
    let destination = match &attempts.destination {
        Some(destination) => destination.clone(),
        None => enter(route, attempts, request, carried.client.ip(), left).await?,
    };
    let now = Instant::now();
    let origin = Origin { carried: *carried, original_destination: attempts.original_destination };
    let (attempt, peer) = begin(&destination, attempts.tried(), request, origin, left, metrics, now)?;
    attempts.start(attempt);
    Ok(peer)
}

/// The upstream for all tries of a request, and a place there.
///
/// # Errors
///
/// The upstream and its queue are full.
pub async fn enter(
    route: &Route,
    attempts: &mut Attempts,
    request: &RequestHeader,
    client: IpAddr,
    left: Option<Duration>,
) -> Result<Arc<Destination>, Refused> {
    let choice = RNG.with_borrow_mut(|rng| choose(route, &request.headers, client, rng));
    let Choice { destination, cookie } = choice.ok_or(Reason::Internal)?;
    attempts.cookie = cookie;
    attempts.destination = Some(destination.clone());
    route.retry.budget.deposit(Instant::now());
    let admitted = destination.upstream.room().enter(left).await;
    attempts.admitted = Some(admitted.map_err(|_| Reason::Overloaded)?);
    Ok(destination)
}

/// A try at an endpoint of `destination`, and how to reach it.
///
/// # Errors
///
/// No endpoint may be used.
pub fn begin(
    destination: &Arc<Destination>,
    tried: &[u64],
    request: &RequestHeader,
    origin: Origin,
    left: Option<Duration>,
    metrics: &Metrics,
    now: Instant,
) -> Result<(Attempt, Box<HttpPeer>), Refused> {
    let upstream = &destination.upstream;
    // First: what cannot be asked must not cost an endpoint's breaker anything.
    let terms = upstream.tls().map(Tls::terms).transpose().map_err(|none| {
        log::debug!("no connection to {}: {none}", upstream.name());
        Reason::IdentityUnavailable
    })?;
    let in_flight = if upstream.is_original_destination() {
        let to = origin.original_destination;
        to.and_then(|to| upstream.begin_at(to, now)).ok_or(Reason::LoopDetected)?
    } else {
        let client = origin.carried.client.ip();
        let key = upstream.balancer_key().and_then(|key| hash_key(key, &request.headers, client));
        let begun = RNG.with_borrow_mut(|rng| upstream.begin(key.as_deref(), tried, now, rng));
        begun.map_err(|none| match none {
            NoEndpoint::Unresolved | NoEndpoint::Unhealthy | NoEndpoint::Empty => {
                Refused::from(Reason::UpstreamUnhealthy)
            }
            NoEndpoint::CircuitOpen { retry_after } => {
                Refused { reason: Reason::CircuitOpen, retry_after: Some(retry_after) }
            }
        })?
    };
    let endpoint = in_flight.endpoint();
    let mut peer = peer(upstream, endpoint, left);
    if upstream.is_original_destination() && upstream.settings().protocol == UpstreamProtocol::Auto {
        // Nobody says what is spoken there but the client, who means to speak with it directly.
        let version = if request.version == Version::HTTP_2 { 2 } else { 1 };
        peer.options.set_http_version(version, version);
    }
    let handshake = terms.map(|terms| {
        let handshake = Tls::secure(&mut peer, terms, &endpoint.origin);
        if upstream.settings().pool.idle_connections > 0 {
            peer.group_key = handshake.group(upstream.group());
        }
        handshake
    });
    announce(&mut peer, upstream, &origin.carried);
    if asks_for_upgrade(request) {
        keep_for_upgrade(&mut peer, upstream, &origin.carried);
    }
    let counted = endpoint.attached(|| metrics.endpoint(upstream.name(), endpoint.label()));
    let learns = upstream.settings().balancer == Balancer::P2cEwma;
    let attempt = Attempt::new(destination.clone(), in_flight, counted, learns, handshake, now);
    Ok((attempt, Box::new(peer)))
}

/// What an answer says about the endpoint that gave it. A gRPC server tells its failures in a status of its own, which a
/// response without a body carries in its header.
pub fn outcome(status: StatusCode, grpc: Option<u8>) -> Outcome {
    let failed = status.as_u16() >= 500 || grpc.is_some_and(grpc::is_fault);
    if failed { Outcome::ServerError } else { Outcome::Success }
}

/// What a failed call says about the endpoint; `None` where the fault is not its own.
pub fn failure(error: &Error) -> Option<Outcome> {
    match Reason::of(error) {
        Reason::ConnectFailed | Reason::UpstreamIdentityMismatch => Some(Outcome::ConnectFailed),
        Reason::UpstreamTimeout | Reason::RequestTimeout => Some(Outcome::Timeout),
        Reason::UpstreamReset | Reason::BadUpstreamResponse => Some(Outcome::Reset),
        _ => None,
    }
}

/// The `grpc-status` in a response's header.
pub fn grpc_status(response: &ResponseHeader) -> Option<u8> {
    grpc::status_in(&response.headers)
}

/// Whether it is the trailers that will tell what came of a call that is answered so.
pub fn is_told_by_trailers(response: &ResponseHeader) -> bool {
    response.status == StatusCode::OK
        && grpc::is_grpc(&response.headers)
        && !response.headers.contains_key(&grpc::STATUS)
}

/// What a failed call is to be told with where the upstream has reset its stream: what its client would have made of it.
pub fn grpc_failure(error: &Error) -> Option<u8> {
    let cause = error.root_cause().downcast_ref::<h2::Error>()?;
    let reason = cause.reason().filter(|_| cause.is_reset() && cause.is_remote())?;
    Some(grpc::of_reset(reason.into()))
}

/// A stream of messages may be silent for as long as an upgraded connection may: how long a call may take is for its
/// deadline to say.
pub fn let_stream(peer: &mut HttpPeer, left: Option<Duration>) {
    peer.options.read_timeout = Some(left.unwrap_or(STREAM_SILENCE).min(STREAM_SILENCE));
}

/// When the answer to a request that asks for an upgrade must be there: Pingora's read timeout cannot say it, as it would
/// hold for the upgraded connection too.
pub fn upgrade_answered_by(upstream: &Upstream, request: &RequestHeader, now: Instant) -> Option<Instant> {
    let settings = upstream.settings();
    let longest = || Duration::from(settings.connect_timeout) + Duration::from(settings.read_timeout);
    asks_for_upgrade(request).then(|| now + longest())
}

/// WebSocket alone is passed on, and over HTTP/1.1 alone.
fn asks_for_upgrade(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_11
        && request
            .headers
            .get(header::UPGRADE)
            .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Tell the upstream whose connection it is given, where it wants to know. Such a connection is used again for the same
/// client's next request and for nobody else's.
fn announce(peer: &mut HttpPeer, upstream: &Upstream, carried: &Carried) {
    let settings = upstream.settings();
    if settings.proxy_protocol == ProxyProtocol::Off {
        return;
    }
    peer.group_key = carried_group(peer.group_key, carried, upstream.connections().keys());
    let header = proxy_header(settings.proxy_protocol, Some(*carried));
    peer.options.custom_l4 = Some(Arc::new(Announcing(header)));
}

/// An upgrade has a connection to itself, where no version of HTTP is agreed on that knows none.
fn keep_for_upgrade(peer: &mut HttpPeer, upstream: &Upstream, carried: &Carried) {
    let settings = upstream.settings();
    if settings.protocol == UpstreamProtocol::Auto {
        peer.options.set_http_version(1, 1);
    }
    if peer.options.alpn.get_max_http_version() == 1 {
        let header = proxy_header(settings.proxy_protocol, Some(*carried));
        peer.options.custom_l4 = Some(Arc::new(Unhurried(Announcing(header))));
        peer.options.idle_timeout = Some(Duration::ZERO);
        peer.group_key = fastrand::u64(..);
    }
    // It would hold for the upgraded connection too: the client's side of it has one for both.
    peer.options.read_timeout = None;
}

thread_local! {
    static RNG: std::cell::RefCell<fastrand::Rng> = std::cell::RefCell::new(fastrand::Rng::new());
}

/// Every timeout is set: Pingora's defaults are to wait for ever.
fn peer(upstream: &Upstream, endpoint: &Endpoint, left: Option<Duration>) -> HttpPeer {
    let settings = upstream.settings();
    let mut peer = endpoint.peer();
    peer.group_key = match settings.pool.idle_connections {
        // Not even the one that has just become idle and is about to be closed.
        0 => fastrand::u64(..),
        _ => upstream.group(),
    };
    let options = &mut peer.options;
    // The deadline of the request does not interrupt connecting, nor what waits behind a body that the upstream does not
    // take: there these see to it that not much more time is spent.
    let within = |timeout: Duration| left.map_or(timeout, |left| timeout.min(left));
    let connect = within(settings.connect_timeout.into());
    options.connection_timeout = Some(connect);
    options.total_connection_timeout = Some(connect);
    options.read_timeout = Some(within(settings.read_timeout.into()));
    options.write_timeout = Some(within(settings.write_timeout.into()));
    // Enough are idle: this one is closed when its request is done.
    let enough = upstream.connections().idle_in_pingora() >= settings.pool.idle_connections;
    options.idle_timeout = Some(if enough { Duration::ZERO } else { settings.idle_timeout.into() });
    options.tracer = Some(upstream.connections().tracer());
    options.max_h2_streams = settings.pool.streams_per_connection.get();
    options.h2_stream_window_size = Some(STREAM_WINDOW);
    options.h2_ping_interval = Some(settings.pool.ping_interval.into());
    match settings.protocol {
        UpstreamProtocol::Http1 => options.set_http_version(1, 1),
        UpstreamProtocol::Http2 | UpstreamProtocol::Grpc => options.set_http_version(2, 2),
        UpstreamProtocol::Auto => options.set_http_version(2, 1),
    }
    peer
}
