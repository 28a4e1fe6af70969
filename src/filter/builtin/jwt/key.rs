//! Keys, each pinned to the algorithms it may be used with: what a token's header says never widens that (RFC 8725,
//! section 3.1). Keys are read by OpenSSL.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openssl::{
    bn::BigNum,
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    nid::Nid,
    pkey::{Id, PKey, Public},
    rsa::Rsa,
    sha::{Sha256, sha256},
    x509::X509,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    filter::builtin::jwt::{
        algorithm::{
            Algorithm::{self, *},
            HMAC, Material, RSA,
        },
        json,
        refusal::Refusal,
        token::Token,
    },
    trust::{ROCA, is_roca_modulus},
};

const BROKEN: &str = "the key cannot be used";

#[derive(Clone)]
pub(crate) struct Key {
    /// `None` fits any token.
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    material: Material,
    /// Of all that the key is.
    digest: [u8; 32],
}

impl Key {
    /// A secret may be used with each hash that is not longer than it (RFC 7518, section 3.2); `None` when that is none.
    pub(crate) fn secret(secret: &[u8]) -> Option<Key> {
        let fits = |algorithm: &&Algorithm| secret.len() >= algorithm.hash_size();
        let algorithms: Vec<Algorithm> = HMAC.iter().filter(fits).copied().collect();
        if algorithms.is_empty() {
            return None;
        }
        let material = Material::Secret(PKey::hmac(secret).ok()?);
        Some(Key { kid: None, algorithms, material, digest: sha256(secret) })
    }

    /// A public key, or the one of a certificate.
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    pub(crate) fn pem(pem: &[u8]) -> Result<Key, &'static str> {
        if memchr::memmem::find(pem, b"PRIVATE KEY-----").is_some() {
            return Err("it holds a private key (give the public one: `openssl pkey -pubout`)");
        }
        let key = PKey::public_key_from_pem(pem)
            .or_else(|_| X509::from_pem(pem)?.public_key())
            .or_else(|_| PKey::from_rsa(Rsa::public_key_from_pem_pkcs1(pem)?))
            .map_err(|_| "not a public key in PEM (it begins with BEGIN PUBLIC KEY or BEGIN CERTIFICATE)")?;
        Key::public(key)
    }

    fn public(key: PKey<Public>) -> Result<Key, &'static str> {
        let algorithms = match key.id() {
            Id::RSA => {
                let rsa = key.rsa().map_err(|_| BROKEN)?;
                check_rsa(&rsa)?;
                RSA
            }
            Id::EC => match key.ec_key().map_err(|_| BROKEN)?.group().curve_name() {
                Some(Nid::X9_62_PRIME256V1) => &[ES256][..],
                Some(Nid::SECP384R1) => &[ES384],
                _ => return Err("a key on this curve is not supported (use P-256 or P-384)"),
            },
            Id::ED25519 => &[EdDSA],
            _ => return Err("a key of this type is not supported (use RSA, P-256, P-384 or Ed25519)"),
        };
        let digest = sha256(&key.public_key_to_der().map_err(|_| BROKEN)?);
        Ok(Key { kid: None, algorithms: algorithms.to_vec(), material: Material::Public(key), digest })
    }

    /// `None` for one that is not for verifying signatures.
    ///
    /// # Errors
    ///
    /// Why it cannot be used. RFC 7517, section 5, has such ones passed over.
    fn jwk(jwk: Jwk) -> Result<Option<Key>, &'static str> {
        const NUMBERS: &str = "its numbers are missing, or not in base64url without padding";
        if jwk.usage.is_some_and(|usage| usage != "sig")
            || jwk.key_ops.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify"))
        {
            return Ok(None);
        }
        let bytes = |text: &Option<String>| {
            text.as_deref().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or(NUMBERS)
        };
        let mut key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                // With zeros in front as well, which some issuers write although RFC 7518, section 6.3.1.1, does not have them.
                let number = |text| BigNum::from_slice(&bytes(text)?).map_err(|_| NUMBERS);
                let rsa = Rsa::from_public_components(number(&jwk.n)?, number(&jwk.e)?);
                Key::public(rsa.and_then(PKey::from_rsa).map_err(|_| BROKEN)?)?
            }
            ("EC", Some("P-256")) => Key::point(Nid::X9_62_PRIME256V1, 32, &bytes(&jwk.x)?, &bytes(&jwk.y)?)?,
            ("EC", Some("P-384")) => Key::point(Nid::SECP384R1, 48, &bytes(&jwk.x)?, &bytes(&jwk.y)?)?,
            ("OKP", Some("Ed25519")) => {
                let key = PKey::public_key_from_raw_bytes(&bytes(&jwk.x)?, Id::ED25519);
                Key::public(key.map_err(|_| BROKEN)?)?
            }
            ("oct", _) => return Err("a secret does not belong into a set of public keys"),
            _ => return Err("a key of this type is not supported (use RSA, P-256, P-384 or Ed25519)"),
        };
        if let Some(algorithm) = jwk.alg {
            key.algorithms
                .retain(|possible| algorithm.parse::<Algorithm>().is_ok_and(|named| named == *possible));
        }
        if key.algorithms.is_empty() {
            return Err("its `alg` is not one that is supported for its type");
        }
        let mut digest = Sha256::new();
        digest.update(&key.digest);
        digest.update(format!("{:?}{:?}", key.algorithms, jwk.kid).as_bytes());
        (key.kid, key.digest) = (jwk.kid, digest.finish());
        Ok(Some(key))
    }

    /// Checked to be a point of the curve.
    fn point(curve: Nid, size: usize, x: &[u8], y: &[u8]) -> Result<Key, &'static str> {
        if x.len() != size || y.len() != size {
            return Err("`x` or `y` does not have the length that its curve needs");
        }
        let key = || -> Result<_, ErrorStack> {
            let group = EcGroup::from_curve_name(curve)?;
            let (x, y) = (BigNum::from_slice(x)?, BigNum::from_slice(y)?);
            PKey::from_ec_key(EcKey::from_public_key_affine_coordinates(&group, &x, &y)?)
        };
        Key::public(key().map_err(|_| "it is not a point of its curve")?)
    }
}

