//! What becomes of a request without a session.

use http::{
    HeaderName, HeaderValue, Method,
    header::{ACCEPT, CACHE_CONTROL, SET_COOKIE, WWW_AUTHENTICATE},
};
use pingora_http::RequestHeader;

use crate::filter::{
    Exchange, Reason, Response,
    builtin::oidc::{
        Login, login,
        provider::{Endpoints, with_query},
        redirect,
        tokens::now,
        trouble::Trouble,
    },
};

impl Login {
    /// There is no session: a browser that goes to a page is sent to the provider; a script is told, as it could not follow.
    pub(super) fn challenge(
        &self,
        trouble: &Trouble,
        endpoints: Option<&Endpoints>,
        exchange: &mut Exchange<'_>,
    ) -> Response {
        if *trouble != Trouble::Missing {
            self.count(trouble.code());
        }
        let response = match endpoints {
            Some(endpoints) => self.redirect_to_provider(endpoints, exchange),
            None => Ok(unauthenticated(exchange)),
        };
        let mut response = match response {
            Ok(response) => response,
            Err(trouble) => return self.refuse(&trouble, exchange),
        };
        exchange.facts.explain(trouble.code());
        // What is of no use any more is not sent again and again.
        let left = self.cookies.clear_session(exchange.request, self.is_secure(exchange));
        response.headers.extend(left.into_iter().map(|field| (SET_COOKIE, field)));
        response
    }

    fn redirect_to_provider(
        &self,
        endpoints: &Endpoints,
        exchange: &Exchange<'_>,
    ) -> Result<Response, Trouble> {
        let (provider, secure) = (&self.authority.provider, self.is_secure(exchange));
        let redirect_uri = self.origin(exchange) + &self.redirect_path;
        let secret = login::secret(self.cookies.find_login(exchange.request, secure))?;
        let return_to = exchange.facts.target.path_and_query().map_or("/", |target| target.as_str());
        let begun = login::begin(&self.sealer, &self.ends(&redirect_uri), &secret, return_to, now())?;
        let mut fields = vec![
            ("response_type", "code"),
            ("client_id", provider.client_id()),
            ("redirect_uri", &redirect_uri),
            ("scope", &self.scope),
            ("state", &begun.state),
            ("nonce", &begun.nonce),
            ("code_challenge", &begun.challenge),
            ("code_challenge_method", "S256"),
        ];
        fields.extend(self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mut response = redirect(&with_query(&endpoints.authorization, &fields))?;
        response.reason = Some(Reason::Unauthenticated);
        // Also where it has one, as that may be about to expire.
        let cookie = self.cookies.set_login(&secret, secure, login::LIFETIME);
        response.headers.extend(cookie.map(|cookie| (SET_COOKIE, cookie)));
        self.count("redirected");
        Ok(response)
    }
}

fn unauthenticated(exchange: &Exchange<'_>) -> Response {
    let mut response = Response::refusal(Reason::Unauthenticated, &exchange.request.headers);
    response.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static("Cookie realm=\"login\"")));
    response.headers.push((CACHE_CONTROL, HeaderValue::from_static("no-store")));
    response
}

/// A browser on its way to a page, which can be sent elsewhere. Scripts and sockets cannot follow, and what is sent along would be lost.
pub(super) fn is_navigation(request: &RequestHeader) -> bool {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return false;
    }
    const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
    const SCRIPT: HeaderName = HeaderName::from_static("x-requested-with");
    match request.headers.get(MODE) {
        Some(mode) => mode == "navigate",
        None => {
            let accepts = request.headers.get_all(ACCEPT).iter();
            let is_html =
                |accept: &HeaderValue| memchr::memmem::find(accept.as_bytes(), b"text/html").is_some();
            !request.headers.contains_key(SCRIPT) && { accepts }.any(is_html)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_browser_on_its_way_to_a_page_is_sent_elsewhere() {
        for (method, headers, expected) in [
            ("GET", &[("accept", "text/html,application/xhtml+xml;q=0.9")][..], true),
            ("HEAD", &[("accept", "text/html")], true),
            ("GET", &[("accept", "text/html"), ("sec-fetch-mode", "navigate")], true),
            ("GET", &[("sec-fetch-mode", "navigate")], true),
            ("GET", &[("accept", "text/html"), ("sec-fetch-mode", "cors")], false),
            ("GET", &[("accept", "text/html"), ("sec-fetch-mode", "websocket")], false),
            ("GET", &[("accept", "text/html"), ("x-requested-with", "XMLHttpRequest")], false),
            ("GET", &[("accept", "*/*")], false),
            ("GET", &[("accept", "application/json")], false),
            ("GET", &[], false),
            ("POST", &[("accept", "text/html"), ("sec-fetch-mode", "navigate")], false),
        ] {
            let mut request = RequestHeader::build(method, b"/", None).unwrap();
            for (name, value) in headers {
                request.append_header(*name, *value).unwrap();
            }
            assert_eq!(is_navigation(&request), expected, "{method} {headers:?}");
        }
    }
}
