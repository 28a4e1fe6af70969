//! The filter's options, and what of them makes no sense.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    Introspector, Known,
    server::{self, Credentials, Endpoint, Server},
};
use crate::{
    config::{ByteSize, HumanDuration, Path, PathMatch, Secret},
    fetch::{self, Insecure},
    filter::{
        Filter, Invalid, Live, Options,
        builtin::jwt::{
            demands::{Require, skip},
            issuers::Accepts,
            options::{Checks, OneOrMore, one_or_more},
            place::{From, Place},
            refusal::Challenge,
        },
    },
    observe::log_throttle::Sparse,
};

/// Lets requests in that carry a token which its issuer says to be active (RFC 7662), and tells the upstream what it says.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Introspection {
    /// Where to ask: the introspection endpoint, by `https`. Default: where the document of `issuer` says.
    url: Option<String>,
    /// Whose tokens they are. Without `url` its own document says where to ask (OpenID Connect Discovery, RFC 8414). Where an answer has an
    /// `iss`, it must be this one.
    issuer: Option<String>,
    /// Who we are to the server.
    client_id: String,
    /// What proves it.
    client_secret: Secret,
    /// How we say so.
    #[serde(default)]
    auth: Auth,
    /// How long an answer may take.
    #[serde(default = "timeout")]
    timeout: HumanDuration,
    /// How long an active token is remembered, at most 1h and never beyond its `exp`. With 0s, each request is a question.
    #[serde(default = "ttl")]
    ttl: HumanDuration,
    /// How long a token that is not active is remembered, at most 1h.
    #[serde(default = "inactive_ttl")]
    inactive_ttl: HumanDuration,
    /// About how many tokens are remembered, active ones and others each; at most a million.
    #[serde(default = "cache_entries")]
    cache_entries: usize,
    /// The token's `aud` must have one of these. Default: any, or none.
    #[serde(default, deserialize_with = "one_or_more")]
    #[schemars(with = "OneOrMore")]
    audience: Vec<String>,
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
    /// Let requests without a token pass as well. A token that is not active is refused all the same.
    #[serde(default)]
    optional: bool,
    /// Paths that need no token, written as in a route's `match`.
    #[serde(default)]
    skip_paths: Vec<PathMatch>,
    /// The largest token, at most 64KiB.
    #[serde(default = "max_size")]
    max_size: ByteSize,
    /// What clients are told they need a token for.
    #[serde(default = "realm")]
    realm: String,
    /// So many questions at once, and 503 beyond.
    #[serde(default = "max_requests")]
    max_requests: usize,
    /// A file with the certificates in PEM that the server is verified with, which is watched. Default: those that the system trusts.
    ca: Option<PathBuf>,
    /// Allow `http:` to hosts other than this one. Whoever is in between then sees the tokens, and says which are active.
    #[serde(default)]
    allow_http: bool,
}

/// How a client says who it is (RFC 6749, section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Auth {
    /// In `Authorization`.
    #[default]
    Basic,
    /// In the body.
    Post,
}

fn timeout() -> HumanDuration {
    HumanDuration::from_secs(1)
}

fn ttl() -> HumanDuration {
    HumanDuration::from_secs(60)
}

fn inactive_ttl() -> HumanDuration {
    HumanDuration::from_secs(5)
}

fn cache_entries() -> usize {
    10_000
}

fn yes() -> bool {
    true
}

fn max_size() -> ByteSize {
    ByteSize::kib(8)
}

fn realm() -> String {
    "api".to_owned()
}

fn max_requests() -> usize {
    256
}

const LONGEST_TTL: Duration = Duration::from_secs(3600);
const LARGEST_TOKEN: u64 = 64 * 1024;
const MOST_ENTRIES: usize = 1_000_000;
/// An issuer's clock may differ by so many seconds from ours. It says itself what is active.
const SKEW: u64 = 60;

