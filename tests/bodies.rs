//! Bodies pass as they come, are held back where they are not taken, and are not sent before they are asked for, whatever
//! versions of HTTP are spoken on either side.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::http2::{Http2Client, head, request, whole};
use crate::support::{
    Backend, Gateway, RawConnection, ScriptedUpstream, Step, Yaml, observe::peak_memory, send,
    within_deadline,
};

async fn gateway(upstream: SocketAddr, route: &str, settings: &str) -> Gateway {
    Yaml::to(upstream)
        .limits("body_size: 2GiB")
        .with_route("match: {path: /closed}, respond: {status: 403}")
        .route(route)
        .settings(settings)
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_100_continue_is_told_over_every_combination_of_versions() {
    let interim = Step::write("HTTP/1.1 100 Continue\r\n\r\n");
    let script = vec![Step::ReadHead, interim, Step::ReadBody(5), Step::respond("hello"), Step::Again];
    let (http1, http2) = (ScriptedUpstream::start(script).await, Backend::start().await);
    let hedge = "hedge: {after: 20s}, retry: {methods: [POST]}";
    for (upstream, protocol, route) in
        [(http1.address(), "http1", ""), (http1.address(), "http1", hedge), (http2.address(), "http2", "")]
    {
        let gateway = gateway(upstream, route, &format!("protocol: {protocol}")).await;
        let mut client = RawConnection::open(gateway.address("main"));
        client.write("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n");
        assert_eq!(client.read_response().status, 100, "{protocol} {route}");
        client.write("hello");
        let answer = client.read_response();
        assert_eq!((answer.status, answer.text()), (200, "hello"));

        let mut client = Http2Client::open(gateway.address("main")).await;
        let fields = [("expect", "100-continue"), ("content-length", "5")];
        let (mut response, mut body) = client.begin(request("POST", "http://a/echo", &fields), false).await;
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx));
        let interim = within_deadline("an interim response", interim).await.unwrap().unwrap();
        assert_eq!(interim.status(), StatusCode::CONTINUE, "{protocol} {route}");
        body.send_data("hello".into(), true).unwrap();
        assert_eq!(whole(response).await.assert_status(200).text(), "hello");
    }
    // A hedged request is read whole before it is sent, and has nothing to wait for.
    let asks = |head: &String| head.to_lowercase().contains("expect: 100-continue");
    assert_eq!(http1.heads().iter().map(asks).collect::<Vec<_>>(), [true, true, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_not_asked_for_the_body() {
    let backend = Backend::start().await;
    for protocol in ["http1", "http2"] {
        let gateway = gateway(backend.address(), "", &format!("protocol: {protocol}")).await;
        for (path, length, status) in [("/closed", "5", 403), ("/echo", "9999999999", 413)] {
            let mut client = RawConnection::open(gateway.address("main"));
            client.write(format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
            ));
            assert_eq!(client.read_response().status, status);
            let mut client = Http2Client::open(gateway.address("main")).await;
            let fields = [("expect", "100-continue"), ("content-length", length)];
            let uri = format!("http://a{path}");
            let (response, _body) = client.begin(request("POST", &uri, &fields), false).await;
            assert_eq!(head(response).await.status(), status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_before_the_next_one_is_made() {
    let event = "data: one\n\n";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{event}\r\n",
        event.len()
    );
    let script = vec![Step::ReadHead, Step::write(answer), Step::ReadToEnd];
    let upstream = ScriptedUpstream::start(script).await;
    let compressed = "filters: [{compression: {algorithms: [gzip], types: [text/event-stream]}}]";
    for route in ["", compressed] {
        let gateway = gateway(upstream.address(), route, "").await;
        let fields = [("accept-encoding", "gzip")];
        let mut client = Http2Client::open(gateway.address("main")).await;
        let (response, _) = client.begin(request("GET", "http://a/events", &fields), true).await;
        let response = head(response).await;
        assert_eq!(response.headers().contains_key("content-encoding"), !route.is_empty());
        let part = within_deadline("an event", response.into_body().data()).await.unwrap().unwrap();
        assert!(if route.is_empty() { part == event } else { part.len() > 10 }, "{part:?}");

        let mut client = RawConnection::open(gateway.address("main"));
        client.write("GET /events HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n");
        assert_eq!(client.read_head().status, 200);
        client.read_exactly(event.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_bodies_are_streamed_to_and_from_an_http2_upstream() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address(), "", "protocol: http2").await;
    let mut http2 = Http2Client::open(gateway.address("main")).await;
    let (response, mut body) = http2.begin(request("POST", "http://a/echo", &[]), false).await;
    body.send_data("first".into(), false).unwrap();
    let mut answer = head(response).await.into_body();
    for next in ["second", "third"] {
        within_deadline("a part", answer.data()).await.unwrap().unwrap();
        body.send_data(next.into(), false).unwrap();
    }
    let mut http1 = RawConnection::open(gateway.address("main"));
    http1.write("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    http1.read_head();
    assert_eq!(http1.read_exactly(10), b"5\r\nfirst\r\n");
    http1.write("6\r\nsecond\r\n");
    assert_eq!(http1.read_exactly(11), b"6\r\nsecond\r\n");
}

/// What the sender of a body gets rid of before nothing goes any more.
async fn until_it_stops(mut send: impl AsyncWriteExt + Unpin) -> usize {
    /// Nothing moves for so long once every buffer on the way is full.
    const QUIET: Duration = Duration::from_secs(1);
    let chunk = vec![0; 64 * 1024];
    let mut sent = 0;
    while let Ok(Ok(part)) = tokio::time::timeout(QUIET, send.write(&chunk)).await {
        sent += part;
        assert!(sent < 1 << 30, "nothing holds it back");
    }
    sent
}

/// What the kernel's buffers of two connections hold at most, and the windows of HTTP/2.
const ON_THE_WAY: usize = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_the_upstream_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = gateway(listener.local_addr().unwrap(), "", "").await;
    let before = peak_memory(&gateway);
    for http2 in [false, true] {
        // Held open, and not read.
        let mut http1 = RawConnection::open(gateway.address("main"));
        let mut client = Http2Client::open(gateway.address("main")).await;
        let _response = if http2 {
            Some(client.begin(request("GET", "http://a/", &[]), true).await)
        } else {
            http1.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            None
        };
        let (mut upstream, _) = within_deadline("a connection", listener.accept()).await.unwrap();
        upstream.read_u8().await.unwrap();
        upstream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let sent = until_it_stops(&mut upstream).await;
        assert!(sent < ON_THE_WAY, "{sent} bytes");
    }
    let grown = peak_memory(&gateway) - before;
    assert!(grown < 20_000, "{grown} kB more");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_read_holds_the_client_back() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::Stall]).await;
    let gateway = gateway(upstream.address(), "", "").await;
    let before = peak_memory(&gateway);
    let mut client = TcpStream::connect(gateway.address("main")).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1073741824\r\n\r\n").await.unwrap();
    let sent = until_it_stops(&mut client).await;
    assert!(sent < ON_THE_WAY, "{sent} bytes");

    let mut client = Http2Client::open(gateway.address("main")).await;
    let (_response, mut body) = client.begin(request("POST", "http://a/", &[]), false).await;
    let mut sent = 0;
    body.reserve_capacity(1 << 20);
    while let Ok(Some(room)) =
        tokio::time::timeout(Duration::from_secs(1), std::future::poll_fn(|cx| body.poll_capacity(cx))).await
    {
        let room = room.unwrap();
        sent += room;
        assert!(sent < ON_THE_WAY, "nothing holds it back");
        body.send_data(Bytes::from(vec![0; room]), false).unwrap();
        body.reserve_capacity(1 << 20);
    }
    let grown = peak_memory(&gateway) - before;
    assert!(grown < 20_000, "{grown} kB more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_costs_no_memory_either_way() {
    const SIZE: usize = 256 << 20;
    let backend = Backend::start().await;
    for protocol in ["http1", "http2"] {
        let gateway = gateway(backend.address(), "", &format!("protocol: {protocol}")).await;
        send(gateway.address("main"), "GET", "/bytes/1MiB", &[], "").await;
        let before = peak_memory(&gateway);
        let mut client = TcpStream::connect(gateway.address("main")).await.unwrap();
        client
            .write_all(b"GET /bytes/256MiB HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut received = 0;
        let mut chunk = vec![0; 1 << 20];
        while let read @ 1.. = within_deadline("a part", client.read(&mut chunk)).await.unwrap() {
            received += read;
        }
        assert!(received > SIZE);
        let mut client = TcpStream::connect(gateway.address("main")).await.unwrap();
        let head = format!(
            "POST /status/201 HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\nconnection: close\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..SIZE >> 20 {
            within_deadline("room", client.write_all(&chunk)).await.unwrap();
        }
        let mut answer = String::new();
        within_deadline("an answer", client.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        let grown = peak_memory(&gateway) - before;
        assert!(grown < 20_000, "{protocol}: {grown} kB more");
    }
}
