//! Listening sockets: an address as the operator writes it, bound, or one clear line why not.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::net::TcpSocket;

/// Connections the kernel completes before we accept them; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// An address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    pub address: String,
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.source.kind() {
            io::ErrorKind::AddrInUse => "another process listens there; stop it or choose another port",
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher port or grant it"
            }
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
            _ => "see the address in the configuration",
        };
        write!(f, "cannot listen on {}: {} ({hint})", self.address, self.source)
    }
}

impl std::error::Error for BindError {}

/// Listen on `ip:port`; `:port` is every address, IPv6 and IPv4.
///
/// # Errors
///
/// What the kernel answered, with the address.
pub fn bind(address: &str) -> Result<std::net::TcpListener, BindError> {
    let failed = |source| BindError { address: address.to_owned(), source };
    if let Some(port) = address.strip_prefix(':') {
        let port = port.parse().map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        return listen(SocketAddr::from(([0; 8], port)))
            // A kernel without IPv6.
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => {
                    listen((Ipv4Addr::UNSPECIFIED, port).into())
                }
                _ => Err(error),
            })
            .map_err(failed);
    }
    let address = address.parse().map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
    listen(address).map_err(failed)
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}
