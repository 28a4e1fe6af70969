//! The option `keys`: what tokens are verified with, and what of it makes no sense.

use std::{path::Path as FilePath, sync::Arc, time::Duration};

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::Uri;
use openssl::sha::sha256;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{HumanDuration, Path, Secret},
    fetch,
    filter::{
        Live,
        builtin::jwt::{
            algorithm::Algorithm,
            key::{Key, KeySet},
            options::Checks,
            schedule::Schedule,
            source::{self, Form, Remote, Source, Subscription},
        },
    },
};

/// One of `secret`, `public_key` and `jwks`; without any, the keys that the issuer's own document leads to. The rest is for
/// keys that are fetched.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Keys {
    /// Shared with the issuer, for HS256, HS384 and HS512: at least 32, 48 and 64 bytes.
    secret: Option<Secret>,
    /// The secret is written in base64.
    base64: bool,
    /// A file with a public key or a certificate in PEM.
    public_key: Option<String>,
    /// The URL of the issuer's key set, or a file with one.
    jwks: Option<Secret>,
    /// How often they are fetched.
    refresh: HumanDuration,
    /// A fetch may take so long.
    timeout: HumanDuration,
    /// A request may wait so long for keys that are being fetched.
    pub wait: HumanDuration,
    /// The shortest time between two fetches because of tokens whose key is not known.
    cooldown: HumanDuration,
    /// Keys are used so long although they cannot be fetched again.
    max_stale: HumanDuration,
    /// A file with the certificates in PEM that the server is verified with. Default: those that the system trusts.
    ca: Option<String>,
    /// Allow `http:` to hosts other than this one. Whoever is in between can then make valid tokens.
    allow_http: bool,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys {
            secret: None,
            base64: false,
            public_key: None,
            jwks: None,
            refresh: HumanDuration::from_secs(600),
            timeout: HumanDuration::from_secs(5),
            wait: HumanDuration::from_secs(1),
            cooldown: HumanDuration::from_secs(10),
            max_stale: HumanDuration::from_secs(24 * 3600),
            ca: None,
            allow_http: false,
        }
    }
}

pub(crate) struct BuiltKeys {
    pub source: Arc<Subscription>,
    pub algorithms: Vec<Algorithm>,
    /// Differs where the keys may.
    pub identity: String,
}

/// With and without padding.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

impl Keys {
    /// Those that an issuer's document leads to.
    pub(crate) fn of_issuer(timeout: HumanDuration, ca: Option<String>, allow_http: bool) -> Keys {
        Keys { timeout, ca, allow_http, ..Keys::default() }
    }

    /// `issuer` is whose they are, where there is one issuer. `None` when something is wrong with it, which `invalid` then says.
    pub(crate) fn build(
        &self,
        issuer: Option<&str>,
        at: &Path,
        live: &Live,
        invalid: &mut Checks,
    ) -> Option<BuiltKeys> {
        match (&self.secret, &self.public_key, &self.jwks) {
            (Some(secret), None, None) => {
                let key = invalid.keep(&at.key("secret"), self.secret(secret))?;
                let set = KeySet::of(vec![key]);
                let algorithms = set.algorithms();
                let identity = format!("{:?}", sha256(secret.expose().as_bytes()));
                let source = Arc::new(Source::fixed(set));
                let source = Arc::new(Subscription::new(source, Schedule::NEVER));
                Some(BuiltKeys { source, algorithms, identity })
            }
            (None, Some(file), None) => {
                let path = live.full_path(FilePath::new(file));
                let (source, keys) =
                    invalid.keep(&at.key("public_key"), self.file(&path, Form::Pem, live))?;
                let identity = path.display().to_string();
                Some(BuiltKeys { source, algorithms: keys.algorithms(), identity })
            }
            (None, None, Some(jwks)) if is_url(jwks.expose()) => {
                let url = invalid.keep(&at.key("jwks"), fetch::secure(jwks.expose(), self.allow_http))?;
                let name = shown(&url);
                self.remote(Remote::KeySet(url), &name, at, live, invalid)
            }
            (None, None, Some(jwks)) => {
                let path = live.full_path(FilePath::new(jwks.expose()));
                let (source, _) = invalid.keep(&at.key("jwks"), self.file(&path, Form::Jwks, live))?;
                let identity = path.display().to_string();
                Some(BuiltKeys { source, algorithms: asymmetric(), identity })
            }
            (None, None, None) => {
                const NONE: &str = "nothing says where the keys are (give `jwks`, `public_key` or `secret`; \
                                    without one, a single `issuer` whose document leads to them)";
                let issuer = invalid.keep(at, issuer.ok_or(NONE))?;
                // The place of `keys` is the one that is always there, also in defaults.
                let issuer = fetch::Issuer::new(issuer, self.allow_http)
                    .map_err(|why| format!("keys cannot be found by the issuer: {why}; or name them here"));
                let issuer = invalid.keep(at, issuer)?;
                let name = issuer.name().to_owned();
                self.remote(Remote::Issuer(issuer), &name, at, live, invalid)
            }
            _ => {
                let why = "expected only one of `secret`, `public_key` and `jwks`";
                invalid.keep(at, Err(why))
            }
        }
    }

