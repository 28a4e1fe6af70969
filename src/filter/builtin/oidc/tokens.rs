//! Tokens of the provider, verified as the `jwt` filter does: by its keys, which are read for all that use them, and with the same refusals.
//! What OpenID Connect asks for beside stands here.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::{
    filter::builtin::{
        jwt::{Accepts, Algorithm, Policy, Refusal, Subscription, Token, Types},
        oidc::{session::text, trouble::Trouble},
    },
    identity::Claims,
};

pub(super) use crate::filter::builtin::jwt::now;

pub(super) struct Verifier {
    pub types: Types,
    pub algorithms: Vec<Algorithm>,
    pub policy: Policy,
    pub accepts: Accepts,
    pub source: Arc<Subscription>,
    /// So long is waited for keys.
    pub patience: Duration,
}

impl Verifier {
    /// By the keys that are held.
    ///
    /// # Errors
    ///
    /// Why the token does not count.
    pub(super) fn verify_at_once(&self, token: &str) -> Result<Claims, Refusal> {
        let token = Token::parse(token.as_bytes(), &self.types)?;
        if !self.algorithms.contains(&token.algorithm) {
            return Err(Refusal::Algorithm);
        }
        self.source.held().keys.as_ref().ok_or(Refusal::NoKeys)?.verify(&token)?;
        let claims = token.claims()?;
        self.policy.judge(claims.clone(), &self.accepts, now())?;
        Ok(claims)
    }

    /// The same; keys that are not there yet are waited for.
    ///
    /// # Errors
    ///
    /// Why the token does not count.
    pub(super) async fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        let deadline = Instant::now() + self.patience;
        loop {
            let reads = self.source.reads();
            match self.verify_at_once(token) {
                Err(refusal) if lacks_keys(refusal) && self.source.changed(reads, deadline).await => {}
                verified => return verified,
            }
        }
    }
}

/// Other keys may say otherwise.
pub(super) fn lacks_keys(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::UnknownKey | Refusal::NoKeys)
}

/// What an ID token must say beyond what any token must (OpenID Connect Core, section 3.1.3.7): it is for us alone, and the answer to the
/// login with this nonce. With `None` it came for a refresh token, and need not say which login it is of.
///
/// # Errors
///
/// It is for another client, or another login.
pub(super) fn check_id_token(claims: &Claims, client_id: &str, nonce: Option<&str>) -> Result<(), Trouble> {
    let several = claims.get("aud").and_then(Value::as_array).is_some_and(|audiences| audiences.len() > 1);
    match claims.get("azp") {
        None if several => return Err(Trouble::Party),
        Some(party) if party != client_id => return Err(Trouble::Party),
        _ => {}
    }
    if nonce.is_some_and(|nonce| text(claims, "nonce") != Some(nonce)) {
        return Err(Trouble::Nonce);
    }
    // Whose session it is has to be said.
    text(claims, "sub").filter(|subject| !subject.is_empty()).map(drop).ok_or(Trouble::Subject)
}

/// The event of a logout token.
const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// What a logout token says.
#[derive(Debug, PartialEq)]
pub(super) struct Logout {
    /// Whose sessions end: one by its `sid`, or all of a user.
    pub whose: String,
    /// The token's own name.
    pub id: String,
    /// When it was issued, and until when it is good, in seconds.
    pub issued: u64,
    pub until: u64,
}

impl Logout {
    /// From a token that is good (OpenID Connect Back-Channel Logout 1.0, section 2.6).
    ///
    /// # Errors
    ///
    /// It is no logout token: an ID token above all, which has a nonce.
    pub(super) fn read(claims: &Claims) -> Result<Logout, Trouble> {
        let events = claims.get("events");
        let is_logout = events.and_then(|events| events.get(LOGOUT)).is_some_and(Value::is_object);
        if !is_logout || claims.contains_key("nonce") {
            return Err(Trouble::LogoutToken);
        }
        let [by_session, by_subject] = owners(claims);
        let id = text(claims, "jti").filter(|id| !id.is_empty());
        let logout =
            by_session.or(by_subject).zip(id).zip(seconds(claims, "iat").zip(seconds(claims, "exp")));
        let ((whose, id), (issued, until)) = logout.ok_or(Trouble::LogoutToken)?;
        Ok(Logout { whose, id: id.to_owned(), issued, until })
    }
}

