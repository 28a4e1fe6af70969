//! The heads of the request and of the response.

use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, header};
use pingora_http::ResponseHeader;

use super::{
    Step,
    lending::{Kept, Passed, Turned},
    view::Phase,
};
use crate::{
    filter::{Exchange, Flow, Reason},
    plugin::{Side, Turn, Verdict},
};

impl Step {
    pub(super) fn on_request_head(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let Some(root) = &self.root else { return Ok(Flow::Continue) };
        let turned = match self.after_wait(exchange) {
            Some(turned) => turned,
            None => {
                let stream = match root.enter() {
                    Ok(stream) => Arc::new(stream),
                    Err(failure) => return self.failed(exchange, &failure).map(|()| Flow::Continue),
                };
                let announced = length_in(&exchange.request.headers);
                exchange.keep(self, Kept::new(stream.clone(), announced));
                if !self.calls.request_headers {
                    return Ok(Flow::Continue);
                }
                let is_last = exchange.facts.is_bodiless;
                self.turn(exchange, &stream, Phase::RequestHeaders, |lent| Turn::RequestHeaders {
                    count: lent.count(Side::Request),
                    is_last,
                })?
            }
        };
        let Turned::Said(verdict, _) = turned else { return Ok(Flow::Continue) };
        // Who takes it off is going to change the body.
        let has_length = exchange.request.headers.contains_key(header::CONTENT_LENGTH);
        if let Some(kept) = exchange.state::<Kept>(self) {
            kept.request.announced = kept.request.announced.filter(|_| has_length);
            kept.holds_head = matches!(verdict, Ok(Verdict::HoldHead));
        }
        match verdict {
            Ok(Verdict::Continue | Verdict::Pause) => Ok(Flow::Continue),
            Ok(Verdict::HoldHead) => {
                exchange.gather_body(self.most());
                Ok(Flow::Continue)
            }
            Ok(Verdict::Answer(answer)) => {
                Ok(Flow::Reply(self.answer(exchange, answer, Phase::RequestHeaders)))
            }
            Ok(Verdict::Reset) => Err(self.reset(exchange)),
            Err(failure) => self.failed(exchange, &failure).map(|()| Flow::Continue),
        }
    }

    pub(super) fn on_response_head(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let Some(stream) = self.stream(exchange) else { return Ok(()) };
        let Some(response) = exchange.response.as_deref() else { return Ok(()) };
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let is_last = is_bodiless(&exchange.request.method, response);
        if self.calls.response_headers {
            let turned = match self.after_wait(exchange) {
                Some(turned) => turned,
                None => self.turn(exchange, &stream, Phase::ResponseHeaders, |lent| {
                    Turn::ResponseHeaders { count: lent.count(Side::Response), is_last }
                })?,
            };
            let Turned::Said(verdict, _) = turned else { return Ok(()) };
            match verdict {
                // A head that is held waits for the body in any case.
                Ok(Verdict::Continue | Verdict::Pause | Verdict::HoldHead) => {}
                Ok(Verdict::Answer(answer)) => {
                    return Err(self.answer_instead(exchange, answer, Phase::ResponseHeaders));
                }
                Ok(Verdict::Reset) => return Err(self.reset(exchange)),
                Err(failure) => self.failed(exchange, &failure)?,
            }
        }
        let head = exchange.response.as_deref();
        let announced = head.and_then(|head| length_in(&head.headers)).filter(|_| !is_last);
        let is_asked_for = !is_last || self.calls.response_headers || self.calls.log;
        let head = head.filter(|_| is_asked_for).cloned();
        if let Some(kept) = exchange.state::<Kept>(self) {
            kept.response = Passed { announced, ..Passed::default() };
            if let Some(lent) = &mut kept.lent {
                lent.response = head;
            }
        }
        Ok(())
    }
}

fn length_in(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether this head is all that there is of a response.
pub(super) fn is_bodiless(method: &Method, head: &ResponseHeader) -> bool {
    *method == Method::HEAD
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || length_in(&head.headers) == Some(0)
}
