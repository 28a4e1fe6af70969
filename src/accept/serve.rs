//! The steps of one connection before it is HTTP, or is carried as it is: whose it is, where it was meant to go, what it
//! asks for, and TLS. What one step has read and not used is the first that the next one reads.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::accept::{
    Connection, Destination, Inbound, Tunnel,
    connection::{
        Ends, Phase,
        stream::ClientStream,
        transport::Transport,
        wire::{Rewound, Socket},
    },
    guarded, http1, http2,
    listener::port::Place,
    proxy_protocol::read::introduced,
    session::Server,
    sniff::{client_hello::Assembly, original_dst, passthrough},
    tls::{self, Agreed, Heard},
};
use crate::tls::ACME_TLS;

/// Serve the connection as whose the proxy in front says it is.
pub(super) async fn introduce(
    server: Arc<dyn Server>,
    carrier: Arc<dyn Tunnel>,
    mut socket: Socket,
    place: Place,
    ends: Ends,
) {
    let port = place.port().clone();
    let (trusted, timeout) = {
        let settings = port.settings();
        (settings.introduced_by.clone(), settings.limits.handshake_timeout)
    };
    let mut closing = port.subscribe();
    let trusted = trusted.as_deref().unwrap_or_default();
    match introduced(&mut socket, ends.peer.ip(), trusted, timeout, &mut closing).await {
        Ok((told, ahead)) => {
            let ends = told.map_or(ends, |told| Ends { peer: told.client, local: told.local });
            match place.open(ends) {
                Ok(connection) => serve(server, carrier, socket, connection, ahead).await,
                Err(limit) => port.refused(ends.peer, limit),
            }
        }
        Err(refusal) => {
            port.settings().metrics.connection_refused(refusal.word());
            log::debug!("closed a connection from {}: {refusal}", ends.peer);
            if let Some(reason) = refusal.reason() {
                port.record_closed(ends.peer, reason, "PROXY", None);
            }
        }
    }
}

/// `ahead` has been read already.
pub(super) async fn serve(
    server: Arc<dyn Server>,
    carrier: Arc<dyn Tunnel>,
    mut socket: Socket,
    connection: Arc<Connection>,
    mut ahead: BytesMut,
) {
    socket.send_at_once();
    // The newest: a reload may have brought TLS, or other certificates.
    let settings = connection.port.settings();
    let (terminator, mut carried_to) = (settings.tls.clone(), settings.carried_to.clone());
    let (captured, by_name) = (settings.original_destination.clone(), settings.passthrough.clone());
    let (tunnels, fingerprints) = (settings.tunnels.clone(), settings.fingerprints);
    drop(settings);
    if let (Some(captured), Socket::Tcp(tcp)) = (captured, &socket) {
        // It comes boxed: a connection that nobody redirected does not carry the state of finding out.
        let read = std::mem::take(&mut ahead);
        let out = tunnels.as_deref();
        let next = Box::pin(original_dst::next(tcp, &connection, &captured, out, terminator.is_some(), read));
        match next.await {
            original_dst::Next::Serve(read) => ahead = read,
            original_dst::Next::Carry { ahead, to } => {
                let transport = Transport::Plain(socket);
                tokio::spawn(carrier.carry(Inbound { connection, transport, ahead, to, hello: None }));
                return;
            }
            original_dst::Next::Close(reason) => {
                return connection.port.record_closed(connection.peer, reason, "TCP", None);
            }
        }
    }
    if terminator.is_some() || by_name.is_some() {
        // One deadline for reading whom it is for and for the handshake.
        connection.enter(Phase::Handshake, Some(connection.port.limits().handshake_timeout));
    }
    if let Some(by_name) = by_name {
        let terminates = terminator.is_some() && !by_name.ends_tls;
        // Boxed for the same reason.
        let next = Box::pin(passthrough::next(&mut socket, &connection, &by_name, &mut ahead, terminates));
        match next.await {
            passthrough::Next::Terminate => {}
            passthrough::Next::Pass(to, _) if by_name.ends_tls => carried_to = Some(to),
            passthrough::Next::Pass(to, hello) => {
                let (transport, to) = (Transport::Plain(socket), Destination::Upstream(to));
                let inbound =
                    Inbound { connection, transport, ahead: ahead.freeze(), to, hello: Some(hello) };
                tokio::spawn(carrier.carry(inbound));
                return;
            }
            passthrough::Next::Close(refusal) => return passthrough::close(socket, connection, refusal),
        }
    }
    let mut heard = Heard::default();
    let looked_at = terminator.as_ref().filter(|terminator| fingerprints || terminator.looks_at_hellos());
    if let Some(terminator) = looked_at {
        let mut assembly = Assembly::default();
        match Box::pin(passthrough::assemble(&mut socket, &connection, &mut ahead, &mut assembly)).await {
            // A CA has come to see a proof: that is all that it is here for (RFC 8737, section 3).
            Ok(hello) if hello.protocols == [ACME_TLS] => {
                let rewound = Rewound::new(socket, std::mem::take(&mut ahead).freeze());
                let name = hello.server_name.as_deref().unwrap_or_default();
                guarded(Box::pin(tls::prove(rewound, &connection, terminator, name))).await;
                return;
            }
            Ok(hello) => {
                let ja4 = fingerprints.then(|| assembly.fingerprint()).flatten();
                heard = Heard { name: hello.server_name, ja4: ja4.map(Arc::from) };
            }
            // The handshake has the better words for what is wrong.
            Err(passthrough::Refusal::Flaw(_)) => {}
            Err(refusal) => return passthrough::close(socket, connection, refusal),
        }
    }
    let (transport, agreed) = match terminator {
        None => (Transport::Plain(socket), Agreed::Http1),
        // It comes boxed: an open connection does not carry the state of its handshake.
        Some(terminator) => {
            let rewound = Rewound::new(socket, std::mem::take(&mut ahead).freeze());
            let handshake = Box::pin(tls::handshake(rewound, &connection, &terminator, heard));
            let Some(established) = guarded(handshake).await.flatten() else { return };
            established
        }
    };
    let carried_to = match (carried_to, agreed, tunnels) {
        (Some(to), _, _) => Some(Destination::Upstream(to)),
        (None, Agreed::Tunnel, Some(tunnels)) => Some(Destination::Tunnelled(tunnels)),
        // A reload has ended them since the handshake.
        (None, Agreed::Tunnel, None) => return,
        (None, Agreed::Http1 | Agreed::Http2, _) => None,
    };
    if let Some(to) = carried_to {
        let ahead: Bytes = ahead.freeze();
        let inbound = Inbound { connection, transport, ahead, to, hello: None };
        // A task of its own: this one has room for all that HTTP needs, and a carried connection may last for days.
        tokio::spawn(carrier.carry(inbound));
        return;
    }
    let mut stream = ClientStream::new(transport, connection);
    stream.read_already(ahead);
    let http2 = match agreed {
        Agreed::Http1 => http1::serve(&server, stream).await,
        Agreed::Http2 => Some(stream),
        Agreed::Tunnel => return,
    };
    if let Some(stream) = http2 {
        guarded(Box::pin(http2::serve(&server, stream))).await;
    }
}
