//! `rate_limit`: so many requests for each key, and 429 for those beyond.
//!
//! Keys are counted in this process (`local`), or together with all gateways that ask the same Redis (`remote`). A
//! request that is denied costs its key nothing.

mod connection;
pub(in crate::filter) mod fuzzing;
pub(super) mod key;
mod local;
mod quota;
mod rates;
mod remote;
mod script;
mod window;

use std::{collections::HashMap, io::Write, num::NonZeroU64, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{HeaderValue, header::RETRY_AFTER};
use prometheus::IntCounter;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{Path, Rate, RateUnit},
    filter::{
        Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response,
        builtin::rate_limit::{
            key::Key,
            local::{Algorithm, Counts, Local},
            rates::Rates,
            remote::{OnError, Remote, Store},
        },
    },
    policy::bucket::{Decision, Limit, Unusable},
};

/// Allows each key so many requests, and answers 429 to those beyond.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateLimit {
    /// How many in the long run, at most a million per second; or a rate for each plan: `{by: {claim: plan}, free: 10/m, pro: 1000/m}`.
    rate: Rates,
    /// How many may come at once, at most a million. Default: as many as `rate` names.
    burst: Option<NonZeroU64>,
    /// Who or what is counted. Requests without the header or cookie, or with more than one, are counted as one.
    #[serde(default)]
    key: Key,
    /// `token_bucket`, `sliding_window`, or `calendar`: so many in each day or month of the calendar, in UTC. Default: `token_bucket`, and
    /// `calendar` for months.
    algorithm: Option<Algorithm>,
    /// About how many keys are counted at the same time, at most ten million.
    #[serde(default = "max_keys")]
    max_keys: usize,
    /// Tell the client in `RateLimit` and `RateLimit-Policy`.
    #[serde(default = "headers")]
    headers: bool,
    /// What the limit is called in these fields and in the metrics.
    #[serde(default = "name")]
    name: String,
    /// Where gateways count together.
    store: Option<Store>,
    /// Refuse nobody, and count those who would have been refused.
    #[serde(default)]
    dry_run: bool,
}

fn max_keys() -> usize {
    100_000
}

fn headers() -> bool {
    true
}

fn name() -> String {
    "default".to_owned()
}

/// Ten million buckets take 300 MB.
const MOST_KEYS: usize = 10_000_000;

impl Options for RateLimit {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = self.contradictions(at);
        let servers = self.store.as_ref().map(|store| store.servers(&at.key("store"), live)).transpose();
        let servers = servers.unwrap_or_else(|wrong| {
            invalid.extend(wrong);
            None
        });
        let mut tiers = Vec::new();
        for (name, rate) in self.rate.all() {
            match self.limit(rate) {
                Ok(limit) => tiers.push(Tier { name, rate, limit }),
                Err(Unusable::TooFast) => {
                    let at = name.map_or(at.key("rate"), |name| at.key("rate").key(name));
                    invalid.push(Invalid::new(at, "a rate is at most a million per second"));
                }
                Err(Unusable::Quota) => {
                    let at = name.map_or(at.key("rate"), |name| at.key("rate").key(name));
                    invalid.push(Invalid::new(at, "a quota is at most ten million"));
                }
                Err(Unusable::Burst) => {
                    invalid.push(Invalid::new(at.key("burst"), "a burst is at most a million"));
                }
            }
        }
        if !invalid.is_empty() {
            return Err(invalid);
        }
        let counted = |tier: &Tier<'_>| {
            let counts = Counts::of(&self, tier);
            let remote = self.store.as_ref().zip(servers.as_ref());
            let remote = remote.map(|(store, servers)| Remote::new(store, servers, &counts, live));
            Counted { policy: self.policy(tier.rate), local: Local::keep(counts, live), remote }
        };
        // The last is for all others.
        let Some((other, named)) = tiers.split_last() else { return Err(Vec::new()) };
        let named = named.iter().filter_map(|tier| Some((tier.name?.as_bytes().into(), counted(tier))));
        let (named, other) = (named.collect(), counted(other));
        let refused = self.dry_run.then(|| live.metrics().limits().dry_run(&self.name));
        let by = match self.rate {
            Rates::One(_) => None,
            Rates::Tiers(tiers) => Some(tiers.by),
        };
        Ok(Arc::new(Limiter { key: self.key, name: self.name, by, named, other, refused }))
    }
}

