//! The tries of one request: where each goes, what it counts while it lasts, and what is said of it when it ends.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderValue;
use pingora_core::{Error, ErrorType, RetryType, protocols::http::v2::client::PING_TIMEDOUT};

use super::{
    Broken, BrokenBy, Ended, Exchange, Origin, Spoken,
    affinity::{Session, is_bound},
    pick::Issued,
    spans::{self, AttemptKind, Place, Tried},
};
use crate::{
    error::Reason,
    grpc,
    observe::metrics::EndpointMetrics,
    policy::{
        failure::{Failure, Kind, Outcome, Stage, is_shortage},
        recent_failures::FAILED,
    },
    snapshot::Destination,
    trace::{Current, Records, SpanId},
    upstream::{Admitted, ClientAddresses, Endpoint, Handshake, IdleLimit, InFlight, Trouble},
};

#[derive(Default)]
pub(crate) struct Attempts {
    count: u32,
    /// Of them, so many were followed by another because their connection was stale, which costs none.
    pub(super) free: u32,
    /// Endpoints that failed, by id.
    tried: Vec<u64>,
    first_started: Option<Instant>,
    current: Option<Attempt>,
    /// The endpoint of the last try, for the access log.
    endpoint: Option<Arc<Endpoint>>,
    /// Where the client meant to go before its connection was redirected here.
    pub original_destination: Option<SocketAddr>,
    /// The same for all tries.
    pub destination: Option<Arc<Destination>>,
    /// Keeps the client at its variant; sent with the response.
    pub cookie: Option<HeaderValue>,
    /// Keeps the client at its endpoint; sent with the response as well.
    pub issued: Option<Issued>,
    /// Where its client belongs.
    pub(super) session: Option<Box<Session>>,
    /// What the log says of a session that went to another endpoint than before.
    pub moved: Option<String>,
    /// How long it waited for that place.
    queued: Option<Duration>,
    /// The place at the upstream, held until the request ends; one of a limit that is learnt, until it is answered.
    pub admitted: Option<Admitted>,
    /// To be waited before the next try.
    pub pause: Duration,
    /// A copy was sent to a second endpoint.
    pub hedged: bool,
    /// Copies of it race, all at one upstream.
    pub races: bool,
    /// The last answer showed an upstream that failed.
    failed: bool,
    /// Another try has been decided on, before the present one has failed.
    pub moves_on: bool,
    answered_at: Option<Instant>,
    /// Where in a trace the request is.
    trace: Option<Current>,
    /// Of the last try that had one.
    span: Option<SpanId>,
    /// Where tries are noted, if they are.
    noted: Option<spans::Ended>,
}

pub(crate) struct Attempt {
    started: Instant,
    destination: Arc<Destination>,
    metrics: Arc<EndpointMetrics>,
    reported: bool,
    /// What learns the upstream's limit knows how long it took.
    is_timed: bool,
    /// Since then the endpoint can answer.
    asked_at: Option<Instant>,
    /// The head of its answer is there.
    answered_at: Option<Instant>,
    /// What that says. It is a success only when the body is whole.
    outcome: Option<Outcome>,
    /// When to look next whether it is worth waiting.
    look_at: Option<Instant>,
    in_flight: InFlight,
    /// Where TLS is spoken.
    handshake: Option<Arc<Handshake>>,
    traced: Option<Box<Traced>>,
}

/// A try whose span is recorded when it ends.
struct Traced {
    tried: Tried,
    goes_to: spans::Ended,
}

impl Attempt {
    pub(crate) fn new(
        destination: Arc<Destination>,
        in_flight: InFlight,
        metrics: Arc<EndpointMetrics>,
        handshake: Option<Arc<Handshake>>,
        now: Instant,
    ) -> Attempt {
        metrics.attempt_started();
        let look_at = destination.upstream.patience().and_then(|patience| now.checked_add(patience));
        Attempt {
            started: now,
            destination,
            metrics,
            reported: false,
            is_timed: false,
            asked_at: None,
            answered_at: None,
            outcome: None,
            look_at,
            in_flight,
            handshake,
            traced: None,
        }
    }

