//! What a real client makes of a real server (grpcio, in Python) is the same through the gateway as without it.

use std::{net::SocketAddr, process::Output};

use serde_json::{Value, json};

use crate::support::{
    Gateway,
    python::{PythonServer, script},
};

const SCRIPT: &str = "grpc_interop.py";

async fn outcomes(address: SocketAddr) -> Value {
    let called = tokio::task::spawn_blocking(move || {
        script(SCRIPT).arg("call").arg(address.to_string()).output().unwrap()
    });
    // 20,000 messages both ways, and a few waits of their own.
    let ended = tokio::time::timeout(std::time::Duration::from_secs(120), called).await;
    let Output { status, stdout, stderr } = ended.expect("the Python client has not ended").unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_client_sees_no_difference() {
    let server = PythonServer::start(SCRIPT, &["serve"]).await;
    let gateway = Gateway::start(&format!(
        "admin: false\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{upstream: u}}]\n\
         upstreams: {{u: {{endpoints: ['{}'], protocol: grpc}}}}\n",
        server.address()
    ))
    .await;
    let direct = outcomes(server.address()).await;
    let through = outcomes(gateway.address("main")).await;
    for (case, outcome) in direct.as_object().unwrap() {
        assert_eq!(&through[case], outcome, "{case}");
    }
    // And that is what was to be seen.
    for (case, outcome) in [
        ("server_streaming", json!({"ok": true})),
        ("client_streaming", json!({"ok": "10000 48890"})),
        ("bidirectional", json!({"ok": true})),
        ("ping_pong", json!({"ok": 100})),
        ("large_request", json!({"ok": "4194304"})),
        ("large_response", json!({"ok": 4_194_304})),
        ("concurrent", json!({"ok": true})),
        ("cancellation", json!({"ok": "cancelled"})),
        ("server_hears_of_deadline", json!({"ok": [{"code": "DEADLINE_EXCEEDED"}, "cancelled"]})),
        ("failing_stream", json!({"ok": [[0, 1, 2], "DATA_LOSS", "the rest is lost"]})),
    ] {
        assert_eq!(through[case], outcome, "{case}");
    }
    for case in ["unimplemented_method", "unimplemented_service", "unimplemented_stream"] {
        assert_eq!(through[case]["code"], "UNIMPLEMENTED", "{case}");
    }
    for (case, code) in
        [("early_answer", "FAILED_PRECONDITION"), ("early_answer_to_many", "FAILED_PRECONDITION")]
    {
        assert_eq!(through[case]["code"], code, "{case}");
    }
    let failed = |line: &Value| line["reason"] != Value::Null && line["path"] != "/interop.Test/Sleeping";
    let odd: Vec<Value> = gateway.lines().into_iter().filter(failed).collect();
    assert!(odd.is_empty(), "{odd:?}");
}
