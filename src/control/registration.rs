//! What may be registered. What a caller has written becomes a [`Registration`] here and nowhere else, so that one that is
//! there is within all limits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    instance::{Health, Instance, Owner, Protocol},
    refused::{Reason, Refused},
};
use crate::{config::HumanDuration, upstream::Address};

pub(crate) const LONGEST_NAME: usize = 128;
/// A service, a host, a port, and two dashes.
pub(crate) const LONGEST_ID: usize = LONGEST_NAME + 253 + 7;
pub(crate) const MOST_TAGS: usize = 32;
pub(crate) const LONGEST_TAG: usize = 64;
pub(crate) const MOST_PAIRS: usize = 32;
pub(crate) const LONGEST_KEY: usize = 64;
pub(crate) const LONGEST_VALUE: usize = 512;

/// `POST /v1/services`: `address`, or `host` and `port`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    /// The service: labels of lower-case letters, digits, `-` and `_`, with dots between them.
    pub(crate) name: String,
    /// `host:port`, `ip:port` or `[ip6]:port`.
    pub(crate) address: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    /// Default `name-host-port`, so that a restart is no second instance.
    pub(crate) id: Option<String>,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, String>,
    /// Without a heartbeat for so long, the instance expires.
    pub(crate) ttl: Option<HumanDuration>,
    /// Its share of the requests, among the instances of its service. 0 gets none. Default 1.
    pub(crate) weight: Option<u16>,
    pub(crate) protocol: Option<Protocol>,
    #[serde(default)]
    pub(crate) health: Health,
}

/// Which TTLs are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ttls {
    pub(crate) default: Duration,
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Registration {
    pub(crate) id: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) ttl: Duration,
    pub(crate) weight: u16,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) health: Health,
}

impl Registration {
    /// # Errors
    ///
    /// What is wrong with it: `bad_request`, or `too_large`.
    pub(crate) fn read(written: Written, ttls: &Ttls) -> Result<Registration, Refused> {
        check_name(&written.name)?;
        let (host, port) = place(&written)?;
        check_tags(&written.tags)?;
        check_metadata(&written.metadata)?;
        let ttl = written.ttl.map_or(ttls.default, Duration::from);
        if !(ttls.min..=ttls.max).contains(&ttl) {
            let [given, min, max] = [ttl, ttls.min, ttls.max].map(HumanDuration::from);
            return Err(
                Reason::BadRequest.because(format!("a ttl of {given} is not between {min} and {max}"))
            );
        }
        let id = match written.id {
            Some(id) => id,
            None => format!("{}-{host}-{port}", written.name),
        };
        check_id(&id)?;
        Ok(Registration {
            id: id.into(),
            name: written.name.into(),
            host: host.into(),
            port,
            tags: written.tags.into_iter().collect(),
            metadata: written.metadata,
            ttl,
            weight: written.weight.unwrap_or(1),
            protocol: written.protocol,
            health: written.health,
        })
    }
}

impl Registration {
    pub(crate) fn instance(self, owner: Owner, now: SystemTime) -> Instance {
        let Registration { id, name, host, port, tags, metadata, ttl, weight, protocol, health } = self;
        Instance {
            id,
            name,
            host,
            port,
            tags,
            metadata,
            weight,
            protocol,
            ttl,
            health,
            draining: false,
            held: false,
            damped: None,
            owner,
            revision: 0,
            registered: now,
            since: now,
        }
    }
}

/// # Errors
///
/// It is not the name of a service.
pub(crate) fn check_name(name: &str) -> Result<(), Refused> {
    if name.len() > LONGEST_NAME {
        return Err(too_large(format!("a service's name has at most {LONGEST_NAME} bytes")));
    }
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_plain);
    if name.split('.').all(is_label) {
        return Ok(());
    }
    let why = format!("{name:?} is not the name of a service");
    Err(Reason::BadRequest.because(format!(
        "{why} (labels of lower-case letters, digits, `-` and `_`, with dots between, such as \"cart.shop\")"
    )))
}

/// # Errors
///
/// It cannot be an instance's.
pub(crate) fn check_id(id: &str) -> Result<(), Refused> {
    if id.len() > LONGEST_ID {
        return Err(too_large(format!("an id has at most {LONGEST_ID} bytes")));
    }
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:~".contains(&b);
    // `.` and `..` mean something else in a path.
    if !id.is_empty() && id.bytes().all(is_plain) && id.bytes().any(|b| b != b'.') {
        return Ok(());
    }
    Err(Reason::BadRequest.because(format!("{id:?} is not an id (letters, digits and `-_.:~`)")))
}

