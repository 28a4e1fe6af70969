//! The registry's API as gRPC, as a client of other people finds it.

use std::{path::Path, process::Output};

use serde_json::{Value, json};

use super::fixture::{at, plane};
use crate::support::python::script;

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
