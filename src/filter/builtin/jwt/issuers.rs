//! Whose tokens are accepted, each issuer with its own keys, algorithms and audience.
//!
//! Where there are several, the `iss` of a token says whose keys it is verified with, before anything it says is believed: so
//! no issuer can speak in another one's name. A token whose `iss` is nobody's here has no keys at all.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    config::Path,
    filter::{
        Live,
        builtin::jwt::{
            algorithm::Algorithm,
            key_options::{BuiltKeys, Keys},
            options::{Checks, OneOrMore, one_or_more},
            refusal::Refusal,
            source::Subscription,
        },
    },
};

/// An issuer of several.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IssuerOptions {
    /// The `iss` of its tokens, to the letter.
    issuer: String,
    /// By what its signatures are verified. Default: the keys that its own document leads to (OpenID Connect Discovery, RFC 8414).
    #[serde(default)]
    keys: Keys,
    /// Which algorithms are accepted of it. Default: those that the keys are for.
    #[serde(default)]
    algorithms: Vec<Algorithm>,
    /// The `aud` of its tokens must have one of these. Default: any, or none.
    #[serde(default, deserialize_with = "one_or_more")]
    #[schemars(with = "OneOrMore")]
    audience: Vec<String>,
}

/// Where tokens come from that are accepted, in turn with what they must say to be.
pub(crate) struct Issuer {
    pub accepts: Accepts,
    algorithms: Vec<Algorithm>,
    pub source: Arc<Subscription>,
    /// A request may wait so long for its keys.
    pub patience: Duration,
}

/// What `iss` and `aud` must say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accepts {
    /// Empty: any.
    pub issuers: Vec<String>,
    /// Empty: any, or none.
    pub audiences: Vec<String>,
}

impl Accepts {
    /// # Errors
    ///
    /// These claims are of another issuer, or for somebody else.
    pub(crate) fn judge(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let issuer = claims.get("iss").and_then(Value::as_str);
        let is_named = |issuer: &str| self.issuers.iter().any(|name| name == issuer);
        if !self.issuers.is_empty() && !issuer.is_some_and(is_named) {
            return Err(Refusal::Issuer);
        }
        if !self.audiences.is_empty() && !claims.get("aud").is_some_and(|aud| self.is_audience(aud)) {
            return Err(Refusal::Audience);
        }
        Ok(())
    }

    fn is_audience(&self, aud: &Value) -> bool {
        let is_ours = |aud: &Value| aud.as_str().is_some_and(|aud| self.audiences.iter().any(|a| a == aud));
        match aud {
            // All of them are text, or it is malformed.
            Value::Array(several) => several.iter().all(Value::is_string) && several.iter().any(is_ours),
            one => is_ours(one),
        }
    }
}

pub(crate) struct Issuers(Vec<Issuer>);

impl Issuers {
    /// One, whose tokens need not name it; or several, which are told apart by name.
    pub(crate) fn new(issuers: Vec<Issuer>) -> Issuers {
        Issuers(issuers)
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Issuer> {
        self.0.get(number)
    }

    /// Whose keys a token is to be verified with; `claims` reads what it says of itself.
    ///
    /// # Errors
    ///
    /// It is nobody's.
    pub(crate) fn find(
        &self,
        claims: impl FnOnce() -> Result<Map<String, Value>, Refusal>,
    ) -> Result<(usize, &Issuer), Refusal> {
        if let [only] = self.0.as_slice() {
            return Ok((0, only));
        }
        let claims = claims()?;
        let named = claims.get("iss").and_then(Value::as_str).ok_or(Refusal::Issuer)?;
        let is_named =
            |(_, issuer): &(usize, &Issuer)| issuer.accepts.issuers.iter().any(|name| name == named);
        self.0.iter().enumerate().find(is_named).ok_or(Refusal::Issuer)
    }
}

impl Issuer {
    /// `None` when something is wrong, which `invalid` then says. With it comes what differs where its keys may.
    pub(crate) fn build(
        accepts: Accepts,
        keys: &Keys,
        algorithms: &[Algorithm],
        at: &Path,
        live: &Live,
        invalid: &mut Checks,
    ) -> Option<(Issuer, String)> {
        keys.limits(&at.key("keys"), invalid);
        let name = match accepts.issuers.as_slice() {
            [only] => Some(only.as_str()),
            _ => None,
        };
        let built = keys.build(name, &at.key("keys"), live, invalid)?;
        let algorithms = accepted(algorithms, &built, at, invalid);
        let BuiltKeys { source, identity, .. } = built;
        Some((Issuer { accepts, algorithms, source, patience: keys.wait.into() }, identity))
    }

    /// # Errors
    ///
    /// Its keys are not for this algorithm, or not to be used with it here.
    pub(crate) fn allows(&self, algorithm: Algorithm) -> Result<(), Refusal> {
        if self.algorithms.contains(&algorithm) { Ok(()) } else { Err(Refusal::Algorithm) }
    }
}

impl IssuerOptions {
    /// Each of them, with what differs where their keys may.
    pub(crate) fn build_all(
        all: &[IssuerOptions],
        at: &Path,
        live: &Live,
        invalid: &mut Checks,
    ) -> Vec<(Issuer, String)> {
        let mut built = Vec::new();
        for (number, options) in all.iter().enumerate() {
            let at = at.index(number);
            let name = &options.issuer;
            let again = all[..number].iter().any(|other| other.issuer == *name);
            invalid.refuse_if(
                again,
                at.key("issuer"),
                "this issuer stands here already (give it several keys by `jwks`)",
            );
            invalid.refuse_if(
                name.is_empty(),
                at.key("issuer"),
                "an issuer has a name: the `iss` of its tokens",
            );
            let accepts = Accepts { issuers: vec![name.clone()], audiences: options.audience.clone() };
            built.extend(Issuer::build(accepts, &options.keys, &options.algorithms, &at, live, invalid));
        }
        built
    }
}

/// Those named, which must be the keys' own; or all of the keys' own.
fn accepted(named: &[Algorithm], keys: &BuiltKeys, at: &Path, invalid: &mut Checks) -> Vec<Algorithm> {
    for (index, algorithm) in named.iter().enumerate() {
        let possible = keys.algorithms.contains(algorithm);
        let names: Vec<String> = keys.algorithms.iter().map(|algorithm| algorithm.name()).collect();
        let why = format!("these keys cannot verify {algorithm:?} (they can: {})", names.join(", "));
        invalid.refuse_if(!possible, at.key("algorithms").index(index), &why);
    }
    if named.is_empty() { keys.algorithms.clone() } else { named.to_vec() }
}
