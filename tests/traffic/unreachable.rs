//! An endpoint that cannot be connected to, among others that can: requests are served elsewhere, whatever the route says of
//! retries, and it is not held against an endpoint that the gateway itself is short of something.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{Client, Origin};
use crate::support::{
    Gateway, RawConnection, ScriptedUpstream, Step, Yaml, get, metric, send,
    silent::{Refusing, Silent},
};

/// Nothing may be paid for.
const NO_BUDGET: &str = "budget: {ratio: 0%, min_per_second: 0}";

async fn gateway(route: &str, endpoints: &[SocketAddr], settings: &str) -> Gateway {
    Yaml::to_all(endpoints).route(route).settings(settings).start().await
}

async fn attempts(gateway: &Gateway, endpoint: SocketAddr) -> f64 {
    let endpoint = format!("endpoint=\"{endpoint}\"");
    metric(gateway, "tidegate_upstream_attempts_total", &[&endpoint]).await
}

/// Many requests at once, all of which must be served.
async fn served(gateway: &Gateway, requests: usize) {
    let address = gateway.address("main");
    let asked = (0..requests).map(|_| tokio::spawn(async move { get(address, "/").await }));
    for answer in futures::future::join_all(asked).await {
        answer.unwrap().assert_no_reason().assert_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_costs_no_request_and_no_budget() {
    let origins = [Origin::start().await, Origin::start().await, Origin::start().await];
    let silent = Silent::start().await;
    let endpoints: Vec<_> = origins.iter().map(|origin| origin.address).chain([silent.address()]).collect();
    for route in [
        "",
        &format!("retry: {{{NO_BUDGET}}}"),
        &format!("retry: {{on: [timeout], {NO_BUDGET}}}"),
        "timeout: 2s",
        "hedge: {after: 10s}",
    ] {
        let gateway = gateway(route, &endpoints, "connect_timeout: 300ms").await;
        served(&gateway, 40).await;
        served(&gateway, 40).await;
        assert_eq!(metric(&gateway, "tidegate_retry_budget_exhausted_total", &[]).await, 0.0, "{route}");
        let failed =
            metric(&gateway, "tidegate_upstream_attempts_total", &["outcome=\"connect_failed\""]).await;
        assert!(failed > 0.0, "{route}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_not_reached_is_left_alone_but_for_one_request_now_and_then() {
    let (origin, dead) = (Origin::start().await, Refusing::start());
    let gateway = gateway("", &[origin.address, dead.address()], "").await;
    let mut client = Client::new(&gateway);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        client.get("/").await.assert_status(200);
    }
    // At first, and once a second or more rarely. Two pauses of the first length have not passed.
    let most = 1.0 + began.elapsed().as_secs_f64();
    let tried = attempts(&gateway, dead.address()).await;
    assert!((1.0..=most).contains(&tried), "{tried}");
    let line = gateway.wait_for_message("endpoint is avoided").await;
    let (name, why) = (dead.address().to_string(), "no connection could be made");
    assert_eq!((&line["endpoint"], &line["why"]), (&name.as_str().into(), &why.into()), "{line}");
    let endpoint = format!("endpoint=\"{name}\"");
    assert_eq!(metric(&gateway, "tidegate_upstream_avoided", &[&endpoint]).await, 1.0);
    assert_eq!(metric(&gateway, "tidegate_upstream_avoided", &[]).await, 1.0);
    let shown = get(gateway.admin(), "/upstreams").await.json();
    let avoided: Vec<_> = (0..2).map(|n| &shown[0]["endpoints"][n]["avoided"]).collect();
    assert_eq!(avoided, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_is_bounded_by_the_time_for_a_try_and_leaves_some_of_the_whole_for_another() {
    let (origin, silent) = (Origin::start().await, Silent::start().await);
    for route in ["retry: {per_try_timeout: 300ms}", "timeout: 2s", "timeout: 2s, retry: {on: [reset]}"] {
        // Beyond what the test would wait for.
        let settings = "connect_timeout: 1h";
        let gateway = gateway(route, &[silent.address(), origin.address], settings).await;
        for _ in 0..4 {
            get(gateway.address("main"), "/").await.assert_status(200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_http_is_tried_elsewhere() {
    let origin = Origin::start().await;
    for garbage in [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ncontent-length: 2\r\n\r\nab",
    ] {
        let broken = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(garbage), Step::Close]).await;
        let gateway = gateway("", &[broken.address(), origin.address], "").await;
        let mut client = Client::new(&gateway);
        for _ in 0..4 {
            client.get("/").await.assert_status(200);
        }
        assert!(broken.connections() > 0, "{garbage:?}");
        // What may have had its effect is not done twice.
        let mut refused = 0;
        for _ in 0..2 {
            let answer = send(gateway.address("main"), "POST", "/", &[], "x").await;
            refused += usize::from(answer.status == 502);
        }
        assert_eq!(refused, 1, "{garbage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortage_of_descriptors_is_nobody_elses_fault() {
    let origin = Origin::start().await;
    let settings = "circuit_breaker: {consecutive_failures: 1}, outlier: {consecutive_failures: 1}, \
                    pool: {idle_connections: 0}";
    let gateway = gateway("", &[origin.address], settings).await;
    let mut client = RawConnection::open(gateway.address("main"));
    let mut ask = |path: &str| {
        client.write(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        client.read_response()
    };
    assert_eq!(ask("/").status, 200);
    let pid = Pid::from_raw(gateway.pid().as_raw());
    // Fewer than are open: none is left.
    let none = Rlimit { current: Some(3), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(pid, Resource::Nofile, none).unwrap();
    for _ in 0..3 {
        let refused = ask("/");
        assert_eq!((refused.status, refused.header("x-tidegate-reason")), (503, Some("overloaded")));
    }
    prlimit(pid, Resource::Nofile, before).unwrap();
    assert_eq!(ask("/").status, 200, "no breaker is open");
    for outcome in ["connect_failed", "reset", "timeout"] {
        let outcome = format!("outcome=\"{outcome}\"");
        assert_eq!(metric(&gateway, "tidegate_upstream_attempts_total", &[&outcome]).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_reached_again_is_avoided_no_longer_though_it_has_yet_to_answer() {
    let (origin, dead) = (Origin::start().await, Refusing::start());
    let gateway = gateway("", &[origin.address, dead.address()], "").await;
    served(&gateway, 4).await;
    let name = dead.address().to_string();
    let avoided = gateway.wait_for_message("endpoint is avoided").await;
    assert_eq!(avoided["endpoint"], name.as_str());
    let _accepting = dead.listen();
    // Nobody reads what comes there, so whoever finds out waits until the test is over.
    let address = gateway.address("main");
    let asking = tokio::spawn(async move {
        let mut asked = Vec::new();
        loop {
            let mut client = RawConnection::open(address);
            client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            asked.push(client);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let reached = gateway.wait_for_message("endpoint is no longer avoided").await;
    asking.abort();
    assert_eq!(reached["endpoint"], name.as_str());
}
