//! Bodies: held back until they are whole, changed, and never sent with another length than was announced.

use super::gateway;
use crate::support::{Backend, RawConnection, metric, send, send_h2c};

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
    let gateway = gateway(&backend, "bodies", "limits: {buffer: 1KiB, pause: 20ms}").await;
    let address = gateway.address("main");
    let answer = send(address, "POST", "/echo", &[("x-body", "answer")], "hello").await;
    // Its own answer passes it, too.
    assert_eq!(answer.assert_status(403).text(), "forbidden:");
    // Nothing lets it go on.
    let answer = send(address, "POST", "/echo", &[("x-body", "pause")], "hello").await;
    answer.assert_reason(503, "plugin_error");
    let mut large = RawConnection::open(address);
    large.write("POST /echo HTTP/1.1\r\nhost: a\r\nx-body: keep\r\ntransfer-encoding: chunked\r\n\r\n");
    large.write(format!("400\r\n{}\r\n", "x".repeat(1024)));
    large.write(format!("400\r\n{}\r\n400\r\n{}\r\n0\r\n\r\n", "x".repeat(1024), "x".repeat(1024)));
    large.read_response().assert_reason(413, "request_too_large");
}
