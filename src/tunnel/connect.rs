//! From an upstream to a connection with one of its endpoints. Where one cannot be reached another is tried: until a
//! connection is there nothing of the client's has been sent, so nothing can be done twice.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use pingora_core::{
    ErrorType,
    connectors::TransportConnector,
    protocols::{ALPN, Digest, Stream, l4::socket::SocketAddr as PeerAddress},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
};

use crate::{
    accept::{self, Socket},
    config::HashKey,
    error::Reason,
    observe::{Recorder, metrics::EndpointMetrics},
    policy::{
        failure::{Cause, Failure, Kind, Outcome, Stage, is_shortage},
        priorities::Priority,
    },
    snapshot,
    tunnel::{account::Account, far::Far, peer::Offering},
    upstream::{
        Admitted, Announcing, ClientAddresses, Endpoint, Handshake, InFlight, NoEndpoint, Tls, Trouble,
        Upstream, proxy_header,
    },
};

/// Endpoints that are tried for one connection.
const MOST_TRIES: usize = 3;
/// For an address that is no endpoint of ours, where no upstream says how long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Connector {
    /// Made when it is needed: it reads the system's certificates.
    tls: OnceLock<TransportConnector>,
}

/// What a connection takes up at its upstream for as long as it lasts.
#[derive(Default)]
pub(super) struct Held {
    _attempt: Option<Attempt>,
    _admitted: Admitted,
}

impl Held {
    pub(super) fn new(attempt: Attempt, admitted: Admitted) -> Held {
        Held { _attempt: Some(attempt), _admitted: admitted }
    }
}

/// A connection over TLS with an endpoint that has proved who it is.
pub(super) struct Secured {
    pub stream: Stream,
    pub handshake: Arc<Handshake>,
}

/// A connection with an endpoint, or the way there.
pub(super) struct Attempt {
    in_flight: InFlight,
    metrics: Arc<EndpointMetrics>,
    outcome: Option<Outcome>,
}

impl Attempt {
    pub(super) fn begin(in_flight: InFlight, metrics: Arc<EndpointMetrics>) -> Attempt {
        metrics.attempt_started();
        Attempt { in_flight, metrics, outcome: None }
    }

    /// There is a connection, or there will be none: `upstream` learns from it.
    pub(super) fn ends(
        &mut self,
        upstream: &Upstream,
        outcome: Option<Outcome>,
        failure: Option<&Failure>,
        now: Instant,
    ) {
        if let Some(Failure { kind: Kind::Shortage, .. }) = failure {
            upstream.is_short("descriptors, ports or memory");
        }
        if let Some(outcome) = outcome {
            self.outcome = Some(outcome);
            upstream.report(&mut self.in_flight, outcome, now);
        }
    }
}

impl Drop for Attempt {
    /// What was said of it when it was made holds, but it is over only now.
    fn drop(&mut self) {
        match self.outcome {
            Some(outcome) => self.metrics.attempt_ended(outcome),
            None => self.metrics.attempt_abandoned(),
        }
    }
}

impl Connector {
    /// # Errors
    ///
    /// There is none that may be used, none could be reached, or none is who it should be.
    pub(crate) async fn reach(
        &self,
        to: &accept::Destination,
        client: ClientAddresses,
        recorder: &Recorder,
        account: &mut Account,
    ) -> Result<(Far, Held), Reason> {
        match to {
            accept::Destination::Upstream(to) => self.reach_one_of(to, client, recorder, account).await,
            accept::Destination::Sidecar(to, meant) => {
                let reached = self.reach_sidecar(to, *meant, client, recorder, account).await;
                account.tunnel(&reached);
                reached
            }
            accept::Destination::Tunnelled(_) => Err(Reason::Internal),
            accept::Destination::Original(address) => {
                account.tries(address.to_string().into());
                let socket = connect(&(*address).into(), &[], CONNECT_TIMEOUT, Duration::ZERO).await;
                let socket = socket.map_err(|failure| failure.meaning().reason)?;
                Ok((Far::Plain(socket), Held::default()))
            }
        }
    }

