//! The algorithms of signatures (RFC 7518, section 3.1; RFC 8037, section 3.1), and how OpenSSL verifies each.

use std::str::FromStr;

use Algorithm::*;
use openssl::{
    bn::BigNum,
    ecdsa::EcdsaSig,
    error::ErrorStack,
    hash::{MessageDigest, hash},
    memcmp,
    pkey::{PKey, Private, Public},
    rsa::Padding,
    sign::{RsaPssSaltlen, Signer, Verifier},
};
use schemars::JsonSchema;
use serde::{
    Deserialize,
    de::{IntoDeserializer, value},
};

/// By the registered names; there is no `none` among them.
#[allow(clippy::upper_case_acronyms)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
pub(crate) enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    // Keys are of Ed25519 alone, and RFC 9864 has it under that name.
    #[serde(alias = "Ed25519")]
    EdDSA,
}

pub(crate) const HMAC: &[Algorithm] = &[HS256, HS384, HS512];
pub(crate) const RSA: &[Algorithm] = &[RS256, RS384, RS512, PS256, PS384, PS512];

/// What a signature is verified with.
#[derive(Clone)]
pub(crate) enum Material {
    Secret(PKey<Private>),
    Public(PKey<Public>),
}

impl FromStr for Algorithm {
    type Err = value::Error;

    fn from_str(name: &str) -> Result<Algorithm, value::Error> {
        Algorithm::deserialize(name.into_deserializer())
    }
}

impl Algorithm {
    /// As it is registered.
    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    fn digest(self) -> MessageDigest {
        match self {
            HS256 | RS256 | PS256 | ES256 => MessageDigest::sha256(),
            HS384 | RS384 | PS384 | ES384 => MessageDigest::sha384(),
            HS512 | RS512 | PS512 | EdDSA => MessageDigest::sha512(),
        }
    }

    /// Bytes of the hash it uses.
    pub(crate) fn hash_size(self) -> usize {
        self.digest().size()
    }

    /// Whether it is the signature of this message; nothing that is not exactly as it has to be is one.
    pub(crate) fn verify(self, material: &Material, message: &[u8], signature: &[u8]) -> bool {
        let verified = match (self, material) {
            (HS256 | HS384 | HS512, Material::Secret(key)) => self.verify_mac(key, message, signature),
            (RS256 | RS384 | RS512 | PS256 | PS384 | PS512, Material::Public(key)) => {
                self.verify_rsa(key, message, signature)
            }
            (ES256 | ES384, Material::Public(key)) => self.verify_point(key, message, signature),
            (EdDSA, Material::Public(key)) => Verifier::new_without_digest(key)
                .and_then(|mut verifier| verifier.verify_oneshot(signature, message)),
            _ => Ok(false),
        };
        let verified = verified.unwrap_or(false);
        if !verified {
            // OpenSSL leaves on this thread why a signature is none, and the next TLS connection that it serves would take that for its own.
            drop(ErrorStack::get());
        }
        verified
    }

    fn verify_mac(self, key: &PKey<Private>, message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        let code = Signer::new(self.digest(), key)?.sign_oneshot_to_vec(message)?;
        Ok(code.len() == signature.len() && memcmp::eq(&code, signature))
    }

    fn verify_rsa(self, key: &PKey<Public>, message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        // RFC 8017, sections 8.1.2 and 8.2.2, step 1.
        if signature.len() != key.size() {
            return Ok(false);
        }
        let mut verifier = Verifier::new(self.digest(), key)?;
        if matches!(self, PS256 | PS384 | PS512) {
            verifier.set_rsa_padding(Padding::PKCS1_PSS)?;
            // RFC 7518, section 3.5.
            verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
        }
        verifier.verify_oneshot(signature, message)
    }

    /// Two numbers of the curve's size, one behind the other (RFC 7518, section 3.4).
    fn verify_point(self, key: &PKey<Public>, message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        let size = if self == ES256 { 32 } else { 48 };
        if signature.len() != 2 * size {
            return Ok(false);
        }
        let (r, s) = signature.split_at(size);
        let signature = EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?;
        signature.verify(&hash(self.digest(), message)?, &*key.ec_key()?)
    }

    /// As an issuer does.
    #[cfg(test)]
    pub(crate) fn sign(self, key: &PKey<Private>, message: &[u8]) -> Vec<u8> {
        if matches!(self, ES256 | ES384) {
            let size = if self == ES256 { 32 } else { 48 };
            let hash = hash(self.digest(), message).unwrap();
            let signature = EcdsaSig::sign(&hash, &key.ec_key().unwrap()).unwrap();
            return [signature.r(), signature.s()].map(|n| n.to_vec_padded(size).unwrap()).concat();
        }
        let mut signer = match self {
            EdDSA => Signer::new_without_digest(key).unwrap(),
            _ => Signer::new(self.digest(), key).unwrap(),
        };
        if matches!(self, PS256 | PS384 | PS512) {
            signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
            signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH).unwrap();
        }
        signer.sign_oneshot_to_vec(message).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine,
        engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    };
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_another_library_signed_is_verified_and_nothing_that_was_changed() {
        let signed: Value = serde_json::from_str(include_str!("signed_by_java.json")).unwrap();
        let public = |name: &str| {
            let der = STANDARD.decode(signed["keys"][name].as_str().unwrap()).unwrap();
            Material::Public(PKey::public_key_from_der(&der).unwrap())
        };
        let secret = PKey::hmac(b"a-secret-of-sixty-four-bytes-that-is-long-enough-for-every-hash!").unwrap();
        let keys = [
            ("H", Material::Secret(secret)),
            ("R", public("rsa")),
            ("P", public("rsa")),
            ("ES256", public("p256")),
            ("ES384", public("p384")),
            ("Ed", public("ed")),
        ];
        let tokens = signed["tokens"].as_object().unwrap();
        assert_eq!(tokens.len(), 12);
        for (name, token) in tokens {
            let algorithm: Algorithm = name.parse().unwrap();
            let (message, signature) = token.as_str().unwrap().rsplit_once('.').unwrap();
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            let (_, own) = keys.iter().find(|(prefix, _)| name.starts_with(prefix)).unwrap();
            assert!(algorithm.verify(own, message.as_bytes(), &signature), "{name}");
            assert!(!algorithm.verify(own, &message.as_bytes()[1..], &signature), "{name}, another message");
            for changed in
                [&signature[1..], &signature[..signature.len() - 1], &[&[0], &signature[..]].concat(), &[]]
            {
                assert!(
                    !algorithm.verify(own, message.as_bytes(), changed),
                    "{name}, {} bytes",
                    changed.len()
                );
            }
            for bit in 0..signature.len() * 8 {
                let mut changed = signature.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(!algorithm.verify(own, message.as_bytes(), &changed), "{name}, bit {bit}");
            }
            // Numbers that are none of the curve's are refused in another place.
            assert!(!algorithm.verify(own, message.as_bytes(), &vec![0; signature.len()]), "{name}, zeros");
            assert!(!algorithm.verify(own, message.as_bytes(), &vec![255; signature.len()]), "{name}, ones");
            assert!(ErrorStack::get().errors().is_empty(), "{name} leaves errors for others");
            for (other, key) in &keys {
                let is_own = name.starts_with(other)
                    || (matches!(*other, "R" | "P") && name.contains('S') && matches!(&name[..1], "R" | "P"));
                assert!(
                    is_own || !algorithm.verify(key, message.as_bytes(), &signature),
                    "{name} by {other}"
                );
            }
        }
    }
}
