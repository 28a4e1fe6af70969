//! Saying what happens with every request, but not with every request.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Sparse(Mutex<Said>);

#[derive(Default)]
struct Said {
    last: Option<Instant>,
    since: u64,
}

impl Sparse {
    /// Once a second: how many were passed over since the last that was said. `None` when this one is passed over too.
    pub fn say(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            said.since += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_once_a_second_and_says_how_many_it_passed_over() {
        let (sparse, start) = (Sparse::default(), Instant::now());
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let said = [0, 1, 999, 1000, 1001, 5000].map(|at| sparse.say(after(at)));
        assert_eq!(said, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
