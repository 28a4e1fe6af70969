//! Stage 1: client connections. Listeners are opened, changed and closed here at run time, connections are limited
//! and put under deadlines, and what is not HTTP is refused before the proxy sees it.
//!
//! Pingora takes its listeners once, at start; so we own the accept loops and use it from the request on.

mod authority;
mod connection;
pub(crate) mod fuzzing;
mod http1;
mod http2;
mod listener;
mod pace;
mod proxy_protocol;
mod serve;
mod session;
mod sniff;
mod target;
mod tls;
mod tunnel;
mod websocket;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt;

pub(crate) use connection::lingering_close::say_goodbye;
pub(crate) use connection::transport::Transport;
pub(crate) use connection::wire::Socket;
pub(crate) use connection::{Connection, Ended};
pub(crate) use listener::activated::Activated;
pub(crate) use listener::handover::{Handover, HandoverError, Inherited, Successor};
pub(crate) use listener::port::Port;
pub(crate) use listener::socket::{
    BindError, bind, bound_unacknowledged, keep_alive, keep_alive_of_pingora, next_connection,
};
pub(crate) use listener::workers::Workers;
pub(crate) use session::{BodyLength, Server, Session, Upgraded};
pub(crate) use sniff::client_hello::Hello;
pub(crate) use tunnel::{Destination, Inbound, Tunnel};
pub(crate) use websocket::{GOING_AWAY, Outgoing as WebSocketFrames};

use crate::{accept::listener::socket::Listening, config, observe::Recorder, resources::Resources, snapshot};

/// What `Allow` says where a method is not proxied at all.
pub(crate) const ALLOW: &str = "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";

/// All listeners of this process, by their key.
pub(crate) struct Listeners {
    server: Arc<dyn Server>,
    carrier: Arc<dyn Tunnel>,
    recorder: Arc<Recorder>,
    workers: Arc<Workers>,
    resources: Arc<Resources>,
    activated: Activated,
    open: Mutex<HashMap<String, Arc<Port>>>,
    closing: Mutex<Vec<Arc<Port>>>,
}

/// Sockets bound for a snapshot that is not live yet; dropped, they are closed again.
pub(crate) struct Bound(Vec<(Arc<snapshot::Listener>, Listening)>);

impl Listeners {
    /// Connections are served by `workers`; those that are not HTTP are left to `carrier`.
    pub(crate) fn new(
        server: Arc<dyn Server>,
        carrier: Arc<dyn Tunnel>,
        recorder: Arc<Recorder>,
        workers: Workers,
        resources: Arc<Resources>,
        activated: Activated,
    ) -> Listeners {
        let (workers, open, closing) = (Arc::new(workers), Mutex::default(), Mutex::default());
        Listeners { server, carrier, recorder, workers, resources, activated, open, closing }
    }

    /// Bind what the snapshot asks for and this process does not hold yet: from a predecessor's sockets where it
    /// handed one over, else anew. Nothing is accepted yet.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound; none of the new sockets stays open then.
    pub(crate) fn bind(
        &self,
        snapshot: &snapshot::Snapshot,
        inherited: &mut Inherited,
    ) -> Result<Bound, BindError> {
        let open = lock(&self.open);
        let missing = snapshot.listeners.values().filter(|listener| !open.contains_key(&listener.key));
        let bound = missing.map(|listener| {
            let leaving = || {
                let leaving = open.values().filter(|port| !snapshot.listeners.contains_key(port.key()));
                leaving.filter_map(|port| port.duplicate_socket().ok())
            };
            let listening = match inherited.take(&listener.key) {
                Some(socket) => {
                    let file = inherited.take_file(&listener.key, listener.mode);
                    Listening::inherit(socket, file, &listener.address)
                }
                None if config::systemd_name(&listener.address).is_some() => {
                    Listening::activated(self.activated.take(&listener.address)?, &listener.address)
                }
                None => Listening::bind(listener, leaving),
            };
            Ok((listener.clone(), listening?))
        });
        bound.collect::<Result<_, _>>().map(Bound)
    }

