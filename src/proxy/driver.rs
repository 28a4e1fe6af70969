//! The one loop over the tries of a request. Whatever its shape, a request goes this way: with a body or without, of HTTP/1
//! or HTTP/2 on either side, a call of gRPC, an upgrade.
//!
//! One try is one future, polled by the task of the request: it sends the body as the client sends it, and reads the answer
//! meanwhile, so that neither side waits for the other. Whoever is waited for, the client is watched and the time is kept.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context as Task, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{
    Gateway,
    body::RequestBody,
    context::{Context, Deadline, Side},
    pages, spans,
};
use crate::{
    accept::{BodyLength, Session},
    error::Reason,
    forward::{self, Ended, Exchange, Length, Spoken, Why},
    policy::failure::{Cause, Failure, Kind, Outcome, Stage},
    snapshot::Destination,
    tunnel,
};

/// How a try ended.
enum Try {
    Done,
    /// Another one follows.
    Again,
}

/// Where an answer on its way is.
enum Passing {
    /// The head that waits for the first part to pass the filters, if it does.
    Body(Option<Head>),
    /// A filter waits with a part, which may be the last.
    Part(Option<Head>, bool),
    Trailers(Option<Head>),
    /// A filter waits with the end, and these trailers.
    End(Option<Head>, HeaderMap),
    Flush,
}

type Head = (Box<ResponseHeader>, BodyLength);

impl Gateway {
    /// Send the request on, and its answer back.
    ///
    /// # Errors
    ///
    /// The last try failed, or the gateway or the client has ended it.
    pub(super) async fn forward(&self, session: &mut Session, ctx: &mut Context) -> Result<(), Ended> {
        let route = ctx.route.clone().ok_or(Reason::Internal)?;
        let mut body = RequestBody::new(route.retry.body_buffer);
        // No filter looks at it any more.
        ctx.facts.peeked = None;
        ctx.mirrors = self.mirrors(session, ctx);
        if body.is_empty(session) {
            ctx.sent.get_or_insert_with(Instant::now);
            self.follow(ctx, None, true);
        }
        if let Some(most) = ctx.facts.gathers {
            body.keep_at_least(most);
            self.gather(session, ctx, &mut body).await?;
        }
        if let Some(hedge) = self.hedge_of(session, ctx) {
            self.gather(session, ctx, &mut body).await?;
            // Copies have no trailers.
            if body.whole().is_some() {
                // Boxed: it is large, and most requests are not hedged.
                return Box::pin(self.hedge(session, ctx, &mut body, hedge)).await;
            }
        }
        let mut may_reuse = true;
        loop {
            let ended = match self.one_try(session, ctx, &mut body, may_reuse).await {
                Ok(Try::Done) => return Ok(()),
                Ok(Try::Again) => continue,
                Err(ended) => ended,
            };
            // What else is kept for an endpoint may be as stale as what has just been found to be.
            may_reuse = !matches!(ended, Ended::Failed(Failure { kind: Kind::Stale, .. }));
            self.error_while_proxy(session, ctx, &body, ended)?;
        }
    }

    /// Read the body before the request goes on.
    ///
    /// # Errors
    ///
    /// It is too large, a filter refuses it, or the client does not send it.
    pub(super) async fn gather(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        body: &mut RequestBody,
    ) -> Result<(), Ended> {
        invite(session, body);
        poll_fn(|cx| match body.poll_gather(self, session, ctx, cx) {
            Poll::Ready(gathered) => Poll::Ready(gathered),
            Poll::Pending if ctx.is_waiting() => {
                poll_given_up(session, &ctx.deadline, Stage::Send, cx).map(Err)
            }
            Poll::Pending => match session.poll_flush(cx) {
                Poll::Ready(Err(reason)) => Poll::Ready(Err(reason.into())),
                _ => poll_given_up(session, &ctx.deadline, Stage::Send, cx).map(Err),
            },
        })
        .await
    }

