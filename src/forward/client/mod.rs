//! Requests to endpoints: one exchange on one connection, over HTTP/1 or HTTP/2, with bodies that stream both ways.
//!
//! Connecting and TLS are Pingora's, the frames of HTTP/2 those of `h2`; the rest is ours. An exchange is polled: one task sends and reads,
//! and nobody copies between two halves. Whoever drops one before its end cancels it: an HTTP/1 connection is closed, an
//! HTTP/2 stream reset.

mod adopt;
mod exchange;
pub(super) mod fuzzing;
mod http1;
mod http2;
mod idle;
mod request;
mod response;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use pingora_core::{
    Error, ErrorType, Result,
    connectors::{ConnectorOptions, TransportConnector},
    protocols::{ALPN, Stream},
    upstreams::peer::{HttpPeer, Peer},
};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::sync::watch;

use self::{
    exchange::Session,
    http1::Http1,
    http2::{Found, Opening},
    idle::Idle,
};
pub(crate) use self::{
    exchange::{Broken, BrokenBy, Exchange},
    request::{Length, Spoken},
    response::is_bodiless,
};
use crate::{
    error::Reason,
    policy::failure::Stage,
    resources::Resources,
    upstream::{Handshake, IdleLimit},
};

/// Sends requests over connections that it keeps. One for the process; a clone is the same one.
#[derive(Clone)]
pub(crate) struct Client(Arc<Connections>);

struct Connections {
    idle: Idle,
    http2: http2::Pool,
    /// Made for the first call: it reads the system's certificates, which takes milliseconds and a megabyte.
    transport: OnceLock<TransportConnector>,
    resources: Arc<Resources>,
}

/// A request with all of its body, empty for none.
#[derive(Clone)]
pub(crate) struct Call {
    pub peer: Box<HttpPeer>,
    /// As the client's, filters applied; what belongs to the client's connection is taken off. Its version does not
    /// matter.
    pub header: RequestHeader,
    pub body: Bytes,
    /// The head in which its fields came, where the case of their names is kept.
    pub spelling: Option<Bytes>,
    /// It may be done twice.
    pub is_repeatable: bool,
    /// Where the peer is reached over TLS: whom the connection must have reached.
    pub handshake: Option<Arc<Handshake>>,
    /// How many connections may wait for another call.
    pub idle_limit: IdleLimit,
    /// How many the client has under way, this one included: see [`Resources::may_connect`].
    pub requests: u32,
}

/// A final response whose header is there. Hop-by-hop fields are still there, but none that frames.
pub(crate) struct Answer {
    pub header: Box<ResponseHeader>,
    /// Bytes of its body, where it says so.
    pub length: Option<u64>,
    pub rest: Exchange,
}

/// What is heard of an exchange before its answer.
pub(crate) enum Heard<'a> {
    /// A connection is there; before, nothing was sent.
    Connected,
    Interim(&'a ResponseHeader),
    /// The connection was stale, and another one is taken.
    Stale,
}

impl Client {
    /// Keeps up to `pool_size` idle connections of each version of HTTP, all endpoints together, for so many threads. To be
    /// made within the runtime that runs what nobody waits for.
    pub(crate) fn new(pool_size: usize, threads: usize, resources: Arc<Resources>) -> Client {
        Client(Arc::new(Connections {
            idle: Idle::new(pool_size, threads),
            http2: http2::Pool::new(pool_size),
            transport: OnceLock::new(),
            resources,
        }))
    }

