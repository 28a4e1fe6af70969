//! Clients that stay within every pause and are too slow all the same, in either direction: what they hold of an upstream
//! is let go. Who waits for somebody else is not slow.

use bytes::Bytes;
use http::Request;

use super::Setup;
use crate::support::{
    Step, get, get_h2c,
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
