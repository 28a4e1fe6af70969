//! Rates and quantiles as they were: a ring of points for each of the busiest routes, for upstreams, and for the gateway. The
//! rings hold equally many points however long the history is, so that all together stay below 4 MiB: a longer history is a
//! coarser one.
//!
//! It knows no clock and no counters: whoever samples says how long a second was and what was counted in it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Of one ring: 15 minutes, second by second.
const POINTS: usize = 900;
/// Of all together: what 4 MiB hold of rings of these points.
const SERIES: usize = 4 * 1024 * 1024 / (POINTS * size_of::<Point>());
pub(super) const ROUTES: usize = 200;

/// What a series is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Of {
    Gateway,
    Route(Arc<str>),
    Upstream(Arc<str>),
}

/// One step of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Step {
    pub requests: u32,
    pub errors: u32,
    /// In seconds; none without requests.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

/// The same, as small as it can be.
#[derive(Clone, Copy, Debug)]
struct Point {
    requests: u32,
    errors: u32,
    p50: Short,
    p99: Short,
}

/// A time in steps of about a thousandth part of itself; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Short(u16);

/// 1 us to about 18 h.
const SMALLEST: f64 = 1e-6;
const STEPS_PER_E: f64 = 2600.0;

pub(super) struct History {
    /// Seconds in a point.
    every: u32,
    /// Points in a ring.
    points: usize,
    series: HashMap<Of, Ring>,
    /// Seconds that are gathered for the next point.
    gathered: u32,
    /// Points since it began.
    age: u64,
}

struct Ring {
    points: VecDeque<Point>,
    /// Of the last point: one that is not told of is 0.
    last: u64,
    gathering: Step,
    /// Seconds of it that had requests.
    busy: u32,
    /// Requests lately, fading: who of all is busiest.
    weight: f64,
}

impl History {
    pub(super) fn new(window: Duration) -> History {
        let seconds = u32::try_from(window.as_secs()).unwrap_or(u32::MAX).max(1);
        let every = seconds.div_ceil(POINTS as u32);
        History {
            every,
            points: (seconds / every).clamp(1, POINTS as u32) as usize,
            series: HashMap::new(),
            gathered: 0,
            age: 0,
        }
    }

    /// A second has passed, and these had requests in it.
    pub(super) fn second(&mut self, busy: impl IntoIterator<Item = (Of, Step)>) {
        for (of, step) in busy {
            self.add(of, step);
        }
        self.gathered += 1;
        if self.gathered < self.every {
            return;
        }
        self.gathered = 0;
        self.age += 1;
        let (age, points) = (self.age, self.points);
        self.series.retain(|_, ring| {
            ring.end_step(age, points);
            // What has been idle for the whole window is all zeros.
            age - ring.last < points as u64
        });
    }

    /// Its points, the oldest first, and how many seconds each is; `None` where nothing is kept of it.
    pub(super) fn read(&self, of: &Of) -> Option<(u32, Vec<Step>)> {
        let ring = self.series.get(of)?;
        Some((self.every, ring.points.iter().map(|point| point.step()).collect()))
    }

    /// How many points there would be of something that had no request yet.
    pub(super) fn known(&self) -> (u32, usize) {
        (self.every, usize::try_from(self.age).unwrap_or(usize::MAX).min(self.points))
    }

    fn add(&mut self, of: Of, step: Step) {
        if !self.series.contains_key(&of) && !self.make_room(&of) {
            return;
        }
        let (age, points) = (self.age, self.points);
        let ring = self.series.entry(of).or_insert_with(|| Ring::new(age, points));
        ring.gather(step);
    }

    /// The least busy of its kind goes, if there are too many. One that has just come does not displace one that is busy:
    /// it comes in as soon as that one has faded.
    fn make_room(&mut self, of: &Of) -> bool {
        let most = match of {
            Of::Gateway => return true,
            Of::Route(_) => ROUTES,
            Of::Upstream(_) => SERIES - ROUTES - 1,
        };
        let same = |known: &Of| std::mem::discriminant(known) == std::mem::discriminant(of);
        if self.series.keys().filter(|known| same(known)).count() < most {
            return true;
        }
        let rings = self.series.iter().filter(|(known, _)| same(known));
        let Some((least, weight)) = rings
            .map(|(known, ring)| (known.clone(), ring.weight))
            .min_by(|(_, one), (_, other)| one.total_cmp(other))
        else {
            return false;
        };
        if weight >= 1.0 {
            return false;
        }
        self.series.remove(&least);
        true
    }
}

