//! A Redis. A lock ends by itself some time after its holder is gone.
//!
//! Each question has one key, so that a cluster has a node for it.

use std::{sync::Arc, time::Duration};

use ::redis::{Cmd, FromRedisValue, cmd, from_redis_value};
use async_trait::async_trait;

use super::{Keep, Lock, SHORTLY, Store};
use crate::redis::{self, Trouble};

/// Only what is known goes: a value that stands there still, a lock of whoever has taken it.
const REMOVE: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0";

pub(super) struct Redis(Arc<Connected>);

struct Connected {
    redis: redis::Redis,
    prefix: String,
    timeout: Duration,
    lock_for: Duration,
}

/// What is let go when it is dropped.
struct Held {
    by: Arc<Connected>,
    key: String,
    token: String,
}

impl Redis {
    /// `lock_for` is longer than any order takes.
    pub(super) fn new(redis: redis::Redis, prefix: &str, (timeout, lock_for): (Duration, Duration)) -> Redis {
        Redis(Arc::new(Connected { redis, prefix: prefix.to_owned(), timeout, lock_for }))
    }
}

impl Connected {
    async fn ask<T: FromRedisValue>(&self, command: &Cmd, key: &str) -> Result<T, String> {
        let asked = self.redis.ask(command, key, self.timeout, |answer| from_redis_value(answer).ok()).await;
        asked.map_err(|trouble| match trouble {
            Trouble::Away(why) => why.to_string(),
            Trouble::Late => "no answer in time".to_owned(),
            Trouble::Error(why) => why,
        })
    }

    async fn get(&self, place: &str) -> Result<Option<Vec<u8>>, String> {
        self.ask(cmd("GET").arg(place), place).await
    }

    async fn put(&self, place: &str, value: &[u8], keep: Keep) -> Result<(), String> {
        let mut command = cmd("SET");
        command.arg(place).arg(value);
        if keep == Keep::Shortly {
            command.arg("EX").arg(SHORTLY.as_secs());
        }
        self.ask(&command, place).await
    }

    /// Where it is `value` still.
    async fn remove(&self, place: &str, value: &[u8]) -> Result<(), String> {
        let mut command = cmd("EVAL");
        command.arg(REMOVE).arg(1).arg(place).arg(value);
        self.ask::<i64>(&command, place).await.map(drop)
    }

    fn place(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

#[async_trait]
impl Store for Redis {
    fn name(&self) -> &'static str {
        "Redis"
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, String> {
        self.0.get(&self.0.place(key)).await
    }

    async fn put(&self, key: &str, value: Vec<u8>, keep: Keep) -> Result<(), String> {
        self.0.put(&self.0.place(key), &value, keep).await
    }

    /// Not by `RENAME`: the two places may be at two nodes of a cluster.
    async fn set_aside(&self, key: &str) -> Result<String, String> {
        let (from, to) = (self.0.place(key), self.0.place(&format!("old/{key}")));
        if let Some(value) = self.0.get(&from).await? {
            self.0.put(&to, &value, Keep::ForGood).await?;
            self.0.remove(&from, &value).await?;
        }
        Ok(to)
    }

    async fn remove(&self, key: &str) -> Result<(), String> {
        let place = self.0.place(key);
        self.0.ask::<i64>(cmd("DEL").arg(&place), &place).await.map(drop)
    }

    async fn lock(&self, key: &str) -> Result<Option<Lock>, String> {
        let (key, token) = (self.0.place(key), format!("{:032x}", fastrand::u128(..)));
        let mut command = cmd("SET");
        command.arg(&key).arg(&token).arg("NX").arg("PX").arg(self.0.lock_for.as_millis() as u64);
        let taken: Option<String> = self.0.ask(&command, &key).await?;
        Ok(taken.map(|_| Box::new(Held { by: self.0.clone(), key, token }) as Lock))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Where nobody is there to do it any more, it ends by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (by, key, token) = (self.by.clone(), self.key.clone(), self.token.clone());
        runtime.spawn(async move {
            if let Err(why) = by.remove(&key, token.as_bytes()).await {
                log::debug!("a lock ends by itself: Redis: {why}");
            }
        });
    }
}
