//! `tracing`: whose traces go on, which are recorded, and where the spans go. Without it contexts pass untouched.

use std::{collections::BTreeMap, num::NonZeroU64, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::units::{ByteSize, HumanDuration, Rate, Ratio, Secret};

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tracing {
    /// In which forms contexts travel: they are read in this order, the first valid one wins, and all are written. Default:
    /// `OTEL_PROPAGATORS`, or `w3c`.
    pub propagate: Option<Vec<Propagate>>,
    /// Whose context goes on. Everybody else's request begins a new trace.
    pub accept: AcceptTrace,
    pub sample: Sample,
    /// What spans say of the query.
    pub query: SpanQuery,
    /// Attributes of our own, by name, with placeholders: at most 16, of at most 256 bytes each.
    pub attributes: BTreeMap<String, String>,
    /// Members of the baggage that become attributes.
    pub baggage_attributes: Vec<String>,
    /// How the client is told of its trace.
    pub respond: TellTrace,
    /// `service.name`. Default: `OTEL_SERVICE_NAME`, or `tidegate`.
    pub service: Option<String>,
    /// More of the resource that the spans are of, beside and over `OTEL_RESOURCE_ATTRIBUTES`.
    pub resource: BTreeMap<String, String>,
    /// The collector. Without it nothing is exported; ids go on, and into the access log, all the same.
    pub otlp: Option<Otlp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Propagate {
    /// `traceparent` and `tracestate`.
    W3c,
    /// The `X-B3-*` fields.
    B3,
    /// The field `b3`.
    B3Single,
    /// `baggage`, held to its limits.
    Baggage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AcceptTrace {
    #[default]
    Always,
    /// Of `trusted_proxies`.
    Trusted,
    Never,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sample {
    /// The share of traces that begin here. Default: `OTEL_TRACES_SAMPLER`, or 100%.
    pub new: Option<Ratio>,
    /// What is done with a trace that the caller has decided on.
    pub known: KnownTrace,
    /// Traces exported from here in all, so that a client's flag cannot flood the collector; `off` is no limit.
    pub at_most: TraceLimit,
    /// Of requests that are not sampled, export the spans of those that end so.
    pub also: AlsoSample,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample {
            new: None,
            known: KnownTrace::Follow,
            at_most: TraceLimit(Some(Rate::per_second_of(NonZeroU64::new(100).expect("100 is not 0")))),
            also: AlsoSample::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KnownTrace {
    /// As the caller did.
    #[default]
    Follow,
    /// By the share for new traces, whatever the caller did.
    Decide,
}

/// A rate, or `off`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceLimit(pub Option<Rate>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlsoSample {
    /// Those answered with 500 and above, or not at all.
    pub errors: bool,
    /// Those that took longer.
    pub slower_than: Option<HumanDuration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpanQuery {
    /// Nothing.
    #[default]
    Drop,
    /// The names, without their values.
    Redact,
    /// All of it, secrets included.
    Keep,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TellTrace {
    #[default]
    Off,
    /// `server-timing: trace;desc=00-...`, which browsers show.
    ServerTiming,
}

/// How spans are exported. What is left out is taken from the `OTEL_EXPORTER_OTLP_*` variables.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// The collector's URL. For HTTP `/v1/traces` is appended. Default: `OTEL_EXPORTER_OTLP_ENDPOINT`, or port 4318
    /// (gRPC: 4317) of this machine.
    pub endpoint: Option<String>,
    /// Default: `OTEL_EXPORTER_OTLP_PROTOCOL`, or `http/protobuf`.
    pub protocol: Option<OtlpProtocol>,
    pub headers: BTreeMap<String, Secret>,
    /// Default: `gzip`.
    pub compression: Option<OtlpCompression>,
    /// Of one attempt. Default: 10s.
    pub timeout: Option<HumanDuration>,
    pub tls: OtlpTls,
    /// Finished spans that may wait; beyond it they are dropped and counted.
    pub queue: ByteSize,
    /// Spans that are sent together at most. Default: 512.
    pub batch: Option<NonZeroU64>,
    /// Spans wait so long for others to be sent with. Default: 5s.
    pub every: Option<HumanDuration>,
    /// A batch is tried again for so long, then dropped and counted.
    pub give_up: HumanDuration,
}

impl Default for Otlp {
    fn default() -> Otlp {
        Otlp {
            endpoint: None,
            protocol: None,
            headers: BTreeMap::new(),
            compression: None,
            timeout: None,
            tls: OtlpTls::default(),
            queue: ByteSize::mib(8),
            batch: None,
            every: None,
            give_up: HumanDuration::from_secs(60),
        }
    }
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

/// `off`, or what a route does differently.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteTrace {
    /// Contexts pass untouched, and nothing is recorded.
    Off,
    #[serde(untagged)]
    On(RouteSample),
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSample {
    /// The share of traces that begin here.
    pub sample: Ratio,
}
