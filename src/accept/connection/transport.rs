//! What carries a connection's bytes: the socket itself, or TLS on it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use openssl::error::ErrorStack;
use pingora_core::tls::tokio_ssl::SslStream;
use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    accept::connection::wire::{Rewound, Socket},
    tls::has_broken_off,
};

pub(crate) enum Transport {
    Plain(Socket),
    Tls(SslStream<Rewound>),
}

impl Transport {
    pub(in crate::accept) fn is_tls(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }

    /// Pending only where nothing can be read. Ready says little of TLS: the bytes may turn out to be no data.
    pub(in crate::accept) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Plain(socket) => socket.poll_read_ready(cx),
            Transport::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// The TCP socket where it carries what is said as it is.
    pub(crate) fn plain(&self) -> Option<&TcpStream> {
        match self {
            Transport::Plain(Socket::Tcp(socket)) => Some(socket),
            Transport::Plain(Socket::Unix(_)) | Transport::Tls(_) => None,
        }
    }

    /// Have the client see a reset, when this is dropped, and not an end that looks like all was said.
    pub(crate) fn abort(&self) {
        // Where it cannot be set, there is no connection left to reset.
        let _ = sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }

    /// The socket, for one who has no more to say or hear that would need TLS.
    pub(in crate::accept) fn socket(&mut self) -> &mut Socket {
        match self {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => stream.get_mut().socket_mut(),
        }
    }

    /// Tell the client that this is the end, if that can be done at once.
    pub(crate) fn part(&mut self) {
        if let Transport::Tls(stream) = self {
            // A client that is gone, or does not read, will have to believe the closed socket.
            let _ = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Transport::Plain(socket) => socket.as_fd(),
            Transport::Tls(stream) => stream.get_ref().socket().as_fd(),
        }
    }
}

impl AsRawFd for Transport {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Transport::Plain(socket) => socket.as_raw_fd(),
            Transport::Tls(stream) => stream.get_ref().socket().as_raw_fd(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Transport::Tls(stream) => {
                let (before, room) = (buf.filled().len(), buf.remaining());
                let read = alone(stream).poll_read(cx, buf);
                let is_end = matches!(read, Poll::Ready(Ok(()))) && room > 0 && buf.filled().len() == before;
                if is_end && has_broken_off(stream.ssl()) {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                read
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, data),
            Transport::Tls(stream) => alone(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Transport::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, data),
            // A record takes its bytes from one place: the first part goes alone.
            Transport::Tls(stream) => alone(stream).poll_write_vectored(cx, data),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Tls(stream) => alone(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(stream) => alone(stream).poll_shutdown(cx),
        }
    }
}

/// What anybody else has left in OpenSSL's list of this thread's errors would be taken for this connection's.
fn alone(stream: &mut SslStream<Rewound>) -> Pin<&mut SslStream<Rewound>> {
    drop(ErrorStack::get());
    Pin::new(stream)
}
