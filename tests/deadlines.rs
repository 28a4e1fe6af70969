//! A route's `timeout` bounds the whole request, whatever it waits for, over either version; and what ends is no request
//! is not bounded by it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::http2::{Http2Client, head, request, rest, whole};
use crate::support::{
    Backend, Gateway, RawConnection, ScriptedUpstream, Step, Yaml, get, logged, metric, within_deadline,
};

/// What the routes here allow, and what it must have taken at least.
const TIMEOUT: Duration = Duration::from_secs(1);

async fn gateway(upstream: SocketAddr, settings: &str) -> Gateway {
    Yaml::to(upstream)
        .with_route("name: unlimited, match: {path: /unlimited}, upstream: origin")
        .route("timeout: 1s")
        .settings(settings)
        .start()
        .await
}

/// How many attempts ended so.
async fn attempts(gateway: &Gateway, outcome: &str) -> f64 {
    metric(gateway, "tidegate_upstream_attempts_total", &[&format!("outcome=\"{outcome}\"")]).await
}

/// Each byte comes in time, and the head never ends.
fn endless_head() -> Vec<Step> {
    vec![Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\n"), Step::Dribble(b"x: y\r\n".to_vec())]
}

/// The same with the body.
fn endless_body() -> Vec<Step> {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    vec![Step::ReadHead, Step::write(head), Step::Dribble(b"1\r\nx\r\n".to_vec())]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_never_gets_to_the_end_of_its_header_is_504() {
    let upstream = ScriptedUpstream::start(endless_head()).await;
    let gateway = gateway(upstream.address(), "").await;

    let started = Instant::now();
    let mut http1 = RawConnection::open(gateway.address("main"));
    http1.write("GET /1 HTTP/1.1\r\nhost: a\r\n\r\n");
    http1.read_response().assert_reason(504, "request_timeout");
    assert!(started.elapsed() >= TIMEOUT);

    let started = Instant::now();
    let mut http2 = Http2Client::open(gateway.address("main")).await;
    http2.ask(request("GET", "http://a/2", &[])).await.assert_reason(504, "request_timeout");
    assert!(started.elapsed() >= TIMEOUT);
    http2.ask(request("HEAD", "http://a/head", &[])).await.assert_reason(504, "request_timeout");

    for path in ["/1", "/2", "/head"] {
        let line = logged(&gateway, path).await;
        let told = (&line["status"], &line["reason"], &line["attempts"]);
        assert_eq!(told, (&504.into(), &"request_timeout".into(), &1.into()), "{line}");
    }
    assert_eq!(attempts(&gateway, "timeout").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_never_ends_is_cut_off() {
    let upstream = ScriptedUpstream::start(endless_body()).await;
    let gateway = gateway(upstream.address(), "").await;
    let mut http1 = RawConnection::open(gateway.address("main"));
    http1.write("GET /1 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(http1.read_head().status, 200);
    let body = http1.read_to_end();
    assert!(!body.is_empty() && !body.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&body));

    let mut http2 = Http2Client::open(gateway.address("main")).await;
    let (response, _) = http2.begin(request("GET", "http://a/2", &[]), true).await;
    let response = head(response).await;
    assert_eq!(response.status(), 200);
    let error = rest(response.into_body()).await.unwrap_err();
    assert!(error.is_reset(), "{error}");

    for path in ["/1", "/2"] {
        let line = logged(&gateway, path).await;
        assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"request_timeout".into()), "{line}");
    }
    assert_eq!((attempts(&gateway, "success").await, attempts(&gateway, "timeout").await), (2.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_also_holds_with_an_http2_upstream() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address(), "protocol: http2").await;
    get(gateway.address("main"), "/delay/30s").await.assert_reason(504, "request_timeout");
    let mut http2 = Http2Client::open(gateway.address("main")).await;
    http2.ask(request("GET", "http://a/delay/30s", &[])).await.assert_reason(504, "request_timeout");
    http2.ask(request("GET", "http://a/", &[])).await.assert_status(200);
    assert_eq!(attempts(&gateway, "timeout").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_all_the_time_is_not_held_against_the_endpoint() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address(), "").await;
    let mut http1 = RawConnection::open(gateway.address("main"));
    http1.write("POST /delay/30s HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc");
    http1.read_response().assert_reason(504, "request_timeout");
    let mut http2 = Http2Client::open(gateway.address("main")).await;
    let (response, mut body) = http2.begin(request("POST", "http://a/delay/30s", &[]), false).await;
    body.send_data("abc".into(), false).unwrap();
    whole(response).await.assert_reason(504, "request_timeout");
    assert_eq!(attempts(&gateway, "timeout").await, 0.0);
}

/// Pingora does not watch the client while the upstream takes no more of the body.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_take_the_body_is_504() {
    let backend = Backend::start().await;
    for protocol in ["http1", "http2"] {
        let gateway = gateway(backend.address(), &format!("protocol: {protocol}")).await;
        let mut http2 = Http2Client::open(gateway.address("main")).await;
        let (response, mut body) = http2.begin(request("POST", "http://a/delay/30s", &[]), false).await;
        body.send_data(vec![0; 9 << 20].into(), true).unwrap();
        whole(response).await.assert_reason(504, "request_timeout");
    }
}

/// The deadline of one request must not reach into what follows it on the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_holds_while_a_filter_waits_for_another_machine_or_for_nothing() {
    let (backend, silent) = (Backend::start().await, ScriptedUpstream::start(vec![Step::Stall]).await);
    let asks = format!("ext_auth: {{url: 'http://{}/', timeout: 30s}}", silent.address());
    for filter in [asks.as_str(), "fault: {delay: {duration: 30s}}"] {
        for (listener, route) in [("", filter), (filter, "")] {
            let listed = |filter: &str| match filter {
                "" => String::new(),
                filter => format!("filters: [{{{filter}}}]"),
            };
            let gateway = Yaml::to(backend.address())
                .listener(&listed(listener))
                .route(&["timeout: 1s", &listed(route)].join(", "))
                .start()
                .await;
            get(gateway.address("main"), "/held").await.assert_reason(504, "request_timeout");
            let line = logged(&gateway, "/held").await;
            assert_eq!(
                (line["reason"].as_str(), line.get("endpoint")),
                (Some("request_timeout"), None),
                "{line}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_outlives_the_timeouts_of_its_requests() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address(), "").await;
    let mut http1 = RawConnection::open(gateway.address("main"));
    let mut http2 = Http2Client::open(gateway.address("main")).await;
    for path in ["/", "/unlimited"] {
        http1.write(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        http1.read_response();
        http2.ask(request("GET", &format!("http://a{path}"), &[])).await;
        tokio::time::sleep(TIMEOUT + Duration::from_millis(50)).await;
    }
    http1.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(http1.read_response().status, 200);
    http2.ask(request("GET", "http://a/", &[])).await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_bound_by_no_timeout_of_its_request() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address(), "read_timeout: 1s").await;
    let url = format!("ws://{}/ws", gateway.address("main"));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    for _ in 0..2 {
        socket.send(Message::text("hello")).await.unwrap();
        let echoed = within_deadline("an echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(echoed, Message::text("hello"));
        tokio::time::sleep(TIMEOUT + Duration::from_millis(50)).await;
    }
    socket.send(Message::text("still there")).await.unwrap();
    within_deadline("an echo", socket.next()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_not_answered_is_an_upstream_timeout() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::ReadToEnd]).await;
    let gateway = gateway(upstream.address(), "read_timeout: 2s, connect_timeout: 1s").await;
    let mut client = RawConnection::open(gateway.address("main"));
    client.write("GET /unlimited HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    client.read_response().assert_reason(504, "upstream_timeout");
    assert_eq!(attempts(&gateway, "timeout").await, 1.0);
}

#[tokio::test]
async fn a_timeout_of_nothing_is_refused() {
    let yaml = "admin: false\nlisteners: [{address: \"127.0.0.1:0\"}]\nroutes: [{timeout: 0s, respond: {}}]";
    let (code, stderr, _) = Gateway::start_expecting_failure(yaml, &["check"]).await;
    assert_ne!(code, 0);
    assert!(stderr.contains("routes[0].timeout"), "{stderr}");
}
