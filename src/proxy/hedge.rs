//! What is sent more than once: hedged requests, which are at several endpoints at once, and copies for a mirror. Both pass
//! the same forward filters as any other try.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{StatusCode, Version};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{
    Gateway,
    body::RequestBody,
    context::Context,
    driver::{poll_given_up, spelling},
    spans,
};
use crate::{
    accept::Session,
    error::Reason,
    forward::{self, Answer, Attempt, Attempts, Copy, Ended, Hedged},
    grpc::Dialect,
    policy::failure::{Cause, Kind, Stage},
    snapshot::{Hedge, Mirror, Route},
};

/// A route and its hedge.
pub(super) type Hedging = (Arc<Route>, Arc<Hedge>);

impl Gateway {
    /// The hedge of a request that may be sent twice: a method that allows it, and a body that is known to be small.
    pub(super) fn hedge_of(&self, session: &Session, ctx: &Context) -> Option<Hedging> {
        let route = ctx.route.as_ref()?;
        let hedge = route.hedge.as_ref()?;
        let request = session.request();
        let is_small = session.body_length().is_some_and(|length| length <= route.retry.body_buffer as u64);
        let upgrades = request.headers.contains_key(http::header::UPGRADE);
        // Where there are no trailers, the answer takes other ways.
        if ctx.facts.grpc.as_ref().is_some_and(|call| call.dialect != Dialect::Http2) {
            return None;
        }
        let is_repeatable = route.retry.methods.allows(request.method.as_str());
        (is_small && !upgrades && is_repeatable).then(|| (route.clone(), hedge.clone()))
    }

    /// Answer a request by hedging. All of it is here.
    ///
    /// # Errors
    ///
    /// No endpoint answered, or the answer broke off.
    pub(super) async fn hedge(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        body: &mut RequestBody,
        (route, hedge): Hedging,
    ) -> Result<(), Ended> {
        body.rewind(true);
        let request = session.request().clone();
        ctx.destination(&route, &request)?;
        ctx.attempts.choose_stand_in(Instant::now());
        let (answer, attempt) = loop {
            let left = ctx.deadline.left(Instant::now());
            self.admit(session, ctx, left).await?;
            let raced = self.race(session, ctx, &request, body.bytes(), left, (&route, &hedge)).await;
            let ended = match raced {
                Ok(won) => break won,
                Err(ended) => ended,
            };
            // Nothing was sent: whoever stands in is asked in its place.
            if was_sent_nowhere(&ended) && ctx.attempts.goes_on_to_stand_in(Instant::now()) {
                continue;
            }
            if let Ended::Failed(_) = ended {
                ctx.attempts.lost();
            }
            return Err(ended);
        };
        ctx.attempts.resume(attempt);
        ctx.judge(&answer.header, forward::grpc_status(&answer.header), Instant::now());
        let Answer { header, length, mut rest } = answer;
        let passed = self.pass_on(session, ctx, body, &mut rest, header, length).await;
        passed.inspect_err(|ended| {
            if let Ended::Failed(failure) = ended {
                // That the request's time is over says nothing about an endpoint that was answering.
                if failure.kind != Kind::Overdue {
                    ctx.attempts.failed(*failure, Instant::now());
                }
                ctx.attempts.lost();
            }
        })
    }

