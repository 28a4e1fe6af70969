//! Spans: what is recorded of a request and of its tries, for a collector of OpenTelemetry.
//!
//! A span is written once, when it has ended, straight into the bytes that are exported (`encode`), and these wait in a
//! bounded [`Queue`]. The SDK's types would cost several times as much, most of it in small allocations.

pub mod encode;
pub mod queue;

pub use self::{
    encode::{Encoding, Kind, Span, Status, Writer, cut},
    queue::{Batch, Limits, Queue, SpanStats},
};
