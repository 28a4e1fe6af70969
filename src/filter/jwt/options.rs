//! The filter's options, and what of them makes no sense.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path as FilePath,
    sync::Arc,
};

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::Uri;
use jsonwebtoken::Algorithm;
use openssl::sha::sha256;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    Verifier,
    cache::Cache,
    claims::{ClaimPath, Policy},
    key::{Key, KeySet, name},
    place::{From, Place},
    refusal::Challenge,
    source::{self, Form, Schedule, Source},
    token::Types,
};
use crate::{
    config::{ByteSize, HumanDuration, Path, PathMatch, Secret},
    fetch,
    filter::{Filter, Invalid, Live, Options, proven::ProvenHeader},
    route::PathPattern,
};

/// Lets requests in that carry a valid token (JWT), and tells the upstream what it says.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    keys: Keys,
    /// Which algorithms are accepted. Default: those that the keys are for.
    #[serde(default)]
    algorithms: Vec<AlgorithmName>,
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

/// Exactly one of `secret`, `public_key` and `jwks`; the rest is for a `jwks` that is a URL.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// Shared with the issuer, for HS256, HS384 and HS512: at least 32, 48 and 64 bytes.
    secret: Option<Secret>,
    /// The secret is written in base64.
    #[serde(default)]
    base64: bool,
    /// A file with a public key or a certificate in PEM.
    public_key: Option<String>,
    /// The URL of the issuer's key set, or a file with one.
    jwks: Option<Secret>,
    /// How often it is fetched.
    #[serde(default = "refresh")]
    refresh: HumanDuration,
    /// A fetch may take so long.
    #[serde(default = "timeout")]
    timeout: HumanDuration,
    /// A request may wait so long for keys that are being fetched.
    #[serde(default = "wait")]
    wait: HumanDuration,
    /// The shortest time between two fetches because of tokens whose key is not known.
    #[serde(default = "cooldown")]
    cooldown: HumanDuration,
    /// Keys are used so long although they cannot be fetched again.
    #[serde(default = "max_stale")]
    max_stale: HumanDuration,
    /// A file with the certificates in PEM that the server is verified with. Default: those that the system trusts.
    ca: Option<String>,
    /// Allow `http:` to hosts other than this one. Whoever is in between can then make valid tokens.
    #[serde(default)]
    allow_http: bool,
}

/// What a token must say to be let in: else the answer is 403.
#[derive(Debug, Default, Deserialize, JsonSchema)]
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

#[allow(clippy::upper_case_acronyms)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
enum AlgorithmName {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
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

fn refresh() -> HumanDuration {
    HumanDuration::from_secs(600)
}

fn timeout() -> HumanDuration {
    HumanDuration::from_secs(5)
}

fn wait() -> HumanDuration {
    HumanDuration::from_secs(1)
}

fn cooldown() -> HumanDuration {
    HumanDuration::from_secs(10)
}

fn max_stale() -> HumanDuration {
    HumanDuration::from_secs(24 * 3600)
}

const LARGEST_SKEW: u64 = 300;
const LARGEST_TOKEN: u64 = 64 * 1024;
const MOST_ENTRIES: usize = 1_000_000;

impl Options for Jwt {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Checks(Vec::new());
        self.limits(at, &mut invalid);
        let place = match &self.from {
            None => Some(Place::Header(http::header::AUTHORIZATION)),
            Some(from) => invalid.keep(&at.key("from"), from.place()),
        };
        let policy = self.policy(at, &mut invalid);
        let skip = self.skip(at, &mut invalid);
        let challenge = invalid.keep(&at.key("realm"), Challenge::new(&self.realm, &self.require.scope));
        let keys = self.keys.build(&at.key("keys"), live, &mut invalid);
        let algorithms = keys.as_ref().map(|keys| self.algorithms(keys, at, &mut invalid));
        let (Some(place), Some(challenge), Some(keys), Some(algorithms), true) =
            (place, challenge, keys, algorithms, invalid.0.is_empty())
        else {
            return Err(invalid.0);
        };
        // All that decides which tokens are valid: a filter that decides otherwise begins with nothing known.
        let identity = format!("{self:?} {}", keys.identity);
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
            cache: live.keep(&identity, || Cache::new(self.cache_entries)),
            patience: self.keys.wait.into(),
            accepted: metrics.verifications("valid"),
            metrics,
        }))
    }
}

