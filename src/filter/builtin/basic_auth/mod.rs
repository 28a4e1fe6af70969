//! `basic_auth`: names and passwords (RFC 7617). Hashes are verified off the threads that serve requests (`verifier`) and
//! what was verified is remembered for a while (`verified`). A name that does not exist costs as much as a wrong
//! password, so that the time of an answer does not tell which names exist.

mod hash;
mod verified;
mod verifier;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use self::hash::{HashKind, hash_password};
use crate::{
    config::{HumanDuration, Path, Secret},
    filter::{
        Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response,
        builtin::basic_auth::{
            hash::Hash,
            verified::{Digest, Verified},
            verifier::Verifier,
        },
        shared::{
            credentials::{self, Credentials, Table},
            proven::ProvenHeader,
        },
    },
    policy::turns::Who,
};

/// Lets in who sends a known name with its password.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BasicAuth {
    /// Who is let in. Instead of `file`.
    #[serde(default)]
    users: Vec<User>,
    /// An htpasswd file, read again when it changes: lines of `NAME:HASH`.
    file: Option<PathBuf>,
    /// What browsers show when they ask for the password.
    #[serde(default = "realm")]
    realm: String,
    /// The request header in which the upstream gets the name. What a client sends there is taken off.
    forward_user: Option<String>,
    /// Let the upstream see `Authorization`, password and all.
    #[serde(default)]
    forward_credentials: bool,
    /// How long a password that was verified is not verified again; 0s: always verify.
    #[serde(default = "cache")]
    cache: HumanDuration,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct User {
    /// The name that the user types.
    name: String,
    /// By bcrypt or Argon2: what `htpasswd -nB NAME` prints behind the colon.
    hash: Secret,
}

fn realm() -> String {
    "restricted".to_owned()
}

fn cache() -> HumanDuration {
    HumanDuration::from_secs(60)
}

impl Options for BasicAuth {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let listed: Vec<_> = self.users.iter().map(|user| (user.name.as_str(), user.hash.expose())).collect();
        let users = Credentials::build(&listed, "users", self.file.as_deref(), at, live);
        let challenge = challenge(&self.realm).map_err(|why| Invalid::new(at.key("realm"), why));
        let forward_user = self.forward_user.as_deref().map(ProvenHeader::parse).transpose();
        let forward_user = forward_user.map_err(|why| Invalid::new(at.key("forward_user"), why));
        let cache = self.cache.as_std();
        let verified = Verified::new(cache).map_err(|why| Invalid::new(at.clone(), why));
        match (users, challenge, forward_user, verified) {
            (Ok(users), Ok(challenge), Ok(forward_user), Ok(verified)) => Ok(Arc::new(Guard {
                users,
                challenge,
                forward_user,
                forward_credentials: self.forward_credentials,
                verified: live.keep(cache, |_| verified),
                verifier: live.share((), |()| Verifier::new()),
                hasher: RandomState::new(),
            })),
            (users, challenge, forward_user, verified) => {
                let wrong = [users.err(), challenge.err(), forward_user.err(), verified.err()];
                Err(wrong.into_iter().flatten().collect())
            }
        }
    }
}

fn challenge(realm: &str) -> Result<HeaderValue, String> {
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
    let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
    let challenge = HeaderValue::try_from(challenge).ok().filter(|_| realm.bytes().all(is_plain));
    challenge.ok_or_else(|| "a realm is ASCII without quotes, backslashes and control characters".to_owned())
}

struct Users {
    by_name: HashMap<Box<str>, Account>,
    /// What names that do not exist are compared with.
    decoy: Arc<Hash>,
}

struct Account {
    name: Arc<str>,
    hash: Arc<Hash>,
}

impl Table for Users {
    const KIND: &'static str = "users";

    fn read<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Users, (usize, String)> {
        let mut by_name = HashMap::new();
        for (index, (name, hash)) in entries.enumerate() {
            let known = credentials::name(name).map_err(|why| (index, why))?;
            let hash =
                Hash::parse(hash.trim()).map_err(|why| (index, format!("the hash of `{name}`: {why}")))?;
            let account = Account { name: known, hash: Arc::new(hash) };
            if by_name.insert(name.into(), account).is_some() {
                return Err((index, format!("`{name}` is there twice")));
            }
        }
        // The slowest, as that is what a name that exists may cost.
        let decoy = by_name.values().map(|account| &account.hash).max_by_key(|hash| hash.effort()).cloned();
        let decoy = decoy.ok_or((0, "there are no users".to_owned()))?;
        Ok(Users { by_name, decoy })
    }
}

