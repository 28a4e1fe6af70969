//! A sliding window over count-min sketches (pingora-limits): all keys share one table, so its memory is what it is,
//! however many keys there are. A key may be taken for busier than it is, never for less busy.
//!
//! The count of the last period is weighed by how much of it the window still covers. `pingora_limits::rate::Rate`
//! does the same, but reads the clock itself, and two threads that meet at the end of its interval can clear what was
//! counted: the one whose clock is older goes back to before the interval began. Here `now` is passed in, and only
//! ever goes forward.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use pingora_limits::estimator::Estimator;

use crate::policy::bucket::Decision;

pub(crate) struct Window {
    count: u64,
    /// Nanoseconds.
    period: u64,
    /// That of an even period and that of an odd one: the current and the last.
    sketches: [Estimator; 2],
    /// The number of the current period.
    current: AtomicU64,
    turning: Mutex<()>,
}

/// A key is overestimated only where it meets busy ones in each of so many rows.
const ROWS: usize = 4;

impl Window {
    /// `count` in each `period`, told apart well for about `max_keys` keys: 64 bytes for each.
    pub(crate) fn new(count: u64, period: Duration, max_keys: usize) -> Window {
        let sketch = || Estimator::new(ROWS, max_keys.max(16));
        Window {
            count,
            period: u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1),
            sketches: [sketch(), sketch()],
            current: AtomicU64::new(0),
            turning: Mutex::default(),
        }
    }

    /// `now` in nanoseconds since an origin.
    pub(crate) fn decide(&self, key: u64, now: u64) -> Decision {
        let period = self.turn(now / self.period);
        let into = now.saturating_sub(period.saturating_mul(self.period)) as f64 / self.period as f64;
        let (current, last) = (self.sketch(period), self.sketch(period + 1));
        // Counted first and taken back, so that no two requests both see the last place free.
        let counted = current.incr(key, 1).max(1) as f64;
        let last = last.get(key).max(0) as f64;
        let estimate = last * (1.0 - into) + counted;
        let count = self.count as f64;
        if estimate <= count {
            return Decision {
                allowed: true,
                remaining: (count - estimate) as u64,
                retry_after: Duration::ZERO,
                reset_after: self.periods(2.0 - into),
            };
        }
        current.decr(key, 1);
        let before = counted - 1.0;
        // When enough of the last period has left the window; or, where that does not help, of this one.
        let until = match before + 1.0 <= count {
            true => 1.0 - (count - before - 1.0) / last,
            false => 1.0 + 1.0 - (count - 1.0) / before,
        };
        Decision {
            allowed: false,
            remaining: 0,
            retry_after: self.periods((until - into).max(0.0)),
            reset_after: self.periods(2.0 - into),
        }
    }

    fn periods(&self, periods: f64) -> Duration {
        Duration::from_nanos((periods * self.period as f64) as u64)
    }

    fn sketch(&self, period: u64) -> &Estimator {
        &self.sketches[(period % 2) as usize]
    }

    /// Brings the sketches to `period`, unless they are there or beyond already; returns where they are.
    fn turn(&self, period: u64) -> u64 {
        let current = self.current.load(Ordering::Acquire);
        if period <= current {
            return current;
        }
        let _turn = self.turning.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load(Ordering::Acquire);
        if period <= current {
            return current;
        }
        self.sketch(period).reset();
        if period > current + 1 {
            self.sketch(period + 1).reset();
        }
        self.current.store(period, Ordering::Release);
        period
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicU64, thread};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn window(count: u64) -> Window {
        Window::new(count, Duration::from_secs(1), 1000)
    }

    fn allowed(window: &Window, key: u64, now: u64, tries: usize) -> usize {
        (0..tries).filter(|_| window.decide(key, now).allowed).count()
    }

    #[test]
    fn weighs_the_last_period_by_what_is_left_of_it() {
        let window = window(100);
        assert_eq!(allowed(&window, 1, 0, 200), 100);
        assert_eq!(allowed(&window, 1, SECOND, 200), 0);
        assert_eq!(allowed(&window, 1, SECOND + SECOND / 4, 200), 25);
        assert_eq!(allowed(&window, 1, SECOND + SECOND / 2, 200), 25);
        assert_eq!(allowed(&window, 2, SECOND + SECOND / 2, 200), 100);
    }

    #[test]
    fn forgets_after_two_periods() {
        let window = window(10);
        assert_eq!(allowed(&window, 1, 0, 20), 10);
        assert_eq!(allowed(&window, 1, 7 * SECOND, 20), 10);
        assert_eq!(allowed(&window, 1, 1000 * SECOND, 20), 10);
    }

    #[test]
    fn who_comes_back_when_told_is_allowed() {
        let window = window(10);
        let mut now = 0;
        for _ in 0..200 {
            match window.decide(1, now) {
                Decision { allowed: true, remaining, .. } => assert!(remaining < 10),
                denied => {
                    // One nanosecond for the rounding.
                    now += denied.retry_after.as_nanos() as u64 + 1;
                    assert!(window.decide(1, now).allowed, "at {now}");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_is_behind_does_not_clear_what_was_counted() {
        let window = window(10);
        assert_eq!(allowed(&window, 1, 5 * SECOND, 20), 10);
        assert_eq!(allowed(&window, 1, 4 * SECOND, 20), 0);
        assert_eq!(allowed(&window, 1, 5 * SECOND + 1, 20), 0);
    }

    #[test]
    fn many_clients_are_told_apart_and_get_no_more_than_allowed() {
        let (window, clock) = (Window::new(10, Duration::from_secs(1), 10_000), AtomicU64::new(0));
        let allowed: usize = thread::scope(|scope| {
            let client = |key| {
                let (window, clock) = (&window, &clock);
                scope.spawn(move || {
                    let nows = std::iter::repeat_with(|| clock.fetch_add(SECOND / 10_000, Ordering::Relaxed));
                    nows.take_while(|now| *now < 5 * SECOND)
                        .filter(|now| window.decide(key, *now).allowed)
                        .count()
                })
            };
            let clients: Vec<_> = (0..8).map(client).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        assert!(allowed <= 8 * 10 * 6, "{allowed}");
    }
}
