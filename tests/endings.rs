//! What becomes of what is under way when the gateway ends: those in the queue are served, and those whose time is over are
//! told so, in their own protocol, with one line in the log each.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use http::Request;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Backend, Gateway, RawConnection, ScriptedUpstream, Step,
    grpc::{GrpcServer, call},
    http2::{Http2Client, head, rest, whole},
    within_deadline,
};

fn yaml(upstream: SocketAddr, more: &str) -> String {
    format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nshutdown: {{grace: 1s}}\n\
         routes: [{{name: all, upstream: pool}}]\n\
         upstreams: {{pool: {{endpoints: ['{upstream}'], {more}}}}}\n"
    )
}

/// Ends the gateway; what its access log says, by path.
async fn ended(gateway: &Gateway) -> impl Fn(&str) -> Value {
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    let lines: Vec<Value> = gateway.lines().into_iter().filter(|line| line["msg"] == "request").collect();
    move |path| {
        let mut of_path = lines.iter().filter(|line| line["path"] == path);
        let line = of_path.next().unwrap_or_else(|| panic!("no line for {path} in {lines:#?}"));
        assert!(of_path.next().is_none(), "{path} is logged twice: {lines:#?}");
        line.clone()
    }
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a{path}")).body(()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_answer_at_the_end_of_the_grace_is_told_so() {
    let stalled = ScriptedUpstream::start(vec![Step::ReadHead, Step::Stall]).await;
    let gateway = Gateway::start(&yaml(stalled.address(), "")).await;
    let main = gateway.address("main");
    let mut plain = RawConnection::open(main);
    plain.write("GET /plain HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut body = RawConnection::open(main);
    body.write("POST /body HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf");
    let mut http2 = Http2Client::open(main).await;
    let (one, _) = http2.begin(get("/one"), true).await;
    let (other, _open) = http2.begin(get("/other"), false).await;
    stalled.wait_for_heads(4).await;
    let line = ended(&gateway).await;
    for client in [&mut plain, &mut body] {
        let answer = client.read_response();
        answer.assert_reason(503, "draining");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    whole(one).await.assert_reason(503, "draining");
    whole(other).await.assert_reason(503, "draining");
    for path in ["/plain", "/body", "/one", "/other"] {
        let line = line(path);
        assert_eq!((&line["status"], &line["reason"]), (&503.into(), &"draining".into()), "{line}");
        assert_eq!(line["upstream"], "pool", "{line}");
    }
    assert_eq!(gateway.wait_for_message("stopped").await["connections_cut"], "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_is_not_taken_for_whole() {
    let half = Step::write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
    let stalled = ScriptedUpstream::start(vec![Step::ReadHead, half, Step::Stall]).await;
    let gateway = Gateway::start(&yaml(stalled.address(), "")).await;
    let main = gateway.address("main");
    let mut http1 = RawConnection::open(main);
    http1.write("GET /http1 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(http1.read_head().status, 200);
    let mut http2 = Http2Client::open(main).await;
    let (response, _) = http2.begin(get("/http2"), true).await;
    let body = head(response).await.into_body();
    let line = ended(&gateway).await;
    assert_eq!(http1.read_to_end(), b"half");
    assert!(rest(body).await.unwrap_err().is_reset());
    for path in ["/http1", "/http2"] {
        let line = line(path);
        assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"draining".into()), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_cut_is_unavailable() {
    let server = GrpcServer::start().await;
    let gateway = Gateway::start(&yaml(server.address(), "protocol: grpc")).await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    let (begun, _one) = client.begin(call("/mute", &[]), true).await;
    let begun = head(begun).await.into_body();
    let (silent, _other) = client.begin(call("/silent", &[]), true).await;
    server.wait_for_calls(2).await;
    let line = ended(&gateway).await;
    let trailers = rest(begun).await.unwrap().1.expect("trailers");
    assert_eq!(trailers["grpc-status"], "14");
    assert_eq!(trailers["x-tidegate-reason"], "draining");
    assert_eq!(whole(silent).await.header("grpc-status"), Some("14"));
    for path in ["/mute", "/silent"] {
        let line = line(path);
        assert_eq!(
            (&line["grpc_status"], &line["reason"]),
            (&"unavailable".into(), &"draining".into()),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_a_filter_is_cut_as_well() {
    let stalled = ScriptedUpstream::start(vec![Step::ReadHead, Step::Stall]).await;
    let asks = format!("filters: [{{ext_auth: {{url: 'http://{}/', timeout: 1m}}}}], ", stalled.address());
    let yaml = yaml(stalled.address(), "").replace("{name: all, ", &format!("{{name: all, {asks}"));
    let gateway = Gateway::start(&yaml).await;
    let mut client = RawConnection::open(gateway.address("main"));
    client.write("GET /asked HTTP/1.1\r\nhost: a\r\n\r\n");
    stalled.wait_for_heads(1).await;
    let line = ended(&gateway).await;
    client.read_response().assert_reason(503, "draining");
    assert_eq!(line("/asked")["reason"], "draining");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_is_answered_too() {
    let stalled = ScriptedUpstream::start(vec![Step::ReadHead, Step::Stall]).await;
    let gateway = Gateway::start(&yaml(stalled.address(), "")).await;
    let mut client = RawConnection::open(gateway.address("main"));
    client.write("GET /half HTTP/1.1\r\nhos");
    let line = ended(&gateway).await;
    client.read_response().assert_reason(503, "draining");
    assert_eq!(line("/half")["status"], 503);
}

/// Nobody hears the last word; the log has it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_in_the_log() {
    const LENGTH: usize = 64 * 1024 * 1024;
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
    let script = vec![Step::ReadHead, Step::write(whole), Step::Write(vec![0; LENGTH]), Step::Stall];
    let upstream = ScriptedUpstream::start(script).await;
    let gateway = Gateway::start(&yaml(upstream.address(), "")).await;
    let mut client = RawConnection::open(gateway.address("main"));
    client.write("GET /unread HTTP/1.1\r\nhost: a\r\n\r\n");
    upstream.wait_for_heads(1).await;
    let line = ended(&gateway).await("/unread");
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"draining".into()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_is_told_goodbye_is_logged_as_draining_whatever_its_client_does() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&yaml(backend.address(), "")).await;
    let open = async |path: &str| {
        let url = format!("ws://{}/ws?{path}", gateway.address("main"));
        let opened = within_deadline("a WebSocket", tokio_tungstenite::connect_async(url)).await;
        let mut socket = opened.unwrap().0;
        socket.send(Message::text("hello")).await.unwrap();
        within_deadline("an echo", socket.next()).await.unwrap().unwrap();
        socket
    };
    let (mut answers, mut leaves, silent) = (open("a").await, open("b").await, open("c").await);
    let (answered, left) = (
        tokio::spawn(async move { while answers.next().await.is_some_and(|next| next.is_ok()) {} }),
        tokio::spawn(async move { drop(leaves.next().await) }),
    );
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    within_deadline("the ends", async { (answered.await.unwrap(), left.await.unwrap()) }).await;
    drop(silent);
    let lines: Vec<_> = gateway.lines().into_iter().filter(|line| line["msg"] == "request").collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines.iter().all(|line| line["reason"] == "draining"), "{lines:#?}");
}

/// The process is stopped while they come, so that they wait in the queue together with the signal.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_the_queue_when_the_drain_begins_is_served() {
    let routes = "routes: [{respond: {body: hi}}]\n";
    let proxied = "{name: proxied, address: '127.0.0.1:0', proxy_protocol: accept}";
    let yaml = format!(
        "admin: false\ntrusted_proxies: [127.0.0.1]\nlog: {{access: {{to: off}}}}\n\
         listeners: [{{name: main, address: '127.0.0.1:0'}}, {proxied}]\n{routes}"
    );
    let gateway = Gateway::start(&yaml).await;
    let (main, proxied) = (gateway.address("main"), gateway.address("proxied"));
    gateway.signal(Signal::SIGSTOP);
    let ask = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut clients: Vec<_> = (0..300).map(|_| (RawConnection::open(main), "")).collect();
    clients.extend(
        (0..50).map(|_| (RawConnection::open(proxied), "PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n")),
    );
    for (client, introduction) in &mut clients {
        client.write([introduction, ask].concat());
    }
    gateway.signal(Signal::SIGTERM);
    gateway.signal(Signal::SIGCONT);
    for (client, _) in &mut clients {
        let answer = client.read_response();
        assert_eq!((answer.status, answer.text()), (200, "hi"));
        // Who was let in before the signal was heard may not have been told that it was the last.
        assert!(client.is_closed());
    }
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    assert!(std::net::TcpStream::connect(main).is_err());
}
