use std::sync::Mutex;

use ::http::HeaderValue;
use pingora_http::RequestHeader;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    config::Path,
    filter::{Chain, Decided, Facts, Invalid, Live, Options},
};

fn build(yaml: &str) -> Result<Chain, Vec<Invalid>> {
    let options: ExtAuth = serde_yaml::from_str(yaml).unwrap();
    let mut chain = Chain::default();
    chain.push("ext_auth", options.build(&Path::root(), &Live::offline())?);
    Ok(chain)
}

#[test]
fn connections_outlive_a_reload_that_leaves_how_they_are_made() {
    let live = Live::offline();
    let client = |options: &str| {
        let options = format!("{{url: 'http://127.0.0.1:9/check', {options}}}");
        serde_yaml::from_str::<ExtAuth>(&options).unwrap().client(&live).unwrap()
    };
    let first = client("timeout: 1s");
    assert!(Arc::ptr_eq(&first, &client("timeout: 1s, max_requests: 5")));
    assert!(!Arc::ptr_eq(&first, &client("timeout: 2s")));
}

/// A service that answers everything with this, and what it was asked.
async fn service(answer: &'static str) -> (std::net::SocketAddr, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked: Arc<Mutex<String>> = Arc::default();
    let seen = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = Vec::new();
            while !question.ends_with(b"\r\n\r\n") && stream.read_buf(&mut question).await.unwrap() > 0 {}
            *seen.lock().unwrap() = String::from_utf8(question).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, asked)
}

fn request() -> (RequestHeader, Facts) {
    let mut request = RequestHeader::build("POST", b"/v1/pay?a=1", None).unwrap();
    for (name, value) in [
        ("authorization", "Bearer t"),
        ("cookie", "a=1"),
        ("x-other", "secret"),
        ("x-user", "forged"),
        ("x-forwarded-for", "6.6.6.6"),
        ("connection", "upgrade"),
        ("upgrade", "x"),
        ("content-length", "7"),
    ] {
        request.append_header(name, value).unwrap();
    }
    let facts = Facts {
        client: "192.0.2.7".parse().unwrap(),
        scheme: "https",
        authority: Some(HeaderValue::from_static("api.example.com")),
        target: "/v1/pay?a=1".parse().unwrap(),
        ..Facts::default()
    };
    (request, facts)
}

async fn ask(chain: &Chain, request: &mut RequestHeader, facts: &mut Facts) -> Result<Flow, Reason> {
    let mut exchange = Exchange { request, response: None, facts };
    chain.on_request(Decided::default(), &mut exchange).await
}

#[tokio::test]
async fn the_service_learns_what_is_listed_and_who_asks_for_what() {
    let (address, asked) = service("HTTP/1.1 204 No Content\r\nx-user: alice\r\n\r\n").await;
    let chain =
        build(&format!("{{url: 'http://{address}/check?b=2', response_headers: [x-user, x-team]}}")).unwrap();
    let (mut request, mut facts) = request();
    request.append_header("x-team", "forged").unwrap();
    assert!(matches!(ask(&chain, &mut request, &mut facts).await, Ok(Flow::Continue)));
    let asked = asked.lock().unwrap().clone();
    let mut lines: Vec<&str> = asked.trim_end().lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "GET /check?b=2 HTTP/1.1",
            "authorization: Bearer t",
            "cookie: a=1",
            &format!("host: {address}"),
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: api.example.com",
            "x-forwarded-method: POST",
            "x-forwarded-proto: https",
            "x-forwarded-uri: /v1/pay?a=1",
        ]
    );
    assert_eq!(
        (&request.headers["x-user"], request.headers.get("x-team")),
        (&HeaderValue::from_static("alice"), None)
    );
}

#[tokio::test]
async fn a_refusal_goes_to_the_client_with_what_is_listed() {
    for (answer, status, reason, headers, body) in [
        (
            "HTTP/1.1 401 U\r\nwww-authenticate: Custom\r\nx-internal: a\r\ncontent-length: 2\r\ncontent-type: a/b\r\n\r\nno",
            401,
            Reason::Unauthenticated,
            vec!["www-authenticate: Custom", "content-type: a/b"],
            "no",
        ),
        (
            "HTTP/1.1 302 F\r\nlocation: https://login.example\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n",
            302,
            Reason::Unauthenticated,
            vec!["location: https://login.example", "set-cookie: a=1", "set-cookie: b=2"],
            "",
        ),
        ("HTTP/1.1 403 F\r\ncontent-length: 0\r\n\r\n", 403, Reason::Forbidden, vec![], ""),
        (
            "HTTP/1.1 404 N\r\ncontent-length: 6\r\n\r\nsecret",
            403,
            Reason::Forbidden,
            vec!["content-type: text/plain; charset=utf-8"],
            "this request is not allowed here\n",
        ),
    ] {
        let (address, _) = service(answer).await;
        let chain = build(&format!("{{url: 'http://{address}/', fail: open}}")).unwrap();
        let (mut request, mut facts) = request();
        let Ok(Flow::Reply(response)) = ask(&chain, &mut request, &mut facts).await else {
            panic!("{answer}")
        };
        assert_eq!((response.status.as_u16(), response.reason), (status, Some(reason)));
        let told =
            response.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        assert_eq!(told.collect::<Vec<_>>(), headers);
        assert_eq!(response.body, body);
    }
}

