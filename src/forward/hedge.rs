//! Hedged requests: the same request at more than one endpoint, the first good answer wins. The rules are the route's, the
//! race is `race`, and each copy is an attempt like any other.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::error::Elapsed;

use super::{
    Answer, Attempt, Attempts, Call, Client, Ended, Heard, Refused, Request, Rules, Why, begin, grpc_status,
    is_told_by_trailers, name_host, outcome, race,
};
use crate::{
    error::Reason,
    observe::metrics::Metrics,
    policy::failure::{Cause, Failure, Kind, Outcome, Stage},
    snapshot::{Destination, Hedge, Route},
    upstream::ClientAddresses,
};

/// What is sent, again and again.
pub(crate) struct Hedged<'a> {
    pub route: &'a Route,
    pub hedge: &'a Hedge,
    pub destination: &'a Arc<Destination>,
    pub request: &'a RequestHeader,
    pub body: Bytes,
    pub spelling: Option<Bytes>,
    pub addresses: ClientAddresses,
    /// How many the client has under way.
    pub requests: u32,
    /// Of the time the request has; `None` without a limit.
    pub left: Option<Duration>,
    /// It is the client that waits no longer, and not the gateway.
    pub clients_deadline: bool,
    /// Where interim answers go, of whichever copy.
    pub interim: &'a Mutex<Vec<ResponseHeader>>,
}

/// Copies are given up this long before the request's time is over, so that they are heard to have been too slow.
const HEARD: Duration = Duration::from_millis(2);

/// The winner: its answer, and its attempt, which lasts as long as the answer is read.
type Won = (Answer, Attempt);

/// Send copies until one is answered well. `edit` makes the n-th copy, from 1, what its endpoint is to see.
///
/// # Errors
///
/// No endpoint may be used, or none has answered.
pub(crate) async fn hedge(
    hedged: &Hedged<'_>,
    attempts: &mut Attempts,
    client: &Client,
    metrics: &Metrics,
    edit: impl FnMut(&mut RequestHeader, &mut Attempts) -> Result<(), Reason>,
) -> Result<Won, Ended> {
    let race_state = Mutex::new(Racing {
        attempts,
        edit,
        refused: None,
        started: Vec::new(),
        hedging: false,
        sent: 0,
        running: 0,
        may_repeat: false,
    });
    let mut rules = ByRoute { hedged, state: &race_state };
    let began = Instant::now();
    hedged.hedge.rule.started(began);
    let start = |copy: usize| {
        let (attempt, call, may_hold) = lock(&race_state).start(copy, hedged, metrics)?;
        Some(ask(client, call, attempt, hedged, began, may_hold))
    };
    let finish = race(start, &mut rules).await;
    let mut state = race_state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Some(finish) = finish else {
        return Err(state.refused.take().unwrap_or(Reason::UpstreamUnhealthy.into()).into());
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
    finish.result
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
    /// Copies that have not ended yet.
    running: u32,
    /// The next copy may go where one has failed: there is nowhere else, and nothing else is under way.
    may_repeat: bool,
}

impl<E: FnMut(&mut RequestHeader, &mut Attempts) -> Result<(), Reason>> Racing<'_, E> {
    /// The copy, and whether a small answer to it is held back until it is whole, as another one is or could be asked. `None` where there
    /// is nowhere else to send it.
    fn start(
        &mut self,
        copy: usize,
        hedged: &Hedged<'_>,
        metrics: &Metrics,
    ) -> Option<(Attempt, Call, bool)> {
        let now = Instant::now();
        let Hedged { destination, request, addresses, left, .. } = hedged;
        let origin = self.attempts.origin(addresses);
        let begun = begin(destination, self.attempts.tried(), request, origin, *left, metrics, now);
        let (mut attempt, peer) = begun.map_err(|refused| self.refused = Some(refused)).ok()?;
        // With none left, balancing would offer one that works on this request already.
        let may_repeat = std::mem::take(&mut self.may_repeat);
        if copy > 0 && !may_repeat && self.attempts.tried().contains(&attempt.endpoint().id()) {
            return None;
        }
        self.attempts.join(&mut attempt, self.hedging);
        let mut header = (*request).clone();
        let edited = (self.edit)(&mut header, self.attempts);
        if let Err(reason) = edited.and_then(|()| name_host(&mut header, attempt.endpoint())) {
            self.attempts.withdraw_copy(attempt);
            self.refused = Some(reason.into());
            return None;
        }
        self.started.push(now);
        self.running += 1;
        self.sent += u32::from(std::mem::take(&mut self.hedging));
        let (handshake, idle_limit) = (attempt.handshake().cloned(), attempt.idle_limit());
        let body = hedged.body.clone();
        let spelling = hedged.spelling.clone();
        let may_hold = self.running > 1 || self.attempts.has_untried(now);
        // Else it would not be hedged.
        let is_repeatable = true;
        let requests = hedged.requests;
        let call = Call { peer, header, body, spelling, is_repeatable, handshake, idle_limit, requests };
        Some((attempt, call, may_hold))
    }
}

