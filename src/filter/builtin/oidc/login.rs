//! A login under way, without a word of it kept here. The browser has a secret of its own in a cookie; `state` is sealed and bound to it,
//! and nonce and PKCE verifier are derived from it. So an answer counts in the browser that asked, and nowhere else, and however many logins
//! somebody begins, all that they leave is one cookie.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openssl::{error::ErrorStack, pkey::PKey, rand::rand_bytes, sha::sha256};
use percent_encoding::percent_decode_str;

use crate::filter::builtin::oidc::{
    seal::{Sealer, bind, mac},
    trouble::Trouble,
};

/// So long may a user take, in seconds.
pub(super) const LIFETIME: u64 = 600;
/// The secret of a browser.
const SECRET: usize = 32;
const ID: usize = 16;
/// A longer path is not returned to: URLs have bounds everywhere.
const LONGEST_PATH: usize = 1_024;

/// What is the same at both ends of a login.
pub(super) struct Ends<'e> {
    pub issuer: &'e str,
    pub client_id: &'e str,
    pub redirect_uri: &'e str,
}

/// What a login is begun with.
pub(super) struct Begun {
    pub state: String,
    pub nonce: String,
    /// Of the verifier, as S256 has it (RFC 7636, section 4.2).
    pub challenge: String,
}

/// What an answer that counts continues.
#[derive(Debug, PartialEq)]
pub(super) struct Continued {
    pub nonce: String,
    pub verifier: String,
    /// A path of this origin.
    pub return_to: String,
}

/// The secret of the browser where it has one, else a new one.
///
/// # Errors
///
/// There is no randomness.
pub(super) fn secret(held: Option<Vec<u8>>) -> Result<Vec<u8>, ErrorStack> {
    if let Some(held) = held.filter(|held| held.len() == SECRET) {
        return Ok(held);
    }
    let mut secret = vec![0; SECRET];
    rand_bytes(&mut secret)?;
    Ok(secret)
}

/// `return_to` is where the browser wants to go; `now` is in seconds since 1970.
///
/// # Errors
///
/// There is no randomness.
pub(super) fn begin(
    sealer: &Sealer,
    ends: &Ends<'_>,
    secret: &[u8],
    return_to: &str,
    now: u64,
) -> Result<Begun, ErrorStack> {
    let mut id = [0; ID];
    rand_bytes(&mut id)?;
    let text = [&now.to_be_bytes()[..], &id, local(return_to).as_bytes()].concat();
    let state = sealer.seal(&bound(ends, secret), &text)?;
    Ok(Begun {
        state: URL_SAFE_NO_PAD.encode(state),
        nonce: derived(secret, b"nonce", &id)?,
        challenge: URL_SAFE_NO_PAD.encode(sha256(derived(secret, b"verifier", &id)?.as_bytes())),
    })
}

/// # Errors
///
/// The state is not from here, not for this browser, or too old.
pub(super) fn resume(
    sealer: &Sealer,
    ends: &Ends<'_>,
    secret: &[u8],
    state: &str,
    now: u64,
) -> Result<Continued, Trouble> {
    let sealed = URL_SAFE_NO_PAD.decode(state).map_err(|_| Trouble::State)?;
    let opened = sealer.open(&bound(ends, secret), &sealed).ok_or(Trouble::State)?;
    let (began, rest) = opened.text.split_first_chunk().ok_or(Trouble::State)?;
    let (id, return_to) = rest.split_at_checked(ID).ok_or(Trouble::State)?;
    // The clock of another gateway may be ahead.
    if now > u64::from_be_bytes(*began).saturating_add(LIFETIME) {
        return Err(Trouble::Late);
    }
    Ok(Continued {
        nonce: derived(secret, b"nonce", id)?,
        verifier: derived(secret, b"verifier", id)?,
        return_to: local(std::str::from_utf8(return_to).unwrap_or_default()).to_owned(),
    })
}

fn bound(ends: &Ends<'_>, secret: &[u8]) -> Vec<u8> {
    let ends = [ends.issuer, ends.client_id, ends.redirect_uri].map(str::as_bytes);
    bind(&[b"state", ends[0], ends[1], ends[2], secret])
}

fn derived(secret: &[u8], what: &[u8], id: &[u8]) -> Result<String, ErrorStack> {
    Ok(URL_SAFE_NO_PAD.encode(mac(&PKey::hmac(secret)?, &[what, id])?))
}

