//! What the browser keeps for us and can neither read nor change: AES-256-GCM, under a key of its own for each text, so that
//! random nonces never meet however many there are (NIST SP 800-38D bounds those under one key).
//!
//! A text is bound to what it is for. What was sealed for something else does not open, with the same secret either.

use openssl::{
    error::ErrorStack,
    hash::MessageDigest,
    pkey::{PKey, Private},
    rand::rand_bytes,
    sign::Signer,
    symm::{Cipher, decrypt_aead, encrypt_aead},
};

const SALT: usize = 16;
const NONCE: usize = 12;
const TAG: usize = 16;

/// Seals with one key and opens with two, so that the secret can be exchanged while sessions go on.
pub(super) struct Sealer {
    current: Key,
    previous: Option<Key>,
}

struct Key(PKey<Private>);

/// What was sealed.
#[derive(Debug, PartialEq)]
pub(super) struct Opened {
    pub text: Vec<u8>,
    /// Under the secret from before: it is to be sealed anew.
    pub is_old: bool,
}

impl Sealer {
    /// # Errors
    ///
    /// OpenSSL makes no key of it.
    pub(super) fn new(secret: &[u8], previous: Option<&[u8]>) -> Result<Sealer, ErrorStack> {
        Ok(Sealer { current: Key::new(secret)?, previous: previous.map(Key::new).transpose()? })
    }

    /// `bound` must be the same when it is opened.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub(super) fn seal(&self, bound: &[u8], text: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let (mut head, mut tag) = ([0; SALT + NONCE], [0; TAG]);
        rand_bytes(&mut head)?;
        let (salt, nonce) = head.split_at(SALT);
        let key = self.current.derive(salt)?;
        let sealed = encrypt_aead(Cipher::aes_256_gcm(), &key, Some(nonce), bound, text, &mut tag)?;
        Ok([&head[..], &tag, &sealed].concat())
    }

    /// `None` for what was not sealed here, or for something else.
    pub(super) fn open(&self, bound: &[u8], sealed: &[u8]) -> Option<Opened> {
        let opened = self.current.open(bound, sealed).map(|text| Opened { text, is_old: false });
        let opened = opened.or_else(|| {
            let text = self.previous.as_ref()?.open(bound, sealed)?;
            Some(Opened { text, is_old: true })
        });
        if opened.is_none() {
            // What OpenSSL leaves on this thread, the next TLS connection would take for its own.
            drop(ErrorStack::get());
        }
        opened
    }
}

impl Key {
    fn new(secret: &[u8]) -> Result<Key, ErrorStack> {
        Ok(Key(PKey::hmac(&mac(&PKey::hmac(secret)?, &[b"tidegate oidc 1"])?)?))
    }

    fn derive(&self, salt: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        mac(&self.0, &[salt])
    }

    fn open(&self, bound: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (salt, rest) = sealed.split_at_checked(SALT)?;
        let (nonce, rest) = rest.split_at_checked(NONCE)?;
        let (tag, text) = rest.split_at_checked(TAG)?;
        let key = self.derive(salt).ok()?;
        decrypt_aead(Cipher::aes_256_gcm(), &key, Some(nonce), bound, text, tag).ok()
    }
}

/// HMAC-SHA256 over all parts, one behind the other.
///
/// # Errors
///
/// OpenSSL is out of memory.
pub(super) fn mac(key: &PKey<Private>, parts: &[&[u8]]) -> Result<Vec<u8>, ErrorStack> {
    let mut signer = Signer::new(MessageDigest::sha256(), key)?;
    parts.iter().try_for_each(|part| signer.update(part))?;
    signer.sign_to_vec()
}

/// Several texts as one that no other texts give.
pub(super) fn bind(parts: &[&[u8]]) -> Vec<u8> {
    let lengths = parts.iter().map(|part| [&(part.len() as u64).to_be_bytes()[..], part].concat());
    lengths.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(secret: &str, previous: Option<&str>) -> Sealer {
        Sealer::new(secret.as_bytes(), previous.map(str::as_bytes)).unwrap()
    }

    #[test]
    fn opens_what_it_sealed_and_nothing_that_was_changed() {
        let sealer = sealer("one", None);
        let sealed = sealer.seal(b"session", b"alice").unwrap();
        let opened = Opened { text: b"alice".to_vec(), is_old: false };
        assert_eq!(sealer.open(b"session", &sealed), Some(opened));
        assert_eq!(sealer.open(b"state", &sealed), None, "it is for something else");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sealer.open(b"session", &changed), None, "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(sealer.open(b"session", &sealed[..length]), None, "{length} bytes");
        }
        assert!(ErrorStack::get().errors().is_empty(), "it leaves errors for others");
    }

    #[test]
    fn a_secret_that_was_exchanged_still_opens_until_it_is_gone() {
        let sealed = sealer("one", None).seal(b"", b"alice").unwrap();
        let opened = sealer("two", Some("one")).open(b"", &sealed).unwrap();
        assert!(opened.is_old && opened.text == b"alice");
        assert_eq!(sealer("two", None).open(b"", &sealed), None);
        let anew = sealer("two", Some("one")).seal(b"", b"alice").unwrap();
        assert!(sealer("two", None).open(b"", &anew).is_some());
    }

    #[test]
    fn the_same_text_is_never_sealed_the_same() {
        let sealer = sealer("one", None);
        assert_ne!(sealer.seal(b"", b"alice").unwrap(), sealer.seal(b"", b"alice").unwrap());
    }

    #[test]
    fn parts_are_told_apart() {
        assert_ne!(bind(&[b"ab", b"c"]), bind(&[b"a", b"bc"]));
        assert_ne!(bind(&[b"a"]), bind(&[b"a", b""]));
    }
}
