//! No failure of the control plane takes an endpoint out.

use std::{fs, net::SocketAddr};

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use super::fixture::{
    USERS, at, heartbeat, joining, kill, plane, plane_at, register, until_endpoints, until_registered,
};
use crate::support::{Backend, Gateway, Load, get, metric, wait_for_metric};

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_is_killed_and_comes_back_without_its_memory_costs_no_request() {
    let plane = plane("").await;
    let address = at(&plane);
    let (one, other) = (Backend::named("one").await, Backend::named("other").await);
    register(&plane, one.address(), json!({})).await;
    register(&plane, other.address(), json!({})).await;
    let gateway = Gateway::start(&joining(address, USERS, "")).await;
    let both = [(one.address(), 1), (other.address(), 1)];
    until_endpoints(&gateway, &both).await;
    let load = Load::start(gateway.address("main"), "/health", 4);
    load.wait_for_requests(20).await;
    kill(&plane).await;
    wait_for_metric(&gateway, "tidegate_control_connected", &[], 0.0).await;
    load.wait_for_requests(50).await;
    // Nobody is registered there any more, and then one of the two is.
    let plane = plane_at(address, "").await;
    wait_for_metric(&gateway, "tidegate_control_connected", &[], 1.0).await;
    load.wait_for_requests(20).await;
    let again = register(&plane, one.address(), json!({"weight": 2})).await;
    until_endpoints(&gateway, &[(one.address(), 2), (other.address(), 1)]).await;
    heartbeat(&plane, &again, json!({})).await;
    load.wait_for_requests(50).await;
    load.stop().await.assert_no_failures();
    assert!(metric(&gateway, "tidegate_control_updates_held_total", &[]).await > 0.0);
}

/// Instances that nobody renews.
#[tokio::test(flavor = "multi_thread")]
async fn silence_alone_never_takes_the_last_endpoints() {
    let plane = plane("").await;
    let backend = Backend::named("users").await;
    register(&plane, backend.address(), json!({"ttl": "1s"})).await;
    let gateway = Gateway::start(&joining(at(&plane), USERS, "")).await;
    until_endpoints(&gateway, &[(backend.address(), 1)]).await;
    until_registered(&plane, "users", &[]).await;
    gateway.wait_for_message("a service has no instances").await;
    get(gateway.address("main"), "/health").await.assert_status(200).assert_no_reason();
    // Whoever wants none of that says so.
    let yaml = joining(at(&plane), "{registry: users, keep_last: 0s}", "");
    assert_eq!(gateway.reload(&yaml).await["msg"], "configuration reloaded");
    until_endpoints(&gateway, &[]).await;
    get(gateway.address("main"), "/health").await.assert_reason(503, "upstream_unhealthy");
}

/// A gateway that has followed, and has ended.
async fn ended(state: &TempDir, server: SocketAddr, backend: &Backend) -> String {
    let held = format!("state_dir: {:?}", state.path());
    let yaml = joining(server, USERS, &held);
    let gateway = Gateway::start(&yaml).await;
    until_endpoints(&gateway, &[(backend.address(), 1)]).await;
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    yaml
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_control_plane_finds_what_was_known() {
    let (plane, state) = (plane("").await, TempDir::new().unwrap());
    let backend = Backend::named("users").await;
    register(&plane, backend.address(), json!({})).await;
    let yaml = ended(&state, at(&plane), &backend).await;
    let address = at(&plane);
    kill(&plane).await;
    let gateway = Gateway::start(&yaml).await;
    get(gateway.address("main"), "/health").await.assert_status(200).assert_no_reason();
    gateway
        .wait_for_line(|line| line["msg"].as_str().is_some_and(|said| said.contains("what was held")))
        .await;
    // And follows as soon as it is there.
    let plane = plane_at(address, "").await;
    let new = Backend::named("users").await;
    register(&plane, new.address(), json!({})).await;
    let both = [(backend.address(), 1), (new.address(), 1)];
    until_endpoints(&gateway, &both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_and_is_damaged_is_put_aside() {
    let (plane, state) = (plane("").await, TempDir::new().unwrap());
    let backend = Backend::named("users").await;
    register(&plane, backend.address(), json!({})).await;
    let yaml = ended(&state, at(&plane), &backend).await;
    let file = state.path().join("held").join("services.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() - 10]).unwrap();
    kill(&plane).await;
    let gateway = Gateway::start(&yaml).await;
    let said = gateway
        .wait_for_line(|line| {
            line["msg"].as_str().is_some_and(|said| said.starts_with("held services are not used"))
        })
        .await;
    assert_eq!(said["level"], "warn", "{said}");
    assert!(file.with_extension("json.old").exists() && !file.exists());
    get(gateway.address("main"), "/health").await.assert_reason(503, "upstream_unhealthy");
}
