//! Telling an upstream whose connection it is given: a PROXY header (haproxy.org/download/3.2/doc/proxy-protocol.txt), written
//! before anything else, and so before a TLS handshake.
//!
//! It stands once at the start of a connection. So a connection with one belongs to one client, and Pingora's pools have
//! to keep it for that client alone: [`group`] is part of their key.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr},
};

use async_trait::async_trait;
use pingora_core::{
    Error, ErrorType, OrErr,
    connectors::L4Connect,
    protocols::l4::{
        ext::{connect, connect_uds},
        socket::SocketAddr as PeerAddress,
        stream::Stream,
    },
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::config::ProxyProtocol;

/// A client's connection, as an upstream may be told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddresses {
    /// Its port is 0 where only the address is known. Unspecified, as `[::]:0`, where there is no address at all.
    pub client: SocketAddr,
    /// Where it has connected to.
    pub local: SocketAddr,
}

/// The header for what `addresses` says; for a connection of our own, such as a probe, where it is `None`. Empty where no
/// header is asked for.
pub fn header(version: ProxyProtocol, addresses: Option<ClientAddresses>) -> Vec<u8> {
    match version {
        ProxyProtocol::Off => Vec::new(),
        ProxyProtocol::V1 => line(addresses.and_then(Addresses::of)),
        ProxyProtocol::V2 => binary(addresses.map(Addresses::of)),
    }
}

/// What stands for `addresses` in the key of a pool. Not to be guessed, so that nobody can pick an address that shares
/// connections with somebody else's.
pub fn group(group: u64, addresses: &ClientAddresses, keys: &RandomState) -> u64 {
    keys.hash_one((group, addresses))
}

/// Both of one family, as either version has them.
enum Addresses {
    V4([u8; 4], [u8; 4], u16, u16),
    V6([u8; 16], [u8; 16], u16, u16),
}

impl Addresses {
    /// `None` where there is no address to tell.
    fn of(ClientAddresses { client, local }: ClientAddresses) -> Option<Addresses> {
        let (from, to) = (client.ip().to_canonical(), local.ip().to_canonical());
        let (from_port, to_port) = (client.port(), local.port());
        match (from, to) {
            _ if from.is_unspecified() => None,
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                Some(Addresses::V4(from.octets(), to.octets(), from_port, to_port))
            }
            _ => Some(Addresses::V6(mapped(from), mapped(to), from_port, to_port)),
        }
    }
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Section 2.1 of the specification.
fn line(addresses: Option<Addresses>) -> Vec<u8> {
    let (family, from, to, from_port, to_port) = match addresses {
        // Version 1 has no word for connections of our own.
        None => return b"PROXY UNKNOWN\r\n".to_vec(),
        Some(Addresses::V4(from, to, from_port, to_port)) => {
            ("TCP4", IpAddr::from(from), IpAddr::from(to), from_port, to_port)
        }
        Some(Addresses::V6(from, to, from_port, to_port)) => {
            ("TCP6", IpAddr::from(from), IpAddr::from(to), from_port, to_port)
        }
    };
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
}

/// Section 2.2. `Some(None)` is a client that has no address.
fn binary(addresses: Option<Option<Addresses>>) -> Vec<u8> {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const UNSPECIFIED: u8 = 0x00;
    const TCP4: u8 = 0x11;
    const TCP6: u8 = 0x21;
    let fixed = |command, family, length| [SIGNATURE, &[command, family, 0, length]].concat();
    let (mut header, from_port, to_port) = match addresses {
        None => return fixed(LOCAL, UNSPECIFIED, 0),
        Some(None) => return fixed(PROXY, UNSPECIFIED, 0),
        Some(Some(Addresses::V4(from, to, from_port, to_port))) => {
            ([fixed(PROXY, TCP4, 12), from.to_vec(), to.to_vec()].concat(), from_port, to_port)
        }
        Some(Some(Addresses::V6(from, to, from_port, to_port))) => {
            ([fixed(PROXY, TCP6, 36), from.to_vec(), to.to_vec()].concat(), from_port, to_port)
        }
    };
    header.extend_from_slice(&from_port.to_be_bytes());
    header.extend_from_slice(&to_port.to_be_bytes());
    header
}