    /// Send a request and wait for the header of its final response. The peer's timeouts apply; so that an answer given
    /// early is heard, the body is sent meanwhile, and goes on being sent while the answer's body is read.
    ///
    /// A kept connection that the upstream closed meanwhile is replaced once, where the request may be done twice.
    ///
    /// # Errors
    ///
    /// Of the upstream, or `bad_request` where the request cannot be carried on.
    pub(crate) async fn ask(
        &self,
        call: &Call,
        hear: &mut (dyn FnMut(Heard<'_>) + Send),
    ) -> std::result::Result<Answer, Broken> {
        let first = self.begin(call, true).await?;
        hear(Heard::Connected);
        let over_http1 = first.is_http1();
        match first.run(call, hear).await {
            // Over HTTP/1, what else the pool keeps for this endpoint may be as stale; of HTTP/2 the broken connection is
            // known to be, and another one is taken.
            Err(broken) if broken.is_stale() && call.is_repeatable => {
                hear(Heard::Stale);
                self.begin(call, !over_http1).await?.run(call, hear).await
            }
            answered => answered,
        }
    }

    async fn begin(&self, call: &Call, may_reuse: bool) -> std::result::Result<Exchange, Broken> {
        let connected = self.connect(&call.peer, &call.idle_limit, may_reuse, call.requests).await;
        let mut exchange = connected.map_err(|e| Broken::at(Stage::Connect, false, e))?;
        if let Some(handshake) = &call.handshake {
            // A connection that fails is dropped here, and so closed.
            handshake.check(exchange.digest().as_ref()).map_err(Broken::distrusted)?;
        }
        if let Some(head) = &call.spelling {
            exchange.spell(head.clone());
        }
        Ok(exchange)
    }

    /// A kept connection to `peer`.
    pub(crate) fn reuse(&self, peer: &HttpPeer, limit: &IdleLimit) -> Option<Exchange> {
        let (key, alpn) = (peer.reuse_hash(), &peer.options.alpn);
        let stream =
            if alpn.get_min_http_version() == 1 { self.0.idle.take(key, peer.is_tls(), limit) } else { None };
        let session = match stream {
            Some(stream) => Session::Http1(Http1::new(stream)),
            None if alpn.get_max_http_version() == 1 => return None,
            None => Session::http2(self.0.http2.claim(key, limit)?, peer),
        };
        Some(Exchange::new(self.0.clone(), peer, limit, key, session, true))
    }

    /// A connection to `peer`, a kept one where `may_reuse` lets it be. Of HTTP/2 it may be a kept one all the same: one that
    /// was found to be stale is kept no longer. It is for a client with so many `requests` under way.
    ///
    /// # Errors
    ///
    /// It cannot be had within the peer's time.
    pub(crate) async fn connect(
        &self,
        peer: &HttpPeer,
        limit: &IdleLimit,
        may_reuse: bool,
        requests: u32,
    ) -> Result<Exchange> {
        if may_reuse && let Some(kept) = self.reuse(peer, limit) {
            return Ok(kept);
        }
        let (key, alpn) = (peer.reuse_hash(), &peer.options.alpn);
        if alpn.get_max_http_version() == 1 {
            let stream = self.0.connect(peer, requests).await.map_err(|e| e.into_up())?;
            return Ok(Exchange::new(
                self.0.clone(),
                peer,
                limit,
                key,
                Session::Http1(Http1::new(stream)),
                false,
            ));
        }
        let is_http2 = alpn.get_min_http_version() == 2;
        let find = || self.0.http2.find(key, peer.options.max_h2_streams, is_http2, limit);
        let connected = match find() {
            Found::Room(claim) => Ok((Session::http2(claim, peer), true)),
            Found::Nothing(opening) => self.open(peer, limit, opening, requests).await,
            Found::Opening(ended) => {
                let found = self.wait_for(ended, find, peer, limit, requests);
                match peer.options.total_connection_timeout {
                    // Whoever opens it may have begun long ago, and has time of its own.
                    Some(most) => tokio::time::timeout(most, found).await.unwrap_or_else(|_| {
                        Error::e_explain(ErrorType::ConnectTimedout, "while another request connects")
                    }),
                    None => found.await,
                }
            }
        };
        let (session, reused) = connected.map_err(|e| e.into_up())?;
        Ok(Exchange::new(self.0.clone(), peer, limit, key, session, reused))
    }

    /// Room on a connection that another request opens, or else on one opened here.
    async fn wait_for(
        &self,
        mut ended: watch::Receiver<()>,
        find: impl Fn() -> Found,
        peer: &HttpPeer,
        limit: &IdleLimit,
        requests: u32,
    ) -> Result<(Session, bool)> {
        loop {
            // Nothing is ever sent: this is its end.
            let _ = ended.changed().await;
            match find() {
                Found::Room(claim) => return Ok((Session::http2(claim, peer), true)),
                Found::Opening(another) => ended = another,
                Found::Nothing(opening) => return self.open(peer, limit, opening, requests).await,
            }
        }
    }

    /// A new connection to a peer that may speak HTTP/2.
    async fn open(
        &self,
        peer: &HttpPeer,
        limit: &IdleLimit,
        opening: Opening,
        requests: u32,
    ) -> Result<(Session, bool)> {
        // HTTP/2 carries all of a client's requests on one.
        let requests = if peer.options.alpn.get_min_http_version() == 2 { 1 } else { requests };
        let stream = self.0.connect(peer, requests).await?;
        let is_http2 = match stream.selected_alpn_proto() {
            Some(agreed) => agreed == ALPN::H2,
            // In plain text nothing is agreed on: the operator says what is spoken.
            None => !peer.is_tls() && peer.options.alpn.get_min_http_version() == 2,
        };
        if !is_http2 {
            return Ok((Session::Http1(Http1::new(stream)), false));
        }
        let claim = http2::open(&self.0.http2, opening, stream, peer, limit).await?;
        Ok((Session::http2(claim, peer), false))
    }
}

impl Connections {
    /// A new connection, unless the descriptors that are left are for others.
    async fn connect(&self, peer: &HttpPeer, requests: u32) -> Result<Stream> {
        if !self.resources.may_connect(requests) {
            return Err(Reason::Overloaded.into_error());
        }
        self.transport().new_stream(peer).await
    }

    fn transport(&self) -> &TransportConnector {
        // It opens connections; those that are idle are kept here.
        self.transport.get_or_init(|| TransportConnector::new(Some(ConnectorOptions::new(0))))
    }
}
