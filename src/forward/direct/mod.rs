//! One request to one endpoint, sent by ourselves, beside Pingora's proxy loop: that loop knows one upstream at a
//! time, where hedging races several and mirroring sends a copy that nobody waits for; and it is made for bodies in both
//! directions, which costs a request without one more than all of its filters.
//!
//! Connecting, TLS and HTTP/2 are Pingora's. Whoever drops a call or an answer before its end cancels it: an HTTP/1
//! connection is closed, an HTTP/2 stream reset.

mod http1;
mod http2;
mod idle;
mod request;
mod response;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora_core::{
    Error, ErrorType, Result, RetryType,
    connectors::{ConnectorOptions, TransportConnector, http::Connector},
    protocols::{Digest, http::client::HttpSession},
    upstreams::peer::{HttpPeer, Peer},
};
use pingora_http::{RequestHeader, ResponseHeader};

use self::{
    http1::{Http1, Timeouts},
    http2::Http2,
    idle::Idle,
    request::Spoken,
};
use crate::upstream::{Handshake, IdleLimit};

/// The read timeout begins anew with each, so without a bound an upstream could keep its request for ever.
const MOST_INTERIM: u32 = 32;

/// Sends calls over connections of its own, which it keeps. One for the process; a clone is the same one.
#[derive(Clone)]
pub struct Direct(Arc<Connections>);

struct Connections {
    pool_size: usize,
    idle: Idle,
    /// Made for the first call: it reads the system's certificates, which takes milliseconds and a megabyte.
    transport: OnceLock<TransportConnector>,
    /// As that one, for peers that may speak HTTP/2.
    http2: OnceLock<Connector>,
}

/// A request with all of its body, empty for none.
#[derive(Clone)]
pub struct Call {
    pub peer: Box<HttpPeer>,
    /// As the client's, filters applied; what belongs to the client's connection is taken off. Its version does not
    /// matter.
    pub header: RequestHeader,
    pub body: Bytes,
    /// Where the peer is reached over TLS: whom the connection must have reached.
    pub handshake: Option<Arc<Handshake>>,
    /// How many connections may wait for another call.
    pub idle_limit: IdleLimit,
}

/// A final response whose header is there.
pub struct Answer {
    /// Framed as a response of HTTP/1.1, whatever the upstream spoke: with a length or `Transfer-Encoding`, as writing it
    /// to a client needs. Hop-by-hop fields are still there.
    pub header: Box<ResponseHeader>,
    pub rest: Rest,
}

/// What follows the header of a response.
pub struct Rest(Exchange);

/// One request on one connection, from the connection being there to its going back to the pool.
pub struct Exchange {
    connections: Arc<Connections>,
    idle_limit: IdleLimit,
    /// The pool's name for connections like this one.
    key: u64,
    reused: bool,
    /// Empty when the exchange is over.
    session: Option<Session>,
    /// Interim responses so far.
    interim: u32,
    /// Nothing has gone wrong, so the connection may serve others.
    intact: bool,
}

enum Session {
    Http1(Http1),
    Http2(Box<Http2>),
}

impl Direct {
    /// Keeps up to `pool_size` idle connections of each version of HTTP, all endpoints together.
    pub fn new(pool_size: usize) -> Direct {
        Direct(Arc::new(Connections {
            pool_size,
            idle: Idle::new(pool_size),
            transport: OnceLock::new(),
            http2: OnceLock::new(),
        }))
    }

    /// Send a request and wait for the header of its final response. The peer's timeouts apply; so that an answer given
    /// early is heard, the body is sent meanwhile, and goes on being sent while the answer's body is read.
    ///
    /// A kept connection that the upstream closed meanwhile is replaced once, where that cannot make the upstream do
    /// something twice: for idempotent methods (RFC 9110, section 9.2.2), or when it said that it did nothing.
    ///
    /// # Errors
    ///
    /// Of the upstream, or `bad_request` where the request cannot be carried on.
    pub async fn ask(&self, call: Call) -> Result<Answer> {
        let first = self.begin(&call, true).await?;
        let (reused, over_http1) = (first.reused, first.is_http1());
        match first.run(&call).await {
            // Over HTTP/1, what else the pool keeps for this endpoint may be as stale; of HTTP/2 the broken connection is
            // known to be, and another one is taken.
            Err(e) if reused && may_ask_again(&e, &call.header.method) => {
                self.begin(&call, !over_http1).await?.run(&call).await
            }
            answered => answered,
        }
    }

