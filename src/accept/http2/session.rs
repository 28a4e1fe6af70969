//! One request and its response on a stream of the `h2` library, under the waits that the library does not bound.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, Response, StatusCode, header};
use pingora_core::protocols::http::date::get_cached_date;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::{
    accept::{
        connection::{Connection, timer::Timer},
        http2::{SEND_BUFFER, windows::Bodies},
        pace::Pacer,
        session::BodyLength,
    },
    error::Reason,
    http::clean_trailers,
};

/// Fields of a connection, which HTTP/2 does not have (RFC 9113, section 8.2.2).
const CONNECTION_FIELDS: [HeaderName; 5] = [
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Pieces that are smaller are not counted: so many of them as the library takes are little.
const COUNTED: usize = 4 * 1024;

pub(crate) struct Http2 {
    connection: Arc<Connection>,
    bodies: Arc<Bodies>,
    pub(crate) request: RequestHeader,
    body: RecvStream,
    /// The body was read to its end, or only trailers are left of it.
    body_read_out: bool,
    pub(crate) body_read: u64,
    /// Longest pause between two parts of the request's body.
    pub(crate) body_timeout: Option<Duration>,
    /// When the present pause has been too long.
    read_by: Option<Instant>,
    /// Longest time for the client to take one part of the response's body.
    write_timeout: Duration,
    write_by: Option<Instant>,
    /// The client's pace with the request's body, and with the response's.
    pub(crate) sending: Pacer,
    pub(crate) reading: Pacer,
    pub(crate) alarm: Timer,
    respond: SendResponse<Bytes>,
    response_body: Option<SendStream<Bytes>>,
    pub(crate) responded: Option<u16>,
    /// Taken in, and not sent yet.
    part: Bytes,
    /// What the library has, once it was given much.
    unsent: Option<Arc<Unsent>>,
    /// The part is the last.
    ends: bool,
    /// These follow the part.
    trailers: Option<HeaderMap>,
    /// END_STREAM was sent, or will be behind the part.
    ended: bool,
    pub(crate) body_sent: u64,
}

/// What of a response waits in the library. That knows by itself, and says only how much more it would take, which is as little where
/// the client has no window.
#[derive(Default)]
struct Unsent {
    bytes: AtomicUsize,
    waker: AtomicWaker,
}

/// A piece that the library drops when it is sent, or never will be.
struct Piece {
    bytes: Bytes,
    unsent: Arc<Unsent>,
}

impl Unsent {
    fn count(self: &Arc<Unsent>, bytes: Bytes) -> Bytes {
        self.bytes.fetch_add(bytes.len(), Relaxed);
        Bytes::from_owner(Piece { bytes, unsent: self.clone() })
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let has_room = || self.bytes.load(Acquire) < SEND_BUFFER;
        if has_room() {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        if has_room() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.unsent.bytes.fetch_sub(self.bytes.len(), Release);
        self.unsent.waker.wake();
    }
}

impl Http2 {
    pub(super) fn new(
        request: RequestHeader,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        (connection, bodies): (Arc<Connection>, Arc<Bodies>),
    ) -> Http2 {
        Http2 {
            write_timeout: connection.port.settings().limits.write_timeout,
            connection,
            bodies,
            request,
            // Asked while the connection is there: when that is gone, the library no longer knows.
            body_read_out: body.is_end_stream(),
            body,
            body_read: 0,
            body_timeout: None,
            read_by: None,
            write_by: None,
            sending: Pacer::default(),
            reading: Pacer::default(),
            alarm: Timer::default(),
            respond,
            response_body: None,
            responded: None,
            part: Bytes::new(),
            unsent: None,
            ends: false,
            trailers: None,
            ended: false,
            body_sent: 0,
        }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) fn body_length(&self) -> Option<u64> {
        if self.body_read == 0 && self.body.is_end_stream() {
            return Some(0);
        }
        let length = self.request.headers.get(header::CONTENT_LENGTH);
        length.and_then(|length| length.to_str().ok()?.parse().ok())
    }

    pub(crate) fn is_body_done(&self) -> bool {
        self.body_read_out || (self.body_read == 0 && self.body_length() == Some(0))
    }

    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Reason>> {
        // What comes behind the end of the response changes nothing: the client is told to stop (RFC 9113, section 8.1).
        if self.ended && self.part.is_empty() {
            self.body_read_out = true;
        }
        while !self.body_read_out {
            match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    // A frame that is empty brings nothing, so it does not end a pause.
                    if !data.is_empty() {
                        self.read_by = None;
                        self.sending.progress(data.len(), &self.connection);
                    }
                    self.body_read += data.len() as u64;
                    self.bodies.has_read(self.body_read);
                    // Fails when the stream is over, and then nobody waits for room.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.body_read_out = self.body.is_end_stream();
                    if !data.is_empty() {
                        return Poll::Ready(Ok(Some(data)));
                    }
                }
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(broken_body(&e))),
                Poll::Ready(None) => self.body_read_out = true,
                Poll::Pending => {
                    // Kept while the proxy turns to other things in between, which must not start the pause anew.
                    let begins = |timeout| *self.read_by.get_or_insert_with(|| Instant::now() + timeout);
                    let by = self.body_timeout.map(begins);
                    return self.sending.poll_late(by, &self.connection, cx).map(Err);
                }
            }
        }
        Poll::Ready(Ok(None))
    }

    pub(crate) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Reason>> {
        // Where the stream is over with the header, or the response ended before, there are none.
        if self.body_read == 0 && self.body.is_end_stream() || self.ended {
            return Poll::Ready(Ok(None));
        }
        let trailers = ready!(self.body.poll_trailers(cx)).map_err(|e| broken_body(&e))?;
        Poll::Ready(Ok(trailers.and_then(|mut trailers| {
            clean_trailers(&mut trailers);
            (!trailers.is_empty()).then_some(trailers)
        })))
    }

    /// Ready when the client gives the stream up.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let reset = match &mut self.response_body {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(|_| Reason::ClientClosed)
    }

    /// 100 and 103 pass. There is no 101 in HTTP/2 (RFC 9113, section 8.6).
    pub(crate) fn interim(&mut self, header: &ResponseHeader) {
        if header.status == StatusCode::SWITCHING_PROTOCOLS || self.responded.is_some() {
            return;
        }
        let mut header = header.clone();
        clean(&mut header);
        // It has no body, and clients take a length for that of the answer.
        header.remove_header(&header::CONTENT_LENGTH);
        let response = Response::from_parts(header.into(), ());
        // A client that is gone shows with the final answer.
        let _ = self.respond.send_informational(response);
    }

    pub(crate) fn respond(
        &mut self,
        mut header: Box<ResponseHeader>,
        length: BodyLength,
    ) -> Result<(), Reason> {
        if self.responded.is_some() {
            return Ok(());
        }
        self.responded = Some(header.status.as_u16());
        clean(&mut header);
        if length == BodyLength::None && header.status == StatusCode::NOT_MODIFIED {
            // Clients take it for that of a body which never comes.
            header.remove_header(&header::CONTENT_LENGTH);
        }
        if !header.headers.contains_key(header::DATE) {
            // As many fields as a header can have are there already; it goes without then.
            let _ = header.insert_header(header::DATE, get_cached_date());
        }
        // Over HTTP/2 a header that is the whole answer ends the stream itself: clients of gRPC find a status in no other
        // (Trailers-Only).
        let is_whole = length == BodyLength::None;
        let response = Response::from_parts((*header).into(), ());
        let stream = self.respond.send_response(response, is_whole);
        self.response_body = Some(stream.map_err(|_| Reason::ClientClosed)?);
        self.ended = is_whole;
        Ok(())
    }

    /// Whether another part can be taken in. Where the library is full it is not: what is read from the upstream would be held beside
    /// what waits there.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        ready!(self.poll_flush(cx))?;
        match &self.unsent {
            Some(unsent) if !self.ended && unsent.poll_room(cx).is_pending() => self.poll_unread(cx).map(Err),
            _ => {
                // The wait is over, though nothing is handed over yet: what follows is the upstream's time.
                if self.write_by.take().is_some() {
                    self.reading.progress(0, &self.connection);
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Ready when the client has not read on for too long.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let by = *self.write_by.get_or_insert_with(|| Instant::now() + self.write_timeout);
        self.reading.poll_late(Some(by), &self.connection, cx)
    }

    pub(crate) fn write(&mut self, part: Bytes, is_last: bool) -> Result<(), Reason> {
        if self.ended || (part.is_empty() && !is_last) {
            return Ok(());
        }
        self.body_sent += part.len() as u64;
        self.ended = is_last;
        if part.is_empty() {
            return self.push(part, true);
        }
        (self.part, self.ends) = (part, is_last);
        Ok(())
    }

    pub(crate) fn write_trailers(&mut self, trailers: HeaderMap) -> Result<(), Reason> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        self.trailers = Some(trailers);
        if self.part.is_empty() { self.push_trailers() } else { Ok(()) }
    }

    fn push_trailers(&mut self) -> Result<(), Reason> {
        let (Some(stream), Some(trailers)) = (&mut self.response_body, self.trailers.take()) else {
            return Ok(());
        };
        stream.send_trailers(trailers).map_err(|_| Reason::ClientClosed)
    }

    /// Send the part as the client makes room for it.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        while !self.part.is_empty() {
            let Some(stream) = &mut self.response_body else { break };
            stream.reserve_capacity(self.part.len());
            let room = match stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(room))) => room,
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Reason::ClientClosed)),
                Poll::Pending => return self.poll_unread(cx).map(Err),
            };
            self.write_by = None;
            let part = self.part.split_to(room.min(self.part.len()));
            self.reading.progress(part.len(), &self.connection);
            let is_last = self.ends && self.part.is_empty();
            if !part.is_empty() {
                self.push(part, is_last)?;
            }
        }
        Poll::Ready(self.push_trailers())
    }

    fn push(&mut self, part: Bytes, is_last: bool) -> Result<(), Reason> {
        let Some(stream) = &mut self.response_body else { return Ok(()) };
        let part = match part.len() {
            COUNTED.. => self.unsent.get_or_insert_default().count(part),
            _ => part,
        };
        stream.send_data(part, is_last).map_err(|_| Reason::ClientClosed)
    }

    /// The request's body, where the client was told that it is not wanted, and still sends. Those whose answer is a success mostly
    /// wait for a reset before they believe that this was all: they get it at once.
    pub(super) fn into_unread(self) -> Option<RecvStream> {
        let is_refused = self.responded.is_some_and(|status| status >= 300);
        let is_told = is_refused && self.ended && self.part.is_empty() && self.trailers.is_none();
        (is_told && !self.body.is_end_stream()).then_some(self.body)
    }

    /// Dropped without its end, the stream is reset, so that the client does not take what it has for the whole.
    pub(crate) fn abort(&mut self) {
        if !self.ended || !self.part.is_empty() {
            self.respond.send_reset(h2::Reason::INTERNAL_ERROR);
            self.ended = true;
            self.part = Bytes::new();
        }
    }
}

