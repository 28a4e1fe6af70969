//! One direction of a connection: what is read on one side is written on the other, and the end of the one is the end of
//! the other, while the opposite direction goes on.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pool::Buffer;

#[derive(Default)]
pub(super) struct Flow {
    /// What goes first.
    ahead: Bytes,
    /// Read and not written yet.
    held: Option<Held>,
    /// Written, and perhaps kept back on the way.
    unflushed: bool,
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

struct Held {
    buffer: Buffer,
    from: usize,
    to: usize,
}

/// Which side of a flow has failed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    From,
    To,
}

impl Flow {
    /// `ahead` has been read already.
    pub fn of(ahead: Bytes) -> Flow {
        Flow { ahead, ..Flow::default() }
    }

    /// Carry on as far as both sides let; ready when the end has been passed on. Adds to `moved` the bytes that were.
    pub fn poll<F, T>(
        &mut self,
        from: &mut F,
        to: &mut T,
        cx: &mut Context<'_>,
        moved: &mut u64,
    ) -> Poll<Result<(), Broken>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_write(to, cx, moved)).map_err(|_| Broken::To)?;
            match self.state {
                State::Open => match self.poll_read(from, cx) {
                    Poll::Ready(Ok(0)) => self.state = State::Ending,
                    Poll::Ready(Ok(_)) => {}
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

    fn poll_read<F>(&mut self, from: &mut F, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        F: AsyncRead + Unpin,
    {
        let mut buffer = Buffer::take();
        let mut space = ReadBuf::new(buffer.bytes_mut());
        ready!(Pin::new(from).poll_read(cx, &mut space))?;
        let read = space.filled().len();
        if read > 0 {
            self.held = Some(Held { buffer, from: 0, to: read });
        }
        Poll::Ready(Ok(read))
    }

    fn poll_write<T>(&mut self, to: &mut T, cx: &mut Context<'_>, moved: &mut u64) -> Poll<io::Result<()>>
    where
        T: AsyncWrite + Unpin,
    {
        while !self.ahead.is_empty() {
            let written = ready!(write(to, cx, &self.ahead))?;
            self.ahead.advance(written);
            *moved += written as u64;
            self.unflushed = true;
        }
        while let Some(held) = &mut self.held {
            let written = ready!(write(to, cx, &held.buffer.bytes()[held.from..held.to]))?;
            *moved += written as u64;
            self.unflushed = true;
            held.from += written;
            if held.from == held.to {
                self.held = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush<T>(&mut self, to: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        T: AsyncWrite + Unpin,
    {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

fn write<T>(to: &mut T, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>
where
    T: AsyncWrite + Unpin,
{
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}
