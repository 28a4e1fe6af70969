//! One open listener: its socket, its accept loop, its connections and the sweeper that watches their deadlines.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, Weak,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::{runtime::Handle, sync::watch};

use crate::{
    accept::{
        Tunnel,
        connection::{CoarseClock, Connection, Draining, Ends, wire::Socket},
        listener::{
            socket::{Accepted, Listening, Owner},
            workers::{Seat, Workers},
        },
        lock,
        serve::{introduce, serve},
        session::Server,
    },
    error::Reason,
    observe::{
        Recorder,
        access::{Entry, connection::ConnectionEntry},
        log::event,
        metrics::RequestEnd,
    },
    resources::{Level, Resources, Room},
    snapshot::{Limits, Listener},
};

pub(crate) struct Port {
    key: String,
    settings: ArcSwap<Listener>,
    /// Taken out when the listener closes: a socket that nobody accepts from must not take connections.
    socket: Mutex<Option<Arc<Listening>>>,
    pub(in crate::accept) clock: CoarseClock,
    recorder: Arc<Recorder>,
    resources: Arc<Resources>,
    closing: watch::Sender<bool>,
    draining: AtomicBool,
    parting: AtomicBool,
    /// A successor accepts from the same socket.
    is_left: AtomicBool,
    /// Until the accept loop has ended.
    is_accepting: AtomicBool,
    count: AtomicUsize,
    next_id: AtomicU64,
    connections: Mutex<HashMap<u64, Weak<Connection>>>,
    per_ip: Mutex<HashMap<IpAddr, usize>>,
}

impl Port {
    /// Accept on `socket` until [`Port::close`].
    pub(in crate::accept) fn open(
        listener: Arc<Listener>,
        socket: Listening,
        server: Arc<dyn Server>,
        carrier: Arc<dyn Tunnel>,
        handles: (Arc<Recorder>, Arc<Resources>),
        workers: Arc<Workers>,
    ) -> Arc<Port> {
        let socket = Arc::new(socket);
        let port = Arc::new(Port::new(listener, Some(socket.clone()), handles));
        let settings = port.settings.load();
        let address = socket.name();
        event!(Info, "listening", listener = settings.name, address = address);
        tokio::spawn(accept(port.clone(), socket, server, carrier, workers));
        tokio::spawn(sweep(port.clone()));
        drop(settings);
        port
    }

    /// Nothing is accepted by itself; whoever has a connection may have it counted and served.
    pub(in crate::accept) fn new(
        listener: Arc<Listener>,
        socket: Option<Arc<Listening>>,
        (recorder, resources): (Arc<Recorder>, Arc<Resources>),
    ) -> Port {
        Port {
            key: listener.key.clone(),
            socket: Mutex::new(socket),
            settings: ArcSwap::new(listener),
            clock: CoarseClock::new(),
            recorder,
            resources,
            closing: watch::Sender::new(false),
            draining: AtomicBool::new(false),
            parting: AtomicBool::new(false),
            is_left: AtomicBool::new(false),
            is_accepting: AtomicBool::new(true),
            count: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            connections: Mutex::default(),
            per_ip: Mutex::default(),
        }
    }

    /// The settings of the newest snapshot.
    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<Listener>> {
        self.settings.load()
    }

    /// The limits alone, for those who wait: holding the settings would hold their whole snapshot.
    pub(in crate::accept) fn limits(&self) -> Limits {
        self.settings.load().limits.clone()
    }

