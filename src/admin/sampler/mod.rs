//! Rates: once a second the counters of all that had requests are read, and compared with what they were. Requests know nothing
//! of it. What never had a request costs a look at one pointer, and what has had none since costs a few additions.

mod series;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use schemars::JsonSchema;
use serde::Serialize;

use self::series::{Added, KnownEndpoint, KnownRoute, KnownUpstream, Window, step_of, sum_of};
use super::history::{History, Of, Step};
use crate::{
    observe::metrics::Metrics,
    snapshot::{Current, Snapshot},
};

/// What a route, an upstream or the gateway did lately. Rates are of the last second, quantiles of the last ten, estimated
/// between the bounds of buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(super) struct Traffic {
    pub requests_per_second: f64,
    /// Answered with 400 to 499.
    pub errors_4xx_per_second: f64,
    /// Answered with 500 and above; of an upstream: attempts that failed.
    pub errors_5xx_per_second: f64,
    /// Answered by the gateway itself.
    pub own_per_second: f64,
    /// Attempts beyond a request's first.
    pub retries_per_second: f64,
    /// Copies of slow requests.
    pub hedges_per_second: f64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// Requests and errors between two of the map's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Flow {
    pub requests: f64,
    pub errors: f64,
}

/// What was so in the last second. What is not in it had no requests lately.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub at: SystemTime,
    pub seconds: f64,
    pub gateway: Traffic,
    pub routes: HashMap<Arc<str>, Traffic>,
    pub upstreams: HashMap<Arc<str>, Traffic>,
    /// By upstream and name.
    pub endpoints: HashMap<(Arc<str>, Arc<str>), Flow>,
    /// By listener and route; the route is empty where none took the requests.
    pub listener_to_route: HashMap<(Arc<str>, Arc<str>), Flow>,
    pub route_to_upstream: HashMap<(Arc<str>, Arc<str>), Flow>,
}

pub(super) struct Sampler {
    state: Mutex<State>,
    latest: ArcSwap<Sample>,
}

struct State {
    history: History,
    read_at: Instant,
    /// By the address of the series, which is looked at no more once it is gone.
    routes: HashMap<usize, KnownRoute>,
    upstreams: HashMap<usize, KnownUpstream>,
    endpoints: HashMap<usize, KnownEndpoint>,
    /// When each route had its last request, in seconds since 1970.
    last_used: HashMap<Arc<str>, u64>,
    gateway: Window,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample {
            at: SystemTime::now(),
            seconds: 1.0,
            gateway: Traffic::default(),
            routes: HashMap::new(),
            upstreams: HashMap::new(),
            endpoints: HashMap::new(),
            listener_to_route: HashMap::new(),
            route_to_upstream: HashMap::new(),
        }
    }
}

impl Sampler {
    pub(super) fn new(history: Duration, now: Instant) -> Sampler {
        Sampler {
            state: Mutex::new(State {
                history: History::new(history),
                read_at: now,
                routes: HashMap::new(),
                upstreams: HashMap::new(),
                endpoints: HashMap::new(),
                last_used: HashMap::new(),
                gateway: Window::default(),
            }),
            latest: ArcSwap::default(),
        }
    }

    pub(super) fn latest(&self) -> Arc<Sample> {
        self.latest.load_full()
    }

    /// Of each route that ever had a request here, when that was, in seconds since 1970.
    pub(super) fn last_used(&self) -> HashMap<Arc<str>, u64> {
        self.lock().last_used.clone()
    }

    /// Its points, the oldest first, and how many seconds each is.
    pub(super) fn history(&self, of: &Of) -> Option<(u32, Vec<Step>)> {
        self.lock().history.read(of)
    }

    /// Of something that had no request yet.
    pub(super) fn history_of_nothing(&self) -> (u32, usize) {
        self.lock().history.known()
    }

