//! Begins what is due: orders, and questions to CAs that may want a certificate renewed at another time. It says when to look again, and waits
//! for nothing itself.

use std::{sync::Arc, time::SystemTime};

use tokio::task::JoinSet;

use super::{Id, Keeper, LONGEST_SLEEP};
use crate::{
    acme::{
        ari,
        desk::{AccountDesk, Desk},
    },
    policy::issuance::Next,
};

impl Keeper {
    /// Begin the orders that are due, as many as may be, and answer when to look again.
    pub(super) fn step(self: &Arc<Self>, desk: &Arc<Desk>, orders: &mut JoinSet<()>) -> SystemTime {
        let now = SystemTime::now();
        let mut next = now + LONGEST_SLEEP;
        let mut guard = self.lock();
        let inner = &mut *guard;
        for ((account, name), holding) in &mut inner.holdings {
            let Some(of) = desk.accounts.get(account) else { continue };
            if holding.is_busy {
                continue;
            }
            let later = holding.not_before.filter(|until| *until > now);
            if let Some(until) = later {
                next = next.min(until);
                continue;
            }
            if holding.is_due(of.settings.renewal, now) {
                let ca = match holding.attempts.next(of.cas.len(), now) {
                    Next::Try(ca, _) => ca,
                    // Another gateway may have a certificate meanwhile: that is looked for now and then.
                    Next::Wait(_) if of.storage.is_shared() => 0,
                    Next::Wait(until) => {
                        next = next.min(until);
                        continue;
                    }
                };
                if orders.len() < of.settings.at_once.get() {
                    holding.is_busy = true;
                    orders.spawn(self.clone().order(of.clone(), (account.clone(), name.clone()), ca));
                }
                continue;
            }
            let Some(held) = &mut holding.held else { continue };
            next = next.min(held.due(of.settings.renewal));
            if held.ask_at <= now {
                held.ask_at = now + ari::AFTER_FAILURE;
                if let Some(id) = &held.id {
                    let (keeper, of) = (self.clone(), of.clone());
                    let (own, id, directory) =
                        ((account.clone(), name.clone()), id.clone(), held.directory.clone());
                    orders.spawn(async move { keeper.ask_when(&of, own, id, &directory).await });
                }
            }
        }
        next
    }

    /// The CA whose certificate it is may have it renewed earlier, or later.
    async fn ask_when(&self, of: &AccountDesk, own: Id, id: String, directory: &str) {
        let Some(ca) = of.cas.iter().find(|ca| ca.settings.directory == directory) else { return };
        let asked = ari::ask(ca, &id).await;
        let now = SystemTime::now();
        let mut inner = self.lock();
        let held = inner.holdings.get_mut(&own).and_then(|holding| holding.held.as_mut());
        let Some(held) = held.filter(|held| held.id.as_deref() == Some(id.as_str())) else { return };
        match asked {
            Ok((window, again)) => {
                held.window = window;
                held.ask_at = now + again;
            }
            Err(trouble) => {
                log::debug!("{} does not say when {} is renewed: {trouble}", ca.settings.name, own.1)
            }
        }
    }
}
