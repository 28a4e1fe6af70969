//! A route as requests meet it: where it leads and by which rules. What is live in it (budgets, canaries, positions) goes
//! over to the next snapshot where its settings are unchanged.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderName;
use tokio::sync::Semaphore;

use super::{
    PlannedRetry,
    compile::PlannedRoute,
    rollout::{KeptRollout, Rollout, Side},
    tracing::RouteTrace,
};
use crate::{
    config::{self, SplitBy, UpstreamProtocol},
    filter::{Chain, ErrorPages},
    kept::{Kept, Same},
    observe::metrics::{Metrics, RouteMetrics, UpstreamMetrics, VariantMetrics},
    policy::{
        backoff::Backoff,
        balance::Smooth,
        budget::RetryBudget,
        classify::{Conditions, Methods},
        hedge::Hedging,
        priorities::Priority,
        split,
    },
    upstream::Upstream,
};

pub struct Route {
    pub name: Arc<str>,
    /// Its own filters; a route that answers itself ends in the filter that does.
    pub chain: Chain,
    pub target: Target,
    /// The whole request, retries included.
    pub timeout: Option<Duration>,
    /// Tells the upstream how much of it is left.
    pub timeout_header: Option<HeaderName>,
    /// Before what its listener says.
    pub encoded_slashes: Option<config::EncodedSlashes>,
    /// Calls of gRPC may be streams without end. What a client says lifts no limits: the operator says where gRPC is spoken.
    pub streams_grpc: bool,
    /// Who is refused last where the upstream's limit is learnt.
    pub priority: Priority,
    pub retry: Retry,
    pub hedge: Option<Arc<Hedge>>,
    pub mirrors: Box<[Arc<Mirror>]>,
    /// What differs from the gateway's tracing.
    pub trace: Option<RouteTrace>,
    /// Before those of its listener.
    pub error_pages: Option<Arc<ErrorPages>>,
    /// For plugins that ask for it.
    pub metadata: Option<Arc<serde_json::Value>>,
    /// What spans call it: the pattern of its paths, where there are few enough of them.
    pub pattern: Option<Arc<str>>,
    /// For requests that are not sent anywhere, and for what concerns the route whatever its target.
    pub metrics: Arc<RouteMetrics>,
}

/// Where a route's requests go.
pub enum Target {
    /// The chain answers.
    Chain,
    One(Arc<Destination>),
    Split(Split),
}

pub(super) type Variant = (Arc<str>, Arc<VariantMetrics>);

/// An upstream as one route uses it.
pub struct Destination {
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<RouteMetrics>,
    pub upstream_metrics: Arc<UpstreamMetrics>,
    /// Of a split: the variant and how often it was chosen.
    pub variant: Option<Variant>,
    /// Of a canary: whose side it is on.
    pub canary: Option<(Arc<Rollout>, Side)>,
    /// Where its requests go while no endpoint of it can be used.
    pub then: Option<Arc<Destination>>,
    /// Of a split: the variant's own filters, which its requests pass behind the route's.
    pub filters: Chain,
}

pub struct Split {
    pub by: SplitBy,
    pub(super) route: Arc<str>,
    pub(super) names: Vec<Arc<str>>,
    pub(super) destinations: Vec<Arc<Destination>>,
    /// The weights, and where round robin stands under them.
    pub(super) smooth: Kept<Weights, Mutex<Smooth>>,
    pub(super) rollout: Option<KeptRollout>,
}

#[derive(Clone, PartialEq)]
pub(super) enum Weights {
    Fixed(Vec<u16>),
    /// They move without a reload.
    Canary(Same<Rollout>),
}

/// When and how a failed request is tried again.
pub struct Retry {
    /// The operator asked for it; else only what is safe without asking is done.
    pub explicit: bool,
    pub attempts: u32,
    pub per_try_timeout: Option<Duration>,
    pub conditions: Conditions,
    pub methods: Methods,
    pub backoff: Backoff,
    pub max_retry_after: Duration,
    pub budget: Kept<config::Budget, RetryBudget>,
    /// Bytes of a request's body that are kept for another try.
    pub body_buffer: usize,
    /// Bytes of a response that are held back until it is whole, where another try is possible.
    pub response_buffer: usize,
}

pub struct Hedge {
    pub rule: Kept<config::Hedge, Hedging>,
}

pub struct Mirror {
    pub destination: Arc<Destination>,
    /// 0 to 1.
    pub ratio: f64,
    /// Made from `max_requests`.
    pub room: Kept<NonZeroUsize, Semaphore>,
}

