//! One exchange over an HTTP/1 connection. The request goes out while the answer is read: an upstream may answer before it
//! has the whole request, or answer as it reads, and neither side may wait for the other.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::Method;
use pingora_core::{
    Error, ErrorType, Result, RetryType,
    protocols::{Digest, Stream},
};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::response::{self, Framing};
use crate::error::Reason;

/// Room for each read: for most heads, and the body where it is not large.
const READ: usize = 8 * 1024;
/// While a body flows. As much as the stream itself reads, which then copies nothing.
const READ_BODY: usize = 64 * 1024;

/// With less room than this there is more made.
const LEAST: usize = 4 * 1024;

/// Of the peer: for each step forward, not for the whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub read: Option<Duration>,
    pub write: Option<Duration>,
}

pub(super) struct Http1 {
    stream: Stream,
    timeouts: Timeouts,
    /// Received, and not handed out yet.
    ahead: BytesMut,
    /// So many of them hold no end of a head.
    searched: usize,
    outgoing: Outgoing,
    /// Sending failed; the answer may be there all the same, and then it counts.
    unsent: Option<Box<Error>>,
    framing: Framing,
    /// So many bytes of `ahead` are content of the present chunk.
    chunk: usize,
    malformed: Option<Box<Error>>,
    /// The connection may serve another request, as far as is known.
    keeps: bool,
}

/// What is left to send of a request.
#[derive(Default)]
struct Outgoing {
    head: BytesMut,
    body: Bytes,
    /// Handed to the stream, which may hold it back.
    unflushed: bool,
}

enum Step {
    Sent,
    /// So many bytes; none at the end of the stream.
    Read(usize),
}

impl Http1 {
    pub(super) fn new(stream: Stream, timeouts: Timeouts) -> Http1 {
        Http1 {
            stream,
            timeouts,
            ahead: BytesMut::new(),
            searched: 0,
            outgoing: Outgoing::default(),
            unsent: None,
            framing: Framing::Close,
            chunk: 0,
            malformed: None,
            keeps: false,
        }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest { ssl_digest: self.stream.get_ssl_digest(), ..Digest::default() }
    }

    /// Begin to send. It goes on while the answer is waited for.
    ///
    /// # Errors
    ///
    /// The request cannot be said in HTTP/1.
    pub(super) fn send(&mut self, request: &RequestHeader, body: Bytes) -> Result<()> {
        let head = wire(request).ok_or_else(|| Reason::BadRequest.into_error().into_down())?;
        self.outgoing = Outgoing { head, body, unflushed: true };
        Ok(())
    }

    /// The head of the next response, interim ones included.
    ///
    /// # Errors
    ///
    /// The connection broke, the upstream took longer than its time, or what came is no response.
    pub(super) async fn head(&mut self) -> Result<Box<ResponseHeader>> {
        loop {
            if !self.ahead.is_empty() {
                if let Some(header) = response::take(&mut self.ahead, self.searched)? {
                    self.searched = 0;
                    return Ok(header);
                }
                self.searched = self.ahead.len();
            }
            if self.fill(READ).await? == 0 {
                let mut closed = Error::explain(ErrorType::ConnectionClosed, "before the response header");
                closed.retry = RetryType::ReusedOnly;
                return Err(self.unsent.take().unwrap_or(closed));
            }
        }
    }

    /// The final response is there: what follows is its body.
    ///
    /// # Errors
    ///
    /// Its length cannot be told.
    pub(super) fn begin_body(&mut self, header: &mut ResponseHeader, method: &Method) -> Result<()> {
        self.framing = response::framing(header, method)?;
        self.keeps = !matches!(self.framing, Framing::Close) && response::keeps_connection(header);
        Ok(())
    }

