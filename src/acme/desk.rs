//! What a configuration makes of accounts: their CAs, their hooks, and the storage, ready for use.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ca::Ca,
    dns::Hook,
    settings::{AccountSettings, Settings},
    storage::{self, Storage},
};
use crate::{names::Resolve, policy::bucket::Bucket};

pub(super) struct Desk {
    pub settings: Arc<Settings>,
    pub accounts: BTreeMap<Arc<str>, Arc<AccountDesk>>,
    pub storage: Option<Arc<dyn Storage>>,
}

pub(super) struct AccountDesk {
    pub name: Arc<str>,
    pub settings: AccountSettings,
    pub cas: Vec<Ca>,
    pub hook: Option<Hook>,
    /// One at a time makes the account that all others use.
    pub opening: tokio::sync::Mutex<()>,
}

/// Orders of an account, over all configurations.
pub(super) type Budgets = BTreeMap<Arc<str>, Bucket>;

impl Desk {
    pub(super) fn new(settings: Arc<Settings>, names: &Arc<dyn Resolve>) -> Desk {
        let accounts = settings.accounts.iter().map(|(name, settings)| {
            let cas = settings.cas.iter();
            let cas = cas.map(|ca| Ca::new(ca.clone(), settings.request_timeout, names.clone())).collect();
            let hook = settings.dns.clone().map(|hook| Hook::new(hook, names.clone()));
            let (settings, opening) = (settings.clone(), tokio::sync::Mutex::default());
            (name.clone(), Arc::new(AccountDesk { name: name.clone(), settings, cas, hook, opening }))
        });
        let accounts = accounts.collect();
        Desk { accounts, storage: settings.storage.as_ref().map(storage::open), settings }
    }
}
