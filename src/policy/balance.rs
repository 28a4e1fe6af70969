//! Which endpoint is next: the balancing algorithms, over anything that can be seen as a row of candidates.
//! Health, connections and time live with the caller, who answers for each candidate whether it may be picked.
//! None of the algorithms allocates for a pick, and none panics: where nothing may be picked, the answer is `None`.

use std::time::{Duration, Instant};

use super::fading::Fading;

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

    /// Requests in flight, and those that count as such.
    fn active(&self, index: usize) -> usize;

    /// Expected response time in seconds; `None` where nothing is known.
    fn latency(&self, index: usize) -> Option<f64>;
}

/// Smooth weighted round robin, as in nginx: weights 5, 1, 1 give A A B A C A A. Exact over each cycle as long
/// as the same candidates stay usable; one that is out keeps its place and does not catch up when it returns.
///
/// The balancers that go by load decide with it between those that are as good as each other. Whom they pass over is owed what
/// it misses, so that shares are those of the weights, though load and response times are never quite even.
pub struct Smooth {
    current: Vec<i64>,
}

/// More requests than this nobody is owed: an endpoint that was slow for an hour does not get all of it afterwards.
const MOST_OWED: i64 = 4;

impl Smooth {
    /// For `len` candidates, all at the start of the cycle.
    pub fn new(len: usize) -> Smooth {
        Smooth { current: vec![0; len] }
    }

    /// In turn, with nothing else to go by.
    pub fn pick(&mut self, candidates: &impl Candidates) -> Option<usize> {
        let all = (0..candidates.len()).map(|index| (eligible_weight(candidates, index), true));
        self.advance(all, i64::MAX)
    }

    /// One of those that were seen.
    pub fn choose(&mut self, look: &Look) -> Option<usize> {
        self.advance(look.seen.iter().map(|seen| (seen.load.weight, seen.may)), look.most)
    }

    /// One of those that may be picked, and where that is none any that has weight. Who has `most` gets no more for being
    /// passed over.
    fn advance(&mut self, candidates: impl Iterator<Item = (u32, bool)>, most: i64) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(bool, i64, usize)> = None;
        for (index, ((weight, may), current)) in candidates.zip(&mut self.current).enumerate() {
            let weight = i64::from(weight);
            if weight == 0 {
                continue;
            }
            if *current < most {
                *current += weight;
                total += weight;
            }
            if best.is_none_or(|(other_may, other, _)| (may, *current) > (other_may, other)) {
                best = Some((may, *current, index));
            }
        }
        let (.., best) = best?;
        // What is given and what is taken are the same, so that nobody runs away however long another is full.
        self.current[best] -= total;
        Some(best)
    }
}

/// What was seen of each candidate, for the choice that follows. Looking asks each of thousands for its health, its breaker and its load;
/// choosing adds a few numbers. So only the choice is made under a lock. Kept by whoever picks, so that nothing is allocated.
#[derive(Debug, Default)]
pub struct Look {
    seen: Vec<Seen>,
    most: i64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Its weight is 0 where it may not be picked now.
    load: Load,
    may: bool,
}

impl Look {
    /// Whoever has weight may be picked, in turn.
    pub fn in_turn(&mut self, candidates: &impl Candidates) {
        self.at(candidates, |_| 0);
    }

    fn at(&mut self, candidates: &impl Candidates, active: impl Fn(usize) -> usize) {
        self.most = i64::MAX;
        self.seen.clear();
        self.seen.extend((0..candidates.len()).map(|index| {
            let weight = eligible_weight(candidates, index);
            let active = if weight == 0 { 0 } else { active(index) as u64 };
            Seen { load: Load { active, weight }, may: true }
        }));
    }

    /// Nobody is owed more than a few requests for being passed over.
    fn owe_little(&mut self) {
        let total: i64 = self.seen.iter().map(|seen| i64::from(seen.load.weight)).sum();
        self.most = MOST_OWED * total;
    }

    fn draw(&self, except: Option<usize>, rng: &mut fastrand::Rng) -> Option<usize> {
        let weight = |index: usize| if except == Some(index) { 0 } else { self.seen[index].load.weight };
        draw(self.seen.len(), weight, rng)
    }
}

/// Random, each in proportion to its weight.
pub fn weighted_random(candidates: &impl Candidates, rng: &mut fastrand::Rng) -> Option<usize> {
    draw(candidates.len(), |index| eligible_weight(candidates, index), rng)
}

