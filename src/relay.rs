//! What does not go through Pingora's own loop: answers to requests without a body, hedged requests, which are at several
//! endpoints at once, and copies for a mirror. All pass the same forward filters, and answers the same response filters.

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Version, header};
use pingora_core::{Error, ErrorSource, Result, protocols::http::HttpTask};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::{
    context::Context,
    error::Reason,
    filter::Exchange,
    forward::{self, Answer, Attempts, Copy, Direct, Hedged, Rest},
    grpc::Dialect,
    observe::metrics::Metrics,
    reply,
    snapshot::{Hedge, Route},
};

/// The largest body that is kept to be sent more than once. Pingora keeps as much for its retries.
const LARGEST_BODY: usize = 64 * 1024;

/// Fields that are written to most requests.
const MOST_WRITTEN: usize = 8;

pub struct Relay {
    direct: Direct,
    metrics: Arc<Metrics>,
}

/// The hedge of a request that may be sent twice: a method that allows it, and a body that is known to be small.
pub fn hedgeable(session: &mut Session, ctx: &Context) -> Option<(Arc<Route>, Arc<Hedge>)> {
    let route = ctx.route.as_ref()?;
    let hedge = route.hedge.as_ref()?;
    let request = session.req_header();
    let small = match request.headers.get(header::CONTENT_LENGTH) {
        Some(length) => length
            .to_str()
            .ok()
            .and_then(|length| length.parse().ok())
            .is_some_and(|l: usize| l <= LARGEST_BODY),
        None => true,
    };
    // Where there are no trailers, the answer takes other ways than those below.
    if ctx.facts.grpc.as_ref().is_some_and(|call| call.dialect != Dialect::Http2) {
        return None;
    }
    let plain = is_plain(request);
    let repeatable = route.retry.methods.allows(request.method.as_str());
    let known = request.headers.contains_key(header::CONTENT_LENGTH);
    (small && plain && repeatable && (known || session.as_mut().is_body_empty()))
        .then(|| (route.clone(), hedge.clone()))
}

/// A request that has no body and asks for no more than an answer, on a route whose upstreams all speak HTTP/1.
pub fn is_bare(session: &mut Session, ctx: &Context) -> bool {
    ctx.route.as_ref().is_some_and(|route| !route.carries_grpc())
        && ctx.facts.grpc.is_none()
        && is_plain(session.req_header())
        && session.as_mut().is_body_empty()
}

/// Asks for nothing but an answer.
fn is_plain(request: &RequestHeader) -> bool {
    !request.headers.contains_key(header::UPGRADE) && !request.headers.contains_key(header::EXPECT)
}

impl Relay {
    pub fn new(direct: Direct, metrics: Arc<Metrics>) -> Relay {
        Relay { direct, metrics }
    }

    pub fn direct(&self) -> &Direct {
        &self.direct
    }

    /// Answer a request by hedging.
    ///
    /// # Errors
    ///
    /// No endpoint answered, or the answer broke off.
    pub async fn hedge(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
        (route, hedge): (Arc<Route>, Arc<Hedge>),
    ) -> Result<()> {
        let body = read_body(session, ctx).await?;
        if let Some(copy) = mirror(ctx, session) {
            self.send(copy, &body);
        }
        let request = session.req_header().clone();
        let (carried, left) = (ctx.carried(), ctx.time_left(Instant::now()));
        let entered = forward::enter(&route, &mut ctx.attempts, &request, carried.client.ip(), left).await;
        let destination = entered.map_err(|refused| give_up(ctx, refused))?;
        let hedged = Hedged {
            route: &route,
            hedge: &hedge,
            destination: &destination,
            request: &request,
            body,
            carried,
            left,
            clients_deadline: ctx.is_clients_deadline(),
        };
        let mut attempts = std::mem::take(&mut ctx.attempts);
        let edit = |header: &mut RequestHeader, attempts: &mut Attempts| {
            // They are the race's while it lasts, and the request's for a moment.
            std::mem::swap(&mut ctx.attempts, attempts);
            let edited = forward::clean_request(header).and_then(|()| edit(header, ctx));
            std::mem::swap(&mut ctx.attempts, attempts);
            edited
        };
        // The client is watched meanwhile: it may leave, and the request's deadline makes itself heard there.
        let raced = tokio::select! {
            biased;
            raced = forward::hedge(&hedged, &mut attempts, &self.direct, &self.metrics, edit) => Ok(raced),
            left = session.as_mut().read_body_or_idle(true) => Err(left),
        };
        ctx.attempts = attempts;
        let (answer, attempt) = match raced {
            Ok(Ok(Ok(won))) => won,
            Ok(Ok(Err(error))) => return Err(broken(ctx, error)),
            Ok(Err(refused)) => return Err(give_up(ctx, refused)),
            Err(left) => return Err(broken(ctx, gone(left))),
        };
        ctx.attempts.resume(attempt);
        ctx.judge(&answer.header, forward::grpc_status(&answer.header), Instant::now());
        let passed = pass_on(session, ctx, answer).await;
        passed.map_err(|error| match (ctx.reason, error.esource()) {
            (Some(_), _) => error,
            // A client that does not take the answer says nothing about who gave it.
            (None, ErrorSource::Downstream) => failed(ctx, error),
            (None, _) => broken(ctx, error),
        })
    }

