//! One exchange over a stream of an HTTP/2 connection: its answer, and beside it the request's body on its way out.

mod connection;
mod pool;
#[cfg(test)]
mod tests;

use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures::FutureExt;
use h2::{Reason as H2Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderMap, Method, Request};
use pingora_core::{
    Error, ErrorType, Result, RetryType,
    protocols::{Digest, Stream, http::v2::client::PING_TIMEDOUT},
    upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};

use self::connection::{Connection, Unread};
pub(super) use self::pool::{Claim, Found, Opening, Pool};
use super::response::{LONGEST_HEAD, MAX_FIELDS, content_length, is_bodiless, malformed};
use crate::{http::clean_trailers, upstream::IdleLimit};

pub(super) struct Http2 {
    pub is_tls: bool,
    /// Until the head of the final response is there.
    response: Option<ResponseFuture>,
    /// From then on.
    body: Option<RecvStream>,
    /// Of the last part that was read. The upstream gets its place in the window back when the next one is asked for: until then
    /// it is held, and two windows would be.
    held: usize,
    /// The client does not take that part yet.
    unread: Option<Unread>,
    /// An interim response is there, so the upstream has begun.
    has_begun: bool,
    sink: Option<SendStream<Bytes>>,
    /// Taken in, and not sent yet.
    part: Bytes,
    /// The part is the last.
    ends: bool,
    is_ended: bool,
    /// Sending failed; the answer may be there all the same, and then it counts.
    unsent: Option<Box<Error>>,
    /// Last, as fields are dropped in order: there is no room before the stream has ended.
    claim: Claim,
}

/// Speak HTTP/2 on a new connection, which the pool knows from now on.
///
/// # Errors
///
/// Nothing can be written there.
pub(super) async fn open(
    pool: &Pool,
    opening: Opening,
    stream: Stream,
    peer: &HttpPeer,
    limit: &IdleLimit,
) -> Result<Claim> {
    let opened = Connection::open(stream, peer).await?;
    Ok(pool.put(opening, opened, limit))
}

impl Http2 {
    pub(super) fn new(claim: Claim, is_tls: bool) -> Http2 {
        Http2 {
            is_tls,
            response: None,
            body: None,
            held: 0,
            unread: None,
            has_begun: false,
            sink: None,
            part: Bytes::new(),
            ends: false,
            is_ended: false,
            unsent: None,
            claim,
        }
    }

    pub(super) fn digest(&self) -> &Digest {
        self.claim.connection().digest()
    }

    /// Begin to send. It goes on while the answer is waited for.
    ///
    /// # Errors
    ///
    /// The connection has ended meanwhile, so the upstream knows nothing of the request.
    pub(super) fn send_head(&mut self, request: RequestHeader, is_whole: bool) -> Result<()> {
        let Some(mut sender) = self.claim.sender() else {
            return Err(unprocessed(Error::explain(ErrorType::H2Error, "the connection has ended")));
        };
        let sent = sender.send_request(Request::from_parts(request.into(), ()), is_whole);
        let (response, sink) = sent.map_err(|e| {
            self.distrust();
            let (is_io, is_go_away) = (e.is_io(), e.is_go_away());
            let mut error = Error::because(ErrorType::H2Error, "while sending the request", e);
            match (is_io, is_go_away) {
                (true, _) => error.retry = RetryType::ReusedOnly,
                (_, true) => error = unprocessed(error),
                _ => {}
            }
            error
        })?;
        self.response = Some(response);
        self.is_ended = is_whole;
        self.sink = Some(sink).filter(|_| !is_whole);
        Ok(())
    }

