//! `unix:/path`: the endpoint is a socket's file. Whether it exists is found out by connecting, as a port is.

use std::{os::unix::net::SocketAddr, path::Path};

use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;

use super::{Address, Found, Line, Supply};

pub(super) fn supply(line: &Line<'_>) -> Option<Supply> {
    let Address::Unix(path) = &line.address else { return None };
    Some(Supply::Fixed(address_of(path).map(Found::at).into_iter().collect()))
}

/// The address of a Unix socket; `None` where the kernel has no room for its path.
pub(super) fn address_of(path: &Path) -> Option<PeerAddress> {
    SocketAddr::from_pathname(path).ok().map(PeerAddress::Unix)
}
