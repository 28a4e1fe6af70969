//! One connection to a Redis for all limits that name it. Questions are sent without waiting for the answers to those
//! before.

use std::{sync::Arc, time::Duration};

use super::script;
use crate::{
    names::Resolve,
    observe::{log::event, metrics::LimitMetrics},
    policy::bucket::Limit,
    redis::{Answers, Redis, Script, Servers, Trouble, Watcher},
};

pub(crate) struct Connection {
    redis: Redis,
    script: Script,
    store: Arc<Store>,
}

/// What is told of it.
struct Store {
    /// Its address, without credentials.
    address: String,
    metrics: LimitMetrics,
}

/// An answer is shorter than its question; the text of an error may be a little longer. There are the answers to some thousand
/// questions under way.
const ANSWERS: Answers = Answers { most: 256 * 1024, for_each_byte: 2 };

impl Connection {
    pub(crate) fn new(servers: Servers, metrics: LimitMetrics, names: Arc<dyn Resolve>) -> Connection {
        let store = Arc::new(Store { address: servers.label(), metrics });
        let script = script::script();
        let redis = Redis::new(servers, Some(script.clone()), ANSWERS, names, store.clone());
        Connection { redis, script, store }
    }

    /// Take one token of the bucket called `name`: whether it was there, and when the bucket will be full. One of a quota does not fill; it
    /// is forgotten after `quota_left`.
    ///
    /// # Errors
    ///
    /// Redis cannot be asked, or does not answer within `patience`.
    pub(crate) async fn ask(
        &self,
        name: &str,
        limit: &Limit,
        quota_left: Option<Duration>,
        patience: Duration,
    ) -> Result<(bool, Duration), Trouble> {
        let question = script::question(&self.script, name, limit, quota_left);
        let answer =
            self.redis.ask(&question, name, patience, |answer| script::understood(answer, limit)).await;
        answer.inspect_err(|trouble| {
            let error = match trouble {
                Trouble::Away(_) => "away",
                Trouble::Late => "timeout",
                Trouble::Error(_) => "error",
            };
            self.store.metrics.store_errors(&self.store.address, error).inc();
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.store.metrics.forget_store(&self.store.address);
    }
}

impl Watcher for Store {
    fn up(&self, is_new: bool) {
        self.metrics.store_up(&self.address).set(1);
        if is_new {
            event!(Info, "rate limit store is connected", store = self.address);
        }
    }

    fn away(&self, why: &str, is_new: bool) {
        self.metrics.store_up(&self.address).set(0);
        if is_new {
            event!(Warn, "rate limit store is away, trying again", store = self.address, why = why);
        }
    }
}
