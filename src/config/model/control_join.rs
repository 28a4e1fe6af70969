//! `control.join` and `control.register`: whose registry is followed, and what is announced there.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    units::{HumanDuration, Secret},
    upstream_tls::UpstreamTls,
};

/// The control plane that tells this gateway of endpoints.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// `host:port` of each replica. They are tried in random order; a name stands for all its addresses.
    pub servers: Vec<String>,
    /// How the control plane is spoken to.
    #[serde(default)]
    pub protocol: ControlProtocol,
    /// How the servers are reached, as the endpoints of an upstream. Beyond loopback there has to be one.
    pub tls: Option<UpstreamTls>,
    /// By which the servers know this gateway, where it shows no certificate.
    pub token: Option<Secret>,
    /// The configuration to take, read as if this file included it. Default: none, only endpoints.
    pub config: Option<String>,
    /// What this gateway is called there, unlike any other. Default: the host's name and the admin port.
    pub node: Option<String>,
    /// What else is known of it there.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// At start: how long the servers are waited for before what was held from the last time is used.
    #[serde(default = "default_wait")]
    pub wait: HumanDuration,
    /// The folders below which `${file:...}` of a received configuration may read.
    #[serde(default)]
    pub secrets: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ControlProtocol {
    #[default]
    Tidegate,
    /// Not yet: an ADS server.
    Xds,
}

/// An instance that this process is, or speaks for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The name of the service.
    pub service: String,
    /// Whose health is told. Default: the instance is healthy while this process serves.
    pub upstream: Option<String>,
    /// Where others reach it: `ip:port` or `hostname:port`.
    pub advertise: String,
    /// Words by which instances are chosen.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Pairs by which instances are chosen.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Its share among the instances of the service.
    #[serde(default = "default_weight")]
    pub weight: u16,
    /// It is forgotten when nothing was heard of it for so long. It is heard of three times as often.
    #[serde(default = "default_ttl")]
    pub ttl: HumanDuration,
}

fn default_wait() -> HumanDuration {
    HumanDuration::from_secs(5)
}

fn default_weight() -> u16 {
    1
}

fn default_ttl() -> HumanDuration {
    HumanDuration::from_secs(30)
}
