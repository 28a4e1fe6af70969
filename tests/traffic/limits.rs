//! How many requests an upstream is sent at once, who waits, and who is told to come back.

use super::{Client, Origin, gateway};
use crate::support::{Answer, Gateway, logged, metric, wait_for_metric};

/// Asks in the background.
fn ask(gateway: &Gateway, path: &str) -> tokio::task::JoinHandle<Answer> {
    let (mut client, path) = (Client::new(gateway), path.to_owned());
    tokio::spawn(async move { client.get(&path).await })
}

async fn pending(gateway: &Gateway, count: usize) {
    let name = "tidegate_upstream_pending_requests";
    wait_for_metric(gateway, name, &["upstream=\"u\""], count as f64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_find_no_room_wait_and_those_beyond_are_refused_at_once() {
    for limit in ["max_requests: 2", "max_connections: 2"] {
        let origin = Origin::start().await;
        origin.hold();
        let settings = format!("pool: {{{limit}, max_pending: 2, pending_timeout: 1h}}");
        let gateway = gateway("", &[&origin], &settings).await;
        let mut served = vec![ask(&gateway, "/0"), ask(&gateway, "/1")];
        origin.wait_for_requests(2).await;
        served.extend([ask(&gateway, "/2"), ask(&gateway, "/3")]);
        pending(&gateway, 2).await;
        for _ in 0..3 {
            let refusal = Client::new(&gateway).get("/late").await;
            refusal.assert_reason(503, "overloaded");
            assert!(refusal.header("retry-after").is_some(), "{refusal:?}");
        }
        assert_eq!(logged(&gateway, "/late").await["attempts"], 0);
        assert_eq!(origin.requests(), 2, "{limit}");
        let errors = metric(&gateway, "tidegate_errors_total", &["reason=\"overloaded\""]).await;
        assert_eq!(errors, 3.0);
        origin.release();
        for one in served {
            one.await.unwrap().assert_status(200);
        }
        pending(&gateway, 0).await;
        assert_eq!((origin.requests(), origin.most_in_flight()), (4, 2), "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_came_first_is_served_first() {
    let origin = Origin::start().await;
    origin.hold();
    let gateway =
        gateway("", &[&origin], "pool: {max_requests: 1, max_pending: 9, pending_timeout: 1h}").await;
    let mut served = vec![ask(&gateway, "/0")];
    origin.wait_for_requests(1).await;
    for next in 1..=5 {
        served.push(ask(&gateway, &format!("/{next}")));
        pending(&gateway, next).await;
    }
    origin.release();
    for one in served {
        one.await.unwrap().assert_status(200);
    }
    let order: Vec<String> = origin.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(order, ["/0", "/1", "/2", "/3", "/4", "/5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_longer_than_the_pending_timeout() {
    let origin = Origin::start().await;
    origin.hold();
    let gateway = gateway("", &[&origin], "pool: {max_requests: 1, pending_timeout: 100ms}").await;
    let first = ask(&gateway, "/0");
    origin.wait_for_requests(1).await;
    Client::new(&gateway).get("/late").await.assert_reason(503, "overloaded");
    assert_eq!(origin.requests(), 1);
    pending(&gateway, 0).await;
    origin.release();
    first.await.unwrap().assert_status(200);
    Client::new(&gateway).get("/after").await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_keep_the_place_they_have() {
    let (bad, good) = (Origin::failing().await, Origin::start().await);
    let retry = "retry: {on: [5xx], backoff: {base: 1ms, max: 1ms}, budget: {min_per_second: 1000}}";
    let settings = "pool: {max_requests: 1, max_pending: 100, pending_timeout: 1h}";
    let gateway = gateway(retry, &[&bad, &good], settings).await;
    let served: Vec<_> = (0..20).map(|_| ask(&gateway, "/")).collect();
    for one in served {
        one.await.unwrap().assert_status(200);
    }
    assert_eq!((bad.most_in_flight(), good.most_in_flight()), (1, 1));
}
