//! Connections over HTTP/2 to an upstream: many calls on few of them, and calls that a connection did not take.

use futures::future::join_all;

use super::gateway;
use crate::support::{
    Gateway, ScriptedUpstream, Step,
    grpc::{GrpcServer, call, message},
    http2::{Http2Client, whole},
    metric,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_and_a_goaway_are_tried_again() {
    for (path, server) in [("/refused", GrpcServer::start().await), ("/echo", GrpcServer::leaving().await)] {
        let gateway = gateway(&server, "", "").await;
        let mut client = Http2Client::open(gateway.address("main")).await;
        let (response, mut body) = client.begin(call(path, &[]), false).await;
        body.send_data(message(b"once").into(), true).unwrap();
        let answer = whole(response).await;
        assert_eq!(
            (&*answer.body, answer.trailers.unwrap()["grpc-status"].as_bytes()),
            (&*message(b"once"), &b"0"[..])
        );
        assert_eq!(metric(&gateway, "tidegate_retries_total", &["refused_stream"]).await, 1.0, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_balanced_one_by_one_over_one_client_connection() {
    let (one, two) = (GrpcServer::start().await, GrpcServer::start().await);
    let yaml = format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: u}}]\n\
         upstreams: {{u: {{endpoints: ['{}', '{}'], protocol: grpc}}}}\n",
        one.address(),
        two.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    for _ in 0..20 {
        client.ask(call("/only/0", &[])).await.assert_status(200);
    }
    assert_eq!((one.seen().len(), two.seen().len()), (10, 10));
    assert_eq!((one.connections(), two.connections()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_uses_as_many_connections_as_its_streams_need() {
    // What the gateway is told, and what the server allows.
    for (setting, allowed) in [(10, 100), (100, 10)] {
        let server = GrpcServer::with_streams(allowed).await;
        let gateway = gateway(&server, "", &format!("pool: {{streams_per_connection: {setting}}}")).await;
        let mut client = Http2Client::open(gateway.address("main")).await;
        client.ask(call("/only/0", &[])).await.assert_status(200);
        let mut open = hold(&mut client, &server, 1).await;
        let connections = server.connections();
        assert_eq!(connections, 5, "for {setting} and {allowed}");
        cancel(&mut open);
        server.wait_for_cancelled(50).await;
        // All of them serve on.
        let mut open = hold(&mut client, &server, 51).await;
        assert_eq!(server.connections(), connections);
        cancel(&mut open);
        server.wait_for_cancelled(100).await;
        let mut calls = Vec::new();
        for _ in 0..50 {
            calls.push(client.begin(call("/only/0", &[]), true).await.0);
        }
        for answer in join_all(calls.into_iter().map(whole)).await {
            assert_eq!(answer.header("grpc-status"), Some("0"));
        }
    }
}

type Held = (h2::client::ResponseFuture, h2::SendStream<bytes::Bytes>);

/// Fifty calls that last, each begun when the server has seen the one before; it has seen `before` already.
async fn hold(client: &mut Http2Client, server: &GrpcServer, before: usize) -> Vec<Held> {
    let mut open = Vec::new();
    for number in 1..=50 {
        open.push(client.begin(call("/open", &[]), false).await);
        server.wait_for_calls(before + number).await;
    }
    open
}

fn cancel(open: &mut [Held]) {
    for (_, body) in open {
        body.send_reset(h2::Reason::CANCEL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_gives_no_sign_of_life_is_given_up() {
    // It takes the connection, and says nothing at all.
    let silent = ScriptedUpstream::start(vec![Step::Stall]).await;
    let yaml = format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: u}}]\n\
         upstreams: {{u: {{endpoints: ['{}'], protocol: grpc, pool: {{ping_interval: 100ms}}}}}}\n",
        silent.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let mut client = Http2Client::open(gateway.address("main")).await;
    // A call that nothing else would end for an hour.
    let answer = client.ask(call("/silent", &[])).await;
    assert_eq!(answer.header("grpc-status"), Some("14"), "{answer:?}");
}

/// The server may refuse streams between their heads and their messages, before its settings are known (RFC 9113, section
/// 8.7).
#[tokio::test(flavor = "multi_thread")]
async fn no_call_of_a_burst_is_lost_at_a_server_that_takes_one_at_a_time() {
    const CALLS: usize = 20;
    for _ in 0..30 {
        let server = GrpcServer::with_streams(1).await;
        let gateway = gateway(&server, "", "").await;
        let address = gateway.address("main");
        let calls = (0..CALLS).map(|_| async move {
            let mut client = Http2Client::open(address).await;
            let (response, mut body) = client.begin(call("/echo", &[]), false).await;
            body.send_data(message(b"once").into(), true).unwrap();
            whole(response).await
        });
        for answer in join_all(calls).await {
            assert_eq!(&*answer.body, &*message(b"once"), "{answer:?}");
            assert_eq!(answer.trailers.as_ref().unwrap()["grpc-status"], "0", "{answer:?}");
        }
    }
}
