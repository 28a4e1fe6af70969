//! Whether gateways answer with more errors of their own since they have a version than in the minute before.

/// Since a process began. What a client did wrong is no error here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    pub own_errors: u64,
}

impl Counts {
    /// What was done since `before`.
    #[must_use]
    pub fn since(self, before: Counts) -> Counts {
        Counts {
            requests: self.requests.saturating_sub(before.requests),
            own_errors: self.own_errors.saturating_sub(before.own_errors),
        }
    }

    fn plus(self, other: Counts) -> Counts {
        Counts {
            requests: self.requests.saturating_add(other.requests),
            own_errors: self.own_errors.saturating_add(other.own_errors),
        }
    }

    fn share(self) -> f64 {
        if self.requests == 0 { 0.0 } else { (self.own_errors as f64 / self.requests as f64).min(1.0) }
    }
}

/// By how much the share may rise: 1 percentage point.
const MOST: f64 = 0.01;
/// One error of ten requests is no share yet.
const FEWEST: f64 = 5.0;
/// What comes about by chance is within this many standard deviations.
const BY_CHANCE: f64 = 3.0;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Watched {
    /// In the minute before.
    before: Counts,
    /// When it was put in force.
    begun: Counts,
    pub(super) now: Counts,
}

impl Watched {
    pub(super) fn new(now: Counts, minute_ago: Counts) -> Watched {
        Watched { before: now.since(minute_ago), begun: now, now }
    }

    pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Watched>) -> Watched {
        all.fold(Watched::default(), |sum, one| Watched {
            before: sum.before.plus(one.before),
            begun: Counts::default(),
            now: sum.now.plus(one.now.since(one.begun)),
        })
    }

    /// In words, where there are too many.
    pub(super) fn breach(&self) -> Option<String> {
        let since = self.now.since(self.begun);
        let (before, share) = (self.before.share(), since.share());
        let expected = before * since.requests as f64;
        let more = since.own_errors as f64 - expected;
        let is_breach = share - before > MOST && more >= FEWEST && more >= BY_CHANCE * expected.sqrt();
        is_breach.then(|| {
            let percent = |share: f64| format!("{:.1}%", share * 100.0);
            let (share, before) = (percent(share), percent(before));
            format!(
                "{share} of {} requests with errors of its own, and {before} in the minute before",
                since.requests
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: u64, own_errors: u64) -> Counts {
        Counts { requests, own_errors }
    }

    fn watched(before: Counts, since: Counts) -> Watched {
        Watched { now: before.plus(since), ..Watched::new(before, Counts::default()) }
    }

    #[test]
    fn more_than_a_point_above_the_minute_before_is_a_breach() {
        for (before, since, is_breach) in [
            (counts(0, 0), counts(0, 0), false),
            (counts(1000, 0), counts(1000, 9), false),
            (counts(1000, 0), counts(1000, 11), true),
            (counts(1000, 50), counts(1000, 55), false),
            (counts(1000, 50), counts(1000, 80), true),
            (counts(1000, 50), counts(10_000, 590), false),
            (counts(1000, 50), counts(10_000, 700), true),
            // Too few to say.
            (counts(10, 0), counts(10, 4), false),
            (counts(0, 0), counts(10, 5), true),
            (counts(100, 100), counts(100, 100), false),
        ] {
            assert_eq!(watched(before, since).breach().is_some(), is_breach, "{before:?} {since:?}");
        }
        let told = watched(counts(100, 1), counts(100, 10)).breach().unwrap();
        assert_eq!(told, "10.0% of 100 requests with errors of its own, and 1.0% in the minute before");
    }

    #[test]
    fn what_many_do_is_seen_where_it_is_too_little_in_each() {
        let one = watched(counts(100, 0), counts(100, 3));
        assert_eq!(one.breach(), None);
        assert!(Watched::sum([one, one].iter()).breach().is_some());
    }
}
