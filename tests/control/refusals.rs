//! Whatever a stranger sends has a reason, and loses nothing of what is there.

use serde_json::json;

use super::{Plane, assert_refused};
use crate::support::{RawConnection, get, metric, send, wait_for_metric};

#[tokio::test]
async fn what_cannot_be_registered_is_refused_with_its_reason() {
    let plane = Plane::start().await;
    plane.register("users", 1).await;
    let tags: Vec<String> = (0..33).map(|n| n.to_string()).collect();
    let with = |key: &str, value: serde_json::Value| {
        let mut body = json!({"name": "users", "address": "127.0.0.1:2"});
        body[key] = value;
        body.to_string()
    };
    let good = with("weight", json!(1));
    for (body, status, reason, says) in [
        (with("name", json!("Us ers")), 400, "bad_request", "is not the name of a service"),
        (with("name", json!("a".repeat(129))), 413, "too_large", "at most 128 bytes"),
        (with("tags", json!(tags)), 413, "too_large", "33 tags are more than 32"),
        (with("metadata", json!({"k": "v".repeat(513)})), 413, "too_large", "at most 512 bytes"),
        (with("address", json!("127.0.0.1")), 400, "bad_request", "has no port"),
        (with("ttl", json!("0s")), 400, "bad_request", "is not between 1s and 1day"),
        (with("ttl", json!("-5s")), 400, "bad_request", "is not a duration"),
        (with("ttl", json!("25h")), 400, "bad_request", "is not between"),
        (with("colour", json!("red")), 400, "bad_request", "unknown field `colour`"),
        (good[..good.len() - 1].to_owned(), 400, "bad_request", "(send JSON)"),
        (String::new(), 400, "bad_request", "(send JSON)"),
        ("name=users".to_owned(), 400, "bad_request", "(send JSON)"),
        (format!("[{}]", good), 400, "bad_request", ""),
        ("[".repeat(100_000), 400, "bad_request", ""),
        (" ".repeat(1024 * 1024 + 1), 413, "too_large", "at most 1048576 bytes"),
    ] {
        assert_refused(&plane.ask("POST", "/v1/services", &body).await, status, reason, says);
    }
    assert_eq!(plane.list("").await, ["users-127.0.0.1-1"]);
    let refused = metric(&plane.gateway, "tidegate_control_refused_total", &["rest", "bad_request"]).await;
    assert_eq!(refused, 11.0);
}

#[tokio::test]
async fn what_means_nothing_is_refused() {
    let plane = Plane::start().await;
    for (method, path, status, reason, says) in [
        ("PUT", "/v1/services/nobody/heartbeat", 404, "not_registered", "register it again"),
        ("GET", "/v1/services/nobody", 404, "not_registered", "there is no instance"),
        ("GET", "/v2/services", 404, "not_found", "GET / lists"),
        ("GET", "/v1/services/", 404, "not_registered", "there is no instance"),
        ("PATCH", "/v1/services", 405, "bad_request", "use POST, GET here"),
        ("POST", "/v1/catalog", 405, "bad_request", "use GET here"),
        ("GET", "/v1/services?nmae=users", 400, "bad_request", "unknown parameter \"nmae\" (known: name, "),
        ("GET", "/v1/catalog?name=a", 400, "bad_request", "there are none here"),
        ("GET", "/v1/services?name=a&name=b", 400, "bad_request", "given twice"),
        ("GET", "/v1/services?name=Users", 400, "bad_request", "is not the name"),
        ("GET", "/v1/services?limit=0", 400, "bad_request", "from 1 to 10000"),
        ("GET", "/v1/services?health=fine", 400, "bad_request", "healthy, critical, draining, held"),
        ("GET", "/v1/services?wait=30s", 400, "bad_request", "add `revision`"),
        ("GET", "/v1/services?wait=1d&revision=1", 400, "bad_request", "longer than 5m"),
        ("GET", "/v1/services?revision=new", 400, "bad_request", "x-tidegate-revision"),
        ("DELETE", "/v1/services/a?drain=soon", 400, "bad_request", "try \"drain=10s\""),
        ("GET", "/v1/watch?name=..", 400, "bad_request", "is not the name"),
    ] {
        let answer = plane.ask(method, path, "").await;
        assert_refused(&answer, status, reason, says);
        assert_eq!(answer.header("allow").is_some(), status == 405, "{path}");
    }
    let resumed = plane.ask_with("GET", "/v1/watch", &[("last-event-id", "yesterday")], "").await;
    assert_refused(&resumed, 400, "bad_request", "Last-Event-ID");
    assert_refused(&plane.ask("GET", "/v1/services", "{}").await, 400, "bad_request", "takes no body");
    plane.register("users", 1).await;
    let path = "/v1/services/users-127.0.0.1-1/heartbeat";
    assert_refused(&plane.ask("PUT", path, "{\"health\": 1}").await, 400, "bad_request", "");
    let moved = json!({"name": "carts", "address": "127.0.0.1:1", "id": "users-127.0.0.1-1"}).to_string();
    assert_refused(&plane.ask("POST", "/v1/services", &moved).await, 409, "conflict", "choose another `id`");
}

