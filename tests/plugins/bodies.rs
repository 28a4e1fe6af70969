//! Bodies: held back until they are whole, changed, and never sent with another length than was announced.

use super::{gateway, yaml};
use crate::support::{
    Backend, Gateway, RawConnection, metric,
    plugins::{put, written},
    send, send_h2c,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_sees_all_of_a_body_that_it_holds_back_and_may_change_it() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "bodies", "").await;
    let address = gateway.address("main");
    for answer in [
        send(address, "POST", "/echo", &[], "hello").await,
        send_h2c(address, "POST", "/echo", &[], "hello").await,
    ] {
        assert_eq!(answer.assert_status(200).text(), "seen:hello:");
    }
    let mut chunked = RawConnection::open(address);
    chunked.write("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n6\r\nhello \r\n");
    chunked.write("5\r\nworld\r\n0\r\n\r\n");
    assert_eq!(chunked.read_response().text(), "seen:hello world:");
    // There is no body to be seen.
    assert_eq!(send(address, "HEAD", "/echo", &[], "").await.assert_status(200).text(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_length_than_announced_never_leaves() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "bodies", "").await;
    let address = gateway.address("main");
    let mut connection = RawConnection::open(address);
    connection.write("POST /echo HTTP/1.1\r\nhost: a\r\nx-body: lie\r\ncontent-length: 5\r\n\r\nhello");
    connection.read_response().assert_reason(503, "plugin_error");
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["length"]).await, 1.0);
    // Whoever comes next is answered as itself.
    let next = send(address, "POST", "/echo", &[("x-body", "keep")], "next").await;
    assert_eq!(next.assert_status(200).text(), "next:");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_has_seen_a_body_may_answer_or_wait_no_longer_than_it_may() {
    let backend = Backend::start().await;
    let patient = gateway(&backend, "bodies", "limits: {buffer: 1KiB}").await;
    let gateway = gateway(&backend, "bodies", "limits: {buffer: 1KiB, pause: 20ms}").await;
    let address = gateway.address("main");
    let answer = send(address, "POST", "/echo", &[("x-body", "answer")], "hello").await;
    // Its own answer passes it, too.
    assert_eq!(answer.assert_status(403).text(), "forbidden:");
    // Nothing lets it go on.
    let answer = send(address, "POST", "/echo", &[("x-body", "pause")], "hello").await;
    answer.assert_reason(503, "plugin_error");
    let mut large = RawConnection::open(patient.address("main"));
    large.write("POST /echo HTTP/1.1\r\nhost: a\r\nx-body: keep\r\ntransfer-encoding: chunked\r\n\r\n");
    large.write(format!("400\r\n{}\r\n", "x".repeat(1024)));
    large.write(format!("400\r\n{}\r\n400\r\n{}\r\n0\r\n\r\n", "x".repeat(1024), "x".repeat(1024)));
    large.read_response().assert_reason(413, "request_too_large");
}

/// It hears its own answer, and that of a filter behind it, as a response. It may give another in the place of a filter's, and takes
/// nothing of its own back.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_answers_in_a_body_what_was_answered_without_an_upstream() {
    let backend = Backend::start().await;
    let answers = r#"
      (data (i32.const 1024) "first")
      (data (i32.const 1040) "second")
      (func (export "proxy_on_request_body") (param $context i32) (param $size i32) (param $is_last i32) (result i32)
        (if (local.get $is_last) (then
          (drop (call $answer (i32.const 403) (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 5)
            (i32.const 0) (i32.const 0) (i32.const -1)))))
        (i32.const 1))
      (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
        (drop (call $answer (i32.const 502) (i32.const 0) (i32.const 0) (i32.const 1040) (i32.const 6)
          (i32.const 0) (i32.const 0) (i32.const -1)))
        (i32.const 1))"#;
    let directory = tempfile::TempDir::new().unwrap();
    put(directory.path(), "written", &written(answers));
    let respond = "filters: [{wasm: p}, {respond: {body: its own}, when: {path: /responds}}]";
    let yaml = yaml(&backend, "written", "instances: 1").replace("filters: [{wasm: p}]", respond);
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let address = gateway.address("main");
    for (method, path, status, body) in [
        ("POST", "/echo", 403, "first"),
        ("GET", "/responds", 502, "second"),
        ("GET", "/headers", 502, "second"),
    ] {
        let answer = send(address, method, path, &[], if method == "POST" { "hello" } else { "" }).await;
        answer.assert_no_reason();
        assert_eq!(answer.assert_status(status).text(), body, "{path}");
    }
}
