//! What the registry does for those who do nothing wrong.

use serde_json::json;

use super::{Plane, assert_refused};
use crate::support::{Connection, Gateway, get, get_h2c, metric, wait_for_metric, within_deadline};

#[tokio::test]
async fn an_instance_is_registered_renewed_shown_and_removed() {
    let plane = Plane::start().await;
    let body = json!({
        "name": "cart.shop", "host": "10.0.0.7", "port": 8080, "tags": ["v2", "v1"], "metadata": {"region": "eu"},
        "ttl": "1m", "weight": 3, "protocol": "http2",
    });
    let answer = plane.ask("POST", "/v1/services", &body.to_string()).await;
    let created = answer.assert_status(201).json();
    assert_eq!(answer.header("location"), Some("/v1/services/cart.shop-10.0.0.7-8080"));
    for (key, expected) in [
        ("id", json!("cart.shop-10.0.0.7-8080")),
        ("address", json!("10.0.0.7:8080")),
        ("tags", json!(["v1", "v2"])),
        ("metadata", json!({"region": "eu"})),
        ("ttl", json!("1m")),
        ("weight", json!(3)),
        ("state", json!("healthy")),
        ("owner", json!("anybody")),
        ("heartbeat_every", json!("20s")),
        ("revision", json!(1)),
        ("warming", json!(true)),
    ] {
        assert_eq!(created[key], expected, "{key}: {created}");
    }
    plane.ask("POST", "/v1/services", &body.to_string()).await.assert_status(200);

    let path = "/v1/services/cart.shop-10.0.0.7-8080";
    let renewed = plane.ask("PUT", &format!("{path}/heartbeat"), "").await.assert_status(200).json();
    assert_eq!(
        (&renewed["revision"], &renewed["state"]),
        (&json!(1), &json!("healthy")),
        "nothing has changed"
    );
    let beat = json!({"health": "critical", "weight": 5}).to_string();
    let renewed = plane.ask("PUT", &format!("{path}/heartbeat"), &beat).await.json();
    assert_eq!((&renewed["revision"], &renewed["state"]), (&json!(2), &json!("critical")));
    let shown = plane.ask("GET", path, "").await.assert_status(200).json();
    assert_eq!((&shown["weight"], &shown["health"]), (&json!(5), &json!("critical")));
    for time in ["registered_at", "since", "expires_at"] {
        assert!(humantime::parse_rfc3339(shown[time].as_str().unwrap()).is_ok(), "{time}: {shown}");
    }

    plane.ask("DELETE", path, "").await.assert_status(204);
    plane.ask("DELETE", path, "").await.assert_status(204);
    assert_refused(&plane.ask("GET", path, "").await, 404, "not_registered", "there is no instance");
    wait_for_metric(&plane.gateway, "tidegate_registry_events_total", &["event=\"deregistered\""], 1.0).await;
    assert_eq!(metric(&plane.gateway, "tidegate_registry_heartbeats_total", &["ok"]).await, 2.0);
}

#[tokio::test]
async fn lists_are_filtered_and_come_in_pages() {
    let plane = Plane::start().await;
    for port in 1..=3 {
        plane.register("users", port).await;
    }
    let tagged = json!({"name": "carts", "address": "[::1]:80", "tags": ["v2"], "health": "critical"});
    plane.ask("POST", "/v1/services", &tagged.to_string()).await.assert_status(201);
    assert_eq!(plane.list("").await.len(), 4);
    assert_eq!(plane.list("?name=users").await.len(), 3);
    assert_eq!(plane.list("?tag=v2").await, ["carts-::1-80"]);
    assert_eq!(plane.list("?health=critical&name=users").await.len(), 0);
    assert_eq!(plane.list("?health=critical").await, ["carts-::1-80"]);
    let page = plane.ask("GET", "/v1/services?limit=2", "").await.json();
    assert_eq!(page["instances"].as_array().unwrap().len(), 2);
    let next = page["next"].as_str().unwrap().to_owned();
    assert_eq!(plane.list(&format!("?after={next}")).await, ["users-127.0.0.1-2", "users-127.0.0.1-3"]);
    let last = plane.ask("GET", "/v1/services?limit=4", "").await.json();
    assert!(last["next"].is_null());

    let catalog = plane.ask("GET", "/v1/catalog", "").await.assert_status(200).json();
    let expected = json!([
        {"name": "carts", "instances": {"critical": 1}},
        {"name": "users", "instances": {"healthy": 3}},
    ]);
    assert_eq!(catalog["services"], expected);
}

