//! One exchange over an HTTP/1 connection. The request goes out while the answer is read: an upstream may answer before it
//! has the whole request, or answer as it reads, and neither side may wait for the other.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method};
use pingora_core::{
    Error, ErrorType, Result, RetryType,
    protocols::{Digest, Stream},
};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::response::{self, Framing};
use crate::{
    error::Reason,
    http::{Coding, Outgoing, Spelling, Trailers, put_fields},
};

/// Room for each read: for most heads, and the body where it is not large.
const READ: usize = 8 * 1024;
/// While a body flows.
const READ_BODY: usize = 64 * 1024;
/// The same for a client that may have a hundred bodies under way and read none: each holds what was read for it.
const READ_SMALL: usize = 16 * 1024;

/// With less room than this there is more made.
const LEAST: usize = 4 * 1024;

pub(super) struct Http1 {
    stream: Stream,
    /// Received, and not handed out yet.
    ahead: BytesMut,
    /// Room for each read of the body.
    room: usize,
    /// So many of them hold no end of a head.
    searched: usize,
    outgoing: Outgoing,
    /// The whole request was handed over, its body included.
    is_ended: bool,
    /// Handed to the stream, which may hold it back.
    unflushed: bool,
    /// Sending failed; the answer may be there all the same, and then it counts.
    unsent: Option<Box<Error>>,
    framing: Framing,
    /// So many bytes of `ahead` are content of the present chunk.
    chunk: usize,
    trailers: Trailers,
    malformed: Option<Box<Error>>,
    /// The connection may serve another request, as far as is known.
    keeps: bool,
    /// Field names are to go on as they came: at first those of the request, then those of its answer.
    spelling: Option<Spelling>,
}

impl Http1 {
    pub(super) fn new(stream: Stream) -> Http1 {
        Http1 {
            stream,
            ahead: BytesMut::new(),
            room: READ_BODY,
            searched: 0,
            outgoing: Outgoing::default(),
            is_ended: false,
            unflushed: false,
            unsent: None,
            framing: Framing::Close,
            chunk: 0,
            trailers: Trailers::default(),
            malformed: None,
            keeps: false,
            spelling: None,
        }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest { ssl_digest: self.stream.get_ssl_digest(), ..Digest::default() }
    }

    /// Write field names so, and keep those of the answer.
    pub(super) fn spell(&mut self, spelling: Spelling) {
        self.spelling = Some(spelling);
    }

    pub(super) fn spelling(&mut self) -> Option<Spelling> {
        self.spelling.take()
    }

    /// Begin to send. It goes on while the answer is waited for.
    ///
    /// # Errors
    ///
    /// The request cannot be said in HTTP/1.
    pub(super) fn send_head(
        &mut self,
        request: &RequestHeader,
        coding: Coding,
        is_whole: bool,
    ) -> Result<()> {
        if !put_head(&mut self.outgoing, request, coding, self.spelling.as_ref()) {
            return Err(Reason::BadRequest.into_error().into_down());
        }
        self.unflushed = true;
        self.is_ended = is_whole;
        Ok(())
    }

