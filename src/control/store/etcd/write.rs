//! What is written: each change by itself where its key is as it was thought to be, many in one call. One write takes etcd a
//! disk's time, whatever it holds, so up to a hundred go together, and several calls are on their way at once.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use etcd_client::{
    Compare, CompareOp, GetOptions, Txn, TxnOp, TxnResponse,
    proto::{PbTxnOpResponse, PbTxnResponse},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Session, Shared, record, session};
use crate::{
    control::{instance::Instance, store::Gone},
    etcd,
};

/// etcd takes 128, of which one says why instances were removed.
const MOST: usize = 100;
/// etcd takes 1.5 MiB.
const LARGEST: usize = 1024 * 1024;
const IN_FLIGHT: usize = 16;
/// How long a session is waited for, where there is none.
const NO_SESSION: Duration = Duration::from_secs(1);
/// What was written is heard of within this time, or is answered as it was meant.
pub(super) const COMES_BACK: Duration = Duration::from_secs(2);

/// A change on its way.
pub(super) struct Op {
    key: String,
    instance: Arc<Instance>,
    /// Of the key, for the change to count; 0 is one that is not there.
    revision: u64,
    action: Action,
    answer: oneshot::Sender<Fate>,
}

pub(super) enum Action {
    Put(Vec<u8>),
    Delete(Gone),
}

/// For whoever waits for it. Dropped, it is written all the same.
pub(crate) struct Ticket {
    instance: Arc<Instance>,
    fate: oneshot::Receiver<Fate>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// At this revision.
    Written(u64),
    /// Its key was changed meanwhile, at this revision; 0 where it is not there.
    Conflict(u64),
    Unavailable(String),
}

impl Ticket {
    pub(super) fn refused(instance: Arc<Instance>, why: String) -> Ticket {
        let (answer, fate) = oneshot::channel();
        let _ = answer.send(Fate::Unavailable(why));
        Ticket { instance, fate }
    }

    /// The instance as it was to be, and what became of that.
    pub(crate) async fn settled(self) -> (Arc<Instance>, Fate) {
        let fate = self.fate.await.unwrap_or_else(|_| Fate::Unavailable("this process ends".to_owned()));
        (self.instance, fate)
    }
}

impl Fate {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Fate::Written(_) => "ok",
            Fate::Conflict(_) => "conflict",
            Fate::Unavailable(_) => "unavailable",
        }
    }
}

impl Op {
    pub(super) fn new(key: String, instance: Arc<Instance>, revision: u64, action: Action) -> (Op, Ticket) {
        let (answer, fate) = oneshot::channel();
        let ticket = Ticket { instance: instance.clone(), fate };
        (Op { key, instance, revision, action, answer }, ticket)
    }

    pub(super) fn word(&self) -> &'static str {
        match self.action {
            Action::Put(_) => "put",
            Action::Delete(_) => "delete",
        }
    }

    pub(super) fn is_removal(&self) -> bool {
        matches!(self.action, Action::Delete(_))
    }

    pub(super) fn id(&self) -> Arc<str> {
        self.instance.id.clone()
    }

    pub(super) fn answer(self, fate: Fate) {
        // Nobody may wait for it.
        let _ = self.answer.send(fate);
    }

    fn size(&self) -> usize {
        let value = match &self.action {
            Action::Put(value) => value.len(),
            Action::Delete(_) => 0,
        };
        // The key stands there three times.
        3 * self.key.len() + value + 64
    }

    fn as_txn(&self) -> TxnOp {
        let key = self.key.as_str();
        let then = match &self.action {
            Action::Put(value) => TxnOp::put(key, value.clone(), None),
            Action::Delete(_) => TxnOp::delete(key, None),
        };
        let revision = i64::try_from(self.revision).unwrap_or(i64::MAX);
        let otherwise = TxnOp::get(key, Some(GetOptions::new().with_keys_only()));
        let is_as_thought = Compare::mod_revision(key, CompareOp::Equal, revision);
        TxnOp::txn(Txn::new().when([is_as_thought]).and_then([then]).or_else([otherwise]))
    }
}

pub(super) async fn run(shared: Arc<Shared>, mut queued: mpsc::Receiver<Op>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut waiting = VecDeque::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        if waiting.is_empty() {
            let Some(op) = queued.recv().await else { return };
            waiting.push_back(op);
        }
        while waiting.len() < 2 * MOST
            && let Ok(op) = queued.try_recv()
        {
            waiting.push_back(op);
        }
        tokio::spawn(write(shared.clone(), next(&mut waiting), place));
    }
}

/// Those that go together: etcd takes no key twice in a call.
fn next(waiting: &mut VecDeque<Op>) -> Vec<Op> {
    let (mut batch, mut later) = (Vec::new(), VecDeque::new());
    let (mut keys, mut size) = (HashSet::new(), 0);
    while let Some(op) = waiting.pop_front() {
        let fits = batch.is_empty() || (batch.len() < MOST && size + op.size() <= LARGEST);
        if fits && keys.insert(op.key.clone()) {
            size += op.size();
            batch.push(op);
        } else {
            later.push_back(op);
        }
    }
    *waiting = later;
    batch
}

