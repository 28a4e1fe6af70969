//! `api_key`: keys that tell which program is calling. What is kept is the SHA-256 of each: enough for keys that are long
//! and random, and cheap enough to be asked for with every request.
//!
//! The digest of what was sent is looked up, then compared in constant time. The lookup is by bytes that nobody can
//! choose without breaking SHA-256, so how long it takes tells nothing of a key.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header::WWW_AUTHENTICATE};
use openssl::{memcmp, sha::sha256};
use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{Path, Secret},
    filter::{
        Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response,
        shared::{
            credentials::{self, Credentials, Table},
            proven::ProvenHeader,
            spelling::{take_off, take_off_others},
        },
    },
};

/// Lets in who sends a known key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeys {
    /// Who is let in. Instead of `file`.
    #[serde(default)]
    keys: Vec<Known>,
    /// A file of lines `NAME:sha256:HEX`, read again when it changes.
    file: Option<PathBuf>,
    #[serde(default = "from")]
    from: From,
    /// The request header in which the upstream gets the key's name. What a client sends there is taken off.
    forward_name: Option<String>,
    /// Let the upstream see the key.
    #[serde(default)]
    forward_key: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Known {
    /// Whose key it is. One name may have several, so that they can be changed without a pause.
    name: String,
    /// `sha256:` and 64 hexadecimal digits.
    hash: Secret,
}

/// Where the key stands in a request: one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline, extend("minProperties" = 1, "maxProperties" = 1))]
struct From {
    /// The value of this header.
    header: Option<String>,
    /// The value of this parameter of the query.
    query: Option<String>,
}

fn from() -> From {
    From { header: Some("x-api-key".to_owned()), query: None }
}

impl Options for ApiKeys {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let listed: Vec<_> = self.keys.iter().map(|key| (key.name.as_str(), key.hash.expose())).collect();
        let keys = Credentials::build(&listed, "keys", self.file.as_deref(), at, live);
        let from = Place::new(self.from).map_err(|why| Invalid::new(at.key("from"), why));
        let forward_name = self.forward_name.as_deref().map(ProvenHeader::parse).transpose();
        let forward_name = forward_name.map_err(|why| Invalid::new(at.key("forward_name"), why));
        match (keys, from, forward_name) {
            (Ok(keys), Ok(from), Ok(forward_name)) => {
                Ok(Arc::new(Guard { keys, from, forward_name, forward_key: self.forward_key }))
            }
            (keys, from, forward_name) => {
                Err([keys.err(), from.err(), forward_name.err()].into_iter().flatten().collect())
            }
        }
    }
}

enum Place {
    Header(HeaderName),
    Query(String),
}

impl Place {
    fn new(from: From) -> Result<Place, String> {
        match from {
            From { header: Some(name), query: None } => {
                ProvenHeader::parse(&name).map(|header| Place::Header(header.name().clone()))
            }
            From { header: None, query: Some(name) } if !name.is_empty() => Ok(Place::Query(name)),
            From { header: None, query: Some(_) } => Err("a parameter of the query has a name".to_owned()),
            _ => Err("expected exactly one of `header` and `query`".to_owned()),
        }
    }

    /// The digest of the key, where there is exactly one. Of several, only the upstream knows which it would believe.
    fn digest(&self, headers: &HeaderMap, uri: &Uri) -> Option<[u8; 32]> {
        match self {
            Place::Header(name) => {
                let mut values = headers.get_all(name).iter();
                let (Some(value), None) = (values.next(), values.next()) else { return None };
                Some(sha256(value.as_bytes().trim_ascii()))
            }
            Place::Query(name) => {
                let mut values = pairs(uri).filter(|pair| names(pair, name));
                let (Some(pair), None) = (values.next(), values.next()) else { return None };
                let value = pair.split_once('=').map_or("", |(_, value)| value);
                Some(sha256(&percent_decode_str(value).collect::<Vec<u8>>()))
            }
        }
    }
}

fn pairs(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query().unwrap_or_default().split('&')
}

/// Decoded, as whoever reads the query will.
fn names(pair: &str, name: &str) -> bool {
    let written = pair.split_once('=').map_or(pair, |(written, _)| written);
    percent_decode_str(written).map(|byte| if byte == b'+' { b' ' } else { byte }).eq(name.bytes())
}

struct Keys(HashMap<[u8; 32], Arc<str>>);

impl Table for Keys {
    const KIND: &'static str = "keys";

