//! Stage 4: from a route to an upstream, from the upstream to an endpoint, from the endpoint to Pingora's peer.

mod affinity;
mod arrival;
mod attempt;
mod client;
mod client_cert;
mod cookie;
#[cfg(feature = "wasm")]
pub(crate) mod direct;
mod failover;
mod forwarded;
pub(crate) mod fuzzing;
mod hedge;
mod hop;
mod mirror;
mod pick;
mod race;
mod retry;
mod spans;
mod tries;
mod via;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{StatusCode, Version};
use pingora_core::{protocols::TcpKeepalive, upstreams::peer::HttpPeer};
use pingora_http::{RequestHeader, ResponseHeader};

pub(crate) use affinity::hide as hide_affinity;
pub(crate) use arrival::forget_forged;
pub(crate) use attempt::{Attempt, Attempts};
pub(crate) use client::{
    Answer, Broken, BrokenBy, Call, Client, Exchange, Heard, Length, Spoken, is_bodiless,
};
pub(crate) use forwarded::{claim, is_trusted, write as write_forwarded};
pub(crate) use hedge::{Hedged, hedge};
pub(crate) use hop::{clean_request, clean_response, name_host, offered};
pub(crate) use mirror::{Copy, TracedCopy};
pub(crate) use race::{Rules, race};
pub(crate) use retry::{Request, Why};
pub(crate) use spans::{
    Clock, Common as CommonSpan, method_name, record_try, write_call, write_method, write_server,
};
pub(crate) use tries::write as write_tries;
pub(crate) use via::{count as count_forwards, ends_here, via};

pub(crate) use crate::upstream::{ClientAddresses, error_in_words};

use self::{
    affinity::Session,
    pick::{Choice, choose, hash_key, issue},
};
use crate::{
    config::{self, ProxyProtocol, UpstreamProtocol},
    error::Reason,
    grpc,
    observe::metrics::{AffinityResult, Metrics},
    policy::{
        failure::{Failure, Outcome},
        priorities::Priority,
    },
    sharded::thread_number,
    snapshot::{Destination, Route},
    upstream::{Announcing, Endpoint, Full, InFlight, NoEndpoint, Tls, Upstream, client_group, proxy_header},
};

/// A call of gRPC may be silent for this long: it has its own ways to tell whether its peer is there.
pub(crate) const STREAM_SILENCE: Duration = Duration::from_secs(3600);

/// Why no try could begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub reason: Reason,
    /// When to come back, where that is known.
    pub retry_after: Option<Duration>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Refused {
        Refused { reason, retry_after: None }
    }
}

/// Why an exchange has come to its end before the answer was whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The gateway refuses it, or the client is the one to blame.
    Refused(Refused),
    /// The upstream failed it.
    Failed(Failure),
    /// A filter has an answer of its own, which the request's context holds.
    Replied,
}

impl Ended {
    pub(crate) fn reason(self) -> Reason {
        match self {
            Ended::Refused(refused) => refused.reason,
            Ended::Failed(failure) => failure.meaning().reason,
            // Only where an answer had begun, so that there is no place for another.
            Ended::Replied => Reason::Internal,
        }
    }
}

impl From<Reason> for Ended {
    fn from(reason: Reason) -> Ended {
        Ended::Refused(reason.into())
    }
}

impl From<Refused> for Ended {
    fn from(refused: Refused) -> Ended {
        Ended::Refused(refused)
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        Ended::Failed(failure)
    }
}

/// Where a request comes from, and where its connection was meant to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub addresses: ClientAddresses,
    /// `None` where nobody redirected it.
    pub original_destination: Option<SocketAddr>,
    /// The value of the cookie that its client is given for a consistent hash.
    pub issued: Option<u64>,
    /// The endpoint that its session belongs to.
    pub home: Option<u64>,
}

/// An endpoint of the request's upstream that has not failed it yet: begin a try there. Connecting may take no longer than
/// `left`.
///
/// # Errors
///
/// There is none that may be used.
pub(crate) fn begin_try(
    attempts: &mut Attempts,
    request: &RequestHeader,
    addresses: &ClientAddresses,
    left: Option<Duration>,
    waited: Duration,
    metrics: &Metrics,
    now: Instant,
) -> Result<Box<HttpPeer>, Refused> {
    let destination = attempts.destination.clone().ok_or(Reason::Internal)?;
    let origin = attempts.origin(addresses);
    let (attempt, peer) = begin(&destination, attempts.tried(), request, origin, left, metrics, now)?;
    attempts.start(attempt, waited);
    Ok(peer)
}

