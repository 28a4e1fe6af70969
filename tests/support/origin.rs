//! An origin of either version of HTTP that plays one list of deeds, a request after the other, at whichever of its
//! addresses they arrive. So it does not matter where balancing begins.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{grpc::message, http2::rest, within_deadline};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Read whole, and answered with this status.
    Answer(u16),
    /// The same with 200, after a 103.
    Hint,
    /// Its connection (its stream, over HTTP/2) is reset as soon as its head is there.
    Reset,
    /// The same with the end of the connection: to one that was kept, this is how it turns out to be stale.
    Close,
    /// REFUSED_STREAM.
    Refuse,
    /// Nothing comes, until the gateway gives it up.
    Hold,
    /// A thousand interim answers.
    Hints,
    /// An answer whose header has this many bytes.
    Header(usize),
    /// One with so many fields.
    Fields(usize),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// As over HTTP/1: what stood in `:authority` is in `host`.
    pub fields: HeaderMap,
    /// None where it was not read to its end.
    pub body: Option<Vec<u8>>,
    pub trailers: HeaderMap,
}

impl Seen {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(crate) struct Origin {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    serving: Vec<JoinHandle<()>>,
}

struct Shared {
    deeds: Vec<Deed>,
    seen: Mutex<Vec<Seen>>,
    heads: watch::Sender<usize>,
    whole: watch::Sender<usize>,
    connections: AtomicUsize,
}

impl Origin {
    /// The last of `deeds` is done to all requests from there on.
    pub(crate) async fn start(addresses: usize, deeds: &[Deed]) -> Origin {
        let shared = Arc::new(Shared {
            deeds: deeds.to_vec(),
            seen: Mutex::default(),
            heads: watch::Sender::new(0),
            whole: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
        });
        let mut origin = Origin { addresses: Vec::new(), shared, serving: Vec::new() };
        for _ in 0..addresses {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            origin.addresses.push(listener.local_addr().unwrap());
            origin.serving.push(tokio::spawn(accept(listener, origin.shared.clone())));
        }
        origin
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How many connections have been accepted.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// All requests so far, in the order of their heads.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits until there are so many.
    pub(crate) async fn wait_for_heads(&self, count: usize) {
        let mut heads = self.shared.heads.subscribe();
        within_deadline("requests", heads.wait_for(|heads| *heads >= count)).await.unwrap();
    }

    /// Waits until so many have been read to their ends.
    pub(crate) async fn wait_for_whole(&self, count: usize) {
        let mut whole = self.shared.whole.subscribe();
        within_deadline("whole requests", whole.wait_for(|whole| *whole >= count)).await.unwrap();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    /// The number of a request whose head is there, and what is to become of it.
    fn begin(&self, fields: HeaderMap) -> (usize, Deed) {
        let mut seen = self.seen.lock().unwrap();
        let number = seen.len();
        seen.push(Seen { fields, ..Seen::default() });
        self.heads.send_replace(seen.len());
        (number, self.deeds[number.min(self.deeds.len() - 1)])
    }

    fn whole(&self, number: usize, body: Vec<u8>, trailers: HeaderMap) {
        let seen = &mut self.seen.lock().unwrap()[number];
        (seen.body, seen.trailers) = (Some(body), trailers);
        self.whole.send_modify(|whole| *whole += 1);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        shared.connections.fetch_add(1, SeqCst);
        let shared = shared.clone();
        connections.spawn(async move {
            let mut first = [0; 3];
            while let 1..3 = stream.peek(&mut first).await.unwrap_or(0) {}
            match &first {
                b"PRI" => serve_http2(stream, shared).await,
                _ => _ = Http1 { stream, buffer: Vec::new() }.serve(&shared).await,
            }
        });
    }
}

struct Http1 {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http1 {
    /// Until the gateway closes, or a deed ends it.
    async fn serve(mut self, shared: &Shared) -> Option<()> {
        loop {
            let mut fields = HeaderMap::new();
            let request = self.line().await?;
            assert!(request.ends_with(" HTTP/1.1"), "no request: {request}");
            self.fields(&mut fields).await?;
            let (number, deed) = shared.begin(fields.clone());
            match deed {
                Deed::Reset => return self.stream.set_zero_linger().ok(),
                Deed::Close => return None,
                Deed::Hold => loop {
                    self.receive().await?;
                },
                Deed::Refuse => panic!("HTTP/1 has no way to refuse a request unread"),
                Deed::Hints | Deed::Header(_) | Deed::Fields(_) => {}
                Deed::Answer(_) | Deed::Hint => {}
            }
            let mut trailers = HeaderMap::new();
            let body = self.body(&fields, &mut trailers).await?;
            shared.whole(number, body, trailers);
            if let Some(excess) = excess(deed) {
                self.write(&excess).await?;
                // To close now could reset what is still on its way.
                loop {
                    self.receive().await?;
                }
            }
            if deed == Deed::Hint {
                self.write("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n").await?;
            }
            let status = if let Deed::Answer(status) = deed { status } else { 200 };
            let text = text(status);
            self.write(&format!(
                "HTTP/1.1 {status} So\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\nx-end: 1\r\n\
                 content-length: {}\r\n\r\n{text}",
                text.len()
            ))
            .await?;
        }
    }

    async fn fields(&mut self, into: &mut HeaderMap) -> Option<()> {
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(());
            }
            let (name, value) = line.split_once(':').unwrap();
            into.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value.trim()).unwrap(),
            );
        }
    }

