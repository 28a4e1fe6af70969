//! gRPC-Web as a page of another origin speaks it in a browser, to a real server: Chromium on one side, grpcio on the other.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Gateway,
    browser::Page,
    certificates::{authority, keep, server},
    python::PythonServer,
};

/// An expression: a function of the gateway's origin and a content type.
const CLIENT: &str = include_str!("../support/grpc_web.js");

/// What serves the page, and nothing else.
async fn pages() -> Gateway {
    Gateway::start(
        "admin: false\nlisteners: [{name: main, address: '127.0.0.1:0'}]\n\
         routes: [{respond: {body: '<!doctype html><title>calls</title>', headers: {content-type: text/html}}}]\n",
    )
    .await
}

/// With listeners for both versions of HTTP: browsers speak HTTP/2 over TLS alone.
async fn gateway(server_of_calls: &PythonServer, origin: &str) -> Gateway {
    let directory = TempDir::new().unwrap();
    keep(directory.path(), "server", &authority("test").issue(&server(&["gateway.example"])));
    let cors = format!(
        "cors: {{origins: ['{origin}'], methods: [POST], headers: [content-type, x-grpc-web, x-request], \
         expose: [x-initial, x-tidegate-reason]}}"
    );
    let yaml = format!(
        "admin: false
listeners:
- {{name: plain, address: '127.0.0.1:0'}}
- {{name: tls, address: '127.0.0.1:0', tls: {{certificates: [{{cert: server.crt, key: server.key}}]}}}}
routes:
- match: {{path: /guarded.Service}}
  filters: [{{{cors}}}, {{grpc_web: {{}}}}, {{ip_rules: {{deny: [127.0.0.1]}}}}]
  upstream: calls
- filters: [{{{cors}}}, {{grpc_web: {{}}}}]
  upstream: calls
upstreams: {{calls: {{endpoints: ['{}'], protocol: grpc}}}}
",
        server_of_calls.address()
    );
    Gateway::start_in(directory, &yaml, &[]).await
}

/// Of one call, as the page sees it.
fn seen(content_type: &str, messages: &[&str], status: &str, message: &str) -> Value {
    json!({
        "http": 200, "type": content_type, "initial": null, "reason": null, "messages": messages,
        "status": status, "message": message, "trailing": null,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_reads_messages_statuses_and_trailers() {
    let server = PythonServer::start("grpc_interop.py", &["serve"]).await;
    let pages = pages().await;
    let origin = format!("http://{}", pages.address("main"));
    let gateway = gateway(&server, &origin).await;
    let page = Page::visit(&origin).await;
    let numbers: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    for (listener, scheme, protocol) in [("plain", "http", "HTTP/1.1"), ("tls", "https", "HTTP/2")] {
        let address = gateway.address(listener);
        for sent in ["application/grpc-web+proto", "application/grpc-web-text"] {
            let outcomes = page.run(&format!("({CLIENT})('{scheme}://{address}', '{sent}')")).await;
            // The server's answers say nothing of a format.
            let kind = sent.trim_end_matches("+proto");
            let mut unary = seen(kind, &["message"], "0", "");
            unary["initial"] = "hello".into();
            unary["trailing"] = "after".into();
            let mut refused = seen(kind, &[], "7", "this request is not allowed here");
            refused["reason"] = "forbidden".into();
            for (case, expected) in [
                ("unary", unary),
                ("stream", seen(kind, &numbers, "0", "")),
                ("held", seen(kind, &["first", "released"], "0", "")),
                ("failing", seen(kind, &[], "5", "why: € 100%\n")),
                ("failing_stream", seen(kind, &["0", "1", "2"], "15", "the rest is lost")),
                ("refused", refused),
            ] {
                assert_eq!(outcomes[case], expected, "{case} over {protocol} as {sent}");
            }
            // grpcio words it.
            assert_eq!(outcomes["unimplemented"]["status"], "12", "{outcomes}");
        }
        for method in ["OPTIONS", "POST"] {
            let called = |line: &Value| {
                line["listener"] == listener
                    && line["method"] == method
                    && line["path"] == "/interop.Test/Unary"
            };
            assert_eq!(gateway.wait_for_line(called).await["protocol"], protocol);
        }
    }
    page.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_origin_that_is_not_allowed_calls_nothing() {
    let server = PythonServer::start("grpc_interop.py", &["serve"]).await;
    let pages = pages().await;
    let address = pages.address("main");
    let gateway = gateway(&server, &format!("http://{address}")).await;
    // The same page by another name is of another origin.
    let page = Page::visit(&format!("http://localhost:{}", address.port())).await;
    let script = format!(
        "({CLIENT})('http://{}', 'application/grpc-web+proto').then(() => 'called', (error) => error.name)",
        gateway.address("plain")
    );
    assert_eq!(page.run(&script).await, "TypeError");
    gateway.wait_for_line(|line| line["method"] == "OPTIONS").await;
    let called = |line: &Value| line["method"] == "POST";
    assert!(!gateway.lines().iter().any(called), "{:?}", gateway.lines());
    page.abandon().await;
}
