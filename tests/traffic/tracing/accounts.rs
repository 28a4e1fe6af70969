//! All spans that were recorded are exported, rejected, dropped or still wait, to the span: whatever becomes of the collector, of
//! the configuration and of the process meanwhile. And no request notices.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;

use super::{Client, Origin, yaml};
use crate::support::{
    Backend, Gateway, Load, Yaml,
    collector::{Collector, Reply},
    metric,
    observe::peak_memory,
    wait_for_metric,
};

/// Each of a load's requests: the request, and its one try.
const SPANS: u64 = 2;

fn config(origin: &Origin, otlp: &str) -> String {
    let yaml = yaml("upstream: u", &[("u", &[origin], "")]);
    format!("{yaml}tracing: {{sample: {{at_most: off}}, otlp: {{{otlp}}}}}\n")
}

async fn ended(gateway: &Gateway, result: &str) -> u64 {
    metric(gateway, "tidegate_spans_total", &[&format!("result=\"{result}\"")]).await as u64
}

/// Exported, rejected, and dropped for either reason, once nothing waits.
async fn settled(gateway: &Gateway, recorded: u64) -> [u64; 4] {
    wait_for_metric(gateway, "tidegate_spans_recorded_total", &[], recorded as f64).await;
    wait_for_metric(gateway, "tidegate_span_queue_spans", &[], 0.0).await;
    wait_for_metric(gateway, "tidegate_span_queue_bytes", &[], 0.0).await;
    let mut counts = [0; 4];
    for (count, result) in counts.iter_mut().zip(["exported", "rejected", "dropped_queue", "dropped_export"])
    {
        *count = ended(gateway, result).await;
    }
    counts
}

