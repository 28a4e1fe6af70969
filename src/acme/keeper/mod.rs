//! Keeps what is wanted: looks what is stored, orders what is missing or due, and puts what it gets where listeners find it.
//!
//! One task lives as long as the process (`run`). For each configuration it looks through the storage (`stored`), and then again and again for
//! what is due (`schedule`). Each order (`ordering`) is a task of its own: it has a CA issue a certificate (`obtain`), or says what
//! has failed (`failures`). CAs that ask for a proof meanwhile are answered by `challenges`.

mod challenges;
mod failures;
mod obtain;
mod ordering;
mod schedule;
mod stored;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinSet,
};

use self::challenges::ProofsElsewhere;
use super::{
    budget::Budgets,
    desk::{AccountDesk, Desk},
    holding::{Held, Holding},
    on_demand::{Demanding, Waiting},
    proofs::Proofs,
    settings::Settings,
};
use crate::{
    names::Resolve,
    observe::metrics::{AcmeMetrics, Metrics},
    policy::{address_block::Ipv6Prefix, fair_share::FairShare},
    tls::{Certificate, Issued},
};

/// Clocks are set: nothing is slept through.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

pub(super) type Id = (Arc<str>, Arc<str>);

pub(crate) struct Keeper {
    names: Arc<dyn Resolve>,
    metrics: Arc<Metrics>,
    runtime: Handle,
    issued: Arc<Issued>,
    proofs: Arc<Proofs>,
    wanted: watch::Sender<Arc<Settings>>,
    /// Of which settings the storage has been looked through.
    looked: watch::Sender<Arc<Settings>>,
    woken: Notify,
    /// That of the settings in force.
    desk: ArcSwapOption<Desk>,
    began: Instant,
    /// Of proofs in the storage.
    lookups: Mutex<FairShare>,
    /// Of the digests by which clients are told apart.
    seed: RandomState,
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub holdings: BTreeMap<Id, Holding>,
    pub waiting: Waiting,
    budgets: Budgets,
    is_running: bool,
}

/// What became of an order for somebody to renew.
pub(crate) enum Renew {
    Begun,
    /// There is no such name.
    Unknown,
}

impl Keeper {
    pub(crate) fn new(names: Arc<dyn Resolve>, metrics: Arc<Metrics>, runtime: Handle) -> Arc<Keeper> {
        let keeper = Arc::new(Keeper {
            names,
            metrics,
            runtime,
            issued: Arc::default(),
            proofs: Arc::default(),
            wanted: watch::Sender::new(Arc::default()),
            looked: watch::Sender::new(Arc::default()),
            woken: Notify::new(),
            desk: ArcSwapOption::empty(),
            began: Instant::now(),
            lookups: Mutex::default(),
            seed: RandomState::new(),
            inner: Mutex::default(),
        });
        keeper.issued.demand_of(Arc::new(Demanding(Arc::downgrade(&keeper))));
        keeper.issued.ask_elsewhere(Arc::new(ProofsElsewhere(Arc::downgrade(&keeper))));
        keeper
    }

    pub(crate) fn issued(&self) -> &Arc<Issued> {
        &self.issued
    }

    /// From now on. What is there already and still wanted goes on.
    pub(crate) fn want(self: &Arc<Self>, settings: &Arc<Settings>) {
        let mut inner = self.lock();
        if *settings == *self.wanted.borrow() {
            return;
        }
        let is_nothing = settings.names.is_empty();
        self.wanted.send_replace(settings.clone());
        if !inner.is_running && !is_nothing {
            inner.is_running = true;
            self.runtime.spawn(Arc::clone(self).run());
        }
    }

    /// The storage has been looked through for what is wanted.
    pub(crate) async fn settled(&self) {
        let wanted = self.wanted.borrow().clone();
        if wanted.names.is_empty() {
            return;
        }
        // It cannot be gone: this has it.
        let _ = self.looked.subscribe().wait_for(|looked| Arc::ptr_eq(looked, &wanted)).await;
    }

    /// Have a name's certificate renewed now, at whatever CA is first.
    pub(crate) fn renew(&self, name: &str) -> Renew {
        let mut inner = self.lock();
        let is_meant = |holding: &Holding| holding.names.iter().any(|own| **own == *name);
        let found = inner.holdings.iter_mut().filter(|(_, holding)| is_meant(holding));
        let mut is_known = false;
        for (_, holding) in found {
            is_known = true;
            (holding.is_wanted, holding.is_woken) = (true, true);
            holding.not_before = None;
            holding.attempts.wake();
        }
        drop(inner);
        self.wake();
        if is_known { Renew::Begun } else { Renew::Unknown }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By which clients are told apart. IPv6 by its network: whoever has one address there has all of it.
    pub(super) fn digest_of(&self, client: IpAddr) -> u64 {
        self.seed.hash_one(Ipv6Prefix::default().block(client))
    }

    /// Since the beginning, in nanoseconds.
    pub(super) fn passed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.wanted.borrow().clone()
    }

    /// In the settings in force.
    pub(super) fn account(&self, name: &str) -> Option<Arc<AccountDesk>> {
        self.desk.load().as_ref()?.accounts.get(name).cloned()
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// There is something to order.
    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }

    pub(super) fn acme(&self) -> &AcmeMetrics {
        self.metrics.acme()
    }

    async fn run(self: Arc<Self>) {
        let mut wanted = self.wanted.subscribe();
        let mut orders = JoinSet::new();
        loop {
            let settings = wanted.borrow_and_update().clone();
            let desk = Arc::new(Desk::new(settings.clone(), &self.names, &self.metrics));
            self.desk.store(Some(desk.clone()));
            self.issued.watch_for_others(desk.proves_for_others());
            self.begin(&desk).await;
            self.looked.send_replace(settings);
            loop {
                let until = self.step(&desk, &mut orders);
                let left = until.duration_since(SystemTime::now()).unwrap_or_default();
                tokio::select! {
                    changed = wanted.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
                    Some(_) = orders.join_next() => {}
                    () = self.woken.notified() => {}
                }
            }
        }
    }
}

/// The name that it is told by.
fn leading(id: &Id) -> &str {
    id.1.trim_end_matches('+')
}

/// Each is renewed at a time of its own.
pub(super) fn held_of(certificate: &Arc<Certificate>, directory: String, ask_at: SystemTime) -> Held {
    Held::new(certificate, directory, ask_at, fastrand::f64())
}

pub(super) fn place(what: &str, (account, name): &Id) -> String {
    format!("{what}/{account}/{name}")
}
