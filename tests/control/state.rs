//! What outlives the process, and what a configuration may not say.

use std::{fs, os::unix::fs::PermissionsExt};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Plane, yaml};
use crate::support::{Gateway, get, metric, send};

const KEPT: &str = "state_dir: state\n";

async fn start(directory: TempDir) -> Plane {
    let yaml = format!("{}{KEPT}", yaml(""));
    Plane::of(Gateway::start_in(directory, &yaml, &[]).await)
}

/// With one instance, ended well; the directory with what it left.
async fn ended() -> TempDir {
    let plane = start(TempDir::new().unwrap()).await;
    let body = json!({"name": "users", "address": "127.0.0.1:1", "ttl": "1h", "tags": ["v2"]}).to_string();
    plane.ask("POST", "/v1/services", &body).await.assert_status(201);
    plane.gateway.signal(Signal::SIGTERM);
    assert!(plane.gateway.wait_exit().await.success());
    let copy = TempDir::new().unwrap();
    fs::create_dir(copy.path().join("state")).unwrap();
    let kept = plane.gateway.directory().join("state/registry.json");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    fs::copy(kept, copy.path().join("state/registry.json")).unwrap();
    copy
}

#[tokio::test]
async fn after_a_restart_everybody_is_there_and_nobody_expires_at_once() {
    let plane = start(ended().await).await;
    let list = plane.ask("GET", "/v1/services", "").await.json();
    let one = &list["instances"][0];
    assert_eq!(
        (&one["id"], &one["tags"], &one["revision"]),
        (&json!("users-127.0.0.1-1"), &json!(["v2"]), &json!(1))
    );
    assert_eq!(list["warming"], true);
    assert_eq!(metric(&plane.gateway, "tidegate_registry_warming", &[]).await, 1.0);
    plane.ask("PUT", "/v1/services/users-127.0.0.1-1/heartbeat", "").await.assert_status(200);
    // What is told from now on is of another epoch.
    let revision =
        plane.ask("GET", "/v1/services", "").await.header("x-tidegate-revision").unwrap().to_owned();
    assert!(revision.ends_with(":1"), "{revision}");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_set_aside_and_told() {
    let kept = ended().await;
    let path = kept.path().join("state/registry.json");
    let good = fs::read_to_string(&path).unwrap();
    for (bad, says) in [
        (good[..good.len() - 9].to_owned(), "it is broken"),
        (good.replace("\"format\":1", "\"format\":99"), "it is of another release"),
        (good.replace("\"name\":\"users\"", "\"name\":\"Users\""), "it was edited"),
        (String::new(), "it is broken"),
    ] {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("state")).unwrap();
        fs::write(directory.path().join("state/registry.json"), &bad).unwrap();
        let plane = start(directory).await;
        let told = plane.gateway.wait_for_line(|line| {
            line["msg"].as_str().is_some_and(|message| message.contains("registry.json is not used"))
        });
        let told = told.await["msg"].as_str().unwrap().to_owned();
        assert!(told.contains(says) && told.contains("registry.json.old"), "{told}");
        assert_eq!(
            fs::read_to_string(plane.gateway.directory().join("state/registry.json.old")).unwrap(),
            bad
        );
        // It serves on, and whoever renews is told to register.
        plane.ask("PUT", "/v1/services/users-127.0.0.1-1/heartbeat", "").await.assert_status(404);
        plane.register("users", 1).await;
    }
}

#[tokio::test]
async fn a_hand_over_loses_nobody() {
    let directory = TempDir::new().unwrap();
    let top = format!("{KEPT}upgrade: {{socket: upgrade.sock}}\n");
    let gateway = Gateway::start_in(directory, &format!("{}{top}", yaml("")), &[]).await;
    let plane = Plane::of(gateway);
    plane.register("users", 1).await;
    let address = plane.address();
    let next = plane.gateway.hand_over().await;
    assert_eq!(next.address("control"), address);
    assert!(plane.gateway.wait_exit().await.success());
    let list = get(address, "/v1/services").await.json();
    assert_eq!(list["instances"][0]["id"], "users-127.0.0.1-1");
    send(address, "PUT", "/v1/services/users-127.0.0.1-1/heartbeat", &[], "").await.assert_status(200);
}

