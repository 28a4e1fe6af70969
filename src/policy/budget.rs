//! A retry budget: retries are paid for by requests, so a failing upstream cannot be flooded. At a ratio of 20 % an
//! upstream that fails everything sees 1.2 times the requests, however many tries each may have.
//!
//! It looks back over ten seconds, counted per second since `origin`. Whoever retries takes first and then looks
//! whether that was too much: two who race for the last retry may both be refused, but never both be granted.
//! It holds no clock: callers pass `now`, and need not agree on it exactly.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// Seconds that are looked back over, the current one included. Finagle's and linkerd's default.
const WINDOW: u32 = 10;

/// More than `WINDOW`, so that threads late by a few seconds still find the window they see intact.
const SLOTS: usize = 16;

/// Shared by all requests of a route. Hedges have one of their own, as a rule without a floor.
pub struct RetryBudget {
    origin: Instant,
    /// In millionths: what a float rounds away would now and then be a retry.
    ratio: u64,
    min_per_second: u32,
    requests: Seconds,
    /// Retries that were paid for by requests.
    paid: Seconds,
    /// Retries beyond those, in the current second.
    granted: AtomicU64,
}

impl RetryBudget {
    /// A retry is granted while those of the last ten seconds are less than `ratio` (from 0 to 1) of the requests in
    /// them, so that in the long run too they never exceed `ratio`. Beyond those, `min_per_second` in each second, so
    /// that routes with little traffic may retry too; what is not used of these is not saved up. The seconds are
    /// counted from `origin`.
    ///
    /// Without a floor, a route with fewer than 1 / `ratio` requests in ten seconds gets none.
    pub fn new(ratio: f64, min_per_second: u32, origin: Instant) -> RetryBudget {
        RetryBudget {
            origin,
            ratio: (ratio.clamp(0.0, 1.0) * 1e6).round() as u64,
            min_per_second,
            requests: Seconds::default(),
            paid: Seconds::default(),
            granted: AtomicU64::new(0),
        }
    }

    /// A request came in. Not to be called for its retries.
    pub fn deposit(&self, now: Instant) {
        // Late by a moment, it pays for a retry a moment later.
        self.requests.add(self.second(now), Ordering::Relaxed);
    }

    /// Whether one retry may be sent, which is counted then.
    pub fn withdraw(&self, now: Instant) -> bool {
        // A second that others have left is over.
        let second = self.paid.latest().max(self.second(now));
        self.withdraw_paid(second) || self.withdraw_granted(second)
    }

    fn withdraw_paid(&self, second: u32) -> bool {
        // In a storm nearly all end here, and do not write.
        if self.paid.sum(second) >= self.affordable(second) {
            return false;
        }
        self.paid.add(second, Ordering::SeqCst);
        // Someone already in a later second may have looked before this was added.
        let seen_by_all = self.paid.latest() == second;
        let granted = seen_by_all && self.paid.sum(second) <= self.affordable(second);
        if !granted {
            self.paid.remove(second);
        }
        granted
    }

    fn withdraw_granted(&self, second: u32) -> bool {
        let take = |slot| {
            let (at, count) = unpack(slot);
            let count = if at < second { 0 } else { count };
            (count < self.min_per_second).then(|| pack(at.max(second), count + 1))
        };
        self.granted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn affordable(&self, second: u32) -> u64 {
        self.requests.sum(second).saturating_mul(self.ratio) / 1_000_000
    }

    fn second(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.origin).as_secs()).unwrap_or(u32::MAX)
    }
}

/// Counts of the last seconds. A slot holds its second beside its count, so that it starts anew in one step.
#[derive(Default)]
struct Seconds {
    slots: [AtomicU64; SLOTS],
}

impl Seconds {
    fn add(&self, second: u32, ordering: Ordering) {
        let slot = self.slot(second);
        let mut seen = slot.load(Ordering::Relaxed);
        while unpack(seen).0 < second {
            match slot.compare_exchange_weak(seen, pack(second, 1), ordering, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
        slot.fetch_add(1, ordering);
    }

    fn remove(&self, second: u32) {
        let remove = |slot| match unpack(slot) {
            (at, count @ 1..) if at == second => Some(pack(at, count - 1)),
            _ => None,
        };
        // Fails when the slot is in use for a later second: then nothing is left to remove.
        let _ = self.slot(second).fetch_update(Ordering::SeqCst, Ordering::Relaxed, remove);
    }

    /// Of the window that ends with `second`.
    fn sum(&self, second: u32) -> u64 {
        let within = |at| at <= second && second - at < WINDOW;
        self.read().filter(|(at, _)| within(*at)).map(|(_, count)| u64::from(count)).sum()
    }

    fn latest(&self) -> u32 {
        self.read().map(|(at, _)| at).max().unwrap_or_default()
    }

    fn read(&self) -> impl Iterator<Item = (u32, u32)> {
        self.slots.iter().map(|slot| unpack(slot.load(Ordering::SeqCst)))
    }

    fn slot(&self, second: u32) -> &AtomicU64 {
        &self.slots[second as usize % SLOTS]
    }
}

fn pack(second: u32, count: u32) -> u64 {
    u64::from(second) << 32 | u64::from(count)
}

fn unpack(slot: u64) -> (u32, u32) {
    ((slot >> 32) as u32, slot as u32)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Barrier, atomic::AtomicUsize},
        thread,
        time::Duration,
    };

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn withdrawals(budget: &RetryBudget, tries: u32, now: Instant) -> u32 {
        (0..tries).filter(|_| budget.withdraw(now)).count() as u32
    }

