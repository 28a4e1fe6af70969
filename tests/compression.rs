//! The `compression` filter where it takes more than one request and its answer: bodies that come slowly, bodies that
//! break off, trailers, and large ones. What it encodes at all is in `tests/filters/compression.yaml`.

use std::io::Read;

use crate::support::{Backend, Gateway, RawConnection, ScriptedUpstream, Step, Yaml, send, send_h2c};

const TYPES: &str = "[text/plain, text/event-stream, application/octet-stream]";

async fn gateway(upstream: impl std::fmt::Display) -> Gateway {
    let route = format!("filters: [{{compression: {{min_size: 0B, types: {TYPES}}}}}]");
    Yaml::to(upstream).route(&route).settings("read_timeout: 2s").start().await
}

fn head(field: &str) -> Step {
    Step::write(format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{field}\r\n\r\n"))
}

fn ask(gateway: &Gateway) -> RawConnection {
    let mut client = RawConnection::open(gateway.address("main"));
    client.write("GET / HTTP/1.1\r\nhost: a.test\r\naccept-encoding: gzip\r\n\r\n");
    assert_eq!(client.read_head().header("content-encoding"), Some("gzip"));
    client
}

/// One chunk of a chunked body (RFC 9112, section 7.1); `None` for the last.
fn read_chunk(client: &mut RawConnection) -> Option<Vec<u8>> {
    let mut size = Vec::new();
    while !size.ends_with(b"\r\n") {
        size.extend(client.read_exactly(1));
    }
    let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).unwrap();
    let chunk = client.read_exactly(size);
    client.read_exactly(2);
    (size > 0).then_some(chunk)
}

/// What can be decoded of a stream so far.
fn decoded(encoded: &[u8]) -> String {
    let (mut decoded, mut byte) = (Vec::new(), [0]);
    let mut decoder = flate2::read::GzDecoder::new(encoded);
    while let Ok(1) = decoder.read(&mut byte) {
        decoded.push(byte[0]);
    }
    String::from_utf8(decoded).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_stream_is_not_held_back() {
    // Sends one event and then waits for a client that is waiting for it.
    let upstream = ScriptedUpstream::start(vec![
        Step::ReadHead,
        head("transfer-encoding: chunked"),
        Step::write("9\r\ndata: 1\n\n\r\n"),
        Step::Stall,
    ])
    .await;
    let gateway = gateway(upstream.address()).await;
    let mut client = ask(&gateway);
    let first = tokio::task::block_in_place(|| read_chunk(&mut client)).unwrap();
    assert_eq!(decoded(&first), "data: 1\n\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_does_not_end_as_if_it_were_whole() {
    let upstream = ScriptedUpstream::start(vec![
        Step::ReadHead,
        head("content-length: 100"),
        Step::write("only this"),
        Step::Close,
    ])
    .await;
    let gateway = gateway(upstream.address()).await;
    let mut client = ask(&gateway);
    let rest = tokio::task::block_in_place(|| client.read_to_end());
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_body_is_the_end_of_its_encoding_however_it_is_told() {
    for (field, body) in [
        ("content-length: 8", "all of i".to_owned()),
        ("transfer-encoding: chunked", "8\r\nall of i\r\n0\r\n\r\n".to_owned()),
        ("transfer-encoding: chunked", "8\r\nall of i\r\n0\r\nx-trailer: a\r\n\r\n".to_owned()),
        ("connection: close", "all of i".to_owned()),
    ] {
        let upstream =
            ScriptedUpstream::start(vec![Step::ReadHead, head(field), Step::write(body), Step::Close]).await;
        let gateway = gateway(upstream.address()).await;
        let fields = [("accept-encoding", "gzip")];
        for answer in [
            send(gateway.address("main"), "GET", "/", &fields, "").await,
            send_h2c(gateway.address("main"), "GET", "/", &fields, "").await,
        ] {
            let mut whole = String::new();
            let mut decoder = flate2::read::GzDecoder::new(&*answer.body);
            decoder.read_to_string(&mut whole).unwrap_or_else(|error| panic!("{field}: {error}"));
            assert_eq!(whole, "all of i", "{field}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_arrives_whole_over_either_version() {
    let backend = Backend::start().await;
    let gateway = gateway(backend.address()).await;
    let fields = [("accept-encoding", "br")];
    for answer in [
        send(gateway.address("main"), "GET", "/bytes/3000000", &fields, "").await,
        send_h2c(gateway.address("main"), "GET", "/bytes/3000000", &fields, "").await,
    ] {
        assert_eq!(answer.header("content-encoding"), Some("br"));
        let mut whole = Vec::new();
        brotli::Decompressor::new(&*answer.body, 4096).read_to_end(&mut whole).unwrap();
        assert_eq!(whole.len(), 3_000_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_follow_an_encoded_body_where_the_client_takes_them() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         routes: [{{filters: [{{compression: {{min_size: 0B}}}}, \
         {{headers: {{response: {{set: {{content-type: text/plain}}}}}}}}], upstream: grpc}}]\n\
         upstreams: {{grpc: {{endpoints: ['{}'], protocol: grpc}}}}\n",
        backend.address()
    ))
    .await;
    let fields = [("content-type", "text/plain"), ("te", "trailers"), ("accept-encoding", "zstd")];
    let path = "/grpc.health.v1.Health/Check";
    let request = &[0, 0, 0, 0, 0][..];
    for answer in [
        send(gateway.address("main"), "POST", path, &fields, request).await,
        send_h2c(gateway.address("main"), "POST", path, &fields, request).await,
    ] {
        assert_eq!(answer.header("content-encoding"), Some("zstd"), "{answer:?}");
        assert_eq!(zstd::decode_all(&*answer.body).unwrap(), [0, 0, 0, 0, 2, 0x08, 1]);
        assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "0");
    }
    let call = [("content-type", "application/grpc"), ("te", "trailers"), ("accept-encoding", "zstd")];
    let answer = send_h2c(gateway.address("main"), "POST", path, &call, request).await;
    assert_eq!(answer.header("content-encoding"), None, "{answer:?}");
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
}
