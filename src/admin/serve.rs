//! How a request is answered: who it is from, whether they may, and what is done. What there is stands in `router`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{ACCEPT, HOST, LOCATION},
    request::Parts,
    uri::Authority,
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{
    State, api as shown, assets, events, orders,
    parts::{self, Order},
    parts_view,
    refused::{Reason, Refused},
    roles::{Shown, Via, Who},
    router::{Access, Action, Asked, Endpoint, Taken, allowed, find, index},
    sessions::{Session, cookie, cookie_name},
    tail,
};
use crate::{
    api::{
        self, Connection,
        guard::{bearer, check_host, check_origin},
        query::Query,
        reply::{self, Reply},
    },
    config::{AdminRole, ByteSize},
    identity::Caller,
    observe::log::event,
};

/// Of endpoints that read no body; this much is let pass, so that a client which sends one is answered.
const BODY_SIZE: usize = 64 * 1024;
/// A configuration that is only looked at.
const CHECK_SIZE: u64 = 1024 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any reload takes; a drain that begins before it would leave it without an answer.
pub(super) const RELOAD_TIMEOUT: Duration = Duration::from_secs(50);
/// A page elsewhere cannot send it without being asked first, which is refused.
const CONSOLE: HeaderName = HeaderName::from_static("x-tidegate-console");

pub(crate) struct Api {
    pub state: State,
    pub is_loopback: bool,
    /// Over TLS.
    pub is_secure: bool,
}

impl api::Service for Api {
    type Body = reply::Body;

    fn is_proven(&self, caller: Option<&Caller>, headers: &HeaderMap) -> bool {
        let by_token = || bearer(headers).is_some_and(|given| self.state.keys.owner(given).is_some());
        let by_session = || {
            let now = std::time::Instant::now();
            cookie(headers, &self.cookie_name(None, headers))
                .is_some_and(|secret| self.state.sessions.is_there(secret, now))
        };
        caller.is_some() || by_token() || by_session()
    }

    async fn handle(self: Arc<Self>, connection: Connection, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let reply = self.answer(&connection, &head, body).await;
        secured(reply.unwrap_or_else(|refused| refused.reply(&path)))
    }
}

impl Api {
    async fn answer(&self, connection: &Connection, head: &Parts, body: Incoming) -> Result<Reply, Refused> {
        check_host(head, self.is_loopback)?;
        let path = head.uri.path();
        if let Some(elsewhere) = self.elsewhere(head) {
            return Ok(elsewhere);
        }
        let found = find(path);
        let session = self.session(head);
        // Whoever has no token does not learn what there is, either.
        let is_for_anyone = found.iter().any(|(endpoint, _)| endpoint.access == Access::Anyone);
        let who = match is_for_anyone {
            true => None,
            false => Some(self.who(connection, head, session.as_ref().map(|(_, session)| session))?),
        };
        if found.is_empty() {
            return Err(Reason::NotFound.because("there is nothing here (GET / lists what there is)"));
        }
        let method = if head.method == Method::HEAD { Method::GET } else { head.method.clone() };
        let Some((endpoint, names)) =
            found.iter().find(|(endpoint, _)| endpoint.method == method.as_str()).cloned()
        else {
            let methods = allowed(&found);
            let why = format!("use {methods} {path}");
            return Err(Refused { allow: Some(methods.into()), ..Reason::Method.because(why) });
        };
        self.check_sender(head, endpoint, who.as_ref())?;
        if let (Access::Operator, Some(who)) = (endpoint.access, &who) {
            who.check_order()?;
        }
        let asked = Asked {
            names,
            query: query(endpoint, head)?,
            headers: head.headers.clone(),
            path: path.to_owned(),
            who,
            session: session.map(|(_, session)| session),
        };
        self.act(endpoint, connection, head, body, asked).await
    }

