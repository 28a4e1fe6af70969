//! An etcd. A lock is a key with a lease: it ends by itself some time after its holder is gone, whatever else etcd goes through
//! meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, DeleteOptions, Error, PutOptions, Txn, TxnOp};
use tokio::sync::Mutex;

use super::{Keep, Lock, SHORTLY, Store};
use crate::{
    config::EtcdMembers,
    etcd::{connect, explain},
};

pub(super) struct Etcd(Arc<Connected>);

struct Connected {
    members: EtcdMembers,
    prefix: String,
    timeout: Duration,
    lock_for: Duration,
    client: Mutex<Option<Client>>,
    /// Counts failures: after each, another member is asked.
    turn: AtomicUsize,
}

/// What is let go when it is dropped.
struct Held {
    by: Arc<Connected>,
    lease: i64,
}

impl Etcd {
    /// `lock_for` is longer than any order takes.
    pub(super) fn new(members: EtcdMembers, prefix: &str, (timeout, lock_for): (Duration, Duration)) -> Etcd {
        let (prefix, client) = (prefix.to_owned(), Mutex::default());
        let turn = AtomicUsize::new(fastrand::usize(..members.endpoints.len().max(1)));
        Etcd(Arc::new(Connected { members, prefix, timeout, lock_for, client, turn }))
    }
}

impl Connected {
    /// One question. A client that has failed is not asked again, since its token may have run out; and nor is its member, while there
    /// are others.
    async fn ask<T>(&self, question: impl AsyncFnOnce(&mut Client) -> Result<T, Error>) -> Result<T, String> {
        let asked = async {
            let mut client = self.client().await?;
            let answer = question(&mut client).await;
            answer.map_err(|error| explain(&error))
        };
        let answer = tokio::time::timeout(self.timeout, asked).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if answer.is_err() {
            self.turn.fetch_add(1, Relaxed);
            // Who is just connecting has a new one.
            if let Ok(mut client) = self.client.try_lock() {
                *client = None;
            }
        }
        answer
    }

    async fn client(&self) -> Result<Client, String> {
        let mut place = self.client.lock().await;
        if let Some(client) = &*place {
            return Ok(client.clone());
        }
        let turn = self.turn.load(Relaxed).checked_rem(self.members.endpoints.len()).unwrap_or_default();
        let member = self.members.endpoints.get(turn).ok_or("it has no members")?;
        let client = connect(&self.members, member).await.map_err(|why| format!("{member}: {why}"))?;
        Ok(place.insert(client).clone())
    }

    fn place(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

#[async_trait]
impl Store for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, String> {
        let key = self.0.place(key);
        let read = self.0.ask(async |client| client.get(key, None).await).await?;
        Ok(read.kvs().first().map(|found| found.value().to_vec()))
    }

    async fn put(&self, key: &str, value: Vec<u8>, keep: Keep) -> Result<(), String> {
        let key = self.0.place(key);
        let put = async |client: &mut Client| {
            let options = match keep {
                Keep::ForGood => None,
                Keep::Shortly => {
                    let lease = client.lease_grant(seconds(SHORTLY), None).await?.id();
                    Some(PutOptions::new().with_lease(lease))
                }
            };
            client.put(key, value, options).await
        };
        self.0.ask(put).await.map(drop)
    }

    async fn set_aside(&self, key: &str) -> Result<String, String> {
        let (from, to) = (self.0.place(key), self.0.place(&format!("old/{key}")));
        let moved = async |client: &mut Client| {
            let read = client.get(from.clone(), None).await?;
            let Some(found) = read.kvs().first() else { return Ok(()) };
            // Somebody may have put a good one there meanwhile.
            let is_still = Compare::mod_revision(from.clone(), CompareOp::Equal, found.mod_revision());
            let there = TxnOp::put(to.clone(), found.value(), None);
            let not_here = TxnOp::delete(from.clone(), None);
            client.txn(Txn::new().when([is_still]).and_then([there, not_here])).await.map(drop)
        };
        self.0.ask(moved).await?;
        Ok(to)
    }

    async fn remove(&self, key: &str) -> Result<(), String> {
        let key = self.0.place(key);
        let remove = async |client: &mut Client| {
            let options = DeleteOptions::new().with_prev_key();
            let removed = client.delete(key, Some(options)).await?;
            // Its lease would stay for an hour.
            for lease in removed.prev_kvs().iter().map(|was| was.lease()).filter(|lease| *lease != 0) {
                client.lease_revoke(lease).await?;
            }
            Ok(())
        };
        self.0.ask(remove).await
    }

    async fn lock(&self, key: &str) -> Result<Option<Lock>, String> {
        let (key, lock_for) = (self.0.place(key), self.0.lock_for);
        let taken = async |client: &mut Client| {
            // A lease costs etcd a write, a look costs it nothing.
            if !client.get(key.clone(), None).await?.kvs().is_empty() {
                return Ok(None);
            }
            let lease = client.lease_grant(seconds(lock_for), None).await?.id();
            let is_free = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
            let take = TxnOp::put(key.clone(), "held", Some(PutOptions::new().with_lease(lease)));
            if client.txn(Txn::new().when([is_free]).and_then([take])).await?.succeeded() {
                return Ok(Some(lease));
            }
            client.lease_revoke(lease).await?;
            Ok(None)
        };
        let taken = self.0.ask(taken).await?;
        Ok(taken.map(|lease| Box::new(Held { by: self.0.clone(), lease }) as Lock))
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

impl Drop for Held {
    fn drop(&mut self) {
        // Where nobody is there to do it any more, it ends by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (by, lease) = (self.by.clone(), self.lease);
        runtime.spawn(async move {
            if let Err(why) = by.ask(async |client| client.lease_revoke(lease).await).await {
                log::debug!("a lock ends by itself: etcd: {why}");
            }
        });
    }
}
