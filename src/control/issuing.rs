//! The control plane as a certificate authority: it signs SVIDs with the CA of its own `identity`, for whoever proves whose
//! they are, with a token or with an SVID of that ID that is still valid.
//!
//! In this order, so that nothing is lost by what is refused: who asks is looked at, then the request, then the CA is opened;
//! only then a token is used, which is on the disk before the SVID is given out.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use openssl::x509::X509;
use tokio::{sync::Semaphore, task::JoinError};

use super::{
    access::Caller,
    refused::{Reason, Refused},
    tokens::{Token, Tokens, Wanted},
};
use crate::{
    identity::{
        self, Bundles, CaError, Identity, JoinToken, Source, SpiffeId, TrustDomain,
        ca::Authority,
        csr::{self, Csr},
        parse_id,
    },
    observe::{log::event, metrics::RegistryMetrics},
    snapshot::Current,
};

/// Signing takes a processor for a moment, and a use a disk.
const AT_ONCE: usize = 4;
/// Those that wait for that.
const WAITING: usize = 1_000;
/// How often a token may be used at most.
pub(crate) const MOST_USES: u32 = 100_000;
/// A token is for what is about to start.
pub(crate) const LONGEST: Duration = Duration::from_secs(30 * 86_400);

pub(crate) struct Issuing {
    tokens: Tokens,
    current: Current,
    ttl: Duration,
    places: Semaphore,
    turns: Semaphore,
    metrics: RegistryMetrics,
}

/// What was signed, in DER.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) authorities: Vec<Vec<u8>>,
    pub(crate) until: SystemTime,
}

/// By what whoever asks proves whose SVID it may be.
enum Proof {
    Token(JoinToken),
    Svid,
}

impl Issuing {
    pub(crate) fn new(tokens: Tokens, current: Current, ttl: Duration, metrics: RegistryMetrics) -> Issuing {
        let (places, turns) = (Semaphore::new(WAITING), Semaphore::new(AT_ONCE));
        Issuing { tokens, current, ttl, places, turns, metrics }
    }

    /// Signs what `csr` asks for. `token` may be empty; `shown` is the certificate of the connection.
    ///
    /// # Errors
    ///
    /// `unauthenticated`, `not_yours`, `bad_request`, `limit` or `store_unavailable`.
    pub(crate) async fn issue(
        self: &Arc<Self>,
        csr: Vec<u8>,
        token: &str,
        shown: Option<&identity::Caller>,
    ) -> Result<Signed, Refused> {
        let issued = self.try_issue(csr, token, shown).await;
        match &issued {
            Ok(_) => self.metrics.svid("issued"),
            Err(refused) => {
                self.metrics.svid(refused.reason.code());
                log::debug!("no SVID is issued: {refused}");
            }
        }
        issued
    }

    async fn try_issue(
        self: &Arc<Self>,
        csr: Vec<u8>,
        token: &str,
        shown: Option<&identity::Caller>,
    ) -> Result<Signed, Refused> {
        let full =
            || Reason::Limit.because("so many ask for SVIDs that no more can wait (ask again in a moment)");
        let _place = self.places.try_acquire().map_err(|_| full())?;
        let now = SystemTime::now();
        let (id, proof) = self.proven(token, shown, now)?;
        let _turn = self.turns.acquire().await.map_err(|_| full())?;
        let (issuing, directory) = (self.clone(), self.authority()?);
        let signing = tokio::task::spawn_blocking(move || issuing.sign(&csr, &id, &proof, directory, now));
        signing.await.map_err(|error: JoinError| {
            log::error!("signing an SVID has failed: {error}");
            Reason::StoreUnavailable.because("nothing can be signed (look at the log of the control plane)")
        })?
    }

    /// Whose SVID may be asked for.
    fn proven(
        &self,
        token: &str,
        shown: Option<&identity::Caller>,
        now: SystemTime,
    ) -> Result<(SpiffeId, Proof), Refused> {
        if !token.is_empty() {
            let token = JoinToken::parse(token);
            let token =
                token.map_err(|why| Reason::Unauthenticated.because(format!("what was sent {why}")))?;
            return Ok((self.tokens.look(&token, now)?, Proof::Token(token)));
        }
        let id = shown.and_then(|shown| Some((shown.id.clone()?, shown.until)));
        match id {
            Some((id, until)) if now < until => Ok((id, Proof::Svid)),
            // Connections may outlive the certificate that they were opened with.
            Some((id, _)) => Err(Reason::Unauthenticated.because(format!(
                "the SVID of {id} has expired (come with a token of `tidegate token create`)"
            ))),
            None => Err(Reason::Unauthenticated.because(
                "come with a token of `tidegate token create`, or with an SVID that is still valid",
            )),
        }
    }