/// What routes are built on.
pub(super) struct Building<'a> {
    pub upstreams: &'a BTreeMap<String, Arc<Upstream>>,
    pub metrics: &'a Metrics,
    /// Requests are traced.
    pub traces: bool,
    pub now: Instant,
}

impl Building<'_> {
    /// Whatever of `before`, the route of the same name, has the same settings goes on.
    pub(crate) fn route(
        &mut self,
        planned: PlannedRoute,
        config: &config::Route,
        before: Option<&Route>,
    ) -> Route {
        let name = planned.name;
        let target = self.target(&name, config, planned.variants, before);
        Route {
            metrics: self.metrics.route(&name, config.upstream.as_deref()),
            encoded_slashes: config.paths.encoded_slashes,
            streams_grpc: config.grpc_streams.unwrap_or_else(|| target.speaks_grpc()),
            target,
            timeout: config.timeout.map(Into::into),
            timeout_header: config.timeout_header.as_ref().and_then(|name| name.parse().ok()),
            priority: config.priority.map(priority).unwrap_or_default(),
            retry: self.retry(planned.retry, before.map(|before| &before.retry)),
            hedge: config.hedge.as_ref().map(|hedge| Arc::new(self.hedge(hedge, before))),
            mirrors: self.mirrors(&name, config, before),
            trace: config.trace.as_ref().map(RouteTrace::from),
            metadata: config.metadata.as_ref().map(|metadata| Arc::new(serde_json::json!(metadata))),
            pattern: self.traces.then(|| pattern(&config.matching)).flatten(),
            chain: planned.chain,
            error_pages: planned.error_pages,
            name,
        }
    }

    fn target(
        &self,
        name: &Arc<str>,
        config: &config::Route,
        variants: Vec<Chain>,
        before: Option<&Route>,
    ) -> Target {
        if let Some(upstream) = &config.upstream {
            let destination = self.destination(name, upstream).map(|to| to.of(&config.subset));
            return destination.map_or(Target::Chain, |one| Target::One(Arc::new(one)));
        }
        if let Some(split) = &config.split {
            return Target::Split(self.split(name, split, variants, before));
        }
        config
            .canary
            .as_ref()
            .map_or(Target::Chain, |canary| Target::Split(self.canary(name, canary, before)))
    }

    /// `None` for an upstream that does not exist, which compiling refuses.
    pub(crate) fn destination(&self, route: &str, upstream: &str) -> Option<Destination> {
        self.variant(route, upstream, None)
    }

    /// The same as a variant of a split, which it is whoever stands in.
    fn variant(&self, route: &str, upstream: &str, variant: Option<Variant>) -> Option<Destination> {
        let alone = self.destination_alone(route, upstream)?;
        let next = alone.upstream.settings().then.as_ref();
        // Whoever stands in for itself is refused by compiling.
        let then = next.and_then(|then| self.variant(route, &then.upstream, variant.clone())).map(Arc::new);
        Some(Destination { then, variant, ..alone })
    }

    /// The same, with nobody to stand in.
    fn destination_alone(&self, route: &str, upstream: &str) -> Option<Destination> {
        Some(Destination {
            upstream: self.upstreams.get(upstream)?.clone(),
            metrics: self.metrics.route(route, Some(upstream)),
            upstream_metrics: self.metrics.upstream(upstream),
            variant: None,
            canary: None,
            then: None,
            filters: Chain::default(),
        })
    }

    fn split(
        &self,
        name: &Arc<str>,
        config: &config::Split,
        filters: Vec<Chain>,
        before: Option<&Route>,
    ) -> Split {
        let variants = config.to.iter().zip(filters).filter_map(|(variant, filters)| {
            let called: Arc<str> = variant.called().into();
            let counted = (called.clone(), self.metrics.variant(name, &called));
            let destination = self.variant(name, &variant.upstream, Some(counted))?;
            let destination = Destination { filters, ..destination.of(&variant.subset) };
            Some((called, variant.weight, Arc::new(destination)))
        });
        let (mut names, mut weights, mut destinations) = (Vec::new(), Vec::new(), Vec::new());
        for (called, weight, destination) in variants {
            names.push(called);
            weights.push(weight);
            destinations.push(destination);
        }
        Split {
            by: config.by.clone(),
            route: name.clone(),
            names,
            destinations,
            smooth: smooth(Weights::Fixed(weights), before),
            rollout: None,
        }
    }

    fn canary(&self, name: &Arc<str>, config: &config::Canary, before: Option<&Route>) -> Split {
        let before_it = before.and_then(|before| before.split()?.rollout.as_ref());
        let rollout = Rollout::under(name, config, before_it, self.now);
        let sides = [(Side::Stable, &config.stable), (Side::Candidate, &config.candidate)];
        let destinations = sides.into_iter().filter_map(|(side, upstream)| {
            let called: Arc<str> = upstream.as_str().into();
            let variant = (called.clone(), self.metrics.variant(name, &called));
            let canary = Some((rollout.shared().clone(), side));
            let destination = self.variant(name, upstream, Some(variant))?;
            // That a candidate fails is for the canary to see, which takes its requests back.
            let then = destination.then.filter(|_| side == Side::Stable);
            Some(Arc::new(Destination { canary, then, ..destination }))
        });
        Split {
            by: config.by.clone(),
            route: name.clone(),
            names: vec![config.stable.as_str().into(), config.candidate.as_str().into()],
            destinations: destinations.collect(),
            smooth: smooth(Weights::Canary(Same(rollout.shared().clone())), before),
            rollout: Some(rollout),
        }
    }

    fn retry(&self, planned: PlannedRetry, before: Option<&Retry>) -> Retry {
        let PlannedRetry { explicit, config, conditions, methods } = planned;
        Retry {
            explicit,
            attempts: config.attempts.get(),
            per_try_timeout: config.per_try_timeout.map(Into::into),
            conditions,
            methods,
            body_buffer: usize::try_from(config.body_buffer.bytes()).unwrap_or(usize::MAX),
            response_buffer: usize::try_from(config.response_buffer.bytes()).unwrap_or(usize::MAX),
            backoff: Backoff { base: config.backoff.base.into(), max: config.backoff.max.into() },
            max_retry_after: config.backoff.max_retry_after.into(),
            budget: Kept::keep_or(before.map(|before| &before.budget), config.budget, |budget| {
                RetryBudget::new(budget.ratio.as_f64(), budget.min_per_second, self.now)
            }),
        }
    }

    fn hedge(&self, config: &config::Hedge, before: Option<&Route>) -> Hedge {
        use crate::{config::HedgeAfter, policy::hedge};
        let before = before.and_then(|before| Some(&before.hedge.as_ref()?.rule));
        let rule = Kept::keep_or(before, config.clone(), |config| {
            let after = match config.after {
                HedgeAfter::Fixed(wait) => hedge::After::Fixed(wait.into()),
                HedgeAfter::Quantile(quantile) => hedge::After::Quantile(quantile),
            };
            let (max, budget) = (config.max.get().into(), config.budget.as_f64());
            Hedging::new(hedge::Settings { after, max, budget }, self.now)
        });
        Hedge { rule }
    }

    fn mirrors(&self, name: &str, config: &config::Route, before: Option<&Route>) -> Box<[Arc<Mirror>]> {
        let written = config.mirror.iter().flat_map(|mirrors| mirrors.all());
        written.filter_map(|mirror| self.mirror(name, mirror, before)).collect()
    }

    fn mirror(&self, name: &str, config: &config::Mirror, before: Option<&Route>) -> Option<Arc<Mirror>> {
        let config::Mirror { upstream, ratio, max_requests } = config;
        let destination = Arc::new(self.destination_alone(name, upstream)?);
        let is_same = |mirror: &&Arc<Mirror>| mirror.destination.upstream.name() == upstream;
        let before = before.and_then(|before| Some(&before.mirrors.iter().find(is_same)?.room));
        let room = Kept::keep_or(before, *max_requests, |most| {
            Semaphore::new(most.get().min(Semaphore::MAX_PERMITS))
        });
        Some(Arc::new(Mirror { destination, ratio: ratio.as_f64(), room }))
    }
}

