//! What happens when the process has no more descriptors: nobody waits in silence, and the operator is answered.

use std::{net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use crate::support::{
    Backend, Connection, Gateway, RawConnection, Yaml,
    frames::{AUTHORITY, GET, HEADERS, HTTP, WHOLE, Wire, field, frame},
    get, metric,
    observe::descriptors,
    wait_for_metric, within_deadline,
};

/// Many connect at once, on a machine that may be busy.
const PATIENT: &str = "connect_timeout: 20s";

/// Once descriptors are short, one that has to wait for its turn for too long is taken for idle, and comes again.
async fn open(edge: SocketAddr) -> Wire<TcpStream> {
    loop {
        if let Ok(wire) = Wire::shake(TcpStream::connect(edge).await.unwrap()).await {
            return wire;
        }
    }
}

/// So many clients of HTTP/2 with so many requests each, which wait for as long as these are held.
async fn crowd(edge: SocketAddr, clients: usize, requests: u32) -> Vec<Wire<TcpStream>> {
    let head = [&[GET, HTTP][..], AUTHORITY, &field(":path", "/delay/60s")].concat();
    let all: Vec<u8> =
        (0..requests).flat_map(|stream| frame(HEADERS, WHOLE, 2 * stream + 1, &head)).collect();
    let mut crowd = Vec::new();
    for _ in 0..clients {
        let mut wire = open(edge).await;
        wire.send(&all).await;
        crowd.push(wire);
    }
    crowd
}

/// Whoever finds no room is told so at once, and not when the others are done.
async fn somebody_is_refused(gateway: &Gateway) {
    gateway.wait_for_line(|line| line["reason"] == "overloaded").await;
}

/// Whose connection finds no room is answered before it has asked, or not at all.
async fn is_served(edge: SocketAddr) -> bool {
    let answer = async { Connection::http1(edge).await?.send("GET", "/", &[], "").await };
    answer.await.is_ok_and(|answer| answer.status.as_u16() == 200)
}

async fn is_served_in_the_end(edge: SocketAddr) {
    let served = async {
        while !is_served(edge).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_deadline("an answer once there is room", served).await;
}

/// What the gateway has said so far, where it has these words in it.
fn says(gateway: &Gateway, words: &str) -> bool {
    let says = |line: &serde_json::Value| line["msg"].as_str().is_some_and(|said| said.contains(words));
    gateway.lines().iter().any(says)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_a_hundred_requests_each_leave_room_for_others_and_for_the_operator() {
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address()).settings(PATIENT);
    let gateway = Gateway::start_with_descriptors(1024, &yaml.to_string()).await;
    assert!(says(&gateway, "1024 descriptors, room for 896 connections"), "{:?}", gateway.lines());
    let edge = gateway.address("main");
    let _held = crowd(edge, 11, 100).await;
    somebody_is_refused(&gateway).await;
    get(gateway.admin(), "/livez").await.assert_status(200);
    for _ in 0..5 {
        get(edge, "/").await.assert_status(200);
    }
    assert_eq!(metric(&gateway, "tidegate_descriptors_limit", &[]).await, 1024.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_all_that_upstreams_can_have_leave_room_for_an_answer_and_for_the_operator() {
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address()).settings(PATIENT);
    let gateway = Gateway::start_with_descriptors(256, &yaml.to_string()).await;
    let edge = gateway.address("main");
    let held = crowd(edge, 14, 16).await;
    somebody_is_refused(&gateway).await;
    get(gateway.admin(), "/livez").await.assert_status(200);
    get(edge, "/").await.assert_reason(503, "overloaded");
    assert_eq!(metric(&gateway, "tidegate_descriptors_limit", &[]).await, 256.0);
    // An endpoint is not to blame for it.
    wait_for_metric(&gateway, "tidegate_upstream_attempts_total", &["outcome=\"connect_failed\""], 0.0).await;
    drop(held);
    is_served_in_the_end(edge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_give_way_where_no_descriptor_is_left_for_an_upstream() {
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address()).with_route("match: {path: /here}, respond: {status: 204}");
    let gateway = Gateway::start_with_descriptors(256, &yaml.to_string()).await;
    let edge = gateway.address("main");
    let mut idle = Vec::new();
    // Too few for a new client to be refused, and more than leave any for an upstream.
    while descriptors(&gateway) < 202 {
        let mut client = RawConnection::open(edge);
        client.write("GET /here HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(client.read_head().status, 204);
        idle.push(client);
    }
    get(edge, "/").await.assert_reason(503, "overloaded");
    get(gateway.admin(), "/livez").await.assert_status(200);
    is_served_in_the_end(edge).await;
    let gave_way = ["what=\"connection\"", "resource=\"descriptors\""];
    assert!(metric(&gateway, "tidegate_shed_total", &gave_way).await >= 1.0);
}

/// All of a client's requests need one descriptor there.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_much_is_served_by_an_upstream_of_http2() {
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address())
        .settings("protocol: http2, connect_timeout: 20s")
        .with_route("match: {path: /here}, respond: {status: 204}");
    let gateway = Gateway::start_with_descriptors(256, &yaml.to_string()).await;
    let edge = gateway.address("main");
    let mut idle = Vec::new();
    // More than leave one for an upstream of HTTP/1 to a client that asks for so much.
    while descriptors(&gateway) < 170 {
        let mut client = RawConnection::open(edge);
        client.write("GET /here HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(client.read_head().status, 204);
        idle.push(client);
    }
    let mut client = Wire::open(edge).await;
    let head = [&[GET, HTTP][..], AUTHORITY, &field(":path", "/")].concat();
    let requests: Vec<u8> = (0..40).flat_map(|stream| frame(HEADERS, WHOLE, 2 * stream + 1, &head)).collect();
    client.send(&requests).await;
    for _ in 0..40 {
        let answer = client.wait_for(|frame| frame.kind == HEADERS).await.unwrap();
        // In HPACK's table, 8 is `:status: 200` (RFC 7541, appendix A).
        assert_eq!(answer.payload[0], 0x88, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_limit_is_no_limit() {
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address()).settings(PATIENT);
    let gateway = Gateway::start_with_soft_descriptors(256, &yaml.to_string()).await;
    let edge = gateway.address("main");
    let _held = crowd(edge, 3, 100).await;
    let all = async {
        while get(backend.address(), "/count").await.text().trim().parse::<usize>().unwrap() < 300 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_deadline("more requests at the backend than the soft limit has descriptors", all).await;
    get(edge, "/").await.assert_status(200);
    get(gateway.admin(), "/livez").await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_all_of_them_leave_room_for_the_operator() {
    let backend = Backend::start().await;
    let gateway = Gateway::start_with_descriptors(128, &Yaml::to(backend.address()).to_string()).await;
    let edge = gateway.address("main");
    let mut silent = Vec::new();
    for _ in 0..140 {
        silent.push(std::net::TcpStream::connect(edge).unwrap());
    }
    get(gateway.admin(), "/livez").await.assert_status(200);
    get(gateway.admin(), "/metrics").await.assert_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_do_not_fit_are_told_at_the_start() {
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address()).limits("connections: 500");
    let gateway = Gateway::start_with_descriptors(256, &yaml.to_string()).await;
    assert!(says(&gateway, "the limits allow 500 connections"), "{:?}", gateway.lines());
}
