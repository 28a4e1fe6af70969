//! Where keys come from, and that they stay fresh.
//!
//! A task reads them again: on schedule, and when a token names a key that is not among them, as it does after a rotation.
//! All requests that wait for that wait for one read, and there is not another before the cooldown has passed, so no client
//! can have the issuer asked more often. What cannot be read leaves the keys that are known, for as long as
//! `max_stale` says.
//!
//! However many filters use the same keys, they are read once: each has a [`Subscription`] with a schedule of its own.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{ACCEPT, USER_AGENT},
};
use openssl::sha::sha256;
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    fetch::{self, Change, Undiscovered},
    filter::{
        Background,
        builtin::jwt::{
            key::{Key, KeySet},
            schedule::{Schedule, Schedules},
        },
    },
    observe::{log::event, metrics::SourceMetrics},
};

/// A key set may have so many bytes.
const LARGEST: usize = 1024 * 1024;
/// A file is looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// After a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// As good as for ever.
const LONGEST_COOLDOWN: Duration = Duration::from_secs(365 * 24 * 3600);

pub(crate) struct Source {
    shared: Arc<Shared>,
    task: OnceLock<AbortHandle>,
}

/// A source as those filters use it that have the same schedule.
pub(crate) struct Subscription {
    source: Arc<Source>,
    schedule: Arc<Schedule>,
    /// For when its keys are too old.
    nothing: Arc<Held>,
}

/// Keys that may be used.
pub(crate) struct Held {
    /// `None` before the first were read, and where they are too old.
    pub keys: Option<KeySet>,
    /// Another one with other keys.
    pub generation: u64,
}

struct Shared {
    origin: Origin,
    schedules: Schedules,
    held: ArcSwap<Held>,
    made: Instant,
    /// When they were last read: milliseconds since then.
    read_at: AtomicU64,
    /// The last read has failed.
    fails: AtomicBool,
    flight: watch::Sender<Flight>,
    metrics: Option<SourceMetrics>,
    name: String,
}

