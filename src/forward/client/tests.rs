//! Calls over real sockets, to origins that are told each step.

use std::time::Duration;

use futures::FutureExt;
use pingora_core::{ErrorSource, protocols::ALPN};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use http::{HeaderValue, Method, StatusCode, header};

use super::{exchange::MOST_INTERIM, *};

/// Long enough for a loaded machine; nothing waits this long when all is well.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// More than the buffers of two sockets hold.
const LARGE: usize = 24 << 20;

pub(super) struct Origin(TcpListener);

/// The origin's end of a connection.
pub(super) struct Wire {
    pub socket: TcpStream,
    ahead: Vec<u8>,
}

impl Origin {
    pub(super) async fn start() -> Origin {
        Origin(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn peer(&self) -> Box<HttpPeer> {
        let mut peer = HttpPeer::new(self.0.local_addr().unwrap(), false, String::new());
        peer.options.read_timeout = Some(PATIENCE);
        peer.options.write_timeout = Some(PATIENCE);
        peer.options.set_http_version(1, 1);
        Box::new(peer)
    }

    pub(super) fn call(&self, method: &str, body: impl Into<Bytes>) -> Call {
        let mut header = RequestHeader::build(method, b"/", None).unwrap();
        header.insert_header("host", "origin").unwrap();
        Call {
            peer: self.peer(),
            header,
            body: body.into(),
            spelling: None,
            is_repeatable: matches!(method, "GET" | "PUT"),
            handshake: None,
            idle_limit: IdleLimit::new(&Arc::default(), 8, PATIENCE),
            requests: 1,
        }
    }

    pub(super) fn http2_call(&self, body: impl Into<Bytes>) -> Call {
        let mut call = self.call("POST", body);
        call.peer.options.alpn = ALPN::H2;
        call.peer.options.max_h2_streams = 10;
        call
    }

    pub(super) async fn accept(&self) -> Wire {
        let (socket, _) = timeout(PATIENCE, self.0.accept()).await.expect("a connection").unwrap();
        Wire { socket, ahead: Vec::new() }
    }
}

impl Client {
    pub(super) async fn ask_once(&self, call: Call) -> Result<Answer> {
        self.ask(&call, &mut |_| {}).await.map_err(|broken| match broken.cause {
            BrokenBy::Error(error) => error,
            BrokenBy::Distrust(distrust) => panic!("{distrust}"),
        })
    }
}

impl Wire {
    /// One request of at most one buffer's size; what follows it is kept.
    async fn read_request(&mut self) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.ahead).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                let length: usize = length.unwrap_or(0);
                if body.len() >= length {
                    self.ahead.drain(..head.len() + 4 + length);
                    return format!("{head}\r\n\r\n{}", &body[..length]);
                }
            }
            let read = timeout(PATIENCE, self.socket.read_buf(&mut self.ahead)).await.expect("a request");
            assert_ne!(read.unwrap(), 0, "the connection closed within {text:?}");
        }
    }

    async fn write(&mut self, bytes: &str) {
        self.socket.write_all(bytes.as_bytes()).await.unwrap();
    }

    pub(super) async fn answer(&mut self, bytes: &str) -> String {
        let request = self.read_request().await;
        self.write(bytes).await;
        request
    }

    /// Wait for the other side to close, and say how much it sent before.
    pub(super) async fn closed(mut self) -> usize {
        let mut read = 0;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match timeout(PATIENCE, self.socket.read(&mut buffer)).await.expect("the connection closes") {
                Ok(0) | Err(_) => return read,
                Ok(more) => read += more,
            }
        }
    }
}

async fn whole(answer: &mut Answer) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(part) = answer.rest.body().await.unwrap() {
        body.extend_from_slice(&part);
    }
    body
}

