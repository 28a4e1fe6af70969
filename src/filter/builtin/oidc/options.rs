//! The filter's options, and what of them makes no sense.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use http::Uri;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::{
    config::{HumanDuration, Path, Secret},
    fetch,
    filter::{
        Filter, Invalid, Live, Options,
        builtin::{
            jwt::{Accepts, BuiltKeys, Checks, ClaimPath, Keys, Policy, Types},
            oidc::{
                Login, authority::Authority, cookies::Cookies, login::local, provider::Provider,
                refreshes::Refreshes, seal::Sealer, tokens::Verifier,
            },
        },
        shared::proven::ProvenHeader,
    },
    observe::log_throttle::Sparse,
    policy::{logged_out::LoggedOut, once::Once},
};

/// Has users log in at a provider (OpenID Connect) before their requests go on, and tells the upstream who they are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Oidc {
    /// The provider, as its tokens and its document (`/.well-known/openid-configuration` below it) name it, to the letter.
    issuer: String,
    /// Under which the provider knows this application.
    client_id: String,
    /// What proves to the provider that it is this application. Without, PKCE alone does ("public client").
    client_secret: Option<Secret>,
    /// Where the provider sends browsers back to. The filter answers there; the URL is registered with the provider.
    #[serde(default = "redirect_path")]
    redirect_path: String,
    /// Scheme and host under which browsers reach the application: `https://app.example.com`. Default: what each asks for.
    external_url: Option<String>,
    /// What is asked for; `openid` always is. `offline_access` has many providers give a refresh token.
    #[serde(default = "scopes")]
    scopes: Vec<String>,
    /// Further parameters of the login, such as `prompt` or `audience`.
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    /// The session, which is in cookies.
    session: SessionOptions,
    /// Where a user logs out. Default: nowhere.
    logout_path: Option<String>,
    /// The path that a browser goes to after a logout; the URL is registered with the provider. It should need no login.
    #[serde(default = "after_logout")]
    after_logout: String,
    /// Where the provider posts that a session has ended (back-channel logout). Default: nowhere.
    backchannel_logout_path: Option<String>,
    /// Ask the provider for claims that the ID token lacks.
    #[serde(default)]
    userinfo: bool,
    /// Claims that the upstream is told, each in a header. What clients send in these headers is taken off.
    #[serde(default)]
    forward_claims: BTreeMap<String, String>,
    /// The upstream gets the access token, in `authorization`.
    #[serde(default)]
    forward_token: bool,
    /// By how much the provider's clock may differ from ours, at most 5m.
    #[serde(default = "clock_skew")]
    clock_skew: HumanDuration,
    /// How long the provider may take for an answer.
    #[serde(default = "timeout")]
    timeout: HumanDuration,
    /// So many questions to the provider at once, and 503 beyond. A quarter is for renewals of sessions alone.
    #[serde(default = "max_requests")]
    max_requests: usize,
    /// A file of certificates in PEM, which is watched: who is trusted to be the provider. Default: whom the system trusts.
    ca: Option<String>,
    /// Allow `http:` to a provider on another host. Whoever is in between can then log in as anybody.
    #[serde(default)]
    allow_http: bool,
}

/// How sessions are kept by browsers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SessionOptions {
    /// What cookies are encrypted with: at least 32 bytes. Gateways with the same secret share their sessions.
    secret: Secret,
    /// The secret from before. Sessions that were encrypted with it go on, with the new one.
    previous_secret: Option<Secret>,
    /// The cookie's name. Over TLS `__Host-` is put in front.
    #[serde(default = "cookie")]
    cookie: String,
    /// After so long a user logs in again, at most 30d.
    #[serde(default = "lifetime")]
    lifetime: HumanDuration,
}

fn redirect_path() -> String {
    "/oidc/callback".to_owned()
}

fn scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(str::to_owned).into()
}

fn after_logout() -> String {
    "/".to_owned()
}

fn clock_skew() -> HumanDuration {
    HumanDuration::from_secs(60)
}

fn timeout() -> HumanDuration {
    HumanDuration::from_secs(5)
}

fn max_requests() -> usize {
    256
}

fn cookie() -> String {
    "tidegate-oidc".to_owned()
}

fn lifetime() -> HumanDuration {
    HumanDuration::from_secs(8 * 3600)
}

const SHORTEST_SECRET: usize = 32;
const LARGEST_SKEW: u64 = 300;
pub(super) const LONGEST_LIFETIME: u64 = 30 * 24 * 3600;
/// So many logouts by the back channel are remembered: some megabytes.
const MOST_LOGGED_OUT: usize = 100_000;
/// What the filter itself says in a login.
const OURS: [&str; 9] = [
    "response_type",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "response_mode",
];