    /// Its end is to be noted there.
    pub(crate) fn note(
        &mut self,
        span: SpanId,
        cause: AttemptKind,
        before: u32,
        waited: Duration,
        goes_to: spans::Ended,
    ) {
        let tried = Tried {
            span,
            cause,
            before,
            started: self.started,
            ended: self.started,
            waited,
            status: None,
            grpc: None,
            failure: None,
            reused: None,
            is_http2: false,
            place: Place::of(&self.destination, self.endpoint()),
        };
        self.traced = Some(Box::new(Traced { tried, goes_to }));
    }

    /// It has a connection.
    pub(crate) fn connected(&mut self, exchange: &Exchange) {
        self.destination.upstream_metrics.connected(exchange.is_reused());
        if self.endpoint().is_on_probation() && !exchange.is_reused() && self.is_trusted(exchange) {
            self.endpoint().reached();
        }
        if let Some(traced) = &mut self.traced {
            traced.tried.reused = Some(exchange.is_reused());
            traced.tried.is_http2 = exchange.spoken() != Spoken::Http1;
        }
    }

    /// The head of its answer is there, or a call has told its status.
    pub(crate) fn heard(&mut self, status: u16, grpc: Option<u8>) {
        if let Some(traced) = &mut self.traced {
            traced.tried.status = Some(status);
            traced.tried.grpc = grpc.or(traced.tried.grpc);
        }
    }

    /// Nothing that follows belongs to its span.
    fn end_span(&mut self) {
        if let Some(traced) = self.traced.take() {
            let Traced { mut tried, goes_to } = *traced;
            tried.ended = Instant::now();
            goes_to.push(tried);
        }
    }

    pub(crate) fn heard_call(&mut self, code: u8) {
        if let Some(traced) = &mut self.traced {
            traced.tried.grpc = Some(code);
        }
    }

    pub(crate) fn broke(&mut self, ended: &Ended) {
        if let (Some(traced), Ended::Failed(failure)) = (&mut self.traced, ended) {
            traced.tried.failure = Some(*failure);
        }
    }

    /// What its upstream lets rest of its connections.
    pub(crate) fn idle_limit(&self) -> IdleLimit {
        self.destination.upstream.idle_limit(self.endpoint())
    }

    pub(crate) fn handshake(&self) -> Option<&Arc<Handshake>> {
        self.handshake.as_ref()
    }

    /// What it means that the exchange broke: the one place where an error of the engine becomes a failure. Where TLS is to
    /// blame, the operator is told.
    pub(crate) fn ended(&self, broken: Broken, now: Instant) -> Ended {
        let Broken { stage, reused, cause } = broken;
        let upstream = &self.destination.upstream;
        let (kind, grpc, trouble) = match cause {
            BrokenBy::Distrust(distrust) => (distrust.kind(), None, Some(Trouble::Distrusted(distrust))),
            BrokenBy::Error(error) => {
                log::debug!("a try at {} failed: {error}", self.endpoint().name);
                if let Some(reason) = Reason::told_by(&error) {
                    return reason.into();
                }
                let kind = kind(stage, &error, reused);
                if kind == Kind::Shortage {
                    upstream.is_short(&error.root_cause().to_string());
                }
                let trouble = self.handshake.as_ref().and_then(|handshake| Trouble::of(&error, handshake));
                (kind, grpc_status(&error), trouble)
            }
        };
        let mut failure = Failure { stage, kind, grpc };
        if let (Some(handshake), Some(trouble)) = (&self.handshake, trouble) {
            upstream.tls_failed(self.endpoint(), handshake, &trouble, now);
            // A kept connection was trusted already.
            failure.kind = trouble.kind().filter(|_| kind != Kind::Stale).unwrap_or(kind);
        }
        failure.into()
    }

    /// Whether the connection that was found for it may be used.
    ///
    /// # Errors
    ///
    /// It does not reach whom it should.
    pub(crate) fn check(&self, exchange: &Exchange, now: Instant) -> Result<(), Ended> {
        let Some(handshake) = &self.handshake else { return Ok(()) };
        let checked = handshake.check(exchange.digest().as_ref());
        checked.map_err(|distrust| self.ended(Broken::distrusted(distrust), now))
    }

    fn is_trusted(&self, exchange: &Exchange) -> bool {
        let of = |handshake: &Arc<Handshake>| handshake.check(exchange.digest().as_ref()).is_ok();
        self.handshake.as_ref().is_none_or(of)
    }

