//! Tells the other replicas of the gateways that are here. Each has a key with the lease of its replica. One that comes is written
//! whatever stands there; afterwards its key is written only where nobody else has written it meanwhile: then it is with another one.

use std::{sync::Arc, time::Duration};

use etcd_client::{
    Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp,
    proto::{PbTxnOpResponse, PbTxnResponse},
};
use tokio::time::timeout;

use super::{
    super::{Session, Shared, session},
    State,
    mirror::{Place, gateway_text},
};
use crate::{control::configs::Told, etcd};

/// Of one call. etcd takes 128 changes.
const MOST: usize = 100;
/// etcd takes 1.5 MiB.
const LARGEST: usize = 1024 * 1024;
/// What is not written is tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);

/// What is written of one gateway.
struct Op {
    place: Place,
    /// The revision that its key has to have; `None`: whatever it has.
    revision: Option<u64>,
    /// `None` removes it.
    text: Option<Vec<u8>>,
}

/// What became of it.
enum Fate {
    Written(u64),
    /// Nothing stands there.
    Absent,
    Others,
}

pub(in crate::control::store::etcd) async fn run(shared: Arc<Shared>) {
    let mut sessions = shared.session.subscribe();
    let mut number = 0;
    loop {
        let session = match sessions.wait_for(Option::is_some).await {
            Ok(session) => session.clone(),
            // The store is gone, and with it this process.
            Err(_) => return,
        };
        let Some(session) = session else { continue };
        if session.number != number {
            // With another lease.
            number = session.number;
            shared.configs.state().write_all();
        }
        let batch = shared.configs.state().next(&shared.me);
        if batch.is_empty() {
            tokio::select! {
                () = shared.configs.untold.notified() => {}
                _ = sessions.changed() => {}
            }
            continue;
        }
        if !write(&shared, session, batch).await {
            let _ = timeout(AGAIN, sessions.changed()).await;
        }
    }
}

/// Whether nothing of it is to be tried again at once.
async fn write(shared: &Shared, mut session: Session, batch: Vec<Op>) -> bool {
    let ops: Vec<TxnOp> = batch.iter().map(|op| op.as_txn(shared, session.lease)).collect();
    let answered = etcd::within(session.client.txn(Txn::new().and_then(ops))).await;
    shared.metrics.operation("gateways", if answered.is_ok() { "ok" } else { "unavailable" });
    let answer = match answered {
        Ok(answer) => answer.0,
        Err(error) => {
            let mut state = shared.configs.state();
            batch.into_iter().for_each(|op| state.put_back(op));
            if session::is_lost(&error) {
                shared.broken.send_replace(session.number);
            } else {
                let why = etcd::explain(&error);
                log::warn!("gateways that are here are not known to other replicas: {why}");
            }
            return false;
        }
    };
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    let mut answers = answer.responses.iter();
    let mut state = shared.configs.state();
    let mut is_settled = true;
    for op in batch {
        let of_one = answers.next().and_then(|answer| answer.response.as_ref());
        is_settled &= state.settle(op, fate(of_one, revision, &shared.me));
    }
    is_settled
}

fn fate(answer: Option<&PbTxnOpResponse>, revision: i64, me: &str) -> Fate {
    #[derive(serde::Deserialize)]
    struct Of {
        replica: String,
    }
    let Some(PbTxnOpResponse::ResponseTxn(PbTxnResponse { succeeded, responses, .. })) = answer else {
        return Fate::Others;
    };
    if *succeeded {
        return Fate::Written(u64::try_from(revision).unwrap_or(0));
    }
    let there = responses.iter().find_map(|answer| match answer.response.as_ref() {
        Some(PbTxnOpResponse::ResponseRange(range)) => range.kvs.first(),
        _ => None,
    });
    match there.map(|there| serde_json::from_slice::<Of>(&there.value)) {
        // A restored store may have one of ours.
        None => Fate::Absent,
        Some(Ok(of)) if of.replica == *me => Fate::Absent,
        Some(_) => Fate::Others,
    }
}

impl Op {
    fn as_txn(&self, shared: &Shared, lease: i64) -> TxnOp {
        let key = shared.layout.gateway(&self.place.0, &self.place.1);
        let then = match &self.text {
            Some(text) => TxnOp::put(key.clone(), text.clone(), Some(PutOptions::new().with_lease(lease))),
            None => TxnOp::delete(key.clone(), None),
        };
        let Some(revision) = self.revision else { return TxnOp::txn(Txn::new().and_then([then])) };
        let revision = i64::try_from(revision).unwrap_or(i64::MAX);
        let is_ours = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
        let otherwise = TxnOp::get(key, None::<GetOptions>);
        TxnOp::txn(Txn::new().when([is_ours]).and_then([then]).or_else([otherwise]))
    }
}

impl State {
    pub(super) fn tell(&mut self, told: Told) {
        let Told { config, node, report, has_come } = told;
        let place = (config, node);
        match report {
            Some(report) => {
                let revision = self.mirror.mine.entry(place.clone()).or_default();
                if has_come {
                    *revision = None;
                }
                self.reports.insert(place.clone(), report);
                self.to_delete.remove(&place);
                self.to_write.insert(place);
            }
            None => {
                self.reports.remove(&place);
                self.to_write.remove(&place);
                if let Some(revision) = self.mirror.mine.remove(&place).flatten() {
                    self.to_delete.insert(place, revision);
                }
            }
        }
    }

    fn write_all(&mut self) {
        self.to_write = self.reports.keys().cloned().collect();
    }

    /// What goes together.
    fn next(&mut self, me: &str) -> Vec<Op> {
        let (mut batch, mut size) = (Vec::new(), 0);
        while batch.len() < MOST
            && let Some((place, revision)) =
                self.to_delete.iter().next().map(|(place, at)| (place.clone(), *at))
        {
            self.to_delete.remove(&place);
            batch.push(Op { place, revision: Some(revision), text: None });
        }
        while batch.len() < MOST
            && size < LARGEST
            && let Some(place) = self.to_write.pop_first()
        {
            // One that is with another replica by now is no concern of ours.
            let (Some(revision), Some(report)) = (self.mirror.mine.get(&place), self.reports.get(&place))
            else {
                self.reports.remove(&place);
                continue;
            };
            let Ok(text) = gateway_text(me, report) else { continue };
            size += text.len();
            batch.push(Op { revision: *revision, text: Some(text), place });
        }
        batch
    }

    /// Whether that is all there is to it for now.
    fn settle(&mut self, op: Op, fate: Fate) -> bool {
        let is_here = self.mirror.mine.contains_key(&op.place);
        match (op.text, fate) {
            (Some(_), Fate::Written(revision)) if is_here => self.mirror.placed(&op.place, revision),
            // It has left meanwhile.
            (Some(_), Fate::Written(revision)) => _ = self.to_delete.insert(op.place, revision),
            (Some(_), Fate::Absent) if is_here => {
                self.mirror.mine.insert(op.place.clone(), None);
                self.to_write.insert(op.place);
            }
            (Some(_), Fate::Others) if is_here => {
                // Until that is heard of, or its replica's lease has run out.
                self.to_write.insert(op.place);
                return false;
            }
            (Some(_), Fate::Absent | Fate::Others) | (None, _) => {}
        }
        true
    }

    fn put_back(&mut self, op: Op) {
        match (op.text, op.revision) {
            (Some(_), _) if self.reports.contains_key(&op.place) => _ = self.to_write.insert(op.place),
            (None, Some(revision)) if !self.reports.contains_key(&op.place) => {
                self.to_delete.insert(op.place, revision);
            }
            _ => {}
        }
    }
}
