//! The life of a gateway: reload, watch, drain, hand-over, logs, ports. What nobody may notice happens under load that
//! notices everything; what must wait for something is held by an upstream that answers when the test lets it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;

use futures::{SinkExt, StreamExt};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Answer, Backend, Connection, Gateway, Load, Process, RawConnection, ScriptedUpstream, Step, get, get_h2c,
    send, tidegate, within_deadline,
};

/// The access log is off: it would be most of what a gateway under load says, and each wait reads all of that.
const BASE: &str = "admin: false\nlog: {access: {to: off}}\nupgrade: {socket: upgrade.sock, timeout: 50s}\n";

/// One listener, and every request to these endpoints.
fn proxy_to(endpoints: &[SocketAddr]) -> String {
    with_settings(endpoints, "")
}

/// The same with further settings of the upstream, each on a line of its own.
fn with_settings(endpoints: &[SocketAddr], settings: &str) -> String {
    let settings = settings.replace('\n', "\n    ");
    format!(
        "{BASE}listeners: [{{name: edge, address: '127.0.0.1:0'}}]\nroutes: [{{name: all, upstream: pool}}]\n\
         upstreams:\n  pool:\n    endpoints: {endpoints:?}\n    {settings}\n"
    )
}

/// An upstream that answers only when it is released.
async fn holding() -> ScriptedUpstream {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nheld";
    ScriptedUpstream::start(vec![Step::ReadHead, Step::Hold, Step::write(answer), Step::Close]).await
}

/// Resolves when nobody listens there any more.
async fn refused(address: SocketAddr) {
    let refused = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
    within_deadline("a closed listener", refused).await;
}

fn names(gateway: &Gateway, message: &str) -> usize {
    gateway.lines().iter().filter(|line| line["msg"] == message).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_through_reload_death_and_upgrades() {
    let check = "health_check: {http: {path: /health}, interval: 50ms, unhealthy_after: 1, healthy_after: 1}";
    let (blue, green) = (Backend::named("blue").await, Backend::named("green").await);
    let both = [blue.address(), green.address()];
    let gateway = Gateway::start(&with_settings(&both, check)).await;
    let edge = gateway.address("edge");
    let loads = [Load::start(edge, "/", 4), Load::start_h2c(edge, "/", 4)];
    let progress = async || {
        for load in &loads {
            load.wait_for_requests(50).await;
        }
    };
    progress().await;

    let third = Backend::named("red").await;
    let three = [both[0], both[1], third.address()];
    let reloaded =
        format!("{}\nwatch: true\n", with_settings(&three, &format!("{check}\nbalancer: p2c_ewma")))
            .replace("{name: all,", "{name: every, filters: [{headers: {response: {set: {x-new: '1'}}}}],");
    assert_eq!(gateway.reload(&reloaded).await["msg"], "configuration reloaded");
    progress().await;

    green.kill().await;
    let out = gateway.wait_for_message("endpoint is unhealthy").await;
    assert_eq!(out["endpoint"], green.address().to_string());
    progress().await;
    let before = names(&gateway, "endpoint is healthy");
    let _green = Backend::start_at(green.address()).await;
    for _ in 0..=before {
        gateway.wait_for_message("endpoint is healthy").await;
    }
    progress().await;

    let gateway = gateway.upgrade().await;
    progress().await;
    let gateway = gateway.upgrade().await;
    progress().await;
    assert_eq!(gateway.address("edge"), edge);
    for load in loads {
        load.stop().await.assert_no_failures();
    }
}

/// What a drain owes: each request the gateway took is answered, whole, and reaches its client. A request it did not
/// take (a refused or closed connection) is the client's to send elsewhere. What it took is what its access log has.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_load_answers_every_request_it_took() {
    let backends = [Backend::start().await, Backend::start().await];
    let yaml = proxy_to(&[backends[0].address(), backends[1].address()])
        .replace("{access: {to: off}}", "{access: {to: access.log, buffer: 100MiB}}");
    let gateway = Gateway::start(&yaml).await;
    let edge = gateway.address("edge");
    let loads =
        [Load::start(edge, "/", 4), Load::start_h2c(edge, "/", 4), Load::start(edge, "/delay/20ms", 4)];
    for load in &loads {
        load.wait_for_requests(20).await;
    }
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    let mut answered = 0;
    for load in loads {
        let totals = load.stop().await;
        answered += totals.requests;
        let taken = totals.failures.iter().find(|failure| failure.starts_with("status"));
        assert_eq!(taken, None, "{totals:#?}");
    }
    let log = fs::read_to_string(gateway.directory().join("access.log")).unwrap();
    let taken: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(taken.iter().all(|request| request["status"] == 200), "{log}");
    assert_eq!(taken.len() as u64, answered, "requests taken, and answers that arrived");
}

