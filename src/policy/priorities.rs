//! Who may have one of the places that are left, by how important it is: the least important are refused first.
//!
//! Each class may fill so much of the limit, the most important all of it. So these find a place while places come free faster than they
//! come themselves, and nothing is kept empty for them. Nothing is lost where they do not come: a limit that is learnt grows
//! until what is used of it is as much as the upstream can do.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
    Critical,
}

impl Priority {
    /// The least important first.
    pub const ALL: [Priority; 4] = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];

    pub const fn label(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
            Priority::Critical => "critical",
        }
    }

    /// Whether one more may be in flight, beside so many and with that limit for all.
    pub const fn admits(self, in_flight: usize, limit: usize) -> bool {
        let tenths = match self {
            Priority::Low => 7,
            Priority::Normal => 8,
            Priority::High => 9,
            Priority::Critical => 10,
        };
        // An upstream with nothing to do serves everybody.
        in_flight == 0 || in_flight < limit.saturating_mul(tenths) / 10
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_important_are_refused_first() {
        let most = |priority: Priority, limit| (0..).find(|in_flight| !priority.admits(*in_flight, limit));
        assert_eq!(Priority::ALL.map(|priority| most(priority, 100)), [70, 80, 90, 100].map(Some));
        assert_eq!(Priority::ALL.map(|priority| most(priority, 10)), [7, 8, 9, 10].map(Some));
        assert_eq!(Priority::ALL.map(|priority| most(priority, 1)), [1, 1, 1, 1].map(Some));
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_and_nobody_before_a_more_important_one(
            in_flight in 0usize..3000,
            limit in 1usize..2000,
        ) {
            let admitted = Priority::ALL.map(|priority| priority.admits(in_flight, limit));
            prop_assert!(admitted.is_sorted());
            prop_assert!(in_flight < limit || admitted == [false; 4]);
            prop_assert_eq!(admitted[3], in_flight < limit);
        }
    }
}
