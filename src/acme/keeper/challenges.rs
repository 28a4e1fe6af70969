//! Answers CAs that ask for a proof, also for orders that another gateway has under way: their proofs are in the storage.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};

use super::Keeper;
use crate::{
    acme::{proofs::token_in, settings::Challenge},
    policy::bucket::Limit,
    tls::Elsewhere,
};

/// Of challenges in the storage, and how long one may take. A CA looks from several places at once at the proofs of all orders that a
/// fleet has under way, and what it does not find counts against the account.
const LOOKUPS: Limit = Limit::per_second(1_000);
const LOOKUP: Duration = Duration::from_secs(3);

impl Keeper {
    /// Whether a path is that of a challenge, under way or not.
    pub(crate) fn is_challenge(path: &str) -> bool {
        token_in(path).is_some()
    }

    /// What is to be answered to a request for this path, if it is that of a challenge under way: here, or at another gateway.
    pub(crate) async fn answer(&self, path: &str, client: IpAddr) -> Option<Arc<str>> {
        let token = token_in(path)?;
        let answer = match self.proofs.answer(token) {
            Some(answer) => Some(answer),
            None => self.answer_elsewhere(token, client).await,
        };
        match answer {
            Some(_) => self.acme().challenge_answered(Challenge::Http01.word()),
            None => self.acme().challenge_unknown(Challenge::Http01.word()),
        }
        answer
    }

    async fn answer_elsewhere(&self, token: &str, client: IpAddr) -> Option<Arc<str>> {
        let found = self.challenge_elsewhere(Challenge::Http01, token, client).await?;
        String::from_utf8(found).ok().map(Into::into)
    }

    /// What another gateway has written down of a challenge that is under way there. Strangers may ask for anything: the storage is
    /// asked so often, and no more often.
    async fn challenge_elsewhere(&self, challenge: Challenge, what: &str, client: IpAddr) -> Option<Vec<u8>> {
        let desk = self.desk.load_full()?;
        let now = self.passed();
        let is_allowed = {
            let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
            lookups.takes(&LOOKUPS, self.digest_of(client), now)
        };
        if !is_allowed {
            self.acme().challenge_throttled(challenge.word());
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
    fn digest(&self, name: String, client: IpAddr) -> BoxFuture<'static, Option<[u8; 32]>> {
        let keeper = self.0.upgrade();
        let challenge = Challenge::TlsAlpn01;
        async move { keeper?.challenge_elsewhere(challenge, &name, client).await?.try_into().ok() }.boxed()
    }
}
