//! `then`: while no endpoint of an upstream can be used, another upstream has its requests, and gives them back little by little.

use super::{Client, Origin, order, yaml};
use crate::support::{
    Gateway, RawConnection, ScriptedUpstream, Step, Yaml, get, logged, metric, send, silent::Refusing,
    wait_for_metric,
};

const CHECKED: &str = "health_check: {http: {path: /}, interval: 20ms, timeout: 1s}";
const SHARE: &str = "tidegate_upstream_failover_share";
const HEALTHY: &str = "tidegate_upstream_healthy";

async fn state(gateway: &Gateway, upstream: &str) -> serde_json::Value {
    let shown = get(gateway.admin(), "/upstreams").await.json();
    let all = shown.as_array().unwrap();
    all.iter().find(|one| one["name"] == upstream).unwrap()["failover"].clone()
}

/// Of so many requests, those that each has served, by the access log.
async fn shares(gateway: &Gateway, requests: usize, prefix: &str) -> (usize, usize) {
    let mut client = Client::new(gateway);
    let mut own = 0;
    for number in 0..requests {
        let path = format!("/{prefix}/{number}");
        client.get(&path).await.assert_no_reason().assert_status(200);
        own += usize::from(logged(gateway, &path).await["upstream"] == "u");
    }
    (own, requests - own)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_upstream_gets_nothing_and_then_its_requests_back_little_by_little() {
    let (own, other) = (Origin::start().await, Origin::start().await);
    let settings = format!("{CHECKED}, then: {{upstream: backup, stay: 0s, recover: 2h}}");
    let text = yaml("upstream: u", &[("u", &[&own], &settings), ("backup", &[&other], "")]);
    let gateway = Gateway::start(&text).await;
    assert_eq!(shares(&gateway, 5, "before").await, (5, 0));
    assert_eq!(metric(&gateway, SHARE, &["upstream=\"u\"", "to=\"backup\""]).await, 1.0);

    own.answer(503);
    wait_for_metric(&gateway, HEALTHY, &["upstream=\"u\""], 0.0).await;
    assert_eq!(shares(&gateway, 20, "away").await, (0, 20));
    let line = gateway.wait_for_message("upstream has no usable endpoint, its requests go to another").await;
    assert_eq!((&line["upstream"], &line["to"]), (&"u".into(), &"backup".into()), "{line}");
    let expected = serde_json::json!({"to": "backup", "state": "failed_over", "share": 0.0});
    assert_eq!(state(&gateway, "u").await, expected);
    assert_eq!(get(gateway.admin(), "/v1/upstreams/u").await.json()["failover"], expected);
    assert_eq!(metric(&gateway, SHARE, &["upstream=\"u\""]).await, 0.0);
    let overview = get(gateway.admin(), "/v1/overview").await.json();
    let mut told = overview["attention"].as_array().unwrap().iter();
    assert!(told.any(|one| one["text"] == "requests of u go to backup"), "{overview}");
    assert!(state(&gateway, "backup").await.is_null());

    own.answer(200);
    wait_for_metric(&gateway, HEALTHY, &["upstream=\"u\""], 1.0).await;
    // A tenth, by chance.
    let (served, _) = shares(&gateway, 300, "back").await;
    assert!((5..80).contains(&served), "{served}");
    assert_eq!(state(&gateway, "u").await["state"], "recovering");
    let label = |state: &str| format!("state=\"{state}\"");
    for (state, expected) in [("failed_over", 1.0), ("recovering", 1.0), ("serving", 0.0)] {
        let changes = metric(&gateway, "tidegate_upstream_failover_changes_total", &[&label(state)]).await;
        assert_eq!(changes, expected, "{state}");
    }
    // What is counted by route and upstream is counted where it was served.
    let at = |upstream: &str| format!("upstream=\"{upstream}\"");
    let counted = metric(&gateway, "tidegate_requests_total", &["route=\"r\"", &at("backup")]).await;
    assert_eq!(counted, (320 - served) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_back_waits_for_its_time_and_a_reload_forgets_nothing() {
    let (own, other) = (Origin::start().await, Origin::start().await);
    own.answer(503);
    let settings = format!("{CHECKED}, then: {{upstream: backup, stay: 1h}}");
    let text = |more: &str| {
        let settings = format!("{settings}{more}");
        yaml("upstream: u", &[("u", &[&own], &settings), ("backup", &[&other], "")])
    };
    let gateway = Gateway::start(&text("")).await;
    assert_eq!(shares(&gateway, 3, "away").await, (0, 3));
    own.answer(200);
    wait_for_metric(&gateway, HEALTHY, &["upstream=\"u\""], 1.0).await;
    assert_eq!(shares(&gateway, 10, "staying").await, (0, 10));
    gateway.reload(&text(", read_timeout: 50s")).await;
    assert_eq!(shares(&gateway, 10, "after").await, (0, 10));
    assert_eq!(state(&gateway, "u").await["state"], "failed_over");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_reached_costs_no_request_whatever_its_route_says() {
    for route in ["", "retry: {attempts: 3}", "hedge: {after: 10s}", "timeout: 20s"] {
        let (dead, other) = (Refusing::start(), Origin::start().await);
        let yaml = Yaml::to(dead.address()).route(route).settings("then: backup");
        let gateway = yaml.with_upstream("backup", [other.address], "").start().await;
        for number in 0..10 {
            let path = format!("/{number}");
            let method = if number % 2 == 0 { "GET" } else { "POST" };
            let answer = send(gateway.address("main"), method, &path, &[], "body").await;
            answer.assert_no_reason().assert_status(200);
            let line = logged(&gateway, &path).await;
            assert_eq!(
                (&line["upstream"], &line["endpoint"]),
                (&"backup".into(), &other.name().into()),
                "{route}: {line}"
            );
        }
        assert_eq!(other.requests(), 10, "{route}");
        let failed =
            metric(&gateway, "tidegate_upstream_attempts_total", &["outcome=\"connect_failed\""]).await;
        assert!(failed < 10.0, "{route}: a trial now and then, {failed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_breaker_is_open_is_passed_over_and_tried_again() {
    let (own, other) = (Origin::start().await, Origin::start().await);
    let settings = "circuit_breaker: {open_for: 1h}, then: {upstream: backup, stay: 0s, recover: 0s}";
    let text = yaml("upstream: u", &[("u", &[&own], settings), ("backup", &[&other], "")]);
    let gateway = Gateway::start(&text).await;
    let breaker = format!("/breakers/u/{}", own.name());
    assert_eq!(order(&gateway, &format!("{breaker}/open")).await.0, 200);
    assert_eq!(shares(&gateway, 5, "open").await, (0, 5));
    assert_eq!(order(&gateway, &format!("{breaker}/close")).await.0, 200);
    assert_eq!(shares(&gateway, 5, "closed").await, (5, 0), "at once, as was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_followed_to_the_first_that_can_serve_and_each_is_asked_in_its_own_way() {
    let (dead, gone, last) = (Refusing::start(), Refusing::start(), Origin::start().await);
    let gateway = Yaml::to(dead.address())
        .settings("then: second")
        .with_upstream("second", [gone.address()], "protocol: http2, then: last")
        .with_upstream("last", [last.address], "protocol: http2")
        .start()
        .await;
    for path in ["/first", "/second"] {
        get(gateway.address("main"), path).await.assert_no_reason().assert_status(200);
        assert_eq!(logged(&gateway, path).await["upstream"], "last");
    }
    // Over HTTP/2 it is no field.
    assert!(last.seen().iter().all(|seen| seen.header("host").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_serve_the_client_is_told_so() {
    let (dead, gone) = (Refusing::start(), Refusing::start());
    let gateway = Yaml::to(dead.address())
        .settings("then: backup")
        .with_upstream("backup", [gone.address()], "")
        .start()
        .await;
    for _ in 0..5 {
        get(gateway.address("main"), "/").await.assert_reason(502, "connect_failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_to_be_taken_back_serves_where_the_other_cannot() {
    let (own, other) = (Origin::start().await, Origin::start().await);
    own.answer(503);
    let settings = format!("{CHECKED}, then: {{upstream: backup, stay: 1h}}");
    let text = yaml("upstream: u", &[("u", &[&own], &settings), ("backup", &[&other], CHECKED)]);
    let gateway = Gateway::start(&text).await;
    assert_eq!(shares(&gateway, 3, "away").await, (0, 3));
    own.answer(200);
    other.answer(503);
    wait_for_metric(&gateway, HEALTHY, &["upstream=\"u\""], 1.0).await;
    wait_for_metric(&gateway, HEALTHY, &["upstream=\"backup\""], 0.0).await;
    assert_eq!(shares(&gateway, 3, "back").await, (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variant_of_a_split_is_the_same_variant_whoever_serves_it() {
    let (dead, other, stand_in) = (Refusing::start(), Origin::start().await, Origin::start().await);
    let split =
        "name: r, split: {by: round_robin, to: [{upstream: a, name: blue}, {upstream: b, name: green}]}";
    let gateway = Yaml::new()
        .with_route(split)
        .with_upstream("a", [dead.address()], "then: c")
        .with_upstream("b", [other.address], "")
        .with_upstream("c", [stand_in.address], "")
        .start()
        .await;
    for number in 0..10 {
        let path = format!("/{number}");
        get(gateway.address("main"), &path).await.assert_no_reason().assert_status(200);
        let line = logged(&gateway, &path).await;
        let expected = if line["variant"] == "blue" { "c" } else { "b" };
        assert_eq!(line["upstream"], expected, "{line}");
    }
    assert_eq!((other.requests(), stand_in.requests()), (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_its_own_upstream_serves_nobody_counts_on_the_one_that_stands_in() {
    let other = Origin::start().await;
    let with = |address: std::net::SocketAddr, route: &str| {
        Yaml::to(address).route(route).settings("then: backup").with_upstream("backup", [other.address], "")
    };
    // A small answer is held back only for another endpoint's sake.
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf ";
    let slow = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(half), Step::Stall]).await;
    let gateway = with(slow.address(), "retry: {attempts: 3}").start().await;
    let mut client = RawConnection::open(gateway.address("main"));
    client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_exactly(5), b"half ");
    // Who asks to be left alone is.
    let busy = "HTTP/1.1 503 Busy\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n";
    let busy = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(busy), Step::Again]).await;
    let gateway = with(busy.address(), "retry: {attempts: 3, on: [5xx]}").start().await;
    get(gateway.address("main"), "/").await.assert_no_reason().assert_status(503);
    assert_eq!(busy.heads().len(), 1);
    // A hedged request that has failed is sent again where it was.
    let failing = Origin::failing().await;
    let gateway = with(failing.address, "hedge: {after: 10s}, retry: {attempts: 2, on: [5xx]}").start().await;
    get(gateway.address("main"), "/").await.assert_no_reason().assert_status(503);
    assert_eq!((failing.requests(), other.requests()), (2, 0));
}