pub(crate) enum Origin {
    /// It never changes.
    Fixed,
    File {
        path: PathBuf,
        form: Form,
    },
    Remote {
        from: Remote,
        client: Arc<fetch::Trusting>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Remote {
    KeySet(Uri),
    /// Whose document says where the key set is.
    Issuer(fetch::Issuer),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    Pem,
    Jwks,
}

struct Flight {
    /// Keys are being read, or are about to be.
    pending: bool,
    /// Reads so far.
    reads: u64,
    /// When a token may ask for one again.
    next: Option<Instant>,
}

/// Why keys could not be read: a metric's label, and what an operator is told.
struct Trouble(&'static str, String);

impl Source {
    pub(crate) fn fixed(keys: KeySet) -> Source {
        let held = Held { keys: Some(keys), generation: 0 };
        Source::new(Origin::Fixed, held, false, String::new(), None)
    }

    /// `keys` are what the file holds now.
    pub(crate) fn file(path: PathBuf, form: Form, keys: KeySet, metrics: SourceMetrics) -> Source {
        let name = path.display().to_string();
        metrics.keys(keys.len());
        metrics.unusable(keys.unusable.len());
        metrics.succeeded(SystemTime::now());
        let held = Held { keys: Some(keys), generation: 0 };
        Source::new(Origin::File { path, form }, held, false, name, Some(metrics))
    }

    /// `name` is the URL as it may be shown.
    pub(crate) fn remote(
        from: Remote,
        client: Arc<fetch::Trusting>,
        name: &str,
        metrics: SourceMetrics,
    ) -> Source {
        let held = Held { keys: None, generation: 0 };
        Source::new(Origin::Remote { from, client }, held, true, name.to_owned(), Some(metrics))
    }

    fn new(
        origin: Origin,
        held: Held,
        pending: bool,
        name: String,
        metrics: Option<SourceMetrics>,
    ) -> Source {
        let (flight, _) = watch::channel(Flight { pending, reads: 0, next: None });
        let shared = Shared {
            origin,
            schedules: Schedules::new(),
            held: ArcSwap::from_pointee(held),
            made: Instant::now(),
            read_at: AtomicU64::new(0),
            fails: AtomicBool::new(false),
            flight,
            metrics,
            name,
        };
        Source { shared: Arc::new(shared), task: OnceLock::new() }
    }
}

impl Subscription {
    pub(crate) fn new(source: Arc<Source>, schedule: Schedule) -> Subscription {
        let schedule = source.shared.schedules.join(schedule);
        // Whatever was verified by keys that are too old now is verified no longer.
        let nothing = Arc::new(Held { keys: None, generation: u64::MAX });
        Subscription { source, schedule, nothing }
    }

    fn shared(&self) -> &Shared {
        &self.source.shared
    }

    #[cfg(test)]
    pub(crate) fn reads_with(&self, other: &Subscription) -> bool {
        Arc::ptr_eq(&self.source, &other.source)
    }

    pub(crate) fn held(&self) -> Guard<Arc<Held>> {
        match self.shared().fails.load(Relaxed) && self.shared().age() >= self.schedule.max_stale {
            true => Guard::from_inner(self.nothing.clone()),
            false => self.shared().held.load(),
        }
    }

    /// Whether waiting may bring other keys.
    pub(crate) fn may_change(&self) -> bool {
        let flight = self.shared().flight.borrow();
        !matches!(self.shared().origin, Origin::Fixed) && (flight.pending || flight.is_due(Instant::now()))
    }

    /// How often the keys were read so far. Asked before the keys are looked at, for `changed`.
    pub(crate) fn reads(&self) -> u64 {
        self.shared().flight.borrow().reads
    }

    /// Waits for keys that are being read, and has them read unless that was done a moment ago, or after `seen`. False
    /// when there is nothing to wait for, or the deadline has passed.
    pub(crate) async fn changed(&self, seen: u64, deadline: Instant) -> bool {
        if matches!(self.shared().origin, Origin::Fixed) {
            return false;
        }
        let mut flights = self.shared().flight.subscribe();
        let cooldown = self.shared().schedules.joint().cooldown;
        let now = Instant::now();
        let mut awaited = None;
        self.shared().flight.send_if_modified(|flight| {
            if flight.reads > seen {
                awaited = Some(seen);
                return false;
            }
            let order = !flight.pending && flight.is_due(now);
            if order {
                flight.pending = true;
                flight.next = Some(now + cooldown.min(LONGEST_COOLDOWN));
            }
            awaited = flight.pending.then_some(flight.reads);
            order
        });
        let Some(reads) = awaited else { return false };
        let read = timeout_at(deadline, flights.wait_for(|flight| flight.reads > reads)).await;
        matches!(read, Ok(Ok(_)))
    }
}

impl Flight {
    fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }
}

impl Background for Source {
    fn start(&self) {
        if !matches!(self.shared.origin, Origin::Fixed) {
            self.task.get_or_init(|| tokio::spawn(self.shared.clone().keep()).abort_handle());
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Shared {
    async fn keep(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut seen = [0; 32];
        let (mut said_away, mut said_old) = (false, false);
        if let Some(keys) = &self.held.load().keys {
            self.tell_unusable(keys);
        }
        // What the file holds was read before.
        let mut due = matches!(self.origin, Origin::File { .. }).then_some(LOOK);
        loop {
            if let Some(due) = due {
                self.wait(due).await;
                self.flight.send_modify(|flight| flight.pending = true);
            }
            match self.read(&mut seen).await {
                Ok(read) => {
                    pause = FIRST_PAUSE;
                    said_old = false;
                    if let Some(keys) = read {
                        self.replace(keys);
                    }
                    self.is_read();
                    if std::mem::take(&mut said_away) {
                        event!(Info, "keys of the token issuer can be read again", source = self.name);
                    }
                    // Not all gateways at the same moment.
                    due = Some(match self.origin {
                        Origin::Remote { .. } => {
                            self.schedules.joint().refresh.mul_f64(0.9 + fastrand::f64() / 10.0)
                        }
                        _ => LOOK,
                    });
                }
                Err(Trouble(result, why)) => {
                    self.count(result);
                    self.fails.store(true, Relaxed);
                    if !std::mem::replace(&mut said_away, true) {
                        event!(
                            Warn,
                            "keys of the token issuer cannot be read, trying again",
                            source = self.name,
                            why = why
                        );
                    }
                    let joint = self.schedules.joint();
                    let fresh_for = joint.max_stale.saturating_sub(self.age());
                    if fresh_for.is_zero() {
                        self.are_too_old(&mut said_old);
                    }
                    if self.age() >= self.schedules.longest_stale() {
                        self.are_not_used();
                    }
                    let again = pause.mul_f64(0.5 + fastrand::f64() / 2.0).min(joint.refresh);
                    due = Some(if fresh_for.is_zero() { again } else { again.min(fresh_for) });
                    pause = match self.origin {
                        Origin::Remote { .. } => (pause * 2).min(LONGEST_PAUSE),
                        _ => LOOK,
                    };
                }
            }
            self.flight.send_modify(|flight| {
                flight.pending = false;
                flight.reads += 1;
            });
        }
    }

    /// Until a token asks for a read, or `due` is over; or less, where somebody joins who wants it sooner.
    async fn wait(&self, due: Duration) {
        let began = Instant::now();
        let mut flights = self.flight.subscribe();
        let mut joined = self.schedules.joined();
        loop {
            let sooner = match self.origin {
                Origin::Remote { .. } => self.schedules.joint().refresh,
                _ => due,
            };
            tokio::select! {
                _ = flights.wait_for(|flight| flight.pending) => return,
                () = sleep(due.min(sooner).saturating_sub(began.elapsed())) => return,
                Ok(()) = joined.changed() => {}
            }
        }
    }

    fn is_read(&self) {
        self.read_at.store(millis(self.made.elapsed()), Relaxed);
        self.fails.store(false, Relaxed);
    }

    /// Since they were last read.
    fn age(&self) -> Duration {
        self.made.elapsed().saturating_sub(Duration::from_millis(self.read_at.load(Relaxed)))
    }

    fn count(&self, result: &'static str) {
        if let Some(metrics) = &self.metrics {
            metrics.fetched(result);
        }
    }

    fn replace(&self, keys: KeySet) {
        self.count("success");
        if let Some(metrics) = &self.metrics {
            metrics.keys(keys.len());
            metrics.unusable(keys.unusable.len());
            metrics.succeeded(SystemTime::now());
        }
        let held = self.held.load();
        let is_same = held.keys.as_ref().is_some_and(|held| held.fingerprint == keys.fingerprint);
        let is_told = held.keys.as_ref().is_some_and(|held| held.unusable == keys.unusable);
        if !is_told {
            self.tell_unusable(&keys);
        }
        if is_same && is_told {
            return;
        }
        if !is_same {
            event!(Info, "keys of the token issuer have changed", source = self.name, keys = keys.len());
        }
        let generation = held.generation + u64::from(!is_same);
        self.held.store(Arc::new(Held { keys: Some(keys), generation }));
    }

    fn tell_unusable(&self, keys: &KeySet) {
        const MOST: usize = 10;
        if keys.unusable.is_empty() {
            return;
        }
        let told: Vec<String> = keys.unusable.iter().take(MOST).map(ToString::to_string).collect();
        event!(
            Warn,
            "keys of the token issuer cannot be used, the others are",
            source = self.name,
            unusable = keys.unusable.len(),
            why = told.join("; ")
        );
    }

    /// For one of those who use them at least.
    fn are_too_old(&self, said: &mut bool) {
        if self.held.load().keys.is_none() || std::mem::replace(said, true) {
            return;
        }
        event!(Warn, "keys of the token issuer are too old to be used (see max_stale)", source = self.name);
    }

    fn are_not_used(&self) {
        if let Some(metrics) = &self.metrics {
            metrics.keys(0);
        }
    }

    /// `None` where a file is as it was `seen`.
    async fn read(&self, seen: &mut [u8; 32]) -> Result<Option<KeySet>, Trouble> {
        match &self.origin {
            Origin::Fixed => Ok(None),
            Origin::File { path, form } => {
                let (path, form) = (path.clone(), *form);
                let text = tokio::task::spawn_blocking(move || read_file(&path)).await;
                let text = text.map_err(|error| Trouble("read", error.to_string()))?;
                let text = text.map_err(|why| Trouble("read", why))?;
                let digest = sha256(&text);
                if *seen == digest {
                    return Ok(None);
                }
                let keys = parse(&text, form).map_err(|why| Trouble("parse", why.to_owned()))?;
                *seen = digest;
                Ok(Some(keys))
            }
            Origin::Remote { from, client } => {
                self.follow_authorities(client);
                let client = client.client();
                // The issuer is asked each time: it may have moved its keys.
                let discovered = match from {
                    Remote::KeySet(url) => return self.fetch(url, &client).await.map(Some),
                    Remote::Issuer(issuer) => issuer.discover(&client, self.schedules.joint().timeout).await,
                };
                let url = discovered.and_then(|metadata| metadata.endpoint("jwks_uri"));
                let url = url.map_err(|Undiscovered { code, why }| Trouble(code, why))?;
                self.fetch(&url, &client).await.map(Some)
            }
        }
    }

    async fn fetch(&self, url: &Uri, client: &fetch::Client) -> Result<KeySet, Trouble> {
        let request = Request::get(url)
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, "tidegate")
            .body(Bytes::new())
            .map_err(|error| Trouble("url", error.to_string()))?;
        let timeout = self.schedules.joint().timeout;
        let answer = client.send(request, timeout, LARGEST).await;
        let answer = answer.map_err(|error| Trouble(error.code(), error.to_string()))?;
        if answer.status() != StatusCode::OK {
            return Err(Trouble("status", format!("the issuer answers with status {}", answer.status())));
        }
        KeySet::jwks(answer.body()).map_err(|why| Trouble("parse", why.to_owned()))
    }

    fn follow_authorities(&self, client: &fetch::Trusting) {
        match client.look(std::time::Instant::now()) {
            None => {}
            Some(Change::Taken) => event!(Info, "new authorities are trusted for keys", source = self.name),
            Some(Change::Refused(why)) => {
                event!(
                    Warn,
                    "authorities for keys cannot be read, those before stay",
                    source = self.name,
                    problem = why
                )
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// # Errors
///
/// Why it cannot be used.
pub(crate) fn parse(text: &[u8], form: Form) -> Result<KeySet, &'static str> {
    match form {
        Form::Pem => Key::pem(text).map(|key| KeySet::of(vec![key])),
        Form::Jwks => KeySet::jwks(text),
    }
}

/// # Errors
///
/// Why it cannot be read.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST as u64 + 1).read_to_end(&mut text));
    match read {
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        Ok(length) if length > LARGEST => Err(format!("{} is larger than 1 MiB", path.display())),
        Ok(_) => Ok(text),
    }
}
