//! Calls out: what a plugin asks of an upstream while a request waits for it.

use super::yaml;
use crate::support::{
    Backend, Gateway,
    grpc::GrpcServer,
    metric,
    origin::{Deed, Origin},
    plugins::{directory_with, put, written},
    send, series,
};

async fn gateway(backend: &Backend, auth: &str, more: &str) -> Gateway {
    let yaml = yaml(backend, "asks", more)
        .replace("upstreams: {origin", &format!("upstreams: {{auth: {{endpoints: ['{auth}']}}, origin"));
    Gateway::start_in(directory_with(&["asks"]), &yaml, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_the_answer_to_a_call_and_goes_on_with_it() {
    let (backend, auth) = (Backend::start().await, Backend::named("auth").await);
    let more = "instances: 1, upstreams: [auth], limits: {call_body: 64KiB}";
    let gateway = gateway(&backend, &auth.address().to_string(), more).await;
    for _ in 0..3 {
        let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
        let seen = answer.assert_status(200).text();
        assert!(seen.contains(r#"["x-auth","200"]"#), "{seen}");
    }
    // What the upstream was asked comes back in its answer.
    let heard = gateway.wait_for_line(|line| line["plugin"] == "p" && line["msg"] != "request").await;
    let heard = heard["msg"].as_str().unwrap();
    assert!(heard.contains(r#"["host","auth"]"#) && heard.contains(r#"["x-from","plugin"]"#), "{heard}");
    assert_eq!(metric(&gateway, "tidegate_plugin_http_calls_total", &["auth", "answered"]).await, 3.0);
    assert_eq!(series(&gateway, "tidegate_plugin_paused", &["p"]).await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_is_told_and_one_to_nobody_is_refused() {
    let backend = Backend::start().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let gone = gateway(&backend, &nobody, "instances: 1, upstreams: {auth: auth}").await;
    let answer = send(gone.address("main"), "GET", "/headers", &[], "").await;
    let seen = answer.assert_status(200).text();
    assert!(seen.contains(r#"["x-auth","503"]"#), "{seen}");
    assert_eq!(metric(&gone, "tidegate_plugin_http_calls_total", &["auth", "failed"]).await, 1.0);
    let not_named = gateway(&backend, &nobody, "instances: 1").await;
    let answer = send(not_named.address("main"), "GET", "/headers", &[], "").await;
    assert_eq!(answer.assert_status(500).text(), "no answer");
}

/// Else the pause would be over first, which is 503.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_takes_no_longer_than_it_may_whatever_the_plugin_asks_for() {
    let backend = Backend::start().await;
    // Nobody accepts: who connects waits for an answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let more = "instances: 1, upstreams: [auth], limits: {call_timeout: 50ms, pause: 1500ms}";
    let gateway = gateway(&backend, &silent.local_addr().unwrap().to_string(), more).await;
    let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
    let seen = answer.assert_status(200).text();
    assert!(seen.contains(r#"["x-auth","504"]"#), "{seen}");
}

/// Calls `/PATH/NUMBER`. What is heard becomes a note: `m` and `t` would be metadata, `<` is a message, and else it is the status.
fn calls_of_grpc(path: &str, number: &str) -> String {
    format!(
        r#"
        ;; The name within Envoy's description of a service.
        (data (i32.const 1024) "\0a\06\0a\04auth")
        (data (i32.const 1040) "{path}")
        (data (i32.const 1056) "{number}")
        (data (i32.const 1072) "a message")
        (global $waiting (mut i32) (i32.const 0))
        (func (export "proxy_on_request_headers") (param $context i32) (param i32 i32) (result i32)
          (global.set $waiting (local.get $context))
          (if (call $grpc_call (i32.const 1024) (i32.const 8) (i32.const 1040) (i32.const {})
            (i32.const 1056) (i32.const {}) (i32.const 0) (i32.const 0) (i32.const 1072) (i32.const 9)
            (i32.const 2000) (i32.const 40))
            (then (unreachable)))
          (i32.const 1))
        (func $heard (param $note i32)
          (call $note (local.get $note))
          (drop (call $effective (global.get $waiting)))
          (call $tell_notes (i32.const 0))
          (drop (call $continue (i32.const 0))))
        (func (export "proxy_on_grpc_receive_initial_metadata") (param i32 i32 i32) (call $note (i32.const 61)))
        (func (export "proxy_on_grpc_receive_trailing_metadata") (param i32 i32 i32) (call $note (i32.const 68)))
        (func (export "proxy_on_grpc_receive") (param $root i32) (param $call i32) (param $size i32)
          (drop (call $get_buffer (i32.const 5) (i32.const 0) (local.get $size) (i32.const 16) (i32.const 20)))
          (drop (call $log (i32.const 2) (call $pointer) (call $length)))
          (call $heard (i32.const 12)))
        (func (export "proxy_on_grpc_close") (param $root i32) (param $call i32) (param $status i32)
          (call $heard (local.get $status)))"#,
        path.len(),
        number.len()
    )
}

/// A filter may let a request pass as soon as there is a message. The upstream sends one, and then a status.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_grpc_is_told_its_message_or_its_status_and_never_both() {
    let (backend, auth) = (Backend::start().await, GrpcServer::start().await);
    for (path, number, notes) in
        [("late", "0", "<"), ("late", "7", "7"), ("only", "5", "5"), ("only", "0", "=")]
    {
        let directory = tempfile::TempDir::new().unwrap();
        put(directory.path(), "written", &written(&calls_of_grpc(path, number)));
        let yaml = yaml(&backend, "written", "instances: 1, upstreams: [auth]").replace(
            "upstreams: {origin",
            &format!("upstreams: {{auth: {{endpoints: ['{}'], protocol: grpc}}, origin", auth.address()),
        );
        let gateway = Gateway::start_in(directory, &yaml, &[]).await;
        let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
        let seen = answer.assert_status(200).text();
        assert!(seen.contains(&format!(r#"["x-notes","{notes}"]"#)), "{path} {number}: {seen}");
        if notes == "<" {
            gateway.wait_for_message("one").await;
        }
    }
    assert_eq!(auth.seen().len(), 4);
}

/// What answers it may not speak gRPC at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_grpc_fails_with_the_status_of_http_that_it_was_answered_with() {
    let backend = Backend::start().await;
    for (status, notes) in [(403, "7"), (429, "8"), (500, "2")] {
        let origin = Origin::start(1, &[Deed::Answer(status)]).await;
        let directory = tempfile::TempDir::new().unwrap();
        put(directory.path(), "written", &written(&calls_of_grpc("any", "thing")));
        let auth = format!("auth: {{endpoints: ['{}'], protocol: grpc}}", origin.addresses()[0]);
        let yaml = yaml(&backend, "written", "instances: 1, upstreams: [auth]")
            .replace("upstreams: {origin", &format!("upstreams: {{{auth}, origin"));
        let gateway = Gateway::start_in(directory, &yaml, &[]).await;
        let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
        let seen = answer.assert_status(200).text();
        assert!(seen.contains(&format!(r#"["x-notes","{notes}"]"#)), "{status}: {seen}");
    }
}

/// Where they have a place: HTTP/1 carries none, and the call is made all the same.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_call_go_out_over_http2() {
    let calls = r#"
        (data (i32.const 1024) "\03\00\00\00\07\00\00\00\04\00\00\00\05\00\00\00\02\00\00\00\0a\00\00\00\01\00\00\00:method\00POST\00:path\00/a\00:authority\00a\00")
        (data (i32.const 1280) "auth")
        (data (i32.const 1296) "\01\00\00\00\05\00\00\00\03\00\00\00x-end\00yes\00")
        (data (i32.const 1340) "x-auth")
        (data (i32.const 1360) ":status")
        (global $waiting (mut i32) (i32.const 0))
        (func (export "proxy_on_request_headers") (param $context i32) (param i32 i32) (result i32)
          (global.set $waiting (local.get $context))
          (if (call $http_call (i32.const 1280) (i32.const 4) (i32.const 1024) (i32.const 63)
            (i32.const 1280) (i32.const 4) (i32.const 1296) (i32.const 22) (i32.const 2000) (i32.const 40))
            (then (unreachable)))
          (i32.const 1))
        (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
          (drop (call $effective (global.get $waiting)))
          (drop (call $get (i32.const 6) (i32.const 1360) (i32.const 7) (i32.const 16) (i32.const 20)))
          (drop (call $replace (i32.const 0) (i32.const 1340) (i32.const 6) (call $pointer) (call $length)))
          (drop (call $continue (i32.const 0))))"#;
    let backend = Backend::start().await;
    for (protocol, expected) in [("http2", Some("yes")), ("http1", None)] {
        let origin = Origin::start(1, &[Deed::Answer(200)]).await;
        let directory = tempfile::TempDir::new().unwrap();
        put(directory.path(), "written", &written(calls));
        let yaml = yaml(&backend, "written", "instances: 1, upstreams: [auth]").replace(
            "upstreams: {origin",
            &format!(
                "upstreams: {{auth: {{endpoints: ['{}'], protocol: {protocol}}}, origin",
                origin.addresses()[0]
            ),
        );
        let gateway = Gateway::start_in(directory, &yaml, &[]).await;
        let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
        assert!(answer.text().contains(r#"["x-auth","200"]"#), "{protocol}: {}", answer.text());
        origin.wait_for_whole(1).await;
        let seen = &origin.seen()[0];
        assert_eq!(seen.body.as_deref(), Some(&b"auth"[..]));
        assert_eq!(seen.trailers.get("x-end").map(|value| value.to_str().unwrap()), expected, "{protocol}");
    }
}
