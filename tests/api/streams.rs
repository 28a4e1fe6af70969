//! Streams: what happens, and access lines, live; how they resume, and how they end.

use serde_json::json;

use super::{OPEN, ask, assert_problem, show};
use crate::support::{Backend, EventStream, Gateway, Yaml, get, within_deadline};

async fn open(gateway: &Gateway, path: &str) -> EventStream {
    let mut stream = EventStream::open(gateway.admin(), path, &[]).await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.next().await.unwrap().kind, "hello");
    stream
}

#[tokio::test]
async fn each_second_says_what_flows() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).start().await;
    let mut events = EventStream::open(gateway.admin(), "/v1/events", &[]).await;
    let hello = events.next().await.unwrap();
    assert_eq!((&hello.data["phase"], &hello.data["resumed"]), (&json!("ready"), &json!(false)));
    for _ in 0..20 {
        get(gateway.address("main"), "/").await.assert_status(200);
    }
    let mut sum = 0.0;
    let endpoint = format!("origin/{}", backend.address());
    while sum < 19.0 {
        let traffic = events.next_of("traffic").await.data;
        let seconds = traffic["seconds"].as_f64().unwrap();
        let rate = traffic["routes"]["r"]["requests_per_second"].as_f64().unwrap_or_default();
        assert_eq!(
            rate > 0.0,
            traffic["endpoints"][&endpoint]["requests_per_second"].as_f64() > Some(0.0),
            "{traffic}"
        );
        sum += rate * seconds;
    }
    assert!(sum < 21.0, "{sum}");
}

#[tokio::test]
async fn an_endpoint_that_dies_and_a_reload_are_told() {
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address())
        .settings("health_check: {tcp: {}, interval: 50ms, timeout: 1s, unhealthy_after: 1}")
        .to_string();
    let gateway = Gateway::start(&yaml).await;
    let mut events = open(&gateway, "/v1/events").await;
    let address = backend.address().to_string();
    drop(backend);
    let died = loop {
        let event = events.next_of("endpoint").await.data;
        if event["what"] == "unhealthy" {
            break event;
        }
    };
    assert_eq!((&died["upstream"], &died["endpoint"]), (&json!("origin"), &json!(address)));
    assert!(died["why"].as_str().unwrap().contains("refused"), "{died}");
    let message = events.next_of("message").await.data;
    assert!(message["text"].as_str().unwrap().contains("endpoint is unhealthy"), "{message}");
    gateway.reload(&format!("{yaml}# the same\n")).await;
    let told = events.next_of("reload").await.data;
    assert_eq!((&told["result"], &told["by"]), (&json!("unchanged"), &json!("SIGHUP")));
}

#[tokio::test]
async fn whoever_comes_back_hears_what_was_missed() {
    let gateway = Yaml::new().with_route("name: r, respond: {}").start().await;
    let mut events = open(&gateway, "/v1/events").await;
    ask(&gateway, "POST", "/v1/reload", &[], "").await.assert_status(200);
    let seen = events.next_of("reload").await.id.unwrap();
    drop(events);
    ask(&gateway, "POST", "/v1/reload", &[], "").await.assert_status(200);
    let mut back = EventStream::open(gateway.admin(), "/v1/events", &[("last-event-id", &seen)]).await;
    assert_eq!(back.next().await.unwrap().data["resumed"], true);
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        let event = back.next().await.unwrap();
        if event.kind != "traffic" {
            kinds.push(event.kind);
        }
    }
    // The end of the first order comes after its reload.
    assert_eq!(kinds, ["order", "reload", "order"]);
    let mut by_query = EventStream::open(gateway.admin(), &format!("/v1/events?after={seen}"), &[]).await;
    assert_eq!(by_query.next().await.unwrap().data["resumed"], true);
    let elsewhere = format!("0000000000000001-{}", seen.split('-').nth(1).unwrap());
    let mut other = EventStream::open(gateway.admin(), "/v1/events", &[("last-event-id", &elsewhere)]).await;
    assert_eq!(other.next().await.unwrap().data["resumed"], false);
    assert_problem(
        &ask(&gateway, "GET", "/v1/events", &[("last-event-id", "x")], "").await,
        400,
        "bad_request",
    );
}

#[tokio::test]
async fn the_tail_shows_what_is_asked_for_whatever_the_log_is_like() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address())
        .with_route("name: hello, match: {path: /hello}, respond: {status: 503}")
        .top("log: {access: {to: \"off\", fields: {drop: [user_agent]}}}")
        .start()
        .await;
    let mut all = open(&gateway, "/v1/access").await;
    let mut failed = open(&gateway, "/v1/access?status=5xx&route=hello&path=/hello&client=127.0.0.0/8").await;
    let mut slow = open(&gateway, "/v1/access?min=900ms").await;
    let edge = gateway.address("main");
    get(edge, "/?token=s3cret").await.assert_status(200);
    get(edge, "/hello").await.assert_status(503);
    get(edge, "/delay/1s").await.assert_status(200);
    let line = all.next_of("line").await.data;
    assert_eq!((&line["path"], &line["status"], &line["route"]), (&json!("/"), &json!(200), &json!("r")));
    assert_eq!((&line["client"], &line["user_agent"]), (&json!("127.0.0.1"), &json!(null)), "{line}");
    assert!(!line.to_string().contains("s3cret"), "{line}");
    assert_eq!(failed.next_of("line").await.data["path"], "/hello");
    assert_eq!(slow.next_of("line").await.data["path"], "/delay/1s");
    for bad in ["status=6", "status=abc", "min=soon", "client=x", "sttus=5xx"] {
        let refused = get(gateway.admin(), &format!("/v1/access?{bad}")).await;
        assert_problem(&refused, 400, "bad_request");
    }
}

