//! Connections for requests that ask for an upgrade, one for each.
//!
//! Pingora 0.9.1 listens to an upstream's answer and to what is left of the request in no fixed order (`proxy_handle_upstream`
//! in proxy_h1.rs). An upstream so quick that its 101 is heard before the end of the request's body, which is empty, seems
//! to it to have lost its client: it closes a WebSocket that has just been opened. So an answer is heard in the
//! turn after the one in which it is first asked for, when the end of the body has been.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll},
};

use async_trait::async_trait;
use pingora_core::{
    Result,
    connectors::L4Connect,
    protocols::l4::{
        socket::SocketAddr as PeerAddress,
        stream::Stream,
        virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
    },
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Announcing;

/// Connects, and has the connection answer no sooner than the request was sent to its end.
#[derive(Debug)]
pub struct Unhurried(pub Announcing);

#[async_trait]
impl L4Connect for Unhurried {
    async fn connect(&self, address: &PeerAddress) -> Result<Stream> {
        let mut stream = self.0.connect(address).await?;
        stream.set_nodelay()?;
        Ok(VirtualSocketStream::new(Box::new(Socket { stream, has_written: false })).into())
    }
}

#[derive(Debug)]
struct Socket {
    stream: Stream,
    /// And was not asked for an answer yet.
    has_written: bool,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if mem::take(&mut self.has_written) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.has_written = true;
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl VirtualSocket for Socket {
    /// What there is to set is set.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_there_already_is_heard_in_the_second_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut stream = Unhurried(Announcing(Vec::new())).connect(&address.into()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"ab").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        stream.write_all(b"?").await.unwrap();
        stream.flush().await.unwrap();
        let mut turns = 0;
        let mut space = [0];
        let mut answer = ReadBuf::new(&mut space);
        poll_fn(|cx| {
            turns += 1;
            Pin::new(&mut stream).poll_read(cx, &mut answer)
        })
        .await
        .unwrap();
        assert_eq!((turns, answer.filled()), (2, &b"b"[..]));
    }
}