    fn deposits(budget: &RetryBudget, requests: u32, now: Instant) {
        (0..requests).for_each(|_| budget.deposit(now));
    }

    #[test]
    fn requests_pay_for_retries() {
        let origin = Instant::now();
        let budget = RetryBudget::new(0.2, 0, origin);
        assert_eq!(withdrawals(&budget, 10, origin), 0);
        deposits(&budget, 4, origin);
        assert_eq!(withdrawals(&budget, 10, origin), 0, "0.8 of a retry");
        deposits(&budget, 11, origin);
        assert_eq!(withdrawals(&budget, 10, origin), 3);
    }

    #[test]
    fn every_ratio_is_exact() {
        let origin = Instant::now();
        for percent in 0..=100_u32 {
            let budget = RetryBudget::new(f64::from(percent) / 100.0, 0, origin);
            deposits(&budget, 100, origin);
            assert_eq!(withdrawals(&budget, 1000, origin), percent);
        }
        for (ratio, retries) in [(-1.0, 0), (f64::NAN, 0), (7.0, 10), (f64::INFINITY, 10)] {
            let budget = RetryBudget::new(ratio, 0, origin);
            deposits(&budget, 10, origin);
            assert_eq!(withdrawals(&budget, 1000, origin), retries, "{ratio}");
        }
    }

    #[test]
    fn what_was_not_spent_is_gone_after_ten_seconds() {
        let origin = Instant::now();
        for (later, retries) in [(0, 20), (9_999, 20), (10_000, 0), (16_000, 0), (1_000_000, 0)] {
            let budget = RetryBudget::new(0.2, 0, origin);
            deposits(&budget, 100, origin);
            assert_eq!(withdrawals(&budget, 1000, origin + millis(later)), retries, "{later} ms later");
        }
    }

    #[test]
    fn the_floor_is_granted_per_second_and_not_saved_up() {
        let origin = Instant::now();
        let budget = RetryBudget::new(0.2, 10, origin);
        assert_eq!(withdrawals(&budget, 1000, origin), 10);
        assert_eq!(withdrawals(&budget, 1000, origin + millis(999)), 0);
        assert_eq!(withdrawals(&budget, 1000, origin + millis(1000)), 10);
        assert_eq!(withdrawals(&budget, 1000, origin + millis(60_000)), 10);
        deposits(&budget, 100, origin + millis(61_000));
        assert_eq!(withdrawals(&budget, 1000, origin + millis(61_000)), 30, "beyond what is paid for");
    }

    #[test]
    fn who_is_late_or_before_the_origin_gets_no_second_helping() {
        let origin = Instant::now() + millis(5000);
        let budget = RetryBudget::new(0.2, 10, origin);
        assert_eq!(withdrawals(&budget, 1000, origin + millis(3000)), 10);
        assert_eq!(withdrawals(&budget, 1000, origin), 0);
        assert_eq!(withdrawals(&budget, 1000, origin - millis(5000)), 0);
    }

    #[test]
    fn a_retry_storm_stays_within_a_fifth_and_the_floor() {
        let origin = Instant::now();
        let budget = RetryBudget::new(0.2, 10, origin);
        let (mut attempts, mut retries) = (0, [0_u32; 30]);
        for request in 0..30_000_u64 {
            let now = origin + millis(request);
            budget.deposit(now);
            attempts += 1;
            for _ in 0..2 {
                if !budget.withdraw(now) {
                    break;
                }
                attempts += 1;
                retries[(request / 1000) as usize] += 1;
            }
        }
        let (requests, floor) = (30_000, 30 * 10);
        assert!(attempts <= requests * 12 / 10 + floor, "{attempts} attempts");
        assert!(attempts >= requests * 12 / 10, "{attempts} attempts: what is paid for is not refused");
        assert!(retries.iter().all(|&retries| retries <= 210), "{retries:?}");
    }

