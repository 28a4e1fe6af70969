//! The way back: the provider has sent the browser here, with a code or with why there is none.

use http::header::SET_COOKIE;

use crate::filter::{
    Exchange, Response,
    builtin::oidc::{Login, login, redirect, tokens::now, trouble::Trouble},
};

impl Login {
    /// # Errors
    ///
    /// The answer is not the provider's to this browser, or it does not let the user in.
    pub(super) async fn callback(&self, exchange: &mut Exchange<'_>) -> Result<Response, Trouble> {
        let query = exchange.request.uri.query().unwrap_or_default().to_owned();
        let field = |name| login::field(&query, name);
        let secure = self.is_secure(exchange);
        let secret = self.cookies.find_login(exchange.request, secure).ok_or(Trouble::State)?;
        let redirect_uri = self.origin(exchange) + &self.redirect_path;
        let state = field("state")?.ok_or(Trouble::State)?;
        let login = login::resume(&self.sealer, &self.ends(&redirect_uri), &secret, &state, now())?;
        let provider = &self.authority.provider;
        let endpoints = provider.endpoints().await?;
        // Before the code goes anywhere (RFC 9207, section 2.4).
        match field("iss")? {
            Some(issuer) if issuer != provider.issuer() => return Err(Trouble::MixedUp),
            None if endpoints.names_issuer => return Err(Trouble::MixedUp),
            _ => {}
        }
        if let Some(error) = field("error")? {
            return Err(denied(&error));
        }
        let code = field("code")?.filter(|code| !code.is_empty()).ok_or(Trouble::Code)?;
        let session = self.authority.grant(&endpoints, &code, &redirect_uri, &login).await?;
        let mut response = redirect(&login.return_to)?;
        let cookies = self.sealed(&session, exchange)?;
        response.headers.extend(cookies.into_iter().map(|cookie| (SET_COOKIE, cookie)));
        self.count("logged_in");
        Ok(response)
    }
}

fn denied(error: &str) -> Trouble {
    match error {
        "server_error" | "temporarily_unavailable" => {
            Trouble::unavailable("the provider answers that it cannot log users in")
        }
        "unauthorized_client" | "invalid_scope" | "unsupported_response_type" | "invalid_request" => {
            Trouble::unavailable(
                "the provider does not take our requests (compare client_id, redirect_path and scopes with its registration)",
            )
        }
        _ => Trouble::Denied,
    }
}
