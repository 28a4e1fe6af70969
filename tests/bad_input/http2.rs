//! HTTP/2 frame by frame: headers that are too large, streams that are malformed, clients that never get going.

use std::net::SocketAddr;

use super::{Setup, targets};
use crate::support::frames::*;
use crate::support::{RawConnection, Step, get, get_h2c, observe::peak_memory, send_h2c};

struct RawHttp2(RawConnection);

impl RawHttp2 {
    fn open(address: SocketAddr) -> RawHttp2 {
        let mut connection = RawHttp2(RawConnection::open(address));
        connection.0.write(PREFACE);
        connection.send(SETTINGS, 0, 0, &[]);
        connection
    }

    #[track_caller]
    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.0.write(frame(kind, flags, stream, payload));
    }

    /// A request without a body.
    #[track_caller]
    fn request(&mut self, stream: u32, block: &[u8]) {
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, block);
    }

    #[track_caller]
    fn read(&mut self) -> Frame {
        let head = self.0.read_exactly(9);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let payload = self.0.read_exactly(number(&head[..3]) as usize);
        Frame { kind: head[3], flags: head[4], stream: number(&head[5..]) & 0x7fff_ffff, payload }
    }

    #[track_caller]
    fn wait_for(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.read();
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// What is first said of a stream.
    #[track_caller]
    fn first_word(&mut self, stream: u32) -> Word {
        let frame = self.wait_for(|frame| match frame.kind {
            HEADERS | RST_STREAM => frame.stream == stream,
            GOAWAY => frame.payload[4..8] != [0; 4],
            _ => false,
        });
        match (frame.kind, frame.payload[0]) {
            (RST_STREAM, _) => Word::Reset,
            (GOAWAY, _) => Word::Goodbye,
            // Entries of HPACK's static table; any other status is spelt out.
            (_, 0x88) => Word::Status(200),
            (_, 0x8c) => Word::Status(400),
            (_, 0x8d) => Word::Status(404),
            (_, 0x8e) => Word::Status(500),
            _ => Word::Status(0),
        }
    }

    /// The status of the answer on a stream, or `None` when the stream or the connection was ended.
    #[track_caller]
    fn status(&mut self, stream: u32) -> Option<u16> {
        match self.first_word(stream) {
            Word::Status(status) => Some(status),
            Word::Reset | Word::Goodbye => None,
        }
    }
}

