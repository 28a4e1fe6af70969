//! Where accounts, certificates, attempts and challenges are kept, and who may order. Several gateways may use one: whoever has the lock
//! of a name orders, and the others find the certificate.
//!
//! Keys are ours (`accounts/...`, `certificates/ACCOUNT/NAME`, `attempts/ACCOUNT/NAME`, `challenges/...`) and hold nothing that a stranger
//! has written.

mod folder;
mod shared;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use self::{folder::Folder, shared::Shared};
use super::{settings::StorageSettings, trouble::Trouble};
use crate::{
    fleet::{Fleet, Keep, Lock},
    names::Resolve,
    observe::metrics::Metrics,
};

/// A chain with its key, and more of each than anybody needs.
pub(super) const LARGEST: usize = 1024 * 1024;

#[async_trait]
pub(super) trait Storage: Send + Sync {
    /// What is there; `None` where nothing is.
    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, Trouble>;

    /// A copy that is there without asking anybody, if there is one.
    async fn at_hand(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

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
pub(super) fn open(
    settings: &StorageSettings,
    lock_for: Duration,
    names: &Arc<dyn Resolve>,
    metrics: &Metrics,
) -> Arc<dyn Storage> {
    match settings {
        StorageSettings::Folder(folder) => Arc::new(Folder::new(folder.clone())),
        StorageSettings::Shared { fleet, local } => {
            let fleet = Fleet::open(fleet, lock_for, names, metrics);
            Arc::new(Shared::new(fleet, local.clone().map(Folder::new)))
        }
    }
}