    /// A part of the request's body passed by; at its end the copy is sent.
    pub fn follow(&self, ctx: &mut Context, part: Option<&Bytes>, is_last: bool) {
        let Some(copy) = &mut ctx.mirror else { return };
        if part.is_some_and(|part| !copy.add(part)) {
            ctx.mirror = None;
        } else if is_last && let Some(copy) = ctx.mirror.take() {
            copy.send(&self.direct, &self.metrics);
        }
    }

    fn send(&self, mut copy: Copy, body: &Bytes) {
        if copy.add(body) {
            copy.send(&self.direct, &self.metrics);
        }
    }
}

/// Hand an answer to the client.
///
/// # Errors
///
/// A filter refused it, it broke off, or the client is gone.
pub async fn pass_on(session: &mut Session, ctx: &mut Box<Context>, answer: Answer) -> Result<()> {
    let Answer { mut header, mut rest } = answer;
    reply::pass_on(session, ctx, &mut header).map_err(|reason| ctx.refuse(reason))?;
    let without_body = rest.is_done() || session.req_header().method == Method::HEAD;
    let header_is_whole = without_body && ctx.facts.encoder.is_none();
    reply::write_header(session, header, header_is_whole).await.map_err(|e| e.into_down())?;
    if !without_body && !pass_on_body(session, ctx, &mut rest).await? {
        let trailers = match rest.trailers().await {
            Ok(trailers) => trailers,
            Err(error) => return Err(cut_short(session, error).await),
        };
        end(session, ctx, trailers).await?;
    }
    rest.finish();
    Ok(())
}

/// True where its last part has told the client that it was.
async fn pass_on_body(session: &mut Session, ctx: &mut Context, rest: &mut Rest) -> Result<bool> {
    loop {
        let part = match next_part(session, rest).await {
            Ok(Some(part)) => part,
            Ok(None) => return Ok(false),
            Err(error) => return Err(cut_short(session, error).await),
        };
        let is_last = rest.is_whole() && ctx.facts.grpc.is_none();
        let part = ctx.encode(Some(part), is_last).map_err(|reason| ctx.refuse(reason))?;
        if is_last || part.as_ref().is_some_and(|part| !part.is_empty()) {
            session.write_response_body(part, is_last).await.map_err(|e| e.into_down())?;
        }
        if is_last {
            return Ok(true);
        }
    }
}

/// Tell the client that its answer is whole.
async fn end(session: &mut Session, ctx: &mut Context, trailers: Option<HeaderMap>) -> Result<()> {
    if ctx.facts.grpc.is_some() {
        ctx.end_call(trailers.as_ref().unwrap_or(&HeaderMap::new()));
    }
    let rest = ctx.encode(None, true).map_err(|reason| ctx.refuse(reason))?;
    let written = match trailers.filter(|_| session.req_header().version == Version::HTTP_2) {
        Some(trailers) if rest.as_ref().is_none_or(Bytes::is_empty) => {
            session.as_mut().write_response_trailers(trailers).await
        }
        _ => session.write_response_body(rest, true).await,
    };
    written.map_err(|e| e.into_down())
}

/// The client is watched here too, and with it the deadline: an upstream that dribbles holds nobody for longer.
async fn next_part(session: &mut Session, rest: &mut Rest) -> Result<Option<Bytes>> {
    tokio::select! {
        biased;
        part = rest.body() => part,
        left = session.as_mut().read_body_or_idle(true) => Err(gone(left)),
    }
}

/// What there was of an answer reaches the client before its connection is closed within it.
async fn cut_short(session: &mut Session, error: Box<Error>) -> Box<Error> {
    // Of two tasks, Pingora sends what is there before the second fails; a single one fails at once.
    let failed = vec![HttpTask::Body(None, false), HttpTask::Failed(error)];
    let ended = session.as_mut().response_duplex_vec(failed).await;
    ended.err().unwrap_or_else(|| Reason::UpstreamReset.into_error())
}

