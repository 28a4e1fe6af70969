//! Fields behind bodies pass where the other side can take them, and are no way around what heads may not say.

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::net::TcpListener;

use super::{Origin, RawConnection, answering, gateway, open};
use crate::support::frames::*;
use crate::support::http2::{Http2Client, whole};
use crate::support::origin::Deed;

/// What a trailer may not be (RFC 9110, section 6.5.1), and one that may.
const FIELDS: [(&str, &str); 15] = [
    ("x-sum", "1"),
    ("content-length", "5"),
    ("transfer-encoding", "chunked"),
    ("host", "evil.example"),
    ("authorization", "basic x"),
    ("set-cookie", "a=b"),
    ("content-type", "text/html"),
    ("content-encoding", "gzip"),
    ("trailer", "x-more"),
    ("connection", "close"),
    ("cache-control", "public"),
    ("if-none-match", "*"),
    ("range", "bytes=0-1"),
    ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("location", "/elsewhere"),
];

fn chunked(data: &str) -> String {
    let fields: String = FIELDS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{:x}\r\n{data}\r\n0\r\n{fields}\r\n", data.len())
}

/// Those of them that HTTP/2 can carry.
fn fields() -> HeaderMap {
    let fields = FIELDS.iter().filter(|(name, _)| !matches!(*name, "transfer-encoding" | "connection"));
    let field = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    fields.map(field).collect()
}

fn names(trailers: &HeaderMap) -> Vec<&str> {
    trailers.keys().map(HeaderName::as_str).collect()
}

/// The raw fields behind the last chunk.
fn behind(client: &mut RawConnection, body: &str) -> String {
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n", body.len());
    assert_eq!(String::from_utf8_lossy(&client.read_exactly(chunks.len())), chunks);
    let mut trailers = String::new();
    while !(trailers.ends_with("\r\n\r\n") || trailers == "\r\n") {
        trailers += &String::from_utf8_lossy(&client.read_exactly(1));
    }
    trailers.to_ascii_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_an_answer_reach_those_who_take_them_and_the_rest_hear_of_none() {
    let answer =
        format!("HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n{}", chunked("ok"));
    let (_upstream, gateway) = answering(&answer).await;
    let mut http2 = Http2Client::open(gateway.address("main")).await;
    let heard = http2.ask(Request::get("http://a/").body(()).unwrap()).await;
    assert_eq!((heard.text(), names(heard.trailers.as_ref().unwrap())), ("ok", vec!["x-sum"]));

    let mut http1 = open(&gateway);
    for _ in 0..2 {
        http1.write("GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n");
        let heard = http1.read_head();
        assert_eq!(
            (heard.header("trailer"), &*behind(&mut http1, "ok")),
            (Some("x-sum"), "x-sum: 1\r\n\r\n")
        );
        http1.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let heard = http1.read_head();
        assert_eq!((heard.header("trailer"), &*behind(&mut http1, "ok")), (None, "\r\n"));
    }
    let mut old = open(&gateway);
    old.write("GET / HTTP/1.0\r\nhost: a\r\nte: trailers\r\n\r\n");
    assert_eq!(old.read_head().header("trailer"), None);
    assert_eq!(old.read_to_end(), b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_request_reach_upstreams_of_either_version() {
    let hedge = "hedge: {after: 60s}, retry: {methods: [POST]}";
    for (protocol, route) in [("http1", ""), ("http2", ""), ("http2", hedge)] {
        let origin = Origin::start(1, &[Deed::Answer(200)]).await;
        let gateway = gateway(origin.addresses()[0], route, &format!("protocol: {protocol}")).await;
        let mut http1 = open(&gateway);
        for _ in 0..2 {
            http1.write(format!(
                "POST / HTTP/1.1\r\nhost: a\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n{}",
                chunked("hello")
            ));
            assert_eq!(http1.read_response().status, 200, "{protocol}");
        }
        let mut http2 = Http2Client::open(gateway.address("main")).await;
        // Towards HTTP/1, a body with a length has nothing behind it.
        let lengths = if protocol == "http1" { &[None][..] } else { &[None, Some("5")] };
        for &length in lengths {
            let mut request = Request::post("http://a/").header("trailer", "x-sum");
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            let (response, mut body) = http2.begin(request.body(()).unwrap(), false).await;
            body.send_data("hello".into(), false).unwrap();
            body.send_trailers(fields()).unwrap();
            whole(response).await.assert_status(200);
        }
        for seen in origin.seen() {
            assert_eq!(seen.body.as_deref(), Some(&b"hello"[..]), "{protocol}");
            assert_eq!(names(&seen.trailers), ["x-sum"], "{protocol}");
        }
        let expected = (2 + lengths.len(), 1);
        assert_eq!((origin.seen().len(), origin.connections()), expected, "{protocol} {route}");
    }
}

/// RFC 9113, section 8.1, has none of them. The library drops them, and what stands beside them goes on.
#[tokio::test(flavor = "multi_thread")]
async fn pseudo_fields_among_the_trailers_of_a_request_reach_nobody() {
    for protocol in ["http1", "http2"] {
        let origin = Origin::start(1, &[Deed::Answer(200)]).await;
        let gateway = gateway(origin.addresses()[0], "", &format!("protocol: {protocol}")).await;
        let mut wire = Wire::open(gateway.address("main")).await;
        let head = [&[POST, HTTP, ROOT][..], AUTHORITY].concat();
        let trailers = [field(":path", "/other"), field(":method", "DELETE"), field("x-sum", "1")].concat();
        let frames = [
            frame(HEADERS, END_HEADERS, 1, &head),
            frame(DATA, 0, 1, b"hello"),
            frame(HEADERS, WHOLE, 1, &trailers),
        ];
        wire.send(&frames.concat()).await;
        wire.wait_for(|frame| frame.stream == 1 && frame.ends_stream()).await.unwrap();
        origin.wait_for_whole(1).await;
        let seen = &origin.seen()[0];
        assert_eq!(seen.body.as_deref(), Some(&b"hello"[..]), "{protocol}");
        assert_eq!(names(&seen.trailers), ["x-sum"], "{protocol}");
    }
}

/// An HTTP/2 server that ends its answers with all of the fields.
#[tokio::test(flavor = "multi_thread")]
async fn forbidden_trailers_of_an_http2_answer_are_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(bytes::Bytes::from_static(b"ok"), false).unwrap();
                    body.send_trailers(fields()).unwrap();
                }
            });
        }
    });
    for route in ["", "hedge: {after: 500ms}"] {
        let gateway = gateway(address, route, "protocol: http2").await;
        let mut http2 = Http2Client::open(gateway.address("main")).await;
        let heard = http2.ask(Request::get("http://a/").body(()).unwrap()).await;
        assert_eq!((heard.text(), names(heard.trailers.as_ref().unwrap())), ("ok", vec!["x-sum"]), "{route}");
        let mut http1 = open(&gateway);
        http1.write("GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n");
        assert_eq!(http1.read_head().status, 200);
        assert_eq!(behind(&mut http1, "ok"), "x-sum: 1\r\n\r\n", "{route}");
    }
}
