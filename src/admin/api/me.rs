//! Who asks, what they may, and which gateway this is; and how a browser logs in and out.

use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, StatusCode, header::SET_COOKIE, request::Parts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::read_json;
use crate::{
    admin::{
        State,
        journal::time,
        refused::{Reason, Refused},
        roles::{Shown, Via, Who, unauthorized},
        router::Asked,
        serve::Api,
        sessions::{Session, set_cookie},
    },
    api::{
        Connection,
        reply::{self, Reply},
    },
    config::{AdminRole, ClientAddressesShown},
};

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Me {
    name: String,
    role: AdminRole,
    via: Via,
    /// Null without one.
    session: Option<SessionView>,
    /// False for a viewer, and while the gateway drains.
    may_order: bool,
    gateway: GatewayView,
    console: ConsoleView,
    /// A control plane is served by this process.
    has_control: bool,
}

#[derive(Serialize, JsonSchema)]
struct SessionView {
    ends_at: String,
    /// If it is not used until then.
    idle_until: String,
}

#[derive(Serialize, JsonSchema)]
struct GatewayView {
    /// Another one after each start.
    boot: String,
    version: String,
    phase: String,
    started_at: String,
}

#[derive(Serialize, JsonSchema)]
struct ConsoleView {
    enabled: bool,
    /// The access log can be followed live.
    tail: bool,
    history_seconds: u64,
    client_addresses: ClientAddressesShown,
}

/// What a browser logs in with.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct Login {
    token: String,
}

impl Me {
    fn of(state: &State, who: &Who, session: Option<&Session>) -> Me {
        let (now, at) = (Instant::now(), SystemTime::now());
        let console = state.console.as_ref();
        Me {
            name: who.name.to_string(),
            role: who.role,
            via: who.via,
            session: session.map(|session| {
                let (idle, most) = state.sessions.left(session, now);
                SessionView { ends_at: later(at, most), idle_until: later(at, idle) }
            }),
            may_order: who.role == AdminRole::Operator && !state.phase.is_draining(),
            gateway: GatewayView {
                boot: state.journal.events.boot(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                phase: state.phase.word().to_owned(),
                started_at: time(state.started_at),
            },
            console: ConsoleView {
                enabled: console.is_some(),
                tail: console.is_some_and(|console| console.tail),
                history_seconds: console.map_or(0, |console| Duration::from(console.history).as_secs()),
                client_addresses: console
                    .map_or(ClientAddressesShown::Hide, |console| console.client_addresses),
            },
            has_control: state.process.control().is_some(),
        }
    }
}

fn later(at: SystemTime, by: Duration) -> String {
    time(at.checked_add(by).unwrap_or(at))
}

pub(in crate::admin) fn show(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    let who = asked.who.as_ref().ok_or_else(|| Reason::Internal.because("nobody asks"))?;
    let session = asked.session.as_ref().filter(|_| who.via == Via::Session);
    Ok(reply::json(StatusCode::OK, &Me::of(state, who, session)))
}

impl Api {
    /// A token for a cookie.
    pub(in crate::admin) fn login(
        &self,
        connection: &Connection,
        head: &Parts,
        body: &[u8],
    ) -> Result<Reply, Refused> {
        let Login { token } = read_json(body)?;
        let state = &self.state;
        state.keys.check_caller(connection.caller.as_deref())?;
        if !state.keys.want_token() {
            // Nothing more is asked for than was shown already.
            let who = self.who(connection, head, None)?;
            return Ok(reply::json(StatusCode::OK, &Me::of(state, &who, None)));
        }
        let owner = self.owner(connection.peer.ip(), token.as_bytes())?;
        let (name, role) =
            owner.ok_or_else(|| unauthorized("this is not a token (ask whoever runs the gateway)"))?;
        let now = Instant::now();
        let session = Session { name: name.clone(), role, begun: now, used: now };
        // What a certificate allows is looked at with each request.
        let (caller, headers) = (connection.caller.as_deref(), HeaderMap::new());
        let shown = Shown { caller, headers: &headers, session: Some(&session) };
        let who = state.keys.who(&shown, |_| Ok(None))?;
        let secret = state.sessions.begin(name, role, now)?;
        let mut reply = reply::json(StatusCode::OK, &Me::of(state, &who, Some(&session)));
        let cookie = self.cookie_name(Some(head), &head.headers);
        if let Some(cookie) = set_cookie(&cookie, &secret, state.sessions.longest(), self.is_secure) {
            reply.headers_mut().insert(SET_COOKIE, cookie);
        }
        Ok(reply)
    }

    pub(in crate::admin) fn logout(&self, head: &Parts) -> Reply {
        if let Some((secret, _)) = self.session(head) {
            self.state.sessions.end(&secret);
        }
        let mut reply = reply::empty(StatusCode::NO_CONTENT);
        let cookie = self.cookie_name(Some(head), &head.headers);
        if let Some(cookie) = set_cookie(&cookie, "", Duration::ZERO, self.is_secure) {
            reply.headers_mut().insert(SET_COOKIE, cookie);
        }
        reply
    }
}
