//! What a plugin may ask of a request by name, and what it may tell others.

use super::yaml;
use crate::support::{
    Backend, Gateway, get,
    plugins::{put, written},
    send, tidegate,
};

/// Tells in the response what `x-ask` names, in hexadecimal digits, and says the same once the request is over. Dots separate the
/// segments.
const ASKS: &str = r#"
  (data (i32.const 1024) "x-ask")
  (data (i32.const 1040) "x-value")
  (data (i32.const 1056) "0123456789abcdef")
  (data (i32.const 1080) "user\00tier")
  (data (i32.const 1096) "gold")
  (func $ask (result i32)
    (local $at i32) (local $end i32) (local $to i32)
    (if (call $get (i32.const 0) (i32.const 1024) (i32.const 5) (i32.const 16) (i32.const 20)) (then (return (i32.const 1))))
    (local.set $at (call $pointer))
    (local.set $end (i32.add (local.get $at) (call $length)))
    (block $done (loop $next
      (br_if $done (i32.eq (local.get $at) (local.get $end)))
      (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 46)) (then (i32.store8 (local.get $at) (i32.const 0))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next)))
    (if (call $property (call $pointer) (call $length) (i32.const 16) (i32.const 20)) (then (return (i32.const 1))))
    (local.set $at (call $pointer))
    (local.set $end (i32.add (local.get $at) (call $length)))
    (local.set $to (i32.const 4096))
    (block $done (loop $next
      (br_if $done (i32.eq (local.get $at) (local.get $end)))
      (i32.store8 (local.get $to)
        (i32.load8_u (i32.add (i32.const 1056) (i32.shr_u (i32.load8_u (local.get $at)) (i32.const 4)))))
      (i32.store8 (i32.add (local.get $to) (i32.const 1))
        (i32.load8_u (i32.add (i32.const 1056) (i32.and (i32.load8_u (local.get $at)) (i32.const 15)))))
      (local.set $to (i32.add (local.get $to) (i32.const 2)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next)))
    (i32.store (i32.const 24) (i32.sub (local.get $to) (i32.const 4096)))
    (i32.const 0))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $set_property (i32.const 1080) (i32.const 9) (i32.const 1096) (i32.const 4)))
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (if (i32.eqz (call $ask))
      (then (drop (call $replace (i32.const 2) (i32.const 1040) (i32.const 7) (i32.const 4096) (i32.load (i32.const 24))))))
    (i32.const 0))
  (func (export "proxy_on_log") (param i32)
    (if (i32.eqz (call $ask))
      (then (drop (call $log (i32.const 2) (i32.const 4096) (i32.load (i32.const 24)))))))"#;

