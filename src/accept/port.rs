//! One open listener: its socket, its accept loop, its connections and the sweeper that watches their deadlines.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use pingora_core::apps::HttpServerApp;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{
    Carrier, Destination, Inbound,
    connection::{CoarseClock, Connection, Draining},
    guarded, http1, http2, lock,
    socket::next_connection,
    stream::ClientStream,
    tls::{self, Agreed},
    transport::Transport,
};
use crate::{
    error::Reason,
    observe::{Recorder, access::Entry, log::event},
    snapshot::{Limits, Listener},
};

pub struct Port {
    key: String,
    settings: ArcSwap<Listener>,
    /// Taken out when the listener closes: a socket that nobody accepts from must not take connections.
    socket: Mutex<Option<Arc<TcpListener>>>,
    pub(super) clock: CoarseClock,
    recorder: Arc<Recorder>,
    closing: watch::Sender<bool>,
    draining: AtomicBool,
    parting: AtomicBool,
    count: AtomicUsize,
    next_id: AtomicU64,
    connections: Mutex<HashMap<u64, Weak<Connection>>>,
    per_ip: Mutex<HashMap<IpAddr, usize>>,
}

impl Port {
    /// Accept on `socket` until [`Port::close`].
    pub(super) fn open<A>(
        listener: Arc<Listener>,
        socket: TcpListener,
        app: Arc<A>,
        carrier: Arc<dyn Carrier>,
        recorder: Arc<Recorder>,
    ) -> Arc<Port>
    where
        A: HttpServerApp + Send + Sync + 'static,
    {
        let socket = Arc::new(socket);
        let port = Arc::new(Port {
            key: listener.key.clone(),
            socket: Mutex::new(Some(socket.clone())),
            settings: ArcSwap::new(listener),
            clock: CoarseClock::new(),
            recorder,
            closing: watch::Sender::new(false),
            draining: AtomicBool::new(false),
            parting: AtomicBool::new(false),
            count: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            connections: Mutex::default(),
            per_ip: Mutex::default(),
        });
        let settings = port.settings.load();
        // As configured, where the kernel does not say which port it chose.
        let address =
            socket.local_addr().map_or_else(|_| settings.address.clone(), |bound| bound.to_string());
        event!(Info, "listening", listener = settings.name, address = address);
        tokio::spawn(accept(port.clone(), socket, app, carrier));
        tokio::spawn(sweep(port.clone()));
        drop(settings);
        port
    }

    /// The settings of the newest snapshot.
    pub fn settings(&self) -> arc_swap::Guard<Arc<Listener>> {
        self.settings.load()
    }

    /// The limits alone, for those who wait: holding the settings would hold their whole snapshot.
    pub(super) fn limits(&self) -> Limits {
        self.settings.load().limits.clone()
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub(super) fn change(&self, listener: Arc<Listener>) {
        self.settings.store(listener);
    }

    /// Stop accepting; idle connections are closed, busy ones after their request.
    pub(super) fn close(&self) {
        self.draining.store(true, Relaxed);
        self.closing.send_replace(true);
        lock(&self.socket).take();
    }

    /// The time of a closed port's connections is nearly over: those that would not end by themselves are told.
    pub(super) fn part(&self) {
        self.parting.store(true, Relaxed);
    }

    fn stage(&self) -> Draining {
        match (self.is_draining(), self.parting.load(Relaxed)) {
            (false, _) => Draining::No,
            (true, false) => Draining::Yes,
            (true, true) => Draining::Parting,
        }
    }

    /// End the connections that are carried; how many those are.
    pub(super) fn cut(&self) -> usize {
        // Not under the lock: a connection that ends in our hands wants it too.
        let connections: Vec<_> = lock(&self.connections).values().filter_map(Weak::upgrade).collect();
        connections.iter().filter(|connection| connection.cut()).count()
    }

    pub(super) fn connections(&self) -> usize {
        self.count.load(Relaxed)
    }

    pub(super) fn duplicate_socket(&self) -> io::Result<OwnedFd> {
        let socket = lock(&self.socket);
        socket.as_ref().ok_or(io::ErrorKind::NotConnected)?.as_fd().try_clone_to_owned()
    }

    /// A request that ended before it was one.
    pub(super) fn record_refused(
        &self,
        connection: &Connection,
        reason: Reason,
        protocol: &'static str,
        method: &str,
        path: &str,
    ) {
        let settings = self.settings.load();
        let status = reason.status().as_u16();
        self.recorder.unrouted.record(&settings.metrics, status, Duration::ZERO);
        self.recorder.unrouted.error(reason.code());
        self.recorder.access().record(&Entry {
            listener: &settings.name,
            method,
            path,
            status,
            reason: Some(reason.code()),
            client: Some(connection.peer.ip()),
            protocol,
            ..Entry::at(SystemTime::now())
        });
    }

    /// Room for one more connection from `peer`, or why not.
    pub(super) fn admit(self: &Arc<Port>, peer: SocketAddr) -> Result<Arc<Connection>, &'static str> {
        let settings = self.settings();
        if self.count.load(Relaxed) >= settings.limits.connections {
            return Err("connections");
        }
        if let Some(arrivals) = &settings.arrivals {
            arrivals.admit(peer.ip(), Instant::now())?;
        }
        if let Some(limit) = settings.limits.connections_per_ip {
            let mut per_ip = lock(&self.per_ip);
            let count = per_ip.entry(peer.ip()).or_default();
            if *count >= limit {
                return Err("connections_per_ip");
            }
            *count += 1;
        }
        self.count.fetch_add(1, Relaxed);
        let id = self.next_id.fetch_add(1, Relaxed);
        let by_ip = settings.limits.connections_per_ip.is_some();
        let connection = Arc::new(Connection::new(self.clone(), id, peer, by_ip));
        lock(&self.connections).insert(id, Arc::downgrade(&connection));
        // The sweeper leaves an empty port that drains; whoever comes after it would have no deadlines.
        if self.is_draining() { Err("closing") } else { Ok(connection) }
    }

