//! HTTP/2 clients that keep the gateway busy for nothing: each is sent away, others are served meanwhile, and memory does
//! not grow with what they send.

use tokio::io::{AsyncWriteExt, split};

use super::Setup;
use crate::support::frames::*;
use crate::support::{Gateway, Step, connect, get, observe::peak_memory, within_deadline};

const ENHANCE_YOUR_CALM: u32 = 11;

/// Sends `first`, and then each frame that `next` gives for its number until the gateway has had enough, reading what it
/// answers; at most 200,000 of them.
async fn flood(setup: &Setup, first: &[u8], next: impl Fn(u32) -> Vec<u8> + Send + 'static) {
    let before = peak_memory(&setup.gateway);
    let mut wire = Wire::open(setup.address()).await;
    wire.send(first).await;
    let (reader, mut writer) = split(wire.into_inner());
    let writing = tokio::spawn(async move {
        for number in (0..200_000).step_by(50) {
            let frames: Vec<u8> = (number..number + 50).flat_map(&next).collect();
            if writer.write_all(&frames).await.is_err() {
                break;
            }
        }
        writer
    });
    let mut wire = Wire::new(tokio::io::join(reader, tokio::io::sink()));
    let goodbye = wire.wait_for(|frame| frame.kind == GOAWAY).await.unwrap();
    assert_eq!(goodbye.error(), ENHANCE_YOUR_CALM);
    get(setup.address(), "/blocked").await.assert_status(403);
    within_deadline("the end of the flood", writing).await.unwrap();
    let grown = peak_memory(&setup.gateway) - before;
    assert!(grown < 20_000, "{grown} kB more");
}

fn open() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &[&[POST, HTTP, ROOT], AUTHORITY].concat())
}

async fn stalled() -> Setup {
    Setup::start("", "", vec![Step::ReadHead, Step::Stall]).await
}

/// CVE-2019-9512.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pings_ends_the_connection() {
    flood(&stalled().await, &open(), |_| frame(PING, 0, 0, &[0; 8])).await;
}

/// CVE-2019-9515.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_settings_ends_the_connection() {
    flood(&stalled().await, &open(), |_| frame(SETTINGS, 0, 0, &setting(4, 65_535))).await;
}

/// CVE-2019-9518.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_empty_data_ends_the_connection() {
    flood(&stalled().await, &open(), |_| frame(DATA, 0, 1, &[])).await;
}

/// CVE-2019-9513.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_priorities_ends_the_connection() {
    flood(&stalled().await, &open(), |number| frame(PRIORITY, 0, 2 * number + 1, &[0, 0, 0, 0, 1])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_window_updates_or_of_what_nobody_knows_ends_the_connection() {
    flood(&stalled().await, &open(), |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await;
    flood(&stalled().await, &open(), |_| frame(0x42, 0, 0, &[0])).await;
}

/// Streams that are given up as soon as they are at the upstream, which the library does not count (CVE-2023-44487).
#[tokio::test(flavor = "multi_thread")]
async fn cve_2023_44487_a_reset_behind_each_accepted_request_ends_the_connection() {
    let setup = stalled().await;
    let mut wire = Wire::open(setup.address()).await;
    for number in 0..5000 {
        let stream = 2 * number + 1;
        wire.send(&frame(HEADERS, WHOLE, stream, GOOD)).await;
        // The answer to a ping shows that the request was taken.
        wire.send(&frame(PING, 0, 0, &[0; 8])).await;
        let frame_or_end = wire.wait_for(|frame| matches!(frame.kind, PING | GOAWAY)).await;
        if frame_or_end.is_ok_and(|frame| frame.kind == PING) {
            wire.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).await;
            continue;
        }
        assert!(number > 400, "a client may change its mind, but not this one after {number}");
        get(setup.address(), "/blocked").await.assert_status(403);
        return;
    }
    panic!("5,000 resets were taken");
}

/// A client that neither reads nor stops: what is to be sent to it must not pile up.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_whose_answers_are_not_read_ends_with_the_write_timeout() {
    let setup = Setup::start("write_timeout: 300ms", "", vec![Step::ReadHead, Step::Stall]).await;
    let before = peak_memory(&setup.gateway);
    let mut stream = connect(setup.address()).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(1000);
    let sent = async { while stream.write_all(&pings).await.is_ok() {} };
    within_deadline("the end of the connection", sent).await;
    assert!(peak_memory(&setup.gateway) - before < 20_000);
    get(setup.address(), "/blocked").await.assert_status(403);
}

