//! How traffic is shaped and how it survives failure, as the operator writes it: splits, canaries, retries, hedges,
//! mirrors, breakers, ejection and limits. The rules themselves are in `policy`.

use std::{
    collections::BTreeMap,
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    route::FilterUse,
    short_forms::or_attempts,
    units::{ByteSize, HumanDuration, Ratio},
};

/// Requests of one route shared among several upstreams.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// What decides which variant a request takes.
    #[serde(default)]
    pub by: SplitBy,
    /// The variants and their shares.
    pub to: Vec<Variant>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Default: the upstream's name. A sticky key equal to it picks this variant.
    pub name: Option<String>,
    /// The upstream that serves it.
    pub upstream: String,
    /// Only the upstream's endpoints that have all of these `tags`, or where they come from a registry this metadata.
    #[serde(default)]
    pub subset: BTreeMap<String, String>,
    /// 0 to 65,535, relative to the others; 0 gets only those who ask for it by name.
    #[serde(default = "one")]
    pub weight: u16,
    /// For the requests of this variant alone, behind the route's own filters.
    #[serde(default)]
    pub filters: Vec<FilterUse>,
}

impl Variant {
    pub fn called(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.upstream)
    }
}

fn one() -> u16 {
    1
}

/// What decides which variant a request takes: `random`, `round_robin` (exact shares), `client_ip`, `{header: NAME}`
/// or `{cookie: NAME}`. The last three are sticky: the same key takes the same variant.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SplitBy {
    #[default]
    Random,
    RoundRobin,
    ClientIp,
    /// A request without the header takes a variant at random.
    Header(String),
    /// A client without the cookie is given one, with a key of its own.
    Cookie(String),
}

/// A candidate that gets more of the traffic step by step, as long as it does well.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The upstream that serves today.
    pub stable: String,
    /// The upstream that may replace it.
    pub candidate: String,
    /// What decides who is sent to the candidate.
    #[serde(default)]
    pub by: SplitBy,
    /// The candidate's share at the beginning.
    #[serde(default = "ten_percent")]
    pub start: Ratio,
    /// How much each good step adds.
    #[serde(default = "ten_percent")]
    pub step: Ratio,
    /// How long a step lasts at least.
    #[serde(default = "five_minutes")]
    pub every: HumanDuration,
    /// The share at which the canary is done.
    #[serde(default = "everything")]
    pub max: Ratio,
    /// What the candidate must do to go on.
    #[serde(default)]
    pub require: CanaryRequire,
    /// What happens when the candidate breaks a requirement.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// What the candidate must do, over the whole canary.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CanaryRequire {
    /// The share of the candidate's requests that did not fail: answered below 500, over gRPC with no server error.
    pub success_rate: Option<Ratio>,
    /// 99 of 100 of the candidate's requests are answered within this.
    pub p99: Option<HumanDuration>,
    /// A step with fewer of the candidate's requests is held.
    pub min_requests: NonZeroU32,
    /// A step with as many is held no longer for lack of evidence, only while a requirement is not met. At least `min_requests`.
    pub max_requests: NonZeroU32,
    /// How sure the canary is before it rolls back or promotes: 80% to 99.99%. A candidate that meets a requirement is rolled
    /// back for it in one of 100 rollouts at most with `99%`, and one that breaks it is promoted in one of 100 at most.
    pub confidence: Ratio,
    /// How much larger the candidate's share of failed requests may be than the stable upstream's.
    pub max_error_increase: Option<Ratio>,
    /// How much longer the candidate's p99 may be than the stable upstream's: `20%` allows 1.2 times.
    pub max_p99_increase: Option<Ratio>,
}

