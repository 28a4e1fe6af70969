//! All metrics, again and again: what they say, how often, and what becomes of them when the collector does not take them.

use std::collections::{BTreeMap, BTreeSet};

use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::metrics::v1::{
    HistogramDataPoint, NumberDataPoint, metric::Data, number_data_point,
};

use super::{Backend, Collector, Gateway, Yaml, gateway, get, protocols};
use crate::support::{
    collector::{Reply, TakenMetric, text},
    metric, send, series, wait_for_metric,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn pushing(collector: &Collector, more: &str) -> String {
    format!("metrics: {{otlp: {{endpoint: '{}', {more}}}}}", collector.url())
}

/// The points of a counter or a gauge.
fn numbers(metric: &TakenMetric) -> &[NumberDataPoint] {
    match &metric.metric.data {
        Some(Data::Sum(sum)) => &sum.data_points,
        Some(Data::Gauge(gauge)) => &gauge.data_points,
        _ => &[],
    }
}

fn histograms(metric: &TakenMetric) -> &[HistogramDataPoint] {
    match &metric.metric.data {
        Some(Data::Histogram(histogram)) => &histogram.data_points,
        _ => &[],
    }
}

fn value(point: &NumberDataPoint) -> f64 {
    match point.value {
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        Some(number_data_point::Value::AsDouble(value)) => value,
        None => panic!("{point:?}"),
    }
}

/// Whether that metric counts so much for the route `r`.
fn counts(name: &'static str, count: f64) -> impl Fn(&TakenMetric) -> bool {
    move |metric| {
        let is_of_route =
            |point: &&NumberDataPoint| text(&point.attributes).get("route").is_some_and(|r| r == "r");
        metric.metric.name == name
            && numbers(metric).iter().filter(is_of_route).map(value).sum::<f64>() == count
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_the_same_over_every_protocol() {
    for (protocol, path) in protocols("metrics") {
        for compression in ["gzip", "none"] {
            let (backend, collector) = (Backend::start().await, Collector::start().await);
            let more = format!(
                "protocol: {protocol}, compression: {compression}, every: 20ms, timeout: 5s, \
                 headers: {{authorization: Bearer of-the-test}}"
            );
            let top = format!("{}\ntracing: {{service: edge}}", pushing(&collector, &more));
            let gateway = gateway(&backend, &top).await;
            get(gateway.address("main"), "/status/200").await.assert_status(200);
            let taken = collector.metrics("a request", counts("tidegate_requests_total", 1.0)).await;
            let requests =
                taken.iter().rfind(|taken| taken.metric.name == "tidegate_requests_total").unwrap();
            let Some(Data::Sum(sum)) = &requests.metric.data else { panic!("{requests:?}") };
            assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "cumulative");
            let labels = text(&sum.data_points[0].attributes);
            let expected = [("listener", "main"), ("route", "r"), ("status", "200"), ("upstream", "origin")];
            assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
            assert_eq!(requests.resource["service.name"], "edge", "{protocol}");
            let (asked, fields) = collector.requests(1).await.remove(0);
            assert_eq!((&asked, fields["authorization"].as_bytes()), (&path, &b"Bearer of-the-test"[..]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_what_a_scrape_shows() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let top = format!(
        "{}\ntracing: {{otlp: {{endpoint: '{}', every: 10ms}}}}",
        pushing(&collector, "every: 50ms"),
        collector.url()
    );
    let gateway = gateway(&backend, &top).await;
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    send(gateway.address("main"), "POST", "/status/200", &[("traceparent", &parent)], "body")
        .await
        .assert_status(200);
    let is_whole = |taken: &TakenMetric| {
        taken.metric.name == "tidegate_upstream_duration_seconds"
            && histograms(taken).iter().any(|point| point.count == 1)
    };
    // It is counted after all others of a request.
    let taken = collector.metrics("the duration of an answer", is_whole).await;
    let last: BTreeMap<&str, &TakenMetric> =
        taken.iter().map(|taken| (taken.metric.name.as_str(), taken)).collect();

    let duration = &histograms(last["tidegate_request_duration_seconds"])[0];
    assert_eq!(last["tidegate_request_duration_seconds"].metric.unit, "s");
    assert_eq!(duration.explicit_bounds.len(), 14);
    assert_eq!(duration.bucket_counts.iter().sum::<u64>(), 1);
    assert!(duration.start_time_unix_nano > 0 && duration.start_time_unix_nano < duration.time_unix_nano);
    let exemplar = &duration.exemplars[0];
    assert_eq!(format!("{:032x}", u128::from_be_bytes(exemplar.trace_id[..].try_into().unwrap())), TRACE);
    let size = &histograms(last["tidegate_request_size_bytes"])[0];
    assert_eq!((size.sum, last["tidegate_request_size_bytes"].metric.unit.as_str()), (Some(4.0), "By"));

    let scrape = get(gateway.admin(), "/metrics").await;
    let heads = scrape.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let kinds = |(name, kind): (&str, &str)| (name.to_owned(), kind.to_owned());
    let scraped: BTreeSet<_> = heads.map(kinds).collect();
    let pushed = last.values().map(|taken| {
        let kind = match &taken.metric.data {
            Some(Data::Sum(_)) => "counter",
            Some(Data::Gauge(_)) => "gauge",
            Some(Data::Histogram(_)) => "histogram",
            other => panic!("{other:?}"),
        };
        (taken.metric.name.clone(), kind.to_owned())
    });
    let pushed: BTreeSet<_> = pushed.collect();
    // Those of the exports themselves come later.
    let is_of_request = |(name, _): &&(String, String)| !name.contains("span") && !name.contains("metric_");
    let missing: Vec<_> = scraped.difference(&pushed).filter(is_of_request).collect();
    assert!(missing.is_empty(), "{missing:?} of {pushed:?}");
    assert!(pushed.contains(&("process_resident_memory_bytes".into(), "gauge".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_pushed_once_more_when_the_gateway_ends() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let gateway = gateway(&backend, &pushing(&collector, "every: 1h")).await;
    get(gateway.address("main"), "/status/200").await.assert_status(200);
    assert!(collector.metrics_now().is_empty());
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    assert!(collector.metrics_now().iter().any(counts("tidegate_requests_total", 1.0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_fails_is_counted_and_spoken_of_and_the_next_push_has_it_all() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    collector.script(&[
        Reply::Status(400, &[]),
        Reply::Status(503, &[("retry-after", "0")]),
        Reply::Status(302, &[("location", "/elsewhere")]),
        Reply::Status(200, &[("content-type", "text/html")]),
        Reply::Partial(1),
    ]);
    let gateway = gateway(&backend, &pushing(&collector, "every: 20ms")).await;
    get(gateway.address("main"), "/status/200").await.assert_status(200);
    collector.metrics("a request", counts("tidegate_requests_total", 1.0)).await;
    let exports = async |result: &str| {
        metric(&gateway, "tidegate_metric_exports_total", &[&format!("result=\"{result}\"")]).await
    };
    wait_for_metric(&gateway, "tidegate_metric_points_total", &["result=\"rejected\""], 1.0).await;
    assert_eq!((exports("refused").await, exports("retry").await), (3.0, 1.0));
    assert!(exports("success").await >= 1.0);
    let lost = metric(&gateway, "tidegate_metric_points_total", &["result=\"dropped_export\""]).await;
    assert!(
        lost > 0.0 && metric(&gateway, "tidegate_metric_export_duration_seconds_count", &[]).await >= 5.0
    );
    gateway.wait_for_message("metrics could not be exported").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_costs_no_request_and_does_not_keep_the_gateway() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    collector.script(&[Reply::Stall, Reply::Stall]);
    let gateway = gateway(&backend, &pushing(&collector, "every: 10ms, timeout: 1h")).await;
    collector.requests(1).await;
    for _ in 0..20 {
        get(gateway.address("main"), "/status/200").await.assert_status(200);
    }
    assert_eq!(series(&gateway, "tidegate_metric_points_total", &[]).await, None, "one push at a time");
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_sends_them_elsewhere_or_nowhere() {
    let (backend, first, second) =
        (Backend::start().await, Collector::start().await, Collector::start().await);
    let yaml = Yaml::to(backend.address());
    let to = |collector: &Collector| yaml.clone().top(&pushing(collector, "every: 20ms")).to_string();
    let gateway = Gateway::start(&to(&first)).await;
    first.metrics("metrics", |_| true).await;
    gateway.reload(&to(&second)).await;
    get(gateway.address("main"), "/status/200").await.assert_status(200);
    second.metrics("a request", counts("tidegate_requests_total", 1.0)).await;
    gateway.reload(&yaml.to_string()).await;
    wait_for_metric(&gateway, "tidegate_config_reloads_total", &["result=\"success\""], 3.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variables_of_opentelemetry_turn_it_on_and_off() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let (yaml, url) = (Yaml::to(backend.address()).to_string(), collector.url());
    let start = async |variables: &[(&str, &str)]| {
        Gateway::start_in(tempfile::TempDir::new().unwrap(), &yaml, variables).await
    };
    let of_metrics = format!("{url}/own/v1/metrics");
    let own = [
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &*of_metrics),
        ("OTEL_METRIC_EXPORT_INTERVAL", "20"),
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=a%20b"),
        ("OTEL_SERVICE_NAME", "by-variable"),
    ];
    let gateway = start(&own).await;
    let taken = collector.metrics("metrics", |_| true).await;
    assert_eq!((&*taken[0].resource["team"], &*taken[0].resource["service.name"]), ("a b", "by-variable"));
    assert_eq!(collector.requests(1).await[0].0, "/own/v1/metrics", "taken as it is");
    drop(gateway);
    for off in [("OTEL_METRICS_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")] {
        let collector = Collector::start().await;
        let url = collector.url();
        let gateway = start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &url), off]).await;
        get(gateway.address("main"), "/status/200").await.assert_status(200);
        gateway.signal(Signal::SIGTERM);
        assert!(gateway.wait_exit().await.success());
        assert!(collector.metrics_now().is_empty(), "{off:?}");
    }
}
