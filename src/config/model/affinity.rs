//! `affinity` of an upstream: what keeps the requests of one client at one endpoint.

use std::{borrow::Cow, fmt, num::NonZeroUsize};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::config::model::{
    one_or_map::forms,
    units::{HumanDuration, Secret},
    upstream::{HashCookie, SameSite},
};

/// `{cookie: NAME}`, `{header: NAME}`, or one of the two with a map.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// By a cookie that the gateway gives out, signed, with the endpoint in it.
    Cookie(AffinityCookie),
    /// By a header in which an endpoint tells its client the name of a session, such as `Mcp-Session-Id`.
    Header(AffinityHeader),
}

/// A bare string is its name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AffinityCookie {
    pub name: String,
    pub path: String,
    /// Default: as long as browsers run.
    pub max_age: Option<HumanDuration>,
    pub same_site: SameSite,
    /// Default: over TLS.
    pub secure: Option<bool>,
    /// The first signs, all are good. None: one of the gateway's own.
    pub keys: Vec<Secret>,
    /// Whether upstreams see it.
    pub forward: bool,
}

/// A bare string is its name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AffinityHeader {
    pub name: String,
    /// Since its last request.
    pub ttl: HumanDuration,
    pub max_sessions: NonZeroUsize,
    pub when_lost: WhenLost,
}

/// What becomes of a session whose endpoint cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenLost {
    /// Another endpoint takes its requests from then on.
    #[default]
    Move,
    /// 404 `session_lost`, at which clients of MCP begin a new session.
    NotFound,
}

/// How a cookie is given out.
#[derive(Clone, Copy, Debug)]
pub struct CookieAttributes<'a> {
    pub name: &'a str,
    pub path: &'a str,
    pub max_age: Option<HumanDuration>,
    pub same_site: SameSite,
    pub secure: bool,
}

impl HashCookie {
    pub fn attributes(&self) -> CookieAttributes<'_> {
        let HashCookie { name, issue: _, path, max_age, same_site, secure } = self;
        CookieAttributes { name, path, max_age: *max_age, same_site: *same_site, secure: *secure }
    }
}

impl AffinityCookie {
    /// To a client that came over TLS, as far as is known, or did not.
    pub fn attributes(&self, is_https: bool) -> CookieAttributes<'_> {
        let AffinityCookie { name, path, max_age, same_site, secure, keys: _, forward: _ } = self;
        let secure = secure.unwrap_or(is_https);
        CookieAttributes { name, path, max_age: *max_age, same_site: *same_site, secure }
    }
}

forms!(AffinityCookie, CookieVisitor, "a cookie's name as a string, or a map with `name`", {
    fn visit_str<E: Error>(self, name: &str) -> Result<AffinityCookie, E> {
        Ok(AffinityCookie {
            name: name.into(),
            path: root(),
            max_age: None,
            same_site: SameSite::default(),
            secure: None,
            keys: Vec::new(),
            forward: false,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AffinityCookie, A::Error> {
        let AffinityCookieForm { name, path, max_age, same_site, secure, keys, forward } =
            AffinityCookieForm::deserialize(MapAccessDeserializer::new(map))?;
        Ok(AffinityCookie { name, path, max_age, same_site, secure, keys, forward })
    }
});

/// The cookie that keeps a client at its endpoint.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AffinityCookieForm {
    /// The cookie's name. It is the gateway's alone: what an endpoint sets under this name reaches no client.
    name: String,
    /// The path that browsers send it for.
    #[serde(default = "root")]
    path: String,
    /// How long it is good; it is given out anew after half of that. Default: as long as the browser runs.
    max_age: Option<HumanDuration>,
    /// To which sites' requests browsers add it.
    #[serde(default)]
    same_site: SameSite,
    /// Browsers send it over HTTPS alone. Default: true for clients that come over TLS.
    secure: Option<bool>,
    /// What it is signed with, the same for all gateways: 32 random characters or more. The first signs, the others are still
    /// good. Default: one that the gateway makes, and keeps in `state_dir`.
    #[serde(default)]
    keys: Vec<Secret>,
    /// Endpoints see the cookie, too.
    #[serde(default)]
    forward: bool,
}

forms!(AffinityHeader, HeaderVisitor, "a header's name as a string, or a map with `name`", {
    fn visit_str<E: Error>(self, name: &str) -> Result<AffinityHeader, E> {
        Ok(AffinityHeader {
            name: name.into(),
            ttl: day(),
            max_sessions: many(),
            when_lost: WhenLost::default(),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AffinityHeader, A::Error> {
        let AffinityHeaderForm { name, ttl, max_sessions, when_lost } =
            AffinityHeaderForm::deserialize(MapAccessDeserializer::new(map))?;
        Ok(AffinityHeader { name, ttl, max_sessions, when_lost })
    }
});

/// The header that names a session.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AffinityHeaderForm {
    /// The header's name, in answers and in requests.
    name: String,
    /// How long a session is remembered after its last request.
    #[serde(default = "day")]
    ttl: HumanDuration,
    /// How many sessions are remembered: beyond, those that were used longest ago are forgotten. One takes about 100 bytes.
    #[serde(default = "many")]
    max_sessions: NonZeroUsize,
    /// What becomes of a session whose endpoint cannot be used.
    #[serde(default)]
    when_lost: WhenLost,
}

fn root() -> String {
    "/".into()
}

fn day() -> HumanDuration {
    HumanDuration::from_secs(24 * 3600)
}

fn many() -> NonZeroUsize {
    const { NonZeroUsize::new(100_000).unwrap() }
}

impl JsonSchema for AffinityCookie {
    fn schema_name() -> Cow<'static, str> {
        "AffinityCookie".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<AffinityCookieForm>();
        json_schema!({"description": "A bare string is its name.", "anyOf": [{"type": "string"}, map]})
    }
}

impl JsonSchema for AffinityHeader {
    fn schema_name() -> Cow<'static, str> {
        "AffinityHeader".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<AffinityHeaderForm>();
        json_schema!({"description": "A bare string is its name.", "anyOf": [{"type": "string"}, map]})
    }
}
