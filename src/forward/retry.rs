//! Whether another try follows one that failed. Safety first (has the upstream acted, can the request be sent again), then
//! what the operator asked for, then time, and the budget last: it is only asked for tries that would be made.

use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, Method, StatusCode};
use pingora_http::ResponseHeader;

use super::{Attempts, RNG, grpc_status};
use crate::{
    policy::failure::{Cause, Failure},
    snapshot::{Retry, Route},
};

/// Tries in all where the upstream may have seen the request and the operator did not ask for retries: one that kills
/// whatever serves it must not be carried to every endpoint.
const MOST_UNASKED: u32 = 2;

const TOO_MANY: u16 = StatusCode::TOO_MANY_REQUESTS.as_u16();
const UNAVAILABLE: u16 = StatusCode::SERVICE_UNAVAILABLE.as_u16();

/// The pause that an answer asks for: its `Retry-After`, in seconds or as a date (RFC 9110, section 10.2.3), or where it has none and
/// says that there are too many requests its `RateLimit-Reset`, in seconds.
fn asked_pause(status: u16, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    // More digits than fit are longer than anybody waits.
    let seconds = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
    };
    let date = |text: &str| {
        let date = httpdate::parse_http_date(text).ok()?;
        Some(date.duration_since(now).unwrap_or_default())
    };
    let retry_after = text("retry-after").and_then(|text| seconds(text).or_else(|| date(text)));
    let resets = || text("ratelimit-reset").and_then(seconds);
    retry_after.or_else(|| matches!(status, TOO_MANY | UNAVAILABLE).then(resets).flatten())
}

/// Why another try is considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Failed(Failure),
    /// It answered, and this is the status; over gRPC with this status of its own.
    Answered {
        status: u16,
        grpc: Option<u8>,
        /// It asks for this pause.
        asks_for: Option<Duration>,
    },
}

/// What is known of the request when another try is considered.
pub(crate) struct Request<'a> {
    pub method: &'a Method,
    /// The whole request can be sent again, and nothing has been answered yet.
    pub replayable: bool,
    /// Of the time the request has; `None` without a limit.
    pub left: Option<Duration>,
}

impl Why {
    pub(crate) fn answered(answer: &ResponseHeader) -> Why {
        let (status, grpc) = (answer.status.as_u16(), grpc_status(answer));
        Why::Answered { status, grpc, asks_for: asked_pause(status, &answer.headers, SystemTime::now()) }
    }

    fn cause(self) -> Option<Cause> {
        match self {
            Why::Failed(failure) => failure.meaning().cause,
            Why::Answered { .. } => None,
        }
    }

    /// As a metric's label.
    fn label(self) -> &'static str {
        match self {
            Why::Failed(failure) => failure.meaning().cause.map_or("none", Cause::label),
            Why::Answered { grpc: Some(_), .. } => "grpc",
            Why::Answered { status: 500.., .. } => "5xx",
            Why::Answered { .. } => "4xx",
        }
    }
}

impl Attempts {
    /// Whether to try again after `why`. Where so, it has been paid for and counted, and `pause` says how long to wait.
    pub(crate) fn again(&mut self, why: Why, route: &Route, request: &Request<'_>, now: Instant) -> bool {
        let retry = &route.retry;
        if !request.replayable || !self.is_wanted(why, retry, request.method, now) {
            return false;
        }
        let free = why.cause() == Some(Cause::Stale);
        if !free && self.spent() >= retry.attempts {
            return false;
        }
        // With nowhere to go, what the client is told is what happened here.
        if !self.destination.as_ref().is_some_and(|destination| destination.admits(now)) {
            return false;
        }
        let mut pause = match retry.explicit && !free {
            true => RNG.with_borrow_mut(|rng| retry.backoff.delay(self.spent(), rng)),
            false => Duration::ZERO,
        };
        if let Some(asked) = self.asked_pause(why, now) {
            if asked > retry.max_retry_after {
                return false;
            }
            pause = pause.max(asked);
        }
        if request.left.is_some_and(|left| left <= pause) {
            return false;
        }
        // Whoever refuses a stream has done nothing for it, so asking again adds nothing to its load that the budget is to
        // bound; and how many streams a new connection takes is known only when some have been refused.
        // Nor has an endpoint that there was no connection with, which is avoided from then on.
        let is_paid = !free && !matches!(why.cause(), Some(Cause::Refused | Cause::Connect));
        if is_paid && !retry.budget.withdraw(now) {
            route.metrics.budget_exhausted();
            return false;
        }
        route.metrics.retry(why.label());
        self.free += u32::from(free);
        self.pause = pause;
        true
    }

