//! The terms of a connection: everything that decides whom it may reach and as whom, with one fingerprint for all of it.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use openssl::sha::Sha256;
use pingora_core::{protocols::tls::CaType, utils::tls::CertKey};

use super::{Expects, Tls};
use crate::config::UpstreamTlsVersion;

pub struct Terms {
    pub(super) fingerprint: [u8; 32],
    pub(super) expects: Accepted,
    /// `None` for those that the system trusts.
    pub(super) authorities: Option<Arc<CaType>>,
    /// What we show of ourselves.
    pub(super) certificate: Option<Arc<CertKey>>,
    pub(super) server_name: Option<Arc<str>>,
    pub(super) oldest: UpstreamTlsVersion,
    pub(super) needs_http2: bool,
}

/// Who is accepted.
pub(super) enum Accepted {
    /// Without a name, the endpoint's own host.
    Name(Option<Arc<str>>),
    Anybody,
}

/// Why no connection can be made yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {}

impl Terms {
    pub(super) fn new(tls: &Tls) -> Result<Terms, NotReady> {
        let mut seal = Seal(Sha256::new());
        seal.add(&[tls.oldest as u8, tls.needs_http2.into()]);
        seal.add(tls.server_name.as_deref().unwrap_or_default().as_bytes());
        let (expects, authorities) = match &tls.expects {
            Expects::Name { name, authorities } => {
                seal.add(b"name");
                seal.add(name.as_deref().unwrap_or_default().as_bytes());
                let authorities = authorities.as_ref().map(|authorities| authorities.current());
                seal.add(authorities.as_ref().map_or(&[], |found| &found.fingerprint[..]));
                (Accepted::Name(name.clone()), authorities.map(|found| found.certificates.clone()))
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
            certificate: None,
            server_name: tls.server_name.clone(),
            oldest: tls.oldest,
            needs_http2: tls.needs_http2,
        })
    }

    /// Whether nothing of what they were made from has changed.
    pub(super) fn hold(&self, tls: &Tls) -> bool {
        match &tls.expects {
            Expects::Name { authorities: Some(authorities), .. } => {
                self.authorities.as_ref().is_some_and(|known| authorities.are(known))
            }
            _ => true,
        }
    }

    pub(super) fn verifies(&self) -> bool {
        !matches!(self.expects, Accepted::Anybody)
    }

    /// The same for all connections that may be shared by those with `group` that want `name`.
    pub(super) fn group(&self, group: u64, name: Option<&str>) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.fingerprint, group, name).hash(&mut hasher);
        hasher.finish()
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// A hash of fields that cannot run into each other.
pub(super) struct Seal(pub Sha256);

impl Seal {
    pub fn add(&mut self, field: &[u8]) {
        self.0.update(&(field.len() as u64).to_be_bytes());
        self.0.update(field);
    }
}
