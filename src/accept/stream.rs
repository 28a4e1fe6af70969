//! The client's side of a connection, as Pingora sees it: reads are handed out one request at a time, small writes
//! are gathered, and every wait is under a deadline.
//!
//! Buffers exist only while they hold something, so an idle connection costs next to nothing.

use std::{
    fmt, io,
    mem::MaybeUninit,
    os::fd::AsRawFd,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType, raw_connect::ProxyDigest,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{
    connection::{Connection, Incoming, Verdict},
    deadline::{Deadline, Timer},
    farewell::{close_gently, say_goodbye},
    transport::Transport,
    websocket,
};
use crate::http1::Chunked;

/// First read of a request; a larger header grows from here.
const READ_BUFFER: usize = 4096;
/// Writes up to this size wait for the flush that ends the response's head or body, so that both leave together.
const WRITE_BUFFER: usize = 16 * 1024;

pub struct ClientStream {
    /// Taken out only when the connection is left to close gently in the background.
    transport: Option<Transport>,
    connection: Arc<Connection>,
    socket_digest: Arc<SocketDigest>,
    proxy_digest: Option<Arc<ProxyDigest>>,
    deadline: Arc<Deadline>,
    timer: Timer,
    /// Received, not yet handed out.
    ahead: BytesMut,
    gate: Gate,
    /// Accepted for writing, not yet sent.
    unsent: BytesMut,
    /// Where the connection was upgraded.
    outgoing: Option<Box<websocket::Outgoing>>,
}

/// How much of what the client sends belongs to the current request. Bytes of the next one are held back: Pingora
/// takes them for an error while a request is in flight.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gate {
    Open,
    Left(u64),
    /// What is left of the header, then a body that says itself where it ends.
    Chunked(u64, Chunked),
}

impl Gate {
    /// How many bytes may be read next; 0 when the request is complete.
    fn allowed(&self) -> u64 {
        match self {
            Gate::Open => u64::MAX,
            Gate::Left(left) | Gate::Chunked(left @ 1.., _) => *left,
            Gate::Chunked(0, body) if body.is_done() => 0,
            Gate::Chunked(0, _) => u64::MAX,
        }
    }

    /// How many of these bytes, no more than were allowed, belong to the request.
    fn pass(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Gate::Open => {}
            Gate::Left(left) | Gate::Chunked(left @ 1.., _) => *left -= bytes.len() as u64,
            Gate::Chunked(0, body) => {
                return body.follow(bytes).map_err(|_| io::ErrorKind::InvalidData.into());
            }
        }
        Ok(bytes.len())
    }
}

impl ClientStream {
    pub(super) fn new(transport: Transport, connection: Arc<Connection>) -> ClientStream {
        let socket_digest = SocketDigest::from_raw_fd(transport.as_raw_fd());
        // Setting a value that is already there fails; there is none yet.
        let _ = socket_digest.peer_addr.set(Some(connection.peer.into()));
        let incoming = Incoming::on(connection.clone());
        let deadline = incoming.deadline.clone();
        ClientStream {
            transport: Some(transport),
            connection,
            socket_digest: Arc::new(socket_digest),
            proxy_digest: incoming.into_digest(),
            deadline,
            timer: Timer::default(),
            ahead: BytesMut::new(),
            gate: Gate::Open,
            unsent: BytesMut::new(),
            outgoing: None,
        }
    }

    /// Goes on where the last request has failed and its stream was thrown away; `None` where the connection is closed.
    pub(super) fn of_spared(connection: &Arc<Connection>) -> Option<ClientStream> {
        let (transport, ahead) = connection.take_spared()?;
        let mut stream = ClientStream::new(transport, connection.clone());
        stream.ahead = ahead;
        Some(stream)
    }

    /// The request is over: whatever was set for it does not hold for what comes next.
    pub(super) fn clear_deadline(&self) {
        self.deadline.set(None);
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// What has arrived and was not handed out yet.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// What was read of the connection before it came here.
    pub(super) fn read_already(&mut self, ahead: BytesMut) {
        self.ahead = ahead;
    }

    /// Drop what need not be handed out.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.ahead.advance(bytes);
    }

    /// Queue our own last answer; it goes out as the connection closes.
    pub(super) fn answer(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    pub(super) fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
    }

    /// Give memory back before a wait that may be long.
    pub(super) fn release_buffers(&mut self) {
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        if self.unsent.is_empty() {
            self.unsent = BytesMut::new();
        }
    }

