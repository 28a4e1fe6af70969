//! `tidegate backend`: something to put behind the gateway, for trying things out and for the tests.
//! HTTP/1.1 (with WebSocket) and HTTP/2 without TLS share one port. Every endpoint makes one behaviour of an
//! upstream easy to provoke: slow, failing, panicking, streaming, unhealthy. It binds loopback unless told
//! otherwise, holds nothing but a health flag and a counter, and is not meant to serve anybody.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use http::header::{ALLOW, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

mod websocket;

const MAX_PAUSE: Duration = Duration::from_secs(60);
const MAX_CHUNKS: u64 = 10_000;
const MAX_BYTES: u64 = 1 << 30;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

const PATHS: &str = "\
Paths:
  /                       its name and address
  /delay/250ms            an answer after that time
  /delay/5ms/400ms/50     after the first time, each 50th request after the second
  /status/503             that status
  /bytes/1MiB             so many bytes, with a length or by ?chunked=1
  /drip/5/100ms           five pieces with a pause before each
  /echo  /headers  /ws    the body, the head, a WebSocket that says the same again
  /health                 200, or 503 after POST /health/fail and until POST /health/ok
  /count                  how many requests have come, health checks and this apart
  /panic                  a connection that breaks
  anything else           its name and address, and what was asked for";

#[derive(Debug, clap::Args)]
#[command(after_help = PATHS)]
pub(crate) struct BackendArgs {
    /// Where to listen, may be repeated; `:3000` is loopback, port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS", default_value = ":3000", value_parser = listen_address)]
    listen: Vec<String>,

    /// What the backend calls itself in `/` and in `x-backend` [default: its address]
    #[arg(long)]
    name: Option<String>,
}

/// Serves until SIGTERM or SIGINT, then finishes the requests in flight; a second signal does not wait for them.
///
/// Prints `backend listening on ADDRESS` for each address once all of them are bound.
///
/// # Errors
/// When an address cannot be bound, or `--name` cannot be written into a header.
pub(crate) async fn run(args: BackendArgs) -> io::Result<()> {
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let (stop, stopping) = watch::channel(());

    let mut listeners = Vec::new();
    for address in &args.listen {
        listeners.push(TcpListener::bind(address).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error} (try `--listen :0`)"))
        })?);
    }
    let mut servers = Vec::new();
    for listener in listeners {
        let address = listener.local_addr()?;
        writeln!(io::stdout(), "backend listening on {address}")?;
        let name = args.name.clone().unwrap_or_else(|| address.to_string());
        let mut stopping = stopping.clone();
        servers.push(serve(listener, name, async move { drop(stopping.changed().await) }));
    }

    let mut finished = pin!(futures::future::try_join_all(servers));
    tokio::select! {
        ended = &mut finished => return ended.map(drop),
        () = any(&mut signals) => drop(stop),
    }
    tokio::select! {
        ended = &mut finished => ended.map(drop),
        () = any(&mut signals) => Ok(()),
    }
}

/// Serves the test endpoints on `listener` until `shutdown` resolves, then stops accepting and returns when the
/// last request in flight is answered. An open WebSocket is not waited for.
///
/// # Errors
/// When `name` cannot be written into a header.
async fn serve(listener: TcpListener, name: String, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let backend = Arc::new(Backend::new(&name, listener.local_addr()?)?);
    let server = auto::Builder::new(TokioExecutor::new());
    let connections = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Mostly "too many open files": accepting again at once would only spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        // Without it a small answer may wait for the peer's delayed ACK; with an error it is merely slower.
        let _ = stream.set_nodelay(true);
        let backend = Arc::clone(&backend);
        let service = service_fn(move |request| Arc::clone(&backend).handle(request));
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        tokio::spawn(connections.watch(connection));
    }
    drop(listener);
    connections.shutdown().await;
    Ok(())
}

struct Backend {
    name: HeaderValue,
    greeting: String,
    healthy: AtomicBool,
    served: AtomicU64,
}

