//! One exchange on one connection: it is polled by the task of its request, which sends and reads.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Method, StatusCode};
use pingora_core::{
    Error, ErrorType, Result, RetryType,
    protocols::{Digest, Stream},
    upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{
    Answer, Call, Connections, Heard,
    http1::Http1,
    http2::{self, Http2},
    request::{self, Length, Spoken},
    response,
};
use crate::{
    forward::{arrival::forget_ours, hop},
    http::{Coding, Spelling},
    policy::failure::Stage,
    upstream::{Distrust, IdleLimit},
};

/// The read timeout begins anew with each, so without a bound an upstream could keep its request for ever.
pub(super) const MOST_INTERIM: u32 = 32;

/// Why an exchange broke, and when.
pub(crate) struct Broken {
    pub stage: Stage,
    /// The connection had served before.
    pub reused: bool,
    pub cause: BrokenBy,
}

pub(crate) enum BrokenBy {
    Error(Box<Error>),
    Distrust(Distrust),
}

/// One request on one connection, from the connection being there to its going back to the pool.
pub(crate) struct Exchange {
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
    timeouts: Timeouts,
    /// What is waited for, and since when.
    waits: Option<(Wait, Instant)>,
    /// The client has asked for a switch to another protocol.
    upgrades: bool,
    /// The beginning of the answer's body, where that was held back.
    held: VecDeque<Bytes>,
}

/// Of the peer: for each step forward, not for the whole.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    read: Option<Duration>,
    write: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The upstream takes what is sent.
    Sending,
    /// It has all, and owes its answer.
    Reading,
}

#[expect(clippy::large_enum_variant, reason = "it is moved once, and most are of HTTP/1")]
pub(super) enum Session {
    Http1(Http1),
    Http2(Box<Http2>),
}

impl Session {
    pub(super) fn http2(claim: http2::Claim, peer: &HttpPeer) -> Session {
        Session::Http2(Box::new(Http2::new(claim, peer.is_tls())))
    }
}

impl Broken {
    pub(crate) fn at(stage: Stage, reused: bool, error: Box<Error>) -> Broken {
        Broken { stage, reused, cause: BrokenBy::Error(error) }
    }

    pub(crate) fn distrusted(distrust: Distrust) -> Broken {
        Broken { stage: Stage::Connect, reused: false, cause: BrokenBy::Distrust(distrust) }
    }

    pub(super) fn is_stale(&self) -> bool {
        let BrokenBy::Error(error) = &self.cause else { return false };
        self.reused && matches!(error.retry, RetryType::ReusedOnly)
    }
}

impl Exchange {
    /// On a connection to `peer` that the pool knows by `key`.
    pub(super) fn new(
        connections: Arc<Connections>,
        peer: &HttpPeer,
        limit: &IdleLimit,
        key: u64,
        session: Session,
        reused: bool,
    ) -> Exchange {
        Exchange {
            connections,
            idle_limit: limit.clone(),
            key,
            reused,
            session: Some(session),
            interim: 0,
            intact: true,
            timeouts: Timeouts { read: peer.options.read_timeout, write: peer.options.write_timeout },
            waits: None,
            upgrades: false,
            held: VecDeque::new(),
        }
    }

    /// What is known of the connection's TLS.
    pub(crate) fn digest(&self) -> Option<Digest> {
        match &self.session {
            Some(Session::Http1(http1)) => Some(http1.digest()),
            Some(Session::Http2(http2)) => Some(http2.digest().clone()),
            None => None,
        }
    }

    /// The connection had been used before.
    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    pub(crate) fn spoken(&self) -> Spoken {
        match &self.session {
            Some(Session::Http2(http2)) => Spoken::Http2 { tls: http2.is_tls },
            _ => Spoken::Http1,
        }
    }

    pub(super) fn is_http1(&self) -> bool {
        matches!(self.session, Some(Session::Http1(_)))
    }

    /// Write the names of fields as they stand in this head, and keep those of the answer, over HTTP/1.
    pub(crate) fn spell(&mut self, head: Bytes) {
        if let Some(Session::Http1(http1)) = &mut self.session {
            http1.spell(Spelling::of(head));
        }
    }

    /// Hold as little as may be of the answer's body at a time.
    pub(crate) fn read_in_small_parts(&mut self) {
        if let Some(Session::Http1(http1)) = &mut self.session {
            http1.read_in_small_parts();
        }
    }

