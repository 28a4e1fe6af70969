//! Connections as clients make them, over TCP and over TLS.

use std::ffi::{CStr, c_char, c_void};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;

use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslRef, SslVerifyMode};
use openssl::x509::store::X509StoreBuilder;
use pingora_core::tls::tokio_ssl::SslStream;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certificates::Issued;
use super::{DEADLINE, within_deadline};

pub(crate) type Tls = SslStream<TcpStream>;

/// Without Nagle's delay: over HTTP/2 it would wait for a delayed ACK at the end of every window.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What a client over TLS trusts, shows and speaks.
#[derive(Clone)]
pub(crate) struct TlsClient {
    root: Option<Issued>,
    own: Option<Issued>,
    alpn: &'static [u8],
}

impl TlsClient {
    /// One that trusts whoever this authority has signed, and speaks of no protocol.
    pub(crate) fn of(root: &Issued) -> TlsClient {
        TlsClient { root: Some(root.clone()), own: None, alpn: b"" }
    }

    /// One that looks at no certificate.
    pub(crate) fn trusting_all() -> TlsClient {
        TlsClient { root: None, own: None, alpn: b"" }
    }

    pub(crate) fn showing(&self, own: &Issued) -> TlsClient {
        TlsClient { own: Some(own.clone()), ..self.clone() }
    }

    pub(crate) fn trusting(&self, root: &Issued) -> TlsClient {
        TlsClient { root: Some(root.clone()), ..self.clone() }
    }

    /// What it offers by ALPN, in the wire's form.
    pub(crate) fn speaking(&self, alpn: &'static [u8]) -> TlsClient {
        TlsClient { alpn, ..self.clone() }
    }

    /// For one who has more to say.
    pub(crate) fn context(&self) -> SslContextBuilder {
        let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
        context.set_verify(SslVerifyMode::NONE);
        if let Some(root) = &self.root {
            let mut store = X509StoreBuilder::new().unwrap();
            store.add_cert(root.certificate.clone()).unwrap();
            context.set_cert_store(store.build());
            context.set_verify(SslVerifyMode::PEER);
        }
        if !self.alpn.is_empty() {
            context.set_alpn_protos(self.alpn).unwrap();
        }
        if let Some(own) = &self.own {
            context.set_certificate(&own.certificate).unwrap();
            context.set_private_key(&own.key).unwrap();
        }
        context
    }

    /// Asks for `name`, if that is not empty, and takes a certificate of that name alone.
    pub(crate) async fn connect(&self, address: SocketAddr, name: &str) -> Result<Tls, String> {
        shake(self.context(), address, name).await
    }

    /// One request on a connection of its own; what went wrong says so in OpenSSL's words.
    pub(crate) async fn get(&self, address: SocketAddr, name: &str, path: &str) -> Result<Value, String> {
        let mut stream = self.connect(address, name).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        // One that is refused meanwhile is told why where it reads.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = String::new();
        let read = within_deadline("an answer", stream.read_to_string(&mut answer)).await;
        read.map_err(|error| error.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        Ok(serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
    }
}

/// Like [`TlsClient::connect`], with a context that was changed.
pub(crate) async fn shake(
    context: SslContextBuilder,
    address: SocketAddr,
    name: &str,
) -> Result<Tls, String> {
    let socket = connect(address).await.map_err(|error| error.to_string())?;
    let mut ssl = asking_for(context, name);
    if !name.is_empty() {
        ssl.param_mut().set_host(name).unwrap();
    }
    shake_over(socket, ssl).await
}

/// A handshake on a connection on which something may have been said before.
pub(crate) async fn shake_over(socket: TcpStream, ssl: Ssl) -> Result<Tls, String> {
    let mut stream = SslStream::new(ssl, socket).unwrap();
    let shaken = within_deadline("a handshake", Pin::new(&mut stream).connect()).await;
    shaken.map(|()| stream).map_err(|error| error.to_string())
}

/// What asks for `name`, if that is not empty, and takes a certificate of any name.
pub(crate) fn asking_for(context: SslContextBuilder, name: &str) -> Ssl {
    let mut ssl = Ssl::new(&context.build()).unwrap();
    if !name.is_empty() {
        ssl.set_hostname(name).unwrap();
    }
    ssl
}

/// The names in the certificate that was shown.
pub(crate) fn shown(ssl: &SslRef) -> Vec<String> {
    let names = ssl.peer_certificate().unwrap().subject_alt_names();
    names.iter().flatten().filter_map(|name| name.dnsname().map(str::to_owned)).collect()
}

/// The group by which keys were exchanged, in OpenSSL's spelling.
pub(crate) fn agreed_group(ssl: &SslRef) -> String {
    unsafe extern "C" {
        fn SSL_get0_group_name(ssl: *const c_void) -> *const c_char;
    }
    // SAFETY: an `SslRef` is what an `SSL` points to, and the name lives as long as its session.
    let name = unsafe { CStr::from_ptr(SSL_get0_group_name(std::ptr::from_ref(ssl).cast())) };
    name.to_str().unwrap().to_owned()
}

/// The same message in records of `size` bytes.
pub(crate) fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let message = &hello[5..];
    let record = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    message.chunks(size).flat_map(record).collect()
}

/// How a ClientHello is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    /// Bytes in each record; `None` leaves them as they are.
    pub record: Option<usize>,
    /// Bytes in each segment.
    pub segment: usize,
}

/// A socket that sends what is written first in pieces, and all else as it comes.
#[derive(Debug)]
pub(crate) struct Scattered {
    socket: std::net::TcpStream,
    first: Option<Pieces>,
}

impl Read for Scattered {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.socket.read(bytes)
    }
}

impl Write for Scattered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(Pieces { record, segment }) = self.first.take() else { return self.socket.write(bytes) };
        let said = record.map_or_else(|| bytes.to_vec(), |size| in_records(bytes, size));
        said.chunks(segment).try_for_each(|part| self.socket.write_all(part))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// A handshake whose ClientHello comes in pieces, after `before`.
pub(crate) fn shake_scattered(
    address: SocketAddr,
    ssl: Ssl,
    before: &[u8],
    pieces: Pieces,
) -> Result<openssl::ssl::SslStream<Scattered>, String> {
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(before).unwrap();
    ssl.connect(Scattered { socket, first: Some(pieces) }).map_err(|error| error.to_string())
}
