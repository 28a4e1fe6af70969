//! The table of contents of a request's way: one short method for each of Pingora's phases, each calling one stage.

mod tries;

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use http::HeaderMap;
use pingora_core::{
    Error, ErrorType, Result, modules::http::HttpModules, protocols::Digest, upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::{
    accept::Incoming,
    context::Context,
    error::Reason,
    filter::{Chain, Decided, Exchange, Flow},
    forward::{self, Trouble},
    grpc,
    observe::Recorder,
    record::record,
    relay::{self, Relay},
    reply,
    snapshot::Current,
};

pub struct Gateway {
    pub current: Current,
    pub recorder: Arc<Recorder>,
    pub relay: Relay,
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed: Pingora moves it about.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        Box::new(Context::new(self.current.pin()))
    }

    /// Pingora would add its compression module to every request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// Stages 1 to 3: who asks, which route, what its filters say.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        let decided = AssertUnwindSafe(decide(session, ctx)).catch_unwind().await;
        let response = match decided.unwrap_or(Err(Reason::Panic)) {
            Ok(Flow::Continue) => return self.carry(session, ctx).await,
            Ok(Flow::Reply(response)) => response,
            Err(reason) => reply::refusal(reason, session),
        };
        // A client that is gone needs no answer; what happened is logged either way. Boxed: most requests go on, and each
        // moves what its future may need.
        let _ = Box::pin(reply::send(session, ctx, response)).await;
        Ok(true)
    }

    /// Stage 4: an endpoint, and how to reach it.
    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<Box<HttpPeer>> {
        let begun = AssertUnwindSafe(self.next_try(session, ctx)).catch_unwind().await;
        begun.unwrap_or(Err(Reason::Panic.into())).map_err(|refused| relay::give_up(ctx, refused))
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        ctx: &mut Box<Context>,
        mut e: Box<Error>,
    ) -> Box<Error> {
        let now = Instant::now();
        let late = ctx.overdue(now);
        if late == Some(Reason::RequestTimeout) {
            return self.too_late(ctx, Reason::RequestTimeout, now);
        }
        if late.is_none() {
            e = ctx.attempts.explain(e, now);
        }
        ctx.attempts.failed(&e, now);
        let trouble = if late.is_some() { Trouble::Timeout } else { Trouble::Connect };
        e.set_retry(ctx.tries_again(trouble, session, now));
        e
    }

    /// For each request, on new connections and on kept ones, before anything of it is sent.
    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        ctx.attempts.check(digest).map_err(|distrust| distrust.reason().into_error().into_up())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        Reason::catching(|| {
            forward::keep_te(session.req_header(), request);
            relay::edit(request, ctx)?;
            forward::names_a_host(request)
        })
        .map_err(|reason| ctx.refuse(reason))?;
        // An interim answer over HTTP/2 does not get as far as here.
        if request.version == http::Version::HTTP_2 && request.remove_header(&http::header::EXPECT).is_some()
        {
            relay::invite(session).await?;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        // What is wrong with it is the client's doing: over HTTP/2 Pingora would go on after any other failure, and wait.
        if ctx.facts.grpc.is_some() {
            ctx.decode(body, end_of_stream).map_err(|reason| ctx.refuse(reason).into_down())?;
        }
        // What is said on an upgraded connection is no body.
        if let Some(part) = body
            && !session.was_upgraded()
            && !ctx.takes(part)
        {
            return Err(ctx.refuse(Reason::RequestTooLarge).into_down());
        }
        if end_of_stream {
            ctx.sent.get_or_insert_with(Instant::now);
        }
        self.relay.follow(ctx, body.as_ref(), end_of_stream);
        Ok(())
    }

    /// Before anything has gone to the client: another endpoint may have a better answer.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        self.judge(session, response, ctx)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        // Interim answers pass as they are; the final one is still to come.
        if response.status.is_informational() && response.status != 101 {
            return Ok(());
        }
        Reason::catching(|| reply::pass_on(session, ctx, response)).map_err(|reason| ctx.refuse(reason))
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        if ctx.facts.encoder.is_some() {
            let part = body.take();
            *body =
                Reason::catching(|| ctx.encode(part, end_of_stream)).map_err(|reason| ctx.refuse(reason))?;
        }
        Ok(None)
    }

    /// What the encoder still holds back goes in the place of the trailers; Pingora has no hook for both.
    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Bytes>> {
        if ctx.facts.grpc.is_some() {
            return Ok(ctx.end_call(trailers));
        }
        Reason::catching(|| ctx.encode(None, true)).map_err(|reason| ctx.refuse(reason))
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut e: Box<Error>,
        ctx: &mut Box<Context>,
        client_reused: bool,
    ) -> Box<Error> {
        let now = Instant::now();
        ctx.rewind();
        // Asked in this order: whether to retry may not be decided yet, and then must not be asked.
        if matches!(e.etype(), ErrorType::HTTPStatus(_)) && e.retry() {
            return e;
        }
        let late = ctx.overdue(now);
        // Not the endpoint's fault where the client has not sent its request, or took most of the time to.
        if late.is_some() && (!session.as_mut().is_body_done() || !ctx.attempts.had_time(ctx.sent, now)) {
            ctx.attempts.finish();
        }
        match late {
            Some(Reason::RequestTimeout) => return self.too_late(ctx, Reason::RequestTimeout, now),
            Some(reason) => e = reason.into_error(),
            None => {}
        }
        let trouble = match late {
            Some(_) => Some(Trouble::Timeout),
            None => Trouble::of(&e, client_reused),
        };
        if late.is_none() {
            e = ctx.attempts.explain(e, now);
        }
        ctx.attempts.failed(&e, now);
        let again = trouble.is_some_and(|trouble| ctx.tries_again(trouble, session, now));
        let unreplayable = trouble == Some(Trouble::Reset)
            && ctx.route.as_ref().is_some_and(|route| route.retry.explicit)
            && session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none();
        if unreplayable {
            e = ctx.refuse(Reason::BodyNotReplayable);
        }
        e.set_retry(again);
        e
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Box<Context>) -> FailToProxy {
        let reason = *ctx.reason.get_or_insert_with(|| Reason::of(e));
        log::debug!("request failed ({}): {e}", reason.code());
        if let Some(call) = &mut ctx.facts.grpc {
            call.failure = forward::grpc_failure(e);
        }
        ctx.lift_limits();
        let serves_on = reply::leaves_usable(session, ctx);
        if !serves_on {
            // The connection is closed after this answer, and the answer has to say so.
            session.set_keepalive(None);
        }
        if reason != Reason::ClientClosed {
            let mut response = reply::refusal(reason, session);
            if let Some(after) = ctx.retry_after.take() {
                reply::come_back(&mut response, after);
            }
            // A client that is gone needs no answer; what happened is logged either way.
            let sent = reply::send(session, ctx, response).await;
            if let Some(connection) = ctx.connection.as_ref().filter(|_| serves_on && sent.is_ok()) {
                connection.spare();
            }
        }
        // Pingora would listen to it only where no upstream was asked for.
        FailToProxy { error_code: reason.status().as_u16(), can_reuse_downstream: false }
    }

    /// Stage 5.
    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Box<Context>) {
        if let Some(e) = e {
            ctx.reason.get_or_insert_with(|| Reason::of(e));
        } else if ctx.facts.grpc.is_some() && ctx.attempts.is_undecided() {
            // An answer that ended without saying how.
            ctx.end_call(&HeaderMap::new());
        }
        ctx.attempts.finish();
        record(&self.recorder, session, ctx);
    }

    /// The access log and the metrics tell of failed requests.
    fn suppress_error_log(&self, _: &Session, _: &Box<Context>, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Box<Context>,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// What to do with a request that has just arrived.
async fn decide(session: &mut Session, ctx: &mut Context) -> Result<Flow, Reason> {
    let incoming = incoming(session).ok_or(Reason::Internal)?;
    let connection = incoming.connection.clone();
    ctx.arrive(&incoming);
    let listener = ctx.listener.clone().ok_or(Reason::Internal)?;
    session.set_read_timeout(Some(listener.limits.body_timeout));
    session.set_write_timeout(Some(listener.limits.write_timeout));
    if !is_http2(session) && connection.is_last_request(listener.limits.requests_per_connection) {
        session.set_keepalive(None);
    }
    ctx.identify(session.req_header_mut())?;
    if ctx.facts.grpc.is_some() && !grpc::accepts_trailers(&session.req_header().headers) {
        return Ok(Flow::Reply(reply::without_te(session)));
    }
    if ctx.announces_too_much(&session.req_header().headers) {
        return Err(Reason::RequestTooLarge);
    }
    let unrouted = ctx.find_route(session.req_header()).err().map(|why| reply::unrouted(&why, session));
    // The listener's filters see a request that no route takes too, so that it learns nothing they would not tell it.
    let flow = run(&listener.chain, ctx.listener_steps, session, ctx).await?;
    match (flow, unrouted, ctx.route.clone()) {
        (Flow::Reply(response), ..) | (_, Some(response), _) => Ok(Flow::Reply(response)),
        (_, _, Some(route)) => {
            ctx.limit(route.timeout);
            let flow = run(&route.chain, ctx.route_steps, session, ctx).await;
            ctx.limit_call();
            if ctx.stream().is_some() {
                session.set_read_timeout(Some(forward::STREAM_SILENCE));
            }
            flow
        }
        _ => Err(Reason::Internal),
    }
}

async fn run(
    chain: &Chain,
    steps: Decided,
    session: &mut Session,
    ctx: &mut Context,
) -> Result<Flow, Reason> {
    let mut exchange = Exchange { request: session.req_header_mut(), response: None, facts: &mut ctx.facts };
    chain.on_request(steps, &mut exchange).await
}

/// What of ours is behind Pingora's session: it travels in the digest.
fn incoming(session: &Session) -> Option<Incoming> {
    let digest = session.digest()?.proxy_digest.as_ref()?;
    digest.user_data.as_ref()?.downcast_ref().cloned()
}

/// Pingora's own `is_http2` knows its own sessions only.
fn is_http2(session: &Session) -> bool {
    session.req_header().version == http::Version::HTTP_2
}

impl Gateway {
    /// The request goes on to an upstream: true when it has been answered from there already.
    async fn carry(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        if let Some(hedge) = relay::hedgeable(session, ctx) {
            // Boxed: it is large, and most requests are not hedged.
            let hedging = Box::pin(self.relay.hedge(session, ctx, hedge));
            let hedged = AssertUnwindSafe(hedging).catch_unwind().await;
            return hedged.unwrap_or_else(|_| Err(ctx.refuse(Reason::Panic))).map(|()| true);
        }
        ctx.mirror = relay::mirror(ctx, session);
        if ctx.mirror.is_some() && session.as_mut().is_body_empty() {
            self.relay.follow(ctx, None, true);
        }
        if relay::is_bare(session, ctx) {
            let asked = AssertUnwindSafe(self.ask(session, ctx)).catch_unwind().await;
            return asked.unwrap_or_else(|_| Err(ctx.refuse(Reason::Panic))).map(|()| true);
        }
        Ok(false)
    }
}
