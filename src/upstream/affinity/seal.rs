//! The cookie of affinity: when it was given out, the endpoint, and a code that only this gateway's keys make (HMAC-SHA256).
//! The endpoint stands there as a digest under the same key, so that clients learn no address. The name of the upstream goes into
//! both: a cookie of one upstream says nothing at another.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use openssl::{
    hash::MessageDigest,
    memcmp,
    pkey::{PKey, Private},
    sign::Signer,
};

/// The first signs, all are good.
pub(super) struct Keys {
    upstream: Box<[u8]>,
    keys: Box<[PKey<Private>]>,
}

/// What a good cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The digest of an endpoint.
    pub home: u64,
    /// In seconds.
    pub age: u64,
    /// It was signed with a key that is on its way out.
    pub is_outdated: bool,
}

const TIME: usize = 4;
const HOME: usize = 8;
const CODE: usize = 16;
const LENGTH: usize = TIME + HOME + CODE;

const OF_COOKIES: &[u8] = b"tidegate affinity cookie 1\0";
const OF_ENDPOINTS: &[u8] = b"tidegate affinity endpoint 1\0";

impl Keys {
    /// `None` where OpenSSL takes none of them.
    pub(super) fn new<'k>(upstream: &str, secrets: impl Iterator<Item = &'k [u8]>) -> Option<Keys> {
        let keys: Result<Box<[_]>, _> = secrets.map(PKey::hmac).collect();
        let keys = keys.ok().filter(|keys| !keys.is_empty())?;
        Some(Keys { upstream: [upstream.as_bytes(), b"\0"].concat().into(), keys })
    }

    /// What `endpoint` is called in cookies, under each of the keys.
    pub(super) fn digests(&self, endpoint: &str) -> impl Iterator<Item = u64> {
        self.keys.iter().filter_map(move |key| self.digest(key, endpoint))
    }

    /// A cookie for `endpoint`. `now` is in seconds since 1970.
    pub(super) fn seal(&self, endpoint: &str, now: u64) -> Option<String> {
        let key = self.keys.first()?;
        let mut cookie = [0; LENGTH];
        // Good until 2106.
        cookie[..TIME].copy_from_slice(&u32::try_from(now).unwrap_or(u32::MAX).to_be_bytes());
        cookie[TIME..TIME + HOME].copy_from_slice(&self.digest(key, endpoint)?.to_be_bytes());
        let (said, code) = cookie.split_at_mut(TIME + HOME);
        code.copy_from_slice(self.code(key, OF_COOKIES, said)?.first_chunk::<CODE>()?);
        Some(BASE64_URL_SAFE_NO_PAD.encode(cookie))
    }

    /// `None` for what none of the keys has signed.
    pub(super) fn open(&self, cookie: &str, now: u64) -> Option<Opened> {
        // A little more than it takes, as the decoder wants to have it.
        let mut bytes = [0; LENGTH + 3];
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(cookie, &mut bytes).ok()?;
        if length != LENGTH {
            return None;
        }
        let (said, code) = bytes[..LENGTH].split_at(TIME + HOME);
        let is_of = |key| {
            let expected = self.code(key, OF_COOKIES, said);
            expected.is_some_and(|expected| memcmp::eq(&expected[..CODE], code))
        };
        let by = self.keys.iter().position(is_of)?;
        let made = u32::from_be_bytes(*said.first_chunk()?);
        let home = u64::from_be_bytes(*said.last_chunk()?);
        // Another gateway's clock may be ahead.
        Some(Opened { home, age: now.saturating_sub(made.into()), is_outdated: by > 0 })
    }

    fn digest(&self, key: &PKey<Private>, endpoint: &str) -> Option<u64> {
        Some(u64::from_be_bytes(*self.code(key, OF_ENDPOINTS, endpoint.as_bytes())?.first_chunk()?))
    }

    fn code(&self, key: &PKey<Private>, purpose: &[u8], what: &[u8]) -> Option<[u8; 32]> {
        let mut code = [0; 32];
        let mut signer = Signer::new(MessageDigest::sha256(), key).ok()?;
        [purpose, &self.upstream, what].iter().try_for_each(|part| signer.update(part)).ok()?;
        signer.sign(&mut code).ok()?;
        Some(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(upstream: &str, secrets: &[&str]) -> Keys {
        Keys::new(upstream, secrets.iter().map(|secret| secret.as_bytes())).unwrap()
    }

    #[test]
    fn a_cookie_says_its_endpoint_to_whoever_has_the_key_and_shows_no_address() {
        let ours = keys("app", &["new", "old"]);
        let cookie = ours.seal("10.0.0.1:80", 1000).unwrap();
        let home = ours.digests("10.0.0.1:80").next().unwrap();
        assert_eq!(ours.open(&cookie, 1060), Some(Opened { home, age: 60, is_outdated: false }));
        assert_eq!(ours.open(&cookie, 900).map(|opened| opened.age), Some(0), "another clock");
        let older = keys("app", &["old"]).seal("10.0.0.1:80", 1000).unwrap();
        let home = ours.digests("10.0.0.1:80").nth(1).unwrap();
        assert_eq!(ours.open(&older, 1000), Some(Opened { home, age: 0, is_outdated: true }));
        assert_eq!(cookie.len(), 38);
        assert!(!cookie.contains("10.0.0.1"));
    }

    #[test]
    fn forged_cut_off_and_foreign_cookies_say_nothing() {
        let ours = keys("app", &["key"]);
        let cookie = ours.seal("10.0.0.1:80", 1000).unwrap();
        for other in [keys("api", &["key"]), keys("app", &["another"])] {
            assert_eq!(other.open(&cookie, 1000), None);
        }
        for length in 0..cookie.len() {
            assert_eq!(ours.open(&cookie[..length], 1000), None);
        }
        for at in 0..cookie.len() {
            let mut forged = cookie.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(ours.open(&String::from_utf8(forged).unwrap(), 1000), None, "{at}");
        }
        for odd in ["", "=", "ü", &"A".repeat(38), &"A".repeat(4096), &format!("{cookie}A")] {
            assert_eq!(ours.open(odd, 1000), None);
        }
    }
}
