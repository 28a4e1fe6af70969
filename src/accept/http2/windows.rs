//! How much of its requests' bodies an HTTP/2 client may have under way: little at first, and more once a body is read as
//! it comes.
//!
//! A window is what may have to be kept where nobody reads, so large ones for all would be memory that any client can have
//! the gateway hold. Small ones for all bound an upload by the distance: a stream gets no further than its window within a
//! round trip. So a connection grows when one of its bodies is read on, and as long as all grown ones together stay within
//! their share of the process's memory ([`Memory::lend`](crate::resources::Memory)). Where a body is not read, nothing grows.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use h2::server::{Builder, Connection as H2Connection};

use crate::{
    accept::http2::flood_guard::Watched,
    resources::{Lent, Resources},
    snapshot::Limits,
};

/// The library's default. One body that its upstream does not take is to stop no others.
const FIRST_STREAM: u32 = 65_535;
const FIRST_CONNECTION: u32 = 1024 * 1024;
/// A body of which so much was read flows: a quarter of its first window.
const FLOWS: u64 = 16 * 1024;

/// One connection's, in the hands of the task that drives it.
pub(super) struct Windows {
    stream: u32,
    connection: u32,
    bodies: Arc<Bodies>,
    /// What more this connection may hold, once it has been lent that.
    lent: Option<Lent>,
}

/// What the streams of a connection say of their bodies.
#[derive(Default)]
pub(super) struct Bodies {
    /// The windows are what they will be: nobody needs to be told.
    is_settled: AtomicBool,
    /// One has flowed since the task of the connection looked.
    has_flowed: AtomicBool,
    waker: AtomicWaker,
}

impl Windows {
    pub(super) fn new(limits: &Limits) -> Windows {
        let Limits { stream_window: stream, connection_window: connection, .. } = *limits;
        let bodies = Bodies::default();
        bodies.is_settled.store(stream <= FIRST_STREAM && connection <= FIRST_CONNECTION, Relaxed);
        Windows { stream, connection, bodies: Arc::new(bodies), lent: None }
    }

    /// What the client is told first.
    pub(super) fn begin(&self, options: &mut Builder) {
        options
            .initial_window_size(self.stream.min(FIRST_STREAM))
            .initial_connection_window_size(self.connection.min(FIRST_CONNECTION));
    }

    pub(super) fn bodies(&self) -> &Arc<Bodies> {
        &self.bodies
    }

    /// Resolves when a body flows and the windows could be larger.
    pub(super) async fn wanted(&self) {
        poll_fn(|cx| {
            self.bodies.waker.register(cx.waker());
            if self.bodies.has_flowed.swap(false, Relaxed) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Have the client send more, if there is memory for it.
    pub(super) fn grow(&mut self, http2: &mut H2Connection<Watched, Bytes>, resources: &Arc<Resources>) {
        if self.bodies.is_settled.load(Relaxed) {
            return;
        }
        if self.lent.is_none() {
            let more = self.connection.saturating_sub(FIRST_CONNECTION);
            self.lent = resources.lend(u64::from(more));
        }
        // Without, it stays as it is until a next part: small windows work, and only the distance slows them down. The same where the
        // client has not said yet that it has read the last settings.
        if self.lent.is_none() || http2.set_initial_window_size(self.stream).is_err() {
            return;
        }
        http2.set_target_window_size(self.connection);
        self.bodies.is_settled.store(true, Relaxed);
    }
}

impl Bodies {
    /// So much of one body has been read by now.
    pub(super) fn has_read(&self, bytes: u64) {
        if bytes >= FLOWS && !self.is_settled.load(Relaxed) {
            self.has_flowed.store(true, Relaxed);
            self.waker.wake();
        }
    }
}
