//! How sure the counts of two sides make us that one fails too often, or that it does not.
//!
//! The judge looks every second, so a test that holds for one look would err sooner or later. An *e-process* holds for all looks
//! together: a bet against a hypothesis, fair or worse while the hypothesis is true, whose stake then ever reaches `1 / a` with
//! probability `a` at most (Ville's inequality). Here are two families of bets, each on the odds of a failure being `r` times
//! what the requirement allows: with `r > 1` against "it keeps to the requirement", with `r < 1` against "it breaks it". Several
//! `r` share the stake, as nobody knows how bad it is. See Howard, Ramdas, McAuliffe and Sekhon, *Time-uniform, nonparametric,
//! nonasymptotic confidence sequences* (Annals of Statistics 49, 2021), and Waudby-Smith and Ramdas, *Estimating means of bounded
//! random variables by betting* (JRSS B 86, 2024).
//!
//! One request of a candidate that fails with probability `p + margin` multiplies such a stake by `r` if it fails, and
//! each failure of stable, which fails with `p`, by the `s` that makes up for the unknown `p`, whatever it is:
//!
//! ```text
//! stake = r^(failures of the candidate) * s^(failures of stable) / (1 + margin (r - 1))^(requests of the candidate)
//! s = 1 - (r - 1) / (1 + margin (r - 1)) * requests of the candidate / requests of stable
//! ```
//!
//! The expectation, `(1 + (p + margin) (r - 1))^n (1 - p (1 - s))^m / (1 + margin (r - 1))^n`, has a logarithm that is concave in `p`, is
//! 0 and level at `p = 0`, and so is never above. Nothing is approximated: it holds for five requests as for five million,
//! and stable's own error is in it. Without stable, `s` falls away and `margin` is the share that may fail.
//!
//! `s` depends on how the requests are shared between the two sides, and it is fair over a time in which that stays as it is. So each step
//! of a canary is reckoned by itself, with stable's counts of the same time, and the logarithms are added up. Counts of several steps in one
//! sum would also blame the candidate for an hour in which both sides failed and it happened to have the larger share.

use serde::{Deserialize, Serialize};

/// Bets against a candidate: the ratio `r`, and its part of the stake. Dead, slightly worse, and what is between.
const BREACH: [(f64, f64); 6] =
    [(1.3, 0.15), (2.0, 0.25), (3.2, 0.3), (7.0, 0.2), (25.0, 0.05), (100.0, 0.05)];
/// Bets for it: as good as required is not enough to know, better by a fifth is, in time.
const KEEPS: [(f64, f64); 5] = [(0.8, 0.15), (0.6, 0.15), (0.35, 0.3), (0.15, 0.2), (0.02, 0.2)];
/// The least that a failure of stable leaves of a stake against the candidate. A bet that would leave less is made smaller.
const LEAST: f64 = 0.1;

/// Requests, and how many of them did what they should not: failed, or took too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trials {
    pub requests: u64,
    pub hits: u64,
}

impl Trials {
    /// 0 to 1; 0 without requests.
    pub fn rate(self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.hits as f64 / self.requests as f64 }
    }

    pub(super) fn plus(self, other: Trials) -> Trials {
        Trials { requests: self.requests + other.requests, hits: self.hits + other.hits }
    }

    pub(super) fn minus(self, other: Trials) -> Trials {
        let requests = self.requests.saturating_sub(other.requests);
        Trials { requests, hits: self.hits.saturating_sub(other.hits).min(requests) }
    }
}

/// The candidate's counts beside what they are measured by: stable's over the same time, or a share that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    pub candidate: Trials,
    pub stable: Option<Trials>,
}

impl Pair {
    pub(super) fn plus(self, other: Pair) -> Pair {
        let stable = match (self.stable, other.stable) {
            (Some(one), Some(two)) => Some(one.plus(two)),
            (one, two) => one.or(two),
        };
        Pair { candidate: self.candidate.plus(other.candidate), stable }
    }

