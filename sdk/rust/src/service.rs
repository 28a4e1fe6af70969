//! What is to be registered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Serialize, Serializer};

use crate::{
    duration,
    instance::{Health, Protocol},
};

/// An instance of a service that is to be registered. The control plane checks it.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    pub(crate) name: String,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    tags: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "milliseconds")]
    ttl: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    pub(crate) health: Health,
    #[serde(skip)]
    pub(crate) drain: Duration,
}

impl Service {
    /// An instance of `name` at `address`, `host:port` as others reach it.
    pub fn new(name: impl Into<String>, address: impl Into<String>) -> Service {
        Service {
            name: name.into(),
            address: address.into(),
            id: None,
            tags: BTreeSet::new(),
            metadata: BTreeMap::new(),
            ttl: None,
            weight: None,
            protocol: None,
            health: Health::Healthy,
            drain: Duration::from_secs(5),
        }
    }

    /// Default `name-host-port`, so that a restart is no second instance.
    pub fn id(self, id: impl Into<String>) -> Service {
        Service { id: Some(id.into()), ..self }
    }

    /// One more; at most 32.
    pub fn tag(mut self, tag: impl Into<String>) -> Service {
        self.tags.insert(tag.into());
        self
    }

    /// One more pair; at most 32.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Service {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Without a heartbeat for so long, the instance expires. Default: the control plane's, 30 s.
    pub fn ttl(self, ttl: Duration) -> Service {
        Service { ttl: Some(ttl), ..self }
    }

    /// Its share of the requests among the instances of the service. 0 gets none. Default 1.
    pub fn weight(self, weight: u16) -> Service {
        Service { weight: Some(weight), ..self }
    }

    /// What it speaks, for those who ask.
    pub fn protocol(self, protocol: Protocol) -> Service {
        Service { protocol: Some(protocol), ..self }
    }

    /// How it begins: [`Health::Critical`] while it still warms up. Default healthy.
    pub fn health(self, health: Health) -> Service {
        Service { health, ..self }
    }

    /// How long it goes on serving after it was deregistered, and gets nothing new. Default 5 s, at most 1 h.
    pub fn drain(self, drain: Duration) -> Service {
        Service { drain, ..self }
    }
}

fn milliseconds<S: Serializer>(ttl: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    ttl.map(duration::write).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_said_is_written() {
        let json = |service: &Service| serde_json::to_value(service).unwrap();
        let least = Service::new("users", "10.0.0.7:80");
        assert_eq!(
            json(&least),
            serde_json::json!({"name": "users", "address": "10.0.0.7:80", "health": "healthy"})
        );
        let most = least.id("u1").tag("v2").metadata("zone", "a").ttl(Duration::from_secs(3)).weight(0);
        let most = most.protocol(Protocol::Http2).health(Health::Critical).drain(Duration::ZERO);
        assert_eq!(
            json(&most),
            serde_json::json!({"name": "users", "address": "10.0.0.7:80", "id": "u1", "tags": ["v2"],
                "metadata": {"zone": "a"}, "ttl": "3000ms", "weight": 0, "protocol": "http2", "health": "critical"})
        );
    }
}