/// A time that a token says.
pub(super) fn seconds(claims: &Claims, name: &str) -> Option<u64> {
    claims.get(name).and_then(Value::as_f64).map(|seconds| seconds as u64)
}

/// By which names a session may be ended.
pub(super) fn owners(claims: &Claims) -> [Option<String>; 2] {
    ["sid", "sub"].map(|name| text(claims, name).map(|value| format!("{name}:{value}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(claims: Value) -> Claims {
        claims.as_object().unwrap().clone()
    }

    #[test]
    fn an_id_token_is_for_this_client_and_this_login() {
        for (said, expected) in [
            (json!({"sub": "a", "aud": "shop", "nonce": "n"}), Ok(())),
            (json!({"sub": "a", "aud": ["shop"], "nonce": "n"}), Ok(())),
            (json!({"sub": "a", "aud": ["shop", "api"], "azp": "shop", "nonce": "n"}), Ok(())),
            (json!({"sub": "a", "aud": ["shop", "api"], "nonce": "n"}), Err(Trouble::Party)),
            (json!({"sub": "a", "aud": "shop", "azp": "bank", "nonce": "n"}), Err(Trouble::Party)),
            (json!({"sub": "a", "aud": "shop", "azp": 7, "nonce": "n"}), Err(Trouble::Party)),
            (json!({"sub": "a", "aud": "shop", "nonce": "m"}), Err(Trouble::Nonce)),
            (json!({"sub": "a", "aud": "shop"}), Err(Trouble::Nonce)),
            (json!({"sub": "a", "aud": "shop", "nonce": ["n"]}), Err(Trouble::Nonce)),
            (json!({"sub": "", "aud": "shop", "nonce": "n"}), Err(Trouble::Subject)),
            (json!({"aud": "shop", "nonce": "n"}), Err(Trouble::Subject)),
        ] {
            assert_eq!(check_id_token(&claims(said.clone()), "shop", Some("n")), expected, "{said}");
        }
        assert_eq!(check_id_token(&claims(json!({"sub": "a", "aud": "shop"})), "shop", None), Ok(()));
    }

    #[test]
    fn a_logout_token_is_told_from_every_other() {
        let events = json!({LOGOUT: {}});
        let good = json!({"events": events, "sub": "a", "sid": "s", "jti": "j", "iat": 10.5, "exp": 20});
        let logout =
            |whose: &str| Logout { whose: whose.to_owned(), id: "j".to_owned(), issued: 10, until: 20 };
        for (over, expected) in [
            (json!({}), Ok(logout("sid:s"))),
            (json!({"sid": null}), Ok(logout("sub:a"))),
            (json!({"sid": null, "sub": null}), Err(Trouble::LogoutToken)),
            (json!({"nonce": "n"}), Err(Trouble::LogoutToken)),
            (json!({"events": {}}), Err(Trouble::LogoutToken)),
            (json!({"events": [LOGOUT]}), Err(Trouble::LogoutToken)),
            (json!({"events": {LOGOUT: true}}), Err(Trouble::LogoutToken)),
            (json!({"events": null}), Err(Trouble::LogoutToken)),
            (json!({"jti": null}), Err(Trouble::LogoutToken)),
            (json!({"jti": ""}), Err(Trouble::LogoutToken)),
            (json!({"iat": null}), Err(Trouble::LogoutToken)),
        ] {
            let mut said = claims(good.clone());
            said.extend(claims(over.clone()));
            said.retain(|_, value| !value.is_null());
            assert_eq!(Logout::read(&said), expected, "{over}");
        }
    }
}
