//! Clients that stay within every pause and are too slow all the same, in either direction: what they hold of an upstream
//! is let go. Who waits for somebody else is not slow.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::Setup;
use crate::support::{
    Step, Yaml,
    frames::{
        AUTHORITY, DATA, END_STREAM, GET, HEADERS, HTTP, RST_STREAM, SETTINGS, WHOLE, WINDOW_UPDATE, Wire,
        field, frame, setting,
    },
    get, get_h2c,
    http2::{Http2Client, whole},
    raw,
};

/// Nobody is so fast, so whoever is waited for has the grace and no more.
const STRICT: &str = "min_rate: 1GB/s, min_rate_grace: 200ms, body_timeout: 1h, write_timeout: 1h";

async fn reading(limits: &str) -> Setup {
    Setup::start(limits, "", vec![Step::ReadHead, Step::ReadToEnd]).await
}

async fn too_slow(setup: &Setup) {
    let line = setup.gateway.wait_for_line(|line| line["reason"] == "client_too_slow").await;
    assert_eq!(line["route"], "all", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_too_slowly_is_408_although_no_pause_is_too_long() {
    let setup = reading(STRICT).await;
    for request in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        // Framing is no content, however much of it there is.
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;extension=long\r\nabc\r\n3;ex",
    ] {
        let mut slow = setup.open();
        slow.write(request);
        slow.read_response().assert_reason(408, "client_too_slow");
        assert!(slow.is_closed());
        too_slow(&setup).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_too_slowly_over_http2_is_408() {
    let setup = reading(STRICT).await;
    let mut client = Http2Client::open(setup.address()).await;
    let (response, mut body) = client.begin(Request::post("http://a/").body(()).unwrap(), false).await;
    body.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let mut parts = tokio::time::interval(std::time::Duration::from_millis(50));
    let empty = async {
        loop {
            // Frames that are empty bring nothing.
            parts.tick().await;
            if body.send_data(Bytes::new(), false).is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let answer = tokio::select! {
        answer = whole(response) => answer,
        () = empty => unreachable!("it has no end"),
    };
    answer.assert_reason(408, "client_too_slow");
    too_slow(&setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_too_slowly_loses_the_rest_of_the_answer() {
    let script = vec![Step::ReadHead, Step::respond(&"x".repeat(24 << 20))];
    let setup = Setup::start(STRICT, "", script).await;
    let mut http1 = setup.open();
    http1.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    too_slow(&setup).await;
    let mut http2 = Http2Client::open(setup.address()).await;
    // Its window is never opened again.
    let (_response, _) = http2.begin(Request::get("http://a/").body(()).unwrap(), true).await;
    too_slow(&setup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_slow_makes_no_client_slow() {
    let strict = STRICT.replace("200ms", "1ms");
    let head = Step::write("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n");
    let setup = Setup::start(&strict, "", vec![Step::ReadHead, head, Step::Dribble(b"x".to_vec())]).await;
    get(setup.address(), "/").await.assert_status(200);
    get_h2c(setup.address(), "/").await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_there_at_once_is_fast_enough_and_each_request_begins_anew() {
    let script = vec![Step::ReadHead, Step::ReadBody(3), Step::respond("ok"), Step::Again];
    let setup = Setup::start(STRICT, "", script).await;
    let request = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    let last = request.replace("host: a", "host: a\r\nconnection: close");
    let answers = raw(setup.address(), [request, request, &last].concat());
    assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 ").count(), 3);
}

/// Whoever has read all there was has not been slow meanwhile, over HTTP/2 as over HTTP/1.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_not_charged_for_the_silence_of_an_upstream() {
    const FIRST: usize = 64 * 1024;
    const SECOND: usize = 16 * 1024;
    let upstream = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let limits = "write_timeout: 2s, min_rate_grace: 1s";
    let gateway = Yaml::to(upstream.local_addr().unwrap()).limits(limits).start().await;
    let mut client = Wire::open(gateway.address("main")).await;
    let head = [&[GET, HTTP][..], AUTHORITY, &field(":path", "/")].concat();
    client.send(&frame(SETTINGS, 0, 0, &setting(4, FIRST as u32))).await;
    client.send(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 24).to_be_bytes())).await;
    client.send(&frame(HEADERS, WHOLE, 1, &head)).await;
    let (mut stream, _) = upstream.accept().await.unwrap();
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(stream.read_u8().await.unwrap());
    }
    let said = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", FIRST + SECOND);
    stream.write_all(&[said.as_bytes(), &[0; FIRST]].concat()).await.unwrap();
    let mut read = 0;
    while read < FIRST {
        read += client.wait_for(|frame| frame.kind == DATA).await.unwrap().payload.len();
    }
    // Longer than a client may take.
    tokio::time::sleep(Duration::from_secs(3)).await;
    stream.write_all(&[0; SECOND]).await.unwrap();
    // The gateway has it and waits for the client, or the client has been quick.
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.send(&frame(WINDOW_UPDATE, 0, 1, &(SECOND as u32).to_be_bytes())).await;
    let last = |flags: u8| flags & END_STREAM != 0;
    let end =
        client.wait_for(|frame| frame.kind == RST_STREAM || last(frame.flags) && frame.kind == DATA).await;
    assert_eq!(end.unwrap().kind, DATA, "cut as too slow");
}
