//! Bodies that are not what was said of them, answers that come before their requests are whole, and others out of turn.

use bytes::Bytes;
use http::Request;

use super::{FOLLOWER, Setup, targets};
use crate::support::origin::{Deed, Origin};
use crate::support::{
    Gateway, RawConnection, ScriptedUpstream, Step, Yaml,
    frames::{AUTHORITY, DATA, END_HEADERS, END_STREAM, HEADERS, HTTP, POST, ROOT, Wire, field, frame},
    http2::{Http2Client, whole},
    within_deadline,
};

const HEDGE: &str = "hedge: {after: 500ms}, retry: {methods: [POST]}";

async fn gateway(address: std::net::SocketAddr, limits: &str, route: &str, settings: &str) -> Gateway {
    Yaml::to(address).limits(limits).route(route).settings(settings).start().await
}

/// What it sends on is its body still, whatever it looks like.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_an_early_answer_is_no_request() {
    let early = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 5\r\n\r\nearly";
    for script in [
        vec![Step::ReadHead, Step::write(early), Step::ReadToEnd],
        // One that does not wait, and leaves.
        vec![Step::ReadHead, Step::write(early), Step::Close],
    ] {
        let setup = Setup::start("", "", script).await;
        for framing in ["content-length: 100000", "transfer-encoding: chunked"] {
            let mut client = setup.open();
            client.write(format!("POST /early HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n"));
            let answer = client.read_response();
            assert_eq!((answer.status, answer.text()), (413, "early"), "{framing}");
            client.write_what_goes(FOLLOWER);
            assert!(client.is_closed(), "{framing}");
        }
        assert_eq!(targets(&setup.upstream), ["/early"; 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_over_http2_costs_no_other_stream() {
    let early = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 5\r\n\r\nearly";
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(early), Step::ReadToEnd]).await;
    let gateway = gateway(upstream.address(), "", "", "").await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let (response, mut body) = client.begin(Request::post("http://a/").body(()).unwrap(), false).await;
        let _ = body.send_data("abc".into(), false);
        assert_eq!(whole(response).await.assert_status(413).text(), "early");
        open.push(body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_without_end_are_502() {
    for route in ["", HEDGE] {
        for hint in ["HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
            let script = vec![Step::ReadHead, Step::write(hint.repeat(100)), Step::ReadToEnd];
            let upstream = ScriptedUpstream::start(script).await;
            let gateway = gateway(upstream.address(), "", route, "").await;
            for request in [
                "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
            ] {
                let mut client = RawConnection::open(gateway.address("main"));
                client.write(request);
                let mut heard = 0;
                let last = loop {
                    let answer = client.read_response();
                    if answer.status >= 200 {
                        break answer;
                    }
                    heard += 1;
                };
                last.assert_reason(502, "bad_upstream_response");
                // A client that did not ask has no use for a 100. What may be asked twice is.
                let expected = if hint.contains("103") { 1..=3 * 32 } else { 0..=0 };
                assert!(expected.contains(&heard), "{route} {hint}: {heard}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_nobody_asked_for_is_502() {
    const SWITCH: &str =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\npoison";
    for route in ["", HEDGE] {
        let upstream =
            ScriptedUpstream::start(vec![Step::ReadHead, Step::write(SWITCH), Step::ReadToEnd]).await;
        let gateway = gateway(upstream.address(), "", route, "").await;
        let mut client = RawConnection::open(gateway.address("main"));
        for request in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
            // Another protocol than the one that is carried is none that was asked for.
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n\r\n",
        ] {
            client.write(request);
            client.read_response().assert_reason(502, "bad_upstream_response");
            if request.contains("upgrade") {
                assert!(client.is_closed());
            }
        }
        let mut http2 = Http2Client::open(gateway.address("main")).await;
        let answer = http2.ask(Request::get("http://a/").body(()).unwrap()).await;
        answer.assert_reason(502, "bad_upstream_response");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_answered_with_200_is_answered_whole_and_the_connection_ends() {
    let setup = Setup::answering("").await;
    let mut client = setup.open();
    client.write(format!(
        "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n{FOLLOWER}"
    ));
    let answer = client.read_response();
    assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "ok", Some("close")));
    assert!(client.is_closed());
    assert_eq!(targets(&setup.upstream), ["/ws"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stalls_in_a_body_is_408_on_a_hedged_route_too() {
    let origin = Origin::start(2, &[Deed::Answer(200)]).await;
    let gateway = gateway(origin.addresses()[0], "body_timeout: 300ms", HEDGE, "").await;
    let mut http1 = RawConnection::open(gateway.address("main"));
    http1.write("POST /stalled HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc");
    http1.read_response().assert_reason(408, "client_timeout");
    assert!(http1.is_closed());
    let mut http2 = Http2Client::open(gateway.address("main")).await;
    let request = Request::post("http://a/stalled").header("content-length", "10").body(()).unwrap();
    let (response, mut body) = http2.begin(request, false).await;
    body.send_data(Bytes::from_static(b"abc"), false).unwrap();
    whole(response).await.assert_reason(408, "client_timeout");
    // The connection is as good as before.
    http2.ask(Request::get("http://a/").body(()).unwrap()).await.assert_status(200);
    assert_eq!(origin.seen().len(), 1, "none of the others was sent on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_length_than_announced_is_no_request_on_a_hedged_route_either() {
    let origin = Origin::start(2, &[Deed::Answer(200)]).await;
    let gateway = gateway(origin.addresses()[0], "", HEDGE, "").await;
    let head = [&[POST, HTTP, ROOT], AUTHORITY, &field("content-length", "5")[..]].concat();
    for body in ["abc", "abcdefgh", ""] {
        let mut wire = Wire::open(gateway.address("main")).await;
        let sent = [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, END_STREAM, 1, body.as_bytes())];
        wire.send(&sent.concat()).await;
        let answer = within_deadline("an end", wire.wait_for(|frame| frame.stream == 1)).await.unwrap();
        // Reset, or 400: no `:status: 200`, which is one byte in HPACK.
        assert!(answer.kind != HEADERS || answer.payload[0] != 0x88, "{body}: {answer:?}");
    }
    let mut short = RawConnection::open(gateway.address("main"));
    short.write("POST /short HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nabc");
    short.finish_writing();
    let line = gateway.wait_for_line(|line| line["path"] == "/short").await;
    assert_eq!(line["reason"], "client_closed", "{line}");
    // What is too much is the next request, and that is none.
    let mut long = RawConnection::open(gateway.address("main"));
    long.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nabcdefgh\r\n\r\n");
    assert_eq!(long.read_response().status, 200);
    long.read_response().assert_reason(400, "bad_request");
    assert!(long.is_closed());
    let bodies: Vec<_> = origin.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, [Some(b"abcde".to_vec())]);
}

/// The kernel may take all of it, so whoever counts must be the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_length_than_announced_is_never_whole_on_a_hedged_route_either() {
    for (said, last) in [("abc", Step::Close), ("abc", Step::Reset)] {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{said}");
        let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(answer), last]).await;
        let gateway = gateway(upstream.address(), "", HEDGE, "").await;
        let mut client = RawConnection::open(gateway.address("main"));
        client.write("GET /cut HTTP/1.1\r\nhost: a\r\n\r\n");
        let head = client.read_head();
        let body = client.read_to_end();
        assert!(head.status == 502 || body.len() < 5, "{head:?} {body:?}");
        let line = gateway.wait_for_line(|line| line["path"] == "/cut").await;
        assert_eq!(line["reason"], "upstream_reset", "{line}");
    }
    let poisoned =
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(poisoned), Step::Again]).await;
    let gateway = gateway(upstream.address(), "", HEDGE, "").await;
    let mut client = RawConnection::open(gateway.address("main"));
    for _ in 0..2 {
        client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(client.read_response().text(), "ok");
    }
    assert_eq!(upstream.connections(), 2);
}