/// Ask, read all, give the connection back. True when the connection was a kept one.
pub(super) async fn complete(direct: &Client, call: Call) -> (u16, Vec<u8>, bool) {
    let mut answer = direct.ask_once(call).await.unwrap();
    let body = whole(&mut answer).await;
    let (status, reused) = (answer.header.status.as_u16(), answer.rest.is_reused());
    answer.rest.finish();
    (status, body, reused)
}

#[tokio::test]
async fn one_connection_serves_one_request_after_another() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        let mut wire = origin.accept().await;
        let first = wire.answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        assert!(first.starts_with("POST / HTTP/1.1\r\n") && first.ends_with("\r\n\r\nonce"), "{first}");
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyou\r\n0\r\n\r\n";
        let second = wire.answer(chunked).await;
        assert!(second.starts_with("POST / HTTP/1.1\r\n") && second.ends_with("\r\n\r\ntwice"), "{second}");
        wire.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(wire.ahead, b"");
        wire
    };
    let client = async {
        assert_eq!(complete(&direct, origin.call("POST", "once")).await, (200, b"hi".to_vec(), false));
        assert_eq!(complete(&direct, origin.call("POST", "twice")).await, (200, b"you".to_vec(), true));
        assert_eq!(complete(&direct, origin.call("GET", "")).await, (204, Vec::new(), true));
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn the_end_of_a_body_decides_whether_its_connection_is_kept() {
    // (method, response, body, framed as chunks for the client, kept)
    let cases = [
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "hi", false, true),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "hi",
            true,
            true,
        ),
        ("GET", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi", "hi", false, false),
        ("GET", "HTTP/1.1 200 OK\r\n\r\nto the end", "to the end", true, false),
        ("GET", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", "hi", false, false),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", "", false, true),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "", false, true),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n", "", false, true),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi and more", "hi", false, false),
    ];
    let direct = Client::new(8, 1, Resources::for_test());
    for (method, response, body, is_open, kept) in cases {
        let origin = Origin::start().await;
        let server = async {
            let mut wire = origin.accept().await;
            wire.answer(response).await;
            if !kept {
                wire.socket.shutdown().await.unwrap();
                wire = origin.accept().await;
            }
            wire.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
        };
        let client = async {
            let mut answer = direct.ask_once(origin.call(method, "")).await.unwrap();
            assert!(!answer.header.headers.contains_key(header::TRANSFER_ENCODING), "{response}");
            assert_eq!(answer.length.is_none(), is_open, "{response}");
            assert_eq!(whole(&mut answer).await, body.as_bytes(), "{response}");
            answer.rest.finish();
            assert_eq!(complete(&direct, origin.call("GET", "")).await.2, kept, "{response}");
        };
        tokio::join!(server, client);
    }
}

#[tokio::test]
async fn interim_responses_are_skipped() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let interim =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n";
    let server = async {
        let mut wire = origin.accept().await;
        wire.answer(interim).await;
        wire.write("content-length: 2\r\n\r\nhi").await;
        wire
    };
    let client = async {
        let answer = direct.ask_once(origin.call("GET", "")).await.unwrap();
        assert_eq!(answer.header.status, 200);
        assert!(!answer.header.headers.contains_key("link"));
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_an_error() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        let mut wire = origin.accept().await;
        wire.answer("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n").await;
        wire.closed().await
    };
    let client = async { direct.ask_once(origin.call("GET", "")).await.err().expect("an error") };
    let (_, error) = tokio::join!(server, client);
    assert_eq!((error.etype(), error.esource()), (&ErrorType::InvalidHTTPHeader, &ErrorSource::Upstream));
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_replaced() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        let mut stale = origin.accept().await;
        stale.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
        stale.read_request().await;
        drop(stale);
        let mut fresh = origin.accept().await;
        assert!(fresh.answer("HTTP/1.1 204 No Content\r\n\r\n").await.ends_with("\r\n\r\nagain"));
        // The fresh one is kept under the pool's usual name.
        fresh.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    };
    let client = async {
        complete(&direct, origin.call("GET", "")).await;
        assert!(!complete(&direct, origin.call("PUT", "again")).await.2);
        assert!(complete(&direct, origin.call("GET", "")).await.2);
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn what_is_not_idempotent_is_never_sent_twice() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        let mut stale = origin.accept().await;
        stale.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
        stale.read_request().await;
    };
    let client = async {
        complete(&direct, origin.call("GET", "")).await;
        direct.ask_once(origin.call("POST", "once")).await.err().expect("an error")
    };
    let ((), error) = tokio::join!(server, client);
    assert_eq!((error.etype(), error.esource()), (&ErrorType::ConnectionClosed, &ErrorSource::Upstream));
    assert!(origin.0.accept().now_or_never().is_none());
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_is_sent_is_heard() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        let mut wire = origin.accept().await;
        wire.write("HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno").await;
        wire
    };
    let client = complete(&direct, origin.call("POST", vec![b'x'; LARGE]));
    let (wire, answered) = tokio::join!(server, client);
    assert_eq!(answered, (413, b"no".to_vec(), false));
    // The connection is in the middle of a request, so it is of no use to anyone.
    assert!(wire.closed().await < LARGE);
}

