//! What is known about one request while it passes through the stages.

mod body;
mod challenge;
mod deadline;
mod request;
mod route;
mod trace;
mod wait;
#[cfg(feature = "wasm")]
mod ways;

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;
use http::HeaderMap;
use pingora_http::ResponseHeader;

use crate::{
    accept::{Connection, Session},
    error::Reason,
    filter::{Decided, Exchange, Facts, Held, Phases, Response, Waits},
    forward::{self, Attempts, Copy, Why},
    grpc,
    policy::failure::Outcome as AttemptOutcome,
    snapshot::{Destination, Listener, Route, Snapshot},
};

pub(super) use self::{challenge::proof, deadline::Deadline, route::Unrouted, wait::Side};

pub(crate) struct Context {
    /// Pinned once: the request sees one whole configuration.
    pub snapshot: Arc<Snapshot>,
    pub started: Instant,
    /// The listener's settings in that snapshot; `None` until the request has been received.
    pub listener: Option<Arc<Listener>>,
    pub connection: Option<Arc<Connection>>,
    pub facts: Facts,
    pub route: Option<Arc<Route>>,
    /// Which conditional filters of the listener's chain run, and which of the route's.
    pub listener_steps: Decided,
    pub route_steps: Decided,
    /// Where a split sends it, if that has filters of its own, and which of those run.
    pub variant: Option<(Arc<Destination>, Decided)>,
    pub attempts: Attempts,
    /// When the request had been received whole, body and all.
    pub sent: Option<Instant>,
    /// Bytes of the request body so far.
    pub body_read: u64,
    /// What has been read of the body for a filter, and is still to go its way.
    pub ahead: Bytes,
    /// Why the gateway itself answered, if it did.
    pub reason: Option<Reason>,
    /// The copies for the route's mirrors, while the body is read.
    pub mirrors: Vec<Copy>,
    /// What the filters that run do, with bodies above all.
    body_phases: Phases,
    held_request: Held,
    held_response: Held,
    /// What a filter waits for, and with which body; none with the head of a response.
    waits: Option<(Option<Side>, Waits)>,
    /// From which filter on a response goes on when that is over.
    response_from: Option<usize>,
    /// The answer of a filter that saw a body.
    pub reply: Option<Response>,
    /// The connection speaks another protocol now.
    upgraded: bool,
    pub deadline: Deadline,
}

impl Context {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Context {
        Context {
            snapshot,
            started: Instant::now(),
            listener: None,
            connection: None,
            facts: Facts::default(),
            route: None,
            listener_steps: Decided::default(),
            route_steps: Decided::default(),
            variant: None,
            attempts: Attempts::default(),
            sent: None,
            body_read: 0,
            ahead: Bytes::new(),
            reason: None,
            mirrors: Vec::new(),
            body_phases: Phases::empty(),
            held_request: Held::default(),
            held_response: Held::default(),
            waits: None,
            response_from: None,
            reply: None,
            upgraded: false,
            deadline: Deadline::default(),
        }
    }

    /// The request came in.
    pub(crate) fn arrive(&mut self, connection: Arc<Connection>) {
        // A listener that a reload took away serves what is in flight with its last settings.
        let listener = self.snapshot.listeners.get(connection.port.key()).cloned();
        let listener = listener.unwrap_or_else(|| connection.port.settings().clone());
        listener.metrics.request_started();
        self.facts.listener = Some(listener.name.clone());
        self.facts.local = Some(connection.local);
        self.attempts.original_destination = connection.original_destination();
        self.listener = Some(listener);
        self.connection = Some(connection);
    }

    /// The request has become a conversation in another protocol, which may be as long as it likes.
    pub(crate) fn upgrade(&mut self) {
        self.limit(None);
        if let (Some(connection), Some(listener), false) = (&self.connection, &self.listener, self.upgraded) {
            connection.upgrade(listener.limits.upgraded_idle_timeout);
            listener.metrics.upgraded();
            self.upgraded = true;
        }
    }

    /// The head of an endpoint's answer is there. What came of a call may be known only with its trailers.
    pub(crate) fn judge(&mut self, response: &ResponseHeader, grpc: Option<u8>, now: Instant) {
        self.attempts.heard(response.status.as_u16(), grpc);
        if let Some(call) = &mut self.facts.grpc {
            call.status = grpc;
            if forward::is_told_by_trailers(response) {
                return self.attempts.begins_to_answer(now);
            }
            if self.gave_no_time(grpc, now) {
                return self.attempts.finish();
            }
        }
        self.attempts.answered(AttemptOutcome::of_answer(response.status.as_u16(), grpc), now);
    }

    /// The trailers of the answer are there, which say what came of a call.
    pub(crate) fn end_call(&mut self, trailers: &HeaderMap) {
        let Some(call) = self.facts.grpc.as_mut() else { return };
        let status = grpc::status_in(trailers);
        call.status = Some(status.unwrap_or(grpc::UNKNOWN));
        self.attempts.heard_call(status.unwrap_or(grpc::UNKNOWN));
        let now = Instant::now();
        if self.attempts.is_undecided() {
            match self.gave_no_time(status, now) {
                true => self.attempts.finish(),
                false => {
                    let outcome = AttemptOutcome::of_answer(200, status.or(Some(grpc::UNKNOWN)));
                    self.attempts.concluded(outcome, now);
                }
            }
        }
    }

    /// The path as it may be written down.
    pub(crate) fn shown_path(&self) -> Cow<'_, str> {
        self.facts.path_without(&self.snapshot.config.log.redact)
    }

    /// Tell the filters that the request is over.
    pub(crate) fn on_end(&mut self, session: &mut Session) {
        if !self.body_phases.contains(Phases::END) {
            return;
        }
        let mut exchange =
            Exchange { request: session.request_mut(), response: None, facts: &mut self.facts };
        if let Some(listener) = &self.listener {
            listener.chain.on_end(self.listener_steps, &mut exchange);
        }
        if let Some(route) = &self.route {
            route.chain.on_end(self.route_steps, &mut exchange);
        }
        if let Some((variant, steps)) = &self.variant {
            variant.filters.on_end(*steps, &mut exchange);
        }
    }

    /// A call of gRPC whose status is still to come: in trailers, or not at all.
    pub(crate) fn is_call_open(&self) -> bool {
        self.facts.grpc.is_some() && self.attempts.is_undecided()
    }

    /// Whether another try follows the one that ended so. `replayable` says that the request can be sent again.
    pub(crate) fn tries_again(
        &mut self,
        why: Why,
        session: &Session,
        replayable: bool,
        now: Instant,
    ) -> bool {
        let Some(route) = self.route.clone() else { return false };
        let request = forward::Request {
            method: &session.request().method,
            replayable: replayable && session.responded().is_none(),
            left: self.deadline.left(now),
        };
        self.attempts.again(why, &route, &request, now)
    }
}

impl Drop for Context {
    /// Also when the request ends in a panic.
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            if self.upgraded {
                listener.metrics.upgraded_ended();
            }
            listener.metrics.request_ended();
        }
    }
}
