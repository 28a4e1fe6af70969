//! The limit beside a server that does so many things at once and queues the rest, in simulated time: what its clients get when half of it is
//! gone, with the limit and without. `cargo test --lib policy::gradient -- --nocapture` prints the table.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{super::priorities::Priority, Gradient, Settings};

const SECOND: u64 = 1_000_000_000;

/// After so long a client has gone, and what it gets then is no use.
const PATIENCE: u64 = SECOND;

fn settings() -> Settings {
    Settings { initial: 20, min: 4, max: 1000, tolerance: 0.25, baseline_interval: Duration::from_secs(60) }
}

/// How long one request takes, of 20 ms on average.
#[derive(Clone, Copy, Debug)]
enum Work {
    Even,
    Exponential,
    /// One in five takes 80 ms, the others 5.
    Mixed,
}

/// From `at` on there are so many workers, so many requests in a second, and each takes so many times as long.
#[derive(Clone, Copy)]
struct Change {
    at: u64,
    workers: usize,
    rate: f64,
    slower: f64,
}

enum Event {
    Change(Change),
    Arrives,
    Done(u64),
    GivesUp(u64),
}

struct Request {
    came: u64,
    priority: Priority,
    is_gone: bool,
}

/// One that got its answer in time, or did not.
struct Seen {
    came: u64,
    priority: Priority,
    took: Option<u64>,
}

struct Simulation {
    origin: Instant,
    now: u64,
    /// By when they are due, and for those due at once by when they were thought of.
    due: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, Event>,
    thought_of: u64,
    limit: Option<(Gradient, usize)>,
    work: Work,
    change: Change,
    busy: usize,
    queue: VecDeque<u64>,
    requests: HashMap<u64, Request>,
    seen: Vec<Seen>,
    limits: Vec<(u64, usize)>,
    rng: fastrand::Rng,
}

impl Simulation {
    fn run(seed: u64, is_limited: bool, work: Work, changes: &[Change], until: u64) -> Simulation {
        let origin = Instant::now();
        let mut simulation = Simulation {
            origin,
            now: 0,
            due: BinaryHeap::new(),
            events: HashMap::new(),
            thought_of: 0,
            limit: is_limited.then(|| (Gradient::new(settings(), origin), 0)),
            work,
            change: changes[0],
            busy: 0,
            queue: VecDeque::new(),
            requests: HashMap::new(),
            seen: Vec::new(),
            limits: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
        };
        for change in changes {
            simulation.expect(change.at, Event::Change(*change));
        }
        simulation.expect(1, Event::Arrives);
        while let Some(Reverse((at, number))) = simulation.due.pop() {
            if at >= until {
                break;
            }
            simulation.now = at;
            match simulation.events.remove(&number).unwrap() {
                Event::Change(change) => simulation.change = change,
                Event::Arrives => simulation.arrives(),
                Event::Done(request) => simulation.done(request),
                Event::GivesUp(request) => simulation.gives_up(request),
            }
            simulation.begin();
        }
        simulation
    }

    fn expect(&mut self, at: u64, event: Event) -> u64 {
        self.thought_of += 1;
        self.events.insert(self.thought_of, event);
        self.due.push(Reverse((at, self.thought_of)));
        self.thought_of
    }

    fn instant(&self) -> Instant {
        self.origin + Duration::from_nanos(self.now)
    }

    fn exponential(&mut self, mean: f64) -> u64 {
        (-(1.0 - self.rng.f64()).ln() * mean) as u64
    }

    fn arrives(&mut self) {
        let next = self.now + self.exponential(SECOND as f64 / self.change.rate).max(1);
        self.expect(next, Event::Arrives);
        let (came, now) = (self.now, self.instant());
        let priority = if self.rng.f64() < 0.3 { Priority::Critical } else { Priority::Low };
        if let Some((gradient, in_flight)) = &mut self.limit {
            let limit = gradient.limit();
            if self.limits.last().is_none_or(|(_, last)| *last != limit) {
                self.limits.push((came, limit));
            }
            if !priority.admits(*in_flight, limit) {
                return self.seen.push(Seen { came, priority, took: None });
            }
            *in_flight += 1;
            gradient.began(*in_flight, now);
        }
        let number = self.expect(self.now + PATIENCE, Event::GivesUp(self.thought_of + 1));
        self.requests.insert(number, Request { came, priority, is_gone: false });
        self.queue.push_back(number);
    }

    fn begin(&mut self) {
        while self.busy < self.change.workers
            && let Some(request) = self.queue.pop_front()
        {
            self.busy += 1;
            let milliseconds = match self.work {
                Work::Even => 20.0,
                Work::Exponential => self.exponential(20e6) as f64 / 1e6,
                Work::Mixed => {
                    if self.rng.f64() < 0.2 {
                        80.0
                    } else {
                        5.0
                    }
                }
            };
            let done = self.now + (milliseconds * 1e6 * self.change.slower) as u64;
            self.expect(done, Event::Done(request));
        }
    }

