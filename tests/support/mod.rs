//! What the integration tests stand on: the real binary as a child process, clients from friendly (`client`) to
//! byte by byte (`RawConnection`), load that notices every failure, and upstreams that misbehave on cue.
//! Nothing here sleeps to wait for something: every wait is for an event, under one generous deadline.

// Each test module uses its own part of this.
#![allow(dead_code, unused_imports)]

pub(crate) mod agent;
pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod collector;
pub(crate) mod connect;
pub(crate) mod etcd;
pub(crate) mod events;
pub(crate) mod frames;
pub(crate) mod grpc;
pub(crate) mod http2;
pub(crate) mod installed;
pub(crate) mod issuer;
pub(crate) mod load;
pub(crate) mod lying_ca;
pub(crate) mod name_server;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod observe;
pub(crate) mod origin;
pub(crate) mod pebble;
pub(crate) mod plugins;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod provider;
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod rotel;
pub(crate) mod service;
pub(crate) mod silent;
pub(crate) mod streams;
pub(crate) mod terminal;
pub(crate) mod tls;
pub(crate) mod upstream;
pub(crate) mod yaml;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::Duration,
};

pub(crate) use self::redis::Redis;
pub(crate) use client::{Answer, Connection, get, get_h2c, send, send_h2c};
pub(crate) use connect::{TlsClient, connect};
pub(crate) use events::{EventStream, StreamEvent};
pub(crate) use load::{Load, Totals};
pub(crate) use observe::{logged, metric, resident, series, wait_for_metric};
pub(crate) use process::{Backend, Gateway, Process, tidegate};
pub(crate) use raw::{RawConnection, RawResponse, raw};
pub(crate) use terminal::Terminal;
pub(crate) use upstream::{ScriptedUpstream, Step};
pub(crate) use yaml::Yaml;

/// How long anything may take before the test fails: generous, as the machine may be busy, and never waited out
/// by a test that passes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A free port of a loopback address that is nobody else's: who ends can be started there again. One of 127.0.0.1 may be the local
/// end of somebody's connection by then, for as long as that lasts.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Relaxed).to_be_bytes();
    // Another process of tests may run beside this one.
    let process = 128 + (std::process::id() % 127) as u8;
    SocketAddr::from(([127, process, high, low], 0))
}

/// Says why a test does nothing here; with `TIDEGATE_SKIP_NOTHING` in the environment, as `.ci/run` has it, that is a failure.
#[track_caller]
pub(crate) fn skipped(why: &str) {
    assert!(std::env::var_os("TIDEGATE_SKIP_NOTHING").is_none(), "skipped, and nothing may be: {why}");
    eprintln!("skipped: {why}");
}

/// Awaits `future`; panics with `what` when the deadline passes.
pub(crate) async fn within_deadline<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(DEADLINE, what, future).await
}

/// Like `within_deadline`, for what may take longer or less.
pub(crate) async fn within<T>(deadline: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(deadline, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing within {deadline:?}"),
    }
}
