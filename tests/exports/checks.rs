//! What `check` says of exporters.

use tempfile::TempDir;

use crate::support::{
    Process,
    certificates::{authority, keep, svid},
    tidegate,
};

const REST: &str = "listeners: [{address: '127.0.0.1:0'}]\nroutes: [{upstream: a}]\nupstreams: {a: {endpoints: ['127.0.0.1:1']}}\n";

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The exit code, and all that is said; beside `edge.crt` and `edge.key`, and the key of another in `other.key`.
async fn check(yaml: &str, variables: &[(&str, &str)]) -> (i32, String) {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    keep(directory.path(), "edge", &root.issue(&svid("spiffe://test/edge")));
    keep(directory.path(), "other", &root.issue(&svid("spiffe://test/other")));
    std::fs::write(directory.path().join("bad.pem"), "nothing").unwrap();
    std::fs::write(directory.path().join("g.yaml"), format!("{yaml}\n{REST}")).unwrap();
    let mut command = tidegate(directory.path());
    command.args(["check", "-c", "g.yaml"]).envs(variables.iter().copied());
    let process = Process::spawn(command);
    let status = process.wait_exit().await;
    (status.code().unwrap(), process.stderr() + &process.output())
}

#[tokio::test]
async fn what_cannot_be_exported_so_is_refused_where_it_stands() {
    for (yaml, refusal) in [
        (
            "metrics: {otlp: {endpoint: here}}",
            "g.yaml:1:28: metrics.otlp.endpoint: is not the http or https URL of a collector (such as http://127.0.0.1:4318)",
        ),
        (
            "metrics: {otlp: {evry: 1s}}",
            "g.yaml:1:18: metrics.otlp: unknown key `evry` (did you mean `every`?)",
        ),
        (
            "metrics: {otlp: {every: 0s}}",
            "g.yaml:1:25: metrics.otlp.every: a duration of 0 makes no sense here",
        ),
        (
            "metrics: {otlp: {tls: {ca: bad.pem}}}",
            "g.yaml:1:28: metrics.otlp.tls.ca: no certificate in it (try a file that begins with BEGIN CERTIFICATE)",
        ),
        (
            "metrics: {otlp: {tls: {cert: edge.crt, key: other.key}}}",
            "metrics.otlp.tls.cert: the certificate and its key",
        ),
        ("tracing: {otlp: {tls: {ca: bad.pem}}}", "tracing.otlp.tls.ca: no certificate in it"),
        (
            "log: {access: {to: {otlp: {protocol: htpp}}}}",
            "log.access.to.otlp.protocol: unknown value \"htpp\" (one of: grpc, http/protobuf, http/json)",
        ),
        (
            "log: {access: {to: [stdout, {otlp: {endpoint: 'ftp://here'}}]}}",
            "g.yaml:1:47: log.access.to[1].otlp.endpoint: is not the http or https URL of a collector",
        ),
        (
            "tracing: {otlp: {endpoint: 'http://a:1/v1?token=b'}}",
            "tracing.otlp.endpoint: has a query, which is not sent to a collector (leave it out: a token belongs in `headers`)",
        ),
        (
            "log: {access: {to: [{otlp: {}}, {otlp: {endpoint: 'http://b:1'}}]}}",
            "log.access.to: there can be one `otlp` only (have a collector pass records on)",
        ),
        ("log: {access: {to: {otpl: {}}}}", "unknown key `otpl` (did you mean `otlp`?)"),
        (
            "log: {access: {to: {syslog: {address: 'tcp://a:1', tls: {}}}}}",
            "log.access.to.syslog.tls: is for servers that speak TLS (write the address as `tls://HOST:PORT`, or leave it out)",
        ),
        (
            "log: {access: {to: {syslog: {address: 'tls://a:1', tls: {cert: edge.crt}}}}}",
            "log.access.to.syslog.tls: `cert` and `key` go together",
        ),
        (
            "log: {access: {to: [stderr, {syslog: {address: 'tls://a:1', tls: {ca: none.pem}}}]}}",
            "log.access.to[1].syslog.tls.ca: cannot read",
        ),
        (
            "log: {access: {to: {syslog: {address: 'tls://a:1', tls: {name: 'a b'}}}}}",
            "log.access.to.syslog.tls.name: is no host's name (such as logs.example.com)",
        ),
    ] {
        let (code, told) = check(yaml, &[]).await;
        assert!(told.contains(refusal), "{yaml}\n{told}");
        assert_eq!(code, 3, "{yaml}");
    }
}

