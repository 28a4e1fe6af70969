//! What the upstream sees of a request and the client of a response, and where a request goes when an endpoint fails.

use crate::support::{
    Backend, Connection, Gateway, RawConnection, ScriptedUpstream, Step, Yaml, get, get_h2c, send, send_h2c,
    silent::Refusing, within_deadline,
};

/// What the backend's `/headers` says of one field: its values in their order.
fn values(seen: &serde_json::Value, name: &str) -> Vec<String> {
    let fields = seen["headers"].as_array().unwrap().iter();
    fields.filter(|field| field[0] == name).map(|field| field[1].as_str().unwrap().to_owned()).collect()
}

const CLAIMS: [(&str, &str); 6] = [
    ("host", "shop.example:8443"),
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-for", "198.51.100.9"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "claimed.example"),
    ("forwarded", "for=203.0.113.7;proto=https"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_claims_about_itself_is_replaced() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).start().await;
    for seen in [
        send(gateway.address("main"), "GET", "/headers", &CLAIMS, "").await.json(),
        send_h2c(gateway.address("main"), "GET", "/headers", &CLAIMS, "").await.json(),
    ] {
        assert_eq!(values(&seen, "host"), ["shop.example:8443"]);
        assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(values(&seen, "x-forwarded-proto"), ["http"]);
        assert_eq!(values(&seen, "x-forwarded-host"), ["shop.example:8443"]);
        assert_eq!(values(&seen, "forwarded"), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trusted_proxy_says_is_kept_and_extended() {
    let backend = Backend::start().await;
    let more = "trusted_proxies: [127.0.0.0/8, 198.51.100.0/24]\nforwarded: {forwarded: true}";
    let gateway = Yaml::to(backend.address()).top(more).start().await;
    let seen = send(gateway.address("main"), "GET", "/headers", &CLAIMS, "").await.json();
    assert_eq!(values(&seen, "x-forwarded-for"), ["203.0.113.7, 198.51.100.9, 127.0.0.1"]);
    assert_eq!(values(&seen, "x-forwarded-proto"), ["https"]);
    assert_eq!(values(&seen, "x-forwarded-host"), ["claimed.example"]);
    let forwarded = "for=203.0.113.7;proto=https, for=127.0.0.1;host=\"shop.example:8443\";proto=http";
    // As it was claimed, but made anew from the header that is believed.
    assert_eq!(values(&seen, "forwarded"), [forwarded]);
    let line = gateway.wait_for_message("request").await;
    assert_eq!(line["client"], "203.0.113.7");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_wrote_past_a_proxy_that_writes_only_forwarded_is_not_believed() {
    let backend = Backend::start().await;
    let more = "trusted_proxies: [127.0.0.0/8]\nforwarded: {trust: forwarded}";
    let gateway = Yaml::to(backend.address()).top(more).start().await;
    let claims = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "claimed.example"),
        ("forwarded", "for=203.0.113.7;proto=http"),
        ("host", "shop.example"),
    ];
    let seen = send(gateway.address("main"), "GET", "/headers", &claims, "").await.json();
    assert_eq!(values(&seen, "x-forwarded-for"), ["203.0.113.7, 127.0.0.1"]);
    assert_eq!(values(&seen, "x-forwarded-proto"), ["http"]);
    assert_eq!(values(&seen, "x-forwarded-host"), ["shop.example"]);
    assert_eq!(values(&seen, "forwarded"), ["for=203.0.113.7;proto=http"]);
    let line = gateway.wait_for_message("request").await;
    assert_eq!(line["client"], "203.0.113.7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_writes_nothing_still_removes_false_claims() {
    let backend = Backend::start().await;
    let more = "forwarded: {x_forwarded: false}";
    let gateway = Yaml::to(backend.address()).top(more).start().await;
    let seen = send(gateway.address("main"), "GET", "/headers", &CLAIMS, "").await.json();
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"] {
        assert_eq!(values(&seen, name), [""; 0], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_fields_do_not_cross_towards_the_upstream() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await;
    let gateway = Yaml::to(upstream.address()).start().await;
    let mut connection = RawConnection::open(gateway.address("main"));
    connection.write(concat!(
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\n",
        "proxy-connection: keep-alive\r\nproxy-authorization: Basic eDp5\r\nte: trailers\r\ntrailer: x-t\r\n",
        "upgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nx-hop: 1\r\nx-end: 1\r\nauthorization: Basic eDp5\r\n\r\n",
    ));
    assert_eq!(connection.read_response().status, 200);
    let head = upstream.heads()[0].to_ascii_lowercase();
    for dropped in [
        "keep-alive:",
        "proxy-connection",
        "proxy-authorization",
        "te:",
        "trailer:",
        "upgrade",
        "http2-settings",
        "x-hop",
    ] {
        assert!(!head.contains(&format!("\r\n{dropped}")), "{dropped} in {head}");
    }
    assert!(head.contains("x-end: 1\r\n") && head.contains("authorization: basic edp5\r\n"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_fields_do_not_cross_towards_the_client() {
    let answer = "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\n\
                  proxy-authenticate: Basic\r\nupgrade: h2c\r\nx-hop: 1\r\nx-end: 1\r\nserver: origin\r\n\
                  content-length: 2\r\n\r\nok";
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(answer), Step::Again]).await;
    let gateway = Yaml::to(upstream.address()).start().await;
    for answer in [get(gateway.address("main"), "/").await, get_h2c(gateway.address("main"), "/").await] {
        for dropped in ["keep-alive", "proxy-connection", "proxy-authenticate", "upgrade", "x-hop"] {
            assert_eq!(answer.header(dropped), None, "{answer:?}");
        }
        assert_ne!(answer.header("connection"), Some("keep-alive, x-hop"));
        assert_eq!((answer.header("x-end"), answer.header("server")), (Some("1"), Some("origin")));
        assert_eq!(answer.text(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn via_names_the_gateway_in_both_directions_where_it_is_asked_to() {
    let answer = "HTTP/1.1 200 OK\r\nvia: 1.1 cache\r\ncontent-length: 2\r\n\r\nok";
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(answer), Step::Again]).await;
    for (via, told, written) in [
        ("", vec!["1.1 cache"], [vec!["via: 1.0 old"], vec!["via: 1.0 old"]]),
        (
            "forwarded: {via: on}",
            vec!["1.1 cache", "1.1 tidegate"],
            [vec!["via: 1.0 old", "via: 1.1 tidegate"], vec!["via: 1.0 old", "via: 2 tidegate"]],
        ),
    ] {
        let gateway = Yaml::to(upstream.address()).top(via).start().await;
        let asked = upstream.heads().len();
        let address = gateway.address("main");
        for answer in [
            send(address, "GET", "/", &[("via", "1.0 old")], "").await,
            send_h2c(address, "GET", "/", &[("via", "1.0 old")], "").await,
        ] {
            let values = answer.headers.get_all("via").iter();
            assert_eq!(values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>(), told);
        }
        for (head, written) in upstream.heads()[asked..].iter().zip(written) {
            let lines = head.lines().filter(|line| line.starts_with("via: "));
            assert_eq!(lines.collect::<Vec<_>>(), written);
        }
        // It has passed nothing on that it answers itself.
        let own = Yaml::new().top(via).with_route("respond: {}").start().await;
        assert_eq!(get(own.address("main"), "/").await.header("via"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_is_refused_unless_a_route_names_it_and_forwards_are_counted() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address())
        .with_route("match: {path: /traced, methods: [TRACE]}, upstream: origin, filters: [{rewrite: {path: /headers}}]")
        .start()
        .await;
    let address = gateway.address("main");
    for h2c in [false, true] {
        let send = async |method: &str, path: &str, forwards: &str| match h2c {
            false => send(address, method, path, &[("max-forwards", forwards)], "").await,
            true => send_h2c(address, method, path, &[("max-forwards", forwards)], "").await,
        };
        let refused = send("TRACE", "/", "5").await;
        let allow = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";
        assert_eq!(refused.assert_reason(405, "method_not_allowed").header("allow"), Some(allow));
        send("TRACE", "/traced", "0").await.assert_reason(405, "method_not_allowed");
        let passed = send("TRACE", "/traced", "5").await;
        assert_eq!(values(&passed.assert_status(200).json(), "max-forwards"), ["4"]);
        let last = send("OPTIONS", "/headers", "0").await;
        assert!(last.assert_status(204).header("allow").is_some_and(|allow| allow.contains("GET")));
        let passed = send("OPTIONS", "/headers", "1").await;
        assert_eq!(values(&passed.assert_status(200).json(), "max-forwards"), ["0"]);
        // Of other methods it says nothing.
        let passed = send("GET", "/headers", "0").await;
        assert_eq!(values(&passed.assert_status(200).json(), "max-forwards"), ["0"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_fields_and_their_order_survive() {
    let answer = "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n";
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(answer), Step::Again]).await;
    let gateway = Yaml::to(upstream.address()).start().await;
    let answer =
        send(gateway.address("main"), "GET", "/", &[("x-many", "1"), ("x-many", "2"), ("cookie", "c=3")], "")
            .await;
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    let head = upstream.heads()[0].to_ascii_lowercase();
    assert!(
        head.find("x-many: 1\r\n") < head.find("x-many: 2\r\n") && head.contains("x-many: 1\r\n"),
        "{head}"
    );
    assert!(head.contains("cookie: c=3\r\n"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_to_an_upstream_that_wants_it() {
    let backend = Backend::start().await;
    for protocol in ["http2", "grpc"] {
        let settings = format!("protocol: {protocol}");
        let gateway = Yaml::to(backend.address()).settings(&settings).start().await;
        let headers = [("host", "shop.example"), ("x-end", "1")];
        for seen in [
            send(gateway.address("main"), "POST", "/headers?a=b", &headers, "body").await,
            send_h2c(gateway.address("main"), "POST", "/headers?a=b", &headers, "body").await,
        ] {
            let seen = seen.assert_status(200).json();
            assert_eq!((&seen["version"], &seen["method"]), (&"HTTP/2.0".into(), &"POST".into()));
            assert_eq!((&seen["path"], &seen["authority"]), (&"/headers?a=b".into(), &"shop.example".into()));
            assert_eq!(values(&seen, "x-end"), ["1"]);
            assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"]);
        }
        let body = vec![7; 300_000];
        let echoed = send(gateway.address("main"), "POST", "/echo", &[], body.clone()).await;
        assert!(echoed.assert_status(200).body == body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_trailers_cross_from_end_to_end() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).settings("protocol: grpc").start().await;
    let answer = send_h2c(
        gateway.address("main"),
        "POST",
        "/grpc.health.v1.Health/Check",
        &[("content-type", "application/grpc"), ("te", "trailers")],
        vec![0; 5],
    )
    .await;
    assert_eq!(answer.assert_status(200).body[..], [0, 0, 0, 0, 2, 8, 1]);
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_an_endpoint_are_reused_within_one_upstream_only() {
    let script = vec![Step::ReadHead, Step::respond("ok"), Step::Again];
    let upstream = ScriptedUpstream::start(script).await;
    let address = upstream.address();
    let gateway = Gateway::start(&format!(
        r#"
admin: false
threads: 1
listeners: [{{name: main, address: "127.0.0.1:0"}}]
routes: [{{match: {{path: /one}}, upstream: one}}, {{match: {{path: /two}}, upstream: two}}]
upstreams: {{one: {{endpoints: ["{address}"]}}, two: {{endpoints: ["{address}"]}}}}
"#
    ))
    .await;
    let mut connection = Connection::http1(gateway.address("main")).await.unwrap();
    for _ in 0..5 {
        for path in ["/one", "/two"] {
            connection.send("GET", path, &[], "").await.unwrap().assert_status(200);
        }
    }
    assert_eq!(upstream.connections(), 2);
    for number in 0..2 {
        let received = String::from_utf8_lossy(&upstream.received(number)).into_owned();
        assert!(received.contains("/one") != received.contains("/two"), "{received}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_is_passed_over_whatever_the_method() {
    let (alive, dead) = (Backend::start().await, Refusing::start());
    let gateway = Yaml::to_all([dead.address(), alive.address()]).start().await;
    for _ in 0..10 {
        let answer = send(gateway.address("main"), "POST", "/echo", &[], "hello").await;
        assert_eq!(answer.assert_status(200).text(), "hello");
    }
    let lines: Vec<_> = gateway.lines().into_iter().filter(|line| line["attempts"] == 2).collect();
    assert!(lines.iter().all(|line| line["endpoint"] == alive.address().to_string()), "{lines:?}");
    gateway.wait_for_line(|line| line["attempts"] == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_three_times_at_most() {
    let dead = [(); 5].map(|()| Refusing::start());
    let gateway = Yaml::to_all(dead.iter().map(Refusing::address)).start().await;
    get(gateway.address("main"), "/").await.assert_reason(502, "connect_failed");
    assert_eq!(gateway.wait_for_message("request").await["attempts"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_request_goes_to_another_endpoint_when_one_breaks() {
    let breaking = ScriptedUpstream::start(vec![Step::ReadHead, Step::Close]).await;
    let backend = Backend::start().await;
    let gateway = Yaml::to_all([breaking.address(), backend.address()]).start().await;
    for _ in 0..6 {
        get(gateway.address("main"), "/").await.assert_status(200);
    }
    assert_eq!(breaking.heads().len(), 3);
    let broken =
        futures::future::join_all((0..2).map(|_| send(gateway.address("main"), "POST", "/echo", &[], "x")));
    let broken: Vec<u16> = broken.await.iter().map(|answer| answer.status.as_u16()).collect();
    assert!(broken.contains(&502) && broken.contains(&200), "{broken:?}");
}

/// An upstream that closes a kept connection as the next request arrives on it.
async fn stale() -> ScriptedUpstream {
    ScriptedUpstream::with(|number| match number {
        0 => vec![Step::ReadHead, Step::respond("first"), Step::ReadHead, Step::Close],
        _ => vec![Step::ReadHead, Step::respond("second"), Step::Again],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_on_a_stale_connection_is_sent_again() {
    let upstream = stale().await;
    let gateway = Yaml::to(upstream.address()).top("threads: 1").start().await;
    assert_eq!(get(gateway.address("main"), "/").await.assert_status(200).text(), "first");
    assert_eq!(get(gateway.address("main"), "/").await.assert_status(200).text(), "second");
    assert_eq!((upstream.connections(), upstream.heads().len()), (2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_on_a_stale_connection_is_not_sent_again() {
    let upstream = stale().await;
    let gateway = Yaml::to(upstream.address()).top("threads: 1").start().await;
    assert_eq!(get(gateway.address("main"), "/").await.assert_status(200).text(), "first");
    let answer = send(gateway.address("main"), "POST", "/", &[], "").await;
    answer.assert_reason(502, "upstream_reset");
    assert_eq!((upstream.connections(), upstream.heads().len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_sent_again_with_its_body() {
    let upstream = ScriptedUpstream::with(|number| match number {
        0 => vec![Step::ReadHead, Step::ReadBody(5), Step::Close],
        _ => vec![Step::ReadHead, Step::ReadBody(5), Step::respond("ok"), Step::Again],
    })
    .await;
    let gateway = Yaml::to(upstream.address()).start().await;
    send(gateway.address("main"), "PUT", "/", &[], "hello").await.assert_status(200);
    assert!(upstream.received(1).ends_with(b"\r\n\r\nhello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_ends_idle_connections_costs_no_request() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Close]).await;
    let gateway = Yaml::to(upstream.address()).start().await;
    for _ in 0..10 {
        // Idempotent or not: a connection that has ended is not used again, or is found out before anything is sent.
        get(gateway.address("main"), "/").await.assert_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_while_connecting_is_504() {
    // The kernel completes the handshake for as many as the backlog holds, so an address that drops packets is needed:
    // TEST-NET-1 (RFC 5737) is routed nowhere.
    let gateway = Yaml::to("192.0.2.1:9").settings("connect_timeout: 200ms").start().await;
    let answer = within_deadline("an answer", get(gateway.address("main"), "/")).await;
    let reason = answer.header("x-tidegate-reason").unwrap().to_owned();
    // Without a route to it the kernel may say so at once.
    assert!(
        matches!(
            (answer.status.as_u16(), reason.as_str()),
            (504, "upstream_timeout") | (502, "connect_failed")
        ),
        "{answer:?}"
    );
}
