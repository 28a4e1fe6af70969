//! `tidegate backend`, which the other tests stand on, and that load against it notices what it should.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use nix::sys::signal::Signal;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Backend, Connection, Load, Process, RawConnection, get, get_h2c, raw, send, send_h2c, tidegate,
    within_deadline,
};

#[tokio::test]
async fn says_who_it_is_over_both_protocols() {
    let backend = Backend::named("blue").await;
    let greeting = format!("hello from blue ({})\n", backend.address());
    for answer in [get(backend.address(), "/").await, get_h2c(backend.address(), "/").await] {
        assert_eq!(answer.assert_status(200).text(), greeting);
        assert_eq!(answer.header("x-backend"), Some("blue"));
    }
}

#[tokio::test]
async fn any_other_path_is_answered_with_what_was_asked_for() {
    let backend = Backend::named("blue").await;
    let answer = get(backend.address(), "/shop/7?a=b").await;
    let expected = format!("hello from blue ({})\nGET /shop/7?a=b\n", backend.address());
    assert_eq!(answer.assert_status(200).text(), expected);
    assert_eq!(answer.header("x-backend"), Some("blue"));
    get(backend.address(), "/api/users").await.assert_status(200);
}

#[tokio::test]
async fn health_is_toggled_by_post_only() {
    let backend = Backend::start().await;
    let at = backend.address();
    assert_eq!(get(at, "/health").await.assert_status(200).text(), "ok");
    let refused = get(at, "/health/fail").await;
    assert_eq!(refused.assert_status(405).header("allow"), Some("POST"));
    get(at, "/health").await.assert_status(200);
    send(at, "POST", "/health/fail", &[], "").await.assert_status(200);
    get(at, "/health").await.assert_status(503);
    send(at, "POST", "/health/ok", &[], "").await.assert_status(200);
    get(at, "/health").await.assert_status(200);
}

#[tokio::test]
async fn grpc_health_follows_the_same_flag() {
    let backend = Backend::start().await;
    for (toggle, serving) in [("ok", 1), ("fail", 2)] {
        send(backend.address(), "POST", &format!("/health/{toggle}"), &[], "").await.assert_status(200);
        let answer = send_h2c(
            backend.address(),
            "POST",
            "/grpc.health.v1.Health/Check",
            &[("content-type", "application/grpc"), ("te", "trailers")],
            Bytes::from_static(&[0, 0, 0, 0, 0]),
        )
        .await;
        answer.assert_status(200);
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
        assert_eq!(answer.body[..], [0, 0, 0, 0, 2, 0x08, serving]);
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    }
}

#[tokio::test]
async fn a_panic_drops_the_connection_and_not_the_process() {
    let backend = Backend::start().await;
    assert!(raw(backend.address(), "GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").is_empty());
    let mut h2c = Connection::h2c(backend.address()).await.unwrap();
    within_deadline("a reset", h2c.send("GET", "/panic", &[], "")).await.unwrap_err();
    get(backend.address(), "/").await.assert_status(200);
    assert!(backend.stderr().contains("/panic was asked for"));
}

#[tokio::test]
async fn delays_and_statuses_are_what_the_path_says() {
    let backend = Backend::start().await;
    let started = Instant::now();
    assert_eq!(get(backend.address(), "/delay/30ms").await.assert_status(200).text(), "waited 30ms");
    assert!(started.elapsed() >= Duration::from_millis(30));
    for status in [200, 204, 304, 404, 429, 503, 599] {
        get(backend.address(), &format!("/status/{status}")).await.assert_status(status);
    }
    for refused in [
        "/delay/soon",
        "/delay/5",
        "/delay/1ms/1ms/0",
        "/status/100",
        "/status/1000",
        "/status/",
        "/bytes/many",
        "/drip/x/1s",
    ] {
        get(backend.address(), refused).await.assert_status(400);
    }
}