/// Every key, with a value that is not its default.
#[tokio::test]
async fn all_that_can_be_said_of_exporters_is_understood() {
    let common = "endpoint: 'https://here:4317', protocol: grpc, headers: {x-tenant: '${env:TENANT}'}, \
                  compression: none, timeout: 1s, tls: {ca: edge.crt, cert: edge.crt, key: edge.key}, every: 2s";
    let yaml = format!(
        "metrics: {{otlp: {{{common}}}}}
log:
  access:
    to:
    - otlp: {{{common}, queue: 1MiB, batch: 100, give_up: 10s}}
    - syslog: {{address: 'tls://[::1]:6514', tls: {{ca: edge.crt, cert: edge.crt, key: edge.key, name: logs.example}}}}
"
    );
    let (code, told) = check(&yaml, &[("TENANT", "edge")]).await;
    assert_eq!((code, told.contains("warning")), (0, false), "{told}");
}

#[tokio::test]
async fn variables_that_the_file_overrides_or_that_are_wrong_are_told() {
    for (yaml, variable, expected) in [
        ("metrics: {otlp: {every: 1s}}", ("OTEL_METRIC_EXPORT_INTERVAL", "5"), "and the file says otherwise"),
        ("metrics: {otlp: {}}", ("OTEL_METRICS_EXPORTER", "none"), "and the file says otherwise"),
        ("tracing: {otlp: {}}", ("OTEL_TRACES_EXPORTER", "none"), "and the file says otherwise"),
        (
            "metrics: {otlp: {timeout: 1s}}",
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "5"),
            "and the file says otherwise",
        ),
        (
            "log: {access: {to: {otlp: {endpoint: 'http://a:1'}}}}",
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://b:1"),
            "and the file says otherwise",
        ),
        (
            "log: {access: {to: {otlp: {}}}}",
            ("OTEL_BLRP_SCHEDULE_DELAY", "soon"),
            "is ignored: it is no number",
        ),
        ("metrics: {otlp: {}}", ("OTEL_METRIC_EXPORT_INTERVAL", "0"), "is ignored: it is no number"),
        ("metrics: {otlp: {}}", ("OTEL_METRICS_EXPORTER", "smoke"), "is ignored: `smoke` is neither"),
        (
            "tracing: {otlp: {}}",
            ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "many"),
            "is ignored: it is no number of characters",
        ),
        ("tracing: {otlp: {give_up: 5s}}", ("OTEL_BSP_EXPORT_TIMEOUT", "5"), "and the file says otherwise"),
        ("tracing: {otlp: {}}", ("OTEL_BSP_EXPORT_TIMEOUT", "soon"), "is ignored: it is no number"),
        (
            "tracing: {otlp: {}}",
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            "is ignored: it is neither gzip nor none",
        ),
        // Of the two variables, the one that is wrong is named.
        ("tracing: {otlp: {}}", ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "smoke"), "is ignored: it is none of"),
        ("tracing: {otlp: {}}", ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon"), "is ignored: it is no number"),
        ("tracing: {otlp: {}}", ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a b=c"), "is ignored: it has what no"),
        (
            "tracing: {otlp: {}}",
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "here"),
            "is ignored: it is not the http or https URL of a collector",
        ),
        (
            "",
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://here"),
            "is ignored: it is not the http or https URL",
        ),
        ("", ("OTEL_TRACES_EXPORTER", "console"), "asks for `console`, which is not supported"),
        (
            "tracing: {otlp: {}}",
            ("OTEL_TRACES_EXPORTER", "console"),
            "spans go to a collector (`otlp`) or nowhere",
        ),
        ("metrics: {otlp: {}}", ("OTEL_METRICS_EXPORTER", "otlp,console"), "asks for `console`"),
        ("tracing: {otlp: {}, sample: {new: 1%}}", (SAMPLER, "always_on"), "and the file says otherwise"),
        ("tracing: {otlp: {}, sample: {new: 1%}}", (SAMPLER_ARG, "0.5"), "and the file says otherwise"),
        (
            "tracing: {otlp: {}, sample: {known: follow}}",
            (SAMPLER, "always_on"),
            "and the file says otherwise",
        ),
        ("tracing: {otlp: {}}", (SAMPLER_ARG, "0.5"), "is ignored: it is the share of a traceidratio"),
        ("tracing: {otlp: {}}", ("OTEL_SDK_DISABLED", "yes"), "is ignored: it is neither `true` nor `false`"),
        ("", ("OTEL_TRACES_EXPORTER", "zipkin"), "asks for `zipkin`, which is not supported"),
        ("", ("OTEL_TRACES_EXPORTER", "smoke"), "is ignored: `smoke` is neither `otlp` nor `none`"),
        // Whether or not anything is traced.
        ("", (SAMPLER, "foo"), "is ignored: it is none of always_on"),
        ("", ("OTEL_PROPAGATORS", "xray"), "is ignored: `xray` is none of"),
        ("", ("OTEL_BSP_SCHEDULE_DELAY", "-1"), "is ignored: it is no number"),
        ("", ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"), "is ignored: it is no number"),
        // That it is wrong comes before that the file says otherwise.
        ("tracing: {otlp: {every: 1s}}", ("OTEL_BSP_SCHEDULE_DELAY", "-1"), "is ignored: it is no number"),
        ("tracing: {propagate: [w3c]}", ("OTEL_PROPAGATORS", "xray"), "is ignored: `xray` is none of"),
        ("tracing: {sample: {new: 1%}}", (SAMPLER, "foo"), "is ignored: it is none of always_on"),
        (
            "tracing: {otlp: {protocol: grpc}}",
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke"),
            "is ignored: it is none of",
        ),
        (
            "tracing: {otlp: {compression: gzip}}",
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            "is ignored: it is neither",
        ),
        (
            "tracing: {otlp: {headers: {a: b}}}",
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=c"),
            "is ignored: it has what no",
        ),
        (
            "tracing: {otlp: {endpoint: 'http://a:1'}}",
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "here"),
            "is ignored: it is not the http or https URL",
        ),
        (
            "tracing: {otlp: {}}",
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1/?token=b"),
            "is ignored: it has a query, which is not sent to a collector",
        ),
    ] {
        let (code, told) = check(yaml, &[variable]).await;
        let (name, _) = variable;
        let line = told.lines().find(|line| line.contains(name) && line.contains(expected));
        assert!(code == 0 && line.is_some(), "{yaml} {variable:?}\n{told}");
    }
    for (sampler, argument, expected) in [
        ("always_on", "0.5", Some("is ignored: it is the share of a traceidratio")),
        ("sometimes", "0.5", Some("is ignored: it is the share of a traceidratio")),
        ("traceidratio", "half", Some("is ignored: it is no number from 0 to 1")),
        ("parentbased_traceidratio", "1.5", Some("is ignored: it is no number from 0 to 1")),
        ("traceidratio", "0.5", None),
        ("traceidratio", "", None),
        ("always_on", "", None),
    ] {
        let (_, told) = check("tracing: {otlp: {}}", &[(SAMPLER, sampler), (SAMPLER_ARG, argument)]).await;
        let line = told.lines().find(|line| line.contains(SAMPLER_ARG));
        assert_eq!(line.is_some(), expected.is_some(), "{sampler} {argument}\n{told}");
        assert!(expected.is_none_or(|expected| told.contains(expected)), "{sampler} {argument}\n{told}");
    }
    // What the file says is also what the variable says.
    for (known, sampler) in [("follow", "parentbased_always_on"), ("decide", "always_on")] {
        let yaml = format!("tracing: {{otlp: {{}}, sample: {{known: {known}}}}}");
        let (_, told) = check(&yaml, &[(SAMPLER, sampler)]).await;
        assert!(!told.contains("OTEL"), "{told}");
    }
    for yaml in ["metrics: {otlp: {}}", "tracing: {otlp: {}}", "log: {access: {to: {otlp: {}}}}"] {
        let (_, told) = check(yaml, &[("OTEL_SDK_DISABLED", "true")]).await;
        assert!(told.contains("OTEL_SDK_DISABLED is true, so this does nothing"), "{told}");
        for good in [
            ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "100"),
            ("OTEL_SDK_DISABLED", "False"),
            ("OTEL_PROPAGATORS", "b3,tracecontext,b3"),
        ] {
            let (code, told) = check(yaml, &[good]).await;
            assert!(code == 0 && !told.contains("OTEL"), "{good:?} {told}");
        }
    }
}

#[tokio::test]
async fn secrets_in_what_is_written_are_warned_of() {
    for (yaml, expected) in [
        (
            "log: {redact: [user-agent], access: {template: '{path} {user_agent}'}}",
            "log.access.template: names a secret, which is written as `[redacted]`",
        ),
        (
            "log: {redact: [x-key]}\ntracing: {attributes: {a: '{header.x-key}'}}",
            "tracing.attributes.a: names a secret",
        ),
        (
            "log: {redact: [plan]}\ntracing: {baggage_attributes: [plan, other]}",
            "tracing.baggage_attributes: names a secret",
        ),
    ] {
        let (code, told) = check(yaml, &[]).await;
        assert!(code == 0 && told.contains(expected), "{yaml}\n{told}");
    }
}
