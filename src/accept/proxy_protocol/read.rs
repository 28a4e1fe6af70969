//! The proxy in front says whose connection it carries on, before anything else is read: a PROXY header, from those who are
//! believed, in time. Until it is there, the connection belongs to nobody and has its place only.

use std::{fmt, io, net::IpAddr, time::Duration};

use bytes::BytesMut;
use ipnet::IpNet;
use tokio::{io::AsyncReadExt, sync::watch};

use crate::{
    accept::{
        connection::wire::Socket,
        proxy_protocol::{Flaw, LONGEST, Told, parse},
    },
    error::Reason,
};

/// Why the connection is closed.
#[derive(Debug)]
pub(in crate::accept) enum Refusal {
    /// Not one of `trusted_proxies`: whatever it says of itself is not believed, and it is not served as itself either, or
    /// it could choose which of the two to be.
    Untrusted,
    Flaw(Flaw),
    Timeout,
    Draining,
    /// It ended within the header.
    Closed(io::Error),
    /// It ended before it said anything, as whoever only looks whether somebody listens does.
    Silent,
}

impl Refusal {
    /// For the metrics.
    pub(in crate::accept) fn word(&self) -> &'static str {
        match self {
            Refusal::Untrusted => "proxy_untrusted",
            Refusal::Flaw(Flaw::NoHeader) | Refusal::Silent => "proxy_missing",
            Refusal::Flaw(_) => "proxy_malformed",
            Refusal::Timeout => "proxy_timeout",
            Refusal::Draining => "closing",
            Refusal::Closed(_) => "proxy_truncated",
        }
    }

    /// For the access log; `None` where there is nothing to be told.
    pub(in crate::accept) fn reason(&self) -> Option<Reason> {
        match self {
            Refusal::Untrusted => Some(Reason::Forbidden),
            Refusal::Flaw(_) => Some(Reason::BadRequest),
            Refusal::Timeout => Some(Reason::ClientTimeout),
            Refusal::Closed(_) => Some(Reason::ClientClosed),
            Refusal::Draining | Refusal::Silent => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Untrusted => f.write_str("it is not one of `trusted_proxies`"),
            Refusal::Flaw(flaw) => flaw.fmt(f),
            Refusal::Timeout => f.write_str("its PROXY header was not whole within `handshake_timeout`"),
            Refusal::Draining => f.write_str("the listener closes"),
            Refusal::Closed(error) => write!(f, "it ended within the PROXY header: {error}"),
            Refusal::Silent => f.write_str("it ended without a PROXY header"),
        }
    }
}

/// Whose connection it is, where the proxy says so, and what was read beyond the header.
///
/// # Errors
///
/// The connection is to be closed. There is nothing to answer: what it speaks is not known yet.
pub(in crate::accept) async fn introduced(
    socket: &mut Socket,
    peer: IpAddr,
    trusted: &[IpNet],
    timeout: Duration,
    closing: &mut watch::Receiver<bool>,
) -> Result<(Option<Told>, BytesMut), Refusal> {
    /// One that was let in just before the listener closed has its header under way.
    const UNDER_WAY: Duration = Duration::from_millis(500);
    let peer = peer.to_canonical();
    if !trusted.iter().any(|network| network.contains(&peer)) {
        return Err(Refusal::Untrusted);
    }
    let drained = async {
        let _ = closing.wait_for(|closing| *closing).await;
        tokio::time::sleep(UNDER_WAY).await;
    };
    tokio::select! {
        biased;
        header = tokio::time::timeout(timeout, read(socket)) => header.map_err(|_| Refusal::Timeout)?,
        () = drained => Err(Refusal::Draining),
    }
}

async fn read(socket: &mut Socket) -> Result<(Option<Told>, BytesMut), Refusal> {
    /// Headers have some 60 bytes; what follows them is welcome too.
    const FIRST_READ: usize = 512;
    let mut bytes = BytesMut::with_capacity(FIRST_READ);
    loop {
        if let Some(header) = parse(&bytes).map_err(Refusal::Flaw)? {
            let rest = bytes.split_off(header.length);
            return Ok((header.told, rest));
        }
        // Longer ones are refused by their first bytes, so this ends.
        bytes.reserve(FIRST_READ.min(LONGEST.saturating_sub(bytes.len()).max(1)));
        match socket.read_buf(&mut bytes).await {
            Ok(0) if bytes.is_empty() => return Err(Refusal::Silent),
            Ok(0) => return Err(Refusal::Closed(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return Err(Refusal::Closed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{io::AsyncWriteExt, net::UnixStream};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    async fn outcome(said: &[u8], trusted: &str) -> Result<(Option<Told>, BytesMut), Refusal> {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(said).await.unwrap();
        drop(client);
        let closing = watch::Sender::new(false);
        let trusted = [trusted.parse().unwrap()];
        introduced(&mut Socket::Unix(server), PEER, &trusted, PATIENCE, &mut closing.subscribe()).await
    }

    #[tokio::test]
    async fn what_follows_the_header_is_kept() {
        let said = b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\nGET / HTTP/1.1\r\n";
        let (told, rest) = outcome(said, "127.0.0.0/8").await.unwrap();
        assert_eq!(told.unwrap().client, "192.0.2.7:12345".parse().unwrap());
        assert_eq!(rest, &b"GET / HTTP/1.1\r\n"[..]);
    }

    #[tokio::test]
    async fn says_why_it_refuses() {
        for (said, trusted, word) in [
            (&b"PROXY TCP4 192.0.2.7"[..], "127.0.0.1/32", "proxy_truncated"),
            (b"", "127.0.0.1/32", "proxy_missing"),
            (b"GET / HTTP/1.1\r\n", "127.0.0.1/32", "proxy_missing"),
            (b"PROXY nonsense\r\n", "127.0.0.1/32", "proxy_malformed"),
            (b"PROXY UNKNOWN\r\n", "192.0.2.0/24", "proxy_untrusted"),
        ] {
            assert_eq!(outcome(said, trusted).await.unwrap_err().word(), word, "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_does_not_come_is_waited_for_no_longer_than_it_may_take() {
        let (_client, server) = UnixStream::pair().unwrap();
        let closing = watch::Sender::new(false);
        let trusted = ["127.0.0.1/32".parse().unwrap()];
        let mut socket = Socket::Unix(server);
        let introduced = introduced(&mut socket, PEER, &trusted, PATIENCE, &mut closing.subscribe()).await;
        assert_eq!(introduced.unwrap_err().word(), "proxy_timeout");
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_ends_the_wait() {
        let (_client, server) = UnixStream::pair().unwrap();
        let closing = watch::Sender::new(true);
        let trusted = ["127.0.0.1/32".parse().unwrap()];
        let mut socket = Socket::Unix(server);
        let introduced = introduced(&mut socket, PEER, &trusted, PATIENCE, &mut closing.subscribe()).await;
        assert_eq!(introduced.unwrap_err().word(), "closing");
    }
}
