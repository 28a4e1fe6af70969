//! Whether another try follows one that failed. Safety first (has the upstream acted, can the request be sent again), then
//! what the operator asked for, then time, and the budget last: it is only asked for tries that would be made.

use std::time::{Duration, Instant};

use http::Method;
use pingora_core::{Error, ErrorSource, ErrorType, RetryType};

use super::{Attempts, RNG};
use crate::{
    error::Reason,
    policy::classify::Failure,
    snapshot::{Retry, Route},
};

/// Tries in all where the upstream may have seen the request and the operator did not ask for retries: one that kills
/// whatever serves it must not be carried to every endpoint.
const MOST_UNASKED: u32 = 2;

/// What went wrong with a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No connection, so nothing was sent.
    Connect,
    /// A kept connection that the upstream closed meanwhile: it says nothing about the upstream.
    Stale,
    /// The upstream says that it did nothing: a refused stream, a GOAWAY.
    Refused,
    /// The connection broke before the answer.
    Reset,
    Timeout,
    /// It answered, and this is the status; over gRPC with this status of its own.
    Answer {
        status: u16,
        grpc: Option<u8>,
    },
}

/// What is known of the request when another try is considered.
pub struct Request<'a> {
    pub method: &'a Method,
    /// The whole request can be sent again, and nothing has been answered yet.
    pub replayable: bool,
    /// Of the time the request has; `None` without a limit.
    pub left: Option<Duration>,
}

impl Trouble {
    /// `None` where the fault is not the upstream's. `reused` says that the connection had served before.
    pub fn of(error: &Error, reused: bool) -> Option<Trouble> {
        if *error.esource() != ErrorSource::Upstream {
            return None;
        }
        // Nothing is sent to somebody else.
        if Reason::of(error) == Reason::UpstreamIdentityMismatch {
            return Some(Trouble::Connect);
        }
        let broken = matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::H2Error
        );
        Some(match error.retry {
            RetryType::Decided(true) => Trouble::Refused,
            RetryType::ReusedOnly if reused => Trouble::Stale,
            _ if Reason::of(error) == Reason::UpstreamTimeout => Trouble::Timeout,
            _ if broken => Trouble::Reset,
            _ => return None,
        })
    }

    /// As a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Trouble::Connect => "connect_error",
            Trouble::Stale => "stale_connection",
            Trouble::Refused => "refused_stream",
            Trouble::Reset => "reset",
            Trouble::Timeout => "timeout",
            Trouble::Answer { grpc: Some(_), .. } => "grpc",
            Trouble::Answer { status: 500.., .. } => "5xx",
            Trouble::Answer { .. } => "4xx",
        }
    }
}

impl Attempts {
    /// Whether to try again after `trouble`. Where so, it has been paid for and counted, and `pause` says how long to wait.
    pub fn again(&mut self, trouble: Trouble, route: &Route, request: &Request<'_>, now: Instant) -> bool {
        let retry = &route.retry;
        if !request.replayable || !self.is_wanted(trouble, retry, request.method) {
            return false;
        }
        let free = trouble == Trouble::Stale;
        if !free && self.count() >= retry.attempts {
            return false;
        }
        // With nowhere to go, what the client is told is what happened here.
        if !self.destination.as_ref().is_some_and(|destination| destination.upstream.admits(now)) {
            return false;
        }
        let pause = match retry.explicit && !free {
            true => RNG.with_borrow_mut(|rng| retry.backoff.delay(self.count(), rng)),
            false => Duration::ZERO,
        };
        if request.left.is_some_and(|left| left <= pause) {
            return false;
        }
        if !free && !retry.budget.withdraw(now) {
            route.metrics.budget_exhausted();
            return false;
        }
        route.metrics.retry(trouble.label());
        self.pause = pause;
        true
    }

    fn is_wanted(&self, trouble: Trouble, retry: &Retry, method: &Method) -> bool {
        let conditions = &retry.conditions;
        let twice = retry.methods.allows(method.as_str());
        match trouble {
            Trouble::Connect => {
                // Unasked, an endpoint that was not tried yet.
                conditions.retries_failure(Failure::Connect) && (retry.explicit || self.has_untried())
            }
            Trouble::Stale => method.is_idempotent() || twice,
            Trouble::Refused => conditions.retries_failure(Failure::RefusedStream),
            Trouble::Reset => {
                twice
                    && conditions.retries_failure(Failure::Reset)
                    && (retry.explicit || self.count() < MOST_UNASKED)
            }
            Trouble::Timeout => twice && conditions.retries_failure(Failure::Timeout),
            Trouble::Answer { status, grpc } => {
                twice
                    && (conditions.retries_status(status)
                        || grpc.is_some_and(|code| conditions.retries_grpc(code)))
            }
        }
    }

    /// An endpoint is healthy that has not failed this request; the one that did may have been taken out meanwhile.
    pub(super) fn has_untried(&self) -> bool {
        let endpoints = self.destination.as_ref().map(|destination| destination.upstream.endpoints());
        endpoints.unwrap_or_default().iter().any(|endpoint| {
            endpoint.weight > 0 && endpoint.is_usable() && !self.tried().contains(&endpoint.id())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(etype: ErrorType, retry: RetryType) -> Box<Error> {
        let mut error = Error::new(etype);
        error.as_up();
        error.retry = retry;
        error
    }

    #[test]
    fn tells_what_went_wrong() {
        let decided = RetryType::Decided;
        let cases = [
            (error(ErrorType::ConnectionClosed, RetryType::ReusedOnly), true, Some(Trouble::Stale)),
            (error(ErrorType::ConnectionClosed, RetryType::ReusedOnly), false, Some(Trouble::Reset)),
            (error(ErrorType::H2Error, decided(true)), true, Some(Trouble::Refused)),
            (error(ErrorType::ReadTimedout, decided(false)), true, Some(Trouble::Timeout)),
            (error(ErrorType::InvalidHTTPHeader, decided(false)), true, None),
            (Error::new(ErrorType::ReadError), true, None),
        ];
        for (error, reused, trouble) in cases {
            assert_eq!(Trouble::of(&error, reused), trouble, "{error}");
        }
    }
}
