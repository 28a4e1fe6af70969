//! One life with etcd: a client of one member, a lease that says that this replica lives, and a watch. Whatever goes wrong in
//! it ends it, and the next begins with a new client, which authenticates anew, at the next member. A token that is not
//! accepted any more is told in half a dozen ways, a connection may be half dead, and a lease may have run out meanwhile: a
//! new session is right for all of them, and what was heard before is not read again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use etcd_client::{
    Client, Compare, CompareOp, Error, LeaseKeepAliveStream, LeaseKeeper, PutOptions, ResponseHeader, Txn,
    TxnOp, WatchOptions, WatchRequestSender, WatchResponseStream,
};
use tokio::{
    sync::{mpsc, watch as channel},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tonic::Code;

use super::{
    Batch, Continuity, Listing, News, Session, Shared, configs,
    list::list,
    watch::{Assembly, Heard},
};
use crate::{
    control::registry::Registry,
    etcd::{call, connect, explain},
    policy::backoff::Backoff,
};

/// In seconds. A replica that is not heard of for so long is taken for dead.
const LEASE: i64 = 10;
const KEEP: Duration = Duration::from_secs(3);
/// Before the lease has run out there is time for another session.
const KEPT: Duration = Duration::from_secs(7);
const PROGRESS: Duration = Duration::from_secs(15);
/// A watch that is asked for a sign of life and gives none is dead.
const SILENT: Duration = Duration::from_secs(45);
const SWEEP: Duration = Duration::from_secs(600);
/// A page of a thousand large instances, and what a watch catches up with.
pub(super) const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;
/// Replicas are few: they need not be spread over half a minute as gateways are, and all of it is time without writes.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(5) };
/// After a session that lived for so long, the next failure is the first.
const STEADY: Duration = Duration::from_secs(60);
/// While it goes on failing, it is told so often.
const TOLD: Duration = Duration::from_secs(60);

/// What is known of the store, over sessions.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    cluster: u64,
    term: u64,
    epoch: u64,
    /// The latest of any answer.
    newest: u64,
    /// All up to this was heard. A sign of life does not move it: etcd 3.4 and 3.5 send some before what came earlier.
    heard: u64,
}

impl Seen {
    /// What the store that answers like this is to one who has seen this of it.
    fn continuity(seen: Option<Seen>, answer: Seen) -> Continuity {
        match seen {
            None => Continuity::First,
            Some(seen)
                if answer.cluster == seen.cluster
                    && answer.epoch == seen.epoch
                    && answer.term >= seen.term
                    && answer.newest >= seen.newest =>
            {
                Continuity::Same
            }
            Some(_) => Continuity::Broken,
        }
    }
}

/// Sessions one after the other, until `closing`.
pub(super) async fn run(shared: Arc<Shared>, registry: Arc<Registry>, mut closing: channel::Receiver<bool>) {
    let mut members: Vec<String> = shared.settings.endpoints.clone();
    fastrand::shuffle(&mut members);
    let mut life = Life { shared: shared.clone(), registry, seen: None, number: 0, away: None };
    let (mut failures, mut told) = (0, None::<Instant>);
    for member in members.iter().cycle() {
        let begun = Instant::now();
        let why = tokio::select! {
            why = life.live(member) => why,
            () = ends(&mut closing) => return life.leave().await,
        };
        if life.is_over() {
            shared.metrics.operation("session", "lost");
        } else {
            shared.metrics.operation("session", "failed");
        }
        failures = if begun.elapsed() >= STEADY { 1 } else { failures + 1 };
        if told.is_none_or(|told| told.elapsed() >= TOLD) {
            told = Some(Instant::now());
            let hint = "what is known goes on; nothing new can be registered meanwhile";
            log::warn!("no session with etcd at {member}: {why} ({hint})");
        }
        let wait = BACKOFF.delay(failures, &mut fastrand::Rng::new());
        tokio::select! {
            () = sleep(wait) => {}
            () = ends(&mut closing) => return,
        }
    }
}