impl RateLimit {
    fn algorithm(&self) -> Algorithm {
        let usual = if self.rate.has_months() { Algorithm::Calendar } else { Algorithm::TokenBucket };
        self.algorithm.unwrap_or(usual)
    }

    fn limit(&self, rate: Rate) -> Result<Limit, Unusable> {
        if self.algorithm() == Algorithm::Calendar {
            return Limit::quota(rate.count());
        }
        let burst = self.burst.map_or(rate.count().min(Limit::LARGEST), NonZeroU64::get);
        Limit::new(rate.count(), rate.period(), burst)
    }

    /// The value of `RateLimit-Policy`, where the client is told.
    fn policy(&self, rate: Rate) -> Option<HeaderValue> {
        let mut policy = format!("\"{}\";q={}", self.name, rate.count());
        // A month has no fixed length, and need not say one.
        if rate.unit() != RateUnit::Month {
            policy += &format!(";w={}", rate.period().as_secs());
        }
        // Who is told of a limit keeps to it.
        HeaderValue::try_from(policy).ok().filter(|_| self.headers && !self.dry_run)
    }

    fn contradictions(&self, at: &Path) -> Vec<Invalid> {
        let window = self.algorithm() == Algorithm::SlidingWindow;
        let calendar = self.algorithm() == Algorithm::Calendar;
        let silent = self.store.as_ref().is_some_and(|store| !store.waits());
        let checks = [
            (
                !(1..=MOST_KEYS).contains(&self.max_keys),
                at.key("max_keys"),
                "max_keys is from 1 to ten million",
            ),
            (
                !is_name(&self.name),
                at.key("name"),
                "a name is 1 to 64 letters, digits and any of `_`, `-`, `.`, `:` and `/`",
            ),
            (
                window && self.burst.is_some(),
                at.key("burst"),
                "a sliding window knows no burst (leave it out, or use `algorithm: token_bucket`)",
            ),
            (
                window && self.store.is_some(),
                at.key("store"),
                "a sliding window is counted here only (use `algorithm: token_bucket`)",
            ),
            (
                calendar && self.burst.is_some(),
                at.key("burst"),
                "a quota of the calendar knows no burst (leave it out: all of it may come at once)",
            ),
            (
                !calendar && self.rate.has_months(),
                at.key("algorithm"),
                "a month has no fixed length (leave `algorithm` out, and it is counted by the calendar)",
            ),
            (silent, at.key("store").key("timeout"), "a duration of 0 makes no sense here"),
        ];
        let wrong = checks.into_iter().filter(|(wrong, ..)| *wrong);
        wrong.map(|(_, at, message)| Invalid::new(at, message)).collect()
    }
}

const LONGEST_NAME: usize = 64;

/// Fit to stand in a structured field (RFC 9651) without escapes.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte);
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

/// A rate, and who has it.
pub(crate) struct Tier<'a> {
    /// As it is written; none where all have one rate.
    pub name: Option<&'a str>,
    pub rate: Rate,
    pub limit: Limit,
}

struct Limiter {
    key: Key,
    name: String,
    /// What says which of `named` counts.
    by: Option<Key>,
    named: HashMap<Box<[u8]>, Counted>,
    other: Counted,
    /// Counts those who would be refused, and nobody is.
    refused: Option<IntCounter>,
}

/// The counts of one rate.
struct Counted {
    local: Arc<Local>,
    remote: Option<Remote>,
    /// See [`RateLimit::policy`].
    policy: Option<HeaderValue>,
}

/// What was decided of a request, and by which policy.
struct Said {
    decision: Decision,
    policy: HeaderValue,
}

