//! A reload swaps plugins without a request noticing.

use super::{gateway, yaml};
use crate::support::{
    Backend,
    plugins::{module, put, written},
    send, wait_for_metric,
};
use nix::sys::signal::Signal;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_in_the_order_of_envoy_and_roots_start_once_for_each_instance() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "ends", "instances: 2").await;
    send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
    gateway.wait_for_message("deleted").await;
    let said: Vec<String> = gateway
        .lines()
        .iter()
        .filter(|line| line["plugin"] == "p" && line["msg"] != "request")
        .map(|line| line["msg"].as_str().unwrap().to_owned())
        .collect();
    let expected = ["started", "configured", "started", "configured", "created", "logged", "done", "deleted"];
    assert_eq!(said, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_as_it_is_is_not_started_again_and_what_is_new_is() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "ends", "instances: 1").await;
    let started = || gateway.lines().iter().filter(|line| line["msg"] == "started").count();
    assert_eq!(started(), 1);
    let other_route = yaml(&backend, "ends", "instances: 1").replace("name: r,", "name: q,");
    gateway.reload(&other_route).await;
    assert_eq!(started(), 1);
    // Another configuration is another root in the same instance, tried out first; the old root ends with its last request.
    gateway.reload(&yaml(&backend, "ends", "instances: 1, config: other")).await;
    assert_eq!(started(), 3);
    gateway.wait_for_line(|line| line["msg"] == "deleted").await;
    // A refused one leaves everything as it is.
    put(gateway.directory(), "ends", b"no module");
    gateway.signal(Signal::SIGHUP);
    gateway.wait_for_message("configuration rejected").await;
    send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
    // Another file under the same name is another plugin, although the configuration says the same.
    put(gateway.directory(), "ends", &module("headers"));
    gateway.signal(Signal::SIGHUP);
    gateway.wait_for_message("configuration reloaded").await;
    let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
    assert!(answer.text().contains(r#"["x-plugin","was here"]"#), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_may_have_a_configuration_of_its_own() {
    let backend = Backend::start().await;
    // Says its configuration when it is given.
    let says = written(
        r#"(func (export "proxy_on_configure") (param $root i32) (param $size i32) (result i32)
          (drop (call $get_buffer (i32.const 7) (i32.const 0) (local.get $size) (i32.const 16) (i32.const 20)))
          (drop (call $log (i32.const 2) (call $pointer) (call $length)))
          (i32.const 1))"#,
    );
    let directory = tempfile::TempDir::new().unwrap();
    put(directory.path(), "says", &says);
    let yaml = yaml(&backend, "says", "instances: 1, config: {a: [1]}")
        .replace("{wasm: p}", "{wasm: p}, {wasm: {plugin: p, config: as text}}");
    let gateway = crate::support::Gateway::start_in(directory, &yaml, &[]).await;
    gateway.wait_for_line(|line| line["msg"] == r#"{"a":[1]}"#).await;
    gateway.wait_for_message("as text").await;
    wait_for_metric(&gateway, "tidegate_plugin_instances", &["ready"], 1.0).await;
}
