//! Stage 5: what is said of a request when it has ended, to the metrics, the canary and the access log.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use pingora_http::RequestHeader;

use super::{context::Context, spans};
use crate::{
    accept::Session,
    config::{Admin, ClientAddressesShown, Config},
    error::Reason,
    filter::Exchange,
    grpc,
    observe::{
        Recorder,
        access::{End, Entry},
        metrics::{Exemplar, RequestEnd},
    },
    trace::{self, Records},
};

pub(crate) fn record(recorder: &Recorder, session: &mut Session, ctx: &mut Context) {
    let Some(listener) = ctx.listener.clone() else { return };
    let written = session.responded();
    let status = written.or(ctx.reason.map(|reason| reason.status().as_u16())).unwrap_or(0);
    let now = Instant::now();
    let duration = now.saturating_duration_since(ctx.started);
    let destination = ctx.attempts.destination.as_deref();
    let metrics = match (destination, &ctx.route) {
        (Some(destination), _) => &destination.metrics,
        (None, Some(route)) => &route.metrics,
        (None, None) => &listener.unrouted,
    };
    let exemplar = exemplar(ctx);
    metrics.record(&RequestEnd {
        listener: &listener.metrics,
        status,
        method: session.request().method.as_str(),
        duration,
        first_byte: written.map(|status| first_byte(ctx, status, now)),
        sizes: Some((session.body_bytes_read(), session.body_bytes_sent())),
        exemplar,
    });
    if let Some(reason) = ctx.reason {
        metrics.error(reason.code());
    }
    let code = ctx.facts.grpc.as_ref().and_then(|call| call.status);
    let grpc_status = code.map(|code| grpc::name(code).unwrap_or("other"));
    if let Some(status) = grpc_status {
        metrics.grpc(status);
    }
    let upstream_time = ctx.attempts.elapsed(now);
    if let (Some(upstream_time), Some(destination)) = (upstream_time, destination) {
        destination.upstream_metrics.record(upstream_time, exemplar);
    }
    if let Some(destination) = destination {
        match (ctx.reason, upstream_time) {
            // A client that left, or sent what it should not, says nothing about the side it was on; nor does our own end.
            (
                Some(
                    Reason::Draining
                    | Reason::ClientClosed
                    | Reason::ClientTimeout
                    | Reason::BadRequest
                    | Reason::RequestTooLarge,
                ),
                _,
            ) => {}
            // Nor one that gave no time.
            (Some(Reason::RequestTimeout), _) if ctx.deadline.is_clients() => {}
            // Nor does one that was slow itself.
            (Some(Reason::RequestTimeout), Some(_)) if !ctx.attempts.failed_upstream() => {}
            // Nor does one that none was asked for; but an upstream that takes no requests has failed them.
            (Some(Reason::UpstreamUnhealthy | Reason::CircuitOpen | Reason::Overloaded), _)
            | (Some(Reason::RequestTimeout), None) => {
                destination.record(false, upstream_time.unwrap_or_default(), now);
            }
            (_, Some(_)) => {
                // Not the time that the client takes to send and to read.
                let time = ctx.attempts.upstream_time(ctx.sent, now).unwrap_or_default();
                destination.record(!ctx.attempts.failed_upstream(), time, now);
            }
            (_, None) => {}
        }
    }
    if ctx.facts.trace.is_some_and(|trace| trace.records != Records::No)
        && let Some(queue) = &*recorder.spans()
    {
        spans::record(queue, session, ctx, status, now);
    }
    let (access, tail) = (recorder.access(), recorder.tail());
    let is_followed = tail.is_watched();
    if !access.is_on() && !is_followed {
        return;
    }
    let reason = ctx.reason.map(Reason::code);
    let failed_call = ctx.facts.grpc.as_ref().is_some_and(grpc::Call::has_failed);
    let end = End { status: if failed_call { 500 } else { status }, reason, duration };
    let mut is_logged = access.is_on() && access.wants(&end);
    let asked = ctx.snapshot.access.clone().filter(|_| is_logged);
    let own = match &asked {
        None => None,
        Some(own) if own.is_for(&ctx.to_match(session.request())) => {
            let exchange = Exchange { request: session.request_mut(), response: None, facts: &mut ctx.facts };
            Some((&*own.layout, own.values(&exchange)))
        }
        Some(_) => {
            is_logged = false;
            None
        }
    };
    if !is_logged && !is_followed {
        return;
    }
    let request = session.request();
    let headers = &request.headers;
    let destination = ctx.attempts.destination.as_deref();
    let trace = TraceFields::of(ctx, headers);
    let path = ctx.shown_path();
    let entry = Entry {
        listener: &listener.name,
        route: ctx.route.as_ref().map(|route| &*route.name),
        upstream: destination.map(|destination| destination.upstream.name()),
        variant: destination.and_then(|destination| Some(&*destination.variant.as_ref()?.0)),
        endpoint: ctx.attempts.endpoint(),
        method: request.method.as_str(),
        host: Some(ctx.facts.authority()).filter(|host| !host.is_empty()),
        path: &path,
        status,
        grpc_status,
        failed_call,
        reason,
        attempts: ctx.attempts.count(),
        hedged: ctx.attempts.hedged,
        bytes_in: session.body_bytes_read(),
        bytes_out: session.body_bytes_sent(),
        duration,
        upstream_time,
        client: Some(ctx.facts.client),
        peer: ctx.facts.caller.as_ref().map(|caller| caller.name()),
        tls: ctx.connection.as_ref().and_then(|connection| Some(connection.tls()?.version)),
        protocol: protocol(request),
        request_id: ctx.facts.request_id.as_deref(),
        plugin: ctx.facts.plugin.as_ref().map(|said| &*said.0),
        detail: detail(ctx),
        trace_id: trace.id(),
        span_id: trace.span(),
        parent_span_id: trace.parent(),
        sampled: ctx.facts.trace.map(|trace| trace.sampled),
        user_agent: headers.get(http::header::USER_AGENT).map(|value| value.as_bytes()),
        own: own.as_ref().map(|(layout, values)| (*layout, values.as_slice())),
        ..Entry::at(SystemTime::now())
    };
    if is_followed {
        let hides_client = hides_clients(&ctx.snapshot.config);
        tail.offer(&entry, now, |line| access.show(line, &Entry { own: None, ..entry }, hides_client));
    }
    if is_logged {
        access.write(&entry);
    }
}

