//! What is pushed to collectors beside spans: metrics, and the access log's records. The collector decodes them with
//! OpenTelemetry's own types.

mod checks;
mod ids;
mod logs;
mod metrics;
mod secrets;

use crate::support::{Backend, Gateway, Yaml, collector::Collector, get};

/// A gateway in front of a backend, with more at the top level.
async fn gateway(backend: &Backend, top: &str) -> Gateway {
    Yaml::to(backend.address()).top(top).start().await
}

/// Each protocol with the path at which a collector is asked for `signal`.
fn protocols(signal: &str) -> [(&'static str, String); 3] {
    let service = match signal {
        "metrics" => "metrics.v1.MetricsService",
        "logs" => "logs.v1.LogsService",
        other => panic!("{other}"),
    };
    let grpc = format!("/opentelemetry.proto.collector.{service}/Export");
    let http = format!("/v1/{signal}");
    [("grpc", grpc), ("http/protobuf", http.clone()), ("http/json", http)]
}
