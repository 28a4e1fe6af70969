//! Hedges: a slow request goes to a second endpoint too, and the first good answer wins.

use super::{Client, Origin, gateway};
use crate::support::{logged, metric, wait_for_metric};

/// At once, so that no test depends on how long anything takes.
const HEDGE: &str = "hedge: {after: 1ms, budget: 100%}";
const TURNS: &str = "balancer: round_robin";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_is_answered_by_another_endpoint_and_the_loser_is_cancelled() {
    let (slow, quick) = (Origin::start().await, Origin::start().await);
    slow.hold();
    let gateway = gateway(HEDGE, &[&slow, &quick], TURNS).await;
    let mut client = Client::new(&gateway);
    // Every other request begins at the slow one.
    for request in 0..6 {
        let path = format!("/{request}");
        let answer = client.send("GET", &path, &[("x-client", "kept")], "").await;
        answer.assert_status(200).assert_no_reason();
    }
    assert!(slow.requests() >= 2, "{}", slow.requests());
    slow.wait_for("the cancelled copies to end", |counts| counts.in_flight == 0).await;
    wait_for_metric(&gateway, "tidegate_upstream_active_requests", &[], 0.0).await;
    assert!(metric(&gateway, "tidegate_hedges_total", &["outcome=\"won\""]).await >= 2.0);
    for seen in slow.seen().iter().chain(&quick.seen()) {
        assert_eq!(seen.header("x-client"), Some("kept"));
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "a copy is dressed like any request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_to_a_different_endpoint_or_nowhere() {
    let only = Origin::start().await;
    only.hold();
    let gateway = gateway(HEDGE, &[&only], TURNS).await;
    let mut client = Client::new(&gateway);
    let answered = tokio::spawn(async move { client.get("/").await.status.as_u16() });
    only.wait_for_requests(1).await;
    only.release();
    assert_eq!(answered.await.unwrap(), 200);
    assert_eq!(only.most_in_flight(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_copy_does_not_win_over_one_that_is_under_way() {
    let (bad, good) = (Origin::failing().await, Origin::start().await);
    let gateway = gateway(&format!("{HEDGE}, retry: {{on: [5xx]}}"), &[&bad, &good], TURNS).await;
    let mut client = Client::new(&gateway);
    for _ in 0..6 {
        client.get("/").await.assert_status(200);
    }
    assert!(bad.requests() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_whole_with_each_copy_and_a_post_is_sent_once() {
    let (slow, quick) = (Origin::start().await, Origin::start().await);
    slow.hold();
    let gateway = gateway(HEDGE, &[&slow, &quick], TURNS).await;
    let mut client = Client::new(&gateway);
    let body = "x".repeat(60_000);
    for _ in 0..2 {
        client.send("PUT", "/put", &[], body.clone()).await.assert_status(200);
    }
    for seen in slow.seen().iter().chain(&quick.seen()) {
        assert_eq!(seen.body.len(), body.len());
    }
    slow.release();
    let before = slow.requests() + quick.requests();
    for _ in 0..4 {
        client.send("POST", "/post", &[], "once").await.assert_status(200);
    }
    assert_eq!(slow.requests() + quick.requests(), before + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_spent_leaves_the_request_where_it_is() {
    let (one, two) = (Origin::start().await, Origin::start().await);
    let gateway = gateway("hedge: {after: 1ms, budget: 1%}", &[&one, &two], TURNS).await;
    one.hold();
    two.hold();
    let mut client = Client::new(&gateway);
    let answered = tokio::spawn(async move { client.get("/").await.status.as_u16() });
    wait_for_metric(&gateway, "tidegate_hedges_total", &["outcome=\"not_paid\""], 1.0).await;
    one.release();
    two.release();
    assert_eq!(answered.await.unwrap(), 200);
    // Counted when it is over: the hedge may be refused before the first request has arrived.
    assert_eq!(one.requests() + two.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_timeout_holds_for_hedged_requests_and_a_client_that_leaves_cancels_all_copies() {
    let (one, two) = (Origin::start().await, Origin::start().await);
    one.hold();
    two.hold();
    // Long enough for both copies to be on their way on a busy machine.
    let gateway = gateway(&format!("{HEDGE}, timeout: 2s"), &[&one, &two], TURNS).await;
    Client::new(&gateway).get("/late").await.assert_reason(504, "request_timeout");
    assert_eq!(logged(&gateway, "/late").await["hedged"], true);
    let timeouts = metric(&gateway, "tidegate_upstream_attempts_total", &["outcome=\"timeout\""]).await;
    assert_eq!(timeouts, 2.0, "the endpoints are blamed for it");
    let patient = super::gateway(HEDGE, &[&one, &two], TURNS).await;
    let mut client = Client::new(&patient);
    let before = (one.requests(), two.requests());
    let asking = tokio::spawn(async move { client.get("/left").await });
    one.wait_for_requests(before.0 + 1).await;
    two.wait_for_requests(before.1 + 1).await;
    asking.abort();
    for origin in [&one, &two] {
        origin.wait_for("the copies to be cancelled", |counts| counts.in_flight == 0).await;
    }
    assert_eq!(logged(&patient, "/left").await["reason"], "client_closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_every_kind_pass_and_response_filters_see_them() {
    let (one, two) = (Origin::start().await, Origin::start().await);
    let route = format!("{HEDGE}, filters: [{{headers: {{response: {{set: {{x-seen: 'yes'}}}}}}}}]");
    let gateway = gateway(&route, &[&one, &two], TURNS).await;
    let mut client = Client::new(&gateway);
    for (method, status) in [("GET", 200), ("HEAD", 200), ("GET", 404), ("GET", 204), ("GET", 304)] {
        let answer = client.send(method, &format!("/status/{status}"), &[], "").await;
        assert_eq!(answer.assert_status(status).header("x-seen"), Some("yes"), "{method} {status}");
        let has_body = method == "GET" && !matches!(status, 204 | 304);
        assert_eq!(answer.text().is_empty(), !has_body, "{method} {status}");
    }
    let grpc = [("content-type", "application/grpc")];
    let answer = crate::support::send_h2c(gateway.address("main"), "GET", "/grpc/0", &grpc, "").await;
    assert_eq!(answer.assert_status(200).header("grpc-status"), Some("0"));
}
