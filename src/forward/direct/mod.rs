//! One request to one endpoint, sent by ourselves, beside Pingora's proxy loop: that loop knows one upstream at a
//! time, where hedging races several and mirroring sends a copy that nobody waits for.
//!
//! The connections, their pool and HTTP itself are Pingora's. Whoever drops a call or an answer before its end cancels
//! it: an HTTP/1 connection is closed, an HTTP/2 stream reset.

mod request;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use pingora_core::{
    Error, ErrorType, Result, RetryType,
    connectors::{ConnectorOptions, http::Connector},
    protocols::http::{client::HttpSession, v1::client::HttpSession as Http1Session},
    upstreams::peer::{HttpPeer, Peer},
};
use pingora_http::{RequestHeader, ResponseHeader};

use request::Spoken;
use upload::{SharedStream, Sink, Upload};

use crate::upstream::Handshake;

/// Sends calls over connections of its own, which it keeps. One for the process; a clone is the same one.
#[derive(Clone)]
pub struct Direct(Arc<Connections>);

struct Connections {
    pool_size: usize,
    /// Made for the first call: it reads the system's certificates, which takes milliseconds and a megabyte.
    connector: OnceLock<Connector>,
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
}

/// A final response whose header is there.
pub struct Answer {
    /// Framed as a response of HTTP/1.1, whatever the upstream spoke: with a length or `Transfer-Encoding`, as writing it
    /// to a client needs. Hop-by-hop fields are still there.
    pub header: ResponseHeader,
    exchange: Exchange,
}

/// One request on one connection, from the connection being there to its going back to the pool.
struct Exchange {
    connections: Arc<Connections>,
    peer: Box<HttpPeer>,
    /// The pool's name for connections like this one.
    group_key: u64,
    reused: bool,
    /// Empty when the exchange is over.
    session: Option<HttpSession>,
    /// The rest of the request's body.
    upload: Option<Upload>,
    /// Sending the body failed; the answer may be there all the same, and then it counts.
    unsent: Option<Box<Error>>,
    /// Nothing has gone wrong, so the connection may serve others.
    intact: bool,
}

#[derive(Clone, Copy)]
enum Part {
    Head,
    Body,
}

impl Direct {
    /// Keeps up to `pool_size` idle connections of each version of HTTP, all endpoints together.
    pub fn new(pool_size: usize) -> Direct {
        Direct(Arc::new(Connections { pool_size, connector: OnceLock::new() }))
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
        let first = self.exchange(call.peer.clone(), &call).await?;
        let (reused, over_http1) = (first.reused, first.is_http1());
        match first.run(&call).await {
            Err(e) if reused && may_ask_again(&e, &call.header.method) => {}
            answered => return answered,
        }
        if !over_http1 {
            // The broken connection is known to be: another one is taken.
            return self.exchange(call.peer.clone(), &call).await?.run(&call).await;
        }
        // What else the pool keeps for this endpoint may be as stale. Under this name it keeps nothing.
        let mut fresh = call.peer.clone();
        fresh.group_key = fastrand::u64(..);
        let mut exchange = self.exchange(fresh, &call).await?;
        exchange.group_key = call.peer.group_key;
        exchange.run(&call).await
    }

    async fn exchange(&self, peer: Box<HttpPeer>, call: &Call) -> Result<Exchange> {
        let (session, reused) = self.0.connector().get_http_session(&*peer).await.map_err(|e| e.into_up())?;
        if let Some(handshake) = &call.handshake {
            // A connection that fails is dropped here, and so closed.
            handshake.check(session.digest()).map_err(|distrust| distrust.reason().into_error().into_up())?;
        }
        Ok(Exchange {
            connections: self.0.clone(),
            group_key: peer.group_key,
            peer,
            reused,
            session: Some(session),
            upload: None,
            unsent: None,
            intact: true,
        })
    }
}

