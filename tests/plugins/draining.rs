//! How plugins end that a reload leaves out, and those that run without requests.

use super::{gateway_of, yaml};
use crate::support::{
    Backend, Gateway, get, metric,
    plugins::{put, written},
    send, series, wait_for_metric,
};

/// Says that it is not done yet, until a tick, and tells of its end.
const LINGERS: &str = r#"
  (data (i32.const 1024) "asked")
  (data (i32.const 1040) "deleted")
  (global $root (mut i32) (i32.const 0))
  (global $asked (mut i32) (i32.const 0))
  (func (export "proxy_on_context_create") (param $context i32) (param $of i32)
    (if (i32.eqz (local.get $of)) (then (global.set $root (local.get $context)))))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $set_tick (i32.const 10)))
    (i32.const 1))
  (func (export "proxy_on_done") (param $context i32) (result i32)
    (if (i32.ne (local.get $context) (global.get $root)) (then (return (i32.const 1))))
    (drop (call $log (i32.const 2) (i32.const 1024) (i32.const 5)))
    (global.set $asked (i32.const 1))
    (i32.const 0))
  (func (export "proxy_on_tick") (param i32)
    (if (global.get $asked)
      (then
        (call $note (call $done))
        (call $note (call $done))
        (call $say_notes)
        (global.set $asked (i32.const 0)))))
  (func (export "proxy_on_delete") (param $context i32)
    (if (i32.eq (local.get $context) (global.get $root))
      (then (drop (call $log (i32.const 2) (i32.const 1040) (i32.const 7))))))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_not_done_yet_is_kept_until_it_says_so() {
    let backend = Backend::start().await;
    let gateway = gateway_of(&backend, LINGERS, "instances: 1").await;
    send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
    let without = yaml(&backend, "written", "instances: 1").replace("filters: [{wasm: p}], ", "");
    gateway.reload(&without).await;
    // It is done once, and only what was asked can be.
    gateway.wait_for_message("01").await;
    gateway.wait_for_message("deleted").await;
    let order: Vec<_> =
        gateway.lines().iter().filter_map(|line| line["msg"].as_str().map(str::to_owned)).collect();
    let at = |wanted: &str| order.iter().position(|line| line == wanted).unwrap();
    assert!(at("asked") < at("01") && at("01") < at("deleted"), "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reload_replaces_drains_until_its_last_request_is_over() {
    let backend = Backend::start().await;
    let gateway = super::gateway(&backend, "does", "instances: 2, limits: {pause: 1h}").await;
    let address = gateway.address("main");
    let held = tokio::spawn(async move { send(address, "GET", "/headers", &[("x-do", "pause")], "").await });
    wait_for_metric(&gateway, "tidegate_plugin_paused", &["p"], 1.0).await;
    gateway.reload(&yaml(&backend, "does", "instances: 1, limits: {pause: 2h}")).await;
    let instances = async |state: &str| metric(&gateway, "tidegate_plugin_instances", &[state]).await;
    assert_eq!((instances("ready").await, instances("draining").await), (1.0, 2.0));
    let shown = get(gateway.admin(), "/plugins").await;
    let text = shown.assert_status(200).text();
    let keys = [
        "name",
        "file",
        "sha256",
        "abi",
        "instances",
        "ready",
        "draining",
        "memory",
        "contexts",
        "failures",
        "since",
    ];
    let places: Vec<_> = keys.iter().map(|key| text.find(&format!("\"{key}\":")).expect(key)).collect();
    assert!(places.is_sorted(), "{text}");
    assert_eq!((&shown.json()[0]["draining"], &shown.json()[0]["ready"]), (&2.into(), &1.into()));
    held.abort();
    wait_for_metric(&gateway, "tidegate_plugin_instances", &["draining"], 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_may_run_although_no_filter_names_it() {
    let backend = Backend::start().await;
    let ticks = r#"
        (data (i32.const 1024) "a tick")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $set_tick (i32.const 10)))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
          (drop (call $log (i32.const 2) (i32.const 1024) (i32.const 6)))
          (drop (call $set_tick (i32.const 0))))"#;
    let directory = tempfile::TempDir::new().unwrap();
    put(directory.path(), "written", &written(ticks));
    let unnamed = |more: &str| yaml(&backend, "written", more).replace("filters: [{wasm: p}], ", "");
    let gateway = Gateway::start_in(directory, &unnamed("instances: 1, background: true"), &[]).await;
    gateway.wait_for_message("a tick").await;
    assert_eq!(metric(&gateway, "tidegate_plugin_instances", &["ready"]).await, 1.0);
    // It ends with the configuration that has it.
    gateway.reload(&unnamed("instances: 1")).await;
    wait_for_metric(&gateway, "tidegate_plugin_instances", &["ready"], 0.0).await;
    assert_eq!(series(&gateway, "tidegate_plugin_instances", &["draining"]).await.unwrap_or_default(), 0.0);
}

/// Who only tries out whether a plugin takes a new configuration shares nothing with what serves.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_tried_out_leaves_shared_data_metrics_and_queues_alone() {
    let backend = Backend::start().await;
    let counts = r#"
        (data (i32.const 1024) "starts")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $define (i32.const 0) (i32.const 1024) (i32.const 6) (i32.const 40)))
          (drop (call $increment (i32.load (i32.const 40)) (i64.const 1)))
          (call $note (call $get_shared (i32.const 1024) (i32.const 6) (i32.const 16) (i32.const 20) (i32.const 44)))
          (drop (call $set_shared (i32.const 1024) (i32.const 6) (i32.const 1024) (i32.const 6) (i32.const 0)))
          (call $say_notes)
          (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    let gateway = gateway_of(&backend, counts, "instances: 1").await;
    gateway.reload(&yaml(&backend, "written", "instances: 1, config: other")).await;
    // The first, the trial, and the second.
    let said = || {
        let lines = gateway.lines();
        lines.iter().filter(|line| line["plugin"] == "p").map(|line| line["msg"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(said(), ["1", "1", "0"]);
    assert_eq!(metric(&gateway, "tidegate_plugin_custom_starts", &["p"]).await, 2.0);
}
