//! Traffic policies: what cannot work, or would silently not work, is refused.

use std::{collections::HashSet, time::Duration};

use http::Method;

use super::Compiler;
use crate::{
    config::{self, ByteSize, HumanDuration, Path, suggest},
    policy::classify::{Condition, Conditions, Methods},
};

/// A request that so many endpoints failed is not saved by another one.
const MOST_ATTEMPTS: u32 = 10;
/// Each holds a copy of a request, and a connection.
const MOST_MIRRORS: usize = 8;
/// Of each request's body, for another try.
const MOST_BUFFERED: ByteSize = ByteSize::mib(16);

/// A route's retries, without their budget, which is live.
pub struct PlannedRetry {
    pub explicit: bool,
    pub config: config::Retry,
    pub conditions: Conditions,
    pub methods: Methods,
}

/// Between two looks at an upstream at ease.
const LEAST_INTERVAL: Duration = Duration::from_secs(10);

impl Compiler<'_> {
    /// The upstream that `at` names.
    pub(super) fn upstream_exists(&mut self, who: &str, name: &str, at: &Path) {
        if self.has_upstream(name) {
            return;
        }
        if self.sources.is_expanded(at) {
            let message = format!("{who} names an upstream that does not exist");
            let problem = self.sources.problem_without_value(at, message);
            return self.problems.push(problem.hint("define it under `upstreams`, or correct the variable"));
        }
        let hint = match self.near(name, self.config.upstreams.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => match name.rsplit_once("://").map_or(name, |(_, rest)| rest) {
                address if address.contains(':') => {
                    let address = address.split('/').next().unwrap_or_default();
                    // A user and a password have no place in an address, and none in a message.
                    let address = address.rsplit_once('@').map_or(address, |(_, host)| host);
                    let stands_in =
                        matches!(at.segments().last(), Some(config::Segment::Key(key)) if key == "then");
                    match name.starts_with("https:") {
                        _ if stands_in => {
                            format!(
                                "write `upstreams: {{NAME: {{endpoints: [\"{address}\"]}}}}`, and `then: NAME`"
                            )
                        }
                        true => format!(
                            "write `upstreams: {{NAME: {{endpoints: [\"{address}\"], tls: {{}}}}}}`, and `upstream: NAME`"
                        ),
                        false => {
                            format!("an address has no scheme and no path: write `upstream: \"{address}\"`")
                        }
                    }
                }
                _ => "define it under `upstreams`".to_owned(),
            },
        };
        self.refuse_with_hint(at, format!("{who} names upstream `{name}`, which does not exist"), hint);
    }

    pub(super) fn traffic(&mut self, route: &config::Route, who: &str, at: &Path) -> PlannedRetry {
        if let Some(split) = &route.split {
            self.split(split, who, &at.key("split"));
        }
        if let Some(canary) = &route.canary {
            self.canary(canary, who, &at.key("canary"));
        }
        if let Some(timeout) = route.timeout {
            self.refuse_zero(&at.key("timeout"), timeout);
        }
        if let Some(name) = &route.timeout_header {
            let at = at.key("timeout_header");
            if http::HeaderName::try_from(name).is_err() {
                self.refuse(&at, format!("`{name}` is not the name of a header"));
            } else if route.timeout.is_none() {
                self.refuse_with_hint(&at, "without `timeout` there is no time to tell", "set `timeout`");
            }
        }
        self.priority(route, at);
        let planned = self.retry(route, &at.key("retry"));
        if let Some(hedge) = &route.hedge {
            self.hedge(route, hedge, &planned.methods, &at.key("hedge"));
        }
        if let Some(mirror) = route.mirror.as_deref() {
            self.mirrors(mirror, who, &at.key("mirror"));
        }
        if route.respond.is_some() || route.redirect.is_some() {
            for (key, given) in [
                ("timeout", route.timeout.is_some()),
                ("retry", route.retry.is_some()),
                ("hedge", route.hedge.is_some()),
                ("mirror", route.mirror.is_some()),
                ("priority", route.priority.is_some()),
            ] {
                if given {
                    self.refuse(
                        &at.key(key),
                        format!("`{key}` does nothing here: the route answers by itself"),
                    );
                }
            }
        }
        planned
    }

    /// Who is important says so to an upstream that has to choose.
    fn priority(&mut self, route: &config::Route, at: &Path) {
        let may_choose = |name: &String| {
            let at = Path::root().key("upstreams").key(name).key("concurrency");
            let upstream = self.config.upstreams.get(name);
            upstream.is_none_or(|upstream| upstream.learnt_limit().is_some()) || self.sources.is_doubtful(&at)
        };
        let mut upstreams = route.upstreams().peekable();
        if route.priority.is_some() && upstreams.peek().is_some() && !upstreams.any(may_choose) {
            let message = "`priority` does nothing here: the upstream refuses nobody by it";
            let hint = "add `concurrency: adaptive` to the upstream";
            self.refuse_with_hint(&at.key("priority"), message, hint);
        }
    }

    fn mirrors(&mut self, mirrors: &config::Mirrors, who: &str, at: &Path) {
        let all = mirrors.all();
        if all.is_empty() && !self.sources.is_doubtful(at) {
            self.refuse_with_hint(at, "a list of no mirrors copies nothing", "leave `mirror` out");
        }
        if all.len() > MOST_MIRRORS {
            let message = format!("more than the {MOST_MIRRORS} copies of each request there may be");
            self.refuse_with_hint(at, message, "one copy costs as much as the request");
        }
        let mut known = HashSet::new();
        for (index, mirror) in all.iter().enumerate() {
            let at = if mirrors.is_list() { at.index(index) } else { at.clone() };
            self.upstream_exists(who, &mirror.upstream, &at.key("upstream"));
            self.refuse_nothing(mirror.ratio, &at.key("ratio"), "a mirror of 0% copies nothing", "mirror");
            if !known.insert(&mirror.upstream) {
                let message = format!("`{}` gets copies already", mirror.upstream);
                self.refuse_with_hint(&at.key("upstream"), message, "an upstream is named once");
            }
        }
    }

    fn split(&mut self, split: &config::Split, who: &str, at: &Path) {
        let is_known = !self.sources.is_doubtful(&at.key("to"));
        if split.to.is_empty() && is_known {
            self.refuse_with_hint(
                &at.key("to"),
                "a split without variants",
                "add `to: [{upstream: NAME, weight: 90}, ...]`",
            );
        } else if split.to.iter().all(|variant| variant.weight == 0) && is_known {
            self.refuse_with_hint(
                &at.key("to"),
                "all weights are 0, so no variant would ever be chosen",
                "give one of them a weight of at least 1",
            );
        }
        let mut names = HashSet::new();
        for (index, variant) in split.to.iter().enumerate() {
            let at = at.key("to").index(index);
            self.upstream_exists(who, &variant.upstream, &at.key("upstream"));
            self.subset(Some(&variant.upstream), &variant.subset, &at);
            let name = variant.called();
            if !names.insert(name) {
                self.refuse_with_hint(
                    &at,
                    format!("a variant named `{name}` exists already"),
                    "a variant without a name is called by its upstream; give each its own `name`",
                );
            }
        }
        self.split_by(&split.by, at);
    }

    fn split_by(&mut self, by: &config::SplitBy, at: &Path) {
        let (key, name) = match by {
            config::SplitBy::Header(name) => ("header", name),
            config::SplitBy::Cookie(name) => ("cookie", name),
            _ => return,
        };
        // A cookie's name is a token too (RFC 6265, section 4.1.1).
        if http::HeaderName::try_from(name).is_err() {
            self.refuse(&at.key("by").key(key), format!("`{name}` is not the name of a {key}"));
        }
    }

    fn canary(&mut self, canary: &config::Canary, who: &str, at: &Path) {
        self.upstream_exists(who, &canary.stable, &at.key("stable"));
        self.upstream_exists(who, &canary.candidate, &at.key("candidate"));
        if canary.stable == canary.candidate {
            self.refuse_with_hint(
                &at.key("candidate"),
                format!("stable and candidate are the same upstream `{}`", canary.stable),
                "a canary compares two; define the new version as an upstream of its own",
            );
        }
        self.split_by(&canary.by, at);
        for (key, share) in [("start", canary.start), ("step", canary.step), ("max", canary.max)] {
            self.refuse_nothing(share, &at.key(key), &format!("`{key}` of 0% never gets anywhere"), "canary");
        }
        if canary.start > canary.max {
            self.refuse(&at.key("start"), format!("starts at {}, beyond `max` {}", canary.start, canary.max));
        }
        self.refuse_zero(&at.key("every"), canary.every);
        let require = &canary.require;
        let at = at.key("require");
        if let Some(p99) = require.p99 {
            self.refuse_zero(&at.key("p99"), p99);
        }
        if require.max_requests < require.min_requests {
            self.refuse_with_hint(
                &at.key("max_requests"),
                format!("{} is less than `min_requests` {}", require.max_requests, require.min_requests),
                "raise it, or lower `min_requests`",
            );
        }
        if !(0.8..=0.9999).contains(&require.confidence.as_f64()) {
            self.refuse_with_hint(
                &at.key("confidence"),
                format!("{} is not between 80% and 99.99%", require.confidence),
                "99% errs in one of 100 rollouts",
            );
        }
        let nothing = require.success_rate.is_none()
            && require.p99.is_none()
            && require.max_error_increase.is_none()
            && require.max_p99_increase.is_none();
        if nothing && !self.sources.is_doubtful(&at) {
            self.refuse_with_hint(
                &at,
                "requires nothing of the candidate, so it would be promoted whatever it does",
                "set `success_rate`, `p99`, `max_error_increase` or `max_p99_increase`",
            );
        }
    }

    fn retry(&mut self, route: &config::Route, at: &Path) -> PlannedRetry {
        let config = route.retry.as_deref().cloned().unwrap_or_default();
        let mut conditions = Vec::new();
        for (index, word) in config.on.iter().enumerate() {
            match word.0.parse::<Condition>() {
                Ok(condition) => conditions.push(condition),
                Err(bad) => {
                    let at = at.key("on").index(index);
                    let is_foreign = bad.to_string().contains("(write ");
                    match suggest(&word.0, Condition::WORDS.into_iter()).filter(|_| !is_foreign) {
                        Some(near) => {
                            let hint = format!("did you mean `{near}`?");
                            self.refuse_with_hint(
                                &at,
                                format!("`{}` is not a retry condition", word.0),
                                hint,
                            );
                        }
                        None => self.refuse(&at, bad.to_string()),
                    }
                }
            }
        }
        if conditions.contains(&Condition::Nothing) && config.on.len() > 1 {
            let hint = "leave `none` out, or all others";
            self.refuse_with_hint(&at.key("on"), "`none` goes with no other condition", hint);
        }
        if config.attempts.get() > MOST_ATTEMPTS {
            let message = format!("{} tries are more than the {MOST_ATTEMPTS} there may be", config.attempts);
            self.refuse_with_hint(&at.key("attempts"), message, "3 are usual");
        }
        if config.body_buffer.bytes() > MOST_BUFFERED.bytes() {
            let message = "more than the 16MiB of each request's body there may be";
            self.refuse_with_hint(&at.key("body_buffer"), message, "64KiB is the default");
        }
        if config.response_buffer.bytes() > MOST_BUFFERED.bytes() {
            let message = "more than the 16MiB of each response there may be";
            self.refuse_with_hint(&at.key("response_buffer"), message, "16KiB is the default");
        }
        if route.retry.is_some() && config.on.is_empty() {
            self.refuse_with_hint(
                &at.key("on"),
                "no condition, so nothing is ever retried",
                "leave `on` out",
            );
        }
        let methods = match &config.methods {
            config::RetryMethods::Idempotent => Methods::Idempotent,
            config::RetryMethods::Listed(methods) => {
                for (index, method) in methods.iter().enumerate() {
                    if Method::from_bytes(method.as_bytes()).is_err() || method.to_uppercase() != *method {
                        self.refuse(
                            &at.key("methods").index(index),
                            format!("`{method}` is not a method (methods are upper case)"),
                        );
                    }
                }
                Methods::Listed(methods.clone())
            }
        };
        if let Some(per_try) = config.per_try_timeout {
            self.refuse_zero(&at.key("per_try_timeout"), per_try);
            self.refuse_longer(route, per_try, &at.key("per_try_timeout"), "one try");
        }
        let (base, max) = (Duration::from(config.backoff.base), Duration::from(config.backoff.max));
        if base > max {
            let message =
                format!("`base` {} is longer than `max` {}", config.backoff.base, config.backoff.max);
            self.refuse(&at.key("backoff").key("base"), message);
        }
        PlannedRetry {
            explicit: route.retry.is_some(),
            conditions: conditions.into_iter().collect(),
            methods,
            config,
        }
    }

    fn hedge(&mut self, route: &config::Route, hedge: &config::Hedge, methods: &Methods, at: &Path) {
        if let config::HedgeAfter::Fixed(after) = hedge.after {
            self.refuse_longer(route, after, &at.key("after"), "the first endpoint");
        }
        self.refuse_nothing(hedge.budget, &at.key("budget"), "a budget of 0% pays for no hedge", "hedge");
        let routed = &route.matching.methods;
        // Listed methods are the operator's word that sending them twice does no harm.
        if !routed.is_empty() && !routed.iter().any(|method| methods.allows(method)) {
            self.refuse_with_hint(
                at,
                format!("no method of this route may be sent twice ({})", routed.join(", ")),
                "hedging is for idempotent methods, or those in `retry.methods`",
            );
        }
    }

    fn refuse_longer(&mut self, route: &config::Route, part: HumanDuration, at: &Path, what: &str) {
        if let Some(whole) = route.timeout
            && Duration::from(part) > Duration::from(whole)
        {
            let message = format!("{part} for {what} is longer than the route's whole `timeout` of {whole}");
            self.refuse_with_hint(at, message, "make it shorter, or `timeout` longer");
        }
    }

    fn refuse_nothing(&mut self, share: config::Ratio, at: &Path, message: &str, key: &str) {
        if share.as_f64() == 0.0 {
            self.refuse_with_hint(at, message, format!("leave `{key}` out to turn it off"));
        }
    }

    /// What a hash balancer goes by.
    fn hash_key(&mut self, key: &config::HashKey, at: &Path) {
        let at = at.key("balancer").key("hash");
        match key {
            config::HashKey::ClientIp => {}
            config::HashKey::Header(name) if http::HeaderName::try_from(name).is_err() => {
                self.refuse(&at.key("header"), format!("`{name}` is not the name of a header"));
            }
            config::HashKey::Header(_) => {}
            config::HashKey::Cookie(cookie) => self.cookie(cookie.attributes(), &at.key("cookie")),
        }
    }

    fn concurrency(&mut self, concurrency: &config::Concurrency, at: &Path) {
        /// What one process has room for.
        const MOST: usize = 1_000_000;
        let config::Concurrency { initial, min, max, tolerance, baseline_interval } = concurrency;
        if max.get() > MOST {
            self.refuse(&at.key("max"), format!("{max} is more than the {MOST} requests there may be"));
        }
        if min > max {
            let hint = "the limit moves between the two";
            self.refuse_with_hint(&at.key("min"), format!("`min` {min} is more than `max` {max}"), hint);
        } else if !(min..=max).contains(&initial) {
            let message = format!("`initial` {initial} is not between `min` {min} and `max` {max}");
            self.refuse_with_hint(&at.key("initial"), message, "the limit moves between the two");
        }
        if tolerance.as_f64() == 0.0 {
            let message = "answers take a little longer now and then, so 0% would go down to `min`";
            self.refuse_with_hint(&at.key("tolerance"), message, "25% is the default");
        }
        if Duration::from(*baseline_interval) < LEAST_INTERVAL {
            let message = "measuring anew halves the limit for a moment, so not more often than every 10s";
            self.refuse_with_hint(&at.key("baseline_interval"), message, "60s is the default");
        }
    }

    /// Breakers, ejection and limits of an upstream.
    pub(super) fn guards(&mut self, upstream: &config::Upstream, at: &Path) {
        if let Some(breaker) = &upstream.circuit_breaker {
            let at = at.key("circuit_breaker");
            self.refuse_zero(&at.key("open_for"), breaker.open_for);
            if breaker.failure_ratio.as_f64() == 0.0 {
                self.refuse(&at.key("failure_ratio"), "0% would open on the first success");
            }
            if breaker.failures.is_empty() {
                self.refuse(&at.key("failures"), "nothing counts as a failure, so it never opens");
            }
        }
        if let Some(config::OutlierRule::On(outlier)) = &upstream.outlier {
            let at = at.key("outlier");
            if !(2..=63).contains(&outlier.window.get()) {
                let message = format!("a window of {} is not from 2 to 63 tries", outlier.window);
                self.refuse_with_hint(&at.key("window"), message, "20 is the default");
            }
            self.refuse_zero(&at.key("eject_for"), outlier.eject_for);
            if Duration::from(outlier.max_eject_for) < Duration::from(outlier.eject_for) {
                let message = format!(
                    "`max_eject_for` {} is shorter than `eject_for` {}",
                    outlier.max_eject_for, outlier.eject_for
                );
                self.refuse(&at.key("max_eject_for"), message);
            }
        }
        if let config::Balancer::Hash(key) = &upstream.balancer {
            self.hash_key(key, at);
        }
        if let Some(slow_start) = upstream.slow_start {
            self.refuse_zero(&at.key("slow_start"), slow_start);
            if matches!(upstream.balancer, config::Balancer::Hash(_)) {
                self.refuse_with_hint(
                    &at.key("slow_start"),
                    "`slow_start` does nothing under a `hash` balancer: a key has one place",
                    "leave it out, or choose another balancer",
                );
            }
        }
        if let Some(concurrency) = upstream.learnt_limit() {
            self.concurrency(concurrency, &at.key("concurrency"));
        }
        let pool = &upstream.pool;
        if pool.max_requests.is_some() || pool.max_connections.is_some() {
            self.refuse_zero(&at.key("pool").key("pending_timeout"), pool.pending_timeout);
        }
    }
}
