//! Collectors of OpenTelemetry: where spans, metrics and the access log's records go. What is left out is taken from the
//! `OTEL_EXPORTER_OTLP_*` variables.

use std::{collections::BTreeMap, num::NonZeroU64, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::units::{ByteSize, HumanDuration, Secret};

/// How spans, or the access log's records, are exported.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// The collector's URL. For HTTP `/v1/traces` or `/v1/logs` is appended. Default: `OTEL_EXPORTER_OTLP_ENDPOINT`, or
    /// port 4318 (gRPC: 4317) of this machine.
    pub endpoint: Option<String>,
    /// Default: `OTEL_EXPORTER_OTLP_PROTOCOL`, or `http/protobuf`.
    pub protocol: Option<OtlpProtocol>,
    /// Fields of each request to the collector, such as a key.
    pub headers: BTreeMap<String, Secret>,
    /// Default: `none` for a collector on this machine, `gzip` otherwise.
    pub compression: Option<OtlpCompression>,
    /// Of one attempt. Default: 10s.
    pub timeout: Option<HumanDuration>,
    /// Whom to trust, and who we are, over `https://`.
    pub tls: OtlpTls,
    /// What may wait; beyond it records are dropped and counted. Default: 8MiB, of the access log its `buffer`.
    pub queue: Option<ByteSize>,
    /// Records that are sent together at most. Default: 512.
    pub batch: Option<NonZeroU64>,
    /// Records wait so long for others to be sent with. Default: 5s, of the access log 1s.
    pub every: Option<HumanDuration>,
    /// A batch is tried again for so long, then dropped and counted. Default: 60s.
    pub give_up: Option<HumanDuration>,
}

/// How metrics are pushed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsOtlp {
    /// The collector's URL. For HTTP `/v1/metrics` is appended. Default: `OTEL_EXPORTER_OTLP_ENDPOINT`, or port 4318
    /// (gRPC: 4317) of this machine.
    pub endpoint: Option<String>,
    /// Default: `OTEL_EXPORTER_OTLP_PROTOCOL`, or `http/protobuf`.
    pub protocol: Option<OtlpProtocol>,
    /// Fields of each request to the collector, such as a key.
    pub headers: BTreeMap<String, Secret>,
    /// Default: `none` for a collector on this machine, `gzip` otherwise.
    pub compression: Option<OtlpCompression>,
    /// Of one attempt. Default: 10s.
    pub timeout: Option<HumanDuration>,
    /// Whom to trust, and who we are, over `https://`.
    pub tls: OtlpTls,
    /// How often all of them are sent; so long one push is tried again. Default: `OTEL_METRIC_EXPORT_INTERVAL`, or 60s.
    pub every: Option<HumanDuration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum OtlpProtocol {
    #[serde(rename = "grpc")]
    Grpc,
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
    #[serde(rename = "http/json")]
    HttpJson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtlpCompression {
    Gzip,
    None,
}

/// Read when the configuration is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpTls {
    /// PEM: the authorities that the collector's certificate may be of. Default: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// PEM: a certificate that says who we are.
    pub cert: Option<PathBuf>,
    /// PEM: its key.
    pub key: Option<PathBuf>,
}
