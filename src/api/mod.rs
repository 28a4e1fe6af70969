//! What the HTTP APIs of this process share: the accept loop, its places, TLS, and the guards that keep web pages out. What
//! there is to ask, and who may, is each API's own.
//!
//! They are not served as traffic is: an API must answer while the gateway is full or draining.

pub(crate) mod guard;
pub(crate) mod openapi;
pub(crate) mod query;
pub(crate) mod reply;
mod room;
mod secure;
mod server;

use std::{
    error::Error,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Incoming};
use prometheus::{IntCounter, IntGauge};
use tokio::{net::TcpListener, sync::watch};

use self::room::{Busy, Room, Seat};
pub(crate) use self::secure::Tls;
use crate::identity::Caller;

/// What answers.
pub(crate) trait Service: Send + Sync + 'static {
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// Whether the request carries credentials, where there are any to carry.
    fn is_proven(&self, caller: Option<&Caller>, headers: &HeaderMap) -> bool;

    fn handle(
        self: Arc<Self>,
        connection: Connection,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// The connection that a request has come on.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    /// Whose certificate was verified.
    pub(crate) caller: Option<Arc<Caller>>,
    /// The API closes: a successor goes on, or the process ends.
    pub(crate) closing: watch::Receiver<bool>,
    seat: Arc<Seat>,
    streams: Arc<AtomicUsize>,
    all_streams: Arc<watch::Sender<usize>>,
}

/// An answer that goes on, until this is dropped: its connection is in use as long, and is given that time.
pub(crate) struct Streaming {
    _busy: Busy,
    streams: Arc<AtomicUsize>,
    all_streams: Arc<watch::Sender<usize>>,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Relaxed);
        self.all_streams.send_modify(|streams| *streams -= 1);
    }
}

impl Connection {
    /// Close it at once, whatever is under way: for a client that takes nothing.
    pub(crate) fn hang_up(&self) {
        self.seat.hang_up();
    }

    /// What is answered here goes on, and ends by itself.
    pub(crate) fn stream(&self) -> Streaming {
        self.streams.fetch_add(1, Relaxed);
        self.all_streams.send_modify(|streams| *streams += 1);
        Streaming {
            _busy: self.seat.begin(false),
            streams: self.streams.clone(),
            all_streams: self.all_streams.clone(),
        }
    }
}

/// How an API is served.
#[derive(Clone)]
pub(crate) struct Terms {
    /// What it is called in logs and among the sockets of a hand-over.
    pub(crate) key: &'static str,
    /// The key of the configuration that has its address.
    pub(crate) setting: &'static str,
    /// Connections at a time. Nobody is turned away: who was idle for longest has to go.
    pub(crate) places: usize,
    /// Of these, for those who have shown no credentials yet, from one address or network of IPv6.
    pub(crate) strangers: usize,
    /// After this a connection ends when what is in flight is done.
    pub(crate) lifetime: Duration,
    /// That much of it is left to chance, so that not all come back at once.
    pub(crate) jitter: f64,
    /// How long what is in flight may then take. Streams end by themselves.
    pub(crate) last_answer: Duration,
    pub(crate) streams: u32,
    pub(crate) open: IntGauge,
    pub(crate) evicted: IntCounter,
}

/// A socket that has only to be served: nothing about it can fail any more.
pub(crate) struct Prepared {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
}

/// An API's socket that is served; dropped, it is closed.
pub(crate) struct Socket {
    key: &'static str,
    listener: Arc<TcpListener>,
    closing: watch::Sender<bool>,
    streams: Arc<watch::Sender<usize>>,
}

impl Prepared {
    /// # Errors
    ///
    /// The runtime cannot take the socket.
    pub(crate) fn new(socket: std::net::TcpListener, tls: Option<Tls>) -> io::Result<Prepared> {
        socket.set_nonblocking(true)?;
        let listener = Arc::new(TcpListener::from_std(socket)?);
        let address = listener.local_addr()?;
        Ok(Prepared { listener, address, tls: tls.map(Arc::new) })
    }

    pub(crate) fn is_loopback(&self) -> bool {
        self.address.ip().is_loopback()
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// In the background.
    pub(crate) fn serve<S: Service>(self, service: Arc<S>, terms: Terms) -> Socket {
        let Prepared { listener, address, tls } = self;
        crate::observe::log::event!(Info, "listening", listener = terms.key, address = address);
        let (key, room, closing) = (terms.key, Room::new(&terms), watch::Sender::new(false));
        let (closed, streams) = (closing.subscribe(), Arc::new(watch::Sender::new(0)));
        let serving =
            server::Serving { tls, service, room, terms, closing: closed, streams: streams.clone() };
        tokio::spawn(server::accept(listener.clone(), serving));
        Socket { key, listener, closing, streams }
    }
}

impl Socket {
    /// For a hand-over.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub(crate) fn duplicate(&self) -> io::Result<(String, OwnedFd)> {
        Ok((self.key.to_owned(), self.listener.as_fd().try_clone_to_owned()?))
    }

    /// Those that were told that it closes have ended, or `patience` is over.
    pub(crate) async fn streams_ended(&self, patience: Duration) {
        let mut streams = self.streams.subscribe();
        let _ = tokio::time::timeout(patience, streams.wait_for(|streams| *streams == 0)).await;
    }

    /// Hears when it closes.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Stop accepting and let open connections end: a successor accepts from the same socket, and whoever asks is to
    /// hear of the successor.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }
}