/// Window updates by a byte make the gateway frame a response byte by byte.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_opens_byte_by_byte_ends_the_connection() {
    let setup = Setup::start("", "", vec![Step::ReadHead, Step::respond(&"x".repeat(1 << 20))]).await;
    let mut wire = Wire::open(setup.address()).await;
    wire.send(&[frame(SETTINGS, 0, 0, &setting(4, 1)), frame(HEADERS, WHOLE, 1, GOOD)].concat()).await;
    for _ in 0..20_000 {
        match wire.wait_for(|frame| matches!(frame.kind, DATA | GOAWAY)).await.unwrap() {
            goodbye if goodbye.kind == GOAWAY => {
                assert_eq!(goodbye.error(), ENHANCE_YOUR_CALM);
                return;
            }
            data => assert_eq!(data.payload.len(), 1),
        }
        let more = |stream| frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1]);
        wire.send(&[more(0), more(1)].concat()).await;
    }
    panic!("20,000 bytes were sent one by one");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_never_open_are_left_after_the_write_timeout() {
    const STREAMS: u32 = 100;
    let body = "x".repeat(1 << 22);
    let setup = Setup::start("write_timeout: 300ms", "", vec![Step::ReadHead, Step::respond(&body)]).await;
    let before = peak_memory(&setup.gateway);
    let mut wire = Wire::open(setup.address()).await;
    let requests: Vec<u8> =
        (0..STREAMS).flat_map(|number| frame(HEADERS, WHOLE, 2 * number + 1, GOOD)).collect();
    wire.send(&[frame(SETTINGS, 0, 0, &setting(4, 0)), requests].concat()).await;
    for _ in 0..STREAMS {
        wire.wait_for(|frame| frame.kind == RST_STREAM).await.unwrap();
    }
    // 400 MB wait at the upstream.
    let grown = peak_memory(&setup.gateway) - before;
    assert!(grown < 100_000, "{grown} kB more");
    get(setup.address(), "/blocked").await.assert_status(403);
}

/// What well-behaved clients do is no flood: a stream of small messages, each answered with window updates and a ping (as
/// grpc-go does).
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_pings_at_each_message_is_none_to_send_away() {
    let backend = crate::support::Backend::start().await;
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: origin}}]\n\
         upstreams: {{origin: {{endpoints: ['{}']}}}}\n",
        backend.address()
    ))
    .await;
    let mut wire = Wire::open(gateway.address("main")).await;
    let echo = [&[POST, HTTP], AUTHORITY, &field(":path", "/echo")].concat();
    wire.send(&frame(HEADERS, END_HEADERS, 1, &echo)).await;
    for _ in 0..5000 {
        wire.send(&frame(DATA, 0, 1, b"\0\0\0\0\0")).await;
        let data = wire.wait_for(|frame| matches!(frame.kind, DATA | GOAWAY)).await.unwrap();
        assert_eq!(data.kind, DATA, "sent away");
        let room = |stream| frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 5]);
        wire.send(&[room(0), room(1), frame(PING, 0, 0, &[0; 8])].concat()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_no_ping_is_gone() {
    let setup = Setup::start("ping_interval: 200ms", "", vec![Step::ReadHead, Step::ReadToEnd]).await;
    let mut wire = Wire::open(setup.address()).await;
    wire.send(&frame(HEADERS, WHOLE, 1, GOOD)).await;
    setup.upstream.wait_for_heads(1).await;
    for _ in 0..3 {
        let ping = wire.wait_for(|frame| frame.kind == PING && frame.flags & ACK == 0).await.unwrap();
        wire.send(&frame(PING, ACK, 0, &ping.payload)).await;
    }
    wire.wait_for(|frame| frame.kind == PING).await.unwrap();
    let end = wire.wait_for(|frame| matches!(frame.kind, PING | RST_STREAM)).await;
    assert_eq!(end, Err(Silence::Closed));
    let line = setup.gateway.wait_for_message("request").await;
    assert_eq!(line["reason"], "client_closed", "its stream is given up: {line}");
}
