//! The operator's HTTP API, on its own listener: how the gateway is, what it runs, and what it is told to do.
//!
//! It has an accept loop of its own (`api`), so that a gateway which is full or draining still answers here. Every
//! request passes the `guard`, which keeps strangers and web pages out, and then the table of endpoints in `router`.
//! Reading is done by the `view`s; what changes something is sent to the process as a [`Command`].

mod guard;
mod orders;
pub(crate) mod parts;
pub(crate) mod parts_view;
mod router;
mod view;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    api::{self, Socket, Terms, Tls},
    config::{AdminListener, AdminParts, PartLimits, Secret},
    observe::Recorder,
    snapshot::Current,
    tls::Settings,
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

    /// There is nothing to serve before the control plane gives a configuration.
    pub(crate) fn set_waiting(&self) {
        self.0.store(3, Relaxed);
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.0.load(Relaxed) == 3
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.0.load(Relaxed) == 1
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.load(Relaxed) == 2
    }

    pub(crate) fn word(&self) -> &'static str {
        match self.0.load(Relaxed) {
            0 => "starting",
            1 => "ready",
            3 => "waiting for a configuration",
            _ => "draining",
        }
    }
}

/// What the admin API tells the process.
#[derive(Debug)]
pub(crate) enum Command {
    Reload(oneshot::Sender<Outcome>),
    Drain,
    Order(Box<parts::Order>, oneshot::Sender<parts::Answer>),
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
    /// None where they are turned off.
    parts: Option<PartLimits>,
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
            parts: match &settings.parts {
                AdminParts::On(limits) => Some(limits.clone()),
                AdminParts::Off(_) => None,
            },
            started: Instant::now(),
        }
    }
}

/// An API that only has to be let loose: nothing about it can fail any more.
pub(crate) struct Prepared {
    socket: api::Prepared,
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
    let tls = settings.tls.as_ref().map(Settings::of_admin);
    let tls = tls.map(|tls| Tls::looking(KEY, tls, &state.recorder.metrics)).transpose()?;
    let socket = api::Prepared::new(socket, tls)?;
    let api = Arc::new(router::Api { state, is_loopback: socket.is_loopback() });
    Ok(Prepared { socket, api })
}

impl Prepared {
    /// In the background.
    pub(crate) fn serve(self) -> Socket {
        let Prepared { socket, api } = self;
        if socket.is_plain() && api.state.token.is_some() && !api.is_loopback {
            log::warn!("the admin token travels in clear text to {}: configure admin.tls", socket.address());
        }
        let (open, evicted) = api.state.recorder.metrics.admin_connections();
        let terms = Terms {
            key: KEY,
            setting: "admin.address",
            places: 100,
            strangers: 32,
            // A scraper reconnects once a minute; a client that sends and reads nothing is gone by then.
            lifetime: Duration::from_secs(60),
            jitter: 0.0,
            last_answer: Duration::from_secs(60),
            streams: 16,
            open,
            evicted,
        };
        socket.serve(api, terms)
    }
}
