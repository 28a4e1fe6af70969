//! Both ends of a tunnel between two sidecars. Outbound: the sidecar that answers for where a client meant to go, which has to prove who
//! it is and that it takes tunnels before anything of the client's is sent. Inbound: who may come in, and where that leads.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use pingora_core::{
    Error, ErrorType,
    protocols::{ALPN, Stream, l4::socket::SocketAddr as PeerAddress, tls::CustomALPN},
};
use tokio::time::timeout;

use super::{
    account::Account,
    connect::{Attempt, Connector, Held, Secured, why},
    far::Far,
    opening,
};
use crate::{
    accept::{Connection, Transport},
    config::TUNNEL_PROTOCOL,
    error::Reason,
    observe::Recorder,
    policy::{
        failure::{Failure, Kind, Outcome, Stage},
        priorities::Priority,
    },
    snapshot::{self, Entry, Inward},
    upstream::{ClientAddresses, Endpoint, Tls, Trouble, Upstream},
};

/// What came of asking a sidecar for a tunnel.
enum Asked {
    Opened(Stream),
    /// Its word why not.
    Refused(Box<str>),
}

impl Connector {
    /// A tunnel to `meant`, through the sidecar that answers for it. There is no other to try.
    pub(super) async fn reach_sidecar(
        &self,
        to: &snapshot::Destination,
        meant: SocketAddr,
        client: ClientAddresses,
        recorder: &Recorder,
        account: &mut Account,
    ) -> Result<(Far, Held), Reason> {
        let upstream = &to.upstream;
        let Some(tls) = upstream.tls() else { return Err(Reason::Internal) };
        let admitted =
            upstream.room().enter(None, Priority::default()).await.map_err(|_| Reason::Overloaded)?;
        let in_flight = upstream.begin_near(meant, Instant::now()).map_err(why)?;
        let endpoint = in_flight.endpoint().clone();
        account.tries(endpoint.name.clone());
        let metrics = endpoint.attached(|| recorder.metrics.endpoint(upstream.name(), endpoint.label()));
        let mut attempt = Attempt::begin(in_flight, metrics);
        let started = Instant::now();
        let asked = self.ask(upstream, tls, &endpoint, meant, client, account).await;
        let outcome = match &asked {
            Ok(Asked::Opened(_)) => Some(Outcome::Success),
            Ok(Asked::Refused(word)) if is_the_callers(word) => Some(Outcome::Success),
            Ok(Asked::Refused(_)) => Some(Outcome::ServerError),
            Err(failure) => failure.meaning().outcome,
        };
        attempt.ends(upstream, outcome, asked.as_ref().err(), Instant::now());
        match asked {
            Ok(Asked::Opened(stream)) => {
                let now = Instant::now();
                endpoint.observe(now - started, now);
                Ok((Far::Tls(stream), Held::new(attempt, admitted)))
            }
            Ok(Asked::Refused(word)) => {
                account.explain(&word);
                Err(Reason::TunnelRefused)
            }
            Err(failure) => Err(failure.meaning().reason),
        }
    }

    async fn ask(
        &self,
        upstream: &Upstream,
        tls: &Tls,
        endpoint: &Arc<Endpoint>,
        meant: SocketAddr,
        client: ClientAddresses,
        account: &mut Account,
    ) -> Result<Asked, Failure> {
        let alpn = ALPN::Custom(CustomALPN::new(TUNNEL_PROTOCOL.to_vec()));
        let Secured { mut stream, handshake } =
            self.secure(upstream, tls, endpoint, client, Some(alpn)).await?;
        account.reached(handshake.met());
        let troubled = |trouble: Trouble, otherwise| {
            upstream.tls_failed(endpoint, &handshake, &trouble, Instant::now());
            Failure::new(Stage::Head, trouble.kind().unwrap_or(otherwise))
        };
        let has_agreed = matches!(stream.selected_alpn_proto(), Some(ALPN::Custom(agreed)) if agreed.protocol() == TUNNEL_PROTOCOL);
        if !has_agreed {
            let why = "it is no sidecar that takes what is not HTTP (name the port in `opaque_ports` where clear text is meant)";
            return Err(troubled(Trouble::Handshake(why.to_owned()), Kind::Unreachable));
        }
        // Whoever is on another port of that host has to be told which one is meant.
        let port = match &endpoint.address {
            PeerAddress::Inet(at) if at.port() != meant.port() => meant.port(),
            _ => opening::AS_CONNECTED,
        };
        // It answers when it has a connection of its own.
        let patience = upstream.settings().connect_timeout.into();
        match timeout(patience, opening::ask(&mut stream, port)).await {
            Ok(Ok(Ok(()))) => Ok(Asked::Opened(stream)),
            Ok(Ok(Err(word))) => Ok(Asked::Refused(word)),
            Ok(Err(error)) => {
                let error = Error::because(ErrorType::ReadError, "opening a tunnel", error);
                Err(match Trouble::of(&error, &handshake) {
                    Some(trouble) => troubled(trouble, Kind::Broken),
                    None => Failure::new(Stage::Head, Kind::Broken),
                })
            }
            Err(_) => Err(Failure::new(Stage::Head, Kind::TimedOut)),
        }
    }

    /// To the application, or where it was meant to go: plain, on this host.
    pub(super) async fn enter(
        &self,
        inward: &Inward<Arc<snapshot::Destination>>,
        entry: Entry,
        client: ClientAddresses,
        recorder: &Recorder,
        account: &mut Account,
    ) -> Result<(Far, Held), Reason> {
        match entry {
            Entry::App => self.reach_one_of(&inward.to, client, recorder, account).await,
            Entry::At(address) => self.reach_original(&inward.to, address, recorder, account).await,
        }
    }
}

/// Whether that is no failure of the other end's.
fn is_the_callers(word: &str) -> bool {
    Reason::from_code(word).is_some_and(Reason::is_the_clients)
}

/// Who asks for a tunnel here, and where it leads. Under the deadline of the handshake.
///
/// # Errors
///
/// Nowhere, or the caller has gone.
pub(super) async fn admit(
    inward: &Inward<Arc<snapshot::Destination>>,
    transport: &mut Transport,
    connection: &Connection,
    account: &mut Account,
) -> Result<Entry, Reason> {
    // First: who may not come in learns nothing of what is here.
    let caller = connection.tls().and_then(|tls| tls.caller.clone());
    let is_admitted = inward.admits(caller.as_deref());
    let port = opening::hear(transport).await.map_err(|_| Reason::ClientClosed)?;
    if !is_admitted {
        account.explain("allow");
        return Err(Reason::Forbidden);
    }
    let settings = connection.port.settings();
    let captured = settings.original_destination.as_ref();
    let original = connection.original_destination();
    inward.leads(port, original, connection.local, captured).map_err(|turned| {
        account.explain(turned.by);
        turned.reason
    })
}