    pub(in crate::accept) fn resources(&self) -> &Arc<Resources> {
        &self.resources
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub(in crate::accept) fn change(&self, listener: Arc<Listener>) {
        if self.settings.load().mode != listener.mode
            && let Some(listening) = &*lock(&self.socket)
        {
            listening.set_mode(listener.mode);
        }
        self.settings.store(listener);
    }

    /// Stop accepting; idle connections are closed, busy ones after their request. Who is in the queue already is served, but
    /// where the service manager listens on: there, by the next process.
    pub(in crate::accept) fn close(&self) {
        self.draining.store(true, Relaxed);
        // Here and now: the process may end before the accept loop lets go of it.
        if let Some(listening) = lock(&self.socket).take() {
            match listening.owner() {
                Owner::Us => listening.shut_out(),
                Owner::ServiceManager => self.is_left.store(true, Relaxed),
            }
        }
        self.closing.send_replace(true);
    }

    /// The same where a successor accepts from this socket: who is in the queue is for it, and a Unix socket's file its own.
    pub(in crate::accept) fn leave_to_successor(&self) {
        self.draining.store(true, Relaxed);
        self.is_left.store(true, Relaxed);
        if let Some(listening) = lock(&self.socket).take() {
            listening.leave_file();
        }
        self.closing.send_replace(true);
    }

    /// The time of a closed port's connections is nearly over: those that would not end by themselves are told.
    pub(in crate::accept) fn part(&self) {
        self.parting.store(true, Relaxed);
    }

    fn stage(&self) -> Draining {
        match (self.is_draining(), self.parting.load(Relaxed)) {
            (false, _) => Draining::No,
            (true, false) => Draining::Yes,
            (true, true) => Draining::Parting,
        }
    }

    /// End what is still under way.
    pub(in crate::accept) fn cut(&self) {
        // Not under the lock: a connection that ends in our hands wants it too.
        let connections: Vec<_> = lock(&self.connections).values().filter_map(Weak::upgrade).collect();
        connections.iter().for_each(|connection| connection.cut());
    }

    pub(in crate::accept) fn connections(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Closed, with nothing left to be done.
    pub(in crate::accept) fn is_done(&self) -> bool {
        // In this order: the last that is accepted counts before the loop has ended.
        !self.is_accepting.load(Acquire) && self.connections() == 0
    }

    pub(in crate::accept) fn duplicate_socket(&self) -> io::Result<OwnedFd> {
        let socket = lock(&self.socket);
        socket.as_ref().ok_or(io::ErrorKind::NotConnected)?.duplicate()
    }

    /// Hears that the listener closes.
    pub(in crate::accept) fn subscribe(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// A request that ended before it was one.
    pub(in crate::accept) fn record_refused(
        &self,
        connection: &Connection,
        reason: Reason,
        protocol: &'static str,
        method: &str,
        path: &str,
    ) {
        let settings = self.settings.load();
        let status = reason.status().as_u16();
        settings.unrouted.record(&RequestEnd {
            listener: &settings.metrics,
            status,
            method,
            duration: Duration::ZERO,
            first_byte: Some(Duration::ZERO),
            sizes: None,
            exemplar: None,
        });
        settings.unrouted.error(reason.code());
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

    /// A connection that ended before anything was done for it.
    pub(in crate::accept) fn record_closed(
        &self,
        peer: SocketAddr,
        reason: Reason,
        protocol: &str,
        host: Option<&str>,
    ) {
        let settings = self.settings.load();
        settings.unrouted.error(reason.code());
        self.recorder.access().record_connection(&ConnectionEntry {
            ts: SystemTime::now(),
            listener: &settings.name,
            upstream: None,
            endpoint: None,
            reason: Some(reason.code()),
            detail: None,
            status: reason.status().as_u16(),
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            client: Some(peer.ip().to_canonical()),
            peer: None,
            upstream_peer: None,
            tls: None,
            protocol,
            host,
        });
    }

    /// Room for one more connection, or why not.
    pub(in crate::accept) fn admit(self: &Arc<Port>, seat: Seat) -> Result<Place, &'static str> {
        if self.count.fetch_add(1, Relaxed) >= self.settings().limits.connections {
            self.count.fetch_sub(1, Relaxed);
            return Err("connections");
        }
        Ok(Place { port: self.clone(), _seat: seat })
    }

    /// A connection was closed instead of opened.
    pub(in crate::accept) fn refused(&self, peer: SocketAddr, limit: &'static str) {
        self.settings.load().metrics.connection_refused(limit);
        log::debug!("closed a connection from {peer}: {limit} limit reached");
    }

    /// Where the process runs short, the oldest of those that are idle end, and at last those that do not read what they asked
    /// for. `shortages` is how many of descriptors were seen before.
    fn make_room(&self, connections: &[Arc<Connection>], now: u64, shortages: &mut usize) {
        /// An eighth at a time: what ends is given a moment to show.
        const SHARE: usize = 8;
        const LEAST: usize = 16;
        let level = self.resources.memory.level();
        let seen = std::mem::replace(shortages, self.resources.shortages());
        let short_of = match (level, seen == *shortages) {
            (Level::Enough, true) => return,
            (Level::Enough, false) => "descriptors",
            (Level::Short | Level::Critical, _) => "memory",
        };
        let idle =
            connections.iter().filter_map(|connection| Some((connection.idle_since(now)?, connection)));
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable_by_key(|(since, _)| *since);
        let oldest = idle.iter().map(|(_, connection)| *connection).take((idle.len() / SHARE).max(LEAST));
        let is_critical = level == Level::Critical;
        let stalled = connections.iter().filter(|connection| is_critical && connection.does_not_read());
        for connection in oldest.chain(stalled) {
            connection.give_way();
            self.recorder.metrics.resources().shed("connection", short_of);
        }
    }

    /// Give back the place of a connection that ends.
    pub(in crate::accept) fn leave(&self, connection: &Connection) {
        lock(&self.connections).remove(&connection.id);
        if let Some(ip) = connection.counted_as {
            let mut per_ip = lock(&self.per_ip);
            if let Some(count) = per_ip.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    per_ip.remove(&ip);
                }
            }
        }
    }
}

/// A place among the connections that are counted, for as long as it lives. Whose it is may not be known yet.
pub(in crate::accept) struct Place {
    port: Arc<Port>,
    _seat: Seat,
}

impl Place {
    pub(in crate::accept) fn port(&self) -> &Arc<Port> {
        &self.port
    }