    /// Give back the place of a connection that ends.
    pub(super) fn leave(&self, connection: &Connection) {
        lock(&self.connections).remove(&connection.id);
        if connection.counted_by_ip {
            let mut per_ip = lock(&self.per_ip);
            let ip = connection.peer.ip();
            if let Some(count) = per_ip.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    per_ip.remove(&ip);
                }
            }
        }
        self.count.fetch_sub(1, Relaxed);
    }
}

async fn accept<A>(port: Arc<Port>, socket: Arc<TcpListener>, app: Arc<A>, carrier: Arc<dyn Carrier>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let mut closing = port.closing.subscribe();
    loop {
        let (socket, peer) = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            connection = next_connection(&socket) => connection,
        };
        match port.admit(peer) {
            Ok(connection) => {
                tokio::spawn(serve(app.clone(), carrier.clone(), socket, connection));
            }
            Err(limit) => {
                port.settings.load().metrics.connection_refused(limit);
                log::debug!("closed a connection from {peer}: {limit} limit reached");
            }
        }
    }
}

async fn serve<A>(app: Arc<A>, carrier: Arc<dyn Carrier>, socket: TcpStream, connection: Arc<Connection>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    // Answers are written whole; waiting for more to fill a packet would only delay them.
    let _ = socket.set_nodelay(true);
    // The newest: a reload may have brought TLS, or other certificates.
    let (terminator, carried_to) = {
        let settings = connection.port.settings();
        (settings.tls.clone(), settings.carried_to.clone())
    };
    let (transport, agreed) = match terminator {
        None => (Transport::Plain(socket), Agreed::Http1),
        // It comes boxed: an open connection does not carry the state of its handshake.
        Some(terminator) => {
            let handshake = Box::pin(tls::handshake(socket, &connection, &terminator));
            let Some(established) = guarded(handshake).await.flatten() else { return };
            established
        }
    };
    if let Some(to) = carried_to {
        let to = Destination::Upstream(to);
        let inbound = Inbound { connection, transport, ahead: Bytes::new(), to };
        // A task of its own: this one has room for all that HTTP needs, and a carried connection may last for days.
        tokio::spawn(carrier.carry(inbound));
        return;
    }
    let shutdown = connection.port.closing.subscribe();
    let stream = ClientStream::new(transport, connection);
    let http2 = match agreed {
        Agreed::Http1 => http1::serve(&app, stream, &shutdown).await,
        Agreed::Http2 => Some(stream),
    };
    if let Some(stream) = http2 {
        guarded(Box::pin(http2::serve(&app, stream, &shutdown))).await;
    }
}

/// Look at every connection's deadline a few times a second, until the listener is closed and empty.
async fn sweep(port: Arc<Port>) {
    loop {
        let draining = port.is_draining();
        if draining && port.connections() == 0 {
            return;
        }
        tokio::time::sleep(interval(&port.settings.load(), draining)).await;
        let now = port.clock.update();
        // Not under the lock: a connection that ends in our hands wants it too.
        let connections: Vec<_> = lock(&port.connections).values().filter_map(Weak::upgrade).collect();
        let stage = port.stage();
        connections.iter().for_each(|connection| connection.sweep(now, stage));
    }
}

/// Deadlines are kept to within a quarter of the shortest one, at most 250 ms.
fn interval(listener: &Listener, draining: bool) -> Duration {
    let limits = &listener.limits;
    let mut shortest = limits.header_timeout.min(limits.idle_timeout).min(limits.write_timeout);
    shortest = shortest.min(limits.upgraded_idle_timeout);
    if listener.tls.is_some() {
        shortest = shortest.min(limits.handshake_timeout);
    }
    let longest = if draining { Duration::from_millis(20) } else { Duration::from_millis(250) };
    (shortest / 4).clamp(Duration::from_millis(5), longest)
}

#[cfg(test)]
impl Port {
    pub(super) fn for_test() -> Arc<Port> {
        Arc::new(Port {
            key: String::new(),
            settings: ArcSwap::new(Listener::for_test()),
            socket: Mutex::new(None),
            clock: CoarseClock::new(),
            recorder: Recorder::for_test(),
            closing: watch::Sender::new(false),
            draining: AtomicBool::new(false),
            parting: AtomicBool::new(false),
            count: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            connections: Mutex::default(),
            per_ip: Mutex::default(),
        })
    }
}
