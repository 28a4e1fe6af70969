//! Limits on what is under way: one of an upstream that is learnt from how long answers take, with who is refused first, and one for each client.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use super::{Client, Origin};
use crate::support::{
    Gateway, RawConnection, ScriptedUpstream, Step, Yaml, metric, wait_for_metric, within_deadline,
};

const OF_U: [&str; 1] = ["upstream=\"u\""];

async fn start(origins: &[std::net::SocketAddr], concurrency: &str) -> Gateway {
    let yaml = Yaml::new()
        .with_route("name: low, match: {path: /low}, upstream: u, priority: low")
        .with_route("name: pay, match: {path: /pay}, upstream: u, priority: critical")
        .with_route("name: high, match: {path: /high}, upstream: u, priority: high")
        .with_route("name: r, upstream: u")
        .with_upstream("u", origins.iter().copied(), &format!("concurrency: {concurrency}"));
    Gateway::start(&yaml.to_string()).await
}

async fn in_flight(gateway: &Gateway, count: usize) {
    wait_for_metric(gateway, "tidegate_upstream_concurrency", &OF_U, count as f64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_the_least_important_are_refused_first_and_nobody_waits() {
    let origin = Origin::start().await;
    let gateway = start(&[origin.address], "{initial: 10, min: 10, max: 10}").await;
    let ask = |path: &str| {
        let (mut client, path) = (Client::new(&gateway), path.to_owned());
        tokio::spawn(async move { client.get(&path).await })
    };
    origin.hold();
    let mut served = Vec::new();
    for (path, so_far) in [("/low", 7), ("/", 8), ("/high", 9), ("/pay", 10)] {
        while served.len() < so_far {
            served.push(ask(path));
            origin.wait_for_requests(served.len()).await;
        }
        let refused = ask(path).await.unwrap();
        refused.assert_reason(503, "overloaded");
        assert_eq!(refused.header("retry-after"), Some("1"), "{path}");
    }
    in_flight(&gateway, 10).await;
    assert_eq!(metric(&gateway, "tidegate_upstream_concurrency_limit", &OF_U).await, 10.0);
    for priority in ["low", "normal", "high", "critical"] {
        let labels = [OF_U[0], &format!("priority=\"{priority}\"")];
        assert_eq!(metric(&gateway, "tidegate_upstream_shed_total", &labels).await, 1.0, "{priority}");
    }
    origin.release();
    for one in served {
        one.await.unwrap().assert_status(200);
    }
    in_flight(&gateway, 0).await;
    assert_eq!(metric(&gateway, "tidegate_errors_total", &["reason=\"overloaded\""]).await, 4.0);
    assert_eq!(origin.most_in_flight(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_answered_holds_no_place_however_long_the_answer_lasts_or_is_read() {
    let events = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
                  6\r\ndata: \r\n";
    let large = format!("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n{}", "x".repeat(100_000));
    for answer in [events.to_owned(), large] {
        let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(&answer), Step::Stall]).await;
        let gateway = start(&[upstream.address()], "{initial: 2, min: 2, max: 2}").await;
        let mut asking = Vec::new();
        for number in 0..6 {
            let mut client = RawConnection::open(gateway.address("main"));
            client.write("GET /pay HTTP/1.1\r\nhost: a\r\n\r\n");
            let head = client.read_head();
            assert_eq!(head.status, 200, "{number}: {head:?}");
            asking.push(client);
        }
        in_flight(&gateway, 0).await;
        // Whoever is not answered yet does.
        let silent = ScriptedUpstream::start(vec![Step::ReadHead, Step::Stall]).await;
        let gateway = start(&[silent.address()], "{initial: 1, min: 1, max: 1}").await;
        let mut client = RawConnection::open(gateway.address("main"));
        client.write("GET /pay HTTP/1.1\r\nhost: a\r\n\r\n");
        in_flight(&gateway, 1).await;
        Client::new(&gateway).get("/pay").await.assert_reason(503, "overloaded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_changes_nothing_of_it_keeps_what_is_in_flight() {
    let origin = Origin::start().await;
    let yaml = |more: &str| {
        Yaml::new()
            .with_route("name: r, upstream: u")
            .with_upstream(
                "u",
                [origin.address],
                &format!("concurrency: {{initial: 1, min: 1, max: 1}}, {more}"),
            )
            .to_string()
    };
    let gateway = Gateway::start(&yaml("read_timeout: 50s")).await;
    origin.hold();
    let first = tokio::spawn({
        let mut client = Client::new(&gateway);
        async move { client.get("/").await }
    });
    in_flight(&gateway, 1).await;
    gateway.reload(&yaml("read_timeout: 40s")).await;
    Client::new(&gateway).get("/").await.assert_reason(503, "overloaded");
    origin.release();
    first.await.unwrap().assert_status(200);
    in_flight(&gateway, 0).await;
    Client::new(&gateway).get("/").await.assert_status(200);
}

/// Does four things at once, each for ten milliseconds, and queues the rest.
async fn four_at_once() -> (std::net::SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, workers) = (listener.local_addr().unwrap(), Arc::new(Semaphore::new(4)));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let workers = workers.clone();
            let service = service_fn(move |_: Request<Incoming>| {
                let workers = workers.clone();
                async move {
                    let _worker = workers.acquire().await.unwrap();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
                }
            });
            connections.spawn(async move {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_goes_to_what_the_upstream_can_do() {
    let (address, _serving) = four_at_once().await;
    let gateway = start(&[address], "{initial: 24, min: 1}").await;
    let mut asking = JoinSet::new();
    for number in 0..24 {
        let mut client = Client::new(&gateway);
        let path = if number % 4 == 0 { "/pay" } else { "/low" };
        asking.spawn(async move {
            loop {
                let answer = client.get(path).await;
                if answer.status != 200 {
                    answer.assert_reason(503, "overloaded");
                    // As an impatient client: at once would be a flood.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }
    let learnt = async {
        loop {
            let limit = metric(&gateway, "tidegate_upstream_concurrency_limit", &OF_U).await;
            if limit > 0.0 && limit <= 10.0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_deadline("a limit near what the upstream can do", learnt).await;
    assert!(metric(&gateway, "tidegate_upstream_baseline_seconds", &OF_U).await >= 0.01);
    assert!(asking.try_join_next().is_none(), "a client has stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_has_so_many_under_way_and_a_client_that_leaves_gives_its_place_back() {
    let origin = Origin::start().await;
    let filters = "filters: [{concurrency_limit: {max: 2, key: {header: x-key}, name: by-key}}]";
    let gateway = super::gateway(filters, &[&origin], "").await;
    origin.hold();
    let ask = |key: &'static str| {
        let mut client = Client::new(&gateway);
        tokio::spawn(async move { client.send("GET", "/", &[("x-key", key)], "").await })
    };
    let (leaves, stays) = (ask("a"), ask("a"));
    origin.wait_for_requests(2).await;
    let refused = ask("a").await.unwrap();
    refused.assert_reason(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let other = ask("b");
    origin.wait_for_requests(3).await;
    let refusals = metric(&gateway, "tidegate_concurrency_limit_refused_total", &["limit=\"by-key\""]).await;
    assert_eq!(refusals, 1.0);
    leaves.abort();
    origin.wait_for("the one who left", |counts| counts.in_flight == 2).await;
    let next = ask("a");
    origin.wait_for_requests(4).await;
    origin.release();
    for one in [stays, other, next] {
        one.await.unwrap().assert_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_refuses_nobody_and_counts_those_beyond_its_limit() {
    let origin = Origin::start().await;
    let filters =
        "filters: [{concurrency_limit: {max: 2, key: {header: x-key}, name: rehearsal, dry_run: true}}]";
    let gateway = super::gateway(filters, &[&origin], "").await;
    let ask = |key: &'static str| {
        let mut client = Client::new(&gateway);
        tokio::spawn(async move { client.send("GET", "/", &[("x-key", key)], "").await })
    };
    origin.hold();
    let asked = ["a", "a", "a", "a", "a", "b"].map(ask);
    origin.wait_for("six under way", |counts| counts.in_flight == 6).await;
    let beyond = metric(&gateway, "tidegate_rate_limit_dry_run_total", &["limit=\"rehearsal\""]).await;
    assert_eq!(beyond, 3.0);
    origin.release();
    for one in asked {
        one.await.unwrap().assert_status(200).assert_no_reason();
    }
    assert_eq!(metric(&gateway, "tidegate_errors_total", &["reason=\"rate_limited\""]).await, 0.0);
}