impl Backend {
    fn new(name: &str, address: SocketAddr) -> io::Result<Self> {
        let header = HeaderValue::from_str(name).map_err(|_| {
            let problem = "--name cannot be written into a header (use visible ASCII characters)";
            io::Error::new(io::ErrorKind::InvalidInput, problem)
        })?;
        let greeting = format!("hello from {name} ({address})\n");
        Ok(Self { name: header, greeting, healthy: AtomicBool::new(true), served: AtomicU64::new(0) })
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let mut response = self.answer(request).await;
        response.headers_mut().insert("x-backend", self.name.clone());
        Ok(response)
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let uri = request.uri().clone();
        let path: Vec<&str> = uri.path().split('/').skip(1).collect();
        // Neither probes nor the question itself are counted: tests compare this with what they sent.
        let counted = !matches!(path[..], ["count"] | ["health", ..] | ["grpc.health.v1.Health", ..]);
        let number = if counted { self.served.fetch_add(1, Relaxed) + 1 } else { 0 };
        match path[..] {
            ["echo"] => return echo(request),
            ["ws"] => return websocket::accept(&mut request).unwrap_or_else(handshake_needed),
            _ => {}
        }
        // An unread body would make hyper close the connection, which looks like a failing upstream.
        while let Some(Ok(_)) = request.body_mut().frame().await {}

        match path[..] {
            [""] => text(StatusCode::OK, self.greeting.clone()),
            ["health"] if self.healthy.load(Relaxed) => text(StatusCode::OK, "ok"),
            ["health"] => text(StatusCode::SERVICE_UNAVAILABLE, "failing"),
            ["health", state @ ("ok" | "fail")] => self.set_health(request.method(), state == "ok"),
            ["grpc.health.v1.Health", "Check"] => self.grpc_health(),
            ["count"] => text(StatusCode::OK, self.served.load(Relaxed).to_string()),
            ["panic"] => panic!("/panic was asked for"),
            ["headers"] => headers(&request),
            ["delay", pause] => delay(pause).await,
            ["delay", usual, stall, every] => match stalls(number, every) {
                Some(stalls) => delay(if stalls { stall } else { usual }).await,
                None => text(StatusCode::BAD_REQUEST, "not a number from 1 (try /delay/5ms/400ms/50)"),
            },
            ["status", code] => status(code),
            ["bytes", size] => some_bytes(size, uri.query() == Some("chunked=1")),
            ["drip", chunks, pause] => drip(chunks, pause),
            // Whatever a first configuration routes or rewrites here is answered, with what came of it.
            _ => text(StatusCode::OK, format!("{}{} {uri}\n", self.greeting, request.method())),
        }
    }

    fn set_health(&self, method: &Method, healthy: bool) -> Response<Body> {
        if method != Method::POST {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "use POST");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        self.healthy.store(healthy, Relaxed);
        text(StatusCode::OK, if healthy { "ok" } else { "failing" })
    }

    /// `grpc.health.v1.Health/Check` for whatever service is named: one length-prefixed
    /// `HealthCheckResponse`, field 1 being SERVING (1) or NOT_SERVING (2), then the status as a trailer.
    fn grpc_health(&self) -> Response<Body> {
        let serving = if self.healthy.load(Relaxed) { 1 } else { 2 };
        let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 0x08, serving]);
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        let body = Full::new(message).with_trailers(async { Some(Ok(trailers)) });
        answer_with("application/grpc", body.map_err(|never| match never {}).boxed_unsync())
    }
}