#[tokio::test]
async fn a_reload_keeps_the_registry_and_cannot_change_it() {
    let plane = Plane::start().await;
    plane.register("users", 1).await;
    let more = "listeners: [{name: main, address: '127.0.0.1:0'}]\nroutes: [{respond: {body: a}}]\n";
    let outcome = plane.gateway.reload(&format!("{}{more}", yaml(""))).await;
    assert_eq!(outcome["msg"], "configuration reloaded", "{outcome}");
    assert_eq!(plane.list("").await.len(), 1);
    let outcome = plane.gateway.reload(&yaml("registry: {ttl: {default: 5s}}")).await;
    assert_eq!(outcome["msg"], "configuration rejected");
    assert!(outcome.to_string().contains("`control` cannot change while the gateway runs"), "{outcome}");
}

#[tokio::test]
async fn what_a_file_cannot_say_is_told_with_its_place() {
    let spiffe = "authorize: [{spiffe: [\"spiffe://mesh.local/*\"], discover: [\"*\"]}]";
    for (serve, says) in [
        ("address: 0.0.0.0:9902", "1:28: control.serve.address: 0.0.0.0:9902 is not a loopback address"),
        ("address: nowhere", "control.serve.address: \"nowhere\" is not an address to listen on"),
        ("store: etcd", "control.serve.store: etcd needs its endpoints"),
        ("xds: {default: mesh}", "control.serve.xds: this release does nothing with it yet"),
        ("advertise: a:1", "control.serve.advertise: only replicas that share a store reach each other"),
        ("registry: {ttl: {min: 0s}}", "control.serve.registry.ttl.min: a duration of 0 makes no sense here"),
        ("registry: {ttl: {min: 1m}}", "control.serve.registry.ttl: the default of 30s is not between"),
        ("registry: {hold: 5}", "control.serve.registry.hold: expected `false` or a map"),
        (
            "registry: {limits: {watches: 0}}",
            "control.serve.registry.limits.watches: expected a whole number, 1 or more",
        ),
        ("authorize: [{token: a}]", "control.serve.authorize[0]: this rule grants nothing"),
        (
            "authorize: [{discover: [\"*\"]}]",
            "control.serve.authorize[0]: a rule is for one of `spiffe` and `token`",
        ),
        ("authorize: [{token: a, register: own}]", "register: a token has no service of its own"),
        ("authorize: [{token: a, register: all}]", "register: expected `own`, or a list of services"),
        ("authorize: [{token: a, discover: [Users]}]", "discover[0]: \"Users\" is no service's name"),
        (spiffe, "authorize[0].spiffe: nobody can prove a SPIFFE ID here"),
        ("tls: {client_auth: {mode: request, trust: spiffe}}", "this gateway has no identity"),
        ("adress: a", "control.serve: unknown key `adress` (did you mean `address`?)"),
    ] {
        let yaml = format!("control: {{serve: {{{serve}}}}}\n");
        let (code, stderr, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert_eq!(code, 3, "{serve}: {stderr}");
        assert!(stderr.contains(says), "{serve}: {stderr}");
    }
    let beside = "admin: {address: 127.0.0.1:9902}\ncontrol: {serve: true}\n";
    let (_, stderr, _) = Gateway::start_expecting_failure(beside, &["check"]).await;
    assert!(stderr.contains("the admin API listens there already"), "{stderr}");
    let (code, ..) = Gateway::start_expecting_failure("control: {serve: {}}\n", &["check"]).await;
    assert_eq!(code, 0);
}

#[tokio::test]
async fn what_cannot_be_written_is_told_and_counted() {
    let directory = TempDir::new().unwrap();
    // A file where the directory is to be.
    fs::write(directory.path().join("state"), "").unwrap();
    let plane = start(directory).await;
    plane.register("users", 1).await;
    let told = plane.gateway.wait_for_line(|line: &Value| {
        line["msg"].as_str().is_some_and(|message| message.starts_with("cannot write the registry to"))
    });
    told.await;
    assert!(metric(&plane.gateway, "tidegate_registry_save_errors_total", &[]).await >= 1.0);
}
