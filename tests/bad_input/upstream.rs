//! Upstreams that break, stall or lie: what the client learns, and that its next request is not answered with what
//! is left over.

use std::net::SocketAddr;

use tokio::{io::AsyncReadExt, net::TcpListener};

use super::{Setup, targets};
use crate::support::frames::*;
use crate::support::{Gateway, RawConnection, ScriptedUpstream, Step, get, raw, send};

const SHORT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";

async fn playing(settings: &str, script: Vec<Step>) -> Setup {
    Setup::start("", settings, script).await
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_before_the_answer_is_502_and_only_an_idempotent_request_is_sent_again() {
    let setup = playing("", vec![Step::ReadHead, Step::Close]).await;
    get(setup.address(), "/").await.assert_reason(502, "upstream_reset");
    assert_eq!(setup.upstream.heads().len(), 2);
    send(setup.address(), "POST", "/", &[], "").await.assert_reason(502, "upstream_reset");
    assert_eq!(setup.upstream.heads().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_before_the_answer_is_502() {
    let setup = playing("", vec![Step::ReadHead, Step::Reset]).await;
    send(setup.address(), "POST", "/", &[], "").await.assert_reason(502, "upstream_reset");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_cut_short_is_502() {
    let setup = playing("", vec![Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\nconte"), Step::Close]).await;
    send(setup.address(), "POST", "/", &[], "").await.assert_reason(502, "upstream_reset");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_502() {
    for garbage in [
        "garbage\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ] {
        let setup = playing("", vec![Step::ReadHead, Step::write(garbage), Step::Close]).await;
        let answer = send(setup.address(), "POST", "/", &[], "").await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-tidegate-reason")),
            (502, Some("bad_upstream_response")),
            "{garbage:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_header_is_502() {
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(2 << 20));
    let setup = playing("", vec![Step::ReadHead, Step::write(large), Step::Close]).await;
    send(setup.address(), "POST", "/", &[], "").await.assert_reason(502, "bad_upstream_response");
}

/// Reads an answer that ends too early: its head and what came of the body.
fn read_cut(setup: &Setup) -> (u16, String) {
    let mut connection = setup.open();
    connection.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = connection.read_head();
    let body = connection.read_to_end();
    (head.status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_cut_short_is_cut_short_for_the_client_too() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for (answer, last) in [(SHORT, Step::Close), (chunked, Step::Close), (SHORT, Step::Reset)] {
        let setup = playing("", vec![Step::ReadHead, Step::write(answer), last]).await;
        let (status, body) = read_cut(&setup);
        assert_eq!(status, 200);
        assert!(!body.ends_with("0\r\n\r\n"), "a cut answer looks whole: {body:?}");
        let line = setup.gateway.wait_for_message("request").await;
        assert_eq!(line["reason"], "upstream_reset", "{line}");
        assert_eq!(setup.upstream.heads().len(), 1, "an answer under way is not asked for again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hedged_answer_that_is_cut_short_is_handed_on_as_far_as_it_came() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(SHORT), Step::Close]).await;
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: \"127.0.0.1:0\"}}]\n\
         routes: [{{upstream: origin, hedge: {{after: 10s}}}}]\nupstreams: {{origin: {{endpoints: [\"{}\"]}}}}",
        upstream.address()
    ))
    .await;
    let setup = Setup { gateway, upstream };
    assert_eq!(read_cut(&setup), (200, "abc".to_owned()));
    let line = setup.gateway.wait_for_message("request").await;
    assert_eq!(line["reason"], "upstream_reset", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_malformed_chunks_is_handed_on() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloXX\r\n0\r\n\r\n";
    let setup = playing("", vec![Step::ReadHead, Step::write(answer), Step::Stall]).await;
    assert_eq!(read_cut(&setup), (200, "5\r\nhello\r\n".to_owned()));
    let line = setup.gateway.wait_for_message("request").await;
    assert_eq!(line["reason"], "bad_upstream_response", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_length_cannot_be_told_opens_the_breaker() {
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc";
    let breaker = "circuit_breaker: {consecutive_failures: 1}";
    let setup = playing(breaker, vec![Step::ReadHead, Step::write(twice), Step::Close]).await;
    get(setup.address(), "/").await.assert_reason(502, "bad_upstream_response");
    get(setup.address(), "/").await.assert_reason(503, "circuit_open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_costs_no_kept_connection() {
    let setup = Setup::answering("").await;
    let mut connection = setup.open();
    for _ in 0..2 {
        connection.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(connection.read_response().body, b"ok");
        let answer = send(setup.address(), "GET", "/", &[("connection", "x-forwarded-for")], "").await;
        answer.assert_reason(400, "bad_request");
    }
    assert_eq!(setup.upstream.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_requests_and_others_leave_each_other_their_connections() {
    let script = vec![Step::ReadHead, Step::respond("ok"), Step::Again];
    let setup = playing("pool: {idle_connections: 1}", script).await;
    let others: &[(&str, &str)] = &[("expect", "100-continue")];
    for _ in 0..4 {
        for fields in [&[], others] {
            send(setup.address(), "GET", "/", fields, "").await.assert_status(200);
        }
    }
    assert!(setup.upstream.connections() <= 2, "{} connections", setup.upstream.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_in_the_header_is_504() {
    for said in ["", "HTTP/1.1 200 OK\r\nx"] {
        let script = vec![Step::ReadHead, Step::write(said), Step::Stall];
        let setup = playing("read_timeout: 200ms", script).await;
        get(setup.address(), "/").await.assert_reason(504, "upstream_timeout");
        assert_eq!(setup.upstream.heads().len(), 1, "a slow upstream is not asked twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_in_the_body_ends_the_connection() {
    let setup = playing("read_timeout: 200ms", vec![Step::ReadHead, Step::write(SHORT), Step::Stall]).await;
    assert_eq!(read_cut(&setup), (200, "abc".to_owned()));
    let line = setup.gateway.wait_for_message("request").await;
    assert_eq!((&line["reason"], &line["status"]), (&"upstream_timeout".into(), &200.into()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_is_502() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: \"127.0.0.1:0\"}}]\nroutes: [{{upstream: origin}}]\n\
         upstreams: {{origin: {{endpoints: [\"{port}\"]}}}}"
    ))
    .await;
    let answer = send(gateway.address("main"), "POST", "/", &[], "x").await;
    answer.assert_reason(502, "connect_failed");
    assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_resolve_is_503_until_it_does() {
    let gateway = Gateway::start(
        "admin: false\nlisteners: [{name: main, address: \"127.0.0.1:0\"}]\nroutes: [{upstream: origin}]\n\
         upstreams: {origin: {endpoints: [\"nowhere.invalid:80\"]}}",
    )
    .await;
    let answer = get(gateway.address("main"), "/").await;
    answer.assert_reason(503, "upstream_unhealthy");
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_sends_too_much_answers_nobody() {
    let poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let good = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for answer in [
        format!("{good}{poison}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{poison}"),
        format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\n{poison}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{poison}"),
    ] {
        let script = vec![Step::ReadHead, Step::write(&answer), Step::Again];
        let setup = playing("", script).await;
        let mut connection = setup.open();
        for _ in 0..2 {
            connection.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            let served = connection.read_response();
            assert_ne!(served.text(), "poison", "after {answer:?}");
            if served.header("connection") == Some("close") {
                connection = setup.open();
            }
        }
        assert_eq!(setup.upstream.connections(), 2, "reused after {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_length_and_chunks_is_read_as_chunks_and_loses_its_length() {
    let both =
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let setup = playing("", vec![Step::ReadHead, Step::write(both), Step::Again]).await;
    let mut connection = setup.open();
    for _ in 0..2 {
        connection.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = connection.read_response();
        assert_eq!((answer.status, answer.text()), (200, "ok"));
        assert_eq!(answer.header("content-length"), None, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_whole_request_ends_both_connections_cleanly() {
    let script = vec![Step::ReadHead, Step::respond("early"), Step::ReadToEnd];
    let setup = playing("", script).await;
    let mut connection = setup.open();
    connection.write("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\nabc");
    assert_eq!(connection.read_response().text(), "early");
    let mut next = RawConnection::open(setup.address());
    next.write("GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert_eq!(next.read_response().text(), "early");
    assert_eq!(targets(&setup.upstream), ["/early", "/next"]);
    assert_eq!(setup.upstream.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_pass_and_the_final_one_counts() {
    let script = vec![
        Step::ReadHead,
        Step::write("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"),
        Step::respond("final"),
    ];
    let setup = playing("", script).await;
    let mut connection = setup.open();
    connection.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let first = connection.read_response();
    let last = if first.status == 103 { connection.read_response() } else { first };
    assert_eq!((last.status, last.text()), (200, "final"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upstream_speaks_no_http2_either() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("not http2")]).await;
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: \"127.0.0.1:0\"}}]\nroutes: [{{upstream: origin}}]\n\
         upstreams: {{origin: {{endpoints: [\"{}\"], protocol: http2, read_timeout: 500ms}}}}",
        upstream.address()
    ))
    .await;
    let answer = send(gateway.address("main"), "POST", "/", &[], "").await;
    assert_eq!(answer.status.as_u16(), 502, "{answer:?}");
}

/// An upstream of HTTP/2 that says more on a stream which it has ended: at once, or before it answers the next request.
async fn relentless(at_once: bool) -> SocketAddr {
    /// `:status: 200`.
    const OK: &[u8] = &[0x88];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
                let mut wire = Wire::new(stream);
                wire.wait_for(|frame| frame.kind == SETTINGS).await.unwrap();
                wire.send(&[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat()).await;
                let mut ended = None;
                while let Ok(asked) = wire.wait_for(|frame| frame.kind == HEADERS).await {
                    let answer = [
                        frame(HEADERS, END_HEADERS, asked.stream, OK),
                        frame(DATA, END_STREAM, asked.stream, b"ok"),
                    ];
                    let more = |stream: u32| {
                        [
                            frame(DATA, END_STREAM, stream, b"evil"),
                            frame(HEADERS, WHOLE, stream, OK),
                            frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]),
                        ]
                        .concat()
                    };
                    let said = match at_once {
                        true => [answer.concat(), more(asked.stream)].concat(),
                        false => [ended.map(more).unwrap_or_default(), answer.concat()].concat(),
                    };
                    wire.send(&said).await;
                    ended = Some(asked.stream);
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_http2_upstream_says_on_a_stream_that_it_has_ended_reaches_nobody() {
    for at_once in [true, false] {
        let address = relentless(at_once).await;
        let gateway = Gateway::start(&format!(
            "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: origin}}]\n\
             upstreams: {{origin: {{endpoints: ['{address}'], protocol: http2}}}}\n"
        ))
        .await;
        let mut served = 0;
        for _ in 0..10 {
            let answer =
                raw(gateway.address("main"), "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(!answer.contains("evil") && answer.matches("HTTP/1.1 ").count() == 1, "{answer}");
            served += usize::from(answer.contains("\r\nok\r\n"));
        }
        // What comes at once may end a connection before its answer is read.
        assert!(served > 0, "none of ten, where it comes at once: {at_once}");
    }
}
