//! `metrics`: how finely the series of requests tell apart, and where they are pushed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    otlp::MetricsOtlp,
    units::{ByteSize, HumanDuration},
};

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// The bounds of histograms.
    pub buckets: Buckets,
    /// Which labels metrics have.
    pub labels: MetricLabels,
    /// A collector of OpenTelemetry to which all of them are pushed. Default: they are only scraped.
    pub otlp: Option<MetricsOtlp>,
}

/// Upper bounds of histograms' buckets, ascending, at most 30.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Buckets {
    /// Of requests, of their waits, and of upstreams. Default: 14 from 500us to 60s.
    pub duration: Option<Vec<HumanDuration>>,
    /// Of bodies. Default: 12 from 256B to 1GiB.
    pub size: Option<Vec<ByteSize>>,
}

/// Labels that cost many series.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MetricLabels {
    /// Tell `tidegate_requests_total` apart by the method; one that clients have made up is `other`.
    pub method: bool,
}