    async fn one_try(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        body: &mut RequestBody,
        may_reuse: bool,
    ) -> Result<Try, Ended> {
        let peer = self.upstream_peer(session, ctx).await?;
        if body.is_empty(session) {
            ctx.attempts.can_be_answered(Instant::now());
        }
        // First: a request that cannot be sent must not cost a connection.
        let request = self.upstream_request_filter(session, ctx);
        let request = request.inspect_err(|_| ctx.attempts.withdraw())?;
        let limit = ctx.attempts.idle_limit();
        let kept = if may_reuse { self.client.reuse(&peer, &limit) } else { None };
        let mut exchange = match kept {
            Some(kept) => kept,
            None => {
                let requests = session.connection().sharing();
                // Boxed: with TLS and HTTP/2 it is large, and most requests find a connection.
                let connecting = Box::pin(self.client.connect(&peer, &limit, may_reuse, requests));
                let connected = watched(session, &ctx.deadline, Stage::Connect, connecting).await?;
                connected.map_err(|e| self.fail_to_connect(ctx, e))?
            }
        };
        self.connected_to_upstream(ctx, &exchange)?;
        self.send_head(session, ctx, body, &mut exchange, request)?;
        let mut header = self.head(session, ctx, body, &mut exchange).await?;
        if header.status == StatusCode::SWITCHING_PROTOCOLS {
            self.upgrade(session, ctx, exchange, header).await?;
            return Ok(Try::Done);
        }
        // First: what cannot be read is not a success.
        let begun = exchange.begin_body(&mut header, &session.request().method);
        let length = begun.map_err(|e| self.broken(ctx, &exchange, Stage::Head, e))?;
        if self.holds(session, ctx, body, length) {
            // The time for a try is for the head of its answer, and that is there.
            ctx.deadline.expect_answer(None);
            self.hold(session, ctx, body, &mut exchange, length).await?;
        }
        if self.upstream_response_filter(session, ctx, body, &header) {
            return Ok(Try::Again);
        }
        self.pass_on(session, ctx, body, &mut exchange, header, length).await?;
        Ok(Try::Done)
    }

    fn send_head(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        body: &mut RequestBody,
        exchange: &mut Exchange,
        mut request: Box<RequestHeader>,
    ) -> Result<(), Ended> {
        let spoken = exchange.spoken();
        let length = request_length(session, body, &request, spoken);
        if length == Length::Upgrade
            && let Some(offered) = forward::offered(session.request())
        {
            request.insert_header(header::UPGRADE, offered).map_err(|_| Reason::HeaderTooLarge)?;
        }
        // Whether to send the body is for the upstream to say, where it can, and only once (RFC 9110, section 10.1.1).
        if request.headers.contains_key(header::EXPECT)
            && (spoken != Spoken::Http1 || !body.is_untouched() || body.is_empty(session))
        {
            request.remove_header(&header::EXPECT);
            invite(session, body);
        }
        if let Some(head) = ctx.attempts.destination.as_ref().and_then(|to| spelling(session, to)) {
            exchange.spell(head);
        }
        let is_whole = matches!(length, Length::None | Length::Known(0) | Length::Upgrade);
        body.rewind(is_whole);
        let sent = exchange.send_head(request, length);
        sent.map_err(|e| self.broken(ctx, exchange, Stage::Send, e))
    }

    /// The head of the final answer. Interim ones go to the client as they come.
    async fn head(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        body: &mut RequestBody,
        exchange: &mut Exchange,
    ) -> Result<Box<ResponseHeader>, Ended> {
        poll_fn(|cx| {
            loop {
                // What the client has done wrong comes first: what the upstream makes of half a body is no answer.
                if let Poll::Ready(Err(ended)) = body.poll_send(self, session, ctx, exchange, cx) {
                    return Poll::Ready(Err(ended));
                }
                if ctx.is_waiting() {
                    return poll_given_up(session, &ctx.deadline, Stage::Send, cx).map(Err);
                }
                if body.is_sent() {
                    ctx.attempts.has_been_sent();
                }
                match exchange.poll_head(cx) {
                    Poll::Ready(Ok(header)) => {
                        let is_final = !header.status.is_informational()
                            || header.status == StatusCode::SWITCHING_PROTOCOLS;
                        if is_final {
                            return Poll::Ready(Ok(header));
                        }
                        // A client that does not wait for it may have been told already.
                        let is_asked = session.request().headers.contains_key(header::EXPECT);
                        if header.status != StatusCode::CONTINUE || is_asked {
                            session.interim(&header);
                        }
                    }
                    Poll::Ready(Err(e)) => {
                        let stage = if body.is_sent() { Stage::Head } else { Stage::Send };
                        return Poll::Ready(Err(self.broken(ctx, exchange, stage, e)));
                    }
                    Poll::Pending => {
                        if let Poll::Ready(Err(reason)) = session.poll_flush(cx) {
                            return Poll::Ready(Err(reason.into()));
                        }
                        let stage = if body.is_sent() { Stage::Head } else { Stage::Send };
                        return self.poll_interrupted(session, ctx, body, exchange, stage, cx).map(Err);
                    }
                }
            }
        })
        .await
    }

