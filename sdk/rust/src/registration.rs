//! A registered instance: renewed in the background, and deregistered when its guard is closed or dropped.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use hyper::Method;
use serde::{Deserialize, Serialize};
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    backoff::{self, Backoff},
    duration,
    error::Error,
    instance::Health,
    service::Service,
    thread::Thread,
    transport::{Transport, encode},
};

/// Where the control plane does not say.
const USUAL: Duration = Duration::from_secs(10);
/// A control plane that asks for more would be flooded.
const SHORTEST: Duration = Duration::from_millis(100);
/// For the last word.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Keeps an instance registered. Dropped, it deregisters it and waits for the answer, two seconds at most; [`Registration::close`] does
/// so without blocking, and also waits until nothing new comes.
pub struct Registration {
    wishes: watch::Sender<Wishes>,
    status: watch::Receiver<Status>,
    said: Mutex<mpsc::Receiver<()>>,
    thread: Arc<Thread>,
}

/// How a registration is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Nobody has answered yet.
    Pending,
    /// The last heartbeat was heard.
    #[non_exhaustive]
    Registered {
        /// The instance's.
        id: String,
    },
    /// The last heartbeat was not heard. Another one is on its way.
    Failing(Error),
    /// Deregistered; it is to serve on until its drain is over.
    Draining,
    /// It is over: deregistered, or left to expire because of this.
    Left(Option<Error>),
}

/// What the application wants. What it has not said is not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Wishes {
    health: Option<Health>,
    weight: Option<u16>,
    leave: bool,
}

#[derive(Serialize)]
struct Heartbeat {
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Health>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
}

/// The answer to a registration and to a heartbeat.
#[derive(Deserialize)]
struct Renewed {
    id: String,
    #[serde(default)]
    heartbeat_every: String,
}

pub(crate) async fn start(
    transport: Arc<Transport>,
    thread: Arc<Thread>,
    service: Service,
) -> Result<Registration, Error> {
    let (wishes, wanted) = watch::channel(Wishes::default());
    let (told, mut status) = watch::channel(Status::Pending);
    let (last_word, said) = mpsc::sync_channel(1);
    let task = Task {
        transport,
        service,
        wishes: wanted,
        status: told,
        last_word,
        id: None,
        every: USUAL,
        backoff: Backoff::default(),
        rng: fastrand::Rng::new(),
    };
    thread.spawn(task.run());
    let first = status.wait_for(|status| *status != Status::Pending).await.map(|status| status.clone());
    match first {
        Ok(Status::Failing(error)) if error.is_permanent() => Err(error),
        _ => Ok(Registration { wishes, status, said: Mutex::new(said), thread }),
    }
}

impl Registration {
    /// How it is at present.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Tells the control plane at once, and again should it forget.
    pub fn set_health(&self, health: Health) {
        self.want(|wishes| wishes.health = Some(health));
    }

    /// Tells the control plane at once, and again should it forget. 0 gets no requests.
    pub fn set_weight(&self, weight: u16) {
        self.want(|wishes| wishes.weight = Some(weight));
    }

