//! The versions of the ABI, and hostcalls where they are not allowed.

use super::{gateway_from, gateway_of};
use crate::support::{
    Backend,
    plugins::{written, written_for},
    send,
};

/// Of the first version: heads do not say whether they are all, a key that is not there is empty, and the configuration is asked
/// for by a function of its own.
const FIRST: &str = r#"
  (data (i32.const 1024) "x-nowhere")
  (func (export "proxy_on_configure") (param $root i32) (param $size i32) (result i32)
    (drop (call $get_buffer (i32.const 7) (i32.const 0) (local.get $size) (i32.const 16) (i32.const 20)))
    (drop (call $log (i32.const 2) (call $pointer) (call $length)))
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param $context i32) (param $count i32) (result i32)
    (call $note (call $get (i32.const 0) (i32.const 1024) (i32.const 9) (i32.const 16) (i32.const 20)))
    (call $note (call $length))
    (call $tell_notes (i32.const 0))
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param $context i32) (param $count i32) (result i32)
    (call $note (i32.const 7))
    (call $tell_notes (i32.const 2))
    (i32.const 0))"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_of_the_first_version_runs() {
    let backend = Backend::start().await;
    let gateway = gateway_from(&backend, &written_for("0_1_0", FIRST), "instances: 1, config: as text").await;
    gateway.wait_for_message("as text").await;
    let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
    assert!(answer.text().contains(r#"["x-notes","00"]"#), "{}", answer.text());
    assert_eq!(answer.header("x-notes"), Some("7"));
}

/// Continues with functions that later versions have not.
const CONTINUES: &str = r#"(module
  (import "env" "proxy_continue_request" (func $continue_request (result i32)))
  (import "env" "proxy_continue_response" (func $continue_response (result i32)))
  (import "env" "proxy_clear_route_cache" (func $clear (result i32)))
  (import "env" "proxy_get_configuration" (func $configuration (param i32 i32) (result i32)))
  (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "proxy_abi_version_0_1_0"))
  (func (export "malloc") (param i32) (result i32) (i32.const 4096))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (if (call $configuration (i32.const 16) (i32.const 20)) (then (unreachable)))
    (drop (call $log (i32.const 2) (i32.load (i32.const 16)) (i32.load (i32.const 20))))
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32) (result i32)
    (if (i32.or (call $clear) (call $continue_request)) (then (unreachable)))
    (i32.const 1))
  (func (export "proxy_on_response_headers") (param i32 i32) (result i32)
    (if (call $continue_response) (then (unreachable)))
    (i32.const 1)))"#;

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_only_the_first_version_has_are_there() {
    let backend = Backend::start().await;
    let module = wat::parse_str(CONTINUES).unwrap();
    let gateway = gateway_from(&backend, &module, "instances: 1, config: as text").await;
    gateway.wait_for_message("as text").await;
    send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200).assert_no_reason();
}

/// Says whether a head is all, what a key that is not there is, and pauses at once in a head with more behind it.
const LATER: &str = r#"
  (data (i32.const 1024) "x-nowhere")
  (func (export "proxy_on_request_headers") (param $context i32) (param $count i32) (param $is_last i32) (result i32)
    (call $note (call $get (i32.const 0) (i32.const 1024) (i32.const 9) (i32.const 16) (i32.const 20)))
    (call $note (local.get $is_last))
    (call $tell_notes (i32.const 0))
    (i32.eqz (local.get $is_last)))
  (func (export "proxy_on_request_body") (param $context i32) (param $size i32) (param $is_last i32) (result i32)
    (if (local.get $is_last) (then (call $note (local.get $size)) (call $tell_notes (i32.const 0))))
    (i32.eqz (local.get $is_last)))"#;