    /// Whether a small answer is held back until it is whole: if its body breaks, another endpoint can still be asked, where there
    /// is one.
    fn holds(&self, session: &Session, ctx: &Context, body: &RequestBody, length: Option<u64>) -> bool {
        let Some(route) = &ctx.route else { return false };
        length.is_none_or(|length| length <= route.retry.response_buffer as u64)
            && route.retry.response_buffer > 0
            && ctx.facts.grpc.is_none()
            && body.is_replayable()
            && ctx.attempts.could_ask_another(route, &session.request().method, Instant::now())
    }

    async fn hold(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        body: &mut RequestBody,
        exchange: &mut Exchange,
        length: Option<u64>,
    ) -> Result<(), Ended> {
        let most = ctx.route.as_ref().map_or(0, |route| route.retry.response_buffer);
        poll_fn(|cx| {
            if let Poll::Ready(Err(ended)) = body.poll_send(self, session, ctx, exchange, cx) {
                return Poll::Ready(Err(ended));
            }
            if ctx.is_waiting() {
                return poll_given_up(session, &ctx.deadline, Stage::Send, cx).map(Err);
            }
            match exchange.poll_hold(most, length.is_some(), cx) {
                Poll::Ready(held) => {
                    Poll::Ready(held.map_err(|e| self.broken(ctx, exchange, Stage::Head, e)))
                }
                Poll::Pending => {
                    // What was said before the answer does not wait for it.
                    if let Poll::Ready(Err(reason)) = session.poll_flush(cx) {
                        return Poll::Ready(Err(reason.into()));
                    }
                    self.poll_interrupted(session, ctx, body, exchange, Stage::Head, cx).map(Err)
                }
            }
        })
        .await
    }

