//! Processes that this one has started and waits for by itself. As PID 1 it also buries those of others, and must not take the answer
//! from whoever waits for one of ours.

use std::{
    collections::BTreeSet,
    fs, io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, WaitOptions, wait, waitpid};

static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// It is waited for by somebody else for as long as this lives.
pub(crate) struct Own(Option<i32>);

/// Start one; `id` is its number, if it still has one.
pub(crate) fn start<T>(
    start: impl FnOnce() -> io::Result<T>,
    id: impl FnOnce(&T) -> Option<u32>,
) -> io::Result<(T, Own)> {
    // Held meanwhile: it may have ended before its number is known.
    let mut own = own();
    let started = start()?;
    let id = id(&started).and_then(|id| i32::try_from(id).ok());
    own.extend(id);
    Ok((started, Own(id)))
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            own().remove(&id);
        }
    }
}

/// Bury all that have ended and are nobody's.
pub(crate) fn bury() {
    let own = own();
    if own.is_empty() {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        return;
    }
    for id in children().into_iter().filter(|id| !own.contains(id)) {
        // It may still run.
        let _ = waitpid(Pid::from_raw(id), WaitOptions::NOHANG);
    }
}

fn own() -> MutexGuard<'static, BTreeSet<i32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of all threads; those who have lost their parent are among the first one's.
fn children() -> Vec<i32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_of_ours_is_known_for_as_long_as_it_is_waited_for() {
        let started = start(|| Command::new("sh").args(["-c", "exit 7"]).spawn(), |child| Some(child.id()));
        let (mut child, own) = started.unwrap();
        let id = i32::try_from(child.id()).unwrap();
        assert!(children().contains(&id));
        assert!(super::own().contains(&id), "so it is not buried");
        assert_eq!(child.wait().unwrap().code(), Some(7));
        drop(own);
        assert!(!super::own().contains(&id));
    }
}