    /// How the answer's names are spelled, where that is to be kept.
    pub(crate) fn spelling(&mut self) -> Option<Spelling> {
        match &mut self.session {
            Some(Session::Http1(http1)) => http1.spelling(),
            _ => None,
        }
    }

    /// Begin to send a request, off which what belongs to the client's connection has been taken. It goes on being sent while
    /// the answer is waited for. A body of the given length follows, part by part.
    ///
    /// # Errors
    ///
    /// `bad_request` where the request cannot be carried on.
    pub(crate) fn send_head(&mut self, request: Box<RequestHeader>, length: Length) -> Result<()> {
        self.upgrades = length == Length::Upgrade;
        let head = request::head(request, length, self.spoken()).map_err(|e| e.into_down())?;
        let is_whole = matches!(length, Length::None | Length::Known(0) | Length::Upgrade);
        let coding = if length == Length::Unknown { Coding::Chunked } else { Coding::Plain };
        match &mut self.session {
            Some(Session::Http1(http1)) => http1.send_head(&head, coding, is_whole),
            Some(Session::Http2(http2)) => {
                let sent = http2.send_head(*head, is_whole);
                sent.map_err(|e| self.fail(e))
            }
            None => Ok(()),
        }
    }

    /// Whether the upstream can take another part of the body. Never an error: who stopped to read may have answered.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ready = match &mut self.session {
            Some(Session::Http1(http1)) => http1.poll_ready(cx),
            Some(Session::Http2(http2)) => http2.poll_ready(cx),
            None => Poll::Ready(()),
        };
        match ready.is_ready() {
            true => self.waits = None,
            false => self.wait(),
        }
        ready
    }

    /// The next part of the body, when ready for it.
    pub(crate) fn send(&mut self, part: Bytes, is_last: bool) {
        match &mut self.session {
            Some(Session::Http1(http1)) => http1.send(part, is_last),
            Some(Session::Http2(http2)) => http2.send(part, is_last),
            None => {}
        }
    }

    /// End the body with fields behind it.
    pub(crate) fn send_trailers(&mut self, trailers: HeaderMap) {
        match &mut self.session {
            Some(Session::Http1(http1)) => http1.send_trailers(&trailers),
            Some(Session::Http2(http2)) => http2.send_trailers(trailers),
            None => {}
        }
    }

    /// The header of the next response: up to 32 interim ones, then a final one.
    ///
    /// # Errors
    ///
    /// Of the upstream; too many interim ones, and a 101 that nobody asked for.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<ResponseHeader>>> {
        let read = match &mut self.session {
            Some(Session::Http1(http1)) => http1.poll_head(cx),
            Some(Session::Http2(http2)) => http2.poll_head(cx),
            None => Poll::Ready(Error::err(ErrorType::InternalError)),
        };
        let mut header = ready!(self.heard(read))?;
        forget_ours(&mut header);
        let wrong = match header.status {
            StatusCode::SWITCHING_PROTOCOLS if !self.upgrades || !self.is_http1() => {
                "a switch that nobody asked for"
            }
            StatusCode::SWITCHING_PROTOCOLS if hop::agrees(&header) => return Poll::Ready(Ok(header)),
            StatusCode::SWITCHING_PROTOCOLS => "a switch to a protocol that is not passed on",
            status if status.is_informational() && self.interim == MOST_INTERIM => {
                "interim responses without end"
            }
            status => {
                self.interim += u32::from(status.is_informational());
                return Poll::Ready(Ok(header));
            }
        };
        Poll::Ready(Err(self.fail(Error::explain(ErrorType::InvalidHTTPHeader, wrong))))
    }

    /// The final header is there: its body follows. What frames is taken off it, but for a `Content-Length` that holds.
    /// Answers that length.
    ///
    /// # Errors
    ///
    /// It does not say where its body ends.
    pub(crate) fn begin_body(&mut self, header: &mut ResponseHeader, method: &Method) -> Result<Option<u64>> {
        let begun = match &mut self.session {
            Some(Session::Http1(http1)) => http1.begin_body(header, method),
            Some(Session::Http2(http2)) => http2.begin_body(header, method),
            None => Ok(None),
        };
        let length = begun.map_err(|e| self.fail(e))?;
        response::unframe(header, method, length)?;
        Ok(length)
    }

    /// Read the body as far as it is held back: up to `most` bytes, and no longer than there is more where nobody knows how much
    /// there will be (`is_known`).
    ///
    /// # Errors
    ///
    /// The upstream broke off. It has begun to answer, so that its connection was not stale.
    pub(crate) fn poll_hold(
        &mut self,
        most: usize,
        is_known: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        while !self.is_read() && self.held.iter().map(Bytes::len).sum::<usize>() < most {
            match self.poll_read(cx) {
                Poll::Ready(Ok(Some(part))) => self.held.push_back(part),
                Poll::Ready(Ok(None)) => break,
                Poll::Ready(Err(mut broken)) => {
                    broken.retry = RetryType::Decided(false);
                    return Poll::Ready(Err(broken));
                }
                Poll::Pending if is_known => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The next part of the body, never empty; `None` at its end.
    ///
    /// # Errors
    ///
    /// The upstream broke off.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        match self.held.pop_front() {
            Some(part) => Poll::Ready(Ok(Some(part))),
            None => self.poll_read(cx),
        }
    }

    /// The client does not take what was read: no more of the body is asked for meanwhile.
    pub(crate) fn leave_unread(&mut self) {
        if let Some(Session::Http2(http2)) = &mut self.session {
            http2.leave_unread();
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let read = match &mut self.session {
            Some(Session::Http1(http1)) => http1.poll_body(cx),
            Some(Session::Http2(http2)) => http2.poll_body(cx),
            None => return Poll::Ready(Ok(None)),
        };
        self.heard(read)
    }

    /// The fields after the body, which is read to its end before.
    ///
    /// # Errors
    ///
    /// As of [`Exchange::poll_body`].
    pub(crate) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>>> {
        let read = match &mut self.session {
            Some(Session::Http1(http1)) => return Poll::Ready(Ok(http1.trailers())),
            Some(Session::Http2(http2)) => http2.poll_trailers(cx),
            None => return Poll::Ready(Ok(None)),
        };
        self.heard(read)
    }

    /// Keeps the time of a wait, and what an error means for the connection.
    fn heard<T>(&mut self, read: Poll<Result<T>>) -> Poll<Result<T>> {
        match read {
            Poll::Ready(heard) => {
                self.waits = None;
                Poll::Ready(heard.map_err(|e| self.fail(e)))
            }
            Poll::Pending => {
                self.wait();
                Poll::Pending
            }
        }
    }

    /// Nothing to do but wait: from now, or on as before.
    fn wait(&mut self) {
        let (is_sending, is_ended) = match &self.session {
            Some(Session::Http1(http1)) => (http1.is_sending(), http1.is_ended()),
            Some(Session::Http2(http2)) => (http2.is_sending(), http2.is_ended()),
            None => return,
        };
        // The upstream's time to answer starts when it has all; what it takes to accept is bounded step by step. Between
        // two parts of the body it is the client who is waited for.
        let wait = match (is_sending, is_ended) {
            (true, _) => Wait::Sending,
            (false, true) => Wait::Reading,
            (false, false) => return self.waits = None,
        };
        if self.waits.is_none_or(|(before, _)| before != wait) {
            self.waits = Some((wait, Instant::now()));
        }
    }

    /// When the present wait will have been too long.
    pub(crate) fn due(&self) -> Option<Instant> {
        let (wait, since) = self.waits?;
        let timeout = match wait {
            Wait::Sending => self.timeouts.write,
            Wait::Reading => self.timeouts.read,
        };
        since.checked_add(timeout?)
    }

    /// The present wait has been too long.
    pub(crate) fn late(&mut self) -> Box<Error> {
        let error = match self.waits {
            Some((Wait::Sending, _)) => Error::explain(ErrorType::WriteTimedout, "while sending the request"),
            _ => Error::explain(ErrorType::ReadTimedout, "while waiting for the response"),
        };
        self.fail(error)
    }

    /// Nothing is heard: an HTTP/2 connection is asked whether it is still there.
    pub(crate) fn doubt(&self) {
        if let Some(Session::Http2(http2)) = &self.session {
            http2.doubt();
        }
    }

    /// [`Exchange::poll_hold`], within the peer's time.
    ///
    /// # Errors
    ///
    /// The same, and that it took longer.
    pub(crate) async fn hold(&mut self, most: usize, is_known: bool) -> Result<()> {
        self.within(|exchange, cx| exchange.poll_hold(most, is_known, cx)).await
    }

    /// Whether no more of the body is to come. For a body without a length this may be known only when it is read.
    pub(crate) fn is_done(&self) -> bool {
        self.held.is_empty() && self.is_read()
    }

    fn is_read(&self) -> bool {
        match &self.session {
            Some(Session::Http1(http1)) => http1.is_done(),
            Some(Session::Http2(http2)) => http2.is_done(),
            None => true,
        }
    }

    /// Whether neither more of the body nor trailers are to come, as [`Exchange::is_done`].
    pub(crate) fn is_whole(&self) -> bool {
        self.held.is_empty()
            && matches!(&self.session, Some(Session::Http1(http1)) if http1.is_done() && !http1.has_trailers())
    }

    /// Give the connection back, to be kept as its upstream says, if the request was sent, the response read to its end
    /// and the upstream keeps it too. Else this is a drop.
    pub(crate) fn finish(&mut self) {
        let is_over = |session: &mut Session| match session {
            Session::Http1(_) => true,
            Session::Http2(http2) => http2.is_over(),
        };
        if let Some(Session::Http1(http1)) = self.session.take_if(is_over)
            && let Some(stream) = http1.into_reusable().filter(|_| self.intact)
        {
            self.connections.idle.put(self.key, stream, &self.idle_limit);
        }
    }

    /// After a 101: the connection, and what was read of it.
    pub(crate) fn into_upgraded(mut self) -> Option<(Stream, Bytes)> {
        match self.session.take() {
            Some(Session::Http1(http1)) => Some(http1.into_upgraded()),
            _ => None,
        }
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

    /// An error of this exchange, for whoever is to say what it means.
    pub(crate) fn broken(&self, stage: Stage, error: Box<Error>) -> Broken {
        Broken::at(stage, self.reused, error)
    }

    /// Send the request and wait for the final response's header.
    pub(super) async fn run(
        mut self,
        call: &Call,
        hear: &mut (dyn FnMut(Heard<'_>) + Send),
    ) -> std::result::Result<Answer, Broken> {
        let length = Length::of_whole(&call.header.method, call.body.len());
        let begun = self.send_head(Box::new(call.header.clone()), length);
        begun.map_err(|e| self.broken(Stage::Send, e))?;
        if !call.body.is_empty() {
            self.send(call.body.clone(), true);
        }
        loop {
            let head = self.within(|exchange, cx| exchange.poll_head(cx)).await;
            let mut header = head.map_err(|e| self.broken(Stage::Head, e))?;
            if header.status.is_informational() {
                hear(Heard::Interim(&header));
                continue;
            }
            let begun = self.begin_body(&mut header, &call.header.method);
            let length = begun.map_err(|e| self.broken(Stage::Head, e))?;
            return Ok(Answer { header, length, rest: self });
        }
    }

    /// [`Exchange::poll_body`], within the peer's time.
    ///
    /// # Errors
    ///
    /// The same, and that it took longer.
    pub(crate) async fn body(&mut self) -> Result<Option<Bytes>> {
        self.within(|exchange, cx| exchange.poll_body(cx)).await
    }

    /// [`Exchange::poll_trailers`], within the peer's time.
    ///
    /// # Errors
    ///
    /// The same, and that it took longer.
    pub(crate) async fn trailers(&mut self) -> Result<Option<HeaderMap>> {
        self.within(|exchange, cx| exchange.poll_trailers(cx)).await
    }

    /// What `poll` waits for, within the peer's time.
    async fn within<T>(
        &mut self,
        mut poll: impl FnMut(&mut Exchange, &mut Context<'_>) -> Poll<Result<T>>,
    ) -> Result<T> {
        let mut timer = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = poll(self, cx) {
                return Poll::Ready(done);
            }
            let Some(due) = self.due() else { return Poll::Pending };
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
            if timer.deadline() != due.into() {
                timer.as_mut().reset(due.into());
            }
            ready!(timer.poll_unpin(cx));
            Poll::Ready(Err(self.late()))
        })
        .await
    }
}
