//! Stage 5: what is said of a request when it has ended, to the metrics, the canary and the access log.

use std::time::{Instant, SystemTime};

use pingora_http::RequestHeader;

use super::context::Context;
use crate::{
    accept::Session,
    error::Reason,
    grpc,
    observe::{Recorder, access::Entry},
};

pub(crate) fn record(recorder: &Recorder, session: &Session, ctx: &Context) {
    let Some(listener) = &ctx.listener else { return };
    let request = session.request();
    let written = session.responded();
    let status = written.or(ctx.reason.map(|reason| reason.status().as_u16())).unwrap_or(0);
    let now = Instant::now();
    let duration = now.saturating_duration_since(ctx.started);
    let destination = ctx.attempts.destination.as_deref();
    let metrics = match (destination, &ctx.route) {
        (Some(destination), _) => &destination.metrics,
        (None, Some(route)) => &route.metrics,
        (None, None) => &recorder.unrouted,
    };
    metrics.record(&listener.metrics, status, duration);
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
        destination.upstream_metrics.record(upstream_time);
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
    let access = recorder.access();
    if !access.is_on() {
        return;
    }
    let headers = &request.headers;
    access.record(&Entry {
        listener: &listener.name,
        route: ctx.route.as_ref().map(|route| &*route.name),
        upstream: destination.map(|destination| destination.upstream.name()),
        variant: destination.and_then(|destination| Some(&*destination.variant.as_ref()?.0)),
        endpoint: ctx.attempts.endpoint(),
        method: request.method.as_str(),
        host: Some(ctx.facts.authority()).filter(|host| !host.is_empty()),
        path: ctx.facts.path(),
        status,
        grpc_status,
        failed_call: code.is_some_and(grpc::is_fault),
        reason: ctx.reason.map(Reason::code),
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
        trace_id: headers.get("traceparent").and_then(|value| trace_id(value.as_bytes())),
        user_agent: headers.get(http::header::USER_AGENT).map(|value| value.as_bytes()),
        ..Entry::at(SystemTime::now())
    });
}

fn protocol(request: &RequestHeader) -> &'static str {
    match request.version {
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// The trace's identifier in a `traceparent` field (W3C Trace Context, section 3.2.2).
fn trace_id(traceparent: &[u8]) -> Option<&str> {
    let id = traceparent.get(3..35).filter(|_| traceparent.get(35) == Some(&b'-'))?;
    let is_id = id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && id.iter().any(|byte| *byte != b'0');
    std::str::from_utf8(id).ok().filter(|_| is_id)
}

#[cfg(test)]
mod tests {
    use super::trace_id;

    #[test]
    fn reads_the_trace_id_of_a_valid_traceparent_only() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(format!("00-{id}-00f067aa0ba902b7-01").as_bytes()), Some(id));
        for bad in [
            "",
            "00-short-1-01",
            &format!("00-{}-1-01", "0".repeat(32)),
            &format!("00-{}-1-01", "G".repeat(32)),
        ] {
            assert_eq!(trace_id(bad.as_bytes()), None, "{bad}");
        }
    }
}