    async fn act(
        &self,
        endpoint: &'static Endpoint,
        connection: &Connection,
        head: &Parts,
        body: Incoming,
        asked: Asked,
    ) -> Result<Reply, Refused> {
        let by = asked.who.as_ref().map(|who| by(who, connection)).unwrap_or_default();
        if let Action::ChangePart(resource) = endpoint.action {
            return self.change(resource, &asked.names, head, body, by).await;
        }
        let body = match (endpoint.action, endpoint.body) {
            (_, None) => pass_over(body).await.map(|()| Bytes::new())?,
            (Action::Check, _) => read(body, CHECK_SIZE, "send less").await?,
            (_, Some(Taken::Json(_) | Taken::Document)) => read(body, BODY_SIZE as u64, "send less").await?,
        };
        let state = &self.state;
        match endpoint.action {
            Action::Index => Ok(index()),
            Action::View(view) => self.look(move |state| view(state, &asked)).await,
            Action::Part(resource) => {
                self.look(move |state| parts_view::one(state, resource, &asked.names)).await
            }
            Action::ChangePart(_) => Err(Reason::Internal.because("this is answered elsewhere")),
            Action::Reload => orders::reload(state, &asked, by).await,
            Action::Drain => orders::drain(state, &asked, &by),
            Action::Upgrade => orders::upgrade(state, &by).await,
            Action::Canary => {
                Ok(orders::canary(state, &asked, &by).unwrap_or_else(|refused| refused.order_problem()))
            }
            Action::Breaker => {
                Ok(orders::breaker(state, &asked, &by).unwrap_or_else(|refused| refused.order_problem()))
            }
            Action::Maintenance => {
                Ok(orders::maintenance(state, &asked, &by).unwrap_or_else(|refused| refused.order_problem()))
            }
            Action::Renew => {
                Ok(orders::renew(state, &asked, &by).unwrap_or_else(|refused| refused.order_problem()))
            }
            Action::Login => self.login(connection, head, &body),
            Action::Logout => Ok(self.logout(head)),
            Action::Explain => self.look(move |state| shown::explain::answer(state, &body)).await,
            Action::Check => self.look(move |state| shown::check::answer(state, &body)).await,
            Action::Events => events::stream(state, connection, &asked),
            Action::Tail => tail::stream(state, connection, &asked),
            Action::Asset => self.asset(connection, &asked),
        }
    }

    /// Browsers that come to the front door are sent to the console.
    fn elsewhere(&self, head: &Parts) -> Option<Reply> {
        let is_reading = matches!(head.method, Method::GET | Method::HEAD);
        if self.state.console.is_none() || !is_reading {
            return None;
        }
        let (status, to) = match head.uri.path() {
            "/" if wants_html(&head.headers) => (StatusCode::SEE_OTHER, "/ui/"),
            "/ui" => (StatusCode::PERMANENT_REDIRECT, "/ui/"),
            _ => return None,
        };
        let mut reply = reply::empty(status);
        reply.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
        Some(reply)
    }

    /// The page holds no secret; but where a certificate is all that is asked for, strangers need not see it.
    fn asset(&self, connection: &Connection, asked: &Asked) -> Result<Reply, Refused> {
        self.state.keys.check_caller(connection.caller.as_deref())?;
        let path = asked.names.first().map(String::as_str).unwrap_or_default();
        let found = self.state.console.as_ref().and_then(|_| assets::answer(path, &asked.headers));
        found.ok_or_else(|| Reason::NotFound.because("there is nothing here (GET / lists what there is)"))
    }

    pub(super) fn who(
        &self,
        connection: &Connection,
        head: &Parts,
        session: Option<&Session>,
    ) -> Result<Who, Refused> {
        let shown = Shown { caller: connection.caller.as_deref(), headers: &head.headers, session };
        self.state.keys.who(&shown, |given| self.owner(connection.peer.ip(), given))
    }

    /// Whose token that is; a wrong one is a guess.
    pub(super) fn owner(&self, from: IpAddr, given: &[u8]) -> Result<Option<(Arc<str>, AdminRole)>, Refused> {
        let now = std::time::Instant::now();
        self.state.guesses.check(from, now)?;
        let owner = self.state.keys.owner(given);
        if owner.is_none() && self.state.guesses.wrong(from, given, now) {
            let hint = "somebody guesses: let only those reach admin.address who need it";
            event!(Warn, "wrong admin tokens", client = from, hint = hint);
        }
        Ok(owner)
    }

    /// The session that the request's cookie stands for, with the cookie's value.
    pub(super) fn session(&self, head: &Parts) -> Option<(String, Session)> {
        let secret = cookie(&head.headers, &self.cookie_name(Some(head), &head.headers))?;
        let session = self.state.sessions.find(secret, std::time::Instant::now())?;
        Some((secret.to_owned(), session))
    }

    /// By the port under which the browser knows this address.
    pub(super) fn cookie_name(&self, head: Option<&Parts>, headers: &HeaderMap) -> String {
        let of_target = head.and_then(|head| head.uri.authority()).map(Authority::port_u16);
        let of_field = || {
            headers.get(HOST)?.to_str().ok()?.parse::<Authority>().ok().map(|authority| authority.port_u16())
        };
        cookie_name(self.is_secure, of_target.or_else(of_field).flatten())
    }

