//! An instance that turns from healthy to critical and back, again and again, is shown as critical until it has been
//! still for a while: each turn costs every gateway an update. Unless most of its service does so. Then the cause is
//! something they share, and taking all of them out would leave nobody: they are shown as healthy.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// More turns than this within the window is flapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flapping {
    pub turns: usize,
    pub window: Duration,
}

/// The last turns of one instance.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    last: VecDeque<Instant>,
    is_flapping: bool,
}

/// How flapping instances of a service are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Critical,
    Healthy,
}

impl Turns {
    /// It turned.
    pub fn turned(&mut self, now: Instant, rule: Flapping) {
        self.last.push_back(now);
        // No more than are needed to tell.
        while self.last.len() > rule.turns + 1 {
            self.last.pop_front();
        }
        let is_quick =
            self.last.front().is_some_and(|first| now.saturating_duration_since(*first) <= rule.window);
        self.is_flapping |= self.last.len() > rule.turns && is_quick;
    }

    /// Whether it flaps; no longer once it has been still for a window.
    pub fn is_flapping(&mut self, now: Instant, rule: Flapping) -> bool {
        let last = self.last.back();
        if last.is_none_or(|last| now.saturating_duration_since(*last) >= rule.window) {
            self.is_flapping = false;
            self.last.clear();
        }
        self.is_flapping
    }

    /// Nothing is remembered: it has not turned for a window.
    pub fn is_still(&self) -> bool {
        self.last.is_empty()
    }
}

/// `flapping` of the `all` instances of a service do.
pub fn shown(flapping: usize, all: usize) -> Shown {
    if flapping * 2 > all && all > 1 { Shown::Healthy } else { Shown::Critical }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Flapping = Flapping { turns: 5, window: Duration::from_secs(60) };

    #[test]
    fn the_sixth_turn_in_a_minute_is_flapping_until_it_has_been_still_for_one() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut turns = Turns::default();
        for n in 0..5 {
            turns.turned(after(n * 10), RULE);
            assert!(!turns.is_flapping(after(n * 10), RULE));
        }
        turns.turned(after(50), RULE);
        assert!(turns.is_flapping(after(50), RULE));
        assert!(turns.is_flapping(after(109), RULE));
        turns.turned(after(109), RULE);
        assert!(turns.is_flapping(after(168), RULE), "it turned again");
        assert!(!turns.is_flapping(after(169), RULE));
    }

    #[test]
    fn slow_turns_are_no_flapping() {
        let start = Instant::now();
        let mut turns = Turns::default();
        for n in 0..100 {
            let now = start + Duration::from_secs(n * 13);
            turns.turned(now, RULE);
            assert!(!turns.is_flapping(now, RULE));
        }
    }

    #[test]
    fn never_more_than_half_of_a_service_is_taken_out() {
        for (flapping, all, expected) in [
            (1, 1, Shown::Critical),
            (1, 2, Shown::Critical),
            (2, 2, Shown::Healthy),
            (2, 3, Shown::Healthy),
            (5, 10, Shown::Critical),
            (6, 10, Shown::Healthy),
        ] {
            assert_eq!(shown(flapping, all), expected, "{flapping} of {all}");
        }
    }

    proptest! {
        #[test]
        fn it_ends_a_window_after_the_last_turn_and_remembers_little(
            gaps in prop::collection::vec(0u64..90, 1..60),
        ) {
            let mut now = Instant::now();
            let mut turns = Turns::default();
            for gap in gaps {
                now += Duration::from_secs(gap);
                turns.is_flapping(now, RULE);
                turns.turned(now, RULE);
                prop_assert!(turns.last.len() <= RULE.turns + 1);
            }
            prop_assert!(!turns.is_flapping(now + RULE.window, RULE));
        }
    }
}
