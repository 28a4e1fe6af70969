//! `error_pages` and `maintenance` over real sockets: which answer a client gets, in which form, and what stays as it was.

use std::fs;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::filters::Echo;
use crate::support::{
    Answer, Connection, Gateway, ScriptedUpstream, Step, get, get_h2c, logged, metric, send, send_h2c,
    wait_for_metric,
};

const BROWSER: [(&str, &str); 1] = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
const PROGRAM: [(&str, &str); 1] = [("accept", "application/json")];

fn is_html(answer: &Answer) -> bool {
    answer.header("content-type") == Some("text/html; charset=utf-8")
}

/// An upstream that answers each request on a connection with this, and keeps it.
async fn answering(head: &str, body: &str) -> ScriptedUpstream {
    let whole = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    ScriptedUpstream::start(vec![Step::ReadHead, Step::write(whole), Step::Again]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_answers_have_the_nearest_page_in_the_form_that_is_asked_for() {
    let directory = TempDir::new().unwrap();
    fs::write(
        directory.path().join("404.html"),
        "<style>p{color:red}</style><p>No {path} at {host}, {request_id}</p>\n",
    )
    .unwrap();
    let yaml = "admin: {address: '127.0.0.1:0'}\nerror_pages:\n  404: '${file:404.html}'\n  4xx: {html: '<h1>{status} {title}</h1>', json: '{\"error\": \"{reason}\", \"status\": \
                {status}}'}\nlisteners:\n- name: main\n  address: '127.0.0.1:0'\n  filters: [{request_id: {}}]\n  routes: [denied, own]\n\
                - name: other\n  address: '127.0.0.1:0'\n  error_pages: {no_route: 'listener: {detail}'}\n\
                routes:\n- {name: denied, match: {path: /denied}, filters: [{ip_rules: {deny: [0.0.0.0/0]}}], respond: {}}\n\
                - {name: own, match: {path: /own}, filters: [{ip_rules: {deny: [0.0.0.0/0]}}], respond: {}, error_pages: {forbidden: 'own'}}\n\
                - {name: written, match: {path: /written}, respond: {status: 404, body: mine}}\n";
    let gateway = Gateway::start_in(directory, yaml, &[]).await;
    let main = gateway.address("main");
    // Text of the client's stays text.
    let page = send(
        main,
        "GET",
        "/%3Cb%3E'&",
        &[BROWSER[0], ("host", "a.example"), ("x-request-id", "<i>1</i>")],
        "",
    )
    .await;
    page.assert_reason(404, "no_route");
    assert!(is_html(&page));
    assert!(page.text().starts_with("<style>p{color:red}</style><p>No /%3Cb%3E"), "{}", page.text());
    assert!(page.text().contains("at a.example"), "{}", page.text());
    assert!(page.text().contains("&#39;&amp;") && !page.text().contains("<i>"), "{}", page.text());
    let json = send(main, "GET", "/denied", &PROGRAM, "").await;
    json.assert_reason(403, "forbidden");
    assert_eq!(json.header("content-type"), Some("application/json"));
    assert_eq!(json.header("vary"), Some("accept"));
    assert_eq!(json.json(), serde_json::json!({"error": "forbidden", "status": 403}));
    let html = send_h2c(main, "GET", "/denied", &BROWSER, "").await;
    html.assert_reason(403, "forbidden");
    assert_eq!(html.text(), "<h1>403 Forbidden</h1>");
    // The file has no JSON: a program gets what it always got.
    let problem = send(main, "GET", "/none", &PROGRAM, "").await;
    assert_eq!(problem.header("content-type"), Some("application/problem+json"));
    assert_eq!(get(main, "/own").await.assert_reason(403, "forbidden").text(), "own");
    let other = gateway.address("other");
    assert_eq!(get(other, "/none").await.text(), "listener: no route matches this request");
    // What an operator wrote as an answer is no error of ours.
    assert_eq!(get(other, "/written").await.assert_no_reason().text(), "mine");
    let head = send(main, "HEAD", "/denied", &BROWSER, "").await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (403, Some("22")));
    assert!(head.body.is_empty());
    assert_eq!(logged(&gateway, "/own").await["reason"], "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstreams_error_has_our_page_only_where_that_is_asked_for() {
    let large = "x".repeat(200_000);
    let failing = answering("503 Busy\r\ncontent-type: text/plain\r\ncontent-encoding: gzip\r\netag: \"1\"\r\nset-cookie: a=b\r\nretry-after: 7", "theirs").await;
    let lengthy = answering("500 No", &large).await;
    let missing = answering("404 No\r\ncontent-type: text/plain", "theirs").await;
    let fine = answering("200 OK", "theirs").await;
    let gateway = Gateway::start(&format!(
        "admin: {{address: '127.0.0.1:0'}}\nerror_pages:\n  5xx: {{html: 'ours: {{status}} {{detail}}, in {{retry_after}}', upstream: true}}\n  404: ours\n\
         listeners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes:\n\
         - {{match: {{path: /failing}}, upstream: '{}', filters: [{{headers: {{response: {{set: {{x-route: a}}}}}}}}]}}\n\
         - {{match: {{path: /lengthy}}, upstream: '{}'}}\n- {{match: {{path: /missing}}, upstream: '{}'}}\n- {{match: {{path: /fine}}, upstream: '{}'}}\n",
        failing.address(),
        lengthy.address(),
        missing.address(),
        fine.address()
    ))
    .await;
    let main = gateway.address("main");
    let mut client = Connection::http1(main).await.unwrap();
    for _ in 0..3 {
        let page = client.send("GET", "/failing", &BROWSER, "").await.unwrap();
        page.assert_no_reason().assert_status(503);
        assert_eq!(page.text(), "ours: 503 the upstream answered with an error, in 7");
        assert!(is_html(&page));
        for gone in ["content-encoding", "etag"] {
            assert_eq!(page.header(gone), None, "{gone}");
        }
        assert_eq!(page.header("set-cookie"), Some("a=b"));
        assert_eq!(page.header("x-route"), Some("a"));
    }
    assert_eq!(failing.connections(), 1, "a small body is read, and its connection kept");
    let page = get_h2c(main, "/failing").await;
    assert!(page.assert_status(503).text().starts_with("ours: 503"));
    let page = client.send("GET", "/lengthy", &BROWSER, "").await.unwrap();
    assert!(page.assert_status(500).text().starts_with("ours: 500"));
    let head = client.send("HEAD", "/lengthy", &BROWSER, "").await.unwrap();
    assert!(head.body.is_empty() && is_html(&head), "{head:?}");
    // Who asks for JSON, for which there is no page, gets the upstream's own.
    assert_eq!(send(main, "GET", "/failing", &PROGRAM, "").await.text(), "theirs");
    assert_eq!(get(main, "/missing").await.assert_status(404).text(), "theirs");
    assert_eq!(get(main, "/fine").await.assert_status(200).text(), "theirs");
    assert_eq!(
        metric(&gateway, "tidegate_requests_total", &["route=\"/lengthy\"", "status=\"500\""]).await,
        2.0
    );
    let replaced = "tidegate_error_pages_replaced_total";
    for (route, count) in [("/failing", 4.0), ("/lengthy", 2.0), ("/missing", 0.0), ("/fine", 0.0)] {
        let route = format!("route=\"{route}\"");
        assert_eq!(metric(&gateway, replaced, &[&route, "class=\"5xx\""]).await, count, "{route}");
    }
    assert_eq!(metric(&gateway, replaced, &[]).await, 6.0, "and none of any other class");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_the_place_of_an_answer_leaves_the_body_of_the_request() {
    let early = ScriptedUpstream::start(vec![
        Step::ReadHead,
        Step::write("HTTP/1.1 500 No\r\ncontent-length: 6\r\n\r\ntheirs"),
        Step::ReadToEnd,
    ])
    .await;
    let gateway = Gateway::start(&format!(
        "admin: false\nerror_pages: {{500: {{html: ours, upstream: true}}}}\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: '{}'}}]\n",
        early.address()
    ))
    .await;
    let answer = send(gateway.address("main"), "POST", "/", &BROWSER, vec![b'x'; 1_000_000]).await;
    assert_eq!(answer.assert_status(500).text(), "ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_vanishes_leaves_the_page_and_a_new_one_takes_its_place() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("404.html");
    fs::write(&file, "first").unwrap();
    let yaml = "admin: false\nerror_pages: {404: '${file:404.html}'}\nlisteners: [{name: main, address: '127.0.0.1:0'}]\nroutes: [{match: {path: /a}, respond: {}}]\n";
    let gateway = Gateway::start_in(directory, yaml, &[]).await;
    let main = gateway.address("main");
    assert_eq!(get(main, "/none").await.text(), "first");
    fs::remove_file(&file).unwrap();
    assert_eq!(get(main, "/none").await.text(), "first");
    let line = gateway.reload(yaml).await;
    assert_eq!(line["msg"], "configuration rejected");
    assert!(line.to_string().contains("gateway.yaml:2:20: error_pages.404"), "{line}");
    assert_eq!(get(main, "/none").await.text(), "first");
    fs::write(&file, "second").unwrap();
    assert_eq!(gateway.reload(yaml).await["msg"], "configuration reloaded");
    assert_eq!(get(main, "/none").await.text(), "second");
    // A page that would say nonsense is none.
    fs::write(&file, "{statu}").unwrap();
    let line = gateway.reload(yaml).await;
    assert_eq!(line["msg"], "configuration rejected");
    assert!(line.to_string().contains("did you mean `{status}`?"), "{line}");
    assert_eq!(get(main, "/none").await.text(), "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_grpc_is_told_its_status_and_no_page() {
    let gateway = Gateway::start(
        "admin: false\nerror_pages: {4xx: page, 5xx: page}\nlisteners: [{name: main, address: '127.0.0.1:0'}]\nroutes: [{match: {path: /a}, respond: {}}]\n",
    )
    .await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = send_h2c(gateway.address("main"), "POST", "/none", &headers, "").await;
    assert_eq!(answer.header("grpc-status"), Some("12"));
    assert!(answer.body.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_is_switched_by_a_file_and_by_orders_that_go_before_it() {
    let upstream = Echo::start().await;
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("closed");
    let yaml = format!(
        "admin: {{address: '127.0.0.1:0'}}\nerror_pages: {{maintenance: 'back in {{retry_after}} s'}}\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         defaults: {{route: {{filters: [{{maintenance: {{file: closed, retry_after: 90s}}}}]}}}}\nroutes:\n- {{upstream: '{0}'}}\n\
         - {{match: {{path: /shop}}, upstream: '{0}', filters: [{{maintenance: {{name: shop, allow: [127.0.0.1]}}}}]}}\n",
        upstream.address
    );
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let (main, admin) = (gateway.address("main"), gateway.admin());
    let order = async |path: &str| send(admin, "POST", path, &[], "").await;
    get(main, "/").await.assert_status(200);
    fs::write(&file, "").unwrap();
    let labels = ["switch=\"maintenance\""];
    wait_for_metric(&gateway, "tidegate_maintenance_on", &labels, 1.0).await;
    let closed = get(main, "/").await;
    closed.assert_reason(503, "maintenance");
    assert_eq!(closed.header("retry-after"), Some("90"));
    assert_eq!(closed.text(), "back in 90 s");
    // An order goes before the file, and back.
    let ordered = order("/v1/maintenance/maintenance/off").await;
    assert_eq!(ordered.assert_status(200).json()["switches"][0]["on"], false);
    get(main, "/").await.assert_status(200);
    order("/v1/maintenance/maintenance/auto").await.assert_status(200);
    get(main, "/").await.assert_reason(503, "maintenance");
    fs::remove_file(&file).unwrap();
    wait_for_metric(&gateway, "tidegate_maintenance_on", &labels, 0.0).await;
    get(main, "/").await.assert_status(200);
    // One of the allowed is served; the other switch is not this one.
    order("/v1/maintenance/shop/on").await.assert_status(200);
    get(main, "/shop").await.assert_status(200);
    let shown = get(admin, "/v1/maintenance").await;
    let states: Vec<_> = shown.json()["switches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|switch| (switch["name"].clone(), switch["on"].clone(), switch["ordered"].clone()))
        .collect();
    assert_eq!(
        states,
        [("maintenance".into(), false.into(), "auto".into()), ("shop".into(), true.into(), "on".into())]
    );
    // An order outlives a reload.
    assert_eq!(gateway.reload(&yaml.replace("90s", "91s")).await["msg"], "configuration reloaded");
    assert_eq!(get(admin, "/v1/maintenance").await.json()["switches"][1]["on"], true);
    order("/v1/maintenance/shop/sideways").await.assert_status(404);
    order("/v1/maintenance/none/on").await.assert_status(404);
    let orders = get(admin, "/v1/orders").await;
    assert!(orders.text().contains("maintenance on"), "{}", orders.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_starts_during_maintenance_serves_nobody() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("closed"), "").unwrap();
    let yaml = "admin: {address: '127.0.0.1:0'}\nlisteners: [{name: main, address: '127.0.0.1:0', filters: [{maintenance: {file: closed}}]}]\nroutes: [{respond: {body: open}}]\n";
    let gateway = Gateway::start_in(directory, yaml, &[]).await;
    for path in ["/", "/none"] {
        let answer = get(gateway.address("main"), path).await;
        answer.assert_reason(503, "maintenance");
        assert_eq!(answer.header("retry-after"), Some("300"));
    }
    // Whoever is closed still answers its probes.
    get(gateway.admin(), "/readyz").await.assert_status(200);
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
}
