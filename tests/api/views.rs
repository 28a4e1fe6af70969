//! What the API shows of a gateway that is at work.

use serde_json::json;
use tempfile::TempDir;

use super::{OPEN, ask, assert_problem, show, show_until};
use crate::support::{Backend, Gateway, Yaml, get};

/// A gateway that has answered ten requests well and one with 404.
async fn at_work(backend: &Backend) -> Gateway {
    let gateway = Yaml::to(backend.address())
        .with_route("name: hello, match: {path: /hello}, respond: {body: hello}")
        .start()
        .await;
    for _ in 0..10 {
        get(gateway.address("main"), "/").await.assert_status(200);
    }
    gateway
}

#[tokio::test]
async fn each_resource_is_there_and_says_so_in_json() {
    let backend = Backend::start().await;
    let gateway = at_work(&backend).await;
    for path in [
        "/v1/me",
        "/v1/overview",
        "/v1/topology",
        "/v1/routes",
        "/v1/routes/r",
        "/v1/upstreams",
        "/v1/upstreams/origin",
        "/v1/endpoints",
        "/v1/canaries",
        "/v1/certificates",
        "/v1/config",
        "/v1/config/places",
        "/v1/reloads",
        "/v1/reloads/1",
        "/v1/orders",
        "/v1/history",
        "/v1/history?of=route:r&window=1m",
        "/v1/history?of=upstream:origin",
        "/v1/plugins",
        "/v1/control",
        "/v1/stats",
        "/v1/openapi.json",
    ] {
        let answer = get(gateway.admin(), path).await;
        assert_eq!(answer.assert_status(200).header("content-type"), Some("application/json"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(!answer.json().is_null(), "{path}");
    }
    for path in ["/v1/nothing", "/v1/routes/none", "/v1/upstreams/none", "/v1/canaries/r", "/v1/reloads/99"] {
        assert_problem(&get(gateway.admin(), path).await, 404, "not_found");
    }
    for path in ["/v1/routes?srot=name", "/v1/routes?sort=speed", "/v1/history?of=x", "/v1/topology?routes=0"]
    {
        assert_problem(&get(gateway.admin(), path).await, 400, "bad_request");
    }
    assert_problem(&ask(&gateway, "PATCH", "/v1/me", &[], "").await, 405, "method");
    assert_problem(&get(gateway.admin(), "/v1/control/services").await, 404, "not_found");
}

#[tokio::test]
async fn routes_have_rates_totals_and_their_place() {
    let backend = Backend::start().await;
    let gateway = at_work(&backend).await;
    let shown = show_until(&gateway, "/v1/routes?q=r&sort=-name", |rows| {
        rows.as_array().unwrap().iter().any(|row| row["name"] == "r" && row["last_used_at"].is_string())
    })
    .await;
    let row = shown.as_array().unwrap().iter().find(|row| row["name"] == "r").unwrap().clone();
    assert_eq!((&row["totals"]["requests"], &row["totals"]["errors_5xx"]), (&json!(10), &json!(0)));
    assert_eq!((&row["target"], &row["upstreams"]), (&json!("upstream"), &json!(["origin"])));
    assert!(row["place"].as_str().unwrap().contains("gateway.yaml:"), "{row}");
    let quantiles =
        show_until(&gateway, "/v1/routes/r", |route| route["traffic"]["p99_ms"].is_number()).await;
    let (p50, p99) =
        (quantiles["traffic"]["p50_ms"].as_f64().unwrap(), quantiles["traffic"]["p99_ms"].as_f64().unwrap());
    assert!(p50 > 0.0 && p50 <= p99, "{quantiles}");
    let idle = show(&gateway, "/v1/routes/hello").await;
    assert_eq!((&idle["last_used_at"], &idle["totals"]["requests"]), (&json!(null), &json!(0)));
}

#[tokio::test]
async fn routes_come_in_pages() {
    let yaml: String =
        (0..25).map(|n| format!("  - {{name: r{n:02}, match: {{path: /{n}}}, respond: {{}}}}\n")).collect();
    let gateway =
        Gateway::start(&format!("admin: {OPEN}\nlisteners: [{{address: 127.0.0.1:0}}]\nroutes:\n{yaml}"))
            .await;
    let (mut path, mut seen) = ("/v1/routes?limit=10&sort=name".to_owned(), Vec::new());
    loop {
        let page = get(gateway.admin(), &path).await;
        assert_eq!(page.header("x-total-count"), Some("25"));
        seen.extend(
            page.json().as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()),
        );
        let Some(link) = page.header("link") else { break };
        path = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
    }
    assert_eq!(seen, (0..25).map(|n| format!("r{n:02}")).collect::<Vec<_>>());
    let found = show(&gateway, "/v1/routes?q=r07").await;
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_problem(&get(gateway.admin(), "/v1/routes?after=none").await, 404, "not_found");
}

#[tokio::test]
async fn the_map_has_edges_from_listeners_to_endpoints() {
    let backend = Backend::start().await;
    let gateway = at_work(&backend).await;
    let address = gateway.address("main");
    let busy = tokio::spawn(async move {
        loop {
            get(address, "/").await;
        }
    });
    let endpoint = format!("endpoint:origin/{}", backend.address());
    let path = [("listener:main", "route:r"), ("route:r", "upstream:origin"), ("upstream:origin", &endpoint)];
    let map = show_until(&gateway, "/v1/topology", |map| {
        let edges = map["edges"].as_array().unwrap();
        path.iter().all(|(from, to)| {
            edges.iter().any(|edge| edge["from"] == *from && edge["to"] == *to && edge["level"] == "ok")
        })
    })
    .await;
    busy.abort();
    assert_eq!(map["upstreams"][0]["endpoints"][0]["name"], backend.address().to_string());
    assert_eq!(map["more"]["routes"], 0);
    let few = show(&gateway, "/v1/topology?routes=1").await;
    assert_eq!((few["routes"].as_array().unwrap().len(), &few["more"]["routes"]), (1, &json!(1)));
}

#[tokio::test]
async fn the_history_has_a_number_for_each_second() {
    let backend = Backend::start().await;
    let gateway = at_work(&backend).await;
    let series = show_until(&gateway, "/v1/history?of=route:r", |series| {
        series["requests_per_second"].as_array().unwrap().iter().any(|rate| rate.as_f64() > Some(0.0))
    })
    .await;
    let sum: f64 =
        series["requests_per_second"].as_array().unwrap().iter().filter_map(|rate| rate.as_f64()).sum();
    assert_eq!((&series["step_seconds"], sum), (&json!(1), 10.0));
    let idle = show(&gateway, "/v1/history?of=route:hello").await;
    assert!(idle["requests_per_second"].as_array().unwrap().iter().all(|rate| rate == 0.0), "{idle}");
}

#[tokio::test]
async fn an_endpoint_says_why_it_gets_nothing() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address())
        .settings("health_check: {tcp: {}, interval: 50ms, timeout: 1s, unhealthy_after: 1}")
        .start()
        .await;
    let endpoints = "/v1/endpoints?upstream=origin";
    show_until(&gateway, endpoints, |rows| rows[0]["state"] == "healthy").await;
    drop(backend);
    let rows = show_until(&gateway, endpoints, |rows| rows[0]["state"] == "unhealthy").await;
    assert!(rows[0]["why"].as_str().unwrap().contains("refused"), "{rows}");
    assert_eq!(rows[0]["health"]["last_probe"]["ok"], false);
    let overview = show(&gateway, "/v1/overview").await;
    let attention = overview["attention"].as_array().unwrap();
    assert_eq!(
        (&attention[0]["level"], &attention[0]["kind"]),
        (&json!("bad"), &json!("upstream")),
        "{overview}"
    );
}

