//! Listening sockets: an address as the operator writes it, bound, or one clear line why not; and what comes in on them.

use std::{
    ffi::OsStr,
    fmt, io,
    net::{self, Ipv4Addr, SocketAddr},
    os::{
        self,
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use pingora_core::protocols::l4::ext::TcpKeepalive;
use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketFlags, sockopt};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{TcpListener, TcpSocket, TcpStream, UnixStream},
};

use crate::{
    accept::{
        connection::{Ends, wire::Socket},
        listener::unix::{self, SocketFile},
    },
    config,
    observe::log_throttle::Sparse,
    snapshot,
};

/// Connections the kernel completes before we accept them; the kernel caps it at `net.core.somaxconn`.
pub(in crate::accept) const BACKLOG: u32 = 4096;

/// A peer that says nothing is asked after a minute, and taken for gone after another.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_PROBES: u32 = 3;

/// An address that could not be bound.
#[derive(Debug)]
pub(crate) struct BindError {
    pub address: String,
    pub source: io::Error,
    /// Who wanted to listen there, and the key that says where, if it is no listener.
    pub of: Option<(&'static str, &'static str)>,
}

impl BindError {
    pub(crate) fn new(address: impl Into<String>, source: io::Error) -> BindError {
        BindError { address: address.into(), source, of: None }
    }

    /// It is `who` that cannot listen, where `key` says.
    pub(crate) fn of(self, who: &'static str, key: &'static str) -> BindError {
        BindError { of: Some((who, key)), ..self }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.source.kind() {
            io::ErrorKind::AddrInUse => "another process listens there; stop it or choose another port",
            io::ErrorKind::NotFound if self.address.starts_with("systemd:") => {
                "name it with FileDescriptorName= in a socket unit, and start that"
            }
            io::ErrorKind::PermissionDenied if self.address.starts_with("unix:") => {
                "this user may not write to the directory"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher port or grant it"
            }
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
            io::ErrorKind::NotFound => "create its directory first",
            io::ErrorKind::AlreadyExists => "choose another path, or move that file away",
            _ => "see the address in the configuration",
        };
        match self.of {
            None => write!(f, "cannot listen on {}: {} ({hint})", self.address, self.source),
            Some((who, key)) if self.source.kind() == io::ErrorKind::AddrInUse => {
                let hint = format!("another gateway or process listens there; set `{key}` to another port");
                write!(f, "{who} cannot listen on {}: {} ({hint})", self.address, self.source)
            }
            Some((who, key)) => {
                write!(f, "{who} cannot listen on {}: {} ({hint}; see `{key}`)", self.address, self.source)
            }
        }
    }
}

impl std::error::Error for BindError {}

/// Listen on `ip:port`; `:port` is every address, IPv6 and IPv4.
///
/// # Errors
///
/// What the kernel answered, with the address.
pub(crate) fn bind(address: &str) -> Result<net::TcpListener, BindError> {
    bind_with(address, Sharing::No)
}

/// Listen on an address that `refused` found in use, where the one who uses it is among `leaving`: our own sockets that
/// close as soon as the new one serves. A listener that moves from one address to every address of the same port, or
/// back, overlaps with itself for that moment.
///
/// The port is shared (`SO_REUSEPORT`) for as long as binding takes and not longer, so that nobody else gets in.
///
/// # Errors
///
/// `refused`, where none of `leaving` has its port, or what the kernel answered.
pub(in crate::accept) fn bind_beside(
    refused: BindError,
    leaving: impl Iterator<Item = OwnedFd>,
) -> Result<net::TcpListener, BindError> {
    let port = |socket: &net::TcpListener| socket.local_addr().map(|address| address.port()).ok();
    let wanted = refused.address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let ours: Vec<net::TcpListener> = leaving
        .map(net::TcpListener::from)
        .filter(|socket| wanted.is_some() && port(socket) == wanted)
        .collect();
    if refused.source.kind() != io::ErrorKind::AddrInUse || ours.is_empty() {
        return Err(refused);
    }
    let share = |shared| ours.iter().try_for_each(|socket| sockopt::set_socket_reuseport(socket, shared));
    let failed = |errno: rustix::io::Errno| BindError::new(refused.address.clone(), errno.into());
    share(true).map_err(failed)?;
    let bound = bind_with(&refused.address, Sharing::Yes);
    share(false).map_err(failed)?;
    let bound = bound?;
    sockopt::set_socket_reuseport(&bound, false).map_err(failed)?;
    Ok(bound)
}

