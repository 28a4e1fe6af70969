//! What OpenTelemetry's collectors are told, in the bytes of OTLP.
//!
//! A record (a span, a line of the access log, the points of a metric) is written once, straight into the bytes that are
//! exported (`wire`, [`Writer`]). Spans and lines wait in a bounded [`Queue`]. The SDK's types would cost several times as
//! much, most of it in small allocations. Sending them is `crate::export`'s.

pub mod queue;
pub(in crate::observe) mod wire;
mod writer;

use std::time::{SystemTime, UNIX_EPOCH};

pub use self::{
    queue::{Batch, Limits, Queue, QueueStats},
    writer::{Writer, cut},
};
pub(crate) use wire::{bytes, number, varint};

/// How records are written. One queue has records of one encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Protobuf,
    Json,
}

/// As OTLP has times: nanoseconds since 1970.
pub(in crate::observe) fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