impl Options for Oidc {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Checks::default();
        self.limits(at, &mut invalid);
        self.paths(at, &mut invalid);
        let sealer = self.sealer(&at.key("session"), &mut invalid);
        let cookies = invalid.keep(&at.key("session").key("cookie"), Cookies::new(&self.session.cookie));
        let origin = self.external_url.as_ref().map(|url| invalid.keep(&at.key("external_url"), origin(url)));
        let scope = self.scope(&at.key("scopes"), &mut invalid);
        let forward = self.forward(&at.key("forward_claims"), &mut invalid);
        let token = self.forward_token.then(|| ProvenHeader::parse("authorization"));
        let token = token.and_then(|header| invalid.keep(&at.key("forward_token"), header));
        let provider = self.provider(at, live, &mut invalid);
        let keys = self.keys(at, live, &mut invalid);
        let (Some(sealer), Some(cookies), Some(provider), Some(keys), true) =
            (sealer, cookies, provider, keys, invalid.is_empty())
        else {
            return Err(invalid.into_all());
        };
        let whose = (self.issuer.clone(), self.client_id.clone());
        let authority = Authority {
            provider,
            id_tokens: self.verifier(&keys, Types::new(None)),
            userinfo: self.userinfo,
            keeps_access_token: self.forward_token,
        };
        Ok(Arc::new(Login {
            authority: Arc::new(authority),
            // Providers from before the type was there leave it out.
            logout_tokens: Arc::new(self.verifier(&keys, Types::any_of(&["logout+jwt", "jwt"]))),
            sealer,
            cookies,
            origin: origin.flatten(),
            redirect_path: self.redirect_path,
            logout_path: self.logout_path,
            after_logout: self.after_logout,
            backchannel_path: self.backchannel_logout_path,
            scope,
            parameters: self.parameters.into_iter().collect(),
            lifetime: self.session.lifetime.as_std().as_secs(),
            forward,
            token,
            // By whose sessions they are, not by place: a provider says it once.
            logged_out: live.share(whose.clone(), |_| Mutex::new(LoggedOut::new(MOST_LOGGED_OUT))),
            logouts_shown: live.share(whose.clone(), |_| Mutex::new(Once::new(MOST_LOGGED_OUT))),
            refreshes: live.share((whose, self.userinfo, self.forward_token), |_| Refreshes::default()),
            metrics: live.metrics().access().clone(),
            told: Sparse::default(),
        }))
    }
}

impl Oidc {
    fn limits(&self, at: &Path, invalid: &mut Checks) {
        invalid.refuse_if(
            self.client_id.is_empty(),
            at.key("client_id"),
            "a client has an id (the provider gives it)",
        );
        let zero = self.timeout.as_std().is_zero();
        invalid.refuse_if(zero, at.key("timeout"), "a duration of 0 makes no sense here");
        let skew = self.clock_skew.as_std().as_secs();
        let why = "a skew of more than 5m is no skew (set the clocks)";
        invalid.refuse_if(skew > LARGEST_SKEW, at.key("clock_skew"), why);
        let lifetime = self.session.lifetime.as_std().as_secs();
        let why = "a session lasts from 1s to 30d";
        invalid.refuse_if(
            !(1..=LONGEST_LIFETIME).contains(&lifetime),
            at.key("session").key("lifetime"),
            why,
        );
        let some = (1..=Semaphore::MAX_PERMITS).contains(&self.max_requests);
        invalid.refuse_if(!some, at.key("max_requests"), "at least one question must be allowed");
        for name in self.parameters.keys().filter(|name| OURS.contains(&name.as_str())) {
            let why = format!("`{name}` is the filter's to say (leave it out)");
            invalid.refuse_if(true, at.key("parameters").key(name), &why);
        }
    }

    /// Where the filter answers by itself: each a path of its own.
    fn paths(&self, at: &Path, invalid: &mut Checks) {
        const WRONG: &str = "not a path of this host without a query (try \"/oidc/callback\")";
        let own = [
            ("redirect_path", Some(&self.redirect_path)),
            ("logout_path", self.logout_path.as_ref()),
            ("backchannel_logout_path", self.backchannel_logout_path.as_ref()),
        ];
        let mut taken = BTreeSet::new();
        for (key, path) in own.into_iter().filter_map(|(key, path)| Some((key, path?))) {
            let is_path = local(path) == path && path != "/" && !path.contains(['?', '#', '%']);
            invalid.refuse_if(!is_path, at.key(key), WRONG);
            invalid.refuse_if(!taken.insert(path), at.key(key), "another option has this path already");
        }
        let is_path = local(&self.after_logout) == self.after_logout && !self.after_logout.contains('#');
        let why = "not a path of this host (browsers are never sent to another host; try \"/\")";
        invalid.refuse_if(!is_path, at.key("after_logout"), why);
        let again = self.logout_path.as_ref() == Some(&self.after_logout);
        invalid.refuse_if(again, at.key("after_logout"), "after a logout would come another one");
    }

