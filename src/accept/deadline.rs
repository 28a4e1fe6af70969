//! The moment by which a request must have come further. The proxy sets it; whatever its client's side waits for then
//! fails when it passes, which is the only way to interrupt Pingora while it waits for an upstream.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::Context,
    time::Instant,
};

use tokio::time::{Sleep, sleep_until};

/// Set and read in the task that serves the request, so a change needs to wake nobody: the same task looks again
/// before it waits.
pub struct Deadline {
    origin: Instant,
    /// Nanoseconds after `origin`; 0 is "none".
    at: AtomicU64,
}

impl Deadline {
    pub(super) fn new() -> Deadline {
        Deadline { origin: Instant::now(), at: AtomicU64::new(0) }
    }

    /// Waits for the client, to read from it or to write to it, fail from `at` on; `None` lets them wait.
    pub fn set(&self, at: Option<Instant>) {
        let nanoseconds = at.map_or(0, |at| at.saturating_duration_since(self.origin).as_nanos().max(1));
        self.at.store(u64::try_from(nanoseconds).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn at(&self) -> Option<Instant> {
        match self.at.load(Relaxed) {
            0 => None,
            nanoseconds => self.origin.checked_add(std::time::Duration::from_nanos(nanoseconds)),
        }
    }
}

/// Wakes a wait when its time is over. Made when it is first needed: most requests never wait for their client with a
/// deadline set.
#[derive(Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// True when `at` has passed; else `cx` is woken then.
    pub(super) fn is_over(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        let at = at.into();
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx).is_ready()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll, time::Duration};

    use super::*;

    #[test]
    fn keeps_the_moment_it_was_given_until_it_is_taken_back() {
        let deadline = Deadline::new();
        assert_eq!(deadline.at(), None);
        let at = deadline.origin + Duration::from_millis(1500);
        deadline.set(Some(at));
        assert_eq!(deadline.at(), Some(at));
        deadline.set(Some(deadline.origin));
        assert!(deadline.at().is_some_and(|at| at <= Instant::now()));
        deadline.set(None);
        assert_eq!(deadline.at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_follows_the_moment_it_is_asked_for() {
        let start = tokio::time::Instant::now().into_std();
        let mut timer = Timer::default();
        let soon = start + Duration::from_secs(1);
        poll_fn(|cx| if timer.is_over(soon, cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert!(tokio::time::Instant::now().into_std() >= soon);
        let later = start + Duration::from_secs(5);
        poll_fn(|cx| {
            assert!(!timer.is_over(later, cx), "moved to a later moment");
            Poll::Ready(())
        })
        .await;
    }
}
