//! What filters may do with bodies, proven with the filters `hold` and `panic` of debug builds.

use crate::support::{
    client::{send, send_h2c},
    process::{Backend, Gateway},
    raw::RawConnection,
    yaml::Yaml,
};

async fn gateway(backend: &Backend, limits: &str, filters: &str) -> Gateway {
    Yaml::to(backend.address()).limits(limits).route(&format!("filters: [{filters}]")).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_sees_the_whole_of_a_body_that_it_holds_back_either_way() {
    let backend = Backend::start().await;
    for (filters, expected) in [
        ("hold: {}", "11:hello world"),
        ("hold: {gather: 1KiB}", "11:hello world"),
        ("hold: {response: true}", "11:hello world."),
        ("{hold: {}}, {hold: {response: true}}", "14:11:hello world."),
        // The first is outermost: nearest to the client either way.
        ("{hold: {response: true}}, {hold: {response: true}}", "15:11:hello world.."),
    ] {
        let filters = if filters.starts_with('{') { filters.to_owned() } else { format!("{{{filters}}}") };
        let gateway = gateway(&backend, "", &filters).await;
        let address = gateway.address("main");
        let mut chunked = RawConnection::open(address);
        chunked.write("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n6\r\nhello \r\n");
        chunked.write("5\r\nworld\r\n0\r\n\r\n");
        assert_eq!(chunked.read_response().text(), expected, "{filters}");
        for answer in [
            send(address, "POST", "/echo", &[], "hello world").await,
            send_h2c(address, "POST", "/echo", &[], "hello world").await,
        ] {
            assert_eq!(answer.assert_status(200).text(), expected, "{filters}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_holds_back_more_than_its_bound_ends_the_request_and_the_gateway_serves_on() {
    let backend = Backend::start().await;
    let body = "x".repeat(200 * 1024);
    for (filters, path, status, reason) in [
        ("{hold: {}}", "/hello", 413, "request_buffer_full"),
        ("{hold: {gather: 64KiB}}", "/hello", 413, "request_buffer_full"),
        ("{hold: {response: true}}", "/echo", 502, "response_buffer_full"),
    ] {
        let gateway = gateway(&backend, "filter_buffer: 64KiB", filters).await;
        let address = gateway.address("main");
        for answer in [
            send(address, "POST", path, &[], body.clone()).await,
            send_h2c(address, "POST", path, &[], body.clone()).await,
        ] {
            answer.assert_reason(status, reason);
        }
        send(address, "POST", "/echo", &[], "small").await.assert_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_sees_a_body_may_answer_as_long_as_nothing_else_has() {
    let backend = Backend::start().await;
    for filters in ["{hold: {forbid: secret}}", "{hold: {response: true, forbid: secret}}"] {
        let gateway = gateway(&backend, "", filters).await;
        let address = gateway.address("main");
        for answer in [
            send(address, "POST", "/echo", &[], "a secret").await,
            send_h2c(address, "POST", "/echo", &[], "a secret").await,
        ] {
            answer.assert_reason(403, "forbidden");
        }
        send(address, "POST", "/echo", &[], "nothing").await.assert_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_a_filter_will_gather_does_not_go_on() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "", "{hold: {gather: 80KiB}}").await;
    let answer = send(gateway.address("main"), "POST", "/echo", &[], "x".repeat(100 * 1024)).await;
    answer.assert_reason(413, "request_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_body_hook_ends_its_request_and_nothing_else() {
    let backend = Backend::start().await;
    let phases = ["request_body", "request_trailers", "response_body", "response_trailers"];
    for phase in phases {
        let gateway = gateway(&backend, "", &format!("{{panic: {{phase: {phase}}}}}")).await;
        let address = gateway.address("main");
        for _ in 0..2 {
            // It answers when it has the whole body.
            send(address, "POST", "/hello", &[], "hello").await.assert_reason(500, "panic");
            send_h2c(address, "POST", "/hello", &[], "hello").await.assert_reason(500, "panic");
        }
    }
    // It is over by then.
    let gateway = gateway(&backend, "", "{panic: {phase: end}}").await;
    for _ in 0..2 {
        send(gateway.address("main"), "POST", "/echo", &[], "hello").await.assert_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_pass_the_filters_in_reverse_and_the_first_is_outermost() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!(
        "admin: false\n\
         listeners: [{{name: main, address: '127.0.0.1:0', filters: [{{headers: {{response: {{add: {{x-order: listener}}}}}}}}]}}]\n\
         routes: [{{filters: [{{headers: {{response: {{add: {{x-order: first}}}}}}}}, \
         {{headers: {{response: {{add: {{x-order: second}}}}}}}}], upstream: origin}}]\n\
         upstreams: {{origin: {{endpoints: ['{}']}}}}\n",
        backend.address()
    ))
    .await;
    let answer = send(gateway.address("main"), "GET", "/", &[], "").await;
    let order: Vec<&str> =
        answer.headers.get_all("x-order").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(order, ["second", "first", "listener"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_listener_s_filter_has_changed_is_routed_as_it_is_then() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!(
        "admin: false\n\
         listeners: [{{name: main, address: '127.0.0.1:0', filters: [{{hold: {{path: '/a/../b'}}}}]}}]\n\
         routes: [{{match: {{path: /b}}, respond: {{body: changed}}}}, {{upstream: origin}}]\n\
         upstreams: {{origin: {{endpoints: ['{}']}}}}\n",
        backend.address()
    ))
    .await;
    assert_eq!(send(gateway.address("main"), "GET", "/other", &[], "").await.text(), "changed");
}
