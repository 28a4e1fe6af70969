//! One exchange over a stream of an HTTP/2 connection: Pingora's session, which reads, and beside it the request's body on
//! its way out.

use std::{
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason as H2Reason, SendStream};
use http::{HeaderMap, HeaderValue, Method, header};
use pingora_core::{
    Error, ErrorType, Result, RetryType,
    protocols::http::v2::client::{Http2Session, PING_TIMEDOUT},
    upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};

use super::response::is_bodiless;
use crate::http::clean_trailers;

pub(super) struct Http2 {
    pub session: Http2Session,
    /// The pool knows its connection by it.
    pub peer: HttpPeer,
    sink: Option<SendStream<Bytes>>,
    /// Taken in, and not sent yet.
    part: Bytes,
    /// The part is the last.
    ends: bool,
    is_ended: bool,
    /// Sending failed; the answer may be there all the same, and then it counts.
    unsent: Option<Box<Error>>,
}

impl Http2 {
    pub(super) fn new(session: Http2Session, peer: HttpPeer) -> Http2 {
        Http2 { session, peer, sink: None, part: Bytes::new(), ends: false, is_ended: false, unsent: None }
    }

    pub(super) fn send_head(&mut self, request: Box<RequestHeader>, is_whole: bool) -> Result<()> {
        // Waiting is bounded by whoever asks.
        self.session.read_timeout = None;
        self.session.write_request_header(request, is_whole)?;
        self.is_ended = is_whole;
        if !is_whole {
            self.sink = self.session.take_request_body_writer();
        }
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
        if let Err(e) = ready!(self.session.poll_read_response_header(cx)) {
            return Poll::Ready(Err(self.read_failed(e, true)));
        }
        let header = self.session.response_header().cloned();
        Poll::Ready(header.map(Box::new).ok_or_else(|| Error::new(ErrorType::InternalError)))
    }

    /// The final response is there. How many bytes its body has, where it says so.
    pub(super) fn begin_body(&mut self, header: &ResponseHeader, method: &Method) -> Result<Option<u64>> {
        let length = header.headers.get(header::CONTENT_LENGTH);
        let done = self.session.check_response_end_or_error()?;
        // h2 counts the bytes of DATA frames against the length, but not that there are none.
        if done && !is_bodiless(method, header.status) && length.is_some_and(is_not_zero) {
            return Error::e_explain(ErrorType::H2Error, "a length, but no body");
        }
        Ok(match length {
            _ if done => Some(0),
            Some(length) => length.to_str().ok().and_then(|length| length.parse().ok()),
            None => None,
        })
    }

    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let _ = self.poll_flush(cx);
        loop {
            match ready!(self.session.poll_read_response_body(cx)) {
                Some(Ok(part)) if part.is_empty() => {}
                Some(Ok(part)) => return Poll::Ready(Ok(Some(part))),
                Some(Err(e)) => return Poll::Ready(Err(self.read_failed(e, false))),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    pub(super) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>>> {
        let trailers = ready!(pin!(self.session.read_trailers()).poll(cx))?;
        Poll::Ready(Ok(trailers.map(|mut trailers| {
            clean_trailers(&mut trailers);
            trailers
        })))
    }

    pub(super) fn is_done(&self) -> bool {
        self.session.response_finished()
    }

    /// Nobody else shall wait for what may be a dead connection.
    pub(super) fn distrust(&self) {
        self.session.conn.mark_shutdown();
    }

    /// What is left of the request's body is dropped, which tells the upstream that no more of it comes.
    pub(super) fn into_session(self) -> (Http2Session, HttpPeer) {
        (self.session, self.peer)
    }

    /// Why there is no answer. That nothing was done may show first as a failure to send (RFC 9113, section 8.7), so what
    /// reading says comes before that; that a kept connection is gone, too.
    fn read_failed(&mut self, e: h2::Error, is_head: bool) -> Box<Error> {
        let unprocessed = is_head
            && e.is_remote()
            && match e.reason() {
                Some(H2Reason::REFUSED_STREAM) => e.is_reset(),
                Some(H2Reason::NO_ERROR) => e.is_go_away(),
                _ => false,
            };
        // The next try would meet the same connection otherwise.
        if e.is_go_away() || e.is_io() {
            self.distrust();
        }
        if self.session.conn.ping_timedout() {
            return Error::because(PING_TIMEDOUT, "while waiting for the response", e);
        }
        let is_io = e.is_io();
        let is_told = e.reason().is_some() && e.is_remote();
        let mut error = match self.unsent.take() {
            Some(unsent) if !unprocessed && !is_told => unsent,
            _ => Error::because(ErrorType::H2Error, "while reading the response", e),
        };
        if unprocessed {
            error.retry = RetryType::Decided(true);
        } else if is_io && is_head {
            error.retry = RetryType::ReusedOnly;
        }
        error
    }
}

fn failed(e: h2::Error) -> Box<Error> {
    Error::because(ErrorType::WriteError, "while sending the request body", e)
}

fn is_not_zero(length: &HeaderValue) -> bool {
    length.as_bytes().iter().any(|digit| *digit != b'0')
}