#[tokio::test]
async fn web_pages_reach_nothing() {
    let plane = Plane::start().await;
    let rebound = plane.ask_with("GET", "/v1/services", &[("host", "rebound.example")], "").await;
    assert_refused(&rebound, 421, "bad_request", "localhost");
    let body = json!({"name": "users", "address": "127.0.0.1:1"}).to_string();
    let posted = plane.ask_with("POST", "/v1/services", &[("origin", "https://evil.example")], &body).await;
    assert_refused(&posted, 403, "bad_request", "another origin");
    assert!(plane.list("").await.is_empty());
}

#[tokio::test]
async fn one_who_registers_in_a_loop_finds_an_end() {
    let plane = Plane::with("registry: {limits: {instances: 5, instances_per_service: 3}}").await;
    for port in 1..=3 {
        plane.register("users", port).await;
    }
    let body = json!({"name": "users", "address": "127.0.0.1:4"}).to_string();
    let refused = plane.ask("POST", "/v1/services", &body).await;
    assert_refused(&refused, 429, "limit", "limits.instances_per_service");
    assert_eq!(refused.header("retry-after"), Some("10"));
    plane.register("a", 1).await;
    plane.register("b", 1).await;
    let body = json!({"name": "c", "address": "127.0.0.1:4"}).to_string();
    assert_refused(&plane.ask("POST", "/v1/services", &body).await, 429, "limit", "limits.instances`");
    // Those that are there go on.
    plane.register("users", 1).await;
    plane.ask("DELETE", "/v1/services/b-127.0.0.1-1", "").await.assert_status(204);
    plane.register("c", 1).await;
}

#[tokio::test]
async fn there_are_no_more_watches_than_there_may_be() {
    let plane = Plane::with("registry: {limits: {watches: 2}}").await;
    let mut open: Vec<RawConnection> = (0..2)
        .map(|_| {
            let mut watch = RawConnection::open(plane.address());
            watch.write("GET /v1/watch HTTP/1.1\r\nhost: localhost\r\n\r\n");
            assert_eq!(watch.read_head().status, 200);
            watch
        })
        .collect();
    assert_refused(&plane.ask("GET", "/v1/watch", "").await, 429, "limit", "limits.watches");
    let poll = plane.ask("GET", "/v1/services?wait=1s&revision=0", "").await;
    assert_refused(&poll, 429, "limit", "limits.watches");
    plane.list("").await;
    open.pop();
    wait_for_metric(&plane.gateway, "tidegate_control_streams", &["sse"], 1.0).await;
    assert_eq!(get(plane.address(), "/v1/services?wait=1ms&revision=0").await.status, 304);
}

