//! The access log as records of a collector.

use nix::sys::signal::Signal;

use super::{Backend, Collector, Gateway, Yaml, gateway, get, protocols};
use crate::support::{
    collector::{Reply, TakenLog},
    logged, metric, send, wait_for_metric,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn logging(collector: &Collector, places: &str, more: &str) -> String {
    let otlp = format!("{{otlp: {{endpoint: '{}', every: 10ms, {more}}}}}", collector.url());
    format!("log: {{access: {{to: [{places}{otlp}]}}}}")
}

fn about<'t>(taken: &'t [TakenLog], path: &str) -> &'t TakenLog {
    taken.iter().find(|log| log.attributes.get("path").is_some_and(|found| found == path)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_say_what_lines_say_over_every_protocol() {
    for (protocol, path) in protocols("logs") {
        for compression in ["gzip", "none"] {
            let (backend, collector) = (Backend::start().await, Collector::start().await);
            let more = format!(
                "protocol: {protocol}, compression: {compression}, timeout: 5s, batch: 100, \
                 headers: {{authorization: Bearer of-the-test}}"
            );
            let tracing = "tracing: {service: edge, resource: {deployment.environment.name: test}}";
            let top = format!("{}\n{tracing}", logging(&collector, "stdout, ", &more));
            let gateway = gateway(&backend, &top).await;
            let fields = [("traceparent", TRACEPARENT), ("user-agent", "curl")];
            send(gateway.address("main"), "POST", "/status/201?token=x", &fields, "body")
                .await
                .assert_status(201);
            let taken = collector.logs(1).await;
            let (record, line) = (&taken[0], logged(&gateway, "/status/201").await);
            assert_eq!((record.body(), record.trace().as_str()), ("request", TRACE), "{protocol}");
            assert_eq!((record.span(), record.record.flags), (line["span_id"].as_str().unwrap().into(), 1));
            assert_eq!((record.record.severity_number, record.record.severity_text.as_str()), (9, "INFO"));
            let told = line.as_object().unwrap();
            for (key, value) in told {
                let is_in_head =
                    matches!(key.as_str(), "ts" | "level" | "msg" | "trace_id" | "span_id" | "sampled");
                match record.attributes.get(key) {
                    None => assert!(is_in_head, "{key} is missing"),
                    Some(told) => assert_eq!(told, value.as_str().unwrap_or(&value.to_string()), "{key}"),
                }
            }
            assert_eq!(record.attributes.len(), told.len() - 6, "{:?}", record.attributes);
            assert_eq!(record.get("parent_span_id"), CALLER);
            let ended = humantime::parse_rfc3339(line["ts"].as_str().unwrap()).unwrap();
            let ended = ended.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
            assert_eq!(u128::from(record.record.time_unix_nano) / 1_000_000, ended);
            assert_eq!(record.resource["service.name"], "edge");
            assert_eq!(record.resource["deployment.environment.name"], "test");
            let (asked, fields) = collector.requests(1).await.remove(0);
            assert_eq!((&asked, fields["authorization"].as_bytes()), (&path, &b"Bearer of-the-test"[..]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_have_added_fields_and_lack_dropped_ones_and_secrets() {
    let collector = Collector::start().await;
    let otlp = format!("{{otlp: {{endpoint: '{}', every: 10ms}}}}", collector.url());
    let fields = "{add: {tenant: '{path.tenant}', key: '{header.x-key}', none: '{header.none}'}, drop: [user_agent, trace_id]}";
    let yaml = Yaml::new()
        .top(&format!(
            "log: {{redact: [x-key, id], access: {{to: {otlp}, fields: {fields}, when: {{status: 2xx}}}}}}"
        ))
        .with_route("name: down, match: {path: /down}, respond: {status: 503}")
        .with_route("name: all, match: {path: {template: '/t/{tenant}/{id}'}}, respond: {status: 200}");
    let gateway = yaml.start().await;
    let address = gateway.address("main");
    get(address, "/down").await.assert_status(503);
    let sent = [("x-key", "hunter2"), ("user-agent", "curl"), ("traceparent", TRACEPARENT)];
    send(address, "GET", "/t/acme/hunter2", &sent, "").await.assert_status(200);
    let taken = collector.logs(1).await;
    let record = about(&taken, "/t/acme/REDACTED");
    assert_eq!((record.get("tenant"), record.get("key")), ("acme", "[redacted]"));
    for gone in ["user_agent", "trace_id", "none"] {
        assert_eq!(record.attributes.get(gone), None, "{gone}");
    }
    assert_eq!((record.trace(), taken.len()), (String::new(), 1), "the other is not asked for");
    assert!(!format!("{taken:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_the_body_and_connections_are_records_too() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let otlp = format!("{{otlp: {{endpoint: '{}', every: 10ms}}}}", collector.url());
    let yaml = Yaml::to(backend.address()).top(&format!(
        "log: {{access: {{to: {otlp}, template: '{{method}} {{path}} {{status}} {{header.x}}'}}}}"
    ));
    let gateway = yaml.start().await;
    send(gateway.address("main"), "GET", "/status/204", &[("x", "a\"b")], "").await.assert_status(204);
    let taken = collector.logs(1).await;
    assert_eq!(taken[0].body(), "GET /status/204 204 a\\\"b");
    assert_eq!(taken[0].get("status"), "204");

    let tcp = format!(
        "admin: {{address: '127.0.0.1:0'}}\nlog: {{access: {{to: {otlp}}}}}\n\
         listeners: [{{name: main, address: '127.0.0.1:0', protocol: tcp, upstream: origin}}]\n\
         upstreams: {{origin: {{endpoints: ['{}']}}}}\n",
        backend.address()
    );
    let gateway = Gateway::start(&tcp).await;
    get(gateway.address("main"), "/status/200").await.assert_status(200);
    let taken = collector.logs(2).await;
    let record = taken.iter().find(|log| log.body() == "connection").unwrap();
    assert_eq!((record.get("protocol"), record.get("upstream")), ("TCP", "origin"));
    assert!(record.get("bytes_out").parse::<u64>().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_exported_rejected_or_dropped_whatever_the_collector_does() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    collector.script(&[
        Reply::Status(400, &[]),
        Reply::Status(429, &[("retry-after", "0")]),
        Reply::Partial(1),
        Reply::Status(302, &[("location", "/elsewhere")]),
    ]);
    let gateway = gateway(&backend, &logging(&collector, "", "give_up: 20s")).await;
    // One batch for each request, as each waits for the one before to have left.
    for request in 1..=5 {
        get(gateway.address("main"), "/status/200").await.assert_status(200);
        wait_for_metric(&gateway, "tidegate_log_records_recorded_total", &[], f64::from(request)).await;
        wait_for_metric(&gateway, "tidegate_log_queue_records", &[], 0.0).await;
    }
    let result = async |result: &str| {
        metric(&gateway, "tidegate_log_records_total", &[&format!("result=\"{result}\"")]).await
    };
    let counted = (result("exported").await, result("rejected").await, result("dropped_export").await);
    assert_eq!((counted, result("dropped_queue").await), ((2.0, 1.0, 2.0), 0.0));
    assert_eq!(metric(&gateway, "tidegate_log_exports_total", &["result=\"refused\""]).await, 2.0);
    gateway.wait_for_message("log records could not be exported").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_costs_records_and_no_request() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    collector.script(&[Reply::Stall]);
    let gateway = gateway(&backend, &logging(&collector, "", "batch: 2, queue: 4KiB")).await;
    for _ in 0..30 {
        get(gateway.address("main"), "/status/200").await.assert_status(200);
    }
    wait_for_metric(&gateway, "tidegate_log_records_recorded_total", &[], 30.0).await;
    let dropped = metric(&gateway, "tidegate_log_records_total", &["result=\"dropped_queue\""]).await;
    let waiting = metric(&gateway, "tidegate_log_queue_records", &[]).await;
    assert!(dropped > 0.0 && metric(&gateway, "tidegate_log_queue_bytes", &[]).await <= 4096.0);
    assert_eq!(dropped + waiting, 30.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_exported_when_the_gateway_ends() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let otlp = format!("log: {{access: {{to: {{otlp: {{endpoint: '{}', every: 1h}}}}}}}}", collector.url());
    let gateway = gateway(&backend, &otlp).await;
    get(gateway.address("main"), "/status/200").await.assert_status(200);
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    assert_eq!(collector.logs_now().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_sends_them_elsewhere_and_loses_none() {
    let (backend, first, second) =
        (Backend::start().await, Collector::start().await, Collector::start().await);
    let yaml = Yaml::to(backend.address());
    let to = |collector: &Collector| yaml.clone().top(&logging(collector, "", "")).to_string();
    let gateway = Gateway::start(&to(&first)).await;
    for round in 0..4 {
        get(gateway.address("main"), "/status/200").await.assert_status(200);
        wait_for_metric(&gateway, "tidegate_log_records_recorded_total", &[], f64::from(round + 1)).await;
        gateway.reload(&to(if round % 2 == 0 { &second } else { &first })).await;
    }
    assert_eq!((first.logs(2).await.len(), second.logs(2).await.len()), (2, 2));
    gateway.reload(&yaml.to_string()).await;
    get(gateway.address("main"), "/status/201").await.assert_status(201);
    logged(&gateway, "/status/201").await;
    assert_eq!(metric(&gateway, "tidegate_log_records_recorded_total", &[]).await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_no_longer_than_the_variables_of_opentelemetry_say() {
    let (backend, collector) = (Backend::start().await, Collector::start().await);
    let top = format!(
        "{}\ntracing: {{otlp: {{endpoint: '{}', every: 10ms}}}}",
        logging(&collector, "", ""),
        collector.url()
    );
    let yaml = Yaml::to(backend.address()).top(&top).to_string();
    let variables =
        [("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "8"), ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "5")];
    let gateway = Gateway::start_in(tempfile::TempDir::new().unwrap(), &yaml, &variables).await;
    send(gateway.address("main"), "GET", "/status/200", &[("user-agent", "äöüäöüäöü")], "").await;
    let (logs, spans) = (collector.logs(1).await, collector.spans(2).await);
    assert_eq!((logs[0].get("user_agent"), logs[0].get("path")), ("äöüäöüäö", "/status/"));
    let server = spans.iter().find(|span| span.is_server()).unwrap();
    assert_eq!((server.get("user_agent.original"), server.get("url.path")), ("äöüäö", "/stat"));
}