#[tokio::test]
async fn the_body_is_sent_while_the_answer_is_read() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        let mut wire = origin.accept().await;
        for _ in 0..2 {
            while !wire.ahead.ends_with(b"\r\n\r\n") {
                wire.ahead.push(wire.socket.read_u8().await.unwrap());
            }
            wire.ahead.clear();
            wire.write(&format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await;
            let (read, mut write) = wire.socket.split();
            tokio::io::copy(&mut read.take(LARGE as u64), &mut write).await.unwrap();
        }
    };
    let client = async {
        for reused in [false, true] {
            let (status, body, was_reused) = complete(&direct, origin.call("POST", vec![b'x'; LARGE])).await;
            assert_eq!((status, body.len(), was_reused), (200, LARGE, reused));
        }
    };
    timeout(PATIENCE, async { tokio::join!(server, client) })
        .await
        .expect("neither side waits for the other");
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_or_read_in_time_is_a_timeout() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let short = Some(Duration::from_millis(50));
    let mut silent = origin.call("GET", "");
    silent.peer.options.read_timeout = short;
    let mut silent_http2 = origin.http2_call("");
    silent_http2.peer.options.read_timeout = short;
    let mut deaf = origin.call("POST", vec![b'x'; LARGE]);
    deaf.peer.options.write_timeout = short;
    for (call, etype) in [
        (silent, ErrorType::ReadTimedout),
        (silent_http2, ErrorType::ReadTimedout),
        (deaf, ErrorType::WriteTimedout),
    ] {
        let (wire, answer) = tokio::join!(origin.accept(), direct.ask_once(call));
        let error = answer.err().expect("an error");
        assert_eq!((error.etype(), error.esource()), (&etype, &ErrorSource::Upstream));
        wire.closed().await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_of_the_upstream() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        origin.accept().await.answer("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi").await;
    };
    let client = async {
        let mut answer = direct.ask_once(origin.call("GET", "")).await.unwrap();
        assert_eq!(answer.rest.body().await.unwrap().unwrap(), "hi");
        answer.rest.body().await.expect_err("the rest is missing")
    };
    let ((), error) = tokio::join!(server, client);
    assert_eq!((error.etype(), error.esource()), (&ErrorType::ConnectionClosed, &ErrorSource::Upstream));
}

#[tokio::test]
async fn dropping_a_call_or_an_answer_closes_its_connection() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let mut call = Box::pin(direct.ask_once(origin.call("GET", "")));
    let asked = async {
        let mut wire = origin.accept().await;
        wire.read_request().await;
        wire
    };
    let wire = tokio::select! {
        _ = &mut call => panic!("nothing was answered"),
        wire = asked => wire,
    };
    drop(call);
    wire.closed().await;

    let server = async {
        let mut wire = origin.accept().await;
        wire.answer("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi").await;
        wire
    };
    let (wire, answer) = tokio::join!(server, direct.ask_once(origin.call("POST", "body")));
    // Not read to its end, so this is a drop as well.
    answer.unwrap().rest.finish();
    wire.closed().await;
}

