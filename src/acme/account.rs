//! The account that orders at one CA: made with the first order, kept in the storage from then on.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    ca::{Answer, Ca, Failed},
    jws::{AccountKey, Signatory},
    storage::Storage,
    trouble::{Reason, Trouble},
};
use crate::{fleet::Keep, identity::hex};

pub(super) struct Account {
    pub key: AccountKey,
    pub url: String,
}

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Record {
    directory: String,
    url: String,
    key: String,
}

impl Account {
    /// The one that is stored, or a new one. `name` is what the operator calls it.
    pub(super) async fn open(
        name: &str,
        email: Option<&str>,
        ca: &Ca,
        storage: &dyn Storage,
    ) -> Result<Account, Trouble> {
        let at = place(name, ca);
        if let Some(account) = storage.load(&at).await?.and_then(|stored| read(&stored, ca)) {
            return Ok(account);
        }
        let account = Account::register(email, ca).await?;
        let record = Record {
            directory: ca.settings.directory.clone(),
            url: account.url.clone(),
            key: account.key.to_pem()?,
        };
        let record = serde_json::to_vec(&record).unwrap_or_default();
        storage.save(&at, &record, Keep::ForGood).await?;
        Ok(account)
    }

    /// The CA knows it no more: the next order makes another.
    pub(super) async fn forget(name: &str, ca: &Ca, storage: &dyn Storage) {
        if let Err(trouble) = storage.remove(&place(name, ca)).await {
            log::warn!("the ACME account {name} cannot be forgotten: {trouble}");
        }
    }

    async fn register(email: Option<&str>, ca: &Ca) -> Result<Account, Trouble> {
        let key = AccountKey::generate()?;
        let url = ca.directory().await?.new_account.clone();
        let mut wanted = json!({"termsOfServiceAgreed": true});
        if let Some(email) = email {
            wanted["contact"] = json!([format!("mailto:{email}")]);
        }
        if let Some(eab) = &ca.settings.eab {
            wanted["externalAccountBinding"] = key.bind(&url, &eab.key_id, &eab.secret)?;
        }
        let answer = ca.post(&url, &key, &Signatory::Key, Some(&wanted)).await;
        let answer = answer.map_err(|failed| failed.or(Reason::AccountRefused))?;
        let url =
            answer.location().ok_or_else(|| Trouble::bad_answer("the CA makes an account without a URL"))?;
        ca.check(&url)?;
        Ok(Account { key, url })
    }

    pub(super) async fn post(
        &self,
        ca: &Ca,
        url: &str,
        payload: Option<&serde_json::Value>,
    ) -> Result<Answer, Failed> {
        ca.post(url, &self.key, &Signatory::Account(&self.url), payload).await
    }
}

fn read(stored: &[u8], ca: &Ca) -> Option<Account> {
    let Record { directory, url, key } = serde_json::from_slice(stored).ok()?;
    if directory != ca.settings.directory || ca.check(&url).is_err() {
        return None;
    }
    Some(Account { key: AccountKey::from_pem(&key)?, url })
}

/// One for each CA: whoever tries staging first and then the real one has two.
fn place(name: &str, ca: &Ca) -> String {
    let print = hex(&openssl::sha::sha256(ca.settings.directory.as_bytes()));
    format!("accounts/{name}-{}", &print[..16])
}
