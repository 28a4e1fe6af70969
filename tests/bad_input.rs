//! What malformed, ambiguous and hostile requests meet over real sockets: a clear status and reason, nothing at the
//! upstream that must not be there, and a connection that never takes one request's bytes for the next request.

mod bodies;
mod floods;
mod http2;
mod limits;
mod slowness;
mod switching;
mod upstream;

use std::net::SocketAddr;

use crate::support::{Gateway, RawConnection, RawResponse, ScriptedUpstream, Step, logged, raw};

/// A request that would be served if the gateway got to see it as one. Behind every bad request it proves that
/// nothing of that was left over.
const FOLLOWER: &str = "GET /follower HTTP/1.1\r\nhost: a\r\n\r\n";

/// A gateway with one listener, one route for everything, and one upstream.
struct Setup {
    gateway: Gateway,
    upstream: ScriptedUpstream,
}

impl Setup {
    /// `limits` of the listener and `settings` of the upstream, both inside the braces of a flow mapping.
    async fn start(limits: &str, settings: &str, script: Vec<Step>) -> Setup {
        let upstream = ScriptedUpstream::start(script).await;
        let gateway = Gateway::start(&format!(
            r#"
admin: false
listeners:
  - {{name: main, address: "127.0.0.1:0", limits: {{{limits}}}}}
  - {{name: get_only, address: "127.0.0.1:0", routes: [get]}}
routes:
  - {{name: blocked, match: {{path: /blocked}}, respond: {{status: 403, body: blocked}}}}
  - {{name: get, match: {{path: /get, methods: [GET]}}, upstream: origin}}
  - {{name: all, upstream: origin}}
upstreams:
  origin: {{endpoints: ["{}"], {settings}}}
"#,
            upstream.address()
        ))
        .await;
        Setup { gateway, upstream }
    }

