//! What a real client makes of a real server (grpcio, in Python) is the same through the gateway as without it.

use std::{net::SocketAddr, path::Path, process::Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Gateway, Yaml,
    certificates::{authority, keep, server},
    python::{PythonServer, script},
};

const SCRIPT: &str = "grpc_interop.py";

/// What the certificates of both servers say.
const NAME: &str = "grpc.example";

/// Of calls to this address, over TLS where there is a directory with the authority's certificate.
async fn outcomes(address: SocketAddr, authority: Option<&Path>) -> Value {
    let mut command = script(SCRIPT);
    command.arg("call").arg(address.to_string());
    if let Some(directory) = authority {
        command.arg(directory.join("root.crt")).arg(NAME);
    }
    let called = tokio::task::spawn_blocking(move || command.output().unwrap());
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
    let direct = outcomes(server.address(), None).await;
    let through = outcomes(gateway.address("main"), None).await;
    for (case, outcome) in direct.as_object().unwrap() {
        assert_eq!(&through[case], outcome, "{case}");
    }
    is_as_it_was_to_be(&gateway, &through);
}

/// In the clear and over TLS on either side, and in every protocol that carries gRPC.
#[tokio::test(flavor = "multi_thread")]
async fn nor_does_it_over_tls_or_any_protocol_for_upstreams() {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    keep(directory.path(), "root", &root);
    keep(directory.path(), "server", &root.issue(&server(&[NAME])));
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (cert, key, ca) = (file("server.crt"), file("server.key"), file("root.crt"));
    let clear = PythonServer::start(SCRIPT, &["serve"]).await;
    let secure = PythonServer::start(SCRIPT, &["serve", &cert, &key]).await;
    let tls = format!("tls: {{certificates: [{{cert: '{cert}', key: '{key}'}}]}}");
    let verified = format!("tls: {{verify: {{name: {NAME}, ca: '{ca}'}}}}");
    for (over_tls, to_tls, protocol) in [
        (true, false, "grpc"),
        (false, true, "grpc"),
        (true, true, "grpc"),
        (true, false, "http2"),
        (true, true, "http2"),
        (false, true, "auto"),
    ] {
        let endpoint = if to_tls { &secure } else { &clear };
        let settings = match to_tls {
            true => format!("protocol: {protocol}, {verified}"),
            false => format!("protocol: {protocol}"),
        };
        let gateway = Yaml::to(endpoint.address())
            .listener(if over_tls { &tls } else { "" })
            .route(if protocol == "grpc" { "" } else { "grpc_streams: true" })
            .settings(&settings)
            .start()
            .await;
        let through = outcomes(gateway.address("main"), over_tls.then_some(directory.path())).await;
        println!("over TLS: {over_tls}, to TLS: {to_tls}, protocol: {protocol}");
        is_as_it_was_to_be(&gateway, &through);
    }
}

/// What was to be seen, and that nothing went wrong on the way.
fn is_as_it_was_to_be(gateway: &Gateway, through: &Value) {
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
