//! `tidegate.py`, under the `python3` of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    CONTROL, TOKEN, Way, eventually, guarded_plane, happened, heartbeats, mute, record, register, remove,
    url, wait_until_it_hears,
};
use crate::control::Plane;
use crate::support::{Process, wait_for_metric};

const ID: &str = "users-127.0.0.1-1";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/python")
}

fn python() -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", root()).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(root());
    command
}

/// `tests/sdk/application.py` with a registration of `users` at port 1 that it renews once a second.
fn application(servers: &[String], end: &str, more: Value) -> Process {
    let mut told = json!({
        "servers": servers, "follow": "users", "end": end,
        "register": {"name": "users", "address": "127.0.0.1:1", "ttl": 3, "drain": 0},
    });
    for (key, value) in more.as_object().unwrap() {
        told[key] = value.clone();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/application.py");
    let mut command = python();
    command.arg(script).arg(told.to_string());
    Process::spawn(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_tests_pass() {
    let mut command = python();
    command.args(["-W", "error", "-m", "unittest", "test_tidegate"]);
    let process = Process::spawn(command);
    let status = process.wait_exit().await;
    assert!(status.success(), "{}", process.stderr());
}

/// What the page shows works as it stands there.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_registers_is_renewed_and_leaves_in_order_when_told_to_end() {
    let plane = Plane::start().await;
    register(&plane, 1, "1h").await;
    let page = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, block) = page.split_once("```python\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let example = block.replace("http://127.0.0.1:9902", &url(plane.address()));
    assert!(block.lines().count() <= 10);
    let mut command = python();
    command.arg("-u").arg("-c").arg(example);
    let process = Process::spawn(command);
    plane.wait_for("orders-127.0.0.1-3001", Some("healthy")).await;
    process.wait_for_output("users is at 127.0.0.1:1").await;
    wait_until_it_hears(&process, Signal::SIGTERM).await;
    process.signal(Signal::SIGTERM);
    assert!(process.wait_exit().await.success(), "{}", process.stderr());
    assert_eq!(happened(&plane, "updated").await, 1.0, "it was shown as draining");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_is_renewed_and_found_until_the_process_is_told_to_end() {
    let plane = Plane::start().await;
    let register = json!({
        "name": "users", "address": "127.0.0.1:1", "ttl": 3, "drain": 1, "tags": ["v2"], "metadata": {"zone": "a"}, "weight": 3,
        "protocol": "http2",
    });
    let application = application(&[url(plane.address())], "signal", json!({"register": register}));
    application.wait_for_output(r#"{"ports": [1]}"#).await;
    plane.wait_for(ID, Some("healthy")).await;
    let record = record(&plane, ID).await.unwrap();
    assert_eq!((&record["tags"], &record["metadata"]["zone"]), (&json!(["v2"]), &json!("a")));
    assert_eq!(
        (&record["weight"], &record["protocol"], &record["ttl"]),
        (&json!(3), &json!("http2"), &json!("3s"))
    );
    // More than its ttl.
    eventually("heartbeats", async || heartbeats(&plane).await >= 4.0).await;
    assert_eq!(happened(&plane, "registered").await, 1.0);
    wait_until_it_hears(&application, Signal::SIGTERM).await;
    application.signal(Signal::SIGTERM);
    assert!(application.wait_exit().await.success(), "{}", application.stderr());
    assert!(application.output().ends_with(r#"{"left": true, "picked": null}"#), "{}", application.output());
    assert_eq!(happened(&plane, "updated").await, 1.0, "it was shown as draining");
    plane.wait_for(ID, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_ends_without_a_word_or_leaves_the_context_is_deregistered() {
    let plane = Plane::start().await;
    for (round, end) in ["exit", "context"].into_iter().enumerate() {
        let application = application(&[url(plane.address())], end, json!({}));
        assert!(application.wait_exit().await.success(), "{}", application.stderr());
        let times = 1.0 + round as f64;
        assert_eq!(happened(&plane, "registered").await, times);
        eventually("its farewell", async || happened(&plane, "deregistered").await == times).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_forgotten_registers_again_with_what_it_said_last() {
    let plane = Plane::start().await;
    let more = json!({"health": "critical"});
    let application = application(&[url(plane.address())], "signal", more);
    plane.wait_for(ID, Some("critical")).await;
    remove(&plane, ID).await;
    plane.wait_for(ID, Some("critical")).await;
    wait_for_metric(
        &plane.gateway,
        "tidegate_registry_heartbeats_total",
        &["result=\"not_registered\""],
        1.0,
    )
    .await;
    drop(application);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_away_or_has_forgotten_everything_takes_nobody() {
    let way = Way::to(None).await;
    let application = application(&[url(way.address)], "signal", json!({}));
    application.wait_for_output(r#"{"error": true, "id": null}"#).await;
    let first = Plane::start().await;
    register(&first, 2, "30s").await;
    way.lead(Some(&first));
    application.wait_for_output(r#"{"ports": [1, 2]}"#).await;
    way.lead(None);
    let second = Plane::start().await;
    way.lead(Some(&second));
    second.wait_for(ID, Some("healthy")).await;
    // The second control plane has never heard of the other one.
    register(&second, 3, "30s").await;
    application.wait_for_output(r#"{"ports": [1, 2, 3]}"#).await;
    let seen = application.output();
    let after = seen.split_once(r#"{"ports": [1, 2]}"#).unwrap().1;
    assert_eq!(
        after.lines().filter(|line| line.contains("ports")).collect::<Vec<_>>(),
        [r#"{"ports": [1, 2, 3]}"#]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_leaves_the_last_one() {
    let plane = Plane::start().await;
    let more = json!({"register": {"name": "others", "address": "127.0.0.1:1"}});
    let application = application(&[url(plane.address())], "signal", more);
    application.wait_for_output("others-127.0.0.1-1").await;
    register(&plane, 7, "1s").await;
    application.wait_for_output(r#"{"ports": [7]}"#).await;
    eventually("its expiry", async || happened(&plane, "expired").await == 1.0).await;
    register(&plane, 8, "30s").await;
    application.wait_for_output(r#"{"ports": [8]}"#).await;
    assert!(!application.output().contains("[]"), "{}", application.output());
    remove(&plane, "users-127.0.0.1-8").await;
    application.wait_for_output(r#"{"ports": []}"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_passed_over() {
    let plane = Plane::start().await;
    let (nowhere, mute) = (Way::to(None).await.address, mute().await);
    let servers = [url(nowhere), url(mute), url(plane.address())];
    let application = application(&servers, "signal", json!({"client": {"timeout": 0.3}}));
    application.wait_for_output(r#"{"ports": [1]}"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_good_is_told_at_once() {
    let plane = Plane::start().await;
    let servers = [url(plane.address())];
    for more in
        [json!({"follow": "../users"}), json!({"register": {"name": "users", "address": "127.0.0.1"}})]
    {
        let application = application(&servers, "signal", more);
        assert!(application.wait_exit().await.success(), "{}", application.stderr());
        assert_eq!(application.output(), r#"{"permanent": true, "refused": "bad_request"}"#);
    }
    assert_eq!(happened(&plane, "registered").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_both_sides_prove_who_they_are() {
    let plane = guarded_plane().await;
    let servers = [format!("https://{}", plane.address())];
    let file = |name: &str| plane.gateway.directory().join(name);
    let ca = file("bundle.pem");
    let start = |client: Value| application(&servers, "signal", json!({"client": client}));
    let good = start(json!({"ca": ca, "server_id": CONTROL, "token": TOKEN}));
    good.wait_for_output(r#"{"ports": [1]}"#).await;
    let mut own = json!({"client": {"ca": ca, "server_id": CONTROL, "identity": [file("users.crt"), file("users.key")]}});
    own["register"] = json!({"name": "users", "address": "127.0.0.1:2"});
    let own = application(&servers, "signal", own);
    own.wait_for_output(r#"{"error": false, "id": "users-127.0.0.1-2"}"#).await;
    let guessed = start(json!({"ca": ca, "server_id": CONTROL, "token": "a-guess-of-somebody-else"}));
    assert!(guessed.wait_exit().await.success(), "{}", guessed.stderr());
    assert_eq!(guessed.output(), r#"{"permanent": true, "refused": "unauthenticated"}"#);
    // Another's ID, a host that the certificate does not name, and an authority that nobody trusts.
    for client in [
        json!({"ca": ca, "server_id": "spiffe://mesh.local/other", "token": TOKEN}),
        json!({"ca": ca, "token": TOKEN}),
        json!({"server_id": CONTROL, "token": TOKEN}),
    ] {
        start(client).wait_for_output(r#"{"error": true, "id": null}"#).await;
    }
}
