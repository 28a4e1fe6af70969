//! Puts the proof of a challenge where the CA looks for it, and takes it away again.

use std::{any::Any, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};

use super::{
    dns::Hook,
    order::digest,
    proofs::Proofs,
    settings::Challenge,
    storage::Storage,
    trouble::{Reason, Trouble},
};
use crate::{fleet::Keep, tls::Issued};

pub(super) struct Publisher<'a> {
    pub proofs: &'a Arc<Proofs>,
    pub issued: &'a Arc<Issued>,
    pub hook: Option<&'a Hook>,
    /// Where other gateways find the proof, if they are asked.
    pub storage: &'a dyn Storage,
}

/// It can be seen for as long as this lives.
pub(super) struct Published<'a> {
    _here: Option<Box<dyn Any + Send + Sync>>,
    /// In the storage.
    shared: Option<(&'a dyn Storage, String)>,
    hook: Option<(&'a Hook, String, String)>,
}

impl<'a> Publisher<'a> {
    pub(super) async fn publish(
        &self,
        kind: Challenge,
        name: &str,
        token: &str,
        answer: &str,
    ) -> Result<Published<'a>, Trouble> {
        let mut published = Published { _here: None, shared: None, hook: None };
        match kind {
            Challenge::Http01 => {
                published._here = Some(Box::new(self.proofs.prove(token, answer)));
                published.shared = self.share(format!("challenges/{token}"), answer.as_bytes()).await?;
            }
            Challenge::TlsAlpn01 => {
                let digest = digest(answer);
                let here = self.issued.prove(name, &digest).map_err(Trouble::from)?;
                published._here = Some(Box::new(here));
                published.shared = self.share(format!("challenges/{name}"), &digest).await?;
            }
            Challenge::Dns01 => {
                let hook = self.hook.ok_or_else(|| {
                    Trouble::new(Reason::NoChallenge, "dns-01 needs a `dns` hook, and there is none")
                })?;
                let value = BASE64.encode(digest(answer));
                hook.present(name, &value).await?;
                published.hook = Some((hook, name.to_owned(), value));
            }
        }
        Ok(published)
    }

    async fn share(&self, key: String, value: &[u8]) -> Result<Option<(&'a dyn Storage, String)>, Trouble> {
        self.storage.save(&key, value, Keep::Shortly).await?;
        Ok(Some((self.storage, key)))
    }
}

impl Published<'_> {
    /// What cannot be taken away is of no more use to anybody, and is only told.
    pub(super) async fn withdraw(self) {
        if let Some((storage, key)) = &self.shared
            && let Err(trouble) = storage.remove(key).await
        {
            log::debug!("a challenge stays in the storage: {trouble}");
        }
        if let Some((hook, name, value)) = &self.hook
            && let Err(trouble) = hook.clean_up(name, value).await
        {
            log::warn!("the record of dns-01 for {name} is not taken away: {trouble}");
        }
    }
}
