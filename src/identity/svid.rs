//! An X509-SVID of our own: the chain that we present, and the key that proves it is ours.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use openssl::{
    asn1::{Asn1Time, Asn1TimeRef},
    pkey::{PKey, Private},
    sha::sha256,
    x509::{X509, X509Ref},
};

use super::{SpiffeId, SvidError, leaf_id};
use crate::trust::has_broken_key;

pub struct Svid {
    pub id: SpiffeId,
    /// Leaf first.
    pub chain: Vec<X509>,
    pub key: PKey<Private>,
    /// The leaf's.
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// SHA-256 of the leaf in DER.
    pub fingerprint: [u8; 32],
}

impl Svid {
    /// `chain` has the leaf first. Whether a bundle vouches for it is [`verify`](super::verify())'s to say.
    ///
    /// # Errors
    ///
    /// The leaf breaks a rule of X509-SVID, the key is not its own, or one of the chain's can be broken.
    pub fn new(chain: Vec<X509>, key: PKey<Private>) -> Result<Svid, SvidError> {
        let leaf = chain.first().ok_or(SvidError::Unreadable)?;
        let id = leaf_id(leaf)?;
        if !leaf.public_key().is_ok_and(|public| public.public_eq(&key)) {
            return Err(SvidError::KeyMismatch);
        }
        if chain.iter().any(|link| has_broken_key(link)) {
            return Err(SvidError::BrokenKey);
        }
        let der = leaf.to_der().map_err(|_| SvidError::Unreadable)?;
        let (not_before, not_after) = (system_time(leaf.not_before()), system_time(leaf.not_after()));
        Ok(Svid { id, key, not_before, not_after, fingerprint: sha256(&der), chain })
    }

    /// # Errors
    ///
    /// One of them is not PEM, or as for [`Svid::new`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Svid, SvidError> {
        let chain = X509::stack_from_pem(chain).map_err(|_| SvidError::Unreadable)?;
        Svid::new(chain, private_key(key)?)
    }

    /// Whether its time has not come: it was issued by a clock that was ahead of this one.
    pub fn is_early(&self, now: SystemTime) -> bool {
        self.not_before > now
    }

    pub fn intermediates(&self) -> &[X509] {
        self.chain.get(1..).unwrap_or_default()
    }
}

/// Never the key.
impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Svid({})", self.id)
    }
}

/// A key in PEM. One that wants a passphrase is refused: OpenSSL would else ask for it at the terminal.
pub(super) fn private_key(pem: &[u8]) -> Result<PKey<Private>, SvidError> {
    PKey::private_key_from_pem_callback(pem, |_| Ok(0)).map_err(|_| SvidError::BadKey)
}

/// The end of a certificate.
pub(crate) fn ends(certificate: &X509Ref) -> SystemTime {
    system_time(certificate.not_after())
}

/// A time before 1970 is taken for the start of 1970.
pub(super) fn system_time(time: &Asn1TimeRef) -> SystemTime {
    let since = Asn1Time::from_unix(0).and_then(|epoch| epoch.diff(time));
    let seconds = since.map_or(0, |since| i64::from(since.days) * 86_400 + i64::from(since.secs));
    UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0))
}