fn directory() -> tempfile::TempDir {
    let directory = tempfile::TempDir::new().unwrap();
    put(directory.path(), "written", &written(ASKS));
    directory
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(value: i64) -> String {
    hex(&value.to_le_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_are_what_envoy_calls_them() {
    let backend = Backend::start().await;
    let metadata = "name: r, metadata: {envoy.filters.http.wasm: {auth: cookie, level: 2, on: true}},";
    let yaml = yaml(&backend, "written", "instances: 1").replace("name: r,", metadata);
    let gateway = Gateway::start_in(directory(), &yaml, &[]).await;
    let address = gateway.address("main");
    let origin = backend.address();
    let text = |text: &str| hex(text.as_bytes());
    let cases = [
        ("request.path", text("/echo?a=b")),
        ("request.url_path", text("/echo")),
        ("request.query", text("a=b")),
        ("request.method", text("POST")),
        ("request.scheme", text("http")),
        ("request.protocol", text("HTTP/1.1")),
        ("request.size", number(5)),
        ("request.headers.x-many", text("1,2")),
        ("response.code", number(200)),
        ("response.size", number(5)),
        ("response.flags", number(0)),
        ("response.code_details", text("via_upstream")),
        ("destination.address", text(&address.to_string())),
        ("destination.port", number(i64::from(address.port()))),
        ("upstream.address", text(&origin.to_string())),
        ("upstream.port", number(i64::from(origin.port()))),
        ("upstream.request_attempt_count", number(1)),
        ("upstream.num_endpoints", number(1)),
        ("connection.mtls", "00".to_owned()),
        ("xds.route_name", text("r")),
        ("xds.cluster_name", text("origin")),
        ("xds.listener_direction", number(1)),
        ("xds.virtual_host_name", text("main")),
        ("plugin_name", text("p")),
        ("plugin_root_id", String::new()),
        ("connection.requested_server_name", String::new()),
        ("user.tier", text("gold")),
    ];
    for (name, expected) in cases {
        let fields = [("x-ask", name), ("x-many", "1"), ("x-many", "2")];
        let answer = send(address, "POST", "/echo?a=b", &fields, "hello").await;
        assert_eq!(answer.header("x-value"), Some(&*expected), "{name}");
        // The same when the request is over.
        gateway.wait_for_line(|line| line["plugin"] == "p" && line["msg"] == *expected).await;
    }
    for name in [
        "source.address",
        "connection.id",
        "request.time",
        "request.total_size",
        "response.total_size",
        "node.id",
    ] {
        let answer = send(address, "POST", "/echo", &[("x-ask", name)], "hello").await;
        assert!(answer.header("x-value").is_some_and(|value| !value.is_empty()), "{name}");
    }
    for name in [
        "nothing",
        "request.nothing",
        "upstream.tls_version",
        "connection.tls_version",
        "response.trailers.x",
        "",
    ] {
        let answer = send(address, "GET", "/headers", &[("x-ask", name)], "").await;
        assert_eq!(answer.header("x-value"), None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_only_logs_finds_the_response() {
    let backend = Backend::start().await;
    for method in ["GET", "HEAD"] {
        let yaml = yaml(&backend, "written", "instances: 1, phases: [request_headers, log]");
        let gateway = Gateway::start_in(directory(), &yaml, &[]).await;
        send(gateway.address("main"), method, "/headers", &[("x-ask", "response.code")], "").await;
        gateway.wait_for_message(&number(200)).await;
    }
}

/// A name in metadata has dots of its own, so it is asked for by a plugin that has it in its own code.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_the_route_is_found_by_namespace_and_name() {
    let backend = Backend::start().await;
    let asks = r#"
        (data (i32.const 1024) "xds\00route_metadata\00filter_metadata\00envoy.filters.http.wasm\00auth")
        (data (i32.const 1120) "x-auth")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (i32.eqz (call $property (i32.const 1024) (i32.const 64) (i32.const 16) (i32.const 20)))
            (then (drop (call $add (i32.const 0) (i32.const 1120) (i32.const 6) (call $pointer) (call $length)))))
          (i32.const 0))"#;
    let directory = tempfile::TempDir::new().unwrap();
    put(directory.path(), "written", &written(asks));
    let yaml = yaml(&backend, "written", "instances: 1")
        .replace("name: r,", "name: r, metadata: {envoy.filters.http.wasm: {auth: cookie}},");
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
    assert!(answer.text().contains(r#"["x-auth","cookie"]"#), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_sets_is_a_placeholder_for_filters_behind_it() {
    let backend = Backend::start().await;
    let headers = "{wasm: p}, {headers: {request: {set: {x-tier: \"{property.user.tier}\", x-none: \"<{property.none}>\"}}}}";
    let yaml = yaml(&backend, "written", "instances: 1").replace("{wasm: p}", headers);
    let gateway = Gateway::start_in(directory(), &yaml, &[]).await;
    let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
    let seen = answer.text();
    assert!(seen.contains(r#"["x-tier","gold"]"#) && seen.contains(r#"["x-none","<>"]"#), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_shown_with_the_name_of_its_plugin() {
    let backend = Backend::start().await;
    let gateway = Gateway::start_in(directory(), &yaml(&backend, "written", "instances: 1"), &[]).await;
    let routes = get(gateway.admin(), "/routes").await.json();
    assert_eq!(routes[1]["filters"], serde_json::json!(["wasm:p"]), "{routes}");
    // Also where nothing of it is compiled.
    let explained = tidegate(gateway.directory())
        .args(["explain", "-c", "gateway.yaml", "GET", "http://a/headers"])
        .output()
        .unwrap();
    let told = String::from_utf8(explained.stdout).unwrap();
    assert!(told.contains("wasm:p"), "{told} {}", String::from_utf8_lossy(&explained.stderr));
}

#[test]
fn a_plugin_that_fails_open_beside_a_guard_is_warned_of() {
    let directory = directory();
    let check = |fail: &str, filters: &str| {
        let yaml = format!(
            "listeners: [{{address: '127.0.0.1:0'}}]\n\
             plugins:\n  p: {{file: written.wasm, fail: {fail}}}\n\
             routes: [{{name: r, filters: [{filters}], respond: {{}}}}]\n"
        );
        std::fs::write(directory.path().join("gateway.yaml"), yaml).unwrap();
        let output = tidegate(directory.path()).args(["check", "-c", "gateway.yaml"]).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let guard = "{ip_rules: {allow: [10.0.0.0/8]}}, {wasm: p}";
    let told = check("open", guard);
    let expected = "gateway.yaml:3:33: plugins.p.fail: while plugin `p` fails, requests pass without it, and route `r` has it \
                    beside `ip_rules` (with `fail: closed` such requests are answered with 503)";
    assert!(told.contains(expected), "{told}");
    assert!(!check("closed", guard).contains("fails"));
    assert!(!check("open", "{wasm: p}").contains("fails"));
}
