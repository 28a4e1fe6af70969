use std::{fs, sync::LazyLock};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::header::WWW_AUTHENTICATE;
use openssl::{
    ec::{EcGroup, EcKey},
    nid::Nid,
    pkey::{PKey, Private},
    rsa::Rsa,
};
use pingora_http::RequestHeader;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    config::Path,
    filter::{
        Facts, Invalid, Live, Options,
        builtin::jwt::{algorithm::Algorithm, *},
    },
};

const SECRET: &str = "a-secret-of-sixty-four-bytes-that-is-long-enough-for-every-hash!";
const ALL: [Algorithm; 12] = {
    use Algorithm::*;
    [HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA]
};

/// One key of each type.
struct Keys {
    rsa: PKey<Private>,
    p256: PKey<Private>,
    p384: PKey<Private>,
    ed: PKey<Private>,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let ec = |curve| {
        let key = EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap();
        PKey::from_ec_key(key).unwrap()
    };
    Keys {
        rsa: PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
        p256: ec(Nid::X9_62_PRIME256V1),
        p384: ec(Nid::SECP384R1),
        ed: PKey::generate_ed25519().unwrap(),
    }
});

fn private(algorithm: Algorithm) -> &'static PKey<Private> {
    match algorithm {
        Algorithm::ES256 => &KEYS.p256,
        Algorithm::ES384 => &KEYS.p384,
        Algorithm::EdDSA => &KEYS.ed,
        _ => &KEYS.rsa,
    }
}

fn sign(header: &Value, payload: &str, algorithm: Algorithm) -> String {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            let key = PKey::hmac(SECRET.as_bytes()).unwrap();
            sign_raw(&header.to_string(), payload.as_bytes(), &key, algorithm)
        }
        _ => sign_raw(&header.to_string(), payload.as_bytes(), private(algorithm), algorithm),
    }
}

fn sign_raw(header: &str, payload: &[u8], key: &PKey<Private>, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", b64(header.as_bytes()), b64(payload));
    let signature = algorithm.sign(key, message.as_bytes());
    format!("{message}.{}", b64(&signature))
}

fn header(algorithm: Algorithm) -> Value {
    json!({"alg": format!("{algorithm:?}"), "typ": "JWT"})
}

fn good() -> Value {
    json!({"sub": "u-7", "iss": "https://a.test", "aud": "api", "exp": now() + 600, "scope": "read"})
}

/// A good token.
fn token(algorithm: Algorithm) -> String {
    sign(&header(algorithm), &good().to_string(), algorithm)
}

fn build_at(options: Value, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
    let yaml = serde_yaml::to_string(&options).unwrap();
    serde_yaml::from_str::<Jwt>(&yaml).unwrap().build(&Path::root(), live)
}

fn build(options: Value) -> Arc<dyn Filter> {
    build_at(options, &Live::offline()).unwrap_or_else(|invalid| panic!("{invalid:?}"))
}

fn by_secret(more: Value) -> Arc<dyn Filter> {
    let mut options = json!({"keys": {"secret": SECRET}});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    build(options)
}

/// What became of a request: the status, 200 for one that passes; the challenge; and the request as the upstream would
/// see it.
fn ask(
    filter: &Arc<dyn Filter>,
    target: &str,
    headers: &[(&str, &str)],
) -> (u16, String, RequestHeader, Facts) {
    let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
    for (name, value) in headers {
        request.append_header((*name).to_owned(), *value).unwrap();
    }
    let mut facts = Facts { target: target.parse().unwrap(), ..Facts::default() };
    let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
    let flow = filter.on_request_at_once(&mut exchange).unwrap().expect("there is nothing to wait for");
    let (status, challenge) = match flow {
        Flow::Continue => {
            filter.on_forward(&mut exchange).unwrap();
            (200, String::new())
        }
        Flow::Reply(reply) => {
            let challenge = reply.headers.iter().find(|(name, _)| *name == WWW_AUTHENTICATE);
            (reply.status.as_u16(), challenge.map_or("", |(_, value)| value.to_str().unwrap()).to_owned())
        }
    };
    (status, challenge, request, facts)
}

fn status(filter: &Arc<dyn Filter>, token: &str) -> u16 {
    ask(filter, "/", &[("authorization", &format!("Bearer {token}"))]).0
}

/// The `error` of the challenge, and what it says.
fn refused(filter: &Arc<dyn Filter>, token: &str) -> (u16, String) {
    let (status, challenge, ..) = ask(filter, "/", &[("authorization", &format!("Bearer {token}"))]);
    let description = challenge.split("error_description=\"").nth(1).unwrap_or_default();
    (status, description.split('"').next().unwrap_or_default().to_owned())
}

fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn jwk(algorithm: Algorithm, kid: Option<&str>) -> Value {
    let key = private(algorithm);
    let mut jwk = match algorithm {
        Algorithm::EdDSA => {
            json!({"kty": "OKP", "crv": "Ed25519", "x": b64(&key.raw_public_key().unwrap())})
        }
        Algorithm::ES256 => ec_jwk(&key.ec_key().unwrap(), "P-256", 32),
        Algorithm::ES384 => ec_jwk(&key.ec_key().unwrap(), "P-384", 48),
        _ => {
            let rsa = key.rsa().unwrap();
            json!({"kty": "RSA", "n": b64(&rsa.n().to_vec()), "e": b64(&rsa.e().to_vec())})
        }
    };
    if let Some(kid) = kid {
        jwk["kid"] = kid.into();
    }
    jwk
}

fn ec_jwk(key: &EcKey<Private>, curve: &str, size: i32) -> Value {
    let (mut x, mut y) = (openssl::bn::BigNum::new().unwrap(), openssl::bn::BigNum::new().unwrap());
    let mut context = openssl::bn::BigNumContext::new().unwrap();
    key.public_key().affine_coordinates(key.group(), &mut x, &mut y, &mut context).unwrap();
    let coordinate = |n: openssl::bn::BigNum| b64(&n.to_vec_padded(size).unwrap());
    json!({"kty": "EC", "crv": curve, "x": coordinate(x), "y": coordinate(y)})
}

/// A file of these contents, which is there as long as the directory.
fn file(name: &str, contents: impl AsRef<[u8]>) -> (TempDir, String) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, contents).unwrap();
    (directory, path.to_str().unwrap().to_owned())
}

fn by_jwks(keys: &[Value], more: Value) -> Arc<dyn Filter> {
    let (_directory, path) = file("jwks.json", json!({"keys": keys}).to_string());
    let mut options = json!({"keys": {"jwks": path}});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    build(options)
}

fn by_pem(algorithm: Algorithm) -> Arc<dyn Filter> {
    let (_directory, path) = file("key.pem", private(algorithm).public_key_to_pem().unwrap());
    build(json!({"keys": {"public_key": path}}))
}

#[test]
fn each_algorithm_is_verified_by_its_own_type_of_key_and_no_other() {
    use Algorithm::*;
    for (filter, own) in [
        (by_secret(json!({})), &ALL[..3]),
        (by_pem(RS256), &ALL[3..9]),
        (by_pem(ES256), &ALL[9..10]),
        (by_pem(ES384), &ALL[10..11]),
        (by_pem(EdDSA), &ALL[11..]),
        (
            by_jwks(&[jwk(RS256, None), jwk(ES256, None), jwk(ES384, None), jwk(EdDSA, None)], json!({})),
            &ALL[3..],
        ),
    ] {
        for algorithm in ALL {
            let expected = if own.contains(&algorithm) { 200 } else { 401 };
            assert_eq!(status(&filter, &token(algorithm)), expected, "{algorithm:?} with {own:?}");
        }
    }
}

/// Each costs a verification.
#[test]
fn a_token_that_names_no_key_is_tried_with_four_and_no_more() {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let other = || ec_jwk(&EcKey::generate(&group).unwrap(), "P-256", 32);
    for (others, expected) in [(3, 200), (4, 401)] {
        let mut keys: Vec<Value> = (0..others).map(|_| other()).collect();
        keys.push(jwk(Algorithm::ES256, None));
        assert_eq!(
            status(&by_jwks(&keys, json!({})), &token(Algorithm::ES256)),
            expected,
            "behind {others} others"
        );
    }
}

#[test]
fn only_algorithms_that_are_named_are_accepted() {
    let filter = by_secret(json!({"algorithms": ["HS384"]}));
    assert_eq!(status(&filter, &token(Algorithm::HS384)), 200);
    assert_eq!(refused(&filter, &token(Algorithm::HS256)).1, "the token's algorithm is not accepted");
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    let pem = private(Algorithm::RS256).public_key_to_pem().unwrap();
    let der = private(Algorithm::RS256).public_key_to_der().unwrap();
    let n = private(Algorithm::RS256).rsa().unwrap().n().to_vec();
    for filter in [by_pem(Algorithm::RS256), by_jwks(&[jwk(Algorithm::RS256, Some("k"))], json!({}))] {
        for secret in [&pem, &der, &n] {
            let key = PKey::hmac(secret).unwrap();
            let header = r#"{"alg":"HS256","kid":"k"}"#;
            let forged = sign_raw(header, good().to_string().as_bytes(), &key, Algorithm::HS256);
            assert_eq!(refused(&filter, &forged), (401, "the token's algorithm is not accepted".to_owned()));
        }
    }
}

