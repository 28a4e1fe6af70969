//! What several gateways share. Certificates are kept in `state_dir` as well, so that a start shows what there was where the fleet's store
//! is away; and a store that has lost them gets them back.

use async_trait::async_trait;

use super::{Folder, LARGEST, Storage};
use crate::{
    acme::trouble::{Reason, Trouble},
    fleet::{Fleet, Found, Keep, Lock},
};

pub(super) struct Shared {
    fleet: Fleet,
    /// Where copies are kept.
    local: Option<Folder>,
}

impl Shared {
    pub(super) fn new(fleet: Fleet, local: Option<Folder>) -> Shared {
        Shared { fleet, local }
    }

    /// Certificates are worth a copy; all else would be wrong by the time it is needed.
    fn copies(&self, key: &str) -> Option<&Folder> {
        self.local.as_ref().filter(|_| key.starts_with("certificates/"))
    }

    async fn read_copy(&self, key: &str) -> Option<Vec<u8>> {
        self.copies(key)?.load(key).await.ok().flatten()
    }

    async fn copy(&self, key: &str, value: &[u8]) {
        let Some(local) = self.copies(key) else { return };
        if self.read_copy(key).await.as_deref() == Some(value) {
            return;
        }
        if let Err(trouble) = local.save(key, value, Keep::ForGood).await {
            log::warn!("the copy of {key} cannot be written: {trouble}");
        }
    }

    /// The store has nothing of it, but this gateway had.
    async fn give_back(&self, key: &str) -> Option<Vec<u8>> {
        let copy = self.read_copy(key).await?;
        log::warn!("{key} is not in {} any more, and is put there again from its copy", self.fleet.name());
        if let Err(why) = self.fleet.put(key, &copy, Keep::ForGood).await {
            log::warn!("{key} cannot be put back: {why}");
        }
        Some(copy)
    }
}

#[async_trait]
impl Storage for Shared {
    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let value = match self.fleet.get(key).await {
            Ok(Found::Value(value)) if value.len() <= LARGEST => value,
            Ok(Found::Nothing) => return Ok(self.give_back(key).await),
            Ok(Found::Value(_) | Found::Unreadable) => {
                let store = self.fleet.name();
                let why = format!(
                    "{key} in {store} cannot be decrypted: do all gateways have the same `secret`? If so, it is damaged: remove it there"
                );
                return Err(Trouble::new(Reason::Storage, why));
            }
            Err(why) => {
                let copy = self.read_copy(key).await.ok_or_else(|| trouble(why.clone()))?;
                log::warn!("{key} is taken from its copy: {why}");
                return Ok(Some(copy));
            }
        };
        self.copy(key, &value).await;
        Ok(Some(value))
    }

    async fn at_hand(&self, key: &str) -> Option<Vec<u8>> {
        self.read_copy(key).await
    }

    async fn save(&self, key: &str, value: &[u8], keep: Keep) -> Result<(), Trouble> {
        // A copy is better than nothing, also where the store has failed.
        self.copy(key, value).await;
        self.fleet.put(key, value, keep).await.map_err(trouble)
    }

    async fn set_aside(&self, key: &str) -> String {
        // Else the copy would be put in its place.
        if let Some(local) = self.copies(key) {
            local.set_aside(key).await;
        }
        match self.fleet.set_aside(key).await {
            Ok(to) => format!("kept as {to}"),
            Err(why) => format!("and cannot be moved: {why}"),
        }
    }

    async fn remove(&self, key: &str) -> Result<(), Trouble> {
        self.fleet.remove(key).await.map_err(trouble)
    }

    async fn lock(&self, key: &str) -> Result<Option<Lock>, Trouble> {
        self.fleet.lock(key).await.map_err(trouble)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

fn trouble(why: String) -> Trouble {
    Trouble::new(Reason::Storage, why)
}
