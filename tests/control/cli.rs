//! `tidegate control` and `tidegate services`.

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::Plane;
use crate::support::{Backend, Process, get, tidegate, within_deadline};

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn services(plane: &Plane, args: &[&str]) -> std::process::Command {
    let at = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
    let mut command = tidegate(plane.gateway.directory());
    command
        .arg("services")
        .args(&args[..at])
        .args(["--server", &plane.address().to_string()])
        .args(&args[at..]);
    command
}

async fn run(plane: &Plane, args: &[&str]) -> Ran {
    let process = Process::spawn(services(plane, args));
    let code = process.wait_exit().await.code().unwrap();
    Ran { code, stdout: process.output(), stderr: process.stderr() }
}

#[tokio::test]
async fn shows_who_is_registered_and_removes_them() {
    let plane = Plane::start().await;
    assert_eq!(run(&plane, &[]).await.stdout, "nobody is registered");
    plane.register("users", 1).await;
    plane.register("carts", 2).await;
    let all = run(&plane, &[]).await;
    assert!(all.stdout.starts_with("SERVICE  ID"), "{}", all.stdout);
    assert!(all.stdout.contains("users    users-127.0.0.1-1  127.0.0.1:1  healthy"), "{}", all.stdout);
    assert!(!run(&plane, &["users"]).await.stdout.contains("carts"));
    let json: serde_json::Value =
        serde_json::from_str(&run(&plane, &["carts", "--json"]).await.stdout).unwrap();
    assert_eq!(json[0]["id"], "carts-127.0.0.1-2");

    let removed = run(&plane, &["remove", "users-127.0.0.1-1"]).await;
    assert_eq!((removed.code, removed.stdout.as_str()), (0, "removed: users-127.0.0.1-1"));
    let again = run(&plane, &["remove", "users-127.0.0.1-1"]).await;
    assert!(again.code == 1 && again.stderr.contains("there is no instance"), "{}", again.stderr);
    let wrong = run(&plane, &["Users"]).await;
    assert!(wrong.code == 1 && wrong.stderr.contains("is not the name of a service"), "{}", wrong.stderr);
}

#[tokio::test]
async fn follows_what_changes() {
    let plane = Plane::start().await;
    plane.register("users", 1).await;
    let watch = Process::spawn(services(&plane, &["--watch"]));
    watch.wait_for_output("is           healthy  users users-127.0.0.1-1").await;
    plane.register("users", 2).await;
    watch.wait_for_output("registered   healthy  users users-127.0.0.1-2").await;
    plane.ask("DELETE", "/v1/services/users-127.0.0.1-1", "").await.assert_status(204);
    watch.wait_for_output("deregistered healthy  users users-127.0.0.1-1").await;
}

