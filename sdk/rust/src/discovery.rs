//! A service that is followed: changes come as server-sent events, and what is known stays while nobody answers.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    select,
    sync::watch,
    time::{sleep, sleep_until, timeout},
};

use crate::{
    backoff::{Backoff, LONGEST},
    cache::{Cache, Page},
    error::Error,
    events::{Event, Events},
    instance::Instance,
    pick::pick,
    thread::Thread,
    transport::{Transport, encode},
};

/// The control plane says something every 15 s,
const SILENCE: Duration = Duration::from_secs(45);
/// and the first thing at once.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// A stream that has lived for so long was a good one.
const GOOD: Duration = Duration::from_secs(60);

/// The instances of a service, by id.
pub type Instances = Arc<[Arc<Instance>]>;

/// The instances of a service as they are known, kept up to date in the background. Cheap to clone, and never waits to answer.
#[derive(Clone)]
pub struct Discovery {
    instances: watch::Receiver<Instances>,
    /// None before the first answer.
    health: watch::Receiver<Option<Result<(), Error>>>,
    _thread: Arc<Thread>,
}

pub(crate) async fn start(
    transport: Arc<Transport>,
    thread: Arc<Thread>,
    service: &str,
    most: usize,
) -> Result<Discovery, Error> {
    let (found, instances) = watch::channel(Instances::default());
    let (told, mut health) = watch::channel(None);
    let follower = Follower {
        transport,
        service: service.to_owned(),
        cache: Cache::new(most),
        last: None,
        instances: found.into(),
        health: told,
        backoff: Backoff::default(),
        rng: fastrand::Rng::new(),
        has_warned: false,
    };
    thread.spawn(follower.run());
    let first = health.wait_for(Option::is_some).await.map(|health| health.clone());
    match first {
        Ok(Some(Err(error))) if error.is_permanent() => Err(error),
        _ => Ok(Discovery { instances, health, _thread: thread }),
    }
}

impl Discovery {
    /// All that are known, also those that are to get no requests: see [`Instance::takes_requests`].
    pub fn instances(&self) -> Instances {
        self.instances.borrow().clone()
    }

    /// One of those that take requests, at random and by weight. None where there is none.
    pub fn pick(&self) -> Option<Arc<Instance>> {
        pick(&self.instances.borrow(), |total| fastrand::u64(..total))
    }

    /// Waits for a change, and answers what is known then; none once the client is gone. A change before the first call is
    /// one, too.
    pub async fn changed(&mut self) -> Option<Instances> {
        self.instances.changed().await.ok()?;
        Some(self.instances.borrow_and_update().clone())
    }

    /// Why the control plane cannot be heard. What is known is what it said last.
    pub fn error(&self) -> Option<Error> {
        self.health.borrow().clone()?.err()
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.instances().iter().map(|instance| &instance.address)).finish()
    }
}

struct Follower {
    transport: Arc<Transport>,
    service: String,
    cache: Cache,
    /// The event from which the control plane is to go on.
    last: Option<String>,
    instances: Arc<watch::Sender<Instances>>,
    health: watch::Sender<Option<Result<(), Error>>>,
    backoff: Backoff,
    rng: fastrand::Rng,
    has_warned: bool,
}

impl Follower {
    async fn run(mut self) {
        let instances = self.instances.clone();
        select! {
            () = self.follow() => {}
            () = instances.closed() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            let began = Instant::now();
            let path = format!("/v1/watch?name={}", encode(&self.service));
            let ended = match self.transport.open(&path, self.last.as_deref()).await {
                Ok(stream) => self.read(stream).await,
                Err(error) => Err(error),
            };
            if began.elapsed() > GOOD {
                self.backoff.reset();
            }
            self.show();
            self.judge(&ended);
            self.transport.turn_away();
            let after = ended.err().map_or(Duration::ZERO, |error| error.retry_after());
            sleep(self.backoff.next(LONGEST, &mut self.rng).max(after)).await;
        }
    }

    /// Until it ends, which a good one does after some minutes.
    async fn read(&mut self, mut stream: Incoming) -> Result<(), Error> {
        self.cache.connected(Instant::now());
        if self.last.is_some() {
            // There may be nothing new to hear.
            self.is_well();
        }
        let mut events = Events::default();
        loop {
            let silence = if self.last.is_some() { SILENCE } else { FIRST_WORD };
            let due = self.cache.due();
            let frame = select! {
                frame = timeout(silence, stream.frame()) => frame,
                () = until(due) => {
                    self.cache.tidy(Instant::now());
                    self.show();
                    continue;
                }
            };
            let frame = match frame {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Err(Error::Unreachable(format!("the stream broke off: {error}")));
                }
                Ok(None) => return Ok(()),
                Err(_) => return Err(Error::Unreachable(format!("nothing was heard for {silence:?}"))),
            };
            let Some(bytes) = frame.data_ref() else { continue };
            let whole = events.read(bytes).map_err(|why| Error::Unreadable(why.into()))?;
            let mut is_whole = false;
            for event in whole {
                is_whole = self.take(event)?;
            }
            if is_whole {
                self.show();
                self.is_well();
            }
        }
    }

    /// False in the middle of a whole answer.
    fn take(&mut self, event: Event) -> Result<bool, Error> {
        let unreadable = |error: serde_json::Error| Error::Unreadable(error.to_string());
        let mut is_part = false;
        match event.kind.as_str() {
            "sync" => {
                let page: Page = serde_json::from_str(&event.data).map_err(unreadable)?;
                is_part = !page.end;
                self.cache.page(page, Instant::now());
            }
            kind @ ("registered" | "updated" | "held" | "deregistered" | "expired") => {
                let instance = serde_json::from_str(&event.data).map_err(unreadable)?;
                self.cache.event(kind, instance, Instant::now());
            }
            // A word of a newer control plane.
            _ => {}
        }
        // Only what was taken in moves it.
        self.last = event.id.or(self.last.take());
        if self.cache.is_full && !std::mem::replace(&mut self.has_warned, true) {
            log::warn!("{} has more instances than are kept (raise `most_instances`)", self.service);
        }
        Ok(!is_part)
    }

    fn is_well(&self) {
        if *self.health.borrow() != Some(Ok(())) {
            log::info!("following {}", self.service);
            self.health.send_replace(Some(Ok(())));
        }
    }

    fn judge(&mut self, ended: &Result<(), Error>) {
        let Err(error) = ended else { return };
        if matches!(error, Error::Refused { status: 400, .. }) {
            // If it is what we go on from that it cannot read, begin anew.
            self.last = None;
        }
        // Once, however often it is tried.
        if !matches!(*self.health.borrow(), Some(Err(_))) {
            log::warn!(
                "{} cannot be followed, and is tried again; what is known stays: {error}",
                self.service
            );
        }
        self.health.send_replace(Some(Err(error.clone())));
    }

    fn show(&self) {
        self.instances.send_if_modified(|shown| {
            let visible = self.cache.visible();
            let has_changed = visible[..] != shown[..];
            if has_changed {
                *shown = visible.into();
            }
            has_changed
        });
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