    /// The copies of one request at one upstream, until one is answered well. The client is watched meanwhile, and hears what the
    /// copies say before their answers.
    async fn race(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        request: &RequestHeader,
        body: Bytes,
        left: Option<Duration>,
        (route, hedge): (&Arc<Route>, &Arc<Hedge>),
    ) -> Result<(Answer, Attempt), Ended> {
        let destination = ctx.attempts.destination.clone().ok_or(Reason::Internal)?;
        let interim = Mutex::new(Vec::new());
        let hedged = Hedged {
            route,
            hedge,
            destination: &destination,
            request,
            body,
            spelling: spelling(session, &destination),
            addresses: ctx.addresses(),
            requests: session.connection().sharing(),
            left,
            clients_deadline: ctx.deadline.is_clients(),
            interim: &interim,
        };
        let deadline = ctx.deadline;
        let mut attempts = std::mem::take(&mut ctx.attempts);
        attempts.races = true;
        let edit = |header: &mut RequestHeader, attempts: &mut Attempts| {
            // They are the race's while it lasts, and the request's for a moment.
            std::mem::swap(&mut ctx.attempts, attempts);
            let edited = edit(header, ctx);
            std::mem::swap(&mut ctx.attempts, attempts);
            edited
        };
        let raced = {
            let metrics = &self.recorder.metrics;
            let mut race = pin!(forward::hedge(&hedged, &mut attempts, &self.client, metrics, edit));
            std::future::poll_fn(|cx| {
                let raced = race.as_mut().poll(cx);
                let heard = std::mem::take(&mut *interim.lock().unwrap_or_else(PoisonError::into_inner));
                // Whoever waited for it has been told to send the body.
                let is_news = |header: &&ResponseHeader| header.status != StatusCode::CONTINUE;
                heard.iter().filter(is_news).for_each(|header| session.interim(header));
                match (raced, session.poll_flush(cx)) {
                    (Poll::Ready(raced), _) => Poll::Ready(raced),
                    (_, Poll::Ready(Err(reason))) => Poll::Ready(Err(reason.into())),
                    _ => poll_given_up(session, &deadline, Stage::Head, cx).map(Err),
                }
            })
            .await
        };
        attempts.races = false;
        ctx.attempts = attempts;
        raced
    }

    /// The copies of a request for its route's mirrors, where it is chosen for one.
    pub(super) fn mirrors(&self, session: &Session, ctx: &mut Context) -> Vec<Copy> {
        match ctx.route.clone().filter(|route| !route.mirrors.is_empty()) {
            Some(route) => {
                let mirrors = route.mirrors.iter();
                mirrors.filter_map(|mirror| self.mirror(session, ctx, &route, mirror)).collect()
            }
            None => Vec::new(),
        }
    }

    fn mirror(
        &self,
        session: &Session,
        ctx: &mut Context,
        route: &Arc<Route>,
        mirror: &Arc<Mirror>,
    ) -> Option<Copy> {
        let begun = Copy::begin(route, mirror, fastrand::f64())?;
        let spelling = spelling(session, &begun.0.destination);
        let mut header = session.request().clone();
        if ctx.facts.grpc.is_some() {
            // Whatever the client speaks: `te: trailers` is to reach the upstream.
            header.set_version(Version::HTTP_2);
        }
        header.remove_header(&http::header::EXPECT);
        let span = ctx.attempts.begin_span();
        // What a variant of a split makes of the original is for its upstream alone.
        let variant = ctx.variant.take();
        // The original meets the same refusal and tells the client.
        let edited = edit(&mut header, ctx);
        ctx.variant = variant;
        ctx.attempts.forget_span();
        edited.ok()?;
        let traced = span.and_then(|span| spans::of_copy(&self.recorder, session, ctx, span));
        Some(Copy::new(route, begun, header, spelling, ctx.addresses(), traced))
    }

    /// A part of the request's body passed by; at its end the copies are sent.
    pub(super) fn follow(&self, ctx: &mut Context, part: Option<&Bytes>, is_last: bool) {
        if ctx.mirrors.is_empty() {
            return;
        }
        if let Some(part) = part {
            ctx.mirrors.retain_mut(|copy| copy.add(part));
        }
        if is_last {
            let copies = ctx.mirrors.drain(..);
            copies.for_each(|copy| copy.send(&self.client, &self.recorder.metrics));
        }
    }
}

fn was_sent_nowhere(ended: &Ended) -> bool {
    match ended {
        Ended::Failed(failure) => failure.meaning().cause == Some(Cause::Connect),
        Ended::Refused(refused) => has_nobody(refused.reason),
        Ended::Replied => false,
    }
}

/// Whether an upstream has refused because none of its endpoints can be used: then another one may stand in.
pub(super) fn has_nobody(reason: Reason) -> bool {
    matches!(reason, Reason::UpstreamUnhealthy | Reason::EmptySubset | Reason::CircuitOpen)
}

/// Make a request what an endpoint is to see: who asks, which try it is, and what the filters say. The names of its fields
/// lose the case they were written in, which means nothing (RFC 9110, section 5.1) and costs much to keep.
///
/// # Errors
///
/// A filter refused it, or it has too many header fields.
pub(super) fn edit(header: &mut RequestHeader, ctx: &mut Context) -> Result<(), Reason> {
    Reason::catching(|| {
        forward::clean_request(header)?;
        ctx.write_forwarded(header)?;
        ctx.on_forward(header)
    })
}
