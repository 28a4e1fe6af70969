//! What any bytes must do to the readers of this room; see `crate::fuzzing`.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Uri, Version};
use pingora_http::ResponseHeader;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

pub(crate) use super::http1::fuzzing::request_head;
use super::{
    BodyLength, Inbound, Port, Server, Session, Socket, Tunnel, WebSocketFrames,
    connection::Ends,
    listener::workers::Workers,
    lock,
    proxy_protocol::{self, Header, Told},
    serve::serve,
    sniff::client_hello::{Assembly, Flaw, Hello},
    websocket::ends_in_close,
};
use crate::{error::Reason, observe::Recorder, resources::Resources, snapshot::Listener};

/// A PROXY header ends where it says, whatever follows, and what it tells can be told again.
pub(crate) fn proxy_header(bytes: &[u8]) {
    match proxy_protocol::parse(bytes) {
        Ok(None) => assert!(bytes.len() < proxy_protocol::LONGEST, "waits for more than there may be"),
        Ok(Some(header)) => whole_proxy_header(bytes, header),
        Err(flaw) => {
            let longer = [bytes, b"\r\n"].concat();
            assert_eq!(
                proxy_protocol::parse(&longer),
                Err(flaw),
                "more bytes make it a header, or another flaw"
            );
        }
    }
}

fn whole_proxy_header(bytes: &[u8], header: Header) {
    assert!(header.length <= bytes.len().min(proxy_protocol::LONGEST));
    for end in 0..header.length {
        assert_eq!(proxy_protocol::parse(&bytes[..end]), Ok(None), "{end} of {}", header.length);
    }
    let alone = &bytes[..header.length];
    assert_eq!(proxy_protocol::parse(alone), Ok(Some(header)));
    if let Some(Told { client, local }) = header.told {
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (client.port(), local.port());
        let line = format!("PROXY {family} {} {} {from} {to}\r\n", client.ip(), local.ip());
        let again = proxy_protocol::parse(line.as_bytes()).ok().flatten();
        assert_eq!(again.and_then(|again| again.told), header.told, "{line}");
    }
}

/// A ClientHello says the same however its bytes come, and so does another that says what was understood.
pub(crate) fn client_hello(bytes: &[u8]) {
    let mut assembly = Assembly::default();
    let whole = assembly.read(bytes);
    for size in [1, 5, 100] {
        assert_eq!(assembled(bytes, size), whole, "in parts of {size}");
    }
    let Ok(Some(hello)) = whole else { return };
    let print = assembly.fingerprint().expect("whoever can be served has one");
    assert!(print.is_ascii() && print.len() == 36, "{print}");
    let Hello { server_name, protocols } = &hello;
    if let Some(name) = server_name {
        assert!(
            (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()),
            "{name:?}"
        );
        assert_eq!(*name, name.to_ascii_lowercase());
    }
    assert!(protocols.iter().map(Vec::len).sum::<usize>() <= bytes.len());
    assert!(protocols.iter().all(|protocol| !protocol.is_empty()));
    let again = Assembly::default().read(&record(&hello));
    // A name that ends with two dots loses one each time.
    if !server_name.as_ref().is_some_and(|name| name.ends_with('.')) {
        assert_eq!(again, Ok(Some(hello)));
    }
}

fn assembled(bytes: &[u8], size: usize) -> Result<Option<Hello>, Flaw> {
    let mut assembly = Assembly::default();
    let mut end = 0;
    while end < bytes.len() {
        end = bytes.len().min(end + size);
        match assembly.read(&bytes[..end]) {
            Ok(None) => {}
            decided => return decided,
        }
    }
    assembly.read(bytes)
}

/// The shortest ClientHello that says this.
fn record(hello: &Hello) -> Vec<u8> {
    let vector = |content: &[u8]| [&(content.len() as u16).to_be_bytes(), content].concat();
    let mut extensions = Vec::new();
    if let Some(name) = &hello.server_name {
        let entry = [&[0][..], &vector(name.as_bytes())].concat();
        extensions.extend([&[0, 0][..], &vector(&vector(&entry))].concat());
    }
    if !hello.protocols.is_empty() {
        let list = hello.protocols.iter().flat_map(|name| [&[name.len() as u8][..], name].concat());
        extensions.extend([&[0, 16][..], &vector(&vector(&list.collect::<Vec<u8>>()))].concat());
    }
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &vector(&extensions)].concat();
    let message = [&[1, 0][..], &vector(&body)].concat();
    // As many records as it takes.
    message.chunks(16_000).flat_map(|part| [&[22, 3, 1][..], &vector(part)].concat()).collect()
}

