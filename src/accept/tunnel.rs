//! Who carries a connection that is not HTTP. What listeners know of it is this much: it has been admitted, has its place
//! among the counted and its deadline, and what was read of it so far goes on first.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{
    accept::{Connection, Hello, Transport},
    snapshot,
};

pub(crate) trait Tunnel: Send + Sync + 'static {
    /// From the first byte to the last. The connection counts as open until `inbound.connection` is dropped.
    fn carry(self: Arc<Self>, inbound: Inbound) -> BoxFuture<'static, ()>;
}

pub(crate) struct Inbound {
    pub connection: Arc<Connection>,
    pub transport: Transport,
    /// Read already: goes to the upstream first, as it came.
    pub ahead: Bytes,
    pub to: Destination,
    /// What the client asked for, where TLS passes through.
    pub hello: Option<Box<Hello>>,
}

/// Where it is carried.
pub(crate) enum Destination {
    Upstream(Arc<snapshot::Destination>),
    /// Where the client meant to go.
    Original(SocketAddr),
    /// The same over mTLS, to the sidecar there.
    Sidecar(Arc<snapshot::Destination>, SocketAddr),
    /// It is another sidecar that opens a tunnel here: where it leads is still to be heard.
    Tunnelled(Arc<snapshot::Tunnels<Arc<snapshot::Destination>>>),
}
