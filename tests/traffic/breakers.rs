//! When a circuit breaker opens, what passes while it is open or half-open, and what an operator may order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::{Client, Origin, gateway, order, yaml};
use crate::support::{Gateway, RawConnection, get, logged, metric, wait_for_metric};

const CLIENTS: usize = 64;
const STATE: &str = "tidegate_circuit_breaker_state";
const CHANGES: &str = "tidegate_circuit_breaker_changes_total";

/// Requests in a row, all of which reach the origin.
async fn reach(client: &mut Client, origin: &Origin, count: usize) {
    let before = origin.requests();
    for _ in 0..count {
        client.get("/").await.assert_no_reason();
    }
    assert_eq!(origin.requests() - before, count);
}

/// Fails until the breaker with these defaults (half of the last 20) is open.
async fn open(client: &mut Client, origin: &Origin) {
    origin.answer(500);
    reach(client, origin, 20).await;
    client.get("/").await.assert_reason(503, "circuit_open");
}

#[tokio::test(flavor = "multi_thread")]
async fn opens_at_ten_failures_of_the_last_twenty_and_not_before() {
    let origin = Origin::start().await;
    let gateway =
        gateway("", &[&origin], "circuit_breaker: {window: 20, failure_ratio: 50%, open_for: 1h}").await;
    let mut client = Client::new(&gateway);
    reach(&mut client, &origin, 30).await;
    origin.answer(500);
    reach(&mut client, &origin, 9).await;
    // The oldest of them leaves the window as an eleventh success comes, so nine more open nothing either.
    origin.answer(200);
    reach(&mut client, &origin, 20).await;
    origin.answer(500);
    reach(&mut client, &origin, 10).await;
    let before = origin.requests();
    let refusal = client.get("/refused").await;
    refusal.assert_reason(503, "circuit_open");
    let retry_after: u64 = refusal.header("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&retry_after), "{retry_after}");
    assert_eq!(origin.requests(), before);
    assert_eq!(logged(&gateway, "/refused").await["attempts"], 0);
    let line = gateway.wait_for_message("circuit breaker changed").await;
    assert_eq!((&line["upstream"], &line["endpoint"]), (&"u".into(), &origin.name().into()), "{line}");
    assert_eq!(metric(&gateway, STATE, &["upstream=\"u\""]).await, 1.0);
    let shown = get(gateway.admin(), "/upstreams").await.json();
    assert_eq!(shown[0]["endpoints"][0]["circuit_breaker"], "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_64_clients_nine_failures_open_nothing_and_a_storm_ends_at_once() {
    let origin = Origin::start().await;
    let gateway = gateway("", &[&origin], "circuit_breaker: {open_for: 1h}").await;
    let storm = async |each: usize, path: fn(usize) -> &'static str| {
        let next = Arc::new(AtomicUsize::new(0));
        let clients = (0..CLIENTS).map(|_| {
            let (mut client, next) = (Client::new(&gateway), next.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    client.get(path(next.fetch_add(1, SeqCst))).await;
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    };
    // However the results are ordered, no twenty in a row have ten failures.
    storm(10, |number| if number < 9 { "/status/500" } else { "/status/200" }).await;
    assert_eq!(origin.requests(), 10 * CLIENTS);
    assert_eq!(metric(&gateway, CHANGES, &[]).await, 0.0);
    let before = origin.requests();
    storm(20, |_| "/status/500").await;
    // The window, and at most what was under way when it was full.
    let reached = origin.requests() - before;
    assert!((10..=20 + CLIENTS).contains(&reached), "{reached}");
    assert_eq!(metric(&gateway, CHANGES, &["state=\"open\""]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_it_lets_no_more_probes_through_than_configured_under_64_clients() {
    let origin = Origin::start().await;
    let settings = "circuit_breaker: {open_for: 100ms, half_open_requests: 2, success_threshold: 2}";
    let gateway = gateway("", &[&origin], settings).await;
    origin.answer(500);
    reach(&mut Client::new(&gateway), &origin, 20).await;
    origin.hold();
    let refused = Arc::new(AtomicUsize::new(0));
    let clients = (0..CLIENTS).map(|_| {
        let (mut client, refused) = (Client::new(&gateway), refused.clone());
        tokio::spawn(async move {
            loop {
                let answer = client.get("/").await;
                if answer.status == 200 {
                    return;
                }
                answer.assert_reason(503, "circuit_open");
                refused.fetch_add(1, SeqCst);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    origin.wait_for("two probes", |counts| counts.in_flight == 2).await;
    let before = refused.load(SeqCst);
    while refused.load(SeqCst) < before + 10 * CLIENTS {
        tokio::task::yield_now().await;
    }
    assert_eq!((origin.requests(), origin.in_flight()), (22, 2));
    assert_eq!(metric(&gateway, STATE, &["upstream=\"u\""]).await, 2.0);
    origin.answer(200);
    origin.release();
    for client in clients {
        client.await.unwrap();
    }
    wait_for_metric(&gateway, STATE, &["upstream=\"u\""], 0.0).await;
    assert_eq!(metric(&gateway, CHANGES, &["state=\"closed\""]).await, 1.0);
    for state in ["open", "half_open", "closed"] {
        let told = gateway.wait_for_message("circuit breaker changed").await;
        assert_eq!(told["state"], state, "{told}");
    }
    assert_eq!(metric(&gateway, CHANGES, &["state=\"half_open\""]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_probe_opens_it_again_and_a_client_that_leaves_frees_its_place() {
    let origin = Origin::start().await;
    let settings = "circuit_breaker: {open_for: 1s, half_open_requests: 1, success_threshold: 1}";
    let gateway = gateway("", &[&origin], settings).await;
    let mut client = Client::new(&gateway);
    open(&mut client, &origin).await;
    // The next one that passes is a probe.
    let probed = async |client: &mut Client| {
        let before = origin.requests();
        while origin.requests() == before {
            client.get("/").await;
        }
    };
    probed(&mut client).await;
    client.get("/").await.assert_reason(503, "circuit_open");
    assert_eq!(metric(&gateway, CHANGES, &["state=\"open\""]).await, 2.0);

    origin.hold();
    origin.answer(200);
    let before = origin.requests();
    let mut leaving = RawConnection::open(gateway.address("main"));
    while origin.requests() == before {
        leaving = RawConnection::open(gateway.address("main"));
        leaving.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        // Refused at once, or on its way upstream.
        let arrived = origin.wait_for("a probe", |counts| counts.requests > before);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(50), arrived).await;
    }
    client.get("/").await.assert_reason(503, "circuit_open");
    drop(leaving);
    origin.wait_for("the end of the probe", |counts| counts.in_flight == 0).await;
    origin.release();
    probed(&mut client).await;
    reach(&mut client, &origin, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_endpoint_is_skipped_while_there_is_another() {
    let (bad, good) = (Origin::failing().await, Origin::start().await);
    let gateway =
        gateway("", &[&bad, &good], "circuit_breaker: {consecutive_failures: 3, open_for: 1h}").await;
    let mut client = Client::new(&gateway);
    for _ in 0..40 {
        client.get("/").await.assert_no_reason();
    }
    assert_eq!((bad.requests(), good.requests()), (3, 37));
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_a_reload_that_does_not_concern_it() {
    let origin = Origin::start().await;
    let before = yaml("upstream: u", &[("u", &[&origin], "circuit_breaker: {open_for: 1h}")]);
    let gateway = Gateway::start(&before).await;
    let mut client = Client::new(&gateway);
    open(&mut client, &origin).await;
    let more = before.replace("routes:\n", "routes:\n- {match: {path: /new}, respond: {}}\n");
    assert_eq!(gateway.reload(&more).await["msg"], "configuration reloaded");
    client.get("/").await.assert_reason(503, "circuit_open");
    // Other settings are another breaker.
    gateway.reload(&before.replace("1h", "2h")).await;
    origin.answer(200);
    client.get("/").await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_for_the_whole_upstream_stops_all_of_it() {
    let (bad, good) = (Origin::failing().await, Origin::start().await);
    let settings = "circuit_breaker: {scope: upstream, window: 4, failure_ratio: 50%, open_for: 1h}";
    let gateway = gateway("", &[&bad, &good], settings).await;
    let mut client = Client::new(&gateway);
    for _ in 0..4 {
        client.get("/").await.assert_no_reason();
    }
    client.get("/").await.assert_reason(503, "circuit_open");
    assert_eq!((bad.requests(), good.requests()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_time_needs_enough_requests_and_only_named_failures_count() {
    let origin = Origin::failing().await;
    let settings = "circuit_breaker: {window: 1h, min_requests: 5, failures: [5xx, timeout], open_for: 1h}";
    let timed = gateway("", &[&origin], settings).await;
    let mut client = Client::new(&timed);
    reach(&mut client, &origin, 5).await;
    client.get("/").await.assert_reason(503, "circuit_open");

    let settings = settings.replace("5xx, timeout", "connect_error, reset");
    let other = gateway("", &[&origin], &settings).await;
    reach(&mut Client::new(&other), &origin, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_is_not_retried_against() {
    let origin = Origin::failing().await;
    let retry =
        "retry: {attempts: 5, on: [5xx], backoff: {base: 1ms, max: 1ms}, budget: {min_per_second: 1000}}";
    let gateway =
        gateway(retry, &[&origin], "circuit_breaker: {consecutive_failures: 3, open_for: 1h}").await;
    let answer = Client::new(&gateway).get("/").await;
    // The third failure opened it, so there is no fourth try, and the client gets what the third was answered.
    answer.assert_status(503).assert_no_reason();
    assert_eq!(origin.requests(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_opens_closes_and_resets_it() {
    let (origin, plain) = (Origin::start().await, Origin::start().await);
    let settings = "circuit_breaker: {consecutive_failures: 3, open_for: 1h}";
    let gateway =
        Gateway::start(&yaml("upstream: u", &[("u", &[&origin], settings), ("plain", &[&plain], "")])).await;
    let mut client = Client::new(&gateway);
    let at = format!("/breakers/u/{}", origin.name());

    assert_eq!(order(&gateway, &format!("{at}/open")).await.0, 200);
    let refusal = client.get("/").await;
    refusal.assert_reason(503, "circuit_open");
    assert!(refusal.header("retry-after").is_some());
    assert_eq!(origin.requests(), 0);
    assert_eq!(metric(&gateway, STATE, &["upstream=\"u\""]).await, 1.0);

    assert_eq!(order(&gateway, &format!("{at}/close")).await.0, 200);
    origin.answer(500);
    reach(&mut client, &origin, 10).await;

    assert_eq!(order(&gateway, &format!("{at}/reset")).await.0, 200);
    reach(&mut client, &origin, 3).await;
    client.get("/").await.assert_reason(503, "circuit_open");
    assert_eq!(order(&gateway, &format!("{at}/reset")).await.0, 200);
    origin.answer(200);
    client.get("/").await.assert_status(200);

    for (path, status, hint) in [
        (format!("{at}/opne"), 404, "did you mean open?".to_owned()),
        (format!("/breakers/x/{}/open", origin.name()), 404, "u".to_owned()),
        ("/breakers/u/127.0.0.1:1/open".to_owned(), 404, origin.name()),
        (format!("/breakers/plain/{}/open", plain.name()), 409, "circuit_breaker".to_owned()),
    ] {
        let (found, said) = order(&gateway, &path).await;
        let said = said["refused"].as_str().unwrap().to_owned();
        assert!(found == status && said.contains(&hint), "{path}: {found} {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_opened_stays_open_over_a_reload() {
    let origin = Origin::start().await;
    let before = yaml("upstream: u", &[("u", &[&origin], "circuit_breaker: {open_for: 1ms}")]);
    let gateway = Gateway::start(&before).await;
    order(&gateway, &format!("/breakers/u/{}/open", origin.name())).await;
    gateway.reload(&before.replace("routes:\n", "routes:\n- {match: {path: /new}, respond: {}}\n")).await;
    Client::new(&gateway).get("/").await.assert_reason(503, "circuit_open");
    assert_eq!(origin.requests(), 0);
}
