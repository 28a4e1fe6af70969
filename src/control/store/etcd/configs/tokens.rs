//! Tokens for first SVIDs in etcd, as the keys `tokens/ID`: hashes of their secrets alone. Each replica knows all of them, so that a guess
//! costs etcd nothing; a use counts only where nobody else has counted one meanwhile.

use std::collections::BTreeMap;

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};

use super::super::{
    Shared,
    write::{COMES_BACK, present, transact},
};
use crate::control::tokens::Token;

impl Shared {
    /// By their ids, with the revisions of their keys.
    pub(crate) fn tokens(&self) -> BTreeMap<String, (Token, u64)> {
        self.configs.state().mirror.tokens()
    }

    pub(crate) fn token(&self, id: &str) -> Option<(Token, u64)> {
        self.configs.state().mirror.token(id)
    }

    /// Writes `text`, or removes the key, where that is as of `revision`; 0 is one that is not there. Whether it was.
    ///
    /// # Errors
    ///
    /// It is not known to be written.
    pub(crate) async fn change_token(
        &self,
        id: &str,
        revision: u64,
        text: Option<Vec<u8>>,
    ) -> Result<bool, String> {
        let key = self.layout.token(id);
        let then = match text {
            Some(text) => TxnOp::put(key.clone(), text, None),
            None => TxnOp::delete(key.clone(), None),
        };
        let revision = i64::try_from(revision).unwrap_or(i64::MAX);
        let is_as_thought = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
        let otherwise = TxnOp::get(key, Some(GetOptions::new().with_keys_only()));
        let txn = Txn::new().when([is_as_thought]).and_then([then]).or_else([otherwise]);
        let answered = transact(self, txn).await;
        self.metrics.operation("token", if answered.is_ok() { "ok" } else { "unavailable" });
        let answer = answered?.0;
        let written = answer.header.as_ref().map_or(0, |header| u64::try_from(header.revision).unwrap_or(0));
        self.wait_for(if answer.succeeded { written } else { present(&answer) }, COMES_BACK).await;
        Ok(answer.succeeded)
    }

    /// What a restored store has otherwise. Where somebody was quicker, that is heard of.
    pub(super) async fn restore_tokens(&self) {
        let tokens = self.configs.state().mirror.tokens_to_restore();
        for (id, revision, token) in tokens {
            let Ok(text) = token.map(|token| token.text(&id)).transpose() else { continue };
            if let Err(why) = self.change_token(&id, revision, text).await {
                log::warn!("the token {id} is not in etcd as it was yet: {why}");
                return;
            }
        }
    }
}
