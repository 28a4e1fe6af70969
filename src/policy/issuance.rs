//! Which CA is asked next for a certificate, and when: the first that is not resting. A CA that has failed rests, twice as long
//! after each failure in a row, and at least as long as it asks for. The waits are long: CAs count failures (Let's Encrypt allows five of a
//! name in an hour), and whoever passes their limits waits for days.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// After the first failure.
    pub base: Duration,
    /// No wait of our own is longer.
    pub max: Duration,
}

/// What has become of the orders for one name, by CA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts(Vec<Failures>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Failures {
    /// In a row.
    count: u32,
    /// It is not asked before.
    rests_until: Option<SystemTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Of this index, which has failed so often in a row.
    Try(usize, u32),
    /// Until one is to be asked again.
    Wait(SystemTime),
}

/// No CA is believed that it wants more than this: RFC 8555 has no bound.
pub const LONGEST_REST: Duration = Duration::from_secs(7 * 86_400);

impl Attempts {
    /// Of so many CAs; there is at least one.
    pub fn next(&self, cas: usize, now: SystemTime) -> Next {
        let rests_until = |ca: usize| {
            let until = self.0.get(ca).and_then(|failures| failures.rests_until);
            // A clock that was set back must not make it rest for years.
            until.filter(|until| *until > now).map(|until| until.min(now + LONGEST_REST))
        };
        match (0..cas).find(|ca| rests_until(*ca).is_none()) {
            Some(ca) => Next::Try(ca, self.0.get(ca).map_or(0, |failures| failures.count)),
            None => Next::Wait((0..cas).filter_map(rests_until).min().unwrap_or(now)),
        }
    }

    /// `asked` is how long the CA itself wants to be left alone. Answers how long it rests.
    pub fn failed(
        &mut self,
        ca: usize,
        pace: Pace,
        asked: Option<Duration>,
        now: SystemTime,
        rng: &mut fastrand::Rng,
    ) -> Duration {
        if self.0.len() <= ca {
            self.0.resize(ca + 1, Failures::default());
        }
        let failures = &mut self.0[ca];
        let doublings = failures.count.min(31);
        failures.count = failures.count.saturating_add(1);
        let ceiling = pace.base.saturating_mul(1 << doublings).min(pace.max);
        // Never much less than the ceiling: the limits of CAs are in times an hour.
        let own = ceiling.mul_f64(0.75 + 0.25 * rng.f64());
        let rest = own.max(asked.unwrap_or_default()).min(LONGEST_REST);
        failures.rests_until = Some(now + rest);
        rest
    }

    pub fn succeeded(&mut self) {
        self.0.clear();
    }

    /// Somebody wants it now: nobody rests, but what has failed is not forgotten.
    pub fn wake(&mut self) {
        self.0.iter_mut().for_each(|failures| failures.rests_until = None);
    }

    pub fn is_new(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const PACE: Pace = Pace { base: Duration::from_secs(300), max: Duration::from_secs(12 * 3600) };

    fn start() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    #[test]
    fn the_next_ca_is_asked_at_once_and_the_first_again_when_it_has_rested() {
        let (mut attempts, mut rng, now) = (Attempts::default(), fastrand::Rng::with_seed(7), start());
        assert_eq!(attempts.next(2, now), Next::Try(0, 0));
        let rest = attempts.failed(0, PACE, None, now, &mut rng);
        assert!(rest >= 3 * MINUTE && rest <= 5 * MINUTE, "{rest:?}");
        assert_eq!(attempts.next(2, now), Next::Try(1, 0));
        attempts.failed(1, PACE, Some(MINUTE * 60), now, &mut rng);
        assert_eq!(attempts.next(2, now), Next::Wait(now + rest));
        assert_eq!(attempts.next(2, now + rest), Next::Try(0, 1));
        attempts.wake();
        assert_eq!(attempts.next(2, now), Next::Try(0, 1));
        attempts.succeeded();
        assert_eq!(attempts.next(2, now), Next::Try(0, 0));
    }

    #[test]
    fn neither_a_ca_nor_a_clock_makes_it_rest_for_ever() {
        let (mut attempts, mut rng, now) = (Attempts::default(), fastrand::Rng::with_seed(7), start());
        attempts.failed(0, PACE, Some(Duration::MAX), now, &mut rng);
        assert_eq!(attempts.next(1, now), Next::Wait(now + LONGEST_REST));
        let earlier = now - LONGEST_REST * 10;
        assert_eq!(attempts.next(1, earlier), Next::Wait(earlier + LONGEST_REST));
        for _ in 0..100 {
            assert!(attempts.failed(0, PACE, None, now, &mut rng) <= PACE.max);
        }
    }

    proptest! {
        /// Let's Encrypt: five failed validations of a name and account in an hour.
        #[test]
        fn a_name_fails_at_most_five_times_an_hour(seed in any::<u64>()) {
            let (mut attempts, mut rng) = (Attempts::default(), fastrand::Rng::with_seed(seed));
            let (mut now, mut failures) = (start(), Vec::new());
            while failures.len() < 30 {
                match attempts.next(1, now) {
                    Next::Try(ca, count) => {
                        prop_assert_eq!(count as usize, failures.len());
                        failures.push(now);
                        attempts.failed(ca, PACE, None, now, &mut rng);
                    }
                    Next::Wait(until) => now = until,
                }
            }
            for (index, at) in failures.iter().enumerate() {
                let within = failures[index..].iter().filter(|other| **other < *at + MINUTE * 60).count();
                prop_assert!(within <= 5, "{} within an hour", within);
            }
        }
    }
}
