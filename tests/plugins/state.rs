//! What plugins keep, count and do beside requests.

use super::gateway;
use crate::support::{Backend, RawConnection, send, send_h2c, wait_for_metric};

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_data_and_queues_and_know_who_they_are() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "counts", "instances: 2").await;
    for number in 1..=3 {
        let answer = send(gateway.address("main"), "GET", "/headers?a=b", &[], "").await;
        let seen = answer.assert_status(200).text();
        for line in [
            format!(r#"["x-seq","{number}"]"#),
            r#"["x-who","p"]"#.to_owned(),
            r#"["x-way","/headers?a=b"]"#.to_owned(),
        ] {
            assert!(seen.contains(&line), "{line} is not in {seen}");
        }
        gateway.wait_for_message("from the queue").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_lets_a_paused_request_go_on_and_changes_it() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "tick", "instances: 1").await;
    for _ in 0..3 {
        let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
        let seen = answer.assert_status(200).text();
        assert!(seen.contains(r#"["x-tick","came"]"#), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_may_wait_with_a_body_and_with_a_response() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "waits", "instances: 1").await;
    let address = gateway.address("main");
    for _ in 0..2 {
        for (place, tick, body) in
            [("none", None, "hello"), ("head", Some("came"), "hello"), ("response", None, "hello")]
        {
            for answer in [
                send(address, "POST", "/echo", &[("x-wait", place)], "hello").await,
                send_h2c(address, "POST", "/echo", &[("x-wait", place)], "hello").await,
            ] {
                assert_eq!(
                    (answer.assert_status(200).text(), answer.header("x-tick")),
                    (body, tick),
                    "{place}"
                );
            }
        }
        let mut chunked = RawConnection::open(address);
        chunked.write("POST /echo HTTP/1.1\r\nhost: a\r\nx-wait: body\r\ntransfer-encoding: chunked\r\n\r\n");
        chunked.write("5\r\nhello\r\n0\r\n\r\n");
        assert_eq!(chunked.read_response().text(), "camehello");
        // The gateway's own answers wait, too.
        let answer = send(address, "GET", "/own", &[("x-wait", "head")], "").await;
        assert_eq!(answer.assert_status(404).header("x-tick"), Some("came"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_its_request_waits_leaves_nothing_behind() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "does", "instances: 1").await;
    let mut connection = RawConnection::open(gateway.address("main"));
    connection.write("GET /left HTTP/1.1\r\nhost: a\r\nx-do: pause\r\n\r\n");
    wait_for_metric(&gateway, "tidegate_plugin_paused", &["p"], 1.0).await;
    drop(connection);
    send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
}
