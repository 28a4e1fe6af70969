//! The filter's options, and what of them makes no sense.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{
    config::{ByteSize, HumanDuration, Path, PathMatch},
    filter::{
        Filter, Invalid, Live, Options,
        builtin::jwt::{
            Verifier,
            algorithm::Algorithm,
            cache::Cache,
            claims::{ClaimPath, Policy},
            key_options::{BuiltKeys, Keys},
            place::{From, Place},
            refusal::Challenge,
            token::Types,
        },
        shared::proven::ProvenHeader,
    },
    route::PathPattern,
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

/// What a token must say to be let in: else the answer is 403.
#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Require {
    /// All of these scopes.
    #[serde(deserialize_with = "one_or_more")]
    #[schemars(with = "OneOrMore")]
    scope: Vec<String>,
    /// These claims, each with this value, or with one of these. A claim that is a list must have one of them in it.
    #[schemars(with = "BTreeMap<String, Value>")]
    claims: BTreeMap<String, Value>,
}

/// For the schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
#[allow(dead_code)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
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
        let policy = self.policy(at, &mut invalid);
        let skip = self.skip(at, &mut invalid);
        let challenge = invalid.keep(&at.key("realm"), Challenge::new(&self.realm, &self.require.scope));
        let keys = match self.issuer.as_slice() {
            [only] => self.keys.build(Some(only), &at.key("keys"), live, &mut invalid),
            _ => self.keys.build(None, &at.key("keys"), live, &mut invalid),
        };
        let algorithms = keys.as_ref().map(|keys| self.algorithms(keys, at, &mut invalid));
        let (Some(place), Some(challenge), Some(keys), Some(algorithms), true) =
            (place, challenge, keys, algorithms, invalid.0.is_empty())
        else {
            return Err(invalid.0);
        };
        let metrics = live.metrics().tokens().clone();
        Ok(Arc::new(Verifier {
            place,
            skip,
            optional: self.optional,
            forward_token: self.forward_token,
            max_size: self.max_size.bytes() as usize,
            types: Types::new(Some(self.types.as_slice()).filter(|types| !types.is_empty())),
            algorithms,
            policy,
            challenge,
            source: keys.source,
            patience: self.keys.wait.into(),
            accepted: metrics.verifications("valid"),
            metrics,
            // All that decides which tokens are valid: a filter that decides otherwise begins with nothing known.
            cache: live.keep((self, keys.identity), |(options, _)| Cache::new(options.cache_entries)),
        }))
    }
}

/// What is wrong so far.
#[derive(Default)]
pub(crate) struct Checks(Vec<Invalid>);

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
        let (skew, keys) = (self.clock_skew.as_std().as_secs(), at.key("keys"));
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
        for (key, duration) in [("refresh", self.keys.refresh), ("timeout", self.keys.timeout)] {
            let too_short = duration.as_std().is_zero();
            invalid.refuse_if(too_short, keys.key(key), "a duration of 0 makes no sense here");
        }
        for (index, scope) in self.require.scope.iter().enumerate() {
            // RFC 6749, section 3.3.
            let is_scope = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
            let wrong = scope.is_empty() || !scope.bytes().all(is_scope);
            let at = at.key("require").key("scope").index(index);
            invalid.refuse_if(wrong, at, "a scope is one word of ASCII, without quotes and backslashes");
        }
    }

    fn policy(&self, at: &Path, invalid: &mut Checks) -> Policy {
        let mut required = Vec::new();
        for (path, value) in &self.require.claims {
            let at = at.key("require").key("claims").key(path);
            let values = match value {
                Value::Array(values) => values.clone(),
                one => vec![one.clone()],
            };
            let plain = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
            let wrong = values.is_empty() || !values.iter().all(plain);
            invalid.refuse_if(wrong, at.clone(), "expected text, a number, true or false, or a list of them");
            required.extend(invalid.claim(path, &at).map(|claim| (claim, values)));
        }
        let (mut forward, mut taken) = (Vec::new(), BTreeSet::new());
        for (path, header) in &self.forward_claims {
            let at = at.key("forward_claims").key(path);
            let again = !taken.insert(header.to_ascii_lowercase());
            invalid.refuse_if(again, at.clone(), "another claim goes into this header already");
            let header = invalid.keep(&at, ProvenHeader::parse(header));
            forward.extend(invalid.claim(path, &at).zip(header));
        }
        Policy {
            issuers: self.issuer.clone(),
            audiences: self.audience.clone(),
            skew: self.clock_skew.as_std().as_secs(),
            scopes: self.require.scope.clone(),
            required,
            forward,
        }
    }

    fn skip(&self, at: &Path, invalid: &mut Checks) -> Vec<PathPattern> {
        let mut skip = Vec::new();
        for (index, path) in self.skip_paths.iter().enumerate() {
            let pattern = match path {
                PathMatch::Exact(path) => PathPattern::exact(path),
                PathMatch::Prefix(path) => PathPattern::prefix(path),
                PathMatch::Regex(path) => PathPattern::regex(path),
                PathMatch::Template(path) => PathPattern::template(path),
            };
            skip.extend(invalid.keep(&at.key("skip_paths").index(index), pattern));
        }
        skip
    }

    /// Those named, which must be the keys' own; or all of the keys' own.
    fn algorithms(&self, keys: &BuiltKeys, at: &Path, invalid: &mut Checks) -> Vec<Algorithm> {
        for (index, algorithm) in self.algorithms.iter().enumerate() {
            let possible = keys.algorithms.contains(algorithm);
            let names: Vec<String> = keys.algorithms.iter().map(|algorithm| algorithm.name()).collect();
            let why = format!("these keys cannot verify {algorithm:?} (they can: {})", names.join(", "));
            invalid.refuse_if(!possible, at.key("algorithms").index(index), &why);
        }
        match self.algorithms.is_empty() {
            true => keys.algorithms.clone(),
            false => self.algorithms.clone(),
        }
    }
}

impl Checks {
    fn claim(&mut self, path: &str, at: &Path) -> Option<ClaimPath> {
        self.keep(at, ClaimPath::new(path).ok_or("a claim has a name"))
    }
}