impl Ring {
    /// As old as the others: what was before had no requests.
    fn new(age: u64, most: usize) -> Ring {
        let before = usize::try_from(age).unwrap_or(usize::MAX).min(most);
        let mut points = VecDeque::with_capacity(most);
        points.resize(before, Point::of(Step::default()));
        Ring { points, last: age, gathering: Step::default(), busy: 0, weight: 0.0 }
    }

    fn gather(&mut self, step: Step) {
        let known = &mut self.gathering;
        known.requests = known.requests.saturating_add(step.requests);
        known.errors = known.errors.saturating_add(step.errors);
        // The worst second of a step is what operators look for.
        known.p50 = larger(known.p50, step.p50);
        known.p99 = larger(known.p99, step.p99);
        self.busy += 1;
    }

    fn end_step(&mut self, age: u64, most: usize) {
        const FADING: f64 = 0.98;
        let step = std::mem::take(&mut self.gathering);
        if self.busy > 0 {
            self.last = age;
        }
        self.busy = 0;
        self.weight = self.weight * FADING + f64::from(step.requests) * (1.0 - FADING);
        if self.points.len() == most {
            self.points.pop_front();
        }
        self.points.push_back(Point::of(step));
    }
}

fn larger(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    }
}

impl Point {
    fn of(step: Step) -> Point {
        let Step { requests, errors, p50, p99 } = step;
        Point { requests, errors, p50: Short::of(p50), p99: Short::of(p99) }
    }

    fn step(&self) -> Step {
        let Point { requests, errors, p50, p99 } = *self;
        Step { requests, errors, p50: p50.seconds(), p99: p99.seconds() }
    }
}

impl Short {
    fn of(seconds: Option<f64>) -> Short {
        let Some(seconds) = seconds else { return Short(0) };
        // The cast saturates.
        Short((((seconds / SMALLEST).max(1.0).ln() * STEPS_PER_E).round() as u16).max(1))
    }

    fn seconds(self) -> Option<f64> {
        (self.0 > 0).then(|| SMALLEST * (f64::from(self.0) / STEPS_PER_E).exp())
    }
}

