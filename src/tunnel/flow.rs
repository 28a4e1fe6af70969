//! One direction of a connection: what is read on one side is written on the other, and the end of the one is the end of
//! the other, while the opposite direction goes on.
//!
//! A few bytes are copied, through a buffer that is taken when there is something to read. What comes in bulk between two
//! plain sockets goes through a pipe. Neither is held while nothing is on its way.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::tunnel::{buffer::Buffer, pipe::Pipe};

/// One read of this much is taken for a sign that more is coming.
const BULK: usize = 32 * 1024;

pub(super) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The TCP socket, where it carries what is said as it is.
    fn plain(&self) -> Option<&TcpStream>;
}

#[derive(Default)]
pub(super) struct Flow {
    /// What goes first.
    ahead: Bytes,
    /// Read and not written yet.
    held: Held,
    /// Written, and perhaps kept back on the way.
    unflushed: bool,
    /// The last read brought much.
    bulk: bool,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The one side has said all; the other is to hear of it.
    Ending,
    Ended,
}

#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Copied {
        buffer: Buffer,
        from: usize,
        to: usize,
    },
    Piped(Pipe),
}

/// Which side of a flow has failed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    From,
    To,
}

impl Held {
    fn copied(buffer: Buffer, read: usize) -> Held {
        if read == 0 { Held::Nothing } else { Held::Copied { buffer, from: 0, to: read } }
    }

    fn len(&self) -> usize {
        match self {
            Held::Nothing => 0,
            Held::Copied { from, to, .. } => to - from,
            Held::Piped(pipe) => pipe.len(),
        }
    }
}

impl Flow {
    /// `ahead` has been read already.
    pub(crate) fn of(ahead: Bytes) -> Flow {
        Flow { ahead, ..Flow::default() }
    }