#[test]
fn every_bad_token_is_refused_for_what_is_wrong_with_it() {
    let filter = by_secret(json!({"issuer": "https://a.test", "audience": ["api"]}));
    let with = |change: Value| {
        let mut header = header(Algorithm::HS256);
        header.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        sign(&header, &good().to_string(), Algorithm::HS256)
    };
    let key = PKey::hmac(SECRET.as_bytes()).unwrap();
    let raw = |header: &str, payload: &str| sign_raw(header, payload.as_bytes(), &key, Algorithm::HS256);
    let payload = |payload: &str| raw(r#"{"alg":"HS256"}"#, payload);
    let change = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        payload(&claims.to_string())
    };
    let exp = now() + 600;
    let fine = token(Algorithm::HS256);
    let (message, signature) = fine.rsplit_once('.').unwrap();
    // The last character of 32 bytes in base64 has bits that say nothing.
    let last = signature.chars().last().unwrap();
    let twin = char::from_u32(last as u32 + 1).unwrap();
    let malformed = "the token is malformed";
    let algorithm = "the token's algorithm is not accepted";
    let claims = "the token's claims are malformed";
    let expiry = "the token has no valid expiry";
    for (what, token, expected) in [
        ("empty", String::new(), malformed),
        ("no token", "abc".to_owned(), malformed),
        ("two parts", "a.b".to_owned(), malformed),
        ("five parts", format!("{fine}.a.b"), malformed),
        ("none", with(json!({"alg": "none"})), algorithm),
        ("none without signature", format!("{}.{}.", b64(br#"{"alg":"none"}"#), b64(b"{}")), algorithm),
        ("no signature", format!("{message}."), malformed),
        ("wrong signature", format!("{message}.{}", b64(&[7; 32])), "the token's signature is not valid"),
        ("short signature", format!("{message}.{}", &signature[..8]), "the token's signature is not valid"),
        ("padded", format!("{fine}="), "the token's signature is not valid"),
        ("loose bits", format!("{message}.{}{twin}", &signature[..42]), "the token's signature is not valid"),
        ("not base64", format!("{message}.!{}", &signature[1..]), "the token's signature is not valid"),
        ("a space", fine.replacen('.', " .", 1), malformed),
        ("two tokens", format!("{fine}, Bearer {fine}"), malformed),
        ("algorithm of another key", with(json!({"alg": "RS256"})), algorithm),
        ("unknown algorithm", with(json!({"alg": "XX256"})), algorithm),
        ("no algorithm", raw("{}", "{}"), malformed),
        ("algorithm twice", raw(r#"{"alg":"none","alg":"HS256"}"#, &good().to_string()), malformed),
        (
            "crit",
            with(json!({"crit": ["b64"], "b64": false})),
            "the token needs an extension that is not known here",
        ),
        ("empty crit", with(json!({"crit": []})), "the token needs an extension that is not known here"),
        ("wrong type", with(json!({"typ": "secevent+jwt"})), "the token's type is not accepted"),
        ("kid of a wrong kind", with(json!({"kid": {"a": 1}})), malformed),
        ("too large", format!("{message}.{}", "A".repeat(9000)), "the token is too large"),
        ("no expiry", change("exp", Value::Null), expiry),
        ("expiry as text", change("exp", json!("9999999999")), expiry),
        ("endless expiry", change("exp", json!(1e300)), expiry),
        ("expired", change("exp", json!(now() - 61)), "the token has expired"),
        ("not yet", change("nbf", json!(now() + 90)), "the token is not valid yet"),
        ("from the future", change("iat", json!(now() + 90)), "the token's time of issue is not valid"),
        ("issuer", change("iss", json!("https://b.test")), "the token's issuer is not accepted"),
        ("audience", change("aud", json!(["other"])), "the token is for another audience"),
        ("claims twice", payload(&format!(r#"{{"exp":{exp},"exp":1}}"#)), claims),
        ("claims twice, below", payload(&format!(r#"{{"exp":{exp},"a":[{{"b":1,"b":2}}]}}"#)), claims),
        ("claims not an object", payload("[]"), claims),
        ("claims not JSON", payload("{"), claims),
        (
            "claims not UTF-8",
            sign_raw(r#"{"alg":"HS256"}"#, b"{\"exp\":1,\"a\":\"\xff\"}", &key, Algorithm::HS256),
            claims,
        ),
    ] {
        assert_eq!(refused(&filter, &token), (401, expected.to_owned()), "{what}");
        assert_eq!(refused(&filter, &token), (401, expected.to_owned()), "{what}, again");
    }
    assert_eq!(status(&filter, &fine), 200);
}

#[test]
fn a_key_that_the_token_brings_along_is_not_used() {
    let other = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let rsa = other.rsa().unwrap();
    let own = json!({"kty": "RSA", "n": b64(&rsa.n().to_vec()), "e": b64(&rsa.e().to_vec())});
    let filter = by_jwks(&[jwk(Algorithm::RS256, Some("k"))], json!({}));
    for (name, value) in [
        ("jwk", own),
        ("jku", json!("https://evil.test/jwks.json")),
        ("x5u", json!("https://evil.test/chain.pem")),
        ("x5c", json!(["MII="])),
    ] {
        let header = json!({"alg": "RS256", "kid": "k", name: value});
        let forged = sign_raw(&header.to_string(), good().to_string().as_bytes(), &other, Algorithm::RS256);
        assert_eq!(refused(&filter, &forged).1, "the token's signature is not valid", "{name}");
    }
}

/// The modulus with so many zeros in front.
fn modulus_behind(zeros: usize) -> String {
    let modulus = private(Algorithm::RS256).rsa().unwrap().n().to_vec();
    b64(&[vec![0; zeros], modulus].concat())
}

#[test]
fn keys_of_a_set_that_cannot_be_used_are_told_with_why_and_those_for_other_uses_are_not() {
    use crate::filter::builtin::jwt::key::KeySet;
    let mut keys = vec![jwk(Algorithm::ES256, Some("good"))];
    for (kid, change, why) in [
        ("small", json!({"n": b64(&[0xff; 64])}), "2048 to 8192 bits"),
        ("even", json!({"e": b64(&[2])}), "odd"),
        ("padded", json!({"n": "AQAB=="}), "base64url"),
        ("none", json!({"n": null}), "missing"),
        ("alg", json!({"alg": "RSA-OAEP"}), "`alg`"),
        ("oct", json!({"kty": "oct"}), "secret"),
        ("type", json!({"kty": "AKP"}), "not supported"),
        ("off", json!({"kty": "EC", "crv": "P-256", "x": b64(&[1; 32]), "y": b64(&[1; 32])}), "point"),
        ("odd", json!({"kty": 7}), "not a key"),
        ("enc", json!({"use": "enc", "n": null}), ""),
        ("sign", json!({"key_ops": ["sign"], "n": null}), ""),
    ] {
        let mut key = jwk(Algorithm::RS256, Some(kid));
        key.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let set = KeySet::jwks(json!({"keys": [keys[0], key]}).to_string().as_bytes()).unwrap();
        let told: Vec<String> = set.unusable.iter().map(ToString::to_string).collect();
        match why {
            "" => assert_eq!(told, [""; 0], "{kid}"),
            why => assert!(
                told.len() == 1 && told[0].starts_with(&format!("{kid:?}: ")) && told[0].contains(why),
                "{told:?}"
            ),
        }
        assert_eq!(set.len(), 1, "{kid}");
        keys.push(key);
    }
    let set = KeySet::jwks(json!({"keys": keys}).to_string().as_bytes()).unwrap();
    assert_eq!((set.len(), set.unusable.len()), (1, 9));
}

#[test]
fn a_key_of_a_set_is_used_as_it_says_and_no_other_way() {
    use Algorithm::*;
    let rs = |alg: &str| {
        let algorithm: Algorithm = alg.parse().unwrap();
        sign(&json!({"alg": alg, "kid": "k"}), &good().to_string(), algorithm)
    };
    let set = |change: Value| {
        let mut key = jwk(RS256, Some("k"));
        key.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        by_jwks(&[key, jwk(ES256, Some("other"))], json!({}))
    };
    for (change, token, expected) in [
        (json!({}), rs("RS256"), ""),
        // Some issuers write zeros in front.
        (json!({"n": modulus_behind(1)}), rs("RS256"), ""),
        (json!({"n": modulus_behind(3)}), rs("RS256"), ""),
        (json!({"use": "sig", "key_ops": ["verify"], "alg": "PS256"}), rs("PS256"), ""),
        (json!({"alg": "PS256"}), rs("RS256"), "the token's algorithm is not accepted"),
        (json!({"use": "enc"}), rs("RS256"), "the token's key is not known"),
        (json!({"key_ops": ["sign"]}), rs("RS256"), "the token's key is not known"),
        (json!({"alg": "HS256"}), rs("RS256"), "the token's key is not known"),
        (json!({"alg": "RSA-OAEP"}), rs("RS256"), "the token's key is not known"),
        (json!({"kid": "l"}), rs("RS256"), "the token's key is not known"),
        (json!({"kty": "EC"}), rs("RS256"), "the token's key is not known"),
        (
            json!({"kty": "oct", "k": b64(SECRET.as_bytes())}),
            rs("HS256"),
            "the token's algorithm is not accepted",
        ),
    ] {
        let filter = set(change.clone());
        // A key that is not known to a file may be there in a moment: that is for the task to find out.
        let bearer = format!("Bearer {token}");
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("authorization", bearer.as_str()).unwrap();
        let mut facts = Facts::default();
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        let told = filter.on_request_at_once(&mut exchange).unwrap();
        match (told, expected) {
            (None, "the token's key is not known") | (Some(Flow::Continue), "") => {}
            (Some(Flow::Reply(_)), expected) => assert_eq!(refused(&filter, &token).1, expected, "{change}"),
            (told, _) => panic!("{change}: {told:?}"),
        }
    }
}

#[test]
fn who_sends_no_token_is_told_so_without_an_error() {
    let filter = by_secret(json!({"realm": "the shop"}));
    for headers in [&[][..], &[("authorization", "Basic dTpw")]] {
        let (status, challenge, ..) = ask(&filter, "/", headers);
        assert_eq!((status, challenge.as_str()), (401, "Bearer realm=\"the shop\""));
    }
    let token = token(Algorithm::HS256);
    let bearer = format!("Bearer {token}");
    let twice = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
    let (status, challenge, ..) = ask(&filter, "/", &twice);
    assert_eq!(status, 400);
    assert!(challenge.contains("error=\"invalid_request\""), "{challenge}");
}

#[test]
fn who_may_not_is_told_what_scope_it_takes() {
    let filter = by_secret(json!({"require": {"scope": ["read", "write"]}}));
    for _ in 0..2 {
        let bearer = format!("Bearer {}", token(Algorithm::HS256));
        let (status, challenge, ..) = ask(&filter, "/", &[("authorization", &bearer)]);
        assert_eq!(status, 403);
        assert!(challenge.ends_with(", scope=\"read write\""), "{challenge}");
        assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
    }
    let filter = by_secret(json!({"require": {"scope": "read", "claims": {"sub": "u-7"}}}));
    assert_eq!(status(&filter, &token(Algorithm::HS256)), 200);
}

#[test]
fn forged_headers_are_taken_off_whatever_becomes_of_the_request() {
    let filter = by_secret(json!({
        "optional": true, "skip_paths": ["/open", {"exact": "/exact"}],
        "forward_claims": {"sub": "X-User-Id", "groups": "x-groups", "deep.er": "x-deep", "bad": "x-bad"},
    }));
    let mut claims = good();
    claims["groups"] = json!(["a", "b"]);
    claims["deep"] = json!({"er": 7});
    claims["bad"] = json!("a\nb");
    let token = sign(&header(Algorithm::HS256), &claims.to_string(), Algorithm::HS256);
    let bearer = format!("Bearer {token}");
    let forged = [
        ("x-user-id", "root"),
        ("X-USER-ID", "root"),
        ("x_user_id", "root"),
        ("x-bad", "root"),
        ("x-other", "kept"),
    ];
    for (path, with_token, expected) in [
        ("/", true, vec![("x-deep", "7"), ("x-groups", "a,b"), ("x-other", "kept"), ("x-user-id", "u-7")]),
        ("/", false, vec![("x-other", "kept")]),
        ("/open/below", true, vec![("x-other", "kept")]),
        ("/exact", false, vec![("x-other", "kept")]),
    ] {
        let mut headers = forged.to_vec();
        if with_token {
            headers.push(("authorization", &bearer));
        }
        for _ in 0..2 {
            let (status, _, request, facts) = ask(&filter, path, &headers);
            let mut seen: Vec<_> =
                request.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
            seen.retain(|(name, _)| name.starts_with('x'));
            seen.sort_unstable();
            assert_eq!((status, seen), (200, expected.clone()), "{path} {with_token}");
            assert_eq!(facts.claims.is_some(), with_token && path == "/");
        }
    }
    // A token that is not valid does not pass for none.
    assert_eq!(status(&filter, "a.b.c"), 401);
}

#[test]
fn a_path_that_needs_no_token_is_that_path_only() {
    let filter = by_secret(json!({"skip_paths": ["/open", {"exact": "/exact"}]}));
    for (path, expected) in [
        ("/open", 200),
        ("/open/a?b", 200),
        ("/opened", 401),
        ("/OPEN", 401),
        ("/exact", 200),
        ("/exact/", 401),
        ("/a/open", 401),
        ("/", 401),
    ] {
        assert_eq!(ask(&filter, path, &[]).0, expected, "{path}");
    }
}

#[test]
fn a_token_is_taken_from_where_it_is_looked_for_and_kept_from_the_upstream_if_told_so() {
    let token = token(Algorithm::HS256);
    let (bearer, cookie, target) =
        (format!("Bearer {token}"), format!("a=b; t={token}"), format!("/p?t={token}&a=b"));
    for (from, target, headers, left) in [
        (json!({"header": "authorization"}), "/p", vec![("authorization", bearer.as_str())], ""),
        (json!({"header": "x-t"}), "/p", vec![("x-t", token.as_str())], ""),
        (json!({"cookie": "t"}), "/p", vec![("cookie", cookie.as_str())], "a=b"),
        (json!({"query": "t"}), target.as_str(), vec![], ""),
    ] {
        let kept = by_secret(json!({"from": from}));
        let (status, _, request, _) = ask(&kept, target, &headers);
        assert_eq!((status, request.uri.to_string().as_str()), (200, target));
        assert!(headers.iter().all(|(name, value)| request.headers[*name] == value));
        let hidden = by_secret(json!({"from": from, "forward_token": false}));
        let (status, _, request, _) = ask(&hidden, target, &headers);
        assert_eq!(status, 200);
        assert!(!format!("{request:?}").contains(&token), "{from}");
        assert_eq!(request.headers.get("cookie").map_or("", |it| it.to_str().unwrap()), left);
        assert_eq!(ask(&kept, "/p", &[]).0, 401);
    }
}

#[test]
fn a_token_is_verified_once_and_its_claims_are_shared() {
    let live = Live::offline();
    let options = json!({"keys": {"secret": SECRET}});
    let filter = build_at(options.clone(), &live).unwrap();
    let bearer = format!("Bearer {}", token(Algorithm::HS256));
    let claims = |filter: &Arc<dyn Filter>| ask(filter, "/", &[("authorization", &bearer)]).3.claims.unwrap();
    let first = claims(&filter);
    let verified = live.metrics().tokens().verifications("valid");
    assert!(Arc::ptr_eq(&first, &claims(&filter)));
    // After a reload too, but not where other options may say otherwise.
    assert!(Arc::ptr_eq(&first, &claims(&build_at(options, &live).unwrap())));
    assert_eq!(verified.get(), 1);
    let other = build_at(json!({"keys": {"secret": SECRET}, "audience": ["api"]}), &live).unwrap();
    assert!(!Arc::ptr_eq(&first, &claims(&other)));
    let other = json!({"keys": {"secret": format!("{SECRET}x")}});
    assert_eq!(ask(&build_at(other, &live).unwrap(), "/", &[("authorization", &bearer)]).0, 401);
    assert_eq!(verified.get(), 2);
}

#[test]
fn keys_are_read_once_for_all_filters_that_use_them_however_often_each_wants_it() {
    let live = Live::offline();
    let source = |keys: Value| {
        let keys: crate::filter::builtin::jwt::key_options::Keys = serde_json::from_value(keys).unwrap();
        keys.build(None, &Path::root(), &live, &mut crate::filter::builtin::jwt::options::Checks::default())
            .unwrap()
            .source
    };
    let url = "http://127.0.0.1:9/jwks.json";
    let first = source(json!({"jwks": url}));
    assert!(Arc::ptr_eq(&first, &source(json!({"jwks": url, "wait": "3s"}))));
    let often = source(json!({"jwks": url, "refresh": "3s"}));
    assert!(!Arc::ptr_eq(&first, &often) && first.reads_with(&often));
    assert!(!first.reads_with(&source(json!({"jwks": format!("{url}?2")}))));
}

#[test]
fn options_that_make_no_sense_are_refused_in_their_place() {
    let (_keep, pem) = file("key.pem", private(Algorithm::ES256).public_key_to_pem().unwrap());
    let (_keep2, private_pem) =
        file("key.pem", private(Algorithm::ES256).private_key_to_pem_pkcs8().unwrap());
    let small = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
    let (_keep3, small) = file("small.pem", small.public_key_to_pem().unwrap());
    let (_keep4, empty) = file("jwks.json", r#"{"keys":[]}"#);
    let (_keep5, twice) =
        file("jwks.json", format!(r#"{{"keys":[],"keys":[{}]}}"#, jwk(Algorithm::ES256, None)));
    let many: Vec<Value> = vec![jwk(Algorithm::ES256, None); 101];
    let (_keep6, many) = file("jwks.json", json!({"keys": many}).to_string());
    let (_keep7, large) = file("jwks.json", " ".repeat(1024 * 1024 + 1));
    let secret = json!({"secret": SECRET});
    let short = "hunter2-hunter2-hunter2-hunter2";
    for (options, at, message) in [
        (json!({}), "keys", "nothing says where the keys are"),
        (json!({"keys": {}}), "keys", "nothing says where the keys are"),
        (json!({"issuer": ["https://a.test", "https://b.test"]}), "keys", "nothing says where the keys are"),
        (json!({"issuer": "a.test"}), "keys", "keys cannot be found by the issuer"),
        (json!({"issuer": "http://a.test"}), "keys", "allow_http"),
        (
            json!({"issuers": [{"issuer": "https://u:hunter2@a.test"}]}),
            "issuers[0].keys",
            "user and a password",
        ),
        (
            json!({"issuers": [{"issuer": "a", "keys": secret}, {"issuer": "a", "keys": secret}]}),
            "issuers[1].issuer",
            "already",
        ),
        (json!({"issuers": [{"issuer": "", "keys": secret}]}), "issuers[0].issuer", "has a name"),
        (
            json!({"issuers": [{"issuer": "a", "keys": secret, "algorithms": ["RS256"]}]}),
            "issuers[0].algorithms[0]",
            "cannot verify RS256",
        ),
        (
            json!({"issuers": [{"issuer": "https://a.test", "keys": {"timeout": "0s"}}]}),
            "issuers[0].keys.timeout",
            "makes no sense",
        ),
        (json!({"issuers": [{"issuer": "a", "keys": secret}], "issuer": "a"}), "issuer", "its own `issuer`"),
        (json!({"issuers": [{"issuer": "a", "keys": secret}], "keys": secret}), "keys", "its own `keys`"),
        (
            json!({"issuers": [{"issuer": "a", "keys": secret}], "algorithms": ["HS256"]}),
            "algorithms",
            "its own `algorithms`",
        ),
        (
            json!({"issuers": [{"issuer": "a", "keys": secret}], "audience": "a"}),
            "audience",
            "its own `audience`",
        ),
        (json!({"keys": {"secret": SECRET, "public_key": pem}}), "keys", "only one of"),
        (json!({"keys": {"secret": short}}), "keys.secret", "at least 32 bytes"),
        (json!({"keys": {"secret": "aHVudGVyMg", "base64": true}}), "keys.secret", "at least 32 bytes"),
        (json!({"keys": {"secret": "hunter2!", "base64": true}}), "keys.secret", "not base64"),
        (
            json!({"keys": {"secret": &SECRET[..40]}, "algorithms": ["HS256", "HS384"]}),
            "algorithms[1]",
            "cannot verify HS384",
        ),
        (json!({"keys": {"public_key": pem}, "algorithms": ["HS256"]}), "algorithms[0]", "they can: ES256"),
        (json!({"keys": {"public_key": "nowhere.pem"}}), "keys.public_key", "cannot read nowhere.pem"),
        (json!({"keys": {"public_key": private_pem}}), "keys.public_key", "private key"),
        (json!({"keys": {"public_key": small}}), "keys.public_key", "2048 to 8192 bits"),
        (json!({"keys": {"jwks": pem}}), "keys.jwks", "not a key set"),
        (json!({"keys": {"jwks": empty}}), "keys.jwks", "none of its keys"),
        (json!({"keys": {"jwks": twice}}), "keys.jwks", "stands twice"),
        (json!({"keys": {"jwks": many}}), "keys.jwks", "more than 100 keys"),
        (json!({"keys": {"jwks": large}}), "keys.jwks", "larger than 1 MiB"),
        (json!({"keys": {"jwks": "http://issuer.test/jwks"}}), "keys.jwks", "allow_http"),
        (json!({"keys": {"jwks": "ftp://issuer.test/jwks"}}), "keys.jwks", "expected an https URL"),
        (json!({"keys": {"jwks": "https://u:hunter2@issuer.test/jwks"}}), "keys.jwks", "user and a password"),
        (json!({"keys": {"jwks": "https://issuer.test/", "ca": empty}}), "keys.ca", "certificate"),
        (
            json!({"keys": {"jwks": "https://issuer.test/", "refresh": "0s"}}),
            "keys.refresh",
            "makes no sense",
        ),
        (json!({"keys": secret, "clock_skew": "6m"}), "clock_skew", "set the clocks"),
        (json!({"keys": secret, "max_size": "65KiB"}), "max_size", "from 1B to 64KiB"),
        (json!({"keys": secret, "cache_entries": 1_000_001}), "cache_entries", "a million"),
        (json!({"keys": secret, "realm": "a\"b"}), "realm", "without quotes"),
        (json!({"keys": secret, "require": {"scope": ["a b"]}}), "require.scope[0]", "one word"),
        (json!({"keys": secret, "require": {"claims": {"a": {}}}}), "require.claims.a", "expected text"),
        (json!({"keys": secret, "forward_claims": {"a": "x y"}}), "forward_claims.a", "not a header name"),
        (
            json!({"keys": secret, "forward_claims": {"a": "x", "b": "X"}}),
            "forward_claims.b",
            "another claim",
        ),
        (
            json!({"keys": secret, "forward_claims": {"a": "content-length"}}),
            "forward_claims.a",
            "connection",
        ),
        (json!({"keys": secret, "from": {"cookie": "a", "query": "b"}}), "from", "exactly one of"),
        (json!({"keys": secret, "skip_paths": [{"exact": "open"}]}), "skip_paths[0]", ""),
    ] {
        let invalid = build_at(options.clone(), &Live::offline()).err().unwrap_or_default();
        let [only] = invalid.as_slice() else { panic!("{options}: {invalid:?}") };
        assert_eq!(only.path.to_string(), at, "{options}");
        assert!(only.message.contains(message) && !only.message.contains("hunter2"), "{options}: {only:?}");
    }
    for wrong in [json!({"algorithms": ["none"]}), json!({"algorithms": ["hs256"]}), json!({"audience": []})]
    {
        let mut options = json!({"keys": {"secret": SECRET}});
        options.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert!(serde_yaml::from_str::<Jwt>(&serde_yaml::to_string(&options).unwrap()).is_err(), "{wrong}");
    }
}

#[test]
fn a_token_that_was_verified_for_one_issuer_is_not_known_for_another() {
    let secret = json!({"secret": SECRET});
    let issuers = json!([
        {"issuer": "https://a.test", "keys": secret, "audience": "api"},
        {"issuer": "https://b.test", "keys": {"secret": format!("{SECRET}x")}},
    ]);
    let filter = build(json!({"issuers": issuers}));
    for iss in ["https://a.test", "https://b.test", "https://a.test"] {
        let mut claims = good();
        claims["iss"] = iss.into();
        let token = sign(&header(Algorithm::HS256), &claims.to_string(), Algorithm::HS256);
        let expected = if iss == "https://a.test" { 200 } else { 401 };
        assert_eq!(status(&filter, &token), expected, "{iss}");
    }
    let nobody = sign(&header(Algorithm::HS256), r#"{"iss":["https://a.test"],"exp":1}"#, Algorithm::HS256);
    assert_eq!(refused(&filter, &nobody).1, "the token's issuer is not accepted");
}

#[test]
fn a_secret_may_be_written_in_base64() {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    for secret in [STANDARD.encode(SECRET), URL_SAFE_NO_PAD.encode(SECRET)] {
        let filter = build(json!({"keys": {"secret": secret, "base64": true}}));
        assert_eq!(status(&filter, &token(Algorithm::HS256)), 200);
    }
}

#[test]
fn a_certificate_and_an_old_form_of_public_key_are_keys_too() {
    let pkcs1 = private(Algorithm::RS256).rsa().unwrap().public_key_to_pem_pkcs1().unwrap();
    let mut certificate = openssl::x509::X509::builder().unwrap();
    certificate.set_pubkey(private(Algorithm::RS256)).unwrap();
    let day = |days| openssl::asn1::Asn1Time::days_from_now(days).unwrap();
    certificate.set_not_before(&day(0)).unwrap();
    certificate.set_not_after(&day(1)).unwrap();
    certificate.sign(private(Algorithm::RS256), openssl::hash::MessageDigest::sha256()).unwrap();
    for pem in [pkcs1, certificate.build().to_pem().unwrap()] {
        let (_directory, path) = file("key.pem", pem);
        let filter = build(json!({"keys": {"public_key": path}}));
        assert_eq!(status(&filter, &token(Algorithm::RS256)), 200);
    }
}