impl Connections {
    fn connector(&self) -> &Connector {
        self.connector.get_or_init(|| Connector::new(Some(ConnectorOptions::new(self.pool_size))))
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

impl Answer {
    /// The next part of the body, never empty; `None` at its end.
    ///
    /// # Errors
    ///
    /// The upstream broke off, or took longer than the peer's `read_timeout` for this part.
    pub async fn body(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.exchange.read(Part::Body).await? {
                Some(part) if part.is_empty() => {}
                part => return Ok(part),
            }
        }
    }

    /// The fields after the body, which is read to its end before. Pingora drops those of HTTP/1.
    ///
    /// # Errors
    ///
    /// As of [`Answer::body`].
    pub async fn trailers(&mut self) -> Result<Option<HeaderMap>> {
        let Some(HttpSession::H2(stream)) = &mut self.exchange.session else { return Ok(None) };
        let trailers = stream.read_trailers().await;
        trailers.map_err(|e| self.exchange.fail(e))
    }

    /// Whether no more of the body is to come. For a body without a length this may be known only when it is read.
    pub fn is_done(&mut self) -> bool {
        self.exchange.session.as_mut().is_none_or(HttpSession::response_done)
    }

    /// Give the connection back, to be kept as long as the peer's `idle_timeout` says, if the response was read to its end
    /// and the upstream keeps it too. Else this is a drop.
    pub async fn finish(mut self) {
        let exchange = &mut self.exchange;
        let whole = exchange.intact && exchange.upload.is_none();
        if let Some(session) = exchange.session.take_if(|session| whole && session.response_done()) {
            if let HttpSession::H1(_) = session {
                exchange.peer.group_key = exchange.group_key;
            }
            exchange.give_back(session).await;
        }
    }
}

impl Exchange {
    fn is_http1(&self) -> bool {
        matches!(self.session, Some(HttpSession::H1(_)))
    }

    /// Send the request; the answer ends the exchange as it is dropped.
    async fn run(mut self, call: &Call) -> Result<Answer> {
        let spoken = match self.is_http1() {
            true => Spoken::Http1,
            false => Spoken::Http2 { tls: self.peer.is_tls() },
        };
        let request = request::head(&call.header, call.body.len(), spoken).map_err(|e| e.into_down())?;
        self.send(request, call.body.clone()).await.map_err(|e| self.fail(e))?;
        loop {
            self.read(Part::Head).await?;
            let header = self.session.as_ref().and_then(HttpSession::response_header).cloned();
            let header = header.ok_or_else(|| self.fail(Error::new(ErrorType::InternalError)))?;
            match header.status {
                StatusCode::SWITCHING_PROTOCOLS => {
                    let unasked =
                        Error::explain(ErrorType::InvalidHTTPHeader, "a switch that nobody asked for");
                    return Err(self.fail(unasked));
                }
                interim if interim.is_informational() => {}
                _ => return self.answer(header, &call.header.method),
            }
        }
    }

    async fn send(&mut self, request: Box<RequestHeader>, body: Bytes) -> Result<()> {
        let (read_timeout, write_timeout) = (self.peer.options.read_timeout, self.peer.options.write_timeout);
        let upload = |sink| Some(Upload::new(sink, body.clone(), write_timeout));
        self.session = match self.session.take() {
            Some(HttpSession::H1(session)) if !body.is_empty() => {
                let shared = SharedStream::of(session.into_inner());
                self.upload = upload(Sink::Http1(shared.clone()));
                Some(HttpSession::H1(Http1Session::new_with_options(Box::new(shared), &*self.peer)))
            }
            session => session,
        };
        let Some(session) = &mut self.session else { return Error::err(ErrorType::InternalError) };
        session.set_read_timeout(read_timeout);
        session.set_write_timeout(write_timeout);
        match session {
            HttpSession::H2(stream) => {
                stream.write_request_header(request, body.is_empty())?;
                if !body.is_empty() {
                    self.upload =
                        stream.take_request_body_writer().and_then(|sink| upload(Sink::Http2(sink)));
                }
                Ok(())
            }
            session => session.write_request_header(request).await,
        }
    }

