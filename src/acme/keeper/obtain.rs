//! Has one CA issue a certificate, with an account that is opened where there is none, and keeps what comes of it. When, and which CA,
//! has been decided before.

use std::sync::Arc;

use super::{Id, Keeper, leading, ordering::Before, place};
use crate::{
    acme::{
        account::Account,
        ca::Ca,
        desk::AccountDesk,
        holding::Record,
        order::{self, Obtained, Wanted},
        publish::Publisher,
        settings::Challenge,
        storage::Storage,
        trouble::{Reason, Trouble},
    },
    fleet::Keep,
    observe::log::event,
};

impl Keeper {
    pub(super) async fn obtain(
        &self,
        of: &AccountDesk,
        (id, names): (&Id, &[Arc<str>]),
        ca: &Ca,
        failures: u32,
        before: Option<&Before>,
    ) -> Result<Obtained, Trouble> {
        let storage = of.storage.as_ref();
        // What has failed once is tried in another way.
        let mut challenges: Vec<Challenge> = of.settings.challenges.clone();
        if names.iter().any(|name| name.starts_with("*.")) {
            challenges.retain(|challenge| *challenge == Challenge::Dns01);
        }
        let turn = (failures as usize).checked_rem(challenges.len()).unwrap_or_default();
        challenges.rotate_left(turn);
        let replaces = before.filter(|(_, directory, _)| *directory == ca.settings.directory);
        let has_ari = ca.directory().await?.renewal_info.is_some();
        let replaces = replaces.and_then(|(.., id)| id.as_deref()).filter(|_| has_ari);
        let wanted = Wanted { names, key: of.settings.key, challenges: &challenges, replaces };
        let hook = of.hook.as_ref();
        let publisher = Publisher { proofs: &self.proofs, issued: &self.issued, hook, storage };
        let ordering = async {
            let account = self.open(of, storage, ca).await?;
            match order::obtain(ca, &account, &wanted, &publisher).await {
                // It may have forgotten an account of long ago: with a new one it may be another matter.
                Err(trouble) if trouble.reason == Reason::AccountRefused => {
                    Account::forget(&of.name, ca, storage).await;
                    let account = self.open(of, storage, ca).await?;
                    order::obtain(ca, &account, &wanted, &publisher).await
                }
                ordered => ordered,
            }
        };
        let ordered = match tokio::time::timeout(of.settings.order_timeout, ordering).await {
            Ok(ordered) => ordered,
            Err(_) => Err(Trouble::new(Reason::Timeout, "the order was not finished in time")),
        };
        let obtained = ordered?;
        let record = Record::of(&obtained, &ca.settings.directory);
        let record = serde_json::to_vec(&record).unwrap_or_default();
        let saved = storage.save(&place("certificates", id), &record, Keep::ForGood).await;
        // It is shown all the same: an order costs more than a disk that is full.
        if let Err(why) = saved {
            let message = "a certificate cannot be kept, and is ordered again after a restart";
            event!(Error, message, name = leading(id), why = why);
        }
        Ok(obtained)
    }

    /// One at a time, so that orders that begin together make one account.
    async fn open(&self, of: &AccountDesk, storage: &dyn Storage, ca: &Ca) -> Result<Account, Trouble> {
        let _opening = of.opening.lock().await;
        Account::open(&of.name, of.settings.email.as_deref(), ca, storage).await
    }
}
