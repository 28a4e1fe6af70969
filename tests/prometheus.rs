//! What a real Prometheus makes of our metrics, exemplars included, and what strict readers of both formats find in them.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    Backend, Gateway, Yaml, collector::Collector, get, installed::installed, prometheus::Prometheus,
    python::python, send,
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";
const REQUESTS: usize = 5;

/// A gateway that has served and traced a few requests, of HTTP and of its own, and what has their spans.
async fn gateway() -> (Gateway, Collector, Backend) {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let otlp = format!("otlp: {{endpoint: '{}', every: 5ms}}", collector.url());
    let yaml = Yaml::to(backend.address())
        .route("retry: {}, hedge: {after: p95}, filters: [{request_id: {}}]")
        .settings("circuit_breaker: {}, outlier: {}, pool: {max_requests: 5}")
        .top(&format!("metrics: {{labels: {{method: true}}}}\ntracing: {{{otlp}}}"));
    let gateway = yaml.start().await;
    for _ in 0..REQUESTS {
        get(gateway.address("main"), "/status/200").await.assert_status(200);
    }
    collector.spans(2 * REQUESTS).await;
    (gateway, collector, backend)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_stores_series_and_exemplars_that_lead_to_traces() {
    let (gateway, collector, _backend) = gateway().await;
    let prometheus = Prometheus::start(gateway.admin()).await;
    let query =
        "/api/v1/query_exemplars?query=tidegate_request_duration_seconds_bucket&start=0&end=4102444800";
    let trace = prometheus
        .ask(query, |data| Some(data[0]["exemplars"][0]["labels"]["trace_id"].as_str()?.to_owned()))
        .await;
    assert!(collector.spans_now().iter().any(|span| span.trace() == trace), "{trace}");
    let first = |data: &Value| Some(data["result"][0]["value"][1].as_str()?.to_owned());
    let requests = prometheus.ask("/api/v1/query?query=sum(tidegate_requests_total)", first).await;
    assert_eq!(requests, REQUESTS.to_string());
    assert_eq!(prometheus.ask("/api/v1/query?query=up", first).await, "1");
    // It asked for the format that has exemplars, and found it whole.
    let target = prometheus.ask("/api/v1/targets", |data| Some(data["activeTargets"][0].clone())).await;
    assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()));
}

/// Exits well, says nothing, and is given `text`.
fn assert_content(mut command: Command, text: &str) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_readers_have_nothing_to_say_against_either_format() {
    let (gateway, _collector, _backend) = gateway().await;
    let text = get(gateway.admin(), "/metrics").await.text().to_owned();
    let mut promtool = installed("promtool");
    promtool.args(["check", "metrics"]);
    assert_content(promtool, &text);
    let answer = send(gateway.admin(), "GET", "/metrics", &[("accept", OPENMETRICS)], "").await;
    assert!(answer.header("content-type").unwrap().starts_with(OPENMETRICS));
    let openmetrics = answer.text();
    assert!(openmetrics.contains(" # {trace_id=\""), "{openmetrics}");
    let mut parser = Command::new(python());
    parser.args([
        "-c",
        "import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as read; \
         assert len(list(read(sys.stdin.read()))) > 20",
    ]);
    assert_content(parser, openmetrics);
}
