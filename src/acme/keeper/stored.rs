//! What a storage has of what is wanted: shown at once, so that no start waits for a CA. It is looked through once for each configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use super::{Id, Inner, Keeper, failures::load_attempts, held_of, leading, place};
use crate::{
    acme::{
        desk::Desk,
        holding::{Held, Holding, read},
        storage::Storage,
    },
    observe::log::event,
    tls::Want,
};

impl Keeper {
    /// Look what is stored of what is wanted, and let go of the rest.
    pub(super) async fn begin(&self, desk: &Desk) {
        let ordered = desk.settings.names.iter().flat_map(|(account, ordered)| {
            ordered.iter().map(|(key, names)| ((account.clone(), key.clone()), names.clone()))
        });
        let wanted: BTreeMap<Id, Arc<[Arc<str>]>> = ordered.collect();
        let kept: BTreeSet<Id> = {
            let mut guard = self.lock();
            let Inner { holdings, waiting, .. } = &mut *guard;
            holdings.retain(|id, holding| {
                let is_kept = match holding.want {
                    Want::Named => wanted.contains_key(id),
                    // One that is configured now is found in the storage.
                    Want::OnDemand => desk.orders_on_demand(&id.0) && !wanted.contains_key(id),
                };
                if !is_kept {
                    waiting.end(id);
                }
                is_kept
            });
            holdings.keys().cloned().collect()
        };
        self.issued.retain(|account, name| kept.contains(&(Arc::from(account), Arc::from(name))));
        self.show_at_hand(desk, &wanted).await;
        for (id, names) in wanted {
            if let Some(holding) = self.lock().holdings.get_mut(&id) {
                holding.names = names;
                continue;
            }
            let Some(account) = desk.accounts.get(&id.0) else { continue };
            let attempts = load_attempts(&id, account).await.unwrap_or_default();
            let held = self.load(&id, &names, account.storage.as_ref(), SystemTime::now()).await;
            let holding = Holding { attempts, ..Holding::new(names, Want::Named, held) };
            self.lock().holdings.insert(id, holding);
        }
        self.count(desk);
    }

    /// A storage may take its time to answer, or not to. Until then copies are shown.
    async fn show_at_hand(&self, desk: &Desk, wanted: &BTreeMap<Id, Arc<[Arc<str>]>>) {
        for (id, names) in wanted {
            if self.lock().holdings.contains_key(id) {
                continue;
            }
            let Some(account) = desk.accounts.get(&id.0) else { continue };
            if let Some(copy) = account.storage.at_hand(&place("certificates", id)).await
                && let Ok((certificate, _)) = read(names, &copy)
            {
                self.issued.put(&id.0, &id.1, certificate, Want::Named);
            }
        }
    }

    /// What is stored of one, shown from now on. What cannot be used is put aside, and ordered anew.
    async fn load(
        &self,
        id: &Id,
        names: &[Arc<str>],
        storage: &dyn Storage,
        ask_at: SystemTime,
    ) -> Option<Held> {
        let key = place("certificates", id);
        let stored = match storage.load(&key).await {
            Ok(stored) => stored?,
            Err(trouble) => {
                event!(Error, "a stored certificate cannot be read", name = leading(id), why = trouble);
                return None;
            }
        };
        match read(names, &stored) {
            Ok((certificate, record)) => {
                let held = held_of(&certificate, record.directory, ask_at);
                self.issued.put(&id.0, &id.1, certificate, Want::Named);
                Some(held)
            }
            Err(why) => {
                let moved = storage.set_aside(&key).await;
                event!(
                    Error,
                    "a stored certificate is not used",
                    name = leading(id),
                    why = why,
                    moved = moved
                );
                None
            }
        }
    }
}
