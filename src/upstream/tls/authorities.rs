//! A file of certificate authorities, read again when it changes. One that has become unreadable changes nothing: those that
//! were trusted stay trusted, as an operator's slip must not take an upstream down.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use openssl::{sha::Sha256, x509::X509};
use pingora_core::protocols::tls::CaType;

use super::terms::Seal;
use crate::trust::{ROCA, has_broken_key};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(5);

pub(crate) struct Authorities {
    file: PathBuf,
    current: ArcSwap<Trusted>,
}

pub(crate) struct Trusted {
    pub certificates: Arc<CaType>,
    pub fingerprint: [u8; 32],
}

impl Authorities {
    /// # Errors
    ///
    /// The file cannot be read, or holds no certificate.
    pub(crate) fn read(file: impl AsRef<Path>) -> Result<Authorities, String> {
        let file = file.as_ref().to_owned();
        let current = ArcSwap::from_pointee(read(&file)?);
        Ok(Authorities { file, current })
    }

    pub(crate) fn current(&self) -> Arc<Trusted> {
        self.current.load_full()
    }

    /// Whether these are the present ones.
    pub(crate) fn are(&self, certificates: &Arc<CaType>) -> bool {
        Arc::ptr_eq(&self.current.load().certificates, certificates)
    }

    /// Follow the file for as long as this is polled. `told` hears what came of each change.
    pub(crate) async fn follow(&self, told: impl Fn(Result<(), &str>)) {
        let mut seen = state(&self.file);
        loop {
            tokio::time::sleep(LOOK).await;
            let now = state(&self.file);
            if now == seen {
                continue;
            }
            seen = now;
            match read(&self.file) {
                Ok(trusted) if trusted.fingerprint == self.current.load().fingerprint => {}
                Ok(trusted) => {
                    self.current.store(Arc::new(trusted));
                    told(Ok(()));
                }
                Err(why) => told(Err(&why)),
            }
        }
    }
}

fn state(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(file: &Path) -> Result<Trusted, String> {
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
    Ok(Trusted { certificates: Arc::new(certificates.into()), fingerprint: seal.0.finish() })
}
