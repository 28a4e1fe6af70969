//! The life of the running process: it serves until a signal, the admin API or a changed file tells it something.

use std::{os::fd::OwnedFd, pin::pin, time::Duration};

use tokio::{sync::oneshot, time::timeout};

use super::{
    Running, VERSION,
    meeting::socket_path,
    received::has_something_to_serve,
    signals::{Signals, Told},
    upgrade::{SECOND, Upgrade},
    watch::{Changed, FileWatch},
};
use crate::{
    accept::{Handover, HandoverError, Successor},
    admin::{Command, Outcome, Upgraded},
    control::join::Order,
    observe::log::event,
};

/// What the process is told to do.
enum Event {
    /// By a signal, or a change that was seen.
    Reload(&'static str),
    /// The configuration may have changed before it was watched.
    CatchUp,
    Drain(&'static str),
    HandOver,
    Upgrade,
    Reopen,
    Certificates,
    Command(Command),
    /// By the control plane.
    Received(Order),
}

/// Who has a configuration read again that has changed.
const WATCH: &str = "watch";
/// At the end, what waits for collectors may take so long to reach them.
const LAST_EXPORTS: Duration = Duration::from_secs(5);
/// For those who watch.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A process that is told to end while it gives its sockets away takes at most this long to do so.
const TO_GIVE: Duration = Duration::from_secs(5);
/// What was asked of the admin API when a successor took over may take so long to be answered.
const TO_ANSWER: Duration = Duration::from_millis(100);

impl Running {
    /// Serve until drained.
    pub(super) async fn serve(mut self, mut signals: Signals) {
        let mut watch = self.file_watch();
        let mut certificates = self.watch_certificates(None);
        // Not before signals and changes are heard: whoever reads this may send one at once.
        match has_something_to_serve(&self.current.pin()) {
            true => self.ready(),
            false => self.wait(),
        }
        self.membership.announce(&self.current);
        loop {
            match self.next(&mut signals, watch.as_mut(), certificates.as_mut()).await {
                Event::Reload(by) => drop(self.reload(by).await),
                Event::CatchUp => self.reloader.catch_up(WATCH).await,
                Event::Reopen => {
                    self.recorder.reopen();
                    event!(Info, "log files reopened");
                }
                Event::Certificates => self.reloader.refresh_certificates().await,
                Event::Drain(why) => return self.drain(why, Left::ToNobody, &mut signals).await,
                Event::HandOver => {
                    if let Some((why, left)) = self.hand_over(&mut signals).await {
                        return self.drain(why, left, &mut signals).await;
                    }
                }
                // Whoever asked over the admin API has begun it there.
                Event::Upgrade if !self.phase.begin_upgrade() => log::error!("{SECOND}"),
                Event::Upgrade => {
                    if let Some((why, left)) = self.upgrade_and_tell(None, &mut signals).await {
                        return self.drain(why, left, &mut signals).await;
                    }
                }
                Event::Command(Command::Upgrade(reply)) => {
                    if let Some((why, left)) = self.upgrade_and_tell(Some(reply), &mut signals).await {
                        return self.drain(why, left, &mut signals).await;
                    }
                }
                Event::Command(Command::Reload(by, reply)) => {
                    // Whoever asked may have gone; the log has the outcome as well.
                    let _ = reply.send(self.reload(&by).await);
                }
                Event::Command(Command::Order(order, reply)) => {
                    // As above.
                    let _ = reply.send(self.reloader.order(&order).await);
                }
                Event::Received(order) => self.reloader.receive(order, self.held.as_ref()).await,
                Event::Command(Command::Drain) => {
                    return self.drain("admin", Left::ToNobody, &mut signals).await;
                }
            }
            watch = self.rewatch(watch);
            certificates = self.watch_certificates(certificates);
            match (self.phase.is_ready(), has_something_to_serve(&self.current.pin())) {
                (false, true) => self.ready(),
                (true, false) => self.wait(),
                _ => {}
            }
        }
    }

    async fn reload(&self, by: &str) -> Outcome {
        // While nothing is served, the service manager waits for the word that something is.
        let is_ready = self.phase.is_ready();
        if is_ready {
            self.notify.reloading();
        }
        let outcome = self.reloader.reload(by).await;
        if is_ready {
            let what = match &outcome {
                Outcome::Reloaded(_) | Outcome::Unchanged => "reloaded",
                Outcome::Rejected(_) => "a configuration was rejected",
            };
            self.notify.ready(&self.current.pin(), what);
        }
        outcome
    }

    /// Start a successor and hand over to it. `None`: this process serves on; else why it does not.
    async fn upgrade_and_tell(
        &self,
        reply: Option<oneshot::Sender<Upgraded>>,
        signals: &mut Signals,
    ) -> Option<(&'static str, Left)> {
        let (told, left) = match self.upgrade(signals).await {
            Upgrade::Done(process) => {
                (Upgraded::Done(process.as_raw_nonzero().get()), Some(("upgrade", Left::ToSuccessor)))
            }
            Upgrade::Failed(why) => (Upgraded::Failed(why), None),
            Upgrade::Ended(why) => (
                Upgraded::Failed(format!("the gateway was told to end ({why})")),
                Some((why, Left::ToNobody)),
            ),
        };
        self.phase.end_upgrade();
        if let Some(reply) = reply {
            // Whoever asked may have gone.
            let _ = reply.send(told);
        }
        left
    }

    /// There is nothing to serve yet.
    fn wait(&self) {
        self.phase.set_waiting();
        self.journal.phase(self.phase.word());
        self.notify.status("waiting for a configuration of the control plane");
        event!(Warn, "not ready: nothing to serve before the control plane gives a configuration");
    }

    fn ready(&mut self) {
        let snapshot = self.current.pin();
        self.phase.set_ready();
        self.journal.phase(self.phase.word());
        self.claim_pid_file();
        self.notify.ready(&snapshot, "serving since");
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
        let received = self.membership.next_order();
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
            told = signals.next() => match told {
                Told::Reload => Event::Reload("SIGHUP"),
                Told::Reopen => Event::Reopen,
                Told::HandOver => Event::HandOver,
                Told::Upgrade => Event::Upgrade,
                Told::End(why) => Event::Drain(why),
            },
            changed = changed(watch) => match changed {
                Changed::Seen => Event::Reload(WATCH),
                Changed::Perhaps => Event::CatchUp,
            },
            _ = changed(certificates) => Event::Certificates,
            command = commands => Event::Command(command),
            order = received => Event::Received(order),
        }
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

    /// Give the listeners to the successor. `None`: this process serves on; else why it does not.
    async fn hand_over(&self, signals: &mut Signals) -> Option<(&'static str, Left)> {
        let patience = self.current.pin().config.upgrade.timeout.into();
        let mut giving = pin!(self.give());
        let (given, told) = tokio::select! {
            biased;
            given = &mut giving => (given?, None),
            // A successor that has the sockets already has to hear that it may serve.
            why = signals.end() => match timeout(TO_GIVE, giving).await {
                Ok(Some(given)) => (given, Some(why)),
                Ok(None) | Err(_) => return Some((why, Left::ToNobody)),
            },
        };
        let ending = async {
            match told {
                Some(why) => why,
                None => signals.end().await,
            }
        };
        // A successor that hangs must not keep this process from ending when it is told to.
        let why = tokio::select! {
            ready = given.ready(patience) => match ready {
                Ok(()) => "hand-over",
                Err(error) => {
                    log::error!("{error}; serving on");
                    return None;
                }
            },
            why = ending => why,
        };
        match self.let_serve(&given) {
            Ok(()) => {
                if let Some(process) = given.process() {
                    self.notify.main_is(process);
                }
                Some((why, Left::ToSuccessor))
            }
            Err(error) => {
                log::error!("{error}; serving on");
                (why != "hand-over").then_some((why, Left::ToNobody))
            }
        }
    }

    /// From here on the successor serves.
    ///
    /// # Errors
    ///
    /// It has ended: this process serves on.
    pub(super) fn let_serve(&self, successor: &Successor) -> Result<(), HandoverError> {
        // It goes on where this process stops, and may write to the same files.
        self.canaries.give_away();
        if let Some(control) = &self.control {
            control.plane.give_away();
        }
        self.membership.give_away();
        let gone = successor.go();
        if gone.is_err() {
            self.canaries.take_back();
            if let Some(control) = &self.control {
                control.plane.take_back();
            }
            self.membership.take_back();
        }
        gone
    }

    /// What a successor gets, by key. What is lost with this process is said.
    pub(super) fn sockets(&self) -> Vec<(String, OwnedFd)> {
        let mut sockets = self.listeners.sockets();
        sockets.extend(self.admin.as_ref().and_then(|admin| admin.duplicate().ok()));
        sockets.extend(self.control.as_ref().and_then(|control| control.socket.duplicate().ok()));
        self.reloader.warn_of_loss();
        sockets
    }

    /// The file with the process's number, where one is wanted: from now on it names this one.
    fn claim_pid_file(&mut self) {
        if let Some(file) = &mut self.pid_file
            && let Err(error) = file.claim()
        {
            log::error!("cannot write {}: {error} (serving all the same)", file.path().display());
        }
    }

    async fn give(&self) -> Option<Successor> {
        let config = self.current.pin().config.clone();
        let (path, patience) = match socket_path(&config) {
            Ok(path) => (path, config.upgrade.timeout.into()),
            Err(error) => {
                log::error!("{error}; serving on");
                return None;
            }
        };
        let sockets = self.sockets();
        event!(Info, "handing over", listeners = sockets.len(), socket = path.display());
        let given = tokio::task::spawn_blocking(move || Handover::give(&path, &sockets, patience)).await;
        match given {
            Ok(Ok(successor)) => Some(successor),
            Ok(Err(error)) => {
                log::error!("{error}; serving on");
                None
            }
            Err(panic) => {
                log::error!("hand-over failed: {panic}; serving on");
                None
            }
        }
    }

    /// Stop accepting, finish what is in flight, and end as soon as it is done or `grace` is over. A second signal
    /// ends it at once.
    async fn drain(&mut self, why: &'static str, left: Left, signals: &mut Signals) {
        let config = self.current.pin().config.clone();
        self.judging.abort();
        self.membership.receive_no_more();
        self.canaries.save();
        self.phase.set_draining();
        self.journal.phase(self.phase.word());
        if let Some(control) = &self.control {
            control.plane.drain();
        }
        if let Left::ToNobody = left {
            let (unready_for, grace) = (config.shutdown.unready_for, config.shutdown.grace);
            self.notify.stopping(Duration::from(unready_for) + Duration::from(grace));
        }
        event!(Info, "draining", why = why, grace = config.shutdown.grace);
        let drained = async {
            match left {
                Left::ToSuccessor => {
                    self.listeners.leave();
                    // The successor answers on this socket now, and it alone.
                    if let Some(admin) = &self.admin {
                        admin.close();
                    }
                    // Here nothing changes any more: whoever watches is to watch there.
                    if let Some(control) = &self.control {
                        control.socket.close();
                        control.plane.end();
                    }
                }
                Left::ToNobody => {
                    // Others hear that it goes while it still serves.
                    let heard = self.membership.leave().await;
                    tokio::time::sleep(heard.max(config.shutdown.unready_for.into())).await;
                    self.listeners.close();
                }
            }
            self.listeners.drained(config.shutdown.grace.into()).await
        };
        let cut = tokio::select! {
            left = drained => Some(left),
            _ = signals.end() => None,
        };
        if let Some(control) = &self.control {
            control.plane.leave().await;
        }
        match cut {
            Some(left) => event!(Info, "stopped", connections_cut = left),
            None => return event!(Warn, "stopped at once by a second signal"),
        }
        // Whoever watches hears that this is the end.
        if let Some(admin) = &self.admin {
            admin.close();
            admin.streams_ended(LAST_WORDS).await;
        }
        self.membership.write();
        if let Left::ToSuccessor = left {
            // Whoever asked for it over the admin API, or for something else meanwhile, is being answered.
            tokio::time::sleep(TO_ANSWER).await;
        }
        let exporting = self.exporting.clone();
        // Nobody waits for it but the collectors.
        let _ = tokio::task::spawn_blocking(move || exporting.finish(LAST_EXPORTS)).await;
    }
}

/// Who accepts connections after this process.
#[derive(Clone, Copy)]
enum Left {
    ToNobody,
    ToSuccessor,
}
