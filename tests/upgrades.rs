//! WebSocket, and other upgrades that do not come about: filters first, then a connection with a life of its own, which
//! reloads do not touch and a drain ends politely.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use nix::sys::signal::Signal;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::{
    Backend, Gateway, RawConnection, ScriptedUpstream, Step, Yaml, get, logged,
    observe::{descriptors, leaves_nothing_open},
    raw, series, within_deadline,
};

const ASK: &str = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-upstream: yes\r\n\r\n";

fn yaml(upstream: SocketAddr, limits: &str, settings: &str, more: &str) -> String {
    Yaml::to(upstream)
        .top(more)
        .limits(limits)
        .with_route("match: {path: /blocked}, filters: [{ip_rules: {allow: [192.0.2.1]}}], upstream: origin")
        .settings(settings)
        .to_string()
}

async fn gateway(upstream: SocketAddr, limits: &str) -> Gateway {
    Gateway::start(&yaml(upstream, limits, "", "")).await
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn open(gateway: &Gateway) -> Socket {
    let url = format!("ws://{}/ws", gateway.address("main"));
    within_deadline("a WebSocket", tokio_tungstenite::connect_async(url)).await.unwrap().0
}

async fn echo(socket: &mut Socket, text: &'static str) {
    socket.send(Message::text(text)).await.unwrap();
    let echoed = within_deadline("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(echoed, Message::text(text));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_run_before_an_upgrade_whatever_it_is_called() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await;
    let gateway = gateway(upstream.address(), "").await;
    for protocol in ["websocket", "WebSocket", "h2c", "foo", "TLS/1.0", "websocket, foo", ""] {
        let ask = |path: &str| {
            format!(
                "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\
                 http2-settings: AAMAAABkAAQAAP__\r\n\r\n"
            )
        };
        let mut client = RawConnection::open(gateway.address("main"));
        client.write(ask("/blocked"));
        client.read_response().assert_reason(403, "forbidden");
        let mut client = RawConnection::open(gateway.address("main"));
        client.write(ask("/open"));
        assert_eq!(client.read_response().text(), "ok", "{protocol}");
    }
    for head in upstream.heads() {
        let head = head.to_lowercase();
        assert!(head.starts_with("get /open "), "{head}");
        assert!(!head.contains("http2-settings"), "{head}");
        assert!(!head.contains("upgrade: ") || head.contains("upgrade: websocket"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_is_asked_for_by_the_book_and_agreed_to_for_websocket_alone() {
    let agreed =
        |protocol: &str| format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n{protocol}\r\n");
    // Which one agrees to what is in its path.
    let upstream = ScriptedUpstream::with(move |number| {
        let answer = match number {
            0 => Step::respond("ok"),
            1 => Step::write(agreed("upgrade: websocket\r\n")),
            2 => Step::write(agreed("upgrade: foo\r\n")),
            3 => Step::write(agreed("upgrade: foo, websocket\r\n")),
            _ => Step::write(agreed("")),
        };
        vec![Step::ReadHead, answer, Step::Close]
    })
    .await;
    let gateway = gateway(upstream.address(), "").await;
    let ask = |fields: &str| {
        let mut client = RawConnection::open(gateway.address("main"));
        client.write(format!("GET /ws HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
        client.read_response()
    };
    // Nobody has nominated it, so it is meant for whoever is next (RFC 9110, section 7.8).
    assert_eq!(ask("connection: keep-alive\r\nupgrade: websocket\r\n").status, 200);
    let several = "connection: upgrade\r\nupgrade: foo\r\nupgrade: websocket\r\n";
    assert_eq!(ask(several).status, 101);
    for _ in 0..3 {
        ask(several).assert_reason(502, "bad_upstream_response");
    }
    let heads: Vec<String> = upstream.heads().iter().map(|head| head.to_lowercase()).collect();
    assert!(!heads[0].contains("upgrade"), "{}", heads[0]);
    assert!(heads[1].contains("upgrade: foo, websocket\r\n"), "{}", heads[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_answered_with_200_is_a_response_like_any_other() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("no"), Step::Again]).await;
    // Each thread would keep a connection to the upstream open.
    let gateway = Gateway::start(&yaml(upstream.address(), "", "", "threads: 1\n")).await;
    leaves_nothing_open(&gateway, async || {
        let mut client = RawConnection::open(gateway.address("main"));
        client.write(ASK);
        assert_eq!(client.read_response().text(), "no");
        let line = logged(&gateway, "/ws").await;
        assert_eq!((&line["status"], line.get("reason")), (&200.into(), None), "{line}");
    })
    .await;
    assert_eq!(series(&gateway, "tidegate_upgrades_total", &[]).await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_answered_with_half_a_response_is_cut_off_in_time() {
    let half = Step::write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, half, Step::ReadToEnd]).await;
    let gateway = Gateway::start(&yaml(upstream.address(), "", "read_timeout: 300ms", "")).await;
    let answer = raw(gateway.address("main"), ASK);
    assert!(String::from_utf8_lossy(&answer).ends_with("half"));
}

/// What a client sends behind the request, before it was agreed to, is no part of it, and no request that gets around the
/// filters.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_2833_bytes_behind_an_upgrade_that_is_refused_do_not_reach_the_upstream() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("no"), Step::Again]).await;
    let gateway = gateway(upstream.address(), "").await;
    for early in ["GET /blocked HTTP/1.1\r\nhost: a\r\n\r\n", "\x01\x02not HTTP at all"] {
        let answer = raw(gateway.address("main"), [ASK, early].concat());
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.contains("HTTP/1.1 200 OK") || answer.matches("no").count() >= 1, "{answer}");
        logged(&gateway, "/ws").await;
    }
    for number in 0..upstream.connections() {
        let received = String::from_utf8_lossy(&upstream.received(number)).into_owned();
        assert!(!received.contains("blocked") && !received.contains("not HTTP"), "{received}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_behind_an_upgrade_that_is_agreed_to_follow_the_agreement() {
    let script =
        vec![Step::ReadHead, Step::write(AGREED), Step::ReadBody(5), Step::write("world"), Step::Close];
    let upstream = ScriptedUpstream::start(script).await;
    let gateway = gateway(upstream.address(), "").await;
    let answer = raw(gateway.address("main"), [ASK, "hello"].concat());
    assert!(answer.ends_with(b"world"), "{}", String::from_utf8_lossy(&answer));
    assert!(upstream.received(0).ends_with(b"\r\n\r\nhello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_in_the_middle_of_a_frame_ends_the_connection() {
    let script = vec![Step::ReadHead, Step::write(AGREED), Step::write(b"\x82\x0ahalf"), Step::Close];
    let upstream = ScriptedUpstream::start(script).await;
    let gateway = gateway(upstream.address(), "").await;
    leaves_nothing_open(&gateway, async || {
        let answer = raw(gateway.address("main"), ASK);
        assert!(answer.ends_with(b"\x82\x0ahalf"), "{}", String::from_utf8_lossy(&answer));
        let line = logged(&gateway, "/ws").await;
        assert_eq!((&line["status"], &line["bytes_out"]), (&101.into(), &6.into()), "{line}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_both_ways_ends_an_upgraded_connection_and_traffic_one_way_keeps_it() {
    let upstream = ScriptedUpstream::with(|number| match number {
        0 => vec![Step::ReadHead, Step::write(AGREED), Step::Dribble(b"\x89\0".to_vec())],
        _ => vec![Step::ReadHead, Step::write(AGREED), Step::ReadToEnd],
    })
    .await;
    let gateway = gateway(
        upstream.address(),
        "upgraded_idle_timeout: 1s, body_timeout: 100ms, min_rate: 1GB/s, min_rate_grace: 50ms",
    )
    .await;
    let mut fed = RawConnection::open(gateway.address("main"));
    fed.write(ASK);
    assert_eq!(fed.read_head().status, 101);
    // One ping every 30 ms: two seconds.
    fed.read_exactly(2 * 67);
    let mut silent = RawConnection::open(gateway.address("main"));
    silent.write(ASK.replace("/ws", "/silent"));
    assert_eq!(silent.read_head().status, 101);
    assert!(silent.is_closed());
    let line = logged(&gateway, "/silent").await;
    assert_eq!((&line["status"], &line["reason"]), (&101.into(), &"client_timeout".into()), "{line}");
    fed.read_exactly(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn upgraded_connections_are_counted_and_logged_at_their_end() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address(), "").await;
    let mut socket = open(&gateway).await;
    echo(&mut socket, "hello").await;
    assert_eq!(series(&gateway, "tidegate_connections_upgraded", &[]).await, Some(1.0));
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = within_deadline("the end of a WebSocket", socket.next()).await {}
    let line = logged(&gateway, "/ws").await;
    assert_eq!((&line["status"], line.get("reason")), (&101.into(), None), "{line}");
    // A head of 2 and 4 of the mask, then a close frame; without masks on the way back.
    assert!(line["bytes_in"].as_u64() >= Some(11) && line["bytes_out"].as_u64() >= Some(7), "{line}");
    assert_eq!(series(&gateway, "tidegate_connections_upgraded", &[]).await, Some(0.0));
    assert_eq!(series(&gateway, "tidegate_upgrades_total", &[]).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_websockets_survive_reloads_and_leave_no_descriptor_behind() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address(), "").await;
    echo(&mut open(&gateway).await, "the first").await;
    logged(&gateway, "/ws").await;
    let before = descriptors(&gateway);
    let mut sockets = Vec::new();
    for _ in 0..300 {
        sockets.push(open(&gateway).await);
    }
    for limits in ["upgraded_idle_timeout: 2h", "upgraded_idle_timeout: 3h"] {
        let reloaded = gateway.reload(&yaml(backend.address(), limits, "", "")).await;
        assert_eq!(reloaded["msg"], "configuration reloaded");
        for socket in &mut sockets {
            echo(socket, "still there").await;
        }
    }
    drop(sockets);
    for _ in 0..300 {
        logged(&gateway, "/ws").await;
    }
    get(gateway.address("main"), "/").await.assert_status(200);
    // The pool may keep one, and the metrics' connection may be closing.
    let after = descriptors(&gateway);
    assert!(after <= before + 4, "{before} before, {after} after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_websockets_go_on_and_then_says_goodbye() {
    let backend = Backend::start().await;
    let yaml = yaml(backend.address(), "", "", "shutdown: {grace: 4s}\n");
    let gateway = Gateway::start(&yaml).await;
    let (mut one, mut other) = (open(&gateway).await, open(&gateway).await);
    gateway.signal(Signal::SIGTERM);
    gateway.wait_for_message("draining").await;
    echo(&mut one, "still there").await;
    other.close(None).await.unwrap();
    let goodbye = within_deadline("a goodbye", one.next()).await.unwrap().unwrap();
    let Message::Close(Some(close)) = goodbye else { panic!("{goodbye:?}") };
    assert_eq!(close.code, tungstenite::protocol::frame::coding::CloseCode::Away);
    assert!(within_deadline("the end", one.next()).await.is_none_or(|end| end.is_err()));
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    assert_eq!(gateway.wait_for_message("stopped").await["connections_cut"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_on_through_a_hand_over() {
    let backend = Backend::start().await;
    let more = "upgrade: {socket: upgrade.sock, timeout: 50s}\nshutdown: {grace: 60s}\n";
    let gateway = Gateway::start(&yaml(backend.address(), "", "", more)).await;
    let mut socket = open(&gateway).await;
    echo(&mut socket, "before").await;
    let next = gateway.hand_over().await;
    echo(&mut socket, "behind the back of its successor").await;
    echo(&mut open(&next).await, "with it").await;
    socket.close(None).await.unwrap();
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_breaks_into_no_frame() {
    let script = vec![Step::ReadHead, Step::write(AGREED), Step::write(b"\x82\x0ahalf"), Step::ReadToEnd];
    let upstream = ScriptedUpstream::start(script).await;
    let gateway = Gateway::start(&yaml(upstream.address(), "", "", "shutdown: {grace: 1s}\n")).await;
    let mut client = RawConnection::open(gateway.address("main"));
    client.write(ASK);
    assert_eq!(client.read_head().status, 101);
    assert_eq!(client.read_exactly(6), b"\x82\x0ahalf");
    gateway.signal(Signal::SIGTERM);
    assert!(client.is_closed());
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_towards_http2_comes_to_a_clear_end() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&yaml(backend.address(), "", "protocol: http2", "")).await;
    let mut client = RawConnection::open(gateway.address("main"));
    client.write(ASK);
    let answer = client.read_response();
    assert!(answer.status != 101 && answer.status != 504, "{answer:?}");
}
