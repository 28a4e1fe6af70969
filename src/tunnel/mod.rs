//! Connections that are not HTTP: an endpoint is chosen for each, and then bytes go both ways until both sides have said
//! all.
//!
//! Whatever an upstream knows about its endpoints holds here as for requests: balancing, health, circuit breakers, limits. A
//! connection counts as one request that lasts as long as the connection does; whether it could be made is what the
//! breaker learns from.

mod account;
mod buffer;
mod connect;
mod far;
mod flow;
mod opening;
mod peer;
mod pipe;
mod sidecar;
mod upgraded;

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use futures::future::BoxFuture;
use tokio::net::TcpStream;

pub(crate) use crate::tunnel::upgraded::{Passed, carry_upgraded};
use crate::{
    accept::{Connection, Destination, Ended, Inbound, Transport, Tunnel},
    error::Reason,
    observe::Recorder,
    resources::Resources,
    snapshot::{self, Inward, Tunnels},
    tunnel::{
        account::Account,
        connect::{Connector, Held},
        far::Far,
        flow::{Broken, Flow, Side},
    },
    upstream::ClientAddresses,
};

/// What a server still says as it leaves, and that is no answer: the alert by which TLS ends is smaller.
const GOODBYE: u64 = 64;

/// Carries what listeners leave to it.
pub(crate) struct Tcp {
    recorder: Arc<Recorder>,
    resources: Arc<Resources>,
    connector: Connector,
}

impl Tcp {
    pub(crate) fn new(recorder: Arc<Recorder>, resources: Arc<Resources>) -> Tcp {
        Tcp { recorder, resources, connector: Connector::default() }
    }

    /// The endpoint for a connection, and how to reach it.
    ///
    /// # Errors
    ///
    /// There is none, or the client was cut off meanwhile.
    async fn reach(&self, inbound: &mut Inbound, account: &mut Account) -> Result<(Far, Held), Reason> {
        let Inbound { connection, transport, to, .. } = inbound;
        let is_refused = connection.is_refused() || self.resources.memory.is_short();
        let is_refused = is_refused || !self.resources.may_connect(1);
        let client = ClientAddresses { client: connection.peer, local: connection.local };
        if let Destination::Tunnelled(tunnels) = to {
            let Tunnels::In(inward) = &**tunnels else { return Err(Reason::Internal) };
            return self.let_in(inward, is_refused, connection, transport, client, account).await;
        }
        connection.carries(idle_timeout(connection, to));
        if is_refused {
            return Err(Reason::Overloaded);
        }
        until_ended(connection, self.connector.reach(to, client, &self.recorder, account)).await
    }

    /// What another sidecar opens a tunnel for, which is told whether it has one.
    async fn let_in(
        &self,
        inward: &Inward<Arc<snapshot::Destination>>,
        is_refused: bool,
        connection: &Connection,
        transport: &mut Transport,
        client: ClientAddresses,
        account: &mut Account,
    ) -> Result<(Far, Held), Reason> {
        // Under the deadline of the handshake, which has just ended.
        let admitted = until_ended(connection, sidecar::admit(inward, transport, connection, account)).await;
        let admitted = admitted.map_err(|reason| match reason {
            Reason::IdleTimeout => Reason::ClientTimeout,
            other => other,
        });
        let reached = match admitted {
            Ok(_) if is_refused => Err(Reason::Overloaded),
            Ok(entry) => {
                let entering = self.connector.enter(inward, entry, client, &self.recorder, account);
                until_ended(connection, entering).await
            }
            Err(reason) => Err(reason),
        };
        account.tunnel(&reached);
        let opened = reached.as_ref().err().map_or(Ok(()), |reason| Err(*reason));
        let told = async { opening::answer(transport, opened).await.map_err(|_| Reason::ClientClosed) };
        let told = until_ended(connection, told).await;
        match reached {
            Ok(reached) => told.map(|()| reached),
            Err(reason) => {
                transport.part();
                Err(reason)
            }
        }
    }
}

/// A connection that is cut off, or has waited for too long, waits no more. What is waited for comes boxed: an open connection does not
/// carry the state of how it was made.
async fn until_ended<T>(
    connection: &Connection,
    waited_for: impl Future<Output = Result<T, Reason>>,
) -> Result<T, Reason> {
    let mut waited_for = Box::pin(waited_for);
    poll_fn(|cx| match waited_for.as_mut().poll(cx) {
        Poll::Ready(reached) => Poll::Ready(reached),
        Poll::Pending => connection.poll_ended(cx).map(|ended| Err(reason(ended))),
    })
    .await
}