    /// All filters that ask the same server for the same keep one set, and read it once.
    fn remote(
        &self,
        from: Remote,
        name: &str,
        at: &Path,
        live: &Live,
        invalid: &mut Checks,
    ) -> Option<BuiltKeys> {
        let ca = self.ca.as_ref().map(|ca| live.full_path(FilePath::new(ca)));
        let client = live.client(ca.clone(), fetch::Options::default());
        let client = invalid.keep(&at.key("ca"), client)?;
        let identity = format!("{from:?} {ca:?}");
        let settings = (from.clone(), ca);
        let source = live.share_running(settings.clone(), |_| {
            Source::remote(from, client, name, live.metrics().tokens().source(name))
        });
        let source = subscribe(settings, source, self.schedule(), live);
        Some(BuiltKeys { source, algorithms: asymmetric(), identity })
    }

    pub(crate) fn limits(&self, at: &Path, invalid: &mut Checks) {
        for (key, duration) in [("refresh", self.refresh), ("timeout", self.timeout)] {
            let too_short = duration.as_std().is_zero();
            invalid.refuse_if(too_short, at.key(key), "a duration of 0 makes no sense here");
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

    fn file(&self, path: &FilePath, form: Form, live: &Live) -> Result<(Arc<Subscription>, KeySet), String> {
        let keys = source::read_file(path).and_then(|text| {
            source::parse(&text, form).map_err(|why| format!("{}: {why}", path.display()))
        })?;
        // A file is there or not; it does not grow old.
        let schedule = Schedule { max_stale: Duration::MAX, ..self.schedule() };
        let name = path.display().to_string();
        let from = (path.as_os_str().to_owned(), form);
        let source = live.share_running(from.clone(), |_| {
            let metrics = live.metrics().tokens().source(&name);
            Source::file(path.to_owned(), form, keys.clone(), metrics)
        });
        Ok((subscribe(from, source, schedule, live), keys))
    }
}

fn asymmetric() -> Vec<Algorithm> {
    use Algorithm::*;
    vec![RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA]
}

/// Those with equal schedules are one, so that there are few however many filters there are.
fn subscribe<F>(from: F, source: Arc<Source>, schedule: Schedule, live: &Live) -> Arc<Subscription>
where
    F: std::any::Any + PartialEq + Send,
{
    live.share((from, schedule), |(_, schedule)| Subscription::new(source, schedule.clone()))
}

fn is_url(text: &str) -> bool {
    text.contains("://")
}

/// As it may be told: without the query.
fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    format!("{scheme}://{}{}", url.authority().map_or("", |authority| authority.as_str()), url.path())
}
