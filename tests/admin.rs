//! The operator's API: what it shows, what it hides, whom it refuses, and what it makes the gateway do.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Answer, Backend, Connection, Gateway, RawConnection, get, get_h2c, metric, send, series,
};

const SECRET: &str = "s3cr3t-planted-here";

fn yaml(admin: &str, routes: &str) -> String {
    format!(
        "admin: {admin}\n\
         log: {{access: {{to: \"off\"}}}}\n\
         listeners: [{{name: edge, address: 127.0.0.1:0, filters: [request_id: {{}}]}}]\n\
         upstreams: {{users: {{endpoints: [{{address: \"127.0.0.1:9\", weight: 2}}]}}}}\n\
         routes:\n{routes}"
    )
}

const OPEN: &str = "{address: 127.0.0.1:0}";
const ROUTES: &str = "  - {name: users, match: {path: /users, methods: [GET]}, upstream: users, \
     filters: [headers: {request: {remove: [x-internal]}}]}\n  - {name: hello, respond: {body: hello}}\n";

fn token_of(token: &str) -> Vec<(&'static str, String)> {
    vec![("authorization", format!("Bearer {token}"))]
}

async fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(gateway.admin(), method, path, headers, "").await
}

#[tokio::test]
async fn every_endpoint_answers_also_under_its_alias() {
    let gateway = Gateway::start(&yaml(OPEN, ROUTES)).await;
    for (path, content_type) in [
        ("/", "text/plain; charset=utf-8"),
        ("/livez", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/health", "text/plain; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4"),
        ("/stats", "application/json"),
        ("/config", "application/json"),
        ("/config?format=yaml", "application/yaml"),
        ("/routes", "application/json"),
        ("/upstreams", "application/json"),
        ("/backends", "application/json"),
    ] {
        let answer = get(gateway.admin(), path).await;
        assert_eq!(answer.assert_status(200).header("content-type"), Some(content_type), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        let head = ask(&gateway, "HEAD", path, &[]).await;
        assert!(head.assert_status(200).body.is_empty(), "{path}");
    }
    assert_eq!(get(gateway.admin(), "/readyz").await.text(), "ready\n");
    let list = get(gateway.admin(), "/").await;
    for line in ["GET   /readyz /health", "POST  /reload", "GET   /upstreams /backends"] {
        assert!(list.text().contains(line), "{}", list.text());
    }
    get_h2c(gateway.admin(), "/livez").await.assert_status(200);
    get(gateway.admin(), "/config?format=toml").await.assert_status(400);
}

#[tokio::test]
async fn shows_what_runs() {
    let gateway = Gateway::start(&yaml(OPEN, ROUTES)).await;
    let mut client = Connection::http1(gateway.address("edge")).await.unwrap();
    client.send("GET", "/", &[], "").await.unwrap().assert_status(200);

    let stats = get(gateway.admin(), "/stats").await.json();
    assert_eq!(stats["phase"], "ready");
    assert_eq!((&stats["routes"], stats["config_hash"].as_str().unwrap().len()), (&json!(2), 16));
    let edge = &stats["listeners"][0];
    assert_eq!(
        (&edge["name"], &edge["connections"], &edge["filters"]),
        (&json!("edge"), &json!(1), &json!(["request_id"]))
    );
    assert_eq!(
        stats["upstreams"],
        json!([{"name": "users", "ready": true, "endpoints": 1, "usable": 1, "attempts": 0, "failed": 0}])
    );

    let routes = get(gateway.admin(), "/routes").await.json();
    assert_eq!(
        routes,
        json!([
            {"name": "users", "match": {"path": {"prefix": "/users"}, "methods": ["GET"]},
             "filters": ["headers"], "upstream": "users"},
            {"name": "hello", "match": {}, "filters": [], "respond": {"body": "hello", "status": 200}},
        ])
    );
    let upstreams = get(gateway.admin(), "/upstreams").await.json();
    assert_eq!(
        upstreams,
        json!([{"name": "users", "ready": true, "protocol": "http1", "balancer": "round_robin", "tls": null,
                "failover": null, "groups": [], "endpoints": [
            {"name": "127.0.0.1:9", "origin": "127.0.0.1:9", "weight": 2, "priority": 0, "zone": null, "metadata": {}, "health": "unchecked",
             "why": null, "since": null, "ejected": false, "avoided": false, "circuit_breaker": null, "active_requests": 0, "latency_ms": null}]}])
    );
    let config = get(gateway.admin(), "/config").await.json();
    assert_eq!(config["shutdown"]["grace"], "30s", "defaults are written out");
    assert_eq!(metric(&gateway, "tidegate_connections_active{listener=\"edge\"}", &[]).await, 1.0);
}

#[tokio::test]
async fn the_latency_of_endpoints_is_measured_whatever_balances_them() {
    let backend = Backend::start().await;
    for balancer in ["round_robin", "least_requests", "random", "p2c_ewma", "{hash: client_ip}"] {
        let settings = format!("balancer: {balancer}");
        let gateway = crate::support::Yaml::to(backend.address()).settings(&settings).start().await;
        get(gateway.address("main"), "/").await.assert_status(200);
        crate::support::wait_for_metric(&gateway, "tidegate_requests_total", &["route=\"r\""], 1.0).await;
        let endpoint = &get(gateway.admin(), "/upstreams").await.json()[0]["endpoints"][0];
        assert!(
            endpoint["latency_ms"].as_f64().is_some_and(|latency| latency > 0.0),
            "{balancer}: {endpoint}"
        );
    }
}

#[tokio::test]
async fn stats_count_requests_latency_and_bytes() {
    let backend = Backend::start().await;
    let gateway = crate::support::Yaml::to(backend.address())
        .with_route("name: own, match: {path: /own}, respond: {status: 404, body: '12345'}")
        .start()
        .await;
    let none = get(gateway.admin(), "/stats").await.json();
    assert_eq!(
        (&none["traffic"]["requests"], &none["traffic"]["latency"]["p99_ms"]),
        (&json!(0), &json!(null))
    );
    let mut client = Connection::http1(gateway.address("main")).await.unwrap();
    let mut sent = 0;
    for path in ["/echo", "/echo", "/status/503"] {
        sent += client.send("POST", path, &[], "hello").await.unwrap().text().len();
    }
    sent += client.send("GET", "/own", &[], "").await.unwrap().assert_status(404).text().len();
    let requests = |upstream: &str| format!("tidegate_requests_total{upstream}");
    crate::support::wait_for_metric(&gateway, &requests(""), &["route=\"own\""], 1.0).await;
    let stats = get(gateway.admin(), "/stats").await.json();
    let traffic = &stats["traffic"];
    assert_eq!(
        (&traffic["requests"], &traffic["errors_4xx"], &traffic["errors_5xx"]),
        (&json!(4), &json!(1), &json!(1)),
        "{traffic}"
    );
    assert_eq!(traffic["bytes"], json!({"received": 15, "sent": sent}));
    let [p50, p99] = ["p50_ms", "p99_ms"].map(|key| traffic["latency"][key].as_f64().unwrap());
    assert!(p50 > 0.0 && p50 <= p99, "{traffic}");
    let (listener, upstream) = (&stats["listeners"][0], &stats["upstreams"][0]);
    assert_eq!((&listener["connections_total"], &listener["carried"]["sent"]), (&json!(1), &json!(0)));
    assert_eq!((&upstream["attempts"], &upstream["failed"]), (&json!(3), &json!(1)), "{upstream}");
}

#[tokio::test]
async fn an_endpoint_that_was_never_probed_is_not_called_healthy() {
    let backend = Backend::start().await;
    backend.signal(Signal::SIGSTOP);
    let yaml = format!(
        "admin: {OPEN}\nlisteners: [{{address: 127.0.0.1:0}}]\nroutes: [{{upstream: slow}}]\n\
         upstreams: {{slow: {{endpoints: [\"{at}\"], health_check: {{http: {{}}, timeout: 60s, interval: 60s}}}}}}\n",
        at = backend.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let upstreams = get(gateway.admin(), "/upstreams").await.json();
    assert_eq!(
        (&upstreams[0]["ready"], &upstreams[0]["endpoints"][0]["health"]),
        (&json!(false), &json!("unknown"))
    );
    let healthy =
        format!("tidegate_upstream_healthy{{upstream=\"slow\",endpoint=\"{}\"}}", backend.address());
    assert_eq!(series(&gateway, &healthy, &[]).await, Some(0.0));
}

#[tokio::test]
async fn secrets_are_not_shown() {
    let routes =
        "  - {name: guarded, match: {headers: {x-key: \"${env:KEY}\"}}, respond: {body: \"${env:KEY}\"}}\n";
    let yaml = yaml("{address: 127.0.0.1:0, token: \"${env:KEY}\"}", routes);
    let gateway = Gateway::start_in(TempDir::new().unwrap(), &yaml, &[("KEY", SECRET)]).await;
    let token = format!("Bearer {SECRET}");
    for path in ["/", "/stats", "/config", "/config?format=yaml", "/routes", "/upstreams", "/metrics"] {
        let answer = ask(&gateway, "GET", path, &[("authorization", &token)]).await;
        assert!(!answer.assert_status(200).text().contains(SECRET), "{path}: {}", answer.text());
    }
    let logged = gateway.lines();
    assert!(logged.iter().all(|line| !line.to_string().contains(SECRET)), "{logged:?}");
}

#[tokio::test]
async fn secrets_that_are_written_out_in_fields_of_requests_are_not_shown() {
    let routes = format!(
        "  - {{name: guarded, match: {{headers: {{x-api-key: {SECRET}}}, query: {{token: {SECRET}}}}}, upstream: users, \
         filters: [headers: {{request: {{set: {{authorization: Bearer {SECRET}}}, \
         set_if_absent: {{x-api-key: {SECRET}}}, \
         replace: {{authorization: {{pattern: '^Basic', replacement: Bearer {SECRET}}}}}}}}}]}}\n  \
         - {{name: asks, filters: [ext_auth: {{url: 'http://127.0.0.1:9/?api_key={SECRET}'}}], upstream: users}}\n  \
         - {{name: tells, match: {{path: /tells}}, filters: [ext_auth: {{grpc: 'http://127.0.0.1:9', context_extensions: {{api_token: {SECRET}}}}}], upstream: users}}\n"
    );
    let check = format!("weight: 2}}], health_check: {{http: {{headers: {{authorization: {SECRET}}}}}}}}}");
    let yaml = yaml(OPEN, &routes).replace("weight: 2}]}", &check);
    let gateway = Gateway::start(&yaml).await;
    for path in ["/stats", "/config", "/config?format=yaml", "/routes", "/upstreams", "/metrics"] {
        let answer = ask(&gateway, "GET", path, &[]).await;
        assert!(!answer.assert_status(200).text().contains(SECRET), "{path}: {}", answer.text());
    }
    let shown = ask(&gateway, "GET", "/routes", &[]).await;
    let shown = shown.text();
    assert!(shown.contains("\"x-api-key\": \"[redacted]\""), "{shown}");
    let logged = gateway.lines();
    assert!(logged.iter().all(|line| !line.to_string().contains(SECRET)), "{logged:?}");
}

#[tokio::test]
async fn all_but_the_probes_need_the_token() {
    let gateway = Gateway::start(&yaml("{address: 127.0.0.1:0, token: open-sesame}", ROUTES)).await;
    for path in ["/livez", "/readyz", "/health"] {
        get(gateway.admin(), path).await.assert_status(200);
    }
    for path in ["/", "/metrics", "/stats", "/config", "/routes", "/upstreams", "/backends", "/nowhere"] {
        for token in [None, Some("open-sesam"), Some("")] {
            let headers = token.map(token_of).unwrap_or_default();
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let refused = ask(&gateway, "GET", path, &headers).await;
            assert_eq!(refused.assert_status(401).header("www-authenticate"), Some("Bearer"), "{path}");
            assert!(refused.text().contains("admin.token"), "{}", refused.text());
        }
    }
    for path in ["/reload", "/drain"] {
        ask(&gateway, "POST", path, &[]).await.assert_status(401);
    }
    let token = [("authorization", "Bearer open-sesame")];
    ask(&gateway, "GET", "/stats", &token).await.assert_status(200);
    ask(&gateway, "POST", "/reload", &token).await.assert_status(200);
    ask(&gateway, "GET", "/nowhere", &token).await.assert_status(404);
}

#[tokio::test]
async fn web_pages_are_kept_out() {
    let gateway = Gateway::start(&yaml(OPEN, ROUTES)).await;
    let at = gateway.admin().to_string();
    let refused = ask(&gateway, "GET", "/config", &[("host", "rebound.example")]).await;
    assert!(refused.assert_status(421).text().contains("localhost"), "{}", refused.text());
    ask(&gateway, "GET", "/config", &[("host", "localhost:1")]).await.assert_status(200);
    let foreign = ask(&gateway, "POST", "/drain", &[("origin", "http://evil.example")]).await;
    assert!(foreign.assert_status(403).text().contains("Origin"), "{}", foreign.text());
    let own = format!("http://{at}");
    ask(&gateway, "POST", "/reload", &[("origin", &own)]).await.assert_status(200);
}

#[tokio::test]
async fn what_is_not_there_and_wrong_methods_are_told_apart() {
    let gateway = Gateway::start(&yaml(OPEN, ROUTES)).await;
    let missing = get(gateway.admin(), "/status").await;
    assert!(missing.assert_status(404).text().contains("GET /"), "{}", missing.text());
    for (method, path, allow) in [
        ("GET", "/reload", "POST"),
        ("GET", "/drain", "POST"),
        ("POST", "/stats", "GET, HEAD"),
        ("PUT", "/reload", "POST"),
    ] {
        let refused = ask(&gateway, method, path, &[]).await;
        assert_eq!(refused.assert_status(405).header("allow"), Some(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_is_passed_over_and_a_large_one_refused() {
    let gateway = Gateway::start(&yaml(OPEN, ROUTES)).await;
    send(gateway.admin(), "POST", "/reload", &[], "x".repeat(1024)).await.assert_status(200);
    let mut client = RawConnection::open(gateway.admin());
    client.write("POST /reload HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000000\r\n\r\n");
    client.write("x".repeat(70 * 1024));
    assert_eq!(client.read_head().status, 413);
}

#[tokio::test]
async fn a_reload_tells_its_outcome() {
    let gateway = Gateway::start(&yaml(OPEN, ROUTES)).await;
    let reload = async || ask(&gateway, "POST", "/reload", &[]).await;
    assert_eq!(reload().await.assert_status(200).json(), json!({"result": "unchanged"}));

    gateway.write_config(&yaml(
        OPEN,
        &format!("{ROUTES}  - {{name: more, match: {{path: /more}}, respond: {{}}}}\n"),
    ));
    let changed = json!({"result": "reloaded", "changes": "added route more"});
    assert_eq!(reload().await.assert_status(200).json(), changed);
    get(gateway.address("edge"), "/more").await.assert_status(200);

    gateway.write_config(&yaml(OPEN, "  - {name: a, upstream: user}\n  - {name: b, respnd: {}}\n"));
    let rejected = reload().await.assert_status(422).json();
    let problems = rejected["problems"].as_array().unwrap();
    assert_eq!(rejected["result"], "rejected");
    assert!(
        problems.iter().any(|problem| problem.as_str().unwrap().contains("did you mean `respond`?")),
        "{rejected}"
    );
    get(gateway.address("edge"), "/more").await.assert_status(200);
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_answers_until_the_end() {
    let backend = Backend::start().await;
    let yaml =
        yaml(OPEN, "  - upstream: users\n").replace("127.0.0.1:9\"", &format!("{}\"", backend.address()));
    let gateway = Gateway::start(&yaml).await;
    let edge = gateway.address("edge");
    let slow = tokio::spawn(async move { get(edge, "/delay/2s").await });
    while backend_count(&backend).await == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        ask(&gateway, "POST", "/drain", &[]).await.assert_status(202).json(),
        json!({"result": "draining"})
    );
    gateway.wait_for_message("draining").await;
    for path in ["/readyz", "/health"] {
        assert_eq!(get(gateway.admin(), path).await.assert_status(503).text(), "draining\n");
    }
    get(gateway.admin(), "/livez").await.assert_status(200);
    assert_eq!(get(gateway.admin(), "/stats").await.json()["phase"], "draining");
    let late = ask(&gateway, "POST", "/reload", &[]).await;
    assert_eq!(late.assert_status(409).json()["result"], "rejected");
    ask(&gateway, "POST", "/drain", &[]).await.assert_status(202);
    slow.await.unwrap().assert_status(200);
    assert!(gateway.wait_exit().await.success());
}

async fn backend_count(backend: &Backend) -> u64 {
    let count: Value = get(backend.address(), "/count").await.json();
    count.as_u64().unwrap()
}
