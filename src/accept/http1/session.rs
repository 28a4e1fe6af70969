//! One HTTP/1 request after another on one connection, and the answers to them.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora_core::protocols::http::date::get_cached_date;
use pingora_http::{RequestHeader, ResponseHeader};

use super::head::Body;
use crate::{
    accept::{
        connection::{
            Connection,
            stream::{ClientStream, READ_BUFFER},
            timer::Timer,
        },
        pace::Pacer,
        session::{BodyLength, Upgraded},
    },
    error::Reason,
    http::{Coding, Outgoing, Spelling, Trailers, has_token, put_field},
};

/// Room for one read while a body flows.
const READ_BODY: usize = 64 * 1024;

pub(crate) struct Http1 {
    stream: Option<ClientStream>,
    connection: Arc<Connection>,
    pub(crate) request: RequestHeader,
    raw_head: Bytes,
    body: Body,
    /// What is left of the body, or of its present chunk.
    left: u64,
    trailers: Trailers,
    pub(crate) body_read: u64,
    pub(crate) body_timeout: Option<Duration>,
    /// When the present pause of the body has been too long.
    read_by: Option<Instant>,
    /// The client's pace with the request's body, and with the answer.
    pub(crate) sending: Pacer,
    pub(crate) reading: Pacer,
    pub(crate) alarm: Timer,
    /// The connection may serve another request.
    keeps: bool,
    /// The client sends nothing more, and may wait for the answer.
    half_closed: bool,
    outgoing: Outgoing,
    pub(crate) responded: Option<u16>,
    /// What the answer's body still owes, where it has said so.
    owes: Option<u64>,
    takes_trailers: bool,
    /// How the answer's names are to be written.
    pub(crate) spelling: Option<Spelling>,
    ended: bool,
    broken: bool,
    pub(crate) body_sent: u64,
}

impl Http1 {
    pub(super) fn new(stream: ClientStream) -> Http1 {
        let connection = stream.connection().clone();
        Http1 {
            stream: Some(stream),
            connection,
            request: http::Request::new(()).into_parts().0.into(),
            raw_head: Bytes::new(),
            body: Body::Length(0),
            left: 0,
            trailers: Trailers::default(),
            body_read: 0,
            body_timeout: None,
            read_by: None,
            sending: Pacer::default(),
            reading: Pacer::default(),
            alarm: Timer::default(),
            keeps: true,
            half_closed: false,
            outgoing: Outgoing::default(),
            responded: None,
            owes: None,
            takes_trailers: false,
            spelling: None,
            ended: false,
            broken: false,
            body_sent: 0,
        }
    }

    /// The next request.
    pub(super) fn begin(&mut self, request: RequestHeader, raw_head: Bytes, body: Body) {
        let says = |word| has_token(&request.headers, &header::CONNECTION, word);
        self.keeps = match request.version {
            Version::HTTP_10 => says("keep-alive"),
            _ => !says("close"),
        };
        self.left = match body {
            Body::Length(length) => length,
            Body::Chunked(_) => 0,
        };
        (self.request, self.raw_head, self.body) = (request, raw_head, body);
        (self.body_read, self.body_sent, self.read_by) = (0, 0, None);
        (self.responded, self.owes, self.takes_trailers) = (None, None, false);
        (self.ended, self.broken) = (false, false);
    }

    /// Whether the connection can serve another request. What belonged to the last is let go.
    pub(super) fn end(&mut self) -> bool {
        self.request = http::Request::new(()).into_parts().0.into();
        self.raw_head = Bytes::new();
        self.trailers = Trailers::default();
        let is_whole = self.ended && !self.broken && self.outgoing.is_empty();
        self.outgoing.release();
        self.keeps && is_whole && self.is_body_done() && self.stream.is_some()
    }

    pub(super) fn stream(&mut self) -> Option<&mut ClientStream> {
        self.stream.as_mut()
    }

    pub(super) fn into_stream(mut self) -> Option<ClientStream> {
        self.stream.take()
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) fn raw_head(&self) -> &Bytes {
        &self.raw_head
    }

    pub(crate) fn set_last(&mut self) {
        self.keeps = false;
    }

    pub(crate) fn body_length(&self) -> Option<u64> {
        match self.body {
            Body::Length(_) => Some(self.body_read + self.left),
            Body::Chunked(_) => None,
        }
    }

