//! What strangers ask to have signed.

use openssl::hash::MessageDigest;

use super::csr::{self, Csr, LARGEST};

/// Whatever is taken asks for one ID, with a key that certificates are believed with.
pub(crate) fn csr(bytes: &[u8]) {
    let Ok(Csr { id, key }) = csr::read(bytes) else { return };
    assert!(bytes.len() <= LARGEST);
    assert!(!id.path().is_empty() && super::parse_id(&id.to_string()).as_ref() == Ok(&id));
    assert!(key.bits() >= 253, "{} bits", key.bits());
    // It is written as it was read: nothing is signed that is not in the request.
    let der = key.public_key_to_der().expect("a key that was read can be written");
    assert!(openssl::hash::hash(MessageDigest::sha256(), &der).is_ok());
}