    /// Since it began.
    pub(crate) fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        self.in_flight.endpoint()
    }

    /// All of the request is there, so that the endpoint can answer as soon as there is a connection.
    pub(crate) fn can_be_answered(&mut self, now: Instant) {
        self.asked_at = Some(now);
        self.in_flight.is_asked(now);
    }

    /// The head of the answer is there, and says so. A body that breaks may follow.
    pub(crate) fn begins(&mut self, outcome: Outcome, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        self.outcome = Some(outcome);
        self.answered_at = Some(now);
        let upstream = &self.destination.upstream;
        if let Some(asked) = self.asked_at {
            upstream.observe(now.saturating_duration_since(asked), now);
        }
        match outcome {
            Outcome::Success => upstream.lives(&mut self.in_flight, now),
            _ => self.report(outcome, now),
        }
        self.is_timed(outcome == Outcome::Success, now);
    }

    /// The head of a good answer is there, or there is nothing to wait for any more.
    fn is_timed(&mut self, is_good: bool, now: Instant) {
        if std::mem::replace(&mut self.is_timed, true) {
            return;
        }
        // What a client takes to send its request says nothing about the upstream.
        if let Some(asked) = self.asked_at {
            let room = self.destination.upstream.room();
            room.answered(now.saturating_duration_since(asked), is_good, now);
        }
    }

    /// The answer is whole.
    pub(crate) fn is_whole(&mut self, now: Instant) {
        if let Some(outcome) = self.outcome {
            self.report(outcome, now);
        }
    }

    /// Whether it is to be asked now if the endpoint is worth waiting for, and from when on next.
    fn looks(&mut self, now: Instant) -> bool {
        let is_due = self.look_at.is_some_and(|at| at <= now);
        if is_due {
            self.look_at =
                self.destination.upstream.patience().and_then(|patience| now.checked_add(patience));
        }
        is_due
    }

    /// It ended so, as far as the endpoint is concerned; the first report counts.
    pub(crate) fn report(&mut self, outcome: Outcome, now: Instant) {
        if self.reported {
            return;
        }
        self.reported = true;
        self.is_timed(outcome == Outcome::Success, now);
        self.in_flight.no_longer_owed();
        self.metrics.attempt_ended(outcome);
        let took = self.answered_at.unwrap_or(now).saturating_duration_since(self.started);
        // A quick failure must not look like a fast endpoint.
        let counts = if outcome == Outcome::Success { took } else { took.max(FAILED) };
        self.endpoint().observe(counts, now);
        self.destination.upstream.report(&mut self.in_flight, outcome, now);
    }
}

impl Drop for Attempt {
    /// The client left, or the gateway gave up: maybe before the endpoint had its say, maybe while it was saying it.
    fn drop(&mut self) {
        let now = Instant::now();
        self.is_whole(now);
        self.is_timed(false, now);
        if !self.reported {
            self.metrics.attempt_abandoned();
        }
        self.end_span();
    }
}

impl Attempts {
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Where the request is from, whichever try it is.
    pub(super) fn origin(&self, addresses: &ClientAddresses) -> Origin {
        Origin {
            addresses: *addresses,
            original_destination: self.original_destination,
            issued: self.issued.as_ref().map(Issued::value),
            home: self.home(),
        }
    }

    /// The endpoint that its session belongs to.
    fn home(&self) -> Option<u64> {
        self.session.as_ref().zip(self.destination.as_ref()).and_then(|(session, to)| session.home(to))
    }

    /// Whether another try could be at an endpoint that is none of those `tried`, nor the present one (by their ids): at the same upstream
    /// if its session may move, or at the one that stands in if nobody is left here.
    pub(super) fn has_others(&self, tried: &[u64], present: Option<u64>, now: Instant) -> bool {
        let Some(destination) = &self.destination else { return false };
        !self.is_bound() && destination.upstream.has_others(tried, present, now)
            || !self.races && destination.leaves_to_others(tried, present, now)
    }

    /// Whether its session may not move.
    pub(super) fn is_bound(&self) -> bool {
        self.destination.as_ref().is_some_and(|destination| is_bound(destination, self.home()))
    }

    /// The present try's endpoint.
    pub(super) fn present(&self) -> Option<u64> {
        self.current.as_ref().map(|attempt| attempt.endpoint().id())
    }

    /// It has its place at the upstream, after so long.
    pub(crate) fn admit(&mut self, admitted: Admitted, waited: Duration) {
        self.queued = Some(waited);
        self.admitted = Some(admitted);
    }

