//! The listener's limits: sizes, deadlines and counts, each met by a client that passes it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;

use super::{FOLLOWER, Setup, targets};
use crate::support::{
    Connection, Gateway, RawConnection, ScriptedUpstream, Step, get, send, send_h2c, within_deadline,
};

/// The pause between the bytes of a slow client: the one thing here that time is spent on.
const DRIBBLE: Duration = Duration::from_millis(20);

/// What a deadline of 200 ms may come to: it is kept to within a quarter.
const SHORTEST: Duration = Duration::from_millis(150);

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_announces_too_much_is_413_before_anything_is_sent_on() {
    let setup = Setup::answering("body_size: 1KiB").await;
    let announced = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1025\r\n\r\n{}", "x".repeat(1025));
    setup.refused(announced).assert_reason(413, "request_too_large");
    // The client that asks first is told before it sends anything.
    let mut asking = setup.open();
    asking.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1025\r\nexpect: 100-continue\r\n\r\n");
    asking.read_response().assert_reason(413, "request_too_large");
    let answer = send_h2c(setup.address(), "POST", "/", &[], vec![b'x'; 1025]).await;
    answer.assert_reason(413, "request_too_large");
    assert_eq!(setup.upstream.heads(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_is_413_when_it_gets_too_large() {
    let setup = Setup::start("body_size: 1KiB", "", vec![Step::ReadHead, Step::ReadToEnd]).await;
    let chunk = format!("200\r\n{}\r\n", "x".repeat(0x200));
    let chunked = |chunks: usize| {
        let chunks = chunk.repeat(chunks);
        format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
    };
    setup.refused(chunked(3)).assert_reason(413, "request_too_large");
    setup.refused(chunked(3000)).assert_reason(413, "request_too_large");
    for number in 0..setup.upstream.connections() {
        let received = String::from_utf8_lossy(&setup.upstream.received(number)).into_owned();
        assert!(received.matches('x').count() <= 1024 + "x-forwarded-for".len(), "{}", received.len());
        assert!(!received.ends_with("0\r\n\r\n") && !received.contains("/follower"), "{received}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_limit_holds_for_a_body_that_announces_nothing() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::ReadToEnd]).await;
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         routes: [{{filters: [{{body_limit: 1KiB}}], upstream: strict}}]\n\
         upstreams: {{strict: {{endpoints: ['{}']}}}}\n",
        upstream.address()
    ))
    .await;
    let mut client = RawConnection::open(gateway.address("main"));
    let chunks = format!("200\r\n{}\r\n", "x".repeat(0x200)).repeat(3);
    client
        .write(format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"));
    client.read_response().assert_reason(413, "request_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_exactly_the_limit_passes_either_way() {
    let close = Step::write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let script = vec![Step::ReadHead, Step::ReadBody(1024), close];
    let setup = Setup::start("body_size: 1KiB", "", script).await;
    send(setup.address(), "POST", "/", &[], vec![b'x'; 1024]).await.assert_status(200);
    let mut chunked = setup.open();
    chunked.write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n400\r\n");
    chunked.write([b'x'; 0x400]);
    chunked.write("\r\n0\r\n\r\n");
    assert_eq!(chunked.read_response().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_dribbles_is_408_however_often_a_byte_comes() {
    let setup = Setup::answering("header_timeout: 200ms, idle_timeout: 20s").await;
    for served_before in [false, true] {
        let mut slow = setup.open();
        if served_before {
            slow.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            assert_eq!(slow.read_response().status, 200);
        }
        let started = Instant::now();
        for byte in b"GET /slow HTTP/1.1\r\nx: y" {
            slow.write([*byte]);
            // The pause is what is tested: bytes that keep coming, each well within any timeout between two reads.
            tokio::time::sleep(DRIBBLE).await;
        }
        slow.read_response().assert_reason(408, "client_timeout");
        assert!(started.elapsed() >= SHORTEST);
        assert!(slow.is_closed());
    }
    assert_eq!(targets(&setup.upstream), ["/"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_408() {
    let setup = Setup::start("body_timeout: 200ms", "", vec![Step::ReadHead, Step::ReadToEnd]).await;
    for request in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut slow = setup.open();
        slow.write(request);
        slow.read_response().assert_reason(408, "client_timeout");
        assert!(slow.is_closed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_is_closed_without_a_word() {
    let setup = Setup::answering("idle_timeout: 200ms, header_timeout: 1h").await;
    let started = Instant::now();
    let mut fresh = setup.open();
    let mut kept = setup.open();
    // Both at once: on a busy machine the pause between them might be too long.
    kept.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(2));
    for _ in 0..2 {
        assert_eq!(kept.read_response().status, 200);
    }
    assert!(fresh.is_closed() && kept.is_closed());
    assert!(started.elapsed() >= SHORTEST);
}

/// The body is read to its last byte and no further, which leaves the socket's readiness out of date.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_also_closed_when_a_body_was_the_last_it_sent() {
    let script = vec![Step::ReadHead, Step::ReadBody(5), Step::respond("ok"), Step::Again];
    let setup = Setup::start("idle_timeout: 1s", "", script).await;
    let mut kept = setup.open();
    kept.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n");
    setup.upstream.wait_for_heads(1).await;
    kept.write("hello");
    assert_eq!(kept.read_response().text(), "ok");
    assert!(kept.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_idle_clock_does_not_run_while_a_request_is_served() {
    let setup = Setup::start("idle_timeout: 1s", "", vec![Step::ReadHead, Step::Stall]).await;
    let mut busy = setup.open();
    busy.write("POST /busy HTTP/1.1\r\nhost: a\r\n\r\n");
    setup.upstream.wait_for_heads(1).await;
    let mut idle = setup.open();
    idle.write("GET /blocked HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(idle.read_response().status, 403);
    assert!(idle.is_closed());
    drop(setup.upstream);
    busy.read_response().assert_reason(502, "upstream_reset");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_request_a_connection_may_make_closes_it() {
    let setup = Setup::answering("requests_per_connection: 2").await;
    let mut connection = setup.open();
    connection.write("GET /1 HTTP/1.1\r\nhost: a\r\n\r\n");
    let first = connection.read_response();
    assert_ne!(first.header("connection"), Some("close"));
    connection.write(format!("GET /2 HTTP/1.1\r\nhost: a\r\n\r\n{FOLLOWER}"));
    assert_eq!(connection.read_response().header("connection"), Some("close"));
    assert!(connection.is_closed());
    assert_eq!(targets(&setup.upstream), ["/1", "/2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_closed_and_its_place_is_given_again() {
    let setup = Setup::answering("connections: 1").await;
    let mut first = setup.open();
    first.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(first.read_response().status, 200);
    assert!(setup.open().is_closed());
    first.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(first.read_response().status, 200);
    drop(first);
    until_admitted(setup.address(), [127, 0, 0, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_address_has_its_own_share_of_connections() {
    let setup = Setup::answering("connections_per_ip: 1").await;
    let mut first = setup.open();
    first.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(first.read_response().status, 200);
    assert!(setup.open().is_closed());
    assert!(is_admitted(setup.address(), [127, 0, 0, 2]).await);
    drop(first);
    until_admitted(setup.address(), [127, 0, 0, 1]).await;
}

/// Whether a client with that address is served.
async fn is_admitted(gateway: SocketAddr, from: [u8; 4]) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let stream = TokioIo::new(socket.connect(gateway).await.unwrap());
    let mut connection = Connection::http1_over(stream, "a".into()).await.unwrap();
    connection.send("GET", "/", &[], "").await.is_ok_and(|answer| answer.status == 200)
}

/// The gateway learns of a closed connection a moment after the client has closed it.
async fn until_admitted(gateway: SocketAddr, from: [u8; 4]) {
    within_deadline("a place for a connection", async {
        while !is_admitted(gateway, from).await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_left_after_the_write_timeout() {
    let setup = Setup::answering("write_timeout: 200ms").await;
    let huge = "x".repeat(64 << 20);
    let upstream = crate::support::ScriptedUpstream::start(vec![Step::ReadHead, Step::respond(&huge)]).await;
    let line = setup
        .gateway
        .reload(&format!(
            "admin: false\nlisteners: [{{name: main, address: \"127.0.0.1:0\", limits: {{write_timeout: 200ms}}}}]\n\
             routes: [{{match: {{path: /small}}, respond: {{}}}}, {{upstream: origin}}]\n\
             upstreams: {{origin: {{endpoints: [\"{}\"]}}}}",
            upstream.address()
        ))
        .await;
    assert_eq!(line["msg"], "configuration reloaded", "{line}");
    let mut deaf = setup.open();
    deaf.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let line = setup.gateway.wait_for_message("request").await;
    assert_eq!(line["reason"], "client_timeout", "{line}");
    get(setup.address(), "/small").await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_one_clear_line_and_exit_code_4() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let yaml = format!("admin: false\nlisteners: [{{address: \"{address}\"}}]\nroutes: [{{respond: {{}}}}]");
    let (code, stderr, _) = crate::support::Gateway::start_expecting_failure(&yaml, &["run"]).await;
    assert_eq!(code, 4, "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains(&address.to_string()) && stderr.contains("another process listens there"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_slow_clients_do_not_hold_up_a_quick_one() {
    let setup = Setup::answering("").await;
    let _slow: Vec<RawConnection> = (0..50)
        .map(|_| {
            let mut slow = setup.open();
            slow.write("GET / HTTP/1.1\r\nx: ");
            slow
        })
        .collect();
    get(setup.address(), "/").await.assert_status(200);
}
