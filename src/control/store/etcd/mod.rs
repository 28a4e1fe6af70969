//! The store of several replicas: etcd. Each replica has all of it in memory, reads from there, and hears of changes by a
//! watch; what it changes it writes here first. etcd being away costs nothing but registrations.
//!
//! A heartbeat is no write, and no instance has a lease: leases end in crowds and keep an etcd busy, and an etcd that
//! comes back after a while would have ended them all. A replica has one, which says that it lives (`session`). Whose
//! instance's clock is kept where is in `owner`, what stands at a key in `record`, how it is written in `write`, and how it is
//! heard of in `list` and `watch`. Configurations that gateways take are in `configs`.

mod configs;
mod layout;
mod list;
mod owner;
mod record;
mod session;
mod watch;
mod write;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use etcd_client::Client;
use tokio::sync::{mpsc, watch as channel};

pub(crate) use self::configs::Replicated;
use self::layout::Layout;
pub(crate) use self::{
    owner::{Keeper, Keys},
    record::Record,
    write::{Fate, Ticket},
};
use super::Gone;
use crate::{
    config::EtcdStore,
    control::{instance::Instance, peers::Passing, registration::Ttls, registry::Registry},
    observe::metrics::StoreMetrics,
};

/// Writes that may wait. Beyond, a registration is refused: etcd does not keep up.
const MOST_WAITING: usize = 10_000;
/// Keys that are remembered to have been warned of.
const MOST_TOLD: usize = 1_000;

/// What a replica has of the store beside what is registered.
pub(crate) struct Shared {
    /// Of this process: its successor is another one, and knows none of its clocks.
    me: Arc<str>,
    advertise: Mutex<String>,
    settings: EtcdStore,
    layout: Layout,
    ttls: Ttls,
    queue: mpsc::Sender<write::Op>,
    queued: Mutex<Option<mpsc::Receiver<write::Op>>>,
    session: channel::Sender<Option<Session>>,
    /// The number of a session that a call has found to be of no use.
    broken: channel::Sender<u64>,
    was_read: channel::Sender<bool>,
    /// All up to this revision was heard.
    reached: channel::Sender<u64>,
    not_removed: Mutex<Vec<Arc<str>>>,
    passing: Passing,
    unreadable: Mutex<HashSet<String>>,
    configs: configs::Configs,
    metrics: StoreMetrics,
}

/// One that works, as far as is known. Cheap to clone.
#[derive(Clone)]
struct Session {
    number: u64,
    client: Client,
    lease: i64,
}

/// What was written at one revision.
#[derive(Debug, PartialEq)]
pub(crate) struct Batch {
    pub(crate) revision: u64,
    pub(crate) news: Vec<News>,
    /// Of configurations, and of gateways that take them.
    pub(crate) configs: Vec<configs::Entry>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum News {
    /// Its instance's revision is that of the key.
    Put(Record),
    Removed {
        service: Arc<str>,
        id: Arc<str>,
        gone: Gone,
    },
    ReplicaCame {
        id: Arc<str>,
        advertise: Arc<str>,
    },
    ReplicaGone(Arc<str>),
    /// What stands at the key of `id` is none of ours.
    Unreadable {
        id: Arc<str>,
        revision: u64,
    },
    Leader(Option<Arc<str>>),
}

/// All that the store has, as of one revision.
pub(crate) struct Listing {
    pub(crate) epoch: u64,
    pub(crate) revision: u64,
    pub(crate) records: Vec<Record>,
    /// Keys of instances with something else in them, and the keys' revisions.
    pub(crate) unreadable: Vec<(Arc<str>, u64)>,
    /// Where each is reached.
    pub(crate) replicas: HashMap<Arc<str>, Arc<str>>,
    pub(crate) leader: Option<Arc<str>>,
    /// Without what stands there, where that is known.
    pub(crate) configs: Vec<configs::Entry>,
}

impl Listing {
    /// Of all instances, readable or not.
    pub(crate) fn ids(&self) -> HashSet<Arc<str>> {
        let readable = self.records.iter().map(|record| &record.instance.id);
        readable.chain(self.unreadable.iter().map(|(id, _)| id)).cloned().collect()
    }
}

/// What the store is to one who followed it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Continuity {
    /// Nobody did.
    First,
    Same,
    /// It was restored from a backup, or is another one.
    Broken,
}

impl Shared {
    pub(crate) fn new(settings: &EtcdStore, advertise: &str, ttls: Ttls, metrics: StoreMetrics) -> Shared {
        let (queue, queued) = mpsc::channel(MOST_WAITING);
        metrics.up(false);
        let me: Arc<str> = uuid::Uuid::now_v7().to_string().into();
        let layout = Layout::new(&settings.prefix);
        Shared {
            configs: configs::Configs::new(&me, &layout),
            me,
            advertise: Mutex::new(advertise.to_owned()),
            settings: settings.clone(),
            layout,
            ttls,
            queue,
            queued: Mutex::new(Some(queued)),
            session: channel::Sender::new(None),
            broken: channel::Sender::new(0),
            was_read: channel::Sender::new(false),
            reached: channel::Sender::new(0),
            not_removed: Mutex::default(),
            passing: Passing::default(),
            unreadable: Mutex::default(),
            metrics,
        }
    }

