//! The demo of the README, pasted as a whole, and `make run`: each on a machine of its own, since their ports are fixed.

use std::{
    fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::Path,
    process::Command,
};

use nix::sys::signal::{Signal, killpg};
use serde_json::Value;
use tempfile::TempDir;

use super::root;
use crate::support::{Process, skipped};

/// Whatever `mktemp` calls it.
const FOLDER: &str = "FOLDER";

#[test]
fn the_demo_of_the_readme_prints_what_the_readme_says() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, demo) = readme.split_once("## Sixty-second demo").unwrap();
    let mut blocks = demo.split("```\n").skip(1).step_by(2);
    let (script, printed) = (blocks.next().unwrap(), blocks.next().unwrap());
    // It is built.
    let script = script.strip_prefix("make build && ").unwrap();
    let script = script.replace("$PWD/target/debug", &built().display().to_string());

    if !apart().arg("true").output().is_ok_and(|output| output.status.success()) {
        return skipped("there are no namespaces of networks here");
    }
    let home = TempDir::new().unwrap();
    let mut shell = apart();
    shell.args(["bash", "-c", &format!("ip link set lo up; exec 2>&1; {script}")]);
    shell.current_dir(root()).env("no_proxy", "*");
    shell.env("XDG_RUNTIME_DIR", home.path()).env("TMPDIR", home.path());
    let ran = shell.output().unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(lines(&said), lines(printed), "{said}");
}

/// What `make run` has started, in a group of processes as a terminal makes one.
struct Group(Process);

impl Drop for Group {
    fn drop(&mut self) {
        // All of them hold its output open.
        let _ = killpg(self.0.pid(), Signal::SIGKILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_of_make_run_is_one_signal_and_a_clean_end() {
    if !apart().arg("true").output().is_ok_and(|output| output.status.success()) {
        return skipped("there are no namespaces of networks here");
    }
    let home = TempDir::new().unwrap();
    let place = |name: &str| home.path().join(name);
    for folder in ["conf", "target"] {
        fs::create_dir(place(folder)).unwrap();
    }
    for file in ["Makefile", "conf/gateway.yaml"] {
        fs::copy(root().join(file), place(file)).unwrap();
    }
    // It is built.
    symlink(built(), place("target/debug")).unwrap();
    let mut shell = apart();
    shell.args(["bash", "-c", "ip link set lo up; exec make run CARGO=true"]);
    shell.current_dir(home.path()).env("no_proxy", "*").env("XDG_RUNTIME_DIR", home.path());
    // Those of a `make test` around it.
    for name in ["MAKEFLAGS", "MAKELEVEL", "RUST_LOG"] {
        shell.env_remove(name);
    }
    shell.process_group(0);
    let group = Group(Process::spawn(shell));
    group.0.find("a gateway that is ready", |line| (message(line)? == "ready").then_some(())).await;
    group.0.wait_for_output("backend listening on 127.0.0.1:3002").await;
    group.0.wait_for_output("Stop everything: Ctrl-C").await;

    killpg(group.0.pid(), Signal::SIGINT).unwrap();
    group.0.wait_exit().await;
    let said = group.0.output();
    let ends = ["draining", "stopped", "stopped at once by a second signal"];
    let messages: Vec<String> = said.lines().filter_map(message).collect();
    let ends: Vec<&String> = messages.iter().filter(|message| ends.contains(&message.as_str())).collect();
    assert_eq!(ends, ["draining", "stopped"], "{said}");
}

/// Of a line that is the gateway's.
fn message(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    Some(line["msg"].as_str()?.to_owned())
}

/// Where the gateway is.
fn built() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap()
}

/// In a network of its own.
fn apart() -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--net");
    command
}

/// Which of two backends is up, or answers, first is open.
fn lines(text: &str) -> Vec<String> {
    let plain = |line: &str| match line.split_once("/gateway.yaml:") {
        Some((_, rest)) => format!("{FOLDER}/gateway.yaml:{rest}"),
        None => line.trim().to_owned(),
    };
    let mut lines: Vec<String> = text.lines().map(plain).filter(|line| !line.is_empty()).collect();
    lines.sort();
    lines
}