impl Default for CanaryRequire {
    fn default() -> Self {
        CanaryRequire {
            success_rate: Some(Ratio::from_percent(99)),
            p99: None,
            min_requests: const { NonZeroU32::new(100).unwrap() },
            max_requests: const { NonZeroU32::new(10_000).unwrap() },
            confidence: Ratio::from_percent(99),
            max_error_increase: None,
            max_p99_increase: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// All traffic goes back to the stable upstream.
    #[default]
    Rollback,
    /// The share stays as it is until the operator decides.
    Pause,
}

fn ten_percent() -> Ratio {
    Ratio::from_percent(10)
}

fn everything() -> Ratio {
    Ratio::from_percent(100)
}

fn five_minutes() -> HumanDuration {
    HumanDuration::from_secs(300)
}

/// When a request that failed is tried again. Connecting elsewhere after a refused connection needs no `retry`: nothing
/// was sent.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", default, deny_unknown_fields)]
#[schemars(transform = or_attempts)]
pub struct Retry {
    /// Tries in all, the first included: 1 to 10.
    pub attempts: NonZeroU32,
    /// From the start of a try to the response's head; beyond it the try has failed with `timeout`.
    pub per_try_timeout: Option<HumanDuration>,
    /// `connect_error`, `reset`, `refused_stream`, `timeout`, `5xx` (the first three included), `gateway_error` (502, 503, 504),
    /// `retryable_4xx` (409), a status such as `503`, or `grpc:` and a status such as `grpc:unavailable`. What nothing was sent
    /// for is tried elsewhere whatever is named, but for `[none]`.
    #[schemars(with = "Vec<serde_json::Value>")]
    pub on: Vec<RetryOn>,
    /// The methods that may be sent twice.
    pub methods: RetryMethods,
    /// The pauses between tries.
    pub backoff: Backoff,
    /// How many retries there may be for the requests there are.
    pub budget: Budget,
    /// Of a request's body, so much is kept to be sent again: 0 to 16 MiB. A larger one is sent once.
    pub body_buffer: ByteSize,
    /// A response to a request that may be sent again is held back until it is whole, if it is no larger: 0 to 16 MiB. So nobody
    /// sees that its body breaks off. 0B holds none back.
    pub response_buffer: ByteSize,
}

/// One word of `retry.on`; a bare number is a status.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct RetryOn(pub String);

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: const { NonZeroU32::new(3).unwrap() },
            per_try_timeout: None,
            on: ["connect_error", "reset", "refused_stream"].map(|word| RetryOn(word.into())).into(),
            methods: RetryMethods::default(),
            backoff: Backoff::default(),
            budget: Budget::default(),
            body_buffer: ByteSize::kib(64),
            response_buffer: ByteSize::kib(16),
        }
    }
}

/// `idempotent` (GET, HEAD, OPTIONS, TRACE, PUT and DELETE, RFC 9110 section 9.2.2) or a list of methods.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryMethods {
    #[default]
    Idempotent,
    #[serde(untagged)]
    Listed(Vec<String>),
}

/// Exponential with full jitter: the n-th retry waits a random time up to `base` times 2 to the n-1, never above `max`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The longest pause before the first retry; it doubles with each further one.
    pub base: HumanDuration,
    /// No pause is longer.
    pub max: HumanDuration,
    /// The longest pause that an answer may ask for, with `Retry-After` or `RateLimit-Reset`. One that asks for more is not tried
    /// again.
    pub max_retry_after: HumanDuration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            base: HumanDuration::from_millis(25),
            max: HumanDuration::from_secs(1),
            max_retry_after: HumanDuration::from_secs(1),
        }
    }
}

/// Retries are paid for by requests, so that a failing upstream is not flooded.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Retries for each request of the last ten seconds.
    pub ratio: Ratio,
    /// Retries that are always allowed.
    pub min_per_second: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { ratio: Ratio::from_percent(20), min_per_second: 10 }
    }
}

/// A request that is slow to be answered is sent to a second endpoint as well; the first good answer wins.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// How long the first endpoint is waited for: a duration, or the route's running quantile such as `p95`.
    #[schemars(with = "String")]
    pub after: HedgeAfter,
    /// Further copies of one request.
    #[serde(default = "one_copy")]
    pub max: NonZeroU16,
    /// Copies for each request of the last ten seconds.
    #[serde(default = "five_percent")]
    pub budget: Ratio,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HedgeAfter {
    Fixed(HumanDuration),
    /// 0.5 to 0.999.
    Quantile(f64),
}

fn one_copy() -> NonZeroU16 {
    NonZeroU16::MIN
}

fn five_percent() -> Ratio {
    Ratio::from_percent(5)
}

/// A share of the requests is copied to another upstream, whose answers are thrown away.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The upstream that gets the copies.
    pub upstream: String,
    /// The share of requests that is copied.
    #[serde(default = "everything")]
    pub ratio: Ratio,
    /// Copies in flight at once; beyond it requests are not copied.
    #[serde(default = "hundred")]
    pub max_requests: NonZeroUsize,
}

fn hundred() -> NonZeroUsize {
    const { NonZeroUsize::new(100).unwrap() }
}

