//! An account's key, and what is signed with it: JSON Web Signatures as ACME has them (RFC 8555, section 6.2; RFC 7515). The key is on
//! P-256 (`ES256`), which every CA takes.
//!
//! By OpenSSL, as all that is signed here: a library for ACME would bring a second library for cryptography.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use openssl::{
    bn::{BigNum, BigNumContext},
    ec::{EcGroup, EcKey},
    ecdsa::EcdsaSig,
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    sha::sha256,
    sign::Signer,
};
use serde_json::{Value, json};

/// Bytes of a coordinate, and of each half of a signature.
const SIZE: i32 = 32;

pub(super) struct AccountKey {
    key: EcKey<Private>,
    x: String,
    y: String,
}

/// Who signs: the key itself before there is an account, and the account's URL from then on.
pub(super) enum Signatory<'a> {
    Key,
    Account(&'a str),
}

impl AccountKey {
    pub(super) fn generate() -> Result<AccountKey, ErrorStack> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        AccountKey::of(EcKey::generate(&group)?)
    }

    /// `None` where it is no such key.
    pub(super) fn from_pem(pem: &str) -> Option<AccountKey> {
        let key = PKey::private_key_from_pem_callback(pem.as_bytes(), |_| Ok(0)).ok()?.ec_key().ok()?;
        if key.group().curve_name() != Some(Nid::X9_62_PRIME256V1) || key.check_key().is_err() {
            return None;
        }
        AccountKey::of(key).ok()
    }

    pub(super) fn to_pem(&self) -> Result<String, ErrorStack> {
        let pem = PKey::from_ec_key(self.key.clone())?.private_key_to_pem_pkcs8()?;
        Ok(String::from_utf8_lossy(&pem).into_owned())
    }

    fn of(key: EcKey<Private>) -> Result<AccountKey, ErrorStack> {
        let (mut x, mut y) = (BigNum::new()?, BigNum::new()?);
        let mut context = BigNumContext::new()?;
        key.public_key().affine_coordinates(key.group(), &mut x, &mut y, &mut context)?;
        let coordinate = |number: &BigNum| Ok::<_, ErrorStack>(BASE64.encode(number.to_vec_padded(SIZE)?));
        Ok(AccountKey { x: coordinate(&x)?, y: coordinate(&y)?, key })
    }

    pub(super) fn jwk(&self) -> Value {
        json!({"crv": "P-256", "kty": "EC", "x": self.x, "y": self.y})
    }

    /// RFC 7638: of the members in the order of their names, without a blank.
    pub(super) fn thumbprint(&self) -> String {
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, self.x, self.y);
        BASE64.encode(sha256(text.as_bytes()))
    }

    /// What proves that a challenge with this token is ours (RFC 8555, section 8.1).
    pub(super) fn authorization(&self, token: &str) -> String {
        format!("{token}.{}", self.thumbprint())
    }

    /// Without a payload it is a "POST-as-GET" (section 6.3).
    pub(super) fn sign(
        &self,
        url: &str,
        nonce: &str,
        by: &Signatory<'_>,
        payload: Option<&Value>,
    ) -> Result<String, ErrorStack> {
        let mut protected = json!({"alg": "ES256", "nonce": nonce, "url": url});
        match by {
            Signatory::Key => protected["jwk"] = self.jwk(),
            Signatory::Account(account) => protected["kid"] = json!(account),
        }
        let payload = payload.map(Value::to_string).unwrap_or_default();
        let (protected, payload) = (BASE64.encode(protected.to_string()), BASE64.encode(payload));
        let digest = sha256(format!("{protected}.{payload}").as_bytes());
        let signed = EcdsaSig::sign(&digest, &self.key)?;
        let signature = [signed.r().to_vec_padded(SIZE)?, signed.s().to_vec_padded(SIZE)?].concat();
        Ok(json!({"protected": protected, "payload": payload, "signature": BASE64.encode(signature)})
            .to_string())
    }

    /// That the account is bound to one that the CA knows already (section 7.3.4). `secret` is what the CA has given for it.
    pub(super) fn bind(&self, url: &str, key_id: &str, secret: &[u8]) -> Result<Value, ErrorStack> {
        let protected = BASE64.encode(json!({"alg": "HS256", "kid": key_id, "url": url}).to_string());
        let payload = BASE64.encode(self.jwk().to_string());
        let key = PKey::hmac(secret)?;
        let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
        signer.update(format!("{protected}.{payload}").as_bytes())?;
        let signature = BASE64.encode(signer.sign_to_vec()?);
        Ok(json!({"protected": protected, "payload": payload, "signature": signature}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_verifies_with_the_key_in_it() {
        let key = AccountKey::generate().unwrap();
        for by in [Signatory::Key, Signatory::Account("https://ca.test/1")] {
            let signed = key.sign("https://ca.test/new", "n-1", &by, Some(&json!({"a": 1}))).unwrap();
            let signed: Value = serde_json::from_str(&signed).unwrap();
            let part = |name: &str| signed[name].as_str().unwrap();
            let protected: Value =
                serde_json::from_slice(&BASE64.decode(part("protected")).unwrap()).unwrap();
            assert_eq!((&protected["alg"], &protected["nonce"]), (&json!("ES256"), &json!("n-1")));
            assert_eq!(protected.get("jwk").is_some(), matches!(by, Signatory::Key));
            let signature = BASE64.decode(part("signature")).unwrap();
            let (r, s) = signature.split_at(32);
            let number = |bytes| BigNum::from_slice(bytes).unwrap();
            let parts = EcdsaSig::from_private_components(number(r), number(s)).unwrap();
            let text = format!("{}.{}", part("protected"), part("payload"));
            let point: &openssl::ec::EcPointRef = key.key.public_key();
            let public = EcKey::from_public_key(key.key.group(), point).unwrap();
            assert!(parts.verify(&sha256(text.as_bytes()), &public).unwrap());
        }
    }

    #[test]
    fn a_key_is_read_as_it_was_written_and_no_other_is() {
        let key = AccountKey::generate().unwrap();
        let read = AccountKey::from_pem(&key.to_pem().unwrap()).unwrap();
        assert_eq!(read.thumbprint(), key.thumbprint());
        assert_eq!(BASE64.decode(key.thumbprint()).unwrap().len(), 32);
        let group = EcGroup::from_curve_name(Nid::SECP384R1).unwrap();
        let other = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let other = String::from_utf8(other.private_key_to_pem_pkcs8().unwrap()).unwrap();
        assert!(AccountKey::from_pem(&other).is_none() && AccountKey::from_pem("").is_none());
    }

    /// RFC 7638 has no example with P-256; the form is what RFC 7517 requires of it, so only the order is looked at here.
    #[test]
    fn a_binding_is_signed_with_the_secret() {
        let key = AccountKey::generate().unwrap();
        let bound = key.bind("https://ca.test/new-account", "kid-1", b"secret").unwrap();
        let text = format!("{}.{}", bound["protected"].as_str().unwrap(), bound["payload"].as_str().unwrap());
        let hmac = PKey::hmac(b"secret").unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &hmac).unwrap();
        signer.update(text.as_bytes()).unwrap();
        assert_eq!(bound["signature"], json!(BASE64.encode(signer.sign_to_vec().unwrap())));
    }
}
