//! Lines as messages of syslog (RFC 5424): over UDP (RFC 5426), TCP with counted octets (RFC 6587), TLS (RFC 5425) and Unix
//! sockets.
//! Everything here waits, and is only called by the thread that writes.

use std::{
    fs,
    io::{self, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::unix::net::{UnixDatagram, UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use openssl::ssl::{ErrorCode, HandshakeError, SslStream};
use rustix::net::RecvFlags;

use crate::{observe::encode, trust};

/// How long a server may take to accept a connection, or to read from it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Host names become addresses by it; it may wait.
pub type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub transport: Transport,
    pub head: Head,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp(String, u16),
    Tcp(String, u16),
    Tls(String, u16, TlsFiles),
    Unix(PathBuf),
}

/// Whom we trust, and who we say we are. Read anew for each connection, so that renewed certificates count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Without it, those that the system trusts.
    pub ca: Option<PathBuf>,
    /// A certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Whose certificate it must be, if not the host's.
    pub name: Option<String>,
}

/// What stands in front of each message, but for its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    priority: String,
    origin: String,
}

impl Head {
    /// All messages are informational.
    pub fn new(facility: u8, hostname: &str, app_name: &str) -> Head {
        const INFORMATIONAL: u16 = 6;
        let priority = format!("<{}>1 ", u16::from(facility) * 8 + INFORMATIONAL);
        let origin = format!(" {hostname} {app_name} {} ", std::process::id());
        Head { priority, origin }
    }

    /// `<134>1 2026-01-01T00:00:00.000Z host tidegate 7 request - `, without structured data.
    pub(super) fn write(&self, line: &mut Vec<u8>, at: SystemTime, kind: &str) {
        line.extend_from_slice(self.priority.as_bytes());
        encode::timestamp(line, at);
        line.extend_from_slice(self.origin.as_bytes());
        line.extend_from_slice(kind.as_bytes());
        line.extend_from_slice(b" - ");
    }
}

/// Why a message has not gone out.
pub(super) enum Failed {
    /// It never will.
    Lost(io::Error),
    /// There is nobody to take it now.
    Away(io::Error),
}

/// A connection to a server, made when it is needed.
pub(super) struct Server {
    transport: Transport,
    lookup: Lookup,
    socket: Option<Socket>,
    frame: Vec<u8>,
}

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(SslStream<TcpStream>),
    Datagrams(UnixDatagram),
    Stream(UnixStream),
}

impl Server {
    pub(super) fn new(transport: Transport, lookup: Lookup) -> Server {
        Server { transport, lookup, socket: None, frame: Vec::new() }
    }

    pub(super) fn name(&self) -> &Path {
        match &self.transport {
            Transport::Udp(host, _) | Transport::Tcp(host, _) | Transport::Tls(host, ..) => Path::new(host),
            Transport::Unix(path) => path,
        }
    }

    /// The next message makes a new connection.
    pub(super) fn disconnect(&mut self) {
        if let Some(Socket::Tls(stream)) = &mut self.socket {
            // Who is gone already needs no goodbye.
            let _ = stream.shutdown();
        }
        self.socket = None;
    }

