//! An instance of a service: what was registered, as everybody sees it.
//!
//! What may be registered is checked once, by `registration`; an `Instance` is never changed, a change is another one
//! with a later revision. Times are left out: when one is overdue is the registry's to know, by its own clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::identity::parse_id;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Instance {
    /// Unique in the whole registry.
    pub(crate) id: Arc<str>,
    /// The service.
    pub(crate) name: Arc<str>,
    /// An IP address without brackets, or a host name, in lower case.
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) weight: u16,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) ttl: Duration,
    /// As whoever registered it says.
    pub(crate) health: Health,
    /// It is about to leave: it gets nothing new.
    pub(crate) draining: bool,
    /// It is overdue, among so many others that this is more likely the network's doing: it stays as it was.
    pub(crate) held: bool,
    /// It turned so often that it is shown otherwise than it says, until it has been still for a while.
    pub(crate) damped: Option<Health>,
    pub(crate) owner: Owner,
    /// Of its last change.
    pub(crate) revision: u64,
    pub(crate) registered: SystemTime,
    /// Since when it is in this state.
    pub(crate) since: SystemTime,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Health {
    #[default]
    Healthy,
    Critical,
}

/// What an instance speaks, for those who ask. Upstreams have a `protocol` of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    Http1,
    Http2,
    Grpc,
    Tcp,
}

/// What everybody sees of an instance's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Healthy,
    Critical,
    Draining,
    Held,
}

/// Who registered an instance: nobody else may change it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// Nobody was asked, on loopback without rules.
    #[default]
    Anybody,
    Spiffe(Arc<str>),
    /// The token of this rule of `authorize`.
    Token(usize),
    /// This process, for its own sidecar.
    Gateway,
}

impl State {
    pub(crate) const ALL: [State; 4] = [State::Healthy, State::Critical, State::Draining, State::Held];

    pub(crate) fn word(self) -> &'static str {
        match self {
            State::Healthy => "healthy",
            State::Critical => "critical",
            State::Draining => "draining",
            State::Held => "held",
        }
    }
}

/// As it is shown, and as it stands in a file.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Anybody => f.write_str("anybody"),
            Owner::Spiffe(id) => f.write_str(id),
            Owner::Token(rule) => write!(f, "authorize[{rule}].token"),
            Owner::Gateway => f.write_str("gateway"),
        }
    }
}

impl Owner {
    /// What it has proved of itself.
    pub(crate) fn id(&self) -> Option<&str> {
        match self {
            Owner::Spiffe(id) => Some(id),
            Owner::Anybody | Owner::Token(_) | Owner::Gateway => None,
        }
    }

    /// Reads what `Display` has written; `None` where that was somebody else.
    pub(crate) fn parse(text: &str) -> Option<Owner> {
        match text {
            "anybody" => Some(Owner::Anybody),
            "gateway" => Some(Owner::Gateway),
            _ if parse_id(text).is_ok() => Some(Owner::Spiffe(text.into())),
            _ => {
                let rule = text.strip_prefix("authorize[")?.strip_suffix("].token")?;
                rule.parse().ok().map(Owner::Token)
            }
        }
    }
}

impl Instance {
    pub(crate) fn state(&self) -> State {
        match (self.draining, self.held, self.health()) {
            (true, ..) => State::Draining,
            (false, true, _) => State::Held,
            (false, false, Health::Healthy) => State::Healthy,
            (false, false, Health::Critical) => State::Critical,
        }
    }

    /// What gateways are to make of it: its weight, or nothing new. One that is held stays as it was, so that their
    /// own probes decide.
    pub(crate) fn takes_requests(&self) -> bool {
        !self.draining && self.health() == Health::Healthy
    }

    /// In memory, about.
    pub(crate) fn size(&self) -> usize {
        let tags: usize = self.tags.iter().map(String::len).sum();
        let pairs: usize = self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        size_of::<Instance>() + self.id.len() + self.name.len() + self.host.len() + tags + pairs
    }

    fn health(&self) -> Health {
        self.damped.unwrap_or(self.health)
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub(crate) fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `name` at 127.0.0.1 and `port`.
    pub(crate) fn instance(name: &str, port: u16) -> Instance {
        Instance {
            id: format!("{name}-127.0.0.1-{port}").into(),
            name: name.into(),
            host: "127.0.0.1".into(),
            port,
            tags: BTreeSet::new(),
            metadata: BTreeMap::new(),
            weight: 1,
            protocol: None,
            ttl: Duration::from_secs(30),
            health: Health::Healthy,
            draining: false,
            held: false,
            damped: None,
            owner: Owner::Anybody,
            revision: 0,
            registered: SystemTime::UNIX_EPOCH,
            since: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn draining_goes_before_held_and_that_before_health() {
        let healthy = instance("a", 1);
        let critical = Instance { health: Health::Critical, ..healthy.clone() };
        let damped = Instance { damped: Some(Health::Critical), ..healthy.clone() };
        let held = Instance { held: true, ..critical.clone() };
        let draining = Instance { draining: true, held: true, ..healthy.clone() };
        for (one, state, takes_requests) in [
            (healthy.clone(), State::Healthy, true),
            (critical, State::Critical, false),
            (damped, State::Critical, false),
            (Instance { held: true, ..healthy }, State::Held, true),
            (held, State::Held, false),
            (draining, State::Draining, false),
        ] {
            assert_eq!((one.state(), one.takes_requests()), (state, takes_requests), "{one:?}");
        }
    }

    #[test]
    fn an_ipv6_address_has_brackets() {
        assert_eq!(instance("a", 1).address(), "127.0.0.1:1");
        assert_eq!(Instance { host: "::1".into(), ..instance("a", 1) }.address(), "[::1]:1");
    }

    #[test]
    fn an_owner_is_read_as_it_was_written() {
        let id = Owner::Spiffe("spiffe://mesh.local/a".into());
        for owner in [Owner::Anybody, Owner::Gateway, Owner::Token(3), id] {
            assert_eq!(Owner::parse(&owner.to_string()), Some(owner));
        }
        assert_eq!(Owner::parse("spiffe://Mesh/a"), None);
        assert_eq!(Owner::parse("authorize[x].token"), None);
    }
}
