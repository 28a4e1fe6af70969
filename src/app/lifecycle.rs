//! The life of the running process: it serves until a signal, the admin API or a changed file tells it something.

use std::{io, path::PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Running, VERSION, watch::FileWatch};
use crate::{
    accept::Handover,
    admin::{Command, Outcome},
    config::Config,
    observe::log::event,
};

/// Where a successor waits for this configuration's listeners.
pub(crate) fn socket_path(config: &Config) -> PathBuf {
    config.upgrade.socket.clone().unwrap_or_else(|| {
        let directory = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        directory.join(format!("tidegate-{}.sock", rustix::process::geteuid().as_raw()))
    })
}

pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user1: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }
}

/// What the process is told to do.
enum Event {
    Reload,
    Drain(&'static str),
    HandOver,
    Reopen,
    Certificates,
    Command(Command),
}

impl Running {
    /// Serve until drained.
    pub(super) async fn serve(mut self, mut signals: Signals) {
        let mut watch = self.file_watch();
        let mut certificates = self.watch_certificates(None);
        // Not before signals and changes are heard: whoever reads this may send one at once.
        self.ready();
        loop {
            match self.next(&mut signals, watch.as_mut(), certificates.as_mut()).await {
                Event::Reload => {
                    self.reload().await;
                }
                Event::Reopen => {
                    self.recorder.reopen();
                    event!(Info, "log files reopened");
                }
                Event::Certificates => self.reloader.refresh_certificates().await,
                Event::Drain(why) => return self.drain(why, &mut signals).await,
                Event::HandOver => {
                    // A successor that hangs must not keep this process from ending when it is told to.
                    let given = tokio::select! {
                        given = self.hand_over() => given,
                        _ = signals.terminate.recv() => return self.drain("SIGTERM", &mut signals).await,
                        _ = signals.interrupt.recv() => return self.drain("SIGINT", &mut signals).await,
                    };
                    if given {
                        return self.drain("hand-over", &mut signals).await;
                    }
                }
                Event::Command(Command::Reload(reply)) => {
                    // Whoever asked may have gone; the log has the outcome as well.
                    let _ = reply.send(self.reload().await);
                }
                Event::Command(Command::Drain) => return self.drain("admin", &mut signals).await,
            }
            watch = self.rewatch(watch);
            certificates = self.watch_certificates(certificates);
        }
    }

    fn ready(&self) {
        let snapshot = self.current.pin();
        self.phase.set_ready();
        event!(
            Info,
            "ready",
            version = VERSION,
            routes = snapshot.routes.len(),
            upstreams = snapshot.upstreams.len()
        );
    }

    async fn next(
        &mut self,
        signals: &mut Signals,
        watch: Option<&mut FileWatch>,
        certificates: Option<&mut FileWatch>,
    ) -> Event {
        let changed = async |watch: Option<&mut FileWatch>| match watch {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        };
        let commands = async {
            match self.commands.recv().await {
                Some(command) => command,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = signals.hangup.recv() => Event::Reload,
            _ = signals.terminate.recv() => Event::Drain("SIGTERM"),
            _ = signals.interrupt.recv() => Event::Drain("SIGINT"),
            _ = signals.quit.recv() => Event::HandOver,
            _ = signals.user1.recv() => Event::Reopen,
            () = changed(watch) => Event::Reload,
            () = changed(certificates) => Event::Certificates,
            command = commands => Event::Command(command),
        }
    }

    async fn reload(&self) -> Outcome {
        self.reloader.reload().await
    }

    fn file_watch(&self) -> Option<FileWatch> {
        if !self.current.pin().config.watch {
            return None;
        }
        match FileWatch::new() {
            Ok(mut watch) => {
                watch.follow(&self.reloader.files());
                Some(watch)
            }
            Err(error) => {
                log::error!("cannot watch the configuration: {error}; reload with SIGHUP");
                None
            }
        }
    }

    /// A reload may have read other files, or turned `watch` on or off.
    fn rewatch(&self, watch: Option<FileWatch>) -> Option<FileWatch> {
        match watch {
            Some(mut watch) if self.current.pin().config.watch => {
                watch.follow(&self.reloader.files());
                Some(watch)
            }
            _ => self.file_watch(),
        }
    }

    /// The files of the listeners' certificates are watched whether the configuration is or not: they are renewed by
    /// programs that know nothing of this one.
    fn watch_certificates(&self, watch: Option<FileWatch>) -> Option<FileWatch> {
        let files = self.reloader.certificate_files();
        if files.is_empty() {
            return None;
        }
        let mut watch = match watch.map_or_else(FileWatch::new, Ok) {
            Ok(watch) => watch,
            Err(error) => {
                log::error!("cannot watch certificates: {error}; SIGHUP has them read again");
                return None;
            }
        };
        watch.follow(&files);
        Some(watch)
    }

    /// Give the listeners to the successor. True once it serves.
    async fn hand_over(&self) -> bool {
        // The successor goes on where this process stops.
        self.canaries.save();
        let config = self.current.pin().config.clone();
        let (path, patience) = (socket_path(&config), config.upgrade.timeout.into());
        let mut sockets = self.listeners.sockets();
        sockets.extend(self.admin.as_ref().and_then(|admin| admin.duplicate().ok()));
        event!(Info, "handing over", listeners = sockets.len(), socket = path.display());
        let given = tokio::task::spawn_blocking(move || Handover::give(&path, &sockets, patience)).await;
        match given {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                log::error!("{error}; serving on");
                false
            }
            Err(panic) => {
                log::error!("hand-over failed: {panic}; serving on");
                false
            }
        }
    }

    /// Stop accepting, finish what is in flight, and end as soon as it is done or `grace` is over. A second signal
    /// ends it at once.
    async fn drain(&mut self, why: &'static str, signals: &mut Signals) {
        let config = self.current.pin().config.clone();
        self.judging.abort();
        // A successor has read the progress already, and goes its own way.
        if why != "hand-over" {
            self.canaries.save();
        }
        self.phase.set_draining();
        event!(Info, "draining", why = why, grace = config.shutdown.grace);
        let again = async {
            tokio::select! {
                _ = signals.terminate.recv() => {}
                _ = signals.interrupt.recv() => {}
            }
        };
        let drained = async {
            if why == "hand-over" {
                self.listeners.leave_files();
                // The successor answers on this socket now, and it alone.
                if let Some(admin) = &self.admin {
                    admin.close();
                }
            } else {
                tokio::time::sleep(config.shutdown.unready_for.into()).await;
            }
            self.listeners.close();
            self.listeners.drained(config.shutdown.grace.into()).await
        };
        tokio::select! {
            left = drained => event!(Info, "stopped", connections_cut = left),
            () = again => event!(Warn, "stopped at once by a second signal"),
        }
    }
}