#[tokio::test]
async fn without_an_answer_it_fails_as_told_and_forged_headers_are_gone_all_the_same() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap();
    let (broken, _) = service("HTTP/1.1 500 I\r\ncontent-length: 0\r\n\r\n").await;
    let (large, _) = service("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789").await;
    let (odd, _) = service("HTTP/1.1 304 N\r\n\r\n").await;
    let (unknown, _) = service("HTTP/1.1 501 N\r\ncontent-length: 0\r\n\r\n").await;
    for (address, is_away) in [(silent, true), (broken, true), (large, false), (odd, false), (unknown, false)]
    {
        let options =
            format!("url: 'http://{address}/', timeout: 100ms, max_body: 8B, response_headers: [x-user]");
        let (mut request, mut facts) = request();
        let closed = build(&format!("{{{options}}}")).unwrap();
        assert_eq!(ask(&closed, &mut request, &mut facts).await.unwrap_err(), Reason::AuthUnavailable);
        let open = build(&format!("{{{options}, fail: open}}")).unwrap();
        match ask(&open, &mut request, &mut facts).await {
            Ok(Flow::Continue) => {
                assert!(is_away, "it has answered, and the client may have brought that answer about")
            }
            closed => assert_eq!((closed.unwrap_err(), is_away), (Reason::AuthUnavailable, false)),
        }
        assert!(!request.headers.contains_key("x-user"));
    }
}

#[tokio::test]
async fn a_flood_does_not_open_a_door_that_fails_open() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", hanging.local_addr().unwrap());
    let chain = build(&format!("{{url: '{url}', fail: open, max_requests: 1, timeout: 60s}}")).unwrap();
    let (mut first, mut facts) = request();
    let waiting = ask(&chain, &mut first, &mut facts);
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    let (mut second, mut facts) = request();
    assert_eq!(ask(&chain, &mut second, &mut facts).await.unwrap_err(), Reason::Overloaded);
}

#[test]
fn refuses_what_makes_no_sense() {
    for (yaml, path, message) in [
        ("{url: '/check'}", "url", "not a URL"),
        ("{url: 'ftp://auth/check'}", "url", "not a URL"),
        ("{url: 'http://u:hunter2@auth/'}", "url", "with a password"),
        ("{url: 'http://auth/', timeout: 0s}", "timeout", "makes no sense"),
        ("{url: 'http://auth/', max_requests: 0}", "max_requests", "at least one"),
        ("{url: 'http://auth/', request_headers: [host]}", "request_headers[0]", "the gateway's to say"),
        (
            "{url: 'http://auth/', request_headers: [X-Forwarded-For]}",
            "request_headers[0]",
            "the gateway's to say",
        ),
        (
            "{url: 'http://auth/', request_headers: [connection]}",
            "request_headers[0]",
            "belongs to the connection",
        ),
        (
            "{url: 'http://auth/', response_headers: [content-length]}",
            "response_headers[0]",
            "belongs to the connection",
        ),
        (
            "{url: 'http://auth/', client_headers: [transfer-encoding]}",
            "client_headers[0]",
            "belongs to the connection",
        ),
        ("{url: 'https://auth/', ca: /nonexistent.pem}", "ca", "cannot be read"),
        ("{}", "", "give `url`, or `grpc`"),
        ("{url: 'http://auth/', grpc: 'http://auth:1'}", "grpc", "leave one out"),
        ("{grpc: 'auth:9191'}", "grpc", "not a URL of a service of gRPC"),
        ("{grpc: 'http://auth:1/a'}", "grpc", "the protocol's to say"),
        ("{grpc: 'http://auth:1', method: original}", "method", "leave it out"),
        ("{grpc: 'http://auth:1', request_headers: [a, '*']}", "request_headers[1]", "one by one"),
        ("{url: 'http://auth/', context_extensions: {a: b}}", "context_extensions", "services of `grpc`"),
        ("{grpc: 'http://auth:1', with_body: {max_size: 2MiB}}", "with_body.max_size", "from 1B to 1MiB"),
        (
            "{url: 'http://auth/', method: original, with_body: {as_bytes: true}}",
            "with_body.as_bytes",
            "leave `as_bytes` out",
        ),
        ("{url: 'http://auth/', with_body: {}}", "method", "method: original"),
        ("{url: 'http://auth/', cache: {ttl: 2h}}", "cache.ttl", "at most 1h"),
        ("{url: 'http://auth/', cache: {ttl: 0s}}", "cache.ttl", "leave `cache` out"),
        ("{url: 'http://auth/', cache: {entries: 0}}", "cache.entries", "from 1 to a million"),
        ("{url: 'http://auth/', cache: {headers: ['a b']}}", "cache.headers[0]", "not a header name"),
        ("{grpc: 'http://auth:1', cache: {}}", "cache", "name those that it decides by"),
    ] {
        let invalid = build(yaml).unwrap_err();
        let [only] = invalid.as_slice() else { panic!("{yaml}: {invalid:?}") };
        assert_eq!(only.path.to_string(), path, "{yaml}");
        assert!(only.message.contains(message) && !only.message.contains("hunter2"), "{only:?}");
    }
}