    /// Hand the answer to the client.
    ///
    /// # Errors
    ///
    /// A filter refused it, it broke off, or the client is gone.
    pub(super) async fn pass_on(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        body: &mut RequestBody,
        exchange: &mut Exchange,
        mut header: Box<ResponseHeader>,
        length: Option<u64>,
    ) -> Result<(), Ended> {
        ctx.attempts.give_back_place();
        let page = pages::instead(session, ctx, &mut header)?;
        self.filter_head(session, ctx, &mut header).await?;
        session.spell(exchange.spelling());
        if !session.is_body_done() && session.request().headers.contains_key(header::EXPECT) {
            // Who has waited for a word sends no body any more.
            session.set_last();
        }
        if let Some(page) = page {
            return self.pass_page(session, ctx, exchange, header, page).await;
        }
        if session.is_http2() {
            exchange.read_in_small_parts();
        }
        let length = response_length(session, ctx, exchange, &header, length);
        let mut passing = match length {
            BodyLength::None => {
                session.respond(header, length)?;
                if exchange.is_done() {
                    exchange.finish();
                    ctx.attempts.is_whole(Instant::now());
                }
                Passing::Flush
            }
            // A filter of the body may still have another answer: the head waits for what it lets pass.
            _ if ctx.filters_response_body() => Passing::Body(Some((header, length))),
            _ => {
                session.respond(header, length)?;
                Passing::Body(None)
            }
        };
        poll_fn(|cx| {
            loop {
                if session.responded().is_some() {
                    body.let_go();
                }
                if !matches!(passing, Passing::Flush)
                    && let Poll::Ready(Err(ended)) = body.poll_send(self, session, ctx, exchange, cx)
                {
                    return Poll::Ready(Err(ended));
                }
                if ctx.waits_with(Side::Request) {
                    return poll_given_up(session, &ctx.deadline, Stage::Body, cx).map(Err);
                }
                match self.poll_pass(&mut passing, session, ctx, exchange, cx) {
                    Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(false)) => {}
                    Poll::Ready(Err(ended)) => return Poll::Ready(Err(ended)),
                    Poll::Pending if ctx.is_waiting() => {
                        return poll_given_up(session, &ctx.deadline, Stage::Body, cx).map(Err);
                    }
                    Poll::Pending => {
                        return self.poll_interrupted(session, ctx, body, exchange, Stage::Body, cx).map(Err);
                    }
                }
            }
        })
        .await?;
        if !session.is_body_done() {
            // Nobody reads the rest. The client is to get the answer all the same, and not a reset in its place.
            session.connection().leaves_unread();
        }
        Ok(())
    }

    /// Pass the head of an answer through the filters, as long as one of them takes.
    async fn filter_head(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        header: &mut ResponseHeader,
    ) -> Result<(), Ended> {
        let mut waits = self.response_filter(session, ctx, header)?;
        while waits {
            poll_fn(|cx| match ctx.poll_waits(session.request_mut(), Some(header), cx) {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => poll_given_up(session, &ctx.deadline, Stage::Body, cx).map(Err),
            })
            .await?;
            waits = Reason::catching(|| ctx.on_response(session.request_mut(), header))?;
        }
        Ok(())
    }

    /// One step. True when the client has all.
    fn poll_pass(
        &self,
        passing: &mut Passing,
        session: &mut Session,
        ctx: &mut Context,
        exchange: &mut Exchange,
        cx: &mut Task<'_>,
    ) -> Poll<Result<bool, Ended>> {
        match session.poll_ready(cx) {
            Poll::Ready(ready) => ready?,
            Poll::Pending => {
                exchange.leave_unread();
                return Poll::Pending;
            }
        }
        if ctx.is_waiting() {
            ready!(ctx.poll_waits(session.request_mut(), None, cx));
        }
        match passing {
            Passing::Body(head) if ctx.poll_held(Side::Response, cx).is_ready() => {
                let part = self.response_body_filter(session, ctx, Bytes::new(), false)?;
                *passing = pass_part(session, head.take(), part, false)?;
            }
            Passing::Body(head) => match exchange.poll_body(cx) {
                Poll::Ready(Ok(Some(part))) => {
                    let is_last = exchange.is_whole() && ctx.facts.grpc.is_none();
                    if is_last {
                        // Before the client has its answer, and sends the next request.
                        exchange.finish();
                        ctx.attempts.is_whole(Instant::now());
                    }
                    let part = self.response_body_filter(session, ctx, part, is_last)?;
                    *passing = pass_part(session, head.take(), part, is_last)?;
                }
                Poll::Ready(Ok(None)) => *passing = Passing::Trailers(head.take()),
                Poll::Ready(Err(e)) => {
                    return Poll::Ready(Err(self.broken(ctx, exchange, Stage::Body, e)));
                }
                Poll::Pending => {
                    // Nothing more is there: what has come so far must not wait for it.
                    if let Poll::Ready(Err(reason)) = session.poll_flush(cx) {
                        return Poll::Ready(Err(reason.into()));
                    }
                    return Poll::Pending;
                }
            },
            Passing::Trailers(head) => {
                let trailers = match ready!(exchange.poll_trailers(cx)) {
                    Ok(trailers) => trailers,
                    Err(e) => return Poll::Ready(Err(self.broken(ctx, exchange, Stage::Body, e))),
                };
                exchange.finish();
                ctx.attempts.is_whole(Instant::now());
                let mut trailers = trailers.unwrap_or_default();
                ctx.end_call(&trailers);
                let last = self.response_trailer_filter(session, ctx, &mut trailers)?;
                *passing = pass_end(session, head.take(), last, trailers)?;
            }
            Passing::Part(head, is_last) => {
                let (head, is_last) = (head.take(), *is_last);
                let part = self.response_body_filter(session, ctx, Bytes::new(), is_last)?;
                *passing = pass_part(session, head, part, is_last)?;
            }
            Passing::End(head, trailers) => {
                let (head, mut trailers) = (head.take(), std::mem::take(trailers));
                let last = self.response_trailer_filter(session, ctx, &mut trailers)?;
                *passing = pass_end(session, head, last, trailers)?;
            }
            Passing::Flush => {
                ready!(session.poll_flush(cx))?;
                return Poll::Ready(Ok(true));
            }
        }
        Poll::Ready(Ok(false))
    }

    /// The upstream agrees to the switch: from here on the connection is another protocol's.
    async fn upgrade(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        exchange: Exchange,
        mut header: Box<ResponseHeader>,
    ) -> Result<(), Ended> {
        self.filter_head(session, ctx, &mut header).await?;
        session.respond(header, BodyLength::None)?;
        ctx.upgrade();
        ctx.attempts.answered(Outcome::Success, Instant::now());
        ctx.attempts.give_back_place();
        // They end with the switch: what follows may last for days.
        spans::record_upgrade(&self.recorder, session, ctx);
        let (stream, ahead) = exchange.into_upgraded().ok_or(Reason::Internal)?;
        let client = session.upgrade().ok_or(Reason::ClientClosed)?;
        let connection = session.connection().clone();
        let mut passed = tunnel::Passed::default();
        let carried = tunnel::carry_upgraded(&connection, client, stream, ahead, &mut passed).await;
        session.count_upgraded(passed.read, passed.sent);
        carried.map_err(Ended::from)
    }

    /// Ready when there is nothing more to wait for: the client is gone, time is over, or another endpoint is the better bet.
    fn poll_interrupted(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        body: &RequestBody,
        exchange: &mut Exchange,
        stage: Stage,
        cx: &mut Task<'_>,
    ) -> Poll<Ended> {
        if session.is_body_done()
            && let Poll::Ready(reason) = session.poll_gone(cx)
        {
            return Poll::Ready(reason.into());
        }
        loop {
            let look_at = if stage == Stage::Head { ctx.attempts.look_at() } else { None };
            let dues = [exchange.due(), ctx.deadline.next(), look_at];
            let Some(due) = dues.into_iter().flatten().min() else { return Poll::Pending };
            if !session.is_past(due, cx) {
                return Poll::Pending;
            }
            let now = Instant::now();
            if let Some(failure) = ctx.deadline.overdue(stage, now) {
                return Poll::Ready(failure.into());
            }
            if exchange.due().is_some_and(|due| due <= now) {
                let late = exchange.late();
                return Poll::Ready(self.broken(ctx, exchange, stage, late));
            }
            if let Some(failure) = self.gives_up(session, ctx, body, now) {
                return Poll::Ready(failure.into());
            }
            exchange.doubt();
        }
    }

    /// The endpoint has been silent for a while. Where it is held to be gone, and the request may be sent again, another one is
    /// asked; else it is waited for as long as it may take. It may be at work all the same: what is more done twice than once is
    /// sent again only where the operator has that done after a timeout.
    fn gives_up(
        &self,
        session: &Session,
        ctx: &mut Context,
        body: &RequestBody,
        now: Instant,
    ) -> Option<Failure> {
        let failure = Failure::new(Stage::Head, Kind::Silent);
        let after_timeouts =
            ctx.route.as_ref().is_some_and(|route| route.retry.conditions.retries(Cause::Timeout));
        let leaves = (session.request().method.is_idempotent() || after_timeouts)
            && ctx.attempts.had_better_leave(now)
            && ctx.tries_again(Why::Failed(failure), session, body.is_replayable(), now);
        ctx.attempts.moves_on = leaves;
        leaves.then_some(failure)
    }

    /// An error of the engine in the present try, as what it means.
    pub(super) fn broken(
        &self,
        ctx: &Context,
        exchange: &Exchange,
        stage: Stage,
        error: Box<pingora_core::Error>,
    ) -> Ended {
        match ctx.attempts.current() {
            Some(attempt) => attempt.ended(exchange.broken(stage, error), Instant::now()),
            None => Reason::Internal.into(),
        }
    }
}