    /// The connection between `ends`, or why there is no room for it.
    pub(in crate::accept) fn open(self, ends: Ends) -> Result<Arc<Connection>, &'static str> {
        let port = self.port.clone();
        let settings = port.settings();
        let peer = ends.peer.ip().to_canonical();
        if let Some(arrivals) = &settings.arrivals {
            arrivals.admit(peer, Instant::now())?;
        }
        // All who come over a Unix socket would count as one.
        let by_ip = settings.limits.connections_per_ip.filter(|_| !peer.is_unspecified());
        let counted_as = by_ip.map(|_| settings.limits.ipv6_prefix.block(peer));
        if let Some((limit, ip)) = by_ip.zip(counted_as) {
            let mut per_ip = lock(&port.per_ip);
            let count = per_ip.entry(ip).or_default();
            if *count >= limit {
                return Err("connections_per_ip");
            }
            *count += 1;
        }
        let id = port.next_id.fetch_add(1, Relaxed);
        let connection = Arc::new(Connection::new(self, id, ends, counted_as));
        lock(&port.connections).insert(id, Arc::downgrade(&connection));
        Ok(connection)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.port.count.fetch_sub(1, Relaxed);
    }
}

async fn accept(
    port: Arc<Port>,
    listening: Arc<Listening>,
    server: Arc<dyn Server>,
    carrier: Arc<dyn Tunnel>,
    workers: Arc<Workers>,
) {
    let _accepts = Accepts(port.clone());
    let mut closing = port.closing.subscribe();
    let take = |(accepted, ends)| take(&port, accepted, ends, &server, &carrier, &workers);
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            connection = listening.next() => take(connection),
        }
    }
    if !port.is_left.load(Relaxed) {
        empty_queue(&listening, take).await;
    }
    // Before it is said that nobody accepts any more.
    drop(listening);
}