    fn done(&mut self, number: u64) {
        self.busy -= 1;
        let Some(request) = self.requests.remove(&number) else { return };
        if !request.is_gone {
            self.ends(&request, true);
        }
    }

    fn gives_up(&mut self, number: u64) {
        let Some(mut request) = self.requests.remove(&number) else { return };
        self.ends(&request, false);
        // The server does not notice.
        request.is_gone = true;
        self.requests.insert(number, request);
    }

    fn ends(&mut self, request: &Request, is_good: bool) {
        let (took, now) = (self.now - request.came, self.instant());
        if let Some((gradient, in_flight)) = &mut self.limit {
            *in_flight -= 1;
            gradient.answered(Duration::from_nanos(took), is_good, now);
        }
        let Request { came, priority, .. } = *request;
        self.seen.push(Seen { came, priority, took: is_good.then_some(took) });
    }

    /// In a second, of those that came between the two.
    fn goodput(&self, from: u64, to: u64) -> f64 {
        self.times(from, to).len() as f64 * SECOND as f64 / (to - from) as f64
    }

    /// In milliseconds.
    fn p99(&self, from: u64, to: u64) -> f64 {
        let times = self.times(from, to);
        times.get(times.len() * 99 / 100).map_or(f64::INFINITY, |nanos| *nanos as f64 / 1e6)
    }

    fn times(&self, from: u64, to: u64) -> Vec<u64> {
        let of = self.seen.iter().filter(|seen| (from..to).contains(&seen.came));
        let mut times: Vec<u64> = of.filter_map(|seen| seen.took).collect();
        times.sort_unstable();
        times
    }

    fn served(&self, priority: Priority, from: u64, to: u64) -> f64 {
        let of =
            || self.seen.iter().filter(|seen| (from..to).contains(&seen.came) && seen.priority == priority);
        of().filter(|seen| seen.took.is_some()).count() as f64 / of().count().max(1) as f64
    }

    fn limit_at(&self, at: u64) -> usize {
        self.limits.iter().rev().find(|(from, _)| *from <= at).map_or(0, |(_, limit)| *limit)
    }
}

const SEED: u64 = 7;

/// 64 workers do 3,200 requests in a second.
const WHOLE: Change = Change { at: 0, workers: 64, rate: 2_880.0, slower: 1.0 };

fn seconds(seconds: u64) -> u64 {
    seconds * SECOND
}

#[test]
fn a_small_limit_grows_where_few_are_in_flight_because_others_were_refused() {
    let (start, took) = (Instant::now(), Duration::from_millis(20));
    for refuses in [true, false] {
        let mut gradient = Gradient::new(Settings { initial: 4, ..settings() }, start);
        for tick in 0..1000 {
            let now = start + Duration::from_millis(10) * tick;
            gradient.began(2, now);
            if refuses {
                gradient.refused();
            }
            gradient.answered(took, true, now);
        }
        assert_eq!(gradient.limit() > 8, refuses, "{}", gradient.limit());
    }
}

#[test]
fn half_of_the_capacity_gone_under_load_costs_half_of_the_answers_and_no_time() {
    let half = Change { at: seconds(30), workers: 32, ..WHOLE };
    let (from, to) = (half.at, seconds(150));
    let capacity = 1_600.0;
    println!(
        "\n| work | | unloaded p99 | p99 | goodput of capacity | critical served | low served | limit |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for work in [Work::Even, Work::Exponential, Work::Mixed] {
        let calm = Simulation::run(SEED, true, work, &[Change { rate: 320.0, ..WHOLE }], seconds(30));
        let unloaded = calm.p99(0, seconds(30));
        for is_limited in [false, true] {
            let run = Simulation::run(SEED, is_limited, work, &[WHOLE, half], to + PATIENCE);
            let (p99, goodput) = (run.p99(from, to), run.goodput(from, to) / capacity);
            let [critical, low] =
                [Priority::Critical, Priority::Low].map(|class| run.served(class, from, to));
            println!(
                "| {work:?} | {} | {unloaded:.0} ms | {p99:.0} ms | {:.0} % | {:.1} % | {:.0} % | {} |",
                if is_limited { "adaptive" } else { "no limit" },
                goodput * 100.0,
                critical * 100.0,
                low * 100.0,
                run.limit_at(to),
            );
            if is_limited {
                assert!(p99 <= 2.0 * unloaded, "{work:?}: {p99} ms, unloaded {unloaded} ms");
                assert!(goodput >= 0.9, "{work:?}: {goodput}");
                assert!(critical >= 0.98 && low < 0.5, "{work:?}: {critical} {low}");
            } else {
                assert!(goodput < 0.1, "{work:?}: it should have collapsed, {goodput}");
            }
        }
    }
}

