//! Which names are looked at because somebody has asked for them. Strangers may ask for any name, so all is bounded: how often a new one
//! is looked at, how often somebody is asked about one, how many are under way, and how many refused ones are remembered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::bucket::{Bucket, Limit};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// New names that somebody is asked about.
    pub rate: Limit,
    /// Under way at the same time.
    pub pending: usize,
    /// That are kept.
    pub most: usize,
}

#[derive(Default)]
pub struct Demands {
    looks: Bucket,
    asks: Bucket,
    /// Until when they are not looked at again, in nanoseconds.
    refused: BTreeMap<Arc<str>, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Look,
    /// It was refused a short while ago.
    Refused,
    /// Too many others are under way.
    Busy,
    /// More are kept than may be, with this one.
    Full,
    /// There were too many new ones.
    Throttled,
}

/// A look costs a question to a storage.
const LOOKS: Limit = Limit::per_second(20);
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// As many as are refused in that time, where they come one after the other.
const MOST_REFUSED: usize = 1_000;

impl Demands {
    /// Whether a name that nobody knows is looked at. `kept` is only counted where it matters. `now` is in nanoseconds.
    pub fn decide(
        &mut self,
        name: &str,
        pending: usize,
        kept: impl FnOnce() -> usize,
        bounds: &Bounds,
        now: u64,
    ) -> Verdict {
        if self.refused.get(name).is_some_and(|until| *until > now) {
            return Verdict::Refused;
        }
        if pending >= bounds.pending {
            return Verdict::Busy;
        }
        if !self.looks.decide(&LOOKS, now, 1).allowed {
            return Verdict::Throttled;
        }
        if kept() + pending >= bounds.most { Verdict::Full } else { Verdict::Look }
    }

    /// Whether somebody may be asked about a name.
    pub fn may_ask(&self, bounds: &Bounds, now: u64) -> bool {
        self.asks.decide(&bounds.rate, now, 1).allowed
    }

    pub fn refuse(&mut self, name: Arc<str>, now: u64) {
        if self.refused.len() >= MOST_REFUSED {
            self.refused.retain(|_, until| *until > now);
        }
        if self.refused.len() < MOST_REFUSED {
            let rest = u64::try_from(REFUSED_FOR.as_nanos()).unwrap_or(u64::MAX);
            self.refused.insert(name, now.saturating_add(rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn bounds() -> Bounds {
        Bounds { rate: Limit::new(2, Duration::from_secs(60), 2).unwrap(), pending: 3, most: 5 }
    }

    #[test]
    fn a_name_is_looked_at_within_all_bounds_and_not_beyond() {
        let mut demands = Demands::default();
        let mut decide = |pending, kept| demands.decide("a.example", pending, || kept, &bounds(), SECOND);
        assert_eq!(decide(0, 0), Verdict::Look);
        assert_eq!(decide(2, 2), Verdict::Look);
        assert_eq!(decide(3, 0), Verdict::Busy);
        assert_eq!(decide(0, 5), Verdict::Full);
        assert_eq!(decide(2, 3), Verdict::Full);
    }

    #[test]
    fn ten_thousand_strangers_are_few_looks_fewer_questions_and_little_memory() {
        let mut demands = Demands::default();
        let (mut looks, mut asks) = (0, 0);
        for n in 0..10_000 {
            let name: Arc<str> = format!("n{n}.example").into();
            if demands.decide(&name, 0, || 0, &bounds(), SECOND) == Verdict::Look {
                looks += 1;
                asks += u32::from(demands.may_ask(&bounds(), SECOND));
            }
            demands.refuse(name, SECOND);
        }
        assert_eq!((looks, asks), (20, 2));
        assert_eq!(demands.refused.len(), MOST_REFUSED);
    }

    #[test]
    fn who_was_refused_is_looked_at_again_after_a_while() {
        let mut demands = Demands::default();
        let mut at = |now| demands.decide("a.example", 0, || 0, &bounds(), now);
        assert_eq!(at(SECOND), Verdict::Look);
        demands.refuse("a.example".into(), SECOND);
        let mut at = |now| demands.decide("a.example", 0, || 0, &bounds(), now);
        assert_eq!(at(60 * SECOND), Verdict::Refused);
        assert_eq!(at(62 * SECOND), Verdict::Look);
    }
}
