//! `introspection`: lets requests in that carry a token which its issuer says to be active (RFC 7662), and tells the upstream what it
//! says. For tokens that mean nothing to anybody else; of those that are signed, `jwt` knows by itself.
//!
//! What the issuer says is remembered for a while, and never beyond the token's expiry. While it cannot be asked, nobody is let in
//! whose token is not known.

mod options;
mod server;

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use openssl::sha::sha256;
use serde_json::Value;
use tokio::sync::Semaphore;

use self::server::Server;
use crate::{
    fetch::Change,
    filter::{
        Exchange, Filter, Flow, Phases, Reason,
        builtin::jwt::{
            claims::{Policy, Verified},
            issuers::Accepts,
            now,
            place::Place,
            refusal::{Challenge, Refusal},
        },
        shared::remembered::{Digest, Remembered},
    },
    observe::{log::event, log_throttle::Sparse, metrics::Results},
    route::PathPattern,
};

pub(crate) use self::options::Introspection;

struct Introspector {
    server: Server,
    place: Place,
    skip: Vec<PathPattern>,
    optional: bool,
    forward_token: bool,
    max_size: usize,
    policy: Policy,
    accepts: Accepts,
    challenge: Challenge,
    /// Seconds.
    ttl: u64,
    inactive_ttl: u64,
    room: Semaphore,
    filter: Box<str>,
    results: Arc<Results<4>>,
    told: Sparse,
    known: Arc<Known>,
}

/// What the issuer has said. Active tokens and others are kept apart, so that strangers who guess do not push out those who know.
struct Known {
    active: Remembered<Arc<Verified>>,
    refused: Remembered<Refusal>,
}

const ACTIVE: usize = 0;
const REFUSED: usize = 1;
const FAILED: usize = 2;
const REMEMBERED: usize = 3;

/// What can be said of a request without asking.
enum Finding {
    /// It needs no token.
    Open,
    Refused(Refusal),
    Known(Result<Arc<Verified>, Refusal>),
    /// The issuer has to be asked about this token.
    Unknown(Vec<u8>, Digest),
}

impl Known {
    fn new(entries: usize) -> Known {
        Known { active: Remembered::new(entries), refused: Remembered::new(entries) }
    }
}

impl Introspector {
    /// `now` is in seconds since 1970.
    fn find(&self, exchange: &Exchange<'_>, now: u64) -> Finding {
        if self.skip.iter().any(|path| path.matches(exchange.facts.path())) {
            return Finding::Open;
        }
        let token = match self.place.find(exchange.request) {
            Ok(Some(token)) => token,
            Ok(None) if self.optional => return Finding::Open,
            Ok(None) => return Finding::Refused(Refusal::Missing),
            Err(refusal) => return Finding::Refused(refusal),
        };
        if token.len() > self.max_size {
            return Finding::Refused(Refusal::TooLarge);
        }
        let digest = sha256(token);
        if let Some(verified) = self.known.active.find(&digest, now, |_| true) {
            return Finding::Known(Ok(verified));
        }
        match self.known.refused.find(&digest, now, |_| true) {
            Some(refusal) => Finding::Known(Err(refusal)),
            None => Finding::Unknown(token.to_vec(), digest),
        }
    }

    fn conclude(
        &self,
        said: Result<Arc<Verified>, Refusal>,
        exchange: &mut Exchange<'_>,
    ) -> Result<Flow, Reason> {
        let refusal = match said {
            Ok(verified) if verified.permitted => {
                verified.tell(exchange)?;
                return Ok(Flow::Continue);
            }
            Ok(_) => Refusal::Scope,
            Err(refusal) => refusal,
        };
        exchange.facts.explain(refusal.code());
        Ok(Flow::Reply(self.challenge.respond(refusal, exchange)))
    }