/// Somebody accepts connections for as long as it lives, also where that ends in a panic.
struct Accepts(Arc<Port>);

impl Drop for Accepts {
    fn drop(&mut self) {
        self.0.is_accepting.store(false, Release);
    }
}

/// Take those who were let in before the socket closes: it would reset them. Nobody new comes in.
async fn empty_queue(listening: &Listening, take: impl Fn((Accepted, Ends))) {
    /// For handshakes that were under way.
    const HANDSHAKES: Duration = Duration::from_millis(100);
    let until = tokio::time::Instant::now() + HANDSHAKES;
    // Should the kernel not keep new ones out, they do not keep the port open.
    while tokio::time::Instant::now() < until {
        // Unconstrained: what is ready must not seem late because this task has done much already.
        let next = tokio::task::unconstrained(tokio::time::timeout_at(until, listening.next()));
        let Ok(connection) = next.await else { break };
        take(connection);
    }
}

/// Have a connection that has come in served.
fn take(
    port: &Arc<Port>,
    accepted: Accepted,
    ends: Ends,
    server: &Arc<dyn Server>,
    carrier: &Arc<dyn Tunnel>,
    workers: &Workers,
) {
    let room = port.resources.descriptors.room_for(&accepted);
    if room != Room::Enough {
        port.resources.descriptors_ran_short();
    }
    if room == Room::Close {
        return port.refused(ends.peer, "descriptors");
    }
    let (runtime, seat) = workers.least_busy();
    let Some(socket) = adopt(accepted, runtime) else { return };
    let opened = match port.admit(seat) {
        // Whose it is would have to be waited for.
        Ok(_) if port.settings().introduced_by.is_some() && room == Room::Refuse => Err("descriptors"),
        Ok(place) if port.settings().introduced_by.is_some() => {
            runtime.spawn(introduce(server.clone(), carrier.clone(), socket, place, ends));
            return;
        }
        Ok(place) => place.open(ends),
        Err(limit) => Err(limit),
    };
    match opened {
        Ok(connection) => {
            if room == Room::Refuse {
                connection.refuse();
            }
            runtime.spawn(serve(server.clone(), carrier.clone(), socket, connection, BytesMut::new()));
        }
        Err(limit) => port.refused(ends.peer, limit),
    }
}

/// The socket on the runtime that is to serve it, which alone is woken for it then.
fn adopt(accepted: Accepted, runtime: &Handle) -> Option<Socket> {
    let _entered = runtime.enter();
    let adopted = accepted.adopt();
    adopted.inspect_err(|error| log::error!("cannot watch a connection that came in: {error}")).ok()
}

/// Look at every connection's deadline a few times a second, until the listener is closed and empty.
async fn sweep(port: Arc<Port>) {
    let mut shortages = 0;
    loop {
        let draining = port.is_draining();
        if draining && port.is_done() {
            return;
        }
        tokio::time::sleep(interval(&port.settings.load(), draining)).await;
        let now = port.clock.update();
        // Not under the lock: a connection that ends in our hands wants it too.
        let connections: Vec<_> = lock(&port.connections).values().filter_map(Weak::upgrade).collect();
        let stage = port.stage();
        connections.iter().for_each(|connection| connection.sweep(now, stage));
        port.make_room(&connections, now, &mut shortages);
    }
}

/// Deadlines are kept to within a quarter of the shortest one, at most 250 ms.
fn interval(listener: &Listener, draining: bool) -> Duration {
    let limits = &listener.limits;
    let mut shortest = limits.header_timeout.min(limits.idle_timeout).min(limits.write_timeout);
    shortest = shortest.min(limits.upgraded_idle_timeout);
    if listener.tls.is_some() || listener.passthrough.is_some() {
        shortest = shortest.min(limits.handshake_timeout);
    }
    let longest = if draining { Duration::from_millis(20) } else { Duration::from_millis(250) };
    (shortest / 4).clamp(Duration::from_millis(5), longest)
}

