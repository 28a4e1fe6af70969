//! Clients that stay at one endpoint: by a signed cookie of the gateway's, or by a header in which endpoints name sessions.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::support::{
    Answer, Backend, Gateway, Process, TlsClient, Yaml, certificates, get, logged, metric,
    python::{self, PythonServer},
    send, tidegate, within_deadline,
};

const KEY: &str = "a-key-of-more-than-thirty-two-characters";
const ANOTHER: &str = "another-key-of-more-than-thirty-two-characters";

/// An endpoint that says who it is, and begins a session at `/begin`.
struct App {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// In the place of 200, if it is not 0.
    status: AtomicU16,
    /// A cookie of the gateway's name.
    sets: AtomicBool,
    held: watch::Sender<bool>,
    seen: Mutex<Vec<HeaderMap>>,
    sessions: Mutex<HashMap<String, u64>>,
}

impl App {
    async fn start() -> App {
        App::at(TcpListener::bind(("127.0.0.1", 0)).await.unwrap())
    }

    fn at(listener: TcpListener) -> App {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = tokio::spawn({
            let shared = shared.clone();
            async move {
                // Aborted with this task when the app is dropped.
                let mut connections = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let shared = shared.clone();
                    let service = service_fn(move |request| answer(shared.clone(), address, request));
                    connections.spawn(async move {
                        let server = auto::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            }
        });
        App { address, shared, serving }
    }

    fn seen(&self) -> Vec<HeaderMap> {
        self.shared.seen.lock().unwrap().clone()
    }

    fn name(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(
    shared: Arc<Shared>,
    address: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, _) = request.into_parts();
    shared.seen.lock().unwrap().push(head.headers.clone());
    shared.held.subscribe().wait_for(|held| !held).await.unwrap();
    let mut response = Response::builder().header("x-backend", address.to_string());
    if shared.sets.load(SeqCst) {
        response = response.header("set-cookie", "at=theirs").header("set-cookie", "other=1");
    }
    let session = head.headers.get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
    let status = match (head.uri.path(), session, shared.status.load(SeqCst)) {
        (_, _, status @ 1..) => status,
        ("/begin", None, _) => {
            let mut sessions = shared.sessions.lock().unwrap();
            let id = format!("{}-{}", address.port(), sessions.len());
            sessions.insert(id.clone(), 0);
            response = response.header("mcp-session-id", id);
            200
        }
        (_, Some(id), _) => match shared.sessions.lock().unwrap().get_mut(&id) {
            Some(count) => {
                *count += 1;
                200
            }
            None => 404,
        },
        _ => 200,
    };
    Ok(response.status(status).body(Full::default()).unwrap())
}

async fn apps<const N: usize>() -> [App; N] {
    let started = futures::future::join_all((0..N).map(|_| App::start())).await;
    started.try_into().unwrap_or_else(|_| unreachable!("as many as were started"))
}

fn yaml(apps: &[&App], settings: &str) -> Yaml {
    Yaml::to_all(apps.iter().map(|app| app.address)).settings(settings)
}

fn cookie(settings: &str) -> String {
    format!("affinity: {{cookie: {{name: at, keys: [{KEY}], {settings}}}}}")
}

fn who(answer: &Answer) -> String {
    answer.assert_status(200).header("x-backend").unwrap().to_owned()
}

/// What a browser sends next time: the cookie's name and value.
fn given(answer: &Answer) -> String {
    let all: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].to_str().unwrap().split(';').next().unwrap().to_owned()
}

async fn ask(gateway: &Gateway, path: &str, cookie: &str) -> Answer {
    send(gateway.address("main"), "GET", path, &[("cookie", cookie)], "").await
}

async fn begin(gateway: &Gateway) -> (String, String) {
    let begun = get(gateway.address("main"), "/begin").await;
    (who(&begun), begun.header("mcp-session-id").unwrap().to_owned())
}

async fn go_on(gateway: &Gateway, path: &str, session: &str) -> Answer {
    send(gateway.address("main"), "GET", path, &[("mcp-session-id", session)], "").await
}

async fn counted(gateway: &Gateway, result: &str) -> f64 {
    metric(gateway, "tidegate_affinity_requests_total", &[&format!("result=\"{result}\"")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_keeps_a_client_where_it_is_over_reloads_and_no_endpoint_sees_it() {
    let [a, b, c] = apps().await;
    let settings = cookie("path: /, max_age: 1h, same_site: strict");
    let gateway = yaml(&[&a, &b, &c], &settings).start().await;
    for app in [&a, &b, &c] {
        app.shared.sets.store(true, SeqCst);
    }
    let first = get(gateway.address("main"), "/").await;
    let all: Vec<_> = first.headers.get_all("set-cookie").iter().map(|one| one.to_str().unwrap()).collect();
    assert_eq!(all[0], "other=1", "the cookie's name is the gateway's alone");
    let (at, attributes) = all[1].split_once(';').unwrap();
    assert_eq!(attributes, " Path=/; Max-Age=3600; HttpOnly; SameSite=Strict");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte);
    assert!(at.len() == "at=".len() + 38 && at.bytes().all(is_plain), "{at}");
    for app in [&a, &b, &c] {
        app.shared.sets.store(false, SeqCst);
    }
    let home = who(&first);
    for turn in 0..6 {
        let next = ask(&gateway, "/", &format!("x=1; {at}; y=2")).await;
        assert_eq!((who(&next), next.header("set-cookie")), (home.clone(), None), "{turn}");
        if turn == 2 {
            let changed = yaml(&[&a, &b, &c], &format!("{settings}, connect_timeout: 2s")).to_string();
            assert_eq!(gateway.reload(&changed).await["msg"], "configuration reloaded");
        }
    }
    let app = [&a, &b, &c].into_iter().find(|app| app.name() == home).unwrap();
    assert!(app.seen().iter().skip(1).all(|headers| headers["cookie"] == "x=1; y=2"), "{:?}", app.seen());
    assert_eq!((counted(&gateway, "new").await, counted(&gateway, "kept").await), (1.0, 6.0));
    gateway.reload(&yaml(&[&a, &b, &c], &cookie("forward: true")).to_string()).await;
    assert_eq!(who(&ask(&gateway, "/", at).await), home);
    assert_eq!(app.seen().last().unwrap()["cookie"], at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_two_subsets_stays_at_its_endpoint_in_each() {
    let all: [App; 6] = apps().await;
    let endpoints: Vec<String> = all
        .iter()
        .enumerate()
        .map(|(at, app)| format!("{{address: '{}', tags: {{version: v{}}}}}", app.name(), at % 2))
        .collect();
    let text = Yaml::new()
        .with_route("match: {path: /old}, upstream: u, subset: {version: v0}")
        .with_route("match: {path: /new}, upstream: u, subset: {version: v1}")
        .with_route("match: {path: /any}, upstream: u")
        .with_upstream("u", ["ENDPOINTS"], &cookie(""))
        .to_string();
    let gateway = Gateway::start(&text.replace("\"ENDPOINTS\"", &endpoints.join(", "))).await;
    let mut jar = Vec::new();
    let mut homes = HashMap::new();
    for turn in 0..5 {
        for path in ["/old", "/new", "/any"] {
            let answer = ask(&gateway, path, &jar.join("; ")).await;
            let home = homes.entry(path).or_insert_with(|| who(&answer)).clone();
            assert_eq!(who(&answer), home, "{turn} {path}");
            match turn {
                0 => jar.push(given(&answer)),
                _ => assert_eq!(answer.header("set-cookie"), None, "{turn} {path}"),
            }
        }
    }
    let mut names: Vec<&str> = jar.iter().map(|cookie| cookie.split('=').next().unwrap()).collect();
    names.sort_unstable();
    assert!(names[0] == "at" && names[1].starts_with("at-") && names[2].starts_with("at-"), "{names:?}");
    let is_hidden = |headers: HeaderMap| headers.get("cookie").is_none_or(|value| value.is_empty());
    assert!(all.iter().flat_map(App::seen).all(is_hidden));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_is_secure_for_clients_that_come_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let root = certificates::authority("shop");
    certificates::keep(directory.path(), "edge", &root.issue(&certificates::server(&["localhost"])));
    let app = App::start().await;
    let of = |secure: &str| {
        let tls = "tls: {certificates: [{cert: edge.crt, key: edge.key}]}";
        let yaml = yaml(&[&app], &cookie(secure)).top("trusted_proxies: [127.0.0.0/8]").to_string();
        yaml.replace("listeners:\n", &format!("listeners:\n- {{name: tls, address: '127.0.0.1:0', {tls}}}\n"))
    };
    let over_tls = async |gateway: &Gateway| {
        let mut stream = TlsClient::of(&root).connect(gateway.address("tls"), "localhost").await.unwrap();
        let request = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within_deadline("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        answer.lines().find(|line| line.starts_with("set-cookie: at=")).unwrap().contains("; Secure")
    };
    let plain = async |gateway: &Gateway| {
        get(gateway.address("main"), "/").await.header("set-cookie").unwrap().contains("; Secure")
    };
    let gateway = Gateway::start_in(directory, &of(""), &[]).await;
    assert!(over_tls(&gateway).await && !plain(&gateway).await);
    let told = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")];
    let behind = send(gateway.address("main"), "GET", "/", &told, "").await;
    assert!(behind.header("set-cookie").unwrap().contains("; Secure"), "a proxy in front ends TLS");
    gateway.reload(&of("secure: true")).await;
    assert!(over_tls(&gateway).await && plain(&gateway).await);
    gateway.reload(&of("secure: false")).await;
    assert!(!over_tls(&gateway).await && !plain(&gateway).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_endpoint_drains_or_dies_moves_once_and_the_log_says_so() {
    let [a, b] = apps().await;
    let weighted = |weights: [u16; 2]| {
        let endpoints: Vec<String> = [&a, &b]
            .iter()
            .zip(weights)
            .map(|(app, weight)| format!("{{address: '{}', weight: {weight}}}", app.address))
            .collect();
        let yaml = yaml(&[&a, &b], &cookie("")).to_string();
        yaml.replace(&format!("{:?}", [a.name(), b.name()]), &format!("[{}]", endpoints.join(", ")))
    };
    let gateway = Gateway::start(&weighted([1, 0])).await;
    let first = given(&get(gateway.address("main"), "/").await);
    gateway.reload(&weighted([0, 1])).await;
    let moved = ask(&gateway, "/drained", &first).await;
    assert_eq!(who(&moved), b.name());
    let line = logged(&gateway, "/drained").await;
    assert_eq!(line["detail"], format!("the session has moved here: {} is draining", a.name()));
    assert_eq!(line["endpoint"], b.name());
    assert_eq!(counted(&gateway, "moved").await, 1.0);
    let second = given(&moved);
    gateway.reload(&weighted([1, 1])).await;
    for _ in 0..4 {
        let next = ask(&gateway, "/back", &second).await;
        assert_eq!((who(&next), next.header("set-cookie")), (b.name(), None), "it does not go back");
    }
    assert_eq!(logged(&gateway, "/back").await["detail"], Value::Null);
    let at_b = b.name();
    drop(b);
    let moved = ask(&gateway, "/died", &second).await;
    assert_eq!(who(&moved), a.name());
    let detail = format!("the session has moved here: {at_b} cannot be reached");
    assert_eq!(logged(&gateway, "/died").await["detail"], detail);
    assert_eq!(who(&ask(&gateway, "/", &given(&moved)).await), a.name());
    gateway.reload(&yaml(&[&a], &cookie("")).to_string()).await;
    let moved = ask(&gateway, "/gone", &second).await;
    assert_eq!(who(&moved), a.name());
    let detail = "the session has moved here: its endpoint is gone";
    assert_eq!(logged(&gateway, "/gone").await["detail"], detail);
    assert_eq!(who(&ask(&gateway, "/", &given(&moved)).await), a.name());
    assert_eq!(counted(&gateway, "moved").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_endpoint_is_unhealthy_or_ejected_moves() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let check = "health_check: {http: {path: /health}, interval: 20ms, unhealthy_after: 2, healthy_after: 1}";
    let outlier = "outlier: {consecutive_failures: 2, eject_for: 5m}";
    let yaml =
        Yaml::to_all([a.address(), b.address()]).settings(&format!("{}, {check}, {outlier}", cookie("")));
    let gateway = yaml.start().await;
    for _ in 0..2 {
        gateway.wait_for_message("endpoint is healthy").await;
    }
    let first = get(gateway.address("main"), "/").await;
    let (home, other) = if who(&first) == "a" { (&a, &b) } else { (&b, &a) };
    send(home.address(), "POST", "/health/fail", &[], "").await.assert_status(200);
    gateway.wait_for_message("endpoint is unhealthy").await;
    let moved = ask(&gateway, "/unhealthy", &given(&first)).await;
    let detail = format!("the session has moved here: {} is unhealthy", home.address());
    assert_eq!(logged(&gateway, "/unhealthy").await["detail"], detail);
    send(home.address(), "POST", "/health/ok", &[], "").await.assert_status(200);
    gateway
        .wait_for_line(|line| {
            line["msg"] == "endpoint is healthy" && line["endpoint"] == home.address().to_string()
        })
        .await;
    let at_other = given(&moved);
    let mut failed = 0;
    while failed < 20 {
        failed += 1;
        ask(&gateway, "/status/500", &at_other).await;
        let ejected = format!("endpoint=\"{}\"", other.address());
        if metric(&gateway, "tidegate_upstream_ejected", &[&ejected]).await == 1.0 {
            break;
        }
    }
    let moved = ask(&gateway, "/ejected", &at_other).await;
    let detail = format!("the session has moved here: {} is ejected", other.address());
    assert_eq!(logged(&gateway, "/ejected").await["detail"], detail, "after {failed} failures");
    given(&moved);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_that_are_forged_cut_off_or_foreign_count_as_none() {
    let [a, b] = apps().await;
    let other = |yaml: Yaml| {
        yaml.with_upstream("other", [a.address], &cookie(""))
            .with_route("match: {path: /other}, upstream: other")
    };
    let gateway = other(yaml(&[&a, &b], &cookie(""))).start().await;
    let good = given(&get(gateway.address("main"), "/").await);
    let foreign = given(&get(gateway.address("main"), "/other").await);
    let (head, last) = good.split_at(good.len() - 1);
    let forged = format!("{head}{}", if last == "A" { "Q" } else { "A" });
    let long = format!("at={}", "A".repeat(4000));
    let many = "at=x; ".repeat(1000);
    let bad = ["at=", "at", "at=ab; at=%00", &good[..good.len() / 2], &forged, &foreign, &long, &many];
    for (turn, cookie) in bad.into_iter().enumerate() {
        let answer = ask(&gateway, "/", cookie).await;
        who(&answer);
        given(&answer);
        // One without a value is no cookie.
        assert_eq!(counted(&gateway, "invalid").await, turn.max(1) as f64, "{cookie}");
    }
    // A browser may send one of another path as well.
    let next = ask(&gateway, "/", &format!("at=of-another-path; {good}")).await;
    assert_eq!(next.header("set-cookie"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_without_moving_anybody_and_a_cookie_under_an_old_one_is_given_out_anew() {
    let [a, b, c] = apps().await;
    let of = |keys: &str| {
        yaml(&[&a, &b, &c], &format!("affinity: {{cookie: {{name: at, keys: [{keys}]}}}}")).to_string()
    };
    let gateway = Gateway::start(&of(KEY)).await;
    let first = get(gateway.address("main"), "/").await;
    gateway.reload(&of(&format!("{ANOTHER}, {KEY}"))).await;
    let second = ask(&gateway, "/", &given(&first)).await;
    assert_eq!(who(&second), who(&first));
    gateway.reload(&of(ANOTHER)).await;
    let third = ask(&gateway, "/", &given(&second)).await;
    assert_eq!((who(&third), third.header("set-cookie")), (who(&first), None));
    ask(&gateway, "/", &given(&first)).await;
    assert_eq!(counted(&gateway, "invalid").await, 1.0);
    assert_eq!(counted(&gateway, "moved").await, 0.0);
    assert!(!gateway.output().contains(KEY) && !gateway.output().contains(ANOTHER));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_gateway_s_own_outlives_it_in_state_dir() {
    let [a, b, c] = apps().await;
    let yaml = yaml(&[&a, &b, &c], "affinity: {cookie: at}").top("state_dir: state");
    let gateway = yaml.start().await;
    let first = get(gateway.address("main"), "/").await;
    let file = std::fs::read_to_string(gateway.directory().join("state/affinity.json")).unwrap();
    let gateway = gateway.upgrade().await;
    for _ in 0..4 {
        let next = ask(&gateway, "/", &given(&first)).await;
        assert_eq!((who(&next), next.header("set-cookie")), (who(&first), None));
    }
    assert_eq!(std::fs::read_to_string(gateway.directory().join("state/affinity.json")).unwrap(), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_and_hedges_go_elsewhere_and_leave_the_session_where_it_is() {
    let [a, b] = apps().await;
    let settings = format!("{}, outlier: off", cookie(""));
    for route in ["retry: {attempts: 2, on: [5xx]}", "hedge: {after: 20ms, max: 1, budget: 100%}"] {
        let gateway = yaml(&[&a, &b], &settings).route(route).start().await;
        let first = get(gateway.address("main"), "/").await;
        let (home, other) = if who(&first) == a.name() { (&a, &b) } else { (&b, &a) };
        let at = given(&first);
        home.shared.status.store(503, SeqCst);
        home.shared.held.send_replace(route.starts_with("hedge"));
        let elsewhere = ask(&gateway, "/elsewhere", &at).await;
        assert_eq!((who(&elsewhere), elsewhere.header("set-cookie")), (other.name(), None), "{route}");
        assert_eq!(counted(&gateway, "elsewhere").await, 1.0);
        home.shared.status.store(0, SeqCst);
        home.shared.held.send_replace(false);
        assert_eq!(who(&ask(&gateway, "/", &at).await), home.name(), "{route}");
        assert_eq!(counted(&gateway, "moved").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_an_endpoint_names_stays_there_over_reloads() {
    let [a, b, c] = apps().await;
    let settings = "affinity: {header: {name: Mcp-Session-Id, ttl: 1h, max_sessions: 1000, when_lost: move}}";
    let gateway = yaml(&[&a, &b, &c], settings).start().await;
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(begin(&gateway).await);
    }
    for turn in 0..3 {
        for (home, session) in &sessions {
            assert_eq!(who(&go_on(&gateway, "/", session).await), *home, "{turn}");
        }
        let settings = settings.replace("ttl: 1h", &format!("ttl: {}h", turn + 2));
        let line = gateway.reload(&yaml(&[&a, &b, &c], &settings).to_string()).await;
        assert_eq!(line["msg"], "configuration reloaded");
    }
    assert_eq!((counted(&gateway, "new").await, counted(&gateway, "kept").await), (6.0, 18.0));
    assert_eq!(metric(&gateway, "tidegate_affinity_sessions", &[]).await, 6.0);
    go_on(&gateway, "/", "never-heard-of").await.assert_status(404).assert_no_reason();
    assert_eq!(counted(&gateway, "unknown").await, 1.0);
    assert_eq!(metric(&gateway, "tidegate_affinity_sessions", &[]).await, 6.0, "a client names none");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_most_sessions_those_used_longest_ago_are_forgotten() {
    let app = App::start().await;
    let gateway = yaml(&[&app], "affinity: {header: {name: mcp-session-id, max_sessions: 3}}").start().await;
    let (_, first) = begin(&gateway).await;
    let (_, second) = begin(&gateway).await;
    begin(&gateway).await;
    who(&go_on(&gateway, "/", &first).await);
    begin(&gateway).await;
    assert_eq!(metric(&gateway, "tidegate_affinity_sessions", &[]).await, 3.0);
    assert_eq!(metric(&gateway, "tidegate_affinity_sessions_evicted_total", &[]).await, 1.0);
    who(&go_on(&gateway, "/", &first).await);
    who(&go_on(&gateway, "/", &second).await);
    assert_eq!((counted(&gateway, "kept").await, counted(&gateway, "unknown").await), (2.0, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_endpoint_is_lost_moves_or_is_said_to_be_lost() {
    for when_lost in ["move", "not_found"] {
        let [a, b] = apps().await;
        let settings = format!(
            "affinity: {{header: {{name: mcp-session-id, when_lost: {when_lost}}}}}, outlier: off, then: standby"
        );
        let [standby, _] = apps().await;
        let gateway = yaml(&[&a, &b], &settings)
            .with_upstream("standby", [standby.address], "")
            .route("retry: {attempts: 2, on: [5xx, connect_error]}")
            .start()
            .await;
        let (home, session) = begin(&gateway).await;
        let (home, other) = if home == a.name() { (a, b) } else { (b, a) };
        other.shared.sessions.lock().unwrap().insert(session.clone(), 0);
        let at = home.name();
        drop(home);
        let answer = go_on(&gateway, "/lost", &session).await;
        let line = logged(&gateway, "/lost").await;
        if when_lost == "move" {
            assert_eq!(who(&answer), other.name());
            assert_eq!(line["detail"], format!("the session has moved here: {at} cannot be reached"));
            assert_eq!(counted(&gateway, "moved").await, 1.0);
            assert_eq!(who(&go_on(&gateway, "/", &session).await), other.name());
            assert_eq!(counted(&gateway, "kept").await, 1.0);
            continue;
        }
        answer.assert_reason(404, "session_lost");
        assert_eq!(counted(&gateway, "lost").await, 1.0);
        assert_eq!(
            (other.seen().len(), standby.seen().len()),
            (0, 0),
            "no other endpoint is asked, and nobody who stands in"
        );
        // As clients of MCP do then.
        assert_eq!(begin(&gateway).await.0, other.name());
    }
}

#[test]
fn explain_names_it_and_check_warns_of_a_key_that_ends_with_the_process() {
    let home = tempfile::tempdir().unwrap();
    let said = |args: &[&str], settings: &str| {
        std::fs::write(home.path().join("g.yaml"), Yaml::to("127.0.0.1:1").settings(settings).to_string())
            .unwrap();
        let output = tidegate(home.path()).args(args).args(["-c", "g.yaml"]).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let explained = said(&["explain", "GET", "http://shop.example/"], "affinity: {cookie: at}");
    assert!(explained.contains("origin: by the cookie `at`"), "{explained}");
    let explained = said(&["explain", "GET", "http://shop.example/"], "affinity: {header: mcp-session-id}");
    assert!(explained.contains("origin: by the header `mcp-session-id`"), "{explained}");
    let checked = said(&["check"], "affinity: {cookie: at}");
    assert!(checked.contains("without `keys` and `state_dir`"), "{checked}");
    let checked = said(&["check"], &cookie(""));
    assert!(!checked.contains("state_dir"), "{checked}");
}

/// The official SDK, both as server and as client: its servers answer 404 to sessions of others, and its clients give up then.
#[tokio::test(flavor = "multi_thread")]
async fn clients_and_servers_of_mcp_keep_their_sessions() {
    let (a, b) = (
        PythonServer::start("mcp_server.py", &["a"]).await,
        PythonServer::start("mcp_server.py", &["b"]).await,
    );
    let settings = "affinity: {header: {name: Mcp-Session-Id, when_lost: not_found}}, read_timeout: 1h";
    let gateway = Yaml::to_all([a.address(), b.address()]).settings(settings).start().await;
    let mut command = python::script("mcp_client.py");
    command.arg(format!("http://{}/mcp", gateway.address("main")));
    let client = Process::spawn_with_input(command);
    let mut asked = 0;
    let mut ask = async |line: &str| {
        client.write_line(line);
        asked += 1;
        client.first_lines(asked).await.pop().unwrap()
    };
    let mut homes = Vec::new();
    for _ in 0..4 {
        homes.push(ask("begin").await);
    }
    assert!(homes.iter().any(|home| home == "a") && homes.iter().any(|home| home == "b"), "{homes:?}");
    for turn in 0..3 {
        for (session, home) in homes.iter().enumerate() {
            assert_eq!(ask(&session.to_string()).await, *home, "{turn}");
        }
    }
    assert_eq!(counted(&gateway, "unknown").await, 0.0);
    assert_eq!(metric(&gateway, "tidegate_affinity_sessions", &[]).await, 4.0);
    drop(if homes[0] == "a" { a } else { b });
    let lost = ask("0").await;
    assert!(lost.starts_with("lost: "), "{lost}");
    assert!(counted(&gateway, "lost").await >= 1.0);
    let other = if homes[0] == "a" { "b" } else { "a" };
    assert_eq!(ask("begin").await, other);
    let stays = homes.iter().position(|home| home == other).unwrap();
    assert_eq!(ask(&stays.to_string()).await, other);
}
