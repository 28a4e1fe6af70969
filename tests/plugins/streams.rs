//! Streams of gRPC: either side says as much as it likes, when it likes.

use super::yaml;
use crate::support::{
    Backend, Gateway,
    grpc::GrpcServer,
    metric,
    plugins::{put, written},
    send, wait_for_metric,
};

async fn gateway(backend: &Backend, server: &GrpcServer, functions: &str, more: &str) -> Gateway {
    let directory = tempfile::TempDir::new().unwrap();
    put(directory.path(), "written", &written(functions));
    let more = format!("instances: 1, upstreams: [talk], {more}");
    let yaml = yaml(backend, "written", &more).replace(
        "upstreams: {origin",
        &format!("upstreams: {{talk: {{endpoints: ['{}'], protocol: grpc}}, origin", server.address()),
    );
    Gateway::start_in(directory, &yaml, &[]).await
}

/// Opens `/PATH`, says two messages, and closes its side. All that is heard becomes a line: `m` for metadata, the messages, `t` for
/// what is behind them, and the status.
fn talks(path: &str, number: &str) -> String {
    format!(
        r#"
  (data (i32.const 1024) "talk")
  (data (i32.const 1040) "{path}")
  (data (i32.const 1056) "{number}")
  (data (i32.const 1072) "one")
  (data (i32.const 1080) "two")
  (global $waiting (mut i32) (i32.const 0))
  (func (export "proxy_on_request_headers") (param $context i32) (param i32 i32) (result i32)
    (global.set $waiting (local.get $context))
    (if (call $grpc_stream (i32.const 1024) (i32.const 4) (i32.const 1040) (i32.const {})
        (i32.const 1056) (i32.const {}) (i32.const 0) (i32.const 0) (i32.const 40))
      (then (unreachable)))
    (call $note (call $grpc_send (i32.load (i32.const 40)) (i32.const 1072) (i32.const 3) (i32.const 0)))
    (call $note (call $grpc_send (i32.load (i32.const 40)) (i32.const 1080) (i32.const 3) (i32.const 1)))
    (call $note (call $grpc_send (i32.load (i32.const 40)) (i32.const 1080) (i32.const 3) (i32.const 1)))
    (i32.const 1))
  (func (export "proxy_on_grpc_receive_initial_metadata") (param i32 i32 i32) (call $note (i32.const 61)))
  (func (export "proxy_on_grpc_receive") (param $root i32) (param $call i32) (param $size i32)
    (drop (call $get_buffer (i32.const 5) (i32.const 0) (local.get $size) (i32.const 16) (i32.const 20)))
    (drop (call $log (i32.const 2) (call $pointer) (call $length))))
  (func (export "proxy_on_grpc_receive_trailing_metadata") (param i32 i32 i32) (call $note (i32.const 68)))
  (func (export "proxy_on_grpc_close") (param $root i32) (param $call i32) (param $status i32)
    (drop (call $effective (global.get $waiting)))
    (call $note (local.get $status))
    (call $note (call $grpc_cancel (local.get $call)))
    (call $tell_notes (i32.const 0))
    (drop (call $continue (i32.const 0))))"#,
        path.len(),
        number.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_and_hears_messages_and_how_it_ended() {
    let (backend, server) = (Backend::start().await, GrpcServer::start().await);
    let echoes = gateway(&backend, &server, &talks("echo", "x"), "").await;
    let answer = send(echoes.address("main"), "GET", "/headers", &[], "").await;
    // Sent twice, a third time refused; metadata, trailers, status 0, and the stream is gone.
    assert!(answer.text().contains(r#"["x-notes","002mt01"]"#), "{}", answer.text());
    echoes.wait_for_message("one").await;
    echoes.wait_for_message("two").await;
    assert_eq!(metric(&echoes, "tidegate_plugin_http_calls_total", &["talk", "answered"]).await, 1.0);
    // The upstream ends it with a status of its own, with messages and without.
    for (path, number, notes) in [("late", "7", "002mt71"), ("only", "5", "002mt51")] {
        let gateway = gateway(&backend, &server, &talks(path, number), "").await;
        let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
        assert!(answer.text().contains(&format!(r#"["x-notes","{notes}"]"#)), "{path}: {}", answer.text());
    }
    // It breaks off: unavailable is 14.
    let broken = gateway(&backend, &server, &talks("reset", "2"), "").await;
    let answer = send(broken.address("main"), "GET", "/headers", &[], "").await;
    assert!(answer.text().contains(r#"["x-notes","002>1"]"#), "{}", answer.text());
    assert_eq!(metric(&broken, "tidegate_plugin_http_calls_total", &["talk", "failed"]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cancelled_or_whose_instance_fails_is_reset() {
    let (backend, server) = (Backend::start().await, GrpcServer::start().await);
    let opens = |then: &str| {
        format!(
            r#"
  (data (i32.const 1024) "talk")
  (data (i32.const 1040) "silent")
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $grpc_stream (i32.const 1024) (i32.const 4) (i32.const 1040) (i32.const 6)
      (i32.const 1040) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 40)))
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {then} (i32.const 0))
  (func (export "proxy_on_grpc_close") (param i32 i32 i32) (unreachable))"#
        )
    };
    let cancels = opens("(drop (call $grpc_cancel (i32.load (i32.const 40))))");
    let first = gateway(&backend, &server, &cancels, "").await;
    server.wait_for_calls(1).await;
    send(first.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
    server.wait_for_cancelled(1).await;
    // Nothing is heard of it any more.
    assert_eq!(metric(&first, "tidegate_plugin_failures_total", &["p"]).await, 0.0);
    let traps = opens("(unreachable)");
    let second = gateway(&backend, &server, &traps, "").await;
    server.wait_for_calls(2).await;
    send(second.address("main"), "GET", "/headers", &[], "").await.assert_reason(503, "plugin_error");
    server.wait_for_cancelled(2).await;
    // The instance in its place has a stream of its own.
    wait_for_metric(&second, "tidegate_plugin_restarts_total", &["p"], 1.0).await;
    server.wait_for_calls(3).await;
}

/// What waits to be sent is bounded, and so is each message that comes.
#[tokio::test(flavor = "multi_thread")]
async fn neither_side_of_a_stream_can_say_more_than_it_may() {
    let (backend, server) = (Backend::start().await, GrpcServer::start().await);
    let floods = r#"
  (data (i32.const 1024) "talk")
  (data (i32.const 1040) "silent")
  (global $stream (mut i32) (i32.const 0))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (local $left i32) (local $said i32)
    (drop (call $grpc_stream (i32.const 1024) (i32.const 4) (i32.const 1040) (i32.const 6)
      (i32.const 1040) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 40)))
    (local.set $left (i32.const 100))
    (loop $more
      (local.set $said (call $grpc_send (i32.load (i32.const 40)) (i32.const 0) (i32.const 30000) (i32.const 0)))
      (br_if $more (i32.and (i32.eqz (local.get $said))
        (i32.ne (i32.const 0) (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))
    (call $note (local.get $said))
    (call $say_notes)
    (i32.const 1))"#;
    let flooded = gateway(&backend, &server, floods, "limits: {buffer: 64KiB}").await;
    flooded.wait_for_message(":").await;
    // The answer is one message of 3 bytes, which is too large here.
    let small = gateway(&backend, &server, &talks("late", "0"), "limits: {call_body: 2B}").await;
    let answer = send(small.address("main"), "GET", "/headers", &[], "").await;
    assert!(answer.text().contains(r#"["x-notes","002m>1"]"#), "{}", answer.text());
}
