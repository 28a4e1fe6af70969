//! Which upstream a request goes to, and what a consistent hash is taken of: the keys that keep a client where it is.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, header::SET_COOKIE};

use super::cookie;
use crate::{
    config::{HashCookie, HashKey, SplitBy},
    snapshot::{Destination, Route, Split, Target},
};

/// A request's upstream, for all its tries, and the cookie that keeps its client there next time.
pub(super) struct Choice {
    pub destination: Arc<Destination>,
    pub cookie: Option<HeaderValue>,
}

/// The cookie of a consistent hash for a client that came without it: what it goes by in this request, and in the next.
pub(crate) struct Issued {
    value: u64,
    set_cookie: HeaderValue,
    name: String,
}

impl Issued {
    /// What the client will send.
    pub(crate) fn value(&self) -> u64 {
        self.value
    }

    /// For the client; `None` where the upstream sets a cookie of this name itself, which is the one that counts.
    pub(crate) fn beside(self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut set = headers.get_all(SET_COOKIE).into_iter();
        set.all(|value| !cookie::sets(value, &self.name)).then_some(self.set_cookie)
    }
}

/// `None` where the request has the cookie, or there is none to give.
pub(super) fn issue(key: &HashKey, headers: &HeaderMap, rng: &mut fastrand::Rng) -> Option<Issued> {
    let HashKey::Cookie(settings) = key else { return None };
    if !settings.issue || cookie::find(headers, &settings.name).is_some() {
        return None;
    }
    let value = rng.u64(..);
    let set_cookie = cookie::write(settings.attributes(), &format!("{value:016x}"))?;
    Some(Issued { value, set_cookie, name: settings.name.clone() })
}

/// `None` for a route that answers by itself.
pub(super) fn choose(
    route: &Route,
    headers: &HeaderMap,
    client: IpAddr,
    rng: &mut fastrand::Rng,
) -> Option<Choice> {
    match &route.target {
        Target::Chain => None,
        Target::One(destination) => Some(Choice { destination: destination.clone(), cookie: None }),
        Target::Split(split) => Some(choose_variant(split, headers, client, rng)),
    }
}

fn choose_variant(split: &Split, headers: &HeaderMap, client: IpAddr, rng: &mut fastrand::Rng) -> Choice {
    let mut set_cookie = None;
    let key: Option<Cow<'_, [u8]>> = match &split.by {
        SplitBy::Random | SplitBy::RoundRobin => None,
        SplitBy::ClientIp => Some(client.to_string().into_bytes().into()),
        SplitBy::Header(name) => headers.get(name).map(|value| value.as_bytes().into()),
        SplitBy::Cookie(name) => Some(match cookie::find(headers, name) {
            Some(value) => value.as_bytes().into(),
            None => {
                let key = format!("{:016x}", rng.u64(..));
                set_cookie = cookie::write(HashCookie::named(name).attributes(), &key);
                key.into_bytes().into()
            }
        }),
    };
    let destination = split.choose(key.as_deref(), rng).clone();
    if let Some((_, counted)) = &destination.variant {
        counted.chosen();
    }
    Choice { destination, cookie: set_cookie }
}

/// What a consistent hash is taken of; `None` when the request does not have it. `issued` is the value of the cookie that its client
/// is given.
pub(crate) fn hash_key(
    key: &HashKey,
    headers: &HeaderMap,
    client: IpAddr,
    issued: Option<u64>,
) -> Option<Vec<u8>> {
    match key {
        HashKey::ClientIp => Some(client.to_string().into_bytes()),
        HashKey::Header(name) => headers.get(name).map(|value| value.as_bytes().to_vec()),
        HashKey::Cookie(settings) => match cookie::find(headers, &settings.name) {
            Some(value) => Some(value.as_bytes().to_vec()),
            None => issued.map(|value| format!("{value:016x}").into_bytes()),
        },
    }
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;
    use crate::config::SameSite;

    #[test]
    fn a_cookie_is_given_out_with_its_attributes_and_what_it_says_is_the_key_already() {
        let client = "192.0.2.1".parse().unwrap();
        let key = HashKey::Cookie(HashCookie {
            path: "/shop".into(),
            max_age: Some(crate::config::HumanDuration::from_secs(3600)),
            same_site: SameSite::None,
            secure: true,
            ..HashCookie::named("at")
        });
        let mut headers = HeaderMap::new();
        let issued = issue(&key, &headers, &mut fastrand::Rng::with_seed(7)).unwrap();
        let value = format!("{:016x}", issued.value());
        assert_eq!(hash_key(&key, &headers, client, Some(issued.value())), Some(value.clone().into_bytes()));
        let set_cookie = issued.beside(&HeaderMap::new()).unwrap();
        let expected = format!("at={value}; Path=/shop; Max-Age=3600; HttpOnly; SameSite=None; Secure");
        assert_eq!(set_cookie, expected);
        headers.append(COOKIE, "at=mine".parse().unwrap());
        assert!(issue(&key, &headers, &mut fastrand::Rng::new()).is_none());
        assert_eq!(hash_key(&key, &headers, client, None), Some(b"mine".to_vec()));
    }

    #[test]
    fn an_empty_cookie_is_none() {
        let key = HashKey::Cookie(HashCookie::named("at"));
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "at=; other=1".parse().unwrap());
        assert!(issue(&key, &headers, &mut fastrand::Rng::with_seed(7)).is_some());
        assert_eq!(hash_key(&key, &headers, "192.0.2.1".parse().unwrap(), None), None);
        headers.append(COOKIE, "at=mine".parse().unwrap());
        assert!(issue(&key, &headers, &mut fastrand::Rng::with_seed(7)).is_none());
    }

    #[test]
    fn no_cookie_is_given_out_beside_the_upstream_s_own_nor_where_that_is_off() {
        let key = HashKey::Cookie(HashCookie::named("at"));
        let mut rng = fastrand::Rng::with_seed(7);
        let (request, mut answer) = (HeaderMap::new(), HeaderMap::new());
        answer.append(SET_COOKIE, "atlas=1; Path=/".parse().unwrap());
        assert!(issue(&key, &request, &mut rng).unwrap().beside(&answer).is_some());
        answer.append(SET_COOKIE, "at=of-the-upstream; Path=/".parse().unwrap());
        assert!(issue(&key, &request, &mut rng).unwrap().beside(&answer).is_none());
        let off = HashKey::Cookie(HashCookie { issue: false, ..HashCookie::named("at") });
        assert!(issue(&off, &request, &mut rng).is_none());
        assert!(issue(&HashKey::ClientIp, &request, &mut rng).is_none());
    }

    #[test]
    fn a_request_without_the_key_has_no_hash() {
        let headers = HeaderMap::new();
        let client = "192.0.2.1".parse().unwrap();
        assert_eq!(hash_key(&HashKey::Header("x-user".into()), &headers, client, None), None);
        assert_eq!(hash_key(&HashKey::ClientIp, &headers, client, None), Some(b"192.0.2.1".to_vec()));
    }
}