#[tokio::test]
async fn an_identical_configuration_changes_nothing() {
    let yaml = "listeners: [{name: edge, address: '127.0.0.1:0'}]\nroutes: [{respond: {body: hi}}]\n";
    let gateway = Gateway::start(&format!("{BASE}{yaml}")).await;
    let reworded = format!("# the same, in other words\n{BASE}{}", yaml.replace("body: hi", "body: \"hi\""));
    assert_eq!(gateway.reload(&reworded).await["msg"], "configuration unchanged");
    assert_eq!(names(&gateway, "listening"), 1);
}

#[tokio::test]
async fn an_invalid_file_changes_nothing_and_the_log_says_what_is_wrong_where() {
    let backend = Backend::start().await;
    let good = proxy_to(&[backend.address()]);
    let gateway = Gateway::start(&good).await;
    let bad = good
        .replace("upstream: pool}]", "upstream: pol}]")
        .replace("[{name: edge", "[{name: new, address: '127.0.0.1:0'}, {name: edge");
    let outcome = gateway.reload(&bad).await;
    let file = gateway.directory().join("gateway.yaml");
    assert_eq!((&outcome["msg"], &outcome["level"]), (&"configuration rejected".into(), &"error".into()));
    assert_eq!(
        outcome["problems"],
        format!(
            "{}:5:32: routes[0].upstream: route `all` names upstream `pol`, which does not exist (did you mean `pool`?)",
            file.display()
        )
    );
    assert_eq!(names(&gateway, "listening"), 1, "the listener that came with the mistake stays closed");
    get(gateway.address("edge"), "/").await.assert_status(200);
    assert_eq!(gateway.reload(&good).await["msg"], "configuration unchanged");
}