    pub(crate) fn is_body_done(&self) -> bool {
        match &self.body {
            Body::Length(_) => self.left == 0,
            Body::Chunked(chunks) => chunks.is_done() && self.left == 0,
        }
    }

    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Reason>> {
        loop {
            if self.is_body_done() {
                return Poll::Ready(Ok(None));
            }
            if let Some(part) = self.buffered()? {
                self.read_by = None;
                self.sending.progress(part.len(), &self.connection);
                self.body_read += part.len() as u64;
                return Poll::Ready(Ok(Some(part)));
            }
            if self.is_body_done() {
                continue;
            }
            let Some(stream) = &mut self.stream else { return Poll::Ready(Err(Reason::ClientClosed)) };
            match stream.poll_fill(cx, READ_BODY) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Reason::ClientClosed)),
                Poll::Ready(Err(e)) => return Poll::Ready(Err(reason(&e))),
                Poll::Pending => return self.poll_paused(cx).map(Err),
            }
        }
    }

    /// Ready when the client takes too long.
    fn poll_paused(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let by =
            self.body_timeout.map(|timeout| *self.read_by.get_or_insert_with(|| Instant::now() + timeout));
        self.sending.poll_late(by, &self.connection, cx)
    }

    /// Of what has been read, the next part of the body.
    fn buffered(&mut self) -> Result<Option<Bytes>, Reason> {
        self.unchunk()?;
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let ahead = stream.ahead_mut();
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(ahead.len());
        if length == 0 {
            return Ok(None);
        }
        let part = ahead.split_to(length).freeze();
        self.left -= length as u64;
        // So that the last part is known to be.
        self.unchunk()?;
        Ok(Some(part))
    }

    /// Take off the framing of chunks, up to the next content.
    fn unchunk(&mut self) -> Result<(), Reason> {
        let Body::Chunked(chunks) = &mut self.body else { return Ok(()) };
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let ahead = stream.ahead_mut();
        while self.left == 0 && !ahead.is_empty() && !chunks.is_done() {
            let in_trailers = chunks.is_in_trailers();
            let (framing, content) = chunks.decode(ahead).map_err(|_| Reason::BadRequest)?;
            if in_trailers {
                self.trailers.add(&ahead[..framing]);
            }
            ahead.advance(framing);
            self.left = content as u64;
        }
        Ok(())
    }

    pub(crate) fn trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Reason::ClientClosed) };
        // The next request waits its turn; that its sender has left shows when it is read.
        let waited = if stream.ahead().is_empty() && !self.half_closed {
            match ready!(stream.poll_fill(cx, READ_BUFFER)) {
                Ok(0) if self.connection.port.settings().half_close => {
                    (self.half_closed, self.keeps) = (true, false);
                    stream.wait(cx)
                }
                Ok(0) => return Poll::Ready(Reason::ClientClosed),
                Ok(_) => stream.wait(cx),
                Err(e) => Poll::Ready(Err(e)),
            }
        } else {
            stream.wait::<()>(cx)
        };
        waited.map(|waited| waited.map_or_else(|e| reason(&e), |()| Reason::ClientClosed))
    }

    pub(crate) fn interim(&mut self, header: &ResponseHeader) {
        if self.responded.is_none() {
            put_head(&mut self.outgoing, header, Coding::Plain, b"", None);
        }
    }

    pub(crate) fn respond(
        &mut self,
        mut header: Box<ResponseHeader>,
        length: BodyLength,
    ) -> Result<(), Reason> {
        if self.responded.is_some() {
            return Ok(());
        }
        let status = header.status;
        self.responded = Some(status.as_u16());
        let is_http10 = self.request.version == Version::HTTP_10;
        let coding = match length {
            BodyLength::Unknown if !is_http10 => Coding::Chunked,
            _ => Coding::Plain,
        };
        // Who asked for WebSocket may have begun to speak it: nothing of that is a request. Other offers, such as that of h2c which
        // comes with each request of some clients, are none (RFC 9110, section 7.8).
        let asks = |name, word| has_token(&self.request.headers, name, word);
        self.keeps &= !(asks(&header::UPGRADE, "websocket") && asks(&header::CONNECTION, "upgrade"));
        // RFC 9112, section 6.1: an HTTP/1.0 client knows no chunks.
        self.keeps &= length != BodyLength::Unknown || !is_http10;
        self.takes_trailers =
            coding == Coding::Chunked && has_token(&self.request.headers, &header::TE, "trailers");
        if !self.takes_trailers && header.headers.contains_key(header::TRAILER) {
            header.remove_header(&header::TRAILER);
        }
        self.owes = match length {
            BodyLength::None => Some(0),
            BodyLength::Known(length) => Some(length),
            BodyLength::Unknown => None,
        };
        self.ended = length == BodyLength::None;
        let mut framing = BytesMut::new();
        let told = header.headers.get(header::CONTENT_LENGTH);
        match length {
            _ if status == StatusCode::SWITCHING_PROTOCOLS => {}
            BodyLength::Unknown if is_http10 => {}
            BodyLength::Unknown => framing.put_slice(b"transfer-encoding: chunked\r\n"),
            BodyLength::Known(length) => {
                framing.put_slice(format!("content-length: {length}\r\n").as_bytes());
            }
            // That of the body which is not there.
            BodyLength::None if self.request.method == Method::HEAD || status == StatusCode::NOT_MODIFIED => {
                if let Some(told) = told {
                    framing.put_slice(b"content-length: ");
                    framing.put_slice(told.as_bytes());
                    framing.put_slice(b"\r\n");
                }
            }
            BodyLength::None if status == StatusCode::NO_CONTENT => {}
            BodyLength::None => framing.put_slice(b"content-length: 0\r\n"),
        }
        if status != StatusCode::SWITCHING_PROTOCOLS {
            if !header.headers.contains_key(header::DATE) {
                framing.put_slice(b"date: ");
                framing.put_slice(get_cached_date().as_bytes());
                framing.put_slice(b"\r\n");
            }
            match (self.keeps, is_http10) {
                (false, _) => framing.put_slice(b"connection: close\r\n"),
                (true, true) => framing.put_slice(b"connection: keep-alive\r\n"),
                (true, false) => {}
            }
        }
        put_head(&mut self.outgoing, &header, coding, &framing, self.spelling.take().as_ref());
        Ok(())
    }

    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        while self.outgoing.is_full() {
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn write(&mut self, part: Bytes, is_last: bool) -> Result<(), Reason> {
        if self.ended {
            return Ok(());
        }
        self.body_sent += part.len() as u64;
        if let Some(owes) = &mut self.owes {
            let left = owes.checked_sub(part.len() as u64);
            // More than was said would be read as the next answer.
            *owes = left.ok_or(Reason::BadUpstreamResponse)?;
        }
        self.outgoing.put(part, is_last);
        if is_last {
            self.ended = true;
            self.broken |= self.owes.is_some_and(|owes| owes > 0);
        }
        Ok(())
    }

    pub(crate) fn takes_trailers(&self) -> bool {
        self.takes_trailers
    }

    pub(crate) fn write_trailers(&mut self, trailers: HeaderMap) -> Result<(), Reason> {
        if !self.takes_trailers {
            return self.write(Bytes::new(), true);
        }
        if !self.ended {
            self.outgoing.put_trailers(&trailers);
            self.ended = true;
        }
        Ok(())
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        while !self.outgoing.is_empty() {
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(Reason::ClientClosed)) };
        let reason = match stream.poll_send(cx, self.outgoing.slices()) {
            Poll::Ready(Ok(sent)) => {
                self.outgoing.advance(sent);
                self.reading.progress(sent, &self.connection);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Err(e)) => reason(&e),
            // How long one stall may last is the sweeper's to say.
            Poll::Pending => ready!(self.reading.poll_late(None, &self.connection, cx)),
        };
        self.broken = true;
        Poll::Ready(Err(reason))
    }

    pub(crate) fn abort(&mut self) {
        self.broken = true;
        self.keeps = false;
    }

    pub(crate) fn upgrade(&mut self) -> Option<Upgraded> {
        self.ended = true;
        let unsent = std::mem::take(&mut self.outgoing).into_bytes().freeze();
        let (transport, ahead) = self.stream.take()?.into_transport()?;
        Some(Upgraded { transport, ahead: ahead.freeze(), unsent })
    }
}