/// The fewest requests in flight for its weight. Whoever would have no more with this request than the best would have with it
/// is as good, and `turns` decides: whole requests cannot be shared out more evenly. Comparing requests for each weight alone
/// would give weights 2 and 1 equal shares while one request is in flight; counting the one that is about to be sent would
/// give the lighter one nothing.
pub fn least_requests(candidates: &impl Candidates, look: &mut Look) {
    look.at(candidates, |index| candidates.active(index));
    let loads = look.seen.iter().map(|seen| seen.load).filter(|load| load.weight > 0);
    let least = loads.reduce(|least, load| if load.is_less_with_one_more(least) { load } else { least });
    let Some(least) = least else { return };
    look.owe_little();
    look.seen.iter_mut().for_each(|seen| seen.may = seen.load.has_room_beside(least));
}

/// Requests in flight and the weight they are seen against. Compared by multiplying crosswise, without rounding.
#[derive(Clone, Copy, Debug)]
struct Load {
    active: u64,
    weight: u32,
}

impl Load {
    fn is_less_with_one_more(self, other: Load) -> bool {
        (self.active + 1) * u64::from(other.weight) < (other.active + 1) * u64::from(self.weight)
    }

    /// Whether it has less than `least` would have with one more.
    fn has_room_beside(self, least: Load) -> bool {
        self.active * u64::from(least.weight) < (least.active + 1) * u64::from(self.weight)
    }
}

/// The better of two random choices: response time times requests in flight, for its weight. Two choices avoid the herd that
/// sends everyone to the one endpoint that looked best a moment ago. Where neither is clearly better, it is as with
/// [`least_requests`] between the two: the times of equal endpoints differ by chance, and would settle the shares.
pub fn two_choices(candidates: &impl Candidates, rng: &mut fastrand::Rng, look: &mut Look) {
    /// So many times as costly is clearly worse. Also the most that rounding to whole requests can make of equal endpoints.
    const CLEARLY: f64 = 3.0;
    look.in_turn(candidates);
    let Some(first) = look.draw(None, rng) else { return };
    let second = look.draw(Some(first), rng).unwrap_or(first);
    let load = |index: usize| Load { active: candidates.active(index) as u64, ..look.seen[index].load };
    let (one, other) = (load(first), load(second));
    let unit = one.weight.min(other.weight);
    let cost_of_one = cost(one, candidates.latency(first), unit);
    let cost_of_other = cost(other, candidates.latency(second), unit);
    let [first_may, second_may] = if cost_of_one > CLEARLY * cost_of_other {
        [false, true]
    } else if cost_of_other > CLEARLY * cost_of_one {
        [true, false]
    } else {
        let least = if other.is_less_with_one_more(one) { other } else { one };
        [one.has_room_beside(least), other.has_room_beside(least)]
    };
    look.owe_little();
    look.seen.iter_mut().for_each(|seen| seen.may = false);
    look.seen[second].may = second_may;
    look.seen[first].may |= first_may;
}

/// In seconds. Requests in flight count against the weight in multiples of `unit`, and as one where they are fewer than that.
///
/// An endpoint nobody has heard from costs nothing until one request is on its way, and then more than any other
/// until it answers: otherwise a new endpoint, at cost 0, would be sent everything.
fn cost(Load { active, weight }: Load, latency: Option<f64>, unit: u32) -> f64 {
    const UNANSWERED: f64 = 1e9;
    match latency {
        Some(latency) => latency * ((active + 1) as f64 * f64::from(unit) / f64::from(weight)).max(1.0),
        None if active == 0 => 0.0,
        None => UNANSWERED * active as f64,
    }
}

