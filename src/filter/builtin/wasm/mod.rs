//! `wasm`: a plugin as a step of a chain. The request is lent to it, one callback at a time; what it wants is told in the words of
//! the chain, and where it fails, `fail` says what becomes of the request.

mod body;
mod forwarded;
pub(in crate::filter) mod fuzzing;
mod heads;
mod lending;
mod options;
mod outcome;
mod property;
mod view;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

pub(crate) use options::Wasm;

use self::{lending::Kept, view::Phase};
use crate::{
    config::PluginPhase,
    filter::{BodyFlow, Exchange, Filter, Flow, Phases, Reason},
    plugin::{Root, named},
};

pub(crate) struct Step {
    /// The plugin's.
    name: String,
    /// `None` where nothing is to run.
    root: Option<Arc<Root>>,
    phases: Phases,
    calls: Calls,
}

/// Which callbacks are made.
#[derive(Clone, Copy, Default)]
struct Calls {
    request_headers: bool,
    request_body: bool,
    request_trailers: bool,
    response_headers: bool,
    response_body: bool,
    response_trailers: bool,
    log: bool,
}

impl Step {
    /// Only its place counts.
    fn placeholder(name: &str) -> Step {
        Step { name: name.to_owned(), root: None, phases: Phases::empty(), calls: Calls::default() }
    }

    fn new(name: &str, root: Arc<Root>) -> Step {
        let plugin = root.plugin();
        let makes = |phase| plugin.settings().wants(phase) && plugin.exports(named(phase).1);
        let calls = Calls {
            request_headers: makes(PluginPhase::RequestHeaders),
            request_body: makes(PluginPhase::RequestBody),
            request_trailers: makes(PluginPhase::RequestTrailers),
            response_headers: makes(PluginPhase::ResponseHeaders),
            response_body: makes(PluginPhase::ResponseBody),
            response_trailers: makes(PluginPhase::ResponseTrailers),
            log: makes(PluginPhase::Log),
        };
        // A plugin that never saw the request hears nothing of the response, so each begins with the request.
        let always = Phases::REQUEST_ASYNC | Phases::END | Phases::ASKS_FOR_WAYS;
        let phases = [
            (calls.request_headers, Phases::CHANGES_REQUEST),
            (calls.request_body, Phases::REQUEST_BODY),
            (calls.request_trailers, Phases::REQUEST_TRAILERS),
            // What is logged may be of the response.
            (calls.response_headers || calls.response_body || calls.log, Phases::RESPONSE),
            (calls.response_body, Phases::RESPONSE_BODY),
            (calls.response_trailers, Phases::RESPONSE_TRAILERS),
        ];
        let phases = phases.into_iter().filter(|(is_made, _)| *is_made);
        let phases = phases.fold(always, |all, (_, phase)| all | phase);
        Step { name: name.to_owned(), root: Some(root), phases, calls }
    }
}

impl Filter for Step {
    fn phases(&self) -> Phases {
        self.phases
    }

    fn detail(&self) -> Option<&str> {
        Some(&self.name)
    }

    /// It never waits here: where the plugin pauses, the exchange says so.
    fn on_request_at_once(&self, exchange: &mut Exchange<'_>) -> Result<Option<Flow>, Reason> {
        self.on_request_head(exchange).map(Some)
    }

    fn on_request_body(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        // Where there is no body there is no callback.
        match exchange.facts.is_bodiless {
            true => Ok(BodyFlow::Pass),
            false => self.on_part(exchange, data, is_last, Phase::RequestBody),
        }
    }

    fn on_request_trailers(
        &self,
        exchange: &mut Exchange<'_>,
        trailers: &mut HeaderMap,
    ) -> Result<(), Reason> {
        self.on_trailers(exchange, trailers, Phase::RequestTrailers)
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        self.on_response_head(exchange)
    }

    fn on_response_body(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        let method = exchange.request.method.clone();
        let Some(kept) = exchange.state::<Kept>(self) else { return Ok(BodyFlow::Pass) };
        // Where there is no body there is no callback.
        let head = kept.lent.as_ref().and_then(|lent| lent.response.as_ref());
        let has_none = kept.left.is_none() && head.is_none_or(|head| heads::is_bodiless(&method, head));
        match has_none {
            true => Ok(BodyFlow::Pass),
            false => self.on_part(exchange, data, is_last, Phase::ResponseBody),
        }
    }

    fn on_response_trailers(
        &self,
        exchange: &mut Exchange<'_>,
        trailers: &mut HeaderMap,
    ) -> Result<Bytes, Reason> {
        self.on_trailers(exchange, trailers, Phase::ResponseTrailers).map(|()| Bytes::new())
    }

    fn on_end(&self, exchange: &mut Exchange<'_>) {
        let Some(stream) = exchange.state::<Kept>(self).map(|kept| kept.stream.clone()) else { return };
        let lent = self.lend(exchange, Phase::End);
        let view = stream.end(lent);
        let _ = self.take_back(exchange, view);
    }
}

#[cfg(test)]
mod tests;