impl Drop for Http1 {
    /// What is not sent yet goes with the stream, which may send it as it closes.
    fn drop(&mut self) {
        if let Some(stream) = &mut self.stream
            && !self.outgoing.is_empty()
        {
            stream.leave_unsent(&std::mem::take(&mut self.outgoing).into_bytes());
        }
    }
}

fn reason(e: &io::Error) -> Reason {
    match e.kind() {
        // The sweeper's word.
        io::ErrorKind::TimedOut => Reason::ClientTimeout,
        _ => Reason::ClientClosed,
    }
}

/// `more` are lines of our own behind the fields; what would frame or speak of the connection is left out of these.
fn put_head(
    outgoing: &mut Outgoing,
    header: &ResponseHeader,
    coding: Coding,
    more: &[u8],
    spelling: Option<&Spelling>,
) {
    let fields = header.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let size = fields.sum::<usize>() + more.len() + 64;
    let wire = outgoing.begin(coding, size);
    wire.put_slice(b"HTTP/1.1 ");
    wire.put_slice(header.status.as_str().as_bytes());
    wire.put_u8(b' ');
    let phrase = header.get_reason_phrase().or(header.status.canonical_reason());
    wire.put_slice(phrase.unwrap_or_default().as_bytes());
    wire.put_slice(b"\r\n");
    // A protocol is named by two fields.
    let names_protocol = |value: &[u8]| match header.status {
        StatusCode::SWITCHING_PROTOCOLS => true,
        StatusCode::UPGRADE_REQUIRED => value == b"upgrade",
        _ => false,
    };
    for (name, value) in &header.headers {
        let is_ours = *name == header::CONTENT_LENGTH
            || *name == header::TRANSFER_ENCODING
            || (*name == header::CONNECTION && !names_protocol(value.as_bytes()));
        if is_ours {
            continue;
        }
        put_field(wire, name, value.as_bytes(), spelling);
    }
    wire.put_slice(more);
    wire.put_slice(b"\r\n");
}