    /// Where a connection was meant to go, as it is; counted as a request of `to`.
    pub(super) async fn reach_original(
        &self,
        to: &snapshot::Destination,
        address: SocketAddr,
        recorder: &Recorder,
        account: &mut Account,
    ) -> Result<(Far, Held), Reason> {
        let upstream = &to.upstream;
        let admitted =
            upstream.room().enter(None, Priority::default()).await.map_err(|_| Reason::Overloaded)?;
        let in_flight = upstream.begin_near(address, Instant::now()).map_err(why)?;
        let endpoint = in_flight.endpoint().clone();
        account.tries(endpoint.name.clone());
        let metrics = endpoint.attached(|| recorder.metrics.endpoint(upstream.name(), endpoint.label()));
        let mut attempt = Attempt::begin(in_flight, metrics);
        let settings = upstream.settings();
        let (timeout, unacknowledged) = (settings.connect_timeout.into(), settings.tcp_user_timeout.into());
        let reached = connect(&endpoint.address, &[], timeout, unacknowledged).await;
        let outcome = match &reached {
            Ok(_) => Some(Outcome::Success),
            Err(failure) => failure.meaning().outcome,
        };
        attempt.ends(upstream, outcome, reached.as_ref().err(), Instant::now());
        let socket = reached.map_err(|failure| failure.meaning().reason)?;
        Ok((Far::Plain(socket), Held::new(attempt, admitted)))
    }

    /// An endpoint of `to`, or of whoever stands in for it.
    pub(super) async fn reach_one_of(
        &self,
        to: &snapshot::Destination,
        client: ClientAddresses,
        recorder: &Recorder,
        account: &mut Account,
    ) -> Result<(Far, Held), Reason> {
        let chosen = to.stand_in(Instant::now(), &mut fastrand::Rng::new());
        let mut to = chosen.map_or(to, |to| to);
        loop {
            account.goes_to(to);
            let reached = self.reach_one_of_its_own(to, client, recorder, account).await;
            match &to.then {
                Some(then) if reached.is_err() && to.upstream.is_out(Instant::now()) => to = then,
                _ => return reached,
            }
        }
    }

    async fn reach_one_of_its_own(
        &self,
        to: &snapshot::Destination,
        client: ClientAddresses,
        recorder: &Recorder,
        account: &mut Account,
    ) -> Result<(Far, Held), Reason> {
        let upstream = &to.upstream;
        let admitted =
            upstream.room().enter(None, Priority::default()).await.map_err(|_| Reason::Overloaded)?;
        let key = match upstream.balancer_key() {
            Some(HashKey::ClientIp) => Some(client.client.ip().to_canonical().to_string().into_bytes()),
            // Connections have no parts of requests; compiling refuses those keys.
            Some(HashKey::Header(_) | HashKey::Cookie(_)) | None => None,
        };
        let mut tried = Vec::new();
        let mut failed = None;
        loop {
            let begun = upstream.begin(key.as_deref(), &tried, Instant::now(), &mut fastrand::Rng::new());
            let in_flight = match (begun, failed) {
                // All that may be used have been tried.
                (Ok(again), Some(failed)) if tried.contains(&again.endpoint().id()) => return Err(failed),
                (Ok(in_flight), _) => in_flight,
                (Err(_), Some(failed)) => return Err(failed),
                (Err(none), None) => return Err(why(none)),
            };
            let endpoint = in_flight.endpoint().clone();
            if failed.is_some() {
                to.metrics.retry(Cause::Connect.label());
            }
            account.tries(endpoint.name.clone());
            let metrics = endpoint.attached(|| recorder.metrics.endpoint(upstream.name(), &endpoint.name));
            let mut attempt = Attempt::begin(in_flight, metrics);
            let started = Instant::now();
            let reached = self.reach_endpoint(upstream, &endpoint, client, account).await;
            let now = Instant::now();
            let outcome = match &reached {
                Ok(_) => Some(Outcome::Success),
                Err(failure) => failure.meaning().outcome,
            };
            attempt.ends(upstream, outcome, reached.as_ref().err(), now);
            match reached {
                Ok(far) => {
                    endpoint.observe(now - started, now);
                    return Ok((far, Held::new(attempt, admitted)));
                }
                // It is we who are not ready, or there is nothing that another could mend.
                Err(failure) if failure.meaning().cause.is_none() => return Err(failure.meaning().reason),
                Err(failure) => failed = Some(failure.meaning().reason),
            }
            tried.push(endpoint.id());
            if tried.len() == MOST_TRIES {
                return failed.map_or(Err(Reason::Internal), Err);
            }
        }
    }

    async fn reach_endpoint(
        &self,
        upstream: &Upstream,
        endpoint: &Arc<Endpoint>,
        client: ClientAddresses,
        account: &mut Account,
    ) -> Result<Far, Failure> {
        match upstream.tls() {
            None => {
                let timeout = upstream.settings().connect_timeout.into();
                let announcement = proxy_header(upstream.settings().proxy_protocol, Some(client));
                let unacknowledged = upstream.settings().tcp_user_timeout.into();
                let connected = connect(&endpoint.address, &announcement, timeout, unacknowledged);
                connected.await.map(Far::Plain)
            }
            Some(tls) => {
                let Secured { stream, handshake } =
                    self.secure(upstream, tls, endpoint, client, None).await?;
                account.reached(handshake.met());
                Ok(Far::Tls(stream))
            }
        }
    }

