//! Which calls of gRPC are streams without end is for the operator to say. What a client writes lifts no limit.

use crate::support::{
    Answer, Backend, Gateway,
    grpc::{call, message},
    http2::{Http2Client, whole},
};

async fn gateway(backend: &Backend, route: &str, upstream: &str) -> Gateway {
    Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0', limits: {{body_size: 8KiB}}}}]\n\
         routes: [{{upstream: u{route}}}]\nupstreams: {{u: {{endpoints: ['{}']{upstream}}}}}\n",
        backend.address()
    ))
    .await
}

/// A stream of messages, each well within the bound.
async fn stream(gateway: &Gateway) -> Answer {
    let mut client = Http2Client::open(gateway.address("main")).await;
    let (response, mut body) = client.begin(call("/echo", &[]), false).await;
    for last in [false, false, false, true] {
        // Refused, it may be reset meanwhile.
        let _ = body.send_data(message(&[7; 4000]).into(), last);
    }
    whole(response).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_alone_lift_no_limit_where_nobody_says_that_grpc_is_spoken() {
    let backend = Backend::start().await;
    for (route, upstream) in [
        ("", ""),
        ("", ", protocol: http2"),
        (", grpc_streams: false", ", protocol: grpc"),
        (", filters: [body_limit: 8KiB]", ", protocol: http2"),
    ] {
        let gateway = gateway(&backend, route, upstream).await;
        let answer = stream(&gateway).await;
        let told = (answer.header("grpc-status"), answer.header("x-tidegate-reason"));
        assert_eq!(told, (Some("8"), Some("request_too_large")), "{route} {upstream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_no_bound_where_the_operator_says_so() {
    let backend = Backend::start().await;
    for (route, upstream) in [("", ", protocol: grpc"), (", grpc_streams: true", ", protocol: http2")] {
        let gateway = gateway(&backend, route, upstream).await;
        let answer = stream(&gateway).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 4 * 4005), "{route} {upstream}");
    }
}
