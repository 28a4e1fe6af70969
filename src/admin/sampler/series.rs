//! What the sampler knows of each series between two looks, and what has come to it since.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
};

use super::{Flow, Traffic, rate};
use crate::{
    admin::history::{Step, quantile},
    observe::metrics::{EndpointMetrics, RouteMetrics, RouteReading, UpstreamMetrics},
};

/// Quantiles are of so many seconds: of a single one they would jump.
const LOOKS_BACK: usize = 10;

pub(super) struct KnownRoute {
    pub(super) series: Weak<RouteMetrics>,
    pub(super) requests: u64,
    pub(super) client_errors: u64,
    pub(super) server_errors: u64,
    pub(super) by_listener: Vec<(u32, u64, u64)>,
    pub(super) own: u64,
    pub(super) retries: u64,
    pub(super) hedges: u64,
    pub(super) buckets: Vec<u64>,
    pub(super) window: Window,
}

pub(super) struct KnownUpstream {
    pub(super) series: Weak<UpstreamMetrics>,
    pub(super) buckets: Vec<u64>,
    pub(super) window: Window,
}

pub(super) struct KnownEndpoint {
    pub(super) series: Weak<EndpointMetrics>,
    pub(super) attempts: u64,
    pub(super) failed: u64,
}

/// What was counted in the last seconds, by bucket.
#[derive(Default)]
pub(super) struct Window {
    pub(super) seconds: VecDeque<Vec<u32>>,
    pub(super) sum: Vec<u32>,
}

/// What was counted within one second.
#[derive(Clone, Debug, Default)]
pub(super) struct Added {
    pub(super) requests: u64,
    pub(super) client_errors: u64,
    pub(super) server_errors: u64,
    pub(super) own: u64,
    pub(super) retries: u64,
    pub(super) hedges: u64,
    pub(super) by_listener: Vec<(u32, u64, u64)>,
    pub(super) buckets: Vec<u32>,
}

impl Added {
    pub(in crate::admin) fn plus(&mut self, other: &Added) {
        self.requests += other.requests;
        self.client_errors += other.client_errors;
        self.server_errors += other.server_errors;
        self.own += other.own;
        self.retries += other.retries;
        self.hedges += other.hedges;
        add_buckets(&mut self.buckets, &other.buckets);
    }

    pub(in crate::admin) fn is_nothing(&self) -> bool {
        self.requests == 0 && self.retries == 0 && self.hedges == 0 && self.own == 0
    }

    pub(in crate::admin) fn traffic(&self, seconds: f64, bounds: &[f64], sum: &[u32]) -> Traffic {
        let per_second = |count: u64| rate(count as f64 / seconds);
        Traffic {
            requests_per_second: per_second(self.requests),
            errors_4xx_per_second: per_second(self.client_errors),
            errors_5xx_per_second: per_second(self.server_errors),
            own_per_second: per_second(self.own),
            retries_per_second: per_second(self.retries),
            hedges_per_second: per_second(self.hedges),
            ..Traffic::default()
        }
        .with_quantiles(bounds, sum)
    }

    pub(in crate::admin) fn step(&self, traffic: &Traffic) -> Step {
        step_of(self.requests, self.server_errors, traffic)
    }
}

pub(super) fn step_of(requests: u64, errors: u64, traffic: &Traffic) -> Step {
    let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let seconds = |ms: Option<f64>| ms.map(|ms| ms / 1e3);
    Step {
        requests: small(requests),
        errors: small(errors),
        p50: seconds(traffic.p50_ms),
        p99: seconds(traffic.p99_ms),
    }
}

impl Traffic {
    pub(in crate::admin) fn with_quantiles(mut self, bounds: &[f64], sum: &[u32]) -> Traffic {
        // To the microsecond: more digits would be noise.
        let ms = |q| quantile(bounds, sum, q).map(|seconds| (seconds * 1e6).round() / 1e3);
        (self.p50_ms, self.p95_ms, self.p99_ms) = (ms(0.5), ms(0.95), ms(0.99));
        self
    }
}

impl Flow {
    pub(in crate::admin) fn of(requests: u64, errors: u64, seconds: f64) -> Flow {
        let mut flow = Flow::default();
        flow.add(requests, errors, seconds);
        flow
    }

    pub(in crate::admin) fn add(&mut self, requests: u64, errors: u64, seconds: f64) {
        self.requests += requests as f64 / seconds;
        self.errors += errors as f64 / seconds;
    }
}

impl KnownRoute {
    pub(in crate::admin) fn new(series: &Arc<RouteMetrics>) -> KnownRoute {
        KnownRoute {
            series: Arc::downgrade(series),
            requests: 0,
            client_errors: 0,
            server_errors: 0,
            by_listener: Vec::new(),
            own: 0,
            retries: 0,
            hedges: 0,
            buckets: Vec::new(),
            window: Window::default(),
        }
    }

    /// Another series may have come to stand where one was that is gone.
    pub(in crate::admin) fn keep(&mut self, series: &Arc<RouteMetrics>) {
        if self.series.as_ptr() != Arc::as_ptr(series) || self.series.strong_count() == 0 {
            *self = KnownRoute::new(series);
        }
    }

