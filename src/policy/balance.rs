//! Which endpoint is next: the balancing algorithms, over anything that can be seen as a row of candidates.
//! Health, connections and time live with the caller, who answers for each candidate whether it may be picked.
//! None of the algorithms allocates, and none panics: where nothing may be picked, the answer is `None`.

use std::time::{Duration, Instant};

/// A row of endpoints as a balancer sees them. Indices run from 0 to `len() - 1`.
pub trait Candidates {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Share of the traffic relative to the others; 0 is never picked.
    fn weight(&self, index: usize) -> u32;

    /// Whether this one may be picked now, its weight aside.
    fn usable(&self, index: usize) -> bool;

    /// Requests in flight.
    fn active(&self, index: usize) -> usize;

    /// Expected response time in seconds; `None` where nothing is known.
    fn latency(&self, index: usize) -> Option<f64>;
}

/// Smooth weighted round robin, as in nginx: weights 5, 1, 1 give A A B A C A A. Exact over each cycle as long
/// as the same candidates stay usable; one that is out keeps its place and does not catch up when it returns.
pub struct Smooth {
    current: Vec<i64>,
}

impl Smooth {
    /// For `len` candidates, all at the start of the cycle.
    pub fn new(len: usize) -> Smooth {
        Smooth { current: vec![0; len] }
    }

    pub fn pick(&mut self, candidates: &impl Candidates) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<usize> = None;
        for index in 0..candidates.len().min(self.current.len()) {
            let weight = i64::from(eligible_weight(candidates, index));
            if weight == 0 {
                continue;
            }
            total += weight;
            self.current[index] += weight;
            if best.is_none_or(|best| self.current[index] > self.current[best]) {
                best = Some(index);
            }
        }
        let best = best?;
        self.current[best] -= total;
        Some(best)
    }
}

/// Random, each in proportion to its weight.
pub fn weighted_random(candidates: &impl Candidates, rng: &mut fastrand::Rng) -> Option<usize> {
    weighted_random_except(candidates, None, rng)
}

/// The fewest requests in flight for its weight, the one about to be sent included; without it the weights
/// would not count while nothing is in flight. Ties are broken at random, by weight.
pub fn least_requests(candidates: &impl Candidates, rng: &mut fastrand::Rng) -> Option<usize> {
    let mut best: Option<(usize, u64, u64)> = None;
    let mut tied_weight = 0;
    for index in 0..candidates.len() {
        let weight = u64::from(eligible_weight(candidates, index));
        if weight == 0 {
            continue;
        }
        let load = candidates.active(index) as u64 + 1;
        // Cross-multiplied: comparing load / weight without rounding.
        let order = best.map(|(_, best_load, best_weight)| (load * best_weight).cmp(&(best_load * weight)));
        match order {
            None | Some(std::cmp::Ordering::Less) => {
                best = Some((index, load, weight));
                tied_weight = weight;
            }
            Some(std::cmp::Ordering::Equal) => {
                tied_weight += weight;
                if rng.u64(0..tied_weight) < weight {
                    best = Some((index, load, weight));
                }
            }
            Some(std::cmp::Ordering::Greater) => {}
        }
    }
    best.map(|(index, ..)| index)
}

/// The better of two random choices: lower response time times requests in flight, for its weight.
/// Two choices avoid the herd that sends everyone to the one endpoint that looked best a moment ago.
pub fn two_choices(candidates: &impl Candidates, rng: &mut fastrand::Rng) -> Option<usize> {
    let first = weighted_random(candidates, rng)?;
    let Some(second) = weighted_random_except(candidates, Some(first), rng) else {
        return Some(first);
    };
    if cost(candidates, second) < cost(candidates, first) { Some(second) } else { Some(first) }
}

/// An endpoint nobody has heard from costs nothing until one request is on its way, and then more than any other
/// until it answers: otherwise a new endpoint, at cost 0, would be sent everything.
fn cost(candidates: &impl Candidates, index: usize) -> f64 {
    const UNANSWERED: f64 = 1e9;
    let active = candidates.active(index) as f64;
    let weight = f64::from(candidates.weight(index).max(1));
    let expected = match candidates.latency(index) {
        Some(latency) => latency * (active + 1.0),
        None if active == 0.0 => 0.0,
        None => UNANSWERED * active,
    };
    expected / weight
}

fn weighted_random_except(
    candidates: &impl Candidates,
    except: Option<usize>,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let weight = |index| match except {
        Some(except) if except == index => 0,
        _ => u64::from(eligible_weight(candidates, index)),
    };
    let total: u64 = (0..candidates.len()).map(weight).sum();
    if total == 0 {
        return None;
    }
    let mut left = rng.u64(0..total);
    let mut last = None;
    for index in 0..candidates.len() {
        let weight = weight(index);
        if weight == 0 {
            continue;
        }
        if left < weight {
            return Some(index);
        }
        left -= weight;
        last = Some(index);
    }
    // Health may change between the two passes; then the last usable one is as good as any.
    last
}