    /// The next part of the body, never empty; `None` at its end. Dropping the future loses nothing; after an error it is
    /// not to be asked again.
    ///
    /// # Errors
    ///
    /// The connection broke, the upstream took longer than its time, or the framing is malformed.
    pub(super) async fn body(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.is_done() {
                return Ok(None);
            }
            if let Some(part) = self.buffered()? {
                return Ok(Some(part));
            }
            if self.is_done() || self.fill(READ_BODY).await? > 0 {
                continue;
            }
            if let Framing::Close = self.framing {
                self.framing = Framing::Length(0);
                return Ok(None);
            }
            return Error::e_explain(ErrorType::ConnectionClosed, "within the response body");
        }
    }

    /// No more of the body is to come.
    pub(super) fn is_done(&self) -> bool {
        match &self.framing {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(chunks) => chunks.is_done() && self.chunk == 0,
            Framing::Close => false,
        }
    }

    /// The connection, where it can serve another request: all was sent, and nothing but the answer was received.
    pub(super) fn into_reusable(self) -> Option<Stream> {
        let is_clean = self.ahead.is_empty() && !self.outgoing.is_sending() && self.unsent.is_none();
        (self.keeps && self.is_done() && is_clean).then_some(self.stream)
    }

    /// Of what has been read, the next part of the body.
    fn buffered(&mut self) -> Result<Option<Bytes>> {
        if let Some(malformed) = self.malformed.take() {
            return Err(malformed);
        }
        let length = match &mut self.framing {
            Framing::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(self.ahead.len());
                *left -= length as u64;
                length
            }
            Framing::Chunked(_) => {
                self.unchunk()?;
                std::mem::take(&mut self.chunk)
            }
            Framing::Close => self.ahead.len(),
        };
        let part = (length > 0).then(|| self.ahead.split_to(length).freeze());
        if part.is_some() {
            // So that the last part is known to be. What is wrong behind it is met when it is asked for.
            self.malformed = self.unchunk().err();
        }
        Ok(part)
    }

    /// Take off the framing of chunks, up to the next content.
    fn unchunk(&mut self) -> Result<()> {
        let Framing::Chunked(chunks) = &mut self.framing else { return Ok(()) };
        while self.chunk == 0 && !self.ahead.is_empty() && !chunks.is_done() {
            let decoded = chunks.decode(&self.ahead);
            let (framing, content) = decoded.map_err(|_| {
                Error::explain(ErrorType::InvalidHTTPHeader, "malformed chunks in a response")
            })?;
            self.ahead.advance(framing);
            self.chunk = content;
        }
        Ok(())
    }

    /// Read on, and send on meanwhile.
    async fn fill(&mut self, room: usize) -> Result<usize> {
        loop {
            // The upstream's time to answer starts when it has all; what it takes to accept is bounded step by step.
            let sending = self.outgoing.is_sending();
            let limit = if sending { self.timeouts.write } else { self.timeouts.read };
            let failed = match within(limit, |cx| self.poll_step(cx, room)).await {
                Some(Ok(Step::Sent)) => continue,
                Some(Ok(Step::Read(read))) => return Ok(read),
                Some(Err(e)) => broken(e, ErrorType::ReadError),
                None if sending => {
                    return Error::e_explain(ErrorType::WriteTimedout, "while sending the request");
                }
                None => return Error::e_explain(ErrorType::ReadTimedout, "while reading the response"),
            };
            return Err(self.unsent.take().unwrap_or(failed));
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<Step>> {
        if self.outgoing.is_sending() {
            match self.outgoing.poll_step(Pin::new(&mut self.stream), cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(Step::Sent)),
                // It may have answered before it stopped to read.
                Poll::Ready(Err(e)) => {
                    self.unsent = Some(broken(e, ErrorType::WriteError));
                    self.outgoing = Outgoing::default();
                }
                Poll::Pending => {}
            }
        }
        // Parts that were handed out may keep all of the buffer: small ones share it.
        if self.ahead.capacity() - self.ahead.len() < LEAST {
            self.ahead.reserve(room);
        }
        pin!(self.stream.read_buf(&mut self.ahead)).poll(cx).map_ok(Step::Read)
    }
}

impl Outgoing {
    fn is_sending(&self) -> bool {
        self.unflushed
    }

    fn poll_step(&mut self, mut stream: Pin<&mut Stream>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let part = if self.head.is_empty() { &self.body[..] } else { &self.head[..] };
        if part.is_empty() {
            ready!(stream.poll_flush(cx))?;
            self.unflushed = false;
            return Poll::Ready(Ok(()));
        }
        let sent = ready!(stream.as_mut().poll_write(cx, part))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        if self.head.is_empty() {
            self.body.advance(sent)
        } else {
            self.head.advance(sent)
        }
        Poll::Ready(Ok(()))
    }
}

/// `None` where the target would end the line that it stands in (RFC 9112, section 3).
fn wire(request: &RequestHeader) -> Option<BytesMut> {
    let (method, target) = (request.method.as_str(), request.raw_path());
    if target.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n' | b' ')) {
        return None;
    }
    let fields = request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let length = method.len() + target.len() + fields.sum::<usize>() + 14;
    let mut wire = BytesMut::with_capacity(length);
    wire.put_slice(method.as_bytes());
    wire.put_u8(b' ');
    wire.put_slice(target);
    wire.put_slice(b" HTTP/1.1\r\n");
    request.header_to_h1_wire(&mut wire);
    wire.put_slice(b"\r\n");
    Some(wire)
}

/// `None` where it takes longer than `limit`. The timer is made when there is something to wait for.
async fn within<T>(limit: Option<Duration>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let mut timer = pin!(None);
    poll_fn(|cx| {
        if let Poll::Ready(done) = poll(cx) {
            return Poll::Ready(Some(done));
        }
        let Some(limit) = limit else { return Poll::Pending };
        if timer.is_none() {
            timer.set(Some(tokio::time::sleep(limit)));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

/// A kept connection that the system finds broken was closed by the upstream meanwhile; what TLS finds wrong was not.
fn broken(e: io::Error, etype: ErrorType) -> Box<Error> {
    let by_system = e.raw_os_error().is_some();
    let mut error = Error::because(etype, "on the upstream's connection", e);
    if by_system {
        error.retry = RetryType::ReusedOnly;
    }
    error
}
