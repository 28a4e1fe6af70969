//! HTTP/2 clients: what is refused and how that is told, bodies that stall, streams that are given up, and what of a
//! message must arrive whichever version the upstream speaks.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::Builder;
use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use crate::support::frames::*;
use crate::support::http2::{Http2Client, head, request, rest, whole};
use crate::support::{Backend, Gateway, ScriptedUpstream, Step, Yaml, logged, metric, within_deadline};

/// One listener and one upstream, with the metrics to be seen.
async fn gateway(upstream: SocketAddr, limits: &str, settings: &str) -> Gateway {
    Yaml::to(upstream).limits(limits).settings(settings).start().await
}

/// Attempts that count against the endpoint.
async fn failures(gateway: &Gateway) -> f64 {
    let all = metric(gateway, "tidegate_upstream_attempts_total", &[]).await;
    all - metric(gateway, "tidegate_upstream_attempts_total", &["outcome=\"success\""]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_told_logged_and_counted() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await;
    let gateway = gateway(upstream.address(), "header_size: 2KiB", "").await;
    let large = "x".repeat(2048);
    let cases = [
        (400, "bad_request", request("GET", "http://a/two-hosts", &[("host", "a"), ("host", "a")])),
        (400, "bad_request", request("GET", "http://a/other-host", &[("host", "b")])),
        (400, "bad_request", request("GET", "http://u:p@a/user", &[])),
        (400, "bad_request", request("GET", "http://a:65536/port", &[])),
        (400, "bad_request", request("GET", "http://a/colons", &[("host", "a:1:2")])),
        (
            400,
            "bad_request",
            request("POST", "http://a/lengths", &[("content-length", "0"), ("content-length", "0")]),
        ),
        (431, "header_too_large", request("GET", "http://a/large", &[("x", &large)])),
        (405, "method_not_allowed", request("CONNECT", "a:443", &[])),
    ];
    let mut client = Http2Client::open(gateway.address("main")).await;
    for (status, reason, request) in cases {
        let path = request.uri().path().to_owned();
        let answer = client.ask(request).await;
        answer.assert_reason(status, reason);
        assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
        assert_eq!(answer.headers.contains_key("allow"), status == 405);
        let line = logged(&gateway, &path).await;
        let told = (&line["status"], &line["reason"], &line["protocol"], &line["listener"]);
        assert_eq!(told, (&status.into(), &reason.into(), &"HTTP/2".into(), &"main".into()), "{line}");
    }
    let json = request("GET", "http://a/json", &[("host", "b"), ("accept", "application/json")]);
    assert_eq!(client.ask(json).await.json()["reason"], "bad_request");
    assert!(client.ask(request("HEAD", "http://a/", &[("host", "b")])).await.body.is_empty());
    for (reason, count) in [("bad_request", 8.0), ("header_too_large", 1.0), ("method_not_allowed", 1.0)] {
        let reason = format!("reason=\"{reason}\"");
        assert_eq!(
            metric(&gateway, "tidegate_errors_total", &["route=\"\"", &reason]).await,
            count,
            "{reason}"
        );
    }
    assert_eq!(upstream.heads(), [""; 0]);
    client.ask(request("GET", "http://a/good", &[])).await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_requests_are_refused_too_often_is_closed() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await;
    let gateway = gateway(upstream.address(), "", "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    client.ask(request("GET", "http://a/", &[])).await.assert_status(200);
    for _ in 0..32 {
        let answer = client.ask(request("GET", "http://a/", &[("host", "b")])).await;
        answer.assert_reason(400, "bad_request");
    }
    let (response, _) = client.begin(request("GET", "http://a/", &[("host", "b")]), true).await;
    within_deadline("a goodbye", response).await.unwrap_err();
    Http2Client::open(gateway.address("main"))
        .await
        .ask(request("GET", "http://a/", &[]))
        .await
        .assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_408_and_not_the_endpoints_fault() {
    let backend = Backend::start().await;
    for protocol in ["http1", "http2"] {
        let settings = format!("protocol: {protocol}");
        let gateway = gateway(backend.address(), "body_timeout: 200ms", &settings).await;
        let mut client = Http2Client::open(gateway.address("main")).await;
        let (response, mut body) =
            client.begin(request("POST", "http://a/delay/30s", &[("content-length", "10")]), false).await;
        body.send_data("abc".into(), false).unwrap();
        whole(response).await.assert_reason(408, "client_timeout");
        let line = logged(&gateway, "/delay/30s").await;
        assert_eq!((&line["reason"], &line["attempts"]), (&"client_timeout".into(), &1.into()), "{line}");
        assert_eq!(failures(&gateway).await, 0.0);
        // One stream's body says nothing about another's.
        let (response, mut body) = client.begin(request("POST", "http://a/echo", &[]), false).await;
        for part in ["a", "b"] {
            body.send_data(part.into(), part == "b").unwrap();
        }
        assert_eq!(whole(response).await.assert_status(200).text(), "ab");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_its_upstream_does_not_take_holds_up_no_other() {
    let upstream = ScriptedUpstream::with(|number| match number {
        0 => vec![Step::ReadHead, Step::Stall],
        _ => vec![Step::ReadHead, Step::ReadBody(100_000), Step::respond("ok")],
    })
    .await;
    let gateway = gateway(upstream.address(), "body_size: 100MiB, body_timeout: 2s", "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    let (_stalled, mut body) = client.begin(request("POST", "http://a/stalled", &[]), false).await;
    body.send_data(vec![0; 50 << 20].into(), true).unwrap();
    upstream.wait_for_heads(1).await;
    let fields = [("content-length", "100000")];
    let (response, mut body) = client.begin(request("POST", "http://a/", &fields), false).await;
    body.send_data(vec![0; 100_000].into(), true).unwrap();
    assert_eq!(whole(response).await.assert_status(200).text(), "ok");
}

/// Sends a part of a body. What is said to that until it was read, and a ping is answered.
async fn told(wire: &mut Wire<TcpStream>) -> Vec<Frame> {
    let head = [&[POST, HTTP, ROOT][..], AUTHORITY].concat();
    let parts = (0..3).flat_map(|_| frame(DATA, 0, 1, &[0; 16_000]));
    wire.send(&frame(HEADERS, END_HEADERS, 1, &head).into_iter().chain(parts).collect::<Vec<u8>>()).await;
    let mut seen = vec![wire.read().await.unwrap()];
    // Room is given back for what was read.
    while !seen.last().is_some_and(|last| last.kind == WINDOW_UPDATE && last.stream == 1) {
        seen.push(wire.read().await.unwrap());
    }
    wire.send(&frame(PING, 0, 0, &[7; 8])).await;
    while seen.last().is_some_and(|last| last.kind != PING) {
        seen.push(wire.read().await.unwrap());
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_grow_where_a_body_is_read_as_long_as_there_is_memory_to_be_lent() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::ReadToEnd]).await;
    let gateway = Yaml::to(upstream.address())
        // A quarter of this is lent: enough for one connection at a time.
        .top("limits: {memory: 240MiB}")
        .limits("stream_window: 3MiB, connection_window: 40MiB")
        .start()
        .await;
    let grown = |seen: &[Frame]| {
        let settings = setting(4, 3 << 20);
        let of_streams = seen.iter().any(|frame| frame.kind == SETTINGS && frame.payload == settings);
        let more = seen.iter().filter(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 0);
        let more: u32 = more.map(|frame| u32::from_be_bytes(frame.payload[..4].try_into().unwrap())).sum();
        assert_eq!(of_streams, more >= 39 << 20, "{seen:?}");
        of_streams
    };
    let mut first = Wire::open(gateway.address("main")).await;
    assert!(grown(&told(&mut first).await));
    let mut second = Wire::open(gateway.address("main")).await;
    assert!(!grown(&told(&mut second).await), "more than a quarter of the memory");
    drop(first);
    let given_back = async { while !grown(&told(&mut Wire::open(gateway.address("main")).await).await) {} };
    within_deadline("what was lent to be given back", given_back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_its_response_is_left_after_the_write_timeout() {
    let huge = "x".repeat(8 << 20);
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond(&huge)]).await;
    let gateway = gateway(upstream.address(), "write_timeout: 200ms", "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    let (response, _) = client.begin(request("GET", "http://a/huge", &[]), true).await;
    let response = head(response).await;
    let line = logged(&gateway, "/huge").await;
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"client_timeout".into()), "{line}");
    assert!(line["bytes_out"].as_u64().unwrap() < 1 << 20, "{line}");
    rest(response.into_body()).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_its_upstream_back_and_misses_nothing() {
    let backend = Backend::start().await;
    for protocol in ["http1", "http2"] {
        let gateway = gateway(backend.address(), "", &format!("protocol: {protocol}")).await;
        let mut client =
            Http2Client::with(gateway.address("main"), Builder::new().initial_window_size(1000)).await;
        let (slow, _) = client.begin(request("GET", "http://a/bytes/2MiB", &[]), true).await;
        let slow = head(slow).await;
        // Another stream goes on meanwhile.
        client.ask(request("GET", "http://a/", &[])).await.assert_status(200);
        let (body, _) = rest(slow.into_body()).await.unwrap();
        assert_eq!(body.len(), 2 << 20);
    }
}

/// A client may wait for the end before it gives more window.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_fills_the_last_byte_of_its_window_ends_all_the_same() {
    const WINDOW: u32 = 48 * 1024;
    let backend = Backend::start().await;
    for protocol in ["http1", "http2"] {
        let gateway = gateway(backend.address(), "", &format!("protocol: {protocol}")).await;
        let mut client = Wire::open(gateway.address("main")).await;
        // Without a length, so that the end comes by itself.
        let path = field(":path", "/bytes/48KiB?chunked=1");
        let head = [&[GET, HTTP][..], AUTHORITY, &path].concat();
        let mut bytes = frame(SETTINGS, 0, 0, &setting(4, WINDOW));
        bytes.extend(frame(HEADERS, WHOLE, 1, &head));
        client.send(&bytes).await;
        client.wait_for(Frame::ends_stream).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_its_client_gives_up_is_given_up_at_the_upstream() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::ReadToEnd]).await;
    let gateway = gateway(upstream.address(), "", "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    for (path, method) in [("/reading", "POST"), ("/waiting", "GET")] {
        let uri = format!("http://a{path}");
        let (response, mut stream) = client.begin(request(method, &uri, &[]), method == "GET").await;
        upstream.wait_for_heads(1).await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        let line = logged(&gateway, path).await;
        assert_eq!(line["reason"], "client_closed", "{line}");
    }
    assert_eq!(failures(&gateway).await, 0.0);
    assert_eq!(metric(&gateway, "tidegate_upstream_active_requests", &[]).await, 0.0);
}

/// A stream under way on a connection that is told to go away.
async fn is_told_and_served(mut wire: Wire<TcpStream>) {
    let goodbye = wire.wait_for(|frame| frame.kind == GOAWAY).await.unwrap();
    assert_eq!(goodbye.error(), 0);
    wire.send(&frame(DATA, END_STREAM, 1, b"hello")).await;
    let data = wire.wait_for(|frame| frame.kind == DATA && !frame.payload.is_empty()).await.unwrap();
    assert_eq!(data.payload, b"hello");
    if !data.ends_stream() {
        wire.wait_for(Frame::ends_stream).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_to_leave_is_told_so_and_streams_under_way_are_served() {
    let backend = Backend::start().await;
    let yaml = |listeners: &str| {
        format!(
            "admin: false\nupgrade: {{socket: upgrade.sock}}\nlisteners: [{listeners}]\nroutes: [{{upstream: origin}}]\n\
             upstreams: {{origin: {{endpoints: [\"{}\"]}}}}\n",
            backend.address()
        )
    };
    let (staying, leaving) =
        ("{name: staying, address: \"127.0.0.1:0\"}", "{name: main, address: \"127.0.0.1:0\"}");
    for why in ["a drain", "a reload", "a hand-over"] {
        let gateway = Gateway::start(&yaml(&format!("{staying}, {leaving}"))).await;
        let mut wire = Wire::open(gateway.address("main")).await;
        let echo = [&[POST, HTTP], AUTHORITY, &field(":path", "/echo")].concat();
        wire.send(&frame(HEADERS, END_HEADERS, 1, &echo)).await;
        wire.wait_for(|frame| frame.kind == HEADERS).await.expect(why);
        match why {
            "a drain" => {
                gateway.signal(Signal::SIGTERM);
                is_told_and_served(wire).await;
                assert!(gateway.wait_exit().await.success());
            }
            "a reload" => {
                gateway.reload(&yaml(staying)).await;
                is_told_and_served(wire).await;
            }
            _ => drop(futures::join!(gateway.upgrade(), is_told_and_served(wire))),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_ends_with_trailers_is_whole_and_its_body_counted() {
    let backend = Backend::start().await;
    for protocol in ["http1", "http2"] {
        let gateway = gateway(backend.address(), "", &format!("protocol: {protocol}")).await;
        let mut client = Http2Client::open(gateway.address("main")).await;
        let (response, mut body) = client.begin(request("POST", "http://a/echo", &[]), false).await;
        body.send_data("body".into(), false).unwrap();
        let trailers = [("x-sum".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
        body.send_trailers(trailers).unwrap();
        assert_eq!(whole(response).await.assert_status(200).text(), "body", "{protocol}");
        let line = logged(&gateway, "/echo").await;
        assert_eq!((line.get("reason"), &line["bytes_in"]), (None, &4.into()), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_gets_one_host_one_cookie_field_and_te_where_trailers_can_come_back() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await;
    let over_http1 = gateway(upstream.address(), "", "").await;
    let mut client = Http2Client::open(over_http1.address("main")).await;
    let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")];
    client.ask(request("GET", "http://a.example:80/x?y", &fields)).await.assert_status(200);
    let head = upstream.heads()[0].to_lowercase();
    assert!(head.starts_with("get /x?y http/1.1\r\n"), "{head}");
    assert_eq!(head.matches("\r\nhost: a.example:80\r\n").count(), 1, "{head}");
    assert_eq!(head.matches("\r\ncookie: a=1; b=2\r\n").count(), 1, "{head}");
    assert!(!head.contains("\r\nte:"), "{head}");

    let backend = Backend::start().await;
    let over_http2 = gateway(backend.address(), "", "protocol: grpc").await;
    let mut client = Http2Client::open(over_http2.address("main")).await;
    let seen = client.ask(request("GET", "http://a.example:80/headers", &fields)).await.json().to_string();
    for part in ["a.example:80", "a=1; b=2", "trailers"] {
        assert!(seen.contains(part), "{part} in {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_pass_before_the_final_one() {
    // A length is that of nothing: a client would take it for that of the answer.
    let early =
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nconnection: x\r\nx: y\r\ncontent-length: 9\r\n\r\n";
    let early = Step::write(early);
    let upstream =
        ScriptedUpstream::start(vec![Step::ReadHead, early, Step::respond("ok"), Step::Again]).await;
    let gateway = gateway(upstream.address(), "", "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    let (mut response, _) = client.begin(request("GET", "http://a/", &[]), true).await;
    let interim = std::future::poll_fn(|cx| response.poll_informational(cx));
    let interim = within_deadline("an interim response", interim).await.unwrap().unwrap();
    assert_eq!((interim.status().as_u16(), interim.headers()["link"].as_bytes()), (103, &b"</a.css>"[..]));
    assert!(!interim.headers().contains_key("content-length"));
    assert_eq!(whole(response).await.assert_status(200).text(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_unchanged_both_ways_whatever_the_upstream_speaks() {
    const SIZE: usize = 20 << 20;
    let backend = Backend::start().await;
    let sent: Bytes = (0..SIZE).map(|index| (index % 251) as u8).collect::<Vec<_>>().into();
    for protocol in ["http1", "http2"] {
        let gateway = gateway(backend.address(), "body_size: 100MiB", &format!("protocol: {protocol}")).await;
        let answer =
            crate::support::send_h2c(gateway.address("main"), "POST", "/echo", &[], sent.clone()).await;
        assert!(answer.assert_status(200).body == sent, "{protocol}: {} bytes", answer.body.len());
        let line = logged(&gateway, "/echo").await;
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&SIZE.into(), &SIZE.into()), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_small_messages_ends_no_connection() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address(), "", "").await;
    let mut wire = Wire::open(gateway.address("main")).await;
    let path = field(":path", "/echo");
    let mut burst = frame(HEADERS, END_HEADERS, 1, &[&[POST, HTTP][..], &path, AUTHORITY].concat());
    // All of it is there before the gateway has looked at the first.
    for _ in 0..9_000 {
        burst.extend(frame(DATA, 0, 1, b"hello"));
    }
    burst.extend(frame(DATA, END_STREAM, 1, b""));
    wire.send(&burst).await;
    let told = wire.wait_for(|frame| [HEADERS, GOAWAY, RST_STREAM].contains(&frame.kind)).await.unwrap();
    assert_eq!(told.kind, HEADERS, "{told:?}");
}
