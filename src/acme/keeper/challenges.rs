//! Answers CAs that ask for a proof, also for orders that another gateway has under way: their proofs are in the storage.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};

use super::Keeper;
use crate::{
    acme::{proofs::token_in, settings::Challenge},
    policy::bucket::Limit,
    tls::Elsewhere,
};

/// Of challenges in the storage, and how long one may take.
const LOOKUPS: Limit = Limit::per_second(20);
const LOOKUP: Duration = Duration::from_secs(3);

impl Keeper {
    /// Whether a path is that of a challenge, under way or not.
    pub(crate) fn is_challenge(path: &str) -> bool {
        token_in(path).is_some()
    }

    /// What is to be answered to a request for this path, if it is that of a challenge under way: here, or at another gateway.
    pub(crate) async fn answer(&self, path: &str) -> Option<Arc<str>> {
        let token = token_in(path)?;
        let answer = match self.proofs.answer(token) {
            Some(answer) => Some(answer),
            None => self.answer_elsewhere(token).await,
        };
        match answer {
            Some(_) => self.acme().challenge_answered(Challenge::Http01.word()),
            None => self.acme().challenge_unknown(Challenge::Http01.word()),
        }
        answer
    }

    /// Strangers may ask for anything: the storage is asked so often, and no more often.
    async fn answer_elsewhere(&self, token: &str) -> Option<Arc<str>> {
        let found = self.challenge_elsewhere(token).await?;
        String::from_utf8(found).ok().map(Into::into)
    }

    /// What another gateway has written down of a challenge that is under way there.
    async fn challenge_elsewhere(&self, what: &str) -> Option<Vec<u8>> {
        let desk = self.desk.load_full()?;
        if !self.lookups.decide(&LOOKUPS, self.passed(), 1).allowed {
            return None;
        }
        let key = format!("challenges/{what}");
        for account in desk.accounts.values() {
            let loaded = tokio::time::timeout(LOOKUP, account.storage.load(&key)).await;
            if let Ok(Ok(Some(found))) = loaded {
                return Some(found);
            }
        }
        None
    }
}

/// What TLS asks where a proof is not under way here.
pub(super) struct ProofsElsewhere(pub Weak<Keeper>);

impl Elsewhere for ProofsElsewhere {
    fn digest(&self, name: String) -> BoxFuture<'static, Option<[u8; 32]>> {
        let keeper = self.0.upgrade();
        async move { keeper?.challenge_elsewhere(&name).await?.try_into().ok() }.boxed()
    }
}
