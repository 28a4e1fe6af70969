//! One request of a client and the answer to it, over whichever version of HTTP: what the proxy reads and writes.
//!
//! A session is polled. Nothing waits inside it: what is written is taken in, and goes out when it is flushed or when there
//! is no more room.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Version};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{Connection, Transport, http1::Http1, http2::Http2};
use crate::{error::Reason, http::Spelling, snapshot::LeastRates};

/// Who answers requests.
pub(crate) trait Server: Send + Sync + 'static {
    /// Answer the request that is in the session, to the end.
    fn serve<'s>(&'s self, session: &'s mut Session) -> BoxFuture<'s, ()>;
}

pub(crate) enum Session {
    Http1(Box<Http1>),
    Http2(Box<Http2>),
}

/// Tells a request that the gateway's grace is over.
pub(crate) struct Cut {
    connection: Arc<Connection>,
    /// The request has a task of its own, which is woken with the connection's.
    is_stream: bool,
}

impl Cut {
    /// Ready when the request has to end. What is left to say can still be said.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        match self.is_stream {
            false => self.connection.poll_cut(cx),
            true if self.connection.is_cut() => Poll::Ready(()),
            true => Poll::Pending,
        }
    }
}

/// How the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// There is none: the head is all.
    None,
    /// So many bytes follow.
    Known(u64),
    Unknown,
}

macro_rules! each {
    ($session:expr, $it:ident => $do:expr) => {
        match $session {
            Session::Http1($it) => $do,
            Session::Http2($it) => $do,
        }
    };
}

impl Session {
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        each!(self, it => it.connection())
    }

    pub(crate) fn cut(&self) -> Cut {
        Cut { connection: self.connection().clone(), is_stream: self.is_http2() }
    }

    pub(crate) fn request(&self) -> &RequestHeader {
        each!(self, it => &it.request)
    }

    pub(crate) fn request_mut(&mut self) -> &mut RequestHeader {
        each!(self, it => &mut it.request)
    }

    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Session::Http2(_))
    }

    /// HTTP/1.0 knows neither interim answers nor chunks.
    pub(crate) fn is_http10(&self) -> bool {
        self.request().version == Version::HTTP_10
    }

    /// The head of the request as it came over HTTP/1.
    pub(crate) fn raw_head(&self) -> Option<&Bytes> {
        match self {
            Session::Http1(http1) => Some(http1.raw_head()),
            Session::Http2(_) => None,
        }
    }

    /// The least rates at which the client sends and reads, from here on.
    pub(crate) fn ask_for_rates(&mut self, rates: LeastRates) {
        each!(self, it => {
            it.sending.begin(rates.sending);
            it.reading.begin(rates.reading);
        });
    }

    // The request's body.

    /// Longest pause between two parts of it.
    pub(crate) fn set_body_timeout(&mut self, timeout: Option<Duration>) {
        each!(self, it => it.body_timeout = timeout);
    }

    /// How many bytes it says that it has; `None` where it ends where it ends.
    pub(crate) fn body_length(&self) -> Option<u64> {
        each!(self, it => it.body_length())
    }

    /// Nothing of it is left to be read. Its trailers may be.
    pub(crate) fn is_body_done(&self) -> bool {
        each!(self, it => it.is_body_done())
    }

    /// The next part, never empty; `None` at the end.
    ///
    /// # Errors
    ///
    /// The client left, took longer than the body's timeout, was too slow, or sent what is no body.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Reason>> {
        each!(self, it => it.poll_body(cx))
    }

    /// The fields behind the body, after its end.
    pub(crate) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Reason>> {
        match self {
            Session::Http1(http1) => Poll::Ready(Ok(http1.trailers())),
            Session::Http2(http2) => http2.poll_trailers(cx),
        }
    }

    /// Ready when the client is gone, or its connection is to end. To be asked only when the body is done.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        each!(self, it => it.poll_gone(cx))
    }

    pub(crate) fn body_bytes_read(&self) -> u64 {
        each!(self, it => it.body_read)
    }

    // The answer.

    /// An interim answer, at once.
    pub(crate) fn interim(&mut self, header: &ResponseHeader) {
        // HTTP/1.0 knows none (RFC 9110, section 15.2).
        if !self.is_http10() {
            each!(self, it => it.interim(header));
        }
    }

    /// Write the names of the answer's fields so, over HTTP/1.
    pub(crate) fn spell(&mut self, spelling: Option<Spelling>) {
        if let Session::Http1(http1) = self {
            http1.spelling = spelling;
        }
    }

    /// The final answer. What frames its body is made here: `header` may have a `Content-Length` that is true.
    ///
    /// # Errors
    ///
    /// The client is gone.
    pub(crate) fn respond(&mut self, header: Box<ResponseHeader>, length: BodyLength) -> Result<(), Reason> {
        each!(self, it => it.respond(header, length))
    }

    /// The status of the final answer, once one has begun.
    pub(crate) fn responded(&self) -> Option<u16> {
        each!(self, it => it.responded)
    }

    /// Whether another part of the answer can be taken in.
    ///
    /// # Errors
    ///
    /// The client is gone, or does not read.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        each!(self, it => it.poll_ready(cx))
    }

    /// The next part of the answer's body, when ready for it.
    ///
    /// # Errors
    ///
    /// The client is gone, or the body is longer than was said.
    pub(crate) fn write(&mut self, part: Bytes, is_last: bool) -> Result<(), Reason> {
        each!(self, it => it.write(part, is_last))
    }

    /// End the answer with fields behind it, where the client can take them.
    ///
    /// # Errors
    ///
    /// The client is gone.
    pub(crate) fn write_trailers(&mut self, trailers: HeaderMap) -> Result<(), Reason> {
        each!(self, it => it.write_trailers(trailers))
    }

    /// Whether trailers would reach the client.
    pub(crate) fn takes_trailers(&self) -> bool {
        match self {
            Session::Http1(http1) => http1.takes_trailers(),
            Session::Http2(_) => true,
        }
    }

    /// Send what was taken in.
    ///
    /// # Errors
    ///
    /// The client is gone, or does not read.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        each!(self, it => it.poll_flush(cx))
    }

    pub(crate) fn body_bytes_sent(&self) -> u64 {
        each!(self, it => it.body_sent)
    }

    /// The answer breaks off: what there is of it is sent, and the client sees that it is not whole.
    pub(crate) fn abort(&mut self) {
        each!(self, it => it.abort());
    }

    // The connection.

    /// This is the last request on it, over HTTP/1.
    pub(crate) fn set_last(&mut self) {
        if let Session::Http1(http1) = self {
            http1.set_last();
        }
    }

    /// True when `at` has passed; else the task is woken by then.
    pub(crate) fn is_past(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        each!(self, it => it.alarm.is_over(at, cx))
    }

    /// After a 101: the connection, with what was not sent of that and what was read ahead.
    pub(crate) fn upgrade(&mut self) -> Option<Upgraded> {
        match self {
            Session::Http1(http1) => http1.upgrade(),
            Session::Http2(_) => None,
        }
    }

    /// Bytes that were said on an upgraded connection.
    pub(crate) fn count_upgraded(&mut self, read: u64, sent: u64) {
        each!(self, it => {
            it.body_read += read;
            it.body_sent += sent;
        });
    }
}

/// A client's connection that is no longer HTTP's.
pub(crate) struct Upgraded {
    pub transport: Transport,
    /// The client's bytes that were read already.
    pub ahead: Bytes,
    /// The head of the answer that has agreed to it.
    pub unsent: Bytes,
}