#[test]
fn the_limit_grows_again_with_the_capacity() {
    for work in [Work::Even, Work::Exponential, Work::Mixed] {
        let half = Change { at: seconds(30), workers: 32, ..WHOLE };
        let run = Simulation::run(
            SEED,
            true,
            work,
            &[WHOLE, half, Change { at: seconds(60), ..WHOLE }],
            seconds(121),
        );
        let goodput = run.goodput(seconds(65), seconds(120)) / 2_880.0;
        assert!(goodput > 0.95, "{work:?}: {goodput} with a limit of {}", run.limit_at(seconds(120)));
    }
}

#[test]
fn an_upstream_that_is_slower_with_nothing_queued_keeps_its_throughput() {
    for work in [Work::Even, Work::Exponential, Work::Mixed] {
        // 64 of 128 workers are busy, and then all.
        let calm = Change { workers: 128, rate: 2_880.0, ..WHOLE };
        let slow = Change { at: seconds(30), slower: 2.0, ..calm };
        let run = Simulation::run(SEED, true, work, &[calm, slow], seconds(121));
        let goodput = run.goodput(seconds(40), seconds(120)) / 2_880.0;
        assert!(goodput > 0.95, "{work:?}: {goodput} with a limit of {}", run.limit_at(seconds(120)));
    }
}

#[test]
fn what_is_small_and_what_begins_under_too_much_is_learnt_as_well() {
    for (workers, patience_for) in [(2, 300), (8, 200), (500, 60)] {
        for work in [Work::Even, Work::Exponential, Work::Mixed] {
            let capacity = workers as f64 * 50.0;
            let busy = Change { workers, rate: 1.5 * capacity, ..WHOLE };
            let run = Simulation::run(SEED, true, work, &[busy], seconds(patience_for + 61));
            let (from, to) = (seconds(patience_for), seconds(patience_for + 60));
            let goodput = run.goodput(from, to) / capacity;
            let limit = run.limit_at(to) as f64 / workers as f64;
            println!(
                "{workers} {work:?}: goodput {goodput:.2}, p99 {:.0} ms, {limit:.2} places for each",
                run.p99(from, to)
            );
            assert!(
                goodput > 0.7 && limit < 5.0,
                "{workers} {work:?}: {goodput}, {limit} places for each worker"
            );
        }
    }
}

/// 32 workers do 400 requests in a second, of 80 ms on average.
const FEW: Change = Change { at: 0, workers: 32, rate: 360.0, slower: 4.0 };

fn after_half_is_gone(seed: u64, work: Work, whole: Change) -> (f64, f64) {
    let calm = Change { rate: whole.rate / 9.0, ..whole };
    let half = Change { at: seconds(42), workers: whole.workers / 2, ..whole };
    let to = seconds(67);
    let run =
        Simulation::run(seed, true, work, &[calm, Change { at: seconds(22), ..whole }, half], to + PATIENCE);
    let capacity = half.workers as f64 / (0.02 * half.slower);
    (run.p99(seconds(45), to), run.goodput(half.at, to) / capacity)
}

#[test]
fn a_queue_that_fills_less_than_half_of_the_limit_is_no_ease() {
    let (p99, goodput) = after_half_is_gone(14, Work::Even, FEW);
    assert!(p99 <= 2.0 * 80.0 && goodput >= 0.9, "{p99} ms, {goodput}");
}

#[test]
fn a_baseline_that_was_learnt_while_a_queue_was_emptied_is_soon_measured_again() {
    let (p99, goodput) = after_half_is_gone(22, Work::Even, FEW);
    assert!(p99 <= 2.0 * 80.0 && goodput >= 0.9, "{p99} ms, {goodput}");
}

#[test]
fn a_baseline_of_few_answers_that_were_quick_by_chance_refuses_nobody_for_long() {
    for seed in [1, 12] {
        let (_, goodput) = after_half_is_gone(seed, Work::Exponential, WHOLE);
        assert!(goodput >= 0.9, "{seed}: {goodput}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    #[test]
    fn stays_within_its_bounds_whatever_is_answered(
        answers in proptest::collection::vec((0u64..5_000_000, proptest::bool::weighted(0.9), 0u64..20_000, 0usize..2_000), 1..4_000),
        min in 1usize..50,
        more in 0usize..500,
    ) {
        let mut now = Instant::now();
        let settings = Settings { min, max: min + more, ..settings() };
        let mut gradient = Gradient::new(settings, now);
        for (took, is_good, pause, in_flight) in answers {
            now += Duration::from_micros(pause);
            gradient.began(in_flight, now);
            gradient.answered(Duration::from_micros(took), is_good, now);
            proptest::prop_assert!((min..=min + more).contains(&gradient.limit()));
        }
    }
}
