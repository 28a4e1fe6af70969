//! Wakes a wait when its time is over. Kept over many waits: one that ends later than the last was set for sets nothing,
//! and looks again when it is woken early. So most requests touch no timer at all.

use std::{future::Future, pin::Pin, task::Context, time::Instant};

use tokio::time::{Sleep, sleep_until};

#[derive(Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// True when `at` has passed; else `cx` is woken by then, and has to ask again.
    pub(crate) fn is_over(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        let at = at.into();
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if at < sleep.deadline() {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if tokio::time::Instant::now() >= at {
                return true;
            }
            sleep.as_mut().reset(at);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll, time::Duration};

    use super::*;

    async fn over(timer: &mut Timer, at: Instant) {
        poll_fn(|cx| if timer.is_over(at, cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert!(tokio::time::Instant::now().into_std() >= at);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_follows_the_moment_it_is_asked_for() {
        let start = tokio::time::Instant::now().into_std();
        let mut timer = Timer::default();
        over(&mut timer, start + Duration::from_secs(1)).await;
        let later = start + Duration::from_secs(5);
        poll_fn(|cx| {
            assert!(!timer.is_over(later, cx), "moved to a later moment");
            Poll::Ready(())
        })
        .await;
        over(&mut timer, start + Duration::from_secs(2)).await;
        over(&mut timer, later).await;
    }
}