#[tokio::test]
async fn echo_returns_the_body_and_its_type() {
    let backend = Backend::start().await;
    let body = Bytes::from(vec![7; 300_000]);
    let headers = [("content-type", "image/png")];
    for method in ["POST", "PUT", "DELETE"] {
        let h1 = send(backend.address(), method, "/echo", &headers, body.clone()).await;
        let h2c = send_h2c(backend.address(), method, "/echo", &headers, body.clone()).await;
        for answer in [h1, h2c] {
            assert_eq!(answer.assert_status(200).header("content-type"), Some("image/png"));
            assert_eq!(answer.body, body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn echo_streams() {
    let backend = Backend::start().await;
    let mut connection = RawConnection::open(backend.address());
    connection.write("POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n");
    assert_eq!(connection.read_head().header("transfer-encoding"), Some("chunked"));
    assert_eq!(connection.read_exactly(8), b"3\r\none\r\n");
    connection.write("3\r\ntwo\r\n0\r\n\r\n");
    assert_eq!(connection.read_exactly(13), b"3\r\ntwo\r\n0\r\n\r\n");
}

#[tokio::test]
async fn headers_are_shown_in_the_order_received() {
    let backend = Backend::start().await;
    let headers = [("x-second", "2"), ("a-first", "1"), ("x-second", "3")];
    let seen = send(backend.address(), "PATCH", "/headers?a=b%20c", &headers, "").await.json();
    assert_eq!(seen["method"], "PATCH");
    assert_eq!(seen["path"], "/headers?a=b%20c");
    assert_eq!(seen["version"], "HTTP/1.1");
    let host = backend.address().to_string();
    assert_eq!(
        seen["headers"].as_array().unwrap()[..4],
        serde_json::json!([["host", host], ["x-second", "2"], ["x-second", "3"], ["a-first", "1"]])
            .as_array()
            .unwrap()[..]
    );
    let seen = send_h2c(backend.address(), "GET", "/headers", &[("host", "a.example")], "").await.json();
    assert_eq!((&seen["version"], &seen["authority"]), (&"HTTP/2.0".into(), &"a.example".into()));
}

#[tokio::test]
async fn bytes_come_with_a_length_or_chunked() {
    let backend = Backend::start().await;
    let sized = get(backend.address(), "/bytes/1MiB").await;
    assert_eq!(sized.header("content-length"), Some("1048576"));
    assert_eq!(sized.body.len(), 1 << 20);
    let chunked = get(backend.address(), "/bytes/100kB?chunked=1").await;
    assert_eq!(chunked.header("content-length"), None);
    assert_eq!(chunked.body.len(), 100_000);
    let capped = send(backend.address(), "HEAD", "/bytes/5GiB", &[], "").await;
    assert_eq!(capped.header("content-length"), Some("1073741824"));
}

#[tokio::test]
async fn a_drip_comes_in_chunks_with_pauses() {
    let backend = Backend::start().await;
    let started = Instant::now();
    let answer = get(backend.address(), "/drip/3/10ms").await;
    assert!(started.elapsed() >= Duration::from_millis(30));
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(answer.text(), "drip 1\ndrip 2\ndrip 3\n");
}

#[tokio::test]
async fn count_leaves_probes_out() {
    let backend = Backend::start().await;
    for path in ["/", "/nowhere", "/health", "/count"] {
        get(backend.address(), path).await;
    }
    send(backend.address(), "POST", "/echo", &[], "x").await;
    assert_eq!(get(backend.address(), "/count").await.text(), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_a_connection_whose_request_body_nobody_wanted() {
    let backend = Backend::start().await;
    let mut connection = RawConnection::open(backend.address());
    for _ in 0..2 {
        connection.write("POST /status/503 HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n");
        connection.write("hello");
        assert_eq!(connection.read_response().status, 503);
    }
}

#[tokio::test]
async fn a_websocket_echoes_text_binary_and_ping_then_closes() {
    let backend = Backend::named("blue").await;
    let (mut socket, response) =
        tokio_tungstenite::connect_async(format!("ws://{}/ws", backend.address())).await.unwrap();
    assert_eq!(response.headers()["x-backend"], "blue");
    let long = "x".repeat(200);
    let huge = vec![9; 100_000];
    for message in [Message::text("hello"), Message::text(long), Message::binary(huge)] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.send(Message::Ping("now".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("now".into()));
    socket.close(None).await.unwrap();
    while let Some(message) = within_deadline("the end of a WebSocket", socket.next()).await {
        assert!(message.unwrap().is_close());
    }
}

#[tokio::test]
async fn a_plain_request_for_the_websocket_is_told_to_upgrade() {
    let backend = Backend::start().await;
    let answer = get(backend.address(), "/ws").await;
    assert_eq!(answer.assert_status(426).header("upgrade"), Some("websocket"));
    let without_key = [("connection", "upgrade"), ("upgrade", "websocket")];
    send(backend.address(), "GET", "/ws", &without_key, "").await.assert_status(426);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_the_request_in_flight_and_closes_idle_connections() {
    let backend = Backend::start().await;
    let mut idle = RawConnection::open(backend.address());
    idle.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(idle.read_response().status, 200);
    let mut busy = RawConnection::open(backend.address());
    busy.write("GET /drip/2/200ms HTTP/1.1\r\nhost: x\r\n\r\n");
    busy.read_head();
    backend.signal(Signal::SIGTERM);
    assert!(idle.is_closed());
    assert!(busy.read_to_end().ends_with(b"drip 2\n\r\n0\r\n\r\n"));
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_does_not_wait() {
    let backend = Backend::start().await;
    let mut busy = RawConnection::open(backend.address());
    busy.write("GET /drip/2/60s HTTP/1.1\r\nhost: x\r\n\r\n");
    busy.read_head();
    let mut idle = RawConnection::open(backend.address());
    idle.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    idle.read_response();
    backend.signal(Signal::SIGINT);
    // Its end shows that the first signal was seen: two at once would be merged.
    assert!(idle.is_closed());
    backend.stop().await;
}

#[tokio::test]
async fn comes_back_on_the_port_it_was_killed_on() {
    let first = Backend::start().await;
    get(first.address(), "/").await.assert_status(200);
    first.kill().await;
    let second = Backend::start_at(first.address()).await;
    assert_eq!(second.address(), first.address());
    get(second.address(), "/").await.assert_status(200);
}

#[tokio::test]
async fn several_listen_in_one_process_and_each_is_named_after_its_address() {
    let home = tempfile::tempdir().unwrap();
    let mut command = tidegate(home.path());
    command.args(["backend", "--listen", "127.0.0.1:0", "--listen", ":0"]);
    let backends = Process::spawn(command);
    for line in backends.first_lines(2).await {
        let address = line.strip_prefix("backend listening on ").unwrap().parse().unwrap();
        assert_eq!(get(address, "/").await.header("x-backend"), Some(format!("{address}").as_str()));
    }
}

#[tokio::test]
async fn an_address_in_use_is_a_failure_with_a_hint() {
    let backend = Backend::start().await;
    let home = tempfile::tempdir().unwrap();
    let mut command = tidegate(home.path());
    command.args(["backend", "--listen", &backend.address().to_string()]);
    let second = Process::spawn(command);
    assert!(!second.wait_exit().await.success());
    assert!(second.stderr().contains("(try `--listen :0`)"), "{}", second.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn load_is_clean_against_a_healthy_backend() {
    let backend = Backend::start().await;
    let loads = [Load::start(backend.address(), "/", 4), Load::start_h2c(backend.address(), "/", 4)];
    for load in loads {
        load.wait_for_requests(200).await;
        load.stop().await.assert_no_failures();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_notices_a_backend_that_dies_and_one_that_panics() {
    let backend = Backend::start().await;
    let load = Load::start(backend.address(), "/", 2);
    load.wait_for_requests(20).await;
    backend.kill().await;
    load.wait_for_failure().await;
    let back = Backend::start_at(backend.address()).await;
    load.wait_for_requests(20).await;
    assert!(load.stop().await.failed > 0);
    for load in [Load::start(back.address(), "/panic", 1), Load::start_h2c(back.address(), "/panic", 1)] {
        load.wait_for_failure().await;
        assert_eq!(load.stop().await.requests, 0);
    }
}