fn check_rsa(key: &Rsa<Public>) -> Result<(), &'static str> {
    if !(2048..=8192).contains(&key.n().num_bits()) {
        return Err("an RSA key has 2048 to 8192 bits");
    }
    // With 1, whatever is shown is signed; above, a verification costs what nobody needs.
    if !key.e().is_bit_set(0) || !(2..=33).contains(&key.e().num_bits()) {
        return Err("the exponent of an RSA key is odd, and between 3 and 33 bits of ones");
    }
    if is_roca_modulus(&key.n().to_vec()) { Err(ROCA) } else { Ok(()) }
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Keys of one issuer.
#[derive(Clone)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// For signatures, but not for use: who signs with one of them is refused.
    pub unusable: Vec<Unusable>,
    /// Equal for sets of the same keys, in whatever order.
    pub fingerprint: [u8; 32],
}

/// A key of a set that is passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unusable {
    kid: Option<String>,
    why: &'static str,
}

/// So much of a name is shown, which is the issuer's to choose.
const LONGEST_NAME: usize = 64;

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            Some(kid) => {
                let shown: String = kid.chars().take(LONGEST_NAME).collect();
                write!(f, "{shown:?}: {}", self.why)
            }
            None => write!(f, "one without `kid`: {}", self.why),
        }
    }
}

/// A set may have so many keys.
const MOST_KEYS: usize = 100;
/// So many are tried for a token that does not name its key: each costs a verification.
const MOST_TRIED: usize = 4;

impl KeySet {
    pub(crate) fn of(keys: Vec<Key>) -> KeySet {
        let mut digests: Vec<[u8; 32]> = keys.iter().map(|key| key.digest).collect();
        digests.sort_unstable();
        let fingerprint = sha256(digests.as_flattened());
        KeySet { keys, unusable: Vec::new(), fingerprint }
    }

    /// A JWK Set (RFC 7517, section 5).
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    pub(crate) fn jwks(text: &[u8]) -> Result<KeySet, &'static str> {
        let mut set = json::object(text).ok_or("not a key set in JSON, or a name stands twice in it")?;
        let Some(Value::Array(keys)) = set.remove("keys") else {
            return Err("not a key set: it has no list of `keys`");
        };
        if keys.len() > MOST_KEYS {
            return Err("a key set of more than 100 keys is not read");
        }
        let (mut usable, mut unusable) = (Vec::new(), Vec::new());
        for key in keys {
            let kid = key.get("kid").and_then(Value::as_str).map(str::to_owned);
            let key = serde_json::from_value(key).map_err(|_| "not a key in JSON");
            match key.and_then(Key::jwk) {
                Ok(key) => usable.extend(key),
                Err(why) => unusable.push(Unusable { kid, why }),
            }
        }
        match usable.is_empty() {
            true => Err("none of its keys can verify a signature (RSA, EC or Ed25519, `use: sig`)"),
            false => Ok(KeySet { unusable, ..KeySet::of(usable) }),
        }
    }

    /// Of all its keys.
    pub(crate) fn algorithms(&self) -> Vec<Algorithm> {
        self.keys.iter().flat_map(|key| key.algorithms.iter().copied()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// # Errors
    ///
    /// No key is known for this token, none may be used with its algorithm, or the signature is not valid.
    pub(crate) fn verify(&self, token: &Token<'_>) -> Result<(), Refusal> {
        let fits = |key: &&Key| match (&token.kid, &key.kid) {
            (Some(wanted), Some(kid)) => wanted == kid,
            _ => true,
        };
        let mut known = self.keys.iter().filter(fits).peekable();
        if known.peek().is_none() {
            return Err(Refusal::UnknownKey);
        }
        let mut usable = known.filter(|key| key.algorithms.contains(&token.algorithm)).peekable();
        if usable.peek().is_none() {
            return Err(Refusal::Algorithm);
        }
        // Without padding and loose bits: a token can be written in one way.
        let signature = URL_SAFE_NO_PAD.decode(token.signature).map_err(|_| Refusal::Signature)?;
        let verifies = |key: &Key| token.algorithm.verify(&key.material, token.message, &signature);
        if usable.take(MOST_TRIED).any(verifies) { Ok(()) } else { Err(Refusal::Signature) }
    }
}