    pub(super) fn send(&mut self, message: &[u8]) -> Result<(), Failed> {
        if self.socket.as_mut().is_some_and(Socket::is_closed) {
            self.socket = None;
        }
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(connect(&self.transport, &self.lookup).map_err(Failed::Away)?),
        };
        let sent = match socket {
            Socket::Udp(socket) => socket.send(message).map(drop),
            Socket::Datagrams(socket) => socket.send(message).map(drop),
            Socket::Tcp(stream) => framed(&mut self.frame, message).and_then(|frame| stream.write_all(frame)),
            Socket::Tls(stream) => framed(&mut self.frame, message).and_then(|frame| stream.write_all(frame)),
            Socket::Stream(stream) => {
                framed(&mut self.frame, message).and_then(|frame| stream.write_all(frame))
            }
        };
        let Err(error) = sent else { return Ok(()) };
        let is_udp = matches!(socket, Socket::Udp(_));
        // Too large: the connection is good.
        if error.raw_os_error() == Some(libc::EMSGSIZE) {
            return Err(Failed::Lost(error));
        }
        self.socket = None;
        // What goes to nobody over UDP mostly goes unnoticed; it is not worth more when it does not.
        Err(if is_udp { Failed::Lost(error) } else { Failed::Away(error) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.disconnect();
    }
}

impl Socket {
    /// The other side has closed: what is written now would be lost without a word.
    fn is_closed(&mut self) -> bool {
        let mut byte = [0_u8];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let read = match self {
            Socket::Tcp(stream) => rustix::net::recv(stream, &mut byte[..], flags),
            Socket::Stream(stream) => rustix::net::recv(stream, &mut byte[..], flags),
            Socket::Tls(stream) => return is_tls_closed(stream),
            Socket::Udp(_) | Socket::Datagrams(_) => return false,
        };
        !matches!(read, Ok((_, 1..)) | Err(rustix::io::Errno::AGAIN))
    }
}

/// Servers say nothing here but that they close; what TLS has to say to itself is taken in on the way.
fn is_tls_closed(stream: &mut SslStream<TcpStream>) -> bool {
    const MOST_READS: usize = 64;
    if stream.get_ref().set_nonblocking(true).is_err() {
        return true;
    }
    let mut said = [0; 1024];
    let read = (0..MOST_READS).map(|_| stream.ssl_read(&mut said)).find(|read| !matches!(read, Ok(1..)));
    let is_open = matches!(read, Some(Err(error)) if error.code() == ErrorCode::WANT_READ);
    !is_open || stream.get_ref().set_nonblocking(false).is_err()
}

/// `LENGTH SP MESSAGE`.
fn framed<'f>(frame: &'f mut Vec<u8>, message: &[u8]) -> io::Result<&'f [u8]> {
    frame.clear();
    write!(frame, "{} ", message.len())?;
    frame.extend_from_slice(message);
    Ok(frame)
}

fn connect(transport: &Transport, lookup: &Lookup) -> io::Result<Socket> {
    match transport {
        Transport::Udp(host, port) => {
            let to = addresses(host, *port, lookup)?.next().ok_or(io::ErrorKind::NotFound)?;
            let from: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            Ok(Socket::Udp(socket))
        }
        Transport::Tcp(host, port) => connect_tcp(host, *port, lookup).map(Socket::Tcp),
        Transport::Tls(host, port, files) => {
            let stream = connect_tcp(host, *port, lookup)?;
            secure(stream, files.name.as_deref().unwrap_or(host), files).map(Socket::Tls)
        }
        // As syslog(3) does: datagrams, or a stream where the socket is one.
        Transport::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            match socket.connect(path) {
                Ok(()) => {
                    socket.set_write_timeout(Some(PATIENCE))?;
                    Ok(Socket::Datagrams(socket))
                }
                Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => {
                    let stream = UnixStream::connect(path)?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    Ok(Socket::Stream(stream))
                }
                Err(error) => Err(error),
            }
        }
    }
}

fn connect_tcp(host: &str, port: u16, lookup: &Lookup) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for to in addresses(host, port, lookup)? {
        match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(stream) => {
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn secure(stream: TcpStream, name: &str, files: &TlsFiles) -> io::Result<SslStream<TcpStream>> {
    let read = |file: &PathBuf| {
        let unreadable = |error| io::Error::other(format!("{} cannot be read: {error}", file.display()));
        fs::read(file).map_err(unreadable)
    };
    let ca = files.ca.as_ref().map(read).transpose()?;
    let mut connector = trust::connector(ca.as_deref()).map_err(io::Error::other)?;
    if let Some((cert, key)) = &files.client_cert {
        trust::identify(&mut connector, &read(cert)?, &read(key)?).map_err(io::Error::other)?;
    }
    let name = name.trim_matches(['[', ']']);
    let mut connection = connector.build().configure()?;
    trust::expect_host(&mut connection, name)?;
    connection.connect(name, stream).map_err(|error| match error {
        HandshakeError::WouldBlock(_) => io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time"),
        error => io::Error::other(error.to_string()),
    })
}

fn addresses(host: &str, port: u16, lookup: &Lookup) -> io::Result<impl Iterator<Item = SocketAddr>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found = match bare.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => lookup(host)?,
    };
    Ok(found.into_iter().map(move |address| SocketAddr::new(address, port)))
}
