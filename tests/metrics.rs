//! What is counted of requests, how finely, and in which format it is told.

use std::time::Instant;

use crate::support::{
    Backend, Connection, Gateway, RawConnection, ScriptedUpstream, Step, Yaml, get, metric, send, series,
    wait_for_metric,
};

const ROUTE: &str = r#"route="r",upstream="origin""#;

/// The lines of a scrape that begin so.
async fn lines(gateway: &Gateway, prefix: &str) -> Vec<String> {
    let scrape = get(gateway.admin(), "/metrics").await;
    scrape.text().lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_and_the_time_to_the_first_byte_are_counted_by_route() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address())
        .with_route("name: fixed, match: {path: /fixed}, respond: {status: 200, body: three}")
        .start()
        .await;
    let address = gateway.address("main");
    let answer = send(address, "POST", "/status/200", &[], vec![b'x'; 5000]).await;
    answer.assert_status(200);
    get(address, "/fixed").await.assert_status(200);
    let of = |labels: &str| format!("tidegate_request_size_bytes_count{{{labels}}}");
    wait_for_metric(&gateway, &of(ROUTE), &[], 1.0).await;
    wait_for_metric(&gateway, &of(r#"route="fixed",upstream="""#), &[], 1.0).await;
    for (name, labels, expected) in [
        ("tidegate_request_size_bytes_sum", String::from(ROUTE), 5000.0),
        ("tidegate_request_size_bytes_bucket", format!("{ROUTE},le=\"4096\""), 0.0),
        ("tidegate_request_size_bytes_bucket", format!("{ROUTE},le=\"16384\""), 1.0),
        ("tidegate_response_size_bytes_sum", ROUTE.into(), answer.body.len() as f64),
        ("tidegate_response_size_bytes_sum", r#"route="fixed",upstream="""#.into(), 5.0),
        ("tidegate_time_to_first_byte_seconds_count", ROUTE.into(), 1.0),
        ("tidegate_time_to_first_byte_seconds_count", r#"route="fixed",upstream="""#.into(), 1.0),
    ] {
        assert_eq!(
            series(&gateway, &format!("{name}{{{labels}}}"), &[]).await,
            Some(expected),
            "{name} {labels}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_byte_does_not_wait_for_the_last() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    let steps = vec![Step::ReadHead, Step::write(format!("{head}h")), Step::Hold, Step::write("i")];
    let upstream = ScriptedUpstream::start(steps).await;
    let gateway = Yaml::to(upstream.address()).start().await;
    let mut client = RawConnection::open(gateway.address("main"));
    client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_head();
    let held = Instant::now();
    assert_eq!(metric(&gateway, "tidegate_requests_in_flight", &[]).await, 1.0);
    let held = held.elapsed().as_secs_f64();
    upstream.release();
    let of = |name: &str| format!("{name}{{{ROUTE}}}");
    wait_for_metric(&gateway, &of("tidegate_request_duration_seconds_count"), &[], 1.0).await;
    let first = metric(&gateway, &of("tidegate_time_to_first_byte_seconds_sum"), &[]).await;
    let last = metric(&gateway, &of("tidegate_request_duration_seconds_sum"), &[]).await;
    // Both are rounded to microseconds.
    assert!(last - first >= held - 2e-6, "{first} {last} {held}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_as_kept_or_new_and_waits_where_there_is_a_limit() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address())
        .settings("pool: {max_requests: 5}")
        .with_route("match: {path: /status/201}, upstream: free")
        .with_upstream("free", [backend.address()], "")
        .start()
        .await;
    let mut client = Connection::http1(gateway.address("main")).await.unwrap();
    for _ in 0..3 {
        client.send("GET", "/status/200", &[], "").await.unwrap().assert_status(200);
    }
    let used = "tidegate_upstream_connections_total";
    let origin = "upstream=\"origin\"";
    wait_for_metric(&gateway, used, &[origin, "connection=\"new\""], 1.0).await;
    wait_for_metric(&gateway, used, &[origin, "connection=\"reused\""], 2.0).await;
    wait_for_metric(&gateway, "tidegate_upstream_queue_wait_seconds_count", &[origin], 3.0).await;
    client.send("GET", "/status/201", &[], "").await.unwrap();
    wait_for_metric(&gateway, used, &["upstream=\"free\"", "connection=\"new\""], 1.0).await;
    let unlimited =
        series(&gateway, "tidegate_upstream_queue_wait_seconds_count", &["upstream=\"free\""]).await;
    assert_eq!(unlimited, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_the_outcome_of_the_last_reload_are_shown() {
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address()).limits("connections: 77");
    let gateway = yaml.start().await;
    let limit = r#"tidegate_connections_limit{listener="main"}"#;
    let successful = "tidegate_config_last_reload_successful";
    assert_eq!(series(&gateway, limit, &[]).await, Some(77.0));
    assert_eq!(series(&gateway, successful, &[]).await, Some(1.0));
    assert_eq!(gateway.reload("nonsense: 1").await["msg"], "configuration rejected");
    assert_eq!(series(&gateway, successful, &[]).await, Some(0.0));
    let outcome = gateway.reload(&yaml.limits("connections: 78").to_string()).await;
    assert_eq!(outcome["msg"], "configuration reloaded");
    assert_eq!(series(&gateway, successful, &[]).await, Some(1.0));
    assert_eq!(series(&gateway, limit, &[]).await, Some(78.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_and_the_method_are_as_configured_also_after_a_reload() {
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address());
    let gateway = yaml.start().await;
    let address = gateway.address("main");
    let requests = "tidegate_requests_total";
    get(address, "/status/200").await.assert_status(200);
    wait_for_metric(&gateway, requests, &["route=\"r\""], 1.0).await;
    assert!(!lines(&gateway, requests).await[0].contains("method"));

    let chosen = yaml.top("metrics: {buckets: {duration: [1ms, 1h], size: [1KB]}, labels: {method: true}}");
    assert_eq!(gateway.reload(&chosen.to_string()).await["msg"], "configuration reloaded");
    for method in ["GET", "POST", "BREW", "STIR"] {
        send(address, method, "/status/200", &[], "").await.assert_status(200);
    }
    send(address, "BREW", "/status/404", &[("host", "a b")], "").await.assert_status(400);
    for (labels, count) in [
        ([r#"route="r""#, r#"method="GET""#], 1.0),
        ([r#"route="r""#, r#"method="POST""#], 1.0),
        ([r#"route="r""#, r#"method="other""#], 2.0),
        ([r#"route="""#, r#"method="other""#], 1.0),
    ] {
        wait_for_metric(&gateway, requests, &labels, count).await;
    }
    for (name, bounds) in [
        ("tidegate_request_duration_seconds", vec!["0.001", "3600", "+Inf"]),
        ("tidegate_upstream_duration_seconds", vec!["0.001", "3600", "+Inf"]),
        ("tidegate_time_to_first_byte_seconds", vec!["0.001", "3600", "+Inf"]),
        ("tidegate_response_size_bytes", vec!["1000", "+Inf"]),
    ] {
        let bucket = format!("{name}_bucket{{");
        let of_origin = lines(&gateway, &bucket).await;
        let bounds_written =
            of_origin.iter().filter(|line| line.contains("upstream=\"origin\"")).map(|line| {
                let (_, bound) = line.split_once("le=\"").unwrap();
                bound.split_once('"').unwrap().0.to_owned()
            });
        assert_eq!(bounds_written.collect::<Vec<_>>(), bounds, "{name}");
    }
}