    fn read<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Keys, (usize, String)> {
        let mut keys = HashMap::new();
        for (index, (name, hash)) in entries.enumerate() {
            let known = credentials::name(name).map_err(|why| (index, why))?;
            let digest =
                digest(hash.trim()).map_err(|why| (index, format!("the hash of `{name}`: {why}")))?;
            if keys.insert(digest, known).is_some() {
                return Err((index, format!("the key of `{name}` is there twice")));
            }
        }
        Ok(Keys(keys))
    }
}

fn digest(text: &str) -> Result<[u8; 32], &'static str> {
    const WRONG: &str =
        "it is not `sha256:` and 64 hexadecimal digits (make it with `printf %s KEY | sha256sum`)";
    let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64).ok_or(WRONG)?;
    let mut digest = [0; 32];
    for (byte, digits) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let digits =
            std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+')).ok_or(WRONG)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| WRONG)?;
    }
    if digest == sha256(b"") {
        return Err("it is the hash of nothing (was the variable empty?)");
    }
    Ok(digest)
}

struct Guard {
    keys: Credentials<Keys>,
    from: Place,
    forward_name: Option<ProvenHeader>,
    forward_key: bool,
}

impl Guard {
    fn authenticate(&self, exchange: &Exchange<'_>) -> Option<Arc<str>> {
        let given = self.from.digest(&exchange.request.headers, &exchange.request.uri)?;
        let keys = self.keys.current();
        let (known, name) = keys.0.get_key_value(&given)?;
        memcmp::eq(known, &given).then(|| name.clone())
    }
}

/// There is no registered scheme for keys, but a 401 must name one (RFC 9110, section 15.5.2).
const CHALLENGE: HeaderValue = HeaderValue::from_static("ApiKey");

impl Filter for Guard {
    fn phases(&self) -> Phases {
        Phases::REQUEST | Phases::FORWARD
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        if let Place::Header(name) = &self.from {
            take_off_others(exchange.request, name);
        }
        let Some(name) = self.authenticate(exchange) else {
            let is_missing = self.from.digest(&exchange.request.headers, &exchange.request.uri).is_none();
            exchange.facts.explain(if is_missing { "missing" } else { "unknown_key" });
            let mut response = Response::refusal(Reason::Unauthenticated, &exchange.request.headers);
            response.headers.push((WWW_AUTHENTICATE, CHALLENGE));
            return Ok(Flow::Reply(response));
        };
        if let Some(header) = &self.forward_name {
            header.prove(exchange, HeaderValue::from_bytes(name.as_bytes()).ok())?;
        }
        exchange.facts.user = Some(name);
        Ok(Flow::Continue)
    }

    fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        match &self.from {
            _ if self.forward_key => {}
            Place::Header(name) => take_off(exchange.request, name),
            Place::Query(name) => {
                let uri = without(&exchange.request.uri, name).map_err(|_| Reason::Internal)?;
                exchange.request.set_uri(uri);
            }
        }
        match &self.forward_name {
            Some(header) => header.forward(exchange),
            None => Ok(()),
        }
    }
}

