//! What becomes of good and bad candidates: 200 simulated rollouts for each, at three rates of traffic. No clock and no socket; each
//! request is drawn from a seeded generator, counted and judged as in the gateway. The table stands in docs/traffic/canaries.md.
//! Run with `cargo bench --bench canary`; with the name of a candidate, such as `2%`, for that alone.

use std::time::{Duration, Instant};

use tidegate::policy::canary::{Decision, Observed, OnFailure, Phase, Require, Settings, State};

const ROLLOUTS: u64 = 200;
const STABLE: f64 = 0.002;
const CANDIDATES: [f64; 7] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 1.0];
/// Requests a second, of both sides together.
const RATES: [u32; 3] = [1, 50, 500];
const SLOWER: [f64; 2] = [1.0, 1.3];
/// Seven times what a rollout takes without a doubt. Then it counts as undecided.
const PATIENCE: u32 = 6 * 3600;
const SECOND: Duration = Duration::from_secs(1);

fn main() {
    let only = std::env::args().skip(1).find(|word| word.ends_with('%'));
    println!(
        "| candidate fails | latency | requests/s | promoted | after | rolled back | after | requests it got | of these \
         failed | undecided |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for slower in SLOWER {
        for fails in CANDIDATES {
            let name = format!("{}%", fails * 100.0);
            if only.as_ref().is_some_and(|only| *only != name) {
                continue;
            }
            let latency = if slower > 1.0 { "30% worse" } else { "equal" };
            for rate in RATES {
                let ends: Vec<End> = (0..ROLLOUTS).map(|seed| rollout(fails, slower, rate, seed)).collect();
                println!("| {name} | {latency} | {rate} | {} |", row(&ends));
            }
        }
    }
}

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
            max_p99_increase: Some(0.2),
        },
        on_failure: OnFailure::Rollback,
    }
}

/// How a rollout ended.
struct End {
    phase: Phase,
    requests: u64,
    failures: u64,
    seconds: f64,
}

fn rollout(fails: f64, slower: f64, rate: u32, seed: u64) -> End {
    let mut rng = fastrand::Rng::with_seed(seed);
    let latencies = Latencies::new();
    let began = Instant::now();
    let mut state = State::new(&settings(), "v1", "v2", began);
    let (stable, candidate) = (Observed::default(), Observed::default());
    let (mut requests, mut failures) = (0, 0);
    for second in 0..PATIENCE {
        // The gateway looks once a second, and at the first few failures in between.
        for request in 1..=rate {
            let latency = latencies.draw(&mut rng);
            if rng.f64() >= state.weight() {
                stable.record(rng.f64() >= STABLE, latency);
                continue;
            }
            let failed = rng.f64() < fails;
            candidate.record(!failed, latency.mul_f64(slower));
            requests += 1;
            failures += u64::from(failed);
            if !failed && request < rate {
                continue;
            }
            let now = began + SECOND * second + SECOND * request / rate;
            if let Some(end) = look(&mut state, &candidate, &stable, now) {
                return End { phase: end, requests, failures, seconds: (now - began).as_secs_f64() };
            }
        }
        let now = began + SECOND * (second + 1);
        if let Some(end) = look(&mut state, &candidate, &stable, now) {
            return End { phase: end, requests, failures, seconds: (now - began).as_secs_f64() };
        }
    }
    End { phase: state.phase(), requests, failures, seconds: PATIENCE.into() }
}

fn look(state: &mut State, candidate: &Observed, stable: &Observed, now: Instant) -> Option<Phase> {
    let decision = state.judge(&candidate.peek(), &stable.peek(), now);
    if decision.begins_step() {
        candidate.take();
        stable.take();
    }
    matches!(decision, Decision::Promote { .. } | Decision::Rollback { .. }).then(|| state.phase())
}

fn row(ends: &[End]) -> String {
    let those = |phase: Phase| ends.iter().filter(move |end| end.phase == phase);
    let median = |phase: Phase, of: fn(&End) -> f64, unit: &str| {
        let mut values: Vec<f64> = those(phase).map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).map_or("-".to_owned(), |value| format!("{value:.0}{unit}"))
    };
    [
        those(Phase::Promoted).count().to_string(),
        median(Phase::Promoted, |end| end.seconds, " s"),
        those(Phase::RolledBack).count().to_string(),
        median(Phase::RolledBack, |end| end.seconds, " s"),
        median(Phase::RolledBack, |end| end.requests as f64, ""),
        median(Phase::RolledBack, |end| end.failures as f64, ""),
        those(Phase::Progressing).count().to_string(),
    ]
    .join(" | ")
}

/// Half of all requests take up to 20 ms, one in a hundred 64 ms and more: a log-normal distribution, by its quantiles.
struct Latencies(Vec<Duration>);

impl Latencies {
    const SPREAD: f64 = 0.5;
    const MEDIAN: f64 = 0.02;

    fn new() -> Latencies {
        const QUANTILES: usize = 4096;
        // A standard normal variable as the sum of twelve uniform ones has no tail; Box and Muller's has.
        let mut rng = fastrand::Rng::with_seed(7);
        let normal = |rng: &mut fastrand::Rng| {
            (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
        };
        let draw = |_| Duration::from_secs_f64(Self::MEDIAN * (Self::SPREAD * normal(&mut rng)).exp());
        Latencies((0..QUANTILES).map(draw).collect())
    }

    fn draw(&self, rng: &mut fastrand::Rng) -> Duration {
        self.0[rng.usize(..self.0.len())]
    }
}
