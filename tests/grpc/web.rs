//! gRPC-Web by hand, as a browser's library sends it: binary and text, over HTTP/1.1 and HTTP/2.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::yaml;
use crate::support::{
    Answer, Gateway, RawConnection,
    grpc::{GrpcServer, message},
    http2::{Http2Client, whole},
    logged, send, send_h2c,
};

const WEB: (&str, &str) = ("content-type", "application/grpc-web+proto");
const TEXT: (&str, &str) = ("content-type", "application/grpc-web-text+proto");

async fn gateway(server: &GrpcServer, route: &str) -> Gateway {
    Gateway::start(&yaml(server, &format!("filters: [{{grpc_web: {{}}}}], {route}"), "")).await
}

/// The frames of a body, decoded, each with its flag; trailers are those of flag 0x80.
fn frames(answer: &Answer) -> Vec<(u8, String)> {
    let mut body = answer.body.to_vec();
    if answer.header("content-type").unwrap().starts_with("application/grpc-web-text") {
        body = padded_groups(&body);
    }
    let mut frames = Vec::new();
    let mut rest = &body[..];
    while let [flag, a, b, c, d, more @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        frames.push((*flag, String::from_utf8(more[..length].to_vec()).unwrap()));
        rest = &more[length..];
    }
    assert!(rest.is_empty(), "{body:?}");
    frames
}

fn padded_groups(body: &[u8]) -> Vec<u8> {
    body.chunks(4).flat_map(|group| STANDARD.decode(group).unwrap()).collect()
}