/// What a listener listens on. Not a listener of tokio's, whose connections belong to the runtime that accepts them.
pub(in crate::accept) enum Listening {
    Tcp {
        socket: AsyncFd<OwnedFd>,
        /// Where it is bound.
        at: SocketAddr,
        owner: Owner,
    },
    Unix {
        socket: AsyncFd<OwnedFd>,
        file: Arc<SocketFile>,
        owner: Owner,
    },
}

/// Who listens, and goes on to when this process does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::accept) enum Owner {
    Us,
    /// The one that has passed the socket: who is in its queue waits for the next process.
    ServiceManager,
}

/// A connection that no runtime watches yet.
pub(in crate::accept) enum Accepted {
    Tcp(net::TcpStream),
    Unix(os::unix::net::UnixStream),
}

impl AsRawFd for Accepted {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Accepted::Tcp(socket) => socket.as_raw_fd(),
            Accepted::Unix(socket) => socket.as_raw_fd(),
        }
    }
}

impl Accepted {
    /// On the runtime that this is called in.
    pub(in crate::accept) fn adopt(self) -> io::Result<Socket> {
        match self {
            Accepted::Tcp(socket) => TcpStream::from_std(socket).map(Socket::Tcp),
            Accepted::Unix(socket) => UnixStream::from_std(socket).map(Socket::Unix),
        }
    }
}

/// Stands for one who comes over a Unix socket, and for where he has come to. Nobody comes from it over a network.
pub(in crate::accept) const NOWHERE: SocketAddr =
    SocketAddr::new(net::IpAddr::V6(net::Ipv6Addr::UNSPECIFIED), 0);

impl Listening {
    /// `leaving` are our own sockets that close as soon as this one serves.
    pub(in crate::accept) fn bind<I: Iterator<Item = OwnedFd>>(
        listener: &snapshot::Listener,
        leaving: impl Fn() -> I,
    ) -> Result<Listening, BindError> {
        let address = &listener.address;
        match config::unix_path(address) {
            None => {
                let socket = bind(address).or_else(|error| bind_beside(error, leaving()))?;
                Listening::tcp(socket, address)
            }
            Some(path) => {
                let failed = |source| BindError::new(address.clone(), source);
                let path = path.map_err(|why| failed(io::Error::new(io::ErrorKind::InvalidInput, why)))?;
                let socket = unix::bind(&path, listener.mode).map_err(failed)?;
                let file = Arc::new(SocketFile::at(&path));
                let socket = watch(socket.into()).map_err(failed)?;
                Ok(Listening::Unix { socket, file, owner: Owner::Us })
            }
        }
    }

    /// One that the service manager has passed. A Unix socket's file is its own.
    pub(in crate::accept) fn activated(socket: OwnedFd, address: &str) -> Result<Listening, BindError> {
        let failed = |source| BindError::new(address, source);
        let owner = Owner::ServiceManager;
        let at = rustix::net::getsockname(&socket).map_err(|errno| failed(errno.into()))?;
        match SocketAddr::try_from(at.clone()) {
            Ok(at) => {
                keep_alive(&socket).map_err(failed)?;
                Ok(Listening::Tcp { socket: watch(socket).map_err(failed)?, at, owner })
            }
            Err(_) => {
                let path = SocketAddrUnix::try_from(at).ok();
                let path = path.as_ref().and_then(SocketAddrUnix::path_bytes).map(OsStr::from_bytes);
                let file = Arc::new(SocketFile::inherited(Path::new(path.unwrap_or_default())));
                Ok(Listening::Unix { socket: watch(socket).map_err(failed)?, file, owner })
            }
        }
    }

    /// A predecessor's, with its file where it is a Unix socket.
    pub(in crate::accept) fn inherit(
        socket: OwnedFd,
        file: Option<Arc<SocketFile>>,
        address: &str,
    ) -> Result<Listening, BindError> {
        let Some(file) = file else {
            return Listening::tcp(socket.into(), address);
        };
        let failed = |source| BindError::new(address, source);
        Ok(Listening::Unix { socket: watch(socket).map_err(failed)?, file, owner: Owner::Us })
    }