    /// Whether the one side has said all and the other has heard of it.
    pub(crate) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Carry on as far as both sides let; ready when the end has been passed on. Adds to `moved` the bytes that were.
    ///
    /// # Errors
    ///
    /// A side has failed.
    pub(crate) fn poll(
        &mut self,
        from: &mut impl Side,
        to: &mut impl Side,
        cx: &mut Context<'_>,
        moved: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_write(to, cx, moved)).map_err(|_| Broken::To)?;
            match self.state {
                State::Open => match self.poll_read(from, to, cx) {
                    Poll::Ready(Ok(Held::Nothing)) => self.state = State::Ending,
                    Poll::Ready(Ok(held)) => {
                        self.bulk = held.len() >= BULK;
                        self.held = held;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::From)),
                    // Nothing more is coming: what was said so far must not wait for it.
                    Poll::Pending => {
                        ready!(self.poll_flush(to, cx)).map_err(|_| Broken::To)?;
                        return Poll::Pending;
                    }
                },
                State::Ending => {
                    // One that is gone needs not be told.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// `Held::Nothing` is the end.
    fn poll_read(
        &self,
        from: &mut impl Side,
        to: &impl Side,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Held>> {
        let Some(socket) = from.plain() else {
            let mut buffer = Buffer::take();
            let mut space = ReadBuf::new(buffer.bytes_mut());
            ready!(Pin::new(from).poll_read(cx, &mut space))?;
            let read = space.filled().len();
            return Poll::Ready(Ok(Held::copied(buffer, read)));
        };
        let receive = if self.bulk && to.plain().is_some() { splice } else { copy };
        loop {
            ready!(socket.poll_read_ready(cx))?;
            match socket.try_io(Interest::READABLE, || receive(socket)) {
                // It was ready no more, and will be asked to say when it is.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    fn poll_write(
        &mut self,
        to: &mut impl Side,
        cx: &mut Context<'_>,
        moved: &mut u64,
    ) -> Poll<io::Result<()>> {
        while !self.ahead.is_empty() {
            let written = ready!(write(to, cx, &self.ahead))?;
            self.ahead.advance(written);
            *moved += written as u64;
            self.unflushed = true;
        }
        loop {
            let written = match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Copied { buffer, from, to: end } => {
                    let written = ready!(write(to, cx, &buffer.bytes()[*from..*end]))?;
                    self.unflushed = true;
                    *from += written;
                    if from == end {
                        self.held = Held::Nothing;
                    }
                    written
                }
                Held::Piped(pipe) => {
                    // A pipe is filled only where both sides are plain, and they stay so.
                    let socket = to.plain().ok_or(io::ErrorKind::NotConnected)?;
                    let written = ready!(drain(pipe, socket, cx))?;
                    if pipe.len() == 0
                        && let Held::Piped(pipe) = std::mem::take(&mut self.held)
                    {
                        pipe.keep();
                    }
                    written
                }
            };
            *moved += written as u64;
        }
    }

    fn poll_flush(&mut self, to: &mut impl Side, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Without tokio's `poll_read`, to which a read that does not fill the buffer says that the socket has no more: the kernel
/// also ends a read at an urgent byte, and what has arrived behind it would wait until something else does.
fn copy(from: &TcpStream) -> io::Result<Held> {
    let mut buffer = Buffer::take();
    let (_, read) = rustix::net::recv(from, buffer.bytes_mut(), RecvFlags::DONTWAIT)?;
    Ok(Held::copied(buffer, read))
}

/// Copies where there are no pipes. A splice cannot get past an urgent byte: it says there that the socket has nothing, or
/// after the other side's end that this is it, whatever else has arrived. A read can, so neither is true before it says so.
fn splice(from: &TcpStream) -> io::Result<Held> {
    let Ok(mut pipe) = Pipe::take() else { return copy(from) };
    let filled = pipe.fill(from);
    if let Ok(1..) = filled {
        return Ok(Held::Piped(pipe));
    }
    pipe.keep();
    match filled {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => copy(from),
    }
}

fn write(to: &mut impl Side, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}

fn drain(pipe: &mut Pipe, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            drained => return Poll::Ready(drained),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        net::TcpListener,
    };

    use super::*;

    impl Side for DuplexStream {
        fn plain(&self) -> Option<&TcpStream> {
            None
        }
    }

    impl Side for TcpStream {
        fn plain(&self) -> Option<&TcpStream> {
            Some(self)
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one, two) = tokio::join!(TcpStream::connect(address), listener.accept());
        (one.unwrap(), two.unwrap().0)
    }

    async fn carry(flow: &mut Flow, from: &mut impl Side, to: &mut impl Side) -> (Result<(), Broken>, u64) {
        let mut moved = 0;
        let ended = poll_fn(|cx| flow.poll(from, to, cx, &mut moved)).await;
        (ended, moved)
    }

    /// A sender and a reader that are as fast as they can be, with a flow between them.
    async fn bulk(
        mut sender: impl AsyncWrite + Unpin + Send + 'static,
        mut from: impl Side,
        mut to: impl Side,
        mut reader: impl AsyncRead + Unpin + Send + 'static,
    ) {
        let said: Vec<u8> = (0..5_000_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect();
        let sent = said.clone();
        let sending = tokio::spawn(async move {
            sender.write_all(&sent).await.unwrap();
            sender.shutdown().await.unwrap();
            sender
        });
        let reading = tokio::spawn(async move {
            let mut heard = Vec::new();
            reader.read_to_end(&mut heard).await.unwrap();
            heard
        });
        let (ended, moved) = carry(&mut Flow::of(Bytes::from_static(b"first")), &mut from, &mut to).await;
        assert_eq!((ended, moved), (Ok(()), 5 + said.len() as u64));
        let heard = reading.await.unwrap();
        assert!(heard.starts_with(b"first") && heard[5..] == said, "what arrived is not what was sent");
        drop(sending.await.unwrap());
    }

    #[tokio::test]
    async fn much_arrives_as_it_was_sent_between_plain_sockets() {
        let ((sender, from), (to, reader)) = (pair().await, pair().await);
        bulk(sender, from, to, reader).await;
    }

    #[tokio::test]
    async fn much_arrives_as_it_was_sent_where_it_has_to_be_copied() {
        let (sender, from) = tokio::io::duplex(100_000);
        let (to, reader) = tokio::io::duplex(777);
        bulk(sender, from, to, reader).await;
    }

    /// All is there before the first read. The kernel ends a read at the urgent byte, and a splice finds nothing there.
    #[tokio::test]
    async fn goes_on_behind_an_urgent_byte_whether_copied_or_spliced() {
        for (before, bulk, ends) in [
            (100, false, false),
            (100, false, true),
            (100, true, false),
            (100, true, true),
            (BULK, false, false),
        ] {
            let ((mut sender, mut from), (mut to, mut reader)) = (pair().await, pair().await);
            let mut flow = Flow { bulk, ..Flow::default() };
            // It waits, so that it is told once of all that follows.
            assert_eq!(
                poll_fn(|cx| Poll::Ready(flow.poll(&mut from, &mut to, cx, &mut 0))).await,
                Poll::Pending
            );
            sender.write_all(&vec![1; before]).await.unwrap();
            rustix::net::send(&sender, b"!", rustix::net::SendFlags::OOB).unwrap();
            sender.write_all(&[2; 100]).await.unwrap();
            if ends {
                sender.shutdown().await.unwrap();
            }
            let mut heard = vec![0; before + 100];
            let hearing = async {
                reader.read_exact(&mut heard).await.unwrap();
                drop(sender);
            };
            let both = async { tokio::join!(carry(&mut flow, &mut from, &mut to), hearing) };
            let ((ended, moved), ()) = tokio::time::timeout(std::time::Duration::from_secs(10), both)
                .await
                .unwrap_or_else(|_| panic!("stands still: {before} bytes before, {bulk}, {ends}"));
            assert_eq!((ended, moved), (Ok(()), before as u64 + 100), "{before}, {bulk}, {ends}");
            assert!(heard[..before].iter().all(|&byte| byte == 1) && heard[before..] == [2; 100]);
        }
    }

    #[tokio::test]
    async fn tells_which_side_has_failed() {
        let ((sender, mut from), (mut to, reader)) = (pair().await, pair().await);
        rustix::net::sockopt::set_socket_linger(&sender, Some(std::time::Duration::ZERO)).unwrap();
        drop(sender);
        assert_eq!(carry(&mut Flow::default(), &mut from, &mut to).await.0, Err(Broken::From));
        drop(reader);
        let (mut sender, mut from) = tokio::io::duplex(10);
        let sending = tokio::spawn(async move { while sender.write_all(b"more").await.is_ok() {} });
        assert_eq!(carry(&mut Flow::default(), &mut from, &mut to).await.0, Err(Broken::To));
        drop(from);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn holds_nothing_while_nothing_is_on_its_way() {
        let ((_sender, mut from), (mut to, _reader)) = (pair().await, pair().await);
        let mut flow = Flow { bulk: true, ..Flow::default() };
        for _ in 0..2 {
            let mut moved = 0;
            let polled = poll_fn(|cx| Poll::Ready(flow.poll(&mut from, &mut to, cx, &mut moved))).await;
            assert_eq!(polled, Poll::Pending);
            assert!(matches!(flow.held, Held::Nothing));
            flow.bulk = false;
        }
    }
}
