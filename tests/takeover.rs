//! Who serves while one gateway takes over from another, and what both hear meanwhile: signals, and changed files.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use tempfile::TempDir;

use crate::support::{
    Gateway, Process, RawConnection, ScriptedUpstream, Step, get, send, tidegate, within_deadline,
};

const HEAD: &str = "admin: false\nlog: {access: {to: off}}\n";

/// A gateway that says `body`; others have `patience` to be ready.
fn says(body: &str, patience: &str) -> String {
    format!(
        "{HEAD}upgrade: {{socket: upgrade.sock, timeout: {patience}}}\n\
         listeners: [{{name: edge, address: '127.0.0.1:0'}}]\nroutes: [{{respond: {{body: {body}}}}}]\n"
    )
}

/// With an upstream whose health is not known for a second, so that it takes that long to be ready.
async fn slow(body: &str, patience: &str) -> (String, ScriptedUpstream) {
    let silent = ScriptedUpstream::start(vec![Step::Stall]).await;
    let check = "health_check: {http: {path: /}, timeout: 30s}";
    let upstream = format!("upstreams: {{silent: {{endpoints: ['{}'], {check}}}}}\n", silent.address());
    let route = "routes: [{match: {path: /silent}, upstream: silent}, ";
    (says(body, patience).replace("routes: [", route) + &upstream, silent)
}

/// `run --upgrade` with a file of its own beside the gateway's, once it waits.
async fn successor(gateway: &Gateway, yaml: &str) -> (Process, PathBuf) {
    let file = gateway.directory().join("successor.yaml");
    fs::write(&file, yaml).unwrap();
    let mut command = tidegate(gateway.directory());
    command.args(["run", "--upgrade", "-c"]).arg(&file);
    let process = Process::spawn(command);
    process.wait_for_output("waiting for hand-over").await;
    (process, file)
}