    /// No more of it is work that the upstream can have too much of: what is left is for the client to read.
    pub(crate) fn give_back_place(&mut self) {
        if let Some(admitted) = &mut self.admitted {
            admitted.is_answered();
        }
    }

    /// How long it waited for its place at the upstream.
    pub(crate) fn queued(&self) -> Option<Duration> {
        self.queued
    }

    pub(crate) fn tried(&self) -> &[u64] {
        &self.tried
    }

    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.answering().map(|endpoint| &*endpoint.name)
    }

    /// The endpoint of the last try.
    pub(super) fn answering(&self) -> Option<&Arc<Endpoint>> {
        self.endpoint.as_ref()
    }

    /// Since the first try began.
    pub(crate) fn elapsed(&self, now: Instant) -> Option<Duration> {
        self.first_started.map(|started| now.saturating_duration_since(started))
    }

    /// When the head of the last answer was there, or a try failed first.
    pub(crate) fn answered_at(&self) -> Option<Instant> {
        self.answered_at
    }

    /// Whether the upstream failed this request, as far as it was sent there: what a canary goes by.
    pub(crate) fn failed_upstream(&self) -> bool {
        self.failed
    }

    /// The tries that follow are part of this trace.
    pub(crate) fn trace(&mut self, trace: Option<Current>) {
        self.trace = trace;
        self.noted = trace.filter(|trace| trace.records != Records::No).map(|_| spans::Ended::default());
    }

    /// The span that went out last.
    pub(crate) fn span(&self) -> Option<SpanId> {
        self.span
    }

    /// A span of its own for what is sent now.
    pub(crate) fn begin_span(&mut self) -> Option<SpanId> {
        self.span = self.trace.map(|_| SpanId::from_random(fastrand::u64(..)));
        self.span
    }

    /// The present try's span has ended, though the try goes on.
    pub(crate) fn end_span(&mut self) {
        if let Some(attempt) = &mut self.current {
            attempt.end_span();
        }
    }

    /// What was sent as a span of its own was none of the tries.
    pub(crate) fn forget_span(&mut self) {
        self.span = None;
    }

    /// The tries that have ended.
    pub(crate) fn ended(&self) -> Vec<Tried> {
        self.noted.as_ref().map(spans::Ended::take).unwrap_or_default()
    }

    /// The present try has a connection.
    pub(crate) fn connected(&mut self, exchange: &Exchange) {
        if let Some(attempt) = &mut self.current {
            attempt.connected(exchange);
        }
    }

    /// The head of the present try's answer is there.
    pub(crate) fn heard(&mut self, status: u16, grpc: Option<u8>) {
        if let Some(attempt) = &mut self.current {
            attempt.heard(status, grpc);
        }
    }

    pub(crate) fn heard_call(&mut self, code: u8) {
        if let Some(attempt) = &mut self.current {
            attempt.heard_call(code);
        }
    }

    pub(crate) fn broke(&mut self, ended: &Ended) {
        if let Some(attempt) = &mut self.current {
            attempt.broke(ended);
        }
    }

    pub(crate) fn start(&mut self, mut attempt: Attempt, waited: Duration) {
        let cause = if self.count == 0 { AttemptKind::First } else { AttemptKind::Retry };
        self.note(&mut attempt, cause, waited);
        self.current = Some(attempt);
    }

    fn note(&mut self, attempt: &mut Attempt, cause: AttemptKind, waited: Duration) {
        if let (Some(span), Some(noted)) = (self.begin_span(), &self.noted) {
            attempt.note(span, cause, self.count, waited, noted.clone());
        }
        self.count += 1;
        self.first_started.get_or_insert(attempt.started);
        self.failed = false;
        self.endpoint = Some(attempt.endpoint().clone());
    }

    /// The present try cannot be written as its endpoint is to see it. Nothing was done for it yet, so it was none.
    pub(crate) fn withdraw(&mut self) {
        if let Some(attempt) = self.current.take() {
            self.forget(attempt);
        }
    }

    /// The same of a copy that has joined others.
    pub(crate) fn withdraw_copy(&mut self, attempt: Attempt) {
        self.tried.pop();
        self.forget(attempt);
    }

    fn forget(&mut self, mut attempt: Attempt) {
        attempt.traced = None;
        self.forget_span();
        self.count -= 1;
        if self.count == 0 {
            self.first_started = None;
            self.endpoint = None;
        }
    }

    /// Whether the endpoint had most of the time since its try began to itself: a client that takes all of it to send its
    /// request, which ended at `sent`, is not the endpoint's fault.
    pub(crate) fn had_time(&self, sent: Option<Instant>, now: Instant) -> bool {
        let Some(attempt) = &self.current else { return true };
        let asked = sent.map_or(attempt.started, |sent| sent.max(attempt.started));
        2 * now.saturating_duration_since(asked) >= now.saturating_duration_since(attempt.started)
    }

    /// Whether the present try had the time that a connection takes.
    pub(crate) fn tried_to_connect(&self, now: Instant) -> bool {
        const ENOUGH: Duration = Duration::from_millis(100);
        let Some(attempt) = &self.current else { return false };
        let timeout: Duration = attempt.destination.upstream.settings().connect_timeout.into();
        attempt.elapsed(now) >= timeout.min(ENOUGH)
    }

    /// From the first try, or the end of the request if that was later (`sent`), to the header of the answer, or `now`.
    pub(crate) fn upstream_time(&self, sent: Option<Instant>, now: Instant) -> Option<Duration> {
        let first = self.first_started?;
        let until = self.answered_at.unwrap_or(now);
        Some(until.saturating_duration_since(
            sent.filter(|sent| *sent < until).map_or(first, |sent| sent.max(first)),
        ))
    }

    /// A copy of the request begins beside those under way: because these are slow, or in place of one that failed.
    pub(crate) fn join(&mut self, attempt: &mut Attempt, hedges: bool) {
        let cause = match (self.count, hedges) {
            (0, _) => AttemptKind::First,
            (_, true) => AttemptKind::Hedge,
            (_, false) => AttemptKind::Retry,
        };
        self.note(attempt, cause, Duration::ZERO);
        self.tried.push(attempt.endpoint().id());
    }

    /// The try that goes on: the one whose answer the client gets.
    pub(crate) fn resume(&mut self, attempt: Attempt) {
        self.endpoint = Some(attempt.endpoint().clone());
        self.current = Some(attempt);
    }

    /// All copies have ended, and none was answered.
    pub(crate) fn lost(&mut self) {
        self.failed = true;
    }

    /// What the present try's upstream lets rest of its connections.
    pub(crate) fn idle_limit(&self) -> IdleLimit {
        self.current.as_ref().map(Attempt::idle_limit).unwrap_or_default()
    }

    /// The try that is under way.
    pub(crate) fn current(&self) -> Option<&Attempt> {
        self.current.as_ref()
    }

    /// The endpoint's response header is there. It is a success when the body is whole.
    pub(crate) fn answered(&mut self, outcome: Outcome, now: Instant) {
        self.failed = outcome != Outcome::Success;
        self.answered_at = Some(now);
        if let Some(attempt) = &mut self.current {
            attempt.begins(outcome, now);
        }
    }

    /// The body is whole as well.
    pub(crate) fn is_whole(&mut self, now: Instant) {
        if let Some(attempt) = &mut self.current {
            attempt.is_whole(now);
        }
    }

    /// All of the request is there, so that the endpoint can answer as soon as there is a connection.
    pub(crate) fn can_be_answered(&mut self, now: Instant) {
        if let Some(attempt) = &mut self.current {
            attempt.can_be_answered(now);
        }
    }

    /// The last of a body has been sent, so that the endpoint can answer.
    pub(crate) fn has_been_sent(&mut self) {
        if let Some(attempt) = &mut self.current
            && attempt.asked_at.is_none()
        {
            // What it takes from here on is no whole time, of which the upstream's limit could learn.
            attempt.is_timed = true;
            attempt.can_be_answered(Instant::now());
        }
    }

    /// When to look whether the present endpoint is worth waiting for.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.current.as_ref()?.look_at
    }

    /// Whether the present endpoint is not worth waiting for, as another one would answer. Asked now and then.
    pub(crate) fn had_better_leave(&mut self, now: Instant) -> bool {
        self.current.as_mut().is_some_and(|attempt| {
            attempt.looks(now) && attempt.destination.upstream.is_hopeless(attempt.endpoint(), now)
        })
    }

    /// The endpoint's response header is there, but not yet what came of it: that is `concluded`.
    pub(crate) fn begins_to_answer(&mut self, now: Instant) {
        self.failed = false;
        self.answered_at = Some(now);
        if let Some(attempt) = &mut self.current {
            attempt.answered_at = Some(now);
            attempt.destination.upstream.lives(&mut attempt.in_flight, now);
            attempt.is_timed(true, now);
        }
    }

    /// Whether an answer that has begun is still to be judged.
    pub(crate) fn is_undecided(&self) -> bool {
        self.current.as_ref().is_some_and(|attempt| {
            attempt.answered_at.is_some() && attempt.outcome.is_none() && !attempt.reported
        })
    }

    /// The answer that had begun is whole, and came out so.
    pub(crate) fn concluded(&mut self, outcome: Outcome, now: Instant) {
        self.failed = outcome != Outcome::Success;
        if let Some(attempt) = &mut self.current {
            attempt.report(outcome, now);
        }
    }

    /// The endpoint's response header is there, and another endpoint is asked for a better one.
    pub(crate) fn leave(&mut self) {
        self.tried.extend(self.current.take().map(|attempt| attempt.endpoint().id()));
    }

    /// The try failed.
    pub(crate) fn failed(&mut self, failure: Failure, now: Instant) {
        // Given up already, so it is not the endpoint that failed.
        if self.current.is_none() {
            return;
        }
        // The client has not got its answer, whoever is to blame.
        self.failed |= failure.stage == Stage::Body;
        let Some(outcome) = failure.meaning().outcome else {
            return match failure.kind {
                Kind::Shortage => self.leave(),
                _ => self.finish(),
            };
        };
        self.failed = true;
        self.answered_at.get_or_insert(now);
        if let (Kind::Silent, Some(attempt)) = (failure.kind, &self.current) {
            attempt.endpoint().forget_connections();
        }
        if let Some(attempt) = &mut self.current {
            attempt.report(outcome, now);
        }
        self.leave();
    }

    pub(crate) fn finish(&mut self) {
        self.current = None;
    }
}