    /// Make the listeners those of `snapshot`: accept on the new ones, change the settings of the kept ones, close
    /// the others once their requests are done.
    pub(crate) fn apply(&self, snapshot: &snapshot::Snapshot, bound: Bound) {
        let mut open = lock(&self.open);
        for (listener, socket) in bound.0 {
            let (server, carrier) = (self.server.clone(), self.carrier.clone());
            let workers = self.workers.clone();
            let shared = (self.recorder.clone(), self.resources.clone());
            let port = Port::open(listener, socket, server, carrier, shared, workers);
            open.insert(port.key().to_owned(), port);
        }
        let mut closing = lock(&self.closing);
        closing.retain(|port| !port.is_done());
        open.retain(|key, port| match snapshot.listeners.get(key) {
            Some(listener) => {
                port.change(listener.clone());
                true
            }
            None => {
                port.close();
                closing.push(port.clone());
                false
            }
        });
    }

    /// A successor accepts from the same sockets: what waits there is for it, and the files of Unix sockets are its own.
    pub(crate) fn leave(&self) {
        self.close_each(Port::leave_to_successor);
    }

    /// Stop accepting everywhere; requests in flight go on.
    pub(crate) fn close(&self) {
        self.close_each(Port::close);
    }

    fn close_each(&self, close: impl Fn(&Port)) {
        let mut open = lock(&self.open);
        let mut closing = lock(&self.closing);
        for (_, port) in open.drain() {
            close(&port);
            closing.push(port);
        }
    }

    /// Resolves when no connection is left, or after `grace`. Returns how many are left then. Shortly before, upgraded
    /// connections, which may have no end of their own, are told that it is over. What is still under way at the end is cut,
    /// and given the moment it takes to say so, to the client and in the log.
    pub(crate) async fn drained(&self, grace: Duration) -> usize {
        /// For the goodbye to those that are upgraded: two seconds for its answer, and a moment to begin.
        const PARTING: Duration = Duration::from_secs(3);
        const FAREWELL: Duration = Duration::from_millis(500);
        let parting = PARTING.min(grace / 4);
        if self.done_within(grace - parting).await == 0 {
            return 0;
        }
        lock(&self.closing).iter().for_each(|port| port.part());
        let left = self.done_within(parting).await;
        if left > 0 {
            lock(&self.closing).iter().for_each(|port| port.cut());
            self.done_within(FAREWELL).await;
        }
        left
    }

    /// Resolves when all are done, or after `patience`. Returns how many connections are left.
    async fn done_within(&self, patience: Duration) -> usize {
        const LOOK: Duration = Duration::from_millis(10);
        let deadline = Instant::now() + patience;
        loop {
            let (is_done, left) = {
                let closing = lock(&self.closing);
                (
                    closing.iter().all(|port| port.is_done()),
                    closing.iter().map(|port| port.connections()).sum(),
                )
            };
            if is_done || Instant::now() >= deadline {
                return left;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The sockets to hand over to a successor, by key.
    pub(crate) fn sockets(&self) -> Vec<(String, std::os::fd::OwnedFd)> {
        let open = lock(&self.open);
        // Also those that no listener has now: a later configuration of the successor may name them.
        let mut sockets = self.activated.duplicates();
        let bound = open.values().filter(|port| config::systemd_name(port.key()).is_none());
        sockets.extend(bound.filter_map(|port| Some((port.key().to_owned(), port.duplicate_socket().ok()?))));
        sockets
    }
}

/// A panic while a request is served ends that request, and its connection where it is HTTP/1, and nothing else.
/// The panic hook has logged it.
async fn guarded<T>(request: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(request).catch_unwind().await.ok()
}

/// The maps are valid after every statement that changes them, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(lock(&self.open).keys()).finish()
    }
}