async fn write(shared: Arc<Shared>, batch: Vec<Op>, _place: OwnedSemaphorePermit) {
    match transact(&shared, as_txn(&shared, &batch)).await {
        Ok(TxnResponse(answer)) => settle(&shared, batch, &answer),
        Err(why) => {
            for op in batch {
                shared.settle(op, Fate::Unavailable(why.clone()));
            }
        }
    }
}

/// Once, and once more in another session. What was written the first time is a conflict the second, and seen as what it is
/// when the change is decided on anew.
///
/// # Errors
///
/// Why there is no answer.
pub(super) async fn transact(shared: &Shared, txn: Txn) -> Result<TxnResponse, String> {
    let mut tried = 0;
    let mut why = "there is no session with etcd".to_owned();
    for _ in 0..2 {
        let Some(mut session) = session_after(shared, tried).await else { break };
        tried = session.number;
        match etcd::within(session.client.txn(txn.clone())).await {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                why = etcd::explain(&error);
                if !session::is_lost(&error) {
                    break;
                }
                shared.broken.send_replace(session.number);
            }
        }
    }
    Err(why)
}

pub(super) async fn session_after(shared: &Shared, number: u64) -> Option<Session> {
    let mut sessions = shared.session.subscribe();
    let is_later =
        |session: &Option<Session>| session.as_ref().is_some_and(|session| session.number > number);
    let later = tokio::time::timeout(NO_SESSION, sessions.wait_for(is_later)).await;
    later.ok()?.ok()?.clone()
}

fn as_txn(shared: &Shared, batch: &[Op]) -> Txn {
    let mut ops: Vec<TxnOp> = batch.iter().map(Op::as_txn).collect();
    let gone = batch.iter().filter_map(|op| match op.action {
        Action::Delete(gone) => Some((&*op.instance.id, gone)),
        Action::Put(_) => None,
    });
    // Also where nobody is gone: etcd reckons what a call costs by what it writes itself, and not by the calls within. Without
    // this one, an etcd that is full would take it.
    ops.push(TxnOp::put(shared.layout.gone(), record::reasons(gone).unwrap_or_default(), None));
    Txn::new().and_then(ops)
}

fn settle(shared: &Shared, batch: Vec<Op>, answer: &PbTxnResponse) {
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    let mut answers = answer.responses.iter();
    for op in batch {
        let of_one = answers.next().and_then(|answer| answer.response.as_ref());
        let fate = match of_one {
            Some(PbTxnOpResponse::ResponseTxn(one)) if one.succeeded => {
                Fate::Written(u64::try_from(revision).unwrap_or(0))
            }
            Some(PbTxnOpResponse::ResponseTxn(one)) => Fate::Conflict(present(one)),
            _ => Fate::Unavailable("etcd does not say what became of it".to_owned()),
        };
        shared.settle(op, fate);
    }
}

/// The revision of the key that was not as it was thought to be.
pub(super) fn present(answer: &PbTxnResponse) -> u64 {
    let range = answer.responses.iter().find_map(|answer| match answer.response.as_ref() {
        Some(PbTxnOpResponse::ResponseRange(range)) => range.kvs.first(),
        _ => None,
    });
    range.and_then(|entry| u64::try_from(entry.mod_revision).ok()).unwrap_or(0)
}

#[cfg(test)]
impl Op {
    pub(super) fn parts(self) -> (&'static str, Arc<Instance>, u64) {
        (self.word(), self.instance, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::instance::tests::instance;

    fn op(key: &str, size: usize) -> Op {
        Op::new(key.to_owned(), Arc::new(instance("a", 1)), 0, Action::Put(vec![0; size])).0
    }

    #[test]
    fn no_key_is_twice_in_a_call_and_none_is_too_large() {
        let mut waiting: VecDeque<Op> = ["a", "b", "a", "c"].into_iter().map(|key| op(key, 10)).collect();
        waiting.extend((0..150).map(|n| op(&format!("k{n}"), 10)));
        let sizes: Vec<usize> =
            std::iter::from_fn(|| Some(next(&mut waiting).len()).filter(|size| *size > 0)).collect();
        assert_eq!(sizes, [100, 54]);
        let mut large: VecDeque<Op> = (0..5).map(|n| op(&format!("k{n}"), LARGEST / 3)).collect();
        let sizes: Vec<usize> =
            std::iter::from_fn(|| Some(next(&mut large).len()).filter(|size| *size > 0)).collect();
        assert_eq!(sizes, [2, 2, 1]);
        assert_eq!(
            next(&mut VecDeque::from([op("a", 2 * LARGEST)])).len(),
            1,
            "etcd says what it thinks of it"
        );
    }
}
