//! Requests that wait for a plugin: what ends that, and where else they may.

use super::{gateway, gateway_of, yaml};
use crate::support::{
    Backend, Gateway, RawConnection, ScriptedUpstream, Step,
    grpc::{GrpcServer, call, message},
    http2::{Http2Client, whole},
    logged, metric,
    plugins::{directory_with, put, written},
    send, wait_for_metric,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_client_leaves_waits_no_more() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "does", "instances: 1, limits: {pause: 1h}").await;
    let mut connection = RawConnection::open(gateway.address("main"));
    connection.write("GET /left HTTP/1.1\r\nhost: a\r\nx-do: pause\r\n\r\n");
    wait_for_metric(&gateway, "tidegate_plugin_paused", &["p"], 1.0).await;
    drop(connection);
    wait_for_metric(&gateway, "tidegate_plugin_paused", &["p"], 0.0).await;
    assert_eq!(logged(&gateway, "/left").await["reason"], "client_closed");
    // Its context is gone: only the root's is left.
    let shown = crate::support::get(gateway.admin(), "/plugins").await.json();
    assert_eq!(shown[0]["contexts"], 1, "{shown}");
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["p"]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timeout_of_the_route_ends_a_pause_in_the_head() {
    let backend = Backend::start().await;
    let yaml = yaml(&backend, "does", "instances: 1, limits: {pause: 1h}")
        .replace("name: r,", "name: r, timeout: 500ms,");
    let gateway = Gateway::start_in(directory_with(&["does"]), &yaml, &[]).await;
    let address = gateway.address("main");
    send(address, "GET", "/headers", &[("x-do", "pause")], "").await.assert_reason(504, "request_timeout");
    send(address, "POST", "/headers", &[("x-do", "pause")], "body")
        .await
        .assert_reason(504, "request_timeout");
    send(address, "GET", "/headers", &[], "").await.assert_status(200);
    // The same in a listener's chain.
    let of_listener = yaml
        .replace("filters: [{wasm: p}], ", "")
        .replace("{name: main,", "{name: main, filters: [{wasm: p}],");
    gateway.reload(&of_listener).await;
    send(address, "GET", "/headers", &[("x-do", "pause")], "").await.assert_reason(504, "request_timeout");
}

/// Waits with what is behind a body, where `x-wait` says; a tick changes it and lets it go on.
const TRAILERS: &str = r#"
  (data (i32.const 1024) "x-wait")
  (data (i32.const 1040) "x-tick")
  (data (i32.const 1056) "came")
  (global $where (mut i32) (i32.const 0))
  (global $waiting (mut i32) (i32.const 0))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $set_tick (i32.const 1)))
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (global.set $where (i32.const 0))
    (if (i32.eqz (call $get (i32.const 0) (i32.const 1024) (i32.const 6) (i32.const 16) (i32.const 20)))
      (then (global.set $where (i32.load8_u (call $pointer)))))
    (i32.const 0))
  (func $waits (param $context i32) (param $here i32) (result i32)
    (if (i32.ne (global.get $where) (local.get $here)) (then (return (i32.const 0))))
    (global.set $waiting (local.get $context))
    (i32.const 1))
  (func (export "proxy_on_request_trailers") (param $context i32) (param i32) (result i32)
    (call $waits (local.get $context) (i32.const 113)))
  (func (export "proxy_on_response_trailers") (param $context i32) (param i32) (result i32)
    (call $waits (local.get $context) (i32.const 114)))
  (func (export "proxy_on_tick") (param i32)
    (if (global.get $waiting)
      (then
        (drop (call $effective (global.get $waiting)))
        (drop (call $add (i32.const 1) (i32.const 1040) (i32.const 6) (i32.const 1056) (i32.const 4)))
        (drop (call $add (i32.const 3) (i32.const 1040) (i32.const 6) (i32.const 1056) (i32.const 4)))
        (drop (call $continue (i32.const 0)))
        (global.set $waiting (i32.const 0)))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_may_wait_with_trailers_and_change_them() {
    let (backend, server) = (Backend::start().await, GrpcServer::start().await);
    let directory = tempfile::TempDir::new().unwrap();
    put(directory.path(), "written", &written(TRAILERS));
    let yaml = yaml(&backend, "written", "instances: 1").replace(
        &format!("['{}']}}", backend.address()),
        &format!("['{}'], protocol: grpc}}", server.address()),
    );
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    for (place, came) in [("none", None), ("r", Some("came"))] {
        let answer = client.ask(call("/late/0", &[("x-wait", place)])).await;
        assert_eq!(answer.body, message(b"one"), "{place}");
        let trailers = answer.trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers.get("x-tick").map(|value| value.to_str().unwrap()), came, "{place}");
    }
    // Those of the request; what came before them is not lost.
    let (answer, mut body) = client.begin(call("/echo", &[("x-wait", "q")]), false).await;
    body.send_data(message(b"hello").into(), false).unwrap();
    body.send_trailers([("x-mine".parse().unwrap(), "1".parse().unwrap())].into_iter().collect()).unwrap();
    let answer = whole(answer).await;
    assert_eq!(
        (answer.body, &answer.trailers.unwrap()["grpc-status"]),
        (message(b"hello").into(), &"0".parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_in_trailers_ends_like_any_other() {
    let (backend, server) = (Backend::start().await, GrpcServer::start().await);
    let directory = tempfile::TempDir::new().unwrap();
    let pauses = r#"(func (export "proxy_on_response_trailers") (param i32 i32) (result i32) (i32.const 1))"#;
    put(directory.path(), "written", &written(pauses));
    let yaml = yaml(&backend, "written", "instances: 1, fail: open, limits: {pause: 20ms}").replace(
        &format!("['{}']}}", backend.address()),
        &format!("['{}'], protocol: grpc}}", server.address()),
    );
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let answer = Http2Client::open(gateway.address("main")).await.ask(call("/late/0", &[])).await;
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["pause"]).await, 1.0);
    assert_eq!(metric(&gateway, "tidegate_plugin_skipped_total", &["p"]).await, 1.0);
}

/// What it said before it paused is not for the pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_go_on_that_came_too_early_lets_nothing_pass() {
    let backend = Backend::start().await;
    let eager = r#"
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $continue (i32.const 0)))
          (i32.const 0))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 1))"#;
    let gateway = gateway_of(&backend, eager, "instances: 1, limits: {pause: 20ms}").await;
    send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_reason(503, "plugin_error");
}

