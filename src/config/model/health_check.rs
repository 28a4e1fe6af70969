//! `upstreams.*.health_check`: how endpoints are asked for their health.

use std::{collections::BTreeMap, num::NonZeroU32};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    short_forms::or_path,
    units::{HumanDuration, Ratio},
};

/// Exactly one of `http`, `tcp` and `grpc`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_path)]
pub struct HealthCheck {
    /// Ask for a path over HTTP.
    pub http: Option<HttpProbe>,
    /// Open a connection, and no more.
    pub tcp: Option<TcpProbe>,
    /// Ask `grpc.health.v1.Health`.
    pub grpc: Option<GrpcProbe>,
    /// The pause between probes.
    #[serde(default = "default_interval")]
    pub interval: HumanDuration,
    /// A probe that takes longer has failed.
    #[serde(default = "default_probe_timeout")]
    pub timeout: HumanDuration,
    /// Each pause is up to this share shorter or longer than `interval`, so that gateways do not probe in step.
    #[serde(default = "default_jitter")]
    pub jitter: Ratio,
    /// Failed probes in a row after which a healthy endpoint is taken out.
    #[serde(default = "default_unhealthy_after")]
    pub unhealthy_after: NonZeroU32,
    /// Good probes in a row after which an unhealthy endpoint is taken back. The first probe alone decides
    /// for an endpoint that has never been probed.
    #[serde(default = "default_healthy_after")]
    pub healthy_after: NonZeroU32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        HealthCheck {
            http: None,
            tcp: None,
            grpc: None,
            interval: default_interval(),
            timeout: default_probe_timeout(),
            jitter: default_jitter(),
            unhealthy_after: default_unhealthy_after(),
            healthy_after: default_healthy_after(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpProbe {
    /// The path that is asked for.
    pub path: String,
    /// A status, a range or several: `200`, `200-299`, `[200, 204, 300-399]`.
    pub expect: ExpectedStatuses,
    /// Default: the endpoint's address.
    pub host: Option<String>,
    /// Fields of the probe.
    pub headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcProbe {
    /// The service asked about in `grpc.health.v1.Health/Check`; empty asks about the whole server.
    pub service: String,
}

/// Inclusive ranges of HTTP statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedStatuses(pub Vec<(u16, u16)>);

impl ExpectedStatuses {
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&status))
    }
}

fn default_interval() -> HumanDuration {
    HumanDuration::from_secs(5)
}

fn default_probe_timeout() -> HumanDuration {
    HumanDuration::from_secs(2)
}

fn default_jitter() -> Ratio {
    Ratio::from_percent(10)
}

fn default_unhealthy_after() -> NonZeroU32 {
    const { NonZeroU32::new(3).unwrap() }
}

fn default_healthy_after() -> NonZeroU32 {
    const { NonZeroU32::new(2).unwrap() }
}

impl Default for HttpProbe {
    fn default() -> Self {
        HttpProbe {
            path: "/".into(),
            expect: ExpectedStatuses(vec![(200, 299)]),
            host: None,
            headers: BTreeMap::new(),
        }
    }
}