fn clean(header: &mut ResponseHeader) {
    if header.headers.keys().any(|name| CONNECTION_FIELDS.contains(name)) {
        for field in &CONNECTION_FIELDS {
            header.remove_header(field);
        }
    }
}

/// A body that is not as long as announced is the client's mistake; the library has reset the stream for it.
fn broken_body(e: &h2::Error) -> Reason {
    if e.is_library() && e.is_reset() { Reason::BadRequest } else { Reason::ClientClosed }
}

#[cfg(test)]
mod tests {
    use futures::task::{ArcWake, waker};

    use super::*;

    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(woken: &Arc<Woken>) {
            woken.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn the_library_has_room_again_when_it_drops_what_was_sent() {
        let (unsent, woken) = (Arc::new(Unsent::default()), Arc::new(Woken(AtomicUsize::new(0))));
        let waker = waker(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let [first, second] = [SEND_BUFFER / 2; 2].map(|size| unsent.count(Bytes::from(vec![0; size])));
        assert!(unsent.poll_room(&mut cx).is_pending());
        // Parts of a piece keep it, as the library sends it frame by frame.
        let rest = first.slice(1..);
        drop(first);
        assert!(unsent.poll_room(&mut cx).is_pending());
        drop(rest);
        assert_eq!(woken.0.load(Relaxed), 1);
        assert!(unsent.poll_room(&mut cx).is_ready());
        drop(second);
        assert_eq!(unsent.bytes.load(Acquire), 0);
    }
}