#[tokio::test]
async fn clients_addresses_can_be_hidden_and_the_tail_turned_off() {
    let yaml = |console: &str| {
        format!(
            "admin: {{address: 127.0.0.1:0, console: {{{console}}}}}\nlisteners: [{{name: edge, address: 127.0.0.1:0}}]\n\
             routes: [{{name: r, respond: {{}}}}]\n"
        )
    };
    let gateway = Gateway::start(&yaml("client_addresses: hide, history: 0s")).await;
    let mut lines = open(&gateway, "/v1/access").await;
    get(gateway.address("edge"), "/").await.assert_status(200);
    let line = lines.next_of("line").await.data;
    assert_eq!((&line["status"], &line["client"]), (&json!(200), &json!(null)));
    assert_problem(&get(gateway.admin(), "/v1/history").await, 403, "unavailable");
    let off = Gateway::start(&yaml("tail: false")).await;
    assert_problem(&get(off.admin(), "/v1/access").await, 403, "unavailable");
}

#[tokio::test]
async fn a_viewer_that_reads_nothing_costs_nobody_else_anything() {
    let gateway = Yaml::new().with_route("name: r, respond: {}").start().await;
    // Never read.
    let silent = EventStream::open(gateway.admin(), "/v1/access", &[]).await;
    let mut busy = crate::support::Connection::http1(gateway.address("main")).await.unwrap();
    let path = format!("/{}", "x".repeat(1500));
    for _ in 0..4000 {
        busy.send("GET", &path, &[], "").await.unwrap().assert_status(200);
    }
    let mut reading = open(&gateway, "/v1/access").await;
    busy.send("GET", "/last", &[], "").await.unwrap().assert_status(200);
    assert_eq!(reading.next_of("line").await.data["path"], "/last");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_is_told_how_many_lines_it_was_not_given() {
    let gateway = Yaml::new().with_route("name: r, respond: {}").start().await;
    let mut lines = open(&gateway, "/v1/access").await;
    let edge = gateway.address("main");
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..8 {
        load.spawn(async move {
            let mut busy = crate::support::Connection::http1(edge).await.unwrap();
            loop {
                busy.send("GET", "/", &[], "").await.unwrap().assert_status(200);
            }
        });
    }
    let lost = lines.next_of("lost").await.data;
    load.abort_all();
    assert!(lost["lines"].as_u64() > Some(0), "{lost}");
}

#[tokio::test]
async fn the_seventeenth_stream_is_refused_until_one_ends() {
    let gateway = Yaml::new().with_route("name: r, respond: {}").start().await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(open(&gateway, "/v1/events").await);
    }
    for path in ["/v1/events", "/v1/access"] {
        assert_problem(&get(gateway.admin(), path).await, 429, "limit");
    }
    // All else is answered.
    show(&gateway, "/v1/overview").await;
    drop(streams.pop());
    let reopened = async {
        while EventStream::open(gateway.admin(), "/v1/events", &[]).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    within_deadline("a place for a stream", reopened).await;
}

#[tokio::test]
async fn a_drain_is_told_and_the_end_of_it_ends_streams_with_a_word() {
    let gateway = Yaml::new().with_route("name: r, respond: {}").start().await;
    let (mut events, mut lines) = (open(&gateway, "/v1/events").await, open(&gateway, "/v1/access").await);
    ask(&gateway, "POST", "/v1/drain", &[], "").await.assert_status(202);
    assert_eq!(events.next_of("phase").await.data["phase"], "draining");
    for stream in [&mut events, &mut lines] {
        let bye = stream.next_of("bye").await.data;
        assert_eq!(bye["why"], "closing", "{bye}");
        assert!(bye["retry_ms"].as_u64() >= Some(1000), "{bye}");
        assert_eq!(stream.next().await, None);
    }
    assert!(gateway.wait_exit().await.success());
}

#[tokio::test]
async fn an_upgrade_ends_streams_and_the_successor_is_another_boot() {
    let yaml = format!(
        "admin: {OPEN}\nlisteners: [{{name: edge, address: 127.0.0.1:0}}]\nroutes: [{{name: r, respond: {{}}}}]\n\
         upgrade: {{socket: upgrade.sock}}\n"
    );
    let gateway = Gateway::start(&yaml).await;
    let mut events = EventStream::open(gateway.admin(), "/v1/events", &[]).await;
    let boot = events.next().await.unwrap().data["boot"].clone();
    let admin = gateway.admin();
    let (successor, bye) = tokio::join!(gateway.upgrade(), events.next_of("bye"));
    assert_eq!(bye.data["why"], "closing");
    let mut again = EventStream::open(admin, "/v1/events", &[]).await;
    let hello = again.next().await.unwrap().data;
    assert_ne!(hello["boot"], boot);
    assert_eq!(hello["resumed"], false);
    drop(successor);
}
