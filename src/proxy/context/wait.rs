//! A filter that waits while it looks at a body, or at a response. It may have the request meanwhile, so nothing else goes on.

use std::task::{Context as Task, Poll, ready};

use pingora_http::{RequestHeader, ResponseHeader};

use super::Context;
use crate::{
    error::Reason,
    filter::{Exchange, Waits},
};

/// Whose body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
}

impl Context {
    pub(crate) fn is_waiting(&self) -> bool {
        self.waits.is_some()
    }

    /// A filter waits with this body.
    pub(crate) fn waits_with(&self, side: Side) -> bool {
        self.waits.as_ref().is_some_and(|(of, _)| *of == Some(side))
    }

    /// Ready when no filter waits any more; that one is to be asked again. `response` is its head, where that is what waits.
    pub(crate) fn poll_waits(
        &mut self,
        request: &mut RequestHeader,
        response: Option<&mut ResponseHeader>,
        cx: &mut Task<'_>,
    ) -> Poll<()> {
        if let Some((_, waits)) = &mut self.waits {
            ready!(waits.until.as_mut().poll(cx));
        }
        self.end_waits(request, response);
        Poll::Ready(())
    }

    /// However the wait ends: what the filter has comes back.
    pub(crate) fn end_waits(&mut self, request: &mut RequestHeader, response: Option<&mut ResponseHeader>) {
        let Some((_, Waits { back, .. })) = self.waits.take() else { return };
        back(&mut Exchange { request, response, facts: &mut self.facts });
    }

    /// Ready when a filter that holds back a part of this body is to be asked again; an empty part then finds it.
    pub(crate) fn poll_held(&mut self, side: Side, cx: &mut Task<'_>) -> Poll<()> {
        match side {
            Side::Request => self.held_request.poll_ends(cx),
            Side::Response => self.held_response.poll_ends(cx),
        }
    }

    /// Take up what a filter has said of it.
    pub(crate) fn begin_waits(&mut self, side: Option<Side>) -> bool {
        self.waits = self.facts.waits.take().map(|waits| (side, waits));
        self.waits.is_some()
    }

    /// Run the filters of all chains over a response, from the one that has waited on. True where one waits.
    ///
    /// # Errors
    ///
    /// A filter refused it.
    pub(crate) fn on_response(
        &mut self,
        request: &mut RequestHeader,
        response: &mut ResponseHeader,
    ) -> Result<bool, Reason> {
        let mut exchange = Exchange { request, response: Some(response), facts: &mut self.facts };
        // The first filter is outermost: it hears a response last.
        let chains = [
            self.variant.as_ref().map(|(variant, steps)| (&variant.filters, *steps)),
            self.route.as_ref().map(|route| (&route.chain, self.route_steps)),
            self.listener.as_ref().map(|listener| (&listener.chain, self.listener_steps)),
        ];
        for (chain, steps) in chains.into_iter().flatten() {
            chain.on_response_from(&mut self.response_from, steps, &mut exchange)?;
            if exchange.facts.waits.is_some() {
                break;
            }
        }
        Ok(self.begin_waits(None))
    }
}
