//! Answers that come while the client still sends: it gets to read them, whatever it has under way.

use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Gateway, TlsClient,
    certificates::{authority, keep, server},
    frames::*,
    within_deadline,
};

/// The listeners `plain` and `secret`, and a path for each kind of answer that waits for no body.
async fn answering() -> Gateway {
    let directory = TempDir::new().unwrap();
    keep(directory.path(), "edge", &authority("test").issue(&server(&["a.example"])));
    let yaml = "\
        admin: {address: '127.0.0.1:0'}\n\
        listeners:\n\
        - {name: plain, address: '127.0.0.1:0', limits: {body_size: 4MiB}}\n\
        - {name: secret, address: '127.0.0.1:0', limits: {body_size: 4MiB}, tls: {certificates: [{cert: edge.crt, key: edge.key}]}}\n\
        routes:\n\
        - {match: {path: /413}, filters: [{body_limit: 1MiB}], respond: {body: hello}}\n\
        - {match: {path: /403}, filters: [{ip_rules: {allow: [192.0.2.1]}}], respond: {body: hello}}\n\
        - {match: {path: /429}, filters: [{rate_limit: {rate: 1/h, key: client_ip}}], respond: {body: hello}}\n\
        - {match: {path: /200}, respond: {body: hello}}\n";
    Gateway::start_in(directory, yaml, &[]).await
}

/// Sends 3 MB as clients do that read nothing before they have sent all. The head of the answer.
async fn upload(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    const SIZE: usize = 3_000_000;
    let head = format!("POST {path} HTTP/1.1\r\nhost: a.example\r\ncontent-length: {SIZE}\r\n\r\n");
    let sent = async {
        stream.write_all(head.as_bytes()).await?;
        for _ in 0..SIZE / 30_000 {
            stream.write_all(&[b'x'; 30_000]).await?;
        }
        stream.flush().await
    };
    within_deadline("a body to be taken", sent).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = within_deadline("an answer", stream.read(&mut part)).await;
        match read.unwrap_or_else(|error| panic!("{path}: {error}")) {
            0 => break,
            read => answer.extend_from_slice(&part[..read]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_is_read_by_those_who_send_all_first_over_tls_and_in_the_clear() {
    let gateway = answering().await;
    let client = TlsClient::trusting_all();
    // Forty clients of each. The first of an hour passes.
    for round in 0..8 {
        for path in ["/413", "/403", "/404", "/429", "/200"] {
            let expected = if path == "/429" && round == 0 { "/200" } else { path };
            let expected = format!("HTTP/1.1 {} ", &expected[1..]);
            let secret = client.connect(gateway.address("secret"), "a.example").await.unwrap();
            let answer = upload(secret, path).await;
            assert!(answer.starts_with(&expected), "{path} over TLS: {answer:?}");
            let expected = if path == "/429" { "HTTP/1.1 429 ".to_owned() } else { expected };
            let plain = TcpStream::connect(gateway.address("plain")).await.unwrap();
            let answer = upload(plain, path).await;
            assert!(answer.starts_with(&expected), "{path} in the clear: {answer:?}");
        }
    }
}

/// Many clients throw an answer away for the reset behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_answered_early_may_end_before_it_is_reset() {
    let gateway = answering().await;
    let path = |path: &str| [&[0x04, path.len() as u8][..], path.as_bytes()].concat();
    let head = |at: &str, more: &[u8]| [&[POST, HTTP][..], &path(at), AUTHORITY, more].concat();
    let mut wire = Wire::open(gateway.address("plain")).await;
    // Of the gateway's own, and where it refuses the request before it is one.
    for (stream, head) in [(1, head("/403", b"")), (3, head("/200", &field("host", "b")))] {
        wire.send(&frame(HEADERS, END_HEADERS, stream, &head)).await;
        wire.wait_for(|frame| frame.stream == stream && frame.ends_stream()).await.unwrap();
        let rest = [
            frame(DATA, 0, stream, &[0; 1000]),
            frame(DATA, END_STREAM, stream, b"end"),
            frame(PING, 0, 0, &[stream as u8; 8]),
        ];
        wire.send(&rest.concat()).await;
        let answered = wire.wait_for(|frame| matches!(frame.kind, RST_STREAM | PING)).await.unwrap();
        assert_eq!((answered.kind, answered.flags), (PING, ACK), "{answered:?}");
    }
    // One that does not end is not listened to for ever, and told that nothing was wrong with it.
    wire.send(&frame(HEADERS, END_HEADERS, 5, &head("/403", b""))).await;
    let reset = wire.wait_for(|frame| frame.kind == RST_STREAM).await.unwrap();
    assert_eq!((reset.stream, reset.error()), (5, 0), "{reset:?}");
}

/// Who has waited for a word sends no body after an answer: the connection ends, and that is said (RFC 9112, section 9.6).
#[tokio::test(flavor = "multi_thread")]
async fn who_waited_for_100_continue_and_is_answered_is_told_that_the_connection_ends() {
    let answer = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno";
    let (_upstream, gateway) = super::answering(answer).await;
    let mut client = super::open(&gateway);
    client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n");
    let answer = client.read_response();
    assert_eq!((answer.status, answer.header("connection")), (417, Some("close")), "{answer:?}");
    assert!(client.is_closed());
}
