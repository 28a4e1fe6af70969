//! Upgrades in place: the gateway starts its own successor and hands over to it, or serves on and says why.

use std::{fs, io::Write, os::unix::fs::symlink, process::Output};

use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::{Pid, mkfifo},
};

use crate::{
    service_manager::says,
    support::{
        Backend, Load, Process, get, send,
        service::{Service, ServiceBuilder, is_alive},
        tidegate, within_deadline,
    },
};

fn upgrade(service: &Service, args: &[&str]) -> (i32, String, String) {
    let mut command = tidegate(service.home());
    command.arg("upgrade").args(args);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Over the admin API.
async fn upgrade_by_api(service: &Service) -> (i32, String, String) {
    let admin = service.address("admin").to_string();
    upgrade(service, &["--admin", &admin])
}

/// Who serves now.
fn serving(said: &str) -> Pid {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let (_, rest) = said.split_once("process ").unwrap_or_else(|| panic!("no process in {said}"));
    Pid::from_raw(digits(rest).parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_in_place_loses_no_request_and_the_manager_follows_it() {
    let service = ServiceBuilder::new(&says("one", "")).managed().start().await;
    service.manager().expect("READY=1").await;
    let edge = service.address("edge");
    let load = Load::start(edge, "/", 8);
    load.wait_for_requests(50).await;

    service.process.signal(Signal::SIGUSR2);
    let main = service.manager().expect("MAINPID=").await;
    // From others than the main process it would not be believed: it comes after.
    service.manager().expect("READY=1").await;
    let second = Pid::from_raw(main.strip_prefix("MAINPID=").unwrap().parse().unwrap());
    assert_ne!(second, service.process.pid());
    within_deadline("the end of the first", async {
        while !service.process.has_ended() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    load.wait_for_requests(50).await;

    // And that one in turn, asked over the API that it has taken over.
    let (code, stdout, stderr) = upgrade_by_api(&service).await;
    assert_eq!(code, 0, "{stderr}");
    let third = serving(&stdout);
    let main = service.manager().expect("MAINPID=").await;
    assert_eq!(main, format!("MAINPID={third}"));
    service.manager().expect("READY=1").await;
    load.wait_for_requests(50).await;
    load.stop().await.assert_no_failures();
    assert_eq!(get(edge, "/").await.text(), "one");

    nix::sys::signal::kill(third, Signal::SIGTERM).unwrap();
    service.manager().expect("STOPPING=1").await;
    assert!(service.process.wait_exit().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_broken_missing_or_older_leaves_the_old_one_serving() {
    let service = ServiceBuilder::new(&says("one", "upgrade: {timeout: 1s}")).managed().start().await;
    service.manager().expect("READY=1").await;
    let edge = service.address("edge");
    let knows = "[ \"$1\" = --version ] && { echo tidegate 999.0.0; exit; }";
    let silent = format!("{knows}\nexec sleep 60");
    let fails = format!("{knows}\nexit 3");
    let mut failures = 0;
    for (script, why) in [
        (Some("exit 7"), "--version ended with exit status: 7"),
        (Some("echo nginx version: nginx/1.22.1"), "is no tidegate"),
        (Some("echo tidegate 0.0.1"), "older than"),
        (Some(fails.as_str()), "the successor ended with exit status: 3"),
        (Some(silent.as_str()), "raise `upgrade.timeout`"),
        (None, "cannot be started: No such file"),
    ] {
        service.replace_program(script);
        let (code, _, stderr) = upgrade_by_api(&service).await;
        assert_eq!(code, 5, "{why}: {stderr}");
        assert!(stderr.contains(why) && stderr.contains("serves on"), "{why}: {stderr}");
        failures += 1;
        service.wait_for("the upgrade failed", failures).await;
        assert_eq!(get(edge, "/").await.text(), "one", "{why}");
        assert!(!service.process.has_ended());
    }
    // Nothing of them is left, and one that is right is taken all the same.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", service.process.pid())).unwrap();
    let alive = |pid: &str| is_alive(Pid::from_raw(pid.parse().unwrap()));
    assert!(!children.split_whitespace().any(alive), "{children}");
    symlink(env!("CARGO_BIN_EXE_tidegate"), service.home().join("tidegate")).unwrap();
    assert_eq!(upgrade_by_api(&service).await.0, 0);
    service.manager().expect("MAINPID=").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_wrong_by_then_leaves_the_old_one_serving() {
    let service = ServiceBuilder::new(&says("one", "")).start().await;
    service.write_config("nonsense");
    let (code, _, stderr) = upgrade_by_api(&service).await;
    assert_eq!(code, 5);
    assert!(stderr.contains("ended with exit status: 3"), "{stderr}");
    assert!(service.process.stderr().contains("gateway.yaml:1:1"), "{}", service.process.stderr());
    assert_eq!(get(service.address("edge"), "/").await.text(), "one");
}

/// A successor that waits until it is let go: it reads a pipe as part of its configuration.
async fn waiting_successor() -> (Service, impl AsyncFn()) {
    let yaml = says("one", "include: [more.yaml]");
    let built = ServiceBuilder::new(&yaml);
    let more = built.home().join("more.yaml");
    fs::write(&more, "filters: {}\n").unwrap();
    let service = built.start().await;
    fs::remove_file(&more).unwrap();
    mkfifo(&more, Mode::S_IRWXU).unwrap();
    service.process.signal(Signal::SIGUSR2);
    service.process.wait_for_output("\"upgrading\"").await;
    let feed = async move || {
        let more = more.clone();
        let write = move || {
            // Whoever reads it again finds a file.
            let mut pipe = fs::OpenOptions::new().write(true).open(&more).unwrap();
            let file = more.with_extension("file");
            fs::write(&file, "filters: {}\n").unwrap();
            fs::rename(&file, &more).unwrap();
            pipe.write_all(b"filters: {}\n").unwrap();
        };
        within_deadline("a reader", tokio::task::spawn_blocking(write)).await.unwrap();
    };
    (service, feed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_upgrade_is_refused_while_one_runs() {
    let (service, feed) = waiting_successor().await;
    let (code, _, stderr) = upgrade_by_api(&service).await;
    assert_eq!(code, 5);
    assert!(stderr.contains("an upgrade is under way"), "{stderr}");
    service.process.signal(Signal::SIGUSR2);
    service.process.wait_for_output("the second one is not begun").await;
    feed().await;
    service.wait_for("\"ready\"", 2).await;
    assert_eq!(service.count("\"upgrading\""), 1);
    assert_eq!(get(service.address("edge"), "/").await.text(), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_ended_during_an_upgrade_ends_and_so_does_its_successor() {
    let (service, _feed) = waiting_successor().await;
    let pid = service.process.pid();
    let child = within_deadline("a successor", async {
        loop {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            // The question for its version comes first, and passes.
            let mut children = children.split_whitespace().filter(|child| {
                let args = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&args).contains("--upgrade")
            });
            if let Some(child) = children.next() {
                break Pid::from_raw(child.parse().unwrap());
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    service.process.signal(Signal::SIGTERM);
    assert_eq!(service.process.wait_exit().await.code(), Some(0));
    assert!(!is_alive(child));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pid_file_leads_to_the_gateway_that_serves_and_one_that_lies_to_nobody() {
    let service = ServiceBuilder::new(&says("one", "admin: false").replacen(
        "admin: {address: '127.0.0.1:0'}\n",
        "",
        1,
    ))
    .arg("--pid-file")
    .arg("tidegate.pid")
    .start()
    .await;
    let file = service.home().join("tidegate.pid");
    let first = service.process.pid();
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{first}\n"));
    let (code, stdout, stderr) = upgrade(&service, &["--pid-file", "tidegate.pid"]);
    assert_eq!(code, 0, "{stderr}");
    let second = serving(&stdout);
    assert_ne!(first, second);
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{second}\n"));

    // Somebody else, who would not survive the signal.
    let other = Backend::start().await;
    fs::write(&file, format!("{}\n", other.pid())).unwrap();
    let (code, _, stderr) = upgrade(&service, &["--pid-file", "tidegate.pid"]);
    assert!(
        code == 1 && stderr.contains(&format!("the process that holds it is {second}")),
        "{code} {stderr}"
    );
    let copied = service.home().join("left.pid");
    fs::write(&copied, format!("{}\n", other.pid())).unwrap();
    let (code, _, stderr) = upgrade(&service, &["--pid-file", "left.pid"]);
    assert!(code == 1 && stderr.contains("no gateway holds it"), "{code} {stderr}");
    get(other.address(), "/health").await.assert_status(200);
    assert_eq!(get(service.address("edge"), "/").await.text(), "one");

    nix::sys::signal::kill(second, Signal::SIGTERM).unwrap();
    assert!(service.process.wait_exit().await.success());
    assert!(!file.exists());
}

/// Scripts and old habits: the successor is started by hand, and the manager is told all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_by_hand_is_told_to_the_manager_too() {
    let service =
        ServiceBuilder::new(&says("one", "upgrade: {socket: upgrade.sock}")).managed().start().await;
    service.manager().expect("READY=1").await;
    let mut command = tidegate(service.home());
    command.args(["run", "--upgrade", "-c", "gateway.yaml"]);
    command.env("NOTIFY_SOCKET", service.home().join("notify.sock"));
    let next = Process::spawn(command);
    next.wait_for_output("waiting for hand-over").await;
    service.process.signal(Signal::SIGQUIT);
    assert_eq!(service.manager().expect("MAINPID=").await, format!("MAINPID={}", next.pid()));
    service.manager().expect("READY=1").await;
    assert!(service.process.wait_exit().await.success());
    send(service.address("admin"), "POST", "/drain", &[], "").await.assert_status(202);
    assert!(next.wait_exit().await.success());
}