fn eligible_weight(candidates: &impl Candidates, index: usize) -> u32 {
    if candidates.usable(index) { candidates.weight(index) } else { 0 }
}

/// A peak-sensitive moving average of response times: a slower answer counts at once, faster ones pull it down over
/// `DECAY`, and silence does too, so that an endpoint once slow is tried again.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeakEwma {
    last: Option<(f64, Instant)>,
}

impl PeakEwma {
    /// Time after which an observation has lost 63 % of its weight. Finagle's default.
    pub const DECAY: Duration = Duration::from_secs(10);

    /// Below this many seconds nothing is known any more.
    const FORGOTTEN: f64 = 1e-6;

    pub fn observe(&mut self, response_time: Duration, now: Instant) {
        let sample = response_time.as_secs_f64();
        let value = match self.last {
            Some((value, at)) if sample < value => {
                let kept = kept(at, now);
                value * kept + sample * (1.0 - kept)
            }
            _ => sample,
        };
        self.last = Some((value, now));
    }

    /// Seconds expected at `now`; `None` before the first observation and long after the last.
    pub fn seconds(&self, now: Instant) -> Option<f64> {
        let (value, at) = self.last?;
        Some(value * kept(at, now)).filter(|seconds| *seconds >= Self::FORGOTTEN)
    }
}

