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
    snapshot::{self, Tunnels},
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
    detail: Option<Box<str>>,
    /// The SPIFFE ID of the endpoint.
    upstream_peer: Option<Arc<str>>,
    /// Another sidecar has opened it here.
    is_tunnelled: bool,
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
            Destination::Upstream(to) | Destination::Sidecar(to, _) => {
                (Some(to.upstream.name().into()), to.metrics.clone())
            }
            Destination::Tunnelled(tunnels) => match &**tunnels {
                Tunnels::In(inward) => (Some(inward.to.upstream.name().into()), inward.to.metrics.clone()),
                Tunnels::Out(_) => (None, recorder.metrics.route(&listener, None)),
            },
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
            detail: None,
            upstream_peer: None,
            is_tunnelled: matches!(inbound.to, Destination::Tunnelled(_)),
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// What follows is tried there, be it where it was meant to go or whoever stands in.
    pub(crate) fn goes_to(&mut self, to: &snapshot::Destination) {
        if self.upstream.as_deref() != Some(to.upstream.name()) {
            (self.upstream, self.errors) = (Some(to.upstream.name().into()), to.metrics.clone());
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

    /// What stands behind the reason that follows.
    pub(crate) fn explain(&mut self, detail: &str) {
        self.detail = Some(detail.into());
    }

    /// The endpoint has proved who it is.
    pub(crate) fn reached(&mut self, peer: Option<&Arc<str>>) {
        self.upstream_peer = peer.cloned();
    }

    /// Whether a tunnel between two sidecars came about.
    pub(crate) fn tunnel<T>(&self, opened: &Result<T, Reason>) {
        self.metrics.tunnel(opened.as_ref().err().map_or("opened", |reason| reason.code()));
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
            detail: self.detail.as_deref(),
            status: self.reason.map_or(0, |reason| reason.status().as_u16()),
            attempts: self.attempts,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration: self.opened.elapsed(),
            client: Some(self.client.to_canonical()),
            peer: tls.and_then(|tls| Some(tls.caller.as_ref()?.name())),
            upstream_peer: self.upstream_peer.as_deref(),
            tls: tls.map(|tls| tls.version),
            protocol: match (&self.hello, self.is_tunnelled) {
                (Some(_), _) => "TLS",
                (None, true) => "tunnel",
                (None, false) => "TCP",
            },
            host: match &self.hello {
                Some(hello) => hello.server_name.as_deref(),
                None => tls.and_then(|tls| tls.sni.as_deref()),
            },
        });
    }
}
