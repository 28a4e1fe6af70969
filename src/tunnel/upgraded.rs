//! A connection that HTTP has handed over to another protocol (RFC 9110, section 7.8): a WebSocket, for which bytes go both
//! ways until one side has said all.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use pingora_core::protocols::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    accept::{self, Connection, Ended, Transport, WebSocketFrames},
    error::Reason,
    tunnel::{
        far::Far,
        flow::{Broken, Flow, Side},
    },
};

/// Bytes that passed, from the client and to it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passed {
    pub read: u64,
    pub sent: u64,
}

/// Carry on until one side ends. `ahead` is what the upstream has said already. With what has passed until then.
///
/// # Errors
///
/// Why it ended, where neither side has said that it is over.
pub(crate) async fn carry_upgraded(
    connection: &Arc<Connection>,
    client: accept::Upgraded,
    upstream: Stream,
    ahead: Bytes,
    passed: &mut Passed,
) -> Result<(), Reason> {
    // The head of the answer is followed too, and is no part of what passes.
    let head = client.unsent.len() as u64;
    let first: Bytes = match ahead.is_empty() {
        true => client.unsent,
        false => [client.unsent, ahead].concat().into(),
    };
    let mut near = Near { transport: client.transport, frames: WebSocketFrames::default() };
    let mut far = Far::Tls(upstream);
    let (mut up, mut down) = (Flow::of(client.ahead), Flow::of(first));
    let (mut read, mut sent) = (0, 0);
    let ended = poll_fn(|cx| {
        let before = read + sent;
        let up = up.poll(&mut near, &mut far, cx, &mut read);
        let down = down.poll(&mut far, &mut near, cx, &mut sent);
        if read + sent > before {
            connection.traffic();
        }
        match (up, down) {
            // Neither protocol knows a half of a connection. First: how the other side takes it is no error of its own.
            (Poll::Ready(Ok(())), _) | (_, Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            (Poll::Ready(Err(Broken::From)), _) | (_, Poll::Ready(Err(Broken::To))) => {
                Poll::Ready(Err(Reason::ClientClosed))
            }
            (Poll::Ready(Err(Broken::To)), _) | (_, Poll::Ready(Err(Broken::From))) => {
                Poll::Ready(Err(Reason::UpstreamReset))
            }
            _ => connection.poll_ended(cx).map(|ended| {
                Err(match ended {
                    Ended::Idle => Reason::ClientTimeout,
                    Ended::Cut => Reason::Draining,
                })
            }),
        }
    })
    .await;
    *passed = Passed { read, sent: sent.saturating_sub(head) };
    let Near { mut transport, frames } = near;
    if ended == Err(Reason::Draining) && frames.is_between_frames() {
        // A last word in the background, to which the client may not listen.
        let goodbye = BytesMut::from(&accept::GOING_AWAY[..]);
        tokio::spawn(accept::say_goodbye(transport, goodbye, connection.clone()));
    } else {
        transport.part();
    }
    ended
}

/// The client's side. What goes to it is followed, so that a drain can say goodbye between two frames.
struct Near {
    transport: Transport,
    frames: WebSocketFrames,
}

impl Side for Near {
    /// Bytes that are followed are not spliced.
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

impl AsyncRead for Near {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_read(cx, buf)
    }
}

impl AsyncWrite for Near {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.transport).poll_write(cx, data))?;
        self.frames.follow(&data[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
