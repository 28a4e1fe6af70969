//! A gateway follows what is registered, without a reload.

use serde_json::json;

use super::fixture::{USERS, at, deregister, heartbeat, joining, plane, register, until_endpoints};
use crate::support::{Backend, Gateway, Load, get, wait_for_metric};

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_can_be_its_own_registry() {
    let backend = Backend::named("users").await;
    let gateway = Gateway::start(&format!(
        "admin: {{address: '127.0.0.1:0'}}\ncontrol: {{serve: {{address: '127.0.0.1:0'}}}}\n\
         listeners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: users}}]\n\
         upstreams: {{users: {{endpoints: [{USERS}]}}}}\n"
    ))
    .await;
    get(gateway.address("main"), "/").await.assert_reason(503, "upstream_unhealthy");
    let id = register(&gateway, backend.address(), json!({})).await;
    until_endpoints(&gateway, &[(backend.address(), 1)]).await;
    get(gateway.address("main"), "/health").await.assert_status(200).assert_no_reason();
    deregister(&gateway, &id).await;
    until_endpoints(&gateway, &[]).await;
    let why = gateway
        .wait_for_line(|line| {
            line["msg"] == "a service has no instances"
                && line["why"].as_str().is_some_and(|why| why.contains("deregistered"))
        })
        .await;
    assert_eq!(why["service"], "registry:users", "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_change_and_go_without_a_reload() {
    let plane = plane("").await;
    let (one, other) = (Backend::named("one").await, Backend::named("other").await);
    let first = register(&plane, one.address(), json!({})).await;
    let gateway = Gateway::start(&joining(at(&plane), USERS, "")).await;
    // It is ready with what the plane has.
    get(gateway.address("main"), "/health").await.assert_status(200).assert_no_reason();
    register(&plane, other.address(), json!({"weight": 3})).await;
    until_endpoints(&gateway, &[(one.address(), 1), (other.address(), 3)]).await;
    heartbeat(&plane, &first, json!({"health": "critical"})).await;
    until_endpoints(&gateway, &[(one.address(), 0), (other.address(), 3)]).await;
    for _ in 0..5 {
        assert_eq!(get(gateway.address("main"), "/").await.header("x-backend"), Some("other"));
    }
    heartbeat(&plane, &first, json!({"health": "healthy", "weight": 2})).await;
    until_endpoints(&gateway, &[(one.address(), 2), (other.address(), 3)]).await;
    deregister(&plane, &first).await;
    until_endpoints(&gateway, &[(other.address(), 3)]).await;
    wait_for_metric(&gateway, "tidegate_control_connected", &[], 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_metadata_choose_and_weights_multiply() {
    let plane = plane("").await;
    let address = |port: u16| std::net::SocketAddr::from(([10, 0, 0, 1], port));
    register(&plane, address(1), json!({"tags": ["v1"], "metadata": {"region": "eu"}})).await;
    register(&plane, address(2), json!({"tags": ["v2"], "metadata": {"region": "eu"}, "weight": 3})).await;
    register(&plane, address(3), json!({"tags": ["v2", "new"], "metadata": {"region": "us"}})).await;
    let v2 = "{registry: users, tags: [v2], metadata: {region: eu}, weight: 2}, {registry: users, tags: [new]}, \
              '10.0.0.9:9'";
    let gateway = Gateway::start(&joining(at(&plane), v2, "")).await;
    let fixed = "10.0.0.9:9".parse().unwrap();
    until_endpoints(&gateway, &[(address(2), 6), (address(3), 1), (fixed, 1)]).await;
    // A reload asks for others, of what is known already.
    let yaml = joining(at(&plane), "{registry: users, tags: [v1]}", "");
    assert_eq!(gateway.reload(&yaml).await["msg"], "configuration reloaded");
    until_endpoints(&gateway, &[(address(1), 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_at_a_host_name_is_looked_up() {
    let plane = plane("").await;
    let backend = Backend::at_localhost("users").await;
    let body = json!({"address": format!("localhost:{}", backend.address().port())});
    register(&plane, backend.address(), body).await;
    let gateway = Gateway::start(&joining(at(&plane), USERS, "")).await;
    until_endpoints(&gateway, &[(backend.address(), 1)]).await;
    let upstreams = get(gateway.admin(), "/upstreams").await.json();
    let origin = format!("localhost:{}", backend.address().port());
    assert_eq!(upstreams[0]["endpoints"][0]["origin"], origin, "{upstreams}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_replaced_under_load_and_no_request_fails() {
    let plane = plane("").await;
    let mut old = Backend::named("old").await;
    let mut id = register(&plane, old.address(), json!({})).await;
    let gateway = Gateway::start(&joining(at(&plane), USERS, "")).await;
    let load = Load::start(gateway.address("main"), "/health", 4);
    for _ in 0..5 {
        load.wait_for_requests(20).await;
        let new = Backend::named("new").await;
        let next = register(&plane, new.address(), json!({})).await;
        until_endpoints(&gateway, &[(old.address(), 1), (new.address(), 1)]).await;
        deregister(&plane, &id).await;
        until_endpoints(&gateway, &[(new.address(), 1)]).await;
        old.stop().await;
        (old, id) = (new, next);
    }
    load.wait_for_requests(20).await;
    load.stop().await.assert_no_failures();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_joined_is_refused_with_what_to_do() {
    let yaml = "control: {join: {servers: ['control:9902'], secrets: [/x], node: 'a b'}}\n\
                listeners: [{address: '127.0.0.1:0'}]\nroutes: [{upstream: u}]\nupstreams: {u: {endpoints: [{registri: u}]}}\n";
    let (code, stderr, _) = Gateway::start_expecting_failure(yaml, &["check"]).await;
    assert_eq!(code, 3, "{stderr}");
    for said in [
        "gateway.yaml:1:17: control.join: control:9902 is not on this host",
        "control.join.secrets: is for received configurations, and none is asked for",
        "control.join.node: \"a b\" is not the name of a node",
        "upstreams.u.endpoints[0]: unknown key `registri` (did you mean `registry`?)",
    ] {
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_instances_are_their_zone_and_what_subsets_go_by() {
    let (old, new) = (Backend::named("old").await, Backend::named("new").await);
    let gateway = Gateway::start(&format!(
        "admin: {{address: '127.0.0.1:0'}}\ncontrol: {{serve: {{address: '127.0.0.1:0'}}}}\nzone: b\n\
         listeners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         routes: [{{upstream: users}}, {{match: {{path: /next}}, upstream: users, subset: {{version: v2}}}}]\n\
         upstreams: {{users: {{endpoints: [{USERS}]}}}}\n"
    ))
    .await;
    register(&gateway, old.address(), json!({"metadata": {"version": "v1", "zone": "a"}})).await;
    until_endpoints(&gateway, &[(old.address(), 1)]).await;
    get(gateway.address("main"), "/next").await.assert_reason(503, "empty_subset");
    register(&gateway, new.address(), json!({"metadata": {"version": "v2", "zone": "b"}})).await;
    until_endpoints(&gateway, &[(old.address(), 1), (new.address(), 1)]).await;
    // The subset, and the gateway's own zone.
    for path in ["/next", "/"] {
        for _ in 0..4 {
            assert_eq!(get(gateway.address("main"), path).await.header("x-backend"), Some("new"), "{path}");
        }
    }
}
