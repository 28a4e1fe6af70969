//! The route of a request, and which filters run for it.

use std::sync::Arc;

use http::Method;
use pingora_http::RequestHeader;

use super::Context;
use crate::{
    error::Reason,
    filter::Decided,
    forward::{self, Refused},
    route::{self, Outcome},
    snapshot::{Destination, Listener, Route},
};

impl Context {
    /// Choose the route, and which of its filters and of the listener's run.
    ///
    /// # Errors
    ///
    /// None matches, or the listener is unknown.
    pub(crate) fn find_route(&mut self, request: &RequestHeader) -> Result<(), Unrouted> {
        if let Some(listener) = self.listener.clone() {
            self.listener_steps = listener.chain.decide(&self.to_match(request));
        }
        self.find_route_anew(request)
    }

    /// The same once the listener's filters have run, and one of them may have changed the request.
    ///
    /// # Errors
    ///
    /// None matches.
    pub(crate) fn find_route_anew(&mut self, request: &RequestHeader) -> Result<(), Unrouted> {
        (self.route, self.facts.route) = (None, None);
        if let Some(call) = &mut self.facts.grpc {
            call.is_streamed = false;
        }
        let listener = self.listener.clone().ok_or(Unrouted::because(Reason::Internal))?;
        let request = self.to_match(request);
        match listener.table.find(&request) {
            Outcome::Found { id, params } => {
                let route = listener.routes.get(id).cloned();
                let steps = route.as_ref().map(|route| route.chain.decide(&request));
                (self.route, self.route_steps) = (route, steps.unwrap_or_default());
                self.facts.params = params;
                self.facts.route = self.route.as_ref().map(|route| route.name.clone());
                // Before any filter: one that reads the body does not wait for the end of a stream.
                self.find_streams();
                Ok(())
            }
            Outcome::MethodNotAllowed { allow } => Err(Unrouted { reason: Reason::MethodNotAllowed, allow }),
            Outcome::NotFound => Err(Unrouted::because(Reason::NoRoute)),
        }
    }

    /// Whether a call is of those whose messages stream, as its route says.
    pub(super) fn find_streams(&mut self) {
        if let (Some(call), Some(route)) = (&mut self.facts.grpc, &self.route) {
            call.is_streamed = route.streams_grpc;
        }
    }

    /// Where the request goes, if its route leads anywhere: chosen once, for all its tries.
    ///
    /// # Errors
    ///
    /// The route answers by itself.
    pub(crate) fn destination(
        &mut self,
        route: &Route,
        request: &RequestHeader,
    ) -> Result<Arc<Destination>, Refused> {
        match &self.attempts.destination {
            Some(chosen) => Ok(chosen.clone()),
            None => {
                let client = self.addresses().client.ip();
                forward::enter(route, &mut self.attempts, request, client)
            }
        }
    }

    /// The same, and which of that variant's own filters run.
    ///
    /// # Errors
    ///
    /// The route answers by itself.
    pub(crate) fn find_variant(
        &mut self,
        route: &Route,
        request: &RequestHeader,
    ) -> Result<(Arc<Destination>, Decided), Refused> {
        let destination = self.destination(route, request)?;
        let steps = destination.filters.decide(&self.to_match(request));
        self.variant = Some((destination.clone(), steps));
        self.settle_phases();
        Ok((destination, steps))
    }

    /// Which paths may hold encoded slashes is for their route to say, or for the listener.
    ///
    /// # Errors
    ///
    /// This one may not, and does.
    pub(crate) fn check_slashes(&self) -> Result<(), Reason> {
        let keeps = |listener: &Arc<Listener>| listener.keeps_encoded_slashes(self.route.as_deref());
        let is_refused =
            route::has_encoded_slash(self.facts.path()) && !self.listener.as_ref().is_some_and(keeps);
        if is_refused { Err(Reason::EncodedSlash) } else { Ok(()) }
    }

    /// As rules see it.
    pub(crate) fn to_match<'r>(&'r self, request: &'r RequestHeader) -> route::Request<'r> {
        route::Request {
            host: self.facts.host(),
            path: self.facts.path(),
            query: request.uri.query(),
            method: &request.method,
            headers: &request.headers,
        }
    }
}

/// Why no route takes the request.
pub(crate) struct Unrouted {
    pub reason: Reason,
    /// For `Allow`, where other methods are served.
    pub allow: Vec<Method>,
}

impl Unrouted {
    fn because(reason: Reason) -> Unrouted {
        Unrouted { reason, allow: Vec::new() }
    }
}