fn echo(request: Request<Incoming>) -> Response<Body> {
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    let mut response = Response::new(request.into_body().boxed_unsync());
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

/// What arrived, for tests of what is forwarded. Names are in lower case; a repeated one stands at its first place.
fn headers(request: &Request<Incoming>) -> Response<Body> {
    let headers: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let seen = serde_json::json!({
        "method": request.method().as_str(),
        "path": request.uri().path_and_query().map(|path| path.as_str()),
        "authority": request.uri().authority().map(|authority| authority.as_str()),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    });
    answer_with("application/json", full(seen.to_string()))
}

async fn delay(pause: &str) -> Response<Body> {
    let Ok(pause) = humantime::parse_duration(pause) else {
        return text(StatusCode::BAD_REQUEST, "not a duration (try /delay/250ms)");
    };
    let pause = pause.min(MAX_PAUSE);
    tokio::time::sleep(pause).await;
    text(StatusCode::OK, format!("waited {}", humantime::format_duration(pause)))
}

/// Whether the `number`th request is one of those that take long: each `every`th, so that all runs are alike.
fn stalls(number: u64, every: &str) -> Option<bool> {
    let every = every.parse::<NonZeroU64>().ok()?;
    Some(number.is_multiple_of(every.get()))
}

fn status(code: &str) -> Response<Body> {
    // 1xx are not final answers: hyper refuses to send one as such.
    match code.parse().ok().filter(|code| (200..=999).contains(code)).map(StatusCode::from_u16) {
        Some(Ok(code)) => text(code, code.to_string()),
        _ => text(StatusCode::BAD_REQUEST, "not a status between 200 and 999 (try /status/503)"),
    }
}

fn some_bytes(size: &str, chunked: bool) -> Response<Body> {
    let Ok(size) = size.parse::<ByteSize>() else {
        return text(StatusCode::BAD_REQUEST, "not a size (try /bytes/1MiB)");
    };
    let body = Zeros { left: size.as_u64().min(MAX_BYTES), chunked };
    answer_with("application/octet-stream", body.boxed_unsync())
}

fn drip(chunks: &str, pause: &str) -> Response<Body> {
    let (Ok(chunks), Ok(pause)) = (chunks.parse::<u64>(), humantime::parse_duration(pause)) else {
        return text(StatusCode::BAD_REQUEST, "not a number and a duration (try /drip/5/100ms)");
    };
    let (chunks, pause) = (chunks.min(MAX_CHUNKS), pause.min(MAX_PAUSE));
    let stream = futures::stream::unfold(1, move |next| async move {
        if next > chunks {
            return None;
        }
        tokio::time::sleep(pause).await;
        Some((Ok(Frame::data(Bytes::from(format!("drip {next}\n")))), next + 1))
    });
    answer_with("text/plain", StreamBody::new(stream).boxed_unsync())
}

fn handshake_needed() -> Response<Body> {
    let mut response = text(StatusCode::UPGRADE_REQUIRED, "a WebSocket handshake is needed here");
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = answer_with("text/plain; charset=utf-8", full(body));
    *response.status_mut() = status;
    response
}

fn answer_with(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body made while it is sent: a gibibyte costs no memory.
struct Zeros {
    left: u64,
    chunked: bool,
}

impl hyper::body::Body for Zeros {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        static BLOCK: [u8; 64 * 1024] = [0; 64 * 1024];
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let length = self.left.min(BLOCK.len() as u64);
        self.left -= length;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&BLOCK[..length as usize])))))
    }

    /// An exact size becomes `content-length`, an unknown one `transfer-encoding: chunked`.
    fn size_hint(&self) -> SizeHint {
        if self.chunked { SizeHint::default() } else { SizeHint::with_exact(self.left) }
    }
}

async fn any([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// `:3000` is loopback: a test backend is not opened to the network by forgetting a host.
fn listen_address(written: &str) -> Result<String, String> {
    match written.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => {
            Ok(if host.is_empty() { format!("127.0.0.1:{port}") } else { written.to_owned() })
        }
        _ => Err("not an address with a port (try `:3000` or `127.0.0.1:3000`)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_port_is_loopback_and_an_explicit_address_is_taken_as_is() {
        assert_eq!(listen_address(":3000").unwrap(), "127.0.0.1:3000");
        assert_eq!(listen_address("0.0.0.0:80").unwrap(), "0.0.0.0:80");
        assert_eq!(listen_address("[::1]:0").unwrap(), "[::1]:0");
        assert_eq!(listen_address("localhost:3000").unwrap(), "localhost:3000");
        for wrong in ["3000", "", "127.0.0.1", ":70000", "a:b"] {
            assert!(listen_address(wrong).unwrap_err().contains("try `:3000`"), "{wrong}");
        }
    }

    #[test]
    fn each_so_manieth_request_stalls() {
        let stalled: Vec<u64> = (1..=150).filter(|number| stalls(*number, "50") == Some(true)).collect();
        assert_eq!(stalled, [50, 100, 150]);
        assert_eq!(stalls(1, "1"), Some(true));
        for wrong in ["0", "-1", "2%", ""] {
            assert_eq!(stalls(1, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_name_that_is_no_header_value_is_refused() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        assert!(
            Backend::new("new\nline", address)
                .is_err_and(|error| error.to_string().contains("visible ASCII"))
        );
    }
}