    /// Read all that counts. To be called once a second, off the threads that serve requests.
    pub(super) fn look(&self, current: &Current, metrics: &Metrics, now: Instant) -> Arc<Sample> {
        let snapshot = current.pin();
        let mut state = self.lock();
        let seconds = now.saturating_duration_since(state.read_at).as_secs_f64().max(1e-3);
        state.read_at = now;
        let sample = Arc::new(state.sample(&snapshot, metrics, seconds));
        self.latest.store(sample.clone());
        sample
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sample(&mut self, snapshot: &Snapshot, metrics: &Metrics, seconds: f64) -> Sample {
        let mut sample = Sample { seconds, ..Sample::default() };
        let unix = sample.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let listeners: HashMap<u32, Arc<str>> = snapshot
            .listeners
            .values()
            .map(|listener| (listener.metrics.number(), listener.name.clone()))
            .collect();
        let mut steps = Vec::new();
        let mut gateway = Added::default();
        for route in snapshot.routes.iter() {
            let (mut added, mut is_used) = (Added::default(), false);
            let mut windows: Vec<&Window> = Vec::new();
            let mut bounds: &[f64] = &[];
            for (to, series) in route.series() {
                let Some(read) = series.read() else { continue };
                is_used = true;
                let known = self
                    .routes
                    .entry(Arc::as_ptr(series) as usize)
                    .or_insert_with(|| KnownRoute::new(series));
                known.keep(series);
                let delta = known.add(&read, series);
                if let (Some(to), true) = (to, delta.requests > 0) {
                    let flow = Flow::of(delta.requests, delta.server_errors, seconds);
                    let key = (route.name.clone(), to.upstream.shared_name());
                    sample.route_to_upstream.insert(key, flow);
                }
                for (listener, requests, errors) in &delta.by_listener {
                    let Some(listener) = listeners.get(listener) else { continue };
                    let key = (listener.clone(), route.name.clone());
                    sample.listener_to_route.entry(key).or_default().add(*requests, *errors, seconds);
                }
                added.plus(&delta);
                bounds = series.bounds();
            }
            if !is_used {
                continue;
            }
            for (_, series) in route.series() {
                if let Some(known) = self.routes.get(&(Arc::as_ptr(series) as usize)) {
                    windows.push(&known.window);
                }
            }
            if windows.iter().all(|window| window.is_empty()) && added.is_nothing() {
                continue;
            }
            if added.requests > 0 {
                self.last_used.insert(route.name.clone(), unix);
            }
            let sum = sum_of(&windows);
            let traffic = added.traffic(seconds, bounds, &sum);
            gateway.plus(&added);
            if added.requests > 0 {
                steps.push((Of::Route(route.name.clone()), added.step(&traffic)));
            }
            sample.routes.insert(route.name.clone(), traffic);
        }
        self.unrouted(snapshot, &listeners, &mut sample, &mut gateway, seconds);
        self.upstreams(snapshot, metrics, &mut sample, &mut steps);
        let bounds = snapshot.routes.first().map(|route| route.metrics.bounds().to_vec()).unwrap_or_default();
        self.gateway.push(gateway.buckets.clone());
        sample.gateway = gateway.traffic(seconds, &bounds, &self.gateway.sum);
        if gateway.requests > 0 {
            steps.push((Of::Gateway, gateway.step(&sample.gateway)));
        }
        self.history.second(steps);
        self.forget(snapshot);
        sample
    }

    /// Requests that no route took, of all listeners together.
    fn unrouted(
        &mut self,
        snapshot: &Snapshot,
        listeners: &HashMap<u32, Arc<str>>,
        sample: &mut Sample,
        gateway: &mut Added,
        seconds: f64,
    ) {
        let Some(series) = snapshot.listeners.values().next().map(|listener| &listener.unrouted) else {
            return;
        };
        let Some(read) = series.read() else { return };
        let known =
            self.routes.entry(Arc::as_ptr(series) as usize).or_insert_with(|| KnownRoute::new(series));
        known.keep(series);
        let delta = known.add(&read, series);
        for (listener, requests, errors) in &delta.by_listener {
            let Some(listener) = listeners.get(listener) else { continue };
            let key = (listener.clone(), Arc::from(""));
            sample.listener_to_route.entry(key).or_default().add(*requests, *errors, seconds);
        }
        gateway.plus(&delta);
    }

    fn upstreams(
        &mut self,
        snapshot: &Snapshot,
        metrics: &Metrics,
        sample: &mut Sample,
        steps: &mut Vec<(Of, Step)>,
    ) {
        let seconds = sample.seconds;
        for upstream in snapshot.upstreams.values() {
            let name = upstream.shared_name();
            let mut attempts = Flow::default();
            let (mut requests, mut failed) = (0, 0);
            for endpoint in upstream.endpoints() {
                let series = endpoint.attached(|| metrics.endpoint(upstream.name(), endpoint.label()));
                let Some(read) = series.attempts() else { continue };
                let known = self.endpoints.entry(Arc::as_ptr(&series) as usize).or_insert_with(|| {
                    KnownEndpoint { series: Arc::downgrade(&series), attempts: 0, failed: 0 }
                });
                let delta = known.add(read, &series);
                if delta.0 > 0 {
                    let flow = Flow::of(delta.0, delta.1, seconds);
                    sample.endpoints.insert((name.clone(), endpoint.name.clone()), flow);
                }
                requests += delta.0;
                failed += delta.1;
            }
            attempts.add(requests, failed, seconds);
            let series = metrics.upstream(upstream.name());
            let known = self
                .upstreams
                .entry(Arc::as_ptr(&series) as usize)
                .or_insert_with(|| KnownUpstream::new(&series));
            known.add(&series);
            if requests == 0 && known.window.is_empty() {
                continue;
            }
            let traffic = Traffic {
                requests_per_second: rate(attempts.requests),
                errors_5xx_per_second: rate(attempts.errors),
                ..Traffic::default()
            }
            .with_quantiles(series.bounds(), &known.window.sum);
            if requests > 0 {
                steps.push((Of::Upstream(name.clone()), step_of(requests, failed, &traffic)));
            }
            sample.upstreams.insert(name, traffic);
        }
    }

    /// What is gone is not known any more.
    fn forget(&mut self, snapshot: &Snapshot) {
        const MANY: usize = 64;
        self.routes.retain(|_, known| known.series.strong_count() > 0);
        self.upstreams.retain(|_, known| known.series.strong_count() > 0);
        self.endpoints.retain(|_, known| known.series.strong_count() > 0);
        // Routes that were removed, now and then.
        if self.last_used.len() > snapshot.routes.len() + MANY {
            let present: HashSet<&str> = snapshot.routes.iter().map(|route| &*route.name).collect();
            self.last_used.retain(|name, _| present.contains(&**name));
        }
    }
}

/// To the hundredth: more digits would be noise.
pub(super) fn rate(per_second: f64) -> f64 {
    (per_second * 100.0).round() / 100.0
}
