//! A file of certificate authorities.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use openssl::{sha::Sha256, x509::X509};
use pingora_core::protocols::tls::CaType;

use super::{
    terms::Seal,
    watched::{FromFiles, Unread},
};
use crate::trust::{ROCA, has_broken_key};

pub(super) struct Authorities {
    pub certificates: Arc<CaType>,
    fingerprint: [u8; 32],
}

impl FromFiles for Authorities {
    /// The file cannot be read, or holds no certificate.
    fn read(files: &[PathBuf]) -> Result<Authorities, Unread> {
        read(&files[0]).map_err(|why| Unread { file: 0, why })
    }

    fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

fn read(file: &Path) -> Result<Authorities, String> {
    let shown = file.display();
    let pem = fs::read(file).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let certificates = X509::stack_from_pem(&pem)
        .map_err(|_| format!("{shown} is not a PEM file of certificates (BEGIN CERTIFICATE)"))?;
    if certificates.is_empty() {
        return Err(format!("{shown} holds no certificate (BEGIN CERTIFICATE)"));
    }
    if certificates.iter().any(|certificate| has_broken_key(certificate)) {
        return Err(format!("of an authority in {shown}, {ROCA}"));
    }
    let mut seal = Seal(Sha256::new());
    for certificate in &certificates {
        seal.add(&certificate.to_der().map_err(|error| format!("cannot read {shown}: {error}"))?);
    }
    Ok(Authorities { certificates: Arc::new(certificates.into()), fingerprint: seal.0.finish() })
}