fn without(uri: &Uri, name: &str) -> Result<Uri, http::Error> {
    let rest: Vec<&str> = pairs(uri).filter(|pair| !names(pair, name)).collect();
    let path = uri.path();
    let target = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse()?);
    Ok(Uri::from_parts(parts)?)
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::filter::Facts;

    fn hash(key: &str) -> String {
        let digits: Vec<String> = sha256(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{}", digits.concat())
    }

    fn build(yaml: &str) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let options: ApiKeys = serde_yaml::from_str(yaml).unwrap();
        options.build(&Path::root(), &Live::offline())
    }

    fn guard(more: &str) -> Arc<dyn Filter> {
        let (old, new) = (hash("old-key"), hash("new-key"));
        build(&format!(
            "{{keys: [{{name: shop, hash: '{old}'}}, {{name: shop, hash: '{new}'}}], forward_name: x-consumer{more}}}"
        ))
        .unwrap()
    }

    fn request(target: &'static str, headers: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn is_let_in(guard: &dyn Filter, request: &mut RequestHeader, facts: &mut Facts) -> bool {
        let mut exchange = Exchange { request, response: None, facts };
        match guard.on_request(&mut exchange).unwrap() {
            Flow::Continue => true,
            Flow::Reply(response) => {
                assert_eq!((response.status.as_u16(), response.reason), (401, Some(Reason::Unauthenticated)));
                assert!(response.headers.iter().any(|(name, _)| *name == WWW_AUTHENTICATE));
                false
            }
        }
    }

    #[test]
    fn exactly_one_known_key_opens() {
        let (by_header, by_query) = (guard(""), guard(", from: {query: key}"));
        for (headers, let_in) in [
            (&[("x-api-key", "old-key")][..], true),
            (&[("X-Api-Key", "new-key")], true),
            (&[("x-api-key", "old-ke")], false),
            (&[("x-api-key", "")], false),
            (&[("x-api-key", "old-key"), ("x-api-key", "old-key")], false),
            (&[("x_api_key", "old-key")], false),
            (&[], false),
        ] {
            assert_eq!(
                is_let_in(&*by_header, &mut request("/", headers), &mut Facts::default()),
                let_in,
                "{headers:?}"
            );
        }
        for (target, let_in) in [
            ("/?key=old-key", true),
            ("/?a=b&k%65y=old%2Dkey", true),
            ("/?key=old-key&key=old-key", false),
            ("/?key=old-key&%6bey=x", false),
            ("/?Key=old-key", false),
            ("/?key=", false),
            ("/?key", false),
            ("/", false),
        ] {
            assert_eq!(
                is_let_in(&*by_query, &mut request(target, &[]), &mut Facts::default()),
                let_in,
                "{target}"
            );
        }
        let mut both = request("/", &[("x-api-key", "old-key")]);
        assert!(!is_let_in(&*by_query, &mut both, &mut Facts::default()), "looked for where it is not");
    }

    #[test]
    fn the_upstream_gets_the_name_and_not_the_key() {
        for (more, target, sent, seen) in [
            ("", "/?a=1", "old-key", "/?a=1"),
            (", from: {query: key}", "/x?a=1&k%65y=old-key&b=2", "none", "/x?a=1&b=2"),
            (", from: {query: key}", "/x?key=old-key", "none", "/x"),
        ] {
            let guard = guard(more);
            let forged = [("x-api-key", sent), ("x-consumer", "forged"), ("x_consumer", "forged")];
            let (mut request, mut facts) = (request(target, &forged), Facts::default());
            assert!(is_let_in(&*guard, &mut request, &mut facts));
            assert_eq!(facts.user.as_deref(), Some("shop"));
            let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
            guard.on_forward(&mut exchange).unwrap();
            assert_eq!(request.uri.to_string(), seen);
            assert_eq!(request.headers["x-consumer"], "shop");
            let left = [Some("none"), None][usize::from(sent == "old-key")];
            assert_eq!(request.headers.get("x-api-key").map(|key| key.to_str().unwrap()), left);
            assert!(!request.headers.contains_key("x_consumer"));
        }
    }

    #[test]
    fn refuses_what_is_no_hash_and_does_not_repeat_it() {
        let good = hash("k");
        for (yaml, path, message) in [
            ("{}".to_owned(), "", "nobody would be let in"),
            ("{keys: [{name: a, hash: hunter2}]}".to_owned(), "keys[0]", "printf %s KEY | sha256sum"),
            (format!("{{keys: [{{name: a, hash: '{}'}}]}}", &good[..70]), "keys[0]", "64 hexadecimal"),
            (
                format!("{{keys: [{{name: a, hash: '{}'}}]}}", good.replace("sha256", "sha512")),
                "keys[0]",
                "64 hex",
            ),
            (format!("{{keys: [{{name: a, hash: '{}'}}]}}", hash("")), "keys[0]", "the hash of nothing"),
            (
                format!("{{keys: [{{name: a, hash: '{good}'}}, {{name: b, hash: '{good}'}}]}}"),
                "keys[1]",
                "twice",
            ),
            (
                format!("{{from: {{header: 'a b'}}, keys: [{{name: a, hash: '{good}'}}]}}"),
                "from",
                "not a header name",
            ),
            (format!("{{from: {{query: ''}}, keys: [{{name: a, hash: '{good}'}}]}}"), "from", "has a name"),
            (
                format!("{{from: {{header: a, query: b}}, keys: [{{name: a, hash: '{good}'}}]}}"),
                "from",
                "exactly one of",
            ),
        ] {
            let invalid = build(&yaml).err().unwrap();
            let [only] = invalid.as_slice() else { panic!("{yaml}: {invalid:?}") };
            assert_eq!(only.path.to_string(), path, "{yaml}");
            assert!(only.message.contains(message) && !only.message.contains("hunter2"), "{only:?}");
            assert!(!only.message.contains(&good[..70]), "{only:?}");
        }
    }
}
