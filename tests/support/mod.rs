//! What the integration tests stand on: the real binary as a child process, clients from friendly (`client`) to
//! byte by byte (`RawConnection`), load that notices every failure, and upstreams that misbehave on cue.
//! Nothing here sleeps to wait for something: every wait is for an event, under one generous deadline.

// Each test module uses its own part of this.
#![allow(dead_code, unused_imports)]

pub mod agent;
pub mod certificates;
pub mod client;
pub mod frames;
pub mod grpc;
pub mod http2;
pub mod issuer;
pub mod load;
pub mod namespace;
pub mod process;
pub mod raw;
pub mod redis;
pub mod silent;
pub mod tls;
pub mod upstream;

use std::time::Duration;

pub use self::redis::Redis;
pub use client::{Answer, Connection, get, get_h2c, send, send_h2c};
pub use load::{Load, Totals};
pub use process::{Backend, Gateway, Process, tidegate};
pub use raw::{RawConnection, RawResponse, raw};
pub use upstream::{ScriptedUpstream, Step};

/// How long anything may take before the test fails: generous, as the machine may be busy, and never waited out
/// by a test that passes.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits `future`; panics with `what` when the deadline passes.
pub async fn within_deadline<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing within {DEADLINE:?}"),
    }
}
