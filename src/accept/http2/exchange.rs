//! One request and its response on a stream of the `h2` library, with the waits that Pingora's own HTTP/2 session does
//! not bound: `body_timeout`, and the deadline of the request.
//!
//! Elsewhere it does as that session does (pingora-core, protocols/http/v2/server.rs); `session.rs` makes it one.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderName, Response, header};
use pingora_core::{
    Error, ErrorType, OrErr, Result,
    protocols::{
        Digest, SocketDigest,
        http::{body_buffer::FixedBuffer, date::get_cached_date},
    },
};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::accept::{
    connection::Incoming,
    deadline::{Deadline, Timer},
};

/// Fields of a connection, which HTTP/2 does not have (RFC 9113, section 8.2.2).
const CONNECTION_FIELDS: [HeaderName; 5] = [
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

pub(super) struct Exchange {
    pub(super) request: RequestHeader,
    body: RecvStream,
    /// The body was read to its end, or there are only trailers left, which go no further.
    body_read_out: bool,
    pub(super) body_read: usize,
    /// What was read so far, for another try.
    pub(super) retry_buffer: Option<FixedBuffer>,
    respond: SendResponse<Bytes>,
    response_body: Option<SendStream<Bytes>>,
    pub(super) written: Option<Box<ResponseHeader>>,
    /// END_STREAM was sent.
    ended: bool,
    pub(super) body_sent: usize,
    pub(super) digest: Digest,
    deadline: Arc<Deadline>,
    timer: Timer,
    /// Longest pause between two parts of the request's body.
    pub(super) read_timeout: Option<Duration>,
    /// When the present pause has been too long.
    read_by: Option<Instant>,
    /// Longest time for the client to take one part of the response's body.
    pub(super) write_timeout: Option<Duration>,
    pub(super) drain_timeout: Option<Duration>,
}

impl Exchange {
    pub(super) fn new(
        request: RequestHeader,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        incoming: Incoming,
        socket_digest: Option<Arc<SocketDigest>>,
    ) -> Exchange {
        let deadline = incoming.deadline.clone();
        let digest = Digest { proxy_digest: incoming.into_digest(), socket_digest, ..Digest::default() };
        Exchange {
            request,
            body,
            body_read_out: false,
            body_read: 0,
            retry_buffer: None,
            respond,
            response_body: None,
            written: None,
            ended: false,
            body_sent: 0,
            digest,
            deadline,
            timer: Timer::default(),
            read_timeout: None,
            read_by: None,
            write_timeout: None,
            drain_timeout: None,
        }
    }

    /// The next part of the body; `None` at its end.
    pub(super) async fn read(&mut self) -> Result<Option<Bytes>> {
        // What comes behind the end of the response changes nothing: the client is told to stop (RFC 9113, section 8.1).
        if self.ended {
            self.body_read_out = true;
            return Ok(None);
        }
        let Some(data) = poll_fn(|cx| self.poll_read(cx)).await? else { return Ok(None) };
        self.body_read += data.len();
        if let Some(buffer) = &mut self.retry_buffer {
            buffer.write_to_buffer(&data);
        }
        // Fails when the stream is over, and then nobody waits for room.
        let _ = self.body.flow_control().release_capacity(data.len());
        Ok(Some(data))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        match self.body.poll_data(cx) {
            Poll::Ready(data) => {
                self.read_by = None;
                self.body_read_out = data.is_none();
                Poll::Ready(data.transpose().map_err(broken_body))
            }
            Poll::Pending => {
                // Kept while the proxy turns to other things in between, which must not start the pause anew.
                if self.read_by.is_none() {
                    self.read_by = self.read_timeout.map(|timeout| Instant::now() + timeout);
                }
                self.wait(cx, self.read_by, ErrorType::ReadTimedout)
            }
        }
    }

    /// Pending for ever, until the client gives the stream up.
    pub(super) async fn idle(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|cx| {
            let reset = match &mut self.response_body {
                Some(stream) => stream.poll_reset(cx),
                None => self.respond.poll_reset(cx),
            };
            match reset {
                Poll::Ready(Ok(reason)) => {
                    let why = format!("the client reset the stream: {reason}");
                    Poll::Ready(Err(Error::explain(ErrorType::H2Error, why).into_down()))
                }
                Poll::Ready(Err(error)) => {
                    let why = "while waiting for the client to leave";
                    Poll::Ready(Err(Error::because(ErrorType::H2Error, why, error).into_down()))
                }
                Poll::Pending => self.wait(cx, None, ErrorType::ReadTimedout),
            }
        })
        .await
    }

    /// Nothing to do yet. Fails when the request's deadline or `limit` has passed.
    fn wait<T>(&mut self, cx: &mut Context<'_>, limit: Option<Instant>, late: ErrorType) -> Poll<Result<T>> {
        let due = match (self.deadline.at(), limit) {
            (None, None) => return Poll::Pending,
            (Some(deadline), Some(limit)) => deadline.min(limit),
            (Some(due), None) | (None, Some(due)) => due,
        };
        if self.timer.is_over(due, cx) {
            Poll::Ready(Err(Error::explain(late, "waiting for the client").into_down()))
        } else {
            Poll::Pending
        }
    }

    /// Nothing more to read.
    pub(super) fn is_body_done(&self) -> bool {
        self.is_body_empty() || self.body_read_out || self.body.is_end_stream()
    }

    pub(super) fn is_body_empty(&self) -> bool {
        let announces_none = || {
            let length = self.request.headers.get(header::CONTENT_LENGTH);
            length.is_some_and(|length| length.as_bytes() == b"0")
        };
        self.body_read == 0 && (self.body.is_end_stream() || announces_none())
    }

    pub(super) fn write_header(&mut self, mut header: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.ended || self.written.is_some() {
            log::debug!("a second response header is dropped");
            return Ok(());
        }
        for field in &CONNECTION_FIELDS {
            header.remove_header(field);
        }
        if header.status.is_informational() {
            return self.write_interim(&header);
        }
        header.insert_header(header::DATE, get_cached_date())?;
        let response = Response::from_parts(header.as_owned_parts(), ());
        let stream = self.respond.send_response(response, end);
        let stream = stream.or_err(ErrorType::WriteError, "while writing the response header");
        self.response_body = Some(stream.map_err(|error| error.into_down())?);
        self.written = Some(header);
        self.ended = end;
        Ok(())
    }

    /// 100 and 103 pass. There is no 101 in HTTP/2 (RFC 9113, section 8.6).
    fn write_interim(&mut self, header: &ResponseHeader) -> Result<()> {
        if header.status == http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let response = Response::from_parts(header.as_owned_parts(), ());
        let sent = self.respond.send_informational(response);
        sent.or_err(ErrorType::WriteError, "while writing an interim response")
            .map_err(|error| error.into_down())
    }

    /// Send a part of the body as the client makes room for it.
    pub(super) async fn write(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        if self.ended {
            log::debug!("{} bytes behind the end of a response are dropped", data.len());
            return Ok(());
        }
        let length = data.len();
        let mut write_by = None;
        loop {
            let stream = writer(&mut self.response_body)?;
            // There is no room to wait for where nothing is to be sent.
            if !data.is_empty() {
                stream.reserve_capacity(data.len());
            }
            let room = match data.len() {
                0 => 0,
                _ => poll_fn(|cx| self.poll_room(cx, &mut write_by)).await?,
            };
            let part = data.split_to(room.min(data.len()));
            let last = data.is_empty();
            if !part.is_empty() || last {
                let stream = writer(&mut self.response_body)?;
                let sent = stream.send_data(part, last && end);
                sent.or_err(ErrorType::WriteError, "while writing the response")
                    .map_err(|error| error.into_down())?;
            }
            if last {
                break;
            }
        }
        self.body_sent += length;
        self.ended = end;
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, write_by: &mut Option<Instant>) -> Poll<Result<usize>> {
        match writer(&mut self.response_body)?.poll_capacity(cx) {
            Poll::Ready(Some(Ok(room))) => Poll::Ready(Ok(room)),
            Poll::Ready(Some(Err(error))) => {
                let why = "while waiting for room";
                Poll::Ready(Err(Error::because(ErrorType::H2Error, why, error).into_down()))
            }
            Poll::Ready(None) => {
                Poll::Ready(Err(Error::explain(ErrorType::H2Error, "the stream is over").into_down()))
            }
            Poll::Pending => {
                if write_by.is_none() {
                    *write_by = self.write_timeout.map(|timeout| Instant::now() + timeout);
                }
                self.wait(cx, *write_by, ErrorType::WriteTimedout)
            }
        }
    }

    /// These end the stream.
    pub(super) fn write_trailers(&mut self, trailers: http::HeaderMap) -> Result<()> {
        if self.ended {
            log::debug!("trailers behind the end of a response are dropped");
            return Ok(());
        }
        let sent = writer(&mut self.response_body)?.send_trailers(trailers);
        sent.or_err(ErrorType::WriteError, "while writing trailers").map_err(|error| error.into_down())?;
        self.ended = true;
        Ok(())
    }

    /// End the response, if it has begun and not ended. Dropped without, the stream is reset, so that the client does
    /// not take what it has for the whole.
    pub(super) fn end(&mut self) -> Result<()> {
        if let (false, Some(stream)) = (self.ended, &mut self.response_body) {
            let sent = stream.send_data(Bytes::new(), true);
            sent.or_err(ErrorType::WriteError, "while ending the response")
                .map_err(|error| error.into_down())?;
            self.ended = true;
        }
        Ok(())
    }

    pub(super) fn reset(&mut self, reason: h2::Reason) {
        if !self.ended {
            self.respond.send_reset(reason);
        }
    }
}

fn writer(stream: &mut Option<SendStream<Bytes>>) -> Result<&mut SendStream<Bytes>> {
    stream.as_mut().ok_or_else(|| Error::explain(ErrorType::H2Error, "a body before its header"))
}

/// A body that is not as long as announced is the client's mistake; the library has reset the stream for it.
fn broken_body(error: h2::Error) -> Box<Error> {
    let is_malformed = error.is_library() && error.is_reset();
    let etype = if is_malformed { ErrorType::InvalidHTTPHeader } else { ErrorType::ReadError };
    Error::because(etype, "while reading the request body", error).into_down()
}
