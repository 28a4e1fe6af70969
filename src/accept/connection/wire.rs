//! The socket under a connection, of whichever kind, and TLS's view of it: what was read to find out whom it is for is read
//! by the handshake again.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Does the same to whichever socket it is.
macro_rules! either {
    ($socket:expr, $name:ident => $do:expr) => {
        match $socket {
            Socket::Tcp($name) => $do,
            Socket::Unix($name) => $do,
        }
    };
}

impl Socket {
    pub(in crate::accept) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => socket.poll_read_ready(cx))
    }

    /// Answers are written whole; waiting for more to fill a packet would only delay them.
    pub(in crate::accept) fn send_at_once(&self) {
        if let Socket::Tcp(socket) = self {
            let _ = socket.set_nodelay(true);
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, socket => socket.as_fd())
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        either!(self, socket => socket.as_raw_fd())
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_write(cx, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have no buffer of their own to empty.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), socket => Pin::new(socket).poll_shutdown(cx))
    }
}

/// A socket and what has been read from it already, which comes first.
pub(crate) struct Rewound {
    socket: Socket,
    ahead: Bytes,
}

impl Rewound {
    pub(in crate::accept) fn new(socket: Socket, ahead: Bytes) -> Rewound {
        Rewound { socket, ahead }
    }

    pub(in crate::accept) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(in crate::accept) fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl AsyncRead for Rewound {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        let part = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead[..part]);
        this.ahead.advance(part);
        if this.ahead.is_empty() {
            // An empty view would still hold the memory behind it.
            this.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_was_read_is_read_again_and_then_what_follows() {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(b"world").await.unwrap();
        drop(client);
        let mut rewound = Rewound::new(Socket::Unix(server), Bytes::from_static(b"hello "));
        let mut first = [0; 4];
        rewound.read_exact(&mut first).await.unwrap();
        let mut rest = Vec::new();
        rewound.read_to_end(&mut rest).await.unwrap();
        assert_eq!((&first, &rest[..]), (b"hell", &b"o world"[..]));
    }
}
