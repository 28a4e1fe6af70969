//! The operator's HTTP API, on its own listener: how the gateway is, what it runs, and what it is told to do.
//!
//! It has an accept loop of its own (`api`), so that a gateway which is full or draining still answers here. Every
//! request passes the guards, which keep strangers and web pages out, and then the table of endpoints in `router`; who may what is in
//! `roles`. Reading is done in `api`, one file for each resource; what changes something is an order. What goes on is told in `events`, and
//! access lines in `tail`.

mod api;
mod assets;
mod events;
pub(crate) mod history;
pub(crate) mod journal;
pub(crate) mod notes;
mod openapi;
mod orders;
pub(crate) mod parts;
pub(crate) mod parts_view;
pub(crate) mod refused;
mod roles;
mod router;
pub(crate) mod sampler;
mod serve;
mod sessions;
mod stats;
mod stream;
mod tail;
mod view;
mod yaml;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::MissedTickBehavior,
};

use self::{
    journal::{Journal, PlacedProblem},
    roles::Keys,
    sampler::Sampler,
    sessions::{Guesses, Sessions},
};
use crate::{
    api::{Socket, Terms, Tls},
    config::{AdminListener, AdminParts, ConsoleSettings, PartLimits},
    observe::Recorder,
    snapshot::Current,
    tls::{Settings, Terminator},
};

pub(crate) use openapi::document as openapi_document;

/// The admin listener's key among the sockets of a hand-over.
pub(crate) const KEY: &str = "admin";
/// Connections that are no streams, and streams.
const PLACES: usize = 100;
const STREAMS: usize = 16;
/// How often rates are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Where the process is in its life.
#[derive(Debug, Default)]
pub(crate) struct Phase(AtomicU8, AtomicBool);

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

    /// False where an upgrade is under way already.
    pub(crate) fn begin_upgrade(&self) -> bool {
        !self.1.swap(true, Relaxed)
    }

    pub(crate) fn end_upgrade(&self) {
        self.1.store(false, Relaxed);
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
    /// With who asks for it.
    Reload(String, oneshot::Sender<Outcome>),
    Drain,
    /// It was begun in the [`Phase`].
    Upgrade(oneshot::Sender<Upgraded>),
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

/// What becomes of a configuration that is only looked at.
pub(crate) struct Checked {
    pub problems: Vec<PlacedProblem>,
    pub warnings: Vec<PlacedProblem>,
    /// What a reload would change, in words, where there are no problems.
    pub changes: Option<String>,
}

/// What of the process the API cannot reach by itself.
pub(crate) trait Process: Send + Sync {
    /// Whether `text` could be put in force. It reads no file for it. Takes a while.
    fn check(&self, text: &str) -> Checked;

    /// The control plane that is served here, if one is.
    fn control(&self) -> Option<Arc<dyn Plane>>;

    /// Which control plane this gateway follows, if it does.
    fn follows(&self) -> Value;

    fn memory(&self) -> Memory;
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub resident: Option<u64>,
    pub limit: Option<u64>,
}

/// A control plane, for those who only look: what its own API would answer to whoever may see everything.
pub(crate) trait Plane: Send + Sync {
    fn summary(&self) -> Value;

    fn services(&self) -> Value;

    /// Of that service, or of all.
    fn instances(&self, name: Option<&str>) -> Value;

    fn configs(&self) -> Value;

    /// `None`: there is no such configuration.
    fn versions(&self, name: &str) -> Option<Value>;

    fn rollouts(&self) -> Value;

    fn gateways(&self) -> Value;
}

/// How an upgrade in place ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upgraded {
    /// This process serves from now on.
    Done(i32),
    /// This one serves on; why.
    Failed(String),
}

/// What the handlers answer from.
#[derive(Clone)]
pub(crate) struct State {
    current: Current,
    recorder: Arc<Recorder>,
    phase: Arc<Phase>,
    commands: mpsc::Sender<Command>,
    keys: Arc<Keys>,
    sessions: Arc<Sessions>,
    guesses: Arc<Guesses>,
    journal: Arc<Journal>,
    process: Arc<dyn Process>,
    /// None where the console is turned off.
    console: Option<ConsoleSettings>,
    /// None where nothing is sampled.
    sampler: Option<Arc<Sampler>>,
    /// What the API itself shows of certificates.
    own_tls: Option<Arc<Terminator>>,
    /// Places for streams.
    streams: Arc<Semaphore>,
    /// None where they are turned off.
    parts: Option<PartLimits>,
    started: Instant,
    started_at: SystemTime,
}