    /// Whether another part of the body can be taken in.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.outgoing.is_full() && self.unsent.is_none() {
            ready!(self.poll_write(cx));
        }
        Poll::Ready(())
    }

    pub(super) fn send(&mut self, part: Bytes, is_last: bool) {
        self.is_ended |= is_last;
        // Nobody reads any more; what there is of an answer counts.
        if self.unsent.is_none() {
            self.outgoing.put(part, is_last);
            self.unflushed = true;
        }
    }

    pub(super) fn send_trailers(&mut self, trailers: &HeaderMap) {
        self.is_ended = true;
        if self.unsent.is_none() {
            self.outgoing.put_trailers(trailers);
            self.unflushed = true;
        }
    }

    /// Bytes wait to be sent.
    pub(super) fn is_sending(&self) -> bool {
        self.unflushed
    }

    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Send what there is. Failing is not told here: the answer may be there.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.unflushed {
            if self.outgoing.is_empty() {
                let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
                self.unflushed = false;
                if let Err(e) = flushed {
                    self.give_up_sending(e);
                }
            } else {
                ready!(self.poll_write(cx));
            }
        }
        Poll::Ready(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let [gathered, part] = self.outgoing.slices();
        let stream = Pin::new(&mut self.stream);
        let written = match part.is_empty() {
            true => stream.poll_write(cx, &gathered),
            false => stream.poll_write_vectored(cx, &[gathered, part]),
        };
        match ready!(written) {
            Ok(sent @ 1..) => self.outgoing.advance(sent),
            Ok(0) => self.give_up_sending(io::ErrorKind::WriteZero.into()),
            Err(e) => self.give_up_sending(e),
        }
        Poll::Ready(())
    }

    fn give_up_sending(&mut self, e: io::Error) {
        self.unsent = Some(broken(e, ErrorType::WriteError));
        self.outgoing = Outgoing::default();
        self.unflushed = false;
    }

    /// The head of the next response, interim ones included.
    ///
    /// # Errors
    ///
    /// The connection broke, or what came is no response.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<ResponseHeader>>> {
        loop {
            if !self.ahead.is_empty() {
                match response::take(&mut self.ahead, self.searched) {
                    Ok(Some((header, head))) => {
                        self.searched = 0;
                        if let Some(spelling) = &mut self.spelling {
                            *spelling = Spelling::of(head);
                        }
                        return Poll::Ready(Ok(header));
                    }
                    Ok(None) => self.searched = self.ahead.len(),
                    Err(e) => return Poll::Ready(Err(e)),
                }
            }
            if ready!(self.poll_fill(cx, READ))? == 0 {
                let mut closed = Error::explain(ErrorType::ConnectionClosed, "before the response header");
                // A part of a header is more than a stale connection has to say.
                if self.ahead.is_empty() {
                    closed.retry = RetryType::ReusedOnly;
                }
                return Poll::Ready(Err(self.unsent.take().unwrap_or(closed)));
            }
        }
    }

    /// The final response is there: what follows is its body. How many bytes that has, where it says so.
    ///
    /// # Errors
    ///
    /// Its length cannot be told.
    pub(super) fn begin_body(&mut self, header: &ResponseHeader, method: &Method) -> Result<Option<u64>> {
        self.framing = response::framing(header, method)?;
        self.keeps = !matches!(self.framing, Framing::Close) && response::keeps_connection(header);
        Ok(match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked(_) | Framing::Close => None,
        })
    }

    /// Hold as little as may be of the body that follows.
    pub(super) fn read_in_small_parts(&mut self) {
        self.room = READ_SMALL;
    }

    /// The next part of the body, never empty; `None` at its end. After an error it is not to be asked again.
    ///
    /// # Errors
    ///
    /// The connection broke, or the framing is malformed.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            if self.is_done() {
                return Poll::Ready(Ok(None));
            }
            match self.buffered() {
                Ok(Some(part)) => return Poll::Ready(Ok(Some(part))),
                Ok(None) => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
            if self.is_done() || ready!(self.poll_fill(cx, self.room))? > 0 {
                continue;
            }
            if let Framing::Close = self.framing {
                self.framing = Framing::Length(0);
                return Poll::Ready(Ok(None));
            }
            return Poll::Ready(Error::e_explain(ErrorType::ConnectionClosed, "within the response body"));
        }
    }

    /// The fields behind the body, which was read to its end.
    pub(super) fn trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    pub(super) fn has_trailers(&self) -> bool {
        !self.trailers.is_empty()
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
        let is_clean = self.ahead.is_empty() && self.is_ended && !self.unflushed && self.unsent.is_none();
        (self.keeps && self.is_done() && is_clean).then_some(self.stream)
    }

    /// The connection, for another protocol, and what was read of it.
    pub(super) fn into_upgraded(self) -> (Stream, Bytes) {
        (self.stream, self.ahead.freeze())
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
        let malformed = || Error::explain(ErrorType::InvalidHTTPHeader, "malformed chunks in a response");
        while self.chunk == 0 && !self.ahead.is_empty() && !chunks.is_done() {
            let in_trailers = chunks.is_in_trailers();
            let (framing, content) = chunks.decode(&self.ahead).map_err(|_| malformed())?;
            if in_trailers {
                self.trailers.add(&self.ahead[..framing]);
            }
            self.ahead.advance(framing);
            self.chunk = content;
        }
        Ok(())
    }

    /// Read on, and send on meanwhile.
    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<usize>> {
        // Whether it gets on is for the clock: reading goes on either way.
        let _ = self.poll_flush(cx);
        // Parts that were handed out may keep all of the buffer: small ones share it.
        if self.ahead.capacity() - self.ahead.len() < LEAST {
            self.ahead.reserve(room);
        }
        let read = ready!(pin!(self.stream.read_buf(&mut self.ahead)).poll(cx));
        Poll::Ready(read.map_err(|e| self.unsent.take().unwrap_or_else(|| broken(e, ErrorType::ReadError))))
    }
}

/// False where the target would end the line that it stands in (RFC 9112, section 3).
fn put_head(
    outgoing: &mut Outgoing,
    request: &RequestHeader,
    coding: Coding,
    spelling: Option<&Spelling>,
) -> bool {
    let (method, target) = (request.method.as_str(), request.raw_path());
    if target.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n' | b' ')) {
        return false;
    }
    let fields = request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let length = method.len() + target.len() + fields.sum::<usize>() + 14;
    let wire = outgoing.begin(coding, length);
    wire.put_slice(method.as_bytes());
    wire.put_u8(b' ');
    wire.put_slice(target);
    wire.put_slice(b" HTTP/1.1\r\n");
    put_fields(wire, &request.headers, spelling);
    wire.put_slice(b"\r\n");
    true
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
