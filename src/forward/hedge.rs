//! Hedged requests: the same request at more than one endpoint, the first good answer wins. The rules are the route's, the
//! race is `race`, and each copy is an attempt like any other.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;

use super::{
    Answer, Attempt, Attempts, Call, Direct, Origin, Refused, Request, Rules, Trouble, begin, failure,
    grpc_status, is_told_by_trailers, outcome, race,
};
use crate::{
    error::Reason,
    observe::metrics::{Metrics, Outcome},
    snapshot::{Destination, Hedge, Route},
    upstream::Carried,
};

/// What is sent, again and again.
pub struct Hedged<'a> {
    pub route: &'a Route,
    pub hedge: &'a Hedge,
    pub destination: &'a Arc<Destination>,
    pub request: &'a RequestHeader,
    pub body: Bytes,
    pub carried: Carried,
    /// Of the time the request has; `None` without a limit.
    pub left: Option<Duration>,
    /// It is the client that waits no longer, and not the gateway.
    pub clients_deadline: bool,
}

/// Copies are given up this long before the request's time is over, so that they are heard to have been too slow.
pub const HEARD: Duration = Duration::from_millis(2);

/// The winner: its answer, and its attempt, which lasts as long as the answer is read.
type Won = (Answer, Attempt);

/// Send copies until one is answered well. `edit` makes the n-th copy, from 1, what its endpoint is to see.
///
/// # Errors
///
/// No endpoint may be used, or none has answered.
pub async fn hedge(
    hedged: &Hedged<'_>,
    attempts: &mut Attempts,
    direct: &Direct,
    metrics: &Metrics,
    edit: impl FnMut(&mut RequestHeader, &mut Attempts) -> Result<(), Reason>,
) -> Result<Result<Won>, Refused> {
    let race_state =
        Mutex::new(Racing { attempts, edit, refused: None, started: Vec::new(), hedging: false, sent: 0 });
    let mut rules = ByRoute { hedged, state: &race_state };
    let began = Instant::now();
    hedged.hedge.rule.started(began);
    let start = |copy: usize| {
        let (attempt, call) = lock(&race_state).start(copy, hedged, metrics)?;
        let left = hedged.left.map(|left| left.saturating_sub(began.elapsed()));
        let per_try = hedged.route.retry.per_try_timeout;
        Some(ask(direct, call, attempt, per_try, left, hedged.clients_deadline))
    };
    let finish = race(start, &mut rules).await;
    let mut state = race_state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Some(finish) = finish else {
        return Err(state.refused.take().unwrap_or(Reason::UpstreamUnhealthy.into()));
    };
    let now = Instant::now();
    // Losers too, for as long as they ran: without them the quantile would sink, and hedges would breed hedges.
    for started in &state.started {
        hedged.hedge.rule.completed(now - *started);
    }
    if state.sent > 0 {
        state.attempts.hedged = true;
        let won = if finish.copy > 0 && finish.result.is_ok() { "won" } else { "lost" };
        hedged.route.metrics.hedge(won);
    }
    Ok(finish.result.map_err(|failed| failed.error))
}

/// One task works on a request, so nobody waits here; but the task may move between threads.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the copies of one request share.
struct Racing<'a, E> {
    attempts: &'a mut Attempts,
    edit: E,
    refused: Option<Refused>,
    started: Vec<Instant>,
    /// The next copy is sent because the first is slow, and not because one failed.
    hedging: bool,
    /// Copies sent because the first was slow.
    sent: u32,
}

impl<E: FnMut(&mut RequestHeader, &mut Attempts) -> Result<(), Reason>> Racing<'_, E> {
    /// `None` where there is nowhere else to send it.
    fn start(&mut self, copy: usize, hedged: &Hedged<'_>, metrics: &Metrics) -> Option<(Attempt, Call)> {
        let now = Instant::now();
        let Hedged { destination, request, carried, left, .. } = hedged;
        let origin = Origin { carried: *carried, original_destination: self.attempts.original_destination };
        let begun = begin(destination, self.attempts.tried(), request, origin, *left, metrics, now);
        let (attempt, peer) = begun.map_err(|refused| self.refused = Some(refused)).ok()?;
        // With none left, balancing would offer one that works on this request already.
        if copy > 0 && self.attempts.tried().contains(&attempt.endpoint().id()) {
            return None;
        }
        self.attempts.join(&attempt);
        let mut header = (*request).clone();
        if let Err(reason) = (self.edit)(&mut header, self.attempts) {
            self.refused = Some(reason.into());
            return None;
        }
        self.started.push(now);
        self.sent += u32::from(std::mem::take(&mut self.hedging));
        let (handshake, idle_limit) = (attempt.handshake().cloned(), attempt.idle_limit());
        Some((attempt, Call { peer, header, body: hedged.body.clone(), handshake, idle_limit }))
    }
}

