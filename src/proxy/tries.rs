//! The tries of a request: how each begins, what is made of its answer, and Pingora's loop over them once more for
//! requests without a body, of which there is nothing to send while the answer is read.

use std::time::Instant;

use bytes::Bytes;
use http::Version;
use pingora_core::{Error, ErrorType, Result, upstreams::peer::HttpPeer};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{ProxyHttp, Session};

use super::Gateway;
use crate::{
    context::Context,
    error::Reason,
    forward::{self, Exchange, Refused, Trouble},
    relay,
};

impl Gateway {
    /// Answer a request without a body: as Pingora's loop would, whose hooks decide here as there.
    pub(super) async fn ask(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<()> {
        let mut may_reuse = true;
        loop {
            match self.ask_endpoint(session, ctx, &mut may_reuse).await {
                Err(e) if e.retry() => {}
                ended => return ended,
            }
        }
    }

    /// One try, of which a failure says whether another is to follow.
    async fn ask_endpoint(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
        may_reuse: &mut bool,
    ) -> Result<()> {
        let begun = self.next_try(session, ctx).await;
        let peer = begun.map_err(|refused| relay::give_up(ctx, refused))?;
        // First: a request that cannot be sent must not cost a connection.
        let request = match bare_request(session, ctx) {
            Ok(request) => request,
            Err(e) => return Err(self.error_while_proxy(&peer, session, e, ctx, false)),
        };
        let connected = self.relay.direct().connect(&peer, &ctx.attempts.idle_limit(), *may_reuse).await;
        let exchange = match connected {
            Ok(exchange) => exchange,
            Err(e) => return Err(self.fail_to_connect(session, &peer, ctx, e).into_up()),
        };
        let reused = exchange.is_reused();
        let asked = self.ask_once(session, ctx, exchange, request).await;
        // What else is kept for an endpoint may be as stale as what has just been found to be.
        let trouble = asked.as_ref().err().and_then(|e| Trouble::of(e, reused));
        *may_reuse = trouble != Some(Trouble::Stale);
        asked.map_err(|e| self.error_while_proxy(&peer, session, e, ctx, reused))
    }

    async fn ask_once(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
        mut exchange: Exchange,
        request: Box<RequestHeader>,
    ) -> Result<()> {
        if ctx.attempts.is_over_tls() {
            ctx.attempts.check(exchange.digest().as_ref()).map_err(|e| e.reason().into_error().into_up())?;
        }
        exchange.send(request, Bytes::new())?;
        ctx.sent.get_or_insert_with(Instant::now);
        let header = loop {
            // The client is watched meanwhile: it may leave, and the request's deadline makes itself heard there.
            let header = tokio::select! {
                biased;
                header = exchange.head() => header?,
                left = session.as_mut().read_body_or_idle(true) => return Err(relay::gone(left)),
            };
            if !header.status.is_informational() {
                break header;
            }
            // HTTP/1.0 knows none (RFC 9110, section 15.2).
            if session.req_header().version != Version::HTTP_10 {
                session.write_response_header(header, false).await.map_err(|e| e.into_down())?;
            }
        };
        // First: what cannot be read is not a success.
        let answer = exchange.answer(header, &session.req_header().method)?;
        self.judge(session, &answer.header, ctx)?;
        relay::pass_on(session, ctx, answer).await
    }

    /// Before anything of an answer has gone to the client: another endpoint may have a better one.
    ///
    /// # Errors
    ///
    /// It is to be asked.
    pub(super) fn judge(
        &self,
        session: &Session,
        response: &ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let (status, grpc) = (response.status.as_u16(), forward::grpc_status(response));
        let now = Instant::now();
        // First, as it may open the breaker of the only endpoint that is left.
        ctx.judge(response, grpc, now);
        if !ctx.tries_again(Trouble::Answer { status, grpc }, session, now) {
            return Ok(());
        }
        ctx.attempts.leave();
        let mut again = Error::explain(ErrorType::HTTPStatus(status), "asking another endpoint");
        again.as_up();
        again.set_retry(true);
        Err(again)
    }

    /// Wait where that is due, then begin a try.
    pub(super) async fn next_try(
        &self,
        session: &Session,
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>, Refused> {
        let route = ctx.route.clone().ok_or(Reason::Internal)?;
        let pause = std::mem::take(&mut ctx.attempts.pause);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let (request, now) = (session.req_header(), Instant::now());
        if let Some(Reason::RequestTimeout) = ctx.overdue(now) {
            return Err(Reason::RequestTimeout.into());
        }
        // Between tries none is waited for.
        ctx.expect_answer(None);
        let (carried, left) = (ctx.carried(), ctx.time_left(now));
        let peer =
            forward::attempt(&route, &mut ctx.attempts, request, &carried, left, &self.recorder.metrics)
                .await;
        let begun = Instant::now();
        let mut peer = peer.map_err(|refused| match ctx.overdue(begun) {
            // It waited for room, and had no more time to.
            Some(Reason::RequestTimeout) => Reason::RequestTimeout.into(),
            _ => refused,
        })?;
        let by_try = route.retry.per_try_timeout.map(|timeout| begun + timeout);
        let by_upgrade = ctx.attempts.destination.as_ref().and_then(|destination| {
            let by = forward::upgrade_answered_by(&destination.upstream, request, begun)?;
            ctx.silence = Some(destination.upstream.settings().read_timeout.into());
            Some(by)
        });
        ctx.expect_answer(by_try.into_iter().chain(by_upgrade).min());
        if ctx.stream().is_some() {
            forward::let_stream(&mut peer, left);
        }
        Ok(peer)
    }

    /// The request's time is over: whatever the endpoint was about to say comes too late.
    pub(super) fn too_late(&self, ctx: &mut Context, reason: Reason, now: Instant) -> Box<Error> {
        let e = ctx.refuse(reason);
        match ctx.is_clients_deadline() {
            true => ctx.attempts.finish(),
            false => ctx.attempts.failed(&e, now),
        }
        e
    }
}

/// The request of a client as its endpoint is to see it.
fn bare_request(session: &Session, ctx: &mut Context) -> Result<Box<RequestHeader>> {
    let mut request = Box::new(RequestHeader::from(session.req_header().as_owned_parts()));
    let edited = Reason::catching(|| {
        forward::clean_request(&mut request).and_then(|()| relay::edit(&mut request, ctx))
    });
    edited.map(|()| request).map_err(|reason| ctx.refuse(reason).into_down())
}