async fn ends(closing: &mut channel::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// A call has found the session of this number to be of no use.
async fn breaks(broken: &mut channel::Receiver<u64>, number: u64) {
    let _ = broken.wait_for(|broken| *broken >= number).await;
}

/// Of this replica with the store, over sessions.
struct Life {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    seen: Option<Seen>,
    number: u64,
    /// Since when there is no session.
    away: Option<Instant>,
}

impl Life {
    /// One session; why it is over.
    async fn live(&mut self, member: &str) -> String {
        match self.begin(member).await {
            Ok(open) => self.follow(open).await.err().unwrap_or_default(),
            Err(why) => why,
        }
    }

    /// Whether there was a session.
    fn is_over(&mut self) -> bool {
        self.shared.metrics.up(false);
        let was_there = self.shared.session.send_replace(None).is_some();
        if was_there {
            self.away = Some(Instant::now());
        }
        was_there
    }

    /// The others are to know at once.
    async fn leave(&mut self) {
        let session = self.shared.session.send_replace(None);
        if let Some(mut session) = session {
            let _ = timeout(Duration::from_secs(1), session.client.lease_revoke(session.lease)).await;
        }
    }

    async fn begin(&mut self, member: &str) -> Result<Open, String> {
        let shared = self.shared.clone();
        let mut client = connect(&shared.settings.members(), member).await?;
        let answer = self.epoch(&mut client).await?;
        let lease = call(client.lease_grant(LEASE, None)).await?.id();
        let place = shared.place()?;
        let leased = || Some(PutOptions::new().with_lease(lease));
        let placed = call(client.put(shared.layout.replica(&shared.me), place, leased())).await?;
        let (_, _, placed) = header(placed.header());
        if self.registry.is_leader() {
            let is_still = Compare::value(shared.layout.leader(), CompareOp::Equal, &*shared.me);
            let again = TxnOp::put(shared.layout.leader(), &*shared.me, leased());
            call(client.txn(Txn::new().when([is_still]).and_then([again]))).await?;
        }
        let continuity = Seen::continuity(self.seen, answer);
        let seen = match (continuity, self.seen) {
            (Continuity::Same, Some(seen)) => Seen { term: answer.term, ..seen },
            (Continuity::Broken, Some(seen)) => {
                log::warn!("etcd was restored, or is another one: what it lacks is written to it again");
                let epoch = self.declare(&mut client, seen, answer).await?;
                self.take_all(&client, Seen { epoch, ..answer }, continuity).await?
            }
            _ => self.take_all(&client, answer, continuity).await?,
        };
        self.seen = Some(seen);
        let watch = watch(&shared, &client, seen.heard + 1).await?;
        let keeping = call(client.lease_keep_alive(lease)).await?;
        self.number += 1;
        let session = Session { number: self.number, client, lease };
        self.open(session.clone());
        Ok(Open { session, watch, keeping, seen, placed })
    }

    fn open(&mut self, session: Session) {
        // Others may have taken this replica for dead, and what it kept for theirs.
        if self.away.take().is_some_and(|away| away.elapsed() >= Duration::from_secs(LEASE.unsigned_abs())) {
            self.registry.returned(std::time::Instant::now());
        }
        self.shared.metrics.up(true);
        self.shared.session.send_replace(Some(session));
        if !self.shared.was_read.send_replace(true) {
            let instances = self.registry.store().count().instances;
            crate::observe::log::event!(
                Info,
                "registry shares etcd",
                instances = instances,
                replica = self.shared.me
            );
        }
    }

    /// The epoch that the store is in, and what else tells one store from another. One that is new is given one.
    async fn epoch(&self, client: &mut Client) -> Result<Seen, String> {
        let key = self.shared.layout.epoch();
        let read = call(client.get(key.clone(), None)).await?;
        let epoch = read.kvs().first().and_then(|epoch| epoch.value_str().ok()?.parse().ok());
        let epoch = match epoch {
            Some(epoch) => epoch,
            None => {
                let is_none = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
                let first = TxnOp::put(key.clone(), crate::control::new_epoch().to_string(), None);
                call(client.txn(Txn::new().when([is_none]).and_then([first]))).await?;
                let read = call(client.get(key, None)).await?;
                let epoch = read.kvs().first().and_then(|epoch| epoch.value_str().ok()?.parse().ok());
                epoch.ok_or("the key `epoch` is no number (remove it)")?
            }
        };
        let (cluster, term, newest) = header(read.header());
        Ok(Seen { cluster, term, epoch, newest, heard: 0 })
    }

    /// Another epoch, unless another replica was quicker.
    async fn declare(&self, client: &mut Client, seen: Seen, answer: Seen) -> Result<u64, String> {
        if answer.epoch != seen.epoch {
            return Ok(answer.epoch);
        }
        let key = self.shared.layout.epoch();
        let is_old = Compare::value(key.clone(), CompareOp::Equal, seen.epoch.to_string());
        let next = crate::control::new_epoch().max(seen.epoch + 1);
        let put = TxnOp::put(key, next.to_string(), None);
        call(client.txn(Txn::new().when([is_old]).and_then([put]))).await?;
        Ok(self.epoch(client).await?.epoch)
    }

    async fn take_all(&self, client: &Client, answer: Seen, continuity: Continuity) -> Result<Seen, String> {
        let why = match continuity {
            Continuity::First => "start",
            Continuity::Same => "compacted",
            Continuity::Broken => "restored",
        };
        let configs = &self.shared.configs;
        // Revisions of another store say nothing.
        let known = if continuity == Continuity::Same { configs.keys() } else { HashMap::new() };
        let mut listing = list(&self.shared, client, answer.epoch, &known).await?;
        let revision = listing.revision;
        configs.take_in(&self.shared, std::mem::take(&mut listing.configs), revision, continuity);
        self.registry.take_in(listing, continuity, std::time::Instant::now());
        self.shared.metrics.relisted(why);
        Ok(Seen { newest: answer.newest.max(revision), heard: revision, ..answer })
    }

    async fn follow(&mut self, open: Open) -> Result<(), String> {
        let Open { session, watch: (mut ask, mut news), keeping: (mut keeper, mut kept), mut seen, placed } =
            open;
        let mut assembly = Assembly::default();
        let mut sweep = Sweep::new(self.shared.clone(), session.clone());
        let mut broken = self.shared.broken.subscribe();
        let [mut keep, mut progress, mut second] = [KEEP, PROGRESS, Duration::from_secs(1)].map(ticks);
        let (mut kept_at, mut heard_at) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                message = news.message() => {
                    let message = message.map_err(|error| explain(&error))?.ok_or("the watch has ended")?;
                    heard_at = Instant::now();
                    seen.newest = seen.newest.max(header(message.header()).2);
                    match assembly.read(message, &self.shared, seen.epoch) {
                        Heard::Batches(batches) => {
                            for batch in batches {
                                if batch.revision > placed && batch.news.contains(&News::ReplicaGone(self.shared.me.clone())) {
                                    return Err("somebody has removed the key of this replica".to_owned());
                                }
                                self.learn(batch, &mut seen, &mut sweep);
                            }
                        }
                        Heard::Over(why) => return Err(why),
                        Heard::Compacted => {
                            seen = self.take_all(&session.client, seen, Continuity::Same).await?;
                            (ask, news) = watch(&self.shared, &session.client, seen.heard + 1).await?;
                            assembly = Assembly::default();
                        }
                    }
                    self.seen = Some(seen);
                }
                answer = kept.message() => {
                    let answer = answer.map_err(|error| explain(&error))?.ok_or("the lease is not kept any more")?;
                    if answer.ttl() <= 0 {
                        return Err("the lease has run out".to_owned());
                    }
                    kept_at = Instant::now();
                }
                _ = keep.tick() => {
                    if kept_at.elapsed() > KEPT {
                        return Err("the lease is not kept in time".to_owned());
                    }
                    keeper.keep_alive().await.map_err(|error| explain(&error))?;
                }
                _ = progress.tick() => {
                    if heard_at.elapsed() > SILENT {
                        return Err("the watch gives no sign of life".to_owned());
                    }
                    ask.request_progress().await.map_err(|error| explain(&error))?;
                }
                _ = second.tick() => {
                    if self.registry.lacks_leader() {
                        tokio::spawn(campaign(self.shared.clone(), session.clone()));
                    }
                    if self.shared.configs.has_lost() {
                        tokio::spawn(configs::restore(self.shared.clone()));
                    }
                    sweep.begin_if_due(seen.epoch);
                }
                listing = sweep.listed() => sweep.keep(listing),
                () = breaks(&mut broken, session.number) => {
                    return Err("a call was not answered".to_owned());
                }
            }
        }
    }

    fn learn(&self, mut batch: Batch, seen: &mut Seen, sweep: &mut Sweep) {
        let revision = batch.revision;
        let configs = &self.shared.configs;
        if let Some(mut listing) = sweep.due_at(revision) {
            // Before what is newer than all that was listed.
            let listed = std::mem::take(&mut listing.configs);
            configs.take_in(&self.shared, listed, listing.revision, Continuity::Same);
            let repairs = self.registry.repair(listing, revision, std::time::Instant::now());
            self.shared.metrics.repaired(repairs);
            if repairs > 0 {
                log::warn!("etcd never told of {repairs} changes, which a look at all of it has found");
            }
        }
        configs.learn(&self.shared, std::mem::take(&mut batch.configs));
        let may_lead = batch.news.iter().any(|news| matches!(news, News::Leader(_)));
        self.registry.learn(batch, std::time::Instant::now());
        if may_lead {
            configs.heard();
        }
        (seen.heard, seen.newest) = (revision, seen.newest.max(revision));
    }
}