#[tokio::test(flavor = "multi_thread")]
async fn later_versions_say_what_is_not_found_and_whether_a_head_is_all() {
    let backend = Backend::start().await;
    for version in ["0_2_0", "0_2_1"] {
        let gateway = gateway_from(&backend, &written_for(version, LATER), "limits: {pause: 20ms}").await;
        let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
        assert!(answer.text().contains(r#"["x-notes","11"]"#), "{version}: {}", answer.text());
        // Who pauses in a head keeps the body from being read.
        let answer = send(gateway.address("main"), "POST", "/headers", &[], "hello").await;
        answer.assert_reason(503, "plugin_error");
    }
}

/// There a pause in a head holds the head alone, without being asked for.
#[tokio::test(flavor = "multi_thread")]
async fn the_version_of_higress_goes_on_to_the_body() {
    let backend = Backend::start().await;
    let gateway = gateway_from(&backend, &written_for("0_2_100", LATER), "limits: {pause: 20ms}").await;
    let answer = send(gateway.address("main"), "POST", "/headers", &[], "hello").await;
    assert!(answer.text().contains(r#"["x-notes","5"]"#), "{}", answer.text());
}

/// What each hostcall answers where it has nothing to be about: 2 is a bad argument, 1 not found, : an internal failure.
#[tokio::test(flavor = "multi_thread")]
async fn hostcalls_where_they_are_not_allowed_are_refused_and_harm_nobody() {
    let backend = Backend::start().await;
    let calls = r#"
        (call $note (call $get (i32.const 0) (i32.const 1024) (i32.const 5) (i32.const 16) (i32.const 20)))
        (call $note (call $replace (i32.const 2) (i32.const 1024) (i32.const 5) (i32.const 1024) (i32.const 5)))
        (call $note (call $pairs (i32.const 1) (i32.const 16) (i32.const 20)))
        (call $note (call $set_pairs (i32.const 0) (i32.const 0) (i32.const 0)))
        (call $note (call $map_size (i32.const 0) (i32.const 16)))
        (call $note (call $get_buffer (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 16) (i32.const 20)))
        (call $note (call $set_buffer (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 5)))
        (call $note (call $answer (i32.const 200) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0) (i32.const -1)))
        (call $note (call $continue (i32.const 0)))
        (call $note (call $continue (i32.const 9)))
        (call $note (call $close (i32.const 0)))
        (call $note (call $effective (i32.const 77)))
        (call $note (call $done))
        (call $note (call $set_property (i32.const 1024) (i32.const 5) (i32.const 1024) (i32.const 5)))
        (call $note (call $property (i32.const 1032) (i32.const 12) (i32.const 16) (i32.const 20)))
        (call $note (call $foreign (i32.const 1024) (i32.const 5) (i32.const 0) (i32.const 0)
          (i32.const 16) (i32.const 20)))
        (call $note (call $dequeue (i32.const 99) (i32.const 16) (i32.const 20)))
        (call $note (call $grpc_send (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 1)))
        (call $note (call $grpc_close (i32.const 1)))
        (call $note (call $grpc_cancel (i32.const 1)))
        (call $say_notes)"#;
    let module = written(&format!(
        r#"(data (i32.const 1024) "x-abc")
        (data (i32.const 1032) "request\00path")
        (func $all {calls})
        (func (export "_initialize") (call $all))
        (func (export "proxy_on_configure") (param i32 i32) (result i32) (call $all) (i32.const 1))"#
    ));
    let gateway = gateway_from(&backend, &module, "instances: 1").await;
    // Before there are contexts, all but a few fail.
    gateway.wait_for_message(&":".repeat(20)).await;
    // Of a root, there is no request.
    gateway.wait_for_message("22022020020211111111").await;
    send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_another_phase_is_refused_in_each() {
    let backend = Backend::start().await;
    // The response's head and body, and trailers either way, in a request's head; the body is empty there.
    let gateway = gateway_of(
        &backend,
        r#"(data (i32.const 1024) "x-abc")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $note (call $add (i32.const 1) (i32.const 1024) (i32.const 5) (i32.const 1024) (i32.const 5)))
          (call $note (call $add (i32.const 3) (i32.const 1024) (i32.const 5) (i32.const 1024) (i32.const 5)))
          (call $note (call $add (i32.const 2) (i32.const 1024) (i32.const 5) (i32.const 1024) (i32.const 5)))
          (call $note (call $add (i32.const 6) (i32.const 1024) (i32.const 5) (i32.const 1024) (i32.const 5)))
          (call $note (call $add (i32.const 8) (i32.const 1024) (i32.const 5) (i32.const 1024) (i32.const 5)))
          (call $note (call $set_buffer (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 5)))
          (call $note (call $set_buffer (i32.const 7) (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 5)))
          (call $note (call $get_buffer (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 16) (i32.const 20)))
          (call $note (call $length))
          (call $note (call $get_buffer (i32.const 0) (i32.const -1) (i32.const -1) (i32.const 16) (i32.const 20)))
          (call $note (call $get_buffer (i32.const 3) (i32.const 0) (i32.const 9) (i32.const 16) (i32.const 20)))
          (call $tell_notes (i32.const 0))
          (i32.const 0))"#,
        "instances: 1",
    )
    .await;
    let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
    let seen = answer.assert_status(200).text();
    assert!(seen.contains(r#"["x-notes","22222220000"]"#), "{seen}");
}
