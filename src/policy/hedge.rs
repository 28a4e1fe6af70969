//! When to send a request a second time because the first is slow, and whether at all. The delay is fixed or follows
//! the response times, and a budget of its own keeps hedges a small share of the requests: when everything is slow,
//! sending more of it helps nobody.
//!
//! Whether a request may be sent twice at all (its method, its body) is the caller's to know.

use std::time::{Duration, Instant};

use super::{
    budget::RetryBudget,
    quantile::{self, RunningQuantile},
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub after: After,
    /// Hedges of one request, the first try not included.
    pub max: u32,
    /// Hedges in proportion to requests, from 0 to 1. At 5 %, fewer than 20 requests in ten seconds earn none.
    pub budget: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum After {
    Fixed(Duration),
    /// Of the response times of late, from 0 to 1.
    Quantile(f64),
}

/// Shared by all requests of a route.
pub struct Hedging {
    max: u32,
    delay: Delay,
    budget: RetryBudget,
}

enum Delay {
    Fixed(Duration),
    Running(Box<RunningQuantile>),
}

impl Hedging {
    /// Fewer response times than these say little about the slowest twentieth.
    pub const MIN_SAMPLES: u64 = 100;

    /// Least time after which the past begins to be forgotten.
    pub const GENERATION: Duration = Duration::from_secs(30);

    pub fn new(settings: Settings, origin: Instant) -> Hedging {
        let delay = match settings.after {
            After::Fixed(delay) => Delay::Fixed(delay),
            After::Quantile(quantile) => {
                let (min_samples, generation) = (Self::MIN_SAMPLES, Self::GENERATION);
                let settings = quantile::Settings { quantile, min_samples, generation };
                Delay::Running(Box::new(RunningQuantile::new(settings, origin)))
            }
        };
        Hedging { max: settings.max, delay, budget: RetryBudget::new(settings.budget, 0, origin) }
    }

    /// A request came in, which pays for hedges. Once per request, whether or not it may be hedged itself.
    pub fn started(&self, now: Instant) {
        self.budget.deposit(now);
    }

    /// How long after an attempt began the next may be sent; `None` while too little is known to tell.
    pub fn delay(&self, now: Instant) -> Option<Duration> {
        match &self.delay {
            Delay::Fixed(delay) => Some(*delay),
            Delay::Running(latencies) => latencies.value(now),
        }
    }

    /// Whether a request that was hedged `sent` times already may be once more now, which is counted then: asked only
    /// when the delay is over and an endpoint is there.
    pub fn may_hedge(&self, sent: u32, now: Instant) -> bool {
        sent < self.max && self.budget.withdraw(now)
    }

    /// How long an attempt took, since it began itself. One that lost is told as well, with the time it had taken
    /// when it was given up: without the slow ones the quantile would sink, and hedges would beget hedges.
    pub fn completed(&self, response_time: Duration) {
        if let Delay::Running(latencies) = &self.delay {
            latencies.record(response_time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P95: Settings = Settings { after: After::Quantile(0.95), max: 1, budget: 0.05 };

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Hedges sent and the last delay, for 20,000 requests at 1000 per second whose first attempts take as long
    /// as told. The hedge takes 5 ms.
    fn simulate(
        hedging: &Hedging,
        origin: Instant,
        mut takes: impl FnMut() -> Duration,
    ) -> (u32, Option<Duration>) {
        let mut hedges = 0;
        for request in 0..20_000 {
            let now = origin + millis(request);
            hedging.started(now);
            let slow = takes();
            match hedging.delay(now) {
                Some(delay) if slow > delay && hedging.may_hedge(0, now + delay) => {
                    hedges += 1;
                    hedging.completed(millis(5));
                    hedging.completed(slow.min(delay + millis(5)));
                }
                _ => hedging.completed(slow),
            }
        }
        (hedges, hedging.delay(origin + millis(20_000)))
    }

    #[test]
    fn a_fixed_delay_needs_no_experience() {
        let origin = Instant::now();
        let hedging = Hedging::new(Settings { after: After::Fixed(millis(50)), ..P95 }, origin);
        assert_eq!(hedging.delay(origin), Some(millis(50)));
    }

    #[test]
    fn a_quantile_is_known_after_a_hundred_responses() {
        let origin = Instant::now();
        let hedging = Hedging::new(P95, origin);
        (0..99).for_each(|_| hedging.completed(millis(10)));
        assert_eq!(hedging.delay(origin), None);
        hedging.completed(millis(10));
        let delay = hedging.delay(origin + RunningQuantile::REFRESH).unwrap();
        assert!(delay > millis(10) && delay < millis(11), "{delay:?}");
    }

    #[test]
    fn the_slow_tail_is_hedged() {
        let origin = Instant::now();
        let mut rng = fastrand::Rng::with_seed(7);
        let (hedges, delay) = simulate(&Hedging::new(P95, origin), origin, || {
            if rng.u32(0..100) < 3 { millis(800) } else { millis(rng.u64(5..15)) }
        });
        assert!((500..=1000).contains(&hedges), "{hedges} of about 600 slow ones");
        assert!(delay.is_some_and(|delay| delay >= millis(13) && delay < millis(20)), "{delay:?}");
    }

    #[test]
    fn when_everything_turns_slow_hedges_stay_within_their_budget() {
        let origin = Instant::now();
        // A quantile follows, and soon there is nothing slow to hedge; a fixed delay hedges what it may.
        for (after, least) in [(After::Quantile(0.95), 1), (After::Fixed(millis(50)), 950)] {
            let hedging = Hedging::new(Settings { after, ..P95 }, origin);
            (0..100_000).for_each(|_| hedging.completed(millis(10)));
            let (hedges, _) = simulate(&hedging, origin, || millis(5000));
            assert!((least..=1000).contains(&hedges), "{after:?}: {hedges}");
        }
    }

    #[test]
    fn even_times_are_not_hedged() {
        let origin = Instant::now();
        assert_eq!(simulate(&Hedging::new(P95, origin), origin, || millis(10)).0, 0);
    }

    #[test]
    fn one_request_is_hedged_so_many_times_at_most() {
        let origin = Instant::now();
        for max in [0, 1, 2] {
            let hedging = Hedging::new(Settings { max, budget: 1.0, ..P95 }, origin);
            (0..10).for_each(|_| hedging.started(origin));
            let sent = (0..10).take_while(|sent| hedging.may_hedge(*sent, origin)).count();
            assert_eq!(sent, max as usize);
        }
    }

    #[test]
    fn nobody_hedges_before_twenty_requests_at_a_twentieth() {
        let origin = Instant::now();
        let hedging = Hedging::new(P95, origin);
        (0..19).for_each(|_| hedging.started(origin));
        assert!(!hedging.may_hedge(0, origin));
        hedging.started(origin);
        assert!(hedging.may_hedge(0, origin));
        assert!(!hedging.may_hedge(0, origin));
    }
}
