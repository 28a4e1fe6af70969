//! The demo of the README, pasted as a whole on a machine of its own: its ports are fixed.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::root;
use crate::support::skipped;

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
    let built = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap().display().to_string();
    let script = script.replace("$PWD/target/debug", &built);

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