#[tokio::test]
async fn a_refused_connection_is_an_error_of_the_upstream() {
    let origin = Origin::start().await;
    let call = origin.call("GET", "");
    drop(origin);
    let error = Client::new(8, 1, Resources::for_test()).ask_once(call).await.err().expect("an error");
    assert_eq!((error.etype(), error.esource()), (&ErrorType::ConnectRefused, &ErrorSource::Upstream));
}

#[tokio::test]
async fn a_request_that_cannot_be_carried_on_is_nobody_else_s_fault() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let mut call = origin.call("GET", "");
    call.header.append_header("host", "another").unwrap();
    let error = direct.ask_once(call).await.err().expect("an error");
    assert_eq!(crate::error::Reason::told_by(&error), Some(crate::error::Reason::Internal));
}

#[tokio::test]
async fn small_parts_of_a_body_share_what_they_were_read_into() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let (said, heard) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
    let server = async {
        let mut wire = origin.accept().await;
        wire.answer("HTTP/1.1 200 OK\r\n\r\n").await;
        for _ in 0..20 {
            wire.write("data: tick\n\n").await;
            said.notify_one();
            heard.notified().await;
        }
    };
    let client = async {
        let mut answer = direct.ask_once(origin.call("GET", "")).await.unwrap();
        let mut parts: Vec<Bytes> = Vec::new();
        for _ in 0..20 {
            said.notified().await;
            parts.push(answer.rest.body().await.unwrap().expect("a part"));
            heard.notify_one();
        }
        let follows = |pair: &&[Bytes]| pair[0].as_ptr_range().end == pair[1].as_ptr();
        assert!(parts.windows(2).filter(follows).count() >= 18, "each has a buffer to itself");
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn interim_responses_without_end_are_an_error() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        let mut wire = origin.accept().await;
        wire.answer(&"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(MOST_INTERIM as usize + 1)).await;
        wire.closed().await
    };
    let client = async { direct.ask_once(origin.call("GET", "")).await.err().expect("an error") };
    let (_, error) = tokio::join!(server, client);
    assert_eq!((error.etype(), error.esource()), (&ErrorType::InvalidHTTPHeader, &ErrorSource::Upstream));
}

pub(super) type Stream = (http::Request<h2::RecvStream>, h2::server::SendResponse<Bytes>);

/// Hands out the streams of one HTTP/2 connection.
pub(super) fn http2(wire: Wire) -> mpsc::UnboundedReceiver<Stream> {
    let (streams, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(wire.socket).await.unwrap();
        while let Some(Ok(stream)) = connection.accept().await {
            // The test may be over.
            let _ = streams.send(stream);
        }
    });
    received
}

#[tokio::test]
async fn http2_carries_bodies_and_trailers_on_one_connection() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        let mut streams = http2(origin.accept().await);
        for _ in 0..2 {
            let (mut request, mut respond) = streams.recv().await.unwrap();
            assert_eq!(
                (request.method(), request.uri().to_string().as_str()),
                (&Method::POST, "http://origin/")
            );
            assert_eq!(request.headers()[header::CONTENT_LENGTH], LARGE.to_string());
            assert!(!request.headers().contains_key(header::HOST));
            let mut received = 0;
            while let Some(part) = request.body_mut().data().await {
                let part = part.unwrap().len();
                received += part;
                request.body_mut().flow_control().release_capacity(part).unwrap();
            }
            let mut body = respond.send_response(http::Response::new(()), false).unwrap();
            body.send_data(received.to_string().into(), false).unwrap();
            let fields = [(header::ETAG, HeaderValue::from_static("v1"))];
            body.send_trailers(fields.into_iter().collect()).unwrap();
        }
        streams
    };
    let client = async {
        for reused in [false, true] {
            let mut answer = direct.ask_once(origin.http2_call(vec![b'x'; LARGE])).await.unwrap();
            assert_eq!(answer.length, None);
            assert_eq!(whole(&mut answer).await, LARGE.to_string().as_bytes());
            assert_eq!(answer.rest.trailers().await.unwrap().unwrap()[header::ETAG], "v1");
            assert_eq!(answer.rest.is_reused(), reused);
            answer.rest.finish();
        }
    };
    timeout(PATIENCE, async { tokio::join!(server, client) }).await.expect("all is sent");
}

