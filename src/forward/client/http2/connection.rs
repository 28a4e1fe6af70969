//! One HTTP/2 connection, and the task that drives it. Requests share it; what each of them does goes through `h2`'s handles,
//! so nothing here is in their way.

use std::{
    future::{pending, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use h2::{
    Ping, PingPong,
    client::{Builder, SendRequest},
};
use pingora_core::{
    Error, ErrorType, Result,
    protocols::{Digest, Stream},
    upstreams::peer::HttpPeer,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::pool::Opening;

/// What an upstream may send ahead on one stream, and what is held of it while the client does not read: enough for the distance, within
/// these. With that of a whole connection one client that does not read would hold up all others, and much memory.
/// The least is one frame of the protocol's size, as much as the session towards the client takes at once: with what else a request
/// costs, a stream that nobody reads stays within 64 KiB.
const LEAST_STREAM_WINDOW: u32 = 16 * 1024;
const MOST_STREAM_WINDOW: u32 = 1024 * 1024;
/// The rate that a stream is to reach, in bytes a second: a window passes once in a round trip.
const STREAM_RATE: u64 = 100_000_000;
/// What an upstream may send ahead on all streams together: as Pingora has it, 80 MB/s over 100 ms.
/// At a distance of 10 ms and more, eight streams whose clients do not read fill it, and hold up all others on the connection. The
/// library has no window of one stream alone that could begin small and grow. So where such streams may fill half of it, new requests
/// go to another connection, as long as there are few that are so filled.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Larger frames than the protocol's 16 KiB cost less each; no other stream waits long for one.
const LARGEST_FRAME: u32 = 64 * 1024;
/// `h2` derives from it and from the size above how many frames a head may have: so a MiB of it passes in frames of 16 KiB too.
const LONGEST_HEAD: u32 = 4 * 1024 * 1024;
/// Requests that were given up, by clients or for another try, whose late answers are passed over in silence.
const MOST_GIVEN_UP: usize = 1024;
/// How late they may be.
const LATEST: Duration = Duration::from_secs(10);
/// Answers later than that are each answered with a reset. `h2` counts those as long as the connection lives and ends it at 1,024
/// by default, with all that is under way; an upstream that means harm could have us queue a few MB at this many.
const MOST_LATE: usize = 100_000;
/// However often a connection is doubted: servers of gRPC close those that ask more often than every five minutes.
const PING_PAUSE: Duration = Duration::from_secs(360);
/// How long a ping may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Stands for "it has not said how many streams it takes": its SETTINGS hold a `u32`, or nothing, which is `usize::MAX`.
const UNTOLD: usize = usize::MAX - 1;

pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    /// The operator's bound.
    most: usize,
    /// What one of its streams may hold.
    stream_window: u32,
    state: Arc<State>,
    digest: Digest,
}

/// Shared with the task that drives the connection. That has no part in the connection itself, which closes with the last
/// that has.
struct State {
    /// How many streams may be open at once: by the operator's bound and by the other side's. One as long as the latter is
    /// not known.
    most: AtomicUsize,
    /// Streams that wait for their clients.
    unread: AtomicUsize,
    ping_lost: AtomicBool,
    /// A stream waits for its answer for longer than usual.
    doubted: Notify,
}

/// A stream whose client is waited for, until dropped. What it may hold is held.
pub(super) struct Unread(Arc<State>);

/// What drives a connection: to be spawned.
pub(super) struct Driver {
    connection: h2::client::Connection<Stream, Bytes>,
    pings: Option<PingPong>,
    ping_interval: Duration,
    most: usize,
    state: Arc<State>,
}

impl Connection {
    /// Begin to speak HTTP/2 on `stream`.
    ///
    /// # Errors
    ///
    /// Nothing can be written there.
    pub(super) async fn open(stream: Stream, peer: &HttpPeer) -> Result<(Connection, Driver)> {
        let options = &peer.options;
        let digest = Digest { ssl_digest: stream.get_ssl_digest(), ..Digest::default() };
        let stream_window = stream_window(round_trip(&stream));
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(UNTOLD)
            .max_frame_size(LARGEST_FRAME)
            .max_header_list_size(LONGEST_HEAD)
            .max_concurrent_reset_streams(MOST_GIVEN_UP)
            .reset_stream_duration(LATEST)
            .max_local_error_reset_streams(Some(MOST_LATE))
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_window_size(stream_window);
        let shaken = builder.handshake(stream).await;
        let (sender, mut connection) =
            shaken.map_err(|e| Error::because(ErrorType::HandshakeError, "while beginning HTTP/2", e))?;
        let most = options.max_h2_streams.max(1);
        let state = Arc::new(State {
            most: AtomicUsize::new(1),
            unread: AtomicUsize::new(0),
            ping_lost: AtomicBool::new(false),
            doubted: Notify::new(),
        });
        let ping_interval = options.h2_ping_interval.unwrap_or(Duration::ZERO);
        let pings = if ping_interval.is_zero() { None } else { connection.ping_pong() };
        let driver = Driver { connection, pings, ping_interval, most, state: state.clone() };
        Ok((Connection { sender, most, stream_window, state, digest }, driver))
    }

    /// How many streams it may have at once, as far as is known.
    pub(super) fn most(&self) -> usize {
        self.state.most.load(Relaxed)
    }

    /// Whether a request might wait behind streams whose clients are waited for.
    pub(super) fn is_filled(&self) -> bool {
        fills(self.state.unread.load(Relaxed), self.stream_window)
    }

    /// The client of a stream is waited for. `None` where so many cannot be open that it matters.
    pub(super) fn leave_unread(&self) -> Option<Unread> {
        fills(self.most(), self.stream_window).then(|| {
            self.state.unread.fetch_add(1, Relaxed);
            Unread(self.state.clone())
        })
    }

    /// What a request is sent with; `None` where the connection takes no more of them.
    pub(super) fn sender(&self) -> Option<SendRequest<Bytes>> {
        let mut sender = self.sender.clone();
        // A clone has no stream of its own that could be waiting.
        let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Err(_)) = ready {
            return None;
        }
        let told = sender.current_max_send_streams();
        if told != UNTOLD && told.min(self.most) != self.most() {
            self.state.most.store(told.min(self.most), Relaxed);
        }
        Some(sender)
    }

    /// Have it give a sign of life soon.
    pub(super) fn doubt(&self) {
        self.state.doubted.notify_one();
    }

    pub(super) fn is_ping_lost(&self) -> bool {
        self.state.ping_lost.load(Relaxed)
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.unread.fetch_sub(1, Relaxed);
    }
}

/// Whether so many streams may take half of what all together have.
fn fills(streams: usize, stream_window: u32) -> bool {
    streams as u64 * u64::from(stream_window) >= u64::from(CONNECTION_WINDOW / 2)
}

/// As the kernel has seen it while connecting. `None` where it knows of none, as on Unix sockets.
fn round_trip(stream: &Stream) -> Option<Duration> {
    let seen = stream.get_socket_digest()?.tcp_info()?;
    let micros = if seen.tcpi_min_rtt == u32::MAX { seen.tcpi_rtt } else { seen.tcpi_min_rtt };
    (micros > 0).then(|| Duration::from_micros(micros.into()))
}

/// Where nobody knows how far it is, it is this host.
fn stream_window(round_trip: Option<Duration>) -> u32 {
    let micros = u64::try_from(round_trip.unwrap_or_default().as_micros()).unwrap_or(u64::MAX);
    let passes = micros.saturating_mul(STREAM_RATE / 1_000_000);
    u32::try_from(passes).unwrap_or(u32::MAX).clamp(LEAST_STREAM_WINDOW, MOST_STREAM_WINDOW)
}

impl Driver {
    /// Until the connection has ended, from either side. `opening` ends when the other side has said how many streams it takes:
    /// more than that would be refused.
    pub(super) async fn run(self, opening: Opening) {
        let Driver { mut connection, pings, ping_interval, most, state } = self;
        let mut opening = Some(opening);
        let driven = poll_fn(|cx| {
            let polled = connection.poll_unpin(cx);
            if opening.is_some() {
                let told = connection.max_concurrent_send_streams();
                if told != UNTOLD {
                    state.most.store(told.min(most), Relaxed);
                    opening = None;
                }
            }
            polled
        });
        let lost = pin!(ping_lost(pings, ping_interval, &state.doubted));
        tokio::select! {
            biased;
            ended = driven => match ended {
                Ok(()) => log::debug!("an HTTP/2 connection to an upstream has ended"),
                Err(e) => log::debug!("an HTTP/2 connection to an upstream has ended: {e}"),
            },
            () = lost => {
                log::debug!("an HTTP/2 connection to an upstream gives no sign of life");
                // First: dropping the connection fails its streams, which ask why.
                state.ping_lost.store(true, Relaxed);
            }
        }
        drop(connection);
    }
}

/// Ready when a ping was not answered. One is sent when nothing was asked for so long, or when the connection is doubted.
async fn ping_lost(pings: Option<PingPong>, interval: Duration, doubted: &Notify) {
    let Some(mut pings) = pings else { return pending().await };
    let mut last: Option<Instant> = None;
    loop {
        let asked = async {
            doubted.notified().await;
            if let Some(last) = last {
                tokio::time::sleep_until(last + PING_PAUSE).await;
            }
        };
        tokio::select! {
            () = sleep(interval) => {}
            () = asked => {}
        }
        last = Some(Instant::now());
        match timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // Whoever drives the connection knows why.
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_as_large_as_the_distance_asks_for() {
        let window = |micros| stream_window(Some(Duration::from_micros(micros)));
        assert_eq!(stream_window(None), LEAST_STREAM_WINDOW);
        assert_eq!([window(50), window(160)], [LEAST_STREAM_WINDOW; 2]);
        assert_eq!([window(600), window(2_000)], [60_000, 200_000]);
        assert_eq!([window(50_000), window(u64::MAX)], [MOST_STREAM_WINDOW; 2]);
    }

    #[test]
    fn half_of_a_connection_is_filled_by_four_unread_streams_from_far_away_and_by_no_hundred_from_nearby() {
        assert!(!fills(3, MOST_STREAM_WINDOW));
        assert!(fills(4, MOST_STREAM_WINDOW));
        assert!(!fills(100, LEAST_STREAM_WINDOW));
    }
}
