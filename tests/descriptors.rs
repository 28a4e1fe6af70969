//! What happens when the process has no more descriptors: nobody waits in silence, and the operator is answered.

use crate::support::{
    Backend, Gateway,
    frames::{AUTHORITY, GET, HEADERS, HTTP, WHOLE, Wire, field, frame},
    get, metric, wait_for_metric,
};

fn yaml(backend: &Backend) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         routes: [{{upstream: u}}]\nupstreams: {{u: {{endpoints: ['{}']}}}}\n",
        backend.address()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_take_all_of_them_leave_room_for_others_and_for_the_operator() {
    let backend = Backend::start().await;
    let gateway = Gateway::start_with_descriptors(256, &yaml(&backend)).await;
    let edge = gateway.address("main");
    let head = [&[GET, HTTP][..], AUTHORITY, &field(":path", "/delay/60s")].concat();
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::open(edge).await;
        let bytes: Vec<u8> =
            (0..100).flat_map(|stream| frame(HEADERS, WHOLE, 2 * stream + 1, &head)).collect();
        wire.send(&bytes).await;
        // Those that found no room are told so at once, and not when the others are done.
        held.push(wire);
    }
    let refused = held.last_mut().unwrap().wait_for(|frame| frame.kind == HEADERS).await.unwrap();
    assert_eq!(refused.kind, HEADERS);
    get(gateway.admin(), "/livez").await.assert_status(200);
    get(edge, "/").await.assert_reason(503, "overloaded");
    assert_eq!(metric(&gateway, "tidegate_descriptors_limit", &[]).await, 256.0);
    // An endpoint is not to blame for it.
    wait_for_metric(&gateway, "tidegate_upstream_attempts_total", &["outcome=\"connect_failed\""], 0.0).await;
    drop(held);
    let served = async {
        while get(edge, "/").await.status.as_u16() != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    crate::support::within_deadline("an answer once there is room", served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_all_of_them_leave_room_for_the_operator() {
    let backend = Backend::start().await;
    let gateway = Gateway::start_with_descriptors(128, &yaml(&backend)).await;
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
    let yaml = yaml(&backend).replace("'}]\nroutes", "', limits: {connections: 500}}]\nroutes");
    let gateway = Gateway::start_with_descriptors(256, &yaml).await;
    let is_told = |line: &serde_json::Value| {
        line["msg"].as_str().is_some_and(|message| message.contains("the limits allow 500 connections"))
    };
    assert!(gateway.lines().iter().any(is_told), "{:?}", gateway.lines());
}