/// Connects as Pingora would, and writes the header first. The connection's timeout is the caller's
/// `total_connection_timeout`: Pingora does not apply the other one here.
#[derive(Debug)]
pub struct Announcing(pub Vec<u8>);

#[async_trait]
impl L4Connect for Announcing {
    async fn connect(&self, address: &PeerAddress) -> pingora_core::Result<Stream> {
        match address {
            PeerAddress::Inet(address) => {
                let mut socket = connect(address, None).await?;
                self.announce(&mut socket).await?;
                Ok(socket.into())
            }
            PeerAddress::Unix(path) => {
                let path = path.as_pathname().ok_or_else(|| Error::new(ErrorType::InternalError))?;
                let mut socket = connect_uds(path).await?;
                self.announce(&mut socket).await?;
                Ok(socket.into())
            }
        }
    }
}

impl Announcing {
    async fn announce(&self, socket: &mut (impl AsyncWrite + Unpin)) -> pingora_core::Result<()> {
        let written: io::Result<()> = socket.write_all(&self.0).await;
        written.or_err(ErrorType::ConnectError, "the PROXY header cannot be sent")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(client: &str, local: &str) -> Option<ClientAddresses> {
        Some(ClientAddresses { client: client.parse().unwrap(), local: local.parse().unwrap() })
    }

    #[test]
    fn the_line_of_version_1_has_addresses_of_one_family() {
        for (addresses, expected) in [
            (
                addresses("192.0.2.7:12345", "198.51.100.1:443"),
                "PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n",
            ),
            (addresses("[2001:db8::7]:1", "[2001:db8::1]:2"), "PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n"),
            (
                addresses("[::ffff:192.0.2.7]:1", "198.51.100.1:2"),
                "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
            ),
            (addresses("192.0.2.7:0", "[2001:db8::1]:2"), "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 0 2\r\n"),
            (addresses("[::]:0", "[::]:0"), "PROXY UNKNOWN\r\n"),
            (None, "PROXY UNKNOWN\r\n"),
        ] {
            let header = header(ProxyProtocol::V1, addresses);
            assert_eq!(String::from_utf8(header).unwrap(), expected);
        }
    }

    #[test]
    fn the_longest_line_fits_what_receivers_read() {
        let most = addresses("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "192.0.2.1:65535");
        assert!(header(ProxyProtocol::V1, most).len() <= 107);
    }

    #[test]
    fn version_2_says_whose_connection_it_is() {
        let signature = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x01, 0xbb];
        for (addresses, rest) in [
            (addresses("192.0.2.7:12345", "198.51.100.1:443"), [&[0x21, 0x11, 0, 12][..], &four].concat()),
            (addresses("[::]:0", "[::]:0"), vec![0x21, 0, 0, 0]),
            (None, vec![0x20, 0, 0, 0]),
        ] {
            assert_eq!(header(ProxyProtocol::V2, addresses), [signature.clone(), rest].concat());
        }
        let six = header(ProxyProtocol::V2, addresses("[2001:db8::7]:1", "192.0.2.1:2"));
        assert_eq!((six.len(), &six[12..16]), (52, &[0x21, 0x21, 0, 36][..]));
    }

    #[test]
    fn two_connections_of_one_client_share_nothing() {
        let keys = RandomState::new();
        let one = addresses("192.0.2.7:1", "192.0.2.1:80").unwrap();
        let other = addresses("192.0.2.7:2", "192.0.2.1:80").unwrap();
        assert_eq!(group(1, &one, &keys), group(1, &one, &keys));
        assert_ne!(group(1, &one, &keys), group(1, &other, &keys));
        assert_ne!(group(1, &one, &keys), group(2, &one, &keys));
    }
}