    fn tcp(socket: net::TcpListener, address: &str) -> Result<Listening, BindError> {
        let failed = |source| BindError::new(address, source);
        keep_alive(&socket).map_err(failed)?;
        let at = socket.local_addr().map_err(failed)?;
        Ok(Listening::Tcp { socket: watch(socket.into()).map_err(failed)?, at, owner: Owner::Us })
    }

    /// The next connection, whatever goes wrong before it comes. May be dropped while it waits.
    pub(in crate::accept) async fn next(&self) -> (Accepted, Ends) {
        let (Listening::Tcp { socket, .. } | Listening::Unix { socket, .. }) = self;
        let next = || socket.async_io(Interest::READABLE, accept_from);
        let (socket, peer) = accepted(next, || self.name()).await;
        match self {
            Listening::Tcp { at, .. } => {
                let socket = net::TcpStream::from(socket);
                // Only a socket that listens on every address has to ask.
                let local = match at.ip().is_unspecified() {
                    true => socket.local_addr().unwrap_or(*at),
                    false => *at,
                };
                let peer = peer.and_then(|peer| peer.try_into().ok()).unwrap_or(NOWHERE);
                (Accepted::Tcp(socket), Ends { peer, local })
            }
            Listening::Unix { .. } => (Accepted::Unix(socket.into()), Ends { peer: NOWHERE, local: NOWHERE }),
        }
    }

    pub(in crate::accept) fn name(&self) -> String {
        match self {
            Listening::Tcp { at, .. } => at.to_string(),
            Listening::Unix { file, .. } => format!("unix:{}", file.path().display()),
        }
    }

    pub(in crate::accept) fn duplicate(&self) -> io::Result<OwnedFd> {
        match self {
            Listening::Tcp { socket, .. } | Listening::Unix { socket, .. } => socket.get_ref().try_clone(),
        }
    }

    /// Who listens here.
    pub(in crate::accept) fn owner(&self) -> Owner {
        let (Listening::Tcp { owner, .. } | Listening::Unix { owner, .. }) = self;
        *owner
    }

    /// Who may connect, where that is said by a file's permissions, and by us.
    pub(in crate::accept) fn set_mode(&self, mode: u32) {
        if let Listening::Unix { file, owner: Owner::Us, .. } = self {
            file.change_mode(mode);
        }
    }

    /// It closes: nobody new gets into its queue, whoever still holds the socket. Who is there already can be accepted.
    pub(in crate::accept) fn shut_out(&self) {
        match self {
            Listening::Tcp { socket, .. } => refuse_syn(socket),
            Listening::Unix { file, .. } => file.remove(),
        }
    }

    /// A successor serves it.
    pub(in crate::accept) fn leave_file(&self) {
        if let Listening::Unix { file, .. } = self {
            file.leave();
        }
    }
}

/// Have the kernel drop what would begin a connection, and nothing else; who is dropped asks again in a second, when the
/// socket is closed, and is refused. There is no other way to stop the queue without losing what is in it.
fn refuse_syn(socket: &impl AsRawFd) {
    const FLAGS: u32 = 13;
    const SYN: u32 = 2;
    let step = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, FLAGS),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel copies the steps, which live until the call returns. Where it takes none, a few may still come in
    // between the last that is accepted and the end of the socket.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        );
    }
}

/// The socket on the runtime, ready to be accepted from.
fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    // SAFETY: the descriptor is the one that `socket` owns, which goes into what is made here.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

fn accept_from(socket: &OwnedFd) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::io::retry_on_intr(|| rustix::net::acceptfrom_with(socket, flags))?)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    No,
    Yes,
}

fn bind_with(address: &str, sharing: Sharing) -> Result<net::TcpListener, BindError> {
    let failed = |source| BindError::new(address, source);
    if let Some(port) = address.strip_prefix(':') {
        let port = port.parse().map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        return listen(SocketAddr::from(([0; 8], port)), sharing)
            // A kernel without IPv6.
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => {
                    listen((Ipv4Addr::UNSPECIFIED, port).into(), sharing)
                }
                _ => Err(error),
            })
            .map_err(failed);
    }
    let address = address.parse().map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
    listen(address, sharing).map_err(failed)
}

