//! TLS towards the endpoints of an upstream: whose certificate is accepted, what we show of ourselves, and which
//! connections may be shared.
//!
//! What the operator wrote, the authorities and our own certificate together are the [`Terms`] of a connection. They are
//! worked out once and again only when one of the three has changed, so that a request compares two pointers. Every connection
//! remembers the terms under which it was verified and serves requests under equal terms alone: a rotation needs no
//! sweep of the pool, and two upstreams at one address that trust different identities share nothing.
//!
//! OpenSSL verifies the chain, within the handshake. What it cannot know, the SPIFFE ID above all, is looked at as the
//! handshake completes ([`Handshake`]), before anything is sent.

mod authorities;
mod client_cert;
mod diagnosis;
mod handshake;
mod terms;
#[cfg(test)]
mod tests;
mod trouble;
mod watched;

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwapOption;
use pingora_core::upstreams::peer::{HttpPeer, Scheme};

use self::{
    authorities::Authorities,
    client_cert::ClientCert,
    terms::Terms,
    watched::{FromFiles, Watched},
};
pub use self::{
    handshake::{Distrust, Handshake},
    terms::NotReady,
    trouble::Trouble,
};
use super::{Refusal, registry::Owners};
use crate::{
    config::{self, ExpectedIds, TlsVersion, UpstreamProtocol},
    identity::{IdPattern, Identity},
    kept::Same,
    names::check_host,
};

/// All that [`Tls`] is made from.
#[derive(Clone, PartialEq)]
pub struct Settings {
    tls: config::UpstreamTls,
    protocol: UpstreamProtocol,
    /// Where it is wanted.
    identity: Option<Same<Identity>>,
}

/// How the endpoints of one upstream are reached over TLS.
pub struct Tls {
    expects: Expects,
    /// Sent in the place of the verified name.
    server_name: Option<Arc<str>>,
    oldest: TlsVersion,
    /// Anything else than HTTP/2 is of no use.
    needs_http2: bool,
    /// Whose certificate is shown, and whose bundles verify: where one of the two is wanted.
    identity: Option<Arc<Identity>>,
    shows_identity: bool,
    /// Shown in the place of our identity.
    client_cert: Option<Watched<ClientCert>>,
    terms: ArcSwapOption<Terms>,
}

/// Of whom the endpoint has to be.
enum Expects {
    /// One of these, verified by the bundle of its trust domain.
    Spiffe(Ids),
    /// Without a name, the host of the endpoint's address.
    Name { name: Option<Arc<str>>, authorities: Option<Watched<Authorities>> },
    /// One of these.
    OneOf { names: Alternatives, authorities: Option<Watched<Authorities>> },
    /// The operator asked not to verify.
    Anybody,
}

/// Of which the certificate has one.
#[derive(Clone)]
struct Alternatives {
    uris: Arc<[String]>,
    hosts: Arc<[Arc<str>]>,
}

#[derive(Clone)]
enum Ids {
    These(Arc<[IdPattern]>),
    /// Those with which the endpoint was registered.
    Owners,
}

/// What is read from files, and again when they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    Authorities,
    ClientCert,
}

impl Expects {
    fn authorities(&self) -> Option<&Watched<Authorities>> {
        match self {
            Expects::Name { authorities, .. } | Expects::OneOf { authorities, .. } => authorities.as_ref(),
            Expects::Spiffe(_) | Expects::Anybody => None,
        }
    }
}

impl Settings {
    /// `identity` is left out where nothing asks for it, so that its coming and going changes nothing there.
    pub fn new(
        tls: &config::UpstreamTls,
        protocol: UpstreamProtocol,
        identity: Option<&Arc<Identity>>,
    ) -> Settings {
        let wanted = tls.client_identity || !tls.verify.spiffe.is_empty();
        let identity = identity.filter(|_| wanted).cloned().map(Same);
        Settings { tls: tls.clone(), protocol, identity }
    }
}

