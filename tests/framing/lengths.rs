//! What upstreams say of the ends of their answers.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Response;
use tokio::net::TcpListener;

use super::{answering, gateway, open};
use crate::support::{
    Backend, get, get_h2c,
    http2::{Http2Client, rest},
    within_deadline,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_has_no_body_has_no_framing_either() {
    for answer in [
        "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\netag: x\r\ntransfer-encoding: chunked\r\n\r\n",
    ] {
        let (_upstream, gateway) = answering(answer).await;
        let mut http1 = open(&gateway);
        for _ in 0..2 {
            http1.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            let served = http1.read_response();
            assert!(matches!(served.status, 204 | 304), "{answer:?}: {served:?}");
            for name in ["content-length", "transfer-encoding"] {
                assert_eq!(served.header(name), None, "{answer:?}: {served:?}");
            }
        }
        let served = get_h2c(gateway.address("main"), "/").await;
        assert_eq!((served.header("content-length"), served.body.len()), (None, 0), "{answer:?}");
    }
}

/// A client that goes by it waits for a body (RFC 9113, section 8.1.1).
#[tokio::test(flavor = "multi_thread")]
async fn a_304_over_http2_says_no_length_and_over_http1_that_of_what_was_not_sent() {
    let (_upstream, gateway) = answering("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n").await;
    let mut http1 = open(&gateway);
    http1.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(http1.read_response().header("content-length"), Some("7"));
    let served = get_h2c(gateway.address("main"), "/").await;
    assert_eq!((served.status.as_u16(), served.header("content-length")), (304, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coding_that_nobody_undoes_and_lengths_that_contradict_each_other_are_502() {
    for framing in [
        "transfer-encoding: gzip\r\n\r\nxx",
        "transfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "transfer-encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "content-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "content-length: 2, 3\r\n\r\nok",
        "content-length: -2\r\n\r\nok",
        "content-length: +2\r\n\r\nok",
    ] {
        let (_upstream, gateway) = answering(&format!("HTTP/1.1 200 OK\r\n{framing}")).await;
        for answer in [get(gateway.address("main"), "/").await, get_h2c(gateway.address("main"), "/").await] {
            let told = (answer.status.as_u16(), answer.header("x-tidegate-reason"));
            assert_eq!(told, (502, Some("bad_upstream_response")), "{framing:?}: {answer:?}");
        }
    }
}

/// They say nothing (RFC 9112, section 7.1).
#[tokio::test(flavor = "multi_thread")]
async fn a_chunks_size_may_have_zeros_in_front() {
    let backend = Backend::start().await;
    let to_backend = gateway(backend.address(), "", "").await;
    for digits in [16, 17] {
        let body = format!("{:0>digits$}\r\nok\r\n{:0>digits$}\r\n\r\n", 2, 0);
        let framing = "transfer-encoding: chunked\r\n\r\n";
        let (_upstream, of_upstream) = answering(&format!("HTTP/1.1 200 OK\r\n{framing}{body}")).await;
        for (gateway, request) in [
            (&of_upstream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
            (&to_backend, format!("POST /echo HTTP/1.1\r\nhost: a\r\n{framing}{body}")),
        ] {
            let mut client = open(gateway);
            for _ in 0..2 {
                client.write(&request);
                let served = client.read_response();
                assert_eq!((served.status, served.text()), (200, "ok"), "{digits}: {request}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_twice_is_said_once() {
    for (name, framing) in [
        (
            "transfer-encoding",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        ("transfer-encoding", "Transfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("content-length", "content-length: 2\r\ncontent-length: 2\r\n\r\nok"),
    ] {
        let (_upstream, gateway) = answering(&format!("HTTP/1.1 200 OK\r\n{framing}")).await;
        let mut http1 = open(&gateway);
        for _ in 0..2 {
            http1.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            let served = http1.read_response();
            assert_eq!((served.status, served.text()), (200, "ok"), "{framing:?}");
            let named = served.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
            assert_eq!(named.count(), 1, "{framing:?}: {served:?}");
        }
        let served = get_h2c(gateway.address("main"), "/").await;
        assert_eq!((served.text(), served.header("transfer-encoding")), ("ok", None), "{framing:?}");
    }
}

/// An HTTP/2 server that says 5 bytes and sends others.
async fn liar(body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let header = Response::builder().header("content-length", "5").body(()).unwrap();
                    let mut sending = respond.send_response(header, false).unwrap();
                    let _ = sending.send_data(Bytes::from_static(body.as_bytes()), true);
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_answer_that_is_not_as_long_as_it_says_is_never_whole() {
    for body in ["abc", "abcdefgh"] {
        for route in ["", "hedge: {after: 500ms}"] {
            let gateway = gateway(liar(body).await, route, "protocol: http2").await;
            let mut http1 = open(&gateway);
            http1.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            let heard = http1.read_head();
            let received = http1.read_to_end();
            assert!(heard.status == 502 || received.len() < 5, "{body} {route}: {heard:?} {received:?}");
            let mut http2 = Http2Client::open(gateway.address("main")).await;
            let request = http::Request::get("http://a/").body(()).unwrap();
            let (response, _) = http2.begin(request, true).await;
            // It may be reset before its head is sent.
            if let Ok(heard) = within_deadline("an answer", response).await {
                let status = heard.status();
                let received = rest(heard.into_body()).await;
                assert!(status == 502 || received.is_err(), "{body} {route}: {status} {received:?}");
            }
        }
    }
}

/// What followed would be taken for the beginning of the next answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_gateway_s_own_that_may_have_no_body_has_none() {
    let upstream = Backend::start().await;
    for status in [204, 205, 304] {
        let route = format!("filters: [{{respond: {{status: {status}, body: hello}}}}]");
        let gateway = gateway(upstream.address(), &route, "").await;
        let mut http1 = open(&gateway);
        for _ in 0..2 {
            http1.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            let answer = http1.read_response();
            assert_eq!((answer.status, answer.text()), (status, ""), "{answer:?}");
            let length = (status == 205).then_some("0");
            assert_eq!(answer.header("content-length"), length, "{answer:?}");
        }
        let answer = get_h2c(gateway.address("main"), "/").await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0));
    }
}
