//! What a service manager hears of the gateway, and what its filters of system calls do to it.

use std::{os::unix::process::CommandExt, process::Command};

use nix::sys::signal::Signal;

use crate::support::{Process, get, service::ServiceBuilder, tidegate};

pub(crate) fn says(body: &str, more: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nlog: {{access: {{to: off}}}}\n{more}\n\
         listeners: [{{name: edge, address: '127.0.0.1:0'}}]\nroutes: [{{respond: {{body: {body}}}}}]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manager_hears_when_it_is_ready_reads_its_file_and_stops() {
    let yaml = says("one", "shutdown: {unready_for: 1s, grace: 20s}");
    let service = ServiceBuilder::new(&yaml).managed().start().await;
    let ready = service.manager().expect("READY=1").await;
    assert!(ready.contains("\nSTATUS=1 listener, 1 route, serving since "), "{ready}");

    service.write_config(&says("two", "shutdown: {unready_for: 0s, grace: 20s}"));
    service.process.signal(Signal::SIGHUP);
    let reloading = service.manager().expect("RELOADING=1").await;
    let micros = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    assert!((now.tv_sec - micros.parse::<i64>().unwrap() / 1_000_000).abs() < 20, "{micros}");
    let reloaded = service.manager().expect("READY=1").await;
    assert!(reloaded.contains("1 route, reloaded "), "{reloaded}");

    service.write_config("nonsense");
    service.process.signal(Signal::SIGHUP);
    service.manager().expect("RELOADING=1").await;
    // It serves, and says what is wrong.
    let rejected = service.manager().expect("READY=1").await;
    assert!(rejected.contains("1 route, a configuration was rejected "), "{rejected}");

    service.process.signal(Signal::SIGTERM);
    let stopping = service.manager().expect("STOPPING=1").await;
    assert!(stopping.contains("\nEXTEND_TIMEOUT_USEC=30000000\n"), "{stopping}");
    assert_eq!(service.process.wait_exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_hears_of_it_as_long_as_all_threads_turn() {
    let yaml = says("one", "threads: 3");
    let service = ServiceBuilder::new(&yaml).managed().environment("WATCHDOG_USEC", "300000").start().await;
    service.manager().expect("READY=1").await;
    for _ in 0..5 {
        assert_eq!(service.manager().next().await, "WATCHDOG=1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notify_socket_that_has_gone_costs_nothing() {
    let service = ServiceBuilder::new(&says("one", "")).managed().start().await;
    std::fs::remove_file(service.home().join("notify.sock")).unwrap();
    service.write_config(&says("two", ""));
    service.process.signal(Signal::SIGHUP);
    service.process.wait_for_output("configuration reloaded").await;
    service.process.wait_for_output("the service manager does not hear").await;
    assert_eq!(get(service.address("edge"), "/").await.text(), "two");
    service.process.signal(Signal::SIGUSR2);
    service.wait_for("\"ready\"", 2).await;
    assert_eq!(get(service.address("edge"), "/").await.text(), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notify_socket_that_is_none_is_said_and_costs_nothing() {
    let service =
        ServiceBuilder::new(&says("one", "")).environment("NOTIFY_SOCKET", "nonsense").start().await;
    service.process.wait_for_output("NOTIFY_SOCKET nonsense").await;
    assert_eq!(get(service.address("edge"), "/").await.text(), "one");
}

/// A filter as `SystemCallFilter=~@resources` makes it, which ends the process.
fn filtered(mut command: Command) -> Command {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let forbidden = [libc::SYS_sched_setattr, libc::SYS_setpriority, libc::SYS_sched_setscheduler];
    // The number of the call, compared with each that is forbidden.
    let mut steps = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for (at, call) in forbidden.iter().enumerate() {
        let to_the_end = (forbidden.len() - at) as u8;
        steps.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to_the_end, 0, *call as u32));
    }
    steps.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    steps.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
    let install = move || {
        let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
        // SAFETY: the kernel copies the steps, which live until the call returns.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
        };
        if installed { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: it makes system calls, and nothing else.
    unsafe { command.pre_exec(install) };
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_kills_for_scheduling_does_not_end_a_gateway_that_reloads() {
    let home = tempfile::TempDir::new().unwrap();
    let file = home.path().join("gateway.yaml");
    std::fs::write(&file, says("one", "")).unwrap();
    // The filter does what it says.
    let mut nice = Command::new("nice");
    nice.args(["-n", "1", "true"]);
    assert_eq!(Process::spawn(filtered(nice)).wait_exit().await.code(), None);
    let mut command = tidegate(home.path());
    command.args(["run", "-c"]).arg(&file);
    let gateway = Process::spawn(filtered(command));
    gateway.wait_for_output("\"ready\"").await;
    std::fs::write(&file, says("two", "")).unwrap();
    gateway.signal(Signal::SIGHUP);
    gateway.wait_for_output("configuration reloaded").await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
}
