//! Where accounts, certificates, attempts and challenges are kept, and who may order. Several gateways may use one: whoever has the lock
//! of a name orders, and the others find the certificate.
//!
//! Keys are ours (`accounts/...`, `certificates/ACCOUNT/NAME`, `attempts/ACCOUNT/NAME`, `challenges/...`) and hold nothing that a stranger
//! has written.

mod etcd;
mod folder;
mod redis;
mod shared;

use std::{any::Any, sync::Arc, time::Duration};

use async_trait::async_trait;

use self::{
    etcd::Etcd,
    folder::Folder,
    redis::Redis,
    shared::{Shared, Store},
};
use super::{
    settings::{Sharing, StorageSettings},
    trouble::{Reason, Trouble},
};

/// A chain with its key, and more of each than anybody needs.
pub(super) const LARGEST: usize = 1024 * 1024;

/// A challenge is over long before.
const SHORTLY: Duration = Duration::from_secs(3600);

/// How long something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    ForGood,
    /// An hour at least: a challenge.
    Shortly,
}

/// It is held until it is dropped, or its holder is gone.
pub(super) type Lock = Box<dyn Any + Send>;

#[async_trait]
pub(super) trait Storage: Send + Sync {
    /// What is there; `None` where nothing is.
    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, Trouble>;

    /// Whole or not at all.
    async fn save(&self, key: &str, value: &[u8], keep: Keep) -> Result<(), Trouble>;

    /// It cannot be read as what it should be: out of the way, in words for the operator.
    async fn set_aside(&self, key: &str) -> String;

    async fn remove(&self, key: &str) -> Result<(), Trouble>;

    /// `None` while somebody else has it.
    async fn lock(&self, key: &str) -> Result<Option<Lock>, Trouble>;

    /// Gateways elsewhere use it, too.
    fn is_shared(&self) -> bool {
        false
    }
}

/// `lock_for` is longer than any order takes.
pub(super) fn open(settings: &StorageSettings, lock_for: Duration) -> Arc<dyn Storage> {
    match settings {
        StorageSettings::Folder(folder) => Arc::new(Folder::new(folder.clone())),
        StorageSettings::Shared { by, prefix, secret, timeout, local } => {
            let times = (*timeout, lock_for);
            let store: Box<dyn Store> = match by {
                Sharing::Etcd(members) => Box::new(Etcd::new(members.clone(), prefix, times)),
                Sharing::Redis(url) => match ::redis::Client::open(url.as_str()) {
                    Ok(client) => Box::new(Redis::new(client, prefix, times)),
                    // It was looked at when the configuration was compiled.
                    Err(error) => return Arc::new(Unusable(error.to_string())),
                },
            };
            Arc::new(Shared::new(store, secret, local.clone().map(Folder::new)))
        }
    }
}

/// Says why to whoever wants something of it.
struct Unusable(String);

impl Unusable {
    fn trouble(&self) -> Trouble {
        Trouble::new(Reason::Storage, self.0.clone())
    }
}

#[async_trait]
impl Storage for Unusable {
    async fn load(&self, _: &str) -> Result<Option<Vec<u8>>, Trouble> {
        Err(self.trouble())
    }

    async fn save(&self, _: &str, _: &[u8], _: Keep) -> Result<(), Trouble> {
        Err(self.trouble())
    }

    async fn set_aside(&self, _: &str) -> String {
        self.0.clone()
    }

    async fn remove(&self, _: &str) -> Result<(), Trouble> {
        Err(self.trouble())
    }

    async fn lock(&self, _: &str) -> Result<Option<Lock>, Trouble> {
        Err(self.trouble())
    }
}
