//! Applications that OpenTelemetry's own SDK instruments, on both ends: their spans and ours are one trace, in whichever form
//! its context travels.

use std::{net::SocketAddr, process::Output};

use super::Taken;
use crate::{
    sidecar,
    support::{
        Gateway, Yaml,
        collector::Collector,
        python::{PythonServer, script},
    },
};

const SCRIPT: &str = "otel_apps.py";
const FORMS: [&str; 3] = ["tracecontext", "b3", "b3multi"];

fn tracing(collector: &Collector) -> String {
    let otlp = format!("{{endpoint: '{}', every: 10ms}}", collector.url());
    format!("tracing: {{propagate: [w3c, b3_single, b3], otlp: {otlp}}}\n")
}

/// The traces of a client that asks at `address` once in each form.
async fn ask(collector: &Collector, address: SocketAddr, host: &str) -> Vec<String> {
    let mut client = script(SCRIPT);
    client.args(["ask", &collector.url(), &format!("http://{address}"), host]).args(FORMS);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || client.output().unwrap()).await.unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap().lines().map(str::to_owned).collect()
}

/// From its root, each span and the one that continues it: whose it is, and of which kind.
fn chain(spans: &[Taken], trace: &str) -> Vec<(String, i32)> {
    let of_trace: Vec<_> = spans.iter().filter(|span| span.trace() == trace).collect();
    let mut chain = Vec::new();
    let mut parent = String::new();
    while let Some(next) = of_trace.iter().find(|span| span.parent() == parent) {
        chain.push((next.resource["service.name"].clone(), next.span.kind));
        parent = next.id();
    }
    assert_eq!(chain.len(), of_trace.len(), "a parent is missing: {of_trace:#?}");
    chain
}

/// A client's span, `gateways` with a span towards either side, and a server's.
fn assert_one_trace(spans: &[Taken], traces: &[String], gateways: usize) {
    assert_eq!(traces.len(), FORMS.len());
    let (server, client) = (2, 3);
    let mut expected = vec![("client".to_owned(), client)];
    for _ in 0..gateways {
        expected.extend([("tidegate".to_owned(), server), ("tidegate".to_owned(), client)]);
    }
    expected.push(("server".to_owned(), server));
    for (form, trace) in FORMS.iter().zip(traces) {
        assert_eq!(chain(spans, trace), expected, "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instrumented_applications_and_the_gateway_between_them_make_one_trace() {
    let collector = Collector::start().await;
    let server = PythonServer::start(SCRIPT, &["serve", &collector.url()]).await;
    let gateway = Yaml::to(server.address()).top(&tracing(&collector)).start().await;
    let traces = ask(&collector, gateway.address("main"), "a").await;
    let spans = collector.spans(4 * FORMS.len()).await;
    assert_one_trace(&spans, &traces, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_do_through_a_pair_of_sidecars() {
    let (collector, authority) = (Collector::start().await, sidecar::authority().await);
    let server = PythonServer::start(SCRIPT, &["serve", &collector.url()]).await;
    let tracing = tracing(&collector);
    let inbound = sidecar::inbound_yaml(&authority, "payments", server.address()) + &tracing;
    let inbound = Gateway::start(&inbound).await;
    let outbound = sidecar::outbound_yaml(&authority, "orders", inbound.address("inbound")) + &tracing;
    let outbound = Gateway::start(&outbound).await;
    let traces = ask(&collector, outbound.address("outbound"), "payments").await;
    let spans = collector.spans(6 * FORMS.len()).await;
    assert_one_trace(&spans, &traces, 2);
}
