//! An upstream that speaks TLS and records who came and what reached it. Read by the unit tests too, so it needs nothing
//! else of the support.
#![allow(dead_code, reason = "unit and integration tests each use a part")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use openssl::{
    pkey::{PKey, Private},
    ssl::{AlpnError, Ssl, SslAcceptor, SslAcceptorBuilder, SslMethod, select_next_proto},
    x509::X509,
};
use pingora_core::tls::tokio_ssl::SslStream;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// How long anything may take before the test fails.
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct TlsServer {
    address: SocketAddr,
    acceptor: Arc<Mutex<SslAcceptor>>,
    record: watch::Receiver<Record>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Record {
    /// Connections accepted.
    pub connections: usize,
    /// Handshakes that succeeded, as far as the server can tell.
    pub handshakes: usize,
    /// Requests, as `HTTP/2.0 GET host /path`.
    pub requests: Vec<String>,
    /// Fingerprints (SHA-256) of the certificates that clients have shown.
    pub clients: Vec<Vec<u8>>,
    /// Connections that have ended.
    pub closed: usize,
}

/// What a server speaks by ALPN, in the wire's form.
pub(crate) const BOTH: &[u8] = b"\x02h2\x08http/1.1";
pub(crate) const HTTP1: &[u8] = b"\x08http/1.1";

/// A server with this certificate, and after it those in `chain`.
pub(crate) fn acceptor(certificate: &X509, key: &PKey<Private>, chain: &[&X509]) -> SslAcceptorBuilder {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    builder.set_certificate(certificate).unwrap();
    builder.set_private_key(key).unwrap();
    for link in chain {
        builder.add_extra_chain_cert((*link).clone()).unwrap();
    }
    speaks(&mut builder, BOTH);
    builder
}

pub(crate) fn speaks(builder: &mut SslAcceptorBuilder, protocols: &'static [u8]) {
    builder.set_alpn_select_callback(move |_, offered| {
        select_next_proto(protocols, offered).ok_or(AlpnError::NOACK)
    });
}

/// A handshake as the server; `None` if it fails.
pub(crate) async fn accept(acceptor: &SslAcceptor, stream: TcpStream) -> Option<SslStream<TcpStream>> {
    let mut stream = SslStream::new(Ssl::new(acceptor.context()).unwrap(), stream).unwrap();
    Pin::new(&mut stream).accept().await.ok().map(|()| stream)
}

impl TlsServer {
    /// Answers each request with the number of its connection, from 1.
    pub(crate) async fn start(acceptor: SslAcceptorBuilder) -> TlsServer {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, record) = watch::channel(Record::default());
        let acceptor = Arc::new(Mutex::new(acceptor.build()));
        let (sender, current) = (Arc::new(sender), acceptor.clone());
        let accepting = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                sender.send_modify(|record| record.connections += 1);
                let acceptor = current.lock().unwrap().clone();
                let sender = sender.clone();
                serving.spawn(async move {
                    serve(stream, &acceptor, &sender).await;
                    sender.send_modify(|record| record.closed += 1);
                });
            }
        });
        TlsServer { address, acceptor, record, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for new connections.
    pub(crate) fn replace(&self, acceptor: SslAcceptorBuilder) {
        *self.acceptor.lock().unwrap() = acceptor.build();
    }

    pub(crate) fn record(&self) -> Record {
        self.record.borrow().clone()
    }

    pub(crate) async fn wait_for(&self, what: &str, reached: impl FnMut(&Record) -> bool) {
        let mut record = self.record.clone();
        let waited = tokio::time::timeout(DEADLINE, record.wait_for(reached)).await;
        assert!(waited.is_ok(), "{what}: not within {DEADLINE:?}: {:?}", self.record());
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, acceptor: &SslAcceptor, sender: &Arc<watch::Sender<Record>>) {
    let Some(stream) = accept(acceptor, stream).await else { return };
    let client = stream.ssl().peer_certificate();
    let client = client.map(|shown| shown.digest(openssl::hash::MessageDigest::sha256()).unwrap().to_vec());
    let mut number = 0;
    sender.send_modify(|record| {
        record.handshakes += 1;
        number = record.handshakes;
        record.clients.extend(client);
    });
    let answer = |request: Request<Incoming>| {
        let host = match request.uri().authority() {
            Some(authority) => authority.to_string(),
            None => request.headers()["host"].to_str().unwrap().to_owned(),
        };
        let line = format!("{:?} {} {host} {}", request.version(), request.method(), request.uri().path());
        sender.send_modify(|record| record.requests.push(line));
        async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(number.to_string())))) }
    };
    let io = TokioIo::new(stream);
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(io, service_fn(answer)).await;
}
