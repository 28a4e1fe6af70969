//! What a plugin may take, and what it is told at the limit.

use super::{gateway_from, gateway_of, yaml};
use crate::support::{
    Backend, Gateway, metric,
    plugins::{put, written},
    send, wait_for_metric,
};

/// One more than may be under way is refused, and there is room again when one is over.
#[tokio::test(flavor = "multi_thread")]
async fn so_many_calls_are_under_way_and_no_more() {
    let backend = Backend::start().await;
    // Nobody accepts: who connects waits for an answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let calls = r#"
        (data (i32.const 1024) "\03\00\00\00\07\00\00\00\03\00\00\00\05\00\00\00\02\00\00\00\0a\00\00\00\01\00\00\00:method\00GET\00:path\00/a\00:authority\00a\00")
        (data (i32.const 1280) "silent")
        (func $call (call $note (call $http_call (i32.const 1280) (i32.const 6) (i32.const 1024) (i32.const 62)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 50) (i32.const 40))))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $call) (call $call) (call $call)
          (call $tell_notes (i32.const 0))
          (i32.const 0))"#;
    let directory = tempfile::TempDir::new().unwrap();
    put(directory.path(), "written", &written(calls));
    let address = silent.local_addr().unwrap();
    let yaml = yaml(&backend, "written", "instances: 1, upstreams: [silent], limits: {calls: 2}")
        .replace("upstreams: {origin", &format!("upstreams: {{silent: {{endpoints: ['{address}']}}, origin"));
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    for round in 1..=2 {
        let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
        assert!(answer.text().contains(r#"["x-notes","00:"]"#), "{}", answer.text());
        wait_for_metric(
            &gateway,
            "tidegate_plugin_http_calls_total",
            &["silent", "failed"],
            f64::from(round * 2),
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_data_has_so_much_room_which_it_gives_back() {
    let backend = Backend::start().await;
    // Five values of 20,000 bytes do not fit; one that is replaced by a small one makes room.
    let shares = r#"
        (data (i32.const 1024) "abcde")
        (func $keep (param $key i32) (param $size i32)
          (call $note (call $set_shared (local.get $key) (i32.const 1) (i32.const 0) (local.get $size) (i32.const 0))))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (call $keep (i32.const 1024) (i32.const 20000))
          (call $keep (i32.const 1025) (i32.const 20000))
          (call $keep (i32.const 1026) (i32.const 20000))
          (call $keep (i32.const 1027) (i32.const 20000))
          (call $keep (i32.const 1024) (i32.const 1))
          (call $keep (i32.const 1027) (i32.const 20000))
          ;; Whoever has not seen the last may not replace it.
          (call $note (call $set_shared (i32.const 1024) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 77)))
          (call $say_notes)
          (i32.const 1))"#;
    let gateway = gateway_of(&backend, shares, "instances: 1, limits: {shared: 64KiB}").await;
    gateway.wait_for_message("000:008").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_lines_are_written_and_the_rest_is_counted() {
    let backend = Backend::start().await;
    let talks = r#"
        (data (i32.const 1024) "a line")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (local $left i32)
          (local.set $left (i32.const 500))
          (loop $more
            (drop (call $log (i32.const 2) (i32.const 1024) (i32.const 6)))
            (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
          (i32.const 0))"#;
    let gateway = gateway_of(&backend, talks, "instances: 1, limits: {log: 5/h}").await;
    send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
    assert_eq!(metric(&gateway, "tidegate_plugin_log_dropped_total", &["p"]).await, 495.0);
    gateway.wait_for_message("a line").await;
    assert!(gateway.lines().iter().filter(|line| line["msg"] == "a line").count() <= 5);
}

/// What is held back counts, and not what passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_held_back_up_to_the_buffer_and_may_pass_beyond() {
    let backend = Backend::start().await;
    let watches = r#"
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    let gateway = gateway_of(&backend, watches, "limits: {buffer: 1KiB}").await;
    let body = "x".repeat(100_000);
    let answer = send(gateway.address("main"), "POST", "/echo", &[], body.clone()).await;
    assert_eq!(answer.assert_status(200).body.len(), body.len());
    let holds = r#"(func (export "proxy_on_response_body") (param $context i32) (param $size i32) (param $is_last i32) (result i32)
        (i32.eqz (local.get $is_last)))"#;
    let gateway = gateway_from(&backend, &written(holds), "limits: {buffer: 1KiB}").await;
    // It comes in parts.
    let answer = send(gateway.address("main"), "POST", "/echo", &[], "x".repeat(500_000)).await;
    answer.assert_reason(503, "plugin_error");
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["buffer"]).await, 1.0);
    // Without the plugin it passes whole, as long as it was said to be.
    let gateway = gateway_from(&backend, &written(holds), "fail: open, limits: {buffer: 1KiB}").await;
    let answer = send(gateway.address("main"), "GET", "/bytes/512KiB", &[], "").await;
    assert_eq!(answer.assert_status(200).header("content-length"), Some("524288"));
    assert_eq!(answer.body.len(), 524_288);
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["length"]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_cut_where_it_is_too_long() {
    let backend = Backend::start().await;
    let talks = r#"
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (memory.fill (i32.const 4096) (i32.const 120) (i32.const 60000))
          (drop (call $log (i32.const 2) (i32.const 4096) (i32.const 60000)))
          (i32.const 1))"#;
    let gateway = gateway_of(&backend, talks, "instances: 1").await;
    gateway.wait_for_message(&"x".repeat(16 * 1024)).await;
}
