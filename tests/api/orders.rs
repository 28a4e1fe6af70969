//! Orders: they say what their giver has seen, are refused where that has moved, and are written down with who gave them.

use serde_json::json;

use super::{ALICE, KEYS, OPEN, ask, assert_problem, show, show_until};
use crate::support::{Backend, EventStream, Gateway, Yaml, get};

fn canary(stable: &Backend, candidate: &Backend, settings: &str) -> String {
    format!(
        "admin: {KEYS}\nlisteners: [{{name: edge, address: 127.0.0.1:0}}]\n\
         routes: [{{name: search, canary: {{stable: v1, candidate: v2, {settings}}}}}]\n\
         upstreams: {{v1: {{endpoints: ['{}']}}, v2: {{endpoints: ['{}']}}}}\n",
        stable.address(),
        candidate.address()
    )
}

#[tokio::test]
async fn an_order_on_a_canary_that_has_moved_is_refused_with_its_state() {
    let (stable, candidate) = (Backend::start().await, Backend::start().await);
    let gateway =
        Gateway::start(&canary(&stable, &candidate, "by: random, start: 10%, step: 20%, every: 1h")).await;
    let shown = ask(&gateway, "GET", "/v1/canaries/search", &[ALICE], "").await;
    let (seen, body) = (shown.header("etag").unwrap().to_owned(), shown.json());
    assert_eq!((seen.as_str(), &body["etag"]), ("\"progressing:0.1\"", &json!("progressing:0.1")));
    assert_eq!(body["orders"], json!(["promote", "rollback", "pause", "step"]));
    assert_eq!(body["next"]["action"], "advance");
    assert!(body["next"]["not_yet"].as_str().unwrap().contains("candidate has 0 of the"), "{body}");
    let if_seen = [ALICE, ("if-match", seen.as_str())];
    let order = async |order: &str, headers: &[(&str, &str)]| {
        ask(&gateway, "POST", &format!("/v1/canaries/search/{order}"), headers, "").await
    };
    let done = order("step", &if_seen).await.assert_status(200).json();
    assert_eq!(
        (&done["result"], &done["canary"]["etag"]),
        (&json!("advanced from 10% to 30%"), &json!("progressing:0.3"))
    );
    let moved = assert_problem(&order("promote", &if_seen).await, 409, "stale");
    assert_eq!(moved["canary"]["weight"], 0.3, "{moved}");
    assert!(moved["refused"].as_str().unwrap().contains("progressing:0.3"), "{moved}");
    let after = ask(&gateway, "GET", "/v1/canaries", &[ALICE], "").await.json();
    assert_eq!(
        (&after[0]["weight"], &after[0]["last_decision"]["what"]),
        (&json!(0.3), &json!("advanced from 10% to 30%"))
    );
    // Without it, it is as it was before there were conditions.
    order("pause", &[ALICE]).await.assert_status(200);
    assert_problem(&order("pause", &[ALICE]).await, 409, "conflict");
    assert_problem(&order("pause", &[ALICE, ("if-match", "paused")]).await, 400, "bad_request");
    assert_problem(&order("halt", &[ALICE]).await, 404, "not_found");
    let line = gateway.wait_for_line(|line| line["ordered"] == "step").await;
    assert!(line["by"].as_str().unwrap().starts_with("alice at 127.0.0.1:"), "{line}");
    let orders = ask(&gateway, "GET", "/v1/orders", &[ALICE], "").await.json();
    let told: Vec<_> =
        orders.as_array().unwrap().iter().map(|order| (&order["order"], &order["ok"])).collect();
    assert_eq!(
        told,
        [
            (&json!("canary pause"), &json!(false)),
            (&json!("canary pause"), &json!(true)),
            (&json!("canary promote"), &json!(false)),
            (&json!("canary step"), &json!(true)),
        ]
    );
}

#[tokio::test]
async fn a_canary_that_is_rolled_back_is_told_at_once_and_to_whoever_asks() {
    let (stable, candidate) = (Backend::start().await, Backend::start().await);
    let settings =
        "by: random, start: 50%, step: 20%, every: 1h, require: {success_rate: 99%, min_requests: 10}";
    let yaml =
        canary(&stable, &candidate, settings).replace(&format!("admin: {KEYS}"), &format!("admin: {OPEN}"));
    let gateway = Gateway::start(&yaml).await;
    let mut events = EventStream::open(gateway.admin(), "/v1/events", &[]).await;
    drop(candidate);
    let edge = gateway.address("edge");
    let requests = tokio::spawn(async move {
        loop {
            get(edge, "/").await;
        }
    });
    let told = events.next_of("canary").await.data;
    requests.abort();
    assert_eq!(
        (&told["phase"], &told["weight"], &told["by"]),
        (&json!("rolled_back"), &json!(0.0), &json!(null))
    );
    let shown = show(&gateway, "/v1/canaries/search").await;
    assert!(shown["why"].as_str().unwrap().contains("success rate"), "{shown}");
    assert_eq!(shown["last_decision"]["what"], told["what"]);
    let success = &shown["requirements"][0];
    assert_eq!((&success["name"], &success["limit"]), (&json!("success_rate"), &json!(0.99)), "{shown}");
}