    /// With an upstream that answers each request with `ok`.
    async fn answering(limits: &str) -> Setup {
        Setup::start(limits, "", vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address("main")
    }

    fn open(&self) -> RawConnection {
        RawConnection::open(self.address())
    }

    /// Sends `request` with a good one behind it on one connection; only the first may be answered.
    #[track_caller]
    fn refused(&self, request: impl AsRef<[u8]>) -> RawResponse {
        let mut connection = self.open();
        connection.write([request.as_ref(), FOLLOWER.as_bytes()].concat());
        let response = connection.read_response();
        assert!(connection.is_closed(), "still open after {response:?}");
        assert_eq!(response.header("connection"), Some("close"));
        response
    }
}

/// The targets the upstream was asked for.
fn targets(upstream: &ScriptedUpstream) -> Vec<String> {
    let heads = upstream.heads();
    heads.iter().map(|head| head.split(' ').nth(1).unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_servers_could_read_differently_is_400_and_reaches_no_upstream() {
    let setup = Setup::answering("").await;
    let cases: &[(&str, &[u8])] = &[
        ("two hosts", b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
        ("the same host twice", b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n"),
        ("no host", b"GET / HTTP/1.1\r\n\r\n"),
        ("a host that is none", b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n"),
        ("a host with a user", b"GET / HTTP/1.1\r\nhost: u@a\r\n\r\n"),
        ("a target with a user", b"GET http://u@a/ HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("a target of another scheme", b"GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n"),
        (
            "length and transfer-encoding",
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nab"),
        ("a list of lengths", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2, 2\r\n\r\nab"),
        ("a signed length", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +2\r\n\r\nab"),
        ("a hexadecimal length", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x2\r\n\r\nab"),
        ("a bare line feed", b"GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n"),
        ("a bare line feed at the end", b"GET / HTTP/1.1\r\nhost: a\n\n"),
        ("a bare carriage return", b"GET / HTTP/1.1\r\nhost: a\r\nx: y\rz: 1\r\n\r\n"),
        ("NUL in the path", b"GET /a\0b HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("NUL in a header", b"GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n"),
        (
            "transfer-encoding twice",
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "an unknown transfer-encoding",
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a transfer-encoding before chunked",
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "an empty element in transfer-encoding",
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: , chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "transfer-encoding behind a tab and a vertical tab",
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        ),
        ("a space in the target", b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("a tab in the target", b"GET /a\tb HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("two spaces before the target", b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("a target that is no path", b"GET index.html HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("a fragment", b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("a folded header", b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n"),
        ("a space before the colon", b"GET / HTTP/1.1\r\nhost : a\r\n\r\n"),
        ("a space before the first header", b"GET / HTTP/1.1\r\n host: a\r\n\r\n"),
        ("a header without a name", b"GET / HTTP/1.1\r\nhost: a\r\n: y\r\n\r\n"),
        ("a header without a colon", b"GET / HTTP/1.1\r\nhost: a\r\nxy\r\n\r\n"),
        ("the HTTP/2 preface as a request", b"PRI * HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("an asterisk for another method", b"GET * HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("an unknown version", b"GET / HTTP/2.0\r\nhost: a\r\n\r\n"),
        ("a lower-case version", b"GET / http/1.1\r\nhost: a\r\n\r\n"),
        ("no version", b"GET /\r\nhost: a\r\n\r\n"),
        ("a method that is no token", b"G(T / HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("no request line", b"host: a\r\n\r\n"),
        ("a TLS handshake", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\n\n"),
    ];
    let mut wrong = Vec::new();
    for (what, request) in cases {
        let answers = raw_followed(setup.address(), request);
        let refused = answers.starts_with("HTTP/1.1 400 ")
            && answers.contains("\r\nx-tidegate-reason: bad_request\r\n");
        if !refused || answers.matches("HTTP/1.1 ").count() != 1 {
            wrong.push((what, answers));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(setup.upstream.heads(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_can_be_read_in_two_ways_is_400_and_the_connection_lives() {
    let setup = Setup::answering("").await;
    let mut connection = setup.open();
    let paths = ["/a%00b", "/%zz", "/%", "/a\\..\\b", "/a%2"];
    for path in paths {
        connection.write(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n{FOLLOWER}"));
        connection.read_response().assert_reason(400, "bad_request");
        assert_eq!(connection.read_response().text(), "ok");
    }
    assert_eq!(targets(&setup.upstream), ["/follower"; 5]);
    for path in paths {
        let line = logged(&setup.gateway, path).await;
        assert_eq!(line["reason"], "bad_request", "as it was asked for: {line}");
    }
}

/// All that comes back for `request` with a good one behind it, until the gateway has closed.
fn raw_followed(address: SocketAddr, request: &[u8]) -> String {
    let last = "GET /follower HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    String::from_utf8_lossy(&raw(address, [request, last.as_bytes()].concat())).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_does_not_spoil_the_one_before_it() {
    let setup = Setup::answering("").await;
    let mut connection = setup.open();
    connection.write("GET /first HTTP/1.1\r\nhost: a\r\n\r\nGET /second HTTP/1.1\r\n\r\n");
    assert_eq!(connection.read_response().text(), "ok");
    connection.read_response().assert_reason(400, "bad_request");
    assert!(connection.is_closed());
    assert_eq!(targets(&setup.upstream), ["/first"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_in_the_access_log() {
    let setup = Setup::answering("").await;
    setup.refused("GET /lost?secret=1 HTTP/1.1\r\n\r\n");
    let line = setup.gateway.wait_for_message("request").await;
    assert_eq!(
        (&line["status"], &line["reason"], &line["method"], &line["path"], &line["listener"]),
        (&400.into(), &"bad_request".into(), &"GET".into(), &"/lost".into(), &"main".into()),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_fields_and_a_megabyte_of_header_are_431() {
    let setup = Setup::answering("").await;
    let fields = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(300));
    setup.refused(fields).assert_reason(431, "header_too_large");
    let megabyte = "x".repeat(1 << 20);
    for request in [
        format!("GET / HTTP/1.1\r\nhost: a\r\nx: {megabyte}\r\n\r\n"),
        format!("GET /{megabyte} HTTP/1.1\r\nhost: a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: a\r\n{megabyte}: y\r\n\r\n"),
    ] {
        setup.refused(request).assert_reason(431, "header_too_large");
    }
    let endless = raw(setup.address(), megabyte);
    assert!(endless.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&endless));
    assert_eq!(setup.upstream.heads(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_measured_exactly() {
    let setup = Setup::answering("header_size: 1KiB").await;
    let frame = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: \r\n\r\n".len();
    let of_size = |size: usize| {
        format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {}\r\n\r\n", "y".repeat(size - frame))
    };
    assert!(raw(setup.address(), of_size(1024)).starts_with(b"HTTP/1.1 200 "));
    setup.refused(of_size(1025)).assert_reason(431, "header_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_fields_are_fine() {
    let setup = Setup::answering("").await;
    let fields = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200));
    let mut connection = setup.open();
    connection.write(fields);
    assert_eq!(connection.read_response().status, 200);
    assert_eq!(setup.upstream.heads()[0].matches("x: y\r\n").count(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_target_names_the_host_and_becomes_a_path() {
    let setup = Setup::answering("").await;
    let mut connection = setup.open();
    for target in [
        "http://one.example:8080/a/../b?c=d",
        "https://one.example:8080/b?c=d",
        "http://one.example:8080/b?c=d",
    ] {
        connection.write(format!("GET {target} HTTP/1.1\r\nhost: one.example:8080\r\n\r\n"));
        assert_eq!(connection.read_response().status, 200, "{target}");
    }
    for head in setup.upstream.heads() {
        assert!(head.starts_with("GET /b?c=d HTTP/1.1\r\n"), "{head}");
        assert_eq!(head.to_ascii_lowercase().matches("\r\nhost: ").count(), 1, "{head}");
        assert!(head.to_ascii_lowercase().contains("\r\nhost: one.example:8080\r\n"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_is_405() {
    let setup = Setup::answering("").await;
    let response = setup.refused("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n");
    response.assert_reason(405, "method_not_allowed");
    assert!(response.header("allow").is_some());
    assert_eq!(setup.upstream.heads(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_method_is_forwarded_unless_the_route_names_its_methods() {
    let setup = Setup::answering("").await;
    let mut connection = setup.open();
    connection.write("BREW /pot HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(connection.read_response().text(), "ok");
    let mut named = RawConnection::open(setup.gateway.address("get_only"));
    named.write("BREW /get HTTP/1.1\r\nhost: a\r\n\r\n");
    let refused = named.read_response();
    refused.assert_reason(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    named.write("GET /get HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(named.read_response().text(), "ok");
    assert!(setup.upstream.heads()[0].starts_with("BREW /pot "));
    assert_eq!(targets(&setup.upstream), ["/pot", "/get"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_that_is_none_ends_the_request_and_the_connection() {
    let setup = Setup::start("", "", vec![Step::ReadHead, Step::ReadToEnd]).await;
    for chunks in
        ["zz\r\nhello\r\n0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"]
    {
        let request =
            format!("POST /chunks HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        setup.refused(request).assert_reason(400, "bad_request");
        // Whether the head got there depends on timing; a whole message never does.
        for number in 0..setup.upstream.connections() {
            let received = String::from_utf8_lossy(&setup.upstream.received(number)).into_owned();
            assert!(!received.contains("follower") && !received.ends_with("0\r\n\r\n"), "{received}");
        }
    }
    assert!(setup.upstream.heads().len() <= 3, "{:?}", setup.upstream.heads());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_its_body_leaves_no_whole_request_behind() {
    let setup = Setup::start("", "", vec![Step::ReadHead, Step::ReadToEnd]).await;
    let mut connection = setup.open();
    connection.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc");
    setup.upstream.wait_for_heads(1).await;
    drop(connection);
    let line = setup.gateway.wait_for_message("request").await;
    assert_eq!(line["reason"], "client_closed");
    assert!(
        setup.upstream.received(0).ends_with(b"\r\n\r\nabc")
            || setup.upstream.received(0).ends_with(b"\r\n\r\n")
    );
}

/// A body that nobody read must not become the next request on a kept connection.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2025_4366_an_unread_body_is_not_the_next_request() {
    let setup = Setup::answering("").await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for request in [
        format!("POST /blocked HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{smuggled}", smuggled.len()),
        format!(
            "POST /blocked HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n",
            smuggled.len()
        ),
    ] {
        // In one piece, and with the body coming after the answer.
        let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
        let mut whole = setup.open();
        whole.write(&request);
        assert_eq!(whole.read_response().status, 403);
        let mut halves = setup.open();
        halves.write(head);
        assert_eq!(halves.read_response().status, 403);
        halves.write(body);
        for connection in [whole, halves] {
            let rest = rest(connection);
            assert!(!rest.contains("200 OK"), "{rest}");
        }
    }
    assert_eq!(setup.upstream.heads(), [""; 0]);
}

/// Everything that still comes once we have nothing more to say.
fn rest(mut connection: RawConnection) -> String {
    connection.finish_writing();
    String::from_utf8_lossy(&connection.read_to_end()).into_owned()
}

/// What follows a request to switch protocols belongs to the new protocol, and only once the upstream has agreed.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_2833_bytes_behind_an_upgrade_do_not_reach_the_upstream_before_its_101() {
    let setup = Setup::start("", "", vec![Step::ReadHead, Step::respond("no"), Step::ReadToEnd]).await;
    let handshake = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    let mut connection = setup.open();
    connection.write(format!("{handshake}GET /blocked HTTP/1.1\r\nhost: a\r\n\r\n"));
    let answers = rest(connection);
    assert!(!answers.contains("HTTP/1.1 101"), "{answers}");
    setup.gateway.wait_for_message("request").await;
    for number in 0..setup.upstream.connections() {
        let received = String::from_utf8_lossy(&setup.upstream.received(number)).into_owned();
        assert!(!received.contains("/blocked"), "{received}");
    }
}

/// In HTTP/1.0 there is no chunked coding, so the two ends would disagree where the body ends.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_2835_transfer_encoding_in_http_1_0_is_refused() {
    let setup = Setup::answering("").await;
    let chunked = "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    setup.refused(chunked).assert_reason(400, "bad_request");
    let kept =
        "POST / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    setup.refused(kept).assert_reason(400, "bad_request");
    assert_eq!(setup.upstream.heads(), [""; 0]);
    // Without a length there is no body either: what follows is not sent along.
    let bare = raw(setup.address(), format!("POST /bare HTTP/1.0\r\nhost: a\r\n\r\n{FOLLOWER}"));
    assert!(bare.starts_with(b"HTTP/1.") && bare.ends_with(b"ok"), "{}", String::from_utf8_lossy(&bare));
    assert_eq!(targets(&setup.upstream), ["/bare"]);
}

/// `Connection` names fields to drop; it must not drop what the gateway itself says about the client.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_105299_nominated_fields_stay_here_and_ours_cannot_be_nominated() {
    let setup = Setup::answering("").await;
    let mut connection = setup.open();
    connection
        .write("GET / HTTP/1.1\r\nhost: a\r\nconnection: x-private\r\nx-private: 1\r\nx-public: 1\r\n\r\n");
    assert_eq!(connection.read_response().status, 200);
    let head = setup.upstream.heads()[0].to_ascii_lowercase();
    assert!(head.contains("x-public: 1\r\n") && !head.contains("x-private"), "{head}");

    for nominated in ["x-forwarded-for", "X-Forwarded-Proto, x-forwarded-host", "host"] {
        let mut connection = setup.open();
        connection.write(format!("GET /n HTTP/1.1\r\nhost: a\r\nconnection: {nominated}\r\n\r\n"));
        let response = connection.read_response();
        if response.status == 200 {
            let head = setup.upstream.heads().pop().unwrap().to_ascii_lowercase();
            for kept in ["host: a\r\n", "x-forwarded-for: 127.0.0.1\r\n", "x-forwarded-proto: http\r\n"] {
                assert!(head.contains(kept), "{nominated}: {head}");
            }
        } else {
            response.assert_reason(400, "bad_request");
        }
    }
}

/// Chunk framing that Pingora by itself would forgive and forward.
#[tokio::test(flavor = "multi_thread")]
async fn sloppy_chunks_are_refused() {
    for body in [
        "\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
    ] {
        let setup = Setup::start("", "", vec![Step::ReadHead, Step::ReadToEnd]).await;
        let mut connection = RawConnection::open(setup.address());
        connection.write(format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}"));
        let answer = connection.read_response();
        assert_eq!(
            (answer.status, answer.header("x-tidegate-reason")),
            (400, Some("bad_request")),
            "{body:?}"
        );
        assert!(connection.is_closed(), "{body:?}");
    }
}