/// The host and the port that are written in one of two ways.
fn place(written: &Written) -> Result<(String, u16), Refused> {
    let bad = |why: String| Reason::BadRequest.because(why);
    let address = match (&written.address, &written.host, written.port) {
        (Some(address), None, None) => address.clone(),
        (None, Some(host), Some(port)) if host.contains(':') && !host.starts_with('[') => {
            format!("[{host}]:{port}")
        }
        (None, Some(host), Some(port)) => format!("{host}:{port}"),
        (None, Some(_), None) => return Err(bad("`port` is missing beside `host`".into())),
        (None, None, _) => {
            return Err(bad("say where it is: `address` (\"host:port\"), or `host` and `port`".into()));
        }
        (Some(_), ..) => return Err(bad("give `address`, or `host` and `port`, not both".into())),
    };
    match address.parse() {
        Ok(Address::Ip(ip)) if ip.ip().is_unspecified() || ip.ip().is_multicast() => Err(bad(format!(
            "address: {address:?} is no place to connect to (give the address others reach it at)"
        ))),
        Ok(Address::Ip(ip)) => Ok((ip.ip().to_string(), ip.port())),
        Ok(Address::Host { host, port }) => Ok((host, port)),
        Ok(Address::Unix(_)) => {
            Err(bad("address: others cannot reach a Unix socket (give \"host:port\")".into()))
        }
        Err(why) => Err(bad(format!("address: {why}"))),
    }
}

fn check_tags(tags: &[String]) -> Result<(), Refused> {
    if tags.len() > MOST_TAGS {
        return Err(too_large(format!("{} tags are more than {MOST_TAGS}", tags.len())));
    }
    for tag in tags {
        if tag.len() > LONGEST_TAG {
            return Err(too_large(format!("a tag has at most {LONGEST_TAG} bytes: {:?}", cut(tag))));
        }
        check_text("a tag", tag)?;
    }
    Ok(())
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Refused> {
    if metadata.len() > MOST_PAIRS {
        return Err(too_large(format!("{} pairs of metadata are more than {MOST_PAIRS}", metadata.len())));
    }
    for (key, value) in metadata {
        if key.len() > LONGEST_KEY {
            return Err(too_large(format!(
                "a key of metadata has at most {LONGEST_KEY} bytes: {:?}",
                cut(key)
            )));
        }
        if value.len() > LONGEST_VALUE {
            return Err(too_large(format!("metadata.{key}: a value has at most {LONGEST_VALUE} bytes")));
        }
        check_text("a key of metadata", key)?;
        if value.chars().any(char::is_control) {
            return Err(
                Reason::BadRequest.because(format!("metadata.{key}: a value holds no control characters"))
            );
        }
    }
    Ok(())
}

fn check_text(what: &str, text: &str) -> Result<(), Refused> {
    if !text.is_empty() && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Reason::BadRequest
        .because(format!("{what} is not empty and holds no control characters: {:?}", cut(text))))
}

fn too_large(why: String) -> Refused {
    Reason::TooLarge.because(why)
}

