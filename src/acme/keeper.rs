//! Keeps what is wanted: looks what is stored, orders what is missing or due, and puts what it gets where listeners find it.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinSet,
};

use super::{
    account::Account,
    ari,
    budget::Budgets,
    ca::Ca,
    desk::{AccountDesk, Desk},
    holding::{Failed, Held, Holding, Record, Tried, read},
    on_demand::{Demanding, Waiting},
    order::{self, Obtained, Wanted},
    proofs::{Proofs, token_in},
    publish::Publisher,
    settings::{Challenge, Settings},
    storage::Storage,
    trouble::{Reason, Trouble},
};
use crate::{
    fleet::{Keep, Lock},
    names::Resolve,
    observe::{
        log::event,
        metrics::{AcmeMetrics, Metrics},
    },
    policy::{
        bucket::{Bucket, Limit},
        issuance::{Attempts, Next},
        renewal::Life,
    },
    tls::{Certificate, Elsewhere, Issued, Want},
};

/// Whoever else has the lock may have a certificate by then.
const LOCKED: Duration = Duration::from_secs(3);
/// Clocks are set: nothing is slept through.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Of challenges in the storage, and how long one may take.
const LOOKUPS: Limit = Limit::per_second(20);
const LOOKUP: Duration = Duration::from_secs(3);