#[tokio::test]
async fn a_long_poll_is_answered_by_a_change_and_not_by_others() {
    let plane = Plane::start().await;
    plane.register("users", 1).await;
    let list = plane.ask("GET", "/v1/services?name=users", "").await;
    let revision = list.header("x-tidegate-revision").unwrap().to_owned();
    let unchanged = plane.ask("GET", &format!("/v1/services?name=users&revision={revision}"), "").await;
    assert!(unchanged.assert_status(304).body.is_empty());
    let bare = revision.split(':').nth(1).unwrap();
    plane
        .ask("GET", &format!("/v1/services?name=users&revision={bare}&wait=1ms"), "")
        .await
        .assert_status(304);

    let path = format!("/v1/services?name=users&wait=1m&revision={revision}");
    let waiting = tokio::spawn({
        let address = plane.address();
        async move { get(address, &path).await }
    });
    wait_for_metric(&plane.gateway, "tidegate_control_streams", &["long_poll"], 1.0).await;
    plane.register("carts", 1).await;
    plane.register("users", 2).await;
    let answer = within_deadline("the long poll", waiting).await.unwrap();
    assert_eq!(answer.assert_status(200).json()["instances"].as_array().unwrap().len(), 2);
    // Another epoch is always news.
    plane.ask("GET", "/v1/services?wait=1m&revision=1:0", "").await.assert_status(200);
    wait_for_metric(&plane.gateway, "tidegate_control_streams", &["long_poll"], 0.0).await;
}

#[tokio::test]
async fn whoever_is_silent_expires_and_one_that_drains_goes() {
    let plane = Plane::start().await;
    let short = json!({"name": "users", "address": "127.0.0.1:1", "ttl": "1s"}).to_string();
    plane.ask("POST", "/v1/services", &short).await.assert_status(201);
    for port in [2, 3] {
        plane.register("users", port).await;
    }
    plane.ask("DELETE", "/v1/services/users-127.0.0.1-2?drain=1h", "").await.assert_status(204);
    plane.wait_for("users-127.0.0.1-2", Some("draining")).await;
    plane.ask("DELETE", "/v1/services/users-127.0.0.1-3?drain=1s", "").await.assert_status(204);
    plane.wait_for("users-127.0.0.1-3", None).await;
    plane.wait_for("users-127.0.0.1-1", None).await;
    plane.ask("DELETE", "/v1/services/users-127.0.0.1-2", "").await.assert_status(204);
    for (event, instances) in [("expired", 1.0), ("deregistered", 2.0), ("registered", 3.0)] {
        assert_eq!(
            metric(&plane.gateway, "tidegate_registry_events_total", &[&format!("event=\"{event}\"")]).await,
            instances,
            "{event}"
        );
    }
}

#[tokio::test]
async fn many_that_fall_silent_together_are_held() {
    let plane = Plane::with(
        "registry: {ttl: {default: 1s}, hold: {overdue: 20%, of_service: 60%, at_least: 6, for: 6s}}",
    )
    .await;
    for port in 1..=6 {
        plane.register("users", port).await;
    }
    plane.wait_for("users-127.0.0.1-1", Some("held")).await;
    wait_for_metric(&plane.gateway, "tidegate_registry_held", &[], 6.0).await;
    plane.gateway.wait_for_message("many instances fell silent together and are held").await;
    // One that is heard again is as before.
    let renewed = plane.ask("PUT", "/v1/services/users-127.0.0.1-1/heartbeat", "").await;
    assert_eq!(renewed.assert_status(200).json()["state"], "healthy");
    plane.wait_for("users-127.0.0.1-6", None).await;
}

