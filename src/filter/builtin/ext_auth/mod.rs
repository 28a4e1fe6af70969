//! `ext_auth`: a service of the operator's decides (forward auth). What goes to it, what comes back to the upstream and what to
//! the client are lists of names, and nothing else passes; in Envoy's protocol of gRPC the service may also be trusted with all.
//!
//! Only what the service lets in passes. Where there is no answer, `fail` decides; where there are too many questions at once,
//! nobody is let in, or a flood would open a door that fails open.

mod cache;
mod checks;
mod decision;
pub(in crate::filter) mod fuzzing;
mod grpc;
mod http;
mod message;
mod options;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ::http::{HeaderMap, Method, Request, header::CONTENT_LENGTH};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use self::{
    cache::Cache,
    decision::{Decision, Undecided},
    grpc::Grpc,
    http::Http,
    options::Fail,
};
use crate::{
    fetch::{self, Change},
    filter::{
        Called, Exchange, Filter, Flow, Peeked, Phases, Reason, Response, shared::proven::ProvenHeader,
    },
    observe::{log::event, log_throttle::Sparse, metrics::Results},
    trace::{Records, SpanId},
};

pub(crate) use self::options::ExtAuth;

struct Guard {
    service: Service,
    timeout: Duration,
    /// What only the service may say of the client.
    proven: Vec<ProvenHeader>,
    body: Option<Along>,
    cache: Option<Cache>,
    fail: Fail,
    client: Arc<fetch::Trusting>,
    max_body: usize,
    room: Semaphore,
    place: Box<str>,
    results: Arc<Results<4>>,
    told: Sparse,
}

enum Service {
    Http(Http),
    Grpc(Grpc),
}

/// How much of the body goes along.
struct Along {
    most: usize,
    may_be_partial: bool,
}

/// What is known of the body that goes along.
enum Body {
    None,
    Is(Peeked),
    /// It is still to be read.
    Later,
}

const ALLOWED: usize = 0;
const DENIED: usize = 1;
const FAILED: usize = 2;
const REMEMBERED: usize = 3;

/// What was decided, until the response is there.
struct Applied(Arc<Decision>);

type Answered = Result<(::http::Response<Bytes>, Option<HeaderMap>), fetch::Error>;

impl Service {
    fn question(&self, exchange: &Exchange<'_>, body: Option<&Peeked>) -> Result<Request<Bytes>, Reason> {
        match self {
            Service::Http(service) => service.question(exchange, body),
            Service::Grpc(service) => service.question(exchange, body),
        }
    }

    /// # Errors
    ///
    /// Why nothing can be told from it.
    fn judge(&self, answered: Answered) -> Result<Decision, Undecided> {
        let (answer, trailers) = answered.map_err(|error| match error {
            // It has answered.
            fetch::Error::TooLarge => Undecided::Unclear(error.to_string()),
            _ => Undecided::Away(error.to_string()),
        })?;
        match self {
            Service::Http(service) => service.judge(&answer),
            Service::Grpc(service) => service.judge(&answer, trailers.as_ref()),
        }
    }

    /// Why there was no answer, or the status that a call of gRPC failed with.
    fn failure(&self, answered: &Answered) -> Option<&'static str> {
        match (self, answered) {
            (_, Err(error)) => Some(error.code()),
            (Service::Grpc(_), Ok((answer, trailers))) => grpc::failure(answer, trailers.as_ref()),
            (Service::Http(_), Ok(_)) => None,
        }
    }
}

impl Guard {
    fn body(&self, exchange: &mut Exchange<'_>) -> Result<Body, Reason> {
        let Some(along) = &self.body else { return Ok(Body::None) };
        // The service cannot wait for a stream without end, or for a tunnel.
        let is_stream = exchange.facts.grpc.as_ref().is_some_and(|call| call.is_streamed);
        if exchange.facts.is_bodiless || is_stream || exchange.request.method == Method::CONNECT {
            return Ok(Body::None);
        }
        let announced = exchange.request.headers.get(CONTENT_LENGTH);
        let announced: Option<usize> = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        if !along.may_be_partial && announced.is_some_and(|length| length > along.most) {
            return Err(Reason::RequestTooLarge);
        }
        match exchange.peek_body(along.most) {
            None => Ok(Body::Later),
            Some(body) if body.bytes.len() <= along.most && body.is_whole => Ok(Body::Is(body)),
            Some(_) if !along.may_be_partial => Err(Reason::RequestTooLarge),
            Some(body) => {
                let bytes = body.bytes.slice(..along.most.min(body.bytes.len()));
                Ok(Body::Is(Peeked { bytes, is_whole: false }))
            }
        }
    }

    async fn ask(&self, exchange: &mut Exchange<'_>, body: Option<&Peeked>) -> Result<Answered, Reason> {
        let mut question = self.service.question(exchange, body)?;
        let span = SpanId::from_random(fastrand::u64(..));
        if let Some(trace) = &exchange.facts.trace {
            trace.write(question.headers_mut(), span).map_err(|_| Reason::HeaderTooLarge)?;
        }
        self.follow_ca();
        let (method, url, started) = (question.method().clone(), question.uri().clone(), Instant::now());
        let answer = self.client.client().send_whole(question, self.timeout, self.max_body).await;
        if exchange.facts.trace.is_some_and(|trace| trace.records != Records::No) {
            let error = self.service.failure(&answer);
            exchange.facts.called.push(called(span, method, &url, started, &answer, error));
        }
        Ok(answer)
    }

