//! Where a Redis is: one server by its URL, a cluster, or whichever server the sentinels call the master.

use std::{borrow::Cow, fmt, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

use crate::config::model::units::{SECRET, Secret};

/// A URL, or a map for what does not stand in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redis {
    Url(Secret),
    Servers(Box<RedisServers>),
}

/// Exactly one of `url`, `cluster` and `sentinel`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedisServers {
    /// Of one server: `redis://[user:password@]host:port[/database]`, `rediss://` over TLS, or `redis+unix:///path`.
    pub url: Option<Secret>,
    /// `host:port` of some nodes of a cluster. The others are found.
    pub cluster: Option<Vec<String>>,
    /// Follow the master that sentinels name.
    pub sentinel: Option<RedisSentinel>,
    /// With `password`, where the servers have more than one user.
    pub user: Option<String>,
    /// At the servers.
    pub password: Option<Secret>,
    /// The database's number. A cluster has none.
    pub database: Option<u32>,
    /// Speak TLS to the servers, and to the sentinels. With a `url`, write `rediss://` as well.
    pub tls: Option<RedisTls>,
}

/// Redis Sentinel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisSentinel {
    /// `host:port` of the sentinels.
    pub nodes: Vec<String>,
    /// What the sentinels call the master.
    pub master: String,
    /// With `password`, where the sentinels have more than one user.
    pub user: Option<String>,
    /// At the sentinels. That of the servers stands beside `sentinel`.
    pub password: Option<Secret>,
}

/// Files are read again for each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedisTls {
    /// PEM file of the authorities that may have issued the servers' certificates. Default: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate to present, with `key`.
    pub cert: Option<PathBuf>,
    /// PEM file of the private key for `cert`.
    pub key: Option<PathBuf>,
    /// The name in the servers' certificates, where it is not the host that is connected to.
    pub server_name: Option<String>,
}

impl<'de> Deserialize<'de> for Redis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Text is a secret here: a URL may hold a password.
        deserializer.deserialize_newtype_struct(SECRET, RedisVisitor)
    }
}

#[derive(Clone, Copy)]
struct RedisVisitor;

impl<'de> Visitor<'de> for RedisVisitor {
    type Value = Redis;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the URL of a Redis, or a map with `url`, `cluster` or `sentinel`")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Redis, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<Redis, E> {
        match url {
            "" => Err(E::custom("a secret cannot be empty")),
            url => Ok(Redis::Url(Secret::new(url))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Redis, A::Error> {
        // Whatever stands there may be a URL with its password.
        Vec::<Secret>::deserialize(SeqAccessDeserializer::new(items))?;
        Err(A::Error::custom(
            "several servers are a cluster, or have sentinels (try `{cluster: [\"redis-1:6379\"]}`)",
        ))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Redis, A::Error> {
        let servers = RedisServers::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Redis::Servers(Box::new(servers)))
    }
}

impl Serialize for Redis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Redis::Url(url) => url.serialize(serializer),
            Redis::Servers(servers) => servers.serialize(serializer),
        }
    }
}

impl JsonSchema for Redis {
    fn schema_name() -> Cow<'static, str> {
        "Redis".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (url, servers) = (generator.subschema_for::<Secret>(), generator.subschema_for::<RedisServers>());
        let description = "A Redis: `redis://[user:password@]host:port[/database]`, `rediss://` over TLS, `redis+unix:///path`, or a map.";
        json_schema!({"description": description, "anyOf": [url, servers]})
    }
}
