//! The spans of tries: one for each, a child of the request's. What they say is known when they end.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::Method;

use crate::{
    grpc,
    observe::{
        metrics::known_method,
        otlp::{Queue, Writer},
        spans::{Kind, Span, Status, record_span},
    },
    policy::failure::{Failure, Outcome},
    snapshot::Destination,
    trace::{Current, SpanId},
    upstream::Endpoint,
};

/// Why a try was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptKind {
    First,
    Retry,
    Hedge,
    Mirror,
}

impl AttemptKind {
    const fn label(self) -> &'static str {
        match self {
            AttemptKind::First => "first",
            AttemptKind::Retry => "retry",
            AttemptKind::Hedge => "hedge",
            AttemptKind::Mirror => "mirror",
        }
    }
}

/// What is noted of a try while it lasts.
#[derive(Debug)]
pub(crate) struct Tried {
    pub span: SpanId,
    pub cause: AttemptKind,
    /// How many were made before it.
    pub before: u32,
    pub started: Instant,
    pub ended: Instant,
    /// The pause before it.
    pub waited: Duration,
    pub status: Option<u16>,
    pub grpc: Option<u8>,
    pub failure: Option<Failure>,
    /// Whether its connection had been used before.
    pub reused: Option<bool>,
    pub is_http2: bool,
    pub place: Place,
}

/// Where a try went.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub upstream: Arc<str>,
    pub endpoint: Arc<str>,
    /// As configured: `host:port`.
    pub origin: Arc<str>,
    /// The endpoint's name is its address: `ip:port`.
    pub is_address: bool,
    pub is_tls: bool,
}

impl Place {
    pub(crate) fn of(destination: &Destination, endpoint: &Endpoint) -> Place {
        let upstream = &destination.upstream;
        Place {
            upstream: upstream.shared_name(),
            endpoint: endpoint.name.clone(),
            origin: endpoint.origin.clone(),
            is_address: endpoint.address.as_inet().is_some(),
            is_tls: upstream.tls().is_some(),
        }
    }
}

/// Where tries leave what is noted of them, whoever drops them.
#[derive(Clone, Default)]
pub(crate) struct Ended(Arc<Mutex<Vec<Tried>>>);

impl Ended {
    pub(super) fn push(&self, tried: Tried) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(tried);
    }

    pub(crate) fn take(&self) -> Vec<Tried> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Instants as nanoseconds since 1970.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    instant: Instant,
    nanos: u64,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { instant: Instant::now(), nanos: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX) }
    }

    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // What is recorded is nearly always over.
        match self.instant.checked_duration_since(at) {
            Some(before) => self.nanos.saturating_sub(nanos(before)),
            None => self.nanos.saturating_add(nanos(at - self.instant)),
        }
    }
}

/// What the spans of one request have in common.
pub(crate) struct Common<'a> {
    pub current: Current,
    pub state: &'a str,
    pub clock: Clock,
    pub method: &'a Method,
    /// See [`method_name`].
    pub known_method: &'a str,
    /// `/package.Service/Method` of a call of gRPC.
    pub call: Option<&'a str>,
    /// Of the target as it was matched.
    pub path: &'a str,
    /// As far as spans may show it.
    pub query: Option<&'a str>,
}

/// `{method}`, or `HTTP` for one that nobody knows: anybody may make some up.
pub(crate) fn method_name(method: &Method) -> &str {
    known_method(method.as_str()).unwrap_or("HTTP")
}

/// `http.request.method`, which is `_OTHER` for one that nobody knows.
pub(crate) fn write_method(writer: &mut Writer<'_>, name: &str, method: &Method) {
    match name {
        "HTTP" => {
            writer.text("http.request.method", "_OTHER");
            writer.text("http.request.method_original", method.as_str());
        }
        known => writer.text("http.request.method", known),
    }
}

/// `rpc.*` of a call of gRPC.
pub(crate) fn write_call(writer: &mut Writer<'_>, call: Option<&str>, status: Option<u8>) {
    let Some(call) = call else { return };
    writer.text("rpc.system.name", "grpc");
    writer.text("rpc.method", call.trim_start_matches('/'));
    if let Some(status) = status {
        writer.text("rpc.status_code", grpc::name(status).unwrap_or("UNKNOWN"));
    }
}

/// `server.address` and `server.port` of `host:port`.
pub(crate) fn write_server(writer: &mut Writer<'_>, authority: &str) {
    write_place(writer, ["server.address", "server.port"], authority);
}