/// What `future` comes to, while the client is there and there is time.
pub(super) async fn watched<T>(
    session: &mut Session,
    deadline: &Deadline,
    stage: Stage,
    future: impl Future<Output = T>,
) -> Result<T, Ended> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => poll_given_up(session, deadline, stage, cx).map(Err),
    })
    .await
}

/// Ready when the client is gone, or the request's time is over.
pub(super) fn poll_given_up(
    session: &mut Session,
    deadline: &Deadline,
    stage: Stage,
    cx: &mut Task<'_>,
) -> Poll<Ended> {
    if session.is_body_done()
        && let Poll::Ready(reason) = session.poll_gone(cx)
    {
        return Poll::Ready(reason.into());
    }
    match deadline.next() {
        Some(due) if session.is_past(due, cx) => {
            let failure = deadline.overdue(stage, Instant::now());
            Poll::Ready(failure.unwrap_or(Failure::new(stage, Kind::Overdue)).into())
        }
        _ => Poll::Pending,
    }
}

/// Send a part that has passed the filters; `None` where one of them waits with it.
fn pass_part(
    session: &mut Session,
    mut head: Option<Head>,
    part: Option<Bytes>,
    is_last: bool,
) -> Result<Passing, Reason> {
    let Some(part) = part else { return Ok(Passing::Part(head, is_last)) };
    if !part.is_empty() || is_last {
        begin(session, &mut head, &part, is_last)?;
        session.write(part, is_last)?;
    }
    Ok(if is_last { Passing::Flush } else { Passing::Body(head) })
}

