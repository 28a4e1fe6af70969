//! What requests share: connections, and how those end.

use std::{future::poll_fn, sync::Arc, time::Duration};

use futures::future::{join_all, select_all};
use h2::server::SendResponse;
use http::{Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
    time::timeout,
};

use super::{
    super::{
        Broken, Client, Heard, Length,
        exchange::MOST_INTERIM,
        tests::{Origin, PATIENCE, Stream, complete, http2},
    },
    *,
};
use crate::resources::Resources;

/// Tells an HTTP/2 server to begin no more streams.
type Leave = Arc<Notify>;

/// Serves each connection that comes, with so many streams at most. Hands out the streams, each with the number of its
/// connection.
fn serve(origin: Arc<Origin>, streams: u32) -> (mpsc::UnboundedReceiver<(usize, Stream)>, Leave) {
    let ((sender, received), leave) = (mpsc::unbounded_channel(), Leave::default());
    let told = leave.clone();
    tokio::spawn(async move {
        for number in 0.. {
            let (wire, sender, told) = (origin.accept().await, sender.clone(), told.clone());
            tokio::spawn(async move {
                let mut server = h2::server::Builder::new();
                let mut connection =
                    server.max_concurrent_streams(streams).handshake(wire.socket).await.unwrap();
                loop {
                    tokio::select! {
                        () = told.notified() => connection.graceful_shutdown(),
                        accepted = connection.accept() => match accepted {
                            // The test may be over.
                            Some(Ok(stream)) => drop(sender.send((number, stream))),
                            _ => return,
                        }
                    }
                }
            });
        }
    });
    (received, leave)
}

async fn next(streams: &mut mpsc::UnboundedReceiver<(usize, Stream)>) -> (usize, SendResponse<Bytes>) {
    let (number, (_, respond)) = timeout(PATIENCE, streams.recv()).await.expect("a stream").unwrap();
    (number, respond)
}

fn answer(mut respond: SendResponse<Bytes>) {
    respond.send_response(Response::new(()), true).unwrap();
}

fn interim() -> Response<()> {
    Response::builder().status(StatusCode::EARLY_HINTS).body(()).unwrap()
}

#[tokio::test]
async fn interim_answers_over_http2_are_heard_but_not_without_end() {
    for (hints, is_answered) in [(2, true), (MOST_INTERIM, true), (MOST_INTERIM + 1, false)] {
        let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
        let server = async {
            let mut streams = http2(origin.accept().await);
            let (_request, mut respond) = streams.recv().await.unwrap();
            for _ in 0..hints {
                respond.send_informational(interim()).unwrap();
            }
            answer(respond);
            streams
        };
        let mut heard = 0;
        let client = async {
            let mut hear = |what: Heard<'_>| {
                heard += u32::from(matches!(what, Heard::Interim(hint) if hint.status == 103));
            };
            direct.ask(&origin.http2_call(""), &mut hear).await.map_err(|Broken { .. }| ())
        };
        let (_streams, answered) =
            timeout(PATIENCE, async { tokio::join!(server, client) }).await.expect("an answer");
        assert_eq!(answered.is_ok(), is_answered, "{hints}");
        assert_eq!(heard, hints.min(MOST_INTERIM));
    }
}

#[tokio::test]
async fn a_burst_shares_as_few_connections_as_its_streams_need() {
    // What the server allows; our own bound is ten.
    for (allowed, connections) in [(100, 2), (4, 3), (1, 12)] {
        let (origin, direct) = (Arc::new(Origin::start().await), Client::new(64, 1, Resources::for_test()));
        let (mut streams, _leave) = serve(origin.clone(), allowed);
        let server = async {
            let mut open = Vec::new();
            for _ in 0..12 {
                open.push(next(&mut streams).await);
            }
            let mut used = vec![0; 12];
            for (number, respond) in open {
                used[number] += 1;
                answer(respond);
            }
            used
        };
        let calls = join_all((0..12).map(|_| complete(&direct, origin.http2_call(""))));
        let (used, answers) = tokio::join!(server, calls);
        assert!(answers.iter().all(|(status, ..)| *status == 200));
        let used: Vec<u32> = used.into_iter().filter(|streams| *streams > 0).collect();
        assert_eq!(used.len(), connections, "{used:?}");
        assert!(used.iter().all(|streams| *streams <= allowed.min(10)), "{used:?}");
    }
}