#[tokio::test]
async fn dropping_an_http2_answer_resets_its_stream_only() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        let mut streams = http2(origin.accept().await);
        let (_request, mut respond) = streams.recv().await.unwrap();
        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
        let reset = std::future::poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
        assert_eq!(reset, h2::Reason::CANCEL);
        let (_request, mut respond) = streams.recv().await.unwrap();
        respond.send_response(http::Response::new(()), true).unwrap();
        streams
    };
    let client = async {
        drop(direct.ask_once(origin.http2_call("")).await.unwrap());
        assert!(complete(&direct, origin.http2_call("")).await.2);
    };
    timeout(PATIENCE, async { tokio::join!(server, client) }).await.expect("the stream is reset");
}

#[tokio::test]
async fn an_early_answer_over_http2_is_heard() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        let mut streams = http2(origin.accept().await);
        let (_request, mut respond) = streams.recv().await.unwrap();
        let mut response = http::Response::new(());
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        respond.send_response(response, true).unwrap();
        streams
    };
    let client = complete(&direct, origin.http2_call(vec![b'x'; LARGE]));
    let (_, (status, ..)) =
        timeout(PATIENCE, async { tokio::join!(server, client) }).await.expect("an answer");
    assert_eq!(status, 413);
}

#[tokio::test]
async fn a_refused_http2_stream_is_told_and_its_connection_serves_on() {
    let (origin, direct) = (Origin::start().await, Client::new(8, 1, Resources::for_test()));
    let server = async {
        let mut streams = http2(origin.accept().await);
        let (_request, mut respond) = streams.recv().await.unwrap();
        respond.send_response(http::Response::new(()), true).unwrap();
        let (_request, mut respond) = streams.recv().await.unwrap();
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        let (_request, mut respond) = streams.recv().await.unwrap();
        respond.send_response(http::Response::new(()), true).unwrap();
        streams
    };
    let client = async {
        complete(&direct, origin.http2_call("")).await;
        let refused = direct.ask_once(origin.http2_call("")).await.err().expect("a refusal");
        assert!(refused.retry(), "{refused}");
        assert_eq!(complete(&direct, origin.http2_call("")).await.0, 200);
    };
    timeout(PATIENCE, async { tokio::join!(server, client) }).await.expect("an answer");
}

#[tokio::test]
async fn a_call_can_run_on_any_thread() {
    fn is_send<T: Send>(_: T) {}
    let direct = Client::new(1, 1, Resources::for_test());
    let peer = Box::new(HttpPeer::new(("127.0.0.1", 1), false, String::new()));
    let header = RequestHeader::build("GET", b"/", None).unwrap();
    is_send(async move {
        let mut answer = direct
            .ask_once(Call {
                peer,
                header,
                body: Bytes::new(),
                spelling: None,
                is_repeatable: true,
                handshake: None,
                idle_limit: IdleLimit::new(&Arc::default(), 8, PATIENCE),
                requests: 1,
            })
            .await?;
        answer.rest.body().await?;
        answer.rest.trailers().await?;
        answer.rest.finish();
        Ok::<_, Box<Error>>(())
    });
}