/// Enough of it to be recognised.
fn cut(text: &str) -> String {
    text.chars().take(LONGEST_TAG).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const TTLS: Ttls = Ttls {
        default: Duration::from_secs(30),
        min: Duration::from_secs(1),
        max: Duration::from_secs(86_400),
    };

    fn read(json: serde_json::Value) -> Result<Registration, String> {
        let written = serde_json::from_value(json).map_err(|error| format!("bad_request: {error}"))?;
        Registration::read(written, &TTLS)
            .map_err(|refused| format!("{}: {}", refused.reason.code(), refused.why))
    }

    #[test]
    fn says_by_default_what_most_mean() {
        let read = read(json!({"name": "users", "address": "127.0.0.1:3001"})).unwrap();
        assert_eq!((&*read.id, &*read.host, read.port), ("users-127.0.0.1-3001", "127.0.0.1", 3001));
        assert_eq!((read.ttl, read.weight, read.health), (TTLS.default, 1, Health::Healthy));
    }

    #[test]
    fn an_address_is_written_in_either_of_two_ways() {
        for (json, host) in [
            (json!({"name": "a", "address": "Users.Internal:80"}), "users.internal"),
            (json!({"name": "a", "host": "users.internal", "port": 80}), "users.internal"),
            (json!({"name": "a", "address": "[::1]:80"}), "::1"),
            (json!({"name": "a", "host": "::1", "port": 80}), "::1"),
            (json!({"name": "a", "host": "[0:0::1]", "port": 80}), "::1"),
        ] {
            let read = read(json.clone()).unwrap_or_else(|why| panic!("{json}: {why}"));
            assert_eq!((&*read.host, read.port), (host, 80), "{json}");
        }
    }

    #[test]
    fn refuses_what_cannot_work_and_says_why() {
        let tags = |n: usize| (0..n).map(|n| n.to_string()).collect::<Vec<_>>();
        let pairs = |n: usize| (0..n).map(|n| (n.to_string(), "v")).collect::<BTreeMap<_, _>>();
        for (json, says) in [
            (json!({"address": "127.0.0.1:1"}), "bad_request: missing field `name`"),
            (json!({"name": "", "address": "a:1"}), "bad_request: \"\" is not the name"),
            (json!({"name": "Users", "address": "a:1"}), "bad_request: \"Users\" is not the name"),
            (json!({"name": "us ers", "address": "a:1"}), "bad_request"),
            (json!({"name": "a..b", "address": "a:1"}), "bad_request"),
            (json!({"name": "a/b", "address": "a:1"}), "bad_request"),
            (json!({"name": "a".repeat(129), "address": "a:1"}), "too_large"),
            (json!({"name": "a"}), "bad_request: say where it is"),
            (json!({"name": "a", "address": "users"}), "bad_request: address: \"users\" has no port"),
            (json!({"name": "a", "address": "http://users:80"}), "is a URL"),
            (json!({"name": "a", "address": "0.0.0.0:80"}), "is no place to connect to"),
            (json!({"name": "a", "address": "[::]:80"}), "is no place to connect to"),
            (json!({"name": "a", "address": "unix:/run/a.sock"}), "Unix socket"),
            (json!({"name": "a", "address": "users:0"}), "port from 1 to 65535"),
            (json!({"name": "a", "host": "users"}), "`port` is missing"),
            (json!({"name": "a", "host": "users", "port": 70_000}), "bad_request"),
            (json!({"name": "a", "host": "b", "port": 1, "address": "b:1"}), "not both"),
            (
                json!({"name": "a", "address": "b:1", "ttl": "0s"}),
                "bad_request: a ttl of 0s is not between 1s and 1day",
            ),
            (json!({"name": "a", "address": "b:1", "ttl": "-5s"}), "is not a duration"),
            (json!({"name": "a", "address": "b:1", "ttl": 30}), "durations carry a unit"),
            (json!({"name": "a", "address": "b:1", "ttl": "2d"}), "is not between"),
            (json!({"name": "a", "address": "b:1", "weight": -1}), "bad_request"),
            (json!({"name": "a", "address": "b:1", "tags": tags(33)}), "too_large: 33 tags are more than 32"),
            (
                json!({"name": "a", "address": "b:1", "tags": ["t".repeat(65)]}),
                "too_large: a tag has at most 64",
            ),
            (json!({"name": "a", "address": "b:1", "tags": [""]}), "bad_request"),
            (json!({"name": "a", "address": "b:1", "metadata": pairs(33)}), "too_large: 33 pairs"),
            (
                json!({"name": "a", "address": "b:1", "metadata": {"k": "v".repeat(513)}}),
                "too_large: metadata.k",
            ),
            (json!({"name": "a", "address": "b:1", "metadata": {"k": "a\nb"}}), "bad_request: metadata.k"),
            (json!({"name": "a", "address": "b:1", "id": "a/b"}), "bad_request: \"a/b\" is not an id"),
            (json!({"name": "a", "address": "b:1", "id": ".."}), "is not an id"),
            (json!({"name": "a", "address": "b:1", "id": "i".repeat(389)}), "too_large"),
            (json!({"name": "a", "address": "b:1", "health": "fine"}), "unknown variant `fine`"),
            (json!({"name": "a", "address": "b:1", "ports": 1}), "unknown field `ports`"),
        ] {
            let why = read(json.clone()).expect_err(&json.to_string());
            assert!(why.contains(says), "{json}: {why}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_within_the_limits(
            name in "\\PC{0,140}", address in "\\PC{0,40}:[0-9]{0,6}", tags in prop::collection::vec("\\PC{0,70}", 0..40),
        ) {
            let written = Written { name, address: Some(address), tags, ..Written::default() };
            if let Ok(read) = Registration::read(written, &TTLS) {
                prop_assert!(read.id.len() <= LONGEST_ID && read.tags.len() <= MOST_TAGS && read.port > 0);
                prop_assert!(check_id(&read.id).is_ok() && check_name(&read.name).is_ok());
            }
        }
    }
}