    /// Keeps `registry` current, until `closing`: others are told then that this replica is gone.
    pub(crate) async fn run(self: Arc<Self>, registry: Arc<Registry>, closing: channel::Receiver<bool>) {
        let queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(queued) = queued else { return };
        tokio::spawn(write::run(self.clone(), queued));
        tokio::spawn(configs::publish(self.clone()));
        session::run(self, registry, closing).await;
    }

    pub(crate) fn me(&self) -> &Arc<str> {
        &self.me
    }

    /// Where this process listens: port 0 of what is advertised stands for that.
    pub(crate) fn listens_at(&self, port: u16) {
        let mut advertise = self.advertise.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = advertise.strip_suffix(":0") {
            *advertise = format!("{host}:{port}");
        }
    }

    /// What the key of this replica says.
    fn place(&self) -> Result<Vec<u8>, String> {
        let advertise = self.advertise.lock().unwrap_or_else(PoisonError::into_inner);
        record::place(&advertise).map_err(|error| error.to_string())
    }

    /// Heartbeats that are to be passed on.
    pub(crate) fn passing(&self) -> &Passing {
        &self.passing
    }

    pub(crate) fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    pub(crate) fn is_up(&self) -> bool {
        self.session.borrow().is_some()
    }

    pub(crate) fn was_read(&self) -> bool {
        *self.was_read.borrow()
    }

    pub(crate) async fn opened(&self) {
        let _ = self.was_read.subscribe().wait_for(|was_read| *was_read).await;
    }

    /// All up to `revision` is in memory.
    pub(crate) fn reached(&self, revision: u64) {
        self.reached.send_if_modified(|reached| {
            let is_more = revision > *reached;
            *reached = revision.max(*reached);
            is_more
        });
    }

    pub(crate) async fn wait_for(&self, revision: u64, most: Duration) {
        let mut reached = self.reached.subscribe();
        let _ = tokio::time::timeout(most, reached.wait_for(|reached| *reached >= revision)).await;
    }

    /// `instance`, with this replica as its keeper, where its key is as of `revision`; 0 is one that is not there.
    pub(crate) fn put(&self, instance: Instance, revision: u64) -> Ticket {
        let action = match record::text(&instance, &self.me) {
            Ok(text) => write::Action::Put(text),
            Err(error) => return Ticket::refused(instance.into(), error.to_string()),
        };
        self.write(Arc::new(instance), revision, action)
    }

    pub(crate) fn remove(&self, instance: &Arc<Instance>, revision: u64, gone: Gone) -> Ticket {
        self.write(instance.clone(), revision, write::Action::Delete(gone))
    }

    fn write(&self, instance: Arc<Instance>, revision: u64, action: write::Action) -> Ticket {
        let key = self.layout.instance(&instance.name, &instance.id);
        let (op, ticket) = write::Op::new(key, instance, revision, action);
        if let Err(mpsc::error::TrySendError::Full(op) | mpsc::error::TrySendError::Closed(op)) =
            self.queue.try_send(op)
        {
            self.settle(op, Fate::Unavailable("too many changes wait for etcd".to_owned()));
        }
        ticket
    }

    /// Tell whoever waits what became of it.
    fn settle(&self, op: write::Op, fate: Fate) {
        self.metrics.operation(op.word(), fate.word());
        if op.is_removal() && !matches!(fate, Fate::Written(_)) {
            self.not_removed.lock().unwrap_or_else(PoisonError::into_inner).push(op.id());
        }
        op.answer(fate);
    }

    /// Removals that were not written, since the last time.
    pub(crate) fn not_removed(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut *self.not_removed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A key with something that is none of ours: it is passed over, and told once.
    fn unreadable(&self, key: &[u8], why: &str) {
        self.metrics.unreadable();
        let key = String::from_utf8_lossy(key).into_owned();
        let mut told = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MOST_TOLD && told.insert(key.clone()) {
            let hint = "remove the key, or write it as a replica does";
            log::warn!("etcd has something at {key:?} that is passed over: {} ({hint})", why.escape_debug());
        }
    }
}

#[cfg(test)]
impl Shared {
    /// As if there were a session.
    pub(crate) async fn pretend(&self) {
        let client =
            Client::connect(["http://127.0.0.1:1"], None).await.expect("it connects when it is used");
        self.session.send_replace(Some(Session { number: 1, client, lease: 1 }));
        self.was_read.send_replace(true);
    }

    /// What is to be written: the word for it, the instance, and the revision of its key.
    pub(crate) fn take_queued(&self) -> Vec<(&'static str, Arc<Instance>, u64)> {
        let mut queued = self.queued.lock().unwrap();
        let queued = queued.as_mut().unwrap();
        std::iter::from_fn(|| queued.try_recv().ok()).map(|op| op.parts()).collect()
    }

    pub(crate) fn not_written(&self, id: &Arc<str>) {
        self.not_removed.lock().unwrap().push(id.clone());
    }
}
