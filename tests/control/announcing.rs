//! What a gateway announces of itself, and of its application.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use super::fixture::{at, kill, plane, plane_at, register, registered, until_endpoints, until_registered};
use crate::support::{Backend, Gateway, Load, get, send, tidegate, wait_for_metric};

/// A gateway before `app`, which it announces as `users`.
fn announcing(server: SocketAddr, app: SocketAddr, more: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\ncontrol:\n  join: {{servers: ['{server}'], wait: 300ms}}\n  register:\n  \
         - {{service: users, upstream: app, advertise: '127.0.0.1:7001', tags: [v2], ttl: 3s}}\n{more}\n\
         listeners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: app}}]\n\
         upstreams:\n  app: {{endpoints: ['{app}'], health_check: {{http: {{path: /health}}, interval: 100ms, \
         unhealthy_after: 1, healthy_after: 1}}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_is_announced_when_it_is_well_and_with_its_health() {
    let plane = plane("").await;
    let backend = Backend::start().await;
    let app = backend.address();
    backend.kill().await;
    let gateway = Gateway::start(&announcing(at(&plane), app, "")).await;
    get(gateway.address("main"), "/health").await.assert_reason(503, "upstream_unhealthy");
    assert_eq!(registered(&plane, "users").await, []);
    let backend = Backend::start_at(app).await;
    until_registered(&plane, "users", &["healthy"]).await;
    wait_for_metric(&gateway, "tidegate_registration_state", &["service=\"users\""], 1.0).await;
    backend.kill().await;
    until_registered(&plane, "users", &["critical"]).await;
    let _backend = Backend::start_at(app).await;
    until_registered(&plane, "users", &["healthy"]).await;
    gateway.signal(Signal::SIGTERM);
    until_registered(&plane, "users", &[]).await;
    gateway.wait_for_message("deregistered").await;
    // Others may not have heard of it yet.
    get(gateway.address("main"), "/health").await.assert_status(200).assert_no_reason();
    assert!(gateway.wait_exit().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_has_forgotten_is_told_again() {
    let plane = plane("").await;
    let backend = Backend::start().await;
    let gateway = Gateway::start(&announcing(at(&plane), backend.address(), "")).await;
    until_registered(&plane, "users", &["healthy"]).await;
    let address = at(&plane);
    kill(&plane).await;
    let plane = plane_at(address, "").await;
    until_registered(&plane, "users", &["healthy"]).await;
    gateway.wait_for_message("the control plane has forgotten us, registering again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_taken_out_of_its_own_registry_costs_no_request() {
    let plane = plane("").await;
    let backend = Backend::start().await;
    let yaml = announcing(at(&plane), backend.address(), "");
    let front = Gateway::start(&super::fixture::joining(at(&plane), super::fixture::USERS, "")).await;
    // The one that stays, and one that is announced at its own address and then ends.
    let leaving = Gateway::start(&yaml.replace("127.0.0.1:7001", "127.0.0.1:7002")).await;
    register(&plane, backend.address(), json!({})).await;
    leaving.wait_for_message("registered").await;
    register(&plane, leaving.address("main"), json!({"id": "users-127.0.0.1-7002"})).await;
    until_endpoints(&front, &[(backend.address(), 1), (leaving.address("main"), 1)]).await;
    let load = Load::start(front.address("main"), "/health", 4);
    load.wait_for_requests(20).await;
    leaving.signal(Signal::SIGTERM);
    until_endpoints(&front, &[(backend.address(), 1)]).await;
    assert!(leaving.wait_exit().await.success());
    load.wait_for_requests(20).await;
    load.stop().await.assert_no_failures();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_takes_nobody_out() {
    let plane = plane("").await;
    let backend = Backend::start().await;
    let more = "upgrade: {socket: upgrade.sock}";
    let gateway = Gateway::start(&announcing(at(&plane), backend.address(), more)).await;
    until_registered(&plane, "users", &["healthy"]).await;
    let next = gateway.upgrade().await;
    next.wait_for_message("registered").await;
    until_registered(&plane, "users", &["healthy"]).await;
    let history = get(at(&plane), "/metrics").await;
    let gone =
        history.text().lines().any(|line| line.contains("event=\"deregistered\"") && !line.ends_with(" 0"));
    assert!(!gone, "{}", history.text());
}

/// The mesh as it is meant: nobody writes an address down.
#[tokio::test(flavor = "multi_thread")]
async fn sidecars_find_each_other_by_name_alone() {
    let authority = TempDir::new().unwrap();
    let mut command = tidegate(authority.path());
    command.args(["ca", "init", "--trust-domain", "mesh.local", "--out"]).arg(authority.path().join("ca"));
    assert!(command.status().unwrap().success());
    let identity = |service: &str| {
        let ca = authority.path().join("ca");
        format!("identity: {{trust_domain: mesh.local, ca: {ca:?}, id: \"spiffe://mesh.local/{service}\"}}\n")
    };
    let plane = plane("").await;
    let join = format!("control: {{join: {{servers: ['{}'], wait: 300ms}}}}\nadmin: false\n", at(&plane));
    let application = Backend::named("payments").await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _inbound = Gateway::start(&format!(
        "{}{join}mode: sidecar\nsidecar: {{inbound: {{address: '{port}', app: '{}', allow: \
         ['spiffe://mesh.local/*'], register: true}}}}\n",
        identity("shop/payments"),
        application.address()
    ))
    .await;
    until_registered(&plane, "payments.shop", &["healthy"]).await;
    let outbound = Gateway::start(&format!(
        "{}{join}mode: sidecar\nsidecar: {{outbound: {{address: '127.0.0.1:0', services: [payments.shop]}}}}\n",
        identity("orders"),
    ))
    .await;
    let answer = send(outbound.address("outbound"), "GET", "/health", &[("host", "payments.shop")], "").await;
    answer.assert_status(200).assert_no_reason();
}
