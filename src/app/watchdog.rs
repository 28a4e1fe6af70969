//! The service manager's watchdog: it hears from this process only as long as each thread that serves connections still turns.
//! One that hangs takes its connections with it, and only a new process brings them back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use super::{notify::Notify, threads::Threads};

/// The manager is told this many times within its patience.
const TIMES: u32 = 3;

/// Told from now on, where the manager asks for it.
pub(super) fn watch(notify: &Notify, threads: &Threads) {
    let Some(patience) = patience() else { return };
    if !notify.is_asked_for() {
        return;
    }
    let threads = threads.others().chain([threads.first().clone()]).collect();
    let notify = notify.clone();
    start(threads, patience / TIMES, move || notify.is_alive());
}

/// How long the manager waits for a word. Where another process is named, it is not for this one.
fn patience() -> Option<Duration> {
    let read = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if read("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    read("WATCHDOG_USEC").filter(|micros| *micros > 0).map(Duration::from_micros)
}

/// Calls `tell` every `pause`, on the last of `threads`, if all of them have turned since.
fn start(threads: Vec<Handle>, pause: Duration, tell: impl Fn() + Send + 'static) {
    let Some(last) = threads.last() else { return };
    let mut turns = Turns::default();
    for thread in &threads {
        let count = turns.counter();
        thread.spawn(async move {
            loop {
                count.fetch_add(1, Relaxed);
                // Often enough that one turn late is not none.
                tokio::time::sleep(pause / 3).await;
            }
        });
    }
    last.spawn(async move {
        loop {
            if turns.have_all_come() {
                tell();
            }
            tokio::time::sleep(pause).await;
        }
    });
}

/// How often each thread has turned, now and when it was last looked at.
#[derive(Default)]
struct Turns(Vec<(Arc<AtomicU64>, u64)>);

impl Turns {
    fn counter(&mut self) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(0));
        self.0.push((count.clone(), 0));
        count
    }

    /// Whether each has turned since this was last asked.
    fn have_all_come(&mut self) -> bool {
        let mut all = true;
        for (count, before) in &mut self.0 {
            let now = count.load(Relaxed);
            all &= now != *before;
            *before = now;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_hangs_silences_it_until_it_goes_on() {
        let mut turns = Turns::default();
        let (first, second) = (turns.counter(), turns.counter());
        assert!(!turns.have_all_come(), "none has begun");
        let turn = |count: &std::sync::Arc<AtomicU64>| _ = count.fetch_add(1, Relaxed);
        turn(&first);
        turn(&second);
        assert!(turns.have_all_come());
        turn(&first);
        assert!(!turns.have_all_come(), "the second hangs");
        turn(&first);
        assert!(!turns.have_all_come(), "it hangs still");
        turn(&first);
        turn(&second);
        assert!(turns.have_all_come());
    }
}
