//! What becomes of a request: what the plugin says, or where it failed, what `fail` says.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::{
    Step,
    lending::{Kept, Passed},
    view::Phase,
};
use crate::{
    config::PluginFail,
    filter::{Exchange, Reason, Response},
    grpc,
    plugin::{Answer, Failure},
};

impl Step {
    /// What a failure means for the request; `Ok` where it goes on.
    pub(super) fn failed(&self, exchange: &mut Exchange<'_>, failure: &Failure) -> Result<(), Reason> {
        let Some(root) = &self.root else { return Ok(()) };
        if let Some(kept) = exchange.state::<Kept>(self) {
            kept.is_out = true;
        }
        let settings = root.plugin().settings();
        exchange.facts.note_plugin(&settings.name, failure.why);
        match settings.fail {
            PluginFail::Closed => {
                self.forget_lengths(exchange);
                Err(Reason::PluginError)
            }
            PluginFail::Open => {
                root.plugin().metrics().skipped.inc();
                Ok(())
            }
        }
    }

    /// The same for one that is no fault of the instance.
    pub(super) fn counted(&self, exchange: &mut Exchange<'_>, why: &'static str) -> Result<(), Reason> {
        if let Some(root) = &self.root {
            root.plugin().failed(why);
        }
        self.failed(exchange, &Failure::new(why, why))
    }

    /// A plugin's own answer. To one that it gives in the place of a response, it is not asked again.
    pub(super) fn answer(&self, exchange: &mut Exchange<'_>, answer: Answer, phase: Phase) -> Response {
        if let Some(kept) = exchange.state::<Kept>(self) {
            kept.is_out |= !phase.is_of_request();
            kept.has_answered = true;
        }
        self.forget_lengths(exchange);
        if let Some(root) = &self.root {
            root.plugin().metrics().replies.inc();
            exchange.facts.note_plugin(&root.plugin().settings().name, &answer.detail);
        }
        response(answer, exchange.facts.grpc.is_some())
    }

    /// The same where a hook has no other way to say it.
    pub(super) fn answer_instead(&self, exchange: &mut Exchange<'_>, answer: Answer, phase: Phase) -> Reason {
        let answer = self.answer(exchange, answer, phase);
        exchange.facts.instead = Some(Box::new(answer));
        Reason::PluginError
    }

    /// Another answer is given than the one whose length was announced.
    fn forget_lengths(&self, exchange: &mut Exchange<'_>) {
        if let Some(kept) = exchange.state::<Kept>(self) {
            (kept.request, kept.response) = (Passed::default(), Passed::default());
        }
    }

    pub(super) fn reset(&self, exchange: &mut Exchange<'_>) -> Reason {
        if let Some(kept) = exchange.state::<Kept>(self) {
            kept.is_out = true;
        }
        exchange.facts.cuts = true;
        Reason::PluginError
    }
}

fn response(answer: Answer, is_call: bool) -> Response {
    let mut response = Response::new(answer.status);
    response.headers = answer.fields;
    response.body = answer.body.into();
    if is_call {
        let status = answer.grpc_status.unwrap_or_else(|| grpc::of_http(answer.status));
        response.status = StatusCode::OK;
        response.headers.push((grpc::STATUS.clone(), u16::from(status).into()));
        // What is for the client. The details are for the log.
        let text = String::from_utf8_lossy(&response.body);
        match HeaderValue::from_str(&grpc::message(&text)) {
            Ok(message) if !text.is_empty() => response.headers.push((grpc::MESSAGE.clone(), message)),
            _ => {}
        }
        response.headers.retain(|(name, _)| *name != header::CONTENT_TYPE);
        response.headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")));
        response.body = Bytes::new();
    }
    let is_typed = response.headers.iter().any(|(name, _)| *name == header::CONTENT_TYPE);
    if !response.body.is_empty() && !is_typed {
        response.headers.push((header::CONTENT_TYPE, HeaderValue::from_static("text/plain")));
    }
    response
}