/// What is wrong so far.
pub(super) struct Checks(Vec<Invalid>);

impl Checks {
    fn keep<T, E: ToString>(&mut self, at: &Path, result: Result<T, E>) -> Option<T> {
        result.map_err(|why| self.0.push(Invalid::new(at.clone(), why))).ok()
    }

    fn refuse_if(&mut self, wrong: bool, at: Path, why: &str) {
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
            let possible = keys.algorithms.contains(&Algorithm::from(*algorithm));
            let names: Vec<String> = keys.algorithms.iter().map(|algorithm| name(*algorithm)).collect();
            let why = format!("these keys cannot verify {algorithm:?} (they can: {})", names.join(", "));
            invalid.refuse_if(!possible, at.key("algorithms").index(index), &why);
        }
        match self.algorithms.is_empty() {
            true => keys.algorithms.clone(),
            false => self.algorithms.iter().map(|algorithm| Algorithm::from(*algorithm)).collect(),
        }
    }
}

impl Checks {
    fn claim(&mut self, path: &str, at: &Path) -> Option<ClaimPath> {
        self.keep(at, ClaimPath::new(path).ok_or("a claim has a name"))
    }
}

struct BuiltKeys {
    source: Arc<Source>,
    algorithms: Vec<Algorithm>,
    /// Differs where the keys may.
    identity: String,
}

/// With and without padding.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

impl Keys {
    fn build(&self, at: &Path, live: &Live, invalid: &mut Checks) -> Option<BuiltKeys> {
        let asymmetric = || {
            use Algorithm::*;
            vec![RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA]
        };
        match (&self.secret, &self.public_key, &self.jwks) {
            (Some(secret), None, None) => {
                let key = invalid.keep(&at.key("secret"), self.secret(secret))?;
                let set = KeySet::of(vec![key]);
                let algorithms = set.algorithms();
                let identity = format!("{:?}", sha256(secret.expose().as_bytes()));
                Some(BuiltKeys { source: Arc::new(Source::fixed(set)), algorithms, identity })
            }
            (None, Some(file), None) => {
                let path = live.full_path(FilePath::new(file));
                let (source, keys) =
                    invalid.keep(&at.key("public_key"), self.file(&path, Form::Pem, live))?;
                let identity = path.display().to_string();
                Some(BuiltKeys { source, algorithms: keys.algorithms(), identity })
            }
            (None, None, Some(jwks)) if is_url(jwks.expose()) => {
                let at_jwks = at.key("jwks");
                let url = invalid.keep(&at_jwks, self.checked(jwks.expose()))?;
                let ca = match &self.ca {
                    Some(ca) => {
                        let path = live.full_path(FilePath::new(ca));
                        Some(invalid.keep(&at.key("ca"), source::read_file(&path))?)
                    }
                    None => None,
                };
                let options = fetch::Options { ca, ..fetch::Options::default() };
                let client = invalid.keep(&at.key("ca"), fetch::Client::new(&options))?;
                let schedule = self.schedule();
                // All filters that ask the same server for the same keep one set.
                let identity =
                    format!("jwks {} {schedule:?} {:?}", jwks.expose(), options.ca.map(|ca| sha256(&ca)));
                let name = shown(&url);
                let source = live.share_running(&identity, || {
                    Source::url(url, client, schedule, &name, live.metrics().tokens().source(&name))
                });
                Some(BuiltKeys { source, algorithms: asymmetric(), identity })
            }
            (None, None, Some(jwks)) => {
                let path = live.full_path(FilePath::new(jwks.expose()));
                let (source, _) = invalid.keep(&at.key("jwks"), self.file(&path, Form::Jwks, live))?;
                Some(BuiltKeys { source, algorithms: asymmetric(), identity: path.display().to_string() })
            }
            _ => {
                let why = "expected exactly one of `secret`, `public_key` and `jwks`";
                invalid.keep(at, Err(why))
            }
        }
    }

