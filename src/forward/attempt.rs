//! One try at one endpoint: what it counts while it lasts, what is said of it when it ends, and whether another follows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pingora_core::{Error, ErrorSource, ErrorType, RetryType};

use crate::{
    error::Reason,
    observe::metrics::{EndpointMetrics, Outcome},
    upstream::{Busy, Endpoint, InFlight},
};

/// Tries in all, the first included, where nothing of the request can have been acted upon.
const MAX_TRIES: u32 = 3;
/// Tries in all where the upstream may have seen the request: one that kills whatever serves it must not be carried to
/// every endpoint.
const MAX_BROKEN: u32 = 2;

/// The tries of one request.
#[derive(Default)]
pub struct Attempts {
    count: u32,
    /// Endpoints that failed, by id.
    tried: Vec<u64>,
    first_started: Option<Instant>,
    current: Option<Attempt>,
    /// The endpoint of the last try, for the access log.
    endpoint: Option<Arc<Endpoint>>,
}

struct Attempt {
    started: Instant,
    metrics: Arc<EndpointMetrics>,
    reported: bool,
    learns: bool,
    _in_flight: InFlight,
    _busy: Busy,
}

impl Drop for Attempt {
    /// The client left, or the gateway gave up, before the endpoint had its say.
    fn drop(&mut self) {
        if !self.reported {
            self.metrics.attempt_abandoned();
        }
    }
}

impl Attempts {
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn tried(&self) -> &[u64] {
        &self.tried
    }

    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_ref().map(|endpoint| &*endpoint.name)
    }

    /// Since the first try began.
    pub fn elapsed(&self) -> Option<Duration> {
        self.first_started.map(|started| started.elapsed())
    }

    /// `learns` says whether the balancer goes by response times.
    pub fn start(
        &mut self,
        endpoint: Arc<Endpoint>,
        metrics: Arc<EndpointMetrics>,
        busy: Busy,
        learns: bool,
        now: Instant,
    ) {
        metrics.attempt_started();
        self.count += 1;
        self.first_started.get_or_insert(now);
        self.current = Some(Attempt {
            started: now,
            metrics,
            reported: false,
            learns,
            _in_flight: endpoint.start(),
            _busy: busy,
        });
        self.endpoint = Some(endpoint);
    }

    /// The endpoint's response header is there.
    pub fn answered(&mut self, status: u16, now: Instant) {
        let (Some(attempt), Some(endpoint)) = (&mut self.current, &self.endpoint) else { return };
        if attempt.reported {
            return;
        }
        attempt.reported = true;
        let outcome = if status >= 500 { Outcome::ServerError } else { Outcome::Success };
        attempt.metrics.attempt_ended(outcome);
        // A quick failure must not look like a fast endpoint.
        if status < 500 && attempt.learns {
            endpoint.observe(now - attempt.started, now);
        }
    }

    /// The try failed before the endpoint answered.
    pub fn failed(&mut self, error: &Error) {
        let Some(mut attempt) = self.current.take() else { return };
        let outcome = match Reason::of(error) {
            Reason::ConnectFailed => Outcome::ConnectFailed,
            Reason::UpstreamTimeout | Reason::RequestTimeout => Outcome::Timeout,
            Reason::UpstreamReset | Reason::BadUpstreamResponse => Outcome::Reset,
            _ => return,
        };
        if !attempt.reported {
            attempt.reported = true;
            attempt.metrics.attempt_ended(outcome);
        }
        self.tried.extend(self.endpoint.as_ref().map(|endpoint| endpoint.id()));
    }

    pub fn finish(&mut self) {
        self.current = None;
    }

    /// Connecting failed, so nothing was sent: whatever the method, an endpoint that was not tried yet may be. `usable` are
    /// the ids of those that are healthy now; the one that failed may have been taken out meanwhile.
    pub fn may_connect_elsewhere(&self, mut usable: impl Iterator<Item = u64>) -> bool {
        self.count < MAX_TRIES && usable.any(|id| !self.tried.contains(&id))
    }

    /// The connection broke before the answer. Asking again is safe when the upstream said it did nothing, or when
    /// the method is idempotent (RFC 9110, section 9.2.2); `replayable` says that the whole request can be sent again
    /// and nothing has been answered yet.
    pub fn may_ask_again(&self, error: &Error, idempotent: bool, replayable: bool, reused: bool) -> bool {
        if !replayable || *error.esource() != ErrorSource::Upstream {
            return false;
        }
        let broken = matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::H2Error
        );
        match error.retry {
            // Refused stream, GOAWAY: not processed.
            RetryType::Decided(true) => self.count < MAX_TRIES,
            // A kept connection that the upstream closed meanwhile says nothing about the upstream. Pingora's own
            // limit of tries bounds this.
            RetryType::ReusedOnly if reused && idempotent => true,
            _ => broken && idempotent && self.count < MAX_BROKEN,
        }
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
    fn asks_again_only_where_it_is_safe() {
        let first = Attempts { count: 1, ..Attempts::default() };
        let last = Attempts { count: MAX_TRIES, ..Attempts::default() };
        let stale = error(ErrorType::ConnectionClosed, RetryType::ReusedOnly);
        let refused = error(ErrorType::H2Error, RetryType::Decided(true));
        let timeout = error(ErrorType::ReadTimedout, RetryType::Decided(false));
        // (attempts, error, idempotent, replayable, reused) -> again
        let cases = [
            (&first, &stale, true, true, true, true),
            (&last, &stale, true, true, true, true),
            (&first, &stale, true, true, false, true),
            (&last, &stale, true, true, false, false),
            (&first, &stale, false, true, true, false),
            (&first, &stale, true, false, true, false),
            (&first, &refused, false, true, false, true),
            (&last, &refused, false, true, false, false),
            (&first, &timeout, true, true, false, false),
        ];
        for (index, (attempts, error, idempotent, replayable, reused, again)) in cases.into_iter().enumerate()
        {
            assert_eq!(attempts.may_ask_again(error, idempotent, replayable, reused), again, "case {index}");
        }
    }

    #[test]
    fn tries_each_endpoint_once_and_no_more_than_the_limit() {
        let tried = |count, tried: &[u64]| Attempts { count, tried: tried.to_vec(), ..Attempts::default() };
        assert!(!tried(1, &[7]).may_connect_elsewhere([7].into_iter()));
        assert!(tried(1, &[7]).may_connect_elsewhere([7, 8].into_iter()));
        assert!(!tried(2, &[7, 8]).may_connect_elsewhere([7, 8].into_iter()));
        assert!(!tried(MAX_TRIES, &[7]).may_connect_elsewhere(0..10));
    }

    #[test]
    fn an_endpoint_taken_out_while_it_was_tried_does_not_stop_the_next_try() {
        let attempts = Attempts { count: 1, tried: vec![7], ..Attempts::default() };
        assert!(attempts.may_connect_elsewhere([8].into_iter()));
    }
}
