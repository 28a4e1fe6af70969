//! Which endpoints of an upstream come first: by priority, by zone, and which of them a route takes at all.

use super::{Client, Origin};
use crate::support::{Gateway, Yaml, get, metric, wait_for_metric};

const SHARE: &str = "tidegate_upstream_group_share";
const HEALTHY: &str = "tidegate_upstream_healthy";
const CHECKED: &str = "health_check: {http: {path: /health}, interval: 20ms, timeout: 1s}";

async fn origins<const N: usize>() -> [Origin; N] {
    let mut origins = Vec::new();
    for _ in 0..N {
        origins.push(Origin::start().await);
    }
    origins.try_into().ok().unwrap()
}

/// `settings` of the upstream `u`, with an endpoint for each of `origins` and what more stands in it.
fn yaml(top: &str, route: &str, settings: &str, origins: &[Origin], more: &[&str]) -> String {
    let endpoints = origins.iter().zip(more);
    let endpoints: Vec<_> =
        endpoints.map(|(origin, more)| format!("{{address: '{}', {more}}}", origin.name())).collect();
    let routes = Yaml::new().top(top).with_route(&format!("name: r, {route}"));
    format!("{routes}  u: {{endpoints: [{}], {settings}}}\n", endpoints.join(", "))
}

/// Of so many requests, what each was sent. Probes have another path.
async fn shares(
    gateway: &Gateway,
    origins: &[Origin],
    requests: usize,
    headers: &[(&str, &str)],
) -> Vec<usize> {
    let count = || -> Vec<usize> {
        let of = |origin: &Origin| origin.seen().iter().filter(|seen| seen.path == "/").count();
        origins.iter().map(of).collect()
    };
    let before = count();
    let mut client = Client::new(gateway);
    for _ in 0..requests {
        client.send("GET", "/", headers, "").await.assert_no_reason().assert_status(200);
    }
    count().iter().zip(before).map(|(after, before)| after - before).collect()
}

