//! Connections that iptables has redirected here: where each was meant to go, and from there and its first bytes what is
//! to be done with it.
//!
//! Nobody is asked for longer than the listener's `detection_timeout`: a client that says nothing by then waits for the
//! server to speak first, and is brought to it.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use rustix::net::sockopt;
use tokio::net::TcpStream;

use crate::{
    accept::{
        Connection, Destination,
        sniff::detect::{LONGEST_LINE, Spoken, detect, guess},
    },
    config::Unknown,
    error::Reason,
    snapshot::{self, Captured, Tunnels},
};

/// What becomes of a redirected connection.
pub(in crate::accept) enum Next {
    /// It is ours to serve. What was read of it comes first.
    Serve(BytesMut),
    /// It goes where it was meant to go, as it is or in a tunnel.
    Carry { ahead: Bytes, to: Destination },
    /// It is closed, for this reason.
    Close(Reason),
}

/// Finds out where the connection was meant to go, and what it speaks.
///
/// `ahead` has been read already, by who looked for the header of a proxy in front.
///
/// What comes in over TLS is not looked at before the handshake: only what was meant for an opaque port passes by it.
pub(in crate::accept) async fn next(
    socket: &TcpStream,
    connection: &Connection,
    captured: &Captured,
    tunnels: Option<&Tunnels<Arc<snapshot::Destination>>>,
    terminates_tls: bool,
    mut ahead: BytesMut,
) -> Next {
    let to = destination(socket).filter(|to| !is_ours(*to, socket, &captured.ours));
    if let Some(to) = to {
        connection.was_meant_for(to);
        if captured.opaque_ports.contains(&to.port()) {
            return Next::Carry { ahead: ahead.freeze(), to: Destination::Original(to) };
        }
    }
    if terminates_tls {
        return Next::Serve(ahead);
    }
    let detected = tokio::time::timeout(captured.detection_timeout, listen(socket, &mut ahead)).await;
    let spoken = match detected {
        Ok(Ok(spoken)) => spoken,
        Ok(Err(_)) => return Next::Close(Reason::ClientClosed),
        Err(_) => guess(&ahead),
    };
    match (spoken, to) {
        (Spoken::Http, _) => Next::Serve(ahead),
        (Spoken::Tls | Spoken::Opaque, _) if captured.unknown == Unknown::Refuse => {
            Next::Close(Reason::NoRoute)
        }
        (spoken, Some(to)) => Next::Carry { ahead: ahead.freeze(), to: way(spoken, to, tunnels) },
        (Spoken::Tls | Spoken::Opaque, None) => Next::Close(Reason::LoopDetected),
    }
}

/// How what is not HTTP gets to where it was meant to go: by a sidecar where one is known to be, or has to be. TLS to anybody else
/// is no clear text, and goes as it is.
fn way(spoken: Spoken, to: SocketAddr, tunnels: Option<&Tunnels<Arc<snapshot::Destination>>>) -> Destination {
    let Some(Tunnels::Out(out)) = tunnels else { return Destination::Original(to) };
    let unknown = || out.unknown.as_ref().filter(|_| spoken != Spoken::Tls);
    match out.known(to, |known| &known.upstream).or_else(unknown) {
        Some(by) => Destination::Sidecar(by.clone(), to),
        None => Destination::Original(to),
    }
}

