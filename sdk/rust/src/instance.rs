//! An instance, as the control plane shows it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A registered instance of a service. What a newer control plane says beside this is passed over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// Unique in the registry.
    pub id: String,
    /// The service.
    pub name: String,
    /// `host:port`, with brackets around an IPv6 address.
    pub address: String,
    /// An IP address without brackets, or a host name.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// For whoever chooses by them.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// The same, with values.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Its share of the requests. 0 gets none.
    #[serde(default = "one")]
    pub weight: u32,
    /// What it speaks, where it says so.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// As it says itself.
    #[serde(default)]
    pub health: Health,
    /// As the control plane sees it.
    pub state: State,
    #[serde(default)]
    pub(crate) ttl: String,
}

/// How an instance is, in its own words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Health {
    /// It takes requests.
    #[default]
    Healthy,
    /// It is there, and is to get nothing new.
    Critical,
    /// A word of a newer control plane.
    #[serde(other, skip_serializing)]
    Other,
}

/// What an instance speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
    /// gRPC
    Grpc,
    /// Anything else
    Tcp,
    /// A word of a newer control plane.
    #[serde(other, skip_serializing)]
    Other,
}

/// The condition of an instance, as the control plane sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// It takes requests.
    Healthy,
    /// It gets nothing new.
    Critical,
    /// It is about to leave, and gets nothing new.
    Draining,
    /// It is overdue together with many others: it stays as it was.
    Held,
    /// A word of a newer control plane.
    #[serde(other)]
    Other,
}

impl Instance {
    /// Whether it is to get new requests.
    pub fn takes_requests(&self) -> bool {
        let is_well = match self.state {
            State::Healthy => true,
            State::Held => self.health == Health::Healthy,
            State::Critical | State::Draining | State::Other => false,
        };
        is_well && self.weight > 0
    }
}

fn one() -> u32 {
    1
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn instance(port: u16) -> Instance {
        let json = format!(
            r#"{{"id": "i{port}", "name": "users", "address": "127.0.0.1:{port}", "host": "127.0.0.1", "port": {port},
                "state": "healthy", "ttl": "30s"}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn what_a_newer_control_plane_says_is_no_mistake() {
        let json = r#"{"id": "a", "name": "a", "address": "h:1", "host": "h", "port": 1, "state": "resting", "health": "dizzy",
            "protocol": "quic", "zone": {"x": [1]}}"#;
        let instance: Instance = serde_json::from_str(json).unwrap();
        assert_eq!((instance.state, instance.health), (State::Other, Health::Other));
        assert_eq!((instance.protocol, instance.weight), (Some(Protocol::Other), 1));
        assert!(!instance.takes_requests());
    }

    #[test]
    fn one_that_is_held_stays_as_it_was() {
        let of = |state, health, weight| Instance { state, health, weight, ..instance(1) }.takes_requests();
        assert!(of(State::Healthy, Health::Healthy, 1) && of(State::Held, Health::Healthy, 1));
        assert!(!of(State::Held, Health::Critical, 1) && !of(State::Healthy, Health::Healthy, 0));
        assert!(!of(State::Draining, Health::Healthy, 1) && !of(State::Critical, Health::Healthy, 1));
    }
}