    /// Over TLS, with an endpoint that has proved who it is: nothing is sent to another.
    pub(super) async fn secure(
        &self,
        upstream: &Upstream,
        tls: &Tls,
        endpoint: &Arc<Endpoint>,
        client: ClientAddresses,
        alpn: Option<ALPN>,
    ) -> Result<Secured, Failure> {
        let timeout = upstream.settings().connect_timeout.into();
        let announcement = proxy_header(upstream.settings().proxy_protocol, Some(client));
        let terms = tls.terms().map_err(|none| {
            log::debug!("no connection to {}: {none}", upstream.name());
            Failure::new(Stage::Connect, Kind::Unready)
        })?;
        let mut peer = endpoint.peer();
        if !announcement.is_empty() {
            peer.options.custom_l4 = Some(Arc::new(Announcing(announcement)));
        }
        peer.options.connection_timeout = Some(timeout);
        peer.options.total_connection_timeout = Some(timeout);
        let unacknowledged = upstream.settings().tcp_user_timeout.into();
        peer.options.tcp_keepalive = Some(accept::keep_alive_of_pingora(unacknowledged));
        let handshake = Tls::secure(&mut peer, terms, &endpoint.origin, &endpoint.owners);
        let connector = self.tls.get_or_init(|| TransportConnector::new(None));
        let now = Instant::now;
        let stream = match connector.new_stream(&Offering { peer, alpn }).await {
            Ok(stream) => stream,
            Err(mut error) => {
                error.as_up();
                let trouble = Trouble::of(&error, &handshake);
                if let Some(trouble) = &trouble {
                    upstream.tls_failed(endpoint, &handshake, trouble, now());
                }
                let kind = trouble.and_then(|trouble| trouble.kind()).unwrap_or(match error.etype() {
                    ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Kind::TimedOut,
                    _ if error.root_cause().downcast_ref().is_some_and(is_shortage) => Kind::Shortage,
                    _ => Kind::Unreachable,
                });
                return Err(Failure::new(Stage::Connect, kind));
            }
        };
        let digest = Digest { ssl_digest: stream.get_ssl_digest(), ..Digest::default() };
        if let Err(distrust) = handshake.check(Some(&digest)) {
            let failure = Failure::new(Stage::Connect, distrust.kind());
            upstream.tls_failed(endpoint, &handshake, &Trouble::Distrusted(distrust), now());
            return Err(failure);
        }
        Ok(Secured { stream, handshake })
    }
}

/// `announcement` is the first that is said there. What is sent may be `unacknowledged` for so long, or for ever.
async fn connect(
    address: &PeerAddress,
    announcement: &[u8],
    timeout: Duration,
    unacknowledged: Duration,
) -> Result<Socket, Failure> {
    let connected = async {
        let mut socket = match address {
            PeerAddress::Inet(address) => {
                let socket = TcpStream::connect(address).await?;
                // What one side sends at once the other gets at once.
                socket.set_nodelay(true)?;
                accept::keep_alive(&socket)?;
                accept::bound_unacknowledged(&socket, unacknowledged)?;
                Socket::Tcp(socket)
            }
            PeerAddress::Unix(path) => {
                let path = path.as_pathname().ok_or(io::ErrorKind::InvalidInput)?;
                Socket::Unix(UnixStream::connect(path).await?)
            }
        };
        socket.write_all(announcement).await?;
        io::Result::Ok(socket)
    };
    match tokio::time::timeout(timeout, connected).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => {
            log::debug!("no connection to {address}: {error}");
            let kind = if is_shortage(&error) { Kind::Shortage } else { Kind::Unreachable };
            Err(Failure::new(Stage::Connect, kind))
        }
        Err(_) => Err(Failure::new(Stage::Connect, Kind::TimedOut)),
    }
}

pub(super) fn why(none: NoEndpoint) -> Reason {
    match none {
        NoEndpoint::Unresolved | NoEndpoint::Unhealthy | NoEndpoint::Empty => Reason::UpstreamUnhealthy,
        NoEndpoint::EmptySubset => Reason::EmptySubset,
        NoEndpoint::CircuitOpen { .. } => Reason::CircuitOpen,
    }
}