#[derive(Debug)]
enum Word {
    Status(u16),
    Reset,
    /// The whole connection was ended, which is also right (RFC 9113, section 5.4.2).
    Goodbye,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_finishes_its_preface_is_cut_off() {
    let setup = Setup::answering("header_timeout: 1s, idle_timeout: 20s").await;
    for begun in [&PREFACE[..10], &PREFACE[..PREFACE.len() - 1]] {
        let mut connection = setup.open();
        connection.write(begun);
        connection.read_to_end();
    }
    assert_eq!(get_h2c(setup.address(), "/").await.assert_status(200).text(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_preface_is_400() {
    let setup = Setup::answering("").await;
    let mut connection = setup.open();
    connection.write(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    connection.read_response().assert_reason(400, "bad_request");
    assert!(connection.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_stream_or_with_half_a_header_is_closed() {
    let setup = Setup::answering("idle_timeout: 200ms").await;
    let mut bare = setup.open();
    bare.write(PREFACE);
    let settled = RawHttp2::open(setup.address());
    let mut half = RawHttp2::open(setup.address());
    half.send(HEADERS, END_STREAM, 1, GOOD);
    for mut connection in [bare, settled.0, half.0] {
        connection.read_to_end();
    }
    assert_eq!(setup.upstream.heads(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_list_over_the_limit_is_refused_and_the_connection_lives() {
    let setup = Setup::answering("header_size: 16KiB").await;
    let large = "x".repeat(20 << 10);
    let mut connection = crate::support::Connection::h2c(setup.address()).await.unwrap();
    if let Ok(answer) = connection.send("GET", "/", &[("x-large", &large)], "").await {
        answer.assert_status(431);
    }
    assert_eq!(setup.upstream.heads(), [""; 0]);
    connection.send("GET", "/", &[], "").await.unwrap().assert_status(200);
}

/// One large field, remembered once and named a thousand times, must not be held a thousand times.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_105297_a_header_bomb_costs_no_memory() {
    const NAMED: usize = 12_000;
    let setup = Setup::answering("").await;
    // Literal with incremental indexing: 4,000 bytes are 127 + 3873 (RFC 7541, section 5.1).
    let remembered = [b"\x40\x01x\x7f\xa1\x1e".to_vec(), vec![b'y'; 4000]].concat();
    // The first entry of the dynamic table stands behind the 61 of the static one.
    let bomb = [GOOD, &vec![0x80 | 62; NAMED]].concat();
    for _ in 0..30 {
        let mut connection = RawHttp2::open(setup.address());
        connection.request(1, &[GOOD, &remembered].concat());
        assert_eq!(connection.status(1), Some(200));
        connection.request(3, &bomb);
        assert_ne!(connection.status(3), Some(200));
    }
    let kilobytes = peak_memory(&setup.gateway);
    // Decoded, each of the 30 would be 48 MB.
    assert!(kilobytes < 200_000, "{kilobytes} kB");
    get(setup.address(), "/").await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_stream_reaches_no_upstream_and_leaves_its_connection_in_order() {
    let setup = Setup::answering("").await;
    let block = |fields: &[&[u8]]| fields.concat();
    let good = GOOD;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no path", block(&[&[GET, HTTP], AUTHORITY])),
        ("an empty path", block(&[&[GET, HTTP], AUTHORITY, &field(":path", "")])),
        ("a path that is none", block(&[&[GET, HTTP], AUTHORITY, &field(":path", "a")])),
        ("two paths", block(&[good, &[ROOT]])),
        ("no method", block(&[&[HTTP, ROOT], AUTHORITY])),
        ("a name in upper case", block(&[good, &field("X-Upper", "1")])),
        ("a connection field", block(&[good, &field("connection", "close")])),
        ("a transfer-encoding", block(&[good, &field("transfer-encoding", "chunked")])),
        ("an unknown pseudo-field", block(&[good, &field(":x", "1")])),
        ("a pseudo-field behind a field", block(&[&[GET, HTTP], AUTHORITY, &field("x", "1"), &[ROOT]])),
        ("a line end in a value", block(&[good, &field("x", "a\r\nhost: b")])),
        ("a line end in the path", block(&[&[GET, HTTP], AUTHORITY, &field(":path", "/ HTTP/1.1\r\nx: y")])),
        ("a space in the path", block(&[&[GET, HTTP], AUTHORITY, &field(":path", "/a b")])),
        ("another host", block(&[good, &field("host", "b")])),
        ("two hosts", block(&[&[GET, HTTP, ROOT], &field("host", "a"), &field("host", "b")])),
        ("no host", vec![GET, HTTP, ROOT]),
        ("a length without a body", block(&[&[POST, HTTP, ROOT], AUTHORITY, &field("content-length", "5")])),
    ];
    let mut wrong = Vec::new();
    for (what, block) in cases {
        let mut connection = RawHttp2::open(setup.address());
        connection.request(1, &block);
        match connection.first_word(1) {
            Word::Goodbye => continue,
            Word::Reset | Word::Status(400) => {}
            Word::Status(status) => wrong.push((what, status)),
        }
        connection.request(3, &[&[GET, HTTP], AUTHORITY, &field(":path", "/good")[..]].concat());
        assert_eq!(connection.status(3), Some(200), "behind {what}");
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(
        targets(&setup.upstream).iter().all(|target| target == "/good"),
        "{:?}",
        targets(&setup.upstream)
    );
}

/// The library refuses them, and nobody else gets to see them.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_no_uri_may_hold_has_one_line_in_the_log_as_over_http1() {
    let setup = Setup::answering("").await;
    let head = |path: &[u8]| {
        let path = [&[0, 5][..], b":path", &[path.len() as u8], path].concat();
        [&[GET, HTTP][..], AUTHORITY, &path].concat()
    };
    let mut refused = 0;
    for path in ["/<a>", "/a`", "/?<", "/?>", "/?\"", "/a b", "/?a b", "/a\t", "/?\x7f"] {
        let mut connection = RawHttp2::open(setup.address());
        connection.request(1, &head(path.as_bytes()));
        assert!(matches!(connection.first_word(1), Word::Reset), "{path}");
        // One that was read together with it.
        connection.0.write(
            [
                frame(HEADERS, END_STREAM | END_HEADERS, 3, &head(path.as_bytes())),
                frame(HEADERS, END_STREAM | END_HEADERS, 5, &head(b"/good")),
            ]
            .concat(),
        );
        assert_eq!(connection.status(5), Some(200), "behind {path}");
        for _ in 0..2 {
            let line = setup.gateway.wait_for_line(|line| line["reason"] == "bad_request").await;
            assert_eq!((&line["protocol"], &line["status"]), (&"HTTP/2".into(), &400.into()), "{line}");
            refused += 1;
        }
    }
    let mut connection = RawHttp2::open(setup.address());
    connection.request(1, &head(b"/\xff"));
    assert!(matches!(connection.first_word(1), Word::Goodbye));
    setup.gateway.wait_for_line(|line| line["reason"] == "bad_request").await;
    refused += 1;
    // Each once.
    let lines = setup.gateway.lines().into_iter().filter(|line| line["reason"] == "bad_request");
    assert_eq!(lines.count(), refused);
    assert!(targets(&setup.upstream).iter().all(|target| target == "/good"));
}

/// The library cuts it off before anybody sees the target.
#[tokio::test(flavor = "multi_thread")]
async fn a_fragment_in_a_target_reaches_nobody() {
    let setup = Setup::answering("").await;
    let mut connection = RawHttp2::open(setup.address());
    connection.request(1, &[&[GET, HTTP], AUTHORITY, &field(":path", "/good?a=b#/../c")[..]].concat());
    assert_eq!(connection.status(1), Some(200));
    assert_eq!(targets(&setup.upstream), ["/good?a=b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_list_that_the_library_does_not_keep_has_a_line_in_the_log() {
    let setup = Setup::answering("header_size: 4KiB").await;
    let mut connection = RawHttp2::open(setup.address());
    connection.request(1, &[GOOD, &field("x", &"y".repeat(100)).repeat(100)[..]].concat());
    assert!(matches!(connection.first_word(1), Word::Status(_)));
    let line = setup.gateway.wait_for_line(|line| line["reason"] == "header_too_large").await;
    assert_eq!((&line["protocol"], &line["status"]), (&"HTTP/2".into(), &431.into()), "{line}");
    assert_eq!(setup.upstream.heads(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_as_long_as_announced_is_never_a_whole_request() {
    let setup = Setup::start("", "", vec![Step::ReadHead, Step::ReadToEnd]).await;
    let head = [&[POST, HTTP, ROOT], AUTHORITY, &field("content-length", "5")[..]].concat();
    for body in ["abc", "abcdefgh"] {
        let mut connection = RawHttp2::open(setup.address());
        connection.send(HEADERS, END_HEADERS, 1, &head);
        connection.send(DATA, END_STREAM, 1, body.as_bytes());
        assert_ne!(connection.status(1), Some(200));
    }
    for number in 0..setup.upstream.connections() {
        let received = String::from_utf8_lossy(&setup.upstream.received(number)).into_owned();
        assert!(!received.contains("abcde"), "{received}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_told_goodbye() {
    let setup = Setup::answering("").await;
    let cases: [(&str, Vec<u8>); 5] = [
        ("data on a stream that is not open", frame(DATA, END_STREAM, 1, b"x")),
        ("a header block that is none", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 20])),
        ("an even stream", frame(HEADERS, END_STREAM | END_HEADERS, 2, GOOD)),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, GOOD)),
        ("a frame over the limit", frame(DATA, 0, 1, &[0; 20_000])),
    ];
    for (what, bytes) in cases {
        let mut connection = RawHttp2::open(setup.address());
        connection.0.write(bytes);
        let goodbye = connection.wait_for(|frame| frame.kind == GOAWAY);
        assert_ne!(goodbye.payload[4..8], [0; 4], "{what}");
        connection.0.read_to_end();
    }
    assert_eq!(setup.upstream.heads(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_continued_without_end_is_cut_off() {
    let setup = Setup::answering("").await;
    let mut connection = RawHttp2::open(setup.address());
    let mut flood = frame(HEADERS, END_STREAM, 1, GOOD);
    for _ in 0..2000 {
        flood.extend(frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(100))));
    }
    connection.0.write(flood);
    connection.wait_for(|frame| frame.kind == GOAWAY);
    assert_eq!(setup.upstream.heads(), [""; 0]);
}

/// A client that makes the *server* reset its streams must not get more work done than its stream limit allows.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2025_8671_made_you_reset_ends_the_connection() {
    let setup = Setup::start("", "", vec![Step::ReadHead, Step::Stall]).await;
    let mut connection = RawHttp2::open(setup.address());
    let mut flood = Vec::new();
    for number in 0..5000 {
        let stream = 2 * number + 1;
        flood.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, GOOD));
        // An increment of 0 is a stream error (RFC 9113, section 6.9).
        flood.extend(frame(WINDOW_UPDATE, 0, stream, &[0; 4]));
    }
    connection.0.write_what_goes(&flood);
    connection.wait_for(|frame| frame.kind == GOAWAY);
    assert!(setup.upstream.connections() < 1000, "{} reached the upstream", setup.upstream.connections());
    get(setup.address(), "/blocked").await.assert_status(403);
}

/// The same with the client's own resets (CVE-2023-44487).
#[tokio::test(flavor = "multi_thread")]
async fn cve_2023_44487_rapid_reset_ends_the_connection() {
    let setup = Setup::start("", "", vec![Step::ReadHead, Step::Stall]).await;
    let mut connection = RawHttp2::open(setup.address());
    let mut flood = Vec::new();
    for number in 0..5000 {
        let stream = 2 * number + 1;
        flood.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, GOOD));
        flood.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    connection.0.write_what_goes(&flood);
    connection.wait_for(|frame| frame.kind == GOAWAY);
    get(setup.address(), "/blocked").await.assert_status(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_malformed_streams_end_the_connection() {
    let setup = Setup::answering("").await;
    let mut connection = RawHttp2::open(setup.address());
    let mut flood = Vec::new();
    for number in 0..2000 {
        flood.extend(frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            2 * number + 1,
            &[GOOD, &field(":x", "1")].concat(),
        ));
    }
    connection.0.write_what_goes(&flood);
    connection.wait_for(|frame| frame.kind == GOAWAY);
    assert_eq!(setup.upstream.heads(), [""; 0]);
}

/// As where a proxy brings the requests of many on one connection.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_streams_among_as_many_good_ones_end_no_connection() {
    let setup = Setup::answering("").await;
    let mut connection = RawHttp2::open(setup.address());
    let malformed = [&[GET, HTTP][..], AUTHORITY, &[0, 5], b":path", &[4], b"/?\"x"].concat();
    for number in 0..100 {
        connection.request(4 * number + 1, &malformed);
        connection.request(4 * number + 3, GOOD);
        assert_eq!(connection.status(4 * number + 3), Some(200), "the {number}th");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_allowed_are_refused_or_wait() {
    let setup = Setup::start("streams_per_connection: 3", "", vec![Step::ReadHead, Step::Stall]).await;
    let mut connection = RawHttp2::open(setup.address());
    for stream in [1, 3, 5, 7] {
        connection.request(stream, GOOD);
    }
    let refused = connection.wait_for(|frame| frame.kind == RST_STREAM);
    assert_eq!((refused.stream, &refused.payload[..]), (7, &[0, 0, 0, 7][..]), "REFUSED_STREAM");
    setup.upstream.wait_for_heads(3).await;
    assert_eq!(setup.upstream.heads().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_and_unknown_methods_are_as_over_http1() {
    let setup = Setup::answering("").await;
    assert_eq!(send_h2c(setup.address(), "BREW", "/pot", &[], "").await.assert_status(200).text(), "ok");
    let mut connection = RawHttp2::open(setup.address());
    connection.request(1, &[&field(":method", "CONNECT")[..], AUTHORITY].concat());
    assert_ne!(connection.status(1), Some(200));
    assert_eq!(targets(&setup.upstream), ["/pot"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_begin_no_request_are_refused_at_once() {
    let setup = Setup::answering("header_timeout: 20s").await;
    let client_hello = b"\x16\x03\x01\x02\0\x01\0";
    for bytes in [&client_hello[..], &frame(SETTINGS, 0, 0, &[]), b"\0", b" GET / HTTP/1.1"] {
        let mut connection = setup.open();
        connection.write(bytes);
        connection.read_response().assert_reason(400, "bad_request");
        assert!(connection.is_closed());
    }
    get(setup.address(), "/").await.assert_status(200);
}