/// The same at the end of the body.
fn pass_end(
    session: &mut Session,
    mut head: Option<Head>,
    last: Option<Bytes>,
    trailers: HeaderMap,
) -> Result<Passing, Reason> {
    let Some(last) = last else { return Ok(Passing::End(head, trailers)) };
    begin(session, &mut head, &last, trailers.is_empty())?;
    if trailers.is_empty() || !session.takes_trailers() {
        session.write(last, true)?;
    } else {
        session.write(last, false)?;
        session.write_trailers(trailers)?;
    }
    Ok(Passing::Flush)
}

/// Send the head that has waited for `part`. Where that is all there is, the length is known after all.
fn begin(session: &mut Session, head: &mut Option<Head>, part: &Bytes, is_whole: bool) -> Result<(), Reason> {
    let Some((mut header, mut length)) = head.take() else { return Ok(()) };
    if is_whole {
        length = BodyLength::Known(part.len() as u64);
        if header.headers.contains_key(header::CONTENT_LENGTH) || session.is_http2() {
            header.insert_header(header::CONTENT_LENGTH, part.len()).map_err(|_| Reason::Internal)?;
        }
    }
    session.respond(header, length)
}

/// How much body the upstream is told of.
fn request_length(session: &Session, body: &RequestBody, request: &RequestHeader, spoken: Spoken) -> Length {
    if body.is_empty(session) {
        let upgrades = spoken == Spoken::Http1 && forward::offered(session.request()).is_some();
        return if upgrades { Length::Upgrade } else { Length::of_whole(&request.method, 0) };
    }
    if let Some(whole) = body.whole() {
        return Length::Known(whole);
    }
    match session.body_length() {
        // A filter that changes the body takes its length off.
        Some(length) if request.headers.contains_key(header::CONTENT_LENGTH) => Length::Known(length),
        _ => Length::Unknown,
    }
}

/// How much body the client is told of.
fn response_length(
    session: &Session,
    ctx: &Context,
    exchange: &Exchange,
    header: &ResponseHeader,
    length: Option<u64>,
) -> BodyLength {
    let method = &session.request().method;
    if forward::is_bodiless(method, header.status) {
        return BodyLength::None;
    }
    let is_told = header.headers.contains_key(header::CONTENT_LENGTH);
    match length {
        Some(0) if exchange.is_done() && !ctx.is_call_open() && !ctx.filters_response_body() => {
            BodyLength::None
        }
        Some(length) if is_told => BodyLength::Known(length),
        _ => BodyLength::Unknown,
    }
}

/// The head in which the fields came, where the case of their names is kept on the way to this destination.
pub(super) fn spelling(session: &Session, to: &Destination) -> Option<Bytes> {
    let head = session.raw_head().filter(|_| to.upstream.settings().preserve_header_case);
    head.cloned()
}

/// Tell a client that waits for it to send the body (RFC 9110, section 10.1.1), once, where no upstream can.
pub(super) fn invite(session: &mut Session, body: &RequestBody) {
    // So that another try does not ask again.
    let expected = session.request_mut().remove_header(&header::EXPECT);
    let waits = expected.is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if waits
        && body.is_untouched()
        && !session.is_body_done()
        && session.request().version >= Version::HTTP_11
        && session.request().method != Method::CONNECT
        && let Ok(header) = ResponseHeader::build_no_case(StatusCode::CONTINUE, Some(0))
    {
        session.interim(&header);
    }
}
