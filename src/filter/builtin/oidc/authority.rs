//! Sessions as the provider grants them: one for a code, and another for one whose tokens have expired.

use std::sync::Arc;

use crate::{
    filter::builtin::oidc::{
        login::Continued,
        provider::{Endpoints, Provider, Purpose, Tokens},
        session::{IdToken, Session, text},
        tokens::{Verifier, check_id_token, now, seconds},
        trouble::Trouble,
    },
    identity::Claims,
};

/// So many seconds before its tokens expire a session is renewed, so that a provider that is away for a moment ends none. Tokens that
/// expire soon are used for half of that time.
const AHEAD: u64 = 30;

pub(super) struct Authority {
    pub provider: Arc<Provider>,
    pub id_tokens: Verifier,
    /// The provider is asked for more than the ID token says.
    pub userinfo: bool,
    /// The upstream is to get it.
    pub keeps_access_token: bool,
}

impl Authority {
    /// The session that a code is worth.
    ///
    /// # Errors
    ///
    /// The provider does not take it, or its answer does not count.
    pub(super) async fn grant(
        &self,
        endpoints: &Endpoints,
        code: &str,
        redirect_uri: &str,
        login: &Continued,
    ) -> Result<Session, Trouble> {
        let tokens = self.provider.exchange(endpoints, code, redirect_uri, &login.verifier).await?;
        let missing =
            "the provider's token endpoint answers without an id_token (is `openid` among the scopes?)";
        let id_token = tokens.id_token.as_deref().ok_or_else(|| Trouble::unavailable(missing))?;
        let (id_token, claims) = self.check(id_token, Some(&login.nonce)).await?;
        let began = now();
        let issued = seconds(&claims, "iat").unwrap_or(began);
        let session = Session { began, issued, id_token, ..Session::default() };
        self.complete(session, endpoints, tokens, &claims, Purpose::Login).await
    }

    /// The session with the tokens that its refresh token is worth.
    ///
    /// # Errors
    ///
    /// The provider has ended it, or its answer does not count.
    pub(super) async fn renew(&self, session: &Session) -> Result<Session, Trouble> {
        let endpoints = self.provider.endpoints().await?;
        let tokens = self.provider.refresh(&endpoints, &session.refresh_token).await?;
        let (mut session, mut claims) = (session.clone(), session.claims());
        // It need not send one (OpenID Connect Core, section 12.2).
        if let Some(id_token) = tokens.id_token.as_deref() {
            let (id_token, renewed) = self.check(id_token, None).await?;
            if text(&renewed, "sub") != text(&claims, "sub") {
                return Err(Trouble::Subject);
            }
            // One that says no more which session it is of could not be ended by the provider.
            if renewed.contains_key("sid") || !claims.contains_key("sid") {
                (session.id_token, claims) = (id_token, renewed);
            }
        }
        self.complete(session, &endpoints, tokens, &claims, Purpose::Renewal).await
    }

    async fn complete(
        &self,
        mut session: Session,
        endpoints: &Endpoints,
        tokens: Tokens,
        claims: &Claims,
        purpose: Purpose,
    ) -> Result<Session, Trouble> {
        if self.userinfo {
            let subject = text(claims, "sub");
            match self.provider.userinfo(endpoints, &tokens.access_token, subject, purpose).await {
                Ok(userinfo) => session.userinfo = userinfo,
                // The old tokens may be spent, so the new ones must be kept: what was known before holds on.
                Err(trouble) if trouble.passes() && !session.userinfo.is_empty() => {}
                Err(trouble) => return Err(trouble),
            }
        }
        session.due = tokens.expires_in.map_or(0, |seconds| now().saturating_add(seconds));
        let ahead = tokens.expires_in.map_or(0, |seconds| AHEAD.min(seconds / 2));
        session.renew_from = session.due.saturating_sub(ahead);
        // A provider that exchanges them says so by sending another.
        session.refresh_token = tokens.refresh_token.unwrap_or(session.refresh_token);
        session.access_token = if self.keeps_access_token { tokens.access_token } else { String::new() };
        Ok(session)
    }

    async fn check(&self, token: &str, nonce: Option<&str>) -> Result<(IdToken, Claims), Trouble> {
        let claims = self.id_tokens.verify(token).await?;
        check_id_token(&claims, self.provider.client_id(), nonce)?;
        let token = IdToken::parse(token).ok_or(Trouble::Internal)?;
        Ok((token, claims))
    }
}