#[tokio::test]
async fn who_waits_for_a_connection_that_another_opens_does_not_depend_on_it() {
    let (pool, limit) = (Pool::new(8), IdleLimit::new(&Arc::default(), 8, PATIENCE));
    let find = |shares| pool.find(1, 2, shares, &limit);
    let Found::Nothing(opening) = find(true) else { panic!("there is none yet") };
    // Whoever may have to speak HTTP/1 opens one alone.
    assert!(matches!(find(false), Found::Nothing(_)));
    let Found::Opening(mut ended) = find(true) else { panic!("there is room for one more") };
    assert!(matches!(find(true), Found::Nothing(_)), "and for no other");
    assert!(ended.changed().now_or_never().is_none());
    drop(opening);
    assert!(ended.changed().await.is_err());
    assert!(matches!(find(true), Found::Nothing(_)));

    // A server that does not say how many streams it takes has them wait no longer than for a connection.
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let mut call = origin.http2_call("");
    call.peer.options.total_connection_timeout = Some(std::time::Duration::from_millis(50));
    let first = direct.ask_once(call.clone());
    tokio::select! {
        _ = first => panic!("nothing was answered"),
        (_wire, asked) = async {
            let wire = origin.accept().await;
            (wire, direct.ask_once(call).await)
        } => assert_eq!(*asked.err().expect("no answer").etype(), ErrorType::ConnectTimedout),
    }
}

#[tokio::test]
async fn the_connection_with_the_most_streams_serves_next() {
    let (origin, direct) = (Arc::new(Origin::start().await), Client::new(8, 1, Resources::for_test()));
    let (mut streams, _leave) = serve(origin.clone(), 2);
    let mut calls: Vec<_> = (0..4).map(|_| Box::pin(complete(&direct, origin.http2_call("")))).collect();
    let mut open: Vec<(usize, SendResponse<Bytes>)> = Vec::new();
    while open.len() < 4 {
        tokio::select! {
            stream = next(&mut streams) => open.push(stream),
            _ = select_all(&mut calls) => panic!("nothing was answered"),
        }
    }
    // The first connection has one stream left, the second none.
    open.sort_by_key(|(number, _)| *number);
    for (_, respond) in open.drain(1..) {
        answer(respond);
    }
    for _ in 0..3 {
        let (.., left) = select_all(calls).await;
        calls = left;
    }
    let (_, (number, respond)) = {
        let mut more = Box::pin(complete(&direct, origin.http2_call("")));
        let stream = tokio::select! {
            stream = next(&mut streams) => stream,
            _ = &mut more => panic!("nothing was answered"),
        };
        (more, stream)
    };
    assert_eq!(number, 0);
    drop((open, respond));
}

#[tokio::test]
async fn what_runs_when_a_server_leaves_ends_well_and_what_follows_goes_elsewhere() {
    let (origin, direct) = (Arc::new(Origin::start().await), Client::new(8, 1, Resources::for_test()));
    let (mut streams, leave) = serve(origin.clone(), 100);
    let running = complete(&direct, origin.http2_call(""));
    let after = async {
        let (first, respond) = next(&mut streams).await;
        leave.notify_one();
        // Until that is heard, calls may come to the same connection; those beyond its last are refused.
        let served_elsewhere = async {
            loop {
                let (number, respond) = next(&mut streams).await;
                answer(respond);
                if number != first {
                    return;
                }
            }
        };
        let calls = async {
            loop {
                match direct.ask_once(origin.http2_call("")).await {
                    Ok(answer) => assert_eq!(answer.header.status, 200),
                    Err(e) => assert!(e.retry(), "{e}"),
                }
            }
        };
        tokio::select! {
            () = served_elsewhere => {}
            () = calls => {}
        }
        answer(respond);
    };
    let ((status, ..), ()) = tokio::join!(running, after);
    assert_eq!(status, 200);
}