/// What a plugin says of its answer, or why a request was refused, or from where its session has moved. What else was overcome is
/// none of that.
fn detail(ctx: &Context) -> Option<&str> {
    let said = ctx.facts.plugin.as_ref().map(|said| said.1.as_str()).filter(|said| !said.is_empty());
    said.or_else(|| ctx.facts.refused.as_deref().filter(|_| ctx.reason.is_some()))
        .or(ctx.attempts.moved.as_deref())
}

/// Whether those who follow the log live are not to see whose requests they are.
fn hides_clients(config: &Config) -> bool {
    let Admin::On(admin) = &config.admin else { return true };
    admin.console().is_none_or(|console| console.client_addresses == ClientAddressesShown::Hide)
}

/// Until the answer with this status began: our own answers do when they end.
fn first_byte(ctx: &Context, status: u16, now: Instant) -> Duration {
    let is_own = ctx.reason.is_some_and(|reason| reason.status().as_u16() == status);
    let began = ctx.attempts.answered_at().filter(|_| !is_own).unwrap_or(now);
    began.saturating_duration_since(ctx.started)
}

/// Of a request whose trace is sampled and exported, so that whoever looks for it finds it whole.
fn exemplar(ctx: &Context) -> Option<Exemplar> {
    let trace = ctx.facts.trace.filter(|trace| trace.sampled && trace.records == Records::Yes)?;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Exemplar { trace: trace.trace.bytes(), at: u64::try_from(at.as_millis()).unwrap_or(u64::MAX) })
}

fn protocol(request: &RequestHeader) -> &'static str {
    match request.version {
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// The context that was sent, in digits; that of the client where it passed untouched.
#[derive(Default)]
struct TraceFields {
    trace: Option<[u8; 32]>,
    span: Option<[u8; 16]>,
    parent: Option<[u8; 16]>,
}

impl TraceFields {
    fn of(ctx: &Context, headers: &HeaderMap) -> TraceFields {
        let Some(current) = ctx.facts.trace else {
            let trace = trace::id(None, headers).map(|id| id.digits());
            return TraceFields { trace, ..TraceFields::default() };
        };
        let sent = if current.passes { None } else { ctx.attempts.span() };
        TraceFields {
            trace: Some(current.trace.digits()),
            span: Some(sent.unwrap_or(current.span).digits()),
            parent: current.parent.map(|parent| parent.digits()),
        }
    }

    fn id(&self) -> Option<&str> {
        self.trace.as_ref().and_then(|digits| std::str::from_utf8(digits).ok())
    }

    fn span(&self) -> Option<&str> {
        self.span.as_ref().and_then(|digits| std::str::from_utf8(digits).ok())
    }

    fn parent(&self) -> Option<&str> {
        self.parent.as_ref().and_then(|digits| std::str::from_utf8(digits).ok())
    }
}
