//! What a plugin does wrong costs its own requests and nothing else.

use super::gateway;
use crate::support::{Backend, RawConnection, logged, metric, send, series, wait_for_metric};

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_costs_its_request_and_the_instance_is_replaced() {
    let backend = Backend::start().await;
    let more = "instances: 1, limits: {call: 30ms, memory: 1MiB}";
    let gateway = gateway(&backend, "does", more).await;
    let address = gateway.address("main");
    for (number, (does, why)) in
        [("trap", "trap"), ("loop", "time"), ("memory", "memory"), ("exit", "trap")].into_iter().enumerate()
    {
        let path = format!("/headers/{does}");
        let answer = send(address, "GET", &path, &[("x-do", does)], "").await;
        answer.assert_reason(503, "plugin_error");
        assert_eq!(answer.header("retry-after"), Some("1"));
        let line = logged(&gateway, &path).await;
        assert_eq!((&line["plugin"], &line["detail"]), (&"p".into(), &why.into()), "{line}");
        wait_for_metric(&gateway, "tidegate_plugin_restarts_total", &["p"], (number + 1) as f64).await;
        assert_eq!(metric(&gateway, "tidegate_plugin_instances", &["ready"]).await, 1.0);
        send(address, "GET", "/headers", &[], "").await.assert_status(200);
        send(address, "GET", "/plain", &[], "").await;
    }
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["trap"]).await, 2.0);
    let told = gateway.wait_for_message("a plugin failed, its instance is replaced").await;
    assert!(told["problem"].as_str().unwrap().contains("unreachable"), "{told}");
    assert!(told["last_lines"].as_str().unwrap().contains("the request goes wrong"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_open_is_passed_over() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "does", "instances: 1, fail: open, limits: {call: 30ms}").await;
    let address = gateway.address("main");
    for does in ["trap", "loop", "Trap"] {
        send(address, "GET", "/headers", &[("x-do", does)], "").await.assert_status(200).assert_no_reason();
    }
    assert!(metric(&gateway, "tidegate_plugin_skipped_total", &["p"]).await >= 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_in_the_response_is_told_while_the_head_is_here() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "does", "instances: 1").await;
    let answer = send(gateway.address("main"), "GET", "/headers", &[("x-do", "Trap")], "").await;
    answer.assert_reason(503, "plugin_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_two_answers_counts_and_its_details_are_logged() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "does", "").await;
    let address = gateway.address("main");
    let answer = send(address, "POST", "/answers", &[("x-do", "answer")], "a body").await;
    answer.assert_status(403).assert_no_reason();
    assert_eq!((answer.text(), answer.header("content-type")), ("no", Some("text/plain")));
    let line = logged(&gateway, "/answers").await;
    assert_eq!((&line["plugin"], &line["detail"]), (&"p".into(), &"a reason of its own".into()), "{line}");
    let answer = send(address, "GET", "/headers", &[("x-do", "Answer")], "").await;
    assert_eq!((answer.assert_status(418).text(), answer.header("x-backend")), ("no", None));
    assert_eq!(metric(&gateway, "tidegate_plugin_replies_total", &["p"]).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_paused_no_longer_than_it_may_be() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "does", "limits: {pause: 20ms}").await;
    let address = gateway.address("main");
    send(address, "GET", "/headers", &[("x-do", "pause")], "").await.assert_reason(503, "plugin_error");
    send(address, "GET", "/headers", &[("x-do", "q")], "").await.assert_status(200);
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["pause"]).await, 1.0);
    assert_eq!(series(&gateway, "tidegate_plugin_paused", &["p"]).await, Some(0.0));
    // The instance is none the worse for it.
    assert_eq!(metric(&gateway, "tidegate_plugin_restarts_total", &["p"]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_may_break_the_connection_off() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "does", "").await;
    let mut connection = RawConnection::open(gateway.address("main"));
    connection.write("GET /headers HTTP/1.1\r\nhost: a\r\nx-do: close\r\n\r\n");
    assert!(connection.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_pointer_no_field_and_no_map_is_refused_and_harms_nobody() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "does", "instances: 1").await;
    let address = gateway.address("main");
    // The digits of the two hostcalls' answers: 0 is OK, 1 not found, 2 a bad argument, 6 no such memory.
    for (does, one, two) in [
        ("wrong", "6", "6"),
        ("fields", "2", "2"),
        ("scheme", "2", "0"),
        ("unknown", "2", "0"),
        ("normal", "0", "2"),
    ] {
        let answer = send(address, "GET", "/headers", &[("x-do", does)], "").await;
        let seen = answer.text();
        let told = [format!(r#"["x-one","{one}"]"#), format!(r#"["x-two","{two}"]"#)];
        if does == "normal" {
            // The path is another now.
            assert!(answer.assert_status(200).text().starts_with("hello from"), "{seen}");
            continue;
        }
        assert!(told.iter().all(|line| seen.contains(line)), "{does}: {seen}");
        assert!(!seen.contains("transfer-encoding"), "{seen}");
    }
    let answer = send(address, "GET", "/headers", &[("x-do", "Late")], "").await;
    assert_eq!(answer.header("x-one"), Some("2"));
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["p"]).await, 0.0);
}
