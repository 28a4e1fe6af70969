//! `tracing`: whose traces go on, which are recorded, and where the spans go. Without it contexts pass untouched.

use std::{collections::BTreeMap, num::NonZeroU64};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    otlp::Otlp,
    units::{HumanDuration, Rate, Ratio},
};

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tracing {
    /// In which forms contexts travel: they are read in this order, the first valid one wins, and all are written. Default:
    /// `OTEL_PROPAGATORS`, or `w3c`.
    pub propagate: Option<Vec<Propagate>>,
    /// Whose context goes on. Everybody else's request begins a new trace.
    pub accept: AcceptTrace,
    /// Which traces are recorded.
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
    /// More of the resource that spans, metrics and log records are of, beside and over `OTEL_RESOURCE_ATTRIBUTES`.
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
    /// What is done with a trace that the caller has decided on. Default: `OTEL_TRACES_SAMPLER`, or `follow`.
    pub known: Option<KnownTrace>,
    /// Traces exported from here in all, so that a client's flag cannot flood the collector; `off` is no limit.
    pub at_most: TraceLimit,
    /// Of requests that are not sampled, export the spans of those that end so.
    pub also: AlsoSample,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample {
            new: None,
            known: None,
            at_most: TraceLimit(Some(Rate::per_second_of(NonZeroU64::new(100).expect("100 is not 0")))),
            also: AlsoSample::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KnownTrace {
    /// As the caller did.
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
    /// Those answered with 500 and above, or not at all, and calls of gRPC that fail by their status.
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