/// Takes an endpoint that keeps failing out of the balancing for a while, by what requests met there.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Over what failures are counted: the last so many requests, or a time.
    pub window: BreakerWindow,
    /// The share of failures in the window that opens the breaker.
    pub failure_ratio: Ratio,
    /// Where the window is a duration: fewer results than this decide nothing.
    pub min_requests: NonZeroU32,
    /// Failures in a row that open it too. Default: no such trigger.
    pub consecutive_failures: Option<NonZeroU32>,
    /// How long it stays open before it lets probes through.
    pub open_for: HumanDuration,
    /// Requests let through at once while it is half-open.
    pub half_open_requests: NonZeroU32,
    /// Successes of those in a row that close it.
    pub success_threshold: NonZeroU32,
    /// Whether each endpoint has a breaker, or all have one.
    pub scope: BreakerScope,
    /// What counts as a failure: any of `connect_error`, `timeout`, `reset`, `5xx`.
    pub failures: Vec<BreakerFailure>,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        const fn count(n: u32) -> NonZeroU32 {
            NonZeroU32::new(n).unwrap()
        }
        use BreakerFailure::*;
        CircuitBreaker {
            window: BreakerWindow::Requests(const { count(20) }),
            failure_ratio: Ratio::from_percent(50),
            min_requests: const { count(20) },
            consecutive_failures: None,
            open_for: HumanDuration::from_secs(10),
            half_open_requests: const { count(3) },
            success_threshold: const { count(2) },
            scope: BreakerScope::default(),
            failures: vec![ConnectError, Timeout, Reset, ServerError],
        }
    }
}

/// The last so many requests, or those of the last so long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BreakerWindow {
    Requests(NonZeroU32),
    Time(HumanDuration),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerScope {
    /// One breaker for each endpoint.
    #[default]
    Endpoint,
    /// One for all of them.
    Upstream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerFailure {
    ConnectError,
    Timeout,
    Reset,
    #[serde(rename = "5xx")]
    ServerError,
}

/// Passive ejection: `off`, or how.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutlierRule {
    Off,
    #[serde(untagged)]
    On(Outlier),
}

/// Passive ejection: an endpoint whose requests fail gets none for a while, longer each time.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Outlier {
    /// Connect errors, timeouts, resets and answers of 500 and above in a row.
    pub consecutive_failures: NonZeroU32,
    /// The last so many tries, of which `failure_ratio` is the share: 2 to 63.
    pub window: NonZeroU32,
    /// The share of failures that ejects, where it is at least twice that of the other endpoints. 0% turns it off.
    pub failure_ratio: Ratio,
    /// An endpoint that owes answers and has given none for this long, or for four times as long as the slowest answer of late, is
    /// chosen last. Requests without a body that wait there go elsewhere, where they may be sent again. 0s: never.
    pub max_silence: HumanDuration,
    /// The first ejection; the n-th lasts n times as long.
    pub eject_for: HumanDuration,
    /// No ejection is longer.
    pub max_eject_for: HumanDuration,
    /// The share of the endpoints that may be ejected at once; one always may, where there is another.
    pub max_ejected: Ratio,
}

impl Default for Outlier {
    fn default() -> Self {
        Outlier {
            consecutive_failures: const { NonZeroU32::new(5).unwrap() },
            window: const { NonZeroU32::new(20).unwrap() },
            failure_ratio: Ratio::from_percent(50),
            max_silence: HumanDuration::from_secs(1),
            eject_for: HumanDuration::from_secs(10),
            max_eject_for: HumanDuration::from_secs(300),
            max_ejected: Ratio::from_percent(50),
        }
    }
}

/// `off`, `adaptive`, or how.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConcurrencyRule {
    Off,
    #[serde(untagged)]
    On(Concurrency),
}

/// How many requests the upstream can do at once, learnt from how long it takes to answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Concurrency {
    /// Requests in flight until something is known.
    pub initial: NonZeroUsize,
    /// The limit is never lower.
    pub min: NonZeroUsize,
    /// The limit is never higher.
    pub max: NonZeroUsize,
    /// How much longer answers may take than while the upstream is at ease: more than 0%, 100% at most.
    pub tolerance: Ratio,
    /// How often that time is measured anew under a load that lasts: the limit is halved for a moment.
    pub baseline_interval: HumanDuration,
}

impl Default for Concurrency {
    fn default() -> Self {
        const fn count(n: usize) -> NonZeroUsize {
            NonZeroUsize::new(n).unwrap()
        }
        Concurrency {
            initial: const { count(20) },
            min: const { count(4) },
            max: const { count(1000) },
            tolerance: Ratio::from_percent(25),
            baseline_interval: HumanDuration::from_secs(60),
        }
    }
}

/// How important the requests of a route are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Refused first.
    Low,
    Normal,
    High,
    /// Refused last.
    Critical,
}