/// Reads until it is decided what the client speaks.
async fn listen(socket: &TcpStream, ahead: &mut BytesMut) -> io::Result<Spoken> {
    loop {
        if let Some(spoken) = detect(ahead) {
            return Ok(spoken);
        }
        socket.readable().await?;
        // Allocated when there is something to put into it, not while waiting.
        ahead.reserve(LONGEST_LINE);
        match socket.try_read_buf(ahead) {
            // It has said all it will, which may be nothing, and still listens.
            Ok(0) => return Ok(guess(ahead)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
    }
}

/// Where the client meant to go: what netfilter remembers of the connection. Of one that nobody redirected, that is our
/// own address.
fn destination(socket: &TcpStream) -> Option<SocketAddr> {
    let local = socket.local_addr().ok()?;
    let found = match local.ip().to_canonical() {
        IpAddr::V4(_) => sockopt::ip_original_dst(socket).map(SocketAddrV4::into),
        IpAddr::V6(_) => sockopt::ipv6_original_dst(socket).map(SocketAddrV6::into),
    };
    found.ok()
}

/// Whether a connection to this address would come back here: it is the one that this came in on, or that of a listener.
fn is_ours(to: SocketAddr, socket: &TcpStream, ours: &[SocketAddr]) -> bool {
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let local = socket.local_addr().map(|local| SocketAddr::new(local.ip().to_canonical(), local.port()));
    local.is_ok_and(|local| local == to)
        || ours.iter().any(|own| {
            let ip = own.ip().to_canonical();
            own.port() == to.port() && (ip == to.ip() || (ip.is_unspecified() && is_local(to.ip())))
        })
}

/// Whether this host has the address: only then can something be bound to it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::accept::listener::workers::Seat;
    use crate::accept::{Port, connection::Ends};

    /// A connection that nobody redirected, from both sides.
    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    fn captured(unknown: Unknown) -> Captured {
        Captured {
            detection_timeout: Duration::from_millis(5),
            opaque_ports: Arc::new([]),
            unknown,
            idle_timeout: Duration::from_secs(60),
            ours: Arc::new([]),
        }
    }

    async fn judged(client: &[u8], captured: &Captured) -> Next {
        let (mut sender, socket) = connected().await;
        sender.write_all(client).await.unwrap();
        let peer = sender.local_addr().unwrap();
        let connection =
            Port::for_test().admit(Seat::for_test()).unwrap().open(Ends { peer, local: peer }).unwrap();
        next(&socket, &connection, captured, None, false, BytesMut::new()).await
    }

    #[tokio::test]
    async fn http_is_served_wherever_it_was_meant_to_go() {
        let Next::Serve(ahead) = judged(b"GET / HTTP/1.1\r\n\r\n", &captured(Unknown::Forward)).await else {
            panic!()
        };
        assert_eq!(&ahead[..], b"GET / HTTP/1.1\r\n\r\n");
    }

    #[tokio::test]
    async fn what_would_come_back_here_is_closed() {
        for client in [&b"SSH-2.0-x\r\n"[..], b"", &[0x16, 3, 1, 2, 0, 1]] {
            assert!(
                matches!(
                    judged(client, &captured(Unknown::Forward)).await,
                    Next::Close(Reason::LoopDetected)
                ),
                "{client:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_not_http_is_refused_where_that_was_asked_for() {
        assert!(matches!(
            judged(b"SSH-2.0-x\r\n", &captured(Unknown::Refuse)).await,
            Next::Close(Reason::NoRoute)
        ));
    }

    #[tokio::test]
    async fn our_own_addresses_are_known_however_they_are_written() {
        let (_client, socket) = connected().await;
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (to, own, expected) in [
            ("127.0.0.1:15001", "127.0.0.1:15001", true),
            ("127.0.0.1:15001", "0.0.0.0:15001", true),
            ("127.0.0.1:15001", "[::]:15001", true),
            ("[::ffff:127.0.0.1]:15001", "127.0.0.1:15001", true),
            ("0.0.0.0:15001", "0.0.0.0:15001", true),
            ("127.0.0.1:80", "127.0.0.1:15001", false),
            ("192.0.2.1:15001", "0.0.0.0:15001", false),
            ("192.0.2.1:15001", "127.0.0.1:15001", false),
        ] {
            assert_eq!(is_ours(address(to), &socket, &[address(own)]), expected, "{to} at {own}");
        }
        assert!(is_ours(socket.local_addr().unwrap(), &socket, &[]));
    }
}