    fn sealer(&self, at: &Path, invalid: &mut Checks) -> Option<Sealer> {
        const SHORT: &str = "a secret of less than 32 bytes can be guessed (try `openssl rand -base64 48`)";
        let SessionOptions { secret, previous_secret, .. } = &self.session;
        let is_short = |secret: &Secret| secret.expose().len() < SHORTEST_SECRET;
        invalid.refuse_if(is_short(secret), at.key("secret"), SHORT);
        invalid.refuse_if(previous_secret.as_ref().is_some_and(is_short), at.key("previous_secret"), SHORT);
        let same = previous_secret.as_ref() == Some(secret);
        let why = "the secret from before is the one of now (leave it out)";
        invalid.refuse_if(same, at.key("previous_secret"), why);
        let previous = previous_secret.as_ref().map(|secret| secret.expose().as_bytes());
        invalid.keep(&at.key("secret"), Sealer::new(secret.expose().as_bytes(), previous))
    }

    fn scope(&self, at: &Path, invalid: &mut Checks) -> String {
        for (index, scope) in self.scopes.iter().enumerate() {
            // RFC 6749, section 3.3.
            let is_scope = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
            let wrong = scope.is_empty() || !scope.bytes().all(is_scope);
            let why = "a scope is one word of ASCII, without quotes and backslashes";
            invalid.refuse_if(wrong, at.index(index), why);
        }
        let others = self.scopes.iter().map(String::as_str).filter(|scope| *scope != "openid");
        std::iter::once("openid").chain(others).collect::<Vec<_>>().join(" ")
    }

    fn forward(&self, at: &Path, invalid: &mut Checks) -> Vec<(ClaimPath, ProvenHeader)> {
        let (mut forward, mut taken) = (Vec::new(), BTreeSet::new());
        for (path, header) in &self.forward_claims {
            let at = at.key(path);
            let again = !taken.insert(header.to_ascii_lowercase());
            invalid.refuse_if(again, at.clone(), "another claim goes into this header already");
            let is_token = self.forward_token && header.eq_ignore_ascii_case("authorization");
            invalid.refuse_if(
                is_token,
                at.clone(),
                "with `forward_token` the access token goes into this header",
            );
            let header = invalid.keep(&at, ProvenHeader::parse(header));
            let claim = invalid.keep(&at, ClaimPath::new(path).ok_or("a claim has a name"));
            forward.extend(claim.zip(header));
        }
        forward
    }

    /// Shared with all that ask the same provider in the same way, and so kept over a reload.
    fn provider(&self, at: &Path, live: &Live, invalid: &mut Checks) -> Option<Arc<Provider>> {
        let issuer = invalid.keep(&at.key("issuer"), fetch::Issuer::new(&self.issuer, self.allow_http))?;
        let ca = self.ca.as_ref().map(|ca| live.full_path(&PathBuf::from(ca)));
        let client = invalid.keep(&at.key("ca"), live.client(ca.clone(), fetch::Options::default()))?;
        let (id, secret) = (self.client_id.clone(), self.client_secret.clone());
        let (timeout, most) = (self.timeout.as_std(), self.max_requests);
        let settings = (self.issuer.clone(), self.allow_http, ca, id, secret, timeout, most);
        Some(live.share(settings, |(_, _, _, id, secret, timeout, most)| {
            Provider::new(
                issuer,
                id.clone(),
                secret.clone(),
                client,
                *timeout,
                (*most).clamp(1, Semaphore::MAX_PERMITS),
            )
        }))
    }

    fn keys(&self, at: &Path, live: &Live, invalid: &mut Checks) -> Option<BuiltKeys> {
        // What is wrong with the issuer is said once.
        if !invalid.is_empty() {
            return None;
        }
        let keys = Keys::of_issuer(self.timeout, self.ca.clone(), self.allow_http);
        keys.build(Some(&self.issuer), &at.key("issuer"), live, invalid)
    }

    fn verifier(&self, keys: &BuiltKeys, types: Types) -> Verifier {
        Verifier {
            types,
            algorithms: keys.algorithms.clone(),
            policy: Policy {
                skew: self.clock_skew.as_std().as_secs(),
                scopes: Vec::new(),
                required: Vec::new(),
                forward: Vec::new(),
            },
            accepts: Accepts { issuers: vec![self.issuer.clone()], audiences: vec![self.client_id.clone()] },
            source: keys.source.clone(),
            patience: self.timeout.as_std(),
        }
    }
}

/// Scheme and host, as browsers write them.
fn origin(url: &str) -> Result<String, &'static str> {
    const WRONG: &str = "not a scheme and a host (try \"https://app.example.com\")";
    let parsed: Uri = url.parse().map_err(|_| WRONG)?;
    let authority = parsed.authority().filter(|authority| !authority.host().is_empty()).ok_or(WRONG)?;
    let is_plain = parsed.path() == "/" && parsed.query().is_none() && !authority.as_str().contains('@');
    match parsed.scheme_str() {
        Some(scheme @ ("http" | "https")) if is_plain => {
            Ok(format!("{scheme}://{}", authority.as_str().to_ascii_lowercase()))
        }
        _ => Err(WRONG),
    }
}
