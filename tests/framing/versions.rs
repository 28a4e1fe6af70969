//! Each side is spoken to in its own version.

use super::{Gateway, Origin, ScriptedUpstream, Step, gateway, open};
use crate::support::origin::Deed;
use crate::support::{RawConnection, raw};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_http_1_0_goes_out_as_http_1_1_and_the_connection_takes_chunks() {
    let bodies = ["content-length: 2\r\n\r\nok", "\r\nok"];
    for body in bodies {
        let answer = format!("HTTP/1.0 200 OK\r\n{body}");
        let chunked = "5\r\nhello\r\n0\r\n\r\n";
        let upstream = ScriptedUpstream::with(move |number| {
            let read = if number == 1 { chunked.len() } else { 0 };
            vec![Step::ReadHead, Step::ReadBody(read), Step::write(&answer), Step::Close]
        })
        .await;
        let gateway = gateway(upstream.address(), "", "").await;
        let mut client = open(&gateway);
        for request in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunked}"),
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        ] {
            client.write(&request);
            let answer = client.read_response();
            assert_eq!(
                (&*answer.version, answer.status, answer.text()),
                ("HTTP/1.1", 200, "ok"),
                "{request}"
            );
            assert_eq!(answer.header("connection"), None, "{answer:?}");
        }
        assert!(upstream.received(1).ends_with(chunked.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_1_0_client_gets_a_body_without_a_length_up_to_the_close() {
    let http2 = Origin::start(1, &[Deed::Answer(200)]).await;
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nf\r\norigin says 200\r\n0\r\n\r\n";
    let http1 = ScriptedUpstream::start(vec![Step::ReadHead, Step::write(chunks), Step::Again]).await;
    for (address, settings) in
        [(http2.addresses()[0], "protocol: http2"), (http1.address(), "protocol: http1")]
    {
        let gateway = gateway(address, "", settings).await;
        // One that would keep the connection cannot.
        for keep in ["", "connection: keep-alive\r\n"] {
            let mut client = open(&gateway);
            client.write(format!("GET / HTTP/1.0\r\nhost: a\r\n{keep}\r\n"));
            let head = client.read_head();
            assert_eq!((head.status, head.header("transfer-encoding")), (200, None), "{settings}: {head:?}");
            assert_eq!(head.header("content-length"), None, "{settings}: {head:?}");
            assert_eq!(head.header("connection"), Some("close"), "{settings}: {head:?}");
            assert_eq!(client.read_to_end(), b"origin says 200", "{settings}");
        }
    }
}

/// It knows none (RFC 9110, section 15.2).
#[tokio::test(flavor = "multi_thread")]
async fn an_http_1_0_client_gets_no_interim_answer() {
    for route in ["", "hedge: {after: 500ms}"] {
        let origin = Origin::start(1, &[Deed::Hint]).await;
        let gateway = gateway(origin.addresses()[0], route, "").await;
        let mut client = open(&gateway);
        client.write("GET / HTTP/1.0\r\nhost: a\r\n\r\n");
        let answer = client.read_response();
        assert_eq!((answer.status, answer.text()), (200, "origin says 200"), "{route}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_http_1_0_without_a_host_is_for_that_of_the_endpoint() {
    for protocol in ["http1", "http2"] {
        let origins =
            [Origin::start(1, &[Deed::Answer(200)]).await, Origin::start(1, &[Deed::Answer(200)]).await];
        let (main, shadow) = (&origins[0], &origins[1]);
        let gateway = Gateway::start(&format!(
            "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\n\
             routes:\n\
             - {{match: {{path: /hedged}}, upstream: origin, hedge: {{after: 500ms}}, retry: {{methods: [GET, POST]}}}}\n\
             - {{match: {{path: /mirrored}}, upstream: origin, mirror: {{upstream: shadow, ratio: 100%}}}}\n\
             - {{upstream: origin}}\n\
             upstreams:\n  origin: {{endpoints: ['{}'], protocol: {protocol}}}\n  \
             shadow: {{endpoints: ['{}'], protocol: {protocol}}}\n",
            main.addresses()[0],
            shadow.addresses()[0]
        ))
        .await;
        for path in ["/bare", "/hedged", "/mirrored"] {
            for request in [
                format!("GET {path} HTTP/1.0\r\n\r\n"),
                format!("POST {path} HTTP/1.0\r\ncontent-length: 5\r\n\r\nhello"),
            ] {
                let answer = raw(gateway.address("main"), &request);
                let answer = String::from_utf8_lossy(&answer).into_owned();
                assert!(answer.starts_with("HTTP/1.1 200 "), "{protocol} {request}: {answer}");
                let host = main.seen().last().unwrap().field("host").map(str::to_owned);
                assert_eq!(host, Some(main.addresses()[0].to_string()), "{protocol} {request}");
            }
        }
        shadow.wait_for_whole(2).await;
        for seen in shadow.seen() {
            assert_eq!(seen.field("host"), Some(&*shadow.addresses()[0].to_string()), "{protocol}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_before_the_proxy_are_whole_answers_in_the_form_that_is_asked_for() {
    let origin = Origin::start(1, &[Deed::Answer(200)]).await;
    let gateway = Gateway::start(&format!(
        "admin: false\n\
         listeners: [{{name: main, address: '127.0.0.1:0', limits: {{header_size: 1KiB, header_timeout: 1s}}}}]\n\
         routes: [{{upstream: origin}}]\nupstreams: {{origin: {{endpoints: ['{}']}}}}\n",
        origin.addresses()[0]
    ))
    .await;
    let long = "y".repeat(2048);
    for accept in ["", "accept: application/json\r\n"] {
        for (status, reason, request) in [
            (400, "bad_request", format!("GET / HTTP/1.1\r\n{accept}host: a\r\nhost: b\r\n\r\n")),
            (400, "bad_request", format!("GET / HTTP/1.1\r\n{accept}\r\n")),
            (431, "header_too_large", format!("GET / HTTP/1.1\r\nhost: a\r\n{accept}x: {long}\r\n\r\n")),
            (405, "method_not_allowed", format!("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n{accept}\r\n")),
            (408, "client_timeout", format!("GET / HTTP/1.1\r\nhost: a\r\n{accept}x: y")),
        ] {
            let mut client = RawConnection::open(gateway.address("main"));
            client.write_what_goes(&request);
            let answer = client.read_response();
            answer.assert_reason(status, reason);
            assert_eq!(&*answer.version, "HTTP/1.1");
            assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")), "{answer:?}");
            assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
            let kind =
                if accept.is_empty() { "text/plain; charset=utf-8" } else { "application/problem+json" };
            assert_eq!(answer.header("content-type"), Some(kind), "{reason}: {answer:?}");
            if !accept.is_empty() {
                let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
                assert_eq!((&problem["status"], &problem["reason"]), (&status.into(), &reason.into()));
            }
            assert!(client.is_closed());
        }
    }
}

/// Clients such as Java's offer h2c with each request, and curl with `--http2`: they wait for a 101 before they switch.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_is_declined_costs_its_client_no_connection() {
    let upstream =
        ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("origin says 200"), Step::Again]).await;
    let gateway = gateway(upstream.address(), "", "").await;
    let mut client = open(&gateway);
    let offers = [
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA",
        "upgrade: h2c",
        "upgrade: websocket\r\nconnection: keep-alive",
        "upgrade: tls/1.2\r\nconnection: upgrade",
    ];
    for offer in offers {
        client.write(format!("GET / HTTP/1.1\r\nhost: a\r\n{offer}\r\n\r\n"));
        let answer = client.read_response();
        assert_eq!((answer.status, answer.header("connection")), (200, None), "{offer}: {answer:?}");
    }
    // Whoever asked for WebSocket may have begun to speak it.
    client.write("GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
    assert_eq!(client.read_response().header("connection"), Some("close"));
    assert!(client.is_closed());
}

/// RFC 9110, section 15.5.22: it names the protocol.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_insists_on_websocket_says_so_to_the_client() {
    let answer = "HTTP/1.1 426 Upgrade Required\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                  content-length: 2\r\n\r\nno";
    let (_upstream, gateway) = super::answering(answer).await;
    let mut client = open(&gateway);
    for _ in 0..2 {
        client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = client.read_response();
        assert_eq!((answer.status, answer.text()), (426, "no"));
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("upgrade"), "{answer:?}");
    }
}