    async fn begin(&self, call: &Call, may_reuse: bool) -> Result<Exchange> {
        let exchange = self.connect(&call.peer, &call.idle_limit, may_reuse).await?;
        if let Some(handshake) = &call.handshake {
            // A connection that fails is dropped here, and so closed.
            let checked = handshake.check(exchange.digest().as_ref());
            checked.map_err(|distrust| distrust.reason().into_error().into_up())?;
        }
        Ok(exchange)
    }

    /// A connection to `peer`, a kept one where `may_reuse` lets it be.
    ///
    /// # Errors
    ///
    /// It cannot be had within the peer's time.
    pub async fn connect(&self, peer: &HttpPeer, limit: &IdleLimit, may_reuse: bool) -> Result<Exchange> {
        let key = peer.reuse_hash();
        let timeouts = Timeouts { read: peer.options.read_timeout, write: peer.options.write_timeout };
        let http1 = |stream| Session::Http1(Http1::new(stream, timeouts));
        let speaks_http1 = peer.options.alpn.get_min_http_version() == 1;
        let kept = if speaks_http1 && may_reuse { self.0.idle.take(key) } else { None };
        let (session, reused) = match kept {
            Some(stream) => (http1(stream), true),
            None if peer.options.alpn.get_max_http_version() == 1 => {
                let stream = self.0.transport().new_stream(peer).await.map_err(|e| e.into_up())?;
                (http1(stream), false)
            }
            None => match self.0.http2().get_http_session(peer).await.map_err(|e| e.into_up())? {
                (HttpSession::H1(session), reused) => (http1(session.into_inner()), reused),
                (HttpSession::H2(session), reused) => {
                    (Session::Http2(Box::new(Http2::new(session, peer.clone()))), reused)
                }
                (HttpSession::Custom(()), _) => return Error::err(ErrorType::InternalError),
            },
        };
        Ok(Exchange {
            connections: self.0.clone(),
            idle_limit: limit.clone(),
            key,
            reused,
            session: Some(session),
            interim: 0,
            intact: true,
        })
    }
}

impl Connections {
    fn transport(&self) -> &TransportConnector {
        // It opens connections; those that are idle are kept here.
        self.transport.get_or_init(|| TransportConnector::new(Some(ConnectorOptions::new(0))))
    }

    fn http2(&self) -> &Connector {
        self.http2.get_or_init(|| Connector::new(Some(ConnectorOptions::new(self.pool_size))))
    }
}

/// Whether an error on a kept connection says that the connection was stale.
fn may_ask_again(error: &Error, method: &Method) -> bool {
    match error.retry {
        // Refused stream, GOAWAY: not processed.
        RetryType::Decided(true) => true,
        RetryType::ReusedOnly => method.is_idempotent(),
        RetryType::Decided(false) => *error.etype() == ErrorType::WriteError && method.is_idempotent(),
    }
}

impl Rest {
    /// The next part of the body, never empty; `None` at its end.
    ///
    /// # Errors
    ///
    /// The upstream broke off, or took longer than the peer's `read_timeout` for this part.
    pub async fn body(&mut self) -> Result<Option<Bytes>> {
        let read = match &mut self.0.session {
            Some(Session::Http1(http1)) => http1.body().await,
            Some(Session::Http2(http2)) => http2.body().await,
            None => return Ok(None),
        };
        read.map_err(|e| self.0.fail(e))
    }

    /// The fields after the body, which is read to its end before. Those of HTTP/1 are dropped.
    ///
    /// # Errors
    ///
    /// As of [`Rest::body`].
    pub async fn trailers(&mut self) -> Result<Option<HeaderMap>> {
        let Some(Session::Http2(http2)) = &mut self.0.session else { return Ok(None) };
        let trailers = http2.trailers().await;
        trailers.map_err(|e| self.0.fail(e))
    }

    /// Whether no more of the body is to come. For a body without a length this may be known only when it is read.
    pub fn is_done(&self) -> bool {
        match &self.0.session {
            Some(Session::Http1(http1)) => http1.is_done(),
            Some(Session::Http2(http2)) => http2.is_done(),
            None => true,
        }
    }

    /// Whether neither more of the body nor trailers are to come, as [`Rest::is_done`].
    pub fn is_whole(&self) -> bool {
        self.0.is_http1() && self.is_done()
    }

