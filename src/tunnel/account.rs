//! What is said of a connection when it has ended, however it ends: the metrics as it goes, the access log at last.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use crate::{
    accept::{Connection, Destination, Hello, Inbound},
    error::Reason,
    observe::{
        Recorder,
        access::connection::ConnectionEntry,
        metrics::{ListenerMetrics, RouteMetrics},
    },
};

/// Of one connection; written when dropped.
pub(super) struct Account {
    recorder: Arc<Recorder>,
    /// It counts as open until this is told.
    connection: Arc<Connection>,
    metrics: Arc<ListenerMetrics>,
    /// Under the listener's name.
    errors: Arc<RouteMetrics>,
    listener: Arc<str>,
    upstream: Option<Box<str>>,
    endpoint: Option<Arc<str>>,
    client: IpAddr,
    /// What the client asked for, where TLS passes through.
    hello: Option<Box<Hello>>,
    opened: Instant,
    reason: Option<Reason>,
    attempts: u32,
    bytes_in: u64,
    bytes_out: u64,
}

impl Account {
    pub(crate) fn open(recorder: Arc<Recorder>, inbound: &Inbound) -> Account {
        let (listener, metrics) = {
            let settings = inbound.connection.port.settings();
            (settings.name.clone(), settings.metrics.clone())
        };
        let (upstream, errors) = match &inbound.to {
            Destination::Upstream(to) => (Some(to.upstream.name().into()), to.metrics.clone()),
            Destination::Original(_) => (None, recorder.metrics.route(&listener, None)),
        };
        Account {
            recorder,
            connection: inbound.connection.clone(),
            metrics,
            errors,
            listener,
            upstream,
            endpoint: None,
            client: inbound.connection.peer.ip(),
            hello: inbound.hello.clone(),
            opened: Instant::now(),
            reason: None,
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// A try at `endpoint` begins.
    pub(crate) fn tries(&mut self, endpoint: Arc<str>) {
        self.attempts += 1;
        self.endpoint = Some(endpoint);
    }

    pub(crate) fn carried(&mut self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
        self.metrics.bytes_carried(bytes_in, bytes_out);
    }

    pub(crate) fn failed(&mut self, reason: Reason) {
        self.reason = Some(reason);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.reason = Some(Reason::Panic);
        }
        if let Some(reason) = self.reason {
            self.errors.error(reason.code());
        }
        let access = self.recorder.access();
        if !access.is_on() {
            return;
        }
        let tls = self.connection.tls();
        access.record_connection(&ConnectionEntry {
            ts: SystemTime::now(),
            listener: &self.listener,
            upstream: self.upstream.as_deref(),
            endpoint: self.endpoint.as_deref(),
            reason: self.reason.map(Reason::code),
            status: self.reason.map_or(0, |reason| reason.status().as_u16()),
            attempts: self.attempts,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration: self.opened.elapsed(),
            client: Some(self.client.to_canonical()),
            peer: tls.and_then(|tls| Some(tls.caller.as_ref()?.name())),
            tls: tls.map(|tls| tls.version),
            protocol: if self.hello.is_some() { "TLS" } else { "TCP" },
            host: match &self.hello {
                Some(hello) => hello.server_name.as_deref(),
                None => tls.and_then(|tls| tls.sni.as_deref()),
            },
        });
    }
}