/// The quantile of what is in buckets with these upper bounds and one without: between the bounds of the bucket in which it
/// lies, in proportion. `None` where there is nothing.
pub(super) fn quantile<N: Copy + Into<u64>>(bounds: &[f64], counts: &[N], quantile: f64) -> Option<f64> {
    let counts = || counts.iter().map(|count| -> u64 { (*count).into() });
    let all: u64 = counts().sum();
    if all == 0 {
        return None;
    }
    let wanted = quantile * all as f64;
    let mut below = 0.0;
    for (bucket, count) in counts().enumerate() {
        let within = count as f64;
        if below + within >= wanted && count > 0 {
            let low = if bucket == 0 { 0.0 } else { bounds[bucket - 1] };
            // Beyond the last bound nothing is known but that.
            let Some(high) = bounds.get(bucket) else { return Some(low) };
            return Some(low + (high - low) * ((wanted - below) / within).clamp(0.0, 1.0));
        }
        below += within;
    }
    bounds.last().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(requests: u32) -> Step {
        Step { requests, errors: requests / 10, p50: Some(0.001), p99: Some(0.25) }
    }

    fn route(name: usize) -> Of {
        Of::Route(format!("route-{name}").into())
    }

    #[test]
    fn all_rings_together_are_below_four_mebibytes() {
        assert_eq!(size_of::<Point>(), 12);
        const { assert!(SERIES > ROUTES + 100) };
        let mut history = History::new(Duration::from_secs(24 * 3600));
        for _ in 0..3 {
            history.second((0..5000).map(|n| (route(n), step(5))));
            let upstreams = (0..5000).map(|n| (Of::Upstream(format!("{n}").into()), step(5)));
            history.second(upstreams.chain([(Of::Gateway, step(9))]));
        }
        assert!(history.series.len() <= SERIES, "{}", history.series.len());
        let bytes: usize =
            history.series.values().map(|ring| ring.points.capacity() * size_of::<Point>()).sum();
        assert!(bytes <= 4 * 1024 * 1024, "{bytes}");
    }

    #[test]
    fn a_quarter_of_an_hour_is_kept_by_the_second_and_a_day_by_steps() {
        for (window, every, points) in [(60, 1, 60), (900, 1, 900), (901, 2, 450), (86_400, 96, 900)] {
            let history = History::new(Duration::from_secs(window));
            assert_eq!((history.every, history.points), (every, points), "{window}");
        }
    }

    #[test]
    fn a_series_has_a_point_for_each_step_also_for_those_without_requests() {
        let mut history = History::new(Duration::from_secs(60));
        history.second([]);
        history.second([(route(1), step(10))]);
        history.second([]);
        let (every, points) = history.read(&route(1)).unwrap();
        assert_eq!(every, 1);
        assert_eq!(points.iter().map(|point| point.requests).collect::<Vec<_>>(), [0, 10, 0]);
        assert_eq!((points[0].p99, points[1].errors), (None, 1));
        assert!((points[1].p99.unwrap() - 0.25).abs() < 0.001);
        assert_eq!(history.read(&route(2)), None);
    }

    #[test]
    fn steps_of_several_seconds_add_up() {
        let mut history = History::new(Duration::from_secs(1800));
        history.second([(Of::Gateway, step(10))]);
        assert_eq!(history.read(&Of::Gateway).unwrap().1.len(), 0);
        history.second([(Of::Gateway, Step { p99: Some(0.5), ..step(20) })]);
        let (every, points) = history.read(&Of::Gateway).unwrap();
        assert_eq!((every, points[0].requests, points[0].errors), (2, 30, 3));
        assert!((points[0].p99.unwrap() - 0.5).abs() < 0.002);
    }

    #[test]
    fn what_was_idle_for_the_whole_window_is_forgotten() {
        let mut history = History::new(Duration::from_secs(60));
        history.second([(route(1), step(1))]);
        for _ in 0..59 {
            history.second([]);
        }
        assert!(history.read(&route(1)).is_some());
        history.second([]);
        assert_eq!(history.read(&route(1)), None);
    }

    #[test]
    fn a_route_that_is_busy_takes_the_place_of_one_that_has_become_idle() {
        let mut history = History::new(Duration::from_secs(900));
        history.second((0..ROUTES).map(|n| (route(n), step(1000))));
        history.second([(route(9999), step(1000))]);
        assert_eq!(history.read(&route(9999)), None, "all are busier");
        for _ in 0..200 {
            history.second((1..ROUTES).map(|n| (route(n), step(1000))));
        }
        history.second([(route(9999), step(1000))]);
        assert!(history.read(&route(9999)).is_some() && history.read(&route(0)).is_none());
    }

    proptest! {
        #[test]
        fn a_time_is_kept_to_a_thousandth(seconds in 1e-6_f64..60_000.0) {
            let kept = Short::of(Some(seconds)).seconds().unwrap();
            prop_assert!((kept / seconds - 1.0).abs() < 0.001, "{seconds} became {kept}");
        }

        #[test]
        fn a_quantile_lies_between_the_bounds_of_its_bucket(counts in prop::collection::vec(0_u32..50, 5), q in 0.0_f64..1.0) {
            let bounds = [0.001, 0.01, 0.1, 1.0];
            match quantile(&bounds, &counts, q) {
                None => prop_assert!(counts.iter().all(|count| *count == 0)),
                Some(at) => prop_assert!((0.0..=1.0).contains(&at)),
            }
            let (low, high) = (quantile(&bounds, &counts, 0.5), quantile(&bounds, &counts, 0.99));
            prop_assert!(low <= high);
        }
    }

    #[test]
    fn quantiles_are_estimated_within_a_bucket() {
        let bounds = [0.1, 0.2, 0.4];
        assert_eq!(quantile(&bounds, &[0_u32, 100, 0, 0], 0.5), Some(0.15000000000000002));
        assert_eq!(quantile(&bounds, &[0_u64, 0, 0, 3], 0.5), Some(0.4));
        assert_eq!(quantile(&bounds, &[0_u32, 0, 0, 0], 0.5), None);
    }
}