/// What is known of `place`: `host:port`, or less.
#[inline]
fn write_place(writer: &mut Writer<'_>, [address, port]: [&str; 2], place: &str) {
    match split_port(place) {
        Some((host, number)) => {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            writer.text(address, bare.unwrap_or(host));
            writer.integer(port, number.into());
        }
        None => writer.optional(address, Some(place).filter(|place| !place.is_empty())),
    }
}

fn split_port(place: &str) -> Option<(&str, u16)> {
    let (mut port, mut power) = (0, 1);
    for (at, byte) in place.bytes().enumerate().rev().take("65535:".len()) {
        match byte {
            b'0'..=b'9' => port += u32::from(byte - b'0') * power,
            b':' if power > 1 => return Some((&place[..at], u16::try_from(port).ok()?)),
            _ => return None,
        }
        power *= 10;
    }
    None
}

/// Records a try that has ended.
pub(crate) fn record_try(queue: &Queue, of: &Common<'_>, tried: &Tried) {
    let place = &tried.place;
    let name = match of.call {
        Some(call) => [call.trim_start_matches('/'), "", ""],
        None => [of.known_method, " ", &place.upstream],
    };
    let error = error_type(tried);
    let span = Span {
        trace: of.current.trace.bytes(),
        id: tried.span.bytes(),
        parent: Some(of.current.span.bytes()),
        state: of.state,
        flags: of.current.flags(),
        remote_parent: false,
        name,
        kind: Kind::Client,
        start: of.clock.nanos(tried.started),
        end: of.clock.nanos(tried.ended),
        status: if error.is_some() { Status::Error } else { Status::Unset },
    };
    record_span(queue, &span, |writer| {
        write_method(writer, of.known_method, of.method);
        let scheme = if place.is_tls { "https" } else { "http" };
        let (mark, query) = of.query.map_or(("", ""), |query| ("?", query));
        writer.joined("url.full", [scheme, "://", &place.origin, of.path, mark, query]);
        write_server(writer, &place.origin);
        if place.is_address {
            write_place(writer, ["network.peer.address", "network.peer.port"], &place.endpoint);
        }
        if let Some(status) = tried.status {
            writer.text("network.protocol.version", if tried.is_http2 { "2" } else { "1.1" });
            writer.integer("http.response.status_code", status.into());
        }
        if tried.before > 0 && tried.cause != AttemptKind::Mirror {
            writer.integer("http.request.resend_count", tried.before.into());
        }
        write_call(writer, of.call, tried.grpc);
        writer.optional("error.type", error.as_deref());
        writer.text("tidegate.upstream", &place.upstream);
        writer.text("tidegate.endpoint", &place.endpoint);
        writer.text("tidegate.attempt.kind", tried.cause.label());
        writer.text("tidegate.attempt.outcome", outcome(tried));
        if let Some(reused) = tried.reused {
            writer.boolean("tidegate.connection.reused", reused);
        }
        if !tried.waited.is_zero() {
            writer.float("tidegate.wait.backoff", tried.waited.as_secs_f64());
        }
    });
}

/// What went wrong: our word for a failure, the code of a call, or the status.
fn error_type(tried: &Tried) -> Option<String> {
    if let Some(failure) = tried.failure {
        return Some(failure.meaning().reason.code().to_owned());
    }
    match (tried.grpc, tried.status) {
        (Some(code), _) if code != 0 => Some(grpc::name(code).unwrap_or("UNKNOWN").to_owned()),
        (None | Some(0), Some(status)) if status >= 400 => Some(status.to_string()),
        _ => None,
    }
}

fn outcome(tried: &Tried) -> &'static str {
    match (tried.failure, tried.status) {
        (Some(failure), _) => failure.meaning().outcome.map_or("abandoned", |outcome| outcome.label()),
        (None, Some(status)) => Outcome::of_answer(status, tried.grpc).label(),
        // Nobody waited for it any more: another was faster, or the client has left.
        (None, None) => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_what_stands_behind_the_last_colon() {
        let cases = [
            ("a.example:8080", Some(("a.example", 8080))),
            ("[::1]:65535", Some(("[::1]", 65535))),
            (":80", Some(("", 80))),
            ("a:065535", None),
            ("a:65536", None),
            ("a:", None),
            ("[::1]", None),
            ("8080", None),
            ("", None),
        ];
        for (place, split) in cases {
            assert_eq!(split_port(place), split, "{place}");
        }
    }
}
