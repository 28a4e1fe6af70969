//! Nothing of a file is passed over: each option is carried over, or named with its line.

use super::written;

/// A file with these in its parts, each `key: value`, on a line of its own.
fn file(entry_point: &str, router: &str, service: &str, middleware: &str, rest: &str) -> String {
    format!(
        "entryPoints: {{web: {{address: ':80'}}, websecure: {{address: ':443', {entry_point}}}}}
http:
  routers:
    plain: {{rule: 'Host(`plain.example.com`)', service: s, entryPoints: web, middlewares: m}}
    r: {{rule: 'Host(`a.example.com`)', service: s, entryPoints: websecure, tls: {{}}, {router}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: 'http://10.0.0.1'}}], {service}}}}}}}
  middlewares: {{m: {middleware}}}
{rest}"
    )
}

const ADD: &str = "{addPrefix: {prefix: /a}}";

#[test]
fn each_option_is_carried_over_or_named() {
    let point = |option: &str| file(option, "", "", ADD, "");
    let router = |option: &str| file("", option, "", ADD, "");
    let service = |option: &str| file("", "", option, ADD, "");
    let middleware = |text: &str| file("", "", "", text, "");
    let rest = |text: &str| file("", "", "", ADD, text);
    let mut wrong = String::new();
    for (text, expected) in [
        (point("http2: {maxConcurrentStreams: 7}"), "streams_per_connection: 7"),
        (point("http2: {bogus: 7}"), "# a.yaml:1: not carried over: bogus: 7 ("),
        (point("reusePort: true"), ": reusePort (a.yaml:1)"),
        (point("http: {maxHeaderBytes: 4096}"), "header_size: \"4096B\""),
        (
            point("http: {encodeQuerySemicolons: true}"),
            "# a.yaml:1: not carried over: encodeQuerySemicolons: true (",
        ),
        (point("http: {redirections: {bogus: 1}}"), "# a.yaml:1: not carried over: bogus: 1 ("),
        (
            point("http: {redirections: {entryPoint: {to: ':444', priority: 5}}}"),
            "# a.yaml:1: not carried over: priority: 5 (",
        ),
        (point("transport: {keepAliveMaxRequests: 9}"), "requests_per_connection: 9"),
        (point("transport: {keepAliveMaxTime: 9}"), "# a.yaml:1: not carried over: keepAliveMaxTime: 9 ("),
        (point("http3: {}"), "# a.yaml:1: not carried over: http3: {} ("),
        (point("bogus: 1"), "# a.yaml:1: not carried over: bogus: 1 ("),
        (router("ruleSyntax: v2"), ": ruleSyntax (a.yaml:5)"),
        (
            router("observability: {accessLogs: false}"),
            "# a.yaml:5: not carried over: observability: {accessLogs: false} (",
        ),
        (router("bogus: 1"), "# a.yaml:5: not carried over: bogus: 1 ("),
        (service("responseForwarding: {flushInterval: 1s}"), ": responseForwarding (a.yaml:6)"),
        (service("sticky: {cookie: {name: at}}"), "cookie: at"),
        (service("sticky: {cookie: {name: at, secure: true}}"), "secure: true"),
        (service("sticky: {cookie: {name: at, httpOnly: true}}"), ": httpOnly (a.yaml:6)"),
        (service("sticky: {cookie: {name: at, maxAge: 60}}"), "max_age: 60s"),
        (service("sticky: {cookie: {name: at, sameSite: strict}}"), "same_site: strict"),
        (service("sticky: {cookie: {name: at, path: /a}}"), "path: /a"),
        (service("sticky: {cookie: {name: at, domain: x}}"), "# a.yaml:6: not carried over: domain: x ("),
        (service("sticky: {cookie: {name: at, bogus: 1}}"), "# a.yaml:6: not carried over: bogus: 1 ("),
        (service("bogus: 1"), "# a.yaml:6: not carried over: bogus: 1 ("),
        (
            middleware("{stripPrefix: {prefixes: [/a], forceSlash: false}}"),
            "# a.yaml:7: not carried over: forceSlash: false (",
        ),
        (middleware("{stripPrefix: {prefixes: [/a], forceSlash: true}}"), ": forceSlash (a.yaml:7)"),
        (
            middleware("{headers: {isDevelopment: true}}"),
            "# a.yaml:7: not carried over: isDevelopment: true (",
        ),
        (middleware("{headers: {stsSeconds: 1, forceSTSHeader: true}}"), ": forceSTSHeader (a.yaml:7)"),
        (middleware("{headers: {addVaryHeader: true}}"), ": addVaryHeader (a.yaml:7)"),
        (
            middleware("{forwardAuth: {address: 'http://a', trustForwardHeader: true}}"),
            "# a.yaml:7: not carried over: trustForwardHeader (",
        ),
        (middleware("{grpcWeb: {allowOrigins: ['*']}}"), "# a.yaml:7: not carried over: allowOrigins: [*] ("),
        (
            middleware("{circuitBreaker: {expression: 'NetworkErrorRatio() > 0.3', checkPeriod: 1s}}"),
            "# a.yaml:7: not carried over: checkPeriod: 1s (",
        ),
        (
            middleware("{circuitBreaker: {expression: 'NetworkErrorRatio() > 0.3', recoveryDuration: 1s}}"),
            "# a.yaml:7: not carried over: recoveryDuration: 1s (",
        ),
        (
            middleware("{rateLimit: {average: 1, sourceCriterion: {ipStrategy: {depth: 1}}}}"),
            "# a.yaml:7: not carried over: ipStrategy: {depth: 1} (",
        ),
        (middleware("{chain: {middlewares: [], bogus: 1}}"), "# a.yaml:7: not carried over: bogus ("),
        (rest("accessLog: {bufferingSize: 10}\n"), ": bufferingSize (a.yaml:8)"),
        (rest("accessLog: {bogus: 10}\n"), "# a.yaml:8: not carried over: bogus: 10 ("),
        (rest("log: {format: logfmt}\n"), "# a.yaml:8: not carried over: format: logfmt ("),
        (rest("tls: {options: {default: {maxVersion: VersionTLS12}}}\n"), "max_version: \"1.2\""),
        (
            rest("tls: {options: {default: {sniStrict: true}}}\n"),
            "# a.yaml:8: not carried over: sniStrict: true (",
        ),
        (
            rest("tls: {options: {default: {curvePreferences: [X25519]}}}\n"),
            "# a.yaml:8: not carried over: curvePreferences: [X25519] (",
        ),
        (
            rest("tls: {options: {default: {disableSessionTickets: true}}}\n"),
            "# a.yaml:8: not carried over: disableSessionTickets: true (",
        ),
        (rest("tls: {options: {default: {bogus: 1}}}\n"), "# a.yaml:8: not carried over: bogus: 1 ("),
        (
            rest("tls: {certificates: [{certFile: a, keyFile: b, stores: [default]}]}\n"),
            ": stores (a.yaml:8)",
        ),
        (
            rest("tcp: {middlewares: {few: {inFlightConn: {amount: 1}}}}\n"),
            "# a.yaml:8: not carried over: middleware few (",
        ),
    ] {
        let written = written(&text);
        if !written.contains(expected) {
            wrong += &format!("{expected:?} is not in\n{written}of\n{text}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn requests_under_way_are_limited_by_what_is_counted() {
    for (criterion, expected) in [
        ("", "key: \"{host}\""),
        (", sourceCriterion: {requestHost: true}", "key: \"{host}\""),
        (", sourceCriterion: {requestHeaderName: X-Key}", "header: x-key"),
    ] {
        let text = written(&file("", "", "", &format!("{{inFlightReq: {{amount: 5{criterion}}}}}"), ""));
        assert!(
            text.contains("max: 5") && text.contains(expected) && !text.contains("not carried over"),
            "{text}"
        );
    }
    // An address is the default here.
    let text =
        written(&file("", "", "", "{inFlightReq: {amount: 5, sourceCriterion: {ipStrategy: {}}}}", ""));
    assert!(text.contains("max: 5") && !text.contains("{host}") && text.contains("ipStrategy: {}"), "{text}");
    let text = written(&file("", "", "", "{inFlightReq: {}}", ""));
    assert!(text.contains("status: 503") && text.contains("inFlightReq (no request is let in"), "{text}");
}

#[test]
fn what_no_router_asks_for_is_named() {
    let text = written(
        "http:
  routers: {r: {rule: 'Host(`a`)', service: both, middlewares: chained, entryPoints: web}}
  services:
    both: {weighted: {services: [{name: one}, {name: two}]}}
    one: {loadBalancer: {servers: [{url: 'http://10.0.0.1'}], serversTransport: used}}
    two: {loadBalancer: {servers: [{url: 'http://10.0.0.2'}]}}
    three: {loadBalancer: {servers: [{url: 'http://10.0.0.3'}]}}
  middlewares:
    chained: {chain: {middlewares: [add]}}
    add: {addPrefix: {prefix: /a}}
    secret: {basicAuth: {users: ['joe:hush']}}
  serversTransports:
    used: {forwardingTimeouts: {dialTimeout: 2s}}
    idle: {forwardingTimeouts: {dialTimeout: 2s}}
tcp:
  services: {db: {loadBalancer: {servers: [{address: '10.0.0.1:5432'}]}}}
tls:
  certificates: [{certFile: a.crt, keyFile: a.key}]
  options: {default: {minVersion: VersionTLS13}, other: {minVersion: VersionTLS13}}
",
    );
    let left: Vec<&str> = text.lines().filter(|line| line.contains("not carried over")).collect();
    let expected = [
        "# a.yaml:7: not carried over: service three (",
        "# a.yaml:11: not carried over: middleware secret (",
        "# a.yaml:14: not carried over: serversTransport idle (",
        "# a.yaml:16: not carried over: service db (",
        "# a.yaml:18: not carried over: certificates: {certFile: a.crt, keyFile: a.key} (",
        "# a.yaml:19: not carried over: options: other (",
    ];
    assert_eq!(left.len(), expected.len(), "{text}");
    for (left, expected) in left.iter().zip(expected) {
        assert!(left.starts_with(expected), "{left}, not {expected}");
    }
    assert!(!text.contains("hush"), "{text}");
}