    fn conclude(&self, decision: &Arc<Decision>, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let refused = match &**decision {
            Decision::Allowed(allowed) => {
                for (header, value) in &allowed.proven {
                    header.prove(exchange, Some(value.clone()))?;
                }
                allowed.for_upstream.iter().try_for_each(|edit| edit.edit_request(exchange.request))?;
                if !allowed.for_upstream.is_empty() || !allowed.for_client.is_empty() {
                    exchange.keep(self, Applied(decision.clone()));
                }
                return Ok(Flow::Continue);
            }
            Decision::Refused(response) => response.clone(),
            Decision::Forbidden => Response::refusal(Reason::Forbidden, &exchange.request.headers),
        };
        exchange.facts.explain("ext_auth");
        Ok(Flow::Reply(refused))
    }

    fn follow_ca(&self) {
        match self.client.look(Instant::now()) {
            None => {}
            Some(Change::Taken) => event!(Info, "ext_auth trusts new authorities", filter = self.place),
            Some(Change::Refused(why)) => {
                event!(
                    Warn,
                    "ext_auth cannot read its authorities, those before stay",
                    filter = self.place,
                    problem = why
                )
            }
        }
    }

    fn fail(&self, undecided: Undecided, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let (why, is_open) = match undecided {
            Undecided::Away(why) => (why, self.fail == Fail::Open),
            Undecided::Unclear(why) => (why, false),
        };
        self.results.count(FAILED);
        if let Some(passed_over) = self.told.say(Instant::now()) {
            event!(
                Warn,
                "ext_auth cannot ask its service",
                filter = self.place,
                problem = why,
                lets_in = is_open,
                others = passed_over,
            );
        }
        if is_open {
            return Ok(Flow::Continue);
        }
        exchange.facts.explain(why);
        Err(Reason::AuthUnavailable)
    }

    fn applied(&self, exchange: &mut Exchange<'_>) -> Option<Arc<Decision>> {
        exchange.state::<Applied>(self).map(|applied| applied.0.clone())
    }
}

#[async_trait]
impl Filter for Guard {
    fn phases(&self) -> Phases {
        let (edits_request, edits_response) = match &self.service {
            Service::Http(service) => (false, !service.client_headers_allowed.is_empty()),
            // It may take fields off in any case.
            Service::Grpc(_) => (true, true),
        };
        let forward = match edits_request || !self.proven.is_empty() {
            true => Phases::FORWARD,
            false => Phases::empty(),
        };
        let response = if edits_response { Phases::RESPONSE } else { Phases::empty() };
        Phases::REQUEST_ASYNC | forward | response
    }

    async fn on_request_async(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        // Whatever comes of it, what the client says of itself does not pass.
        self.proven.iter().try_for_each(|header| header.prove(exchange, None))?;
        let body = match self.body(exchange)? {
            Body::Later => return Ok(Flow::Continue),
            Body::None => None,
            Body::Is(body) => Some(body),
        };
        let cached = self.cache.as_ref().map(|cache| (cache, cache.digest(exchange, body.as_ref())));
        if let Some(decision) = cached.as_ref().and_then(|(cache, digest)| cache.find(digest)) {
            self.results.count(REMEMBERED);
            return self.conclude(&decision, exchange);
        }
        let Ok(_room) = self.room.try_acquire() else { return Err(Reason::Overloaded) };
        let answered = self.ask(exchange, body.as_ref()).await?;
        match self.service.judge(answered) {
            Ok(decision) => {
                let decision = Arc::new(decision);
                self.results.count(if decision.is_allowed() { ALLOWED } else { DENIED });
                if let Some((cache, digest)) = cached {
                    cache.keep(digest, &decision);
                }
                self.conclude(&decision, exchange)
            }
            Err(undecided) => self.fail(undecided, exchange),
        }
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let applied = self.applied(exchange);
        let (Some(decision), Some(response)) = (applied, exchange.response.as_deref_mut()) else {
            return Ok(());
        };
        match &*decision {
            Decision::Allowed(allowed) => {
                allowed.for_client.iter().try_for_each(|edit| edit.edit_response(response))
            }
            Decision::Refused(_) | Decision::Forbidden => Ok(()),
        }
    }

    fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        self.proven.iter().try_for_each(|header| header.forward(exchange))?;
        match self.applied(exchange).as_deref() {
            Some(Decision::Allowed(allowed)) => {
                allowed.for_upstream.iter().try_for_each(|edit| edit.edit_request(exchange.request))
            }
            _ => Ok(()),
        }
    }
}

fn called(
    span: SpanId,
    method: Method,
    url: &::http::Uri,
    started: Instant,
    answer: &Answered,
    error: Option<&'static str>,
) -> Called {
    let authority = url.authority().map(ToString::to_string).unwrap_or_default();
    Called {
        span,
        filter: "ext_auth",
        method,
        url: format!("{}://{authority}{}", url.scheme_str().unwrap_or_default(), url.path()),
        authority,
        started,
        ended: Instant::now(),
        status: answer.as_ref().ok().map(|(answer, _)| answer.status().as_u16()),
        error,
    }
}

#[cfg(test)]
mod tests;