    /// Read on, and send on meanwhile.
    async fn read(&mut self, part: Part) -> Result<Option<Bytes>> {
        let Some(session) = &mut self.session else { return Ok(None) };
        if let Some(upload) = &mut self.upload {
            // The upstream's time to answer starts when it has all; what it takes to accept is bounded step by step.
            session.set_read_timeout(None);
            let sent = tokio::select! {
                biased;
                sent = upload.run() => sent,
                read = read(session, part) => return read.map_err(|e| self.fail(e)),
            };
            self.upload = None;
            session.set_read_timeout(self.peer.options.read_timeout);
            match sent {
                Ok(()) => {}
                // It neither read nor answered.
                Err(e) if *e.etype() == ErrorType::WriteTimedout => return Err(self.fail(e)),
                // It may have answered before it stopped to read.
                Err(e) => (self.unsent, self.intact) = (Some(e), false),
            }
        }
        match read(session, part).await {
            Ok(read) => Ok(read),
            Err(e) => {
                let cause = self.unsent.take().unwrap_or(e);
                Err(self.fail(cause))
            }
        }
    }

    fn answer(mut self, mut header: ResponseHeader, method: &Method) -> Result<Answer> {
        let bodiless = *method == Method::HEAD
            || matches!(header.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut done = false;
        match &mut self.session {
            Some(HttpSession::H2(stream)) => {
                header.set_version(Version::HTTP_11);
                done = stream.check_response_end_or_error().map_err(|e| self.fail(e))?;
                // h2 counts the bytes of DATA frames against the length, but not that there are none.
                if done && !bodiless && header.headers.get(header::CONTENT_LENGTH).is_some_and(is_not_zero) {
                    let short = Error::explain(ErrorType::H2Error, "a length, but no body");
                    return Err(self.fail(short));
                }
            }
            Some(session) => done = session.response_done(),
            None => {}
        }
        let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
        if !bodiless && !done && !framed.iter().any(|name| header.headers.contains_key(name)) {
            header.set_version(Version::HTTP_11);
            header.insert_header(header::TRANSFER_ENCODING, "chunked").map_err(|e| self.fail(e))?;
        }
        Ok(Answer { header, exchange: self })
    }

    /// An error of the upstream's; the connection is not to be used again.
    fn fail(&mut self, error: Box<Error>) -> Box<Error> {
        self.intact = false;
        if *error.etype() == ErrorType::ReadTimedout
            && let Some(HttpSession::H2(stream)) = &self.session
        {
            // Nobody else shall wait for what may be a dead connection.
            stream.conn.mark_shutdown();
        }
        error.into_up()
    }

    async fn give_back(&self, session: HttpSession) {
        let idle_timeout = self.peer.idle_timeout();
        self.connections.connector().release_http_session(session, &*self.peer, idle_timeout).await;
    }
}

async fn read(session: &mut HttpSession, part: Part) -> Result<Option<Bytes>> {
    match part {
        Part::Head => session.read_response_header().await.map(|()| None),
        Part::Body => session.read_response_body().await,
    }
}

fn is_not_zero(length: &HeaderValue) -> bool {
    length.as_bytes().iter().any(|digit| *digit != b'0')
}

impl Drop for Exchange {
    /// Of an HTTP/2 connection only the stream ends here. The pool must be told, or it would never again count the
    /// connection as idle.
    fn drop(&mut self) {
        self.upload = None;
        if let Some(HttpSession::H2(_)) = &self.session
            && tokio::runtime::Handle::try_current().is_ok()
            && let Some(session) = self.session.take()
        {
            // It waits for nothing with HTTP/2.
            let _ = self.give_back(session).now_or_never();
        }
    }
}
