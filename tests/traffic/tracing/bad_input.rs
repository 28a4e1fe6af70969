//! What strangers and broken collectors say: it stays a value, in a span, a field and a line of the log, and ends none of them.

use super::{Client, Origin, TRACEPARENT, server, traced, yaml};
use crate::{
    access_log,
    support::{
        Gateway, RawConnection,
        collector::{Collector, Reply},
        wait_for_metric,
    },
};

/// Line ends, an escape, a control sequence of one character, and what turns a text round.
const HOSTILE: &str = "%0d%0aX-Evil:1%1b%5b31m%c2%9b31m%e2%80%ae%00";
const DECODED: &str = "\r\nX-Evil:1\u{1b}[31m\u{9b}31m\u{202e}\0";

/// Characters that a terminal or a reader of lines would take for more than text.
fn is_tame(line: &str) -> bool {
    !line.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || c == '\u{2028}')
}

fn tracing(collector: &Collector, protocol: &str) -> String {
    format!(
        "tracing: {{propagate: [w3c, baggage], baggage_attributes: [plan], query: keep, attributes: {{\
         q: '{{query.q}}', c: '{{cookie.c}}', h: '{{header.x-in}}', p: '{{path}}'}}, \
         otlp: {{endpoint: '{}', protocol: {protocol}, every: 10ms}}}}\n",
        collector.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn line_ends_and_escapes_of_a_client_are_values_in_spans_and_end_no_line_and_no_field() {
    for protocol in ["http/protobuf", "http/json"] {
        let (origin, collector) = (Origin::start().await, Collector::start().await);
        let route = "upstream: u, match: {path: {template: '/t/{tenant}'}}";
        let yaml = yaml(route, &[("u", &[&origin], "")]);
        let log = "log: {access: {to: access.log, template: \
                   '{method} {path} {query.q} {header.x-in} {header.user-agent} {path.tenant} {trace_id} .'}}\n";
        let gateway = Gateway::start(&format!("{yaml}{}{log}", tracing(&collector, protocol))).await;
        let mut client = RawConnection::open(gateway.address("main"));
        let head = format!(
            "GET /t/a{HOSTILE}b?q={HOSTILE} HTTP/1.1\r\nHost: a\r\nX-In: a\u{9b}31m\u{202e}\tb\r\n\
             User-Agent: a\u{9b}2J\u{2028}b\r\nCookie: c=a\u{9b}b\r\nBaggage: plan={HOSTILE}\r\n\
             Traceparent: {TRACEPARENT}\r\nTracestate: a=\u{9b}\r\n\r\n"
        );
        // A zero byte in a path is refused whatever else it holds.
        let head = head.replacen("%00b?", "b?", 1);
        client.write(head);
        assert_eq!(client.read_response().status, 200);
        let spans = collector.spans(2).await;
        let request = server(&spans);
        for (key, value) in
            [("q", DECODED), ("plan", DECODED), ("c", "[redacted]"), ("h", "a\u{9b}31m\u{202e}\tb")]
        {
            assert_eq!(request.get(key), value, "{key} {protocol}");
        }
        assert_eq!(request.get("url.query"), format!("q={HOSTILE}"));
        assert!(is_tame(request.get("url.path")), "{request:?}");
        assert_eq!(request.get("user_agent.original"), "a\u{9b}2J\u{2028}b");
        let seen = origin.seen().pop().unwrap();
        assert!(!seen.headers.contains_key("x-evil"), "{seen:?}");
        assert_eq!(seen.headers.get("tracestate"), None);

        let line = access_log::lines(&gateway.directory().join("access.log"), 1).await;
        assert!(line.len() == 1 && is_tame(&line[0]) && line[0].ends_with(" ."), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_line_ends_and_escapes_in_the_fields_of_a_trace_are_refused() {
    let origin = Origin::start().await;
    let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
    let gateway =
        Gateway::start(&format!("{yaml}tracing: {{propagate: [w3c, b3, b3_single, baggage]}}\n")).await;
    for name in ["traceparent", "tracestate", "b3", "x-b3-traceid", "baggage"] {
        for evil in ["a\u{1b}[31mb", "a\rb", "a\0b", "a\u{7f}b"] {
            let mut client = RawConnection::open(gateway.address("main"));
            client.write(format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: {evil}\r\n\r\n"));
            client.read_response().assert_reason(400, "bad_request");
        }
    }
    assert_eq!(origin.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_collector_answers_is_one_line_of_the_log_which_says_what_is_wrong() {
    let html = Reply::Status(200, &[("content-type", "text/html")]);
    let elsewhere = Reply::Status(307, &[("location", "http://127.0.0.1:1/v1/traces")]);
    for (reply, result, expected) in [
        (html, "refused", "but with a page: it is no collector"),
        (elsewhere, "refused", "redirects are not followed: name the collector itself"),
        (Reply::Status(404, &[]), "refused", "is this an OTLP endpoint"),
        (Reply::Says("\r\nlevel=error \u{1b}[31m\u{202e}no"), "success", "the collector rejected 1 spans"),
    ] {
        let (origin, collector) = (Origin::start().await, Collector::start().await);
        collector.script(&[reply]);
        let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
        let otlp = format!("{{endpoint: '{}', every: 10ms}}", collector.url());
        let gateway = Gateway::start(&format!("{yaml}tracing: {{otlp: {otlp}}}\n")).await;
        Client::new(&gateway).get("/").await.assert_status(200);
        wait_for_metric(&gateway, "tidegate_span_exports_total", &[&format!("result=\"{result}\"")], 1.0)
            .await;
        let told = gateway.wait_for_message("spans could not be exported").await;
        assert!(told["why"].as_str().unwrap().contains(expected), "{told}");
        assert_eq!(told["endpoint"], format!("{}/v1/traces", collector.url()));
        assert!(gateway.output().lines().all(is_tame), "{}", gateway.output());
        // Nobody was led elsewhere.
        assert!(collector.requests(1).await.iter().all(|(path, _)| path == "/v1/traces"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_make_a_name_of_a_span() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let gateway = traced("", &collector, "upstream: u, match: {path: /r}", &[("u", &[&origin], "")]).await;
    let mut client = Client::new(&gateway);
    client.send("BREW", "/r/anything", &[], "").await.assert_status(200);
    let spans = collector.spans(2).await;
    let request = server(&spans);
    assert_eq!(request.span.name, "HTTP /r/{*rest}");
    assert_eq!(
        (request.get("http.request.method"), request.get("http.request.method_original")),
        ("_OTHER", "BREW")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_makes_of_an_attribute_of_ours_is_cut() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let attributes = "attributes: {long: '{header.x-long}'}";
    let gateway = traced(attributes, &collector, "upstream: u", &[("u", &[&origin], "")]).await;
    let mut client = Client::new(&gateway);
    client.send("GET", "/", &[("x-long", &*"v".repeat(10_000))], "").await.assert_status(200);
    assert_eq!(server(&collector.spans(2).await).get("long"), "v".repeat(256));
}
