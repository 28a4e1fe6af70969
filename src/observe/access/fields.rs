//! The fields of a line by name, which of them are left out, and what an operator has put in their place.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use crate::observe::{access::Entry, encode};

/// Writes the enum and its table from one list, in the order of a line.
macro_rules! fields {
    ($($field:ident $name:literal)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Field {
            $($field),*
        }

        const NAMES: &[(&str, Field)] = &[$(($name, Field::$field)),*];
    };
}

fields! {
    Ts "ts"
    Listener "listener"
    Route "route"
    Upstream "upstream"
    Variant "variant"
    Endpoint "endpoint"
    Method "method"
    Host "host"
    Path "path"
    Status "status"
    GrpcStatus "grpc_status"
    Reason "reason"
    Plugin "plugin"
    Detail "detail"
    Attempts "attempts"
    Hedged "hedged"
    BytesIn "bytes_in"
    BytesOut "bytes_out"
    DurationMs "duration_ms"
    UpstreamMs "upstream_ms"
    Client "client"
    Peer "peer"
    UpstreamPeer "upstream_peer"
    Tls "tls"
    Protocol "protocol"
    RequestId "request_id"
    TraceId "trace_id"
    SpanId "span_id"
    ParentSpanId "parent_span_id"
    Sampled "sampled"
    UserAgent "user_agent"
}

impl Field {
    pub fn named(name: &str) -> Option<Field> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }

    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// All of them with their names.
    pub(super) fn all() -> impl Iterator<Item = (&'static str, Field)> {
        NAMES.iter().copied()
    }

    /// Whether a line may do without it.
    pub fn is_optional(self) -> bool {
        self != Field::Ts
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Some of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields(u32);

impl Fields {
    pub(in crate::observe) fn contains(self, field: Field) -> bool {
        self.0 & field.bit() != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Field> for Fields {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Fields {
        Fields(fields.into_iter().fold(0, |bits, field| bits | field.bit()))
    }
}

/// What an operator has put into the lines of requests. The values come with each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// What the values are called, where they are added to a line.
    pub added: Vec<String>,
    /// The line, where it is another.
    pub template: Option<Vec<Piece>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Text(String),
    Field(Field),
    /// The value of that number.
    Value(usize),
}

/// What stands for nothing, as in the logs of other servers.
const NOTHING: &[u8] = b"-";

/// A line as the operator has laid it out.
pub(super) fn laid_out(line: &mut Vec<u8>, entry: &Entry<'_>, pieces: &[Piece], values: &[String]) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => line.extend_from_slice(text.as_bytes()),
            Piece::Field(field) => plain(line, entry, *field),
            Piece::Value(number) => value(line, values.get(*number).map(String::as_str)),
        }
    }
}

fn value(line: &mut Vec<u8>, value: Option<&str>) {
    match value.filter(|value| !value.is_empty()) {
        Some(value) => encode::text_within_quotes(line, value, super::VALUE_LIMIT),
        None => line.extend_from_slice(NOTHING),
    }
}

fn plain(line: &mut Vec<u8>, entry: &Entry<'_>, field: Field) {
    match Value::of(entry, field) {
        Some(Value::Time(at)) => encode::timestamp(line, at),
        Some(Value::Number(number)) => encode::number(line, number),
        Some(Value::Millis(time)) => encode::millis(line, time),
        Some(Value::Address(address)) => encode::address(line, address),
        Some(Value::Bytes(bytes)) => value(line, Some(&String::from_utf8_lossy(bytes))),
        Some(Value::Text(text)) => value(line, Some(text)),
        Some(Value::Is(is)) => value(line, Some(if is { "true" } else { "false" })),
        None => value(line, None),
    }
}

/// What a field says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Time(SystemTime),
    Text(&'a str),
    /// Of a peer: it need not be UTF-8.
    Bytes(&'a [u8]),
    Number(u64),
    Millis(Duration),
    Is(bool),
    Address(IpAddr),
}

impl<'a> Value<'a> {
    /// `None` for what does not apply.
    pub(super) fn of(entry: &Entry<'a>, field: Field) -> Option<Value<'a>> {
        let text = match field {
            Field::Ts => return Some(Value::Time(entry.ts)),
            Field::Status => return Some(Value::Number(entry.status.into())),
            Field::Attempts => return Some(Value::Number(entry.attempts.into())),
            Field::BytesIn => return Some(Value::Number(entry.bytes_in)),
            Field::BytesOut => return Some(Value::Number(entry.bytes_out)),
            Field::DurationMs => return Some(Value::Millis(entry.duration)),
            Field::UpstreamMs => return entry.upstream_time.map(Value::Millis),
            Field::Client => return entry.client.map(Value::Address),
            Field::UserAgent => return entry.user_agent.map(Value::Bytes),
            Field::Hedged => return Some(Value::Is(entry.hedged)),
            Field::Sampled => return entry.sampled.map(Value::Is),
            Field::Listener => Some(entry.listener),
            Field::Route => entry.route,
            Field::Upstream => entry.upstream,
            Field::Variant => entry.variant,
            Field::Endpoint => entry.endpoint,
            Field::Method => Some(entry.method),
            Field::Host => entry.host,
            Field::Path => Some(entry.path),
            Field::GrpcStatus => entry.grpc_status,
            Field::Reason => entry.reason,
            Field::Plugin => entry.plugin,
            Field::Detail => entry.detail,
            Field::Peer => entry.peer,
            // Requests share connections with each other.
            Field::UpstreamPeer => None,
            Field::Tls => entry.tls,
            Field::Protocol => Some(entry.protocol),
            Field::RequestId => entry.request_id,
            Field::TraceId => entry.trace_id,
            Field::SpanId => entry.span_id,
            Field::ParentSpanId => entry.parent_span_id,
        };
        text.map(Value::Text)
    }
}