    /// # Errors
    ///
    /// Why nothing can be said of the token.
    async fn ask(&self, token: &[u8], digest: Digest) -> Result<Result<Arc<Verified>, Refusal>, String> {
        self.follow_ca();
        let claims = self.server.ask(token).await?;
        let now = now();
        let said = match claims.get("active") {
            Some(Value::Bool(true)) => self.judge(claims, now),
            Some(Value::Bool(false)) => Err(Refusal::Inactive),
            _ => return Err("its answer does not say whether the token is `active`".to_owned()),
        };
        match &said {
            Ok(verified) => {
                let valid = verified.valid.clone();
                self.known.active.keep(digest, verified.clone(), valid, now, |_| false);
            }
            Err(refusal) => {
                let valid = now..now.saturating_add(self.inactive_ttl);
                self.known.refused.keep(digest, *refusal, valid, now, |_| false);
            }
        }
        Ok(said)
    }

    fn judge(&self, claims: serde_json::Map<String, Value>, now: u64) -> Result<Arc<Verified>, Refusal> {
        // An answer need not say whose the token is (RFC 7662, section 2.2): the server that was asked knows only its own.
        let anybody = Accepts { issuers: Vec::new(), audiences: self.accepts.audiences.clone() };
        let accepts = if claims.contains_key("iss") { &self.accepts } else { &anybody };
        self.policy.judge_active(claims, accepts, now, self.ttl).map(Arc::new)
    }

    fn follow_ca(&self) {
        match self.server.client.look(Instant::now()) {
            None => {}
            Some(Change::Taken) => event!(Info, "introspection trusts new authorities", filter = self.filter),
            Some(Change::Refused(why)) => {
                event!(
                    Warn,
                    "introspection cannot read its authorities, those before stay",
                    filter = self.filter,
                    problem = why
                )
            }
        }
    }

    fn fail(&self, why: String, exchange: &mut Exchange<'_>) -> Reason {
        self.results.count(FAILED);
        if let Some(passed_over) = self.told.say(Instant::now()) {
            event!(
                Warn,
                "introspection cannot ask its server",
                filter = self.filter,
                problem = why,
                others = passed_over,
            );
        }
        exchange.facts.explain(why);
        Reason::AuthUnavailable
    }
}

#[async_trait]
impl Filter for Introspector {
    fn phases(&self) -> Phases {
        let forward = match self.policy.forward.is_empty() && self.forward_token {
            true => Phases::empty(),
            false => Phases::FORWARD,
        };
        Phases::REQUEST_ASYNC | forward
    }

    fn on_request_at_once(&self, exchange: &mut Exchange<'_>) -> Result<Option<Flow>, Reason> {
        // Before anything else, and whatever follows.
        self.policy.strip(exchange)?;
        self.place.remove_others(exchange.request);
        match self.find(exchange, now()) {
            Finding::Open => Ok(Some(Flow::Continue)),
            Finding::Refused(refusal) => {
                self.results.count(REFUSED);
                self.conclude(Err(refusal), exchange).map(Some)
            }
            Finding::Known(said) => {
                self.results.count(REMEMBERED);
                self.conclude(said, exchange).map(Some)
            }
            Finding::Unknown(..) => Ok(None),
        }
    }

    async fn on_request_async(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let (token, digest) = match self.find(exchange, now()) {
            Finding::Unknown(token, digest) => (token, digest),
            // Another request has asked meanwhile.
            Finding::Open => return Ok(Flow::Continue),
            Finding::Refused(refusal) => return self.conclude(Err(refusal), exchange),
            Finding::Known(said) => {
                self.results.count(REMEMBERED);
                return self.conclude(said, exchange);
            }
        };
        let Ok(_room) = self.room.try_acquire() else { return Err(Reason::Overloaded) };
        match self.ask(&token, digest).await {
            Ok(said) => {
                self.results.count(if said.is_ok() { ACTIVE } else { REFUSED });
                self.conclude(said, exchange)
            }
            Err(why) => Err(self.fail(why, exchange)),
        }
    }

    fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        if !self.forward_token {
            self.place.remove(exchange.request);
        }
        self.policy.forward.iter().try_for_each(|(_, header)| header.forward(exchange))
    }
}

#[cfg(test)]
mod tests;