fn kept(at: Instant, now: Instant) -> f64 {
    (-now.saturating_duration_since(at).as_secs_f64() / PeakEwma::DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Row {
        weight: u32,
        down: bool,
        active: usize,
        latency: Option<f64>,
    }

    impl Candidates for Vec<Row> {
        fn len(&self) -> usize {
            Vec::len(self)
        }
        fn weight(&self, index: usize) -> u32 {
            self[index].weight
        }
        fn usable(&self, index: usize) -> bool {
            !self[index].down
        }
        fn active(&self, index: usize) -> usize {
            self[index].active
        }
        fn latency(&self, index: usize) -> Option<f64> {
            self[index].latency
        }
    }

    fn rows(weights: &[u32]) -> Vec<Row> {
        weights.iter().map(|&weight| Row { weight, ..Row::default() }).collect()
    }

    fn rng() -> fastrand::Rng {
        fastrand::Rng::with_seed(7)
    }

    /// Every algorithm, by name, as one closure over the candidates.
    type Pick = Box<dyn FnMut(&Vec<Row>) -> Option<usize>>;

    fn algorithms(len: usize) -> Vec<(&'static str, Pick)> {
        let mut smooth = Smooth::new(len);
        let (mut a, mut b, mut c) = (rng(), rng(), rng());
        vec![
            ("smooth", Box::new(move |rows| smooth.pick(rows))),
            ("random", Box::new(move |rows| weighted_random(rows, &mut a))),
            ("least_requests", Box::new(move |rows| least_requests(rows, &mut b))),
            ("two_choices", Box::new(move |rows| two_choices(rows, &mut c))),
        ]
    }

    /// Picks 10,000 times with 60 requests in flight, each finishing at random, all equally fast.
    fn counts_under_load(
        rows: &mut Vec<Row>,
        mut pick: impl FnMut(&Vec<Row>) -> Option<usize>,
    ) -> Vec<usize> {
        let mut random = rng();
        let mut flying = Vec::new();
        let mut counts = vec![0; rows.len()];
        rows.iter_mut().for_each(|row| row.latency = Some(0.01));
        for _ in 0..10_000 {
            if flying.len() == 60 {
                let done: usize = flying.swap_remove(random.usize(0..60));
                rows[done].active -= 1;
            }
            let index = pick(rows).unwrap();
            rows[index].active += 1;
            flying.push(index);
            counts[index] += 1;
        }
        counts
    }

    #[test]
    fn smooth_interleaves_as_nginx_does() {
        let rows = rows(&[5, 1, 1]);
        let mut smooth = Smooth::new(3);
        let picks: String = (0..14).map(|_| ['A', 'B', 'C'][smooth.pick(&rows).unwrap()]).collect();
        assert_eq!(picks, "AABACAAAABACAA");
    }

    #[test]
    fn smooth_is_exact_over_every_cycle_and_never_bursts() {
        let mut random = rng();
        for _ in 0..200 {
            let weights: Vec<u32> = (0..random.usize(2..8)).map(|_| random.u32(1..20)).collect();
            let rows = rows(&weights);
            let total: u32 = weights.iter().sum();
            let mut smooth = Smooth::new(weights.len());
            let (mut run, mut before) = (0, usize::MAX);
            for _cycle in 0..3 {
                let mut counts = vec![0; weights.len()];
                for _ in 0..total {
                    let index = smooth.pick(&rows).unwrap();
                    counts[index] += 1;
                    run = if index == before { run + 1 } else { 1 };
                    before = index;
                    // Between two picks of the others there is room for its share, twice at the seam of two cycles.
                    let others = total - weights[index];
                    assert!(
                        run <= 2 * weights[index].div_ceil(others),
                        "{weights:?}: {run} of {index} in a row"
                    );
                }
                assert_eq!(counts, weights);
            }
        }
    }

    #[test]
    fn shares_follow_weights_within_five_percent() {
        for weights in [vec![1, 1], vec![5, 1, 1], vec![5, 3, 2], vec![2; 10], vec![100, 100, 50]] {
            let total: u32 = weights.iter().sum();
            for (name, pick) in algorithms(weights.len()) {
                let counts = counts_under_load(&mut rows(&weights), pick);
                for (count, weight) in counts.iter().zip(&weights) {
                    let share = *count as f64 / 10_000.0;
                    let fair = f64::from(*weight) / f64::from(total);
                    assert!((share - fair).abs() < 0.05 * fair.max(0.3), "{name} {weights:?}: {counts:?}");
                }
            }
        }
    }

    #[test]
    fn an_endpoint_that_dies_midway_gets_nothing_and_the_others_share_by_weight() {
        for (name, mut pick) in algorithms(3) {
            let mut rows = rows(&[2, 1, 1]);
            (0..50).for_each(|_| assert!(pick(&rows).is_some()));
            rows[0].down = true;
            let mut counts = [0_u32; 3];
            (0..1000).for_each(|_| counts[pick(&rows).unwrap()] += 1);
            assert_eq!(counts[0], 0, "{name}");
            assert!(counts[1].abs_diff(counts[2]) < 120, "{name}: {counts:?}");
        }
    }

    #[test]
    fn weight_zero_is_never_picked() {
        for (name, mut pick) in algorithms(3) {
            let rows = rows(&[0, 3, 0]);
            (0..100).for_each(|_| assert_eq!(pick(&rows), Some(1), "{name}"));
        }
    }

    #[test]
    fn nothing_to_pick_is_none() {
        for weights in [vec![], vec![0, 0, 0]] {
            for (name, mut pick) in algorithms(weights.len()) {
                assert_eq!(pick(&rows(&weights)), None, "{name}");
            }
        }
        for (name, mut pick) in algorithms(2) {
            let mut rows = rows(&[1, 65_535]);
            rows.iter_mut().for_each(|row| row.down = true);
            assert_eq!(pick(&rows), None, "{name}");
        }
    }

    #[test]
    fn least_requests_counts_load_against_weight() {
        let mut rows = rows(&[4, 1]);
        (rows[0].active, rows[1].active) = (2, 0);
        assert_eq!(least_requests(&rows, &mut rng()), Some(0), "3/4 is less than 1/1");
        rows[0].active = 4;
        assert_eq!(least_requests(&rows, &mut rng()), Some(1), "5/4 is more than 1/1");
    }

    #[test]
    fn two_choices_avoids_the_slow_one() {
        let mut rows = rows(&[1, 1]);
        (rows[0].latency, rows[1].latency) = (Some(0.5), Some(0.01));
        let mut random = rng();
        (0..100).for_each(|_| assert_eq!(two_choices(&rows, &mut random), Some(1)));
    }

    #[test]
    fn an_unknown_endpoint_is_tried_once_until_it_answers() {
        let mut rows = rows(&[1, 1]);
        rows[0].latency = Some(0.01);
        assert_eq!(two_choices(&rows, &mut rng()), Some(1));
        rows[1].active = 1;
        assert_eq!(two_choices(&rows, &mut rng()), Some(0));
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_fades() {
        let start = Instant::now();
        let mut ewma = PeakEwma::default();
        assert_eq!(ewma.seconds(start), None);
        ewma.observe(Duration::from_millis(10), start);
        ewma.observe(Duration::from_secs(1), start);
        assert_eq!(ewma.seconds(start), Some(1.0));
        let later = start + PeakEwma::DECAY;
        assert!((ewma.seconds(later).unwrap() - 0.368).abs() < 0.001);
        ewma.observe(Duration::from_millis(10), later);
        assert!((ewma.seconds(later).unwrap() - 0.374).abs() < 0.001);
        assert_eq!(ewma.seconds(later + PeakEwma::DECAY * 20), None);
    }
}