impl Tls {
    /// # Errors
    ///
    /// The authorities' file cannot be read, or a name is none.
    pub fn new(settings: &Settings) -> Result<Tls, Vec<Refusal>> {
        let Settings { tls: config, protocol, identity } = settings;
        let mut refusals = Vec::new();
        let mut name_at = |path: &str, name: &Option<String>| match name.as_deref().map(dns_name) {
            Some(Err(why)) => {
                refusals.push(Refusal { path: path.into(), why });
                None
            }
            Some(Ok(name)) => Some(name),
            None => None,
        };
        let server_name = name_at("tls.server_name", &config.server_name);
        let name = name_at("tls.verify.name", &config.verify.name);
        let mut hosts = Vec::new();
        for (index, name) in config.verify.dns.iter().enumerate() {
            match dns_name(name) {
                Ok(name) => hosts.push(name),
                Err(why) => refusals.push(Refusal { path: format!("tls.verify.dns[{index}]"), why }),
            }
        }
        let authorities = config.verify.ca.as_ref().map(|ca| vec![ca.clone()]);
        let authorities = authorities.and_then(|files| read(files, &["tls.verify.ca"], &mut refusals));
        let client_cert =
            config.client_cert.as_ref().map(|files| vec![files.cert.clone(), files.key.clone()]);
        let paths = ["tls.client_cert.cert", "tls.client_cert.key"];
        let client_cert = client_cert.and_then(|files| read(files, &paths, &mut refusals));
        let mut ids = Vec::new();
        let listed = match &config.verify.spiffe {
            ExpectedIds::Names(ids) => ids.as_slice(),
            ExpectedIds::Word(_) => &[],
        };
        for (index, id) in listed.iter().enumerate() {
            match IdPattern::parse(id) {
                Ok(id) => ids.push(id),
                Err(why) => refusals.push(Refusal { path: format!("tls.verify.spiffe[{index}]"), why }),
            }
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        Ok(Tls {
            identity: identity.as_ref().map(|identity| identity.0.clone()),
            shows_identity: config.client_identity,
            client_cert,
            expects: match config.insecure_skip_verify {
                true => Expects::Anybody,
                false if !ids.is_empty() => Expects::Spiffe(Ids::These(ids.into())),
                false if !config.verify.spiffe.is_empty() => Expects::Spiffe(Ids::Owners),
                false if config.verify.uri.is_empty() && hosts.is_empty() => {
                    Expects::Name { name, authorities }
                }
                false => {
                    let names = Alternatives { uris: config.verify.uri.clone().into(), hosts: hosts.into() };
                    Expects::OneOf { names, authorities }
                }
            },
            server_name,
            oldest: config.min_version,
            needs_http2: matches!(protocol, UpstreamProtocol::Http2 | UpstreamProtocol::Grpc),
            terms: ArcSwapOption::empty(),
        })
    }

    /// # Errors
    ///
    /// As of [`Tls::new`].
    pub(super) fn of(
        config: &config::Upstream,
        identity: Option<&Arc<Identity>>,
    ) -> Result<Option<Arc<Tls>>, Vec<Refusal>> {
        let tls = config.tls.as_ref().map(|tls| Settings::new(tls, config.protocol, identity));
        tls.map(|settings| Tls::new(&settings).map(Arc::new)).transpose()
    }

    /// Whether there is a file to follow.
    pub(super) fn has_file(&self) -> bool {
        self.expects.authorities().is_some() || self.client_cert.is_some()
    }

    /// Keep the authorities and the client certificate as their files say, for as long as this is polled.
    pub(super) async fn follow(&self, told: impl Fn(TlsFile, Result<(), &str>)) {
        let authorities = async {
            if let Some(authorities) = self.expects.authorities() {
                authorities.follow(|outcome| told(TlsFile::Authorities, outcome)).await;
            }
        };
        let client_cert = async {
            if let Some(client_cert) = &self.client_cert {
                client_cert.follow(|outcome| told(TlsFile::ClientCert, outcome)).await;
            }
        };
        tokio::join!(authorities, client_cert);
    }

    /// Anybody's certificate is accepted.
    pub fn trusts_anybody(&self) -> bool {
        matches!(self.expects, Expects::Anybody)
    }

    /// Whether an endpoint has to be whoever has registered it.
    pub(super) fn expects_owners(&self) -> bool {
        matches!(self.expects, Expects::Spiffe(Ids::Owners))
    }

    /// On what connections are made now.
    ///
    /// # Errors
    ///
    /// What that needs has not arrived yet.
    pub fn terms(&self) -> Result<Arc<Terms>, NotReady> {
        let known = self.terms.load();
        if let Some(terms) = &*known
            && terms.hold(self)
        {
            return Ok(terms.clone());
        }
        let material = self.identity.as_ref().map(|identity| identity.current());
        let terms = Arc::new(Terms::new(self, material)?);
        self.terms.store(Some(terms.clone()));
        Ok(terms)
    }

    /// Have `peer`, which stands for the configured `origin` and was registered by `owners`, reached on `terms`.
    pub fn secure(peer: &mut HttpPeer, terms: Arc<Terms>, origin: &str, owners: &Owners) -> Arc<Handshake> {
        let host = host_of(origin);
        let handshake = Arc::new(Handshake::new(terms, host, owners));
        let terms = handshake.terms();
        peer.scheme = Scheme::HTTPS;
        // Never empty: Pingora verifies nothing then.
        peer.sni = terms.server_name.as_deref().or(handshake.name()).unwrap_or(host).to_owned();
        peer.client_cert_key = terms.certificate.clone();
        peer.options.ca = terms.authorities.clone();
        // Off where nothing is verified, and where `identity::verify` alone can.
        peer.options.verify_cert = terms.verifies() && terms.by_openssl;
        // A name that is not the one sent is looked for by the handshake alone.
        peer.options.verify_hostname = handshake.name() == Some(peer.sni.as_str());
        let witness = handshake.clone();
        peer.options.upstream_tls_handshake_complete_hook = Some(Arc::new(move |ssl| witness.judge(ssl)));
        handshake
    }
}

/// `paths` are where the files are written in the configuration.
fn read<T: FromFiles>(
    files: Vec<PathBuf>,
    paths: &[&str],
    refusals: &mut Vec<Refusal>,
) -> Option<Watched<T>> {
    let read = Watched::read(files);
    read.map_err(|unread| refusals.push(Refusal { path: paths[unread.file].into(), why: unread.why })).ok()
}

/// The host of a configured address. Certificates name hosts without the dot at their end.
fn host_of(origin: &str) -> &str {
    let host = origin.rsplit_once(':').map_or(origin, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches([']', '.'])
}

/// A name as certificates have it.
fn dns_name(name: &str) -> Result<Arc<str>, String> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Err(format!(
            "{name:?} is an address, and certificates are verified by name (try \"users.internal\")"
        ));
    }
    match check_host(&name) {
        Ok(()) => Ok(name.into()),
        Err(why) => Err(format!("{name:?} {why} (try \"users.internal\")")),
    }
}
