//! What the gateways of a fleet share: values and locks in a Redis or an etcd of the operator's. Whatever stands there is encrypted with
//! a secret, since keys are among it. A lock ends by itself some time after its holder is gone.
//!
//! Keys are ours, and hold nothing that a stranger has written.

mod etcd;
mod redis;
mod secret;

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use self::{etcd::Etcd, redis::Redis, secret::Secret};
use crate::{
    config::EtcdMembers,
    names::Resolve,
    observe::{
        log::event,
        metrics::{FleetMetrics, Metrics},
    },
    redis::{Answers, Servers, Watcher},
};

#[derive(Clone, PartialEq)]
pub struct Settings {
    pub by: Sharing,
    /// Of all keys.
    pub prefix: String,
    /// What all is encrypted with.
    pub secret: String,
    /// Of one question.
    pub timeout: Duration,
}

#[derive(Clone, PartialEq)]
pub enum Sharing {
    Redis(Box<Servers>),
    Etcd(EtcdMembers),
}

impl Sharing {
    /// Which store, without its password.
    pub(crate) fn place(&self) -> String {
        match self {
            Sharing::Redis(servers) => servers.label(),
            Sharing::Etcd(members) => members.endpoints.join(","),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Settings").field(&self.prefix).finish()
    }
}

/// How long something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    ForGood,
    /// An hour at least.
    Shortly,
}

/// It is held until it is dropped, or its holder is gone.
pub(crate) type Lock = Box<dyn Any + Send>;

/// What stands at a key.
pub(crate) enum Found {
    Nothing,
    Value(Vec<u8>),
    /// It was written with another secret, or is damaged.
    Unreadable,
}

/// What goes wrong is said in words.
pub(crate) struct Fleet {
    store: Box<dyn Store>,
    secret: Secret,
    /// It has not answered, and why: until then it is not asked again, since a start with a hundred names would wait a hundred times.
    away: Mutex<Option<(Instant, String)>>,
}

/// Chains with their keys, and more than anybody has.
const ANSWERS: Answers = Answers { most: 2 * 1024 * 1024, for_each_byte: usize::MAX };
const SHORTLY: Duration = Duration::from_secs(3600);
const REST: Duration = Duration::from_secs(2);
/// Whoever refuses at once may be asked again at once.
const SLOW: Duration = Duration::from_millis(500);

/// Bytes by key.
#[async_trait]
trait Store: Send + Sync {
    /// For messages.
    fn name(&self) -> &'static str;

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, String>;

    async fn put(&self, key: &str, value: Vec<u8>, keep: Keep) -> Result<(), String>;

    /// Out of the way of `key`; where it stands now.
    async fn set_aside(&self, key: &str) -> Result<String, String>;

    async fn remove(&self, key: &str) -> Result<(), String>;

    /// `None` while somebody else has it.
    async fn lock(&self, key: &str) -> Result<Option<Lock>, String>;
}

impl Fleet {
    /// Connects nowhere yet. `lock_for` is longer than anybody holds a lock who lives.
    pub(crate) fn open(
        settings: &Settings,
        lock_for: Duration,
        names: &Arc<dyn Resolve>,
        metrics: &Metrics,
    ) -> Fleet {
        let Settings { by, prefix, secret, timeout } = settings;
        let times = (*timeout, lock_for);
        let store: Box<dyn Store> = match by {
            Sharing::Etcd(members) => Box::new(Etcd::new(members.clone(), prefix, times)),
            Sharing::Redis(servers) => {
                let watch = Watch { store: by.place(), metrics: metrics.fleet().clone() };
                let servers = Servers::clone(servers);
                let redis = crate::redis::Redis::new(servers, None, ANSWERS, names.clone(), Arc::new(watch));
                Box::new(Redis::new(redis, prefix, times))
            }
        };
        Fleet { store, secret: Secret::new(secret), away: Mutex::default() }
    }

    /// Of the store, for messages.
    pub(crate) fn name(&self) -> &'static str {
        self.store.name()
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Found, String> {
        let Some(found) = self.asked(self.store.get(key)).await? else {
            return Ok(Found::Nothing);
        };
        Ok(self.secret.decrypt(key, &found).map_or(Found::Unreadable, Found::Value))
    }

    pub(crate) async fn put(&self, key: &str, value: &[u8], keep: Keep) -> Result<(), String> {
        let text = self.secret.encrypt(key, value).map_err(|error| format!("OpenSSL refuses: {error}"))?;
        self.asked(self.store.put(key, text, keep)).await
    }

    /// Where it stands now.
    pub(crate) async fn set_aside(&self, key: &str) -> Result<String, String> {
        self.asked(self.store.set_aside(key)).await
    }

    pub(crate) async fn remove(&self, key: &str) -> Result<(), String> {
        self.asked(self.store.remove(key)).await
    }

    /// `None` while somebody else has it.
    pub(crate) async fn lock(&self, key: &str) -> Result<Option<Lock>, String> {
        self.asked(self.store.lock(&format!("locks/{key}"))).await
    }

    async fn asked<T>(&self, question: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let rest = self.away().clone().filter(|(until, _)| *until > Instant::now());
        if let Some((_, why)) = rest {
            return Err(why);
        }
        let begun = Instant::now();
        let answer = question.await.map_err(|why| format!("{}: {why}", self.store.name()));
        let failed = answer.as_ref().err().filter(|_| begun.elapsed() >= SLOW);
        *self.away() = failed.map(|why| (Instant::now() + REST, why.clone()));
        answer
    }

    fn away(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is told of a Redis.
struct Watch {
    /// Its address, without credentials.
    store: String,
    metrics: FleetMetrics,
}

impl Watcher for Watch {
    fn up(&self, is_new: bool) {
        self.metrics.store_up(&self.store, true);
        if is_new {
            event!(Info, "shared storage is connected", store = self.store);
        }
    }

    fn away(&self, why: &str, is_new: bool) {
        self.metrics.store_up(&self.store, false);
        if is_new {
            event!(Warn, "shared storage is away, trying again", store = self.store, why = why);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.metrics.forget_store(&self.store);
    }
}
