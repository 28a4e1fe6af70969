//! The table of contents of a request's way: one short method for each phase, each calling one stage. The phases have the
//! names that Pingora's `ProxyHttp` gave them; who calls them is [`driver`].
//!
//! They are methods of our own, since those of the trait take a session that only Pingora's loop can make, and box a future
//! each. That loop knows one upstream at a time, joins two halves of an exchange by channels, and cannot be interrupted.

mod body;
mod context;
mod driver;
mod hedge;
mod pages;
mod record;
mod reply;
mod spans;

use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::HeaderMap;
use pingora_core::{Error, upstreams::peer::HttpPeer};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::timeout_at;

use self::{body::RequestBody, context::Context, record::record};
use crate::{
    accept::{Server, Session},
    error::Reason,
    filter::{Chain, Decided, Exchange, Flow, Phases},
    forward::{self, Client, Ended, Refused, Why},
    grpc,
    observe::Recorder,
    policy::failure::{Failure, Kind, Stage},
    resources::Resources,
    snapshot::{Current, LeastRates},
};

pub(crate) struct Gateway {
    pub current: Current,
    pub recorder: Arc<Recorder>,
    pub client: Client,
    pub resources: Arc<Resources>,
}

impl Server for Gateway {
    fn serve<'s>(&'s self, session: &'s mut Session) -> BoxFuture<'s, ()> {
        Box::pin(async move {
            let mut ctx = Context::new(self.current.pin());
            let answered = AssertUnwindSafe(self.answer_until_cut(session, &mut ctx)).catch_unwind().await;
            ctx.end_waits(session.request_mut(), None);
            match answered.unwrap_or_else(|_| Err(Reason::Panic.into())) {
                Ok(()) => {}
                Err(CUT) => self.say_that_it_is_cut(session, &mut ctx).await,
                Err(ended) => self.fail_to_proxy(session, &mut ctx, ended).await,
            }
            self.logging(session, &mut ctx);
        })
    }
}

/// How a request ends whose time the gateway has no more.
const CUT: Ended = Ended::Refused(Refused { reason: Reason::Draining, retry_after: None });

