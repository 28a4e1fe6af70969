//! `ext_auth` beyond one question of HTTP for each request: Envoy's protocol of gRPC, against the real grpcio and protobuf; bodies that
//! go along; decisions that are remembered.

use std::net::SocketAddr;

use http::HeaderMap;
use serde_json::Value;

use crate::{
    filters::Echo,
    support::{
        Backend, RawConnection, Yaml,
        collector::Collector,
        grpc::{GrpcServer, call, message},
        http2::{Http2Client, head},
        metric,
        python::PythonServer,
        send, send_h2c,
    },
};

const SCRIPT: &str = "ext_authz.py";

fn guarded(upstream: impl std::fmt::Display, ext_auth: &str) -> Yaml {
    Yaml::to(upstream).route(&format!("filters: [{{ext_auth: {{{ext_auth}}}}}]"))
}

/// What the service was asked about the path that ends so.
async fn asked(service: &PythonServer, path: &str) -> Value {
    service
        .process
        .find("a question", |line| {
            let asked: Value = serde_json::from_str(line).ok()?;
            let of = asked["attributes"]["request"]["http"]["path"].as_str()?;
            of.ends_with(path).then_some(asked)
        })
        .await
}

fn all<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_envoys_protocol_is_told_of_the_request_and_edits_it() {
    let (service, echo) = (PythonServer::start(SCRIPT, &[]).await, Echo::start().await);
    let ext_auth = format!("grpc: 'http://{}', context_extensions: {{tenant: shop}}", service.address());
    let gateway = guarded(echo.address, &ext_auth).start().await;
    let headers = [
        ("authorization", "Bearer t"),
        ("cookie", "a=1"),
        ("x-user", "root"),
        ("x_user", "root"),
        ("x-list", "mine"),
        ("x-absent", "mine"),
        ("x-over", "mine"),
        ("x-gone", "mine"),
        // Nor does it help to have what the service says dropped on its way.
        ("connection", "x-user, x-list"),
    ];
    let answer = send(gateway.address("main"), "POST", "/a%20b/ok?q=1", &headers, "four").await;
    answer.assert_status(200);
    assert_eq!(all(&answer.headers, "set-cookie"), ["s=1", "t=2"]);
    assert_eq!(answer.header("x-served"), Some("theirs"));

    let seen = echo.take();
    let [(path, upstream)] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(path, "/a%20b/ok?q=1");
    for (name, expected) in [
        ("x-user", &["alice"][..]),
        ("x_user", &[]),
        ("x-list", &["theirs"]),
        ("x-absent", &["mine"]),
        ("x-over", &["theirs"]),
        ("x-present", &[]),
        ("x-gone", &[]),
        ("authorization", &[]),
        ("content-length", &["4"]),
        ("cookie", &["a=1"]),
    ] {
        assert_eq!(all(upstream, name), expected, "{name}");
    }
    send(gateway.address("main"), "POST", "/length", &[], "four").await.assert_status(200);
    assert_eq!(
        all(&echo.take()[0].1, "content-length"),
        ["4"],
        "how long a body is, is not the service's to say"
    );

    let told = asked(&service, "ok?q=1").await;
    let attributes = &told["attributes"];
    assert_eq!(attributes["context_extensions"]["tenant"], "shop");
    assert_eq!(attributes["source"]["address"]["socket_address"]["address"], "127.0.0.1");
    let port = &attributes["destination"]["address"]["socket_address"]["port_value"];
    assert_eq!(port.as_u64(), Some(gateway.address("main").port().into()));
    assert!(
        attributes["request"]["time"]["seconds"].as_str().unwrap().parse::<u64>().unwrap() > 1_700_000_000
    );
    let http = &attributes["request"]["http"];
    for (key, expected) in [
        ("method", "POST"),
        ("path", "/a%20b/ok?q=1"),
        ("scheme", "http"),
        ("protocol", "HTTP/1.1"),
        ("size", "4"),
    ] {
        assert_eq!(http[key], expected, "{key}");
    }
    assert_eq!(http["host"], gateway.address("main").to_string());
    for (name, expected) in [
        ("authorization", "Bearer t"),
        ("cookie", "a=1"),
        ("x-list", "mine"),
        (":path", "/a%20b/ok?q=1"),
        (":method", "POST"),
    ] {
        assert_eq!(http["headers"][name], expected, "{name}");
    }
    assert!(http.get("body").is_none(), "it was not asked for: {http}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_refuses_is_refused_with_its_words() {
    let (service, backend) = (PythonServer::start(SCRIPT, &[]).await, Backend::start().await);
    let gateway = guarded(backend.address(), &format!("grpc: 'http://{}'", service.address())).start().await;
    for (path, status, reason, headers, body) in [
        (
            "/denied",
            401,
            "unauthenticated",
            &[("www-authenticate", "Custom"), ("x-more", "a")][..],
            "not you",
        ),
        (
            "/login",
            302,
            "unauthenticated",
            &[("location", "https://login.test/"), ("set-cookie", "state=1")],
            "",
        ),
        ("/bare", 403, "forbidden", &[], ""),
        ("/odd", 403, "forbidden", &[], ""),
    ] {
        for answer in [
            send(gateway.address("main"), "GET", path, &[], "").await,
            send_h2c(gateway.address("main"), "GET", path, &[], "").await,
        ] {
            answer.assert_reason(status, reason);
            for (name, value) in headers {
                assert_eq!(answer.header(name), Some(*value), "{path}");
            }
            assert_eq!(answer.text(), body, "{path}");
        }
    }
    assert_eq!(metric(&gateway, "tidegate_ext_auth_total", &["result=\"denied\""]).await, 8.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_clear_permission_is_none() {
    let (service, backend) = (PythonServer::start(SCRIPT, &[]).await, Backend::start().await);
    let no_grpc = Backend::start().await;
    for (address, path, is_away, why) in [
        (service.address(), "/fails", true, "it answered with gRPC status 14"),
        (service.address(), "/error", true, "it says that it has failed"),
        (service.address(), "/both", false, "its answer allows and denies at once"),
        (service.address(), "/query", false, "it wants the query edited"),
        (
            service.address(),
            "/unwritable",
            false,
            "the value of `x-user` in its answer cannot stand in a header",
        ),
        (no_grpc.address(), "/ok", false, ""),
        (SocketAddr::from(([127, 0, 0, 1], 1)), "/ok", true, "cannot connect"),
    ] {
        // What a client sends may bring an answer about, so that it opens no door.
        for (fail, status) in [("closed", 503), ("open", if is_away { 200 } else { 503 })] {
            let gateway =
                guarded(backend.address(), &format!("grpc: 'http://{address}', fail: {fail}")).start().await;
            send(gateway.address("main"), "GET", path, &[], "").await.assert_status(status);
            let told = gateway.wait_for_message("ext_auth cannot ask its service").await;
            assert!(told["problem"].as_str().unwrap().starts_with(why), "{told}");
            assert!(!gateway.output().contains("planted-secret"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_fails_by_its_status_is_an_error_in_the_trace() {
    let (service, backend) = (PythonServer::start(SCRIPT, &[]).await, Backend::start().await);
    let collector = Collector::start().await;
    let tracing = format!("tracing: {{otlp: {{endpoint: '{}', every: 10ms}}}}", collector.url());
    let ext_auth = format!("grpc: 'http://{}'", service.address());
    let gateway = guarded(backend.address(), &ext_auth).top(&tracing).start().await;
    send(gateway.address("main"), "GET", "/fails", &[], "").await.assert_status(503);
    let spans = collector.spans(2).await;
    let (requests, questions): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.is_server());
    let (request, question) = (requests[0], questions[0]);
    assert_eq!((question.trace(), question.parent()), (request.trace(), request.id()));
    assert_eq!(
        (question.get("http.response.status_code"), question.get("error.type"), question.is_error()),
        ("200", "unavailable", true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_fields_pass_between_the_service_and_the_others() {
    let (service, echo) = (PythonServer::start(SCRIPT, &[]).await, Echo::start().await);
    let ext_auth = format!(
        "grpc: 'http://{}', request_headers: [cookie], response_headers: [x-user, x-list, x-none], client_headers: [x-more], \
         client_headers_allowed: [x-served]",
        service.address()
    );
    let gateway = guarded(echo.address, &ext_auth).start().await;
    let headers = [
        ("authorization", "Bearer t"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-list", "mine"),
        ("x_none", "mine"),
    ];
    let answer = send(gateway.address("main"), "GET", "/ok", &headers, "").await;
    assert_eq!((answer.header("x-served"), answer.header("set-cookie")), (Some("theirs"), None));
    let seen = echo.take();
    for (name, expected) in [
        ("x-user", &["alice"][..]),
        ("x-list", &["theirs"]),
        ("x_none", &[]),
        ("x-over", &[]),
        ("authorization", &[]),
    ] {
        assert_eq!(all(&seen[0].1, name), expected, "{name}");
    }
    let told = asked(&service, "/ok").await;
    assert_eq!(told["attributes"]["request"]["http"]["headers"], serde_json::json!({"cookie": "a=1; b=2"}));
    let answer = send(gateway.address("main"), "GET", "/denied", &headers, "").await;
    assert_eq!((answer.header("x-more"), answer.header("www-authenticate")), (Some("a"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_along_up_to_its_bound_and_reaches_the_upstream_whole() {
    let (service, backend) = (PythonServer::start(SCRIPT, &[]).await, Backend::start().await);
    let large = "0123456789abcdef".repeat(20_000);
    let cases = [
        ("max_size: 16B", "hello wörld", "body", "hello wörld", "false"),
        ("max_size: 16B", "0123456789abcdef", "body", "0123456789abcdef", "false"),
        ("max_size: 16B, as_bytes: true", "hello", "raw_body", "aGVsbG8=", "false"),
        ("max_size: 16B, allow_partial: true", large.as_str(), "body", "0123456789abcdef", "true"),
        // In the middle of a character.
        ("max_size: 2B, allow_partial: true", "aö!", "body", "a", "true"),
    ];
    for (case, (ext_auth, body, key, seen, partial)) in cases.into_iter().enumerate() {
        let grpc = format!("grpc: 'http://{}', with_body: {{{ext_auth}}}", service.address());
        let gateway = guarded(backend.address(), &grpc).start().await;
        let address = gateway.address("main");
        let targets = ["h1", "h2", "chunked"].map(|way| format!("/echo?{case}-{way}"));
        let [h1, h2, in_chunks] = &targets;
        for (target, text) in [
            (h1, send(address, "POST", h1, &[], body.to_owned()).await.assert_status(200).text()),
            (h2, send_h2c(address, "POST", h2, &[], body.to_owned()).await.assert_status(200).text()),
            (in_chunks, &*chunked(address, in_chunks, body)),
        ] {
            assert!(text == body, "{ext_auth} {target}: {} bytes", text.len());
            let told = asked(&service, target).await;
            let http = &told["attributes"]["request"]["http"];
            assert_eq!(http[key], seen, "{ext_auth} {target}");
            assert_eq!(http["headers"]["x-envoy-auth-partial-body"], partial, "{ext_auth} {target}");
        }
    }
}

/// In small chunks, one after the other.
fn chunked(address: SocketAddr, target: &str, body: &str) -> String {
    let mut client = RawConnection::open(address);
    client.write(format!("POST {target} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"));
    for part in body.as_bytes().chunks(60_000.max(body.len() / 3)) {
        client.write(format!("{:x}\r\n", part.len()));
        client.write(part);
        client.write("\r\n");
    }
    client.write("0\r\n\r\n");
    client.read_response().text().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_bound_is_413_and_the_service_is_not_asked() {
    let (service, backend) = (PythonServer::start(SCRIPT, &[]).await, Backend::start().await);
    let grpc = format!("grpc: 'http://{}', with_body: {{max_size: 16B}}, fail: open", service.address());
    let gateway = guarded(backend.address(), &grpc).start().await;
    let address = gateway.address("main");
    let body = "0123456789abcdefg";
    send(address, "POST", "/echo", &[], body).await.assert_reason(413, "request_too_large");
    send_h2c(address, "POST", "/echo", &[], body).await.assert_reason(413, "request_too_large");
    let mut client = RawConnection::open(address);
    client.write(
        "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n11\r\n0123456789abcdefg\r\n",
    );
    assert_eq!(client.read_response().status, 413);
    // Who asks first whether to send it is told before anything is sent.
    let mut client = RawConnection::open(address);
    client.write("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 17\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(client.read_response().status, 413);
    let mut client = RawConnection::open(address);
    client.write("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(client.read_response().status, 100);
    client.write("four");
    assert_eq!(client.read_response().text(), "four");
    assert_eq!(metric(&gateway, "tidegate_ext_auth_total", &[]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_its_body_back_is_not_waited_for() {
    let (service, backend) = (PythonServer::start(SCRIPT, &[]).await, Backend::start().await);
    let grpc = format!("grpc: 'http://{}', with_body: {{}}", service.address());
    let gateway = guarded(backend.address(), &grpc).limits("body_timeout: 100ms").start().await;
    let mut client = RawConnection::open(gateway.address("main"));
    client.write("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nfo");
    assert_eq!(client.read_response().status, 408);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_grpc_is_asked_about_before_it_ends_and_without_a_body() {
    let (service, server) = (PythonServer::start(SCRIPT, &[]).await, GrpcServer::start().await);
    let filters =
        format!("filters: [{{ext_auth: {{grpc: 'http://{}', with_body: {{}}}}}}]", service.address());
    let to = || Yaml::to(server.address()).settings("protocol: grpc");
    for (path, yaml) in [("/mute/1", to().route(&filters)), ("/mute/2", to().listener(&filters))] {
        let gateway = yaml.start().await;
        let mut client = Http2Client::open(gateway.address("main")).await;
        let (response, mut stream) = client.begin(call(path, &[]), false).await;
        stream.send_data(message(b"one").into(), false).unwrap();
        assert_eq!(head(response).await.status(), 200, "{path}");
        let told = asked(&service, path).await;
        assert!(told["attributes"]["request"]["http"].get("body").is_none(), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_behind_it_answers_nobody_before_the_service_has_seen_the_body() {
    let service = PythonServer::start(SCRIPT, &[]).await;
    let grpc = format!("{{ext_auth: {{grpc: 'http://{}', with_body: {{}}}}}}", service.address());
    let yaml = Yaml::new()
        .with_upstream("none", ["127.0.0.1:1"], "")
        .with_route(&format!("filters: [{grpc}], respond: {{body: secret}}"));
    let gateway = yaml.start().await;
    for (path, status, body) in [("/denied", 401, "not you"), ("/x", 200, "secret")] {
        let answer = send(gateway.address("main"), "POST", path, &[], "four").await;
        assert_eq!(answer.assert_status(status).text(), body);
        assert_eq!(asked(&service, path).await["attributes"]["request"]["http"]["body"], "four");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_remembered_by_what_they_depend_on() {
    let (service, echo) = (PythonServer::start(SCRIPT, &[]).await, Echo::start().await);
    let grpc = format!(
        "grpc: 'http://{}', cache: {{headers: [authorization], ttl: 1h, denied_ttl: 1h, entries: 100}}",
        service.address()
    );
    let gateway = guarded(echo.address, &grpc).start().await;
    let count = async |result: &str| {
        metric(&gateway, "tidegate_ext_auth_total", &[&format!("result=\"{result}\"")]).await
    };
    for (path, authorization, status, result, total) in [
        ("/list", "a", 200, "allowed", 1.0),
        ("/list", "a", 200, "remembered", 1.0),
        ("/list", "b", 200, "allowed", 2.0),
        ("/list?page=2", "a", 200, "allowed", 3.0),
        ("/bare", "a", 403, "denied", 1.0),
        ("/bare", "a", 403, "remembered", 2.0),
        // What is meant for one client: a cookie, a way to the login.
        ("/ok", "a", 200, "allowed", 4.0),
        ("/ok", "a", 200, "allowed", 5.0),
        ("/login", "a", 302, "denied", 2.0),
        ("/login", "a", 302, "denied", 3.0),
        // What could not be decided is asked again.
        ("/fails", "a", 503, "failed", 1.0),
        ("/fails", "a", 503, "failed", 2.0),
    ] {
        let headers = [("authorization", authorization)];
        send(gateway.address("main"), "GET", path, &headers, "").await.assert_status(status);
        assert_eq!(count(result).await, total, "{path} {authorization}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_http_sees_the_body_with_the_clients_method() {
    let (service, backend) = (Echo::start().await, Backend::start().await);
    let http =
        format!("url: 'http://{}/check', method: original, with_body: {{max_size: 16B}}", service.address);
    let gateway = guarded(backend.address(), &http).start().await;
    let answer =
        send(gateway.address("main"), "POST", "/echo", &[("x-envoy-auth-partial-body", "forged")], "hello")
            .await;
    assert_eq!(answer.assert_status(200).text(), "hello");
    send(gateway.address("main"), "POST", "/echo", &[], "0123456789abcdefg").await.assert_status(413);
    let seen = service.take();
    let [(path, headers)] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(path, "/check");
    for (name, expected) in
        [("content-length", "5"), ("x-forwarded-method", "POST"), ("x-envoy-auth-partial-body", "false")]
    {
        assert_eq!(all(headers, name), [expected]);
    }
}
