//! A span in the bytes of OTLP: protobuf by hand, or JSON (opentelemetry-proto, `trace/v1/trace.proto`, message `Span`).
//!
//! Lengths of messages stand before them in protobuf. They are written with three bytes, more than they need, so that what
//! follows does not have to move.

use serde_json::json;

/// How spans are written. One queue has spans of one encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Protobuf,
    Json,
}

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
    pub sampled: bool,
    /// The parent is another process's.
    pub remote_parent: bool,
    pub name: &'a str,
    pub kind: Kind,
    /// Nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    pub status: Status,
}

/// The longest value of an attribute, in bytes. What is longer is cut.
pub const LONGEST_VALUE: usize = 1024;

/// A span that is being written.
pub enum Writer<'b> {
    Protobuf { out: &'b mut Vec<u8>, start: usize },
    Json { out: &'b mut Vec<u8>, span: serde_json::Value },
}

impl<'b> Writer<'b> {
    /// Appends `span` to `out`, as an element of `scopeSpans.spans`.
    pub fn begin(out: &'b mut Vec<u8>, encoding: Encoding, span: &Span<'_>) -> Writer<'b> {
        match encoding {
            Encoding::Protobuf => {
                let start = open(out, 2);
                head(out, span);
                Writer::Protobuf { out, start }
            }
            Encoding::Json => Writer::Json { out, span: json_head(span) },
        }
    }

    pub fn text(&mut self, key: &str, value: &str) {
        let value = cut(value, LONGEST_VALUE);
        match self {
            Writer::Protobuf { out, .. } => attribute(out, key, |out| bytes(out, 1, value.as_bytes())),
            Writer::Json { span, .. } => add(span, key, json!({"stringValue": value})),
        }
    }

    /// Bytes that a peer sent: what is not UTF-8 becomes U+FFFD.
    pub fn lossy(&mut self, key: &str, value: &[u8]) {
        self.text(key, &String::from_utf8_lossy(value));
    }

    pub fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    pub fn integer(&mut self, key: &str, value: u64) {
        match self {
            Writer::Protobuf { out, .. } => attribute(out, key, |out| number(out, 3, value)),
            // 64-bit numbers are text in JSON.
            Writer::Json { span, .. } => add(span, key, json!({"intValue": value.to_string()})),
        }
    }

    pub fn float(&mut self, key: &str, value: f64) {
        match self {
            Writer::Protobuf { out, .. } => attribute(out, key, |out| {
                out.push(4 << 3 | 1);
                out.extend_from_slice(&value.to_le_bytes());
            }),
            Writer::Json { span, .. } => add(span, key, json!({"doubleValue": value})),
        }
    }

    pub fn boolean(&mut self, key: &str, value: bool) {
        match self {
            Writer::Protobuf { out, .. } => attribute(out, key, |out| number(out, 2, value.into())),
            Writer::Json { span, .. } => add(span, key, json!({"boolValue": value})),
        }
    }

    pub fn end(self) {
        match self {
            Writer::Protobuf { out, start } => close(out, start),
            Writer::Json { out, span } => out.extend_from_slice(span.to_string().as_bytes()),
        }
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
    bytes(out, 5, cut(span.name, LONGEST_VALUE).as_bytes());
    number(out, 6, span.kind as u64);
    fixed64(out, 7, span.start);
    fixed64(out, 8, span.end);
    if span.status == Status::Error {
        // `status { code: 2 }`
        out.extend_from_slice(&[15 << 3 | 2, 2, 3 << 3, 2]);
    }
    // `fixed32 flags = 16`
    out.extend_from_slice(&[0x85, 0x01]);
    out.extend_from_slice(&flags(span).to_le_bytes());
}

/// The W3C flag, and whether the parent is remote (and that this is known).
fn flags(span: &Span<'_>) -> u32 {
    let remote = if span.remote_parent { 0x300 } else { 0x100 };
    u32::from(span.sampled) | remote
}

fn json_head(span: &Span<'_>) -> serde_json::Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut written = json!({
        "traceId": hex(&span.trace),
        "spanId": hex(&span.id),
        "name": cut(span.name, LONGEST_VALUE),
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

fn add(span: &mut serde_json::Value, key: &str, value: serde_json::Value) {
    if let Some(attributes) = span["attributes"].as_array_mut() {
        attributes.push(json!({"key": key, "value": value}));
    }
}

/// `KeyValue { key: 1, value: 2 }`, field 9 of a span.
fn attribute(out: &mut Vec<u8>, key: &str, value: impl FnOnce(&mut Vec<u8>)) {
    let whole = open(out, 9);
    bytes(out, 1, key.as_bytes());
    let any = open(out, 2);
    value(out);
    close(out, any);
    close(out, whole);
}

/// At the end of a whole character.
pub fn cut(value: &str, most: usize) -> &str {
    let mut end = most.min(value.len());
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

/// Begins a message whose length is not known yet.
fn open(out: &mut Vec<u8>, field: u8) -> usize {
    out.push(field << 3 | 2);
    out.extend_from_slice(&[0; 3]);
    out.len()
}

fn close(out: &mut [u8], start: usize) {
    let length = out.len() - start;
    debug_assert!(length < 1 << 21, "three times seven bits");
    out[start - 3] = (length & 0x7f) as u8 | 0x80;
    out[start - 2] = (length >> 7 & 0x7f) as u8 | 0x80;
    out[start - 1] = (length >> 14 & 0x7f) as u8;
}

pub(crate) fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