    pub(super) fn minus(self, other: Pair) -> Pair {
        let stable = self.stable.map(|stable| stable.minus(other.stable.unwrap_or_default()));
        Pair { candidate: self.candidate.minus(other.candidate), stable }
    }

    /// The share of the candidate's requests that may be hits, as far as is known.
    pub(super) fn allowed(&self, margin: f64) -> f64 {
        self.stable.map_or(0.0, Trials::rate) + margin
    }

    /// The logarithm of the stake of the bet on `ratio`.
    fn stake(&self, ratio: f64, margin: f64) -> f64 {
        let requests = self.candidate.requests as f64;
        let Some(stable) = self.stable else {
            return self.candidate.hits as f64 * ratio.ln() - requests * (margin * (ratio - 1.0)).ln_1p();
        };
        let mut more = ratio - 1.0;
        if more > 0.0 {
            if stable.requests == 0 {
                return 0.0;
            }
            let times = requests / stable.requests as f64 - (1.0 - LEAST) * margin;
            if times > 0.0 {
                more = more.min((1.0 - LEAST) / times);
            }
        }
        let against = margin * more;
        let by_stable = if stable.hits == 0 {
            0.0
        } else {
            let times = requests / stable.requests as f64;
            stable.hits as f64 * (-more / (1.0 + against) * times).ln_1p()
        };
        self.candidate.hits as f64 * more.ln_1p() + by_stable - requests * against.ln_1p()
    }
}

/// The stakes of all bets, as logarithms. Those of consecutive times add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    breach: [f64; BREACH.len()],
    keeps: [f64; KEEPS.len()],
}

impl Evidence {
    /// `margin` is what is allowed beyond stable, or at all.
    pub fn of(pair: &Pair, margin: f64) -> Evidence {
        Evidence {
            breach: BREACH.map(|(ratio, _)| pair.stake(ratio, margin)),
            keeps: KEEPS.map(|(ratio, _)| pair.stake(ratio, margin)),
        }
    }

    /// Whether more can be added to it, for as long as one likes. A request adds a few at most.
    pub(super) fn is_plausible(&self) -> bool {
        self.breach.iter().chain(&self.keeps).all(|log| log.abs() <= 1e18)
    }

    pub fn plus(&self, other: &Evidence) -> Evidence {
        Evidence {
            breach: std::array::from_fn(|index| self.breach[index] + other.breach[index]),
            keeps: std::array::from_fn(|index| self.keeps[index] + other.keeps[index]),
        }
    }

    /// The logarithm of what is won against "it keeps to the requirement".
    pub fn breach(&self) -> f64 {
        together(&self.breach, &BREACH)
    }

    /// The logarithm of what is won against "it breaks the requirement".
    pub fn keeps(&self) -> f64 {
        together(&self.keeps, &KEEPS)
    }

    /// As if so much more, or less, of the same had been seen.
    pub(super) fn times(&self, factor: f64) -> Evidence {
        Evidence { breach: self.breach.map(|log| log * factor), keeps: self.keeps.map(|log| log * factor) }
    }
}