struct Guard {
    users: Credentials<Users>,
    /// The value of `WWW-Authenticate`.
    challenge: HeaderValue,
    forward_user: Option<ProvenHeader>,
    forward_credentials: bool,
    verified: Arc<Verified>,
    verifier: Arc<Verifier>,
    hasher: RandomState,
}

/// Longer passwords are wrong without a look.
const LONGEST: usize = 1024;

impl Guard {
    /// The name, if the request's credentials are right. `client` is what the client is counted as.
    async fn authenticate(&self, headers: &HeaderMap, client: &[u8]) -> Result<Option<Arc<str>>, Reason> {
        let Some(attempt) = attempt(headers) else { return Ok(None) };
        let Some((name, password)) = attempt.split_once_byte(b':') else { return Ok(None) };
        if password.len() > LONGEST {
            return Ok(None);
        }
        let users = self.users.current();
        let account = std::str::from_utf8(name).ok().and_then(|name| users.by_name.get(name));
        let hash = account.map_or(&users.decoy, |account| &account.hash);
        let digest = self.verified.digest(name, password, hash.as_bytes());
        let is_right = match self.verified.look(&digest, Instant::now()) {
            Some(is_right) => is_right,
            None => {
                let pair = self.verified.pair(client, name);
                let who = self.who(client, name, &pair);
                let verifying = self.verifier.verify(who, hash.clone(), password.to_owned());
                let verified = verifying.await.map_err(|_| Reason::Overloaded)?;
                // A password may fit the decoy; that makes nobody of it.
                let is_right = verified && account.is_some();
                self.verified.remember(digest, is_right, Instant::now());
                if is_right {
                    self.verified.prove(pair, Instant::now());
                }
                is_right
            }
        };
        Ok(account.filter(|_| is_right).map(|account| account.name.clone()))
    }

    /// Where it stands in line: apart from the clients of other filters, so that each has its own places.
    fn who(&self, client: &[u8], name: &[u8], pair: &Digest) -> Who {
        let filter = Arc::as_ptr(&self.verified) as usize;
        Who {
            client: self.hasher.hash_one((filter, client)),
            name: self.hasher.hash_one(name),
            is_known: self.verified.has_proven(pair, Instant::now()),
        }
    }

    fn refusal(&self, request: &HeaderMap) -> Flow {
        let mut response = Response::refusal(Reason::Unauthenticated, request);
        response.headers.push((WWW_AUTHENTICATE, self.challenge.clone()));
        Flow::Reply(response)
    }
}

/// `NAME:PASSWORD`, where the request has these credentials and no others.
fn attempt(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let (scheme, encoded) = field.as_bytes().split_once_byte(b' ')?;
    let encoded = scheme.eq_ignore_ascii_case(b"basic").then(|| encoded.trim_ascii())?;
    STANDARD.decode(encoded).ok()
}

trait SplitOnce {
    fn split_once_byte(&self, at: u8) -> Option<(&[u8], &[u8])>;
}

impl SplitOnce for [u8] {
    fn split_once_byte(&self, at: u8) -> Option<(&[u8], &[u8])> {
        memchr::memchr(at, self).map(|place| (&self[..place], &self[place + 1..]))
    }
}

#[async_trait]
impl Filter for Guard {
    fn phases(&self) -> Phases {
        Phases::REQUEST_ASYNC | Phases::FORWARD
    }

    async fn on_request_async(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let mut client = Vec::with_capacity(16);
        exchange.facts.ipv6_prefix.key(exchange.facts.client, |key| client.extend_from_slice(key));
        let user = self.authenticate(&exchange.request.headers, &client).await?;
        let Some(user) = user else {
            let is_missing = !exchange.request.headers.contains_key(AUTHORIZATION);
            exchange.facts.explain(if is_missing { "missing" } else { "wrong_credentials" });
            return Ok(self.refusal(&exchange.request.headers));
        };
        if let Some(header) = &self.forward_user {
            header.prove(exchange, HeaderValue::from_bytes(user.as_bytes()).ok())?;
        }
        exchange.facts.user = Some(user);
        Ok(Flow::Continue)
    }

    fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        if !self.forward_credentials {
            exchange.request.remove_header(&AUTHORIZATION);
        }
        match &self.forward_user {
            Some(header) => header.forward(exchange),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::{
        hash::tests::{argon2id, bcrypt_of},
        *,
    };
    use crate::filter::{Chain, Decided, Facts};

    fn build(yaml: &str) -> Result<Chain, Vec<Invalid>> {
        let options: BasicAuth = serde_yaml::from_str(yaml).unwrap();
        let mut chain = Chain::default();
        chain.push("basic_auth", options.build(&Path::root(), &Live::offline())?);
        Ok(chain)
    }

    fn two_users() -> String {
        let (alice, bob) = (argon2id(), bcrypt_of("open sesame"));
        format!(
            "{{users: [{{name: alice, hash: '{alice}'}}, {{name: bob, hash: '{bob}'}}], forward_user: x-user}}"
        )
    }

    fn request(authorization: &[&str]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.append_header("x-user", "forged").unwrap();
        for value in authorization {
            request.append_header(AUTHORIZATION, *value).unwrap();
        }
        request
    }

    async fn status(chain: &Chain, request: &mut RequestHeader, facts: &mut Facts) -> u16 {
        let mut exchange = Exchange { request, response: None, facts };
        match chain.on_request(Decided::default(), &mut exchange).await.unwrap() {
            Flow::Continue => 200,
            Flow::Reply(response) => {
                let challenge = response.headers.iter().find(|(name, _)| *name == WWW_AUTHENTICATE).unwrap();
                assert_eq!(challenge.1, "Basic realm=\"restricted\", charset=\"UTF-8\"");
                response.status.as_u16()
            }
        }
    }

    fn basic(credentials: &str) -> String {
        format!("Basic {}", STANDARD.encode(credentials))
    }

    #[tokio::test]
    async fn lets_in_who_knows_the_password() {
        let chain = build(&two_users()).unwrap();
        for (credentials, expected) in [
            (vec![basic("alice:open sesame")], 200),
            (vec![basic("alice:open sesame")], 200),
            (vec![basic("bob:open sesame").replace("Basic ", "bASIC  ")], 200),
            (vec![basic("alice:open sesam")], 401),
            (vec![basic("alice:open sesam")], 401),
            (vec![basic("Alice:open sesame")], 401),
            (vec![basic("nobody:open sesame")], 401),
            (vec![basic(":open sesame")], 401),
            (vec![basic("alice")], 401),
            (vec![basic("")], 401),
            (vec![basic(&format!("alice:{}", "x".repeat(2000)))], 401),
            (vec!["Basic !!!".to_owned()], 401),
            (vec!["Basic".to_owned()], 401),
            (vec![basic("alice:open sesame").replace("Basic", "Bearer")], 401),
            (vec![basic("alice:open sesame"), basic("alice:open sesame")], 401),
            (vec![], 401),
        ] {
            let fields: Vec<&str> = credentials.iter().map(String::as_str).collect();
            let mut facts = Facts::default();
            let found = status(&chain, &mut request(&fields), &mut facts).await;
            assert_eq!((found, facts.user.is_some()), (expected, expected == 200), "{credentials:?}");
        }
    }

    #[tokio::test]
    async fn the_upstream_gets_the_name_and_not_the_password() {
        let chain = build(&two_users()).unwrap();
        let (mut request, mut facts) = (request(&[&basic("bob:open sesame")]), Facts::default());
        assert_eq!(status(&chain, &mut request, &mut facts).await, 200);
        assert_eq!(request.headers["x-user"], "bob", "filters behind it see the name");
        // A connection may have lost it on its way.
        request.remove_header("x-user");
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        chain.on_forward(Decided::default(), &mut exchange).unwrap();
        assert_eq!(request.headers.iter().map(|(_, value)| value).collect::<Vec<_>>(), ["bob"]);
    }

    #[test]
    fn refuses_what_makes_no_sense_and_repeats_no_hash() {
        let good = bcrypt_of("x");
        for (yaml, path, message) in [
            ("{}".to_owned(), "", "nobody would be let in"),
            ("{file: /nonexistent/users}".to_owned(), "file", "no such file"),
            (format!("{{file: f, users: [{{name: a, hash: '{good}'}}]}}"), "file", "not both"),
            ("{users: [{name: a, hash: hunter2}]}".to_owned(), "users[0]", "no password hash"),
            (format!("{{users: [{{name: 'a:b', hash: '{good}'}}]}}"), "users[0]", "no colon"),
            (
                format!("{{users: [{{name: a, hash: '{good}'}}, {{name: a, hash: '{good}'}}]}}"),
                "users[1]",
                "twice",
            ),
            (format!("{{realm: 'a\"b', users: [{{name: a, hash: '{good}'}}]}}"), "realm", "without quotes"),
            (
                format!("{{forward_user: host, users: [{{name: a, hash: '{good}'}}]}}"),
                "forward_user",
                "where the request goes",
            ),
        ] {
            let invalid = build(&yaml).unwrap_err();
            let [only] = invalid.as_slice() else { panic!("{yaml}: {invalid:?}") };
            assert_eq!(only.path.to_string(), path, "{yaml}");
            assert!(only.message.contains(message) && !only.message.contains("hunter2"), "{only:?}");
            assert!(!only.message.contains(&good), "{only:?}");
        }
    }
}
