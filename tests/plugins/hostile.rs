//! Plugins that mean harm, or were written by somebody who did not look: each costs its own requests at most.

use std::time::Duration;

use super::{gateway_from, gateway_of, yaml};
use crate::support::{
    Backend, Gateway, logged, metric,
    plugins::{put, written, written_with_allocator},
    send, wait_for_metric, within_deadline,
};

/// Asks for a field of the request, and tells what came of it.
const ASKS: &str = r#"
  (data (i32.const 1024) "x-ask")
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (call $note (call $get (i32.const 0) (i32.const 1024) (i32.const 5) (i32.const 16) (i32.const 20)))
    (call $tell_notes (i32.const 0))
    (i32.const 0))"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_allocator_that_traps_costs_the_instance() {
    let backend = Backend::start().await;
    let module = written_with_allocator("(unreachable)", ASKS);
    let gateway = gateway_from(&backend, &module, "instances: 1").await;
    let address = gateway.address("main");
    send(address, "GET", "/asks", &[("x-ask", "1")], "").await.assert_reason(503, "plugin_error");
    assert_eq!(logged(&gateway, "/asks").await["detail"], "trap");
    let told = gateway.wait_for_message("a plugin failed, its instance is replaced").await;
    assert!(told["problem"].as_str().unwrap().contains("unreachable") && told["why"] == "trap", "{told}");
    wait_for_metric(&gateway, "tidegate_plugin_restarts_total", &["p"], 1.0).await;
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["trap"]).await, 1.0);
    send(address, "GET", "/plain", &[], "").await.assert_no_reason();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allocator_may_not_call_back_nor_lead_out_of_the_memory() {
    let backend = Backend::start().await;
    // 10 is an internal failure, as a letter.
    let calls_back = r#"(call $note (call $get (i32.const 0) (i32.const 1024) (i32.const 5) (i32.const 16) (i32.const 20)))
        (i32.const 4096)"#;
    for (body, expected) in [
        (calls_back, ":0"),
        ("(i32.const 0)", "6"),
        ("(i32.const 131070)", "6"),
        ("(i32.const -4)", "6"),
        ("(loop $l (br $l)) (i32.const 0)", "time"),
    ] {
        let module = written_with_allocator(body, ASKS);
        let gateway = gateway_from(&backend, &module, "instances: 1, limits: {call: 30ms}").await;
        let answer = send(gateway.address("main"), "GET", "/headers", &[("x-ask", "value")], "").await;
        if expected == "time" {
            answer.assert_reason(503, "plugin_error");
            assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["time"]).await, 1.0);
            continue;
        }
        let seen = answer.assert_status(200).text();
        assert!(seen.contains(&format!(r#"["x-notes","{expected}"]"#)), "{body}: {seen}");
        assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["p"]).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_that_lie_about_their_sizes_change_nothing() {
    let backend = Backend::start().await;
    let gateway = gateway_of(
        &backend,
        r#"
        ;; A count and sizes that are too large, a zero that is missing, a name that is none, a line end in a value.
        (data (i32.const 1024) "\ff\ff\ff\ff")
        (data (i32.const 1040) "\02\00\00\00\01\00\00\00\01\00\00\00a\00b\00")
        (data (i32.const 1060) "\01\00\00\00\ff\ff\ff\7f\01\00\00\00a\00b\00")
        (data (i32.const 1080) "\01\00\00\00\01\00\00\00\01\00\00\00a b\00")
        (data (i32.const 1100) "\01\00\00\00\03\00\00\00\01\00\00\00a b\00c\00")
        (data (i32.const 1120) "\01\00\00\00\01\00\00\00\03\00\00\00a\00b\0d\0a\00")
        (data (i32.const 1140) "/a\0d\0ax: y")
        (data (i32.const 1160) ":path")
        (func $set (param i32 i32) (call $note (call $set_pairs (i32.const 0) (local.get 0) (local.get 1))))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $set (i32.const 1024) (i32.const 4))
          (call $set (i32.const 1024) (i32.const 3))
          (call $set (i32.const 1040) (i32.const 16))
          (call $set (i32.const 1060) (i32.const 16))
          (call $set (i32.const 1080) (i32.const 16))
          (call $set (i32.const 1100) (i32.const 18))
          (call $set (i32.const 1120) (i32.const 18))
          (call $set (i32.const 0) (i32.const 2000000))
          (call $note (call $replace (i32.const 0) (i32.const 1160) (i32.const 5) (i32.const 1140) (i32.const 8)))
          (call $tell_notes (i32.const 0))
          (i32.const 0))"#,
        "instances: 1",
    )
    .await;
    let answer = send(gateway.address("main"), "GET", "/headers", &[("x-mine", "kept")], "").await;
    let seen = answer.assert_status(200).text();
    assert!(seen.contains(r#"["x-notes","222222262"]"#) && seen.contains(r#"["x-mine","kept"]"#), "{seen}");
}

/// Whoever answers does not want the request to go on, and what stands in an answer may be what the client has sent.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_which_something_cannot_be_sent_ends_the_request_all_the_same() {
    let backend = Backend::start().await;
    // Pairs that lie, a name that is none, a line end in a value, a status that is none, and a body outside the memory.
    for (arguments, status, note, field) in [
        ("403 1100 3 1060 16", 500, 2, None),
        ("403 1100 3 1000 18", 403, 0, None),
        ("403 1100 3 1020 34", 403, 0, Some("1")),
        ("99 1100 3 0 0", 500, 2, None),
        ("403 -8 99 0 0", 500, 6, None),
    ] {
        let numbers: Vec<&str> = arguments.split(' ').collect();
        let [code, body, length, fields, size] = numbers[..] else { panic!("{arguments}") };
        let answers = format!(
            r#"
            (data (i32.const 1000) "\01\00\00\00\03\00\00\00\01\00\00\00a b\00c\00")
            (data (i32.const 1020) "\02\00\00\00\01\00\00\00\03\00\00\00\05\00\00\00\01\00\00\00a\00b\0d\0a\00x-own\001\00")
            (data (i32.const 1060) "\01\00\00\00\ff\ff\ff\7f\01\00\00\00a\00b\00")
            (data (i32.const 1100) "no!")
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
              (call $note (call $answer (i32.const {code}) (i32.const 0) (i32.const 0) (i32.const {body})
                (i32.const {length}) (i32.const {fields}) (i32.const {size}) (i32.const -1)))
              (call $say_notes)
              (i32.const 0))"#
        );
        let gateway = gateway_of(&backend, &answers, "instances: 1").await;
        let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
        answer.assert_no_reason();
        assert_eq!(
            answer.assert_status(status).text(),
            if status == 403 { "no!" } else { "" },
            "{arguments}"
        );
        assert_eq!(answer.header("x-own"), field, "{arguments}");
        gateway.wait_for_message(&note.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_thousand_metrics_so_many_are_defined_as_may_be() {
    let backend = Backend::start().await;
    let gateway = gateway_of(
        &backend,
        r#"(data (i32.const 1024) "m_aaaaa")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (local $left i32) (local $refused i32) (local $at i32)
          (local.set $left (i32.const 100000))
          (loop $more
            ;; The next name: like a number, whose last digit counts first.
            (local.set $at (i32.const 1026))
            (block $counted
              (loop $carry
                (i32.store8 (local.get $at) (i32.add (i32.load8_u (local.get $at)) (i32.const 1)))
                (br_if $counted (i32.le_u (i32.load8_u (local.get $at)) (i32.const 122)))
                (i32.store8 (local.get $at) (i32.const 97))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $carry)))
            (if (call $define (i32.const 0) (i32.const 1024) (i32.const 7) (i32.const 40))
              (then (local.set $refused (i32.const 1))))
            (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
          (call $note (local.get $refused))
          (call $note (call $increment (i32.const 999999) (i64.const 1)))
          (call $note (call $increment (i32.const 1) (i64.const -1)))
          (call $say_notes)
          (i32.const 1))"#,
        "instances: 1, limits: {metrics: 50}",
    )
    .await;
    gateway.wait_for_message("112").await;
    let shown = crate::support::get(gateway.admin(), "/metrics").await;
    let defined = shown.text().lines().filter(|line| line.starts_with("tidegate_plugin_custom_m_")).count();
    assert_eq!(defined, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_of_nothing_is_none_and_a_short_one_is_no_shorter_than_it_may_be() {
    let backend = Backend::start().await;
    let off = r#"
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $set_tick (i32.const 1)))
          (drop (call $set_tick (i32.const 0)))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    let gateway = gateway_of(&backend, off, "instances: 1").await;
    for _ in 0..20 {
        send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
    }
    assert_eq!(metric(&gateway, "tidegate_plugin_calls_total", &["callback=\"tick\""]).await, 0.0);
    // Says so if one comes sooner than after 9 ms, and when there were twenty.
    let short = r#"
        (data (i32.const 1024) "too soon")
        (data (i32.const 1040) "twenty")
        (global $last (mut i64) (i64.const 0))
        (global $count (mut i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $set_tick (i32.const 1)))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
          (drop (call $now (i32.const 48)))
          (if (i64.lt_u (i64.sub (i64.load (i32.const 48)) (global.get $last)) (i64.const 9000000))
            (then (drop (call $log (i32.const 2) (i32.const 1024) (i32.const 8)))))
          (global.set $last (i64.load (i32.const 48)))
          (global.set $count (i32.add (global.get $count) (i32.const 1)))
          (if (i32.eq (global.get $count) (i32.const 20))
            (then (drop (call $log (i32.const 2) (i32.const 1040) (i32.const 6))))))"#;
    let gateway = gateway_of(&backend, short, "instances: 1").await;
    gateway.wait_for_message("twenty").await;
    let soon = gateway.lines().iter().filter(|line| line["msg"] == "too soon").count();
    assert!(soon <= 10, "{soon} of 20");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_end_takes_what_it_may_and_one_that_feeds_itself_leaves_time_for_requests() {
    let backend = Backend::start().await;
    let endless = r#"
        (data (i32.const 1024) "queue")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (local $said i32)
          (drop (call $register (i32.const 1024) (i32.const 5) (i32.const 40)))
          (loop $more
            (local.set $said (call $enqueue (i32.load (i32.const 40)) (i32.const 0) (i32.const 1000)))
            (br_if $more (i32.eqz (local.get $said))))
          (call $note (local.get $said))
          (call $say_notes)
          (i32.const 1))"#;
    let gateway = gateway_of(&backend, endless, "instances: 1, limits: {shared: 64KiB}").await;
    gateway.wait_for_message(":").await;
    let feeds_itself = r#"
        (data (i32.const 1024) "queue")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $register (i32.const 1024) (i32.const 5) (i32.const 40)))
          (drop (call $enqueue (i32.load (i32.const 40)) (i32.const 1024) (i32.const 5)))
          (i32.const 1))
        (func (export "proxy_on_queue_ready") (param $root i32) (param $queue i32)
          (drop (call $dequeue (local.get $queue) (i32.const 16) (i32.const 20)))
          (drop (call $enqueue (local.get $queue) (i32.const 1024) (i32.const 5))))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    let gateway = gateway_of(&backend, feeds_itself, "instances: 1").await;
    for _ in 0..50 {
        send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
    }
    let is_ready = async {
        while metric(&gateway, "tidegate_plugin_calls_total", &["callback=\"queue_ready\""]).await == 0.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_deadline("its queue is ready", is_ready).await;
}