    #[test]
    fn no_load_gets_more_than_it_paid_for() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..50 {
            let (origin, percent, floor) = (Instant::now(), rng.usize(0..=100), rng.usize(0..5));
            let budget = RetryBudget::new(percent as f64 / 100.0, floor as u32, origin);
            let (mut requests, mut retries) = ([0; 60], [0; 60]);
            for second in 0..60 {
                if rng.bool() {
                    continue;
                }
                let now = origin + millis(second as u64 * 1000 + rng.u64(0..1000));
                for _ in 0..rng.u32(0..200) {
                    if rng.bool() {
                        budget.deposit(now);
                        requests[second] += 1;
                        continue;
                    }
                    if !budget.withdraw(now) {
                        continue;
                    }
                    retries[second] += 1;
                    let sum = |counts: &[usize], from: usize| counts[from..=second].iter().sum::<usize>();
                    let allowed = sum(&requests, 0) * percent / 100 + floor * (second + 1);
                    assert!(sum(&retries, 0) <= allowed, "since the start, at second {second}");
                    let window = second.saturating_sub(9);
                    let allowed = sum(&requests, window) * percent / 100;
                    assert!(floor > 0 || sum(&retries, window) <= allowed, "seconds {window} to {second}");
                }
            }
        }
    }

    #[test]
    fn threads_that_race_get_no_more_than_was_paid_for() {
        const THREADS: u64 = 8;
        let origin = Instant::now();
        let budget = RetryBudget::new(0.2, 10, origin);
        // All enter each second together: the slots start anew under contention.
        let (requests, barrier) = (500, Barrier::new(THREADS as usize));
        let storm = |_| {
            (0..40_u64)
                .map(|second| {
                    barrier.wait();
                    let now = origin + millis(second * 1000);
                    (0..requests)
                        .map(|_| {
                            budget.deposit(now);
                            u64::from(withdrawals(&budget, 2, now))
                        })
                        .sum::<u64>()
                })
                .collect::<Vec<_>>()
        };
        let retries: Vec<Vec<u64>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || storm(thread))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for until in 1..=40_usize {
            let from = until.saturating_sub(10);
            let spent: u64 = retries.iter().flat_map(|thread| &thread[from..until]).sum();
            let seconds = (until - from) as u64;
            assert!(
                spent <= THREADS * requests * seconds / 5 + 10 * seconds,
                "seconds {from} to {until}: {spent}"
            );
        }
        let spent: u64 = retries.iter().flatten().sum();
        assert!(spent > THREADS * requests * 40 / 10, "{spent}: races may not cost most of the budget");
    }

    #[test]
    fn who_races_for_the_last_retry_does_not_get_it_twice() {
        const THREADS: usize = 2;
        let origin = Instant::now();
        let budgets: Vec<_> = (0..20_000).map(|_| RetryBudget::new(1.0, 0, origin)).collect();
        budgets.iter().for_each(|budget| budget.deposit(origin));
        let arrivals = AtomicUsize::new(0);
        let race = || {
            let spend = |(round, budget)| {
                arrivals.fetch_add(1, Ordering::Relaxed);
                while arrivals.load(Ordering::Relaxed) < (round + 1) * THREADS {
                    thread::yield_now();
                }
                withdrawals(budget, 1, origin)
            };
            budgets.iter().enumerate().map(spend).collect::<Vec<_>>()
        };
        let spent: Vec<_> = thread::scope(|scope| {
            let racers: Vec<_> = (0..THREADS).map(|_| scope.spawn(race)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        for (round, budget) in budgets.iter().enumerate() {
            let spent: u32 = spent.iter().map(|racer| racer[round]).sum();
            assert!(spent <= 1, "round {round}");
            assert_eq!(
                spent + withdrawals(budget, 2, origin),
                1,
                "round {round}: what was refused is not lost"
            );
        }
    }

    #[test]
    fn what_racers_are_refused_is_not_lost() {
        let origin = Instant::now();
        let budget = RetryBudget::new(1.0, 0, origin);
        let race = || {
            (0..100_000)
                .map(|_| {
                    budget.deposit(origin);
                    withdrawals(&budget, 2, origin)
                })
                .sum::<u32>()
        };
        let spent: u32 = thread::scope(|scope| {
            let racers: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });
        assert_eq!(spent + withdrawals(&budget, 400_000, origin), 400_000);
    }

    #[test]
    fn threads_whose_clocks_differ_get_no_more_than_was_paid_for() {
        let origin = Instant::now();
        let budget = RetryBudget::new(0.05, 0, origin);
        let spent: u32 = thread::scope(|scope| {
            let storm = |skew: u64| {
                let budget = &budget;
                scope.spawn(move || {
                    let mut spent = 0;
                    for step in 0..20_000 {
                        let now = origin + millis(skew + step * 3);
                        budget.deposit(now);
                        spent += withdrawals(budget, 2, now);
                    }
                    spent
                })
            };
            [0, 5, 900, 4000].map(storm).into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(spent <= 4 * 20_000 / 20, "{spent}");
    }
}