/// The upstream for all tries of a request. It pays for retries.
///
/// # Errors
///
/// The route answers by itself.
pub(crate) fn enter(
    route: &Route,
    attempts: &mut Attempts,
    request: &RequestHeader,
    client: IpAddr,
) -> Result<Arc<Destination>, Refused> {
    let choice = RNG.with_borrow_mut(|rng| choose(route, &request.headers, client, rng));
    let Choice { destination, cookie } = choice.ok_or(Reason::Internal)?;
    attempts.cookie = cookie;
    let key = destination.upstream.balancer_key();
    attempts.session = Session::of(&destination, &request.headers);
    attempts.issued = key.and_then(|key| RNG.with_borrow_mut(|rng| issue(key, &request.headers, rng)));
    attempts.destination = Some(destination.clone());
    route.retry.budget.deposit(Instant::now());
    Ok(destination)
}

/// A place at the upstream, for as long as the request lasts.
///
/// # Errors
///
/// The upstream and its queue are full, or it has no place for one that is no more important.
pub(crate) async fn admit(
    destination: &Destination,
    attempts: &mut Attempts,
    left: Option<Duration>,
    priority: Priority,
) -> Result<(), Refused> {
    let came = Instant::now();
    let room = destination.upstream.room();
    let admitted = room.enter(left, priority).await;
    let waited = came.elapsed();
    if room.is_limited() {
        destination.upstream_metrics.queued(waited);
    }
    if matches!(admitted, Err(Full::Shed)) {
        destination.upstream_metrics.shed(priority);
    }
    attempts.admit(admitted.map_err(|_| Reason::Overloaded)?, waited);
    Ok(())
}

/// A try at an endpoint of `destination`, and how to reach it.
///
/// # Errors
///
/// No endpoint may be used.
pub(crate) fn begin(
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
    } else if let Some(in_flight) = at_home(destination, tried, origin.home, now)? {
        in_flight
    } else {
        let client = origin.addresses.client.ip();
        let key =
            upstream.balancer_key().and_then(|key| hash_key(key, &request.headers, client, origin.issued));
        let begun = RNG.with_borrow_mut(|rng| upstream.begin(key.as_deref(), tried, now, rng));
        begun.map_err(|none| match none {
            NoEndpoint::Unresolved | NoEndpoint::Unhealthy | NoEndpoint::Empty => {
                Refused::from(Reason::UpstreamUnhealthy)
            }
            NoEndpoint::EmptySubset => Refused::from(Reason::EmptySubset),
            NoEndpoint::CircuitOpen { retry_after } => {
                Refused { reason: Reason::CircuitOpen, retry_after: Some(retry_after) }
            }
        })?
    };
    let endpoint = in_flight.endpoint();
    let is_last = || {
        let is_bound = affinity::is_bound(destination, origin.home);
        (is_bound || !upstream.has_others(tried, Some(endpoint.id()), now))
            && !destination.leaves_without(endpoint.id(), now)
    };
    let mut peer = peer(upstream, endpoint, left.map(|left| to_connect(left, is_last)));
    if upstream.is_original_destination() && upstream.settings().protocol == UpstreamProtocol::Auto {
        // Nobody says what is spoken there but the client, who means to speak with it directly.
        let version = if request.version == Version::HTTP_2 { 2 } else { 1 };
        peer.options.set_http_version(version, version);
    }
    let handshake = terms.map(|terms| {
        let handshake = Tls::secure(&mut peer, terms, &endpoint.origin, &endpoint.owners);
        if upstream.settings().pool.idle_connections > 0 {
            peer.group_key = handshake.group(upstream.group());
        }
        handshake
    });
    announce(&mut peer, upstream, &origin.addresses);
    keep_on_this_thread(&mut peer, upstream.settings());
    forget_older(&mut peer, endpoint);
    if offered(request).is_some() {
        // Where no version is agreed on that knows none.
        if upstream.settings().protocol == UpstreamProtocol::Auto {
            peer.options.set_http_version(1, 1);
        }
    }
    let counted = endpoint.attached(|| metrics.endpoint(upstream.name(), endpoint.label()));
    let attempt = Attempt::new(destination.clone(), in_flight, counted, handshake, now);
    Ok((attempt, Box::new(peer)))
}

/// A try at the endpoint that a session belongs to. `None` where it may go elsewhere, and has to, or there is no session.
fn at_home(
    destination: &Destination,
    tried: &[u64],
    home: Option<u64>,
    now: Instant,
) -> Result<Option<InFlight>, Refused> {
    let Some(home) = home else { return Ok(None) };
    let upstream = &destination.upstream;
    let may_move = affinity::may_move(upstream.affinity());
    let begun = upstream.begin_at_home(home, if may_move { tried } else { &[] }, now);
    if begun.is_none() && !may_move {
        destination.upstream_metrics.affinity(AffinityResult::Lost);
        return Err(Reason::SessionLost.into());
    }
    Ok(begun)
}

