//! Spans: what is recorded of a request and of its tries, for a collector of OpenTelemetry (opentelemetry-proto,
//! `trace/v1/trace.proto`, message `Span`). A span is written once, when it has ended.

use serde_json::{Value, json};

use crate::observe::otlp::{
    Encoding, Queue, Writer, cut,
    wire::{bytes, fixed32, fixed64, joined, length, number},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Server = 2,
    Client = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Unset,
    Error,
}

/// What a span begins with; its attributes follow.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    pub trace: [u8; 16],
    pub id: [u8; 8],
    pub parent: Option<[u8; 8]>,
    /// The `tracestate` that goes with it.
    pub state: &'a str,
    /// Those of W3C that are sent with it (Trace Context, level 2, section 3.2.2.5).
    pub flags: u8,
    /// The parent is another process's.
    pub remote_parent: bool,
    /// In parts, which are written without a space between them.
    pub name: [&'a str; 3],
    pub kind: Kind,
    /// Nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    pub status: Status,
}

/// The longest name, in bytes.
const LONGEST_NAME: usize = 1024;
/// The field of a span's attributes.
const ATTRIBUTES: u8 = 9;

/// Writes a span, attributes by `attributes`, and lets it wait in `queue`.
pub fn record_span(queue: &Queue, span: &Span<'_>, attributes: impl FnOnce(&mut Writer<'_>)) {
    queue.write(|out, encoding, longest| {
        let mut writer = begin(out, encoding, longest, span);
        attributes(&mut writer);
        writer.end();
    });
}

fn begin<'b>(out: &'b mut Vec<u8>, encoding: Encoding, longest: usize, span: &Span<'_>) -> Writer<'b> {
    match encoding {
        Encoding::Protobuf => Writer::protobuf(out, longest, ATTRIBUTES, |out| head(out, span)),
        Encoding::Json => Writer::json(out, longest, json_head(span)),
    }
}

fn head(out: &mut Vec<u8>, span: &Span<'_>) {
    bytes(out, 1, &span.trace);
    bytes(out, 2, &span.id);
    if !span.state.is_empty() {
        bytes(out, 3, span.state.as_bytes());
    }
    if let Some(parent) = &span.parent {
        bytes(out, 4, parent);
    }
    match length(&span.name) {
        0..=LONGEST_NAME => joined(out, 5, &span.name),
        _ => bytes(out, 5, cut(&span.name.concat(), LONGEST_NAME).as_bytes()),
    }
    number(out, 6, span.kind as u64);
    fixed64(out, 7, span.start);
    fixed64(out, 8, span.end);
    if span.status == Status::Error {
        // `status { code: 2 }`
        bytes(out, 15, &[3 << 3, 2]);
    }
    fixed32(out, 16, flags(span));
}

/// The W3C flags, and whether the parent is remote (and that this is known).
fn flags(span: &Span<'_>) -> u32 {
    let remote = if span.remote_parent { 0x300 } else { 0x100 };
    u32::from(span.flags) | remote
}

fn json_head(span: &Span<'_>) -> Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut written = json!({
        "traceId": hex(&span.trace),
        "spanId": hex(&span.id),
        "name": cut(&span.name.concat(), LONGEST_NAME),
        "kind": span.kind as u64,
        "startTimeUnixNano": span.start.to_string(),
        "endTimeUnixNano": span.end.to_string(),
        "attributes": [],
        "flags": flags(span),
    });
    if !span.state.is_empty() {
        written["traceState"] = span.state.into();
    }
    if let Some(parent) = &span.parent {
        written["parentSpanId"] = hex(parent).into();
    }
    if span.status == Status::Error {
        written["status"] = json!({"code": 2});
    }
    written
}
