//! One word for a request in logs, headers and traces.

use super::{Backend, Collector, Yaml};
use crate::support::{logged, send};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(flavor = "multi_thread")]
async fn the_request_s_id_can_be_that_of_its_trace() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let top = format!("tracing: {{otlp: {{endpoint: '{}', every: 10ms}}}}", collector.url());
    // The second route sees traces otherwise, and is found only by what a filter writes.
    let gateway = Yaml::to(backend.address())
        .top(&top)
        .listener("filters: [{request_id: {value: trace_id}}, {headers: {request: {set: {x-id: '{request_id}'}}}}]")
        .with_route("match: {path: /status/201, headers: {x-id: {present: true}}}, upstream: origin, trace: {sample: 100%}")
        .start()
        .await;
    let address = gateway.address("main");
    let known = send(address, "GET", "/status/200", &[("traceparent", TRACEPARENT)], "").await;
    assert_eq!(known.header("x-request-id"), Some(TRACE));
    let own = send(address, "GET", "/status/201", &[("x-request-id", "a-stranger-s")], "").await;
    let line = logged(&gateway, "/status/201").await;
    assert_eq!(own.header("x-request-id"), line["trace_id"].as_str());
    assert_eq!(line["request_id"], line["trace_id"]);
    let spans = collector.spans(4).await;
    let told = spans.iter().filter(|span| span.is_server());
    assert!(told.clone().all(|span| span.get("tidegate.request_id") == span.trace()), "{spans:?}");
}

/// A context that passes untouched is the client's word, which counts as the client's own id would.
#[tokio::test(flavor = "multi_thread")]
async fn without_tracing_a_stranger_does_not_choose_the_id() {
    let backend = Backend::start().await;
    for (accept, is_kept) in [("always", true), ("trusted", false), ("never", false)] {
        let route = format!("filters: [{{request_id: {{value: trace_id, accept: {accept}}}}}]");
        let gateway = Yaml::to(backend.address()).route(&route).start().await;
        let answer =
            send(gateway.address("main"), "GET", "/status/200", &[("traceparent", TRACEPARENT)], "").await;
        let id = answer.header("x-request-id").unwrap();
        assert_eq!(id == TRACE, is_kept, "{accept}");
        assert!(is_kept || uuid::Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == 7), "{id}");
    }
}
