//! The spans of a request that has ended: one for it as a whole, and one for each of its tries.

use std::{
    borrow::Cow,
    net::IpAddr,
    time::{Duration, Instant},
};

use http::{HeaderMap, StatusCode, Version, header};

use super::context::Context;
use crate::{
    accept::Session,
    config::SpanQuery,
    filter::{Called, Exchange},
    forward::{self, Clock, CommonSpan, TracedCopy},
    grpc,
    observe::{
        Recorder,
        otlp::{Queue, Writer, cut},
        spans::{Kind, Span, Status, record_span},
    },
    snapshot::Tracing,
    trace::{Current, Records, SpanId, baggage, w3c},
};

/// A place that nobody waits for is had sooner.
const WAITED: Duration = Duration::from_micros(10);
/// The longest value of an attribute of the operator's own.
const LONGEST_OWN: usize = 256;

pub(super) fn record(queue: &Queue, session: &mut Session, ctx: &mut Context, status: u16, now: Instant) {
    let tried = ctx.attempts.ended();
    let Some(current) = ctx.recorded(status, now) else { return };
    let own = own_attributes(session, ctx);
    let request = session.request();
    let state = state(&current, &request.headers);
    let (path, query) = (ctx.shown_path(), query(ctx));
    let common = CommonSpan {
        current,
        state,
        clock: Clock::new(),
        method: &request.method,
        known_method: forward::method_name(&request.method),
        call: ctx.facts.grpc.is_some().then(|| ctx.facts.path()),
        path: &path,
        query: query.as_deref(),
    };
    for tried in &tried {
        forward::record_try(queue, &common, tried);
    }
    for called in &ctx.facts.called {
        record_call(queue, &common, called);
    }
    let error = error_type(ctx, status);
    let span = Span {
        trace: current.trace.bytes(),
        id: current.span.bytes(),
        parent: current.parent.map(|parent| parent.bytes()),
        state,
        flags: current.flags(),
        remote_parent: current.parent.is_some(),
        name: name(ctx, &common),
        kind: Kind::Server,
        start: common.clock.nanos(ctx.started),
        end: common.clock.nanos(now),
        status: if status >= 500 || status == 0 || error.is_some() { Status::Error } else { Status::Unset },
    };
    record_span(queue, &span, |writer| {
        write_http(writer, ctx, session, &common, status);
        writer.optional("error.type", error.as_deref());
        write_ours(writer, ctx, tried.len());
        writer.text("tidegate.sampled_by", current.sampled_by.word());
        for (key, value) in &own {
            writer.text(key, cut(value, LONGEST_OWN));
        }
    });
}

/// The spans of a request that has become a conversation in another protocol.
pub(super) fn record_upgrade(recorder: &Recorder, session: &mut Session, ctx: &mut Context) {
    let Some(trace) = ctx.facts.trace else { return };
    ctx.attempts.end_span();
    if let Some(queue) = &*recorder.spans() {
        record(queue, session, ctx, StatusCode::SWITCHING_PROTOCOLS.as_u16(), Instant::now());
    }
    ctx.facts.trace = Some(Current { records: Records::No, ..trace });
}

/// What the span of a mirror's copy will say, should it be recorded.
pub(super) fn of_copy(
    recorder: &Recorder,
    session: &Session,
    ctx: &Context,
    span: SpanId,
) -> Option<TracedCopy> {
    let current = ctx.facts.trace.filter(|current| current.records == Records::Yes)?;
    let queue = recorder.spans().clone()?;
    let path = ctx.shown_path().into_owned();
    Some(TracedCopy {
        queue,
        current,
        span,
        state: state(&current, &session.request().headers).to_owned(),
        call: ctx.facts.grpc.is_some().then(|| ctx.facts.path().to_owned()),
        query: query(ctx).map(Cow::into_owned),
        path,
    })
}

fn state<'a>(current: &Current, headers: &'a HeaderMap) -> &'a str {
    if !current.has_state {
        return "";
    }
    headers.get(w3c::TRACESTATE).and_then(|state| state.to_str().ok()).unwrap_or_default()
}