#[tokio::test]
async fn reloads_are_kept_with_what_they_changed_and_without_secrets() {
    let yaml = |secret: &str, more: &str| {
        format!(
            "admin: {OPEN}\nlisteners: [{{address: 127.0.0.1:0}}]\nroutes:\n  \
             - {{name: guarded, match: {{headers: {{x-api-key: {secret}}}}}, respond: {{body: one}}}}\n{more}"
        )
    };
    let gateway = Gateway::start(&yaml("first-s3cret", "")).await;
    gateway.reload(&yaml("other-s3cret", "  - {name: more, respond: {body: two}}\n")).await;
    gateway.reload("listeners: 1\nroutes: [{nmae: x}]\n").await;
    let reloads = show(&gateway, "/v1/reloads").await;
    let results: Vec<_> = reloads.as_array().unwrap().iter().map(|reload| &reload["result"]).collect();
    assert_eq!(results, ["rejected", "reloaded", "started"]);
    let changed = &reloads[1];
    assert_eq!((&changed["by"], &changed["has_diff"]), (&json!("SIGHUP"), &json!(true)), "{reloads}");
    let diff = get(gateway.admin(), &format!("/v1/reloads/{}/diff", changed["id"])).await;
    let diff = diff.assert_status(200).text();
    assert!(diff.contains("\n+  name: more\n") && diff.contains("\n@@ "), "{diff}");
    assert!(!diff.contains("s3cret"), "{diff}");
    let none = get(gateway.admin(), &format!("/v1/reloads/{}/diff", reloads[0]["id"])).await;
    assert_problem(&none, 404, "not_found");
    let places = show(&gateway, "/v1/config/places").await;
    let problem = &places["rejected"]["problems"][0];
    assert!(problem["file"].as_str().unwrap().ends_with("gateway.yaml"), "{places}");
    assert_eq!((&problem["line"], &problem["column"]), (&json!(1), &json!(12)), "{places}");
    assert!(places["places"]["routes/more"].as_str().unwrap().contains("gateway.yaml:5:"), "{places}");
    let overview = show(&gateway, "/v1/overview").await;
    assert_eq!(overview["attention"][0]["kind"], "reload", "{overview}");
}