#[tokio::test]
async fn a_breaker_is_ordered_as_it_was_seen() {
    let backend = Backend::start().await;
    let gateway =
        Yaml::to(backend.address()).settings("circuit_breaker: {consecutive_failures: 3}").start().await;
    let mut events = EventStream::open(gateway.admin(), "/v1/events", &[]).await;
    let order = async |order: &str, seen: &str| {
        let path = format!("/v1/breakers/origin/{}/{order}", backend.address());
        ask(&gateway, "POST", &path, &[("if-match", seen)], "").await
    };
    let rows = show(&gateway, "/v1/endpoints").await;
    assert_eq!(
        (&rows[0]["breaker"]["state"], &rows[0]["breaker"]["etag"]),
        (&json!("closed"), &json!("closed"))
    );
    let opened = order("open", "\"closed\"").await.assert_status(200).json();
    assert_eq!(
        (&opened["breaker"]["forced"], &opened["breaker"]["etag"]),
        (&json!("open"), &json!("held_open"))
    );
    assert_eq!(events.next_of("breaker").await.data["state"], "open");
    get(gateway.address("main"), "/").await.assert_status(503);
    let moved = assert_problem(&order("open", "\"closed\"").await, 409, "stale");
    assert_eq!(moved["breaker"]["etag"], "held_open");
    let rows = show(&gateway, "/v1/endpoints").await;
    assert_eq!(rows[0]["state"], "open", "{rows}");
    order("reset", "\"held_open\"").await.assert_status(200);
    get(gateway.address("main"), "/").await.assert_status(200);
}

#[tokio::test]
async fn an_endpoint_is_drained_and_that_is_undone() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let gateway = Yaml::to_all([one.address(), two.address()]).start().await;
    let mut events = EventStream::open(gateway.admin(), "/v1/events", &[]).await;
    let path = format!("/v1/upstreams/origin/endpoints/{}", one.address());
    ask(&gateway, "PUT", &path, &[], "{\"drain\": true}").await.assert_status(201);
    let told = events.next_of("order").await.data;
    assert_eq!((&told["order"], &told["ok"]), (&json!("put"), &json!(true)), "{told}");
    let drained = show(&gateway, &path).await;
    assert_eq!((&drained["state"], &drained["weight"]), (&json!("drained"), &json!(0)), "{drained}");
    assert!(drained["why"].as_str().unwrap().starts_with("drained by 127.0.0.1:"), "{drained}");
    let upstream = show(&gateway, "/v1/upstreams/origin").await;
    assert_eq!((&upstream["usable"], &upstream["endpoint_count"]), (&json!(1), &json!(2)), "{upstream}");
    ask(&gateway, "DELETE", &path, &[], "").await.assert_status(200);
    assert_eq!(show(&gateway, &path).await["state"], "unchecked");
}

#[tokio::test]
async fn a_reload_and_a_drain_are_ordered_for_what_was_seen() {
    let yaml = |admin: &str| {
        format!(
            "admin: {admin}\nlisteners: [{{name: edge, address: 127.0.0.1:0}}]\nroutes: [{{respond: {{}}}}]\n"
        )
    };
    let gateway = Gateway::start(&yaml(OPEN)).await;
    let hash = show(&gateway, "/v1/overview").await["config_hash"].as_str().unwrap().to_owned();
    let quoted = format!("\"{hash}\"");
    let reload = async |seen: &str| ask(&gateway, "POST", "/v1/reload", &[("if-match", seen)], "").await;
    assert_problem(&reload("\"0123456789abcdef\"").await, 409, "stale");
    assert_eq!(reload(&quoted).await.assert_status(200).json()["result"], "unchanged");
    gateway.write_config(&yaml(OPEN).replace("respond: {}", "respond: {}, name: other"));
    assert_eq!(reload(&quoted).await.assert_status(200).json()["result"], "reloaded");
    assert_problem(&reload(&quoted).await, 409, "stale");
    gateway.write_config("routes: 1\n");
    let rejected = ask(&gateway, "POST", "/v1/reload", &[], "").await.assert_status(422).json();
    assert_eq!((&rejected["result"], &rejected["reason"]), (&json!("rejected"), &json!("config_rejected")));
    let reloads = show_until(&gateway, "/v1/reloads", |reloads| reloads[0]["result"] == "rejected").await;
    assert!(reloads[0]["by"].as_str().unwrap().starts_with("127.0.0.1:"), "{reloads}");
    let drain = async |seen: &str| ask(&gateway, "POST", "/v1/drain", &[("if-match", seen)], "").await;
    assert_problem(&drain("\"draining\"").await, 409, "stale");
    assert_eq!(drain("\"ready\"").await.assert_status(202).json()["result"], "draining");
}