const TRAILERS: &str = "grpc-status: 0\r\ngrpc-message: as it was told\r\nx-trailing: yes\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_bounded_by_its_messages_and_not_as_a_whole() {
    let server = GrpcServer::start().await;
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0', limits: {{body_size: 10KiB}}}}]\n\
         routes: [{{filters: [{{grpc_web: {{}}}}], upstream: u}}]\nupstreams: {{u: {{endpoints: ['{}'], protocol: grpc}}}}\n",
        server.address()
    ))
    .await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    let request = http::Request::post("http://gateway/echo").header(WEB.0, WEB.1).body(()).unwrap();
    let (response, mut body) = client.begin(request, false).await;
    for is_last in [false, false, true] {
        body.send_data(message(&[b'7'; 5000]).into(), is_last).unwrap();
    }
    let answer = whole(response).await;
    let lengths: Vec<(u8, usize)> = frames(&answer).iter().map(|(flag, text)| (*flag, text.len())).collect();
    assert_eq!(lengths, [(0, 5000), (0, 5000), (0, 5000), (0x80, TRAILERS.len())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_translated_there_and_back() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "").await;
    let edge = gateway.address("main");
    let body = message(b"hello");
    for (content_type, body) in [(WEB, body.clone()), (TEXT, STANDARD.encode(&body).into_bytes())] {
        let fields = [content_type, ("x-grpc-web", "1")];
        for answer in [
            send(edge, "POST", "/echo", &fields, body.clone()).await,
            send_h2c(edge, "POST", "/echo", &fields, body.clone()).await,
        ] {
            let spoken = answer.assert_status(200).header("content-type");
            assert_eq!(spoken, content_type.1.strip_suffix("+proto"));
            assert_eq!(frames(&answer), [(0, "hello".to_owned()), (0x80, TRAILERS.to_owned())]);
            assert_eq!(answer.trailers, None);
            assert_eq!(answer.header("content-length"), None);
        }
    }
    for seen in server.seen() {
        assert_eq!(
            (&seen["content-type"], &seen["te"]),
            (&"application/grpc+proto".parse().unwrap(), &"trailers".parse().unwrap())
        );
    }
    assert_eq!(logged(&gateway, "/echo").await["grpc_status"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_may_come_in_any_parts_and_be_padded_between_messages() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "").await;
    let text = [STANDARD.encode(message(b"one")), STANDARD.encode(message(b"second"))].concat();
    let mut client = Http2Client::open(gateway.address("main")).await;
    for size in [1, 3, 5, 7, text.len()] {
        let request = http::Request::post("http://a/echo").header(TEXT.0, TEXT.1).body(()).unwrap();
        let (response, mut body) = client.begin(request, false).await;
        for part in text.as_bytes().chunks(size) {
            body.send_data(part.to_vec().into(), false).unwrap();
        }
        body.send_data(bytes::Bytes::new(), true).unwrap();
        let answer = whole(response).await;
        let expected = [(0, "one".to_owned()), (0, "second".to_owned()), (0x80, TRAILERS.to_owned())];
        assert_eq!(frames(&answer), expected, "{size}");
    }
    for bad in ["AAAAAAA", "AA*A", "AAAA=AAA"] {
        let answer = send(gateway.address("main"), "POST", "/echo", &[TEXT], bad).await;
        assert_eq!(answer.header("x-tidegate-reason"), Some("bad_request"), "{bad}");
        assert_eq!(answer.header("grpc-status"), Some("13"), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_without_messages_is_in_the_header() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "match: {path: /only}").await;
    let edge = gateway.address("main");
    for content_type in [WEB, TEXT] {
        for answer in [
            send(edge, "POST", "/only/5", &[content_type], "").await,
            send_h2c(edge, "POST", "/only/5", &[content_type], "").await,
        ] {
            let spoken = answer.assert_status(200).header("content-type");
            assert_eq!(spoken, content_type.1.strip_suffix("+proto"));
            assert_eq!(answer.header("grpc-status"), Some("5"));
            assert!(answer.body.is_empty(), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_s_own_answers_and_broken_streams_are_told_too() {
    let server = GrpcServer::start().await;
    let guarded = "filters: [{grpc_web: {}}, {ip_rules: {deny: [127.0.0.1]}}]";
    let gateway = Gateway::start(&yaml(&server, guarded, "")).await;
    let answer = send(gateway.address("main"), "POST", "/a.B/C", &[TEXT], "").await;
    assert_eq!(answer.assert_status(200).header("content-type"), Some("application/grpc-web-text"));
    assert_eq!(
        (answer.header("grpc-status"), answer.header("x-tidegate-reason")),
        (Some("7"), Some("forbidden"))
    );
    let gateway = self::gateway(&server, "timeout: 1s").await;
    let edge = gateway.address("main");
    for (path, status) in [("/broken/2", "grpc-status: 13\r\n"), ("/open", "grpc-status: 4\r\n")] {
        for content_type in [WEB, TEXT] {
            for answer in [
                send(edge, "POST", path, &[content_type], "").await,
                send_h2c(edge, "POST", path, &[content_type], "").await,
            ] {
                let frames = frames(&answer);
                assert_eq!(frames[0], (0, "one".to_owned()), "{path}");
                assert!(frames[1].0 == 0x80 && frames[1].1.contains(status), "{path}: {frames:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_stream_arrive_one_by_one_over_http1() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "").await;
    let edge = gateway.address("main");
    let first = tokio::task::spawn_blocking(move || {
        let mut connection = RawConnection::open(edge);
        connection.write(format!(
            "POST /open HTTP/1.1\r\nhost: a\r\n{}: {}\r\ncontent-length: 0\r\n\r\n",
            TEXT.0, TEXT.1
        ));
        connection.read_head();
        // One chunk of its own, before the stream is over.
        let text = STANDARD.encode(message(b"one"));
        assert_eq!(connection.read_exactly(3 + text.len()), format!("C\r\n{text}").as_bytes());
    });
    first.await.unwrap();
    server.wait_for_cancelled(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_another_origin_may_see_the_status() {
    let server = GrpcServer::start().await;
    let cors = "filters: [{cors: {origins: ['https://a.test'], methods: [POST], headers: [content-type, x-grpc-web]}}, {grpc_web: {}}]";
    let gateway = Gateway::start(&yaml(&server, cors, "")).await;
    let edge = gateway.address("main");
    let preflight = [("origin", "https://a.test"), ("access-control-request-method", "POST")];
    send(edge, "OPTIONS", "/only/5", &preflight, "").await.assert_status(204);
    let answer = send(edge, "POST", "/only/5", &[WEB, ("origin", "https://a.test")], "").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.test"));
    assert_eq!(answer.header("access-control-expose-headers"), Some("grpc-status, grpc-message"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_sent_again_is_decoded_again() {
    let server = GrpcServer::start().await;
    let gateway = gateway(&server, "").await;
    let body = STANDARD.encode(message(b"again"));
    let answer = send(gateway.address("main"), "POST", "/refused", &[TEXT], body).await;
    assert_eq!(frames(&answer)[0], (0, "again".to_owned()));
    assert_eq!(server.seen().len(), 2);
}
