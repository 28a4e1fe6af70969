//! Whole rollouts, simulated second by second: how often a good candidate is rolled back, a bad one promoted, and how soon it is
//! found. `cargo bench --bench canary` has more of them, with latencies, and prints the table of the documentation.

use super::*;

const STABLE: f64 = 0.002;
const SECOND: Duration = Duration::from_secs(1);

fn settings() -> Settings {
    Settings {
        start: 0.1,
        step: 0.1,
        every: 300 * SECOND,
        max: 1.0,
        require: Require {
            success_rate: Some(0.99),
            p99: None,
            min_requests: 100,
            max_requests: 10_000,
            confidence: 0.99,
            max_error_increase: Some(0.005),
            max_p99_increase: None,
        },
        on_failure: OnFailure::Rollback,
    }
}

/// How many of `requests` fail, by drawing the gaps in between.
fn failures(rng: &mut fastrand::Rng, requests: u64, rate: f64) -> u64 {
    let (mut failures, mut left) = (0, requests as f64);
    loop {
        left -= 1.0 + ((1.0 - rng.f64()).ln() / (-rate).ln_1p()).floor();
        if left < 0.0 {
            return failures;
        }
        failures += 1;
    }
}

struct End {
    phase: Phase,
    failures: u64,
    seconds: u32,
}

/// `rate` requests a second, of both sides together, for as long as it takes, but no longer than `patience` seconds.
fn rollout(fails: f64, rate: u64, patience: u32, seed: u64) -> End {
    let mut rng = fastrand::Rng::with_seed(seed);
    let began = Instant::now();
    let mut state = State::new(&settings(), "v1", "v2", began);
    let (mut stable, mut candidate) = (Sample::default(), Sample::default());
    let mut failed = 0;
    for seconds in 1..=patience {
        let to_candidate = failures(&mut rng, rate, state.weight().min(1.0 - 1e-9));
        let to_stable = rate - to_candidate;
        stable.requests += to_stable;
        stable.failures += failures(&mut rng, to_stable, STABLE);
        let now = began + SECOND * seconds;
        let failing = failures(&mut rng, to_candidate, fails);
        // The last of the failures is judged at the second's end, with the requests that went well.
        for failure in 1..=failing {
            candidate.failures += 1;
            candidate.requests += 1;
            failed += 1;
            if failure < failing && state.convict(&candidate, &stable, now).is_some() {
                return End { phase: state.phase(), failures: failed, seconds };
            }
        }
        candidate.requests += to_candidate - failing;
        let decision = state.judge(&candidate, &stable, now);
        if decision.begins_step() {
            (stable, candidate) = Default::default();
        }
        if let Decision::Promote { .. } | Decision::Rollback { .. } = decision {
            return End { phase: state.phase(), failures: failed, seconds };
        }
    }
    End { phase: state.phase(), failures: failed, seconds: patience }
}

fn rollouts(fails: f64, rate: u64, patience: u32, count: u64) -> Vec<End> {
    (0..count).map(|seed| rollout(fails, rate, patience, seed)).collect()
}

/// The median of those that were rolled back, which must be all.
fn median_seconds(ends: &[End]) -> u32 {
    assert!(ends.iter().all(|end| end.phase == Phase::RolledBack));
    let mut seconds: Vec<u32> = ends.iter().map(|end| end.seconds).collect();
    seconds.sort_unstable();
    seconds[seconds.len() / 2]
}

#[test]
fn a_candidate_as_good_as_stable_is_promoted_on_time() {
    for fails in [0.001, STABLE] {
        for end in rollouts(fails, 50, 9000, 12) {
            assert_eq!(end.phase, Phase::Promoted);
            assert!(end.seconds < 4000, "{} s", end.seconds);
        }
    }
}

#[test]
fn a_bad_candidate_is_not_promoted_at_any_rate_of_traffic() {
    for (rate, count) in [(1, 8), (50, 12), (500, 30)] {
        for end in rollouts(0.01, rate, 9000, count) {
            assert_ne!(end.phase, Phase::Promoted, "at {rate} requests a second");
        }
    }
}

#[test]
fn the_worse_a_candidate_the_sooner_it_is_found() {
    let two_percent = median_seconds(&rollouts(0.02, 500, 3000, 100));
    assert!(two_percent <= 15, "{two_percent} s");
    let five_percent = median_seconds(&rollouts(0.05, 500, 3000, 100));
    assert!(five_percent <= 6, "{five_percent} s");
}

#[test]
fn a_dead_candidate_is_stopped_after_at_most_eight_failures_at_any_rate_of_traffic() {
    for rate in [1, 50, 500, 5000] {
        for end in rollouts(1.0 - 1e-12, rate, 3000, 50) {
            assert_eq!(end.phase, Phase::RolledBack);
            assert!(end.failures <= 8, "{} failures", end.failures);
        }
    }
}
