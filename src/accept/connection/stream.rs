//! The client's side of a connection: bytes in and out, each wait under the eyes of the sweeper.
//!
//! Buffers exist only while they hold something, so an idle connection costs next to nothing.

use std::{
    fmt, io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::accept::connection::{Connection, Verdict, lingering_close::close_gently, transport::Transport};

/// First read of a request; a larger header grows from here.
pub(in crate::accept) const READ_BUFFER: usize = 4096;
/// Of HTTP/2, writes up to this size wait for the flush, so that frames leave together.
const WRITE_BUFFER: usize = 16 * 1024;
/// What OpenSSL has once been given must be given again until it is sent: so no more than one record holds.
const RECORD: usize = 16 * 1024;

pub(crate) struct ClientStream {
    /// Taken out only when the connection is left to close gently in the background, or to another protocol.
    transport: Option<Transport>,
    connection: Arc<Connection>,
    /// Received, not yet handed out.
    ahead: BytesMut,
    /// Accepted for writing, not yet sent.
    unsent: BytesMut,
}

impl ClientStream {
    pub(in crate::accept) fn new(transport: Transport, connection: Arc<Connection>) -> ClientStream {
        ClientStream {
            transport: Some(transport),
            connection,
            ahead: BytesMut::new(),
            unsent: BytesMut::new(),
        }
    }

    pub(in crate::accept) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// What has arrived and was not handed out yet.
    pub(in crate::accept) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    pub(in crate::accept) fn ahead_mut(&mut self) -> &mut BytesMut {
        &mut self.ahead
    }

    /// What was read of the connection before it came here.
    pub(in crate::accept) fn read_already(&mut self, ahead: BytesMut) {
        self.ahead = ahead;
    }

    /// Queue a last answer; it goes out as the connection closes.
    pub(in crate::accept) fn leave_unsent(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// Give memory back before a wait that may be long.
    pub(in crate::accept) fn release_buffers(&mut self) {
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        if self.unsent.is_empty() {
            self.unsent = BytesMut::new();
        }
    }

    /// The connection, for another protocol, and what was read of it.
    pub(in crate::accept) fn into_transport(mut self) -> Option<(Transport, BytesMut)> {
        Some((self.transport.take()?, std::mem::take(&mut self.ahead)))
    }

    /// Wait for more bytes and append them to `ahead`. `Ok(0)` is the end of the stream; `TimedOut` and
    /// `ConnectionAborted` are the sweeper's doing.
    pub(in crate::accept) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, READ_BUFFER)).await
    }

    /// The same with `room` for one read.
    pub(in crate::accept) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
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
            self.ahead.reserve(room);
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

    /// Pending, until the socket or the sweeper has something to say.
    pub(in crate::accept) fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        opinion(self.connection.wake_on_verdict(cx))?;
        Poll::Pending
    }

    /// Send of these what the client takes at once. The first goes first.
    pub(in crate::accept) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        slices: [io::IoSlice<'_>; 2],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let transport = transport(&mut self.transport)?;
        let is_tls = transport.is_tls();
        let transport = Pin::new(transport);
        let sent = match slices {
            [first, second] if is_tls => {
                let slice = if first.is_empty() { second } else { first };
                transport.poll_write(cx, &slice[..slice.len().min(RECORD)])
            }
            [only, none] | [none, only] if none.is_empty() => transport.poll_write(cx, &only),
            _ => transport.poll_write_vectored(cx, &slices),
        };
        match sent {
            Poll::Pending => {
                self.connection.write_stalls();
                self.wait(cx)
            }
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(sent) => {
                self.connection.write_goes_on();
                Poll::Ready(sent)
            }
        }
    }

    /// OpenSSL may keep back what it was given.
    pub(in crate::accept) fn poll_flush_transport(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(transport(&mut self.transport)?).poll_flush(cx)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            let sent = self.poll_send(cx, [io::IoSlice::new(&unsent), io::IoSlice::new(&[])]);
            self.unsent = unsent;
            self.unsent.advance(ready!(sent)?);
        }
        Poll::Ready(Ok(()))
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

/// For HTTP/2.
impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check()?;
        if this.ahead.is_empty() {
            match Pin::new(transport(&mut this.transport)?).poll_read(cx, buf) {
                Poll::Pending => {
                    // Nothing to read: what was written so far must not wait with it. A failure is not lost: the next
                    // write or flush meets it again.
                    let _ = this.poll_drain(cx);
                    return this.wait(cx);
                }
                read => return read,
            }
        }
        let passed = buf.remaining().min(this.ahead.len());
        buf.put_slice(&this.ahead[..passed]);
        this.ahead.advance(passed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.check()?;
        if this.unsent.len() + data.len() <= WRITE_BUFFER {
            this.unsent.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        if transport(&mut this.transport)?.is_tls() {
            // All of it goes through the buffer, which then holds a record and not a byte more.
            if this.unsent.len() >= RECORD {
                ready!(this.poll_drain(cx))?;
            }
            let room = RECORD.saturating_sub(this.unsent.len()).min(data.len());
            this.unsent.extend_from_slice(&data[..room]);
            return Poll::Ready(Ok(room));
        }
        ready!(this.poll_drain(cx))?;
        this.poll_send(cx, [io::IoSlice::new(data), io::IoSlice::new(&[])])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        ready!(self.poll_drain(cx))?;
        self.poll_flush_transport(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(transport(&mut self.transport)?).poll_shutdown(cx)
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let Some(mut transport) = self.transport.take() else { return };
        if !self.connection.has_unread() {
            return transport.part();
        }
        // A last word in the background, to which the client may not listen.
        let unsent = std::mem::take(&mut self.unsent);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(close_gently(transport, unsent, self.connection.clone()));
        }
    }
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientStream({})", self.connection.peer)
    }
}
