//! `jwt`: lets requests in that carry a valid token (RFC 7519, RFC 6750), and tells the upstream what it says.
//!
//! A token goes through one way: found in the request (`place`), looked up among those verified before (`cache`), taken
//! apart (`token`), its signature verified (`key`, `source`), its claims judged (`claims`), or refused (`refusal`). A
//! request waits only for keys that are just being read.

mod algorithm;
mod cache;
mod claims;
pub(in crate::filter) mod fuzzing;
pub(in crate::filter) mod json;
mod key;
mod key_options;
mod options;
mod place;
mod refusal;
mod schedule;
mod source;
mod token;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use openssl::sha::Sha256;
use prometheus::IntCounter;
use tokio::time::Instant;

use crate::{
    filter::{
        Exchange, Filter, Flow, Phases, Reason,
        builtin::jwt::{
            cache::{Cache, Digest},
            claims::Verified,
            place::Place,
            refusal::Challenge,
        },
    },
    observe::metrics::TokenMetrics,
    route::PathPattern,
};

pub(crate) use algorithm::Algorithm;
pub(crate) use claims::{ClaimPath, Policy, header_value};
pub(crate) use key_options::{BuiltKeys, Keys};
pub(crate) use options::{Checks, Jwt};
pub(crate) use refusal::Refusal;
pub(crate) use source::Subscription;
pub(crate) use token::{Token, Types};

struct Verifier {
    place: Place,
    skip: Vec<PathPattern>,
    optional: bool,
    forward_token: bool,
    max_size: usize,
    types: Types,
    algorithms: Vec<Algorithm>,
    policy: Policy,
    challenge: Challenge,
    source: Arc<Subscription>,
    cache: Arc<Cache>,
    /// A request may wait so long for keys.
    patience: Duration,
    accepted: IntCounter,
    metrics: TokenMetrics,
}

/// What can be said of a request.
enum Finding {
    /// It needs no token.
    Open,
    Valid(Arc<Verified>),
    Refused(Refusal),
}

impl Verifier {
    /// `now` is in seconds since 1970.
    fn find(&self, exchange: &Exchange<'_>, now: u64) -> Finding {
        if self.skip.iter().any(|path| path.matches(exchange.facts.path())) {
            return Finding::Open;
        }
        let text = match self.place.find(exchange.request) {
            Ok(Some(text)) => text,
            Ok(None) if self.optional => return Finding::Open,
            Ok(None) => return Finding::Refused(Refusal::Missing),
            Err(refusal) => return Finding::Refused(refusal),
        };
        if text.len() > self.max_size {
            return Finding::Refused(Refusal::TooLarge);
        }
        let mut digest = Sha256::new();
        digest.update(text);
        let digest = digest.finish();
        let held = self.source.held();
        if let Some(verified) = self.cache.find(&digest, held.generation, now) {
            return Finding::Valid(verified);
        }
        match self.verify(text, &held, now) {
            Ok(verified) => {
                self.accepted.inc();
                Finding::Valid(self.remember(digest, verified, held.generation, now))
            }
            Err(refusal) => Finding::Refused(refusal),
        }
    }

    fn verify(&self, text: &[u8], held: &source::Held, now: u64) -> Result<Verified, Refusal> {
        let token = Token::parse(text, &self.types)?;
        if !self.algorithms.contains(&token.algorithm) {
            return Err(Refusal::Algorithm);
        }
        let keys = held.keys.as_ref().ok_or(Refusal::NoKeys)?;
        keys.verify(&token)?;
        self.policy.judge(token.claims()?, now)
    }

    fn remember(&self, digest: Digest, verified: Verified, generation: u64, now: u64) -> Arc<Verified> {
        let verified = Arc::new(verified);
        self.cache.keep(digest, verified.clone(), generation, now);
        verified
    }

    fn conclude(&self, finding: Finding, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let refusal = match finding {
            Finding::Open => return Ok(Flow::Continue),
            Finding::Valid(verified) if verified.permitted => {
                verified.tell(exchange)?;
                return Ok(Flow::Continue);
            }
            Finding::Valid(_) => Refusal::Scope,
            Finding::Refused(refusal) => refusal,
        };
        self.metrics.verifications(refusal.code()).inc();
        exchange.facts.explain(refusal.code());
        Ok(Flow::Reply(self.challenge.respond(refusal, exchange)))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Other keys may say otherwise.
fn is_for_want_of_keys(finding: &Finding) -> bool {
    matches!(finding, Finding::Refused(Refusal::UnknownKey | Refusal::NoKeys))
}

#[async_trait]
impl Filter for Verifier {
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
        let finding = self.find(exchange, now());
        if is_for_want_of_keys(&finding) && self.source.may_change() {
            return Ok(None);
        }
        self.conclude(finding, exchange).map(Some)
    }

    async fn on_request_async(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let deadline = Instant::now() + self.patience;
        let mut reads = self.source.reads();
        let mut finding = self.find(exchange, now());
        // A read that was under way may have begun before the issuer had the key, so one more may be needed.
        while is_for_want_of_keys(&finding) && self.source.changed(reads, deadline).await {
            reads = self.source.reads();
            finding = self.find(exchange, now());
        }
        self.conclude(finding, exchange)
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
