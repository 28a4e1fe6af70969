//! What is counted of requests, how finely, and in which format it is told.

use std::{collections::BTreeSet, time::Instant};

use crate::support::{
    Answer, Backend, Connection, Gateway, RawConnection, ScriptedUpstream, Step, Yaml, collector::Collector,
    get, metric, send, series, wait_for_metric,
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

/// Of one run of a chain in 127, on each thread: so 127 requests through two chains have one of each.
#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_filters_is_observed_for_those_that_ran_with_what_they_waited() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address())
        .top("threads: 1")
        .listener("filters: [{request_id: {}}]")
        .route("filters: [{fault: {delay: {duration: 2ms}}}]")
        .with_route(
            "match: {path: /status/201}, upstream: origin, filters: [{ip_rules: {deny: [127.0.0.0/8]}}]",
        )
        .start()
        .await;
    let mut client = Connection::http1(gateway.address("main")).await.unwrap();
    for _ in 0..127 {
        client.send("GET", "/status/200", &[], "").await.unwrap().assert_status(200);
    }
    let of = async |name: &str, filter: &str| {
        series(&gateway, &format!("tidegate_filter_{name}"), &[&format!("filter=\"{filter}\"")]).await
    };
    for filter in ["request_id", "fault"] {
        assert!(of("duration_seconds_count", filter).await >= Some(1.0), "{filter}");
    }
    let (count, sum) =
        (of("duration_seconds_count", "fault").await, of("duration_seconds_sum", "fault").await);
    assert!(sum.unwrap() >= 0.002 * count.unwrap(), "{sum:?} of {count:?}");
    assert_eq!(of("duration_seconds_count", "ip_rules").await, Some(0.0), "nobody came to it");
    assert_eq!(of("duration_seconds_count", "jwt").await, None, "there is none");
    send(gateway.address("main"), "GET", "/status/201", &[], "").await.assert_status(403);
    assert_eq!(of("refusals_total", "ip_rules").await, Some(1.0));
    assert_eq!(of("refusals_total", "fault").await, Some(0.0));
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

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

/// What a gateway says that traces, exports, and has had a sampled request and one that is not.
async fn traced() -> (Gateway, Backend, Collector) {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let otlp = format!("otlp: {{endpoint: '{}', every: 10ms}}", collector.url());
    let gateway = Yaml::to(backend.address()).top(&format!("tracing: {{{otlp}}}")).start().await;
    for (trace, flags) in [(TRACE, "01"), ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "00")] {
        let parent = format!("00-{trace}-00f067aa0ba902b7-{flags}");
        let answer =
            send(gateway.address("main"), "GET", "/status/200", &[("traceparent", &parent)], "").await;
        answer.assert_status(200);
    }
    wait_for_metric(&gateway, &format!("tidegate_request_duration_seconds_count{{{ROUTE}}}"), &[], 2.0).await;
    (gateway, backend, collector)
}

async fn scrape(gateway: &Gateway, accept: &str) -> Answer {
    send(gateway.admin(), "GET", "/metrics", &[("accept", accept)], "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn openmetrics_is_well_formed_and_shows_sampled_traces_as_exemplars() {
    let (gateway, _backend, _collector) = traced().await;
    let answer = scrape(&gateway, OPENMETRICS).await;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.assert_status(200).header("content-type"), Some(content_type));
    let families = open_metrics(answer.text());
    let kind = |name: &str| families.iter().find(|family| family.name == name).map(|family| family.kind);
    for (name, expected) in [
        ("tidegate_requests", "counter"),
        ("tidegate_request_duration_seconds", "histogram"),
        ("tidegate_request_size_bytes", "histogram"),
        ("tidegate_connections_limit", "gauge"),
        ("tidegate_config_reloads", "counter"),
        ("tidegate_build_info", "gauge"),
        ("process_cpu_seconds", "counter"),
    ] {
        assert_eq!(kind(name), Some(expected), "{name}");
    }
    let exemplars: Vec<(&str, &str)> = families
        .iter()
        .flat_map(|family| family.samples.iter().filter_map(|sample| Some((family.name, sample.trace?))))
        .collect();
    assert_eq!(
        exemplars,
        [
            "tidegate_request_duration_seconds",
            "tidegate_time_to_first_byte_seconds",
            "tidegate_upstream_duration_seconds"
        ]
        .map(|name| (name, TRACE))
    );
}

