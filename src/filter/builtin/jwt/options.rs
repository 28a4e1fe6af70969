//! The filter's options, and what of them makes no sense.

use std::{collections::BTreeMap, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::{
    config::{ByteSize, HumanDuration, Path, PathMatch},
    filter::{
        Filter, Invalid, Live, Options,
        builtin::jwt::{
            Verifier,
            algorithm::Algorithm,
            demands::{Require, skip},
            issuers::{Accepts, Issuer, IssuerOptions, Issuers},
            key_options::Keys,
            place::{From, Place},
            refusal::Challenge,
            token::Types,
        },
        shared::remembered::Remembered,
    },
};

/// Lets requests in that carry a valid token (JWT), and tells the upstream what it says.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jwt {
    /// By what signatures are verified: `{jwks: URL}`, `{secret: ...}` or `{public_key: FILE}`. Default: the keys that the
    /// document of `issuer` leads to (OpenID Connect Discovery, RFC 8414).
    #[serde(default)]
    keys: Keys,
    /// Which algorithms are accepted. Default: those that the keys are for.
    #[serde(default)]
    algorithms: Vec<Algorithm>,
    /// The `iss` that is accepted, or several. Default: any.
    #[serde(default, deserialize_with = "one_or_more")]
    #[schemars(with = "OneOrMore")]
    issuer: Vec<String>,
    /// Several issuers, each with its own keys, algorithms and audience, in place of `issuer`, `keys`, `algorithms` and `audience`.
    /// The `iss` of a token says whose keys it is verified with.
    #[serde(default)]
    issuers: Vec<IssuerOptions>,
    /// The token's `aud` must have one of these. Default: any, or none.
    #[serde(default, deserialize_with = "one_or_more")]
    #[schemars(with = "OneOrMore")]
    audience: Vec<String>,
    /// By how much the issuer's clock may differ from ours, at most 5m.
    #[serde(default = "clock_skew")]
    clock_skew: HumanDuration,
    /// What a token must say beside.
    #[serde(default)]
    require: Require,
    /// Claims that the upstream is told, each in a header. What clients send in these headers is taken off.
    #[serde(default)]
    forward_claims: BTreeMap<String, String>,
    /// Where the token stands. Default: `authorization: Bearer`.
    from: Option<From>,
    /// Whether the upstream gets the token too.
    #[serde(default = "yes")]
    forward_token: bool,
    /// Let requests without a token pass as well. A token that is not valid is refused all the same.
    #[serde(default)]
    optional: bool,
    /// Paths that need no token, written as in a route's `match`.
    #[serde(default)]
    skip_paths: Vec<PathMatch>,
    /// The `typ` a token must have. Default: `JWT`, `at+jwt`, or none.
    #[serde(rename = "type", default, deserialize_with = "one_or_more")]
    #[schemars(with = "OneOrMore")]
    types: Vec<String>,
    /// The largest token, at most 64KiB.
    #[serde(default = "max_size")]
    max_size: ByteSize,
    /// About how many tokens that were verified are remembered, at most a million.
    #[serde(default = "cache_entries")]
    cache_entries: usize,
    /// What clients are told they need a token for.
    #[serde(default = "realm")]
    realm: String,
}

/// For the schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
#[allow(dead_code)]
pub(crate) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

pub(crate) fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Either;

    impl<'de> serde::de::Visitor<'de> for Either {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("text, or a list of texts")
        }

        fn visit_str<E: serde::de::Error>(self, one: &str) -> Result<Vec<String>, E> {
            Ok(vec![one.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
            let mut more = Vec::new();
            while let Some(one) = seq.next_element()? {
                more.push(one);
            }
            match more.is_empty() {
                true => Err(serde::de::Error::custom(
                    "an empty list accepts nothing (leave it out to accept all)",
                )),
                false => Ok(more),
            }
        }
    }

    deserializer.deserialize_any(Either)
}

fn clock_skew() -> HumanDuration {
    HumanDuration::from_secs(60)
}

fn yes() -> bool {
    true
}

fn max_size() -> ByteSize {
    ByteSize::kib(8)
}