#[tokio::test]
async fn a_question_is_answered_by_what_is_in_force() {
    let backend = Backend::start().await;
    let gateway = at_work(&backend).await;
    let explain = async |body: &str| ask(&gateway, "POST", "/v1/explain", &[], body).await;
    let told =
        explain(r#"{"url": "http://a.example//hello?x=1", "headers": [["x-forwarded-for", "1.1.1.1"]]}"#)
            .await;
    let told = told.assert_status(200).json();
    assert_eq!((&told["path"], &told["normalised"]), (&json!("/hello"), &json!(true)), "{told}");
    assert_eq!(told["removed_headers"], json!(["x-forwarded-for"]));
    let edge = &told["listeners"][0];
    assert_eq!((&edge["route"]["name"], &edge["route"]["target"]), (&json!("hello"), &json!("respond 200")));
    assert_eq!(edge["close"][0]["route"], "r");
    for (body, status, reason) in [
        ("", 400, "bad_request"),
        ("{}", 400, "bad_request"),
        (r#"{"url": "nowhere"}"#, 400, "bad_request"),
        (r#"{"url": "/", "method": "get"}"#, 400, "bad_request"),
        (r#"{"url": "/", "headers": [["a b", "c"]]}"#, 400, "bad_request"),
        (r#"{"url": "/", "headers": [["a", "b\r\nc: d"]]}"#, 400, "bad_request"),
        (r#"{"url": "/", "listener": "egde"}"#, 404, "not_found"),
    ] {
        assert_problem(&explain(body).await, status, reason);
    }
    let refused = explain(r#"{"url": "/a/..;/b"}"#).await.assert_status(200).json();
    assert_eq!(refused["refused"]["status"], 400, "{refused}");
}

#[tokio::test]
async fn a_control_plane_that_is_served_here_is_shown() {
    let home = TempDir::new().unwrap();
    let yaml = format!(
        "admin: {OPEN}\ncontrol: {{serve: {{address: '127.0.0.1:0'}}}}\nstate_dir: {}\n",
        home.path().display()
    );
    let gateway = Gateway::start(&yaml).await;
    let control = gateway.address("control");
    let service = r#"{"name": "cart", "address": "127.0.0.1:7000"}"#;
    crate::support::send(control, "POST", "/v1/services", &[], service).await.assert_status(201);
    let configs = "{listeners: [{address: '127.0.0.1:0'}], routes: [{respond: {}}]}";
    crate::support::send(control, "PUT", "/v1/configs/edge", &[], configs).await;
    let summary = show(&gateway, "/v1/control").await;
    assert_eq!((&summary["serves"], &summary["served"]["services"]), (&json!(true), &json!(1)), "{summary}");
    assert_eq!(show(&gateway, "/v1/control/services").await["services"][0]["name"], "cart");
    let instances = show(&gateway, "/v1/control/instances?name=cart").await;
    assert_eq!(instances["instances"][0]["address"], "127.0.0.1:7000");
    assert_eq!(show(&gateway, "/v1/control/configs").await["configs"][0]["name"], "edge");
    assert_eq!(show(&gateway, "/v1/control/configs/edge/versions").await["versions"][0]["version"], 1);
    assert_eq!(show(&gateway, "/v1/control/rollouts").await["rollouts"][0]["config"], "edge");
    assert_eq!(show(&gateway, "/v1/control/gateways").await["gateways"], json!([]));
    assert_problem(&get(gateway.admin(), "/v1/control/configs/none/versions").await, 404, "not_found");
    assert_eq!(show(&gateway, "/v1/me").await["has_control"], true);
}