impl Gateway {
    /// Whatever it waits for, the request ends where the gateway's grace does.
    async fn answer_until_cut(&self, session: &mut Session, ctx: &mut Context) -> Result<(), Ended> {
        let cut = session.cut();
        let mut answer = pin!(self.answer(session, ctx));
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Pending => cut.poll(cx).map(|()| Err(CUT)),
            answered => answered,
        })
        .await
    }

    async fn answer(&self, session: &mut Session, ctx: &mut Context) -> Result<(), Ended> {
        match self.request_filter(session, ctx).await? {
            Flow::Continue => self.forward(session, ctx).await,
            Flow::Reply(response) => {
                // A client that is gone needs no answer; what happened is logged either way.
                let sent = Box::pin(reply::send(session, ctx, response)).await;
                sent.or_else(|reason| if ctx.reason.is_some() { Ok(()) } else { Err(reason.into()) })
            }
        }
    }

    /// Stages 1 to 3: who asks, which route, what its filters say.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<Flow, Ended> {
        let connection = session.connection().clone();
        ctx.arrive(connection.clone());
        let listener = ctx.listener.clone().ok_or(Reason::Internal)?;
        session.set_body_timeout(Some(listener.limits.body_timeout));
        session.ask_for_rates(listener.limits.least_rates);
        if !session.is_http2() && connection.is_last_request(listener.limits.requests_per_connection) {
            session.set_last();
        }
        let short_of = match (connection.is_refused(), self.resources.memory.is_short()) {
            (false, false) => None,
            (true, _) => Some("descriptors"),
            (false, true) => Some("memory"),
        };
        if let Some(short_of) = short_of {
            self.recorder.metrics.resources().shed("request", short_of);
            return Err(Reason::Overloaded.into());
        }
        ctx.facts.is_bodiless = session.is_body_done();
        ctx.identify(session.request_mut())?;
        // Before routes and filters: a CA is no visitor, and must neither be redirected nor asked who it is.
        if let Some((keeper, path)) = ctx.challenge(session.request())
            && let Some(answer) = keeper.answer(&path, ctx.facts.client).await
        {
            return Ok(Flow::Reply(context::proof(&answer)));
        }
        if ctx.facts.grpc.is_some() && !grpc::accepts_trailers(&session.request().headers) {
            return Ok(Flow::Reply(reply::without_te(session)));
        }
        if ctx.announces_too_much(&session.request().headers) {
            return Err(Reason::RequestTooLarge.into());
        }
        let mut found = ctx.find_route(session.request());
        ctx.begin_trace(session.request_mut());
        ctx.check_slashes()?;
        // The listener's filters see a request that no route takes too, so that it learns nothing they would not tell it.
        ctx.settle_phases();
        ctx.limit(ctx.route.as_ref().and_then(|route| route.timeout));
        let flow = run(&listener.chain, ctx.listener_steps, session, ctx).await?;
        let changes = listener.chain.phases(ctx.listener_steps).contains(Phases::CHANGES_REQUEST);
        if changes && matches!(flow, Flow::Continue) {
            ctx.settle(session.request_mut())?;
            let before = ctx.route.as_ref().and_then(|route| route.trace);
            found = ctx.find_route_anew(session.request());
            ctx.begin_trace_anew(session.request_mut(), before);
            ctx.check_slashes()?;
            ctx.settle_phases();
        }
        let unrouted = found.err().map(|why| reply::unrouted(&why, session));
        match (flow, unrouted, ctx.route.clone()) {
            (Flow::Reply(response), ..) | (_, Some(response), _) => Ok(Flow::Reply(response)),
            (_, _, Some(route)) => {
                ctx.limit(route.timeout);
                let mut flow = run(&route.chain, ctx.route_steps, session, ctx).await;
                if route.filters_variants() && matches!(flow, Ok(Flow::Continue)) {
                    let (variant, steps) = ctx.find_variant(&route, session.request())?;
                    flow = run(&variant.filters, steps, session, ctx).await;
                }
                ctx.limit_call();
                if ctx.stream().is_some() {
                    session.set_body_timeout(Some(forward::STREAM_SILENCE));
                    session.ask_for_rates(LeastRates::default());
                }
                match flow {
                    Ok(Flow::Continue) if forward::ends_here(session.request()) => {
                        Ok(Flow::Reply(reply::last_stop(session)))
                    }
                    flow => flow,
                }
            }
            _ => Err(Reason::Internal.into()),
        }
    }

    /// Stage 4, for each try: wait where that is due, then an endpoint, and how to reach it.
    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>, Ended> {
        let route = ctx.route.clone().ok_or(Reason::Internal)?;
        let pause = std::mem::take(&mut ctx.attempts.pause);
        // Between tries none is waited for.
        ctx.deadline.expect_answer(None);
        if !pause.is_zero() {
            driver::watched(session, &ctx.deadline, Stage::Head, tokio::time::sleep(pause)).await?;
        }
        let now = Instant::now();
        if let Some(failure) = ctx.deadline.overdue(Stage::Connect, now) {
            return Err(failure.into());
        }
        let (addresses, left) = (ctx.addresses(), ctx.deadline.left(now));
        let metrics = &self.recorder.metrics;
        if ctx.attempts.admitted.is_none() {
            ctx.destination(&route, session.request())?;
        }
        ctx.attempts.choose_stand_in(now);
        let (mut peer, begun) = loop {
            if ctx.attempts.admitted.is_none() {
                self.admit(session, ctx, left).await?;
            }
            let (attempts, request, begun) = (&mut ctx.attempts, session.request(), Instant::now());
            match forward::begin_try(attempts, request, &addresses, left, pause, metrics, begun) {
                Ok(peer) => break (peer, begun),
                // A session that is lost is not to be found elsewhere, for example.
                Err(refused) if hedge::has_nobody(refused.reason) && attempts.goes_on_to_stand_in(begun) => {}
                Err(refused) => return Err(refused.into()),
            }
        };
        if let Some(limit) = route.retry.per_try_timeout {
            ctx.deadline.expect_answer(Some(begun + limit));
            let connect = peer.options.connection_timeout.map_or(limit, |connect| connect.min(limit));
            peer.options.connection_timeout = Some(connect);
            peer.options.total_connection_timeout = Some(connect);
        }
        if ctx.stream().is_some() {
            forward::let_stream(&mut peer);
        }
        Ok(peer)
    }

    /// A place at the upstream, for as long as the request lasts.
    async fn admit(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        left: Option<Duration>,
    ) -> Result<(), Ended> {
        let destination = ctx.attempts.destination.clone().ok_or(Reason::Internal)?;
        ctx.facts.upstream = Some(destination.upstream.shared_name());
        let priority = ctx.route.as_ref().map(|route| route.priority).unwrap_or_default();
        let admitting = forward::admit(&destination, &mut ctx.attempts, left, priority);
        let admitted = driver::watched(session, &ctx.deadline, Stage::Connect, admitting).await?;
        admitted.map_err(|refused| match ctx.deadline.overdue(Stage::Connect, Instant::now()) {
            // It waited, and had no more time to.
            Some(failure) => failure.into(),
            None => refused.into(),
        })
    }

    fn fail_to_connect(&self, ctx: &mut Context, error: Box<Error>) -> Ended {
        ctx.facts.refused = Some(forward::error_in_words(error.etype()).into());
        match ctx.attempts.current() {
            Some(attempt) => {
                let now = Instant::now();
                let ended = attempt.ended(forward::Broken::at(Stage::Connect, false, error), now);
                match (ended, ctx.deadline.overdue(Stage::Connect, now)) {
                    // It had no longer than the request: both clocks ring at once.
                    (Ended::Failed(Failure { kind: Kind::TimedOut, .. }), Some(overdue)) => overdue.into(),
                    _ => ended,
                }
            }
            None => Reason::Internal.into(),
        }
    }

    /// For each request, on new connections and on kept ones, before anything of it is sent.
    fn connected_to_upstream(&self, ctx: &mut Context, exchange: &forward::Exchange) -> Result<(), Ended> {
        ctx.attempts.connected(exchange);
        #[cfg(feature = "wasm")]
        ctx.note_upstream(exchange);
        let attempt = ctx.attempts.current().ok_or(Reason::Internal)?;
        attempt.check(exchange, Instant::now())
    }

    /// The request as its endpoint is to see it.
    fn upstream_request_filter(
        &self,
        session: &Session,
        ctx: &mut Context,
    ) -> Result<Box<RequestHeader>, Reason> {
        let mut request = Box::new(RequestHeader::from(session.request().as_owned_parts()));
        hedge::edit(&mut request, ctx)?;
        let attempt = ctx.attempts.current().ok_or(Reason::Internal)?;
        forward::name_host(&mut request, attempt.endpoint())?;
        Ok(request)
    }

    /// A part of the request's body, once, whatever becomes of the tries it is sent with. `None` where a filter waits.
    fn request_body_filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        part: Option<Bytes>,
        trailers: Option<&mut HeaderMap>,
    ) -> Result<Option<Bytes>, Ended> {
        let is_last = trailers.is_some();
        let mut part = part.unwrap_or_default();
        if ctx.filter_request_body(session, &mut part, trailers)? {
            return Ok(None);
        }
        if !ctx.takes(&part) {
            return Err(Reason::RequestTooLarge.into());
        }
        self.follow(ctx, Some(&part).filter(|part| !part.is_empty()), is_last);
        Ok(Some(part))
    }

    /// The head of the answer, before anything has gone to the client. True where another endpoint is to be asked for a
    /// better one.
    fn upstream_response_filter(
        &self,
        session: &Session,
        ctx: &mut Context,
        body: &RequestBody,
        response: &ResponseHeader,
    ) -> bool {
        let now = Instant::now();
        // First, as it may open the breaker of the only endpoint that is left.
        ctx.judge(response, forward::grpc_status(response), now);
        let again = ctx.tries_again(Why::answered(response), session, body.is_replayable(), now);
        if again {
            ctx.attempts.leave();
        }
        again
    }

    fn response_filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        response: &mut ResponseHeader,
    ) -> Result<bool, Reason> {
        Reason::catching(|| reply::pass_on(session, ctx, response))
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        mut part: Bytes,
        is_last: bool,
    ) -> Result<Option<Bytes>, Ended> {
        let mut none = HeaderMap::new();
        let waits = ctx.filter_response_body(session, &mut part, is_last.then_some(&mut none))?;
        Ok((!waits).then_some(part))
    }

    /// The end of the body: the last that there is to send of it. The trailers are behind it. `None` where a filter waits.
    fn response_trailer_filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        trailers: &mut HeaderMap,
    ) -> Result<Option<Bytes>, Ended> {
        let mut last = Bytes::new();
        let waits = ctx.filter_response_body(session, &mut last, Some(trailers))?;
        Ok((!waits).then_some(last))
    }

    /// Whether another try follows one that has failed; else how the request ends.
    fn error_while_proxy(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        body: &RequestBody,
        ended: Ended,
    ) -> Result<(), Ended> {
        ctx.end_waits(session.request_mut(), None);
        ctx.attempts.broke(&ended);
        let Ended::Failed(failure) = ended else {
            ctx.attempts.finish();
            return Err(ended);
        };
        let now = Instant::now();
        let is_late = matches!(failure.kind, Kind::Overdue | Kind::TimedOut);
        let is_overdue = failure.kind == Kind::Overdue;
        let gave_time = !(is_overdue && ctx.deadline.is_clients());
        // Not the endpoint's fault where the client has not sent its request, took most of the time to, or gave none. A
        // connection does not wait for the client.
        let is_excused = is_late
            && match failure.stage {
                Stage::Connect => is_overdue && !(gave_time && ctx.attempts.tried_to_connect(now)),
                _ => !(gave_time && session.is_body_done() && ctx.attempts.had_time(ctx.sent, now)),
            };
        match is_excused {
            true => ctx.attempts.finish(),
            false => ctx.attempts.failed(failure, now),
        }
        if session.responded().is_some() {
            return Err(ended);
        }
        let moves_on = std::mem::take(&mut ctx.attempts.moves_on);
        if moves_on || ctx.tries_again(Why::Failed(failure), session, body.is_replayable(), now) {
            return Ok(());
        }
        let is_explicit = ctx.route.as_ref().is_some_and(|route| route.retry.explicit);
        if failure.kind == Kind::Broken && is_explicit && !body.is_replayable() {
            return Err(Reason::BodyNotReplayable.into());
        }
        Err(ended)
    }

    /// The request has failed: the client is told, unless it is gone.
    async fn fail_to_proxy(&self, session: &mut Session, ctx: &mut Context, ended: Ended) {
        if std::mem::take(&mut ctx.facts.cuts) {
            ctx.reason.get_or_insert(ended.reason());
            session.abort();
            return;
        }
        let instead = ctx.facts.instead.take().map(|answer| *answer);
        if let (Some(answer), None) = (ctx.reply.take().or(instead), session.responded()) {
            let sent = AssertUnwindSafe(reply::send(session, ctx, answer)).catch_unwind().await;
            if !matches!(sent, Ok(Ok(()))) {
                session.abort();
            }
            return;
        }
        let reason = *ctx.reason.get_or_insert(ended.reason());
        log::debug!("request failed: {}", reason.code());
        if let (Some(call), Ended::Failed(failure)) = (&mut ctx.facts.grpc, ended) {
            call.failure = failure.grpc;
        }
        if reason == Reason::ClientClosed {
            session.abort();
            return;
        }
        let mut response = reply::refusal(reason, session);
        if let Ended::Refused(Refused { retry_after: Some(after), .. }) = ended {
            reply::come_back(&mut response, after);
        }
        // A client that is gone needs no answer; what happened is logged either way.
        let sent = AssertUnwindSafe(reply::send(session, ctx, response)).catch_unwind().await;
        if !matches!(sent, Ok(Ok(()))) {
            session.abort();
        }
    }

    /// The process ends in a moment: the client is told, if it listens.
    async fn say_that_it_is_cut(&self, session: &mut Session, ctx: &mut Context) {
        const LISTENS: Duration = Duration::from_millis(250);
        if tokio::time::timeout(LISTENS, self.fail_to_proxy(session, ctx, CUT)).await.is_err() {
            ctx.reason = Some(Reason::Draining);
            session.abort();
        }
    }

    /// Stage 5.
    fn logging(&self, session: &mut Session, ctx: &mut Context) {
        if ctx.reason.is_none() && ctx.is_call_open() {
            // An answer that ended without saying how.
            ctx.end_call(&HeaderMap::new());
        }
        #[cfg(feature = "wasm")]
        ctx.note_end(session);
        ctx.attempts.finish();
        ctx.on_end(session);
        record(&self.recorder, session, ctx);
    }
}