/// Each request makes the next, as many as there may be under way. Then all come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_calls_itself_comes_to_an_end() {
    let backend = Backend::start().await;
    let calls = r#"
        (data (i32.const 1024) "\03\00\00\00\07\00\00\00\03\00\00\00\05\00\00\00\08\00\00\00\0a\00\00\00\04\00\00\00:method\00GET\00:path\00/headers\00:authority\00self\00")
        (data (i32.const 1280) "self")
        (data (i32.const 1296) "too many")
        (func (export "proxy_on_request_headers") (param $context i32) (param i32 i32) (result i32)
          (if (call $http_call (i32.const 1280) (i32.const 4) (i32.const 1024) (i32.const 71)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 40))
            (then
              (drop (call $answer (i32.const 508) (i32.const 1296) (i32.const 8) (i32.const 1296) (i32.const 8)
                (i32.const 0) (i32.const 0) (i32.const -1)))
              (return (i32.const 1))))
          (i32.store (i32.add (i32.const 4096) (i32.mul (i32.load (i32.const 40)) (i32.const 4))) (local.get $context))
          (i32.const 1))
        (func (export "proxy_on_http_call_response") (param i32) (param $call i32) (param i32 i32 i32)
          (drop (call $effective (i32.load (i32.add (i32.const 4096) (i32.mul (local.get $call) (i32.const 4))))))
          (drop (call $continue (i32.const 0))))"#;
    let directory = tempfile::TempDir::new().unwrap();
    put(directory.path(), "written", &written(calls));
    let more = "instances: 1, upstreams: {self: self}, limits: {calls: 5}";
    let with_self = |address: &str| {
        yaml(&backend, "written", more).replace(
            "upstreams: {origin",
            &format!("upstreams: {{self: {{endpoints: ['{address}']}}, origin"),
        )
    };
    let gateway = Gateway::start_in(directory, &with_self("127.0.0.1:1"), &[]).await;
    gateway.reload(&with_self(&gateway.address("main").to_string())).await;
    let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
    answer.assert_status(200).assert_no_reason();
    assert_eq!(metric(&gateway, "tidegate_plugin_replies_total", &["p"]).await, 1.0);
    assert_eq!(metric(&gateway, "tidegate_plugin_http_calls_total", &["self", "answered"]).await, 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_resumes_what_is_gone_is_told_so() {
    let backend = Backend::start().await;
    // A tick, once the request of that context is over, and says what it is answered.
    let resumes = r#"
        (global $gone (mut i32) (i32.const 0))
        (global $over (mut i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $set_tick (i32.const 10)))
          (i32.const 1))
        (func (export "proxy_on_request_headers") (param $context i32) (param i32 i32) (result i32)
          (global.set $gone (local.get $context))
          (i32.const 0))
        (func (export "proxy_on_delete") (param i32) (global.set $over (i32.const 1)))
        (func (export "proxy_on_tick") (param i32)
          (if (global.get $over)
            (then
              (call $note (call $effective (global.get $gone)))
              (call $note (call $continue (i32.const 0)))
              (call $note (call $close (i32.const 0)))
              (call $note (call $answer (i32.const 200) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 0) (i32.const -1)))
              (call $say_notes)
              (global.set $over (i32.const 0)))))"#;
    let gateway = gateway_of(&backend, resumes, "instances: 1").await;
    send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
    // Of the root that is left there is nothing to be resumed, which is no error.
    gateway.wait_for_message("2000").await;
    send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
    assert_eq!(metric(&gateway, "tidegate_plugin_failures_total", &["p"]).await, 0.0);
}