    /// Keeps out web pages of other origins, and what they have a browser send with its cookie.
    fn check_sender(&self, head: &Parts, endpoint: &Endpoint, who: Option<&Who>) -> Result<(), Refused> {
        let is_stream = matches!(endpoint.action, Action::Events | Action::Tail);
        if endpoint.method == "GET" && !is_stream {
            return Ok(());
        }
        check_origin(head)?;
        let by_browser = who.is_some_and(|who| who.via == Via::Session)
            || matches!(endpoint.action, Action::Login | Action::Logout);
        if endpoint.method == "GET" || !by_browser || head.headers.get(CONSOLE).is_some_and(|is| is == "1") {
            return Ok(());
        }
        Err(Reason::Csrf
            .because("with the cookie of a browser, send `x-tidegate-console: 1` as the console does"))
    }

    /// Adds, changes or removes something beside the file.
    async fn change(
        &self,
        resource: parts::Resource,
        names: &[String],
        head: &Parts,
        body: Incoming,
        by: String,
    ) -> Result<Reply, Refused> {
        let Some(limits) = &self.state.parts else { return Err(parts::turned_off()) };
        let body = match head.method {
            Method::PUT => read(body, limits.size.bytes(), "send less, or raise `admin.parts.size`").await?,
            _ => pass_over(body).await.map(|()| Bytes::new())?,
        };
        Ok(self.state.order(Order::of(resource, names, head, body, by)?).await)
    }

    /// Off the threads that serve requests: 10,000 routes take a moment to write down.
    async fn look(
        &self,
        view: impl FnOnce(&State) -> Result<Reply, Refused> + Send + 'static,
    ) -> Result<Reply, Refused> {
        let state = self.state.clone();
        let viewed = tokio::task::spawn_blocking(move || view(&state)).await;
        viewed.unwrap_or_else(|_| Err(Reason::Internal.because("the answer failed (the log says why)")))
    }
}

/// Who orders, for the log and for those who ask later.
pub(super) fn by(who: &Who, connection: &Connection) -> String {
    match who.via {
        Via::Open => connection.peer.to_string(),
        Via::Session | Via::Token | Via::Certificate => format!("{} at {}", who.name, connection.peer),
    }
}

/// What is misspelt would not do what it says. The older paths have never minded.
fn query(endpoint: &Endpoint, head: &Parts) -> Result<Query, Refused> {
    // Orders for parts read theirs themselves.
    if matches!(endpoint.action, Action::ChangePart(_) | Action::Asset) {
        return Ok(Query::default());
    }
    let known: Vec<&str> = endpoint.query.iter().map(|(name, _)| *name).collect();
    let text = head.uri.query().unwrap_or_default();
    if head.uri.path().starts_with("/v1/") {
        return Ok(Query::read(text, &known)?);
    }
    let is_known = |pair: &&str| known.contains(&pair.split('=').next().unwrap_or_default());
    let text: Vec<&str> = text.split('&').filter(is_known).collect();
    Ok(Query::read(&text.join("&"), &known).unwrap_or_default())
}

/// Whether that comes before everything else: `*/*` is what programs send.
fn wants_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case("text/html"))
    })
}

/// Read the body to its end, or hyper would close the connection on a client that is still sending.
async fn pass_over(body: Incoming) -> Result<(), Refused> {
    match timeout(BODY_TIMEOUT, std::pin::pin!(Limited::new(body, BODY_SIZE)).collect()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Reason::TooLarge.because("this endpoint reads no body (send none)"))
        }
        Ok(Err(_)) => Err(Reason::BadRequest.because("the body is cut off (send none)")),
        Err(_) => Err(Reason::Timeout.because("the body took too long (send none)")),
    }
}

/// The body, of at most `most` bytes.
async fn read(body: Incoming, most: u64, hint: &str) -> Result<Bytes, Refused> {
    let limited = Limited::new(body, usize::try_from(most).unwrap_or(usize::MAX));
    match timeout(BODY_TIMEOUT, std::pin::pin!(limited).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let most = ByteSize::from_bytes(most);
            Err(Reason::TooLarge.because(format!("the body is larger than {most} ({hint})")))
        }
        Ok(Err(_)) => Err(Reason::BadRequest.because("the body is cut off (send all of it)")),
        Err(_) => Err(Reason::BadRequest
            .because(format!("the body took longer than {BODY_TIMEOUT:?} (send it faster)"))),
    }
}

/// What a browser is told of every answer, unless it says something else itself.
fn secured(mut reply: Reply) -> Reply {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        reply.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    reply
}
