//! Mirroring: a copy of a request to another upstream, whose answer nobody waits for. The original goes its way whatever
//! becomes of the copy.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use pingora_http::RequestHeader;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Attempt, Broken, Call, Client, Clock, CommonSpan, Ended, Heard, Origin, begin, grpc_status,
    is_told_by_trailers, name_host, outcome, record_try,
    spans::{self, AttemptKind},
};
use crate::{
    grpc,
    observe::{metrics::Metrics, otlp::Queue},
    policy::{
        failure::{Cause, Outcome, Stage},
        priorities::Priority,
    },
    snapshot::{Mirror, Route},
    trace::{Current, SpanId},
    upstream::ClientAddresses,
};

/// Larger bodies are not copied.
pub(crate) const LARGEST_BODY: usize = 64 * 1024;
/// A copy may take this long in all; it holds memory and a connection.
const LONGEST: Duration = Duration::from_secs(60);

/// A copy whose body is still being read.
pub(crate) struct Copy {
    route: Arc<Route>,
    mirror: Arc<Mirror>,
    header: RequestHeader,
    spelling: Option<Bytes>,
    body: BytesMut,
    addresses: ClientAddresses,
    /// Held until its answer is there.
    _room: OwnedSemaphorePermit,
    traced: Option<TracedCopy>,
    /// What became of it is counted, or will be when it has been sent.
    is_counted: bool,
}

/// What the span of a copy says that only its request knows.
pub(crate) struct TracedCopy {
    pub queue: Arc<Queue>,
    pub current: Current,
    pub span: SpanId,
    pub state: String,
    pub call: Option<String>,
    pub path: String,
    pub query: Option<String>,
}

impl Drop for Copy {
    /// Its request ended before the body did: an endpoint answered early or could not be reached, or the client left.
    fn drop(&mut self) {
        if !self.is_counted {
            self.route.metrics.mirrored("incomplete");
        }
    }
}

impl Copy {
    /// `None` for a request that is not in the share, and where too many copies are under way.
    pub(crate) fn begin(
        route: &Route,
        mirror: &Arc<Mirror>,
        draw: f64,
    ) -> Option<(Arc<Mirror>, OwnedSemaphorePermit)> {
        if draw >= mirror.ratio {
            return None;
        }
        match mirror.room.shared().clone().try_acquire_owned() {
            Ok(room) => Some((mirror.clone(), room)),
            Err(_) => {
                route.metrics.mirrored("overloaded");
                None
            }
        }
    }

    /// `header` is what the shadow upstream is to see.
    pub(crate) fn new(
        route: &Arc<Route>,
        (mirror, room): (Arc<Mirror>, OwnedSemaphorePermit),
        header: RequestHeader,
        spelling: Option<Bytes>,
        addresses: ClientAddresses,
        traced: Option<TracedCopy>,
    ) -> Copy {
        Copy {
            route: route.clone(),
            mirror,
            header,
            spelling,
            body: BytesMut::new(),
            addresses,
            _room: room,
            traced,
            is_counted: false,
        }
    }

    /// Take in a part of the body. `false` when it is too large to be copied.
    #[must_use]
    pub(crate) fn add(&mut self, part: &Bytes) -> bool {
        if self.body.len() + part.len() > LARGEST_BODY {
            self.is_counted = true;
            self.route.metrics.mirrored("too_large");
            return false;
        }
        self.body.extend_from_slice(part);
        true
    }

    /// The body is whole: send it.
    pub(crate) fn send(mut self, client: &Client, metrics: &Arc<Metrics>) {
        self.is_counted = true;
        let (client, metrics) = (client.clone(), metrics.clone());
        tokio::spawn(async move {
            let noted = spans::Ended::default();
            let sent = tokio::time::timeout(LONGEST, self.exchange(&client, &metrics, &noted)).await;
            self.record(&noted);
            self.route.metrics.mirrored(if sent == Ok(true) { "answered" } else { "failed" });
        });
    }

    fn record(&self, noted: &spans::Ended) {
        let Some(traced) = &self.traced else { return };
        let common = CommonSpan {
            current: traced.current,
            state: &traced.state,
            clock: Clock::new(),
            method: &self.header.method,
            known_method: spans::method_name(&self.header.method),
            call: traced.call.as_deref(),
            path: &traced.path,
            query: traced.query.as_deref(),
        };
        noted.take().iter().for_each(|tried| record_try(&traced.queue, &common, tried));
    }

    /// True when the shadow upstream answered, whatever it said.
    async fn exchange(&self, client: &Client, metrics: &Metrics, noted: &spans::Ended) -> bool {
        let destination = &self.mirror.destination;
        // A shadow that is busy is left alone.
        let Ok(mut place) = destination.upstream.room().enter(Some(Duration::ZERO), Priority::Low).await
        else {
            return false;
        };
        let now = Instant::now();
        // A shadow is never where the client meant to go.
        let origin =
            Origin { addresses: self.addresses, original_destination: None, issued: None, home: None };
        let begun = begin(destination, &[], &self.header, origin, Some(LONGEST), metrics, now);
        let Ok((mut attempt, peer)) = begun else { return false };
        if let Some(traced) = &self.traced {
            attempt.note(traced.span, AttemptKind::Mirror, 0, Duration::ZERO, noted.clone());
        }
        let mut header = self.header.clone();
        if name_host(&mut header, attempt.endpoint()).is_err() {
            return false;
        }
        let (handshake, idle_limit) = (attempt.handshake().cloned(), attempt.idle_limit());
        let body = self.body.clone().freeze();
        let is_repeatable = header.method.is_idempotent();
        let spelling = self.spelling.clone();
        let call = Call { peer, header, body, spelling, is_repeatable, handshake, idle_limit, requests: 1 };
        let stale = |heard: Heard<'_>| {
            if let Heard::Stale = heard {
                self.route.metrics.retry(Cause::Stale.label());
            }
        };
        let answer = client.ask(&call, &mut { stale }).await;
        let now = Instant::now();
        match answer {
            Ok(mut answer) => {
                place.is_answered();
                attempt.connected(&answer.rest);
                attempt.heard(answer.header.status.as_u16(), grpc_status(&answer.header));
                let by_trailers = is_told_by_trailers(&answer.header);
                if !by_trailers {
                    attempt.begins(outcome(&answer.header), now);
                }
                loop {
                    match answer.rest.body().await {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(error) => {
                            report(&mut attempt, answer.rest.broken(Stage::Body, error));
                            return false;
                        }
                    }
                }
                if by_trailers && let Ok(trailers) = answer.rest.trailers().await {
                    let status = trailers.as_ref().and_then(grpc::status_in).unwrap_or(grpc::UNKNOWN);
                    attempt.heard_call(status);
                    let outcome = Outcome::of_answer(answer.header.status.as_u16(), Some(status));
                    attempt.report(outcome, Instant::now());
                }
                answer.rest.finish();
                true
            }
            Err(broken) => {
                report(&mut attempt, broken);
                false
            }
        }
    }
}

fn report(attempt: &mut Attempt, broken: Broken) {
    let now = Instant::now();
    let ended = attempt.ended(broken, now);
    attempt.broke(&ended);
    if let Ended::Failed(failure) = ended
        && let Some(outcome) = failure.meaning().outcome
    {
        attempt.report(outcome, now);
    }
}
