//! The whole of a request has one deadline, whatever its tries do meanwhile.

use std::time::{Duration, Instant};

use super::{Client, Origin, gateway, yaml};
use crate::support::{Gateway, ScriptedUpstream, Step, logged, send};

const EAGER: &str = "backoff: {base: 1ms, max: 1ms}, budget: {min_per_second: 1000}";

#[tokio::test(flavor = "multi_thread")]
async fn a_dribbling_retry_is_cut_off_at_the_deadline_of_the_whole() {
    let head = "HTTP/1.1 200 OK\r\n";
    let script = vec![Step::ReadHead, Step::write(head), Step::Dribble(b"x: y\r\n".to_vec())];
    let dribbling = ScriptedUpstream::start(script).await;
    let failing = Origin::failing().await;
    let route = format!("upstream: u, timeout: 400ms, retry: {{attempts: 5, on: [5xx, timeout], {EAGER}}}");
    let endpoints = format!("  u: {{endpoints: ['{}', '{}']}}\n", failing.name(), dribbling.address());
    let gateway = Gateway::start(&(yaml(&route, &[]) + &endpoints)).await;
    let started = Instant::now();
    send(gateway.address("main"), "GET", "/a", &[], "").await.assert_reason(504, "request_timeout");
    assert!(started.elapsed() >= Duration::from_millis(400));
    let line = logged(&gateway, "/a").await;
    assert_eq!((&line["attempts"], &line["reason"]), (&2.into(), &"request_timeout".into()), "{line}");
    assert_eq!((failing.requests(), dribbling.connections()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_that_each_have_time_have_no_more_than_the_whole() {
    for protocol in ["http1", "http2"] {
        let stalled = [Origin::start().await, Origin::start().await];
        stalled.iter().for_each(Origin::hold);
        let route = format!(
            "timeout: 400ms, retry: {{attempts: 10, per_try_timeout: 150ms, on: [timeout], {EAGER}}}"
        );
        let gateway = gateway(&route, &[&stalled[0], &stalled[1]], &format!("protocol: {protocol}")).await;
        let started = Instant::now();
        Client::new(&gateway).get("/a").await.assert_reason(504, "request_timeout");
        assert!(started.elapsed() >= Duration::from_millis(400), "{protocol}");
        // Each of the first ones had its whole time.
        let tries = logged(&gateway, "/a").await["attempts"].as_u64().unwrap();
        assert!((1..=3).contains(&tries), "{protocol}: {tries}");
        for origin in &stalled {
            origin.wait_for("the end of what was given up", |counts| counts.in_flight == 0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_beyond_the_deadline_is_not_begun() {
    let failing = Origin::failing().await;
    // A random part of it, which is less than the whole once in ten million times.
    let route = "timeout: 500ms, retry: {attempts: 9, on: [5xx], backoff: {base: 1000h, max: 1000h}}";
    let gateway = gateway(route, &[&failing], "").await;
    Client::new(&gateway).get("/a").await.assert_no_reason().assert_status(503);
    assert_eq!(logged(&gateway, "/a").await["attempts"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_room_counts() {
    let origin = Origin::start().await;
    origin.hold();
    let settings = "pool: {max_requests: 1, max_pending: 10, pending_timeout: 1h}";
    let yaml = yaml("match: {path: /first}, upstream: u", &[("u", &[&origin], settings)])
        .replace("upstreams:\n", "- {name: late, timeout: 200ms, upstream: u}\nupstreams:\n");
    let gateway = Gateway::start(&yaml).await;
    let mut first = Client::new(&gateway);
    let first = tokio::spawn(async move { first.get("/first").await });
    origin.wait_for_requests(1).await;
    let started = Instant::now();
    let answer = Client::new(&gateway).get("/late").await;
    assert!(started.elapsed() >= Duration::from_millis(200));
    answer.assert_reason(504, "request_timeout");
    assert_eq!(origin.requests(), 1);
    origin.release();
    first.await.unwrap().assert_status(200);
}
