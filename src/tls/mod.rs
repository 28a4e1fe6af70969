//! TLS towards clients: the certificates a listener shows, whose it asks for, and what OpenSSL makes of both.
//!
//! Everything that can be wrong is found when a configuration is compiled ([`Material::read`]). From then on a
//! [`Terminator`] lives with its listener: it begins handshakes, and looks at its files again when it is told to. What it
//! finds wrong then changes nothing: the old certificate is shown until there is a good one.

mod caller;
mod certificate;
mod client_cert;
mod context;
mod terminator;

use std::{fmt, path::PathBuf};

use openssl::x509::X509;

pub use self::{
    certificate::{Part, Unusable},
    client_cert::client_cert,
    terminator::Terminator,
};
use self::{
    certificate::Certificate,
    context::{Clients, Common, Judge, Plan},
};
use crate::config::TlsVersion;

/// `listeners[].tls`, with full paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub certificates: Vec<Source>,
    pub clients: ClientAuth,
    pub min_version: TlsVersion,
}

/// Whence a certificate comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Files { cert: PathBuf, key: PathBuf },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    Request(Trust),
    Require(Trust),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    Ca(PathBuf),
}

/// What the settings name, read and checked.
pub struct Material {
    certificates: Vec<Certificate>,
    authorities: Vec<X509>,
}

/// What is wrong with the files that the settings name.
#[derive(Debug)]
pub enum Problem {
    /// With the certificate of this index.
    Certificate(usize, Unusable),
    /// Nobody will ever see it: others serve its names.
    Unused(usize),
    Authorities(Unusable),
    /// OpenSSL will not have it.
    Refused(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Certificate(_, unusable) | Problem::Authorities(unusable) => unusable.fmt(f),
            Problem::Unused(index) => {
                write!(f, "certificate {index} would never be shown: others before it have its names")
            }
            Problem::Refused(reasons) => write!(f, "OpenSSL refuses to serve with this: {reasons}"),
        }
    }
}

impl Settings {
    /// The files to watch.
    pub fn files(&self) -> Vec<PathBuf> {
        let certificates = self.certificates.iter().flat_map(|source| match source {
            Source::Files { cert, key } => [cert.clone(), key.clone()],
        });
        let authorities = match self.clients.trust() {
            Some(Trust::Ca(file)) => Some(file.clone()),
            None => None,
        };
        certificates.chain(authorities).collect()
    }
}

impl ClientAuth {
    fn trust(&self) -> Option<&Trust> {
        match self {
            ClientAuth::None => None,
            ClientAuth::Request(trust) | ClientAuth::Require(trust) => Some(trust),
        }
    }
}

impl Material {
    /// # Errors
    ///
    /// All that is wrong with what the settings name.
    pub fn read(settings: &Settings) -> Result<Material, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut certificates = Vec::new();
        for (index, source) in settings.certificates.iter().enumerate() {
            match source {
                Source::Files { cert, key } => match Certificate::read(cert, key) {
                    Ok(certificate) => certificates.push(certificate),
                    Err(unusable) => problems.push(Problem::Certificate(index, unusable)),
                },
            }
        }
        let authorities = match settings.clients.trust() {
            Some(Trust::Ca(file)) => certificate::authorities(file).unwrap_or_else(|unusable| {
                problems.push(Problem::Authorities(unusable));
                Vec::new()
            }),
            None => Vec::new(),
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let unused = Plan::of(&certificates).unused(certificates.len());
        if !unused.is_empty() {
            return Err(unused.into_iter().map(Problem::Unused).collect());
        }
        let material = Material { certificates, authorities };
        match context::front(&material.certificates, &material.common(settings)) {
            Ok(_) => Ok(material),
            Err(error) => Err(vec![Problem::Refused(reasons(&error))]),
        }
    }

    fn common(&self, settings: &Settings) -> Common {
        let known = |trust: &Trust, is_required| Clients::Known {
            is_required,
            by: match trust {
                Trust::Ca(_) => Judge::Authorities(self.authorities.clone()),
            },
        };
        let clients = match &settings.clients {
            ClientAuth::None => Clients::Anyone,
            ClientAuth::Request(trust) => known(trust, false),
            ClientAuth::Require(trust) => known(trust, true),
        };
        Common { min_version: settings.min_version, clients }
    }

    /// Equal where nothing has changed.
    fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = openssl::sha::Sha256::new();
        for certificate in &self.certificates {
            hasher.update(&certificate.fingerprint());
        }
        for authority in &self.authorities {
            hasher.update(&authority.to_der().unwrap_or_default());
        }
        hasher.finish()
    }
}

/// OpenSSL's own words, without the places in its source.
pub fn reasons(stack: &openssl::error::ErrorStack) -> String {
    let reasons: Vec<&str> = stack.errors().iter().filter_map(|error| error.reason()).collect();
    if reasons.is_empty() { "refused by OpenSSL".to_owned() } else { reasons.join(", ") }
}
