//! Malformed fields over HTTP/2: each ends its own stream, and nobody else's on the connection (RFC 9113, section 8.1.1).

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use super::{Setup, targets};
use crate::support::frames::*;
use crate::support::{Backend, Gateway, Step, Yaml, get_h2c, logged, metric};

const PROTOCOL_ERROR: u32 = 1;
/// What answers of 200 and 400 begin with: entries of HPACK's static table.
const OK: u8 = 0x88;
const BAD_REQUEST: u8 = 0x8c;

/// A field that is spelt out, and is an entry of the dynamic table from then on (RFC 7541, section 6.2.1).
fn remembered(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0x40, name.len() as u8], name, &[value.len() as u8], value].concat()
}

fn request(stream: u32, block: &[&[u8]]) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &block.concat())
}

fn path(path: &str) -> Vec<u8> {
    [&[GET, HTTP], AUTHORITY, &field(":path", path)[..]].concat()
}

/// A connection that remembers what was said of other streams.
struct Client {
    wire: Wire<TcpStream>,
    heard: Vec<Frame>,
}

impl Client {
    async fn open(address: SocketAddr) -> Client {
        Client { wire: Wire::open(address).await, heard: Vec::new() }
    }

    async fn send(&mut self, frames: &[u8]) {
        self.wire.send(frames).await;
    }