/// One of `len`, each in proportion to its weight.
fn draw(len: usize, weight: impl Fn(usize) -> u32, rng: &mut fastrand::Rng) -> Option<usize> {
    let weight = |index| u64::from(weight(index));
    let total: u64 = (0..len).map(weight).sum();
    if total == 0 {
        return None;
    }
    let mut left = rng.u64(0..total);
    let mut last = None;
    for index in 0..len {
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
/// `DECAY`, and silence does too, so that an endpoint once slow is tried again. With less than a request every few seconds that
/// makes one endpoint look better than another that was asked later.
#[derive(Debug)]
pub struct PeakEwma(Fading);

impl PeakEwma {
    /// Time after which an observation has lost 63 % of its weight. Finagle's default.
    pub const DECAY: Duration = Duration::from_secs(10);

    /// Below this many seconds nothing is known any more.
    const FORGOTTEN: f64 = 1e-6;

    pub fn new(now: Instant) -> PeakEwma {
        PeakEwma(Fading::new(PeakEwma::DECAY, now))
    }

    pub fn observe(&self, response_time: Duration, now: Instant) {
        let sample = response_time.as_secs_f64();
        self.0.change(
            now,
            |last, kept| if sample < last { last * kept + sample * (1.0 - kept) } else { sample },
        );
    }

    /// Seconds as of the last observation; `None` before the first.
    pub fn last_seconds(&self) -> Option<f64> {
        Some(self.0.last()).filter(|seconds| *seconds > 0.0)
    }

    /// Seconds expected at `now`; `None` before the first observation and long after the last.
    pub fn seconds(&self, now: Instant) -> Option<f64> {
        Some(self.0.value(now)).filter(|seconds| *seconds >= Self::FORGOTTEN)
    }
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

    fn least_requests(rows: &Vec<Row>, turns: &mut Smooth) -> Option<usize> {
        let mut look = Look::default();
        super::least_requests(rows, &mut look);
        turns.choose(&look)
    }

    fn two_choices(rows: &Vec<Row>, turns: &mut Smooth, rng: &mut fastrand::Rng) -> Option<usize> {
        let mut look = Look::default();
        super::two_choices(rows, rng, &mut look);
        turns.choose(&look)
    }

    /// Every algorithm, by name, as one closure over the candidates.
    type Pick = Box<dyn FnMut(&Vec<Row>) -> Option<usize>>;

    fn algorithms(len: usize) -> Vec<(&'static str, Pick)> {
        let mut smooth = Smooth::new(len);
        let (mut a, mut b) = (rng(), rng());
        let (mut least, mut better) = (Smooth::new(len), Smooth::new(len));
        vec![
            ("smooth", Box::new(move |rows| smooth.pick(rows))),
            ("random", Box::new(move |rows| weighted_random(rows, &mut a))),
            ("least_requests", Box::new(move |rows| least_requests(rows, &mut least))),
            ("two_choices", Box::new(move |rows| two_choices(rows, &mut better, &mut b))),
        ]
    }

    /// By chance some end sooner than others: shares of fewer would say more about chance than about who picks.
    const PICKS: usize = 40_000;

    /// Picks with 60 requests in flight, each finishing at random, all equally fast.
    fn counts_under_load(
        rows: &mut Vec<Row>,
        mut pick: impl FnMut(&Vec<Row>) -> Option<usize>,
    ) -> Vec<usize> {
        let mut random = rng();
        let mut flying = Vec::new();
        let mut counts = vec![0; rows.len()];
        rows.iter_mut().for_each(|row| row.latency = Some(0.01));
        for _ in 0..PICKS {
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
                    let share = *count as f64 / PICKS as f64;
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

    /// `requests`, with so many of them in flight at once: the next comes when one has ended, after times around a mean of 20 ms.
    /// How many each row got. `takes` makes a row's time of chance, 0 to 1.
    fn counts_over_time(
        rows: &[Row],
        at_once: usize,
        requests: usize,
        takes: impl Fn(usize, f64) -> f64,
        mut pick: impl FnMut(&Vec<Row>) -> Option<usize>,
    ) -> Vec<usize> {
        let (mut random, start) = (rng(), Instant::now());
        let averages: Vec<PeakEwma> = rows.iter().map(|_| PeakEwma::new(start)).collect();
        let (mut rows, mut now) = (rows.to_vec(), 0.0);
        let mut counts = vec![0; rows.len()];
        let mut flying: Vec<(f64, f64, usize)> = Vec::new();
        let at = |seconds| start + Duration::from_secs_f64(seconds);
        for _ in 0..requests {
            if flying.len() == at_once {
                let ends = |one: &usize, other: &usize| flying[*one].0.total_cmp(&flying[*other].0);
                let first = (0..flying.len()).min_by(ends).unwrap();
                let (ends, began, row) = flying.swap_remove(first);
                now = ends;
                rows[row].active -= 1;
                averages[row].observe(Duration::from_secs_f64(ends - began), at(now));
            }
            rows.iter_mut().zip(&averages).for_each(|(row, average)| row.latency = average.seconds(at(now)));
            let row = pick(&rows).unwrap();
            rows[row].active += 1;
            counts[row] += 1;
            flying.push((now + takes(row, random.f64()), now, row));
        }
        counts
    }

    #[test]
    fn weights_hold_within_five_percent_at_any_load_whatever_the_times_are() {
        let steady = |_, _: f64| 0.02;
        let wavering = |_, chance: f64| 0.01 + 0.02 * chance;
        let exponential = |_, chance: f64| -0.02 * (1.0 - chance).ln();
        type Takes = fn(usize, f64) -> f64;
        let times: [(&str, Takes); 3] =
            [("steady", steady), ("wavering", wavering), ("exponential", exponential)];
        for weights in [vec![2, 1], vec![10, 1], vec![5, 3, 2], vec![1, 4, 1, 1]] {
            let total: u32 = weights.iter().sum();
            for at_once in [1, 2, 4, 30] {
                for (kind, takes) in times {
                    for (name, pick) in algorithms(weights.len()) {
                        let counts = counts_over_time(&rows(&weights), at_once, 20_000, takes, pick);
                        for (count, weight) in counts.iter().zip(&weights) {
                            let fair = 20_000.0 * f64::from(*weight) / f64::from(total);
                            let off = (*count as f64 / fair - 1.0).abs();
                            assert!(off < 0.05, "{name}, {at_once} {kind}, {weights:?}: {counts:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_slow_endpoint_gets_less_than_its_weight_from_those_that_go_by_load() {
        let takes = |row, chance: f64| if row == 0 { 0.2 } else { 0.02 } * (0.5 + chance);
        for (name, pick) in algorithms(3) {
            let counts = counts_over_time(&rows(&[1, 1, 1]), 30, 10_000, takes, pick);
            let by_load = ["least_requests", "two_choices"].contains(&name);
            assert_eq!(counts[0] < 700, by_load, "{name}: {counts:?}");
            assert!(counts[1].abs_diff(counts[2]) < 300, "{name}: {counts:?}");
        }
    }

    #[test]
    fn one_that_was_slow_for_long_is_not_given_what_it_missed() {
        for (name, mut pick) in algorithms(2).into_iter().skip(2) {
            let mut rows = rows(&[1, 1]);
            rows[1].latency = Some(0.01);
            (rows[0].latency, rows[0].active) = (Some(1.0), 1);
            (0..10_000).for_each(|_| assert_eq!(pick(&rows), Some(1), "{name}"));
            (rows[0].latency, rows[0].active) = (Some(0.01), 0);
            let caught_up = (0..1000).filter(|_| pick(&rows) == Some(0)).count();
            assert!(caught_up <= 500 + 2 * MOST_OWED as usize, "{name}: {caught_up}");
        }
    }

    #[test]
    fn least_requests_counts_load_against_weight() {
        let mut rows = rows(&[4, 1]);
        let pick = |rows: &Vec<Row>| least_requests(rows, &mut Smooth::new(2));
        (rows[0].active, rows[1].active) = (4, 0);
        assert_eq!(
            pick(&rows),
            Some(1),
            "the other would have more for its weight without this request than it with it"
        );
        (rows[0].active, rows[1].active) = (3, 1);
        assert_eq!(pick(&rows), Some(0));
        (rows[0].active, rows[1].active) = (2, 0);
        let mut turns = Smooth::new(2);
        let picks = (0..10).filter(|_| least_requests(&rows, &mut turns) == Some(0)).count();
        assert_eq!(picks, 8, "whoever is as good gets its turn by weight");
    }

    #[test]
    fn two_choices_avoids_the_slow_one() {
        let mut rows = rows(&[1, 1]);
        (rows[0].latency, rows[1].latency) = (Some(0.5), Some(0.01));
        let (mut random, mut turns) = (rng(), Smooth::new(2));
        (0..100).for_each(|_| assert_eq!(two_choices(&rows, &mut turns, &mut random), Some(1)));
    }

    #[test]
    fn an_unknown_endpoint_is_tried_once_until_it_answers() {
        let mut rows = rows(&[1, 1]);
        rows[0].latency = Some(0.01);
        let pick = |rows: &Vec<Row>| two_choices(rows, &mut Smooth::new(2), &mut rng());
        assert_eq!(pick(&rows), Some(1));
        rows[1].active = 1;
        assert_eq!(pick(&rows), Some(0));
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_fades() {
        let start = Instant::now();
        let ewma = PeakEwma::new(start);
        assert_eq!(ewma.seconds(start), None);
        ewma.observe(Duration::from_millis(10), start);
        ewma.observe(Duration::from_secs(1), start);
        assert_eq!(ewma.seconds(start), Some(1.0));
        let later = start + PeakEwma::DECAY;
        assert!((ewma.seconds(later).unwrap() - 0.368).abs() < 0.001);
        ewma.observe(Duration::from_millis(10), later);
        assert!((ewma.seconds(later).unwrap() - 0.374).abs() < 0.001);
        assert_eq!(ewma.seconds(later + PeakEwma::DECAY * 20), None);
        assert!((ewma.last_seconds().unwrap() - 0.374).abs() < 0.001, "what was seen stays");
    }
}