#[tokio::test]
async fn a_reload_says_what_was_added_changed_and_removed() {
    let yaml = |listener: &str, routes: &str| format!("{BASE}listeners: [{listener}]\nroutes:\n{routes}");
    let edge = "{name: edge, address: '127.0.0.1:0'}";
    let gateway = Gateway::start(&yaml(
        edge,
        "  - {name: kept, respond: {body: k}}\n  - {name: old, match: {path: /old}, respond: {body: o}}\n  \
         - {name: edited, match: {path: /edited}, respond: {body: e}}\n",
    ))
    .await;
    let outcome = gateway
        .reload(&yaml(
            &edge.replace("}", ", limits: {body_size: 1KiB}}"),
            "  - {name: kept, respond: {body: k}}\n  - {name: new, match: {path: /new}, respond: {body: n}}\n  \
             - {name: edited, match: {path: /edited}, respond: {body: E}}\n",
        ))
        .await;
    assert_eq!(outcome["changes"], "added route new; changed listener edge, route edited; removed route old");
    assert!(outcome["took_ms"].as_str().unwrap().parse::<u64>().is_ok(), "{outcome}");
    assert_eq!(get(gateway.address("edge"), "/edited").await.text(), "E");
    assert_eq!(get(gateway.address("edge"), "/old").await.text(), "k");
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_and_go_by_reload() {
    let held = holding().await;
    let one = proxy_to(&[held.address()]);
    let two = one.replace("[{name: edge", "[{name: extra, address: '127.0.0.1:0'}, {name: edge");
    let gateway = Gateway::start(&one).await;
    let outcome = gateway.reload(&two).await;
    assert_eq!(outcome["changes"], "added listener extra");
    let (edge, extra) = (gateway.address("edge"), gateway.address("extra"));
    let in_flight = tokio::spawn(async move { get(extra, "/").await });
    held.wait_for_heads(1).await;
    let outcome = gateway.reload(&one).await;
    assert_eq!(outcome["changes"], "removed listener extra");
    refused(extra).await;
    held.release();
    let answer = within_deadline("the request in flight", in_flight).await.unwrap();
    assert_eq!(answer.assert_status(200).header("connection"), Some("close"));
    get(edge, "/").await.assert_status(200);
    assert_eq!(names(&gateway, "listening"), 2, "the listener that stayed was not opened again");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_without_a_new_socket_and_on_open_connections() {
    let backend = Backend::start().await;
    let yaml = proxy_to(&[backend.address()]);
    let gateway = Gateway::start(&yaml).await;
    let edge = gateway.address("edge");
    let mut open = Connection::http1(edge).await.unwrap();
    open.send("POST", "/echo", &[], "hello").await.unwrap().assert_status(200);
    let small = yaml.replace("'127.0.0.1:0'}", "'127.0.0.1:0', limits: {body_size: 4B}}");
    assert_eq!(gateway.reload(&small).await["changes"], "changed listener edge");
    open.send("POST", "/echo", &[], "four").await.unwrap().assert_status(200);
    let refused = within_deadline("a refusal", open.send("POST", "/echo", &[], "fives")).await.unwrap();
    refused.assert_reason(413, "request_too_large");
    send(edge, "POST", "/echo", &[], "fives").await.assert_reason(413, "request_too_large");
    assert_eq!(names(&gateway, "listening"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_ends_in_the_configuration_it_began_in() {
    let held = holding().await;
    let yaml = |generation: &str| {
        let filters =
            format!("filters: [{{headers: {{response: {{set: {{x-generation: '{generation}'}}}}}}}}]");
        proxy_to(&[held.address()]).replace("{name: all,", &format!("{{name: all, {filters},"))
    };
    let gateway = Gateway::start(&yaml("1")).await;
    let edge = gateway.address("edge");
    let mut connection = Connection::http1(edge).await.unwrap();
    let first = tokio::spawn(async move {
        let first = connection.send("GET", "/", &[], "").await;
        (connection, first.unwrap())
    });
    held.wait_for_heads(1).await;
    assert_eq!(gateway.reload(&yaml("2")).await["changes"], "changed route all");
    held.release();
    let (mut connection, first) = within_deadline("the request in flight", first).await.unwrap();
    assert_eq!(first.assert_status(200).header("x-generation"), Some("1"));
    let second = within_deadline("the next request", connection.send("GET", "/", &[], "")).await.unwrap();
    assert_eq!(second.assert_status(200).header("x-generation"), Some("2"));
}

#[tokio::test]
async fn health_is_kept_over_a_reload() {
    let (good, bad) = (Backend::named("good").await, Backend::named("bad").await);
    send(bad.address(), "POST", "/health/fail", &[], "").await.assert_status(200);
    // Probed once at the start and then not again while this test runs.
    let check = "health_check: {http: {path: /health}, interval: 1h, jitter: 0%}";
    let both = [good.address(), bad.address()];
    let gateway = Gateway::start(&with_settings(&both, check)).await;
    send(bad.address(), "POST", "/health/ok", &[], "").await.assert_status(200);
    let edge = gateway.address("edge");
    for balancer in ["random", "least_requests", "round_robin"] {
        let yaml = with_settings(&both, &format!("{check}\nbalancer: {balancer}\nread_timeout: 5s"));
        assert_eq!(gateway.reload(&yaml).await["changes"], "changed upstream pool");
        for _ in 0..10 {
            let answer = get(edge, "/").await;
            assert_eq!(answer.assert_status(200).header("x-backend"), Some("good"), "{balancer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_routes_are_reloaded_under_load_without_a_failure() {
    let backend = Backend::start().await;
    let yaml = |routes: usize| {
        let mut yaml = proxy_to(&[backend.address()]).replace("routes: [{name: all, upstream: pool}]\n", "");
        yaml.push_str("routes:\n  - {name: all, upstream: pool}\n");
        for route in 0..routes {
            yaml += &format!("  - {{match: {{path: /service/{route}, methods: [POST]}}, upstream: pool}}\n");
        }
        yaml
    };
    let gateway = Gateway::start(&yaml(1)).await;
    let edge = gateway.address("edge");
    let loads = [Load::start(edge, "/", 2), Load::start_h2c(edge, "/", 2)];
    for routes in [10_000, 9_999] {
        assert_eq!(gateway.reload(&yaml(routes)).await["msg"], "configuration reloaded");
        for load in &loads {
            load.wait_for_requests(20).await;
        }
    }
    for load in loads {
        load.stop().await.assert_no_failures();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_survives_a_reload() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&proxy_to(&[backend.address()])).await;
    let url = format!("ws://{}/ws", gateway.address("edge"));
    let (mut socket, _) =
        within_deadline("a WebSocket", tokio_tungstenite::connect_async(url)).await.unwrap();
    let mut echo = async |text: &'static str| {
        socket.send(Message::text(text)).await.unwrap();
        let echoed = within_deadline("an echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(echoed, Message::text(text));
    };
    echo("before").await;
    // Nothing of the configuration it began in is left.
    let other = "listeners: [{name: other, address: '127.0.0.1:0'}]\nroutes: [{name: none, respond: {}}]\n";
    assert_eq!(gateway.reload(&format!("{BASE}{other}")).await["msg"], "configuration reloaded");
    get(gateway.address("other"), "/").await.assert_status(200);
    echo("after").await;
}

#[tokio::test]
async fn watch_sees_a_file_renamed_over_the_old_one() {
    let yaml = |body: &str| {
        let listeners = "listeners: [{name: edge, address: '127.0.0.1:0'}]";
        format!("{BASE}watch: true\n{listeners}\nroutes: [{{respond: {{body: {body}}}}}]\n")
    };
    let gateway = Gateway::start(&yaml("one")).await;
    for body in ["two", "three"] {
        gateway.write_config(&yaml(body));
        gateway.wait_for_message("configuration reloaded").await;
        assert_eq!(get(gateway.address("edge"), "/").await.text(), body);
    }
    gateway.write_config("nonsense");
    gateway.wait_for_message("configuration rejected").await;
    gateway.write_config(&yaml("four"));
    gateway.wait_for_message("configuration reloaded").await;
    assert_eq!(get(gateway.address("edge"), "/").await.text(), "four");
}

/// A mounted ConfigMap: the file is a link through `..data`, a link to a directory that an update replaces.
#[tokio::test]
async fn watch_sees_a_kubernetes_update() {
    let directory = TempDir::new().unwrap();
    let mounted = directory.path().to_owned();
    let yaml = |body: &str| {
        let listeners = "listeners: [{name: edge, address: '127.0.0.1:0'}]";
        format!("{BASE}watch: true\n{listeners}\nroutes: [{{respond: {{body: {body}}}}}]\n")
    };
    let publish = |generation: usize, yaml: &str| {
        let data = format!("..2026_{generation}");
        fs::create_dir(mounted.join(&data)).unwrap();
        fs::write(mounted.join(&data).join("gateway.yaml"), yaml).unwrap();
        symlink(&data, mounted.join("..data_tmp")).unwrap();
        fs::rename(mounted.join("..data_tmp"), mounted.join("..data")).unwrap();
        if generation > 1 {
            fs::remove_dir_all(mounted.join(format!("..2026_{}", generation - 1))).unwrap();
        }
    };
    publish(1, &yaml("one"));
    symlink("..data/gateway.yaml", mounted.join("gateway.yaml")).unwrap();
    let gateway = Gateway::start_in(directory, &yaml("one"), &[]).await;
    for (generation, body) in [(2, "two"), (3, "three"), (4, "four")] {
        publish(generation, &yaml(body));
        gateway.wait_for_message("configuration reloaded").await;
        assert_eq!(get(gateway.address("edge"), "/").await.text(), body);
    }
}

#[tokio::test]
async fn watch_is_turned_on_and_off_by_a_reload_and_follows_includes() {
    let yaml = |watch: bool| {
        let listeners = "listeners: [{name: edge, address: '127.0.0.1:0'}]";
        format!("{BASE}watch: {watch}\ninclude: [routes/*.yaml]\n{listeners}\n")
    };
    let directory = TempDir::new().unwrap();
    let routes = directory.path().join("routes");
    fs::create_dir(&routes).unwrap();
    let write = |body: &str| {
        fs::write(routes.join("new"), format!("routes: [{{respond: {{body: {body}}}}}]\n")).unwrap();
        fs::rename(routes.join("new"), routes.join("all.yaml")).unwrap();
    };
    write("one");
    let gateway = Gateway::start_in(directory, &yaml(false), &[]).await;
    assert_eq!(gateway.reload(&yaml(true)).await["msg"], "configuration reloaded");
    write("two");
    gateway.wait_for_line(|line| line["changes"] == "changed route /").await;
    assert_eq!(get(gateway.address("edge"), "/").await.text(), "two");

    assert_eq!(gateway.reload(&yaml(false)).await["msg"], "configuration reloaded");
    // Another gateway that watches the same files tells when a change has been there for long enough to be seen; by the
    // second, the first has been there for longer than any watch waits.
    let files = gateway.directory().join("routes/*.yaml");
    let witness = Gateway::start(&yaml(true).replace("routes/*.yaml", files.to_str().unwrap())).await;
    for body in ["three", "four"] {
        write(body);
        witness.wait_for_line(|line| line["changes"] == "changed route /").await;
        assert_eq!(get(witness.address("edge"), "/").await.text(), body);
    }
    assert_eq!(get(gateway.address("edge"), "/").await.text(), "two");
    assert_eq!(gateway.reload(&yaml(false)).await["changes"], "changed route /");
    assert_eq!(get(gateway.address("edge"), "/").await.text(), "four");
}

/// The log is written without a pause, in the directory that is watched.
#[tokio::test(flavor = "multi_thread")]
async fn watch_passes_over_what_is_written_to_other_files() {
    let backend = Backend::start().await;
    let yaml = proxy_to(&[backend.address()]).replace("{to: off}", "{to: access.log}");
    let yaml = format!("{yaml}watch: true\n");
    let gateway = Gateway::start(&yaml).await;
    let load = Load::start(gateway.address("edge"), "/", 2);
    load.wait_for_requests(1000).await;
    gateway.write_config(&yaml.replace("name: all", "name: every"));
    gateway.wait_for_message("configuration reloaded").await;
    load.stop().await.assert_no_failures();
    assert_eq!(names(&gateway, "configuration unchanged"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_with_the_last_request_however_long_the_grace() {
    let held = holding().await;
    let yaml = format!("{}shutdown: {{grace: 1h}}\n", proxy_to(&[held.address()]));
    let gateway = Gateway::start(&yaml).await;
    let edge = gateway.address("edge");
    let mut idle = RawConnection::open(edge);
    idle.write("GET /nothing HTTP/1.1\r\nhost: a b\r\n\r\n");
    let http1 = tokio::spawn(async move { get(edge, "/").await });
    let http2 = tokio::spawn(async move { get_h2c(edge, "/").await });
    held.wait_for_heads(2).await;
    gateway.signal(Signal::SIGTERM);
    let line = gateway.wait_for_message("draining").await;
    assert_eq!((&line["why"], &line["grace"]), (&"SIGTERM".into(), &"1h".into()));
    refused(edge).await;
    assert_eq!(names(&gateway, "stopped"), 0, "the requests in flight are waited for");
    held.release();
    for answer in [http1, http2] {
        let answer: Answer = within_deadline("a request in flight", answer).await.unwrap();
        assert_eq!(answer.assert_status(200).text(), "held");
    }
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    assert_eq!(gateway.wait_for_message("stopped").await["connections_cut"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_closes_connections_that_are_idle() {
    let backend = Backend::start().await;
    let yaml = format!("{}shutdown: {{grace: 1h}}\n", proxy_to(&[backend.address()]));
    let gateway = Gateway::start(&yaml).await;
    let edge = gateway.address("edge");
    let mut used = RawConnection::open(edge);
    used.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(used.read_response().status, 200);
    let mut unused = RawConnection::open(edge);
    let mut http2 = Connection::h2c(edge).await.unwrap();
    http2.send("GET", "/", &[], "").await.unwrap().assert_status(200);
    gateway.signal(Signal::SIGTERM);
    assert!(used.is_closed());
    assert!(unused.is_closed());
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    assert_eq!(gateway.wait_for_message("stopped").await["connections_cut"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_bounds_a_drain() {
    let stalled = ScriptedUpstream::start(vec![Step::ReadHead, Step::Stall]).await;
    let yaml = format!("{}shutdown: {{grace: 100ms}}\n", proxy_to(&[stalled.address()]));
    let gateway = Gateway::start(&yaml).await;
    let mut cut = RawConnection::open(gateway.address("edge"));
    cut.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    stalled.wait_for_heads(1).await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    assert_eq!(gateway.wait_for_message("stopped").await["connections_cut"], "1");
    cut.read_response().assert_reason(503, "draining");
    assert!(cut.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_drain_at_once() {
    let stalled = ScriptedUpstream::start(vec![Step::ReadHead, Step::Stall]).await;
    let yaml = format!("{}shutdown: {{grace: 1h}}\n", proxy_to(&[stalled.address()]));
    for (first, second) in [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGTERM)] {
        let gateway = Gateway::start(&yaml).await;
        let before = stalled.heads().len();
        let mut cut = RawConnection::open(gateway.address("edge"));
        cut.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        stalled.wait_for_heads(before + 1).await;
        gateway.signal(first);
        assert_eq!(gateway.wait_for_message("draining").await["why"], first.as_str());
        gateway.signal(second);
        assert_eq!(gateway.wait_exit().await.code(), Some(0));
        gateway.wait_for_message("stopped at once by a second signal").await;
        assert!(cut.is_closed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unready_for_keeps_accepting_before_the_drain() {
    let backend = Backend::start().await;
    let yaml = format!("{}shutdown: {{grace: 1h, unready_for: 1h}}\n", proxy_to(&[backend.address()]));
    let gateway = Gateway::start(&yaml).await;
    gateway.signal(Signal::SIGTERM);
    gateway.wait_for_message("draining").await;
    get(gateway.address("edge"), "/").await.assert_status(200);
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
}

/// `tidegate run --upgrade` on a file of its own beside the gateway's.
fn successor(gateway: &Gateway, yaml: &str) -> Process {
    let file = gateway.directory().join("successor.yaml");
    fs::write(&file, yaml).unwrap();
    let mut command = tidegate(gateway.directory());
    command.args(["run", "--upgrade", "-c"]).arg(file);
    Process::spawn(command)
}

#[tokio::test]
async fn without_a_successor_a_hand_over_is_refused_and_the_gateway_serves_on() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&proxy_to(&[backend.address()])).await;
    gateway.signal(Signal::SIGQUIT);
    let line = gateway.wait_for_line(|line| line["level"] == "error").await;
    let message = line["msg"].as_str().unwrap();
    assert!(message.contains("start `run --upgrade`") && message.ends_with("serving on"), "{line}");
    get(gateway.address("edge"), "/").await.assert_status(200);
}

#[tokio::test]
async fn a_successor_with_a_broken_configuration_never_takes_over() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&proxy_to(&[backend.address()])).await;
    let successor = successor(&gateway, "routes: 5\n");
    assert_eq!(successor.wait_exit().await.code(), Some(3));
    gateway.signal(Signal::SIGQUIT);
    gateway.wait_for_line(|line| line["level"] == "error").await;
    get(gateway.address("edge"), "/").await.assert_status(200);
}

#[tokio::test]
async fn a_successor_that_cannot_start_gives_the_listeners_back() {
    let backend = Backend::start().await;
    let yaml = proxy_to(&[backend.address()]);
    let gateway = Gateway::start(&yaml).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = format!("[{{address: '{}'}}, {{name: edge", taken.local_addr().unwrap());
    let failing = successor(&gateway, &yaml.replace("[{name: edge", &busy));
    assert!(failing.first_lines(1).await[0].contains("waiting for hand-over"));
    gateway.signal(Signal::SIGQUIT);
    assert_eq!(failing.wait_exit().await.code(), Some(4));
    let line = gateway.wait_for_line(|line| line["level"] == "error").await;
    assert!(line["msg"].as_str().unwrap().ends_with("serving on"), "{line}");
    get(gateway.address("edge"), "/").await.assert_status(200);
    // And a good one can still follow.
    let edge = gateway.address("edge");
    let gateway = gateway.upgrade().await;
    assert_eq!(gateway.address("edge"), edge);
    get(edge, "/").await.assert_status(200);
}

#[tokio::test]
async fn a_second_successor_and_a_hand_over_of_garbage_end_with_5() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&proxy_to(&[backend.address()])).await;
    let first = successor(&gateway, &proxy_to(&[backend.address()]));
    assert!(first.first_lines(1).await[0].contains("waiting for hand-over"));
    let second = successor(&gateway, &proxy_to(&[backend.address()]));
    assert_eq!(second.wait_exit().await.code(), Some(5));
    assert!(second.stderr().contains("upgrade.sock (a second gateway"), "{}", second.stderr());
    // The first waits on, but what comes now is no hand-over.
    UnixStream::connect(gateway.directory().join("upgrade.sock")).unwrap().write_all(&[0xff; 4]).unwrap();
    assert_eq!(first.wait_exit().await.code(), Some(5));
    assert!(first.stderr().contains("(send it SIGQUIT)"), "{}", first.stderr());
    get(gateway.address("edge"), "/").await.assert_status(200);
}

#[tokio::test]
async fn sigusr1_reopens_the_access_log() {
    let backend = Backend::start().await;
    let yaml = proxy_to(&[backend.address()]).replace("{to: off}", "{to: access.log}");
    let gateway = Gateway::start(&yaml).await;
    let edge = gateway.address("edge");
    let (log, rotated) = (gateway.directory().join("access.log"), gateway.directory().join("access.log.1"));
    get(edge, "/before").await;
    fs::rename(&log, &rotated).unwrap();
    gateway.signal(Signal::SIGUSR1);
    gateway.wait_for_message("log files reopened").await;
    get(edge, "/after").await;
    gateway.signal(Signal::SIGTERM);
    gateway.wait_exit().await;
    let paths = |file: &Path| -> Vec<String> {
        let text = fs::read_to_string(file).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["path"].as_str().unwrap().to_owned()).collect()
    };
    let (old, new) = (paths(&rotated), paths(&log));
    // A line that waited to be written when the signal came may be in either, but in one of them it is.
    assert_eq!([old.clone(), new].concat(), ["/before", "/after"]);
    assert!(!old.contains(&"/after".to_owned()), "{old:?}");
}

#[tokio::test]
async fn sampling_leaves_requests_out_of_the_access_log_but_no_failure() {
    let backend = Backend::start().await;
    let yaml = proxy_to(&[backend.address()]).replace("{to: off}", "{to: access.log, sample: 0%}");
    let gateway = Gateway::start(&yaml).await;
    for status in [200, 404, 500, 503] {
        get(gateway.address("edge"), &format!("/status/{status}")).await.assert_status(status);
    }
    gateway.signal(Signal::SIGTERM);
    gateway.wait_exit().await;
    let log = fs::read_to_string(gateway.directory().join("access.log")).unwrap();
    // A line is written when its client has the answer, and may have asked again: their order is nobody's promise.
    let status = |line: &str| serde_json::from_str::<Value>(line).unwrap()["status"].as_u64();
    let statuses: std::collections::BTreeSet<_> = log.lines().map(status).collect();
    assert_eq!(statuses, [Some(500), Some(503)].into());
    assert_eq!(log.lines().count(), 2, "{log}");
}

#[tokio::test]
async fn a_port_in_use_is_one_line_and_no_half_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let line = format!(
        "cannot listen on {address}: Address already in use (os error 98) (another process listens there; stop it or choose another port)"
    );
    let listeners = format!("[{{name: first, address: '127.0.0.1:0'}}, {{address: '{address}'}}]");
    let of_admin = format!(
        "the admin API cannot listen on {address}: Address already in use (os error 98) (another gateway or process listens there; set `admin.address` to another port)"
    );
    for (yaml, line) in [
        (format!("admin: false\nlisteners: {listeners}\nroutes: [{{respond: {{}}}}]\n"), line),
        (
            format!(
                "admin: {{address: '{address}'}}\nlisteners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{respond: {{}}}}]\n"
            ),
            of_admin,
        ),
    ] {
        let (code, stderr, stdout) = Gateway::start_expecting_failure(&yaml, &["run"]).await;
        assert_eq!((code, stderr), (4, line));
        assert!(!stdout.contains("listening"), "{stdout}");
    }
    let elsewhere = "admin: false\nlisteners: [{address: '192.0.2.1:8000'}]\nroutes: [{respond: {}}]\n";
    let (code, stderr, _) = Gateway::start_expecting_failure(elsewhere, &["run"]).await;
    assert_eq!(code, 4);
    assert!(stderr.ends_with("(this machine does not have that address)"), "{stderr}");
}

#[tokio::test]
async fn a_reload_that_cannot_bind_changes_nothing() {
    let backend = Backend::start().await;
    let yaml = proxy_to(&[backend.address()]);
    let gateway = Gateway::start(&yaml).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listeners = format!("[{{name: new, address: '127.0.0.1:0'}}, {{address: '{address}'}}, {{name: edge");
    let outcome = gateway.reload(&yaml.replace("[{name: edge", &listeners)).await;
    assert_eq!(outcome["msg"], "configuration rejected");
    let problem = format!("cannot listen on {address}: Address already in use (os error 98)");
    assert!(outcome["problems"].as_str().unwrap().starts_with(&problem), "{outcome}");
    assert_eq!(names(&gateway, "listening"), 1);
    get(gateway.address("edge"), "/").await.assert_status(200);
}

#[tokio::test]
async fn what_only_a_new_process_can_change_is_refused_by_a_reload() {
    let backend = Backend::start().await;
    let yaml = proxy_to(&[backend.address()]);
    let gateway = Gateway::start(&yaml).await;
    let changes = BTreeMap::from([
        ("admin", yaml.replace("admin: false", "admin: {address: '127.0.0.1:0'}")),
        ("threads", format!("{yaml}threads: 3\n")),
        ("upgrade", yaml.replace("upgrade.sock", "other.sock")),
    ]);
    for (key, yaml) in changes {
        let outcome = gateway.reload(&yaml).await;
        let expected = format!(
            "`{key}` cannot change while the gateway runs (restart it, or take it over with `tidegate upgrade`)"
        );
        assert_eq!(
            (&outcome["msg"], &outcome["problems"]),
            (&"configuration rejected".into(), &expected.into())
        );
    }
}

/// The table of a listener that a reload took away must not be read with the routes that came after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_a_removed_listener_keeps_the_routes_it_had() {
    let listener =
        |name: &str, routes: &str| format!("  - {{name: {name}, address: '127.0.0.1:0'{routes}}}\n");
    let public = "  - {name: public, respond: {body: public}}\n";
    let secret = "  - {name: secret, match: {path: /hello}, respond: {body: secret}}\n";
    let before = format!(
        "listeners:\n{}{}routes:\n{public}",
        listener("main", ""),
        listener("partner", ", routes: [public]")
    );
    let after = format!("listeners:\n{}routes:\n{secret}{public}", listener("main", ""));
    let gateway = Gateway::start(&format!("admin: false\n{before}")).await;
    let mut partner = RawConnection::open(gateway.address("partner"));
    partner.write("GET /hello HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(partner.read_response().text(), "public");
    assert_eq!(gateway.reload(&format!("admin: false\n{after}")).await["msg"], "configuration reloaded");
    partner.write("GET /hello HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(partner.read_response().text(), "public");
}

/// The new address overlaps with the old one, which only closes afterwards: binding first met our own socket.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_moves_between_one_address_and_every_address_of_its_port() {
    let backend = Backend::start().await;
    // A port that can be asked for by number: held, so that no other test is given it.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.set_reuseaddr(true).unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = held.local_addr().unwrap().port();
    let on =
        |address: &str| proxy_to(&[backend.address()]).replace("127.0.0.1:0", &format!("{address}:{port}"));
    let gateway = Gateway::start(&on("127.0.0.1")).await;
    let edge = gateway.address("edge");
    get(edge, "/").await.assert_status(200);
    for address in ["0.0.0.0", "127.0.0.1"] {
        let outcome = gateway.reload(&on(address)).await;
        assert_eq!(outcome["msg"], "configuration reloaded", "{outcome}");
        get(edge, "/").await.assert_status(200);
    }
}

#[tokio::test]
async fn watch_sees_the_first_file_in_a_folder_that_was_empty_or_was_not_there() {
    let listeners = "listeners: [{name: edge, address: '127.0.0.1:0'}]";
    let yaml = format!(
        "{BASE}watch: true\ninclude: [empty/*.yaml, none/*/*.yaml]\n{listeners}\nroutes: [{{respond: {{body: own}}}}]\n"
    );
    let directory = TempDir::new().unwrap();
    let home = directory.path().to_owned();
    fs::create_dir(home.join("empty")).unwrap();
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let put = |folder: &str, name: &str| {
        let route = format!("routes: [{{match: {{path: /{name}}}, respond: {{body: {name}}}}}]\n");
        fs::create_dir_all(home.join(folder)).unwrap();
        fs::write(home.join(folder).join(format!("{name}.yaml")), route).unwrap();
    };
    for (folder, name) in [("empty", "first"), ("none/team", "second"), ("none/team", "third")] {
        put(folder, name);
        let change = format!("/{name}");
        gateway
            .wait_for_line(|line| line["changes"].as_str().is_some_and(|said| said.contains(&change)))
            .await;
        assert_eq!(get(gateway.address("edge"), &change).await.text(), name);
    }
}
