//! The registry's API as gRPC, as a client of other people finds it.

use std::{path::Path, process::Output};

use serde_json::{Value, json};

use super::{
    fixture::{at, plane},
    tls::status_of,
};
use crate::support::{
    Gateway, Process, TlsClient,
    certificates::{authority, svid},
    python::script,
    within_deadline,
};

/// Of each message and service; what `protoc --descriptor_set_out` would say.
const DESCRIPTORS: &str = concat!(env!("OUT_DIR"), "/descriptors.bin");

#[tokio::test(flavor = "multi_thread")]
async fn grpcio_registers_renews_discovers_and_watches() {
    let plane = plane("").await;
    assert!(Path::new(DESCRIPTORS).exists());
    let mut client = tokio::process::Command::from(script("control_client.py"));
    client.args([DESCRIPTORS, &at(&plane).to_string()]);
    let Output { status, stdout, stderr } = client.output().await.unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let outcome: Value = serde_json::from_slice(&stdout).unwrap();

    let created = &outcome["register"];
    assert_eq!((&created["created"], &created["instance"]["state"]), (&json!(true), &json!("STATE_HEALTHY")));
    assert_eq!(created["instance"]["ttl_ms"], "30000", "the plane's default");
    assert_eq!(created["heartbeat_every_ms"], "10000");
    assert_eq!(outcome["again"]["created"], Value::Null, "an update");
    for (call, code, reason) in [
        ("taken", "ALREADY_EXISTS", "conflict"),
        ("bad_name", "INVALID_ARGUMENT", "bad_request"),
        ("too_large", "INVALID_ARGUMENT", "too_large"),
    ] {
        assert_eq!(outcome[call], json!({"code": code, "reason": [reason]}), "{call}");
    }
    assert_eq!(outcome["discover"]["instances"][0]["address"], "10.0.0.1:80");
    assert_eq!(outcome["discover"]["warming"], true, "it has just begun");
    assert_eq!(outcome["nobody"]["instances"], Value::Null);
    assert_eq!(outcome["heartbeat"], json!({"not_registered": ["nobody"]}));
    assert_eq!(outcome["heartbeats"], json!([{}, {"not_registered": ["nobody"]}]));
    assert_eq!(outcome["deregister"], json!({}));

    let updates = &outcome["watch"];
    let seen = |update: usize| {
        let instance = &updates[update]["changed"][0];
        (instance["state"].as_str(), instance["weight"].as_u64(), updates[update]["end"].as_bool())
    };
    assert_eq!(seen(0), (Some("STATE_CRITICAL"), Some(1), Some(true)), "as the stream of heartbeats left it");
    assert_eq!(seen(1), (Some("STATE_HEALTHY"), Some(7), Some(true)));
    assert_eq!(updates[2]["removed"], json!([{"id": "users-1", "why": "GONE_DEREGISTERED"}]));
    assert_eq!(updates[2]["emptied"], "GONE_DEREGISTERED");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcio_asks_for_the_health_of_each_service_and_follows_it() {
    let plane = Gateway::start(&format!("{}shutdown: {{unready_for: 3s}}\n", super::yaml(""))).await;
    let mut client = script("control_client.py");
    client.args([DESCRIPTORS, &at(&plane).to_string(), "health"]);
    let client = Process::spawn(client);
    let line = async |number: usize| -> Value {
        let said = async {
            loop {
                match client.output().lines().nth(number) {
                    Some(line) => return serde_json::from_str(line).unwrap(),
                    None => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            }
        };
        within_deadline("what the client was told", said).await
    };
    let checked = line(0).await;
    for service in ["", "Registry", "Configs", "Authority", "Peers"] {
        let name = if service.is_empty() { String::new() } else { format!("tidegate.control.v1.{service}") };
        assert_eq!(checked[&name], json!({"status": "SERVING"}), "{name}");
    }
    assert_eq!(checked["nobody"], json!({"code": "NOT_FOUND", "reason": ["not_found"]}));
    assert_eq!(line(1).await, json!({"status": "SERVICE_UNKNOWN"}));
    assert_eq!(line(2).await, json!({"status": "SERVING"}));
    plane.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(line(3).await, json!({"status": "NOT_SERVING"}));
    assert!(line(4).await["ended"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_checked_by_anybody_and_watched_by_those_who_are_known() {
    let root = authority("mesh.local");
    let directory = tempfile::TempDir::new().unwrap();
    root.issue(&svid("spiffe://mesh.local/control")).write_to(directory.path(), &root);
    let serve = "tls: {certificates: [identity], client_auth: {mode: request, trust: spiffe}}, authorize: \
                 [{spiffe: ['spiffe://mesh.local/users'], register: own}]";
    let yaml = format!("{}{}", super::yaml(serve), super::tls::IDENTITY);
    let plane = Gateway::start_in(directory, &yaml, &[]).await;
    let stranger = TlsClient::of(&root);
    let status = async |client: &TlsClient, call: &str| status_of(at(&plane), client, call).await;
    assert_eq!(status(&stranger, "/grpc.health.v1.Health/Check").await, "0");
    assert_eq!(status(&stranger, "/grpc.health.v1.Health/Watch").await, "16", "it would take a place");
    assert_eq!(status(&stranger, "/tidegate.control.v1.Registry/Discover").await, "16");
}