fn listen(address: SocketAddr, sharing: Sharing) -> io::Result<net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(sharing == Sharing::Yes)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Have the connections that come in on `socket` notice a peer that vanished without a word: a WebSocket may be silent for
/// as long as it likes. They inherit it (tcp(7)), so it costs nothing for each of them.
pub(crate) fn keep_alive(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    Ok(sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?)
}

/// The connection is given up when what was sent is not acknowledged for so long; zero leaves that to the system.
pub(crate) fn bound_unacknowledged(socket: impl AsFd, most: Duration) -> io::Result<()> {
    let most = u32::try_from(most.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(socket, most)?)
}

/// The same for connections that Pingora makes.
pub(crate) fn keep_alive_of_pingora(unacknowledged: Duration) -> TcpKeepalive {
    TcpKeepalive {
        idle: KEEPALIVE_IDLE,
        interval: KEEPALIVE_INTERVAL,
        count: KEEPALIVE_PROBES as usize,
        user_timeout: unacknowledged,
    }
}

/// The next connection, whatever goes wrong before it comes. May be dropped while it waits.
pub(crate) async fn next_connection(socket: &TcpListener) -> (TcpStream, SocketAddr) {
    let name = || socket.local_addr().map_or("a listener".to_owned(), |address| address.to_string());
    accepted(|| socket.accept(), name).await
}

/// Of all listeners together, since they lack the same.
static REFUSALS: LazyLock<Sparse> = LazyLock::new(Sparse::default);

async fn accepted<T, F: Future<Output = io::Result<T>>>(
    accept: impl Fn() -> F,
    name: impl Fn() -> String,
) -> T {
    /// Out of descriptors or memory: give the kernel a moment instead of spinning.
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        match accept().await {
            Ok(connection) => return connection,
            // The client was gone before we looked.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if let Some(more) = REFUSALS.say(Instant::now()) {
                    let more = if more > 0 { format!(" ({more} times more since)") } else { String::new() };
                    log::error!("cannot accept on {}: {error}; trying again{more}", name());
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(socket: &net::TcpListener) -> u16 {
        socket.local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn one_address_gives_way_to_every_address_and_back() {
        let one = bind("127.0.0.1:0").unwrap();
        let every = format!("0.0.0.0:{}", port(&one));
        let refused = bind(&every).unwrap_err();
        let all = bind_beside(refused, [one.try_clone().unwrap().into()].into_iter()).unwrap();
        drop(one);
        assert!(bind(&every).is_err(), "nobody else may share the port");
        let refused = bind(&format!("127.0.0.1:{}", port(&all))).unwrap_err();
        let back = bind_beside(refused, [all.try_clone().unwrap().into()].into_iter()).unwrap();
        assert_eq!(port(&back), port(&all));
    }

    #[tokio::test]
    async fn a_port_of_somebody_else_stays_refused() {
        let (other, ours) = (bind("127.0.0.1:0").unwrap(), bind("127.0.0.1:0").unwrap());
        let refused = bind(&format!("0.0.0.0:{}", port(&other))).unwrap_err();
        let error = bind_beside(refused, [ours.into()].into_iter()).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn who_is_in_the_queue_when_it_is_shut_can_be_accepted_and_nobody_comes_after() {
        let socket = bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut early = TcpStream::connect(address).await.unwrap();
        refuse_syn(&socket);
        let mut late = tokio::spawn(TcpStream::connect(address));
        let (mut accepted, _) = socket.accept().unwrap();
        io::Write::write_all(&mut accepted, b"hello").unwrap();
        let mut heard = [0; 5];
        tokio::io::AsyncReadExt::read_exact(&mut early, &mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        assert_eq!(socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // Asked again, when the socket is closed.
        drop(socket);
        assert_eq!((&mut late).await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_connection_inherits_what_its_listener_says_of_silent_peers() {
        let socket = bind("127.0.0.1:0").unwrap();
        keep_alive(&socket).unwrap();
        let listener = TcpListener::from_std(socket).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, peer) = next_connection(&listener).await;
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(sockopt::socket_keepalive(&server).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&server).unwrap(), KEEPALIVE_IDLE);
    }
}
