//! What is left after many failures and many reloads: nothing. And what others notice of a plugin that goes wrong: nothing.

use super::{gateway_from, yaml};
use crate::support::{
    Backend, Gateway,
    load::Load,
    metric,
    plugins::{directory_with, put, written},
    resident, send, wait_for_metric, within_deadline,
};

/// In KiB.
const MIB: i64 = 1024;

/// Takes the memory of an instance, and traps where the request says so.
const TRAPS: &str = r#"
  (data (i32.const 1024) "x-trap")
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (memory.grow (i32.const 16)))
    (memory.fill (i32.const 65536) (i32.const 7) (i32.const 983040))
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (if (i32.eqz (call $get (i32.const 0) (i32.const 1024) (i32.const 6) (i32.const 16) (i32.const 20)))
      (then (unreachable)))
    (i32.const 0))"#;

async fn trap(gateway: &Gateway, times: usize) {
    let address = gateway.address("main");
    for _ in 0..times {
        send(address, "GET", "/headers", &[("x-trap", "1")], "").await.assert_reason(503, "plugin_error");
        let ready = async {
            // The next instance is made aside.
            while send(address, "GET", "/status/200", &[], "").await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        within_deadline("an instance in the place of the one that failed", ready).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_thousand_traps_memory_is_where_it_was() {
    let backend = Backend::start().await;
    let gateway = gateway_from(&backend, &written(TRAPS), "instances: 1").await;
    trap(&gateway, 100).await;
    let before = resident(&gateway);
    trap(&gateway, 900).await;
    // Each instance has more than a MiB: one in a hundred that stays would show.
    let settled = async {
        while resident(&gateway) - before > 8 * MIB {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within_deadline("memory where it was", settled).await;
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["trap"]).await, 1000.0);
    assert_eq!(metric(&gateway, "tidegate_plugin_instances", &["ready"]).await, 1.0);
    let memory = metric(&gateway, "tidegate_plugin_memory_bytes", &["p"]).await;
    assert_eq!(memory, 18.0 * 65536.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_hundred_reloads_between_two_modules_memory_is_where_it_was() {
    let backend = Backend::start().await;
    let directory = directory_with(&["headers"]);
    put(directory.path(), "traps", &written(TRAPS));
    let [one, two] = ["headers", "traps"].map(|module| yaml(&backend, module, "instances: 2"));
    let gateway = Gateway::start_in(directory, &one, &[]).await;
    let load = Load::start(gateway.address("main"), "/status/200", 2);
    for _ in 0..10 {
        gateway.reload(&two).await;
        gateway.reload(&one).await;
    }
    let before = resident(&gateway);
    for _ in 0..45 {
        gateway.reload(&two).await;
        gateway.reload(&one).await;
    }
    load.stop().await.assert_no_failures();
    wait_for_metric(&gateway, "tidegate_plugin_instances", &["draining"], 0.0).await;
    let settled = async {
        while resident(&gateway) - before > 8 * MIB {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within_deadline("memory where it was", settled).await;
    assert_eq!(metric(&gateway, "tidegate_plugin_memory_bytes", &["p"]).await, 2.0 * 2.0 * 65536.0);
}

/// An endless loop, a bomb and a panic, while others are asked for other things.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_in_one_plugin_fails_no_request_of_another() {
    let backend = Backend::start().await;
    let directory = directory_with(&["does", "headers"]);
    let yaml = yaml(&backend, "does", "instances: 2, limits: {call: 20ms, memory: 2MiB}")
        .replace("plugins: {p:", "plugins: {good: {file: headers.wasm, instances: 2}, p:")
        .replace("routes:\n", "routes:\n- {match: {path: /status/201}, filters: [{wasm: good}], upstream: origin}\n- {match: {path: /status/200}, upstream: origin}\n");
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let address = gateway.address("main");
    let others =
        [Load::start(address, "/status/200", 2), Load::start_expecting(201, address, "/status/201", 2)];
    for does in ["loop", "memory", "trap", "exit"].iter().cycle().take(20) {
        // One that has no instance is refused as well.
        send(address, "GET", "/headers", &[("x-do", *does)], "").await.assert_reason(503, "plugin_error");
    }
    for load in others {
        load.stop().await.assert_no_failures();
    }
    let failures =
        async |why: &str| metric(&gateway, "tidegate_plugin_failures_total", &["plugin=\"p\"", why]).await;
    assert!(
        failures("time").await >= 1.0 && failures("memory").await >= 1.0 && failures("trap").await >= 1.0
    );
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["plugin=\"good\""]).await, 0.0);
}
