//! Configurations outlive the process that has taken them.

use std::{fs, path::PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Plane, assert_refused,
    gateway::{Comes, Taking},
    yaml,
};
use crate::support::{Gateway, Process, tidegate};

const ROUTES: &str = "routes: [{respond: {status: 204}}]\n";
const SLOW: &str = "rollout: {hold: 1h, ack_timeout: 1m}\nroutes: [{respond: {status: 205}}]\n";

async fn start(directory: TempDir) -> Plane {
    let yaml = format!("{}state_dir: state\n", yaml(""));
    Plane::of(Gateway::start_in(directory, &yaml, &[]).await)
}

/// What a plane that is killed has left.
async fn killed(plane: Plane) -> TempDir {
    plane.gateway.signal(Signal::SIGKILL);
    plane.gateway.wait_exit().await;
    let copy = TempDir::new().unwrap();
    let (from, to) = (plane.gateway.directory().join("state/configs/edge"), configs(&copy));
    fs::create_dir_all(&to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    copy
}

fn configs(home: &TempDir) -> PathBuf {
    home.path().join("state/configs/edge")
}

async fn put(plane: &Plane, text: impl AsRef<str>) -> Value {
    plane.ask("PUT", "/v1/configs/edge", text.as_ref()).await.assert_status(202).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_kill_and_a_rollout_goes_on() {
    let plane = start(TempDir::new().unwrap()).await;
    put(&plane, ROUTES).await;
    let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
    gateway.takes(1).await;
    let (_, config) = tokio::join!(put(&plane, SLOW), gateway.takes(2));
    let holding = plane.until_phase("holding").await;
    assert_eq!(holding["in_force"], 1);
    let home = killed(plane).await;

    let plane = start(home).await;
    let rolling = plane.rollout().await;
    let now = |key: &str| rolling[key].clone();
    assert_eq!((now("version"), now("previous"), now("phase")), (json!(2), json!(1), json!("rolling")));
    let comes = Comes { started_ms: 1, version: 2, sha256: config.sha256, ..Comes::default() };
    let mut gateway = Taking::come(plane.address(), "g1", "edge", comes).await.unwrap();
    assert_eq!(plane.until_phase("holding").await["in_force"], 1, "it is in its wave as before");
    assert!(gateway.is_left_alone().await);
    let mut other = Taking::join(plane.address(), "g2", "edge").await;
    other.takes(1).await;
    let versions = plane.ask("GET", "/v1/configs/edge/versions", "").await.json();
    assert_eq!(versions["versions"].as_array().unwrap().len(), 2);
    let (third, ()) = tokio::join!(put(&plane, format!("{SLOW}# 3")), async {
        gateway.takes(3).await;
    });
    assert_eq!(third["version"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_in_the_middle_of_a_rollout_costs_nothing() {
    let yaml = format!("{}state_dir: state\nupgrade: {{socket: upgrade.sock}}\n", yaml(""));
    let plane = Plane::of(Gateway::start_in(TempDir::new().unwrap(), &yaml, &[]).await);
    put(&plane, ROUTES).await;
    let join = async |node: &str| {
        let mut gateway = Taking::join(plane.address(), node, "edge").await;
        let config = gateway.takes(1).await;
        plane.until_state(node, "in_force").await;
        (gateway, config.sha256)
    };
    let (mut first, _) = join("g1").await;
    let (mut other, sha256) = join("g2").await;
    let quick =
        "rollout: {waves: [1, 100%], hold: 0s, ack_timeout: 1m}\nroutes: [{respond: {status: 205}}]\n";
    let (_, config) = tokio::join!(put(&plane, quick), first.told());
    assert_eq!(config.version, 2);
    let next = Plane::of(plane.gateway.hand_over().await);
    assert!(plane.gateway.wait_exit().await.success());
    assert_eq!(next.address(), plane.address());
    assert_eq!((first.order().await.is_none(), other.order().await.is_none()), (true, true), "streams end");
    let now = next.rollout().await;
    assert_eq!((&now["version"], &now["previous"], &now["phase"]), (&json!(2), &json!(1), &json!("rolling")));
    // The first comes with what it was told, the other one with what it has.
    let comes =
        |version, sha256: &str| Comes { started_ms: 1, version, sha256: sha256.into(), ..Comes::default() };
    let mut other = Taking::come(next.address(), "g2", "edge", comes(1, &sha256)).await.unwrap();
    assert!(other.is_left_alone().await, "it is in no wave yet");
    let mut first = Taking::come(next.address(), "g1", "edge", comes(2, &config.sha256)).await.unwrap();
    other.takes(2).await;
    assert!(first.is_left_alone().await);
    assert_eq!(next.until_phase("done").await["in_force"], 2);
    // And what is put at the successor is kept where the predecessor kept it.
    let third = tokio::join!(put(&next, format!("{quick}# 3")), async {
        tokio::select! {
            config = first.told() => config.version,
            config = other.told() => config.version,
        }
    });
    assert_eq!((third.0["version"].as_u64(), third.1), (Some(3), 3));
    assert!(next.gateway.directory().join("state/configs/edge/3").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_is_not_there_after_a_kill() {
    let plane = start(TempDir::new().unwrap()).await;
    put(&plane, ROUTES).await;
    plane.ask("PUT", "/v1/configs/mesh", ROUTES).await.assert_status(202);
    plane.ask("DELETE", "/v1/configs/edge", "").await.assert_status(204);
    let state = plane.gateway.directory().join("state/configs");
    let left: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mesh"]);
    // A removal that was cut short.
    fs::create_dir(state.join("~edge")).unwrap();
    fs::copy(state.join("mesh/1"), state.join("~edge/1")).unwrap();
    let copy = TempDir::new().unwrap();
    fs::create_dir_all(copy.path().join("state")).unwrap();
    plane.gateway.signal(Signal::SIGKILL);
    plane.gateway.wait_exit().await;
    fs::rename(&state, copy.path().join("state/configs")).unwrap();
    let plane = start(copy).await;
    let list = plane.ask("GET", "/v1/configs", "").await.json();
    assert_eq!((list["configs"].as_array().unwrap().len(), &list["configs"][0]["name"]), (1, &json!("mesh")));
    assert!(!plane.gateway.directory().join("state/configs/~edge").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_fifty_versions_are_kept() {
    let plane = start(TempDir::new().unwrap()).await;
    for version in 1..=53 {
        let path = "/v1/configs/edge?rollout=now";
        plane.ask("PUT", path, &format!("{ROUTES}# {version}\n")).await.assert_status(202);
    }
    let versions = plane.ask("GET", "/v1/configs/edge/versions", "").await.json();
    let versions = versions["versions"].as_array().unwrap();
    assert_eq!(
        (versions.len(), &versions[0]["version"], &versions[49]["version"]),
        (50, &json!(53), &json!(4))
    );
    let files = fs::read_dir(plane.gateway.directory().join("state/configs/edge")).unwrap().count();
    assert_eq!(files, 51, "and how far the newest is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_is_set_aside_and_told() {
    let plane = start(TempDir::new().unwrap()).await;
    put(&plane, ROUTES).await;
    put(&plane, SLOW).await;
    let home = killed(plane).await;
    let good = |file: &str| fs::read_to_string(configs(&home).join(file)).unwrap();
    let (version, course) = (good("1"), good("current"));
    for (file, bad, says) in [
        ("1", version[..version.len() - 9].to_owned(), "it is broken"),
        ("1", version.replace("\"format\":1", "\"format\":99"), "it is of another release"),
        ("1", version.replace("204", "206"), "its checksum differs"),
        ("current", course[..9].to_owned(), "it is broken"),
        ("current", course.replace("\"version\":2", "\"version\":7"), "is not there"),
    ] {
        let copy = TempDir::new().unwrap();
        fs::create_dir_all(configs(&copy)).unwrap();
        for (name, text) in [("1", &version), ("2", &good("2")), ("current", &course)] {
            fs::write(configs(&copy).join(name), if name == file { &bad } else { text }).unwrap();
        }
        let plane = start(copy).await;
        let line = plane
            .gateway
            .wait_for_line(|line| line["msg"].as_str().is_some_and(|msg| msg.contains(says)))
            .await;
        assert_eq!(line["level"], "warn", "{line}");
        let left = plane.gateway.directory().join(format!("state/configs/edge/{file}.json.old"));
        assert!(left.exists(), "{file}: {bad}");
        // Nobody is told anything that is not known for sure.
        let paused = plane.until_phase("paused").await;
        assert!(paused["why"].as_str().unwrap().contains("is lost"), "{paused}");
        let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
        assert!(gateway.is_left_alone().await);
        // An operator begins anew.
        let again = format!("{ROUTES}# again");
        tokio::join!(put(&plane, &again), gateway.takes(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_refused_and_nothing_is_changed() {
    let plane = start(TempDir::new().unwrap()).await;
    put(&plane, ROUTES).await;
    let configs = plane.gateway.directory().join("state/configs");
    fs::rename(&configs, configs.with_extension("gone")).unwrap();
    fs::write(&configs, "a file").unwrap();
    let refused = plane.ask("PUT", "/v1/configs/edge", SLOW).await;
    assert_refused(&refused, 503, "store_unavailable", "nothing was changed");
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(plane.rollout().await["version"], 1);
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

async fn run(plane: &Plane, args: &[&str]) -> Ran {
    let mut command = tidegate(plane.gateway.directory());
    command.args(args).args(["--server", &plane.address().to_string()]);
    let process = Process::spawn(command);
    let code = process.wait_exit().await.code().unwrap();
    Ran { code, stdout: process.output(), stderr: process.stderr() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_puts_shows_and_rolls_back() {
    let plane = Plane::start().await;
    let file = plane.gateway.directory().join("edge.yaml");
    let file = file.to_str().unwrap();
    fs::write(file, ROUTES).unwrap();
    let dry = run(&plane, &["config", "put", "edge", file, "--dry-run"]).await;
    assert_eq!((dry.code, dry.stdout.as_str()), (0, "edge: valid, checked by control; nothing was changed"));
    let put = run(&plane, &["config", "put", "edge", file]).await;
    assert!(
        put.stdout.starts_with("edge: version 1, checked by control\nedge: version 1 done"),
        "{}",
        put.stdout
    );
    let again = run(&plane, &["config", "put", "edge", file]).await;
    assert_eq!((again.code, again.stdout.as_str()), (0, "edge: unchanged, version 1 says the same"));
    fs::write(file, "routes:\n- upstrem: a\n").unwrap();
    let bad = run(&plane, &["config", "put", "edge", file]).await;
    let expected = format!("{file}:2:3: routes[0]: unknown key `upstrem` (did you mean `upstream`?)");
    assert_eq!((bad.code, bad.stderr.trim_end()), (3, expected.as_str()));
    fs::write(file, SLOW).unwrap();
    let stale = run(&plane, &["config", "put", "edge", file, "--if-version", "9"]).await;
    assert!(stale.code == 1 && stale.stderr.contains("is at version 1"), "{}", stale.stderr);
    assert_eq!(run(&plane, &["config", "put", "edge", file, "--now"]).await.code, 0);
    assert_eq!(run(&plane, &["config", "get", "edge"]).await.stdout, SLOW.trim_end());
    assert_eq!(run(&plane, &["config", "get", "edge", "--version", "1"]).await.stdout, ROUTES.trim_end());
    let part = plane.gateway.directory().join("users.yaml");
    let part = part.to_str().unwrap();
    fs::write(part, "endpoint: []").unwrap();
    let bad = run(&plane, &["config", "put", "edge", part, "--part", "upstreams/users"]).await;
    assert!(
        bad.code == 3 && bad.stderr.starts_with(&format!("{part}:1:1: upstreams.users: ")),
        "{}",
        bad.stderr
    );
    fs::write(part, "endpoints: ['127.0.0.1:1']").unwrap();
    assert_eq!(
        run(&plane, &["config", "put", "edge", part, "--part", "upstreams/users", "--now"]).await.code,
        0
    );
    assert_eq!(run(&plane, &["config", "remove", "edge", "upstreams/users", "--now"]).await.code, 0);
    assert_eq!(run(&plane, &["config", "rollback", "edge", "1"]).await.code, 0);
    let versions = run(&plane, &["config", "versions", "edge"]).await.stdout;
    assert!(versions.starts_with("VERSION  AGE") && versions.contains("repeats 1"), "{versions}");
    let rollout = run(&plane, &["config", "rollout", "edge", "abort"]).await;
    assert!(rollout.stdout.starts_with("edge: version 5 aborted"), "{} {}", rollout.stdout, rollout.stderr);
    for (what, at, expected) in [
        (&["config", "versions", "edge", "--json"][..], "/0/version", 5),
        (&["config", "rollout", "edge", "--json"], "/version", 5),
    ] {
        let shown: Value = serde_json::from_str(&run(&plane, what).await.stdout).unwrap();
        assert_eq!(shown.pointer(at), Some(&expected.into()), "{shown}");
    }
    assert_eq!(run(&plane, &["gateways"]).await.stdout, "no gateway has joined");
    let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
    gateway.takes(4).await;
    plane.until_state("g1", "in_force").await;
    let gateways = run(&plane, &["gateways", "edge"]).await.stdout;
    assert!(gateways.contains("g1       edge    in force  4       4"), "{gateways}");
    let followed = run(&plane, &["config", "remove", "edge"]).await;
    assert!(followed.code == 1 && followed.stderr.contains("1 gateways follow"), "{}", followed.stderr);
    let misused = run(&plane, &["config", "remove", "edge", "--now"]).await;
    assert!(misused.code == 1 && misused.stderr.contains("--now"), "{}", misused.stderr);
    let removed = run(&plane, &["config", "remove", "edge", "--force"]).await;
    let expected = "edge: removed with all of its versions; gateways keep what they have in force";
    assert_eq!((removed.code, removed.stdout.as_str()), (0, expected));
    let gone = run(&plane, &["config", "get", "edge"]).await;
    assert!(gone.code == 1 && gone.stderr.contains("there is no configuration"), "{}", gone.stderr);
}
