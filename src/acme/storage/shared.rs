//! What several gateways share, in a store of somebody else's. Whatever stands there is encrypted with a secret of the operator's, since
//! private keys are among it. Certificates are kept in `state_dir` as well, so that a start shows what there was where the store
//! is away; and a store that has lost them gets them back.

use async_trait::async_trait;
use openssl::{
    error::ErrorStack,
    sha::sha256,
    symm::{Cipher, decrypt_aead, encrypt_aead},
};

use super::{Folder, Keep, LARGEST, Lock, Storage};
use crate::acme::trouble::{Reason, Trouble};

const NONCE: usize = 12;
const TAG: usize = 16;

/// Bytes by key. What goes wrong is said in words.
#[async_trait]
pub(super) trait Store: Send + Sync {
    /// For messages.
    fn name(&self) -> &'static str;

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, String>;

    async fn put(&self, key: &str, value: Vec<u8>, keep: Keep) -> Result<(), String>;

    /// Out of the way of `key`; where it stands now.
    async fn set_aside(&self, key: &str) -> Result<String, String>;

    async fn remove(&self, key: &str) -> Result<(), String>;

    /// `None` while somebody else has it.
    async fn lock(&self, key: &str) -> Result<Option<Lock>, String>;
}

pub(super) struct Shared {
    store: Box<dyn Store>,
    secret: Secret,
    /// Where copies are kept.
    local: Option<Folder>,
}

/// What is needed to read it.
struct Secret([u8; 32]);

impl Shared {
    pub(super) fn new(store: Box<dyn Store>, secret: &str, local: Option<Folder>) -> Shared {
        Shared { store, secret: Secret::new(secret), local }
    }

    fn trouble(&self, why: &str) -> Trouble {
        Trouble::new(Reason::Storage, format!("{}: {why}", self.store.name()))
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

    async fn put(&self, key: &str, value: &[u8], keep: Keep) -> Result<(), Trouble> {
        let text = self.secret.encrypt(key, value)?;
        self.store.put(key, text, keep).await.map_err(|why| self.trouble(&why))
    }

    /// The store has nothing of it, but this gateway had.
    async fn give_back(&self, key: &str) -> Option<Vec<u8>> {
        let copy = self.read_copy(key).await?;
        log::warn!("{key} is not in {} any more, and is put there again from its copy", self.store.name());
        if let Err(trouble) = self.put(key, &copy, Keep::ForGood).await {
            log::warn!("{key} cannot be put back: {trouble}");
        }
        Some(copy)
    }
}

#[async_trait]
impl Storage for Shared {
    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let found = match self.store.get(key).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(self.give_back(key).await),
            Err(why) => {
                let trouble = self.trouble(&why);
                let copy = self.read_copy(key).await.ok_or_else(|| trouble.clone())?;
                log::warn!("{key} is taken from its copy: {trouble}");
                return Ok(Some(copy));
            }
        };
        let value = self.secret.decrypt(key, &found).filter(|value| value.len() <= LARGEST);
        let Some(value) = value else {
            let store = self.store.name();
            let why = format!(
                "{key} in {store} cannot be decrypted: do all gateways have the same `secret`? If so, it is damaged: remove it there"
            );
            return Err(Trouble::new(Reason::Storage, why));
        };
        self.copy(key, &value).await;
        Ok(Some(value))
    }

    async fn save(&self, key: &str, value: &[u8], keep: Keep) -> Result<(), Trouble> {
        // A copy is better than nothing, also where the store has failed.
        self.copy(key, value).await;
        self.put(key, value, keep).await
    }

    async fn set_aside(&self, key: &str) -> String {
        // Else the copy would be put in its place.
        if let Some(local) = self.copies(key) {
            local.set_aside(key).await;
        }
        match self.store.set_aside(key).await {
            Ok(to) => format!("kept as {to}"),
            Err(why) => format!("and cannot be moved: {}", self.trouble(&why).why),
        }
    }

    async fn remove(&self, key: &str) -> Result<(), Trouble> {
        self.store.remove(key).await.map_err(|why| self.trouble(&why))
    }

    async fn lock(&self, key: &str) -> Result<Option<Lock>, Trouble> {
        self.store.lock(&format!("locks/{key}")).await.map_err(|why| self.trouble(&why))
    }

    fn is_shared(&self) -> bool {
        true
    }
}

impl Secret {
    fn new(secret: &str) -> Secret {
        Secret(sha256(format!("tidegate acme storage\0{secret}").as_bytes()))
    }

    /// Bound to its key: nothing can be put in another's place.
    fn encrypt(&self, key: &str, value: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let (mut nonce, mut tag) = ([0; NONCE], [0; TAG]);
        openssl::rand::rand_bytes(&mut nonce)?;
        let cipher = Cipher::aes_256_gcm();
        let text = encrypt_aead(cipher, &self.0, Some(&nonce), key.as_bytes(), value, &mut tag)?;
        Ok([&nonce[..], &tag, &text].concat())
    }

    fn decrypt(&self, key: &str, value: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = value.split_at_checked(NONCE)?;
        let (tag, text) = rest.split_at_checked(TAG)?;
        decrypt_aead(Cipher::aes_256_gcm(), &self.0, Some(nonce), key.as_bytes(), text, tag).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_secret_can_read_and_nothing_stands_in_anothers_place() {
        let (one, other) = (Secret::new("a secret of some length"), Secret::new("another secret of some length"));
        let text = one.encrypt("certificates/default/a.example", b"a private key").unwrap();
        assert!(!text.windows(7).any(|part| part == b"private"));
        let read = |by: &Secret, key: &str, text: &[u8]| by.decrypt(key, text);
        assert_eq!(
            read(&one, "certificates/default/a.example", &text).as_deref(),
            Some(&b"a private key"[..])
        );
        assert_eq!(read(&one, "certificates/default/b.example", &text), None);
        assert_eq!(read(&other, "certificates/default/a.example", &text), None);
        for length in 0..text.len() {
            assert_eq!(read(&one, "certificates/default/a.example", &text[..length]), None);
        }
    }
}