/// The copy of a request for its route's mirror, where it is chosen for one.
pub fn mirror(ctx: &mut Context, session: &Session) -> Option<Copy> {
    let route = ctx.route.clone()?;
    route.mirror.as_ref()?;
    let begun = Copy::begin(&route, fastrand::f64())?;
    let mut header = session.req_header().clone();
    if ctx.facts.grpc.is_some() {
        // Whatever the client speaks: `te: trailers` is to reach the upstream.
        header.set_version(Version::HTTP_2);
    }
    let edited = forward::clean_request(&mut header).and_then(|()| edit(&mut header, ctx));
    // The original meets the same refusal and tells the client.
    edited.ok()?;
    Some(Copy::new(&route, begun, header, ctx.carried()))
}

/// Make a request what an endpoint is to see: who asks, which try it is, and what the filters say. The names of its fields
/// lose the case they were written in, which means nothing (RFC 9110, section 5.1) and costs much to keep.
///
/// # Errors
///
/// A filter refused it, or it has too many header fields.
pub fn edit(header: &mut RequestHeader, ctx: &mut Context) -> Result<(), Reason> {
    let peer = &ctx.connection.as_ref().ok_or(Reason::Internal)?.peer_text;
    let ends_stream = header.send_end_stream();
    let nothing: RequestHeader = http::Request::new(()).into_parts().0.into();
    let mut parts: http::request::Parts = std::mem::replace(header, nothing).into();
    // Once, for what is written here and by most filters.
    parts.headers.reserve(MOST_WRITTEN);
    forward::write_forwarded(&mut parts.headers, &ctx.facts, peer, &ctx.snapshot.config.forwarded)?;
    let left = ctx.is_limited().then(|| ctx.time_left(Instant::now())).flatten();
    forward::write_tries(&mut parts.headers, ctx.route.as_ref(), ctx.attempts.count().max(1), left)?;
    *header = parts.into();
    if let Some(ends_stream) = ends_stream {
        header.set_send_end_stream(ends_stream);
    }
    let mut exchange = Exchange { request: header, response: None, facts: &mut ctx.facts };
    let chains = [
        ctx.listener.as_ref().map(|listener| (&listener.chain, ctx.listener_steps)),
        ctx.route.as_ref().map(|route| (&route.chain, ctx.route_steps)),
    ];
    chains.into_iter().flatten().try_for_each(|(chain, steps)| chain.on_forward(steps, &mut exchange))
}

/// Tell a client that waits for it to send the body (RFC 9110, section 10.1.1), once, where no upstream can.
///
/// # Errors
///
/// The client is gone.
pub async fn invite(session: &mut Session) -> Result<()> {
    // So that another try does not ask again.
    let expected = session.req_header_mut().remove_header(&header::EXPECT);
    let waits = expected.is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    // HTTP/1.0 knows no interim answers.
    if waits && session.req_header().version >= http::Version::HTTP_11 && !session.as_mut().is_body_done() {
        session.as_mut().write_continue_response().await?;
    }
    Ok(())
}

/// The whole body, which is known to be small.
async fn read_body(session: &mut Session, ctx: &mut Context) -> Result<Bytes> {
    let mut body = BytesMut::new();
    while let Some(part) = session.as_mut().read_request_body().await.map_err(|error| failed(ctx, error))? {
        if !ctx.takes(&part) {
            return Err(ctx.refuse(Reason::RequestTooLarge));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// No try could begin.
pub fn give_up(ctx: &mut Context, refused: forward::Refused) -> Box<Error> {
    ctx.retry_after = refused.retry_after;
    ctx.refuse(refused.reason)
}

/// The client left, said something that nobody asked for, or the deadline passed.
pub fn gone(left: Result<Option<Bytes>>) -> Box<Error> {
    let mut error = left.err().unwrap_or_else(|| Reason::ClientClosed.into_error());
    error.as_down();
    error
}

/// The exchange ended before the answer was whole.
fn broken(ctx: &mut Context, error: Box<Error>) -> Box<Error> {
    ctx.attempts.lost();
    failed(ctx, error)
}

/// The deadline speaks through the client's side: what it means is ours to say.
fn failed(ctx: &mut Context, error: Box<Error>) -> Box<Error> {
    // Copies are given up a moment before the request is.
    match ctx.overdue(Instant::now() + 2 * forward::HEARD) {
        Some(reason) => ctx.refuse(reason),
        None => error,
    }
}