/// draft-ietf-httpapi-ratelimit-headers-10. Not `HeaderName`s: Pingora would copy those.
const RATE_LIMIT: &str = "RateLimit";
const RATE_LIMIT_POLICY: &str = "RateLimit-Policy";

impl Limiter {
    /// Those that count for this request.
    fn counted(&self, exchange: &Exchange<'_>) -> &Counted {
        let mut counted = None;
        if let Some(by) = &self.by {
            by.values(exchange, |value| counted = self.named.get(value));
        }
        counted.unwrap_or(&self.other)
    }

    fn apply(&self, decision: Decision, counted: &Counted, exchange: &mut Exchange<'_>) -> Flow {
        if let Some(policy) = &counted.policy {
            exchange.keep(self, Said { decision, policy: policy.clone() });
        }
        if decision.allowed {
            return Flow::Continue;
        }
        self.refuse(decision.retry_after, exchange)
    }

    fn refuse(&self, retry_after: Duration, exchange: &mut Exchange<'_>) -> Flow {
        if let Some(refused) = &self.refused {
            refused.inc();
            return Flow::Continue;
        }
        exchange.facts.explain(format!("rate_limit.{}", self.name));
        let mut response = Response::refusal(Reason::RateLimited, &exchange.request.headers);
        response.headers.push((RETRY_AFTER, whole_seconds(retry_after).max(1).into()));
        Flow::Reply(response)
    }
}

/// The value of `RateLimit`. Every request pays for it, so it is written without the reallocations of a `String`.
fn state(name: &str, remaining: u64, until: u64) -> Result<HeaderValue, Reason> {
    const LONGEST: usize = LONGEST_NAME + "\"\";r=;t=".len() + 2 * "18446744073709551615".len();
    let mut line = [0; LONGEST];
    let mut rest = &mut line[..];
    write!(rest, "\"{name}\";r={remaining};t={until}").map_err(|_| Reason::Internal)?;
    let length = LONGEST - rest.len();
    HeaderValue::from_bytes(&line[..length]).map_err(|_| Reason::Internal)
}

/// Rounded up: who comes back then must not be too early.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[async_trait]
impl Filter for Limiter {
    fn phases(&self) -> Phases {
        let request = if self.other.remote.is_some() { Phases::REQUEST_ASYNC } else { Phases::REQUEST };
        if self.other.policy.is_some() { request | Phases::RESPONSE } else { request }
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let counted = self.counted(exchange);
        let decision = counted.local.decide(counted.local.key(&self.key, exchange));
        Ok(self.apply(decision, counted, exchange))
    }

