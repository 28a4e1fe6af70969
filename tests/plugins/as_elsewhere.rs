//! What filters that were written for other hosts count on, as Envoy 1.40 answers it.

use super::{gateway, gateway_of, yaml};
use crate::support::{
    Backend, Gateway, RawConnection,
    plugins::{put, written},
    send, send_h2c,
};

/// SDKs panic of statuses that they do not expect, so what is harmless must not be an error.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_by_the_status_that_sdks_know() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "statuses", "instances: 1").await;
    let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
    let seen = answer.assert_status(200).text();
    // 0 is OK, 1 not found, 2 a bad argument.
    for (field, status) in [
        ("m-1", 0),
        ("len", 0),
        ("m-6", 2),
        ("b-4", 1),
        ("b-2", 0),
        ("b-9", 2),
        ("far", 0),
        ("con", 0),
        ("clo", 0),
        ("ans", 0),
        ("set", 1),
        // Of the log: info.
        ("lvl", 2),
    ] {
        assert!(seen.contains(&format!(r#"["x-{field}","{status}"]"#)), "{field}, {status}: {seen}");
    }
}

/// Filters read a whole head, take out what they do not want, and write the rest back.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_left_out_of_a_head_is_taken_back() {
    let backend = Backend::start().await;
    let rewrites = r#"
      (data (i32.const 1024) "\01\00\00\00\05\00\00\00\01\00\00\00x-own\001\00")
      (data (i32.const 1056) "longer than it was")
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (drop (call $set_pairs (i32.const 0) (i32.const 1024) (i32.const 20)))
        (i32.const 0))
      (func (export "proxy_on_request_body") (param $context i32) (param $size i32) (param $is_last i32) (result i32)
        (if (i32.eqz (local.get $is_last)) (then (return (i32.const 1))))
        (drop (call $set_buffer (i32.const 0) (i32.const 0) (local.get $size) (i32.const 1056) (i32.const 18)))
        (i32.const 0))"#;
    let gateway = gateway_of(&backend, rewrites, "").await;
    let answer = send(gateway.address("main"), "POST", "/echo", &[("x-two", "2")], "hello").await;
    assert_eq!(answer.assert_status(200).text(), "longer than it was");
    let answer = send(gateway.address("main"), "GET", "/headers", &[("x-two", "2")], "").await;
    let seen = answer.assert_status(200).text();
    assert!(seen.contains(r#"["x-own","1"]"#) && !seen.contains("x-two"), "{seen}");
}

/// The C++ SDK's "continue and end the stream", of which only the first half means something in a head.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_for_which_a_plugin_says_2_goes_on_and_with_3_it_waits() {
    let backend = Backend::start().await;
    for (action, status) in [(2, 200), (3, 503)] {
        let says = format!(
            r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const {action}))"#
        );
        let gateway = gateway_of(&backend, &says, "limits: {pause: 20ms}").await;
        send(gateway.address("main"), "POST", "/echo", &[], "hello").await.assert_status(status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_grpc_that_a_plugin_answers_has_the_body_as_its_message() {
    let backend = Backend::start().await;
    for (status, expected) in [(-1, "7"), (10, "10"), (99, "7")] {
        let answers = format!(
            r#"(data (i32.const 1024) "why")
               (data (i32.const 1040) "not today")
               (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
                 (drop (call $answer (i32.const 403) (i32.const 1024) (i32.const 3) (i32.const 1040) (i32.const 9)
                   (i32.const 0) (i32.const 0) (i32.const {status})))
                 (i32.const 1))"#
        );
        let gateway = gateway_of(&backend, &answers, "").await;
        let address = gateway.address("main");
        let call = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = send_h2c(address, "POST", "/a.B/C", &call, "").await;
        answer.assert_status(200);
        assert_eq!(answer.header("grpc-status"), Some(expected));
        assert_eq!(answer.header("grpc-message"), Some("not today"));
        // To anyone else it is what it says.
        let plain = send(address, "GET", "/", &[], "").await;
        assert_eq!(plain.assert_status(403).text(), "not today");
    }
}

/// Filters call an upstream with all fields that they read.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_request_a_plugin_is_not_told_what_is_of_its_connection() {
    let backend = Backend::start().await;
    let asks = r#"
      (data (i32.const 1024) "connection")
      (data (i32.const 1040) "keep-alive")
      (data (i32.const 1056) "upgrade")
      (func $ask (param i32 i32)
        (call $note (call $get (i32.const 0) (local.get 0) (local.get 1) (i32.const 16) (i32.const 20))))
      (func (export "proxy_on_request_headers") (param $context i32) (param $count i32) (param i32) (result i32)
        (call $note (local.get $count))
        (call $ask (i32.const 1024) (i32.const 10))
        (call $ask (i32.const 1040) (i32.const 10))
        (call $ask (i32.const 1056) (i32.const 7))
        (call $tell_notes (i32.const 0))
        (i32.const 0))"#;
    let gateway = gateway_of(&backend, asks, "").await;
    // Four are pseudo fields, and two tell of the client. 1 is: not found.
    for (fields, notes) in [
        ("connection: keep-alive\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\n", "6111"),
        ("connection: upgrade\r\nupgrade: other\r\n", "8010"),
    ] {
        let mut connection = RawConnection::open(gateway.address("main"));
        connection.write(format!("GET /headers HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
        let answer = connection.read_response();
        let seen = answer.text();
        assert_eq!(answer.status, 200, "{fields}: {seen}");
        assert!(seen.contains(&format!(r#"["x-notes","{notes}"]"#)), "{fields}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_that_were_not_there_are_not_found_when_all_is_over() {
    let backend = Backend::start().await;
    let asks = r#"
      (data (i32.const 1024) "x-none")
      (func $ask (param i32)
        (call $note (call $get (local.get 0) (i32.const 1024) (i32.const 6) (i32.const 16) (i32.const 20))))
      (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
        (call $ask (i32.const 1)) (call $ask (i32.const 3))
        (i32.const 0))
      (func (export "proxy_on_log") (param i32)
        (call $ask (i32.const 1)) (call $ask (i32.const 3))
        (call $say_notes))"#;
    let gateway = gateway_of(&backend, asks, "").await;
    send(gateway.address("main"), "GET", "/headers", &[], "").await.assert_status(200);
    // 2 is a bad argument: it is not the time. 1 is: not found.
    gateway.wait_for_message("2211").await;
}

/// Filters go by the client's address as proxies tell it, and write back what they have read.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_reads_who_the_client_is_as_the_upstream_will_be_told() {
    let backend = Backend::start().await;
    let reads = r#"
      (data (i32.const 1024) "x-forwarded-for")
      (data (i32.const 1040) "x-forwarded-proto")
      (data (i32.const 1060) "request\00headers\00x-forwarded-for")
      (data (i32.const 1100) "x-for")
      (data (i32.const 1110) "x-proto")
      (data (i32.const 1120) "x-named")
      (func $tells (param i32 i32)
        (drop (call $replace (i32.const 0) (local.get 0) (local.get 1) (call $pointer) (call $length))))
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (drop (call $get (i32.const 0) (i32.const 1024) (i32.const 15) (i32.const 16) (i32.const 20)))
        (call $tells (i32.const 1100) (i32.const 5))
        (drop (call $get (i32.const 0) (i32.const 1040) (i32.const 17) (i32.const 16) (i32.const 20)))
        (call $tells (i32.const 1110) (i32.const 7))
        (drop (call $property (i32.const 1060) (i32.const 31) (i32.const 16) (i32.const 20)))
        (call $tells (i32.const 1120) (i32.const 7))
        (drop (call $pairs (i32.const 0) (i32.const 16) (i32.const 20)))
        (drop (call $set_pairs (i32.const 0) (call $pointer) (call $length)))
        (i32.const 0))"#;
    let sent = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")];
    for (trusted, list, proto) in
        [("", "127.0.0.1", "http"), ("trusted_proxies: [127.0.0.0/8]\n", "192.0.2.1, 127.0.0.1", "https")]
    {
        let directory = tempfile::TempDir::new().unwrap();
        put(directory.path(), "written", &written(reads));
        let yaml = format!("{trusted}{}", yaml(&backend, "written", "instances: 1"));
        let gateway = Gateway::start_in(directory, &yaml, &[]).await;
        let answer = send(gateway.address("main"), "GET", "/headers", &sent, "").await;
        let seen = answer.assert_status(200).text();
        for (name, value) in [("for", list), ("named", list), ("forwarded-for", list), ("proto", proto)] {
            assert!(seen.contains(&format!(r#"["x-{name}","{value}"]"#)), "{trusted}{name}: {seen}");
        }
        assert_eq!(seen.matches("x-forwarded-for").count(), 1, "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pseudo_field_that_does_not_exist_is_taken_and_forgotten() {
    let backend = Backend::start().await;
    let writes = r#"
      (data (i32.const 1024) ":host")
      (data (i32.const 1032) ":scheme")
      (data (i32.const 1040) "other.test")
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (call $note (call $replace (i32.const 0) (i32.const 1024) (i32.const 5) (i32.const 1040) (i32.const 10)))
        (call $note (call $add (i32.const 0) (i32.const 1024) (i32.const 5) (i32.const 1040) (i32.const 10)))
        (call $note (call $get (i32.const 0) (i32.const 1024) (i32.const 5) (i32.const 16) (i32.const 20)))
        (call $note (call $remove (i32.const 0) (i32.const 1024) (i32.const 5)))
        (call $note (call $replace (i32.const 0) (i32.const 1032) (i32.const 7) (i32.const 1040) (i32.const 4)))
        (call $note (call $remove (i32.const 0) (i32.const 1032) (i32.const 7)))
        (call $tell_notes (i32.const 0))
        (i32.const 0))"#;
    let gateway = gateway_of(&backend, writes, "").await;
    let answer = send(gateway.address("main"), "GET", "/headers", &[], "").await;
    let seen = answer.assert_status(200).text();
    assert!(seen.contains(r#"["x-notes","001022"]"#) && !seen.contains("other.test"), "{seen}");
}
