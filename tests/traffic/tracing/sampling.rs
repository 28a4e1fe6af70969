//! Whose contexts go on, and who decides what is sampled: the caller, the gateway's share, or that of a route.

use super::{CALLER, Client, Collector, Origin, TRACE, TRACEPARENT, server};
use crate::support::{
    Gateway, Yaml,
    grpc::{GrpcServer, call},
    http2::Http2Client,
    logged, metric, wait_for_metric,
};

/// A gateway that traces as `tracing` says.
async fn gateway(origin: &Origin, collector: &Collector, tracing: &str, trusted: &str) -> Gateway {
    let otlp = format!("otlp: {{endpoint: '{}', every: 10ms}}", collector.url());
    let top = format!("trusted_proxies: [{trusted}]\ntracing: {{{otlp}, {tracing}}}");
    Yaml::to(origin.name())
        .top(&top)
        .with_route("name: all, match: {path: /all}, upstream: origin, trace: {sample: 100%}")
        .with_route("name: half, match: {path: /half}, upstream: origin, trace: {sample: 50%}")
        .start()
        .await
}

/// A `traceparent` with these flags.
fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

/// The flags that the upstream saw last, and the tracestate.
fn sent(origin: &Origin) -> (String, Option<String>) {
    let seen = origin.seen().pop().unwrap();
    let parent = seen.header("traceparent").unwrap();
    (parent[53..].to_owned(), seen.header("tracestate").map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contexts_of_those_go_on_who_may_bring_one_and_others_begin_a_new_trace() {
    let brought = [
        ("traceparent", TRACEPARENT),
        ("tracestate", "vendor=1"),
        ("b3", "0"),
        ("x-b3-traceid", TRACE),
        ("baggage", "plan=pro"),
    ];
    for (accept, is_trusted, goes_on) in [
        ("always", true, true),
        ("always", false, true),
        ("trusted", true, true),
        ("trusted", false, false),
        ("never", true, false),
        ("never", false, false),
    ] {
        let what = format!("{accept}, of a trusted proxy: {is_trusted}");
        let (origin, collector) = (Origin::start().await, Collector::start().await);
        let trusted = if is_trusted { "127.0.0.0/8" } else { "10.0.0.0/8" };
        let gateway = gateway(&origin, &collector, &format!("accept: {accept}"), trusted).await;
        Client::new(&gateway).send("GET", "/", &brought, "").await.assert_status(200);
        let seen = origin.seen().pop().unwrap();
        let sent = seen.header("traceparent").unwrap();
        assert_eq!(&sent[3..35] == TRACE, goes_on, "{what}: {sent}");
        for (name, value) in &brought[1..] {
            assert_eq!(seen.header(name), goes_on.then_some(*value), "{what}: {name}");
        }
        let spans = collector.spans(2).await;
        assert_eq!(server(&spans).parent(), if goes_on { CALLER } else { "" }, "{what}");
        let by = if goes_on { "caller" } else { "ratio" };
        assert_eq!(server(&spans).get("tidegate.sampled_by"), by, "{what}");
        let decision = if goes_on { "decision=\"followed\"" } else { "decision=\"new\"" };
        assert_eq!(metric(&gateway, "tidegate_traces_total", &[decision]).await, 1.0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_s_decision_is_followed_or_ours_takes_its_place() {
    // The random bits of the trace begin with ce: it is among half of all, and not among a tenth.
    for (sample, came, state, flags, sent_state) in [
        ("new: 0%, known: follow", "01", None, "01", None),
        ("new: 100%, known: follow", "00", None, "00", None),
        ("new: 0%, known: decide", "01", None, "00", None),
        ("new: 100%, known: decide", "00", None, "01", None),
        ("new: 50%, known: decide", "00", Some("vendor=1"), "01", Some("ot=th:8,vendor=1")),
        ("new: 10%, known: decide", "01", Some("ot=th:8,vendor=1"), "00", Some("vendor=1")),
        // Whoever began the trace has drawn another number.
        ("new: 50%, known: decide", "01", Some("ot=rv:00000000000001"), "00", Some("ot=rv:00000000000001")),
    ] {
        let what = format!("{sample}, {came} {state:?}");
        let (origin, collector) = (Origin::start().await, Collector::start().await);
        let gateway = gateway(&origin, &collector, &format!("sample: {{{sample}}}"), "127.0.0.0/8").await;
        let parent = parent(came);
        let mut brought = vec![("traceparent", &*parent)];
        brought.extend(state.map(|state| ("tracestate", state)));
        Client::new(&gateway).send("GET", "/", &brought, "").await.assert_status(200);
        assert_eq!(sent(&origin), (flags.to_owned(), sent_state.map(str::to_owned)), "{what}");
        let line = logged(&gateway, "/").await;
        assert_eq!((&line["trace_id"], &line["sampled"]), (&TRACE.into(), &(flags == "01").into()), "{what}");
        if flags == "01" {
            let by = if sample.ends_with("follow") { "caller" } else { "ratio" };
            assert_eq!(server(&collector.spans(2).await).get("tidegate.sampled_by"), by, "{what}");
        }
        let recorded = if flags == "01" { 2.0 } else { 0.0 };
        assert_eq!(metric(&gateway, "tidegate_spans_recorded_total", &[]).await, recorded, "{what}");
        assert_eq!(metric(&gateway, "tidegate_traces_total", &["decision=\"followed\""]).await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_debugs_is_followed_also_where_we_decide() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let tracing = "propagate: [b3_single], sample: {new: 0%, known: decide}";
    let gateway = gateway(&origin, &collector, tracing, "127.0.0.0/8").await;
    let mut client = Client::new(&gateway);
    for decision in ["1", "d"] {
        let field = format!("{TRACE}-{CALLER}-{decision}");
        client.send("GET", "/", &[("b3", &field)], "").await.assert_status(200);
    }
    let seen = origin.seen();
    let decisions: Vec<_> =
        seen.iter().map(|seen| seen.header("b3").unwrap().split('-').nth(2).unwrap()).collect();
    assert_eq!(decisions, ["0", "d"]);
    assert_eq!(server(&collector.spans(2).await).parent(), CALLER);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_though_it_was_not_sampled_says_why() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let otlp = format!("otlp: {{endpoint: '{}', every: 10ms}}", collector.url());
    let sample = "sample: {new: 0%, also: {errors: true, slower_than: 5ms}}";
    let gateway = Yaml::to(origin.name())
        .top(&format!("tracing: {{{otlp}, {sample}}}"))
        .with_route("match: {path: /slow}, upstream: origin, filters: [{fault: {delay: {duration: 10ms}}}]")
        .start()
        .await;
    let mut client = Client::new(&gateway);
    client.get("/slow").await.assert_status(200);
    client.get("/status/500").await.assert_status(500);
    let spans = collector.spans(4).await;
    for (path, by) in [("/slow", "slower_than"), ("/status/500", "errors")] {
        let asked = spans.iter().find(|span| span.is_server() && span.get("url.path") == path).unwrap();
        assert_eq!((asked.get("tidegate.sampled_by"), asked.span.flags & 1), (by, 0), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_by_its_status_is_exported_as_an_error() {
    let (calls, collector) = (GrpcServer::start().await, Collector::start().await);
    let otlp = format!("otlp: {{endpoint: '{}', every: 10ms}}", collector.url());
    let gateway = Yaml::to(calls.address())
        .settings("protocol: grpc")
        .top(&format!("tracing: {{{otlp}, sample: {{new: 0%, also: {{errors: true}}}}}}"))
        .with_route("match: {path: /only/16}, respond: {status: 503}")
        .start()
        .await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    // In trailers, in a header, and not at all; then those that a healthy server says, too.
    let failed = ["/late/14", "/only/13", "/cut", "/only/16"];
    for path in failed.iter().chain(&["/late/0", "/late/5", "/only/3"]) {
        client.ask(call(path, &[])).await.assert_status(200);
        logged(&gateway, path).await;
    }
    let spans = collector.spans(7).await;
    for path in failed {
        let asked = spans.iter().find(|span| span.is_server() && span.get("url.path") == path);
        let asked = asked.unwrap_or_else(|| panic!("{path}: {spans:#?}"));
        assert_eq!((asked.get("tidegate.sampled_by"), asked.span.flags & 1), ("errors", 0), "{path}");
        assert_eq!((asked.get("http.response.status_code"), asked.is_error()), ("200", true), "{path}");
    }
    assert_eq!(metric(&gateway, "tidegate_traces_total", &["decision=\"also\""]).await, 4.0);
    // A span of each request, and one of each try: our own answer has none.
    assert_eq!(metric(&gateway, "tidegate_spans_recorded_total", &[]).await, 7.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_has_a_share_of_its_own() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let tracing = "sample: {new: 0%, at_most: off}";
    let gateway = gateway(&origin, &collector, tracing, "127.0.0.0/8").await;
    let mut client = Client::new(&gateway);
    // Flags of ids that are made here say that they are random.
    for (path, flags) in [("/all", "03"), ("/rest", "02")] {
        client.get(path).await.assert_status(200);
        assert_eq!(sent(&origin), (flags.to_owned(), None), "{path}");
    }
    for (path, came) in [("/all", "00"), ("/rest", "01")] {
        let parent = parent(came);
        client.send("GET", path, &[("traceparent", &parent)], "").await.assert_status(200);
        assert_eq!(sent(&origin).0, came, "{path}: a caller's decision is followed");
    }
    let mut sampled = 2;
    for _ in 0..16 {
        client.get("/half").await.assert_status(200);
        let seen = origin.seen().pop().unwrap();
        let parent = seen.header("traceparent").unwrap();
        // The first of the 14 digits that decide.
        let is_sampled = parent.as_bytes()[3 + 18] >= b'8';
        let flags = if is_sampled { "03" } else { "02" };
        let state = is_sampled.then(|| "ot=th:8".to_owned());
        assert_eq!(sent(&origin), (flags.to_owned(), state), "{parent}");
        sampled += u32::from(is_sampled);
    }
    wait_for_metric(&gateway, "tidegate_spans_recorded_total", &[], f64::from(2 * sampled)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_we_decide_on_callers_traces_a_route_s_share_does() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let tracing = "sample: {new: 0%, known: decide}";
    let gateway = gateway(&origin, &collector, tracing, "127.0.0.0/8").await;
    let mut client = Client::new(&gateway);
    for (path, came, flags) in [("/all", "00", "01"), ("/rest", "01", "00"), ("/half", "00", "01")] {
        let parent = parent(came);
        client.send("GET", path, &[("traceparent", &parent)], "").await.assert_status(200);
        assert_eq!(sent(&origin).0, flags, "{path}");
    }
    let spans = collector.spans(4).await;
    let mut routes: Vec<_> =
        spans.iter().filter(|span| span.is_server()).map(|span| span.get("tidegate.route")).collect();
    routes.sort_unstable();
    assert_eq!(routes, ["all", "half"]);
}