#[tokio::test]
async fn registers_for_as_long_as_a_command_runs() {
    let plane = Plane::start().await;
    let args =
        ["register", "users", "127.0.0.1:9", "--tag", "v2", "--meta", "region=eu", "--ttl", "1s", "--"];
    let script = "read -r _ < stop; exit 7";
    nix::unistd::mkfifo(&plane.gateway.directory().join("stop"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let args: Vec<&str> = args.into_iter().chain(["sh", "-c", script]).collect();
    let process = Process::spawn(services(&plane, &args));
    plane.wait_for("users-127.0.0.1-9", Some("healthy")).await;
    let one = plane.ask("GET", "/v1/services/users-127.0.0.1-9", "").await.json();
    assert_eq!((&one["tags"][0], &one["metadata"]["region"]), (&"v2".into(), &"eu".into()));
    // It is renewed, over some TTLs; and comes back where it was forgotten.
    plane.ask("DELETE", "/v1/services/users-127.0.0.1-9", "").await.assert_status(204);
    plane.wait_for("users-127.0.0.1-9", Some("healthy")).await;
    std::fs::write(plane.gateway.directory().join("stop"), "\n").unwrap();
    assert_eq!(process.wait_exit().await.code(), Some(7));
    assert!(plane.list("").await.is_empty());
}

#[tokio::test]
async fn told_to_end_it_deregisters_before_the_command_ends() {
    let plane = Plane::start().await;
    let script = "trap 'exit 3' TERM; while :; do sleep 0.05; done";
    let args = ["register", "users", "127.0.0.1:9", "--linger", "100ms", "--", "sh", "-c", script];
    let process = Process::spawn(services(&plane, &args));
    // The control plane knows of it a moment before the command does.
    let says = |line: &str| line.starts_with("registered users-127.0.0.1-9").then_some(());
    process.find("that it is registered", says).await;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait_exit().await.code(), Some(3));
    assert!(plane.list("").await.is_empty());
    assert!(process.stderr().contains("deregistered users-127.0.0.1-9"), "{}", process.stderr());
}

#[tokio::test]
async fn a_check_says_how_it_is() {
    let (plane, backend) = (Plane::start().await, Backend::start().await);
    let address = backend.address();
    let check = format!("http://{address}/");
    let id = format!("users-{}-{}", address.ip(), address.port());
    let args = ["register", "users", &address.to_string(), "--ttl", "1s", "--check", &check];
    let process = Process::spawn(services(&plane, &args));
    plane.wait_for(&id, Some("healthy")).await;
    backend.kill().await;
    plane.wait_for(&id, Some("critical")).await;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait_exit().await.code(), Some(0));
}

#[tokio::test]
async fn what_is_refused_ends_it_and_what_is_away_does_not() {
    let plane = Plane::start().await;
    let refused = run(&plane, &["register", "Us ers", "127.0.0.1:9"]).await;
    assert!(
        refused.code == 1 && refused.stderr.contains("is not the name of a service"),
        "{}",
        refused.stderr
    );
    // Nobody listens on port 1, and the command runs all the same.
    let mut command = tidegate(plane.gateway.directory());
    command.args([
        "services",
        "register",
        "users",
        "127.0.0.1:9",
        "--server",
        "127.0.0.1:1",
        "--",
        "sh",
        "-c",
        "exit 4",
    ]);
    assert_eq!(Process::spawn(command).wait_exit().await.code(), Some(4));
}

#[tokio::test]
async fn a_control_plane_needs_no_file_on_loopback() {
    let home = TempDir::new().unwrap();
    let mut command = tidegate(home.path());
    command.args(["control", "--listen", "127.0.0.1:0", "--state-dir", "state"]);
    let process = Process::spawn(command);
    process.wait_for_output("\"ready\"").await;
    let output = process.output();
    let listening = output.lines().find(|line| line.contains("\"listening\"")).unwrap();
    let listening: serde_json::Value = serde_json::from_str(listening).unwrap();
    assert_eq!(listening["listener"], "control");
    let address = listening["address"].as_str().unwrap().parse().unwrap();
    get(address, "/readyz").await.assert_status(200);
    process.signal(Signal::SIGTERM);
    assert!(within_deadline("its end", process.wait_exit()).await.success());
    assert!(home.path().join("state/registry.json").exists());

    let run = async |args: &[&str]| {
        let mut command = tidegate(home.path());
        command.args(args);
        let process = Process::spawn(command);
        (process.wait_exit().await.code(), process.stderr())
    };
    let (code, stderr) = run(&["control", "--listen", ":0"]).await;
    assert!(code == Some(3) && stderr.contains("is not a loopback address"), "{code:?} {stderr}");
    std::fs::write(home.path().join("gateway.yaml"), "listeners: [{address: '127.0.0.1:0'}]\n").unwrap();
    let (code, stderr) = run(&["control", "-c", "gateway.yaml"]).await;
    assert!(code == Some(3) && stderr.contains("add `control: {serve: {}}`"), "{code:?} {stderr}");
}