/// Holds each part of a body back but the last; a tick lets it go on.
const HOLDS: &str = r#"
  (global $waiting (mut i32) (i32.const 0))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $set_tick (i32.const 1)))
    (i32.const 1))
  (func (export "proxy_on_request_body") (export "proxy_on_response_body")
    (param $context i32) (param $size i32) (param $is_last i32) (result i32)
    (global.set $waiting (local.get $context))
    (i32.eqz (local.get $is_last)))
  (func (export "proxy_on_tick") (param i32)
    (if (global.get $waiting)
      (then
        (drop (call $effective (global.get $waiting)))
        (drop (call $continue (i32.const 0)))
        (global.set $waiting (i32.const 0)))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_may_go_on_does_not_wait_for_the_next() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello";
    let steps = vec![Step::ReadHead, Step::write(half), Step::Hold, Step::write("world")];
    let upstream = ScriptedUpstream::start(steps).await;
    let gateway = gateway_before(&upstream, HOLDS, "instances: 1").await;
    let mut connection = RawConnection::open(gateway.address("main"));
    connection.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    connection.read_head();
    assert_eq!(connection.read_exactly(5), b"hello");
    upstream.release();
    assert_eq!(connection.read_exactly(5), b"world");
    // The same of a request.
    let steps = vec![Step::ReadHead, Step::ReadBody(5), Step::respond("early")];
    let upstream = ScriptedUpstream::start(steps).await;
    let gateway = gateway_before(&upstream, HOLDS, "instances: 1").await;
    let mut connection = RawConnection::open(gateway.address("main"));
    connection.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello");
    assert_eq!(connection.read_response().text(), "early");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_behind_which_nothing_comes_is_held_back_no_longer_than_a_pause() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello";
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(half), Step::Stall]).await;
    let holds = r#"(func (export "proxy_on_response_body") (param i32 i32) (param $is_last i32) (result i32)
        (i32.eqz (local.get $is_last)))"#;
    let gateway = gateway_before(&upstream, holds, "instances: 1, limits: {pause: 20ms}").await;
    send(gateway.address("main"), "GET", "/", &[], "").await.assert_reason(503, "plugin_error");
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["pause"]).await, 1.0);
    let gateway = gateway_before(&upstream, holds, "instances: 1, fail: open, limits: {pause: 20ms}").await;
    let mut connection = RawConnection::open(gateway.address("main"));
    connection.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(connection.read_head().header("content-length"), Some("10"));
    assert_eq!(connection.read_exactly(5), b"hello");
}

async fn gateway_before(upstream: &ScriptedUpstream, functions: &str, more: &str) -> Gateway {
    let backend = Backend::start().await;
    let directory = tempfile::TempDir::new().unwrap();
    put(directory.path(), "written", &written(functions));
    let yaml = yaml(&backend, "written", more)
        .replace(&backend.address().to_string(), &upstream.address().to_string());
    Gateway::start_in(directory, &yaml, &[]).await
}