    /// What is first said of a stream.
    async fn said(&mut self, stream: u32) -> Frame {
        let of_it = |frame: &Frame| frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM);
        while !self.heard.iter().any(of_it) {
            let frame = self.wire.read().await.unwrap();
            assert_ne!(frame.kind, GOAWAY, "{frame:?}");
            self.heard.push(frame);
        }
        self.heard.iter().find(|frame| of_it(frame)).unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_field_ends_its_own_stream_and_nobody_elses() {
    let setup = Setup::answering("").await;
    let cases: [&[u8]; 14] = [
        b"X-Upper",
        b"x a",
        b"x\r\na",
        b"x\xe9",
        b"",
        b":x",
        b":status",
        b":method",
        b"connection",
        b"transfer-encoding",
        b"upgrade",
        b"value\0",
        b"value\r\nhost: b",
        b"value\n",
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let mut client = Client::open(setup.address()).await;
        // Which is still sending.
        let other = [&[POST, HTTP], AUTHORITY, &field(":path", "/other")[..]].concat();
        client.send(&frame(HEADERS, END_HEADERS, 1, &other)).await;
        let (name, value) = if case.starts_with(b"value") { (&b"x"[..], case) } else { (case, &b"1"[..]) };
        // What is remembered by it, and before it, is there afterwards.
        let block = [&[GET, HTTP, ROOT], AUTHORITY, &remembered(b"x-before", b"1"), &remembered(name, value)]
            .concat();
        client.send(&frame(HEADERS, WHOLE, 3, &block)).await;
        let reset = client.said(3).await;
        assert_eq!((reset.kind, reset.error()), (RST_STREAM, PROTOCOL_ERROR), "{case:?}: {reset:?}");
        client.send(&request(5, &[&path("/later"), &[0x80 | 63]])).await;
        let answer = client.said(5).await;
        assert_eq!((answer.kind, answer.payload[0]), (HEADERS, OK), "{case:?}: {answer:?}");
        assert_eq!(client.said(1).await.payload[0], OK, "{case:?}");
        assert_eq!(targets(&setup.upstream).len(), 2 * (number + 1), "{case:?}");
        assert!(
            setup.upstream.heads().iter().any(|head| head.to_lowercase().contains("\r\nx-before: 1\r\n")),
            "{case:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_request_has_a_line_in_the_log() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).start().await;
    let mut client = Client::open(gateway.address("main")).await;
    client.send(&request(1, &[&path("/said"), &field("X-Upper", "1")])).await;
    assert_eq!(client.said(1).await.error(), PROTOCOL_ERROR);
    let line = logged(&gateway, "/said").await;
    assert_eq!(
        (&line["reason"], &line["method"], &line["protocol"]),
        (&"bad_request".into(), &"GET".into(), &"HTTP/2".into())
    );
    assert_eq!(metric(&gateway, "tidegate_errors_total", &[r#"reason="bad_request""#]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_field_is_found_however_its_block_comes() {
    let setup = Setup::answering("").await;
    let block = [GOOD, &field("x-long", &"y".repeat(100)), &field("X-Upper", "1")].concat();
    for size in [25, 30, 64] {
        let mut client = Client::open(setup.address()).await;
        // In frames, and the frames in parts.
        let mut parts = block.chunks(size).peekable();
        let mut frames = frame(HEADERS, END_STREAM, 1, parts.next().unwrap());
        while let Some(part) = parts.next() {
            frames.extend(frame(CONTINUATION, if parts.peek().is_none() { END_HEADERS } else { 0 }, 1, part));
        }
        for part in frames.chunks(11) {
            client.send(part).await;
        }
        let reset = client.said(1).await;
        assert_eq!(
            (reset.kind, reset.error()),
            (RST_STREAM, PROTOCOL_ERROR),
            "in frames of {size}: {reset:?}"
        );
        client.send(&request(3, &[GOOD])).await;
        assert_eq!(client.said(3).await.payload[0], OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_trailers_end_the_stream_and_no_request_is_whole() {
    let setup = Setup::start("", "", vec![Step::ReadHead, Step::ReadToEnd]).await;
    let trailers =
        [field(":method", "POST"), field(":path", "/"), field("X-Upper", "1"), field("x", "a\r\nb")];
    for (number, trailers) in trailers.iter().enumerate() {
        let mut client = Client::open(setup.address()).await;
        let head = [&[POST, HTTP, ROOT], AUTHORITY].concat();
        client.send(&[frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, 0, 1, b"hello")].concat()).await;
        setup.upstream.wait_for_heads(number + 1).await;
        client.send(&frame(HEADERS, WHOLE, 1, &[&field("x-sum", "1")[..], trailers].concat())).await;
        let reset = client.said(1).await;
        assert_eq!((reset.kind, reset.error()), (RST_STREAM, PROTOCOL_ERROR), "{number}: {reset:?}");
    }
    for number in 0..trailers.len() {
        let received = String::from_utf8_lossy(&setup.upstream.received(number)).into_owned();
        assert!(!received.contains("\r\n0\r\n"), "{received}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_refused_or_encoded_as_over_http_1() {
    let setup = Setup::answering("").await;
    let mut client = Client::open(setup.address()).await;
    let mut stream = 1;
    let mut over_http2 = async |target: &[u8]| {
        let block = [&[GET, HTTP], AUTHORITY, &[0, 5], b":path", &[target.len() as u8], target].concat();
        client.send(&frame(HEADERS, WHOLE, stream, &block)).await;
        let answer = client.said(stream).await;
        stream += 2;
        (answer.kind, answer.payload[0])
    };
    for refused in ["/a#b", "/#", "/a b", "/a\tb", "/a\x7f", "/?a#b"] {
        assert_eq!(over_http2(refused.as_bytes()).await, (HEADERS, BAD_REQUEST), "{refused:?}");
        let request = format!("GET {refused} HTTP/1.1\r\nhost: a\r\n\r\n");
        setup.refused(request).assert_reason(400, "bad_request");
    }
    assert!(setup.upstream.heads().is_empty());
    let cases: [(&[u8], &str); 4] = [
        (b"/<d>`?\"`\"", "/%3Cd%3E%60?%22%60%22"),
        (b"/\"?<>", "/%22?%3C%3E"),
        ("/é".as_bytes(), "/%C3%A9"),
        (b"/\xff?\xfe", "/%FF?%FE"),
    ];
    for (target, seen) in cases {
        assert_eq!(over_http2(target).await, (HEADERS, OK), "{seen}");
        let mut http1 = setup.open();
        http1.write([b"GET ", target, b" HTTP/1.1\r\nhost: a\r\n\r\n"].concat());
        assert_eq!(http1.read_response().status, 200);
        assert_eq!(targets(&setup.upstream).split_off(targets(&setup.upstream).len() - 2), [seen; 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_much_too_large_is_431_with_its_reason() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).limits("header_size: 16KiB").start().await;
    // 1,000 bytes are 127 + 873 (RFC 7541, section 5.1).
    let large = [&b"\0\x01x\x7f\xe9\x06"[..], &[b'y'; 1000]].concat();
    // Sixteen to a frame.
    for frames in [3, 5] {
        let mut client = Client::open(gateway.address("main")).await;
        let begin = frame(HEADERS, END_STREAM, 1, GOOD);
        let middle = frame(CONTINUATION, 0, 1, &large.repeat(16)).repeat(frames);
        client.send(&[begin, middle, frame(CONTINUATION, END_HEADERS, 1, &[])].concat()).await;
        assert_eq!(client.said(1).await.kind, HEADERS);
        client.send(&request(3, &[GOOD])).await;
        assert_eq!(client.said(3).await.payload[0], OK);
    }
    assert_eq!(metric(&gateway, "tidegate_errors_total", &[r#"reason="header_too_large""#]).await, 2.0);
}

/// An HTTP/2 server that answers the second of two requests with these fields, and then the first. It says when that is there.
async fn answering_badly(fields: Vec<u8>) -> (Gateway, Arc<Notify>) {
    let is_there = Arc::new(Notify::new());
    let tell = is_there.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (fields, tell) = (fields.clone(), tell.clone());
            tokio::spawn(async move {
                stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
                let mut wire = Wire::new(stream);
                wire.send(&[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat()).await;
                let mut first = None;
                while let Ok(Frame { stream, .. }) = wire.wait_for(|frame| frame.kind == HEADERS).await {
                    let Some(waits) = first.take() else {
                        first = Some(stream);
                        tell.notify_one();
                        continue;
                    };
                    wire.send(&frame(HEADERS, WHOLE, stream, &[&[OK], &fields[..]].concat())).await;
                    let reset = wire.wait_for(|frame| frame.kind == RST_STREAM).await.unwrap();
                    assert_eq!(reset.stream, stream);
                    wire.send(&frame(HEADERS, WHOLE, waits, &[OK])).await;
                }
            });
        }
    });
    // One thread, and so one connection; and no second try of what was answered badly.
    let yaml = Yaml::to(address).settings("protocol: http2").route("retry: {on: [none]}").top("threads: 1");
    (yaml.start().await, is_there)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_answer_of_an_http2_upstream_ends_its_own_request_and_nobody_elses() {
    for fields in [field("X-Upper", "1"), field("x", "a\nb"), field(":x", "1"), field("connection", "close")]
    {
        let (gateway, is_there) = answering_badly(fields).await;
        let address = gateway.address("main");
        let first = tokio::spawn(async move { get_h2c(address, "/first").await });
        is_there.notified().await;
        get_h2c(address, "/second").await.assert_status(502);
        first.await.unwrap().assert_status(200);
    }
}