/// A session that has begun.
struct Open {
    session: Session,
    watch: (WatchRequestSender, WatchResponseStream),
    keeping: (LeaseKeeper, LeaseKeepAliveStream),
    seen: Seen,
    /// The revision at which this replica said that it lives.
    placed: u64,
}

/// A look at all of the store now and then: a watch of etcd 3.4 and 3.5 may lose a removal while it is compacted.
struct Sweep {
    shared: Arc<Shared>,
    session: Session,
    due: Instant,
    found: (mpsc::Sender<Listed>, mpsc::Receiver<Listed>),
    waiting: Option<Listed>,
}

/// What was listed, and the revision at which all that came before has been heard.
type Listed = (Listing, u64);

impl Sweep {
    fn new(shared: Arc<Shared>, session: Session) -> Sweep {
        let due = Instant::now() + SWEEP.mul_f64(0.9 + 0.2 * fastrand::f64());
        Sweep { shared, session, due, found: mpsc::channel(1), waiting: None }
    }

    fn begin_if_due(&mut self, epoch: u64) {
        if Instant::now() < self.due {
            return;
        }
        self.due = Instant::now() + SWEEP;
        let (shared, mut session, found) = (self.shared.clone(), self.session.clone(), self.found.0.clone());
        tokio::spawn(async move {
            shared.metrics.relisted("sweep");
            let looked = async {
                let known = shared.configs.keys();
                let listing = list(&shared, &session.client, epoch, &known).await?;
                // A revision of our own, which comes after all that was listed.
                let place = shared.place()?;
                let leased = PutOptions::new().with_lease(session.lease);
                let put = session.client.put(shared.layout.replica(&shared.me), place, Some(leased));
                let (_, _, mark) = header(call(put).await?.header());
                Ok::<_, String>((listing, mark))
            };
            match looked.await {
                Ok(found_all) => _ = found.send(found_all).await,
                Err(why) => log::info!("etcd could not be looked through: {why}; that is done again later"),
            }
        });
    }

