//! What a configuration makes of accounts: their CAs, their hooks, and the storage, ready for use.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    ca::Ca,
    dns::Hook,
    on_demand::Asking,
    settings::{AccountSettings, Challenge, Settings},
    storage::{self, Storage},
};
use crate::{names::Resolve, observe::metrics::Metrics};

/// Than an order may take: a lock that ends while its holder still orders is none.
const LOCK_LONGER: Duration = Duration::from_secs(60);

pub(super) struct Desk {
    pub settings: Arc<Settings>,
    pub accounts: BTreeMap<Arc<str>, Arc<AccountDesk>>,
}

pub(super) struct AccountDesk {
    pub name: Arc<str>,
    pub settings: AccountSettings,
    pub cas: Vec<Ca>,
    pub hook: Option<Hook>,
    pub asking: Option<Asking>,
    pub storage: Arc<dyn Storage>,
    /// One at a time makes the account that all others use.
    pub opening: tokio::sync::Mutex<()>,
}

impl Desk {
    pub(super) fn new(settings: Arc<Settings>, names: &Arc<dyn Resolve>, metrics: &Metrics) -> Desk {
        let accounts = settings.accounts.iter().map(|(name, settings)| {
            let cas = settings.cas.iter();
            let cas = cas.map(|ca| Ca::new(ca.clone(), settings.request_timeout, names.clone())).collect();
            let hook = settings.dns.clone().map(|hook| Hook::new(hook, names.clone()));
            let asking = settings.on_demand.clone().map(|asked| Asking::new(asked, names.clone()));
            let storage =
                storage::open(&settings.storage, settings.order_timeout + LOCK_LONGER, names, metrics);
            let (settings, opening) = (settings.clone(), tokio::sync::Mutex::default());
            (
                name.clone(),
                Arc::new(AccountDesk { name: name.clone(), settings, cas, hook, asking, storage, opening }),
            )
        });
        let accounts = accounts.collect();
        Desk { accounts, settings }
    }

    /// Whether names are ordered that nobody has configured.
    pub(super) fn orders_on_demand(&self, account: &str) -> bool {
        self.accounts.get(account).is_some_and(|account| account.asking.is_some())
    }

    /// Whether a CA may come by here to see the proof of an order elsewhere, at the beginning of TLS.
    pub(super) fn proves_for_others(&self) -> bool {
        self.accounts.values().any(|account| {
            account.storage.is_shared() && account.settings.challenges.contains(&Challenge::TlsAlpn01)
        })
    }
}