    fn secret(&self, secret: &Secret) -> Result<Key, &'static str> {
        const SHORT: &str = "a secret shorter than its hash can be guessed: at least 32 bytes (try `openssl rand -base64 48`)";
        if !self.base64 {
            return Key::secret(secret.expose().as_bytes()).ok_or(SHORT);
        }
        let standard = secret.expose().trim().replace('-', "+").replace('_', "/");
        let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);
        let bytes = engine.decode(standard).map_err(|_| "the secret is not base64 (leave `base64` out?)")?;
        Key::secret(&bytes).ok_or(SHORT)
    }

    fn schedule(&self) -> Schedule {
        Schedule {
            refresh: self.refresh.into(),
            timeout: self.timeout.into(),
            cooldown: self.cooldown.into(),
            max_stale: self.max_stale.into(),
        }
    }

    fn file(&self, path: &FilePath, form: Form, live: &Live) -> Result<(Arc<Source>, KeySet), String> {
        let keys = source::read_file(path).and_then(|text| {
            source::parse(&text, form).map_err(|why| format!("{}: {why}", path.display()))
        })?;
        // A file is there or not; it does not grow old.
        let schedule = Schedule { max_stale: std::time::Duration::MAX, ..self.schedule() };
        let name = path.display().to_string();
        let source = live.share_running(&format!("{form:?} {name} {schedule:?}"), || {
            let metrics = live.metrics().tokens().source(&name);
            Source::file(path.to_owned(), form, keys.clone(), schedule.clone(), metrics)
        });
        Ok((source, keys))
    }

    /// A URL that keys may come from. What it says is not repeated: it may hold a credential.
    fn checked(&self, url: &str) -> Result<Uri, &'static str> {
        let url: Uri = url.parse().map_err(|_| "not a URL (try \"https://issuer.example/jwks.json\")")?;
        let host = url.host().ok_or("the URL has no host")?;
        if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("a URL with a user and a password is not supported");
        }
        let here = host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match url.scheme_str() {
            Some("https") => Ok(url),
            Some("http") if here || self.allow_http => Ok(url),
            Some("http") => {
                Err("whoever is in between could replace the keys (use https, or `allow_http: true`)")
            }
            _ => Err("expected an https URL"),
        }
    }
}

fn is_url(text: &str) -> bool {
    text.contains("://")
}

/// As it may be told: without the query.
fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    format!("{scheme}://{}{}", url.authority().map_or("", |authority| authority.as_str()), url.path())
}

impl std::convert::From<AlgorithmName> for Algorithm {
    fn from(name: AlgorithmName) -> Algorithm {
        match name {
            AlgorithmName::HS256 => Algorithm::HS256,
            AlgorithmName::HS384 => Algorithm::HS384,
            AlgorithmName::HS512 => Algorithm::HS512,
            AlgorithmName::RS256 => Algorithm::RS256,
            AlgorithmName::RS384 => Algorithm::RS384,
            AlgorithmName::RS512 => Algorithm::RS512,
            AlgorithmName::PS256 => Algorithm::PS256,
            AlgorithmName::PS384 => Algorithm::PS384,
            AlgorithmName::PS512 => Algorithm::PS512,
            AlgorithmName::ES256 => Algorithm::ES256,
            AlgorithmName::ES384 => Algorithm::ES384,
            AlgorithmName::EdDSA => Algorithm::EdDSA,
        }
    }
}