/// Until this is true.
async fn until(what: &str, is_true: impl Fn() -> bool) {
    within_deadline(what, async {
        while !is_true() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_is_ready_too_late_never_serves() {
    let gateway = Gateway::start(&says("old", "100ms")).await;
    let (yaml, _silent) = slow("new", "50s").await;
    let (late, _) = successor(&gateway, &yaml).await;
    gateway.signal(Signal::SIGQUIT);
    assert_eq!(late.wait_exit().await.code(), Some(5));
    assert!(late.stderr().contains("it serves on") && late.stderr().contains("`upgrade.timeout`"));
    assert!(!late.output().contains("\"listening\""), "{}", late.output());
    gateway.wait_for_line(|line| line["level"] == "error").await;
    for _ in 0..20 {
        assert_eq!(get(gateway.address("edge"), "/").await.text(), "old");
    }
}

/// A script that does not wait for long enough before it ends the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_ended_while_its_successor_gets_ready_leaves_the_listeners_to_it() {
    let gateway = Gateway::start(&says("old", "50s")).await;
    let edge = gateway.address("edge");
    let (yaml, _silent) = slow("new", "50s").await;
    let (next, _) = successor(&gateway, &yaml).await;
    gateway.signal(Signal::SIGQUIT);
    // It holds them now.
    until("the sockets are given", || !gateway.directory().join("upgrade.sock").exists()).await;
    gateway.signal(Signal::SIGTERM);
    gateway.wait_for_message("draining").await;
    let mut waits = RawConnection::open(edge);
    waits.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(waits.read_response().text(), "new");
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    next.signal(Signal::SIGTERM);
    assert_eq!(next.wait_exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_while_a_successor_waits_is_not_undone_by_it() {
    let gateway = Gateway::start(&says("one", "50s")).await;
    let (next, file) = successor(&gateway, &says("one", "50s")).await;
    fs::write(file, says("two", "50s")).unwrap();
    assert_eq!(gateway.reload(&says("two", "50s")).await["msg"], "configuration reloaded");
    gateway.signal(Signal::SIGQUIT);
    next.wait_for_output("\"ready\"").await;
    assert!(gateway.wait_exit().await.success());
    assert_eq!(get(gateway.address("edge"), "/").await.text(), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_whose_file_has_become_wrong_leaves_everything_as_it_is() {
    let gateway = Gateway::start(&says("old", "50s")).await;
    let (next, file) = successor(&gateway, &says("new", "50s")).await;
    fs::write(file, "nonsense").unwrap();
    next.signal(Signal::SIGHUP);
    next.wait_for_output("configuration rejected").await;
    gateway.signal(Signal::SIGQUIT);
    assert_eq!(next.wait_exit().await.code(), Some(3));
    gateway.wait_for_line(|line| line["msg"].as_str().is_some_and(|msg| msg.ends_with("serving on"))).await;
    assert_eq!(get(gateway.address("edge"), "/").await.text(), "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_waits_hears_signals_and_ends_when_it_is_told_to() {
    let gateway = Gateway::start(&says("old", "50s")).await;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let (next, _) = successor(&gateway, &says("new", "50s")).await;
        next.signal(Signal::SIGUSR1);
        next.signal(Signal::SIGHUP);
        next.wait_for_output("configuration read again").await;
        next.signal(signal);
        assert_eq!(next.wait_exit().await.code(), Some(0), "{signal}");
        next.wait_for_output(&format!("\"why\":\"{signal}\"")).await;
        assert!(!gateway.directory().join("upgrade.sock").exists(), "{signal}");
    }
    assert_eq!(get(gateway.address("edge"), "/").await.text(), "old");
}

/// A pipe in the place of a file: what reads it waits until it is fed, and then has this.
struct Pipe(PathBuf);

impl Pipe {
    fn at(path: PathBuf) -> Pipe {
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        Pipe(path)
    }

    /// Resolves when somebody reads it.
    async fn reader(&self) -> fs::File {
        let path = self.0.clone();
        let open = move || fs::OpenOptions::new().write(true).open(path).unwrap();
        within_deadline("a reader", tokio::task::spawn_blocking(open)).await.unwrap()
    }

    async fn feed(&self, text: &str) {
        self.reader().await.write_all(text.as_bytes()).unwrap();
    }
}

/// Whether the process has a handler for this signal.
fn hears(process: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_starts_hears_signals_before_it_reads_its_file() {
    let home = TempDir::new().unwrap();
    let pipe = Pipe::at(home.path().join("gateway.yaml"));
    let mut command = tidegate(home.path());
    command.args(["run", "-c"]).arg(&pipe.0);
    let gateway = Process::spawn(command);
    let signals = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGINT];
    until("handlers", || signals.iter().all(|signal| hears(gateway.pid(), *signal))).await;
    gateway.signal(Signal::SIGUSR1);
    gateway.signal(Signal::SIGHUP);
    pipe.feed(&says("one", "50s")).await;
    gateway.wait_for_output("\"ready\"").await;
    // What it was told meanwhile is done now.
    pipe.feed(&says("two", "50s")).await;
    gateway.wait_for_output("configuration reloaded").await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_a_gateway_starts_is_seen_by_its_watch() {
    let home = TempDir::new().unwrap();
    let write = |body: &str| {
        let yaml = says(body, "50s") + "watch: true\ninclude: [slow.yaml]\n";
        fs::write(home.path().join("gateway.yaml"), yaml).unwrap();
    };
    write("one");
    let pipe = Pipe::at(home.path().join("slow.yaml"));
    let mut command = tidegate(home.path());
    command.args(["run", "-c", "gateway.yaml"]);
    let gateway = Process::spawn(command);
    // It has read what includes the pipe, and does not watch yet.
    let mut reader = pipe.reader().await;
    write("two");
    reader.write_all(b"filters: {}\n").unwrap();
    drop(reader);
    gateway.wait_for_output("\"listening\"").await;
    pipe.feed("filters: {}\n").await;
    gateway.wait_for_output("configuration reloaded").await;
}

/// Runs as PID 1 of a namespace of its own, behind a shell that leaves it a child of somebody else's.
fn as_init(home: &Path, orphan: &str, args: &[&str]) -> Option<Process> {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--pid", "--fork", "--kill-child", "true"]);
    if !command.output().is_ok_and(|output| output.status.success()) {
        crate::support::skipped("there are no namespaces of processes here");
        return None;
    }
    let built = tidegate(home);
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--pid", "--fork", "--kill-child", "sh", "-c"]);
    command.arg(format!("({orphan} &); exec \"$0\" \"$@\"")).arg(built.get_program()).args(args);
    command.env_clear().current_dir(home);
    command.envs(built.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(Process::spawn(command))
}

fn children(process: Pid) -> Vec<Pid> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let children = children.unwrap_or_default();
    children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_process_of_a_container_buries_the_dead_and_hears_signals() {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("gateway.yaml"), says("hi", "50s")).unwrap();
    let pipe = Pipe::at(home.path().join("pipe"));
    let Some(gateway) =
        as_init(home.path(), "cat pipe >/dev/null", &["run", "--upgrade", "-c", "gateway.yaml"])
    else {
        return;
    };
    gateway.wait_for_output("waiting for hand-over").await;
    let init = children(gateway.pid())[0];
    assert_eq!(children(init).len(), 1, "the orphan");
    pipe.feed("the end\n").await;
    until("nobody is a zombie", || children(init).is_empty()).await;
    for signal in [Signal::SIGHUP, Signal::SIGTERM] {
        kill(init, signal).unwrap();
    }
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    assert!(gateway.output().contains("\"stopped\""), "{}", gateway.output());
}

/// The progress that was read is the last that was written: no other gateway judges any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_canary_while_the_successor_gets_ready_is_not_lost() {
    let silent = ScriptedUpstream::start(vec![Step::Stall]).await;
    let yaml = format!(
        "admin: {{address: '127.0.0.1:0'}}\nstate_dir: state\nupgrade: {{socket: upgrade.sock, timeout: 50s}}\n\
         listeners: [{{name: edge, address: '127.0.0.1:0'}}]\n\
         routes: [{{name: r, canary: {{stable: stable, candidate: candidate}}}}]\n\
         upstreams:\n  stable: {{endpoints: ['{0}'], health_check: {{http: {{path: /}}, timeout: 30s}}}}\n\
         \x20 candidate: {{endpoints: ['{0}']}}\n",
        silent.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let admin = gateway.admin();
    let (next, _) = successor(&gateway, &yaml).await;
    gateway.signal(Signal::SIGQUIT);
    until("the sockets are given", || !gateway.directory().join("upgrade.sock").exists()).await;
    send(admin, "POST", "/canaries/r/pause", &[], "").await.assert_status(200);
    next.wait_for_output("\"ready\"").await;
    assert!(next.output().contains("canary goes on"), "{}", next.output());
    assert!(gateway.wait_exit().await.success());
    let canaries = get(admin, "/canaries").await;
    assert!(canaries.text().contains("paused"), "{}", canaries.text());
}
