//! The ClientHello says where the client wants to go, and the connection goes there: as it came, or without its TLS. On a port of HTTP,
//! what no entry of `sni` is for is terminated.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    accept::{
        Connection,
        connection::{Verdict, lingering_close::close_below, transport::Transport, wire::Socket},
        sniff::client_hello::{Alert, Assembly, Flaw, Hello, LONGEST},
        tls::PLAIN_HTTP,
    },
    error::Reason,
    snapshot::{Destination, Passthrough, Unmatched},
};

pub(in crate::accept) enum Next {
    Pass(Arc<Destination>, Box<Hello>),
    /// It is for us.
    Terminate,
    Close(Refusal),
}

/// Why it goes nowhere.
#[derive(Debug)]
pub(in crate::accept) enum Refusal {
    Flaw(Flaw),
    /// No entry is for this name.
    Name(Option<String>),
    /// None is for this name with what the client offers.
    Protocol(Option<String>),
    Timeout,
    Draining,
    Closed,
}

impl Refusal {
    /// For the metrics, where failed handshakes have the same words.
    fn word(&self) -> &'static str {
        match self {
            Refusal::Flaw(flaw) => flaw.word(),
            Refusal::Name(_) => "unrecognized_name",
            Refusal::Protocol(_) => "no_application_protocol",
            Refusal::Timeout => "timeout",
            Refusal::Draining => "draining",
            Refusal::Closed => "closed",
        }
    }

    /// For the access log.
    fn reason(&self) -> Reason {
        match self {
            Refusal::Flaw(_) => Reason::BadRequest,
            Refusal::Name(_) | Refusal::Protocol(_) => Reason::NoRoute,
            Refusal::Timeout => Reason::ClientTimeout,
            Refusal::Draining => Reason::Draining,
            Refusal::Closed => Reason::ClientClosed,
        }
    }

    /// What the client is told, in words that it understands.
    fn farewell(&self) -> Vec<u8> {
        let alert = match self {
            Refusal::Flaw(Flaw::PlainHttp) => return PLAIN_HTTP.to_vec(),
            Refusal::Flaw(flaw) => flaw.alert(),
            Refusal::Name(_) => Some(Alert::UnrecognizedName),
            Refusal::Protocol(_) => Some(Alert::NoApplicationProtocol),
            Refusal::Timeout | Refusal::Draining | Refusal::Closed => None,
        };
        alert.map(|alert| alert.record().to_vec()).unwrap_or_default()
    }

    fn host(&self) -> Option<&str> {
        match self {
            Refusal::Name(name) | Refusal::Protocol(name) => name.as_deref(),
            _ => None,
        }
    }
}

/// Where the connection goes. What was read of it is in `ahead`, as it came, whatever becomes of it. Whoever `terminates` is
/// also the better one to tell what is wrong with a ClientHello. The deadline is the connection's.
pub(in crate::accept) async fn next(
    socket: &mut Socket,
    connection: &Connection,
    by_name: &Passthrough<Arc<Destination>>,
    ahead: &mut BytesMut,
    terminates: bool,
) -> Next {
    let hello = match listen(socket, connection, ahead).await {
        Ok(hello) => hello,
        Err(Refusal::Flaw(_)) if terminates => return Next::Terminate,
        Err(refusal) => return Next::Close(refusal),
    };
    match by_name.find(hello.server_name.as_deref(), &hello.protocols) {
        Ok(to) => Next::Pass(to.clone(), Box::new(hello)),
        Err(Unmatched::Name) if terminates => Next::Terminate,
        Err(Unmatched::Name) => Next::Close(Refusal::Name(hello.server_name)),
        Err(Unmatched::Protocol) => Next::Close(Refusal::Protocol(hello.server_name)),
    }
}

/// What the client asks for, before anything is answered.
pub(in crate::accept) async fn listen(
    socket: &mut Socket,
    connection: &Connection,
    ahead: &mut BytesMut,
) -> Result<Hello, Refusal> {
    assemble(socket, connection, ahead, &mut Assembly::default()).await
}

/// The same; the message is in `assembly` then.
pub(in crate::accept) async fn assemble(
    socket: &mut Socket,
    connection: &Connection,
    ahead: &mut BytesMut,
    assembly: &mut Assembly,
) -> Result<Hello, Refusal> {
    loop {
        if let Some(hello) = assembly.read(ahead).map_err(Refusal::Flaw)? {
            return Ok(hello);
        }
        if fill(socket, connection, ahead).await? == 0 {
            return Err(Refusal::Closed);
        }
    }
}

/// Read on; 0 is the end.
async fn fill(socket: &mut Socket, connection: &Connection, ahead: &mut BytesMut) -> Result<usize, Refusal> {
    /// Most have less than this.
    const READ: usize = 2048;
    let read = |cx: &mut std::task::Context<'_>| {
        // On the stack, so that one who says nothing holds no memory.
        let mut scratch = [0; READ];
        let room = LONGEST.saturating_sub(ahead.len()).clamp(1, READ);
        let mut buf = ReadBuf::new(&mut scratch[..room]);
        match Pin::new(&mut *socket).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => {
                ahead.extend_from_slice(buf.filled());
                Poll::Ready(Ok(buf.filled().len()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(Refusal::Closed)),
            Poll::Pending => match connection.wake_on_verdict(cx) {
                Verdict::Open => Poll::Pending,
                Verdict::Expired => Poll::Ready(Err(Refusal::Timeout)),
                Verdict::Drained => Poll::Ready(Err(Refusal::Draining)),
            },
        }
    };
    poll_fn(read).await
}

/// Tell client and operator, and close.
pub(in crate::accept) fn close(socket: Socket, connection: Arc<Connection>, refusal: Refusal) {
    let port = connection.port.clone();
    port.settings().metrics.handshake_failed(refusal.word());
    port.record_closed(connection.peer, refusal.reason(), "TLS", refusal.host());
    let farewell = refusal.farewell();
    if let Refusal::Flaw(flaw) = &refusal {
        log::debug!("closed a connection from {}: {flaw}", connection.peer);
    }
    if !farewell.is_empty() || matches!(refusal, Refusal::Flaw(_)) {
        tokio::spawn(close_below(Transport::Plain(socket), farewell, connection));
    }
}
