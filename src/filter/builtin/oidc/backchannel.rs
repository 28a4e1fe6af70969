//! The logout that the provider asks for (OpenID Connect Back-Channel Logout 1.0): it posts a token that names a session or a user. The token is
//! in the body, so the request is answered once that is there, and filters behind are not asked: the provider has no session of its own.

use std::sync::PoisonError;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header::CACHE_CONTROL};
use openssl::sha::sha256;
use tokio::time::Instant;

use crate::filter::{
    BodyFlow, Exchange, Response, Waits,
    builtin::{
        jwt::Refusal,
        oidc::{
            Login, login,
            options::LONGEST_LIFETIME,
            tokens::{Logout, lacks_keys, now},
            trouble::Trouble,
        },
    },
};

/// A form with a token has so many bytes at most.
pub(super) const LARGEST: usize = 64 * 1024;

/// A logout token on its way.
#[derive(Default)]
pub(super) struct LogoutBody {
    /// The whole form, while keys are waited for.
    form: Option<Bytes>,
}

impl Login {
    pub(super) fn await_body(&self, exchange: &mut Exchange<'_>) {
        exchange.gather_body(LARGEST);
        exchange.facts.is_taken = true;
        exchange.keep(self, LogoutBody::default());
    }

    pub(super) fn read_body(&self, exchange: &mut Exchange<'_>, data: &mut Bytes, is_last: bool) -> BodyFlow {
        let waited = exchange.state::<LogoutBody>(self).and_then(|body| body.form.take());
        let has_waited = waited.is_some();
        if !is_last && !has_waited {
            return BodyFlow::Hold;
        }
        let form = waited.unwrap_or_else(|| std::mem::take(data));
        let reads = self.logout_tokens.source.reads();
        let ended = self.end_sessions(&form);
        if let Err(Trouble::Token(refusal)) = &ended
            && lacks_keys(*refusal)
            && !has_waited
            && self.logout_tokens.source.may_change()
        {
            let verifier = self.logout_tokens.clone();
            let until = async move {
                let deadline = Instant::now() + verifier.patience;
                verifier.source.changed(reads, deadline).await;
            };
            exchange.keep(self, LogoutBody { form: Some(form) });
            exchange.facts.waits = Some(Waits { until: Box::pin(until), back: Box::new(|_| {}) });
            return BodyFlow::Wait;
        }
        BodyFlow::Reply(match ended {
            Ok(()) => {
                self.count("backchannel_logout");
                let mut response = Response::new(StatusCode::OK);
                response.headers.push((CACHE_CONTROL, HeaderValue::from_static("no-store")));
                response
            }
            // Whatever is wrong with it, a token that does not count is none.
            Err(Trouble::Token(refusal)) if refusal != Refusal::NoKeys => {
                exchange.facts.explain(refusal.code());
                self.refuse(&Trouble::LogoutToken, exchange)
            }
            Err(trouble) => self.refuse(&trouble, exchange),
        })
    }

    fn end_sessions(&self, form: &[u8]) -> Result<(), Trouble> {
        let form = std::str::from_utf8(form).map_err(|_| Trouble::LogoutToken)?;
        let token = login::field(form, "logout_token").ok().flatten().ok_or(Trouble::LogoutToken)?;
        let Logout { whose, id, issued, until } = Logout::read(&self.logout_tokens.verify_at_once(&token)?)?;
        let until = until.saturating_add(self.logout_tokens.policy.skew);
        let mut shown = self.logouts_shown.lock().unwrap_or_else(PoisonError::into_inner);
        if !shown.take(sha256(id.as_bytes()), until, now()) {
            return Err(Trouble::Replayed);
        }
        drop(shown);
        let mut logged_out = self.logged_out.lock().unwrap_or_else(PoisonError::into_inner);
        // Not those that began since it was issued, both by the provider's clock: whoever has kept it, and shows it late, ends none of them.
        // Others share this whose sessions may last longer.
        logged_out.remember(whose, issued, LONGEST_LIFETIME);
        Ok(())
    }
}
