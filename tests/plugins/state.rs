//! What plugins keep, count and do beside requests.

use super::{gateway, gateway_of};
use crate::support::{Backend, RawConnection, get, metric, send, send_h2c, wait_for_metric};

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
        // Requests without a body wait, too.
        let answer = send(address, "GET", "/other", &[("x-wait", "head")], "").await;
        assert_eq!(answer.assert_status(200).header("x-tick"), Some("came"));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_sees_the_environment_that_is_written_for_it_and_no_other() {
    let backend = Backend::start().await;
    let says = r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
      (drop (call $environ_sizes (i32.const 100) (i32.const 104)))
      (drop (call $environ (i32.const 200) (i32.const 300)))
      (drop (call $log (i32.const 2) (i32.load (i32.const 200)) (i32.sub (i32.load (i32.const 104)) (i32.const 1))))
      (i32.const 1))"#;
    let more = "instances: 1, env: {MODE: quiet}, root_id: main, vm_id: shared, vm_config: {a: 1}";
    let gateway = gateway_of(&backend, says, more).await;
    gateway.wait_for_message("MODE=quiet").await;
    // Its values are secrets.
    let shown = get(gateway.admin(), "/config").await;
    assert!(!shown.assert_status(200).text().contains("quiet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_cut_out_of_the_names_of_metrics() {
    let backend = Backend::start().await;
    let counts = r#"(data (i32.const 1024) "hits_value=blue.")
      (func (export "proxy_on_configure") (param i32 i32) (result i32)
        (drop (call $define (i32.const 0) (i32.const 1024) (i32.const 15) (i32.const 40)))
        (drop (call $increment (i32.load (i32.const 40)) (i64.const 2)))
        (i32.const 1))"#;
    let more = "instances: 2, metric_labels: {value: '_value=([a-z]+)'}";
    let gateway = gateway_of(&backend, counts, more).await;
    let hits = metric(&gateway, "tidegate_plugin_custom_hits", &["plugin=\"p\"", "value=\"blue\""]).await;
    assert_eq!(hits, 4.0);
    assert!(metric(&gateway, "tidegate_plugin_memory_bytes", &["p"]).await >= 2.0 * 2.0 * 65536.0);
    let shown = get(gateway.admin(), "/plugins").await.json();
    assert_eq!((&shown[0]["name"], &shown[0]["ready"]), (&"p".into(), &2.into()), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_be_held_until_the_body_has_been_seen() {
    let backend = Backend::start().await;
    let holds = r#"(data (i32.const 1024) "x-body")
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))
      (func (export "proxy_on_request_body") (param $context i32) (param $size i32) (param $is_last i32) (result i32)
        (if (i32.eqz (local.get $is_last)) (then (return (i32.const 1))))
        (drop (call $get_buffer (i32.const 0) (i32.const 0) (local.get $size) (i32.const 16) (i32.const 20)))
        (drop (call $replace (i32.const 0) (i32.const 1024) (i32.const 6) (call $pointer) (call $length)))
        (i32.const 0))"#;
    let gateway = gateway_of(&backend, holds, "pause_headers_only: true").await;
    let answer = send(gateway.address("main"), "POST", "/headers", &[], "hello").await;
    let seen = answer.assert_status(200).text();
    assert!(seen.contains(r#"["x-body","hello"]"#), "{seen}");
}
