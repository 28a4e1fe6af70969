//! What any bytes must do to those who read tokens and keys; see `crate::fuzzing`.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openssl::{hash::MessageDigest, pkey::PKey, sign::Signer};

use super::{
    algorithm::HMAC,
    claims::{ClaimPath, Policy},
    issuers::Accepts,
    key::{Key, KeySet},
    token::{Token, Types},
};

const SECRET: &[u8; 64] = b"a secret of as many bytes as the longest of the hashes gives out";
const NOW: u64 = 1_800_000_000;

/// A token, or two lines: a header and a payload, of which one is made that is signed by us.
pub(crate) fn jwt(bytes: &[u8]) {
    check(bytes);
    if let Some(line) = bytes.iter().position(|byte| *byte == b'\n') {
        let [header, payload] = [&bytes[..line], &bytes[line + 1..]].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = format!("{header}.{payload}");
        let signature = signed(message.as_bytes(), MessageDigest::sha256());
        check(format!("{message}.{signature}").as_bytes());
    }
}

fn check(text: &[u8]) {
    let Ok(token) = Token::parse(text, &Types::new(None)) else { return };
    assert_eq!([token.message, b".", token.signature.as_bytes()].concat(), text);
    // Read before it is verified, so that the reader meets more than what is signed.
    let claims = token.claims();
    let keys = KeySet::of(vec![Key::secret(SECRET).expect("it is long enough")]);
    if keys.verify(&token).is_ok() {
        assert!(HMAC.contains(&token.algorithm), "verified by a secret as {:?}", token.algorithm);
        let hashes = [MessageDigest::sha256(), MessageDigest::sha384(), MessageDigest::sha512()];
        let is_ours = |hash| signed(token.message, hash) == token.signature;
        assert!(hashes.into_iter().any(is_ours), "a signature has a second form");
    }
    let Ok(claims) = claims else { return };
    // A reader that takes the last of two members of a name finds no other. Fractions are not read exactly.
    let written = serde_json::to_string(&claims).expect("JSON");
    let again: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&written).expect("JSON");
    assert!(again.keys().eq(claims.keys()), "{written}");
    for path in ["scope", "a.b", "realm_access.roles"] {
        let _ = ClaimPath::new(path).map(|path| path.find(&claims).is_some());
    }
    if let Ok(verified) = policy().judge(claims, &Accepts::default(), NOW) {
        assert!(
            verified.valid.start <= NOW && NOW < verified.valid.end.saturating_add(SKEW),
            "{:?}",
            verified.valid
        );
    }
}

const SKEW: u64 = 30;

fn policy() -> Policy {
    Policy {
        skew: SKEW,
        scopes: vec!["read".into()],
        required: vec![(ClaimPath::new("a.b").expect("a name"), vec![true.into()])],
        forward: Vec::new(),
    }
}

fn signed(message: &[u8], hash: MessageDigest) -> String {
    let key = PKey::hmac(SECRET).expect("a key");
    let mut signer = Signer::new(hash, &key).expect("a signer");
    URL_SAFE_NO_PAD.encode(signer.sign_oneshot_to_vec(message).expect("a signature"))
}

/// A key set holds public keys only, at most a hundred, and verifies nothing that nobody has signed.
pub(crate) fn jwks(bytes: &[u8]) {
    let _ = Key::pem(bytes);
    let Ok(keys) = KeySet::jwks(bytes) else { return };
    assert!((1..=100).contains(&keys.len()));
    assert_eq!(KeySet::jwks(bytes).map(|again| again.fingerprint), Ok(keys.fingerprint));
    let algorithms = keys.algorithms();
    assert!(!algorithms.iter().any(|algorithm| HMAC.contains(algorithm)), "a secret among public keys");
    for algorithm in algorithms.iter().take(8) {
        let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"{algorithm:?}\"}}"));
        let token = format!("{header}.e30.{}", URL_SAFE_NO_PAD.encode([7; 64]));
        let token = Token::parse(token.as_bytes(), &Types::new(None)).expect("a token");
        assert!(keys.verify(&token).is_err(), "nobody has signed this");
    }
}