    /// Give the connection back, to be kept as its upstream says, if the response was read to its end
    /// and the upstream keeps it too. Else this is a drop.
    pub fn finish(self) {
        let mut exchange = self.0;
        let Some(Session::Http1(http1)) =
            exchange.session.take_if(|session| matches!(session, Session::Http1(_)))
        else {
            return;
        };
        if let Some(stream) = http1.into_reusable().filter(|_| exchange.intact) {
            exchange.connections.idle.put(exchange.key, stream, &exchange.idle_limit);
        }
    }
}

impl Exchange {
    /// Whether the connection has served before.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// What is known of the connection's TLS.
    pub fn digest(&self) -> Option<Digest> {
        match &self.session {
            Some(Session::Http1(http1)) => Some(http1.digest()),
            Some(Session::Http2(http2)) => http2.session.digest().cloned(),
            None => None,
        }
    }

    fn is_http1(&self) -> bool {
        matches!(self.session, Some(Session::Http1(_)))
    }

    /// Send the request and wait for the final response's header.
    async fn run(mut self, call: &Call) -> Result<Answer> {
        self.send(Box::new(call.header.clone()), call.body.clone())?;
        loop {
            let header = self.head().await?;
            if !header.status.is_informational() {
                return self.answer(header, &call.header.method);
            }
        }
    }

    /// Begin to send a request, off which what belongs to the client's connection has been taken. It goes on being sent while
    /// the answer is waited for.
    ///
    /// # Errors
    ///
    /// `bad_request` where the request cannot be carried on.
    pub fn send(&mut self, request: Box<RequestHeader>, body: Bytes) -> Result<()> {
        let spoken = match &self.session {
            Some(Session::Http2(http2)) => Spoken::Http2 { tls: http2.peer.is_tls() },
            _ => Spoken::Http1,
        };
        let head = request::head(request, body.len(), spoken).map_err(|e| e.into_down())?;
        match &mut self.session {
            Some(Session::Http1(http1)) => http1.send(&head, body),
            Some(Session::Http2(http2)) => {
                let sent = http2.send(head, body);
                sent.map_err(|e| self.fail(e))
            }
            None => Ok(()),
        }
    }

    /// The header of the next response: up to 32 interim ones, then a final one.
    ///
    /// # Errors
    ///
    /// Of the upstream, too many interim ones and a 101 included.
    pub async fn head(&mut self) -> Result<Box<ResponseHeader>> {
        let read = match &mut self.session {
            Some(Session::Http1(http1)) => http1.head().await,
            Some(Session::Http2(http2)) => http2.head().await,
            None => Error::err(ErrorType::InternalError),
        };
        let header = read.map_err(|e| self.fail(e))?;
        let wrong = match header.status {
            StatusCode::SWITCHING_PROTOCOLS => "a switch that nobody asked for",
            status if status.is_informational() && self.interim == MOST_INTERIM => {
                "interim responses without end"
            }
            status => {
                self.interim += u32::from(status.is_informational());
                return Ok(header);
            }
        };
        Err(self.fail(Error::explain(ErrorType::InvalidHTTPHeader, wrong)))
    }

    /// The final header is there.
    ///
    /// # Errors
    ///
    /// It does not say where its body ends.
    pub fn answer(mut self, mut header: Box<ResponseHeader>, method: &Method) -> Result<Answer> {
        let begun = match &mut self.session {
            Some(Session::Http1(http1)) => http1.begin_body(&mut header, method),
            Some(Session::Http2(http2)) => http2.begin_body(&mut header, method),
            None => Ok(()),
        };
        begun.map_err(|e| self.fail(e))?;
        let rest = Rest(self);
        let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
        let bodiless = response::is_bodiless(method, header.status);
        if !bodiless && !rest.is_done() && !framed.iter().any(|name| header.headers.contains_key(name)) {
            header.set_version(Version::HTTP_11);
            header.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        Ok(Answer { header, rest })
    }

    /// An error of the upstream's; the connection is not to be used again.
    fn fail(&mut self, error: Box<Error>) -> Box<Error> {
        self.intact = false;
        if *error.etype() == ErrorType::ReadTimedout
            && let Some(Session::Http2(http2)) = &self.session
        {
            http2.distrust();
        }
        error.into_up()
    }
}

impl Drop for Exchange {
    /// Of an HTTP/2 connection only the stream ends here. The pool must be told, or it would never again count the
    /// connection as idle.
    fn drop(&mut self) {
        if let Some(Session::Http2(http2)) = self.session.take()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            let (session, peer) = http2.into_session();
            let session = HttpSession::H2(session);
            let released = self.connections.http2().release_http_session(session, &peer, peer.idle_timeout());
            // It waits for nothing with HTTP/2.
            let _ = released.now_or_never();
        }
    }
}
