//! How long a request may take.

use std::time::{Duration, Instant};

use super::Context;
use crate::{
    grpc,
    policy::failure::{Failure, Kind, Stage},
};

/// By when a request must have come further.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadline {
    /// When the whole request must be done: the route's `timeout`, or the client's where that is sooner.
    done_by: Option<Instant>,
    is_clients: bool,
    /// When the head of the upstream's answer must be there: `per_try_timeout`.
    answered_by: Option<Instant>,
}

impl Deadline {
    /// The sooner of the two.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.done_by.into_iter().chain(self.answered_by).min()
    }

    /// What is late, if something is.
    pub(crate) fn overdue(&self, stage: Stage, now: Instant) -> Option<Failure> {
        let is_past = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        match () {
            () if is_past(self.done_by) => Some(Failure::new(stage, Kind::Overdue)),
            () if is_past(self.answered_by) => Some(Failure::new(stage, Kind::TimedOut)),
            () => None,
        }
    }

    /// Whether the time of the request is what its client gave it. That it is over says nothing about an endpoint: else any
    /// client could have breakers open by giving none.
    pub(crate) fn is_clients(&self) -> bool {
        self.is_clients
    }

    /// Whether the whole request must be done by some time.
    pub(crate) fn is_set(&self) -> bool {
        self.done_by.is_some()
    }

    /// What of the request's time is left; `None` without a limit.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.done_by.map(|by| by.saturating_duration_since(now))
    }

    /// The head of the upstream's answer must be there by then.
    pub(crate) fn expect_answer(&mut self, by: Option<Instant>) {
        self.answered_by = by;
    }
}

impl Context {
    /// The whole request, from its arrival to the end of the response, may take this long.
    pub(crate) fn limit(&mut self, timeout: Option<Duration>) {
        self.deadline.done_by = timeout.and_then(|timeout| self.started.checked_add(timeout));
    }

    /// The client of a call has said how long it waits: it is not waited longer than that.
    pub(crate) fn limit_call(&mut self) {
        // A filter may have made it a call: that of gRPC-Web.
        self.find_streams();
        let Some(waits) = self.facts.grpc.as_ref().and_then(|call| call.timeout) else { return };
        let allowed = self.route.as_ref().and_then(|route| route.timeout);
        if allowed.is_none_or(|allowed| waits < allowed) {
            self.deadline.is_clients = true;
            self.limit(Some(waits));
        }
    }

    /// The endpoint says that the deadline has passed, and it was the client who set it.
    pub(super) fn gave_no_time(&self, status: Option<u8>, now: Instant) -> bool {
        const CLOCKS_DIFFER: Duration = Duration::from_millis(50);
        status == Some(grpc::DEADLINE_EXCEEDED)
            && self.deadline.is_clients
            && self.deadline.done_by.is_some_and(|by| by <= now + CLOCKS_DIFFER)
    }
}
