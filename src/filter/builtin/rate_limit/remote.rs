//! Counting together with other gateways, in Redis: one script decides, on the clock of Redis, so that gateways need
//! not agree on the time. What Redis denied is remembered here until it would allow it again, so that a key that is
//! asked for far too often does not cost a round trip each time.

use std::{fmt::Write, sync::Arc, time::Duration};

use openssl::sha::Sha256;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{self, HumanDuration, Path},
    filter::{
        Exchange, Invalid, Live,
        builtin::rate_limit::{
            Key,
            connection::Connection,
            local::Counts,
            quota::{Moment, Within},
        },
    },
    policy::{bucket::Decision, buckets::Buckets},
    redis::Servers,
};

/// A Redis of version 5 or later, or what speaks like it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    /// Its URL, or a map with `url`, `cluster` or `sentinel`.
    redis: config::Redis,
    /// What to do with requests while Redis cannot be asked.
    #[serde(default)]
    on_error: OnError,
    /// How long a request may wait for Redis.
    #[serde(default = "timeout")]
    timeout: HumanDuration,
    /// What the keys in Redis begin with.
    #[serde(default = "prefix")]
    prefix: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnError {
    Allow,
    Deny,
    /// Count here.
    #[default]
    Local,
}

fn timeout() -> HumanDuration {
    HumanDuration::from_millis(50)
}

fn prefix() -> String {
    "tidegate".to_owned()
}

impl Store {
    /// # Errors
    ///
    /// What cannot be used of `redis`.
    pub(crate) fn servers(&self, at: &Path, live: &Live) -> Result<Servers, Vec<Invalid>> {
        let servers = Servers::new(&self.redis, &at.key("redis"), |_, file| live.full_path(file));
        servers.map_err(|wrong| {
            let told = wrong
                .into_iter()
                .map(|wrong| Invalid::new(wrong.at, format!("{} ({})", wrong.message, wrong.hint)));
            told.collect()
        })
    }

    pub(crate) fn waits(&self) -> bool {
        !self.timeout.as_std().is_zero()
    }
}

pub(crate) struct Remote {
    connection: Arc<Connection>,
    /// What Redis is known to hold at least of keys that it denied.
    denied: Arc<Buckets>,
    on_error: OnError,
    timeout: Duration,
    prefix: String,
    /// What tells this limit from others that ask the same Redis: its place and its numbers.
    scope: Sha256,
}

impl Remote {
    pub(crate) fn new(store: &Store, servers: &Servers, counts: &Counts, live: &Live) -> Remote {
        let Store { redis: _, on_error, timeout, prefix } = store;
        let metrics = live.metrics().limits();
        let connection = live.share(servers.clone(), |servers| {
            Connection::new(servers.clone(), metrics.clone(), live.names().clone())
        });
        let Counts { limit, key, tier, max_keys, .. } = counts;
        // Its keys and times are those of the local counts, so it must not outlive them.
        let basis = (counts.clone(), servers.clone(), prefix.clone());
        let denied = live.keep(basis, |_| Buckets::new(*limit, *max_keys));
        let mut scope = Sha256::new();
        scope.update(format!("{}\0{limit:?}\0{key:?}\0", live.place()).as_bytes());
        if let Some(tier) = tier {
            scope.update(format!("{tier}\0").as_bytes());
        }
        Remote {
            connection,
            denied,
            on_error: *on_error,
            timeout: timeout.as_std(),
            prefix: prefix.clone(),
            scope,
        }
    }

    /// Under which name Redis knows the key: short, and without what the client sent, which may be a credential.
    pub(crate) fn name(&self, key: &Key, moment: Moment, exchange: &Exchange<'_>) -> String {
        let mut hash = self.scope.clone();
        key.values(exchange, |value| {
            hash.update(&value.len().to_le_bytes());
            hash.update(value);
        });
        let mut name = format!("{}:", self.prefix);
        for byte in &hash.finish()[..16] {
            let _ = write!(name, "{byte:02x}");
        }
        if let Some(Within { begins, .. }) = moment.of {
            let _ = write!(name, ":{begins}");
        }
        name
    }

    /// What Redis denied a while ago and would still deny. `key` is the local one, and so is `moment`.
    pub(crate) fn still_denies(&self, key: u64, moment: Moment) -> Option<Decision> {
        let denied = Some(self.denied.look(key, moment.now, 1)).filter(|decision| !decision.allowed)?;
        Some(moment.told(denied))
    }

    /// `key` and `name` are the same, for here and for there.
    ///
    /// # Errors
    ///
    /// What to do as Redis could not be asked.
    ///
    /// `moment` is from before the question, so that Redis is never thought to hold more than it does.
    pub(crate) async fn decide(&self, key: u64, name: &str, moment: Moment) -> Result<Decision, OnError> {
        let now = moment.now;
        let limit = self.denied.limit();
        let asked = self.connection.ask(name, limit, moment.of.map(|of| of.left), self.timeout).await;
        let (allowed, full_in) = asked.map_err(|_| self.on_error)?;
        // Whatever Redis says, a bucket is not emptier than empty.
        let full_in = full_in.min(limit.depth());
        if !allowed {
            let full_at = now.saturating_add(u64::try_from(full_in.as_nanos()).unwrap_or(u64::MAX));
            self.denied.not_full_before(key, full_at, now);
        }
        Ok(moment.told(limit.decision(allowed, full_in, 1)))
    }
}
