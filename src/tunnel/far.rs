//! The upstream's side of a connection that is carried: the socket itself, or TLS on it, as Pingora makes it.

use std::{
    io,
    os::fd::BorrowedFd,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use pingora_core::protocols::Stream;
use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{accept::Socket, tunnel::flow::Side};

pub(super) enum Far {
    Plain(Socket),
    Tls(Stream),
}

impl Far {
    /// Have the endpoint see a reset, when this is dropped, and not an end that looks like all was said.
    pub(crate) fn abort(&self) {
        let linger = |socket: BorrowedFd<'_>| sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        match self {
            // Where it cannot be set, there is no connection left to reset.
            Far::Plain(socket) => drop(linger(std::os::fd::AsFd::as_fd(socket))),
            // It ends without `close_notify`, which says the same.
            Far::Tls(_) => {}
        }
    }

    /// Tell the endpoint that this is the end, if that can be done at once.
    pub(crate) fn part(&mut self) {
        if let Far::Tls(stream) = self {
            let _ = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl Side for Far {
    fn plain(&self) -> Option<&TcpStream> {
        match self {
            Far::Plain(Socket::Tcp(socket)) => Some(socket),
            Far::Plain(Socket::Unix(_)) | Far::Tls(_) => None,
        }
    }
}

impl AsyncRead for Far {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Far::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Far::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Far {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Far::Plain(socket) => Pin::new(socket).poll_write(cx, data),
            Far::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Far::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Far::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Far::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Far::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