    async fn listed(&mut self) -> Option<(Listing, u64)> {
        self.found.1.recv().await
    }

    fn keep(&mut self, listing: Option<(Listing, u64)>) {
        self.waiting = listing;
    }

    /// What was listed, where all before `revision` was heard.
    fn due_at(&mut self, revision: u64) -> Option<Listing> {
        let is_due = self.waiting.as_ref().is_some_and(|(_, mark)| revision >= *mark);
        if is_due { self.waiting.take().map(|(listing, _)| listing) } else { None }
    }
}

async fn watch(
    shared: &Shared,
    client: &Client,
    from: u64,
) -> Result<(WatchRequestSender, WatchResponseStream), String> {
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(i64::try_from(from).unwrap_or(i64::MAX))
        .with_progress_notify()
        .with_fragment();
    let mut watches = client.watch_client().max_decoding_message_size(LARGEST_MESSAGE);
    Ok(call(watches.watch(shared.layout.prefix(), Some(options))).await?.split())
}

/// Whoever writes first leads. What came of it is heard by the watch.
async fn campaign(shared: Arc<Shared>, mut session: Session) {
    let leader = shared.layout.leader();
    let is_none = Compare::create_revision(leader.clone(), CompareOp::Equal, 0);
    let lead = TxnOp::put(leader, &*shared.me, Some(PutOptions::new().with_lease(session.lease)));
    let campaigned = call(session.client.txn(Txn::new().when([is_none]).and_then([lead]))).await;
    shared.metrics.operation("lead", if campaigned.is_ok() { "ok" } else { "unavailable" });
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Whether another session may do better. One that has no room for more, or finds fault with what is written, answers.
pub(super) fn is_lost(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => match status.code() {
            Code::ResourceExhausted | Code::OutOfRange => false,
            Code::InvalidArgument => status.message().contains("auth"),
            _ => true,
        },
        _ => true,
    }
}

