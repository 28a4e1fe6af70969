//! A gRPC server that fails, waits and resets on the word of the call's path, and messages of gRPC by hand.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{http2::rest, within_deadline};

/// A message that is not compressed.
pub(crate) fn message(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[0][..], &length, text].concat()
}

/// A call of `path` by a client that knows how.
pub(crate) fn call(path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://a{path}"));
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(fields) {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// Answers by path:
///
/// | `/echo` | the request's body, status 0 |
/// | `/only/N` | nothing but the status N |
/// | `/late/N` | a header, a message, and the status N in trailers |
/// | `/reset/N` | the stream is reset with the code N of HTTP/2 |
/// | `/broken/N` | a header, a message, and then that |
/// | `/cut` | a header, a message, and the end, without trailers |
/// | `/silent` | nothing |
/// | `/mute` | a header, and nothing more |
/// | `/refused` | REFUSED_STREAM, the first time; then as `/echo` |
pub(crate) struct GrpcServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<HeaderMap>>,
    connections: AtomicUsize,
    firsts: AtomicUsize,
    cancelled: watch::Sender<usize>,
    begun: watch::Sender<usize>,
}

impl GrpcServer {
    pub(crate) async fn start() -> GrpcServer {
        Self::with(100, false).await
    }

    /// Takes leave of its first connection as soon as it has a call, which it does not look at (GOAWAY, RFC 9113, section
    /// 6.8).
    pub(crate) async fn leaving() -> GrpcServer {
        Self::with(100, true).await
    }

    /// With so many streams on a connection at once.
    pub(crate) async fn with_streams(streams: u32) -> GrpcServer {
        Self::with(streams, false).await
    }

    async fn with(streams: u32, leaves: bool) -> GrpcServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let serving = tokio::spawn({
            let shared = shared.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    if shared.connections.fetch_add(1, SeqCst) == 0 && leaves {
                        connections.spawn(leave(stream));
                        continue;
                    }
                    let shared = shared.clone();
                    connections.spawn(async move {
                        let mut settings = Builder::new();
                        settings.max_concurrent_streams(streams);
                        let Ok(mut connection) = settings.handshake::<_, Bytes>(stream).await else { return };
                        let mut calls = JoinSet::new();
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            calls.spawn(answer(shared.clone(), request, respond));
                        }
                    });
                }
            }
        });
        GrpcServer { address, shared, serving }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// The headers of all calls.
    pub(crate) fn seen(&self) -> Vec<HeaderMap> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub(crate) async fn wait_for_calls(&self, count: usize) {
        let mut begun = self.shared.begun.subscribe();
        within_deadline("calls", begun.wait_for(|begun| *begun >= count)).await.unwrap();
    }

    /// How many silent calls were cancelled so far.
    pub(crate) fn cancelled(&self) -> usize {
        *self.shared.cancelled.borrow()
    }

    /// Waits until so many silent calls were cancelled.
    pub(crate) async fn wait_for_cancelled(&self, count: usize) {
        let mut cancelled = self.shared.cancelled.subscribe();
        within_deadline("cancelled calls", cancelled.wait_for(|cancelled| *cancelled >= count))
            .await
            .unwrap();
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn is_first(&self) -> bool {
        self.firsts.fetch_add(1, SeqCst) == 0
    }
}

/// By hand: a library would have looked at the call.
async fn leave(mut stream: TcpStream) {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // No stream up to 0 was looked at, and there was no error.
    let goaway = [[0, 0, 8, 7, 0, 0, 0, 0, 0].as_slice(), &[0; 8]].concat();
    let mut preface = [0; PREFACE];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&settings).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    stream.write_all(&goaway).await.unwrap();
    // Until the other side has left, too.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

async fn answer(shared: Arc<Shared>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    shared.seen.lock().unwrap().push(request.headers().clone());
    shared.begun.send_modify(|begun| *begun += 1);
    let path = request.uri().path().to_owned();
    let (kind, number) = path[1..].split_once('/').unwrap_or((&path[1..], "0"));
    let header = || Response::builder().header("content-type", "application/grpc");
    let begin = |respond: &mut SendResponse<Bytes>| respond.send_response(header().body(()).unwrap(), false);
    match kind {
        "only" => {
            let only = header().header("grpc-status", number).header("grpc-message", "as it was told");
            let _ = respond.send_response(only.body(()).unwrap(), true);
        }
        "reset" => respond.send_reset(number.parse::<u32>().unwrap().into()),
        "refused" if shared.is_first() => respond.send_reset(h2::Reason::REFUSED_STREAM),
        "silent" => {
            let _ = poll_fn(|cx| respond.poll_reset(cx)).await;
            shared.cancelled.send_modify(|cancelled| *cancelled += 1);
        }
        "echo" | "refused" => {
            let mut body = begin(&mut respond).unwrap();
            if let Ok((received, _)) = rest(request.into_body()).await {
                send(&mut body, received.into()).await;
                end(&mut body, "0");
            }
        }
        _ => {
            let Ok(mut body) = begin(&mut respond) else {
                // Given up before it was answered.
                return shared.cancelled.send_modify(|cancelled| *cancelled += 1);
            };
            if kind != "mute" {
                send(&mut body, message(b"one").into()).await;
            }
            match kind {
                "late" => end(&mut body, number),
                "cut" => body.send_data(Bytes::new(), true).unwrap(),
                "broken" => {
                    // The message is to arrive first.
                    tokio::task::yield_now().await;
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    body.send_reset(number.parse::<u32>().unwrap().into());
                }
                _ => {
                    let _ = poll_fn(|cx| body.poll_reset(cx)).await;
                    shared.cancelled.send_modify(|cancelled| *cancelled += 1);
                }
            }
        }
    }
}

async fn send(body: &mut SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        body.reserve_capacity(data.len());
        let Some(Ok(room)) = poll_fn(|cx| body.poll_capacity(cx)).await else { return };
        let part = data.split_to(room.min(data.len()));
        if body.send_data(part, false).is_err() {
            return;
        }
    }
}

fn end(body: &mut SendStream<Bytes>, status: &str) {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_str(status).unwrap());
    trailers.insert("grpc-message", HeaderValue::from_static("as it was told"));
    trailers.insert("x-trailing", HeaderValue::from_static("yes"));
    let _ = body.send_trailers(trailers);
}