fn cache_entries() -> usize {
    10_000
}

fn realm() -> String {
    "api".to_owned()
}

const LARGEST_SKEW: u64 = 300;
const LARGEST_TOKEN: u64 = 64 * 1024;
const MOST_ENTRIES: usize = 1_000_000;

impl Options for Jwt {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Checks::default();
        self.limits(at, &mut invalid);
        let place = match &self.from {
            None => Some(Place::Header(http::header::AUTHORIZATION)),
            Some(from) => invalid.keep(&at.key("from"), from.place()),
        };
        let skew = self.clock_skew.as_std().as_secs();
        let policy = self.require.policy(&self.forward_claims, skew, at, &mut invalid);
        let skip = skip(&self.skip_paths, &at.key("skip_paths"), &mut invalid);
        let challenge = invalid.keep(&at.key("realm"), Challenge::new(&self.realm, &self.require.scope));
        let built = self.issuers(at, live, &mut invalid);
        let (Some(place), Some(challenge), true) = (place, challenge, invalid.0.is_empty()) else {
            return Err(invalid.0);
        };
        let (issuers, identities): (Vec<Issuer>, Vec<String>) = built.into_iter().unzip();
        let metrics = live.metrics().tokens().clone();
        Ok(Arc::new(Verifier {
            place,
            skip,
            optional: self.optional,
            forward_token: self.forward_token,
            max_size: self.max_size.bytes() as usize,
            types: Types::new(Some(self.types.as_slice()).filter(|types| !types.is_empty())),
            policy,
            challenge,
            issuers: Issuers::new(issuers),
            accepted: metrics.verifications("valid"),
            metrics,
            // All that decides which tokens are valid: a filter that decides otherwise begins with nothing known.
            cache: live.keep((self, identities), |(options, _)| Remembered::new(options.cache_entries)),
        }))
    }
}

/// What is wrong so far.
#[derive(Default)]
pub(crate) struct Checks(pub Vec<Invalid>);

impl Checks {
    pub(crate) fn keep<T, E: ToString>(&mut self, at: &Path, result: Result<T, E>) -> Option<T> {
        result.map_err(|why| self.0.push(Invalid::new(at.clone(), why))).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_all(self) -> Vec<Invalid> {
        self.0
    }

    pub(crate) fn refuse_if(&mut self, wrong: bool, at: Path, why: &str) {
        if wrong {
            self.0.push(Invalid::new(at, why));
        }
    }
}

impl Jwt {
    fn limits(&self, at: &Path, invalid: &mut Checks) {
        let size = self.max_size.bytes();
        let skew = self.clock_skew.as_std().as_secs();
        invalid.refuse_if(
            skew > LARGEST_SKEW,
            at.key("clock_skew"),
            "a skew of more than 5m is no skew (set the clocks)",
        );
        invalid.refuse_if(
            !(1..=LARGEST_TOKEN).contains(&size),
            at.key("max_size"),
            "max_size is from 1B to 64KiB",
        );
        invalid.refuse_if(
            self.cache_entries > MOST_ENTRIES,
            at.key("cache_entries"),
            "cache_entries is at most a million",
        );
    }

    /// Each with what differs where its keys may.
    fn issuers(&self, at: &Path, live: &Live, invalid: &mut Checks) -> Vec<(Issuer, String)> {
        if self.issuers.is_empty() {
            let accepts = Accepts { issuers: self.issuer.clone(), audiences: self.audience.clone() };
            let built = Issuer::build(accepts, &self.keys, &self.algorithms, at, live, invalid);
            return built.into_iter().collect();
        }
        for (key, is_there) in [
            ("issuer", !self.issuer.is_empty()),
            ("keys", self.keys != Keys::default()),
            ("algorithms", !self.algorithms.is_empty()),
            ("audience", !self.audience.is_empty()),
        ] {
            let why = format!("with `issuers`, each of them has its own `{key}` (move it there)");
            invalid.refuse_if(is_there, at.key(key), &why);
        }
        IssuerOptions::build_all(&self.issuers, &at.key("issuers"), live, invalid)
    }
}
