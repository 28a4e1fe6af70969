//! Where the request stands in a distributed trace.

use std::time::Instant;

use pingora_http::RequestHeader;

use super::{Context, request::with_headers};
use crate::{
    grpc::Call,
    snapshot::RouteTrace,
    trace::{self, Current, Records, state::State, w3c::TRACESTATE},
};

impl Context {
    /// Takes up the trace that the request is part of, or begins one. Once its route is known, which may have a say in it.
    pub(crate) fn begin_trace(&mut self, request: &mut RequestHeader) {
        let Some(tracing) = &self.snapshot.tracing else { return };
        let route = self.route.as_ref().and_then(|route| route.trace);
        // A trace that begins anew keeps its id: a filter may have told it already.
        let before = self.facts.trace.map(|trace| u128::from_be_bytes(trace.trace.bytes()));
        let random = (before.unwrap_or_else(|| fastrand::u128(..)), fastrand::u64(..));
        let (trusted, now) = (self.facts.from_trusted, self.started);
        self.facts.trace = if trace::brings(&request.headers) {
            with_headers(request, |headers| tracing.begin(headers, trusted, route, now, random))
        } else {
            tracing.begin_here(route, now, random).map(|(current, state)| {
                if let Some(value) = state.as_ref().and_then(State::value) {
                    // A request that has no room for one field more goes on without.
                    let _ = request.insert_header(TRACESTATE, value);
                }
                current
            })
        };
        self.attempts.trace(self.facts.trace);
    }

    /// The same, where a filter has led it to another route that sees this otherwise.
    pub(crate) fn begin_trace_anew(&mut self, request: &mut RequestHeader, before: Option<RouteTrace>) {
        if self.route.as_ref().and_then(|route| route.trace) != before {
            self.begin_trace(request);
        }
    }

    /// The trace of a request whose spans are recorded, now that it has ended.
    pub(crate) fn recorded(&self, status: u16, now: Instant) -> Option<Current> {
        let current = self.facts.trace?;
        match current.records {
            Records::Yes => Some(current),
            Records::No => None,
            Records::IfNotable => {
                let took = now.saturating_duration_since(self.started);
                let failed_call = self.facts.grpc.as_ref().is_some_and(Call::has_failed);
                let failed = status == 0 || status >= 500 || failed_call;
                let sampled_by = self.snapshot.tracing.as_ref()?.notable(failed, took, now)?;
                Some(Current { sampled_by, ..current })
            }
        }
    }
}