    /// Wait for more bytes and append them to `ahead`. `Ok(0)` is the end of the stream; `TimedOut` and
    /// `ConnectionAborted` are the sweeper's doing.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.check()?;
        let transport = transport(&mut self.transport)?;
        // The buffer is allocated when there is something to put into it, not while waiting.
        if transport.poll_read_ready(cx)?.is_pending() {
            return self.wait(cx);
        }
        let read = if transport.is_tls() {
            // Only OpenSSL knows whether there is something.
            let mut scratch = [MaybeUninit::uninit(); READ_BUFFER];
            let mut scratch = ReadBuf::uninit(&mut scratch);
            Pin::new(transport).poll_read(cx, &mut scratch).map_ok(|()| {
                self.ahead.extend_from_slice(scratch.filled());
                scratch.filled().len()
            })
        } else {
            self.ahead.reserve(READ_BUFFER);
            pin!(transport.read_buf(&mut self.ahead)).poll(cx)
        };
        match read {
            // Readiness was out of date; the sweeper must be heard here too, or this wait has no end.
            Poll::Pending => self.wait(cx),
            read => read,
        }
    }

    fn check(&self) -> io::Result<()> {
        opinion(self.connection.verdict())
    }

    /// Pending, until the socket or the sweeper has something to say, or the request's deadline passes.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        opinion(self.connection.wake_on_verdict(cx))?;
        match self.deadline.at() {
            Some(at) if self.timer.is_over(at, cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            _ => Poll::Pending,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let transport = Pin::new(transport(&mut self.transport)?);
        let sent = match (self.unsent.is_empty(), data.is_empty()) {
            (true, _) => transport.poll_write(cx, data),
            (false, true) => transport.poll_write(cx, &self.unsent),
            (false, false) => {
                let slices = [io::IoSlice::new(&self.unsent), io::IoSlice::new(data)];
                transport.poll_write_vectored(cx, &slices)
            }
        };
        if sent.is_pending() {
            self.connection.write_stalls();
            return self.wait(cx);
        }
        self.connection.write_goes_on();
        sent
    }

    /// More than one record holds. What OpenSSL has once been given must be given again until it is sent, so all of it
    /// goes through the buffer, which then holds a record and not a byte more.
    fn poll_write_record(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.unsent.len() >= WRITE_BUFFER {
            ready!(self.poll_drain(cx))?;
        }
        let room = WRITE_BUFFER.saturating_sub(self.unsent.len()).min(data.len());
        self.unsent.extend_from_slice(&data[..room]);
        Poll::Ready(Ok(room))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(self.poll_send(cx, &[]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing to read: the proxy waits for someone, so what was written so far must not wait with it.
    fn send_before_waiting(&mut self, cx: &mut Context<'_>) {
        if !self.unsent.is_empty() {
            // A failure is not lost: the next write or flush meets it again.
            let _ = self.poll_drain(cx);
        }
    }

    /// Reads past the current request: the end of the stream is told, bytes are kept for the next request.
    fn poll_beyond(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
        }
        self.send_before_waiting(cx);
        self.wait(cx)
    }
}

fn opinion(verdict: Verdict) -> io::Result<()> {
    match verdict {
        Verdict::Open => Ok(()),
        Verdict::Expired => Err(io::ErrorKind::TimedOut.into()),
        Verdict::Drained => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

fn transport(transport: &mut Option<Transport>) -> io::Result<&mut Transport> {
    transport.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check()?;
        let allowed = match this.gate.allowed() {
            0 => return this.poll_beyond(cx),
            allowed => buf.remaining().min(usize::try_from(allowed).unwrap_or(usize::MAX)),
        };
        if this.ahead.is_empty() {
            let before = buf.filled().len();
            let transport = transport(&mut this.transport)?;
            let Poll::Ready(result) = pin!(transport.take(allowed as u64)).poll_read(cx, buf) else {
                this.send_before_waiting(cx);
                return this.wait(cx);
            };
            result?;
            let passed = before + this.gate.pass(&buf.filled()[before..])?;
            this.ahead.extend_from_slice(&buf.filled()[passed..]);
            buf.set_filled(passed);
        } else {
            let part = &this.ahead[..allowed.min(this.ahead.len())];
            let passed = this.gate.pass(part)?;
            buf.put_slice(&part[..passed]);
            this.ahead.advance(passed);
        }
        this.connection.traffic();
        Poll::Ready(Ok(()))
    }
}

impl ClientStream {
    fn poll_take(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self;
        if this.unsent.len() + data.len() <= WRITE_BUFFER {
            this.unsent.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        if transport(&mut this.transport)?.is_tls() {
            return this.poll_write_record(cx, data);
        }
        loop {
            let sent = ready!(this.poll_send(cx, data))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_data = sent.saturating_sub(this.unsent.len());
            this.unsent.advance(sent - of_data);
            if of_data > 0 {
                return Poll::Ready(Ok(of_data));
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        let taken = ready!(self.poll_take(cx, data))?;
        self.connection.traffic();
        if self.connection.is_upgraded() {
            self.outgoing.get_or_insert_default().follow(&data[..taken]);
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(transport(&mut self.transport)?).poll_shutdown(cx)
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let Some(mut transport) = self.transport.take() else { return };
        let is_drained = self.connection.verdict() == Verdict::Drained;
        if is_drained && self.outgoing.as_ref().is_some_and(|outgoing| outgoing.is_between_frames()) {
            self.unsent.extend_from_slice(&websocket::GOING_AWAY);
            return self.leave_to(|unsent, open| say_goodbye(transport, unsent, open));
        }
        // Only between two requests: nothing of the last is to be read or sent any more.
        if self.gate.allowed() == 0 && self.unsent.is_empty() {
            match self.connection.keep(transport, std::mem::take(&mut self.ahead)) {
                Ok(()) => return,
                Err(unwanted) => transport = unwanted,
            }
        }
        if !self.connection.has_unread() {
            return transport.part();
        }
        self.leave_to(|unsent, open| close_gently(transport, unsent, open));
    }
}

impl ClientStream {
    /// A last word in the background, to which the client may not listen.
    fn leave_to<F>(&mut self, farewell: impl FnOnce(BytesMut, Arc<Connection>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let unsent = std::mem::take(&mut self.unsent);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(farewell(unsent, self.connection.clone()));
        }
    }
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientStream({})", self.connection.peer)
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // The peer may be gone already; there is nothing left to tell it.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.transport.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl Ssl for ClientStream {}

impl Peek for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.proxy_digest.clone()
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket_digest.clone())
    }
}
