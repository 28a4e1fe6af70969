//! Work that takes its time, on a thread that gives way to those that serve: on a machine without a core to spare,
//! compiling 10,000 routes would else hold requests up for whole time slices.

use std::sync::LazyLock;

/// Run `work` on a thread of its own and wait for it. `None` when it panicked, which is in the log.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, result) = tokio::sync::oneshot::channel();
    let started = std::thread::Builder::new().name("reload".into()).spawn(move || {
        give_way();
        // Whoever asked may have gone.
        let _ = sender.send(work());
    });
    started.ok()?;
    result.await.ok()
}

/// A tenth of a share where others want the core, and that in slices so short that a request which wakes up waits for
/// a tenth of a millisecond at most. Lower still (`SCHED_IDLE`), and a busy machine would never finish a reload.
/// Where this cannot be set, the work is done all the same.
pub(crate) fn give_way() {
    if *IS_SURVIVED {
        ask_for_less();
    }
}

fn ask_for_less() {
    const NICER: i32 = 10;
    #[cfg(target_os = "linux")]
    if short_slices(NICER).is_ok() {
        return;
    }
    let _ = rustix::process::nice(NICER);
}

/// Whether asking the kernel for less is survived: a filter of system calls (`SystemCallFilter=~@resources`) may end the
/// process for it, and nothing tells beforehand but trying.
static IS_SURVIVED: LazyLock<bool> = LazyLock::new(|| !is_filtered() || in_a_child(ask_for_less));

/// Find that out, while this process has one thread and no children.
pub(super) fn try_to_give_way() {
    LazyLock::force(&IS_SURVIVED);
}

/// Whether there is a filter at all (proc(5)).
fn is_filtered() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// Whether a process that does `attempt` comes to its end.
fn in_a_child(attempt: impl FnOnce()) -> bool {
    // SAFETY: the child does nothing but make system calls, and ends without running what this process would at its end.
    match unsafe { libc::fork() } {
        0 => {
            // A filter that kills is no crash that anybody should look at.
            let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
            attempt();
            // SAFETY: it ends the child at once.
            unsafe { libc::_exit(0) }
        }
        child => {
            let child = rustix::process::Pid::from_raw(child);
            let waited = rustix::process::waitpid(child, rustix::process::WaitOptions::empty());
            child.is_some() && matches!(waited, Ok(Some((_, status))) if status.exit_status() == Some(0))
        }
    }
}

/// `sched_setattr(2)` on this thread: `nicer` than it was, and slices of 0.1 ms, the shortest there are, which
/// kernels honour for ordinary threads from 6.12 on.
#[cfg(target_os = "linux")]
fn short_slices(nicer: i32) -> std::io::Result<()> {
    const SLICE_NS: u64 = 100_000;
    let nice = rustix::process::nice(0)? + nicer;
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: nice.min(19),
        sched_priority: 0,
        sched_runtime: SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of a structure that lives until the call returns, and 0 is this thread.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0_u32) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_is_killed_or_fails_says_no() {
        assert!(in_a_child(|| {}));
        // SAFETY: in the child alone, and it comes to nothing more.
        assert!(!in_a_child(|| unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
        }));
        assert!(!in_a_child(|| unsafe { libc::_exit(1) }));
        assert!(in_a_child(ask_for_less), "where there is no filter");
    }
}