/// As far as spans may show it.
fn query(ctx: &Context) -> Option<Cow<'_, str>> {
    let shown = ctx.snapshot.tracing.as_ref().map_or(SpanQuery::Drop, |tracing| tracing.is.query);
    ctx.facts.query_without(&ctx.snapshot.config.log.redact).and_then(|query| shown_query(query, shown))
}

/// The question that a filter asked another service.
fn record_call(queue: &Queue, of: &CommonSpan<'_>, called: &Called) {
    let method = forward::method_name(&called.method);
    let error = called
        .error
        .map(str::to_owned)
        .or_else(|| called.status.filter(|s| *s >= 400).map(|s| s.to_string()));
    let span = Span {
        trace: of.current.trace.bytes(),
        id: called.span.bytes(),
        parent: Some(of.current.span.bytes()),
        state: of.state,
        flags: of.current.flags(),
        remote_parent: false,
        name: [method, " ", called.filter],
        kind: Kind::Client,
        start: of.clock.nanos(called.started),
        end: of.clock.nanos(called.ended),
        status: if error.is_some() { Status::Error } else { Status::Unset },
    };
    record_span(queue, &span, |writer| {
        forward::write_method(writer, method, &called.method);
        writer.text("url.full", &called.url);
        forward::write_server(writer, &called.authority);
        if let Some(status) = called.status {
            writer.integer("http.response.status_code", status.into());
        }
        writer.optional("error.type", error.as_deref());
        writer.text("tidegate.filter", called.filter);
    });
}

/// `{method} {http.route}`; of few values whatever clients send.
fn name<'a>(ctx: &'a Context, of: &CommonSpan<'a>) -> [&'a str; 3] {
    let method = of.known_method;
    let route = ctx.route.as_deref();
    match (of.call, route) {
        // Whoever calls may make names up, so they count only where a route takes them.
        (Some(call), Some(_)) => [call.trim_start_matches('/'), "", ""],
        (_, Some(route)) => [method, " ", route.pattern.as_deref().unwrap_or(&route.name)],
        (_, None) => [method, "", ""],
    }
}

fn write_http(writer: &mut Writer<'_>, ctx: &Context, session: &Session, of: &CommonSpan<'_>, status: u16) {
    let request = session.request();
    forward::write_method(writer, of.known_method, of.method);
    writer.text("url.path", of.path);
    writer.optional("url.query", of.query);
    writer.text("url.scheme", ctx.facts.scheme);
    writer.optional("http.route", ctx.route.as_ref().and_then(|route| route.pattern.as_deref()));
    if status > 0 {
        writer.integer("http.response.status_code", status.into());
    }
    forward::write_server(writer, ctx.facts.authority());
    let known = |address: &IpAddr| !address.is_unspecified();
    let connection = ctx.connection.as_ref().filter(|connection| known(&connection.peer.ip()));
    let peer = connection.and_then(|connection| Some((connection.peer, connection.peer_text.to_str().ok()?)));
    let client = Some(ctx.facts.client).filter(known);
    match (client, peer) {
        // Mostly the same, and text of an address is dear.
        (Some(client), Some((peer, text))) if client == peer.ip().to_canonical() => {
            writer.text("client.address", text);
        }
        (Some(client), _) => writer.text("client.address", &client.to_canonical().to_string()),
        (None, _) => {}
    }
    if let Some((peer, text)) = peer {
        writer.text("network.peer.address", text);
        writer.integer("network.peer.port", peer.port().into());
    }
    writer.text(
        "network.protocol.version",
        match request.version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        },
    );
    let redact = &ctx.snapshot.config.log.redact;
    let is_secret = redact.iter().any(|name| name.eq_ignore_ascii_case(header::USER_AGENT.as_str()));
    if let Some(agent) = request.headers.get(header::USER_AGENT).filter(|_| !is_secret) {
        writer.lossy("user_agent.original", agent.as_bytes());
    }
    forward::write_call(writer, of.call, ctx.facts.grpc.as_ref().and_then(|call| call.status));
}