fn smooth(weights: Weights, before: Option<&Route>) -> Kept<Weights, Mutex<Smooth>> {
    let before = before.and_then(|before| Some(&before.split()?.smooth));
    Kept::keep_or(before, weights, |weights| {
        Mutex::new(Smooth::new(match weights {
            Weights::Fixed(weights) => weights.len(),
            Weights::Canary(_) => 2,
        }))
    })
}

fn priority(written: config::Priority) -> Priority {
    match written {
        config::Priority::Low => Priority::Low,
        config::Priority::Normal => Priority::Normal,
        config::Priority::High => Priority::High,
        config::Priority::Critical => Priority::Critical,
    }
}

impl Target {
    /// Every upstream that requests may be sent to.
    pub fn destinations(&self) -> &[Arc<Destination>] {
        match self {
            Target::Chain => &[],
            Target::One(destination) => std::slice::from_ref(destination),
            Target::Split(split) => &split.destinations,
        }
    }

    /// The same, with those that stand in behind whom they stand in for.
    pub fn all(&self) -> impl Iterator<Item = &Destination> {
        self.destinations().iter().flat_map(|destination| destination.chain())
    }

    /// Whether the operator has said so of each upstream.
    fn speaks_grpc(&self) -> bool {
        let speaks = |to: &Destination| to.upstream.settings().protocol == UpstreamProtocol::Grpc;
        !self.destinations().is_empty() && self.all().all(speaks)
    }
}

