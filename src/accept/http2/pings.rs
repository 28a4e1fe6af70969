//! Whether the client is still there, asked by pings: one that has gone without a word would keep its streams, and what
//! serves them, for as long as nothing is sent.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, server::Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep},
};

pub(super) struct Pings {
    handle: PingPong,
    every: Duration,
    next: Pin<Box<Sleep>>,
    /// The last one has not been answered.
    waiting: bool,
}

impl Pings {
    /// A ping `every` so often; each must be answered before the next is due.
    pub(super) fn new<S>(http2: &mut Connection<S, Bytes>, every: Duration) -> Option<Pings>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Some(Pings { handle: http2.ping_pong()?, every, next: Box::pin(sleep(every)), waiting: false })
    }

    /// Resolves when a ping was not answered. May be dropped while it waits. Pings are sent by whoever polls the
    /// connection.
    pub(super) async fn unanswered(pings: &mut Option<Pings>) {
        match pings {
            Some(pings) => poll_fn(|cx| pings.poll(cx)).await,
            None => std::future::pending().await,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // An error is the end of the connection, of which whoever polls it hears too.
            if self.waiting && self.handle.poll_pong(cx).is_ready() {
                self.waiting = false;
            }
            if self.next.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.waiting {
                return Poll::Ready(());
            }
            self.waiting = self.handle.send_ping(Ping::opaque()).is_ok();
            self.next.as_mut().reset(Instant::now() + self.every);
        }
    }
}
