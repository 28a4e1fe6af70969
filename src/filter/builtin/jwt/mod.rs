//! `jwt`: lets requests in that carry a valid token (RFC 7519, RFC 6750), and tells the upstream what it says.
//!
//! A token goes through one way: found in the request (`place`), looked up among those verified before (`Remembered`), taken
//! apart (`token`), its signature verified (`key`, `source`), its claims judged (`claims`), or refused (`refusal`). A
//! request waits only for keys that are just being read.

mod algorithm;
pub(in crate::filter::builtin) mod claims;
pub(in crate::filter::builtin) mod demands;
pub(in crate::filter) mod fuzzing;
pub(in crate::filter::builtin) mod issuers;
pub(in crate::filter) mod json;
mod key;
mod key_options;
pub(in crate::filter::builtin) mod options;
pub(in crate::filter::builtin) mod place;
pub(in crate::filter::builtin) mod refusal;
mod schedule;
mod source;
mod token;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use openssl::sha::Sha256;
use prometheus::IntCounter;
use tokio::time::Instant;

use crate::{
    filter::{
        Exchange, Filter, Flow, Phases, Reason,
        builtin::jwt::{
            claims::Verified,
            issuers::{Issuer, Issuers},
            place::Place,
            refusal::Challenge,
        },
        shared::remembered::Remembered,
    },
    observe::metrics::TokenMetrics,
    route::PathPattern,
};

pub(crate) use algorithm::Algorithm;
pub(crate) use claims::{ClaimPath, Policy, header_value};
pub(crate) use issuers::Accepts;
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
    issuers: Issuers,
    policy: Policy,
    challenge: Challenge,
    /// Tokens whose signature is valid, so strangers cannot fill it.
    cache: Arc<Remembered<Known>>,
    accepted: IntCounter,
    metrics: TokenMetrics,
}

/// A token that was verified, and by which keys: those of which issuer, and which generation of them.
#[derive(Clone)]
struct Known {
    verified: Arc<Verified>,
    issuer: usize,
    generation: u64,
}

/// What can be said of a request.
enum Finding<'v> {
    /// It needs no token.
    Open,
    Valid(Arc<Verified>),
    Refused(Refusal),
    /// Refused for want of keys: other ones may say otherwise.
    Wanting(Refusal, Wanted<'v>),
}

/// Keys of this issuer, which had been read so often when they were looked at.
struct Wanted<'v> {
    issuer: &'v Issuer,
    reads: u64,
}

impl From<Refusal> for Finding<'_> {
    fn from(refusal: Refusal) -> Self {
        Finding::Refused(refusal)
    }
}

impl Verifier {
    /// `now` is in seconds since 1970.
    fn find(&self, exchange: &Exchange<'_>, now: u64) -> Finding<'_> {
        if self.skip.iter().any(|path| path.matches(exchange.facts.path())) {
            return Finding::Open;
        }
        let text = match self.place.find(exchange.request) {
            Ok(Some(text)) => text,
            Ok(None) if self.optional => return Finding::Open,
            Ok(None) => return Refusal::Missing.into(),
            Err(refusal) => return refusal.into(),
        };
        if text.len() > self.max_size {
            return Refusal::TooLarge.into();
        }
        let mut digest = Sha256::new();
        digest.update(text);
        let digest = digest.finish();
        let counts = |known: &Known| {
            let issuer = self.issuers.get(known.issuer);
            issuer.is_some_and(|issuer| issuer.source.held().generation == known.generation)
        };
        if let Some(known) = self.cache.find(&digest, now, counts) {
            return Finding::Valid(known.verified);
        }
        match self.verify(text, now) {
            Ok(known) => {
                self.accepted.inc();
                let verified = known.verified.clone();
                let by_other_keys =
                    |other: &Known| other.issuer == known.issuer && other.generation != known.generation;
                self.cache.keep(digest, known.clone(), verified.valid.clone(), now, by_other_keys);
                Finding::Valid(verified)
            }
            Err(finding) => finding,
        }
    }

    fn verify(&self, text: &[u8], now: u64) -> Result<Known, Finding<'_>> {
        let token = Token::parse(text, &self.types)?;
        let (number, issuer) = self.issuers.find(|| token.claims())?;
        issuer.allows(token.algorithm)?;
        // Before the keys are looked at, or a read in between would be waited for in vain.
        let reads = issuer.source.reads();
        let held = issuer.source.held();
        let verified = held.keys.as_ref().ok_or(Refusal::NoKeys).and_then(|keys| keys.verify(&token));
        verified.map_err(|refusal| match refusal {
            Refusal::UnknownKey | Refusal::NoKeys => Finding::Wanting(refusal, Wanted { issuer, reads }),
            refusal => refusal.into(),
        })?;
        let verified = self.policy.judge(token.claims()?, &issuer.accepts, now)?;
        Ok(Known { verified: Arc::new(verified), issuer: number, generation: held.generation })
    }

    fn conclude(&self, finding: Finding<'_>, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let refusal = match finding {
            Finding::Open => return Ok(Flow::Continue),
            Finding::Valid(verified) if verified.permitted => {
                verified.tell(exchange)?;
                return Ok(Flow::Continue);
            }
            Finding::Valid(_) => Refusal::Scope,
            Finding::Refused(refusal) | Finding::Wanting(refusal, _) => refusal,
        };
        self.metrics.verifications(refusal.code()).inc();
        exchange.facts.explain(refusal.code());
        Ok(Flow::Reply(self.challenge.respond(refusal, exchange)))
    }
}

/// In seconds since 1970, as tokens have it.
pub(in crate::filter::builtin) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
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
        match self.find(exchange, now()) {
            Finding::Wanting(_, wanted) if wanted.issuer.source.may_change() => Ok(None),
            finding => self.conclude(finding, exchange).map(Some),
        }
    }

    async fn on_request_async(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let began = Instant::now();
        loop {
            // A read that was under way may have begun before the issuer had the key, so one more may be needed.
            let finding = self.find(exchange, now());
            if let Finding::Wanting(_, Wanted { issuer, reads }) = &finding
                && issuer.source.changed(*reads, began + issuer.patience).await
            {
                continue;
            }
            return self.conclude(finding, exchange);
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
