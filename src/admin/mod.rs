//! The operator's HTTP API, on its own listener: how the gateway is, what it runs, and what it is told to do.
//!
//! It has an accept loop of its own (`server`), so that a gateway which is full or draining still answers here. Every
//! request passes the `guard`, which keeps strangers and web pages out, and then the table of endpoints in `router`.
//! Reading is done by the `view`s; what changes something is sent to the process as a [`Command`].

mod guard;
mod orders;
mod reply;
mod room;
mod router;
mod secure;
mod server;
mod view;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};

use crate::{
    config::{AdminListener, Secret},
    observe::Recorder,
    snapshot::Current,
};

/// The admin listener's key among the sockets of a hand-over.
pub(crate) const KEY: &str = "admin";

/// Where the process is in its life.
#[derive(Debug, Default)]
pub(crate) struct Phase(AtomicU8);

impl Phase {
    pub(crate) fn set_ready(&self) {
        self.0.store(1, Relaxed);
    }

    pub(crate) fn set_draining(&self) {
        self.0.store(2, Relaxed);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.0.load(Relaxed) == 1
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.load(Relaxed) == 2
    }

    fn word(&self) -> &'static str {
        match self.0.load(Relaxed) {
            0 => "starting",
            1 => "ready",
            _ => "draining",
        }
    }
}

/// What the admin API tells the process.
#[derive(Debug)]
pub(crate) enum Command {
    Reload(oneshot::Sender<Outcome>),
    Drain,
}

/// How a reload ended, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Reloaded(String),
    /// The configuration means the same as before.
    Unchanged,
    /// One problem a line.
    Rejected(String),
}

/// What the handlers answer from.
#[derive(Clone)]
pub(crate) struct State {
    current: Current,
    recorder: Arc<Recorder>,
    phase: Arc<Phase>,
    commands: mpsc::Sender<Command>,
    token: Option<Secret>,
    /// Whoever has no certificate by a known authority is a stranger.
    wants_certificate: bool,
    started: Instant,
}

impl State {
    pub(crate) fn new(
        current: &Current,
        recorder: &Arc<Recorder>,
        phase: &Arc<Phase>,
        commands: mpsc::Sender<Command>,
        settings: &AdminListener,
    ) -> State {
        State {
            current: current.clone(),
            recorder: recorder.clone(),
            phase: phase.clone(),
            commands,
            token: settings.token.clone(),
            wants_certificate: settings.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()),
            started: Instant::now(),
        }
    }
}

/// The admin listener's socket; dropped, it is closed.
pub(crate) struct Socket {
    listener: Arc<TcpListener>,
    closing: watch::Sender<bool>,
}

impl Socket {
    /// For a hand-over.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub(crate) fn duplicate(&self) -> io::Result<(String, OwnedFd)> {
        Ok((KEY.to_owned(), self.listener.as_fd().try_clone_to_owned()?))
    }

    /// Stop accepting and let open connections end: a successor accepts from the same socket, and whoever asks is to
    /// hear of the successor.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }
}

/// An API that only has to be let loose: nothing about it can fail any more.
pub(crate) struct Prepared {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    tls: Option<Arc<secure::Tls>>,
    api: Arc<router::Api>,
}

/// What it takes to serve the API on `socket`.
///
/// # Errors
///
/// The runtime cannot take the socket, or TLS cannot be set up: a file has changed since it was checked.
pub(crate) fn prepare(
    socket: std::net::TcpListener,
    settings: &AdminListener,
    state: State,
) -> io::Result<Prepared> {
    let tls = settings.tls.as_ref().map(|tls| secure::Tls::new(tls, &state.recorder.metrics)).transpose()?;
    socket.set_nonblocking(true)?;
    let listener = Arc::new(TcpListener::from_std(socket)?);
    let address = listener.local_addr()?;
    let api = Arc::new(router::Api { state, is_loopback: address.ip().is_loopback() });
    Ok(Prepared { listener, address, tls: tls.map(Arc::new), api })
}

impl Prepared {
    /// In the background.
    pub(crate) fn serve(self) -> Socket {
        let Prepared { listener, address, tls, api } = self;
        crate::observe::log::event!(Info, "listening", listener = KEY, address = address);
        if tls.is_none() && api.state.token.is_some() && !api.is_loopback {
            log::warn!("the admin token travels in clear text to {address}: configure admin.tls");
        }
        let (open, closed) = api.state.recorder.metrics.admin_connections();
        let room = room::Room::new(open, closed);
        let closing = watch::Sender::new(false);
        tokio::spawn(server::accept(listener.clone(), tls, api, room, closing.subscribe()));
        Socket { listener, closing }
    }
}
