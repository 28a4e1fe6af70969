//! The access log as operators ask for it: fields of their own, other lines, some requests only, and several places at
//! once, syslog among them.

use std::{path::Path, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::{TcpListener, UdpSocket, UnixDatagram},
};

use crate::support::{Gateway, Yaml, get, logged, metric, raw, send, within_deadline};

/// A gateway that answers by itself, and logs so.
async fn logging(access: &str) -> Gateway {
    yaml(access).start().await
}

fn yaml(access: &str) -> Yaml {
    Yaml::new()
        .top(&format!("log: {{{access}}}"))
        .with_route("name: down, match: {path: /down}, respond: {status: 503, body: down}")
        .with_route(
            "name: all, match: {path: {template: '/t/{tenant}/{*rest}'}}, respond: {status: 200, body: ok}",
        )
}

/// The lines of a file, once there are so many.
pub(crate) async fn lines(path: &Path, count: usize) -> Vec<String> {
    let written = async {
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.len() >= count {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within_deadline("lines of the access log", written).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_what_was_added_and_not_what_was_dropped() {
    let gateway = logging(
        "access: {fields: {add: {referer: '{header.referer}', tenant: '{path.tenant}/{query.v}', none: '{header.none}'}, \
         drop: [user_agent, protocol]}}",
    )
    .await;
    let headers = [("referer", "https://a.example/"), ("user-agent", "curl")];
    send(gateway.address("main"), "GET", "/t/acme/x?v=%0a%1b%5b2J", &headers, "").await.assert_status(200);
    let line = logged(&gateway, "/t/acme/x").await;
    assert_eq!(
        (&line["referer"], &line["tenant"]),
        (&"https://a.example/".into(), &"acme/\n\u{1b}[2J".into())
    );
    for gone in ["user_agent", "protocol", "none"] {
        assert_eq!(line.get(gone), None, "{gone}");
    }
    assert_eq!((&line["status"], &line["route"]), (&200.into(), &"all".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_never_written_whatever_is_asked_for() {
    let secrets = "a: '{header.authorization}', b: '{header.cookie}', c: '{cookie.s}', d: '{header.Proxy-Authorization}', \
                   e: '{header.x-key}', f: '{query.token}', g: '{query}', h: '{header.set-cookie}'";
    let headers = [
        ("authorization", "Bearer hunter2"),
        ("cookie", "s=hunter2"),
        ("proxy-authorization", "hunter2"),
        ("x-key", "hunter2"),
        ("set-cookie", "hunter2"),
    ];
    let template =
        "template: '{header.authorization} {header.cookie} {cookie.s} {header.x-key} {query} {query.token}'";
    for access in [format!("fields: {{add: {{{secrets}}}}}"), format!("to: access.log, {template}")] {
        let gateway = logging(&format!("redact: [x-key, token], access: {{{access}}}")).await;
        send(gateway.address("main"), "GET", "/t/a/b?token=hunter2&x=1", &headers, "")
            .await
            .assert_status(200);
        if access.contains("template") {
            let lines = lines(&gateway.directory().join("access.log"), 1).await;
            let hidden = "[redacted]";
            assert_eq!(lines, [format!("{hidden} {hidden} {hidden} {hidden} token=REDACTED&x=1 {hidden}")]);
        } else {
            let line = logged(&gateway, "/t/a/b").await;
            for name in ["a", "b", "c", "d", "e", "f", "h"] {
                assert_eq!(line[name], "[redacted]", "{name}");
            }
            assert_eq!(line["g"], "token=REDACTED&x=1");
        }
        assert!(gateway.lines().iter().all(|line| !line.to_string().contains("hunter2")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_one_line_whatever_clients_send() {
    let gateway = logging(
        "access: {to: access.log, template: '{client} \"{method} {path}\" {status} {bytes_out} \"{header.x}\" {reason} {route}'}",
    )
    .await;
    let (address, file) = (gateway.address("main"), gateway.directory().join("access.log"));
    send(address, "GET", "/t/a/%0Ab", &[("x", "a\" 200 \u{202e}b")], "").await.assert_status(200);
    let written = lines(&file, 1).await;
    assert_eq!(written, [r#"127.0.0.1 "GET /t/a/%0Ab" 200 2 "a\" 200 \u{202e}b" - all"#]);
    get(address, "/down").await.assert_status(503);
    assert_eq!(lines(&file, 2).await[1], r#"127.0.0.1 "GET /down" 503 4 "-" - down"#);
    get(address, "/none").await.assert_status(404);
    let written = lines(&file, 3).await;
    assert!(written[2].starts_with(r#"127.0.0.1 "GET /none" 404 "#), "{written:?}");
    assert!(written[2].ends_with(r#" "-" no_route -"#), "{written:?}");
    // What has not become a request is laid out alike.
    raw(address, b"GET / HTTP/1.1\r\n\r\n");
    let written = lines(&file, 4).await;
    assert!(written[3].ends_with(r#" 400 0 "-" bad_request -"#), "{written:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_asked_for_is_logged() {
    for (when, expected) in [
        ("status: 5xx", &["/down"][..]),
        ("status: [404, 503]", &["/down", "/none"]),
        ("reason: [no_route]", &["/none"]),
        ("path: /t, methods: [GET]", &["/t/a/b"]),
        ("headers: {x-debug: '1'}", &["/t/a/b"]),
        ("path: /t, status: 5xx", &[]),
        ("duration: 0s, status: 200", &["/t/a/b"]),
        ("duration: 1h", &[]),
    ] {
        let gateway = logging(&format!("access: {{to: access.log, when: {{{when}}}}}")).await;
        let address = gateway.address("main");
        send(address, "GET", "/t/a/b", &[("x-debug", "1")], "").await.assert_status(200);
        get(address, "/down").await.assert_status(503);
        get(address, "/none").await.assert_status(404);
        // Once it has ended, nothing more is written.
        let file = gateway.directory().join("access.log");
        gateway.signal(nix::sys::signal::Signal::SIGTERM);
        gateway.wait_exit().await;
        let text = std::fs::read_to_string(file).unwrap();
        let path =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["path"].as_str().unwrap().to_owned();
        let mut paths: Vec<String> = text.lines().map(path).collect();
        paths.sort();
        assert_eq!(paths, expected, "{when}");
    }
}

/// What stands in front of a message, and the message.
fn parts(message: &str) -> (&str, Value) {
    let (head, line) = message.split_once(" request - ").unwrap();
    (head, serde_json::from_str(line).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_places_get_the_same_line_and_syslog_its_head() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let syslog =
        format!("{{syslog: {{address: 'udp://{address}', facility: local3, app_name: edge, hostname: h1}}}}");
    let gateway = logging(&format!("access: {{to: [stdout, access.log, {syslog}]}}")).await;
    get(gateway.address("main"), "/t/a/b").await.assert_status(200);
    let mut message = vec![0; 8192];
    let length = within_deadline("a message", server.recv(&mut message)).await.unwrap();
    let message = std::str::from_utf8(&message[..length]).unwrap();
    let (head, line) = parts(message);
    let ts = line["ts"].as_str().unwrap();
    assert_eq!(head, format!("<158>1 {ts} h1 edge {}", gateway.pid()));
    assert_eq!(line, logged(&gateway, "/t/a/b").await);
    let written = lines(&gateway.directory().join("access.log"), 1).await;
    assert_eq!(line, serde_json::from_str::<Value>(&written[0]).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_go_to_stderr_where_that_is_asked_for() {
    let gateway = logging("access: {to: stderr}").await;
    get(gateway.address("main"), "/t/a/b").await.assert_status(200);
    let of_request =
        |line: &str| serde_json::from_str::<Value>(line).ok().filter(|line| line["msg"] == "request");
    assert_eq!(gateway.find("a line", of_request).await["path"], "/t/a/b");
    assert!(gateway.lines().iter().all(|line| line["msg"] != "request"));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_messages_are_counted_and_a_new_connection_follows_a_lost_one() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let gateway = logging(&format!("access: {{to: {{syslog: {{address: 'tcp://{address}'}}}}}}")).await;
    for path in ["/t/a/1", "/t/a/2"] {
        get(gateway.address("main"), path).await.assert_status(200);
        let (stream, _) = within_deadline("a connection", server.accept()).await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut count = Vec::new();
        within_deadline("a count", stream.read_until(b' ', &mut count)).await.unwrap();
        let count: usize = std::str::from_utf8(&count).unwrap().trim_end().parse().unwrap();
        let mut message = vec![0; count];
        within_deadline("a message", stream.read_exact(&mut message)).await.unwrap();
        let (head, line) = parts(std::str::from_utf8(&message).unwrap());
        assert!(head.starts_with("<134>1 "), "{head}");
        assert_eq!(line["path"], path);
        // Here the server closes, which is heard before the next line.
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_wait_for_a_server_that_is_away_and_requests_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.sock");
    let to = format!("{{syslog: {{address: 'unix:{}'}}}}", path.display());
    let gateway = logging(&format!("access: {{to: {to}}}")).await;
    get(gateway.address("main"), "/t/a/b").await.assert_status(200);
    wait_for_metric_above(&gateway, "tidegate_access_log_write_errors_total").await;
    let server = UnixDatagram::bind(&path).unwrap();
    let mut message = vec![0; 8192];
    let length = within_deadline("a message", server.recv(&mut message)).await.unwrap();
    let (_, line) = parts(std::str::from_utf8(&message[..length]).unwrap());
    assert_eq!(line["path"], "/t/a/b");
    assert_eq!(metric(&gateway, "tidegate_access_log_dropped_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_while_a_server_is_away_is_dropped_and_counted() {
    let to = "{syslog: {address: 'unix:/nonexistent/log.sock'}}";
    let gateway = logging(&format!("access: {{to: {to}, buffer: 1KiB}}")).await;
    for _ in 0..20 {
        get(gateway.address("main"), "/t/a/b").await.assert_status(200);
    }
    wait_for_metric_above(&gateway, "tidegate_access_log_dropped_total").await;
    // Nobody takes those that wait, and the process ends all the same.
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    gateway.wait_exit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_what_is_said_and_where() {
    let gateway = logging("access: {fields: {add: {tenant: '{path.tenant}'}}}").await;
    get(gateway.address("main"), "/t/a/1").await.assert_status(200);
    assert_eq!(logged(&gateway, "/t/a/1").await["tenant"], "a");
    gateway.reload(&yaml("access: {fields: {add: {customer: '{path.tenant}'}}}").to_string()).await;
    get(gateway.address("main"), "/t/b/2").await.assert_status(200);
    let line = logged(&gateway, "/t/b/2").await;
    assert_eq!((line.get("tenant"), &line["customer"]), (None, &"b".into()));
}

async fn wait_for_metric_above(gateway: &Gateway, name: &str) {
    let counted = async {
        while metric(gateway, name, &[]).await == 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within_deadline(name, counted).await;
}
