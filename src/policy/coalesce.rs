//! When a change of a service is passed on: the first at once, since one change is the common case. Further ones wait for
//! each other, for longer the longer they go on, and never for more than half a second.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_millis(500);

/// Of one service.
#[derive(Clone, Debug)]
pub struct Coalesce {
    /// When the changes that wait are passed on.
    due: Option<Instant>,
    passed: Option<Instant>,
    gap: Duration,
}

impl Default for Coalesce {
    fn default() -> Coalesce {
        Coalesce { due: None, passed: None, gap: FIRST }
    }
}

impl Coalesce {
    /// Something has changed: when that is to be passed on, which is `now` or later.
    pub fn changed(&mut self, now: Instant) -> Instant {
        if let Some(due) = self.due {
            return due;
        }
        let due = match self.passed.map(|passed| passed + self.gap) {
            Some(earliest) if earliest > now => {
                self.gap = (self.gap * 2).min(LONGEST);
                earliest
            }
            _ => {
                self.gap = FIRST;
                now
            }
        };
        self.due = Some(due);
        due
    }

    /// All that has changed was passed on.
    pub fn passed(&mut self, now: Instant) {
        self.due = None;
        self.passed = Some(now);
    }

    /// It has been still for so long that nothing needs to be remembered of it.
    pub fn is_still(&self, now: Instant) -> bool {
        self.due.is_none() && self.passed.is_none_or(|passed| now.saturating_duration_since(passed) > LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_goes_at_once_and_the_next_wait_100_to_500_ms() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut one = Coalesce::default();
        assert_eq!(one.changed(after(0)), after(0));
        one.passed(after(0));
        let mut last = 0;
        for gap in [100, 200, 400, 500, 500] {
            // Two changes that wait for each other.
            assert_eq!(one.changed(after(last + 10)), after(last + gap));
            assert_eq!(one.changed(after(last + 20)), after(last + gap));
            last += gap;
            one.passed(after(last));
        }
        assert!(!one.is_still(after(last + 500)) && one.is_still(after(last + 501)));
        assert_eq!(one.changed(after(last + 600)), after(last + 600), "it was still");
        one.passed(after(last + 600));
        assert_eq!(one.changed(after(last + 601)), after(last + 700), "and begins anew");
    }

    proptest! {
        /// No change is lost, none waits for longer than half a second, and no two go within a tenth of one.
        #[test]
        fn every_change_is_passed_on_in_time(gaps in prop::collection::vec(0u64..400, 1..200)) {
            let mut now = Instant::now();
            let mut one = Coalesce::default();
            let (mut waiting, mut passed) = (Vec::<Instant>::new(), None::<Instant>);
            let mut due = None;
            for gap in gaps {
                let next = now + Duration::from_millis(gap);
                if let Some(at) = due.filter(|due| *due <= next) {
                    for changed in waiting.drain(..) {
                        prop_assert!(at - changed <= LONGEST);
                    }
                    prop_assert!(passed.is_none_or(|passed| at - passed >= FIRST));
                    one.passed(at);
                    passed = Some(at);
                }
                now = next;
                waiting.push(now);
                due = Some(one.changed(now));
                prop_assert!(due.is_some_and(|due| due >= now && due - now <= LONGEST));
            }
        }
    }
}