/// Cluster, term and revision.
fn header(header: Option<&ResponseHeader>) -> (u64, u64, u64) {
    header.map_or((0, 0, 0), |header| {
        (header.cluster_id(), header.raft_term(), u64::try_from(header.revision()).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_went_back_or_is_another_one_is_not_the_same() {
        let seen = Seen { cluster: 1, term: 4, epoch: 7, newest: 100, heard: 90 };
        let later = Seen { term: 5, newest: 100, heard: 0, ..seen };
        for (answer, expected) in [
            (later, Continuity::Same),
            (Seen { cluster: 2, ..later }, Continuity::Broken),
            (Seen { newest: 99, ..later }, Continuity::Broken),
            (Seen { term: 2, newest: 500, ..later }, Continuity::Broken),
            (Seen { epoch: 8, ..later }, Continuity::Broken),
        ] {
            assert_eq!(Seen::continuity(Some(seen), answer), expected, "{answer:?}");
        }
        assert_eq!(Seen::continuity(None, later), Continuity::First);
    }

    #[test]
    fn only_what_another_session_may_mend_ends_one() {
        let status = |code, message: &str| Error::GRpcStatus(tonic::Status::new(code, message));
        for (error, lost) in [
            (status(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), false),
            (status(Code::InvalidArgument, "etcdserver: request is too large"), false),
            (status(Code::InvalidArgument, "etcdserver: revision of auth store is old"), true),
            (status(Code::Unauthenticated, "etcdserver: invalid auth token"), true),
            (status(Code::PermissionDenied, "etcdserver: permission denied"), true),
            (status(Code::Unavailable, "etcdserver: no leader"), true),
            (Error::WatchError("closed".to_owned()), true),
        ] {
            assert_eq!(is_lost(&error), lost, "{error}");
        }
    }
}