    /// Blocking.
    fn sign(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        proof: &Proof,
        directory: PathBuf,
        now: SystemTime,
    ) -> Result<Signed, Refused> {
        let Csr { id: asked, key } = csr::read(csr)
            .map_err(|why| Reason::BadRequest.because(format!("the certificate request {why}")))?;
        if asked != *id {
            let by = match proof {
                Proof::Token(_) => "the token is for",
                Proof::Svid => "you are",
            };
            return Err(
                Reason::NotYours.because(format!("the certificate request is for {asked}, and {by} {id}"))
            );
        }
        let authority = Authority::open(&directory).map_err(|why| broken(&why))?;
        check_issuer(&authority, id, now)?;
        if let Proof::Token(token) = proof {
            self.tokens.take(token, now)?;
        }
        let leaf = authority.sign(id, &key, self.ttl, now).map_err(|why| broken(&why))?;
        let authorities = authority.bundle().map_err(|why| broken(&why.into()))?.authorities;
        let until = identity::ends(&leaf);
        let shown = humantime::format_rfc3339_seconds(until);
        let by = if matches!(proof, Proof::Token(_)) { "token" } else { "svid" };
        event!(Info, "SVID issued", id = id, until = shown, by = by);
        let written = |all: &[X509]| -> Result<Vec<Vec<u8>>, Refused> {
            let der = all.iter().map(|one| one.to_der()).collect::<Result<_, _>>();
            der.map_err(|error| broken(&error.into()))
        };
        Ok(Signed { chain: written(&[leaf])?, authorities: written(&authorities)?, until })
    }

    /// A new token, which nobody sees again.
    ///
    /// # Errors
    ///
    /// `bad_request`, `limit` or `store_unavailable`. Blocking.
    pub(crate) fn create_token(
        &self,
        id: &str,
        uses: u32,
        ttl: Duration,
        caller: &Caller,
    ) -> Result<(JoinToken, Token), Refused> {
        let bad = |why: String| Reason::BadRequest.because(why);
        let spiffe = parse_id(id).map_err(|why| bad(format!("{id:?} is not a SPIFFE ID: {why}")))?;
        if !(1..=MOST_USES).contains(&uses) {
            return Err(bad(format!("a token is good for 1 to {MOST_USES} uses, not for {uses}")));
        }
        if !(Duration::from_secs(1)..=LONGEST).contains(&ttl) {
            return Err(bad("a token lives from 1s to 30d (1h is the default)".to_owned()));
        }
        let now = SystemTime::now();
        let authority = Authority::open(&self.authority()?).map_err(|why| broken(&why))?;
        check_issuer(&authority, &spiffe, now)?;
        let token = authority.fingerprint().and_then(|print| Ok(JoinToken::new(print)?));
        let token = token.map_err(|why| broken(&why))?;
        let wanted = Wanted { spiffe, uses, ttl, by: caller.owner.to_string() };
        let made = self.tokens.create(&token, wanted, now)?;
        event!(Info, "token created", token = token.id, id = made.spiffe, uses = uses, by = made.by);
        Ok((token, made))
    }

    /// # Errors
    ///
    /// `not_found` or `store_unavailable`. Blocking.
    pub(crate) fn revoke_token(&self, id: &str, caller: &Caller) -> Result<(), Refused> {
        self.tokens.revoke(id)?;
        event!(Info, "token revoked", token = id, by = caller.owner);
        Ok(())
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Whose bundles are followed, and the trust domain.
    pub(crate) fn identity(&self) -> Option<(Arc<Identity>, TrustDomain)> {
        let snapshot = self.current.pin();
        let identity = snapshot.identity.as_ref()?;
        Some((identity.shared().clone(), identity.settings().trust_domain.clone()))
    }

    fn authority(&self) -> Result<PathBuf, Refused> {
        let snapshot = self.current.pin();
        match snapshot.identity.as_ref().map(|identity| &identity.settings().source) {
            Some(Source::Ca { directory, .. }) => Ok(directory.clone()),
            // A configuration without one is refused.
            _ => Err(broken(&CaError::Expired)),
        }
    }
}

/// The authorities of `trust_domain` in DER, with what tells whether they are others.
pub(crate) fn authorities(bundles: &Bundles, trust_domain: &TrustDomain) -> Option<([u8; 32], Vec<Vec<u8>>)> {
    let bundle = bundles.of(trust_domain)?;
    let all = bundle.authorities.iter().map(|authority| authority.to_der().ok());
    Some((bundle.fingerprint, all.collect::<Option<_>>()?))
}

/// Found out before a token is used.
fn check_issuer(authority: &Authority, id: &SpiffeId, now: SystemTime) -> Result<(), Refused> {
    if now >= authority.not_after {
        return Err(broken(&CaError::Expired));
    }
    if id.trust_domain() != &authority.trust_domain {
        let ours = authority.trust_domain.clone();
        return Err(Reason::BadRequest.because(CaError::Foreign { id: id.clone(), ours }.to_string()));
    }
    if id.path().is_empty() {
        return Err(Reason::BadRequest.because(CaError::NoPath.to_string()));
    }
    Ok(())
}

/// Whoever asks cannot mend it, and is not told what is where.
fn broken(why: &CaError) -> Refused {
    log::error!("no SVID can be signed: {why}");
    Reason::StoreUnavailable.because("the CA cannot be used (look at the log of the control plane)")
}
