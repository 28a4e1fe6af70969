//! The logout that a user asks for (OpenID Connect RP-Initiated Logout 1.0): the session's cookies go, and the provider is asked to end its own.

use http::{HeaderName, header::SET_COOKIE};

use crate::filter::{
    Exchange, Response,
    builtin::oidc::{Login, provider::with_query, redirect, tokens::now, trouble::Trouble},
};

impl Login {
    /// # Errors
    ///
    /// Another site sent the browser here, which is not for it to decide.
    pub(super) async fn log_out(&self, exchange: &mut Exchange<'_>) -> Result<Response, Trouble> {
        const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
        if exchange.request.headers.get(SITE).is_some_and(|site| site == "cross-site") {
            return Err(Trouble::CrossSite);
        }
        let provider = &self.authority.provider;
        // A provider that is away does not keep a session alive here.
        let (shown, endpoints) = (self.show(exchange, now()).ok(), provider.endpoints().await.ok());
        let ended = endpoints.as_ref().and_then(|endpoints| endpoints.end_session.as_ref()).zip(shown);
        let location = match ended {
            None => self.after_logout.clone(),
            Some((place, shown)) => {
                let (hint, back) =
                    (shown.session.id_token.text(), self.origin(exchange) + &self.after_logout);
                let client_id = provider.client_id();
                let fields = [
                    ("id_token_hint", hint.as_str()),
                    ("client_id", client_id),
                    ("post_logout_redirect_uri", &back),
                ];
                with_query(place, &fields)
            }
        };
        let mut response = redirect(&location)?;
        let gone = self.cookies.clear_session(exchange.request, self.is_secure(exchange));
        response.headers.extend(gone.into_iter().map(|cookie| (SET_COOKIE, cookie)));
        self.count("logged_out_here");
        Ok(response)
    }
}
