//! A Redis. A lock ends by itself some time after its holder is gone.

use std::{sync::Arc, time::Duration};

use ::redis::{Client, Cmd, FromRedisValue, aio::MultiplexedConnection, cmd};
use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{Keep, Lock, SHORTLY, Store};

/// Only who has taken it lets it go.
const RELEASE: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0";

pub(super) struct Redis(Arc<Connected>);

struct Connected {
    client: Client,
    prefix: String,
    timeout: Duration,
    lock_for: Duration,
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// What is let go when it is dropped.
struct Held {
    by: Arc<Connected>,
    key: String,
    token: String,
}

impl Redis {
    /// `lock_for` is longer than any order takes.
    pub(super) fn new(client: Client, prefix: &str, (timeout, lock_for): (Duration, Duration)) -> Redis {
        let (prefix, connection) = (prefix.to_owned(), Mutex::default());
        Redis(Arc::new(Connected { client, prefix, timeout, lock_for, connection }))
    }
}

impl Connected {
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, String> {
        let asked = async {
            let mut place = self.connection.lock().await;
            let mut connection = match place.take() {
                Some(connection) => connection,
                None => self.client.get_multiplexed_async_connection().await?,
            };
            let answer = command.query_async(&mut connection).await;
            // One that has failed is not asked again.
            if answer.is_ok() {
                *place = Some(connection);
            }
            answer
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(answer) => answer.map_err(|error: ::redis::RedisError| error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
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
        self.0.ask(cmd("GET").arg(self.0.place(key))).await
    }

    async fn put(&self, key: &str, value: Vec<u8>, keep: Keep) -> Result<(), String> {
        let mut command = cmd("SET");
        command.arg(self.0.place(key)).arg(value);
        if keep == Keep::Shortly {
            command.arg("EX").arg(SHORTLY.as_secs());
        }
        self.0.ask(&command).await
    }

    async fn set_aside(&self, key: &str) -> Result<String, String> {
        let (from, to) = (self.0.place(key), self.0.place(&format!("old/{key}")));
        self.0.ask::<()>(cmd("RENAME").arg(&from).arg(&to)).await?;
        Ok(to)
    }

    async fn remove(&self, key: &str) -> Result<(), String> {
        self.0.ask::<i64>(cmd("DEL").arg(self.0.place(key))).await.map(drop)
    }

    async fn lock(&self, key: &str) -> Result<Option<Lock>, String> {
        let (key, token) = (self.0.place(key), format!("{:032x}", fastrand::u128(..)));
        let mut command = cmd("SET");
        command.arg(&key).arg(&token).arg("NX").arg("PX").arg(self.0.lock_for.as_millis() as u64);
        let taken: Option<String> = self.0.ask(&command).await?;
        Ok(taken.map(|_| Box::new(Held { by: self.0.clone(), key, token }) as Lock))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Where nobody is there to do it any more, it ends by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (by, key, token) = (self.by.clone(), self.key.clone(), self.token.clone());
        runtime.spawn(async move {
            let mut command = cmd("EVAL");
            command.arg(RELEASE).arg(1).arg(key).arg(token);
            if let Err(why) = by.ask::<i64>(&command).await {
                log::debug!("a lock ends by itself: Redis: {why}");
            }
        });
    }
}