/// One copy, up to the head of its answer.
async fn ask(
    client: &Client,
    call: Call,
    mut attempt: Attempt,
    hedged: &Hedged<'_>,
    began: Instant,
    may_hold: bool,
) -> Result<Won, Ended> {
    let is_connected = AtomicBool::new(false);
    let mut hear = |heard: Heard<'_>| match heard {
        Heard::Connected => is_connected.store(true, Relaxed),
        Heard::Interim(header) => lock(hedged.interim).push(header.clone()),
        Heard::Stale => hedged.route.metrics.retry(Cause::Stale.label()),
    };
    let left = hedged.left.map(|left| left.saturating_sub(began.elapsed()).saturating_sub(HEARD));
    let per_try = hedged.route.retry.per_try_timeout;
    if call.body.is_empty() {
        attempt.can_be_answered(Instant::now());
    }
    let buffer = hedged.route.retry.response_buffer;
    let answered = within(per_try.into_iter().chain(left).min(), client.ask(&call, &mut hear)).await;
    let answered = match answered {
        // A small answer is good only when it is whole.
        Ok(Ok(mut answer))
            if may_hold
                && !is_told_by_trailers(&answer.header)
                && answer.length.is_some_and(|length| length <= buffer as u64) =>
        {
            // The time for a try was for the head.
            let left = hedged.left.map(|left| left.saturating_sub(began.elapsed()).saturating_sub(HEARD));
            let held = within(left, answer.rest.hold(buffer, true)).await;
            held.map(|held| match held {
                Ok(()) => Ok(answer),
                Err(broken) => Err(answer.rest.broken(Stage::Head, broken)),
            })
        }
        answered => answered,
    };
    let now = Instant::now();
    let ended = match answered {
        Ok(Ok(answer)) => {
            attempt.connected(&answer.rest);
            attempt.heard(answer.header.status.as_u16(), grpc_status(&answer.header));
            if !is_told_by_trailers(&answer.header) {
                attempt.begins(outcome(&answer.header), now);
            }
            return Ok((answer, attempt));
        }
        Ok(Err(broken)) => attempt.ended(broken, now),
        Err(_) => {
            let stage = if is_connected.load(Relaxed) { Stage::Head } else { Stage::Connect };
            // Copies are given up a moment before the request is.
            let is_overdue = left.is_some_and(|left| per_try.is_none_or(|per_try| left <= per_try));
            Failure::new(stage, if is_overdue { Kind::Overdue } else { Kind::TimedOut }).into()
        }
    };
    attempt.broke(&ended);
    // Who waits no longer says nothing about the endpoint.
    let blames =
        !hedged.clients_deadline || per_try.is_some_and(|per_try| left.is_none_or(|left| per_try < left));
    if let Ended::Failed(failure) = ended
        && let Some(outcome) = failure.meaning().outcome
        && (blames || !matches!(failure.kind, Kind::TimedOut | Kind::Overdue))
    {
        attempt.report(outcome, now);
    }
    Err(ended)
}

async fn within<T>(limit: Option<Duration>, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await,
        None => Ok(future.await),
    }
}

struct ByRoute<'a, 's, E> {
    hedged: &'a Hedged<'a>,
    state: &'a Mutex<Racing<'s, E>>,
}

impl<E> ByRoute<'_, '_, E> {
    /// Whether the route's retries pay for another try.
    fn again(&mut self, why: Why) -> bool {
        let mut state = lock(self.state);
        state.running -= 1;
        // Another endpoint; or the same once more, as for any request, where nothing else is under way.
        let repeats = !state.attempts.has_untried(Instant::now());
        if repeats && state.running > 0 {
            return false;
        }
        // Nobody waits here, while another copy may be under way.
        if state.attempts.asked_pause(why, Instant::now()).is_some_and(|pause| !pause.is_zero()) {
            return false;
        }
        let method: &Method = &self.hedged.request.method;
        let request = Request { method, replayable: true, left: self.hedged.left };
        let again = state.attempts.again(why, self.hedged.route, &request, Instant::now());
        // Others may be under way, and another endpoint is asked: there is nothing to wait for.
        state.attempts.pause = Duration::ZERO;
        state.may_repeat = again && repeats;
        again
    }
}

impl<E> Rules<Won, Ended> for ByRoute<'_, '_, E> {
    fn delay(&mut self, _started: usize) -> Option<Duration> {
        self.hedged.hedge.rule.delay(Instant::now())
    }

    fn may_hedge(&mut self) -> bool {
        let mut state = lock(self.state);
        // Asked first: what is paid for is sent.
        if !state.attempts.has_untried(Instant::now()) {
            return false;
        }
        state.hedging = self.hedged.hedge.rule.may_hedge(state.sent, Instant::now());
        if !state.hedging && state.sent == 0 {
            self.hedged.route.metrics.hedge("not_paid");
        }
        state.hedging
    }

    fn may_replace(&mut self, ended: &Ended) -> bool {
        match *ended {
            Ended::Failed(failure) => self.again(Why::Failed(failure)),
            Ended::Refused(_) | Ended::Replied => false,
        }
    }

    fn may_improve(&mut self, (answer, _): &Won) -> bool {
        self.again(Why::answered(&answer.header))
    }

    fn is_good(&self, (answer, _): &Won) -> bool {
        outcome(&answer.header) == Outcome::Success
    }
}
