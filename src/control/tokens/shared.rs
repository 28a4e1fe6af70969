//! Tokens that replicas share: each use is a transaction, so that two replicas do not count one twice.

use std::{sync::Arc, time::SystemTime};

use tokio::runtime::Handle;

use super::{MOST, Token, Wanted, known, not_found, too_many};
use crate::{
    control::{
        refused::{Reason, Refused},
        store::etcd::Shared,
    },
    identity::{JoinToken, SpiffeId},
};

/// How often a use is counted anew after another replica was quicker.
const ATTEMPTS: usize = 5;

pub(crate) struct ForAll {
    shared: Arc<Shared>,
}

impl ForAll {
    pub(super) fn new(shared: Arc<Shared>) -> ForAll {
        ForAll { shared }
    }

    pub(super) fn create(
        &self,
        token: &JoinToken,
        wanted: Wanted,
        now: SystemTime,
    ) -> Result<Token, Refused> {
        let all = self.shared.tokens();
        let (forgotten, kept): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, (token, _))| now >= token.forgotten());
        for (id, (_, revision)) in forgotten {
            // Whoever else removes it is right as well.
            self.change(&id, revision, None)?;
        }
        if kept.len() >= MOST {
            return Err(too_many());
        }
        let made = Token::new(token, wanted, now);
        match self.change(&token.id, 0, Some(&made))? {
            true => Ok(made),
            false => Err(Reason::StoreUnavailable.because("there is a token of that id already (try again)")),
        }
    }

    pub(super) fn list(&self) -> Vec<(String, Token)> {
        self.shared.tokens().into_iter().map(|(id, (token, _))| (id, token)).collect()
    }

    pub(super) fn revoke(&self, id: &str) -> Result<(), Refused> {
        for _ in 0..ATTEMPTS {
            let (_, revision) = self.shared.token(id).ok_or_else(|| not_found(id))?;
            if self.change(id, revision, None)? {
                return Ok(());
            }
        }
        Err(contended())
    }

    pub(super) fn look(&self, token: &JoinToken, now: SystemTime) -> Result<SpiffeId, Refused> {
        if !self.shared.was_read() {
            return Err(Reason::Warming.because("etcd was not read yet (ask again)"));
        }
        let there = self.shared.token(&token.id);
        Ok(known(there.as_ref().map(|(token, _)| token), token, now)?.spiffe.clone())
    }

    pub(super) fn take(&self, token: &JoinToken, now: SystemTime) -> Result<(), Refused> {
        for _ in 0..ATTEMPTS {
            let there = self.shared.token(&token.id);
            known(there.as_ref().map(|(token, _)| token), token, now)?;
            let Some((there, revision)) = there else { break };
            let used = Token { left: there.left.saturating_sub(1), ..there };
            if self.change(&token.id, revision, Some(&used))? {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// Whether nobody else was quicker. This thread may wait.
    fn change(&self, id: &str, revision: u64, token: Option<&Token>) -> Result<bool, Refused> {
        let text = token.map(|token| token.text(id)).transpose();
        let text = text.map_err(|error| Reason::StoreUnavailable.because(error.to_string()))?;
        Handle::current().block_on(self.shared.change_token(id, revision, text)).map_err(|why| {
            log::error!("cannot write a token to etcd: {why}; none is made or taken until that is possible");
            Reason::StoreUnavailable
                .because("it cannot be written down (look at the log of the control plane)")
        })
    }
}

fn contended() -> Refused {
    Reason::StoreUnavailable.because("others use it at the same time (try again)")
}
