//! How calls end: as the server said, or in the gateway's words where it is the gateway that says it.

use http::Request;

use super::gateway;
use crate::support::{
    Answer, Gateway, frames,
    grpc::{GrpcServer, call, message},
    http2::{Http2Client, head, whole},
    logged, metric, within_deadline,
};

/// The status of a call, in the header or in the trailers.
fn status(answer: &Answer) -> Option<&str> {
    let fields = answer.trailers.as_ref().unwrap_or(&answer.headers);
    fields.get("grpc-status").map(|status| status.to_str().unwrap())
}

async fn ask(gateway: &Gateway, request: Request<()>) -> Answer {
    Http2Client::open(gateway.address("main")).await.ask(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_arrives_as_the_server_said_it_and_is_counted() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "", "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    for code in [0, 5, 12, 14] {
        for kind in ["only", "late"] {
            let path = format!("/{kind}/{code}");
            let answer = client.ask(call(&path, &[])).await;
            assert_eq!(status(answer.assert_status(200)), Some(&*code.to_string()), "{path}");
            assert_eq!(answer.trailers.is_some(), kind == "late", "{path}");
            assert_eq!(answer.body.is_empty(), kind == "only", "{path}");
            assert!(!answer.headers.contains_key("x-tidegate-reason"));
            let name = [
                "ok",
                "",
                "",
                "",
                "",
                "not_found",
                "",
                "",
                "",
                "",
                "",
                "",
                "unimplemented",
                "",
                "unavailable",
            ];
            let line = logged(&gateway, &path).await;
            assert_eq!((&line["grpc_status"], &line["status"]), (&name[code].into(), &200.into()), "{line}");
            assert_eq!(line["reason"], serde_json::Value::Null, "{line}");
        }
    }
    for (name, count) in [("ok", 2.0), ("not_found", 2.0), ("unavailable", 2.0)] {
        let labels = ["route=\"r\"", &format!("grpc_status=\"{name}\"")];
        assert_eq!(metric(&gateway, "tidegate_grpc_calls_total", &labels).await, count, "{name}");
    }
    let outcome = |outcome: &str| format!("outcome=\"{outcome}\"");
    assert_eq!(metric(&gateway, "tidegate_upstream_attempts_total", &[&outcome("5xx")]).await, 2.0);
    assert_eq!(metric(&gateway, "tidegate_upstream_attempts_total", &[&outcome("success")]).await, 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_gateway_s_own_are_trailers_only() {
    let server = GrpcServer::start().await;
    let yaml = format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0', limits: {{header_size: 4KiB}}}}]\n\
         routes:\n\
         - {{match: {{path: /guarded}}, filters: [{{api_key: {{keys: [{{name: a, hash: \"sha256:0ebbac673c53d2335c7c9567c3dc3d3f37c48986f2ef3b4f19f6ce1f5da31cda\"}}]}}}}], upstream: u}}\n\
         - {{match: {{path: /denied}}, filters: [{{ip_rules: {{deny: [127.0.0.1]}}}}], upstream: u}}\n\
         - {{match: {{path: /limited}}, filters: [{{rate_limit: {{rate: 1/h, burst: 1, key: client_ip}}}}], upstream: u}}\n\
         - {{match: {{path: /read, methods: [GET]}}, upstream: u}}\n\
         - {{match: {{path: /nobody}}, upstream: nobody}}\n\
         - {{match: {{path: /maintenance}}, respond: {{status: 503, body: \"back at 100%\\n\"}}}}\n\
         - {{match: {{path: /echo}}, upstream: u}}\n\
         upstreams:\n  u: {{endpoints: ['{}'], protocol: grpc}}\n  nobody: {{endpoints: ['127.0.0.1:1'], protocol: grpc}}\n",
        server.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let (response, _body) =
        Http2Client::open(gateway.address("main")).await.begin(call("/limited", &[]), true).await;
    assert_eq!(head(response).await.status(), 200);
    let large = "x".repeat(5000);
    for (request, code, reason, message) in [
        (call("/guarded", &[]), "16", "unauthenticated", "valid credentials are needed"),
        (call("/denied", &[]), "7", "forbidden", "this request is not allowed here"),
        (call("/limited", &[]), "8", "rate_limited", "too many requests"),
        (call("/other", &[]), "12", "no_route", "no route matches this request"),
        (call("/read", &[]), "12", "method_not_allowed", "this method is not allowed here"),
        (call("/nobody", &[]), "14", "connect_failed", "the upstream cannot be reached"),
        (call("/maintenance", &[]), "14", "", "back at 100%25"),
        (call("/large", &[("x-large", &large)]), "8", "header_too_large", "the request header is too large"),
        (call("/host", &[("host", "other")]), "13", "bad_request", "the request is malformed"),
    ] {
        let path = request.uri().path().to_owned();
        let answer = ask(&gateway, request).await;
        answer.assert_status(200);
        assert_eq!(answer.header("content-type"), Some("application/grpc"), "{path}");
        assert_eq!(answer.header("grpc-status"), Some(code), "{path}");
        assert_eq!(answer.header("grpc-message"), Some(message), "{path}");
        assert_eq!(answer.header("x-tidegate-reason").unwrap_or_default(), reason, "{path}");
        assert!(answer.body.is_empty() && answer.trailers.is_none(), "{path}");
    }
    let line = logged(&gateway, "/guarded").await;
    let told = (&line["status"], &line["reason"], &line["grpc_status"]);
    assert_eq!(told, (&200.into(), &"unauthenticated".into(), &"unauthenticated".into()), "{line}");
    // Who speaks no gRPC is told in the words of HTTP.
    let plain = Request::post("http://a/guarded").body(()).unwrap();
    ask(&gateway, plain).await.assert_reason(401, "unauthenticated");
}

/// A status in a header that does not end the stream is none to most clients, who then say "unknown".
#[tokio::test(flavor = "multi_thread")]
async fn a_status_of_the_gateway_s_own_ends_the_stream_with_its_header() {
    let gateway = Gateway::start(
        "admin: false\nlisteners: [{name: main, address: '127.0.0.1:0'}]\nroutes: [{upstream: nobody}]\n\
         upstreams: {nobody: {endpoints: ['127.0.0.1:1'], protocol: grpc}}\n",
    )
    .await;
    let mut wire = frames::Wire::open(gateway.address("main")).await;
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let fields = fields.map(|(name, value)| frames::field(name, value)).concat();
    let call = [&[frames::POST, frames::HTTP, frames::ROOT][..], frames::AUTHORITY, &fields].concat();
    wire.send(&frames::frame(frames::HEADERS, frames::WHOLE, 1, &call)).await;
    let answer = wire.wait_for(|frame| frame.kind == frames::HEADERS).await.unwrap();
    assert!(answer.ends_stream(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_te_is_refused_and_says_so() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "", "").await;
    let mut request = call("/echo", &[]);
    request.headers_mut().remove("te");
    let answer = ask(&gateway, request).await;
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, Some("13")));
    assert_eq!(answer.header("grpc-message"), Some("a request of gRPC needs the field `te: trailers`"));
    assert_eq!(answer.header("x-tidegate-reason"), Some("bad_request"));
    assert_eq!(server.seen().len(), 0);
    assert_eq!(logged(&gateway, "/echo").await["reason"], "bad_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_ended_with_a_status() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "", "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    // NO_ERROR aside, what a client makes of the codes of HTTP/2: internal, cancelled, resource exhausted.
    for (reset, code) in [(2, "13"), (8, "1"), (11, "8")] {
        let answer = client.ask(call(&format!("/reset/{reset}"), &[])).await;
        assert_eq!(answer.header("grpc-status"), Some(code), "reset with {reset}");
        assert!(answer.header("x-tidegate-reason").is_some());
        let answer = client.ask(call(&format!("/broken/{reset}"), &[])).await;
        assert_eq!(&*answer.body, message(b"one"));
        let trailers = answer.trailers.unwrap();
        assert_eq!(trailers["grpc-status"], code, "broken with {reset}");
        assert!(trailers.contains_key("x-tidegate-reason") && trailers.contains_key("grpc-message"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_trailers_counts_as_failed() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "", "").await;
    let answer = ask(&gateway, call("/cut", &[])).await;
    assert_eq!((status(&answer), &*answer.body), (None, &*message(b"one")));
    assert_eq!(logged(&gateway, "/cut").await["grpc_status"], "unknown");
    assert_eq!(metric(&gateway, "tidegate_upstream_attempts_total", &["outcome=\"5xx\""]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_hears_of_failures_in_trailers() {
    let server = GrpcServer::start().await;
    let breaker = "circuit_breaker: {consecutive_failures: 3, open_for: 1h}";
    let gateway = gateway(&server, "", breaker).await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    // Not the server's fault.
    for _ in 0..5 {
        assert_eq!(status(&client.ask(call("/late/5", &[])).await), Some("5"));
    }
    for _ in 0..3 {
        assert_eq!(status(&client.ask(call("/late/13", &[])).await), Some("13"));
    }
    let refused = client.ask(call("/late/0", &[])).await;
    assert_eq!(refused.header("grpc-status"), Some("14"));
    assert_eq!(refused.header("x-tidegate-reason"), Some("circuit_open"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_tried_again_while_nothing_was_answered() {
    let server = GrpcServer::start().await;
    let retry =
        "retry: {attempts: 3, on: ['grpc:unavailable'], methods: [POST], backoff: {base: 1ms, max: 1ms}}";
    let gateway = gateway(&server, retry, "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    for (path, tries) in [("/only/14", 3), ("/only/13", 1), ("/late/14", 1)] {
        let before = server.seen().len();
        client.ask(call(path, &[])).await.assert_status(200);
        assert_eq!(server.seen().len() - before, tries, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_s_deadline_ends_a_call_and_is_not_the_endpoint_s_fault() {
    let server = GrpcServer::start().await;
    let breaker = "circuit_breaker: {consecutive_failures: 1, open_for: 1h}";
    let hedge = "hedge: {after: 10ms}, retry: {attempts: 2, methods: [POST]}";
    for route in ["", "timeout: 1h", hedge] {
        let gateway = gateway(&server, route, breaker).await;
        let mut client = Http2Client::open(gateway.address("main")).await;
        let (seen, cancelled) = (server.seen().len(), server.cancelled());
        let fields = [("grpc-timeout", "200m"), ("content-length", "0")];
        let answer = client.ask(call("/silent", &fields)).await;
        assert_eq!(answer.header("grpc-status"), Some("4"), "{route}");
        assert_eq!(answer.header("x-tidegate-reason"), Some("request_timeout"), "{route}");
        let told = server.seen()[seen]["grpc-timeout"].to_str().unwrap().to_owned();
        let left: u64 = told.strip_suffix('u').unwrap().parse().unwrap();
        assert!((1..=200_000).contains(&left), "{told}");
        server.wait_for_cancelled(cancelled + 1).await;
        let answer = client.ask(call("/echo", &[("content-length", "0")])).await;
        assert_eq!(status(&answer), Some("0"), "{route}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_within_a_stream_ends_it_with_trailers() {
    let server = GrpcServer::start().await;
    for (route, fields) in [("timeout: 1s", &[][..]), ("", &[("grpc-timeout", "1S")])] {
        let gateway = gateway(&server, route, "").await;
        let answer = ask(&gateway, call("/open", fields)).await;
        assert_eq!(&*answer.body, message(b"one"));
        assert_eq!(status(&answer), Some("4"), "{route}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_cancels_cancels_upstream() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "", "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    for (count, path) in ["/silent", "/mute"].into_iter().enumerate() {
        let (response, mut body) = client.begin(call(path, &[]), false).await;
        server.wait_for_calls(count + 1).await;
        body.send_reset(h2::Reason::CANCEL);
        drop(response);
        server.wait_for_cancelled(count + 1).await;
        assert_eq!(logged(&gateway, path).await["reason"], "client_closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_the_request_is_whole() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "", "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    for number in 0..20 {
        let path = format!("/only/{}", 12 + number % 2);
        let (response, mut body) = client.begin(call(&path, &[]), false).await;
        // It may be answered already.
        let _ = body.send_data(message(&[0; 1000]).into(), false);
        let answer = whole(response).await;
        assert_eq!(status(&answer), path.strip_prefix("/only/"));
        // The rest is not waited for, and not taken for a client that left.
        let line = logged(&gateway, &path).await;
        assert_eq!((&line["status"], &line["reason"]), (&200.into(), &serde_json::Value::Null), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_not_bounded_by_size_or_silence_but_its_messages_are() {
    let server = GrpcServer::start().await;
    let yaml = format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0', limits: {{body_size: 10KiB, body_timeout: 100ms, min_rate: 1GB/s, min_rate_grace: 50ms}}}}]\n\
         routes: [{{upstream: u}}]\nupstreams: {{u: {{endpoints: ['{}'], protocol: grpc, read_timeout: 100ms}}}}\n",
        server.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    let (response, mut body) = client.begin(call("/echo", &[]), false).await;
    for _ in 0..4 {
        body.send_data(message(&[7; 5000]).into(), false).unwrap();
    }
    // Longer than either pause may be.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    body.send_data(message(&[7; 5000]).into(), true).unwrap();
    let answer = whole(response).await;
    assert_eq!((status(&answer), answer.body.len()), (Some("0"), 5 * 5005));
    let (response, mut body) = client.begin(call("/echo", &[]), false).await;
    body.send_data(message(&[7; 20_000]).into(), true).unwrap();
    let answer = whole(response).await;
    assert_eq!(status(&answer), Some("8"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_messages_flows_both_ways_at_once() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "", "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    let (response, mut body) = client.begin(call("/open", &[]), false).await;
    let head = head(response).await;
    let mut answer = head.into_body();
    let first = within_deadline("the first message", answer.data()).await.unwrap().unwrap();
    assert_eq!(&*first, message(b"one"));
    body.send_data(message(b"still open").into(), false).unwrap();
    body.send_reset(h2::Reason::CANCEL);
    server.wait_for_cancelled(1).await;
    drop(answer);
}
