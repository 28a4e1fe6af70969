//! Encryption with what only the gateways of a fleet know.

use openssl::{
    error::ErrorStack,
    sha::sha256,
    symm::{Cipher, decrypt_aead, encrypt_aead},
};

const NONCE: usize = 12;
const TAG: usize = 16;

pub(super) struct Secret([u8; 32]);

impl Secret {
    pub(super) fn new(secret: &str) -> Secret {
        Secret(sha256(format!("tidegate acme storage\0{secret}").as_bytes()))
    }

    /// Bound to its key: nothing can be put in another's place.
    pub(super) fn encrypt(&self, key: &str, value: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let (mut nonce, mut tag) = ([0; NONCE], [0; TAG]);
        openssl::rand::rand_bytes(&mut nonce)?;
        let cipher = Cipher::aes_256_gcm();
        let text = encrypt_aead(cipher, &self.0, Some(&nonce), key.as_bytes(), value, &mut tag)?;
        Ok([&nonce[..], &tag, &text].concat())
    }

    pub(super) fn decrypt(&self, key: &str, value: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = value.split_at_checked(NONCE)?;
        let (tag, text) = rest.split_at_checked(TAG)?;
        decrypt_aead(Cipher::aes_256_gcm(), &self.0, Some(nonce), key.as_bytes(), text, tag).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_secret_can_read_and_nothing_stands_in_anothers_place() {
        let (one, other) =
            (Secret::new("a secret of some length"), Secret::new("another secret of some length"));
        let text = one.encrypt("certificates/default/a.example", b"a private key").unwrap();
        assert!(!text.windows(7).any(|part| part == b"private"));
        let read = |by: &Secret, key: &str, text: &[u8]| by.decrypt(key, text);
        assert_eq!(
            read(&one, "certificates/default/a.example", &text).as_deref(),
            Some(&b"a private key"[..])
        );
        assert_eq!(read(&one, "certificates/default/b.example", &text), None);
        assert_eq!(read(&other, "certificates/default/a.example", &text), None);
        for length in 0..text.len() {
            assert_eq!(read(&one, "certificates/default/a.example", &text[..length]), None);
        }
    }
}