    async fn on_request_async(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let counted = self.counted(exchange);
        let Some(remote) = &counted.remote else { return self.on_request(exchange) };
        let key = counted.local.key(&self.key, exchange);
        let moment = counted.local.moment();
        if let Some(denied) = remote.still_denies(key, moment) {
            return Ok(self.apply(denied, counted, exchange));
        }
        let name = remote.name(&self.key, moment, exchange);
        let decision = match remote.decide(key, &name, moment).await {
            Ok(decision) => decision,
            Err(OnError::Allow) => return Ok(Flow::Continue),
            // When the store will be back is not known; its connection is tried again every few seconds.
            Err(OnError::Deny) => return Ok(self.refuse(Duration::from_secs(1), exchange)),
            Err(OnError::Local) => counted.local.decide(key),
        };
        Ok(self.apply(decision, counted, exchange))
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let Some(said) = exchange.state::<Said>(self) else { return Ok(()) };
        let (policy, said) = (said.policy.clone(), said.decision);
        let Some(response) = exchange.response.as_deref_mut() else { return Ok(()) };
        // The window must not outlast `Retry-After`, where that is sent.
        let until = if said.allowed { said.reset_after } else { said.retry_after };
        let state = state(&self.name, said.remaining, whole_seconds(until))?;
        // Appended: there may be several limits, and the upstream may have its own.
        response.append_header(RATE_LIMIT_POLICY, policy).map_err(|_| Reason::Internal)?;
        response.append_header(RATE_LIMIT, state).map_err(|_| Reason::Internal)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use pingora_http::{RequestHeader, ResponseHeader};

    use super::*;
    use crate::filter::{Chain, Decided, Facts};

    fn build(yaml: &str, live: &Live) -> Result<Chain, Vec<Invalid>> {
        let options: RateLimit = serde_yaml::from_str(yaml).unwrap();
        let mut chain = Chain::default();
        chain.push("rate_limit", options.build(&Path::root(), live)?);
        Ok(chain)
    }

    /// The status with which the client is answered, and the fields that tell of the limit.
    fn ask(chain: &Chain, client: &str) -> (u16, Vec<String>) {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut facts = Facts { client: client.parse().unwrap(), ..Facts::default() };
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        let flow = chain.on_request(Decided::default(), &mut exchange).now_or_never().unwrap().unwrap();
        let (status, headers) = match flow {
            Flow::Continue => (200, Vec::new()),
            Flow::Reply(reply) => (reply.status.as_u16(), reply.headers),
        };
        let mut response = ResponseHeader::build(status, None).unwrap();
        exchange.response = Some(&mut response);
        chain.on_response(Decided::default(), &mut exchange).unwrap();
        let told = headers.iter().filter(|(name, _)| *name == RETRY_AFTER).map(|(_, value)| value);
        let told = told.chain(response.headers.get_all(RATE_LIMIT_POLICY));
        let told = told.chain(response.headers.get_all(RATE_LIMIT));
        (status, told.map(|value| value.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn tells_the_client_what_is_left_and_when_to_come_back() {
        let chain = build("{rate: 2/h, name: api}", &Live::offline()).unwrap();
        let policy = "\"api\";q=2;w=3600";
        let told = |state: &str| vec![policy.to_owned(), state.to_owned()];
        assert_eq!(ask(&chain, "192.0.2.1"), (200, told("\"api\";r=1;t=1800")));
        assert_eq!(ask(&chain, "192.0.2.1"), (200, told("\"api\";r=0;t=3600")));
        let (status, told) = ask(&chain, "192.0.2.1");
        assert_eq!((status, told[0].as_str(), told[2].as_str()), (429, "1800", "\"api\";r=0;t=1800"));
        assert_eq!(ask(&chain, "192.0.2.2").0, 200);
    }

    #[test]
    fn a_quota_of_the_calendar_comes_back_with_the_next_period() {
        let chain = build("{rate: 2/month}", &Live::offline()).unwrap();
        assert_eq!(ask(&chain, "192.0.2.1").1[0], "\"default\";q=2");
        assert_eq!(ask(&chain, "192.0.2.1").0, 200);
        let (status, told) = ask(&chain, "192.0.2.1");
        assert_eq!(status, 429, "{told:?}");
        let seconds: u64 = told[0].parse().unwrap();
        assert!((1..=31 * 86_400).contains(&seconds), "{told:?}");
        let day = build("{rate: 2/d, algorithm: calendar}", &Live::offline()).unwrap();
        assert_eq!(ask(&day, "192.0.2.1").1[0], "\"default\";q=2;w=86400");
    }

    #[test]
    fn tells_only_when_to_come_back_if_told_so() {
        for algorithm in ["token_bucket", "sliding_window"] {
            let yaml = format!("{{rate: 1/h, headers: false, algorithm: {algorithm}}}");
            let chain = build(&yaml, &Live::offline()).unwrap();
            assert_eq!(ask(&chain, "192.0.2.1"), (200, vec![]));
            let (status, told) = ask(&chain, "192.0.2.1");
            assert_eq!((status, told.len()), (429, 1), "{told:?}");
        }
    }

    #[test]
    fn the_longest_there_is_can_be_told() {
        let name = "n".repeat(LONGEST_NAME);
        let told = state(&name, u64::MAX, u64::MAX).unwrap();
        assert_eq!(told, format!("\"{name}\";r={0};t={0}", u64::MAX));
    }

    #[test]
    fn says_nothing_on_a_response_to_a_request_it_did_not_see() {
        let chain = build("{rate: 1/h}", &Live::offline()).unwrap();
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut response = ResponseHeader::build(200, None).unwrap();
        let mut facts = Facts::default();
        let mut exchange =
            Exchange { request: &mut request, response: Some(&mut response), facts: &mut facts };
        chain.on_response(Decided::default(), &mut exchange).unwrap();
        assert!(response.headers.is_empty());
    }

    #[test]
    fn goes_on_counting_where_the_last_filter_with_its_place_and_options_was() {
        for options in ["rate: 1/h", "rate: 1/h, algorithm: sliding_window"] {
            let live = Live::offline();
            let place = live.within("routes users[0]");
            let before = build(&format!("{{{options}}}"), &place).unwrap();
            assert_eq!(ask(&before, "192.0.2.1").0, 200);
            let status = |options: &str, live: &Live| ask(&build(options, live).unwrap(), "192.0.2.1").0;
            assert_eq!(status(&format!("{{{options}, headers: false}}"), &place), 429);
            for other in ["key: route", "max_keys: 5", "name: other"] {
                assert_eq!(status(&format!("{{{options}, {other}}}"), &place), 200, "{other}");
            }
            assert_eq!(status(&format!("{{{}}}", options.replace("1/h", "2/h")), &place), 200);
            assert_eq!(status(&format!("{{{options}}}"), &live.within("routes pets[0]")), 200);
        }
    }

    #[test]
    fn refuses_what_makes_no_sense_and_never_repeats_a_url() {
        for (yaml, path, message) in [
            ("{rate: 1000001/s}", "rate", "at most a million per second"),
            ("{rate: 1/s, burst: 1000001}", "burst", "at most a million"),
            ("{rate: 10000001/month}", "rate", "at most ten million"),
            ("{rate: {by: route, a: 1/s, b: 10000001/month}}", "rate.b", "at most ten million"),
            ("{rate: 1/month, burst: 5}", "burst", "knows no burst"),
            ("{rate: 1/d, burst: 5, algorithm: calendar}", "burst", "knows no burst"),
            ("{rate: 1/month, algorithm: token_bucket}", "algorithm", "no fixed length"),
            ("{rate: 1/s, max_keys: 0}", "max_keys", "from 1 to ten million"),
            ("{rate: 1/s, name: 'a\"b'}", "name", "1 to 64 letters"),
            ("{rate: 1/s, burst: 5, algorithm: sliding_window}", "burst", "knows no burst"),
            (
                "{rate: 1/s, algorithm: sliding_window, store: {redis: 'redis://h'}}",
                "store",
                "counted here only",
            ),
            ("{rate: 1/s, store: {redis: 'redis://h', timeout: 0s}}", "store.timeout", "makes no sense"),
            ("{rate: 1/s, store: {redis: 'http://u:hunter2@h'}}", "store.redis", "not the URL of a Redis"),
            ("{rate: 1/s, store: {redis: 'redis://u:hunt/er2@h'}}", "store.redis", "not the URL of a Redis"),
            (
                "{rate: 1/s, store: {redis: 'rediss://u:hunter2@h#insecure'}}",
                "store.redis",
                "verification cannot be turned off",
            ),
        ] {
            let invalid = build(yaml, &Live::offline()).unwrap_err();
            let [only] = invalid.as_slice() else { panic!("{yaml}: {invalid:?}") };
            assert_eq!(only.path.to_string(), path);
            assert!(only.message.contains(message) && !only.message.contains("hunt"), "{only:?}");
        }
    }

    #[test]
    fn a_store_is_not_asked_before_there_is_a_request() {
        // There is no runtime here on which it could.
        assert!(build("{rate: 1/s, store: {redis: 'redis://127.0.0.1:1'}}", &Live::offline()).is_ok());
    }
}