impl Tunnel for Tcp {
    fn carry(self: Arc<Self>, mut inbound: Inbound) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut account = Account::open(self.recorder.clone(), &inbound);
            let (far, _held) = match self.reach(&mut inbound, &mut account).await {
                Ok(reached) => reached,
                Err(reason) => {
                    account.failed(reason);
                    if let Destination::Sidecar(..) = inbound.to {
                        // What the client meant to reach was never there: no answer of it must look like one that is empty.
                        inbound.transport.abort();
                    }
                    return;
                }
            };
            let idle = idle_timeout(&inbound.connection, &inbound.to);
            inbound.connection.carries(idle);
            // The snapshot's part of it ends here: a connection may outlast many reloads.
            let Inbound { connection, transport, ahead, to, hello } = inbound;
            drop((to, hello));
            let (up, down) = (Flow::of(ahead), Flow::default());
            let mut join = Join { near: transport, far, up, down, has_spoken: false, behind: 0 };
            match join.run(&connection, idle, &mut account).await {
                Ok(end) => join.part(end),
                Err(reason) => {
                    account.failed(reason);
                    join.part(End::of(reason));
                }
            }
        })
    }
}

impl Side for Transport {
    fn plain(&self) -> Option<&TcpStream> {
        Transport::plain(self)
    }
}

/// A listener for HTTP gives what it passes on unseen more time than its own connections.
fn idle_timeout(connection: &Connection, to: &Destination) -> Duration {
    let settings = connection.port.settings();
    match (to, &settings.original_destination) {
        (Destination::Upstream(_), _) | (_, None) => settings.limits.carried_idle_timeout,
        (_, Some(captured)) => captured.idle_timeout,
    }
}

fn reason(ended: Ended) -> Reason {
    match ended {
        Ended::Idle => Reason::IdleTimeout,
        Ended::Cut => Reason::Draining,
    }
}

/// Two connections that are one.
struct Join {
    near: Transport,
    far: Far,
    up: Flow,
    down: Flow,
    /// The far side has said something before the client's end.
    has_spoken: bool,
    /// Bytes that came from the far side behind the end of what the client said.
    behind: u64,
}

/// Who must not take the end of a connection for the end of what was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nobody.
    Whole,
    /// The client: the far side broke off.
    Near,
    /// The far side: the client broke off.
    Far,
}

impl End {
    fn of(reason: Reason) -> End {
        match reason {
            Reason::ClientClosed => End::Far,
            Reason::UpstreamReset => End::Near,
            _ => End::Whole,
        }
    }
}

impl Join {
    /// Resolves when both sides have said all. A server that is told goodbye may leave without reading to the end of that, and
    /// the kernel then ends its connection with a reset (of a database over TLS, each of its sessions). It had nothing more to
    /// say, so that is no error. A client that is still there gets to see it as it is.
    async fn run(
        &mut self,
        connection: &Connection,
        idle: Duration,
        account: &mut Account,
    ) -> Result<End, Reason> {
        poll_fn(|cx| {
            let (mut sent, mut received) = (0, 0);
            let has_ended = self.up.has_ended();
            let up = self.up.poll(&mut self.near, &mut self.far, cx, &mut sent);
            let down = self.down.poll(&mut self.far, &mut self.near, cx, &mut received);
            match has_ended {
                true => self.behind += received,
                false => self.has_spoken |= received > 0,
            }
            if sent + received > 0 {
                connection.carries(idle);
                account.carried(sent, received);
            }
            match (up, down) {
                (Poll::Ready(Err(broken)), _) => Poll::Ready(Err(match broken {
                    Broken::From => Reason::ClientClosed,
                    Broken::To => Reason::UpstreamReset,
                })),
                (Poll::Ready(Ok(())), Poll::Ready(Err(Broken::From)))
                    if self.has_spoken && self.behind <= GOODBYE =>
                {
                    Poll::Ready(Ok(End::Near))
                }
                (_, Poll::Ready(Err(broken))) => Poll::Ready(Err(match broken {
                    Broken::From => Reason::UpstreamReset,
                    Broken::To => Reason::ClientClosed,
                })),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(End::Whole)),
                _ => connection.poll_ended(cx).map(|ended| Err(reason(ended))),
            }
        })
        .await
    }

    /// Whoever is still there must not take a break for an end.
    fn part(&mut self, end: End) {
        match end {
            End::Far => self.far.abort(),
            End::Near => self.near.abort(),
            End::Whole => {
                self.near.part();
                self.far.part();
            }
        }
    }
}
