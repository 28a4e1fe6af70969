//! `oidc`: a login in front of an application that has none (OpenID Connect, authorization code flow with PKCE).
//!
//! All of a login is in the browser's cookies, sealed (`seal`, `cookies`, `session`), and so is one that is under way (`login`). The process
//! remembers only which sessions it was told to end (`policy::logged_out`, `policy::once`), and renewals of the last minute (`refreshes`). The provider is asked
//! by `provider`; what its answers are worth is decided in `authority` and `tokens`.

mod authority;
mod backchannel;
mod callback;
mod challenge;
mod cookies;
pub(in crate::filter) mod fuzzing;
mod login;
mod logout;
mod options;
mod provider;
mod refreshes;
mod seal;
mod session;
mod tokens;
mod trouble;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    HeaderValue, Method, StatusCode, Uri,
    header::{ALLOW, CACHE_CONTROL, LOCATION, SET_COOKIE},
};
use openssl::sha::sha256;

use crate::{
    filter::{
        BodyFlow, Exchange, Filter, Flow, Phases, Reason, Response,
        builtin::{
            jwt::{ClaimPath, header_value},
            oidc::{
                authority::Authority,
                backchannel::LogoutBody,
                challenge::is_navigation,
                cookies::{Cookies, Presented},
                login::Ends,
                refreshes::Refreshes,
                seal::{Sealer, bind},
                session::Session,
                tokens::{Verifier, now, owners},
                trouble::Trouble,
            },
        },
        shared::proven::ProvenHeader,
    },
    identity::Claims,
    observe::{log::event, log_throttle::Sparse, metrics::AccessMetrics},
    policy::{logged_out::LoggedOut, once::Once},
};

pub(crate) use options::Oidc;

struct Login {
    authority: Arc<Authority>,
    logout_tokens: Arc<Verifier>,
    sealer: Sealer,
    cookies: Cookies,
    /// Where the browser reaches us, if that is not what it asks for.
    origin: Option<String>,
    redirect_path: String,
    logout_path: Option<String>,
    after_logout: String,
    backchannel_path: Option<String>,
    scope: String,
    /// What else is asked of the provider.
    parameters: Vec<(String, String)>,
    /// Of a session, in seconds.
    lifetime: u64,
    forward: Vec<(ClaimPath, ProvenHeader)>,
    /// Where the upstream gets the access token.
    token: Option<ProvenHeader>,
    logged_out: Arc<Mutex<LoggedOut>>,
    /// Logout tokens that came already.
    logouts_shown: Arc<Mutex<Once>>,
    refreshes: Arc<Refreshes>,
    metrics: AccessMetrics,
    told: Sparse,
}

/// A session that counts.
struct Shown {
    session: Session,
    claims: Claims,
    /// It is to be sealed with the new secret.
    is_old: bool,
    digest: [u8; 32],
}

impl Shown {
    fn is_due(&self, now: u64) -> bool {
        let Session { due, renew_from, refresh_token, .. } = &self.session;
        *due > 0 && !refresh_token.is_empty() && now >= *renew_from
    }
}

/// Cookies for the browser, until the response is there.
struct ForBrowser(Vec<HeaderValue>);

/// What is asked of the filter itself.
enum Place {
    Callback,
    Logout,
    Backchannel,
}

impl Login {
    fn place(&self, path: &str) -> Option<Place> {
        let is = |place: &Option<String>| place.as_deref() == Some(path);
        match path {
            path if path == self.redirect_path => Some(Place::Callback),
            _ if is(&self.logout_path) => Some(Place::Logout),
            _ if is(&self.backchannel_path) => Some(Place::Backchannel),
            _ => None,
        }
    }

    /// As the browser sees it.
    fn origin(&self, exchange: &Exchange<'_>) -> String {
        let asked =
            || format!("{}://{}", exchange.facts.scheme, exchange.facts.authority().to_ascii_lowercase());
        self.origin.clone().unwrap_or_else(asked)
    }

    fn is_secure(&self, exchange: &Exchange<'_>) -> bool {
        match &self.origin {
            Some(origin) => origin.starts_with("https:"),
            None => exchange.facts.scheme == "https",
        }
    }

    /// What a session is sealed for.
    fn bound(&self) -> Vec<u8> {
        let provider = &self.authority.provider;
        bind(&[b"session", provider.issuer().as_bytes(), provider.client_id().as_bytes()])
    }