/// A path and query of this origin: any other text is the root. Browsers read `//host` and `/\host` as another host, and pass over tabs and
/// line ends on the way there.
pub(super) fn local(path: &str) -> &str {
    let is_local = path.starts_with('/')
        && !path[1..].starts_with(['/', '\\'])
        && path.len() <= LONGEST_PATH
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_local { path } else { "/" }
}

/// The fields of an answer, or of a logout token's form, each of which may stand there once (RFC 6749, section 3.1).
///
/// # Errors
///
/// One stands there twice, or is not text.
pub(super) fn field(query: &str, name: &str) -> Result<Option<String>, Trouble> {
    let mut found = None;
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !percent_decode_str(key).eq(name.bytes()) {
            continue;
        }
        let value = value.replace('+', " ");
        let value = percent_decode_str(&value).decode_utf8().map_err(|_| Trouble::State)?.into_owned();
        if found.replace(value).is_some() {
            return Err(Trouble::State);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Ends<'static> =
        Ends { issuer: "https://id.test", client_id: "shop", redirect_uri: "https://a.test/callback" };

    fn sealer() -> Sealer {
        Sealer::new(b"one", None).unwrap()
    }

    #[test]
    fn an_answer_counts_in_the_browser_that_asked_at_the_place_and_for_the_provider_it_asked_for() {
        let (sealer, secret) = (sealer(), secret(None).unwrap());
        let begun = begin(&sealer, &ENDS, &secret, "/orders?id=7", 1_000).unwrap();
        let resumed = resume(&sealer, &ENDS, &secret, &begun.state, 1_600).unwrap();
        assert_eq!((resumed.nonce, resumed.return_to.as_str()), (begun.nonce, "/orders?id=7"));
        assert_eq!(URL_SAFE_NO_PAD.encode(sha256(resumed.verifier.as_bytes())), begun.challenge);
        assert_eq!(resume(&sealer, &ENDS, &secret, &begun.state, 1_601), Err(Trouble::Late));
        for (ends, secret, state) in [
            (Ends { issuer: "https://evil.test", ..ENDS }, &secret[..], begun.state.as_str()),
            (Ends { client_id: "bank", ..ENDS }, &secret, &begun.state),
            (Ends { redirect_uri: "https://b.test/callback", ..ENDS }, &secret, &begun.state),
            (ENDS, &[7; SECRET], &begun.state),
            (ENDS, &secret, &begun.state[1..]),
            (ENDS, &secret, "é"),
            (ENDS, &secret, ""),
        ] {
            assert_eq!(resume(&sealer, &ends, secret, state, 1_000), Err(Trouble::State));
        }
        assert_eq!(super::secret(Some(secret.clone())).unwrap(), secret);
        assert_eq!(super::secret(Some(vec![1])).unwrap().len(), SECRET, "what is no secret is replaced");
    }

    #[test]
    fn two_logins_of_one_browser_have_nothing_in_common() {
        let (sealer, secret) = (sealer(), [7; SECRET]);
        let [one, two] = [0, 1].map(|_| begin(&sealer, &ENDS, &secret, "/", 0).unwrap());
        assert!(one.nonce != two.nonce && one.challenge != two.challenge && one.state != two.state);
    }

    #[test]
    fn a_browser_is_never_sent_to_another_origin() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b?c=https://evil.test/", "/a/b?c=https://evil.test/"),
            ("/a//b", "/a//b"),
            ("//evil.test", "/"),
            ("//evil.test/..", "/"),
            ("/\\evil.test", "/"),
            ("/a\\b", "/"),
            ("/\t/evil.test", "/"),
            ("/\r\nset-cookie: a", "/"),
            ("\\/evil.test", "/"),
            ("https://evil.test", "/"),
            ("javascript:alert(1)", "/"),
            ("evil", "/"),
            ("", "/"),
            ("/é", "/"),
        ] {
            assert_eq!(local(path), expected, "{path:?}");
        }
        assert_eq!(local(&format!("/{}", "a".repeat(LONGEST_PATH))), "/");
    }

    #[test]
    fn a_field_stands_in_an_answer_once() {
        let query = "code=a%2Bb+c&state=x&iss";
        assert_eq!(field(query, "code"), Ok(Some("a+b c".to_owned())));
        assert_eq!(field(query, "iss"), Ok(Some(String::new())));
        assert_eq!(field(query, "error"), Ok(None));
        for query in ["code=a&code=b", "code=a&c%6fde=b", "code=%ff"] {
            assert_eq!(field(query, "code"), Err(Trouble::State), "{query}");
        }
    }
}