async fn wait_for_health(gateway: &Gateway, origin: &Origin, value: f64) {
    wait_for_metric(gateway, HEALTHY, &[&format!("endpoint=\"{}\"", origin.name())], value).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_in_reserve_get_what_the_others_cannot_bear() {
    let origins: [Origin; 3] = origins().await;
    let gateway =
        Gateway::start(&yaml("", "upstream: u", CHECKED, &origins, &["", "priority: 0", "priority: 1"]))
            .await;
    assert_eq!(shares(&gateway, &origins, 20, &[]).await, [10, 10, 0]);
    let share = async |priority: u16| metric(&gateway, SHARE, &[&format!("priority=\"{priority}\"")]).await;
    assert_eq!((share(0).await, share(1).await), (1.0, 0.0));

    origins[0].answer(503);
    wait_for_health(&gateway, &origins[0], 0.0).await;
    // Half of them bear 70 %.
    let spread = shares(&gateway, &origins, 300, &[]).await;
    assert!(spread[0] == 0 && (45..150).contains(&spread[2]), "{spread:?}");
    assert!((share(0).await - 0.7).abs() < 1e-9 && (share(1).await - 0.3).abs() < 1e-9);
    let shown = get(gateway.admin(), "/upstreams").await.json();
    let expected = serde_json::json!([
        {"priority": 0, "zone": null, "endpoints": 2, "share": 0.7},
        {"priority": 1, "zone": null, "endpoints": 1, "share": 0.3},
    ]);
    assert_eq!((&shown[0]["groups"], &shown[0]["endpoints"][2]["priority"]), (&expected, &1.into()));
    assert_eq!(get(gateway.admin(), "/v1/upstreams/u").await.json()["groups"], expected);

    origins[1].answer(503);
    wait_for_health(&gateway, &origins[1], 0.0).await;
    assert_eq!(shares(&gateway, &origins, 10, &[]).await, [0, 0, 10]);
    origins[0].answer(200);
    origins[1].answer(200);
    wait_for_health(&gateway, &origins[0], 1.0).await;
    wait_for_health(&gateway, &origins[1], 1.0).await;
    assert_eq!(shares(&gateway, &origins, 10, &[]).await[2], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_stay_in_the_gateway_s_zone_as_far_as_it_bears_them() {
    let origins: [Origin; 4] = origins().await;
    let zones = ["zone: a", "zone: a", "zone: b", "zone: b"];
    let yaml = |top: &str, settings: &str| yaml(top, "upstream: u", settings, &origins, &zones);
    let gateway = Gateway::start(&yaml("zone: a", CHECKED)).await;
    assert_eq!(shares(&gateway, &origins, 20, &[]).await, [10, 10, 0, 0]);
    origins[0].answer(503);
    wait_for_health(&gateway, &origins[0], 0.0).await;
    // One of three, for one of two zones: two thirds.
    let spread = shares(&gateway, &origins, 300, &[]).await;
    assert!(spread[0] == 0 && (140..260).contains(&spread[1]), "{spread:?}");
    let own = metric(&gateway, SHARE, &["zone=\"own\""]).await;
    assert!((own - 2.0 / 3.0).abs() < 1e-9, "{own}");
    origins[1].answer(503);
    wait_for_health(&gateway, &origins[1], 0.0).await;
    let spread = shares(&gateway, &origins, 20, &[]).await;
    assert_eq!(spread[..2], [0, 0], "{spread:?}");

    origins[0].answer(200);
    origins[1].answer(200);
    for (top, settings) in [("zone: a", "zone_aware: false"), ("", ""), ("zone: ''", ""), ("zone: c", "")] {
        let gateway = Gateway::start(&yaml(top, settings)).await;
        assert_eq!(shares(&gateway, &origins, 20, &[]).await, [5, 5, 5, 5], "{top} {settings}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_takes_the_endpoints_with_its_tags_and_a_split_shares_among_them() {
    let origins: [Origin; 3] = origins().await;
    let tags = ["tags: {version: v1}", "tags: {version: v1}", "tags: {version: v2}"];
    let route = "upstream: u, subset: {version: v2}, match: {headers: {x-version: next}}";
    let text = yaml("", route, "", &origins, &tags);
    let split = "- {name: all, split: {by: round_robin, to: [{name: v1, upstream: u, subset: {version: v1}, weight: 3}, \
                 {name: v2, upstream: u, subset: {version: v2}}]}}\nupstreams:";
    let gateway = Gateway::start(&text.replace("upstreams:", split)).await;
    assert_eq!(shares(&gateway, &origins, 10, &[("x-version", "next")]).await, [0, 0, 10]);
    assert_eq!(shares(&gateway, &origins, 40, &[]).await, [15, 15, 10]);
    let shown = get(gateway.admin(), "/upstreams").await.json();
    assert_eq!(shown.as_array().unwrap().len(), 1, "it is one upstream: {shown}");
    assert_eq!(shown[0]["endpoints"][2]["metadata"], serde_json::json!({"version": "v2"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subset_of_which_none_can_serve_has_its_requests_served_by_who_stands_in() {
    let [one, other, stand_in]: [Origin; 3] = origins().await;
    let origins = [one, other];
    let settings = format!("{CHECKED}, then: backup");
    let tags = ["tags: {version: v1}", "tags: {version: v2}"];
    let text = yaml("", "upstream: u, subset: {version: v2}", &settings, &origins, &tags);
    let backup = format!("  backup: {{endpoints: ['{}']}}\n", stand_in.name());
    let gateway = Gateway::start(&(text + &backup)).await;
    assert_eq!(shares(&gateway, &origins, 5, &[]).await, [0, 5]);
    origins[1].answer(503);
    wait_for_health(&gateway, &origins[1], 0.0).await;
    assert_eq!(shares(&gateway, &origins, 5, &[]).await, [0, 0]);
    assert_eq!(stand_in.requests(), 5);
    let shown = get(gateway.admin(), "/v1/upstreams/u").await.json();
    assert_eq!(shown["failover"]["state"], "serving", "the upstream is well: {shown}");
}