impl State {
    pub(crate) fn new(
        current: &Current,
        recorder: &Arc<Recorder>,
        phase: &Arc<Phase>,
        commands: mpsc::Sender<Command>,
        journal: &Arc<Journal>,
        process: Arc<dyn Process>,
        settings: &AdminListener,
    ) -> State {
        let console = settings.console().cloned();
        let history = console.as_ref().map(|console| Duration::from(console.history));
        let sampler = history.filter(|history| !history.is_zero());
        State {
            current: current.clone(),
            recorder: recorder.clone(),
            phase: phase.clone(),
            commands,
            keys: Arc::new(Keys::of(settings)),
            sessions: Arc::new(Sessions::new(&settings.session)),
            guesses: Arc::default(),
            journal: journal.clone(),
            process,
            sampler: sampler.map(|history| Arc::new(Sampler::new(history, Instant::now()))),
            console,
            own_tls: None,
            streams: Arc::new(Semaphore::new(STREAMS)),
            parts: match &settings.parts {
                AdminParts::On(limits) => Some(limits.clone()),
                AdminParts::Off(_) => None,
            },
            started: Instant::now(),
            started_at: SystemTime::now(),
        }
    }

    /// Look at the rates, again and again; ends with the API.
    async fn sample(self, mut closing: tokio::sync::watch::Receiver<bool>) {
        let Some(sampler) = self.sampler.clone() else { return };
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is at once, and counts nothing yet.
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = closing.wait_for(|closing| *closing) => return,
            }
            let (state, sampler) = (self.clone(), sampler.clone());
            // 10,000 routes take a moment to look at. A panic is in the log, and costs this one look.
            let _ = tokio::task::spawn_blocking(move || {
                let sample = sampler.look(&state.current, &state.recorder.metrics, Instant::now());
                if state.journal.events.is_watched() {
                    state.journal.events.tell_in_passing("traffic", &events::Passing::of(&state, &sample));
                }
            })
            .await;
        }
    }
}

/// An API that only has to be let loose: nothing about it can fail any more.
pub(crate) struct Prepared {
    socket: crate::api::Prepared,
    api: Arc<serve::Api>,
}

/// What it takes to serve the API on `socket`.
///
/// # Errors
///
/// The runtime cannot take the socket, or TLS cannot be set up: a file has changed since it was checked.
pub(crate) fn prepare(
    socket: std::net::TcpListener,
    settings: &AdminListener,
    mut state: State,
) -> io::Result<Prepared> {
    let tls = settings.tls.as_ref().map(Settings::of_admin);
    let tls = tls.map(|tls| Tls::looking(KEY, tls, &state.recorder.metrics)).transpose()?;
    state.own_tls = tls.as_ref().and_then(Tls::terminator);
    let socket = crate::api::Prepared::new(socket, tls)?;
    let (is_loopback, is_secure) = (socket.is_loopback(), !socket.is_plain());
    let api = Arc::new(serve::Api { state, is_loopback, is_secure });
    Ok(Prepared { socket, api })
}

impl Prepared {
    /// In the background.
    pub(crate) fn serve(self) -> Socket {
        let Prepared { socket, api } = self;
        if socket.is_plain() && api.state.keys.want_token() && !api.is_loopback {
            log::warn!("the admin token travels in clear text to {}: configure admin.tls", socket.address());
        }
        let (open, evicted) = api.state.recorder.metrics.admin_connections();
        let terms = Terms {
            key: KEY,
            setting: "admin.address",
            places: PLACES + STREAMS,
            strangers: 32,
            // A scraper reconnects once a minute; a client that sends and reads nothing is gone by then.
            lifetime: Duration::from_secs(60),
            jitter: 0.0,
            last_answer: Duration::from_secs(60),
            streams: 16,
            open,
            evicted,
        };
        let state = api.state.clone();
        let socket = socket.serve(api, terms);
        tokio::spawn(state.sample(socket.closing()));
        socket
    }
}
