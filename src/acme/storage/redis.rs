//! A Redis that several gateways share. Whatever stands there is encrypted with a secret of the operator's, since private keys are among
//! it. A lock ends by itself some time after its holder is gone. What was read is kept in `state_dir` as well, so that a start without
//! Redis shows what there was.

use std::{sync::Arc, time::Duration};

use ::redis::{Client, Cmd, FromRedisValue, aio::MultiplexedConnection, cmd};
use async_trait::async_trait;
use openssl::{
    error::ErrorStack,
    sha::sha256,
    symm::{Cipher, decrypt_aead, encrypt_aead},
};
use tokio::sync::Mutex;

use super::{Folder, Keep, LARGEST, Lock, Storage};
use crate::acme::trouble::{Reason, Trouble};

pub(in crate::acme) struct Redis {
    shared: Arc<Shared>,
    /// Where copies are kept.
    local: Option<Folder>,
}

struct Shared {
    client: Client,
    prefix: String,
    key: [u8; 32],
    timeout: Duration,
    lock_for: Duration,
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// A challenge is over long before.
const SHORTLY: Duration = Duration::from_secs(3600);
const NONCE: usize = 12;
const TAG: usize = 16;
/// Only who has taken it lets it go.
const RELEASE: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0";

/// What is let go when it is dropped.
struct Held {
    shared: Arc<Shared>,
    key: String,
    token: String,
}

impl Redis {
    /// `lock_for` is longer than any order takes.
    pub(in crate::acme) fn new(
        client: Client,
        prefix: &str,
        secret: &str,
        (timeout, lock_for): (Duration, Duration),
        local: Option<Folder>,
    ) -> Redis {
        let key = sha256(format!("tidegate acme storage\0{secret}").as_bytes());
        let (prefix, connection) = (prefix.to_owned(), Mutex::default());
        Redis { shared: Arc::new(Shared { client, prefix, key, timeout, lock_for, connection }), local }
    }

    /// Certificates are worth a copy; all else would be wrong by the time it is needed.
    fn copies(&self, key: &str) -> Option<&Folder> {
        self.local.as_ref().filter(|_| key.starts_with("certificates/"))
    }
}

impl Shared {
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Trouble> {
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
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Trouble::new(Reason::Storage, format!("Redis: {error}"))),
            Err(_) => Err(Trouble::new(Reason::Storage, "Redis does not answer in time")),
        }
    }

    fn place(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Bound to its key: nothing can be put in another's place.
    fn encrypt(&self, key: &str, value: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let (mut nonce, mut tag) = ([0; NONCE], [0; TAG]);
        openssl::rand::rand_bytes(&mut nonce)?;
        let cipher = Cipher::aes_256_gcm();
        let text = encrypt_aead(cipher, &self.key, Some(&nonce), key.as_bytes(), value, &mut tag)?;
        Ok([&nonce[..], &tag, &text].concat())
    }

    fn decrypt(&self, key: &str, value: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = value.split_at_checked(NONCE)?;
        let (tag, text) = rest.split_at_checked(TAG)?;
        decrypt_aead(Cipher::aes_256_gcm(), &self.key, Some(nonce), key.as_bytes(), text, tag).ok()
    }
}

#[async_trait]
impl Storage for Redis {
    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let found: Result<Option<Vec<u8>>, _> = self.shared.ask(cmd("GET").arg(self.shared.place(key))).await;
        let found = match (found, self.copies(key)) {
            (Ok(found), _) => found,
            (Err(trouble), None) => return Err(trouble),
            (Err(trouble), Some(local)) => match local.load(key).await {
                Ok(Some(copy)) => {
                    log::warn!("{key} is taken from its copy: {trouble}");
                    return Ok(Some(copy));
                }
                _ => return Err(trouble),
            },
        };
        let Some(found) = found else { return Ok(None) };
        let value = self.shared.decrypt(key, &found).filter(|value| value.len() <= LARGEST);
        let Some(value) = value else {
            let why = format!("{key} in Redis cannot be decrypted: do all gateways have the same `secret`?");
            return Err(Trouble::new(Reason::Storage, why));
        };
        self.copy(key, &value).await;
        Ok(Some(value))
    }

    async fn save(&self, key: &str, value: &[u8], keep: Keep) -> Result<(), Trouble> {
        let text = self.shared.encrypt(key, value)?;
        let mut command = cmd("SET");
        command.arg(self.shared.place(key)).arg(text);
        if keep == Keep::Shortly {
            command.arg("EX").arg(SHORTLY.as_secs());
        }
        // A copy is better than nothing, also where Redis has failed.
        self.copy(key, value).await;
        self.shared.ask::<()>(&command).await
    }

    async fn set_aside(&self, key: &str) -> String {
        let (from, to) = (self.shared.place(key), self.shared.place(&format!("old/{key}")));
        match self.shared.ask::<()>(cmd("RENAME").arg(&from).arg(&to)).await {
            Ok(()) => format!("kept as {to}"),
            Err(trouble) => format!("and cannot be moved: {}", trouble.why),
        }
    }

    async fn remove(&self, key: &str) -> Result<(), Trouble> {
        self.shared.ask::<i64>(cmd("DEL").arg(self.shared.place(key))).await.map(drop)
    }

    async fn lock(&self, key: &str) -> Result<Option<Lock>, Trouble> {
        let (key, token) =
            (self.shared.place(&format!("locks/{key}")), format!("{:032x}", fastrand::u128(..)));
        let mut command = cmd("SET");
        command.arg(&key).arg(&token).arg("NX").arg("PX").arg(self.shared.lock_for.as_millis() as u64);
        let taken: Option<String> = self.shared.ask(&command).await?;
        Ok(taken.map(|_| Box::new(Held { shared: self.shared.clone(), key, token }) as Lock))
    }

    fn is_shared(&self) -> bool {
        true
    }
}

impl Redis {
    async fn copy(&self, key: &str, value: &[u8]) {
        let Some(local) = self.copies(key) else { return };
        if local.load(key).await.ok().flatten().as_deref() == Some(value) {
            return;
        }
        if let Err(trouble) = local.save(key, value, Keep::ForGood).await {
            log::warn!("the copy of {key} cannot be written: {trouble}");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Where nobody is there to do it any more, it ends by itself.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (shared, key, token) = (self.shared.clone(), self.key.clone(), self.token.clone());
        runtime.spawn(async move {
            let mut command = cmd("EVAL");
            command.arg(RELEASE).arg(1).arg(key).arg(token);
            if let Err(trouble) = shared.ask::<i64>(&command).await {
                log::debug!("a lock ends by itself: {trouble}");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(secret: &str) -> Arc<Shared> {
        let client = Client::open("redis://127.0.0.1:1").unwrap();
        let times = (Duration::from_secs(1), Duration::from_secs(600));
        Redis::new(client, "p:", secret, times, None).shared
    }

    #[test]
    fn only_who_has_the_secret_can_read_and_nothing_stands_in_anothers_place() {
        let (one, other) = (shared("a secret of some length"), shared("another secret of some length"));
        let text = one.encrypt("certificates/default/a.example", b"a private key").unwrap();
        assert!(!text.windows(7).any(|part| part == b"private"));
        let read = |by: &Shared, key: &str, text: &[u8]| by.decrypt(key, text);
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
