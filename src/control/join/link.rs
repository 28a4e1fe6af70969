//! The way to a control plane: one of its servers at a time, another after each failure, over the connections that upstreams
//! would make. A name stands for all its addresses.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use tower_service::Service;

use crate::{
    config,
    identity::Identity,
    names::Resolve,
    snapshot::Current,
    upstream::{Address, Dialer, Live},
};

/// A connection with its handshake, and the first answer on it.
pub(in crate::control) const PATIENCE: Duration = Duration::from_secs(5);

pub(in crate::control) struct Link {
    servers: Vec<Address>,
    token: Option<MetadataValue<Ascii>>,
    tls: Option<config::UpstreamTls>,
    who: Who,
    live: Live,
    dialer: Mutex<Option<DialerOf>>,
    names: Arc<dyn Resolve>,
    /// Those that were not tried in this round, in random order.
    untried: Mutex<VecDeque<Server>>,
}

/// As whom a connection is made, and by whose bundles it is verified.
pub(in crate::control) enum Who {
    /// As whom this gateway is then.
    Current(Current),
    This(Option<Arc<Identity>>),
}

/// Who this gateway was when it was made.
type DialerOf = (Option<Arc<Identity>>, Arc<Dialer>);

/// One address, and what it was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Server {
    pub address: SocketAddr,
    pub origin: String,
}

impl Link {
    pub(in crate::control) fn new(
        join: &config::Join,
        who: Who,
        live: Live,
        names: Arc<dyn Resolve>,
    ) -> Link {
        let token = join.token.as_ref().and_then(|token| {
            let mut value = MetadataValue::try_from(format!("Bearer {}", token.expose())).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Link {
            // What is no address was refused.
            servers: join.servers.iter().filter_map(|server| server.parse().ok()).collect(),
            token,
            tls: join.tls.clone(),
            who,
            live,
            dialer: Mutex::default(),
            names,
            untried: Mutex::default(),
        }
    }

    /// A connection with the next server.
    ///
    /// # Errors
    ///
    /// Why there is none, for the operator.
    pub(in crate::control) async fn connect(&self) -> Result<(Channel, Server), String> {
        self.settled().await;
        let server = self.next().await?;
        let at = |why: String| format!("{} ({}): {why}", server.origin, server.address);
        let endpoint = Endpoint::from_shared(format!("http://{}", server.origin))
            .map_err(|error| at(error.to_string()))?
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let dial = Dial { dialer: self.dialer()?, server: server.clone() };
        match tokio::time::timeout(2 * PATIENCE, endpoint.connect_with_connector(dial)).await {
            Ok(Ok(channel)) => Ok((channel, server)),
            Ok(Err(error)) => Err(at(innermost(&error))),
            Err(_) => Err(at("it does not speak HTTP/2 in time".to_owned())),
        }
    }

    /// `message`, with what we are known by.
    pub(in crate::control) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    fn identity(&self) -> Option<Arc<Identity>> {
        match &self.who {
            Who::Current(current) => {
                current.pin().identity.as_ref().map(|identity| identity.shared().clone())
            }
            Who::This(identity) => identity.clone(),
        }
    }

    /// At a start our own SVID may be on its way: without it there is no connection.
    async fn settled(&self) {
        let shows = self.tls.as_ref().is_some_and(|tls| tls.client_identity);
        if let Some(identity) = self.identity().filter(|_| shows) {
            let _ = tokio::time::timeout(PATIENCE, identity.settled()).await;
        }
    }

    fn dialer(&self) -> Result<Arc<Dialer>, String> {
        let identity = self.identity();
        let mut known = self.dialer.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |before: &Option<Arc<Identity>>| match (before, &identity) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        if let Some((_, dialer)) = known.as_ref().filter(|(before, _)| is_same(before)) {
            return Ok(dialer.clone());
        }
        let live = self.live.with_identity(identity.clone());
        let dialer = Dialer::new(self.tls.as_ref(), &live, PATIENCE).map_err(|refusals| {
            refusals.into_iter().map(|refusal| refusal.why).collect::<Vec<_>>().join("; ")
        })?;
        let dialer = Arc::new(dialer);
        *known = Some((identity, dialer.clone()));
        Ok(dialer)
    }

    /// The servers' addresses, as far as names are known.
    pub(super) async fn addresses(&self) -> Vec<SocketAddr> {
        self.find().await.0.into_iter().map(|server| server.address).collect()
    }

    async fn next(&self) -> Result<Server, String> {
        let next = || self.untried.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        if let Some(server) = next() {
            return Ok(server);
        }
        let (mut found, failed) = self.find().await;
        fastrand::shuffle(&mut found);
        *self.untried.lock().unwrap_or_else(PoisonError::into_inner) = found.into();
        next().ok_or_else(|| failed.join("; "))
    }

    /// All servers there are, and why some are not known.
    async fn find(&self) -> (Vec<Server>, Vec<String>) {
        let mut found = Vec::new();
        let mut failed = Vec::new();
        for server in &self.servers {
            match server {
                Address::Ip(address) => found.push(Server { address: *address, origin: address.to_string() }),
                Address::Host { host, port } => match self.names.resolve(host).await {
                    Ok(answer) => found.extend(answer.addresses.into_iter().map(|ip| Server {
                        address: SocketAddr::new(ip, *port),
                        origin: format!("{host}:{port}"),
                    })),
                    Err(why) => failed.push(format!("{host}: {why}")),
                },
                Address::Unix(_) => {}
            }
        }
        (found, failed)
    }
}

/// Connects to one server, whatever the URI.
#[derive(Clone)]
struct Dial {
    dialer: Arc<Dialer>,
    server: Server,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection of whatever kind.
struct Connection(Box<dyn Io>);

impl Service<Uri> for Dial {
    type Response = TokioIo<Connection>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Connection>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Dial { dialer, server } = self.clone();
        async move {
            let stream = dialer.dial(server.address, &server.origin).await.map_err(io::Error::other)?;
            Ok(TokioIo::new(Connection(Box::new(stream))))
        }
        .boxed()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The transport's own words are "transport error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
impl Link {
    /// One that no test connects.
    pub(super) fn to_nowhere() -> Arc<Link> {
        let names: Arc<dyn Resolve> = Arc::new(crate::names::SystemResolver::new());
        let live = Live::offline(names.clone(), Arc::new(()));
        Arc::new(Link {
            servers: Vec::new(),
            token: None,
            tls: None,
            who: Who::This(None),
            live,
            dialer: Mutex::default(),
            names,
            untried: Mutex::default(),
        })
    }
}
