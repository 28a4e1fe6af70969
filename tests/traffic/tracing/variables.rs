//! OpenTelemetry's variables alone: what they turn on and off, and where spans go.

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{CALLER, Client, Collector, Origin, Reply, Seen, TRACE, TRACEPARENT, server, tls::directory};
use crate::support::{Gateway, Yaml, certificates::authority, metric, wait_for_metric};

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_we_have_not_exports_nothing_and_one_that_nobody_knows_is_no_word() {
    for (exporter, exports) in [
        ("otlp", true),
        ("", true),
        ("otlp,console", true),
        ("smoke", true),
        ("none", false),
        ("console", false),
        ("zipkin", false),
    ] {
        let (origin, collector) = (Origin::start().await, Collector::start().await);
        let endpoint = format!("{}/v1/traces", collector.url());
        let variables = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*endpoint),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
            ("OTEL_TRACES_EXPORTER", exporter),
        ];
        let yaml = Yaml::to(origin.name()).to_string();
        let gateway = Gateway::start_in(TempDir::new().unwrap(), &yaml, &variables).await;
        Client::new(&gateway).get("/").await.assert_status(200);
        let seen = origin.seen().pop().unwrap();
        assert_eq!(seen.header("traceparent").is_some(), exports, "{exporter}");
        gateway.signal(Signal::SIGTERM);
        assert!(gateway.wait_exit().await.success());
        assert_eq!(collector.spans_now().len(), if exports { 2 } else { 0 }, "{exporter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_say_all_of_a_collector_behind_tls() {
    let root = authority("test");
    let (origin, collector) = (Origin::start().await, Collector::start_tls(&root).await);
    let directory = directory(&root);
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (url, ca, cert, key) = (collector.url(), file("root.crt"), file("edge.crt"), file("edge.key"));
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-test"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "5000"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &*ca),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &*cert),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &*key),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_PROPAGATORS", "b3,tracecontext"),
        ("OTEL_SERVICE_NAME", "by-variable"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
    ];
    let yaml = Yaml::to(origin.name()).to_string();
    let gateway = Gateway::start_in(directory, &yaml, &variables).await;
    let mut client = Client::new(&gateway);
    client.get("/").await.assert_status(200);
    let b3 = format!("{TRACE}-{CALLER}-1");
    client.send("GET", "/", &[("b3", &b3)], "").await.assert_status(200);
    let seen = origin.seen();
    assert!(seen[0].header("traceparent").unwrap().ends_with("-02"), "{:?}", seen[0]);
    assert!(seen[1].header("traceparent").unwrap().contains(TRACE), "{:?}", seen[1]);
    let spans = collector.spans(2).await;
    let server = server(&spans);
    assert_eq!((server.trace(), server.parent()), (TRACE.into(), CALLER.into()));
    assert_eq!(server.resource["service.name"], "by-variable");
    let (path, fields) = collector.requests(1).await.remove(0);
    assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(fields["authorization"], "Bearer of-the-test");
    assert_eq!(fields["grpc-encoding"], "gzip");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampler_decides_on_every_trace_unless_it_goes_by_the_parent() {
    // The random bits of the trace begin with ce: it is among half of all, and not among a tenth.
    for (sampler, argument, written, sent) in [
        ("always_on", "", "", ["01", "01"]),
        ("always_off", "", "", ["00", "00"]),
        ("traceidratio", "0.5", "", ["01", "01"]),
        ("traceidratio", "0.1", "", ["00", "00"]),
        ("traceidratio", "", "", ["01", "01"]),
        ("parentbased_always_on", "", "", ["00", "01"]),
        ("parentbased_always_off", "", "", ["00", "01"]),
        ("parentbased_traceidratio", "0.5", "", ["00", "01"]),
        ("sometimes", "", "", ["00", "01"]),
        // The file wins: of a share alone, the whole sampler is overridden.
        ("always_on", "", "known: follow", ["00", "01"]),
        ("always_off", "", "new: 100%", ["00", "01"]),
        ("parentbased_traceidratio", "0.1", "known: decide", ["00", "00"]),
    ] {
        let (origin, collector) = (Origin::start().await, Collector::start().await);
        let url = collector.url();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_TRACES_SAMPLER_ARG", argument),
        ];
        let yaml = Yaml::to(origin.name()).top(&format!("tracing: {{sample: {{{written}}}}}")).to_string();
        let gateway = Gateway::start_in(TempDir::new().unwrap(), &yaml, &variables).await;
        let mut client = Client::new(&gateway);
        for flags in ["00", "01"] {
            let parent = format!("00-{TRACE}-{CALLER}-{flags}");
            client.send("GET", "/", &[("traceparent", &parent)], "").await.assert_status(200);
        }
        let seen = origin.seen();
        let flags = |seen: &Seen| seen.header("traceparent").unwrap()[53..].to_owned();
        let flags: Vec<String> = seen.iter().map(flags).collect();
        assert_eq!(flags, sent, "{sampler} {argument} {written}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_and_its_batches_are_as_large_as_the_variables_say() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let url = collector.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
    ];
    let yaml = Yaml::to(origin.name()).to_string();
    let gateway = Gateway::start_in(TempDir::new().unwrap(), &yaml, &variables).await;
    let mut client = Client::new(&gateway);
    client.get("/").await.assert_status(200);
    // A full batch does not wait for an hour.
    collector.spans(2).await;
    wait_for_metric(&gateway, "tidegate_span_queue_spans", &[], 0.0).await;
    collector.script(&[Reply::Stall]);
    for _ in 0..10 {
        client.get("/").await.assert_status(200);
    }
    wait_for_metric(&gateway, "tidegate_spans_total", &["result=\"dropped_queue\""], 16.0).await;
    assert_eq!(metric(&gateway, "tidegate_span_queue_spans", &[]).await, 4.0);
    assert_eq!(metric(&gateway, "tidegate_spans_recorded_total", &[]).await, 22.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_s_resource_is_what_the_file_the_variables_and_the_process_say() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let variables = [
        ("OTEL_SERVICE_NAME", "by-variable"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,team=a%20b,stage=test"),
    ];
    let otlp = format!("otlp: {{endpoint: '{}', every: 10ms}}", collector.url());
    let tracing = format!("tracing: {{resource: {{stage: prod}}, {otlp}}}");
    let yaml = Yaml::to(origin.name()).top(&tracing).to_string();
    let gateway = Gateway::start_in(TempDir::new().unwrap(), &yaml, &variables).await;
    Client::new(&gateway).get("/").await.assert_status(200);
    let spans = collector.spans(2).await;
    let resource = &spans[0].resource;
    for (key, value) in [
        ("service.name", "by-variable"),
        ("team", "a b"),
        ("stage", "prod"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("process.pid", &*gateway.pid().to_string()),
        ("telemetry.sdk.name", "tidegate"),
    ] {
        assert_eq!(resource.get(key).map(String::as_str), Some(value), "{key}");
    }
    for key in ["service.instance.id", "host.name"] {
        assert!(resource.get(key).is_some_and(|value| !value.is_empty()), "{key}: {resource:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_sdk_traces_nothing_whatever_the_file_says() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let tracing = format!("tracing: {{otlp: {{endpoint: '{}', every: 10ms}}}}", collector.url());
    let yaml = Yaml::to(origin.name()).top(&tracing).to_string();
    let gateway = Gateway::start_in(TempDir::new().unwrap(), &yaml, &[("OTEL_SDK_DISABLED", "True")]).await;
    let mut client = Client::new(&gateway);
    client.get("/1").await.assert_status(200);
    client.send("GET", "/2", &[("traceparent", TRACEPARENT)], "").await.assert_status(200);
    let seen = origin.seen();
    let parents: Vec<Option<&str>> = seen.iter().map(|seen| seen.header("traceparent")).collect();
    assert_eq!(parents, [None, Some(TRACEPARENT)]);
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    assert!(collector.spans_now().is_empty());
}