pub(super) type Id = (Arc<str>, Arc<str>);
/// Of the certificate that is to be replaced: its life, its CA's directory, and how that calls it.
type Before = (Life, String, Option<String>);

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
    lookups: Bucket,
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
            lookups: Bucket::default(),
            inner: Mutex::default(),
        });
        keeper.issued.demand_of(Arc::new(Demanding(Arc::downgrade(&keeper))));
        keeper.issued.ask_elsewhere(Arc::new(ProofsElsewhere(Arc::downgrade(&keeper))));
        keeper
    }

    pub(crate) fn issued(&self) -> &Arc<Issued> {
        &self.issued
    }

    /// Whether a path is that of a challenge, under way or not.
    pub(crate) fn is_challenge(path: &str) -> bool {
        token_in(path).is_some()
    }

    /// What is to be answered to a request for this path, if it is that of a challenge under way: here, or at another gateway.
    pub(crate) async fn answer(&self, path: &str) -> Option<Arc<str>> {
        let token = token_in(path)?;
        let answer = match self.proofs.answer(token) {
            Some(answer) => Some(answer),
            None => self.answer_elsewhere(token).await,
        };
        match answer {
            Some(_) => self.acme().challenge_answered(Challenge::Http01.word()),
            None => self.acme().challenge_unknown(Challenge::Http01.word()),
        }
        answer
    }

    /// Strangers may ask for anything: the storage is asked so often, and no more often.
    async fn answer_elsewhere(&self, token: &str) -> Option<Arc<str>> {
        let found = self.challenge_elsewhere(token).await?;
        String::from_utf8(found).ok().map(Into::into)
    }

    /// What another gateway has written down of a challenge that is under way there.
    async fn challenge_elsewhere(&self, what: &str) -> Option<Vec<u8>> {
        let desk = self.desk.load_full()?;
        if !self.lookups.decide(&LOOKUPS, self.passed(), 1).allowed {
            return None;
        }
        let key = format!("challenges/{what}");
        for account in desk.accounts.values() {
            let loaded = tokio::time::timeout(LOOKUP, account.storage.load(&key)).await;
            if let Ok(Ok(Some(found))) = loaded {
                return Some(found);
            }
        }
        None
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

    /// Look what is stored of what is wanted, and let go of the rest.
    async fn begin(&self, desk: &Desk) {
        let ordered = desk.settings.names.iter().flat_map(|(account, ordered)| {
            ordered.iter().map(|(key, names)| ((account.clone(), key.clone()), names.clone()))
        });
        let wanted: BTreeMap<Id, Arc<[Arc<str>]>> = ordered.collect();
        let kept: BTreeSet<Id> = {
            let mut guard = self.lock();
            let Inner { holdings, waiting, .. } = &mut *guard;
            holdings.retain(|id, holding| {
                let is_kept = match holding.want {
                    Want::Named => wanted.contains_key(id),
                    // One that is configured now is found in the storage.
                    Want::OnDemand => desk.orders_on_demand(&id.0) && !wanted.contains_key(id),
                };
                if !is_kept {
                    waiting.end(id);
                }
                is_kept
            });
            holdings.keys().cloned().collect()
        };
        self.issued.retain(|account, name| kept.contains(&(Arc::from(account), Arc::from(name))));
        self.show_at_hand(desk, &wanted).await;
        for (id, names) in wanted {
            if let Some(holding) = self.lock().holdings.get_mut(&id) {
                holding.names = names;
                continue;
            }
            let Some(account) = desk.accounts.get(&id.0) else { continue };
            let attempts = load_attempts(&id, account).await.unwrap_or_default();
            let held = self.load(&id, &names, account.storage.as_ref(), SystemTime::now()).await;
            let holding = Holding { attempts, ..Holding::new(names, Want::Named, held) };
            self.lock().holdings.insert(id, holding);
        }
        self.count(desk);
    }

    /// A storage may take its time to answer, or not to. Until then copies are shown.
    async fn show_at_hand(&self, desk: &Desk, wanted: &BTreeMap<Id, Arc<[Arc<str>]>>) {
        for (id, names) in wanted {
            if self.lock().holdings.contains_key(id) {
                continue;
            }
            let Some(account) = desk.accounts.get(&id.0) else { continue };
            if let Some(copy) = account.storage.at_hand(&place("certificates", id)).await
                && let Ok((certificate, _)) = read(names, &copy)
            {
                self.issued.put(&id.0, &id.1, certificate, Want::Named);
            }
        }
    }

    /// What is stored of one, shown from now on. What cannot be used is put aside, and ordered anew.
    async fn load(
        &self,
        id: &Id,
        names: &[Arc<str>],
        storage: &dyn Storage,
        ask_at: SystemTime,
    ) -> Option<Held> {
        let key = place("certificates", id);
        let stored = match storage.load(&key).await {
            Ok(stored) => stored?,
            Err(trouble) => {
                event!(Error, "a stored certificate cannot be read", name = leading(id), why = trouble);
                return None;
            }
        };
        match read(names, &stored) {
            Ok((certificate, record)) => {
                let held = held_of(&certificate, record.directory, ask_at);
                self.issued.put(&id.0, &id.1, certificate, Want::Named);
                Some(held)
            }
            Err(why) => {
                let moved = storage.set_aside(&key).await;
                event!(
                    Error,
                    "a stored certificate is not used",
                    name = leading(id),
                    why = why,
                    moved = moved
                );
                None
            }
        }
    }

    /// Begin the orders that are due, as many as may be, and answer when to look again.
    fn step(self: &Arc<Self>, desk: &Arc<Desk>, orders: &mut JoinSet<()>) -> SystemTime {
        let now = SystemTime::now();
        let mut next = now + LONGEST_SLEEP;
        let mut guard = self.lock();
        let inner = &mut *guard;
        for ((account, name), holding) in &mut inner.holdings {
            let Some(of) = desk.accounts.get(account) else { continue };
            if holding.is_busy {
                continue;
            }
            let later = holding.not_before.filter(|until| *until > now);
            if let Some(until) = later {
                next = next.min(until);
                continue;
            }
            if holding.is_due(of.settings.renewal, now) {
                let ca = match holding.attempts.next(of.cas.len(), now) {
                    Next::Try(ca, _) => ca,
                    // Another gateway may have a certificate meanwhile: that is looked for now and then.
                    Next::Wait(_) if of.storage.is_shared() => 0,
                    Next::Wait(until) => {
                        next = next.min(until);
                        continue;
                    }
                };
                if orders.len() < of.settings.at_once.get() {
                    holding.is_busy = true;
                    orders.spawn(self.clone().order(of.clone(), (account.clone(), name.clone()), ca));
                }
                continue;
            }
            let Some(held) = &mut holding.held else { continue };
            next = next.min(held.due(of.settings.renewal));
            if held.ask_at <= now {
                held.ask_at = now + ari::AFTER_FAILURE;
                if let Some(id) = &held.id {
                    let (keeper, of) = (self.clone(), of.clone());
                    let (own, id, directory) =
                        ((account.clone(), name.clone()), id.clone(), held.directory.clone());
                    orders.spawn(async move { keeper.ask_when(&of, own, id, &directory).await });
                }
            }
        }
        next
    }

    /// The CA whose certificate it is may have it renewed earlier, or later.
    async fn ask_when(&self, of: &AccountDesk, own: Id, id: String, directory: &str) {
        let Some(ca) = of.cas.iter().find(|ca| ca.settings.directory == directory) else { return };
        let asked = ari::ask(ca, &id).await;
        let now = SystemTime::now();
        let mut inner = self.lock();
        let held = inner.holdings.get_mut(&own).and_then(|holding| holding.held.as_mut());
        let Some(held) = held.filter(|held| held.id.as_deref() == Some(id.as_str())) else { return };
        match asked {
            Ok((window, again)) => {
                held.window = window;
                held.ask_at = now + again;
            }
            Err(trouble) => {
                log::debug!("{} does not say when {} is renewed: {trouble}", ca.settings.name, own.1)
            }
        }
    }

    /// One order, whatever comes of it: also a panic ends it.
    async fn order(self: Arc<Self>, of: Arc<AccountDesk>, id: Id, ca: usize) {
        let storage = of.storage.as_ref();
        let mut turn = Turn { ca, lock: None };
        let tried = self.try_order(&of, storage, &id, &mut turn);
        let tried = AssertUnwindSafe(tried).catch_unwind().await;
        let outcome = tried.unwrap_or_else(|_| Err(Trouble::new(Reason::Internal, "the order has panicked")));
        let now = SystemTime::now();
        let attempts = {
            let mut inner = self.lock();
            // What another gateway orders is soon there. All else may take as long as a budget, and keeps places that others wait for.
            if !matches!(outcome, Ok(Outcome::Elsewhere)) {
                inner.waiting.end(&id);
            }
            let Some(holding) = inner.holdings.get_mut(&id) else { return };
            holding.is_busy = false;
            match outcome {
                Ok(Outcome::NotAllowed) => {
                    inner.holdings.remove(&id);
                    self.issued.remove(&id.0, &id.1);
                    None
                }
                Ok(Outcome::Elsewhere) => {
                    holding.not_before = Some(now + LOCKED);
                    None
                }
                Ok(Outcome::NotYet(wait)) => {
                    holding.not_before = Some(now + wait);
                    None
                }
                Ok(Outcome::Held(held)) => {
                    let had_failed = !holding.attempts.is_new();
                    holding.held = Some(*held);
                    (holding.is_wanted, holding.is_woken) = (false, false);
                    holding.failed = None;
                    holding.attempts.succeeded();
                    had_failed.then(Attempts::default)
                }
                Err(trouble) => {
                    // A storage that fails one gateway says nothing of the CA to the others.
                    let is_of_ca = trouble.reason != Reason::Storage;
                    self.tell_failure(&of, &id, turn.ca, holding, trouble, now);
                    is_of_ca.then(|| holding.attempts.clone())
                }
            }
        };
        if let Some(attempts) = attempts {
            let text = serde_json::to_vec(&Tried { cas: directories(&of), attempts }).unwrap_or_default();
            if let Err(trouble) = storage.save(&place("attempts", &id), &text, Keep::ForGood).await {
                event!(Warn, "failed orders cannot be written down", name = leading(&id), why = trouble);
            }
        }
        // Not before: whoever has it next is to know what has failed.
        drop(turn);
        self.count_states();
    }

    fn tell_failure(
        &self,
        of: &AccountDesk,
        id: &Id,
        ca: usize,
        holding: &mut Holding,
        trouble: Trouble,
        now: SystemTime,
    ) {
        let name = of.cas[ca].settings.name.clone();
        let pace = of.settings.pace;
        let rest = holding.attempts.failed(ca, pace, trouble.retry_after, now, &mut fastrand::Rng::new());
        self.acme().ordered(&id.0, &name, trouble.reason.word());
        // Seconds are enough for whoever reads it.
        let again_in = humantime::format_duration(Duration::from_secs(rest.as_secs()));
        let reason = trouble.reason.word();
        event!(
            Error,
            "no certificate",
            name = leading(id),
            account = id.0,
            ca = name,
            reason = reason,
            why = trouble,
            again_in = again_in
        );
        holding.failed = Some(Failed { at: now, ca: name, trouble });
    }

    async fn try_order(
        &self,
        of: &AccountDesk,
        storage: &dyn Storage,
        id: &Id,
        turn: &mut Turn,
    ) -> Result<Outcome, Trouble> {
        let key = place("certificates", id);
        turn.lock = storage.lock(&key).await?;
        if turn.lock.is_none() {
            return Ok(Outcome::Elsewhere);
        }
        let before = self.lock().holdings.get(id).and_then(|holding| {
            let held = holding.held.as_ref()?;
            Some((held.life, held.directory.clone(), held.id.clone()))
        });
        let (names, is_wanted, want, is_new) = {
            let inner = self.lock();
            let Some(holding) = inner.holdings.get(id) else { return Ok(Outcome::NotAllowed) };
            let is_new = holding.held.is_none() && holding.attempts.is_new();
            (holding.names.clone(), holding.is_wanted, holding.want, is_new)
        };
        let now = SystemTime::now();
        let next = self.next_ca(of, id, now).await;
        // Whoever was asked a moment ago is not asked again, nor before an order that cannot be made yet.
        if want == Want::OnDemand
            && !is_new
            && matches!(next, Next::Try(..))
            && let Some(asking) = &of.asking
        {
            match self.allowed(asking, id).await {
                Some(true) => {}
                Some(false) => return Ok(Outcome::NotAllowed),
                None => return Ok(Outcome::NotYet(LONGEST_SLEEP)),
            }
        }
        // Another gateway may have ordered meanwhile.
        if let Some(stored) = storage.load(&key).await?
            && let Ok((certificate, record)) = read(&names, &stored)
            && certificate.is_for_exactly(&names)
        {
            let ask_at = now + ari::AFTER_FAILURE;
            let found = held_of(&certificate, record.directory, ask_at);
            let is_newer = before.as_ref().is_none_or(|(life, ..)| found.life.from > life.from);
            if is_newer && (is_wanted || found.due(of.settings.renewal) > now) {
                self.issued.put(&id.0, &id.1, certificate, want);
                self.acme().taken(&id.0);
                event!(Info, "certificate taken from the storage", name = leading(id), account = id.0);
                return Ok(Outcome::Held(Box::new(found)));
            }
        }
        let failures = match next {
            Next::Try(ca, failures) => {
                turn.ca = ca;
                failures
            }
            Next::Wait(until) => {
                let wait = until.duration_since(now).unwrap_or_default();
                return Ok(Outcome::NotYet(if storage.is_shared() { wait.min(LONGEST_SLEEP) } else { wait }));
            }
        };
        let is_strangers = want == Want::OnDemand && before.is_none();
        if let Err(wait) = self.take_order(of, is_strangers) {
            self.acme().throttled(&id.0);
            return Ok(Outcome::NotYet(wait));
        }
        self.lock().holdings.get_mut(id).into_iter().for_each(|holding| holding.is_woken = false);
        let ca = &of.cas[turn.ca];
        let Obtained { certificate, .. } =
            self.obtain(of, (id, &names), ca, failures, before.as_ref()).await?;
        let ask_at = now + ari::AFTER_FAILURE;
        let held = held_of(&certificate, ca.settings.directory.clone(), ask_at);
        self.issued.put(&id.0, &id.1, certificate, want);
        self.acme().ordered(&id.0, &ca.settings.name, "issued");
        let ends = humantime::format_rfc3339_seconds(held.life.until);
        event!(
            Info,
            "certificate issued",
            name = leading(id),
            account = id.0,
            ca = ca.settings.name,
            not_after = ends
        );
        Ok(Outcome::Held(Box::new(held)))
    }

    /// A CA counts the failures of all gateways, so they rest together; an operator's word counts once more than that.
    async fn next_ca(&self, of: &AccountDesk, id: &Id, now: SystemTime) -> Next {
        let stored = load_attempts(id, of).await;
        let mut inner = self.lock();
        let Some(holding) = inner.holdings.get_mut(id) else { return Next::Wait(now) };
        // What a storage has not taken is known here alone.
        let is_known_here =
            holding.failed.as_ref().is_some_and(|failed| failed.trouble.reason == Reason::Storage);
        if let Some(stored) = stored.filter(|_| !is_known_here) {
            holding.attempts = stored;
        }
        if holding.is_woken {
            holding.attempts.wake();
        }
        holding.attempts.next(of.cas.len(), now)
    }

    /// # Errors
    ///
    /// The account may not order now; how long until it may.
    fn take_order(&self, of: &AccountDesk, is_strangers: bool) -> Result<(), Duration> {
        let now = self.passed();
        self.lock().budgets.entry(of.name.clone()).or_default().take(&of.settings.orders, is_strangers, now)
    }

    async fn obtain(
        &self,
        of: &AccountDesk,
        (id, names): (&Id, &[Arc<str>]),
        ca: &Ca,
        failures: u32,
        before: Option<&Before>,
    ) -> Result<Obtained, Trouble> {
        let storage = of.storage.as_ref();
        // What has failed once is tried in another way.
        let mut challenges: Vec<Challenge> = of.settings.challenges.clone();
        if names.iter().any(|name| name.starts_with("*.")) {
            challenges.retain(|challenge| *challenge == Challenge::Dns01);
        }
        let turn = (failures as usize).checked_rem(challenges.len()).unwrap_or_default();
        challenges.rotate_left(turn);
        let replaces = before.filter(|(_, directory, _)| *directory == ca.settings.directory);
        let has_ari = ca.directory().await?.renewal_info.is_some();
        let replaces = replaces.and_then(|(.., id)| id.as_deref()).filter(|_| has_ari);
        let wanted = Wanted { names, key: of.settings.key, challenges: &challenges, replaces };
        let hook = of.hook.as_ref();
        let publisher = Publisher { proofs: &self.proofs, issued: &self.issued, hook, storage };
        let ordering = async {
            let account = self.open(of, storage, ca).await?;
            match order::obtain(ca, &account, &wanted, &publisher).await {
                // It may have forgotten an account of long ago: with a new one it may be another matter.
                Err(trouble) if trouble.reason == Reason::AccountRefused => {
                    Account::forget(&of.name, ca, storage).await;
                    let account = self.open(of, storage, ca).await?;
                    order::obtain(ca, &account, &wanted, &publisher).await
                }
                ordered => ordered,
            }
        };
        let ordered = match tokio::time::timeout(of.settings.order_timeout, ordering).await {
            Ok(ordered) => ordered,
            Err(_) => Err(Trouble::new(Reason::Timeout, "the order was not finished in time")),
        };
        let obtained = ordered?;
        let record = Record::of(&obtained, &ca.settings.directory);
        let record = serde_json::to_vec(&record).unwrap_or_default();
        let saved = storage.save(&place("certificates", id), &record, Keep::ForGood).await;
        // It is shown all the same: an order costs more than a disk that is full.
        if let Err(why) = saved {
            let message = "a certificate cannot be kept, and is ordered again after a restart";
            event!(Error, message, name = leading(id), why = why);
        }
        Ok(obtained)
    }

    /// One at a time, so that orders that begin together make one account.
    async fn open(&self, of: &AccountDesk, storage: &dyn Storage, ca: &Ca) -> Result<Account, Trouble> {
        let _opening = of.opening.lock().await;
        Account::open(&of.name, of.settings.email.as_deref(), ca, storage).await
    }
}