    async fn body(&mut self, fields: &HeaderMap, trailers: &mut HeaderMap) -> Option<Vec<u8>> {
        if !fields.contains_key("transfer-encoding") {
            let length = fields.get("content-length");
            return self.take(length.map_or(0, |length| length.to_str().unwrap().parse().unwrap())).await;
        }
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
            body.extend(self.take(size).await?);
            if size == 0 {
                self.fields(trailers).await?;
                return Some(body);
            }
            assert_eq!(self.line().await?, "", "the end of a chunk");
        }
    }

    /// Without its end.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).take(at).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            self.receive().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            self.receive().await?;
        }
        Some(self.buffer.drain(..length).collect())
    }

    async fn write(&mut self, text: &str) -> Option<()> {
        self.stream.write_all(text.as_bytes()).await.ok()
    }

    /// None when the gateway has closed.
    async fn receive(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.buffer).await.unwrap_or(0);
        (read > 0).then_some(())
    }
}

/// What is too much, over HTTP/1.
fn excess(deed: Deed) -> Option<String> {
    let fields = match deed {
        Deed::Hints => return Some("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000)),
        Deed::Header(size) => format!("x: {}\r\n", "y".repeat(size)),
        Deed::Fields(count) => "x: y\r\n".repeat(count),
        _ => return None,
    };
    Some(format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n"))
}

async fn serve_http2(stream: TcpStream, shared: Arc<Shared>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (head, body) = request.into_parts();
        let mut fields = head.headers;
        if let Some(authority) = head.uri.authority() {
            fields.insert("host", HeaderValue::from_str(authority.as_str()).unwrap());
        }
        let is_call = fields.get("content-type").is_some_and(|kind| kind == "application/grpc");
        let (number, deed) = shared.begin(fields);
        if deed == Deed::Close {
            return;
        }
        calls.spawn(serve_stream(number, deed, is_call, body, respond, shared.clone()));
    }
}

/// None where there is no answer.
async fn serve_stream(
    number: usize,
    deed: Deed,
    is_call: bool,
    body: RecvStream,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
) -> Option<()> {
    match deed {
        Deed::Reset | Deed::Close => {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            return None;
        }
        Deed::Refuse => {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            return None;
        }
        Deed::Hold => {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            return None;
        }
        Deed::Hints | Deed::Header(_) | Deed::Fields(_) => {}
        Deed::Answer(_) | Deed::Hint => {}
    }
    let (received, trailers) = rest(body).await.ok()?;
    shared.whole(number, received, trailers.unwrap_or_default());
    match deed {
        Deed::Hints => {
            for _ in 0..1000 {
                let hint = Response::builder().status(StatusCode::EARLY_HINTS).body(()).unwrap();
                respond.send_informational(hint).ok()?;
            }
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            return None;
        }
        Deed::Header(size) => {
            let answer = Response::builder().header("x", "y".repeat(size)).body(()).unwrap();
            return respond.send_response(answer, true).map(drop).ok();
        }
        Deed::Fields(count) => {
            let mut answer = Response::new(());
            (0..count).for_each(|_| _ = answer.headers_mut().append("x", HeaderValue::from_static("y")));
            return respond.send_response(answer, true).map(drop).ok();
        }
        _ => {}
    }
    if deed == Deed::Hint {
        let hint = Response::builder().status(StatusCode::EARLY_HINTS).header("link", "</a.css>");
        respond.send_informational(hint.body(()).unwrap()).ok()?;
    }
    let status = if let Deed::Answer(status) = deed { status } else { 200 };
    let header = Response::builder().status(status).header("x-end", "1");
    if !is_call || status != 200 {
        let mut body = respond.send_response(header.body(()).unwrap(), false).ok()?;
        return body.send_data(text(status).into(), true).ok();
    }
    let header = header.header("content-type", "application/grpc");
    let mut body = respond.send_response(header.body(()).unwrap(), false).ok()?;
    body.send_data(message(text(status).as_bytes()).into(), false).ok()?;
    let status = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
    body.send_trailers([status].into_iter().collect()).ok()
}

pub(crate) fn text(status: u16) -> String {
    format!("origin says {status}")
}