/// Where frames end does not depend on how they come, and a frame of ours goes only between two.
pub(crate) fn websocket(bytes: &[u8]) {
    let followed = |size: usize| {
        let mut frames = WebSocketFrames::default();
        frames.follow(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
        bytes.chunks(size.max(1)).for_each(|part| frames.follow(part));
        frames.is_between_frames()
    };
    let whole = followed(bytes.len());
    assert_eq!(whole, is_between_frames(bytes), "another reader finds another end");
    assert!([1, 2, 33].into_iter().all(|size| followed(size) == whole), "frames depend on the cut");
    ends_in_close(bytes);
}

/// RFC 6455, section 5.2, read once more, all at once.
fn is_between_frames(mut bytes: &[u8]) -> bool {
    let mut is_closed = false;
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match (second & 0x7f, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
            }
            (126 | 127, _) => return false,
            (short, rest) => (u64::from(short), rest),
        };
        is_closed |= first & 0x0f == 8;
        let with_mask = length.saturating_add(if second & 0x80 == 0 { 0 } else { 4 });
        let Some(behind) = usize::try_from(with_mask).ok().and_then(|length| rest.get(length..)) else {
            return false;
        };
        bytes = behind;
    }
    bytes.is_empty() && !is_closed
}

/// Where connections come in that nobody has listened for.
pub(crate) struct Door {
    port: Arc<Port>,
    workers: Workers,
}

/// What the proxy would have got to see of a request.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Result<Option<HeaderMap>, Reason>,
}

/// Reads every request to its end and answers it.
#[derive(Default)]
struct Reader(Mutex<Vec<Request>>);

/// Nothing is to be carried here.
struct Nobody;

impl Door {
    pub(crate) fn new(listener: Arc<Listener>, handles: (Arc<Recorder>, Arc<Resources>)) -> Door {
        let here = tokio::runtime::Handle::current();
        Door { port: Arc::new(Port::new(listener, None, handles)), workers: Workers::new(here, []) }
    }

    /// Send these bytes in parts of `size`, and say nothing more. The requests that they were, once nothing is left of the
    /// connection.
    pub(crate) async fn visit(&self, bytes: &[u8], size: usize) -> Vec<Request> {
        let (mut client, socket) = UnixStream::pair().expect("there are descriptors left");
        let reader = Arc::new(Reader::default());
        let ends = "192.0.2.1:1".parse().expect("an address");
        let place = self.port.admit(self.workers.least_busy().1).expect("there is room");
        let connection = place.open(Ends { peer: ends, local: ends }).expect("there is room");
        let served =
            serve(reader.clone(), Arc::new(Nobody), Socket::Unix(socket), connection, BytesMut::new());
        let served = tokio::spawn(served);
        let (mut answers, mut requests) = client.split();
        let send = async {
            for part in bytes.chunks(size.max(1)) {
                // Refused on the way, the rest is heard by nobody.
                if requests.write_all(part).await.is_err() {
                    break;
                }
                // What is there is read before more comes, mostly.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            let _ = requests.shutdown().await;
        };
        let mut sink = Vec::new();
        let (_, _) = tokio::join!(send, answers.read_to_end(&mut sink));
        drop(client);
        served.await.expect("no bytes make it panic");
        while self.port.connections() > 0 {
            tokio::task::yield_now().await;
        }
        std::mem::take(&mut *lock(&reader.0))
    }
}

impl Server for Reader {
    fn serve<'s>(&'s self, session: &'s mut Session) -> BoxFuture<'s, ()> {
        Box::pin(async move {
            let mut body = Vec::new();
            let trailers = loop {
                match poll_fn(|cx| session.poll_body(cx)).await {
                    Ok(Some(part)) => body.extend_from_slice(&part),
                    Ok(None) => break poll_fn(|cx| session.poll_trailers(cx)).await,
                    Err(reason) => break Err(reason),
                }
            };
            let is_whole = trailers.is_ok();
            let request = session.request();
            lock(&self.0).push(Request {
                method: request.method.clone(),
                uri: request.uri.clone(),
                version: request.version,
                headers: request.headers.clone(),
                body,
                trailers,
            });
            if is_whole {
                // Whoever is gone needs no answer.
                let _ = answer(session).await;
            }
        })
    }
}

async fn answer(session: &mut Session) -> Result<(), Reason> {
    let header = ResponseHeader::build(200, None).map_err(|_| Reason::Internal)?;
    session.respond(Box::new(header), BodyLength::Known(2))?;
    session.write(Bytes::from_static(b"ok"), true)?;
    poll_fn(|cx| session.poll_flush(cx)).await
}

impl Tunnel for Nobody {
    fn carry(self: Arc<Self>, _: Inbound) -> BoxFuture<'static, ()> {
        Box::pin(async { panic!("plain HTTP is not carried") })
    }
}