#[cfg(test)]
impl Port {
    pub(in crate::accept) fn for_test() -> Arc<Port> {
        let handles = (Recorder::for_test(), Resources::for_test());
        Arc::new(Port::new(Listener::for_test(), None, handles))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::connection::{Phase, Verdict};

    /// In milliseconds, long after all that happens in these tests.
    const NOW: u64 = 100_000;

    fn connection(port: &Arc<Port>) -> Arc<Connection> {
        let end = SocketAddr::from(([127, 0, 0, 1], 1));
        port.admit(Seat::for_test()).unwrap().open(Ends { peer: end, local: end }).unwrap()
    }

    /// Twenty that are idle, one longer than the other.
    fn idle(port: &Arc<Port>) -> Vec<Arc<Connection>> {
        let since = |at: u64| {
            port.clock.set(at);
            let connection = connection(port);
            connection.enter(Phase::Idle, None);
            connection
        };
        (1..=20).map(|n| since(100 * n)).collect()
    }

    fn gave_way(connections: &[Arc<Connection>]) -> Vec<usize> {
        let ended = |n: &usize| connections[*n].verdict() == Verdict::Expired;
        (0..connections.len()).filter(ended).collect()
    }

    #[test]
    fn at_the_limit_of_memory_those_that_are_idle_for_the_longest_give_way_first() {
        let port = Port::for_test();
        let mut connections = idle(&port);
        // Older than all, and at work.
        connections.push(connection(&port));
        connections[20].enter(Phase::Busy, None);
        // The order in which they come says nothing.
        connections[..20].reverse();
        port.make_room(&connections, NOW, &mut 0);
        assert!(gave_way(&connections).is_empty(), "there is memory");
        port.resources.memory.set_limit(Some(1600));
        port.resources.memory.look(1600);
        port.make_room(&connections, NOW, &mut 0);
        assert_eq!(gave_way(&connections), (4..20).collect::<Vec<usize>>(), "sixteen at a time");
        port.make_room(&connections, NOW, &mut 0);
        assert_eq!(gave_way(&connections), (0..20).collect::<Vec<usize>>());
    }

    #[test]
    fn far_beyond_the_limit_of_memory_those_that_do_not_read_give_way_too() {
        let port = Port::for_test();
        let connections = [connection(&port), connection(&port)];
        connections.iter().for_each(|connection| connection.enter(Phase::Busy, None));
        connections[1].write_stalls();
        port.resources.memory.set_limit(Some(1600));
        for (used, ended) in [(1600, vec![]), (1800, vec![1_usize])] {
            port.resources.memory.look(used);
            port.make_room(&connections, NOW, &mut 0);
            assert_eq!(gave_way(&connections), ended, "{used}");
        }
    }

    #[test]
    fn one_that_waits_for_its_first_turn_does_not_give_way_at_once() {
        let port = Port::for_test();
        port.clock.set(NOW);
        let connections = [connection(&port)];
        port.resources.descriptors_ran_short();
        port.make_room(&connections, NOW + 400, &mut 0);
        assert!(gave_way(&connections).is_empty());
        port.make_room(&connections, NOW + 2000, &mut 0);
        assert_eq!(gave_way(&connections), [0]);
    }

    #[test]
    fn a_shortage_of_descriptors_ends_idle_connections_once() {
        let port = Port::for_test();
        let connections = idle(&port);
        let mut seen = 0;
        port.make_room(&connections, NOW, &mut seen);
        assert!(gave_way(&connections).is_empty());
        port.resources.descriptors_ran_short();
        for _ in 0..2 {
            port.make_room(&connections, NOW, &mut seen);
            assert_eq!(gave_way(&connections), (0..16).collect::<Vec<usize>>());
        }
    }
}
