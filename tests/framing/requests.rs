//! The ends of requests' bodies.

use http::{HeaderMap, HeaderValue, Request};

use super::{Origin, gateway, open};
use crate::support::origin::Deed;
use crate::support::{
    ScriptedUpstream, Step,
    http2::{Http2Client, whole},
};

/// What comes behind the last byte of a body over HTTP/2.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Nothing: that byte's frame says so.
    Flag,
    /// A frame without data.
    EmptyData,
    Trailers,
}

/// A second end would be taken for the next request.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_is_ended_once_whatever_ends_it() {
    const EACH: usize = 200;
    for protocol in ["http1", "http2"] {
        let origin = Origin::start(1, &[Deed::Answer(200)]).await;
        let gateway = gateway(origin.addresses()[0], "", &format!("protocol: {protocol}")).await;
        let mut client = Http2Client::open(gateway.address("main")).await;
        let mut expected = Vec::new();
        for (method, parts, end) in [
            ("PUT", &["abc", "def"][..], End::Flag),
            ("PUT", &["abc", "def"], End::EmptyData),
            ("PUT", &["abc", "def"], End::Trailers),
            ("POST", &[], End::EmptyData),
            ("GET", &[], End::EmptyData),
            ("GET", &[], End::Trailers),
            ("GET", &["abc"], End::EmptyData),
        ] {
            for _ in 0..EACH {
                let request = Request::builder().method(method).uri("http://a/").body(()).unwrap();
                let (response, mut body) = client.begin(request, false).await;
                for (number, part) in (1..).zip(parts) {
                    let is_last = matches!(end, End::Flag) && number == parts.len();
                    body.send_data((*part).into(), is_last).unwrap();
                    // So that the end comes by itself.
                    tokio::task::yield_now().await;
                }
                match end {
                    End::Flag => {}
                    End::EmptyData => body.send_data("".into(), true).unwrap(),
                    End::Trailers => {
                        let sum = ("x-sum".parse().unwrap(), HeaderValue::from_static("1"));
                        body.send_trailers(HeaderMap::from_iter([sum])).unwrap();
                    }
                }
                let answer = whole(response).await;
                assert_eq!(answer.status, 200, "{protocol} {method} {end:?}: {answer:?}");
                expected.push(parts.concat().into_bytes());
            }
        }
        let bodies: Vec<_> = origin.seen().into_iter().map(|seen| seen.body.unwrap()).collect();
        assert_eq!(bodies.len(), expected.len(), "{protocol}");
        assert!(bodies == expected, "{protocol}");
        // A connection on which something was too much would have been left.
        assert_eq!(origin.connections(), 1, "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_100_continue_was_waited_for_stays_open() {
    let hedge = "hedge: {after: 500ms}, retry: {methods: [POST]}";
    let says = || Step::write("HTTP/1.1 100 Continue\r\n\r\n");
    let http1 = ScriptedUpstream::with(move |_| {
        vec![Step::ReadHead, says(), Step::ReadBody(5), Step::respond("origin says 200"), Step::Again]
    })
    .await;
    let http2 = Origin::start(1, &[Deed::Answer(200)]).await;
    for (address, settings, route) in [
        (http1.address(), "protocol: http1", ""),
        (http1.address(), "protocol: http1", hedge),
        (http2.addresses()[0], "protocol: http2", ""),
        (http2.addresses()[0], "protocol: http2", hedge),
    ] {
        let gateway = gateway(address, route, settings).await;
        let mut client = open(&gateway);
        for _ in 0..3 {
            client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n");
            assert_eq!(client.read_response().status, 100, "{settings} {route}");
            client.write("hello");
            let answer = client.read_response();
            assert_eq!((answer.status, answer.text()), (200, "origin says 200"), "{settings} {route}");
            assert_eq!(answer.header("connection"), None, "{settings} {route}: {answer:?}");
        }
    }
}