/// The steps of a chain, from the one that has waited on. While one waits, the time is kept, whatever it waits for: another
/// machine, its turn, the request's body, or what a plugin has asked for. Only of the last the client is watched as well: the others have lent the
/// request itself.
async fn run(chain: &Chain, steps: Decided, session: &mut Session, ctx: &mut Context) -> Result<Flow, Ended> {
    let mut from = None;
    loop {
        let due = ctx.deadline.next();
        let mut exchange = Exchange { request: session.request_mut(), response: None, facts: &mut ctx.facts };
        let filtered = chain.on_request_from(&mut from, steps, &mut exchange);
        let flow = match due {
            Some(due) => timeout_at(due.into(), filtered).await.map_err(|_| overdue(ctx))??,
            None => filtered.await?,
        };
        if let Some(most) = ctx.facts.peeks.take() {
            body::read_ahead(session, ctx, most).await?;
            continue;
        }
        if !ctx.begin_waits(None) {
            return Ok(flow);
        }
        poll_fn(|cx| match ctx.poll_waits(session.request_mut(), None, cx) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => driver::poll_given_up(session, &ctx.deadline, Stage::Send, cx).map(Err),
        })
        .await?;
    }
}

/// The request's time was over while its filters were at work.
fn overdue(ctx: &Context) -> Ended {
    let failure = ctx.deadline.overdue(Stage::Send, Instant::now());
    failure.unwrap_or(Failure::new(Stage::Send, Kind::Overdue)).into()
}
