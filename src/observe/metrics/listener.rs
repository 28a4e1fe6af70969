//! What is counted at a listener: its connections, and the requests in flight on them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::SystemTime,
};

use super::{exposition::Exposition, live::Counts};
use crate::{observe::otlp, sharded::Sharded};

pub struct ListenerMetrics {
    name: Arc<str>,
    /// Stands for the name where routes count by listener and status.
    id: u32,
    /// When it began to count.
    began: u64,
    /// Connections that it takes at once.
    limit: AtomicUsize,
    cells: Sharded<Cells>,
    refused: Counts<&'static str>,
    handshakes: Counts<&'static str>,
    failed_handshakes: Counts<&'static str>,
    tunnels: Counts<&'static str>,
}

/// Gauges may be negative in one shard: what one thread opens another may close.
#[derive(Default)]
struct Cells {
    in_flight: AtomicI64,
    active: AtomicI64,
    upgraded: AtomicI64,
    upgrades: AtomicU64,
    accepted: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl ListenerMetrics {
    pub(super) fn new(name: Arc<str>, id: u32) -> ListenerMetrics {
        ListenerMetrics {
            name,
            id,
            began: otlp::nanos(SystemTime::now()),
            limit: AtomicUsize::new(0),
            cells: Sharded::default(),
            refused: Counts::default(),
            handshakes: Counts::default(),
            failed_handshakes: Counts::default(),
            tunnels: Counts::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Stands for it where routes count by listener.
    pub fn number(&self) -> u32 {
        self.id
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// It takes so many connections at once from now on.
    pub fn set_limit(&self, connections: usize) {
        self.limit.store(connections, Relaxed);
    }

    pub fn connection_opened(&self) {
        let cells = self.cells.mine();
        cells.accepted.fetch_add(1, Relaxed);
        cells.active.fetch_add(1, Relaxed);
    }

    pub fn connection_closed(&self) {
        self.cells.mine().active.fetch_sub(1, Relaxed);
    }

    /// For a connection that was closed instead of opened: it counts neither as active nor in the total.
    pub fn connection_refused(&self, reason: &'static str) {
        self.refused.add_one(reason);
    }

    /// A TLS handshake that came to its end, by what was agreed on.
    pub fn handshake_succeeded(&self, version: &'static str) {
        self.handshakes.add_one(version);
    }

    /// One that did not, by why.
    pub fn handshake_failed(&self, reason: &'static str) {
        self.failed_handshakes.add_one(reason);
    }

    /// A tunnel between two sidecars that came about (`opened`), or did not, by why.
    pub fn tunnel(&self, result: &'static str) {
        self.tunnels.add_one(result);
    }

    /// Of connections that are carried: what has gone from the client to the upstream, and back.
    pub fn bytes_carried(&self, bytes_in: u64, bytes_out: u64) {
        let cells = self.cells.mine();
        cells.bytes_in.fetch_add(bytes_in, Relaxed);
        cells.bytes_out.fetch_add(bytes_out, Relaxed);
    }

    pub fn request_started(&self) {
        self.cells.mine().in_flight.fetch_add(1, Relaxed);
    }

    pub fn request_ended(&self) {
        self.cells.mine().in_flight.fetch_sub(1, Relaxed);
    }

    /// A connection that was a client's HTTP/1 speaks another protocol from now on.
    pub fn upgraded(&self) {
        let cells = self.cells.mine();
        cells.upgrades.fetch_add(1, Relaxed);
        cells.upgraded.fetch_add(1, Relaxed);
    }

    pub fn upgraded_ended(&self) {
        self.cells.mine().upgraded.fetch_sub(1, Relaxed);
    }

    /// Open now.
    pub fn connections(&self) -> i64 {
        self.sum(|cells| &cells.active)
    }

    /// Begun and not ended.
    pub fn requests_in_flight(&self) -> i64 {
        self.sum(|cells| &cells.in_flight)
    }

    /// Opened since it began to count.
    pub fn connections_total(&self) -> u64 {
        self.total(|cells| &cells.accepted)
    }

    /// Of connections that are carried: bytes from clients, and to them.
    pub fn carried(&self) -> (u64, u64) {
        (self.total(|cells| &cells.bytes_in), self.total(|cells| &cells.bytes_out))
    }

    fn total(&self, cell: impl Fn(&Cells) -> &AtomicU64) -> u64 {
        self.cells.all().map(|cells| cell(cells).load(Relaxed)).sum()
    }

    fn sum(&self, cell: impl Fn(&Cells) -> &AtomicI64) -> i64 {
        self.cells.all().map(|cells| cell(cells).load(Relaxed)).sum()
    }
}

pub(super) fn write(out: &mut Exposition, listeners: &[Arc<ListenerMetrics>]) {
    out.gauge("tidegate_requests_in_flight", "Requests that have begun and not ended.");
    for listener in listeners {
        out.sample(&[("listener", listener.name())], listener.requests_in_flight());
    }
    out.gauge("tidegate_connections_active", "Open client connections.");
    for listener in listeners {
        out.sample(&[("listener", listener.name())], listener.connections());
    }
    out.gauge("tidegate_connections_limit", "Client connections that may be open at once.");
    for listener in listeners {
        out.sample(&[("listener", listener.name())], listener.limit.load(Relaxed));
    }
    out.counter("tidegate_connections_total", "Client connections accepted.");
    for listener in listeners {
        out.since(listener.began);
        out.sample(&[("listener", listener.name())], listener.connections_total());
    }
    out.gauge("tidegate_connections_upgraded", "Open client connections that speak WebSocket.");
    for listener in listeners {
        out.sample(&[("listener", listener.name())], listener.sum(|cells| &cells.upgraded));
    }
    out.counter("tidegate_upgrades_total", "Client connections that were upgraded to WebSocket.");
    for listener in listeners {
        out.since(listener.began);
        out.sample(&[("listener", listener.name())], listener.total(|cells| &cells.upgrades));
    }
    out.counter("tidegate_tcp_bytes_total", "Bytes carried, from clients (in) and to them (out).");
    for listener in listeners {
        let (bytes_in, bytes_out) = listener.carried();
        out.since(listener.began);
        // Nothing is carried on a listener that speaks HTTP.
        if bytes_in + bytes_out > 0 {
            out.sample(&[("listener", listener.name()), ("direction", "in")], bytes_in);
            out.sample(&[("listener", listener.name()), ("direction", "out")], bytes_out);
        }
    }
    out.counter("tidegate_connections_refused_total", "Client connections closed at once, by reason.");
    for listener in listeners {
        out.since(listener.began);
        for (reason, count) in listener.refused.totals() {
            out.sample(&[("listener", listener.name()), ("reason", reason)], count);
        }
    }
    out.counter("tidegate_tls_handshakes_total", "TLS handshakes with clients, by version.");
    for listener in listeners {
        out.since(listener.began);
        for (version, count) in listener.handshakes.totals() {
            out.sample(&[("listener", listener.name()), ("version", version)], count);
        }
    }
    out.counter(
        "tidegate_tls_handshake_failures_total",
        "TLS handshakes with clients that failed, by reason.",
    );
    for listener in listeners {
        out.since(listener.began);
        for (reason, count) in listener.failed_handshakes.totals() {
            out.sample(&[("listener", listener.name()), ("reason", reason)], count);
        }
    }
    out.counter("tidegate_tunnels_total", "Tunnels between sidecars, by result.");
    for listener in listeners {
        out.since(listener.began);
        for (result, count) in listener.tunnels.totals() {
            out.sample(&[("listener", listener.name()), ("result", result)], count);
        }
    }
}