/// What an answer says about the endpoint that gave it.
pub(crate) fn outcome(response: &ResponseHeader) -> Outcome {
    Outcome::of_answer(response.status.as_u16(), grpc_status(response))
}

/// The `grpc-status` in a response's header.
pub(crate) fn grpc_status(response: &ResponseHeader) -> Option<u8> {
    grpc::status_in(&response.headers)
}

/// Whether it is the trailers that will tell what came of a call that is answered so.
pub(crate) fn is_told_by_trailers(response: &ResponseHeader) -> bool {
    response.status == StatusCode::OK
        && grpc::is_grpc(&response.headers)
        && !response.headers.contains_key(&grpc::STATUS)
}

/// A stream of messages may be silent for as long as an upgraded connection may: how long a call may take is for its
/// deadline to say.
pub(crate) fn let_stream(peer: &mut HttpPeer) {
    peer.options.read_timeout = Some(STREAM_SILENCE);
}

/// Tell the upstream whose connection it is given, where it wants to know. Such a connection is used again for the same
/// client's next request and for nobody else's.
fn announce(peer: &mut HttpPeer, upstream: &Upstream, addresses: &ClientAddresses) {
    let settings = upstream.settings();
    if settings.proxy_protocol == ProxyProtocol::Off {
        return;
    }
    peer.group_key = client_group(peer.group_key, addresses, upstream.connections().keys());
    let header = proxy_header(settings.proxy_protocol, Some(*addresses));
    peer.options.custom_l4 = Some(Arc::new(Announcing(header)));
}

/// A connection of HTTP/2 is driven by the thread that opened it, which each request from another one would have to wake,
/// and to wait for. So each thread opens its own; not where the operator bounds how many there are, nor where HTTP/1 may
/// turn out to be spoken, whose pool knows threads itself.
fn keep_on_this_thread(peer: &mut HttpPeer, settings: &config::Upstream) {
    let is_http2 = matches!(settings.protocol, UpstreamProtocol::Http2 | UpstreamProtocol::Grpc);
    if is_http2 && settings.pool.max_connections.is_none() {
        peer.group_key = peer.group_key.wrapping_add(thread_number() as u64);
    }
}

/// Connections that are held to be dead go by another name.
fn forget_older(peer: &mut HttpPeer, endpoint: &Endpoint) {
    /// Far from what else names are made of.
    const APART: u64 = 0x9e37_79b9_7f4a_7c15;
    peer.group_key = peer.group_key.wrapping_add((endpoint.generation().number() as u64).wrapping_mul(APART));
}

thread_local! {
    static RNG: std::cell::RefCell<fastrand::Rng> = std::cell::RefCell::new(fastrand::Rng::new());
}

/// Of the time that is left, what connecting may take: where there is another endpoint, so much that one can be tried as well.
fn to_connect(left: Duration, is_last: impl FnOnce() -> bool) -> Duration {
    /// Half of less would be too short for a handshake.
    const LEAST: Duration = Duration::from_millis(200);
    if left < LEAST || is_last() { left } else { left / 2 }
}

/// A machine that is gone is noticed within about `most`, whether something was sent to it or not.
fn keep_alive(most: Duration) -> Option<TcpKeepalive> {
    const PROBES: u32 = 3;
    // The system counts in seconds.
    let step = (most / (PROBES + 1)).max(Duration::from_secs(1));
    (!most.is_zero()).then_some(TcpKeepalive {
        idle: step,
        interval: step,
        count: PROBES as usize,
        user_timeout: most,
    })
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
    let within = |timeout: Duration| left.map_or(timeout, |left| timeout.min(left));
    let connect = within(settings.connect_timeout.into());
    options.connection_timeout = Some(connect);
    options.total_connection_timeout = Some(connect);
    options.read_timeout = Some(settings.read_timeout.into());
    options.write_timeout = Some(settings.write_timeout.into());
    options.max_h2_streams = settings.pool.streams_per_connection.get();
    options.tcp_keepalive = keep_alive(settings.tcp_user_timeout.into());
    options.h2_ping_interval = Some(settings.pool.ping_interval.into());
    match settings.protocol {
        UpstreamProtocol::Http1 => options.set_http_version(1, 1),
        UpstreamProtocol::Http2 | UpstreamProtocol::Grpc => options.set_http_version(2, 2),
        UpstreamProtocol::Auto => options.set_http_version(2, 1),
    }
    peer
}