fn write_ours(writer: &mut Writer<'_>, ctx: &Context, tries: usize) {
    if let Some(listener) = &ctx.listener {
        writer.text("tidegate.listener", &listener.name);
    }
    if let Some(route) = &ctx.route {
        writer.text("tidegate.route", &route.name);
    }
    if let Some(destination) = &ctx.attempts.destination {
        writer.text("tidegate.upstream", destination.upstream.name());
        writer.optional("tidegate.variant", destination.variant.as_ref().map(|(name, _)| &**name));
    }
    writer.optional("tidegate.endpoint", ctx.attempts.endpoint());
    writer.optional("tidegate.reason", ctx.reason.map(|reason| reason.code()));
    writer.integer("tidegate.attempts", tries as u64);
    writer.optional("tidegate.request_id", ctx.facts.request_id.as_deref());
    writer.optional("tidegate.peer", ctx.facts.caller.as_ref().map(|caller| caller.name()));
    if let Some(waited) = ctx.attempts.queued().filter(|waited| *waited >= WAITED) {
        writer.float("tidegate.wait.queue", waited.as_secs_f64());
    }
}

/// Of a request that a server has failed.
fn error_type<'a>(ctx: &Context, status: u16) -> Option<Cow<'a, str>> {
    let code = ctx.facts.grpc.as_ref().and_then(|call| call.status);
    match (ctx.reason, code) {
        (Some(reason), _) if status >= 500 || status == 0 => Some(reason.code().into()),
        (_, Some(code)) if grpc::is_fault(code) => Some(grpc::name(code).unwrap_or("UNKNOWN").into()),
        _ if status >= 500 => Some(status.to_string().into()),
        _ => None,
    }
}

/// `redact` keeps the names: `a=1&b` becomes `a=REDACTED&b`.
fn shown_query(query: Cow<'_, str>, shown: SpanQuery) -> Option<Cow<'_, str>> {
    match shown {
        SpanQuery::Drop => None,
        SpanQuery::Keep => Some(query),
        SpanQuery::Redact => {
            let redacted = query.split('&').map(|pair| match pair.split_once('=') {
                Some((name, _)) => format!("{name}=REDACTED"),
                // It may be a secret as well as a name.
                None => "REDACTED".to_owned(),
            });
            Some(redacted.collect::<Vec<_>>().join("&").into())
        }
    }
}

/// What the operator has asked for.
fn own_attributes(session: &mut Session, ctx: &mut Context) -> Vec<(String, String)> {
    let asked =
        |tracing: &Tracing| !tracing.is.attributes.is_empty() || !tracing.is.baggage_attributes.is_empty();
    if !ctx.snapshot.tracing.as_ref().is_some_and(asked) {
        return Vec::new();
    }
    let snapshot = ctx.snapshot.clone();
    let Some(tracing) = &snapshot.tracing else { return Vec::new() };
    let mut own = Vec::new();
    for key in &tracing.is.baggage_attributes {
        let value = baggage::find(&session.request().headers, key);
        own.extend(value.map(|value| (key.clone(), value.into_owned())));
    }
    let exchange = Exchange { request: session.request_mut(), response: None, facts: &mut ctx.facts };
    for (key, template) in &tracing.is.attributes {
        own.push((key.clone(), template.fill(&exchange)));
    }
    own.retain(|(_, value)| !value.is_empty());
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_shows_what_the_operator_wants_and_no_more() {
        let query = "token=abc&page=2&flag";
        assert_eq!(shown_query(query.into(), SpanQuery::Drop), None);
        assert_eq!(shown_query(query.into(), SpanQuery::Keep).unwrap(), query);
        assert_eq!(
            shown_query(query.into(), SpanQuery::Redact).unwrap(),
            "token=REDACTED&page=REDACTED&REDACTED"
        );
    }
}