impl Options for Introspection {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Checks::default();
        self.limits(at, &mut invalid);
        let place = match &self.from {
            None => Some(Place::Header(http::header::AUTHORIZATION)),
            Some(from) => invalid.keep(&at.key("from"), from.place()),
        };
        let policy = self.require.policy(&self.forward_claims, SKEW, at, &mut invalid);
        let skip = skip(&self.skip_paths, &at.key("skip_paths"), &mut invalid);
        let challenge = invalid.keep(&at.key("realm"), Challenge::new(&self.realm, &self.require.scope));
        let server = self.server(at, live, &mut invalid);
        let (Some(place), Some(challenge), Some(server), true) =
            (place, challenge, server, invalid.0.is_empty())
        else {
            return Err(invalid.0);
        };
        Ok(Arc::new(Introspector {
            server,
            place,
            skip,
            optional: self.optional,
            forward_token: self.forward_token,
            max_size: self.max_size.bytes() as usize,
            policy,
            accepts: Accepts {
                issuers: self.issuer.clone().into_iter().collect(),
                audiences: self.audience.clone(),
            },
            challenge,
            ttl: self.ttl.as_std().as_secs(),
            inactive_ttl: self.inactive_ttl.as_std().as_secs(),
            room: Semaphore::new(self.max_requests),
            filter: live.place().into(),
            results: live.keep("introspection", |_| live.metrics().access().introspection(live.place())),
            told: Sparse::default(),
            // All that decides which tokens are let in: a filter that decides otherwise begins with nothing known.
            known: live.keep(self, |options| Known::new(options.cache_entries)),
        }))
    }
}

impl Introspection {
    fn limits(&self, at: &Path, invalid: &mut Checks) {
        let zero = self.timeout.as_std().is_zero();
        invalid.refuse_if(zero, at.key("timeout"), "a duration of 0 makes no sense here");
        for (key, ttl) in [("ttl", self.ttl), ("inactive_ttl", self.inactive_ttl)] {
            let why = "at most 1h: a token that is revoked is let in for as long";
            invalid.refuse_if(ttl.as_std() > LONGEST_TTL, at.key(key), why);
            let partly = ttl.as_std().subsec_nanos() != 0;
            invalid.refuse_if(partly, at.key(key), "expected whole seconds, as `exp` is in seconds");
        }
        let size = self.max_size.bytes();
        invalid.refuse_if(
            !(1..=LARGEST_TOKEN).contains(&size),
            at.key("max_size"),
            "max_size is from 1B to 64KiB",
        );
        let many = self.cache_entries > MOST_ENTRIES;
        invalid.refuse_if(many, at.key("cache_entries"), "cache_entries is at most a million");
        let room = (1..=Semaphore::MAX_PERMITS).contains(&self.max_requests);
        invalid.refuse_if(!room, at.key("max_requests"), "at least one question must be allowed");
        invalid.refuse_if(self.client_id.is_empty(), at.key("client_id"), "the server has to know who asks");
    }

    fn server(&self, at: &Path, live: &Live, invalid: &mut Checks) -> Option<Server> {
        let file = self.ca.as_ref().map(|path| live.full_path(path));
        let options = fetch::Options { connect_timeout: self.timeout.as_std(), ..fetch::Options::default() };
        let client = invalid.keep(&at.key("ca"), live.client(file, options));
        let endpoint = match (&self.url, &self.issuer) {
            (Some(url), _) => {
                let url = fetch::secure(url, self.allow_http).map_err(|why| match why {
                    Insecure::NoUrl => "not a URL to ask at (try \"https://auth.example.com/introspect\")",
                    why => why.text(),
                });
                invalid.keep(&at.key("url"), url).map(Endpoint::Fixed)
            }
            (None, Some(issuer)) => {
                let issuer = fetch::Issuer::new(issuer, self.allow_http);
                let issuer = invalid.keep(&at.key("issuer"), issuer);
                issuer.zip(client.clone()).map(|(issuer, client)| {
                    let timeout = self.timeout.as_std();
                    Endpoint::Found(fetch::Document::new(
                        issuer,
                        client,
                        timeout,
                        server::FRESH,
                        server::place,
                    ))
                })
            }
            (None, None) => {
                invalid.refuse_if(true, at.clone(), "nothing says where to ask (give `url`, or `issuer`)");
                None
            }
        };
        let credentials = match self.auth {
            Auth::Basic => {
                let basic = Credentials::basic(&self.client_id, &self.client_secret);
                invalid.keep(&at.key("client_secret"), basic)
            }
            Auth::Post => Some(Credentials::body(&self.client_id, &self.client_secret)),
        };
        Some(Server {
            endpoint: endpoint?,
            credentials: credentials?,
            client: client?,
            timeout: self.timeout.as_std(),
        })
    }
}
