//! Stage 5, observe: what is recorded when a request ends, and what the process says about itself.
//!
//! A request pays for formatting one access line into a buffer of its thread, for one copy of that line
//! under a short lock, and for a handful of uncontended atomic additions; everything else (system calls,
//! the text of a scrape) happens on other threads. Nothing here ever blocks a request: a slow disk or pipe
//! loses lines, and the losses are counted.
//!
//! - [`log_writer`]: the bounded buffer and the one thread that writes lines out.
//! - [`syslog`]: the same where lines are messages to a server.
//! - [`access`]: the access log, one line a request; [`access::connection`]: of TCP, one a connection.
//! - [`log`]: the process's own messages, Pingora's among them, in the same two formats.
//! - [`spans`]: what is recorded for a collector of traces; [`otlp`]: how collectors of OpenTelemetry are told of it.
//! - [`log_throttle`]: what would be said too often.
//! - [`tail`]: access lines for those who follow them live; [`events`]: what happens, for those who watch.
//! - [`metrics`]: the Prometheus series, held by handles that are resolved when a snapshot is built.

pub mod access;
mod encode;
pub mod events;
pub mod log;
pub mod log_throttle;
pub mod log_writer;
pub mod metrics;
pub mod otlp;
pub mod recorder;
pub mod spans;
pub mod syslog;
pub mod tail;

pub(crate) use encode::is_deceptive;
pub use recorder::Recorder;

/// How a line is written, once the configuration's default has been resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, for machines.
    #[default]
    Json,
    /// `time LEVEL message key=value ...`, for people.
    Text,
}