    /// Whether another part of the body can be taken in.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_flush(cx)
    }

    pub(super) fn send(&mut self, part: Bytes, is_last: bool) {
        self.is_ended |= is_last;
        if part.is_empty() && !is_last {
            return;
        }
        (self.part, self.ends) = (part, is_last);
        if self.part.is_empty() {
            self.push(Bytes::new(), true);
        }
    }

    pub(super) fn send_trailers(&mut self, trailers: HeaderMap) {
        self.is_ended = true;
        if let Some(mut sink) = self.sink.take()
            && let Err(e) = sink.send_trailers(trailers)
        {
            self.unsent = Some(failed(e));
        }
    }

    pub(super) fn is_sending(&self) -> bool {
        !self.part.is_empty()
    }

    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.part.is_empty() {
            let Some(sink) = &mut self.sink else {
                self.part = Bytes::new();
                break;
            };
            sink.reserve_capacity(self.part.len());
            let granted = match ready!(sink.poll_capacity(cx)) {
                Some(Ok(granted)) => granted,
                Some(Err(e)) => {
                    self.give_up_sending(failed(e));
                    break;
                }
                None => {
                    self.give_up_sending(Error::explain(ErrorType::WriteError, "the stream is closed"));
                    break;
                }
            };
            let part = self.part.split_to(granted.min(self.part.len()));
            let is_last = self.ends && self.part.is_empty();
            if !part.is_empty() {
                self.push(part, is_last);
            }
        }
        Poll::Ready(())
    }

    fn push(&mut self, part: Bytes, is_last: bool) {
        let Some(sink) = &mut self.sink else { return };
        if let Err(e) = sink.send_data(part, is_last) {
            self.give_up_sending(failed(e));
        } else if is_last {
            self.sink = None;
        }
    }

    fn give_up_sending(&mut self, e: Box<Error>) {
        self.unsent = Some(e);
        self.sink = None;
        self.part = Bytes::new();
    }

    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<ResponseHeader>>> {
        // Whether it gets on is for the clock: reading goes on either way.
        let _ = self.poll_flush(cx);
        let Some(response) = &mut self.response else {
            return Poll::Ready(Error::err(ErrorType::InternalError));
        };
        // First: asked for the final one, `h2` passes over those before it.
        match ready!(response.poll_informational(cx)) {
            Some(Ok(interim)) => {
                self.has_begun = true;
                return Poll::Ready(bounded(interim.into_parts().0));
            }
            Some(Err(e)) => return Poll::Ready(Err(self.read_failed(e, true))),
            None => {}
        }
        match ready!(response.poll_unpin(cx)) {
            Ok(response) => {
                let (head, body) = response.into_parts();
                self.response = None;
                self.body = Some(body);
                Poll::Ready(bounded(head))
            }
            Err(e) => Poll::Ready(Err(self.read_failed(e, true))),
        }
    }

    /// The final response is there. How many bytes its body has, where it says so.
    pub(super) fn begin_body(&mut self, header: &ResponseHeader, method: &Method) -> Result<Option<u64>> {
        let length = content_length(&header.headers)?;
        let done = self.has_ended()?;
        // h2 counts the bytes of DATA frames against the length, but not that there are none.
        if done && !is_bodiless(method, header.status) && length.is_some_and(|length| length > 0) {
            return Error::e_explain(ErrorType::H2Error, "a length, but no body");
        }
        Ok(if done { Some(0) } else { length })
    }

    /// Whether nothing is behind the head. A stream that has failed has ended as well, and is an error.
    fn has_ended(&mut self) -> Result<bool> {
        let Some(body) = self.body.as_mut().filter(|body| body.is_end_stream()) else { return Ok(false) };
        match body.poll_data(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Err(e))) => Error::e_because(ErrorType::H2Error, "at the end of the stream", e),
            Poll::Ready(Some(Ok(_))) => {
                Error::e_explain(ErrorType::H2Error, "data after the end of the stream")
            }
            Poll::Ready(None) | Poll::Pending => Ok(true),
        }
    }

    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let _ = self.poll_flush(cx);
        self.unread = None;
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(None)) };
        // Fails where the stream has, and reading says why.
        let _ = body.flow_control().release_capacity(std::mem::take(&mut self.held));
        loop {
            match ready!(body.poll_data(cx)) {
                Some(Ok(part)) if part.is_empty() => {}
                Some(Ok(part)) => {
                    self.held = part.len();
                    return Poll::Ready(Ok(Some(part)));
                }
                Some(Err(e)) => return Poll::Ready(Err(self.read_failed(e, false))),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Nobody asks for the next part: the client is waited for.
    pub(super) fn leave_unread(&mut self) {
        if self.unread.is_none() && !self.is_done() {
            self.unread = self.claim.connection().leave_unread();
        }
    }

    pub(super) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(None)) };
        match ready!(body.poll_trailers(cx)) {
            Ok(mut trailers) => {
                trailers.as_mut().map(clean_trailers);
                Poll::Ready(Ok(trailers))
            }
            Err(e) => Poll::Ready(Err(self.read_failed(e, false))),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.body.as_ref().is_some_and(RecvStream::is_end_stream)
    }

    /// The request is sent, and the answer read to its end.
    pub(super) fn is_over(&self) -> bool {
        self.is_ended && !self.is_sending() && self.is_done()
    }

    /// Find out whether the connection is alive.
    pub(super) fn doubt(&self) {
        self.claim.connection().doubt();
    }

    /// Nobody else shall wait for what may be a dead connection.
    pub(super) fn distrust(&self) {
        self.claim.withdraw();
    }

    /// Why there is no answer. That nothing was done may show first as a failure to send (RFC 9113, section 8.7), so what
    /// reading says comes before that; that a kept connection is gone, too.
    fn read_failed(&mut self, e: h2::Error, is_head: bool) -> Box<Error> {
        // A stream hears of a GOAWAY only where it is beyond the last one that the upstream has looked at.
        let is_unprocessed = is_head
            && !self.has_begun
            && e.is_remote()
            && (e.is_go_away() || e.is_reset() && e.reason() == Some(H2Reason::REFUSED_STREAM));
        // The next try would meet the same connection otherwise.
        if e.is_go_away() || e.is_io() {
            self.distrust();
        }
        if self.claim.connection().is_ping_lost() {
            return Error::because(PING_TIMEDOUT, "while waiting for the response", e);
        }
        let is_stale = is_head && e.is_io() && !self.has_begun;
        let is_told = e.reason().is_some() && e.is_remote();
        let mut error = match self.unsent.take() {
            Some(unsent) if !is_unprocessed && !is_told => unsent,
            // Found out by the library: no HTTP/2, or a head beyond all bounds.
            _ if is_head && e.is_library() => {
                Error::because(ErrorType::InvalidHTTPHeader, "while reading the response", e)
            }
            _ => Error::because(ErrorType::H2Error, "while reading the response", e),
        };
        if is_unprocessed {
            error = unprocessed(error);
        } else if is_stale {
            error.retry = RetryType::ReusedOnly;
        }
        error
    }
}

/// The library takes more than HTTP/1 does, and has no bound on the number of fields.
fn bounded(head: http::response::Parts) -> Result<Box<ResponseHeader>> {
    let size: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    match () {
        () if size > LONGEST_HEAD => Err(malformed("a response header of more than 1 MiB")),
        () if head.headers.len() > MAX_FIELDS => Err(malformed("too many fields")),
        () => Ok(Box::new(ResponseHeader::from(head))),
    }
}

fn unprocessed(mut error: Box<Error>) -> Box<Error> {
    error.retry = RetryType::Decided(true);
    error
}

fn failed(e: h2::Error) -> Box<Error> {
    Error::because(ErrorType::WriteError, "while sending the request body", e)
}