    /// Deregisters, and returns when the drain is over: stop serving then.
    ///
    /// # Errors
    ///
    /// The control plane could not be told, so that the instance expires after its TTL.
    pub async fn close(mut self) -> Result<(), Error> {
        self.want(|wishes| wishes.leave = true);
        let left = self.status.wait_for(|status| matches!(status, Status::Left(_))).await;
        match left.as_deref() {
            Ok(Status::Left(Some(error))) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Waits until the process is told to end (SIGTERM or SIGINT, Ctrl-C elsewhere), and then does what [`Registration::close`]
    /// does. From then on these signals end the process no more: the application does, when this returns.
    ///
    /// # Errors
    ///
    /// As with `close`, or the signals cannot be heard.
    pub async fn close_on_signal(self) -> Result<(), Error> {
        let (heard, mut told) = watch::channel(None);
        self.thread.spawn(async move {
            let outcome =
                signal().await.map_err(|error| Error::Setup(format!("cannot hear signals: {error}")));
            heard.send_replace(Some(outcome));
        });
        let outcome = told.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        if let Ok(Some(outcome)) = outcome {
            outcome?;
        }
        self.close().await
    }

    fn want(&self, change: impl Fn(&mut Wishes)) {
        self.wishes.send_if_modified(|wishes| {
            let before = *wishes;
            change(wishes);
            *wishes != before
        });
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.want(|wishes| wishes.leave = true);
        let said = self.said.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Otherwise the process might end before anybody has heard it.
        let _ = said.recv_timeout(LAST_WORD);
    }
}

struct Task {
    transport: Arc<Transport>,
    service: Service,
    wishes: watch::Receiver<Wishes>,
    status: watch::Sender<Status>,
    /// That the control plane was told, or could not be.
    last_word: mpsc::SyncSender<()>,
    /// As the control plane calls it; none while it does not know it.
    id: Option<String>,
    every: Duration,
    backoff: Backoff,
    rng: fastrand::Rng,
}

impl Task {
    async fn run(mut self) {
        let mut farewell = self.wishes.clone();
        loop {
            let wishes = *self.wishes.borrow_and_update();
            if wishes.leave || self.wishes.has_changed().is_err() {
                return self.leave().await;
            }
            let is_known = self.id.is_some();
            let outcome = select! {
                outcome = self.renew(wishes) => outcome,
                // A heartbeat that nobody answers does not keep the farewell waiting. A registration does: it may be
                // under way, and what is to be deregistered is in its answer.
                _ = farewell.wait_for(|wishes| wishes.leave), if is_known => continue,
            };
            let (wait, is_well) = self.judge(outcome);
            self.pause(wait, is_well).await;
        }
    }

    async fn renew(&mut self, wishes: Wishes) -> Result<Renewed, Error> {
        if let Some(id) = &self.id {
            let path = format!("/v1/services/{}/heartbeat", encode(id));
            let beat = Heartbeat { health: wishes.health, weight: wishes.weight };
            let answer = self.transport.send(Method::PUT, &path, json(&beat)?).await;
            if !answer.as_ref().is_err_and(Error::is_not_registered) {
                return answer;
            }
            log::info!("the control plane does not know {id} any more: registering it again");
            self.id = None;
        }
        self.service.health = wishes.health.unwrap_or(self.service.health);
        self.service.weight = wishes.weight.or(self.service.weight);
        self.transport.send(Method::POST, "/v1/services", json(&self.service)?).await
    }

    /// How long to wait, and whether all is well.
    fn judge(&mut self, outcome: Result<Renewed, Error>) -> (Duration, bool) {
        let was_well = matches!(*self.status.borrow(), Status::Registered { .. });
        let name = &self.service.name;
        match outcome {
            Ok(renewed) => {
                if !was_well {
                    log::info!("{name} is registered as {}", renewed.id);
                }
                self.every = duration::parse(&renewed.heartbeat_every).unwrap_or(USUAL).max(SHORTEST);
                self.backoff.reset();
                self.id = Some(renewed.id.clone());
                self.status.send_replace(Status::Registered { id: renewed.id });
                (backoff::about(self.every, &mut self.rng), true)
            }
            Err(error) => {
                // Once, however often it is tried.
                if !matches!(*self.status.borrow(), Status::Failing(_)) {
                    log::warn!("{name} cannot be registered or renewed, and is tried again: {error}");
                }
                // Never longer than a heartbeat takes: a control plane that is back must hear it in time.
                let wait = self.backoff.next(self.every, &mut self.rng).max(error.retry_after());
                self.status.send_replace(Status::Failing(error));
                (wait, false)
            }
        }
    }

    /// What the application wants cuts it short; while nobody answers, only its farewell does.
    async fn pause(&mut self, wait: Duration, is_well: bool) {
        let changed = async {
            loop {
                let gone = self.wishes.changed().await.is_err();
                if gone || is_well || self.wishes.borrow().leave {
                    return;
                }
            }
        };
        select! {
            () = sleep(wait) => {}
            () = changed => {}
        }
    }

    async fn leave(mut self) {
        let told = self.deregister().await;
        let drain = self.service.drain;
        if told.is_ok() {
            self.status.send_replace(Status::Draining);
        }
        // Nobody waits any more: that is no fault.
        let _ = self.last_word.try_send(());
        match told {
            Ok(()) => {
                sleep(drain).await;
                self.status.send_replace(Status::Left(None));
            }
            Err(error) => {
                log::warn!(
                    "{} cannot be deregistered, and expires after its ttl: {error}",
                    self.service.name
                );
                self.status.send_replace(Status::Left(Some(error)));
            }
        }
    }

    async fn deregister(&mut self) -> Result<(), Error> {
        // What was never registered from here is not ours to remove, whatever its id.
        let Some(id) = self.id.take() else { return Ok(()) };
        let path = format!("/v1/services/{}?drain={}", encode(&id), duration::write(self.service.drain));
        let end = Instant::now() + LAST_WORD;
        let mut failed = Error::Unreachable("the answer took too long".into());
        loop {
            let request = self.transport.send::<()>(Method::DELETE, &path, Vec::new());
            match timeout_at(end, request).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if error.is_permanent() => return Err(error),
                Ok(Err(error)) => failed = error,
                Err(_) => return Err(failed),
            }
            let wait = self.backoff.next(LAST_WORD, &mut self.rng);
            if timeout_at(end, sleep(wait)).await.is_err() {
                return Err(failed);
            }
        }
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Setup(format!("this cannot be sent: {error}")))
}

#[cfg(unix)]
async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