fn kind(stage: Stage, error: &Error, reused: bool) -> Kind {
    if stage == Stage::Connect && error.root_cause().downcast_ref().is_some_and(is_shortage) {
        return Kind::Shortage;
    }
    match (error.retry, error.etype()) {
        (RetryType::Decided(true), _) if stage != Stage::Connect => Kind::Unprocessed,
        (RetryType::ReusedOnly, _) if reused && stage != Stage::Connect => Kind::Stale,
        (
            _,
            ErrorType::ConnectTimedout
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout,
        ) => Kind::TimedOut,
        // Its connection is dead.
        (_, etype) if *etype == PING_TIMEDOUT => Kind::Silent,
        (_, ErrorType::InvalidCert) => Kind::Distrusted,
        _ if stage == Stage::Connect => Kind::Unreachable,
        (_, ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError) => Kind::Broken,
        (_, ErrorType::H2Error) if error.cause.is_some() => Kind::Broken,
        _ => Kind::Malformed,
    }
}

/// What a client of gRPC would have made of it, where the upstream has reset the stream.
fn grpc_status(error: &Error) -> Option<u8> {
    let cause = error.root_cause().downcast_ref::<h2::Error>()?;
    let reason = cause.reason().filter(|_| cause.is_reset() && cause.is_remote())?;
    Some(grpc::of_reset(reason.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_what_it_is_at_its_stage() {
        let error = |etype, retry| {
            let mut error = Error::new(etype);
            error.as_up();
            error.retry = retry;
            error
        };
        let decided = RetryType::Decided;
        let closed = || error(ErrorType::ConnectionClosed, RetryType::ReusedOnly);
        let cases = [
            (Stage::Head, closed(), true, Kind::Stale),
            (Stage::Head, closed(), false, Kind::Broken),
            (Stage::Connect, closed(), true, Kind::Unreachable),
            (Stage::Send, error(ErrorType::H2Error, decided(true)), true, Kind::Unprocessed),
            (Stage::Head, error(ErrorType::ReadTimedout, decided(false)), true, Kind::TimedOut),
            (Stage::Connect, error(ErrorType::ConnectTimedout, decided(false)), false, Kind::TimedOut),
            (Stage::Connect, error(ErrorType::InvalidCert, decided(false)), false, Kind::Distrusted),
            (Stage::Head, error(ErrorType::InvalidHTTPHeader, decided(false)), true, Kind::Malformed),
        ];
        for (stage, error, reused, expected) in cases {
            assert_eq!(kind(stage, &error, reused), expected, "{stage:?} {error}");
        }
    }
}