/// The same numbers in both, and nothing of the one format in the other.
#[tokio::test(flavor = "multi_thread")]
async fn the_text_format_has_no_exemplars_and_the_same_series() {
    let (gateway, _backend, _collector) = traced().await;
    let open = scrape(&gateway, OPENMETRICS).await;
    for accept in ["", "*/*", "text/plain;version=0.0.4", "application/openmetrics-text;q=0.1, text/plain"] {
        let text = scrape(&gateway, accept).await;
        assert_eq!(text.header("content-type"), Some("text/plain; version=0.0.4"), "{accept}");
        assert!(!text.text().contains(TRACE) && !text.text().contains("# EOF"), "{}", text.text());
        assert!(text.text().contains("\n# TYPE tidegate_requests_total counter\n"), "{}", text.text());
        // What is exported meanwhile is another matter.
        let is_steady = |series: &&str| !series.starts_with("tidegate_span");
        let plain = text.text().lines().filter(|line| !line.starts_with('#'));
        let plain = plain.map(|line| line.rsplit_once(' ').unwrap().0).filter(is_steady);
        let plain: BTreeSet<String> = plain.map(str::to_owned).collect();
        let families = open_metrics(open.text());
        let samples = families.iter().flat_map(|family| &family.samples);
        let series = samples.map(|sample| sample.series).filter(is_steady);
        let opened: BTreeSet<String> = series.map(with_plain_bound).collect();
        assert_eq!(plain, opened);
    }
}

/// As the text format writes `le`.
fn with_plain_bound(series: &str) -> String {
    match series.split_once("le=\"") {
        Some((labels, bound)) => format!("{labels}le=\"{}", bound.replace(".0\"}", "\"}")),
        None => series.to_owned(),
    }
}

struct Family<'a> {
    name: &'a str,
    kind: &'a str,
    samples: Vec<Sample<'a>>,
}

struct Sample<'a> {
    /// With its labels.
    series: &'a str,
    value: f64,
    /// Of its exemplar.
    trace: Option<&'a str>,
}

impl Sample<'_> {
    fn name(&self) -> &str {
        self.series.split('{').next().unwrap()
    }

    fn bound(&self) -> Option<f64> {
        let (_, bound) = self.series.split_once("le=\"")?;
        bound.split('"').next()?.parse().ok()
    }
}

/// Reads OpenMetrics 1.0 as strictly as its specification is, for what a gateway writes of it.
fn open_metrics(text: &str) -> Vec<Family<'_>> {
    let text = text.strip_suffix("# EOF\n").expect("an end");
    let mut families: Vec<Family> = Vec::new();
    let mut helped = None;
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split(' ').next();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        {
            assert_eq!(helped, Some(name), "{line}");
            assert!(families.iter().all(|family| family.name != name), "{name} is there twice");
            assert!(kind != "counter" || !name.ends_with("_total"), "{line}");
            families.push(Family { name, kind, samples: Vec::new() });
        } else {
            let family = families.last_mut().expect("a family first");
            let sample = sample(line);
            let suffix = sample.name().strip_prefix(family.name).unwrap_or_else(|| panic!("{line}"));
            let suffixes: &[&str] = match family.kind {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                kind => panic!("{kind}"),
            };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(sample.trace.is_none() || suffix == "_bucket", "{line}");
            family.samples.push(sample);
        }
    }
    for family in &families {
        assert!(!family.samples.is_empty(), "{} has no samples", family.name);
        if family.kind == "histogram" {
            assert_histograms(&family.samples);
        }
    }
    families
}

fn sample(line: &str) -> Sample<'_> {
    let (said, exemplar) = match line.split_once(" # ") {
        Some((said, exemplar)) => (said, Some(exemplar)),
        None => (line, None),
    };
    let (series, value) = said.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let mut sample =
        Sample { series, value: value.parse().unwrap_or_else(|_| panic!("{line}")), trace: None };
    if let Some(exemplar) = exemplar {
        let (trace, rest) = exemplar.strip_prefix("{trace_id=\"").unwrap().split_once("\"} ").unwrap();
        let (value, time) = rest.split_once(' ').unwrap();
        assert!(trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
        assert!(value.parse::<f64>().unwrap() <= sample.bound().unwrap(), "{line}");
        assert!(time.parse::<f64>().unwrap() > 1.6e9, "{line}");
        sample.trace = Some(trace);
    }
    sample
}

/// Bounds ascend, counts accumulate, and the last is the count.
fn assert_histograms(samples: &[Sample<'_>]) {
    let mut before: Option<(f64, f64)> = None;
    for sample in samples {
        if sample.name().ends_with("_bucket") {
            let bound = sample.bound().unwrap();
            let (_, written) = sample.series.split_once("le=\"").unwrap();
            assert!(written.contains('.') || written == "+Inf\"}", "{}", sample.series);
            let ascends = before.is_none_or(|(last, count)| last < bound && count <= sample.value);
            assert!(ascends, "{}", sample.series);
            before = Some((bound, sample.value));
        } else if sample.name().ends_with("_count") {
            assert_eq!(before.take(), Some((f64::INFINITY, sample.value)), "{}", sample.series);
        }
    }
    assert!(before.is_none());
}
