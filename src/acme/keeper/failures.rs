//! What has failed, and which CA is asked next. It is kept in the storage: a CA counts the failures of all gateways.

use std::time::{Duration, SystemTime};

use super::{Id, Keeper, leading, place};
use crate::{
    acme::{
        desk::AccountDesk,
        holding::{Failed, Holding, Tried},
        trouble::{Reason, Trouble},
    },
    observe::log::event,
    policy::issuance::{Attempts, Next},
};

impl Keeper {
    pub(super) fn tell_failure(
        &self,
        of: &AccountDesk,
        id: &Id,
        ca: usize,
        holding: &mut Holding,
        trouble: Trouble,
        now: SystemTime,
    ) {
        let name = of.cas[ca].settings.name.clone();
        let pace = of.settings.pace;
        let rest = holding.attempts.failed(ca, pace, trouble.retry_after, now, &mut fastrand::Rng::new());
        self.acme().ordered(&id.0, &name, trouble.reason.word());
        // Seconds are enough for whoever reads it.
        let again_in = humantime::format_duration(Duration::from_secs(rest.as_secs()));
        let reason = trouble.reason.word();
        event!(
            Error,
            "no certificate",
            name = leading(id),
            account = id.0,
            ca = name,
            reason = reason,
            why = trouble,
            again_in = again_in
        );
        holding.failed = Some(Failed { at: now, ca: name, trouble });
    }

    /// A CA counts the failures of all gateways, so they rest together; an operator's word counts once more than that.
    pub(super) async fn next_ca(&self, of: &AccountDesk, id: &Id, now: SystemTime) -> Next {
        let stored = load_attempts(id, of).await;
        let mut inner = self.lock();
        let Some(holding) = inner.holdings.get_mut(id) else { return Next::Wait(now) };
        // What a storage has not taken is known here alone.
        let is_known_here =
            holding.failed.as_ref().is_some_and(|failed| failed.trouble.reason == Reason::Storage);
        if let Some(stored) = stored.filter(|_| !is_known_here) {
            holding.attempts = stored;
        }
        if holding.is_woken {
            holding.attempts.wake();
        }
        holding.attempts.next(of.cas.len(), now)
    }
}

/// `None` where nobody knows of any with these CAs.
pub(super) async fn load_attempts(id: &Id, of: &AccountDesk) -> Option<Attempts> {
    let stored = of.storage.load(&place("attempts", id)).await.ok().flatten()?;
    let tried: Tried = serde_json::from_slice(&stored).ok()?;
    (tried.cas == directories(of)).then_some(tried.attempts)
}

pub(super) fn directories(of: &AccountDesk) -> Vec<String> {
    of.cas.iter().map(|ca| ca.settings.directory.clone()).collect()
}
