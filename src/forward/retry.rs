//! Whether another try follows one that failed. Safety first (has the upstream acted, can the request be sent again), then
//! what the operator asked for, then time, and the budget last: it is only asked for tries that would be made.

use std::time::{Duration, Instant};

use http::Method;

use super::{Attempts, RNG};
use crate::{
    policy::failure::{Cause, Failure},
    snapshot::{Retry, Route},
};

/// Tries in all where the upstream may have seen the request and the operator did not ask for retries: one that kills
/// whatever serves it must not be carried to every endpoint.
const MOST_UNASKED: u32 = 2;

/// Why another try is considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Failed(Failure),
    /// It answered, and this is the status; over gRPC with this status of its own.
    Answered {
        status: u16,
        grpc: Option<u8>,
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
        if !self.destination.as_ref().is_some_and(|destination| destination.upstream.admits(now)) {
            return false;
        }
        let pause = match retry.explicit && !free {
            true => RNG.with_borrow_mut(|rng| retry.backoff.delay(self.spent(), rng)),
            false => Duration::ZERO,
        };
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
        is_wanted && self.current().is_some_and(|attempt| attempt.has_others(self.tried(), now))
    }

    fn is_wanted(&self, why: Why, retry: &Retry, method: &Method, now: Instant) -> bool {
        let conditions = &retry.conditions;
        let twice = retry.methods.allows(method.as_str());
        let cause = match why {
            Why::Answered { status, grpc } => {
                return twice
                    && (conditions.retries_status(status)
                        || grpc.is_some_and(|code| conditions.retries_grpc(code)));
            }
            Why::Failed(failure) => failure.meaning().cause,
        };
        match cause {
            None => false,
            // Nothing was sent: another endpoint is tried unasked, the same one only where that is asked for.
            Some(Cause::Connect) => {
                let is_asked = retry.explicit && conditions.retries(Cause::Connect);
                !conditions.retries_nothing() && (is_asked || self.has_untried(now))
            }
            Some(Cause::Stale) => method.is_idempotent() || twice,
            Some(Cause::Refused) => !conditions.retries_nothing(),
            Some(Cause::Reset) => {
                twice && conditions.retries(Cause::Reset) && (retry.explicit || self.spent() < MOST_UNASKED)
            }
            Some(Cause::Timeout) => twice && conditions.retries(Cause::Timeout),
        }
    }

    /// Tries that count as such.
    fn spent(&self) -> u32 {
        self.count() - self.free
    }

    /// An endpoint is healthy that has not failed this request; the one that did may have been taken out meanwhile.
    pub(super) fn has_untried(&self, now: Instant) -> bool {
        let upstream = self.destination.as_ref().map(|destination| &destination.upstream);
        upstream.is_some_and(|upstream| upstream.has_others(self.tried(), None, now))
    }
}
