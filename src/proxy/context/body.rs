//! Bodies on their way through the filters, within their bounds.

use bytes::Bytes;
use http::HeaderMap;

use super::{Context, Side};
use crate::{
    accept::Session,
    filter::{Exchange, Passed, Phases},
    forward::Ended,
    grpc::Call,
};

impl Context {
    /// Count a part of the body. False when it is one too many. The stream of a call may go on for ever: there it is each
    /// message that may not be too large.
    pub(crate) fn takes(&mut self, part: &[u8]) -> bool {
        self.body_read += part.len() as u64;
        let length = match self.stream() {
            None => self.body_read,
            Some(call) => call.longest_message(part),
        };
        !self.is_too_much(length)
    }

    /// The call, where it may be a stream without end.
    pub(crate) fn stream(&mut self) -> Option<&mut Call> {
        self.facts.grpc.as_mut().filter(|call| call.is_streamed)
    }

    pub(super) fn is_too_much(&self, length: u64) -> bool {
        self.listener.as_ref().is_some_and(|listener| length > listener.limits.body_size)
    }

    /// A part of the request's body as its upstream is to get it; with `trailers` it is the last.
    ///
    /// # Errors
    ///
    /// A filter refuses it, or answers: [`Ended::Replied`].
    ///
    /// True where a filter waits: then the same is said again afterwards, and that filter has the part.
    pub(crate) fn filter_request_body(
        &mut self,
        session: &mut Session,
        data: &mut Bytes,
        mut trailers: Option<&mut HeaderMap>,
    ) -> Result<bool, Ended> {
        if !self.body_phases.intersects(Phases::REQUEST_BODY | Phases::REQUEST_TRAILERS) {
            return Ok(false);
        }
        let Context { facts, listener, listener_steps, route, route_steps, variant, held_request, .. } = self;
        let most = listener.as_ref().map_or(0, |listener| listener.limits.filter_buffer);
        let mut exchange = Exchange { request: session.request_mut(), response: None, facts };
        let chains = [
            listener.as_ref().map(|listener| (&listener.chain, *listener_steps)),
            route.as_ref().map(|route| (&route.chain, *route_steps)),
            variant.as_ref().map(|(variant, steps)| (&variant.filters, *steps)),
        ];
        let mut waits = false;
        for (chain, steps) in chains.into_iter().flatten() {
            let trailers = trailers.as_deref_mut();
            match chain.on_request_body(steps, &mut exchange, data, trailers, held_request, most)? {
                Passed::On => {}
                Passed::Replied(answer) => {
                    self.reply = Some(answer);
                    return Err(Ended::Replied);
                }
                Passed::Waits => {
                    waits = true;
                    break;
                }
            }
        }
        Ok(waits && self.begin_waits(Some(Side::Request)))
    }

    /// A part of the response's body as the client is to get it; with `trailers` it is the last.
    ///
    /// # Errors
    ///
    /// A filter refuses it, or answers: [`Ended::Replied`].
    ///
    /// True where a filter waits, as with the request's.
    pub(crate) fn filter_response_body(
        &mut self,
        session: &mut Session,
        data: &mut Bytes,
        mut trailers: Option<&mut HeaderMap>,
    ) -> Result<bool, Ended> {
        if !self.filters_response_body() {
            return Ok(false);
        }
        let Context { facts, listener, listener_steps, route, route_steps, variant, held_response, .. } =
            self;
        let most = listener.as_ref().map_or(0, |listener| listener.limits.filter_buffer);
        let mut exchange = Exchange { request: session.request_mut(), response: None, facts };
        // The first filter is outermost: it hears a response last.
        let chains = [
            variant.as_ref().map(|(variant, steps)| (&variant.filters, *steps)),
            route.as_ref().map(|route| (&route.chain, *route_steps)),
            listener.as_ref().map(|listener| (&listener.chain, *listener_steps)),
        ];
        let mut waits = false;
        for (chain, steps) in chains.into_iter().flatten() {
            let trailers = trailers.as_deref_mut();
            match chain.on_response_body(steps, &mut exchange, data, trailers, held_response, most)? {
                Passed::On => {}
                Passed::Replied(answer) => {
                    self.reply = Some(answer);
                    return Err(Ended::Replied);
                }
                Passed::Waits => {
                    waits = true;
                    break;
                }
            }
        }
        Ok(waits && self.begin_waits(Some(Side::Response)))
    }

    /// Whether a filter may change the response's body.
    pub(crate) fn filters_response_body(&self) -> bool {
        self.body_phases.intersects(Phases::RESPONSE_BODY | Phases::RESPONSE_TRAILERS)
    }

    /// Which filters run is known: what they do with bodies.
    pub(crate) fn settle_phases(&mut self) {
        let listener = self.listener.as_ref().map(|listener| listener.chain.phases(self.listener_steps));
        let route = self.route.as_ref().map(|route| route.chain.phases(self.route_steps));
        let variant = self.variant.as_ref().map(|(variant, steps)| variant.filters.phases(*steps));
        let all = [listener, route, variant].into_iter().flatten();
        self.body_phases = all.fold(Phases::empty(), |all, phases| all | phases);
        #[cfg(feature = "wasm")]
        self.note_arrival();
    }
}
