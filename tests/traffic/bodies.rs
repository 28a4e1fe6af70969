//! Answers whose bodies break, and endpoints that fall silent: small answers are asked for elsewhere before the client has seen
//! any of it, and the endpoint is the one to be left out.

use std::{net::SocketAddr, time::Duration};

use super::{Client, Origin};
use crate::support::{
    Connection, Gateway, RawConnection, ScriptedUpstream, Step, Yaml, get, metric, wait_for_metric,
    within_deadline,
};

const BROKEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";

async fn gateway(route: &str, endpoints: &[SocketAddr], settings: &str) -> Gateway {
    Yaml::to_all(endpoints).route(route).settings(settings).start().await
}

async fn broken(answer: &str, end: Step) -> ScriptedUpstream {
    ScriptedUpstream::start(vec![Step::ReadHead, Step::write(answer), end]).await
}

/// So many GETs at once, all of which must be served.
async fn served(gateway: &Gateway, requests: usize) {
    let address = gateway.address("main");
    let asked = (0..requests).map(|_| tokio::spawn(async move { get(address, "/").await }));
    let answers = within_deadline("all answers", futures::future::join_all(asked)).await;
    for answer in answers {
        assert_eq!(answer.unwrap().assert_status(200).text(), "origin says 200");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_answer_that_breaks_off_is_asked_for_elsewhere() {
    let origin = Origin::start().await;
    for (answer, end) in [
        (BROKEN, Step::Reset),
        (BROKEN, Step::Close),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", Step::Close),
    ] {
        let broken = broken(answer, end.clone()).await;
        let gateway = gateway("", &[broken.address(), origin.address], "").await;
        let mut client = Client::new(&gateway);
        for _ in 0..6 {
            let answer = client.get("/").await;
            assert_eq!(answer.assert_status(200).text(), "origin says 200", "{end:?}");
        }
        let endpoint = format!("endpoint=\"{}\"", broken.address());
        let reset =
            metric(&gateway, "tidegate_upstream_attempts_total", &[&endpoint, "outcome=\"reset\""]).await;
        assert_eq!(reset as usize, broken.connections(), "{end:?}");
        assert!(reset > 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_is_a_failure_of_its_endpoint() {
    let (origin, broken) = (Origin::start().await, broken(BROKEN, Step::Close).await);
    let endpoints = [broken.address(), origin.address];
    let route = "retry: {response_buffer: 0B}";
    for settings in [
        "outlier: {consecutive_failures: 3, eject_for: 1h, max_eject_for: 1h}",
        "outlier: off, circuit_breaker: {consecutive_failures: 3, open_for: 1h}",
    ] {
        let before = broken.connections();
        let gateway = gateway(route, &endpoints, settings).await;
        let mut cut = 0;
        for _ in 0..20 {
            let mut connection = Connection::http1(gateway.address("main")).await.unwrap();
            cut += usize::from(connection.send("GET", "/", &[], "").await.is_err());
        }
        assert_eq!((cut, broken.connections() - before), (3, 3), "{settings}");
        let endpoint = format!("endpoint=\"{}\"", broken.address());
        for (outcome, count) in [("reset", 3.0), ("success", 0.0)] {
            let outcome = format!("outcome=\"{outcome}\"");
            let attempts = metric(&gateway, "tidegate_upstream_attempts_total", &[&endpoint, &outcome]).await;
            assert_eq!(attempts, count, "{settings}: {outcome}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_a_success_when_it_is_whole_and_counted_once() {
    let origin = Origin::start().await;
    let gateway = gateway("", &[origin.address], "").await;
    let mut client = Client::new(&gateway);
    for _ in 0..5 {
        client.get("/").await.assert_status(200);
    }
    client.send("HEAD", "/", &[], "").await.assert_status(200);
    let success = metric(&gateway, "tidegate_upstream_attempts_total", &["outcome=\"success\""]).await;
    assert_eq!(success, 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_leave_an_endpoint_that_has_fallen_silent() {
    let origins = [Origin::start().await, Origin::start().await, Origin::start().await];
    let endpoints: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let gateway = gateway("", &endpoints, "").await;
    served(&gateway, 12).await;
    origins[0].hold();
    served(&gateway, 60).await;
    // And now next to none comes to it.
    let before = origins[0].requests();
    served(&gateway, 60).await;
    assert!(origins[0].requests() - before <= 5, "{} of 60", origins[0].requests() - before);
    origins[0].wait_for("the end of what has left", |counts| counts.in_flight == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_silence_too() {
    let origins = [Origin::start().await, Origin::start().await];
    let stalling = broken(BROKEN, Step::Stall).await;
    let endpoints = [origins[0].address, stalling.address(), origins[1].address];
    // How long is too long is for the operator to say.
    let settings = "outlier: {max_silence: 500ms}, tcp_user_timeout: 3s";
    let gateway = gateway("", &endpoints, settings).await;
    served(&gateway, 60).await;
    assert!(stalling.connections() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_slow_everywhere_is_waited_for() {
    let origins = [Origin::start().await, Origin::start().await];
    let endpoints: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let settings = "balancer: round_robin, tcp_user_timeout: 0s, outlier: {max_silence: 500ms}";
    let gateway = gateway("", &endpoints, settings).await;
    origins.iter().for_each(Origin::hold);
    let address = gateway.address("main");
    let asked: Vec<_> = (0..10).map(|_| tokio::spawn(async move { get(address, "/").await })).collect();
    for origin in &origins {
        origin.wait_for("its half", |counts| counts.in_flight == 5).await;
    }
    // Nothing is sent any more, so it is those that wait who have found it out, when they looked whether to leave.
    wait_for_metric(&gateway, "tidegate_upstream_avoided", &[], 2.0).await;
    origins.iter().for_each(Origin::release);
    for answer in asked {
        answer.await.unwrap().assert_status(200);
    }
    assert_eq!(origins.map(|origin| origin.requests()), [5, 5]);
    assert_eq!(metric(&gateway, "tidegate_upstream_attempts_total", &["outcome=\"timeout\""]).await, 0.0);
    assert_eq!(metric(&gateway, "tidegate_upstream_avoided", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_borne_where_the_operator_says_so() {
    let origins = [Origin::start().await, Origin::start().await];
    let endpoints: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let settings = "balancer: round_robin, tcp_user_timeout: 0s, outlier: {max_silence: 0s}";
    let gateway = gateway("", &endpoints, settings).await;
    origins[0].hold();
    let address = gateway.address("main");
    let asked: Vec<_> = (0..40).map(|_| tokio::spawn(async move { get(address, "/").await })).collect();
    // Half of them, with nobody kept away.
    origins[0].wait_for("all that are meant for it", |counts| counts.in_flight == 20).await;
    origins[0].release();
    for answer in asked {
        answer.await.unwrap().assert_status(200);
    }
    assert_eq!(origins[0].requests(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_sent_twice_waits() {
    let origins = [Origin::start().await, Origin::start().await];
    let endpoints: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let gateway = gateway("", &endpoints, "").await;
    served(&gateway, 8).await;
    origins[0].hold();
    let address = gateway.address("main");
    let posts = ["POST", "PATCH", "POST"]
        .map(|method| tokio::spawn(crate::support::send(address, method, "/", &[], "x")));
    served(&gateway, 40).await;
    origins[0].release();
    for post in posts {
        post.await.unwrap().assert_status(200);
    }
    let posted = origins.iter().flat_map(|origin| origin.seen()).filter(|seen| seen.body == "x").count();
    assert_eq!(posted, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_things_but_may_be_repeated_leaves_a_silent_endpoint_too() {
    for (method, body) in [("PUT", "x"), ("DELETE", "")] {
        let origins = [Origin::start().await, Origin::start().await];
        let endpoints: Vec<_> = origins.iter().map(|origin| origin.address).collect();
        let gateway = gateway("", &endpoints, "outlier: {max_silence: 500ms}, tcp_user_timeout: 0s").await;
        let address = gateway.address("main");
        origins[0].hold();
        for _ in 0..2 {
            let asked = (0..20).map(|_| tokio::spawn(crate::support::send(address, method, "/", &[], body)));
            let answers = within_deadline("all answers", futures::future::join_all(asked)).await;
            for answer in answers {
                answer.unwrap().assert_status(200);
            }
        }
        // They alone have found it out.
        let avoided = metric(&gateway, "tidegate_upstream_avoided", &[]).await;
        assert_eq!(avoided, 1.0, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_take_longer_than_the_time_for_a_try() {
    const LIMIT: Duration = Duration::from_secs(1);
    let origin = Origin::start().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n";
    let slow =
        ScriptedUpstream::start(vec![Step::ReadHead, Step::write(head), Step::Hold, Step::write("late")])
            .await;
    let route = format!("retry: {{per_try_timeout: {}ms, on: [timeout]}}", LIMIT.as_millis());
    let gateway = gateway(&route, &[slow.address(), origin.address], "balancer: round_robin").await;
    let address = gateway.address("main");
    let asked: Vec<_> = (0..2).map(|_| tokio::spawn(async move { get(address, "/").await })).collect();
    slow.wait_for_heads(1).await;
    // What is tested is that nothing happens meanwhile.
    tokio::time::sleep(2 * LIMIT).await;
    slow.release();
    let mut texts = Vec::new();
    for answer in asked {
        texts.push(answer.await.unwrap().assert_status(200).text().to_owned());
    }
    assert!(texts.contains(&"late".to_owned()), "{texts:?}");
    assert_eq!(metric(&gateway, "tidegate_retries_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_leave_an_endpoint_that_health_checks_have_given_up() {
    for protocol in ["http1", "http2"] {
        let origins = [Origin::start().await, Origin::start().await];
        let endpoints: Vec<_> = origins.iter().map(|origin| origin.address).collect();
        let check = "health_check: {http: {path: /status/200}, interval: 100ms, timeout: 300ms, unhealthy_after: 1, \
                     healthy_after: 1}";
        let settings = format!("protocol: {protocol}, {check}");
        let gateway = gateway("", &endpoints, &settings).await;
        served(&gateway, 4).await;
        origins[0].hold();
        // Fewer than make an endpoint suspect.
        served(&gateway, 4).await;
        origins[0].release();
        wait_for_metric(&gateway, "tidegate_upstream_healthy", &[], 2.0).await;
        served(&gateway, 4).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_last_tries_eject_an_endpoint_that_never_fails_twice_in_a_row() {
    let origins = [Origin::start().await, Origin::start().await, Origin::start().await];
    let endpoints: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let gateway = gateway("", &endpoints, "balancer: round_robin").await;
    let mut client = Client::new(&gateway);
    for round in 0..20 {
        origins[0].answer(if round % 2 == 0 { 200 } else { 500 });
        for _ in 0..3 {
            client.get("/").await;
        }
    }
    let endpoint = format!("endpoint=\"{}\"", origins[0].name());
    assert_eq!(metric(&gateway, "tidegate_upstream_ejections_total", &[&endpoint]).await, 1.0);
    assert_eq!(metric(&gateway, "tidegate_upstream_ejections_total", &[]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ejection_is_on_unless_it_is_off() {
    for (settings, ejected) in [("", 1.0), ("outlier: off", 0.0)] {
        let origins = [Origin::start().await, Origin::start().await];
        let endpoints: Vec<_> = origins.iter().map(|origin| origin.address).collect();
        origins[0].answer(500);
        let gateway = gateway("", &endpoints, settings).await;
        let mut client = Client::new(&gateway);
        for _ in 0..20 {
            client.get("/").await;
        }
        assert_eq!(metric(&gateway, "tidegate_upstream_ejections_total", &[]).await, ejected, "{settings}");
    }
}

/// The last that is asked is believed: what it sends passes as it comes, hedged or not.
#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_s_answer_is_whole_the_client_sees_where_it_breaks_off() {
    let (one, two) = (broken(BROKEN, Step::Close).await, broken(BROKEN, Step::Close).await);
    for route in ["", "hedge: {after: 60s}"] {
        let gateway = gateway(route, &[one.address(), two.address()], "outlier: off").await;
        let mut client = RawConnection::open(gateway.address("main"));
        client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let head = client.read_head();
        assert_eq!((head.status, head.header("content-length")), (200, Some("100")), "{route}: {head:?}");
        assert_eq!(client.read_to_end(), b"half", "{route}");
    }
}
