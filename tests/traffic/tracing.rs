//! Traces: contexts that go on, a span for each request and each of its tries, and what becomes of them when the collector
//! does not take them.

mod accounts;
mod applications;
mod bad_input;
mod collectors;
mod contexts;
mod sampling;
mod tls;
mod variables;
mod zipkin;

use http::Method;

use super::{Client, Origin, Seen, yaml};
use crate::support::{
    Backend, Gateway, RawConnection, ScriptedUpstream, Step, Yaml,
    collector::{Collector, Reply, Taken},
    get,
    grpc::{GrpcServer, call},
    http2::Http2Client,
    logged, metric, wait_for_metric, within_deadline,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A gateway that traces as `tracing` says and exports to `collector`, as soon as it can.
async fn traced(
    tracing: &str,
    collector: &Collector,
    route: &str,
    upstreams: &[(&str, &[&Origin], &str)],
) -> Gateway {
    let otlp = format!("otlp: {{endpoint: '{}', every: 10ms, give_up: 1s}}", collector.url());
    let yaml = yaml(route, upstreams);
    Gateway::start(&format!("{yaml}tracing: {{{otlp}, {tracing}}}\n")).await
}

fn server(spans: &[Taken]) -> &Taken {
    spans.iter().find(|span| span.is_server()).expect("a span of the request")
}

fn tries(spans: &[Taken]) -> Vec<&Taken> {
    let mut tries: Vec<&Taken> = spans.iter().filter(|span| !span.is_server()).collect();
    tries.sort_by_key(|span| span.span.start_time_unix_nano);
    tries
}

/// The span in the `traceparent` that an upstream saw.
fn sent(seen: &Seen) -> String {
    seen.header("traceparent").unwrap()[36..52].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_and_its_try_another_which_the_upstream_continues() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let gateway = traced(
        "propagate: [w3c, baggage], attributes: {tenant: '{path.tenant}'}, baggage_attributes: [plan], resource: {deployment.environment.name: test}, service: edge",
        &collector,
        "upstream: u, match: {path: {template: '/t/{tenant}/{*rest}'}}",
        &[("u", &[&origin], "")],
    )
    .await;
    let mut client = Client::new(&gateway);
    client
        .send("GET", "/t/acme/x?token=secret", &[("traceparent", TRACEPARENT), ("baggage", "plan=pro")], "")
        .await
        .assert_status(200);
    let spans = collector.spans(2).await;
    let (server, tries) = (server(&spans), tries(&spans));
    assert_eq!((server.trace(), server.parent()), (TRACE.into(), CALLER.into()));
    assert_eq!((tries[0].trace(), tries[0].parent()), (TRACE.into(), server.id()));
    assert_eq!(sent(&origin.seen()[0]), tries[0].id(), "the upstream continues the try");
    assert!(spans.iter().all(|span| span.scope == "tidegate"));
    assert_eq!(server.span.name, "GET /t/{tenant}/{*rest}");
    assert_eq!(tries[0].span.name, "GET u");
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/t/acme/x"),
        ("url.scheme", "http"),
        ("http.route", "/t/{tenant}/{*rest}"),
        ("http.response.status_code", "200"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("tidegate.route", "r"),
        ("tidegate.upstream", "u"),
        ("tidegate.attempts", "1"),
        ("tenant", "acme"),
        ("plan", "pro"),
    ] {
        assert_eq!(server.get(key), value, "{key}");
    }
    for (key, value) in [
        ("http.response.status_code", "200"),
        ("network.peer.address", "127.0.0.1"),
        ("tidegate.attempt.kind", "first"),
        ("tidegate.attempt.outcome", "success"),
        ("tidegate.connection.reused", "false"),
    ] {
        assert_eq!(tries[0].get(key), value, "{key}");
    }
    assert_eq!(tries[0].get("url.full"), format!("http://{}/t/acme/x", origin.name()));
    assert!(!format!("{spans:?}").contains("secret"), "a query is not told");
    assert_eq!(server.resource["service.name"], "edge");
    assert_eq!(server.resource["deployment.environment.name"], "test");
    assert!(server.span.end_time_unix_nano >= tries[0].span.end_time_unix_nano);
    let line = logged(&gateway, "/t/acme/x").await;
    assert_eq!(line["trace_id"], TRACE);
    assert_eq!(line["span_id"], tries[0].id());
    assert_eq!((&line["parent_span_id"], &line["sampled"]), (&CALLER.into(), &true.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_try_of_a_request_has_a_span_of_its_own() {
    let (bad, good, collector) = (Origin::failing().await, Origin::start().await, Collector::start().await);
    let gateway = traced(
        "",
        &collector,
        "upstream: u, retry: {on: [5xx], backoff: {base: 1ms, max: 1ms}}",
        &[("u", &[&bad, &good], "balancer: round_robin")],
    )
    .await;
    let mut client = Client::new(&gateway);
    client.get("/1").await.assert_status(200);
    client.get("/2").await.assert_status(200);
    let spans = collector.spans(5).await;
    let tries = tries(&spans);
    let retried = tries.iter().find(|span| span.get("tidegate.attempt.kind") == "retry").unwrap();
    assert_eq!(retried.get("http.request.resend_count"), "1");
    let failed = tries.iter().find(|span| span.is_error()).unwrap();
    assert_eq!((failed.get("error.type"), failed.get("http.response.status_code")), ("503", "503"));
    assert_eq!(failed.trace(), retried.trace());
    assert_eq!(sent(&bad.seen()[0]), failed.id());
    assert!(spans.iter().filter(|span| span.is_server()).all(|span| !span.is_error()));
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_say_where_a_request_went_and_what_it_waited_for() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let gateway = traced(
        "",
        &collector,
        "split: {to: [{upstream: u}]}, retry: {attempts: 2, on: [5xx], backoff: {base: 1ms, max: 1ms}}",
        &[("u", &[&origin], "pool: {max_requests: 1, max_pending: 1, pending_timeout: 1h}")],
    )
    .await;
    origin.hold();
    let address = gateway.address("main");
    let first = tokio::spawn(get(address, "/first"));
    origin.wait_for_requests(1).await;
    let waiting = tokio::spawn(get(address, "/waiting"));
    wait_for_metric(&gateway, "tidegate_upstream_pending_requests", &["upstream=\"u\""], 1.0).await;
    origin.release();
    for answer in [first, waiting] {
        answer.await.unwrap().assert_status(200);
    }
    get(address, "/status/503").await.assert_status(503);
    let seconds = |span: &Taken, key: &str| span.get(key).parse::<f64>().unwrap();
    let spans = collector.spans(7).await;
    let of = |path: &str| spans.iter().find(|span| span.is_server() && span.get("url.path") == path).unwrap();
    let waited = of("/waiting");
    assert!(seconds(waited, "tidegate.wait.queue") > 0.0, "{waited:#?}");
    for (key, value) in [
        ("tidegate.listener", "main"),
        ("tidegate.upstream", "u"),
        ("tidegate.variant", "u"),
        ("tidegate.endpoint", &*origin.name()),
        ("server.address", "127.0.0.1"),
        ("server.port", &*address.port().to_string()),
        ("network.peer.address", "127.0.0.1"),
    ] {
        assert_eq!(waited.get(key), value, "{key}");
    }
    let failed = of("/status/503");
    assert_eq!((failed.get("error.type"), failed.get("tidegate.attempts")), ("503", "2"));
    let retry = tries(&spans).into_iter().find(|span| span.attributes.contains_key("tidegate.wait.backoff"));
    let retry = retry.expect("a try that was waited for");
    assert_eq!((retry.parent(), retry.get("tidegate.attempt.kind")), (failed.id(), "retry"));
    assert!(seconds(retry, "tidegate.wait.backoff") > 0.0, "{retry:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loser_of_a_hedge_is_cancelled_and_is_no_error() {
    let (slow, quick, collector) = (Origin::start().await, Origin::start().await, Collector::start().await);
    slow.hold();
    let gateway = traced(
        "",
        &collector,
        "upstream: u, hedge: {after: 1ms, budget: 100%}",
        &[("u", &[&slow, &quick], "balancer: round_robin")],
    )
    .await;
    let mut client = Client::new(&gateway);
    for path in ["/1", "/2"] {
        client.get(path).await.assert_status(200);
    }
    let spans = collector.spans(5).await;
    let tries = tries(&spans);
    let hedge = tries.iter().find(|span| span.get("tidegate.attempt.kind") == "hedge").unwrap();
    let of_hedged: Vec<_> = tries.iter().filter(|span| span.trace() == hedge.trace()).collect();
    let loser = of_hedged.iter().find(|span| span.get("tidegate.attempt.outcome") == "cancelled").unwrap();
    assert!(!loser.is_error() && !loser.attributes.contains_key("error.type"));
    assert_ne!(loser.id(), hedge.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrored_copy_has_a_span_of_its_own() {
    let (origin, shadow, collector) =
        (Origin::start().await, Origin::start().await, Collector::start().await);
    let gateway = traced(
        "",
        &collector,
        "upstream: u, mirror: {upstream: shadow, ratio: 100%}",
        &[("u", &[&origin], ""), ("shadow", &[&shadow], "")],
    )
    .await;
    Client::new(&gateway).get("/").await.assert_status(200);
    let spans = collector.spans(3).await;
    let copy = spans
        .iter()
        .find(|span| span.attributes.get("tidegate.attempt.kind").is_some_and(|kind| kind == "mirror"));
    let copy = copy.expect("a span of the copy");
    assert_eq!(copy.parent(), server(&spans).id());
    assert_eq!(copy.get("tidegate.upstream"), "shadow");
    assert_eq!(sent(&shadow.seen()[0]), copy.id());
    assert_ne!(sent(&origin.seen()[0]), copy.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_written_for_its_upstream_is_no_try() {
    for hedge in ["", ", hedge: {after: 10s}"] {
        let (origin, collector) = (Origin::start().await, Collector::start().await);
        let filters = "filters: [{headers: {request: {set: {x-q: '{query.a}'}}}}]";
        let route = format!("upstream: u, {filters}{hedge}");
        let gateway = traced("", &collector, &route, &[("u", &[&origin], "")]).await;
        Client::new(&gateway).get("/?a=%0d%0a").await.assert_reason(400, "unwritable_field");
        let line = gateway.wait_for_line(|line| line["reason"] == "unwritable_field").await;
        assert_eq!((&line["attempts"], &line["endpoint"]), (&0.into(), &serde_json::Value::Null), "{line}");
        let spans = collector.spans(1).await;
        assert!(tries(&spans).is_empty(), "{hedge}");
        assert_eq!(server(&spans).get("tidegate.attempts"), "0");
        assert_eq!(origin.requests(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_our_own_says_why() {
    let collector = Collector::start().await;
    let reset = ScriptedUpstream::start(vec![Step::ReadHead, Step::Reset]).await;
    let yaml = format!(
        "admin: {{address: '127.0.0.1:0'}}\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes:\n\
         - {{name: r, upstream: u, match: {{path: /r}}}}\n\
         upstreams:\n  u: {{endpoints: ['{}']}}\n\
         tracing: {{otlp: {{endpoint: '{}', every: 10ms}}}}\n",
        reset.address(),
        collector.url()
    );
    let gateway = Gateway::start(&yaml).await;
    let mut client = Client::new(&gateway);
    client.send("POST", "/r", &[], "").await.assert_reason(502, "upstream_reset");
    client.get("/none").await.assert_reason(404, "no_route");
    let spans = collector.spans(3).await;
    let failed = spans.iter().find(|span| span.is_server() && span.is_error()).unwrap();
    assert_eq!(
        (failed.get("error.type"), failed.get("tidegate.reason")),
        ("upstream_reset", "upstream_reset")
    );
    assert_eq!(tries(&spans)[0].get("error.type"), "upstream_reset");
    let lost =
        spans.iter().find(|span| span.span.name == "GET").expect("a request without a route is traced");
    assert!(!lost.is_error(), "it is the client's mistake");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_on_this_machine_is_compressed_only_where_that_is_asked_for() {
    for (compression, encoding) in [("", None), (", compression: gzip", Some("gzip"))] {
        let (origin, collector) = (Origin::start().await, Collector::start().await);
        let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
        let otlp = format!("{{endpoint: '{}', every: 10ms{compression}}}", collector.url());
        let gateway = Gateway::start(&format!("{yaml}tracing: {{otlp: {otlp}}}\n")).await;
        Client::new(&gateway).send("GET", "/", &[], "").await;
        collector.spans(2).await;
        let (_, fields) = collector.requests(1).await.remove(0);
        assert_eq!(fields.get("content-encoding").map(|value| value.as_bytes()), encoding.map(str::as_bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_s_token_comes_from_a_file_and_is_shown_nowhere() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("token"), "Bearer hunter2").unwrap();
    let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
    let headers = "headers: {authorization: '${file:token}'}";
    let otlp = format!("{{endpoint: '{}', every: 10ms, {headers}}}", collector.url());
    let gateway = Gateway::start_in(directory, &format!("{yaml}tracing: {{otlp: {otlp}}}\n"), &[]).await;
    Client::new(&gateway).get("/").await.assert_status(200);
    let (_, fields) = collector.requests(1).await.remove(0);
    assert_eq!(fields["authorization"], "Bearer hunter2");
    let shown = get(gateway.admin(), "/config").await;
    assert!(!shown.assert_status(200).text().contains("hunter2"), "{}", shown.text());
    assert!(!gateway.output().contains("hunter2") && !gateway.stderr().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_the_same_over_every_protocol() {
    for (protocol, path) in [
        ("grpc", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
        ("http/protobuf", "/v1/traces"),
        ("http/json", "/v1/traces"),
    ] {
        for compression in ["gzip", "none"] {
            let (origin, collector) = (Origin::start().await, Collector::start().await);
            let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
            let otlp = format!(
                "{{endpoint: '{}', protocol: {protocol}, compression: {compression}, every: 10ms, \
                 headers: {{authorization: Bearer of-the-test}}}}",
                collector.url()
            );
            let gateway = Gateway::start(&format!("{yaml}tracing: {{otlp: {otlp}}}\n")).await;
            let mut client = Client::new(&gateway);
            client.send("GET", "/", &[("traceparent", TRACEPARENT), ("tracestate", "a=b")], "").await;
            let spans = collector.spans(2).await;
            let server = server(&spans);
            assert_eq!((server.trace(), server.parent()), (TRACE.into(), CALLER.into()), "{protocol}");
            assert_eq!((server.span.trace_state.as_str(), server.get("tidegate.attempts")), ("a=b", "1"));
            assert_eq!((server.span.flags & 0xff, server.resource.contains_key("process.pid")), (1, true));
            let (asked, fields) = collector.requests(1).await.remove(0);
            assert_eq!(
                (asked.as_str(), &fields["authorization"]),
                (path, &"Bearer of-the-test".parse().unwrap())
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_span_is_exported_rejected_or_dropped_whatever_the_collector_does() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    collector.script(&[
        Reply::Status(400, &[]),
        Reply::Status(429, &[("retry-after", "0")]),
        Reply::Status(503, &[("retry-after", "0")]),
        Reply::Partial(1),
        Reply::Status(200, &[("content-type", "text/html")]),
        Reply::Status(302, &[("location", "/elsewhere")]),
    ]);
    let gateway = traced("sample: {at_most: off}", &collector, "upstream: u", &[("u", &[&origin], "")]).await;
    let mut client = Client::new(&gateway);
    // One batch for each request, as each waits for the one before to have left.
    for request in 0..6 {
        client.get("/").await.assert_status(200);
        wait_for_metric(&gateway, "tidegate_spans_recorded_total", &[], f64::from(2 * (request + 1))).await;
        wait_for_metric(&gateway, "tidegate_span_queue_spans", &[], 0.0).await;
    }
    let result = async |result: &str| {
        metric(&gateway, "tidegate_spans_total", &[&format!("result=\"{result}\"")]).await
    };
    let (exported, rejected) = (result("exported").await, result("rejected").await);
    let dropped = result("dropped_export").await;
    assert_eq!((exported, rejected, dropped), (5.0, 1.0, 6.0));
    assert_eq!(result("dropped_queue").await, 0.0);
    // What is lost is told beside what is tried again, and what is rejected.
    for why in ["400", "429", "rejected 1 spans"] {
        let is_told = |line: &serde_json::Value| {
            line["msg"] == "spans could not be exported"
                && line["why"].as_str().is_some_and(|told| told.contains(why))
        };
        gateway.wait_for_line(is_told).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_costs_spans_and_no_request() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    collector.script(&[Reply::Stall]);
    let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
    let otlp = format!("{{endpoint: '{}', every: 1ms, batch: 2, queue: 4KiB}}", collector.url());
    let tracing = format!("tracing: {{sample: {{at_most: off}}, otlp: {otlp}}}\n");
    let gateway = Gateway::start(&format!("{yaml}{tracing}")).await;
    let mut client = Client::new(&gateway);
    for _ in 0..20 {
        client.get("/").await.assert_status(200);
    }
    wait_for_metric(&gateway, "tidegate_spans_recorded_total", &[], 40.0).await;
    let dropped = metric(&gateway, "tidegate_spans_total", &["result=\"dropped_queue\""]).await;
    let waiting = metric(&gateway, "tidegate_span_queue_spans", &[]).await;
    assert!(dropped > 0.0 && metric(&gateway, "tidegate_span_queue_bytes", &[]).await <= 4096.0);
    assert_eq!(dropped + waiting, 40.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_exported_when_the_gateway_ends() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
    let otlp = format!("{{endpoint: '{}', every: 1h}}", collector.url());
    let gateway = Gateway::start(&format!("{yaml}tracing: {{otlp: {otlp}}}\n")).await;
    Client::new(&gateway).get("/").await.assert_status(200);
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    assert_eq!(collector.spans_now().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sampled_below_the_share_but_failures_where_that_is_asked_for() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let sample = "sample: {new: 0%, also: {errors: true, slower_than: 1h}}";
    let gateway = traced(sample, &collector, "upstream: u", &[("u", &[&origin], "")]).await;
    let mut client = Client::new(&gateway);
    client.get("/good").await.assert_status(200);
    client.get("/status/500").await.assert_status(500);
    let spans = collector.spans(2).await;
    assert_eq!((spans.len(), server(&spans).get("url.path")), (2, "/status/500"));
    assert!(spans.iter().all(|span| span.span.flags & 0xff == 2), "it was not sampled, and its id is random");
    for seen in origin.seen() {
        assert!(seen.header("traceparent").unwrap().ends_with("-02"), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_a_caller_s_context_passes_unchanged() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let gateway = traced("sample: {at_most: 1/h}", &collector, "upstream: u", &[("u", &[&origin], "")]).await;
    let mut client = Client::new(&gateway);
    for path in ["/1", "/2"] {
        client.send("GET", path, &[("traceparent", TRACEPARENT)], "").await.assert_status(200);
    }
    client.get("/3").await.assert_status(200);
    let seen = origin.seen();
    assert_ne!(seen[0].header("traceparent"), Some(TRACEPARENT));
    assert_eq!(seen[1].header("traceparent"), Some(TRACEPARENT), "an id of ours would lead nowhere");
    assert!(seen[2].header("traceparent").unwrap().ends_with("-02"), "not sampled: nobody records it");
    assert_eq!(metric(&gateway, "tidegate_traces_total", &["decision=\"limited\""]).await, 2.0);
    let line = logged(&gateway, "/2").await;
    assert_eq!((&line["trace_id"], &line["span_id"]), (&TRACE.into(), &CALLER.into()), "{line}");
    assert_eq!((&line["sampled"], line.get("parent_span_id")), (&true.into(), None), "{line}");
    logged(&gateway, "/3").await;
    let recorded = metric(&gateway, "tidegate_spans_recorded_total", &[]).await;
    assert_eq!(recorded, 2.0, "a caller's flag does not flood the collector");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_passes_contexts_untouched_where_tracing_is_off() {
    let origin = Origin::start().await;
    let yaml = yaml("upstream: u, trace: off", &[("u", &[&origin], "")]);
    let gateway = Gateway::start(&format!("{yaml}tracing: {{}}\n")).await;
    let mut client = Client::new(&gateway);
    client.send("GET", "/1", &[("traceparent", "what ever"), ("tracestate", "b@d==")], "").await;
    client.get("/2").await;
    client.send("GET", "/3", &[("traceparent", TRACEPARENT)], "").await;
    let seen = origin.seen();
    assert_eq!(seen[2].header("traceparent"), Some(TRACEPARENT), "an id of ours would lead nowhere");
    assert_eq!(seen[0].header("traceparent"), Some("what ever"));
    assert_eq!(seen[0].header("tracestate"), Some("b@d=="));
    assert_eq!(seen[1].header("traceparent"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn zipkin_s_contexts_go_on_in_both_of_their_forms() {
    let origin = Origin::start().await;
    let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
    let gateway = Gateway::start(&format!("{yaml}tracing: {{propagate: [b3_single, b3]}}\n")).await;
    let mut client = Client::new(&gateway);
    client.send("GET", "/", &[("b3", &format!("{TRACE}-{CALLER}-d"))], "").await.assert_status(200);
    client.send("GET", "/", &[("b3", "0")], "").await.assert_status(200);
    let seen = origin.seen();
    let single = seen[0].header("b3").unwrap();
    let parts: Vec<&str> = single.split('-').collect();
    assert_eq!((parts[0], parts[2], parts[3]), (TRACE, "d", CALLER));
    assert_eq!(seen[0].header("x-b3-traceid"), Some(TRACE));
    assert_eq!(seen[0].header("x-b3-spanid"), Some(parts[1]));
    assert_eq!((seen[0].header("x-b3-flags"), seen[0].header("x-b3-sampled")), (Some("1"), None));
    assert_eq!(seen[0].header("traceparent"), None, "nobody asked for it");
    assert!(seen[1].header("b3").unwrap().ends_with("-0"));
    assert_eq!(seen[1].header("x-b3-parentspanid"), None, "a root has none");
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_of_their_trace() {
    let origin = Origin::start().await;
    let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
    let gateway = Gateway::start(&format!("{yaml}tracing: {{respond: server_timing}}\n")).await;
    let mut client = Client::new(&gateway);
    let answer = client.send("GET", "/", &[("traceparent", TRACEPARENT)], "").await;
    let told = answer.header("server-timing").unwrap();
    assert!(told.starts_with(&format!("trace;desc=00-{TRACE}-")), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_all_of_it_and_loses_no_span() {
    let (origin, first, second) = (Origin::start().await, Collector::start().await, Collector::start().await);
    let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
    let to = |collector: &Collector| {
        format!(
            "{yaml}tracing: {{sample: {{at_most: off}}, otlp: {{endpoint: '{}', every: 10ms}}}}\n",
            collector.url()
        )
    };
    let gateway = Gateway::start(&to(&first)).await;
    let mut client = Client::new(&gateway);
    for round in 0..4 {
        client.get("/").await.assert_status(200);
        gateway.reload(&to(if round % 2 == 0 { &second } else { &first })).await;
    }
    assert_eq!((first.spans(4).await.len(), second.spans(4).await.len()), (4, 4));
    gateway.reload(&yaml).await;
    client.send(Method::GET.as_str(), "/off", &[], "").await.assert_status(200);
    assert_eq!(origin.seen().last().unwrap().header("traceparent"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spans_of_a_websocket_end_with_the_switch() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let yaml = Yaml::to(backend.address())
        .top(&format!("tracing: {{otlp: {{endpoint: '{}', every: 10ms}}}}\n", collector.url()));
    let gateway = yaml.start().await;
    let url = format!("ws://{}/ws", gateway.address("main"));
    let (socket, _) = within_deadline("a WebSocket", tokio_tungstenite::connect_async(url)).await.unwrap();
    let spans = collector.spans(2).await;
    assert_eq!(server(&spans).get("http.response.status_code"), "101");
    assert_eq!(tries(&spans)[0].get("http.response.status_code"), "101");
    assert!(spans.iter().all(|span| !span.is_error()));
    drop(socket);
    logged(&gateway, "/ws").await;
    wait_for_metric(&gateway, "tidegate_spans_total", &["result=\"exported\""], 2.0).await;
    assert_eq!(collector.spans_now().len(), 2, "once, and not again when it closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_of_a_websocket_carries_the_context() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::Stall]).await;
    let gateway = Yaml::to(upstream.address()).top("tracing: {propagate: [w3c, b3_single]}").start().await;
    let mut client = RawConnection::open(gateway.address("main"));
    client.write(format!(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nTraceparent: {TRACEPARENT}\r\nTracestate: a=b\r\n\r\n"
    ));
    upstream.wait_for_heads(1).await;
    let head = upstream.heads().remove(0);
    let field = |name: &str| {
        let value = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_else(|| panic!("no {name} in {head}"))
    };
    assert_eq!((field("upgrade"), field("tracestate")), ("websocket", "a=b"));
    let parent = field("traceparent");
    assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-01"), "{parent}");
    let span = &parent[36..52];
    assert_ne!(span, CALLER);
    assert_eq!(field("b3"), format!("{TRACE}-{span}-1-{CALLER}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_grpc_is_named_by_its_method_and_fails_by_its_status() {
    let (origin, collector) = (GrpcServer::start().await, Collector::start().await);
    let yaml = Yaml::to(origin.address())
        .settings("protocol: grpc")
        .top(&format!("tracing: {{otlp: {{endpoint: '{}', every: 10ms}}}}\n", collector.url()));
    let gateway = yaml.start().await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    client.ask(call("/late/14", &[("traceparent", TRACEPARENT)])).await.assert_status(200);
    let spans = collector.spans(2).await;
    let (server, tries) = (server(&spans), tries(&spans));
    assert_eq!((server.span.name.as_str(), tries[0].span.name.as_str()), ("late/14", "late/14"));
    for span in [server, tries[0]] {
        assert_eq!((span.get("rpc.system.name"), span.get("rpc.method")), ("grpc", "late/14"));
        assert_eq!((span.get("rpc.status_code"), span.get("error.type")), ("unavailable", "unavailable"));
        assert!(span.is_error());
    }
    let seen = origin.seen();
    let sent = seen[0]["traceparent"].to_str().unwrap();
    assert_eq!(&sent[36..52], tries[0].id());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_question_of_ext_auth_is_part_of_the_trace() {
    let (origin, service, collector) =
        (Origin::start().await, Origin::start().await, Collector::start().await);
    let gateway = traced(
        "",
        &collector,
        &format!(
            "upstream: u, filters: [{{ext_auth: {{url: 'http://{}/check?key=secret'}}}}]",
            service.name()
        ),
        &[("u", &[&origin], "")],
    )
    .await;
    Client::new(&gateway).get("/").await.assert_status(200);
    let spans = collector.spans(3).await;
    let asked = spans.iter().find(|span| span.attributes.contains_key("tidegate.filter")).unwrap();
    assert_eq!((asked.parent(), asked.get("tidegate.filter")), (server(&spans).id(), "ext_auth"));
    assert_eq!(sent(&service.seen()[0]), asked.id());
    assert!(!format!("{spans:?}").contains("secret"));
}
