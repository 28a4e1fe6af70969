//! What the system says to the process. Handlers are there before anything else is done, so that no signal meets its
//! default action, which ends the process without a word; as PID 1, which knows no default actions, it would not be heard.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::resources::children;

pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

/// What a signal asks for.
pub(super) enum Told {
    /// SIGHUP
    Reload,
    /// SIGUSR1
    Reopen,
    /// SIGQUIT
    HandOver,
    /// SIGUSR2
    Upgrade,
    /// SIGTERM or SIGINT, by name
    End(&'static str),
}

impl Signals {
    /// Within the runtime that is to hear them. What comes before they are asked for is kept.
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one. May be dropped and asked again.
    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End("SIGTERM"),
            _ = self.interrupt.recv() => Told::End("SIGINT"),
            _ = self.quit.recv() => Told::HandOver,
            _ = self.hangup.recv() => Told::Reload,
            _ = self.user1.recv() => Told::Reopen,
            _ = self.user2.recv() => Told::Upgrade,
        }
    }

    /// During an upgrade: `None` where another one is asked for, else as [`Signals::end`].
    pub(super) async fn end_or_upgrade(&mut self) -> Option<&'static str> {
        tokio::select! {
            _ = self.terminate.recv() => Some("SIGTERM"),
            _ = self.interrupt.recv() => Some("SIGINT"),
            _ = self.user2.recv() => None,
        }
    }

    /// Resolves when the process is told to end, with the signal's name. The others wait meanwhile.
    pub(super) async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// As PID 1, bury the processes whose parents have ended: they are this process's children then, and stay zombies until
/// somebody waits for them.
pub(super) async fn reap_orphans() {
    if !rustix::process::getpid().is_init() {
        return;
    }
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => return log::error!("processes that end stay zombies: {error}"),
    };
    loop {
        // First, as one may have ended before. One signal may stand for several.
        children::bury();
        if ended.recv().await.is_none() {
            return;
        }
    }
}