fn ids(collector: &Collector) -> BTreeSet<String> {
    collector.spans_now().iter().map(|span| span.id()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_add_up_while_the_collector_breaks_in_every_way_under_load() {
    for protocol in ["grpc", "http/protobuf"] {
        let (origin, mut collector) = (Origin::start().await, Collector::start().await);
        let settings = "every: 5ms, batch: 32, timeout: 200ms, give_up: 300ms, queue: 64KiB";
        let otlp = format!("endpoint: '{}', protocol: {protocol}, {settings}", collector.url());
        let gateway = Gateway::start(&config(&origin, &otlp)).await;
        let load = Load::start(gateway.address("main"), "/", 4);
        load.wait_for_requests(50).await;
        for replies in [
            vec![Reply::Status(400, &[]); 3],
            vec![Reply::Status(429, &[("retry-after", "0")]), Reply::Status(429, &[("retry-after", "3600")])],
            vec![Reply::Status(503, &[]), Reply::Partial(1), Reply::Partial(3)],
            vec![Reply::Stall; 2],
        ] {
            collector.script(&replies);
            load.wait_for_requests(100).await;
        }
        for _ in 0..2 {
            collector.kill().await;
            load.wait_for_requests(150).await;
            collector.come_back().await;
            load.wait_for_requests(50).await;
        }
        let totals = load.stop().await;
        totals.assert_no_failures();
        let recorded = totals.requests * SPANS;
        let counts = settled(&gateway, recorded).await;
        assert_eq!(counts.iter().sum::<u64>(), recorded, "{protocol}: {counts:?}");
        let [exported, _, _, dropped] = counts;
        assert!(exported > 0 && dropped > 0, "{protocol}: {counts:?}");
        // What it took and could not say so was sent again, or given up.
        let seen = ids(&collector).len() as u64;
        assert!(exported <= seen && seen <= recorded, "{protocol}: {counts:?}, and it has {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_once_a_collector_that_was_away_is_back_in_time() {
    let (origin, mut collector) = (Origin::start().await, Collector::start().await);
    let otlp = format!("endpoint: '{}', every: 5ms, give_up: 1h", collector.url());
    let gateway = Gateway::start(&config(&origin, &otlp)).await;
    collector.kill().await;
    let mut client = Client::new(&gateway);
    for _ in 0..20 {
        client.get("/").await.assert_status(200);
    }
    gateway.wait_for_message("spans could not be exported").await;
    collector.come_back().await;
    assert_eq!(settled(&gateway, 40).await, [40, 0, 0, 0]);
    assert_eq!(ids(&collector).len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_by_the_queue_while_a_collector_stalls() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    collector.script(&[Reply::Stall]);
    let yaml = yaml("upstream: u", &[("u", &[&origin], "")]);
    let own: Vec<String> = (0..16).map(|n| format!("a{n}: '{{header.x-long}}'")).collect();
    let otlp = format!("{{endpoint: '{}', every: 5ms, timeout: 1h, queue: 256KiB}}", collector.url());
    let tracing = format!("{{sample: {{at_most: off}}, attributes: {{{}}}, otlp: {otlp}}}", own.join(", "));
    let gateway = Gateway::start(&format!("{yaml}log: {{access: {{to: off}}}}\ntracing: {tracing}\n")).await;
    let mut client = Client::new(&gateway);
    let long = "v".repeat(256);
    let mut send = async |count| {
        for _ in 0..count {
            client.send("GET", "/", &[("x-long", &long)], "").await.assert_status(200);
        }
    };
    send(200).await;
    assert!(ended(&gateway, "dropped_queue").await > 0, "the queue is full");
    let before = peak_memory(&gateway);
    // Some 10 MB of spans.
    send(2000).await;
    assert!(metric(&gateway, "tidegate_span_queue_bytes", &[]).await <= 256.0 * 1024.0);
    // The kernel counts in steps, and may say less the second time.
    let grown = peak_memory(&gateway).saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} kB more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_leaves_no_exporter_behind_that_nobody_hears() {
    let (origin, stalled, good) = (Origin::start().await, Collector::start().await, Collector::start().await);
    stalled.script(&vec![Reply::Stall; 100]);
    let otlp = |collector: &Collector| {
        format!("endpoint: '{}', every: 5ms, batch: 2, timeout: 200ms, give_up: 1s", collector.url())
    };
    let gateway = Gateway::start(&config(&origin, &otlp(&stalled))).await;
    let mut client = Client::new(&gateway);
    // A batch each, which has a second: together they have no more once they are the last.
    for _ in 0..100 {
        client.get("/").await.assert_status(200);
    }
    gateway.reload(&config(&origin, &otlp(&good))).await;
    client.get("/").await.assert_status(200);
    assert_eq!(settled(&gateway, 202).await, [2, 0, 0, 200]);
}

/// What a process said of its spans when it ended.
async fn account(gateway: &Gateway) -> [u64; 6] {
    let line = gateway.wait_for_message("spans accounted for").await;
    ["recorded", "exported", "rejected", "dropped_queue", "dropped_export", "lost"].map(|count| {
        line[count].as_str().map_or_else(|| line[count].as_u64(), |text| text.parse().ok()).unwrap()
    })
}

/// Requests in the access log.
fn requests(gateway: &Gateway) -> u64 {
    gateway.lines().iter().filter(|line| line["msg"] == "request").count() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_and_an_upgrade_under_load_lose_no_span() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let yaml = Yaml::to(backend.address());
    // Each has other settings of the collector, so that another exporter takes over.
    let nth = |n: usize| {
        let otlp = format!("endpoint: '{}', every: {}ms, batch: {}", collector.url(), 5 + n, 16 + n);
        let tracing = format!("tracing: {{sample: {{at_most: off}}, otlp: {{{otlp}}}}}");
        yaml.clone().top(&tracing).to_string()
    };
    let first = Gateway::start(&nth(0)).await;
    // Some of these are under way at each reload, and there are no more of them than the test can count in a moment.
    let load = Load::start(first.address("main"), "/delay/5ms", 8);
    for n in 1..=60 {
        load.wait_for_requests(5).await;
        assert_eq!(first.reload(&nth(n)).await["msg"], "configuration reloaded");
    }
    let second = first.hand_over().await;
    load.wait_for_requests(50).await;
    for n in 61..=100 {
        load.wait_for_requests(5).await;
        assert_eq!(second.reload(&nth(n)).await["msg"], "configuration reloaded");
    }
    load.stop().await.assert_no_failures();
    assert!(first.wait_exit().await.success());
    second.signal(Signal::SIGTERM);
    assert!(second.wait_exit().await.success());
    let mut all = 0;
    for gateway in [&first, &second] {
        let [recorded, exported, rest @ ..] = account(gateway).await;
        assert_eq!(recorded, requests(gateway) * SPANS, "each request has its spans");
        assert_eq!((exported, rest), (recorded, [0; 4]));
        all += recorded;
    }
    assert_eq!((collector.spans_now().len() as u64, ids(&collector).len() as u64), (all, all));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_did_not_take_by_the_end_is_told_as_lost() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    collector.script(&vec![Reply::Stall; 100]);
    let otlp = format!("endpoint: '{}', every: 5ms, timeout: 1h, give_up: 1h", collector.url());
    let gateway = Gateway::start(&config(&origin, &otlp)).await;
    let mut client = Client::new(&gateway);
    for _ in 0..10 {
        client.get("/").await.assert_status(200);
    }
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    assert_eq!(account(&gateway).await, [20, 0, 0, 0, 0, 20]);
}