    /// The session that the request shows.
    fn show(&self, exchange: &Exchange<'_>, now: u64) -> Result<Shown, Trouble> {
        let sealed = match self.cookies.find_session(exchange.request, self.is_secure(exchange)) {
            Presented::Nothing => return Err(Trouble::Missing),
            Presented::Cut => return Err(Trouble::Cut),
            Presented::Whole(sealed) => sealed,
        };
        let opened = self.sealer.open(&self.bound(), &sealed).ok_or(Trouble::Forged)?;
        let session = Session::decode(&opened.text).ok_or(Trouble::Forged)?;
        if now >= session.began.saturating_add(self.lifetime) {
            return Err(Trouble::Over);
        }
        let claims = session.claims();
        let owners = owners(&claims);
        let logged_out = self.logged_out.lock().unwrap_or_else(PoisonError::into_inner);
        if logged_out.includes(owners.iter().flatten().map(String::as_str), session.issued) {
            return Err(Trouble::LoggedOut);
        }
        drop(logged_out);
        // Each answer seals the same session anew: what is renewed is not the cookie.
        let digest = sha256(format!("{}\0{}", session.due, session.refresh_token).as_bytes());
        Ok(Shown { session, claims, is_old: opened.is_old, digest })
    }

    /// The session with new tokens, or as it is where that is good enough.
    async fn renewed(&self, shown: Shown, now: u64) -> Result<(Shown, bool), Trouble> {
        if !shown.is_due(now) {
            return Ok((shown, false));
        }
        let (authority, session, metrics) =
            (self.authority.clone(), shown.session.clone(), self.metrics.clone());
        let renew = || async move {
            let renewed = authority.renew(&session).await.map(Arc::new);
            if renewed.is_ok() {
                metrics.oidc("renewed");
            }
            renewed
        };
        match self.refreshes.join(shown.digest, Instant::now(), renew).await {
            Ok(session) => {
                let session = Session::clone(&session);
                Ok((Shown { claims: session.claims(), session, ..shown }, true))
            }
            Err(trouble) if trouble.passes() => {
                self.tell(&trouble);
                if now < shown.session.due { Ok((shown, false)) } else { Err(trouble) }
            }
            Err(Trouble::Code) => Err(Trouble::LoggedOut),
            Err(trouble) => Err(trouble),
        }
    }

    fn sealed(&self, session: &Session, exchange: &Exchange<'_>) -> Result<Vec<HeaderValue>, Trouble> {
        let sealed = self.sealer.seal(&self.bound(), &session.encode())?;
        let left = session.began.saturating_add(self.lifetime).saturating_sub(now());
        let cookies = self.cookies.set_session(&sealed, exchange.request, self.is_secure(exchange), left);
        cookies.ok_or(Trouble::TooLarge)
    }

    /// The request goes on, and those behind learn whose it is.
    fn let_in(&self, shown: Shown, is_new: bool, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        if is_new || shown.is_old {
            match self.sealed(&shown.session, exchange) {
                Ok(cookies) => exchange.keep(self, ForBrowser(cookies)),
                Err(trouble) => return Ok(Flow::Reply(self.refuse(&trouble, exchange))),
            }
        }
        self.cookies.take_off(exchange.request);
        for (path, header) in &self.forward {
            header.prove(exchange, path.find(&shown.claims).and_then(header_value))?;
        }
        if let Some(header) = &self.token {
            // A session that began without it has none.
            let token = Some(&shown.session.access_token).filter(|token| !token.is_empty());
            let value = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
            header.prove(exchange, value)?;
        }
        exchange.facts.claims = Some(Arc::new(shown.claims));
        Ok(Flow::Continue)
    }

    fn ends<'e>(&'e self, redirect_uri: &'e str) -> Ends<'e> {
        let provider = &self.authority.provider;
        Ends { issuer: provider.issuer(), client_id: provider.client_id(), redirect_uri }
    }

    /// A login or a logout that came to nothing, or a session that cannot be renewed now.
    fn refuse(&self, trouble: &Trouble, exchange: &mut Exchange<'_>) -> Response {
        self.count(trouble.code());
        self.tell(trouble);
        exchange.facts.explain(trouble.code());
        let mut response = Response::refusal(trouble.reason(), &exchange.request.headers);
        response.headers.push((CACHE_CONTROL, HeaderValue::from_static("no-store")));
        response
    }

    /// What an operator has to act on, not more often than can be read.
    fn tell(&self, trouble: &Trouble) {
        let Some(why) = trouble.to_act_on() else { return };
        if let Some(passed_over) = self.told.say(Instant::now()) {
            let issuer = self.authority.provider.issuer();
            event!(Warn, "oidc cannot log users in", issuer = issuer, problem = why, others = passed_over);
        }
    }

    fn count(&self, result: &'static str) {
        self.metrics.oidc(result);
    }

