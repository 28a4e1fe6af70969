//! The terms of a connection: everything that decides whom it may reach and as whom, with one fingerprint for all of it.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use openssl::{
    sha::Sha256,
    x509::{X509Ref, X509VerifyResult},
};
use pingora_core::{protocols::tls::CaType, utils::tls::CertKey};

use super::{
    Alternatives, Expects, Ids, Tls,
    authorities::Authorities,
    client_cert::ClientCert,
    watched::{FromFiles, Watched},
};
use crate::{
    config::TlsVersion,
    identity::{Bundle, Material, SpiffeId, TrustDomain},
};

pub struct Terms {
    pub(super) fingerprint: [u8; 32],
    pub(super) expects: Accepted,
    /// `None` for those that the system trusts.
    pub(super) authorities: Option<Arc<CaType>>,
    /// What we show of ourselves.
    pub(super) certificate: Option<Arc<CertKey>>,
    pub(super) server_name: Option<Arc<str>>,
    pub(super) oldest: TlsVersion,
    pub(super) needs_http2: bool,
    /// OpenSSL verifies the chain.
    pub(super) by_openssl: bool,
    /// What they were made from.
    made_of: Option<Arc<Material>>,
    trusted: Option<Arc<Authorities>>,
    shown: Option<Arc<ClientCert>>,
}

/// Who is accepted.
pub(super) enum Accepted {
    Spiffe {
        ids: Ids,
        material: Arc<Material>,
    },
    /// Without a name, the endpoint's own host.
    Name(Option<Arc<str>>),
    OneOf(Alternatives),
    Anybody,
}

/// Why no connection can be made yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// We have no certificate yet.
    Svid,
    /// There is nothing yet by which to verify members of this trust domain.
    Bundle(TrustDomain),
    /// Nor of any.
    Bundles,
}

impl Terms {
    pub(super) fn new(tls: &Tls, material: Option<Arc<Material>>) -> Result<Terms, NotReady> {
        let mut seal = Seal(Sha256::new());
        seal.add(&[tls.oldest as u8, tls.needs_http2.into()]);
        seal.add(tls.server_name.as_deref().unwrap_or_default().as_bytes());
        let svid = match material.as_ref().map(|material| &material.svid) {
            _ if !tls.shows_identity => None,
            Some(Some(svid)) => Some(svid),
            _ => return Err(NotReady::Svid),
        };
        seal.add(svid.map_or(&[], |svid| &svid.fingerprint[..]));
        let shown = tls.client_cert.as_ref().map(Watched::current);
        seal.add(shown.as_ref().map_or(&[], |shown| &shown.fingerprint()[..]));
        let trusted = tls.expects.authorities().map(Watched::current);
        seal.add(trusted.as_ref().map_or(&[], |trusted| &trusted.fingerprint()[..]));
        let by_file = || trusted.as_ref().map(|trusted| trusted.certificates.clone());
        let mut by_openssl = true;
        let (expects, authorities) = match &tls.expects {
            Expects::Spiffe(ids) => {
                seal.add(b"spiffe");
                let material = material.clone().unwrap_or_default();
                let mut authorities = Vec::new();
                let mut trust = |bundle: &Bundle| {
                    seal.add(&bundle.fingerprint);
                    authorities.extend(bundle.authorities.iter().cloned());
                };
                match ids {
                    // Whose trust domain is not known yet is nobody that could be verified; the others may be there.
                    Ids::These(ids) => ids
                        .iter()
                        .filter_map(|id| material.bundles.of(id.trust_domain()))
                        .for_each(|bundle| trust(bundle)),
                    Ids::Owners => material.bundles.iter().for_each(|bundle| trust(bundle)),
                }
                match ids {
                    Ids::These(ids) if authorities.is_empty() => {
                        return Err(NotReady::Bundle(ids[0].trust_domain().clone()));
                    }
                    Ids::Owners if authorities.is_empty() => return Err(NotReady::Bundles),
                    Ids::These(ids) => ids.iter().for_each(|id| seal.add(id.to_string().as_bytes())),
                    Ids::Owners => seal.add(b"registered"),
                }
                by_openssl = authorities.iter().all(|authority| is_root(authority));
                let accepted = Accepted::Spiffe { ids: ids.clone(), material };
                (accepted, Some(Arc::new(authorities.into())))
            }
            Expects::Name { name, .. } => {
                seal.add(b"name");
                seal.add(name.as_deref().unwrap_or_default().as_bytes());
                (Accepted::Name(name.clone()), by_file())
            }
            Expects::OneOf { names, .. } => {
                seal.add(b"uri");
                names.uris.iter().for_each(|uri| seal.add(uri.as_bytes()));
                seal.add(b"dns");
                names.hosts.iter().for_each(|host| seal.add(host.as_bytes()));
                (Accepted::OneOf(names.clone()), by_file())
            }
            Expects::Anybody => {
                seal.add(b"anybody");
                (Accepted::Anybody, None)
            }
        };
        Ok(Terms {
            fingerprint: seal.0.finish(),
            expects,
            authorities,
            certificate: match &shown {
                Some(shown) => Some(shown.certificate.clone()),
                None => svid.map(|svid| Arc::new(CertKey::new(svid.chain.clone(), svid.key.clone()))),
            },
            server_name: tls.server_name.clone(),
            oldest: tls.oldest,
            needs_http2: tls.needs_http2,
            by_openssl,
            made_of: material,
            trusted,
            shown,
        })
    }

    /// Whether nothing of what they were made from has changed.
    pub(super) fn hold(&self, tls: &Tls) -> bool {
        let same_material = match (&tls.identity, &self.made_of) {
            (Some(identity), Some(known)) => Arc::ptr_eq(&identity.current(), known),
            (identity, _) => identity.is_none(),
        };
        same_material
            && is_present(tls.expects.authorities(), self.trusted.as_ref())
            && is_present(tls.client_cert.as_ref(), self.shown.as_ref())
    }

    pub(super) fn verifies(&self) -> bool {
        !matches!(self.expects, Accepted::Anybody)
    }

    /// The same for all connections that may be shared by those with `group` that want `name`, or one of `owners`.
    pub(super) fn group(&self, group: u64, name: Option<&str>, owners: Option<&[SpiffeId]>) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.fingerprint, group, name, owners).hash(&mut hasher);
        hasher.finish()
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotReady::Svid => f.write_str("our own SVID has not arrived yet"),
            NotReady::Bundles => f.write_str("no bundle to verify by has arrived yet"),
            NotReady::Bundle(domain) => write!(f, "the bundle of {domain} has not arrived yet"),
        }
    }
}

/// Whether what was `known` is what the files say now, where there are any.
fn is_present<T: FromFiles>(watched: Option<&Watched<T>>, known: Option<&Arc<T>>) -> bool {
    watched.is_none_or(|watched| known.is_some_and(|known| watched.is(known)))
}

/// What Pingora has OpenSSL verify ends at a root; an SVID's chain may end before, where the bundle says so.
fn is_root(authority: &X509Ref) -> bool {
    authority.issued(authority) == X509VerifyResult::OK
}

/// A hash of fields that cannot run into each other.
pub(super) struct Seal(pub Sha256);

impl Seal {
    pub(crate) fn add(&mut self, field: &[u8]) {
        self.0.update(&(field.len() as u64).to_be_bytes());
        self.0.update(field);
    }
}
