//! A certificate of an ordinary PKI and its key, shown to endpoints that ask for one.

use std::{path::PathBuf, sync::Arc};

use pingora_core::utils::tls::CertKey;

use super::watched::{FromFiles, Unread};
use crate::tls::{Certificate, Part};

pub(super) struct ClientCert {
    pub certificate: Arc<CertKey>,
    fingerprint: [u8; 32],
}

impl FromFiles for ClientCert {
    /// Of two files: the certificate with those that lead to its root, and its key. They are checked as those of a listener are.
    fn read(files: &[PathBuf]) -> Result<ClientCert, Unread> {
        let read = Certificate::read(&files[0], &files[1]).map_err(|unusable| Unread {
            file: usize::from(unusable.part == Part::Key),
            why: unusable.to_string(),
        })?;
        let fingerprint = read.fingerprint();
        Ok(ClientCert { certificate: Arc::new(CertKey::new(read.chain, read.key)), fingerprint })
    }

    fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}
