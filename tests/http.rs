//! Ordinary HTTP through the gateway: what clients rely on, over HTTP/1.1 and HTTP/2, and what is recorded of it.

use std::fmt::Display;
use std::net::SocketAddr;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::support::http2::{Http2Client, request};
use crate::support::{
    Backend, Connection, Gateway, RawConnection, ScriptedUpstream, Step, Yaml, get, get_h2c, raw, send,
    send_h2c, series, wait_for_metric, within_deadline,
};

/// An upstream `origin` of one endpoint, and no route.
fn to(upstream: impl Display) -> Yaml {
    Yaml::new().limits("body_size: 100MiB").with_upstream("origin", [upstream], "")
}

/// One test backend behind a route for everything.
async fn proxied() -> (Backend, Gateway, SocketAddr) {
    let backend = Backend::start().await;
    let gateway = to(backend.address()).with_route("upstream: origin").start().await;
    let address = gateway.address("main");
    (backend, gateway, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_serves_one_request_after_the_other() {
    let (_backend, _gateway, address) = proxied().await;
    let mut connection = Connection::http1(address).await.unwrap();
    for path in ["/", "/bytes/10kB", "/nowhere", "/status/204", "/bytes/10kB?chunked=1", "/status/304", "/"] {
        let answer = connection.send("GET", path, &[], "").await.unwrap();
        assert_eq!(answer.header("x-backend"), Some("backend"), "{path}");
    }
    for _ in 0..3 {
        let answer = connection.send("POST", "/echo", &[], "hello").await.unwrap();
        assert_eq!(answer.assert_status(200).text(), "hello");
    }
    assert!(!connection.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_their_order() {
    let (_backend, _gateway, address) = proxied().await;
    let mut connection = RawConnection::open(address);
    connection.write(concat!(
        "GET /delay/30ms HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
        "HEAD /bytes/5 HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /status/404 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ));
    assert_eq!(connection.read_response().text(), "waited 30ms");
    assert_eq!(connection.read_response().text(), "hello");
    assert_eq!(connection.read_head().header("content-length"), Some("5"));
    assert_eq!(connection.read_response().status, 404);
    assert!(connection.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_behind_a_chunked_one_is_answered_too() {
    let (_backend, _gateway, address) = proxied().await;
    let mut connection = RawConnection::open(address);
    connection.write(concat!(
        "POST /delay/50ms HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET /status/404 HTTP/1.1\r\nhost: a\r\n\r\n",
    ));
    assert_eq!(connection.read_response().text(), "waited 50ms");
    assert_eq!(connection.read_response().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_behind_a_chunked_one_does_not_cost_the_first_its_answer() {
    let (_backend, _gateway, address) = proxied().await;
    let mut connection = RawConnection::open(address);
    connection.write(
        "POST /delay/50ms HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    connection.write("GET /status/404 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(connection.read_response().text(), "waited 50ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_lines_between_requests_are_nothing() {
    let (_backend, _gateway, address) = proxied().await;
    let mut connection = RawConnection::open(address);
    for _ in 0..2 {
        connection.write("\r\n\r\nGET /status/404 HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(connection.read_response().status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_the_header_and_no_body() {
    let (_backend, _gateway, address) = proxied().await;
    let mut connection = RawConnection::open(address);
    for _ in 0..2 {
        connection.write("HEAD /bytes/1MiB HTTP/1.1\r\nhost: a\r\n\r\n");
        let head = connection.read_head();
        assert_eq!((head.status, head.header("content-length")), (200, Some("1048576")));
    }
    let answer = send_h2c(address, "HEAD", "/bytes/1MiB", &[], "").await;
    assert_eq!((answer.header("content-length"), answer.body.len()), (Some("1048576"), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_the_whole_server_passes_as_it_is() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await;
    let gateway = to(upstream.address()).with_route("upstream: origin").start().await;
    let mut connection = RawConnection::open(gateway.address("main"));
    connection.write("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(connection.read_response().status, 200);
    assert!(upstream.heads()[0].starts_with("OPTIONS * HTTP/1.1\r\n"), "{:?}", upstream.heads());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let (_backend, _gateway, address) = proxied().await;
    for _ in 0..2 {
        let mut connection = RawConnection::open(address);
        connection.write(
            "POST /status/201 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n",
        );
        assert_eq!(connection.read_response().status, 100);
        connection.write("hello");
        assert_eq!(connection.read_response().status, 201);
    }
}

/// What is left unread of a request would be taken for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_outlives_requests_that_fail_if_they_were_read_whole() {
    let backend = Backend::start().await;
    let resets = ScriptedUpstream::start(vec![Step::ReadHead, Step::Close]).await;
    let late = ScriptedUpstream::start(vec![Step::ReadHead, Step::ReadBody(5), Step::Stall]).await;
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{match: {{path: /reset}}, upstream: resets}}, \
         {{match: {{path: /late}}, upstream: late, timeout: 200ms}}, {{match: {{path: /gone}}, upstream: gone}}, {{upstream: origin}}]\n\
         upstreams:\n  resets: {{endpoints: ['{}']}}\n  late: {{endpoints: ['{}']}}\n  gone: {{endpoints: ['127.0.0.1:1']}}\n  \
         origin: {{endpoints: ['{}']}}\n",
        resets.address(),
        late.address(),
        backend.address()
    ))
    .await;
    let address = gateway.address("main");
    let mut connection = RawConnection::open(address);
    // What comes ahead of its time is kept.
    connection.write(concat!(
        "GET /reset HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /late HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
        "POST /late HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET /gone HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /bytes/3 HTTP/1.1\r\nhost: a\r\n\r\n",
    ));
    for (status, reason) in
        [(502, "upstream_reset"), (504, "request_timeout"), (504, "request_timeout"), (502, "connect_failed")]
    {
        let failed = connection.read_response();
        failed.assert_reason(status, reason);
        assert_eq!(failed.header("connection"), None, "{failed:?}");
    }
    assert_eq!(connection.read_response().body.len(), 3);
    connection.write("HEAD /gone HTTP/1.1\r\nhost: a\r\n\r\n");
    connection.read_head().assert_reason(502, "connect_failed");
    connection.write("GET /bytes/4 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(connection.read_response().body.len(), 4);

    for last in [
        "POST /gone HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhell",
        "GET /gone HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        "GET /gone HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "GET /gone HTTP/1.0\r\nhost: a\r\n\r\n",
    ] {
        let answer = String::from_utf8(raw(address, last)).unwrap().to_ascii_lowercase();
        assert!(answer.contains(" 502 ") && answer.contains("connection: close\r\n"), "{last}: {answer}");
    }
}

/// HTTP/1.1 and HTTP/2 have no request without a host: it is the endpoint's then.
#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_without_a_host_reaches_upstreams_of_either_version_with_that_of_the_endpoint() {
    let backend = Backend::start().await;
    for protocol in ["http1", "http2"] {
        let gateway = Gateway::start(&format!(
            "admin: false\nlisteners: [{{name: edge, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: u}}]\n\
             upstreams: {{u: {{endpoints: ['{}'], protocol: {protocol}}}}}\n",
            backend.address()
        ))
        .await;
        for head in ["GET /headers HTTP/1.0\r\n\r\n", "GET /headers HTTP/1.0\r\nconnection: close\r\n\r\n"] {
            let answer = raw(gateway.address("edge"), head);
            let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            assert_eq!(answer.split(' ').nth(1), Some("200"), "{protocol}: {answer}");
            assert!(answer.contains(&backend.address().to_string()), "{protocol}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_gets_an_answer_it_can_read_and_a_close() {
    let (_backend, _gateway, address) = proxied().await;
    let answer = raw(address, "GET /bytes/10?chunked=1 HTTP/1.0\r\nhost: a\r\n\r\n");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.ends_with(&format!("\r\n\r\n{}", "\0".repeat(10))), "{answer:?}");
    assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_are_spoken_on_one_port() {
    let (_backend, _gateway, address) = proxied().await;
    let (h1, h2c) = (get(address, "/").await, get_h2c(address, "/").await);
    assert_eq!((h1.version, h2c.version), (http::Version::HTTP_11, http::Version::HTTP_2));
    assert_eq!(h1.assert_status(200).text(), h2c.assert_status(200).text());
    let mut connection = Connection::h2c(address).await.unwrap();
    for _ in 0..3 {
        let answer = connection.send("POST", "/echo", &[], "hello").await.unwrap();
        assert_eq!(answer.assert_status(200).text(), "hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_unchanged_both_ways() {
    let (_backend, _gateway, address) = proxied().await;
    for path in ["/bytes/50MiB", "/bytes/50MiB?chunked=1"] {
        assert_eq!(get(address, path).await.body.len(), 50 << 20);
        assert_eq!(get_h2c(address, path).await.body.len(), 50 << 20);
    }
    let body = Bytes::from((0..20_000_000).map(|number: u32| (number % 251) as u8).collect::<Vec<_>>());
    let script = vec![Step::ReadHead, Step::ReadBody(body.len()), Step::respond("ok"), Step::Again];
    let upstream = ScriptedUpstream::start(script).await;
    let gateway = to(upstream.address()).with_route("upstream: origin").start().await;
    for answer in [
        send(gateway.address("main"), "POST", "/", &[], body.clone()).await,
        send_h2c(gateway.address("main"), "POST", "/", &[("content-length", "20000000")], body.clone()).await,
    ] {
        answer.assert_status(200);
    }
    let received: Vec<Vec<u8>> =
        (0..upstream.connections()).map(|number| upstream.received(number)).collect();
    let received = received.concat();
    assert_eq!(received.windows(4).filter(|window| window == b"\r\n\r\n").count(), 2);
    assert!(received.ends_with(&body) && received.len() > 2 * body.len(), "{} bytes came", received.len());
}

/// Within what sockets hold on the way: Pingora does not read an answer while it waits to send a request's body, so a
/// larger one that is answered while it comes may stop for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_answered_while_it_comes() {
    let (_backend, _gateway, address) = proxied().await;
    let body = Bytes::from((0..300_000).map(|number: u32| (number % 251) as u8).collect::<Vec<_>>());
    for answer in [
        send(address, "POST", "/echo", &[], body.clone()).await,
        send_h2c(address, "POST", "/echo", &[], body.clone()).await,
    ] {
        assert!(answer.assert_status(200).body == body, "{} bytes came back", answer.body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_request_is_streamed_and_not_gathered() {
    let (_backend, _gateway, address) = proxied().await;
    let mut connection = RawConnection::open(address);
    connection.write("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n");
    assert_eq!(connection.read_head().header("transfer-encoding"), Some("chunked"));
    assert_eq!(connection.read_exactly(8), b"3\r\none\r\n");
    connection.write("3\r\ntwo\r\n0\r\n\r\n");
    assert_eq!(connection.read_exactly(13), b"3\r\ntwo\r\n0\r\n\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_arrives_as_it_is_made() {
    let upstream = ScriptedUpstream::start(vec![
        Step::ReadHead,
        Step::write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"),
        Step::Hold,
        Step::write("4\r\nlast\r\n0\r\n\r\n"),
    ])
    .await;
    let gateway = to(upstream.address()).with_route("upstream: origin").start().await;
    let mut connection = RawConnection::open(gateway.address("main"));
    connection.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    connection.read_head();
    // The last part is not made before this one is here.
    assert_eq!(connection.read_exactly(10), b"5\r\nfirst\r\n");
    upstream.release();
    assert_eq!(connection.read_exactly(14), b"4\r\nlast\r\n0\r\n\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_works_through_the_gateway() {
    let (_backend, _gateway, address) = proxied().await;
    let url = format!("ws://{address}/ws");
    let (mut socket, response) = tokio_tungstenite::connect_async(url).await.unwrap();
    assert_eq!(response.headers()["x-backend"], "backend");
    for message in [Message::text("hello"), Message::binary(vec![9; 100_000]), Message::text("again")] {
        socket.send(message.clone()).await.unwrap();
        let echoed = within_deadline("an echo", socket.next()).await;
        assert_eq!(echoed.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    while let Some(message) = within_deadline("the end of a WebSocket", socket.next()).await {
        assert!(message.unwrap().is_close());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_limit_on_bodies_ends_a_websocket() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0', limits: {{body_size: 2KiB}}}}]\n\
         routes: [{{filters: [{{body_limit: 1KiB}}], upstream: origin}}]\n\
         upstreams: {{origin: {{endpoints: ['{}']}}}}\n",
        backend.address()
    ))
    .await;
    let url = format!("ws://{}/ws", gateway.address("main"));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    for message in [Message::binary(vec![9; 100_000]), Message::text("again")] {
        socket.send(message.clone()).await.unwrap();
        let echoed = within_deadline("an echo", socket.next()).await;
        assert_eq!(echoed.unwrap().unwrap(), message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_the_middle_hurts_nobody() {
    let (_backend, gateway, address) = proxied().await;
    for path in ["/bytes/100MiB", "/drip/100/100ms", "/delay/1h"] {
        let mut leaving = RawConnection::open(address);
        leaving.write(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        if path != "/delay/1h" {
            leaving.read_head();
        }
        drop(leaving);
        let line = gateway.wait_for_message("request").await;
        assert_eq!((&line["path"], &line["reason"]), (&path.into(), &"client_closed".into()), "{line}");
        get(address, "/").await.assert_status(200);
        gateway.wait_for_message("request").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_its_end_first_is_answered_where_the_listener_says_so() {
    let backend = Backend::start().await;
    let gateway = async |listener: &'static str| Yaml::to(backend.address()).listener(listener).start().await;
    let patient = gateway("half_close: true").await;
    let mut client = RawConnection::open(patient.address("main"));
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    client.write([ask("/bytes/3"), ask("/delay/300ms")].concat());
    client.finish_writing();
    assert_eq!(client.read_response().body.len(), 3);
    let last = client.read_response();
    assert_eq!((last.status, last.header("connection")), (200, Some("close")), "{last:?}");
    assert!(client.is_closed());
    // One that is gone looks the same until it is written to.
    let mut leaving = RawConnection::open(patient.address("main"));
    leaving.write(ask("/bytes/100MiB"));
    leaving.read_head();
    drop(leaving);
    let line = patient.wait_for_line(|line| line["path"] == "/bytes/100MiB").await;
    assert_eq!(line["reason"], "client_closed", "{line}");
    // Half a request is none.
    let mut half = RawConnection::open(patient.address("main"));
    half.write("POST /half HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nabc");
    half.finish_writing();
    let line = patient.wait_for_line(|line| line["path"] == "/half").await;
    assert_eq!(line["reason"], "client_closed", "{line}");

    let usual = gateway("").await;
    let mut client = RawConnection::open(usual.address("main"));
    client.write(ask("/delay/1h"));
    client.finish_writing();
    let line = usual.wait_for_line(|line| line["path"] == "/delay/1h").await;
    assert_eq!(line["reason"], "client_closed", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_hosts_and_versions_are_read_as_the_standard_has_it_and_passed_on_in_one_form() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await;
    let gateway = Yaml::to(upstream.address()).top("threads: 1").start().await;
    let mut client = RawConnection::open(gateway.address("main"));
    let mut expected = Vec::new();
    for (request, target, host) in [
        // The target's authority goes before the host (RFC 9112, section 3.2.2).
        (&b"GET http://shop.test/a HTTP/1.1\r\nhost: other.test\r\n"[..], "/a", "shop.test"),
        (b"GET HTTP://shop.test:80/b HTTP/1.1\r\nhost: Shop.Test\r\n", "/b", "shop.test:80"),
        (b"GET / HTTP/1.1\r\nhost: shop.test:\r\n", "/", "shop.test"),
        (b"GET /c HTTP/1.2\r\nhost: a\r\n", "/c", "a"),
        (b"GET /<d>?\"`\" HTTP/1.1\r\nhost: a\r\n", "/%3Cd%3E?%22%60%22", "a"),
        (b"GET /\xff?\xc3\xa9 HTTP/1.1\r\nhost: a\r\n", "/%FF?%C3%A9", "a"),
    ] {
        client.write([request, b"\r\n"].concat());
        assert_eq!(client.read_response().text(), "ok", "{target}");
        expected.push((target.to_owned(), host.to_owned()));
    }
    let mut http2 = Http2Client::open(gateway.address("main")).await;
    for (uri, other, target, host) in [
        ("http://shop.test:80/e", "Shop.test", "/e", "shop.test:80"),
        ("http://shop.test/f?`", "shop.test:", "/f?%60", "shop.test"),
    ] {
        http2.ask(request("GET", uri, &[("host", other)])).await.assert_status(200);
        expected.push((target.to_owned(), host.to_owned()));
    }
    let heads = upstream.heads();
    let seen = heads.iter().map(|head| {
        let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
        (head.split(' ').nth(1).unwrap_or_default().to_owned(), host.to_owned())
    });
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    assert!(heads.iter().all(|head| head.contains(" HTTP/1.1\r\n")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_route_takes_is_404_and_a_wrong_method_is_405_with_allow() {
    let backend = Backend::start().await;
    let gateway = to(backend.address())
        .with_route("match: {path: /echo, methods: [POST, PUT]}, upstream: origin")
        .with_route("match: {path: /headers, methods: [GET]}, upstream: origin")
        .start()
        .await;
    let address = gateway.address("main");
    for send_it in [false, true] {
        let send = async |method: &str, path: &str| match send_it {
            false => send(address, method, path, &[], "").await,
            true => send_h2c(address, method, path, &[], "").await,
        };
        send("GET", "/nowhere").await.assert_reason(404, "no_route");
        let refused = send("GET", "/echo").await;
        assert_eq!(refused.assert_reason(405, "method_not_allowed").header("allow"), Some("POST, PUT"));
        let refused = send("POST", "/headers").await;
        assert_eq!(refused.assert_reason(405, "method_not_allowed").header("allow"), Some("GET, HEAD"));
        send("HEAD", "/headers").await.assert_status(200);
        let head = send("HEAD", "/nowhere").await;
        assert!(head.assert_reason(404, "no_route").body.is_empty());
    }
    assert_eq!(get(backend.address(), "/count").await.text(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lives_on_after_answers_of_the_gateways_own() {
    let backend = Backend::start().await;
    let gateway = to(backend.address())
        .with_route("match: {path: /echo, methods: [POST]}, upstream: origin")
        .with_route("match: {path: /fixed}, respond: {status: 200, body: fixed}")
        .start()
        .await;
    let mut connection = RawConnection::open(gateway.address("main"));
    for _ in 0..3 {
        connection.write("GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\nGET /echo HTTP/1.1\r\nhost: a\r\n\r\n");
        connection.read_response().assert_reason(404, "no_route");
        connection.read_response().assert_reason(405, "method_not_allowed");
        connection.write("GET /fixed HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(connection.read_response().text(), "fixed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_gets_around_its_route() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("served"), Step::Again]).await;
    let gateway = to(upstream.address())
        .with_route("upstream: origin")
        .with_route("match: {path: /admin}, respond: {status: 403}")
        .start()
        .await;
    let mut connection = RawConnection::open(gateway.address("main"));
    for path in [
        "/admin",
        "/admin/x",
        "//admin",
        "///admin//x",
        "/./admin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/x/.%2E/admin",
        "/%2e/admin",
        "/%61dmin",
        "/ad%6Din",
        "/../../admin",
        "/admin/../admin",
        "http://a//admin",
        "http://a/x/../admin",
        "/admin?x=/../y",
    ] {
        connection.write(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!(connection.read_response().status, 403, "{path}");
    }
    assert_eq!(upstream.heads(), [""; 0]);
    for (sent, seen) in [
        ("/a/./b//c/../d?x=a/../b", "/a/b/d?x=a/../b"),
        ("/admin/../open", "/open"),
        ("/%7euser/%3ax%3a", "/~user/%3Ax%3A"),
        ("/Admin", "/Admin"),
        ("/administrator", "/administrator"),
        ("/?", "/?"),
    ] {
        connection.write(format!("GET {sent} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!(connection.read_response().text(), "served", "{sent}");
        let head = upstream.heads().pop().unwrap();
        assert!(head.starts_with(&format!("GET {seen} HTTP/1.1\r\n")), "{sent} became {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_problem_details_for_those_who_ask_and_one_line_for_the_rest() {
    let gateway = to("127.0.0.1:9").with_route("match: {path: /here}, upstream: origin").start().await;
    let address = gateway.address("main");
    for accept in ["application/json", "text/html, application/problem+json;q=0.5"] {
        let answer = send(address, "GET", "/nowhere", &[("accept", accept)], "").await;
        answer.assert_reason(404, "no_route");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let problem = answer.json();
        assert_eq!((&problem["status"], &problem["reason"]), (&404.into(), &"no_route".into()));
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    }
    for headers in [&[][..], &[("accept", "*/*")], &[("accept", "text/html")]] {
        let answer = send(address, "GET", "/nowhere", headers, "").await;
        answer.assert_reason(404, "no_route");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.text().lines().count(), 1);
    }
    let broken = send(address, "GET", "/here", &[("accept", "application/json")], "").await;
    assert_eq!(broken.assert_reason(502, "connect_failed").json()["status"], 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_choose_the_route_and_the_port_does_not() {
    let gateway = to("127.0.0.1:9")
        .with_route(r#"match: {hosts: ["*.example.com"]}, respond: {body: any}"#)
        .with_route("match: {hosts: [api.example.com]}, respond: {body: api}")
        .start()
        .await;
    let address = gateway.address("main");
    for (host, body) in [
        ("api.example.com", "api"),
        ("API.Example.com:8080", "api"),
        ("api.example.com.", "api"),
        ("www.example.com", "any"),
    ] {
        assert_eq!(send(address, "GET", "/", &[("host", host)], "").await.text(), body, "{host}");
        assert_eq!(send_h2c(address, "GET", "/", &[("host", host)], "").await.text(), body, "{host}");
    }
    send(address, "GET", "/", &[("host", "other.org")], "").await.assert_reason(404, "no_route");
}

/// Reads the access log until a line satisfies `wanted`: it is written a moment after the answer.
async fn access_line(gateway: &Gateway, wanted: impl Fn(&Value) -> bool) -> Value {
    within_deadline("a line of the access log", async {
        loop {
            let log = std::fs::read_to_string(gateway.directory().join("access.log")).unwrap_or_default();
            let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
            if let Some(line) = lines.into_iter().find(|line| wanted(line)) {
                return line;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_says_who_asked_what_and_how_it_went() {
    let backend = Backend::start().await;
    let more = "log: {access: {to: access.log, format: json}}";
    let gateway = to(backend.address())
        .top(more)
        .with_route("name: echo, match: {path: /echo}, filters: [{request_id: {}}], upstream: origin")
        .with_route("name: fixed, match: {path: /fixed}, respond: {status: 418, body: tea}")
        .start()
        .await;
    let address = gateway.address("main");
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("host", "Shop.example:80"), ("user-agent", "tests/1"), ("traceparent", traceparent)];
    let answer = send(address, "POST", "/x/../echo?token=secret", &headers, "hello").await;
    let line = access_line(&gateway, |line| line["route"] == "echo").await;
    let expected = serde_json::json!({
        "level": "info", "msg": "request", "listener": "main", "route": "echo", "upstream": "origin",
        "endpoint": backend.address().to_string(), "method": "POST", "host": "Shop.example:80", "path": "/echo",
        "status": 200, "attempts": 1, "hedged": false, "bytes_in": 5, "bytes_out": 5, "client": "127.0.0.1",
        "protocol": "HTTP/1.1", "request_id": answer.header("x-request-id").unwrap(),
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "user_agent": "tests/1",
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&line[key], value, "{key} in {line}");
    }
    let (duration, upstream) = (line["duration_ms"].as_f64().unwrap(), line["upstream_ms"].as_f64().unwrap());
    assert!(duration >= upstream && upstream > 0.0, "{line}");
    assert!(line["ts"].as_str().unwrap().ends_with('Z'), "{line}");
    for absent in ["reason", "peer", "tls"] {
        assert_eq!(line.get(absent), None, "{line}");
    }
    assert!(!line.to_string().contains("secret"), "{line}");

    get_h2c(address, "/fixed").await.assert_status(418);
    let line = access_line(&gateway, |line| line["route"] == "fixed").await;
    assert_eq!((&line["protocol"], &line["attempts"]), (&"HTTP/2".into(), &0.into()), "{line}");
    assert_eq!((&line["status"], &line["bytes_out"]), (&418.into(), &3.into()), "{line}");
    for absent in ["upstream", "endpoint", "upstream_ms", "reason", "request_id", "trace_id"] {
        assert_eq!(line.get(absent), None, "{absent} in {line}");
    }

    get(address, "/nowhere").await.assert_status(404);
    let line = access_line(&gateway, |line| line["status"] == 404).await;
    assert_eq!((&line["reason"], line.get("route")), (&"no_route".into(), None), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_count_what_happened() {
    let backend = Backend::start().await;
    let gateway = to(backend.address())
        .with_route("name: status, match: {path: /status}, upstream: origin")
        .with_route("name: dead, match: {path: /dead}, upstream: dead")
        .with_upstream("dead", ["127.0.0.1:9"], "")
        .start()
        .await;
    let address = gateway.address("main");
    for _ in 0..3 {
        get(address, "/status/200").await.assert_status(200);
    }
    get(address, "/status/503").await.assert_status(503);
    get(address, "/dead").await.assert_status(502);
    get(address, "/nowhere").await.assert_status(404);
    let endpoint = format!("upstream=\"origin\",endpoint=\"{}\"", backend.address());
    for (name, expected) in [
        (
            r#"tidegate_requests_total{listener="main",route="status",upstream="origin",status="200"}"#
                .to_owned(),
            3.0,
        ),
        (
            r#"tidegate_requests_total{listener="main",route="status",upstream="origin",status="503"}"#
                .into(),
            1.0,
        ),
        (r#"tidegate_requests_total{listener="main",route="dead",upstream="dead",status="502"}"#.into(), 1.0),
        (r#"tidegate_requests_total{listener="main",route="",upstream="",status="404"}"#.into(), 1.0),
        (r#"tidegate_request_duration_seconds_count{route="status",upstream="origin"}"#.into(), 4.0),
        (r#"tidegate_upstream_duration_seconds_count{upstream="origin"}"#.into(), 4.0),
        (r#"tidegate_errors_total{route="dead",reason="connect_failed"}"#.into(), 1.0),
        (r#"tidegate_errors_total{route="",reason="no_route"}"#.into(), 1.0),
        (r#"tidegate_requests_in_flight{listener="main"}"#.into(), 0.0),
        (r#"tidegate_connections_total{listener="main"}"#.into(), 6.0),
        (r#"tidegate_connections_active{listener="main"}"#.into(), 0.0),
        (format!("tidegate_upstream_attempts_total{{{endpoint},outcome=\"success\"}}"), 3.0),
        (format!("tidegate_upstream_attempts_total{{{endpoint},outcome=\"5xx\"}}"), 1.0),
        (format!("tidegate_upstream_active_requests{{{endpoint}}}"), 0.0),
    ] {
        // Counters move a moment after the client has its answer.
        wait_for_metric(&gateway, &name, &[], expected).await;
        assert!(series(&gateway, &name, &[]).await.is_some(), "{name}");
    }
    assert!(series(&gateway, "process_open_fds", &[]).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_fields_keep_their_case_where_an_upstream_asks_for_it() {
    let answer = "HTTP/1.1 200 OK\r\nX-CamelCase: 1\r\nContent-Length: 2\r\n\r\nhi";
    let (keeps, folds) = (("preserve_header_case: true", "X-CamelCase"), ("", "x-camelcase"));
    for ((setting, name), hedge) in [(keeps, ""), (keeps, "hedge: {after: 60s}, "), (folds, "")] {
        let steps = || vec![Step::ReadHead, Step::write(answer), Step::Again];
        let (upstream, shadow) =
            (ScriptedUpstream::start(steps()).await, ScriptedUpstream::start(steps()).await);
        let gateway = Yaml::to(upstream.address())
            .route(&format!("{hedge}mirror: {{upstream: shadow}}"))
            .settings(setting)
            .with_upstream("shadow", [shadow.address()], setting)
            .start()
            .await;
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX-CamelCase: 2\r\nConnection: close\r\n\r\n";
        let answer = raw(gateway.address("main"), head);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains(&format!("{name}: 1\r\n")), "{answer}");
        shadow.wait_for_heads(1).await;
        for received in [upstream.heads().concat(), shadow.heads().concat()] {
            assert!(received.contains(&format!("{name}: 2")), "{received}");
        }
    }
}
