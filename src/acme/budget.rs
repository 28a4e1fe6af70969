//! How many orders an account may make: the limit of a CA is for all of its names together.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::policy::bucket::{Bucket, Limit};

/// Of accounts, over all configurations.
pub(super) type Budgets = BTreeMap<Arc<str>, Budget>;

#[derive(Default)]
pub(super) struct Budget {
    all: Bucket,
    /// Of them, those for names that clients have asked for and that have no certificate yet: what strangers cause is at most half, and
    /// renewals have the rest.
    strangers: Bucket,
}

impl Budget {
    /// Take one order.
    ///
    /// # Errors
    ///
    /// There is none, and none was taken; how long until there is one.
    pub(super) fn take(&self, orders: &Limit, is_strangers: bool, now: u64) -> Result<(), Duration> {
        let half = orders.half();
        let theirs = is_strangers.then(|| self.strangers.look(&half, now, 1));
        let decision = match theirs {
            Some(theirs) if !theirs.allowed => theirs,
            _ => self.all.decide(orders, now, 1),
        };
        if !decision.allowed {
            return Err(decision.retry_after);
        }
        if is_strangers {
            self.strangers.decide(&half, now, 1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn took(budget: &Budget, is_strangers: bool, now: Duration) -> usize {
        let orders = Limit::new(8, HOUR, 8).unwrap();
        let now = u64::try_from(now.as_nanos()).unwrap();
        (0..20).filter(|_| budget.take(&orders, is_strangers, now).is_ok()).count()
    }

    #[test]
    fn strangers_have_at_most_half() {
        let budget = Budget::default();
        assert_eq!(took(&budget, true, Duration::ZERO), 4);
        assert_eq!(took(&budget, false, Duration::ZERO), 4, "the rest is for others");
        assert_eq!(took(&budget, true, HOUR / 4), 1);
        assert_eq!(took(&budget, false, HOUR / 4), 1);
    }

    #[test]
    fn an_order_that_there_is_not_takes_nothing_of_the_strangers_half() {
        let budget = Budget::default();
        assert_eq!(took(&budget, false, Duration::ZERO), 8);
        assert_eq!(took(&budget, true, Duration::ZERO), 0);
        assert_eq!(took(&budget, true, HOUR / 4), 2, "all that there are by then");
    }
}
