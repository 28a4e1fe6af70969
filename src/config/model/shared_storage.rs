//! What the gateways of a fleet share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    control_serve::EtcdMembers,
    redis::Redis,
    units::{HumanDuration, Secret},
};

/// A Redis or an etcd that several gateways share. Exactly one of `redis` and `etcd`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedStorage {
    /// The URL of a Redis, or a map with `url`, `cluster` or `sentinel`.
    pub redis: Option<Redis>,
    /// The members of an etcd cluster, and how to speak to them.
    pub etcd: Option<EtcdMembers>,
    /// What all of it is encrypted with, the same for all gateways: 32 random characters or more.
    pub secret: Secret,
    /// Of all keys. Gateways with the same prefix are one fleet. Default for certificates: `tidegate:acme:` in Redis, `/tidegate/acme/` in etcd; for ticket keys, `tickets` in place of `acme`.
    pub prefix: Option<String>,
    /// How long one question may take.
    #[serde(default = "timeout")]
    pub timeout: HumanDuration,
}

fn timeout() -> HumanDuration {
    HumanDuration::from_secs(5)
}
