//! Quotas of the calendar: so many in each day or month, counted from its first second on (UTC).
//!
//! A quota is a bucket that does not fill while its period lasts. So it is counted in the same table, under a clock of its own that stands still and moves on by a
//! whole bucket with each new period.

use std::{
    ops::Range,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use crate::policy::{
    bucket::{Decision, Limit},
    calendar::Unit,
};

pub(super) struct Calendar {
    unit: Unit,
    limit: Limit,
    current: RwLock<Period>,
}

struct Period {
    /// In seconds since 1970.
    lasts: Range<u64>,
    /// How many there have been before it.
    number: u64,
}

/// When a request came, as far as a limit is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// What the buckets go by.
    pub now: u64,
    /// Of a quota.
    pub of: Option<Within>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Within {
    /// When the period began, in seconds since 1970.
    pub begins: u64,
    /// What is left of it.
    pub left: Duration,
}

impl Moment {
    /// What the client is told: nothing of a quota comes back before its period ends.
    pub(crate) fn told(&self, decision: Decision) -> Decision {
        let Some(Within { left, .. }) = self.of else { return decision };
        let retry_after = if decision.allowed { Duration::ZERO } else { left };
        Decision { retry_after, reset_after: left, ..decision }
    }
}

impl Calendar {
    pub(super) fn new(unit: Unit, limit: Limit) -> Calendar {
        Calendar { unit, limit, current: RwLock::new(Period { lasts: 0..0, number: 0 }) }
    }

    /// `since_1970` is the system's clock, which may be set: in whichever direction it leaves a period, the next one begins anew.
    pub(super) fn at(&self, since_1970: Duration) -> Moment {
        /// Threads do not read the clock in the order in which they come here.
        const SKEW: u64 = 10;
        let now = since_1970.as_secs();
        let is_in =
            |lasts: &Range<u64>| lasts.contains(&now) || now < lasts.start && lasts.start - now < SKEW;
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if is_in(&current.lasts) {
            return self.moment(&current, since_1970);
        }
        drop(current);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if !is_in(&current.lasts) {
            *current = Period { lasts: self.unit.period(now), number: current.number + 1 };
        }
        self.moment(&current, since_1970)
    }

    fn moment(&self, period: &Period, since_1970: Duration) -> Moment {
        let whole = u64::try_from(self.limit.depth().as_nanos()).unwrap_or(u64::MAX);
        let Range { start: begins, end } = period.lasts;
        let left = Duration::from_secs(end).saturating_sub(since_1970);
        Moment { now: period.number.saturating_mul(whole), of: Some(Within { begins, left }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::buckets::Buckets;

    #[test]
    fn all_of_it_may_be_used_in_each_period_and_no_more() {
        let limit = Limit::quota(3).unwrap();
        let (calendar, buckets) = (Calendar::new(Unit::Month, limit), Buckets::new(limit, 10));
        let ask = |seconds: u64| {
            let moment = calendar.at(Duration::from_secs(seconds));
            moment.told(buckets.decide(7, moment.now, 1))
        };
        let february = 1_706_745_600;
        let march = 1_709_251_200;
        for left in [2, 1, 0] {
            let decision = ask(february + 10);
            assert_eq!((decision.allowed, decision.remaining), (true, left));
            assert_eq!(decision.reset_after, Duration::from_secs(march - february - 10));
        }
        let refused = ask(march - 60);
        assert_eq!((refused.allowed, refused.retry_after), (false, Duration::from_secs(60)));
        assert_eq!((0..4).filter(|_| ask(march).allowed).count(), 3);
        assert!(!ask(march - 1).allowed, "a thread that read the clock a moment ago");
        assert_eq!((0..4).filter(|_| ask(february).allowed).count(), 3, "the clock was set back by a month");
    }
}
