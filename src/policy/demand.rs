//! Which names are looked at because somebody has asked for them. Strangers may ask for any name, so all is bounded: how often a new one
//! is looked at, how often somebody is asked about one, how many are under way, and how many refused ones are remembered. No client has
//! more than half of what there is of the first two, so that one with many names is in nobody's way.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{bucket::Limit, fair_share::FairShare};

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
    looks: FairShare,
    asks: FairShare,
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
    /// Whether a name that nobody knows is looked at for a client, which is told apart by a digest. `kept` is only counted where it matters.
    /// `now` is in nanoseconds.
    pub fn decide(
        &mut self,
        name: &str,
        client: u64,
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
        if !self.looks.takes(&LOOKS, client, now) {
            return Verdict::Throttled;
        }
        if kept() + pending >= bounds.most { Verdict::Full } else { Verdict::Look }
    }

    /// Whether somebody may be asked about a name for this client.
    pub fn may_ask(&mut self, client: u64, bounds: &Bounds, now: u64) -> bool {
        self.asks.takes(&bounds.rate, client, now)
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
        let mut decide = |pending, kept| demands.decide("a.example", 7, pending, || kept, &bounds(), SECOND);
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
            // A hundred names of each.
            if demands.decide(&name, n / 100, 0, || 0, &bounds(), SECOND) == Verdict::Look {
                looks += 1;
                asks += u32::from(demands.may_ask(n / 100, &bounds(), SECOND));
            }
            demands.refuse(name, SECOND);
        }
        assert_eq!((looks, asks), (20, 2));
        assert_eq!(demands.refused.len(), MOST_REFUSED);
    }

    #[test]
    fn a_client_with_a_thousand_names_leaves_half_for_the_others() {
        let mut demands = Demands::default();
        let bounds = Bounds { rate: Limit::new(4, Duration::from_secs(60), 4).unwrap(), ..bounds() };
        let mut asked = |client, names: std::ops::Range<u32>| {
            let (mut looks, mut asks) = (0, 0);
            for n in names {
                let name = format!("{client}-{n}.example");
                if demands.decide(&name, client, 0, || 0, &bounds, SECOND) == Verdict::Look {
                    looks += 1;
                    asks += u32::from(demands.may_ask(client, &bounds, SECOND));
                }
            }
            (looks, asks)
        };
        assert_eq!(asked(1, 0..1_000), (10, 2));
        assert_eq!(asked(2, 0..1), (1, 1));
        assert_eq!(asked(3, 0..1_000), (9, 1), "and all together have no more than there is");
    }

    #[test]
    fn who_was_refused_is_looked_at_again_after_a_while() {
        let mut demands = Demands::default();
        let mut at = |now| demands.decide("a.example", 7, 0, || 0, &bounds(), now);
        assert_eq!(at(SECOND), Verdict::Look);
        demands.refuse("a.example".into(), SECOND);
        let mut at = |now| demands.decide("a.example", 7, 0, || 0, &bounds(), now);
        assert_eq!(at(60 * SECOND), Verdict::Refused);
        assert_eq!(at(62 * SECOND), Verdict::Look);
    }
}