    /// Whether another endpoint could be asked if the present one broke off within its answer.
    pub(crate) fn could_ask_another(&self, route: &Route, method: &Method, now: Instant) -> bool {
        let retry = &route.retry;
        let most = if retry.explicit { retry.attempts } else { MOST_UNASKED };
        let is_wanted = self.spent() < most
            && retry.methods.allows(method.as_str())
            && retry.conditions.retries(Cause::Reset);
        is_wanted && self.current().is_some() && self.has_untried(now)
    }

    fn is_wanted(&self, why: Why, retry: &Retry, method: &Method, now: Instant) -> bool {
        let conditions = &retry.conditions;
        let twice = retry.methods.allows(method.as_str());
        let cause = match why {
            Why::Answered { status, grpc, .. } => {
                return twice
                    && (conditions.retries_status(status)
                        || grpc.is_some_and(|code| conditions.retries_grpc(code)));
            }
            Why::Failed(failure) => failure.meaning().cause,
        };
        match cause {
            None => false,
            // Nothing was sent: another endpoint is tried unasked, the same one only where that is asked for. Whoever may not go elsewhere
            // is told by the next try that the session is lost.
            Some(Cause::Connect) => {
                let is_asked = retry.explicit && conditions.retries(Cause::Connect);
                !conditions.retries_nothing() && (is_asked || self.is_bound() || self.has_untried(now))
            }
            Some(Cause::Stale) => method.is_idempotent() || twice,
            Some(Cause::Refused) => !conditions.retries_nothing(),
            Some(Cause::Reset) => {
                twice && conditions.retries(Cause::Reset) && (retry.explicit || self.spent() < MOST_UNASKED)
            }
            Some(Cause::Timeout) => twice && conditions.retries(Cause::Timeout),
        }
    }

    /// How long whoever is asked next had better be left alone. A server that is not available speaks for itself, and another one
    /// can be asked at once; one that gets too many requests speaks for all.
    pub(super) fn asked_pause(&self, why: Why, now: Instant) -> Option<Duration> {
        let Why::Answered { status, asks_for, .. } = why else { return None };
        asks_for.filter(|_| status == TOO_MANY || !self.has_untried(now))
    }

    /// Tries that count as such.
    fn spent(&self) -> u32 {
        self.count() - self.free
    }

    /// An endpoint can be asked that has not had this request; the one that failed it may have been taken out meanwhile.
    pub(super) fn has_untried(&self, now: Instant) -> bool {
        self.has_others(self.tried(), self.present(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(status: u16, fields: &[(&'static str, &str)]) -> Option<u64> {
        let fields =
            fields.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        // 1994-11-06 08:49:37.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        asked_pause(status, &fields.collect(), now).map(|pause| pause.as_secs())
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_as_a_date_in_any_of_three_forms() {
        for (value, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:49:40 GMT", Some(3)),
            ("Sun Nov  6 08:49:38 1994", Some(1)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(asked(503, &[("retry-after", value)]), seconds, "{value}");
        }
    }

    #[test]
    fn where_nothing_says_when_to_retry_the_end_of_a_rate_limit_s_window_does() {
        assert_eq!(asked(429, &[("ratelimit-reset", "7")]), Some(7));
        assert_eq!(asked(429, &[("ratelimit-reset", "7"), ("retry-after", "2")]), Some(2));
        assert_eq!(asked(500, &[("ratelimit-reset", "7")]), None, "it is not why this failed");
        assert_eq!(asked(500, &[]), None);
    }
}
