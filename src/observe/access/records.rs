//! Lines of the access log as records of a collector of OpenTelemetry (opentelemetry-proto, `logs/v1/logs.proto`, message
//! `LogRecord`): the line's fields are attributes under the same names, and the trace is where collectors look for it.

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwapOption;
use serde_json::json;

use super::{Entry, Field, Layout, VALUE_LIMIT, connection::ConnectionEntry, fields, fields::Value};
use crate::observe::{
    encode,
    otlp::{
        Encoding, Queue, QueueStats, Writer, cut, nanos,
        wire::{bytes, close, fixed32, fixed64, number, open},
    },
};

/// Where records wait for a collector; a reload may exchange the queue.
#[derive(Clone)]
pub(in crate::observe) struct Records {
    pub queue: Arc<ArcSwapOption<Queue>>,
    pub stats: Arc<QueueStats>,
}

/// `SEVERITY_NUMBER_INFO`
const INFO: u64 = 9;
/// The field of a record's attributes.
const ATTRIBUTES: u8 = 6;
/// An own line may hold several values.
const LONGEST_BODY: usize = 8 * VALUE_LIMIT;

/// What a record begins with.
struct Head<'a> {
    at: SystemTime,
    /// `msg` of the line, or the line where the operator has laid it out.
    body: &'a str,
    trace: Option<[u8; 16]>,
    span: Option<[u8; 8]>,
    sampled: bool,
}

impl Records {
    pub(super) fn request(&self, entry: &Entry<'_>, keeps: impl Fn(Field) -> bool) {
        let line = match entry.own {
            Some((Layout { template: Some(pieces), .. }, values)) => {
                let mut line = Vec::new();
                fields::laid_out(&mut line, entry, pieces, values);
                String::from_utf8(line).ok()
            }
            _ => None,
        };
        let kept = |field, value| if keeps(field) { value } else { None };
        let head = Head {
            at: entry.ts,
            body: line.as_deref().unwrap_or("request"),
            trace: kept(Field::TraceId, entry.trace_id).and_then(trace_id),
            span: kept(Field::SpanId, entry.span_id).and_then(span_id),
            sampled: entry.sampled == Some(true) && keeps(Field::Sampled),
        };
        self.write(&head, |writer| {
            for (name, field) in Field::all().filter(|(_, field)| keeps(*field)) {
                if let Some(value) = Value::of(entry, field).filter(|_| !is_in_head(field)) {
                    attribute(writer, name, value);
                }
            }
            for (name, value) in entry.added() {
                writer.text(name, value);
            }
        });
    }

    pub(super) fn connection(&self, entry: &ConnectionEntry<'_>, keeps: impl Fn(Field) -> bool) {
        let head = Head { at: entry.ts, body: "connection", trace: None, span: None, sampled: false };
        self.write(&head, |writer| {
            for (name, field) in Field::all().filter(|(_, field)| keeps(*field)) {
                if let Some(value) = entry.value(field) {
                    attribute(writer, name, value);
                }
            }
        });
    }

    fn write(&self, head: &Head<'_>, attributes: impl FnOnce(&mut Writer<'_>)) {
        let Some(queue) = &*self.queue.load() else { return self.stats.lose() };
        queue.write(|out, encoding, longest| {
            let mut writer = head.begin(out, encoding, longest);
            attributes(&mut writer);
            writer.end();
        });
    }
}

/// The trace is the record's own, and so is the time.
fn is_in_head(field: Field) -> bool {
    matches!(field, Field::Ts | Field::TraceId | Field::SpanId | Field::Sampled)
}

fn attribute(writer: &mut Writer<'_>, name: &str, value: Value<'_>) {
    match value {
        // It is the record's.
        Value::Time(_) => {}
        Value::Text(text) => writer.text(name, text),
        Value::Bytes(bytes) => writer.lossy(name, bytes),
        Value::Number(number) => writer.integer(name, number),
        // As exact as in lines.
        Value::Millis(time) => writer.float(name, time.as_micros() as f64 / 1000.0),
        Value::Is(is) => writer.boolean(name, is),
        Value::Address(address) => {
            let mut text = Vec::new();
            encode::address(&mut text, address);
            writer.lossy(name, &text);
        }
    }
}

impl Head<'_> {
    fn begin<'b>(&self, out: &'b mut Vec<u8>, encoding: Encoding, longest: usize) -> Writer<'b> {
        let (at, body, flags) = (nanos(self.at), cut(self.body, LONGEST_BODY), u32::from(self.sampled));
        match encoding {
            Encoding::Protobuf => Writer::protobuf(out, longest, ATTRIBUTES, |out| {
                fixed64(out, 1, at);
                fixed64(out, 11, at);
                number(out, 2, INFO);
                bytes(out, 3, b"INFO");
                let any = open(out, 5);
                bytes(out, 1, body.as_bytes());
                close(out, any);
                fixed32(out, 8, flags);
                if let Some(trace) = self.trace {
                    bytes(out, 9, &trace);
                }
                if let Some(span) = self.span {
                    bytes(out, 10, &span);
                }
            }),
            Encoding::Json => {
                let mut head = json!({
                    "timeUnixNano": at.to_string(),
                    "observedTimeUnixNano": at.to_string(),
                    "severityNumber": INFO,
                    "severityText": "INFO",
                    "body": {"stringValue": body},
                    "attributes": [],
                    "flags": flags,
                });
                if let Some(trace) = self.trace {
                    head["traceId"] = format!("{:032x}", u128::from_be_bytes(trace)).into();
                }
                if let Some(span) = self.span {
                    head["spanId"] = format!("{:016x}", u64::from_be_bytes(span)).into();
                }
                Writer::json(out, longest, head)
            }
        }
    }
}

fn trace_id(digits: &str) -> Option<[u8; 16]> {
    u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes)
}

fn span_id(digits: &str) -> Option<[u8; 8]> {
    u64::from_str_radix(digits, 16).ok().map(u64::to_be_bytes)
}