impl Route {
    /// The canary, where the route has one.
    pub fn rollout(&self) -> Option<&Arc<Rollout>> {
        self.split()?.rollout.as_ref().map(Kept::shared)
    }

    /// All that it counts by, each once, with where its requests went.
    pub fn series(&self) -> impl Iterator<Item = (Option<&Destination>, &Arc<RouteMetrics>)> {
        let own = match &self.target {
            // The same series as that of its one destination.
            Target::One(_) => None,
            Target::Chain | Target::Split(_) => Some((None, &self.metrics)),
        };
        // Two variants that lead to one upstream count in one place.
        let is_first = |index: usize, to: &Destination| {
            self.target.all().take(index).all(|before| !Arc::ptr_eq(&before.metrics, &to.metrics))
        };
        let destinations = self.target.all().enumerate().filter(move |(index, to)| is_first(*index, to));
        own.into_iter().chain(destinations.map(|(_, to)| (Some(to), &to.metrics)))
    }

    /// Whether requests pass filters once it is known which of several upstreams they go to.
    pub fn filters_variants(&self) -> bool {
        let mut destinations = self.target.destinations().iter();
        destinations.any(|destination| destination.filters.names().next().is_some())
    }

    fn split(&self) -> Option<&Split> {
        match &self.target {
            Target::Split(split) => Some(split),
            Target::Chain | Target::One(_) => None,
        }
    }
}

impl Split {
    /// The variant for a request. `key` is what [`Split::by`] says, of a request that has it: the same key takes the same
    /// variant, and one that names a variant takes that, but for a candidate that was rolled back, which gets nothing.
    pub fn choose(&self, key: Option<&[u8]>, rng: &mut fastrand::Rng) -> &Arc<Destination> {
        let canary;
        let weights: &[u16] = match self.smooth.settings() {
            Weights::Fixed(weights) => weights,
            Weights::Canary(Same(rollout)) => {
                canary = rollout.weights();
                &canary
            }
        };
        let index = match (&self.by, key) {
            (SplitBy::RoundRobin, _) => {
                let mut smooth = self.smooth.lock().unwrap_or_else(PoisonError::into_inner);
                split::round_robin(weights, &mut smooth)
            }
            (SplitBy::Random, _) | (_, None) => split::random(weights, rng),
            (_, Some(_)) if self.has_rolled_back() => Some(Side::Stable as usize),
            (_, Some(key)) => split::sticky(&self.names, weights, &self.route, key),
        };
        // Weights that are all zero are refused when the configuration is read.
        &self.destinations[index.unwrap_or(0)]
    }

    fn has_rolled_back(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| rollout.weights()[Side::Candidate as usize] == 0)
    }
}

impl Destination {
    /// Only those of its endpoints that have these tags; all where there are none to have.
    fn of(self, tags: &BTreeMap<String, String>) -> Destination {
        match tags.is_empty() {
            true => self,
            false => Destination { upstream: self.upstream.subset(tags), ..self },
        }
    }

    /// A request to it is over: what the canary goes by.
    pub fn record(&self, succeeded: bool, duration: Duration, now: Instant) {
        if let Some((rollout, side)) = &self.canary {
            rollout.record(*side, succeeded, duration, now);
        }
    }
}
/// The pattern of a route's paths in the words of templates. There are too many regular expressions, and none is a pattern
/// that people would recognise.
fn pattern(matching: &config::RouteMatch) -> Option<Arc<str>> {
    match &matching.path {
        None if !matching.any.is_empty() => None,
        Some(config::PathMatch::Exact(path) | config::PathMatch::Template(path)) => {
            Some(path.as_str().into())
        }
        Some(config::PathMatch::Prefix(prefix)) => {
            Some(format!("{}/{{*rest}}", prefix.trim_end_matches('/')).into())
        }
        Some(config::PathMatch::Regex(_)) => None,
        None => Some("/{*rest}".into()),
    }
}
