//! Which upstream a request goes to, and what a consistent hash is taken of: the keys that keep a client where it is.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, header::COOKIE};

use crate::{
    config::{HashKey, SplitBy},
    snapshot::{Destination, Route, Split, Target},
};

/// A request's upstream, for all its tries, and the cookie that keeps its client there next time.
pub(super) struct Choice {
    pub destination: Arc<Destination>,
    pub cookie: Option<HeaderValue>,
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
        SplitBy::Cookie(name) => Some(match cookie(headers, name) {
            Some(value) => value.as_bytes().into(),
            None => {
                let key = format!("{:016x}", rng.u64(..));
                // For as long as the browser runs, and not for scripts: it means nothing to them.
                set_cookie =
                    HeaderValue::try_from(format!("{name}={key}; Path=/; HttpOnly; SameSite=Lax")).ok();
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

/// What a consistent hash is taken of; `None` when the request does not have it.
pub(crate) fn hash_key(key: &HashKey, headers: &HeaderMap, client: IpAddr) -> Option<Vec<u8>> {
    match key {
        HashKey::ClientIp => Some(client.to_string().into_bytes()),
        HashKey::Header(name) => headers.get(name).map(|value| value.as_bytes().to_vec()),
        HashKey::Cookie(name) => cookie(headers, name).map(|value| value.as_bytes().to_vec()),
    }
}

/// The value of a cookie (RFC 6265, section 4.2).
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let values = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_cookie_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; session=x=y".parse().unwrap());
        headers.append(COOKIE, "b=2".parse().unwrap());
        assert_eq!(cookie(&headers, "session"), Some("x=y"));
        assert_eq!(cookie(&headers, "b"), Some("2"));
        assert_eq!(cookie(&headers, "sess"), None);
    }

    #[test]
    fn a_request_without_the_key_has_no_hash() {
        let headers = HeaderMap::new();
        let client = "192.0.2.1".parse().unwrap();
        assert_eq!(hash_key(&HashKey::Header("x-user".into()), &headers, client), None);
        assert_eq!(hash_key(&HashKey::ClientIp, &headers, client), Some(b"192.0.2.1".to_vec()));
    }
}