#[tokio::test]
async fn one_that_flaps_is_shown_as_critical() {
    let plane = Plane::with("registry: {ttl: {max: 1h}, flapping: {turns: 2, window: 1h}}").await;
    plane.register("users", 1).await;
    plane.register("users", 2).await;
    let mut last = json!(null);
    for health in ["critical", "healthy", "critical", "healthy"] {
        let beat = json!({"health": health}).to_string();
        last = plane.ask("PUT", "/v1/services/users-127.0.0.1-1/heartbeat", &beat).await.json();
    }
    assert_eq!(last["state"], "critical");
    let shown = plane.ask("GET", "/v1/services/users-127.0.0.1-1", "").await.json();
    assert_eq!((&shown["health"], &shown["state"]), (&json!("healthy"), &json!("critical")));
}

#[tokio::test]
async fn probes_metrics_and_the_list_are_there_over_both_versions_of_http() {
    let plane = Plane::start().await;
    for (path, content_type) in [
        ("/", "text/plain; charset=utf-8"),
        ("/livez", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4"),
        ("/v1/openapi.json", "application/json"),
        ("/v1/services", "application/json"),
        ("/v1/catalog", "application/json"),
    ] {
        let answer = plane.ask("GET", path, "").await;
        assert_eq!(answer.assert_status(200).header("content-type"), Some(content_type), "{path}");
        assert!(plane.ask("HEAD", path, "").await.assert_status(200).body.is_empty(), "{path}");
        get_h2c(plane.address(), path).await.assert_status(200);
    }
    let metrics = get(plane.address(), "/metrics").await;
    assert!(metrics.text().contains("tidegate_registry_services 0"), "{}", metrics.text());
    let mut kept = Connection::http1(plane.address()).await.unwrap();
    for _ in 0..3 {
        kept.send("GET", "/v1/services", &[], "").await.unwrap().assert_status(200);
    }
}

#[tokio::test]
async fn a_gateway_without_a_control_plane_shows_nothing_of_one() {
    let gateway = Gateway::start(
        "admin: {address: '127.0.0.1:0'}\nlisteners: [{name: main, address: '127.0.0.1:0'}]\nroutes: [{respond: {body: a}}]\n",
    )
    .await;
    let metrics = get(gateway.admin(), "/metrics").await;
    assert!(!metrics.text().contains("tidegate_registry_") && !metrics.text().contains("tidegate_control_"));
}

#[tokio::test]
async fn while_it_drains_it_is_not_ready() {
    let gateway = Gateway::start(&format!("{}shutdown: {{unready_for: 1m}}\n", super::yaml(""))).await;
    let plane = Plane::of(gateway);
    plane.gateway.signal(nix::sys::signal::Signal::SIGTERM);
    plane.gateway.wait_for_message("draining").await;
    assert_eq!(plane.ask("GET", "/readyz", "").await.assert_status(503).text(), "draining\n");
    plane.ask("GET", "/livez", "").await.assert_status(200);
}

/// An operator looks up there what a refusal or the description says.
#[tokio::test]
async fn the_page_has_each_endpoint_and_each_reason() {
    let read = |page: &str| {
        std::fs::read_to_string(format!("{}/docs/{page}.md", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let (page, configurations) = (read("registry"), read("configurations"));
    let plane = Plane::start().await;
    let described = plane.ask("GET", "/v1/openapi.json", "").await.json();
    for path in described["paths"].as_object().unwrap().keys().filter(|path| *path != "/") {
        let is_there = [&page, &configurations].iter().any(|page| page.contains(path.as_str()));
        assert!(is_there, "neither docs/registry.md nor docs/configurations.md says anything of {path}");
    }
    let refused = &described["paths"]["/v1/services"]["post"]["responses"]["4XX"]["description"];
    let (_, reasons) = refused.as_str().unwrap().split_once(": ").unwrap();
    let mut reasons: Vec<&str> = reasons.split(", ").collect();
    let (_, table) = page.split_once("## Refusals").unwrap();
    let rows = table.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let said = format!("{} {}", cells[0], &cells[1][..3]);
        let at = reasons.iter().position(|reason| *reason == said);
        reasons.remove(at.unwrap_or_else(|| panic!("{said} is not among {reasons:?}")));
    }
    assert!(reasons.is_empty(), "docs/registry.md lacks {reasons:?}");
}