    async fn answer(&self, place: Place, exchange: &mut Exchange<'_>) -> Response {
        let allowed: &[Method] = match place {
            Place::Callback => &[Method::GET],
            Place::Logout => &[Method::GET, Method::POST],
            Place::Backchannel => &[Method::POST],
        };
        if !allowed.contains(&exchange.request.method) {
            let mut response = Response::refusal(Reason::MethodNotAllowed, &exchange.request.headers);
            let allowed = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
            response.headers.extend(HeaderValue::try_from(allowed).ok().map(|allowed| (ALLOW, allowed)));
            return response;
        }
        let answered = match place {
            Place::Callback => self.callback(exchange).await,
            Place::Logout => self.log_out(exchange).await,
            // With a body it is answered once that is there.
            Place::Backchannel => Err(Trouble::LogoutToken),
        };
        answered.unwrap_or_else(|trouble| self.refuse(&trouble, exchange))
    }
}

fn redirect(to: &str) -> Result<Response, Trouble> {
    let mut response = Response::new(StatusCode::FOUND);
    response.headers.push((LOCATION, HeaderValue::try_from(to).map_err(|_| Trouble::Internal)?));
    response.headers.push((CACHE_CONTROL, HeaderValue::from_static("no-store")));
    Ok(response)
}

#[async_trait]
impl Filter for Login {
    fn phases(&self) -> Phases {
        let forward = match (&self.token, self.forward.is_empty()) {
            (None, true) => Phases::empty(),
            _ => Phases::FORWARD,
        };
        let body = if self.backchannel_path.is_some() { Phases::REQUEST_BODY } else { Phases::empty() };
        Phases::REQUEST_ASYNC | Phases::RESPONSE | forward | body
    }

    fn on_request_at_once(&self, exchange: &mut Exchange<'_>) -> Result<Option<Flow>, Reason> {
        // Whatever comes of it, no client says of itself what only the provider may.
        let told = self.forward.iter().map(|(_, header)| header).chain(&self.token);
        told.into_iter().try_for_each(|header| header.prove(exchange, None))?;
        match self.place(exchange.facts.path()) {
            Some(Place::Backchannel)
                if exchange.request.method == Method::POST && !exchange.facts.is_bodiless =>
            {
                self.await_body(exchange);
                return Ok(Some(Flow::Continue));
            }
            Some(Place::Callback) => {
                // The code is a secret until it was used: no log and no span has it, whatever the answer.
                exchange.facts.target =
                    Uri::try_from(self.redirect_path.as_str()).map_err(|_| Reason::Internal)?;
                return Ok(None);
            }
            Some(_) => return Ok(None),
            None => {}
        }
        let now = now();
        match self.show(exchange, now) {
            Ok(shown) if shown.is_due(now) => Ok(None),
            Ok(shown) => self.let_in(shown, false, exchange).map(Some),
            Err(trouble) if !is_navigation(exchange.request) => {
                Ok(Some(Flow::Reply(self.challenge(&trouble, None, exchange))))
            }
            Err(trouble) => Ok(self
                .authority
                .provider
                .known()
                .map(|endpoints| Flow::Reply(self.challenge(&trouble, Some(&endpoints), exchange)))),
        }
    }

    async fn on_request_async(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        if let Some(place) = self.place(exchange.facts.path()) {
            return Ok(Flow::Reply(self.answer(place, exchange).await));
        }
        let now = now();
        let shown = match self.show(exchange, now) {
            Ok(shown) => self.renewed(shown, now).await,
            Err(trouble) => Err(trouble),
        };
        let trouble = match shown {
            Ok((shown, is_new)) => return self.let_in(shown, is_new, exchange),
            Err(trouble) if trouble.passes() => return Ok(Flow::Reply(self.refuse(&trouble, exchange))),
            Err(trouble) => trouble,
        };
        if !is_navigation(exchange.request) {
            return Ok(Flow::Reply(self.challenge(&trouble, None, exchange)));
        }
        Ok(Flow::Reply(match self.authority.provider.endpoints().await {
            Ok(endpoints) => self.challenge(&trouble, Some(&endpoints), exchange),
            Err(trouble) => self.refuse(&trouble, exchange),
        }))
    }

    fn on_request_body(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        Ok(match exchange.state::<LogoutBody>(self) {
            Some(_) if data.len() > backchannel::LARGEST => return Err(Reason::RequestTooLarge),
            Some(_) => self.read_body(exchange, data, is_last),
            None => BodyFlow::Pass,
        })
    }

    fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let told = self.forward.iter().map(|(_, header)| header).chain(&self.token);
        told.into_iter().try_for_each(|header| header.forward(exchange))
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let Some(ForBrowser(cookies)) = exchange.state::<ForBrowser>(self) else { return Ok(()) };
        let cookies = std::mem::take(cookies);
        let Some(response) = exchange.response.as_deref_mut() else { return Ok(()) };
        for cookie in cookies {
            response.append_header(SET_COOKIE, cookie).map_err(|_| Reason::Internal)?;
        }
        // No cache may hand one user's session to another.
        let no_store = HeaderValue::from_static("no-store");
        response.insert_header(CACHE_CONTROL, no_store).map_err(|_| Reason::Internal)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