    pub(in crate::admin) fn add(&mut self, read: &RouteReading, series: &RouteMetrics) -> Added {
        let sum = |counts: BTreeMap<&'static str, u64>| counts.values().sum::<u64>();
        let (own, retries, hedges) = (sum(series.own_answers()), sum(series.retries()), sum(series.hedges()));
        let mut added = Added {
            requests: since(&mut self.requests, read.requests),
            client_errors: since(&mut self.client_errors, read.client_errors),
            server_errors: since(&mut self.server_errors, read.server_errors),
            own: since(&mut self.own, own),
            retries: since(&mut self.retries, retries),
            hedges: since(&mut self.hedges, hedges),
            ..Added::default()
        };
        for (listener, requests, errors) in &read.by_listener {
            let known = match self.by_listener.iter_mut().position(|(known, ..)| known == listener) {
                Some(place) => &mut self.by_listener[place],
                None => {
                    self.by_listener.push((*listener, 0, 0));
                    let last = self.by_listener.len() - 1;
                    &mut self.by_listener[last]
                }
            };
            let (requests, errors) = (since(&mut known.1, *requests), since(&mut known.2, *errors));
            if requests > 0 {
                added.by_listener.push((*listener, requests, errors));
            }
        }
        // Idle ones are not added up bucket by bucket.
        if added.requests > 0 {
            added.buckets = since_buckets(&mut self.buckets, series.durations());
        }
        self.window.push(added.buckets.clone());
        added
    }
}

impl KnownUpstream {
    pub(in crate::admin) fn new(series: &Arc<UpstreamMetrics>) -> KnownUpstream {
        KnownUpstream { series: Arc::downgrade(series), buckets: Vec::new(), window: Window::default() }
    }

    pub(in crate::admin) fn add(&mut self, series: &Arc<UpstreamMetrics>) {
        if self.series.as_ptr() != Arc::as_ptr(series) {
            *self = KnownUpstream::new(series);
        }
        let added = since_buckets(&mut self.buckets, series.durations());
        self.window.push(added);
    }
}

impl KnownEndpoint {
    pub(in crate::admin) fn add(
        &mut self,
        (attempts, failed): (u64, u64),
        series: &Arc<EndpointMetrics>,
    ) -> (u64, u64) {
        if self.series.as_ptr() != Arc::as_ptr(series) {
            *self = KnownEndpoint { series: Arc::downgrade(series), attempts: 0, failed: 0 };
        }
        (since(&mut self.attempts, attempts), since(&mut self.failed, failed))
    }
}

impl Window {
    pub(in crate::admin) fn push(&mut self, buckets: Vec<u32>) {
        let is_nothing = buckets.iter().all(|count| *count == 0);
        if is_nothing && self.is_empty() {
            *self = Window::default();
            return;
        }
        add_buckets(&mut self.sum, &buckets);
        self.seconds.push_back(buckets);
        if self.seconds.len() > LOOKS_BACK
            && let Some(oldest) = self.seconds.pop_front()
        {
            self.sum.iter_mut().zip(oldest).for_each(|(sum, gone)| *sum = sum.saturating_sub(gone));
        }
    }

    pub(in crate::admin) fn is_empty(&self) -> bool {
        self.sum.iter().all(|count| *count == 0)
    }
}

/// What has come to `known`, which is `now` from then on.
pub(super) fn since(known: &mut u64, now: u64) -> u64 {
    let added = now.saturating_sub(*known);
    *known = now;
    added
}

fn since_buckets(known: &mut Vec<u64>, now: Vec<u64>) -> Vec<u32> {
    known.resize(now.len(), 0);
    let added = known.iter_mut().zip(&now).map(|(known, now)| {
        let added = u32::try_from(now.saturating_sub(*known)).unwrap_or(u32::MAX);
        *known = *now;
        added
    });
    added.collect()
}

pub(super) fn add_buckets(sum: &mut Vec<u32>, more: &[u32]) {
    if sum.len() < more.len() {
        sum.resize(more.len(), 0);
    }
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
}

pub(super) fn sum_of(windows: &[&Window]) -> Vec<u32> {
    let mut sum = Vec::new();
    windows.iter().for_each(|window| add_buckets(&mut sum, &window.sum));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_forgets_what_is_older_than_ten_seconds() {
        let mut window = Window::default();
        window.push(vec![5, 0]);
        (0..9).for_each(|_| window.push(vec![0, 1]));
        assert_eq!(window.sum, [5, 9]);
        window.push(Vec::new());
        assert_eq!(window.sum, [0, 9]);
        (0..9).for_each(|_| window.push(Vec::new()));
        assert!(window.is_empty());
        window.push(Vec::new());
        assert!(window.seconds.is_empty(), "an idle one holds nothing");
    }

    #[test]
    fn counters_that_began_anew_are_no_negative_rate() {
        let mut known = 10;
        assert_eq!((since(&mut known, 15), since(&mut known, 3), since(&mut known, 4)), (5, 0, 1));
    }
}