#[tokio::test]
async fn tokens_say_who_may_what() {
    let serve = "authorize: [\
        {token: shop-secret, register: ['*.shop'], discover: ['*.shop']}, \
        {token: other-secret, register: ['*']}, \
        {token: ops-secret, operate: true, discover: ['*'], join: [mesh], configure: [edge]}]";
    let plane = Plane::with(serve).await;
    let ask = async |token: Option<&str>, method: &str, path: &str, body: &str| {
        let credentials = token.map(|token| format!("Bearer {token}-secret"));
        let headers: Vec<_> = credentials.iter().map(|value| ("authorization", value.as_str())).collect();
        plane.ask_with(method, path, &headers, body).await
    };
    let cart = json!({"name": "cart.shop", "address": "127.0.0.1:1"}).to_string();
    let users = json!({"name": "users", "address": "127.0.0.1:1"}).to_string();
    for token in [None, Some("guessed")] {
        let refused = ask(token, "POST", "/v1/services", &cart).await;
        assert_refused(&refused, 401, "unauthenticated", "");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        // What there is, is not learnt either.
        assert_refused(&ask(token, "GET", "/v2", "").await, 401, "unauthenticated", "");
        assert_refused(&ask(token, "GET", "/metrics", "").await, 401, "unauthenticated", "");
        ask(token, "GET", "/livez", "").await.assert_status(200);
    }
    let created = ask(Some("shop"), "POST", "/v1/services", &cart).await;
    assert_eq!(created.assert_status(201).json()["owner"], "authorize[0].token");
    assert_refused(
        &ask(Some("shop"), "POST", "/v1/services", &users).await,
        403,
        "not_yours",
        "add `register`",
    );
    ask(Some("other"), "POST", "/v1/services", &users).await.assert_status(201);

    let id = "/v1/services/cart.shop-127.0.0.1-1";
    assert_refused(
        &ask(Some("other"), "POST", "/v1/services", &cart).await,
        403,
        "not_yours",
        "was registered by",
    );
    assert_refused(&ask(Some("other"), "PUT", &format!("{id}/heartbeat"), "").await, 403, "not_yours", "");
    assert_refused(&ask(Some("other"), "DELETE", id, "").await, 403, "not_yours", "");
    ask(Some("shop"), "PUT", &format!("{id}/heartbeat"), "").await.assert_status(200);

    // Each sees what is granted, and no more.
    let names = |list: serde_json::Value| list["services"].as_array().map_or(0, Vec::len);
    for (token, visible) in [("shop", 1), ("other", 0), ("ops", 2)] {
        assert_eq!(names(ask(Some(token), "GET", "/v1/catalog", "").await.json()), visible, "{token}");
        let list = ask(Some(token), "GET", "/v1/services", "").await.json();
        assert_eq!(list["instances"].as_array().unwrap().len(), visible, "{token}");
    }
    assert_refused(
        &ask(Some("shop"), "GET", "/v1/services?name=users", "").await,
        403,
        "not_yours",
        "discover",
    );
    assert_refused(&ask(Some("shop"), "GET", "/v1/watch?name=users", "").await, 403, "not_yours", "discover");
    let hidden = ask(Some("shop"), "GET", "/v1/services/users-127.0.0.1-1", "").await;
    assert_refused(&hidden, 404, "not_registered", "");

    assert_refused(&ask(Some("shop"), "GET", "/metrics", "").await, 403, "not_yours", "operate");
    let metrics = ask(Some("ops"), "GET", "/metrics", "").await;
    let refused = metrics.assert_status(200).text().to_owned();
    assert!(
        refused.contains("tidegate_control_refused_total{api=\"rest\",reason=\"unauthenticated\"} 6"),
        "{refused}"
    );
    assert!(!refused.contains("secret"));
    ask(Some("ops"), "DELETE", id, "").await.assert_status(204);
}

#[tokio::test]
async fn a_body_that_is_cut_off_registers_nothing() {
    let plane = Plane::start().await;
    let mut client = RawConnection::open(plane.address());
    client.write(
        "POST /v1/services HTTP/1.1\r\nhost: localhost\r\ncontent-length: 60\r\n\r\n{\"name\":\"users\",",
    );
    client.finish_writing();
    drop(client.read_to_end());
    assert!(plane.list("").await.is_empty());
    let chunked = [("transfer-encoding", "chunked")];
    let answer =
        send(plane.address(), "POST", "/v1/services", &chunked, "{\"name\":\"a\",\"address\":\"b:1\"}").await;
    answer.assert_status(201);
}