/// The logarithm of the sum of the stakes.
fn together(logs: &[f64], bets: &[(f64, f64)]) -> f64 {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().zip(bets).map(|(log, (_, part))| part * (log - most).exp()).sum();
    most + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probability of `hits` among `requests`.
    fn binomial(requests: u64, hits: u64, rate: f64) -> f64 {
        let ways: f64 = (0..hits).map(|k| (requests - k) as f64 / (k + 1) as f64).product();
        ways * rate.powi(hits as i32) * (1.0 - rate).powi((requests - hits) as i32)
    }

    /// What the two families of bets are worth on average, added up over everything that can happen.
    fn expected(n: u64, fails: f64, stable: Option<(u64, f64)>, margin: f64) -> [f64; 2] {
        let mut sums = [0.0, 0.0];
        let (m, rate) = stable.unwrap_or_default();
        for (x, y) in (0..=n).flat_map(|x| (0..=m).map(move |y| (x, y))) {
            let candidate = Trials { requests: n, hits: x };
            let pair = Pair { candidate, stable: stable.map(|_| Trials { requests: m, hits: y }) };
            let evidence = Evidence::of(&pair, margin);
            let chance = binomial(n, x, fails) * binomial(m, y, rate);
            sums[0] += chance * evidence.breach().exp();
            sums[1] += chance * evidence.keeps().exp();
        }
        sums
    }

    #[test]
    fn no_bet_wins_on_average_against_what_is_true() {
        for margin in [0.0, 0.001, 0.01, 0.3] {
            for rate in [0.0, 0.002, 0.05, 0.5] {
                for (n, m) in [(1, 1), (5, 40), (40, 5), (20, 20)] {
                    let fails = rate + margin;
                    let [breach, keeps] = expected(n, fails, Some((m, rate)), margin);
                    assert!(
                        breach < 1.0 + 1e-9 && keeps < 1.0 + 1e-9,
                        "{margin} {rate} {n} {m}: {breach} {keeps}"
                    );
                    let [breach, _] = expected(n, fails / 2.0, Some((m, rate)), margin);
                    let [_, keeps] = expected(n, fails * 1.5, Some((m, rate)), margin);
                    assert!(
                        breach < 1.0 + 1e-9 && keeps < 1.0 + 1e-9,
                        "{margin} {rate} {n} {m}: {breach} {keeps}"
                    );
                }
            }
            let exact = expected(30, margin, None, margin);
            assert!(exact.iter().all(|mean| (mean - 1.0).abs() < 1e-9), "{margin}: {exact:?}");
        }
    }

    #[test]
    fn the_stakes_of_two_times_add_up_without_stable() {
        let pair = |requests, hits| Pair { candidate: Trials { requests, hits }, stable: None };
        let apart = Evidence::of(&pair(100, 3), 0.01).plus(&Evidence::of(&pair(50, 1), 0.01));
        let together = Evidence::of(&pair(150, 4), 0.01);
        assert!((apart.breach() - together.breach()).abs() < 1e-9);
        assert!((apart.keeps() - together.keeps()).abs() < 1e-9);
    }

    #[test]
    fn nothing_seen_is_no_evidence_and_no_counts_break_the_sums() {
        assert_eq!(Evidence::default().breach(), 0.0);
        assert_eq!(Evidence::of(&Pair::default(), 0.01), Evidence::default());
        for requests in [0, 1, u64::MAX >> 1] {
            for hits in [0, requests / 2, requests] {
                for stable in [None, Some(Trials::default()), Some(Trials { requests: 7, hits: 7 })] {
                    for margin in [0.0, 0.01, 1.0] {
                        let evidence =
                            Evidence::of(&Pair { candidate: Trials { requests, hits }, stable }, margin);
                        assert!(evidence.breach().is_finite() && evidence.keeps().is_finite());
                    }
                }
            }
        }
    }

    /// At the very edge of what is allowed, where it is hardest, and looked at again and again.
    #[test]
    fn looking_a_thousand_times_errs_no_more_often_than_once() {
        const MARGIN: f64 = 0.02;
        let mut rng = fastrand::Rng::with_seed(7);
        let mut wrong = [0, 0];
        for _ in 0..400 {
            let (mut candidate, mut stable) = (Trials::default(), Trials::default());
            let mut crossed = [false, false];
            for _ in 0..1000 {
                for _ in 0..5 {
                    candidate.requests += 1;
                    candidate.hits += u64::from(rng.f64() < 0.01 + MARGIN);
                    stable.requests += 1;
                    stable.hits += u64::from(rng.f64() < 0.01);
                }
                let evidence = Evidence::of(&Pair { candidate, stable: Some(stable) }, MARGIN);
                crossed[0] |= evidence.breach() >= 100_f64.ln();
                crossed[1] |= evidence.keeps() >= 100_f64.ln();
            }
            (0..2).for_each(|side| wrong[side] += u32::from(crossed[side]));
        }
        assert!(wrong.iter().all(|&wrong| wrong <= 4), "{wrong:?} of 400, with 1 in 100 allowed");
    }
}
