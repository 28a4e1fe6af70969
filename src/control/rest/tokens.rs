//! Tokens for first SVIDs, which an operator makes, lists and revokes.

use std::{sync::Arc, time::SystemTime};

use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    reply::{self, Answer},
    router::Api,
    services::{read, timestamp},
};
use crate::{
    config::HumanDuration,
    control::{
        access::Caller,
        issuing::Issuing,
        refused::{Reason, Refused},
        tokens::Token,
    },
};

/// `POST /v1/tokens`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// The SPIFFE ID that it is for.
    id: String,
    /// How many SVIDs it is good for. Default: 1.
    uses: Option<u32>,
    /// How long it may be used, up to 30d. Default: 1h.
    ttl: Option<HumanDuration>,
}

/// A token, without its secret.
#[derive(Serialize, JsonSchema)]
pub(super) struct TokenRecord {
    id: String,
    spiffe: String,
    uses: u32,
    /// How often it may still be used.
    left: u32,
    until: String,
    created: String,
    by: String,
    /// `usable`, `used` or `ended`.
    state: &'static str,
}

/// The answer to a new token.
#[derive(Serialize, JsonSchema)]
pub(super) struct CreatedToken {
    #[serde(flatten)]
    record: TokenRecord,
    /// What is handed to whoever may use it. It is not shown again.
    token: String,
}

/// All tokens that are remembered.
#[derive(Serialize, JsonSchema)]
pub(super) struct TokenList {
    tokens: Vec<TokenRecord>,
}

impl TokenRecord {
    fn of(id: &str, token: &Token, now: SystemTime) -> TokenRecord {
        let state = match (now < token.until, token.left) {
            (_, 0) => "used",
            (false, _) => "ended",
            (true, _) => "usable",
        };
        TokenRecord {
            id: id.to_owned(),
            spiffe: token.spiffe.to_string(),
            uses: token.uses,
            left: token.left,
            until: timestamp(token.until),
            created: timestamp(token.created),
            by: token.by.clone(),
            state,
        }
    }
}

impl Api {
    pub(super) async fn create_token(&self, caller: Caller, body: &[u8]) -> Result<Answer, Refused> {
        let NewToken { id, uses, ttl } = read(body)?;
        let ttl = ttl.unwrap_or(HumanDuration::from_secs(3600)).into();
        let issuing = self.issuing()?.clone();
        let (token, made) =
            blocking(move || issuing.create_token(&id, uses.unwrap_or(1), ttl, &caller)).await?;
        let record = TokenRecord::of(&token.id, &made, SystemTime::now());
        let token = token.text().expose().to_owned();
        Ok(reply::json(StatusCode::CREATED, &CreatedToken { record, token }))
    }

    pub(super) fn list_tokens(&self) -> Result<Answer, Refused> {
        let now = SystemTime::now();
        let tokens = self.issuing()?.tokens().list();
        let tokens = tokens.iter().map(|(id, token)| TokenRecord::of(id, token, now)).collect();
        Ok(reply::json(StatusCode::OK, &TokenList { tokens }))
    }

    pub(super) async fn revoke_token(&self, caller: Caller, id: &str) -> Result<Answer, Refused> {
        let (issuing, id) = (self.issuing()?.clone(), id.to_owned());
        blocking(move || issuing.revoke_token(&id, &caller)).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    fn issuing(&self) -> Result<&Arc<Issuing>, Refused> {
        self.issuing.as_ref().ok_or_else(|| {
            let hint = "add `control.serve.issue`";
            Reason::NotFound.because(format!("this control plane issues no SVIDs ({hint})"))
        })
    }
}

/// Files may be slow.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        log::error!("work on tokens has failed: {error}");
        Err(Reason::StoreUnavailable.because("it cannot be done (look at the log of the control plane)"))
    })
}