/// Whatever the server's reason is (RFC 9113, section 6.8).
#[tokio::test]
async fn what_a_leaving_server_has_not_looked_at_was_not_processed() {
    for reason in [H2Reason::NO_ERROR, H2Reason::ENHANCE_YOUR_CALM] {
        let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
        let server = async {
            let mut wire = origin.accept().await;
            let mut frames = b"\0\0\0\x04\0\0\0\0\0".to_vec();
            // The last stream is none.
            frames.extend_from_slice(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0");
            frames.extend_from_slice(&u32::from(reason).to_be_bytes());
            wire.socket.write_all(&frames).await.unwrap();
            wire
        };
        let (_wire, asked) = tokio::join!(server, direct.ask_once(origin.http2_call("")));
        let error = asked.err().expect("no answer");
        assert!(error.retry(), "{reason:?}: {error}");
    }
}

#[tokio::test]
async fn one_limit_holds_for_the_idle_connections_of_both_versions() {
    let connections = Arc::default();
    let limit = IdleLimit::new(&connections, 1, PATIENCE);
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let (mut http1_call, mut http2_call) = (origin.call("GET", ""), origin.http2_call(""));
    (http1_call.idle_limit, http2_call.idle_limit) = (limit.clone(), limit.clone());
    const EMPTY: &str = "HTTP/1.1 204 No Content\r\n\r\n";

    let mut first = {
        let (_, wire) = tokio::join!(complete(&direct, http1_call.clone()), async {
            let mut wire = origin.accept().await;
            wire.answer(EMPTY).await;
            wire
        });
        wire
    };
    assert!(limit.take().is_none());
    // One too many, so it is closed.
    let server = async {
        let mut connection = h2::server::handshake(origin.accept().await.socket).await.unwrap();
        answer(connection.accept().await.unwrap().unwrap().1);
        assert!(timeout(PATIENCE, connection.accept()).await.expect("the end").is_none());
    };
    tokio::join!(complete(&direct, http2_call.clone()), server);
    // The other one serves on, and leaves its place when it has gone.
    let (served, ()) = tokio::join!(complete(&direct, http1_call.clone()), async {
        first.answer("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
    });
    assert!(served.2);
    let mut streams = {
        let (_, streams) = tokio::join!(complete(&direct, http2_call.clone()), async {
            let mut streams = http2(origin.accept().await);
            answer(streams.recv().await.unwrap().1);
            streams
        });
        streams
    };
    assert!(limit.take().is_none());
    let (served, ()) = tokio::join!(complete(&direct, http2_call), async {
        answer(streams.recv().await.unwrap().1);
    });
    assert!(served.2);
}

#[tokio::test]
async fn an_idle_connection_is_closed_when_its_time_is_over() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let mut call = origin.http2_call("");
    call.idle_limit = IdleLimit::new(&Arc::default(), 8, std::time::Duration::ZERO);
    for _ in 0..2 {
        let server = async {
            let mut connection = h2::server::handshake(origin.accept().await.socket).await.unwrap();
            answer(connection.accept().await.unwrap().unwrap().1);
            connection
        };
        let (closing, served) = tokio::join!(
            async {
                let mut connection = server.await;
                timeout(PATIENCE, connection.accept()).await.expect("the end").is_none()
            },
            complete(&direct, call.clone())
        );
        assert!(closing && !served.2);
    }
}

#[tokio::test]
async fn a_dead_connection_is_found_by_its_ping() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let mut call = origin.http2_call("");
    call.peer.options.h2_ping_interval = Some(PATIENCE / 6);
    let (silent, asked) = tokio::join!(origin.accept(), async {
        // From here on it is as late as whoever waits has patience for.
        tokio::time::pause();
        direct.ask_once(call.clone()).await
    });
    let error = asked.err().expect("no answer");
    assert_eq!(*error.etype(), PING_TIMEDOUT);
    tokio::time::resume();
    drop(silent);
    let (served, _streams) = tokio::join!(complete(&direct, call), async {
        let mut streams = http2(origin.accept().await);
        answer(streams.recv().await.unwrap().1);
        streams
    });
    assert_eq!((served.0, served.2), (200, false));
}

#[tokio::test]
async fn a_connection_that_is_doubted_is_asked_for_a_sign_of_life_at_once() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let mut call = origin.http2_call("");
    call.peer.options.h2_ping_interval = Some(Duration::from_secs(3600));
    let limit = call.idle_limit.clone();
    let (silent, exchange) = tokio::join!(origin.accept(), direct.connect(&call.peer, &limit, true, 1));
    let mut exchange = exchange.unwrap();
    exchange.send_head(Box::new(call.header.clone()), Length::None).unwrap();
    exchange.doubt();
    let began = tokio::time::Instant::now();
    tokio::time::pause();
    let error = poll_fn(|cx| exchange.poll_head(cx)).await.expect_err("no answer");
    assert_eq!(*error.etype(), PING_TIMEDOUT);
    assert!(began.elapsed() < Duration::from_secs(60));
    drop(silent);
}

#[tokio::test]
async fn late_answers_to_requests_that_were_given_up_do_not_end_their_connection() {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const ACKNOWLEDGED: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    // More than `h2` remembers, and of those it does not more than it puts up with by default.
    const GIVEN_UP: u32 = 2_500;
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let call = origin.http2_call("");
    let held = tokio::spawn({
        let (direct, call) = (direct.clone(), call.clone());
        async move { complete(&direct, call).await }
    });
    let mut socket = origin.accept().await.socket;
    socket.write_all(&SETTINGS).await.unwrap();
    let mut read = Vec::new();
    while !read.windows(ACKNOWLEDGED.len()).any(|frame| frame == ACKNOWLEDGED) {
        let more = timeout(PATIENCE, socket.read_buf(&mut read)).await.expect("its settings").unwrap();
        assert_ne!(more, 0);
    }
    let (mut reading, mut writing) = socket.into_split();
    let reader = tokio::spawn(async move { tokio::io::copy(&mut reading, &mut tokio::io::sink()).await });
    for _ in 0..GIVEN_UP {
        let mut given_up = Box::pin(direct.ask_once(call.clone()));
        assert!(futures::poll!(&mut given_up).is_pending());
        drop(given_up);
        tokio::task::yield_now().await;
    }
    // Each stream's answer, in one frame of one field, `:status: 200`; the one that is waited for comes last.
    for stream in (0..=GIVEN_UP).rev().map(|n| 2 * n + 1) {
        let frame = [&[0, 0, 1, 1, 5], &stream.to_be_bytes()[..], &[0x88]].concat();
        writing.write_all(&frame).await.unwrap();
    }
    let served = timeout(PATIENCE, held).await.expect("an answer").unwrap();
    assert_eq!(served.0, 200);
    drop(direct);
    timeout(PATIENCE, reader).await.expect("the end").unwrap().unwrap();
}