struct Failed {
    error: Box<Error>,
    trouble: Option<Trouble>,
}

async fn ask(
    direct: &Direct,
    call: Call,
    mut attempt: Attempt,
    per_try: Option<Duration>,
    left: Option<Duration>,
    clients_deadline: bool,
) -> Result<Won, Failed> {
    let asked = direct.ask(call);
    let left = left.map(|left| left.saturating_sub(HEARD));
    let limit = per_try.into_iter().chain(left).min();
    // Who waits no longer says nothing about the endpoint.
    let blames = !clients_deadline || per_try.is_some_and(|per_try| left.is_none_or(|left| per_try < left));
    let answered = match limit {
        Some(limit) => tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| {
            let mut late = Error::new(ErrorType::ReadTimedout);
            late.as_up();
            Err(late)
        }),
        None => asked.await,
    };
    let now = Instant::now();
    match answered {
        Ok(answer) => {
            if !is_told_by_trailers(&answer.header) {
                attempt.report(outcome(answer.header.status, grpc_status(&answer.header)), now);
            }
            Ok((answer, attempt))
        }
        Err(error) => {
            let error = attempt.explain(error, now);
            let outcome = failure(&error);
            if let Some(outcome) = outcome.filter(|outcome| blames || *outcome != Outcome::Timeout) {
                attempt.report(outcome, now);
            }
            let trouble = match outcome {
                Some(Outcome::ConnectFailed) => Some(Trouble::Connect),
                Some(Outcome::Timeout) => Some(Trouble::Timeout),
                Some(Outcome::Reset) => Some(Trouble::Reset),
                _ => None,
            };
            Err(Failed { error, trouble })
        }
    }
}

struct ByRoute<'a, 's, E> {
    hedged: &'a Hedged<'a>,
    state: &'a Mutex<Racing<'s, E>>,
}

impl<E> ByRoute<'_, '_, E> {
    /// Whether the route's retries pay for another try.
    fn again(&mut self, trouble: Trouble) -> bool {
        let mut state = lock(self.state);
        // Another endpoint, or none: what one has failed, the client is told.
        if !state.attempts.has_untried() {
            return false;
        }
        let method: &Method = &self.hedged.request.method;
        let request = Request { method, replayable: true, left: self.hedged.left };
        let again = state.attempts.again(trouble, self.hedged.route, &request, Instant::now());
        // Others may be under way, and another endpoint is asked: there is nothing to wait for.
        state.attempts.pause = Duration::ZERO;
        again
    }
}

impl<E> Rules<Won, Failed> for ByRoute<'_, '_, E> {
    fn delay(&mut self, _started: usize) -> Option<Duration> {
        self.hedged.hedge.rule.delay(Instant::now())
    }

    fn may_hedge(&mut self) -> bool {
        let mut state = lock(self.state);
        // Asked first: what is paid for is sent.
        if !state.attempts.has_untried() {
            return false;
        }
        state.hedging = self.hedged.hedge.rule.may_hedge(state.sent, Instant::now());
        if !state.hedging && state.sent == 0 {
            self.hedged.route.metrics.hedge("not_paid");
        }
        state.hedging
    }

    fn may_replace(&mut self, failed: &Failed) -> bool {
        failed.trouble.is_some_and(|trouble| self.again(trouble))
    }

    fn may_improve(&mut self, (answer, _): &Won) -> bool {
        let status = answer.header.status.as_u16();
        self.again(Trouble::Answer { status, grpc: grpc_status(&answer.header) })
    }

    fn is_good(&self, (answer, _): &Won) -> bool {
        outcome(answer.header.status, grpc_status(&answer.header)) == Outcome::Success
    }
}