/// What TLS asks where a proof is not under way here.
struct ProofsElsewhere(Weak<Keeper>);

impl Elsewhere for ProofsElsewhere {
    fn digest(&self, name: String) -> BoxFuture<'static, Option<[u8; 32]>> {
        let keeper = self.0.upgrade();
        async move { keeper?.challenge_elsewhere(&name).await?.try_into().ok() }.boxed()
    }
}

/// One order's.
struct Turn {
    /// Which is asked.
    ca: usize,
    /// Held until it is written down what has become of the order.
    lock: Option<Lock>,
}

enum Outcome {
    Held(Box<Held>),
    /// Another gateway orders.
    Elsewhere,
    /// No more orders are allowed, or nobody says whether this one is: look again after this.
    NotYet(Duration),
    /// Nobody wants it any more, or nobody may have it.
    NotAllowed,
}

/// `None` where nobody knows of any with these CAs.
async fn load_attempts(id: &Id, of: &AccountDesk) -> Option<Attempts> {
    let stored = of.storage.load(&place("attempts", id)).await.ok().flatten()?;
    let tried: Tried = serde_json::from_slice(&stored).ok()?;
    (tried.cas == directories(of)).then_some(tried.attempts)
}

fn directories(of: &AccountDesk) -> Vec<String> {
    of.cas.iter().map(|ca| ca.settings.directory.clone()).collect()
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
